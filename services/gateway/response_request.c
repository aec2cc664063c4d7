#include "response_request.h"

#define COUNT_OF(LIST) (sizeof(LIST) / sizeof *(LIST))

static bool one_of(struct span s, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (span_eq_str(s, names[i])) return true;
    return false;
}

static int no_room(const char *param, struct error *err) { return error_set_param(err, E_TOO_LARGE, param, "'%s' is too large", param); }

/* ---- items ---- */

struct reading {
    struct generate_request *r;
    const char *stem;
    const struct json *asked, *answered; /* lists, of the response before; NULL: there is none */
    const struct json *input;
    size_t n_asked, n_context, n;
    Genloop__V1__ChatMessage *messages;
    Genloop__V1__ChatMessage *turn;     /* the assistant's, which what follows may go on with; NULL: none */
    struct json_out w;                  /* of the items that are kept */
};

static const struct json *item_at(const struct reading *g, size_t i) {
    return i < g->n_asked ? json_at(g->asked, i) : i < g->n_context ? json_at(g->answered, i - g->n_asked) : json_at(g->input, i - g->n_context);
}

/* "input.3.content"; of what was kept before nothing can be wrong but what another release wrote. */
static const char *path(const struct reading *g, char text[ERROR_PARAM_MAX], size_t i, const char *field) {
    if (i < g->n_context) (void)snprintf(text, ERROR_PARAM_MAX, "previous_response_id");
    else (void)snprintf(text, ERROR_PARAM_MAX, "input.%zu%s%s", i - g->n_context, *field ? "." : "", field);
    return text;
}

static Genloop__V1__ChatMessage *add_message(struct reading *g, const char *role) {
    struct generate_request *r = g->r;
    Genloop__V1__ChatMessage *m = &g->messages[r->message.n_messages];
    genloop__v1__chat_message__init(m);
    m->role = (char *)(uintptr_t)role;
    r->message.messages[r->message.n_messages++] = m;
    g->turn = NULL;
    return m;
}

static Genloop__V1__ChatMessage *new_turn(struct reading *g) { return g->turn = add_message(g, "assistant"); }

/* A string, or the texts of parts one behind the other. `kinds`: the types of parts that are texts. */
static int take_parts(struct reading *g, const char *param, const struct json *v, const char *const *kinds, size_t n_kinds, char **out, struct error *err) {
    static const char *const not_built[] = {"input_image", "input_file", "input_audio", "refusal", "computer_screenshot"};
    struct buf text;
    int code = 0;
    if (json_type(v) == JSON_TYPE_STRING) return take_text(g->r, param, v, SIZE_MAX, out, err);
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(param, "a string or a list of parts", v, err);
    buf_init(&text, REQUEST_ARENA_MAX);
    for (size_t k = 0; code == 0 && k < json_size(v); k++) {
        const struct json *part = json_at(v, k), *piece = json_get(part, "text");
        struct span type = json_string(json_get(part, "type"));
        if (json_type(part) != JSON_TYPE_OBJECT) code = error_set_param(err, E_INVALID, param, "'%s': each part must be an object", param);
        else if (one_of(type, not_built, COUNT_OF(not_built))) note_unsupported(g->r, param);
        else if (!one_of(type, kinds, n_kinds)) code = error_set_param(err, E_INVALID, param, "'%s': a part must be of type %s", param, kinds[0]);
        else if (json_type(piece) != JSON_TYPE_STRING) code = error_set_param(err, E_INVALID, param, "'%s': a part of type %s needs a string 'text'", param, kinds[0]);
        else if (buf_append_span(&text, json_string(piece)) < 0) code = no_room(param, err);
    }
    if (code == 0 && !(*out = text_in_arena(g->r->arena, buf_span(&text)))) code = no_room(param, err);
    buf_fini(&text);
    return code;
}

