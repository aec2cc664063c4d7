/* POST /v1/chat/completions: the request as OpenAI defines it, read into a GenerateRequest. What is known there and not built here (audio, …) is checked for
 * form all the same, so that a request that is wrong hears so first. */
#include "generate_request.h"

static const char *const ROLES[] = {"system", "developer", "user", "assistant", "tool", "function"};

static bool one_of(struct span s, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (span_eq_str(s, names[i])) return true;
    return false;
}

/* "messages.3.content" */
static const char *path(char text[ERROR_PARAM_MAX], size_t i, const char *field) {
    (void)snprintf(text, ERROR_PARAM_MAX, "messages.%zu%s%s", i, *field ? "." : "", field);
    return text;
}

/* A string, or a list of parts of which the text ones are joined. */
static int take_content(struct generate_request *r, size_t i, const struct json *v, char **out, struct error *err) {
    char param[ERROR_PARAM_MAX];
    struct buf text;
    int code = 0;
    path(param, i, "content");
    if (json_type(v) == JSON_TYPE_STRING) return take_text(r, param, v, SIZE_MAX, out, err);
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(param, "a string or a list of parts", v, err);
    if (json_size(v) == 0) return error_set_param(err, E_INVALID, param, "'%s' has no parts", param);
    buf_init(&text, REQUEST_ARENA_MAX);
    for (size_t k = 0; code == 0 && k < json_size(v); k++) {
        static const char *const not_built[] = {"image_url", "input_audio", "file", "refusal"};
        const struct json *part = json_at(v, k), *piece = json_get(part, "text");
        struct span type = json_string(json_get(part, "type"));
        if (json_type(part) != JSON_TYPE_OBJECT) code = error_set_param(err, E_INVALID, param, "'%s': each part must be an object", param);
        else if (one_of(type, not_built, 4)) note_unsupported(r, param);
        else if (!span_eq_str(type, "text")) code = error_set_param(err, E_INVALID, param, "'%s': a part is of no known type", param);
        else if (json_type(piece) != JSON_TYPE_STRING) code = error_set_param(err, E_INVALID, param, "'%s': a part of type text needs a string 'text'", param);
        else if (buf_append_span(&text, json_string(piece)) < 0) code = error_set_param(err, E_TOO_LARGE, param, "'%s' is too large", param);
    }
    if (code == 0 && !(*out = text_in_arena(r->arena, buf_span(&text)))) code = error_set_param(err, E_TOO_LARGE, param, "'%s' is too large", param);
    buf_fini(&text);
    return code;
}

static int no_room(const char *param, struct error *err) { return error_set_param(err, E_TOO_LARGE, param, "'%s' is too large", param); }

/* The calls that an assistant's message made. */
static int take_calls(struct generate_request *r, const char *param, const struct json *calls, Genloop__V1__ChatMessage *m, struct error *err) {
    size_t n = json_size(calls);
    Genloop__V1__ToolCall *list = arena_calloc(r->arena, n, sizeof *list);
    m->tool_calls = arena_calloc(r->arena, n, sizeof *m->tool_calls);
    if (!list || !m->tool_calls) return no_room(param, err);
    for (size_t k = 0; k < n; k++) {
        const struct json *function = json_get(json_at(calls, k), "function"), *id = json_get(json_at(calls, k), "id");
        if (json_type(id) != JSON_TYPE_STRING || json_type(json_get(function, "name")) != JSON_TYPE_STRING || json_type(json_get(function, "arguments")) != JSON_TYPE_STRING)
            return error_set_param(err, E_INVALID, param, "'%s': a call needs id, function.name and function.arguments", param);
        genloop__v1__tool_call__init(&list[k]);
        list[k].id = text_in_arena(r->arena, json_string(id));
        list[k].name = text_in_arena(r->arena, json_string(json_get(function, "name")));
        list[k].arguments = text_in_arena(r->arena, json_string(json_get(function, "arguments")));
        list[k].index = (uint32_t)k;
        if (!list[k].id || !list[k].name || !list[k].arguments) return no_room(param, err);
        m->tool_calls[m->n_tool_calls++] = &list[k];
    }
    return 0;
}

