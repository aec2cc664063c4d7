/* Models with an encoder beside the decoder, in the engine: the same answers in whatever company, through preemption and cancel; what they refuse. That the numbers are right, tests/conformance/test_t5.py holds to transformers. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "engine/attention.h"
#include "engine/engine.h"
#include "engine/kv_cache.h"
#include "engine/position_bias.h"
#include "tiny.h"

static const char *const names[] = {"t5", "mt5", "umt5"};
enum { FAMILIES = sizeof names / sizeof *names, LONGEST = 150 };
static struct tiny families[FAMILIES];

static int set_up(void **state) {
    (void)state;
    for (size_t i = 0; i < FAMILIES; i++) tiny_make(&families[i], names[i], i + 1);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    for (size_t i = 0; i < FAMILIES; i++) tiny_remove(&families[i]);
    return 0;
}

static struct engine_request request(const uint32_t *tokens, size_t n, int64_t max) {
    struct engine_request r = tiny_request(tokens, n, max);
    r.logprobs = true;
    return r;
}

static struct engine_result one(struct engine *e, const struct engine_request *r) {
    struct engine_result result;
    assert_int_equal(engine_generate_batch(e, r, 1, &result, NULL), 0);
    if (result.error.code != 0) fail_msg("%s", result.error.message);
    return result;
}

/* --- the added numbers --- */

static void test_bias(void **state) {
    (void)state;
    struct model_config c;
    model_config_default(&c, model_arch_find(SPAN("t5")), 2, 48, 3, 3, 64, TINY_VOCAB);
    c.position_buckets = 8;
    c.position_distance = 11;
    float weights[8 * 3], *table, scores[40], want[40];
    for (size_t i = 0; i < 24; i++) weights[i] = (float)i * 0.25f - 2;
    struct model_view view = {.type = TENSOR_F32, .data = (const uint8_t *)weights, .row_size = 3 * sizeof(float), .rows = 8, .cols = 3};
    for (int both = 0; both < 2; both++) {
        table = mem_calloc(position_bias_size(&c, both), sizeof *table);
        assert_non_null(table);
        position_bias_fill(&c, &view, both, table);
        for (uint32_t head = 0; head < 3; head++)
            for (size_t position = 0; position < 40; position++)
                for (size_t from = 0; from < 40; from += 7) {
                    size_t end = both ? 40 : position + 1;
                    if (from >= end) continue;
                    for (size_t i = from; i < end; i++) {
                        scores[i - from] = (float)i;
                        want[i - from] = 0.5f * (float)i + weights[model_position_bucket(&c, (int64_t)i - (int64_t)position, both) * 3 + head];
                    }
                    position_bias_add(position_bias_head(&c, table, head, both), c.position_distance, 0.5f, position, from, end - from, scores);
                    for (size_t i = 0; i < end - from; i++)
                        if (scores[i] != want[i]) fail_msg("head %u, query %zu, key %zu: %g, should be %g", head, position, from + i, (double)scores[i], (double)want[i]);
                }
        mem_free(table);
    }
    model_config_default(&c, model_arch_find(SPAN("llama")), 2, 48, 3, 3, 64, TINY_VOCAB);
    assert_int_equal(position_bias_size(&c, true), 0);
}

