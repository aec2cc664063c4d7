#include "batch_lane.h"

#include "base/alloc.h"
#include "base/log.h"
#include "base/metrics.h"
#include "exchange.h"
#include "genloop/v1/bus.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "http/local.h"
#include "wire/unpack.h"

enum {
    TICK_MS = 100,
    TAKE_IDLE_MS = 1000,       /* between two questions for lines where there were none */
    PUT_LINES = 32, PUT_MS = 500, /* answers go back together */
    KEPT_MS = 10000,           /* ingest hears so often of what is held: a sixth of its patience */
    PAUSE_FIRST_MS = 500, PAUSE_MAX_MS = 30000,
    ATTEMPTS_MAX = 30,         /* about a quarter of an hour: then what was answered is the answer */
    CALL_MS = 30000,           /* ingest writes to a disk */
    ANSWER_MAX = 8 << 20,      /* of one line: half of what a bus message may have */
    TAKE_LINES_MAX = 256,
};

struct line {
    struct batch_lane *lane;
    struct line *next;
    Genloop__V1__BatchLine *line; /* owned */
    struct caller caller;
    struct http_local *asked;     /* NULL: waiting, or answered */
    int64_t not_before_ms, pause_ms, answered_ms;
    int attempts;
    uint32_t status;              /* 0: not answered */
    char request_id[REQUEST_ID_MAX];
    struct buf body;
    bool put;                     /* on its way back */
};

struct batch_lane {
    struct gateway *gateway;
    struct loop_timer *timer;
    struct line *lines, **last;
    size_t n, asked, answered;
    struct bus_call *take, *give;
    int64_t take_at_ms, kept_at_ms;
    bool stopped;
    struct buf reply;
    struct metric *retried;
};

static void tick(void *arg);
static int64_t now_ms(const struct batch_lane *l) { return loop_now_ms(service_loop(l->gateway->service)); }

static void line_free(struct line *q) {
    http_local_cancel(q->asked);
    message_free(&q->line->base);
    buf_fini(&q->body);
    mem_free(q);
}

/* ---- ingest: one of its instances for all gateways, so that no line is dealt twice ---- */

struct choosing {
    char id[80];
    struct bus_peer *peer;
};

static void consider(void *arg, struct bus_peer *peer, struct span member, bool alive) {
    struct choosing *c = arg;
    Genloop__V1__Member *m = alive && peer ? MESSAGE_UNPACK(Member, member, member) : NULL;
    if (m && strcmp(m->service, "ingest") == 0 && !m->draining && (!c->peer || strcmp(m->id, c->id) < 0)) {
        c->peer = peer;
        (void)snprintf(c->id, sizeof c->id, "%s", m->id);
    }
    if (m) message_free(&m->base);
}

static struct bus_call *call(struct batch_lane *l, const char *method, const ProtobufCMessage *request, const struct bus_call_events *events) {
    struct choosing c = {.peer = NULL};
    struct bus_call *made = NULL;
    struct error err = {0};
    struct buf packed;
    service_members(l->gateway->service, &c, consider);
    if (!c.peer) return NULL;
    size_t size = protobuf_c_message_get_packed_size(request);
    buf_init(&packed, BUS_MESSAGE_MAX);
    char *to = buf_reserve(&packed, size ? size : 1);
    struct bus_context context = {.actor_id = span_str(service_instance(l->gateway->service)), .actor_scope = SPAN("service"), .deadline_ms = CALL_MS};
    if (to) {
        buf_commit(&packed, protobuf_c_message_pack(request, (uint8_t *)to));
        buf_clear(&l->reply);
        made = bus_call(c.peer, method, &context, buf_span(&packed), false, 1, l, events, &err);
    }
    buf_fini(&packed);
    return made;
}

static void on_reply(void *arg, struct span item) {
    struct batch_lane *l = arg;
    buf_clear(&l->reply);
    (void)buf_append_span(&l->reply, item);
}

/* ---- asking ---- */

static void again_later(struct line *q) {
    q->pause_ms = q->pause_ms ? (q->pause_ms * 2 < PAUSE_MAX_MS ? q->pause_ms * 2 : PAUSE_MAX_MS) : PAUSE_FIRST_MS;
    q->not_before_ms = now_ms(q->lane) + q->pause_ms;
    metric_add(q->lane->retried, 1);
}

static void take_answer(struct line *q, int status, struct span body) {
    struct batch_lane *l = q->lane;
    static const char large[] = "{\"error\":{\"message\":\"the answer is larger than a batch takes\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"answer_too_large\"}}";
    bool fits = body.len <= ANSWER_MAX && span_find_char(body, '\n') < 0;
    q->status = fits ? (uint32_t)status : 400;
    q->answered_ms = now_ms(l);
    if (buf_append_span(&q->body, fits ? body : span_of(large, sizeof large - 1)) < 0) { /* without memory: as if it had not been asked */
        buf_clear(&q->body);
        q->status = 0;
        again_later(q);
        return;
    }
    l->answered++;
}

