/* Which replica: as a table of small stories, and a seeded simulation of replicas that come, load, drain and go, against what the header promises. */
#include "tests/unit/support/check.h"

#include "base/random.h"
#include "services/gateway/routing.h"

static int64_t at_ms = 1000000;
static char peers[ROUTING_REPLICAS_MAX + 8]; /* a peer is any pointer */

static int report(struct routing *r, int peer, uint32_t running, uint32_t queued, bool draining, const char *model, const char *loading) {
    char id[16];
    snprintf(id, sizeof id, "r%d", peer);
    const char *models[] = {model}, *loads[] = {loading};
    struct routing_report said = {.id = span_str(id), .running = running, .queued = queued, .draining = draining, .models = models, .n_models = model ? 1 : 0, .loading = loads, .n_loading = loading ? 1 : 0};
    return routing_report(r, &peers[peer], &said);
}
static int pick(struct routing *r, const char *model, uint64_t session, const struct routing_tried *tried) {
    struct replica *p;
    enum routing_answer a = routing_pick(r, span_str(model), session, NULL, tried, at_ms, &p, NULL);
    return a == ROUTING_FOUND ? (int)((char *)replica_peer(p) - peers) : a == ROUTING_LOADING ? -1 : -2;
}

/* Who would have to load it first is asked last. */
static void test_asleep(void **state) {
    (void)state;
    struct routing *r = routing_new();
    const char *m[] = {"m@1"};
    struct routing_report said = {.id = SPAN("r3"), .running = 9, .asleep = m, .n_asleep = 1};
    assert_int_equal(routing_report(r, &peers[3], &said), 0);
    assert_int_equal(pick(r, "m@1", 0, NULL), 3);
    said.id = SPAN("r4");
    said.running = 2;
    assert_int_equal(routing_report(r, &peers[4], &said), 0);
    assert_int_equal(pick(r, "m@1", 77, NULL), 4); /* the least loaded, whatever the session prefers */
    report(r, 5, 30, 0, false, "m@1", NULL);
    assert_int_equal(pick(r, "m@1", 0, NULL), 5); /* it is in memory there */
    report(r, 5, 0, 0, true, "m@1", NULL);
    assert_int_equal(pick(r, "m@1", 0, NULL), 4);
    said.draining = true;
    assert_int_equal(routing_report(r, &peers[4], &said), 0);
    assert_int_equal(pick(r, "m@1", 0, NULL), 3);
    assert_int_equal(pick(r, "m@2", 0, NULL), -2);
    routing_lost(r, &peers[3], at_ms);
    assert_int_equal(pick(r, "m@1", 0, NULL), -2);
    routing_free(r);
}

static void test_stories(void **state) {
    (void)state;
    struct routing *r = routing_new();
    struct routing_tried tried = {0};
    struct replica *p;
    assert_int_equal(pick(r, "m@1", 0, NULL), -2);
    report(r, 0, 0, 0, false, NULL, "m@1");
    assert_int_equal(pick(r, "m@1", 0, NULL), -1);
    assert_int_equal(pick(r, "m@2", 0, NULL), -2);
    report(r, 0, 5, 0, false, "m@1", NULL);
    report(r, 1, 1, 1, false, "m@1", NULL);
    report(r, 2, 0, 0, false, "n@1", NULL);
    assert_int_equal(pick(r, "m@1", 0, NULL), 1);
    assert_int_equal(pick(r, "n@1", 0, NULL), 2);
    /* What was sent counts before the next heartbeat says so, and not twice behind it. */
    for (int i = 0; i < 4; i++) {
        assert_int_equal(routing_pick(r, SPAN("m@1"), 0, NULL, NULL, at_ms, &p, NULL), ROUTING_FOUND);
        struct routing_tried mine = {0};
        routing_sent(p, &mine);
    }
    assert_int_equal(replica_load(routing_at(r, 0)) + replica_load(routing_at(r, 1)), 5 + 2 + 4);
    report(r, 1, 5, 0, false, "m@1", NULL);
    assert_int_equal(replica_load(routing_at(r, 1)), 5);
    routing_done(r, &peers[1]);
    assert_int_equal(replica_load(routing_at(r, 1)), 4);
    /* Equals take turns. */
    report(r, 0, 1, 0, false, "m@1", NULL);
    report(r, 1, 1, 0, false, "m@1", NULL);
    int one = pick(r, "m@1", 0, NULL), two = pick(r, "m@1", 0, NULL);
    assert_int_equal(one + two, 1);
    assert_int_not_equal(one, two);
    /* Who was tried is not asked again; who drains is not asked at all. */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(routing_pick(r, SPAN("m@1"), 0, NULL, &tried, at_ms, &p, NULL), ROUTING_FOUND);
        routing_sent(p, &tried);
    }
    assert_int_equal(pick(r, "m@1", 0, &tried), -2);
    report(r, 0, 0, 0, true, "m@1", NULL);
    for (int i = 0; i < 4; i++) assert_int_equal(pick(r, "m@1", 0, NULL), 1);
    routing_lost(r, &peers[1], at_ms);
    assert_int_equal(pick(r, "m@1", 0, NULL), -2);
    routing_done(r, &peers[1]); /* the end of a call may come behind the loss */
    routing_lost(r, &peers[1], at_ms);
    assert_null(routing_at(r, 2));
    routing_free(r);
    routing_free(NULL);
}

