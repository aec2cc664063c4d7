/* The NFA that every notation is built into, and characters as bytes. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/grammar_internal.h"

void builder_init(struct builder *b, struct error *err) {
    *b = (struct builder){.err = err};
    nfa_node(b); /* 0 is nobody's */
}

void builder_fini(struct builder *b) {
    for (size_t i = 0; i < b->rule_count; i++) mem_free(b->rules[i].name);
    mem_free(b->rules);
    mem_free(b->nodes);
    mem_free(b->edges);
    *b = (struct builder){0};
}

int builder_fail(struct builder *b, int code, const char *format, ...) {
    va_list args;
    if (b->failed) return b->failed;
    va_start(args, format);
    b->failed = error_vset(b->err, code, format, args);
    va_end(args);
    return b->failed;
}

bool builder_step(struct builder *b, uint64_t n) {
    b->steps += n;
    if (!b->failed && b->steps > GRAMMAR_STEPS_MAX) builder_fail(b, E_TOO_LARGE, "it takes too long to compile: fewer or smaller repetitions and alternatives are needed");
    return !b->failed;
}

uint32_t nfa_node(struct builder *b) {
    if (b->failed) return 0;
    if (b->node_count >= GRAMMAR_NODES_MAX) return (void)builder_fail(b, E_TOO_LARGE, "it is too large: more than %d positions", GRAMMAR_NODES_MAX), 0;
    if (array_reserve(&b->nodes, &b->node_capacity, b->node_count + 1, sizeof *b->nodes) != 0) return (void)builder_fail(b, E_NOMEM, "no memory for a grammar"), 0;
    b->nodes[b->node_count] = (struct nfa_node){0};
    return (uint32_t)b->node_count++;
}

static void add_edge(struct builder *b, uint32_t from, struct nfa_edge e) {
    if (!builder_step(b, 1)) return;
    if (b->edge_count >= 4 * GRAMMAR_NODES_MAX) {
        builder_fail(b, E_TOO_LARGE, "it is too large: more than %d steps", 4 * GRAMMAR_NODES_MAX);
        return;
    }
    if (array_reserve(&b->edges, &b->edge_capacity, b->edge_count + 1, sizeof *b->edges) != 0) {
        builder_fail(b, E_NOMEM, "no memory for a grammar");
        return;
    }
    e.more = b->nodes[from].edges;
    b->edges[b->edge_count++] = e;
    b->nodes[from].edges = (uint32_t)b->edge_count;
}

void nfa_free(struct builder *b, uint32_t from, uint32_t to) { add_edge(b, from, (struct nfa_edge){.to = to, .kind = EDGE_FREE}); }
void nfa_bytes(struct builder *b, uint32_t from, uint8_t low, uint8_t high, uint32_t to) {
    add_edge(b, from, (struct nfa_edge){.to = to, .kind = EDGE_BYTES, .low = low, .high = high});
}
void nfa_call(struct builder *b, uint32_t from, uint32_t rule, uint32_t to) { add_edge(b, from, (struct nfa_edge){.to = to, .kind = EDGE_CALL, .rule = rule}); }
void nfa_assert(struct builder *b, uint32_t from, enum edge_kind kind, uint32_t to) { add_edge(b, from, (struct nfa_edge){.to = to, .kind = (uint8_t)kind}); }

/* A node inside a character. */
static uint32_t inner(struct builder *b) {
    uint32_t n = nfa_node(b);
    if (!b->failed) b->nodes[n].inside = true;
    return n;
}

uint32_t nfa_text(struct builder *b, uint32_t from, struct span text) {
    for (size_t i = 0; i < text.len; i++) {
        uint32_t to = nfa_node(b);
        nfa_bytes(b, from, (uint8_t)text.data[i], (uint8_t)text.data[i], to);
        from = to;
    }
    return from;
}

uint32_t nfa_rule_find(const struct builder *b, struct span name) {
    for (size_t i = 0; i < b->rule_count; i++)
        if (span_eq_str(name, b->rules[i].name)) return (uint32_t)i;
    return UINT32_MAX;
}

