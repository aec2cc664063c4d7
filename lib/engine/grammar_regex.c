/*
 * Patterns: what ECMA-262 (JSON Schema's) and Python's re have in common. Literals, . classes \d \w \s and their opposites, groups (capturing, (?:, named), | * + ? {n,m} (lazy
 * ones are the same language), ^ and $, escapes \n \t \r \f \v \0 \xHH \uHHHH \u{…}. Look-around, back-references, \b, \p and flags are refused by name. \d, \w and \s are
 * ASCII's. Groups nest to GRAMMAR_DEPTH_MAX; recursion goes no deeper.
 */
#include "engine/grammar_internal.h"

struct regex {
    struct builder *b;
    struct span text;
    size_t at;
    enum writing w;
    bool dry; /* only to find where something ends */
    bool anchors;
    int depth;
};

static uint32_t node(struct regex *r) { return r->dry ? 0 : nfa_node(r->b); }
static void free_edge(struct regex *r, uint32_t from, uint32_t to) {
    if (!r->dry) nfa_free(r->b, from, to);
}
static bool more(const struct regex *r) { return r->at < r->text.len && !r->b->failed; }
static char peek(const struct regex *r) { return r->text.data[r->at]; }

static bool hex(struct regex *r, size_t digits, uint32_t *out) {
    *out = 0;
    for (size_t i = 0; i < digits; i++, r->at++) {
        char c = r->at < r->text.len ? peek(r) : 0;
        uint32_t d = c >= '0' && c <= '9' ? (uint32_t)(c - '0') : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10) : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10) : 16;
        if (d == 16) return (void)builder_fail(r->b, E_INVALID, "the pattern at %zu: %zu hexadecimal digits are needed", r->at, digits), false;
        *out = *out * 16 + d;
    }
    return true;
}

static void add_class(struct chars *out, char name) {
    struct chars c = {.count = 0};
    switch (name | 0x20) {
    case 'd': chars_add(&c, '0', '9'); break;
    case 'w':
        chars_add(&c, '0', '9');
        chars_add(&c, 'A', 'Z');
        chars_add(&c, '_', '_');
        chars_add(&c, 'a', 'z');
        break;
    default:
        chars_add(&c, '\t', '\r');
        chars_add(&c, ' ', ' ');
        break;
    }
    chars_settle(&c, !(name & 0x20));
    for (size_t i = 0; i < c.count; i++) chars_add(out, c.ranges[i].low, c.ranges[i].high);
}

/* Behind a backslash: one character, *one true, or a class added to c. */
static bool escape(struct regex *r, bool in_class, struct chars *c, uint32_t *code, bool *one) {
    if (r->at >= r->text.len) return (void)builder_fail(r->b, E_INVALID, "the pattern ends in a backslash"), false;
    size_t begin = r->at;
    uint32_t full;
    size_t n = span_utf8_decode(span_skip(r->text, r->at), &full);
    char e = peek(r);
    r->at += n ? n : 1;
    *one = true;
    switch (e) {
    case 'd': case 'D': case 'w': case 'W': case 's': case 'S':
        *one = false;
        if (c->count + 8 > CHARS_MAX) return (void)builder_fail(r->b, E_TOO_LARGE, "the pattern at %zu: a class of more than %d ranges", begin, CHARS_MAX), false;
        add_class(c, e);
        return true;
    case 'n': *code = '\n'; return true;
    case 't': *code = '\t'; return true;
    case 'r': *code = '\r'; return true;
    case 'f': *code = '\f'; return true;
    case 'v': *code = '\v'; return true;
    case '0': *code = 0; return true;
    case 'a': *code = 7; return true;
    case 'x': return hex(r, 2, code);
    case 'u':
        if (more(r) && peek(r) == '{') {
            r->at++;
            *code = 0;
            while (more(r) && peek(r) != '}') {
                uint32_t d;
                if (*code > 0x10FFFF || !hex(r, 1, &d)) return false;
                *code = *code * 16 + d;
            }
            if (!more(r) || *code > 0x10FFFF) return (void)builder_fail(r->b, E_INVALID, "the pattern at %zu: no character", begin), false;
            r->at++;
            return true;
        }
        if (!hex(r, 4, code)) return false;
        if (*code >= 0xD800 && *code <= 0xDBFF && r->at + 1 < r->text.len && peek(r) == '\\' && r->text.data[r->at + 1] == 'u') {
            uint32_t low;
            r->at += 2;
            if (!hex(r, 4, &low)) return false;
            *code = 0x10000 + ((*code - 0xD800) << 10) + ((low - 0xDC00) & 0x3FF);
        }
        return true;
    case 'b':
        if (in_class) {
            *code = '\b';
            return true;
        }
        break;
    default:
        if (n == 0) return (void)builder_fail(r->b, E_INVALID, "the pattern at %zu is no UTF-8", begin), false;
        if (!((e >= '1' && e <= '9') || (e >= 'a' && e <= 'z') || (e >= 'A' && e <= 'Z'))) {
            *code = full;
            return true;
        }
        break;
    }
    builder_fail(r->b, E_UNSUPPORTED, "the pattern at %zu: \\%c is not supported", begin - 1, e);
    return false;
}