static void test_sessions(void **state) {
    (void)state;
    enum { REPLICAS = 8, SESSIONS = 400 };
    struct routing *r = routing_new();
    int before[SESSIONS], moved = 0, of[REPLICAS] = {0};
    for (int i = 0; i < REPLICAS; i++) report(r, i, 3, 0, false, "m@1", NULL);
    for (int s = 0; s < SESSIONS; s++) {
        char text[16];
        snprintf(text, sizeof text, "session-%d", s);
        before[s] = pick(r, "m@1", span_hash(span_str(text)), NULL);
        of[before[s]]++;
        assert_int_equal(pick(r, "m@1", span_hash(span_str(text)), NULL), before[s]); /* it stays */
    }
    for (int i = 0; i < REPLICAS; i++) CHECK(of[i] > SESSIONS / REPLICAS / 3, "replica %d has %d of %d sessions", i, of[i], SESSIONS);
    routing_lost(r, &peers[3], at_ms);
    for (int s = 0; s < SESSIONS; s++) {
        char text[16];
        snprintf(text, sizeof text, "session-%d", s);
        int now = pick(r, "m@1", span_hash(span_str(text)), NULL);
        if (now != before[s]) moved++, assert_int_equal(before[s], 3); /* only those of the one that went */
    }
    assert_int_equal(moved, of[3]);
    /* A prefix is worth a little waiting, not more. */
    uint64_t session = span_hash(SPAN("session-1"));
    int home = pick(r, "m@1", session, NULL);
    report(r, home, 3 + ROUTING_SLACK, 0, false, "m@1", NULL);
    assert_int_equal(pick(r, "m@1", session, NULL), home);
    report(r, home, 3 + ROUTING_SLACK + 1, 0, false, "m@1", NULL);
    assert_int_not_equal(pick(r, "m@1", session, NULL), home);
    /* Also at the end of the numbers. */
    for (int i = 0; i < REPLICAS; i++)
        if (i != 3) report(r, i, UINT32_MAX, 7, false, "m@1", NULL);
    assert_int_equal(pick(r, "m@1", session, NULL), home);
    routing_free(r);
}

/* A prompt of blocks of one letter each. */
static struct prefix_chain chain_of(const struct routing *r, const char *tenant, const char *letters) {
    struct prefix_chain c;
    char block[PREFIX_BLOCK];
    routing_prefix_begin(r, &c, span_str(tenant), SPAN("m@1"));
    for (; *letters; letters++) {
        memset(block, *letters, sizeof block);
        prefix_add(&c, span_of(block, sizeof block));
    }
    return c;
}
static int pick_prompt(struct routing *r, const char *tenant, const char *letters, uint64_t session, const struct routing_tried *tried, enum routing_prefix *decided) {
    struct replica *p;
    struct prefix_chain c = chain_of(r, tenant, letters);
    assert_int_equal(routing_pick(r, SPAN("m@1"), session, &c, tried, at_ms, &p, decided), ROUTING_FOUND);
    return (int)((char *)replica_peer(p) - peers);
}

