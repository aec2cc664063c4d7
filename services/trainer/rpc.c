/*
 * The methods of service Training on the bus. Two kinds of calls: a question, which is answered on a pool thread; and a watch, which is told on a timer what has
 * changed: the job when its state changes, its steps between. A watch without credit waits where it is; nothing is skipped.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "registry/record.h"
#include "services/trainer/fine_tuning.h"
#include "services/trainer/trainer.h"
#include "wire/unpack.h"

enum { TICK_MS = 100, PAGE_DEFAULT = 100, PAGE_MAX = 1000, FINE_TUNING_PAGE_DEFAULT = 20, FINE_TUNING_PAGE_MAX = 100, TENANT_MAX = 128, WATCH_BYTES_MAX = 4 << 20 };

enum call_kind { CALL_QUESTION, CALL_WATCH };
struct call {
    enum call_kind kind;
    struct trainer *t;
    struct call *next, **link;
    struct bus_reply *reply;
    char tenant[TENANT_MAX];
    char id[JOB_ID_MAX + 1];
    int r;
    struct error err;
};

struct question {
    struct call call;
    int (*answer)(struct question *q, struct error *err);
    char actor[3][256]; /* id, scope, claim */
    Genloop__V1__CreateJobRequest *create; /* owned */
    Genloop__V1__ListFineTuningRequest *fine_tuning; /* owned */
    Genloop__V1__JobWish wish;
    uint32_t limit;
    char token[JOB_ID_MAX + 32];
    struct buf out;
};

struct watch {
    struct call call;
    bool reading, cancelled, told;
    uint64_t seen;                  /* of trainer.changes */
    uint64_t from_step;
    int64_t after;                  /* the row of progress that was told last */
    Genloop__V1__JobState state;    /* that was told last */
    uint32_t attempts;
    /* the pool thread's: */
    int credit;
    Genloop__V1__Job *job;          /* owned */
    struct progress_batch progress;
};

struct calls {
    struct call *list;
    int count;
    struct loop_timer *timer;
};

static void end_error(struct bus_reply *reply, int code, const char *param, const char *message) {
    struct error err;
    bus_reply_end(reply, error_set_param(&err, code, param, "%s", message), &err, SPAN(""));
}

static void call_init(struct call *c, enum call_kind kind, struct trainer *t, struct bus_reply *reply, struct span tenant) {
    c->kind = kind;
    c->t = t;
    c->reply = reply;
    span_copy(c->tenant, sizeof c->tenant, tenant);
    c->next = t->calls->list;
    c->link = &t->calls->list;
    if (c->next) c->next->link = &c->next;
    t->calls->list = c;
    t->calls->count++;
}

static void call_unlink(struct call *c) {
    *c->link = c->next;
    if (c->next) c->next->link = c->link;
    c->t->calls->count--;
}

static int take_id(struct call *c, const char *id, struct error *err) {
    if (!job_id_valid(span_str(id))) return error_set_param(err, E_INVALID, "id", "id: name a job");
    span_copy(c->id, sizeof c->id, span_str(id));
    return 0;
}

/* The caller's job: another tenant's is none. Before the view knows what was in the log when the service started, its word is not taken for the log's. */
static int find_job(struct call *c, bool wait, Genloop__V1__Job **job, struct error *err) {
    int r = view_job(c->t, span_str(c->id), wait || !view_caught_up(c->t->view), job, err);
    if (!r && strcmp((*job)->tenant, c->tenant) != 0) {
        record_free(&(*job)->base);
        *job = NULL;
        r = error_set_param(err, E_NOT_FOUND, "id", "there is no job %s", c->id);
    }
    return r;
}

/* ---- questions ---- */

static int create(struct question *q, struct error *err) {
    struct create_context context = {span_str(q->call.tenant), span_str(q->actor[0]), span_str(q->actor[1]), span_str(q->actor[2])};
    return create_job(q->call.t, &context, q->create, &q->out, err);
}

static int pack(const Genloop__V1__Job *job, struct buf *out, struct error *err) { return record_pack(&job->base, out) ? error_set(err, E_NOMEM, "no memory for a job") : 0; }

