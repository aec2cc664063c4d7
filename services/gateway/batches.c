/* OpenAI's /v1/batches. Ingest owns them (services/ingest/batches.h); here is their JSON. batch_lane.c answers their lines. */
#include "base/alloc.h"
#include "genloop/v1/services.pb-c.h"
#include "http/query.h"
#include "ask.h"
#include "generate_request.h"
#include "idempotency.h"
#include "pages.h"
#include "routes.h"
#include "wire/unpack.h"

enum { BATCH_JSON_MAX = 256 * 1024, LIST_JSON_MAX = 32 << 20, LIST_DEFAULT = 20, LIST_MAX = 100, /* OpenAI's own */ METADATA_PAIRS_MAX = 16, TEXT_MAX = 512 };

#define STATE(NAME) GENLOOP__V1__BATCH_STATE__BATCH_STATE_##NAME

/* ---- a batch's JSON ---- */

static const char *const STATUS[] = {[STATE(VALIDATING)] = "validating", [STATE(IN_PROGRESS)] = "in_progress", [STATE(FINALIZING)] = "finalizing", [STATE(COMPLETED)] = "completed",
                                     [STATE(FAILED)] = "failed", [STATE(EXPIRED)] = "expired", [STATE(CANCELLING)] = "cancelling", [STATE(CANCELLED)] = "cancelled"};

static void put_time(struct json_out *w, const char *key, int64_t ms) {
    json_key(w, key);
    if (ms) json_put_int(w, ms / 1000);
    else json_put_null(w);
}

static void put_text(struct json_out *w, const char *key, const char *text) { json_str(w, key, text[0] ? text : NULL); }

static void put_errors(struct json_out *w, const Genloop__V1__Batch *b) {
    json_key(w, "errors");
    if (!b->n_errors) {
        json_put_null(w);
        return;
    }
    json_object(w);
    json_str(w, "object", "list");
    json_key(w, "data");
    json_array(w);
    for (size_t i = 0; i < b->n_errors; i++) {
        json_object(w);
        json_str(w, "code", b->errors[i]->code);
        json_str(w, "message", b->errors[i]->message);
        put_text(w, "param", b->errors[i]->param);
        json_key(w, "line");
        if (b->errors[i]->line) json_put_uint(w, b->errors[i]->line);
        else json_put_null(w);
        json_object_end(w);
    }
    json_array_end(w);
    json_object_end(w);
}

static void write_batch(struct json_out *w, const Genloop__V1__Batch *b) {
    static const struct {
        const char *key;
        Genloop__V1__BatchState state;
    } ends[] = {{"completed_at", STATE(COMPLETED)}, {"failed_at", STATE(FAILED)}, {"expired_at", STATE(EXPIRED)}, {"cancelled_at", STATE(CANCELLED)}};
    size_t state = (size_t)b->state < sizeof STATUS / sizeof *STATUS ? (size_t)b->state : 0;
    json_object(w);
    json_str(w, "id", b->id);
    json_str(w, "object", "batch");
    json_str(w, "endpoint", b->endpoint);
    put_text(w, "model", b->model);
    put_errors(w, b);
    json_str(w, "input_file_id", b->input_file_id);
    json_str(w, "completion_window", "24h");
    json_str(w, "status", STATUS[state] ? STATUS[state] : "validating");
    put_text(w, "output_file_id", b->output_file_id);
    put_text(w, "error_file_id", b->error_file_id);
    put_time(w, "created_at", b->created_time_ms);
    put_time(w, "in_progress_at", b->in_progress_time_ms);
    put_time(w, "expires_at", b->expires_time_ms);
    put_time(w, "finalizing_at", b->finalizing_time_ms);
    put_time(w, "cancelling_at", b->cancelling_time_ms);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) put_time(w, ends[i].key, b->state == ends[i].state ? b->event_time_ms : 0);
    json_key(w, "request_counts");
    json_object(w);
    json_num(w, "total", (int64_t)b->total);
    json_num(w, "completed", (int64_t)b->completed);
    json_num(w, "failed", (int64_t)b->failed);
    json_object_end(w);
    json_key(w, "metadata");
    if (b->n_metadata) json_object(w);
    else json_put_null(w);
    for (size_t i = 0; i < b->n_metadata; i++) json_str(w, b->metadata[i]->key, b->metadata[i]->value);
    if (b->n_metadata) json_object_end(w);
    json_object_end(w);
}

