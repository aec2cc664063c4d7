/*
 * Writing GGUF v3 (gguf.h reads it). Put the metadata, declare every tensor, then give the bytes of each in the order declared: the head needs all of them before the first byte; padding is added
 * between them. Same calls, same file. Until gguf_writer_commit the file has a temporary name beside `path`; commit is fsync, rename and fsync of the folder.
 *   gguf_writer_new → (put)* → (add)* → (write)* → commit → free;   free without commit removes the temporary file.
 * Puts fail silently and for good (no memory, a head larger than GGUF_HEAD_MAX): the first write, or commit, says so. One thread.
 */
#ifndef GENLOOP_MODEL_GGUF_WRITE_H
#define GENLOOP_MODEL_GGUF_WRITE_H

#include "model/gguf.h"

enum { GGUF_HEAD_MAX = 1 << 28 /* bytes: a vocabulary of 262,144 tokens and as many merges has 15 MB */, GGUF_ALIGNMENT = 32 };

struct gguf_writer;
int gguf_writer_new(struct gguf_writer **w, const char *path, struct error *err);
void gguf_put_string(struct gguf_writer *w, const char *key, struct span value);
void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value);
void gguf_put_f32(struct gguf_writer *w, const char *key, float value);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool value);
void gguf_put_strings(struct gguf_writer *w, const char *key, const struct span *values, size_t n);
/* Numbers as they lie in memory: of U8, I8, U16, I16, U32, I32, F32, U64, I64 or F64. */
void gguf_put_numbers(struct gguf_writer *w, const char *key, enum gguf_type of, const void *values, size_t n);
/* shape in our order, the fastest dimension last. E_INVALID: no name, rows of no whole blocks; E_TOO_LARGE. */
int gguf_writer_add(struct gguf_writer *w, struct span name, enum tensor_type type, const uint64_t *shape, uint32_t dims, struct error *err);
/* The next bytes; pieces of any size. Bytes beyond what was declared: E_STATE. */
int gguf_writer_write(struct gguf_writer *w, const void *data, size_t size, struct error *err);
int gguf_writer_commit(struct gguf_writer *w, struct error *err); /* E_STATE where bytes are missing */
void gguf_writer_free(struct gguf_writer *w); /* NULL is accepted */

#endif
