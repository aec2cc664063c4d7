/*
 * The safetensors format: 8 bytes little-endian header length, a JSON header {"name": {"dtype", "shape", "data_offsets"}, …, "__metadata__":
 * {string: string}}, then the bytes. A file is mapped, not read, and everything in its header is checked before any of it is used: length, JSON,
 * types, shapes (no overflow), offsets (inside the file, without holes or overlap, exactly the size that type and shape say), names (no duplicates).
 * Errors name the file and the tensor.
 * A struct safetensors is immutable once open: any thread may read. Views borrow from it.
 */
#ifndef GENLOOP_MODEL_SAFETENSORS_H
#define GENLOOP_MODEL_SAFETENSORS_H

#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

enum {
    SAFETENSORS_HEADER_MAX = 100000000, /* bytes; the reference implementation's own limit */
    SAFETENSORS_TENSORS_MAX = 1 << 20,  /* far above any checkpoint; bounds our index */
    SAFETENSORS_DIMS_MAX = 8,
    SAFETENSORS_NAME_MAX = 512, /* bytes */
    SAFETENSORS_ALIGNMENT = 64, /* where our writer puts the first tensor: header padded with spaces */
};

enum safetensors_dtype {
    DTYPE_BOOL, DTYPE_U8, DTYPE_I8, DTYPE_F8_E4M3, DTYPE_F8_E5M2, DTYPE_I16, DTYPE_U16, DTYPE_F16, DTYPE_BF16,
    DTYPE_I32, DTYPE_U32, DTYPE_F32, DTYPE_F64, DTYPE_I64, DTYPE_U64, DTYPES,
};
size_t dtype_size(enum safetensors_dtype d);      /* bytes of one */
const char *dtype_name(enum safetensors_dtype d); /* "BF16" */

struct safetensors_view {
    struct span name; /* borrowed */
    enum safetensors_dtype dtype;
    uint32_t dims;
    uint64_t shape[SAFETENSORS_DIMS_MAX];
    uint64_t count; /* product of shape; 1 for a scalar */
    const void *data; /* borrowed from the mapping; of any alignment in a file that is not ours */
    size_t size;      /* bytes */
};

struct safetensors;

int safetensors_open(struct safetensors **file, const char *path, struct error *err);
/* The same on bytes that the caller keeps; `name` stands in messages. */
int safetensors_open_bytes(struct safetensors **file, struct span bytes, const char *name, struct error *err);
void safetensors_close(struct safetensors *file); /* NULL is accepted */
size_t safetensors_count(const struct safetensors *file);
/* In order of their data in the file. */
const struct safetensors_view *safetensors_at(const struct safetensors *file, size_t index);
const struct safetensors_view *safetensors_find(const struct safetensors *file, struct span name); /* NULL where absent */
/* A value of __metadata__; false where absent. Borrowed. */
bool safetensors_metadata(const struct safetensors *file, const char *key, struct span *value);

/* Converts `count` elements from element `from` on to f32. E_UNSUPPORTED for a type that holds no real numbers (bool, 64-bit integers), E_RANGE
 * beyond the tensor. */
int safetensors_to_f32(const struct safetensors_view *v, uint64_t from, uint64_t count, float *out, struct error *err);
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f); /* to nearest, ties to even */
static inline float bf16_to_f32(uint16_t h) {
    union { uint32_t u; float f; } v = {.u = (uint32_t)h << 16};
    return v.f;
}
uint16_t f32_to_bf16(float f); /* to nearest, ties to even */

/*
 * Writing. Declare every tensor, then give the bytes of each, in the order declared (the header needs all shapes before the first byte). Same
 * declarations and bytes, same file. Until safetensors_writer_commit the file has a temporary name beside `path`; commit is fsync, rename and fsync of the folder.
 *   writer_new → (add)* → (write)* → commit → free;   free at any point without commit removes the temporary file.
 */
struct safetensors_writer;
int safetensors_writer_new(struct safetensors_writer **w, const char *path, struct error *err);
int safetensors_writer_metadata(struct safetensors_writer *w, const char *key, const char *value, struct error *err);
int safetensors_writer_add(struct safetensors_writer *w, struct span name, enum safetensors_dtype dtype, const uint64_t *shape, uint32_t dims,
                           struct error *err);
/* The next bytes of the data section; pieces of any size. Bytes beyond what was declared: E_STATE. */
int safetensors_writer_write(struct safetensors_writer *w, const void *data, size_t size, struct error *err);
int safetensors_writer_commit(struct safetensors_writer *w, struct error *err); /* E_STATE where bytes are missing */
void safetensors_writer_free(struct safetensors_writer *w); /* NULL is accepted */

#endif
