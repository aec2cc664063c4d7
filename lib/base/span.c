#include "base/span.h"

#include <errno.h>
#include <locale.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"

enum { FIND_SHORT = 64 };

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }
static bool digit(char c) { return c >= '0' && c <= '9'; }

bool span_eq_nocase(struct span a, struct span b) {
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++)
        if (lower(a.data[i]) != lower(b.data[i])) return false;
    return true;
}

bool span_starts(struct span s, struct span prefix) { return s.len >= prefix.len && span_eq(span_sub(s, 0, prefix.len), prefix); }
bool span_ends(struct span s, struct span suffix) { return s.len >= suffix.len && span_eq(span_sub(s, s.len - suffix.len, suffix.len), suffix); }

ptrdiff_t span_find_char(struct span s, char c) {
    const char *p = s.len ? memchr(s.data, c, s.len) : NULL;
    return p ? p - s.data : -1;
}

ptrdiff_t span_find(struct span s, struct span needle) {
    if (!needle.len) return 0;
    if (needle.len > s.len) return -1;
    if (s.len < FIND_SHORT) { /* memmem makes itself ready for more */
        const char *end = s.data + (s.len - needle.len) + 1;
        for (const char *p = s.data; p < end && (p = memchr(p, needle.data[0], (size_t)(end - p))); p++)
            if (memcmp(p, needle.data, needle.len) == 0) return p - s.data;
        return -1;
    }
    const char *p = memmem(s.data, s.len, needle.data, needle.len);
    return p ? p - s.data : -1;
}

static bool blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

struct span span_trim(struct span s) {
    while (s.len && blank(s.data[0])) s.data++, s.len--;
    while (s.len && blank(s.data[s.len - 1])) s.len--;
    return s;
}

bool span_cut(struct span *rest, char separator, struct span *head) {
    if (!rest->len) return false;
    ptrdiff_t at = span_find_char(*rest, separator);
    if (at < 0) {
        *head = *rest;
        *rest = span_sub(*rest, rest->len, 0);
    } else {
        *head = span_sub(*rest, 0, (size_t)at);
        *rest = span_skip(*rest, (size_t)at + 1);
    }
    return true;
}

int span_to_u64(struct span s, uint64_t *value) {
    if (!s.len) return E_INVALID;
    uint64_t v = 0;
    bool over = false;
    for (size_t i = 0; i < s.len; i++) {
        if (!digit(s.data[i])) return E_INVALID;
        over |= __builtin_mul_overflow(v, (uint64_t)10, &v) || __builtin_add_overflow(v, (uint64_t)(s.data[i] - '0'), &v);
    }
    if (over) return E_RANGE;
    *value = v;
    return 0;
}

