/* The shared settings: what is empty is filled in from the home, and the home is laid out once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "service/settings.h"

static void load(struct service_settings *s, const struct config_row *rows, size_t n, const char *yaml) {
    char path[] = "/tmp/genloop-settings-XXXXXX";
    struct error err = {0};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(file_write(path, span_str(yaml), 0644, NULL), 0);
    if (config_load(path, rows, n, SERVICE_SECTIONS, s, &err) < 0) fail_msg("%s", err.message);
    (void)unlink(path);
}

static void resolves(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *home, *log, *redis, *store, *instance, *bus;
    } cases[] = {
        {"home: /h\n", "/h", "redis+unix:/h/run/log.sock", "unix:/h/run/cache.sock", "file:/h/store", "ingest-1", "ipc:///h/run/ingest-1.bus"},
        {"home: ~/x\ninstance: a-7\n", "/home/me/x", "redis+unix:/home/me/x/run/log.sock", "unix:/home/me/x/run/cache.sock", "file:/home/me/x/store", "a-7", "ipc:///home/me/x/run/a-7.bus"},
        {"home: /h\nlog: kafka://a:1\nredis: redis://r\nstore: file:/s\nbus: tcp://127.0.0.1:*\n", "/h", "kafka://a:1", "redis://r", "file:/s", "ingest-1", "tcp://127.0.0.1:*"},
    };
    size_t n;
    struct config_row *rows = settings_rows(NULL, 0, &n);
    (void)setenv("HOME", "/home/me", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct service_settings s = {0};
        struct error err = {0};
        load(&s, rows, n, cases[i].yaml);
        if (settings_resolve(&s, "ingest", &err) < 0) fail_msg("%s: %s", cases[i].yaml, err.message);
        assert_string_equal(s.home, cases[i].home);
        assert_string_equal(s.log, cases[i].log);
        assert_string_equal(s.redis, cases[i].redis);
        assert_string_equal(s.store, cases[i].store);
        assert_string_equal(s.instance, cases[i].instance);
        assert_string_equal(s.bus, cases[i].bus);
        config_free(rows, n, &s);
    }
    static const char *const bad[] = {
        "home: /h\ninstance: a/b\n", "home: /h\ninstance: ..\n", "home: ''\n",
        "home: /0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct service_settings s = {0};
        load(&s, rows, n, bad[i]);
        if (settings_resolve(&s, "ingest", NULL) != E_INVALID) fail_msg("%s was accepted", bad[i]);
        config_free(rows, n, &s);
    }
    mem_free(rows);
}

static void makes_a_home(void **state) {
    (void)state;
    char dir[] = "/tmp/genloop-home-XXXXXX", home[64], path[128];
    struct service_settings s = {.home = home};
    struct bus_keys keys, again;
    struct error err = {0};
    struct stat st;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(home, sizeof home, "%s/home", dir);
    if (settings_make_home(&s, &keys, &err) < 0) fail_msg("%s", err.message);
    assert_int_equal(settings_make_home(&s, &again, &err), 0);
    assert_memory_equal(&keys, &again, sizeof keys);
    (void)snprintf(path, sizeof path, "%s/run", home);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    (void)snprintf(path, sizeof path, "%s/format", home);
    assert_int_equal(file_write(path, SPAN("2\n"), 0644, NULL), 0);
    assert_int_equal(settings_make_home(&s, &again, &err), E_UNSUPPORTED);
    assert_int_equal(dir_remove(dir, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(resolves), cmocka_unit_test(makes_a_home)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
