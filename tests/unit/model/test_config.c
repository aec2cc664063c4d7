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
#define OF(class, more) \
    "{\"architectures\":[\"" class "\"],\"hidden_size\":64,\"intermediate_size\":160,\"num_hidden_layers\":3,\"num_attention_heads\":4," \
    "\"num_key_value_heads\":2,\"max_position_embeddings\":128,\"vocab_size\":384" more "}"
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
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":4}"), "dynamic", E_UNSUPPORTED},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":0.5}"), "beta_slow", E_INVALID},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4},\"rope_theta\":1"), "rope_theta", E_INVALID},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"attention_factor\":0}"), "attention_factor", E_RANGE},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":4,\"short_factor\":[1,1]}"), "short_factor", E_INVALID},
        {LLAMA(",\"rope_scaling\":{\"rope_type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,1],\"long_factor\":[1,1,1,1,0,1,1,1]}"), "longrope", E_RANGE},
        {LLAMA(",\"partial_rotary_factor\":1.5"), "partial_rotary_factor", E_RANGE},
        {LLAMA(",\"rope_parameters\":{\"full_attention\":{},\"sliding_attention\":{}}"), "rope_parameters", E_UNSUPPORTED},
        {LLAMA(",\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\"]"), "layer_types", E_INVALID},
        {LLAMA(",\"layer_types\":[\"full_attention\",\"full_attention\",\"linear_attention\"]"), "linear_attention", E_UNSUPPORTED},
        {OF("MistralForCausalLM", ",\"layer_types\":[\"full_attention\",\"sliding_attention\",\"sliding_attention\"]"), "layer_types", E_UNSUPPORTED},
        {OF("MistralForCausalLM", ",\"sliding_window\":4000000000"), "sliding_window", E_RANGE},
        {OF("Qwen2ForCausalLM", ",\"layer_types\":[\"full_attention\"]"), "layer_types", E_INVALID},
        {OF("Qwen3MoeForCausalLM", ",\"use_sliding_window\":true"), "use_sliding_window", E_UNSUPPORTED},
        {OF("Qwen3MoeForCausalLM", ",\"num_experts\":0"), "num_experts", E_RANGE},
        {OF("Qwen3MoeForCausalLM", ",\"num_experts\":4"), "num_experts_per_tok", E_RANGE},
        {OF("Qwen3MoeForCausalLM", ",\"moe_intermediate_size\":0"), "moe_intermediate_size", E_RANGE},
        {OF("Qwen3MoeForCausalLM", ",\"decoder_sparse_step\":0"), "decoder_sparse_step", E_RANGE},
        {OF("Qwen3MoeForCausalLM", ",\"mlp_only_layers\":[-1]"), "mlp_only_layers", E_INVALID},
        {OF("MixtralForCausalLM", ",\"num_local_experts\":2000"), "num_local_experts", E_RANGE},
        {OF("Gemma2ForCausalLM", ",\"query_pre_attn_scalar\":0"), "query_pre_attn_scalar", E_RANGE},
        {OF("Gemma2ForCausalLM", ",\"final_logit_softcapping\":-1"), "final_logit_softcapping", E_RANGE},
        {OF("Gemma3ForCausalLM", ",\"use_bidirectional_attention\":true"), "use_bidirectional_attention", E_UNSUPPORTED},
        {OF("Gemma3ForCausalLM", ",\"sliding_window_pattern\":0"), "sliding_window_pattern", E_RANGE},
        {OF("GraniteForCausalLM", ",\"logits_scaling\":0"), "logits_scaling", E_RANGE},
        {OF("PhiForCausalLM", ",\"qk_layernorm\":true"), "qk_layernorm", E_UNSUPPORTED},
        {OF("StableLmForCausalLM", ",\"use_qkv_bias\":1"), "use_qkv_bias", E_INVALID},
        {"{\"model_type\":\"opt\",\"hidden_size\":64,\"num_hidden_layers\":3,\"num_attention_heads\":4,\"ffn_dim\":64,\"max_position_embeddings\":128,"
         "\"vocab_size\":384,\"word_embed_proj_dim\":0}", "word_embed_proj_dim", E_RANGE},
        {"{\"model_type\":\"opt\",\"hidden_size\":64,\"num_hidden_layers\":3,\"num_attention_heads\":4,\"ffn_dim\":64,\"max_position_embeddings\":128,"
         "\"vocab_size\":384,\"_remove_final_layer_norm\":true}", "_remove_final_layer_norm", E_UNSUPPORTED},
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

