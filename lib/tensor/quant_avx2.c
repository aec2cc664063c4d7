/* quant.h's kernels for AVX2 with FMA and F16C: 8 rows of W per vector. */
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>

#include "tensor/quant_internal.h"
#include "tensor/vectors_avx2.h"

enum { AHEAD = 4096 };  /* bytes: few rows of x stream through W, and the hardware's prefetcher stops at page borders */
enum { STRETCH = 64 }; /* columns: 8 KiB of halves, 16 of floats */

bool quant_usable_avx2(void) {
    __builtin_cpu_init();
    unsigned a, b, c = 0, d; /* clang has no word for f16c */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* What is inlined takes its counts as constants, so that the sums live in registers. */
#define INLINE static inline __attribute__((always_inline))
/* Sums stay one chain each: compilers like to add integers in another order, and then run out of registers. */
#define KEEP(sum) __asm__("" : "+x"(sum))

/* --- floats: f32, bf16, f16 --- */

enum format { F32, BF16, F16, SHORT };

/* 16 rows of W at one k, those that begin at row c of the panel. bf16 comes in lanes of so many bytes, in pairs of k: `odd` says which. */
INLINE void load_two(const void *panel, const enum format format, size_t lane, size_t k, const bool odd, size_t c, __m256 *a, __m256 *b) {
    if (format == F32) {
        const float *at = (const float *)panel + k * PACKED_FLOAT_PANEL + c;
        *a = _mm256_load_ps(at);
        *b = _mm256_load_ps(at + 8);
    } else if (format == BF16) {
        const __m256i *at = (const __m256i *)(const void *)((const uint8_t *)panel + c / QUANT_SIDE * lane + k / 2 * 64), high = _mm256_set1_epi32((int)0xffff0000u);
        __m256i first = _mm256_load_si256(at), second = _mm256_load_si256(at + 1);
        *a = _mm256_castsi256_ps(odd ? _mm256_and_si256(first, high) : _mm256_slli_epi32(first, 16));
        *b = _mm256_castsi256_ps(odd ? _mm256_and_si256(second, high) : _mm256_slli_epi32(second, 16));
    } else {
        const uint16_t *at = (const uint16_t *)panel + k * PACKED_FLOAT_PANEL + c;
        *a = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)at));
        *b = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(at + 8)));
    }
}

/* Column k for pair p of vectors; `next` is asked for on the way. */
INLINE void floats_column(const void *panel, const enum format format, size_t lane, size_t k, const bool odd, const float *x, size_t stride, const int n, const int pairs, const int p,
                          size_t c, const char *next, __m256 acc[12]) {
    __m256 a, b;
    load_two(panel, format, lane, k, odd, c + 16 * (size_t)p, &a, &b);
    if (format == BF16 && !odd) _mm_prefetch((const char *)panel + (c / QUANT_SIDE + (size_t)p) * lane + (k + STRETCH) / 2 * 64, _MM_HINT_T0);
    if (format == F32 || (format == F16 && p % 2 == 0)) _mm_prefetch(next + (size_t)p * 16 * (format == F32 ? sizeof(float) : sizeof(uint16_t)), _MM_HINT_T0);
    for (int i = 0; i < n; i++) {
        __m256 xk = _mm256_set1_ps(x[(size_t)i * stride + k]);
        acc[2 * (i * pairs + p)] = _mm256_fmadd_ps(xk, a, acc[2 * (i * pairs + p)]);
        acc[2 * (i * pairs + p) + 1] = _mm256_fmadd_ps(xk, b, acc[2 * (i * pairs + p) + 1]);
    }
}

/*
 * n rows of x times `pairs` · 16 rows of the panel, for the columns [from, to): n · pairs is at most 6, so that the sums stay in 16 registers. Between two such
 * stretches of columns they lie in the tile.
 */
