/*
 * A span is a borrowed piece of memory: pointer and length, never terminated, never owned. Strings inside genloop are spans of
 * UTF-8 unless a function says otherwise. Plain data; an empty span may have a NULL pointer.
 */
#ifndef GENLOOP_BASE_SPAN_H
#define GENLOOP_BASE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct span {
    const char *data;
    size_t len;
};

#define SPAN(literal) ((struct span){"" literal, sizeof(literal) - 1})
#define SPAN_ARG(s) (int)(s).len, (s).data /* for "%.*s" */

static inline struct span span_of(const void *data, size_t len) { return (struct span){(const char *)data, len}; }
static inline struct span span_str(const char *s) { return (struct span){s, s ? strlen(s) : 0}; }
static inline bool span_eq(struct span a, struct span b) { return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0); }
/* Less than, equal to or greater than 0 as memcmp's: by bytes, a prefix before what continues it. */
static inline int span_compare(struct span a, struct span b) {
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n ? memcmp(a.data, b.data, n) : 0; /* an empty span may have no data */
    return c ? c : (a.len > b.len) - (a.len < b.len);
}
static inline bool span_eq_str(struct span a, const char *s) { return span_eq(a, span_str(s)); }
static inline bool span_empty(struct span s) { return s.len == 0; }
/* [from, from+len), clamped to s. */
static inline struct span span_sub(struct span s, size_t from, size_t len) {
    if (from > s.len) from = s.len;
    if (len > s.len - from) len = s.len - from;
    return (struct span){s.data + from, len};
}
static inline struct span span_skip(struct span s, size_t n) { return span_sub(s, n, s.len); }

bool span_eq_nocase(struct span a, struct span b); /* ASCII letters only */
bool span_starts(struct span s, struct span prefix);
bool span_ends(struct span s, struct span suffix);
/* Index of the first c, or -1. */
ptrdiff_t span_find_char(struct span s, char c);
/* Index of the first needle, or -1; an empty needle is at 0. */
ptrdiff_t span_find(struct span s, struct span needle);
/* Without ASCII spaces, tabs, CR and LF at both ends. */
struct span span_trim(struct span s);
/* Takes what stands before the next `separator` into *head and moves *rest behind it; false when *rest was empty. */
bool span_cut(struct span *rest, char separator, struct span *head);
/* Whole-span decimal integers and floats; E_INVALID for anything else in it, E_RANGE beyond the type. Locale-independent. */
int span_to_i64(struct span s, int64_t *value);
int span_to_u64(struct span s, uint64_t *value);
int span_to_f64(struct span s, double *value);
/* Copies into dst of size dst_size, terminated and, where needed, cut (not inside a character); returns dst. */
char *span_copy(char *dst, size_t dst_size, struct span s);
/* Heap copy, terminated; returns owned, NULL without memory. */
char *span_dup(struct span s);
/* Whether s is valid UTF-8 (no surrogates, no overlong forms). */
bool span_is_utf8(struct span s);
/* Decodes one character at s.data; returns its length in bytes and sets *code_point, or 0 where it is no valid UTF-8 or s is empty. */
size_t span_utf8_decode(struct span s, uint32_t *code_point);
/* Encodes into out[4]; returns 1..4, 0 for what is no scalar value. */
size_t utf8_encode(uint32_t code_point, char out[4]);
/* Length of the longest prefix that ends at a character border: what can be shown of a stream so far. Invalid bytes count as whole. */
size_t span_utf8_complete(struct span s);
uint64_t span_hash(struct span s); /* 64-bit, unkeyed, stable across runs and machines (FNV-1a with a final mix) */
static inline uint64_t hash_mix(uint64_t x) { /* every bit of x in every bit of it, without loss: splitmix64's finaliser */
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* Lower-case hex. hex must hold 2 * len + 1. */
void hex_encode(const void *data, size_t len, char *hex);
/* out must hold s.len / 2. E_INVALID where s is no even run of hex digits. */
int hex_decode(struct span s, void *out);

#endif
