/* Adapters in an engine: as the same model with the adapter in its weights, the same bits whatever runs beside them, and no prefix shared between two of them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "engine/engine.h"
#include "engine/kv_cache.h"
#include "tiny.h"

enum { RANK = 5, ALPHA = 10, ADAPTERS = 3 };

struct place {
    enum model_role role;
    const char *module;
};
static const struct place PLACES[] = {{MODEL_ATTN_Q_W, "self_attn.q_proj"}, {MODEL_ATTN_K_W, "self_attn.k_proj"}, {MODEL_ATTN_V_W, "self_attn.v_proj"}, {MODEL_ATTN_O_W, "self_attn.o_proj"},
                                      {MODEL_MLP_GATE_W, "mlp.gate_proj"}, {MODEL_MLP_UP_W, "mlp.up_proj"}, {MODEL_MLP_DOWN_W, "mlp.down_proj"}};
enum { PLACE_COUNT = sizeof PLACES / sizeof *PLACES };

static struct tiny llama;
static char folder[64];
static struct model_adapter *adapters[ADAPTERS];

static void draw(float *out, size_t n, uint64_t seed) {
    struct random r;
    random_seed(&r, seed);
    for (size_t i = 0; i < n; i++) out[i] = (float)((double)random_below(&r, 20001) / 10000 - 1) * 0.15f;
}

static const char *path_of(uint32_t which, const char *file) {
    static char path[256];
    (void)snprintf(path, sizeof path, "%s/%u%s%s", folder, which, file[0] ? "/" : "", file);
    return path;
}

/* An adapter with other numbers for each `which`; the one with number 1 leaves the MLP alone. */
static void write_adapter(uint32_t which) {
    static float a[RANK * 4096], b[RANK * 4096];
    const struct model_config *c = &llama.weights.config;
    struct safetensors_writer *w = NULL;
    struct error err;
    static const char config[] = "{\"peft_type\":\"LORA\",\"r\":5,\"lora_alpha\":10,\"target_modules\":\"all-linear\"}";
    assert_int_equal(dir_make(path_of(which, ""), NULL), 0);
    assert_int_equal(file_write(path_of(which, "adapter_config.json"), span_str(config), 0600, NULL), 0);
    if (safetensors_writer_new(&w, path_of(which, "adapter_model.safetensors"), &err) != 0) fail_msg("%s", err.message);
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t layer = 0; layer < c->layers; layer++)
            for (size_t p = 0; p < (which == 1 ? 4 : PLACE_COUNT); p++) {
                const struct model_view *v = model_weights_view(&llama.weights, PLACES[p].role, layer);
                char name[160];
                assert_true(v->cols <= 4096 && v->rows <= 4096);
                for (int half = 0; half < 2; half++) {
                    uint64_t shape[2] = {half ? v->rows : RANK, half ? RANK : v->cols};
                    (void)snprintf(name, sizeof name, "base_model.model.model.layers.%u.%s.lora_%c.weight", layer, PLACES[p].module, half ? 'B' : 'A');
                    if (pass == 0) assert_int_equal(safetensors_writer_add(w, span_str(name), DTYPE_F32, shape, 2, &err), 0);
                    else {
                        float *data = half ? b : a;
                        size_t n = (size_t)shape[0] * shape[1];
                        draw(data, n, which * 1000 + layer * 100 + p * 10 + (uint64_t)half);
                        assert_int_equal(safetensors_writer_write(w, data, n * sizeof *data, &err), 0);
                    }
                }
            }
    assert_int_equal(safetensors_writer_commit(w, &err), 0);
    safetensors_writer_free(w);
}

static int set_up(void **state) {
    (void)state;
    struct error err;
    tiny_make(&llama, "llama", 1);
    (void)snprintf(folder, sizeof folder, "/tmp/genloop-adapters-XXXXXX");
    assert_non_null(mkdtemp(folder));
    for (uint32_t i = 0; i < ADAPTERS; i++) {
        write_adapter(i);
        if (model_adapter_load(&adapters[i], path_of(i, ""), &llama.weights.config, PACKED_F32, &err) != 0) fail_msg("%s", err.message);
    }
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    for (uint32_t i = 0; i < ADAPTERS; i++) model_adapter_free(adapters[i]);
    (void)dir_remove(folder, NULL);
    tiny_remove(&llama);
    return 0;
}

