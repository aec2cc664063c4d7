/*
 * config.json: one table of the keys of each family, one reader, one writer. What a key says and this release does not compute is refused by name, since a
 * model that runs with a wrong option gives fluent nonsense.
 */
#include <math.h>

#include "model/arch.h"
#include "model/rules.h"

#define BERT_KEYS "num_hidden_layers", "hidden_size", "num_attention_heads", NULL, NULL, "intermediate_size", "max_position_embeddings"
#define PLAIN_KEYS(kv_heads, head_dim) "num_hidden_layers", "hidden_size", "num_attention_heads", kv_heads, head_dim, "intermediate_size", "max_position_embeddings"
#define LLAMA_KEYS PLAIN_KEYS("num_key_value_heads", "head_dim")
#define T5_KEYS "num_layers", "d_model", "num_heads", NULL, "d_kv", "d_ff", "n_positions", "layer_norm_epsilon", NULL
static const struct config_keys key_table[] = {
    {"llama", LLAMA_KEYS, "rms_norm_eps", "hidden_act"},
    {"gpt2", "n_layer", "n_embd", "n_head", NULL, NULL, "n_inner", "n_positions", "layer_norm_epsilon", "activation_function"},
    {"mistral", LLAMA_KEYS, "rms_norm_eps", "hidden_act"},
    {"mixtral", LLAMA_KEYS, "rms_norm_eps", "hidden_act"},
    {"qwen2", LLAMA_KEYS, "rms_norm_eps", "hidden_act"},
    {"qwen3", LLAMA_KEYS, "rms_norm_eps", "hidden_act"},
    {"qwen3_moe", LLAMA_KEYS, "rms_norm_eps", "hidden_act"},
    {"gemma", LLAMA_KEYS, "rms_norm_eps", "hidden_act"},
    {"gemma2", LLAMA_KEYS, "rms_norm_eps", "hidden_activation"},
    {"gemma3_text", LLAMA_KEYS, "rms_norm_eps", "hidden_activation"},
    {"phi", PLAIN_KEYS("num_key_value_heads", NULL), "layer_norm_eps", "hidden_act"},
    {"phi3", LLAMA_KEYS, "rms_norm_eps", "hidden_act"},
    {"gpt_neox", PLAIN_KEYS(NULL, NULL), "layer_norm_eps", "hidden_act"},
    {"opt", "num_hidden_layers", "hidden_size", "num_attention_heads", NULL, NULL, "ffn_dim", "max_position_embeddings", NULL, "activation_function"},
    {"olmo2", LLAMA_KEYS, "rms_norm_eps", "hidden_act"},
    {"granite", LLAMA_KEYS, "rms_norm_eps", "hidden_act"},
    {"stablelm", PLAIN_KEYS("num_key_value_heads", NULL), "layer_norm_eps", "hidden_act"},
    {"bert", BERT_KEYS, "layer_norm_eps", "hidden_act"},
    {"roberta", BERT_KEYS, "layer_norm_eps", "hidden_act"},
    {"xlm-roberta", BERT_KEYS, "layer_norm_eps", "hidden_act"},
    {"distilbert", "n_layers", "dim", "n_heads", NULL, NULL, "hidden_dim", "max_position_embeddings", NULL, "activation"},
    {"modernbert", BERT_KEYS, "norm_eps", "hidden_activation"},
    {"t5", T5_KEYS},
    {"mt5", T5_KEYS},
    {"umt5", T5_KEYS},
};

/* Options that change the result and are computed in one way only. */
static const struct {
    const char *model_type, *key;
    bool wanted;
} fixed_flags[] = {
    {"gpt2", "scale_attn_weights", true},
    {"gpt2", "scale_attn_by_inverse_layer_idx", false},
    {"gpt2", "add_cross_attention", false},
    {"qwen3_moe", "use_sliding_window", false}, /* releases of transformers differ in which layers have it */
    {"gemma", "use_bidirectional_attention", false},
    {"gemma2", "use_bidirectional_attention", false},
    {"gemma3_text", "use_bidirectional_attention", false},
    {"phi", "qk_layernorm", false},
    {"opt", "_remove_final_layer_norm", false},
    {"opt", "layer_norm_elementwise_affine", true},
    {"bert", "is_decoder", false},
    {"bert", "add_cross_attention", false},
    {"roberta", "is_decoder", false},
    {"xlm-roberta", "is_decoder", false},
    {"modernbert", "norm_bias", false},
    {"modernbert", "classifier_bias", false},
};