uint32_t nfa_rule(struct builder *b, struct span name, bool *made) {
    uint32_t at = b->failed ? 0 : nfa_rule_find(b, name);
    if (made) *made = at == UINT32_MAX;
    if (at != UINT32_MAX) return at;
    if (!builder_step(b, b->rule_count)) return 0;
    if (b->rule_count >= GRAMMAR_RULES_MAX) return (void)builder_fail(b, E_TOO_LARGE, "it is too large: more than %d rules", GRAMMAR_RULES_MAX), 0;
    uint32_t start = nfa_node(b), end = nfa_node(b);
    char *copy = span_dup(name);
    if (!copy || array_reserve(&b->rules, &b->rule_capacity, b->rule_count + 1, sizeof *b->rules) != 0) {
        mem_free(copy);
        return (void)builder_fail(b, E_NOMEM, "no memory for a grammar"), 0;
    }
    b->rules[b->rule_count] = (struct nfa_rule){.name = copy, .start = start, .end = end};
    return (uint32_t)b->rule_count++;
}

/* --- characters --- */

bool chars_add(struct chars *c, uint32_t low, uint32_t high) {
    if (c->count == CHARS_MAX) return false;
    c->ranges[c->count++] = (struct chars_range){low, high};
    return true;
}

static int compare_ranges(const void *a, const void *b) {
    const struct chars_range *x = a, *y = b;
    return x->low != y->low ? (x->low > y->low) - (x->low < y->low) : (x->high > y->high) - (x->high < y->high);
}

void chars_settle(struct chars *c, bool negate) {
    static const struct chars_range whole[] = {{0, 0xD7FF}, {0xE000, 0x10FFFF}};
    struct chars out = {.count = 0};
    qsort(c->ranges, c->count, sizeof *c->ranges, compare_ranges);
    size_t n = 0;
    for (size_t i = 0; i < c->count; i++) {
        if (n > 0 && c->ranges[i].low <= c->ranges[n - 1].high + 1) {
            if (c->ranges[i].high > c->ranges[n - 1].high) c->ranges[n - 1].high = c->ranges[i].high;
        } else c->ranges[n++] = c->ranges[i];
    }
    c->count = n;
    if (negate) {
        uint32_t from = 0;
        for (size_t i = 0; i < n; i++) {
            if (c->ranges[i].low > from) chars_add(&out, from, c->ranges[i].low - 1);
            from = c->ranges[i].high + 1;
        }
        if (from <= 0x10FFFF) chars_add(&out, from, 0x10FFFF);
        *c = out;
        out.count = 0;
    }
    for (size_t i = 0; i < c->count; i++)
        for (size_t k = 0; k < 2; k++) {
            uint32_t low = c->ranges[i].low > whole[k].low ? c->ranges[i].low : whole[k].low, high = c->ranges[i].high < whole[k].high ? c->ranges[i].high : whole[k].high;
            if (low <= high) chars_add(&out, low, high);
        }
    *c = out;
}

/* UTF-8 of [low, high], both of one length: split where a byte's range would not go with the full range of those behind it. Each piece is one path. */
static void utf8_range(struct builder *b, uint32_t from, uint32_t low, uint32_t high, uint32_t to) {
    char first[4], last[4];
    while (low <= high && !b->failed) {
        uint32_t end = high;
        size_t n = utf8_encode(low, first);
        static const uint32_t length_end[] = {0x7F, 0x7FF, 0xFFFF, 0x10FFFF};
        if (end > length_end[n - 1]) end = length_end[n - 1];
        for (size_t shift = 1; shift < n; shift++) {
            uint32_t mask = (1u << (6 * shift)) - 1;
            if ((low & ~mask) == (end & ~mask)) break; /* the bytes before are equal: what is left is one range */
            if (low & mask) {
                end = low | mask;
                break;
            }
            if ((end & mask) != mask) end = (end & ~mask) - 1;
        }
        utf8_encode(end, last);
        uint32_t at = from;
        for (size_t i = 0; i < n; i++) {
            uint32_t next = i + 1 == n ? to : inner(b);
            nfa_bytes(b, at, (uint8_t)first[i], (uint8_t)last[i], next);
            at = next;
        }
        if (end == 0x10FFFF) break;
        low = end + 1;
    }
}

