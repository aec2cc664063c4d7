#include "exchange.h"

#include "base/alloc.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/random.h"
#include "http/query.h"
#include "service/admin.h"
#include "access.h"
#include "coding.h"
#include "cors.h"
#include "grpc.h"
#include "idempotency.h"
#include "routes.h"
#include "wire/protojson.h"

enum {
    TIMEOUT_MAX_MS = 24 * 3600 * 1000,
    WAIT_MS = 1000, WAIT_STEP_MS = 20, /* what a killed service needs until it is found again, several times over */
    PIECE_BYTES = 64 * 1024,
    ANSWER_MAX = 64 << 20, /* 16 MiB of protobuf, in JSON */
    CALL_PENDING_MAX = 17 << 20, /* of a call: one reply of the largest that the bus carries, or the items that there is credit for */
    PENDING_MAX = 4 << 20, /* of a stream whose client is slow: the credit of 128 choices in chunks of some hundred bytes; an answer's last words with log-probabilities */
};

/* ---- ends ---- */

static void count(struct exchange *x, int status) {
    if (x->gateway->access) access_add(x->gateway->access, x, status);
    quota_release(x, x->tokens_used);
    char labels[192];
    (void)snprintf(labels, sizeof labels, "route=\"%s\",code=\"%d\"", x->match.route ? x->match.route->pattern : "none", status);
    metric_add(metric_counter("genloop_gateway_requests_total", labels, "Requests by route and HTTP status."), 1);
    metric_observe(metric_histogram("genloop_gateway_request_seconds", "", "From the head of a request to the end of its answer.", METRIC_SECONDS_BOUNDS, METRIC_SECONDS_BOUNDS_COUNT),
                   (double)(loop_now_ms(service_loop(x->gateway->service)) - x->began_ms) / 1000);
}

static int bodies_full(struct error *err) { return error_set(err, E_UNAVAILABLE, "the bodies of all requests together are larger than gateway.bodies_max: try again in a moment"); }

int exchange_hold(struct exchange *x, size_t bytes, struct error *err) {
    struct http_budget *b = x->gateway->bodies;
    if (bytes > x->held && bytes - x->held > b->max - b->used) return bodies_full(err);
    b->used = b->used - x->held + bytes;
    x->held = bytes;
    return 0;
}

static void exchange_free(struct exchange *x) {
    idempotency_drop(x);
    (void)exchange_hold(x, 0, NULL);
    x->gateway->exchanges--;
    json_free(x->json);
    grpc_free(x->grpc);
    loop_timer_close(x->wait);
    buf_fini(&x->pending);
    mem_free(x);
}

void exchange_respond(struct exchange *x, int status, const char *content_type, struct span body) {
    x->bytes_out = body.len;
    count(x, status);
    (void)http_respond(x->http, status, content_type, body);
    exchange_free(x);
}

/* Coded where the client takes that and it is worth it. A caller's answer depends on the header either way, and caches have to know. */
static void respond_json(struct exchange *x, int status, struct span body) {
    struct buf coded;
    if (idempotency_keep(x, status, body)) return; /* exchange_json follows */
    buf_init(&coded, CODING_MAX + CODING_MIN);
    if (body.len >= CODING_MIN && body.len <= CODING_MAX) {
        (void)http_header_add(x->http, "Vary", SPAN("Accept-Encoding"));
        if (coding_accepts_gzip(http_header(x->http, "accept-encoding")) && coding_gzip(body, &coded) == 0) {
            (void)http_header_add(x->http, "Content-Encoding", SPAN("gzip"));
            body = buf_span(&coded);
        }
    }
    exchange_respond(x, status, "application/json", body);
    buf_fini(&coded);
}

void exchange_json(struct exchange *x, int status, const struct buf *body) {
    if (body->failed) {
        struct error err;
        (void)error_set(&err, body->failed == E_FULL ? E_TOO_LARGE : body->failed, "the answer is too large");
        exchange_error(x, &err);
        return;
    }
    respond_json(x, status, buf_span(body));
}