static bool one_char(struct regex *r, uint32_t *code) {
    size_t n = span_utf8_decode(span_skip(r->text, r->at), code);
    if (n == 0) return (void)builder_fail(r->b, E_INVALID, "the pattern at %zu is no UTF-8", r->at), false;
    r->at += n;
    return true;
}

static bool read_set(struct regex *r, struct chars *c) {
    size_t begin = r->at++;
    bool negate = more(r) && peek(r) == '^', first = true;
    if (negate) r->at++;
    for (; more(r) && (peek(r) != ']' || first); first = false) {
        uint32_t low, high;
        bool one = true;
        if (peek(r) == ']' ) break; /* ECMA-262: [] is empty, [^] is all */
        if (peek(r) == '[' && r->at + 1 < r->text.len && r->text.data[r->at + 1] == ':')
            return (void)builder_fail(r->b, E_UNSUPPORTED, "the pattern at %zu: [:classes:] are not supported", r->at), false;
        if (peek(r) == '\\') {
            r->at++;
            if (!escape(r, true, c, &low, &one)) return false;
        } else if (!one_char(r, &low)) return false;
        if (!one) continue;
        high = low;
        if (r->at + 1 < r->text.len && peek(r) == '-' && r->text.data[r->at + 1] != ']') {
            struct chars scratch = {.count = 0};
            r->at++;
            if (peek(r) == '\\') {
                r->at++;
                if (!escape(r, true, &scratch, &high, &one)) return false;
            } else if (!one_char(r, &high)) return false;
            if (!one) return (void)builder_fail(r->b, E_INVALID, "the pattern at %zu: a range cannot end in a class", r->at), false;
            if (high < low) return (void)builder_fail(r->b, E_INVALID, "the pattern at %zu: a range that ends before it begins", r->at), false;
        }
        if (c->count + 8 > CHARS_MAX || !chars_add(c, low, high)) return (void)builder_fail(r->b, E_TOO_LARGE, "the pattern at %zu: a class of more than %d ranges", begin, CHARS_MAX), false;
    }
    if (!more(r)) return (void)builder_fail(r->b, E_INVALID, "the pattern at %zu: [ is not closed", begin), false;
    r->at++;
    chars_settle(c, negate);
    return true;
}

static uint32_t alternatives(struct regex *r, uint32_t from);

static uint32_t group(struct regex *r, uint32_t from) {
    size_t begin = r->at++;
    if (++r->depth > GRAMMAR_DEPTH_MAX) return (void)builder_fail(r->b, E_TOO_LARGE, "the pattern at %zu: groups nest deeper than %d", begin, GRAMMAR_DEPTH_MAX), 0;
    if (more(r) && peek(r) == '?') {
        struct span rest = span_skip(r->text, r->at + 1);
        size_t skip = 0;
        if (span_starts(rest, SPAN(":"))) skip = 2;
        else if ((span_starts(rest, SPAN("P<")) || span_starts(rest, SPAN("<"))) && !span_starts(rest, SPAN("<=")) && !span_starts(rest, SPAN("<!"))) {
            ptrdiff_t end = span_find_char(rest, '>');
            if (end >= 0) skip = (size_t)end + 2;
        }
        if (skip == 0) return (void)builder_fail(r->b, E_UNSUPPORTED, "the pattern at %zu: (?%.*s is not supported", begin, SPAN_ARG(span_sub(rest, 0, 2))), 0;
        r->at += skip;
    }
    uint32_t to = alternatives(r, from);
    if (!more(r) || peek(r) != ')') return (void)builder_fail(r->b, E_INVALID, "the pattern at %zu: ( is not closed", begin), 0;
    r->at++;
    r->depth--;
    return to;
}

