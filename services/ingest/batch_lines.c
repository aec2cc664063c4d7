#include "services/ingest/batch_lines.h"

#include <stdarg.h>

#include "base/alloc.h"
#include "base/json.h"
#include "services/ingest/file_rows.h"

void batch_index_fini(struct batch_index *x) {
    mem_free(x->lines);
    mem_free(x->errors);
    *x = (struct batch_index){0};
}

static int add_line(struct batch_index *x, const char *text, uint64_t number, struct span line) {
    if (x->n == BATCH_LINES_MAX) return E_TOO_LARGE;
    if (array_reserve(&x->lines, &x->capacity, x->n + 1, sizeof *x->lines)) return E_NOMEM;
    x->lines[x->n++] = (struct batch_line){number, (uint64_t)(line.data - text), (uint32_t)line.len};
    return 0;
}

int batch_index_lines(struct batch_index *x, struct span text) {
    const char *begin = text.data;
    uint64_t number = 0;
    struct span line;
    int r = 0;
    while (r == 0 && file_line_next(&text, &number, &line))
        r = line.len > FILE_LINE_MAX ? E_TOO_LARGE : add_line(x, begin, number, line);
    return r;
}

__attribute__((format(printf, 5, 6))) static int add_error(struct batch_index *x, const char *code, const char *param, uint64_t line, const char *format, ...) {
    va_list args;
    if (x->n_errors == BATCH_ERRORS_MAX) return 0;
    if (!x->errors && !(x->errors = mem_calloc(BATCH_ERRORS_MAX, sizeof *x->errors))) return E_NOMEM;
    struct batch_error *e = &x->errors[x->n_errors++];
    e->code = code;
    e->line = line;
    (void)snprintf(e->param, sizeof e->param, "%s", param);
    va_start(args, format);
    (void)vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    e->message[span_utf8_complete(span_str(e->message))] = 0;
    return 0;
}

/* The ids so far: open addressing over their hashes, the texts in an arena. */
struct ids {
    struct arena arena;
    struct span *slots;
    size_t mask;
};

static bool id_is_new(struct ids *ids, struct span id, int *r) {
    size_t at = (size_t)span_hash(id) & ids->mask;
    while (ids->slots[at].data) {
        if (span_eq(ids->slots[at], id)) return false;
        at = (at + 1) & ids->mask;
    }
    ids->slots[at] = arena_span(&ids->arena, id);
    if (!ids->slots[at].data) *r = E_NOMEM;
    return true;
}

static int check_line(struct batch_index *x, struct ids *ids, struct span line, uint64_t number, const char *endpoint) {
    struct json *root = NULL;
    struct error err = {0};
    int r = 0;
    if (line.len > FILE_LINE_MAX) return add_error(x, "line_too_long", "", number, "This line is longer than %d bytes.", FILE_LINE_MAX);
    if (json_parse(line, &root, &err) < 0) {
        r = err.code == E_NOMEM ? E_NOMEM : add_error(x, "invalid_json_line", "", number, "This line is not parseable as valid JSON: %s", err.message);
        goto out;
    }
    const struct json *id = json_get(root, "custom_id"), *method = json_get(root, "method"), *url = json_get(root, "url"), *body = json_get(root, "body");
    struct span text = json_string(id);
    if (json_type(root) != JSON_TYPE_OBJECT) r = add_error(x, "invalid_json_line", "", number, "This line is %s, not an object.", json_type_name(root));
    else if (json_type(id) != JSON_TYPE_STRING || text.len == 0) r = add_error(x, "missing_required_parameter", "custom_id", number, "'custom_id' must be a string that is not empty.");
    else if (text.len > BATCH_CUSTOM_ID_MAX) r = add_error(x, "invalid_custom_id", "custom_id", number, "'custom_id' is longer than %d bytes.", BATCH_CUSTOM_ID_MAX);
    else if (!span_eq_str(json_string(method), "POST")) r = add_error(x, "invalid_method", "method", number, "'method' must be \"POST\".");
    else if (!span_eq_str(json_string(url), endpoint)) r = add_error(x, "mismatched_url", "url", number, "'url' must be the batch's endpoint, %s.", endpoint);
    else if (json_type(body) != JSON_TYPE_OBJECT) r = add_error(x, "invalid_body", "body", number, "'body' must be an object, not %s.", json_type_name(body));
    else if (json_bool(json_get(body, "stream"), false)) r = add_error(x, "invalid_body", "body.stream", number, "An answer of a batch cannot be a stream.");
    else if (!id_is_new(ids, text, &r)) r = add_error(x, "duplicate_custom_id", "custom_id", number, "The custom_id '%.*s' is an earlier line's.", (int)(text.len < 64 ? text.len : 64), text.data);
    if (r == 0 && x->n_errors == 0 && x->n == 1) {
        struct span model = json_string(json_get(body, "model"));
        if (model.len <= BATCH_MODEL_MAX) span_copy(x->model, sizeof x->model, model);
    }
out:
    json_free(root);
    return r;
}

