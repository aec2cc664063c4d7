/* A vocabulary as a trie of bytes, with the masks and compiled grammars that belong to it; what grammar_vocab.c and grammar_match.c share. */
#ifndef GENLOOP_ENGINE_GRAMMAR_VOCAB_H
#define GENLOOP_ENGINE_GRAMMAR_VOCAB_H

#include <pthread.h>

#include "engine/grammar_internal.h"

/* In preorder: a subtree is [i, end). Tokens of a node are order[token_first .. token_first of the next node). */
struct trie_node {
    uint32_t end, token_first;
    uint32_t classes; /* of its byte and of all below */
    uint16_t depth; /* of its byte, from 1; 0: the root */
    uint8_t byte;
};
/* Bytes that grammars mostly treat alike: where a place is left as it was by all of some classes, a subtree of no others is taken whole. */
enum { BYTE_CLASSES = 24 };
extern const uint8_t BYTE_CLASS[256];
/* A mask that is kept: of a state alone (`stack` 0) or of a whole place. */
struct kept_mask {
    struct kept_mask *next, *newer, *older; /* next: of its bucket */
    uint64_t grammar, key, check;
    uint32_t allowed;        /* tokens; only of whole places */
    uint32_t deferred_count; /* nodes of the trie whose tokens leave the rule, in its order */
    uint32_t *deferred;      /* behind the bits */
    size_t bytes;
    uint64_t bits[];
};
enum { MASK_BUCKETS = 4096 };

struct grammar_vocab {
    uint32_t size, words; /* tokens; 64-bit words of a mask */
    struct trie_node *nodes;
    size_t node_count;
    uint32_t *order;     /* tokens in the order of their bytes */
    size_t order_count;
    uint32_t *offsets;   /* [size + 1] of each token's bytes */
    char *bytes;
    bool usable[256];
    uint16_t depth_max;

    pthread_mutex_t lock;
    struct kept_mask *buckets[MASK_BUCKETS], *newest, *oldest;
    size_t mask_bytes;
    struct grammar *grammars[GRAMMAR_KEPT_MAX];
    uint64_t clock, next_id;
};
static inline struct span vocab_bytes(const struct grammar_vocab *v, uint32_t id) { return span_of(v->bytes + v->offsets[id], v->offsets[id + 1] - v->offsets[id]); }
/* Copies the bits of a kept mask into (or, `more`, onto) bits; returns it only to say that it was there: the deferred ones are copied too, where asked. */
bool vocab_find_mask(struct grammar_vocab *v, uint64_t grammar, uint64_t key, uint64_t check, uint64_t *bits, uint32_t *deferred, uint32_t *deferred_count, uint32_t *allowed);
/* Without memory it is not kept, which costs time only. */
void vocab_keep_mask(struct grammar_vocab *v, uint64_t grammar, uint64_t key, uint64_t check, const uint64_t *bits, const uint32_t *deferred, uint32_t deferred_count, uint32_t allowed);

#endif
