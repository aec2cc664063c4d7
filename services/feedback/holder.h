/*
 * The holder of the registry: one thread that follows topics audit, models, aliases and keys from their beginning, holds the lease, and, while it does, is the
 * only one that decides. Other instances follow and wait; a former holder's writes are fenced by its epoch.
 *
 *   follow ──lease──► claim: an audit record "registry.lease" under the new epoch, read back as the next of the log; signed Lease records into models,
 *     ▲                 aliases and keys; what the audit log says and a topic lacks is written there (a change half done is finished)
 *     └──lease lost, or a write whose fate is unknown── hold: commands, one after another: audit record first, then versions, aliases and keys
 *
 * A write that fails may have been done: the holder lets go of the lease and begins again under the next epoch, so that a late arrival is fenced
 * and what was decided is read from the log. A command is found again by its id: it is done once, however often it is asked for.
 *
 * Requests come from the loop's thread and go back there. At most HOLDER_QUEUE_MAX wait (a person's commands and the watcher's: far fewer are ever asked for
 * at once); one that finds no lease within HOLDER_WAIT_MS ends with E_UNAVAILABLE.
 */
#ifndef GENLOOP_FEEDBACK_HOLDER_H
#define GENLOOP_FEEDBACK_HOLDER_H

#include "base/loop.h"
#include "eventlog/eventlog.h"
#include "keys.h"
#include "ledger.h"

enum { HOLDER_QUEUE_MAX = 256, HOLDER_WAIT_MS = 10000, HOLDER_CHANGES_MAX = 4096 };
#define HOLDER_LEASE "registry"

struct holder;
struct holder_config {
    struct eventlog *log;
    const struct registry_key *key; /* borrowed */
    const char *instance;
    int64_t lease_ms;
    struct loop *loop;
    void *arg;
    void (*on_change)(void *arg);                         /* the registry or the lease has changed; on the loop's thread, also once more after holder_close: arg outlives the loop */
    void (*on_fatal)(void *arg, const struct error *err); /* it cannot go on; on the holder's thread */
};

enum holder_kind {
    HOLDER_TRANSITION, /* command */
    HOLDER_NOTE,       /* an audit record without a change: entry */
    HOLDER_KEY,        /* key: a key of the API is made or revoked */
    HOLDER_JUDGE,      /* an evaluation, judged: signed with the epoch and published */
};
/* One request. The caller fills it in, everything it points to lives until on_done. */
struct holder_request {
    enum holder_kind kind;
    struct registry_command command;
    struct key_command key;
    struct audit_entry entry;
    Genloop__V1__Evaluation *evaluation;
    void *arg;
    void (*on_done)(struct holder_request *request); /* on the loop's thread; the request is the caller's again */
    /* out: */
    int result;
    struct error err;
    bool existed;                  /* it had been done before */
    char object[MODEL_FULL_NAME_MAX]; /* of a transition: the version it was about; of a key: its id */
    /* the holder's: */
    struct holder *holder;
    struct holder_request *next;
    int64_t until_ms;
};

int holder_open(const struct holder_config *config, struct holder **holder, struct error *err);
/* Ends what waits with E_UNAVAILABLE (its on_done is posted), lets go of the lease. */
void holder_close(struct holder *holder);
/* E_FULL; on_done is not called then. */
int holder_ask(struct holder *holder, struct holder_request *request, struct error *err);
bool holder_holds(struct holder *holder);
/* Whether all that was in the topics at start has been followed. */
bool holder_caught_up(struct holder *holder);
/* read(arg, ledger) under the lock, on the caller's thread: short, and without blocking. */
void holder_read(struct holder *holder, void *arg, void (*read)(void *arg, const struct ledger *ledger));
/* Changes of versions since `*position` (0: from now on), oldest first, each by full name: fills names[max], moves *position; returns how many. *lost is set
 * where some are no longer known (more than HOLDER_CHANGES_MAX behind). */
size_t holder_changes(struct holder *holder, uint64_t *position, char (*names)[MODEL_FULL_NAME_MAX], size_t max, bool *lost);

#endif
