/* Prefixes that requests share, and requests that give way to others: none of it changes a bit of what comes out. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/forward.h"
#include "engine/kv_cache.h"
#include "tiny.h"

static struct tiny llama;
static enum kv_type kv_type; /* of all engines */

static int set_up(void **state) {
    (void)state;
    tiny_make(&llama, "llama", 1);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    tiny_remove(&llama);
    return 0;
}

static size_t block_size(enum kv_type type) {
    struct kv_shape shape;
    forward_kv_shape(&llama.weights.config, type, &shape);
    return kv_block_size(&shape);
}
/* kv_bytes: as if keys and values were f32, so that as many blocks fit of any type. */
static struct engine *start(struct engine_options o) {
    o.kv_type = kv_type;
    o.kv_bytes = o.kv_bytes / block_size(KV_F32) * block_size(kv_type);
    return tiny_engine(&llama, o);
}

static struct engine_request request(const uint32_t *tokens, size_t n, int64_t max) {
    struct engine_request r = tiny_request(tokens, n, max);
    r.logprobs = true;
    r.sampling.seed = 77;
    r.sampling.repetition_penalty = 1.2;
    return r;
}

static struct engine_result one(struct engine *e, const struct engine_request *r) {
    struct engine_result result;
    assert_int_equal(engine_generate_batch(e, r, 1, &result, NULL), 0);
    if (result.error.code != 0) fail_msg("%s", result.error.message);
    return result;
}

/* The second of a scope takes what the first computed, but for the last row, whose output is wanted; another scope, and who wants every row, compute it themselves. */
static void test_hits(void **state) {
    (void)state;
    enum { N = 100 };
    static const struct {
        const char *name, *scope;
        bool whole;
        uint32_t cached;
    } rows[] = {
        {"the first", "a", false, 0},     {"the second", "a", false, N - 1}, {"another tenant", "b", false, 0}, {"the prompt is scored", "a", true, 0},
        {"that tenant again", "b", false, N - 1}, {"nobody's", "", false, 0},
    };
    uint32_t ids[N];
    tiny_tokens(ids, N, 1);
    struct engine *e = start((struct engine_options){.threads = 2});
    struct engine_result first = {0}, scored = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct engine_request r = request(ids, N, 40);
        r.scope = span_str(rows[i].scope);
        r.prompt_logprobs = rows[i].whole;
        struct engine_result got = one(e, &r);
        if (got.usage.cached_tokens != rows[i].cached) fail_msg("%s: %u cached", rows[i].name, got.usage.cached_tokens);
        assert_int_equal(got.prompt_count, rows[i].whole ? N - 1 : 0);
        got.prompt_count = 0;
        if (i == 0) first = got;
        else {
            tiny_same(rows[i].name, &first, &got);
            engine_result_fini(&got);
        }
    }
    /* an answer is a prefix of what is asked next */
    uint32_t next[N + 40 + 1];
    memcpy(next, ids, sizeof ids);
    memcpy(next + N, first.tokens, 40 * sizeof *next);
    next[N + 40] = 5;
    struct engine_request r = request(next, N + 41, 10);
    r.scope = SPAN("a");
    struct engine_result got = one(e, &r);
    assert_int_equal(got.usage.cached_tokens, N + 39); /* the last token of an answer is not computed */
    r.scope = SPAN("nobody before");
    struct engine_result cold = one(e, &r);
    assert_int_equal(cold.usage.cached_tokens, 0);
    tiny_same("a turn later", &cold, &got);
    struct engine_stats s;
    engine_get_stats(e, &s);
    assert_int_equal(s.cached_tokens, 2 * (N - 1) + got.usage.cached_tokens);
    assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
    assert_true(s.kv_blocks_cached > 0);
    engine_result_fini(&got);
    engine_result_fini(&cold);
    engine_result_fini(&first);
    engine_result_fini(&scored);
    engine_free(e);
}