INLINE void floats_part(const void *panel, const enum format format, size_t lane, size_t from, size_t to, const float *x, size_t stride, const int n, const int pairs, size_t c,
                        bool more, float *tile) {
    /* what this turn's share is of the columns that follow */
    const size_t size = format == F32 ? sizeof(float) : sizeof(uint16_t);
    const char *next = (const char *)panel + (to * PACKED_FLOAT_PANEL + (to - from) * c) * size;
    __m256 acc[12];
    for (int p = 0; p < pairs; p++) {
        size_t a = c + 16 * (size_t)p, b = a + 8;
        for (int i = 0; i < n; i++) {
            acc[2 * (i * pairs + p)] = more ? _mm256_loadu_ps(tile + i * PACKED_FLOAT_PANEL + a) : _mm256_setzero_ps();
            acc[2 * (i * pairs + p) + 1] = more ? _mm256_loadu_ps(tile + i * PACKED_FLOAT_PANEL + b) : _mm256_setzero_ps();
        }
    }
    size_t k = from;
    for (; k + 2 <= to; k += 2) /* STRETCH is even: a stretch begins with a pair, which is loaded once */
        for (int p = 0; p < pairs; p++) {
            floats_column(panel, format, lane, k, false, x, stride, n, pairs, p, c, next + (k - from) * (size_t)pairs * 16 * size, acc);
            floats_column(panel, format, lane, k + 1, true, x, stride, n, pairs, p, c, next + (k + 1 - from) * (size_t)pairs * 16 * size, acc);
        }
    for (int p = 0; k < to && p < pairs; p++) floats_column(panel, format, lane, k, false, x, stride, n, pairs, p, c, next + (k - from) * (size_t)pairs * 16 * size, acc);
    for (int p = 0; p < pairs; p++) {
        size_t a = c + 16 * (size_t)p, b = a + 8;
        for (int i = 0; i < n; i++) {
            _mm256_storeu_ps(tile + i * PACKED_FLOAT_PANEL + a, acc[2 * (i * pairs + p)]);
            _mm256_storeu_ps(tile + i * PACKED_FLOAT_PANEL + b, acc[2 * (i * pairs + p) + 1]);
        }
    }
}

/* The panel's rows do not fit the registers at once where x has several rows: they are taken in turns, over so few columns that all turns but the first find W in the first level of the cache. */
INLINE void floats_turns(const void *panel, const enum format format, size_t cols, const float *x, size_t stride, const int n, const int pairs, bool more, float *tile) {
    for (size_t from = 0; from < cols; from += STRETCH) {
        size_t to = cols - from < STRETCH ? cols : from + STRETCH;
        for (size_t c = 0; c < PACKED_FLOAT_PANEL; c += 16 * (size_t)pairs) floats_part(panel, format, quant_lane_size(PACKED_BF16, cols), from, to, x, stride, n, pairs, c, more || from > 0, tile);
    }
}

INLINE void floats(const void *panel, const enum format format, size_t cols, const float *x, size_t stride, size_t n, bool more, float *tile) {
    switch (n) {
    case 1: floats_turns(panel, format, cols, x, stride, 1, 4, more, tile); break;
    case 2: floats_turns(panel, format, cols, x, stride, 2, 2, more, tile); break;
    case 3: floats_turns(panel, format, cols, x, stride, 3, 2, more, tile); break;
    case 4: floats_turns(panel, format, cols, x, stride, 4, 1, more, tile); break;
    case 5: floats_turns(panel, format, cols, x, stride, 5, 1, more, tile); break;
    default: floats_turns(panel, format, cols, x, stride, 6, 1, more, tile); break;
    }
}

void quant_f32_avx2(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile) { floats(panel, F32, cols, x, x_stride, n, more, tile); }
void quant_bf16_avx2(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile) { floats(panel, BF16, cols, x, x_stride, n, more, tile); }
void quant_f16_avx2(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile) { floats(panel, F16, cols, x, x_stride, n, more, tile); }

/* --- short --- */