/* The id that the client gave, or one that is made. */
static void write_id(struct reading *g, size_t i, const char *prefix, const struct json *given) {
    char id[RESPONSE_ITEM_ID_MAX];
    if (json_string(given).len > 0) {
        json_span(&g->w, "id", json_string(given));
        return;
    }
    (void)snprintf(id, sizeof id, "%s_%s.in%zu", prefix, g->stem, i - g->n_context);
    json_str(&g->w, "id", id);
}

static void write_texts(struct json_out *w, const char *key, const char *type, const char *text) {
    json_key(w, key);
    json_array(w);
    json_object(w);
    json_str(w, "type", type);
    json_str(w, "text", text);
    if (strcmp(type, "output_text") == 0) {
        json_key(w, "annotations");
        json_array(w);
        json_array_end(w);
    }
    json_object_end(w);
    json_array_end(w);
}

static int take_message(struct reading *g, size_t i, const struct json *v, struct error *err) {
    static const char *const roles[] = {"user", "assistant", "system", "developer"};
    static const char *const said[] = {"input_text", "text"}, *const answered[] = {"output_text", "input_text", "text"};
    char param[ERROR_PARAM_MAX], *text;
    size_t k = 0;
    struct span role = json_string(json_get(v, "role"));
    while (k < COUNT_OF(roles) && !span_eq_str(role, roles[k])) k++;
    if (k == COUNT_OF(roles)) return error_set_param(err, E_INVALID, path(g, param, i, "role"), "'%s' must be user, assistant, system or developer", param);
    bool assistant = k == 1;
    path(g, param, i, "content");
    if (json_is_null(json_get(v, "content"))) return error_set_param(err, E_INVALID, param, "'%s' is required", param);
    int code = take_parts(g, param, json_get(v, "content"), assistant ? answered : said, assistant ? 3 : 2, &text, err);
    if (code < 0) return code;
    if (!assistant) add_message(g, roles[k])->content = text;
    else if (g->turn && !g->turn->content[0] && !g->turn->n_tool_calls) g->turn->content = text;
    else new_turn(g)->content = text;
    write_id(g, i, "msg", json_get(v, "id"));
    json_str(&g->w, "type", "message");
    json_str(&g->w, "status", "completed");
    json_str(&g->w, "role", roles[k]);
    write_texts(&g->w, "content", assistant ? "output_text" : "input_text", text);
    return 0;
}

/* A word of a call: needed, and a string. */
static int take_word(struct reading *g, size_t i, const struct json *v, const char *field, char **out, struct error *err) {
    char param[ERROR_PARAM_MAX];
    path(g, param, i, field);
    if (json_string(json_get(v, field)).len == 0 && strcmp(field, "arguments") != 0) return error_set_param(err, E_INVALID, param, "'%s' is required", param);
    return take_text(g->r, param, json_get(v, field), SIZE_MAX, out, err);
}

static size_t calls_from(const struct reading *g, size_t i) {
    size_t n = 0;
    while (i + n < g->n && span_eq_str(json_string(json_get(item_at(g, i + n), "type")), "function_call")) n++;
    return n;
}

static int take_call(struct reading *g, size_t i, const struct json *v, struct error *err) {
    Genloop__V1__ToolCall *call = arena_alloc(g->r->arena, sizeof *call);
    char param[ERROR_PARAM_MAX];
    path(g, param, i, "");
    if (!call) return no_room(param, err);
    genloop__v1__tool_call__init(call);
    int code = take_word(g, i, v, "call_id", &call->id, err);
    if (code == 0) code = take_word(g, i, v, "name", &call->name, err);
    if (code == 0) code = take_word(g, i, v, "arguments", &call->arguments, err);
    if (code < 0) return code;
    Genloop__V1__ChatMessage *turn = g->turn ? g->turn : new_turn(g);
    if (turn->n_tool_calls == 0 && !(turn->tool_calls = arena_calloc(g->r->arena, calls_from(g, i), sizeof *turn->tool_calls))) return no_room(param, err); /* a turn's calls stand one behind the other */
    call->index = (uint32_t)turn->n_tool_calls;
    turn->tool_calls[turn->n_tool_calls++] = call;
    write_id(g, i, "fc", json_get(v, "id"));
    json_str(&g->w, "type", "function_call");
    json_str(&g->w, "status", "completed");
    json_str(&g->w, "call_id", call->id);
    json_str(&g->w, "name", call->name);
    json_str(&g->w, "arguments", call->arguments);
    return 0;
}

