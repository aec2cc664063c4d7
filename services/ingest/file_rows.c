#include "services/ingest/file_rows.h"

#include <string.h>

enum { MESSAGES_MAX = 4096 }; /* lib/tokenizer takes so many */

const char *file_rows_name(enum file_rows rows) {
    return rows == FILE_ROWS_PREFERENCE ? "preference examples (input, preferred_output, non_preferred_output)" : "chat or completion examples (messages, or prompt and completion)";
}

bool file_line_next(struct span *text, uint64_t *number, struct span *line) {
    while (span_cut(text, '\n', line)) {
        ++*number;
        if (span_trim(*line).len) return true;
    }
    return false;
}

/* ---- messages ---- */

struct turn {
    struct span role;
    const struct json *content; /* a string, or an array of text parts */
    bool learnt;                /* an assistant's, weight 1 */
};

static int refuse_key(const char *where, struct span key, struct error *err) {
    int len = (int)(key.len < 64 ? key.len : 64);
    for (const char *const *k = (const char *const[]){"tools", "functions", "tool_calls", "function_call", "tool_call_id", "name", "refusal", "audio", NULL}; *k; k++)
        if (span_eq_str(key, *k)) return error_set(err, E_UNSUPPORTED, "%s has \"%.*s\", which is known, but not built yet", where, len, key.data);
    return error_set(err, E_INVALID, "%s has an unknown key \"%.*s\"", where, len, key.data);
}

static int check_content(const struct json *content, struct error *err) {
    if (json_type(content) == JSON_TYPE_STRING) return 0;
    if (json_type(content) != JSON_TYPE_ARRAY || !json_size(content)) return error_set(err, E_INVALID, "a message's content must be a string or an array of text parts, not %s", json_type_name(content));
    for (size_t i = 0; i < json_size(content); i++) {
        const struct json *part = json_at(content, i);
        struct span type = json_string(json_get(part, "type"));
        if (span_eq_str(type, "image_url") || span_eq_str(type, "input_audio")) return error_set(err, E_UNSUPPORTED, "content parts of type %.*s are not built yet: text alone is learnt from", SPAN_ARG(type));
        if (!span_eq_str(type, "text") || json_type(json_get(part, "text")) != JSON_TYPE_STRING) return error_set(err, E_INVALID, "a content part must be {\"type\": \"text\", \"text\": \"…\"}");
    }
    return 0;
}

static int read_message(const struct json *m, struct turn *turn, struct error *err) {
    void *iterator = NULL;
    struct span key;
    const struct json *value, *weight = json_get(m, "weight");
    if (json_type(m) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "a message must be an object, not %s", json_type_name(m));
    while (json_next(m, &iterator, &key, &value))
        if (!span_eq_str(key, "role") && !span_eq_str(key, "content") && !span_eq_str(key, "weight")) {
            if (json_is_null(value)) continue; /* clients write "tool_calls": null */
            return refuse_key("a message", key, err);
        }
    struct span role = json_string(json_get(m, "role"));
    if (span_eq_str(role, "tool") || span_eq_str(role, "function")) return error_set(err, E_UNSUPPORTED, "messages of role %.*s are known, but not built yet", SPAN_ARG(role));
    bool assistant = span_eq_str(role, "assistant");
    if (!assistant && !span_eq_str(role, "user") && !span_eq_str(role, "system") && !span_eq_str(role, "developer"))
        return error_set(err, E_INVALID, "a message's role must be system, developer, user or assistant");
    if (!json_is_null(weight) && (!assistant || json_type(weight) != JSON_TYPE_INT || json_int(weight, -1) < 0 || json_int(weight, -1) > 1))
        return error_set(err, E_INVALID, "weight must be 0 or 1, and stand at an assistant's message");
    int r = check_content(json_get(m, "content"), err);
    /* Templates know the older word. */
    if (r == 0) *turn = (struct turn){span_eq_str(role, "developer") ? SPAN("system") : role, json_get(m, "content"), assistant && json_int(weight, 1) == 1};
    return r;
}

