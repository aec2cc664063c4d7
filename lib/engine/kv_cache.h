/*
 * The paged KV cache. Blocks of KV_BLOCK_TOKENS tokens are handed out by number (struct kv_blocks: pure, no memory behind it, what the
 * scheduler decides with); struct kv_cache is the memory that the numbers stand for. A sequence holds a table of block numbers; a
 * block has a reference count, so that sequences may share the full blocks of a common prefix.
 *
 * A block's memory, for each layer: keys [kv_heads][head_dim][tokens], then values [kv_heads][tokens][head_dim] (attention.h says why).
 * All layers of a block lie together: what no sequence ever used is never touched and takes no memory.
 * One thread (the engine's) changes tables; compute threads read and write disjoint tokens.
 */
#ifndef GENLOOP_ENGINE_KV_CACHE_H
#define GENLOOP_ENGINE_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum {
    KV_BLOCK_TOKENS = 16,   /* a vector of keys; wastes at most 15 tokens of a sequence */
    KV_BLOCKS_MAX = 1 << 24, /* 268 million tokens: beyond any machine; bounds the tables */
};
static inline uint32_t kv_blocks_for(uint32_t tokens) { return tokens / KV_BLOCK_TOKENS + (tokens % KV_BLOCK_TOKENS != 0); }

/* --- numbers --- */
struct kv_blocks {
    uint32_t *free; /* a stack: the block that was freed last goes first, its memory is warm */
    uint16_t *refs;
    uint32_t total, free_count;
};
int kv_blocks_init(struct kv_blocks *b, uint32_t total); /* E_NOMEM, E_RANGE */
void kv_blocks_fini(struct kv_blocks *b);
/* All n or none: E_FULL. Each has one reference. */
int kv_blocks_alloc(struct kv_blocks *b, uint32_t n, uint32_t *out);
void kv_blocks_ref(struct kv_blocks *b, const uint32_t *blocks, uint32_t n);
void kv_blocks_unref(struct kv_blocks *b, const uint32_t *blocks, uint32_t n); /* the last reference frees */

/* --- memory --- */
struct kv_shape {
    uint32_t layers, kv_heads, head_dim;
    bool half; /* f16, else f32 */
};
struct kv_cache {
    struct kv_shape shape;
    size_t head_size;   /* bytes of one head's keys (or values) in a block */
    size_t block_size;  /* bytes of a block, all layers */
    uint8_t *data;
    size_t data_size;
};
size_t kv_block_size(const struct kv_shape *s);
int kv_cache_init(struct kv_cache *c, const struct kv_shape *shape, uint32_t blocks, struct error *err); /* E_NOMEM, E_RANGE */
void kv_cache_fini(struct kv_cache *c);
/* Writes a token's key and value of one layer, [kv_heads · head_dim] each, at `position` of the sequence with this table. */
void kv_cache_put(struct kv_cache *c, const uint32_t *table, uint32_t layer, uint32_t position, const float *key, const float *value);
/* Keys of a layer and head in block 0; the values lie kv_heads · head_size behind. */
static inline uint8_t *kv_cache_base(const struct kv_cache *c, uint32_t layer, uint32_t kv_head) {
    return c->data + (size_t)layer * 2 * c->shape.kv_heads * c->head_size + kv_head * c->head_size;
}

#endif