static int take_output(struct reading *g, size_t i, const struct json *v, struct error *err) {
    static const char *const texts[] = {"input_text", "output_text", "text"};
    char param[ERROR_PARAM_MAX], *id, *text;
    int code = take_word(g, i, v, "call_id", &id, err);
    if (code == 0) code = take_parts(g, path(g, param, i, "output"), json_get(v, "output"), texts, COUNT_OF(texts), &text, err);
    if (code < 0) return code;
    Genloop__V1__ChatMessage *m = add_message(g, "tool");
    m->tool_call_id = id;
    m->content = text;
    write_id(g, i, "fco", json_get(v, "id"));
    json_str(&g->w, "type", "function_call_output");
    json_str(&g->w, "status", "completed");
    json_str(&g->w, "call_id", id);
    json_str(&g->w, "output", text);
    return 0;
}

static int take_thoughts(struct reading *g, size_t i, const struct json *v, struct error *err) {
    static const char *const texts[] = {"reasoning_text", "summary_text"};
    char param[ERROR_PARAM_MAX], *text = (char *)(uintptr_t)protobuf_c_empty_string;
    const struct json *content = json_get(v, "content"), *summary = json_get(v, "summary");
    bool whole = json_size(content) > 0;
    int code = 0;
    if (!json_is_null(json_get(v, "encrypted_content"))) note_unsupported(g->r, path(g, param, i, "encrypted_content"));
    if (whole || !json_is_null(summary)) code = take_parts(g, path(g, param, i, whole ? "content" : "summary"), whole ? content : summary, texts, COUNT_OF(texts), &text, err);
    if (code < 0) return code;
    new_turn(g)->reasoning = text;
    write_id(g, i, "rs", json_get(v, "id"));
    json_str(&g->w, "type", "reasoning");
    json_key(&g->w, "summary");
    json_array(&g->w);
    json_array_end(&g->w);
    write_texts(&g->w, "content", "reasoning_text", text);
    return 0;
}

/* What is not ours of an item's fields would be lost: it is refused, but for what says nothing. */
static int check_fields(const struct reading *g, size_t i, const struct json *v, struct error *err) {
    static const char *const known[] = {"id", "type", "role", "content", "status", "call_id", "name", "arguments", "output", "summary", "encrypted_content"};
    char param[ERROR_PARAM_MAX];
    void *iterator = NULL;
    struct span name;
    const struct json *value;
    path(g, param, i, "");
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(param, "an object", v, err);
    while (json_next(v, &iterator, &name, &value))
        if (!json_is_null(value) && !one_of(name, known, COUNT_OF(known))) return error_set_param(err, E_INVALID, param, "'%s' has an unrecognized '%.*s'", param, (int)(name.len < 64 ? name.len : 64), name.data);
    const struct json *id = json_get(v, "id");
    if (!json_is_null(id) && json_type(id) != JSON_TYPE_STRING) return wrong_type(path(g, param, i, "id"), "a string", id, err);
    if (json_string(id).len >= RESPONSE_ITEM_ID_MAX) return error_set_param(err, E_INVALID, path(g, param, i, "id"), "'%s' must have at most %d bytes", param, RESPONSE_ITEM_ID_MAX - 1);
    return 0;
}