int batch_index_check(struct batch_index *x, struct span text, const char *endpoint) {
    enum { SLOTS = 1 << 17 }; /* more than twice BATCH_LINES_MAX */
    const char *begin = text.data;
    uint64_t number = 0;
    struct span line;
    struct ids ids = {.mask = SLOTS - 1, .slots = mem_calloc(SLOTS, sizeof *ids.slots)};
    int r = ids.slots ? 0 : E_NOMEM;
    arena_init(&ids.arena, (size_t)BATCH_LINES_MAX * (BATCH_CUSTOM_ID_MAX + 64));
    while (r == 0 && x->n_errors < BATCH_ERRORS_MAX && file_line_next(&text, &number, &line)) {
        if (x->n == BATCH_LINES_MAX) {
            r = add_error(x, "too_many_lines", "input_file_id", 0, "A batch has at most %d lines.", BATCH_LINES_MAX);
            break;
        }
        r = line.len > FILE_LINE_MAX ? 0 : add_line(x, begin, number, line);
        if (r == 0) r = check_line(x, &ids, line, number, endpoint);
    }
    if (r == 0 && x->n == 0 && x->n_errors == 0) r = add_error(x, "empty_file", "input_file_id", 0, "The file has no lines.");
    arena_fini(&ids.arena);
    mem_free(ids.slots);
    return r;
}

int batch_line_body(struct span line, struct buf *out, struct error *err) {
    struct json *root = NULL;
    int r = json_parse(line, &root, err);
    const struct json *body = json_get(root, "body");
    if (r == 0 && json_type(body) != JSON_TYPE_OBJECT) r = error_set(err, E_INVALID, "the line has no body");
    if (r == 0 && (r = json_write(out, body)) < 0) r = error_set(err, r, "the line's body does not fit");
    json_free(root);
    return r;
}

int batch_answer_write(struct span line, const struct batch_answer *a, struct buf *out, struct error *err) {
    struct json *root = NULL;
    struct json_out w;
    int r = json_parse(line, &root, err);
    if (r == 0 && a->status && (a->body.len == 0 || span_find_char(a->body, '\n') >= 0)) r = error_set(err, E_INVALID, "the answer is not JSON on one line");
    if (r < 0) goto out;
    json_begin(&w, out);
    json_object(&w);
    json_str(&w, "id", a->id);
    json_span(&w, "custom_id", json_string(json_get(root, "custom_id")));
    json_key(&w, "response");
    if (a->status) {
        json_object(&w);
        json_num(&w, "status_code", a->status);
        json_str(&w, "request_id", a->request_id);
        json_key(&w, "body");
        json_put_raw(&w, a->body);
        json_object_end(&w);
    } else
        json_put_null(&w);
    json_key(&w, "error");
    if (a->status)
        json_put_null(&w);
    else {
        json_object(&w);
        json_str(&w, "code", a->code);
        json_str(&w, "message", a->message);
        json_object_end(&w);
    }
    json_object_end(&w);
    (void)buf_append_char(out, '\n');
    if (out->failed) r = error_set(err, out->failed == E_FULL ? E_TOO_LARGE : out->failed, "the answers do not fit");
out:
    json_free(root);
    return r;
}
