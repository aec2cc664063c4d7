/*
 * JSON Schema to rules. What is not known is refused by its name and place, never ignored: who asks for a form must get it. docs/api.md has the table of what is taken.
 *
 * A place in an answer is held to several schemas at once (allOf, $ref with neighbours, anyOf beside properties): a view, the list of them. anyOf and oneOf become alternatives of the view
 * with each member added; oneOf is taken as anyOf. Objects have their properties in the schema's order; where `properties` stands without `additionalProperties`, no others
 * are written. What $ref names is a rule, made once, so that recursion in the schema is recursion of rules. Recursion here follows nesting, to GRAMMAR_DEPTH_MAX.
 */
#include <math.h>
#include <stdio.h>

#include "base/json.h"
#include "engine/grammar_internal.h"

enum { VIEW_MAX = 24, PROPERTIES_MAX = 1024, PATH_MAX = 256 };

struct part {
    const struct json *schema, *root; /* root: what its $ref begin at: the document, or the part of it that has a $id (JSON Schema 2020-12, 8.2.1) */
    bool ref_done, all_done, any_done, one_done;
};
struct view {
    struct part parts[VIEW_MAX];
    size_t count;
};
struct pending {
    uint32_t rule;
    const struct json *schema, *root;
    char path[PATH_MAX];
};
struct schema {
    struct builder *b;
    struct pending *pending;
    size_t pending_count, pending_capacity, next_name;
    char path[PATH_MAX];
    size_t path_len;
};

static size_t path_push(struct schema *s, struct span name) {
    size_t before = s->path_len;
    int n = snprintf(s->path + before, PATH_MAX - before, "/%.*s", (int)(name.len < 64 ? name.len : 64), name.data);
    if (n > 0) s->path_len = before + (size_t)n < PATH_MAX ? before + (size_t)n : PATH_MAX - 1;
    return before;
}
static void path_pop(struct schema *s, size_t before) {
    s->path_len = before;
    s->path[before] = 0;
}

static int fail(struct schema *s, int code, const char *what) { return builder_fail(s->b, code, "the schema at %s: %s", s->path, what); }
static int fail_key(struct schema *s, int code, const char *key, const char *what) { return builder_fail(s->b, code, "the schema at %s: '%s' %s", s->path, key, what); }

static bool view_add(struct schema *s, struct view *v, const struct json *schema, const struct json *root) {
    if (json_type(schema) == JSON_TYPE_BOOL && json_bool(schema, false)) return true; /* true says nothing */
    if (json_type(schema) != JSON_TYPE_OBJECT && json_type(schema) != JSON_TYPE_BOOL) return (void)fail(s, E_INVALID, "a schema must be an object, true or false"), false;
    if (v->count == VIEW_MAX) return (void)builder_fail(s->b, E_TOO_LARGE, "the schema at %s: more than %d schemas hold at once", s->path, VIEW_MAX), false;
    v->parts[v->count++] = (struct part){.schema = schema, .root = json_get(schema, "$id") ? schema : root};
    return true;
}

/* --- keywords --- */

