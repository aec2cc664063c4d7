#include "response_answer.h"

enum { ITEM_ID_MAX = 192 };

void response_answer_init(struct response_answer *a) {
    *a = (struct response_answer){0};
    buf_init(&a->output, ANSWER_TEXT_MAX * 4);
    buf_init(&a->text, ANSWER_TEXT_MAX);
    buf_init(&a->logprobs, ANSWER_TEXT_MAX * 4);
}

void response_answer_fini(struct response_answer *a) {
    buf_fini(&a->output);
    buf_fini(&a->text);
    buf_fini(&a->logprobs);
}

/* ---- the response itself ---- */

/* What is repeated of the request, and what stands for what it does not say. */
static const struct {
    const char *name, *otherwise;
} ECHO[] = {
    {"instructions", "null"},
    {"max_output_tokens", "null"},
    {"max_tool_calls", "null"},
    {"metadata", "{}"},
    {"parallel_tool_calls", "true"},
    {"previous_response_id", "null"},
    {"prompt_cache_key", "null"},
    {"reasoning", "{\"effort\":null,\"summary\":null}"},
    {"safety_identifier", "null"},
    {"temperature", "null"}, /* the model's own, which the gateway does not know */
    {"text", "{\"format\":{\"type\":\"text\"}}"},
    {"tool_choice", "\"auto\""},
    {"tools", "[]"},
    {"top_logprobs", "0"},
    {"top_p", "null"},
    {"truncation", "\"disabled\""},
    {"user", "null"},
};

static void write_usage(struct json_out *w, const struct answer_usage *u) {
    json_key(w, "usage");
    json_object(w);
    json_num(w, "input_tokens", (int64_t)u->prompt_tokens);
    json_key(w, "input_tokens_details");
    json_object(w);
    json_num(w, "cached_tokens", (int64_t)u->cached_tokens);
    json_object_end(w);
    json_num(w, "output_tokens", (int64_t)u->completion_tokens);
    json_key(w, "output_tokens_details");
    json_object(w);
    json_num(w, "reasoning_tokens", (int64_t)u->reasoning_tokens);
    json_object_end(w);
    json_num(w, "total_tokens", (int64_t)(u->prompt_tokens + u->completion_tokens));
    json_object_end(w);
}

static void write_response(struct json_out *w, const struct response_answer *a, const char *status, const struct error *why) {
    bool over = strcmp(status, "in_progress") != 0;
    json_object(w);
    json_str(w, "id", a->id);
    json_str(w, "object", "response");
    json_num(w, "created_at", a->created_s);
    json_str(w, "status", status);
    json_flag(w, "background", false);
    json_key(w, "error");
    if (why) {
        json_object(w);
        json_str(w, "code", "server_error");
        json_str(w, "message", why->message);
        json_object_end(w);
    } else json_put_null(w);
    json_key(w, "incomplete_details");
    if (!why && over && a->cut) {
        json_object(w);
        json_str(w, "reason", "max_output_tokens");
        json_object_end(w);
    } else json_put_null(w);
    json_str(w, "model", a->model);
    answer_list_write(w, "output", &a->output);
    json_str(w, "service_tier", "default");
    json_flag(w, "store", a->stored);
    for (size_t i = 0; i < sizeof ECHO / sizeof *ECHO; i++) {
        const struct json *said = json_get(a->asked, ECHO[i].name);
        json_key(w, ECHO[i].name);
        if (json_is_null(said)) json_put_raw(w, span_str(ECHO[i].otherwise));
        else json_put_value(w, said);
    }
    if (over && !why) write_usage(w, &a->usage);
    else json_str(w, "usage", NULL);
    json_object_end(w);
    if (a->output.failed) w->out->failed = a->output.failed;
}

static const char *status_of(const struct response_answer *a, const struct error *why) { return why ? "failed" : a->cut ? "incomplete" : "completed"; }

void response_answer_write(struct buf *out, const struct response_answer *a, const struct error *why) {
    struct json_out w;
    json_begin(&w, out);
    write_response(&w, a, status_of(a, why), why);
}

/* ---- events: the object stays open until end_event ---- */

static void begin_event(struct response_answer *a, struct json_out *w, struct buf *events, const char *type) {
    (void)buf_printf(events, "event: %s\ndata: ", type);
    json_begin(w, events);
    json_object(w);
    json_str(w, "type", type);
    json_num(w, "sequence_number", a->sequence++);
}
static void end_event(struct json_out *w) {
    json_object_end(w);
    (void)buf_append_str(w->out, "\n\n");
}

