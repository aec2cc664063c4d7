/*
 * config.json of decoders: what they have beside the numbers that every family has. What a key means, and what it is where it is absent, is as transformers
 * has it for the family.
 */
#include <math.h>

#include "model/rules.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

enum window_kind {
    WINDOW_NONE,
    WINDOW_ALL,     /* sliding_window: all layers */
    WINDOW_FLAGGED, /* use_sliding_window, from layer max_window_layers on: Qwen */
    WINDOW_PATTERN, /* all but every so many layers: Gemma */
};
/* 0 and NULL: as most have it */
struct family {
    const char *model_type;
    uint32_t kv_heads, head_dim, context; /* where absent; 0: as many as heads; width / heads; it must be there */
    double norm_eps, theta, partial;      /* where absent; 0: 1e-6; 10000; 1 */
    const char *theta_key, *partial_key;
    const char *bias_key; /* of attention; NULL: the family has none to say */
    int biases;           /* what true means: 1 on q, k and v; 2 on o too */
    bool bias_absent;     /* where absent */
    const char *mlp_bias_key;
    enum window_kind window;
    uint32_t window_absent, pattern; /* pattern: one in so many sees all */
    uint32_t original_context;       /* where absent; 0: max_position_embeddings */
    const char *experts_key;
    uint32_t experts, experts_used, expert_ffn;
};
static const struct family families[] = {
    {"llama", .bias_key = "attention_bias", .biases = 2, .mlp_bias_key = "mlp_bias"},
    {"gpt2", .norm_eps = 1e-5},
    {"mistral", .kv_heads = 8, .window = WINDOW_ALL, .window_absent = 4096},
    {"mixtral", .kv_heads = 8, .norm_eps = 1e-5, .theta = 1e6, .window = WINDOW_ALL, .experts_key = "num_local_experts", .experts = 8, .experts_used = 2},
    {"qwen2", .kv_heads = 32, .window = WINDOW_FLAGGED, .window_absent = 4096},
    {"qwen3", .kv_heads = 32, .head_dim = 128, .bias_key = "attention_bias", .biases = 2, .window = WINDOW_FLAGGED, .window_absent = 4096},
    {"qwen3_moe", .kv_heads = 4, .bias_key = "attention_bias", .biases = 2, .experts_key = "num_experts", .experts = 128, .experts_used = 8, .expert_ffn = 768},
    {"gemma", .kv_heads = 16, .head_dim = 256, .context = 8192, .bias_key = "attention_bias", .biases = 2},
    {"gemma2", .kv_heads = 4, .head_dim = 256, .context = 8192, .bias_key = "attention_bias", .biases = 2, .window = WINDOW_PATTERN, .window_absent = 4096, .pattern = 2},
    {"gemma3_text", .kv_heads = 4, .head_dim = 256, .context = 131072, .theta = 1e6, .bias_key = "attention_bias", .biases = 2, .window = WINDOW_PATTERN,
     .window_absent = 4096, .pattern = 6},
    {"phi", .norm_eps = 1e-5, .partial = 0.5},
    {"phi3", .norm_eps = 1e-5, .window = WINDOW_ALL, .original_context = 4096},
    {"gpt_neox", .norm_eps = 1e-5, .partial = 0.25, .theta_key = "rotary_emb_base", .partial_key = "rotary_pct", .bias_key = "attention_bias", .biases = 2,
     .bias_absent = true},
    {"opt", .norm_eps = 1e-5, .bias_key = "enable_bias", .biases = 2, .bias_absent = true, .mlp_bias_key = "enable_bias"},
    {"olmo2", .norm_eps = 1e-5, .bias_key = "attention_bias", .biases = 2},
    {"granite", .bias_key = "attention_bias", .biases = 2, .mlp_bias_key = "mlp_bias"},
    {"stablelm", .kv_heads = 32, .norm_eps = 1e-5, .partial = 0.25, .bias_key = "use_qkv_bias", .biases = 1},
};

static const struct family *family_of(const struct model_arch *a) {
    for (size_t i = 0; i < COUNT(families); i++)
        if (strcmp(families[i].model_type, a->model_type) == 0) return &families[i];
    ASSERT(false && "a decoder without a row in families");
    return NULL;
}

static bool is(const struct model_config *c, const char *model_type) { return strcmp(c->arch->model_type, model_type) == 0; }
static bool is_gemma2_or_3(const struct model_config *c) { return is(c, "gemma2") || is(c, "gemma3_text"); }

static void all_layers(struct model_config *c, uint8_t flag) {
    for (uint32_t i = 0; i < c->layers && i < MODEL_LAYERS_MAX; i++) c->layer_flags[i] |= flag;
}

