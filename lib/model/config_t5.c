/* config.json of T5 and what came of it: what they have beside the numbers that every family has. */
#include <math.h>

#include "model/rules.h"

/* transformers' own, but for the context: positions have no end here, and n_positions, which transformers does not read, is what a model was trained with. Beyond
 * the farthest bucket every distance counts as one; a few thousand tokens are what these models are asked to read. */
enum { BUCKETS_DEFAULT = 32, DISTANCE_DEFAULT = 128, CONTEXT_MIN = 2048 };

/* mT5 never scales what goes into its head, whatever its config.json says. */
static bool scales(const struct model_arch *a) { return a->kind == MODEL_ENCODER_DECODER && strcmp(a->model_type, "mt5") != 0; }

void config_t5_default(struct model_config *c) {
    c->norm_eps = 1e-6f;
    c->attn_scale = 1;
    c->position_buckets = BUCKETS_DEFAULT;
    c->position_distance = DISTANCE_DEFAULT;
    if (c->arch->kind != MODEL_ENCODER_DECODER) return;
    c->encoder_layers = c->layers;
    c->start_id = 0;
    if (scales(c->arch)) c->logits_scale = (float)(1 / sqrt((double)(c->width ? c->width : 1)));
}

void config_t5_sizes(uint32_t heads, uint32_t *kv_heads, uint32_t *context, double *norm_eps) {
    *kv_heads = heads;
    *context = CONTEXT_MIN;
    *norm_eps = 1e-6;
}

int config_t5_check(const struct model_config *c, struct error *err) {
    bool both = c->arch->kind == MODEL_ENCODER_DECODER;
    if (both ? c->encoder_layers < 1 || c->encoder_layers > MODEL_LAYERS_MAX : c->encoder_layers != 0)
        return error_set_param(err, E_RANGE, "num_layers", "num_layers is %u, which is not between 1 and %d", c->encoder_layers, MODEL_LAYERS_MAX);
    if (c->position_buckets < 4 || c->position_buckets > MODEL_BUCKETS_MAX)
        return error_set_param(err, E_RANGE, "relative_attention_num_buckets", "relative_attention_num_buckets is %u, which is not between 4 and %d", c->position_buckets, MODEL_BUCKETS_MAX);
    if (c->position_distance <= c->position_buckets / 2 || c->position_distance > MODEL_DISTANCE_MAX)
        return error_set_param(err, E_RANGE, "relative_attention_max_distance", "relative_attention_max_distance is %u, which is not between %u and %d", c->position_distance,
                               c->position_buckets / 2 + 1, MODEL_DISTANCE_MAX);
    if (both && (c->start_id < 0 || c->start_id >= c->vocab))
        return error_set_param(err, E_RANGE, "decoder_start_token_id", "decoder_start_token_id %lld is none of the %u tokens", (long long)c->start_id, c->vocab);
    if (c->mlp == MODEL_MLP_GATED && c->activation == MODEL_ACT_GELU) return error_set(err, E_INVALID, "%s has no gate of exact GELU: gated-gelu means the approximation", c->arch->name);
    if (c->embed_scale != 1 || c->residual_scale != 1 || !(c->logits_scale > 0 && c->logits_scale <= 1) || c->embed_width != c->width)
        return error_set(err, E_INVALID, "%s has no such scales", c->arch->name);
    return 0;
}