static void put_content(struct json_out *w, const struct json *content) {
    if (json_type(content) == JSON_TYPE_STRING) {
        json_put_span(w, json_string(content));
        return;
    }
    struct buf text;
    buf_init(&text, FILE_LINE_MAX);
    for (size_t i = 0; i < json_size(content); i++) (void)buf_append_span(&text, json_string(json_get(json_at(content, i), "text")));
    json_put_span(w, buf_span(&text));
    if (text.failed && !w->out->failed) w->out->failed = text.failed;
    buf_fini(&text);
}

/* Messages [from, to), which were checked. */
static void put_messages(struct json_out *w, const struct json *messages, size_t from, size_t to) {
    json_array(w);
    for (size_t i = from; i < to; i++) {
        struct turn turn;
        if (read_message(json_at(messages, i), &turn, NULL) < 0) continue;
        json_object(w);
        json_span(w, "role", turn.role);
        json_key(w, "content");
        put_content(w, turn.content);
        json_object_end(w);
    }
    json_array_end(w);
}

/* *learnt: the first message from which on every answer is learnt. */
static int check_messages(const struct json *messages, const char *what, bool answers_only, size_t *learnt, struct error *err) {
    size_t from = 0, answers = 0, n = json_size(messages);
    if (json_type(messages) != JSON_TYPE_ARRAY || !n) return error_set(err, E_INVALID, "%s must be an array of messages that is not empty", what);
    if (n > MESSAGES_MAX) return error_set(err, E_INVALID, "%s has more than %d messages", what, MESSAGES_MAX);
    for (size_t i = 0; i < n; i++) {
        struct turn turn;
        int r = read_message(json_at(messages, i), &turn, err);
        if (r < 0) return error_prefix(err, "%s[%zu]", what, i);
        bool assistant = span_eq_str(turn.role, "assistant");
        if (answers_only && !assistant) return error_set(err, E_INVALID, "%s[%zu] must be the assistant's", what, i);
        if (answers_only && !turn.learnt) return error_set(err, E_INVALID, "%s[%zu] has weight 0: an answer of a pair is always learnt from", what, i);
        if (assistant && !turn.learnt && answers) return error_set(err, E_UNSUPPORTED, "%s[%zu]: weight 0 behind an answer of weight 1 is not built yet: put the answers that are not to be learnt first", what, i);
        if (assistant && !turn.learnt) from = i + 1;
        answers += turn.learnt;
    }
    if (learnt && !answers) return error_set(err, E_INVALID, "%s has no assistant's message to learn from", what);
    if (learnt) *learnt = from;
    return 0;
}

/* ---- rows ---- */

static int only_keys(const struct json *object, const char *where, const char *const *names, struct error *err) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    while (json_next(object, &iterator, &key, &value)) {
        bool known = false;
        for (const char *const *n = names; *n; n++) known |= span_eq_str(key, *n);
        if (known || json_is_null(value)) continue;
        if ((span_eq_str(key, "tools") || span_eq_str(key, "functions")) && json_type(value) == JSON_TYPE_ARRAY && !json_size(value)) continue;
        if (span_eq_str(key, "parallel_tool_calls") && json_type(value) == JSON_TYPE_BOOL) continue; /* of tools, of which there are none */
        return refuse_key(where, key, err);
    }
    return 0;
}

static int read_chat(const struct json *row, struct json_out *w, struct error *err) {
    const struct json *messages = json_get(row, "messages");
    size_t learnt = 0, n = json_size(messages);
    int r = only_keys(row, "an example", (const char *const[]){"messages", NULL}, err);
    if (r == 0) r = check_messages(messages, "messages", false, &learnt, err);
    if (r < 0 || !w) return r;
    json_object(w);
    if (learnt) {
        json_key(w, "prompt");
        put_messages(w, messages, 0, learnt);
    }
    json_key(w, learnt ? "completion" : "messages");
    put_messages(w, messages, learnt, n);
    json_object_end(w);
    return 0;
}

static int read_completion(const struct json *row, struct json_out *w, struct error *err) {
    const struct json *prompt = json_get(row, "prompt"), *completion = json_get(row, "completion");
    int r = only_keys(row, "an example", (const char *const[]){"prompt", "completion", NULL}, err);
    if (r < 0) return r;
    if (json_type(prompt) != JSON_TYPE_STRING || json_type(completion) != JSON_TYPE_STRING) return error_set(err, E_INVALID, "an example needs prompt and completion, both strings");
    if (!json_string(completion).len) return error_set(err, E_INVALID, "completion is empty: there is nothing to learn");
    if (!w) return 0;
    json_object(w);
    json_span(w, "prompt", json_string(prompt));
    json_span(w, "completion", json_string(completion));
    json_object_end(w);
    return 0;
}

