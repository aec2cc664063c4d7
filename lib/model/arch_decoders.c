/*
 * The decoders of the table of families. Rules are in the order of the forward pass; a dimension is a symbol that arch.c resolves.
 */
#include "model/rules.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define RULES(r) .rules = r, .rule_count = COUNT(r)
#define MATRIX_IF(scope, when, name, role, rows, cols) {scope, when, name, {role}, 1, rows, cols, false, false, MODEL_FUSED_STACKED, EACH_ONE}
#define MATRIX(scope, name, role, rows, cols) MATRIX_IF(scope, IF_ALWAYS, name, role, rows, cols)
#define VECTOR(scope, when, name, role, n) {scope, when, name, {role}, 1, DIM_ONE, n, false, true, MODEL_FUSED_STACKED, EACH_ONE}
/* GPT-2's Conv1D keeps [in, out] */
#define CONV1D(scope, name, role, rows, cols) {scope, IF_ALWAYS, name, {role}, 1, rows, cols, true, false, MODEL_FUSED_STACKED, EACH_ONE}
#define EXPERT(name, role, rows, cols) {SCOPE_LAYER, IF_EXPERTS, name, {role}, 1, rows, cols, false, false, MODEL_FUSED_STACKED, EACH_EXPERT}
#define QKV_W {MODEL_ATTN_Q_W, MODEL_ATTN_K_W, MODEL_ATTN_V_W}, 3, DIM_QKV, DIM_WIDTH
#define QKV_B {MODEL_ATTN_Q_B, MODEL_ATTN_K_B, MODEL_ATTN_V_B}, 3, DIM_ONE, DIM_QKV

#define EMBED MATRIX(SCOPE_BASE, "embed_tokens.weight", MODEL_EMBED_TOKENS, DIM_VOCAB, DIM_WIDTH)
#define HEAD MATRIX_IF(SCOPE_ROOT, IF_UNTIED, "lm_head.weight", MODEL_LM_HEAD, DIM_VOCAB, DIM_WIDTH)
#define RMS(name, role) VECTOR(SCOPE_LAYER, IF_ALWAYS, name, role, DIM_WIDTH)
#define FINAL_RMS VECTOR(SCOPE_BASE_END, IF_ALWAYS, "norm.weight", MODEL_FINAL_NORM_W, DIM_WIDTH)
#define LAYER_NORM(scope, when, name, role_w, role_b) VECTOR(scope, when, name ".weight", role_w, DIM_WIDTH), VECTOR(scope, when, name ".bias", role_b, DIM_WIDTH)
#define ATTN_LAYER_NORM(name) LAYER_NORM(SCOPE_LAYER, IF_ALWAYS, name, MODEL_ATTN_NORM_W, MODEL_ATTN_NORM_B)
#define MLP_LAYER_NORM(when, name) LAYER_NORM(SCOPE_LAYER, when, name, MODEL_MLP_NORM_W, MODEL_MLP_NORM_B)
#define FINAL_LAYER_NORM(when, name) LAYER_NORM(SCOPE_BASE_END, when, name, MODEL_FINAL_NORM_W, MODEL_FINAL_NORM_B)
/* q, k and v with the names that Llama took from OPT and all but a few took from Llama */
#define QKV_APART \
    MATRIX(SCOPE_LAYER, "self_attn.q_proj.weight", MODEL_ATTN_Q_W, DIM_Q, DIM_WIDTH), \
    VECTOR(SCOPE_LAYER, IF_ATTN_BIAS, "self_attn.q_proj.bias", MODEL_ATTN_Q_B, DIM_Q), \
    MATRIX(SCOPE_LAYER, "self_attn.k_proj.weight", MODEL_ATTN_K_W, DIM_KV, DIM_WIDTH), \
    VECTOR(SCOPE_LAYER, IF_ATTN_BIAS, "self_attn.k_proj.bias", MODEL_ATTN_K_B, DIM_KV), \
    MATRIX(SCOPE_LAYER, "self_attn.v_proj.weight", MODEL_ATTN_V_W, DIM_KV, DIM_WIDTH), \
    VECTOR(SCOPE_LAYER, IF_ATTN_BIAS, "self_attn.v_proj.bias", MODEL_ATTN_V_B, DIM_KV)