static const char *const ANNOTATIONS[] = {"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator", "$anchor"};
static const char *const KEYWORDS[] = {"$ref", "type", "enum", "const", "anyOf", "oneOf", "allOf", "properties", "required", "additionalProperties", "items", "prefixItems", "additionalItems", "minItems", "maxItems",
                                       "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};

static bool one_of(struct span key, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (span_eq_str(key, names[i])) return true;
    return false;
}

static bool check_keywords(struct schema *s, const struct view *v) {
    for (size_t i = 0; i < v->count; i++) {
        void *iterator = NULL;
        struct span key;
        const struct json *value;
        while (json_next(v->parts[i].schema, &iterator, &key, &value)) {
            if (!builder_step(s->b, 1)) return false;
            if (one_of(key, KEYWORDS, sizeof KEYWORDS / sizeof *KEYWORDS) || one_of(key, ANNOTATIONS, sizeof ANNOTATIONS / sizeof *ANNOTATIONS)) continue;
            if (span_eq_str(key, "uniqueItems") && !json_bool(value, true)) continue;
            char name[64];
            return (void)fail_key(s, E_UNSUPPORTED, span_copy(name, sizeof name, key), "is not supported"), false;
        }
    }
    return true;
}

static const char *const TYPES[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
enum { T_NULL = 1, T_BOOLEAN = 2, T_INTEGER = 4, T_NUMBER = 8, T_STRING = 16, T_ARRAY = 32, T_OBJECT = 64, T_ANY = 127 };

static unsigned type_named(struct schema *s, const struct json *v) {
    for (unsigned i = 0; i < 7; i++)
        if (json_type(v) == JSON_TYPE_STRING && span_eq_str(json_string(v), TYPES[i])) return (1u << i) | (i == 3 ? T_INTEGER : 0u);
    char name[64];
    builder_fail(s->b, E_INVALID, "the schema at %s: '%s' is no type", s->path, span_copy(name, sizeof name, json_type(v) == JSON_TYPE_STRING ? json_string(v) : SPAN("(no string)")));
    return 0;
}

/* The types that all parts allow; what has no `type` but keywords of one is of that one. */
static unsigned types_of(struct schema *s, const struct view *v) {
    unsigned types = T_ANY, hinted = 0;
    bool said = false;
    static const struct {
        const char *key;
        unsigned type;
    } hints[] = {{"properties", T_OBJECT}, {"required", T_OBJECT}, {"additionalProperties", T_OBJECT}, {"items", T_ARRAY}, {"prefixItems", T_ARRAY}, {"minItems", T_ARRAY}, {"maxItems", T_ARRAY},
                 {"minLength", T_STRING}, {"maxLength", T_STRING}, {"pattern", T_STRING}, {"format", T_STRING}, {"minimum", T_NUMBER | T_INTEGER}, {"maximum", T_NUMBER | T_INTEGER},
                 {"exclusiveMinimum", T_NUMBER | T_INTEGER}, {"exclusiveMaximum", T_NUMBER | T_INTEGER}};
    for (size_t i = 0; i < v->count; i++) {
        const struct json *schema = v->parts[i].schema, *type = json_get(schema, "type");
        if (json_type(schema) == JSON_TYPE_BOOL) return 0; /* false */
        for (size_t k = 0; k < sizeof hints / sizeof *hints; k++)
            if (json_get(schema, hints[k].key)) hinted |= hints[k].type;
        if (!type) continue;
        said = true;
        unsigned one = 0;
        if (json_type(type) == JSON_TYPE_ARRAY) {
            if (json_size(type) == 0) fail_key(s, E_INVALID, "type", "has no types");
            for (size_t k = 0; k < json_size(type); k++) one |= type_named(s, json_at(type, k));
        } else one = type_named(s, type);
        types &= one;
    }
    return said || !hinted ? types : types & hinted;
}

static unsigned type_of_value(const struct json *v) {
    switch (json_type(v)) {
    case JSON_TYPE_NULL: return T_NULL;
    case JSON_TYPE_BOOL: return T_BOOLEAN;
    case JSON_TYPE_INT: return T_INTEGER | T_NUMBER;
    case JSON_TYPE_REAL: return json_real(v, 0) == floor(json_real(v, 0)) ? T_INTEGER | T_NUMBER : T_NUMBER;
    case JSON_TYPE_STRING: return T_STRING;
    case JSON_TYPE_ARRAY: return T_ARRAY;
    default: return T_OBJECT;
    }
}

/* The tightest of a number that parts give; false where none does. */
static bool bound(struct schema *s, const struct view *v, const char *key, bool most, double *out) {
    bool found = false;
    for (size_t i = 0; i < v->count; i++) {
        const struct json *given = json_get(v->parts[i].schema, key);
        if (!given) continue;
        if (json_type(given) != JSON_TYPE_INT && json_type(given) != JSON_TYPE_REAL) return (void)fail_key(s, E_INVALID, key, "must be a number"), false;
        double d = json_real(given, 0);
        if (!found || (most ? d < *out : d > *out)) *out = d;
        found = true;
    }
    return found;
}

static uint32_t count_bound(struct schema *s, const struct view *v, const char *key, bool most, uint32_t limit, uint32_t otherwise) {
    double d;
    if (!bound(s, v, key, most, &d)) return otherwise;
    if (d < 0 || d != floor(d)) return (void)fail_key(s, E_INVALID, key, "must be a whole number of at least 0"), otherwise;
    if (d > limit) {
        if (most) return otherwise; /* nothing so long is refused by it */
        return (void)builder_fail(s->b, E_TOO_LARGE, "the schema at %s: '%s' above %u is not taken", s->path, key, limit), otherwise;
    }
    return (uint32_t)d;
}

/* --- values --- */

static uint32_t build_view(struct schema *s, uint32_t from, const struct view *v, int depth);

/* As json.dumps writes it: ", " and ": ". NULL on failure, said. */
static bool write_value(struct schema *s, struct buf *out, const struct json *v, int depth) {
    bool first = true;
    if (depth > GRAMMAR_DEPTH_MAX) return (void)builder_fail(s->b, E_TOO_LARGE, "the schema at %s nests deeper than %d", s->path, GRAMMAR_DEPTH_MAX), false;
    if (json_type(v) == JSON_TYPE_ARRAY) {
        buf_append_char(out, '[');
        for (size_t i = 0; i < json_size(v); i++) {
            if (i > 0) buf_append_str(out, ", ");
            if (!write_value(s, out, json_at(v, i), depth + 1)) return false;
        }
        buf_append_char(out, ']');
    } else if (json_type(v) == JSON_TYPE_OBJECT) {
        void *iterator = NULL;
        struct span key;
        const struct json *value;
        buf_append_char(out, '{');
        for (; json_next(v, &iterator, &key, &value); first = false) {
            struct json_out w;
            if (!first) buf_append_str(out, ", ");
            json_begin(&w, out);
            json_put_span(&w, key);
            buf_append_str(out, ": ");
            if (!write_value(s, out, value, depth + 1)) return false;
        }
        buf_append_char(out, '}');
    } else json_write(out, v);
    if (out->failed) return (void)builder_fail(s->b, E_TOO_LARGE, "the schema at %s: a value is too large", s->path), false;
    return true;
}

static bool same_value(struct schema *s, const struct json *a, const struct json *b) {
    struct buf x, y;
    if (json_type(a) != json_type(b) && type_of_value(a) != type_of_value(b)) return false;
    buf_init(&x, GRAMMAR_TEXT_MAX);
    buf_init(&y, GRAMMAR_TEXT_MAX);
    bool same = write_value(s, &x, a, 0) && write_value(s, &y, b, 0) && span_eq(buf_span(&x), buf_span(&y));
    builder_step(s->b, x.len + y.len);
    buf_fini(&x);
    buf_fini(&y);
    return same;
}

/* Whether the values that a part lists have this one. */
static bool lists(struct schema *s, const struct json *schema, const struct json *value) {
    const struct json *constant = json_get(schema, "const"), *list = json_get(schema, "enum");
    if (constant && !same_value(s, constant, value)) return false;
    if (!list) return true;
    for (size_t i = 0; i < json_size(list); i++)
        if (same_value(s, json_at(list, i), value)) return true;
    return false;
}

static uint32_t build_listed(struct schema *s, uint32_t from, const struct view *v, const struct json *list, size_t n) {
    static const char *const beside[] = {"pattern", "format", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "properties", "required", "items", "prefixItems", "minItems", "maxItems"};
    uint32_t to = nfa_node(s->b);
    unsigned types = T_ANY;
    for (size_t i = 0; i < v->count; i++) {
        for (size_t k = 0; k < sizeof beside / sizeof *beside; k++)
            if (json_get(v->parts[i].schema, beside[k])) return (void)fail_key(s, E_UNSUPPORTED, beside[k], "is not supported beside enum or const"), to;
        struct view one = {.parts = {v->parts[i]}, .count = 1};
        if (json_get(v->parts[i].schema, "type")) types &= types_of(s, &one);
    }
    for (size_t i = 0; i < n && !s->b->failed; i++) {
        const struct json *value = json_type(list) == JSON_TYPE_ARRAY && n != SIZE_MAX ? json_at(list, i) : list;
        bool all = (type_of_value(value) & types) != 0;
        for (size_t k = 0; k < v->count && all; k++) all = lists(s, v->parts[k].schema, value);
        if (!all) continue;
        struct buf text;
        buf_init(&text, GRAMMAR_TEXT_MAX);
        if (write_value(s, &text, value, 0)) nfa_free(s->b, nfa_text(s->b, from, buf_span(&text)), to);
        buf_fini(&text);
    }
    return to;
}

/* --- strings --- */

#define DAY_30 "(?:0[1-9]|[12][0-9]|30)"
#define DATE                                                                                                                                                   \
    "(?:[12][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-" DAY_30 "|02-(?:0[1-9]|1[0-9]|2[0-8]))|[12][0-9](?:0[48]|[2468][048]|[13579][26])-02-29)"
#define TIME "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define HOST "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?(?:\\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?)*"
#define BYTE "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
static const struct {
    const char *name, *pattern;
} FORMATS[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"email", "[A-Za-z0-9_+-]+(?:\\.[A-Za-z0-9_+-]+)*@" HOST},
    {"hostname", HOST},
    {"ipv4", BYTE "(?:\\." BYTE "){3}"},
    {"uri", "[a-zA-Z][a-zA-Z0-9+.-]*://" HOST "(?::[0-9]{1,4})?(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]*)*"},
};

/* A rule: the quotes, and between them what pattern and lengths allow. */
static uint32_t string_rule(struct schema *s, struct span pattern, bool has_pattern, bool whole, uint32_t min, uint32_t max) {
    struct builder *b = s->b;
    struct buf name;
    bool made = false;
    buf_init(&name, GRAMMAR_TEXT_MAX + 64);
    buf_printf(&name, "string %d %d %u %u ", has_pattern, whole, min, max);
    buf_append_span(&name, pattern);
    uint32_t rule = nfa_rule(b, buf_span(&name), &made);
    if (name.failed) builder_fail(b, E_NOMEM, "no memory for a grammar");
    buf_fini(&name);
    if (!made || b->failed) return rule;
    uint32_t origin = nfa_node(b), last = nfa_node(b), start = b->rules[rule].start, end = b->rules[rule].end;
    nfa_bytes(b, start, '"', '"', origin);
    if (has_pattern) nfa_free(b, regex_build(b, origin, pattern, WRITE_JSON, whole), last);
    else {
        uint32_t loop = nfa_node(b);
        nfa_free(b, origin, loop);
        nfa_any(b, loop, WRITE_JSON_ANY, loop);
        nfa_free(b, loop, last); /* which has the closing quote alone: a string that is too short must not come to it */
    }
    nfa_bytes(b, last, '"', '"', end);
    if (b->failed) return 0;
    b->nodes[end].inside = true; /* the closing quote is no character */
    struct nfa_rule *r = &b->rules[rule];
    r->origin = origin;
    r->last = last;
    r->counted = min > 0 || max != UINT32_MAX;
    r->count_min = min;
    r->count_max = max;
    r->defined = true;
    return rule;
}

static uint32_t any_string(struct schema *s) { return string_rule(s, SPAN(""), false, true, 0, UINT32_MAX); }

static void build_string(struct schema *s, uint32_t from, const struct view *v, uint32_t to) {
    struct span pattern = {0};
    bool has_pattern = false, whole = false;
    uint32_t min = count_bound(s, v, "minLength", false, GRAMMAR_STRING_MAX, 0), max = count_bound(s, v, "maxLength", true, GRAMMAR_STRING_MAX, UINT32_MAX);
    for (size_t i = 0; i < v->count; i++) {
        const struct json *p = json_get(v->parts[i].schema, "pattern"), *f = json_get(v->parts[i].schema, "format");
        if (p && json_type(p) != JSON_TYPE_STRING) fail_key(s, E_INVALID, "pattern", "must be a string");
        if (f && json_type(f) != JSON_TYPE_STRING) fail_key(s, E_INVALID, "format", "must be a string");
        if (p) {
            if (has_pattern && !span_eq(pattern, json_string(p))) fail_key(s, E_UNSUPPORTED, "pattern", "is not supported beside another pattern or format");
            pattern = json_string(p);
            has_pattern = true;
        }
        if (!f) continue;
        const char *known = NULL;
        for (size_t k = 0; k < sizeof FORMATS / sizeof *FORMATS; k++)
            if (span_eq_str(json_string(f), FORMATS[k].name)) known = FORMATS[k].pattern;
        char name[64];
        if (!known) builder_fail(s->b, E_UNSUPPORTED, "the schema at %s: the format '%s' is not supported", s->path, span_copy(name, sizeof name, json_string(f)));
        if (has_pattern && !span_eq_str(pattern, known)) fail_key(s, E_UNSUPPORTED, "format", "is not supported beside another pattern or format");
        pattern = span_str(known);
        has_pattern = whole = true;
    }
    if (s->b->failed) return;
    if (min > max) return; /* nothing is so long */
    uint32_t rule = string_rule(s, pattern, has_pattern, whole, min, max);
    if (s->b->failed == E_INVALID || s->b->failed == E_UNSUPPORTED) error_prefix(s->b->err, "the schema at %s", s->path);
    nfa_call(s->b, from, rule, to);
}

/* --- any value --- */

static uint32_t any_value(struct schema *s);

static uint32_t number_rule(struct schema *s, bool integer) {
    bool made;
    static const struct number_bounds none;
    uint32_t rule = nfa_rule(s->b, integer ? SPAN("any integer") : SPAN("any number"), &made);
    if (made && !s->b->failed) {
        s->b->rules[rule].defined = true;
        nfa_free(s->b, number_build(s->b, s->b->rules[rule].start, integer, &none), s->b->rules[rule].end);
    }
    return rule;
}

/* Strings that are none of the names: what other properties may be called. The names are a trie by hand, and whatever leaves it is free. */
static uint32_t other_key(struct schema *s, const struct span *names, size_t n) {
    struct builder *b = s->b;
    char name[64];
    (void)snprintf(name, sizeof name, "key %zu", n == 0 ? (size_t)0 : ++s->next_name);
    bool made;
    uint32_t rule = nfa_rule(b, span_str(name), &made);
    if (!made || b->failed) return rule;
    struct trie {
        uint32_t node, code, parent;
        bool name;
    } *trie = NULL;
    size_t len = 1, capacity = 0, total = 1;
    uint32_t out = nfa_node(b), end = b->rules[rule].end;
    b->rules[rule].defined = true;
    for (size_t i = 0; i < n; i++) total += names[i].len;
    if (array_reserve(&trie, &capacity, total, sizeof *trie) != 0) return (void)builder_fail(b, E_NOMEM, "no memory for a grammar"), 0;
    trie[0] = (struct trie){.node = nfa_node(b)};
    nfa_bytes(b, b->rules[rule].start, '"', '"', trie[0].node);
    for (size_t i = 0; i < n && !b->failed; i++) {
        struct span rest = names[i];
        size_t at = 0;
        uint32_t code;
        for (size_t k; (k = span_utf8_decode(rest, &code)) > 0; rest = span_skip(rest, k)) {
            size_t child = 1;
            while (child < len && !(trie[child].parent == at && trie[child].code == code)) child++;
            if (!builder_step(b, len)) break;
            if (child == len) trie[len++] = (struct trie){.node = nfa_node(b), .code = code, .parent = (uint32_t)at};
            at = child;
        }
        trie[at].name = true;
    }
    nfa_any(b, out, WRITE_JSON, out);
    nfa_bytes(b, out, '"', '"', end);
    for (size_t i = 0; i < len && !b->failed; i++) {
        struct chars others = {.count = 0}, one = {.count = 1};
        for (size_t k = 1; k < len; k++) {
            if (trie[k].parent != i) continue;
            if (others.count + 8 > CHARS_MAX) {
                fail_key(s, E_TOO_LARGE, "additionalProperties", "beside so many properties is not taken");
                break;
            }
            chars_add(&others, trie[k].code, trie[k].code);
            one.ranges[0] = (struct chars_range){trie[k].code, trie[k].code};
            one.count = 1;
            nfa_chars(b, trie[i].node, &one, WRITE_JSON, trie[k].node);
        }
        builder_step(b, len);
        chars_settle(&others, true);
        nfa_chars(b, trie[i].node, &others, WRITE_JSON, out);
        if (!trie[i].name) nfa_bytes(b, trie[i].node, '"', '"', end);
    }
    mem_free(trie);
    return rule;
}

/* first? then again and again with ", " between: `one` is called. */
static void any_list(struct builder *b, uint32_t from, uint32_t one, uint32_t end) {
    uint32_t done = nfa_node(b);
    nfa_call(b, from, one, done);
    nfa_call(b, nfa_text(b, done, SPAN(", ")), one, done);
    nfa_free(b, done, end);
    nfa_free(b, from, end);
}

static uint32_t any_object(struct schema *s) {
    bool made, pair_made;
    struct builder *b = s->b;
    uint32_t rule = nfa_rule(b, SPAN("any object"), &made);
    if (!made || b->failed) return rule;
    b->rules[rule].defined = true;
    uint32_t key = any_string(s), value = any_value(s), pair = nfa_rule(b, SPAN("any pair"), &pair_made), at = nfa_node(b), end = nfa_node(b);
    if (b->failed) return rule;
    b->rules[pair].defined = true;
    nfa_call(b, b->rules[pair].start, key, at);
    nfa_call(b, nfa_text(b, at, SPAN(": ")), value, b->rules[pair].end);
    any_list(b, nfa_text(b, b->rules[rule].start, SPAN("{")), pair, end);
    nfa_bytes(b, end, '}', '}', b->rules[rule].end);
    return rule;
}

static uint32_t any_array(struct schema *s) {
    bool made;
    struct builder *b = s->b;
    uint32_t rule = nfa_rule(b, SPAN("any array"), &made);
    if (!made || b->failed) return rule;
    b->rules[rule].defined = true;
    uint32_t value = any_value(s), end = nfa_node(b);
    if (b->failed) return rule;
    any_list(b, nfa_text(b, b->rules[rule].start, SPAN("[")), value, end);
    nfa_bytes(b, end, ']', ']', b->rules[rule].end);
    return rule;
}

static void words(struct builder *b, uint32_t from, const char *word, uint32_t to) { nfa_free(b, nfa_text(b, from, span_str(word)), to); }

static uint32_t any_value(struct schema *s) {
    bool made;
    struct builder *b = s->b;
    uint32_t rule = nfa_rule(b, SPAN("any value"), &made);
    if (!made || b->failed) return rule;
    b->rules[rule].defined = true;
    uint32_t parts[] = {any_string(s), number_rule(s, false), any_object(s), any_array(s)};
    if (b->failed) return rule;
    uint32_t start = b->rules[rule].start, end = b->rules[rule].end;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) nfa_call(b, start, parts[i], end);
    words(b, start, "true", end);
    words(b, start, "false", end);
    words(b, start, "null", end);
    return rule;
}

