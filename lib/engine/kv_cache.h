/*
 * The paged KV cache. Blocks of KV_BLOCK_TOKENS tokens are handed out by number (struct kv_blocks: pure, no memory behind it, what the
 * scheduler decides with); struct kv_cache is the memory that the numbers stand for. A sequence holds a table of block numbers; a
 * block has a reference count, so that sequences may share the full blocks of a common prefix.
 *
 * A block's memory, for each layer: keys [kv_heads][head_dim][tokens], then values [kv_heads][tokens][head_dim] (attention.h says why).
 * All layers of a block lie together: what no sequence ever used is never touched and takes no memory.
 *
 * KV_INT8 holds a head of a token as KV_SCALED values at a time: int8 and one f16 scale, as GGUF's Q8_0 has it and llama.cpp's cache (`-ctk q8_0`). A
 * token is quantized when it is written and by its own numbers alone, so that a block is the same bits whoever computed it, in any batch. Scales of
 * fewer values keep the few large dimensions that keys have (KIVI, Liu et al. 2024: outliers sit in fixed channels of keys) from the others of a head;
 * KIVI's scale per channel would need the tokens to come first, and a buffer for those that are not yet a group. A head of a block:
 *     keys   int8[head_dim / 2][tokens][2], f16[head_dim / KV_SCALED][tokens] (both rounded up): pairs are what one instruction multiplies and adds
 *     values int8[tokens][head_dim], in the same room, and scales in the same place
 * One thread (the engine's) changes tables; compute threads read and write disjoint tokens.
 */
#ifndef GENLOOP_ENGINE_KV_CACHE_H
#define GENLOOP_ENGINE_KV_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum {
    KV_BLOCK_TOKENS = 16,   /* a vector of keys; wastes at most 15 tokens of a sequence */
    KV_BLOCKS_MAX = 1 << 24, /* 268 million tokens: beyond any machine; bounds the tables */
    KV_SCALED = 32,          /* values per scale: 8.5 bits a value */
    KV_INT8_MAX = 127,
};
enum kv_type { KV_F32, KV_F16, KV_INT8, KV_TYPES };
const char *kv_type_name(enum kv_type type);
/* By name: "f32", "f16", "int8". E_INVALID names those that there are. */
int kv_type_find(const char *name, enum kv_type *type, struct error *err);
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
    enum kv_type type;
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
/* Asks for the memory that kv_cache_put writes: a key lies in as many lines as it has dimensions, or half of that. */
void kv_cache_ask(const struct kv_cache *c, const uint32_t *table, uint32_t layer, uint32_t position);
/* All keys and values of a block to another one. */
void kv_cache_copy(struct kv_cache *c, uint32_t from, uint32_t to);
/* KV_INT8: where a head's scales lie behind its int8, and how many a token has. */
static inline size_t kv_scales_offset(size_t head_dim) { return (head_dim + 1) / 2 * 2 * KV_BLOCK_TOKENS; }
static inline size_t kv_scales(size_t head_dim) { return (head_dim + KV_SCALED - 1) / KV_SCALED; }
/* Up to KV_SCALED values as int8, rounded to nearest even, and their scale in f16: absmax / 127. What is not finite makes a scale that is no number. */
uint16_t kv_quantize(const float *x, size_t n, int8_t *q);
static inline size_t kv_value_size(enum kv_type type) { return type == KV_F32 ? 4 : type == KV_F16 ? 2 : 1; }
/* Keys of a layer and head in block 0; the values lie kv_heads · head_size behind. */
static inline uint8_t *kv_cache_base(const struct kv_cache *c, uint32_t layer, uint32_t kv_head) {
    return c->data + (size_t)layer * 2 * c->shape.kv_heads * c->head_size + kv_head * c->head_size;
}

#endif
