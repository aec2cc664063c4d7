#include "base/buf.h"

#include <stdio.h>

#include "base/alloc.h"
#include "base/error.h"

void buf_init(struct buf *b, size_t cap) { *b = (struct buf){.cap = cap < SIZE_MAX ? cap : SIZE_MAX - 1}; }

void buf_fini(struct buf *b) {
    mem_free(b->data);
    *b = (struct buf){.cap = b->cap};
}

void buf_clear(struct buf *b) {
    b->start = b->len = 0;
    b->failed = 0;
}

static int fail(struct buf *b, int r) {
    if (!b->failed) b->failed = r;
    return r;
}

/* Room for len more bytes and a terminator behind them. */
static int grow(struct buf *b, size_t len) {
    if (len > b->cap - b->len) return fail(b, E_FULL);
    size_t need = b->len + len + 1; /* cap < SIZE_MAX */
    if (b->capacity - b->start >= need) return 0;
    /* Moving to the front is paid for by what was consumed; when that is little, it is only done where growing is not allowed. */
    size_t limit = b->cap + 1;
    if (b->capacity >= need && (b->start >= b->len || b->capacity >= limit)) {
        memmove(b->data, b->data + b->start, b->len);
        b->start = 0;
        return 0;
    }
    size_t capacity = b->capacity > limit / 2 ? limit : b->capacity * 2;
    if (capacity < 64) capacity = 64 < limit ? 64 : limit;
    if (capacity < need) capacity = need;
    char *data;
    if (b->start == 0) {
        data = mem_realloc(b->data, capacity);
        if (!data) return fail(b, E_NOMEM);
    } else {
        data = mem_alloc(capacity);
        if (!data) return fail(b, E_NOMEM);
        memcpy(data, b->data + b->start, b->len);
        mem_free(b->data);
        b->start = 0;
    }
    b->data = data;
    b->capacity = capacity;
    return 0;
}

int buf_append(struct buf *b, const void *data, size_t len) {
    if (!len) return 0;
    int r = grow(b, len);
    if (r) return r;
    memcpy(b->data + b->start + b->len, data, len);
    b->len += len;
    return 0;
}

int buf_append_span(struct buf *b, struct span s) { return buf_append(b, s.data, s.len); }
int buf_append_str(struct buf *b, const char *s) { return buf_append(b, s, strlen(s)); }

int buf_append_char(struct buf *b, char c) {
    int r = grow(b, 1);
    if (r) return r;
    b->data[b->start + b->len++] = c;
    return 0;
}

int buf_vprintf(struct buf *b, const char *format, va_list args) {
    va_list again;
    va_copy(again, args);
    size_t room = b->data ? b->capacity - b->start - b->len : 0;
    int n = vsnprintf(b->data ? b->data + b->start + b->len : NULL, room, format, args);
    int r = n < 0 ? fail(b, E_INVALID) : 0;
    if (!r && (size_t)n > buf_room(b)) r = fail(b, E_FULL);
    if (!r && (size_t)n >= room) {
        r = grow(b, (size_t)n);
        if (!r) vsnprintf(b->data + b->start + b->len, (size_t)n + 1, format, again);
    }
    va_end(again);
    if (!r) b->len += (size_t)n;
    return r;
}

int buf_printf(struct buf *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int r = buf_vprintf(b, format, args);
    va_end(args);
    return r;
}

char *buf_reserve(struct buf *b, size_t len) { return grow(b, len) ? NULL : b->data + b->start + b->len; }

void buf_commit(struct buf *b, size_t len) {
    ASSERT(len == 0 || (len <= b->cap - b->len && b->start + b->len + len < b->capacity));
    b->len += len;
}

void buf_consume(struct buf *b, size_t len) {
    if (len >= b->len) {
        b->start = b->len = 0;
        return;
    }
    b->start += len;
    b->len -= len;
}

const char *buf_cstr(struct buf *b) {
    if (grow(b, 0)) return NULL;
    b->data[b->start + b->len] = 0;
    return b->data + b->start;
}

char *buf_detach(struct buf *b, size_t *len) {
    if (!buf_cstr(b)) return NULL;
    if (b->start) memmove(b->data, b->data + b->start, b->len + 1);
    char *data = b->data;
    if (len) *len = b->len;
    *b = (struct buf){.cap = b->cap, .failed = b->failed};
    return data;
}
