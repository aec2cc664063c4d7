/*
 * A growing byte buffer that cannot be made without its cap. Appending beyond the cap or without memory fails as a value
 * (E_FULL, E_NOMEM) and leaves the buffer as it was: that is the backpressure. An append that failed is remembered in `failed`
 * so that a writer may append many pieces and check once. Used as a queue too: buf_consume drops from the front.
 * One thread at a time.
 */
#ifndef GENLOOP_BASE_BUF_H
#define GENLOOP_BASE_BUF_H

#include <stdarg.h>
#include <stdint.h>

#include "base/span.h"

struct buf {
    char *data; /* owned; data + start is the first byte */
    size_t start, len, capacity, cap; /* len bytes from start; never more than cap */
    int failed; /* 0, or the first failure since buf_init or buf_clear */
};

void buf_init(struct buf *b, size_t cap);
void buf_fini(struct buf *b);  /* frees; safe on a zeroed struct and twice */
void buf_clear(struct buf *b); /* empties, keeps the memory, forgets `failed` */
int buf_append(struct buf *b, const void *data, size_t len);
int buf_append_span(struct buf *b, struct span s);
int buf_append_str(struct buf *b, const char *s);
int buf_append_char(struct buf *b, char c);
int buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
int buf_vprintf(struct buf *b, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
/* Room for `len` bytes at the end, to be filled by the caller and made part of it by buf_commit; NULL where it cannot be had. */
char *buf_reserve(struct buf *b, size_t len);
void buf_commit(struct buf *b, size_t len);
/* Drops len bytes from the front (all of them where there are fewer). */
void buf_consume(struct buf *b, size_t len);
static inline struct span buf_span(const struct buf *b) { return (struct span){b->data ? b->data + b->start : "", b->len}; }
static inline size_t buf_room(const struct buf *b) { return b->cap - b->len; }
/* The contents as a terminated string; the terminator is not counted. NULL without memory. Borrowed until the next change. */
const char *buf_cstr(struct buf *b);
/* Gives the memory away (terminated); the buffer is empty afterwards. Returns owned (mem_free), NULL without memory. */
char *buf_detach(struct buf *b, size_t *len);

#endif
