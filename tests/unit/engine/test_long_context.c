/* Contexts of several chunks of attention (attention.h), which threads share where rows are few: the bits do not tell, and they are those of a trainer within rounding. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/attention.h"
#include "engine/engine.h"
#include "nn/decoder.h"
#include "tiny.h"

enum { CONTEXT = 3 * ATTENTION_CHUNK, PROMPT = CONTEXT - 40, NEW = 12, REQUESTS = 4 };
static const char *const names[] = {"llama", "gemma2", "qwen3_moe"}; /* whole contexts; windows and a cap in two of three layers; a kv head of its own for each head */

static struct engine_request request(const uint32_t *tokens, size_t n, int64_t max) {
    struct engine_request r = tiny_request(tokens, n, max);
    r.logprobs = true;
    return r;
}

static void test_same_bits(void **state) {
    (void)state;
    static const uint32_t lengths[REQUESTS] = {PROMPT, ATTENTION_CHUNK, 2 * ATTENTION_CHUNK - 5, 9}; /* the second begins a chunk, the third does while it answers */
    static const struct engine_options ways[] = {{.threads = 4}, {.threads = 3, .step_rows = 50, .step_rows_mixed = 9}, {.threads = 2, .step_rows = 3, .step_rows_mixed = 3}};
    static uint32_t prompts[REQUESTS][PROMPT];
    for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
        struct tiny model;
        tiny_make_long(&model, names[m], m + 1, CONTEXT);
        for (enum kv_type type = 0; type < KV_TYPES; type++) {
            struct engine_request requests[REQUESTS];
            struct engine_result alone[REQUESTS], got[REQUESTS];
            struct engine *e = tiny_engine(&model, (struct engine_options){.threads = 1, .kv_type = type});
            for (size_t i = 0; i < REQUESTS; i++) {
                tiny_tokens(prompts[i], lengths[i], 10 + i);
                requests[i] = request(prompts[i], lengths[i], NEW);
                requests[i].prompt_logprobs = i == 0;
                assert_int_equal(engine_generate_batch(e, &requests[i], 1, &alone[i], NULL), 0);
            }
            engine_free(e);
            for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
                struct engine_options o = ways[w];
                char name[96];
                o.kv_type = type;
                for (int together = 0; together < 2; together++) {
                    e = tiny_engine(&model, o);
                    for (size_t i = 0; i < REQUESTS; i += together ? REQUESTS : 1) assert_int_equal(engine_generate_batch(e, &requests[i], together ? REQUESTS : 1, &got[i], NULL), 0);
                    engine_free(e);
                    for (size_t i = 0; i < REQUESTS; i++) {
                        snprintf(name, sizeof name, "%s, %s, way %zu, %s, request %zu", names[m], kv_type_name(type), w, together ? "together" : "alone", i);
                        tiny_same(name, &alone[i], &got[i]);
                        engine_result_fini(&got[i]);
                    }
                }
            }
            for (size_t i = 0; i < REQUESTS; i++) engine_result_fini(&alone[i]);
        }
        tiny_remove(&model);
    }
}

static void test_equals_trainer(void **state) {
    (void)state;
    struct tiny llama;
    tiny_make_long(&llama, "llama", 7, CONTEXT);
    static uint32_t ids[PROMPT], labels[PROMPT];
    static float want[PROMPT];
    const struct model_weights *w = &llama.weights;
    tiny_tokens(ids, PROMPT, 5);
    for (size_t i = 0; i < PROMPT; i++) labels[i] = i + 1 < PROMPT ? ids[i + 1] : NN_NO_LABEL;
    struct nn_decoder *d;
    assert_int_equal(nn_decoder_new(&d, &w->config, w->params, w->param_count, PROMPT, NULL), 0);
    struct nn_tape *t = nn_tape_new((size_t)256 << 20);
    nn_tape_begin(t, w->flat, NULL, (uint32_t)w->param_count);
    struct nn_segment segment = {0, PROMPT};
    nn_cross_entropy(t, nn_decoder_forward(d, t, ids, &segment, 1), nn_decoder_head(d), labels, NULL, want);
    assert_int_equal(nn_tape_status(t), 0);
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 2, .step_rows = 1}); /* each row alone, its chunks shared */
    struct engine_request r = request(ids, PROMPT, 0);
    struct engine_result got;
    r.prompt_logprobs = true;
    assert_int_equal(engine_generate_batch(e, &r, 1, &got, NULL), 0);
    assert_int_equal(got.prompt_count, PROMPT - 1);
    for (size_t i = 0; i + 1 < PROMPT; i++)
        if (fabsf(got.prompt_logprobs[i] - want[i]) > 1e-4f) fail_msg("position %zu: %g, the trainer has %g", i, (double)got.prompt_logprobs[i], (double)want[i]);
    engine_result_fini(&got);
    engine_free(e);
    nn_tape_free(t);
    nn_decoder_free(d);
    tiny_remove(&llama);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits), cmocka_unit_test(test_equals_trainer)};
    return cmocka_run_group_tests_name("long context", tests, NULL, NULL);
}
