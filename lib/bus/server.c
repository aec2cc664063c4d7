/*
 * The answering half. A client is known by the identity that the ROUTER gave its connection, from its HELLO until it has been silent for
 * BUS_PEER_TIMEOUT_MS or the ROUTER says that it is gone. A call belongs to its client while somebody waits for it; when nobody does (cancel, deadline,
 * lost client) it becomes an orphan: on_cancel has been called, what is still said on it goes nowhere, and the handler ends it when it has cleaned up, be it after
 * the server was closed.
 */
#include "base/alloc.h"
#include "base/metrics.h"
#include "bus/bus.h"
#include "bus/frame.h"
#include "bus/socket.h"
#include "bus/table.h"

enum {
    CLIENTS_MAX = 1024,           /* gateways and services of one platform, with room for those that reconnect */
    CREDIT_MAX = 1 << 20,         /* a grant beyond this is taken as this: the sum must not wrap */
    DEADLINE_MAX_MS = 7 * 24 * 3600 * 1000, /* longer than any training job is watched at a stretch */
};

struct bus_reply {
    struct call_entry entry; /* of server->calls while it is no orphan */
    struct bus_server *server; /* NULL: closed; then it is an orphan */
    struct client *client;     /* NULL: an orphan */
    struct bus_reply *next, **back; /* of the client's calls, or of the server's orphans */
    void *call_arg;
    int64_t deadline_at_ms;  /* 0: none */
    uint32_t credit_out, credit_in;
    bool items_ended;
};

struct client {
    struct client *next;
    struct bus_reply *calls;
    int64_t heard_ms;
    uint8_t identity_len;
    char identity[BUS_IDENTITY_MAX];
    bool greeted, gone;
};

struct bus_server {
    struct loop *loop;
    struct bus_zmq *zmq;
    struct bus_socket *socket;
    struct loop_timer *beat, *deadline;
    int64_t deadline_at_ms, beat_ms; /* when the deadline timer fires; when the last beat was */
    void *arg;
    const struct bus_server_events *events;
    struct client *clients;
    struct bus_reply *orphans;
    struct call_table calls;
    int n_clients, n_calls;
    struct buf load, header;
};

static struct span identity_of(const struct client *c) { return span_of(c->identity, c->identity_len); }

/* E_UNAVAILABLE: the client is gone. The next beat takes it away with its calls, since here a callback may be under way. */
static int send_frame(struct bus_server *s, struct client *c, const struct bus_frame *f, struct span payload) {
    if (c->gone) return E_UNAVAILABLE;
    buf_clear(&s->header);
    int r = bus_frame_encode(f, &s->header);
    if (r == 0) r = bus_socket_send(s->socket, identity_of(c), buf_span(&s->header), payload);
    return r;
}

static void end_call(struct bus_server *s, struct client *c, uint64_t id, int code, const struct error *err, struct span last) {
    struct bus_frame f = {.kind = BUS_END, .call_id = id};
    bus_frame_set_status(&f, code, err);
    (void)send_frame(s, c, &f, last);
}

/* ---- calls ---- */

static void list_in(struct bus_reply **list, struct bus_reply *r) {
    r->next = *list;
    r->back = list;
    if (r->next) r->next->back = &r->next;
    *list = r;
}

static void list_out(struct bus_reply *r) {
    *r->back = r->next;
    if (r->next) r->next->back = r->back;
}

static void reply_free(struct bus_reply *r) {
    if (r->server) {
        list_out(r);
        if (r->client) call_remove(&r->server->calls, &r->entry);
        r->server->n_calls--;
    }
    mem_free(r);
}

/* Nobody waits any more. r may be gone afterwards. */
static void orphan(struct bus_reply *r, int code) {
    struct bus_server *s = r->server;
    list_out(r);
    call_remove(&s->calls, &r->entry);
    r->client = NULL;
    r->deadline_at_ms = 0;
    list_in(&s->orphans, r);
    if (s->events->on_cancel) s->events->on_cancel(r->call_arg, r, code);
}

