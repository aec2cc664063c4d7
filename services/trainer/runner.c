/*
 * From QUEUED to the end: a member of the consumer group "trainer" over the topic of jobs, in a thread of its own, one job at a time. What the group deals is only the hint to look; what is
 * done follows from the job as it stands now (jobs.h). An event is committed when its job has ended, or waits for a person. So a job belongs to
 * one member as long as it runs, and to another one when that one dies: it finds the job RUNNING, and goes on from the checkpoint.
 */
#include <dirent.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "registry/record.h"
#include "services/trainer/runner.h"

enum {
    POLL_MS = 100,
    RETRY_MS = 500,
    LAG_EVERY_MS = 1000,
    TRIES_MAX = 6,               /* of what may be better later (a full disk, no memory): 1 + 2 + 4 + 8 + 16 s between them */
    TRY_FIRST_MS = 1000,
};

struct runner {
    struct trainer *t;
    pthread_t thread;
    bool running;
    atomic_bool stop, over;
    struct eventlog_group *group;
    _Atomic int64_t lag;
    int64_t lag_asked_ms;
    struct metric *busy, *ended[2][2], *attempts, *retries;
};

struct runner_metrics runner_metrics;

static bool stopping(const struct trainer *t) { return atomic_load(&t->runner->stop); }

static void pause_ms(struct trainer *t, int64_t ms) {
    for (int64_t slept = 0; slept < ms && !stopping(t); slept += 20) nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
}

static void ask_lag(struct runner *r) {
    int64_t now = clock_mono_ms();
    if (!r->group || now - r->lag_asked_ms < LAG_EVERY_MS) return;
    r->lag_asked_ms = now;
    atomic_store(&r->lag, eventlog_group_lag(r->group));
}

/* ---- what the work asks for ---- */

enum job_order run_look(struct run *run) {
    struct trainer *t = run->t;
    Genloop__V1__Job *now = NULL;
    uint64_t changes = atomic_load(&t->changes);
    ask_lag(t->runner);
    if (run->order == JOB_GO_ON && changes != run->seen && view_job(t, span_str(run->job->id), false, &now, NULL) == 0) {
        run->seen = changes;
        run->order = job_order(now, run->job->attempts);
        record_free(&now->base);
    }
    return run->order == JOB_GO_ON && stopping(t) ? JOB_STOP : run->order;
}

static void on_told(void *arg, int r) {
    (void)arg;
    metric_add(r ? runner_metrics.untold : runner_metrics.told, 1);
}

void run_tell(struct run *run, const struct run_progress *p) {
    Genloop__V1__JobProgress m = GENLOOP__V1__JOB_PROGRESS__INIT;
    char id[JOB_ID_MAX + 64];
    struct buf packed;
    snprintf(id, sizeof id, "%s/%u/%llu/%s", run->job->id, run->job->attempts, (unsigned long long)p->step, p->phase);
    m.job_id = run->job->id;
    m.id = id;
    m.event_time_ms = clock_wall_ms();
    m.step = p->step;
    m.steps = p->steps;
    m.loss = p->loss;
    m.grad_norm = p->grad_norm;
    m.learning_rate = p->lr;
    m.tokens = p->tokens;
    m.tokens_per_second = p->tokens_per_second;
    m.phase = (char *)(uintptr_t)p->phase;
    buf_init(&packed, 4096);
    struct event e = {.topic = TOPIC_JOB_PROGRESS, .key = span_str(run->job->id)};
    int r = record_pack(&m.base, &packed);
    e.value = buf_span(&packed);
    if (!r) r = eventlog_publish_async(run->t->log, &e, NULL, on_told);
    if (r) metric_add(runner_metrics.untold, 1);
    buf_fini(&packed);
}

int run_dir(struct run *run, const char *relative, char path[WORK_PATH_MAX], struct error *err) {
    int r = work_path(&run->work, relative, path, err);
    return r ? r : dir_make(path, err);
}

int run_dataset(struct run *run, const char *full, Genloop__V1__Dataset **d, struct json **manifest, struct error *err) {
    struct span version = span_str(full), name;
    uint64_t number = 0;
    if (!span_cut(&version, '@', &name) || span_to_u64(version, &number) || !number || number > UINT32_MAX) return error_set(err, E_INVALID, "\"%.150s\" is no version of a dataset", full);
    int r = view_dataset(run->t, span_str(run->job->tenant), name, (uint32_t)number, true, d, err);
    return r ? r : inputs_manifest(run->t->store, *d, manifest, err);
}

/* ---- the ends ---- */

static void count_end(struct trainer *t, const Genloop__V1__Job *job) {
    int kind = job->kind == GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE, failed = job->state == JOB_STATE(FAILED);
    metric_add(t->runner->ended[kind][failed], 1);
}

