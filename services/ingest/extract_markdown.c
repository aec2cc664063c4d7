/*
 * Markdown to text: block by block on whole lines, then the inline marks of each. Not a renderer: what a reader would see as words stays,
 * what is there for the renderer (emphasis, link targets, HTML, badges, reference definitions, front matter) goes. Fenced and indented code becomes verbatim
 * lines; hard-wrapped paragraphs become one line.
 */
#include "services/ingest/extract.h"

static bool alnum(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c >= 0x80; }

/* The end of a bracketed piece that begins at s[0] = open: index of the matching close, or 0. Looks at most so far: cost stays linear. */
static size_t matching(struct span s, char open, char close) {
    enum { LOOK_MAX = 2000 };
    int depth = 0;
    for (size_t i = 0; i < s.len && i < LOOK_MAX; i++) {
        if (s.data[i] == '\\') i++;
        else if (s.data[i] == open) depth++;
        else if (s.data[i] == close && --depth == 0) return i;
    }
    return 0;
}

/* Inline marks of one line or paragraph. Links nest one level (an image inside a link): the label is done by a second round over the same loop, by `end` marks. */
static void put_inline(struct text *t, struct span s) {
    size_t i = 0, from = 0;
    size_t skip_at[8], skip_to[8]; /* where a link's label ends, and where its target does */
    int skips = 0;
    while (i < s.len) {
        char c = s.data[i];
        if (skips && i == skip_at[skips - 1]) {
            text_put(t, span_sub(s, from, i - from));
            i = from = skip_to[--skips];
            continue;
        }
        size_t end;
        switch (c) {
        case '\\':
            if (i + 1 < s.len && (unsigned char)s.data[i + 1] < 0x80 && !alnum(s.data[i + 1]) && s.data[i + 1] != ' ') {
                text_put(t, span_sub(s, from, i - from));
                from = i + 1;
                i += 2;
                continue;
            }
            break;
        case '`': { /* code span: marks inside it are text */
            size_t ticks = 1;
            while (i + ticks < s.len && s.data[i + ticks] == '`') ticks++;
            size_t close = i + ticks, run = 0;
            for (; close < s.len && close < i + 4000; close++) {
                run = s.data[close] == '`' ? run + 1 : 0;
                if (run == ticks && (close + 1 == s.len || s.data[close + 1] != '`')) break;
            }
            if (close >= s.len || run != ticks) {
                i += ticks;
                continue;
            }
            text_put(t, span_sub(s, from, i - from));
            text_put(t, span_trim(span_sub(s, i + ticks, close + 1 - 2 * ticks - i)));
            i = from = close + 1;
            continue;
        }
        case '*':
        case '_':
        case '~': {
            size_t n = 1;
            while (i + n < s.len && s.data[i + n] == c) n++;
            bool before = i > 0 && alnum(s.data[i - 1]), after = i + n < s.len && alnum(s.data[i + n]);
            bool space_before = i == 0 || s.data[i - 1] == ' ', space_after = i + n == s.len || s.data[i + n] == ' ';
            bool word_inside = c == '_' && before && after; /* snake_case */
            if (word_inside || (space_before && space_after) || (c == '~' && n != 2) || n > 3) {
                i += n;
                continue;
            }
            text_put(t, span_sub(s, from, i - from));
            i = from = i + n;
            continue;
        }
        case '!':
        case '[': {
            size_t at = i + (c == '!');
            if (at >= s.len || s.data[at] != '[' || !(end = matching(span_skip(s, at), '[', ']'))) break;
            end += at;
            size_t after = end + 1;
            if (after < s.len && s.data[after] == '(') {
                size_t n = matching(span_skip(s, after), '(', ')');
                if (!n) break;
                after += n + 1;
            } else if (after < s.len && s.data[after] == '[') {
                size_t n = matching(span_skip(s, after), '[', ']');
                if (!n) break;
                after += n + 1;
            } else if (c == '[' && (at + 1 < s.len && s.data[at + 1] == '^'))
                ; /* a footnote's mark */
            else
                break;
            text_put(t, span_sub(s, from, i - from));
            if (c == '!' || (at + 1 < s.len && s.data[at + 1] == '^')) {
                i = from = after; /* an image says nothing in words; its alternative text mostly is a file's name */
            } else if (skips < 8) {
                skip_at[skips] = end;
                skip_to[skips++] = after;
                i = from = at + 1;
            } else
                i = from = after;
            continue;
        }
        case '<': {
            size_t close = i + 1;
            while (close < s.len && close < i + 1000 && s.data[close] != '>' && s.data[close] != '<') close++;
            if (close >= s.len || s.data[close] != '>' || close == i + 1) break;
            struct span tag = span_sub(s, i + 1, close - i - 1);
            bool url = span_find(tag, SPAN("://")) > 0 || (span_find_char(tag, '@') > 0 && span_find_char(tag, ' ') < 0);
            char first = tag.data[0];
            if (!url && first != '/' && first != '!' && !((first >= 'a' && first <= 'z') || (first >= 'A' && first <= 'Z'))) break;
            text_put(t, span_sub(s, from, i - from));
            if (url && first != '/' && span_find_char(tag, ' ') < 0) text_put(t, tag);
            if (span_eq_nocase(span_sub(tag, 0, 2), SPAN("br"))) text_line(t);
            i = from = close + 1;
            continue;
        }
        case '&': {
            char decoded[8];
            size_t n, len = entity_decode(span_skip(s, i), decoded, &n);
            if (!len) break;
            text_put(t, span_sub(s, from, i - from));
            text_put(t, span_of(decoded, n));
            i = from = i + len;
            continue;
        }
        default: break;
        }
        i++;
    }
    text_put(t, span_sub(s, from, s.len - from));
}