/* --- objects and arrays --- */

struct property {
    struct span name;
    struct view view;
    bool required, never;
};

static struct property *property_of(struct schema *s, struct property *list, size_t *n, struct span name) {
    for (size_t i = 0; i < *n; i++)
        if (span_eq(list[i].name, name)) return &list[i];
    if (!builder_step(s->b, *n)) return NULL;
    if (*n == PROPERTIES_MAX) return (void)builder_fail(s->b, E_TOO_LARGE, "the schema at %s: more than %d properties", s->path, PROPERTIES_MAX), NULL;
    list[*n] = (struct property){.name = name};
    return &list[(*n)++];
}

static void collect_properties(struct schema *s, const struct view *v, struct property *list, size_t *n) {
    for (size_t i = 0; i < v->count && !s->b->failed; i++) {
        const struct json *properties = json_get(v->parts[i].schema, "properties"), *required = json_get(v->parts[i].schema, "required"), *value;
        void *iterator = NULL;
        struct span name;
        if (properties && json_type(properties) != JSON_TYPE_OBJECT) fail_key(s, E_INVALID, "properties", "must be an object");
        if (required && json_type(required) != JSON_TYPE_ARRAY) fail_key(s, E_INVALID, "required", "must be a list");
        while (json_next(properties, &iterator, &name, &value))
            if (!property_of(s, list, n, name)) return;
    }
    for (size_t i = 0; i < v->count && !s->b->failed; i++) {
        const struct json *required = json_get(v->parts[i].schema, "required");
        for (size_t k = 0; k < json_size(required); k++) {
            if (json_type(json_at(required, k)) != JSON_TYPE_STRING) return (void)fail_key(s, E_INVALID, "required", "must be a list of strings");
            struct property *p = property_of(s, list, n, json_string(json_at(required, k)));
            if (!p) return;
            p->required = true;
        }
    }
    /* What each part says of each property. */
    for (size_t i = 0; i < v->count; i++) {
        const struct json *properties = json_get(v->parts[i].schema, "properties"), *more = json_get(v->parts[i].schema, "additionalProperties");
        for (size_t k = 0; k < *n; k++) {
            const struct json *own = json_get_span(properties, list[k].name);
            if (!builder_step(s->b, 1)) return;
            if (own) view_add(s, &list[k].view, own, v->parts[i].root);
            else if (json_type(more) == JSON_TYPE_BOOL && !json_bool(more, true)) list[k].never = true;
            else if (more) view_add(s, &list[k].view, more, v->parts[i].root);
        }
    }
}

