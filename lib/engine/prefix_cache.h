/*
 * The prefix cache: which KV blocks hold which tokens, so that a request takes the blocks of a prefix that another one has computed, or is using
 * at this moment, instead of computing them again. A pure core over struct kv_blocks: numbers only, no memory of keys and values.
 *
 * Its shape is a radix tree whose edges are whole blocks: a node is a block, found by its parent's block and its own KV_BLOCK_TOKENS tokens, which are
 * compared, not only hashed. A first block is found by its salt too: of the tenant and the adapter, so that a tenant can neither use nor time what
 * another has computed. Such blocks hold the same bits whoever computed them (forward.h), so that a result never depends on a hit.
 *
 * Where a prefix ends inside a block, that block is nobody's to share; but its first rows are the same bits too, and whoever asks is told which block begins most alike
 * (prefix_cache_nearest), to copy them. A last block that a sequence has only begun is known for that alone (prefix_cache_add_begun), and found by nobody.
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
enum { PREFIX_NEAREST_OF = 64 }; /* children that are looked at for one that begins alike */

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
/* The caller's block, behind a parent that it holds, holds the first n of these tokens, 0 < n < KV_BLOCK_TOKENS, and no more will come. It is known where no other begins with the same. */
void prefix_cache_add_begun(struct prefix_cache *c, uint32_t parent, const uint32_t *tokens, uint32_t n, uint32_t read, uint32_t block);
/* Among the latest blocks known behind `parent`, a block, the one that begins most alike, with *alike ≥ 1 of the first n tokens, all of them of one kind, read or written; PREFIX_NONE.
 * Its first rows are then what the caller's would be: they may be copied. No reference is taken. */
uint32_t prefix_cache_nearest(const struct prefix_cache *c, uint32_t parent, const uint32_t *tokens, uint32_t read, uint32_t n, uint32_t *alike);
/* How many of the first n tokens of two blocks are the same, and read in both or written in both. */
uint32_t prefix_alike(const uint32_t *a, uint32_t a_read, const uint32_t *b, uint32_t b_read, uint32_t n);
/* One more reference of a block that is held or known; prefix_cache_release gives it back. */
void prefix_cache_hold(struct prefix_cache *c, uint32_t block);
/* Gives back the last n blocks of a table, `blocks` being the first of them. */
void prefix_cache_release(struct prefix_cache *c, const uint32_t *blocks, uint32_t n);

#endif
