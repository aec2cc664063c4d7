/* Chats through templates, kept in pieces so that nobody's text is taken for the template's. */
#include "tokenizer/chat_internal.h"

#include "base/alloc.h"
#include "base/clock.h"

const char CHAT_TEMPLATE_CHATML[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

enum { PIECES_PER_MESSAGE = 5 };
static const char answer_role[] = "assistant";

/* ---- ids of pieces ---- */

/* Appends all ids of `ids` with their offsets where `out` has such. */
static int append(struct tokens *out, const struct tokens *ids, struct error *err) {
    size_t first = out->len;
    int r = array_reserve(&out->ids, &out->capacity, first + ids->len, sizeof out->ids[0]);
    if (!r && out->offsets) r = array_reserve(&out->offsets, &out->offsets_capacity, first + ids->len, sizeof out->offsets[0]);
    if (r) return error_set(err, r, "no memory to encode a chat");
    if (!ids->len) return 0;
    if (out->offsets) memcpy(out->offsets + first, ids->offsets, ids->len * sizeof ids->offsets[0]);
    memcpy(out->ids + first, ids->ids, ids->len * sizeof ids->ids[0]);
    out->len = first + ids->len;
    return 0;
}

/* ---- our own template, natively ---- */

/* The pieces of the rendered chat: role, content and what the template puts around them. Returns their number. */
static size_t pieces_of(const struct chat_message *messages, size_t count, bool add_generation_prompt, struct tokenizer_piece *p) {
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        p[n++] = (struct tokenizer_piece){SPAN(TOKENIZER_IM_START), true};
        p[n++] = (struct tokenizer_piece){messages[i].role, false};
        p[n++] = (struct tokenizer_piece){SPAN("\n"), true};
        p[n++] = (struct tokenizer_piece){messages[i].content, false};
        p[n++] = (struct tokenizer_piece){SPAN(TOKENIZER_IM_END "\n"), true};
    }
    if (add_generation_prompt) p[n++] = (struct tokenizer_piece){SPAN(TOKENIZER_IM_START "assistant\n"), true};
    return n;
}

static int check(const char *template_text, const struct chat_message *messages, size_t count, struct error *err) {
    if (!template_text) return error_set(err, E_UNSUPPORTED, "the model has no chat template");
    if (count > CHAT_MESSAGES_MAX) return error_set(err, E_TOO_LARGE, "more than %d messages", CHAT_MESSAGES_MAX);
    for (size_t i = 0; i < count; i++) {
        char param[ERROR_PARAM_MAX];
        snprintf(param, sizeof param, "messages.%zu.role", i);
        if (span_empty(messages[i].role) || span_find_char(messages[i].role, '\n') >= 0)
            return error_set_param(err, E_INVALID, param, "a message's role is empty or has a line break");
        snprintf(param, sizeof param, "messages.%zu.content", i);
        if (!span_is_utf8(messages[i].role) || !span_is_utf8(messages[i].content)) return error_set_param(err, E_INVALID, param, "the text is no UTF-8");
    }
    return 0;
}

static bool is_chatml(const char *template_text) { return strcmp(template_text, CHAT_TEMPLATE_CHATML) == 0; }

static struct tokenizer_piece *pieces_new(const struct chat_message *messages, size_t count, bool add_generation_prompt, size_t *n) {
    struct tokenizer_piece *p = mem_calloc(count * PIECES_PER_MESSAGE + 1, sizeof *p);
    if (p) *n = pieces_of(messages, count, add_generation_prompt, p);
    return p;
}

