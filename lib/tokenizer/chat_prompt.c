/*
 * OpenAI's chats for templates that each want them a little differently. Published templates do not say what they take, so a chat is given in one form after another,
 * the likeliest first, until the template takes it; only chats with calls have more than one. A template that knows no tools gets them in words: the form of Hermes,
 * which most models have seen.
 */
#include "base/alloc.h"
#include "tokenizer/chat_internal.h"

enum {
    FORM_ARGUMENTS_TEXT = 1, /* arguments as a string, else as an object */
    FORM_CONTENT_TEXT = 2,   /* no content as "", else as null */
    FORM_SYSTEM_TO_USER = 4, /* the system's message before the first of the user's, in one */
    CHAT_JSON_MAX = 64 << 20,
};

enum chat_style chat_template_style(const struct chat_template *c) {
    static const struct {
        const char *says;
        enum chat_style style;
    } signs[] = {
        {"<｜tool▁calls▁begin｜>", CHAT_STYLE_DEEPSEEK}, {"[TOOL_CALLS]", CHAT_STYLE_MISTRAL}, {"<tool_call>", CHAT_STYLE_HERMES}, {"<|python_start|>", CHAT_STYLE_PYTHONIC},
        {"tool_code", CHAT_STYLE_PYTHONIC}, {"<|python_tag|>", CHAT_STYLE_LLAMA}, {"ipython", CHAT_STYLE_LLAMA},
    };
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++)
        if (chat_template_says(c, signs[i].says)) return signs[i].style;
    return CHAT_STYLE_HERMES;
}

bool chat_template_reasons(const struct chat_template *c) { return chat_template_says(c, "</think>"); }

/* ---- a chat in one of its forms ---- */

struct writer {
    const struct chat_template *c;
    const struct chat *chat;
    struct json_out w;
    unsigned form;
    bool tools_in_words, calls_in_words;
    struct buf words; /* of one message */
};

static const char tools_before[] = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>";
static const char tools_behind[] = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
                                   "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";

/* A message's words: a string, or the texts among its parts. */
static void add_words(struct buf *out, const struct json *content) {
    if (json_type(content) == JSON_TYPE_STRING) (void)buf_append_span(out, json_string(content));
    for (size_t i = 0; json_type(content) == JSON_TYPE_ARRAY && i < json_size(content); i++) (void)buf_append_span(out, json_string(json_get(json_at(content, i), "text")));
}

static void add_tools(struct buf *out, const struct json *tools) {
    (void)buf_append_str(out, tools_before);
    for (size_t i = 0; i < json_size(tools); i++) {
        (void)buf_append_char(out, '\n');
        (void)json_write(out, json_at(tools, i));
    }
    (void)buf_append_str(out, tools_behind);
}

/* The object that a call's arguments are, owned; NULL where they are none. */
static struct json *object_of(const struct json *arguments) {
    struct json *v = NULL;
    if (json_type(arguments) != JSON_TYPE_STRING || json_parse(json_string(arguments), &v, NULL)) return NULL;
    if (json_type(v) == JSON_TYPE_OBJECT) return v;
    json_free(v);
    return NULL;
}

static void put_arguments(struct json_out *w, const struct json *arguments, bool as_text) {
    struct json *object = as_text ? NULL : object_of(arguments);
    if (object) json_put_value(w, object);
    else if (arguments) json_put_value(w, arguments);
    else json_put_null(w);
    json_free(object);
}

static void put_calls(struct writer *y, const struct json *calls) {
    json_key(&y->w, "tool_calls");
    json_array(&y->w);
    for (size_t i = 0; i < json_size(calls); i++) {
        const struct json *call = json_at(calls, i), *function = json_get(call, "function");
        json_object(&y->w);
        json_span(&y->w, "id", json_string(json_get(call, "id")));
        json_str(&y->w, "type", "function");
        json_key(&y->w, "function");
        json_object(&y->w);
        json_span(&y->w, "name", json_string(json_get(function, "name")));
        json_key(&y->w, "arguments");
        put_arguments(&y->w, json_get(function, "arguments"), y->form & FORM_ARGUMENTS_TEXT);
        json_object_end(&y->w);
        json_object_end(&y->w);
    }
    json_array_end(&y->w);
}

static void add_calls(struct buf *out, const struct json *calls) {
    for (size_t i = 0; i < json_size(calls); i++) {
        const struct json *function = json_get(json_at(calls, i), "function");
        struct json_out w;
        if (out->len) (void)buf_append_char(out, '\n');
        (void)buf_append_str(out, "<tool_call>\n");
        json_begin(&w, out);
        json_object(&w);
        json_span(&w, "name", json_string(json_get(function, "name")));
        json_key(&w, "arguments");
        put_arguments(&w, json_get(function, "arguments"), false);
        json_object_end(&w);
        (void)buf_append_str(out, "\n</tool_call>");
    }
}