/* What the operating system said names this machine's files: that is for the log. */
static const char *told(const struct error *err) {
    if (err->code == E_NO_SPACE) return "the platform's disk is full: nothing was kept; the operator frees space, then send it again";
    if (err->code == E_IO) return "the platform could not read or write what it needs: its log says more under this request id";
    return err->message;
}

int exchange_error_body(struct buf *out, const struct error *err, const char *code) {
    return http_error_body(out, told(err), error_kind(err->code)->openai_type, err->param[0] ? err->param : NULL, code);
}

/* The end of a call: the trailers say how it went, behind what waits. */
static void end_call(struct exchange *x, const struct error *err, const char *reason) {
    grpc_status(x, err, reason);
    if (grpc_http_status(x) >= 500) log_warn("gateway.error", "%s %.*s: %s", x->request_id, SPAN_ARG(http_path(x->http)), err->message);
    if (grpc_begin(x) < 0) exchange_abort(x);
    else if (exchange_clear(x)) exchange_end(x);
    else x->ending = true;
}

void exchange_error_status(struct exchange *x, int status, const struct error *err, const char *code) {
    if (x->grpc) {
        end_call(x, err, code);
        return;
    }
    struct buf body;
    buf_init(&body, 16384);
    if (status == 429 || status == 503 || status == 507) {
        char text[24];
        (void)snprintf(text, sizeof text, "%lld", (long long)(x->retry_after_s > 0 ? x->retry_after_s : 1));
        (void)http_header_add(x->http, "Retry-After", span_str(text));
    }
    if (status == 401) {
        (void)http_header_add(x->http, "WWW-Authenticate", SPAN("Bearer realm=\"genloop\""));
        if (!code) code = "invalid_api_key";
    }
    (void)exchange_error_body(&body, err, code);
    if (status >= 500) log_warn("gateway.error", "%s %.*s: %s", x->request_id, SPAN_ARG(http_path(x->http)), err->message);
    respond_json(x, status, buf_span(&body));
    buf_fini(&body);
}

void exchange_error_code(struct exchange *x, const struct error *err, const char *code) { exchange_error_status(x, error_kind(err->code)->http_status, err, code); }
void exchange_error(struct exchange *x, const struct error *err) { exchange_error_code(x, err, NULL); }

void exchange_end(struct exchange *x) {
    if (x->grpc) grpc_trailers(x);
    count(x, http_client_gone(x->http) ? 499 : x->grpc ? grpc_http_status(x) : 200);
    http_stream_end(x->http);
    exchange_free(x);
}

void exchange_abort(struct exchange *x) {
    if (x->grpc && grpc_late(x) && !http_client_gone(x->http)) {
        struct error err;
        (void)error_set(&err, E_DEADLINE, "the deadline of %lld ms has passed", (long long)x->timeout_ms);
        end_call(x, &err, NULL);
        return;
    }
    count(x, 499);
    http_abort(x->http);
    exchange_free(x);
}

/* ---- streams ---- */

int exchange_events_begin(struct exchange *x) {
    idempotency_drop(x);
    (void)http_header_add(x->http, "Cache-Control", SPAN("no-cache"));
    (void)http_header_add(x->http, "X-Accel-Buffering", SPAN("no")); /* proxies that buffer would hold tokens back */
    x->streaming = true;
    return http_stream_begin(x->http, 200, "text/event-stream");
}

bool exchange_clear(const struct exchange *x) { return x->pending.len == 0; }

/* In pieces that the server's buffer surely holds at once. Returns how much it took; *r says why it stopped. */
static size_t push(struct exchange *x, struct span bytes, int *r) {
    size_t done = 0;
    *r = 0;
    while (done < bytes.len && *r == 0) {
        struct span piece = span_sub(bytes, done, PIECE_BYTES);
        *r = http_stream_write(x->http, piece);
        if (*r == 0) done += piece.len;
    }
    return done;
}

int exchange_write(struct exchange *x, struct span bytes) {
    int r = 0;
    size_t done = x->pending.len == 0 ? push(x, bytes, &r) : 0;
    if (r < 0 && r != E_FULL) return r;
    x->bytes_out += bytes.len;
    return done < bytes.len ? buf_append_span(&x->pending, span_skip(bytes, done)) : 0;
}

