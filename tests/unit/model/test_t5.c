/* T5's config.json and tensors, its encoders' too; and the buckets of its relative positions against the reference implementation's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "model/arch.h"

#define T5(class, type, more) \
    "{\"architectures\":[\"" class "\"],\"model_type\":\"" type "\",\"d_model\":64,\"d_kv\":12,\"d_ff\":160,\"num_layers\":2,\"num_heads\":4,\"vocab_size\":384," \
    "\"pad_token_id\":0,\"eos_token_id\":1" more "}"
#define GATED ",\"feed_forward_proj\":\"gated-gelu\""
#define UNTIED ",\"tie_word_embeddings\":false"

enum { ENCODER = 8, DECODER = 13 }; /* tensors of a layer with a plain MLP; a gated one has one more */

static void test_families(void **state) {
    (void)state;
    static const struct {
        const char *text, *arch, *last;
        size_t tensors;
        uint32_t layers, encoder_layers, context;
        enum model_mlp mlp;
        enum model_activation activation;
        bool scaled, tied;
        int64_t start;
    } cases[] = {
        /* as published: T5 1.0, 1.1 and Flan, mT5, umT5; then as transformers 5 writes them */
        {T5("T5ForConditionalGeneration", "t5", ",\"decoder_start_token_id\":0,\"n_positions\":512,\"feed_forward_proj\":\"relu\""), "t5", "decoder.final_layer_norm.weight",
         1 + 2 + 2 * (ENCODER + DECODER) + 2, 2, 2, 2048, MODEL_MLP_PLAIN, MODEL_ACT_RELU, true, true, 0},
        {T5("T5ForConditionalGeneration", "t5", ",\"decoder_start_token_id\":5,\"num_decoder_layers\":3" GATED UNTIED), "t5", "lm_head.weight",
         1 + 2 + 2 * (ENCODER + 1) + 3 * (DECODER + 1) + 3, 3, 2, 2048, MODEL_MLP_GATED, MODEL_ACT_GELU_TANH, false, false, 5},
        {T5("MT5ForConditionalGeneration", "mt5", UNTIED), "mt5", "lm_head.weight", 1 + 2 + 2 * (ENCODER + 1 + DECODER + 1) + 3, 2, 2, 2048, MODEL_MLP_GATED, MODEL_ACT_GELU_TANH, false, false, 0},
        {T5("UMT5ForConditionalGeneration", "umt5", ",\"n_positions\":4096" UNTIED), "umt5", "lm_head.weight", 1 + 4 + 2 * (ENCODER + 1 + DECODER + 1) + 3, 2, 2, 4096, MODEL_MLP_GATED,
         MODEL_ACT_GELU_TANH, false, false, 0},
        {T5("T5ForConditionalGeneration", "t5", ",\"scale_decoder_outputs\":false,\"tie_word_embeddings\":true,\"feed_forward_proj\":\"gated-silu\""), "t5", "decoder.final_layer_norm.weight",
         1 + 2 + 2 * (ENCODER + 1 + DECODER + 1) + 2, 2, 2, 2048, MODEL_MLP_GATED, MODEL_ACT_SILU, false, true, 0},
        {T5("MT5ForConditionalGeneration", "mt5", ",\"tie_word_embeddings\":true"), "mt5", "decoder.final_layer_norm.weight", 1 + 2 + 2 * (ENCODER + 1 + DECODER + 1) + 2, 2, 2, 2048,
         MODEL_MLP_GATED, MODEL_ACT_GELU_TANH, false, true, 0},
        {T5("T5EncoderModel", "t5", ",\"num_decoder_layers\":7" UNTIED), "t5-encoder", "encoder.final_layer_norm.weight", 1 + 1 + 2 * ENCODER + 1, 2, 0, 2048, MODEL_MLP_PLAIN, MODEL_ACT_RELU,
         false, true, -1},
        {T5("MT5EncoderModel", "mt5", ""), "mt5-encoder", "encoder.final_layer_norm.weight", 1 + 1 + 2 * (ENCODER + 1) + 1, 2, 0, 2048, MODEL_MLP_GATED, MODEL_ACT_GELU_TANH, false, true, -1},
        {T5("UMT5EncoderModel", "umt5", ""), "umt5-encoder", "encoder.final_layer_norm.weight", 1 + 2 + 2 * (ENCODER + 1) + 1, 2, 0, 2048, MODEL_MLP_GATED, MODEL_ACT_GELU_TANH, false, true, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c, again;
        struct model_tensor *t = NULL;
        struct error err = {0};
        struct buf out;
        size_t count = 0, flat = 0;
        if (model_config_parse(span_str(cases[i].text), &c, &err)) fail_msg("case %zu: %s", i, err.message);
        assert_string_equal(c.arch->name, cases[i].arch);
        if (c.layers != cases[i].layers || c.encoder_layers != cases[i].encoder_layers || c.context != cases[i].context || c.mlp != cases[i].mlp || c.activation != cases[i].activation ||
            c.tie_embeddings != cases[i].tied || c.start_id != cases[i].start || c.head_dim != 12 || c.attn_scale != 1 || c.norm_eps != 1e-6f)
            fail_msg("case %zu: other numbers", i);
        assert_true(c.logits_scale == (cases[i].scaled ? 0.125f : 1));
        assert_int_equal(model_tensors(&c, &t, &count, &flat, NULL), 0);
        if (count != cases[i].tensors) fail_msg("case %zu: %zu tensors", i, count);
        assert_string_equal(t[0].name, "shared.weight");
        assert_string_equal(t[count - 1].name, cases[i].last);
        assert_int_equal(model_config_param_count(&c), flat);
        for (size_t k = 0; k < count; k++) { /* the encoder's layers lie behind the decoder's */
            bool encoder = c.encoder_layers > 0 && strncmp(t[k].name, "encoder.block.", 14) == 0;
            if (model_role_in_layer(t[k].parts[0].role) && encoder != (t[k].parts[0].layer >= c.layers)) fail_msg("case %zu: %s is in layer %u", i, t[k].name, t[k].parts[0].layer);
        }
        mem_free(t);
        buf_init(&out, 1 << 16);
        assert_int_equal(model_config_write(&c, &out), 0);
        if (model_config_parse(buf_span(&out), &again, &err)) fail_msg("case %zu: %s", i, err.message);
        assert_memory_equal(&c, &again, sizeof c);
        buf_fini(&out);
    }
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
        int code;
    } cases[] = {
        {T5("T5ForQuestionAnswering", "t5", ""), "T5ForQuestionAnswering", E_UNSUPPORTED},
        {T5("T5ForConditionalGeneration", "t5", ",\"feed_forward_proj\":\"gated-tanh\""), "gated-tanh", E_UNSUPPORTED},
        {T5("T5ForConditionalGeneration", "t5", ",\"num_decoder_layers\":0"), "num_layers", E_RANGE},
        {T5("T5ForConditionalGeneration", "t5", ",\"num_decoder_layers\":2000"), "num_layers", E_RANGE},
        {T5("T5ForConditionalGeneration", "t5", ",\"decoder_start_token_id\":384"), "decoder_start_token_id", E_RANGE},
        {T5("T5ForConditionalGeneration", "t5", ",\"decoder_start_token_id\":\"<s>\""), "decoder_start_token_id", E_INVALID},
        {T5("T5ForConditionalGeneration", "t5", ",\"relative_attention_num_buckets\":2"), "relative_attention_num_buckets", E_RANGE},
        {T5("T5ForConditionalGeneration", "t5", ",\"relative_attention_max_distance\":16"), "relative_attention_max_distance", E_RANGE},
        {T5("T5EncoderModel", "t5", ",\"relative_attention_max_distance\":100000"), "relative_attention_max_distance", E_RANGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c;
        struct error err = {0};
        int r = model_config_parse(span_str(cases[i].text), &c, &err);
        if (r != cases[i].code || !strstr(err.message, cases[i].says)) fail_msg("case %zu: %d %s", i, r, err.message);
    }
}

static void test_ignored(void **state) {
    (void)state;
    static const struct {
        const char *class, *tensor;
        bool ignored;
    } cases[] = {
        {"T5ForConditionalGeneration", "encoder.embed_tokens.weight", true},
        {"T5ForConditionalGeneration", "decoder.embed_tokens.weight", true},
        {"T5ForConditionalGeneration", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", true},
        {"T5ForConditionalGeneration", "decoder.block.1.layer.1.EncDecAttention.relative_attention_bias.weight", false},
        {"T5ForConditionalGeneration", "lm_head.weight", false}, /* of a file that has it, the model is not tied */
        {"T5EncoderModel", "decoder.block.0.layer.0.SelfAttention.q.weight", true},
        {"T5EncoderModel", "lm_head.weight", true},
        {"T5EncoderModel", "encoder.block.7.layer.0.SelfAttention.q.weight", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c;
        model_config_default(&c, model_arch_find(span_str(cases[i].class)), 2, 64, 4, 4, 128, 384);
        if (model_tensor_ignored(&c, span_str(cases[i].tensor)) != cases[i].ignored) fail_msg("%s: %s", cases[i].class, cases[i].tensor);
    }
}

/* From T5Attention._relative_position_bucket of transformers 5. */
static void test_buckets(void **state) {
    (void)state;
    enum { OFFSETS = 60 };
    static const int offsets[OFFSETS] = {-5000, -300, -129, -128, -127, -100, -91, -90, -64, -63, -46, -33, -32, -31, -21, -20, -19, -17, -16, -15, -12, -11, -9, -8, -7, -5, -4, -3, -2, -1,
                                         0,     1,    2,    3,    4,    5,    7,   8,   9,   11,  12,  15,  16,  17,  20,  23,  31,  32,  33,  45,  46,  63,  64, 65, 90, 91, 127, 128, 129, 5000};
    static const struct {
        uint32_t buckets, distance;
        bool both;
        uint32_t want[OFFSETS];
    } cases[] = {
        {32, 128, true, {15, 15, 15, 15, 15, 15, 15, 14, 14, 13, 13, 12, 12, 11, 10, 10, 10, 10, 10, 9, 9, 8, 8, 8, 7, 5, 4, 3, 2, 1, 0, 17, 18, 19, 20, 21, 23, 24, 24, 24, 25, 25, 26, 26, 26, 27, 27, 28, 28, 28, 29, 29, 30, 30, 30, 31, 31, 31, 31, 31}},
        {32, 128, false, {31, 31, 31, 31, 31, 30, 29, 29, 26, 26, 24, 21, 21, 21, 18, 17, 17, 16, 16, 15, 12, 11, 9, 8, 7, 5, 4, 3, 2, 1, 0}},
        {8, 20, true, {3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 1, 0, 5, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7}},
        {8, 20, false, {7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 6, 6, 6, 5, 5, 4, 4, 3, 2, 1, 0}},
        {6, 50, true, {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5}},
        {64, 1000, true, {31, 27, 24, 24, 24, 23, 22, 22, 21, 21, 20, 18, 18, 18, 17, 16, 16, 16, 16, 15, 12, 11, 9, 8, 7, 5, 4, 3, 2, 1, 0, 33, 34, 35, 36, 37, 39, 40, 41, 43, 44, 47, 48, 48, 48, 49, 50, 50, 50, 52, 52, 53, 53, 53, 54, 54, 56, 56, 56, 63}},
        {64, 1000, false, {63, 52, 44, 44, 44, 42, 41, 41, 38, 38, 35, 32, 32, 31, 21, 20, 19, 17, 16, 15, 12, 11, 9, 8, 7, 5, 4, 3, 2, 1, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config c;
        model_config_default(&c, model_arch_find(SPAN("t5")), 2, 64, 4, 4, 128, 384);
        c.position_buckets = cases[i].buckets;
        c.position_distance = cases[i].distance;
        assert_int_equal(model_config_check(&c, NULL), 0);
        for (size_t k = 0; k < OFFSETS; k++) {
            uint32_t got = model_position_bucket(&c, offsets[k], cases[i].both);
            if (got != cases[i].want[k]) fail_msg("%u buckets to %u, %s: %d is in %u, should be in %u", cases[i].buckets, cases[i].distance, cases[i].both ? "both" : "behind", offsets[k], got, cases[i].want[k]);
        }
        assert_true(model_position_bucket(&c, INT64_MIN, cases[i].both) < c.position_buckets && model_position_bucket(&c, INT64_MAX, cases[i].both) < c.position_buckets);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families), cmocka_unit_test(test_refused), cmocka_unit_test(test_ignored), cmocka_unit_test(test_buckets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
