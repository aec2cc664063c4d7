#include "request_shape.h"

#include "generate_request.h"

enum { SIDE_MAX = 4096, TABLE_ROWS_MAX = 1000000, TOKEN_MAX = INT32_MAX };

static int wrong(const char *name, const char *what, struct error *err) { return error_set_param(err, E_INVALID, name, "'%s' %s", name, what); }

static int check_text(const char *name, const struct json *v, size_t max, struct error *err) {
    if (json_type(v) != JSON_TYPE_STRING) return wrong_type(name, "a string", v, err);
    if (json_string(v).len == 0) return wrong(name, "is empty", err);
    return max && json_string(v).len > max ? error_set_param(err, E_INVALID, name, "'%s' must have at most %zu bytes", name, max) : 0;
}

static int check_word(const struct shape_field *f, const struct json *v, struct error *err) {
    char list[200] = "";
    if (json_type(v) != JSON_TYPE_STRING) return wrong_type(f->name, "a string", v, err);
    for (const char *const *word = f->words; *word; word++) {
        size_t len = strlen(list);
        if (span_eq_str(json_string(v), *word)) return 0;
        (void)snprintf(list + len, sizeof list - len, "%s%s", len ? ", " : "", *word);
    }
    return error_set_param(err, E_INVALID, f->name, "'%s' must be one of %s", f->name, list);
}

static int check_count(const char *name, const struct json *v, struct error *err) {
    if (json_size(v) == 0) return wrong(name, "is an empty list", err);
    return json_size(v) > SHAPE_INPUTS_MAX ? error_set_param(err, E_INVALID, name, "'%s' must have at most %d items", name, SHAPE_INPUTS_MAX) : 0;
}

static int check_tokens(const char *name, const struct json *v, struct error *err) {
    if (json_size(v) == 0) return wrong(name, "has an empty list of token ids", err);
    for (size_t i = 0; i < json_size(v); i++) {
        int64_t id;
        int r = take_integer(name, json_at(v, i), 0, TOKEN_MAX, &id, err);
        if (r < 0) return r;
    }
    return 0;
}

static int check_texts(const char *name, const struct json *v, bool tokens, struct error *err) {
    const char *expected = tokens ? "a string, a list of strings, a list of token ids or a list of such lists" : "a string or a list of strings";
    const struct json *first = json_at(v, 0);
    if (json_type(v) == JSON_TYPE_STRING) return check_text(name, v, 0, err);
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, expected, v, err);
    if (tokens && json_type(first) == JSON_TYPE_INT) return check_tokens(name, v, err); /* one input, of any length */
    int r = check_count(name, v, err);
    for (size_t i = 0; r == 0 && i < json_size(v); i++) {
        const struct json *one = json_at(v, i);
        if (json_type(one) != json_type(first)) r = wrong(name, "mixes texts and token ids", err);
        else if (json_type(one) == JSON_TYPE_STRING) r = check_text(name, one, 0, err);
        else if (tokens && json_type(one) == JSON_TYPE_ARRAY) r = check_tokens(name, one, err);
        else r = wrong_type(name, expected, one, err);
    }
    return r;
}

static int check_documents(const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "a list of documents", v, err);
    int r = check_count(name, v, err);
    for (size_t i = 0; r == 0 && i < json_size(v); i++) {
        const struct json *one = json_at(v, i);
        if (json_type(one) != JSON_TYPE_STRING && json_type(json_get(one, "text")) != JSON_TYPE_STRING) r = wrong(name, "must be of strings or of objects with a string 'text'", err);
    }
    return r;
}

static int check_turns(const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "a list of messages", v, err);
    if (json_size(v) == 0) return wrong(name, "is empty", err);
    if (json_size(v) > MESSAGES_MAX) return error_set_param(err, E_INVALID, name, "'%s' must have at most %d messages", name, MESSAGES_MAX);
    for (size_t i = 0; i < json_size(v); i++) {
        const struct json *one = json_at(v, i), *content = json_get(one, "content");
        char param[ERROR_PARAM_MAX];
        (void)snprintf(param, sizeof param, "%s.%zu", name, i);
        if (json_type(one) != JSON_TYPE_OBJECT) return wrong_type(param, "an object", one, err);
        if (json_string(json_get(one, "role")).len == 0) return wrong(param, "has no 'role'", err);
        if (json_type(content) != JSON_TYPE_STRING && json_type(content) != JSON_TYPE_ARRAY) return wrong(param, "has no 'content' of a string or a list of parts", err);
    }
    return 0;
}

