/* attention.h's kernels for AVX2 with FMA and F16C. */
#ifdef __x86_64__
#include <immintrin.h>
#include <math.h>

#include "engine/attention_internal.h"

static inline __attribute__((always_inline)) __m256 load(const void *data, const bool half, size_t i) {
    if (half) return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)data + i)));
    return _mm256_loadu_ps((const float *)data + i);
}

/* At most 6 queries: 12 sums, 2 vectors of keys, 1 of a query. */
enum { SCORES_QUERIES = 6 };
static inline __attribute__((always_inline)) void scores_n(const float *const *q, const int n, const void *keys, const void *next, const bool half, size_t head_dim,
                                                           float *scores, size_t stride) {
    __m256 acc[SCORES_QUERIES][2];
    for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    for (size_t d = 0; d < head_dim; d++) {
        __m256 k0 = load(keys, half, d * 16), k1 = load(keys, half, d * 16 + 8);
        if (!half || d % 2 == 0) attention_ask(next, d * (half ? 32 : 64));
        for (int i = 0; i < n; i++) {
            __m256 qd = _mm256_set1_ps(q[i][d]);
            acc[i][0] = _mm256_fmadd_ps(qd, k0, acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(qd, k1, acc[i][1]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) _mm256_storeu_ps(scores + (size_t)i * stride + 8 * v, acc[i][v]);
}

static inline __attribute__((always_inline)) void scores_block(const float *const *q, size_t n, const void *keys, const void *next, const bool half, size_t head_dim,
                                                               float *scores, size_t stride) {
    while (n > 0) {
        size_t now = n == 7 || n == 8 ? 4 : n < SCORES_QUERIES ? n : SCORES_QUERIES;
        switch (now) {
        case 1: scores_n(q, 1, keys, next, half, head_dim, scores, stride); break;
        case 2: scores_n(q, 2, keys, next, half, head_dim, scores, stride); break;
        case 3: scores_n(q, 3, keys, next, half, head_dim, scores, stride); break;
        case 4: scores_n(q, 4, keys, next, half, head_dim, scores, stride); break;
        case 5: scores_n(q, 5, keys, next, half, head_dim, scores, stride); break;
        default: scores_n(q, 6, keys, next, half, head_dim, scores, stride); break;
        }
        n -= now;
        q += now;
        scores += now * stride;
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
        for (int b = 0; (!half || d % 2 == 0) && b < 4; b++) attention_ask(keys[b + ATTENTION_AHEAD], d * (half ? 32 : 64));
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
    for (; b < blocks; b++) {
        if (half) scores_block(q, n, keys[b], keys[b + ATTENTION_AHEAD], true, head_dim, scores + 16 * b, stride);
        else scores_block(q, n, keys[b], keys[b + ATTENTION_AHEAD], false, head_dim, scores + 16 * b, stride);
    }
}

/* n queries, at most 3, times `vectors` · 8 dimensions from d on: 12 sums, a vector of values, one of a probability. */
static inline __attribute__((always_inline)) void values_part(const float *p, const int n, size_t stride, const void *const *values, size_t tokens, const bool half, size_t head_dim,
                                                              size_t d, const int vectors, float *const *out) {
    __m256 acc[3][4];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) acc[i][v] = _mm256_loadu_ps(out[i] + d + 8 * v);
    for (size_t from = 0; from < tokens; from += KV_BLOCK_TOKENS, values++, p += KV_BLOCK_TOKENS) {
        size_t count = tokens - from < KV_BLOCK_TOKENS ? tokens - from : KV_BLOCK_TOKENS;
        for (size_t t = 0; t < count; t++) {
            const size_t at = t * head_dim + d, size = half ? 2 : 4;
            __m256 pt[3];
            for (int i = 0; i < n; i++) pt[i] = _mm256_set1_ps(p[(size_t)i * stride + t]);
            for (size_t line = 0; line < (size_t)vectors * 8 * size; line += 64) attention_ask(values[ATTENTION_AHEAD], at * size + line);
            for (int v = 0; v < vectors; v++) {
                __m256 value = load(values[0], half, at + 8 * (size_t)v);
                for (int i = 0; i < n; i++) acc[i][v] = _mm256_fmadd_ps(pt[i], value, acc[i][v]);
            }
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) _mm256_storeu_ps(out[i] + d + 8 * v, acc[i][v]);
}

/* 32 dimensions at a time, then 8, then single ones. */
static inline __attribute__((always_inline)) void values_n(const float *p, const int n, size_t stride, const void *const *values, size_t tokens, const bool half, size_t head_dim,
                                                           float *const *out) {
    size_t d = 0;
    for (; d + 32 <= head_dim; d += 32) values_part(p, n, stride, values, tokens, half, head_dim, d, 4, out);
    for (; d + 8 <= head_dim; d += 8) values_part(p, n, stride, values, tokens, half, head_dim, d, 1, out);
    for (; d < head_dim; d++)
        for (size_t t = 0; t < tokens; t++) {
            size_t at = t % KV_BLOCK_TOKENS * head_dim + d;
            const void *block = values[t / KV_BLOCK_TOKENS];
            float value = half ? _cvtsh_ss(((const uint16_t *)block)[at]) : ((const float *)block)[at];
            for (int i = 0; i < n; i++) out[i][d] = fmaf(p[(size_t)i * stride + t], value, out[i][d]);
        }
}

static inline __attribute__((always_inline)) void values_any(const float *p, size_t n, size_t stride, const void *const *values, size_t tokens, const bool half, size_t head_dim,
                                                             float *const *out) {
    for (; n > 4 || n == 3; n -= 3, p += 3 * stride, out += 3) values_n(p, 3, stride, values, tokens, half, head_dim, out);
    for (; n >= 2; n -= 2, p += 2 * stride, out += 2) values_n(p, 2, stride, values, tokens, half, head_dim, out);
    if (n == 1) values_n(p, 1, stride, values, tokens, half, head_dim, out);
}

static void values_avx2(const float *p, size_t n, size_t stride, const void *const *values, size_t tokens, bool half, size_t head_dim, float *const *out) {
    if (half) values_any(p, n, stride, values, tokens, true, head_dim, out);
    else values_any(p, n, stride, values, tokens, false, head_dim, out);
}

/* --- int8 --- */

/* f16[16] of scale s: 8 · `from` tokens on. */
static inline __attribute__((always_inline)) __m256 scales(const uint8_t *head, size_t head_dim, size_t s, size_t from) {
    return load(head + kv_scales_offset(head_dim), true, s * KV_BLOCK_TOKENS + 8 * from);
}

/* n queries, at most 6, times a block: 12 sums of pairs, 2 vectors of keys, a pair of a query; sums of KV_SCALED values then go to the scores. */
static inline __attribute__((always_inline)) void scores_int8_n(const struct attention_query *q, const int n, const uint8_t *keys, const void *next, size_t head_dim, float *scores,
                                                                size_t stride) {
    for (size_t s = 0, from = 0; from < head_dim; s++, from += KV_SCALED) {
        size_t to = (from + KV_SCALED < head_dim ? from + KV_SCALED : head_dim + 1) / 2;
        __m256i acc[SCORES_QUERIES][2];
        for (int i = 0; i < n; i++) acc[i][0] = acc[i][1] = _mm256_setzero_si256();
        for (size_t pair = from / 2; pair < to; pair++) {
            const __m128i *at = (const __m128i *)(const void *)(keys + pair * 2 * KV_BLOCK_TOKENS);
            if (pair % 2 == 0) attention_ask(next, pair * 2 * KV_BLOCK_TOKENS);
            __m256i k0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(at)), k1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(at + 1));
            for (int i = 0; i < n; i++) {
                int32_t both;
                memcpy(&both, q[i].q + 2 * pair, sizeof both);
                __m256i qd = _mm256_set1_epi32(both);
                acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(qd, k0));
                acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(qd, k1));
            }
        }
        if (s % 2 == 0) attention_ask(next, kv_scales_offset(head_dim) + s * KV_BLOCK_TOKENS * sizeof(uint16_t));
        for (size_t v = 0; v < 2; v++) {
            __m256 scale = scales(keys, head_dim, s, v);
            for (int i = 0; i < n; i++) {
                float *out = scores + (size_t)i * stride + 8 * v;
                __m256 before = s ? _mm256_loadu_ps(out) : _mm256_setzero_ps();
                _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[i][v]), _mm256_mul_ps(_mm256_set1_ps(q[i].scale[s]), scale), before));
            }
        }
    }
}

