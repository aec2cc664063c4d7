/* Products of blocks by VPDPBUSD in 512 bits, up to QUANT_TILE_ROWS rows of x at once. Who includes it says before how W is asked for in advance: ask_block(at, nibbles, n), with each line at `at` for
 * n rows of x, which are constants. */
#ifndef GENLOOP_TENSOR_QUANT_BLOCKS_AVX512_H
#define GENLOOP_TENSOR_QUANT_BLOCKS_AVX512_H

#include <immintrin.h>

#include "tensor/quant_internal.h"

INLINE __m512i four_of(const int8_t *at) { /* the same 32 bits in each lane: an operand of vpdpbusd */
    int32_t bits;
    memcpy(&bits, at, sizeof bits);
    return _mm512_set1_epi32(bits);
}
INLINE __m512 load_halves(const uint8_t *at) { return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)at)); }

/* 32 rows of W at four columns, k = 4 group …; of 4 bits the upper half of a block lies in the upper halves of the lower half's bytes. */
INLINE void load_group(const uint8_t *block, const bool nibbles, size_t group, __m512i w[2]) {
    for (int v = 0; v < 2; v++) {
        if (nibbles) {
            __m512i both = _mm512_load_si512(block + group % 4 * 128 + 64 * v);
            w[v] = _mm512_and_si512(group < 4 ? both : _mm512_srli_epi16(both, 4), _mm512_set1_epi8(15));
        } else w[v] = _mm512_load_si512(block + group * 128 + 64 * v);
    }
}

INLINE void blocks_n(const uint8_t *block, const enum packed_kind kind, size_t blocks, const struct quant_rows *x, const int n, float *tile) {
    const bool nibbles = kind != PACKED_Q8;
    const size_t size = kind == PACKED_Q8 ? QUANT_Q8_BLOCK_SIZE : kind == PACKED_Q4 ? QUANT_Q4_BLOCK_SIZE : QUANT_Q4M_BLOCK_SIZE;
    const size_t scales = nibbles ? QUANT_Q4_SCALES : QUANT_Q8_SCALES, lines = size / 64;
    enum { GROUPS = QUANT_BLOCK / 4 };
    __m512 acc[QUANT_TILE_ROWS][2];
    for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; b++, block += size) {
        __m512i dot[QUANT_TILE_ROWS][2];
        for (int i = 0; i < n; i++) {
            __m512i correction = _mm512_set1_epi32(x->correction[(size_t)i * blocks + b]); /* 128 times a sum; of 4 bits 8 times that is taken out */
            dot[i][0] = dot[i][1] = kind == PACKED_Q8 ? correction : kind == PACKED_Q4 ? _mm512_srai_epi32(correction, 4) : _mm512_setzero_si512();
        }
#pragma GCC unroll 8
        for (size_t g = 0; g < GROUPS; g++) {
            __m512i w[2];
            load_group(block, nibbles, g, w);
            for (size_t line = lines * g / GROUPS; line < lines * (g + 1) / GROUPS; line++) ask_block(block + 64 * line, nibbles, n);
            for (int i = 0; i < n; i++) {
                __m512i four = four_of(x->q + ((size_t)i * blocks + b) * QUANT_BLOCK + g * 4);
                dot[i][0] = _mm512_dpbusd_epi32(dot[i][0], w[0], four);
                dot[i][1] = _mm512_dpbusd_epi32(dot[i][1], w[1], four);
            }
        }
        for (size_t v = 0; v < 2; v++) {
            __m512 scale_w = load_halves(block + scales + 32 * v);
            for (int i = 0; i < n; i++) {
                __m512 scale = _mm512_mul_ps(scale_w, _mm512_set1_ps(x->scale[(size_t)i * blocks + b]));
                acc[i][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][v]), scale, acc[i][v]);
                if (kind == PACKED_Q4M) acc[i][v] = _mm512_fmadd_ps(load_halves(block + QUANT_Q4_MINIMA + 32 * v), _mm512_set1_ps(x->total[(size_t)i * blocks + b]), acc[i][v]);
            }
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) _mm512_storeu_ps(tile + i * PACKED_BLOCK_PANEL + 16 * v, acc[i][v]);
}

INLINE void blocks_any(const uint8_t *panel, const enum packed_kind kind, size_t blocks, const struct quant_rows *x, size_t n, float *tile) {
    switch (n) {
    case 1: blocks_n(panel, kind, blocks, x, 1, tile); break;
    case 2: blocks_n(panel, kind, blocks, x, 2, tile); break;
    case 3: blocks_n(panel, kind, blocks, x, 3, tile); break;
    case 4: blocks_n(panel, kind, blocks, x, 4, tile); break;
    case 5: blocks_n(panel, kind, blocks, x, 5, tile); break;
    default: blocks_n(panel, kind, blocks, x, 6, tile); break;
    }
}

#endif