static int get(struct question *q, struct error *err) {
    Genloop__V1__Job *job = NULL;
    int r = find_job(&q->call, false, &job, err);
    if (!r) r = pack(job, &q->out, err);
    if (job) record_free(&job->base);
    return r;
}

static int list(struct question *q, struct error *err) { return view_jobs(q->call.t, span_str(q->call.tenant), span_str(q->token), q->limit, &q->out, err); }

static int list_fine_tuning(struct question *q, struct error *err) {
    const Genloop__V1__ListFineTuningRequest *m = q->fine_tuning;
    struct fine_tuning_listing l = {.tenant = span_str(q->call.tenant), .after = span_str(m->after), .limit = q->limit, .metadata = m->metadata, .n_metadata = m->n_metadata};
    return view_fine_tuning(q->call.t, &l, &q->out, err);
}

/* Every event of the job; the steps that are kept in the arena as they lie in the view. */
static int collect_events(struct question *q, const Genloop__V1__Job *job, struct fine_tuning_events *l, struct error *err) {
    struct progress_batch batch = {.n = 0};
    int64_t after = 0;
    int r = fine_tuning_events_begin(l, job);
    buf_init(&batch.bytes, WATCH_BYTES_MAX);
    do {
        if (r == 0) r = view_progress(q->call.t, span_str(job->id), after, 1, PROGRESS_BATCH_MAX, &batch, err);
        for (int i = 0; r == 0 && i < batch.n; i++) {
            size_t at = i ? batch.ends[i - 1] : 0;
            Genloop__V1__JobProgress *p = (Genloop__V1__JobProgress *)record_unpack(&genloop__v1__job_progress__descriptor, span_sub(buf_span(&batch.bytes), at, batch.ends[i] - at)), *kept;
            if (!p) continue;
            /* Numbers and two names: flat in the arena. */
            kept = arena_alloc(l->arena, sizeof *kept);
            if (kept) {
                genloop__v1__job_progress__init(kept);
                kept->id = arena_strdup(l->arena, p->id);
                kept->job_id = job->id;
                kept->phase = arena_strdup(l->arena, p->phase);
                kept->event_time_ms = p->event_time_ms;
                kept->step = p->step;
                kept->steps = p->steps;
                kept->loss = p->loss;
                kept->grad_norm = p->grad_norm;
                kept->learning_rate = p->learning_rate;
                kept->tokens = p->tokens;
                kept->tokens_per_second = p->tokens_per_second;
            }
            r = kept && kept->id && kept->phase ? fine_tuning_events_step(l, job, kept) : E_NOMEM;
            record_free(&p->base);
            after = batch.rows[i];
        }
    } while (r == 0 && batch.n == PROGRESS_BATCH_MAX);
    if (r == 0) r = fine_tuning_events_end(l, job);
    buf_fini(&batch.bytes);
    return r;
}

static int list_events(struct question *q, struct error *err) {
    Genloop__V1__Job *job = NULL;
    Genloop__V1__ListJobEventsReply reply = GENLOOP__V1__LIST_JOB_EVENTS_REPLY__INIT;
    struct arena arena;
    struct fine_tuning_events l = {.arena = &arena};
    arena_init(&arena, FINE_TUNING_EVENTS_ARENA);
    int r = find_job(&q->call, true, &job, err);
    if (!r) r = collect_events(q, job, &l, err);
    if (r == E_NOMEM) (void)error_set(err, r, "no memory for a job's events");
    size_t end = l.n;
    if (!r && q->token[0]) {
        while (end > 0 && strcmp(l.items[end - 1]->id, q->token) != 0) end--;
        if (!end) r = error_set_param(err, E_INVALID, "after", "job %s has no event %.64s", job->id, q->token);
        else end--; /* older than it */
    }
    if (!r) {
        size_t n = end < q->limit ? end : q->limit;
        for (size_t i = 0; i < n / 2; i++) { /* newest first */
            Genloop__V1__JobEvent *e = l.items[end - n + i];
            l.items[end - n + i] = l.items[end - 1 - i];
            l.items[end - 1 - i] = e;
        }
        reply.events = n ? l.items + (end - n) : NULL;
        reply.n_events = n;
        reply.has_more = end > n;
        r = record_pack(&reply.base, &q->out) ? error_set(err, E_NOMEM, "no memory for a job's events") : 0;
    }
    if (job) record_free(&job->base);
    arena_fini(&arena);
    return r;
}

