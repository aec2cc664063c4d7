/* What governance has released, as the gateway knows it: the fold of topics models and aliases (lib/registry), in memory, believed only as far as it is signed. */
#ifndef GATEWAY_REGISTRY_H
#define GATEWAY_REGISTRY_H

#include "registry/fold.h"
#include "gateway.h"

/* on_caught_up: once, when everything that was in the topics at the start has been read. */
int registry_open(struct gateway *g, void (*on_caught_up)(struct gateway *g), struct registry **r, struct error *err);
void registry_close(struct registry *r);
/* Before it nothing can be said of any model, also not that it is not there. */
bool registry_caught_up(const struct registry *r);
/* NULL until the registry's public key is there: nothing can be believed before. */
const struct fold *registry_fold(const struct registry *r);
/* The released version that a request's `model` means. hash: of what should stay on one side of a canary. E_NOT_FOUND also for what is not released; E_UNAVAILABLE until registry_caught_up. */
int registry_resolve(const struct registry *r, struct span model, uint64_t hash, const Genloop__V1__ModelVersion **version, bool *canary, struct error *err);
/* Of a name that registry_resolve does not find: whether it may mean a released version in a moment. It is an alias, or the name of a model, and what a promotion or a rollback wrote may have
 * been read in part: the records of versions and of aliases have no common order. */
bool registry_between(const struct registry *r, struct span model);

#endif
