/*
 * The registry's signed records, folded in memory: a view without tables, because what is kept is the fold, and a view knows when it has all that the log has. The registry's public
 * key is made by services/feedback when a platform starts for the first time; until it is there, there are no models.
 */
#include <pthread.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/metrics.h"
#include "registry/fold.h"
#include "services/trainer/trainer.h"

enum { KEY_RETRY_MS = 50, UNHASHED = 99 /* never the canary's share: a job is not a request */ };

struct models {
    struct trainer *trainer;
    struct loop_timer *key_timer;
    pthread_mutex_t lock; /* of what follows */
    struct fold *fold;
    struct view *view;
    struct metric *dropped;
};

static int fold_registry(void *arg, struct view_db *db, const struct event *e, struct error *err) {
    struct models *m = arg;
    struct error why = {0};
    enum fold_result result = FOLD_SAME;
    (void)db;
    pthread_mutex_lock(&m->lock);
    int r = fold_event(m->fold, e, &result, &why);
    pthread_mutex_unlock(&m->lock);
    if (!r && result == FOLD_DROPPED) {
        metric_add(m->dropped, 1);
        log_warn("trainer.registry", "a record of the registry is not believed: %s", why.message);
    }
    return r ? error_set(err, r, "%s", why.message) : 0;
}

static void on_key_timer(void *arg) {
    static const enum topic topics[] = {TOPIC_MODELS, TOPIC_ALIASES};
    struct models *m = arg;
    struct trainer *t = m->trainer;
    struct registry_key key;
    struct error err = {0};
    char path[PATH_BYTES];
    struct view_spec spec = {.name = "trainer-registry", .schema_version = 1, .schema = "", .topics = topics, .n_topics = 2, .fold = fold_registry, .arg = m};
    int r = registry_key_load(service_path(t->service, "keys", path, sizeof path), false, &key, &err);
    if (r == E_NOT_FOUND) {
        loop_timer_start(m->key_timer, KEY_RETRY_MS, 0);
        return;
    }
    pthread_mutex_lock(&m->lock);
    if (!r && !(m->fold = fold_new(key.public_key))) r = error_set(&err, E_NOMEM, "no memory for the registry");
    if (!r) r = view_open(t->log, ":memory:", &spec, &m->view, &err);
    pthread_mutex_unlock(&m->lock);
    if (r) service_fail(t->service, &err);
}

int models_open(struct trainer *t, struct error *err) {
    struct models *m = mem_zalloc(sizeof *m);
    if (!m || !(m->key_timer = loop_timer_new(t->loop, m, on_key_timer))) {
        mem_free(m);
        return error_set(err, E_NOMEM, "no memory for the registry");
    }
    m->trainer = t;
    pthread_mutex_init(&m->lock, NULL);
    m->dropped = metric_counter("genloop_registry_dropped_total", "", "Records of the registry that were not believed.");
    t->models = m;
    on_key_timer(m);
    return 0;
}

void models_close(struct trainer *t) {
    struct models *m = t->models;
    if (!m) return;
    loop_timer_close(m->key_timer);
    if (m->view) view_close(m->view);
    fold_free(m->fold);
    pthread_mutex_destroy(&m->lock);
    mem_free(m);
    t->models = NULL;
}

int models_resolve(struct trainer *t, struct span model, Genloop__V1__ModelVersion **version, struct error *err) {
    struct models *m = t->models;
    const Genloop__V1__ModelVersion *found;
    struct buf packed;
    pthread_mutex_lock(&m->lock);
    struct view *view = m->view;
    pthread_mutex_unlock(&m->lock);
    if (!view) return error_set(err, E_NOT_FOUND, "there is no model %.*s: no registry has been set up yet", (int)(model.len < 128 ? model.len : 128), model.data);
    int r = view_wait(view, VIEW_WAIT_MS, err);
    if (r) return r;
    buf_init(&packed, EVENT_VALUE_MAX);
    pthread_mutex_lock(&m->lock);
    r = fold_resolve(m->fold, model, UNHASHED, &found, NULL, err);
    if (!r && !found->directory) r = error_set(err, E_NOT_FOUND, "model %.*s has no files", SPAN_ARG(model));
    if (!r && record_pack(&found->base, &packed)) r = error_set(err, E_NOMEM, "no memory for a model version");
    pthread_mutex_unlock(&m->lock);
    if (!r && !(*version = (Genloop__V1__ModelVersion *)record_unpack(&genloop__v1__model_version__descriptor, buf_span(&packed)))) r = error_set(err, E_NOMEM, "no memory for a model version");
    buf_fini(&packed);
    return r;
}
