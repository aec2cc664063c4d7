/* The client's pure parts: events as they come in pieces, errors of every shape, pauses; and the files that a walk finds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/file.h"
#include "cli/client.h"
#include "cli/sse.h"
#include "cli/walk.h"

/* ---- events ---- */

/* What was told, with a '|' behind each event. */
static int note(void *arg, struct span data) {
    struct buf *out = arg;
    (void)buf_append_span(out, data);
    (void)buf_append_char(out, '|');
    return 0;
}

static void test_events(void **state) {
    static const struct {
        const char *name, *text, *told;
    } cases[] = {
        {"one", "data: {\"a\":1}\n\n", "{\"a\":1}|"},
        {"two", "data: a\n\ndata: b\n\n", "a|b|"},
        {"without a space", "data:a\n\n", "a|"},
        {"only the first space goes", "data:  a\n\n", " a|"},
        {"two lines are one event", "data: a\ndata: b\n\n", "a\nb|"},
        {"an empty line of data", "data\n\n", "|"},
        {"comments and other fields", ": hello\nevent: x\nid: 7\nretry: 9\ndatabase: no\ndata: a\n\n", "a|"},
        {"empty lines alone tell nothing", "\n\n\n", ""},
        {"CRLF", "data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", "a\nb|c|"},
        {"CR", "data: a\r\rdata: b\r\r", "a|b|"},
        {"what is not ended is not told", "data: a\n\ndata: b\n", "a|"},
        {"UTF-8", "data: \xc3\xa9\xe2\x82\xac\n\n", "\xc3\xa9\xe2\x82\xac|"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct span text = span_str(cases[i].text);
        for (size_t piece = 1; piece <= text.len; piece++) { /* cut everywhere, it is the same */
            struct sse sse;
            struct buf told;
            sse_init(&sse);
            buf_init(&told, 4096);
            for (size_t at = 0; at < text.len; at += piece) assert_int_equal(sse_feed(&sse, span_sub(text, at, piece), &told, note), 0);
            if (!span_eq_str(buf_span(&told), cases[i].told)) fail_msg("%s, in pieces of %zu: told \"%.*s\"", cases[i].name, piece, SPAN_ARG(buf_span(&told)));
            buf_fini(&told);
            sse_fini(&sse);
        }
    }
}

static int stop_at_b(void *arg, struct span data) {
    (*(int *)arg)++;
    return span_eq_str(data, "b") ? -42 : 0;
}

static void test_events_stop(void **state) {
    struct sse sse;
    int told = 0;
    (void)state;
    sse_init(&sse);
    assert_int_equal(sse_feed(&sse, SPAN("data: a\n\ndata: b\n\ndata: c\n\n"), &told, stop_at_b), -42);
    assert_int_equal(told, 2);
    sse_fini(&sse);
}

/* ---- errors ---- */

static void test_errors(void **state) {
    static const struct {
        long status;
        const char *body;
        int code;
        const char *says, *param;
    } cases[] = {
        {404, "{\"error\":{\"message\":\"there is no dataset x\",\"type\":\"invalid_request_error\",\"param\":\"name\",\"code\":null}}", E_NOT_FOUND, "there is no dataset x", "name"},
        {409, "{\"error\":{\"message\":\"not now\"}}", E_STATE, "not now", ""},
        {401, "{\"error\":{\"message\":\"a key is needed\"}}", E_UNAUTHENTICATED, "GENLOOP_API_KEY", ""},
        {413, "{\"error\":{\"message\":\"too large\"}}", E_TOO_LARGE, "too large", ""},
        {429, "{\"error\":{\"message\":\"full\"}}", E_FULL, "full", ""},
        {503, "", E_UNAVAILABLE, "HTTP 503", ""},
        {502, "<html>\n<body>Bad gateway", E_UNAVAILABLE, "is GENLOOP_URL the gateway?", ""},
        {418, "short and stout\nsecond line", E_INVALID, "short and stout", ""},
        {599, "{\"error\":7}", E_UNKNOWN, "HTTP 599", ""},
        {400, "{\"error\":{\"message\":\"\"}}", E_INVALID, "HTTP 400", ""},
        {302, "", E_UNKNOWN, "HTTP 302", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        int r = client_read_error(cases[i].status, span_str(cases[i].body), &err);
        if (r != cases[i].code || err.code != cases[i].code || !strstr(err.message, cases[i].says) || strcmp(err.param, cases[i].param) != 0)
            fail_msg("HTTP %ld \"%s\": code %d, param \"%s\", \"%s\"", cases[i].status, cases[i].body, r, err.param, err.message);
    }
}

static void test_pauses(void **state) {
    (void)state;
    assert_int_equal(client_pause_ms(0, 0), 100);
    assert_int_equal(client_pause_ms(1, 0), 200);
    assert_int_equal(client_pause_ms(3, 0), 800);
    assert_int_equal(client_pause_ms(1000000, 0), 3000);
    assert_int_equal(client_pause_ms(0, 1000), 1000);     /* as the gateway asks */
    assert_int_equal(client_pause_ms(1000, 1000), 3000);
    assert_int_equal(client_pause_ms(0, 3600000), 30000); /* but not for ever */
    assert_true(client_worth_again(E_UNAVAILABLE));
    assert_true(client_worth_again(E_FULL));
    assert_false(client_worth_again(E_INVALID));
    assert_false(client_worth_again(E_DEADLINE)); /* it may be at work still */
    assert_false(client_worth_again(E_STATE));
}

static void test_encode(void **state) {
    struct buf out;
    (void)state;
    buf_init(&out, 4096);
    client_encode(&out, SPAN("a b/c?d&e=f%\xc3\xa9@1.2-3_4~"));
    assert_string_equal(buf_cstr(&out), "a%20b%2Fc%3Fd%26e%3Df%25%C3%A9@1.2-3_4~");
    buf_fini(&out);
}

static void test_environment(void **state) {
    static const struct {
        const char *url, *key;
        int code;
        const char *base;
    } cases[] = {
        {NULL, NULL, 0, "http://127.0.0.1:8080"}, {"", "", 0, "http://127.0.0.1:8080"},     {"http://h:1///", NULL, 0, "http://h:1"},      {"https://h/prefix", "sk-1", 0, "https://h/prefix"},
        {"h:1", NULL, E_INVALID, NULL},           {"ftp://h", NULL, E_INVALID, NULL},        {"http://h", "a b", E_INVALID, NULL},          {"http://h", "a\r\nX: y", E_INVALID, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct client *c = NULL;
        struct error err = {0};
        if (cases[i].url) (void)setenv("GENLOOP_URL", cases[i].url, 1);
        else (void)unsetenv("GENLOOP_URL");
        if (cases[i].key) (void)setenv("GENLOOP_API_KEY", cases[i].key, 1);
        else (void)unsetenv("GENLOOP_API_KEY");
        int r = client_open(&c, &err);
        if (r != cases[i].code) fail_msg("URL \"%s\", key \"%s\": %d %s", cases[i].url, cases[i].key, r, err.message);
        if (r == 0) assert_string_equal(client_url(c), cases[i].base);
        client_close(c);
    }
    (void)unsetenv("GENLOOP_URL");
    (void)unsetenv("GENLOOP_API_KEY");
}

/* Nobody listens: said at once and with the remedy, also where many are to be sent. */
static bool always(void *arg, struct client_request *request) {
    *request = (struct client_request){.method = "POST", .path = "/v1/feedback", .body = SPAN("{}"), .again = true};
    return ++*(int *)arg <= 1000;
}
static int never_done(void *arg, const struct client_request *request, int r, const struct json *answer, const struct error *err) {
    (void)arg, (void)request, (void)answer, (void)err;
    fail_msg("a request has ended with %d where there is no gateway", r);
    return 0;
}
static int no_event(void *arg, const struct json *event) {
    (void)arg, (void)event;
    fail();
    return 0;
}
static void test_nobody(void **state) {
    struct client *c = NULL;
    struct error err = {0};
    struct client_request q = {.method = "GET", .path = "/v1/models", .again = true};
    int asked = 0;
    const struct client_batch batch = {&asked, always, never_done, NULL};
    (void)state;
    (void)setenv("GENLOOP_URL", "http://127.0.0.1:1", 1);
    assert_int_equal(client_open(&c, &err), 0);
    assert_int_equal(client_call(c, &q, NULL, &err), E_UNAVAILABLE);
    assert_non_null(strstr(err.message, "the gateway at http://127.0.0.1:1 does not answer"));
    assert_non_null(strstr(err.message, "genloop up"));
    assert_int_equal(client_stream(c, &q, NULL, no_event, &err), E_UNAVAILABLE);
    err = (struct error){0};
    assert_int_equal(client_batch(c, 8, &batch, &err), E_UNAVAILABLE);
    assert_non_null(strstr(err.message, "does not answer"));
    assert_true(asked <= 16);
    client_close(c);
    (void)unsetenv("GENLOOP_URL");
}

/* ---- walking ---- */

static char folder[64];

static void put(const char *name, const char *text) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(file_write(path, span_str(text), 0644, NULL), 0);
}
static void make(const char *name) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(dir_make(path, NULL), 0);
}

static void count_unreadable(void *arg, const struct error *why) {
    assert_true(why->code < 0 && why->message[0]);
    ++*(int *)arg;
}

static void test_walk(void **state) {
    static const char *const expected[] = {"a.txt", "b/1", "b/c/2", "b/d/3", "z\xc3\xa9", "bad%FF"};
    struct walk w;
    struct error err = {0};
    int unreadable = 0;
    char path[512];
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/genloop-walk-XXXXXX");
    assert_non_null(mkdtemp(folder));
    make("b/c");
    make("b/d");
    make(".git");
    put("a.txt", "1");
    put("empty", "");
    put(".hidden", "x");
    put(".git/config", "x");
    put("b/1", "22");
    put("b/c/2", "333");
    put("b/d/3", "4444");
    put("z\xc3\xa9", "5");
    put("bad\xff", "6");
    (void)snprintf(path, sizeof path, "%s/link", folder);
    assert_int_equal(symlink("a.txt", path), 0);
    (void)snprintf(path, sizeof path, "%s/loop", folder);
    assert_int_equal(symlink(".", path), 0);
    walk_init(&w);
    assert_int_equal(walk_add(&w, folder, &unreadable, count_unreadable, &err), 0);
    assert_int_equal(w.n, 6);
    for (size_t i = 0; i < 6; i++) {
        bool found = false;
        (void)snprintf(path, sizeof path, "%s/%s", folder, expected[i]);
        for (size_t k = 0; k < w.n; k++) found |= strcmp(w.files[k].source, path) == 0;
        if (!found) fail_msg("%s was not found", expected[i]);
    }
    assert_int_equal(w.bytes, 12);
    assert_int_equal(w.skipped, 5); /* empty, .hidden, .git, link, loop */
    assert_int_equal(unreadable, 0);
    /* Folders in the order of their names, each whole before the next. */
    size_t first = 0;
    for (size_t k = 0; k < w.n; k++)
        if (strstr(w.files[k].path, "/b/1")) first = k;
    assert_non_null(strstr(w.files[first + 1].path, "/b/c/2"));
    assert_non_null(strstr(w.files[first + 2].path, "/b/d/3"));
    walk_fini(&w);

    walk_init(&w);
    assert_int_equal(walk_add(&w, "/nowhere/at/all", &unreadable, count_unreadable, &err), E_NOT_FOUND);
    assert_non_null(strstr(err.message, "/nowhere/at/all"));
    assert_int_equal(walk_add(&w, "/dev/null", &unreadable, count_unreadable, &err), E_INVALID);
    (void)snprintf(path, sizeof path, "%s/link", folder); /* a link that was named itself is meant */
    assert_int_equal(walk_add(&w, path, &unreadable, count_unreadable, &err), 0);
    assert_int_equal(walk_add(&w, "https://example.org/a", &unreadable, count_unreadable, &err), 0);
    assert_int_equal(w.n, 2);
    assert_false(w.files[0].url);
    assert_true(w.files[1].url);
    assert_string_equal(w.files[1].source, "https://example.org/a");
    walk_fini(&w);
    assert_int_equal(dir_remove(folder, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events), cmocka_unit_test(test_events_stop), cmocka_unit_test(test_errors), cmocka_unit_test(test_pauses), cmocka_unit_test(test_encode),
        cmocka_unit_test(test_environment), cmocka_unit_test(test_nobody), cmocka_unit_test(test_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
