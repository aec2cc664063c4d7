/* Shared by weights.c and model_dir.c. Not for other libraries. Little-endian machines only, as the file format: asserted here. */
#ifndef GENLOOP_MODEL_DIR_FILES_H
#define GENLOOP_MODEL_DIR_FILES_H

#include "model/model_dir.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "safetensors are little-endian and are used as they lie in the file");

/* model.safetensors, or the shards that model.safetensors.index.json names. Returns owned in *files, even where it fails half-way. */
int model_dir_open_shards(const char *dir, struct safetensors ***files, size_t *count, struct error *err);
/* One safetensors file with all tensors of the model. */
int model_weights_write(const struct model_weights *w, const char *path, enum safetensors_dtype dtype, struct error *err);
/* Where out-dimension `row` of a fused tensor lies. */
void model_tensor_row(const struct model_config *c, const struct model_tensor *t, uint32_t row, uint32_t *part, uint32_t *part_row);

#endif
