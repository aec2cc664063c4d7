#include "answer.h"

enum { PLAIN_MAX = 16384 };

void choice_init(struct choice *c, uint32_t index) {
    *c = (struct choice){.index = index};
    buf_init(&c->text, ANSWER_TEXT_MAX);
    buf_init(&c->reasoning, ANSWER_TEXT_MAX);
    buf_init(&c->calls, ANSWER_TEXT_MAX * 4);
    buf_init(&c->logprobs, ANSWER_TEXT_MAX * 4);
    buf_init(&c->tokens, ANSWER_TEXT_MAX);
    buf_init(&c->offsets, ANSWER_TEXT_MAX);
    buf_init(&c->tops, ANSWER_TEXT_MAX * 4);
    buf_init(&c->plain, PLAIN_MAX);
}

void choice_fini(struct choice *c) {
    buf_fini(&c->text);
    buf_fini(&c->reasoning);
    buf_fini(&c->calls);
    buf_fini(&c->logprobs);
    buf_fini(&c->tokens);
    buf_fini(&c->offsets);
    buf_fini(&c->tops);
    buf_fini(&c->plain);
}

/* ---- log-probabilities ---- */

static struct span token_text(const Genloop__V1__TokenLogprob *t) { return t ? span_of(t->text.data, t->text.len) : SPAN(""); }

/* {"token":…,"logprob":…,"bytes":[…] — the object stays open */
static void write_token(struct json_out *w, const Genloop__V1__TokenLogprob *t) {
    struct span bytes = token_text(t);
    json_object(w);
    json_span(w, "token", bytes);
    json_flt(w, "logprob", t ? t->logprob : 0);
    json_key(w, "bytes");
    json_array(w);
    for (size_t i = 0; i < bytes.len; i++) json_put_uint(w, (uint8_t)bytes.data[i]);
    json_array_end(w);
}

void answer_position_write(struct json_out *w, const Genloop__V1__PositionLogprobs *p) {
    write_token(w, p->chosen);
    json_key(w, "top_logprobs");
    json_array(w);
    for (size_t i = 0; i < p->n_top; i++) {
        write_token(w, p->top[i]);
        json_object_end(w);
    }
    json_array_end(w);
    json_object_end(w);
}

static void separate(struct buf *list) {
    if (list->len) (void)buf_append_char(list, ',');
}

static uint64_t characters(struct span s) {
    uint64_t n = 0;
    for (size_t i = 0; i < s.len; i++) n += ((uint8_t)s.data[i] & 0xc0) != 0x80;
    return n;
}

/* Completions name tokens by their text alone. A token that ends inside a character is named by its bytes, as OpenAI does it: bytes:\xe2\x82. */
enum { NAME_MAX_BYTES = 256, NAME_SIZE = 6 + 4 * NAME_MAX_BYTES + 1 };
static struct span token_name(const Genloop__V1__TokenLogprob *t, char name[NAME_SIZE]) {
    struct span bytes = token_text(t);
    if (span_is_utf8(bytes)) return bytes;
    size_t n = 0, len = (size_t)snprintf(name, NAME_SIZE, "bytes:");
    for (; n < bytes.len && n < NAME_MAX_BYTES; n++) len += (size_t)snprintf(name + len, NAME_SIZE - len, "\\x%02x", (unsigned)(uint8_t)bytes.data[n]);
    return span_of(name, len);
}

static void put_top(struct json_out *w, const Genloop__V1__TokenLogprob *t) {
    char name[NAME_SIZE];
    json_key_span(w, token_name(t, name));
    json_put_real(w, t->logprob);
}

static bool same_text(const Genloop__V1__TokenLogprob *a, const Genloop__V1__TokenLogprob *b) { return span_eq(token_text(a), token_text(b)); }

/* {"text": logprob, …}: of two tokens with one text the likelier; the chosen one is always among them. */
static void write_tops(struct json_out *w, const Genloop__V1__PositionLogprobs *p) {
    bool chosen = false;
    if (p->unscored) {
        json_put_null(w);
        return;
    }
    json_object(w);
    for (size_t i = 0; i < p->n_top; i++) {
        bool before = false;
        for (size_t k = 0; k < i && !before; k++) before = same_text(p->top[k], p->top[i]);
        if (before) continue;
        chosen |= p->chosen && same_text(p->top[i], p->chosen);
        put_top(w, p->top[i]);
    }
    if (p->chosen && !chosen) put_top(w, p->chosen);
    json_object_end(w);
}

