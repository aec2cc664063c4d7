/*
 * From a family (arch_decoders.c, arch_encoders.c, arch_t5.c) and its numbers: the list of its tensors, and the frequencies of its rotations.
 */
#include "model/arch.h"

#include <math.h>

#include "base/alloc.h"
#include "model/rules.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Ends of names of buffers that checkpoints carry and that are no parameters. */
static const char *const ignored_ends[] = {".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"};

size_t model_arch_count(void) { return MODEL_DECODERS_COUNT + MODEL_ENCODERS_COUNT + MODEL_T5_COUNT; }
const struct model_arch *model_arch_at(size_t index) {
    if (index < MODEL_DECODERS_COUNT) return &MODEL_DECODERS[index];
    index -= MODEL_DECODERS_COUNT;
    if (index < MODEL_ENCODERS_COUNT) return &MODEL_ENCODERS[index];
    return index - MODEL_ENCODERS_COUNT < MODEL_T5_COUNT ? &MODEL_T5[index - MODEL_ENCODERS_COUNT] : NULL;
}
const char *model_arch_names(void) {
    return "llama, gpt2, mistral, mixtral, qwen2, qwen3, qwen3_moe, gemma, gemma2, gemma3_text, phi, phi3, gpt_neox, opt, olmo2, granite, stablelm, bert, roberta, xlm-roberta, distilbert, modernbert, "
           "t5, mt5, umt5, t5-encoder, mt5-encoder, umt5-encoder";
}

const struct model_arch *model_arch_find(struct span name) {
    static const struct {
        const struct model_arch *rows;
        const size_t *count;
    } tables[] = {{MODEL_DECODERS, &MODEL_DECODERS_COUNT}, {MODEL_T5, &MODEL_T5_COUNT}};
    for (size_t t = 0; t < COUNT(tables); t++)
        for (size_t i = 0; i < *tables[t].count; i++) {
            const struct model_arch *a = &tables[t].rows[i];
            if (span_eq_str(name, a->name) || span_eq_str(name, a->architecture) || span_eq_str(name, a->model_type)) return a;
        }
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
        [MODEL_LM_HEAD_B] = "lm_head_b", [MODEL_EMBED_IN_W] = "embed_in_w", [MODEL_EMBED_OUT_W] = "embed_out_w", [MODEL_ROUTER_W] = "router_w",
        [MODEL_ENCODER_NORM_W] = "encoder_norm_w", [MODEL_ATTN_POSITION_W] = "attn_position_w", [MODEL_CROSS_NORM_W] = "cross_norm_w",
        [MODEL_CROSS_Q_W] = "cross_q_w", [MODEL_CROSS_K_W] = "cross_k_w", [MODEL_CROSS_V_W] = "cross_v_w", [MODEL_CROSS_O_W] = "cross_o_w",
        [MODEL_EXPERT_GATE_W] = "expert_gate_w", [MODEL_EXPERT_UP_W] = "expert_up_w", [MODEL_EXPERT_DOWN_W] = "expert_down_w",
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
    case DIM_CONTEXT: return c->context + c->arch->positions_before;
    case DIM_HEAD: return c->head_dim;
    case DIM_EMBED: return c->embed_width;
    case DIM_EXPERTS: return c->experts;
    case DIM_EXPERT_FFN: return c->expert_ffn;
    case DIM_BUCKETS: return c->position_buckets;
    case DIM_HEADS: return c->heads;
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
    case IF_FIRST: return layer == 0;
    case IF_GATED: return c->mlp == MODEL_MLP_GATED;
    case IF_PLAIN: return c->mlp == MODEL_MLP_PLAIN;
    case IF_FINAL_NORM: return !c->no_final_norm;
    case IF_PROJECTED: return c->embed_width != c->width;
    case IF_NOT_PARALLEL: return c->norm_place != MODEL_NORM_PARALLEL;
    case IF_QK_NORM: return c->qk_norm != MODEL_QK_NORM_NONE;
    case IF_DENSE: return !(c->layer_flags[layer] & MODEL_LAYER_EXPERTS);
    case IF_EXPERTS: return c->layer_flags[layer] & MODEL_LAYER_EXPERTS;
    }
    return false;
}

/* How many layers a rule of this scope is there for; those that are there once, for one. */
static uint32_t scope_layers(const struct model_config *c, enum model_scope scope) {
    return scope == SCOPE_LAYER ? c->layers : scope == SCOPE_ENCODER ? c->encoder_layers : 1;
}