static void on_answer(void *arg, const struct http_local_answer *a) {
    struct line *q = arg;
    struct batch_lane *l = q->lane;
    q->asked = NULL;
    l->asked--;
    bool passing = a->status == 0 || a->status == 429 || a->status == 499 || a->status == 502 || a->status == 503; /* it says more of the moment than of the request */
    if (passing && ++q->attempts < ATTEMPTS_MAX) again_later(q);
    else if (a->status == 0 || a->body.len == 0) take_answer(q, 500, SPAN("{\"error\":{\"message\":\"the request was not answered\",\"type\":\"server_error\",\"param\":null,\"code\":null}}"));
    else take_answer(q, a->status, a->body);
    if (!l->stopped) loop_timer_start(l->timer, 0, 0);
}

static void on_request(void *arg, struct http_exchange *http) {
    struct line *q = arg;
    exchange_request_of(q->lane->gateway, http, &q->caller);
}

static void ask(struct line *q) {
    char path[64];
    (void)snprintf(q->request_id, sizeof q->request_id, "%.64s.%llu", q->line->batch_id, (unsigned long long)q->line->number);
    (void)snprintf(path, sizeof path, "%s", q->line->endpoint);
    const struct http_field fields[] = {{SPAN("content-type"), SPAN("application/json")}, {SPAN("x-request-id"), span_str(q->request_id)}};
    struct http_local_request r = {.method = SPAN("POST"), .path = span_str(path), .fields = fields, .n_fields = sizeof fields / sizeof *fields, .body = span_of(q->line->body.data, q->line->body.len)};
    q->asked = http_local_send(service_loop(q->lane->gateway->service), &r, q, on_request, q, on_answer);
    if (q->asked) q->lane->asked++;
    else again_later(q);
}

static size_t lines_at_once(const struct batch_lane *l) {
    size_t replicas = 0;
    while (routing_at(l->gateway->routing, replicas)) replicas++;
    return replicas * (l->gateway->generating ? 1 : BATCH_LINES_PER_REPLICA);
}

/* ---- taking ---- */

static void add(struct batch_lane *l, Genloop__V1__BatchLine *line) {
    struct line *q = line->actor ? mem_zalloc(sizeof *q) : NULL;
    if (!q) { /* dealt again, when its time is over */
        message_free(&line->base);
        return;
    }
    q->lane = l;
    q->line = line;
    buf_init(&q->body, ANSWER_MAX);
    span_copy(q->caller.id, sizeof q->caller.id, span_str(line->actor->id));
    span_copy(q->caller.tenant, sizeof q->caller.tenant, span_str(line->tenant));
    q->caller.scope = SCOPE_CLIENT;
    *l->last = q;
    l->last = &q->next;
    l->n++;
}

static void on_taken(void *arg, int code, const struct error *why, bool begun) {
    struct batch_lane *l = arg;
    (void)begun;
    l->take = NULL;
    Genloop__V1__TakeBatchLinesReply *m = code == 0 ? MESSAGE_UNPACK(TakeBatchLinesReply, take_batch_lines_reply, buf_span(&l->reply)) : NULL;
    if (code < 0 && code != E_CANCELLED) log_debug("gateway.batch", "no lines from ingest: %s", why->message);
    l->take_at_ms = now_ms(l) + (m && m->n_lines ? 0 : TAKE_IDLE_MS);
    for (size_t i = 0; m && i < m->n_lines; i++) {
        add(l, m->lines[i]);
        m->lines[i] = NULL;
    }
    if (m) {
        m->n_lines = 0; /* they are taken over; the list itself is freed with it */
        message_free(&m->base);
    }
    tick(l);
}

static void take(struct batch_lane *l) {
    static const struct bus_call_events events = {.on_item = on_reply, .on_end = on_taken};
    Genloop__V1__TakeBatchLinesRequest q = GENLOOP__V1__TAKE_BATCH_LINES_REQUEST__INIT;
    size_t wanted = 2 * lines_at_once(l), open = l->n - l->answered;
    if (l->take || l->give || now_ms(l) < l->take_at_ms || open >= wanted || l->n >= BATCH_LINES_HELD_MAX) return;
    q.worker = (char *)(uintptr_t)service_instance(l->gateway->service);
    q.limit = (uint32_t)(wanted - open < TAKE_LINES_MAX ? wanted - open : TAKE_LINES_MAX);
    if (!(l->take = call(l, "Ingest/TakeBatchLines", &q.base, &events))) l->take_at_ms = now_ms(l) + TAKE_IDLE_MS;
}

/* ---- giving back ---- */

static void remove_if(struct batch_lane *l, bool (*goes)(const struct line *q, const void *arg), const void *arg) {
    struct line **at = &l->lines;
    while (*at) {
        struct line *q = *at;
        if (!goes(q, arg)) {
            at = &q->next;
            continue;
        }
        *at = q->next;
        l->n--;
        if (q->asked) l->asked--;
        if (q->status) l->answered--;
        line_free(q);
    }
    l->last = at;
}

static bool was_put(const struct line *q, const void *arg) {
    (void)arg;
    return q->put;
}