/* "relu", "gated-gelu": which MLP, and its activation. */
static int read_mlp(const struct json *root, struct model_config *c, struct error *err) {
    static const struct {
        const char *name;
        enum model_activation activation;
    } known[] = {{"relu", MODEL_ACT_RELU}, {"silu", MODEL_ACT_SILU}, {"swish", MODEL_ACT_SILU}, {"gelu", MODEL_ACT_GELU}, {"gelu_new", MODEL_ACT_GELU_TANH}};
    const struct json *v = json_get(root, "feed_forward_proj");
    struct span name = json_string(v), gated = SPAN("gated-");
    if (json_is_null(v)) return 0;
    c->mlp = span_starts(name, gated) ? MODEL_MLP_GATED : MODEL_MLP_PLAIN;
    /* by this one name the approximation is meant */
    if (span_eq_str(name, "gated-gelu")) {
        c->activation = MODEL_ACT_GELU_TANH;
        return 0;
    }
    if (c->mlp == MODEL_MLP_GATED) name = span_sub(name, gated.len, name.len);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (span_eq_str(name, known[i].name)) {
            c->activation = known[i].activation;
            return 0;
        }
    return error_set_param(err, E_UNSUPPORTED, "feed_forward_proj", "feed_forward_proj %.*s is not built", SPAN_ARG(span_sub(json_string(v), 0, 40)));
}

int config_t5_read(const struct json *root, struct model_config *c, struct error *err) {
    bool both = c->arch->kind == MODEL_ENCODER_DECODER, scaled = c->tie_embeddings;
    int64_t start = c->pad_id;
    const struct json *id = json_get(root, "decoder_start_token_id");
    c->encoder_layers = both ? c->layers : 0;
    if (c->context < CONTEXT_MIN) c->context = CONTEXT_MIN;
    int r = read_mlp(root, c, err);
    if (!r) r = config_u32(root, "relative_attention_num_buckets", false, &c->position_buckets, err);
    if (!r) r = config_u32(root, "relative_attention_max_distance", false, &c->position_distance, err);
    if (!r && both) r = config_u32(root, "num_decoder_layers", false, &c->layers, err);
    if (!r) r = config_bool(root, "scale_decoder_outputs", &scaled, err); /* transformers 5; before it, a tied head said so */
    c->tie_embeddings |= !both;
    c->logits_scale = scaled && scales(c->arch) ? (float)(1 / sqrt((double)(c->width ? c->width : 1))) : 1;
    if (r || !both) return r;
    if (!json_is_null(id) && json_type(id) != JSON_TYPE_INT) return error_set_param(err, E_INVALID, "decoder_start_token_id", "decoder_start_token_id is %s, not an id", json_type_name(id));
    c->start_id = json_is_null(id) ? start : json_int(id, -1);
    return 0;
}

void config_t5_write(struct json_out *w, const struct model_config *c, const char *dtype) {
    bool both = c->arch->kind == MODEL_ENCODER_DECODER, gated = c->mlp == MODEL_MLP_GATED;
    char mlp[MODEL_TENSOR_NAME_MAX];
    const char *activation = model_activation_name(c->activation);
    if (gated && c->activation == MODEL_ACT_GELU_TANH) activation = "gelu";
    snprintf(mlp, sizeof mlp, "%s%s", gated ? "gated-" : "", activation);
    config_put_id(w, "bos_token_id", c->bos_id);
    json_num(w, "d_ff", c->ffn);
    json_num(w, "d_kv", c->head_dim);
    json_num(w, "d_model", c->width);
    if (both) config_put_id(w, "decoder_start_token_id", c->start_id);
    config_put_eos(w, c);
    json_str(w, "feed_forward_proj", mlp);
    json_flt(w, "initializer_range", config_shortest(c->initializer_range));
    json_flag(w, "is_encoder_decoder", both);
    json_flt(w, "layer_norm_epsilon", config_shortest(c->norm_eps));
    json_str(w, "model_type", c->arch->model_type);
    json_num(w, "n_positions", c->context);
    if (both) json_num(w, "num_decoder_layers", c->layers);
    json_num(w, "num_heads", c->heads);
    json_num(w, "num_layers", both ? c->encoder_layers : c->layers);
    config_put_id(w, "pad_token_id", c->pad_id);
    json_num(w, "relative_attention_max_distance", c->position_distance);
    json_num(w, "relative_attention_num_buckets", c->position_buckets);
    if (scales(c->arch)) json_flag(w, "scale_decoder_outputs", c->logits_scale != 1);
    json_flag(w, "tie_word_embeddings", c->tie_embeddings);
    json_str(w, "torch_dtype", dtype);
}
