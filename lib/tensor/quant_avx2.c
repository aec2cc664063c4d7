/* quant.h's kernels for AVX2 with FMA and F16C: 8 rows of W per vector. */
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>

#include "tensor/quant_internal.h"

static bool usable(void) {
    __builtin_cpu_init();
    unsigned a, b, c = 0, d; /* clang has no word for f16c */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* n rows of x times `vectors` · 8 columns of the panel: their product is at most 12, so that the sums stay in 16 registers. */
static inline __attribute__((always_inline)) void f32_part(const float *panel, size_t cols, const float *x, size_t stride, const int n,
                                                           const int vectors, float *tile) {
    __m256 acc[12];
    for (int i = 0; i < n * vectors; i++) acc[i] = _mm256_setzero_ps();
    for (size_t k = 0; k < cols; k++, panel += PACKED_F32_PANEL)
        for (int i = 0; i < n; i++) {
            __m256 xk = _mm256_set1_ps(x[(size_t)i * stride + k]);
            for (int v = 0; v < vectors; v++) acc[i * vectors + v] = _mm256_fmadd_ps(xk, _mm256_load_ps(panel + 8 * v), acc[i * vectors + v]);
        }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) _mm256_storeu_ps(tile + i * PACKED_F32_PANEL + 8 * v, acc[i * vectors + v]);
}

static void f32_avx2(const float *panel, size_t cols, const float *x, size_t x_stride, size_t n, float *tile) {
    if (n == 1) {
        f32_part(panel, cols, x, x_stride, 1, 8, tile);
        return;
    }
    for (int c = 0; c < PACKED_F32_PANEL; c += 16) switch (n) {
        case 2: f32_part(panel + c, cols, x, x_stride, 2, 2, tile + c); break;
        case 3: f32_part(panel + c, cols, x, x_stride, 3, 2, tile + c); break;
        case 4: f32_part(panel + c, cols, x, x_stride, 4, 2, tile + c); break;
        case 5: f32_part(panel + c, cols, x, x_stride, 5, 2, tile + c); break;
        default: f32_part(panel + c, cols, x, x_stride, 6, 2, tile + c); break;
        }
}

/* n rows of x times 16 columns: 2 integer and 2 float sums per row, n at most 3. vpmaddubsw saturates at 16 bit, so the offset is
 * taken off the weights again and the sign goes to x: |q| ≤ 128 times 127 twice is 32,512. */
static inline __attribute__((always_inline)) void q8_part(const uint8_t *block, size_t blocks, const int8_t *q, const float *scale, const int n,
                                                          const int c, float *tile) {
    const __m256i offset = _mm256_set1_epi8((char)-128), ones = _mm256_set1_epi16(1);
    __m256 acc[3][2];
    for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < blocks; b++, block += QUANT_Q8_BLOCK_SIZE) {
        __m256i dot[3][2];
        for (int i = 0; i < n; i++) dot[i][0] = dot[i][1] = _mm256_setzero_si256();
        for (int g = 0; g < QUANT_BLOCK / 4; g++)
            for (int v = 0; v < 2; v++) {
                __m256i w = _mm256_load_si256((const __m256i *)(const void *)(block + g * 128 + c * 4 + v * 32));
                w = _mm256_xor_si256(w, offset); /* u8 − 128 as s8 */
                __m256i magnitude = _mm256_abs_epi8(w);
                for (int i = 0; i < n; i++) {
                    int32_t four;
                    memcpy(&four, q + ((size_t)i * blocks + b) * QUANT_BLOCK + g * 4, sizeof four);
                    __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(_mm256_set1_epi32(four), w));
                    dot[i][v] = _mm256_add_epi32(dot[i][v], _mm256_madd_epi16(pairs, ones));
                }
            }
        for (int v = 0; v < 2; v++) {
            __m256 sw = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(block + 1024 + c * 2 + v * 16)));
            for (int i = 0; i < n; i++) {
                __m256 s = _mm256_mul_ps(sw, _mm256_set1_ps(scale[(size_t)i * blocks + b]));
                acc[i][v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[i][v]), s, acc[i][v]);
            }
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) _mm256_storeu_ps(tile + i * PACKED_Q8_PANEL + c + 8 * v, acc[i][v]);
}

static void q8_avx2(const uint8_t *panel, size_t blocks, const int8_t *q, const float *scale, const int32_t *correction, size_t n,
                    float *tile) {
    (void)correction; /* the offset is off already */
    for (size_t i = 0; i < n; i += 3) {
        const int8_t *qi = q + i * blocks * QUANT_BLOCK;
        const float *si = scale + i * blocks;
        float *ti = tile + i * PACKED_Q8_PANEL;
        for (int c = 0; c < PACKED_Q8_PANEL; c += 16) switch (n - i) {
            case 1: q8_part(panel, blocks, qi, si, 1, c, ti); break;
            case 2: q8_part(panel, blocks, qi, si, 2, c, ti); break;
            default: q8_part(panel, blocks, qi, si, 3, c, ti); break;
            }
    }
}

static void quantize_avx2(const float *x, size_t cols, int8_t *q, float *scale, int32_t *correction) {
    const __m256 low = _mm256_set1_ps(-127), high = _mm256_set1_ps(127), sign = _mm256_set1_ps(-0.0f);
    for (size_t b = 0; b * QUANT_BLOCK < cols; b++, q += QUANT_BLOCK) {
        size_t count = cols - b * QUANT_BLOCK < QUANT_BLOCK ? cols - b * QUANT_BLOCK : QUANT_BLOCK;
        float values[QUANT_BLOCK] = {0};
        const float *xb = x + b * QUANT_BLOCK;
        if (count < QUANT_BLOCK) xb = memcpy(values, xb, count * sizeof *values);
        __m256 v[4], most = _mm256_setzero_ps();
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(xb + 8 * i);
            most = _mm256_max_ps(_mm256_andnot_ps(sign, v[i]), most); /* the second where v is NaN */
        }
        float lanes[8], max = 0;
        _mm256_storeu_ps(lanes, most);
        for (int i = 0; i < 8; i++) max = lanes[i] > max ? lanes[i] : max;
        quant_block_scale(max, &scale[b]);
        __m256 inverse = _mm256_set1_ps(scale[b] > 0 ? 1.0f / scale[b] : 0);
        int32_t whole[QUANT_BLOCK], sum = 0;
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_min_ps(high, _mm256_max_ps(_mm256_mul_ps(v[i], inverse), low));
            _mm256_storeu_si256((__m256i *)(void *)(whole + 8 * i), _mm256_cvtps_epi32(v[i]));
        }
        for (int k = 0; k < QUANT_BLOCK; k++) {
            q[k] = (int8_t)whole[k];
            sum += whole[k];
        }
        correction[b] = -128 * sum;
    }
}

const struct quant_kernels QUANT_KERNELS_AVX2 = {"avx2", usable, f32_avx2, q8_avx2, quantize_avx2};
#endif