void config_decoder_default(struct model_config *c) {
    const struct family *f = family_of(c->arch);
    if (f->experts) {
        c->experts = f->experts;
        c->experts_used = f->experts_used;
        c->expert_ffn = f->expert_ffn ? f->expert_ffn : c->ffn;
        c->experts_normed = is(c, "mixtral");
        all_layers(c, MODEL_LAYER_EXPERTS);
    }
    if (c->arch->positions == MODEL_POS_ROPE) {
        c->rope_theta = f->theta > 0 ? f->theta : 10000;
        if (f->partial > 0) c->rotary_dim = (uint32_t)(c->head_dim * f->partial);
    }
    if (f->bias_absent) {
        c->attn_bias = f->biases;
        if (f->mlp_bias_key) c->mlp_bias = true;
    }
    if (is(c, "gemma3_text")) c->rope_theta_local = 10000;
}

void config_decoder_sizes(const struct model_arch *a, uint32_t heads, uint32_t *kv_heads, uint32_t *head_dim, uint32_t *context, double *norm_eps) {
    const struct family *f = family_of(a);
    *kv_heads = f->kv_heads ? f->kv_heads : heads;
    if (f->head_dim) *head_dim = f->head_dim;
    *context = f->context;
    *norm_eps = f->norm_eps > 0 ? f->norm_eps : 1e-6;
}

/* ---- checking ---- */

static int check_rope(const struct model_config *c, struct error *err) {
    if (c->rope_scaling != MODEL_ROPE_DEFAULT && !(c->rope_factor >= 1 && c->rope_factor <= 1e6))
        return error_set_param(err, E_RANGE, "rope_scaling.factor", "the factor %g of rope_scaling is not between 1 and 1e6", c->rope_factor);
    if (c->rope_scaling == MODEL_ROPE_LLAMA3 &&
        !(c->rope_low_freq_factor > 0 && c->rope_high_freq_factor > c->rope_low_freq_factor && c->rope_high_freq_factor <= 1e6 && c->rope_original_context >= 1))
        return error_set_param(err, E_INVALID, "rope_scaling", "rope_scaling llama3 needs 0 < low_freq_factor < high_freq_factor and original_max_position_embeddings");
    if (c->rope_scaling == MODEL_ROPE_YARN &&
        !(c->rope_theta > 1 && c->rope_beta_slow > 0 && c->rope_beta_fast >= c->rope_beta_slow && c->rope_beta_fast <= 1e6 && c->rope_original_context >= 1))
        return error_set_param(err, E_INVALID, "rope_scaling", "rope_scaling yarn needs 0 < beta_slow <= beta_fast, original_max_position_embeddings and rope_theta above 1");
    if (!(c->rope_attention_factor > 0 && c->rope_attention_factor <= 100))
        return error_set_param(err, E_RANGE, "rope_scaling.attention_factor", "attention_factor %g is not between 0 and 100", c->rope_attention_factor);
    if (c->rope_scaling == MODEL_ROPE_LONGROPE) {
        if (c->rotary_dim / 2 > MODEL_ROPE_FACTORS_MAX || c->rope_original_context < 1)
            return error_set_param(err, E_INVALID, "rope_scaling", "rope_scaling longrope needs original_max_position_embeddings and heads of at most %d", 2 * MODEL_ROPE_FACTORS_MAX);
        for (uint32_t i = 0; i < c->rotary_dim / 2; i++)
            if (!(c->rope_short[i] > 0 && c->rope_short[i] <= 1e6f && c->rope_long[i] > 0 && c->rope_long[i] <= 1e6f))
                return error_set_param(err, E_RANGE, "rope_scaling", "a factor of longrope is not between 0 and 1e6");
    }
    if (c->rope_theta_local != 0 && !(c->rope_theta_local >= 1 && c->rope_theta_local <= 1e12))
        return error_set_param(err, E_RANGE, "rope_local_base_freq", "rope_local_base_freq %g is not between 1 and 1e12", c->rope_theta_local);
    return 0;
}

static int check_experts(const struct model_config *c, const struct family *f, uint8_t flags, struct error *err) {
    if (!f->experts) return c->experts || (flags & MODEL_LAYER_EXPERTS) ? error_set(err, E_INVALID, "%s has no experts", c->arch->name) : 0;
    if (c->experts < 1 || c->experts > MODEL_EXPERTS_MAX)
        return error_set_param(err, E_RANGE, f->experts_key, "%s is %u, which is not between 1 and %d", f->experts_key, c->experts, MODEL_EXPERTS_MAX);
    if (c->experts_used < 1 || c->experts_used > MODEL_EXPERTS_USED_MAX || c->experts_used > c->experts)
        return error_set_param(err, E_RANGE, "num_experts_per_tok", "num_experts_per_tok is %u, of %u experts; at most %d are used", c->experts_used, c->experts, MODEL_EXPERTS_USED_MAX);
    if (c->expert_ffn < 1 || c->expert_ffn > MODEL_FFN_MAX)
        return error_set_param(err, E_RANGE, "moe_intermediate_size", "moe_intermediate_size is %u, which is not between 1 and %d", c->expert_ffn, MODEL_FFN_MAX);
    return 0;
}

