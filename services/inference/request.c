#include "request.h"

#include "base/json.h"
#include "wire/chat_json.h"

enum { CHAT_JSON_MAX = 48 << 20, TOOLS_MAX = 128, CALLS_REQUIRED_MAX = 8 }; /* OpenAI takes so many tools */

static int check_given_once(const Genloop__V1__GenerateRequest *m, struct error *err) {
    int given = (m->n_messages > 0) + (m->prompt[0] != 0) + (m->n_prompt_tokens > 0);
    if (given > 1) return error_set_param(err, E_INVALID, "prompt", "messages, prompt and prompt_tokens exclude each other");
    if (m->n > 1) return error_set_param(err, E_UNSUPPORTED, "n", "n above 1 is not built yet");
    if (m->n_stop > STOP_STRINGS_MAX) return error_set_param(err, E_INVALID, "stop", "at most %d stop strings are taken", STOP_STRINGS_MAX);
    if (m->n_logit_bias > SAMPLER_BIAS_MAX) return error_set_param(err, E_INVALID, "logit_bias", "at most %d entries are taken", SAMPLER_BIAS_MAX);
    if (m->n_messages > CHAT_MESSAGES_MAX) return error_set_param(err, E_INVALID, "messages", "at most %d messages are taken", CHAT_MESSAGES_MAX);
    return 0;
}

static struct chat_message *chat_of(Genloop__V1__ChatMessage *const *messages, size_t n, struct arena *arena) {
    struct chat_message *out = arena_calloc(arena, n + 1, sizeof *out);
    for (size_t i = 0; out && i < n; i++) out[i] = (struct chat_message){span_str(messages[i]->role), span_str(messages[i]->content)};
    return out;
}

/* Roles and texts alone: nearly all chats, and they need no JSON. */
static bool is_plain(const Genloop__V1__GenerateRequest *m) {
    bool plain = m->n_tools == 0 && !m->template_arguments[0];
    for (size_t i = 0; plain && i < m->n_messages; i++) {
        const Genloop__V1__ChatMessage *one = m->messages[i];
        plain = one->n_tool_calls == 0 && !one->tool_call_id[0] && !one->reasoning[0] && !one->name[0] && strcmp(one->role, "tool") != 0 && strcmp(one->role, "developer") != 0;
    }
    return plain;
}

static bool tools_wanted(const Genloop__V1__GenerateRequest *m) { return m->n_tools > 0 && strcmp(m->tool_choice, "none") != 0; }

static bool calls_required(const Genloop__V1__GenerateRequest *m) { return tools_wanted(m) && (m->tool_name[0] || strcmp(m->tool_choice, "required") == 0); }

static void write_message(struct json_out *w, const Genloop__V1__ChatMessage *m) {
    json_object(w);
    json_str(w, "role", m->role);
    json_key(w, "content");
    if (m->content[0] || m->n_tool_calls == 0) json_put_str(w, m->content);
    else json_put_null(w);
    if (m->name[0]) json_str(w, "name", m->name);
    if (m->tool_call_id[0]) json_str(w, "tool_call_id", m->tool_call_id);
    if (m->reasoning[0]) json_str(w, "reasoning_content", m->reasoning);
    if (m->n_tool_calls > 0) chat_json_calls(w, m);
    json_object_end(w);
}

/* A text that must be a JSON object, raw; "" is none. */
static int write_object(struct json_out *w, const char *param, const char *key, const char *text, struct error *err) {
    struct json *v = NULL;
    struct error why = {0};
    if (!text[0]) return 0;
    int r = json_parse(span_str(text), &v, &why);
    if (!r && json_type(v) != JSON_TYPE_OBJECT) r = error_set(&why, E_INVALID, "it is %s", json_type_name(v));
    if (!r) {
        json_key(w, key);
        json_put_value(w, v);
    }
    json_free(v);
    return r ? error_set_param(err, r, param, "'%s' must be a JSON object: %s", param, why.message) : 0;
}

