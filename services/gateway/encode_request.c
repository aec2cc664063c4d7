#include "encode_request.h"

#include <stdlib.h>
#include <string.h>

#include "generate_request.h"
#include "request_shape.h"
#include "wire/protojson.h"

enum { BASE64_SCRATCH = 1 << 20 };

static int too_large(struct error *err) { return error_set(err, E_TOO_LARGE, "the request is too large"); }

/* ---- reading ---- */

static Genloop__V1__EncodeInput *add_input(struct encode_request *r, struct arena *arena) {
    Genloop__V1__EncodeInput *in = arena_alloc(arena, sizeof *in);
    if (!in) return NULL;
    genloop__v1__encode_input__init(in);
    return r->message.input[r->message.n_input++] = in;
}
static bool make_room(struct encode_request *r, struct arena *arena, size_t n) { return (r->message.input = arena_calloc(arena, n + 1, sizeof *r->message.input)) != NULL; }

static int add_text(struct encode_request *r, struct arena *arena, struct span text, const struct span *pair, struct error *err) {
    Genloop__V1__EncodeInput *in = add_input(r, arena);
    if (!in || !(in->text = text_in_arena(arena, text))) return too_large(err);
    if (!pair) return 0;
    in->paired = true;
    return (in->pair = text_in_arena(arena, *pair)) ? 0 : too_large(err);
}

static int add_tokens(struct encode_request *r, struct arena *arena, const struct json *list, struct error *err) {
    Genloop__V1__EncodeInput *in = add_input(r, arena);
    if (!in || !(in->tokens = arena_calloc(arena, json_size(list), sizeof *in->tokens))) return too_large(err);
    for (; in->n_tokens < json_size(list); in->n_tokens++) in->tokens[in->n_tokens] = (uint32_t)json_int(json_at(list, in->n_tokens), 0); /* checked by the table */
    return 0;
}

/* A text, texts, ids or lists of ids. */
static int read_inputs(struct encode_request *r, struct arena *arena, const struct json *v, struct error *err) {
    bool several = json_type(v) == JSON_TYPE_ARRAY && json_type(json_at(v, 0)) != JSON_TYPE_INT;
    size_t n = several ? json_size(v) : 1;
    int code = make_room(r, arena, n) ? 0 : too_large(err);
    for (size_t i = 0; code == 0 && i < n; i++) {
        const struct json *one = several ? json_at(v, i) : v;
        code = json_type(one) == JSON_TYPE_STRING ? add_text(r, arena, json_string(one), NULL, err) : add_tokens(r, arena, one, err);
    }
    return code;
}

static struct span document_text(const struct json *v) { return json_type(v) == JSON_TYPE_STRING ? json_string(v) : json_string(json_get(v, "text")); }

static int read_rerank(struct encode_request *r, struct arena *arena, const struct json *body, struct error *err) {
    const struct json *documents = json_get(body, "documents");
    struct span query = json_string(json_get(body, "query"));
    int code = make_room(r, arena, json_size(documents)) ? 0 : too_large(err);
    for (size_t i = 0; code == 0 && i < json_size(documents); i++) {
        struct span text = document_text(json_at(documents, i));
        code = add_text(r, arena, query, &text, err);
    }
    r->top_n = (uint32_t)json_int(json_get(body, "top_n"), 0);
    r->return_documents = json_bool(json_get(body, "return_documents"), true);
    return code;
}

static size_t count_texts(const struct json *v) { return json_type(v) == JSON_TYPE_STRING ? 1 : json_size(v); }
static struct span text_at(const struct json *v, size_t i) { return json_type(v) == JSON_TYPE_STRING ? json_string(v) : json_string(json_at(v, i)); }