static struct engine *start(struct engine_options o) {
    return tiny_engine(&llama, o);
}

static struct engine_request request(const uint32_t *tokens, size_t n, int64_t max, const struct model_adapter *adapter) {
    struct engine_request r = tiny_request(tokens, n, max);
    r.logprobs = true;
    r.sampling.seed = 5;
    r.adapter = adapter;
    return r;
}

static struct engine_result one(struct engine *e, const struct engine_request *r) {
    struct engine_result result;
    assert_int_equal(engine_generate_batch(e, r, 1, &result, NULL), 0);
    if (result.error.code != 0) fail_msg("%s", result.error.message);
    return result;
}

static void same(const char *name, size_t i, const struct engine_result *a, const struct engine_result *b) {
    if (a->token_count != b->token_count || memcmp(a->tokens, b->tokens, a->token_count * sizeof *a->tokens) != 0) fail_msg("%s: request %zu has other tokens", name, i);
    for (size_t t = 0; t < a->token_count; t++)
        if (a->logprobs[t].logprob != b->logprobs[t].logprob) fail_msg("%s: request %zu has another log-probability at %zu", name, i, t);
}

/* W + s B A written as a model of its own: the same numbers but for their rounding. */
static void test_merged(void **state) {
    (void)state;
    enum { N = 60 };
    uint32_t ids[N];
    struct random random;
    random_seed(&random, 3);
    for (size_t i = 0; i < N; i++) ids[i] = (uint32_t)random_below(&random, TINY_VOCAB);
    struct model_dir merged;
    struct error err;
    if (model_dir_load(&merged, llama.path, MODEL_WEIGHTS_FLAT, 0, &err) != 0) fail_msg("%s", err.message);
    for (uint32_t layer = 0; layer < merged.config.layers; layer++)
        for (size_t p = 0; p < PLACE_COUNT; p++) {
            const struct adapter_term *t = model_adapter_term(adapters[0], layer, (enum adapter_place)p);
            ptrdiff_t at = model_weights_find(&merged.weights, PLACES[p].role, layer);
            float *w = merged.weights.flat + merged.weights.params[at].offset;
            const struct packed *lower = model_adapter_lower(adapters[0], layer, ADAPTER_INPUT_OF[p]);
            float a[RANK][4096], b[RANK];
            assert_int_equal(t->rank, RANK);
            assert_true(lower->cols <= 4096);
            for (size_t k = 0; k < RANK; k++) packed_get_row(lower, t->first + k, a[k]);
            for (size_t o = 0; o < t->b.rows; o++) {
                packed_get_row(&t->b, o, b);
                for (size_t i = 0; i < lower->cols; i++)
                    for (size_t k = 0; k < RANK; k++) w[o * lower->cols + i] += b[k] * a[k][i];
            }
        }
    struct engine *with = start((struct engine_options){.threads = 2, .adapter = path_of(0, "")}), *plain = start((struct engine_options){.threads = 2}), *whole = NULL;
    if (engine_new_from(&whole, &merged, &(struct engine_options){.threads = 2}, &err) != 0) fail_msg("%s", err.message);
    struct engine_request r = request(ids, N, 0, NULL);
    r.prompt_logprobs = true;
    struct engine_result a = one(with, &r), b = one(whole, &r), c = one(plain, &r);
    double apart = 0, base = 0;
    for (size_t i = 0; i < N - 1; i++) {
        apart = fmax(apart, fabs((double)a.prompt_logprobs[i] - (double)b.prompt_logprobs[i]));
        base = fmax(base, fabs((double)a.prompt_logprobs[i] - (double)c.prompt_logprobs[i]));
    }
    if (!(apart < 1e-4 && base > 0.05)) fail_msg("%g from the merged model, %g from the model as it is", apart, base);
    /* a request's own adapter goes before the engine's */
    r.adapter = adapters[2];
    struct engine_result d = one(with, &r), e = one(plain, &r);
    assert_memory_equal(d.prompt_logprobs, e.prompt_logprobs, (N - 1) * sizeof(float));
    assert_true(engine_memory(with) > engine_memory(plain));
    engine_result_fini(&a);
    engine_result_fini(&b);
    engine_result_fini(&c);
    engine_result_fini(&d);
    engine_result_fini(&e);
    engine_free(with);
    engine_free(whole);
    engine_free(plain);
}