static void arm_deadline(struct bus_server *s, int64_t at_ms) {
    if (at_ms == 0 || (s->deadline_at_ms && s->deadline_at_ms <= at_ms)) return;
    s->deadline_at_ms = at_ms;
    int64_t left = at_ms - loop_now_ms(s->loop);
    loop_timer_start(s->deadline, left > 0 ? left : 0, 0);
}

static void on_deadline(void *arg) {
    struct bus_server *s = arg;
    int64_t now = loop_now_ms(s->loop), next = 0;
    s->deadline_at_ms = 0;
    for (struct client *c = s->clients; c; c = c->next) {
        bool again = true;
        while (again) { /* from the start after each callback: it may have ended others */
            again = false;
            for (struct bus_reply *r = c->calls; r; r = r->next)
                if (r->deadline_at_ms && r->deadline_at_ms <= now) {
                    end_call(s, c, r->entry.id, E_DEADLINE, NULL, SPAN(""));
                    orphan(r, E_DEADLINE);
                    again = true;
                    break;
                }
        }
        for (struct bus_reply *r = c->calls; r; r = r->next)
            if (r->deadline_at_ms && (next == 0 || r->deadline_at_ms < next)) next = r->deadline_at_ms;
    }
    arm_deadline(s, next);
}

static void begin_call(struct bus_server *s, struct client *c, const struct bus_frame *f, struct span payload) {
    struct error err = {0};
    if (call_find(&s->calls, c, f->call_id)) {
        bus_dropped("duplicate");
        return;
    }
    struct bus_reply *r = s->n_calls < BUS_CALLS_MAX ? mem_zalloc(sizeof *r) : NULL;
    if (!r) {
        (void)error_set(&err, E_FULL, "this instance has %d calls open: try again in a moment", s->n_calls);
        end_call(s, c, f->call_id, E_FULL, &err, SPAN(""));
        return;
    }
    int64_t left = f->deadline_ms < DEADLINE_MAX_MS ? f->deadline_ms : DEADLINE_MAX_MS;
    *r = (struct bus_reply){.entry = {.owner = c, .id = f->call_id}, .server = s, .client = c, .credit_in = BUS_CREDIT_DEFAULT};
    r->credit_out = f->credit < CREDIT_MAX ? f->credit : CREDIT_MAX;
    if (left > 0) r->deadline_at_ms = loop_now_ms(s->loop) + left;
    s->n_calls++;
    call_insert(&s->calls, &r->entry);
    list_in(&c->calls, r);
    arm_deadline(s, r->deadline_at_ms);
    struct bus_context context = {.request_id = f->request_id, .traceparent = f->traceparent, .tenant = f->tenant, .session = f->session, .actor_id = f->actor_id,
                                  .actor_scope = f->actor_scope, .actor_claim = f->actor_claim, .deadline_ms = left};
    void *call_arg = NULL;
    s->events->on_call(s->arg, r, f->method, &context, payload, &call_arg);
    if ((r = (struct bus_reply *)call_find(&s->calls, c, f->call_id))) r->call_arg = call_arg; /* it may have ended at once */
}

static void on_call_frame(struct bus_server *s, struct client *c, const struct bus_frame *f, struct span payload) {
    struct bus_reply *r = (struct bus_reply *)call_find(&s->calls, c, f->call_id);
    if (!r) return; /* ended here while this was under way */
    switch (f->kind) {
    case BUS_ITEM:
        if (r->credit_in == 0 || r->items_ended) {
            struct error err;
            bus_dropped("credit");
            (void)error_set(&err, E_INVALID, "an item beyond the credit of this stream");
            end_call(s, c, f->call_id, E_INVALID, &err, SPAN(""));
            orphan(r, E_CANCELLED);
            return;
        }
        r->credit_in--;
        if (s->events->on_item) s->events->on_item(r->call_arg, r, payload);
        return;
    case BUS_END:
        if (r->items_ended) return;
        r->items_ended = true;
        if (s->events->on_item_end) s->events->on_item_end(r->call_arg, r);
        return;
    case BUS_CREDIT: {
        bool none = r->credit_out == 0;
        r->credit_out = f->credit < CREDIT_MAX - r->credit_out ? r->credit_out + f->credit : CREDIT_MAX;
        if (none && r->credit_out && s->events->on_credit) s->events->on_credit(r->call_arg, r);
        return;
    }
    case BUS_CANCEL: orphan(r, E_CANCELLED); return;
    default: return;
    }
}