static int read_score(struct encode_request *r, struct arena *arena, const struct json *body, struct error *err) {
    const struct json *first = json_get(body, "text_1"), *second = json_get(body, "text_2");
    size_t a = count_texts(first), b = count_texts(second);
    if (a != 1 && a != b) return error_set_param(err, E_INVALID, "text_1", "'text_1' has %zu texts and 'text_2' %zu: one with each of several, or as many of both", a, b);
    int code = make_room(r, arena, b) ? 0 : too_large(err);
    for (size_t i = 0; code == 0 && i < b; i++) {
        struct span pair = text_at(second, i);
        code = add_text(r, arena, text_at(first, a == 1 ? 0 : i), &pair, err);
    }
    return code;
}

static const struct {
    const struct request_shape *table;
    Genloop__V1__EncodeTask task;
    bool truncate; /* where the request does not say: documents are cut, as Jina's and Cohere's are */
} DOORS[] = {
    [ENCODE_EMBEDDINGS] = {&SHAPE_EMBEDDINGS, GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_EMBED, false},
    [ENCODE_RERANK] = {&SHAPE_RERANK, GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_SCORE, true},
    [ENCODE_SCORE] = {&SHAPE_SCORE, GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_SCORE, true},
    [ENCODE_CLASSIFY] = {&SHAPE_CLASSIFY, GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_CLASSIFY, false},
    [ENCODE_MODERATIONS] = {&SHAPE_MODERATIONS, GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_CLASSIFY, true},
    [ENCODE_CALL_EMBED] = {NULL, GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_EMBED, false},
    [ENCODE_CALL_RERANK] = {NULL, GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_SCORE, true},
};

static int read_json(struct encode_request *r, struct arena *arena, const struct json *body, struct error *err) {
    int code = request_shape_check(DOORS[r->door].table, body, err);
    if (code != 0) return code;
    r->message.model = text_in_arena(arena, json_string(json_get(body, "model")));
    if (!r->message.model) return too_large(err);
    const struct json *cut = json_get(body, "truncate");
    r->message.truncate = json_bool(cut, DOORS[r->door].truncate);
    r->message.dimensions = (uint32_t)json_int(json_get(body, "dimensions"), 0);
    r->base64 = span_eq_str(json_string(json_get(body, "encoding_format")), "base64");
    if (r->door == ENCODE_RERANK) return read_rerank(r, arena, body, err);
    if (r->door == ENCODE_SCORE) return read_score(r, arena, body, err);
    return read_inputs(r, arena, json_get(body, "input"), err);
}

static void *take(void *arena, size_t size) { return arena_alloc(arena, size); }
static void give(void *arena, void *pointer) { /* the arena goes as a whole */
    (void)arena;
    (void)pointer;
}

static int check_call(const char *model, const char *name, char *const *texts, size_t n, bool empty_ok, struct error *err) {
    if (!model[0]) return error_set_param(err, E_INVALID, "model", "'model' is required: a model, name@version or an alias such as production");
    if (strlen(model) > REQUEST_MODEL_MAX) return error_set_param(err, E_INVALID, "model", "'model' must have at most %d bytes", REQUEST_MODEL_MAX);
    if (n < 1 || n > SHAPE_INPUTS_MAX) return error_set_param(err, E_INVALID, name, "'%s' must have 1 to %d items, not %zu", name, SHAPE_INPUTS_MAX, n);
    for (size_t i = 0; i < n && !empty_ok; i++)
        if (!texts[i][0]) return error_set_param(err, E_INVALID, name, "'%s' has an empty text", name);
    return 0;
}

