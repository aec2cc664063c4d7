/*
 * The life of a model version as a table.
 *
 *   register ─► CANDIDATE ─pass─► EVALUATED ─approve─► APPROVED ─canary──► CANARY
 *                   │                 │                │  ▲  │             │  │  │
 *                   │ fail            │ fail           │  └──┼─end_canary──┘  │  │
 *                   │ reject          │ reject         │     │ promote        │  │ promote
 *                   ▼                 ▼         reject ▼     │         reject ▼  ▼
 *                REJECTED          REJECTED      REJECTED    └────────────► PRODUCTION ─rollback─► ROLLED_BACK
 *                                                                             │  ▲
 *                                    (CANDIDATE, EVALUATED, APPROVED) ─retire─┤  │ restore
 *                                                          retire, succeed ▼  │
 *                                                                           RETIRED
 *
 * REJECTED and ROLLED_BACK have no way out: a version that failed is never released again; its successor is another version.
 * `succeed` is what promotion does to the production version before it; `restore` what rollback does to the one before. Released, that is
 * served to anybody who does not name the version, are CANARY and PRODUCTION only.
 *
 * A command needs a scope of at least the row's: client < operator < approver. Rows of scope "service" are moves of the registry itself, and nobody else's.
 */
#ifndef GENLOOP_REGISTRY_STATE_H
#define GENLOOP_REGISTRY_STATE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"
#include "genloop/v1/models.pb-c.h"

typedef Genloop__V1__ModelState model_state;
#define MODEL_STATE(NAME) GENLOOP__V1__MODEL_STATE__MODEL_STATE_##NAME

enum registry_move {
    MOVE_REGISTER,   /* a job's output becomes a version */
    MOVE_PASS,       /* every gate held */
    MOVE_FAIL,       /* a gate did not */
    MOVE_APPROVE,
    MOVE_REJECT,
    MOVE_CANARY,
    MOVE_END_CANARY,
    MOVE_PROMOTE,
    MOVE_SUCCEED,    /* another version was promoted over this one */
    MOVE_ROLLBACK,
    MOVE_RESTORE,    /* the version after this one was rolled back */
    MOVE_RETIRE,
    MOVE_COUNT
};

struct state_row {
    model_state from; /* UNSPECIFIED: there is no such version yet */
    enum registry_move move;
    model_state to;
    const char *scope; /* that the asker needs at least */
};
extern const struct state_row STATE_ROWS[];
extern const size_t STATE_ROWS_COUNT;

/* The row of a move from a state, NULL where there is none. */
const struct state_row *state_find(model_state from, enum registry_move move);
/* Whether any row leads from one state to the other. */
bool state_leads(model_state from, model_state to);
/* Whether, over any number of rows, one leads to the other: of two records of which some between are missing (a compacted topic). */
bool state_reaches(model_state from, model_state to);
/* Served without being named by version: CANARY or PRODUCTION. */
bool state_released(model_state state);
/* Rank of a scope: client 1, operator 2, approver 3, service 4 (for rows of scope service only); 0 for anything else. */
int scope_rank(struct span scope);
/* Whether an asker of this scope may make the row's move. */
bool scope_allows(struct span scope, const struct state_row *row);
const char *state_name(model_state state);           /* "candidate"; "none" for UNSPECIFIED */
const char *move_name(enum registry_move move);      /* "approve": the verb of the command line and of audit actions "model.approve" */

/* Names. name: [A-Za-z0-9][A-Za-z0-9._-]*, at most MODEL_NAME_MAX - 1; of a fine-tuned model as OpenAI names it "ft:" and segments of [A-Za-z0-9._-] with ':' between. "NAME@VERSION" with
 * VERSION from 1. */
enum { MODEL_NAME_MAX = 65, MODEL_FULL_NAME_MAX = MODEL_NAME_MAX + 12 };
bool model_name_valid(struct span name);
/* Splits "name@version"; version 0 for a bare name. E_INVALID for what is no model name. */
int model_name_parse(struct span text, struct span *name, uint32_t *version);
/* Writes "name@version"; returns out. */
char *model_name_format(struct span name, uint32_t version, char out[MODEL_FULL_NAME_MAX]);

#endif