/* ---- clients ---- */

static struct client *client_of(struct bus_server *s, struct span identity) {
    for (struct client *c = s->clients; c; c = c->next)
        if (span_eq(identity_of(c), identity)) return c;
    return NULL;
}

static struct client *client_new(struct bus_server *s, struct span identity) {
    struct client *c = s->n_clients < CLIENTS_MAX ? mem_zalloc(sizeof *c) : NULL;
    if (!c) return NULL;
    memcpy(c->identity, identity.data, identity.len);
    c->identity_len = (uint8_t)identity.len;
    c->next = s->clients;
    s->clients = c;
    s->n_clients++;
    return c;
}

static void on_unreachable(void *arg, struct span identity) {
    struct client *c = client_of(arg, identity);
    if (c) c->gone = true;
}

static void heartbeat(struct bus_server *s, struct client *c) {
    struct bus_frame f = {.kind = BUS_HEARTBEAT};
    (void)send_frame(s, c, &f, buf_span(&s->load));
}

static void on_message(void *arg, struct span identity, struct span header, struct span payload) {
    struct bus_server *s = arg;
    struct bus_frame f;
    if (identity.len > BUS_IDENTITY_MAX || bus_frame_decode(header, &f) < 0) {
        bus_dropped("format");
        return;
    }
    struct client *c = client_of(s, identity);
    if (!c && !(c = client_new(s, identity))) {
        bus_dropped("clients");
        return;
    }
    c->heard_ms = loop_now_ms(s->loop);
    switch (f.kind) {
    case BUS_HELLO:
        if (!c->greeted) heartbeat(s, c);
        c->greeted = true;
        return;
    case BUS_CALL: begin_call(s, c, &f, payload); return;
    case BUS_ITEM: case BUS_END: case BUS_CREDIT: case BUS_CANCEL: on_call_frame(s, c, &f, payload); return;
    case BUS_HEARTBEAT: break;
    }
    bus_dropped("kind");
}

static void on_beat(void *arg) {
    struct bus_server *s = arg;
    bus_socket_poll(s->socket); /* what waits to be read proves life too */
    int64_t now = loop_now_ms(s->loop);
    if (now - s->beat_ms > BUS_PEER_TIMEOUT_MS / 2) /* it was this process that slept: nobody is blamed for it */
        for (struct client *c = s->clients; c; c = c->next) c->heard_ms = now;
    s->beat_ms = now;
    for (struct client *c = s->clients; c; c = c->next)
        if (c->greeted && !c->gone) heartbeat(s, c);
    for (struct client **at = &s->clients; *at;) {
        struct client *c = *at;
        if (!c->gone && now - c->heard_ms <= BUS_PEER_TIMEOUT_MS) {
            at = &c->next;
            continue;
        }
        while (c->calls) orphan(c->calls, E_UNAVAILABLE);
        *at = c->next; /* callbacks add no clients: only on_message does */
        s->n_clients--;
        mem_free(c);
    }
}

/* ---- the surface ---- */

