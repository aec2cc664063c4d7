/*
 * Who asks, and what he may. A caller is found from the Authorization header and the door that the request came through:
 *
 *   the home's own door (a socket in HOME/run, which only the home's owner can open)   the owner, local:USER, approver
 *   a key                                                                              its id, scope and tenant, while the registry says that it is in force
 *   no key, on a platform that listens on loopback and where none was ever made        the owner of the home, as before there were keys
 *   anything else                                                                      nobody: E_UNAUTHENTICATED
 *
 * On a platform without keys a bearer that a client sends is not looked at: OpenAI's clients always send one. Keys are followed on their topic, in memory: they go on when Redis, or
 * the registry, is away, and a revoked one stops as soon as its record has come. What was begun with it goes on to its end.
 */
#ifndef GATEWAY_AUTH_H
#define GATEWAY_AUTH_H

#include "base/error.h"
#include "base/span.h"
#include "gateway.h"
#include "registry/state.h"
#include "router.h"

enum { CALLER_ID_MAX = 80 };

struct caller {
    char id[CALLER_ID_MAX]; /* "key_…" or "local:USER"; "" before it is known */
    char tenant[MODEL_NAME_MAX];
    enum scope scope;
    bool key; /* came with a key */
};

/* authorization: the header's value (of gRPC: the metadata's), data NULL where there is none. owner: it came through the home's own door. E_UNAUTHENTICATED; E_AGAIN for a key that nobody
 * knows yet: it may have been made a moment ago, so it is looked for again for a moment, and then none; E_UNAVAILABLE until the keys have been read. */
int auth_caller(const struct gateway *g, struct span authorization, bool owner, struct caller *caller, struct error *err);
/* E_DENIED where the caller's scope does not reach. A higher one includes the lower ones. */
int auth_scope(const struct caller *caller, enum scope needed, struct error *err);
/* Whether requests need a key. */
bool auth_asks(const struct gateway *g);
/* Says in the log, once at start, whether keys are asked for and how the first is made. */
void auth_announce(const struct gateway *g);

#endif
