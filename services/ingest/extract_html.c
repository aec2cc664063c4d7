/*
 * HTML to text: a tokenizer of its own, as forgiving as browsers are, that keeps what a reader reads. No tree is built: each tag says
 * what it begins or ends, so memory does not follow the input's nesting. Dropped with all inside: scripts, styles, templates, drawings, forms' controls,
 * navigation, footers and what is hidden. Where a page has a <main>, only what is in it counts. A page whose dropped part never ends is read
 * a second time without dropping the boilerplate.
 */
#include "services/ingest/extract.h"

enum tag {
    TAG_OTHER, TAG_BLOCK, TAG_HEADING, TAG_PARAGRAPH, TAG_BREAK, TAG_LIST, TAG_ORDERED, TAG_ITEM, TAG_TERM, TAG_DEFINITION, TAG_PRE, TAG_ROW, TAG_CELL, TAG_TABLE,
    TAG_TITLE, TAG_RAW, TAG_DROP, TAG_BOILERPLATE, TAG_QUOTE, TAG_MAIN, TAG_RULE,
};
static const struct {
    const char *name;
    enum tag tag;
} tags[] = { /* sorted by name */
    {"address", TAG_BLOCK}, {"article", TAG_BLOCK}, {"aside", TAG_BOILERPLATE}, {"audio", TAG_DROP}, {"blockquote", TAG_QUOTE}, {"body", TAG_BLOCK}, {"br", TAG_BREAK},
    {"button", TAG_DROP}, {"canvas", TAG_DROP}, {"caption", TAG_BLOCK}, {"center", TAG_BLOCK}, {"dd", TAG_DEFINITION}, {"details", TAG_BLOCK}, {"dialog", TAG_BOILERPLATE}, {"dir", TAG_LIST},
    {"div", TAG_BLOCK}, {"dl", TAG_BLOCK}, {"dt", TAG_TERM}, {"fieldset", TAG_BLOCK}, {"figcaption", TAG_BLOCK}, {"figure", TAG_BLOCK}, {"footer", TAG_BOILERPLATE},
    {"form", TAG_BLOCK}, {"h1", TAG_HEADING}, {"h2", TAG_HEADING}, {"h3", TAG_HEADING}, {"h4", TAG_HEADING}, {"h5", TAG_HEADING}, {"h6", TAG_HEADING}, {"head", TAG_BLOCK}, {"header", TAG_BLOCK},
    {"hr", TAG_RULE}, {"html", TAG_BLOCK}, {"iframe", TAG_RAW}, {"legend", TAG_BLOCK}, {"li", TAG_ITEM}, {"listing", TAG_PRE}, {"main", TAG_MAIN}, {"menu", TAG_LIST}, {"nav", TAG_BOILERPLATE},
    {"noembed", TAG_RAW}, {"noframes", TAG_RAW}, {"noscript", TAG_DROP}, {"object", TAG_DROP}, {"ol", TAG_ORDERED}, {"option", TAG_DROP}, {"p", TAG_PARAGRAPH}, {"pre", TAG_PRE}, {"script", TAG_RAW},
    {"section", TAG_BLOCK}, {"select", TAG_DROP}, {"style", TAG_RAW}, {"summary", TAG_BLOCK}, {"svg", TAG_DROP}, {"table", TAG_TABLE}, {"tbody", TAG_BLOCK}, {"td", TAG_CELL}, {"template", TAG_DROP},
    {"textarea", TAG_RAW}, {"tfoot", TAG_BLOCK}, {"th", TAG_CELL}, {"thead", TAG_BLOCK}, {"title", TAG_TITLE}, {"tr", TAG_ROW}, {"ul", TAG_LIST}, {"video", TAG_DROP}, {"xmp", TAG_RAW},
};

