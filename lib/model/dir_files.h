/* Shared by weights.c and model_dir.c. Not for other libraries. Little-endian machines only, as the file format: asserted here. */
#ifndef GENLOOP_MODEL_DIR_FILES_H
#define GENLOOP_MODEL_DIR_FILES_H

#include "model/model_dir.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors are little-endian and are used as they lie in the file");

struct gguf;
struct model_weights_index {
    ptrdiff_t once[MODEL_ROLES];  /* -1: none */
    ptrdiff_t *layers;            /* [layers, MODEL_ROLES] */
    struct safetensors **files;   /* MODEL_WEIGHTS_MAP: what the views borrow from */
    size_t file_count;
    struct gguf *gguf;            /* owned likewise; NULL of a directory */
    float **converted;            /* owned copies, one per tensor that is no view */
    size_t converted_count, converted_capacity;
};
/* Everything but the numbers; *tensors is owned. What is made goes by model_weights_fini even where it fails. */
int model_weights_layout(struct model_weights *w, const struct model_config *config, struct model_tensor **tensors, size_t *count, struct error *err);
int model_weights_flat(struct model_weights *w, struct error *err); /* room for all numbers, and views of it */
int model_weights_copy(struct model_weights *w, size_t floats, float **out, struct error *err); /* room that goes with w */
void model_weights_put_f32(struct model_weights *w, size_t i, const float *data); /* params[i] is there */

/* gguf_model.c: how llama.cpp calls things. */
struct gguf_arch {
    const char *name, *model_type, *activation;
    bool permuted, norm_plus_one; /* rows of q and k interleaved; 1 added to weights of norms */
};
struct gguf_place {
    enum model_role role;
    const char *name, *fused; /* fused: the tensor that holds it with others in some families */
};
const struct gguf_arch *gguf_arch_of_config(const struct model_config *c); /* NULL: it has none */
const struct gguf_place *gguf_place_of(const struct model_config *c, enum model_role role); /* NULL: it has none */
/* The name in the file, with its layer; part: of a place. */
void gguf_tensor_name(const struct model_config *c, enum model_role role, uint32_t layer, const char *part, char name[MODEL_TENSOR_NAME_MAX]);
bool gguf_is_norm_weight(enum model_role role);

/* gguf_encoders.c: the same of encoders. */
enum { GGUF_POOLING_RANK = 4 }; /* beside enum model_pooling: a classifier's */
struct json_out;
int gguf_encoder_put_config(struct json_out *w, const struct gguf *g, const struct gguf_arch *a, const char *path, struct error *err);
const struct gguf_place *gguf_encoder_place_of(const struct model_config *c, enum model_role role);
bool gguf_encoder_tensor_ignored(const struct model_config *c, struct span name);
int gguf_encoder_read_use(const struct gguf *g, const char *path, struct model_dir *m, struct error *err); /* m's pooling and labels; m->config is there */

/* gguf_t5.c: the same of T5, both sides or the encoder alone. */
bool gguf_is_t5(const struct gguf_arch *a);
int gguf_t5_put_config(struct json_out *w, const struct gguf *g, const struct gguf_arch *a, const char *path, struct error *err);
const struct gguf_place *gguf_t5_place_of(const struct model_config *c, enum model_role role);
void gguf_t5_tensor_name(const struct model_config *c, uint32_t layer, const char *part, char name[MODEL_TENSOR_NAME_MAX]);
bool gguf_t5_tensor_ignored(const struct model_config *c, struct span name);

bool model_generation_in_range(const struct model_generation *g); /* model_dir.c */

/* gguf_model.c: what the file says of itself, as config.json would; eos ids; the tokenizer and the chat template. */
int model_config_from_gguf(const struct gguf *file, const char *path, struct model_config *c, struct error *err);
int gguf_load_tokenizer(const struct gguf *file, const char *path, struct tokenizer **t, struct error *err); /* *t untouched where it has none */
int model_dir_load_gguf(struct model_dir *m, const char *path, enum model_weights_mode mode, unsigned flags, struct error *err);

/* quantize.c: weights.gguf, parameters by their roles. */
int model_weights_load_roles(struct model_weights *w, const struct model_config *config, const char *path, enum model_weights_mode mode, struct error *err);

/* Whether it has a head of its own. */
int model_weights_roles_head(const char *path, bool *has, struct error *err);

/* model.safetensors, or the shards that model.safetensors.index.json names. Returns owned in *files, even where it fails half-way. */
int model_dir_open_shards(const char *dir, struct safetensors ***files, size_t *count, struct error *err);
/* One safetensors file with all tensors of the model. */
int model_weights_write(const struct model_weights *w, const char *path, enum safetensors_dtype dtype, struct error *err);
/* Where out-dimension `row` of a fused tensor lies. */
void model_tensor_row(const struct model_config *c, const struct model_tensor *t, uint32_t row, uint32_t *part, uint32_t *part_row);

#endif
