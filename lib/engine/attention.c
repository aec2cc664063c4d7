/* The tile's walk over the block table, and the C reference of its kernels. */
#include "engine/attention.h"

#include <float.h>
#include <math.h>

#include "engine/attention_internal.h"
#include "engine/position_bias.h"
#include "engine/rounding.h"
#include "tensor/kernels.h"
#include "tensor/quant.h"

enum { SCORES_BLOCKS = 32, QUERY_MAX = INT16_MAX };
_Static_assert(KV_BLOCK_TOKENS == 16, "one vector of 512 bits per key dimension");

static inline float element(const void *data, bool half, size_t i) {
    return half ? quant_f16_to_f32(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}

static void scores_c(const float *const *q, size_t n, const void *const *keys, size_t blocks, bool half, size_t head_dim, float *scores, size_t stride) {
    for (size_t i = 0; i < n; i++)
        for (size_t b = 0; b < blocks; b++)
            for (size_t t = 0; t < KV_BLOCK_TOKENS; t++) {
                float sum = 0;
                for (size_t d = 0; d < head_dim; d++) sum = fmaf(q[i][d], element(keys[b], half, d * KV_BLOCK_TOKENS + t), sum);
                scores[i * stride + b * KV_BLOCK_TOKENS + t] = sum;
            }
}

static void values_c(const float *p, size_t n, size_t stride, const void *values, bool half, size_t count, size_t head_dim, float *const *out) {
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < head_dim; d++)
            for (size_t t = 0; t < count; t++) out[i][d] = fmaf(p[i * stride + t], element(values, half, t * head_dim + d), out[i][d]);
}

/* Scale s of token t. */
static inline float scale_of(const uint8_t *head, size_t head_dim, size_t s, size_t t) {
    uint16_t scale;
    memcpy(&scale, head + kv_scales_offset(head_dim) + (s * KV_BLOCK_TOKENS + t) * sizeof scale, sizeof scale);
    return quant_f16_to_f32(scale);
}

static void scores_int8_c(const struct attention_query *q, size_t n, const void *const *keys, size_t blocks, size_t head_dim, float *scores, size_t stride) {
    for (size_t i = 0; i < n; i++)
        for (size_t b = 0; b < blocks; b++)
            for (size_t t = 0; t < KV_BLOCK_TOKENS; t++) {
                const int8_t *key = keys[b];
                float sum = 0;
                for (size_t s = 0; s < kv_scales(head_dim); s++) {
                    int32_t dot = 0; /* at most 32 · 32767 · 127: below 2^28 */
                    for (size_t d = s * KV_SCALED; d < head_dim && d < (s + 1) * KV_SCALED; d++) dot += q[i].q[d] * key[(d / 2 * KV_BLOCK_TOKENS + t) * 2 + d % 2];
                    sum = fmaf((float)dot, q[i].scale[s] * scale_of(keys[b], head_dim, s, t), sum);
                }
                scores[i * stride + b * KV_BLOCK_TOKENS + t] = sum;
            }
}

static void values_int8_c(const float *p, size_t n, size_t stride, const void *values, size_t count, size_t head_dim, float *const *out) {
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < head_dim; d++)
            for (size_t t = 0; t < count; t++)
                out[i][d] = fmaf(p[i * stride + t] * scale_of(values, head_dim, d / KV_SCALED, t), ((const int8_t *)values)[t * head_dim + d], out[i][d]);
}

static void halves_c(const float *x, size_t n, uint16_t *out) {
    for (size_t i = 0; i < n; i++) out[i] = quant_f16_from_f32(x[i]);
}

static const struct attention_kernels KERNELS_C = {"c", scores_c, values_c, scores_int8_c, values_int8_c, halves_c};
static const struct attention_kernels *const KERNELS[] = {
    &KERNELS_C,
#ifdef __x86_64__
    &ATTENTION_KERNELS_AVX2,
    &ATTENTION_KERNELS_AVX512,
#endif
};

const struct attention_kernels *attention_kernels_named(const char *name) {
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++)
        if (strcmp(KERNELS[i]->name, name) == 0) return KERNELS[i];
    return NULL;
}

const struct attention_kernels *attention_kernels(void) {
    const struct attention_kernels *k = attention_kernels_named(quant_kernels()->vectors ? quant_kernels()->vectors : quant_kernels()->name);
    return k ? k : &KERNELS_C;
}

