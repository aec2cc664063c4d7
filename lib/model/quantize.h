/*
 * Weights in another type than the one they came in, kept as such: weights.gguf beside config.json and the tokenizer, in place of model.safetensors. It is a GGUF file by its form (gguf.h), of
 * architecture "genloop": its tensors are parameters by their roles in arch.h ("embed_tokens", "layers.3.attn_q_w", of an expert "layers.3.expert_up_w.7"), always [out, in], whatever the family's
 * files look like; so every family that is read can be stored this way. model_dir_load and all that rests on it read such a directory as any other.
 * What is multiplied (matrices of the layers, the head) and the token embeddings are of the type; embeddings and head of a model in 4 bits are Q8_0, since their errors cost most; a matrix whose rows
 * are no whole blocks stays as it was, in F32 where it came in blocks; vectors, positions and routers are F32.
 */
#ifndef GENLOOP_MODEL_QUANTIZE_H
#define GENLOOP_MODEL_QUANTIZE_H

#include "model/model_dir.h"

#define MODEL_WEIGHTS_FILE "weights.gguf"

/* "f16", "bf16", "q8_0", "q4_0", "q4_1"; E_INVALID names them. */
int model_quantize_type(struct span name, enum tensor_type *type, struct error *err);
/* Writes DIR's weights to `path` in the type. E_INVALID: a value that is not finite. */
int model_quantize(const char *dir, const char *path, enum tensor_type type, struct error *err);

#endif
