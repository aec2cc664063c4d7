/*
 * The methods of service Ingest on the bus. Three kinds of calls: an upload (documents.c); a question, which is answered on a pool thread from the view and the
 * store; and a stream (Watch, Build), which is told on a timer what has changed. A stream that has no credit misses steps, never the end.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/random.h"
#include "services/ingest/batches.h"
#include "services/ingest/build.h"
#include "services/ingest/files.h"
#include "services/ingest/rows.h"
#include "wire/unpack.h"

enum { TICK_MS = 150, PAGE_DEFAULT = 100, PAGE_MAX = 1000, SWEEP_MS = 60 * 1000 };

struct question {
    struct call call;
    struct ingest *in;
    struct question *next, **link;
    struct bus_reply *reply;
    int (*answer)(struct question *q, struct error *err);
    char tenant[128];
    char name[DATASET_NAME_MAX + 16]; /* dataset, as asked for */
    uint32_t limit;
    char token[DATASET_NAME_MAX + 80];
    int state;
    struct rows_wanted rows;
    int (*packed)(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err); /* of a question about files or batches */
    struct buf request;
    char actor_id[128], actor_scope[32];
    struct buf out;
    int r;
    struct error err;
};

struct stream {
    struct call call;
    struct ingest *in;
    struct stream *next, **link;
    struct bus_reply *reply;
    bool builds, reading, cancelled, first;
    uint64_t seen;                    /* of calls.changes */
    char tenant[128], dataset[DATASET_NAME_MAX + 1], build_id[128];
    struct buf last;                  /* what was told last, packed */
    /* the pool thread's: */
    struct dataset_counts counts;
    Genloop__V1__Dataset *version;    /* owned */
    bool newest_is_built;
    int r;
    struct error err;
};

struct calls {
    struct question *questions;
    struct stream *streams;
    int count;
    _Atomic uint64_t changes;
    struct loop_timer *timer;
    int64_t swept_ms; /* files that have expired were looked for */
    bool sweeping;
};

static void end_error(struct bus_reply *reply, int code, const char *param, const char *message) {
    struct error err;
    bus_reply_end(reply, error_set_param(&err, code, param, "%s", message), &err, SPAN(""));
}

/* "name" or "name@version" */
static int parse_name(struct span text, char name[DATASET_NAME_MAX + 1], uint32_t *version, struct error *err) {
    ptrdiff_t at = span_find_char(text, '@');
    *version = 0;
    if (at >= 0) {
        uint64_t v;
        if (span_to_u64(span_skip(text, (size_t)at + 1), &v) || v < 1 || v > UINT32_MAX) return error_set_param(err, E_INVALID, "name", "a version is a number from 1 on");
        *version = (uint32_t)v;
        text = span_sub(text, 0, (size_t)at);
    }
    int r = dataset_name_check(text, err);
    if (!r) span_copy(name, DATASET_NAME_MAX + 1, text);
    return r;
}

/* ---- questions ---- */

struct find {
    struct span tenant, name, build_id;
    uint32_t version;
    Genloop__V1__Dataset *dataset; /* owned */
};

static int find_dataset(void *arg, struct view_db *db, struct error *err) {
    struct find *f = arg;
    struct view_stmt *s;
    struct span packed;
    if (view_dataset(db, f->tenant, f->name, f->version, &s, &packed)) {
        f->dataset = MESSAGE_UNPACK(Dataset, dataset, packed);
        view_done(s);
    }
    return view_failed(db, err);
}

static int get_dataset(struct question *q, struct error *err) {
    char name[DATASET_NAME_MAX + 1];
    struct find f = {.tenant = span_str(q->tenant)};
    struct buf manifest, card;
    buf_init(&manifest, LIST_BYTES_MAX);
    buf_init(&card, 1 << 20);
    int r = parse_name(span_str(q->name), name, &f.version, err);
    f.name = span_str(name);
    if (!r) r = view_read(q->in->view, &f, find_dataset, err);
    if (!r && (!f.dataset || f.dataset->state == GENLOOP__V1__DATASET_STATE__DATASET_STATE_REMOVED)) r = error_set_param(err, E_NOT_FOUND, "name", "there is no dataset %s", q->name);
    if (!r) {
        Genloop__V1__GetDatasetReply m = GENLOOP__V1__GET_DATASET_REPLY__INIT;
        bool ready = f.dataset->state == GENLOOP__V1__DATASET_STATE__DATASET_STATE_READY;
        m.dataset = f.dataset;
        if (ready && f.dataset->manifest) r = store_get(q->in->store, f.dataset->manifest->sha256, &manifest, err);
        if (!r && ready && f.dataset->card) r = store_get(q->in->store, f.dataset->card->sha256, &card, err);
        if (!r) {
            m.manifest = (char *)buf_cstr(&manifest);
            m.card = (char *)buf_cstr(&card);
            r = m.manifest && m.card ? pack_message(&m.base, &q->out) : E_NOMEM;
        }
    }
    if (f.dataset) genloop__v1__dataset__free_unpacked(f.dataset, NULL);
    buf_fini(&manifest);
    buf_fini(&card);
    return r;
}

