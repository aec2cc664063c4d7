#include "model/gguf.h"

#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/file.h"

/* What messages call a thing: names are the file's, and may be long. */
#define NAME_ARG(name) SPAN_ARG(span_sub(name, 0, 120))

struct gguf {
    struct file_map map; /* empty for bytes of the caller's */
    struct gguf_value *values;
    size_t n_values;
    struct gguf_tensor *tensors; /* in the order of the file's list */
    size_t n_tensors;
    uint32_t *slots[2];  /* by name: index + 1; of values, of tensors */
    size_t masks[2];
};

/* ---- taking from the front ---- */

static bool take(struct span *in, void *out, size_t size) {
    if (in->len < size) return false;
    memcpy(out, in->data, size);
    *in = span_skip(*in, size);
    return true;
}
static bool take_u32(struct span *in, uint32_t *v) { return take(in, v, sizeof *v); }
static bool take_u64(struct span *in, uint64_t *v) { return take(in, v, sizeof *v); }
static bool take_span(struct span *in, struct span *s) {
    uint64_t len;
    if (!take_u64(in, &len) || len > in->len) return false;
    *s = span_sub(*in, 0, (size_t)len);
    *in = span_skip(*in, (size_t)len);
    return true;
}

static const uint8_t WIDTHS[GGUF_TYPES] = {[GGUF_U8] = 1, [GGUF_I8] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

/* A number of width WIDTHS[type]; false for a u64 that no int64 holds, and for a bool that is none. */
static bool read_number(enum gguf_type type, const void *at, int64_t *integer, double *real) {
#define READ(T)                     \
    {                               \
        T v;                        \
        memcpy(&v, at, sizeof v);   \
        *integer = (int64_t)v;      \
        *real = (double)v;          \
        return true;                \
    }
    switch (type) {
    case GGUF_U8: READ(uint8_t)
    case GGUF_I8: READ(int8_t)
    case GGUF_U16: READ(uint16_t)
    case GGUF_I16: READ(int16_t)
    case GGUF_U32: READ(uint32_t)
    case GGUF_I32: READ(int32_t)
    case GGUF_I64: READ(int64_t)
    case GGUF_BOOL: {
        uint8_t b;
        memcpy(&b, at, 1);
        *integer = b;
        *real = b;
        return b <= 1;
    }
    case GGUF_U64: {
        uint64_t v;
        memcpy(&v, at, sizeof v);
        *integer = (int64_t)v;
        *real = (double)v;
        return v <= INT64_MAX;
    }
    case GGUF_F32: {
        float v;
        memcpy(&v, at, sizeof v);
        *real = (double)v;
        return true;
    }
    case GGUF_F64: memcpy(real, at, sizeof *real); return true;
    default: return false;
    }
#undef READ
}

/* ---- metadata ---- */

static int read_array(struct span *in, struct gguf_value *v, struct error *err) {
    uint32_t of;
    if (!take_u32(in, &of) || !take_u64(in, &v->count)) return error_set(err, E_INVALID, "key %.*s: the file ends in its array", NAME_ARG(v->key));
    if (of >= GGUF_TYPES || of == GGUF_ARRAY) return error_set(err, E_UNSUPPORTED, "key %.*s: an array of type %u is not read", NAME_ARG(v->key), of);
    if (v->count > GGUF_ARRAY_MAX) return error_set(err, E_TOO_LARGE, "key %.*s: an array of %llu elements; the most is %d", NAME_ARG(v->key), (unsigned long long)v->count, GGUF_ARRAY_MAX);
    v->of = (enum gguf_type)of;
    struct span begin = *in;
    if (v->of == GGUF_STRING) {
        for (uint64_t i = 0; i < v->count; i++) {
            struct span s;
            if (!take_span(in, &s)) return error_set(err, E_INVALID, "key %.*s: the file ends in string %llu of its array", NAME_ARG(v->key), (unsigned long long)i);
        }
    } else {
        uint64_t bytes = v->count * WIDTHS[v->of]; /* at most 2^24 · 8 */
        if (bytes > in->len) return error_set(err, E_INVALID, "key %.*s: the file ends in its array", NAME_ARG(v->key));
        *in = span_skip(*in, (size_t)bytes);
    }
    v->elements = span_sub(begin, 0, begin.len - in->len);
    return 0;
}

static int read_value(struct span *in, struct gguf_value *v, struct error *err) {
    uint32_t type;
    if (!take_span(in, &v->key)) return error_set(err, E_INVALID, "the file ends in a key");
    if (!v->key.len || v->key.len > GGUF_NAME_MAX || !span_is_utf8(v->key)) return error_set(err, E_INVALID, "a key is empty, longer than %d bytes, or no UTF-8", GGUF_NAME_MAX);
    if (!take_u32(in, &type)) return error_set(err, E_INVALID, "key %.*s: the file ends before its type", NAME_ARG(v->key));
    if (type >= GGUF_TYPES) return error_set(err, E_UNSUPPORTED, "key %.*s: type %u is not known", NAME_ARG(v->key), type);
    v->type = (enum gguf_type)type;
    if (v->type == GGUF_ARRAY) return read_array(in, v, err);
    if (v->type == GGUF_STRING) return take_span(in, &v->string) ? 0 : error_set(err, E_INVALID, "key %.*s: its string is longer than the file", NAME_ARG(v->key));
    if (in->len < WIDTHS[type]) return error_set(err, E_INVALID, "key %.*s: the file ends in its value", NAME_ARG(v->key));
    if (!read_number(v->type, in->data, &v->integer, &v->real)) return error_set(err, E_INVALID, "key %.*s: its value is out of range", NAME_ARG(v->key));
    *in = span_skip(*in, WIDTHS[type]);
    return 0;
}

/* ---- tensors ---- */

static int tensor_type_of(uint32_t number, enum tensor_type *t) {
    static const struct {
        uint32_t number;
        enum tensor_type type;
    } rows[] = {{0, TENSOR_F32}, {1, TENSOR_F16}, {30, TENSOR_BF16}, {8, TENSOR_Q8_0}, {2, TENSOR_Q4_0}, {3, TENSOR_Q4_1}, {6, TENSOR_Q5_0}, {7, TENSOR_Q5_1}, {12, TENSOR_Q4_K}, {13, TENSOR_Q5_K}, {14, TENSOR_Q6_K}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].number == number) {
            *t = rows[i].type;
            return 0;
        }
    return E_UNSUPPORTED;
}

