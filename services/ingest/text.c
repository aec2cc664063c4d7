#include "services/ingest/text.h"

void text_init(struct text *t, struct buf *out) { *t = (struct text){.out = out}; }

void text_break(struct text *t, enum text_break b) {
    if (t->pending < b) t->pending = b;
}

static void flush(struct text *t) {
    if (t->started) {
        if (t->pending == TEXT_SPACE) buf_append_char(t->out, ' ');
        if (t->pending == TEXT_LINE) buf_append_char(t->out, '\n');
        if (t->pending == TEXT_BLOCK) buf_append(t->out, "\n\n", 2);
    }
    t->pending = TEXT_NONE;
    t->started = true;
}

/* Verbatim: each line gets its four spaces when its first visible character comes; empty lines wait, so that none stands at either end. */
static void put_pre(struct text *t, struct span s) {
    while (s.len) {
        const char *newline = memchr(s.data, '\n', s.len);
        size_t n = newline ? (size_t)(newline - s.data) : s.len;
        if (n) {
            if (t->line_start) {
                if (t->blank_lines > 1) t->pending = TEXT_BLOCK;
                else if (t->pending < TEXT_LINE) t->pending = TEXT_LINE;
                flush(t);
                buf_append(t->out, "    ", 4);
                t->line_start = false;
                t->blank_lines = 0;
            }
            buf_append(t->out, s.data, n);
        }
        if (newline) {
            t->blank_lines++;
            t->line_start = true;
        }
        s = span_skip(s, n + (newline ? 1 : 0));
    }
}

static bool white(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }

void text_put(struct text *t, struct span s) {
    if (t->pre) {
        put_pre(t, s);
        return;
    }
    size_t i = 0;
    while (i < s.len) {
        if (white(s.data[i])) {
            text_space(t);
            i++;
            continue;
        }
        size_t from = i;
        while (i < s.len && !white(s.data[i])) i++;
        if (t->pending || !t->started) flush(t);
        buf_append(t->out, s.data + from, i - from);
    }
}

void text_put_str(struct text *t, const char *s) { text_put(t, span_str(s)); }

void text_mark(struct text *t, enum text_break before, const char *marker) {
    if (t->pre) text_pre_end(t);
    text_break(t, before);
    size_t n = strlen(marker);
    text_put(t, span_of(marker, n));
}

void text_heading(struct text *t, int level) {
    static const char *const marks[] = {"# ", "## ", "### ", "#### ", "##### ", "###### "};
    text_mark(t, TEXT_BLOCK, marks[level < 1 ? 0 : level > 6 ? 5 : level - 1]);
}

void text_pre_begin(struct text *t) {
    if (t->pre) return;
    text_block(t);
    t->pre = true;
    t->line_start = true;
    t->blank_lines = 0;
}

void text_pre_end(struct text *t) {
    if (!t->pre) return;
    t->pre = false;
    t->line_start = false;
    t->blank_lines = 0;
    text_block(t);
}