static bool is_gone(const struct line *q, const void *arg) {
    const Genloop__V1__PutBatchAnswersReply *m = arg;
    for (size_t i = 0; i < m->n_gone; i++)
        if (q->line->number == m->gone[i]->number && strcmp(q->line->batch_id, m->gone[i]->batch_id) == 0) return true;
    return false;
}

static bool any(const struct line *q, const void *arg) {
    (void)q;
    (void)arg;
    return true;
}

static void on_given(void *arg, int code, const struct error *why, bool begun) {
    struct batch_lane *l = arg;
    (void)begun;
    l->give = NULL;
    Genloop__V1__PutBatchAnswersReply *m = code == 0 ? MESSAGE_UNPACK(PutBatchAnswersReply, put_batch_answers_reply, buf_span(&l->reply)) : NULL;
    if (m) {
        remove_if(l, was_put, NULL);
        remove_if(l, is_gone, m);
        message_free(&m->base);
        l->kept_at_ms = now_ms(l) + KEPT_MS;
    } else {
        if (code < 0 && code != E_CANCELLED) log_warn("gateway.batch", "answers of a batch wait for ingest: %s", why->message);
        for (struct line *q = l->lines; q; q = q->next) q->put = false;
        l->kept_at_ms = now_ms(l) + TAKE_IDLE_MS;
    }
    if (!l->stopped) tick(l);
}

static void give(struct batch_lane *l) {
    static const struct bus_call_events events = {.on_item = on_reply, .on_end = on_given};
    Genloop__V1__PutBatchAnswersRequest q = GENLOOP__V1__PUT_BATCH_ANSWERS_REQUEST__INIT;
    int64_t now = now_ms(l);
    bool old = false;
    if (l->give || l->take || !l->n) return;
    for (struct line *p = l->lines; p && !old; p = p->next) old = p->status && now - p->answered_ms >= PUT_MS;
    if (l->answered < PUT_LINES && !old && now < l->kept_at_ms) return;
    Genloop__V1__BatchLineAnswer *room = mem_calloc(l->n, sizeof *room), **answers = mem_calloc(l->n, sizeof *answers), **kept = mem_calloc(l->n, sizeof *kept);
    size_t bytes = 0, i = 0;
    if (room && answers && kept) {
        q.worker = (char *)(uintptr_t)service_instance(l->gateway->service);
        q.answers = answers;
        q.kept = kept;
        for (struct line *p = l->lines; p; p = p->next, i++) {
            genloop__v1__batch_line_answer__init(&room[i]);
            room[i].batch_id = p->line->batch_id;
            room[i].number = p->line->number;
            p->put = p->status && q.n_answers < TAKE_LINES_MAX && bytes + p->body.len <= ANSWER_MAX;
            if (!p->put) {
                kept[q.n_kept++] = &room[i];
                continue;
            }
            room[i].status = p->status;
            room[i].request_id = p->request_id;
            room[i].body = (ProtobufCBinaryData){p->body.len, (uint8_t *)p->body.data};
            answers[q.n_answers++] = &room[i];
            bytes += p->body.len;
        }
        if (!(l->give = call(l, "Ingest/PutBatchAnswers", &q.base, &events)))
            for (struct line *p = l->lines; p; p = p->next) p->put = false;
    }
    mem_free(room);
    mem_free(answers);
    mem_free(kept);
}

/* ---- the surface ---- */

static void tick(void *arg) {
    struct batch_lane *l = arg;
    int64_t now = now_ms(l);
    if (l->stopped || service_draining(l->gateway->service)) return;
    size_t most = lines_at_once(l);
    for (struct line *q = l->lines; q && l->asked < most; q = q->next)
        if (!q->asked && !q->status && q->not_before_ms <= now) ask(q);
    give(l);
    take(l);
    loop_timer_start(l->timer, l->n || l->take ? TICK_MS : TAKE_IDLE_MS, 0);
}

int batch_lane_open(struct gateway *g, struct batch_lane **out, struct error *err) {
    struct batch_lane *l = mem_zalloc(sizeof *l);
    if (!l || !(l->timer = loop_timer_new(service_loop(g->service), l, tick))) {
        mem_free(l);
        return error_set(err, E_NOMEM, "no memory for batches");
    }
    l->gateway = g;
    l->last = &l->lines;
    buf_init(&l->reply, BUS_MESSAGE_MAX);
    l->retried = metric_counter("genloop_gateway_batch_retries_total", "", "Lines of batches that were put off because the platform had no room for them, or an answer failed on the way.");
    loop_timer_start(l->timer, TAKE_IDLE_MS, 0);
    *out = l;
    return 0;
}

void batch_lane_stop(struct batch_lane *l) {
    if (!l || l->stopped) return;
    l->stopped = true;
    loop_timer_stop(l->timer);
    if (l->take) bus_call_cancel(l->take);
    if (l->give) bus_call_cancel(l->give);
    l->take = l->give = NULL;
    remove_if(l, any, NULL);
}

void batch_lane_close(struct batch_lane *l) {
    if (!l) return;
    batch_lane_stop(l);
    loop_timer_close(l->timer);
    buf_fini(&l->reply);
    mem_free(l);
}