static int check_size(const char *name, const struct json *v, struct error *err) {
    struct span text = json_string(v), width;
    uint64_t w, h;
    if (json_type(v) != JSON_TYPE_STRING) return wrong_type(name, "a string", v, err);
    if (span_eq_str(text, "auto")) return 0;
    if (!span_cut(&text, 'x', &width) || span_to_u64(width, &w) < 0 || span_to_u64(text, &h) < 0 || w < 1 || h < 1 || w > SIDE_MAX || h > SIDE_MAX)
        return error_set_param(err, E_INVALID, name, "'%s' must be auto or WIDTHxHEIGHT, of 1 to %d pixels each", name, SIDE_MAX);
    return 0;
}

static int check_field(const struct shape_field *f, const struct json *v, struct error *err) {
    int64_t i;
    double d;
    bool flag;
    switch (f->kind) {
    case SHAPE_TEXT: return check_text(f->name, v, (size_t)f->high, err);
    case SHAPE_WORD: return check_word(f, v, err);
    case SHAPE_FLAG: return take_flag(f->name, v, &flag, err);
    case SHAPE_INTEGER: return take_integer(f->name, v, (int64_t)f->low, (int64_t)f->high, &i, err);
    case SHAPE_REAL: return take_real(f->name, v, f->low, f->high, &d, err);
    case SHAPE_OBJECT: return json_type(v) == JSON_TYPE_OBJECT ? 0 : wrong_type(f->name, "an object", v, err);
    case SHAPE_LIST:
        if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(f->name, "a list", v, err);
        return json_size(v) == 0 ? wrong(f->name, "is an empty list", err) : 0;
    case SHAPE_TEXTS: return check_texts(f->name, v, false, err);
    case SHAPE_INPUT: return check_texts(f->name, v, true, err);
    case SHAPE_DOCUMENTS: return check_documents(f->name, v, err);
    case SHAPE_TURNS: return check_turns(f->name, v, err);
    case SHAPE_SIZE: return check_size(f->name, v, err);
    case SHAPE_ANY: return json_type(v) == JSON_TYPE_STRING || json_type(v) == JSON_TYPE_OBJECT ? 0 : wrong_type(f->name, "a string or an object", v, err);
    }
    return error_set_param(err, E_INTERNAL, f->name, "'%s' is of no kind", f->name);
}

int request_shape_check(const struct request_shape *shape, const struct json *body, struct error *err) {
    void *iterator = NULL;
    struct span name;
    const struct json *value;
    if (json_type(body) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "the body must be a JSON object, not %s", json_type_name(body));
    while (json_next(body, &iterator, &name, &value)) {
        const struct shape_field *f = NULL;
        for (size_t i = 0; i < shape->n_fields && !f; i++)
            if (span_eq_str(name, shape->fields[i].name)) f = &shape->fields[i];
        if (!f) {
            char param[ERROR_PARAM_MAX];
            span_copy(param, sizeof param, name);
            return error_set_param(err, E_INVALID, param, "unrecognized parameter '%s'", param);
        }
        int r = json_is_null(value) ? 0 : check_field(f, value, err);
        if (r < 0) return r;
    }
    for (size_t i = 0; i < shape->n_fields; i++)
        if (shape->fields[i].required && json_is_null(json_get(body, shape->fields[i].name))) return wrong(shape->fields[i].name, "is required", err);
    return 0;
}

/* ---- the tables ---- */

#define MODEL {"model", SHAPE_TEXT, true, 0, SHAPE_MODEL_MAX, {NULL}}
#define USER {"user", SHAPE_TEXT, false, 0, USER_MAX, {NULL}}
#define NEEDS(NAME, KIND) {NAME, SHAPE_##KIND, true, 0, 0, {NULL}}
#define MAY(NAME, KIND) {NAME, SHAPE_##KIND, false, 0, 0, {NULL}}
#define TEXT_UP_TO(NAME, REQUIRED, HIGH) {NAME, SHAPE_TEXT, REQUIRED, 0, HIGH, {NULL}}
#define INTEGER(NAME, LOW, HIGH) {NAME, SHAPE_INTEGER, false, LOW, HIGH, {NULL}}
#define REAL(NAME, LOW, HIGH) {NAME, SHAPE_REAL, false, LOW, HIGH, {NULL}}
#define WORD(NAME, ...) {NAME, SHAPE_WORD, false, 0, 0, {__VA_ARGS__, NULL}}
#define DOOR(NAME, WHAT, ROWS, HAS_MODEL) const struct request_shape SHAPE_##NAME = {WHAT, ROWS, sizeof ROWS / sizeof *ROWS, HAS_MODEL}