/* Block b of `lanes` lanes from row c of the panel on, to [32 columns][step]. */
INLINE void lengthen(const uint8_t *panel, size_t cols, size_t block, size_t c, const size_t lanes, const bool asks, const size_t step, float *to) {
    const __m256i upper = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(const void *)panel)), four = _mm256_set1_epi8(15), odd = _mm256_set1_epi32((int)0xffff0000u);
    const struct quant_short_steps s = quant_short_steps(panel, cols);
    const uint8_t *at = panel + quant_short_head(cols) + c / QUANT_SIDE * s.tile + block * s.block;
    for (size_t lane = 0; lane < lanes; lane++, at += s.tile)
        for (size_t l = 0; l < QUANT_BLOCK / 4; l++) { /* two lines of a tile, four columns */
            const uint8_t *codes_at = at + l / 2 * s.part, *low_at = codes_at + (1 + l % 2) * 64;
            if (asks) _mm_prefetch((const char *)low_at + AHEAD, _MM_HINT_T0);
            if (asks && l % 2 == 0) _mm_prefetch((const char *)codes_at + AHEAD, _MM_HINT_T0);
            for (size_t v = 0; v < 2; v++) { /* 8 rows each */
                float *column = to + 4 * l * step + lane * QUANT_SIDE + v * 8;
                __m256i low = _mm256_load_si256((const __m256i *)(const void *)(low_at + v * 32)), codes = _mm256_load_si256((const __m256i *)(const void *)(codes_at + v * 32));
                __m256i high = _mm256_shuffle_epi8(upper, _mm256_and_si256(l % 2 ? _mm256_srli_epi16(codes, 4) : codes, four));
                __m256i pairs[2] = {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
                for (size_t k = 0; k < 4; k++) _mm256_store_ps(column + k * step, _mm256_castsi256_ps(k % 2 ? _mm256_and_si256(pairs[k / 2], odd) : _mm256_slli_epi32(pairs[k / 2], 16)));
            }
        }
}
void quant_lengthen_avx2(const uint8_t *panel, size_t cols, size_t block, float *to) { lengthen(panel, cols, block, 0, QUANT_LANES, true, PACKED_FLOAT_PANEL, to); }

/* --- many rows of x --- */

enum { DEPTH_MAX = 128 };
#define STRIP_ROWS 6
INLINE void lengthen_strip(const void *panel, size_t cols, size_t c, size_t block, float *to) {
    lengthen(panel, cols, block, c, 1, false, 2 * W, to);
    quant_short_patch(panel, cols, block, c, 2 * W, 2 * W, to);
}
#include "tensor/quant_strips.h"

void quant_f32_rows_avx2(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) { float_rows(panel, F32, cols, x, n, out, count); }
void quant_bf16_rows_avx2(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) { float_rows(panel, BF16, cols, x, n, out, count); }
void quant_f16_rows_avx2(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) { float_rows(panel, F16, cols, x, n, out, count); }
void quant_short_rows_avx2(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) { float_rows(panel, SHORT, cols, x, n, out, count); }

/* --- blocks --- */

INLINE __m256i four_of(const void *at) { /* the same 32 bits in each lane: a load alone, no arithmetic */
    int32_t bits;
    memcpy(&bits, at, sizeof bits);
    return _mm256_set1_epi32(bits);
}
INLINE __m256i load_bytes(const uint8_t *at) { return _mm256_load_si256((const __m256i *)(const void *)at); }
INLINE __m256 load_halves(const uint8_t *at) { return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)at)); }

/* tile += dot · (scale of W · scale of x). The float sums are kept in the tile, in the first level of the cache: the registers belong to the integers. */
INLINE void add_block(float *sums, __m256i dot, __m256 scale_w, float scale_x) {
    __m256 s = _mm256_mul_ps(scale_w, _mm256_set1_ps(scale_x));
    _mm256_storeu_ps(sums, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), s, _mm256_loadu_ps(sums)));
}

/*
 * q8: block b of n rows of x times `vectors` · 8 rows of W from row c on, added to the tile. vpmaddubsw would saturate at 8 bits on both sides, so the bytes of W are
 * taken as 16-bit lanes, even ones by a mask, odd ones by a shift, and multiplied by x in 16 bits (x's order is `widen`'s): two vpmaddwd
 * and two additions for 32 products, no signs to move, and the unpacking shared by all rows of x.
 */
