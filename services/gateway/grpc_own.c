/*
 * What only gRPC has: health and reflection, as their documents say, and the word of what is not built.
 */
#include "base/alloc.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc.h"
#include "grpc_reflection.h"
#include "registry.h"
#include "wire/unpack.h"

enum {
    REPLY_MAX = 1 << 20,
    WATCH_MS = 250,        /* how late a watcher of health hears of a change */
};

/* The request, unpacked; NULL: the exchange has ended. */
static void *request_of(struct exchange *x) {
    const ProtobufCMessageDescriptor *type = grpc_method_of(x)->relay.request;
    ProtobufCMessage *m = message_unpack(type, grpc_message(x));
    struct error err = {0};
    if (m) return m;
    (void)error_set(&err, E_INTERNAL, "the message is no %s", type->name);
    exchange_error(x, &err);
    return NULL;
}

/* ---- health ---- */

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus Health;
#define HEALTH(WORD) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##WORD

/* A service is served while the gateway is ready and somebody is there whom it would ask. */
static Health health_of(const struct gateway *g, struct span name) {
    static const struct {
        const char *name, *peer;
    } asked[] = {{"genloop.v1.Ingest", "ingest"}, {"genloop.v1.Training", "trainer"}, {"genloop.v1.Feedback", "feedback"}, {"genloop.v1.Models", "feedback"}, {"genloop.v1.Audit", "feedback"}, {"genloop.v1.Keys", "feedback"}, {"genloop.v1.Subjects", "feedback"}};
    if (name.len && !reflection_has_service(g->reflection, name)) return HEALTH(SERVICE_UNKNOWN);
    bool serves = service_is_ready(g->service) && !service_draining(g->service);
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        if (span_eq_str(name, asked[i].name)) serves = serves && service_peer(g->service, asked[i].peer);
    if (span_eq_str(name, "genloop.v1.Generation")) serves = serves && routing_at(g->routing, 0);
    return serves ? HEALTH(SERVING) : HEALTH(NOT_SERVING);
}

void health_check(struct exchange *x, const struct json *body) {
    (void)body;
    Grpc__Health__V1__HealthCheckRequest *q = request_of(x);
    Grpc__Health__V1__HealthCheckResponse m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    if (!q) return;
    m.status = health_of(x->gateway, span_str(q->service));
    message_free(&q->base);
    if (m.status == HEALTH(SERVICE_UNKNOWN)) exchange_refuse(x, E_NOT_FOUND, "service", "there is no such service");
    else exchange_message(x, &m.base);
}

struct watch {
    struct exchange *x;
    struct loop_timer *timer;
    Grpc__Health__V1__HealthCheckRequest *request;
    int told; /* -1: nothing yet */
};

static void watch_free(struct watch *w) {
    loop_timer_close(w->timer);
    message_free(&w->request->base);
    mem_free(w);
}

static void watch_gone(void *state) {
    struct watch *w = state;
    struct exchange *x = w->x;
    watch_free(w);
    exchange_abort(x);
}

static void watch_look(void *arg) {
    struct watch *w = arg;
    struct exchange *x = w->x;
    Grpc__Health__V1__HealthCheckResponse m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    uint8_t packed[16];
    m.status = health_of(x->gateway, span_str(w->request->service));
    if (m.status != (Health)w->told) {
        w->told = (int)m.status;
        if (exchange_item(x, m.base.descriptor, span_of(packed, grpc__health__v1__health_check_response__pack(&m, packed))) < 0) {
            watch_gone(w);
            return;
        }
    }
    if (!service_draining(x->gateway->service)) return;
    struct error err;
    (void)error_set(&err, E_UNAVAILABLE, "the gateway is draining: watch another");
    watch_free(w);
    exchange_finish(x, &err);
}

void health_watch(struct exchange *x, const struct json *body) {
    (void)body;
    Grpc__Health__V1__HealthCheckRequest *q = request_of(x);
    if (!q) return;
    struct watch *w = mem_zalloc(sizeof *w);
    if (w) {
        *w = (struct watch){.x = x, .request = q, .told = -1};
        w->timer = loop_timer_new(service_loop(x->gateway->service), w, watch_look);
    }
    if (!w || !w->timer) {
        message_free(&q->base);
        mem_free(w);
        exchange_refuse(x, E_NOMEM, "", "no memory for the watch");
        return;
    }
    exchange_watch(x, w, watch_gone, NULL);
    loop_timer_start(w->timer, WATCH_MS, WATCH_MS);
    watch_look(w);
}

