#include "grpc.h"

#include "base/alloc.h"
#include "base/log.h"
#include "uplink.h"
#include "wire/texts.h"

enum {
    LATE_MS = 10,          /* the service's own word of the deadline, or the bus's, comes first where it can */
    SMALL_MAX = 2048,      /* prefix and message go out as one piece */
    TRAILER_MAX = 12288,
};

struct grpc {
    struct exchange *x;
    struct grpc_reader reader;
    struct buf changed, message; /* message: of a unary call, kept, as its handler may be called again */
    bool has_message, whole;     /* whole: and nothing came behind it */
    /* of a client's stream */
    const struct grpc_stream *stream;
    void *arg;
    struct span current;
    bool has_current, paused, ended;
    /* the end */
    struct loop_timer *deadline;
    bool timeout_given, late;
    struct error status;
    char reason[64];
};

/* ---- for exchange.c ---- */

int grpc_asked(const struct http_exchange *http, struct error *err) {
    int r = span_eq_str(http_method(http), "POST") ? grpc_content_type(http_header(http, "content-type")) : 0;
    if (r < 0) return error_set_param(err, E_UNSUPPORTED, "content-type", "gRPC is spoken here with protobuf: Content-Type: application/grpc");
    if (r > 0 && http_protocol(http) != HTTP_2) return error_set(err, E_UNSUPPORTED, "gRPC needs HTTP/2: by prior knowledge, or agreed on as h2 under TLS");
    return r;
}

struct grpc *grpc_new(struct exchange *x) {
    struct grpc *g = mem_zalloc(sizeof *g);
    if (!g) return NULL;
    g->x = x;
    grpc_reader_init(&g->reader, grpc_encoding_of(http_header(x->http, "grpc-encoding")));
    buf_init(&g->changed, 3 * (size_t)GRPC_MESSAGE_MAX); /* each U+0000 three bytes: the bus has the last word */
    buf_init(&g->message, 3 * (size_t)GRPC_MESSAGE_MAX);
    return g;
}

void grpc_free(struct grpc *g) {
    if (!g) return;
    loop_timer_close(g->deadline);
    grpc_reader_fini(&g->reader);
    buf_fini(&g->changed);
    buf_fini(&g->message);
    mem_free(g);
}

static void on_deadline(void *arg) {
    struct exchange *x = arg;
    if (x->ending) {
        exchange_abort(x);
        return;
    }
    x->grpc->late = true;
    if (x->on_gone) x->on_gone(x->state); /* which aborts, and that says DEADLINE_EXCEEDED */
    else exchange_abort(x);
}

int grpc_read_headers(struct exchange *x, struct error *err) {
    struct grpc *g = x->grpc;
    struct span text = http_header(x->http, "grpc-timeout");
    int64_t ms;
    if (!text.data) return 0;
    if (grpc_timeout_parse(text, &ms) < 0) return error_set_param(err, E_INVALID, "grpc-timeout", "grpc-timeout must be one to eight digits and one of H, M, S, m, u, n");
    if (ms < x->timeout_ms) x->timeout_ms = ms;
    if (!(g->deadline = loop_timer_new(service_loop(x->gateway->service), x, on_deadline))) return error_set(err, E_NOMEM, "no memory for the call");
    loop_timer_start(g->deadline, ms + LATE_MS, 0);
    g->timeout_given = true;
    return 0;
}

const struct grpc_method *grpc_method_of(const struct exchange *x) { return (const struct grpc_method *)(const void *)x->match.route; } /* the row's first member */

int grpc_match(struct exchange *x, struct error *err) {
    struct span path = http_path(x->http);
    for (size_t i = 0; i < GRPC_METHODS_COUNT; i++)
        if (span_eq_str(path, GRPC_METHODS[i].route.pattern)) {
            x->match.route = &GRPC_METHODS[i].route;
            return 0;
        }
    return error_set(err, E_UNSUPPORTED, "there is no method %.*s", (int)(path.len < 128 ? path.len : 128), path.data);
}

void grpc_status(struct exchange *x, const struct error *err, const char *reason) {
    struct grpc *g = x->grpc;
    g->status = err ? *err : (struct error){0};
    span_copy(g->reason, sizeof g->reason, span_str(reason ? reason : ""));
}