static void build_object(struct schema *s, uint32_t from, const struct view *v, uint32_t to, int depth) {
    struct builder *b = s->b;
    struct view others = {.count = 0};
    bool more = true, said = false, named = false;
    size_t n = 0;
    for (size_t i = 0; i < v->count; i++) {
        const struct json *extra = json_get(v->parts[i].schema, "additionalProperties");
        named |= json_get(v->parts[i].schema, "properties") != NULL || json_size(json_get(v->parts[i].schema, "required")) > 0;
        if (!extra) continue;
        said = true;
        if (json_type(extra) == JSON_TYPE_BOOL && !json_bool(extra, true)) more = false;
        else view_add(s, &others, extra, v->parts[i].root);
    }
    more = more && (said || !named);
    if (!named && more && others.count == 0) {
        nfa_call(b, from, any_object(s), to);
        return;
    }
    struct property *list = mem_calloc(PROPERTIES_MAX, sizeof *list);
    struct span *names = mem_calloc(PROPERTIES_MAX, sizeof *names);
    if (!list || !names) builder_fail(b, E_NOMEM, "no memory for a grammar");
    else collect_properties(s, v, list, &n);
    /* none: nothing is written yet; some: the next goes behind a comma */
    uint32_t none = nfa_text(b, from, SPAN("{")), some = 0;
    for (size_t i = 0; i < n && !b->failed; i++) {
        struct property *p = &list[i];
        names[i] = p->name;
        if (p->never) {
            if (!p->required) continue;
            fail_key(s, E_INVALID, "required", "names a property that additionalProperties forbids");
            break;
        }
        struct buf key;
        struct json_out w;
        buf_init(&key, GRAMMAR_TEXT_MAX);
        json_begin(&w, &key);
        json_put_span(&w, p->name);
        buf_append_str(&key, ": ");
        uint32_t value = nfa_node(b), after = nfa_node(b);
        if (none) nfa_free(b, nfa_text(b, none, buf_span(&key)), value);
        if (some) nfa_free(b, nfa_text(b, nfa_text(b, some, SPAN(", ")), buf_span(&key)), value);
        if (key.failed) builder_fail(b, E_NOMEM, "no memory for a grammar");
        buf_fini(&key);
        size_t before = path_push(s, SPAN("properties"));
        path_push(s, p->name);
        nfa_free(b, build_view(s, value, &p->view, depth + 1), after);
        path_pop(s, before);
        if (p->required) none = 0;
        else if (some) nfa_free(b, some, after);
        some = after;
    }
    if (more && !b->failed) {
        uint32_t pair = nfa_node(b), key = other_key(s, names, n), after = nfa_node(b), colon = nfa_node(b);
        if (none) nfa_free(b, none, pair);
        if (some) {
            nfa_free(b, nfa_text(b, some, SPAN(", ")), pair);
            nfa_free(b, some, after);
        }
        nfa_call(b, pair, key, colon);
        size_t before = path_push(s, SPAN("additionalProperties"));
        nfa_free(b, build_view(s, nfa_text(b, colon, SPAN(": ")), &others, depth + 1), after);
        path_pop(s, before);
        nfa_free(b, nfa_text(b, after, SPAN(", ")), pair);
        some = after;
    }
    if (none) nfa_bytes(b, none, '}', '}', to);
    if (some) nfa_bytes(b, some, '}', '}', to);
    mem_free(list);
    mem_free(names);
}

