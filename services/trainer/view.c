/*
 * The view: jobs as jobs.h folds them, their progress, and the versions of datasets. Progress that is older than its topic keeps goes from the view too.
 */
#include "base/clock.h"
#include "registry/record.h"
#include "services/trainer/trainer.h"

const char TRAINER_SCHEMA[] =
    "CREATE TABLE jobs(id TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_ms INTEGER NOT NULL, fine_tuning INTEGER NOT NULL, packed BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX jobs_by_time ON jobs(tenant, created_ms, id);"
    "CREATE INDEX fine_tuning_by_time ON jobs(tenant, created_ms, id) WHERE fine_tuning;"
    "CREATE TABLE progress(number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, job TEXT NOT NULL, step INTEGER NOT NULL, time_ms INTEGER NOT NULL, packed BLOB NOT NULL);"
    "CREATE INDEX progress_by_job ON progress(job, number);"
    "CREATE INDEX progress_by_time ON progress(time_ms);"
    "CREATE TABLE datasets(tenant TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, state INTEGER NOT NULL, build_id TEXT NOT NULL, packed BLOB NOT NULL,"
    " PRIMARY KEY(tenant, name, version)) WITHOUT ROWID;";

/* ---- folding ---- */

static Genloop__V1__Job *read_job(struct view_db *db, struct span id) {
    Genloop__V1__Job *job = NULL;
    struct view_stmt *s = view_sql(db, "SELECT packed FROM jobs WHERE id = ?1");
    if (!s) return NULL;
    view_bind_span(s, 1, id);
    if (view_step(s)) job = (Genloop__V1__Job *)record_unpack(&genloop__v1__job__descriptor, view_blob(s, 0));
    view_done(s);
    return job;
}

static void put_job(struct view_db *db, const Genloop__V1__Job *job, struct span packed) {
    struct view_stmt *s = view_sql(db, "INSERT INTO jobs VALUES(?1, ?2, ?3, ?5, ?4) ON CONFLICT DO UPDATE SET packed = ?4");
    if (!s) return;
    view_bind_span(s, 1, span_str(job->id));
    view_bind_span(s, 2, span_str(job->tenant));
    view_bind_int(s, 3, job->created_time_ms);
    view_bind_blob(s, 4, packed);
    view_bind_int(s, 5, job->fine_tuning != NULL);
    view_step(s);
    view_done(s);
}

static int fold_job(struct view_db *db, const struct event *e, struct error *err) {
    Genloop__V1__Job *job = (Genloop__V1__Job *)record_unpack(&genloop__v1__job__descriptor, e->value), *known = NULL;
    if (!job) return error_set(err, E_INVALID, "the value is no Job");
    int r = job_check(job, e->key, err);
    if (!r) {
        known = read_job(db, e->key);
        r = view_failed(db, err);
    }
    if (!r && job_follows(known, job)) put_job(db, job, e->value);
    if (known) record_free(&known->base);
    record_free(&job->base);
    return r ? r : view_failed(db, err);
}

/* The record of a job that runs shows how far it is. */
static void show_step(struct view_db *db, const Genloop__V1__JobProgress *p) {
    struct buf packed;
    Genloop__V1__Job *job = read_job(db, span_str(p->job_id));
    if (!job) return;
    buf_init(&packed, EVENT_VALUE_MAX);
    bool differs = !job_ended(job->state) && (p->step != job->step || p->steps != job->steps);
    job->step = p->step;
    job->steps = p->steps;
    if (differs && record_pack(&job->base, &packed) == 0) put_job(db, job, buf_span(&packed));
    buf_fini(&packed);
    record_free(&job->base);
}

