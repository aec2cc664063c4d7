/* The supervisor's decisions as tables: what happens at which time, and what is then to be done. Names are those of the children. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/random.h"
#include "base/span.h"
#include "cli/supervise.h"

enum { ALL = (1 << SUPERVISE_KINDS) - 1, DRAIN_MS = 30000, STEPS_MAX = 24 };

enum event { TIME, READY, UNREADY, EXIT, SCALE, DRAIN, DOWN, HURRY };
struct step {
    int64_t at_ms;
    enum event event;
    const char *child; /* "*": every running one */
    int value;         /* exit status, replicas */
    const char *then;  /* the actions, in order: "start log, term gateway" */
};
struct scenario {
    const char *name;
    unsigned kinds;
    int replicas;
    struct step steps[STEPS_MAX]; /* the first is TIME at 0; ends with a row whose `then` is NULL */
    enum supervise_phase phase;   /* at the end */
};

#define UP {0, TIME, NULL, 0, "start log, start cache"}, {20, READY, "*", 0, "start feedback, start ingest, start trainer, start inference-1, start gateway"}, {90, READY, "*", 0, ""}

static const struct scenario scenarios[] = {
    {"servers first, then everything at once", ALL, 2,
     {{0, TIME, NULL, 0, "start log, start cache"},
      {10, READY, "cache", 0, ""},
      {20, READY, "log", 0, "start feedback, start ingest, start trainer, start inference-1, start inference-2, start gateway"},
      {90, READY, "*", 0, ""}},
     SUPERVISE_RUNS},
    {"nothing of ours to wait for: the log and the cache are elsewhere", ALL & ~3u, 1, {{0, TIME, NULL, 0, "start feedback, start ingest, start trainer, start inference-1, start gateway"}}, SUPERVISE_STARTS},
    {"not up before the last is ready", ALL, 1, {UP, {100, UNREADY, "gateway", 0, ""}, {200, READY, "gateway", 0, ""}}, SUPERVISE_RUNS},
    {"down: gateway, services, servers", ALL, 1,
     {UP,
      {1000, DOWN, NULL, 0, "term gateway"},
      {1500, EXIT, "gateway", 0, "term feedback, term ingest, term trainer, term inference-1"},
      {1600, EXIT, "trainer", 0, ""},
      {1600, EXIT, "feedback", 0, ""},
      {1600, EXIT, "ingest", 0, ""},
      {1700, EXIT, "inference-1", 0, "term log, term cache"},
      {1800, EXIT, "log", 0, ""},
      {1800, EXIT, "cache", 0, ""}},
     SUPERVISE_STOPPED},
    {"down while it starts", ALL, 1, {{0, TIME, NULL, 0, "start log, start cache"}, {5, DOWN, NULL, 0, "term log, term cache"}, {6, READY, "log", 0, ""}, {9, EXIT, "log", -15, ""}, {9, EXIT, "cache", -15, ""}},
     SUPERVISE_STOPPED},
    {"down with nothing running", ALL & ~3u, 1, {{0, TIME, NULL, 0, "start feedback, start ingest, start trainer, start inference-1, start gateway"}, {1, EXIT, "*", 127, "start feedback, start ingest, start trainer, start inference-1, start gateway"},
      {2, EXIT, "*", 127, ""}, {3, DOWN, NULL, 0, ""}}, SUPERVISE_STOPPED},
    {"who does not stop is killed: a service after its drain and a grace, a server after its own", ALL, 1,
     {UP,
      {1000, DOWN, NULL, 0, "term gateway"},
      {1000 + DRAIN_MS + STOP_GRACE_MS - 1, TIME, NULL, 0, ""},
      {1000 + DRAIN_MS + STOP_GRACE_MS, TIME, NULL, 0, "kill gateway"},
      {40000, TIME, NULL, 0, ""},
      {40000, EXIT, "gateway", -9, "term feedback, term ingest, term trainer, term inference-1"},
      {41000, EXIT, "*", 0, "term log, term cache"},
      {41000 + STOP_SERVER_MS, TIME, NULL, 0, "kill log, kill cache"},
      {62000, EXIT, "*", -9, ""}},
     SUPERVISE_STOPPED},
    {"asked twice: patience is short for all that follow", ALL, 1,
     {UP,
      {1000, DOWN, NULL, 0, "term gateway"},
      {2000, HURRY, NULL, 0, ""},
      {2000 + STOP_HURRY_MS, TIME, NULL, 0, "kill gateway"},
      {4001, EXIT, "gateway", -9, "term feedback, term ingest, term trainer, term inference-1"},
      {4001 + STOP_HURRY_MS, TIME, NULL, 0, "kill feedback, kill ingest, kill trainer, kill inference-1"}},
     SUPERVISE_STOPS},
    {"one that ended while the platform stops is not started again", ALL, 1,
     {UP, {1000, DOWN, NULL, 0, "term gateway"}, {1001, EXIT, "ingest", -9, ""}, {1002, EXIT, "gateway", 0, "term feedback, term trainer, term inference-1"}}, SUPERVISE_STOPS},
    {"killed when ready: again at once", ALL, 1, {UP, {5000, EXIT, "ingest", -9, "start ingest"}, {5050, READY, "ingest", 0, ""}, {5060, EXIT, "gateway", 1, "start gateway"}}, SUPERVISE_RUNS},
    {"a server that ends: the services stay, and it starts at once", ALL, 1, {UP, {5000, EXIT, "log", -9, "start log"}, {5050, READY, "log", 0, ""}}, SUPERVISE_RUNS},
    {"a service that ends without its log waits for the log", ALL, 1,
     {UP, {5000, EXIT, "log", -9, "start log"}, {5001, EXIT, "ingest", -9, ""}, {5050, READY, "log", 0, "start ingest"}}, SUPERVISE_RUNS},
    {"never ready: at once, then 100 ms, 200 ms, 400 ms", ALL, 1,
     {{0, TIME, NULL, 0, "start log, start cache"}, {20, READY, "*", 0, "start feedback, start ingest, start trainer, start inference-1, start gateway"},
      {100, EXIT, "trainer", 1, "start trainer"}, {200, EXIT, "trainer", 1, ""}, {299, TIME, NULL, 0, ""}, {300, TIME, NULL, 0, "start trainer"},
      {400, EXIT, "trainer", 1, ""}, {599, TIME, NULL, 0, ""}, {600, TIME, NULL, 0, "start trainer"}, {700, EXIT, "trainer", 1, ""}, {1099, TIME, NULL, 0, ""}, {1100, TIME, NULL, 0, "start trainer"},
      /* ready once: all is forgotten */
      {1200, READY, "trainer", 0, ""}, {1300, EXIT, "trainer", 1, "start trainer"}, {1400, EXIT, "trainer", 1, "start trainer"}, {1500, EXIT, "trainer", 1, ""}, {1600, TIME, NULL, 0, "start trainer"}},
     SUPERVISE_STARTS},
    {"a wrong configuration stays wrong", ALL, 1, {UP, {5000, EXIT, "gateway", -9, "start gateway"}, {5100, EXIT, "gateway", 2, ""}, {5100 + RESTART_MAX_MS - 1, TIME, NULL, 0, ""},
      {5100 + RESTART_MAX_MS, TIME, NULL, 0, "start gateway"}}, SUPERVISE_RUNS},
    {"scale up and down: the highest go, when they have drained", ALL, 1,
     {UP,
      {1000, SCALE, NULL, 3, "start inference-2, start inference-3"},
      {1100, READY, "*", 0, ""},
      {2000, SCALE, NULL, 1, "term inference-2, term inference-3"},
      {2500, EXIT, "inference-3", 0, "forget inference-3"},
      {2600, EXIT, "inference-2", 0, "forget inference-2"}},
     SUPERVISE_RUNS},
    {"scaled up while one drains: it comes back under its name when it has gone", ALL, 1,
     {UP,
      {1000, SCALE, NULL, 2, "start inference-2"},
      {1100, READY, "*", 0, ""},
      {2000, SCALE, NULL, 1, "term inference-2"},
      {2100, SCALE, NULL, 2, ""},
      {2500, EXIT, "inference-2", 0, "start inference-2"}},
     SUPERVISE_RUNS},
    {"a replica that waits to be started is only forgotten", ALL, 1,
     {UP, {1000, SCALE, NULL, 2, "start inference-2"}, {1010, EXIT, "inference-2", 127, "start inference-2"}, {1020, EXIT, "inference-2", 127, ""}, {1030, SCALE, NULL, 1, "forget inference-2"}}, SUPERVISE_RUNS},
    {"drain takes the one that was named, and scale fills the gap", ALL, 1,
     {UP,
      {1000, SCALE, NULL, 3, "start inference-2, start inference-3"},
      {1100, READY, "*", 0, ""},
      {2000, DRAIN, "inference-2", 0, "term inference-2"},
      {2500, EXIT, "inference-2", 0, "forget inference-2"},
      {3000, SCALE, NULL, 3, "start inference-2"}},
     SUPERVISE_RUNS},
    {"no replicas is a number too", ALL, 1, {UP, {1000, SCALE, NULL, 0, "term inference-1"}, {1100, EXIT, "inference-1", 0, "forget inference-1"}}, SUPERVISE_RUNS},
    {"down with a replica that drains", ALL, 1,
     {UP, {1000, SCALE, NULL, 0, "term inference-1"}, {1100, DOWN, NULL, 0, "term gateway"}, {1200, EXIT, "gateway", 0, "term feedback, term ingest, term trainer"},
      {1300, EXIT, "feedback", 0, ""}, {1300, EXIT, "ingest", 0, ""}, {1300, EXIT, "trainer", 0, ""}, {1400, EXIT, "inference-1", 0, "term log, term cache, forget inference-1"}},
     SUPERVISE_STOPS},
};

