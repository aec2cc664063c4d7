/* What the files with products of bf16 on AVX-512 share: quant_avx512bf16.c by vectors, quant_amx_bf16.c by tiles. */
#ifndef GENLOOP_TENSOR_QUANT_BF16_AVX512_H
#define GENLOOP_TENSOR_QUANT_BF16_AVX512_H

#include <immintrin.h>

#include "tensor/quant_internal.h"

#define INLINE static inline __attribute__((always_inline))

enum {
    LINE = 64,              /* bytes of a tile's row */
    TILE = QUANT_SIDE * LINE,
    STRIP = PACKED_FLOAT_PANEL, /* rows of W that are multiplied by the same rows of x: four tiles */
    STRIP_TILES = STRIP / QUANT_SIDE,
};

/* How far ahead of byte `at` of a lane something is asked for: what its end is nearer than that is followed by the same lane of the next panel, `over` bytes further on. */
INLINE size_t ahead_in_lane(size_t distance, size_t at, size_t lane, size_t over) { return distance + (at + distance < lane ? 0 : over); }

/* Of 32 floats, a before b, what is lost where these bf16 stand for them: bf16 too. */
INLINE __m512i what_is_lost(__m512 a, __m512 b, __m512i high) {
    __m512 of_a = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(high)), 16));
    __m512 of_b = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(high, 1)), 16));
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(b, of_b), _mm512_sub_ps(a, of_a));
}

/* --- short lengthened --- */

INLINE __m512i upper_bytes(const uint8_t *panel) { return _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)(const void *)panel)); }

/* A part to four lines of 16: eight columns in pairs. The table of upper bytes is there four times, so that what lies above a code's four bits does not matter. */
INLINE void lengthen_lines(const uint8_t *part, __m512i upper, __m512i lines[4]) {
    __m512i codes = _mm512_load_si512(part);
    for (size_t half = 0; half < 2; half++) {
        __m512i low = _mm512_load_si512(part + (1 + half) * LINE), high = _mm512_permutexvar_epi8(half ? _mm512_srli_epi16(codes, 4) : codes, upper);
        lines[2 * half] = _mm512_unpacklo_epi8(low, high);
        lines[2 * half + 1] = _mm512_unpackhi_epi8(low, high);
    }
}

/* 16 rows of W at 32 columns, as tiles read them, but for patches. */
INLINE void lengthen_tile(const uint8_t *from, size_t step, __m512i upper, uint8_t *to) {
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++, to += 4 * LINE) {
        __m512i lines[4];
        lengthen_lines(from + j * step, upper, lines);
        for (size_t i = 0; i < 4; i++) _mm512_store_si512(to + i * LINE, lines[i]);
    }
}

/* Blocks [b, b + count) of a panel to a strip's tiles, likewise. */
INLINE void lengthen_panel(const uint8_t *panel, size_t cols, size_t b, size_t count, uint8_t *to) {
    const struct quant_short_steps s = quant_short_steps(panel, cols);
    const uint8_t *at = panel + quant_short_head(cols) + b * s.block;
    __m512i upper = upper_bytes(panel);
    for (size_t i = 0; i < count; i++, at += s.block, to += STRIP_TILES * TILE)
        for (size_t t = 0; t < STRIP_TILES; t++) lengthen_tile(at + t * s.tile, s.part, upper, to + t * TILE);
}

#endif
