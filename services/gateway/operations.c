/*
 * Operations, over gRPC and at /v1/admin: the replicas as the heartbeats tell of them, and their number and their end as the supervisor of a one-machine platform makes them. Where none
 * runs beside the gateway, somebody else says how many there are: FAILED_PRECONDITION.
 */
#include "base/alloc.h"
#include "genloop/v1/bus.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "http/query.h"
#include "exchange.h"
#include "grpc.h"
#include "routes.h"
#include "supervisor.h"
#include "wire/fields.h"
#include "wire/unpack.h"

enum {
    REPLY_MAX = 1 << 20,
    REPLICAS_MAX = 256, /* the supervisor's own limit is lower, and has the last word */
};

/* The request in whichever face it came, unpacked; NULL: the exchange has ended. */
static void *request_of(struct exchange *x, const struct json *body) {
    const struct relay *relay = x->grpc ? &grpc_method_of(x)->relay : x->match.route->relay;
    ProtobufCMessage *m = NULL;
    struct error err = {0};
    struct buf packed;
    buf_init(&packed, REPLY_MAX);
    int r = x->grpc ? 0 : relay_pack(relay, x->match.n_params ? exchange_param(x, 0) : NULL, http_query(x->http), body, "", &packed, &err);
    if (r == 0 && !(m = message_unpack(relay->request, x->grpc ? grpc_message(x) : buf_span(&packed)))) r = error_set(&err, E_INTERNAL, "the message is no %s", relay->request->name);
    if (r < 0) exchange_error(x, &err);
    buf_fini(&packed);
    return m;
}

struct roll {
    struct buf members; /* packed ReplicasReply */
    const char *wanted; /* an id, whose packed Member goes to `found`; NULL: all */
    Genloop__V1__Member *found;
};

static void on_member(void *arg, struct bus_peer *peer, struct span member, bool alive) {
    struct roll *l = arg;
    Genloop__V1__Member *m = alive ? MESSAGE_UNPACK(Member, member, member) : NULL;
    (void)peer;
    if (!m) return;
    bool replica = strcmp(m->service, "inference") == 0;
    if (replica && !l->wanted) wire_put_bytes(&l->members, 1, member);
    if (replica && l->wanted && !l->found && strcmp(m->id, l->wanted) == 0) l->found = m;
    else message_free(&m->base);
}

void operations_replicas(struct exchange *x, const struct json *body) {
    Genloop__V1__ReplicasRequest *q = request_of(x, body);
    struct roll l = {0};
    struct error err = {0};
    if (!q) return;
    message_free(&q->base);
    buf_init(&l.members, 16 * REPLY_MAX);
    service_members(x->gateway->service, &l, on_member);
    if (l.members.failed) {
        (void)error_set(&err, l.members.failed == E_FULL ? E_TOO_LARGE : l.members.failed, "the answer is too large");
        exchange_error(x, &err);
    } else {
        exchange_reply(x, &genloop__v1__replicas_reply__descriptor, buf_span(&l.members));
    }
    buf_fini(&l.members);
}

struct operation {
    struct exchange *x;
    struct supervisor_call *call;
    uint32_t replicas;
    Genloop__V1__Member *member; /* of a drain: as it was before */
};

static void operation_free(struct operation *o) {
    supervisor_close(o->call);
    if (o->member) message_free(&o->member->base);
    mem_free(o);
}

static void operation_gone(void *state) {
    struct operation *o = state;
    struct exchange *x = o->x;
    operation_free(o);
    exchange_abort(x);
}

static void on_answer(void *arg, const struct error *err) {
    struct operation *o = arg;
    struct exchange *x = o->x;
    Genloop__V1__ScaleReply scaled = GENLOOP__V1__SCALE_REPLY__INIT;
    Genloop__V1__DrainReply drained = GENLOOP__V1__DRAIN_REPLY__INIT;
    scaled.replicas = o->replicas;
    drained.member = o->member;
    if (o->member) o->member->draining = true;
    if (err) exchange_error(x, err);
    else exchange_message(x, o->member ? &drained.base : &scaled.base);
    operation_free(o);
}

/* Takes member. */
static void operate(struct exchange *x, struct span request, uint32_t replicas, Genloop__V1__Member *member) {
    struct error err = {0};
    struct operation *o = mem_zalloc(sizeof *o);
    if (!o) {
        if (member) message_free(&member->base);
        exchange_refuse(x, E_NOMEM, "", "no memory for the call");
        return;
    }
    *o = (struct operation){.x = x, .replicas = replicas, .member = member};
    if (!(o->call = supervisor_ask(service_loop(x->gateway->service), x->gateway->settings->shared.home, request, o, on_answer, &err))) {
        operation_free(o);
        exchange_error(x, &err);
        return;
    }
    exchange_watch(x, o, operation_gone, NULL);
}

void operations_scale(struct exchange *x, const struct json *body) {
    Genloop__V1__ScaleRequest *q = request_of(x, body);
    char request[96];
    if (!q) return;
    bool inference = strcmp(q->service, "inference") == 0;
    uint32_t n = q->replicas;
    message_free(&q->base);
    if (!inference) {
        exchange_refuse(x, E_INVALID, "service", "'service' must be inference: the other services are one each on one machine");
    } else if (n > REPLICAS_MAX) {
        exchange_refuse(x, E_INVALID, "replicas", "'replicas' is more than a machine runs");
    } else {
        (void)snprintf(request, sizeof request, "{\"do\":\"scale\",\"inference\":%u}", n);
        operate(x, span_str(request), n, NULL);
    }
}

void operations_drain(struct exchange *x, const struct json *body) {
    Genloop__V1__DrainRequest *q = request_of(x, body);
    struct buf request;
    struct json_out w;
    if (!q) return;
    struct roll l = {.wanted = q->replica};
    buf_init(&request, 2048);
    service_members(x->gateway->service, &l, on_member);
    json_begin(&w, &request);
    json_object(&w);
    json_str(&w, "do", "drain");
    json_str(&w, "replica", q->replica);
    json_object_end(&w);
    if (!q->replica[0]) exchange_refuse(x, E_INVALID, "replica", "'replica' is required: Operations.Replicas lists them");
    else if (!l.found || request.failed) exchange_refuse(x, E_NOT_FOUND, "replica", "there is no such replica: Operations.Replicas lists them");
    else {
        operate(x, buf_span(&request), 0, l.found);
        l.found = NULL;
    }
    if (l.found) message_free(&l.found->base);
    message_free(&q->base);
    buf_fini(&request);
}