/* The name of the function that a tool's message answers: some templates want it. */
static struct span called_name(const struct json *messages, size_t before, struct span id) {
    for (size_t i = before; id.len && i-- > 0;) {
        const struct json *calls = json_get(json_at(messages, i), "tool_calls");
        for (size_t k = 0; k < json_size(calls); k++)
            if (span_eq(json_string(json_get(json_at(calls, k), "id")), id)) return json_string(json_get(json_get(json_at(calls, k), "function"), "name"));
    }
    return (struct span){NULL, 0};
}

static void put_message(struct writer *y, size_t i, bool first_user) {
    static const char *const kept[] = {"name", "tool_call_id", "reasoning_content"};
    const struct json *messages = y->chat->messages, *m = json_at(messages, i), *content = json_get(m, "content"), *calls = json_get(m, "tool_calls");
    struct span role = json_string(json_get(m, "role"));
    bool tool = span_eq_str(role, "tool"), words = false;
    buf_clear(&y->words);
    if (span_eq_str(role, "developer") && !chat_template_says(y->c, "developer")) role = SPAN("system");
    if (first_user && y->form & FORM_SYSTEM_TO_USER) {
        if (i > 0) add_words(&y->words, json_get(json_at(messages, 0), "content"));
        if (y->tools_in_words) {
            if (y->words.len) (void)buf_append_str(&y->words, "\n\n");
            add_tools(&y->words, y->chat->tools);
        }
        if (y->words.len) (void)buf_append_str(&y->words, "\n\n");
        words = true;
    }
    if (tool && y->calls_in_words) {
        role = SPAN("user");
        (void)buf_append_str(&y->words, "<tool_response>\n");
        add_words(&y->words, content);
        (void)buf_append_str(&y->words, "\n</tool_response>");
        words = true;
    } else if (words || (json_size(calls) && y->calls_in_words)) {
        add_words(&y->words, content);
        if (y->calls_in_words) add_calls(&y->words, calls);
        words = true;
    }
    if (i == 0 && span_eq_str(role, "system") && y->tools_in_words) {
        add_words(&y->words, content);
        if (y->words.len) (void)buf_append_str(&y->words, "\n\n");
        add_tools(&y->words, y->chat->tools);
        words = true;
    }
    json_object(&y->w);
    json_span(&y->w, "role", role);
    json_key(&y->w, "content");
    if (words) json_put_span(&y->w, buf_span(&y->words));
    else if (json_is_null(content) && !(y->form & FORM_CONTENT_TEXT)) json_put_null(&y->w);
    else if (json_is_null(content)) json_put_str(&y->w, "");
    else json_put_value(&y->w, content);
    for (size_t k = 0; k < sizeof kept / sizeof kept[0]; k++) {
        const struct json *v = json_get(m, kept[k]);
        if (json_is_null(v)) continue;
        json_key(&y->w, kept[k]);
        json_put_value(&y->w, v);
    }
    if (tool && json_is_null(json_get(m, "name"))) {
        struct span name = called_name(messages, i, json_string(json_get(m, "tool_call_id")));
        if (name.len) json_span(&y->w, "name", name);
    }
    if (json_size(calls) && !y->calls_in_words) put_calls(y, calls);
    json_object_end(&y->w);
}

/* The messages in the form, as a tree. */
static int write_messages(const struct chat_template *c, const struct chat *chat, unsigned form, struct json **out, struct error *err) {
    struct buf text;
    struct writer y = {.c = c, .chat = chat, .form = form};
    size_t n = json_size(chat->messages);
    bool users = false;
    struct span first = json_string(json_get(json_at(chat->messages, 0), "role"));
    bool has_system = span_eq_str(first, "system") || span_eq_str(first, "developer");
    y.tools_in_words = json_size(chat->tools) && !chat_template_says(c, "tools");
    y.calls_in_words = !chat_template_says(c, "tool_calls");
    buf_init(&text, CHAT_JSON_MAX);
    buf_init(&y.words, CHAT_JSON_MAX);
    json_begin(&y.w, &text);
    json_array(&y.w);
    if (y.tools_in_words && !has_system && !(form & FORM_SYSTEM_TO_USER)) {
        add_tools(&y.words, chat->tools);
        json_object(&y.w);
        json_str(&y.w, "role", "system");
        json_span(&y.w, "content", buf_span(&y.words));
        json_object_end(&y.w);
    }
    for (size_t i = has_system && form & FORM_SYSTEM_TO_USER; i < n; i++) {
        bool user = span_eq_str(json_string(json_get(json_at(chat->messages, i), "role")), "user");
        put_message(&y, i, user && !users);
        users |= user;
    }
    json_array_end(&y.w);
    int r = text.failed ? text.failed : y.words.failed;
    if (r) error_set(err, r == E_FULL ? E_TOO_LARGE : r, "the chat is too large, or there is no memory for it");
    else r = json_parse(buf_span(&text), out, err);
    buf_fini(&text);
    buf_fini(&y.words);
    return r;
}