/* Requests of three adapters and of none in one batch, each as if it were alone; with weights of this kind and adapters that belong to it. */
static void together(enum packed_kind kind, enum packed_kind wanted) {
    enum { REQUESTS = 16, LONGEST = 90 };
    struct model_adapter *own[ADAPTERS] = {NULL};
    struct error err;
    static uint32_t prompts[REQUESTS][LONGEST];
    struct engine_request requests[REQUESTS];
    struct engine_result alone[REQUESTS], got[REQUESTS];
    struct random random;
    random_seed(&random, 8);
    struct engine *single = start((struct engine_options){.threads = 1, .weights = kind});
    assert_int_equal(engine_adapter_kind(single), wanted);
    for (uint32_t i = 0; i < ADAPTERS; i++)
        if (model_adapter_load(&own[i], path_of(i, ""), &llama.weights.config, wanted, &err) != 0) fail_msg("%s", err.message);
    for (size_t i = 0; i < REQUESTS; i++) {
        for (size_t t = 0; t < LONGEST; t++) prompts[i][t] = t < 40 && i % 4 ? prompts[i - i % 4][t] : (uint32_t)random_below(&random, TINY_VOCAB);
        requests[i] = request(prompts[i], 45 + i * 7 % 45, 5 + (int64_t)(i % 20), i % 4 < ADAPTERS ? own[i % 4] : NULL);
        requests[i].sampling.seed = i;
        requests[i].priority = (int32_t)(i % 2);
        requests[i].scope = SPAN("t"); /* groups of four have forty tokens in common, and nothing else */
        alone[i] = one(single, &requests[i]);
    }
    engine_free(single);
    struct {
        const char *name;
        struct engine_options options;
    } ways[] = {
        {"two threads", {.threads = 2}},
        {"small chunks and a small cache", {.threads = 2, .step_rows = 17, .step_rows_mixed = 5, .sequences_max = 6, .kv_bytes = 600000}},
        {"guesses", {.threads = 2, .guessing = ENGINE_GUESS_ALWAYS}},
    };
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        ways[w].options.weights = kind;
        struct engine *e = start(ways[w].options);
        assert_int_equal(engine_generate_batch(e, requests, REQUESTS, got, NULL), 0);
        for (size_t i = 0; i < REQUESTS; i++) {
            same(ways[w].name, i, &alone[i], &got[i]);
            engine_result_fini(&got[i]);
        }
        struct engine_stats s;
        engine_get_stats(e, &s);
        assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
        engine_free(e);
    }
    for (size_t i = 0; i < REQUESTS; i++) engine_result_fini(&alone[i]);
    for (uint32_t i = 0; i < ADAPTERS; i++) model_adapter_free(own[i]);
}
static void test_together(void **state) {
    (void)state;
    together(PACKED_STORED, PACKED_F32);
    together(PACKED_BF16, PACKED_F16);
    together(PACKED_Q8, PACKED_Q8);
    together(PACKED_Q4M, PACKED_Q8);
}

