/*
 * The response cache, as a generation sees it. What is deterministic is kept: temperature 0, or a seed, whatever else the request says; everything that is sent to a replica is in the name under which the answer
 * lies, with the tenant, the version and the digest of its files. What lies there is what the replicas said, piece by piece, so that an answer comes out of it whole or as a stream as a replica's does.
 * Redis is asked before a replica is; where it is away, or slow, the replica is asked.
 *
 * A request's Cache-Control: no-cache goes past what is there (and its answer is kept), no-store keeps nothing either, max-age=N takes nothing older.
 */
#ifndef GATEWAY_CACHED_H
#define GATEWAY_CACHED_H

#include "cache/answers.h"
#include "cache/link.h"
#include "gateway.h"

struct cached {
    struct gateway *gateway;
    struct answer_key key;
    struct cache_control control;
    bool keeps;              /* what comes is to be kept */
    struct link_call *call;
    struct buf made;         /* what comes, item by item */
    void *arg;
    void (*on_found)(void *arg, bool hit, struct span items);
};

/* Zeroes it; nothing is kept or looked for until cached_use. */
void cached_init(struct cached *c, struct gateway *g);
void cached_fini(struct cached *c); /* a lookup that is under way is forgotten */
/* The name is hashed by the caller: answer_hash_begin with g->answer_secret. */
void cached_use(struct cached *c, const struct answer_key *key, struct span cache_control);
/* True: on_found comes, not before this returns. False: there is nothing to wait for. items: borrowed for the call. */
bool cached_look(struct cached *c, void *arg, void (*on_found)(void *arg, bool hit, struct span items));
/* A piece of an answer that is being made. */
void cached_add(struct cached *c, uint16_t source, struct span item);
/* The answer is whole. */
void cached_keep(struct cached *c);

#endif