static uint32_t atom(struct regex *r, uint32_t from) {
    struct chars c = {.count = 0};
    uint32_t code;
    bool one = true;
    char first = peek(r);
    if (first == '(') return group(r, from);
    uint32_t to = node(r);
    if (first == '^' || first == '$') {
        r->at++;
        if (!r->dry && r->anchors) nfa_assert(r->b, from, first == '^' ? EDGE_BEGIN : EDGE_END, to);
        return to;
    }
    if (first == '[') {
        if (!read_set(r, &c)) return 0;
    } else if (first == '.') {
        r->at++;
        chars_add(&c, '\n', '\n');
        chars_settle(&c, true);
    } else if (first == '\\') {
        r->at++;
        if (!escape(r, false, &c, &code, &one)) return 0;
        if (one) chars_add(&c, code, code);
        chars_settle(&c, false);
    } else if (first == '*' || first == '+' || first == '?') {
        return (void)builder_fail(r->b, E_INVALID, "the pattern at %zu: nothing to repeat", r->at), 0;
    } else {
        if (!one_char(r, &code)) return 0;
        chars_add(&c, code, code);
    }
    if (!r->dry) nfa_chars(r->b, from, &c, r->w, to);
    return to;
}

/* An atom and how often: found once without building, then built as often as it must be. */
static uint32_t repeated(struct regex *r, uint32_t from) {
    size_t begin = r->at, end;
    uint32_t min = 1, max = 1;
    bool dry = r->dry;
    r->dry = true;
    atom(r, 0);
    end = r->at;
    bool many = read_repeat(r->b, r->text, &end, &min, &max);
    size_t after = end;
    if (many && after < r->text.len && r->text.data[after] == '?') after++; /* lazy */
    else if (many && after < r->text.len && (r->text.data[after] == '+' || r->text.data[after] == '*'))
        builder_fail(r->b, E_UNSUPPORTED, "the pattern at %zu: a repetition of a repetition", after);
    r->dry = dry;
    if (!dry && !r->b->failed) {
        uint32_t to = node(r);
        uint32_t least = max == UINT32_MAX ? min + 1 : max; /* the last of an endless one is a loop */
        for (uint32_t i = 0; i < least && !r->b->failed; i++) {
            uint32_t start = node(r);
            r->at = begin;
            free_edge(r, from, start);
            if (i >= min) free_edge(r, from, to);
            uint32_t stop = atom(r, start);
            if (max == UINT32_MAX && i == min) {
                free_edge(r, stop, start);
                free_edge(r, stop, to);
                from = to;
                break;
            }
            from = stop;
        }
        if (from != to) free_edge(r, from, to);
        from = to;
    }
    r->at = after;
    return from;
}

static uint32_t alternatives(struct regex *r, uint32_t from) {
    uint32_t to = node(r);
    for (;;) {
        uint32_t at = from;
        while (more(r) && peek(r) != '|' && peek(r) != ')') at = repeated(r, at);
        free_edge(r, at, to);
        if (!more(r) || peek(r) != '|') return to;
        r->at++;
    }
}

uint32_t regex_build(struct builder *b, uint32_t from, struct span pattern, enum writing w, bool whole) {
    struct regex r = {.b = b, .text = pattern, .w = w, .anchors = true};
    uint32_t start = nfa_node(b);
    if (!whole) { /* found anywhere: something before it, and something behind */
        uint32_t before = nfa_node(b);
        nfa_free(b, from, before);
        nfa_any(b, before, w, before);
        nfa_free(b, before, start);
    }
    nfa_free(b, from, start);
    uint32_t to = alternatives(&r, start);
    if (!b->failed && r.at < pattern.len) builder_fail(b, E_INVALID, "the pattern at %zu: ) without (", r.at);
    if (!whole) {
        uint32_t behind = nfa_node(b);
        nfa_free(b, to, behind);
        nfa_any(b, behind, w, behind);
        to = behind;
    }
    return to;
}
