/*
 * The doors that encoders answer (encode_request.h): one call to a replica that holds the model; its reply in the door's shape. A call that found nobody, or whom the replica lost before it
 * answered, is tried on another: a text's vector is the same there.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "encode_request.h"
#include "exchange.h"
#include "generate_request.h"
#include "grpc.h"
#include "registry.h"
#include "routes.h"
#include "wire/unpack.h"

enum { REQUEST_BYTES_MAX = 16 << 20, ANSWER_MAX = 64 << 20, CREDIT = 1 };

struct encoding {
    struct exchange *x;
    struct encode_request request;
    struct arena arena; /* what the request borrows from */
    char model[MODEL_FULL_NAME_MAX];
    struct buf packed, reply;
    struct bus_call *call;
    void *peer;
    struct routing_tried tried;
    bool between; /* the model's name may mean a released version in a moment */
};

static void encoding_free(struct encoding *e) {
    if (e->call) {
        bus_call_cancel(e->call);
        routing_done(e->x->gateway->routing, e->peer);
    }
    arena_fini(&e->arena);
    buf_fini(&e->packed);
    buf_fini(&e->reply);
    mem_free(e);
}

static void fail(struct encoding *e, const struct error *why) {
    struct exchange *x = e->x;
    struct error err = *why;
    bool waits = err.code == E_UNAVAILABLE || (err.code == E_NOT_FOUND && e->between);
    encoding_free(e);
    if (waits && exchange_wait(x)) return;
    exchange_error_code(x, &err, err.code == E_NOT_FOUND ? "model_not_found" : err.code == E_RANGE ? "context_length_exceeded" : err.code == E_UNSUPPORTED ? "unsupported_parameter" : NULL);
}

static void on_gone(void *state) {
    struct encoding *e = state;
    struct exchange *x = e->x;
    encoding_free(e);
    exchange_abort(x);
}

static void on_item(void *arg, struct span item) {
    struct encoding *e = arg;
    buf_clear(&e->reply);
    (void)buf_append_span(&e->reply, item);
}

/* Ends the exchange, or says why it cannot. */
static int answer(struct encoding *e, const Genloop__V1__EncodeReply *reply, struct error *err) {
    struct exchange *x = e->x;
    struct encode_answer a = {e->model, x->request_id, clock_wall_ms() / 1000};
    x->tokens_used = reply->usage ? reply->usage->prompt_tokens : 0;
    span_copy(x->model, sizeof x->model, span_str(e->model));
    span_copy(x->replica, sizeof x->replica, span_str(reply->replica));
    if (x->grpc) {
        ProtobufCMessage *m = encode_answer_message(&e->arena, &e->request, reply, &a);
        if (!m) return error_set(err, E_UNKNOWN, "a replica answered with what does not fit the request");
        exchange_message(x, m);
        return 0;
    }
    struct buf out;
    buf_init(&out, ANSWER_MAX);
    int r = encode_answer_write(&out, &e->request, reply, &a, err);
    if (r == 0 && out.failed) r = error_set(err, out.failed == E_FULL ? E_TOO_LARGE : out.failed, "the answer is too large: ask for fewer inputs at once");
    if (r == 0) {
        (void)http_header_add(x->http, "x-genloop-model", span_str(e->model));
        (void)http_header_add(x->http, "x-genloop-replica", span_str(reply->replica));
        exchange_json(x, 200, &out);
    }
    buf_fini(&out);
    return r;
}

static int dispatch(struct encoding *e, struct error *err);

static void on_end(void *arg, int code, const struct error *why, bool begun) {
    struct encoding *e = arg;
    struct exchange *x = e->x;
    struct error err = {0};
    e->call = NULL;
    routing_done(x->gateway->routing, e->peer);
    if (code < 0) {
        err = *why;
        if (routing_may_retry(code, begun, &e->tried) && dispatch(e, &err) == 0) return;
        /* As in generate.c: a replica follows the registry on its own. */
        if (code == E_CANCELLED || code == E_NOT_FOUND) (void)error_set(&err, E_UNAVAILABLE, "%s is not held by a replica just now: try again in a moment", e->model);
        fail(e, &err);
        return;
    }
    Genloop__V1__EncodeReply *reply = MESSAGE_UNPACK(EncodeReply, encode_reply, buf_span(&e->reply));
    if (!reply) code = error_set(&err, E_UNKNOWN, "a replica answered with what is no EncodeReply");
    else code = answer(e, reply, &err);
    if (reply) genloop__v1__encode_reply__free_unpacked(reply, NULL);
    if (code < 0) fail(e, &err);
    else encoding_free(e);
}