/* Name, shape, type and where its data are, from the beginning of the data. */
static int read_tensor(struct span *in, struct gguf_tensor *t, uint64_t *offset, struct error *err) {
    uint32_t number;
    if (!take_span(in, &t->name)) return error_set(err, E_INVALID, "the file ends in a tensor's name");
    if (!t->name.len || t->name.len > GGUF_NAME_MAX || !span_is_utf8(t->name)) return error_set(err, E_INVALID, "a tensor's name is empty, longer than %d bytes, or no UTF-8", GGUF_NAME_MAX);
    if (!take_u32(in, &t->dims)) return error_set(err, E_INVALID, "tensor %.*s: the file ends in its shape", NAME_ARG(t->name));
    if (!t->dims || t->dims > GGUF_DIMS_MAX) return error_set(err, E_INVALID, "tensor %.*s has %u dimensions; there are 1 to %d", NAME_ARG(t->name), t->dims, GGUF_DIMS_MAX);
    t->rows = 1;
    for (uint32_t i = 0; i < t->dims; i++) {
        uint64_t n;
        if (!take_u64(in, &n)) return error_set(err, E_INVALID, "tensor %.*s: the file ends in its shape", NAME_ARG(t->name));
        if (!n || n > INT64_MAX) return error_set(err, E_INVALID, "tensor %.*s: a dimension is 0 or out of range", NAME_ARG(t->name));
        t->shape[t->dims - 1 - i] = n;
        if (i == 0) t->cols = n;
        else if (__builtin_mul_overflow(t->rows, n, &t->rows)) return error_set(err, E_INVALID, "tensor %.*s: its shape overflows", NAME_ARG(t->name));
    }
    if (!take_u32(in, &number) || !take_u64(in, offset)) return error_set(err, E_INVALID, "tensor %.*s: the file ends in its entry", NAME_ARG(t->name));
    if (tensor_type_of(number, &t->type) < 0)
        return error_set(err, E_UNSUPPORTED, "tensor %.*s: ggml's type %u is not read; there are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K", NAME_ARG(t->name), number);
    int r = tensor_size(t->type, t->rows, t->cols, &t->size);
    if (r == E_INVALID) return error_set(err, r, "tensor %.*s: its rows of %llu are no whole blocks of %s", NAME_ARG(t->name), (unsigned long long)t->cols, tensor_type_name(t->type));
    return r < 0 ? error_set(err, E_INVALID, "tensor %.*s: its shape overflows", NAME_ARG(t->name)) : 0;
}

/* ---- names ---- */

static struct span name_of(const struct gguf *g, int which, size_t i) { return which ? g->tensors[i].name : g->values[i].key; }

static ptrdiff_t find(const struct gguf *g, int which, struct span name) {
    size_t at = (size_t)span_hash(name) & g->masks[which];
    while (g->slots[which][at]) {
        if (span_eq(name_of(g, which, g->slots[which][at] - 1), name)) return (ptrdiff_t)g->slots[which][at] - 1;
        at = (at + 1) & g->masks[which];
    }
    return -1;
}