static void on_drain(void *arg) {
    struct exchange *x = arg;
    int r;
    buf_consume(&x->pending, push(x, buf_span(&x->pending), &r));
    if (x->pending.len > 0) return;
    if (x->ending) exchange_end(x);
    else if (x->on_clear) x->on_clear(x->state);
}

static void on_close(void *arg) {
    struct exchange *x = arg;
    if (x->ending) exchange_abort(x);
    else x->on_gone(x->state);
}

void exchange_watch(struct exchange *x, void *state, void (*on_gone)(void *state), void (*on_clear)(void *state)) {
    x->state = state;
    x->on_gone = on_gone;
    x->on_clear = on_clear;
    http_on_close(x->http, x, on_close);
    http_on_drain(x->http, x, on_drain);
}

static void gone_waiting(void *state) { exchange_abort(state); }

static void admit(struct exchange *x);

static void on_wait(void *arg) {
    struct exchange *x = arg;
    if (x->admitted) x->match.route->handle(x, x->json);
    else admit(x);
}

bool exchange_wait(struct exchange *x) {
    struct loop *loop = service_loop(x->gateway->service);
    int64_t now_ms = loop_now_ms(loop), waited_ms = x->waits_since_ms ? now_ms - x->waits_since_ms : 0, most_ms = x->timeout_ms < WAIT_MS ? x->timeout_ms : WAIT_MS;
    if (waited_ms + WAIT_STEP_MS > most_ms || service_draining(x->gateway->service) || (!x->wait && !(x->wait = loop_timer_new(loop, x, on_wait)))) return false;
    if (!x->waits_since_ms) x->waits_since_ms = now_ms;
    exchange_watch(x, x, gone_waiting, NULL);
    loop_timer_start(x->wait, WAIT_STEP_MS, 0);
    return true;
}

int exchange_event(struct exchange *x, struct span data) {
    int r = exchange_write(x, SPAN("data: "));
    if (r == 0) r = exchange_write(x, data);
    return r == 0 ? exchange_write(x, SPAN("\n\n")) : r;
}

void exchange_events_end(struct exchange *x) {
    if (exchange_write(x, SPAN("data: [DONE]\n\n")) < 0) exchange_abort(x);
    else if (exchange_clear(x)) exchange_end(x);
    else x->ending = true;
}

/* ---- messages ---- */

static int to_json(const ProtobufCMessageDescriptor *type, struct span packed, struct buf *out, struct error *err) {
    struct json_out w;
    json_begin(&w, out);
    if (protojson_write_packed(&w, type, packed, true, err) < 0) return error_set(err, E_UNKNOWN, "the service answered with what is no %s", type->short_name);
    return 0;
}

void exchange_reply(struct exchange *x, const ProtobufCMessageDescriptor *type, struct span packed) {
    struct error err = {0};
    struct buf body;
    if (x->grpc) {
        if (grpc_begin(x) < 0 || grpc_frame(x, packed) < 0) exchange_abort(x);
        else end_call(x, NULL, NULL);
        return;
    }
    buf_init(&body, ANSWER_MAX);
    if (to_json(type, packed, &body, &err) < 0) exchange_error(x, &err);
    else exchange_json(x, 200, &body);
    buf_fini(&body);
}

void exchange_message(struct exchange *x, const ProtobufCMessage *m) {
    struct error err = {0};
    struct buf packed;
    buf_init(&packed, ANSWER_MAX);
    char *at = buf_reserve(&packed, protobuf_c_message_get_packed_size(m) + 1);
    if (at) {
        buf_commit(&packed, protobuf_c_message_pack(m, (uint8_t *)at));
        exchange_reply(x, m->descriptor, buf_span(&packed));
    } else {
        (void)error_set(&err, E_NOMEM, "no memory for the answer");
        exchange_error(x, &err);
    }
    buf_fini(&packed);
}

