/*
 * The table of families, and from a family and its numbers: the list of its tensors. Rules are in the order of the forward pass; a dimension is a
 * symbol that model_dim resolves.
 */
#include "model/arch.h"

#include <math.h>

#include "base/alloc.h"
#include "model/rules.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define MATRIX(scope, name, role, rows, cols) {scope, IF_ALWAYS, name, {role}, 1, rows, cols, false, false, MODEL_FUSED_STACKED}
#define VECTOR(scope, when, name, role, n) {scope, when, name, {role}, 1, DIM_ONE, n, false, true, MODEL_FUSED_STACKED}
/* GPT-2's Conv1D keeps [in, out] */
#define CONV1D(scope, name, role, rows, cols) {scope, IF_ALWAYS, name, {role}, 1, rows, cols, true, false, MODEL_FUSED_STACKED}

/* Touvron et al. 2023, "LLaMA"; grouped keys and values: Ainslie et al. 2023 */
static const struct model_tensor_rule llama_rules[] = {
    MATRIX(SCOPE_BASE, "embed_tokens.weight", MODEL_EMBED_TOKENS, DIM_VOCAB, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "input_layernorm.weight", MODEL_ATTN_NORM_W, DIM_WIDTH),
    MATRIX(SCOPE_LAYER, "self_attn.q_proj.weight", MODEL_ATTN_Q_W, DIM_Q, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ATTN_BIAS, "self_attn.q_proj.bias", MODEL_ATTN_Q_B, DIM_Q),
    MATRIX(SCOPE_LAYER, "self_attn.k_proj.weight", MODEL_ATTN_K_W, DIM_KV, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ATTN_BIAS, "self_attn.k_proj.bias", MODEL_ATTN_K_B, DIM_KV),
    MATRIX(SCOPE_LAYER, "self_attn.v_proj.weight", MODEL_ATTN_V_W, DIM_KV, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ATTN_BIAS, "self_attn.v_proj.bias", MODEL_ATTN_V_B, DIM_KV),
    MATRIX(SCOPE_LAYER, "self_attn.o_proj.weight", MODEL_ATTN_O_W, DIM_WIDTH, DIM_Q),
    VECTOR(SCOPE_LAYER, IF_OUT_BIAS, "self_attn.o_proj.bias", MODEL_ATTN_O_B, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "post_attention_layernorm.weight", MODEL_MLP_NORM_W, DIM_WIDTH),
    MATRIX(SCOPE_LAYER, "mlp.gate_proj.weight", MODEL_MLP_GATE_W, DIM_FFN, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_MLP_BIAS, "mlp.gate_proj.bias", MODEL_MLP_GATE_B, DIM_FFN),
    MATRIX(SCOPE_LAYER, "mlp.up_proj.weight", MODEL_MLP_UP_W, DIM_FFN, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_MLP_BIAS, "mlp.up_proj.bias", MODEL_MLP_UP_B, DIM_FFN),
    MATRIX(SCOPE_LAYER, "mlp.down_proj.weight", MODEL_MLP_DOWN_W, DIM_WIDTH, DIM_FFN),
    VECTOR(SCOPE_LAYER, IF_MLP_BIAS, "mlp.down_proj.bias", MODEL_MLP_DOWN_B, DIM_WIDTH),
    VECTOR(SCOPE_BASE_END, IF_ALWAYS, "norm.weight", MODEL_FINAL_NORM_W, DIM_WIDTH),
    {SCOPE_ROOT, IF_UNTIED, "lm_head.weight", {MODEL_LM_HEAD}, 1, DIM_VOCAB, DIM_WIDTH, false, false, MODEL_FUSED_STACKED},
};

/* Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" */
static const struct model_tensor_rule gpt2_rules[] = {
    MATRIX(SCOPE_BASE, "wte.weight", MODEL_EMBED_TOKENS, DIM_VOCAB, DIM_WIDTH),
    MATRIX(SCOPE_BASE, "wpe.weight", MODEL_EMBED_POSITIONS, DIM_CONTEXT, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "ln_1.weight", MODEL_ATTN_NORM_W, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "ln_1.bias", MODEL_ATTN_NORM_B, DIM_WIDTH),
    {SCOPE_LAYER, IF_ALWAYS, "attn.c_attn.weight", {MODEL_ATTN_Q_W, MODEL_ATTN_K_W, MODEL_ATTN_V_W}, 3, DIM_QKV, DIM_WIDTH, true, false, MODEL_FUSED_STACKED},
    {SCOPE_LAYER, IF_ALWAYS, "attn.c_attn.bias", {MODEL_ATTN_Q_B, MODEL_ATTN_K_B, MODEL_ATTN_V_B}, 3, DIM_ONE, DIM_QKV, false, true, MODEL_FUSED_STACKED},
    CONV1D(SCOPE_LAYER, "attn.c_proj.weight", MODEL_ATTN_O_W, DIM_WIDTH, DIM_Q),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "attn.c_proj.bias", MODEL_ATTN_O_B, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "ln_2.weight", MODEL_MLP_NORM_W, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "ln_2.bias", MODEL_MLP_NORM_B, DIM_WIDTH),
    CONV1D(SCOPE_LAYER, "mlp.c_fc.weight", MODEL_MLP_UP_W, DIM_FFN, DIM_WIDTH),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "mlp.c_fc.bias", MODEL_MLP_UP_B, DIM_FFN),
    CONV1D(SCOPE_LAYER, "mlp.c_proj.weight", MODEL_MLP_DOWN_W, DIM_WIDTH, DIM_FFN),
    VECTOR(SCOPE_LAYER, IF_ALWAYS, "mlp.c_proj.bias", MODEL_MLP_DOWN_B, DIM_WIDTH),
    VECTOR(SCOPE_BASE_END, IF_ALWAYS, "ln_f.weight", MODEL_FINAL_NORM_W, DIM_WIDTH),
    VECTOR(SCOPE_BASE_END, IF_ALWAYS, "ln_f.bias", MODEL_FINAL_NORM_B, DIM_WIDTH),
    {SCOPE_ROOT, IF_UNTIED, "lm_head.weight", {MODEL_LM_HEAD}, 1, DIM_VOCAB, DIM_WIDTH, false, false, MODEL_FUSED_STACKED},
};

static const struct model_arch archs[] = {
    {
        .name = "llama", .model_type = "llama", .architecture = "LlamaForCausalLM", .kind = MODEL_DECODER,
        .norm = MODEL_NORM_RMS, .norm_place = MODEL_NORM_PRE, .mlp = MODEL_MLP_GATED, .positions = MODEL_POS_ROPE,
        .tie_default = false, .attn_bias = -1, .mlp_bias = -1, .activation_default = MODEL_ACT_SILU,
        .base_prefix = "model.", .layer_prefix = "layers.", .rules = llama_rules, .rule_count = COUNT(llama_rules),
    },
    {
        .name = "gpt2", .model_type = "gpt2", .architecture = "GPT2LMHeadModel", .kind = MODEL_DECODER,
        .norm = MODEL_NORM_LAYER, .norm_place = MODEL_NORM_PRE, .mlp = MODEL_MLP_PLAIN, .positions = MODEL_POS_LEARNED,
        .norm_bias = true, .tie_default = true, .attn_bias = 2, .mlp_bias = 1, .activation_default = MODEL_ACT_GELU_TANH,
        .base_prefix = "transformer.", .layer_prefix = "h.", .rules = gpt2_rules, .rule_count = COUNT(gpt2_rules),
    },
};

/* Ends of names of buffers that checkpoints carry and that are no parameters. */
static const char *const ignored_ends[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};

size_t model_arch_count(void) { return COUNT(archs) + MODEL_ENCODERS_COUNT; }
const struct model_arch *model_arch_at(size_t index) {
    if (index < COUNT(archs)) return &archs[index];
    return index - COUNT(archs) < MODEL_ENCODERS_COUNT ? &MODEL_ENCODERS[index - COUNT(archs)] : NULL;
}
const char *model_arch_names(void) { return "llama, gpt2, bert, roberta, xlm-roberta, distilbert, modernbert"; }

const struct model_arch *model_arch_find(struct span name) {
    for (size_t i = 0; i < COUNT(archs); i++)
        if (span_eq_str(name, archs[i].name) || span_eq_str(name, archs[i].architecture) || span_eq_str(name, archs[i].model_type)) return &archs[i];
    return model_encoder_find(name);
}