/* Many that came together, with parts in common and a cache that is too small for all: each as if it were alone. */
static void test_together(void **state) {
    (void)state;
    enum { REQUESTS = 24, LONGEST = 150 };
    static uint32_t prompts[REQUESTS][LONGEST];
    struct engine_request requests[REQUESTS];
    struct engine_result alone[REQUESTS], got[REQUESTS];
    for (size_t i = 0; i < REQUESTS; i++) {
        tiny_tokens(prompts[i], LONGEST, 9);
        tiny_tokens(prompts[i] + 30 * (i % 4 + 1), LONGEST - 30 * (i % 4 + 1), 10 + i % 7);
        requests[i] = request(prompts[i], 60 + i * 11 % 90, 4 + (int64_t)(i % 30));
        requests[i].priority = (int32_t)(i % 3);
        requests[i].sampling.seed = i;
        requests[i].prompt_logprobs = i % 5 == 4;
        struct engine *e = start((struct engine_options){.threads = 1});
        alone[i] = one(e, &requests[i]);
        engine_free(e);
    }
    static const struct {
        const char *name;
        struct engine_options options;
    } ways[] = {
        {"a large cache", {.threads = 2}},
        {"a small cache", {.threads = 2, .kv_bytes = 600000}},
        {"small chunks", {.threads = 2, .step_rows = 17, .step_rows_mixed = 5, .sequences_max = 6, .kv_bytes = 800000}},
    };
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        struct engine *e = start(ways[w].options);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(engine_generate_batch(e, requests, REQUESTS, got, NULL), 0);
            uint32_t cached = 0;
            for (size_t i = 0; i < REQUESTS; i++) {
                assert_int_equal(got[i].error.code, 0);
                tiny_same(ways[w].name, &alone[i], &got[i]);
                cached += got[i].usage.cached_tokens;
                engine_result_fini(&got[i]);
            }
            assert_true(cached > 0);
        }
        struct engine_stats s;
        engine_get_stats(e, &s);
        assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
        engine_free(e);
    }
    for (size_t i = 0; i < REQUESTS; i++) engine_result_fini(&alone[i]);
}

/* --- preemption --- */

struct watcher {
    pthread_mutex_t lock;
    uint32_t tokens[256];
    float logprobs[256], prompt_logprobs[256];
    size_t count, prompt_count;
    enum engine_finish finish;
};
static void watch(void *arg, const struct engine_event *event) {
    struct watcher *w = arg;
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < event->token_count; i++) {
        w->logprobs[w->count] = event->logprobs[i].logprob;
        w->tokens[w->count++] = event->tokens[i];
    }
    for (size_t i = 0; i < event->prompt_count; i++) {
        assert_int_equal(event->prompt_first, w->prompt_count + 1 - i);
        w->prompt_logprobs[w->prompt_count++] = event->prompt_logprobs[i];
    }
    w->finish = event->finish;
    pthread_mutex_unlock(&w->lock);
}
static void wait_for(struct watcher *w, size_t count, size_t prompt_count, bool over) {
    for (int64_t until = clock_mono_ms() + 60000; clock_mono_ms() < until;) {
        pthread_mutex_lock(&w->lock);
        bool there = w->count >= count && w->prompt_count >= prompt_count && (!over || w->finish != ENGINE_RUNNING);
        pthread_mutex_unlock(&w->lock);
        if (there) return;
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    fail_msg("nothing came within a minute");
}

static void test_preemption(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t stands; /* tokens of the answer that had been told */
        bool scored, all; /* all: the other one needs every block, so that nothing is left of the prefix */
    } rows[] = {
        {"in its answer", 7, false, false}, {"in its answer, nothing left", 7, false, true}, {"before its first token", 0, false, false},
        {"its prompt told", 20, true, true}, {"its prompt half told", 0, true, true},
    };
    enum { N = 90, M = 60 };
    uint32_t ids[N], others[TINY_CONTEXT];
    tiny_tokens(ids, N, 3);
    tiny_tokens(others, TINY_CONTEXT, 4);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct engine *e = start((struct engine_options){.threads = 2, .step_rows = 32, .kv_bytes = 172000});
        struct engine_stats s;
        engine_get_stats(e, &s);
        uint32_t room = s.kv_blocks_total * KV_BLOCK_TOKENS;
        if (room < N + M || room > TINY_CONTEXT) fail_msg("%u tokens fit", room); /* one of them fits, two do not */
        struct engine_request r = request(ids, N, M), other = request(others, rows[i].all ? room - 3 : N, rows[i].all ? 3 : M);
        r.prompt_logprobs = rows[i].scored;
        struct engine_result alone = one(e, &r);
        engine_free(e);
        e = start((struct engine_options){.threads = 2, .step_rows = 32, .kv_bytes = 172000});
        struct watcher w = {.lock = PTHREAD_MUTEX_INITIALIZER};
        uint64_t id;
        r.credit = rows[i].stands;
        other.priority = 1;
        assert_int_equal(engine_submit(e, &r, &w, watch, &id, NULL), 0);
        wait_for(&w, rows[i].stands, rows[i].scored ? (rows[i].stands ? N - 1 : 1) : 0, false);
        struct engine_result urgent = one(e, &other);
        engine_get_stats(e, &s);
        assert_int_equal(urgent.token_count, rows[i].all ? 3 : M);
        if (rows[i].stands > 0) assert_int_equal(s.preempted, 1); /* else it may not have been admitted before */
        engine_grant(e, id, 1000);
        wait_for(&w, M, 0, true);
        assert_int_equal(w.finish, ENGINE_LENGTH);
        assert_int_equal(w.count, M);
        if (memcmp(w.tokens, alone.tokens, M * sizeof *w.tokens) != 0) fail_msg("%s: other tokens", rows[i].name);
        for (size_t t = 0; t < M; t++) assert_true(w.logprobs[t] == alone.logprobs[t].logprob);
        assert_int_equal(w.prompt_count, rows[i].scored ? N - 1 : 0);
        for (size_t t = 0; t < w.prompt_count; t++) assert_true(w.prompt_logprobs[t] == alone.prompt_logprobs[t]);
        engine_get_stats(e, &s);
        assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
        engine_result_fini(&alone);
        engine_result_fini(&urgent);
        engine_free(e);
    }
}