static int take_item(struct reading *g, size_t i, struct error *err) {
    static const char *const not_built[] = {"item_reference", "file_search_call", "computer_call", "computer_call_output", "web_search_call", "image_generation_call", "code_interpreter_call", "local_shell_call",
                                            "local_shell_call_output", "shell_call", "shell_call_output", "apply_patch_call", "apply_patch_call_output", "mcp_list_tools", "mcp_approval_request",
                                            "mcp_approval_response", "mcp_call", "custom_tool_call", "custom_tool_call_output", "compaction"};
    const struct json *v = item_at(g, i);
    char param[ERROR_PARAM_MAX];
    struct span type = json_string(json_get(v, "type"));
    int code;
    if (json_type(v) == JSON_TYPE_OBJECT && one_of(type, not_built, COUNT_OF(not_built))) {
        note_unsupported(g->r, path(g, param, i, "type"));
        g->turn = NULL; /* what follows has no room in the turn before: calls_from */
        return 0;
    }
    if ((code = check_fields(g, i, v, err)) < 0) return code;
    json_object(&g->w);
    if (span_eq_str(type, "message") || json_is_null(json_get(v, "type"))) code = take_message(g, i, v, err);
    else if (span_eq_str(type, "function_call")) code = take_call(g, i, v, err);
    else if (span_eq_str(type, "function_call_output")) code = take_output(g, i, v, err);
    else if (span_eq_str(type, "reasoning")) code = take_thoughts(g, i, v, err);
    else code = error_set_param(err, E_INVALID, path(g, param, i, "type"), "'%s' must be message, function_call, function_call_output or reasoning", param);
    json_object_end(&g->w);
    return code;
}

static void write_string_input(struct reading *g, const char *text) {
    char id[RESPONSE_ITEM_ID_MAX];
    (void)snprintf(id, sizeof id, "msg_%s.in0", g->stem);
    json_object(&g->w);
    json_str(&g->w, "id", id);
    json_str(&g->w, "type", "message");
    json_str(&g->w, "status", "completed");
    json_str(&g->w, "role", "user");
    write_texts(&g->w, "content", "input_text", text);
    json_object_end(&g->w);
}

static int read_items(struct reading *g, const struct json *body, struct buf *items, struct error *err) {
    struct generate_request *r = g->r;
    const struct json *input = json_get(body, "input"), *instructions = json_get(body, "instructions");
    bool text = json_type(input) == JSON_TYPE_STRING;
    int code = 0;
    g->n_asked = json_size(g->asked);
    g->n_context = g->n_asked + json_size(g->answered);
    g->n = g->n_context + (text ? 0 : json_size(input));
    g->input = input;
    if (g->n + text > MESSAGES_MAX - 1) return error_set_param(err, E_INVALID, g->n_context ? "previous_response_id" : "input", "a conversation must have at most %d items", MESSAGES_MAX - 1);
    g->messages = arena_calloc(r->arena, g->n + 2, sizeof *g->messages);
    r->message.messages = arena_calloc(r->arena, g->n + 2, sizeof *r->message.messages);
    if (!g->messages || !r->message.messages) return no_room("input", err);
    if (!json_is_null(instructions)) {
        char *said;
        if ((code = take_text(r, "instructions", instructions, SIZE_MAX, &said, err)) < 0) return code;
        if (said[0]) add_message(g, "system")->content = said;
    }
    json_begin(&g->w, items);
    json_array(&g->w);
    for (size_t i = 0; code == 0 && i < g->n; i++) code = take_item(g, i, err);
    if (code == 0 && text) {
        char *said;
        if ((code = take_text(r, "input", input, SIZE_MAX, &said, err)) < 0) return code;
        add_message(g, "user")->content = said;
        write_string_input(g, said);
    }
    json_array_end(&g->w);
    return code;
}

/* ---- parameters ---- */

static int take_input(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    (void)r;
    if (json_type(v) == JSON_TYPE_STRING) return json_string(v).len ? 0 : error_set_param(err, E_INVALID, name, "'input' is empty");
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "a string or a list of items", v, err);
    return json_size(v) ? 0 : error_set_param(err, E_INVALID, name, "'input' is an empty list");
}

