/* Character classes as the regular expressions of pre-tokenizers mean them, and GPT-2's alphabet of bytes. */
#include <utf8proc.h>

#include "tokenizer/internal.h"

#define L CHAR_L
#define N CHAR_N
#define S CHAR_S
#define R (CHAR_S | CHAR_NL)
const uint8_t char_ascii_class[128] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, S, R, S, S, R, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* control */
    S, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, N, N, N, N, N, N, N, N, N, N, 0, 0, 0, 0, 0, 0, /* space … ? */
    0, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, 0, 0, 0, 0, 0, /* @ … _ */
    0, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, 0, 0, 0, 0, 0, /* ` … DEL */
};
#undef L
#undef N
#undef S
#undef R

uint8_t char_class_wide(uint32_t c) {
    if (c == 0x85) return CHAR_S; /* White_Space of category Cc */
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return CHAR_L;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return CHAR_N;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return CHAR_M;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return CHAR_S;
    default:
        return 0;
    }
}

/* The bytes that are printable in Latin-1 stand for themselves; the 68 others get U+0100 … U+0143 in order. */
static bool byte_is_printable(uint8_t b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; }

uint32_t byte_to_alphabet(uint8_t b) {
    if (byte_is_printable(b)) return b;
    if (b <= 0x20) return 0x100u + b;                    /* 33 of them */
    if (b <= 0xA0) return 0x100u + 33u + (b - 0x7Fu);    /* 0x7F … 0xA0: 34 */
    return 0x100u + 67u;                                 /* 0xAD */
}

int alphabet_to_byte(uint32_t c) {
    if (c < 0x100) return byte_is_printable((uint8_t)c) ? (int)c : -1;
    if (c <= 0x120) return (int)(c - 0x100);
    if (c <= 0x142) return (int)(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}

#define ROW8(b) b, b + 1, b + 2, b + 3, b + 4, b + 5, b + 6, b + 7
const uint8_t alphabet_order[256] = {
    /* ! … ~ */
    ROW8(0x21), ROW8(0x29), ROW8(0x31), ROW8(0x39), ROW8(0x41), ROW8(0x49), ROW8(0x51), ROW8(0x59), ROW8(0x61), ROW8(0x69), ROW8(0x71),
    0x79, 0x7A, 0x7B, 0x7C, 0x7D, 0x7E,
    /* ¡ … ¬, ® … ÿ */
    ROW8(0xA1), 0xA9, 0xAA, 0xAB, 0xAC,
    ROW8(0xAE), ROW8(0xB6), ROW8(0xBE), ROW8(0xC6), ROW8(0xCE), ROW8(0xD6), ROW8(0xDE), ROW8(0xE6), ROW8(0xEE), ROW8(0xF6), 0xFE, 0xFF,
    /* the others by their number */
    ROW8(0x00), ROW8(0x08), ROW8(0x10), ROW8(0x18), 0x20,
    0x7F, ROW8(0x80), ROW8(0x88), ROW8(0x90), ROW8(0x98), 0xA0, 0xAD,
};

int alphabet_write(struct span bytes, struct buf *out) {
    for (size_t i = 0; i < bytes.len; i++) {
        char c[4];
        size_t n = utf8_encode(byte_to_alphabet((uint8_t)bytes.data[i]), c);
        int r = buf_append(out, c, n);
        if (r) return r;
    }
    return 0;
}

size_t alphabet_read(struct span s, char *out, bool *raw) {
    size_t len = 0;
    struct span rest = s;
    while (rest.len) {
        uint32_t c;
        size_t n = span_utf8_decode(rest, &c);
        int byte = n ? alphabet_to_byte(c) : -1;
        if (byte < 0) {
            memcpy(out, s.data, s.len);
            *raw = true;
            return s.len;
        }
        out[len++] = (char)byte;
        rest = span_skip(rest, n);
    }
    *raw = false;
    return len;
}