static void test_prefixes(void **state) {
    (void)state;
    enum { SHARE = 50, SLACK = 3 };
    struct routing *r = routing_new();
    enum routing_prefix decided;
    int of[3] = {0};
    for (int i = 0; i < 3; i++) report(r, i, 0, 0, false, "m@1", NULL);
    (void)pick_prompt(r, "t", "aaaa", 0, NULL, &decided); /* as long as they are not compared they take turns */
    assert_int_equal(decided, ROUTING_PREFIX_NOT_ASKED);
    assert_int_equal(routing_compare_prefixes(r, SHARE, SLACK, 42), 0);
    for (int i = 0; i < 6; i++) { /* what has nothing in common takes turns too */
        char letters[] = {(char)('A' + i), 'x', 'x', 'x', 0};
        of[pick_prompt(r, "t", letters, 0, NULL, &decided)]++;
        assert_int_equal(decided, ROUTING_PREFIX_NEW);
    }
    for (int i = 0; i < 3; i++) assert_int_equal(of[i], 2);
    int home = pick_prompt(r, "t", "abcd", 0, NULL, &decided);
    for (int i = 0; i < 9; i++) {
        assert_int_equal(pick_prompt(r, "t", "abcz", 0, NULL, &decided), home);
        assert_int_equal(decided, ROUTING_PREFIX_SEEN);
    }
    assert_int_equal(pick_prompt(r, "t", "ab--", 0, NULL, NULL), home); /* half of it */
    for (int i = 0; i < 3; i++) { /* a quarter is not enough; nor are another tenant's beginnings, or another order */
        char letters[] = {'a', (char)('0' + i), 'c', 'd', 0}, turned[] = {'b', 'a', (char)('0' + i), 0};
        (void)pick_prompt(r, "t", letters, 0, NULL, &decided);
        assert_int_equal(decided, ROUTING_PREFIX_NEW);
        (void)pick_prompt(r, "t", turned, 0, NULL, &decided);
        assert_int_equal(decided, ROUTING_PREFIX_NEW + (i > 0)); /* of the second on two of three blocks are known */
        char tenant[] = {'u', (char)('0' + i), 0};
        (void)pick_prompt(r, tenant, "abcd", 0, NULL, &decided);
        assert_int_equal(decided, ROUTING_PREFIX_NEW);
    }
    (void)pick_prompt(r, "t", "", 0, NULL, &decided); /* shorter than a block */
    assert_int_equal(decided, ROUTING_PREFIX_NOT_ASKED);
    /* Up to the slack, and to a request for each block. */
    report(r, home, SLACK, 0, false, "m@1", NULL);
    assert_int_equal(pick_prompt(r, "t", "abcd", 0, NULL, NULL), home);
    assert_int_not_equal(pick_prompt(r, "t", "k", 0, NULL, NULL), home);
    report(r, home, 0, 0, false, "m@1", NULL);
    for (int i = 0; i < 3; i++) report(r, i, i != home, 0, false, "m@1", NULL);
    assert_int_equal(pick_prompt(r, "t", "o", 0, NULL, NULL), home);
    report(r, home, 3, 0, false, "m@1", NULL);
    assert_int_not_equal(pick_prompt(r, "t", "o", 0, NULL, &decided), home);
    assert_int_equal(decided, ROUTING_PREFIX_BUSY);
    /* Who is sent it then has it from then on, and the less loaded of the two goes first. */
    report(r, home, SLACK + 2, 0, false, "m@1", NULL);
    int second = pick_prompt(r, "t", "abcd", 0, NULL, &decided);
    assert_int_equal(decided, ROUTING_PREFIX_BUSY);
    assert_int_not_equal(second, home);
    assert_int_equal(pick_prompt(r, "t", "abcd", 0, NULL, &decided), second);
    assert_int_equal(decided, ROUTING_PREFIX_SEEN);
    report(r, home, 0, 0, false, "m@1", NULL);
    assert_int_equal(pick_prompt(r, "t", "abcd", 0, NULL, NULL), home);
    /* Who was tried, drains, or has no such model any more is not asked; a session goes before. */
    struct routing_tried tried = {0};
    for (size_t i = 0; routing_at(r, i); i++)
        if (replica_peer(routing_at(r, i)) == &peers[home]) routing_sent(routing_at(r, i), &tried);
    routing_done(r, &peers[home]);
    assert_int_equal(pick_prompt(r, "t", "abcd", 0, &tried, NULL), second);
    report(r, second, 0, 0, true, "m@1", NULL);
    int third = pick_prompt(r, "t", "abcd", 0, &tried, &decided);
    CHECK(third != home && third != second && decided == ROUTING_PREFIX_NEW, "it is %d's", third);
    report(r, second, 0, 0, false, "m@1", NULL);
    for (uint64_t session = 1; session < 20; session++) {
        assert_int_equal(pick_prompt(r, "t", "abcd", session, NULL, &decided), pick(r, "m@1", session, NULL));
        assert_int_equal(decided, ROUTING_PREFIX_NOT_ASKED);
    }
    /* With a replica goes what it had seen; its number is another's then. */
    for (int i = 0; i < 3; i++) routing_lost(r, &peers[i], at_ms);
    for (int i = 0; i < 3; i++) report(r, 20 + i, 0, 0, false, "m@1", NULL);
    (void)pick_prompt(r, "t", "abcd", 0, NULL, &decided);
    assert_int_equal(decided, ROUTING_PREFIX_NEW);
    routing_free(r);
}