static int take_message(struct generate_request *r, size_t i, const struct json *v, Genloop__V1__ChatMessage *m, struct error *err) {
    static const char *const known[] = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "function_call", "audio", "annotations", "reasoning_content"};
    char param[ERROR_PARAM_MAX];
    void *iterator = NULL;
    struct span name;
    const struct json *value;
    int code = 0;
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(path(param, i, ""), "an object", v, err);
    while (json_next(v, &iterator, &name, &value))
        if (!one_of(name, known, sizeof known / sizeof *known)) return error_set_param(err, E_INVALID, path(param, i, ""), "'%s' has an unrecognized '%.*s'", param, (int)(name.len < 64 ? name.len : 64), name.data);
    struct span role = json_string(json_get(v, "role"));
    const struct json *content = json_get(v, "content"), *calls = json_get(v, "tool_calls");
    if (!one_of(role, ROLES, sizeof ROLES / sizeof *ROLES)) return error_set_param(err, E_INVALID, path(param, i, "role"), "'%s' must be system, developer, user, assistant or tool", param);
    m->role = span_eq_str(role, "function") ? (char *)"tool" : text_in_arena(r->arena, role);
    if (!m->role) return error_set_param(err, E_TOO_LARGE, "messages", "'messages' is too large");
    bool assistant = span_eq_str(role, "assistant"), tool = span_eq_str(role, "tool");
    if (!json_is_null(calls)) {
        path(param, i, "tool_calls");
        if (!assistant) return error_set_param(err, E_INVALID, param, "'%s' is for the assistant's messages", param);
        if (json_type(calls) != JSON_TYPE_ARRAY || json_size(calls) == 0) return wrong_type(param, "a list of calls", calls, err);
        if ((code = take_calls(r, param, calls, m, err)) < 0) return code;
    }
    if (!json_is_null(json_get(v, "function_call")) || !json_is_null(json_get(v, "audio"))) note_unsupported(r, path(param, i, json_is_null(json_get(v, "audio")) ? "function_call" : "audio"));
    if (tool) {
        if (json_type(json_get(v, "tool_call_id")) != JSON_TYPE_STRING) return error_set_param(err, E_INVALID, path(param, i, "tool_call_id"), "'%s' must be a string", param);
        if ((code = take_text(r, param, json_get(v, "tool_call_id"), USER_MAX, &m->tool_call_id, err)) < 0) return code;
    }
    if (!json_is_null(json_get(v, "name")) && (code = take_text(r, path(param, i, "name"), json_get(v, "name"), USER_MAX, &m->name, err)) < 0) return code;
    if (!json_is_null(json_get(v, "reasoning_content")) && (code = take_text(r, path(param, i, "reasoning_content"), json_get(v, "reasoning_content"), SIZE_MAX, &m->reasoning, err)) < 0) return code;
    if (!json_is_null(content)) return take_content(r, i, content, &m->content, err);
    if (assistant && (!json_is_null(calls) || !json_is_null(json_get(v, "refusal")) || !json_is_null(json_get(v, "function_call")))) return 0;
    return error_set_param(err, E_INVALID, path(param, i, "content"), "'%s' is required", param);
}

int take_messages(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    size_t n = json_size(v);
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "a list of messages", v, err);
    if (n == 0) return error_set_param(err, E_INVALID, name, "'messages' is empty: at least one is needed");
    if (n > MESSAGES_MAX) return error_set_param(err, E_INVALID, name, "'messages' must have at most %d messages", MESSAGES_MAX);
    Genloop__V1__ChatMessage *messages = arena_calloc(r->arena, n, sizeof *messages);
    r->message.messages = arena_calloc(r->arena, n, sizeof *r->message.messages);
    if (!messages || !r->message.messages) return error_set_param(err, E_TOO_LARGE, name, "'messages' is too large");
    for (size_t i = 0; i < n; i++) {
        genloop__v1__chat_message__init(&messages[i]);
        int code = take_message(r, i, json_at(v, i), &messages[i], err);
        if (code < 0) return code;
        r->message.messages[i] = &messages[i];
    }
    r->message.n_messages = n;
    return 0;
}