int config_decoder_check(const struct model_config *c, struct error *err) {
    const struct model_arch *a = c->arch;
    const struct family *f = family_of(a);
    uint8_t flags = 0;
    for (uint32_t i = 0; i < c->layers; i++) flags |= c->layer_flags[i];
    int r = a->positions == MODEL_POS_ROPE ? check_rope(c, err) : 0;
    if (!r) r = check_experts(c, f, flags, err);
    if (r) return r;
    const struct {
        const char *key;
        float value, max;
        bool zero; /* is allowed: none */
    } reals[] = {
        {"embedding_multiplier", c->embed_scale, 1e6f, false}, {"residual_multiplier", c->residual_scale, 1e6f, false}, {"logits_scaling", c->logits_scale, 1e6f, false},
        {"attn_logit_softcapping", c->attn_softcap, 1e6f, true}, {"final_logit_softcapping", c->logits_softcap, 1e6f, true},
    };
    for (size_t i = 0; i < COUNT(reals); i++)
        if (!(reals[i].value > 0 && reals[i].value <= reals[i].max) && !(reals[i].zero && reals[i].value == 0))
            return error_set_param(err, E_RANGE, reals[i].key, "%s is not between 0 and %g", reals[i].key, (double)reals[i].max);
    if (c->window > MODEL_CONTEXT_MAX) return error_set_param(err, E_RANGE, "sliding_window", "sliding_window is %u, which is not between 1 and %d", c->window, MODEL_CONTEXT_MAX);
    if ((flags & MODEL_LAYER_WINDOW) && (f->window == WINDOW_NONE || !c->window)) return error_set_param(err, E_INVALID, "layer_types", "layers with a window, and no sliding_window");
    if ((flags & MODEL_LAYER_ROPE_LOCAL) && !(c->rope_theta_local > 0)) return error_set(err, E_INVALID, "layers that rotate by a theta of their own, and there is none");
    if (c->embed_width < 1 || c->embed_width > MODEL_WIDTH_MAX || (c->embed_width != c->width && !is(c, "opt")))
        return error_set_param(err, E_RANGE, "word_embed_proj_dim", "word_embed_proj_dim is %u, in a model %u wide", c->embed_width, c->width);
    if (c->no_final_norm && !is(c, "opt")) return error_set(err, E_INVALID, "%s has a final norm", a->name);
    bool place = c->norm_place == a->norm_place || (is(c, "opt") && c->norm_place == MODEL_NORM_POST) || (is(c, "stablelm") && c->norm_place == MODEL_NORM_PARALLEL) ||
                 (is(c, "gpt_neox") && c->norm_place == MODEL_NORM_PRE);
    if (!place || (c->qk_norm != a->qk_norm && !(is(c, "stablelm") && c->qk_norm == MODEL_QK_NORM_LAYERS))) return error_set(err, E_INVALID, "%s has its norms elsewhere", a->name);
    /* where config.json decides, it says so of all matrices at once */
    if ((a->attn_bias < 0 ? c->attn_bias != 0 && c->attn_bias != f->biases : c->attn_bias != a->attn_bias) || (a->mlp_bias >= 0 && c->mlp_bias != (a->mlp_bias > 0)))
        return error_set(err, E_INVALID, "%s has other biases", a->name);
    return 0;
}

/* ---- reading ---- */

static int read_list(const struct json *v, const char *key, size_t count, float *out, struct error *err) {
    if (json_type(v) != JSON_TYPE_ARRAY || json_size(v) != count)
        return error_set_param(err, E_INVALID, key, "%s of rope_scaling is no list of %zu numbers, one for each pair of a head's rotated dimensions", key, count);
    for (size_t i = 0; i < count; i++) out[i] = (float)json_real(json_at(v, i), 0);
    return 0;
}

