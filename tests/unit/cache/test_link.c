/* Redis from a loop: replies in order, calls that nobody wants any more, and a server that goes, hangs and comes back. */
#include "tests/unit/support/check.h"

#include "base/clock.h"
#include "base/loop.h"
#include "cache/link.h"
#include "tests/unit/support/redis_server.h"

static struct redis_server server;
static struct loop *loop;
static int replies, results[64];
static char text[64][32];

static void on_reply(void *arg, int r, const struct redis_reply *reply) {
    int i = *(int *)arg;
    results[i] = r;
    if (reply) span_copy(text[i], sizeof text[i], redis_str(reply));
    replies++;
    loop_stop(loop);
}

static void on_late(void *arg) {
    (void)arg;
    fail_msg("nothing happens for a minute");
}

/* Runs until so many replies have come. */
static void await(int n) {
    struct loop_timer *late = loop_timer_new(loop, NULL, on_late);
    loop_timer_start(late, 60000, 0);
    while (replies < n) loop_run(loop);
    loop_timer_close(late);
}

static int ask(struct link *l, int *i, const char *a, const char *b, const char *c, struct link_call **call) {
    struct span argv[3] = {span_str(a), span_str(b), span_str(c)};
    return link_ask(l, c ? 3 : b ? 2 : 1, argv, i, on_reply, call);
}

static void test_replies(void **state) {
    (void)state;
    struct link *l;
    int ids[64];
    char value[64][8];
    replies = 0;
    assert_int_equal(link_open(server.url, loop, &l, NULL), 0);
    for (int i = 0; i < 60; i += 2) {
        ids[i] = i;
        ids[i + 1] = i + 1;
        snprintf(value[i], sizeof value[i], "v%d", i);
        assert_int_equal(ask(l, &ids[i], "SET", "k", value[i], NULL), 0);
        assert_int_equal(ask(l, &ids[i + 1], "GET", "k", NULL, NULL), 0);
    }
    await(60);
    for (int i = 0; i < 60; i += 2) CHECK(results[i] == 0 && strcmp(text[i + 1], value[i]) == 0, "reply %d is %s", i, text[i + 1]);
    /* An error of the server's is a reply. One that was cancelled is none; one that nobody waits for disturbs nobody. */
    struct link_call *call;
    int one = 0, two = 1, three = 2;
    replies = 0;
    struct span drop[] = {SPAN("SET"), SPAN("k"), SPAN("last")};
    assert_int_equal(ask(l, &one, "NONSENSE", NULL, NULL, NULL), 0);
    assert_int_equal(ask(l, &two, "GET", "k", NULL, &call), 0);
    assert_int_equal(link_ask(l, 3, drop, NULL, NULL, NULL), 0);
    assert_int_equal(ask(l, &three, "GET", "k", NULL, NULL), 0);
    link_cancel(call);
    await(2);
    assert_int_equal(replies, 2);
    assert_int_equal(results[0], 0);
    assert_string_equal(text[2], "last");
    link_close(l);
}

static void test_away(void **state) {
    (void)state;
    struct link *l;
    int one = 0;
    replies = 0;
    assert_int_equal(link_open(server.url, loop, &l, NULL), 0);
    assert_int_equal(ask(l, &one, "SET", "k", "v", NULL), 0);
    await(1);
    /* It hangs: given up soon, and then nobody waits for it. */
    kill(server.pid, SIGSTOP);
    assert_int_equal(ask(l, &one, "GET", "k", NULL, NULL), 0);
    await(2);
    assert_int_equal(results[0], E_UNAVAILABLE);
    assert_true(link_away(l));
    assert_int_equal(ask(l, &one, "GET", "k", NULL, NULL), E_UNAVAILABLE);
    kill(server.pid, SIGCONT);
    /* It is killed and comes back. */
    redis_server_kill(&server);
    while (link_away(l)) usleep(10000);
    assert_int_equal(ask(l, &one, "GET", "k", NULL, NULL), 0);
    await(3);
    assert_int_equal(results[0], E_UNAVAILABLE);
    redis_server_launch(&server);
    for (int n = 4; n < 100; n++) {
        while (link_away(l)) usleep(10000);
        assert_int_equal(ask(l, &one, "GET", "k", NULL, NULL), 0);
        await(n);
        if (results[0] == 0) break;
    }
    assert_int_equal(results[0], 0);
    assert_string_equal(text[0], "v");
    link_close(l);
}

/* Closed with calls under way: nothing is called, nothing leaks. */
static void test_close(void **state) {
    (void)state;
    struct link *l;
    int one = 0;
    replies = 0;
    assert_int_equal(link_open(server.url, loop, &l, NULL), 0);
    for (int i = 0; i < 20; i++) assert_int_equal(ask(l, &one, "GET", "k", NULL, NULL), 0);
    link_close(l);
    struct error err = {0};
    assert_int_equal(link_open("http://nowhere", loop, &l, &err), E_INVALID);
    assert_int_equal(replies, 0);
}

static int set_up(void **state) {
    (void)state;
    redis_server_start(&server);
    loop = loop_new(NULL);
    return loop ? 0 : -1;
}
static int tear_down(void **state) {
    (void)state;
    loop_free(loop);
    redis_server_stop(&server);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_replies), cmocka_unit_test(test_away), cmocka_unit_test(test_close)};
    return cmocka_run_group_tests_name("cache/link", tests, set_up, tear_down);
}