/*
 * config.json as the hub has it, less what is the same in all (torch_dtype, transformers_version, use_cache, dropouts): what they say and what they leave out.
 */
#define ARCH(class) "{\"architectures\":[\"" class "\"],"
struct published {
    const char *name, *text;
    uint64_t params; /* as their cards or files have it */
    uint32_t kv_heads, head_dim, rotary_dim, window;
    int attn_bias;
    bool tied;
    uint32_t windowed, experts; /* layers with a window; layers with experts */
    double theta, attn_scale;
};
static const struct published published[] = {
    {"Llama-3.2-1B", ARCH("LlamaForCausalLM")
     "\"attention_bias\":false,\"bos_token_id\":128000,\"eos_token_id\":[128001,128008,128009],\"head_dim\":64,\"hidden_act\":\"silu\",\"hidden_size\":2048,"
     "\"initializer_range\":0.02,\"intermediate_size\":8192,\"max_position_embeddings\":131072,\"mlp_bias\":false,\"model_type\":\"llama\","
     "\"num_attention_heads\":32,\"num_hidden_layers\":16,\"num_key_value_heads\":8,\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,\"rope_scaling\":{\"factor\":32.0,"
     "\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},\"rope_theta\":500000.0,"
     "\"tie_word_embeddings\":true,\"vocab_size\":128256}",
     1235814400, 8, 64, 64, 0, 0, true, 0, 0, 500000, 0.125},
    {"Llama-2-7b", ARCH("LlamaForCausalLM")
     "\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":4096,\"initializer_range\":0.02,\"intermediate_size\":11008,"
     "\"max_position_embeddings\":4096,\"model_type\":\"llama\",\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_key_value_heads\":32,"
     "\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,\"rope_scaling\":null,\"tie_word_embeddings\":false,\"vocab_size\":32000}",
     6738415616, 32, 128, 128, 0, 0, false, 0, 0, 10000, 0.08838834764831845},
    {"SmolLM2-135M-Instruct", ARCH("LlamaForCausalLM")
     "\"attention_bias\":false,\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":576,\"initializer_range\":0.041666666666666664,"
     "\"intermediate_size\":1536,\"is_llama_config\":true,\"max_position_embeddings\":8192,\"mlp_bias\":false,\"model_type\":\"llama\","
     "\"num_attention_heads\":9,\"num_hidden_layers\":30,\"num_key_value_heads\":3,\"pad_token_id\":2,\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,"
     "\"rope_interleaved\":false,\"rope_scaling\":null,\"rope_theta\":100000,\"tie_word_embeddings\":true,\"vocab_size\":49152}",
     134515008, 3, 64, 64, 0, 0, true, 0, 0, 100000, 0.125},
    {"gpt2", ARCH("GPT2LMHeadModel")
     "\"activation_function\":\"gelu_new\",\"bos_token_id\":50256,\"eos_token_id\":50256,\"initializer_range\":0.02,\"layer_norm_epsilon\":1e-05,"
     "\"model_type\":\"gpt2\",\"n_ctx\":1024,\"n_embd\":768,\"n_head\":12,\"n_layer\":12,\"n_positions\":1024,\"summary_type\":\"cls_index\",\"vocab_size\":50257}",
     124439808, 12, 64, 0, 0, 2, true, 0, 0, 0, 0.125},
    {"Mistral-7B-v0.1", ARCH("MistralForCausalLM")
     "\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":4096,\"initializer_range\":0.02,\"intermediate_size\":14336,"
     "\"max_position_embeddings\":32768,\"model_type\":\"mistral\",\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_key_value_heads\":8,"
     "\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"sliding_window\":4096,\"tie_word_embeddings\":false,\"vocab_size\":32000}",
     7241732096, 8, 128, 128, 4096, 0, false, 32, 0, 10000, 0.08838834764831845},
    {"Mistral-7B-Instruct-v0.3", ARCH("MistralForCausalLM")
     "\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":4096,\"initializer_range\":0.02,\"intermediate_size\":14336,"
     "\"max_position_embeddings\":32768,\"model_type\":\"mistral\",\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_key_value_heads\":8,"
     "\"rms_norm_eps\":1e-05,\"rope_theta\":1000000.0,\"sliding_window\":null,\"tie_word_embeddings\":false,\"vocab_size\":32768}",
     7248023552, 8, 128, 128, 0, 0, false, 0, 0, 1000000, 0.08838834764831845},
    {"Mixtral-8x7B-v0.1", ARCH("MixtralForCausalLM")
     "\"bos_token_id\":1,\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":4096,\"initializer_range\":0.02,\"intermediate_size\":14336,"
     "\"max_position_embeddings\":32768,\"model_type\":\"mixtral\",\"num_attention_heads\":32,\"num_experts_per_tok\":2,\"num_hidden_layers\":32,"
     "\"num_key_value_heads\":8,\"num_local_experts\":8,\"output_router_logits\":false,\"rms_norm_eps\":1e-05,\"rope_theta\":1000000.0,"
     "\"router_aux_loss_coef\":0.02,\"sliding_window\":null,\"tie_word_embeddings\":false,\"vocab_size\":32000}",
     46702792704, 8, 128, 128, 0, 0, false, 0, 32, 1000000, 0.08838834764831845},
    {"Qwen2.5-0.5B-Instruct", ARCH("Qwen2ForCausalLM")
     "\"bos_token_id\":151643,\"eos_token_id\":151645,\"hidden_act\":\"silu\",\"hidden_size\":896,\"initializer_range\":0.02,\"intermediate_size\":4864,"
     "\"max_position_embeddings\":32768,\"max_window_layers\":21,\"model_type\":\"qwen2\",\"num_attention_heads\":14,\"num_hidden_layers\":24,"
     "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,\"sliding_window\":32768,\"tie_word_embeddings\":true,"
     "\"use_sliding_window\":false,\"vocab_size\":151936}",
     494032768, 2, 64, 64, 0, 1, true, 0, 0, 1000000, 0.125},
    {"Qwen3-0.6B", ARCH("Qwen3ForCausalLM")
     "\"attention_bias\":false,\"bos_token_id\":151643,\"eos_token_id\":151645,\"head_dim\":128,\"hidden_act\":\"silu\",\"hidden_size\":1024,"
     "\"initializer_range\":0.02,\"intermediate_size\":3072,\"max_position_embeddings\":40960,\"max_window_layers\":28,\"model_type\":\"qwen3\","
     "\"num_attention_heads\":16,\"num_hidden_layers\":28,\"num_key_value_heads\":8,\"rms_norm_eps\":1e-06,\"rope_scaling\":null,\"rope_theta\":1000000,"
     "\"sliding_window\":null,\"tie_word_embeddings\":true,\"use_sliding_window\":false,\"vocab_size\":151936}",
     596049920, 8, 128, 128, 0, 0, true, 0, 0, 1000000, 0.08838834764831845},
    {"Qwen3-30B-A3B", ARCH("Qwen3MoeForCausalLM")
     "\"attention_bias\":false,\"bos_token_id\":151643,\"decoder_sparse_step\":1,\"eos_token_id\":151645,\"head_dim\":128,\"hidden_act\":\"silu\","
     "\"hidden_size\":2048,\"initializer_range\":0.02,\"intermediate_size\":6144,\"max_position_embeddings\":40960,\"max_window_layers\":48,\"mlp_only_layers\":[],"
     "\"model_type\":\"qwen3_moe\",\"moe_intermediate_size\":768,\"norm_topk_prob\":true,\"num_attention_heads\":32,\"num_experts\":128,"
     "\"num_experts_per_tok\":8,\"num_hidden_layers\":48,\"num_key_value_heads\":4,\"output_router_logits\":false,\"rms_norm_eps\":1e-06,\"rope_scaling\":null,"
     "\"rope_theta\":1000000.0,\"router_aux_loss_coef\":0.001,\"sliding_window\":null,\"tie_word_embeddings\":false,\"use_sliding_window\":false,\"vocab_size\":151936}",
     30532122624, 4, 128, 128, 0, 0, false, 0, 48, 1000000, 0.08838834764831845},
    {"gemma-2b", ARCH("GemmaForCausalLM")
     "\"attention_bias\":false,\"bos_token_id\":2,\"eos_token_id\":1,\"head_dim\":256,\"hidden_act\":\"gelu\",\"hidden_activation\":null,\"hidden_size\":2048,"
     "\"initializer_range\":0.02,\"intermediate_size\":16384,\"max_position_embeddings\":8192,\"model_type\":\"gemma\",\"num_attention_heads\":8,"
     "\"num_hidden_layers\":18,\"num_key_value_heads\":1,\"pad_token_id\":0,\"rms_norm_eps\":1e-06,\"rope_scaling\":null,\"rope_theta\":10000.0,\"vocab_size\":256000}",
     2506172416, 1, 256, 256, 0, 0, true, 0, 0, 10000, 0.0625},
    {"gemma-2-2b", ARCH("Gemma2ForCausalLM")
     "\"attention_bias\":false,\"attn_logit_softcapping\":50.0,\"bos_token_id\":2,\"cache_implementation\":\"hybrid\",\"eos_token_id\":1,"
     "\"final_logit_softcapping\":30.0,\"head_dim\":256,\"hidden_act\":\"gelu_pytorch_tanh\",\"hidden_activation\":\"gelu_pytorch_tanh\",\"hidden_size\":2304,"
     "\"initializer_range\":0.02,\"intermediate_size\":9216,\"max_position_embeddings\":8192,\"model_type\":\"gemma2\",\"num_attention_heads\":8,"
     "\"num_hidden_layers\":26,\"num_key_value_heads\":4,\"pad_token_id\":0,\"query_pre_attn_scalar\":256,\"rms_norm_eps\":1e-06,\"rope_theta\":10000.0,"
     "\"sliding_window\":4096,\"vocab_size\":256000}",
     2614341888, 4, 256, 256, 4096, 0, true, 13, 0, 10000, 0.0625},
    {"gemma-3-1b-it", ARCH("Gemma3ForCausalLM")
     "\"attention_bias\":false,\"attn_logit_softcapping\":null,\"bos_token_id\":2,\"cache_implementation\":\"hybrid\",\"eos_token_id\":[1,106],"
     "\"final_logit_softcapping\":null,\"head_dim\":256,\"hidden_activation\":\"gelu_pytorch_tanh\",\"hidden_size\":1152,\"initializer_range\":0.02,"
     "\"intermediate_size\":6912,\"max_position_embeddings\":32768,\"model_type\":\"gemma3_text\",\"num_attention_heads\":4,\"num_hidden_layers\":26,"
     "\"num_key_value_heads\":1,\"pad_token_id\":0,\"query_pre_attn_scalar\":256,\"rms_norm_eps\":1e-06,\"rope_local_base_freq\":10000,\"rope_scaling\":null,"
     "\"rope_theta\":1000000,\"sliding_window\":512,\"sliding_window_pattern\":6,\"vocab_size\":262144}",
     999885952, 1, 256, 256, 512, 0, true, 22, 0, 1000000, 0.0625},
    {"phi-2", ARCH("PhiForCausalLM")
     "\"bos_token_id\":50256,\"eos_token_id\":50256,\"hidden_act\":\"gelu_new\",\"hidden_size\":2560,\"initializer_range\":0.02,\"intermediate_size\":10240,"
     "\"layer_norm_eps\":1e-05,\"max_position_embeddings\":2048,\"model_type\":\"phi\",\"num_attention_heads\":32,\"num_hidden_layers\":32,"
     "\"num_key_value_heads\":32,\"partial_rotary_factor\":0.4,\"qk_layernorm\":false,\"rope_scaling\":null,\"rope_theta\":10000.0,\"tie_word_embeddings\":false,"
     "\"vocab_size\":51200}",
     2779683840, 32, 80, 32, 0, 2, false, 0, 0, 10000, 0.11180339887498949},
    {"Phi-3-mini-4k-instruct", ARCH("Phi3ForCausalLM")
     "\"attention_bias\":false,\"auto_map\":{\"AutoConfig\":\"configuration_phi3.Phi3Config\"},\"bos_token_id\":1,\"eos_token_id\":32000,\"hidden_act\":\"silu\","
     "\"hidden_size\":3072,\"initializer_range\":0.02,\"intermediate_size\":8192,\"max_position_embeddings\":4096,\"model_type\":\"phi3\","
     "\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_key_value_heads\":32,\"original_max_position_embeddings\":4096,\"pad_token_id\":32000,"
     "\"rms_norm_eps\":1e-05,\"rope_scaling\":null,\"rope_theta\":10000.0,\"sliding_window\":2047,\"tie_word_embeddings\":false,\"vocab_size\":32064}",
     3821079552, 32, 96, 96, 2047, 0, false, 32, 0, 10000, 0.10206207261596577},
    {"Phi-3-mini-128k-instruct", ARCH("Phi3ForCausalLM") /* factors rounded */
     "\"attention_bias\":false,\"bos_token_id\":1,\"eos_token_id\":32000,\"hidden_act\":\"silu\",\"hidden_size\":3072,\"initializer_range\":0.02,"
     "\"intermediate_size\":8192,\"max_position_embeddings\":131072,\"model_type\":\"phi3\",\"num_attention_heads\":32,\"num_hidden_layers\":32,"
     "\"num_key_value_heads\":32,\"original_max_position_embeddings\":4096,\"pad_token_id\":32000,\"rms_norm_eps\":1e-05,\"rope_scaling\":{\"long_factor\":["
     "1.07,1.12,1.14,1.42,1.57,1.80,2.13,2.13,3.01,5.91,6.95,9.08,9.09,10.97,11.41,15.11,15.47,17.98,26.66,32.0,36.5,40.0,42.6,44.8,46.4,48.2,49.7,51.0,52.2,53.4,"
     "54.3,55.2,56.1,57.0,57.8,58.5,59.2,59.9,60.5,61.1,61.6,62.1,62.6,63.1,63.5,63.9,64.3,64.6],\"short_factor\":[1.1,1.1,1.1,1.3,1.35,1.35,1.4,1.4,1.4,1.4,1.4,1.4,"
     "1.4,1.4,1.4,1.5,1.5,1.5,1.5,1.5,1.5,1.55,1.6,1.6,1.6,1.65,1.7,1.7,1.7,1.75,1.8,1.8,1.8,1.85,1.9,1.9,1.9,1.95,2.0,2.0,2.0,2.0,2.05,2.1,2.1,2.15,2.2,2.2],"
     "\"type\":\"longrope\"},\"rope_theta\":10000.0,\"sliding_window\":262144,\"tie_word_embeddings\":false,\"vocab_size\":32064}",
     3821079552, 32, 96, 96, 262144, 0, false, 32, 0, 10000, 0.10206207261596577},
    {"pythia-160m", ARCH("GPTNeoXForCausalLM")
     "\"bos_token_id\":0,\"eos_token_id\":0,\"hidden_act\":\"gelu\",\"hidden_size\":768,\"initializer_range\":0.02,\"intermediate_size\":3072,"
     "\"layer_norm_eps\":1e-05,\"max_position_embeddings\":2048,\"model_type\":\"gpt_neox\",\"num_attention_heads\":12,\"num_hidden_layers\":12,"
     "\"rotary_emb_base\":10000,\"rotary_pct\":0.25,\"tie_word_embeddings\":false,\"use_parallel_residual\":true,\"vocab_size\":50304}",
     162322944, 12, 64, 16, 0, 2, false, 0, 0, 10000, 0.125},
    {"opt-125m", ARCH("OPTForCausalLM")
     "\"_remove_final_layer_norm\":false,\"activation_function\":\"relu\",\"bos_token_id\":2,\"do_layer_norm_before\":true,\"eos_token_id\":2,\"ffn_dim\":3072,"
     "\"hidden_size\":768,\"init_std\":0.02,\"layerdrop\":0.0,\"max_position_embeddings\":2048,\"model_type\":\"opt\",\"num_attention_heads\":12,"
     "\"num_hidden_layers\":12,\"pad_token_id\":1,\"prefix\":\"</s>\",\"vocab_size\":50272,\"word_embed_proj_dim\":768}",
     125239296, 12, 64, 0, 0, 2, true, 0, 0, 0, 0.125},
    {"opt-350m", ARCH("OPTForCausalLM")
     "\"_remove_final_layer_norm\":false,\"activation_function\":\"relu\",\"bos_token_id\":2,\"do_layer_norm_before\":false,\"eos_token_id\":2,\"ffn_dim\":4096,"
     "\"hidden_size\":1024,\"init_std\":0.02,\"layerdrop\":0.0,\"max_position_embeddings\":2048,\"model_type\":\"opt\",\"num_attention_heads\":16,"
     "\"num_hidden_layers\":24,\"pad_token_id\":1,\"prefix\":\"</s>\",\"vocab_size\":50272,\"word_embed_proj_dim\":512}",
     331196416, 16, 64, 0, 0, 2, true, 0, 0, 0, 0.125},
    {"OLMo-2-0425-1B", ARCH("Olmo2ForCausalLM")
     "\"attention_bias\":false,\"eos_token_id\":100257,\"hidden_act\":\"silu\",\"hidden_size\":2048,\"initializer_range\":0.02,\"intermediate_size\":8192,"
     "\"max_position_embeddings\":4096,\"model_type\":\"olmo2\",\"num_attention_heads\":16,\"num_hidden_layers\":16,\"num_key_value_heads\":16,"
     "\"pad_token_id\":100277,\"rms_norm_eps\":1e-06,\"rope_scaling\":null,\"rope_theta\":500000,\"tie_word_embeddings\":false,\"vocab_size\":100352}",
     1484916736, 16, 128, 128, 0, 0, false, 0, 0, 500000, 0.08838834764831845},
    {"granite-3.1-2b-instruct", ARCH("GraniteForCausalLM")
     "\"attention_bias\":false,\"attention_multiplier\":0.015625,\"bos_token_id\":0,\"embedding_multiplier\":12.0,\"eos_token_id\":0,\"hidden_act\":\"silu\","
     "\"hidden_size\":2048,\"initializer_range\":0.02,\"intermediate_size\":8192,\"logits_scaling\":8.0,\"max_position_embeddings\":131072,\"mlp_bias\":false,"
     "\"model_type\":\"granite\",\"num_attention_heads\":32,\"num_hidden_layers\":40,\"num_key_value_heads\":8,\"pad_token_id\":0,"
     "\"residual_multiplier\":0.22,\"rms_norm_eps\":1e-05,\"rope_scaling\":null,\"rope_theta\":5000000.0,\"tie_word_embeddings\":true,\"vocab_size\":49155}",
     2533531648, 8, 64, 64, 0, 0, true, 0, 0, 5000000, 0.015625},
    {"stablelm-2-1_6b", ARCH("StableLmForCausalLM")
     "\"bos_token_id\":100257,\"eos_token_id\":100257,\"hidden_act\":\"silu\",\"hidden_size\":2048,\"initializer_range\":0.02,\"intermediate_size\":5632,"
     "\"layer_norm_eps\":1e-05,\"max_position_embeddings\":4096,\"model_type\":\"stablelm\",\"num_attention_heads\":32,\"num_hidden_layers\":24,"
     "\"num_key_value_heads\":32,\"partial_rotary_factor\":0.25,\"rope_theta\":10000,\"tie_word_embeddings\":false,\"use_qkv_bias\":true,\"vocab_size\":100352}",
     1644515328, 32, 64, 16, 0, 1, false, 0, 0, 10000, 0.125},
    {"stablelm-2-12b", ARCH("StableLmForCausalLM")
     "\"bos_token_id\":100257,\"eos_token_id\":100257,\"hidden_act\":\"silu\",\"hidden_size\":5120,\"initializer_range\":0.02,\"intermediate_size\":13824,"
     "\"layer_norm_eps\":1e-05,\"max_position_embeddings\":4096,\"model_type\":\"stablelm\",\"num_attention_heads\":32,\"num_hidden_layers\":40,"
     "\"num_key_value_heads\":8,\"partial_rotary_factor\":0.25,\"qk_layernorm\":true,\"rope_theta\":10000,\"tie_word_embeddings\":false,"
     "\"use_parallel_residual\":true,\"use_qkv_bias\":false,\"vocab_size\":100352}",
     12143185920, 8, 160, 40, 0, 0, false, 0, 0, 10000, 0.07905694150420949},
};