void exchange_refuse(struct exchange *x, int code, const char *param, const char *message) {
    struct error err = {0};
    (void)error_set_param(&err, code, param, "%s", message);
    exchange_error(x, &err);
}

int exchange_item(struct exchange *x, const ProtobufCMessageDescriptor *type, struct span packed) {
    struct error err = {0};
    struct buf event;
    if (x->grpc) {
        int code = grpc_begin(x);
        return code < 0 ? code : grpc_frame(x, packed);
    }
    int r = x->streaming ? 0 : exchange_events_begin(x);
    buf_init(&event, ANSWER_MAX);
    if (r == 0) r = to_json(type, packed, &event, &err);
    if (r == 0) r = event.failed;
    if (r == 0) r = exchange_event(x, buf_span(&event));
    buf_fini(&event);
    return r;
}

void exchange_finish(struct exchange *x, const struct error *err) {
    struct buf body;
    if (x->grpc) {
        end_call(x, err, NULL);
        return;
    }
    if (!x->streaming && err) {
        exchange_error(x, err);
        return;
    }
    int r = x->streaming ? 0 : exchange_events_begin(x);
    buf_init(&body, 16384);
    if (err) (void)exchange_error_body(&body, err, NULL);
    if (r == 0 && err) r = exchange_event(x, buf_span(&body));
    buf_fini(&body);
    if (r < 0) exchange_abort(x);
    else exchange_events_end(x);
}

/* ---- beginning ---- */

/* A client's own id is taken where it is one word of harmless characters: it goes into headers, logs and topics. */
static bool request_id_ok(struct span s) {
    if (s.len == 0 || s.len >= REQUEST_ID_MAX) return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.' || c == ':')) return false;
    }
    return true;
}

static int read_headers(struct exchange *x, struct error *err) {
    struct span id = http_header(x->http, "x-request-id"), timeout = http_header(x->http, "x-genloop-timeout-ms");
    struct span session = http_header(x->http, "x-genloop-session"), by = http_header(x->http, "x-genloop-by");
    char made[ID_TEXT_MAX];
    uint8_t chance[TRACE_CHANCE];
    random_bytes(chance, sizeof chance);
    (void)http_header_add(x->http, "traceparent", span_str(trace_next(http_header(x->http, "traceparent"), chance, x->traceparent)));
    if (request_id_ok(id)) span_copy(x->request_id, sizeof x->request_id, id);
    else span_copy(x->request_id, sizeof x->request_id, span_str(id_make(made)));
    (void)http_header_add(x->http, "x-request-id", span_str(x->request_id));
    x->timeout_ms = x->gateway->settings->timeout_ms;
    if (x->grpc) {
        int r = grpc_read_headers(x, err);
        if (r < 0) return r;
    }
    if (timeout.data) {
        int64_t ms;
        if (span_to_i64(timeout, &ms) < 0 || ms < 1 || ms > TIMEOUT_MAX_MS)
            return error_set_param(err, E_INVALID, "x-genloop-timeout-ms", "the header x-genloop-timeout-ms must be a whole number of milliseconds from 1 to %d", TIMEOUT_MAX_MS);
        x->timeout_ms = x->grpc && x->timeout_ms < ms ? x->timeout_ms : ms;
    }
    if (session.len >= SESSION_MAX || !span_is_utf8(session)) return error_set_param(err, E_INVALID, "x-genloop-session", "the header x-genloop-session must be UTF-8 of at most %d bytes", SESSION_MAX - 1);
    if (by.len >= CLAIM_MAX || !span_is_utf8(by)) return error_set_param(err, E_INVALID, "x-genloop-by", "the header x-genloop-by must be UTF-8 of at most %d bytes", CLAIM_MAX - 1);
    if (session.data) span_copy(x->session, sizeof x->session, session);
    if (by.data) span_copy(x->claim, sizeof x->claim, by);
    return 0;
}

