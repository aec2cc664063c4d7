/* The columns of a family's tensor table (arch.c). Not for other libraries. */
#ifndef GENLOOP_MODEL_RULES_H
#define GENLOOP_MODEL_RULES_H

#include "model/arch.h"

enum model_scope {
    SCOPE_BASE,     /* base_prefix name, before the layers */
    SCOPE_LAYER,    /* base_prefix layer_prefix N . name */
    SCOPE_ENCODER,  /* base_prefix encoder_prefix N . name: of the encoder beside a decoder */
    SCOPE_BASE_END, /* base_prefix name, behind the layers */
    SCOPE_ROOT,     /* name */
};
enum model_when {
    IF_ALWAYS,
    IF_ATTN_BIAS,
    IF_OUT_BIAS,
    IF_MLP_BIAS,
    IF_UNTIED,
    IF_HEAD,
    IF_NOT_FIRST, /* layer */
    IF_FIRST,
    IF_GATED, /* the MLP */
    IF_PLAIN,
    IF_FINAL_NORM,
    IF_PROJECTED, /* embeddings are narrower than the model */
    IF_NOT_PARALLEL,
    IF_QK_NORM,
    IF_DENSE,   /* a layer with an MLP */
    IF_EXPERTS, /* a layer with experts */
};
enum model_dim {
    DIM_ONE,
    DIM_WIDTH,
    DIM_Q,
    DIM_KV,
    DIM_QKV,
    DIM_FFN,
    DIM_GATE_UP,
    DIM_VOCAB,
    DIM_CONTEXT, /* the rows of EMBED_POSITIONS */
    DIM_TYPES,
    DIM_LABELS,
    DIM_HEAD,
    DIM_EMBED,
    DIM_EXPERTS,
    DIM_EXPERT_FFN,
    DIM_BUCKETS,
    DIM_HEADS,
};
/* A tensor for each of these, '#' in its name being its number. */
enum model_each { EACH_ONE, EACH_EXPERT, EACH_HEAD, EACH_KV_HEAD };
struct model_tensor_rule {
    enum model_scope scope;
    enum model_when when;
    const char *name;
    enum model_role roles[MODEL_PARTS_MAX];
    uint32_t part_count;
    enum model_dim rows, cols; /* [out, in]; of a vector [1, n] */
    bool transposed, vector;
    enum model_fusing fusing;
    enum model_each each;
};

/* arch_decoders.c */
extern const struct model_arch MODEL_DECODERS[];
extern const size_t MODEL_DECODERS_COUNT;

/* arch_encoders.c */
extern const struct model_arch MODEL_ENCODERS[];
extern const size_t MODEL_ENCODERS_COUNT;
const struct model_arch *model_encoder_find(struct span name); /* also by the classes that share the body */
bool model_encoder_class_has_head(struct span name);
bool model_encoder_tensor_ignored(const struct model_config *c, struct span name);

/* arch_t5.c: encoder-decoders, and their encoders alone */
extern const struct model_arch MODEL_T5[];
extern const size_t MODEL_T5_COUNT;
bool model_t5_tensor_ignored(const struct model_config *c, struct span name);

/* config_encoders.c: what encoders have beside the numbers of every family. c has those. */
struct json_out;
void config_encoder_default(struct model_config *c);
int config_encoder_read(const struct json *root, struct model_config *c, struct error *err);
int config_encoder_check(const struct model_config *c, struct error *err);
void config_encoder_write(struct json_out *w, const struct model_config *c, const char *dtype);
const char *config_encoder_class(const struct model_config *c, char *out, size_t size); /* "BertForSequenceClassification" */

/* What a family calls its numbers; NULL: it has none, and the default of model_config_default stands. */
struct config_keys {
    const char *model_type;
    const char *layers, *width, *heads, *kv_heads, *head_dim, *ffn, *context, *norm_eps, *activation;
};

/* config_t5.c: likewise of those of arch_t5.c. */
void config_t5_default(struct model_config *c);
void config_t5_sizes(uint32_t heads, uint32_t *kv_heads, uint32_t *context, double *norm_eps);
int config_t5_read(const struct json *root, struct model_config *c, struct error *err);
int config_t5_check(const struct model_config *c, struct error *err);
void config_t5_write(struct json_out *w, const struct model_config *c, const char *dtype);
static inline bool config_is_t5(const struct model_arch *a) { return a->positions == MODEL_POS_RELATIVE; }

/* config_decoders.c: likewise of decoders. */
void config_decoder_default(struct model_config *c);
/* What is taken where config.json does not say; context 0: it must. */
void config_decoder_sizes(const struct model_arch *a, uint32_t heads, uint32_t *kv_heads, uint32_t *head_dim, uint32_t *context, double *norm_eps);
int config_decoder_read(const struct json *root, struct model_config *c, struct error *err);
int config_decoder_check(const struct model_config *c, struct error *err);
void config_decoder_write(struct json_out *w, const struct model_config *c, const struct config_keys *k, const char *dtype);
void config_decoder_write_scaling(struct json_out *w, const struct model_config *c);
void config_decoder_write_partial(struct json_out *w, const struct model_config *c); /* nothing where a head is rotated whole */

/* config.c */
int config_bool(const struct json *root, const char *key, bool *out, struct error *err);
int config_activation(const struct json *v, const char *key, enum model_activation *out, struct error *err); /* unchanged where null */
int config_u32(const struct json *root, const char *key, bool needed, uint32_t *out, struct error *err);
int config_real(const struct json *object, const char *key, double *out, struct error *err);
void config_put_id(struct json_out *w, const char *key, int64_t id);
void config_put_eos(struct json_out *w, const struct model_config *c);
double config_shortest(float f);

/* config.json with the type that the weights are stored in: "float32", "bfloat16", "float16". */
int model_config_write_dtype(const struct model_config *c, const char *dtype, struct buf *out);

#endif