#define OUT(name) \
    MATRIX(SCOPE_LAYER, name ".weight", MODEL_ATTN_O_W, DIM_WIDTH, DIM_Q), VECTOR(SCOPE_LAYER, IF_OUT_BIAS, name ".bias", MODEL_ATTN_O_B, DIM_WIDTH)
#define LLAMA_ATTENTION QKV_APART, OUT("self_attn.o_proj")
#define LLAMA_MLP \
    MATRIX_IF(SCOPE_LAYER, IF_DENSE, "mlp.gate_proj.weight", MODEL_MLP_GATE_W, DIM_FFN, DIM_WIDTH), \
    VECTOR(SCOPE_LAYER, IF_MLP_BIAS, "mlp.gate_proj.bias", MODEL_MLP_GATE_B, DIM_FFN), \
    MATRIX_IF(SCOPE_LAYER, IF_DENSE, "mlp.up_proj.weight", MODEL_MLP_UP_W, DIM_FFN, DIM_WIDTH), \
    VECTOR(SCOPE_LAYER, IF_MLP_BIAS, "mlp.up_proj.bias", MODEL_MLP_UP_B, DIM_FFN), \
    MATRIX_IF(SCOPE_LAYER, IF_DENSE, "mlp.down_proj.weight", MODEL_MLP_DOWN_W, DIM_WIDTH, DIM_FFN), \
    VECTOR(SCOPE_LAYER, IF_MLP_BIAS, "mlp.down_proj.bias", MODEL_MLP_DOWN_B, DIM_WIDTH)
#define PLAIN_MLP(up, down) \
    MATRIX(SCOPE_LAYER, up ".weight", MODEL_MLP_UP_W, DIM_FFN, DIM_WIDTH), VECTOR(SCOPE_LAYER, IF_MLP_BIAS, up ".bias", MODEL_MLP_UP_B, DIM_FFN), \
    MATRIX(SCOPE_LAYER, down ".weight", MODEL_MLP_DOWN_W, DIM_WIDTH, DIM_FFN), VECTOR(SCOPE_LAYER, IF_MLP_BIAS, down ".bias", MODEL_MLP_DOWN_B, DIM_WIDTH)
#define QK_NORM(q_cols, k_cols) \
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "self_attn.q_norm.weight", MODEL_ATTN_Q_NORM_W, q_cols), \
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "self_attn.k_norm.weight", MODEL_ATTN_K_NORM_W, k_cols)

/* Touvron et al. 2023, "LLaMA"; grouped keys and values: Ainslie et al. 2023. Mistral (Jiang et al. 2023), Qwen 2 (Yang et al. 2024), Granite (IBM 2024) and
 * Gemma 1 (Mesnard et al. 2024) have the same tensors. */
static const struct model_tensor_rule llama_rules[] = {
    EMBED, RMS("input_layernorm.weight", MODEL_ATTN_NORM_W), LLAMA_ATTENTION, RMS("post_attention_layernorm.weight", MODEL_MLP_NORM_W), LLAMA_MLP, FINAL_RMS, HEAD,
};

/* Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" */
static const struct model_tensor_rule gpt2_rules[] = {
    MATRIX(SCOPE_BASE, "wte.weight", MODEL_EMBED_TOKENS, DIM_VOCAB, DIM_WIDTH),
    MATRIX(SCOPE_BASE, "wpe.weight", MODEL_EMBED_POSITIONS, DIM_CONTEXT, DIM_WIDTH),
    ATTN_LAYER_NORM("ln_1"),
    {SCOPE_LAYER, IF_ALWAYS, "attn.c_attn.weight", QKV_W, true, false, MODEL_FUSED_STACKED, EACH_ONE},
    {SCOPE_LAYER, IF_ALWAYS, "attn.c_attn.bias", QKV_B, false, true, MODEL_FUSED_STACKED, EACH_ONE},
    CONV1D(SCOPE_LAYER, "attn.c_proj.weight", MODEL_ATTN_O_W, DIM_WIDTH, DIM_Q),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "attn.c_proj.bias", MODEL_ATTN_O_B, DIM_WIDTH),
    MLP_LAYER_NORM(IF_ALWAYS, "ln_2"),
    CONV1D(SCOPE_LAYER, "mlp.c_fc.weight", MODEL_MLP_UP_W, DIM_FFN, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "mlp.c_fc.bias", MODEL_MLP_UP_B, DIM_FFN),
    CONV1D(SCOPE_LAYER, "mlp.c_proj.weight", MODEL_MLP_DOWN_W, DIM_WIDTH, DIM_FFN),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "mlp.c_proj.bias", MODEL_MLP_DOWN_B, DIM_WIDTH),
    FINAL_LAYER_NORM(IF_ALWAYS, "ln_f"), HEAD,
};

/* Jiang et al. 2024, "Mixtral of Experts" */
static const struct model_tensor_rule mixtral_rules[] = {
    EMBED, RMS("input_layernorm.weight", MODEL_ATTN_NORM_W), LLAMA_ATTENTION, RMS("post_attention_layernorm.weight", MODEL_MLP_NORM_W),
    MATRIX_IF(SCOPE_LAYER, IF_EXPERTS, "block_sparse_moe.gate.weight", MODEL_ROUTER_W, DIM_EXPERTS, DIM_WIDTH),
    EXPERT("block_sparse_moe.experts.#.w1.weight", MODEL_EXPERT_GATE_W, DIM_EXPERT_FFN, DIM_WIDTH),
    EXPERT("block_sparse_moe.experts.#.w3.weight", MODEL_EXPERT_UP_W, DIM_EXPERT_FFN, DIM_WIDTH),
    EXPERT("block_sparse_moe.experts.#.w2.weight", MODEL_EXPERT_DOWN_W, DIM_WIDTH, DIM_EXPERT_FFN),
    FINAL_RMS, HEAD,
};

/* Yang et al. 2025, "Qwen3 Technical Report"; its MoE has experts in most layers */
static const struct model_tensor_rule qwen3_rules[] = {
    EMBED, RMS("input_layernorm.weight", MODEL_ATTN_NORM_W), LLAMA_ATTENTION, QK_NORM(DIM_HEAD, DIM_HEAD),
    RMS("post_attention_layernorm.weight", MODEL_MLP_NORM_W), LLAMA_MLP,
    MATRIX_IF(SCOPE_LAYER, IF_EXPERTS, "mlp.gate.weight", MODEL_ROUTER_W, DIM_EXPERTS, DIM_WIDTH),
    EXPERT("mlp.experts.#.gate_proj.weight", MODEL_EXPERT_GATE_W, DIM_EXPERT_FFN, DIM_WIDTH),
    EXPERT("mlp.experts.#.up_proj.weight", MODEL_EXPERT_UP_W, DIM_EXPERT_FFN, DIM_WIDTH),
    EXPERT("mlp.experts.#.down_proj.weight", MODEL_EXPERT_DOWN_W, DIM_WIDTH, DIM_EXPERT_FFN),
    FINAL_RMS, HEAD,
};

/* Riviere et al. 2024, "Gemma 2" */
static const struct model_tensor_rule gemma2_rules[] = {
    EMBED, RMS("input_layernorm.weight", MODEL_ATTN_NORM_W), LLAMA_ATTENTION, RMS("post_attention_layernorm.weight", MODEL_ATTN_POST_NORM_W),
    RMS("pre_feedforward_layernorm.weight", MODEL_MLP_NORM_W), LLAMA_MLP, RMS("post_feedforward_layernorm.weight", MODEL_MLP_POST_NORM_W), FINAL_RMS, HEAD,
};

