/* The service's own state, shared by its shells (main.c, commands.c, submit.c, watcher.c, improve.c). Everything is on the loop's thread unless a function says
 * that it blocks: those run on workers and touch the settings, the facts, the store and the holder only. */
#ifndef GENLOOP_FEEDBACK_FEEDBACK_H
#define GENLOOP_FEEDBACK_FEEDBACK_H

#include "facts.h"
#include "gates/gates.h"
#include "genloop/v1/services.pb-c.h"
#include "holder.h"
#include "policy.h"
#include "service/service.h"
#include "sets.h"

struct settings {
    struct service_settings shared; /* first */
    char *evaluate;                 /* "auto", "manual" */
    char *trait;
    char *registry_key; /* hex of its seed; empty: HOME/keys/registry.key */
    char *preference_preset, *supervised_preset;
    int64_t lease_ms;
    struct policy_limits policy;
    struct gate_limits gates;
    int64_t documents, prompts, sample_tokens, seed;
    double temperature, multiply_adds /* 10^12 */;
};

struct watcher;
struct commands;
struct feedback_service {
    struct service *service;
    const struct settings *settings;
    struct registry_key key;
    uint8_t api_key_secret[API_KEY_SECRET_SIZE]; /* that hashes of keys are keyed with */
    struct holder *holder;
    struct facts facts;
    struct watcher *watcher;
    struct commands *commands;
    bool started, stopped;
    int64_t open_work; /* calls and workers under way: what a drain waits for */
};

/* ---- submit.c: blocks ---- */
struct submit_context {
    struct span tenant, actor_id, actor_scope, actor_claim;
};
/* Takes a packed SubmitFeedbackRequest: what people wrote goes sealed into the store, the event into the topic; durable when it returns. id: of the event. */
int submit_feedback(struct feedback_service *s, const struct submit_context *context, struct span request, char id[FEEDBACK_ID_MAX + 1], bool *existed, struct error *err);

/* ---- trainer.c ---- */
/* Asks an instance of the trainer for a job (packed CreateJobRequest); on_done once, on the loop: job is the packed Job, borrowed. */
void trainer_create(struct feedback_service *s, struct span request, void *arg, void (*on_done)(void *arg, int r, const struct error *err, struct span job));

/* ---- evaluate.c: blocks ---- */
/* The request for an evaluation of a version, packed behind what is in out. trait "": that of the improvement it came from, else the configured one. */
int evaluate_plan(struct feedback_service *s, struct span model, struct span trait, struct span job_id, struct span reason, struct buf *out, struct error *err);
/* The verdict on a measured evaluation: *judged is in the arena, unsigned. E_STATE where it is none that we asked for. */
int evaluate_judge(struct feedback_service *s, const Genloop__V1__Evaluation *measured, struct arena *arena, Genloop__V1__Evaluation **judged, struct error *err);

/* sha256 of a file in a version's directory; "" where it is not there. Blocks. */
int version_file(struct feedback_service *s, const Genloop__V1__ModelVersion *v, const char *path, char sha256[SHA256_HEX_MAX], struct error *err);

/* A copy of a version, owned (record_free): NAME@VERSION in any state, an alias, or a NAME's production version. */
int registry_copy(struct feedback_service *s, struct span model, Genloop__V1__ModelVersion **version, struct error *err);
/* "" or the full name of the production version of a name. */
void registry_production(struct feedback_service *s, struct span name, char full[MODEL_FULL_NAME_MAX]);

/* ---- improve.c ---- */
#define IMPROVE_ACTION "model.improve"
struct improve_request { /* all copied */
    struct span model, objective, recipe, id, trait, reason;
    struct span actor_id, actor_scope, actor_claim;
};
/* Builds the set, writes the wish into the audit log, asks the trainer. on_done once, on the loop: job is the packed Job, borrowed. */
void improve_start(struct feedback_service *s, const struct improve_request *request, void *arg, void (*on_done)(void *arg, int r, const struct error *err, struct span job));
/* The request for the job that an audit record of IMPROVE_ACTION wishes for, packed behind what is in out. */
int improve_job_request(const Genloop__V1__AuditRecord *record, struct buf *out, struct error *err);

/* ---- watcher.c ---- */
int watcher_open(struct feedback_service *s, struct watcher **w, struct error *err);
void watcher_kick(struct watcher *w); /* something has changed: look soon */
void watcher_close(struct watcher *w);

/* ---- commands.c ---- */
extern const struct bus_server_events COMMANDS_EVENTS; /* arg: struct feedback_service * */
int commands_open(struct feedback_service *s, struct commands **c, struct error *err);
void commands_changed(struct commands *c); /* the registry has changed: tell those who watch */
void commands_drain(struct commands *c);   /* ends the watches */
void commands_close(struct commands *c);

/* ---- main.c ---- */
void work_begin(struct feedback_service *s);
void work_end(struct feedback_service *s);

#endif
