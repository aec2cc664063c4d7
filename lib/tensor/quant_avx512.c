/* quant.h's kernels for AVX-512 with VNNI: 16 rows of W per vector, QUANT_TILE_ROWS rows of x per pass over a panel. */
#ifdef __x86_64__
#include <immintrin.h>

#include "tensor/quant_internal.h"

static bool usable(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

/* n is a constant where this is inlined, so that the sums live in registers. */
static inline __attribute__((always_inline)) void f32_rows(const float *panel, size_t cols, const float *x, size_t stride, const int n,
                                                           float *tile) {
    __m512 acc[QUANT_TILE_ROWS][4];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 4; v++) acc[i][v] = _mm512_setzero_ps();
    for (size_t k = 0; k < cols; k++, panel += PACKED_FLOAT_PANEL) {
        __m512 w[4];
        for (int v = 0; v < 4; v++) w[v] = _mm512_load_ps(panel + 16 * v);
        /* streaming: the hardware's prefetcher stops at page borders, this does not */
        for (int v = 0; v < 4; v++) _mm_prefetch((const char *)(panel + 2048 + 16 * v), _MM_HINT_T0);
        for (int i = 0; i < n; i++) {
            __m512 xk = _mm512_set1_ps(x[(size_t)i * stride + k]);
            for (int v = 0; v < 4; v++) acc[i][v] = _mm512_fmadd_ps(xk, w[v], acc[i][v]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 4; v++) _mm512_storeu_ps(tile + i * PACKED_FLOAT_PANEL + 16 * v, acc[i][v]);
}

static void f32_avx512(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, float *tile) {
    switch (n) {
    case 1: f32_rows(panel, cols, x, x_stride, 1, tile); break;
    case 2: f32_rows(panel, cols, x, x_stride, 2, tile); break;
    case 3: f32_rows(panel, cols, x, x_stride, 3, tile); break;
    case 4: f32_rows(panel, cols, x, x_stride, 4, tile); break;
    case 5: f32_rows(panel, cols, x, x_stride, 5, tile); break;
    default: f32_rows(panel, cols, x, x_stride, 6, tile); break;
    }
}

static inline __attribute__((always_inline)) void q8_rows(const uint8_t *block, size_t blocks, const int8_t *q, const float *scale,
                                                          const int32_t *correction, const int n, float *tile) {
    __m512 acc[QUANT_TILE_ROWS][2];
    for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; b++, block += QUANT_Q8_BLOCK_SIZE) {
        __m512i dot[QUANT_TILE_ROWS][2];
        for (int i = 0; i < n; i++) dot[i][0] = dot[i][1] = _mm512_set1_epi32(correction[(size_t)i * blocks + b]);
        for (int g = 0; g < QUANT_BLOCK / 4; g++) {
            __m512i w0 = _mm512_load_si512(block + g * 128), w1 = _mm512_load_si512(block + g * 128 + 64);
            _mm_prefetch((const char *)block + 4096 + g * 128, _MM_HINT_T0);
            _mm_prefetch((const char *)block + 4096 + g * 128 + 64, _MM_HINT_T0);
            for (int i = 0; i < n; i++) {
                int32_t four;
                memcpy(&four, q + ((size_t)i * blocks + b) * QUANT_BLOCK + g * 4, sizeof four);
                __m512i x = _mm512_set1_epi32(four);
                dot[i][0] = _mm512_dpbusd_epi32(dot[i][0], w0, x);
                dot[i][1] = _mm512_dpbusd_epi32(dot[i][1], w1, x);
            }
        }
        __m512 s0 = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)(block + 1024)));
        __m512 s1 = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)(block + 1056)));
        for (int i = 0; i < n; i++) {
            __m512 sx = _mm512_set1_ps(scale[(size_t)i * blocks + b]);
            acc[i][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][0]), _mm512_mul_ps(s0, sx), acc[i][0]);
            acc[i][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][1]), _mm512_mul_ps(s1, sx), acc[i][1]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) _mm512_storeu_ps(tile + i * PACKED_BLOCK_PANEL + 16 * v, acc[i][v]);
}

static void q8_avx512(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) {
    switch (n) {
    case 1: q8_rows(panel, blocks, x->q, x->scale, x->correction, 1, tile); break;
    case 2: q8_rows(panel, blocks, x->q, x->scale, x->correction, 2, tile); break;
    case 3: q8_rows(panel, blocks, x->q, x->scale, x->correction, 3, tile); break;
    case 4: q8_rows(panel, blocks, x->q, x->scale, x->correction, 4, tile); break;
    case 5: q8_rows(panel, blocks, x->q, x->scale, x->correction, 5, tile); break;
    default: q8_rows(panel, blocks, x->q, x->scale, x->correction, 6, tile); break;
    }
}

static void quantize_avx512(const float *x, size_t cols, int8_t *q, float *scale, int32_t *correction) {
    const __m512 low = _mm512_set1_ps(-127), high = _mm512_set1_ps(127), sign = _mm512_set1_ps(-0.0f);
    for (size_t b = 0; b * QUANT_BLOCK < cols; b++, x += QUANT_BLOCK, q += QUANT_BLOCK) {
        size_t count = cols - b * QUANT_BLOCK;
        uint32_t mask = count >= QUANT_BLOCK ? 0xffffffffu : (1u << count) - 1;
        __m512 a = _mm512_maskz_loadu_ps((__mmask16)mask, x), c = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + 16);
        /* max(v, so far): the second where v is NaN, so that NaN never is the maximum, as in the reference */
        __m512 most = _mm512_max_ps(_mm512_andnot_ps(sign, a), _mm512_setzero_ps());
        most = _mm512_max_ps(_mm512_andnot_ps(sign, c), most);
        quant_block_scale(_mm512_reduce_max_ps(most), &scale[b]);
        __m512 inverse = _mm512_set1_ps(scale[b] > 0 ? 1.0f / scale[b] : 0);
        a = _mm512_min_ps(high, _mm512_max_ps(_mm512_mul_ps(a, inverse), low));
        c = _mm512_min_ps(high, _mm512_max_ps(_mm512_mul_ps(c, inverse), low));
        __m512i ia = _mm512_cvtps_epi32(a), ic = _mm512_cvtps_epi32(c);
        _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtepi32_epi8(ia));
        _mm_storeu_si128((__m128i *)(void *)(q + 16), _mm512_cvtepi32_epi8(ic));
        correction[b] = -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(ia, ic));
    }
}

/* bf16, f16 and 4 bits have no form of 512 bits yet. */
const struct quant_kernels QUANT_KERNELS_AVX512 = {.name = "avx512", .usable = usable, .f32 = f32_avx512, .bf16 = quant_bf16_avx2, .f16 = quant_f16_avx2,
                                                   .q8 = q8_avx512, .q4 = quant_q4_avx2, .q4m = quant_q4m_avx2, .quantize = quantize_avx512};
#endif
