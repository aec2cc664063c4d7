/* The tile's walk over the block table, and the C reference of its kernels. */
#include "engine/attention.h"

#include <float.h>
#include <math.h>

#include "engine/attention_internal.h"
#include "engine/position_bias.h"
#include "engine/rounding.h"
#include "tensor/kernels.h"
#include "tensor/quant.h"

enum { QUERY_MAX = INT16_MAX, CHUNK_BLOCKS = ATTENTION_CHUNK / KV_BLOCK_TOKENS };
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

static void values_c(const float *p, size_t n, size_t stride, const void *const *values, size_t tokens, bool half, size_t head_dim, float *const *out) {
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < head_dim; d++)
            for (size_t t = 0; t < tokens; t++)
                out[i][d] = fmaf(p[i * stride + t], element(values[t / KV_BLOCK_TOKENS], half, t % KV_BLOCK_TOKENS * head_dim + d), out[i][d]);
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

static void values_int8_c(const float *p, size_t n, size_t stride, const void *const *values, size_t tokens, size_t head_dim, float *const *out) {
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < head_dim; d++)
            for (size_t t = 0; t < tokens; t++) {
                const void *block = values[t / KV_BLOCK_TOKENS];
                size_t in_block = t % KV_BLOCK_TOKENS;
                out[i][d] = fmaf(p[i * stride + t] * scale_of(block, head_dim, d / KV_SCALED, in_block), ((const int8_t *)block)[in_block * head_dim + d], out[i][d]);
            }
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

/* --- the walk --- */

/* Of a chunk: what each query's values come to, [ATTENTION_TILE][D]; its largest score; and the sum of e^(score - largest), 0: it sees nothing there. */
static float *largest_of(float *part, uint32_t head_dim) { return part + (size_t)ATTENTION_TILE * head_dim; }
static float *sums_of(float *part, uint32_t head_dim) { return largest_of(part, head_dim) + ATTENTION_TILE; }
size_t attention_part_size(uint32_t head_dim) { return (size_t)ATTENTION_TILE * (head_dim + 2); }
size_t attention_scratch_size(uint32_t head_dim) { return (ATTENTION_TILE * ATTENTION_CHUNK + attention_part_size(head_dim)) * sizeof(float); }

static uint32_t first_seen(const struct attention_tile *t, uint32_t i) { return t->window && t->position[i] >= t->window ? t->position[i] + 1 - t->window : 0; }

void attention_chunks(const struct attention_tile *t, uint32_t *first, uint32_t *end) {
    *first = first_seen(t, 0) / ATTENTION_CHUNK;
    *end = t->position[t->n - 1] / ATTENTION_CHUNK + 1;
}

/* The tile's blocks [*from, *to) in a chunk. */
static void blocks_of(const struct attention_tile *t, uint32_t chunk, uint32_t *from, uint32_t *to) {
    uint32_t first = first_seen(t, 0) / KV_BLOCK_TOKENS, end = t->position[t->n - 1] / KV_BLOCK_TOKENS + 1;
    *from = chunk * CHUNK_BLOCKS > first ? chunk * CHUNK_BLOCKS : first;
    *to = (chunk + 1) * CHUNK_BLOCKS < end ? (chunk + 1) * CHUNK_BLOCKS : end;
}

/* Scores of query i, of tokens from `origin` on, become what its values are multiplied by: 0 for those that it does not see, others of the tile do. */
static void weigh(const struct attention_tile *t, uint32_t i, uint32_t origin, uint32_t tokens, float *row, float *largest, float *sum) {
    uint32_t seen = first_seen(t, i), from = seen > origin ? seen - origin : 0, to = t->position[i] + 1 > origin ? t->position[i] + 1 - origin : 0;
    if (to > tokens) to = tokens;
    *largest = -INFINITY;
    *sum = 0;
    if (from >= to) {
        memset(row, 0, tokens * sizeof *row);
        return;
    }
    if (t->softcap > 0)
        for (uint32_t c = from; c < to; c++) row[c] = t->softcap * tanhf(t->scale * row[c] / t->softcap);
    if (t->bias[i]) position_bias_add(t->bias[i], t->bias_distance, t->scale, t->position[i], origin + from, to - from, row + from);
    *sum = kernels()->softmax_part(row + from, t->softcap > 0 || t->bias[i] ? 1 : t->scale, largest, to - from);
    memset(row, 0, from * sizeof *row);
    memset(row + to, 0, (tokens - to) * sizeof *row);
}

/* The i-th that is read behind the tile: keys, then values. */
static const void *next_place(const struct attention_tile *t, uint32_t i, const void *none) {
    if (i >= 2 * t->next.count) return none;
    uint32_t block = i < t->next.count ? i : i - t->next.count;
    return t->next.base + t->next.blocks[t->next.first + block] * t->block_stride + (i < t->next.count ? 0 : t->values_offset);
}