INLINE void q8_part(const uint8_t *block, size_t b, size_t blocks, const struct quant_rows *x, const int n, const int vectors, size_t c, float *tile) {
    const __m256i low = _mm256_set1_epi16(0xff);
    __m256i dot[12];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) dot[i * vectors + v] = _mm256_set1_epi32(x->correction[(size_t)i * blocks + b]);
    for (size_t g = 0; g < QUANT_BLOCK / 4; g++)
        for (int odd = 0; odd < 2; odd++) {
            __m256i w[4];
            for (int v = 0; v < vectors; v++) {
                w[v] = load_bytes(block + g * 128 + c * 4 + 32 * (size_t)v);
                w[v] = odd ? _mm256_srli_epi16(w[v], 8) : _mm256_and_si256(w[v], low);
                if (odd && v % 2 == 0) _mm_prefetch((const char *)block + g * 128 + c * 4 + 32 * (size_t)v + AHEAD, _MM_HINT_T0);
            }
            for (int i = 0; i < n; i++) {
                __m256i xs = four_of(x->wide + ((size_t)i * blocks + b) * QUANT_BLOCK + g * 4 + 2 * (size_t)odd);
                for (int v = 0; v < vectors; v++) {
                    dot[i * vectors + v] = _mm256_add_epi32(dot[i * vectors + v], _mm256_madd_epi16(w[v], xs));
                    KEEP(dot[i * vectors + v]);
                }
            }
        }
    for (int v = 0; v < vectors; v++) {
        __m256 sw = load_halves(block + QUANT_Q8_SCALES + 2 * c + 16 * (size_t)v);
        for (int i = 0; i < n; i++)
            add_block(tile + (size_t)i * PACKED_BLOCK_PANEL + c + 8 * (size_t)v, dot[i * vectors + v], sw, x->scale[(size_t)i * blocks + b]);
    }
}

/* Block by block, whatever turns a block takes: W is read once, from front to back. */
INLINE void q8_blocks(const uint8_t *panel, size_t blocks, const struct quant_rows *x, const int n, const int vectors, float *tile) {
    for (int i = 0; i < n * PACKED_BLOCK_PANEL; i += 8) _mm256_storeu_ps(tile + i, _mm256_setzero_ps());
    for (size_t b = 0; b < blocks; b++)
        for (size_t c = 0; c < PACKED_BLOCK_PANEL; c += 8 * (size_t)vectors) q8_part(panel + b * QUANT_Q8_BLOCK_SIZE, b, blocks, x, n, vectors, c, tile);
}

static void q8_avx2(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) {
    switch (n) {
    case 1: q8_blocks(panel, blocks, x, 1, 4, tile); break;
    case 2: q8_blocks(panel, blocks, x, 2, 4, tile); break;
    case 3: q8_blocks(panel, blocks, x, 3, 2, tile); break;
    case 4: q8_blocks(panel, blocks, x, 4, 2, tile); break;
    case 5: q8_blocks(panel, blocks, x, 5, 2, tile); break;
    default: q8_blocks(panel, blocks, x, 6, 2, tile); break;
    }
}

/*
 * q4, q4m: halves of bytes are at most 15, so that eight vpmaddubsw (15 · 127 · 2 each) add up within 16 bits (30,480): two instructions
 * for 32 products, widened once a block.
 */
INLINE void q4_part(const uint8_t *block, size_t b, size_t blocks, const struct quant_rows *x, const bool minimum, const int n, const int vectors, size_t c,
                    float *tile) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i dot[12];
    for (int i = 0; i < n * vectors; i++) dot[i] = _mm256_setzero_si256();
    for (size_t g = 0; g < QUANT_BLOCK / 8; g++)
        for (int high = 0; high < 2; high++) {
            __m256i w[4];
            for (int v = 0; v < vectors; v++) {
                w[v] = load_bytes(block + g * 128 + c * 4 + 32 * (size_t)v);
                w[v] = _mm256_and_si256(high ? _mm256_srli_epi16(w[v], 4) : w[v], low);
                if (high && v % 2 == 0) _mm_prefetch((const char *)block + g * 128 + c * 4 + 32 * (size_t)v + AHEAD, _MM_HINT_T0);
            }
            for (int i = 0; i < n; i++) {
                __m256i xs = four_of(x->q + ((size_t)i * blocks + b) * QUANT_BLOCK + g * 4 + 16 * (size_t)high);
                for (int v = 0; v < vectors; v++) {
                    dot[i * vectors + v] = _mm256_add_epi16(dot[i * vectors + v], _mm256_maddubs_epi16(w[v], xs));
                    KEEP(dot[i * vectors + v]);
                }
            }
        }
    for (int v = 0; v < vectors; v++) {
        __m256 sw = load_halves(block + QUANT_Q4_SCALES + 2 * c + 16 * (size_t)v);
        for (int i = 0; i < n; i++) {
            float *sums = tile + (size_t)i * PACKED_BLOCK_PANEL + c + 8 * (size_t)v;
            __m256i whole = _mm256_madd_epi16(dot[i * vectors + v], ones);
            if (!minimum) whole = _mm256_add_epi32(whole, _mm256_set1_epi32(x->correction[(size_t)i * blocks + b] / 16));
            __m256 s = _mm256_mul_ps(sw, _mm256_set1_ps(x->scale[(size_t)i * blocks + b]));
            __m256 sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole), s, _mm256_loadu_ps(sums));
            if (minimum) sum = _mm256_fmadd_ps(load_halves(block + QUANT_Q4_MINIMA + 2 * c + 16 * (size_t)v), _mm256_set1_ps(x->total[(size_t)i * blocks + b]), sum);
            _mm256_storeu_ps(sums, sum);
        }
    }
}

