/*
 * Attention over the paged KV cache: softmax(scale · q Kᵀ) V for a tile of queries of one sequence that share a kv head.
 * Letters: D head size; a block holds KV_BLOCK_TOKENS tokens, its keys as [D][tokens] and its values as [tokens][D] (kv_cache.h).
 *
 * Each query's result depends on its own position and the cache alone, bit for bit: keys are dotted in order of d, a vector running
 * over the tokens of a block; of each ATTENTION_CHUNK tokens, counted from the sequence's begin, e^(score - the largest) of exactly those that the query sees, and values
 * times that, are summed in order of t; and the chunks' sums are brought to one largest score and added in order (FlashAttention's, Dao et al. 2022). Which queries stand beside it in a tile, how a
 * prompt was cut, and whether several threads take a tile's chunks (Flash-Decoding), changes nothing. Pure; any thread.
 *
 * Over a cache in int8 a query is quantized too, KV_SCALED values at a time, but to int16: its rounding is 1/256 of that of the keys, the products of
 * KV_SCALED values are summed exactly in int32, and one instruction multiplies and adds 16 of them (llama.cpp's queries are int8 here). Values are
 * widened and summed in f32 with probabilities in f32, the scale being multiplied into the probability.
 */
#ifndef GENLOOP_ENGINE_ATTENTION_H
#define GENLOOP_ENGINE_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/kv_cache.h"
#include "model/arch.h"

enum {
    ATTENTION_TILE = 8,    /* queries per tile: 8 sums and a vector of keys stay in registers on every CPU */
    ATTENTION_CHUNK = 256, /* tokens: the scores of a tile stay in the first-level cache, and a thousand tokens are work for four threads */
    ATTENTION_AHEAD = 4,   /* blocks: what is read next is asked for so early. A head's keys or values in a block are a kilobyte or more, and the next ones lie far behind: no CPU guesses where */
};

struct attention_tile {
    const float *q[ATTENTION_TILE]; /* [D] each */
    float *out[ATTENTION_TILE];     /* [D] each */
    uint32_t position[ATTENTION_TILE]; /* a query sees tokens [position + 1 − window, position]; ascending */
    uint32_t n;
    uint32_t window;        /* 0: all before it */
    uint32_t head_dim;
    float scale;
    const float *bias[ATTENTION_TILE]; /* of each query, added to scale · q·k (position_bias_head); NULL: none */
    uint32_t bias_distance; /* the table's position_distance */
    float softcap;          /* c · tanh(scale · q·k / c) before the softmax; 0: none */
    enum kv_type type;      /* what the cache holds */
    const uint8_t *base;    /* keys of this layer and head in block 0 */
    size_t block_stride;    /* bytes from a block to the next */
    size_t values_offset;   /* bytes from a block's keys to its values */
    const uint32_t *blocks; /* the sequence's block table */
    /* What the same thread attends to behind this tile, of which it asks for the begin: the same of it, its first block of tokens and how many there are. 0: nothing is known. */
    struct {
        const uint8_t *base;
        const uint32_t *blocks;
        uint32_t first, count;
    } next;
};
/* scratch: attention_scratch_size(head_dim) bytes, 64-byte aligned, one per thread. */
size_t attention_scratch_size(uint32_t head_dim);
void attention_run(const struct attention_tile *t, float *scratch);
/* The same by several threads: each makes the parts of some chunks of those that the tile sees, [*first, *end), attention_part_size(head_dim) floats each; of all of them,
 * in order, one makes what attention_run makes. */
void attention_chunks(const struct attention_tile *t, uint32_t *first, uint32_t *end);
size_t attention_part_size(uint32_t head_dim);
void attention_parts(const struct attention_tile *t, uint32_t from, uint32_t to, float *parts, float *scratch);
void attention_join(const struct attention_tile *t, const float *parts);

/* A query as the int8 kernels take it: q[d] · scale[d / KV_SCALED]. What is not finite makes a scale that is no number. */
struct attention_query {
    int16_t q[MODEL_HEAD_DIM_MAX]; /* of an odd head one 0 more: the other of the last pair */
    float scale[MODEL_HEAD_DIM_MAX / KV_SCALED];
};
void attention_quantize(const float *q, size_t head_dim, struct attention_query *out);

/* The kernels behind it; a test holds each to the first. */
struct attention_kernels {
    const char *name; /* as in lib/tensor's tables */
    /* scores[i · stride + b · 16 + t] = q[i] · keys[b][·][t] for the 16 tokens of each block b; n ≤ ATTENTION_TILE. Several blocks in one call: a single
     * query has one chain of additions per block, and one alone would wait for itself. Behind the blocks of keys, and of values, stand ATTENTION_AHEAD places
     * that are read next. */
    void (*scores)(const float *const *q, size_t n, const void *const *keys, size_t blocks, bool half, size_t head_dim, float *scores, size_t stride);
    /* out[i][d] += p[i · stride + t] · values[t / 16][t % 16][d] for so many tokens. */
    void (*values)(const float *p, size_t n, size_t stride, const void *const *values, size_t tokens, bool half, size_t head_dim, float *const *out);
    /* The same over int8 and its scales (kv_cache.h). A score is a chain of fma(exact product of KV_SCALED values, scale of q · scale of k, …); a value's
     * weight is p · scale of v. */
    void (*scores_int8)(const struct attention_query *q, size_t n, const void *const *keys, size_t blocks, size_t head_dim, float *scores, size_t stride);
    void (*values_int8)(const float *p, size_t n, size_t stride, const void *const *values, size_t tokens, size_t head_dim, float *const *out);
    /* As quant_f16_from_f32, but that what is no number may become another that is none. */
    void (*halves)(const float *x, size_t n, uint16_t *out);
};
const struct attention_kernels *attention_kernels(void); /* goes with quant_kernels() */
const struct attention_kernels *attention_kernels_named(const char *name);

#endif
