/* What runner.c and the two kinds of work share: the job in hand. On the runner's thread. */
#ifndef GENLOOP_TRAINER_RUNNER_H
#define GENLOOP_TRAINER_RUNNER_H

#include "base/metrics.h"
#include "services/trainer/inputs.h"
#include "services/trainer/trainer.h"
#include "services/trainer/work.h"

struct run {
    struct trainer *t;
    Genloop__V1__Job *job; /* as it was begun: RUNNING, this attempt */
    struct work work;
    uint64_t seen;         /* of trainer.changes */
    enum job_order order;  /* what was found last */
    struct job_pace pace;
    int64_t saved_ms;      /* when a checkpoint was last durable, or the run began */
    uint64_t tokens_per_second;
};

/* Whether the job is to go on: stops when the service leaves, or when the job is not RUNNING in this attempt any more. Cheap: asks the view only where it has changed. */
enum job_order run_look(struct run *run);
/* To the topic, not waited for. */
struct run_progress {
    uint64_t step, steps, tokens;
    double loss, grad_norm, lr, tokens_per_second;
    const char *phase;
};
void run_tell(struct run *run, const struct run_progress *p);
/* Makes and names a folder of the job's. */
int run_dir(struct run *run, const char *relative, char path[WORK_PATH_MAX], struct error *err);
/* A dataset that a job names, with its manifest, both owned. E_NOT_FOUND, E_STATE. */
int run_dataset(struct run *run, const char *full, Genloop__V1__Dataset **d, struct json **manifest, struct error *err);
/* Ends the job well: the event is written until it is durable, or the service leaves. figures and refs are borrowed. */
struct run_end {
    Genloop__V1__Figure **figures;
    size_t n_figures;
    Genloop__V1__ObjectRef *output, *metrics;
    uint64_t step;
};
int run_succeed(struct run *run, const struct run_end *end, struct error *err);

/* ---- train_job.c, evaluate_job.c, import_job.c ---- */
/* To the end of the job, or E_ABORTED, E_CANCELLED where run_look said so. Anything else is a failure; which of them are worth another try the runner knows. */
int train_job(struct run *run, struct error *err);
int evaluate_job(struct run *run, struct error *err);
int import_job(struct run *run, struct error *err);

/* Metrics: counted by both. */
struct runner_metrics {
    struct metric *steps, *tokens, *checkpoints, *tokens_per_second, *told, *untold;
};
extern struct runner_metrics runner_metrics;

#endif
