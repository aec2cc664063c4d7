#include "relay.h"

#include "base/alloc.h"
#include "http/query.h"
#include "exchange.h"
#include "routes.h"
#include "wire/protojson.h"

enum {
    REQUEST_MAX = 9 << 20,
    ANSWER_MAX = 64 << 20,  /* 16 MiB of protobuf, in JSON */
    EVENTS_CREDIT = 16,     /* progress: a slow reader gets it later, nobody else does */
};

struct relayed {
    struct exchange *x;
    const struct relay *relay;
    struct bus_call *call;
    struct buf answer; /* the last reply's bytes, packed; or of an event the JSON */
    bool events, begun;
    uint32_t owed;
};

static void relayed_free(struct relayed *d) {
    if (d->call) bus_call_cancel(d->call);
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

static int to_json(struct relayed *d, struct span packed, struct buf *out, struct error *err) {
    struct json_out w;
    json_begin(&w, out);
    if (protojson_write_packed(&w, d->relay->reply, packed, true, err) < 0) return error_set(err, E_UNKNOWN, "%s answered with what is no %s", d->relay->service, d->relay->reply->short_name);
    return 0;
}

static void on_item(void *arg, struct span item) {
    struct relayed *d = arg;
    struct error err = {0};
    int r = 0;
    buf_clear(&d->answer);
    if (!d->events) {
        (void)buf_append_span(&d->answer, item); /* of a stream the last one stands */
        if (d->relay->stream != RELAY_UNARY) bus_call_credit(d->call, 1);
        return;
    }
    if (!d->begun) r = exchange_events_begin(d->x);
    d->begun = true;
    if (r == 0) r = to_json(d, item, &d->answer, &err);
    if (r == 0) r = exchange_event(d->x, buf_span(&d->answer));
    if (r < 0) {
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
    struct buf body;
    (void)begun;
    d->call = NULL;
    buf_init(&body, ANSWER_MAX);
    if (code < 0) err = *why;
    if (code == E_CANCELLED) (void)error_set(&err, E_UNAVAILABLE, "%s gave up: try again", d->relay->service);
    if (code == 0 && !d->events) code = to_json(d, buf_span(&d->answer), &body, &err); /* no bytes at all are a message of defaults */
    if (code < 0 && d->begun) (void)exchange_error_body(&body, &err, NULL);
    bool events = d->events, stream_begun = d->begun;
    relayed_free(d);
    if (stream_begun) {
        if (code < 0) (void)exchange_event(x, buf_span(&body));
        exchange_events_end(x);
    } else if (code < 0) {
        exchange_error(x, &err);
    } else if (events) {
        if (exchange_events_begin(x) < 0) exchange_abort(x);
        else exchange_events_end(x);
    } else {
        exchange_json(x, 200, &body);
    }
    buf_fini(&body);
}

static const struct bus_call_events call_events = {.on_item = on_item, .on_end = on_end};

static bool accepts_events(struct span accept) {
    struct span one;
    while (span_cut(&accept, ',', &one))
        if (http_media_type_is(span_trim(one), "text/event-stream")) return true;
    return false;
}

void relay_call(struct exchange *x, const struct json *body) {
    const struct relay *relay = x->match.route->relay;
    struct service *s = x->gateway->service;
    struct error err = {0};
    struct buf packed;
    buf_init(&packed, REQUEST_MAX);
    struct relayed *d = NULL;
    int r = relay_pack(relay, x->match.n_params ? exchange_param(x, 0) : NULL, http_query(x->http), body, x->claim, &packed, &err);
    if (r < 0) goto out;
    struct bus_peer *peer = service_peer(s, relay->service);
    if (!peer && exchange_wait(x)) {
        buf_fini(&packed);
        return;
    }
    if (!peer) {
        r = error_set(&err, E_UNAVAILABLE, "%s is not there now: try again in a moment", relay->service);
        goto out;
    }
    if (!(d = mem_zalloc(sizeof *d))) {
        r = error_set(&err, E_NOMEM, "no memory for the request");
        goto out;
    }
    d->x = x;
    d->relay = relay;
    d->events = relay->stream == RELAY_EVENTS || (relay->stream == RELAY_EVENTS_ASKED && accepts_events(http_header(x->http, "accept")));
    buf_init(&d->answer, ANSWER_MAX);
    struct bus_context context = exchange_context(x, relay->timeout_ms);
    if (relay->stream != RELAY_UNARY && !http_header(x->http, "x-genloop-timeout-ms").data) context.deadline_ms = 0; /* who watches, watches */
    d->call = bus_call(peer, relay->method, &context, buf_span(&packed), false, EVENTS_CREDIT, d, &call_events, &err);
    if (!d->call) {
        r = err.code;
        relayed_free(d);
        goto out;
    }
    exchange_watch(x, d, on_gone, on_clear);
out:
    buf_fini(&packed);
    if (r < 0) exchange_error(x, &err);
}
