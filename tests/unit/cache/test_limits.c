/* Limits: the arithmetic as a table, stories of the table of one process, and the script that Redis runs, held to the same decisions on a real server. */
#include "tests/unit/support/check.h"

#include "base/random.h"
#include "cache/limits.h"
#include "tests/unit/support/redis_server.h"

static bool near(double a, double b) { return a - b < 1e-6 && b - a < 1e-6; }

static void test_arithmetic(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double level;
        int64_t limit, gone_ms;
        double filled;
    } fill[] = {
        {"nothing gone", 3, 60, 0, 3},
        {"a second of one a second", 3, 60, 1000, 4},
        {"never above the limit", 59.5, 60, 60000, 60},
        {"a debt is paid first", -60, 60, 60000, 0},
        {"a clock that steps back gives nothing", 3, 60, -5000, 3},
        {"a thousandth", 0, 60, 1, 0.001},
        {"without a limit there is nothing", 0, 0, 60000, 0},
    };
    for (size_t i = 0; i < COUNT(fill); i++) CHECK(near(limit_filled(fill[i].level, fill[i].limit, fill[i].gone_ms), fill[i].filled), "%s", fill[i].name);
    static const struct {
        const char *name;
        double level;
        int64_t limit;
        double need;
        int64_t wait_ms;
    } wait[] = {
        {"there already", 1, 60, 1, 0}, {"a whole one", 0, 60, 1, 1000}, {"rounded up", 0.9995, 60, 1, 1}, {"a debt", -59, 60, 1, 60000}, {"no limit", -5, 0, 1, 0}, {"a day at most", -1e15, 1, 1, 86400000},
    };
    for (size_t i = 0; i < COUNT(wait); i++) CHECK(limit_wait_ms(wait[i].level, wait[i].limit, wait[i].need) == wait[i].wait_ms, "%s", wait[i].name);
    char text[32];
    assert_string_equal(limit_time_text(0, text), "0ms");
    assert_string_equal(limit_time_text(850, text), "850ms");
    assert_string_equal(limit_time_text(12000, text), "12s");
    assert_string_equal(limit_time_text(1050, text), "1.050s");
}

static const struct limit_subject BOTH[] = {{"key:a", {10, 1000, 2}}, {"tenant:t", {15, 1500, 3}}};
static const struct limit_subject OTHER[] = {{"key:b", {10, 1000, 2}}, {"tenant:t", {15, 1500, 3}}};

static void test_stories(void **state) {
    (void)state;
    struct limits *l = limits_new();
    struct limit_verdict v;
    int64_t now = 1000000;
    for (int i = 0; i < 10; i++) {
        limits_take(l, BOTH, 2, 0, false, now, &v);
        assert_int_equal(v.refused, LIMIT_NONE);
        assert_true(near(v.left[0].requests, 9 - i) && near(v.left[1].requests, 14 - i));
    }
    limits_take(l, BOTH, 2, 0, false, now, &v);
    assert_int_equal(v.refused, LIMIT_REQUESTS);
    assert_int_equal(v.subject, 0);
    assert_int_equal(v.wait_ms, 6000);
    assert_true(near(v.left[1].requests, 5)); /* who is refused by one pays none */
    /* Another key of the tenant has its own bucket, and shares the tenant's. */
    for (int i = 0; i < 5; i++) {
        limits_take(l, OTHER, 2, 0, false, now, &v);
        assert_int_equal(v.refused, LIMIT_NONE);
    }
    limits_take(l, OTHER, 2, 0, false, now, &v);
    assert_int_equal(v.refused, LIMIT_REQUESTS);
    assert_int_equal(v.subject, 1);
    /* Just before it is time, and then. */
    limits_take(l, BOTH, 1, 0, false, now + 5999, &v);
    assert_int_equal(v.refused, LIMIT_REQUESTS);
    limits_take(l, BOTH, 1, 0, false, now + 6000, &v);
    assert_int_equal(v.refused, LIMIT_NONE);
    /* Tokens: reserved, given back, owed. A request that may cost more than there ever is needs all there is. */
    now += 3600000;
    limits_take(l, BOTH, 1, 5000, false, now, &v);
    assert_int_equal(v.refused, LIMIT_NONE);
    assert_true(near(v.left[0].tokens, -4000));
    limits_take(l, BOTH, 1, 1, false, now, &v);
    assert_int_equal(v.refused, LIMIT_TOKENS);
    assert_int_equal(v.wait_ms, 240060);
    limits_take(l, BOTH, 1, -1, false, now, &v); /* what makes no tokens goes on */
    assert_int_equal(v.refused, LIMIT_NONE);
    limits_give(l, BOTH, 1, 4990, now);
    limits_take(l, BOTH, 1, 990, false, now, &v);
    assert_int_equal(v.refused, LIMIT_NONE);
    limits_take(l, BOTH, 1, 1, false, now, &v);
    assert_int_equal(v.refused, LIMIT_TOKENS);
    limits_give(l, BOTH, 1, 1e9, now); /* never more than a minute's worth */
    limits_take(l, BOTH, 1, 1000, false, now, &v);
    assert_int_equal(v.refused, LIMIT_NONE);
    assert_true(near(v.left[0].tokens, 0));
    /* Streams: by who holds them. */
    now += 3600000;
    for (int i = 0; i < 2; i++) {
        limits_take(l, BOTH, 2, 0, true, now, &v);
        assert_int_equal(v.refused, LIMIT_NONE);
        limits_stream(l, BOTH, 2, 1, now);
    }
    limits_take(l, BOTH, 2, 0, true, now, &v);
    assert_int_equal(v.refused, LIMIT_STREAMS);
    limits_take(l, BOTH, 2, 0, false, now, &v);
    assert_int_equal(v.refused, LIMIT_NONE);
    limits_stream(l, BOTH, 2, -1, now);
    limits_take(l, BOTH, 2, 0, true, now, &v);
    assert_int_equal(v.refused, LIMIT_NONE);
    /* What Redis said counts from then on. */
    v.left[0].requests = 0.25;
    v.left[1].requests = 7;
    limits_follow(l, BOTH, 2, &v, now);
    limits_take(l, BOTH, 2, 0, false, now, &v);
    assert_int_equal(v.refused, LIMIT_REQUESTS);
    limits_free(l);
}