/* Prompts that arrive while an answer is written: some steps begin anew for them, and no token is another. As many answers as it takes to see some. */
static void test_begins_anew(void **state) {
    (void)state;
    enum { N = 20, M = 150, ROUNDS_MAX = 500 };
    uint32_t ids[N], others[8];
    tiny_tokens(ids, N, 5);
    tiny_tokens(others, 8, 6);
    struct engine *e = start((struct engine_options){.threads = 2});
    struct engine_request r = request(ids, N, M), other = request(others, 8, 2);
    struct engine_result alone = one(e, &r), other_alone = one(e, &other);
    struct engine_stats s;
    engine_get_stats(e, &s);
    assert_int_equal(s.steps_begun_anew, 0);
    for (int round = 0; s.steps_begun_anew < 5; round++) {
        if (round == ROUNDS_MAX) fail_msg("%d answers, and %d steps begun anew", round, (int)s.steps_begun_anew);
        struct watcher w = {.lock = PTHREAD_MUTEX_INITIALIZER};
        assert_int_equal(engine_submit(e, &r, &w, watch, NULL, NULL), 0);
        for (int i = 0; i < 10; i++) {
            struct engine_result got = one(e, &other);
            tiny_same("a prompt that arrives", &other_alone, &got);
            engine_result_fini(&got);
        }
        wait_for(&w, M, 0, true);
        assert_int_equal(w.count, M);
        for (size_t t = 0; t < M; t++) assert_true(w.tokens[t] == alone.tokens[t] && w.logprobs[t] == alone.logprobs[t].logprob);
        engine_get_stats(e, &s);
        assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
    }
    engine_result_fini(&alone);
    engine_result_fini(&other_alone);
    engine_free(e);
}

static void in_int8(void **state, void (*test)(void **)) {
    kv_type = KV_INT8;
    test(state);
    kv_type = KV_F32;
}
static void test_hits_int8(void **state) { in_int8(state, test_hits); }
static void test_together_int8(void **state) { in_int8(state, test_together); }
static void test_preemption_int8(void **state) { in_int8(state, test_preemption); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hits),      cmocka_unit_test(test_together),      cmocka_unit_test(test_preemption),      cmocka_unit_test(test_begins_anew),
        cmocka_unit_test(test_hits_int8), cmocka_unit_test(test_together_int8), cmocka_unit_test(test_preemption_int8),
    };
    return cmocka_run_group_tests_name("sharing", tests, set_up, tear_down);
}
