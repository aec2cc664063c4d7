/* POST /v1/tokenize and /v1/detokenize: one call to a replica that holds the model; its reply as JSON. A call that found nobody is tried on another replica. */
#include "base/alloc.h"
#include "exchange.h"
#include "registry.h"
#include "routes.h"
#include "tokenize_request.h"
#include "wire/unpack.h"

enum { REQUEST_BYTES_MAX = 16 << 20, ANSWER_MAX = 64 << 20, CREDIT = 1 };

struct tokenization {
    struct exchange *x;
    bool back, strings; /* back: from ids to text */
    char model[MODEL_FULL_NAME_MAX];
    struct buf packed, reply;
    struct bus_call *call;
    void *peer;
    struct routing_tried tried;
    bool between; /* the model's name may mean a released version in a moment */
};

static void let_go(struct tokenization *t) {
    if (!t->call) return;
    bus_call_cancel(t->call);
    t->call = NULL;
    routing_done(t->x->gateway->routing, t->peer);
}

static void tokenization_free(struct tokenization *t) {
    let_go(t);
    buf_fini(&t->packed);
    buf_fini(&t->reply);
    mem_free(t);
}

static void fail(struct tokenization *t, const struct error *why) {
    struct exchange *x = t->x;
    struct error err = *why;
    bool waits = err.code == E_UNAVAILABLE || (err.code == E_NOT_FOUND && t->between);
    tokenization_free(t);
    if (waits && exchange_wait(x)) return;
    exchange_error_code(x, &err, err.code == E_NOT_FOUND ? "model_not_found" : err.code == E_UNSUPPORTED ? "unsupported_parameter" : NULL);
}

static void on_gone(void *state) {
    struct tokenization *t = state;
    struct exchange *x = t->x;
    tokenization_free(t);
    exchange_abort(x);
}

static void on_item(void *arg, struct span item) {
    struct tokenization *t = arg;
    buf_clear(&t->reply);
    (void)buf_append_span(&t->reply, item);
}

static int write_answer(struct tokenization *t, struct buf *out, struct error *err) {
    if (t->back) {
        Genloop__V1__DetokenizeReply *reply = MESSAGE_UNPACK(DetokenizeReply, detokenize_reply, buf_span(&t->reply));
        if (!reply) return error_set(err, E_UNKNOWN, "a replica answered with what is no DetokenizeReply");
        detokenize_answer(out, reply);
        (void)http_header_add(t->x->http, "x-genloop-replica", span_str(reply->replica));
        genloop__v1__detokenize_reply__free_unpacked(reply, NULL);
    } else {
        Genloop__V1__TokenizeReply *reply = MESSAGE_UNPACK(TokenizeReply, tokenize_reply, buf_span(&t->reply));
        if (!reply) return error_set(err, E_UNKNOWN, "a replica answered with what is no TokenizeReply");
        tokenize_answer(out, reply, t->strings);
        (void)http_header_add(t->x->http, "x-genloop-replica", span_str(reply->replica));
        genloop__v1__tokenize_reply__free_unpacked(reply, NULL);
    }
    (void)http_header_add(t->x->http, "x-genloop-model", span_str(t->model));
    return 0;
}

static int dispatch(struct tokenization *t, struct error *err);

static void on_end(void *arg, int code, const struct error *why, bool begun) {
    struct tokenization *t = arg;
    struct exchange *x = t->x;
    struct error err = {0};
    struct buf out;
    t->call = NULL;
    routing_done(x->gateway->routing, t->peer);
    if (code < 0) {
        err = *why;
        if (routing_may_retry(code, begun, &t->tried) && dispatch(t, &err) == 0) return;
        /* As in generate.c: a replica follows the registry on its own. */
        if (code == E_CANCELLED || code == E_NOT_FOUND) (void)error_set(&err, E_UNAVAILABLE, "%s is not held by a replica just now: try again in a moment", t->model);
        fail(t, &err);
        return;
    }
    buf_init(&out, ANSWER_MAX);
    if (write_answer(t, &out, &err) < 0) {
        fail(t, &err);
    } else {
        tokenization_free(t);
        exchange_json(x, 200, &out);
    }
    buf_fini(&out);
}

static const struct bus_call_events call_events = {.on_item = on_item, .on_end = on_end};

static int dispatch(struct tokenization *t, struct error *err) {
    struct gateway *g = t->x->gateway;
    struct bus_context context = exchange_context(t->x, 0);
    while (true) {
        struct replica *replica;
        if (routing_pick(g->routing, span_str(t->model), 0, NULL, &t->tried, loop_now_ms(service_loop(g->service)), &replica, NULL) != ROUTING_FOUND) return error_set(err, E_UNAVAILABLE, "no replica holds %s now: try again in a moment", t->model);
        t->peer = replica_peer(replica);
        t->call = bus_call(t->peer, t->back ? "Generation/Detokenize" : "Generation/Tokenize", &context, buf_span(&t->packed), false, CREDIT, t, &call_events, err);
        routing_sent(replica, &t->tried);
        if (t->call) return 0;
        routing_done(g->routing, t->peer);
        if (err->code != E_UNAVAILABLE) return err->code;
    }
}

/* The request in the bytes that the bus carries, for the version that its model means. */
static int pack(struct tokenization *t, ProtobufCMessage *m, char **model, struct error *err) {
    const Genloop__V1__ModelVersion *version;
    struct exchange *x = t->x;
    struct span stays = x->session[0] ? span_str(x->session) : span_str(x->request_id);
    int r = registry_resolve(x->gateway->registry, span_str(*model), span_hash(stays), &version, NULL, err);
    t->between = r == E_NOT_FOUND && registry_between(x->gateway->registry, span_str(*model));
    if (r < 0) return r;
    (void)snprintf(t->model, sizeof t->model, "%s@%u", version->name, version->version);
    *model = t->model;
    size_t size = protobuf_c_message_get_packed_size(m);
    char *at = buf_reserve(&t->packed, size ? size : 1);
    if (!at) return error_set(err, E_TOO_LARGE, "the request is too large");
    buf_commit(&t->packed, protobuf_c_message_pack(m, (uint8_t *)at));
    return 0;
}

static void tokenize(struct exchange *x, const struct json *body, bool back) {
    struct tokenize_request to;
    struct detokenize_request from;
    struct error err = {0};
    struct arena arena;
    struct tokenization *t = mem_zalloc(sizeof *t);
    if (!t) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
        exchange_error(x, &err);
        return;
    }
    t->x = x;
    t->back = back;
    buf_init(&t->packed, REQUEST_BYTES_MAX);
    buf_init(&t->reply, REQUEST_BYTES_MAX);
    arena_init(&arena, REQUEST_ARENA_MAX);
    int r = back ? detokenize_request_read(&from, &arena, body, &err) : tokenize_request_read(&to, &arena, body, &err);
    if (r == 0) r = back ? pack(t, &from.message.base, &from.message.model, &err) : pack(t, &to.message.base, &to.message.model, &err);
    t->strings = r == 0 && !back && to.strings;
    arena_fini(&arena);
    if (r == 0) r = dispatch(t, &err);
    if (r < 0) fail(t, &err);
    else exchange_watch(x, t, on_gone, NULL);
}

void tokenize_create(struct exchange *x, const struct json *body) { tokenize(x, body, false); }
void detokenize_create(struct exchange *x, const struct json *body) { tokenize(x, body, true); }
