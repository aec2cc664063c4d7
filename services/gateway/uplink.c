#include "uplink.h"

#include "base/alloc.h"
#include "exchange.h"

enum { ANSWER_MAX = 64 * 1024 }; /* a receipt */

struct uplink {
    struct exchange *x;
    const struct relay *relay;
    struct bus_call *call;
    struct buf answer;
    void *arg;
    const struct uplink_events *events;
};

static void uplink_free(struct uplink *u) {
    if (u->call) bus_call_cancel(u->call);
    buf_fini(&u->answer);
    mem_free(u);
}

void uplink_fail(struct uplink *u, const struct error *err) {
    struct exchange *x = u->x;
    uplink_free(u);
    if (err->code == E_CANCELLED) exchange_abort(x);
    else exchange_error(x, err);
}

static void on_gone(void *state) {
    struct uplink *u = state;
    struct exchange *x = u->x;
    u->events->on_over(u->arg);
    uplink_free(u);
    exchange_abort(x);
}

static void on_writable(void *arg) {
    struct uplink *u = arg;
    u->events->on_writable(u->arg);
}

static void on_item(void *arg, struct span item) {
    struct uplink *u = arg;
    buf_clear(&u->answer);
    (void)buf_append_span(&u->answer, item);
}

static void on_end(void *arg, int code, const struct error *why, bool begun) {
    struct uplink *u = arg;
    struct exchange *x = u->x;
    struct error err = {0};
    (void)begun;
    u->call = NULL;
    u->events->on_over(u->arg);
    if (code < 0) err = *why;
    if (code == E_CANCELLED) (void)error_set(&err, E_UNAVAILABLE, "%s gave up: try again", u->relay->service);
    if (code < 0) exchange_error(x, &err);
    else exchange_reply(x, u->relay->reply, buf_span(&u->answer));
    uplink_free(u);
}

static const struct bus_call_events call_events = {.on_item = on_item, .on_writable = on_writable, .on_end = on_end};

struct uplink *uplink_open(struct exchange *x, const struct relay *relay, void *arg, const struct uplink_events *events) {
    struct bus_peer *peer = service_peer(x->gateway->service, relay->service);
    struct error err = {0};
    if (!peer && exchange_wait(x)) return NULL;
    struct uplink *u = peer ? mem_zalloc(sizeof *u) : NULL;
    if (u) {
        struct bus_context context = exchange_context(x, relay->timeout_ms);
        u->x = x;
        u->relay = relay;
        u->arg = arg;
        u->events = events;
        buf_init(&u->answer, ANSWER_MAX);
        u->call = bus_call(peer, relay->method, &context, SPAN(""), true, 1, u, &call_events, &err);
        if (u->call) {
            exchange_watch(x, u, on_gone, NULL);
            return u;
        }
        uplink_free(u);
    } else if (peer) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
    } else {
        (void)error_set(&err, E_UNAVAILABLE, "%s is not there now: try again in a moment", relay->service);
    }
    exchange_error(x, &err);
    return NULL;
}

int uplink_send(struct uplink *u, struct span message) { return bus_call_item(u->call, message); }
int uplink_end(struct uplink *u) { return bus_call_item_end(u->call); }
