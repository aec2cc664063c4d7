/* Server-sent events: cut at any place the events are the same, and none has a line's end that did not stand in it. */
#include "base/error.h"
#include "cli/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int on_event(void *arg, struct span data) {
    struct buf *out = arg;
    ASSERT(span_find_char(data, '\r') < 0);
    (void)buf_append_char(out, '<');
    (void)buf_append_span(out, data);
    return buf_append_char(out, '>');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    struct span text = span_of(data + 1, size - 1);
    struct buf whole, pieces;
    struct sse s;
    buf_init(&whole, 3 * size + 64);
    buf_init(&pieces, 3 * size + 64);
    sse_init(&s);
    ASSERT(sse_feed(&s, text, &whole, on_event) == 0);
    sse_fini(&s);
    sse_init(&s);
    size_t step = data[0] % 7 + 1;
    for (size_t at = 0; at < text.len; at += step) ASSERT(sse_feed(&s, span_sub(text, at, step), &pieces, on_event) == 0);
    sse_fini(&s);
    ASSERT(span_eq(buf_span(&whole), buf_span(&pieces)));
    buf_fini(&whole);
    buf_fini(&pieces);
    return 0;
}