/* Against f64, and no query changed by those in its tile. */
static void test_attention(void **state) {
    (void)state;
    enum { D = 12, T = 50, DISTANCE = 9 };
    struct kv_shape shape = {.layers = 1, .kv_heads = 1, .head_dim = D};
    struct kv_cache kv;
    struct random r;
    uint32_t table[] = {3, 1, 0, 2};
    static float k[T][D], v[T][D], q[T][D], bias[DISTANCE + 1], alone[T][D], got[T][D];
    random_seed(&r, 5);
    assert_int_equal(kv_cache_init(&kv, &shape, 4, NULL), 0);
    memset(kv.data, 0xff, kv.data_size);
    for (size_t t = 0; t < T; t++) {
        for (size_t d = 0; d < D; d++) {
            k[t][d] = (float)random_normal(&r);
            v[t][d] = (float)random_normal(&r);
            q[t][d] = (float)random_normal(&r);
        }
        kv_cache_put(&kv, table, 0, (uint32_t)t, k[t], v[t]);
    }
    for (size_t i = 0; i <= DISTANCE; i++) bias[i] = (float)random_normal(&r);
    float *scratch = mem_alloc_aligned(attention_scratch_size(T));
    for (uint32_t tile = 1; tile <= ATTENTION_TILE; tile++)
        for (uint32_t first = 0; first < T; first += tile) {
            struct attention_tile t = {.head_dim = D, .scale = 0.7f, .base = kv_cache_base(&kv, 0, 0), .block_stride = kv.block_size, .values_offset = kv.head_size, .blocks = table,
                                       .bias_distance = DISTANCE};
            for (; t.n < tile && first + t.n < T; t.n++) {
                t.q[t.n] = q[first + t.n];
                t.out[t.n] = tile == 1 ? alone[first + t.n] : got[first + t.n];
                t.position[t.n] = first + t.n;
                t.bias[t.n] = bias + DISTANCE;
            }
            attention_run(&t, scratch);
            if (tile > 1) assert_memory_equal(got[first], alone[first], t.n * sizeof *got);
        }
    for (size_t i = 0; i < T; i++) {
        double p[T], sum = 0;
        for (size_t t = 0; t <= i; t++) {
            double dot = 0;
            for (size_t d = 0; d < D; d++) dot += (double)q[i][d] * (double)k[t][d];
            sum += p[t] = exp(dot * (double)0.7f + (double)bias[i - t < DISTANCE ? DISTANCE - (i - t) : 0]);
        }
        for (size_t d = 0; d < D; d++) {
            double x = 0;
            for (size_t t = 0; t <= i; t++) x += p[t] / sum * (double)v[t][d];
            if (fabs(x - (double)alone[i][d]) > 1e-5) fail_msg("token %zu: %g, should be %g", i, (double)alone[i][d], x);
        }
    }
    mem_free(scratch);
    kv_cache_fini(&kv);
}

/* --- answers --- */

static void test_invariance(void **state) {
    (void)state;
    enum { REQUESTS = 12 };
    static const struct {
        const char *name;
        struct engine_options options;
    } ways[] = {
        {"together", {.threads = 1}},
        {"together, 3 threads", {.threads = 3}},
        {"small chunks", {.threads = 2, .step_rows = 7, .step_rows_mixed = 3, .sequences_max = 5}},
        {"a small cache", {.threads = 2, .kv_bytes = 700000}},
        {"guesses", {.threads = 2, .guessing = ENGINE_GUESS_ALWAYS}},
    };
    static uint32_t prompts[REQUESTS][LONGEST];
    for (size_t m = 0; m < FAMILIES; m++)
        for (int kind = 0; kind < 4; kind++) {
            if (kind >= 2 && m > 0) continue; /* the cache is the same for all */
            struct engine_request requests[REQUESTS];
            for (size_t i = 0; i < REQUESTS; i++) {
                size_t n = 1 + i * 37 % LONGEST;
                tiny_tokens(prompts[i], n, 100 + i);
                requests[i] = request(prompts[i], n, 4 + (int64_t)(i * 7 % 30));
                requests[i].sampling.temperature = i % 3 == 0 ? 0 : 1;
                requests[i].sampling.seed = i;
                requests[i].sampling.repetition_penalty = i % 5 == 2 ? 1.3 : 1;
            }
            struct engine_options alone_options = {.threads = 1, .weights = kind == 1 ? PACKED_Q8 : PACKED_STORED, .kv_type = kind == 2 ? KV_F16 : kind == 3 ? KV_INT8 : KV_F32};
            struct engine_result alone[REQUESTS], got[REQUESTS];
            struct engine *e = tiny_engine(&families[m], alone_options);
            for (size_t i = 0; i < REQUESTS; i++) {
                alone[i] = one(e, &requests[i]);
                assert_int_equal(alone[i].usage.prompt_tokens, requests[i].token_count);
                assert_int_equal(alone[i].usage.completion_tokens, requests[i].tokens_max);
            }
            engine_free(e);
            for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
                struct engine_options o = ways[w].options;
                o.weights = alone_options.weights;
                o.kv_type = alone_options.kv_type;
                e = tiny_engine(&families[m], o);
                assert_int_equal(engine_generate_batch(e, requests, REQUESTS, got, NULL), 0);
                for (size_t i = 0; i < REQUESTS; i++) {
                    char name[96];
                    snprintf(name, sizeof name, "%s, kind %d, request %zu, %s", names[m], kind, i, ways[w].name);
                    if (got[i].error.code != 0) fail_msg("%s: %s", name, got[i].error.message);
                    tiny_same(name, &alone[i], &got[i]);
                    engine_result_fini(&got[i]);
                }
                struct engine_stats s;
                engine_get_stats(e, &s);
                assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
                assert_int_equal(s.running + s.queued, 0);
                engine_free(e);
            }
            for (size_t i = 0; i < REQUESTS; i++) engine_result_fini(&alone[i]);
        }
}

