/* Reading and writing of safetensors files. The rules are those of the reference implementation's `validate`, and are checked before a view exists. */
#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[DTYPES] = {
    [DTYPE_BOOL] = {"BOOL", 1}, [DTYPE_U8] = {"U8", 1},     [DTYPE_I8] = {"I8", 1},   [DTYPE_F8_E4M3] = {"F8_E4M3", 1}, [DTYPE_F8_E5M2] = {"F8_E5M2", 1},
    [DTYPE_I16] = {"I16", 2},   [DTYPE_U16] = {"U16", 2},   [DTYPE_F16] = {"F16", 2}, [DTYPE_BF16] = {"BF16", 2},       [DTYPE_I32] = {"I32", 4},
    [DTYPE_U32] = {"U32", 4},   [DTYPE_F32] = {"F32", 4},   [DTYPE_F64] = {"F64", 8}, [DTYPE_I64] = {"I64", 8},         [DTYPE_U64] = {"U64", 8},
};
size_t dtype_size(enum safetensors_dtype d) { return dtypes[d].size; }
const char *dtype_name(enum safetensors_dtype d) { return dtypes[d].name; }

struct safetensors {
    struct file_map map; /* empty for bytes of the caller's */
    struct json *header; /* names and metadata borrow from it */
    struct safetensors_view *views;
    size_t count;
    uint32_t *slots; /* by name: index + 1 */
    size_t mask;
};

static int parse_dtype(struct span name, enum safetensors_dtype *d) {
    for (int i = 0; i < DTYPES; i++)
        if (span_eq_str(name, dtypes[i].name)) {
            *d = (enum safetensors_dtype)i;
            return 0;
        }
    return E_UNSUPPORTED;
}

/* Only a JSON integer >= 0 counts. */
static bool read_u64(const struct json *v, uint64_t *n) {
    if (json_type(v) != JSON_TYPE_INT) return false;
    int64_t i = json_int(v, -1);
    if (i < 0) return false;
    *n = (uint64_t)i;
    return true;
}

/* What messages call a tensor: names are the file's, and may be long. */
#define NAME_ARG(name) SPAN_ARG(span_sub(name, 0, 120))

static int parse_view(const struct json *v, struct span name, struct span data, struct safetensors_view *out, struct error *err) {
    struct safetensors_view view = {.name = name, .count = 1};
    if (!name.len || name.len > SAFETENSORS_NAME_MAX) return error_set(err, E_INVALID, "tensor %.*s: its name is empty or longer than %d bytes", NAME_ARG(name), SAFETENSORS_NAME_MAX);
    if (json_type(v) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "tensor %.*s is %s, not an object", NAME_ARG(name), json_type_name(v));
    struct span dtype = json_string(json_get(v, "dtype"));
    if (parse_dtype(dtype, &view.dtype))
        return error_set(err, E_UNSUPPORTED, "tensor %.*s: unknown dtype \"%.*s\"", NAME_ARG(name), SPAN_ARG(span_sub(dtype, 0, 20)));
    const struct json *shape = json_get(v, "shape"), *offsets = json_get(v, "data_offsets");
    if (json_type(shape) != JSON_TYPE_ARRAY || json_size(shape) > SAFETENSORS_DIMS_MAX)
        return error_set(err, E_INVALID, "tensor %.*s: shape is no list of at most %d numbers", NAME_ARG(name), SAFETENSORS_DIMS_MAX);
    view.dims = (uint32_t)json_size(shape);
    for (uint32_t i = 0; i < view.dims; i++) {
        if (!read_u64(json_at(shape, i), &view.shape[i])) return error_set(err, E_INVALID, "tensor %.*s: a dimension is no number from 0 on", NAME_ARG(name));
        if (__builtin_mul_overflow(view.count, view.shape[i], &view.count)) return error_set(err, E_INVALID, "tensor %.*s: its shape overflows", NAME_ARG(name));
    }
    uint64_t size, begin, end;
    if (__builtin_mul_overflow(view.count, (uint64_t)dtype_size(view.dtype), &size)) return error_set(err, E_INVALID, "tensor %.*s: its size overflows", NAME_ARG(name));
    if (json_type(offsets) != JSON_TYPE_ARRAY || json_size(offsets) != 2 || !read_u64(json_at(offsets, 0), &begin) || !read_u64(json_at(offsets, 1), &end))
        return error_set(err, E_INVALID, "tensor %.*s: data_offsets is no pair of numbers", NAME_ARG(name));
    if (begin > end || end > data.len)
        return error_set(err, E_INVALID, "tensor %.*s: its data [%llu, %llu) is not inside the file's %zu bytes", NAME_ARG(name), (unsigned long long)begin,
                         (unsigned long long)end, data.len);
    if (end - begin != size)
        return error_set(err, E_INVALID, "tensor %.*s: its shape needs %llu bytes and it has %llu", NAME_ARG(name), (unsigned long long)size, (unsigned long long)(end - begin));
    view.data = data.data + begin;
    view.size = (size_t)size;
    *out = view;
    return 0;
}

