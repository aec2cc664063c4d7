/* attention.h's kernels for AVX-512 with VNNI. */
#ifdef __x86_64__
#include <immintrin.h>

#include "engine/attention_internal.h"

static inline __attribute__((always_inline)) __m512 load(const void *data, const bool half, size_t i) {
    if (half) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)((const uint16_t *)data + i)));
    return _mm512_loadu_ps((const float *)data + i);
}

/* n queries times some blocks at once, up to 16 sums: one chain of additions for each, and with fewer than 8 the two units that add would wait for one another. */
static inline __attribute__((always_inline)) void scores_together(const float *const *q, const int n, const void *const *keys, const int blocks, const bool half,
                                                                  size_t head_dim, float *scores, size_t stride) {
    __m512 acc[8][4];
    for (int i = 0; i < n; i++)
        for (int b = 0; b < blocks; b++) acc[i][b] = _mm512_setzero_ps();
    for (size_t d = 0; d < head_dim; d++) {
        __m512 key[4];
        for (int b = 0; b < blocks; b++) key[b] = load(keys[b], half, d * 16);
        for (int b = 0; (!half || d % 2 == 0) && b < blocks; b++) attention_ask(keys[b + ATTENTION_AHEAD], d * (half ? 32 : 64));
        for (int i = 0; i < n; i++) {
            __m512 one = _mm512_set1_ps(q[i][d]);
            for (int b = 0; b < blocks; b++) acc[i][b] = _mm512_fmadd_ps(one, key[b], acc[i][b]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int b = 0; b < blocks; b++) _mm512_storeu_ps(scores + (size_t)i * stride + 16 * b, acc[i][b]);
}

/* blocks: at most 2 of more than 4 queries. */
static inline __attribute__((always_inline)) void scores_any(const float *const *q, size_t n, const void *const *keys, const int blocks, const bool half, size_t head_dim, float *scores,
                                                             size_t stride) {
    const int few = blocks < 2 ? blocks : 2;
    switch (n) {
    case 1: scores_together(q, 1, keys, blocks, half, head_dim, scores, stride); break;
    case 2: scores_together(q, 2, keys, blocks, half, head_dim, scores, stride); break;
    case 3: scores_together(q, 3, keys, blocks, half, head_dim, scores, stride); break;
    case 4: scores_together(q, 4, keys, blocks, half, head_dim, scores, stride); break;
    case 5: scores_together(q, 5, keys, few, half, head_dim, scores, stride); break;
    case 6: scores_together(q, 6, keys, few, half, head_dim, scores, stride); break;
    case 7: scores_together(q, 7, keys, few, half, head_dim, scores, stride); break;
    default: scores_together(q, 8, keys, few, half, head_dim, scores, stride); break;
    }
}

static inline __attribute__((always_inline)) void scores_blocks(const float *const *q, size_t n, const void *const *keys, size_t blocks, const bool half,
                                                                size_t head_dim, float *scores, size_t stride) {
    const size_t most = n <= 4 ? 4 : 2;
    for (size_t now; blocks > 0; blocks -= now, keys += now, scores += KV_BLOCK_TOKENS * now) {
        now = blocks < most ? blocks : most;
        switch (now) {
        case 1: scores_any(q, n, keys, 1, half, head_dim, scores, stride); break;
        case 2: scores_any(q, n, keys, 2, half, head_dim, scores, stride); break;
        case 3: scores_any(q, n, keys, 3, half, head_dim, scores, stride); break;
        default: scores_any(q, n, keys, 4, half, head_dim, scores, stride); break;
        }
    }
}

static void scores_avx512(const float *const *q, size_t n, const void *const *keys, size_t blocks, bool half, size_t head_dim, float *scores,
                          size_t stride) {
    if (half) scores_blocks(q, n, keys, blocks, true, head_dim, scores, stride);
    else scores_blocks(q, n, keys, blocks, false, head_dim, scores, stride);
}

enum { VALUES_QUERIES = 6 };
/* n queries (at most 6: 24 sums, 4 vectors of values) times `vectors` · 16 dimensions from d on; the last vector by `mask`. */
static inline __attribute__((always_inline)) void values_part(const float *p, const int n, size_t stride, const void *const *values, size_t tokens, const bool half, size_t head_dim,
                                                              float *const *out, size_t d, const int vectors, __mmask16 mask) {
    __m512 acc[VALUES_QUERIES][4];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) acc[i][v] = _mm512_maskz_loadu_ps((__mmask16)(v == vectors - 1 ? mask : 0xffff), out[i] + d + 16 * (size_t)v);
    for (size_t from = 0; from < tokens; from += KV_BLOCK_TOKENS, values++, p += KV_BLOCK_TOKENS) {
        size_t count = tokens - from < KV_BLOCK_TOKENS ? tokens - from : KV_BLOCK_TOKENS;
        for (size_t t = 0; t < count; t++) {
            const size_t at = t * head_dim + d, size = half ? 2 : 4;
            __m512 value[4];
            for (size_t line = 0; line < (size_t)vectors * 16 * size; line += 64) attention_ask(values[ATTENTION_AHEAD], at * size + line);
            for (int v = 0; v < vectors; v++) {
                if (v < vectors - 1 || mask == 0xffff) value[v] = load(values[0], half, at + 16 * (size_t)v);
                else if (half) value[v] = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)values[0] + at + 16 * (size_t)v));
                else value[v] = _mm512_maskz_loadu_ps(mask, (const float *)values[0] + at + 16 * (size_t)v);
            }
            for (int i = 0; i < n; i++) {
                __m512 pt = _mm512_set1_ps(p[(size_t)i * stride + t]);
                for (int v = 0; v < vectors; v++) acc[i][v] = _mm512_fmadd_ps(pt, value[v], acc[i][v]);
            }
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) _mm512_mask_storeu_ps(out[i] + d + 16 * (size_t)v, (__mmask16)(v == vectors - 1 ? mask : 0xffff), acc[i][v]);
}

