/*
 * Builds, one after the other, in a thread of their own. What a build is, is on the topic: BUILDING carries the version's number and the request (its manifest is the
 * request as JSON until the version has its own), so that whoever starts next goes on with it.
 *
 *   asked for ─► (lease; version N + 1) BUILDING ─► waits for pending documents ─► build.c ─► READY
 *                          │                                                          └────► FAILED (the input's fault; a fault of the moment is tried again)
 *                          └── the process dies: found at the next start, done again from here
 *
 * The lease keeps two instances from giving the same number. The same build_id again finds its version.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/metrics.h"
#include "services/ingest/build.h"
#include "wire/unpack.h"

enum {
    LEASE_MS = 9000,
    WAIT_MS = 50,
    RETRY_MS = 1000,
    REFUSED_MAX = 64, /* of which the reason is kept until it is asked for: as many as may wait */
};

struct builder {
    struct ingest *in;
    pthread_t thread;
    bool running;
    atomic_bool stop;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t added;
    struct build_request queue[BUILDS_MAX];
    size_t n;
    bool busy;            /* current is being built */
    struct build_request current;
    struct build_progress progress;
    struct {
        char build_id[128];
        struct error err;
    } refused[REFUSED_MAX];
    size_t n_refused;
    struct eventlog_lease *lease;
    int64_t lease_asked_ms;
    struct metric *ready, *failed, *seconds;
};

/* ---- the request, as JSON beside the event ---- */

static int request_write(const struct build_request *q, struct buf *out) {
    struct json_out w;
    json_begin(&w, out);
    json_object(&w);
    json_num(&w, "format", 1);
    json_str(&w, "dataset", q->dataset);
    json_str(&w, "build_id", q->build_id);
    json_str(&w, "tokenizer", q->tokenizer);
    json_num(&w, "vocab", q->vocab);
    json_flt(&w, "held_out", q->held_out);
    char seed[32];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)q->seed); /* a JSON number holds 53 bits for some */
    json_str(&w, "seed", seed);
    json_object_end(&w);
    return out->failed;
}

static int request_read(struct span text, struct build_request *q, struct error *err) {
    struct json *json = NULL;
    int r = json_parse(text, &json, err);
    if (r) return r;
    span_copy(q->tokenizer, sizeof q->tokenizer, json_string(json_get(json, "tokenizer")));
    q->vocab = (uint32_t)json_int(json_get(json, "vocab"), 4096);
    q->held_out = json_real(json_get(json, "held_out"), 0.05);
    q->seed = 0;
    if (span_to_u64(json_string(json_get(json, "seed")), &q->seed)) r = error_set(err, E_INVALID, "the build's seed is no number");
    json_free(json);
    return r;
}

/* ---- what is known of a build ---- */

struct lookup {
    const struct build_request *request;
    Genloop__V1__Dataset *dataset; /* owned; NULL: none */
    uint32_t highest;
    struct dataset_counts counts;
};

static int look(void *arg, struct view_db *db, struct error *err) {
    struct lookup *l = arg;
    struct view_stmt *s;
    struct span packed;
    if (view_dataset_by_build(db, span_str(l->request->tenant), span_str(l->request->build_id), &s, &packed)) {
        l->dataset = MESSAGE_UNPACK(Dataset, dataset, packed);
        view_done(s);
    }
    l->highest = view_dataset_highest(db, span_str(l->request->tenant), span_str(l->request->dataset));
    view_dataset_counts(db, span_str(l->request->tenant), span_str(l->request->dataset), &l->counts);
    return view_failed(db, err);
}

static int publish(struct builder *b, const Genloop__V1__Dataset *d, const char *what, struct error *err) {
    struct buf packed;
    char id[EVENT_ID_MAX];
    buf_init(&packed, EVENT_VALUE_MAX);
    int r = pack_message(&d->base, &packed);
    snprintf(id, sizeof id, "%.80s.%u.%s", d->build_id, d->version, what);
    struct event e = {.topic = TOPIC_DATASETS, .key = span_str(d->name), .value = buf_span(&packed), .id = span_str(id)};
    if (r) r = error_set(err, r, "the dataset's record is too large");
    else r = eventlog_publish(b->in->log, &e, err);
    buf_fini(&packed);
    return r;
}

