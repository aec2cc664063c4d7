/*
 * The instances that a service knows. Redis says who is there (slowly), heartbeats say who lives (at once); either alone is enough to go on with. A member is forgotten
 * when Redis has answered and no longer lists it, and its heartbeats have stopped. On the loop's thread; Redis is asked on a worker.
 */
#ifndef GENLOOP_SERVICE_MEMBERS_H
#define GENLOOP_SERVICE_MEMBERS_H

#include "service/service.h"

enum { MEMBERS_MAX = 1024 };           /* as many as the bus connects to */
enum { MEMBER_BYTES_MAX = 256 * 1024 }; /* a load with some thousand prefix digests */

struct members;
struct members_config {
    struct loop *loop;
    const char *redis_url;
    const char *const *peers;       /* NULL-terminated; NULL: none */
    const struct bus_keys *keys;
    struct span service, id;        /* ours */
    void *arg;
    void (*on_peer)(void *arg, struct bus_peer *peer, struct span member, bool alive);
};
int members_open(const struct members_config *config, struct members **m, struct error *err);
/* Our own record: copied; told to Redis at the next round, or at once. */
void members_announce(struct members *m, struct span member, bool now);
struct bus_client *members_bus(struct members *m);
/* One that leads before all that do not. */
struct bus_peer *members_least_busy(struct members *m, const char *service);
void members_each(struct members *m, void *arg, void (*on_member)(void *arg, struct bus_peer *peer, struct span member, bool alive));
/* Says that everybody is lost and lets go of them: what is open there ends while its owners still stand. */
void members_part(struct members *m);
/* Leaves Redis where it can be reached within a second. */
void members_close(struct members *m);

#endif
