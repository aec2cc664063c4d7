/* quant.h's kernels for AVX2 with VNNI (AVX-VNNI: CPUs without AVX-512 that multiply bytes): blocks, 8 rows of W per vector. All else is AVX2's. */
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>

#include "tensor/quant_internal.h"

static bool usable(void) {
    unsigned a, b, c, d;
    return quant_usable_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1 << 4));
}

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i four_of(const int8_t *at) { /* the same 32 bits in each lane: an operand of vpdpbusd */
    int32_t bits;
    memcpy(&bits, at, sizeof bits);
    return _mm256_set1_epi32(bits);
}
INLINE __m256 load_halves(const uint8_t *at) { return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)at)); }

/* 8 rows of W at four columns, k = 4 group …; of 4 bits the upper half of a block lies in the upper halves of the lower half's bytes. */
INLINE __m256i load_group(const uint8_t *block, const bool nibbles, size_t group, size_t row) {
    __m256i w = _mm256_load_si256((const __m256i *)(const void *)(block + (nibbles ? group % 4 : group) * 128 + row * 4));
    if (!nibbles) return w;
    return _mm256_and_si256(group < 4 ? w : _mm256_srli_epi16(w, 4), _mm256_set1_epi8(15));
}

/* Block b of n rows of x times `vectors` · 8 rows of W from row c on, added to the tile: n · vectors sums of integers stay in registers, those of floats in the first level of the cache. */
INLINE void block_part(const uint8_t *block, const enum packed_kind kind, size_t b, size_t blocks, const struct quant_rows *x, const int n, const int vectors, size_t c, float *tile) {
    const bool nibbles = kind != PACKED_Q8;
    const size_t scales = nibbles ? QUANT_Q4_SCALES : QUANT_Q8_SCALES;
    __m256i dot[12];
    for (int i = 0; i < n; i++) {
        __m256i correction = _mm256_set1_epi32(x->correction[(size_t)i * blocks + b]); /* 128 times a sum; of 4 bits 8 times that is taken out */
        for (int v = 0; v < vectors; v++) dot[i * vectors + v] = kind == PACKED_Q8 ? correction : kind == PACKED_Q4 ? _mm256_srai_epi32(correction, 4) : _mm256_setzero_si256();
    }
#pragma GCC unroll 8
    for (size_t g = 0; g < QUANT_BLOCK / 4; g++) {
        __m256i w[4];
        for (int v = 0; v < vectors; v++) {
            w[v] = load_group(block, nibbles, g, c + 8 * (size_t)v);
            if (v % 2 == 0 && (!nibbles || g < 4)) quant_ask(block + g * 128 + c * 4 + 32 * (size_t)v, QUANT_NEAR, QUANT_FAR);
        }
        for (int i = 0; i < n; i++) {
            __m256i four = four_of(x->q + ((size_t)i * blocks + b) * QUANT_BLOCK + g * 4);
            for (int v = 0; v < vectors; v++) dot[i * vectors + v] = _mm256_dpbusd_avx_epi32(dot[i * vectors + v], w[v], four);
        }
    }
    for (int v = 0; v < vectors; v++) {
        size_t row = c + 8 * (size_t)v;
        __m256 scale_w = load_halves(block + scales + 2 * row);
        for (int i = 0; i < n; i++) {
            float *at = tile + (size_t)i * PACKED_BLOCK_PANEL + row;
            __m256 scale = _mm256_mul_ps(scale_w, _mm256_set1_ps(x->scale[(size_t)i * blocks + b]));
            __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[i * vectors + v]), scale, _mm256_loadu_ps(at));
            if (kind == PACKED_Q4M) sum = _mm256_fmadd_ps(load_halves(block + QUANT_Q4_MINIMA + 2 * row), _mm256_set1_ps(x->total[(size_t)i * blocks + b]), sum);
            _mm256_storeu_ps(at, sum);
        }
    }
}

/* Block by block, whatever turns a block takes: W is read once, from front to back. */
INLINE void blocks_n(const uint8_t *panel, const enum packed_kind kind, size_t blocks, const struct quant_rows *x, const int n, const int vectors, float *tile) {
    const size_t size = kind == PACKED_Q8 ? QUANT_Q8_BLOCK_SIZE : kind == PACKED_Q4 ? QUANT_Q4_BLOCK_SIZE : QUANT_Q4M_BLOCK_SIZE;
    for (int i = 0; i < n * PACKED_BLOCK_PANEL; i += 8) _mm256_storeu_ps(tile + i, _mm256_setzero_ps());
    for (size_t b = 0; b < blocks; b++)
        for (size_t c = 0; c < PACKED_BLOCK_PANEL; c += 8 * (size_t)vectors) block_part(panel + b * size, kind, b, blocks, x, n, vectors, c, tile);
}

INLINE void blocks_any(const uint8_t *panel, const enum packed_kind kind, size_t blocks, const struct quant_rows *x, size_t n, float *tile) {
    switch (n) {
    case 1: blocks_n(panel, kind, blocks, x, 1, 4, tile); break;
    case 2: blocks_n(panel, kind, blocks, x, 2, 4, tile); break;
    case 3: blocks_n(panel, kind, blocks, x, 3, 2, tile); break;
    case 4: blocks_n(panel, kind, blocks, x, 4, 2, tile); break;
    case 5: blocks_n(panel, kind, blocks, x, 5, 2, tile); break;
    default: blocks_n(panel, kind, blocks, x, 6, 2, tile); break;
    }
}
static void q8_avxvnni(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q8, blocks, x, n, tile); }
static void q4_avxvnni(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q4, blocks, x, n, tile); }
static void q4m_avxvnni(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q4M, blocks, x, n, tile); }

const struct quant_kernels QUANT_KERNELS_AVXVNNI = {.name = "avxvnni", .vectors = "avx2", .usable = usable, .f32 = quant_f32_avx2, .bf16 = quant_bf16_avx2, .f16 = quant_f16_avx2,
                                                    .f32_rows = quant_f32_rows_avx2, .bf16_rows = quant_bf16_rows_avx2, .f16_rows = quant_f16_rows_avx2, .lengthen = quant_lengthen_avx2, .short_rows = quant_short_rows_avx2,
                                                    .many_rows = QUANT_MANY_ROWS_AVX2, .q8 = q8_avxvnni, .q4 = q4_avxvnni, .q4m = q4m_avxvnni, .block_rows = QUANT_TILE_ROWS, .block_unit = QUANT_TILE_ROWS, .quantize = quant_quantize_avx2};
#endif