/* more: the chunk behind it is read next. */
static void part_of(const struct attention_tile *t, const struct attention_query *quantized, uint32_t chunk, bool more, float *part, float *scores) {
    const struct attention_kernels *k = attention_kernels();
    const void *places[2 * CHUNK_BLOCKS + ATTENTION_AHEAD]; /* keys, values, and what comes then */
    uint32_t from, to, then = 0, end = 0, last = t->position[t->n - 1];
    blocks_of(t, chunk, &from, &to);
    uint32_t blocks = to - from, origin = from * KV_BLOCK_TOKENS, stride = blocks * KV_BLOCK_TOKENS;
    for (uint32_t i = 0; i < blocks; i++) {
        places[i] = t->base + t->blocks[from + i] * t->block_stride;
        places[blocks + i] = (const uint8_t *)places[i] + t->values_offset;
    }
    if (more) blocks_of(t, chunk + 1, &then, &end);
    for (uint32_t i = 0; i < ATTENTION_AHEAD; i++) places[2 * blocks + i] = then + i < end ? t->base + t->blocks[then + i] * t->block_stride : next_place(t, then + i - end, places[2 * blocks - 1]);
    if (t->type == KV_INT8) k->scores_int8(quantized, t->n, places, blocks, t->head_dim, scores, stride);
    else k->scores(t->q, t->n, places, blocks, t->type == KV_F16, t->head_dim, scores, stride);

    float *out[ATTENTION_TILE];
    for (uint32_t i = 0; i < t->n; i++) {
        weigh(t, i, origin, stride, scores + (size_t)i * stride, largest_of(part, t->head_dim) + i, sums_of(part, t->head_dim) + i);
        out[i] = part + (size_t)i * t->head_dim;
    }
    memset(part, 0, (size_t)t->n * t->head_dim * sizeof *part);
    uint32_t tokens = last + 1 - origin < stride ? last + 1 - origin : stride; /* never beyond what was written: 0 · nan is nan */
    if (t->type == KV_INT8) k->values_int8(scores, t->n, stride, places + blocks, tokens, t->head_dim, out);
    else k->values(scores, t->n, stride, places + blocks, tokens, t->type == KV_F16, t->head_dim, out);
}

/* What the chunks so far come to, in t->out; sum 0: a query has seen none of them. */
struct so_far {
    float largest[ATTENTION_TILE], sum[ATTENTION_TILE];
};

static void add_part(const struct attention_tile *t, const float *part, struct so_far *s) {
    const struct kernels *k = kernels();
    const float *largest = part + (size_t)ATTENTION_TILE * t->head_dim, *sum = largest + ATTENTION_TILE;
    for (uint32_t i = 0; i < t->n; i++) {
        const float *values = part + (size_t)i * t->head_dim;
        if (sum[i] == 0) continue;
        if (s->sum[i] == 0) {
            memcpy(t->out[i], values, t->head_dim * sizeof *values);
            s->largest[i] = largest[i];
            s->sum[i] = sum[i];
            continue;
        }
        float most = largest[i] > s->largest[i] ? largest[i] : s->largest[i], before = expf(s->largest[i] - most), now = expf(largest[i] - most);
        k->scale(before, t->out[i], t->head_dim);
        k->axpy(now, values, t->out[i], t->head_dim);
        s->sum[i] = s->sum[i] * before + sum[i] * now;
        s->largest[i] = most;
    }
}

static void finish(const struct attention_tile *t, const struct so_far *s) {
    for (uint32_t i = 0; i < t->n; i++) kernels()->scale(1 / s->sum[i], t->out[i], t->head_dim);
}

static void quantize_queries(const struct attention_tile *t, struct attention_query *q) {
    for (uint32_t i = 0; t->type == KV_INT8 && i < t->n; i++) attention_quantize(t->q[i], t->head_dim, &q[i]);
}

void attention_parts(const struct attention_tile *t, uint32_t from, uint32_t to, float *parts, float *scratch) {
    struct attention_query q[ATTENTION_TILE];
    quantize_queries(t, q);
    for (uint32_t chunk = from; chunk < to; chunk++) part_of(t, q, chunk, chunk + 1 < to, parts + (chunk - from) * attention_part_size(t->head_dim), scratch);
}

void attention_join(const struct attention_tile *t, const float *parts) {
    struct so_far s = {0};
    uint32_t first, end;
    attention_chunks(t, &first, &end);
    for (uint32_t chunk = first; chunk < end; chunk++) add_part(t, parts + (chunk - first) * attention_part_size(t->head_dim), &s);
    finish(t, &s);
}

void attention_run(const struct attention_tile *t, float *scratch) {
    struct attention_query q[ATTENTION_TILE];
    struct so_far s = {0};
    float *part = scratch + ATTENTION_TILE * ATTENTION_CHUNK;
    uint32_t first, end;
    quantize_queries(t, q);
    attention_chunks(t, &first, &end);
    for (uint32_t chunk = first; chunk < end; chunk++) {
        part_of(t, q, chunk, chunk + 1 < end, part, scratch);
        add_part(t, part, &s);
    }
    finish(t, &s);
}