static void test_published(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        const struct published *p = &published[i];
        struct model_config c, again;
        struct error err = {0};
        struct buf one, two;
        uint32_t windowed = 0, experts = 0;
        buf_init(&one, 1 << 16);
        buf_init(&two, 1 << 16);
        if (model_config_parse(span_str(p->text), &c, &err)) fail_msg("%s: %s", p->name, err.message);
        for (uint32_t l = 0; l < c.layers; l++) {
            windowed += (c.layer_flags[l] & MODEL_LAYER_WINDOW) != 0;
            experts += (c.layer_flags[l] & MODEL_LAYER_EXPERTS) != 0;
        }
        if (model_config_param_count(&c) != p->params) fail_msg("%s: %llu parameters", p->name, (unsigned long long)model_config_param_count(&c));
        if (c.kv_heads != p->kv_heads || c.head_dim != p->head_dim || c.rotary_dim != p->rotary_dim || c.window != p->window || c.attn_bias != p->attn_bias ||
            c.tie_embeddings != p->tied || windowed != p->windowed || experts != p->experts || c.rope_theta != p->theta || fabs((double)c.attn_scale / p->attn_scale - 1) > 1e-6)
            fail_msg("%s: kv %u, head %u, rotated %u, window %u in %u layers, bias %d, tied %d, experts in %u, theta %g, scale %g", p->name, c.kv_heads, c.head_dim,
                     c.rotary_dim, c.window, windowed, c.attn_bias, c.tie_embeddings, experts, c.rope_theta, (double)c.attn_scale);
        /* what is written says the same */
        assert_int_equal(model_config_write(&c, &one), 0);
        if (model_config_parse(buf_span(&one), &again, &err)) fail_msg("%s, written: %s", p->name, err.message);
        assert_int_equal(model_config_write(&again, &two), 0);
        if (!span_eq(buf_span(&one), buf_span(&two))) fail_msg("%s: written otherwise the second time", p->name);
        if (c.embed_scale != again.embed_scale || c.residual_scale != again.residual_scale || c.logits_scale != again.logits_scale || c.attn_softcap != again.attn_softcap ||
            c.logits_softcap != again.logits_softcap || c.norm_place != again.norm_place || c.qk_norm != again.qk_norm || c.no_final_norm != again.no_final_norm ||
            c.embed_width != again.embed_width || c.experts_used != again.experts_used || c.expert_ffn != again.expert_ffn || c.experts_normed != again.experts_normed ||
            memcmp(c.layer_flags, again.layer_flags, sizeof c.layer_flags) != 0 || memcmp(c.rope_long, again.rope_long, sizeof c.rope_long) != 0 ||
            c.rope_attention_factor != again.rope_attention_factor || c.rope_theta_local != again.rope_theta_local || c.activation != again.activation ||
            c.attn_scale != again.attn_scale || c.rotary_dim != again.rotary_dim || c.norm_eps != again.norm_eps)
            fail_msg("%s: written, it is another model", p->name);
        buf_fini(&one);
        buf_fini(&two);
    }
}