/* ---- reflection ---- */

struct mirror {
    struct exchange *x;
    struct loop_timer *timer; /* a stream that is open and asks nothing must not hold up the gateway's end */
    struct buf answer;
};

static void mirror_free(struct mirror *m) {
    loop_timer_close(m->timer);
    buf_fini(&m->answer);
    mem_free(m);
}

static void mirror_end(struct mirror *m, const struct error *err) {
    struct exchange *x = m->x;
    mirror_free(m);
    if (err && err->code == E_CANCELLED) exchange_abort(x);
    else exchange_finish(x, err);
}

static void mirror_gone(void *state) {
    struct error err = {.code = E_CANCELLED};
    mirror_end(state, &err);
}

static void mirror_clear(void *state) { grpc_stream_more(((struct mirror *)state)->x); }

static void mirror_look(void *arg) {
    struct mirror *m = arg;
    struct error err;
    if (!service_draining(m->x->gateway->service)) return;
    (void)error_set(&err, E_UNAVAILABLE, "the gateway is draining: ask another");
    mirror_end(m, &err);
}

static enum grpc_taken mirror_message(void *arg, struct span message) {
    struct mirror *m = arg;
    struct error err = {0};
    if (!exchange_clear(m->x)) return GRPC_HELD; /* a client that asks and does not read */
    buf_clear(&m->answer);
    int r = reflection_answer(m->x->gateway->reflection, message, &m->answer, &err);
    if (r == 0 && exchange_item(m->x, grpc_method_of(m->x)->relay.reply, buf_span(&m->answer)) < 0) r = err.code = E_CANCELLED;
    if (r == 0) return GRPC_TAKEN;
    mirror_end(m, &err);
    return GRPC_ENDED;
}

static void mirror_over(void *arg) { mirror_end(arg, NULL); }
static void mirror_failed(void *arg, const struct error *err) { mirror_end(arg, err); }
static const struct grpc_stream mirror_stream = {.on_message = mirror_message, .on_end = mirror_over, .on_failed = mirror_failed};

void reflection_info(struct exchange *x, const struct json *body) {
    (void)body;
    struct mirror *m = mem_zalloc(sizeof *m);
    if (!m || !(m->timer = loop_timer_new(service_loop(x->gateway->service), m, mirror_look))) {
        mem_free(m);
        exchange_refuse(x, E_NOMEM, "", "no memory for the call");
        return;
    }
    m->x = x;
    buf_init(&m->answer, REPLY_MAX);
    loop_timer_start(m->timer, WATCH_MS, WATCH_MS);
    exchange_watch(x, m, mirror_gone, mirror_clear);
    grpc_stream_read(x, m, &mirror_stream);
}

/* ---- what is not built ---- */

/* As the HTTP doors: what is wrong is named first, and a model that is not there. */
void grpc_not_built(struct exchange *x, const struct json *body) {
    (void)body;
    const struct grpc_method *method = grpc_method_of(x);
    const ProtobufCMessageDescriptor *type = method->relay.request;
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(type, "model");
    const Genloop__V1__ModelVersion *version;
    struct error err = {0};
    ProtobufCMessage *m = request_of(x);
    if (!m) return;
    const char *model = *(const char *const *)(const void *)((const char *)m + field->offset);
    int r = *model ? registry_resolve(x->gateway->registry, span_str(model), 0, &version, NULL, &err)
                   : error_set_param(&err, E_INVALID, "model", "'model' is required: a model, name@version or an alias such as production");
    message_free(m);
    if (r == E_UNAVAILABLE && exchange_wait(x)) return;
    if (r == 0) (void)error_set(&err, E_UNSUPPORTED, "%s is not built yet", method->relay.method);
    exchange_error_code(x, &err, r == E_NOT_FOUND ? "model_not_found" : NULL);
}