struct bus_context exchange_context(const struct exchange *x, int64_t timeout_ms) {
    int64_t left = x->timeout_ms - (loop_now_ms(service_loop(x->gateway->service)) - x->began_ms);
    if (timeout_ms > 0 && timeout_ms < left) left = timeout_ms;
    return (struct bus_context){
        .request_id = span_str(x->request_id),
        .traceparent = span_str(x->traceparent),
        .tenant = span_str(x->caller.tenant),
        .session = span_str(x->session),
        .actor_id = span_str(x->caller.id),
        .actor_scope = span_str(scope_name(x->caller.scope)),
        .actor_claim = span_str(x->claim),
        .deadline_ms = left > 1 ? left : 1,
    };
}

const char *exchange_param(const struct exchange *x, int i) {
    ASSERT(i < x->match.n_params);
    return x->match.params[i];
}

/* What a body of JSON says of itself. True: it says something else, and the exchange has ended with 415. */
static bool refuse_media(struct exchange *x) {
    struct error err = {0};
    struct span coding = http_header(x->http, "content-encoding"), type = http_header(x->http, "content-type");
    if (coding.data && !span_eq_nocase(span_trim(coding), SPAN("identity"))) {
        (void)http_header_add(x->http, "Accept-Encoding", SPAN("identity")); /* RFC 9110, 15.5.16 */
        (void)error_set_param(&err, E_INVALID, "content-encoding", "a body with a Content-Encoding is not taken here: send the JSON as it is");
    } else if (type.data && !http_media_type_is(type, "application/json")) {
        (void)error_set_param(&err, E_INVALID, "content-type", "the body must be JSON: Content-Type: application/json");
    } else {
        return false;
    }
    exchange_error_status(x, 415, &err, "unsupported_media_type");
    return true;
}

/* The request is whole, right in form and within its limits: the handler's turn, unless the same request was answered before. */
static void handle(struct exchange *x) {
    struct error err = {0};
    int r;
    if (idempotency_begin(x, x->body, &r, &err)) return;
    if (r < 0) exchange_error(x, &err);
    else x->match.route->handle(x, x->json);
}

/* What an answer may cost in tokens, as far as the request says: its prompt at four bytes a token, and what it asks for at most. -1: it asks no model. */
static int64_t cost_of(struct exchange *x, size_t body_bytes) {
    enum { ASKED_MAX = 1 << 20, CHOICES_MAX = 128 }; /* as generate_request.h; beyond them it is refused anyhow */
    const struct json *most = json_get(x->json, "max_completion_tokens");
    if (json_type(json_get(x->json, "model")) != JSON_TYPE_STRING || x->match.route->scope != SCOPE_CLIENT) return -1;
    if (json_is_null(most)) most = json_get(x->json, "max_tokens");
    int64_t asked = json_int(most, 0), n = json_int(json_get(x->json, "n"), 1);
    if (asked < 0 || asked > ASKED_MAX) asked = 0;
    if (n < 1 || n > CHOICES_MAX) n = 1;
    x->prompt_estimate = (int64_t)(body_bytes / 4);
    return x->prompt_estimate + asked * n;
}

static void on_body(void *arg, struct span body, int r) {
    struct exchange *x = arg;
    struct error err = {0};
    bool optional = x->match.route->body == BODY_JSON_OR_EMPTY;
    if (r == E_CANCELLED) {
        exchange_abort(x);
        return;
    }
    if (r < 0) {
        if (r == E_TOO_LARGE) (void)error_set(&err, r, "the body is larger than %d bytes", HTTP_BODY_COLLECT_MAX);
        else if (r == E_FULL) (void)bodies_full(&err);
        else (void)error_set(&err, r, "%s", r == E_DEADLINE ? "the body did not come in time" : "the body cannot be read");
        exchange_error(x, &err);
        return;
    }
    x->body = body;
    if (optional && body.len == 0) {
        quota_take(x, -1, false, handle);
        return;
    }
    if (optional && refuse_media(x)) return;
    if (json_parse(body, &x->json, &err) < 0) {
        (void)error_prefix(&err, "the body is not valid JSON");
        exchange_error(x, &err);
        return;
    }
    if (json_type(x->json) != JSON_TYPE_OBJECT) {
        (void)error_set(&err, E_INVALID, "the body must be a JSON object, not %s", json_type_name(x->json));
        exchange_error(x, &err);
        return;
    }
    quota_take(x, cost_of(x, body.len), json_bool(json_get(x->json, "stream"), false), handle);
}

