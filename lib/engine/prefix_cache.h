/*
 * The prefix cache: which KV blocks hold which tokens, so that a request takes the blocks of a prefix that another one has computed, or is using
 * at this moment, instead of computing them again. A pure core over struct kv_blocks: numbers only, no memory of keys and values.
 *
 * Its shape is a radix tree whose edges are whole blocks: a node is a block, found by its parent's block and its own KV_BLOCK_TOKENS tokens, which are
 * compared, not only hashed. A first block is found by its salt too: of the tenant and the adapter, so that a tenant can neither use nor time what
 * another has computed. Such blocks hold the same bits whoever computed them (forward.h), so that a result never depends on a hit.
 *
 *     alloc ─► held by a sequence, unknown ─ add ─► known, held ⇄ known, idle (release, find) ─ evicted by alloc ─► held by another, unknown
 *
 * The cache holds a reference of its own to every block that it knows; one with no other is idle and counts as available. Idle blocks go in the
 * order in which they were released, and a sequence releases its table from the end: a child is always older than its parent and goes before it.
 * Whoever holds a block holds all blocks before it; both together are why an evicted block never has children. One thread.
 */
#ifndef GENLOOP_ENGINE_PREFIX_CACHE_H
#define GENLOOP_ENGINE_PREFIX_CACHE_H

#include "engine/kv_cache.h"

#define PREFIX_NONE UINT32_MAX /* the parent of a first block */

struct prefix_salt {
    uint64_t words[2];
};
struct prefix_node;
struct prefix_cache {
    struct kv_blocks blocks;
    struct prefix_node *nodes; /* [blocks] */
    uint32_t *buckets;
    uint32_t bucket_mask, oldest, newest, idle, known;
    uint64_t seed, evicted;
};

/* seed: of the hash; where it is secret nobody can choose tokens that collide. E_RANGE, E_NOMEM. */
int prefix_cache_init(struct prefix_cache *c, uint32_t blocks, uint64_t seed);
void prefix_cache_fini(struct prefix_cache *c); /* safe on a zeroed struct */
static inline uint32_t prefix_cache_available(const struct prefix_cache *c) { return c->blocks.free_count + c->idle; }
/* All n or none: E_FULL. Each has one reference, the caller's. */
int prefix_cache_alloc(struct prefix_cache *c, uint32_t n, uint32_t *out);
/* The block of these KV_BLOCK_TOKENS tokens behind `parent`, with a reference for the caller, who holds the parent; PREFIX_NONE. */
uint32_t prefix_cache_find(struct prefix_cache *c, uint32_t parent, struct prefix_salt salt, const uint32_t *tokens, uint32_t read);
/* The caller's block is full and holds these tokens. Returns the block to go on with: where the cache has them already that one, and the caller's is given back. */
uint32_t prefix_cache_add(struct prefix_cache *c, uint32_t parent, struct prefix_salt salt, const uint32_t *tokens, uint32_t read, uint32_t block);
/* Gives back the last n blocks of a table, `blocks` being the first of them. */
void prefix_cache_release(struct prefix_cache *c, const uint32_t *blocks, uint32_t n);

#endif