static inline __attribute__((always_inline)) void values_n(const float *p, const int n, size_t stride, const void *const *values, size_t tokens, const bool half, size_t head_dim,
                                                           float *const *out) {
    size_t d = 0;
    for (; d + 64 <= head_dim; d += 64) values_part(p, n, stride, values, tokens, half, head_dim, out, d, 4, 0xffff);
    for (; d < head_dim; d += 16) {
        __mmask16 mask = (__mmask16)(head_dim - d >= 16 ? 0xffff : (1u << (head_dim - d)) - 1);
        values_part(p, n, stride, values, tokens, half, head_dim, out, d, 1, mask);
    }
}

static inline __attribute__((always_inline)) void values_any(const float *p, size_t n, size_t stride, const void *const *values, size_t tokens, const bool half, size_t head_dim,
                                                             float *const *out) {
    for (size_t now; n > 0; n -= now, p += now * stride, out += now) {
        now = n > VALUES_QUERIES ? (n + 1) / 2 : n;
        switch (now) {
        case 1: values_n(p, 1, stride, values, tokens, half, head_dim, out); break;
        case 2: values_n(p, 2, stride, values, tokens, half, head_dim, out); break;
        case 3: values_n(p, 3, stride, values, tokens, half, head_dim, out); break;
        case 4: values_n(p, 4, stride, values, tokens, half, head_dim, out); break;
        case 5: values_n(p, 5, stride, values, tokens, half, head_dim, out); break;
        default: values_n(p, 6, stride, values, tokens, half, head_dim, out); break;
        }
    }
}

static void values_avx512(const float *p, size_t n, size_t stride, const void *const *values, size_t tokens, bool half, size_t head_dim, float *const *out) {
    if (half) values_any(p, n, stride, values, tokens, true, head_dim, out);
    else values_any(p, n, stride, values, tokens, false, head_dim, out);
}

/* --- int8 --- */

/* f16[16] of scale s, one for each token. */
static inline __attribute__((always_inline)) __m512 scales(const void *head, size_t head_dim, size_t s) {
    return load((const uint8_t *)head + kv_scales_offset(head_dim), true, s * KV_BLOCK_TOKENS);
}

/* n queries times a block: a pair of a query by the pairs of 16 tokens is one instruction; sums of KV_SCALED values then go to the scores. */
static inline __attribute__((always_inline)) void scores_int8_n(const struct attention_query *q, const int n, const uint8_t *keys, const void *next, size_t head_dim, float *scores,
                                                                size_t stride) {
    __m512 sum[ATTENTION_TILE];
    for (int i = 0; i < n; i++) sum[i] = _mm512_setzero_ps();
    for (size_t s = 0, from = 0; from < head_dim; s++, from += KV_SCALED) {
        size_t to = (from + KV_SCALED < head_dim ? from + KV_SCALED : head_dim + 1) / 2;
        __m512i acc[ATTENTION_TILE];
        for (int i = 0; i < n; i++) acc[i] = _mm512_setzero_si512();
        for (size_t pair = from / 2; pair < to; pair++) {
            __m512i key = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)(keys + pair * 2 * KV_BLOCK_TOKENS)));
            if (pair % 2 == 0) attention_ask(next, pair * 2 * KV_BLOCK_TOKENS);
            for (int i = 0; i < n; i++) {
                int32_t both;
                memcpy(&both, q[i].q + 2 * pair, sizeof both);
                acc[i] = _mm512_dpwssd_epi32(acc[i], key, _mm512_set1_epi32(both));
            }
        }
        __m512 scale = scales(keys, head_dim, s);
        if (s % 2 == 0) attention_ask(next, kv_scales_offset(head_dim) + s * KV_BLOCK_TOKENS * sizeof(uint16_t));
        for (int i = 0; i < n; i++) sum[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i]), _mm512_mul_ps(_mm512_set1_ps(q[i].scale[s]), scale), sum[i]);
    }
    for (int i = 0; i < n; i++) _mm512_storeu_ps(scores + (size_t)i * stride, sum[i]);
}

