/* Character classes as the regular expressions of pre-tokenizers mean them, and GPT-2's alphabet of bytes. */
#include <utf8proc.h>

#include "tokenizer/internal.h"

#define U (CHAR_L | CHAR_UPPER)
#define L (CHAR_L | CHAR_LOWER)
#define N CHAR_N
#define S CHAR_S
#define R (CHAR_S | CHAR_NL)
#define P CHAR_PS
const uint8_t char_ascii_class[128] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, S, R, S, S, R, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* control */
    S, P, P, P, P, P, P, P, P, P, P, P, P, P, P, P, N, N, N, N, N, N, N, N, N, N, P, P, P, P, P, P, /* space … ? */
    P, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, P, P, P, P, P, /* @ … _ */
    P, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, P, P, P, P, 0, /* ` … DEL */
};
#undef U
#undef L
#undef N
#undef S
#undef R
#undef P

uint8_t char_class_wide(uint32_t c) {
    if (c == 0x85) return CHAR_S; /* White_Space of category Cc */
    static const uint8_t classes[] = {
        [UTF8PROC_CATEGORY_LU] = CHAR_L | CHAR_UPPER, [UTF8PROC_CATEGORY_LT] = CHAR_L | CHAR_UPPER, [UTF8PROC_CATEGORY_LL] = CHAR_L | CHAR_LOWER,
        [UTF8PROC_CATEGORY_LM] = CHAR_L,  [UTF8PROC_CATEGORY_LO] = CHAR_L,  [UTF8PROC_CATEGORY_ND] = CHAR_N,  [UTF8PROC_CATEGORY_NL] = CHAR_N,
        [UTF8PROC_CATEGORY_NO] = CHAR_N,  [UTF8PROC_CATEGORY_MN] = CHAR_M,  [UTF8PROC_CATEGORY_MC] = CHAR_M,  [UTF8PROC_CATEGORY_ME] = CHAR_M,
        [UTF8PROC_CATEGORY_ZS] = CHAR_S,  [UTF8PROC_CATEGORY_ZL] = CHAR_S,  [UTF8PROC_CATEGORY_ZP] = CHAR_S,  [UTF8PROC_CATEGORY_PC] = CHAR_PS,
        [UTF8PROC_CATEGORY_PD] = CHAR_PS, [UTF8PROC_CATEGORY_PS] = CHAR_PS, [UTF8PROC_CATEGORY_PE] = CHAR_PS, [UTF8PROC_CATEGORY_PI] = CHAR_PS,
        [UTF8PROC_CATEGORY_PF] = CHAR_PS, [UTF8PROC_CATEGORY_PO] = CHAR_PS, [UTF8PROC_CATEGORY_SM] = CHAR_PS, [UTF8PROC_CATEGORY_SC] = CHAR_PS,
        [UTF8PROC_CATEGORY_SK] = CHAR_PS, [UTF8PROC_CATEGORY_SO] = CHAR_PS, [UTF8PROC_CATEGORY_CO] = 0,
    };
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return (unsigned)k < sizeof classes ? classes[k] : 0;
}

bool char_is_punctuation(uint32_t c) {
    if (c < 0x80) return char_ascii_class[c] & CHAR_PS;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    if (k < UTF8PROC_CATEGORY_PC || k > UTF8PROC_CATEGORY_PO) return false;
    /* The reference implementation's table is that of Unicode 8: what has become punctuation since is none to it. */
    static const uint32_t since[][2] = {
        {0x61D, 0x61D},     {0x9FD, 0x9FD},     {0xA76, 0xA76},     {0xC77, 0xC77},     {0xC84, 0xC84},     {0x1B7D, 0x1B7E},   {0x2E43, 0x2E4F},   {0x2E52, 0x2E5D},
        {0x10EAD, 0x10EAD}, {0x10F55, 0x10F59}, {0x10F86, 0x10F89}, {0x1144B, 0x1144F}, {0x1145A, 0x1145B}, {0x1145D, 0x1145D}, {0x11660, 0x1166C}, {0x116B9, 0x116B9},
        {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2}, {0x11A3F, 0x11A46}, {0x11A9A, 0x11A9C}, {0x11A9E, 0x11AA2}, {0x11C41, 0x11C45}, {0x11C70, 0x11C71},
        {0x11EF7, 0x11EF8}, {0x11FFF, 0x11FFF}, {0x12FF1, 0x12FF2}, {0x16E97, 0x16E9A}, {0x16FE2, 0x16FE2}, {0x1E95E, 0x1E95F},
    };
    for (size_t i = 0; i < sizeof since / sizeof since[0]; i++)
        if (c >= since[i][0] && c <= since[i][1]) return false;
    return true;
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