static int change(struct question *q, struct error *err) {
    Genloop__V1__Job *job = NULL, *now = NULL;
    Genloop__V1__JobState to = JOB_STATE(UNSPECIFIED);
    char what[64];
    int r = find_job(&q->call, true, &job, err);
    if (!r) r = job_wish(job, q->wish, &to, err);
    if (!r && to == JOB_STATE(UNSPECIFIED)) r = pack(job, &q->out, err);
    else if (!r) {
        job->state = to;
        job->wish = q->wish;
        job->event_time_ms = clock_wall_ms();
        if (job->event_time_ms <= job->created_time_ms) job->event_time_ms = job->created_time_ms + 1; /* no creation */
        if (job_ended(to)) job->finished_time_ms = job->event_time_ms;
        snprintf(what, sizeof what, "%.9s.%lld", job_state_name(to), (long long)(job->event_time_ms % 1000000000));
        r = publish_job(q->call.t, job, what, err);
        if (!r) r = find_job(&q->call, false, &now, err);
        /* What was written between our look and our word may have ended it. */
        if (!r && job_ended(now->state) && now->state != to) r = error_set_param(err, E_STATE, "id", "job %s has ended meanwhile (%s)", now->id, job_state_name(now->state));
        if (!r) r = pack(now, &q->out, err);
    }
    if (job) record_free(&job->base);
    if (now) record_free(&now->base);
    return r;
}

static void question_work(void *arg) {
    struct question *q = arg;
    q->call.r = q->answer(q, &q->call.err);
    if (!q->call.r && q->out.failed) q->call.r = error_set(&q->call.err, q->out.failed, "the answer is too large");
    atomic_fetch_sub(&q->call.t->abroad, 1);
}

static void question_done(void *arg) {
    struct question *q = arg;
    struct trainer *t = q->call.t;
    int r = q->call.r;
    trainer_reply_end(t, q->call.reply, r, r ? &q->call.err : NULL, r ? SPAN("") : buf_span(&q->out));
    call_unlink(&q->call);
    if (q->create) genloop__v1__create_job_request__free_unpacked(q->create, NULL);
    if (q->fine_tuning) message_free(&q->fine_tuning->base);
    buf_fini(&q->out);
    mem_free(q);
    trainer_unref(t);
}

static int take_page(struct question *q, const Genloop__V1__PageRequest *page, struct error *err) {
    q->limit = page->limit ? page->limit : PAGE_DEFAULT;
    if (q->limit > PAGE_MAX) return error_set_param(err, E_INVALID, "limit", "a page has at most %d entries", PAGE_MAX);
    if (strlen(page->page_token) >= sizeof q->token) return error_set_param(err, E_INVALID, "page_token", "this is no page token");
    span_copy(q->token, sizeof q->token, span_str(page->page_token));
    return 0;
}

static int take_limit(struct question *q, uint32_t limit, uint32_t otherwise, uint32_t most, struct error *err) {
    q->limit = limit ? limit : otherwise;
    return q->limit > most ? error_set_param(err, E_INVALID, "limit", "'limit' must lie between 1 and %u", most) : 0;
}