static bool ends_in_reasoning(struct span text) {
    while (text.len && (text.data[text.len - 1] == '\n' || text.data[text.len - 1] == ' ')) text.len--;
    return span_ends(text, SPAN("<think>"));
}

int chat_template_prompt(const struct chat_template *c, const struct tokenizer *t, const struct chat *chat, struct tokens *out, bool *in_reasoning, struct error *err) {
    bool calls = false, has_system = json_size(chat->tools) && !chat_template_says(c, "tools");
    for (size_t i = 0; i < json_size(chat->messages); i++) {
        const struct json *m = json_at(chat->messages, i);
        struct span role = json_string(json_get(m, "role"));
        calls |= json_size(json_get(m, "tool_calls")) > 0 || json_is_null(json_get(m, "content"));
        has_system |= i == 0 && (span_eq_str(role, "system") || span_eq_str(role, "developer"));
    }
    struct template_output output;
    template_output_init(&output);
    int r = E_INVALID;
    for (unsigned form = 0; r == E_INVALID && form < 8; form++) {
        struct error other = {0};
        struct json *messages = NULL;
        if ((form & (FORM_ARGUMENTS_TEXT | FORM_CONTENT_TEXT) && !calls) || (form & FORM_SYSTEM_TO_USER && !has_system)) continue;
        r = write_messages(c, chat, form, &messages, form ? &other : err);
        struct chat given = {.messages = messages, .tools = chat->tools, .kwargs = chat->kwargs, .add_generation_prompt = chat->add_generation_prompt};
        if (!r) r = chat_template_render(c, &given, &output, form ? &other : err); /* of the first form it is told what is wrong */
        json_free(messages);
    }
    if (!r) r = chat_output_encode(t, &output, out, NULL, err);
    if (!r && in_reasoning) *in_reasoning = ends_in_reasoning(buf_span(&output.text));
    template_output_fini(&output);
    return r;
}

/* ---- what an answer that is calls looks like ---- */

static void put_call_schema(struct json_out *w, const struct json *function) {
    const struct json *parameters = json_get(function, "parameters");
    json_object(w);
    json_str(w, "type", "object");
    json_key(w, "properties");
    json_object(w);
    json_key(w, "name");
    json_object(w);
    json_key(w, "const");
    json_put_span(w, json_string(json_get(function, "name")));
    json_object_end(w);
    json_key(w, "arguments");
    if (json_size(parameters)) json_put_value(w, parameters);
    else {
        json_object(w);
        json_str(w, "type", "object");
        json_object_end(w);
    }
    json_object_end(w);
    json_key(w, "required");
    json_array(w);
    json_put_str(w, "name");
    json_put_str(w, "arguments");
    json_array_end(w);
    json_flag(w, "additionalProperties", false);
    json_object_end(w);
}

int chat_tools_schema(const struct json *tools, struct span name, bool one, struct buf *out, struct error *err) {
    struct json_out w;
    size_t n = 0;
    json_begin(&w, out);
    json_object(&w);
    json_str(&w, "type", "array");
    json_num(&w, "minItems", 1);
    json_num(&w, "maxItems", one ? 1 : 16);
    json_key(&w, "items");
    json_object(&w);
    json_key(&w, "anyOf");
    json_array(&w);
    for (size_t i = 0; i < json_size(tools); i++) {
        const struct json *function = json_get(json_at(tools, i), "function");
        if (name.len && !span_eq(name, json_string(json_get(function, "name")))) continue;
        put_call_schema(&w, function);
        n++;
    }
    json_array_end(&w);
    json_object_end(&w);
    json_object_end(&w);
    if (n == 0) return error_set_param(err, E_INVALID, "tool_choice", "'tool_choice' names a function that is not among 'tools'");
    return out->failed ? error_set(err, out->failed == E_FULL ? E_TOO_LARGE : out->failed, "the tools are too large") : 0;
}
