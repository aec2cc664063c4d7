/*
 * The registry as its readers see it: folded in memory from the events of topics models, aliases and keys, in the order of each topic.
 * Feed every event to fold_event. It keeps what is rightly signed and drops (and counts, by cause) the rest:
 *
 *   signature   the registry's key did not sign it, or it is no such message, or its key is not what it says
 *   epoch       written by a former holder of the lease, behind the first record of a later one
 *   revision    not newer than what is known of this version or alias (the same bytes again are a repeat, and no drop)
 *   transition  no way of the state machine leads from the state known to this one: a rejected version never comes back, nor a revoked key
 *
 * A holder begins by writing a signed Lease record (key "lease/registry") into each topic: from there on lower epochs are dropped.
 * A compacted topic may lack records in between: a revision may jump, the state must be reachable.
 *
 * What is looked up is borrowed until the next fold_event. One thread at a time. At most FOLD_VERSIONS_MAX versions and FOLD_ALIASES_MAX
 * aliases and FOLD_KEYS_MAX keys are held (some 1 KiB each): above it E_FULL.
 */
#ifndef GENLOOP_REGISTRY_FOLD_H
#define GENLOOP_REGISTRY_FOLD_H

#include <stdint.h>

#include "base/error.h"
#include "base/span.h"
#include "eventlog/eventlog.h"
#include "genloop/v1/governance.pb-c.h"
#include "genloop/v1/keys.pb-c.h"
#include "genloop/v1/models.pb-c.h"
#include "registry/record.h"
#include "registry/state.h"

enum { FOLD_VERSIONS_MAX = 65536, FOLD_ALIASES_MAX = 1024, FOLD_KEYS_MAX = 65536 };
#define FOLD_LEASE_KEY "lease/registry"
#define ALIAS_PRODUCTION "production"
#define ALIAS_CANARY "canary"

struct fold;

struct fold_counts {
    uint64_t accepted, repeated, leases;
    uint64_t dropped_signature, dropped_epoch, dropped_revision, dropped_transition;
};

enum fold_result {
    FOLD_CHANGED,  /* the registry differs now */
    FOLD_SAME,     /* a repeat, a lease, or an event of another topic */
    FOLD_DROPPED,  /* see err and the counts */
};

/* Returns owned, NULL without memory. public_key: registry.pub. */
struct fold *fold_new(const uint8_t public_key[RECORD_PUBLIC_SIZE]);
void fold_free(struct fold *f);
/* Folds one event; *result as above, err says why one was dropped (the call itself succeeds then). E_NOMEM, E_FULL. */
int fold_event(struct fold *f, const struct event *e, enum fold_result *result, struct error *err);
void fold_counts(const struct fold *f, struct fold_counts *counts);
uint64_t fold_generation(const struct fold *f); /* rises with each change */
/* What a topic of the registry holds beside leases; NULL for any other topic. */
const ProtobufCMessageDescriptor *fold_record_type(enum topic t);
/* The highest epoch seen. */
uint64_t fold_epoch(const struct fold *f);

/* NULL where there is none. An alias that was taken away is none. */
const Genloop__V1__ModelVersion *fold_version(const struct fold *f, struct span name, uint32_t version);
const Genloop__V1__Alias *fold_alias(const struct fold *f, struct span alias);
/* The record of an alias also where it was taken away (name ""), for who writes the next one. */
const Genloop__V1__Alias *fold_alias_record(const struct fold *f, struct span alias);
/* The PRODUCTION version of a name. */
const Genloop__V1__ModelVersion *fold_production(const struct fold *f, struct span name);
uint32_t fold_highest_version(const struct fold *f, struct span name); /* 0: none */
/* In order of name, then version; i from 0; NULL at the end. */
size_t fold_versions(const struct fold *f);
const Genloop__V1__ModelVersion *fold_version_at(const struct fold *f, size_t i);
size_t fold_aliases(const struct fold *f); /* those taken away count too: name "" */
const Genloop__V1__Alias *fold_alias_at(const struct fold *f, size_t i);
/* Keys of the API in order of their id; those that were revoked are there too. */
const Genloop__V1__ApiKey *fold_key(const struct fold *f, struct span id);
size_t fold_keys(const struct fold *f);
const Genloop__V1__ApiKey *fold_key_at(const struct fold *f, size_t i);

/*
 * What a request's `model` means: exact name@version; else an alias; else a bare name: its PRODUCTION version. Alias "production" and a bare name give the
 * share canary_percent of hashes (hash % 100 < canary_percent) to the canary version: hash what should stay on one side (a session, a
 * request). *canary tells that this happened (may be NULL). While the alias still points to a version that is out of service already, its name's PRODUCTION version is
 * meant. An exact version is found in any state: ask fold_released before serving it.
 * E_NOT_FOUND names what is missing; E_INVALID for what is no model name.
 */
int fold_resolve(const struct fold *f, struct span model, uint64_t hash, const Genloop__V1__ModelVersion **version, bool *canary, struct error *err);
/* Whether governance has released it: state CANARY or PRODUCTION. */
bool fold_released(const Genloop__V1__ModelVersion *version);

#endif