const char *model_role_name(enum model_role role) {
    static const char *const names[MODEL_ROLES] = {
        [MODEL_EMBED_TOKENS] = "embed_tokens", [MODEL_EMBED_POSITIONS] = "embed_positions", [MODEL_FINAL_NORM_W] = "final_norm_w",
        [MODEL_FINAL_NORM_B] = "final_norm_b", [MODEL_LM_HEAD] = "lm_head", [MODEL_ATTN_NORM_W] = "attn_norm_w", [MODEL_ATTN_NORM_B] = "attn_norm_b",
        [MODEL_ATTN_Q_W] = "attn_q_w", [MODEL_ATTN_Q_B] = "attn_q_b", [MODEL_ATTN_K_W] = "attn_k_w", [MODEL_ATTN_K_B] = "attn_k_b",
        [MODEL_ATTN_V_W] = "attn_v_w", [MODEL_ATTN_V_B] = "attn_v_b", [MODEL_ATTN_Q_NORM_W] = "attn_q_norm_w", [MODEL_ATTN_K_NORM_W] = "attn_k_norm_w",
        [MODEL_ATTN_O_W] = "attn_o_w", [MODEL_ATTN_O_B] = "attn_o_b", [MODEL_ATTN_POST_NORM_W] = "attn_post_norm_w", [MODEL_MLP_NORM_W] = "mlp_norm_w",
        [MODEL_MLP_NORM_B] = "mlp_norm_b", [MODEL_MLP_GATE_W] = "mlp_gate_w", [MODEL_MLP_GATE_B] = "mlp_gate_b", [MODEL_MLP_UP_W] = "mlp_up_w",
        [MODEL_MLP_UP_B] = "mlp_up_b", [MODEL_MLP_DOWN_W] = "mlp_down_w", [MODEL_MLP_DOWN_B] = "mlp_down_b", [MODEL_MLP_POST_NORM_W] = "mlp_post_norm_w",
        [MODEL_EMBED_TYPES] = "embed_types", [MODEL_EMBED_NORM_W] = "embed_norm_w", [MODEL_EMBED_NORM_B] = "embed_norm_b",
        [MODEL_HEAD_DENSE_W] = "head_dense_w", [MODEL_HEAD_DENSE_B] = "head_dense_b", [MODEL_HEAD_NORM_W] = "head_norm_w",
        [MODEL_HEAD_OUT_W] = "head_out_w", [MODEL_HEAD_OUT_B] = "head_out_b",
    };
    return role < MODEL_ROLES ? names[role] : "(none)";
}

static uint32_t model_dim(const struct model_config *c, enum model_dim d) {
    switch (d) {
    case DIM_ONE: return 1;
    case DIM_WIDTH: return c->width;
    case DIM_Q: return c->heads * c->head_dim;
    case DIM_KV: return c->kv_heads * c->head_dim;
    case DIM_QKV: return (c->heads + 2 * c->kv_heads) * c->head_dim;
    case DIM_FFN: return c->ffn;
    case DIM_GATE_UP: return 2 * c->ffn;
    case DIM_VOCAB: return c->vocab;
    case DIM_CONTEXT: return c->context;
    case DIM_TYPES: return c->types;
    case DIM_LABELS: return c->labels;
    }
    return 0;
}

static bool rule_applies(const struct model_config *c, const struct model_tensor_rule *rule, uint32_t layer) {
    switch (rule->when) {
    case IF_ALWAYS: return true;
    case IF_ATTN_BIAS: return c->attn_bias >= 1;
    case IF_OUT_BIAS: return c->attn_bias >= 2;
    case IF_MLP_BIAS: return c->mlp_bias;
    case IF_UNTIED: return !c->tie_embeddings;
    case IF_HEAD: return c->labels > 0;
    case IF_NOT_FIRST: return layer > 0;
    }
    return false;
}

/* Of the out dimension that is `role`'s, in a tensor of several. */
static uint32_t part_rows(const struct model_config *c, const struct model_tensor_rule *rule, unsigned part) {
    if (rule->part_count == 1) return model_dim(c, rule->vector ? rule->cols : rule->rows);
    switch (rule->roles[part]) {
    case MODEL_ATTN_Q_W:
    case MODEL_ATTN_Q_B: return model_dim(c, DIM_Q);
    case MODEL_ATTN_K_W:
    case MODEL_ATTN_K_B:
    case MODEL_ATTN_V_W:
    case MODEL_ATTN_V_B: return model_dim(c, DIM_KV);
    default: return model_dim(c, DIM_FFN); /* gate and up in one */
    }
}