static const struct {
    const char *name;
    enum model_activation activation;
} activations[] = {
    {"silu", MODEL_ACT_SILU}, /* the first of a kind is the one that is written */
    {"swish", MODEL_ACT_SILU},
    {"gelu", MODEL_ACT_GELU},
    {"gelu_new", MODEL_ACT_GELU_TANH},
    {"gelu_pytorch_tanh", MODEL_ACT_GELU_TANH},
    {"gelu_fast", MODEL_ACT_GELU_TANH},
    {"quick_gelu", MODEL_ACT_GELU_QUICK},
    {"relu", MODEL_ACT_RELU},
};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

const char *model_activation_name(enum model_activation a) {
    for (size_t i = 0; i < COUNT(activations); i++)
        if (activations[i].activation == a) return activations[i].name;
    return "(none)";
}

static const struct config_keys *keys_of(const struct model_arch *a) {
    for (size_t i = 0; i < COUNT(key_table); i++)
        if (strcmp(key_table[i].model_type, a->model_type) == 0) return &key_table[i];
    ASSERT(false && "a family without a row in key_table");
    return NULL;
}

static uint32_t default_ffn(const struct model_arch *a, uint32_t width) {
    if (a->mlp == MODEL_MLP_PLAIN) return width * 4;
    return (width * 8 / 3 + 31) / 32 * 32; /* as many parameters as the plain one (Shazeer 2020, "GLU Variants Improve Transformer") */
}

void model_config_default(struct model_config *c, const struct model_arch *a, uint32_t layers, uint32_t width, uint32_t heads, uint32_t kv_heads,
                          uint32_t context, uint32_t vocab) {
    *c = (struct model_config){
        .arch = a, .layers = layers, .width = width, .heads = heads, .kv_heads = kv_heads ? kv_heads : heads,
        .head_dim = heads ? width / heads : 0, .context = context, .vocab = vocab,
        .activation = a->activation_default, .norm_eps = 1e-5f, .rope_theta = a->positions == MODEL_POS_ROPE ? 10000.0 : 0,
        .rope_factor = 1, .rope_attention_factor = 1, .embed_scale = a->embed_scaled ? sqrtf((float)width) : 1, .residual_scale = 1, .logits_scale = 1,
        .embed_width = width, .norm_place = a->norm_place, .qk_norm = a->qk_norm, .tie_embeddings = a->tie_default, .attn_bias = a->attn_bias < 0 ? 0 : a->attn_bias, .mlp_bias = a->mlp_bias > 0,
        .initializer_range = 0.02f, .bos_id = -1, .pad_id = -1, .start_id = -1, .mlp = a->mlp,
    };
    c->ffn = width <= MODEL_WIDTH_MAX ? default_ffn(a, width) : 0;
    c->rotary_dim = a->positions == MODEL_POS_ROPE ? c->head_dim : 0;
    c->attn_scale = c->head_dim ? (float)(1.0 / sqrt((double)c->head_dim)) : 0;
    if (config_is_t5(a)) config_t5_default(c);
    else if (a->kind == MODEL_ENCODER) config_encoder_default(c);
    else config_decoder_default(c);
}