static size_t indent_of(struct span line) {
    size_t n = 0, i = 0;
    for (; i < line.len; i++) {
        if (line.data[i] == ' ') n++;
        else if (line.data[i] == '\t') n += 4 - n % 4;
        else break;
    }
    return n;
}

/* Length of a list marker with its spaces ("- ", "12. "), 0 where there is none. */
static size_t list_marker(struct span s, bool *numbered) {
    *numbered = false;
    if (s.len >= 2 && (s.data[0] == '-' || s.data[0] == '*' || s.data[0] == '+') && (s.data[1] == ' ' || s.data[1] == '\t')) return 2;
    size_t n = 0;
    while (n < s.len && n < 9 && s.data[n] >= '0' && s.data[n] <= '9') n++;
    if (n && n + 1 < s.len && (s.data[n] == '.' || s.data[n] == ')') && s.data[n + 1] == ' ') {
        *numbered = true;
        return n + 2;
    }
    return 0;
}

static bool only(struct span s, const char *set, size_t least) {
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] == ' ' || s.data[i] == '\t') continue;
        if (!strchr(set, s.data[i])) return false;
        n++;
    }
    return n >= least;
}

static void put_table_row(struct text *t, struct span row) {
    text_line(t);
    if (row.len && row.data[0] == '|') row = span_skip(row, 1);
    if (row.len && row.data[row.len - 1] == '|') row = span_sub(row, 0, row.len - 1);
    bool first = true;
    struct span cell;
    while (span_cut(&row, '|', &cell)) {
        if (!first) text_put_str(t, " | ");
        put_inline(t, span_trim(cell));
        first = false;
    }
}

