/*
 * llama.cpp's notation for grammars: rules `name ::= …`, alternatives |, literals "…", classes […], . for any character, groups, * + ? {n,m}, # to the end of the line. `root` is
 * the whole. A rule ends where the next `name ::=` begins. And a choice of texts, which needs no notation.
 */
#include "base/json.h"
#include "engine/grammar_internal.h"

struct gbnf {
    struct builder *b;
    struct span text;
    size_t at;
    bool dry;
    int depth;
};

static bool is_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }

static unsigned line_of(const struct gbnf *g) {
    unsigned line = 1;
    for (size_t i = 0; i < g->at && i < g->text.len; i++) line += g->text.data[i] == '\n';
    return line;
}

static void skip_space(struct gbnf *g) {
    for (; g->at < g->text.len; g->at++) {
        char c = g->text.data[g->at];
        if (c == '#')
            while (g->at + 1 < g->text.len && g->text.data[g->at + 1] != '\n') g->at++;
        else if (c != ' ' && c != '\t' && c != '\r' && c != '\n') return;
    }
}

static struct span read_name(struct gbnf *g) {
    size_t from = g->at;
    while (g->at < g->text.len && is_name(g->text.data[g->at])) g->at++;
    return span_sub(g->text, from, g->at - from);
}

/* `name ::=` at the place? The name, and the place behind; else untouched. */
static bool at_definition(struct gbnf *g, struct span *name) {
    size_t begin = g->at;
    *name = read_name(g);
    skip_space(g);
    if (name->len > 0 && span_starts(span_skip(g->text, g->at), SPAN("::="))) {
        g->at += 3;
        return true;
    }
    g->at = begin;
    return false;
}

static bool hex(struct gbnf *g, size_t digits, uint32_t *out) {
    *out = 0;
    for (size_t i = 0; i < digits; i++, g->at++) {
        char c = g->at < g->text.len ? g->text.data[g->at] : 0;
        uint32_t d = c >= '0' && c <= '9' ? (uint32_t)(c - '0') : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10) : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10) : 16;
        if (d == 16) return (void)builder_fail(g->b, E_INVALID, "line %u: %zu hexadecimal digits are needed", line_of(g), digits), false;
        *out = *out * 16 + d;
    }
    return true;
}

static bool read_char(struct gbnf *g, uint32_t *code) {
    if (g->at < g->text.len && g->text.data[g->at] == '\\') {
        char e = ++g->at < g->text.len ? g->text.data[g->at++] : 0;
        switch (e) {
        case 'n': *code = '\n'; return true;
        case 't': *code = '\t'; return true;
        case 'r': *code = '\r'; return true;
        case 'x': return hex(g, 2, code);
        case 'u': return hex(g, 4, code);
        case 'U': return hex(g, 8, code);
        case '\\': case '"': case '[': case ']': case '^': case '-': case '/': *code = (uint8_t)e; return true;
        default: return (void)builder_fail(g->b, E_INVALID, "line %u: an unknown escape", line_of(g)), false;
        }
    }
    size_t n = span_utf8_decode(span_skip(g->text, g->at), code);
    if (n == 0) return (void)builder_fail(g->b, E_INVALID, "line %u: it ends too early, or is no UTF-8", line_of(g)), false;
    g->at += n;
    return true;
}

static void put_char(struct gbnf *g, uint32_t *at, uint32_t code) {
    char bytes[4];
    size_t n = utf8_encode(code, bytes);
    if (n == 0) builder_fail(g->b, E_INVALID, "line %u: U+%X is no character", line_of(g), code);
    else if (!g->dry) *at = nfa_text(g->b, *at, span_of(bytes, n));
}

static uint32_t read_set(struct gbnf *g, uint32_t from) {
    struct chars c = {.count = 0};
    bool negate = false;
    g->at++;
    if (g->at < g->text.len && g->text.data[g->at] == '^') {
        negate = true;
        g->at++;
    }
    while (g->at < g->text.len && g->text.data[g->at] != ']' && !g->b->failed) {
        uint32_t low, high;
        if (!read_char(g, &low)) return from;
        high = low;
        if (g->at + 1 < g->text.len && g->text.data[g->at] == '-' && g->text.data[g->at + 1] != ']') {
            g->at++;
            if (!read_char(g, &high)) return from;
        }
        if (high < low) builder_fail(g->b, E_INVALID, "line %u: a range that ends before it begins", line_of(g));
        else if (c.count + 8 > CHARS_MAX || !chars_add(&c, low, high)) builder_fail(g->b, E_TOO_LARGE, "line %u: a class of more than %d ranges", line_of(g), CHARS_MAX);
    }
    if (g->at >= g->text.len) return (void)builder_fail(g->b, E_INVALID, "line %u: [ is not closed", line_of(g)), from;
    g->at++;
    if (g->dry || g->b->failed) return from;
    chars_settle(&c, negate);
    uint32_t to = nfa_node(g->b);
    nfa_chars(g->b, from, &c, WRITE_PLAIN, to);
    return to;
}

static uint32_t alternatives(struct gbnf *g, uint32_t from);

