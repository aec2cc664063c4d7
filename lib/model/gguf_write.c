#include "model/gguf_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/random.h"

enum { PATH_SIZE = 4096 };

/* ggml's numbers of the types. */
static const uint32_t NUMBERS[TENSOR_TYPES] = {[TENSOR_F32] = 0,  [TENSOR_F16] = 1,  [TENSOR_BF16] = 30, [TENSOR_Q8_0] = 8,  [TENSOR_Q4_0] = 2, [TENSOR_Q4_1] = 3,
                                               [TENSOR_Q5_0] = 6, [TENSOR_Q5_1] = 7, [TENSOR_Q4_K] = 12, [TENSOR_Q5_K] = 13, [TENSOR_Q6_K] = 14};
static const size_t WIDTHS[GGUF_TYPES] = {[GGUF_U8] = 1, [GGUF_I8] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

struct gguf_writer {
    char path[PATH_SIZE], temporary[PATH_SIZE + ID_TEXT_MAX + 8], folder[PATH_SIZE];
    int fd; /* -1 until the first byte */
    struct buf metadata, tensors;
    uint64_t n_values;
    uint64_t *sizes; /* of the tensors */
    size_t count, capacity, at; /* at: the tensor that is being written */
    uint64_t offset;  /* of the next tensor that is declared */
    uint64_t written; /* of tensor `at` */
    bool begun, failed;
};

int gguf_writer_new(struct gguf_writer **out, const char *path, struct error *err) {
    char id[ID_TEXT_MAX];
    struct gguf_writer *w = mem_zalloc(sizeof *w);
    if (!w) return error_set(err, E_NOMEM, "%.200s: no memory", path);
    w->fd = -1;
    buf_init(&w->metadata, GGUF_HEAD_MAX);
    buf_init(&w->tensors, GGUF_HEAD_MAX);
    const char *slash = strrchr(path, '/');
    if (snprintf(w->path, sizeof w->path, "%s", path) >= (int)sizeof w->path) {
        gguf_writer_free(w);
        return error_set(err, E_INVALID, "%.200s: the path is too long", path);
    }
    (void)snprintf(w->temporary, sizeof w->temporary, "%s.%s.tmp", w->path, id_make(id));
    span_copy(w->folder, sizeof w->folder, slash ? span_of(path, slash == path ? 1 : (size_t)(slash - path)) : SPAN("."));
    *out = w;
    return 0;
}

/* ---- the head ---- */

static void put_span(struct buf *b, struct span s) {
    uint64_t len = s.len;
    (void)buf_append(b, &len, sizeof len);
    (void)buf_append_span(b, s);
}
static void put_u32(struct buf *b, uint32_t v) { (void)buf_append(b, &v, sizeof v); }
static void put_key(struct gguf_writer *w, const char *key, enum gguf_type type) {
    ASSERT(!w->begun);
    put_span(&w->metadata, span_str(key));
    put_u32(&w->metadata, type);
    w->n_values++;
}
static void put_array(struct gguf_writer *w, const char *key, enum gguf_type of, size_t n) {
    uint64_t count = n;
    put_key(w, key, GGUF_ARRAY);
    put_u32(&w->metadata, of);
    (void)buf_append(&w->metadata, &count, sizeof count);
}

void gguf_put_string(struct gguf_writer *w, const char *key, struct span value) {
    put_key(w, key, GGUF_STRING);
    put_span(&w->metadata, value);
}
void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value) {
    put_key(w, key, GGUF_U32);
    put_u32(&w->metadata, value);
}
void gguf_put_f32(struct gguf_writer *w, const char *key, float value) {
    put_key(w, key, GGUF_F32);
    (void)buf_append(&w->metadata, &value, sizeof value);
}
void gguf_put_bool(struct gguf_writer *w, const char *key, bool value) {
    put_key(w, key, GGUF_BOOL);
    (void)buf_append_char(&w->metadata, value ? 1 : 0);
}
void gguf_put_strings(struct gguf_writer *w, const char *key, const struct span *values, size_t n) {
    put_array(w, key, GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) put_span(&w->metadata, values[i]);
}
void gguf_put_numbers(struct gguf_writer *w, const char *key, enum gguf_type of, const void *values, size_t n) {
    ASSERT(WIDTHS[of] > 0 && n <= GGUF_ARRAY_MAX);
    put_array(w, key, of, n);
    (void)buf_append(&w->metadata, values, n * WIDTHS[of]);
}

static uint64_t padded(uint64_t n) { return (n + GGUF_ALIGNMENT - 1) / GGUF_ALIGNMENT * GGUF_ALIGNMENT; }