static const struct shape_field embeddings[] = {MODEL, NEEDS("input", INPUT), WORD("encoding_format", "float", "base64"), INTEGER("dimensions", 1, 65536), MAY("truncate", FLAG), USER};
DOOR(EMBEDDINGS, "embeddings", embeddings, true);

static const struct shape_field rerank[] = {MODEL, NEEDS("query", TEXT), NEEDS("documents", DOCUMENTS), INTEGER("top_n", 1, SHAPE_INPUTS_MAX), MAY("return_documents", FLAG), MAY("truncate", FLAG), USER};
DOOR(RERANK, "reranking", rerank, true);

static const struct shape_field score[] = {MODEL, NEEDS("text_1", TEXTS), NEEDS("text_2", TEXTS), MAY("truncate", FLAG), USER};
DOOR(SCORE, "scoring", score, true);

static const struct shape_field classify[] = {MODEL, NEEDS("input", INPUT), MAY("truncate", FLAG), USER};
DOOR(CLASSIFY, "classification", classify, true);

static const struct shape_field messages[] = {
    MODEL, NEEDS("messages", TURNS), {"max_tokens", SHAPE_INTEGER, true, 1, MAX_TOKENS_MAX, {NULL}}, REAL("temperature", 0, 1), REAL("top_p", 0, 1), INTEGER("top_k", 0, INT32_MAX),
    MAY("stop_sequences", LIST), MAY("stream", FLAG), MAY("tools", LIST), MAY("tool_choice", OBJECT), MAY("metadata", OBJECT), MAY("thinking", OBJECT), WORD("service_tier", "auto", "standard_only"),
    {"system", SHAPE_TEXTS, false, 0, 0, {NULL}},
};
DOOR(MESSAGES, "messages", messages, true);

static const struct shape_field moderations[] = {MODEL, NEEDS("input", TEXTS)};
DOOR(MODERATIONS, "moderation", moderations, true);

#define IMAGE_FIELDS                                                                                                                                                                              \
    MODEL, TEXT_UP_TO("prompt", true, 32000), INTEGER("n", 1, 10), MAY("size", SIZE), WORD("response_format", "url", "b64_json"), WORD("output_format", "png", "jpeg", "webp"),                     \
        WORD("background", "auto", "opaque", "transparent"), WORD("quality", "auto", "low", "medium", "high", "standard", "hd"), INTEGER("output_compression", 0, 100), MAY("stream", FLAG), \
        INTEGER("partial_images", 0, 3), INTEGER("seed", 0, 9007199254740991.0), INTEGER("steps", 1, 1000), USER
static const struct shape_field images[] = {IMAGE_FIELDS, WORD("style", "vivid", "natural"), WORD("moderation", "auto", "low")};
DOOR(IMAGES, "images", images, true);
static const struct shape_field image_edits[] = {IMAGE_FIELDS, WORD("input_fidelity", "low", "high")};
DOOR(IMAGE_EDITS, "edits of images", image_edits, true);

static const struct shape_field speech[] = {
    MODEL, TEXT_UP_TO("input", true, 16384), NEEDS("voice", ANY), TEXT_UP_TO("instructions", false, 16384), WORD("response_format", "mp3", "opus", "aac", "flac", "wav", "pcm"), REAL("speed", 0.25, 4),
    WORD("stream_format", "audio", "sse"),
};
DOOR(SPEECH, "speech", speech, true);

static const struct shape_field tables[] = {
    MODEL, {"rows", SHAPE_INTEGER, true, 1, TABLE_ROWS_MAX, {NULL}}, MAY("where", OBJECT), INTEGER("seed", 0, 9007199254740991.0), WORD("format", "csv", "jsonl"), MAY("stream", FLAG),
};
DOOR(TABLES, "synthetic tables", tables, true);

const struct request_shape SHAPE_MONITORING = {.what = "monitoring"};
