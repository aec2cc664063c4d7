/* config.json of encoders: what they have beside the numbers that every family has. */
#include <stdio.h>

#include "model/rules.h"

enum { TYPES_DEFAULT = 2, LABELS_DEFAULT = 2, PAD_ROBERTA = 1, LOCAL_DEFAULT = 128, GLOBAL_EVERY_DEFAULT = 3 }; /* transformers' own */

static bool is_local(const struct model_arch *a) { return a->positions == MODEL_POS_ROPE; } /* ModernBERT alone */

void config_encoder_default(struct model_config *c) {
    const struct model_arch *a = c->arch;
    c->types = a->token_types;
    c->position_offset = a->positions_after_pad ? PAD_ROBERTA + 1 : 0;
    c->head_activation = MODEL_ACT_GELU;
    if (a->norm_place == MODEL_NORM_POST) c->norm_eps = 1e-12f;
    if (is_local(a)) {
        c->local_window = LOCAL_DEFAULT / 2;
        c->global_every = GLOBAL_EVERY_DEFAULT;
        c->rope_theta = 160000;
        c->rope_theta_local = 10000;
    }
}

int config_encoder_check(const struct model_config *c, struct error *err) {
    if (c->types != 0 && c->arch->token_types == 0) return error_set_param(err, E_INVALID, "type_vocab_size", "%s has no token types", c->arch->name);
    if (c->arch->token_types && (c->types < 1 || c->types > MODEL_TYPES_MAX))
        return error_set_param(err, E_RANGE, "type_vocab_size", "type_vocab_size is %u, which is not between 1 and %d", c->types, MODEL_TYPES_MAX);
    if (c->labels > MODEL_LABELS_MAX) return error_set_param(err, E_RANGE, "id2label", "there are %u labels, more than %d", c->labels, MODEL_LABELS_MAX);
    if (c->position_offset >= c->context)
        return error_set_param(err, E_RANGE, "pad_token_id", "the first token's position, %u, lies beyond the %u that there are", c->position_offset, c->context);
    if (is_local(c->arch) && (c->local_window < 1 || c->local_window > MODEL_CONTEXT_MAX || c->global_every < 1 || c->global_every > MODEL_LAYERS_MAX))
        return error_set_param(err, E_RANGE, "local_attention", "local_attention or global_attn_every_n_layers is out of range");
    if (is_local(c->arch) && !(c->rope_theta_local >= 1 && c->rope_theta_local <= 1e12))
        return error_set_param(err, E_RANGE, "local_rope_theta", "local_rope_theta %g is not between 1 and 1e12", c->rope_theta_local);
    return 0;
}

/* rope_parameters by kind of layer (transformers 5). */
static int read_kind(const struct json *parameters, const char *kind, double *theta, struct error *err) {
    const struct json *v = json_get(parameters, kind);
    struct span type = json_string(json_get(v, "rope_type"));
    if (type.len && !span_eq_str(type, "default"))
        return error_set_param(err, E_UNSUPPORTED, "rope_parameters", "rope_type %.*s is not built for encoders", SPAN_ARG(span_sub(type, 0, 40)));
    return config_real(v, "rope_theta", theta, err);
}

/* Which layers see all: told by a number, or layer by layer. */
static int read_layer_types(const struct json *list, struct model_config *c, struct error *err) {
    if (json_size(list) != c->layers) return error_set_param(err, E_INVALID, "layer_types", "layer_types has %zu entries, and there are %u layers", json_size(list), c->layers);
    uint32_t every = 1;
    while (every < c->layers && !span_eq_str(json_string(json_at(list, every)), "full_attention")) every++;
    for (uint32_t i = 0; i < c->layers; i++)
        if (!span_eq_str(json_string(json_at(list, i)), i % every ? "sliding_attention" : "full_attention"))
            return error_set_param(err, E_UNSUPPORTED, "layer_types", "layer_types are built where one layer in every so many, from the first on, is full_attention");
    c->global_every = every;
    return 0;
}

static int read_local(const struct json *root, struct model_config *c, struct error *err) {
    uint32_t local = c->local_window * 2;
    const struct json *parameters = json_get(root, "rope_parameters"), *types = json_get(root, "layer_types");
    int r = config_u32(root, "local_attention", false, &local, err);
    if (!r) r = config_u32(root, "global_attn_every_n_layers", false, &c->global_every, err);
    if (!r) r = config_real(root, "global_rope_theta", &c->rope_theta, err);
    if (!r) r = config_real(root, "local_rope_theta", &c->rope_theta_local, err);
    if (!r) r = read_kind(parameters, "full_attention", &c->rope_theta, err);
    if (!r) r = read_kind(parameters, "sliding_attention", &c->rope_theta_local, err);
    if (!r && !json_is_null(types)) r = read_layer_types(types, c, err);
    c->local_window = local / 2;
    return r;
}

