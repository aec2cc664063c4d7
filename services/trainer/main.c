/* genloop-trainer: see trainer.h for what is where. */
#include <stddef.h>

#include "base/alloc.h"
#include "base/pool.h"
#include "services/trainer/trainer.h"

#define AT(field) offsetof(struct trainer_settings, field)
static const struct config_row ROWS[] = {
    {"trainer", "threads", CONFIG_INT, AT(threads), "0", 0, POOL_THREADS_MAX, "Threads of a job, and the most that a recipe may ask for; 0: as many as CPUs. No result depends on it."},
    {"trainer", "checkpoint", CONFIG_DURATION_MS, AT(checkpoint_ms), "30s", 100, 86400000, "A checkpoint at least so often, whatever the recipe says: what a kill costs at most."},
    {"trainer", "runs_keep", CONFIG_INT, AT(runs_keep), "50", 1, 100000, "TensorBoard and metrics files of so many finished jobs stay in HOME/runs."},
};

static void on_caught_up(void *arg) { service_ready(arg, true); }

/* From the view's thread. */
static void view_caught_up_first(void *arg) {
    struct trainer *t = arg;
    (void)loop_post(t->loop, on_caught_up, t->service);
}

static void view_changed(void *arg) {
    struct trainer *t = arg;
    atomic_fetch_add(&t->changes, 1);
}

static int start(struct service *s, void **arg, struct error *err) {
    static const enum topic topics[] = {TOPIC_DATASETS, TOPIC_JOBS, TOPIC_JOB_PROGRESS};
    char path[PATH_BYTES], relative[256];
    struct trainer *t = mem_zalloc(sizeof *t);
    if (!t) return error_set(err, E_NOMEM, "no memory");
    *arg = t;
    *t = (struct trainer){.service = s, .settings = service_settings(s), .loop = service_loop(s), .log = service_log(s), .store = service_store(s)};
    struct view_spec spec = {.name = "trainer", .schema_version = TRAINER_SCHEMA_VERSION, .schema = TRAINER_SCHEMA, .topics = topics, .n_topics = 3, .fold = trainer_fold,
                             .on_change = view_changed, .on_caught_up = view_caught_up_first, .arg = t};
    int r = calls_open(t, err);
    if (!r) r = dir_make(service_path(s, "views", path, sizeof path), err);
    if (!r) r = dir_make(service_path(s, "work/jobs", path, sizeof path), err);
    snprintf(relative, sizeof relative, "work/check-%.128s", service_instance(s));
    if (!r) r = dir_remove(service_path(s, relative, path, sizeof path), err); /* dry runs that a kill cut off */
    snprintf(relative, sizeof relative, "views/%s.sqlite", service_instance(s)); /* instances side by side share a home */
    if (!r) r = view_open(t->log, service_path(s, relative, path, sizeof path), &spec, &t->view, err);
    if (!r) r = models_open(t, err);
    if (!r) r = runner_open(t, err);
    return r;
}

static void drain(struct service *s, void *arg) {
    struct trainer *t = arg;
    (void)s;
    t->draining = true; /* calls_open's timer says when the last is done */
    runner_drain(t);
}

void trainer_reply_end(struct trainer *t, struct bus_reply *reply, int code, const struct error *err, struct span last) {
    if (!t->closed) bus_reply_end(reply, code, err, last);
}

void trainer_unref(struct trainer *t) {
    if (!t->closed || calls_count(t)) return;
    calls_close(t);
    mem_free(t);
}

static void stop(struct service *s, void *arg) {
    struct trainer *t = arg;
    (void)s;
    if (!t) return;
    t->closed = true;
    runner_close(t);
    /* In a hurry, what other threads do for calls ends first: they use what is closed below. */
    while (atomic_load(&t->abroad) > 0) nanosleep(&(struct timespec){.tv_nsec = 5 * 1000 * 1000}, NULL);
    models_close(t);
    if (t->view) view_close(t->view);
    t->view = NULL;
    trainer_unref(t);
}

int main(int argc, char **argv) {
    static const struct service_spec spec = {.name = "trainer", .rows = ROWS, .n_rows = sizeof ROWS / sizeof *ROWS, .settings_size = sizeof(struct trainer_settings), .wants_log = true,
                                             .wants_store = true, .wants_bus_server = true, .bus = &TRAINER_BUS_EVENTS, .start = start, .drain = drain, .stop = stop};
    return service_main(argc, argv, &spec);
}