int span_to_i64(struct span s, int64_t *value) {
    bool negative = s.len && s.data[0] == '-';
    uint64_t v;
    int r = span_to_u64(negative ? span_skip(s, 1) : s, &v);
    if (r) return r;
    if (v > (uint64_t)INT64_MAX + negative) return E_RANGE;
    *value = negative ? (int64_t)(0 - v) : (int64_t)v;
    return 0;
}

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;
static void c_locale_make(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

int span_to_f64(struct span s, double *value) {
    /* strtod would take white space, hex, inf and nan: the grammar is checked first. No double needs more digits than fit here. */
    enum { DIGITS_MAX = 1100 };
    size_t i = 0, digits = 0;
    if (i < s.len && s.data[i] == '-') i++;
    for (; i < s.len && digit(s.data[i]); i++) digits++;
    if (i < s.len && s.data[i] == '.')
        for (i++; i < s.len && digit(s.data[i]); i++) digits++;
    if (!digits) return E_INVALID;
    if (i < s.len && (s.data[i] == 'e' || s.data[i] == 'E')) {
        i++;
        if (i < s.len && (s.data[i] == '-' || s.data[i] == '+')) i++;
        size_t first = i;
        while (i < s.len && digit(s.data[i])) i++;
        if (i == first) return E_INVALID;
    }
    if (i != s.len) return E_INVALID;
    if (s.len >= DIGITS_MAX) return E_RANGE;
    char text[DIGITS_MAX];
    span_copy(text, sizeof text, s);
    pthread_once(&c_locale_once, c_locale_make);
    double v = c_locale ? strtod_l(text, NULL, c_locale) : strtod(text, NULL);
    if (__builtin_isinf(v)) return E_RANGE;
    *value = v;
    return 0;
}

char *span_copy(char *dst, size_t dst_size, struct span s) {
    if (!dst_size) return dst;
    size_t n = s.len < dst_size - 1 ? s.len : dst_size - 1;
    if (n) memcpy(dst, s.data, n);
    if (n < s.len) n = span_utf8_complete((struct span){dst, n});
    dst[n] = 0;
    return dst;
}

char *span_dup(struct span s) {
    char *p = s.len < SIZE_MAX ? mem_alloc(s.len + 1) : NULL;
    return p ? span_copy(p, s.len + 1, s) : NULL;
}

static inline size_t decode(struct span s, uint32_t *code_point) {
    if (!s.len) return 0;
    const unsigned char *p = (const unsigned char *)s.data;
    uint32_t c = p[0];
    if (c < 0x80) {
        *code_point = c;
        return 1;
    }
    size_t n = c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    if (!n || s.len < n) return 0;
    c &= 0xffu >> (n + 1);
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if (n == 3 && (c < 0x800 || (c >= 0xd800 && c <= 0xdfff))) return 0;
    if (n == 4 && (c < 0x10000 || c > 0x10ffff)) return 0;
    *code_point = c;
    return n;
}
size_t span_utf8_decode(struct span s, uint32_t *code_point) { return decode(s, code_point); }

bool span_is_utf8(struct span s) {
    uint32_t c;
    while (s.len) {
        if (s.len >= 16) { /* ASCII bytes at once: what there is of them before the next other one */
            uint64_t words[2];
            memcpy(words, s.data, 16);
            if (!((words[0] | words[1]) & 0x8080808080808080u)) {
                s = (struct span){s.data + 16, s.len - 16};
                continue;
            }
        }
        while (s.len && (unsigned char)s.data[0] < 0x80) s = (struct span){s.data + 1, s.len - 1};
        if (!s.len) break;
        size_t n = decode(s, &c);
        if (!n) return false;
        s = (struct span){s.data + n, s.len - n};
    }
    return true;
}

size_t utf8_encode(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if ((c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff) return 0;
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

size_t span_utf8_complete(struct span s) {
    for (size_t back = 1; back <= 3 && back <= s.len; back++) {
        unsigned char c = (unsigned char)s.data[s.len - back];
        if ((c & 0xc0) == 0x80) continue;
        size_t n = c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 1;
        if (n <= back) break;
        if (back > 1) { /* the second byte decides whether any character can come of it */
            unsigned char d = (unsigned char)s.data[s.len - back + 1];
            if ((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) || (c == 0xf4 && d > 0x8f)) break;
        }
        return s.len - back;
    }
    return s.len;
}

uint64_t span_hash(struct span s) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < s.len; i++) h = (h ^ (unsigned char)s.data[i]) * 0x100000001b3u;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 33;
}

void hex_encode(const void *data, size_t len, char *hex) {
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i++) {
        hex[2 * i] = "0123456789abcdef"[p[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[p[i] & 15];
    }
    hex[2 * len] = 0;
}

static int hex_value(char c) {
    return digit(c) ? c - '0' : lower(c) >= 'a' && lower(c) <= 'f' ? lower(c) - 'a' + 10 : -1;
}

int hex_decode(struct span s, void *out) {
    if (s.len % 2) return E_INVALID;
    for (size_t i = 0; i < s.len; i++)
        if (hex_value(s.data[i]) < 0) return E_INVALID;
    unsigned char *p = out;
    for (size_t i = 0; i < s.len; i += 2) p[i / 2] = (unsigned char)(hex_value(s.data[i]) << 4 | hex_value(s.data[i + 1]));
    return 0;
}