/* ---- one build ---- */

static void tell(struct builder *b, const char *phase, double fraction) {
    pthread_mutex_lock(&b->lock);
    b->progress = (struct build_progress){phase, fraction};
    pthread_mutex_unlock(&b->lock);
}

/* Keeps the lease. E_ABORTED where it is lost, E_CANCELLED where the service stops. */
static int hold(struct builder *b, struct error *err) {
    uint64_t epoch;
    if (atomic_load(&b->stop)) return error_set(err, E_CANCELLED, "the service stops; the build goes on at its next start");
    int64_t now = clock_mono_ms();
    if (now - b->lease_asked_ms < LEASE_MS / 3) return 0;
    int r = eventlog_lease_poll(b->lease, &epoch, err);
    if (r == 0) b->lease_asked_ms = now;
    if (r == E_AGAIN) return error_set(err, E_ABORTED, "another instance builds datasets now");
    return now - b->lease_asked_ms < LEASE_MS ? 0 : r; /* a log that is away for a moment takes no lease away */
}

struct builder_progress_arg {
    struct builder *b;
    struct error *err;
};

static int on_progress(void *arg, const char *phase, double fraction) {
    struct builder_progress_arg *a = arg;
    tell(a->b, phase, fraction);
    return hold(a->b, a->err);
}

static void pause_ms(struct builder *b, int64_t ms) {
    for (int64_t slept = 0; slept < ms && !atomic_load(&b->stop); slept += 20) nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
}

static int take_lease(struct builder *b, struct error *err) {
    uint64_t epoch;
    int r = 0;
    if (!b->lease) r = eventlog_lease_open(b->in->log, "ingest-builder", service_instance(b->in->service), LEASE_MS, &b->lease, err);
    while (!r && (r = eventlog_lease_poll(b->lease, &epoch, err)) == E_AGAIN && !atomic_load(&b->stop)) {
        r = 0;
        pause_ms(b, RETRY_MS);
    }
    if (!r && atomic_load(&b->stop)) r = error_set(err, E_CANCELLED, "the service stops");
    b->lease_asked_ms = clock_mono_ms();
    return r;
}

/* Until no document of the dataset waits for its verdict. */
static int wait_documents(struct builder *b, const struct build_request *q, struct error *err) {
    for (;;) {
        struct lookup l = {.request = q};
        int r = hold(b, err);
        if (!r) r = view_wait(b->in->view, 30000, err);
        if (!r) r = view_read(b->in->view, &l, look, err);
        if (l.dataset) genloop__v1__dataset__free_unpacked(l.dataset, NULL);
        if (r || !l.counts.pending) return r;
        tell(b, "waiting", 1 - (double)l.counts.pending / (double)l.counts.received);
        pause_ms(b, WAIT_MS);
    }
}

static void announce(const struct build_request *q, uint32_t version, Genloop__V1__Dataset *d) {
    *d = (Genloop__V1__Dataset)GENLOOP__V1__DATASET__INIT;
    d->name = (char *)q->dataset;
    d->tenant = (char *)q->tenant;
    d->version = version;
    d->kind = GENLOOP__V1__DATASET_KIND__DATASET_KIND_TEXT;
    d->build_id = (char *)q->build_id;
    d->event_time_ms = clock_wall_ms();
}