static enum tag find_tag(const char *name) {
    size_t low = 0, high = sizeof tags / sizeof *tags;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int c = strcmp(name, tags[middle].name);
        if (!c) return tags[middle].tag;
        if (c < 0) high = middle;
        else low = middle + 1;
    }
    return TAG_OTHER;
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }
static bool letter(char c) { return (lower(c) >= 'a' && lower(c) <= 'z'); }
static bool white(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f'; }

struct html {
    struct text t;
    struct extracted *x;
    struct span in;
    size_t at;
    bool drop_boilerplate;
    char skip[16];      /* the element that is dropped now, "" for none */
    int skip_depth;     /* of elements of its name inside it */
    struct { bool ordered; int count; } lists[NESTING_MAX];
    int n_lists, extra_lists;
    bool in_main, wants_main, term_open, row_started, item_open, in_heading;
    char title[TEXT_TITLE_MAX];
};

/* Text between tags, entities decoded. */
static void put_text(struct html *h, struct span s) {
    if (h->skip[0] || (h->wants_main && !h->in_main)) return;
    while (s.len) {
        const char *amp = memchr(s.data, '&', s.len);
        size_t n = amp ? (size_t)(amp - s.data) : s.len;
        if (n) {
            if (h->term_open && span_trim(span_sub(s, 0, n)).len) h->item_open = true;
            text_put(&h->t, span_sub(s, 0, n));
        }
        s = span_skip(s, n);
        if (!s.len) break;
        char decoded[8];
        size_t bytes, len = entity_decode(s, decoded, &bytes);
        if (len) {
            struct span d = span_of(decoded, bytes);
            if (span_eq_str(d, "\xc2\xa0")) d = SPAN(" ");
            text_put(&h->t, d);
        } else {
            text_put(&h->t, SPAN("&"));
            len = 1;
        }
        s = span_skip(s, len);
    }
}

/* The value of an attribute in a tag's inside; false where it is not there. Only the two that matter are asked for. */
static bool attribute(struct span inside, const char *name, struct span *value) {
    size_t i = 0, name_len = strlen(name);
    while (i < inside.len) {
        while (i < inside.len && (white(inside.data[i]) || inside.data[i] == '/')) i++;
        size_t from = i;
        while (i < inside.len && !white(inside.data[i]) && inside.data[i] != '=' && inside.data[i] != '/') i++;
        struct span key = span_sub(inside, from, i - from);
        while (i < inside.len && white(inside.data[i])) i++;
        *value = (struct span){0};
        if (i < inside.len && inside.data[i] == '=') {
            i++;
            while (i < inside.len && white(inside.data[i])) i++;
            if (i < inside.len && (inside.data[i] == '"' || inside.data[i] == '\'')) {
                char quote = inside.data[i++];
                const char *end = memchr(inside.data + i, quote, inside.len - i);
                size_t n = end ? (size_t)(end - inside.data) - i : inside.len - i;
                *value = span_sub(inside, i, n);
                i += n + 1;
            } else {
                from = i;
                while (i < inside.len && !white(inside.data[i])) i++;
                *value = span_sub(inside, from, i - from);
            }
        } else if (i == from)
            i++;
        if (key.len == name_len && span_eq_nocase(key, span_str(name))) return true;
    }
    return false;
}

static bool hidden(const struct html *h, struct span inside, const char *name) {
    struct span value;
    if (!inside.len || !strcmp(name, "html") || !strcmp(name, "body") || !strcmp(name, "main")) return false;
    if (h->drop_boilerplate && attribute(inside, "role", &value) && (span_eq_nocase(value, SPAN("navigation")) || span_eq_nocase(value, SPAN("search")))) return true;
    if (h->drop_boilerplate && attribute(inside, "hidden", &value) && !span_eq_nocase(value, SPAN("until-found"))) return true;
    return h->drop_boilerplate && attribute(inside, "aria-hidden", &value) && span_eq_nocase(value, SPAN("true"));
}

static bool void_element(const char *name) {
    static const char *const names[] = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], name)) return true;
    return false;
}

static void end_term(struct html *h) {
    if (!h->term_open) return;
    h->term_open = false;
}

static void open_tag(struct html *h, enum tag tag, const char *name) {
    struct text *t = &h->t;
    switch (tag) {
    case TAG_HEADING:
        end_term(h);
        text_heading(t, name[1] - '0');
        h->in_heading = true;
        break;
    case TAG_PARAGRAPH:
    case TAG_BLOCK:
    case TAG_TABLE:
        if (h->in_heading) break;
        if (!t->pre) text_break(t, h->item_open ? TEXT_SPACE : tag == TAG_PARAGRAPH || tag == TAG_TABLE ? TEXT_BLOCK : TEXT_LINE);
        if (tag == TAG_BLOCK && !t->pre && !h->item_open) text_block(t);
        break;
    case TAG_QUOTE:
        if (!t->pre && !h->in_heading) text_mark(t, TEXT_BLOCK, "> ");
        break;
    case TAG_BREAK:
        if (t->pre) text_put(t, SPAN("\n"));
        else if (!h->in_heading) text_line(t);
        break;
    case TAG_RULE: text_block(t); break;
    case TAG_LIST:
    case TAG_ORDERED:
        end_term(h);
        h->item_open = false;
        if (h->n_lists < NESTING_MAX) {
            h->lists[h->n_lists].ordered = tag == TAG_ORDERED;
            h->lists[h->n_lists++].count = 0;
        } else
            h->extra_lists++;
        if (!t->pre) text_break(t, h->n_lists > 1 ? TEXT_LINE : TEXT_BLOCK);
        break;
    case TAG_ITEM: {
        char marker[16] = "- ";
        if (h->n_lists && h->lists[h->n_lists - 1].ordered) {
            int n = ++h->lists[h->n_lists - 1].count;
            snprintf(marker, sizeof marker, "%d. ", n < 100000 ? n : 100000);
        }
        if (t->pre) text_pre_end(t);
        if (t->pending == TEXT_BLOCK && h->n_lists && h->lists[h->n_lists - 1].count != 1) t->pending = TEXT_LINE; /* items stand line by line */
        text_mark(t, TEXT_LINE, marker);
        h->item_open = true; /* a first <p> begins no paragraph of its own */
        break;
    }
    case TAG_TERM:
        if (t->pre) text_pre_end(t);
        if (t->pending == TEXT_BLOCK && h->term_open) t->pending = TEXT_LINE;
        text_mark(t, TEXT_LINE, "- ");
        h->term_open = true;
        h->item_open = true;
        break;
    case TAG_DEFINITION:
        if (t->pre) text_pre_end(t);
        if (h->term_open) {
            h->term_open = false;
            t->pending = TEXT_NONE;
            struct span so_far = buf_span(t->out);
            if (so_far.len && so_far.data[so_far.len - 1] != ':') text_put_str(t, ":");
            text_space(t);
            h->item_open = true;
        } else
            text_block(t);
        break;
    case TAG_PRE:
        h->item_open = false;
        if (!h->in_heading) text_pre_begin(t);
        break;
    case TAG_ROW:
        if (!t->pre) text_line(t);
        h->row_started = false;
        h->item_open = true; /* blocks inside cells stay on the row's line */
        break;
    case TAG_CELL:
        if (t->pre) break;
        if (h->row_started) text_put_str(t, " | ");
        h->row_started = true;
        h->item_open = true;
        break;
    default: break;
    }
}