/* The source decides the answer, from its first to its last token. */
static void test_source_matters(void **state) {
    (void)state;
    uint32_t ids[LONGEST];
    tiny_tokens(ids, LONGEST, 3);
    struct engine *e = tiny_engine(&families[0], (struct engine_options){.threads = 2});
    struct engine_request r = request(ids, LONGEST, 6);
    r.sampling.temperature = 0;
    struct engine_result whole = one(e, &r);
    for (size_t at = 0; at < LONGEST; at += LONGEST - 1) {
        ids[at] = (ids[at] + 1) % TINY_VOCAB;
        struct engine_result other = one(e, &r);
        assert_true(other.logprobs[0].logprob != whole.logprobs[0].logprob);
        engine_result_fini(&other);
        ids[at] = (ids[at] + TINY_VOCAB - 1) % TINY_VOCAB;
    }
    engine_result_fini(&whole);
    engine_free(e);
}

struct watcher {
    pthread_mutex_t lock;
    uint32_t tokens[LONGEST];
    float logprobs[LONGEST];
    size_t count;
    enum engine_finish finish;
};
static void watch(void *arg, const struct engine_event *event) {
    struct watcher *w = arg;
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < event->token_count; i++) {
        w->tokens[w->count] = event->tokens[i];
        w->logprobs[w->count++] = event->logprobs[i].logprob;
    }
    w->finish = event->finish;
    pthread_mutex_unlock(&w->lock);
}
/* Until it is over, or has so many tokens; 60 s at most. */
static void wait_for(struct watcher *w, size_t tokens) {
    for (int i = 0; i < 60000; i++) {
        pthread_mutex_lock(&w->lock);
        bool enough = w->finish != ENGINE_RUNNING || (tokens > 0 && w->count >= tokens);
        pthread_mutex_unlock(&w->lock);
        if (enough) return;
        usleep(1000);
    }
    fail_msg("nothing came");
}

/* One that gave way reads its source again, and goes on where it stood. */
static void test_preempted(void **state) {
    (void)state;
    enum { NEW = 40, PROMPT = 100 };
    static uint32_t prompts[3][PROMPT];
    struct engine_request r[3];
    struct engine_result alone[3];
    struct error err = {0};
    uint64_t id;
    struct engine *e = tiny_engine(&families[2], (struct engine_options){.threads = 1});
    for (size_t i = 0; i < 3; i++) {
        tiny_tokens(prompts[i], PROMPT, 40 + i);
        r[i] = request(prompts[i], PROMPT, NEW);
        r[i].sampling.seed = i;
        alone[i] = one(e, &r[i]);
    }
    engine_free(e);
    e = tiny_engine(&families[2], (struct engine_options){.threads = 2, .sequences_max = 1});
    struct watcher w[3] = {{.lock = PTHREAD_MUTEX_INITIALIZER}, {.lock = PTHREAD_MUTEX_INITIALIZER}, {.lock = PTHREAD_MUTEX_INITIALIZER}};
    r[0].credit = 7; /* it stands there when the next one comes */
    assert_int_equal(engine_submit(e, &r[0], &w[0], watch, &id, &err), 0);
    wait_for(&w[0], 7);
    r[1].priority = 1;
    r[2].priority = 2;
    assert_int_equal(engine_submit(e, &r[1], &w[1], watch, NULL, &err), 0);
    assert_int_equal(engine_submit(e, &r[2], &w[2], watch, NULL, &err), 0);
    wait_for(&w[1], 0);
    wait_for(&w[2], 0);
    engine_grant(e, id, NEW);
    wait_for(&w[0], 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(w[i].finish, ENGINE_LENGTH);
        assert_int_equal(w[i].count, alone[i].token_count);
        for (size_t k = 0; k < w[i].count; k++)
            if (w[i].tokens[k] != alone[i].tokens[k] || w[i].logprobs[k] != alone[i].logprobs[k].logprob) fail_msg("request %zu differs at %zu", i, k);
        engine_result_fini(&alone[i]);
    }
    struct engine_stats s;
    engine_get_stats(e, &s);
    assert_true(s.preempted >= 1);
    engine_free(e);
}