/* Written until it is durable. E_ABORTED where the service leaves first. */
static int publish_surely(struct trainer *t, const Genloop__V1__Job *job, const char *what, struct error *err) {
    for (;;) {
        int r = publish_job(t, job, what, err);
        if (!r || r == E_TOO_LARGE || r == E_INVALID) return r;
        if (stopping(t)) return error_set(err, E_ABORTED, "the service leaves");
        log_warn("trainer.publish", "job %s: %s; again in %d ms", job->id, err ? err->message : "", RETRY_MS);
        pause_ms(t, RETRY_MS);
    }
}

int run_succeed(struct run *run, const struct run_end *end, struct error *err) {
    Genloop__V1__Job job = *run->job; /* fields are borrowed */
    job.state = JOB_STATE(SUCCEEDED);
    job.event_time_ms = job.finished_time_ms = clock_wall_ms();
    job.figures = end->figures;
    job.n_figures = end->n_figures;
    job.output = end->output;
    job.metrics = end->metrics;
    job.step = end->step;
    job.failure = (char *)(uintptr_t)"";
    int r = publish_surely(run->t, &job, "succeeded", err);
    if (!r) count_end(run->t, &job);
    return r;
}

static int fail_job(struct trainer *t, Genloop__V1__Job *known, const struct error *why, struct error *err) {
    Genloop__V1__Job job = *known;
    job.state = JOB_STATE(FAILED);
    job.event_time_ms = job.finished_time_ms = clock_wall_ms();
    job.failure = (char *)(uintptr_t)why->message;
    log_error("trainer.failed", "job %s: %s", job.id, why->message);
    int r = publish_surely(t, &job, "failed", err);
    if (!r) count_end(t, &job);
    return r;
}

/* ---- one job ---- */

enum outcome {
    OUT_DONE,  /* the event can be committed */
    OUT_LOOK,  /* look at the job again, at once */
    OUT_LATER, /* not now */
    OUT_LEAVE, /* the service leaves */
};

static int begin(struct run *run, const Genloop__V1__Job *known, struct error *err) {
    Genloop__V1__Job job = *known;
    char what[32];
    job.state = JOB_STATE(RUNNING);
    job.wish = GENLOOP__V1__JOB_WISH__JOB_WISH_RUN;
    job.attempts = known->attempts + 1;
    job.event_time_ms = clock_wall_ms();
    if (!job.started_time_ms) job.started_time_ms = job.event_time_ms;
    snprintf(what, sizeof what, "running.%u", job.attempts);
    int r = publish_surely(run->t, &job, what, err);
    if (!r) r = view_job(run->t, span_str(known->id), false, &run->job, err);
    if (!r) run->order = job_order(run->job, job.attempts);
    return r;
}

static bool worth_another_try(int r) { return r == E_NOMEM || r == E_IO || r == E_FULL || r == E_NO_SPACE || r == E_UNAVAILABLE || r == E_DEADLINE || r == E_AGAIN; }

static enum outcome ended(struct run *run, int r, int *tries, struct error *why) {
    struct trainer *t = run->t;
    struct error err = {0};
    if (r == 0) {
        if (work_remove(&run->work, &err)) log_warn("trainer.folder", "job %s: %s", run->job->id, err.message);
        return OUT_DONE;
    }
    if (stopping(t) && (r == E_ABORTED || r == E_CANCELLED)) return OUT_LEAVE;
    if ((r == E_ABORTED || r == E_CANCELLED) && run_look(run) != JOB_GO_ON) return OUT_LOOK;
    if (worth_another_try(r) && ++*tries < TRIES_MAX) {
        int64_t ms = (int64_t)TRY_FIRST_MS << (*tries - 1);
        metric_add(t->runner->retries, 1);
        log_warn("trainer.retry", "job %s: %s; again in %lld ms", run->job->id, why->message, (long long)ms);
        pause_ms(t, ms);
        return stopping(t) ? OUT_LEAVE : OUT_LOOK;
    }
    if (!why->code) (void)error_set(why, r, "%s", error_kind(r)->name);
    r = fail_job(t, run->job, why, &err);
    return r == 0 ? OUT_LOOK : r == E_ABORTED ? OUT_LEAVE : OUT_LATER;
}

static void job_folder(const struct trainer *t, const char *id, char path[PATH_BYTES]) {
    char relative[JOB_ID_MAX + 16];
    snprintf(relative, sizeof relative, "work/jobs/%s", id);
    service_path(t->service, relative, path, PATH_BYTES);
}

