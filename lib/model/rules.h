/* The columns of a family's tensor table (arch.c). Not for other libraries. */
#ifndef GENLOOP_MODEL_RULES_H
#define GENLOOP_MODEL_RULES_H

#include "model/arch.h"

enum model_scope {
    SCOPE_BASE,     /* base_prefix name, before the layers */
    SCOPE_LAYER,    /* base_prefix layer_prefix N . name */
    SCOPE_BASE_END, /* base_prefix name, behind the layers */
    SCOPE_ROOT,     /* name */
};
enum model_when { IF_ALWAYS, IF_ATTN_BIAS, IF_OUT_BIAS, IF_MLP_BIAS, IF_UNTIED, IF_HEAD, IF_NOT_FIRST /* layer */ };
enum model_dim { DIM_ONE, DIM_WIDTH, DIM_Q, DIM_KV, DIM_QKV, DIM_FFN, DIM_GATE_UP, DIM_VOCAB, DIM_CONTEXT, DIM_TYPES, DIM_LABELS };
struct model_tensor_rule {
    enum model_scope scope;
    enum model_when when;
    const char *name;
    enum model_role roles[MODEL_PARTS_MAX];
    uint32_t part_count;
    enum model_dim rows, cols; /* [out, in]; of a vector [1, n] */
    bool transposed, vector;
    enum model_fusing fusing;
};

/* arch_encoders.c */
extern const struct model_arch MODEL_ENCODERS[];
extern const size_t MODEL_ENCODERS_COUNT;
const struct model_arch *model_encoder_find(struct span name); /* also by the classes that share the body */
bool model_encoder_class_has_head(struct span name);
bool model_encoder_tensor_ignored(const struct model_config *c, struct span name);

/* config_encoders.c: what encoders have beside the numbers of every family. c has those. */
struct json_out;
void config_encoder_default(struct model_config *c);
int config_encoder_read(const struct json *root, struct model_config *c, struct error *err);
int config_encoder_check(const struct model_config *c, struct error *err);
void config_encoder_write(struct json_out *w, const struct model_config *c, const char *dtype);
const char *config_encoder_class(const struct model_config *c, char *out, size_t size); /* "BertForSequenceClassification" */

/* config.c */
int config_activation(const struct json *v, const char *key, enum model_activation *out, struct error *err); /* unchanged where null */
int config_u32(const struct json *root, const char *key, bool needed, uint32_t *out, struct error *err);
int config_real(const struct json *object, const char *key, double *out, struct error *err);
void config_put_id(struct json_out *w, const char *key, int64_t id);
void config_put_eos(struct json_out *w, const struct model_config *c);
double config_shortest(float f);

/* config.json with the type that the weights are stored in: "float32", "bfloat16", "float16". */
int model_config_write_dtype(const struct model_config *c, const char *dtype, struct buf *out);

#endif