static int encode_chatml(const struct tokenizer *t, const struct chat_message *messages, size_t count, bool add_generation_prompt, struct tokens *ids, uint8_t **mask,
                         struct error *err) {
    if (tokenizer_find(t, SPAN(TOKENIZER_IM_START)) == TOKEN_NONE || tokenizer_find(t, SPAN(TOKENIZER_IM_END)) == TOKEN_NONE)
        return error_set(err, E_INVALID, "the vocabulary lacks " TOKENIZER_IM_START " or " TOKENIZER_IM_END ", which the chat template needs");
    size_t n = 0;
    struct tokenizer_piece *p = pieces_new(messages, count, add_generation_prompt, &n);
    if (!p) return error_set(err, E_NOMEM, "no memory to encode a chat");
    int r = tokenizer_encode_pieces(t, p, n, TOKENIZER_OFFSETS, ids, err);
    if (!r && mask && !(*mask = mem_zalloc(ids->len + 1))) r = error_set(err, E_NOMEM, "no memory to encode a chat");
    if (!r && mask) {
        /* A token is the answer's where its first byte is: one that began in the template's line break is given, not learnt. */
        size_t at = 0, k = 0;
        for (size_t i = 0; i < n; i++) {
            size_t end = at + p[i].text.len;
            size_t message = i / PIECES_PER_MESSAGE, part = i % PIECES_PER_MESSAGE;
            bool answer = message < count && span_eq_str(messages[message].role, answer_role);
            for (; k < ids->len && ids->offsets[k].start < end; k++)
                (*mask)[k] = answer && (part == 3 || (part == 4 && ids->offsets[k].start == at));
            at = end;
        }
    }
    mem_free(p);
    return r;
}

/* ---- a model's template, by the interpreter ---- */

struct chat_template {
    struct template *code;
    struct span bos, eos, pad; /* borrowed from the tokenizer; data NULL: it has none */
    bool chatml;               /* ours */
};

static struct span special(const struct tokenizer *t, uint32_t id) {
    if (!t || id == TOKEN_NONE) return (struct span){NULL, 0};
    struct span s = tokenizer_token_bytes(t, id);
    return s.data ? s : SPAN("");
}

int chat_template_new(const char *text, const struct tokenizer *tokenizer, struct chat_template **out, struct error *err) {
    if (!text) return error_set(err, E_UNSUPPORTED, "the model has no chat template");
    struct chat_template *c = mem_zalloc(sizeof *c);
    if (!c) return error_set(err, E_NOMEM, "no memory for a chat template");
    int r = template_parse(span_str(text), &c->code, err);
    if (r) {
        mem_free(c);
        return r;
    }
    c->bos = special(tokenizer, tokenizer ? tokenizer_bos(tokenizer) : TOKEN_NONE);
    c->eos = special(tokenizer, tokenizer ? tokenizer_eos(tokenizer) : TOKEN_NONE);
    c->pad = special(tokenizer, tokenizer ? tokenizer_pad(tokenizer) : TOKEN_NONE);
    c->chatml = is_chatml(text);
    *out = c;
    return 0;
}

bool chat_template_says(const struct chat_template *c, const char *name) { return template_says(c->code, name); }

void chat_template_free(struct chat_template *c) {
    if (!c) return;
    template_free(c->code);
    mem_free(c);
}

int chat_template_render(const struct chat_template *c, const struct chat *chat, struct template_output *out, struct error *err) {
    if (json_type(chat->messages) != JSON_TYPE_ARRAY) return error_set_param(err, E_INVALID, "messages", "messages must be an array");
    if (json_size(chat->messages) > CHAT_MESSAGES_MAX) return error_set_param(err, E_TOO_LARGE, "messages", "more than %d messages", CHAT_MESSAGES_MAX);
    size_t n = 0, room = 8 + json_size(chat->kwargs);
    struct template_var *vars = mem_calloc(room, sizeof *vars);
    if (!vars) return error_set(err, E_NOMEM, "no memory to render a chat");
    /* as transformers: special tokens first, what a caller adds wins, then the chat itself */
    const struct template_var tokens[] = {{.name = SPAN("bos_token"), .text = c->bos}, {.name = SPAN("eos_token"), .text = c->eos}, {.name = SPAN("pad_token"), .text = c->pad}};
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++)
        if (tokens[i].text.data) vars[n++] = tokens[i];
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    while (json_next(chat->kwargs, &iterator, &key, &value)) vars[n++] = (struct template_var){.name = key, .json = value};
    vars[n++] = (struct template_var){.name = SPAN("messages"), .json = chat->messages};
    vars[n++] = (struct template_var){.name = SPAN("tools"), .json = chat->tools, .none = true};
    vars[n++] = (struct template_var){.name = SPAN("documents"), .none = true};
    vars[n++] = (struct template_var){.name = SPAN("add_generation_prompt"), .flag = chat->add_generation_prompt};
    int r = template_render(c->code, vars, n, clock_wall_ms(), out, err);
    mem_free(vars);
    return r;
}

