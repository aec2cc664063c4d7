/*
 * Membership: which instances of which service there are. Each announces itself in Redis (a key with a TTL, refreshed), and readers
 * list them; a reader that loses Redis goes on with what it knows, and heartbeats on the bus (lib/bus) say who still lives.
 * The core (members.h style table with a time in) is pure; this is the Redis side. Blocking: on a worker.
 * Key: genloop:member:SERVICE:ID → protobuf Member, EX MEMBER_TTL_S.
 */
#ifndef GENLOOP_CACHE_MEMBERSHIP_H
#define GENLOOP_CACHE_MEMBERSHIP_H

#include "base/error.h"
#include "cache/redis.h"

enum { MEMBER_TTL_S = 10, MEMBER_REFRESH_MS = 2000 };
int membership_announce(struct redis *r, struct span service, struct span id, struct span member, struct error *err);
int membership_leave(struct redis *r, struct span service, struct span id, struct error *err);
/* All members of a service ("" : of all); on_member gets the protobuf bytes, borrowed. */
int membership_list(struct redis *r, struct span service, void *arg, void (*on_member)(void *arg, struct span id, struct span member), struct error *err);

#endif