static void tell_response(struct response_answer *a, struct buf *events, const char *type, const char *status, const struct error *why) {
    struct json_out w;
    begin_event(a, &w, events, type);
    json_key(&w, "response");
    write_response(&w, a, status, why);
    end_event(&w);
}

static void begin(struct response_answer *a, struct buf *events) {
    if (a->begun) return;
    a->begun = true;
    if (!events) return;
    tell_response(a, events, "response.created", "in_progress", NULL);
    tell_response(a, events, "response.in_progress", "in_progress", NULL);
}

void response_answer_end(struct response_answer *a, const struct error *why, struct buf *events) {
    static const char *const types[] = {"response.completed", "response.incomplete", "response.failed"};
    begin(a, events);
    tell_response(a, events, types[why ? 2 : a->cut], status_of(a, why), why);
}

/* ---- items ---- */

static const char *item_id(const struct response_answer *a, const char *prefix, char id[ITEM_ID_MAX]) {
    (void)snprintf(id, ITEM_ID_MAX, "%s_%s.%u", prefix, a->stem, a->n_items);
    return id;
}
static const char *open_id(const struct response_answer *a, char id[ITEM_ID_MAX]) { return item_id(a, a->open == RESPONSE_REASONING ? "rs" : "msg", id); }

static void put_empty_list(struct json_out *w, const char *key) {
    json_key(w, key);
    json_array(w);
    json_array_end(w);
}

/* {"type":"output_text",…} or {"type":"reasoning_text",…}; text NULL: that which is open. */
static void write_part(struct json_out *w, const struct response_answer *a, bool empty) {
    static const struct buf nothing;
    bool message = a->open == RESPONSE_MESSAGE;
    json_object(w);
    json_str(w, "type", message ? "output_text" : "reasoning_text");
    json_span(w, "text", empty ? SPAN("") : buf_span(&a->text));
    if (message) {
        put_empty_list(w, "annotations");
        answer_list_write(w, "logprobs", empty ? &nothing : &a->logprobs);
    }
    json_object_end(w);
}

/* The item that is open: as it begins, or whole. */
static void write_open(struct json_out *w, const struct response_answer *a, const char *status, bool empty) {
    char id[ITEM_ID_MAX];
    bool message = a->open == RESPONSE_MESSAGE;
    json_object(w);
    json_str(w, "id", open_id(a, id));
    json_str(w, "type", message ? "message" : "reasoning");
    json_str(w, "status", status);
    if (message) json_str(w, "role", "assistant");
    else put_empty_list(w, "summary");
    json_key(w, "content");
    json_array(w);
    if (!empty) write_part(w, a, false);
    json_array_end(w);
    json_object_end(w);
}

static void begin_part_event(struct response_answer *a, struct json_out *w, struct buf *events, const char *type) {
    char id[ITEM_ID_MAX];
    begin_event(a, w, events, type);
    json_str(w, "item_id", open_id(a, id));
    json_num(w, "output_index", a->n_items);
    json_num(w, "content_index", 0);
}

static void begin_item_event(struct response_answer *a, struct json_out *w, struct buf *events, const char *type) {
    begin_event(a, w, events, type);
    json_num(w, "output_index", a->n_items);
    json_key(w, "item");
}

static void next_item(struct response_answer *a, struct json_out *w) {
    if (a->output.len) (void)buf_append_char(&a->output, ',');
    json_begin(w, &a->output);
}

static void close_item(struct response_answer *a, const char *status, struct buf *events) {
    struct json_out w;
    bool message = a->open == RESPONSE_MESSAGE;
    if (a->open == RESPONSE_NONE) return;
    next_item(a, &w);
    write_open(&w, a, status, false);
    if (a->text.failed) a->output.failed = a->text.failed;
    if (events) {
        begin_part_event(a, &w, events, message ? "response.output_text.done" : "response.reasoning_text.done");
        json_span(&w, "text", buf_span(&a->text));
        if (message) answer_list_write(&w, "logprobs", &a->logprobs);
        end_event(&w);
        begin_part_event(a, &w, events, "response.content_part.done");
        json_key(&w, "part");
        write_part(&w, a, false);
        end_event(&w);
        begin_item_event(a, &w, events, "response.output_item.done");
        write_open(&w, a, status, false);
        end_event(&w);
    }
    a->n_items++;
    a->open = RESPONSE_NONE;
}