static int compare_views(const void *a, const void *b) {
    const struct safetensors_view *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->size != y->size) return x->size < y->size ? -1 : 1; /* empty ones first */
    return span_compare(x->name, y->name);
}

static int check_layout(const struct safetensors *f, struct span data, struct error *err) {
    const char *at = data.data;
    for (size_t i = 0; i < f->count; i++) {
        const struct safetensors_view *v = &f->views[i];
        if ((const char *)v->data != at)
            return error_set(err, E_INVALID, "tensor %.*s: its data %s", NAME_ARG(v->name),
                             (const char *)v->data < at ? "overlaps another tensor's" : "begins behind a hole that belongs to no tensor");
        at += v->size;
    }
    if (at != data.data + data.len) return error_set(err, E_INVALID, "%zu bytes at the end belong to no tensor", (size_t)(data.data + data.len - at));
    return 0;
}

static int parse(struct safetensors *f, struct span bytes, struct error *err) {
    if (bytes.len < 8) return error_set(err, E_INVALID, "has no header: it is %zu bytes long", bytes.len);
    uint64_t header_len = 0;
    for (int i = 7; i >= 0; i--) header_len = header_len << 8 | (uint8_t)bytes.data[i];
    if (header_len > SAFETENSORS_HEADER_MAX) return error_set(err, E_TOO_LARGE, "says its header has %llu bytes; the most is %d", (unsigned long long)header_len, SAFETENSORS_HEADER_MAX);
    if (header_len > bytes.len - 8) return error_set(err, E_INVALID, "says its header has %llu bytes, which is more than the file", (unsigned long long)header_len);
    struct span header = span_sub(bytes, 8, (size_t)header_len), data = span_skip(bytes, 8 + (size_t)header_len);
    if (!header.len || header.data[0] != '{') return error_set(err, E_INVALID, "its header does not begin with {");
    int r = json_parse(header, &f->header, err);
    if (r) return error_prefix(err, "header");
    size_t n = json_size(f->header);
    if (n > SAFETENSORS_TENSORS_MAX) return error_set(err, E_TOO_LARGE, "has %zu tensors; the most is %d", n, SAFETENSORS_TENSORS_MAX);
    size_t slots = 16;
    while (slots < n * 2) slots *= 2;
    f->mask = slots - 1;
    f->views = mem_calloc(n ? n : 1, sizeof f->views[0]);
    f->slots = mem_calloc(slots, sizeof f->slots[0]);
    if (!f->views || !f->slots) return error_set(err, E_NOMEM, "no memory for its index");
    void *it = NULL;
    struct span name;
    const struct json *v;
    while (json_next(f->header, &it, &name, &v)) {
        if (span_eq_str(name, "__metadata__")) {
            void *m = NULL;
            struct span key;
            const struct json *value;
            if (json_type(v) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "__metadata__ is %s, not an object", json_type_name(v));
            while (json_next(v, &m, &key, &value))
                if (json_type(value) != JSON_TYPE_STRING) return error_set(err, E_INVALID, "__metadata__ has a value that is no string");
            continue;
        }
        r = parse_view(v, name, data, &f->views[f->count], err);
        if (r) return r;
        f->count++;
    }
    if (f->count) qsort(f->views, f->count, sizeof f->views[0], compare_views);
    r = check_layout(f, data, err);
    if (r) return r;
    for (size_t i = 0; i < f->count; i++) {
        size_t s = span_hash(f->views[i].name) & f->mask;
        while (f->slots[s]) s = (s + 1) & f->mask;
        f->slots[s] = (uint32_t)i + 1;
    }
    return 0;
}

static int open_span(struct safetensors **out, struct safetensors *f, struct span bytes, const char *name, struct error *err) {
    struct error local = {0};
    int r = parse(f, bytes, &local);
    if (r) {
        safetensors_close(f);
        return error_set(err, r, "%s: %s", name, local.message);
    }
    *out = f;
    return 0;
}