static int find(const struct supervise *s, const char *name) {
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->children[i].name, name) == 0) return (int)i;
    return -1;
}

static bool running(const struct supervise_child *c) { return c->state == SUPERVISE_RUNNING || c->state == SUPERVISE_STOPPING; }

static void happen(struct supervise *s, const struct step *e) {
    bool all = e->child && strcmp(e->child, "*") == 0;
    for (size_t i = 0; i < s->n; i++) {
        if (!e->child || (!all && strcmp(s->children[i].name, e->child) != 0) || (all && !running(&s->children[i]))) continue;
        if (e->event == READY || e->event == UNREADY) supervise_ready(s, i, e->event == READY, e->at_ms);
        if (e->event == EXIT && all && s->phase >= SUPERVISE_STOPS && s->children[i].state != SUPERVISE_STOPPING) continue; /* who was asked to go does */
        if (e->event == EXIT) supervise_exited(s, i, e->value, e->at_ms);
    }
    if (e->event == SCALE) assert_int_equal(supervise_scale(s, e->value, e->at_ms, NULL), 0);
    if (e->event == DRAIN) assert_int_equal(supervise_drain(s, e->child, NULL), 0);
    if (e->event == DOWN || e->event == HURRY) supervise_down(s, e->event == HURRY, e->at_ms);
}

