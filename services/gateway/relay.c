#include "relay.h"

#include "base/alloc.h"
#include "http/query.h"
#include "exchange.h"
#include "routes.h"

enum {
    REQUEST_MAX = 9 << 20,
    ANSWER_MAX = 16 << 20, /* what the bus carries */
    EVENTS_CREDIT = 16,    /* progress: a slow reader gets it later, nobody else does */
    LOOK_MS = 100,         /* how late a watch ends when the gateway drains */
};

struct relayed {
    struct exchange *x;
    const struct relay *relay;
    struct bus_call *call;
    struct loop_timer *look; /* of a watch, which has no end of its own: it must not hold up the gateway's */
    struct buf answer; /* the last reply, packed */
    bool stream;
    uint32_t owed;
};

static void relayed_free(struct relayed *d) {
    if (d->call) bus_call_cancel(d->call);
    loop_timer_close(d->look);
    buf_fini(&d->answer);
    mem_free(d);
}

static void on_gone(void *state) {
    struct relayed *d = state;
    struct exchange *x = d->x;
    relayed_free(d);
    exchange_abort(x);
}

static void on_clear(void *state) {
    struct relayed *d = state;
    if (d->call && d->owed) bus_call_credit(d->call, d->owed);
    d->owed = 0;
}

static void on_item(void *arg, struct span item) {
    struct relayed *d = arg;
    if (!d->stream) {
        buf_clear(&d->answer);
        (void)buf_append_span(&d->answer, item); /* of a stream the last one stands */
        if (d->relay->stream != RELAY_UNARY) bus_call_credit(d->call, 1);
        return;
    }
    if (exchange_item(d->x, d->relay->reply, item) < 0) {
        on_gone(d);
        return;
    }
    d->owed++;
    if (exchange_clear(d->x)) on_clear(d);
}

static void on_end(void *arg, int code, const struct error *why, bool begun) {
    struct relayed *d = arg;
    struct exchange *x = d->x;
    struct error err = {0};
    (void)begun;
    d->call = NULL;
    if (code < 0) err = *why;
    if (code == E_CANCELLED) (void)error_set(&err, E_UNAVAILABLE, "%s gave up: try again", d->relay->service);
    if (d->stream) exchange_finish(x, code < 0 ? &err : NULL);
    else if (code < 0) exchange_error(x, &err);
    else exchange_reply(x, d->relay->reply, buf_span(&d->answer)); /* no bytes at all are a message of defaults */
    relayed_free(d);
}

static void on_look(void *arg) {
    struct relayed *d = arg;
    struct exchange *x = d->x;
    struct error err;
    if (!service_draining(x->gateway->service)) return;
    (void)error_set(&err, E_UNAVAILABLE, "the gateway is draining: watch again");
    relayed_free(d);
    if (x->streaming) exchange_abort(x); /* an event of an error would be the watch's own: who is cut off comes again */
    else exchange_finish(x, &err);
}

static const struct bus_call_events call_events = {.on_item = on_item, .on_end = on_end};

void relay_send(struct exchange *x, const struct relay *relay, struct span request, bool stream, bool patient) {
    struct bus_peer *peer = service_peer(x->gateway->service, relay->service);
    struct error err = {0};
    if (!peer && exchange_wait(x)) return;
    struct relayed *d = peer ? mem_zalloc(sizeof *d) : NULL;
    if (!d) {
        if (peer) (void)error_set(&err, E_NOMEM, "no memory for the request");
        else (void)error_set(&err, E_UNAVAILABLE, "%s is not there now: try again in a moment", relay->service);
        exchange_error(x, &err);
        return;
    }
    d->x = x;
    d->relay = relay;
    d->stream = stream;
    buf_init(&d->answer, ANSWER_MAX);
    struct bus_context context = exchange_context(x, relay->timeout_ms);
    if (patient) context.deadline_ms = 0;
    d->call = bus_call(peer, relay->method, &context, request, false, EVENTS_CREDIT, d, &call_events, &err);
    if (!d->call) {
        relayed_free(d);
        exchange_error(x, &err);
        return;
    }
    exchange_watch(x, d, on_gone, on_clear);
    if (patient && relay->stream == RELAY_EVENTS && (d->look = loop_timer_new(service_loop(x->gateway->service), d, on_look))) loop_timer_start(d->look, LOOK_MS, LOOK_MS);
}

static bool accepts_events(struct span accept) {
    struct span one;
    while (span_cut(&accept, ',', &one))
        if (http_media_type_is(span_trim(one), "text/event-stream")) return true;
    return false;
}

void relay_call(struct exchange *x, const struct json *body) {
    const struct relay *relay = x->match.route->relay;
    struct error err = {0};
    struct buf packed;
    buf_init(&packed, REQUEST_MAX);
    if (relay_pack(relay, x->match.n_params ? exchange_param(x, 0) : NULL, http_query(x->http), body, x->claim, &packed, &err) < 0) {
        exchange_error(x, &err);
    } else {
        bool stream = relay->stream == RELAY_EVENTS || (relay->stream == RELAY_EVENTS_ASKED && accepts_events(http_header(x->http, "accept")));
        bool patient = relay->stream != RELAY_UNARY && !http_header(x->http, "x-genloop-timeout-ms").data; /* who watches, watches */
        if (!stream || !span_eq_str(http_method(x->http), "HEAD")) relay_send(x, relay, buf_span(&packed), stream, patient);
        else if (exchange_events_begin(x) < 0) exchange_abort(x);
        else exchange_end(x); /* the head that GET would have; for the end of its stream nobody waits */
    }
    buf_fini(&packed);
}