/* A in int8 and B in 16 bits are near the adapter as it is: what they differ by is small beside what it does. */
static void test_packed(void **state) {
    (void)state;
    enum { N = 60 };
    uint32_t ids[N];
    struct random random;
    random_seed(&random, 6);
    for (size_t i = 0; i < N; i++) ids[i] = (uint32_t)random_below(&random, TINY_VOCAB);
    struct engine *e = start((struct engine_options){.threads = 2, .weights = PACKED_Q8}), *floats = start((struct engine_options){.threads = 2});
    struct model_adapter *packed = NULL;
    assert_int_equal(model_adapter_load(&packed, path_of(0, ""), &llama.weights.config, PACKED_Q8, NULL), 0);
    assert_memory_not_equal(packed->digest, adapters[0]->digest, SHA256_SIZE);
    struct engine_request r = request(ids, N, 0, NULL), refused = request(ids, N, 1, packed);
    r.prompt_logprobs = true;
    struct engine_result without = one(e, &r), got;
    r.adapter = packed;
    struct engine_result a = one(e, &r);
    r.adapter = adapters[0]; /* floats go with any weights */
    struct engine_result b = one(e, &r);
    double apart = 0, base = 0;
    for (size_t i = 0; i < N - 1; i++) {
        apart += fabs((double)a.prompt_logprobs[i] - (double)b.prompt_logprobs[i]) / (N - 1);
        base += fabs((double)b.prompt_logprobs[i] - (double)without.prompt_logprobs[i]) / (N - 1);
    }
    if (!(apart < base / 20)) fail_msg("%g from the adapter in floats, which is %g from the model as it is", apart, base);
    (void)engine_generate_batch(floats, &refused, 1, &got, NULL);
    assert_int_equal(got.error.code, E_INVALID);
    engine_result_fini(&got);
    engine_result_fini(&without);
    engine_result_fini(&a);
    engine_result_fini(&b);
    model_adapter_free(packed);
    engine_free(e);
    engine_free(floats);
}

/* Keys and values are an adapter's own; a second request of the same one takes them up, under whichever address it was loaded. */
static void test_prefixes(void **state) {
    (void)state;
    enum { N = 80 };
    uint32_t ids[N];
    struct model_adapter *again = NULL;
    struct random random;
    random_seed(&random, 4);
    for (size_t i = 0; i < N; i++) ids[i] = (uint32_t)random_below(&random, TINY_VOCAB);
    assert_int_equal(model_adapter_load(&again, path_of(0, ""), &llama.weights.config, PACKED_F32, NULL), 0);
    assert_memory_equal(again->digest, adapters[0]->digest, SHA256_SIZE);
    assert_memory_not_equal(adapters[0]->digest, adapters[2]->digest, SHA256_SIZE);
    const struct {
        const char *name;
        const struct model_adapter *adapter;
        bool hit;
    } rows[] = {{"the model", NULL, false}, {"an adapter", adapters[0], false}, {"another", adapters[1], false}, {"the model again", NULL, true}, {"the first, loaded again", again, true}, {"the other again", adapters[1], true}, {"a third", adapters[2], false}};
    struct engine *e = start((struct engine_options){.threads = 1});
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct engine_request r = request(ids, N, 8, rows[i].adapter);
        r.scope = SPAN("tenant");
        struct engine_result got = one(e, &r);
        uint32_t wanted = rows[i].hit ? N - 1 : 0; /* all but the row whose output is wanted */
        if (got.usage.cached_tokens != wanted) fail_msg("%s: %u tokens from the cache, not %u", rows[i].name, got.usage.cached_tokens, wanted);
        engine_result_fini(&got);
    }
    engine_free(e);
    model_adapter_free(again);
}

static void test_failures(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct model_adapter *a = NULL;
        alloc_fail_at(n);
        int r = model_adapter_load(&a, path_of(2, ""), &llama.weights.config, PACKED_F32, NULL);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        assert_true((r == 0) == (a != NULL));
        model_adapter_free(a);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_not_equal(r, 0);
    }
    struct tiny other;
    struct model_adapter *a = NULL;
    struct error err;
    tiny_make(&other, "gpt2", 2);
    assert_int_equal(model_adapter_load(&a, path_of(2, ""), &other.weights.config, PACKED_F32, &err), E_INVALID);
    assert_non_null(strstr(err.message, "made for another"));
    tiny_remove(&other);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_merged), cmocka_unit_test(test_together), cmocka_unit_test(test_packed), cmocka_unit_test(test_prefixes), cmocka_unit_test(test_failures)};
    return cmocka_run_group_tests_name("adapter", tests, set_up, tear_down);
}