static int take_logprobs(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    bool flag = false;
    int code = take_flag(name, v, &flag, err);
    if (code == 0) r->message.logprobs = flag;
    return code;
}

static int take_top_logprobs(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t n;
    int code = take_integer(name, v, 0, TOP_LOGPROBS_MAX, &n, err);
    if (code < 0) return code;
    r->has_top_logprobs = true;
    r->message.top_logprobs = (uint32_t)n;
    return 0;
}

/* ---- known, not built: checked for form ---- */

int take_tools(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "a list of tools", v, err);
    if (json_size(v) > TOOLS_MAX) return error_set_param(err, E_INVALID, name, "'tools' must have at most %d functions", TOOLS_MAX);
    for (size_t i = 0; i < json_size(v); i++) {
        const struct json *tool = json_at(v, i), *function = json_get(tool, "function"), *parameters = json_get(function, "parameters");
        if (json_type(tool) != JSON_TYPE_OBJECT || !span_eq_str(json_string(json_get(tool, "type")), "function") || json_string(json_get(function, "name")).len == 0)
            return error_set_param(err, E_INVALID, name, "'tools': number %zu must be {\"type\":\"function\",\"function\":{\"name\":…}}", i);
        if (!json_is_null(parameters) && json_type(parameters) != JSON_TYPE_OBJECT) return error_set_param(err, E_INVALID, name, "'tools': the parameters of number %zu must be a JSON schema", i);
    }
    r->tools = v;
    return 0;
}

/* A value as JSON text in the arena. */
static char *json_in_arena(struct arena *arena, const struct json *v) {
    struct buf text;
    buf_init(&text, REQUEST_ARENA_MAX);
    char *out = json_write(&text, v) == 0 ? text_in_arena(arena, buf_span(&text)) : NULL;
    buf_fini(&text);
    return out;
}

/* A tool's function, and a choice's: of chats in an object of its own, of responses beside the type. */
static const struct json *function_of(const struct json *v) {
    const struct json *function = json_get(v, "function");
    return function ? function : v;
}

int put_tools(struct generate_request *r, struct error *err) {
    size_t n = json_size(r->tools);
    Genloop__V1__Tool *list = arena_calloc(r->arena, n + 1, sizeof *list);
    r->message.tools = arena_calloc(r->arena, n + 1, sizeof *r->message.tools);
    if (!list || !r->message.tools) return no_room("tools", err);
    for (size_t i = 0; i < n; i++) {
        const struct json *function = function_of(json_at(r->tools, i)), *parameters = json_get(function, "parameters");
        genloop__v1__tool__init(&list[i]);
        list[i].name = text_in_arena(r->arena, json_string(json_get(function, "name")));
        list[i].description = text_in_arena(r->arena, json_string(json_get(function, "description")));
        if (!json_is_null(parameters)) list[i].parameters = json_in_arena(r->arena, parameters);
        list[i].strict = json_bool(json_get(function, "strict"), false);
        if (!list[i].name || !list[i].description || !list[i].parameters) return no_room("tools", err);
        r->message.tools[i] = &list[i];
    }
    r->message.n_tools = n;
    return 0;
}

static int take_tool_choice(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    static const char *const words[] = {"none", "auto", "required"};
    if (json_type(v) == JSON_TYPE_STRING ? !one_of(json_string(v), words, 3) : json_string(json_get(json_get(v, "function"), "name")).len == 0)
        return error_set_param(err, E_INVALID, name, "'tool_choice' must be none, auto, required or {\"type\":\"function\",\"function\":{\"name\":…}}");
    r->tool_choice = v;
    return 0;
}

static int take_modalities(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_ARRAY || json_size(v) == 0) return wrong_type(name, "a list", v, err);
    for (size_t i = 0; i < json_size(v); i++) {
        struct span kind = json_string(json_at(v, i));
        if (span_eq_str(kind, "audio")) note_unsupported(r, name);
        else if (!span_eq_str(kind, "text")) return error_set_param(err, E_INVALID, name, "'modalities' must be of text and audio");
    }
    return 0;
}

/* true asks for what is not built; false is how it is. */
int take_only_false(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    bool flag = false;
    int code = take_flag(name, v, &flag, err);
    if (code == 0 && flag) note_unsupported(r, name);
    return code;
}