int gguf_writer_add(struct gguf_writer *w, struct span name, enum tensor_type type, const uint64_t *shape, uint32_t dims, struct error *err) {
    uint64_t rows = 1, end;
    size_t size = 0;
    if (w->begun) return error_set(err, E_STATE, "%s: tensor %.*s is declared after the first byte", w->path, SPAN_ARG(span_sub(name, 0, 120)));
    if (dims < 1 || dims > GGUF_DIMS_MAX || !name.len || name.len > GGUF_NAME_MAX)
        return error_set(err, E_INVALID, "%s: tensor %.*s has not 1 to %d dimensions, or no proper name", w->path, SPAN_ARG(span_sub(name, 0, 120)), GGUF_DIMS_MAX);
    for (uint32_t i = 0; i + 1 < dims; i++)
        if (__builtin_mul_overflow(rows, shape[i], &rows)) return error_set(err, E_TOO_LARGE, "%s: tensor %.*s: its size overflows", w->path, SPAN_ARG(span_sub(name, 0, 120)));
    int r = tensor_size(type, rows, shape[dims - 1], &size);
    if (r) return error_set(err, r == E_RANGE ? E_TOO_LARGE : r, "%s: tensor %.*s: rows of %llu are no whole blocks of %s, or too many", w->path, SPAN_ARG(span_sub(name, 0, 120)), (unsigned long long)shape[dims - 1], tensor_type_name(type));
    if (size > INT64_MAX - GGUF_ALIGNMENT || __builtin_add_overflow(w->offset, padded(size), &end) || end > INT64_MAX || w->count == GGUF_TENSORS_MAX)
        return error_set(err, E_TOO_LARGE, "%s: more than a file holds", w->path);
    if (array_reserve(&w->sizes, &w->capacity, w->count + 1, sizeof *w->sizes)) return error_set(err, E_NOMEM, "%s: no memory", w->path);
    w->sizes[w->count++] = size;
    put_span(&w->tensors, name);
    put_u32(&w->tensors, dims);
    for (uint32_t i = dims; i-- > 0;) (void)buf_append(&w->tensors, &shape[i], sizeof shape[i]); /* the file lists the fastest first */
    put_u32(&w->tensors, NUMBERS[type]);
    (void)buf_append(&w->tensors, &w->offset, sizeof w->offset);
    w->offset = end;
    return 0;
}

/* ---- the bytes ---- */

static int write_all(struct gguf_writer *w, const void *data, size_t size, struct error *err) {
    int r = file_write_all(w->fd, w->temporary, span_of(data, size), err);
    w->failed |= r != 0;
    return r;
}

static int pad(struct gguf_writer *w, uint64_t size, struct error *err) {
    static const char zeros[GGUF_ALIGNMENT];
    return write_all(w, zeros, (size_t)(padded(size) - size), err);
}

static int begin(struct gguf_writer *w, struct error *err) {
    if (w->begun) return w->failed ? error_set(err, E_STATE, "%s: an earlier write has failed", w->path) : 0;
    int code = w->metadata.failed ? w->metadata.failed : w->tensors.failed;
    if (code == E_FULL) return error_set(err, E_TOO_LARGE, "%s: its head has more than %d MiB", w->path, GGUF_HEAD_MAX >> 20);
    if (code) return error_set(err, code, "%s: no memory", w->path);
    struct {
        char magic[4];
        uint32_t version;
        uint64_t tensors, values;
    } head = {{'G', 'G', 'U', 'F'}, 3, w->count, w->n_values};
    _Static_assert(sizeof head == 24, "as the file has it");
    w->begun = true;
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (w->fd < 0) {
        w->failed = true;
        return error_errno(err, errno, "%s", w->temporary);
    }
    int r = write_all(w, &head, sizeof head, err);
    if (!r) r = write_all(w, buf_span(&w->metadata).data, w->metadata.len, err);
    if (!r) r = write_all(w, buf_span(&w->tensors).data, w->tensors.len, err);
    return r ? r : pad(w, sizeof head + w->metadata.len + w->tensors.len, err);
}

/* Past every tensor that is whole. */
static int close_tensors(struct gguf_writer *w, struct error *err) {
    int r = 0;
    while (!r && w->at < w->count && w->written == w->sizes[w->at]) {
        r = pad(w, w->written, err);
        w->at++;
        w->written = 0;
    }
    return r;
}

int gguf_writer_write(struct gguf_writer *w, const void *data, size_t size, struct error *err) {
    const char *s = data;
    int r = begin(w, err);
    if (!r) r = close_tensors(w, err);
    while (!r && size) {
        if (w->at == w->count) return error_set(err, E_STATE, "%s: more bytes than the declared tensors have", w->path);
        uint64_t left = w->sizes[w->at] - w->written;
        size_t n = size < left ? size : (size_t)left;
        r = write_all(w, s, n, err);
        w->written += n;
        s += n;
        size -= n;
        if (!r) r = close_tensors(w, err);
    }
    return r;
}

int gguf_writer_commit(struct gguf_writer *w, struct error *err) {
    int r = begin(w, err);
    if (!r) r = close_tensors(w, err);
    if (r) return r;
    if (w->at != w->count) return error_set(err, E_STATE, "%s: %zu of %zu tensors are written", w->path, w->at, w->count);
    /* The kernel may have dropped what a failed fsync was about: nothing later could make it true. */
    do r = fsync(w->fd);
    while (r != 0 && errno == EINTR);
    ASSERT(r == 0 || errno == EINVAL || errno == EROFS); /* these: a file system without fsync */
    r = close(w->fd) != 0 ? error_errno(err, errno, "%s", w->temporary) : 0;
    w->fd = -1;
    if (!r && rename(w->temporary, w->path) != 0) r = error_errno(err, errno, "%s", w->path);
    if (r) (void)unlink(w->temporary);
    return r ? r : dir_sync(w->folder, err);
}

void gguf_writer_free(struct gguf_writer *w) {
    if (!w) return;
    if (w->fd >= 0) {
        (void)close(w->fd);
        (void)unlink(w->temporary);
    }
    buf_fini(&w->metadata);
    buf_fini(&w->tensors);
    mem_free(w->sizes);
    mem_free(w);
}