static int index_names(struct gguf *g, int which, size_t n, struct error *err) {
    size_t size = 16;
    while (size < 2 * n) size *= 2;
    g->masks[which] = size - 1;
    if (!(g->slots[which] = mem_calloc(size, sizeof *g->slots[which]))) return error_set(err, E_NOMEM, "no memory for its index");
    for (size_t i = 0; i < n; i++) {
        struct span name = name_of(g, which, i);
        if (find(g, which, name) >= 0) return error_set(err, E_INVALID, "%s %.*s is there twice", which ? "tensor" : "key", NAME_ARG(name));
        size_t at = (size_t)span_hash(name) & g->masks[which];
        while (g->slots[which][at]) at = (at + 1) & g->masks[which];
        g->slots[which][at] = (uint32_t)(i + 1);
    }
    return 0;
}

static int compare_places(const void *a, const void *b) {
    const struct gguf_tensor *x = *(const struct gguf_tensor *const *)a, *y = *(const struct gguf_tensor *const *)b;
    return (x->data > y->data) - (x->data < y->data);
}

static int check_overlap(const struct gguf *g, struct error *err) {
    const struct gguf_tensor **sorted = mem_calloc(g->n_tensors ? g->n_tensors : 1, sizeof *sorted);
    int r = sorted ? 0 : error_set(err, E_NOMEM, "no memory for its index");
    for (size_t i = 0; r == 0 && i < g->n_tensors; i++) sorted[i] = &g->tensors[i];
    if (r == 0) qsort(sorted, g->n_tensors, sizeof *sorted, compare_places);
    for (size_t i = 1; r == 0 && i < g->n_tensors; i++)
        if ((const char *)sorted[i - 1]->data + sorted[i - 1]->size > (const char *)sorted[i]->data)
            r = error_set(err, E_INVALID, "tensor %.*s: its data overlap those of %.*s", NAME_ARG(sorted[i]->name), NAME_ARG(sorted[i - 1]->name));
    mem_free(sorted);
    return r;
}

/* ---- a file ---- */

static int parse(struct gguf *g, struct span bytes, struct error *err) {
    struct span in = bytes;
    uint32_t magic, version;
    uint64_t tensors, keys;
    int r = 0;
    if (!take_u32(&in, &magic) || magic != 0x46554747u) return error_set(err, E_INVALID, "is no GGUF file: it does not begin with \"GGUF\"");
    if (!take_u32(&in, &version) || !take_u64(&in, &tensors) || !take_u64(&in, &keys)) return error_set(err, E_INVALID, "ends in its head");
    if (version != 2 && version != 3)
        return error_set(err, E_UNSUPPORTED, version >= 1u << 24 ? "is a big-endian GGUF file, which is not read" : "is of version %u of GGUF; 2 and 3 are read", version);
    if (tensors > GGUF_TENSORS_MAX || keys > GGUF_KEYS_MAX) return error_set(err, E_TOO_LARGE, "says it has %llu tensors and %llu keys; the most is %d and %d", (unsigned long long)tensors, (unsigned long long)keys, GGUF_TENSORS_MAX, GGUF_KEYS_MAX);
    if (keys > in.len / 12 || tensors > in.len / 24) return error_set(err, E_INVALID, "says it has more keys and tensors than it has bytes for"); /* the least that each takes */
    g->values = mem_calloc(keys ? (size_t)keys : 1, sizeof *g->values);
    g->tensors = mem_calloc(tensors ? (size_t)tensors : 1, sizeof *g->tensors);
    if (!g->values || !g->tensors) return error_set(err, E_NOMEM, "no memory for its index");
    for (; r == 0 && g->n_values < keys; g->n_values++) r = read_value(&in, &g->values[g->n_values], err);
    if (r < 0) g->n_values--; /* the one that failed */
    if (r == 0) r = index_names(g, 0, g->n_values, err);
    if (r < 0) return r;
    const struct gguf_value *a = gguf_find(g, "general.alignment");
    uint64_t alignment = 32;
    if (a && (a->type == GGUF_ARRAY || a->type == GGUF_STRING || a->integer < 1 || a->integer > GGUF_ALIGNMENT_MAX || (a->integer & (a->integer - 1))))
        return error_set(err, E_INVALID, "key general.alignment: it must be a power of two up to %d", GGUF_ALIGNMENT_MAX);
    if (a) alignment = (uint64_t)a->integer;
    uint64_t *offsets = mem_calloc(tensors ? (size_t)tensors : 1, sizeof *offsets);
    if (!offsets) return error_set(err, E_NOMEM, "no memory for its index");
    for (; r == 0 && g->n_tensors < tensors; g->n_tensors++) r = read_tensor(&in, &g->tensors[g->n_tensors], &offsets[g->n_tensors], err);
    size_t head = bytes.len - in.len, begin = (head + (size_t)alignment - 1) & ~((size_t)alignment - 1);
    struct span data = begin <= bytes.len ? span_skip(bytes, begin) : SPAN("");
    for (size_t i = 0; r == 0 && i < g->n_tensors; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        if (offsets[i] % alignment) r = error_set(err, E_INVALID, "tensor %.*s: its data do not begin at a multiple of %llu", NAME_ARG(t->name), (unsigned long long)alignment);
        else if (offsets[i] > data.len || t->size > data.len - offsets[i])
            r = error_set(err, E_INVALID, "tensor %.*s: its data of %zu bytes are not inside the file", NAME_ARG(t->name), t->size);
        else t->data = data.data + offsets[i];
    }
    mem_free(offsets);
    if (r == 0) r = index_names(g, 1, g->n_tensors, err);
    return r == 0 ? check_overlap(g, err) : r;
}