/* A view as a rule of its own, so that it may be called more than once. */
static uint32_t view_rule(struct schema *s, const struct view *v, int depth) {
    char name[32];
    (void)snprintf(name, sizeof name, "item %zu", ++s->next_name);
    uint32_t rule = nfa_rule(s->b, span_str(name), NULL);
    if (s->b->failed) return 0;
    s->b->rules[rule].defined = true;
    uint32_t end = build_view(s, s->b->rules[rule].start, v, depth);
    if (!s->b->failed) nfa_free(s->b, end, s->b->rules[rule].end);
    return rule;
}

static void build_array(struct schema *s, uint32_t from, const struct view *v, uint32_t to, int depth) {
    struct builder *b = s->b;
    uint32_t min = count_bound(s, v, "minItems", false, GRAMMAR_REPEAT_MAX, 0), max = count_bound(s, v, "maxItems", true, GRAMMAR_REPEAT_MAX, UINT32_MAX);
    uint32_t named = 0;
    struct view items = {.count = 0};
    bool more = true, said = false;
    for (size_t i = 0; i < v->count; i++) {
        const struct json *prefix = json_get(v->parts[i].schema, "prefixItems"), *rest = json_get(v->parts[i].schema, "items"), *old = json_get(v->parts[i].schema, "additionalItems");
        if (json_type(rest) == JSON_TYPE_ARRAY) rest = old; /* as drafts before 2020-12 wrote prefixItems */
        if (prefix && json_type(prefix) != JSON_TYPE_ARRAY) fail_key(s, E_INVALID, "prefixItems", "must be a list");
        if (json_type(json_get(v->parts[i].schema, "items")) == JSON_TYPE_ARRAY) prefix = json_get(v->parts[i].schema, "items");
        if (json_size(prefix) > named) named = (uint32_t)json_size(prefix);
        if (!rest) continue;
        said = true;
        if (json_type(rest) == JSON_TYPE_BOOL && !json_bool(rest, true)) more = false;
        else view_add(s, &items, rest, v->parts[i].root);
    }
    if (named > GRAMMAR_REPEAT_MAX) builder_fail(b, E_TOO_LARGE, "the schema at %s: more than %d prefixItems", s->path, GRAMMAR_REPEAT_MAX);
    if (named > 0 && !said && min <= named) more = false; /* as with properties: none that is not named, where none is asked for */
    if (max > named && !more) max = named;
    if (min > max || b->failed) return;
    uint32_t at = nfa_text(b, from, SPAN("[")), end = nfa_node(b), rule = UINT32_MAX;
    for (uint32_t i = 0; !b->failed; i++) {
        if (i >= min) nfa_free(b, at, end);
        if (i == max) break;
        uint32_t value = i == 0 ? at : nfa_text(b, at, SPAN(", ")), after;
        if (i < named) {
            struct view one = {.count = 0};
            for (size_t k = 0; k < v->count; k++) {
                const struct json *prefix = json_get(v->parts[k].schema, "prefixItems"), *rest = json_get(v->parts[k].schema, "items");
                if (json_type(rest) == JSON_TYPE_ARRAY) prefix = rest;
                if (i < json_size(prefix)) view_add(s, &one, json_at(prefix, i), v->parts[k].root);
                else if (json_type(rest) == JSON_TYPE_OBJECT || json_type(rest) == JSON_TYPE_BOOL) view_add(s, &one, rest, v->parts[k].root);
            }
            size_t before = path_push(s, SPAN("prefixItems"));
            after = build_view(s, value, &one, depth + 1);
            path_pop(s, before);
        } else {
            if (rule == UINT32_MAX) {
                size_t before = path_push(s, SPAN("items"));
                rule = view_rule(s, &items, depth + 1);
                path_pop(s, before);
            }
            after = nfa_node(b);
            nfa_call(b, value, rule, after);
            if (max == UINT32_MAX && i >= min) { /* again and again */
                nfa_call(b, nfa_text(b, after, SPAN(", ")), rule, after);
                nfa_free(b, after, end);
                break;
            }
        }
        at = after;
    }
    nfa_bytes(b, end, ']', ']', to);
}

