/*
 * GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3: magic, version, counts, metadata (typed values by key), the list of tensors, padding, data.
 * A file is mapped, not read, and everything before its data is checked before any of it is used: magic, version, counts, every string's length and UTF-8, types, arrays (of scalars and strings;
 * none of arrays), alignment (a power of two), shapes (no overflow, rows of whole blocks), offsets (aligned, inside the file, no overlap), names and keys (none twice). Errors name the file and the
 * tensor or key. Little-endian files only.
 * A struct gguf is immutable once open: any thread may read. Views borrow from it.
 *
 * Shapes are in our order, the fastest dimension last: a matrix is [out, in], as safetensors has it (the file lists them the other way round).
 */
#ifndef GENLOOP_MODEL_GGUF_H
#define GENLOOP_MODEL_GGUF_H

#include "base/error.h"
#include "base/span.h"
#include "tensor/dtype.h"

enum {
    GGUF_KEYS_MAX = 1 << 16,     /* published files have some 40 */
    GGUF_TENSORS_MAX = 1 << 20,
    GGUF_DIMS_MAX = 4,           /* ggml's own */
    GGUF_NAME_MAX = 512,         /* bytes; ggml's own limit of a tensor's name is 64 */
    GGUF_ARRAY_MAX = 1 << 24,    /* elements: the largest vocabularies have 262,144 tokens, and as many merges */
    GGUF_ALIGNMENT_MAX = 1 << 16,
};

enum gguf_type { GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64, GGUF_TYPES };
struct gguf_value {
    struct span key;      /* borrowed */
    enum gguf_type type;
    /* scalars and strings */
    struct span string;
    int64_t integer;      /* of whole numbers and bools; a u64 beyond it is refused when the file is opened */
    double real;          /* of all numbers */
    /* arrays */
    enum gguf_type of;
    uint64_t count;
    struct span elements; /* as they lie in the file */
};
struct gguf_tensor {
    struct span name;     /* borrowed */
    enum tensor_type type;
    uint32_t dims;
    uint64_t shape[GGUF_DIMS_MAX];
    uint64_t rows, cols;  /* cols: of the fastest dimension; rows: the product of the others */
    const void *data;     /* borrowed; aligned as the file says, at least to 1 */
    size_t size;
};

struct gguf;
/* E_INVALID, E_UNSUPPORTED (a version or a type of tensor that is not read), E_TOO_LARGE, E_NOMEM. */
int gguf_open(struct gguf **file, const char *path, struct error *err);
/* The same on bytes that the caller keeps; `name` stands in messages. */
int gguf_open_bytes(struct gguf **file, struct span bytes, const char *name, struct error *err);
void gguf_close(struct gguf *file); /* NULL is accepted */
/* The file's pages may go: whoever packed the weights needs them no more. Reading again brings them back. */
void gguf_forget_pages(const struct gguf *file);

size_t gguf_value_count(const struct gguf *file);
const struct gguf_value *gguf_value_at(const struct gguf *file, size_t index);
const struct gguf_value *gguf_find(const struct gguf *file, const char *key); /* NULL where absent */
/* The value where it is there and of the kind; otherwise `otherwise`. Whole numbers: any width, in range. */
int64_t gguf_integer(const struct gguf *file, const char *key, int64_t otherwise);
double gguf_real(const struct gguf *file, const char *key, double otherwise);
bool gguf_bool(const struct gguf *file, const char *key, bool otherwise);
struct span gguf_string(const struct gguf *file, const char *key); /* data NULL where absent */

/* Elements in order: begin with the value's `elements`, and take as many as `count`. */
struct span gguf_next_string(struct span *rest);
/* The i-th number of an array of numbers (or bools). */
double gguf_number(const struct gguf_value *array, uint64_t i);

size_t gguf_tensor_count(const struct gguf *file);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *file, size_t index);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *file, struct span name); /* NULL where absent */

#endif