int config_encoder_read(const struct json *root, struct model_config *c, struct error *err) {
    const struct model_arch *a = c->arch;
    struct span class = json_string(json_at(json_get(root, "architectures"), 0)), positions = json_string(json_get(root, "position_embedding_type"));
    if (positions.len && !span_eq_str(positions, "absolute"))
        return error_set_param(err, E_UNSUPPORTED, "position_embedding_type", "position_embedding_type %.*s is not built", SPAN_ARG(span_sub(positions, 0, 40)));
    int r = a->token_types ? config_u32(root, "type_vocab_size", false, &c->types, err) : 0;
    if (!r && is_local(a)) r = read_local(root, c, err);
    if (r) return r;
    c->tie_embeddings = true; /* there is no output matrix to speak of */
    if (a->positions_after_pad) c->position_offset = (c->pad_id >= 0 && c->pad_id < MODEL_VOCAB_MAX ? (uint32_t)c->pad_id : PAD_ROBERTA) + 1;
    if (!model_encoder_class_has_head(class)) return 0;
    const struct json *names = json_get(root, "id2label");
    c->labels = LABELS_DEFAULT;
    if (json_size(names) > MODEL_LABELS_MAX) return error_set_param(err, E_RANGE, "id2label", "there are more than %d labels", MODEL_LABELS_MAX);
    if (json_type(names) == JSON_TYPE_OBJECT && json_size(names) > 0) c->labels = (uint32_t)json_size(names);
    else r = config_u32(root, "num_labels", false, &c->labels, err);
    if (!r && c->labels == 0) r = error_set_param(err, E_RANGE, "num_labels", "a classifier has no labels");
    if (!r && a->head == MODEL_HEAD_ACT_NORM) {
        struct span pooling = json_string(json_get(root, "classifier_pooling"));
        c->head_mean = span_eq_str(pooling, "mean");
        if (pooling.len && !c->head_mean && !span_eq_str(pooling, "cls"))
            return error_set_param(err, E_UNSUPPORTED, "classifier_pooling", "classifier_pooling %.*s is not built", SPAN_ARG(span_sub(pooling, 0, 40)));
        r = config_activation(json_get(root, "classifier_activation"), "classifier_activation", &c->head_activation, err);
    }
    return r;
}

const char *config_encoder_class(const struct model_config *c, char *out, size_t size) {
    size_t stem = strlen(c->arch->architecture) - strlen("Model");
    snprintf(out, size, "%.*s%s", (int)stem, c->arch->architecture, c->labels ? "ForSequenceClassification" : "Model");
    return out;
}

void config_encoder_write(struct json_out *w, const struct model_config *c, const char *dtype) {
    bool distil = c->arch->head == MODEL_HEAD_RELU, modern = is_local(c->arch);
    config_put_id(w, "bos_token_id", c->bos_id);
    config_put_eos(w, c);
    json_flt(w, "initializer_range", config_shortest(c->initializer_range));
    json_num(w, "max_position_embeddings", c->context);
    json_str(w, "model_type", c->arch->model_type);
    if (c->labels) json_num(w, "num_labels", c->labels);
    config_put_id(w, "pad_token_id", c->pad_id);
    json_str(w, "torch_dtype", dtype);
    json_num(w, distil ? "n_layers" : "num_hidden_layers", c->layers);
    json_num(w, distil ? "dim" : "hidden_size", c->width);
    json_num(w, distil ? "n_heads" : "num_attention_heads", c->heads);
    json_num(w, distil ? "hidden_dim" : "intermediate_size", c->ffn);
    json_str(w, distil ? "activation" : modern ? "hidden_activation" : "hidden_act", model_activation_name(c->activation));
    if (!distil) json_flt(w, modern ? "norm_eps" : "layer_norm_eps", config_shortest(c->norm_eps));
    if (c->types) json_num(w, "type_vocab_size", c->types);
    if (!modern) return;
    json_flag(w, "attention_bias", c->attn_bias > 0);
    json_str(w, "classifier_activation", model_activation_name(c->head_activation));
    json_str(w, "classifier_pooling", c->head_mean ? "mean" : "cls");
    json_num(w, "global_attn_every_n_layers", c->global_every);
    json_flt(w, "global_rope_theta", c->rope_theta);
    json_num(w, "local_attention", 2 * (int64_t)c->local_window);
    json_flt(w, "local_rope_theta", c->rope_theta_local);
    json_flag(w, "mlp_bias", c->mlp_bias);
}