static void on_batch(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct error err = *why;
    struct buf body;
    struct json_out w;
    Genloop__V1__Batch *b = r == 0 ? MESSAGE_UNPACK(Batch, batch, packed) : NULL;
    (void)arg;
    if (r == 0 && !b) r = error_set(&err, E_UNKNOWN, "ingest answered with what is no Batch");
    buf_init(&body, BATCH_JSON_MAX);
    json_begin(&w, &body);
    if (b) write_batch(&w, b);
    if (r == E_EXISTS) idempotency_mismatch(x);
    else if (r < 0) exchange_error(x, &err);
    else exchange_json(x, 200, &body);
    if (b) message_free(&b->base);
    buf_fini(&body);
}

/* ---- create ---- */

static int take_expiry(const struct json *v, int64_t *seconds, struct error *err) {
    if (json_is_null(v)) return 0;
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type("output_expires_after", "an object", v, err);
    if (!span_eq_str(json_string(json_get(v, "anchor")), "created_at")) return error_set_param(err, E_INVALID, "output_expires_after.anchor", "'output_expires_after.anchor' must be created_at");
    return take_integer("output_expires_after.seconds", json_get(v, "seconds"), 3600, 30 * 24 * 3600, seconds, err);
}

static int take_metadata(struct arena *arena, const struct json *v, Genloop__V1__CreateBatchRequest *q, struct error *err) {
    struct span key;
    const struct json *value;
    void *at = NULL;
    size_t n = json_size(v);
    if (json_is_null(v)) return 0;
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type("metadata", "an object", v, err);
    if (n > METADATA_PAIRS_MAX) return error_set_param(err, E_INVALID, "metadata", "'metadata' has at most %d pairs", METADATA_PAIRS_MAX);
    q->metadata = arena_calloc(arena, n + 1, sizeof *q->metadata);
    while (q->metadata && json_next(v, &at, &key, &value)) {
        Genloop__V1__CreateBatchRequest__MetadataEntry *e = arena_alloc(arena, sizeof *e);
        if (json_type(value) != JSON_TYPE_STRING) return error_set_param(err, E_INVALID, "metadata", "values of 'metadata' must be strings, not %s", json_type_name(value));
        if (!e) return error_set(err, E_NOMEM, "no memory for the request");
        genloop__v1__create_batch_request__metadata_entry__init(e);
        e->key = text_in_arena(arena, key);
        e->value = text_in_arena(arena, json_string(value));
        if (!e->key || !e->value) return error_set(err, E_NOMEM, "no memory for the request");
        q->metadata[q->n_metadata++] = e;
    }
    return q->metadata ? 0 : error_set(err, E_NOMEM, "no memory for the request");
}

