/*
 * services/trainer: jobs to candidate models and to measurements. What its files share.
 *
 *   main.c       settings, start, drain, stop            rpc.c       service Training: questions and watches on the loop
 *   jobs.c       the life of a job: pure                 request.c   what a CreateJobRequest asks for: pure
 *   fine_tuning.c  OpenAI's fine-tuning as a recipe, a name and events: pure
 *   create.c     from a request to a durable QUEUED      runner.c    from QUEUED to its end, in a thread of its own
 *   view.c       jobs, progress and datasets as tables   models.c    the registry's signed records, in memory
 *   inputs.c     datasets and models of the store as files of a job's folder
 *   work.c       that folder: its lock, and how often the process died on it
 *   presets.c    the recipes that ship
 *
 * A job's folder, HOME/work/jobs/ID:
 *   lock, deaths         work.c
 *   data/ base/ tokenizer/ baseline/   inputs, links into the store where that can be
 *   run/                 checkpoints, metrics.jsonl, TensorBoard files
 *   out/                 the model directory, whole or not at all
 * When a job has ended the folder goes; TensorBoard files and metrics.jsonl of a trained model stay in HOME/runs/ID.
 */
#ifndef GENLOOP_TRAINER_TRAINER_H
#define GENLOOP_TRAINER_TRAINER_H

#include <stdatomic.h>

#include "genloop/v1/datasets.pb-c.h"
#include "genloop/v1/files.pb-c.h"
#include "genloop/v1/jobs.pb-c.h"
#include "genloop/v1/models.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "registry/state.h"
#include "service/service.h"
#include "services/trainer/jobs.h"
#include "view/view.h"

struct trainer_settings {
    struct service_settings shared;
    int64_t threads;       /* of a job; 0: as many as CPUs */
    int64_t checkpoint_ms; /* at least so often, whatever the recipe says */
    int64_t runs_keep;     /* folders in HOME/runs */
};

enum {
    CALLS_MAX = 1024,           /* questions that are being answered and jobs that are watched */
    LIST_BYTES_MAX = 8 << 20,   /* of a list's page: half of what a bus message may have */
    PATH_BYTES = 4096,
    DATASET_FULL_NAME_MAX = 128 + 12,
    VIEW_WAIT_MS = 10000,
};

struct models;
struct runner;
struct calls;

struct trainer {
    struct service *service;
    const struct trainer_settings *settings;
    struct loop *loop;
    struct eventlog *log;
    struct store *store;
    struct view *view;
    struct models *models;
    struct runner *runner;
    struct calls *calls;
    _Atomic uint64_t changes; /* of the view */
    bool draining;
    bool closed;              /* stop has been called: the bus is gone, replies with it */
    atomic_int abroad;        /* questions that another thread works for */
};

/* ---- view.c ---- */
extern const char TRAINER_SCHEMA[];
enum { TRAINER_SCHEMA_VERSION = 2 };
int trainer_fold(void *arg, struct view_db *db, const struct event *e, struct error *err);
/* Each returns owned (record_free) in its out-parameter. E_NOT_FOUND. Any thread but the view's. `wait`: as of now, and not as of a moment ago. */
int view_job(struct trainer *t, struct span id, bool wait, Genloop__V1__Job **job, struct error *err);
/* version 0: the newest that is READY, else the newest. */
int view_dataset(struct trainer *t, struct span tenant, struct span name, uint32_t version, bool wait, Genloop__V1__Dataset **dataset, struct error *err);
/* A packed ListJobsReply, newest first, of the tenant's jobs behind `token`. */
int view_jobs(struct trainer *t, struct span tenant, struct span token, uint32_t limit, struct buf *out, struct error *err);
/* A packed ListFineTuningReply: the tenant's fine-tuning jobs older than `after` (empty: from the newest on) that have all of the metadata. As of now. E_NOT_FOUND where `after` is none. */
struct fine_tuning_listing {
    struct span tenant, after;
    uint32_t limit;
    Genloop__V1__ListFineTuningRequest__MetadataEntry *const *metadata; /* borrowed */
    size_t n_metadata;
};
int view_fine_tuning(struct trainer *t, const struct fine_tuning_listing *q, struct buf *out, struct error *err);
/* Progress of a job behind row `after` (0: from step `from_step` on), as packed JobProgress, at most n; *rows are their numbers. */
enum { PROGRESS_BATCH_MAX = 64 };
struct progress_batch {
    struct buf bytes;
    size_t ends[PROGRESS_BATCH_MAX]; /* of each message in bytes */
    int64_t rows[PROGRESS_BATCH_MAX];
    int n;
};
int view_progress(struct trainer *t, struct span id, int64_t after, uint64_t from_step, int n, struct progress_batch *batch, struct error *err);

/* ---- models.c ---- */
int models_open(struct trainer *t, struct error *err);
void models_close(struct trainer *t);
/* name@version, an alias, or a name (its production version), as of now. Returns owned (record_free). E_NOT_FOUND, E_INVALID, E_UNAVAILABLE. Blocks: not on the loop. */
int models_resolve(struct trainer *t, struct span model, Genloop__V1__ModelVersion **version, struct error *err);

/* ---- create.c: blocks ---- */
struct create_context {
    struct span tenant, actor_id, actor_scope, actor_claim;
};
/* Takes a CreateJobRequest: the packed Job that there is now onto out. */
int create_job(struct trainer *t, const struct create_context *context, const Genloop__V1__CreateJobRequest *request, struct buf *out, struct error *err);
/* Writes a job's next record and waits until the view has it. E_UNAVAILABLE, E_DEADLINE: it may or may not be in the log. */
int publish_job(struct trainer *t, const Genloop__V1__Job *job, const char *what, struct error *err);

/* ---- runner.c ---- */
int runner_open(struct trainer *t, struct error *err);
void runner_drain(struct trainer *t);            /* leaves the job it has, with a checkpoint */
bool runner_idle(const struct trainer *t);       /* after runner_drain: the thread is over */
void runner_close(struct trainer *t);
int64_t runner_lag(const struct trainer *t);

/* ---- rpc.c ---- */
int calls_open(struct trainer *t, struct error *err);
void calls_close(struct trainer *t);
int calls_count(const struct trainer *t);
extern const struct bus_server_events TRAINER_BUS_EVENTS;

/* ---- main.c ---- */
void trainer_reply_end(struct trainer *t, struct bus_reply *reply, int code, const struct error *err, struct span last);
void trainer_unref(struct trainer *t); /* frees `t` once it is closed and the last call is gone */

#endif