void attention_quantize(const float *q, size_t head_dim, struct attention_query *out) {
    for (size_t s = 0; s < kv_scales(head_dim); s++) {
        size_t from = s * KV_SCALED, n = head_dim - from < KV_SCALED ? head_dim - from : KV_SCALED;
        uint32_t most = rounding_absmax(q + from, n);
        float scale = rounding_float(most) / QUERY_MAX;
        bool none = most >= ROUNDING_INFINITE || scale < FLT_MIN; /* no numbers, or nothing: a query's 10^-33 moves no score */
        out->scale[s] = most >= ROUNDING_INFINITE ? NAN : none ? 0 : scale;
        if (none) memset(out->q + from, 0, n * sizeof *out->q);
        else
            for (size_t i = 0; i < n; i++) out->q[from + i] = (int16_t)rounding_nearest(q[from + i] / scale);
    }
    if (head_dim % 2) out->q[head_dim] = 0;
}

static size_t scores_stride(uint32_t tokens) { return ((size_t)tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS; }

size_t attention_scratch_size(uint32_t tokens_max) {
    /* a window may begin inside a block: one block more */
    return ATTENTION_TILE * scores_stride(tokens_max + KV_BLOCK_TOKENS) * sizeof(float);
}

void attention_run(const struct attention_tile *t, float *scratch) {
    const struct attention_kernels *k = attention_kernels();
    const struct kernels *f32 = kernels();
    uint32_t last = t->position[t->n - 1];
    uint32_t first = t->window && t->position[0] >= t->window ? t->position[0] + 1 - t->window : 0;
    uint32_t block_from = first / KV_BLOCK_TOKENS, block_to = last / KV_BLOCK_TOKENS + 1;
    uint32_t origin = block_from * KV_BLOCK_TOKENS; /* the token of scratch's column 0 */
    size_t stride = scores_stride(block_to * KV_BLOCK_TOKENS - origin);

    struct attention_query q[ATTENTION_TILE];
    for (uint32_t i = 0; t->type == KV_INT8 && i < t->n; i++) attention_quantize(t->q[i], t->head_dim, &q[i]);
    for (uint32_t b = block_from; b < block_to; b += SCORES_BLOCKS) {
        const void *keys[SCORES_BLOCKS];
        uint32_t count = block_to - b < SCORES_BLOCKS ? block_to - b : SCORES_BLOCKS;
        for (uint32_t i = 0; i < count; i++) keys[i] = t->base + t->blocks[b + i] * t->block_stride;
        float *scores = scratch + (b - block_from) * KV_BLOCK_TOKENS;
        if (t->type == KV_INT8) k->scores_int8(q, t->n, keys, count, t->head_dim, scores, stride);
        else k->scores(t->q, t->n, keys, count, t->type == KV_F16, t->head_dim, scores, stride);
    }
    for (uint32_t i = 0; i < t->n; i++) {
        float *row = scratch + i * stride;
        uint32_t from = t->window && t->position[i] >= t->window ? t->position[i] + 1 - t->window : 0;
        if (t->softcap > 0)
            for (uint32_t c = from - origin; c < t->position[i] + 1 - origin; c++) row[c] = t->softcap * tanhf(t->scale * row[c] / t->softcap);
        if (t->bias[i]) position_bias_add(t->bias[i], t->bias_distance, t->scale, t->position[i], from, t->position[i] + 1 - from, row + (from - origin));
        f32->softmax(row + (from - origin), t->softcap > 0 || t->bias[i] ? 1 : t->scale, t->position[i] + 1 - from);
        memset(row, 0, (from - origin) * sizeof *row);
        size_t seen = t->position[i] + 1 - origin;
        memset(row + seen, 0, (stride - seen) * sizeof *row); /* what the others of the tile see adds nothing here */
        memset(t->out[i], 0, t->head_dim * sizeof(float));
    }
    for (uint32_t b = block_from; b < block_to; b++) {
        uint32_t left = last + 1 - b * KV_BLOCK_TOKENS; /* never beyond what was written: 0 · nan is nan */
        size_t written = left < KV_BLOCK_TOKENS ? left : KV_BLOCK_TOKENS;
        const float *p = scratch + (b - block_from) * KV_BLOCK_TOKENS;
        const uint8_t *values = t->base + t->blocks[b] * t->block_stride + t->values_offset;
        if (b + ATTENTION_AHEAD < block_to)
            attention_ask(t->base + t->blocks[b + ATTENTION_AHEAD] * t->block_stride + t->values_offset, (size_t)t->head_dim * KV_BLOCK_TOKENS * kv_value_size(t->type));
        if (t->type == KV_INT8) k->values_int8(p, t->n, stride, values, written, t->head_dim, t->out);
        else k->values(p, t->n, stride, values, t->type == KV_F16, written, t->head_dim, t->out);
    }
}