static int read_call(struct encode_request *r, struct arena *arena, struct span packed, struct error *err) {
    ProtobufCAllocator in_arena = {take, give, arena};
    const uint8_t *bytes = (const uint8_t *)(packed.data ? packed.data : "");
    int code;
    if (r->door == ENCODE_CALL_EMBED) {
        Genloop__V1__EmbedRequest *m = genloop__v1__embed_request__unpack(&in_arena, packed.len, bytes);
        if (!m) return error_set(err, E_INVALID, "the message is no genloop.v1.EmbedRequest, or takes too much memory");
        if ((code = check_call(m->model, "input", m->input, m->n_input, false, err)) != 0) return code;
        r->message.model = m->model;
        r->message.dimensions = m->dimensions;
        if (!make_room(r, arena, m->n_input)) return too_large(err);
        for (size_t i = 0; code == 0 && i < m->n_input; i++) code = add_text(r, arena, span_str(m->input[i]), NULL, err);
        return code;
    }
    Genloop__V1__RerankRequest *m = genloop__v1__rerank_request__unpack(&in_arena, packed.len, bytes);
    if (!m) return error_set(err, E_INVALID, "the message is no genloop.v1.RerankRequest, or takes too much memory");
    if ((code = check_call(m->model, "documents", m->documents, m->n_documents, true, err)) != 0) return code;
    if (!m->query[0]) return error_set_param(err, E_INVALID, "query", "'query' is required");
    r->message.model = m->model;
    r->top_n = m->top_n;
    if (!make_room(r, arena, m->n_documents)) return too_large(err);
    for (size_t i = 0; code == 0 && i < m->n_documents; i++) {
        struct span text = span_str(m->documents[i]);
        code = add_text(r, arena, span_str(m->query), &text, err);
    }
    return code;
}

int encode_request_read(struct encode_request *r, enum encode_door door, struct arena *arena, const struct json *body, struct span packed, struct error *err) {
    *r = (struct encode_request){.door = door};
    genloop__v1__encode_request__init(&r->message);
    r->message.task = DOORS[door].task;
    r->message.truncate = DOORS[door].truncate;
    return DOORS[door].table ? read_json(r, arena, body, err) : read_call(r, arena, packed, err);
}

/* ---- answering ---- */

static int check_reply(const struct encode_request *r, const Genloop__V1__EncodeReply *reply, struct error *err) {
    bool labels = r->message.task == GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_CLASSIFY, one = r->message.task == GENLOOP__V1__ENCODE_TASK__ENCODE_TASK_SCORE;
    bool fits = reply->n_output == r->message.n_input;
    for (size_t i = 0; fits && i < reply->n_output; i++) fits = reply->output[i]->n_values > 0 && (!labels || reply->output[i]->n_values == reply->n_labels) && (!one || reply->output[i]->n_values == 1);
    return fits ? 0 : error_set(err, E_UNKNOWN, "a replica answered with what does not fit the request");
}

static void put_vector(struct json_out *w, const Genloop__V1__Embedding *e, bool base64, struct buf *scratch) {
    if (base64) {
        buf_clear(scratch);
        (void)base64_encode(scratch, span_of(e->values, e->n_values * sizeof(float))); /* little-endian, as every machine that we run on */
        json_put_span(w, buf_span(scratch));
        return;
    }
    json_array(w);
    for (size_t i = 0; i < e->n_values; i++) json_put_real(w, (double)e->values[i]);
    json_array_end(w);
}

static void put_usage(struct json_out *w, const Genloop__V1__EncodeReply *reply) {
    int64_t tokens = reply->usage ? reply->usage->prompt_tokens : 0;
    json_key(w, "usage");
    json_object(w);
    json_num(w, "prompt_tokens", tokens);
    json_num(w, "total_tokens", tokens);
    json_object_end(w);
}

static void put_head(struct json_out *w, const char *kind, const struct encode_answer *a, bool list) {
    char id[300];
    (void)snprintf(id, sizeof id, "%s-%s", kind, a->request_id);
    json_str(w, "id", id);
    if (list) json_str(w, "object", "list");
    if (list) json_num(w, "created", a->created_s);
    json_str(w, "model", a->model);
}

struct ranked {
    double score;
    uint32_t index;
};
/* The best first; of equals the one that was given first. */
static int by_score(const void *a, const void *b) {
    const struct ranked *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}
