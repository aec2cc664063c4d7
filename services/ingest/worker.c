/*
 * RECEIVED → ACCEPTED | REJECTED: a member of the consumer group "ingest", in a thread of its own. Events are taken in batches, the
 * documents of a batch are cleaned on all CPUs, their verdicts published together, and only when all of them are durable is the group's position
 * committed. Killed before that, the batch comes again: the same bytes give the same text under the same digest, and the view counts a verdict once.
 * A document that the process dies on is found by attempts.h and rejected as "poison".
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/pool.h"
#include "services/ingest/attempts.h"
#include "services/ingest/clean.h"
#include "services/ingest/ingest.h"
#include "wire/unpack.h"

enum {
    BATCH_MAX = 64,            /* documents in hand: enough for one flush of the log to be shared, little enough to be done again */
    POLL_MS = 100,
    RETRY_MS = 500,            /* after the log or the store said no */
    LAG_EVERY_MS = 1000,
};

struct task {
    Genloop__V1__Document *received;
    char id[65];
    struct buf verdict;     /* the packed Document */
    int failed;             /* it could not be done now: the store */
    struct error err;
    struct worker *worker;
    int published;
};

struct worker {
    struct ingest *in;
    pthread_t thread;
    bool running;
    atomic_bool stop;
    struct eventlog_group *group;
    struct pool *pool;
    struct attempts attempts;
    struct task tasks[BATCH_MAX];
    char ids[BATCH_MAX][65];
    size_t n;
    struct event commits[BATCH_MAX + 1]; /* the last event of each partition that the batch has reached; spans unused */
    size_t n_commits;
    sem_t published;
    _Atomic int64_t lag;
    int64_t lag_asked_ms;
    struct metric *accepted, *rejected[REASON_COUNT], *seconds, *redactions, *dead;
};

/* ---- one document ---- */

static void judge(struct task *t, const struct clean_result *c, const struct object_ref *text) {
    Genloop__V1__Document d = *t->received; /* fields are borrowed; only pointers of ours are changed */
    Genloop__V1__ObjectRef ref = GENLOOP__V1__OBJECT_REF__INIT;
    d.event_time_ms = clock_wall_ms();
    d.media_type = (char *)media_type(c->media);
    d.title = (char *)c->title;
    d.language = (char *)c->language;
    d.redactions = clean_redactions(c);
    if (c->reason) {
        d.state = GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_REJECTED;
        d.reject_reason = (char *)reason_word(c->reason);
        d.reject_detail = (char *)c->detail;
    } else {
        d.state = GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_ACCEPTED;
        ref.sha256 = (char *)text->sha256;
        ref.size_bytes = text->size;
        ref.media_type = (char *)"text/plain; charset=utf-8";
        d.text = &ref;
        d.text_bytes = text->size;
    }
    buf_clear(&t->verdict);
    t->failed = pack_message(&d.base, &t->verdict);
}

static void process(void *arg, size_t item, int thread) {
    struct worker *w = arg;
    struct task *t = &w->tasks[item];
    struct file_map raw = {0};
    struct object_ref text = {0};
    struct clean_result c;
    (void)thread;
    int64_t start = clock_mono_us();
    clean_init(&c);
    t->failed = 0;
    if (attempts_of(&w->attempts, span_str(t->id)) > POISON_ATTEMPTS) { /* begun once more than it may be */
        c.reason = REASON_POISON;
        snprintf(c.detail, sizeof c.detail, "%d attempts", POISON_ATTEMPTS);
        judge(t, &c, NULL);
        goto out;
    }
    t->failed = store_map(w->in->store, t->received->raw->sha256, &raw, &t->err);
    if (t->failed) goto out;
    t->failed = clean_document(span_of(raw.data, raw.len), span_str(t->received->source), span_str(t->received->media_type), &c);
    if (t->failed) {
        (void)error_set(&t->err, t->failed, "no memory to clean a document of %zu bytes", raw.len);
        goto out;
    }
    if (!c.reason) t->failed = store_put(w->in->store, buf_span(&c.text), &text, &t->err);
    if (!t->failed) {
        judge(t, &c, &text);
        if (c.reason) metric_add(w->rejected[c.reason], 1);
        else metric_add(w->accepted, 1);
        metric_add(w->redactions, (double)clean_redactions(&c));
        metric_observe(w->seconds, (double)(clock_mono_us() - start) / 1e6);
    }
out:
    file_map_close(&raw);
    clean_fini(&c);
}

/* ---- a batch ---- */

static void on_published(void *arg, int r) {
    struct task *t = arg;
    t->published = r;
    sem_post(&t->worker->published);
}