/* ---- what a page of another origin may do ---- */

/* Adds what a browser asks of the answer. E_DENIED: the request changes something and comes from a page that nobody trusts. */
static int check_origin(struct exchange *x, struct error *err) {
    const char *trusted = x->gateway->settings->cors_origins;
    struct span origin = http_header(x->http, "origin"), method = http_method(x->http);
    bool reads = span_eq_str(method, "GET") || span_eq_str(method, "HEAD") || span_eq_str(method, "OPTIONS");
    if (*trusted) (void)http_header_add(x->http, "Vary", SPAN("Origin"));
    struct span name = http_authority(x->http);
    if (!origin.data || (cors_own(name, origin) && (auth_asks(x->gateway) || cors_name_is_ours(name)))) return 0;
    if (cors_trusts(trusted, origin)) {
        (void)http_header_add(x->http, "Access-Control-Allow-Origin", origin);
        (void)http_header_add(x->http, "Access-Control-Expose-Headers", SPAN("*"));
        return 0;
    }
    if (reads) return 0; /* the browser keeps the answer from the page */
    return error_set_param(err, E_DENIED, "origin", "pages of %.*s are not trusted here: name the origin in gateway.cors_origins", (int)(origin.len < CORS_ORIGIN_MAX ? origin.len : CORS_ORIGIN_MAX), origin.data);
}

/* OPTIONS, of a browser that asks before it sends, or of somebody who wants to know. */
static void answer_options(struct exchange *x) {
    struct span origin = http_header(x->http, "origin"), asked = http_header(x->http, "access-control-request-headers");
    if (http_header(x->http, "access-control-request-method").data && cors_trusts(x->gateway->settings->cors_origins, origin)) {
        (void)http_header_add(x->http, "Access-Control-Allow-Methods", span_str(x->match.allow));
        if (asked.data && cors_headers_ok(asked)) (void)http_header_add(x->http, "Access-Control-Allow-Headers", asked);
        (void)http_header_add(x->http, "Access-Control-Max-Age", SPAN("600"));
    }
    count(x, 204);
    (void)http_respond(x->http, 204, NULL, SPAN(""));
    exchange_free(x);
}

/* ---- who may ---- */

/* Lets in who may; then the body is read, where the row wants one, and the handler is called. */
static void admit(struct exchange *x) {
    struct error err = {0};
    enum scope needed = x->match.route->scope;
    int r = needed == SCOPE_ANY || x->batch ? 0 : auth_caller(x->gateway, http_header(x->http, "authorization"), x->owner, &x->caller, &err);
    if ((r == E_UNAVAILABLE || r == E_AGAIN) && exchange_wait(x)) return;
    if (r == E_AGAIN) err.code = E_UNAUTHENTICATED;
    if (r == 0 && (r = auth_scope(&x->caller, needed, &err)) < 0) {
        char text[96];
        (void)snprintf(text, sizeof text, "Bearer realm=\"genloop\", error=\"insufficient_scope\", scope=\"%s\"", scope_name(needed)); /* RFC 6750, 3.1 */
        (void)http_header_add(x->http, "WWW-Authenticate", span_str(text));
        exchange_error_code(x, &err, "insufficient_scope");
        return;
    }
    if (r < 0) {
        exchange_error(x, &err);
        return;
    }
    x->admitted = true;
    http_body_budget(x->http, x->gateway->bodies);
    switch (x->match.route->body) {
    case BODY_NONE: case BODY_STREAM:
        if (x->grpc && grpc_method_of(x)->handle == generation_call) quota_take(x, 0, grpc_method_of(x)->server_stream, handle); /* what it asks for is not read yet: it is charged afterwards */
        else quota_take(x, -1, false, handle);
        return;
    case BODY_JSON:
        if (refuse_media(x)) return; /* before any of it is read */
        http_body_collect(x->http, HTTP_BODY_COLLECT_MAX, x, on_body);
        return;
    case BODY_JSON_OR_EMPTY: http_body_collect(x->http, HTTP_BODY_COLLECT_MAX, x, on_body); return;
    }
}