static void test_retry(void **state) {
    (void)state;
    static const struct {
        int code;
        bool begun;
        int tried;
        bool may;
    } cases[] = {
        {E_UNAVAILABLE, false, 1, true}, {E_UNAVAILABLE, true, 1, false}, {E_UNAVAILABLE, false, ROUTING_ATTEMPTS_MAX, false}, {E_FULL, false, 1, true}, {E_NOT_FOUND, false, 2, true}, {E_NOMEM, false, 1, true},
        {E_INVALID, false, 1, false}, {E_DEADLINE, false, 1, false}, {E_CANCELLED, false, 1, false}, {E_DENIED, false, 1, false}, {E_INTERNAL, false, 1, false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct routing_tried tried = {.n = cases[i].tried};
        CHECK(routing_may_retry(cases[i].code, cases[i].begun, &tried) == cases[i].may, "case %zu", i);
    }
}

/* One fault is a restart. More in a row: asked last for a while, then by one call at a time, until one comes to a good end. */
static void test_circuit(void **state) {
    (void)state;
    struct routing *r = routing_new();
    struct routing_tried tried = {0};
    struct replica *p;
    report(r, 0, 9, 0, false, "m@1", NULL);
    report(r, 1, 0, 0, false, "m@1", NULL);
    routing_lost(r, &peers[1], at_ms);
    report(r, 1, 0, 0, false, "m@1", NULL);
    assert_int_equal(pick(r, "m@1", 0, NULL), 1); /* the first costs nothing */
    routing_lost(r, &peers[1], at_ms);
    report(r, 1, 0, 0, false, "m@1", NULL);
    for (uint64_t session = 0; session < 20; session++) assert_int_equal(pick(r, "m@1", session, NULL), 0); /* not for its sessions either */
    at_ms += ROUTING_OPEN_MS - 1;
    assert_int_equal(pick(r, "m@1", 0, NULL), 0);
    at_ms++;
    assert_int_equal(routing_pick(r, SPAN("m@1"), 0, NULL, NULL, at_ms, &p, NULL), ROUTING_FOUND);
    assert_ptr_equal(replica_peer(p), &peers[1]);
    routing_sent(p, &tried);
    assert_int_equal(pick(r, "m@1", 0, NULL), 0); /* while one tries it the others do not */
    assert_int_equal(pick(r, "m@1", 0, &tried), 0);
    routing_done(r, &peers[1]);
    routing_fault(r, &peers[1], at_ms); /* another fault: twice as long */
    at_ms += 2 * ROUTING_OPEN_MS - 1;
    assert_int_equal(pick(r, "m@1", 0, NULL), 0);
    at_ms++;
    assert_int_equal(pick(r, "m@1", 0, NULL), 1);
    routing_worked(r, &peers[1]);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(routing_pick(r, SPAN("m@1"), 0, NULL, NULL, at_ms, &p, NULL), ROUTING_FOUND);
        assert_ptr_equal(replica_peer(p), &peers[1]); /* closed: as many as there are */
        routing_sent(p, &tried);
    }
    for (int i = 0; i < 3; i++) routing_done(r, &peers[1]);
    routing_fault(r, &peers[1], at_ms);
    assert_int_equal(pick(r, "m@1", 0, NULL), 1); /* and forgotten */
    /* Never longer than the most. */
    for (int i = 0; i < 100; i++) routing_fault(r, &peers[1], at_ms);
    at_ms += ROUTING_OPEN_MAX_MS - 1;
    assert_int_equal(pick(r, "m@1", 0, NULL), 0);
    /* Where nobody else is it is asked all the same. */
    routing_lost(r, &peers[0], at_ms);
    assert_int_equal(pick(r, "m@1", 0, NULL), 1);
    routing_worked(r, &peers[1]);
    /* Who drains and goes is no fault. */
    report(r, 0, 9, 0, false, "m@1", NULL);
    for (int i = 0; i < 5; i++) {
        report(r, 1, 0, 0, true, "m@1", NULL);
        routing_lost(r, &peers[1], at_ms);
    }
    report(r, 1, 0, 0, false, "m@1", NULL);
    assert_int_equal(pick(r, "m@1", 0, NULL), 1);
    routing_worked(r, &peers[7]); /* nobody knows it */
    routing_fault(r, &peers[7], at_ms);
    routing_free(r);
}