static int publish_ready(struct builder *b, const struct build_request *q, uint32_t version, const struct build_result *res, struct error *err) {
    Genloop__V1__Dataset d;
    Genloop__V1__ObjectRef manifest = GENLOOP__V1__OBJECT_REF__INIT, card = manifest, tokenizer = manifest;
    Genloop__V1__Dataset__RejectedByReasonEntry entries[REASON_COUNT], *list[REASON_COUNT];
    size_t n = 0;
    announce(q, version, &d);
    d.state = GENLOOP__V1__DATASET_STATE__DATASET_STATE_READY;
    manifest.sha256 = (char *)res->manifest.sha256;
    manifest.size_bytes = res->manifest.size;
    manifest.media_type = (char *)"application/json";
    card.sha256 = (char *)res->card.sha256;
    card.size_bytes = res->card.size;
    card.media_type = (char *)"text/markdown";
    tokenizer.sha256 = (char *)res->tokenizer.sha256;
    tokenizer.size_bytes = res->tokenizer.size;
    tokenizer.media_type = (char *)"application/json";
    d.manifest = &manifest;
    d.card = &card;
    d.tokenizer = &tokenizer;
    d.documents = res->documents;
    d.documents_rejected = res->rejected;
    d.documents_held_out = res->held_out;
    d.text_bytes = res->text_bytes;
    d.tokens = res->tokens;
    d.tokens_held_out = res->tokens_held_out;
    d.samples = res->pairs;
    d.samples_held_out = res->pairs_held_out;
    for (int i = 1; i < REASON_COUNT; i++) {
        if (!res->reasons[i]) continue;
        entries[n] = (Genloop__V1__Dataset__RejectedByReasonEntry)GENLOOP__V1__DATASET__REJECTED_BY_REASON_ENTRY__INIT;
        entries[n].key = (char *)reason_word((enum reason)i);
        entries[n].value = res->reasons[i];
        list[n] = &entries[n];
        n++;
    }
    d.rejected_by_reason = list;
    d.n_rejected_by_reason = n;
    return publish(b, &d, "ready", err);
}

static bool passing(int code) { return code == E_UNAVAILABLE || code == E_DEADLINE || code == E_IO || code == E_NO_SPACE || code == E_AGAIN || code == E_NOMEM || code == E_ABORTED; }

static int build_one(struct builder *b, struct build_request *q, struct error *err) {
    struct lookup l = {.request = q};
    struct buf text;
    struct object_ref spec;
    Genloop__V1__Dataset d;
    uint32_t version = 0;
    int64_t created_time_ms = 0;
    int64_t start_ms = clock_mono_ms();
    buf_init(&text, 64 << 10);
    tell(b, "waiting", 0);
    int r = take_lease(b, err);
    if (!r) r = view_wait(b->in->view, 30000, err);
    if (!r) r = view_read(b->in->view, &l, look, err);
    if (r) goto out;
    if (l.dataset) {
        if (l.dataset->state != GENLOOP__V1__DATASET_STATE__DATASET_STATE_BUILDING) goto out; /* it is done */
        version = l.dataset->version;
        created_time_ms = l.dataset->event_time_ms;
        span_copy(q->dataset, sizeof q->dataset, span_str(l.dataset->name));
        if (l.dataset->manifest) {
            r = store_get(b->in->store, l.dataset->manifest->sha256, &text, err);
            if (!r) r = request_read(buf_span(&text), q, err);
        }
    } else {
        if (!l.counts.received) {
            r = error_set_param(err, E_NOT_FOUND, "dataset", "dataset %s has no documents", q->dataset);
            goto out;
        }
        r = request_write(q, &text);
        if (!r) r = store_put(b->in->store, buf_span(&text), &spec, err);
        if (r) goto out;
        Genloop__V1__ObjectRef ref = GENLOOP__V1__OBJECT_REF__INIT;
        ref.sha256 = spec.sha256;
        ref.size_bytes = spec.size;
        ref.media_type = (char *)"application/json";
        version = l.highest + 1;
        announce(q, version, &d);
        d.state = GENLOOP__V1__DATASET_STATE__DATASET_STATE_BUILDING;
        d.manifest = &ref;
        created_time_ms = d.event_time_ms;
        r = publish(b, &d, "building", err);
        if (!r) r = view_wait(b->in->view, 30000, err);
    }
    if (!r) r = wait_documents(b, q, err);
    if (!r) {
        struct build_result result = {0};
        struct builder_progress_arg arg = {b, err};
        log_info("ingest.build", "%s@%u begins", q->dataset, version);
        r = build_version(b->in, q, version, created_time_ms, &arg, on_progress, &result, err);
        if (!r) r = publish_ready(b, q, version, &result, err);
        if (!r) {
            metric_add(b->ready, 1);
            metric_observe(b->seconds, (double)(clock_mono_ms() - start_ms) / 1e3);
            log_info("ingest.build", "%s@%u is ready: %llu documents, %llu tokens, %lld ms", q->dataset, version, (unsigned long long)result.documents,
                     (unsigned long long)result.tokens, (long long)(clock_mono_ms() - start_ms));
        }
    }
    if (r && version && !passing(r) && r != E_CANCELLED) {
        struct error ignored;
        announce(q, version, &d);
        d.state = GENLOOP__V1__DATASET_STATE__DATASET_STATE_FAILED;
        d.failure = err->message;
        log_error("ingest.build", "%s@%u: %s", q->dataset, version, err->message);
        metric_add(b->failed, 1);
        int p = publish(b, &d, "failed", &ignored);
        if (p) {
            r = p;
            *err = ignored;
        } else
            r = 0; /* the event says it */
    }
out:
    if (l.dataset) genloop__v1__dataset__free_unpacked(l.dataset, NULL);
    buf_fini(&text);
    return r;
}