int grpc_http_status(const struct exchange *x) { return error_kind(x->grpc->status.code)->http_status; }

bool grpc_late(struct exchange *x) {
    bool late = x->grpc->late;
    x->grpc->late = false;
    return late;
}

int grpc_begin(struct exchange *x) {
    if (http_begun(x->http)) return 0;
    (void)http_header_add(x->http, "grpc-accept-encoding", SPAN("identity,gzip"));
    return http_stream_begin(x->http, 200, "application/grpc");
}

int grpc_frame(struct exchange *x, struct span message) {
    struct buf head;
    buf_init(&head, SMALL_MAX + GRPC_PREFIX);
    int r = grpc_prefix_write(&head, message.len);
    bool small = message.len <= SMALL_MAX;
    if (r == 0 && small) r = buf_append_span(&head, message);
    if (r == 0) r = exchange_write(x, buf_span(&head));
    if (r == 0 && !small) r = exchange_write(x, message);
    buf_fini(&head);
    return r;
}

void grpc_trailers(struct exchange *x) {
    const struct grpc *g = x->grpc;
    char code[16];
    struct buf text;
    buf_init(&text, TRAILER_MAX);
    (void)snprintf(code, sizeof code, "%d", error_kind(g->status.code)->grpc_status);
    (void)http_trailer_add(x->http, "grpc-status", span_str(code));
    if (g->status.code == 0) return;
    if (grpc_message_write(&text, span_str(g->status.message)) == 0) (void)http_trailer_add(x->http, "grpc-message", buf_span(&text));
    buf_clear(&text);
    if (grpc_details_write(&text, &g->status, g->reason, x->request_id) == 0) (void)http_trailer_add(x->http, "grpc-status-details-bin", buf_span(&text));
    buf_fini(&text);
}

/* ---- messages in ---- */

/* 1: *message is there; 0: not yet. */
static int next_message(struct exchange *x, struct span *message, struct error *err) {
    struct grpc *g = x->grpc;
    const ProtobufCMessageDescriptor *type = grpc_method_of(x)->relay.request;
    struct span raw;
    int r = grpc_reader_next(&g->reader, &raw, err);
    if (r <= 0) return r;
    r = message_texts(type, raw, &g->changed, message, err);
    if (r == E_INVALID && !err->param[0]) r = error_set(err, E_INTERNAL, "the message is no %s", type->name); /* so gRPC's table of statuses has it */
    return r < 0 ? r : 1;
}

static int body_failed(int r, struct error *err) {
    return error_set(err, r, "%s", r == E_DEADLINE ? "the request did not come in time" : r == E_NOMEM ? "no memory for the request: try again" : "the request cannot be read");
}

/* With the piece that has come. */
static int hold(struct exchange *x, struct span piece, struct error *err) {
    const struct grpc *g = x->grpc;
    return exchange_hold(x, g->reader.in.len + g->reader.plain.len + g->message.len + piece.len, err);
}

static void on_unary_chunk(void *arg, struct span piece, bool last, int r) {
    struct exchange *x = arg;
    struct grpc *g = x->grpc;
    struct error err = {0};
    struct span message;
    if (r == E_CANCELLED) {
        exchange_abort(x);
        return;
    }
    if (r == 0) r = hold(x, piece, &err);
    if (r == 0) r = grpc_reader_feed(&g->reader, piece);
    if (r < 0 && !err.code) r = body_failed(r, &err);
    while (r == 0 && (r = next_message(x, &message, &err)) == 1) {
        r = g->has_message ? error_set(&err, E_UNSUPPORTED, "this method takes one message, and there came another") : buf_append_span(&g->message, message);
        if (r < 0 && !err.code) (void)body_failed(E_NOMEM, &err);
        g->has_message = true;
    }
    if (r == 0 && last) {
        r = grpc_reader_end(&g->reader, &err);
        if (r == 0 && !g->has_message) r = error_set(&err, E_UNSUPPORTED, "this method takes one message, and none came");
    }
    if (r < 0) {
        exchange_error(x, &err);
    } else if (last) {
        g->whole = true;
        grpc_method_of(x)->handle(x, NULL);
    }
}

void grpc_handle(struct exchange *x, const struct json *body) {
    const struct grpc_method *m = grpc_method_of(x);
    if (m->client_stream || x->grpc->whole) m->handle(x, body);
    else http_body_read(x->http, x, on_unary_chunk);
}