static void test_limits(void **state) {
    (void)state;
    struct routing *r = routing_new();
    for (int i = 0; i < ROUTING_REPLICAS_MAX; i++) assert_int_equal(report(r, i, 0, 0, false, "m@1", NULL), 0);
    assert_int_equal(report(r, ROUTING_REPLICAS_MAX, 0, 0, false, "m@1", NULL), E_FULL);
    routing_lost(r, &peers[100], at_ms);
    assert_int_equal(report(r, ROUTING_REPLICAS_MAX, 0, 0, false, "m@1", NULL), 0); /* its number is free again */
    const char *models[ROUTING_MODELS_MAX + 9];
    for (size_t i = 0; i < COUNT(models); i++) models[i] = "x@1";
    models[0] = "y@1";
    struct routing_report many = {.id = SPAN("r0"), .models = models, .n_models = COUNT(models)};
    assert_int_equal(routing_report(r, &peers[0], &many), 0);
    assert_int_equal(pick(r, "y@1", 0, NULL), 0);
    routing_free(r);
    /* Memory that is missing leaves a replica without models, never with half a name. */
    for (uint64_t at = 1; at < 6; at++) {
        r = routing_new();
        alloc_fail_at(at);
        int code = report(r, 0, 0, 0, false, "m@1", "n@1");
        alloc_fail_at(0);
        CHECK(code == 0 || code == E_NOMEM, "%d", code);
        (void)pick(r, "m@1", 0, NULL);
        assert_int_equal(report(r, 0, 0, 0, false, "m@1", "n@1"), 0);
        assert_int_equal(pick(r, "m@1", 0, NULL), 0);
        routing_free(r);
    }
}