static void scores_int8_avx512(const struct attention_query *q, size_t n, const void *const *keys, size_t blocks, size_t head_dim, float *scores, size_t stride) {
    for (size_t b = 0; b < blocks; b++, scores += KV_BLOCK_TOKENS) {
        switch (n) {
        case 1: scores_int8_n(q, 1, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores, stride); break;
        case 2: scores_int8_n(q, 2, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores, stride); break;
        case 3: scores_int8_n(q, 3, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores, stride); break;
        case 4: scores_int8_n(q, 4, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores, stride); break;
        case 5: scores_int8_n(q, 5, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores, stride); break;
        case 6: scores_int8_n(q, 6, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores, stride); break;
        case 7: scores_int8_n(q, 7, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores, stride); break;
        default: scores_int8_n(q, 8, keys[b], keys[b + ATTENTION_AHEAD], head_dim, scores, stride); break;
        }
    }
}

/* n queries, at most 4, times `vectors` · 16 dimensions of scale s from d on; the last vector by `mask`. */
static inline __attribute__((always_inline)) void values_int8_part(const float *p, const int n, size_t stride, const void *const *values, size_t tokens, size_t head_dim, size_t s, size_t d,
                                                                   const int vectors, __mmask16 mask, float *const *out) {
    __m512 acc[4][2];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) acc[i][v] = _mm512_maskz_loadu_ps(mask, out[i] + d + 16 * v);
    for (size_t from = 0; from < tokens; from += KV_BLOCK_TOKENS, values++, p += KV_BLOCK_TOKENS) {
        _Alignas(64) float weights[4][KV_BLOCK_TOKENS]; /* those behind `tokens` are anything */
        size_t count = tokens - from < KV_BLOCK_TOKENS ? tokens - from : KV_BLOCK_TOKENS;
        __m512 scale = scales(values[0], head_dim, s);
        if (s % 2 == 0) attention_ask(values[ATTENTION_AHEAD], kv_scales_offset(head_dim) + s * KV_BLOCK_TOKENS * sizeof(uint16_t));
        for (int i = 0; i < n; i++) _mm512_store_ps(weights[i], _mm512_mul_ps(_mm512_loadu_ps(p + (size_t)i * stride), scale));
        for (size_t t = 0; t < count; t++) {
            if (s % 2 == 0) attention_ask(values[ATTENTION_AHEAD], t * head_dim + d);
            for (int v = 0; v < vectors; v++) {
                const int8_t *at = (const int8_t *)values[0] + t * head_dim + d + 16 * (size_t)v;
                __m128i bytes = mask == 0xffff ? _mm_loadu_si128((const __m128i *)(const void *)at) : _mm_maskz_loadu_epi8(mask, at);
                __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
                for (int i = 0; i < n; i++) acc[i][v] = _mm512_fmadd_ps(_mm512_set1_ps(weights[i][t]), value, acc[i][v]);
            }
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < vectors; v++) _mm512_mask_storeu_ps(out[i] + d + 16 * v, mask, acc[i][v]);
}

static inline __attribute__((always_inline)) void values_int8_n(const float *p, const int n, size_t stride, const void *const *values, size_t tokens, size_t head_dim,
                                                                float *const *out) {
    for (size_t s = 0, d = 0; d < head_dim; s++) {
        size_t to = d + KV_SCALED < head_dim ? d + KV_SCALED : head_dim;
        if (d + 32 <= to) {
            values_int8_part(p, n, stride, values, tokens, head_dim, s, d, 2, 0xffff, out);
            d += 32;
        }
        for (; d < to; d += 16) values_int8_part(p, n, stride, values, tokens, head_dim, s, d, 1, (__mmask16)(to - d >= 16 ? 0xffff : (1u << (to - d)) - 1), out);
        d = to;
    }
}

static void values_int8_avx512(const float *p, size_t n, size_t stride, const void *const *values, size_t tokens, size_t head_dim, float *const *out) {
    for (; n >= 4; n -= 4, p += 4 * stride, out += 4) values_int8_n(p, 4, stride, values, tokens, head_dim, out);
    switch (n) {
    case 1: values_int8_n(p, 1, stride, values, tokens, head_dim, out); break;
    case 2: values_int8_n(p, 2, stride, values, tokens, head_dim, out); break;
    case 3: values_int8_n(p, 3, stride, values, tokens, head_dim, out); break;
    default: break;
    }
}

static void halves_avx512(const float *x, size_t n, uint16_t *out) {
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 some = (__mmask16)(n - i < 16 ? (1u << (n - i)) - 1 : 0xffff);
        _mm256_mask_storeu_epi16(out + i, some, _mm512_cvtps_ph(_mm512_maskz_loadu_ps(some, x + i), _MM_FROUND_TO_NEAREST_INT));
    }
}

const struct attention_kernels ATTENTION_KERNELS_AVX512 = {"avx512", scores_avx512, values_avx512, scores_int8_avx512, values_int8_avx512, halves_avx512};
#endif
