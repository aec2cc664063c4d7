/*
 * What a command does to the keys of the API. Pure: the registry as the audit log tells it, a command and a time in; the key's record out, or a refusal that says why. Nothing
 * is signed or written here.
 *
 * Nobody makes or revokes a key of a higher scope than his own: an operator makes clients and operators, an approver all of them. A revoked key stays, so that what it did still
 * has a name; it never comes back.
 */
#ifndef GENLOOP_FEEDBACK_KEYS_H
#define GENLOOP_FEEDBACK_KEYS_H

#include "base/arena.h"
#include "registry/api_key.h"
#include "registry/fold.h"

enum { KEY_NOTE_MAX = 256 };

struct key_command {
    bool revoke;
    struct span id;                   /* of create: as api_key_make gave it */
    struct span tenant, scope, note;  /* of create */
    uint8_t hash[API_KEY_HASH_SIZE];  /* of create */
    struct span actor_id, actor_scope, actor_claim;
};

/* *record is in the arena; epoch, audit_id and signature are for the caller to fill in. *unchanged: it was revoked already, nothing is to be done. E_INVALID names the parameter,
 * E_NOT_FOUND, E_DENIED, E_FULL, E_NOMEM. */
int key_decide(const struct fold *fold, const struct key_command *command, int64_t now_ms, struct arena *arena, Genloop__V1__ApiKey **record, bool *unchanged, struct error *err);

#endif