static int write_tools(struct json_out *w, const Genloop__V1__GenerateRequest *m, struct error *err) {
    int r = 0;
    json_array(w);
    for (size_t i = 0; r == 0 && i < m->n_tools; i++) {
        const Genloop__V1__Tool *tool = m->tools[i];
        if (!tool->name[0]) r = error_set_param(err, E_INVALID, "tools", "'tools': number %zu has no name", i);
        json_object(w);
        json_str(w, "type", "function");
        json_key(w, "function");
        json_object(w);
        json_str(w, "name", tool->name);
        if (tool->description[0]) json_str(w, "description", tool->description);
        if (r == 0) r = write_object(w, "tools", "parameters", tool->parameters, err);
        if (tool->strict) json_flag(w, "strict", true);
        json_object_end(w);
        json_object_end(w);
    }
    json_array_end(w);
    return r;
}

/* The chat as the engine takes it. */
static int write_chat(const Genloop__V1__GenerateRequest *m, struct arena *arena, struct span *out, struct error *err) {
    struct buf text;
    struct json_out w;
    buf_init(&text, CHAT_JSON_MAX);
    json_begin(&w, &text);
    json_object(&w);
    json_key(&w, "messages");
    json_array(&w);
    for (size_t i = 0; i < m->n_messages; i++) write_message(&w, m->messages[i]);
    json_array_end(&w);
    int r = 0;
    if (tools_wanted(m)) {
        json_key(&w, "tools");
        r = write_tools(&w, m, err);
    }
    if (r == 0) r = write_object(&w, "chat_template_kwargs", "chat_template_kwargs", m->template_arguments, err);
    json_object_end(&w);
    if (r == 0 && text.failed) r = error_set(err, text.failed == E_FULL ? E_TOO_LARGE : text.failed, "the chat is too large");
    if (r == 0 && !(*out = arena_span(arena, buf_span(&text))).data) r = error_set(err, E_NOMEM, "no memory for a request");
    buf_fini(&text);
    return r;
}

static int check_tools(const Genloop__V1__GenerateRequest *m, struct error *err) {
    static const char *const words[] = {"", "auto", "none", "required"};
    bool known = false, named = !m->tool_name[0];
    for (size_t i = 0; i < 4; i++) known |= strcmp(m->tool_choice, words[i]) == 0;
    if (!known) return error_set_param(err, E_INVALID, "tool_choice", "'tool_choice' must be auto, none or required");
    for (size_t i = 0; i < m->n_tools; i++) named |= strcmp(m->tool_name, m->tools[i]->name) == 0;
    if (!named) return error_set_param(err, E_INVALID, "tool_choice", "'tool_choice' names a function that is not among 'tools'");
    if (m->n_tools > TOOLS_MAX) return error_set_param(err, E_INVALID, "tools", "at most %d tools are taken", TOOLS_MAX);
    if (m->n_tools == 0 && strcmp(m->tool_choice, "required") == 0) return error_set_param(err, E_INVALID, "tool_choice", "'tool_choice' is given without 'tools'");
    if (m->n_messages == 0 && (m->n_tools > 0 || m->template_arguments[0])) return error_set_param(err, E_INVALID, "tools", "tools and the template's arguments are for messages");
    return 0;
}

bool request_parsing(const Genloop__V1__GenerateRequest *m, const struct chat_template *c, struct arena *arena, struct chat_parser_options *o) {
    if (!c || m->n_messages == 0) return false;
    struct span *names = arena_calloc(arena, m->n_tools + 1, sizeof *names);
    *o = (struct chat_parser_options){.style = CHAT_STYLE_NONE, .reasoning = chat_template_reasons(c), .tools = names};
    if (tools_wanted(m) && names) {
        o->style = calls_required(m) ? CHAT_STYLE_JSON : chat_template_style(c);
        for (size_t i = 0; i < m->n_tools; i++) names[o->tool_count++] = span_str(m->tools[i]->name);
    }
    return o->reasoning || o->style != CHAT_STYLE_NONE;
}