static int read_preference(const struct json *row, struct json_out *w, struct error *err) {
    static const char *const names[] = {"input", "preferred_output", "non_preferred_output", NULL};
    static const struct {
        const char *from, *to;
    } answers[] = {{"preferred_output", "chosen"}, {"non_preferred_output", "rejected"}};
    const struct json *input = json_get(row, "input"), *messages = json_get(input, "messages");
    int r = only_keys(row, "an example", names, err);
    if (r == 0 && json_type(input) != JSON_TYPE_OBJECT) r = error_set(err, E_INVALID, "input must be an object with messages, not %s", json_type_name(input));
    if (r == 0) r = only_keys(input, "input", (const char *const[]){"messages", NULL}, err);
    if (r == 0) r = check_messages(messages, "input.messages", false, NULL, err);
    for (int i = 0; r == 0 && i < 2; i++) r = check_messages(json_get(row, answers[i].from), answers[i].from, true, NULL, err);
    if (r < 0 || !w) return r;
    json_object(w);
    json_key(w, "prompt");
    put_messages(w, messages, 0, json_size(messages));
    for (int i = 0; i < 2; i++) {
        json_key(w, answers[i].to);
        put_messages(w, json_get(row, answers[i].from), 0, json_size(json_get(row, answers[i].from)));
    }
    json_object_end(w);
    return 0;
}

static int parse_line(struct span line, struct json **row, struct error *err) {
    line = span_trim(line);
    if (line.len > FILE_LINE_MAX) return error_set(err, E_TOO_LARGE, "it has more than %d MiB", FILE_LINE_MAX >> 20);
    if (json_parse(line, row, err) < 0) return error_prefix(err, "it is not valid JSON");
    if (json_type(*row) != JSON_TYPE_OBJECT) return error_set(err, E_INVALID, "it must be a JSON object, not %s", json_type_name(*row));
    return 0;
}

int file_row_read(struct span line, enum file_rows *rows, struct buf *out, struct error *err) {
    struct json *row = NULL;
    struct json_out writer, *w = out ? &writer : NULL;
    enum file_rows kind = FILE_ROWS_SUPERVISED;
    if (w) json_begin(w, out);
    int r = parse_line(line, &row, err);
    if (r == 0) {
        if (json_get(row, "messages")) r = read_chat(row, w, err);
        else if (json_get(row, "prompt") || json_get(row, "completion")) r = read_completion(row, w, err);
        else if (json_get(row, "input") || json_get(row, "preferred_output")) {
            kind = FILE_ROWS_PREFERENCE;
            r = read_preference(row, w, err);
        } else
            r = error_set(err, E_INVALID, "it is no example: give messages, or prompt and completion, or input with preferred_output and non_preferred_output");
    }
    if (r == 0 && out && out->failed) r = error_set(err, out->failed, "it does not fit");
    json_free(row);
    if (r == 0) *rows = kind;
    return r;
}

int file_check(struct span text, bool train, struct file_facts *facts, struct error *err) {
    struct file_facts found = {0};
    uint64_t number = 0;
    struct span line;
    while (file_line_next(&text, &number, &line)) {
        enum file_rows rows = FILE_ROWS_NONE;
        struct json *row = NULL;
        int r = train ? file_row_read(line, &rows, NULL, err) : parse_line(line, &row, err);
        json_free(row);
        if (r == 0 && found.lines && rows != found.rows) r = error_set(err, E_INVALID, "the lines before it are %s, and this is not", file_rows_name(found.rows));
        if (r < 0) {
            (void)error_prefix(err, "line %llu", (unsigned long long)number);
            if (err) span_copy(err->param, sizeof err->param, SPAN("file"));
            return r;
        }
        found.rows = rows;
        found.lines++;
    }
    if (!found.lines) return error_set_param(err, E_INVALID, "file", "the file is empty: it must have a JSON object on each line");
    *facts = found;
    return 0;
}