static uint32_t rule_repeats(const struct model_config *c, const struct model_tensor_rule *rule) {
    switch (rule->each) {
    case EACH_ONE: return 1;
    case EACH_EXPERT: return c->experts;
    case EACH_HEAD: return c->heads;
    case EACH_KV_HEAD: return c->kv_heads;
    }
    return 0;
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

static int add(const struct model_config *c, const struct model_tensor_rule *rule, uint32_t layer, uint32_t index, struct model_tensor *t, size_t *offset,
               struct error *err) {
    const struct model_arch *a = c->arch;
    const char *mark = strchr(rule->name, '#');
    char number[16] = "";
    if (mark) snprintf(number, sizeof number, "%u", index);
    int before = mark ? (int)(mark - rule->name) : (int)strlen(rule->name);
    const char *after = mark ? mark + 1 : "";
    bool encoder = rule->scope == SCOPE_ENCODER;
    if (rule->scope == SCOPE_LAYER || encoder)
        snprintf(t->name, sizeof t->name, "%s%s%u.%.*s%s%s", a->base_prefix, encoder ? a->encoder_prefix : a->layer_prefix, layer, before, rule->name, number, after);
    else snprintf(t->name, sizeof t->name, "%s%.*s%s%s", rule->scope == SCOPE_ROOT ? "" : a->base_prefix, before, rule->name, number, after);
    t->rows = model_dim(c, rule->rows);
    t->cols = model_dim(c, rule->cols);
    t->transposed = rule->transposed;
    t->vector = rule->vector;
    t->fusing = rule->fusing;
    t->part_count = rule->part_count;
    for (unsigned i = 0; i < rule->part_count; i++) {
        struct model_param *p = &t->parts[i];
        uint32_t out = part_rows(c, rule, i);
        *p = (struct model_param){.role = rule->roles[i], .layer = encoder ? c->layers + layer : layer, .index = index, .rows = rule->vector ? 1 : out,
                                  .cols = rule->vector ? out : t->cols, .offset = *offset};
        /* 2^31 floats a parameter and 2^44 in all are within the limits of arch.h; SIZE_MAX / 4 is the address space */
        if (!size_add(*offset, model_param_size(p), offset) || *offset > SIZE_MAX / sizeof(float))
            return error_set(err, E_TOO_LARGE, "the model's parameters do not fit the address space");
    }
    return 0;
}

int model_tensors(const struct model_config *c, struct model_tensor **tensors, size_t *count, size_t *flat_len, struct error *err) {
    const struct model_arch *a = c->arch;
    static const enum model_scope order[] = {SCOPE_BASE, SCOPE_LAYER, SCOPE_ENCODER, SCOPE_BASE_END, SCOPE_ROOT};
    size_t n_max = 0, n = 0, offset = 0;
    for (size_t i = 0; i < a->rule_count; i++)
        for (uint32_t layer = 0; layer < scope_layers(c, a->rules[i].scope); layer++)
            if (rule_applies(c, &a->rules[i], layer)) n_max += rule_repeats(c, &a->rules[i]);
    if (n_max > MODEL_TENSORS_MAX) return error_set(err, E_TOO_LARGE, "the model has %zu tensors; at most %d are read", n_max, MODEL_TENSORS_MAX);
    struct model_tensor *list = mem_calloc(n_max, sizeof *list);
    if (!list) return error_set(err, E_NOMEM, "no memory for the list of a model's tensors");
    int r = 0;
    for (size_t s = 0; !r && s < COUNT(order); s++)
        for (uint32_t layer = 0; !r && layer < scope_layers(c, order[s]); layer++)
            for (size_t i = 0; !r && i < a->rule_count; i++) {
                if (a->rules[i].scope != order[s] || !rule_applies(c, &a->rules[i], layer)) continue;
                for (uint32_t k = 0; !r && k < rule_repeats(c, &a->rules[i]); k++) r = add(c, &a->rules[i], layer, k, &list[n++], &offset, err);
            }
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
    if (config_is_t5(c->arch)) return model_t5_tensor_ignored(c, name);
    if (c->arch->kind == MODEL_ENCODER) return model_encoder_tensor_ignored(c, name);
    for (size_t i = 0; c->tie_embeddings && i < c->arch->rule_count; i++)
        if (c->arch->rules[i].roles[0] == MODEL_LM_HEAD && span_eq_str(name, c->arch->rules[i].name)) return true;
    return false;
}

uint64_t model_config_param_count(const struct model_config *c) {
    const struct model_arch *a = c->arch;
    uint64_t sum = 0;
    for (size_t i = 0; i < a->rule_count; i++) {
        uint64_t times = 0;
        for (uint32_t layer = 0; layer < scope_layers(c, a->rules[i].scope); layer++) times += rule_applies(c, &a->rules[i], layer);
        sum += (uint64_t)model_dim(c, a->rules[i].rows) * model_dim(c, a->rules[i].cols) * times * rule_repeats(c, &a->rules[i]);
    }
    return sum;
}

uint32_t model_position_bucket(const struct model_config *c, int64_t offset, bool both) {
    uint32_t buckets = both ? c->position_buckets / 2 : c->position_buckets, exact = buckets / 2, first = both && offset > 0 ? buckets : 0;
    uint64_t distance = offset < 0 ? 0 - (uint64_t)offset : both ? (uint64_t)offset : 0;
    if (distance < exact) return first + (uint32_t)distance;
    /* in f32, as the reference implementation has it: a distance on the border of two buckets must not fall into the other */
    float share = logf((float)distance / (float)exact) / (float)log((double)c->position_distance / exact) * (float)(buckets - exact);
    uint32_t far = share < (float)(buckets - exact) ? exact + (uint32_t)share : buckets - 1;
    return first + (far < buckets - 1 ? far : buckets - 1);
}

bool model_rope_has(const struct model_config *c, enum model_rope_kind kind) {
    if (c->arch->positions != MODEL_POS_ROPE) return false;
    if (kind == MODEL_ROPE_KIND_LONG) return c->rope_scaling == MODEL_ROPE_LONGROPE;
    return kind == MODEL_ROPE_KIND_GLOBAL || c->rope_theta_local > 0;
}

static const double PI = 3.14159265358979323846;

/* Peng et al. 2023, "YaRN": the dimension that turns `rotations` times within the original context. */
static double yarn_dim(const struct model_config *c, double rotations) {
    return c->rotary_dim * log(c->rope_original_context / (rotations * 2 * PI)) / (2 * log(c->rope_theta));
}

static double yarn(const struct model_config *c, uint32_t i, double f) {
    double low = yarn_dim(c, c->rope_beta_fast), high = yarn_dim(c, c->rope_beta_slow);
    if (c->rope_truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, c->rotary_dim - 1);
    if (high - low < 0.001) high = low + 0.001;
    double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return f / c->rope_factor * ramp + f * (1 - ramp);
}

/* Llama 3.1 stretches the slow ones and blends between (Meta 2024, transformers' _compute_llama3_parameters). */
static double llama3(const struct model_config *c, double f) {
    double wavelength = 2 * PI / f, original = c->rope_original_context;
    double low = original / c->rope_low_freq_factor, high = original / c->rope_high_freq_factor;
    if (wavelength > low) return f / c->rope_factor;
    if (wavelength < high) return f;
    double smooth = (original / wavelength - c->rope_low_freq_factor) / (c->rope_high_freq_factor - c->rope_low_freq_factor);
    return (1 - smooth) * f / c->rope_factor + smooth * f;
}

/* Su et al. 2021, "RoFormer": θ_i = θ^(−2i/D). */
void model_rope_frequencies_of(const struct model_config *c, enum model_rope_kind kind, float *inv_freq) {
    bool local = kind == MODEL_ROPE_KIND_LOCAL;
    for (uint32_t i = 0; i < c->rotary_dim / 2; i++) {
        double f = pow(local ? c->rope_theta_local : c->rope_theta, -2.0 * i / c->rotary_dim);
        switch (local ? MODEL_ROPE_DEFAULT : c->rope_scaling) {
        case MODEL_ROPE_DEFAULT: break;
        case MODEL_ROPE_LINEAR: f /= c->rope_factor; break;
        case MODEL_ROPE_LLAMA3: f = llama3(c, f); break;
        case MODEL_ROPE_YARN: f = yarn(c, i, f); break;
        case MODEL_ROPE_LONGROPE: f /= (double)(kind == MODEL_ROPE_KIND_LONG ? c->rope_long : c->rope_short)[i]; break;
        }
        inv_freq[i] = (float)f;
    }
}

void model_rope_frequencies(const struct model_config *c, float *inv_freq) { model_rope_frequencies_of(c, MODEL_ROPE_KIND_GLOBAL, inv_freq); }