static enum outcome run_job(struct trainer *t, Genloop__V1__Job *known, int *tries) {
    struct run run = {.t = t};
    struct error err = {0}, why = {0};
    char path[PATH_BYTES];
    job_folder(t, known->id, path);
    int r = work_open(&run.work, path, &err);
    if (r) {
        log_warn("trainer.folder", "job %s: %s", known->id, err.message);
        return OUT_LATER;
    }
    enum outcome out;
    if (job_poison(run.work.crashes, run.work.deaths, run.work.step, &why)) {
        r = fail_job(t, known, &why, &err);
        out = r == 0 ? OUT_LOOK : r == E_ABORTED ? OUT_LEAVE : OUT_LATER;
        if (!r) work_end(&run.work);
    } else if ((r = begin(&run, known, &err)) != 0) {
        out = r == E_ABORTED ? OUT_LEAVE : OUT_LATER;
    } else if (run.order != JOB_GO_ON) {
        out = OUT_LOOK; /* paused or cancelled just before we began */
    } else if ((r = work_begin(&run.work, &why)) != 0) {
        out = ended(&run, r, tries, &why);
    } else {
        log_info("trainer.begin", "job %s, attempt %u", known->id, run.job->attempts);
        metric_set(t->runner->busy, 1);
        metric_add(t->runner->attempts, 1);
        run.saved_ms = clock_mono_ms();
        r = known->kind == GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE ? evaluate_job(&run, &why) : known->kind == GENLOOP__V1__JOB_KIND__JOB_KIND_IMPORT ? import_job(&run, &why) : train_job(&run, &why);
        work_end(&run.work);
        metric_set(t->runner->busy, 0);
        metric_set(runner_metrics.tokens_per_second, 0);
        log_info("trainer.end", "job %s, attempt %u: %s", known->id, run.job->attempts, r ? why.message : "done");
        out = ended(&run, r, tries, &why);
        (void)malloc_trim(0); /* what a job took is the system's again while there is none */
    }
    if (out == OUT_LATER) log_warn("trainer.later", "job %s: %s", known->id, err.message);
    if (run.job) record_free(&run.job->base);
    work_close(&run.work);
    return out;
}

/* The folder of a job that has ended, or of none, goes; another process may be about to do the same. */
static void clear_folder(struct trainer *t, const char *id) {
    struct work work;
    struct error err = {0};
    char path[PATH_BYTES];
    job_folder(t, id, path);
    if (!file_exists(path) || work_open(&work, path, &err)) return;
    if (work_remove(&work, &err)) log_warn("trainer.folder", "job %s: %s", id, err.message);
}

/* Until the job that this event is about needs nothing more for now. */
static enum outcome handle(struct trainer *t, struct span id) {
    int tries = 0;
    for (;;) {
        Genloop__V1__Job *job = NULL;
        struct error err = {0};
        int r = view_job(t, id, true, &job, &err);
        if (r == E_NOT_FOUND) return OUT_DONE; /* no job ever: the view has told why */
        if (r) {
            log_warn("trainer.view", "%s", err.message);
            return OUT_LATER;
        }
        enum outcome out = OUT_DONE;
        switch (job_deal(job->state)) {
        case JOB_DEAL_RUN: out = stopping(t) ? OUT_LEAVE : run_job(t, job, &tries); break;
        case JOB_DEAL_CLEAR: clear_folder(t, job->id); break;
        case JOB_DEAL_PASS: break;
        }
        record_free(&job->base);
        if (out != OUT_LOOK) return out;
    }
}

/* ---- the thread ---- */

static int sweep_one(void *arg, const char *name) {
    struct trainer *t = arg;
    Genloop__V1__Job *job = NULL;
    int r = view_job(t, span_str(name), false, &job, NULL);
    if (r == E_NOT_FOUND || (r == 0 && job_ended(job->state))) clear_folder(t, name);
    if (job) record_free(&job->base);
    return 0;
}

/* What a life that was cut short left behind. */
static void sweep(struct trainer *t) {
    char path[PATH_BYTES];
    (void)dir_list(service_path(t->service, "work/jobs", path, sizeof path), t, sweep_one, NULL);
}

static void commit(struct runner *r, const struct event *e) {
    struct error err = {0};
    for (;;) {
        int code = eventlog_group_commit(r->group, e, &err);
        if (code == 0 || code == E_ABORTED || stopping(r->t)) return; /* it comes again, to us or to another: the job says then that nothing is to be done */
        log_warn("trainer.commit", "%s; again in %d ms", err.message, RETRY_MS);
        pause_ms(r->t, RETRY_MS);
    }
}