/* Instructions and previous_response_id are read where they are needed: here it is seen that they are strings. */
static int take_string(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    (void)r;
    return json_type(v) == JSON_TYPE_STRING ? 0 : wrong_type(name, "a string", v, err);
}

static int take_previous(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int code = take_string(r, name, v, err);
    if (code == 0 && json_string(v).len >= RESPONSE_ITEM_ID_MAX) code = error_set_param(err, E_INVALID, name, "'%s' must have at most %d bytes", name, RESPONSE_ITEM_ID_MAX - 1);
    return code == 0 && json_string(v).len == 0 ? error_set_param(err, E_INVALID, name, "'%s' is empty", name) : code;
}

static int take_max_output_tokens(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    return take_token_limit(r, name, v, 1, err);
}

/* It bounds the calls of tools that OpenAI runs itself; there are none here, so that any bound is kept. */
static int take_max_tool_calls(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t n;
    (void)r;
    return take_integer(name, v, 1, RESPONSE_TOOL_CALLS_MAX, &n, err);
}

static int take_top_logprobs(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    int64_t n;
    int code = take_integer(name, v, 0, TOP_LOGPROBS_MAX, &n, err);
    if (code < 0) return code;
    r->message.top_logprobs = (uint32_t)n;
    if (n > 0) r->message.logprobs = true;
    return 0;
}

static int take_include(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    static const char *const not_built[] = {"reasoning.encrypted_content", "file_search_call.results", "web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url",
                                            "computer_call_output.output.image_url", "code_interpreter_call.outputs"};
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "a list", v, err);
    for (size_t i = 0; i < json_size(v); i++) {
        struct span word = json_string(json_at(v, i));
        if (span_eq_str(word, "message.output_text.logprobs")) r->message.logprobs = true;
        else if (one_of(word, not_built, COUNT_OF(not_built))) {
            char param[ERROR_PARAM_MAX];
            (void)snprintf(param, sizeof param, "include: %.*s", SPAN_ARG(word));
            note_unsupported(r, param);
        } else return error_set_param(err, E_INVALID, name, "'include' knows message.output_text.logprobs, not what its number %zu says", i);
    }
    return 0;
}

static int take_flat_tools(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    static const char *const not_built[] = {"file_search", "web_search", "web_search_preview", "web_search_2025_08_26", "web_search_preview_2025_03_11", "computer_use_preview", "computer", "mcp", "code_interpreter",
                                            "image_generation", "local_shell", "shell", "custom", "apply_patch", "namespace", "tool_search"};
    if (json_type(v) != JSON_TYPE_ARRAY) return wrong_type(name, "a list of tools", v, err);
    if (json_size(v) > TOOLS_MAX) return error_set_param(err, E_INVALID, name, "'tools' must have at most %d functions", TOOLS_MAX);
    for (size_t i = 0; i < json_size(v); i++) {
        const struct json *tool = json_at(v, i), *parameters = json_get(tool, "parameters"), *strict = json_get(tool, "strict");
        struct span type = json_string(json_get(tool, "type"));
        char param[ERROR_PARAM_MAX];
        (void)snprintf(param, sizeof param, "tools.%zu", i);
        if (json_type(tool) == JSON_TYPE_OBJECT && one_of(type, not_built, COUNT_OF(not_built))) {
            (void)snprintf(param, sizeof param, "tools.%zu.type", i);
            note_unsupported(r, param);
            continue;
        }
        if (json_type(tool) != JSON_TYPE_OBJECT || !span_eq_str(type, "function") || json_string(json_get(tool, "name")).len == 0)
            return error_set_param(err, E_INVALID, param, "'%s' must be {\"type\":\"function\",\"name\":…,\"parameters\":…}", param);
        if (!json_is_null(json_get(tool, "function"))) return error_set_param(err, E_INVALID, param, "'%s' has an unrecognized 'function': name, description and parameters stand beside 'type' here", param);
        if (!json_is_null(parameters) && json_type(parameters) != JSON_TYPE_OBJECT) return error_set_param(err, E_INVALID, param, "'%s': its parameters must be a JSON schema", param);
        if (!json_is_null(strict) && json_type(strict) != JSON_TYPE_BOOL) return error_set_param(err, E_INVALID, param, "'%s': 'strict' must be true or false", param);
    }
    r->tools = v;
    return 0;
}