/* Frequencies of the scaled kinds against transformers' own (5.23, float32). */
static void test_rope_kinds(void **state) {
    (void)state;
    struct model_config c;
    float f[64];
    struct error err = {0};
    if (model_config_parse(SPAN(LLAMA(",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":32}")), &c, &err)) fail_msg("%s", err.message);
    model_rope_frequencies(&c, f);
    assert_true(fabs(c.rope_attention_factor - (0.1 * log(4) + 1)) < 1e-12);
    assert_true(f[0] == 1.0f && fabs((double)f[7] / (pow(10000, -14.0 / 16) / 4) - 1) < 1e-6); /* fast ones stay, slow ones are stretched */
    if (model_config_parse(SPAN(LLAMA(",\"rope_scaling\":{\"type\":\"su\",\"short_factor\":[1,1,1,1,1,1,1,2],\"long_factor\":[4,4,4,4,4,4,4,4],"
                                      "\"original_max_position_embeddings\":32}")), &c, &err)) fail_msg("%s", err.message);
    assert_true(fabs(c.rope_attention_factor - sqrt(1 + log(4) / log(32))) < 1e-12);
    assert_true(model_rope_has(&c, MODEL_ROPE_KIND_LONG) && !model_rope_has(&c, MODEL_ROPE_KIND_LOCAL));
    model_rope_frequencies(&c, f);
    assert_true(f[0] == 1.0f && fabs((double)f[7] / (pow(10000, -14.0 / 16) / 2) - 1) < 1e-6);
    model_rope_frequencies_of(&c, MODEL_ROPE_KIND_LONG, f);
    assert_true(f[0] == 0.25f);
    if (model_config_parse(SPAN(OF("Gemma3ForCausalLM", ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"factor\":8,\"rope_theta\":1000000},"
                                                        "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":20000}},\"sliding_window_pattern\":3,\"head_dim\":16")), &c, &err))
        fail_msg("%s", err.message);
    assert_true(c.rope_theta_local == 20000 && c.rope_scaling == MODEL_ROPE_LINEAR && c.layer_flags[1] == (MODEL_LAYER_WINDOW | MODEL_LAYER_ROPE_LOCAL) && c.layer_flags[2] == 0);
    model_rope_frequencies_of(&c, MODEL_ROPE_KIND_LOCAL, f);
    assert_true(f[0] == 1.0f && fabs((double)f[7] / pow(20000, -14.0 / 16) - 1) < 1e-6);
    model_rope_frequencies(&c, f);
    assert_true(f[0] == 0.125f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_llama), cmocka_unit_test(test_gpt2),    cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_write), cmocka_unit_test(test_tensors), cmocka_unit_test(test_param_count), cmocka_unit_test(test_published), cmocka_unit_test(test_rope_kinds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