static void take(struct runner *r, const struct event *e) {
    struct error err = {0};
    struct event at = {.topic = e->topic, .partition = e->partition};
    char id[JOB_ID_MAX + 1];
    memcpy(at.offset, e->offset, sizeof at.offset);
    enum outcome out = OUT_DONE; /* a key that is no id: the view puts it to the dead letters */
    if (job_id_valid(e->key)) out = handle(r->t, span_str(span_copy(id, sizeof id, e->key)));
    if (out == OUT_DONE) commit(r, &at);
    else if (out == OUT_LATER) {
        if (eventlog_group_rewind(r->group, &at, &err)) log_warn("trainer.rewind", "%s", err.message);
        pause_ms(r->t, RETRY_MS);
    }
}

static void *runner_run(void *arg) {
    struct runner *r = arg;
    struct trainer *t = r->t;
    struct error err = {0};
    int failures = 0;
    while (!stopping(t) && view_wait(t->view, VIEW_WAIT_MS, &err)) pause_ms(t, RETRY_MS);
    if (!stopping(t)) sweep(t);
    while (!stopping(t)) {
        struct event e;
        if (!r->group) {
            enum topic topics[] = {TOPIC_JOBS};
            if (eventlog_group_open(t->log, "trainer", service_instance(t->service), topics, 1, NULL, NULL, &r->group, &err)) {
                log_warn("trainer.group", "%s", err.message);
                pause_ms(t, RETRY_MS);
                continue;
            }
        }
        int code = eventlog_group_poll(r->group, POLL_MS, &e, &err);
        if (code == 0) take(r, &e);
        if (code == 0 || code == E_AGAIN) failures = 0;
        else if (code == E_ABORTED) { /* another member of our name */
            log_warn("trainer.group", "%s", err.message);
            eventlog_group_close(r->group);
            r->group = NULL;
            pause_ms(t, RETRY_MS);
        } else {
            if (failures++ % 20 == 0) log_warn("trainer.poll", "%s", err.message);
            pause_ms(t, RETRY_MS);
        }
        ask_lag(r);
    }
    if (r->group) eventlog_group_close(r->group);
    r->group = NULL;
    atomic_store(&r->over, true);
    return NULL;
}

int64_t runner_lag(const struct trainer *t) { return t->runner ? atomic_load(&t->runner->lag) : 0; }
bool runner_idle(const struct trainer *t) { return !t->runner || atomic_load(&t->runner->over); }
void runner_drain(struct trainer *t) {
    if (t->runner) atomic_store(&t->runner->stop, true);
}

static void init_metrics(struct runner *r) {
    static const char *const kinds[] = {"train", "evaluate"}, *const states[] = {"succeeded", "failed"};
    for (int k = 0; k < 2; k++)
        for (int s = 0; s < 2; s++) { /* cancelling is no instance's end */
            char labels[64];
            snprintf(labels, sizeof labels, "kind=\"%s\",state=\"%s\"", kinds[k], states[s]);
            r->ended[k][s] = metric_counter("genloop_trainer_jobs_total", labels, "Jobs that this instance brought to an end.");
        }
    r->busy = metric_gauge("genloop_trainer_busy", "", "1 while a job runs here.");
    r->attempts = metric_counter("genloop_trainer_attempts_total", "", "Beginnings of jobs, resumed ones included.");
    r->retries = metric_counter("genloop_trainer_retries_total", "", "Attempts that failed in a way that may pass, and were tried again.");
    runner_metrics.steps = metric_counter("genloop_trainer_steps_total", "", "Optimizer steps taken.");
    runner_metrics.tokens = metric_counter("genloop_trainer_tokens_total", "", "Tokens trained on.");
    runner_metrics.checkpoints = metric_counter("genloop_trainer_checkpoints_total", "", "Checkpoints written.");
    runner_metrics.tokens_per_second = metric_gauge("genloop_trainer_tokens_per_second", "", "Of the last step; 0 while nothing is trained.");
    runner_metrics.told = metric_counter("genloop_trainer_progress_total", "result=\"published\"", "Progress events, by result.");
    runner_metrics.untold = metric_counter("genloop_trainer_progress_total", "result=\"lost\"", "Progress events, by result.");
}

int runner_open(struct trainer *t, struct error *err) {
    struct runner *r = mem_zalloc(sizeof *r);
    if (!r) return error_set(err, E_NOMEM, "no memory");
    r->t = t;
    t->runner = r;
    init_metrics(r);
    int e = pthread_create(&r->thread, NULL, runner_run, r);
    r->running = e == 0;
    return e ? error_errno(err, e, "the runner's thread") : 0;
}

void runner_close(struct trainer *t) {
    struct runner *r = t->runner;
    if (!r) return;
    atomic_store(&r->stop, true);
    if (r->running) pthread_join(r->thread, NULL);
    mem_free(r);
    t->runner = NULL;
}
