/*
 * Redis from an event loop. Commands go to a thread of their own, which sends what has gathered meanwhile as one pipeline and gives the replies back in one wake of the loop; a command costs
 * the loop a copy and a lock, never a wait. For what a cache is for: a Redis that does not answer within LINK_TIMEOUT_MS is given up for LINK_PAUSE_MS, in which every command ends at once
 * with E_UNAVAILABLE, so that who asks goes on without it. Whether a command that ended so was run is not known.
 *
 * Everything is called on the loop's thread.
 */
#ifndef GENLOOP_CACHE_LINK_H
#define GENLOOP_CACHE_LINK_H

#include "base/loop.h"
#include "cache/redis.h"

enum {
    LINK_TIMEOUT_MS = 250,               /* a Redis nearby answers within one; a busy machine makes it tens */
    LINK_PAUSE_MS = 1000,
    LINK_WAITING_MAX = 4096,             /* commands without a reply: as many as requests may be open */
    LINK_WAITING_BYTES_MAX = 32 << 20,
    LINK_ARGS_MAX = 32,
};

struct link;
struct link_call;
/* url: as redis_new takes it. Does not connect yet. Returns owned. */
int link_open(const char *url, struct loop *l, struct link **link, struct error *err);
/* What is open ends without a word. NULL is accepted. Waits for the thread, LINK_TIMEOUT_MS at most. */
void link_close(struct link *link);
bool link_away(const struct link *link);
/* Copies. on_reply(arg, r, reply) once, later: r 0 and the reply, which may be a REDIS_ERROR, borrowed for the call; or E_UNAVAILABLE and NULL. on_reply NULL: nobody waits for it. *call may be NULL.
 * E_UNAVAILABLE, E_FULL, E_NOMEM: on_reply is not called. */
int link_ask(struct link *link, int argc, const struct span *argv, void *arg, void (*on_reply)(void *arg, int r, const struct redis_reply *reply), struct link_call **call);
void link_cancel(struct link_call *call); /* on_reply will not be called. NULL is accepted */

#endif