/* Completions have parallel lists: tokens, token_logprobs, top_logprobs, text_offset. */
static void add_completion_position(struct choice *c, const Genloop__V1__PositionLogprobs *p) {
    struct json_out w;
    char name[NAME_SIZE];
    separate(&c->tokens);
    json_begin(&w, &c->tokens);
    json_put_span(&w, token_name(p->chosen, name));
    separate(&c->logprobs);
    json_begin(&w, &c->logprobs);
    if (p->unscored) json_put_null(&w);
    else json_put_real(&w, p->chosen ? p->chosen->logprob : 0);
    separate(&c->offsets);
    json_begin(&w, &c->offsets);
    json_put_uint(&w, c->offset);
    separate(&c->tops);
    json_begin(&w, &c->tops);
    write_tops(&w, p);
    if (p->chosen && !p->chosen->special) c->offset += characters(token_text(p->chosen));
}

static void add_positions(struct choice *c, bool chat, const Genloop__V1__GenerateReply *reply) {
    for (size_t i = 0; !chat && i < reply->n_prompt_logprobs; i++) { /* only completions echo */
        c->has_logprobs = true;
        add_completion_position(c, reply->prompt_logprobs[i]);
    }
    for (size_t i = 0; i < reply->n_logprobs; i++) {
        const Genloop__V1__PositionLogprobs *p = reply->logprobs[i];
        c->has_logprobs = true;
        if (p->chosen) c->logprob_sum += p->chosen->logprob;
        c->logprob_count++;
        if (!chat) { /* with the token that ended it, as OpenAI and vLLM list it: an answer of nothing else has its log-probability too */
            add_completion_position(c, p);
            continue;
        }
        if (p->ends) continue; /* content is what the message's text is made of */
        struct json_out w;
        separate(&c->logprobs);
        json_begin(&w, &c->logprobs);
        answer_position_write(&w, p);
    }
}

/* In chunks each says its place in the list. */
static void write_call(struct json_out *w, const Genloop__V1__ToolCall *call, bool index) {
    json_object(w);
    if (index) json_num(w, "index", call->index);
    json_str(w, "id", call->id);
    json_str(w, "type", "function");
    json_key(w, "function");
    json_object(w);
    json_str(w, "name", call->name);
    json_str(w, "arguments", call->arguments);
    json_object_end(w);
    json_object_end(w);
}

void choice_add(struct choice *c, const struct answer *a, const Genloop__V1__GenerateReply *reply) {
    (void)buf_append_str(&c->text, reply->text);
    (void)buf_append_str(&c->reasoning, reply->reasoning);
    for (size_t i = 0; i < reply->n_tool_calls; i++) {
        struct json_out w;
        separate(&c->calls);
        json_begin(&w, &c->calls);
        write_call(&w, reply->tool_calls[i], false);
    }
    add_positions(c, a->chat, reply);
    if (reply->finish_reason[0]) span_copy(c->finish_reason, sizeof c->finish_reason, span_str(reply->finish_reason));
}

void answer_list_write(struct json_out *w, const char *key, const struct buf *items) {
    json_key(w, key);
    struct buf list;
    buf_init(&list, items->len + 2);
    (void)buf_append_char(&list, '[');
    (void)buf_append_span(&list, buf_span(items));
    (void)buf_append_char(&list, ']');
    if (list.failed) w->out->failed = list.failed;
    json_put_raw(w, buf_span(&list));
    buf_fini(&list);
}