/* --- references --- */

static int hex_of(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

/* "#/$defs/a~1b" → what it names. */
static const struct json *resolve(struct schema *s, struct span ref, const struct json *root) {
    const struct json *at = root;
    if (ref.len == 0 || ref.data[0] != '#') return (void)fail_key(s, E_UNSUPPORTED, "$ref", "to another document is not supported"), NULL;
    struct span rest = span_skip(ref, 1), token;
    if (rest.len > 0 && rest.data[0] != '/') return (void)fail_key(s, E_UNSUPPORTED, "$ref", "to an anchor is not supported: use #/$defs/…"), NULL;
    rest = span_skip(rest, 1);
    while (at && span_cut(&rest, '/', &token)) {
        char name[256];
        size_t n = 0;
        for (size_t i = 0; i < token.len && n + 1 < sizeof name; i++) {
            if (token.data[i] == '~' && i + 1 < token.len) name[n++] = token.data[++i] == '1' ? '/' : '~';
            else if (token.data[i] == '%' && i + 2 < token.len && hex_of(token.data[i + 1]) >= 0 && hex_of(token.data[i + 2]) >= 0) {
                name[n++] = (char)(hex_of(token.data[i + 1]) * 16 + hex_of(token.data[i + 2]));
                i += 2;
            } else name[n++] = token.data[i];
        }
        uint64_t index;
        if (json_type(at) == JSON_TYPE_ARRAY) at = span_to_u64(span_of(name, n), &index) == 0 && index < json_size(at) ? json_at(at, (size_t)index) : NULL;
        else at = json_get_span(at, span_of(name, n));
    }
    if (!at) {
        char text[64];
        builder_fail(s->b, E_INVALID, "the schema at %s: '$ref' names '%s', which is not there", s->path, span_copy(text, sizeof text, ref));
    }
    return at;
}

static uint32_t reference_rule(struct schema *s, struct span ref, const struct json *target, const struct json *root) {
    char name[128];
    bool made;
    (void)snprintf(name, sizeof name, "ref %p", (const void *)target);
    uint32_t rule = nfa_rule(s->b, span_str(name), &made);
    if (!made || s->b->failed) return rule;
    if (array_reserve(&s->pending, &s->pending_capacity, s->pending_count + 1, sizeof *s->pending) != 0) return (void)builder_fail(s->b, E_NOMEM, "no memory for a grammar"), 0;
    struct pending *p = &s->pending[s->pending_count++];
    *p = (struct pending){.rule = rule, .schema = target, .root = root};
    span_copy(p->path, sizeof p->path, ref);
    return rule;
}

static bool only_reference(const struct json *schema) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    while (json_next(schema, &iterator, &key, &value))
        if (!span_eq_str(key, "$ref") && !one_of(key, ANNOTATIONS, sizeof ANNOTATIONS / sizeof *ANNOTATIONS)) return false;
    return true;
}