static void scores_int8_avx2(const struct attention_query *q, size_t n, const void *const *keys, size_t blocks, size_t head_dim, float *scores, size_t stride) {
    while (n > 0) {
        size_t now = n == 7 || n == 8 ? 4 : n < SCORES_QUERIES ? n : SCORES_QUERIES;
        for (size_t b = 0; b < blocks; b++) {
            switch (now) {
            case 1: scores_int8_n(q, 1, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores + 16 * b, stride); break;
            case 2: scores_int8_n(q, 2, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores + 16 * b, stride); break;
            case 3: scores_int8_n(q, 3, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores + 16 * b, stride); break;
            case 4: scores_int8_n(q, 4, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores + 16 * b, stride); break;
            case 5: scores_int8_n(q, 5, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores + 16 * b, stride); break;
            default: scores_int8_n(q, 6, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores + 16 * b, stride); break;
            }
        }
        n -= now;
        q += now;
        scores += now * stride;
    }
}

/* What values of scale s of a block are multiplied by; behind the tokens that there are, anything. */
static inline __attribute__((always_inline)) void weights_of(const float *p, const int n, size_t stride, const uint8_t *values, size_t head_dim, size_t s, float (*weights)[KV_BLOCK_TOKENS]) {
    for (size_t v = 0; v < 2; v++) {
        __m256 scale = scales(values, head_dim, s, v);
        for (int i = 0; i < n; i++) _mm256_store_ps(weights[i] + 8 * v, _mm256_mul_ps(_mm256_loadu_ps(p + (size_t)i * stride + 8 * v), scale));
    }
}