static void write_logprobs(struct json_out *w, bool chat, const struct choice *c) {
    json_key(w, "logprobs");
    if (!c->has_logprobs) {
        json_put_null(w);
        return;
    }
    json_object(w);
    if (chat) {
        answer_list_write(w, "content", &c->logprobs);
        json_key(w, "refusal");
        json_put_null(w);
    } else {
        answer_list_write(w, "tokens", &c->tokens);
        answer_list_write(w, "token_logprobs", &c->logprobs);
        answer_list_write(w, "top_logprobs", &c->tops);
        answer_list_write(w, "text_offset", &c->offsets);
    }
    json_object_end(w);
}

/* ---- the whole ---- */

static void write_head(struct json_out *w, const struct answer *a, const char *object) {
    json_object(w);
    json_str(w, "id", a->id);
    json_str(w, "object", object);
    json_num(w, "created", a->created_s);
    json_str(w, "model", a->model);
}

static void write_usage(struct json_out *w, const struct answer_usage *u) {
    json_key(w, "usage");
    json_object(w);
    json_num(w, "prompt_tokens", (int64_t)u->prompt_tokens);
    json_num(w, "completion_tokens", (int64_t)u->completion_tokens);
    json_num(w, "total_tokens", (int64_t)(u->prompt_tokens + u->completion_tokens));
    json_key(w, "prompt_tokens_details");
    json_object(w);
    json_num(w, "cached_tokens", (int64_t)u->cached_tokens);
    json_object_end(w);
    if (u->reasoning_tokens > 0) {
        json_key(w, "completion_tokens_details");
        json_object(w);
        json_num(w, "reasoning_tokens", (int64_t)u->reasoning_tokens);
        json_object_end(w);
    }
    json_object_end(w);
}

void answer_write(struct buf *out, const struct answer *a, const struct choice *choices, size_t n, const struct answer_usage *usage) {
    struct json_out w;
    json_begin(&w, out);
    write_head(&w, a, a->chat ? "chat.completion" : "text_completion");
    json_key(&w, "choices");
    json_array(&w);
    for (size_t i = 0; i < n; i++) {
        const struct choice *c = &choices[i];
        json_object(&w);
        json_num(&w, "index", c->index);
        if (a->chat) {
            json_key(&w, "message");
            json_object(&w);
            json_str(&w, "role", "assistant");
            json_key(&w, "content");
            if (c->calls.len && !c->text.len) json_put_null(&w);
            else json_put_span(&w, buf_span(&c->text));
            if (c->reasoning.len) json_span(&w, "reasoning_content", buf_span(&c->reasoning));
            if (c->calls.len) answer_list_write(&w, "tool_calls", &c->calls);
            json_key(&w, "refusal");
            json_put_null(&w);
            json_object_end(&w);
        } else {
            json_span(&w, "text", buf_span(&c->text));
        }
        write_logprobs(&w, a->chat, c);
        json_str(&w, "finish_reason", c->finish_reason);
        json_object_end(&w);
        const struct buf *parts[] = {&c->text, &c->logprobs, &c->reasoning, &c->calls};
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
            if (parts[k]->failed) out->failed = parts[k]->failed;
    }
    json_array_end(&w);
    write_usage(&w, usage);
    json_object_end(&w);
}

/* ---- chunks ---- */

static void begin_event(struct json_out *w, struct buf *out, const struct answer *a) {
    (void)buf_append_str(out, "data: ");
    json_begin(w, out);
    write_head(w, a, a->chat ? "chat.completion.chunk" : "text_completion");
}
static void end_event(struct json_out *w, struct buf *out) {
    json_object_end(w);
    (void)buf_append_str(out, "\n\n");
}

static void chunk(struct buf *out, const struct answer *a, struct choice *c, bool role, struct span text, const char *finish, bool usage_field) {
    struct json_out w;
    begin_event(&w, out, a);
    json_key(&w, "choices");
    json_array(&w);
    json_object(&w);
    json_num(&w, "index", c->index);
    if (a->chat) {
        json_key(&w, "delta");
        json_object(&w);
        if (role) json_str(&w, "role", "assistant");
        if (role || !finish) json_span(&w, "content", text);
        json_object_end(&w);
    } else {
        json_span(&w, "text", text);
    }
    write_logprobs(&w, a->chat, c);
    json_str(&w, "finish_reason", finish);
    json_object_end(&w);
    json_array_end(&w);
    if (usage_field) {
        json_key(&w, "usage");
        json_put_null(&w);
    }
    end_event(&w, out);
}