static size_t rank(const struct encode_request *r, const Genloop__V1__EncodeReply *reply, struct ranked out[SHAPE_INPUTS_MAX]) {
    size_t n = reply->n_output < SHAPE_INPUTS_MAX ? reply->n_output : SHAPE_INPUTS_MAX;
    for (size_t i = 0; i < n; i++) out[i] = (struct ranked){(double)reply->output[i]->values[0], (uint32_t)i};
    qsort(out, n, sizeof *out, by_score);
    return r->top_n && r->top_n < n ? r->top_n : n;
}

static void write_embeddings(struct json_out *w, const struct encode_request *r, const Genloop__V1__EncodeReply *reply, const struct encode_answer *a) {
    struct buf scratch;
    buf_init(&scratch, BASE64_SCRATCH);
    json_str(w, "object", "list");
    json_key(w, "data");
    json_array(w);
    for (size_t i = 0; i < reply->n_output; i++) {
        json_object(w);
        json_str(w, "object", "embedding");
        json_num(w, "index", (int64_t)i);
        json_key(w, "embedding");
        put_vector(w, reply->output[i], r->base64, &scratch);
        json_object_end(w);
    }
    json_array_end(w);
    json_str(w, "model", a->model);
    put_usage(w, reply);
    buf_fini(&scratch);
}

static void write_rerank(struct json_out *w, const struct encode_request *r, const Genloop__V1__EncodeReply *reply, const struct encode_answer *a) {
    struct ranked order[SHAPE_INPUTS_MAX];
    size_t n = rank(r, reply, order);
    put_head(w, "rerank", a, false);
    put_usage(w, reply);
    json_key(w, "results");
    json_array(w);
    for (size_t i = 0; i < n; i++) {
        json_object(w);
        json_num(w, "index", order[i].index);
        if (r->return_documents) {
            json_key(w, "document");
            json_object(w);
            json_str(w, "text", r->message.input[order[i].index]->pair);
            json_object_end(w);
        }
        json_flt(w, "relevance_score", order[i].score);
        json_object_end(w);
    }
    json_array_end(w);
}

static void write_scores(struct json_out *w, const Genloop__V1__EncodeReply *reply, const struct encode_answer *a) {
    put_head(w, "score", a, true);
    json_key(w, "data");
    json_array(w);
    for (size_t i = 0; i < reply->n_output; i++) {
        json_object(w);
        json_num(w, "index", (int64_t)i);
        json_str(w, "object", "score");
        json_flt(w, "score", (double)reply->output[i]->values[0]);
        json_object_end(w);
    }
    json_array_end(w);
    put_usage(w, reply);
}

static size_t likeliest(const Genloop__V1__Embedding *e) {
    size_t best = 0;
    for (size_t i = 1; i < e->n_values; i++)
        if (e->values[i] > e->values[best]) best = i;
    return best;
}

static void write_classes(struct json_out *w, const Genloop__V1__EncodeReply *reply, const struct encode_answer *a) {
    put_head(w, "classify", a, true);
    json_key(w, "data");
    json_array(w);
    for (size_t i = 0; i < reply->n_output; i++) {
        json_object(w);
        json_num(w, "index", (int64_t)i);
        json_str(w, "label", reply->labels[likeliest(reply->output[i])]);
        json_key(w, "probs");
        put_vector(w, reply->output[i], false, NULL);
        json_num(w, "num_classes", (int64_t)reply->output[i]->n_values);
        json_object_end(w);
    }
    json_array_end(w);
    put_usage(w, reply);
}

/* Labels that say that nothing is wrong are no categories. */
static bool is_harmless(const char *label) {
    static const char *const names[] = {"ok", "safe", "neutral", "normal", "none", "clean", "benign", "non-toxic", "not toxic", "not_toxic", "non_toxic", "label_0"};
    char low[16] = "";
    for (size_t i = 0; label[i] && i < sizeof low - 1; i++) low[i] = (char)(label[i] >= 'A' && label[i] <= 'Z' ? label[i] | 32 : label[i]);
    for (size_t i = 0; strlen(label) < sizeof low && i < sizeof names / sizeof *names; i++)
        if (strcmp(low, names[i]) == 0) return true;
    return false;
}

