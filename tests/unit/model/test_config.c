/* config.json: what is read, what is refused and by which name, what is written and read again; the tensors and numbers of the families. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "model/arch.h"

#define LLAMA(more) \
    "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":64,\"intermediate_size\":160,\"num_hidden_layers\":3,\"num_attention_heads\":4," \
    "\"max_position_embeddings\":128,\"vocab_size\":384" more "}"
#define GPT2(more) "{\"model_type\":\"gpt2\",\"n_embd\":64,\"n_layer\":2,\"n_head\":4,\"n_positions\":32,\"vocab_size\":384" more "}"

static void test_llama(void **state) {
    (void)state;
    struct model_config c;
    struct error err = {0};
    if (model_config_parse(SPAN(LLAMA(",\"num_key_value_heads\":2,\"rope_theta\":500000,\"eos_token_id\":[5,6],\"bos_token_id\":1,\"attention_bias\":true,"
                                      "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":64},"
                                      "\"tie_word_embeddings\":true,\"head_dim\":32")), &c, &err)) fail_msg("%s", err.message);
    assert_string_equal(c.arch->name, "llama");
    assert_int_equal(c.kv_heads, 2);
    assert_int_equal(c.head_dim, 32);
    assert_int_equal(c.rotary_dim, 32);
    assert_int_equal(c.ffn, 160);
    assert_int_equal(c.attn_bias, 2);
    assert_false(c.mlp_bias);
    assert_true(c.tie_embeddings);
    assert_int_equal(c.eos_count, 2);
    assert_int_equal(c.eos_ids[1], 6);
    assert_int_equal(c.bos_id, 1);
    assert_int_equal(c.pad_id, -1);
    assert_true(c.norm_eps == 1e-6f); /* LlamaConfig's default */
    assert_true(fabs((double)c.attn_scale - 1 / sqrt(32.0)) < 1e-7);
    float f[16];
    model_rope_frequencies(&c, f);
    assert_true(f[0] == 1.0f);                                                          /* fast: as it is */
    assert_true(fabs((double)f[15] / (pow(500000, -30.0 / 32) / 8) - 1) < 1e-6);        /* slow: stretched by the factor */
    /* transformers 5 writes both in rope_parameters */
    assert_int_equal(model_config_parse(SPAN(LLAMA(",\"rope_parameters\":{\"rope_type\":\"linear\",\"rope_theta\":5000,\"factor\":2}")), &c, &err), 0);
    assert_true(c.rope_theta == 5000 && c.rope_scaling == MODEL_ROPE_LINEAR && c.kv_heads == 4 && c.head_dim == 16);
    model_rope_frequencies(&c, f);
    assert_true(f[0] == 0.5f);
}

