/*
 * The calling half. Each server is a peer with a DEALER of its own. A peer whose connection breaks or that has been silent for BUS_PEER_TIMEOUT_MS is lost: its
 * open calls end with E_UNAVAILABLE and its socket is made anew, so that nothing that was queued for the former process reaches its successor; ZeroMQ
 * goes on trying to connect.
 *
 * on_end is only ever called from the loop: what cannot be sent is refused by bus_call itself.
 */
#include "base/alloc.h"
#include "base/metrics.h"
#include "bus/bus.h"
#include "bus/frame.h"
#include "bus/socket.h"
#include "bus/table.h"

enum {
    PEERS_MAX = 1024,
    CREDIT_MAX = 1 << 20,
};

struct bus_call {
    struct call_entry entry; /* by id; the owner is the client */
    struct bus_peer *peer;
    struct bus_call *next, **back; /* of the peer's calls, or of the client's failed ones */
    void *arg;
    const struct bus_call_events *events;
    int64_t deadline_ms, deadline_at_ms, started_ms;
    uint32_t credit_out, credit_in; /* items that may be sent; items that may come */
    bool more, blocked, begun;      /* more: a client stream that has not ended; blocked: E_FULL was said */
};

struct bus_peer {
    struct bus_peer *next;
    struct bus_client *client;
    struct bus_socket *socket; /* NULL where it could not be made again: the next beat tries */
    struct bus_call *calls;
    int n_calls;
    void *arg;
    int64_t heard_ms; /* 0: never since it was connected or lost */
    uint8_t public_key[32];
    bool disconnected; /* by the caller: goes away when nothing is under way */
    char *endpoint;
};

struct bus_client {
    struct loop *loop;
    struct bus_zmq *zmq;
    struct bus_keys keys;
    struct loop_timer *beat, *deadline;
    int64_t deadline_at_ms, beat_ms;
    void *arg;
    void (*on_heartbeat)(void *arg, struct bus_peer *peer, struct span member);
    void (*on_peer_lost)(void *arg, struct bus_peer *peer);
    struct bus_peer *peers;
    struct call_table calls;
    uint64_t last_id;
    int n_peers, n_calls;
    int depth; /* inside callbacks: peers are not freed */
    struct buf header;
};

static int send_frame(struct bus_peer *p, const struct bus_frame *f, struct span payload) {
    struct bus_client *c = p->client;
    if (!p->socket) return E_UNAVAILABLE;
    buf_clear(&c->header);
    int r = bus_frame_encode(f, &c->header);
    return r < 0 ? r : bus_socket_send(p->socket, SPAN(""), buf_span(&c->header), payload);
}

static void hello(struct bus_peer *p) {
    struct bus_frame f = {.kind = BUS_HELLO};
    (void)send_frame(p, &f, SPAN(""));
}

/* ---- calls ---- */

static void call_free(struct bus_call *call) {
    *call->back = call->next;
    if (call->next) call->next->back = call->back;
    call_remove(&call->peer->client->calls, &call->entry);
    call->peer->n_calls--;
    call->peer->client->n_calls--;
    mem_free(call);
}

static void finish(struct bus_call *call, int code, const struct error *err) {
    const struct bus_call_events *events = call->events;
    struct error said = {0};
    void *arg = call->arg;
    bool begun = call->begun;
    if (code != 0 && (!err || !err->code)) {
        (void)error_set(&said, code, "%s", error_kind(code)->name);
        err = &said;
    }
    call_free(call);
    events->on_end(arg, code, code ? err : NULL, begun);
}

static void cancel_at_server(struct bus_call *call) {
    struct bus_frame f = {.kind = BUS_CANCEL, .call_id = call->entry.id};
    (void)send_frame(call->peer, &f, SPAN(""));
}

static void arm_deadline(struct bus_client *c, int64_t at_ms) {
    if (at_ms == 0 || (c->deadline_at_ms && c->deadline_at_ms <= at_ms)) return;
    c->deadline_at_ms = at_ms;
    int64_t left = at_ms - loop_now_ms(c->loop);
    loop_timer_start(c->deadline, left > 0 ? left : 0, 0);
}

static struct bus_call *expired(struct bus_client *c, int64_t now, int64_t *next) {
    *next = 0;
    for (struct bus_peer *p = c->peers; p; p = p->next)
        for (struct bus_call *call = p->calls; call; call = call->next) {
            if (!call->deadline_at_ms) continue;
            if (call->deadline_at_ms <= now) return call;
            if (*next == 0 || call->deadline_at_ms < *next) *next = call->deadline_at_ms;
        }
    return NULL;
}

static void sweep(struct bus_client *c);

