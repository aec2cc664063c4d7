/*
 * Which replica answers: a pure core. Fed with what replicas say of themselves in heartbeats and with what is sent to them; asked for the best one for a model.
 *
 * Load is what a replica last said (running and queued requests) and what was sent to it since, less what came back: a heartbeat is up to half a second old, and a
 * burst must not all go to whoever was idle then. The least loaded wins; among equals the one that was not chosen last. A session stays with the
 * replica that its hash prefers (rendezvous hashing, so that only the sessions of a replica that goes move) unless that one is busier than the least
 * loaded by more than ROUTING_SLACK requests: a cached prefix is worth waiting for a little, not for long.
 *
 * What has not begun may be tried elsewhere; who was tried is not asked again.
 */
#ifndef GATEWAY_ROUTING_H
#define GATEWAY_ROUTING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"

enum { ROUTING_REPLICAS_MAX = 256, ROUTING_MODELS_MAX = 64, ROUTING_SLACK = 2, ROUTING_ATTEMPTS_MAX = 3 };

struct routing;
struct replica; /* borrowed until it is lost */

struct routing_report { /* of a heartbeat; borrowed */
    struct span id;
    uint32_t running, queued;
    bool draining;
    const char *const *models; /* name@version that answer now */
    size_t n_models;
    const char *const *loading;
    size_t n_loading;
};

struct routing *routing_new(void);
void routing_free(struct routing *r);
/* A heartbeat of the replica behind `peer` (any pointer: its name here). E_FULL, E_NOMEM. */
int routing_report(struct routing *r, void *peer, const struct routing_report *report);
void routing_lost(struct routing *r, void *peer);

/* A set of replicas that a request has tried, by a number that each has for life. */
struct routing_tried {
    uint64_t bits[ROUTING_REPLICAS_MAX / 64];
    int n;
};
enum routing_answer { ROUTING_NONE, ROUTING_LOADING, ROUTING_FOUND };
/* session_hash 0: none. FOUND: *replica; LOADING: somebody is about to hold it; NONE. */
enum routing_answer routing_pick(struct routing *r, struct span model, uint64_t session_hash, const struct routing_tried *tried, struct replica **replica);
void routing_sent(struct replica *replica, struct routing_tried *tried);
/* `peer` may be lost already. */
void routing_done(struct routing *r, void *peer);
/* After an end with `code`: whether another replica may be asked. */
bool routing_may_retry(int code, bool begun, const struct routing_tried *tried);

void *replica_peer(const struct replica *p);
const char *replica_id(const struct replica *p);
/* In the order in which they came; NULL behind the last. */
struct replica *routing_at(struct routing *r, size_t i);
uint32_t replica_load(const struct replica *p);
bool replica_holds(const struct replica *p, struct span model);

#endif
