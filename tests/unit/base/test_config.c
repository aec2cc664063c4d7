#include "test.h"

#include <unistd.h>

#include "base/config.h"
#include "base/file.h"

struct settings {
    char *log, *listen, *token;
    int64_t workers, timeout_ms, body_max;
    double ratio;
    bool tls;
};

static const struct config_row rows[] = {
    {"", "log", CONFIG_STRING, offsetof(struct settings, log), "embedded", 0, 0, "Where topics are."},
    {"gateway", "listen", CONFIG_STRING, offsetof(struct settings, listen), "127.0.0.1:8080", 0, 0, "Address and port."},
    {"gateway", "token", CONFIG_SECRET, offsetof(struct settings, token), "", 0, 0, "A secret."},
    {"gateway", "workers", CONFIG_INT, offsetof(struct settings, workers), "2", 1, 64, "How many."},
    {"gateway", "timeout", CONFIG_DURATION_MS, offsetof(struct settings, timeout_ms), "5s", 1, 86400000, "How long."},
    {"gateway", "body_max", CONFIG_BYTES, offsetof(struct settings, body_max), "8MiB", 0, 0, "How much."},
    {"gateway", "ratio", CONFIG_REAL, offsetof(struct settings, ratio), "0.5", 0, 1, "How likely."},
    {"gateway", "tls", CONFIG_BOOL, offsetof(struct settings, tls), "false", 0, 0, "Whether."},
};
static const char *const others[] = {"trainer", NULL};

static char path[64];

static int load(const char *text, struct settings *s, struct error *err) {
    struct error ignored;
    assert_int_equal(file_write(path, span_str(text), 0600, &ignored), 0);
    return config_load(path, rows, COUNT(rows), others, s, err);
}

static void defaults_file_environment(void **state) {
    (void)state;
    struct settings s = {0};
    struct error err = {0};
    assert_int_equal(config_load(NULL, rows, COUNT(rows), others, &s, &err), 0);
    assert_string_equal(s.log, "embedded");
    assert_string_equal(s.token, "");
    assert_true(s.workers == 2 && s.timeout_ms == 5000 && s.body_max == 8 << 20 && s.ratio == 0.5 && !s.tls);
    config_free(rows, COUNT(rows), &s);
    assert_null(s.log);
    config_free(rows, COUNT(rows), &s);

    const char *text = "log: kafka://a,b\ntrainer: {anything: [1, 2]}\ngateway:\n  listen: '[::1]:0'\n  token: 12345\n  workers: 7\n  timeout: 250ms\n  body_max: 1000\n  ratio: 1\n  tls: yes\n";
    assert_int_equal(load(text, &s, &err), 0);
    assert_string_equal(s.log, "kafka://a,b");
    assert_string_equal(s.listen, "[::1]:0");
    assert_string_equal(s.token, "12345");
    assert_true(s.workers == 7 && s.timeout_ms == 250 && s.body_max == 1000 && s.ratio == 1 && s.tls);
    config_free(rows, COUNT(rows), &s);

    setenv("GENLOOP_LOG", "from-env", 1);
    setenv("GENLOOP_GATEWAY_BODY_MAX", "1GiB", 1);
    setenv("GENLOOP_GATEWAY_TOKEN_FILE", path, 1);
    assert_int_equal(load("gateway:\n", &s, &err), 0);
    assert_string_equal(s.log, "from-env");
    assert_string_equal(s.token, "gateway:"); /* the file's text, trimmed */
    assert_true(s.body_max == 1 << 30);
    config_free(rows, COUNT(rows), &s);
    setenv("GENLOOP_GATEWAY_TOKEN", "direct", 1);
    assert_int_equal(load("", &s, &err), 0);
    assert_string_equal(s.token, "direct");
    struct buf shown;
    buf_init(&shown, 10000);
    assert_int_equal(config_show(rows, COUNT(rows), &s, &shown), 0);
    assert_string_equal(buf_cstr(&shown), "log: \"from-env\"\ngateway:\n  listen: \"127.0.0.1:8080\"\n  token: \"***\"\n  workers: 2\n  timeout: 5s\n  body_max: 1GiB\n  ratio: 0.5\n  tls: false\n");
    buf_clear(&shown);
    assert_int_equal(config_describe(rows, COUNT(rows), &shown), 0);
    assert_non_null(strstr(buf_cstr(&shown), "| `gateway.timeout` | `GENLOOP_GATEWAY_TIMEOUT` | duration, 1ms to 1d | `5s` | How long. |\n"));
    buf_fini(&shown);
    config_free(rows, COUNT(rows), &s);
    unsetenv("GENLOOP_LOG");
    unsetenv("GENLOOP_GATEWAY_BODY_MAX");
    unsetenv("GENLOOP_GATEWAY_TOKEN");
    unsetenv("GENLOOP_GATEWAY_TOKEN_FILE");
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"lgo: x", "unknown key lgo"}, {"gateway: {lisen: x}", "unknown key gateway.lisen"}, {"gateway: 5", "section gateway must be a mapping"}, {"gateway: {workers: 0}", "gateway.workers must be 1 to 64, not 0"},
        {"gateway: {workers: x}", "gateway.workers must be an integer, not \"x\""}, {"gateway: {workers: 1.5}", "must be an integer"}, {"gateway: {workers: [1]}", "must be an integer, not an array"}, {"gateway: {timeout: 5}", "a duration such as"},
        {"gateway: {timeout: 2d}", "1ms to 1d"}, {"gateway: {timeout: 99999999999999999d}", "a duration"}, {"gateway: {body_max: 8MB}", "a size such as"}, {"gateway: {body_max: -1}", "a size"}, {"gateway: {ratio: 1.5}", "0 to 1"},
        {"gateway: {tls: 1}", "true or false"}, {"gateway: {listen: true}", "put it in quotes"}, {"gateway: {listen: 1.10}", "put it in quotes"}, {"gateway: {listen: }", "must be a text, not null"}, {"gateway: {listen: \"a\\0b\"}", "NUL"},
        {"[]", "must be a mapping"}, {"a: b: c", "YAML"}, {"log: a\nlog: b", "twice"}, {"trainers: {}", "unknown key trainers"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct settings s = {.workers = 99};
        struct error err = {0};
        int r = load(cases[i].text, &s, &err);
        CHECK(r == E_INVALID && strstr(err.message, cases[i].message) && strstr(err.message, path), "%s: %d %s", cases[i].text, r, err.message);
        CHECK(s.workers == 99 && !s.log, "%s: settings were touched", cases[i].text);
    }
    struct settings s;
    struct error err = {0};
    assert_int_equal(config_load("/nonexistent/x.yaml", rows, COUNT(rows), others, &s, &err), E_NOT_FOUND);
    assert_non_null(strstr(err.message, "/nonexistent/x.yaml"));
    static const struct config_row needed[] = {{"a", "b-c", CONFIG_INT, 0, NULL, 0, 0, "Needed."}};
    int64_t v;
    assert_int_equal(config_load(NULL, needed, 1, NULL, &v, &err), E_INVALID);
    assert_string_equal(err.message, "a.b-c is required: set it in the configuration file or as GENLOOP_A_B_C");
}

