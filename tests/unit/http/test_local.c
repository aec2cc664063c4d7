/* Requests of a process to itself: the handler sees an exchange like any other, and whatever becomes of it, on_answer comes once or, where it was cancelled, never. */
#include "tests/unit/support/check.h"

#include "base/buf.h"
#include "base/loop.h"
#include "http/local.h"

static struct loop *loop;

struct scene {
    int requests, answers, closed, status;
    bool holds;             /* the handler keeps the exchange */
    struct http_exchange *held;
    struct buf body;
};

static void on_body(void *arg, struct span body, int r) {
    struct scene *s = arg;
    assert_int_equal(r, 0);
    (void)buf_append_span(&s->body, body);
    http_respond(s->held, 201, "text/plain", body);
}

static void on_close(void *arg) { ((struct scene *)arg)->closed++; }

static void on_request(void *arg, struct http_exchange *x) {
    struct scene *s = arg;
    s->requests++;
    s->held = x;
    assert_true(http_peer_loopback(x) && !http_secure(x) && http_protocol(x) == HTTP_1_1);
    http_on_close(x, s, on_close);
    if (s->holds) return;
    if (span_eq(http_path(x), SPAN("/echo"))) http_body_collect(x, 1 << 20, s, on_body);
    else if (span_eq(http_path(x), SPAN("/head"))) http_respond(x, 200, NULL, http_header(x, "x-a"));
    else if (span_eq(http_path(x), SPAN("/stream"))) {
        assert_int_equal(http_stream_begin(x, 200, NULL), 0);
        assert_int_equal(http_stream_write(x, SPAN("one ")), 0);
        assert_int_equal(http_stream_write(x, SPAN("two")), 0);
        http_stream_end(x);
    } else http_reset(x, HTTP_RESET_INTERNAL);
}

static void on_answer(void *arg, const struct http_local_answer *a) {
    struct scene *s = arg;
    s->answers++;
    s->status = a->status;
    buf_clear(&s->body);
    (void)buf_append_span(&s->body, a->body);
    loop_stop(loop);
}

static struct http_local *send_to(struct scene *s, const char *path, struct span body) {
    static const struct http_field fields[] = {{{"x-a", 3}, {"value", 5}}};
    struct http_local_request r = {.method = SPAN("POST"), .path = span_str(path), .fields = fields, .n_fields = 1, .body = body};
    return http_local_send(loop, &r, s, on_request, s, on_answer);
}

static void test_answers(void **state) {
    static const struct {
        const char *path, *body, *answer;
        int status;
    } cases[] = {{"/echo", "hello", "hello", 201}, {"/echo", "", "", 201}, {"/head", "", "value", 200}, {"/stream", "x", "one two", 200}, {"/none", "", "", 0}};
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct scene s = {0};
        buf_init(&s.body, 1 << 20);
        assert_non_null(send_to(&s, cases[i].path, span_str(cases[i].body)));
        assert_int_equal(s.requests, 0); /* at the next turn */
        loop_run(loop);
        if (s.answers != 1 || s.status != cases[i].status || !span_eq_str(buf_span(&s.body), cases[i].answer)) fail_msg("%s: %d answers, %d, %.*s", cases[i].path, s.answers, s.status, SPAN_ARG(buf_span(&s.body)));
        buf_fini(&s.body);
    }
}

static void stop(void *arg) {
    (void)arg;
    loop_stop(loop);
}

static void test_cancel(void **state) {
    struct scene before = {0}, held = {.holds = true}, late = {0}, end = {0};
    struct loop_timer *timer = loop_timer_new(loop, NULL, stop);
    (void)state;
    http_local_cancel(send_to(&before, "/head", SPAN(""))); /* before its handler was called */
    struct http_local *q = send_to(&held, "/head", SPAN(""));
    loop_timer_start(timer, 20, 0);
    loop_run(loop);
    assert_int_equal(before.requests + before.answers, 0);
    assert_int_equal(held.requests, 1);
    http_local_cancel(q); /* while the handler has it */
    assert_int_equal(held.closed, 1);
    assert_true(http_client_gone(held.held));
    assert_int_equal(http_respond(held.held, 200, NULL, SPAN("x")), E_CANCELLED);
    buf_init(&end.body, 64);
    q = send_to(&late, "/head", SPAN(""));
    assert_non_null(send_to(&end, "/head", SPAN("")));
    loop_run(loop);
    (void)q;
    assert_int_equal(end.answers, 1);
    assert_int_equal(held.answers, 0);
    buf_fini(&end.body);
    buf_fini(&late.body);
    loop_timer_close(timer);
}

static void test_malformed(void **state) {
    struct scene s = {0};
    (void)state;
    assert_null(send_to(&s, "no slash", SPAN("")));
    struct http_local_request r = {.method = SPAN("NO WAY"), .path = SPAN("/")};
    assert_null(http_local_send(loop, &r, &s, on_request, &s, on_answer));
}

static int set_up(void **state) {
    (void)state;
    loop = loop_new(NULL);
    return loop ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    loop_free(loop);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_answers), cmocka_unit_test(test_cancel), cmocka_unit_test(test_malformed)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