/* Any order of events, against arrays that keep the same by the plainest means. */
static void test_simulation(void **state) {
    (void)state;
    enum { PEERS = 12, STEPS = 20000, CALLS = 64 };
    uint64_t seed;
    struct random random;
    random_bytes(&seed, sizeof seed);
    random_seed(&random, seed);
    struct routing *r = routing_new();
    struct {
        bool there, draining;
        uint32_t reported, in_flight, then;
        int holds; /* 0 m@1, 1 n@1, 2 loads m@1 */
    } model[PEERS] = {0};
    struct {
        bool open;
        int peer;
        struct routing_tried tried;
    } calls[CALLS] = {0};
    for (int step = 0; step < STEPS; step++) {
        int peer = (int)random_below(&random, PEERS);
        switch (random_below(&random, 6)) {
        case 0: { /* a heartbeat */
            if (!model[peer].there) model[peer].in_flight = 0;
            model[peer].there = true;
            model[peer].draining = random_below(&random, 8) == 0;
            model[peer].reported = (uint32_t)random_below(&random, 6) + model[peer].in_flight;
            model[peer].then = model[peer].in_flight;
            model[peer].holds = (int)random_below(&random, 3);
            CHECK(report(r, peer, model[peer].reported, 0, model[peer].draining, model[peer].holds == 0 ? "m@1" : model[peer].holds == 1 ? "n@1" : NULL, model[peer].holds == 2 ? "m@1" : NULL) == 0, "seed %llu",
                  (unsigned long long)seed);
            break;
        }
        case 1:
            if (random_below(&random, 4)) break;
            if (model[peer].there) report(r, peer, 0, 0, true, NULL, NULL); /* it goes in peace: circuits have a test of their own */
            routing_lost(r, &peers[peer], at_ms);
            model[peer].there = false;
            for (int c = 0; c < CALLS; c++)
                if (calls[c].open && calls[c].peer == peer) calls[c].open = false; /* the bus ends them before the peer comes back */
            break;
        case 2: case 3: case 4: { /* a call */
            int c = (int)random_below(&random, CALLS);
            if (calls[c].open) break;
            uint64_t session = random_below(&random, 2) ? random_below(&random, 50) + 1 : 0;
            int got = pick(r, "m@1", session, NULL), candidates = 0, loading = 0;
            uint32_t least = UINT32_MAX;
            for (int i = 0; i < PEERS; i++) {
                if (!model[i].there || model[i].draining) continue;
                loading += model[i].holds == 2;
                if (model[i].holds != 0) continue;
                candidates++;
                uint32_t load = model[i].reported + model[i].in_flight - model[i].then;
                if (load < least) least = load;
            }
            CHECK(candidates ? got >= 0 : got == (loading ? -1 : -2), "seed %llu step %d: %d of %d", (unsigned long long)seed, step, got, candidates);
            if (got < 0) break;
            uint32_t load = model[got].reported + model[got].in_flight - model[got].then;
            CHECK(model[got].there && !model[got].draining && model[got].holds == 0 && load <= least + (session ? ROUTING_SLACK : 0), "seed %llu step %d: load %u, least %u", (unsigned long long)seed, step, load, least);
            struct replica *p = NULL;
            for (size_t i = 0; routing_at(r, i); i++)
                if (replica_peer(routing_at(r, i)) == &peers[got]) p = routing_at(r, i);
            assert_non_null(p);
            CHECK(replica_load(p) == load, "seed %llu step %d: load %u is %u", (unsigned long long)seed, step, load, replica_load(p));
            calls[c].open = true;
            calls[c].peer = got;
            calls[c].tried = (struct routing_tried){0};
            routing_sent(p, &calls[c].tried);
            model[got].in_flight++;
            break;
        }
        default: {
            int c = (int)random_below(&random, CALLS);
            if (!calls[c].open) break;
            calls[c].open = false;
            routing_done(r, &peers[calls[c].peer]);
            model[calls[c].peer].in_flight--;
        }
        }
    }
    routing_free(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stories), cmocka_unit_test(test_asleep), cmocka_unit_test(test_sessions), cmocka_unit_test(test_prefixes), cmocka_unit_test(test_retry), cmocka_unit_test(test_circuit), cmocka_unit_test(test_limits), cmocka_unit_test(test_simulation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