/* What is shown loads to the same, whatever characters a text has: YAML takes some for the end of a line, and refuses others. */
static void shown_again(void **state) {
    (void)state;
    static const char *const texts[] = {"a\\\"b", "", " a ", "a\xc2\x85" "b", "a\xe2\x80\xa8" "b\xe2\x80\xa9" "c", "\xef\xbb\xbf" "a", "\xc2\x80\x7f", "\xc3\xa9\xf0\x9f\x98\x80", "yes", "1", "\xef\xbf\xbe"};
    for (size_t i = 0; i < COUNT(texts); i++) {
        struct settings one = {0}, two = {0};
        struct error err = {0};
        struct buf shown;
        buf_init(&shown, 65536);
        assert_int_equal(config_load(NULL, rows, COUNT(rows), others, &one, &err), 0);
        mem_free(one.log);
        one.log = mem_strdup(texts[i]);
        assert_int_equal(config_show(rows, COUNT(rows), &one, &shown), 0);
        assert_int_equal(file_write(path, buf_span(&shown), 0600, &err), 0);
        CHECK(config_load(path, rows, COUNT(rows), others, &two, &err) == 0, "text %zu: %s", i, err.message);
        CHECK(strcmp(two.log, texts[i]) == 0, "text %zu: %s", i, two.log);
        config_free(rows, COUNT(rows), &one);
        config_free(rows, COUNT(rows), &two);
        buf_fini(&shown);
    }
}

static void units(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t ms, bytes; /* -1: refused */
    } cases[] = {{"0", 0, 0}, {"250ms", 250, -1}, {"5s", 5000, -1}, {"10m", 600000, -1}, {"24h", 86400000, -1}, {"7d", 604800000, -1}, {"64KiB", -1, 65536}, {"8MiB", -1, 8 << 20}, {"2TiB", -1, (int64_t)2 << 40},
                 {"5", -1, 5}, {"5B", -1, 5}, {"", -1, -1}, {"s", -1, -1}, {"1.5s", -1, -1}, {"-1s", -1, -1}, {"1 s", -1, -1}, {"1kib", -1, -1}, {"9999999999999TiB", -1, -1}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t v = 0;
        CHECK((duration_parse(span_str(cases[i].text), &v) == 0) == (cases[i].ms >= 0) && (cases[i].ms < 0 || v == cases[i].ms), "%s: %lld", cases[i].text, (long long)v);
        CHECK((bytes_parse(span_str(cases[i].text), &v) == 0) == (cases[i].bytes >= 0) && (cases[i].bytes < 0 || v == cases[i].bytes), "%s: %lld", cases[i].text, (long long)v);
    }
}

static void without_memory(void **state) {
    (void)state;
    struct error err;
    file_write(path, SPAN("log: x\ngateway: {listen: y, token: z, workers: 3}"), 0600, &err);
    bool done = false;
    for (uint64_t at = 1; !done && at < 1000; at++) {
        struct settings s = {0};
        alloc_fail_at(at);
        int r = config_load(path, rows, COUNT(rows), others, &s, &err);
        alloc_fail_at(0);
        CHECK(r == 0 || r == E_NOMEM, "allocation %d: %d %s", (int)at, r, err.message);
        done = r == 0;
        config_free(rows, COUNT(rows), &s);
    }
    assert_true(done);
}

static int set_up(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/genloop-test-config-%d.yaml", (int)getpid());
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(defaults_file_environment), cmocka_unit_test(refusals), cmocka_unit_test(shown_again), cmocka_unit_test(units), cmocka_unit_test(without_memory)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
