#include "http/local.h"

#include "base/alloc.h"
#include "http/wire.h"

struct http_local {
    struct loop *loop;
    struct http_head head; /* until there is an exchange */
    struct buf body, answer;
    struct http_exchange *x;
    void *server_arg, *arg;
    void (*on_request)(void *arg, struct http_exchange *x);
    void (*on_answer)(void *arg, const struct http_local_answer *answer);
    bool posted;    /* start or finish is on its way, and ends with us */
    bool cancelled, told; /* told: the body was handed out */
};

static void local_free(struct http_local *q) {
    http_head_fini(&q->head);
    buf_fini(&q->body);
    buf_fini(&q->answer);
    mem_free(q);
}

/* ---- The wire --------------------------------------------------------------------------------------------------------------- */

static int wire_begin(struct http_exchange *x, int64_t length) {
    (void)x;
    (void)length;
    return 0;
}

static int wire_write(struct http_exchange *x, struct span data) {
    struct http_local *q = x->connection;
    int r = buf_append_span(&q->answer, data);
    return r == E_FULL ? E_TOO_LARGE : r;
}

static void finish(void *arg) {
    struct http_local *q = arg;
    struct http_local_answer answer = {.status = q->x->aborted ? 0 : q->x->status, .body = buf_span(&q->answer)};
    http_exchange_detach(q->x);
    if (!q->cancelled) q->on_answer(q->arg, &answer);
    local_free(q);
}

static void wire_end(struct http_exchange *x) {
    struct http_local *q = x->connection;
    q->posted = true;
    if (loop_post(q->loop, finish, q)) finish(q); /* without memory for the detour: now */
}

static void wire_pull(struct http_exchange *x) {
    struct http_local *q = x->connection;
    if (q->told || !http_exchange_wants_body(x)) return;
    q->told = true;
    if (q->body.len) http_exchange_body(x, buf_span(&q->body));
    if (x->connection) http_exchange_body_end(x, 0);
}

static const char *wire_peer(const struct http_exchange *x) {
    (void)x;
    return "local";
}
static bool yes(const struct http_exchange *x) {
    (void)x;
    return true;
}
static bool no(const struct http_exchange *x) {
    (void)x;
    return false;
}

static const struct http_wire local_wire = {wire_begin, wire_write, wire_end, wire_pull, wire_peer, yes, no, HTTP_1_1};

/* ---- The request ------------------------------------------------------------------------------------------------------------ */

static void start(void *arg) {
    struct http_local *q = arg;
    q->posted = false;
    if (!q->cancelled) q->x = http_exchange_new(q->loop, &local_wire, q, &q->head);
    if (q->x) {
        q->on_request(q->server_arg, q->x);
        return;
    }
    if (!q->cancelled) q->on_answer(q->arg, &(struct http_local_answer){0});
    local_free(q);
}

/* Everything that the head points to, in one text. */
static int make_head(struct http_local *q, const struct http_local_request *r) {
    size_t size = r->method.len + r->path.len + 1;
    int status;
    const char *reason;
    struct http_head *h = &q->head;
    for (size_t i = 0; i < r->n_fields; i++) size += r->fields[i].name.len + r->fields[i].value.len;
    char *at = h->text = mem_alloc(size);
    h->fields = mem_calloc(r->n_fields ? r->n_fields : 1, sizeof *h->fields);
    if (!h->text || !h->fields) return E_NOMEM;
#define TAKE(s) ((struct span){memcpy(at, (s).data, (s).len), (s).len}), at += (s).len
    struct span taken;
    taken = TAKE(r->method);
    h->method = taken;
    taken = TAKE(r->path);
    h->target = taken;
    for (size_t i = 0; i < r->n_fields; i++) {
        taken = TAKE(r->fields[i].name);
        h->fields[i].name = taken;
        taken = TAKE(r->fields[i].value);
        h->fields[i].value = taken;
    }
#undef TAKE
    h->field_count = r->n_fields;
    h->authority = SPAN("localhost");
    h->has_body = r->body.len > 0;
    return http_head_check(h, &status, &reason);
}

struct http_local *http_local_send(struct loop *l, const struct http_local_request *r, void *server_arg, void (*on_request)(void *arg, struct http_exchange *x), void *arg,
                                   void (*on_answer)(void *arg, const struct http_local_answer *answer)) {
    struct http_local *q = mem_zalloc(sizeof *q);
    if (!q) return NULL;
    q->loop = l;
    q->server_arg = server_arg;
    q->on_request = on_request;
    q->arg = arg;
    q->on_answer = on_answer;
    buf_init(&q->body, r->body.len ? r->body.len : 1);
    buf_init(&q->answer, HTTP_LOCAL_ANSWER_MAX);
    int code = make_head(q, r);
    if (code == 0) code = buf_append_span(&q->body, r->body);
    if (code == 0) {
        q->head.length = r->body.len;
        q->head.chunked = false;
        code = loop_post(l, start, q);
    }
    if (code) {
        local_free(q);
        return NULL;
    }
    q->posted = true;
    return q;
}

void http_local_cancel(struct http_local *q) {
    if (!q || q->cancelled) return;
    q->cancelled = true;
    if (q->posted) return;
    http_exchange_detach(q->x); /* the handler hears of it, and ends an exchange that has no connection */
    local_free(q);
}
