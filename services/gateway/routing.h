/*
 * Which replica answers: a pure core. Fed with what replicas say of themselves in heartbeats and with what is sent to them; asked for the best one for a model.
 *
 * Load is what a replica last said (running and queued requests) and what was sent to it since, less what came back: a heartbeat is up to half a second old, and a
 * burst must not all go to whoever was idle then. The least loaded wins; among equals the one that was not chosen last. A session stays with the
 * replica that its hash prefers (rendezvous hashing, so that only the sessions of a replica that goes move) unless that one is busier than the least
 * loaded by more than ROUTING_SLACK requests: a cached prefix is worth waiting for a little, not for long.
 *
 * A request without a session goes to whoever was lately sent a prompt that begins like it (prefixes.h), where that is prefix_share percent of the prompt or more, unless everybody who was is busier than the least
 * loaded by more than prefix_slack requests, and by more than a request for each block of it that need not be computed: then it goes to the least loaded, which has seen it from then on. So what is asked for all the
 * time is soon at as many replicas as its load needs, and among those the least loaded wins.
 *
 * A replica whose memory budget does not hold a model at the moment loads it when it is asked, and the call waits there: whoever has it in memory is asked first, whatever
 * its load, then the least loaded of those.
 *
 * What has not begun may be tried elsewhere; who was tried is not asked again.
 *
 * A replica whose connection broke ROUTING_FAULTS times in a row (it was lost without having said that it drains, or a call could not even be handed to it) is asked last for a while, which doubles with each
 * fault up to ROUTING_OPEN_MAX_MS; then one call at a time tries it, and the first that comes to a good end closes the circuit. How long a call takes says nothing: a long answer is no fault. Where nobody else
 * holds the model it is asked all the same: a refusal would help nobody. Faults are remembered by the replica's name, beyond its loss.
 *
 *     closed ──ROUTING_FAULTS in a row──► open ──its time is over──► one call at a time ──a good end──► closed
 *                                          ▲                                  │
 *                                          └────────── another fault ─────────┘
 */
#ifndef GATEWAY_ROUTING_H
#define GATEWAY_ROUTING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"
#include "prefixes.h"

enum { ROUTING_REPLICAS_MAX = 256, ROUTING_MODELS_MAX = 64, ROUTING_SLACK = 2, ROUTING_ATTEMPTS_MAX = 3 };
enum { ROUTING_FAULTS = 2, ROUTING_OPEN_MS = 1000, ROUTING_OPEN_MAX_MS = 30000 }; /* one fault is a restart: it is back within a second, and as good as before */

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
    const char *const *asleep; /* that a call would have loaded */
    size_t n_asleep;
};

struct routing *routing_new(void);
void routing_free(struct routing *r);
/* From now on prompts are compared; the secret is the hashes'. E_NOMEM. */
int routing_compare_prefixes(struct routing *r, uint32_t share_percent, uint32_t slack, uint64_t secret);
/* Begins the chain of a prompt, which prefix_add goes on with. */
void routing_prefix_begin(const struct routing *r, struct prefix_chain *c, struct span tenant, struct span model);
/* A heartbeat of the replica behind `peer` (any pointer: its name here). E_FULL, E_NOMEM. */
int routing_report(struct routing *r, void *peer, const struct routing_report *report);
void routing_lost(struct routing *r, void *peer, int64_t now_ms);
/* A call could not be handed to it. */
void routing_fault(struct routing *r, void *peer, int64_t now_ms);
/* A call came to a good end. `peer` may be lost already. */
void routing_worked(struct routing *r, void *peer);

/* A set of replicas that a request has tried, by a number that each has for life. */
struct routing_tried {
    uint64_t bits[ROUTING_REPLICAS_MAX / 64];
    int n;
};
enum routing_answer { ROUTING_NONE, ROUTING_LOADING, ROUTING_FOUND };
/* What a prompt's beginning decided: NEW: nobody has seen enough of it; SEEN: it goes to one who has; BUSY: they have too much to do. NOT_ASKED: a session decided, or there is no beginning. */
enum routing_prefix { ROUTING_PREFIX_NOT_ASKED, ROUTING_PREFIX_NEW, ROUTING_PREFIX_SEEN, ROUTING_PREFIX_BUSY };
/* session_hash 0: none. prefix NULL: none. FOUND: *replica, to which the prompt is taken to be sent; LOADING: somebody is about to hold it; NONE. decided may be NULL. */
enum routing_answer routing_pick(struct routing *r, struct span model, uint64_t session_hash, const struct prefix_chain *prefix, const struct routing_tried *tried, int64_t now_ms, struct replica **replica, enum routing_prefix *decided);
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
bool replica_open(const struct replica *p, int64_t now_ms); /* asked last, for the time being */
bool replica_holds(const struct replica *p, struct span model);

#endif