static int take_flat_choice(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    static const char *const words[] = {"none", "auto", "required"};
    struct span type = json_string(json_get(v, "type"));
    bool function = json_type(v) == JSON_TYPE_OBJECT && span_eq_str(type, "function");
    if (json_type(v) == JSON_TYPE_OBJECT && type.len && !function) {
        note_unsupported(r, "tool_choice.type");
        return 0;
    }
    if (json_type(v) == JSON_TYPE_STRING ? !one_of(json_string(v), words, 3) : !function || json_string(json_get(v, "name")).len == 0 || json_get(v, "function"))
        return error_set_param(err, E_INVALID, name, "'tool_choice' must be none, auto, required or {\"type\":\"function\",\"name\":…}");
    r->tool_choice = v;
    return 0;
}

static int take_text_form(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    int code = 0;
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(name, "an object", v, err);
    while (code == 0 && json_next(v, &iterator, &key, &value)) {
        if (json_is_null(value)) continue;
        if (span_eq_str(key, "format")) code = take_format(r, "text.format", value, value, err);
        else if (!span_eq_str(key, "verbosity")) code = error_set_param(err, E_INVALID, name, "'text' has no '%.*s': it takes format", (int)(key.len < 64 ? key.len : 64), key.data);
        else if (json_type(value) != JSON_TYPE_STRING) code = wrong_type("text.verbosity", "a string", value, err);
        else if (!span_eq_str(json_string(value), "medium")) note_unsupported(r, "text.verbosity"); /* medium: as the model does it */
    }
    return code;
}

static int take_reasoning(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(name, "an object", v, err);
    while (json_next(v, &iterator, &key, &value)) {
        static const char *const known[] = {"effort", "summary", "generate_summary"};
        char param[ERROR_PARAM_MAX];
        if (!one_of(key, known, COUNT_OF(known))) return error_set_param(err, E_INVALID, name, "'reasoning' has no '%.*s'", (int)(key.len < 64 ? key.len : 64), key.data);
        if (json_is_null(value)) continue;
        (void)snprintf(param, sizeof param, "reasoning.%.*s", SPAN_ARG(key));
        if (json_type(value) != JSON_TYPE_STRING) return wrong_type(param, "a string", value, err);
        note_unsupported(r, param);
    }
    return 0;
}

static int take_metadata(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    (void)r;
    if (json_type(v) != JSON_TYPE_OBJECT) return wrong_type(name, "an object", v, err);
    if (json_size(v) > RESPONSE_METADATA_MAX) return error_set_param(err, E_INVALID, name, "'metadata' has at most %d pairs", RESPONSE_METADATA_MAX);
    while (json_next(v, &iterator, &key, &value))
        if (json_type(value) != JSON_TYPE_STRING || key.len > RESPONSE_METADATA_KEY_MAX || json_string(value).len > RESPONSE_METADATA_VALUE_MAX)
            return error_set_param(err, E_INVALID, name, "'metadata': keys have at most %d bytes; values are strings of at most %d", RESPONSE_METADATA_KEY_MAX, RESPONSE_METADATA_VALUE_MAX);
    return 0;
}

static int take_store(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    bool flag; /* read where it is needed */
    (void)r;
    return take_flag(name, v, &flag, err);
}