int gguf_open_bytes(struct gguf **file, struct span bytes, const char *name, struct error *err) {
    struct gguf *g = mem_zalloc(sizeof *g);
    if (!g) return error_set(err, E_NOMEM, "%s: no memory", name);
    int r = parse(g, bytes, err);
    if (r < 0) {
        gguf_close(g);
        return error_prefix(err, "%s", name);
    }
    *file = g;
    return 0;
}

int gguf_open(struct gguf **file, const char *path, struct error *err) {
    struct file_map map;
    int r = file_map_open(&map, path, err);
    if (r < 0) return r;
    r = gguf_open_bytes(file, span_of(map.data, map.len), path, err);
    if (r < 0) file_map_close(&map);
    else (*file)->map = map;
    return r;
}

void gguf_close(struct gguf *g) {
    if (!g) return;
    mem_free(g->values);
    mem_free(g->tensors);
    mem_free(g->slots[0]);
    mem_free(g->slots[1]);
    file_map_close(&g->map);
    mem_free(g);
}

void gguf_forget_pages(const struct gguf *g) {
    if (g->map.len) (void)madvise((void *)(uintptr_t)g->map.data, g->map.len, MADV_DONTNEED);
}

size_t gguf_value_count(const struct gguf *g) { return g->n_values; }
const struct gguf_value *gguf_value_at(const struct gguf *g, size_t i) { return i < g->n_values ? &g->values[i] : NULL; }
size_t gguf_tensor_count(const struct gguf *g) { return g->n_tensors; }
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i) { return i < g->n_tensors ? &g->tensors[i] : NULL; }

const struct gguf_value *gguf_find(const struct gguf *g, const char *key) {
    ptrdiff_t i = find(g, 0, span_str(key));
    return i < 0 ? NULL : &g->values[i];
}
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, struct span name) {
    ptrdiff_t i = find(g, 1, name);
    return i < 0 ? NULL : &g->tensors[i];
}

static bool is_whole(const struct gguf_value *v) { return v && v->type != GGUF_ARRAY && v->type != GGUF_STRING && v->type != GGUF_F32 && v->type != GGUF_F64; }

int64_t gguf_integer(const struct gguf *g, const char *key, int64_t otherwise) {
    const struct gguf_value *v = gguf_find(g, key);
    return is_whole(v) ? v->integer : otherwise;
}
double gguf_real(const struct gguf *g, const char *key, double otherwise) {
    const struct gguf_value *v = gguf_find(g, key);
    return v && v->type != GGUF_ARRAY && v->type != GGUF_STRING ? v->real : otherwise;
}
bool gguf_bool(const struct gguf *g, const char *key, bool otherwise) {
    const struct gguf_value *v = gguf_find(g, key);
    return v && v->type == GGUF_BOOL ? v->integer != 0 : otherwise;
}
struct span gguf_string(const struct gguf *g, const char *key) {
    const struct gguf_value *v = gguf_find(g, key);
    return v && v->type == GGUF_STRING ? v->string : (struct span){0};
}

struct span gguf_next_string(struct span *rest) {
    struct span s = {0};
    (void)take_span(rest, &s);
    return s;
}
double gguf_number(const struct gguf_value *array, uint64_t i) {
    int64_t integer;
    double real = 0;
    ASSERT(array->type == GGUF_ARRAY && array->of != GGUF_STRING && i < array->count);
    (void)read_number(array->of, array->elements.data + i * WIDTHS[array->of], &integer, &real);
    return real;
}