static void close_tag(struct html *h, enum tag tag) {
    struct text *t = &h->t;
    switch (tag) {
    case TAG_HEADING:
        h->in_heading = false;
        text_block(t);
        break;
    case TAG_PARAGRAPH:
    case TAG_BLOCK:
        if (t->pre || h->in_heading) break;
        if (h->row_started) text_space(t);
        else text_block(t);
        if (!h->row_started) h->item_open = false;
        break;
    case TAG_QUOTE: text_block(t); break;
    case TAG_TABLE:
        h->row_started = h->item_open = false;
        text_block(t);
        break;
    case TAG_ROW:
        h->row_started = h->item_open = false;
        text_line(t);
        break;
    case TAG_LIST:
    case TAG_ORDERED:
        if (h->extra_lists) h->extra_lists--;
        else if (h->n_lists) h->n_lists--;
        h->item_open = false;
        text_break(t, h->n_lists ? TEXT_LINE : TEXT_BLOCK);
        break;
    case TAG_ITEM:
    case TAG_DEFINITION:
        h->item_open = false;
        if (t->pre) text_pre_end(t);
        if (t->pending == TEXT_BLOCK) t->pending = TEXT_LINE;
        text_line(t);
        break;
    case TAG_PRE: text_pre_end(t); break;
    default: break;
    }
}

/* Position of "</name", from h->at on; the end of the input where there is none. */
static size_t raw_end(const struct html *h, const char *name) {
    size_t n = strlen(name);
    for (size_t i = h->at; i < h->in.len;) {
        const char *p = memchr(h->in.data + i, '<', h->in.len - i);
        if (!p) break;
        i = (size_t)(p - h->in.data);
        if (i + 2 + n <= h->in.len && h->in.data[i + 1] == '/' && span_eq_nocase(span_sub(h->in, i + 2, n), span_str(name)) &&
            (i + 2 + n == h->in.len || !letter(h->in.data[i + 2 + n])))
            return i;
        i++;
    }
    return h->in.len;
}