/* $ref, allOf: into the view, until there are none. */
static bool gather(struct schema *s, struct view *v) {
    for (size_t i = 0; i < v->count; i++) {
        struct part *p = &v->parts[i];
        const struct json *ref = json_get(p->schema, "$ref"), *all = json_get(p->schema, "allOf");
        if (ref && !p->ref_done) {
            p->ref_done = true;
            if (json_type(ref) != JSON_TYPE_STRING) return (void)fail_key(s, E_INVALID, "$ref", "must be a string"), false;
            const struct json *root = p->root, *target = resolve(s, json_string(ref), root);
            if (!target || !view_add(s, v, target, root)) return false;
        }
        if (all && !p->all_done) {
            p->all_done = true;
            if (json_type(all) != JSON_TYPE_ARRAY || json_size(all) == 0) return (void)fail_key(s, E_INVALID, "allOf", "must be a list of schemas"), false;
            for (size_t k = 0; k < json_size(all); k++)
                if (!view_add(s, v, json_at(all, k), p->root)) return false;
        }
    }
    return true;
}

static void build_number(struct schema *s, uint32_t from, const struct view *v, bool integer, uint32_t to) {
    struct number_bounds n = {0};
    double d;
    n.has_low = bound(s, v, "minimum", false, &n.low);
    if (bound(s, v, "exclusiveMinimum", false, &d) && (!n.has_low || d >= n.low)) n.has_low = n.low_open = true, n.low = d;
    n.has_high = bound(s, v, "maximum", true, &n.high);
    if (bound(s, v, "exclusiveMaximum", true, &d) && (!n.has_high || d <= n.high)) n.has_high = n.high_open = true, n.high = d;
    if (s->b->failed) return;
    if (!n.has_low && !n.has_high) nfa_call(s->b, from, number_rule(s, integer), to);
    else nfa_free(s->b, number_build(s->b, from, integer, &n), to);
}