int bus_server_open(struct loop *l, const char *endpoint, const struct bus_keys *keys, void *arg, const struct bus_server_events *events, struct bus_server **out,
                    struct error *err) {
    static const struct bus_socket_events socket_events = {.on_message = on_message, .on_unreachable = on_unreachable};
    int r = 0;
    struct bus_server *s = mem_zalloc(sizeof *s);
    if (!s) return error_set(err, E_NOMEM, "no memory for the bus");
    s->loop = l;
    s->arg = arg;
    s->events = events;
    buf_init(&s->load, BUS_MESSAGE_MAX);
    buf_init(&s->header, BUS_FRAME_MAX * 2);
    s->beat = loop_timer_new(l, s, on_beat);
    s->deadline = loop_timer_new(l, s, on_deadline);
    if (!s->beat || !s->deadline) r = error_set(err, E_NOMEM, "no memory for the bus");
    else if (!(s->zmq = bus_zmq_new(err))) r = E_NOMEM;
    else r = bus_socket_bind(s->zmq, l, endpoint, keys, s, &socket_events, &s->socket, err);
    if (r < 0) {
        bus_server_close(s);
        return r;
    }
    s->beat_ms = loop_now_ms(l);
    loop_timer_start(s->beat, BUS_HEARTBEAT_MS, BUS_HEARTBEAT_MS);
    *out = s;
    return 0;
}

const char *bus_server_endpoint(const struct bus_server *s) { return bus_socket_endpoint(s->socket); }

void bus_server_load(struct bus_server *s, struct span member, bool now) {
    buf_clear(&s->load);
    if (buf_append_span(&s->load, member) < 0) buf_clear(&s->load);
    if (!now) return;
    for (struct client *c = s->clients; c; c = c->next)
        if (c->greeted && !c->gone) heartbeat(s, c);
}

int bus_server_open_calls(const struct bus_server *s) { return s->n_calls; }

void bus_server_close(struct bus_server *s) {
    if (!s) return;
    while (s->clients) {
        struct client *c = s->clients;
        while (c->calls) {
            end_call(s, c, c->calls->entry.id, E_UNAVAILABLE, NULL, SPAN(""));
            orphan(c->calls, E_UNAVAILABLE);
        }
        s->clients = c->next;
        mem_free(c);
    }
    while (s->orphans) { /* their handlers may still be at work, and end them later */
        struct bus_reply *r = s->orphans;
        list_out(r);
        r->server = NULL;
    }
    bus_socket_close(s->socket);
    bus_zmq_free(s->zmq);
    loop_timer_close(s->beat);
    loop_timer_close(s->deadline);
    buf_fini(&s->load);
    buf_fini(&s->header);
    mem_free(s);
}

int bus_reply_item(struct bus_reply *r, struct span item) {
    if (!r->client) return E_CANCELLED;
    if (item.len > BUS_MESSAGE_MAX) return E_TOO_LARGE;
    if (r->credit_out == 0) return E_FULL;
    struct bus_frame f = {.kind = BUS_ITEM, .call_id = r->entry.id};
    int result = send_frame(r->server, r->client, &f, item);
    if (result == 0) r->credit_out--;
    return result == E_UNAVAILABLE ? E_CANCELLED : result;
}

void bus_reply_set_arg(struct bus_reply *r, void *call_arg) { r->call_arg = call_arg; }

int bus_reply_credit_left(const struct bus_reply *r) { return r->client ? (int)r->credit_out : 0; }

void bus_reply_credit(struct bus_reply *r, uint32_t items) {
    if (!r->client || items == 0) return;
    r->credit_in = items < CREDIT_MAX - r->credit_in ? r->credit_in + items : CREDIT_MAX;
    struct bus_frame f = {.kind = BUS_CREDIT, .call_id = r->entry.id, .credit = items};
    (void)send_frame(r->server, r->client, &f, SPAN(""));
}

void bus_reply_end(struct bus_reply *r, int code, const struct error *err, struct span last) {
    struct error too_large;
    if (r->client) {
        if (last.len > BUS_MESSAGE_MAX) {
            code = error_set(&too_large, E_TOO_LARGE, "the reply is larger than %d bytes", BUS_MESSAGE_MAX);
            err = &too_large;
            last = SPAN("");
        }
        end_call(r->server, r->client, r->entry.id, code, err, last);
    }
    reply_free(r);
}