/* The bytes [start, end) of the text, as ids: 1 in mask. */
static void mark(const struct tokens *ids, size_t start, size_t end, uint8_t *mask) {
    for (size_t k = 0; k < ids->len; k++)
        if (ids->offsets[k].start >= start && ids->offsets[k].start < end) mask[k] = 1;
}

static int encode_output(const struct tokenizer *t, const struct template_output *output, struct tokens *ids, uint8_t **mask, struct error *err) {
    struct tokenizer_piece *p = mem_calloc(output->piece_count + 1, sizeof *p);
    if (!p) return error_set(err, E_NOMEM, "no memory to encode a chat");
    struct span text = buf_span(&output->text);
    for (size_t i = 0, at = 0; i < output->piece_count; at = output->pieces[i++].end)
        p[i] = (struct tokenizer_piece){span_sub(text, at, output->pieces[i].end - at), output->pieces[i].trusted};
    int r = tokenizer_encode_pieces(t, p, output->piece_count, TOKENIZER_OFFSETS, ids, err);
    if (!r && mask && !(*mask = mem_zalloc(ids->len + 1))) r = error_set(err, E_NOMEM, "no memory to encode a chat");
    for (size_t i = 0; !r && mask && i < output->generated_count; i++) mark(ids, output->generated[i].start, output->generated[i].end, *mask);
    mem_free(p);
    return r;
}

int chat_output_encode(const struct tokenizer *t, const struct template_output *output, struct tokens *out, uint8_t **answers, struct error *err) {
    struct tokens ids = {0};
    uint8_t *mask = NULL;
    int r = encode_output(t, output, &ids, answers ? &mask : NULL, err);
    if (!r) r = append(out, &ids, err);
    if (!r && answers) *answers = mask;
    else mem_free(mask);
    tokens_fini(&ids);
    return r;
}

/* ---- plain chats ---- */

/* As JSON: the interpreter has one way in. */
static int plain_json(const struct chat_message *messages, size_t count, struct json **out, struct error *err) {
    struct buf text;
    struct json_out w;
    size_t bytes = 64;
    for (size_t i = 0; i < count; i++) bytes += 64 + 6 * (messages[i].role.len + messages[i].content.len); /* 6: \u0000 */
    buf_init(&text, bytes);
    json_begin(&w, &text);
    json_array(&w);
    for (size_t i = 0; i < count; i++) {
        json_object(&w);
        json_span(&w, "role", messages[i].role);
        json_span(&w, "content", messages[i].content);
        json_object_end(&w);
    }
    json_array_end(&w);
    int r = text.failed ? error_set(err, text.failed, "no memory to render a chat") : json_parse(buf_span(&text), out, err);
    buf_fini(&text);
    return r;
}

static int render_plain(const struct chat_template *c, const struct chat_message *messages, size_t count, bool add_generation_prompt, struct template_output *out,
                        struct error *err) {
    struct json *list = NULL;
    int r = plain_json(messages, count, &list, err);
    if (!r) r = chat_template_render(c, &(struct chat){.messages = list, .add_generation_prompt = add_generation_prompt}, out, err);
    json_free(list);
    return r;
}

static size_t common(struct span a, struct span b) {
    size_t n = a.len < b.len ? a.len : b.len, i = 0;
    while (i < n && a.data[i] == b.data[i]) i++;
    return i;
}