int safetensors_open_bytes(struct safetensors **out, struct span bytes, const char *name, struct error *err) {
    struct safetensors *f = mem_zalloc(sizeof *f);
    if (!f) return error_set(err, E_NOMEM, "%s: no memory", name);
    return open_span(out, f, bytes, name, err);
}

int safetensors_open(struct safetensors **out, const char *path, struct error *err) {
    struct safetensors *f = mem_zalloc(sizeof *f);
    if (!f) return error_set(err, E_NOMEM, "%s: no memory", path);
    int r = file_map_open(&f->map, path, err);
    if (r) {
        mem_free(f);
        return r;
    }
    return open_span(out, f, span_of(f->map.data, f->map.len), path, err);
}

void safetensors_close(struct safetensors *f) {
    if (!f) return;
    json_free(f->header);
    mem_free(f->views);
    mem_free(f->slots);
    if (f->map.data) file_map_close(&f->map);
    mem_free(f);
}

size_t safetensors_count(const struct safetensors *f) { return f->count; }
const struct safetensors_view *safetensors_at(const struct safetensors *f, size_t index) { return index < f->count ? &f->views[index] : NULL; }
const struct safetensors_view *safetensors_find(const struct safetensors *f, struct span name) {
    for (size_t s = span_hash(name) & f->mask; f->slots[s]; s = (s + 1) & f->mask)
        if (span_eq(f->views[f->slots[s] - 1].name, name)) return &f->views[f->slots[s] - 1];
    return NULL;
}
bool safetensors_metadata(const struct safetensors *f, const char *key, struct span *value) {
    const struct json *v = json_get(json_get(f->header, "__metadata__"), key);
    if (json_type(v) != JSON_TYPE_STRING) return false;
    *value = json_string(v);
    return true;
}

/* ---- numbers ---- */

static float bits_to_f32(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static uint32_t f32_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
    if (exponent == 31) return bits_to_f32(sign | 0x7F800000u | fraction << 13);
    if (exponent) return bits_to_f32(sign | (exponent + 112) << 23 | fraction << 13);
    float f = (float)fraction * 0x1p-24f; /* exact: zero and subnormals */
    return sign ? -f : f;
}

uint16_t f32_to_f16(float f) {
    uint32_t u = f32_bits(f), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | ((magnitude >> 13) & 0x1FFu)); /* a quiet NaN */
    if (magnitude >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);                                /* 65520 and above round to infinity */
    if (magnitude < 0x38800000u) { /* below 2^-14: units of 2^-24, rounded by the addition's own rounding to even */
        float shifted = bits_to_f32(magnitude) + 0.5f; /* the ulp of [0.5, 1) is 2^-24 */
        return (uint16_t)(sign | (f32_bits(shifted) - f32_bits(0.5f)));
    }
    uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - (112u << 23);
    return (uint16_t)(sign | rounded >> 13);
}

