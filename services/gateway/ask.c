#include "ask.h"

#include "base/alloc.h"

struct asked {
    struct exchange *x;
    struct ask ask;
    struct bus_call *call;
    struct buf answer;
};

static void asked_free(struct asked *a) {
    if (a->call) bus_call_cancel(a->call);
    buf_fini(&a->answer);
    mem_free(a);
}

static void on_gone(void *state) {
    struct asked *a = state;
    struct exchange *x = a->x;
    struct ask ask = a->ask;
    asked_free(a);
    if (ask.on_gone) ask.on_gone(ask.arg);
    exchange_abort(x);
}

static void on_item(void *arg, struct span item) {
    struct asked *a = arg;
    buf_clear(&a->answer);
    (void)buf_append_span(&a->answer, item);
}

static void on_end(void *arg, int code, const struct error *why, bool begun) {
    struct asked *a = arg;
    struct error err = {0};
    (void)begun;
    a->call = NULL;
    if (code < 0) err = *why;
    if (code == E_CANCELLED) code = error_set(&err, E_UNAVAILABLE, "%s gave up: try again", a->ask.service);
    if (code == 0 && a->answer.failed) code = error_set(&err, E_NOMEM, "no memory for the answer");
    a->ask.on_answer(a->x, a->ask.arg, buf_span(&a->answer), code, &err);
    asked_free(a);
}

static const struct bus_call_events CALL_EVENTS = {.on_item = on_item, .on_end = on_end};

bool ask_service(struct exchange *x, const struct ask *ask) {
    struct error err = {0};
    struct buf packed;
    struct asked *a = NULL;
    int r = 0;
    struct bus_peer *peer = service_peer(x->gateway->service, ask->service);
    if (!peer && !ask->again && exchange_wait(x)) return false;
    buf_init(&packed, BUS_MESSAGE_MAX);
    size_t size = protobuf_c_message_get_packed_size(ask->request);
    char *to = buf_reserve(&packed, size ? size : 1);
    if (!peer) r = error_set(&err, E_UNAVAILABLE, "%s is not there now: try again in a moment", ask->service);
    else if (!to || !(a = mem_zalloc(sizeof *a))) r = error_set(&err, E_NOMEM, "no memory for the request");
    else {
        struct bus_context context = exchange_context(x, 0);
        buf_commit(&packed, protobuf_c_message_pack(ask->request, (uint8_t *)to));
        a->x = x;
        a->ask = *ask;
        buf_init(&a->answer, BUS_MESSAGE_MAX);
        a->call = bus_call(peer, ask->method, &context, buf_span(&packed), false, 1, a, &CALL_EVENTS, &err);
        if (!a->call) r = err.code;
        else exchange_watch(x, a, on_gone, NULL);
    }
    buf_fini(&packed);
    if (r < 0) {
        if (a) asked_free(a);
        ask->on_answer(x, ask->arg, SPAN(""), r, &err);
    }
    return true;
}