struct span grpc_message(const struct exchange *x) { return buf_span(&x->grpc->message); }
bool grpc_timeout_given(const struct exchange *x) { return x->grpc->timeout_given; }

/* Gives the handler what there is. The exchange may be gone afterwards. */
static void pump(struct exchange *x) {
    struct grpc *g = x->grpc;
    struct error err = {0};
    while (true) {
        int r = g->has_current ? 1 : next_message(x, &g->current, &err);
        if (r < 0) {
            g->stream->on_failed(g->arg, &err);
            return;
        }
        if (r == 0) break;
        g->has_current = true;
        switch (g->stream->on_message(g->arg, g->current)) {
        case GRPC_TAKEN: g->has_current = false; break;
        case GRPC_HELD:
            if (!g->paused) http_body_pause(x->http);
            g->paused = true;
            return;
        case GRPC_ENDED: return;
        }
    }
    if (g->ended) {
        if (grpc_reader_end(&g->reader, &err) < 0) g->stream->on_failed(g->arg, &err);
        else g->stream->on_end(g->arg);
    } else if (g->paused) {
        g->paused = false;
        http_body_resume(x->http);
    }
}

static void on_stream_chunk(void *arg, struct span piece, bool last, int r) {
    struct exchange *x = arg;
    struct grpc *g = x->grpc;
    struct error err = {0};
    if (r == 0) r = hold(x, piece, &err);
    if (r == 0) r = grpc_reader_feed(&g->reader, piece);
    if (r < 0) {
        if (!err.code) (void)body_failed(r, &err);
        g->stream->on_failed(g->arg, &err);
        return;
    }
    g->ended = last;
    pump(x);
}

void grpc_stream_read(struct exchange *x, void *arg, const struct grpc_stream *stream) {
    x->grpc->stream = stream;
    x->grpc->arg = arg;
    http_body_patient(x->http); /* its pace is the client's */
    http_body_read(x->http, x, on_stream_chunk);
}

void grpc_stream_more(struct exchange *x) { pump(x); }

/* ---- what is passed on ---- */

void grpc_relay(struct exchange *x, const struct json *body) {
    (void)body;
    const struct grpc_method *m = grpc_method_of(x);
    relay_send(x, &m->relay, grpc_message(x), m->server_stream, m->server_stream && !grpc_timeout_given(x)); /* who watches, watches */
}

struct up {
    struct exchange *x;
    struct uplink *uplink;
};

static void up_writable(void *arg) { grpc_stream_more(((struct up *)arg)->x); }
static void up_over(void *arg) { mem_free(arg); }
static const struct uplink_events up_events = {.on_writable = up_writable, .on_over = up_over};

static void up_failed(void *arg, const struct error *err) {
    struct up *u = arg;
    uplink_fail(u->uplink, err);
    mem_free(u);
}

static void up_refused(struct up *u, int r) {
    struct error err = {0};
    if (r == E_TOO_LARGE) (void)error_set(&err, r, "the message is too large");
    else (void)error_set(&err, E_UNAVAILABLE, "the service does not take the stream: try again");
    up_failed(u, &err);
}

static enum grpc_taken up_message(void *arg, struct span message) {
    struct up *u = arg;
    int r = uplink_send(u->uplink, message);
    if (r == 0) return GRPC_TAKEN;
    if (r == E_FULL) return GRPC_HELD;
    up_refused(u, r);
    return GRPC_ENDED;
}

static void up_end(void *arg) {
    struct up *u = arg;
    int r = uplink_end(u->uplink);
    if (r < 0) up_refused(u, r);
}

static const struct grpc_stream up_stream = {.on_message = up_message, .on_end = up_end, .on_failed = up_failed};

void grpc_uplink(struct exchange *x, const struct json *body) {
    (void)body;
    struct error err = {0};
    struct up *u = mem_zalloc(sizeof *u);
    if (!u) {
        (void)error_set(&err, E_NOMEM, "no memory for the call");
        exchange_error(x, &err);
        return;
    }
    u->x = x;
    if ((u->uplink = uplink_open(x, &grpc_method_of(x)->relay, u, &up_events))) grpc_stream_read(x, u, &up_stream);
    else mem_free(u);
}
