/*
 * The register of leases: its rules one by one, and a simulation. In it some holders live on one log, in simulated time: they poll, pause, die, come back under their own name or
 * another's; their records land at once, late, or never, and they hear of it or not; the log loses what is old. At every step no two sessions may believe that
 * they hold the lease (but where the newer took it from its former life), and no epoch is given twice or after a higher one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h wants the four above */
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "eventlog/kafka_register.h"

/* ---- the rules ---- */

static void put(struct lease_register *r, const char *text) { assert_int_equal(lease_register_read(r, SPAN("x"), span_str(text), r->next, 0), 0); }

static struct lease_candidate candidate(const char *holder, const char *session) {
    struct lease_candidate c = {.ttl_ms = 1000};
    span_copy(c.name, sizeof c.name, SPAN("x"));
    span_copy(c.holder, sizeof c.holder, span_str(holder));
    span_copy(c.session, sizeof c.session, span_str(session));
    return c;
}

static void rules(void **state) {
    (void)state;
    static const struct {
        const char *name;
        const char *log[6];
        bool whole;
        const char *session; /* holds it in the end, "" for nobody; NULL: not known */
        int64_t epoch;
    } cases[] = {
        {"a take of what is free", {"1 take a s1 1000 -1 -1"}, true, "s1", 1},
        {"the first of two", {"1 take a s1 1000 -1 -1", "1 take b s2 1000 -1 -1"}, true, "s1", 1},
        {"a take of one who saw all", {"1 take a s1 1000 -1 -1", "1 take b s2 1000 0 -1"}, true, "s2", 2},
        {"a hold on its way", {"1 take a s1 1000 -1 -1", "1 hold a s1 1000 1 0", "1 take b s2 1000 0 -1"}, true, "s1", 1},
        {"a late hold", {"1 take a s1 1000 -1 -1", "1 take b s2 1000 0 -1", "1 hold a s1 1000 1 0"}, true, "s2", 2},
        {"the next life", {"1 take a s1 1000 -1 -1", "1 anew a s2 1000 -1 -1"}, true, "s2", 2},
        {"the next life of another", {"1 take a s1 1000 -1 -1", "1 anew b s2 1000 -1 -1"}, true, "s1", 1},
        {"let go", {"1 take a s1 1000 -1 -1", "1 free a s1 1000 1 0"}, true, "", 1},
        {"let go by another", {"1 take a s1 1000 -1 -1", "1 free a s2 1000 1 0"}, true, "s1", 1},
        {"taken after it was let go", {"1 take a s1 1000 -1 -1", "1 free a s1 1000 1 0", "1 take b s2 1000 -1 -1"}, true, "s2", 3},
        {"a hold of one who let go", {"1 take a s1 1000 -1 -1", "1 free a s1 1000 1 0", "1 hold a s1 1000 1 0"}, true, "", 1},
        {"a hold that claims an epoch", {"1 take a s1 1000 -1 -1", "1 hold b s2 1000 99 0"}, true, "s1", 1},
        {"begun in the middle: a hold", {"1 hold a s1 1000 7 6"}, false, NULL, 0},
        {"begun in the middle: two holds", {"1 hold a s1 1000 7 6", "1 hold a s1 1000 7 0"}, false, "s1", 7},
        {"begun in the middle: a hold and what it let go", {"1 hold a s1 1000 7 6", "1 free a s1 1000 7 0"}, false, "", 7},
        {"begun in the middle: a take", {"1 take a s1 1000 -1 -1"}, false, NULL, 0},
        {"begun in the middle: a take that a hold confirms", {"1 take a s1 1000 -1 -1", "1 take b s2 1000 -1 -1", "1 hold a s1 1000 1 0"}, false, "s1", 1},
        {"begun in the middle: superseded behind P", {"1 hold a s1 1000 7 6", "1 take b s2 1000 0 -1", "1 hold a s1 1000 7 0"}, false, "s2", 2},
        {"what is no record", {"1 take a s1 1000 -1", "2 take a s1 1000 -1 -1", "", "1 take  s1 1000 -1 -1", "1 grab a s1 1000 -1 -1", "1 take a s1 1000 -2 -1"}, true, NULL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lease_register r = {.whole = cases[i].whole};
        for (int k = 0; k < 6 && cases[i].log[k]; k++) put(&r, cases[i].log[k]);
        const struct lease_entry *e = r.n ? r.entries : NULL;
        if (!cases[i].session) {
            if (e && e->known) fail_msg("%s: it is known", cases[i].name);
        } else if (!e || !e->known || strcmp(e->held ? e->session : "", cases[i].session) != 0 || e->epoch != cases[i].epoch) {
            fail_msg("%s: held by \"%s\" with epoch %" PRId64, cases[i].name, e && e->held ? e->session : "", e ? e->epoch : -1);
        }
        lease_register_fini(&r);
    }
}

static void decisions(void **state) {
    (void)state;
    struct lease_register r = {.whole = true};
    struct lease_candidate a = candidate("a", "s1"), b = candidate("b", "s2"), again = candidate("a", "s3");
    int64_t n, p;
    uint64_t epoch;
    char text[LEASE_TEXT_MAX];
    assert_int_equal(lease_register_decide(&r, &a, 0, &n, &p), LEASE_TAKE);
    assert_int_equal(n, -1);
    lease_record_write(&a, LEASE_TAKE, n, p, text);
    assert_string_equal(text, "1 take a s1 1000 -1 -1");
    put(&r, text);
    assert_int_equal(lease_register_verdict(&r, &a, LEASE_TAKE, n, 0, &epoch), 0);
    assert_int_equal(epoch, 1);
    assert_int_equal(lease_register_decide(&r, &b, 999, &n, &p), LEASE_WAIT);
    assert_int_equal(lease_register_decide(&r, &b, 1000, &n, &p), LEASE_TAKE);
    assert_int_equal(n, 0);
    assert_int_equal(lease_register_decide(&r, &again, 0, &n, &p), LEASE_ANEW);
    assert_int_equal(lease_register_decide(&r, &a, 0, &n, &p), LEASE_HOLD);
    assert_int_equal(n, 1);
    assert_int_equal(p, 0);
    put(&r, "1 anew a s3 1000 0 -1");
    assert_int_equal(lease_register_verdict(&r, &a, LEASE_HOLD, 1, 1, &epoch), E_AGAIN);
    assert_int_equal(lease_register_decide(&r, &a, 0, &n, &p), LEASE_WAIT); /* not back from its next life */
    lease_register_fini(&r);
}

static void many_names(void **state) {
    (void)state;
    struct lease_register r = {.whole = true};
    for (int i = 0; i < LEASES_MAX + 10; i++) {
        char name[32];
        snprintf(name, sizeof name, "n%d", i);
        assert_int_equal(lease_register_read(&r, span_str(name), SPAN("1 take a s 1000 -1 -1"), i, 0), 0);
    }
    assert_int_equal(r.n, LEASES_MAX);
    lease_register_fini(&r);
}

/* ---- the simulation ---- */

enum { ACTORS = 5, TTL = 1000, CALL = 500, LOG_MAX = 200000, KEEP_MS = 12 * TTL, DELAYED_MAX = 8 };

struct sim_record {
    char text[LEASE_TEXT_MAX];
    int64_t at_ms;
};
struct world {
    struct random chance;
    int64_t now;
    struct sim_record *log;
    int64_t n, low;
    struct {
        char text[LEASE_TEXT_MAX];
        int64_t lands_ms;
        int from;
    } delayed[DELAYED_MAX]; /* records that a broken connection holds */
    int n_delayed;
    int64_t highest;
    int grants, takeovers;
};
struct actor {
    int life;
    bool alive;
    struct lease_register r;
    struct lease_candidate me;
    int64_t wakes_ms, began_ms, believes_until_ms;
    enum { IDLE, WRITTEN } step;
    enum lease_what what;
    int64_t n, p, at;
};

static int64_t between(struct world *w, int64_t a, int64_t b) { return a + (int64_t)random_below(&w->chance, (uint64_t)(b - a + 1)); }
static bool one_in(struct world *w, uint64_t n) { return random_below(&w->chance, n) == 0; }

static int64_t land(struct world *w, const char *text) {
    assert_true(w->n < LOG_MAX);
    snprintf(w->log[w->n].text, LEASE_TEXT_MAX, "%s", text);
    w->log[w->n].at_ms = w->now;
    return w->n++;
}

static void be_born(struct world *w, struct actor *a, int who) {
    lease_register_fini(&a->r);
    char holder[32], session[32];
    snprintf(holder, sizeof holder, "h%d", one_in(w, 4) ? 1000 * (who + 1) + a->life : who); /* sometimes under a name that nobody had */
    snprintf(session, sizeof session, "s%d-%d", who, ++a->life);
    *a = (struct actor){.life = a->life, .alive = true, .me = candidate(holder, session), .wakes_ms = w->now + between(w, 0, 300)};
    a->r = (struct lease_register){.whole = w->low == 0, .next = w->low};
}

static void read_all(struct world *w, struct actor *a) {
    while (a->r.next < w->n) assert_int_equal(lease_register_read(&a->r, SPAN("x"), span_str(w->log[a->r.next].text), a->r.next, w->now), 0);
}

/* What comes of a record: its offset, or -1 where its writer does not hear. An idempotent producer keeps its records in order: behind a delayed one the next is too. */
static int64_t send(struct world *w, int who, const char *text) {
    bool behind = false;
    for (int i = 0; i < w->n_delayed; i++) behind = behind || w->delayed[i].from == who;
    if (one_in(w, 60)) return -1;                    /* never lands */
    if (behind || one_in(w, 25)) {                   /* late */
        if (w->n_delayed == DELAYED_MAX) return -1;
        snprintf(w->delayed[w->n_delayed].text, LEASE_TEXT_MAX, "%s", text);
        w->delayed[w->n_delayed].from = who;
        w->delayed[w->n_delayed++].lands_ms = w->now + between(w, 1, 4 * TTL);
        return -1;
    }
    int64_t at = land(w, text);
    return one_in(w, 30) ? -1 : at; /* it landed, and the answer is lost */
}

static void deliver(struct world *w) {
    for (int i = 0; i < w->n_delayed; i++) {
        bool first = true; /* of its producer's */
        for (int k = 0; k < i; k++) first = first && w->delayed[k].from != w->delayed[i].from;
        if (!first || w->delayed[i].lands_ms > w->now) continue;
        land(w, w->delayed[i].text);
        memmove(&w->delayed[i], &w->delayed[i + 1], (size_t)(--w->n_delayed - i) * sizeof w->delayed[0]);
        i = -1;
    }
    while (w->low < w->n && w->log[w->low].at_ms < w->now - KEEP_MS) w->low++;
}

static void check_alone(struct world *w, struct actor *actors, int who, uint64_t seed) {
    for (int i = 0; i < ACTORS; i++) {
        struct actor *o = &actors[i];
        if (i == who || !o->alive || o->believes_until_ms <= w->now || strcmp(o->me.holder, actors[who].me.holder) == 0) continue;
        fail_msg("seed %" PRIu64 ", %" PRId64 " ms: %s and %s both hold it", seed, w->now, o->me.session, actors[who].me.session);
    }
}

static void act(struct world *w, struct actor *actors, int who, uint64_t seed) {
    struct actor *a = &actors[who];
    char text[LEASE_TEXT_MAX];
    if (!a->alive) {
        be_born(w, a, who);
        return;
    }
    if (one_in(w, 150)) { /* dies */
        a->alive = false;
        a->believes_until_ms = 0;
        a->wakes_ms = w->now + between(w, 10, 3 * TTL);
        return;
    }
    if (one_in(w, 80)) { /* stopped, in the middle of whatever it did */
        a->wakes_ms = w->now + between(w, TTL / 2, 4 * TTL);
        return;
    }
    if (a->step == IDLE) {
        if (one_in(w, 60)) { /* closes in order */
            lease_register_let_go(&a->r, &a->me, text);
            a->believes_until_ms = 0;
            (void)send(w, who, text);
            a->alive = false;
            a->wakes_ms = w->now + between(w, 10, TTL);
            return;
        }
        a->began_ms = w->now;
        read_all(w, a);
        a->what = lease_register_decide(&a->r, &a->me, w->now, &a->n, &a->p);
        a->wakes_ms = w->now + (a->what == LEASE_WAIT ? TTL / 3 : between(w, 0, CALL / 2));
        if (a->what != LEASE_WAIT) a->step = WRITTEN;
        a->at = -2;
        return;
    }
    if (a->at == -2) { /* the record goes out a while after it was decided */
        lease_record_write(&a->me, a->what, a->n, a->p, text);
        a->at = send(w, who, text);
        a->wakes_ms = w->now + between(w, 0, CALL / 2);
        return;
    }
    a->step = IDLE;
    a->wakes_ms = w->now + between(w, 1, TTL / 3);
    if (a->at < 0) return; /* E_UNAVAILABLE: what it believes lasts as long as it did */
    read_all(w, a);
    uint64_t epoch = 0;
    int64_t before = a->me.epoch;
    if (lease_register_verdict(&a->r, &a->me, a->what, a->n, a->at, &epoch) != 0) {
        a->believes_until_ms = 0;
        return;
    }
    a->believes_until_ms = a->began_ms + TTL;
    if ((int64_t)epoch != before) {
        if ((int64_t)epoch <= w->highest && a->what != LEASE_HOLD) fail_msg("seed %" PRIu64 ": epoch %" PRIu64 " after %" PRId64, seed, epoch, w->highest);
        w->grants++;
        w->takeovers += a->what == LEASE_ANEW;
    }
    if ((int64_t)epoch > w->highest) w->highest = (int64_t)epoch;
    if (a->believes_until_ms > w->now) check_alone(w, actors, who, seed);
}

static int simulate(uint64_t seed, int64_t length_ms) {
    struct world w = {.now = 0};
    struct actor actors[ACTORS] = {{0}};
    random_seed(&w.chance, seed);
    w.log = mem_calloc(LOG_MAX, sizeof *w.log);
    assert_non_null(w.log);
    for (int i = 0; i < ACTORS; i++) be_born(&w, &actors[i], i);
    while (w.now < length_ms) {
        deliver(&w);
        int next = 0;
        for (int i = 1; i < ACTORS; i++)
            if (actors[i].wakes_ms < actors[next].wakes_ms) next = i;
        if (actors[next].wakes_ms > w.now) {
            w.now++;
            continue;
        }
        act(&w, actors, next, seed);
    }
    for (int i = 0; i < ACTORS; i++) lease_register_fini(&actors[i].r);
    mem_free(w.log);
    assert_true(w.grants > length_ms / (100 * TTL)); /* it is not merely that nobody ever gets it */
    return w.grants;
}

static void simulation(void **state) {
    (void)state;
    const char *given = getenv("GENLOOP_TEST_SEED"), *more = getenv("GENLOOP_TEST_RUNS");
    int grants = 0;
    uint64_t first = given ? strtoull(given, NULL, 10) : 1, runs = more ? strtoull(more, NULL, 10) : given ? 1 : 300;
    for (uint64_t seed = first; seed < first + runs; seed++) grants += simulate(seed, 200 * TTL);
    print_message("%d times the lease changed hands in %" PRIu64 " runs\n", grants, runs);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rules), cmocka_unit_test(decisions), cmocka_unit_test(many_names), cmocka_unit_test(simulation)};
    return cmocka_run_group_tests_name("register of leases", tests, NULL, NULL);
}