static int fold_progress(struct view_db *db, const struct event *e, struct error *err) {
    Genloop__V1__JobProgress *p = (Genloop__V1__JobProgress *)record_unpack(&genloop__v1__job_progress__descriptor, e->value);
    if (!p) return error_set(err, E_INVALID, "the value is no JobProgress");
    int r = p->id[0] && span_eq(e->key, span_str(p->job_id)) ? 0 : error_set(err, E_INVALID, "a JobProgress needs an id, and its key as job");
    struct view_stmt *s = r ? NULL : view_sql(db, "INSERT OR IGNORE INTO progress(id, job, step, time_ms, packed) VALUES(?1, ?2, ?3, ?4, ?5)");
    if (s) {
        view_bind_span(s, 1, span_str(p->id));
        view_bind_span(s, 2, e->key);
        view_bind_int(s, 3, (int64_t)(p->step < INT64_MAX ? p->step : INT64_MAX));
        view_bind_int(s, 4, p->event_time_ms);
        view_bind_blob(s, 5, e->value);
        view_step(s);
        view_done(s);
    }
    if (!r && (s = view_sql(db, "DELETE FROM progress WHERE time_ms < ?1"))) {
        view_bind_int(s, 1, p->event_time_ms - topic_info(TOPIC_JOB_PROGRESS)->retention_ms);
        view_step(s);
        view_done(s);
    }
    if (!r) show_step(db, p);
    record_free(&p->base);
    return r ? r : view_failed(db, err);
}

static int fold_dataset(struct view_db *db, const struct event *e, struct error *err) {
    Genloop__V1__Dataset *d = (Genloop__V1__Dataset *)record_unpack(&genloop__v1__dataset__descriptor, e->value);
    if (!d) return error_set(err, E_INVALID, "the value is no Dataset");
    int r = d->name[0] && d->version ? 0 : error_set(err, E_INVALID, "a Dataset needs a name and a version");
    /* Of two builds that claim one version the first has it, as ingest sees it; what was removed stays so. */
    struct view_stmt *s = r ? NULL : view_sql(db, "INSERT INTO datasets VALUES(?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET state = ?4, packed = ?6"
                                                  " WHERE build_id = ?5 AND state < ?4");
    if (s) {
        view_bind_span(s, 1, span_str(d->tenant));
        view_bind_span(s, 2, span_str(d->name));
        view_bind_int(s, 3, d->version);
        view_bind_int(s, 4, (int64_t)d->state);
        view_bind_span(s, 5, span_str(d->build_id));
        view_bind_blob(s, 6, e->value);
        view_step(s);
        view_done(s);
    }
    record_free(&d->base);
    return r ? r : view_failed(db, err);
}

int trainer_fold(void *arg, struct view_db *db, const struct event *e, struct error *err) {
    (void)arg;
    if (!e->value.len) return 0; /* a tombstone: nothing here is compacted away */
    return e->topic == TOPIC_JOBS ? fold_job(db, e, err) : e->topic == TOPIC_JOB_PROGRESS ? fold_progress(db, e, err) : fold_dataset(db, e, err);
}

/* ---- questions ---- */

struct one {
    struct span tenant, name;
    uint32_t version;
    Genloop__V1__Job *job;
    Genloop__V1__Dataset *dataset;
};

static int ask(struct trainer *t, bool wait, void *arg, int (*read)(void *arg, struct view_db *db, struct error *err), struct error *err) {
    int r = wait ? view_wait(t->view, VIEW_WAIT_MS, err) : 0;
    return r ? r : view_read(t->view, arg, read, err);
}

static int read_one_job(void *arg, struct view_db *db, struct error *err) {
    struct one *o = arg;
    o->job = read_job(db, o->name);
    return view_failed(db, err);
}

int view_job(struct trainer *t, struct span id, bool wait, Genloop__V1__Job **job, struct error *err) {
    struct one o = {.name = id};
    int r = ask(t, wait, &o, read_one_job, err);
    if (!r && !o.job) r = error_set_param(err, E_NOT_FOUND, "id", "there is no job %.*s", (int)(id.len < JOB_ID_MAX ? id.len : JOB_ID_MAX), id.data);
    if (!r) *job = o.job;
    else if (o.job) record_free(&o.job->base);
    return r;
}