static int publish(struct worker *w, struct error *err) {
    size_t waiting = 0;
    int r = 0;
    for (size_t i = 0; i < w->n; i++) {
        struct task *t = &w->tasks[i];
        char id[EVENT_ID_MAX];
        snprintf(id, sizeof id, "%s.verdict", t->id);
        struct event e = {.topic = TOPIC_DOCUMENTS, .key = span_str(t->id), .value = buf_span(&t->verdict), .id = span_str(id), .subject = span_str(t->received->subject)};
        t->published = 0;
        r = eventlog_publish_async(w->in->log, &e, t, on_published);
        if (r) {
            (void)error_set(err, r, "the log takes no more events now");
            break;
        }
        waiting++;
    }
    for (size_t i = 0; i < waiting; i++)
        while (sem_wait(&w->published) != 0) continue;
    for (size_t i = 0; i < waiting && !r; i++)
        if (w->tasks[i].published) r = error_set(err, w->tasks[i].published, "a verdict could not be published");
    return r;
}

static void pause_ms(struct worker *w, int64_t ms) {
    for (int64_t slept = 0; slept < ms && !atomic_load(&w->stop); slept += 20) nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
}

/* Cleans, publishes and commits what is in hand; tries again until it is done or the service stops. */
static void run_batch(struct worker *w) {
    struct error err = {0};
    int r = 0;
    if (w->n) {
        for (size_t i = 0; i < w->n; i++) memcpy(w->ids[i], w->tasks[i].id, sizeof w->ids[i]);
        if (attempts_begin(&w->attempts, (const char (*)[65])w->ids, w->n, &err)) log_warn("ingest.attempts", "%s", err.message);
        bool done = false;
        while (!done && !atomic_load(&w->stop)) {
            pool_run(w->pool, w->n, w, process);
            r = 0;
            for (size_t i = 0; i < w->n; i++) {
                struct task *t = &w->tasks[i];
                if (!t->failed) continue;
                if (t->failed == E_NOT_FOUND || t->failed == E_DATA_LOSS) { /* its bytes are gone: trying again changes nothing */
                    struct clean_result lost = {.reason = REASON_BINARY};
                    log_error("ingest.lost", "document %s: %s", t->id, t->err.message);
                    snprintf(lost.detail, sizeof lost.detail, "the stored bytes are missing or damaged");
                    judge(t, &lost, NULL);
                    continue;
                }
                r = t->failed;
                err = t->err;
            }
            if (!r) r = publish(w, &err);
            done = r == 0;
            if (!done) {
                log_warn("ingest.retry", "%s; again in %d ms", err.message, RETRY_MS);
                pause_ms(w, RETRY_MS);
            }
        }
        if (!done) goto out; /* not committed: the next life has it again */
    }
    for (size_t i = 0; i < w->n_commits; i++) {
        do {
            r = eventlog_group_commit(w->group, &w->commits[i], &err);
            if (r && r != E_ABORTED) {
                log_warn("ingest.commit", "%s; again in %d ms", err.message, RETRY_MS);
                pause_ms(w, RETRY_MS);
            }
        } while (r && r != E_ABORTED && !atomic_load(&w->stop));
    }
out:
    /* Leaving in order is no death: nothing in hand is suspect. */
    if (w->n) attempts_end(&w->attempts, (const char (*)[65])w->ids, w->n);
    for (size_t i = 0; i < w->n; i++) {
        genloop__v1__document__free_unpacked(w->tasks[i].received, NULL);
        w->tasks[i].received = NULL;
    }
    w->n = 0;
    w->n_commits = 0;
}

static void reached(struct worker *w, const struct event *e) {
    size_t i = 0;
    while (i < w->n_commits && !(w->commits[i].topic == e->topic && w->commits[i].partition == e->partition)) i++;
    if (i == w->n_commits) w->n_commits++;
    w->commits[i] = (struct event){.topic = e->topic, .partition = e->partition};
    memcpy(w->commits[i].offset, e->offset, sizeof e->offset);
}

static int is_open(void *arg, struct view_db *db, struct error *err) {
    const struct task *t = arg;
    int state = 0;
    bool known = view_document_state(db, span_str(t->id), &state);
    int r = view_failed(db, err);
    return r ? r : !known || state == GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_RECEIVED;
}

/* Takes an event in hand, or passes over it. */
static void take(struct worker *w, const struct event *e) {
    struct error err = {0};
    struct task *t = &w->tasks[w->n];
    Genloop__V1__Document *d = e->value.len ? MESSAGE_UNPACK(Document, document, e->value) : NULL;
    if (!d && e->value.len) {
        /* What is before it must be committed before it: a dead letter commits too. */
        metric_add(w->dead, 1);
        char offset[EVENT_OFFSET_MAX];
        memcpy(offset, e->offset, sizeof offset);
        if (eventlog_dead_letter(w->in->log, e, "ingest", "the value is no Document", &err)) log_error("ingest.dead_letter", "%s", err.message);
        reached(w, e);
        return;
    }
    if (!d || d->state != GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_RECEIVED || !d->raw || strlen(d->id) != 64 || !span_eq(e->key, span_str(d->id))) {
        if (d) genloop__v1__document__free_unpacked(d, NULL);
        reached(w, e);
        return;
    }
    memcpy(t->id, d->id, sizeof t->id);
    /* A verdict that is known already is not given again; one that the view does not have yet is, and means the same. */
    if (view_read(w->in->view, t, is_open, &err) == 0) {
        genloop__v1__document__free_unpacked(d, NULL);
        reached(w, e);
        return;
    }
    t->received = d;
    w->n++;
    reached(w, e);
}