int model_config_check(const struct model_config *c, struct error *err) {
    const struct config_keys *k = keys_of(c->arch);
    const struct {
        const char *key;
        uint32_t value, max;
    } numbers[] = {
        {k->layers, c->layers, MODEL_LAYERS_MAX},
        {k->width, c->width, MODEL_WIDTH_MAX},
        {k->heads, c->heads, MODEL_HEADS_MAX},
        {k->kv_heads ? k->kv_heads : k->heads, c->kv_heads, MODEL_HEADS_MAX},
        {k->head_dim ? k->head_dim : k->width, c->head_dim, MODEL_HEAD_DIM_MAX},
        {k->ffn, c->ffn, MODEL_FFN_MAX},
        {k->context, c->context, MODEL_CONTEXT_MAX},
        {"vocab_size", c->vocab, MODEL_VOCAB_MAX},
    };
    for (size_t i = 0; i < COUNT(numbers); i++)
        if (numbers[i].value < 1 || numbers[i].value > numbers[i].max)
            return error_set_param(err, E_RANGE, numbers[i].key, "%s is %u, which is not between 1 and %u", numbers[i].key, numbers[i].value, numbers[i].max);
    if (c->heads % c->kv_heads)
        return error_set_param(err, E_INVALID, numbers[3].key, "%s %u does not divide the %u heads", numbers[3].key, c->kv_heads, c->heads);
    if (!k->head_dim && (uint64_t)c->heads * c->head_dim != c->width)
        return error_set_param(err, E_INVALID, k->heads, "%s %u does not divide %s %u", k->heads, c->heads, k->width, c->width);
    if (!k->kv_heads && c->kv_heads != c->heads) return error_set_param(err, E_INVALID, k->heads, "%s has as many heads of keys as of queries", c->arch->name);
    if (c->arch->positions == MODEL_POS_ROPE) {
        if (c->rotary_dim < 2 || c->rotary_dim % 2 || c->rotary_dim > c->head_dim)
            return error_set_param(err, E_INVALID, "head_dim", "the rotated part of a head, %u, is odd or larger than the head", c->rotary_dim);
        if (!(c->rope_theta >= 1 && c->rope_theta <= 1e12)) return error_set_param(err, E_RANGE, "rope_theta", "rope_theta %g is not between 1 and 1e12", c->rope_theta);
    }
    const char *norm_eps = k->norm_eps ? k->norm_eps : "layer_norm_eps";
    if (!(c->norm_eps > 0 && c->norm_eps < 1)) return error_set_param(err, E_RANGE, norm_eps, "%s %g is not between 0 and 1", norm_eps, (double)c->norm_eps);
    if (!(c->attn_scale > 0 && c->attn_scale <= 1)) return error_set(err, E_RANGE, "the scale of attention %g is not between 0 and 1", (double)c->attn_scale);
    if (!(c->initializer_range >= 0 && c->initializer_range <= 10)) return error_set_param(err, E_RANGE, "initializer_range", "initializer_range is not between 0 and 10");
    /* The pad id may lie outside: embeddings of some models have no row for it, and nothing looks it up. */
    static const char *const id_keys[] = {"bos_token_id", "pad_token_id", "decoder_start_token_id"};
    const int64_t ids[] = {c->bos_id, c->pad_id, c->start_id};
    for (size_t i = 0; i < COUNT(ids); i++)
        if (ids[i] < -1 || ids[i] >= MODEL_VOCAB_MAX)
            return error_set_param(err, E_RANGE, id_keys[i], "a special token's id %lld is out of range", (long long)ids[i]);
    if (c->eos_count > MODEL_EOS_MAX) return error_set_param(err, E_RANGE, "eos_token_id", "more than %d ids in eos_token_id", MODEL_EOS_MAX);
    for (uint32_t i = 0; i < c->eos_count; i++)
        if (c->eos_ids[i] < 0 || c->eos_ids[i] >= MODEL_VOCAB_MAX)
            return error_set_param(err, E_RANGE, "eos_token_id", "eos_token_id %lld is out of range", (long long)c->eos_ids[i]);
    if (config_is_t5(c->arch)) return config_t5_check(c, err);
    return c->arch->kind == MODEL_ENCODER ? config_encoder_check(c, err) : config_decoder_check(c, err);
}

/* ---- reading ---- */

/* An unsigned number; absent or null leaves *out where `needed` is false. */
int config_u32(const struct json *root, const char *key, bool needed, uint32_t *out, struct error *err) {
    const struct json *v = json_get(root, key);
    if (json_is_null(v)) return needed ? error_set_param(err, E_INVALID, key, "config.json has no %s", key) : 0;
    if (json_type(v) != JSON_TYPE_INT) return error_set_param(err, E_INVALID, key, "%s is %s, not a whole number", key, json_type_name(v));
    int64_t n = json_int(v, -1);
    if (n < 0 || n > UINT32_MAX) return error_set_param(err, E_RANGE, key, "%s is %lld", key, (long long)n);
    *out = (uint32_t)n;
    return 0;
}