static int add(const struct model_config *c, const struct model_tensor_rule *rule, uint32_t layer, struct model_tensor *t, size_t *offset, struct error *err) {
    const struct model_arch *a = c->arch;
    if (rule->scope == SCOPE_LAYER) snprintf(t->name, sizeof t->name, "%s%s%u.%s", a->base_prefix, a->layer_prefix, layer, rule->name);
    else snprintf(t->name, sizeof t->name, "%s%s", rule->scope == SCOPE_ROOT ? "" : a->base_prefix, rule->name);
    t->rows = model_dim(c, rule->rows);
    t->cols = model_dim(c, rule->cols);
    t->transposed = rule->transposed;
    t->vector = rule->vector;
    t->fusing = rule->fusing;
    t->part_count = rule->part_count;
    for (unsigned i = 0; i < rule->part_count; i++) {
        struct model_param *p = &t->parts[i];
        uint32_t out = part_rows(c, rule, i);
        *p = (struct model_param){.role = rule->roles[i], .layer = layer, .rows = rule->vector ? 1 : out, .cols = rule->vector ? out : t->cols, .offset = *offset};
        /* 2^31 floats a parameter and 2^44 in all are within the limits of arch.h; SIZE_MAX / 4 is the address space */
        if (!size_add(*offset, model_param_size(p), offset) || *offset > SIZE_MAX / sizeof(float))
            return error_set(err, E_TOO_LARGE, "the model's parameters do not fit the address space");
    }
    return 0;
}

int model_tensors(const struct model_config *c, struct model_tensor **tensors, size_t *count, size_t *flat_len, struct error *err) {
    const struct model_arch *a = c->arch;
    size_t n_max = a->rule_count * ((size_t)c->layers + 1), n = 0, offset = 0;
    struct model_tensor *list = mem_calloc(n_max, sizeof *list);
    if (!list) return error_set(err, E_NOMEM, "no memory for the list of a model's tensors");
    int r = 0;
    static const enum model_scope order[] = {SCOPE_BASE, SCOPE_LAYER, SCOPE_BASE_END, SCOPE_ROOT};
    for (size_t s = 0; !r && s < COUNT(order); s++)
        for (uint32_t layer = 0; !r && layer < (order[s] == SCOPE_LAYER ? c->layers : 1); layer++)
            for (size_t i = 0; !r && i < a->rule_count; i++)
                if (a->rules[i].scope == order[s] && rule_applies(c, &a->rules[i], layer)) r = add(c, &a->rules[i], layer, &list[n++], &offset, err);
    if (r) {
        mem_free(list);
        return r;
    }
    *tensors = list;
    *count = n;
    *flat_len = offset;
    return 0;
}

bool model_tensor_ignored(const struct model_config *c, struct span name) {
    for (size_t i = 0; i < COUNT(ignored_ends); i++)
        if (span_ends(name, span_str(ignored_ends[i]))) return true;
    if (c->arch->kind == MODEL_ENCODER) return model_encoder_tensor_ignored(c, name);
    return c->tie_embeddings && span_eq_str(name, "lm_head.weight");
}

uint64_t model_config_param_count(const struct model_config *c) {
    const struct model_arch *a = c->arch;
    uint64_t sum = 0;
    for (size_t i = 0; i < a->rule_count; i++) {
        uint64_t times = 0;
        for (uint32_t layer = 0; layer < (a->rules[i].scope == SCOPE_LAYER ? c->layers : 1); layer++) times += rule_applies(c, &a->rules[i], layer);
        sum += (uint64_t)model_dim(c, a->rules[i].rows) * model_dim(c, a->rules[i].cols) * times;
    }
    return sum;
}

/* Su et al. 2021, "RoFormer": θ_i = θ^(−2i/D). Llama 3.1 stretches the slow ones and blends between (Meta 2024, transformers' _compute_llama3_parameters). */
void model_rope_frequencies(const struct model_config *c, float *inv_freq) {
    const double pi = 3.14159265358979323846;
    for (uint32_t i = 0; i < c->rotary_dim / 2; i++) {
        double f = pow(c->rope_theta, -2.0 * i / c->rotary_dim);
        if (c->rope_scaling == MODEL_ROPE_LINEAR) f /= c->rope_factor;
        if (c->rope_scaling == MODEL_ROPE_LLAMA3) {
            double wavelength = 2 * pi / f, original = c->rope_original_context;
            double low = original / c->rope_low_freq_factor, high = original / c->rope_high_freq_factor;
            if (wavelength > low) {
                f /= c->rope_factor;
            } else if (wavelength >= high) {
                double smooth = (original / wavelength - c->rope_low_freq_factor) / (c->rope_high_freq_factor - c->rope_low_freq_factor);
                f = (1 - smooth) * f / c->rope_factor + smooth * f;
            }
        }
        inv_freq[i] = (float)f;
    }
}
