#include "sse.h"

#include "base/error.h"

void sse_init(struct sse *s) {
    *s = (struct sse){0};
    buf_init(&s->line, SSE_EVENT_MAX);
    buf_init(&s->data, SSE_EVENT_MAX);
}

void sse_fini(struct sse *s) {
    buf_fini(&s->line);
    buf_fini(&s->data);
}

/* A whole line, without its end. */
static int take_line(struct sse *s, void *arg, int (*on_event)(void *arg, struct span data)) {
    struct span line = buf_span(&s->line), value;
    int r = 0;
    if (line.len == 0) {
        if (s->has_data) r = on_event(arg, buf_span(&s->data));
        s->has_data = false;
        buf_clear(&s->data);
        return r;
    }
    if (!span_starts(line, SPAN("data"))) return 0; /* a comment, or a field that says nothing here */
    value = span_skip(line, 4);
    if (value.len && value.data[0] != ':') return 0; /* "database: …" */
    value = span_skip(value, 1);
    if (value.len && value.data[0] == ' ') value = span_skip(value, 1);
    if (s->has_data) (void)buf_append_char(&s->data, '\n');
    s->has_data = true;
    (void)buf_append_span(&s->data, value);
    return s->data.failed;
}

int sse_feed(struct sse *s, struct span bytes, void *arg, int (*on_event)(void *arg, struct span data)) {
    while (bytes.len) {
        if (s->after_cr && bytes.data[0] == '\n') bytes = span_skip(bytes, 1);
        s->after_cr = false;
        size_t n = 0;
        while (n < bytes.len && bytes.data[n] != '\n' && bytes.data[n] != '\r') n++;
        int r = buf_append_span(&s->line, span_sub(bytes, 0, n));
        if (r < 0) return r;
        if (n == bytes.len) return 0;
        s->after_cr = bytes.data[n] == '\r';
        bytes = span_skip(bytes, n + 1);
        r = take_line(s, arg, on_event);
        buf_clear(&s->line);
        if (r != 0) return r;
    }
    return 0;
}
