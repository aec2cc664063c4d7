/*
 * Answers kept in Redis for requests whose answer is a function of the request: their names, and what lies there. Pure.
 *
 * A name is a keyed hash over everything that the answer depends on, with the tenant and the model's version first: who reads Redis learns neither a prompt nor whether two requests are the
 * same as one that he could think of. What lies under it is sealed with a key that comes from the same hash (XSalsa20-Poly1305): without the request it cannot be read, without the platform's secret not
 * forged. An entry that is damaged, of another version or of another tenant is none.
 *
 *     struct answer_hash h;
 *     answer_hash_begin(&h, secret, tenant, model, digest);  answer_hash_add(&h, …) …;  answer_hash_end(&h, &key);
 *
 * An entry: version (1 byte), wall-clock time of its making (8 bytes, ms), then items: source (2 bytes), length (4 bytes), bytes; all little-endian.
 */
#ifndef GENLOOP_CACHE_ANSWERS_H
#define GENLOOP_CACHE_ANSWERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

enum { ANSWER_NAME_MAX = 15 + 64 + 1, ANSWER_SEAL_SIZE = 32, ANSWER_OVERHEAD = 64 };

struct answer_key {
    char name[ANSWER_NAME_MAX]; /* "genloop:answer:" and 64 hex digits */
    uint8_t seal[ANSWER_SEAL_SIZE];
};
struct answer_hash {
    _Alignas(64) uint8_t state[384]; /* libsodium's BLAKE2b */
};
/* digest: of what the version is made of, so that a name that means another version never meets its answers. */
void answer_hash_begin(struct answer_hash *h, const uint8_t secret[32], struct span tenant, struct span model, struct span digest);
void answer_hash_add(struct answer_hash *h, struct span piece); /* with its length: pieces do not run into each other */
void answer_hash_end(struct answer_hash *h, struct answer_key *key);

/* Begins an entry; `items` then takes answer_item after answer_item, up to its cap. */
int answer_begin(struct buf *items, int64_t now_ms);
int answer_item(struct buf *items, uint16_t source, struct span bytes);
/* The next item of what answer_open gave; false at the end, or where the rest is none (*whole says which). */
bool answer_next(struct span *items, uint16_t *source, struct span *bytes, bool *whole);
/* Appends the sealed entry. */
int answer_seal(const struct answer_key *key, struct span entry, struct buf *sealed);
/* Appends the items of a sealed entry; *made_ms: when it was made. E_DATA_LOSS where it is none under this key. */
int answer_open(const struct answer_key *key, struct span sealed, struct buf *items, int64_t *made_ms);

/* What a request's Cache-Control wants (RFC 9111, 5.2.1). */
struct cache_control {
    bool past, no_store;    /* past: not from the cache */
    int64_t age_max_ms;     /* -1: any */
};
void cache_control_read(struct span header, struct cache_control *c);

#endif