static void on_deadline(void *arg) {
    struct bus_client *c = arg;
    int64_t now = loop_now_ms(c->loop), next;
    struct bus_call *call;
    c->deadline_at_ms = 0;
    c->depth++;
    while ((call = expired(c, now, &next))) {
        struct error err;
        (void)error_set(&err, E_DEADLINE, "no answer within %lld ms", (long long)call->deadline_ms);
        cancel_at_server(call);
        finish(call, E_DEADLINE, &err);
    }
    c->depth--;
    arm_deadline(c, next);
    sweep(c);
}

static void on_item(struct bus_call *call, struct span payload) {
    if (call->credit_in == 0) {
        struct error err;
        bus_dropped("credit");
        (void)error_set(&err, E_UNKNOWN, "the server sent more than it had credit for");
        cancel_at_server(call);
        finish(call, E_UNKNOWN, &err);
        return;
    }
    call->credit_in--;
    call->begun = true;
    if (call->events->on_item) call->events->on_item(call->arg, payload);
}

static void on_end(struct bus_client *c, const struct bus_frame *f, struct span last) {
    struct error err = {0};
    int code = bus_frame_error(f, &err);
    struct bus_call *call = (struct bus_call *)call_find(&c->calls, c, f->call_id);
    uint64_t id = f->call_id;
    if (last.len) {
        call->begun = true;
        if (call->events->on_item) call->events->on_item(call->arg, last);
        call = (struct bus_call *)call_find(&c->calls, c, id); /* it may have been cancelled there */
    }
    if (call) finish(call, code, &err);
}

/* ---- peers ---- */

static void on_message(void *arg, struct span identity, struct span header, struct span payload) {
    struct bus_peer *p = arg;
    struct bus_client *c = p->client;
    struct bus_frame f;
    (void)identity;
    if (bus_frame_decode(header, &f) < 0) {
        bus_dropped("format");
        return;
    }
    p->heard_ms = loop_now_ms(c->loop);
    c->depth++;
    if (f.kind == BUS_HEARTBEAT) {
        if (!p->disconnected && c->on_heartbeat) c->on_heartbeat(c->arg, p, payload);
    } else {
        struct bus_call *call = (struct bus_call *)call_find(&c->calls, c, f.call_id);
        if (call && call->peer == p) { /* otherwise it ended here while this was under way */
            if (f.kind == BUS_ITEM) {
                on_item(call, payload);
            } else if (f.kind == BUS_END) {
                on_end(c, &f, payload);
            } else if (f.kind == BUS_CREDIT) {
                call->credit_out = f.credit < CREDIT_MAX - call->credit_out ? call->credit_out + f.credit : CREDIT_MAX;
                if (call->blocked && call->credit_out) {
                    call->blocked = false;
                    if (call->events->on_writable) call->events->on_writable(call->arg);
                }
            } else {
                bus_dropped("kind");
            }
        }
    }
    c->depth--;
    sweep(c);
}

static void lose(struct bus_peer *p, const char *why);
static void on_disconnected(void *arg) {
    struct bus_peer *p = arg;
    struct bus_client *c = p->client;
    c->depth++;
    if (p->heard_ms || p->calls) lose(p, "its connection broke");
    c->depth--;
    sweep(c);
}

static const struct bus_socket_events socket_events = {.on_message = on_message, .on_disconnected = on_disconnected};

static void open_socket(struct bus_peer *p, struct error *err) {
    struct bus_client *c = p->client;
    if (bus_socket_connect(c->zmq, c->loop, p->endpoint, &c->keys, p->public_key, p, &socket_events, &p->socket, err) < 0) p->socket = NULL;
    else hello(p);
}

/* Ends the peer's calls. The caller holds depth. */
static void end_calls(struct bus_peer *p, const char *why) {
    struct error err;
    while (p->calls) {
        (void)error_set(&err, E_UNAVAILABLE, "%s: %s", p->endpoint, why);
        finish(p->calls, E_UNAVAILABLE, &err);
    }
}

static void lose(struct bus_peer *p, const char *why) {
    bool was_alive = p->heard_ms != 0;
    bus_socket_close(p->socket);
    p->socket = NULL;
    p->heard_ms = 0;
    if (was_alive && p->client->on_peer_lost && !p->disconnected) p->client->on_peer_lost(p->client->arg, p);
    end_calls(p, why);
    if (!p->disconnected && !p->socket) open_socket(p, NULL);
}

static void peer_free(struct bus_peer *p) {
    bus_socket_close(p->socket);
    mem_free(p->endpoint);
    mem_free(p);
}

static void sweep(struct bus_client *c) {
    if (c->depth > 0) return;
    for (struct bus_peer **at = &c->peers; *at;) {
        struct bus_peer *p = *at;
        if (!p->disconnected) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        c->n_peers--;
        peer_free(p);
    }
}

