/*
 * What a command does to the registry. Pure: the state (a fold of what the audit log says, and in which order versions came to production), a
 * command and a time in; the records of one change out, or a refusal that says why. Nothing is signed or written here.
 *
 * A change is one audit record and all records of versions and aliases that it makes: a promotion takes the alias along and retires the version
 * before. The table of registry/state.h is the only way from one state to another; REJECTED and ROLLED_BACK have no way out, whoever asks.
 */
#ifndef GENLOOP_FEEDBACK_REGISTRY_H
#define GENLOOP_FEEDBACK_REGISTRY_H

#include "base/arena.h"
#include "base/error.h"
#include "registry/fold.h"

enum { REGISTRY_REASON_MAX = 1024, REGISTRY_ID_MAX = 128, REGISTRY_CANARY_DEFAULT = 10 };

/* The order in which versions came to production, over all names; kept by who folds the audit log. */
struct registry_promotion {
    char name[MODEL_NAME_MAX];
    uint32_t version;
};
struct registry_state {
    const struct fold *fold;
    const struct registry_promotion *promotions;
    size_t n_promotions;
};

struct registry_command {
    enum registry_move move;
    struct span id;     /* of the command: the same again changes nothing (the caller knows which ids it has seen) */
    struct span model;  /* NAME@VERSION; for register and rollback NAME too */
    struct span reason; /* required */
    struct span actor_id, actor_scope, actor_claim;
    struct span evidence; /* id of the evaluation, of pass and fail */
    uint32_t canary_percent; /* of canary; 0: REGISTRY_CANARY_DEFAULT */
    /* of register: */
    struct span tenant, job_id, base_model, dataset, recipe;
    struct span directory_sha256;
    uint64_t directory_size;
    uint64_t parameters;
    uint32_t context;
    bool adapter; /* the directory is an adapter, of base_model */
    bool encoder; /* it generates nothing */
};

enum { REGISTRY_VERSIONS_MAX = 4, REGISTRY_ALIASES_MAX = 2 };
/* All in the arena given to registry_decide; audit_id, epoch and signature are for the caller to fill in. versions[0] is what the command was about. */
struct registry_change {
    Genloop__V1__ModelVersion *versions[REGISTRY_VERSIONS_MAX];
    size_t n_versions;
    Genloop__V1__Alias *aliases[REGISTRY_ALIASES_MAX];
    size_t n_aliases;
    char *action; /* "model.promote" */
    char *object; /* "name@version" */
    const char *from_state, *to_state;
};

/* E_INVALID (the command is malformed), E_NOT_FOUND, E_STATE (not from this state), E_DENIED (not with this scope), E_NOMEM. */
int registry_decide(const struct registry_state *state, const struct registry_command *command, int64_t now_ms, struct arena *arena,
                    struct registry_change *change, struct error *err);
/* Whether registry_decide would make this move of `v` for an asker of this scope: what a page offers is what a command does. */
bool registry_may(const struct registry_state *state, const Genloop__V1__ModelVersion *v, enum registry_move move, struct span scope);
/* The version that production would go back to when `name`@`version` is rolled back; 0: none. */
uint32_t registry_version_before(const struct registry_state *state, struct span name, uint32_t version);

#endif