static int read_one_dataset(void *arg, struct view_db *db, struct error *err) {
    struct one *o = arg;
    struct view_stmt *s = o->version ? view_sql(db, "SELECT packed FROM datasets WHERE tenant = ?1 AND name = ?2 AND version = ?3")
                                     : view_sql(db, "SELECT packed FROM datasets WHERE tenant = ?1 AND name = ?2 ORDER BY state = 2 DESC, version DESC LIMIT 1");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, o->tenant);
    view_bind_span(s, 2, o->name);
    if (o->version) view_bind_int(s, 3, o->version);
    if (view_step(s)) o->dataset = (Genloop__V1__Dataset *)record_unpack(&genloop__v1__dataset__descriptor, view_blob(s, 0));
    view_done(s);
    return view_failed(db, err);
}

int view_dataset(struct trainer *t, struct span tenant, struct span name, uint32_t version, bool wait, Genloop__V1__Dataset **dataset, struct error *err) {
    struct one o = {.tenant = tenant, .name = name, .version = version};
    int r = ask(t, wait, &o, read_one_dataset, err);
    if (!r && !o.dataset) r = error_set(err, E_NOT_FOUND, version ? "there is no dataset %.*s@%u" : "there is no dataset %.*s", SPAN_ARG(name), version);
    if (!r) *dataset = o.dataset;
    else if (o.dataset) record_free(&o.dataset->base);
    return r;
}