uint16_t f32_to_bf16(float f) {
    uint32_t u = f32_bits(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40u); /* a quiet NaN */
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

/* OCP 8-bit floating point, 2023: E4M3 has no infinities and one NaN per sign; E5M2 is f16's upper half. */
static float f8_e4m3_to_f32(uint8_t v) {
    uint32_t exponent = (v >> 3) & 15u, fraction = v & 7u;
    float f = exponent == 15 && fraction == 7 ? NAN : exponent ? bits_to_f32((exponent + 120) << 23 | fraction << 20) : (float)fraction * 0x1p-9f;
    return v & 0x80u ? -f : f;
}

int safetensors_to_f32(const struct safetensors_view *v, uint64_t from, uint64_t count, float *out, struct error *err) {
    if (from > v->count || count > v->count - from) return error_set(err, E_RANGE, "tensor %.*s has %llu elements", NAME_ARG(v->name), (unsigned long long)v->count);
    const uint8_t *s = (const uint8_t *)v->data + from * dtype_size(v->dtype);
    switch (v->dtype) { /* memcpy: the file's alignment is anyone's; it compiles to a load */
    case DTYPE_F32:
        if (count) memcpy(out, s, count * 4);
        return 0;
    case DTYPE_BF16:
        for (uint64_t i = 0; i < count; i++) {
            uint16_t h;
            memcpy(&h, s + 2 * i, 2);
            out[i] = bf16_to_f32(h);
        }
        return 0;
    case DTYPE_F16:
        for (uint64_t i = 0; i < count; i++) {
            uint16_t h;
            memcpy(&h, s + 2 * i, 2);
            out[i] = f16_to_f32(h);
        }
        return 0;
    case DTYPE_F64:
        for (uint64_t i = 0; i < count; i++) {
            double d;
            memcpy(&d, s + 8 * i, 8);
            out[i] = (float)d;
        }
        return 0;
    case DTYPE_F8_E4M3:
        for (uint64_t i = 0; i < count; i++) out[i] = f8_e4m3_to_f32(s[i]);
        return 0;
    case DTYPE_F8_E5M2:
        for (uint64_t i = 0; i < count; i++) out[i] = f16_to_f32((uint16_t)(s[i] << 8));
        return 0;
    case DTYPE_I8:
        for (uint64_t i = 0; i < count; i++) out[i] = (float)(int8_t)s[i];
        return 0;
    case DTYPE_U8:
        for (uint64_t i = 0; i < count; i++) out[i] = (float)s[i];
        return 0;
    default:
        return error_set(err, E_UNSUPPORTED, "tensor %.*s: dtype %s holds no real numbers", NAME_ARG(v->name), dtype_name(v->dtype));
    }
}

/* ---- writing ---- */

struct declared {
    char *name; /* in the arena */
    enum safetensors_dtype dtype;
    uint32_t dims;
    uint64_t shape[SAFETENSORS_DIMS_MAX], begin, end;
};
struct safetensors_writer {
    struct arena arena;
    char *path, *temporary, *folder;
    int fd; /* -1 until the first byte */
    struct declared *tensors;
    size_t count, capacity;
    char **metadata; /* key, value, key, value */
    size_t metadata_len, metadata_capacity;
    uint64_t size, written;
    bool begun, failed;
};
enum { WRITER_NAMES_MAX = 1 << 28 }; /* bytes of names: SAFETENSORS_TENSORS_MAX of ordinary length; the header's own limit is stricter */

int safetensors_writer_new(struct safetensors_writer **out, const char *path, struct error *err) {
    struct safetensors_writer *w = mem_zalloc(sizeof *w);
    if (!w) return error_set(err, E_NOMEM, "%s: no memory", path);
    char id[ID_TEXT_MAX];
    arena_init(&w->arena, WRITER_NAMES_MAX);
    w->fd = -1;
    w->path = arena_strdup(&w->arena, path);
    w->temporary = arena_printf(&w->arena, "%s.%s.tmp", path, id_make(id));
    const char *slash = strrchr(path, '/');
    w->folder = slash ? arena_printf(&w->arena, "%.*s", slash == path ? 1 : (int)(slash - path), path) : arena_strdup(&w->arena, ".");
    if (!w->path || !w->temporary || !w->folder) {
        safetensors_writer_free(w);
        return error_set(err, E_NOMEM, "%s: no memory", path);
    }
    *out = w;
    return 0;
}

int safetensors_writer_metadata(struct safetensors_writer *w, const char *key, const char *value, struct error *err) {
    if (w->begun) return error_set(err, E_STATE, "%s: metadata after the first byte", w->path);
    char *k = arena_strdup(&w->arena, key), *v = arena_strdup(&w->arena, value);
    if (!k || !v || array_reserve(&w->metadata, &w->metadata_capacity, w->metadata_len + 2, sizeof w->metadata[0]))
        return error_set(err, E_NOMEM, "%s: no memory", w->path);
    w->metadata[w->metadata_len++] = k;
    w->metadata[w->metadata_len++] = v;
    return 0;
}

int safetensors_writer_add(struct safetensors_writer *w, struct span name, enum safetensors_dtype dtype, const uint64_t *shape, uint32_t dims,
                           struct error *err) {
    if (w->begun) return error_set(err, E_STATE, "%s: tensor %.*s is declared after the first byte", w->path, NAME_ARG(name));
    if (dims > SAFETENSORS_DIMS_MAX || !name.len || name.len > SAFETENSORS_NAME_MAX || dtype >= DTYPES || w->count >= SAFETENSORS_TENSORS_MAX)
        return error_set(err, E_INVALID, "%s: tensor %.*s has more than %d dimensions or no proper name", w->path, NAME_ARG(name), SAFETENSORS_DIMS_MAX);
    struct declared d = {.dtype = dtype, .dims = dims, .begin = w->size};
    uint64_t size = dtype_size(dtype);
    bool fits = true;
    for (uint32_t i = 0; i < dims; i++) {
        d.shape[i] = shape[i];
        fits = fits && !__builtin_mul_overflow(size, shape[i], &size);
    }
    if (!fits || __builtin_add_overflow(d.begin, size, &d.end) || d.end > INT64_MAX)
        return error_set(err, E_TOO_LARGE, "%s: tensor %.*s: its size overflows", w->path, NAME_ARG(name));
    struct span copy = arena_span(&w->arena, name);
    d.name = (char *)copy.data;
    if (!copy.data || array_reserve(&w->tensors, &w->capacity, w->count + 1, sizeof w->tensors[0])) return error_set(err, E_NOMEM, "%s: no memory", w->path);
    w->tensors[w->count++] = d;
    w->size = d.end;
    return 0;
}

static int write_all(struct safetensors_writer *w, const void *data, size_t size, struct error *err) {
    int r = file_write_all(w->fd, w->temporary, span_of(data, size), err);
    w->failed |= r != 0;
    return r;
}

static int begin(struct safetensors_writer *w, struct error *err) {
    if (w->begun) return 0;
    struct buf text;
    buf_init(&text, SAFETENSORS_HEADER_MAX + 8);
    char zeros[8] = {0};
    buf_append(&text, zeros, 8);
    struct json_out j;
    json_begin(&j, &text);
    json_object(&j);
    if (w->metadata_len) {
        json_key(&j, "__metadata__");
        json_object(&j);
        for (size_t i = 0; i < w->metadata_len; i += 2) json_str(&j, w->metadata[i], w->metadata[i + 1]);
        json_object_end(&j);
    }
    for (size_t i = 0; i < w->count; i++) {
        const struct declared *d = &w->tensors[i];
        json_key(&j, d->name);
        json_object(&j);
        json_str(&j, "dtype", dtype_name(d->dtype));
        json_key(&j, "shape");
        json_array(&j);
        for (uint32_t k = 0; k < d->dims; k++) json_put_uint(&j, d->shape[k]);
        json_array_end(&j);
        json_key(&j, "data_offsets");
        json_array(&j);
        json_put_uint(&j, d->begin);
        json_put_uint(&j, d->end);
        json_array_end(&j);
        json_object_end(&j);
    }
    json_object_end(&j);
    while (text.len % SAFETENSORS_ALIGNMENT && !buf_append_char(&text, ' ')) continue;
    int r = text.failed;
    if (r) {
        error_set(err, r, "%s: the header is too long", w->path);
        goto out;
    }
    uint64_t len = text.len - 8;
    for (unsigned i = 0; i < 8; i++) text.data[text.start + i] = (char)(len >> (8 * i));
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (w->fd < 0) {
        r = error_errno(err, errno, "%s", w->temporary);
        goto out;
    }
    w->begun = true;
    r = write_all(w, buf_span(&text).data, text.len, err);
out:
    buf_fini(&text);
    return r;
}

int safetensors_writer_write(struct safetensors_writer *w, const void *data, size_t size, struct error *err) {
    int r = begin(w, err);
    if (r) return r;
    if (size > w->size - w->written) return error_set(err, E_STATE, "%s: more bytes than the declared tensors have", w->path);
    r = write_all(w, data, size, err);
    if (!r) w->written += size;
    return r;
}

int safetensors_writer_commit(struct safetensors_writer *w, struct error *err) {
    int r = begin(w, err);
    if (r) return r;
    if (w->failed || w->written != w->size)
        return error_set(err, E_STATE, "%s: %llu of %llu bytes are written", w->path, (unsigned long long)w->written, (unsigned long long)w->size);
    /* The kernel may have dropped what a failed fsync was about: nothing later could make it true. */
    do r = fsync(w->fd);
    while (r != 0 && errno == EINTR);
    ASSERT(r == 0 || errno == EINVAL || errno == EROFS); /* these: a file system without fsync */
    if (close(w->fd) != 0) {
        w->fd = -1;
        unlink(w->temporary);
        return error_errno(err, errno, "%s", w->temporary);
    }
    w->fd = -1;
    if (rename(w->temporary, w->path) != 0) {
        r = error_errno(err, errno, "%s", w->path);
        unlink(w->temporary);
        return r;
    }
    return dir_sync(w->folder, err);
}

void safetensors_writer_free(struct safetensors_writer *w) {
    if (!w) return;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->temporary);
    }
    mem_free(w->tensors);
    mem_free(w->metadata);
    arena_fini(&w->arena);
    mem_free(w);
}