static const struct bus_call_events call_events = {.on_item = on_item, .on_end = on_end};

static int dispatch(struct encoding *e, struct error *err) {
    struct gateway *g = e->x->gateway;
    struct bus_context context = exchange_context(e->x, 0);
    while (true) {
        struct replica *replica;
        if (routing_pick(g->routing, span_str(e->model), 0, NULL, &e->tried, loop_now_ms(service_loop(g->service)), &replica, NULL) != ROUTING_FOUND)
            return error_set(err, E_UNAVAILABLE, "no replica holds %s now: try again in a moment", e->model);
        e->peer = replica_peer(replica);
        e->call = bus_call(e->peer, "Generation/Encode", &context, buf_span(&e->packed), false, CREDIT, e, &call_events, err);
        routing_sent(replica, &e->tried);
        if (e->call) return 0;
        routing_done(g->routing, e->peer);
        if (err->code != E_UNAVAILABLE) return err->code;
    }
}

/* The request in the bytes that the bus carries, for the version that its model means. */
static int pack(struct encoding *e, struct error *err) {
    const Genloop__V1__ModelVersion *version;
    struct exchange *x = e->x;
    Genloop__V1__EncodeRequest *m = &e->request.message;
    struct span stays = x->session[0] ? span_str(x->session) : span_str(x->request_id);
    int r = registry_resolve(x->gateway->registry, span_str(m->model), span_hash(stays), &version, NULL, err);
    e->between = r == E_NOT_FOUND && registry_between(x->gateway->registry, span_str(m->model));
    if (r < 0) return r;
    (void)snprintf(e->model, sizeof e->model, "%s@%u", version->name, version->version);
    m->model = e->model;
    size_t size = genloop__v1__encode_request__get_packed_size(m);
    char *at = buf_reserve(&e->packed, size ? size : 1);
    if (!at) return error_set(err, E_TOO_LARGE, "the request is too large");
    buf_commit(&e->packed, genloop__v1__encode_request__pack(m, (uint8_t *)at));
    return 0;
}

static void encode(struct exchange *x, const struct json *body, enum encode_door door) {
    struct error err = {0};
    struct encoding *e = mem_zalloc(sizeof *e);
    if (!e) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
        exchange_error(x, &err);
        return;
    }
    e->x = x;
    arena_init(&e->arena, REQUEST_ARENA_MAX);
    buf_init(&e->packed, REQUEST_BYTES_MAX);
    buf_init(&e->reply, REQUEST_BYTES_MAX);
    int r = encode_request_read(&e->request, door, &e->arena, body, x->grpc ? grpc_message(x) : SPAN(""), &err);
    if (r == 0) r = pack(e, &err);
    if (r == 0) r = dispatch(e, &err);
    if (r < 0) fail(e, &err);
    else exchange_watch(x, e, on_gone, NULL);
}

void embeddings_create(struct exchange *x, const struct json *body) { encode(x, body, ENCODE_EMBEDDINGS); }
void rerank_create(struct exchange *x, const struct json *body) { encode(x, body, ENCODE_RERANK); }
void score_create(struct exchange *x, const struct json *body) { encode(x, body, ENCODE_SCORE); }
void classify_create(struct exchange *x, const struct json *body) { encode(x, body, ENCODE_CLASSIFY); }
void moderations_create(struct exchange *x, const struct json *body) { encode(x, body, ENCODE_MODERATIONS); }
void embed_call(struct exchange *x, const struct json *body) { encode(x, body, ENCODE_CALL_EMBED); }
void rerank_call(struct exchange *x, const struct json *body) { encode(x, body, ENCODE_CALL_RERANK); }