static void read_tag(struct html *h) {
    /* at '<' and a letter or slash */
    struct span in = h->in;
    size_t i = h->at + 1;
    bool closing = in.data[i] == '/';
    i += closing;
    char name[16];
    size_t n = 0;
    for (; i < in.len && !white(in.data[i]) && in.data[i] != '>' && in.data[i] != '/'; i++)
        if (n < sizeof name - 1) name[n++] = lower(in.data[i]);
    name[n] = 0;
    size_t from = i;
    char quote = 0;
    for (; i < in.len; i++) { /* to the > that is in no quotes */
        char c = in.data[i];
        if (quote) {
            if (c == quote) quote = 0;
        } else if ((c == '"' || c == '\'') && i > from && in.data[i - 1] == '=') quote = c;
        else if (c == '>') break;
    }
    if (i >= in.len) { /* a quote that never ends: the first > it is */
        const char *end = memchr(in.data + from, '>', in.len - from);
        i = end ? (size_t)(end - in.data) : in.len;
    }
    struct span inside = span_sub(in, from, i - from);
    bool self_closing = inside.len && inside.data[inside.len - 1] == '/';
    h->at = i < in.len ? i + 1 : i;
    enum tag tag = find_tag(name);
    if (!h->skip[0] && tag == TAG_TITLE && !closing) {
        size_t end = raw_end(h, "title");
        if (!h->title[0]) {
            struct buf b;
            buf_init(&b, 4096);
            struct text t;
            text_init(&t, &b);
            struct html quiet = {.t = t, .x = h->x};
            put_text(&quiet, span_sub(in, h->at, end - h->at < 2000 ? end - h->at : 2000));
            span_copy(h->title, sizeof h->title, buf_span(&b));
            h->title[span_utf8_complete(span_str(h->title))] = 0;
            buf_fini(&b);
        }
        h->at = end;
        return;
    }
    if (tag == TAG_RAW && !closing && !self_closing) {
        h->at = raw_end(h, name);
        return;
    }
    if (h->skip[0]) {
        if (!strcmp(name, h->skip)) {
            if (closing) h->skip_depth--;
            else if (!self_closing) h->skip_depth++;
            if (h->skip_depth <= 0) h->skip[0] = 0;
        }
        return;
    }
    if (!closing && !self_closing && !void_element(name) &&
        (tag == TAG_DROP || (tag == TAG_BOILERPLATE && h->drop_boilerplate) || hidden(h, inside, name))) {
        memcpy(h->skip, name, sizeof h->skip);
        h->skip_depth = 1;
        return;
    }
    if (tag == TAG_MAIN) {
        h->in_main = !closing;
        text_block(&h->t);
        return;
    }
    if (h->wants_main && !h->in_main) return;
    if (closing) close_tag(h, tag);
    else {
        if (tag == TAG_HEADING && h->item_open) h->item_open = false;
        open_tag(h, tag, name);
    }
}

static bool read_page(struct html *h) {
    struct span in = h->in;
    while (h->at < in.len && !h->x->text->failed) {
        const char *p = memchr(in.data + h->at, '<', in.len - h->at);
        size_t end = p ? (size_t)(p - in.data) : in.len;
        if (end > h->at) {
            put_text(h, span_sub(in, h->at, end - h->at));
            h->at = end;
            continue;
        }
        struct span rest = span_skip(in, h->at);
        if (span_starts(rest, SPAN("<!--"))) {
            ptrdiff_t n = span_find(span_skip(rest, 4), SPAN("-->"));
            h->at = n < 0 ? in.len : h->at + 4 + (size_t)n + 3;
        } else if (span_starts(rest, SPAN("<![CDATA["))) {
            ptrdiff_t n = span_find(rest, SPAN("]]>"));
            size_t stop = n < 0 ? rest.len : (size_t)n;
            if (!h->skip[0] && (!h->wants_main || h->in_main)) text_put(&h->t, span_sub(rest, 9, stop - 9));
            h->at += n < 0 ? rest.len : stop + 3;
        } else if (rest.len > 1 && (rest.data[1] == '!' || rest.data[1] == '?')) {
            const char *close = memchr(rest.data, '>', rest.len);
            h->at = close ? (size_t)(close - in.data) + 1 : in.len;
        } else if (rest.len > 1 && (letter(rest.data[1]) || (rest.data[1] == '/' && rest.len > 2 && letter(rest.data[2]))))
            read_tag(h);
        else {
            put_text(h, SPAN("<"));
            h->at++;
        }
    }
    return !h->skip[0];
}

static bool has_main(struct span in) {
    for (size_t i = 0; i + 6 < in.len;) {
        const char *p = memchr(in.data + i, '<', in.len - i - 6);
        if (!p) return false;
        i = (size_t)(p - in.data);
        if (span_eq_nocase(span_sub(in, i + 1, 4), SPAN("main")) && (in.data[i + 5] == '>' || white(in.data[i + 5]))) {
            /* and it ends: a page without </main> is read whole */
            return memmem(p, in.len - i, "</main", 6) != NULL;
        }
        i++;
    }
    return false;
}

enum reason extract_html(struct span in, struct extracted *x) {
    struct html h = {.x = x, .in = in, .drop_boilerplate = true, .wants_main = has_main(in)};
    size_t before = x->text->len;
    text_init(&h.t, x->text);
    bool whole = read_page(&h);
    if (!whole || x->text->len - before < 64) {
        struct span body = span_skip(buf_span(x->text), before);
        if (!whole || body.len < 64) {
            x->text->len = before;
            h = (struct html){.x = x, .in = in};
            text_init(&h.t, x->text);
            read_page(&h);
        }
    }
    if (h.title[0]) memcpy(x->title, h.title, sizeof x->title);
    if (x->text->len - before < 200 && span_find(in, SPAN("http-equiv=\"refresh\"")) >= 0) return REASON_REDIRECT;
    return REASON_NONE;
}
