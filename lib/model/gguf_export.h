/*
 * A model as a GGUF file that llama.cpp and its like read: gguf_model.c the other way round. Weights stay in the type that they are stored in (vectors become F32), under llama.cpp's names and in its
 * order: rows of q and k interleaved and 1 added to norms where its converter does so, q, k and v in one tensor where it wants them so, experts stacked. Metadata of the architecture, tokenizer and
 * chat template. What was written is read back before it has its name, and held against the model: what the format does not say of it is an error (E_UNSUPPORTED), never another model.
 */
#ifndef GENLOOP_MODEL_GGUF_EXPORT_H
#define GENLOOP_MODEL_GGUF_EXPORT_H

#include "model/model_dir.h"

/* m: loaded with MODEL_WEIGHTS_MAP. name: general.name. E_EXISTS never: `path` is replaced. */
int model_write_gguf(const struct model_dir *m, const char *name, const char *path, struct error *err);

#endif