static void on_beat(void *arg) {
    struct bus_client *c = arg;
    c->depth++;
    for (struct bus_peer *p = c->peers; p; p = p->next)
        if (p->socket) bus_socket_poll(p->socket); /* what waits to be read proves life */
    int64_t now = loop_now_ms(c->loop);
    int64_t slept = now - c->beat_ms - BUS_HEARTBEAT_MS;
    for (struct bus_peer *p = c->peers; p; p = p->next) {
        if (p->disconnected) continue;
        if (slept > BUS_PEER_TIMEOUT_MS / 2) { /* it was this process that slept: nobody is blamed for it */
            if (p->heard_ms) p->heard_ms = now;
            for (struct bus_call *call = p->calls; call; call = call->next) call->started_ms += slept;
        }
        if (!p->socket) {
            open_socket(p, NULL);
            continue;
        }
        bool lost = p->heard_ms && now - p->heard_ms > BUS_PEER_TIMEOUT_MS;
        for (struct bus_call *call = p->heard_ms ? NULL : p->calls; call && !lost; call = call->next) lost = now - call->started_ms > BUS_PEER_TIMEOUT_MS;
        if (lost) lose(p, "no sign of life");
        else hello(p);
    }
    c->beat_ms = now;
    c->depth--;
    sweep(c);
}

int bus_client_open(struct loop *l, const struct bus_keys *keys, void *arg, void (*on_heartbeat)(void *arg, struct bus_peer *peer, struct span member),
                    void (*on_peer_lost)(void *arg, struct bus_peer *peer), struct bus_client **out, struct error *err) {
    struct bus_client *c = mem_zalloc(sizeof *c);
    if (!c) return error_set(err, E_NOMEM, "no memory for the bus");
    *c = (struct bus_client){.loop = l, .keys = *keys, .arg = arg, .on_heartbeat = on_heartbeat, .on_peer_lost = on_peer_lost, .beat_ms = loop_now_ms(l)};
    buf_init(&c->header, BUS_FRAME_MAX * 2);
    c->beat = loop_timer_new(l, c, on_beat);
    c->deadline = loop_timer_new(l, c, on_deadline);
    if (!c->beat || !c->deadline || !(c->zmq = bus_zmq_new(err))) {
        bus_client_close(c);
        return error_set(err, E_NOMEM, "no memory for the bus");
    }
    loop_timer_start(c->beat, BUS_HEARTBEAT_MS, BUS_HEARTBEAT_MS);
    *out = c;
    return 0;
}

void bus_client_close(struct bus_client *c) {
    if (!c) return;
    c->depth++;
    for (struct bus_peer *p = c->peers; p; p = p->next) {
        p->disconnected = true;
        while (p->calls) {
            cancel_at_server(p->calls);
            finish(p->calls, E_CANCELLED, NULL);
        }
    }
    c->depth--;
    sweep(c);
    bus_zmq_free(c->zmq);
    loop_timer_close(c->beat);
    loop_timer_close(c->deadline);
    buf_fini(&c->header);
    mem_free(c);
}

struct bus_peer *bus_peer_connect(struct bus_client *c, const char *endpoint, const uint8_t public_key[32], void *peer_arg, struct error *err) {
    for (struct bus_peer *p = c->peers; p; p = p->next) {
        if (p->disconnected || strcmp(p->endpoint, endpoint) != 0) continue;
        if (memcmp(p->public_key, public_key, 32) == 0) return p;
        (void)error_set(err, E_STATE, "%s is connected with another key", endpoint);
        return NULL;
    }
    struct bus_peer *p = c->n_peers < PEERS_MAX ? mem_zalloc(sizeof *p) : NULL;
    if (!p || !(p->endpoint = mem_strdup(endpoint))) {
        (void)error_set(err, c->n_peers < PEERS_MAX ? E_NOMEM : E_FULL, "cannot connect to %s: %d instances are", endpoint, c->n_peers);
        mem_free(p);
        return NULL;
    }
    p->client = c;
    p->arg = peer_arg;
    memcpy(p->public_key, public_key, 32);
    open_socket(p, err);
    if (!p->socket) {
        peer_free(p);
        return NULL;
    }
    p->next = c->peers;
    c->peers = p;
    c->n_peers++;
    return p;
}

void *bus_peer_arg(struct bus_peer *p) { return p->arg; }
bool bus_peer_alive(const struct bus_peer *p) { return p->heard_ms && loop_now_ms(p->client->loop) - p->heard_ms <= BUS_PEER_TIMEOUT_MS; }
int bus_peer_open_calls(const struct bus_peer *p) { return p->n_calls; }

