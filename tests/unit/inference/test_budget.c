/* What stays in memory: as stories, and a seeded simulation of models that are asked for at random, in which none waits for ever and none with a call is unloaded. */
#include "tests/unit/support/check.h"

#include "base/random.h"
#include "services/inference/budget.h"

enum { NOW = 1000 * 1000, MODELS = 6 };

static void plan(struct budget_model *m, size_t n, uint64_t budget, const char *want, int line) {
    char got[MODELS + 1] = {0};
    budget_plan(m, n, budget, NOW);
    for (size_t i = 0; i < n; i++) got[i] = ".LUY"[m[i].action];
    CHECK(strcmp(got, want) == 0, "line %d: %s, not %s", line, got, want);
}
#define PLAN(budget, want, ...)                                  \
    do {                                                         \
        struct budget_model m[] = {__VA_ARGS__};                 \
        plan(m, COUNT(m), budget, want, __LINE__);               \
    } while (0)
#define MODEL(s, ...) {.state = BUDGET_##s, __VA_ARGS__}

static void test_stories(void **state) {
    (void)state;
    /* at the start: what there is room for, production's first, whatever its place */
    PLAN(100, "LL", MODEL(AWAY, .bytes = 40), MODEL(AWAY, .bytes = 60));
    PLAN(99, ".L", MODEL(AWAY, .bytes = 40), MODEL(AWAY, .bytes = 60, .favoured = true));
    PLAN(99, "L.", MODEL(AWAY, .bytes = 40), MODEL(AWAY, .bytes = 60));
    PLAN(10, "L.", MODEL(AWAY, .bytes = 40), MODEL(AWAY, .bytes = 60)); /* one is loaded whatever it takes */
    PLAN(100, "..", MODEL(BARRED, .bytes = 40), MODEL(BARRED, .bytes = 60));
    /* nobody makes room for what nobody asks for */
    PLAN(100, "..", MODEL(READY, .bytes = 60), MODEL(AWAY, .bytes = 60, .favoured = true));
    /* room is made by the idle one used longest ago, by production's last */
    PLAN(100, "U..", MODEL(READY, .bytes = 50, .used_ms = 1), MODEL(READY, .bytes = 50, .used_ms = 2), MODEL(AWAY, .bytes = 50, .asked_ms = NOW));
    PLAN(100, ".U.", MODEL(READY, .bytes = 50, .used_ms = 1, .favoured = true), MODEL(READY, .bytes = 50, .used_ms = 2), MODEL(AWAY, .bytes = 50, .asked_ms = NOW));
    PLAN(100, "U..", MODEL(READY, .bytes = 50, .used_ms = 1, .favoured = true), MODEL(READY, .bytes = 50, .used_ms = 2 + BUDGET_FAVOUR_MS), MODEL(AWAY, .bytes = 50, .asked_ms = NOW));
    PLAN(100, "UU.", MODEL(READY, .bytes = 50, .used_ms = 1), MODEL(READY, .bytes = 50, .used_ms = 2), MODEL(AWAY, .bytes = 51, .asked_ms = NOW));
    PLAN(100, "UU.", MODEL(READY, .bytes = 50, .used_ms = 1), MODEL(READY, .bytes = 50, .used_ms = 2), MODEL(AWAY, .bytes = 500, .asked_ms = NOW)); /* larger than the budget */
    /* a busy one goes on; after a while it takes no further call, and once it has none it goes */
    PLAN(100, "..", MODEL(READY, .bytes = 60, .calls = 1), MODEL(AWAY, .bytes = 60, .asked_ms = NOW - BUDGET_PATIENCE_MS + 1));
    PLAN(100, "Y.", MODEL(READY, .bytes = 60, .calls = 1), MODEL(AWAY, .bytes = 60, .asked_ms = NOW - BUDGET_PATIENCE_MS));
    PLAN(100, "..", MODEL(READY, .bytes = 60, .calls = 1, .yields = true), MODEL(AWAY, .bytes = 60, .asked_ms = NOW - BUDGET_PATIENCE_MS));
    PLAN(100, "U.", MODEL(READY, .bytes = 60, .yields = true), MODEL(AWAY, .bytes = 60, .asked_ms = NOW - BUDGET_PATIENCE_MS));
    PLAN(100, ".U.", MODEL(READY, .bytes = 50, .calls = 1), MODEL(READY, .bytes = 50, .used_ms = NOW), MODEL(AWAY, .bytes = 50, .asked_ms = NOW - BUDGET_PATIENCE_MS)); /* an idle one rather */
    PLAN(100, "..", MODEL(READY, .bytes = 60, .asked_ms = 5), MODEL(AWAY, .bytes = 60, .asked_ms = NOW)); /* it has just been loaded for somebody */
    /* what is going is waited for, and is kept for who asked first */
    PLAN(100, "...", MODEL(GOING, .bytes = 60), MODEL(READY, .bytes = 40), MODEL(AWAY, .bytes = 60, .asked_ms = NOW));
    PLAN(100, "...", MODEL(GOING, .bytes = 60), MODEL(AWAY, .bytes = 30), MODEL(AWAY, .bytes = 60, .asked_ms = NOW));
    PLAN(100, ".L.", MODEL(LOADING, .bytes = 40), MODEL(AWAY, .bytes = 60, .asked_ms = 5), MODEL(AWAY, .bytes = 60, .asked_ms = 6));
    PLAN(100, "...", MODEL(LOADING, .bytes = 50), MODEL(AWAY, .bytes = 60, .asked_ms = 5), MODEL(AWAY, .bytes = 10, .asked_ms = 6));
    /* more was loaded than was expected */
    PLAN(100, "U.", MODEL(READY, .bytes = 60, .used_ms = 1), MODEL(READY, .bytes = 60, .used_ms = 2));
    PLAN(100, "..", MODEL(READY, .bytes = 60, .calls = 1), MODEL(READY, .bytes = 60, .calls = 1));
    PLAN(100, ".", MODEL(READY, .bytes = 600));
    PLAN(UINT64_MAX, "L.L", MODEL(AWAY, .bytes = UINT64_MAX), MODEL(BARRED), MODEL(AWAY, .bytes = UINT64_MAX));
}