/* ---- the thread ---- */

static int list_unfinished(void *arg, struct view_db *db, struct error *err) {
    struct builder *b = arg;
    struct view_stmt *s = view_sql(db, "SELECT tenant, name, build_id FROM datasets WHERE state = 1 ORDER BY time_ms");
    if (!s) return view_failed(db, err);
    while (view_step(s)) {
        struct build_request q = {0};
        span_copy(q.tenant, sizeof q.tenant, view_text(s, 0));
        span_copy(q.dataset, sizeof q.dataset, view_text(s, 1));
        span_copy(q.build_id, sizeof q.build_id, view_text(s, 2));
        if (builder_add(b->in, &q, err)) break; /* the rest at the next start */
    }
    view_done(s);
    return view_failed(db, err);
}

static void refuse(struct builder *b, const struct build_request *q, const struct error *err) {
    pthread_mutex_lock(&b->lock);
    if (b->n_refused == REFUSED_MAX) {
        memmove(b->refused, b->refused + 1, (REFUSED_MAX - 1) * sizeof *b->refused);
        b->n_refused--;
    }
    span_copy(b->refused[b->n_refused].build_id, sizeof b->refused->build_id, span_str(q->build_id));
    b->refused[b->n_refused++].err = *err;
    pthread_mutex_unlock(&b->lock);
}

static void *builder_run(void *arg) {
    struct builder *b = arg;
    struct error err = {0};
    /* What a former life has begun. */
    while (!atomic_load(&b->stop) && (view_wait(b->in->view, 5000, &err) || view_read(b->in->view, b, list_unfinished, &err))) pause_ms(b, RETRY_MS);
    for (;;) {
        pthread_mutex_lock(&b->lock);
        while (!b->n && !atomic_load(&b->stop)) pthread_cond_wait(&b->added, &b->lock);
        if (atomic_load(&b->stop)) {
            pthread_mutex_unlock(&b->lock);
            break;
        }
        b->current = b->queue[0];
        memmove(b->queue, b->queue + 1, --b->n * sizeof *b->queue);
        b->busy = true;
        b->progress = (struct build_progress){"waiting", 0};
        struct build_request q = b->current;
        pthread_mutex_unlock(&b->lock);
        int r;
        for (;;) {
            err = (struct error){0};
            r = build_one(b, &q, &err);
            if (!r || !passing(r) || atomic_load(&b->stop)) break;
            log_warn("ingest.build", "%s: %s; again in %d ms", q.dataset, err.message, RETRY_MS);
            pause_ms(b, RETRY_MS);
        }
        if (r && r != E_CANCELLED && !atomic_load(&b->stop)) {
            log_warn("ingest.build", "%s: %s", q.dataset, err.message);
            refuse(b, &q, &err);
        }
        if (b->lease) { /* another instance may have its turn */
            eventlog_lease_close(b->lease);
            b->lease = NULL;
        }
        /* Who watches asks the view next: it must have what was published. */
        (void)view_wait(b->in->view, 5000, &err);
        pthread_mutex_lock(&b->lock);
        b->busy = false;
        pthread_mutex_unlock(&b->lock);
        calls_changed(b->in);
    }
    if (b->lease) eventlog_lease_close(b->lease);
    return NULL;
}