/* The actions as text; the name of a forgotten one is what stood there before. */
static void actions(struct supervise *s, int64_t now_ms, struct buf *out) {
    static const char *const verbs[] = {"start", "term", "kill", "forget"};
    struct supervise_action a;
    struct supervise before = *s;
    buf_clear(out);
    while (supervise_next(s, now_ms, &a)) {
        assert_true(a.child < before.n);
        (void)buf_printf(out, "%s%s %s", out->len ? ", " : "", verbs[a.verb], before.children[a.child].name);
        before = *s;
    }
}

static void test_scenarios(void **state) {
    (void)state;
    struct buf got;
    buf_init(&got, 4096);
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        const struct scenario *sc = &scenarios[i];
        struct supervise s;
        supervise_init(&s, sc->kinds, sc->replicas, DRAIN_MS, 0);
        for (size_t k = 0; k < STEPS_MAX && sc->steps[k].then; k++) {
            const struct step *e = &sc->steps[k];
            int64_t wake = supervise_wake_ms(&s);
            /* A shell that sleeps until supervise_wake_ms misses nothing. */
            if (e->event == TIME && e->then[0] && k > 0 && wake != e->at_ms) fail_msg("%s: step %zu: wakes at %lld instead of %lld", sc->name, k, (long long)wake, (long long)e->at_ms);
            happen(&s, e);
            actions(&s, e->at_ms, &got);
            if (!span_eq_str(buf_span(&got), e->then)) fail_msg("%s: step %zu at %lld ms: \"%s\" instead of \"%s\"", sc->name, k, (long long)e->at_ms, buf_cstr(&got), e->then);
        }
        if (s.phase != sc->phase) fail_msg("%s: phase %d instead of %d", sc->name, (int)s.phase, (int)sc->phase);
    }
    buf_fini(&got);
}