/* Reads the request of a method: which answer, from what. E_INVALID without a message: it is no such message. */
static int question_read(struct question *q, struct span method, struct span request, struct error *err) {
    int r = E_INVALID;
    if (span_eq_str(method, "Training/Create")) {
        q->answer = create;
        q->create = MESSAGE_UNPACK(CreateJobRequest, create_job_request, request);
        if (q->create) r = 0;
    } else if (span_eq_str(method, "Training/Get") || span_eq_str(method, "Training/Cancel")) {
        Genloop__V1__GetJobRequest *m = MESSAGE_UNPACK(GetJobRequest, get_job_request, request);
        q->answer = span_eq_str(method, "Training/Get") ? get : change;
        q->wish = GENLOOP__V1__JOB_WISH__JOB_WISH_CANCEL;
        if (m) r = take_id(&q->call, m->id, err);
        if (m) genloop__v1__get_job_request__free_unpacked(m, NULL);
    } else if (span_eq_str(method, "Training/Change")) {
        Genloop__V1__ChangeJobRequest *m = MESSAGE_UNPACK(ChangeJobRequest, change_job_request, request);
        q->answer = change;
        if (m) q->wish = m->wish;
        if (m) r = take_id(&q->call, m->id, err);
        if (m) genloop__v1__change_job_request__free_unpacked(m, NULL);
    } else if (span_eq_str(method, "Training/List")) {
        Genloop__V1__PageRequest *m = MESSAGE_UNPACK(PageRequest, page_request, request);
        q->answer = list;
        if (m) r = take_page(q, m, err);
        if (m) genloop__v1__page_request__free_unpacked(m, NULL);
    } else if (span_eq_str(method, "Training/ListFineTuning")) {
        q->fine_tuning = MESSAGE_UNPACK(ListFineTuningRequest, list_fine_tuning_request, request);
        q->answer = list_fine_tuning;
        if (q->fine_tuning) r = take_limit(q, q->fine_tuning->limit, FINE_TUNING_PAGE_DEFAULT, FINE_TUNING_PAGE_MAX, err);
    } else if (span_eq_str(method, "Training/ListEvents")) {
        Genloop__V1__ListJobEventsRequest *m = MESSAGE_UNPACK(ListJobEventsRequest, list_job_events_request, request);
        q->answer = list_events;
        if (m) r = take_limit(q, m->limit, FINE_TUNING_PAGE_DEFAULT, PAGE_MAX, err);
        if (m && !r) r = take_id(&q->call, m->id, err);
        if (m && !r && strlen(m->after) >= sizeof q->token) r = error_set_param(err, E_INVALID, "after", "'after' is the id of no event");
        if (m) span_copy(q->token, sizeof q->token, span_str(m->after));
        if (m) message_free(&m->base);
    } else
        r = error_set(err, E_UNSUPPORTED, "the trainer has no method %.*s", SPAN_ARG(method));
    return r;
}

static void call_question(struct trainer *t, struct bus_reply *reply, struct span tenant, struct span method, const struct bus_context *context, struct span request) {
    struct question *q = mem_zalloc(sizeof *q);
    if (!q) {
        end_error(reply, E_NOMEM, "", "no memory for the question");
        return;
    }
    call_init(&q->call, CALL_QUESTION, t, reply, tenant);
    buf_init(&q->out, 2 * LIST_BYTES_MAX - 65536); /* a page and one more job; below a bus message */
    span_copy(q->actor[0], sizeof q->actor[0], context->actor_id);
    span_copy(q->actor[1], sizeof q->actor[1], context->actor_scope);
    span_copy(q->actor[2], sizeof q->actor[2], context->actor_claim);
    q->call.r = question_read(q, method, request, &q->call.err);
    if (q->call.r && !q->call.err.code) (void)error_set(&q->call.err, q->call.r, "the request is no message of %.*s", SPAN_ARG(method));
    if (!q->call.r) {
        atomic_fetch_add(&t->abroad, 1);
        int r = loop_work(t->loop, question_work, question_done, q);
        if (!r) return; /* from here on it is the worker's */
        atomic_fetch_sub(&t->abroad, 1);
        q->call.r = error_set(&q->call.err, r, "too many questions wait; try again");
    }
    question_done(q);
}

/* ---- watches ---- */

static void watch_work(void *arg) {
    struct watch *w = arg;
    w->call.r = find_job(&w->call, false, &w->job, &w->call.err);
    if (!w->call.r && w->credit > 0) w->call.r = view_progress(w->call.t, span_str(w->call.id), w->after, w->from_step, w->credit, &w->progress, &w->call.err);
    atomic_fetch_sub(&w->call.t->abroad, 1);
}