int take_parallel_calls(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    bool flag = true;
    int code = take_flag(name, v, &flag, err);
    if (code == 0) r->message.one_tool_call = !flag;
    return code;
}

int take_template_arguments(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(name, "an object", v, err);
    return (r->message.template_arguments = json_in_arena(r->arena, v)) ? 0 : no_room(name, err);
}

static int take_object_unsupported(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(name, "an object", v, err);
    if (json_size(v) > 0) note_unsupported(r, name);
    return 0;
}

static int take_word_unsupported(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    if (json_type(v) != JSON_TYPE_STRING) return wrong_type(name, "a string", v, err);
    note_unsupported(r, name);
    return 0;
}

static int take_max_completion_tokens(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t n;
    int code = take_integer(name, v, 1, MAX_TOKENS_MAX, &n, err);
    if (code < 0) return code;
    r->has_max_completion_tokens = true;
    r->message.max_tokens_set_case = GENLOOP__V1__GENERATE_REQUEST__MAX_TOKENS_SET_MAX_TOKENS;
    r->message.max_tokens = (uint32_t)n;
    return 0;
}

static const struct parameter CHAT_PARAMETERS[] = {
    {"messages", take_messages},
    {"max_completion_tokens", take_max_completion_tokens},
    {"logprobs", take_logprobs},
    {"top_logprobs", take_top_logprobs},
    {"parallel_tool_calls", take_parallel_calls},
    {"chat_template_kwargs", take_template_arguments},
    {"tools", take_tools},
    {"tool_choice", take_tool_choice},
    {"modalities", take_modalities},
    {"store", take_only_false},
    {"metadata", take_object_unsupported},
    {"audio", take_object_unsupported},
    {"prediction", take_object_unsupported},
    {"web_search_options", take_object_unsupported},
    {"functions", take_unsupported},
    {"function_call", take_unsupported},
    {"reasoning_effort", take_word_unsupported},
    {"verbosity", take_word_unsupported},
};

int tools_finish(struct generate_request *r, struct error *err) {
    struct span wanted = json_string(json_get(function_of(r->tool_choice), "name")), word = json_string(r->tool_choice);
    bool free_to = !r->tool_choice || span_eq_str(word, "none") || span_eq_str(word, "auto"), found = wanted.len == 0;
    if (json_size(r->tools) == 0) return free_to ? 0 : error_set_param(err, E_INVALID, "tool_choice", "'tool_choice' is given without 'tools'");
    for (size_t i = 0; !found && i < json_size(r->tools); i++) found = span_eq(wanted, json_string(json_get(function_of(json_at(r->tools, i)), "name")));
    if (!found) return error_set_param(err, E_INVALID, "tool_choice", "'tool_choice' names a function that is not among 'tools'");
    if (wanted.len && !(r->message.tool_name = text_in_arena(r->arena, wanted))) return no_room("tool_choice", err);
    r->message.tool_choice = (char *)(wanted.len || span_eq_str(word, "required") ? "required" : span_eq_str(word, "none") ? "none" : "auto");
    return put_tools(r, err);
}

int chat_request_read(struct generate_request *r, struct arena *arena, const struct json *body, struct error *err) {
    *r = (struct generate_request){.arena = arena, .n = 1, .best_of = 1, .chat = true};
    genloop__v1__generate_request__init(&r->message);
    int code = parameters_read(r, body, CHAT_PARAMETERS, sizeof CHAT_PARAMETERS / sizeof *CHAT_PARAMETERS, SHARED_PARAMETERS, SHARED_PARAMETERS_COUNT, err);
    if (code < 0) return code;
    if (!r->message.model[0]) return parameters_finish(r, err);
    if (r->message.n_messages == 0) return error_set_param(err, E_INVALID, "messages", "'messages' is required");
    if (r->has_top_logprobs && !r->message.logprobs) return error_set_param(err, E_INVALID, "top_logprobs", "'top_logprobs' needs 'logprobs': true");
    if ((code = tools_finish(r, err)) < 0) return code;
    r->best_of = r->n;
    r->message.n = r->n;
    return parameters_finish(r, err);
}