/* Whoever kills what is ready waits for it at most RESTART_LOOP_MS, for ever; below once a second not at all. */
static void test_killed_for_minutes(void **state) {
    static const struct {
        int64_t every_ms, worst_ms;
    } cases[] = {{2000, 0}, {1000, 0}, {150, RESTART_LOOP_MS}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct supervise s;
        struct supervise_action a;
        int64_t now = 0, worst = 0;
        supervise_init(&s, ALL & ~3u, 1, DRAIN_MS, now);
        while (supervise_next(&s, now, &a)) continue;
        size_t child = (size_t)find(&s, "ingest");
        for (int kills = 0; kills < 1000; kills++) {
            supervise_ready(&s, child, true, now);
            now += cases[i].every_ms;
            supervise_exited(&s, child, -9, now);
            int64_t died = now;
            if (!supervise_next(&s, now, &a)) {
                now = supervise_wake_ms(&s);
                assert_true(supervise_next(&s, now, &a));
            }
            assert_int_equal(a.verb, SUPERVISE_START);
            if (now - died > worst) worst = now - died;
        }
        if (worst != cases[i].worst_ms) fail_msg("killed every %lld ms: waits up to %lld ms instead of %lld", (long long)cases[i].every_ms, (long long)worst, (long long)cases[i].worst_ms);
        assert_int_equal(s.children[child].restarts, 1000);
    }
}

static void test_hopeless(void **state) {
    static const struct {
        const char *name;
        int status, times;
        bool hopeless;
    } cases[] = {{"a few failures", 1, START_FAILURES_MAX - 1, false}, {"many", 1, START_FAILURES_MAX, true}, {"killed from outside", -9, START_FAILURES_MAX - 1, false}, {"a wrong configuration", 2, 1, true}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct supervise s;
        struct supervise_action a;
        int64_t now = 0;
        supervise_init(&s, ALL & ~3u, 1, DRAIN_MS, now);
        while (supervise_next(&s, now, &a)) continue;
        size_t child = (size_t)find(&s, "gateway");
        for (int k = 0; k < cases[i].times; k++) {
            supervise_exited(&s, child, cases[i].status, now);
            now += RESTART_MAX_MS;
            while (supervise_next(&s, now, &a)) continue;
        }
        const struct supervise_child *c = supervise_hopeless(&s);
        if ((c != NULL) != cases[i].hopeless) fail_msg("%s: %s", cases[i].name, c ? "given up" : "not given up");
        if (c) assert_string_equal(c->name, "gateway");
        /* A platform that once stood is not given up. */
        for (size_t k = 0; k < s.n; k++)
            if (running(&s.children[k])) supervise_ready(&s, k, true, now);
        assert_int_equal(s.phase, SUPERVISE_RUNS);
        assert_null(supervise_hopeless(&s));
    }
}