/* n queries, at most 3, times `vectors` · 8 dimensions of scale s from d on; no vectors: dimension d alone. */
static inline __attribute__((always_inline)) void values_int8_part(const float *p, const int n, size_t stride, const void *const *values, size_t tokens, size_t head_dim, size_t s, size_t d,
                                                                   const int vectors, float *const *out) {
    __m256 acc[3][4];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) acc[i][v] = _mm256_loadu_ps(out[i] + d + 8 * v);
    for (size_t from = 0; from < tokens; from += KV_BLOCK_TOKENS, values++, p += KV_BLOCK_TOKENS) {
        _Alignas(32) float weights[3][KV_BLOCK_TOKENS];
        size_t count = tokens - from < KV_BLOCK_TOKENS ? tokens - from : KV_BLOCK_TOKENS;
        if (s % 2 == 0) attention_ask(values[ATTENTION_AHEAD], kv_scales_offset(head_dim) + s * KV_BLOCK_TOKENS * sizeof(uint16_t));
        weights_of(p, n, stride, values[0], head_dim, s, weights);
        for (size_t t = 0; t < count; t++) {
            const int8_t *at = (const int8_t *)values[0] + t * head_dim + d;
            __m256 weight[3];
            if (s % 2 == 0) attention_ask(values[ATTENTION_AHEAD], t * head_dim + d);
            for (int i = 0; i < n; i++) weight[i] = _mm256_set1_ps(weights[i][t]);
            for (int v = 0; v < vectors; v++) {
                __m256 value = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(at + 8 * v))));
                for (int i = 0; i < n; i++) acc[i][v] = _mm256_fmadd_ps(weight[i], value, acc[i][v]);
            }
            for (int i = 0; vectors == 0 && i < n; i++) out[i][d] = fmaf(weights[i][t], at[0], out[i][d]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) _mm256_storeu_ps(out[i] + d + 8 * v, acc[i][v]);
}

static inline __attribute__((always_inline)) void values_int8_n(const float *p, const int n, size_t stride, const void *const *values, size_t tokens, size_t head_dim, float *const *out) {
    for (size_t s = 0, d = 0; d < head_dim; s++) {
        size_t to = d + KV_SCALED < head_dim ? d + KV_SCALED : head_dim;
        if (d + 32 <= to) {
            values_int8_part(p, n, stride, values, tokens, head_dim, s, d, 4, out);
            d += 32;
        }
        for (; d + 8 <= to; d += 8) values_int8_part(p, n, stride, values, tokens, head_dim, s, d, 1, out);
        for (; d < to; d++) values_int8_part(p, n, stride, values, tokens, head_dim, s, d, 0, out);
    }
}

static void values_int8_avx2(const float *p, size_t n, size_t stride, const void *const *values, size_t tokens, size_t head_dim, float *const *out) {
    for (; n > 4 || n == 3; n -= 3, p += 3 * stride, out += 3) values_int8_n(p, 3, stride, values, tokens, head_dim, out);
    for (; n >= 2; n -= 2, p += 2 * stride, out += 2) values_int8_n(p, 2, stride, values, tokens, head_dim, out);
    if (n == 1) values_int8_n(p, 1, stride, values, tokens, head_dim, out);
}

static void halves_avx2(const float *x, size_t n, uint16_t *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i *)(void *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++) out[i] = (uint16_t)_mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(x[i]), _MM_FROUND_TO_NEAREST_INT), 0);
}

const struct attention_kernels ATTENTION_KERNELS_AVX2 = {"avx2", scores_avx2, values_avx2, scores_int8_avx2, values_int8_avx2, halves_avx2};
#endif