int request_of_tokens(const Genloop__V1__TokenizeRequest *m, struct arena *arena, struct engine_request *out, struct error *err) {
    struct engine_request r;
    if (m->n_messages > 0 && m->prompt[0]) return error_set_param(err, E_INVALID, "prompt", "messages and prompt exclude each other");
    engine_request_init(&r);
    r.tokens_only = true;
    if (m->n_messages > 0) {
        Genloop__V1__GenerateRequest chat; /* borrows: the chat of a request that generates */
        genloop__v1__generate_request__init(&chat);
        chat.messages = m->messages;
        chat.n_messages = m->n_messages;
        chat.tools = m->tools;
        chat.n_tools = m->n_tools;
        chat.template_arguments = m->template_arguments;
        r.no_special = m->no_generation_prompt;
        int result = check_tools(&chat, err);
        if (result == 0 && !is_plain(&chat)) result = write_chat(&chat, arena, &r.chat, err);
        if (result != 0) return result;
        if (is_plain(&chat)) {
            r.messages = chat_of(m->messages, m->n_messages, arena);
            r.message_count = m->n_messages;
            if (!r.messages) return error_set(err, E_NOMEM, "no memory for a request");
        }
    } else {
        r.prompt = span_str(m->prompt);
        r.no_special = m->no_special;
    }
    *out = r;
    return 0;
}

/* Calls and nothing else, as CHAT_STYLE_JSON reads them: [{"name": …, "arguments": …}, …], each of a tool that was given. A tool's schema is a document of its own ($id), so that its references
 * find what they mean. */
static int calls_constraint(const Genloop__V1__GenerateRequest *m, struct arena *arena, struct engine_request *r, struct error *err) {
    struct buf text;
    struct json_out w;
    int result = 0;
    buf_init(&text, GRAMMAR_TEXT_MAX);
    json_begin(&w, &text);
    json_object(&w);
    json_str(&w, "type", "array");
    json_num(&w, "minItems", 1);
    json_num(&w, "maxItems", m->one_tool_call || m->tool_name[0] ? 1 : CALLS_REQUIRED_MAX);
    json_key(&w, "items");
    json_object(&w);
    json_key(&w, "anyOf");
    json_array(&w);
    for (size_t i = 0; i < m->n_tools && result == 0; i++) {
        const Genloop__V1__Tool *tool = m->tools[i];
        struct json *parameters = NULL;
        if (m->tool_name[0] && strcmp(m->tool_name, tool->name) != 0) continue;
        if (tool->parameters[0]) result = json_parse(span_str(tool->parameters), &parameters, err);
        json_object(&w);
        json_str(&w, "type", "object");
        json_key(&w, "properties");
        json_object(&w);
        json_key(&w, "name");
        json_object(&w);
        json_str(&w, "const", tool->name);
        json_object_end(&w);
        json_key(&w, "arguments");
        json_object(&w);
        if (!json_get(parameters, "type") && !json_get(parameters, "$ref")) json_str(&w, "type", "object");
        if (!json_get(parameters, "$id")) json_str(&w, "$id", tool->name);
        void *iterator = NULL;
        struct span key;
        const struct json *value;
        while (json_next(parameters, &iterator, &key, &value)) {
            json_key_span(&w, key);
            json_put_value(&w, value);
        }
        json_object_end(&w);
        json_object_end(&w);
        json_key(&w, "required");
        json_array(&w);
        json_put_str(&w, "name");
        json_put_str(&w, "arguments");
        json_array_end(&w);
        json_flag(&w, "additionalProperties", false);
        json_object_end(&w);
        json_free(parameters);
    }
    json_array_end(&w);
    json_object_end(&w);
    json_object_end(&w);
    if (result == 0 && text.failed) result = text.failed == E_NOMEM ? error_set(err, E_NOMEM, "no memory for a request") : error_set_param(err, E_INVALID, "tools", "'tools' are too large to be held to");
    r->constraint = GRAMMAR_JSON_SCHEMA;
    r->constraint_param = "tools";
    r->constraint_text = arena_span(arena, buf_span(&text));
    buf_fini(&text);
    return result != 0 || r->constraint_text.data ? result : error_set(err, E_NOMEM, "no memory for a request");
}

