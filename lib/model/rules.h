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
enum model_when { IF_ALWAYS, IF_ATTN_BIAS, IF_OUT_BIAS, IF_MLP_BIAS, IF_UNTIED };
enum model_dim { DIM_ONE, DIM_WIDTH, DIM_Q, DIM_KV, DIM_QKV, DIM_FFN, DIM_VOCAB, DIM_CONTEXT };
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

/* config.json with the type that the weights are stored in: "float32", "bfloat16", "float16". */
int model_config_write_dtype(const struct model_config *c, const char *dtype, struct buf *out);

#endif