/* Peng et al. 2023, 3.4: attention is a little sharper the further the context was stretched. */
static double yarn_scale(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

static int read_yarn(const struct json *s, struct model_config *c, struct error *err) {
    double m = 0, m_all = 0;
    c->rope_beta_fast = 32;
    c->rope_beta_slow = 1;
    c->rope_truncate = true;
    int r = config_real(s, "mscale", &m, err);
    if (!r) r = config_real(s, "mscale_all_dim", &m_all, err);
    if (!r) r = config_real(s, "beta_fast", &c->rope_beta_fast, err);
    if (!r) r = config_real(s, "beta_slow", &c->rope_beta_slow, err);
    if (!r) r = config_bool(s, "truncate", &c->rope_truncate, err);
    if (m != 0 && m_all != 0) c->rope_attention_factor = yarn_scale(c->rope_factor, m) / yarn_scale(c->rope_factor, m_all);
    else c->rope_attention_factor = yarn_scale(c->rope_factor, 1);
    return r;
}

static int read_longrope(const struct json *s, struct model_config *c, struct error *err) {
    size_t half = c->rotary_dim / 2;
    if (half > MODEL_ROPE_FACTORS_MAX) return error_set_param(err, E_RANGE, "rope_scaling", "longrope is built for heads of at most %d", 2 * MODEL_ROPE_FACTORS_MAX);
    int r = read_list(json_get(s, "short_factor"), "short_factor", half, c->rope_short, err);
    if (!r) r = read_list(json_get(s, "long_factor"), "long_factor", half, c->rope_long, err);
    for (const char *const *key = (const char *const[]){"short_mscale", "long_mscale", NULL}; !r && *key; key++)
        if (!json_is_null(json_get(s, *key))) r = error_set_param(err, E_UNSUPPORTED, *key, "%s of rope_scaling is not built", *key);
    double factor = c->rope_factor; /* Ding et al. 2024, as Phi-3 has it */
    c->rope_attention_factor = factor <= 1 || c->rope_original_context <= 1 ? 1 : sqrt(1 + log(factor) / log(c->rope_original_context));
    return r;
}

static int read_scaling(const struct json *root, const struct json *s, struct model_config *c, struct error *err) {
    static const struct {
        const char *name;
        enum model_rope_scaling scaling;
    } kinds[] = {{"default", MODEL_ROPE_DEFAULT}, {"linear", MODEL_ROPE_LINEAR},     {"llama3", MODEL_ROPE_LLAMA3},
                 {"yarn", MODEL_ROPE_YARN},       {"longrope", MODEL_ROPE_LONGROPE}, {"su", MODEL_ROPE_LONGROPE}}; /* su: its first name */
    struct span type = json_string(json_get(s, "rope_type"));
    if (!type.len) type = json_string(json_get(s, "type"));
    size_t i = 0;
    while (type.len && i < COUNT(kinds) && !span_eq_str(type, kinds[i].name)) i++;
    if (i == COUNT(kinds)) return error_set_param(err, E_UNSUPPORTED, "rope_scaling", "rope_scaling of type %.*s is not built", SPAN_ARG(span_sub(type, 0, 40)));
    c->rope_scaling = kinds[i].scaling;
    if (c->rope_scaling == MODEL_ROPE_DEFAULT) return 0;
    int r = config_real(s, "low_freq_factor", &c->rope_low_freq_factor, err);
    if (!r) r = config_real(s, "high_freq_factor", &c->rope_high_freq_factor, err);
    if (!r && c->rope_scaling != MODEL_ROPE_LINEAR) {
        uint32_t given = family_of(c->arch)->original_context; /* beside the others it goes first, as transformers has it */
        c->rope_original_context = c->context;
        r = config_u32(s, "original_max_position_embeddings", false, &c->rope_original_context, err);
        if (!r) r = config_u32(root, "original_max_position_embeddings", false, &given, err);
        if (given) c->rope_original_context = given;
    }
    if (!r && (c->rope_scaling == MODEL_ROPE_YARN || c->rope_scaling == MODEL_ROPE_LONGROPE) && c->rope_original_context)
        c->rope_factor = (double)c->context / c->rope_original_context;
    if (!r) r = config_real(s, "factor", &c->rope_factor, err);
    if (!r && c->rope_scaling == MODEL_ROPE_YARN) r = read_yarn(s, c, err);
    if (!r && c->rope_scaling == MODEL_ROPE_LONGROPE) r = read_longrope(s, c, err);
    return r ? r : config_real(s, "attention_factor", &c->rope_attention_factor, err);
}

/* rope_theta and rope_scaling (transformers 4), or rope_parameters with both (5), by kind of layer where there are two. */
static int read_rope(const struct json *root, struct model_config *c, struct error *err) {
    const struct family *f = family_of(c->arch);
    double partial = f->partial > 0 ? f->partial : 1;
    int r = config_real(root, "rope_theta", &c->rope_theta, err);
    if (!r && f->theta_key) r = config_real(root, f->theta_key, &c->rope_theta, err);
    if (!r) r = config_real(root, f->partial_key ? f->partial_key : "partial_rotary_factor", &partial, err);
    if (!r && c->rope_theta_local > 0) r = config_real(root, "rope_local_base_freq", &c->rope_theta_local, err);
    const struct json *s = json_get(root, "rope_parameters");
    if (json_is_null(s)) s = json_get(root, "rope_scaling");
    const struct json *full = json_get(s, "full_attention"), *local = json_get(s, "sliding_attention");
    if (!r && !json_is_null(s) && json_type(s) != JSON_TYPE_OBJECT)
        r = error_set_param(err, E_INVALID, "rope_scaling", "rope_scaling is %s, not an object", json_type_name(s));
    if (!r && (full || local)) {
        struct span type = json_string(json_get(local, "rope_type"));
        if (!(c->rope_theta_local > 0)) return error_set_param(err, E_UNSUPPORTED, "rope_parameters", "rope_parameters by kind of layer are not built for %s", c->arch->name);
        if (type.len && !span_eq_str(type, "default"))
            return error_set_param(err, E_UNSUPPORTED, "rope_parameters", "rope_parameters of type %.*s for layers with a window are not built", SPAN_ARG(span_sub(type, 0, 40)));
        r = config_real(local, "rope_theta", &c->rope_theta_local, err);
        s = full;
    }
    if (!r) r = config_real(s, "rope_theta", &c->rope_theta, err);
    if (!r) r = config_real(s, "partial_rotary_factor", &partial, err);
    if (r) return r;
    if (!(partial > 0 && partial <= 1)) return error_set_param(err, E_RANGE, "partial_rotary_factor", "partial_rotary_factor %g is not between 0 and 1", partial);
    c->rotary_dim = (uint32_t)(c->head_dim * partial);
    return json_is_null(s) ? 0 : read_scaling(root, s, c, err);
}

/* layer_types goes before what the family's other keys say. */
static int read_windows(const struct json *root, struct model_config *c, struct error *err) {
    const struct family *f = family_of(c->arch);
    const struct json *types = json_get(root, "layer_types");
    bool used = f->window != WINDOW_NONE, by_list = f->window == WINDOW_FLAGGED || f->window == WINDOW_PATTERN;
    uint32_t window = json_get(root, "sliding_window") ? 0 : f->window_absent, from = 28, pattern = f->pattern; /* null is none */
    int r = 0;
    if (f->window == WINDOW_FLAGGED) {
        used = false;
        r = config_bool(root, "use_sliding_window", &used, err);
        if (!r) r = config_u32(root, "max_window_layers", false, &from, err);
    }
    if (!r && used) r = config_u32(root, "sliding_window", false, &window, err);
    if (!r && c->rope_theta_local > 0) r = config_u32(root, "sliding_window_pattern", false, &pattern, err);
    if (!r && f->pattern && pattern == 0) r = error_set_param(err, E_RANGE, "sliding_window_pattern", "sliding_window_pattern is 0");
    if (r) return r;
    if (!json_is_null(types) && json_size(types) != c->layers)
        return error_set_param(err, E_INVALID, "layer_types", "layer_types has %zu entries, and there are %u layers", json_size(types), c->layers);
    c->window = used ? window : 0;
    for (uint32_t i = 0; i < c->layers; i++) {
        bool local = f->window == WINDOW_ALL || (f->window == WINDOW_FLAGGED && i >= from) || (f->window == WINDOW_PATTERN && (i + 1) % pattern != 0);
        local &= c->window > 0;
        if (!json_is_null(types)) {
            struct span type = json_string(json_at(types, i));
            bool sliding = span_eq_str(type, "sliding_attention");
            if (!sliding && !span_eq_str(type, "full_attention"))
                return error_set_param(err, E_UNSUPPORTED, "layer_types", "layers of type %.*s are not built", SPAN_ARG(span_sub(type, 0, 40)));
            if (sliding && !c->window) return error_set_param(err, E_INVALID, "layer_types", "layer_types has layers with a window, and there is no sliding_window");
            if (!by_list && sliding != local) return error_set_param(err, E_UNSUPPORTED, "layer_types", "layer_types of other kinds are not built for %s", c->arch->name);
            local = sliding;
        }
        if (local) c->layer_flags[i] |= MODEL_LAYER_WINDOW;
        if (c->rope_theta_local > 0 && (local || (!c->window && (i + 1) % pattern != 0))) c->layer_flags[i] |= MODEL_LAYER_ROPE_LOCAL;
    }
    return 0;
}

static int read_experts(const struct json *root, struct model_config *c, struct error *err) {
    const struct family *f = family_of(c->arch);
    const struct json *dense = json_get(root, "mlp_only_layers");
    uint32_t step = 1;
    c->expert_ffn = f->expert_ffn ? f->expert_ffn : c->ffn;
    c->experts_normed = is(c, "mixtral");
    int r = config_u32(root, "num_local_experts", false, &c->experts, err); /* transformers 5 writes it for all */
    if (!r) r = config_u32(root, f->experts_key, false, &c->experts, err);
    if (!r) r = config_u32(root, "num_experts_per_tok", false, &c->experts_used, err);
    if (r || is(c, "mixtral")) return r;
    r = config_u32(root, "moe_intermediate_size", false, &c->expert_ffn, err);
    if (!r) r = config_u32(root, "decoder_sparse_step", false, &step, err);
    if (!r) r = config_bool(root, "norm_topk_prob", &c->experts_normed, err);
    if (!r && step == 0) r = error_set_param(err, E_RANGE, "decoder_sparse_step", "decoder_sparse_step is 0");
    if (!r && !json_is_null(dense) && json_type(dense) != JSON_TYPE_ARRAY) r = error_set_param(err, E_INVALID, "mlp_only_layers", "mlp_only_layers is %s, not a list", json_type_name(dense));
    if (r) return r;
    for (uint32_t i = 0; i < c->layers; i++)
        if ((i + 1) % step != 0) c->layer_flags[i] &= (uint8_t)~MODEL_LAYER_EXPERTS;
    for (size_t i = 0; i < json_size(dense); i++) {
        int64_t layer = json_int(json_at(dense, i), -1);
        if (layer < 0) return error_set_param(err, E_INVALID, "mlp_only_layers", "mlp_only_layers has what is no layer's number");
        if (layer < c->layers) c->layer_flags[layer] &= (uint8_t)~MODEL_LAYER_EXPERTS;
    }
    return 0;
}

static int read_float(const struct json *root, const char *key, float *out, struct error *err) {
    double v = (double)*out;
    int r = config_real(root, key, &v, err);
    if (!r) *out = (float)v;
    return r;
}
/* A cap: null is none, absent the family's own. */
static int read_cap(const struct json *root, const char *key, float absent, float *out, struct error *err) {
    *out = json_get(root, key) ? 0 : absent;
    return read_float(root, key, out, err);
}

static int read_scales(const struct json *root, struct model_config *c, struct error *err) {
    int r = 0;
    if (is_gemma2_or_3(c)) {
        double scalar = 256;
        r = config_real(root, "query_pre_attn_scalar", &scalar, err);
        if (!r && !(scalar >= 1 && scalar <= 1e6)) r = error_set_param(err, E_RANGE, "query_pre_attn_scalar", "query_pre_attn_scalar %g is not between 1 and 1e6", scalar);
        c->attn_scale = (float)(1 / sqrt(scalar));
        if (!r) r = read_cap(root, "attn_logit_softcapping", is(c, "gemma2") ? 50 : 0, &c->attn_softcap, err);
        if (!r) r = read_cap(root, "final_logit_softcapping", is(c, "gemma2") ? 30 : 0, &c->logits_softcap, err);
    }
    if (is(c, "granite")) {
        float divisor = 1;
        c->attn_scale = 1;
        r = read_float(root, "attention_multiplier", &c->attn_scale, err);
        if (!r) r = read_float(root, "embedding_multiplier", &c->embed_scale, err);
        if (!r) r = read_float(root, "residual_multiplier", &c->residual_scale, err);
        if (!r) r = read_float(root, "logits_scaling", &divisor, err);
        if (!r && !(divisor > 1e-6f && divisor <= 1e6f)) r = error_set_param(err, E_RANGE, "logits_scaling", "logits_scaling is not between 1e-6 and 1e6");
        c->logits_scale = 1 / divisor;
    }
    return r;
}

int config_decoder_read(const struct json *root, struct model_config *c, struct error *err) {
    const struct family *f = family_of(c->arch);
    bool bias = f->bias_absent, flag;
    int r = 0;
    if (f->bias_key) {
        r = config_bool(root, f->bias_key, &bias, err);
        c->attn_bias = bias ? f->biases : 0;
    }
    if (!r && f->mlp_bias_key) r = config_bool(root, f->mlp_bias_key, &c->mlp_bias, err);
    if (!r && c->arch->positions == MODEL_POS_ROPE) r = read_rope(root, c, err);
    if (!r) r = read_windows(root, c, err);
    if (!r && f->experts) r = read_experts(root, c, err);
    if (!r) r = read_scales(root, c, err);
    if (!r && is(c, "opt")) {
        bool before = true;
        r = config_u32(root, "word_embed_proj_dim", false, &c->embed_width, err);
        if (!r) r = config_bool(root, "do_layer_norm_before", &before, err);
        if (!before) c->norm_place = MODEL_NORM_POST;
        c->no_final_norm = !before;
    }
    if (!r && (is(c, "gpt_neox") || is(c, "stablelm"))) {
        flag = is(c, "gpt_neox");
        r = config_bool(root, "use_parallel_residual", &flag, err);
        c->norm_place = flag ? MODEL_NORM_PARALLEL : MODEL_NORM_PRE;
    }
    if (!r && is(c, "stablelm")) {
        flag = false;
        r = config_bool(root, "qk_layernorm", &flag, err);
        c->qk_norm = flag ? MODEL_QK_NORM_LAYERS : MODEL_QK_NORM_NONE;
    }
    if (!r && is(c, "gemma") && c->activation == MODEL_ACT_GELU) c->activation = MODEL_ACT_GELU_TANH; /* the first files said gelu and meant this */
    return r;
}

/* ---- writing ---- */

static void put_factors(struct json_out *w, const char *key, const float *v, size_t n) {
    json_key(w, key);
    json_array(w);
    for (size_t i = 0; i < n; i++) json_put_real(w, config_shortest(v[i]));
    json_array_end(w);
}

/* A share of head_dim that gives rotary_dim again where the product is cut to a whole number. */
static double partial_of(const struct model_config *c) {
    double share = (double)c->rotary_dim / c->head_dim;
    return (uint32_t)(c->head_dim * share) < c->rotary_dim ? nextafter(share, 2) : share;
}

void config_decoder_write_partial(struct json_out *w, const struct model_config *c) {
    const struct family *f = family_of(c->arch);
    if (f->partial > 0 || c->rotary_dim != c->head_dim) json_flt(w, f->partial_key ? f->partial_key : "partial_rotary_factor", partial_of(c));
}

void config_decoder_write_scaling(struct json_out *w, const struct model_config *c) {
    static const char *const names[] = {[MODEL_ROPE_LINEAR] = "linear", [MODEL_ROPE_LLAMA3] = "llama3", [MODEL_ROPE_YARN] = "yarn", [MODEL_ROPE_LONGROPE] = "longrope"};
    bool yarn = c->rope_scaling == MODEL_ROPE_YARN, longrope = c->rope_scaling == MODEL_ROPE_LONGROPE;
    json_key(w, "rope_scaling");
    if (c->rope_scaling == MODEL_ROPE_DEFAULT) {
        json_put_null(w);
        return;
    }
    json_object(w);
    if (yarn || longrope) json_flt(w, "attention_factor", c->rope_attention_factor);
    if (yarn) {
        json_flt(w, "beta_fast", c->rope_beta_fast);
        json_flt(w, "beta_slow", c->rope_beta_slow);
    }
    json_flt(w, "factor", c->rope_factor);
    if (c->rope_scaling == MODEL_ROPE_LLAMA3) {
        json_flt(w, "high_freq_factor", c->rope_high_freq_factor);
        json_flt(w, "low_freq_factor", c->rope_low_freq_factor);
    }
    if (longrope) put_factors(w, "long_factor", c->rope_long, c->rotary_dim / 2);
    if (c->rope_scaling != MODEL_ROPE_LINEAR) json_num(w, "original_max_position_embeddings", c->rope_original_context);
    json_str(w, "rope_type", names[c->rope_scaling]);
    if (longrope) put_factors(w, "short_factor", c->rope_short, c->rotary_dim / 2);
    if (yarn) json_flag(w, "truncate", c->rope_truncate);
    json_object_end(w);
}

static void put_cap(struct json_out *w, const char *key, float cap) {
    if (cap > 0) json_flt(w, key, config_shortest(cap));
    else {
        json_key(w, key);
        json_put_null(w);
    }
}

static void put_layer_types(struct json_out *w, const struct model_config *c) {
    json_key(w, "layer_types");
    json_array(w);
    for (uint32_t i = 0; i < c->layers; i++) json_put_str(w, c->layer_flags[i] & MODEL_LAYER_WINDOW ? "sliding_attention" : "full_attention");
    json_array_end(w);
}

static void put_dense_layers(struct json_out *w, const struct model_config *c) {
    json_key(w, "mlp_only_layers");
    json_array(w);
    for (uint32_t i = 0; i < c->layers; i++)
        if (!(c->layer_flags[i] & MODEL_LAYER_EXPERTS)) json_put_int(w, i);
    json_array_end(w);
}

/* 1/√scalar is kept; the scalar is a whole number in every file. */
static double scalar_of(float scale) {
    double v = 1 / ((double)scale * (double)scale);
    return fabs(v - round(v)) < 1e-4 * v ? round(v) : v;
}

void config_decoder_write(struct json_out *w, const struct model_config *c, const struct config_keys *k, const char *dtype) {
    const struct family *f = family_of(c->arch);
    bool granite = is(c, "granite"), opt = is(c, "opt"), moe = is(c, "qwen3_moe"), rope = c->arch->positions == MODEL_POS_ROPE;
    bool caps = is_gemma2_or_3(c), neox = is(c, "gpt_neox"), stablelm = is(c, "stablelm");
    bool types = f->window == WINDOW_FLAGGED || f->window == WINDOW_PATTERN;
    if (f->bias_key) json_flag(w, f->bias_key, c->attn_bias > 0);
    json_flt(w, "attention_dropout", 0.0);
    if (granite) json_flt(w, "attention_multiplier", config_shortest(c->attn_scale));
    if (caps) put_cap(w, "attn_logit_softcapping", c->attn_softcap);
    config_put_id(w, "bos_token_id", c->bos_id);
    if (moe) json_num(w, "decoder_sparse_step", 1);
    if (opt) json_flag(w, "do_layer_norm_before", c->norm_place != MODEL_NORM_POST);
    if (granite) json_flt(w, "embedding_multiplier", config_shortest(c->embed_scale));
    config_put_eos(w, c);
    if (caps) put_cap(w, "final_logit_softcapping", c->logits_softcap);
    if (k->head_dim) json_num(w, k->head_dim, c->head_dim);
    json_str(w, k->activation, c->activation == MODEL_ACT_GELU_TANH && c->arch->embed_scaled ? "gelu_pytorch_tanh" : model_activation_name(c->activation));
    json_num(w, k->width, c->width);
    json_flt(w, opt ? "init_std" : "initializer_range", config_shortest(c->initializer_range));
    json_num(w, k->ffn, c->ffn);
    if (k->norm_eps) json_flt(w, k->norm_eps, config_shortest(c->norm_eps));
    if (types) put_layer_types(w, c);
    if (granite) json_flt(w, "logits_scaling", config_shortest(1 / c->logits_scale));
    json_num(w, k->context, c->context);
    if (f->mlp_bias_key && !opt) json_flag(w, f->mlp_bias_key, c->mlp_bias);
    if (moe) put_dense_layers(w, c);
    json_str(w, "model_type", c->arch->model_type);
    if (moe) json_num(w, "moe_intermediate_size", c->expert_ffn);
    if (moe) json_flag(w, "norm_topk_prob", c->experts_normed);
    json_num(w, k->heads, c->heads);
    if (f->experts) json_num(w, f->experts_key, c->experts);
    if (f->experts) json_num(w, "num_experts_per_tok", c->experts_used);
    json_num(w, k->layers, c->layers);
    if (k->kv_heads) json_num(w, k->kv_heads, c->kv_heads);
    if (f->original_context) json_num(w, "original_max_position_embeddings", c->rope_original_context ? c->rope_original_context : f->original_context);
    config_put_id(w, "pad_token_id", c->pad_id);
    if (rope && !neox) config_decoder_write_partial(w, c);
    if (stablelm) json_flag(w, "qk_layernorm", c->qk_norm != MODEL_QK_NORM_NONE);
    if (caps) json_flt(w, "query_pre_attn_scalar", scalar_of(c->attn_scale));
    if (granite) json_flt(w, "residual_multiplier", config_shortest(c->residual_scale));
    if (c->rope_theta_local > 0) json_flt(w, "rope_local_base_freq", c->rope_theta_local);
    if (rope) config_decoder_write_scaling(w, c);
    if (rope) json_flt(w, f->theta_key ? f->theta_key : "rope_theta", c->rope_theta);
    if (neox) config_decoder_write_partial(w, c);
    if (f->window != WINDOW_NONE) {
        json_key(w, "sliding_window");
        if (c->window) json_put_int(w, c->window);
        else json_put_null(w);
    }
    json_flag(w, "tie_word_embeddings", c->tie_embeddings);
    json_str(w, "torch_dtype", dtype);
    if (neox || stablelm) json_flag(w, "use_parallel_residual", c->norm_place == MODEL_NORM_PARALLEL);
    if (f->window == WINDOW_FLAGGED) json_flag(w, "use_sliding_window", c->window > 0);
    if (opt) json_num(w, "word_embed_proj_dim", c->embed_width);
}