int builder_add(struct ingest *in, const struct build_request *request, struct error *err) {
    struct builder *b = in->builder;
    int r = 0;
    pthread_mutex_lock(&b->lock);
    bool known = b->busy && !strcmp(b->current.build_id, request->build_id) && !strcmp(b->current.tenant, request->tenant);
    for (size_t i = 0; i < b->n && !known; i++) known = !strcmp(b->queue[i].build_id, request->build_id) && !strcmp(b->queue[i].tenant, request->tenant);
    if (!known && b->n == BUILDS_MAX) r = error_set(err, E_FULL, "%d builds wait; try again", BUILDS_MAX);
    if (!known && !r) {
        b->queue[b->n++] = *request;
        pthread_cond_signal(&b->added);
    }
    pthread_mutex_unlock(&b->lock);
    return r;
}

bool builder_progress(struct ingest *in, const char *tenant, const char *dataset, const char *build_id, struct build_progress *p) {
    struct builder *b = in->builder;
    bool found = false;
    pthread_mutex_lock(&b->lock);
    if (b->busy && !strcmp(b->current.tenant, tenant) && (build_id[0] ? !strcmp(b->current.build_id, build_id) : !strcmp(b->current.dataset, dataset))) {
        *p = b->progress;
        found = true;
    }
    for (size_t i = 0; i < b->n && !found; i++)
        if (!strcmp(b->queue[i].tenant, tenant) && (build_id[0] ? !strcmp(b->queue[i].build_id, build_id) : !strcmp(b->queue[i].dataset, dataset))) {
            *p = (struct build_progress){"waiting", 0};
            found = true;
        }
    pthread_mutex_unlock(&b->lock);
    return found;
}

bool builder_refused(struct ingest *in, const char *build_id, struct error *err) {
    struct builder *b = in->builder;
    bool found = false;
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->n_refused && !found; i++)
        if (!strcmp(b->refused[i].build_id, build_id)) {
            *err = b->refused[i].err;
            b->refused[i] = b->refused[--b->n_refused];
            found = true;
        }
    pthread_mutex_unlock(&b->lock);
    return found;
}

int builder_open(struct ingest *in, struct error *err) {
    static const double bounds[] = {0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000};
    struct builder *b = mem_zalloc(sizeof *b);
    if (!b) return error_set(err, E_NOMEM, "no memory");
    b->in = in;
    b->ready = metric_counter("genloop_ingest_builds_total", "state=\"ready\"", "Dataset versions built.");
    b->failed = metric_counter("genloop_ingest_builds_total", "state=\"failed\"", "Dataset versions built.");
    b->seconds = metric_histogram("genloop_ingest_build_seconds", "", "Time of a build that ended well.", bounds, sizeof bounds / sizeof *bounds);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->added, NULL);
    in->builder = b;
    int e = pthread_create(&b->thread, NULL, builder_run, b);
    b->running = e == 0;
    return e ? error_errno(err, e, "the builder's thread") : 0;
}

void builder_close(struct ingest *in) {
    struct builder *b = in->builder;
    if (!b) return;
    pthread_mutex_lock(&b->lock);
    atomic_store(&b->stop, true);
    pthread_cond_broadcast(&b->added);
    pthread_mutex_unlock(&b->lock);
    if (b->running) pthread_join(b->thread, NULL);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->added);
    mem_free(b);
    in->builder = NULL;
}