/* Lists are written as they lie in the view: a field that is a packed message or a text. */
static void put_field(struct buf *out, unsigned field, struct span bytes) {
    uint64_t n = bytes.len;
    buf_append_char(out, (char)(field << 3 | 2));
    do {
        buf_append_char(out, (char)((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
        n >>= 7;
    } while (n);
    buf_append_span(out, bytes);
}

struct listing {
    struct span tenant;
    int64_t before_ms;
    struct span before_id;
    uint32_t limit;
    struct buf *out;
};

static int read_jobs(void *arg, struct view_db *db, struct error *err) {
    struct listing *l = arg;
    char token[JOB_ID_MAX + 32] = "";
    uint32_t n = 0;
    struct view_stmt *s = view_sql(db, "SELECT packed, created_ms, id FROM jobs WHERE tenant = ?1 AND (created_ms < ?2 OR (created_ms = ?2 AND id < ?3)) ORDER BY created_ms DESC, id DESC");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, l->tenant);
    view_bind_int(s, 2, l->before_ms);
    view_bind_span(s, 3, l->before_id);
    while (view_step(s)) {
        if (n == l->limit || l->out->len > LIST_BYTES_MAX) {
            put_field(l->out, 2, span_str(token));
            break;
        }
        put_field(l->out, 1, view_blob(s, 0));
        snprintf(token, sizeof token, "%lld:%.*s", (long long)view_int(s, 1), SPAN_ARG(view_text(s, 2)));
        n++;
    }
    view_done(s);
    return view_failed(db, err);
}

int view_jobs(struct trainer *t, struct span tenant, struct span token, uint32_t limit, struct buf *out, struct error *err) {
    struct listing l = {.tenant = tenant, .before_ms = INT64_MAX, .limit = limit, .out = out};
    struct span rest = token, time;
    if (token.len && (!span_cut(&rest, ':', &time) || span_to_i64(time, &l.before_ms) || !job_id_valid(rest))) return error_set_param(err, E_INVALID, "page_token", "this is no page token");
    if (token.len) l.before_id = rest;
    int r = ask(t, false, &l, read_jobs, err);
    if (!r && out->failed) r = error_set(err, out->failed, "the list is too large");
    return r;
}

static bool has_metadata(const Genloop__V1__FineTuning *f, const struct fine_tuning_listing *q) {
    for (size_t i = 0; i < q->n_metadata; i++) {
        bool found = false;
        for (size_t k = 0; f && k < f->n_metadata; k++) found |= !strcmp(f->metadata[k]->key, q->metadata[i]->key) && !strcmp(f->metadata[k]->value, q->metadata[i]->value);
        if (!found) return false;
    }
    return true;
}

struct fine_tuned {
    const struct fine_tuning_listing *q;
    int64_t before_ms;
    struct buf *out;
};

static int read_fine_tuning(void *arg, struct view_db *db, struct error *err) {
    struct fine_tuned *l = arg;
    uint32_t n = 0;
    struct view_stmt *s = view_sql(db, "SELECT packed FROM jobs WHERE fine_tuning AND tenant = ?1 AND (created_ms < ?2 OR (created_ms = ?2 AND id < ?3)) ORDER BY created_ms DESC, id DESC");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, l->q->tenant);
    view_bind_int(s, 2, l->before_ms);
    view_bind_span(s, 3, l->q->after);
    while (view_step(s)) {
        if (l->q->n_metadata) {
            Genloop__V1__Job *job = (Genloop__V1__Job *)record_unpack(&genloop__v1__job__descriptor, view_blob(s, 0));
            bool wanted = job && has_metadata(job->fine_tuning, l->q);
            if (job) record_free(&job->base);
            if (!wanted) continue;
        }
        if (n == l->q->limit || l->out->len > LIST_BYTES_MAX) {
            (void)buf_append(l->out, "\x10\x01", 2); /* has_more */
            break;
        }
        put_field(l->out, 1, view_blob(s, 0));
        n++;
    }
    view_done(s);
    return view_failed(db, err);
}

int view_fine_tuning(struct trainer *t, const struct fine_tuning_listing *q, struct buf *out, struct error *err) {
    struct fine_tuned l = {.q = q, .before_ms = INT64_MAX, .out = out};
    Genloop__V1__Job *after = NULL;
    int r = q->after.len ? view_job(t, q->after, true, &after, err) : view_wait(t->view, VIEW_WAIT_MS, err);
    if (!r && after && (!after->fine_tuning || !span_eq_str(q->tenant, after->tenant))) r = error_set_param(err, E_NOT_FOUND, "after", "there is no fine-tuning job %.*s", SPAN_ARG(q->after));
    if (!r && after) l.before_ms = after->created_time_ms;
    if (!r) r = view_read(t->view, &l, read_fine_tuning, err);
    if (!r && out->failed) r = error_set(err, out->failed, "the list is too large");
    if (after) record_free(&after->base);
    return r;
}

struct steps {
    struct span job;
    int64_t after;
    uint64_t from_step;
    int n;
    struct progress_batch *batch;
};

static int read_progress(void *arg, struct view_db *db, struct error *err) {
    struct steps *q = arg;
    struct progress_batch *b = q->batch;
    struct view_stmt *s = view_sql(db, "SELECT number, packed FROM progress WHERE job = ?1 AND number > ?2 AND step >= ?3 ORDER BY number LIMIT ?4");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, q->job);
    view_bind_int(s, 2, q->after);
    view_bind_int(s, 3, q->after ? 0 : (int64_t)(q->from_step < INT64_MAX ? q->from_step : INT64_MAX));
    view_bind_int(s, 4, q->n < PROGRESS_BATCH_MAX ? q->n : PROGRESS_BATCH_MAX);
    while (b->n < PROGRESS_BATCH_MAX && view_step(s)) {
        buf_append_span(&b->bytes, view_blob(s, 1));
        b->rows[b->n] = view_int(s, 0);
        b->ends[b->n++] = b->bytes.len;
    }
    view_done(s);
    return view_failed(db, err);
}

int view_progress(struct trainer *t, struct span id, int64_t after, uint64_t from_step, int n, struct progress_batch *batch, struct error *err) {
    struct steps q = {id, after, from_step, n, batch};
    batch->n = 0;
    buf_clear(&batch->bytes);
    int r = ask(t, false, &q, read_progress, err);
    if (!r && batch->bytes.failed) r = error_set(err, batch->bytes.failed, "no memory for the progress of a job");
    return r;
}