int config_real(const struct json *object, const char *key, double *out, struct error *err) {
    const struct json *v = json_get(object, key);
    if (json_is_null(v)) return 0;
    if (json_type(v) != JSON_TYPE_INT && json_type(v) != JSON_TYPE_REAL)
        return error_set_param(err, E_INVALID, key, "%s is %s, not a number", key, json_type_name(v));
    *out = json_real(v, 0);
    return 0;
}

int config_bool(const struct json *root, const char *key, bool *out, struct error *err) {
    const struct json *v = json_get(root, key);
    if (json_is_null(v)) return 0;
    if (json_type(v) != JSON_TYPE_BOOL) return error_set_param(err, E_INVALID, key, "%s is %s, not true or false", key, json_type_name(v));
    *out = json_bool(v, false);
    return 0;
}

static int read_id(const struct json *root, const char *key, int64_t *out, struct error *err) {
    const struct json *v = json_get(root, key);
    if (json_is_null(v)) return 0;
    if (json_type(v) != JSON_TYPE_INT) return error_set_param(err, E_INVALID, key, "%s is %s, not an id", key, json_type_name(v));
    *out = json_int(v, -1);
    return 0;
}

static int read_eos(const struct json *root, struct model_config *c, struct error *err) {
    const struct json *v = json_get(root, "eos_token_id");
    if (json_is_null(v)) return 0;
    size_t n = json_type(v) == JSON_TYPE_ARRAY ? json_size(v) : 1;
    if (n > MODEL_EOS_MAX) return error_set_param(err, E_RANGE, "eos_token_id", "more than %d ids in eos_token_id", MODEL_EOS_MAX);
    for (size_t i = 0; i < n; i++) {
        const struct json *id = json_type(v) == JSON_TYPE_ARRAY ? json_at(v, i) : v;
        if (json_type(id) != JSON_TYPE_INT) return error_set_param(err, E_INVALID, "eos_token_id", "eos_token_id has %s, not an id", json_type_name(id));
        c->eos_ids[i] = json_int(id, -1);
    }
    c->eos_count = (uint32_t)n;
    return 0;
}

int config_activation(const struct json *v, const char *key, enum model_activation *out, struct error *err) {
    if (json_is_null(v)) return 0;
    for (size_t i = 0; i < COUNT(activations); i++)
        if (span_eq_str(json_string(v), activations[i].name)) {
            *out = activations[i].activation;
            return 0;
        }
    return error_set_param(err, E_UNSUPPORTED, key, "the activation %.*s is not built", SPAN_ARG(span_sub(json_string(v), 0, 40)));
}

static int find_arch(const struct json *root, const struct model_arch **arch, struct error *err) {
    const struct json *classes = json_get(root, "architectures");
    struct span name = json_string(json_at(classes, 0));
    if (!name.len) name = json_string(json_get(root, "model_type"));
    if (!name.len) return error_set(err, E_INVALID, "config.json names no architecture");
    *arch = model_arch_find(name);
    if (!*arch)
        return error_set_param(err, E_UNSUPPORTED, "architectures", "the architecture %.*s is not built; there are: %s", SPAN_ARG(span_sub(name, 0, 80)), model_arch_names());
    return 0;
}

