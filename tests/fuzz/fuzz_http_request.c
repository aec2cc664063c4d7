/* HTTP requests: cut at any place the events are the same, and bodies have the length that the head said. */
#include "base/buf.h"
#include "base/error.h"
#include "http/parser.h"

static void events(struct span text, size_t cut, struct buf *out) {
    struct http_parser p;
    http_parser_init(&p, NULL);
    uint64_t left = 0;
    bool by_length = false;
    for (size_t part = 0; part < 2; part++) {
        struct span rest = part ? span_skip(text, cut) : span_sub(text, 0, cut), data;
        for (enum http_event e; (e = http_parser_next(&p, &rest, &data)) != HTTP_NEED;) {
            if (e == HTTP_REFUSED) {
                buf_printf(out, "!%d", http_parser_status(&p));
                goto out;
            }
            if (e == HTTP_HEAD) {
                struct http_head h;
                http_parser_take_head(&p, &h);
                ASSERT(h.path.len > 0 && h.method.len > 0 && !(h.chunked && h.length));
                left = h.length;
                by_length = !h.chunked;
                buf_printf(out, "H%.*s %.*s %zu;", SPAN_ARG(h.method), SPAN_ARG(h.target), h.field_count);
                http_head_fini(&h);
            } else if (e == HTTP_BODY) {
                ASSERT(data.len > 0 && (!by_length || data.len <= left));
                left -= by_length ? data.len : 0;
                buf_append_span(out, data);
            } else {
                ASSERT(!by_length || left == 0);
                buf_append_char(out, 'E');
            }
        }
        ASSERT(rest.len == 0);
    }
out:
    http_parser_fini(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    size_t cut = (size_t)data[0] << 8 | data[1];
    struct span text = span_of(data + 2, size - 2);
    struct buf whole, parts;
    buf_init(&whole, 4 * size + 4096);
    buf_init(&parts, 4 * size + 4096);
    events(text, text.len, &whole);
    events(text, text.len ? cut % (text.len + 1) : 0, &parts);
    ASSERT(span_eq(buf_span(&whole), buf_span(&parts)));
    buf_fini(&whole);
    buf_fini(&parts);
    return 0;
}
