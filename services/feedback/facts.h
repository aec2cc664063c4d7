/*
 * What this service knows of the topics, in an SQLite view (lib/view): judgements and the interactions they are about, evaluations, data sets, jobs, the
 * audit log. The registry itself is the ledger's (holder.h). Everything here is read on worker threads: calls block on the disk.
 *
 * Feedback comes as protobuf from this service itself and as JSON from producers that are not ours; what such a producer wrote is sealed before it
 * goes into the view. What cannot be read goes to the dead letters, with the reason.
 */
#ifndef GENLOOP_FEEDBACK_FACTS_H
#define GENLOOP_FEEDBACK_FACTS_H

#include "base/arena.h"
#include "feedback_json.h"
#include "genloop/v1/datasets.pb-c.h"
#include "genloop/v1/governance.pb-c.h"
#include "genloop/v1/jobs.pb-c.h"
#include "genloop/v1/models.pb-c.h"
#include "pairs.h"
#include "registry/record.h"
#include "store/seal.h"
#include "store/store.h"
#include "view/view.h"

struct facts {
    struct view *view;
    struct store *store;                     /* borrowed, as all below */
    struct keyring *keyring;
    uint8_t public_key[RECORD_PUBLIC_SIZE];
    const char *tenant;                      /* of foreign feedback, which names none */
    void *owner;                             /* whose they are, for the callbacks */
};
/* *facts is filled in but for the view, and stays where it is; on_change(facts) and on_caught_up(facts) come on the view's thread. */
int facts_open(struct facts *facts, struct eventlog *log, const char *path, void (*on_change)(void *facts), void (*on_caught_up)(void *facts), struct error *err);
void facts_close(struct facts *facts);

/* Messages come unpacked and owned (record_free); E_NOT_FOUND where there is none. */
int facts_feedback_exists(struct facts *f, struct span id, bool *exists, struct error *err);
int facts_job(struct facts *f, struct span id, Genloop__V1__Job **job, struct error *err);
int facts_dataset(struct facts *f, struct span name, uint32_t version, Genloop__V1__Dataset **dataset, struct error *err); /* version 0: the newest READY */
int facts_dataset_by_build(struct facts *f, struct span name, struct span build_id, Genloop__V1__Dataset **dataset, struct error *err);
int facts_dataset_newest_text(struct facts *f, Genloop__V1__Dataset **dataset, struct error *err);
int facts_dataset_highest(struct facts *f, struct span name, uint32_t *version, struct error *err); /* 0: none, in any state */
int facts_audit(struct facts *f, uint64_t index, Genloop__V1__AuditRecord **record, struct error *err);

/* Lists: each message unpacked for the time of the callback; stops at a result other than 0 and returns it. */
typedef int (*facts_on_message)(void *arg, int64_t position, const ProtobufCMessage *message);
/* Newest first, below `before` (0: from the newest); position is what the next page takes. */
int facts_each_feedback(struct facts *f, int64_t before, int64_t limit, void *arg, facts_on_message on_event, struct error *err);
int facts_each_audit(struct facts *f, int64_t from, int64_t limit, void *arg, facts_on_message on_record, struct error *err); /* oldest first, from this index */
int facts_each_version(struct facts *f, struct span model, void *arg, facts_on_message on_version, struct error *err); /* every record of NAME@VERSION, oldest first */
int facts_each_audit_action(struct facts *f, struct span action, int64_t limit, void *arg, facts_on_message on_record, struct error *err); /* newest first */
int facts_each_evaluation(struct facts *f, struct span candidate, void *arg, facts_on_message on_evaluation, struct error *err); /* the judged one of each, else the measured one */
int facts_each_unjudged(struct facts *f, void *arg, facts_on_message on_evaluation, struct error *err);
int facts_each_judged(struct facts *f, void *arg, facts_on_message on_evaluation, struct error *err); /* the newest 200, newest first */
int facts_each_job(struct facts *f, Genloop__V1__JobKind kind, Genloop__V1__JobState state, void *arg, facts_on_message on_job, struct error *err); /* the newest 500, newest first; state UNSPECIFIED: all */
/* Whether a training job of this model is queued, running or paused. */
int facts_training(struct facts *f, struct span model, bool *open, struct error *err);
/* Judgements about a model (by name), which is what the policy counts. */
int facts_judgements(struct facts *f, struct span model, int64_t *count, struct error *err);

/* All judgements about a model with their interactions, opened, in the arena: what pairs_build takes. What cannot be opened (erased, hashed only) is left out. */
struct facts_material {
    struct pair_interaction *interactions;
    struct pair_judgement *judgements;
    size_t n_interactions, n_judgements;
    int64_t seen;       /* judgements in all, as facts_judgements counts them */
    uint64_t closed;    /* contents that could not be opened */
};
int facts_material(struct facts *f, struct span model, struct arena *arena, struct facts_material *material, struct error *err);
/* What people wrote as JSON {"prompt"?, "chosen"?, "rejected"?, "text"?}; nothing written gives an empty buffer. */
int feedback_content_write(const struct feedback *feedback, struct buf *out);

#endif