static uint32_t element(struct gbnf *g, uint32_t from) {
    char c = g->text.data[g->at];
    if (c == '"') {
        uint32_t at = from, code;
        g->at++;
        while (g->at < g->text.len && g->text.data[g->at] != '"' && read_char(g, &code)) put_char(g, &at, code);
        if (g->at >= g->text.len) builder_fail(g->b, E_INVALID, "line %u: a literal is not closed", line_of(g));
        g->at++;
        return at;
    }
    if (c == '[') return read_set(g, from);
    if (c == '.') {
        g->at++;
        if (g->dry) return from;
        uint32_t to = nfa_node(g->b);
        nfa_any(g->b, from, WRITE_PLAIN, to);
        return to;
    }
    if (c == '(') {
        if (++g->depth > GRAMMAR_DEPTH_MAX) return (void)builder_fail(g->b, E_TOO_LARGE, "line %u: groups nest deeper than %d", line_of(g), GRAMMAR_DEPTH_MAX), from;
        g->at++;
        uint32_t to = alternatives(g, from);
        if (g->at >= g->text.len || g->text.data[g->at] != ')') builder_fail(g->b, E_INVALID, "line %u: ( is not closed", line_of(g));
        g->at++;
        g->depth--;
        return to;
    }
    if (is_name(c)) {
        struct span name = read_name(g);
        if (g->dry) return from;
        uint32_t rule = nfa_rule(g->b, name, NULL), to = nfa_node(g->b);
        nfa_call(g->b, from, rule, to);
        return to;
    }
    builder_fail(g->b, E_INVALID, "line %u: '%c' is unexpected", line_of(g), c >= ' ' && c < 127 ? c : '?');
    return from;
}

static uint32_t repeated(struct gbnf *g, uint32_t from) {
    size_t begin = g->at, after;
    uint32_t min = 1, max = 1;
    bool dry = g->dry;
    g->dry = true;
    element(g, 0);
    after = g->at;
    skip_space(g);
    size_t behind = g->at;
    if (read_repeat(g->b, g->text, &behind, &min, &max)) after = behind;
    g->dry = dry;
    if (!dry && !g->b->failed) {
        uint32_t to = nfa_node(g->b), most = max == UINT32_MAX ? min + 1 : max;
        for (uint32_t i = 0; i < most && !g->b->failed; i++) {
            uint32_t start = nfa_node(g->b);
            g->at = begin;
            nfa_free(g->b, from, start);
            if (i >= min) nfa_free(g->b, from, to);
            uint32_t stop = element(g, start);
            if (max == UINT32_MAX && i == min) {
                nfa_free(g->b, stop, start);
                nfa_free(g->b, stop, to);
                from = to;
                break;
            }
            from = stop;
        }
        if (from != to) nfa_free(g->b, from, to);
        from = to;
    }
    g->at = after;
    return from;
}

static uint32_t alternatives(struct gbnf *g, uint32_t from) {
    uint32_t to = g->dry ? 0 : nfa_node(g->b);
    for (;;) {
        uint32_t at = from;
        struct span name;
        for (skip_space(g); g->at < g->text.len && g->text.data[g->at] != '|' && g->text.data[g->at] != ')' && !g->b->failed; skip_space(g)) {
            size_t here = g->at;
            if (g->depth == 0 && at_definition(g, &name)) {
                g->at = here;
                break;
            }
            at = repeated(g, at);
        }
        if (!g->dry) nfa_free(g->b, at, to);
        if (g->at >= g->text.len || g->text.data[g->at] != '|' || g->b->failed) return to;
        g->at++;
    }
}

void gbnf_build(struct builder *b, struct span text) {
    struct gbnf g = {.b = b, .text = text};
    struct span name;
    nfa_rule(b, SPAN("root"), NULL);
    for (skip_space(&g); g.at < text.len && !b->failed; skip_space(&g)) {
        if (!at_definition(&g, &name)) {
            builder_fail(b, E_INVALID, "line %u: a rule 'name ::= …' is expected", line_of(&g));
            return;
        }
        uint32_t rule = nfa_rule(b, name, NULL);
        if (b->failed) return;
        if (b->rules[rule].defined) {
            builder_fail(b, E_INVALID, "line %u: the rule '%s' is defined twice", line_of(&g), b->rules[rule].name);
            return;
        }
        b->rules[rule].defined = true;
        uint32_t end = alternatives(&g, b->rules[rule].start);
        nfa_free(b, end, b->failed ? 0 : b->rules[rule].end);
        if (!b->failed && g.at < text.len && text.data[g.at] == ')') builder_fail(b, E_INVALID, "line %u: ) without (", line_of(&g));
    }
}

void choice_build(struct builder *b, struct span text) {
    struct json *root = NULL;
    if (json_parse(text, &root, b->err) != 0) {
        b->failed = E_INVALID;
        return;
    }
    uint32_t rule = nfa_rule(b, SPAN("root"), NULL);
    size_t n = json_size(root);
    if (json_type(root) != JSON_TYPE_ARRAY || n == 0 || n > GRAMMAR_CHOICES_MAX) builder_fail(b, E_INVALID, "1 to %d strings are needed to choose from", GRAMMAR_CHOICES_MAX);
    for (size_t i = 0; i < n && !b->failed; i++) {
        struct span s = json_string(json_at(root, i));
        if (json_type(json_at(root, i)) != JSON_TYPE_STRING || s.len == 0) builder_fail(b, E_INVALID, "choice %zu is no string, or an empty one", i);
        else nfa_free(b, nfa_text(b, b->rules[rule].start, s), b->rules[rule].end);
    }
    if (!b->failed) b->rules[rule].defined = true;
    json_free(root);
}
