/* attention.h's kernels for AVX2 with FMA and F16C. */
#ifdef __x86_64__
#include <immintrin.h>
#include <math.h>

#include "engine/attention_internal.h"

static inline __attribute__((always_inline)) __m256 load(const void *data, const bool half, size_t i) {
    if (half) return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)data + i)));
    return _mm256_loadu_ps((const float *)data + i);
}

/* At most 4 queries: 8 sums and 2 vectors of keys. */
static inline __attribute__((always_inline)) void scores_n(const float *const *q, const int n, const void *keys, const bool half, size_t head_dim,
                                                           float *scores, size_t stride) {
    __m256 acc[4][2];
    for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    for (size_t d = 0; d < head_dim; d++) {
        __m256 k0 = load(keys, half, d * 16), k1 = load(keys, half, d * 16 + 8);
        for (int i = 0; i < n; i++) {
            __m256 qd = _mm256_set1_ps(q[i][d]);
            acc[i][0] = _mm256_fmadd_ps(qd, k0, acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(qd, k1, acc[i][1]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) _mm256_storeu_ps(scores + (size_t)i * stride + 8 * v, acc[i][v]);
}

static void scores_block(const float *const *q, size_t n, const void *keys, bool half, size_t head_dim, float *scores, size_t stride) {
    for (size_t i = 0; i < n; i += 4, q += 4, scores += 4 * stride) switch (((n - i < 4 ? n - i : 4) << 1) | half) {
        case 2: scores_n(q, 1, keys, false, head_dim, scores, stride); break;
        case 3: scores_n(q, 1, keys, true, head_dim, scores, stride); break;
        case 4: scores_n(q, 2, keys, false, head_dim, scores, stride); break;
        case 5: scores_n(q, 2, keys, true, head_dim, scores, stride); break;
        case 6: scores_n(q, 3, keys, false, head_dim, scores, stride); break;
        case 7: scores_n(q, 3, keys, true, head_dim, scores, stride); break;
        case 8: scores_n(q, 4, keys, false, head_dim, scores, stride); break;
        default: scores_n(q, 4, keys, true, head_dim, scores, stride); break;
        }
}

/* One query times 4 blocks. */
static inline __attribute__((always_inline)) void scores_4(const float *q, const void *const *keys, const bool half, size_t head_dim, float *scores) {
    __m256 acc[4][2];
    for (int b = 0; b < 4; b++) acc[b][0] = acc[b][1] = _mm256_setzero_ps();
    for (size_t d = 0; d < head_dim; d++) {
        __m256 qd = _mm256_set1_ps(q[d]);
        for (int b = 0; b < 4; b++)
            for (size_t v = 0; v < 2; v++) acc[b][v] = _mm256_fmadd_ps(qd, load(keys[b], half, d * 16 + 8 * v), acc[b][v]);
    }
    for (int b = 0; b < 4; b++)
        for (int v = 0; v < 2; v++) _mm256_storeu_ps(scores + 16 * b + 8 * v, acc[b][v]);
}

static void scores_avx2(const float *const *q, size_t n, const void *const *keys, size_t blocks, bool half, size_t head_dim, float *scores, size_t stride) {
    size_t b = 0;
    for (; n == 1 && b + 4 <= blocks; b += 4) {
        if (half) scores_4(q[0], keys + b, true, head_dim, scores + 16 * b);
        else scores_4(q[0], keys + b, false, head_dim, scores + 16 * b);
    }
    for (; b < blocks; b++) scores_block(q, n, keys[b], half, head_dim, scores + 16 * b, stride);
}

/* One query times 32 dimensions, then 8, then single ones. */
static inline __attribute__((always_inline)) void values_one(const float *p, const void *values, const bool half, size_t count, size_t head_dim,
                                                             float *out) {
    size_t d = 0;
    for (; d + 32 <= head_dim; d += 32) {
        __m256 acc[4];
        for (size_t v = 0; v < 4; v++) acc[v] = _mm256_loadu_ps(out + d + 8 * v);
        for (size_t t = 0; t < count; t++) {
            __m256 pt = _mm256_set1_ps(p[t]);
            for (size_t v = 0; v < 4; v++) acc[v] = _mm256_fmadd_ps(pt, load(values, half, t * head_dim + d + 8 * v), acc[v]);
        }
        for (size_t v = 0; v < 4; v++) _mm256_storeu_ps(out + d + 8 * v, acc[v]);
    }
    for (; d + 8 <= head_dim; d += 8) {
        __m256 acc = _mm256_loadu_ps(out + d);
        for (size_t t = 0; t < count; t++) acc = _mm256_fmadd_ps(_mm256_set1_ps(p[t]), load(values, half, t * head_dim + d), acc);
        _mm256_storeu_ps(out + d, acc);
    }
    for (; d < head_dim; d++)
        for (size_t t = 0; t < count; t++) {
            size_t at = t * head_dim + d;
            out[d] = fmaf(p[t], half ? _cvtsh_ss(((const uint16_t *)values)[at]) : ((const float *)values)[at], out[d]);
        }
}

static void values_avx2(const float *p, size_t n, size_t stride, const void *values, bool half, size_t count, size_t head_dim, float *const *out) {
    for (size_t i = 0; i < n; i++) {
        if (half) values_one(p + i * stride, values, true, count, head_dim, out[i]);
        else values_one(p + i * stride, values, false, count, head_dim, out[i]);
    }
}

const struct attention_kernels ATTENTION_KERNELS_AVX2 = {"avx2", scores_avx2, values_avx2};
#endif