static void *worker_run(void *arg) {
    struct worker *w = arg;
    struct error err = {0};
    int failures = 0;
    while (!atomic_load(&w->stop)) {
        struct event e;
        if (!w->group) {
            enum topic topics[] = {TOPIC_DOCUMENTS};
            if (eventlog_group_open(w->in->log, "ingest", service_instance(w->in->service), topics, 1, NULL, NULL, &w->group, &err)) {
                log_warn("ingest.group", "%s", err.message);
                pause_ms(w, RETRY_MS);
                continue;
            }
        }
        int r = eventlog_group_poll(w->group, w->n_commits ? 0 : POLL_MS, &e, &err);
        if (r == 0) {
            failures = 0;
            /* A suspect is taken alone: what died with it last time is told from it that way. */
            bool suspect = attempts_of(&w->attempts, e.key) > 0;
            if (suspect && w->n) run_batch(w);
            take(w, &e);
            if (suspect || w->n == BATCH_MAX) run_batch(w);
        } else if (r == E_AGAIN) {
            failures = 0;
            if (w->n_commits) run_batch(w);
        } else if (r == E_ABORTED) { /* another member of our name: it has our partitions now */
            log_warn("ingest.group", "%s", err.message);
            run_batch(w);
            eventlog_group_close(w->group);
            w->group = NULL;
            pause_ms(w, RETRY_MS);
        } else {
            if (failures++ % 20 == 0) log_warn("ingest.poll", "%s", err.message);
            if (w->n_commits) run_batch(w);
            pause_ms(w, RETRY_MS);
        }
        int64_t now = clock_mono_ms();
        if (w->group && now - w->lag_asked_ms >= LAG_EVERY_MS) {
            w->lag_asked_ms = now;
            atomic_store(&w->lag, eventlog_group_lag(w->group));
        }
    }
    if (w->group && w->n_commits) run_batch(w);
    if (w->group) eventlog_group_close(w->group);
    return NULL;
}

int64_t worker_lag(const struct ingest *in) { return in->worker ? atomic_load(&in->worker->lag) : 0; }

int worker_open(struct ingest *in, struct error *err) {
    static const double bounds[] = {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10};
    char path[4096];
    int r;
    struct worker *w = mem_zalloc(sizeof *w);
    if (!w) return error_set(err, E_NOMEM, "no memory");
    w->in = in;
    sem_init(&w->published, 0, 0);
    for (size_t i = 0; i < BATCH_MAX; i++) {
        w->tasks[i].worker = w;
        buf_init(&w->tasks[i].verdict, EVENT_VALUE_MAX);
    }
    w->accepted = metric_counter("genloop_ingest_documents_total", "state=\"accepted\",reason=\"\"", "Documents judged, by reason; accepted ones have none.");
    for (int i = 1; i < REASON_COUNT; i++) {
        char labels[96];
        snprintf(labels, sizeof labels, "state=\"rejected\",reason=\"%s\"", reason_word((enum reason)i));
        w->rejected[i] = metric_counter("genloop_ingest_documents_total", labels, "Documents judged, by reason; accepted ones have none.");
    }
    w->seconds = metric_histogram("genloop_ingest_document_seconds", "", "Time to clean one document.", bounds, sizeof bounds / sizeof *bounds);
    w->redactions = metric_counter("genloop_ingest_redactions_total", "", "Pieces of personal data replaced.");
    w->dead = metric_counter("genloop_ingest_dead_letters_total", "", "Events of the documents topic that make no sense.");
    char relative[256];
    snprintf(relative, sizeof relative, "work/%s", service_instance(in->service));
    service_path(in->service, relative, path, sizeof path);
    r = dir_make(path, err);
    if (!r) {
        size_t n = strlen(path);
        snprintf(path + n, sizeof path - n, "/attempts");
        r = attempts_open(&w->attempts, path, err);
    }
    if (!r && !(w->pool = pool_new((int)in->settings->threads))) r = error_set(err, E_NOMEM, "no threads to clean documents");
    if (!r) {
        in->worker = w;
        int e = pthread_create(&w->thread, NULL, worker_run, w);
        if (e) r = error_errno(err, e, "the worker's thread");
        w->running = e == 0;
    }
    if (r) {
        in->worker = w;
        worker_close(in);
    }
    return r;
}

void worker_close(struct ingest *in) {
    struct worker *w = in->worker;
    if (!w) return;
    atomic_store(&w->stop, true);
    if (w->running) pthread_join(w->thread, NULL);
    for (size_t i = 0; i < BATCH_MAX; i++) buf_fini(&w->tasks[i].verdict);
    pool_free(w->pool);
    attempts_close(&w->attempts);
    sem_destroy(&w->published);
    mem_free(w);
    in->worker = NULL;
}