/* Beyond loopback, and where there are keys, figures are for who may see the rest. */
static bool metrics_refused(struct gateway *g, struct http_exchange *http, bool owner) {
    struct error err = {0};
    struct caller caller;
    if (!span_eq_str(http_path(http), "/metrics") || (!g->beyond_loopback && !auth_asks(g))) return false;
    int r = auth_caller(g, http_header(http, "authorization"), owner, &caller, &err);
    if (r == 0) r = auth_scope(&caller, SCOPE_OPERATOR, &err);
    if (r == E_UNAUTHENTICATED) (void)http_header_add(http, "WWW-Authenticate", SPAN("Bearer realm=\"genloop\""));
    if (r < 0) (void)http_respond_error(http, &err);
    return r < 0;
}

/* caller NULL: it is to be found out. */
static void begin(struct gateway *g, struct http_exchange *http, bool owner, const struct caller *caller) {
    struct error err = {0};
    if (owner) { /* so that a command knows whose door it is at */
        char port[16];
        (void)snprintf(port, sizeof port, "%d", http_server_port(g->http));
        (void)http_header_add(http, "x-genloop-port", span_str(port));
    }
    if (metrics_refused(g, http, owner)) return;
    if (admin_answer(g->service, http)) return;
    struct exchange *x = mem_zalloc(sizeof *x);
    if (!x) {
        (void)error_set(&err, E_NOMEM, "no memory for the request");
        (void)http_respond_error(http, &err);
        return;
    }
    x->gateway = g;
    x->http = http;
    x->owner = owner;
    x->batch = caller != NULL;
    if (caller) x->caller = *caller;
    x->began_ms = loop_now_ms(service_loop(g->service));
    g->exchanges++;
    int call = grpc_asked(http, &err);
    buf_init(&x->pending, call > 0 ? CALL_PENDING_MAX : PENDING_MAX);
    if (call > 0 && !(x->grpc = grpc_new(x))) call = error_set(&err, E_NOMEM, "no memory for the call");
    if (call < 0) {
        exchange_error(x, &err);
        return;
    }
    struct error denied = {0};
    bool foreign = check_origin(x, &denied) < 0, malformed = read_headers(x, &err) < 0;
    if (foreign || malformed) {
        exchange_error(x, foreign ? &denied : &err);
        return;
    }
    if (x->grpc) {
        if (grpc_match(x, &err) < 0) exchange_error(x, &err);
        else admit(x);
        return;
    }
    struct span method = http_method(http), path = http_path(http);
    switch (router_match(ROUTES, ROUTES_COUNT, method, path, &x->match)) {
    case 0: break;
    case E_STATE:
        (void)http_header_add(http, "Allow", span_str(x->match.allow));
        if (span_eq_str(method, "OPTIONS")) {
            answer_options(x);
            return;
        }
        (void)error_set(&err, E_INVALID, "%.*s is not a method of this path: there are %s", (int)(method.len < 32 ? method.len : 32), method.data, x->match.allow);
        exchange_error_status(x, 405, &err, "method_not_allowed");
        return;
    case E_INVALID:
        (void)error_set(&err, E_NOT_FOUND, "a name in the path is malformed");
        exchange_error(x, &err);
        return;
    default:
        (void)error_set(&err, E_NOT_FOUND, "there is nothing at %.*s", (int)(path.len < 128 ? path.len : 128), path.data);
        exchange_error(x, &err);
        return;
    }
    admit(x);
}

void exchange_request(void *arg, struct http_exchange *http) { begin(arg, http, false, NULL); }
void exchange_request_owner(void *arg, struct http_exchange *http) { begin(arg, http, true, NULL); }
void exchange_request_of(struct gateway *g, struct http_exchange *http, const struct caller *caller) { begin(g, http, false, caller); }