/* Lists are written as they lie in the view: field 1, length-delimited, is the packed message. */
static void put_field(struct buf *out, unsigned field, struct span bytes) {
    uint64_t n = bytes.len;
    buf_append_char(out, (char)(field << 3 | 2));
    do {
        buf_append_char(out, (char)((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
        n >>= 7;
    } while (n);
    buf_append_span(out, bytes);
}

static int read_datasets(void *arg, struct view_db *db, struct error *err) {
    struct question *q = arg;
    char name[DATASET_NAME_MAX + 1] = "", token[DATASET_NAME_MAX + 80] = "";
    uint32_t version = 0, n = 0;
    int r = q->token[0] ? parse_name(span_str(q->token), name, &version, err) : 0;
    if (r) return r;
    struct view_stmt *s = view_sql(db, "SELECT packed, name, version FROM datasets WHERE tenant = ?1 AND state != 4 AND (name > ?2 OR (name = ?2 AND version > ?3)) ORDER BY name, version");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(q->tenant));
    view_bind_span(s, 2, span_str(name));
    view_bind_int(s, 3, version);
    while (view_step(s)) {
        if (n == q->limit || q->out.len > LIST_BYTES_MAX) {
            put_field(&q->out, 2, span_str(token));
            break;
        }
        put_field(&q->out, 1, view_blob(s, 0));
        snprintf(token, sizeof token, "%.*s@%lld", SPAN_ARG(view_text(s, 1)), (long long)view_int(s, 2));
        n++;
    }
    view_done(s);
    return view_failed(db, err);
}

enum { FILLING_MAX = 1000 }; /* as many as a page has datasets */

/* What was begun and not built yet is no version, but somebody waits for it. */
static int read_filling(void *arg, struct view_db *db, struct error *err) {
    struct question *q = arg;
    struct view_stmt *s = view_sql(db, "SELECT DISTINCT dataset FROM totals WHERE tenant = ?1 AND n > 0 AND state != ?2 AND NOT EXISTS (SELECT 1 FROM datasets d WHERE d.tenant = ?1 AND d.name = dataset AND d.state != ?3)"
                                       " ORDER BY dataset LIMIT ?4");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(q->tenant));
    view_bind_int(s, 2, GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_ERASED);
    view_bind_int(s, 3, GENLOOP__V1__DATASET_STATE__DATASET_STATE_REMOVED);
    view_bind_int(s, 4, FILLING_MAX);
    while (view_step(s)) put_field(&q->out, 3, view_text(s, 0));
    view_done(s);
    return view_failed(db, err);
}

static int list_datasets(struct question *q, struct error *err) {
    int r = view_read(q->in->view, q, read_datasets, err);
    return r || q->token[0] ? r : view_read(q->in->view, q, read_filling, err);
}

static int read_documents(void *arg, struct view_db *db, struct error *err) {
    struct question *q = arg;
    char token[80] = "";
    uint32_t n = 0;
    struct view_stmt *s = view_sql(db, "SELECT packed, id FROM documents WHERE tenant = ?1 AND dataset = ?2 AND id > ?3 AND (?4 = 0 OR state = ?4) ORDER BY id");
    if (!s) return view_failed(db, err);
    view_bind_span(s, 1, span_str(q->tenant));
    view_bind_span(s, 2, span_str(q->name));
    view_bind_span(s, 3, span_str(q->token));
    view_bind_int(s, 4, q->state);
    while (view_step(s)) {
        if (n == q->limit || q->out.len > LIST_BYTES_MAX) {
            put_field(&q->out, 2, span_str(token));
            break;
        }
        put_field(&q->out, 1, view_blob(s, 0));
        span_copy(token, sizeof token, view_text(s, 1));
        n++;
    }
    view_done(s);
    return view_failed(db, err);
}

static int list_documents(struct question *q, struct error *err) {
    int r = dataset_name_check(span_str(q->name), err);
    return r ? r : view_read(q->in->view, q, read_documents, err);
}

static int on_row(void *arg, struct span row) {
    struct question *q = arg;
    put_field(&q->out, 1, row);
    return q->out.failed;
}

static void put_number(struct buf *out, unsigned field, uint64_t n) {
    buf_append_char(out, (char)(field << 3));
    do {
        buf_append_char(out, (char)((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
        n >>= 7;
    } while (n);
}

static int list_rows(struct question *q, struct error *err) {
    char name[DATASET_NAME_MAX + 1];
    struct find f = {.tenant = span_str(q->tenant)};
    struct rows_given given = {0};
    struct buf manifest;
    buf_init(&manifest, LIST_BYTES_MAX);
    int r = parse_name(span_str(q->name), name, &f.version, err);
    f.name = span_str(name);
    if (!r) r = view_read(q->in->view, &f, find_dataset, err);
    if (!r && (!f.dataset || f.dataset->state == GENLOOP__V1__DATASET_STATE__DATASET_STATE_REMOVED)) r = error_set_param(err, E_NOT_FOUND, "name", "there is no dataset %s", q->name);
    if (!r && (f.dataset->state != GENLOOP__V1__DATASET_STATE__DATASET_STATE_READY || !f.dataset->manifest)) r = error_set_param(err, E_STATE, "name", "no version of %s is ready", q->name);
    if (!r) r = store_get(q->in->store, f.dataset->manifest->sha256, &manifest, err);
    if (!r) r = rows_read(q->in->store, buf_span(&manifest), &q->rows, LIST_BYTES_MAX, q, on_row, &given, err);
    if (!r && given.total) put_number(&q->out, 2, given.total);
    if (!r && given.next_offset) put_number(&q->out, 3, given.next_offset);
    if (f.dataset) genloop__v1__dataset__free_unpacked(f.dataset, NULL);
    buf_fini(&manifest);
    return r;
}

/* Publishes REMOVED for a version, or for all that a name has. What was built from it stays where it is used; the objects stay in the store. */
static int remove_dataset(struct question *q, struct error *err) {
    char name[DATASET_NAME_MAX + 1];
    uint32_t wanted;
    int r = parse_name(span_str(q->name), name, &wanted, err), removed = 0;
    for (uint32_t v = wanted ? wanted : 1; !r; v++) {
        struct find f = {.tenant = span_str(q->tenant), .name = span_str(name), .version = v};
        if ((r = view_read(q->in->view, &f, find_dataset, err))) break;
        if (!f.dataset) break; /* versions are numbered without a gap */
        if (f.dataset->state == GENLOOP__V1__DATASET_STATE__DATASET_STATE_BUILDING) r = error_set_param(err, E_STATE, "name", "%s@%u is being built", name, v);
        else {
            f.dataset->state = GENLOOP__V1__DATASET_STATE__DATASET_STATE_REMOVED;
            f.dataset->event_time_ms = clock_wall_ms();
            struct buf packed;
            char id[EVENT_ID_MAX];
            buf_init(&packed, EVENT_VALUE_MAX);
            snprintf(id, sizeof id, "%.80s.%u.removed", f.dataset->build_id, v);
            r = pack_message(&f.dataset->base, &packed);
            struct event e = {.topic = TOPIC_DATASETS, .key = span_str(name), .value = buf_span(&packed), .id = span_str(id)};
            if (!r) r = eventlog_publish(q->in->log, &e, err);
            if (!r) {
                buf_clear(&q->out);
                buf_append_span(&q->out, buf_span(&packed));
                removed++;
            }
            buf_fini(&packed);
        }
        genloop__v1__dataset__free_unpacked(f.dataset, NULL);
        if (wanted) break;
    }
    if (!r && !removed) r = error_set_param(err, E_NOT_FOUND, "name", "there is no dataset %s", q->name);
    return r;
}

static void question_work(void *arg) {
    struct question *q = arg;
    q->r = q->answer(q, &q->err);
    if (!q->r && q->out.failed) q->r = error_set(&q->err, q->out.failed, "the answer is too large");
    atomic_fetch_sub(&q->in->abroad, 1);
}

static void question_free(struct question *q) {
    *q->link = q->next;
    if (q->next) q->next->link = q->link;
    q->in->calls->count--;
    buf_fini(&q->request);
    buf_fini(&q->out);
    mem_free(q);
}

static void question_done(void *arg) {
    struct question *q = arg;
    struct ingest *in = q->in;
    ingest_reply_end(in, q->reply, q->r, q->r ? &q->err : NULL, q->r ? SPAN("") : buf_span(&q->out));
    question_free(q);
    ingest_unref(in);
}

static const struct call_ops question_ops = {0}; /* answers come soon: a cancelled one just has no reader */

static struct question *question_new(struct ingest *in, struct bus_reply *reply, struct span tenant, int (*answer)(struct question *q, struct error *err)) {
    struct question *q = mem_zalloc(sizeof *q);
    if (!q) return NULL;
    q->call.ops = &question_ops;
    q->in = in;
    q->reply = reply;
    q->answer = answer;
    span_copy(q->tenant, sizeof q->tenant, tenant);
    buf_init(&q->out, 2 * LIST_BYTES_MAX - 65536); /* a page and one more item; below a bus message */
    q->next = in->calls->questions;
    q->link = &in->calls->questions;
    if (q->next) q->next->link = &q->next;
    in->calls->questions = q;
    in->calls->count++;
    return q;
}

static void question_start(struct question *q, struct call **call) {
    *call = &q->call;
    atomic_fetch_add(&q->in->abroad, 1);
    int r = loop_work(q->in->loop, question_work, question_done, q);
    if (r) {
        atomic_fetch_sub(&q->in->abroad, 1);
        q->r = error_set(&q->err, r, "too many questions wait; try again");
        question_done(q);
    }
}

static int take_page(struct question *q, const Genloop__V1__PageRequest *page, struct error *err) {
    q->limit = page && page->limit ? page->limit : PAGE_DEFAULT;
    if (q->limit > PAGE_MAX) return error_set_param(err, E_INVALID, "limit", "a page has at most %d entries", PAGE_MAX);
    if (page && strlen(page->page_token) >= sizeof q->token) return error_set_param(err, E_INVALID, "page_token", "this is no page token");
    if (page) span_copy(q->token, sizeof q->token, span_str(page->page_token));
    return 0;
}

/* ---- streams ---- */

static int read_progress(void *arg, struct view_db *db, struct error *err) {
    struct stream *s = arg;
    struct view_stmt *stmt;
    struct span packed;
    bool found;
    if (s->builds) found = view_dataset_by_build(db, span_str(s->tenant), span_str(s->build_id), &stmt, &packed);
    else found = view_dataset(db, span_str(s->tenant), span_str(s->dataset), view_dataset_highest(db, span_str(s->tenant), span_str(s->dataset)), &stmt, &packed);
    if (found) {
        s->version = MESSAGE_UNPACK(Dataset, dataset, packed);
        view_done(stmt);
    }
    view_dataset_counts(db, span_str(s->tenant), span_str(s->version && s->builds ? s->version->name : s->dataset), &s->counts);
    return view_failed(db, err);
}

static void stream_work(void *arg) {
    struct stream *s = arg;
    s->r = view_read(s->in->view, s, read_progress, &s->err);
    atomic_fetch_sub(&s->in->abroad, 1);
}

static void stream_free(struct stream *s) {
    *s->link = s->next;
    if (s->next) s->next->link = s->link;
    s->in->calls->count--;
    buf_fini(&s->last);
    mem_free(s);
}

/* Of the whole build: how long each phase takes on a corpus of manuals. */
static double overall(const struct build_progress *p) {
    static const struct {
        const char *phase;
        double from, to;
    } phases[] = {{"waiting", 0, 0.35}, {"deduplicating", 0.35, 0.45}, {"tokenizer", 0.45, 0.7}, {"tokens", 0.7, 0.97}, {"writing", 0.97, 1}};
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++)
        if (!strcmp(phases[i].phase, p->phase)) return phases[i].from + (phases[i].to - phases[i].from) * p->fraction;
    return 0;
}

static int pack_progress(struct stream *s, bool building, const struct build_progress *progress, struct buf *out) {
    Genloop__V1__DatasetProgress m = GENLOOP__V1__DATASET_PROGRESS__INIT;
    Genloop__V1__DatasetProgress__RejectedByReasonEntry entries[REASON_COUNT], *list[REASON_COUNT];
    size_t n = 0;
    m.dataset = s->dataset;
    m.received = s->counts.received;
    m.accepted = s->counts.accepted;
    m.rejected = s->counts.rejected;
    m.pending = s->counts.pending;
    for (int i = 1; i < REASON_COUNT; i++) {
        if (!s->counts.reasons[i]) continue;
        entries[n] = (Genloop__V1__DatasetProgress__RejectedByReasonEntry)GENLOOP__V1__DATASET_PROGRESS__REJECTED_BY_REASON_ENTRY__INIT;
        entries[n].key = (char *)reason_word((enum reason)i);
        entries[n].value = s->counts.reasons[i];
        list[n] = &entries[n];
        n++;
    }
    m.rejected_by_reason = list;
    m.n_rejected_by_reason = n;
    if (building) {
        m.phase = (char *)progress->phase;
        m.fraction = overall(progress);
    }
    m.version = s->version;
    return pack_message(&m.base, out);
}

static void stream_done(void *arg) {
    struct stream *s = arg;
    struct build_progress progress = {"waiting", 0};
    struct buf packed;
    buf_init(&packed, 1 << 20);
    s->reading = false;
    int code = 0;
    bool ends = false;
    if (s->cancelled || s->in->draining || s->in->closed) {
        code = s->cancelled ? error_set(&s->err, E_CANCELLED, "the client went away") : error_set(&s->err, E_UNAVAILABLE, "the service leaves; ask again");
        ends = true;
    } else if (s->r) {
        code = s->r;
        ends = true;
    } else {
        bool building = builder_progress(s->in, s->tenant, s->dataset, s->builds ? s->build_id : "", &progress);
        if (s->builds && s->version) {
            switch (s->version->state) {
            case GENLOOP__V1__DATASET_STATE__DATASET_STATE_READY: ends = true; break;
            case GENLOOP__V1__DATASET_STATE__DATASET_STATE_FAILED: ends = true; code = error_set(&s->err, E_STATE, "%s", s->version->failure); break;
            case GENLOOP__V1__DATASET_STATE__DATASET_STATE_REMOVED: ends = true; code = error_set(&s->err, E_STATE, "%s@%u was removed", s->version->name, s->version->version); break;
            default: break;
            }
        } else if (s->builds && !building && builder_refused(s->in, s->build_id, &s->err)) {
            ends = true;
            code = s->err.code;
        }
        if (!code) {
            code = pack_progress(s, building, &progress, &packed);
            if (code) {
                ends = true;
                (void)error_set(&s->err, code, "the progress is too large");
            }
        }
    }
    if (s->version) genloop__v1__dataset__free_unpacked(s->version, NULL);
    s->version = NULL;
    if (ends) {
        struct ingest *in = s->in;
        ingest_reply_end(in, s->reply, code, code ? &s->err : NULL, code ? SPAN("") : buf_span(&packed));
        buf_fini(&packed);
        stream_free(s);
        ingest_unref(in);
        return;
    }
    if (!span_eq(buf_span(&packed), buf_span(&s->last)) || s->first) {
        if (bus_reply_item(s->reply, buf_span(&packed)) == 0) {
            buf_clear(&s->last);
            buf_append_span(&s->last, buf_span(&packed));
            s->first = false;
        } else
            s->seen = 0; /* no credit: the next tick tries again */
    }
    buf_fini(&packed);
}

static void stream_read(struct stream *s) {
    if (s->reading) return;
    s->seen = atomic_load(&s->in->calls->changes);
    s->reading = true;
    atomic_fetch_add(&s->in->abroad, 1);
    if (loop_work(s->in->loop, stream_work, stream_done, s)) { /* the next tick tries again */
        s->reading = false;
        atomic_fetch_sub(&s->in->abroad, 1);
    }
}

static void stream_cancel(struct call *c) {
    struct stream *s = (struct stream *)c;
    s->cancelled = true;
    if (s->reading) return; /* ended when the reading is done */
    s->r = 0;
    stream_done(s);
}

static const struct call_ops stream_ops = {.on_cancel = stream_cancel};

static struct stream *stream_new(struct ingest *in, struct bus_reply *reply, struct span tenant, const char *dataset, const char *build_id) {
    struct stream *s = mem_zalloc(sizeof *s);
    if (!s) return NULL;
    s->call.ops = &stream_ops;
    s->in = in;
    s->reply = reply;
    s->builds = build_id != NULL;
    s->first = true;
    span_copy(s->tenant, sizeof s->tenant, tenant);
    span_copy(s->dataset, sizeof s->dataset, span_str(dataset));
    if (build_id) span_copy(s->build_id, sizeof s->build_id, span_str(build_id));
    buf_init(&s->last, 1 << 20);
    s->next = in->calls->streams;
    s->link = &in->calls->streams;
    if (s->next) s->next->link = &s->next;
    in->calls->streams = s;
    in->calls->count++;
    return s;
}

/* The pool thread's count of `abroad` keeps the service's parts; the calls' own struct is kept by `sweeping`. */
static void sweep_work(void *arg) {
    struct ingest *in = arg;
    files_sweep(in);
    atomic_fetch_sub(&in->abroad, 1);
}

static void sweep_done(void *arg) {
    struct ingest *in = arg;
    in->calls->sweeping = false;
    in->calls->count--;
    ingest_unref(in);
}

static void sweep(struct ingest *in) {
    int64_t now_ms = clock_mono_ms();
    if (in->calls->sweeping || in->draining || now_ms - in->calls->swept_ms < SWEEP_MS) return;
    in->calls->swept_ms = now_ms;
    atomic_fetch_add(&in->abroad, 1);
    if (loop_work(in->loop, sweep_work, sweep_done, in)) {
        atomic_fetch_sub(&in->abroad, 1);
        return;
    }
    in->calls->sweeping = true;
    in->calls->count++;
}

static void on_tick(void *arg) {
    struct ingest *in = arg;
    if (in->closed) return;
    sweep(in);
    uint64_t changes = atomic_load(&in->calls->changes);
    service_lag(in->service, (uint64_t)worker_lag(in));
    for (struct stream *s = in->calls->streams, *next; s; s = next) {
        next = s->next; /* nothing below frees a stream before the loop turns */
        if (s->builds || s->seen != changes || s->first || in->draining) stream_read(s);
    }
    if (in->draining && !uploads_count(in) && !in->calls->count) service_drained(in->service);
}

void calls_changed(struct ingest *in) {
    if (in->calls) atomic_fetch_add(&in->calls->changes, 1);
}

int calls_count(const struct ingest *in) { return in->calls ? in->calls->count : 0; }

int calls_open(struct ingest *in, struct error *err) {
    in->calls = mem_zalloc(sizeof *in->calls);
    if (!in->calls || !(in->calls->timer = loop_timer_new(in->loop, in, on_tick))) return error_set(err, E_NOMEM, "no memory");
    atomic_store(&in->calls->changes, 1);
    loop_timer_start(in->calls->timer, TICK_MS, TICK_MS);
    return 0;
}

void calls_close(struct ingest *in) {
    if (!in->calls) return;
    loop_timer_close(in->calls->timer);
    mem_free(in->calls);
    in->calls = NULL;
}

/* ---- dispatch ---- */

static void call_build(struct ingest *in, struct bus_reply *reply, struct span tenant, struct span request, struct call **call) {
    struct error err = {0};
    struct build_request q = {0};
    char made[ID_TEXT_MAX];
    Genloop__V1__BuildDatasetRequest *m = MESSAGE_UNPACK(BuildDatasetRequest, build_dataset_request, request);
    int r = m ? dataset_name_check(span_str(m->dataset), &err) : error_set(&err, E_INVALID, "the request is no BuildDatasetRequest");
    if (!r && (strlen(m->build_id) >= sizeof q.build_id || !span_is_utf8(span_str(m->build_id)))) r = error_set_param(&err, E_INVALID, "build_id", "a build id has at most %zu bytes", sizeof q.build_id - 1);
    if (!r && strlen(m->tokenizer) >= sizeof q.tokenizer) r = error_set_param(&err, E_INVALID, "tokenizer", "a tokenizer is the sha256 of a tokenizer.json or a model's name@version");
    if (!r && m->vocab && (m->vocab < BUILD_VOCAB_MIN || m->vocab > BUILD_VOCAB_MAX)) r = error_set_param(&err, E_INVALID, "vocab", "a vocabulary has %d to %d ids", BUILD_VOCAB_MIN, BUILD_VOCAB_MAX);
    if (!r && !(m->held_out >= 0 && m->held_out <= 0.5)) r = error_set_param(&err, E_INVALID, "held_out", "the share that is held out is 0 to 0.5");
    if (!r) {
        span_copy(q.tenant, sizeof q.tenant, tenant);
        span_copy(q.dataset, sizeof q.dataset, span_str(m->dataset));
        span_copy(q.build_id, sizeof q.build_id, span_str(m->build_id[0] ? m->build_id : id_make(made)));
        span_copy(q.tokenizer, sizeof q.tokenizer, span_str(m->tokenizer));
        q.vocab = m->vocab ? m->vocab : (uint32_t)in->settings->vocab;
        q.held_out = m->held_out > 0 ? m->held_out : in->settings->held_out;
        q.seed = m->seed;
        r = builder_add(in, &q, &err);
    }
    struct stream *s = r ? NULL : stream_new(in, reply, tenant, q.dataset, q.build_id);
    if (!r && !s) r = error_set(&err, E_NOMEM, "no memory");
    if (m) genloop__v1__build_dataset_request__free_unpacked(m, NULL);
    if (r) bus_reply_end(reply, r, &err, SPAN(""));
    else {
        *call = &s->call;
        stream_read(s);
    }
}

static void call_watch(struct ingest *in, struct bus_reply *reply, struct span tenant, struct span request, struct call **call) {
    struct error err = {0};
    Genloop__V1__WatchDatasetRequest *m = MESSAGE_UNPACK(WatchDatasetRequest, watch_dataset_request, request);
    int r = m ? dataset_name_check(span_str(m->dataset), &err) : error_set(&err, E_INVALID, "the request is no WatchDatasetRequest");
    struct stream *s = r ? NULL : stream_new(in, reply, tenant, m->dataset, NULL);
    if (!r && !s) r = error_set(&err, E_NOMEM, "no memory");
    if (m) genloop__v1__watch_dataset_request__free_unpacked(m, NULL);
    if (r) bus_reply_end(reply, r, &err, SPAN(""));
    else {
        *call = &s->call;
        stream_read(s);
    }
}

static int ask_packed(struct question *q, struct error *err) { return q->packed(q->in, span_str(q->tenant), buf_span(&q->request), &q->out, err); }

static int ask_create_batch(struct question *q, struct error *err) {
    return batches_create(q->in, span_str(q->tenant), &(struct batch_caller){q->actor_id, q->actor_scope}, buf_span(&q->request), &q->out, err);
}

static const struct {
    const char *method;
    int (*answer)(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err);
} PACKED_METHODS[] = {
    {"Ingest/ListFiles", files_list}, {"Ingest/GetFile", files_get}, {"Ingest/ReadFile", files_read}, {"Ingest/DeleteFile", files_delete}, {"Ingest/DatasetFromFiles", files_dataset},
    {"Ingest/GetBatch", batches_get}, {"Ingest/ListBatches", batches_list}, {"Ingest/CancelBatch", batches_cancel}, {"Ingest/TakeBatchLines", batches_take}, {"Ingest/PutBatchAnswers", batches_put},
    {"Ingest/CreateBatch", NULL},
};

/* Whether it is about files or batches; the request is read by who answers. */
static bool take_packed(struct question *q, struct span method, struct span request, int *r) {
    for (size_t i = 0; i < sizeof PACKED_METHODS / sizeof *PACKED_METHODS; i++)
        if (span_eq_str(method, PACKED_METHODS[i].method)) {
            q->answer = PACKED_METHODS[i].answer ? ask_packed : ask_create_batch;
            q->packed = PACKED_METHODS[i].answer;
            buf_init(&q->request, BUS_MESSAGE_MAX);
            *r = buf_append_span(&q->request, request) < 0 ? error_set(&q->err, q->request.failed == E_FULL ? E_TOO_LARGE : E_NOMEM, "the request is too large") : 0;
            return true;
        }
    return false;
}

static void call_question(struct ingest *in, struct bus_reply *reply, struct span tenant, struct span method, const struct bus_context *context, struct span request, struct call **call) {
    struct error err = {0};
    int r = 0;
    const uint8_t *bytes = (const uint8_t *)request.data;
    struct question *q = question_new(in, reply, tenant, NULL);
    if (!q) {
        end_error(reply, E_NOMEM, "", "no memory for the question");
        return;
    }
    span_copy(q->actor_id, sizeof q->actor_id, context->actor_id);
    span_copy(q->actor_scope, sizeof q->actor_scope, context->actor_scope);
    if (span_eq_str(method, "Ingest/GetDataset")) {
        Genloop__V1__GetDatasetRequest *m = MESSAGE_UNPACK(GetDatasetRequest, get_dataset_request, span_of(bytes, request.len));
        q->answer = get_dataset;
        if (m) span_copy(q->name, sizeof q->name, span_str(m->name));
        else r = E_INVALID;
        if (m) genloop__v1__get_dataset_request__free_unpacked(m, NULL);
    } else if (span_eq_str(method, "Ingest/ListDatasets")) {
        Genloop__V1__PageRequest *m = MESSAGE_UNPACK(PageRequest, page_request, span_of(bytes, request.len));
        q->answer = list_datasets;
        r = m ? take_page(q, m, &err) : E_INVALID;
        if (m) genloop__v1__page_request__free_unpacked(m, NULL);
    } else if (span_eq_str(method, "Ingest/ListDocuments")) {
        Genloop__V1__ListDocumentsRequest *m = MESSAGE_UNPACK(ListDocumentsRequest, list_documents_request, span_of(bytes, request.len));
        q->answer = list_documents;
        r = m ? take_page(q, m->page, &err) : E_INVALID;
        if (m) span_copy(q->name, sizeof q->name, span_str(m->dataset));
        if (m) q->state = (int)m->state;
        if (m) genloop__v1__list_documents_request__free_unpacked(m, NULL);
    } else if (span_eq_str(method, "Ingest/RemoveDataset")) {
        Genloop__V1__RemoveDatasetRequest *m = MESSAGE_UNPACK(RemoveDatasetRequest, remove_dataset_request, span_of(bytes, request.len));
        q->answer = remove_dataset;
        if (m) span_copy(q->name, sizeof q->name, span_str(m->name));
        else r = E_INVALID;
        if (m) genloop__v1__remove_dataset_request__free_unpacked(m, NULL);
    } else if (span_eq_str(method, "Ingest/ListRows")) {
        Genloop__V1__ListRowsRequest *m = MESSAGE_UNPACK(ListRowsRequest, list_rows_request, request);
        q->answer = list_rows;
        if (m) span_copy(q->name, sizeof q->name, span_str(m->name));
        r = m ? rows_wanted_read(m, &q->rows, &err) : E_INVALID;
        if (m) genloop__v1__list_rows_request__free_unpacked(m, NULL);
    } else if (take_packed(q, method, request, &r)) {
        err = q->err;
    } else
        r = error_set(&err, E_UNSUPPORTED, "ingest has no method %.*s", SPAN_ARG(method));
    if (r) {
        if (!err.code) (void)error_set(&err, r, "the request is no message of %.*s", SPAN_ARG(method));
        q->r = r;
        q->err = err;
        question_done(q);
    } else
        question_start(q, call);
}

static void on_call(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg) {
    struct ingest *in = arg;
    struct call *call = NULL;
    struct span tenant = context->tenant.len ? context->tenant : span_str(in->settings->shared.tenant);
    if (in->draining) end_error(reply, E_UNAVAILABLE, "", "the service leaves; ask again");
    else if (in->calls->count >= CALLS_MAX) end_error(reply, E_FULL, "", "too many calls are open; try again");
    else if (tenant.len >= 128) end_error(reply, E_INVALID, "tenant", "a tenant's name has at most 127 bytes");
    else if (span_eq_str(method, "Ingest/Upload")) upload_call(in, reply, tenant, request, false, &call);
    else if (span_eq_str(method, "Ingest/UploadFile")) upload_call(in, reply, tenant, request, true, &call);
    else if (span_eq_str(method, "Ingest/Build")) call_build(in, reply, tenant, request, &call);
    else if (span_eq_str(method, "Ingest/Watch")) call_watch(in, reply, tenant, request, &call);
    else call_question(in, reply, tenant, method, context, request, &call);
    *call_arg = call;
}

static void on_item(void *call_arg, struct bus_reply *reply, struct span item) {
    struct call *c = call_arg;
    if (c && c->ops->on_item) c->ops->on_item(c, item);
    else bus_reply_credit(reply, 1); /* nobody asked for it */
}

static void on_item_end(void *call_arg, struct bus_reply *reply) {
    struct call *c = call_arg;
    (void)reply;
    if (c && c->ops->on_item_end) c->ops->on_item_end(c);
}

static void on_credit(void *call_arg, struct bus_reply *reply) {
    struct call *c = call_arg;
    (void)reply;
    if (c && c->ops->on_credit) c->ops->on_credit(c);
}

static void on_cancel(void *call_arg, struct bus_reply *reply, int code) {
    struct call *c = call_arg;
    (void)reply;
    (void)code;
    if (c && c->ops->on_cancel) c->ops->on_cancel(c);
}

const struct bus_server_events ingest_bus_events = {.on_call = on_call, .on_item = on_item, .on_item_end = on_item_end, .on_credit = on_credit, .on_cancel = on_cancel};