/* More subjects than there is room for: those that hold streams, and the youngest, stay. */
static void test_many(void **state) {
    (void)state;
    struct limits *l = limits_new();
    struct limit_verdict v;
    struct limit_subject s = {.figures = {2, 0, 1}}, held = {"held", {2, 0, 1}};
    limits_take(l, &held, 1, 0, true, 0, &v);
    limits_stream(l, &held, 1, 1, 0);
    for (int i = 0; i < 5 * LIMITS_SUBJECTS_MAX; i++) {
        snprintf(s.name, sizeof s.name, "s%d", i);
        limits_take(l, &s, 1, 0, false, 1 + i / 1000, &v);
        CHECK(v.refused == LIMIT_NONE && near(v.left[0].requests, 1), "s%d does not begin full", i);
    }
    limits_take(l, &s, 1, 0, false, 21, &v); /* the youngest is known */
    assert_true(v.left[0].requests < 0.1);
    limits_take(l, &held, 1, 0, true, 22, &v);
    assert_int_equal(v.refused, LIMIT_STREAMS);
    limits_free(l);
}

static struct redis_server server;
static struct redis *redis;

static int set_up(void **state) {
    (void)state;
    redis_server_start(&server);
    return redis_new(server.url, 10000, &redis, NULL);
}
static int tear_down(void **state) {
    (void)state;
    redis_free(redis);
    redis_server_stop(&server);
    return 0;
}

static void take(const struct limit_subject *s, int n, int64_t tokens, const char *stream, struct limit_verdict *v) {
    char text[LIMITS_TEXT_MAX];
    struct span argv[LIMITS_ARGS];
    struct redis_reply *reply = NULL;
    struct error err = {0};
    int argc;
    limits_command_take(s, n, tokens, stream, text, argv, &argc);
    int r = redis_command(redis, argc, argv, &reply, &err);
    CHECK(r == 0, "%s", err.message);
    assert_int_equal(limits_reply(reply, n, v), 0);
    redis_reply_free(reply);
}
static void give(const struct limit_subject *s, int n, double tokens, const char *stream, bool renew) {
    char text[LIMITS_TEXT_MAX];
    struct span argv[LIMITS_ARGS];
    struct error err = {0};
    int argc;
    limits_command_give(s, n, tokens, stream, renew, text, argv, &argc);
    int r = redis_command(redis, argc, argv, NULL, &err);
    CHECK(r == 0, "%s", err.message);
}