/* Whoever leaves while its source is read takes nothing with it, and holds nobody. */
static void test_cancelled(void **state) {
    (void)state;
    enum { REQUESTS = 24, KEPT = 5 };
    static uint32_t prompts[REQUESTS][LONGEST];
    static struct watcher w[REQUESTS];
    struct engine *e = tiny_engine(&families[1], (struct engine_options){.threads = 2, .step_rows_mixed = 1});
    struct engine_request r[REQUESTS];
    uint64_t ids[REQUESTS];
    struct error err = {0};
    for (size_t i = 0; i < REQUESTS; i++) {
        tiny_tokens(prompts[i], LONGEST, i);
        r[i] = request(prompts[i], LONGEST, 20);
        r[i].sampling.seed = i;
        pthread_mutex_init(&w[i].lock, NULL);
        w[i].count = 0;
        w[i].finish = ENGINE_RUNNING;
        assert_int_equal(engine_submit(e, &r[i], &w[i], watch, &ids[i], &err), 0);
        if (i % KEPT != 0) {
            if (i % 3 == 0) usleep(2000);
            engine_cancel(e, ids[i]);
        }
    }
    for (size_t i = 0; i < REQUESTS; i++) {
        wait_for(&w[i], 0);
        if (i % KEPT != 0) continue;
        assert_int_equal(w[i].finish, ENGINE_LENGTH);
        struct engine_result alone = one(e, &r[i]);
        assert_memory_equal(w[i].tokens, alone.tokens, alone.token_count * sizeof *alone.tokens);
        engine_result_fini(&alone);
    }
    struct engine_stats s;
    engine_get_stats(e, &s);
    assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
    engine_free(e);
    for (size_t i = 0; i < REQUESTS; i++) pthread_mutex_destroy(&w[i].lock);
}

/* While a long source is read, layer by layer, what streams beside it goes on: a token at least for every layer. */
struct meeting {
    struct engine *e;
    struct engine_request long_one;
    struct watcher stream, other;
    size_t at_submit, at_first; /* tokens of the stream when the other came, and when its first token did */
};
static void on_other(void *arg, const struct engine_event *event) { /* both are called on the engine's thread */
    struct meeting *m = arg;
    if (event->token_count > 0 && m->other.count == 0) m->at_first = m->stream.count;
    watch(&m->other, event);
}
static void on_stream(void *arg, const struct engine_event *event) {
    struct meeting *m = arg;
    watch(&m->stream, event);
    if (m->stream.count != 3) return;
    m->at_submit = m->stream.count;
    assert_int_equal(engine_submit(m->e, &m->long_one, m, on_other, NULL, NULL), 0);
}
static void test_streams_go_on(void **state) {
    (void)state;
    enum { ATTEMPTS = 50, LAYERS = 2 + 3 };
    static uint32_t ids[LONGEST];
    tiny_tokens(ids, LONGEST, 1);
    struct engine *e = tiny_engine(&families[0], (struct engine_options){.threads = 2, .step_rows_mixed = 1});
    bool met = false;
    for (int i = 0; i < ATTEMPTS && !met; i++) {
        struct meeting m = {.e = e, .long_one = request(ids, LONGEST, 2), .stream = {.lock = PTHREAD_MUTEX_INITIALIZER}, .other = {.lock = PTHREAD_MUTEX_INITIALIZER}};
        struct engine_request r = request(ids, 4, LONGEST);
        assert_int_equal(engine_submit(e, &r, &m, on_stream, NULL, NULL), 0);
        wait_for(&m.stream, 0);
        wait_for(&m.other, 0);
        met = m.at_first < LONGEST; /* else the stream was over before the other was taken in */
        if (met) assert_in_range(m.at_first, m.at_submit + LAYERS - 1, LONGEST);
    }
    assert_true(met);
    engine_free(e);
}