static uint32_t build_view(struct schema *s, uint32_t from, const struct view *given, int depth) {
    struct builder *b = s->b;
    struct view v = *given;
    uint32_t to = nfa_node(b);
    if (b->failed) return 0;
    if (depth > GRAMMAR_DEPTH_MAX) return (void)builder_fail(b, E_TOO_LARGE, "the schema at %s nests deeper than %d", s->path, GRAMMAR_DEPTH_MAX), 0;
    if (v.count == 1 && json_get(v.parts[0].schema, "$ref") && !v.parts[0].ref_done && only_reference(v.parts[0].schema)) {
        const struct json *ref = json_get(v.parts[0].schema, "$ref");
        if (json_type(ref) != JSON_TYPE_STRING) return (void)fail_key(s, E_INVALID, "$ref", "must be a string"), 0;
        const struct json *root = v.parts[0].root, *target = resolve(s, json_string(ref), root);
        if (target) nfa_call(b, from, reference_rule(s, json_string(ref), target, root), to);
        return to;
    }
    if (!gather(s, &v) || !check_keywords(s, &v)) return 0;
    for (size_t i = 0; i < v.count; i++)
        for (unsigned one = 0; one < 2; one++) { /* anyOf and oneOf: each member with all the rest */
            const char *key = one ? "oneOf" : "anyOf";
            const struct json *list = json_get(v.parts[i].schema, key);
            bool *done = one ? &v.parts[i].one_done : &v.parts[i].any_done;
            if (!list || *done) continue;
            if (json_type(list) != JSON_TYPE_ARRAY || json_size(list) == 0) return (void)fail_key(s, E_INVALID, key, "must be a list of schemas"), 0;
            *done = true;
            size_t before = path_push(s, span_str(key));
            for (size_t k = 0; k < json_size(list) && builder_step(b, 64); k++) {
                char index[24];
                (void)snprintf(index, sizeof index, "%zu", k);
                struct view each = v;
                /* A part that says nothing but this choice is gone, so that a lone $ref among the members is a rule. */
                bool alone = json_size(v.parts[i].schema) == 1 && v.count == 1;
                size_t mark = path_push(s, span_str(index));
                if (alone) each.count = 0;
                if (view_add(s, &each, json_at(list, k), v.parts[i].root)) nfa_free(b, build_view(s, from, &each, depth + 1), to);
                path_pop(s, mark);
            }
            path_pop(s, before);
            return to;
        }
    if (v.count == 0) {
        nfa_call(b, from, any_value(s), to);
        return to;
    }
    for (size_t i = 0; i < v.count; i++) {
        const struct json *constant = json_get(v.parts[i].schema, "const"), *list = json_get(v.parts[i].schema, "enum");
        if (list && (json_type(list) != JSON_TYPE_ARRAY || json_size(list) == 0)) return (void)fail_key(s, E_INVALID, "enum", "must be a list of values"), 0;
        if (json_size(list) > GRAMMAR_CHOICES_MAX) return (void)fail_key(s, E_TOO_LARGE, "enum", "has too many values"), 0;
        if (!constant && !list) continue;
        if (constant) { /* one value, which may be a list itself */
            uint32_t end = nfa_node(b);
            bool all = true;
            for (size_t k = 0; k < v.count && all; k++) all = lists(s, v.parts[k].schema, constant);
            struct view same = v;
            if (!all) return to;
            (void)same;
            struct buf text;
            buf_init(&text, GRAMMAR_TEXT_MAX);
            unsigned types = T_ANY;
            for (size_t k = 0; k < v.count; k++)
                if (json_get(v.parts[k].schema, "type")) {
                    struct view one = {.parts = {v.parts[k]}, .count = 1};
                    types &= types_of(s, &one);
                }
            if ((types & type_of_value(constant)) && write_value(s, &text, constant, 0)) end = nfa_text(b, from, buf_span(&text));
            buf_fini(&text);
            nfa_free(b, end, to);
            return to;
        }
        nfa_free(b, build_listed(s, from, &v, list, json_size(list)), to);
        return to;
    }
    unsigned types = types_of(s, &v);
    if (types & T_NULL) words(b, from, "null", to);
    if (types & T_BOOLEAN) {
        words(b, from, "true", to);
        words(b, from, "false", to);
    }
    if (types & (T_NUMBER | T_INTEGER)) build_number(s, from, &v, !(types & T_NUMBER), to);
    if (types & T_STRING) build_string(s, from, &v, to);
    if (types & T_ARRAY) build_array(s, from, &v, to, depth);
    if (types & T_OBJECT) build_object(s, from, &v, to, depth);
    return to;
}

void schema_build(struct builder *b, struct span text) {
    struct json *root = NULL;
    if (json_parse(text, &root, b->err) != 0) {
        error_prefix(b->err, "the schema");
        b->failed = E_INVALID;
        return;
    }
    struct schema s = {.b = b, .path = "#", .path_len = 1};
    struct view v = {.count = 0};
    uint32_t rule = nfa_rule(b, SPAN("root"), NULL);
    if (!b->failed && view_add(&s, &v, root, root)) {
        b->rules[rule].defined = true;
        uint32_t end = build_view(&s, b->rules[rule].start, &v, 0);
        if (!b->failed) nfa_free(b, end, b->rules[rule].end);
    }
    for (size_t i = 0; i < s.pending_count && !b->failed; i++) {
        struct pending p = s.pending[i];
        span_copy(s.path, sizeof s.path, span_str(p.path));
        s.path_len = strlen(s.path);
        v = (struct view){.count = 0};
        if (!view_add(&s, &v, p.schema, p.root)) break;
        b->rules[p.rule].defined = true;
        uint32_t end = build_view(&s, b->rules[p.rule].start, &v, 0);
        if (!b->failed) nfa_free(b, end, b->rules[p.rule].end);
    }
    mem_free(s.pending);
    json_free(root);
}

void schema_build_object(struct builder *b) {
    struct schema s = {.b = b, .path = "#", .path_len = 1};
    uint32_t rule = nfa_rule(b, SPAN("root"), NULL);
    if (b->failed) return;
    b->rules[rule].defined = true;
    nfa_call(b, b->rules[rule].start, any_object(&s), b->rules[rule].end);
}
