/* Our chat template and its native rendering, kept in pieces so that nobody's text is taken for the template's. */
#include "tokenizer/chat.h"

#include "base/alloc.h"

const char CHAT_TEMPLATE_CHATML[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

enum { PIECES_PER_MESSAGE = 5 };
static const char answer_role[] = "assistant";

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
    if (strcmp(template_text, CHAT_TEMPLATE_CHATML) != 0)
        return error_set(err, E_UNSUPPORTED, "the model's chat template is not the built-in ChatML template, and there is no interpreter for others yet");
    if (count > CHAT_MESSAGES_MAX) return error_set(err, E_TOO_LARGE, "more than %d messages", CHAT_MESSAGES_MAX);
    for (size_t i = 0; i < count; i++) {
        char param[ERROR_PARAM_MAX];
        snprintf(param, sizeof param, "messages.%zu.role", i);
        if (span_empty(messages[i].role) || span_find_char(messages[i].role, '\n') >= 0)
            return error_set_param(err, E_INVALID, param, "a message's role is empty or has a line break");
    }
    return 0;
}

static struct tokenizer_piece *pieces_new(const struct chat_message *messages, size_t count, bool add_generation_prompt, size_t *n) {
    struct tokenizer_piece *p = mem_calloc(count * PIECES_PER_MESSAGE + 1, sizeof *p);
    if (p) *n = pieces_of(messages, count, add_generation_prompt, p);
    return p;
}

int chat_render(const char *template_text, const struct chat_message *messages, size_t count, bool add_generation_prompt, struct buf *out,
                struct error *err) {
    int r = check(template_text, messages, count, err);
    if (r) return r;
    size_t n = 0;
    struct tokenizer_piece *p = pieces_new(messages, count, add_generation_prompt, &n);
    if (!p) return error_set(err, E_NOMEM, "no memory to render a chat");
    for (size_t i = 0; !r && i < n; i++) r = buf_append_span(out, p[i].text);
    if (r) error_set(err, r, r == E_FULL ? "the chat is too long" : "no memory to render a chat");
    mem_free(p);
    return r;
}

int tokenizer_encode_chat(const struct tokenizer *t, const char *template_text, const struct chat_message *messages, size_t count,
                          bool add_generation_prompt, struct tokens *out, uint8_t **answers, struct error *err) {
    int r = check(template_text, messages, count, err);
    if (r) return r;
    if (tokenizer_find(t, SPAN(TOKENIZER_IM_START)) == TOKEN_NONE || tokenizer_find(t, SPAN(TOKENIZER_IM_END)) == TOKEN_NONE)
        return error_set(err, E_INVALID, "the vocabulary lacks " TOKENIZER_IM_START " or " TOKENIZER_IM_END ", which the chat template needs");
    struct tokens ids = {0};
    uint8_t *mask = NULL;
    size_t n = 0, first = out->len;
    struct tokenizer_piece *p = pieces_new(messages, count, add_generation_prompt, &n);
    if (!p) {
        r = error_set(err, E_NOMEM, "no memory to encode a chat");
        goto out;
    }
    r = tokenizer_encode_pieces(t, p, n, TOKENIZER_OFFSETS, &ids, err);
    if (r) goto out;
    if (answers) {
        mask = mem_zalloc(ids.len + 1);
        if (!mask) {
            r = error_set(err, E_NOMEM, "no memory to encode a chat");
            goto out;
        }
        /* A token is the answer's where its first byte is: one that began in the template's line break is given, not learnt. */
        size_t at = 0, k = 0;
        for (size_t i = 0; i < n; i++) {
            size_t end = at + p[i].text.len;
            size_t message = i / PIECES_PER_MESSAGE, part = i % PIECES_PER_MESSAGE;
            bool answer = message < count && span_eq_str(messages[message].role, answer_role);
            for (; k < ids.len && ids.offsets[k].start < end; k++)
                mask[k] = answer && (part == 3 || (part == 4 && ids.offsets[k].start == at));
            at = end;
        }
    }
    r = array_reserve(&out->ids, &out->capacity, first + ids.len, sizeof out->ids[0]);
    if (r) {
        error_set(err, r, "no memory to encode a chat");
        goto out;
    }
    if (out->offsets) { /* a caller's list that had offsets keeps having them */
        r = array_reserve(&out->offsets, &out->offsets_capacity, first + ids.len, sizeof out->offsets[0]);
        if (r) {
            error_set(err, r, "no memory to encode a chat");
            goto out;
        }
        memcpy(out->offsets + first, ids.offsets, ids.len * sizeof ids.offsets[0]);
    }
    memcpy(out->ids + first, ids.ids, ids.len * sizeof ids.ids[0]);
    out->len = first + ids.len;
    if (answers) {
        *answers = mask;
        mask = NULL;
    }
out:
    mem_free(mask);
    mem_free(p);
    tokens_fini(&ids);
    return r;
}