/* What the decoder is made to say has the log-probabilities that it has when the decoder says it; however it is cut into steps, and of any length beside its source. */
static void test_target(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t source, target;
        struct engine_options options;
    } cases[] = {
        {"a target far longer than its source", 2, LONGEST, {.threads = 1}},
        {"the same, a row at a time", 2, LONGEST, {.threads = 2, .sequences_max = 1, .step_rows = 1}},
        {"a long source", LONGEST, 3, {.threads = 2}},
        {"one token of either", 1, 1, {.threads = 1}},
        {"an empty source", 0, 20, {.threads = 1}},
    };
    uint32_t ids[LONGEST];
    tiny_tokens(ids, LONGEST, 9);
    for (size_t m = 0; m < FAMILIES; m++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct engine *e = tiny_engine(&families[m], cases[i].options);
            struct engine_request r = request(ids, cases[i].source, (int64_t)cases[i].target);
            r.sampling.temperature = 0;
            struct engine_result said = one(e, &r);
            assert_int_equal(said.token_count, cases[i].target);
            r.target = said.tokens;
            r.target_count = cases[i].target;
            r.tokens_max = 0;
            r.logprobs = false;
            r.prompt_logprobs = true;
            struct engine_result scored = one(e, &r);
            assert_int_equal(scored.prompt_count, cases[i].target);
            assert_int_equal(scored.token_count, 0);
            assert_int_equal(scored.usage.prompt_tokens, cases[i].source ? cases[i].source : 1);
            for (size_t k = 0; k < cases[i].target; k++) {
                if (scored.prompt_argmax[k] != said.tokens[k]) fail_msg("%s, %s: token %zu is not the likeliest", names[m], cases[i].name, k);
                if (!(fabsf(scored.prompt_logprobs[k] - said.logprobs[k].logprob) < 1e-5f))
                    fail_msg("%s, %s: token %zu at %g, said at %g", names[m], cases[i].name, k, (double)scored.prompt_logprobs[k], (double)said.logprobs[k].logprob);
            }
            engine_result_fini(&scored);
            /* and it goes on from there */
            r.target_count = cases[i].target / 2;
            r.tokens_max = (int64_t)(cases[i].target - r.target_count);
            r.prompt_logprobs = false;
            struct engine_result rest = one(e, &r);
            assert_int_equal(rest.token_count, r.tokens_max);
            assert_memory_equal(rest.tokens, said.tokens + r.target_count, rest.token_count * sizeof *rest.tokens);
            engine_result_fini(&rest);
            engine_result_fini(&said);
            engine_free(e);
        }
}

static void test_text(void **state) {
    (void)state;
    struct engine *e = tiny_engine(&families[0], (struct engine_options){.threads = 2});
    struct engine_request r;
    engine_request_init(&r);
    r.prompt = SPAN("The engine and the café");
    r.tokens_max = 30;
    r.seed_set = r.ignore_eos = true;
    r.constraint = GRAMMAR_REGEX;
    r.constraint_text = SPAN("[a-f]{3}-[0-9]{2}");
    struct engine_result result = one(e, &r);
    assert_int_equal(result.finish, ENGINE_STOP);
    assert_int_equal(result.text_len, 6);
    assert_int_equal(result.text[3], '-');
    engine_result_fini(&result);
    r.constraint = GRAMMAR_NONE;
    r.prompt = SPAN(""); /* its end alone */
    result = one(e, &r);
    assert_int_equal(result.usage.prompt_tokens, 1);
    assert_int_equal(result.token_count, 30);
    engine_result_fini(&result);
    engine_free(e);
}

static void test_refusals(void **state) {
    (void)state;
    struct engine *e = tiny_engine(&families[0], (struct engine_options){.threads = 1, .context = 64});
    uint32_t ids[65] = {0};
    struct error err = {0};
    struct engine_request r = request(ids, 20, 4);
    r.echo = true;
    assert_int_equal(engine_submit(e, &r, NULL, watch, NULL, &err), E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "echo"));
    r.echo = false;
    r.prompt_logprobs = true;
    assert_int_equal(engine_submit(e, &r, NULL, watch, NULL, &err), E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "log-probabilities"));
    uint32_t beyond = TINY_VOCAB;
    r.target = ids;
    r.target_count = 64; /* the start token stands before it */
    assert_int_equal(engine_submit(e, &r, NULL, watch, NULL, &err), E_RANGE);
    assert_string_equal(err.param, "target");
    r.target = &beyond;
    r.target_count = 1;
    assert_int_equal(engine_submit(e, &r, NULL, watch, NULL, &err), E_INVALID);
    assert_string_equal(err.param, "target");
    r.target_count = 0;
    r.prompt_logprobs = false;
    r.token_count = 65;
    assert_int_equal(engine_submit(e, &r, NULL, watch, NULL, &err), E_RANGE);
    r.token_count = 64; /* an encoder's room is its own: the answer has as much */
    r.tokens_max = 63;
    struct engine_result result = one(e, &r);
    assert_int_equal(result.token_count, 63);
    engine_result_fini(&result);
    engine_free(e);
    e = NULL;
    struct engine_options small = {.threads = 1, .kv_bytes = 1};
    assert_int_equal(engine_new(&e, families[0].path, &small, &err), E_RANGE);
    assert_null(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bias),      cmocka_unit_test(test_attention), cmocka_unit_test(test_invariance), cmocka_unit_test(test_source_matters),
        cmocka_unit_test(test_preempted), cmocka_unit_test(test_cancelled), cmocka_unit_test(test_streams_go_on), cmocka_unit_test(test_target), cmocka_unit_test(test_text), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("encoder_decoder", tests, set_up, tear_down);
}