INLINE void q4_blocks(const uint8_t *panel, size_t blocks, const struct quant_rows *x, const bool minimum, const int n, const int vectors, float *tile) {
    const size_t block_size = minimum ? QUANT_Q4M_BLOCK_SIZE : QUANT_Q4_BLOCK_SIZE;
    for (int i = 0; i < n * PACKED_BLOCK_PANEL; i += 8) _mm256_storeu_ps(tile + i, _mm256_setzero_ps());
    for (size_t b = 0; b < blocks; b++)
        for (size_t c = 0; c < PACKED_BLOCK_PANEL; c += 8 * (size_t)vectors) q4_part(panel + b * block_size, b, blocks, x, minimum, n, vectors, c, tile);
}

INLINE void q4_any(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile, const bool minimum) {
    switch (n) {
    case 1: q4_blocks(panel, blocks, x, minimum, 1, 4, tile); break;
    case 2: q4_blocks(panel, blocks, x, minimum, 2, 4, tile); break;
    case 3: q4_blocks(panel, blocks, x, minimum, 3, 2, tile); break;
    case 4: q4_blocks(panel, blocks, x, minimum, 4, 2, tile); break;
    case 5: q4_blocks(panel, blocks, x, minimum, 5, 2, tile); break;
    default: q4_blocks(panel, blocks, x, minimum, 6, 2, tile); break;
    }
}
static void q4_avx2(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { q4_any(panel, blocks, x, n, tile, false); }
static void q4m_avx2(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { q4_any(panel, blocks, x, n, tile, true); }

/* --- x --- */

/* The higher of two magnitudes in each lane, whose bits are in the order of their values, or their sums. */
INLINE __m256i meet(__m256i a, __m256i b, const bool sums) { return sums ? _mm256_add_epi32(a, b) : _mm256_max_epu32(a, b); }

/* Of n vectors (1, 2, 4 or 8) the highest lane of each, or the sum of its lanes, in the first n lanes: pairs of vectors are folded into one that has half of the lanes of each, and what is left alone into itself. */
INLINE __m256i fold(__m256i v[8], const int n, const bool sums) {
    for (int i = 0; i < (n > 1 ? n / 2 : 1); i++) {
        __m256i a = v[n > 1 ? 2 * i : i], b = v[n > 1 ? 2 * i + 1 : i];
        v[i] = meet(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b), sums);
    }
    for (int i = 0; i < (n > 2 ? n / 4 : 1); i++) {
        __m256i a = v[n > 2 ? 2 * i : i], b = v[n > 2 ? 2 * i + 1 : i];
        v[i] = meet(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b), sums);
    }
    __m256i a = v[0], b = v[n > 4 ? 1 : 0];
    return meet(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31), sums);
}

