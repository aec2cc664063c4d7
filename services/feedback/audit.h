/*
 * Audit records of this service: made, and read back. Pure but for the signature.
 *
 * A record of a change carries, in its details, the id of the command and every registry record that the change makes, signed and packed
 * ("version.0", "alias.0", "key.0" …, in hex). It is written before any of them: it is the point at which a command is done. Whoever finds a record
 * in the audit log whose versions or aliases are not in their topics writes them there; nobody decides a second time.
 */
#ifndef GENLOOP_FEEDBACK_AUDIT_H
#define GENLOOP_FEEDBACK_AUDIT_H

#include "base/arena.h"
#include "genloop/v1/governance.pb-c.h"
#include "registry.h"
#include "registry/merkle.h"

#define AUDIT_KEY "audit" /* of every event: the order is one */
enum { AUDIT_DETAILS_MAX = 16, AUDIT_DETAIL_MAX = 128 * 1024, AUDIT_RECORDS_MAX = REGISTRY_VERSIONS_MAX + REGISTRY_ALIASES_MAX };

struct audit_detail {
    const char *key;
    struct span value;
};
/* What a record says; all borrowed. details in any order, keys each once. */
struct audit_entry {
    struct span command; /* id of the command; may be empty */
    struct span actor_id, actor_scope, actor_claim;
    const char *action, *object, *from_state, *to_state;
    struct span reason, evidence;
    const struct audit_detail *details;
    size_t n_details;
};
/* The next record of `tree`, whole and signed, in the arena. id: its own, from id_make. E_NOMEM, E_TOO_LARGE, E_DENIED. */
int audit_make(const struct merkle *tree, const struct registry_key *key, uint64_t epoch, int64_t now_ms, const char *id, const struct audit_entry *entry,
               struct arena *arena, Genloop__V1__AuditRecord **record, struct error *err);
/* Signs the records of a change for `epoch`, names the audit record in them, and gives them as details in the arena: at most
 * AUDIT_RECORDS_MAX. */
int audit_seal_change(struct registry_change *change, const struct registry_key *key, uint64_t epoch, const char *audit_id, struct arena *arena,
                      struct audit_detail details[AUDIT_RECORDS_MAX], size_t *n, struct error *err);
/* The same of a key of the API: one detail. */
int audit_seal_key(Genloop__V1__ApiKey *record, const struct registry_key *key, uint64_t epoch, const char *audit_id, struct arena *arena, struct audit_detail *detail, struct error *err);
/* A detail by key; empty where there is none. */
struct span audit_detail_get(const Genloop__V1__AuditRecord *record, const char *key);
/* Calls on_record(arg, topic, packed record) for each registry record that a change's audit record carries: first the versions that it brings into service, then the
 * aliases and keys, then the versions that it takes out: whoever follows the topics has one that serves at every instant, also where the writer dies in between. Stops at a result other
 * than 0 and returns it. */
int audit_each_record(const Genloop__V1__AuditRecord *record, struct arena *arena, void *arg, int (*on_record)(void *arg, enum topic topic, struct span packed), struct error *err);

#endif