/* Kamath et al. 2025, "Gemma 3 Technical Report" */
static const struct model_tensor_rule gemma3_rules[] = {
    EMBED, RMS("input_layernorm.weight", MODEL_ATTN_NORM_W), LLAMA_ATTENTION, QK_NORM(DIM_HEAD, DIM_HEAD),
    RMS("post_attention_layernorm.weight", MODEL_ATTN_POST_NORM_W), RMS("pre_feedforward_layernorm.weight", MODEL_MLP_NORM_W), LLAMA_MLP,
    RMS("post_feedforward_layernorm.weight", MODEL_MLP_POST_NORM_W), FINAL_RMS, HEAD,
};

/* Gunasekar et al. 2023, "Textbooks Are All You Need": attention and MLP beside each other on one norm */
static const struct model_tensor_rule phi_rules[] = {
    EMBED, ATTN_LAYER_NORM("input_layernorm"), QKV_APART, OUT("self_attn.dense"), PLAIN_MLP("mlp.fc1", "mlp.fc2"),
    FINAL_LAYER_NORM(IF_ALWAYS, "final_layernorm"), HEAD, VECTOR(SCOPE_ROOT, IF_ALWAYS, "lm_head.bias", MODEL_LM_HEAD_B, DIM_VOCAB),
};

/* Abdin et al. 2024, "Phi-3 Technical Report" */
static const struct model_tensor_rule phi3_rules[] = {
    EMBED, RMS("input_layernorm.weight", MODEL_ATTN_NORM_W),
    {SCOPE_LAYER, IF_ALWAYS, "self_attn.qkv_proj.weight", QKV_W, false, false, MODEL_FUSED_STACKED, EACH_ONE},
    MATRIX(SCOPE_LAYER, "self_attn.o_proj.weight", MODEL_ATTN_O_W, DIM_WIDTH, DIM_Q), RMS("post_attention_layernorm.weight", MODEL_MLP_NORM_W),
    {SCOPE_LAYER, IF_ALWAYS, "mlp.gate_up_proj.weight", {MODEL_MLP_GATE_W, MODEL_MLP_UP_W}, 2, DIM_GATE_UP, DIM_WIDTH, false, false, MODEL_FUSED_STACKED, EACH_ONE},
    MATRIX(SCOPE_LAYER, "mlp.down_proj.weight", MODEL_MLP_DOWN_W, DIM_WIDTH, DIM_FFN), FINAL_RMS, HEAD,
};

