/*
 * Idempotency-Key: the same key and the same request again give the first answer again, so that a client whose connection broke can ask once more without having it done twice.
 *
 *   (none) ──first request──► running ──answered 2xx──► answered ──gateway.idempotency_ttl──► (none)
 *                              │ ▲└───answered otherwise, streamed, too large──────────────► (none)
 *                              └─┘ renewed while it runs; of a gateway that died it goes by itself
 *
 * The record is in Redis under a keyed hash of tenant, caller and key (idempotency_record.h), the answer in it sealed: who reads Redis learns neither. While it runs the same request is 409; another request under the key is 422, before and after. What begins to stream
 * is never kept. The answer goes to the client once Redis has it. Without Redis a request is answered as if it had no key (x-genloop-idempotency: off says so): being done twice is the
 * lesser harm than being refused, and what must not exist twice (a file, a fine-tuning job) takes its id from the key, so that the service that owns it knows it again without Redis.
 * Redis keeps the least recently used no longer than its memory lasts, so the time to live is a most.
 *
 * On the loop's thread; Redis is asked on workers.
 */
#ifndef GATEWAY_IDEMPOTENCY_H
#define GATEWAY_IDEMPOTENCY_H

#include "exchange.h"

enum { IDEMPOTENCY_ID_MAX = 64, IDEMPOTENCY_KEY_MAX = 255 };

struct idempotency;
int idempotency_open(struct gateway *g, struct idempotency **out, struct error *err);
void idempotency_close(struct idempotency *i); /* NULL is accepted */

struct idempotent; /* of an exchange that has a key and runs */
/* A POST with its whole body, before its handler. True: it waits for Redis, and the handler is called then, or the exchange ends. False: go on, or err says what is wrong with the key. */
bool idempotency_begin(struct exchange *x, struct span body, int *r, struct error *err);
/* The answer in JSON, on its way: true: it is kept, and exchange_json with `x->idempotent` gone follows. */
bool idempotency_keep(struct exchange *x, int status, struct span body);
/* Nothing will be kept: the key is free again. */
void idempotency_drop(struct exchange *x);

/* prefix and 32 hex digits that follow from tenant, caller and key; "" for a request without a key. E_INVALID for a key that is none. */
int idempotency_id(const struct exchange *x, const char *prefix, char id[IDEMPOTENCY_ID_MAX], struct error *err);
/* Ends the exchange: 422, the key was another request's. */
void idempotency_mismatch(struct exchange *x);

#endif
