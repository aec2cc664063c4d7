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
    struct service_settings v6 = {0};
    struct error err = {0};
    load(&v6, rows, n, "home: /h\nbus: 'tcp://[::]:7700'\nadvertise: fd00::7\n");
    if (settings_resolve(&v6, "ingest", &err) < 0) fail_msg("%s", err.message);
    assert_string_equal(v6.advertise, "[fd00::7]");
    config_free(rows, n, &v6);
    static const char *const bad[] = {
        "home: /h\nadvertise: 'fd00::7:x'\n",
        "home: /h\nbus: tcp://0.0.0.0:7700\n", "home: /h\nbus: tcp://*:7700\n", "home: /h\nbus: 'tcp://[::]:7700'\n", "home: /h\nadvertise: 10.0.0.1:7700\n", "home: /h\nadvertise: 'a b'\n",
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

static void advertises(void **state) {
    (void)state;
    static const struct {
        const char *advertise, *address, *told;
    } cases[] = {
        {"", "tcp://127.0.0.1:7700", "tcp://127.0.0.1:7700"},
        {"10.1.2.3", "tcp://0.0.0.0:7700", "tcp://10.1.2.3:7700"},
        {"pod-1.genloop", "0.0.0.0:9090", "pod-1.genloop:9090"},
        {"[fd00::7]", "tcp://[::]:7700", "tcp://[fd00::7]:7700"},
        {"[fd00::7]", "[::]:9090", "[fd00::7]:9090"},
        {"10.1.2.3", "ipc:///h/run/a.bus", "ipc:///h/run/a.bus"},
        {"10.1.2.3", "unix:/h/run/a.sock", "unix:/h/run/a.sock"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[64], advertise[32];
        (void)snprintf(advertise, sizeof advertise, "%s", cases[i].advertise);
        struct service_settings s = {.advertise = advertise};
        assert_int_equal(settings_advertised(&s, cases[i].address, text, sizeof text, NULL), 0);
        assert_string_equal(text, cases[i].told);
        if (cases[i].advertise[0]) assert_int_equal(settings_advertised(&s, "tcp://0.0.0.0:7700", text, 8, NULL), E_INVALID);
    }
}

/* A key from outside makes no file; a broken one says so. */
static void takes_a_key_from_outside(void **state) {
    (void)state;
    char dir[] = "/tmp/genloop-home-XXXXXX", path[128], key[128], *const other = (char *)"abcdef";
    struct bus_keys keys, same, fresh;
    struct error err = {0};
    assert_non_null(mkdtemp(dir));
    struct service_settings s = {.home = dir, .bus_key = key};
    (void)snprintf(key, sizeof key, "%064d\n", 7);
    if (settings_make_home(&s, &keys, &err) < 0) fail_msg("%s", err.message);
    (void)snprintf(path, sizeof path, "%s/keys/bus.key", dir);
    assert_false(file_exists(path));
    assert_int_equal(file_write(path, span_str(key), 0600, NULL), 0); /* the same bytes in the home are the same key */
    s.bus_key = (char *)"";
    assert_int_equal(settings_make_home(&s, &same, &err), 0);
    assert_memory_equal(&keys, &same, sizeof keys);
    assert_int_equal(unlink(path), 0);
    (void)snprintf(path, sizeof path, "%s/keys/bus.pub", dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(settings_make_home(&s, &fresh, &err), 0);
    assert_memory_not_equal(keys.secret_key, fresh.secret_key, sizeof keys.secret_key);
    s.bus_key = other;
    assert_int_equal(settings_make_home(&s, &keys, &err), E_INVALID);
    assert_non_null(strstr(err.message, "bus_key"));
    assert_int_equal(dir_remove(dir, NULL), 0);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(resolves), cmocka_unit_test(advertises), cmocka_unit_test(takes_a_key_from_outside), cmocka_unit_test(makes_a_home)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