static void test_gpt2(void **state) {
    (void)state;
    struct model_config c;
    struct error err = {0};
    if (model_config_parse(SPAN(GPT2("")), &c, &err)) fail_msg("%s", err.message);
    assert_int_equal(c.ffn, 256);
    assert_int_equal(c.activation, MODEL_ACT_GELU_TANH);
    assert_true(c.tie_embeddings);
    assert_int_equal(c.attn_bias, 2);
    assert_true(c.mlp_bias);
    assert_true(c.norm_eps == 1e-5f);
    assert_true(c.rope_theta == 0);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
        int code;
    } cases[] = {
        {"", "", E_INVALID},
        {"[]", "not an object", E_INVALID},
        {"{}", "architecture", E_INVALID},
        {"{\"architectures\":[\"MambaForCausalLM\"]}", "MambaForCausalLM", E_UNSUPPORTED},
        {"{\"architectures\":[\"LlamaForCausalLM\"]}", "num_hidden_layers", E_INVALID},
        {LLAMA(",\"num_key_value_heads\":3"), "num_key_value_heads", E_INVALID},
        {LLAMA(",\"num_key_value_heads\":0"), "num_key_value_heads", E_RANGE},
        {LLAMA(",\"head_dim\":0"), "head_dim", E_RANGE},
        {LLAMA(",\"head_dim\":15"), "odd", E_INVALID},
        {LLAMA(",\"head_dim\":-16"), "head_dim", E_RANGE},
        {LLAMA(",\"head_dim\":4294967312"), "head_dim", E_RANGE},
        {LLAMA(",\"head_dim\":\"16\""), "head_dim", E_INVALID},
        {LLAMA(",\"rms_norm_eps\":0"), "rms_norm_eps", E_RANGE},
        {LLAMA(",\"rms_norm_eps\":-1"), "rms_norm_eps", E_RANGE},
        {LLAMA(",\"rope_theta\":0"), "rope_theta", E_RANGE},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}"), "yarn", E_UNSUPPORTED},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":0}"), "factor", E_RANGE},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}"), "low_freq_factor", E_INVALID},
        {LLAMA(",\"rope_scaling\":7"), "rope_scaling", E_INVALID},
        {LLAMA(",\"hidden_act\":\"swiglu_oai\""), "swiglu_oai", E_UNSUPPORTED},
        {LLAMA(",\"quantization_config\":{\"bits\":4}"), "quantized", E_UNSUPPORTED},
        {LLAMA(",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]"), "eos_token_id", E_RANGE},
        {LLAMA(",\"eos_token_id\":\"x\""), "eos_token_id", E_INVALID},
        {LLAMA(",\"eos_token_id\":-4"), "eos_token_id", E_RANGE},
        {LLAMA(",\"tie_word_embeddings\":1"), "tie_word_embeddings", E_INVALID},
        {GPT2(",\"n_inner\":-1"), "n_inner", E_RANGE},
        {GPT2(",\"scale_attn_by_inverse_layer_idx\":true"), "scale_attn_by_inverse_layer_idx", E_UNSUPPORTED},
        {GPT2(",\"add_cross_attention\":true"), "add_cross_attention", E_UNSUPPORTED},
        {"{\"model_type\":\"gpt2\",\"n_embd\":65,\"n_layer\":2,\"n_head\":4,\"n_positions\":32,\"vocab_size\":384}", "n_head", E_INVALID},
        {"{\"model_type\":\"gpt2\",\"n_embd\":64,\"n_layer\":2,\"n_head\":0,\"n_positions\":32,\"vocab_size\":384}", "n_head", E_RANGE},
        {"{\"model_type\":\"gpt2\",\"n_embd\":64,\"n_layer\":2000000,\"n_head\":4,\"n_positions\":32,\"vocab_size\":384}", "n_layer", E_RANGE},
        {"{\"model_type\":\"gpt2\",\"n_embd\":4294967295,\"n_layer\":2,\"n_head\":4,\"n_positions\":32,\"vocab_size\":384}", "n_embd", E_RANGE},
        {"{\"model_type\":\"gpt2\",\"n_embd\":64,\"n_layer\":2,\"n_head\":4,\"n_positions\":32,\"vocab_size\":0}", "vocab_size", E_RANGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config c = {.layers = 77};
        struct error err = {0};
        int r = model_config_parse(span_str(cases[i].text), &c, &err);
        if (r != cases[i].code || !strstr(err.message, cases[i].says) || c.layers != 77) fail_msg("case %zu: %d %s", i, r, err.message);
    }
}