/* The same requests to both, by chance. What fills meanwhile is a request and a few tokens an hour at these figures... so only decisions within one of the border may differ, and none is made there. */
static void test_script_decides_alike(void **state) {
    (void)state;
    struct limits *l = limits_new();
    struct random random;
    int refused[4] = {0};
    random_seed(&random, 20261125);
    for (int round = 0; round < 20; round++) {
        struct limit_subject s[2] = {{.figures = {20, 20000, 0}}, {.figures = {30, 30000, 0}}};
        snprintf(s[0].name, sizeof s[0].name, "key:%d", round);
        snprintf(s[1].name, sizeof s[1].name, "tenant:%d", round / 2);
        for (int i = 0; i < 30; i++) {
            int64_t tokens = random_below(&random, 4) ? (int64_t)random_below(&random, 3000) : -1;
            struct limit_verdict of_redis, ours;
            take(s, 2, tokens, "", &of_redis);
            limits_take(l, s, 2, tokens, false, 0, &ours); /* ours stands still: it may be behind by what Redis has filled, and follows */
            bool border = false;
            for (int k = 0; k < 2; k++) {
                double need = tokens < s[k].figures.tokens_per_minute ? (double)tokens : (double)s[k].figures.tokens_per_minute, had = ours.left[k].tokens + (ours.refused == LIMIT_NONE && tokens > 0 ? (double)tokens : 0);
                double requests = ours.left[k].requests + (ours.refused == LIMIT_NONE ? 1 : 0);
                border |= (tokens >= 0 && had < need) || requests < 1;
            }
            if (of_redis.refused == ours.refused) refused[ours.refused]++;
            else CHECK(border && ours.refused != LIMIT_NONE, "round %d, request %d of %lld tokens: Redis says %d, we %d", round, i, (long long)tokens, of_redis.refused, ours.refused);
            CHECK(of_redis.left[0].requests >= ours.left[0].requests - 1.001 && of_redis.left[1].tokens >= ours.left[1].tokens - 3000.001, "round %d, request %d: what is left", round, i);
            limits_follow(l, s, 2, &of_redis, 0);
            if (of_redis.refused == LIMIT_NONE && tokens > 0 && random_below(&random, 2)) {
                double back = (double)random_below(&random, 4000) - 1500;
                give(s, 2, back, "", false);
                limits_give(l, s, 2, back, 0);
            }
        }
    }
    CHECK(refused[LIMIT_NONE] > 50 && refused[LIMIT_REQUESTS] > 50 && refused[LIMIT_TOKENS] > 5, "%d let in, %d and %d refused", refused[LIMIT_NONE], refused[LIMIT_REQUESTS], refused[LIMIT_TOKENS]);
    limits_free(l);
}

static void test_script_streams(void **state) {
    (void)state;
    const struct limit_subject s[2] = {{"key:streams", {0, 0, 2}}, {"tenant:streams", {0, 0, 3}}}, other[2] = {{"key:streams2", {0, 0, 2}}, {"tenant:streams", {0, 0, 3}}};
    struct limit_verdict v;
    take(s, 2, 10, "g/1/1", &v);
    take(s, 2, 10, "g/1/2", &v);
    assert_int_equal(v.refused, LIMIT_NONE);
    assert_int_equal(v.left[0].streams, 2);
    take(s, 2, 10, "g/1/3", &v);
    assert_int_equal(v.refused, LIMIT_STREAMS);
    assert_int_equal(v.subject, 0);
    take(s, 2, 10, "", &v); /* what is no stream goes on */
    assert_int_equal(v.refused, LIMIT_NONE);
    take(other, 2, 10, "g/2/1", &v);
    assert_int_equal(v.refused, LIMIT_NONE);
    take(other, 2, 10, "g/2/2", &v);
    assert_int_equal(v.refused, LIMIT_STREAMS);
    assert_int_equal(v.subject, 1);
    give(s, 2, 0, "g/1/1", true); /* renewed: still there */
    take(s, 2, 10, "g/1/3", &v);
    assert_int_equal(v.refused, LIMIT_STREAMS);
    give(s, 2, 0, "g/1/1", false);
    take(s, 2, 10, "g/1/3", &v);
    assert_int_equal(v.refused, LIMIT_NONE);
    /* Leases: what a gateway that was killed held ends by itself. */
    assert_int_equal(redis_commandl(redis, NULL, NULL, "ZADD", "genloop:streams:key:streams", "1", "g/1/2", NULL), 0);
    take(s, 2, 10, "", &v);
    assert_int_equal(v.left[0].streams, 1);
}

/* Figures that were changed: a limit that was none owes nothing, one that shrank leaves no more than it has. Rubbish in Redis is a full bucket. */
static void test_script_odd(void **state) {
    (void)state;
    struct limit_subject s = {"key:odd", {0, 0, 0}};
    struct limit_verdict v;
    for (int i = 0; i < 50; i++) take(&s, 1, 1000, "", &v);
    s.figures = (struct limit_figures){10, 1000, 0};
    take(&s, 1, -1, "", &v);
    CHECK(v.left[0].requests > -1.001 && v.left[0].tokens >= 0, "%f requests, %f tokens", v.left[0].requests, v.left[0].tokens);
    assert_int_equal(redis_commandl(redis, NULL, NULL, "HSET", "genloop:limit:key:odd", "r", "many", "t", "", "at", "yesterday", NULL), 0);
    take(&s, 1, 10, "", &v);
    assert_int_equal(v.refused, LIMIT_NONE);
    assert_true(near(v.left[0].requests, 9) && near(v.left[0].tokens, 990));
    struct redis_reply *reply = NULL;
    assert_int_equal(redis_commandl(redis, &reply, NULL, "PING", NULL), 0);
    assert_int_equal(limits_reply(reply, 1, &v), E_UNKNOWN);
    redis_reply_free(reply);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_arithmetic),           cmocka_unit_test(test_stories),        cmocka_unit_test(test_many),
                                       cmocka_unit_test(test_script_decides_alike), cmocka_unit_test(test_script_streams), cmocka_unit_test(test_script_odd)};
    return cmocka_run_group_tests_name("cache/limits", tests, set_up, tear_down);
}
