/*
 * Which replicas have lately been sent a prompt that begins like this one: a pure core. A replica's prefix cache holds such a beginning, most likely, and computes only what follows.
 *
 * The gateway has no tokenizer: beginnings are compared as the bytes of what the client sent, in blocks of PREFIX_BLOCK bytes, each known by the hash of all bytes up to its end (as SGLang's and vLLM's routers
 * approximate the trees of their workers). The hash begins with a secret, the tenant and the model, so that no request finds another tenant's beginnings, and nobody can make two of them meet.
 *
 * A fixed table: PREFIX_WAYS entries share a place, and the one noted longest ago gives way. It is a guess of what replicas hold, and costs no more than a computed prefix where it is wrong. Beginnings shorter than a
 * block are not worth a choice.
 */
#ifndef GATEWAY_PREFIXES_H
#define GATEWAY_PREFIXES_H

#include <stdint.h>

#include "base/span.h"

enum {
    PREFIX_BLOCK = 256,       /* bytes: about 64 tokens, four blocks of a KV cache */
    PREFIX_BLOCKS_MAX = 1024, /* 256 KiB of text: what is behind them decides nothing, and hashing takes some 0.3 ms */
    PREFIX_REPLICAS = 256,    /* numbered from 0 */
    PREFIX_WAYS = 8,
    PREFIX_PLACES = 8192,     /* with the ways 16 MiB of different text, of which the table is 3 MiB */
};

struct prefix_chain { /* of one prompt */
    uint64_t state;
    uint32_t filled; /* of the block that is under way */
    uint32_t count;
    uint64_t blocks[PREFIX_BLOCKS_MAX];
};
void prefix_begin(struct prefix_chain *c, uint64_t secret, struct span tenant, struct span model);
void prefix_add(struct prefix_chain *c, struct span bytes);

struct prefixes;
struct prefixes *prefixes_new(void); /* NULL: no memory */
void prefixes_free(struct prefixes *p);
/* It is sent to the replica of this number, which holds it from now on. */
void prefixes_note(struct prefixes *p, const struct prefix_chain *c, int replica);
/* How many of the chain's first blocks each replica has seen. */
void prefixes_seen(const struct prefixes *p, const struct prefix_chain *c, uint16_t seen[PREFIX_REPLICAS]);
void prefixes_forget(struct prefixes *p, int replica);

#endif