/* What the answer must be, as the engine takes it. */
static int constraint_of(const Genloop__V1__GenerateRequest *m, struct arena *arena, struct engine_request *r, struct error *err) {
    static const char *const names[] = {"response_format", "text.format", "guided_json", "guided_regex", "guided_grammar", "guided_choice", "structured_outputs", "json_schema", "json_object", "regex", "grammar", "choice"};
    struct buf text;
    struct json_out w;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(m->constraint_param, names[i]) == 0) r->constraint_param = names[i];
    if (calls_required(m)) {
        if (m->constraint_case) return error_set_param(err, E_INVALID, "tool_choice", "'tool_choice' that asks for a call leaves no room for '%s'", r->constraint_param ? r->constraint_param : "response_format");
        return calls_constraint(m, arena, r, err);
    }
    switch (m->constraint_case) {
    case GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_JSON_SCHEMA: r->constraint = GRAMMAR_JSON_SCHEMA, r->constraint_text = span_str(m->json_schema); return 0;
    case GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_JSON_OBJECT: r->constraint = m->json_object ? GRAMMAR_JSON_OBJECT : GRAMMAR_NONE; return 0;
    case GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_REGEX: r->constraint = GRAMMAR_REGEX, r->constraint_text = span_str(m->regex); return 0;
    case GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_GRAMMAR: r->constraint = GRAMMAR_GBNF, r->constraint_text = span_str(m->grammar); return 0;
    case GENLOOP__V1__GENERATE_REQUEST__CONSTRAINT_CHOICE:
        buf_init(&text, 4 * GRAMMAR_TEXT_MAX);
        json_begin(&w, &text);
        json_array(&w);
        for (size_t i = 0; i < m->choice->n_texts; i++) json_put_str(&w, m->choice->texts[i]);
        json_array_end(&w);
        r->constraint = GRAMMAR_CHOICE;
        r->constraint_text = arena_span(arena, buf_span(&text));
        bool whole = !text.failed && r->constraint_text.data;
        buf_fini(&text);
        return whole ? 0 : error_set_param(err, E_INVALID, r->constraint_param ? r->constraint_param : "choice", "the texts to choose from are too large");
    default: return 0;
    }
}

void request_take_defaults(const Genloop__V1__GenerateRequest *m, const struct model_generation *g, struct sampler_params *s) {
    if (!m->temperature_set_case) s->temperature = g->temperature;
    if (!m->top_p_set_case) s->top_p = g->top_p;
    if (!m->min_p_set_case) s->min_p = g->min_p;
    if (!m->repetition_penalty_set_case) s->repetition_penalty = g->repetition_penalty;
    if (m->top_k == 0 && g->top_k <= UINT32_MAX) s->top_k = (uint32_t)g->top_k;
}