/* Black et al. 2022, "GPT-NeoX-20B"; Pythia: Biderman et al. 2023 */
static const struct model_tensor_rule gpt_neox_rules[] = {
    MATRIX(SCOPE_BASE, "embed_in.weight", MODEL_EMBED_TOKENS, DIM_VOCAB, DIM_WIDTH), ATTN_LAYER_NORM("input_layernorm"),
    {SCOPE_LAYER, IF_ALWAYS, "attention.query_key_value.weight", QKV_W, false, false, MODEL_FUSED_PER_HEAD, EACH_ONE},
    {SCOPE_LAYER, IF_ATTN_BIAS, "attention.query_key_value.bias", QKV_B, false, true, MODEL_FUSED_PER_HEAD, EACH_ONE},
    OUT("attention.dense"), MLP_LAYER_NORM(IF_ALWAYS, "post_attention_layernorm"), PLAIN_MLP("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    FINAL_LAYER_NORM(IF_ALWAYS, "final_layer_norm"), MATRIX_IF(SCOPE_ROOT, IF_UNTIED, "embed_out.weight", MODEL_LM_HEAD, DIM_VOCAB, DIM_WIDTH),
};

/* Zhang et al. 2022, "OPT". "decoder." is part of the names, since files saved from the body keep it. */
static const struct model_tensor_rule opt_rules[] = {
    MATRIX(SCOPE_BASE, "decoder.embed_tokens.weight", MODEL_EMBED_TOKENS, DIM_VOCAB, DIM_EMBED),
    MATRIX(SCOPE_BASE, "decoder.embed_positions.weight", MODEL_EMBED_POSITIONS, DIM_CONTEXT, DIM_WIDTH),
    MATRIX_IF(SCOPE_BASE, IF_PROJECTED, "decoder.project_in.weight", MODEL_EMBED_IN_W, DIM_WIDTH, DIM_EMBED),
    ATTN_LAYER_NORM("self_attn_layer_norm"), QKV_APART, OUT("self_attn.out_proj"), MLP_LAYER_NORM(IF_ALWAYS, "final_layer_norm"), PLAIN_MLP("fc1", "fc2"),
    FINAL_LAYER_NORM(IF_FINAL_NORM, "decoder.final_layer_norm"),
    MATRIX_IF(SCOPE_BASE_END, IF_PROJECTED, "decoder.project_out.weight", MODEL_EMBED_OUT_W, DIM_EMBED, DIM_WIDTH),
    MATRIX_IF(SCOPE_ROOT, IF_UNTIED, "lm_head.weight", MODEL_LM_HEAD, DIM_VOCAB, DIM_EMBED),
};

/* OLMo et al. 2024, "2 OLMo 2 Furious" */
static const struct model_tensor_rule olmo2_rules[] = {
    EMBED, LLAMA_ATTENTION, QK_NORM(DIM_Q, DIM_KV), RMS("post_attention_layernorm.weight", MODEL_ATTN_POST_NORM_W), LLAMA_MLP,
    RMS("post_feedforward_layernorm.weight", MODEL_MLP_POST_NORM_W), FINAL_RMS, HEAD,
};

/* Bellagente et al. 2024, "Stable LM 2" */
static const struct model_tensor_rule stablelm_rules[] = {
    EMBED, ATTN_LAYER_NORM("input_layernorm"), LLAMA_ATTENTION,
    {SCOPE_LAYER, IF_QK_NORM, "self_attn.q_layernorm.norms.#.weight", {MODEL_ATTN_Q_NORM_W}, 1, DIM_ONE, DIM_HEAD, false, true, MODEL_FUSED_STACKED, EACH_HEAD},
    {SCOPE_LAYER, IF_QK_NORM, "self_attn.k_layernorm.norms.#.weight", {MODEL_ATTN_K_NORM_W}, 1, DIM_ONE, DIM_HEAD, false, true, MODEL_FUSED_STACKED, EACH_KV_HEAD},
    MLP_LAYER_NORM(IF_NOT_PARALLEL, "post_attention_layernorm"), LLAMA_MLP, FINAL_LAYER_NORM(IF_ALWAYS, "norm"), HEAD,
};

#define LLAMA_SHAPE(id, class) \
    .name = id, .model_type = id, .architecture = class, .kind = MODEL_DECODER, .norm = MODEL_NORM_RMS, .mlp = MODEL_MLP_GATED, \
    .positions = MODEL_POS_ROPE, .activation_default = MODEL_ACT_SILU, .base_prefix = "model.", .layer_prefix = "layers."
#define LLAMA_LIKE(id, class) LLAMA_SHAPE(id, class), .norm_place = MODEL_NORM_PRE
#define GEMMA_LIKE(id, class) \
    .name = id, .model_type = id, .architecture = class, .kind = MODEL_DECODER, .norm = MODEL_NORM_RMS_PLUS_ONE, .mlp = MODEL_MLP_GATED, \
    .positions = MODEL_POS_ROPE, .activation_default = MODEL_ACT_GELU_TANH, .base_prefix = "model.", .layer_prefix = "layers.", .attn_bias = -1, \
    .embed_scaled = true, .tie_default = true
#define WITH_LAYER_NORMS(id, class) .name = id, .model_type = id, .architecture = class, .kind = MODEL_DECODER, .norm = MODEL_NORM_LAYER, .norm_bias = true

const struct model_arch MODEL_DECODERS[] = {
    {LLAMA_LIKE("llama", "LlamaForCausalLM"), .attn_bias = -1, .mlp_bias = -1, RULES(llama_rules)},
    {
        WITH_LAYER_NORMS("gpt2", "GPT2LMHeadModel"), .norm_place = MODEL_NORM_PRE, .mlp = MODEL_MLP_PLAIN, .positions = MODEL_POS_LEARNED,
        .tie_default = true, .attn_bias = 2, .mlp_bias = 1, .activation_default = MODEL_ACT_GELU_TANH,
        .base_prefix = "transformer.", .layer_prefix = "h.", RULES(gpt2_rules),
    },
    {LLAMA_LIKE("mistral", "MistralForCausalLM"), RULES(llama_rules)},
    {LLAMA_LIKE("mixtral", "MixtralForCausalLM"), RULES(mixtral_rules)},
    {LLAMA_LIKE("qwen2", "Qwen2ForCausalLM"), .attn_bias = 1, RULES(llama_rules)},
    {LLAMA_LIKE("qwen3", "Qwen3ForCausalLM"), .attn_bias = -1, .qk_norm = MODEL_QK_NORM_HEAD, RULES(qwen3_rules)},
    {LLAMA_LIKE("qwen3_moe", "Qwen3MoeForCausalLM"), .attn_bias = -1, .qk_norm = MODEL_QK_NORM_HEAD, RULES(qwen3_rules)},
    {GEMMA_LIKE("gemma", "GemmaForCausalLM"), .norm_place = MODEL_NORM_PRE, RULES(llama_rules)},
    {GEMMA_LIKE("gemma2", "Gemma2ForCausalLM"), .norm_place = MODEL_NORM_SANDWICH, RULES(gemma2_rules)},
    {GEMMA_LIKE("gemma3_text", "Gemma3ForCausalLM"), .norm_place = MODEL_NORM_SANDWICH, .qk_norm = MODEL_QK_NORM_HEAD, RULES(gemma3_rules)},
    {
        WITH_LAYER_NORMS("phi", "PhiForCausalLM"), .norm_place = MODEL_NORM_PARALLEL, .mlp = MODEL_MLP_PLAIN, .positions = MODEL_POS_ROPE,
        .attn_bias = 2, .mlp_bias = 1, .activation_default = MODEL_ACT_GELU_TANH, .base_prefix = "model.", .layer_prefix = "layers.", RULES(phi_rules),
    },
    {LLAMA_LIKE("phi3", "Phi3ForCausalLM"), RULES(phi3_rules)},
    {
        WITH_LAYER_NORMS("gpt_neox", "GPTNeoXForCausalLM"), .norm_place = MODEL_NORM_PARALLEL, .mlp = MODEL_MLP_PLAIN, .positions = MODEL_POS_ROPE,
        .attn_bias = -1, .mlp_bias = 1, .activation_default = MODEL_ACT_GELU, .base_prefix = "gpt_neox.", .layer_prefix = "layers.", RULES(gpt_neox_rules),
    },
    {
        WITH_LAYER_NORMS("opt", "OPTForCausalLM"), .norm_place = MODEL_NORM_PRE, .mlp = MODEL_MLP_PLAIN, .positions = MODEL_POS_LEARNED, .positions_before = 2,
        .tie_default = true, .attn_bias = -1, .mlp_bias = -1, .activation_default = MODEL_ACT_RELU,
        .base_prefix = "model.", .layer_prefix = "decoder.layers.", RULES(opt_rules),
    },
    {LLAMA_SHAPE("olmo2", "Olmo2ForCausalLM"), .norm_place = MODEL_NORM_OUTPUT, .attn_bias = -1, .qk_norm = MODEL_QK_NORM_WIDE, RULES(olmo2_rules)},
    {LLAMA_LIKE("granite", "GraniteForCausalLM"), .attn_bias = -1, .mlp_bias = -1, RULES(llama_rules)},
    {
        WITH_LAYER_NORMS("stablelm", "StableLmForCausalLM"), .norm_place = MODEL_NORM_PRE, .mlp = MODEL_MLP_GATED, .positions = MODEL_POS_ROPE,
        .attn_bias = -1, .activation_default = MODEL_ACT_SILU, .base_prefix = "model.", .layer_prefix = "layers.", RULES(stablelm_rules),
    },
};
const size_t MODEL_DECODERS_COUNT = COUNT(MODEL_DECODERS);