static void test_write(void **state) {
    (void)state;
    static const char *const texts[] = {
        LLAMA(",\"num_key_value_heads\":2,\"eos_token_id\":[5,6],\"pad_token_id\":0,\"mlp_bias\":true,\"attention_bias\":true,\"head_dim\":8,\"initializer_range\":0.0123"),
        LLAMA(",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4},\"tie_word_embeddings\":true,\"hidden_act\":\"gelu\""),
        LLAMA(",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":64}"),
        GPT2(",\"eos_token_id\":7,\"bos_token_id\":7"),
        GPT2(",\"activation_function\":\"relu\",\"n_inner\":100,\"tie_word_embeddings\":false,\"layer_norm_epsilon\":1e-6"),
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct model_config a, b;
        struct error err = {0};
        struct buf out;
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        buf_init(&out, 1 << 16);
        if (model_config_parse(span_str(texts[i]), &a, &err)) fail_msg("case %zu: %s", i, err.message);
        assert_int_equal(model_config_write(&a, &out), 0);
        if (model_config_parse(buf_span(&out), &b, &err)) fail_msg("case %zu: %s", i, err.message);
        struct buf again;
        buf_init(&again, 1 << 16);
        assert_int_equal(model_config_write(&b, &again), 0);
        assert_true(span_eq(buf_span(&out), buf_span(&again)));
        assert_true(a.layers == b.layers && a.ffn == b.ffn && a.head_dim == b.head_dim && a.norm_eps == b.norm_eps && a.rope_theta == b.rope_theta &&
                    a.rope_scaling == b.rope_scaling && a.rope_factor == b.rope_factor && a.tie_embeddings == b.tie_embeddings && a.attn_bias == b.attn_bias &&
                    a.mlp_bias == b.mlp_bias && a.eos_count == b.eos_count && a.pad_id == b.pad_id && a.activation == b.activation && a.initializer_range == b.initializer_range);
        buf_fini(&again);
        buf_fini(&out);
    }
}

static void test_tensors(void **state) {
    (void)state;
    static const struct {
        const char *text, *first, *last;
        size_t count;
    } cases[] = {
        {LLAMA(""), "model.embed_tokens.weight", "lm_head.weight", 1 + 3 * 9 + 2},
        {LLAMA(",\"tie_word_embeddings\":true"), "model.embed_tokens.weight", "model.norm.weight", 1 + 3 * 9 + 1},
        {LLAMA(",\"attention_bias\":true,\"mlp_bias\":true"), "model.embed_tokens.weight", "lm_head.weight", 1 + 3 * 16 + 2},
        {GPT2(""), "transformer.wte.weight", "transformer.ln_f.bias", 2 + 2 * 12 + 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model_config c;
        struct model_tensor *t = NULL;
        size_t count = 0, flat = 0, at = 0;
        assert_int_equal(model_config_parse(span_str(cases[i].text), &c, NULL), 0);
        assert_int_equal(model_tensors(&c, &t, &count, &flat, NULL), 0);
        assert_int_equal(count, cases[i].count);
        assert_string_equal(t[0].name, cases[i].first);
        assert_string_equal(t[count - 1].name, cases[i].last);
        for (size_t k = 0; k < count; k++) {
            size_t sum = 0;
            for (uint32_t p = 0; p < t[k].part_count; p++) {
                assert_int_equal(t[k].parts[p].offset, at); /* without a gap */
                at += model_param_size(&t[k].parts[p]);
                sum += model_param_size(&t[k].parts[p]);
            }
            assert_int_equal(sum, (size_t)t[k].rows * t[k].cols);
        }
        assert_int_equal(at, flat);
        assert_int_equal(model_config_param_count(&c), flat);
        mem_free(t);
    }
    for (size_t i = 0; i < model_arch_count(); i++) {
        assert_non_null(strstr(model_arch_names(), model_arch_at(i)->name));
        assert_ptr_equal(model_arch_find(span_str(model_arch_at(i)->architecture)), model_arch_at(i));
    }
    assert_null(model_arch_find(SPAN("nothing")));
    assert_null(model_arch_at(model_arch_count()));
    for (int role = 0; role < MODEL_ROLES; role++) assert_non_null(model_role_name((enum model_role)role));
}

/* The published models' sizes. */
static void test_param_count(void **state) {
    (void)state;
    struct model_config c;
    model_config_default(&c, model_arch_find(SPAN("gpt2")), 12, 768, 12, 0, 1024, 50257);
    assert_int_equal(model_config_check(&c, NULL), 0);
    assert_int_equal(model_config_param_count(&c), 124439808); /* GPT-2 small */
    model_config_default(&c, model_arch_find(SPAN("llama")), 32, 4096, 32, 8, 8192, 128256);
    c.ffn = 14336;
    assert_int_equal(model_config_check(&c, NULL), 0);
    assert_int_equal(model_config_param_count(&c), 8030261248); /* Llama 3 8B */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_llama), cmocka_unit_test(test_gpt2),    cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_write), cmocka_unit_test(test_tensors), cmocka_unit_test(test_param_count)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