/* What each assistant's message adds to the prompt that asks for it, to the last special token in it: the line break behind that is the template's own. */
static int mark_answers(const struct chat_template *c, const struct tokenizer *t, const struct chat_message *messages, size_t count, const struct template_output *whole,
                        const struct tokens *ids, uint8_t *mask, struct error *err) {
    struct template_output prompt, answered;
    template_output_init(&prompt);
    template_output_init(&answered);
    int r = 0;
    for (size_t i = 0; !r && i < count; i++) {
        if (!span_eq_str(messages[i].role, answer_role)) continue;
        r = render_plain(c, messages, i, true, &prompt, err);
        if (!r) r = render_plain(c, messages, i + 1, false, &answered, err);
        if (r) break;
        size_t start = common(buf_span(&prompt.text), buf_span(&answered.text)), end = common(buf_span(&answered.text), buf_span(&whole->text)), last = 0;
        for (size_t k = 0; k < ids->len; k++)
            if (ids->offsets[k].end <= end && ids->offsets[k].start >= start && tokenizer_is_special(t, ids->ids[k])) last = ids->offsets[k].end;
        mark(ids, start, last ? last : end, mask);
    }
    template_output_fini(&prompt);
    template_output_fini(&answered);
    return r;
}

static int encode_plain(const struct chat_template *c, const struct tokenizer *t, const struct chat_message *messages, size_t count, bool add_generation_prompt,
                        struct tokens *ids, uint8_t **mask, struct error *err) {
    if (c->chatml) return encode_chatml(t, messages, count, add_generation_prompt, ids, mask, err);
    struct template_output output;
    template_output_init(&output);
    int r = render_plain(c, messages, count, add_generation_prompt, &output, err);
    if (!r) r = encode_output(t, &output, ids, mask, err);
    if (!r && mask && !output.generated_count) r = mark_answers(c, t, messages, count, &output, ids, *mask, err);
    template_output_fini(&output);
    return r;
}

int chat_template_encode(const struct chat_template *c, const struct tokenizer *t, const struct chat_message *messages, size_t count, bool add_generation_prompt,
                         struct tokens *out, uint8_t **answers, struct error *err) {
    struct tokens ids = {0};
    uint8_t *mask = NULL;
    int r = check("", messages, count, err);
    if (!r) r = encode_plain(c, t, messages, count, add_generation_prompt, &ids, answers ? &mask : NULL, err);
    if (!r) r = append(out, &ids, err);
    if (!r && answers) *answers = mask;
    else mem_free(mask);
    tokens_fini(&ids);
    return r;
}

int chat_template_prompt_plain(const struct chat_template *c, const struct tokenizer *t, const struct chat_message *messages, size_t count, bool add_generation_prompt,
                               struct tokens *out, bool *in_reasoning, struct error *err) {
    struct tokens ids = {0};
    struct json *list = NULL;
    int r = check("", messages, count, err);
    if (!r && c->chatml) {
        r = encode_chatml(t, messages, count, add_generation_prompt, &ids, NULL, err);
        if (!r) r = append(out, &ids, err);
        if (!r && in_reasoning) *in_reasoning = false;
    } else if (!r) {
        r = plain_json(messages, count, &list, err);
        if (!r) r = chat_template_prompt(c, t, &(struct chat){.messages = list, .add_generation_prompt = add_generation_prompt}, out, in_reasoning, err);
    }
    json_free(list);
    tokens_fini(&ids);
    return r;
}

int chat_render(const char *template_text, const struct chat_message *messages, size_t count, bool add_generation_prompt, struct buf *out,
                struct error *err) {
    struct chat_template *c = NULL;
    struct template_output output;
    template_output_init(&output);
    int r = check(template_text, messages, count, err);
    if (!r) r = chat_template_new(template_text, NULL, &c, err);
    if (!r) r = render_plain(c, messages, count, add_generation_prompt, &output, err);
    if (!r && (r = buf_append_span(out, buf_span(&output.text)))) error_set(err, r, r == E_FULL ? "the chat is too long" : "no memory to render a chat");
    template_output_fini(&output);
    chat_template_free(c);
    return r;
}

int tokenizer_encode_chat(const struct tokenizer *t, const char *template_text, const struct chat_message *messages, size_t count,
                          bool add_generation_prompt, struct tokens *out, uint8_t **answers, struct error *err) {
    struct chat_template *c = NULL;
    const struct chat_template ours = {.chatml = true}; /* needs no code */
    int r = check(template_text, messages, count, err);
    if (!r && !is_chatml(template_text)) r = chat_template_new(template_text, t, &c, err);
    if (!r) r = chat_template_encode(c ? c : &ours, t, messages, count, add_generation_prompt, out, answers, err);
    chat_template_free(c);
    return r;
}
