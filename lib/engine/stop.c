#include "engine/stop.h"

#include "base/alloc.h"

int stop_init(struct stop_matcher *m, const struct span *strings, size_t count, struct error *err) {
    *m = (struct stop_matcher){.matched = -1};
    if (count > STOP_STRINGS_MAX) return error_set_param(err, E_INVALID, "stop", "%zu stop strings, at most %d are taken", count, STOP_STRINGS_MAX);
    for (size_t i = 0; i < count; i++)
        if (strings[i].len == 0 || strings[i].len > STOP_LENGTH_MAX)
            return error_set_param(err, E_INVALID, "stop", "a stop string must have 1 to %d bytes", STOP_LENGTH_MAX);
    buf_init(&m->held, 2 * STOP_LENGTH_MAX);
    for (; m->count < count; m->count++) {
        size_t n = strings[m->count].len;
        char *copy = span_dup(strings[m->count]);
        uint16_t *failure = mem_calloc(n, sizeof *failure);
        if (!copy || !failure) {
            mem_free(copy);
            mem_free(failure);
            stop_fini(m);
            return error_set(err, E_NOMEM, "no memory for stop strings");
        }
        for (size_t i = 1, k = 0; i < n; i++) {
            while (k > 0 && copy[i] != copy[k]) k = failure[k - 1];
            k += copy[i] == copy[k];
            failure[i] = (uint16_t)k;
        }
        m->strings[m->count] = span_of(copy, n);
        m->failure[m->count] = failure;
    }
    return 0;
}

void stop_fini(struct stop_matcher *m) {
    for (size_t i = 0; i < m->count; i++) {
        mem_free((char *)m->strings[i].data);
        mem_free(m->failure[i]);
    }
    buf_fini(&m->held);
    *m = (struct stop_matcher){.matched = -1};
}

int stop_push(struct stop_matcher *m, struct span text, struct buf *out, bool *stopped) {
    *stopped = false;
    if (m->count == 0) return buf_append_span(out, text);
    for (size_t at = 0; at < text.len; at++) {
        char c = text.data[at];
        int r = buf_append_char(&m->held, c);
        if (r != 0) return r;
        size_t longest = 0;
        for (size_t i = 0; i < m->count; i++) {
            size_t k = m->state[i];
            while (k > 0 && c != m->strings[i].data[k]) k = m->failure[i][k - 1];
            k += c == m->strings[i].data[k];
            m->state[i] = (uint16_t)k;
            if (k == m->strings[i].len && (m->matched < 0 || k > m->strings[m->matched].len)) m->matched = (int)i;
            if (k > longest) longest = k;
        }
        size_t keep = m->matched >= 0 ? m->strings[m->matched].len : longest;
        struct span held = buf_span(&m->held);
        r = buf_append(out, held.data, held.len - keep);
        if (r != 0) return r;
        buf_consume(&m->held, held.len - keep);
        if (m->matched >= 0) {
            buf_clear(&m->held);
            *stopped = true;
            return 0;
        }
    }
    return 0;
}

int stop_finish(struct stop_matcher *m, struct buf *out) {
    if (m->count == 0 || m->matched >= 0) return 0;
    int r = buf_append_span(out, buf_span(&m->held));
    if (r == 0) buf_clear(&m->held);
    return r;
}