static void watch_end(struct watch *w, int code, struct span last) {
    struct trainer *t = w->call.t;
    trainer_reply_end(t, w->call.reply, code, code ? &w->call.err : NULL, last);
    call_unlink(&w->call);
    if (w->job) record_free(&w->job->base);
    buf_fini(&w->progress.bytes);
    mem_free(w);
    trainer_unref(t);
}

/* A WatchJobReply of a job (field 1) or of progress (field 2). */
static void put_reply(struct buf *out, unsigned field, struct span packed) {
    uint64_t n = packed.len;
    buf_clear(out);
    buf_append_char(out, (char)(field << 3 | 2));
    do {
        buf_append_char(out, (char)((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
        n >>= 7;
    } while (n);
    buf_append_span(out, packed);
}

static int put_job(struct watch *w, struct buf *out) {
    struct buf packed;
    buf_init(&packed, EVENT_VALUE_MAX);
    int r = record_pack(&w->job->base, &packed);
    if (!r) put_reply(out, 1, buf_span(&packed));
    buf_fini(&packed);
    return r ? r : out->failed;
}

static bool job_is_news(const struct watch *w) { return !w->told || w->state != w->job->state || w->attempts != w->job->attempts; }

/* Tells what was read, as far as there is credit. 0: the watch goes on; 1: everything is told and the job has ended, *out being the last reply or empty. */
static int tell(struct watch *w, struct buf *out) {
    bool ended = job_ended(w->job->state);
    if (job_is_news(w) && (!ended || !w->told)) {
        if (put_job(w, out)) return E_NOMEM;
        if (bus_reply_item(w->call.reply, buf_span(out))) return 0; /* no credit: again later */
        w->told = true;
        w->state = w->job->state;
        w->attempts = w->job->attempts;
    }
    int told = 0;
    for (size_t at = 0; told < w->progress.n; at = w->progress.ends[told++]) {
        put_reply(out, 2, span_sub(buf_span(&w->progress.bytes), at, w->progress.ends[told] - at));
        if (out->failed) return out->failed;
        if (bus_reply_item(w->call.reply, buf_span(out))) return 0;
        w->after = w->progress.rows[told];
    }
    if (!ended || w->credit <= 0 || told == w->credit) return 0; /* there may be more */
    buf_clear(out);
    if (job_is_news(w) && put_job(w, out)) return E_NOMEM;
    return 1;
}

static void watch_done(void *arg) {
    struct watch *w = arg;
    struct trainer *t = w->call.t;
    struct buf out;
    int code = 0;
    w->reading = false;
    if (w->cancelled) code = error_set(&w->call.err, E_CANCELLED, "the client went away");
    else if (t->draining || t->closed) code = error_set(&w->call.err, E_UNAVAILABLE, "the service leaves; ask again");
    else code = w->call.r;
    if (code) {
        watch_end(w, code, SPAN(""));
        return;
    }
    buf_init(&out, 2 * EVENT_VALUE_MAX);
    int r = tell(w, &out);
    if (w->progress.n) w->seen = 0; /* look again at once: there may be more */
    w->progress.n = 0;
    record_free(&w->job->base);
    w->job = NULL;
    if (r < 0) (void)error_set(&w->call.err, r, "no memory for a watch");
    if (r) watch_end(w, r < 0 ? r : 0, r < 0 ? SPAN("") : buf_span(&out));
    buf_fini(&out);
}

static void watch_read(struct watch *w) {
    struct trainer *t = w->call.t;
    if (w->reading) return;
    w->seen = atomic_load(&t->changes);
    w->credit = bus_reply_credit_left(w->call.reply) - !w->told; /* the first is the job itself */
    if (w->credit > PROGRESS_BATCH_MAX) w->credit = PROGRESS_BATCH_MAX;
    w->progress.n = 0;
    w->reading = true;
    atomic_fetch_add(&t->abroad, 1);
    if (loop_work(t->loop, watch_work, watch_done, w)) { /* the next tick tries again */
        w->reading = false;
        w->seen = 0;
        atomic_fetch_sub(&t->abroad, 1);
    }
}

static void call_watch(struct trainer *t, struct bus_reply *reply, struct span tenant, struct span request, void **call_arg) {
    struct error err = {0};
    struct watch *w = mem_zalloc(sizeof *w);
    Genloop__V1__WatchJobRequest *m = MESSAGE_UNPACK(WatchJobRequest, watch_job_request, request);
    int r = w ? 0 : error_set(&err, E_NOMEM, "no memory for a watch");
    if (!r && !m) r = error_set(&err, E_INVALID, "the request is no message of Training/Watch");
    if (!r) r = take_id(&w->call, m->id, &err);
    if (!r) w->from_step = m->from_step;
    if (m) genloop__v1__watch_job_request__free_unpacked(m, NULL);
    if (r) {
        mem_free(w);
        bus_reply_end(reply, r, &err, SPAN(""));
        return;
    }
    buf_init(&w->progress.bytes, WATCH_BYTES_MAX);
    call_init(&w->call, CALL_WATCH, t, reply, tenant);
    *call_arg = w;
    watch_read(w);
}

static void on_tick(void *arg) {
    struct trainer *t = arg;
    if (t->closed) return;
    uint64_t changes = atomic_load(&t->changes);
    service_lag(t->service, (uint64_t)runner_lag(t));
    for (struct call *c = t->calls->list; c; c = c->next) { /* nothing below frees a call before the loop turns */
        struct watch *w = (struct watch *)c;
        if (c->kind == CALL_WATCH && (w->seen != changes || t->draining)) watch_read(w);
    }
    if (t->draining && !t->calls->count && runner_idle(t)) service_drained(t->service);
}

int calls_count(const struct trainer *t) { return t->calls ? t->calls->count : 0; }

int calls_open(struct trainer *t, struct error *err) {
    t->calls = mem_zalloc(sizeof *t->calls);
    if (!t->calls || !(t->calls->timer = loop_timer_new(t->loop, t, on_tick))) return error_set(err, E_NOMEM, "no memory");
    atomic_store(&t->changes, 1);
    loop_timer_start(t->calls->timer, TICK_MS, TICK_MS);
    return 0;
}

void calls_close(struct trainer *t) {
    if (!t->calls) return;
    loop_timer_close(t->calls->timer);
    mem_free(t->calls);
    t->calls = NULL;
}

/* ---- dispatch ---- */

static void on_call(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg) {
    struct trainer *t = arg;
    struct span tenant = context->tenant.len ? context->tenant : span_str(t->settings->shared.tenant);
    *call_arg = NULL;
    if (t->draining) end_error(reply, E_UNAVAILABLE, "", "the service leaves; ask again");
    else if (t->calls->count >= CALLS_MAX) end_error(reply, E_FULL, "", "too many calls are open; try again");
    else if (tenant.len >= TENANT_MAX) end_error(reply, E_INVALID, "tenant", "a tenant's name has at most 127 bytes");
    else if (span_eq_str(method, "Training/Watch")) call_watch(t, reply, tenant, request, call_arg);
    else call_question(t, reply, tenant, method, context, request);
}

static void on_item(void *call_arg, struct bus_reply *reply, struct span item) {
    (void)call_arg;
    (void)item;
    bus_reply_credit(reply, 1); /* nobody asked for it */
}

static void on_item_end(void *call_arg, struct bus_reply *reply) {
    (void)call_arg;
    (void)reply;
}

static void on_credit(void *call_arg, struct bus_reply *reply) {
    struct watch *w = call_arg; /* questions have none */
    (void)reply;
    if (w) watch_read(w);
}

static void on_cancel(void *call_arg, struct bus_reply *reply, int code) {
    struct watch *w = call_arg;
    (void)reply;
    (void)code;
    if (!w) return;
    w->cancelled = true;
    if (!w->reading) watch_done(w); /* else it ends when the reading is done */
}

const struct bus_server_events TRAINER_BUS_EVENTS = {.on_call = on_call, .on_item = on_item, .on_item_end = on_item_end, .on_credit = on_credit, .on_cancel = on_cancel};