int model_config_from_json(const struct json *root, struct model_config *out, struct error *err) {
    if (json_type(root) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "config.json is %s, not an object", json_type_name(root));
    const struct model_arch *a = NULL;
    int r = find_arch(root, &a, err);
    if (r) return r;
    if (!json_is_null(json_get(root, "quantization_config"))) return error_set_param(err, E_UNSUPPORTED, "quantization_config", "weights quantized by another tool are not read");
    for (size_t i = 0; i < COUNT(fixed_flags); i++)
        if (strcmp(fixed_flags[i].model_type, a->model_type) == 0 && json_bool(json_get(root, fixed_flags[i].key), fixed_flags[i].wanted) != fixed_flags[i].wanted)
            return error_set_param(err, E_UNSUPPORTED, fixed_flags[i].key, "%s as it is in config.json is not built", fixed_flags[i].key);
    const struct config_keys *k = keys_of(a);
    uint32_t layers = 0, width = 0, heads = 0, kv_heads = 0, head_dim = 0, context = 0, vocab = 0;
    double eps = 0;
    r = config_u32(root, k->layers, true, &layers, err);
    if (!r) r = config_u32(root, k->width, true, &width, err);
    if (!r) r = config_u32(root, k->heads, true, &heads, err);
    if (!r && config_is_t5(a)) config_t5_sizes(heads, &kv_heads, &context, &eps);
    else if (!r && a->kind != MODEL_ENCODER) config_decoder_sizes(a, heads, &kv_heads, &head_dim, &context, &eps);
    if (!r && k->kv_heads) {
        if (a->kind == MODEL_ENCODER || json_get(root, k->kv_heads)) kv_heads = heads; /* null is as many */
        r = config_u32(root, k->kv_heads, false, &kv_heads, err);
        if (!r && kv_heads == 0) r = error_set_param(err, E_RANGE, k->kv_heads, "%s is 0", k->kv_heads);
    }
    if (!r) r = config_u32(root, k->context, context == 0, &context, err);
    if (!r) r = config_u32(root, "vocab_size", true, &vocab, err);
    if (r) return r;
    struct model_config c;
    model_config_default(&c, a, layers, width, heads, kv_heads, context, vocab);
    if (k->head_dim && head_dim && !json_get(root, k->head_dim)) c.head_dim = head_dim;
    if (k->head_dim) r = config_u32(root, k->head_dim, false, &c.head_dim, err);
    if (!r) r = config_u32(root, k->ffn, a->mlp == MODEL_MLP_GATED || config_is_t5(a), &c.ffn, err);
    double range = (double)c.initializer_range;
    if (eps <= 0) eps = (double)c.norm_eps;
    if (!r && k->norm_eps) r = config_real(root, k->norm_eps, &eps, err);
    if (!r) r = config_real(root, strcmp(a->model_type, "opt") == 0 ? "init_std" : "initializer_range", &range, err);
    if (!r) r = config_bool(root, "tie_word_embeddings", &c.tie_embeddings, err);
    c.rotary_dim = a->positions == MODEL_POS_ROPE ? c.head_dim : 0;
    c.attn_scale = config_is_t5(a) ? 1 : c.head_dim ? (float)(1.0 / sqrt((double)c.head_dim)) : 0;
    if (!r) r = layers <= MODEL_LAYERS_MAX ? 0 : error_set_param(err, E_RANGE, k->layers, "%s is %u, more than %d", k->layers, layers, MODEL_LAYERS_MAX);
    if (!r && a->kind == MODEL_ENCODER && a->attn_bias < 0) {
        bool bias = false;
        r = config_bool(root, "attention_bias", &bias, err);
        c.attn_bias = bias ? 2 : 0;
    }
    if (!r && a->kind == MODEL_ENCODER && a->mlp_bias < 0) r = config_bool(root, "mlp_bias", &c.mlp_bias, err);
    if (!r) r = read_id(root, "bos_token_id", &c.bos_id, err);
    if (!r) r = read_id(root, "pad_token_id", &c.pad_id, err);
    if (!r) r = read_eos(root, &c, err);
    if (!r && k->activation) r = config_activation(json_get(root, k->activation), k->activation, &c.activation, err);
    if (!r && config_is_t5(a)) r = config_t5_read(root, &c, err);
    else if (!r) r = a->kind == MODEL_ENCODER ? config_encoder_read(root, &c, err) : config_decoder_read(root, &c, err);
    if (r) return r;
    c.norm_eps = (float)eps;
    c.initializer_range = (float)range;
    r = model_config_check(&c, err);
    if (!r) *out = c;
    return r;
}

int model_config_parse(struct span text, struct model_config *c, struct error *err) {
    struct json *root = NULL;
    int r = json_parse(text, &root, err);
    if (!r) r = model_config_from_json(root, c, err);
    json_free(root);
    return r;
}

/* ---- writing ---- */

/* A float as the shortest decimal that is it, so that 1e-5f is 1e-05 and not 9.99999974737875e-06. */
double config_shortest(float f) {
    char text[32];
    double d = (double)f;
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)f);
        if (span_to_f64(span_str(text), &d) == 0 && (float)d == f) return d;
    }
    return (double)f;
}

void config_put_id(struct json_out *w, const char *key, int64_t id) {
    json_key(w, key);
    if (id < 0) json_put_null(w);
    else json_put_int(w, id);
}