enum reason extract_markdown(struct span in, struct extracted *x) {
    struct text t;
    text_init(&t, x->text);
    struct span rest = in, line;
    enum { NOTHING, PARAGRAPH, LIST, TABLE, CODE } block = NOTHING;
    char fence = 0;
    size_t fence_len = 0;
    bool comment = false, indented_code = false;
    /* Front matter: YAML between two lines of dashes, of which the title is kept. */
    if (span_starts(in, SPAN("---\n")) || span_starts(in, SPAN("---\r\n"))) {
        struct span after = in, l;
        span_cut(&after, '\n', &l);
        struct span title = {0};
        for (int lines = 0; lines < 200 && span_cut(&after, '\n', &l); lines++) {
            l = span_trim(l);
            if (span_starts(l, SPAN("title:"))) {
                title = span_trim(span_skip(l, 6));
                if (title.len >= 2 && (title.data[0] == '"' || title.data[0] == '\'')) title = span_sub(title, 1, title.len - 2);
            }
            if (span_eq_str(l, "---") || span_eq_str(l, "...")) {
                if (title.len) {
                    span_copy(x->title, sizeof x->title, title);
                    text_heading(&t, 1);
                    text_put(&t, title);
                    text_block(&t);
                }
                rest = after;
                break;
            }
        }
    }
    while (span_cut(&rest, '\n', &line)) {
        if (line.len && line.data[line.len - 1] == '\r') line = span_sub(line, 0, line.len - 1);
        struct span body = span_trim(line);
        if (fence) {
            size_t n = 0;
            while (n < body.len && body.data[n] == fence) n++;
            if (n >= fence_len && n == body.len) {
                fence = 0;
                text_pre_end(&t);
                block = NOTHING;
            } else {
                text_put(&t, line);
                text_put(&t, SPAN("\n"));
            }
            continue;
        }
        if (comment) {
            ptrdiff_t end = span_find(line, SPAN("-->"));
            if (end < 0) continue;
            comment = false;
            body = span_trim(span_skip(line, (size_t)end + 3));
            if (!body.len) continue;
        }
        if (span_starts(body, SPAN("<!--"))) {
            ptrdiff_t end = span_find(body, SPAN("-->"));
            if (end < 0) {
                comment = true;
                continue;
            }
            body = span_trim(span_skip(body, (size_t)end + 3));
            if (!body.len) continue;
        }
        if (!body.len) {
            if (indented_code) text_put(&t, SPAN("\n"));
            else {
                text_block(&t);
                block = block == LIST ? LIST : NOTHING;
            }
            continue;
        }
        size_t indent = indent_of(line);
        if (indented_code) {
            if (indent >= 4) {
                text_put(&t, span_skip(line, line.data[0] == '\t' ? 1 : 4));
                text_put(&t, SPAN("\n"));
                continue;
            }
            text_pre_end(&t);
            indented_code = false;
            block = NOTHING;
        }
        if (indent >= 4 && block == NOTHING && body.data[0] != '-' && body.data[0] != '*') {
            text_pre_begin(&t);
            indented_code = true;
            text_put(&t, span_skip(line, line.data[0] == '\t' ? 1 : 4));
            text_put(&t, SPAN("\n"));
            continue;
        }
        if (body.len >= 3 && (body.data[0] == '`' || body.data[0] == '~')) {
            size_t n = 0;
            while (n < body.len && body.data[n] == body.data[0]) n++;
            if (n >= 3 && !memchr(body.data + n, '`', body.len - n)) {
                fence = body.data[0];
                fence_len = n;
                text_pre_begin(&t);
                continue;
            }
        }
        /* quotation marks: their depth is shown once */
        bool quoted = false;
        for (int depth = 0; depth < NESTING_MAX && body.len && body.data[0] == '>'; depth++) {
            body = span_trim(span_skip(body, 1));
            quoted = true;
        }
        if (!body.len) {
            text_block(&t);
            continue;
        }
        if (body.data[0] == '#') {
            size_t level = 0;
            while (level < body.len && body.data[level] == '#') level++;
            if (level <= 6 && (level == body.len || body.data[level] == ' ' || body.data[level] == '\t')) {
                struct span heading = span_trim(span_skip(body, level));
                while (heading.len && heading.data[heading.len - 1] == '#') heading = span_sub(heading, 0, heading.len - 1);
                heading = span_trim(heading);
                text_heading(&t, (int)level);
                size_t mark = x->text->len;
                put_inline(&t, heading);
                if (!x->title[0] && level <= 2 && x->text->len > mark && !x->text->failed)
                    span_copy(x->title, sizeof x->title, span_trim(span_skip(buf_span(x->text), mark)));
                text_block(&t);
                block = NOTHING;
                continue;
            }
        }
        if ((only(body, "=", 2) || only(body, "-", 2)) && block == PARAGRAPH && !quoted && span_find_char(body, ' ') < 0) {
            /* Setext: the paragraph before it is the heading. It stands as a line in the output: the mark goes before it. */
            struct span so_far = buf_span(x->text);
            size_t start = so_far.len;
            while (start > 0 && so_far.data[start - 1] != '\n') start--;
            char heading[TEXT_TITLE_MAX];
            if (so_far.len - start < sizeof heading) {
                span_copy(heading, sizeof heading, span_skip(so_far, start));
                x->text->len = start;
                buf_append_str(x->text, body.data[0] == '=' ? "# " : "## ");
                buf_append_str(x->text, heading);
                if (!x->title[0]) span_copy(x->title, sizeof x->title, span_str(heading));
            }
            text_block(&t);
            block = NOTHING;
            continue;
        }
        if (only(body, "-", 3) || only(body, "*", 3) || only(body, "_", 3)) { /* a rule */
            text_block(&t);
            block = NOTHING;
            continue;
        }
        /* [label]: target */
        if (body.data[0] == '[') {
            size_t end = matching(body, '[', ']');
            if (end && end + 1 < body.len && body.data[end + 1] == ':' && (block == NOTHING || block == LIST)) continue;
        }
        if (body.data[0] == '|' || block == TABLE) {
            if (memchr(body.data, '|', body.len)) {
                if (only(body, "|-:", 3)) continue;
                if (block != TABLE) text_block(&t);
                put_table_row(&t, body);
                block = TABLE;
                continue;
            }
        }
        bool numbered;
        size_t marker = list_marker(body, &numbered);
        if (marker) {
            text_break(&t, block == LIST ? TEXT_LINE : TEXT_BLOCK);
            if (t.pending == TEXT_BLOCK && block == LIST) t.pending = TEXT_LINE; /* a loose list is a list */
            if (numbered) text_put(&t, span_sub(body, 0, marker));
            else text_put_str(&t, "- ");
            body = span_trim(span_skip(body, marker));
            if (body.len >= 4 && body.data[0] == '[' && body.data[2] == ']' && body.data[3] == ' ') body = span_skip(body, 4); /* a task's box */
            put_inline(&t, body);
            text_space(&t);
            block = LIST;
            continue;
        }
        if (quoted && block != PARAGRAPH) text_mark(&t, TEXT_BLOCK, "> ");
        put_inline(&t, body);
        /* two spaces or a backslash at the end are a line's end */
        if (span_ends(line, SPAN("  ")) || (body.len && body.data[body.len - 1] == '\\')) text_line(&t);
        else text_space(&t);
        if (block == NOTHING || (block == LIST && t.pending >= TEXT_BLOCK)) block = PARAGRAPH;
    }
    return REASON_NONE;
}