static void write_moderations(struct json_out *w, const Genloop__V1__EncodeReply *reply, const struct encode_answer *a) {
    put_head(w, "modr", a, false);
    json_key(w, "results");
    json_array(w);
    for (size_t i = 0; i < reply->n_output; i++) {
        const Genloop__V1__Embedding *e = reply->output[i];
        bool flagged = false;
        json_object(w);
        json_key(w, "categories");
        json_object(w);
        for (size_t k = 0; k < e->n_values; k++) {
            if (is_harmless(reply->labels[k])) continue;
            json_flag(w, reply->labels[k], e->values[k] >= 0.5f);
            flagged |= e->values[k] >= 0.5f;
        }
        json_object_end(w);
        json_key(w, "category_scores");
        json_object(w);
        for (size_t k = 0; k < e->n_values; k++)
            if (!is_harmless(reply->labels[k])) json_flt(w, reply->labels[k], (double)e->values[k]);
        json_object_end(w);
        json_flag(w, "flagged", flagged);
        json_object_end(w);
    }
    json_array_end(w);
}

int encode_answer_write(struct buf *out, const struct encode_request *r, const Genloop__V1__EncodeReply *reply, const struct encode_answer *a, struct error *err) {
    struct json_out w;
    int code = check_reply(r, reply, err);
    if (code != 0) return code;
    json_begin(&w, out);
    json_object(&w);
    switch (r->door) {
    case ENCODE_EMBEDDINGS: write_embeddings(&w, r, reply, a); break;
    case ENCODE_RERANK: write_rerank(&w, r, reply, a); break;
    case ENCODE_SCORE: write_scores(&w, reply, a); break;
    case ENCODE_CLASSIFY: write_classes(&w, reply, a); break;
    case ENCODE_MODERATIONS: write_moderations(&w, reply, a); break;
    case ENCODE_CALL_EMBED:
    case ENCODE_CALL_RERANK: return error_set(err, E_INTERNAL, "a call is answered by a message");
    }
    json_object_end(&w);
    return 0;
}

ProtobufCMessage *encode_answer_message(struct arena *arena, const struct encode_request *r, const Genloop__V1__EncodeReply *reply, const struct encode_answer *a) {
    struct error err;
    if (check_reply(r, reply, &err) != 0) return NULL;
    if (r->door == ENCODE_CALL_EMBED) {
        Genloop__V1__EmbedReply *m = arena_alloc(arena, sizeof *m);
        if (!m) return NULL;
        genloop__v1__embed_reply__init(m);
        m->embeddings = reply->output;
        m->n_embeddings = reply->n_output;
        m->usage = reply->usage;
        m->model = (char *)(uintptr_t)a->model;
        return &m->base;
    }
    struct ranked order[SHAPE_INPUTS_MAX];
    Genloop__V1__RerankReply *m = arena_alloc(arena, sizeof *m);
    Genloop__V1__RerankResult *results = arena_calloc(arena, reply->n_output + 1, sizeof *results);
    if (!m || !results) return NULL;
    genloop__v1__rerank_reply__init(m);
    if (!(m->results = arena_calloc(arena, reply->n_output + 1, sizeof *m->results))) return NULL;
    size_t n = rank(r, reply, order);
    for (; m->n_results < n; m->n_results++) {
        Genloop__V1__RerankResult *one = m->results[m->n_results] = &results[m->n_results];
        genloop__v1__rerank_result__init(one);
        one->index = order[m->n_results].index;
        one->score = order[m->n_results].score;
    }
    m->usage = reply->usage;
    m->model = (char *)(uintptr_t)a->model;
    return &m->base;
}