/* Time in steps of 100 ms; loading and freeing take some; calls come and last at random. */
static void test_simulation(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct budget_model m[MODELS] = {{0}};
        int busy_until[MODELS] = {0}, done_at[MODELS] = {0};
        struct random r;
        random_seed(&r, seed);
        uint64_t budget = 100 + random_below(&r, 100), most = 0;
        for (size_t i = 0; i < MODELS; i++) {
            m[i] = (struct budget_model){.state = BUDGET_AWAY, .bytes = 20 + random_below(&r, 60), .favoured = i == 0};
            if (m[i].bytes > most) most = m[i].bytes;
        }
        for (int t = 1; t < 3000; t++) {
            int64_t now = (int64_t)t * 100;
            uint64_t used = 0;
            for (size_t i = 0; i < MODELS; i++) {
                if (m[i].state == BUDGET_LOADING && t >= done_at[i]) m[i].state = BUDGET_READY;
                if (m[i].state == BUDGET_GOING && t >= done_at[i]) m[i].state = BUDGET_AWAY;
                if (m[i].state == BUDGET_READY && t >= busy_until[i]) m[i].calls = 0;
                if (random_below(&r, 8) == 0 && !m[i].asked_ms) m[i].asked_ms = now; /* a call */
                if (m[i].asked_ms && m[i].state == BUDGET_READY && !m[i].yields) {
                    m[i].asked_ms = 0;
                    m[i].used_ms = now;
                    m[i].calls = 1;
                    int until = t + 1 + (int)random_below(&r, 10);
                    if (until > busy_until[i]) busy_until[i] = until;
                }
                if (m[i].asked_ms && now - m[i].asked_ms > 60000) fail_msg("seed %llu: model %zu is waited for since %lld ms", (unsigned long long)seed, i, (long long)(now - m[i].asked_ms));
                if (m[i].state != BUDGET_AWAY) used += m[i].bytes;
            }
            if (used > budget && used > most) fail_msg("seed %llu: %llu in memory, the budget is %llu", (unsigned long long)seed, (unsigned long long)used, (unsigned long long)budget);
            budget_plan(m, MODELS, budget, now);
            for (size_t i = 0; i < MODELS; i++) {
                if (m[i].action == BUDGET_UNLOAD) assert_true(m[i].calls == 0 && m[i].state == BUDGET_READY);
                if (m[i].action == BUDGET_YIELD) m[i].yields = true;
                if (m[i].action == BUDGET_LOAD || m[i].action == BUDGET_UNLOAD) {
                    m[i].state = m[i].action == BUDGET_LOAD ? BUDGET_LOADING : BUDGET_GOING;
                    m[i].yields = false;
                    done_at[i] = t + 1 + (int)random_below(&r, 5);
                }
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stories), cmocka_unit_test(test_simulation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