/* A chunk whose delta is reasoning, or calls. */
static void delta_chunk(struct buf *out, const struct answer *a, struct choice *c, const Genloop__V1__GenerateReply *reply, bool calls, bool usage_field) {
    struct json_out w;
    begin_event(&w, out, a);
    json_key(&w, "choices");
    json_array(&w);
    json_object(&w);
    json_num(&w, "index", c->index);
    json_key(&w, "delta");
    json_object(&w);
    if (calls) {
        json_key(&w, "tool_calls");
        json_array(&w);
        for (size_t i = 0; i < reply->n_tool_calls; i++) write_call(&w, reply->tool_calls[i], true);
        json_array_end(&w);
    } else json_str(&w, "reasoning_content", reply->reasoning);
    json_object_end(&w);
    json_key(&w, "logprobs");
    json_put_null(&w);
    json_str(&w, "finish_reason", NULL);
    json_object_end(&w);
    json_array_end(&w);
    if (usage_field) {
        json_key(&w, "usage");
        json_put_null(&w);
    }
    end_event(&w, out);
}

/* A piece that only brings text: nearly all of them. They differ in that text alone, so what stands around it is written once for the stream. */
static void plain_chunk(struct buf *out, const struct answer *a, struct choice *c, struct span text, bool usage_field) {
    static const struct span mark = {"\"\\u0001\"", 8}; /* the text U+0001 as JSON has it */
    if (c->plain.len == 0) {
        chunk(&c->plain, a, c, false, SPAN("\x01"), NULL, usage_field);
        ptrdiff_t at = span_find(buf_span(&c->plain), mark);
        if (c->plain.failed || at < 0) {
            buf_clear(&c->plain);
            chunk(out, a, c, false, text, NULL, usage_field);
            return;
        }
        c->plain_at = (size_t)at;
    }
    struct json_out w;
    struct span around = buf_span(&c->plain);
    (void)buf_append_span(out, span_sub(around, 0, c->plain_at));
    json_begin(&w, out);
    json_put_span(&w, text);
    (void)buf_append_span(out, span_skip(around, c->plain_at + mark.len));
}

void answer_chunk(struct buf *out, const struct answer *a, struct choice *c, const Genloop__V1__GenerateReply *reply, bool usage_field) {
    struct span text = span_str(reply->text);
    /* A chunk carries the log-probabilities of its own tokens. */
    buf_clear(&c->logprobs);
    buf_clear(&c->tokens);
    buf_clear(&c->offsets);
    buf_clear(&c->tops);
    c->has_logprobs = false;
    if (a->chat && !c->role_told) chunk(out, a, c, true, SPAN(""), NULL, usage_field);
    c->role_told = true;
    if (a->chat && reply->reasoning[0]) delta_chunk(out, a, c, reply, false, usage_field);
    add_positions(c, a->chat, reply);
    bool finish = reply->finish_reason[0] != 0;
    if (finish) span_copy(c->finish_reason, sizeof c->finish_reason, span_str(reply->finish_reason));
    bool calls = a->chat && reply->n_tool_calls > 0; /* they come behind the text of their piece */
    if (text.len && !c->has_logprobs && !finish && !calls) {
        plain_chunk(out, a, c, text, usage_field);
    } else if (a->chat) {
        if (text.len || c->has_logprobs) chunk(out, a, c, false, text, NULL, usage_field);
        c->has_logprobs = false;
        if (calls) delta_chunk(out, a, c, reply, true, usage_field);
        if (finish) chunk(out, a, c, false, SPAN(""), c->finish_reason, usage_field);
    } else if (text.len || c->has_logprobs || finish) {
        chunk(out, a, c, false, text, finish ? c->finish_reason : NULL, usage_field);
    }
}

void answer_usage_chunk(struct buf *out, const struct answer *a, const struct answer_usage *usage) {
    struct json_out w;
    begin_event(&w, out, a);
    json_key(&w, "choices");
    json_array(&w);
    json_array_end(&w);
    write_usage(&w, usage);
    end_event(&w, out);
}
