/*
 * The registry as the audit log tells it: the tree, every version and alias as the last change made it, which commands have been done, and in
 * which order versions came to production. The audit log is the truth; topics models and aliases follow it. Pure: records in, state out.
 * One thread at a time (the holder's thread changes it under its lock, others read under the lock).
 */
#ifndef GENLOOP_FEEDBACK_LEDGER_H
#define GENLOOP_FEEDBACK_LEDGER_H

#include "audit.h"

struct ledger;
enum ledger_result {
    LEDGER_TAKEN,
    LEDGER_SAME,    /* the record that stands there already */
    LEDGER_DROPPED, /* not the next record of this log; err says why */
};
struct ledger_done {
    const char *action, *object;
    uint64_t index; /* of the audit record */
};

struct ledger *ledger_new(const uint8_t public_key[RECORD_PUBLIC_SIZE]);
void ledger_free(struct ledger *l);
/* Takes the next record after all checks of audit_follow, with the registry records that it carries. E_NOMEM leaves the ledger unusable: stop. */
int ledger_take(struct ledger *l, const Genloop__V1__AuditRecord *record, enum ledger_result *result, struct error *err);
const struct merkle *ledger_tree(const struct ledger *l);
uint64_t ledger_epoch(const struct ledger *l);
void ledger_state(const struct ledger *l, struct registry_state *state); /* borrowed until the next ledger_take */
/* Whether a command of this id has been done; done may be NULL. */
bool ledger_find(const struct ledger *l, struct span command_id, struct ledger_done *done);
/* The signed head of the newest record. */
struct ledger_head {
    uint64_t size;
    uint8_t root[SHA256_SIZE];
    int64_t time_ms;
    uint8_t signature[RECORD_SIGNATURE_SIZE]; /* zero where the log is empty */
};
void ledger_head(const struct ledger *l, struct ledger_head *head);

#endif
