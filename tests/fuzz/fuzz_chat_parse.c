/* A model's answer taken apart: in one piece and in many it is the same; without calls no byte of it is lost but white space and marks of reasoning. The first byte is the family, the second
 * how it is cut. */
#include "base/alloc.h"
#include "base/json.h"
#include "tokenizer/chat_parse.h"

struct heard {
    struct buf text, reasoning, calls;
};
static int on_text(void *arg, struct span s) { return buf_append_span(&((struct heard *)arg)->text, s); }
static int on_reasoning(void *arg, struct span s) { return buf_append_span(&((struct heard *)arg)->reasoning, s); }
static int on_call(void *arg, uint32_t index, struct span name, struct span arguments) {
    struct buf *out = &((struct heard *)arg)->calls;
    struct json *v = NULL;
    ASSERT(index < CHAT_CALLS_MAX);
    ASSERT(json_parse(arguments, &v, NULL) == 0 && json_type(v) == JSON_TYPE_OBJECT);
    json_free(v);
    (void)buf_append_span(out, name);
    return buf_append_span(out, arguments);
}

static void parse(enum chat_style style, bool reasoning, bool begun, struct span answer, size_t step, struct heard *h) {
    static const struct span tools[] = {{"add", 3}, {"f", 1}};
    const struct chat_parser_options o = {.style = style, .reasoning = reasoning, .tools = tools, .tool_count = 2};
    const struct chat_sink sink = {h, on_text, on_reasoning, on_call};
    struct chat_parser *p = NULL;
    buf_init(&h->text, 1 << 26);
    buf_init(&h->reasoning, 1 << 26);
    buf_init(&h->calls, 1 << 26);
    ASSERT(chat_parser_new(&o, &sink, &p) == 0);
    if (begun) chat_parser_begin_reasoning(p);
    for (size_t i = 0; i < answer.len; i += step) ASSERT(chat_parser_push(p, span_sub(answer, i, step)) == 0);
    ASSERT(chat_parser_finish(p) == 0);
    chat_parser_free(p);
}
static void heard_fini(struct heard *h) {
    buf_fini(&h->text);
    buf_fini(&h->reasoning);
    buf_fini(&h->calls);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    enum chat_style style = (enum chat_style)(data[0] % CHAT_STYLES);
    bool reasoning = data[0] & 64, begun = data[0] & 128;
    struct span answer = span_of(data + 2, size - 2);
    struct heard whole, pieces;
    parse(style, reasoning, begun, answer, answer.len + 1, &whole);
    parse(style, reasoning, begun, answer, 1 + data[1] % 16, &pieces);
    ASSERT(span_eq(buf_span(&whole.text), buf_span(&pieces.text)));
    ASSERT(span_eq(buf_span(&whole.reasoning), buf_span(&pieces.reasoning)));
    ASSERT(span_eq(buf_span(&whole.calls), buf_span(&pieces.calls)));
    if (!reasoning && !begun && !whole.calls.len) ASSERT(span_eq(buf_span(&whole.text), answer));
    heard_fini(&whole);
    heard_fini(&pieces);
    return 0;
}