static int take_truncation(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    static const char *const words[] = {"disabled", "auto"};
    if (!one_of(json_string(v), words, 2)) return error_set_param(err, E_INVALID, name, "'truncation' must be disabled");
    if (span_eq_str(json_string(v), "auto")) note_unsupported(r, name);
    return 0;
}

/* Parameters of chats and completions that are called otherwise here, or are not there. */
static int take_others(struct generate_request *r, const char *name, const struct json *v, struct error *err) {
    static const char *const here[][2] = {{"messages", "input"}, {"max_tokens", "max_output_tokens"}, {"max_completion_tokens", "max_output_tokens"}, {"response_format", "text.format"}, {"logprobs", "include"}};
    (void)r;
    (void)v;
    for (size_t i = 0; i < COUNT_OF(here); i++)
        if (strcmp(name, here[i][0]) == 0) return error_set_param(err, E_INVALID, name, "unrecognized parameter '%s': of responses it is '%s'", name, here[i][1]);
    return error_set_param(err, E_INVALID, name, "unrecognized parameter '%s': a response has one answer", name);
}

static const struct parameter RESPONSE_PARAMETERS[] = {
    {"input", take_input},
    {"instructions", take_string},
    {"previous_response_id", take_previous},
    {"max_output_tokens", take_max_output_tokens},
    {"max_tool_calls", take_max_tool_calls},
    {"top_logprobs", take_top_logprobs},
    {"include", take_include},
    {"tools", take_flat_tools},
    {"tool_choice", take_flat_choice},
    {"parallel_tool_calls", take_parallel_calls},
    {"text", take_text_form},
    {"reasoning", take_reasoning},
    {"metadata", take_metadata},
    {"store", take_store},
    {"background", take_only_false},
    {"truncation", take_truncation},
    {"chat_template_kwargs", take_template_arguments},
    {"conversation", take_unsupported},
    {"prompt", take_unsupported},
    {"prompt_cache_retention", take_unsupported},
    {"context_management", take_unsupported},
    {"messages", take_others},
    {"max_tokens", take_others},
    {"max_completion_tokens", take_others},
    {"response_format", take_others},
    {"logprobs", take_others},
    {"n", take_others},
};

static int check_echo(const struct json *body, struct error *err) {
    static const char *const echoed[] = {"instructions", "tools", "text", "metadata", "tool_choice"};
    struct buf text;
    int code = 0;
    buf_init(&text, RESPONSE_ECHO_MAX);
    for (size_t i = 0; code == 0 && i < COUNT_OF(echoed); i++)
        if (json_write(&text, json_get(body, echoed[i])) < 0) code = error_set_param(err, E_TOO_LARGE, echoed[i], "'instructions', 'tools', 'text' and 'metadata' have at most %d bytes together: a response repeats them", RESPONSE_ECHO_MAX);
    buf_fini(&text);
    return code;
}

int response_request_read(struct generate_request *r, struct arena *arena, const struct json *body, const struct json *context, const char *stem, struct response_request *out, struct error *err) {
    struct reading g = {.r = r, .stem = stem, .asked = json_get(context, "input"), .answered = json_get(json_get(context, "response"), "output")};
    *r = (struct generate_request){.arena = arena, .n = 1, .best_of = 1, .chat = true};
    genloop__v1__generate_request__init(&r->message);
    int code = parameters_read(r, body, RESPONSE_PARAMETERS, COUNT_OF(RESPONSE_PARAMETERS), SHARED_PARAMETERS, SHARED_PARAMETERS_COUNT, err);
    if (code < 0) return code;
    if (!r->message.model[0]) return parameters_finish(r, err);
    if (json_is_null(json_get(body, "input"))) return error_set_param(err, E_INVALID, "input", "'input' is required");
    if ((code = check_echo(body, err)) < 0 || (code = tools_finish(r, err)) < 0) return code;
    if ((code = read_items(&g, body, &out->items, err)) < 0) return code;
    out->store = json_bool(json_get(body, "store"), true);
    r->message.n = r->n;
    return parameters_finish(r, err);
}