int request_from_message(const Genloop__V1__GenerateRequest *m, struct arena *arena, struct engine_request *out, struct error *err) {
    struct engine_request r;
    int result = check_given_once(m, err);
    if (result == 0) result = check_tools(m, err);
    if (result != 0) return result;
    engine_request_init(&r);
    struct chat_message *messages = chat_of(m->messages, m->n_messages, arena);
    struct span *stop = arena_calloc(arena, m->n_stop + 1, sizeof *stop);
    struct sampler_bias *bias = arena_calloc(arena, m->n_logit_bias + 1, sizeof *bias);
    if (!messages || !stop || !bias) return error_set(err, E_NOMEM, "no memory for a request");

    if (m->n_prompt_tokens > 0) {
        r.tokens = m->prompt_tokens;
        r.token_count = m->n_prompt_tokens;
    } else if (m->n_messages > 0 && is_plain(m)) {
        r.messages = messages;
        r.message_count = m->n_messages;
    } else if (m->n_messages > 0) {
        if ((result = write_chat(m, arena, &r.chat, err)) != 0) return result;
        r.keep_special = tools_wanted(m);
    } else r.prompt = span_str(m->prompt);

    struct sampler_params *s = &r.sampling;
    if (m->max_tokens_set_case) r.tokens_max = m->max_tokens;
    if (m->temperature_set_case) s->temperature = m->temperature;
    if (m->top_p_set_case) s->top_p = m->top_p;
    if (m->min_p_set_case) s->min_p = m->min_p;
    if (m->frequency_penalty_set_case) s->frequency_penalty = m->frequency_penalty;
    if (m->presence_penalty_set_case) s->presence_penalty = m->presence_penalty;
    if (m->repetition_penalty_set_case) s->repetition_penalty = m->repetition_penalty;
    if (m->typical_p_set_case) s->typical_p = m->typical_p;
    if (m->top_n_sigma_set_case) s->top_n_sigma = m->top_n_sigma;
    if (m->dry_multiplier_set_case) s->dry_multiplier = m->dry_multiplier;
    if (m->dry_base_set_case) s->dry_base = m->dry_base;
    if (m->dry_allowed_length_set_case) s->dry_allowed_length = m->dry_allowed_length;
    s->dry_answer_only = m->dry_answer_only;
    if (m->xtc_probability_set_case) s->xtc_probability = m->xtc_probability;
    if (m->xtc_threshold_set_case) s->xtc_threshold = m->xtc_threshold;
    s->mirostat = m->mirostat;
    if (m->mirostat_tau_set_case) s->mirostat_tau = m->mirostat_tau;
    if (m->mirostat_eta_set_case) s->mirostat_eta = m->mirostat_eta;
    if (m->dry_sequence_breakers) {
        struct span *breakers = arena_calloc(arena, m->dry_sequence_breakers->n_texts + 1, sizeof *breakers);
        if (!breakers) return error_set(err, E_NOMEM, "no memory for a request");
        for (size_t i = 0; i < m->dry_sequence_breakers->n_texts; i++) breakers[i] = span_str(m->dry_sequence_breakers->texts[i]);
        r.dry_breakers = breakers;
        r.dry_breaker_count = m->dry_sequence_breakers->n_texts;
    }
    s->top_k = m->top_k == UINT32_MAX ? 0 : m->top_k;
    s->seed = m->seed_set_case ? m->seed : 0;
    r.seed_set = m->seed_set_case != 0;
    for (size_t i = 0; i < m->n_logit_bias; i++) bias[i] = (struct sampler_bias){m->logit_bias[i]->key, m->logit_bias[i]->value};
    s->bias = bias;
    s->bias_count = m->n_logit_bias;
    for (size_t i = 0; i < m->n_stop; i++)
        if (m->stop[i][0]) stop[r.stop_count++] = span_str(m->stop[i]); /* an empty one, or one that began with a NUL, ends nothing */
    if ((result = constraint_of(m, arena, &r, err)) != 0) return result;
    r.stop = stop;
    r.stop_tokens = m->stop_tokens;
    r.stop_token_count = m->n_stop_tokens;
    r.ignore_eos = m->ignore_eos;
    r.echo = m->echo;
    r.logprobs = m->logprobs;
    r.top_logprobs = m->top_logprobs;
    r.prompt_logprobs = m->echo && m->logprobs;
    r.priority = m->priority;
    *out = r;
    return 0;
}