void config_put_eos(struct json_out *w, const struct model_config *c) {
    if (c->eos_count <= 1) {
        config_put_id(w, "eos_token_id", c->eos_count ? c->eos_ids[0] : -1);
        return;
    }
    json_key(w, "eos_token_id");
    json_array(w);
    for (uint32_t i = 0; i < c->eos_count; i++) json_put_int(w, c->eos_ids[i]);
    json_array_end(w);
}

static void write_llama(struct json_out *w, const struct model_config *c, const char *dtype) {
    json_flag(w, "attention_bias", c->attn_bias > 0);
    json_flt(w, "attention_dropout", 0.0);
    config_put_id(w, "bos_token_id", c->bos_id);
    config_put_eos(w, c);
    json_num(w, "head_dim", c->head_dim);
    json_str(w, "hidden_act", model_activation_name(c->activation));
    json_num(w, "hidden_size", c->width);
    json_flt(w, "initializer_range", config_shortest(c->initializer_range));
    json_num(w, "intermediate_size", c->ffn);
    json_num(w, "max_position_embeddings", c->context);
    json_flag(w, "mlp_bias", c->mlp_bias);
    json_str(w, "model_type", c->arch->model_type);
    json_num(w, "num_attention_heads", c->heads);
    json_num(w, "num_hidden_layers", c->layers);
    json_num(w, "num_key_value_heads", c->kv_heads);
    config_put_id(w, "pad_token_id", c->pad_id);
    json_flt(w, "rms_norm_eps", config_shortest(c->norm_eps));
    config_decoder_write_scaling(w, c);
    config_decoder_write_partial(w, c);
    json_flt(w, "rope_theta", c->rope_theta);
    json_flag(w, "tie_word_embeddings", c->tie_embeddings);
    json_str(w, "torch_dtype", dtype);
}

static void write_gpt2(struct json_out *w, const struct model_config *c, const char *dtype) {
    json_str(w, "activation_function", c->activation == MODEL_ACT_GELU_TANH ? "gelu_new" : model_activation_name(c->activation));
    json_flt(w, "attn_pdrop", 0.0);
    config_put_id(w, "bos_token_id", c->bos_id);
    json_flt(w, "embd_pdrop", 0.0);
    config_put_eos(w, c);
    json_flt(w, "initializer_range", config_shortest(c->initializer_range));
    json_flt(w, "layer_norm_epsilon", config_shortest(c->norm_eps));
    json_str(w, "model_type", c->arch->model_type);
    json_num(w, "n_embd", c->width);
    json_num(w, "n_head", c->heads);
    json_num(w, "n_inner", c->ffn);
    json_num(w, "n_layer", c->layers);
    json_num(w, "n_positions", c->context);
    config_put_id(w, "pad_token_id", c->pad_id);
    json_flt(w, "resid_pdrop", 0.0);
    json_flag(w, "tie_word_embeddings", c->tie_embeddings);
    json_str(w, "torch_dtype", dtype);
}

int model_config_write_dtype(const struct model_config *c, const char *dtype, struct buf *out) {
    static const struct {
        const char *model_type;
        void (*write)(struct json_out *w, const struct model_config *c, const char *dtype);
    } writers[] = {{"llama", write_llama}, {"gpt2", write_gpt2}};
    char class[MODEL_TENSOR_NAME_MAX];
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    json_key(&w, "architectures");
    json_array(&w);
    json_put_str(&w, c->arch->kind == MODEL_ENCODER && !config_is_t5(c->arch) ? config_encoder_class(c, class, sizeof class) : c->arch->architecture);
    json_array_end(&w);
    size_t i = 0;
    while (i < COUNT(writers) && strcmp(writers[i].model_type, c->arch->model_type) != 0) i++;
    if (config_is_t5(c->arch)) config_t5_write(&w, c, dtype);
    else if (c->arch->kind == MODEL_ENCODER) config_encoder_write(&w, c, dtype);
    else if (i < COUNT(writers)) writers[i].write(&w, c, dtype);
    else config_decoder_write(&w, c, keys_of(c->arch), dtype);
    json_flag(&w, "use_cache", true);
    json_num(&w, "vocab_size", c->vocab);
    json_object_end(&w);
    buf_append_char(out, '\n');
    return out->failed;
}

int model_config_write(const struct model_config *c, struct buf *out) { return model_config_write_dtype(c, "float32", out); }