static void test_refusals(void **state) {
    struct supervise s;
    struct error err = {0};
    (void)state;
    supervise_init(&s, ALL, 1, DRAIN_MS, 0);
    assert_int_equal(supervise_scale(&s, -1, 0, &err), E_INVALID);
    assert_int_equal(supervise_scale(&s, SUPERVISE_REPLICAS_MAX + 1, 0, &err), E_INVALID);
    assert_int_equal(supervise_scale(&s, SUPERVISE_REPLICAS_MAX, 0, &err), 0);
    assert_int_equal(supervise_drain(&s, "inference-65", &err), E_NOT_FOUND);
    assert_int_equal(supervise_drain(&s, "gateway", &err), E_NOT_FOUND);
    supervise_down(&s, false, 0);
    assert_int_equal(supervise_scale(&s, 1, 0, &err), E_STATE);
    assert_int_equal(supervise_drain(&s, "inference-1", &err), E_STATE);
}

/* Whatever happens in whatever order: what is asked for stays in its limits, nobody is started twice or told to go twice, and down ends. */
static void test_random_histories(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct random r;
        struct supervise s;
        struct supervise_action a;
        int64_t now = 0;
        int wanted = 2;
        bool alive[SUPERVISE_KINDS][SUPERVISE_REPLICAS_MAX + 1] = {{false}};
        random_seed(&r, seed);
        supervise_init(&s, ALL, wanted, DRAIN_MS, now);
        for (int turn = 0; turn < 600; turn++) {
            struct supervise before = s;
            while (supervise_next(&s, now, &a)) {
                const struct supervise_child *c = &before.children[a.child];
                bool *is = &alive[c->kind][c->index];
                if (a.verb == SUPERVISE_START ? *is : a.verb == SUPERVISE_FORGET ? *is : !*is) fail_msg("seed %llu: action %d on %s, which is %s", (unsigned long long)seed, (int)a.verb, c->name, *is ? "alive" : "not");
                if (a.verb == SUPERVISE_START) *is = true;
                before = s;
            }
            if (s.phase < SUPERVISE_STOPS && supervise_replicas(&s) != wanted) fail_msg("seed %llu: %d replicas instead of %d", (unsigned long long)seed, supervise_replicas(&s), wanted);
            now += (int64_t)random_below(&r, 300);
            size_t i = random_below(&r, s.n);
            struct supervise_child *c = &s.children[i];
            switch (random_below(&r, turn > 500 ? 3 : 5)) {
            case 0:
            case 1:
                if (running(c)) supervise_ready(&s, i, true, now);
                break;
            case 2:
                if (!running(c)) break;
                alive[c->kind][c->index] = false;
                supervise_exited(&s, i, random_below(&r, 2) ? -9 : 0, now);
                break;
            case 3:
                if (random_below(&r, 4)) break;
                wanted = (int)random_below(&r, 5);
                if (supervise_scale(&s, wanted, now, NULL) != 0) assert_true(s.phase >= SUPERVISE_STOPS);
                break;
            case 4:
                if (random_below(&r, 40) == 0) supervise_down(&s, random_below(&r, 2), now);
                break;
            }
        }
        supervise_down(&s, false, now);
        for (int turn = 0; turn < 100 && s.phase != SUPERVISE_STOPPED; turn++) {
            while (supervise_next(&s, now, &a)) assert_int_not_equal(a.verb, SUPERVISE_START);
            for (size_t i = 0; i < s.n; i++)
                if (s.children[i].state == SUPERVISE_STOPPING) supervise_exited(&s, i, 0, now);
            now += 10;
        }
        if (s.phase != SUPERVISE_STOPPED) fail_msg("seed %llu: down does not end", (unsigned long long)seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scenarios), cmocka_unit_test(test_killed_for_minutes), cmocka_unit_test(test_hopeless), cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_random_histories)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