static void escape_of(struct builder *b, uint32_t from, uint32_t c, uint32_t to) {
    static const char names[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    char hex[2] = {(char)('0' + (c >> 4)), "0123456789abcdef"[c & 15]};
    uint32_t at = inner(b);
    nfa_bytes(b, from, '\\', '\\', at);
    for (size_t i = 0; i + 1 < sizeof names; i += 2)
        if ((uint8_t)names[i] == c) {
            nfa_bytes(b, at, (uint8_t)names[i + 1], (uint8_t)names[i + 1], to);
            return;
        }
    const uint8_t bytes[] = {'u', '0', '0', (uint8_t)hex[0], (uint8_t)hex[1]};
    for (size_t i = 0; i < 5; i++) {
        uint32_t next = i == 4 ? to : inner(b);
        nfa_bytes(b, at, bytes[i], bytes[i], next);
        at = next;
    }
}

void nfa_chars(struct builder *b, uint32_t from, const struct chars *c, enum writing w, uint32_t to) {
    for (size_t i = 0; i < c->count && !b->failed; i++) {
        uint32_t low = c->ranges[i].low, high = c->ranges[i].high;
        if (w == WRITE_PLAIN) {
            utf8_range(b, from, low, high, to);
            continue;
        }
        for (; low <= high && low < 0x20; low++) escape_of(b, from, low, to);
        static const uint32_t cuts[] = {'"', '\\'};
        for (size_t k = 0; k < 2; k++)
            if (low <= cuts[k] && high >= cuts[k]) {
                if (low < cuts[k]) utf8_range(b, from, low, cuts[k] - 1, to);
                escape_of(b, from, cuts[k], to);
                low = cuts[k] + 1;
            }
        if (low <= high) utf8_range(b, from, low, high, to);
    }
}

static void hex_digit(struct builder *b, uint32_t from, uint32_t to) {
    nfa_bytes(b, from, '0', '9', to);
    nfa_bytes(b, from, 'a', 'f', to);
    nfa_bytes(b, from, 'A', 'F', to);
}

/* Every character in every way that JSON has for it, but that \u is no surrogate. */
void nfa_any(struct builder *b, uint32_t from, enum writing w, uint32_t to) {
    struct chars all = {.ranges = {{0, 0x10FFFF}}, .count = 1};
    chars_settle(&all, false);
    nfa_chars(b, from, &all, w == WRITE_PLAIN ? w : WRITE_JSON, to);
    if (w != WRITE_JSON_ANY) return;
    uint32_t at = inner(b), u = inner(b), d = inner(b), three = inner(b), two = inner(b), one = inner(b);
    nfa_bytes(b, from, '\\', '\\', at);
    nfa_bytes(b, at, '/', '/', to);
    nfa_bytes(b, at, 'u', 'u', u);
    nfa_bytes(b, u, '0', '9', three);
    nfa_bytes(b, u, 'a', 'c', three);
    nfa_bytes(b, u, 'A', 'C', three);
    nfa_bytes(b, u, 'e', 'f', three);
    nfa_bytes(b, u, 'E', 'F', three);
    nfa_bytes(b, u, 'd', 'd', d);
    nfa_bytes(b, u, 'D', 'D', d);
    nfa_bytes(b, d, '0', '7', two);
    hex_digit(b, three, two);
    hex_digit(b, two, one);
    hex_digit(b, one, to);
}

/* --- repetition --- */

static bool read_count(struct span text, size_t *at, uint32_t *n) {
    size_t from = *at;
    *n = 0;
    while (*at < text.len && text.data[*at] >= '0' && text.data[*at] <= '9') {
        if (*n <= GRAMMAR_REPEAT_MAX) *n = *n * 10 + (uint32_t)(text.data[*at] - '0');
        ++*at;
    }
    return *at > from;
}

bool read_repeat(struct builder *b, struct span text, size_t *at, uint32_t *min, uint32_t *max) {
    if (*at >= text.len) return false;
    size_t begin = *at, i = begin + 1;
    switch (text.data[begin]) {
    case '*': *min = 0, *max = UINT32_MAX; break;
    case '+': *min = 1, *max = UINT32_MAX; break;
    case '?': *min = 0, *max = 1; break;
    case '{': {
        bool low = read_count(text, &i, min), high = low;
        if (!low) *min = 0;
        *max = *min;
        if (i < text.len && text.data[i] == ',') {
            i++;
            high = read_count(text, &i, max);
            if (!high) *max = UINT32_MAX;
        }
        if (i >= text.len || text.data[i] != '}' || (!low && !high)) return false; /* a brace that is only a brace */
        i++;
        if (*min > GRAMMAR_REPEAT_MAX || (*max != UINT32_MAX && *max > GRAMMAR_REPEAT_MAX))
            return (void)builder_fail(b, E_TOO_LARGE, "at %zu: a repetition above %d is not taken", begin, GRAMMAR_REPEAT_MAX), false;
        if (*max < *min) return (void)builder_fail(b, E_INVALID, "at %zu: a repetition's most, %u, is below its least, %u", begin, *max, *min), false;
        break;
    }
    default: return false;
    }
    *at = i;
    return true;
}