static void open_item(struct response_answer *a, enum response_open kind, struct buf *events) {
    struct json_out w;
    if (a->open == kind) return;
    close_item(a, "completed", events);
    a->open = kind;
    buf_clear(&a->text);
    buf_clear(&a->logprobs);
    if (!events) return;
    begin_item_event(a, &w, events, "response.output_item.added");
    write_open(&w, a, "in_progress", true);
    end_event(&w);
    begin_part_event(a, &w, events, "response.content_part.added");
    json_key(&w, "part");
    write_part(&w, a, true);
    end_event(&w);
}

/* Text or reasoning, with the log-probabilities of a message's own tokens. */
static void add_text(struct response_answer *a, enum response_open kind, const char *text, const struct buf *logprobs, struct buf *events) {
    struct json_out w;
    open_item(a, kind, events);
    (void)buf_append_str(&a->text, text);
    if (logprobs->len) {
        if (a->logprobs.len) (void)buf_append_char(&a->logprobs, ',');
        (void)buf_append_span(&a->logprobs, buf_span(logprobs));
        if (a->logprobs.failed) a->output.failed = a->logprobs.failed;
    }
    if (!events) return;
    begin_part_event(a, &w, events, kind == RESPONSE_MESSAGE ? "response.output_text.delta" : "response.reasoning_text.delta");
    json_str(&w, "delta", text);
    if (kind == RESPONSE_MESSAGE) answer_list_write(&w, "logprobs", logprobs);
    end_event(&w);
}

static void write_call(struct json_out *w, const struct response_answer *a, const Genloop__V1__ToolCall *call, bool whole) {
    char id[ITEM_ID_MAX];
    json_object(w);
    json_str(w, "id", item_id(a, "fc", id));
    json_str(w, "type", "function_call");
    json_str(w, "status", whole ? "completed" : "in_progress");
    json_str(w, "call_id", call->id);
    json_str(w, "name", call->name);
    json_str(w, "arguments", whole ? call->arguments : "");
    json_object_end(w);
}

static void begin_call_event(struct response_answer *a, struct json_out *w, struct buf *events, const char *type) {
    char id[ITEM_ID_MAX];
    begin_event(a, w, events, type);
    json_str(w, "item_id", item_id(a, "fc", id));
    json_num(w, "output_index", a->n_items);
}

/* A replica tells of a call when it is whole. */
static void add_call(struct response_answer *a, const Genloop__V1__ToolCall *call, struct buf *events) {
    struct json_out w;
    close_item(a, "completed", events);
    next_item(a, &w);
    write_call(&w, a, call, true);
    if (events) {
        begin_item_event(a, &w, events, "response.output_item.added");
        write_call(&w, a, call, false);
        end_event(&w);
        begin_call_event(a, &w, events, "response.function_call_arguments.delta");
        json_str(&w, "delta", call->arguments);
        end_event(&w);
        begin_call_event(a, &w, events, "response.function_call_arguments.done");
        json_str(&w, "name", call->name);
        json_str(&w, "arguments", call->arguments);
        end_event(&w);
        begin_item_event(a, &w, events, "response.output_item.done");
        write_call(&w, a, call, true);
        end_event(&w);
    }
    a->n_items++;
}

void response_answer_add(struct response_answer *a, const Genloop__V1__GenerateReply *reply, struct buf *events) {
    static const struct buf nothing;
    struct buf logprobs;
    struct json_out w;
    begin(a, events);
    buf_init(&logprobs, ANSWER_TEXT_MAX * 4);
    for (size_t i = 0; i < reply->n_logprobs; i++) {
        if (reply->logprobs[i]->ends) continue;
        if (logprobs.len) (void)buf_append_char(&logprobs, ',');
        json_begin(&w, &logprobs);
        answer_position_write(&w, reply->logprobs[i]);
    }
    if (reply->reasoning[0]) add_text(a, RESPONSE_REASONING, reply->reasoning, &nothing, events);
    if (reply->text[0] || (logprobs.len && !reply->reasoning[0] && !reply->n_tool_calls)) add_text(a, RESPONSE_MESSAGE, reply->text, &logprobs, events);
    for (size_t i = 0; i < reply->n_tool_calls; i++) add_call(a, reply->tool_calls[i], events);
    if (strcmp(reply->finish_reason, "length") == 0) a->cut = true;
    buf_fini(&logprobs);
}

void response_answer_close(struct response_answer *a, struct buf *events) {
    begin(a, events);
    if (a->open == RESPONSE_NONE && a->n_items == 0) open_item(a, RESPONSE_MESSAGE, events);
    close_item(a, a->cut ? "incomplete" : "completed", events);
}