void bus_peer_disconnect(struct bus_peer *p) {
    struct bus_client *c = p->client;
    if (p->disconnected) return;
    c->depth++;
    p->disconnected = true;
    for (struct bus_call *call = p->calls; call; call = call->next) cancel_at_server(call);
    end_calls(p, "disconnected");
    c->depth--;
    sweep(c);
}

/* ---- the surface ---- */

static bool text_ok(struct span s) { return s.len <= BUS_FRAME_TEXT_MAX && span_is_utf8(s); }

struct bus_call *bus_call(struct bus_peer *p, const char *method, const struct bus_context *context, struct span request, bool more, uint32_t credit, void *arg,
                          const struct bus_call_events *events, struct error *err) {
    static const struct bus_context none;
    struct bus_client *c = p->client;
    const struct bus_context *x = context ? context : &none;
    if (request.len > BUS_MESSAGE_MAX) {
        (void)error_set(err, E_TOO_LARGE, "the request is larger than %d bytes", BUS_MESSAGE_MAX);
        return NULL;
    }
    if (!text_ok(x->request_id) || !text_ok(x->traceparent) || !text_ok(x->tenant) || !text_ok(x->session) || !text_ok(x->actor_id) || !text_ok(x->actor_scope) ||
        !text_ok(x->actor_claim)) {
        (void)error_set(err, E_INVALID, "what goes with a request is UTF-8 of at most %d bytes each", BUS_FRAME_TEXT_MAX);
        return NULL;
    }
    if (p->disconnected || !p->socket) {
        (void)error_set(err, E_UNAVAILABLE, "%s: not connected", p->endpoint);
        return NULL;
    }
    struct bus_call *call = c->n_calls < BUS_CALLS_MAX ? mem_zalloc(sizeof *call) : NULL;
    if (!call) {
        (void)error_set(err, c->n_calls < BUS_CALLS_MAX ? E_NOMEM : E_FULL, "%d calls are open: try again in a moment", c->n_calls);
        return NULL;
    }
    struct bus_frame f = {.kind = BUS_CALL, .call_id = c->last_id + 1, .method = span_str(method), .credit = credit < CREDIT_MAX ? credit : CREDIT_MAX, .deadline_ms = x->deadline_ms > 0 ? x->deadline_ms : 0,
                          .request_id = x->request_id, .traceparent = x->traceparent, .tenant = x->tenant, .session = x->session, .actor_id = x->actor_id,
                          .actor_scope = x->actor_scope, .actor_claim = x->actor_claim};
    int r = send_frame(p, &f, request);
    if (r < 0) {
        (void)error_set(err, r, "%s: the request cannot be sent", p->endpoint);
        mem_free(call);
        return NULL;
    }
    *call = (struct bus_call){.entry = {.owner = c, .id = ++c->last_id}, .peer = p, .next = p->calls, .back = &p->calls, .arg = arg, .events = events, .started_ms = loop_now_ms(c->loop),
                              .credit_out = more ? BUS_CREDIT_DEFAULT : 0, .credit_in = f.credit, .more = more};
    if (call->next) call->next->back = &call->next;
    p->calls = call;
    p->n_calls++;
    c->n_calls++;
    call_insert(&c->calls, &call->entry);
    if (f.deadline_ms > 0) {
        call->deadline_ms = f.deadline_ms;
        call->deadline_at_ms = call->started_ms + f.deadline_ms;
        arm_deadline(c, call->deadline_at_ms);
    }
    return call;
}

int bus_call_item(struct bus_call *call, struct span item) {
    if (!call->more) return E_STATE;
    if (item.len > BUS_MESSAGE_MAX) return E_TOO_LARGE;
    if (call->credit_out == 0) {
        call->blocked = true;
        return E_FULL;
    }
    struct bus_frame f = {.kind = BUS_ITEM, .call_id = call->entry.id};
    int r = send_frame(call->peer, &f, item);
    if (r == 0) call->credit_out--;
    return r;
}

int bus_call_item_end(struct bus_call *call) {
    if (!call->more) return E_STATE;
    struct bus_frame f = {.kind = BUS_END, .call_id = call->entry.id};
    int r = send_frame(call->peer, &f, SPAN(""));
    if (r == 0) call->more = false;
    return r;
}

void bus_call_credit(struct bus_call *call, uint32_t items) {
    if (items == 0) return;
    call->credit_in = items < CREDIT_MAX - call->credit_in ? call->credit_in + items : CREDIT_MAX;
    struct bus_frame f = {.kind = BUS_CREDIT, .call_id = call->entry.id, .credit = items};
    (void)send_frame(call->peer, &f, SPAN(""));
}

void bus_call_cancel(struct bus_call *call) {
    cancel_at_server(call);
    call_free(call);
}