static int read_request(struct exchange *x, struct arena *arena, const struct json *body, Genloop__V1__CreateBatchRequest *q, char id[IDEMPOTENCY_ID_MAX], struct error *err) {
    static const char *const known[] = {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after", NULL};
    struct span key;
    const struct json *value, *file = json_get(body, "input_file_id"), *endpoint = json_get(body, "endpoint"), *window = json_get(body, "completion_window");
    void *at = NULL;
    while (json_next(body, &at, &key, &value)) {
        size_t i = 0;
        while (known[i] && !span_eq_str(key, known[i])) i++;
        if (!known[i]) return error_set_param(err, E_INVALID, "", "Unrecognized request argument supplied: %.*s", (int)(key.len < 64 ? key.len : 64), key.data);
    }
    if (json_type(file) != JSON_TYPE_STRING || !json_string(file).len || json_string(file).len > TEXT_MAX) return wrong_type("input_file_id", "the id of a file", file, err);
    if (json_type(endpoint) != JSON_TYPE_STRING || json_string(endpoint).len > TEXT_MAX) return wrong_type("endpoint", "a string", endpoint, err);
    if (!span_eq_str(json_string(window), "24h")) return error_set_param(err, E_INVALID, "completion_window", "'completion_window' must be 24h");
    q->input_file_id = text_in_arena(arena, json_string(file));
    q->endpoint = text_in_arena(arena, json_string(endpoint));
    if (!q->input_file_id || !q->endpoint) return error_set(err, E_NOMEM, "no memory for the request");
    int r = take_metadata(arena, json_get(body, "metadata"), q, err);
    if (r == 0) r = take_expiry(json_get(body, "output_expires_after"), &q->output_expires_after_s, err);
    if (r == 0) r = idempotency_id(x, "batch_", id, err);
    q->id = id;
    return r;
}

void batches_create(struct exchange *x, const struct json *body) {
    Genloop__V1__CreateBatchRequest q = GENLOOP__V1__CREATE_BATCH_REQUEST__INIT;
    char id[IDEMPOTENCY_ID_MAX];
    struct arena arena;
    struct error err = {0};
    arena_init(&arena, BATCH_JSON_MAX);
    int r = read_request(x, &arena, body, &q, id, &err);
    if (r < 0) exchange_error(x, &err);
    else (void)ask_service(x, &(struct ask){.service = "ingest", .method = "Ingest/CreateBatch", .request = &q.base, .on_answer = on_batch});
    arena_fini(&arena);
}

/* ---- one ---- */

static void ask_one(struct exchange *x, const char *method) {
    Genloop__V1__GetBatchRequest q = GENLOOP__V1__GET_BATCH_REQUEST__INIT;
    q.id = (char *)(uintptr_t)exchange_param(x, 0);
    (void)ask_service(x, &(struct ask){.service = "ingest", .method = method, .request = &q.base, .on_answer = on_batch});
}

void batches_get(struct exchange *x, const struct json *body) {
    (void)body;
    ask_one(x, "Ingest/GetBatch");
}

void batches_cancel(struct exchange *x, const struct json *body) {
    (void)body;
    ask_one(x, "Ingest/CancelBatch");
}

/* ---- list ---- */

static void on_list(struct exchange *x, void *arg, struct span packed, int r, const struct error *why) {
    struct error err = *why;
    struct buf body;
    struct json_out w;
    Genloop__V1__ListBatchesReply *m = r == 0 ? MESSAGE_UNPACK(ListBatchesReply, list_batches_reply, packed) : NULL;
    (void)arg;
    if (r == 0 && !m) r = error_set(&err, E_UNKNOWN, "ingest answered with what is no ListBatchesReply");
    buf_init(&body, LIST_JSON_MAX);
    if (r == 0) {
        page_begin(&w, &body);
        for (size_t i = 0; i < m->n_batches; i++) write_batch(&w, m->batches[i]);
        page_end(&w, span_str(m->n_batches ? m->batches[0]->id : ""), span_str(m->n_batches ? m->batches[m->n_batches - 1]->id : ""), m->has_more);
    }
    if (r < 0) exchange_error(x, &err);
    else exchange_json(x, 200, &body);
    if (m) message_free(&m->base);
    buf_fini(&body);
}

void batches_list(struct exchange *x, const struct json *body) {
    static const char *const names[] = {"after", "limit", NULL};
    struct error err = {0};
    struct page page;
    Genloop__V1__ListBatchesRequest q = GENLOOP__V1__LIST_BATCHES_REQUEST__INIT;
    struct span query = http_query(x->http);
    int r = query_check(query, names, &err);
    (void)body;
    if (r == 0) r = page_read(query, LIST_DEFAULT, LIST_MAX, &page, &err);
    if (r < 0) {
        exchange_error(x, &err);
        return;
    }
    q.after = page.after;
    q.limit = page.limit;
    (void)ask_service(x, &(struct ask){.service = "ingest", .method = "Ingest/ListBatches", .request = &q.base, .on_answer = on_list});
}