/* n whole blocks at x; scales, corrections and totals are made for all of them together. */
INLINE void quantize_some(const float *x, const int n, int8_t *q, float *scale, int32_t *correction, float *total) {
    const __m256 low = _mm256_set1_ps(-127), sign = _mm256_set1_ps(-0.0f), zero = _mm256_setzero_ps();
    _Alignas(32) float inverses[8];
    __m256i most[8], sums[8];
    for (int b = 0; b < n; b++) {
        __m256 m = zero;
        for (int i = 0; i < 4; i++) m = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + b * QUANT_BLOCK + 8 * i)), m); /* the second where the first is NaN */
        most[b] = _mm256_castps_si256(m);
    }
    __m256 highest = _mm256_castsi256_ps(fold(most, n, false));
    __m256 scales = _mm256_and_ps(_mm256_cmp_ps(highest, _mm256_set1_ps(QUANT_LEAST), _CMP_GE_OQ), _mm256_div_ps(highest, _mm256_set1_ps(127)));
    _mm256_store_ps(inverses, _mm256_and_ps(_mm256_cmp_ps(scales, zero, _CMP_GT_OQ), _mm256_div_ps(_mm256_set1_ps(1), scales)));
    for (int b = 0; b < n; b++) {
        __m256 inverse = _mm256_set1_ps(inverses[b]);
        __m256i whole[4];
        for (int i = 0; i < 4; i++) /* at most 127 and a little, which is rounded to 127; NaN becomes -127 */
            whole[i] = _mm256_cvtps_epi32(_mm256_max_ps(_mm256_mul_ps(_mm256_loadu_ps(x + b * QUANT_BLOCK + 8 * i), inverse), low));
        sums[b] = _mm256_add_epi32(_mm256_add_epi32(whole[0], whole[1]), _mm256_add_epi32(whole[2], whole[3]));
        /* packs goes by halves of 128 bits: 4 values of each vector lie together, and are put into order at the end */
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]), _mm256_packs_epi32(whole[2], whole[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)(q + b * QUANT_BLOCK), bytes);
    }
    __m256i sum = fold(sums, n, true), some = first_lanes((size_t)n);
    _mm256_maskstore_ps(scale, some, scales);
    _mm256_maskstore_epi32(correction, some, _mm256_mullo_epi32(sum, _mm256_set1_epi32(-128)));
    _mm256_maskstore_ps(total, some, _mm256_mul_ps(scales, _mm256_cvtepi32_ps(sum)));
}
void quant_quantize_avx2(const float *x, size_t cols, int8_t *q, float *scale, int32_t *correction, float *total) {
    size_t b = 0, whole = cols / QUANT_BLOCK;
    for (; b + 8 <= whole; b += 8) quantize_some(x + b * QUANT_BLOCK, 8, q + b * QUANT_BLOCK, scale + b, correction + b, total + b);
    for (; b + 2 <= whole; b += 2) quantize_some(x + b * QUANT_BLOCK, 2, q + b * QUANT_BLOCK, scale + b, correction + b, total + b);
    for (; b < whole; b++) quantize_some(x + b * QUANT_BLOCK, 1, q + b * QUANT_BLOCK, scale + b, correction + b, total + b);
    if (b * QUANT_BLOCK == cols) return;
    float rest[QUANT_BLOCK] = {0};
    memcpy(rest, x + b * QUANT_BLOCK, (cols - b * QUANT_BLOCK) * sizeof *rest);
    quantize_some(rest, 1, q + b * QUANT_BLOCK, scale + b, correction + b, total + b);
}

/* Of each four values k: 0, 2, 1, 3, in 16 bits: the pairs that q8_part's even and odd bytes meet. */
static void widen_avx2(const int8_t *q, size_t blocks, int16_t *wide) {
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (size_t i = 0; i < blocks * QUANT_BLOCK; i += 16) {
        __m128i bytes = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(q + i)), order);
        _mm256_storeu_si256((__m256i *)(void *)(wide + i), _mm256_cvtepi8_epi16(bytes));
    }
}

const struct quant_kernels QUANT_KERNELS_AVX2 = {.name = "avx2", .usable = quant_usable_avx2, .f32 = quant_f32_avx2, .bf16 = quant_bf16_avx2, .f16 = quant_f16_avx2, .f32_rows = quant_f32_rows_avx2,
                                                 .bf16_rows = quant_bf16_rows_avx2, .f16_rows = quant_f16_rows_avx2, .lengthen = quant_lengthen_avx2, .short_rows = quant_short_rows_avx2, .many_rows = QUANT_MANY_ROWS_AVX2,
                                                 .q8 = q8_avx2, .q4 = q4_avx2, .q4m = q4m_avx2, .block_rows = QUANT_TILE_ROWS, .block_unit = QUANT_TILE_ROWS, .quantize = quant_quantize_avx2, .widen = widen_avx2};
#endif
