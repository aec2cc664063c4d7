/*
 * Design notes. The parser is ours rather than jansson's for three reasons: jansson exports functions called json_object, json_array,
 * json_string and json_real, which are this library's names too; it recurses on the nesting of its input; and its trees are many small
 * allocations outside of our allocation seam. Here a tree is one arena: values are 16 bytes, children lie in a row, and freeing is one
 * step. Parsing keeps the unfinished containers' children on one stack of values (struct builder); closing a container copies its
 * children into the arena. The YAML reader is libyaml's events fed to the same builder. tests/unit/base/test_json.c holds the parser
 * to jansson's verdict on generated texts.
 */
#include "base/json.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <yaml.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/random.h"

struct object;
struct json {
    uint8_t type;
    uint32_t len; /* bytes of a string, elements of an array, members of an object */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const char *string;       /* terminated */
        const struct json *items; /* array */
        const struct object *object;
    };
};
_Static_assert(sizeof(struct json) == 16, "a value is two words");

struct object {
    const struct json *pairs; /* key, value, key, value … in the text's order */
    const uint32_t *index;    /* hash table of member number + 1; NULL for few members, which are compared one by one */
    uint32_t mask;
};

struct tree {
    struct json root; /* first: the root's address is the tree's */
    struct arena arena;
};

enum { INDEX_FROM = 9 }; /* fewer keys are faster compared than hashed */

/* Keys come from outside: the hash has a secret of this process, so that nobody can prepare keys that all collide. */
static uint64_t hash_secret[2];
static pthread_once_t hash_once = PTHREAD_ONCE_INIT;
static void hash_make_secret(void) {
    random_bytes(hash_secret, sizeof hash_secret);
    hash_secret[1] |= 1;
}

static uint64_t mix(uint64_t a, uint64_t b) {
    unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint32_t key_hash(struct span s) {
    uint64_t h = hash_secret[0] ^ s.len;
    for (; s.len >= 8; s = span_skip(s, 8)) {
        uint64_t word;
        memcpy(&word, s.data, 8);
        h = mix(h ^ word, hash_secret[1] ^ 0x9e3779b97f4a7c15u);
    }
    uint64_t word = 0;
    if (s.len) memcpy(&word, s.data, s.len);
    h = mix(h ^ word, hash_secret[1] ^ 0xbf58476d1ce4e5b9u);
    return (uint32_t)mix(h, hash_secret[1]);
}

static struct span key_of(const struct json *pairs, uint32_t member) {
    const struct json *k = &pairs[2 * (size_t)member];
    return span_of(k->string, k->len);
}

/* ---- Building ---------------------------------------------------------------------------------------------------------- */

struct frame {
    size_t first; /* of this container's children on the stack */
    bool object;
};

struct builder {
    struct tree *tree;
    struct json *stack; /* children of the containers that are open */
    size_t size, capacity;
    struct frame frames[JSON_DEPTH_MAX];
    int depth;
};

/* 64 bytes of tree per byte of text hold whatever the text can say: the worst is `"",` with its 16-byte value and its copy. */
static int builder_init(struct builder *b, size_t text_len) {
    *b = (struct builder){0};
    size_t cap;
    if (text_len >= UINT32_MAX / 2) return E_TOO_LARGE;
    pthread_once(&hash_once, hash_make_secret);
    b->tree = mem_zalloc(sizeof *b->tree);
    if (!b->tree) return E_NOMEM;
    if (!size_mul(text_len + 64, 64, &cap)) cap = SIZE_MAX;
    arena_init(&b->tree->arena, cap);
    return 0;
}

static void builder_fini(struct builder *b) {
    mem_free(b->stack);
    if (b->tree) json_free(&b->tree->root);
}

static int push(struct builder *b, struct json v) {
    int r = array_reserve(&b->stack, &b->capacity, b->size + 1, sizeof *b->stack);
    if (!r) b->stack[b->size++] = v;
    return r;
}

/* A copy of s as a string value. */
static int make_string(struct builder *b, struct span s, struct json *out) {
    *out = (struct json){.type = JSON_TYPE_STRING, .len = (uint32_t)s.len, .string = ""};
    if (!s.len) return 0;
    struct span copy = arena_span(&b->tree->arena, s);
    if (!copy.data) return E_NOMEM;
    out->string = copy.data;
    return 0;
}

static int open_container(struct builder *b, bool object) {
    if (b->depth == JSON_DEPTH_MAX) return E_RANGE;
    b->frames[b->depth++] = (struct frame){b->size, object};
    return 0;
}

/* E_EXISTS where a key stands twice: *duplicate is it. */
static int index_members(struct builder *b, struct object *o, uint32_t n, struct span *duplicate) {
    if (n < INDEX_FROM) {
        for (uint32_t i = 1; i < n; i++)
            for (uint32_t j = 0; j < i; j++)
                if (span_eq(key_of(o->pairs, i), key_of(o->pairs, j))) {
                    *duplicate = key_of(o->pairs, i);
                    return E_EXISTS;
                }
        return 0;
    }
    uint32_t slots = 16;
    while (slots / 2 < n) slots *= 2;
    uint32_t *index = arena_calloc(&b->tree->arena, slots, sizeof *index);
    if (!index) return E_NOMEM;
    o->index = index;
    o->mask = slots - 1;
    for (uint32_t i = 0; i < n; i++) {
        struct span key = key_of(o->pairs, i);
        uint32_t at = key_hash(key) & o->mask;
        for (; index[at]; at = (at + 1) & o->mask)
            if (span_eq(key_of(o->pairs, index[at] - 1), key)) {
                *duplicate = key;
                return E_EXISTS;
            }
        index[at] = i + 1;
    }
    return 0;
}

static int close_container(struct builder *b, struct span *duplicate) {
    struct frame f = b->frames[--b->depth];
    size_t n = b->size - f.first;
    struct json v = {.type = f.object ? JSON_TYPE_OBJECT : JSON_TYPE_ARRAY, .len = (uint32_t)(f.object ? n / 2 : n)}, *items = NULL;
    if (n) {
        items = arena_calloc(&b->tree->arena, n, sizeof *items);
        if (!items) return E_NOMEM;
        memcpy(items, b->stack + f.first, n * sizeof *items);
    }
    v.items = items;
    if (f.object && n) {
        struct object *o = arena_alloc(&b->tree->arena, sizeof *o);
        if (!o) return E_NOMEM;
        o->pairs = items;
        int r = index_members(b, o, v.len, duplicate);
        if (r) return r;
        v.object = o;
    }
    b->size = f.first;
    return push(b, v);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------------- */

struct reader {
    struct builder b;
    const char *at, *end, *text;
    struct buf scratch; /* a string with escapes while it is decoded */
    struct error *err;
};

static int complain(struct reader *p, const char *at, const char *what) {
    size_t line = 1;
    const char *start = p->text;
    for (const char *c = p->text; c < at; c++)
        if (*c == '\n') {
            line++;
            start = c + 1;
        }
    return error_set(p->err, E_INVALID, "JSON: line %zu, column %zu: %s", line, (size_t)(at - start) + 1, what);
}

static int no_memory(struct reader *p) { return error_set(p->err, E_NOMEM, "JSON: no memory"); }

static void skip_space(struct reader *p) {
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\n' || *p->at == '\r' || *p->at == '\t')) p->at++;
}

static int hex4(struct reader *p, uint32_t *value) {
    if (p->end - p->at < 4) return E_INVALID;
    unsigned char bytes[2];
    if (hex_decode(span_of(p->at, 4), bytes)) return E_INVALID;
    *value = (uint32_t)bytes[0] << 8 | bytes[1];
    p->at += 4;
    return 0;
}

static int parse_escape(struct reader *p) {
    const char *start = p->at - 1;
    if (p->at == p->end) return complain(p, start, "the text ends inside a string");
    static const char plain[] = "\"\\/bfnrt", means[] = "\"\\/\b\f\n\r\t";
    char c = *p->at++;
    const char *found = c ? strchr(plain, c) : NULL;
    if (found) return buf_append_char(&p->scratch, means[found - plain]) ? no_memory(p) : 0;
    uint32_t unit, low;
    if (c != 'u' || hex4(p, &unit)) return complain(p, start, "not an escape that JSON has");
    if (unit >= 0xd800 && unit <= 0xdbff) {
        if (p->end - p->at < 6 || p->at[0] != '\\' || p->at[1] != 'u') return complain(p, start, "half of a surrogate pair");
        p->at += 2;
        if (hex4(p, &low) || low < 0xdc00 || low > 0xdfff) return complain(p, start, "half of a surrogate pair");
        unit = 0x10000 + ((unit - 0xd800) << 10 | (low - 0xdc00));
    }
    char utf8[4];
    size_t n = utf8_encode(unit, utf8);
    if (!n) return complain(p, start, "half of a surrogate pair");
    return buf_append(&p->scratch, utf8, n) ? no_memory(p) : 0;
}

/* p->at is behind the opening quote. */
static int parse_string(struct reader *p, struct json *out) {
    const char *open = p->at - 1, *run = p->at;
    bool escaped = false, wide = false;
    buf_clear(&p->scratch);
    for (;;) {
        while (p->at < p->end && *p->at != '"' && *p->at != '\\' && (unsigned char)*p->at >= 0x20) wide |= *p->at++ < 0;
        if (p->at == p->end) return complain(p, open, "a string that does not end");
        if ((unsigned char)*p->at < 0x20) return complain(p, p->at, "a control character in a string: write it as an escape");
        if (*p->at == '"') break;
        if (buf_append(&p->scratch, run, (size_t)(p->at - run))) return no_memory(p);
        escaped = true;
        p->at++;
        int r = parse_escape(p);
        if (r) return r;
        run = p->at;
    }
    struct span s = span_of(run, (size_t)(p->at - run));
    p->at++;
    if (escaped) {
        if (buf_append_span(&p->scratch, s)) return no_memory(p);
        s = buf_span(&p->scratch);
    }
    if (wide && !span_is_utf8(s)) return complain(p, open, "a string that is not UTF-8");
    return make_string(&p->b, s, out) ? no_memory(p) : 0;
}

static bool is_digit(const struct reader *p) { return p->at < p->end && *p->at >= '0' && *p->at <= '9'; }

static int parse_number(struct reader *p, struct json *out) {
    const char *start = p->at;
    bool real = false;
    if (*p->at == '-') p->at++;
    if (!is_digit(p)) return complain(p, start, "not a value");
    if (*p->at == '0') {
        p->at++;
        if (is_digit(p)) return complain(p, start, "a number with leading zeros");
    }
    while (is_digit(p)) p->at++;
    if (p->at < p->end && *p->at == '.') {
        real = true;
        p->at++;
        if (!is_digit(p)) return complain(p, start, "a number without digits behind its point");
        while (is_digit(p)) p->at++;
    }
    if (p->at < p->end && (*p->at == 'e' || *p->at == 'E')) {
        real = true;
        p->at++;
        if (p->at < p->end && (*p->at == '+' || *p->at == '-')) p->at++;
        if (!is_digit(p)) return complain(p, start, "a number without digits in its exponent");
        while (is_digit(p)) p->at++;
    }
    struct span s = span_of(start, (size_t)(p->at - start));
    *out = (struct json){.type = JSON_TYPE_INT};
    if (!real && !span_to_i64(s, &out->integer)) return 0;
    *out = (struct json){.type = JSON_TYPE_REAL};
    return span_to_f64(s, &out->real) ? complain(p, start, "a number beyond what a double holds") : 0;
}

static int parse_word(struct reader *p, const char *word, struct json v, struct json *out) {
    size_t n = strlen(word);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0) return complain(p, p->at, "not a value");
    p->at += n;
    *out = v;
    return 0;
}

static int parse_scalar(struct reader *p, struct json *out) {
    switch (*p->at) {
    case '"': p->at++; return parse_string(p, out);
    case 't': return parse_word(p, "true", (struct json){.type = JSON_TYPE_BOOL, .boolean = true}, out);
    case 'f': return parse_word(p, "false", (struct json){.type = JSON_TYPE_BOOL}, out);
    case 'n': return parse_word(p, "null", (struct json){.type = JSON_TYPE_NULL}, out);
    default: return parse_number(p, out);
    }
}

static int parse_close(struct reader *p) {
    const char *at = p->at++;
    struct span duplicate;
    int r = close_container(&p->b, &duplicate);
    if (r == E_EXISTS) {
        char what[128], key[64];
        size_t n = duplicate.len < sizeof key - 1 ? duplicate.len : sizeof key - 1;
        span_copy(key, sizeof key, span_sub(duplicate, 0, span_utf8_complete(span_sub(duplicate, 0, n))));
        snprintf(what, sizeof what, "this object has the key \"%s\" twice", key);
        return complain(p, at, what);
    }
    return r ? no_memory(p) : 0;
}

/* Inside an object, in front of a key: key and colon. */
static int parse_key(struct reader *p) {
    skip_space(p);
    if (p->at == p->end || *p->at != '"') return complain(p, p->at, "expected a key in double quotes");
    p->at++;
    struct json key;
    int r = parse_string(p, &key);
    if (r) return r;
    skip_space(p);
    if (p->at == p->end || *p->at != ':') return complain(p, p->at, "expected ':'");
    p->at++;
    return push(&p->b, key) ? no_memory(p) : 0;
}

static int parse_text(struct reader *p) {
    int r;
    for (;;) { /* once per value */
        skip_space(p);
        if (p->at == p->end) return complain(p, p->at, "the text ends where a value should be");
        if (*p->at == '{' || *p->at == '[') {
            bool object = *p->at == '{';
            if (open_container(&p->b, object)) return complain(p, p->at, "nested too deeply (more than 128 levels)");
            p->at++;
            skip_space(p);
            if (p->at == p->end || *p->at != (object ? '}' : ']')) {
                if (object && (r = parse_key(p))) return r;
                continue;
            }
            if ((r = parse_close(p))) return r;
        } else {
            struct json v;
            if ((r = parse_scalar(p, &v))) return r;
            if (push(&p->b, v)) return no_memory(p);
        }
        for (;;) { /* behind a value */
            skip_space(p);
            if (!p->b.depth) return p->at == p->end ? 0 : complain(p, p->at, "something stands behind the value");
            bool object = p->b.frames[p->b.depth - 1].object;
            if (p->at == p->end) return complain(p, p->at, object ? "the text ends inside an object" : "the text ends inside an array");
            if (*p->at == ',') {
                p->at++;
                if (object && (r = parse_key(p))) return r;
                break;
            }
            if (*p->at != (object ? '}' : ']')) return complain(p, p->at, object ? "expected ',' or '}'" : "expected ',' or ']'");
            if ((r = parse_close(p))) return r;
        }
    }
}

int json_parse(struct span text, struct json **root, struct error *err) {
    struct reader p = {.at = text.data, .end = text.data + text.len, .text = text.data, .err = err};
    int r = builder_init(&p.b, text.len);
    if (r) return error_set(err, r, r == E_NOMEM ? "JSON: no memory" : "JSON: the text is too long");
    buf_init(&p.scratch, text.len + 1);
    r = parse_text(&p);
    if (!r) {
        p.b.tree->root = p.b.stack[0];
        *root = &p.b.tree->root;
        p.b.tree = NULL;
    }
    buf_fini(&p.scratch);
    builder_fini(&p.b);
    return r;
}

void json_free(struct json *root) {
    if (!root) return;
    struct tree *t = (struct tree *)root;
    arena_fini(&t->arena);
    mem_free(t);
}

/* ---- YAML -------------------------------------------------------------------------------------------------------------- */

static bool one_of(struct span s, const char *const *words) {
    for (; *words; words++)
        if (span_eq_str(s, *words)) return true;
    return false;
}

/* What a plain scalar means: YAML 1.1's null, bool, int (decimal, 0x) and float; everything else, octals and sexagesimals too, is text. */
static bool plain_value(struct span s, struct json *v) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const yes[] = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", NULL};
    static const char *const no[] = {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", NULL};
    if (one_of(s, nulls)) {
        *v = (struct json){.type = JSON_TYPE_NULL};
        return true;
    }
    bool is_yes = one_of(s, yes);
    if (is_yes || one_of(s, no)) {
        *v = (struct json){.type = JSON_TYPE_BOOL, .boolean = is_yes};
        return true;
    }
    struct span digits = s.len && (s.data[0] == '+' || s.data[0] == '-') ? span_skip(s, 1) : s;
    if (digits.len && digits.data[0] == '-') return false;
    struct span number = s.len && s.data[0] == '+' ? digits : s;
    if (digits.len > 2 && digits.len <= 17 && digits.data[0] == '0' && digits.data[1] == 'x' && digits.data == s.data) {
        uint64_t n = 0;
        for (size_t i = 2; i < digits.len; i++) {
            char pair[2] = {'0', digits.data[i]};
            unsigned char nibble;
            if (hex_decode(span_of(pair, 2), &nibble)) return false;
            n = n << 4 | nibble;
        }
        *v = (struct json){.type = JSON_TYPE_INT, .integer = (int64_t)n};
        return n <= INT64_MAX;
    }
    bool zeros = digits.len > 1 && digits.data[0] == '0' && digits.data[1] >= '0' && digits.data[1] <= '9';
    if (zeros) return false;
    *v = (struct json){.type = JSON_TYPE_INT};
    if (!span_to_i64(number, &v->integer)) return true;
    *v = (struct json){.type = JSON_TYPE_REAL};
    return !span_to_f64(number, &v->real);
}

struct yaml_reader {
    struct builder b;
    yaml_parser_t parser;
    struct error *err;
    bool documents; /* one was seen */
};

static int yaml_complain(struct yaml_reader *y, const yaml_mark_t *mark, const char *what) {
    return error_set(y->err, E_INVALID, "YAML: line %zu, column %zu: %s", mark->line + 1, mark->column + 1, what);
}

static int yaml_no_memory(struct yaml_reader *y) { return error_set(y->err, E_NOMEM, "YAML: no memory"); }

/* Whether the next value stands where an object has its keys. */
static bool at_key(const struct builder *b) { return b->depth && b->frames[b->depth - 1].object && (b->size - b->frames[b->depth - 1].first) % 2 == 0; }

static int yaml_scalar(struct yaml_reader *y, const yaml_event_t *e) {
    struct span s = span_of(e->data.scalar.value, e->data.scalar.length);
    struct json v;
    bool plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (at_key(&y->b) && plain && span_eq(s, SPAN("<<"))) return yaml_complain(y, &e->start_mark, "merge keys are not read: write the keys out");
    if (at_key(&y->b) || !plain || !plain_value(s, &v)) {
        if (!span_is_utf8(s)) return yaml_complain(y, &e->start_mark, "a string that is not UTF-8");
        if (make_string(&y->b, s, &v)) return yaml_no_memory(y);
    }
    return push(&y->b, v) ? yaml_no_memory(y) : 0;
}

static int yaml_event(struct yaml_reader *y, const yaml_event_t *e) {
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (e->type) {
    case YAML_SCALAR_EVENT: anchor = e->data.scalar.anchor, tag = e->data.scalar.tag; break;
    case YAML_SEQUENCE_START_EVENT: anchor = e->data.sequence_start.anchor, tag = e->data.sequence_start.tag; break;
    case YAML_MAPPING_START_EVENT: anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag; break;
    default: break;
    }
    if (anchor || e->type == YAML_ALIAS_EVENT) return yaml_complain(y, &e->start_mark, "anchors and aliases are not read: write the value out");
    if (tag) return yaml_complain(y, &e->start_mark, "tags are not read: quote what is to be text");
    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (y->documents) return yaml_complain(y, &e->start_mark, "more than one document");
        y->documents = true;
        return 0;
    case YAML_SCALAR_EVENT: return yaml_scalar(y, e);
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        if (at_key(&y->b)) return yaml_complain(y, &e->start_mark, "a key must be one word or a quoted text");
        if (open_container(&y->b, e->type == YAML_MAPPING_START_EVENT)) return yaml_complain(y, &e->start_mark, "nested too deeply (more than 128 levels)");
        return 0;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT: {
        struct span duplicate;
        int r = close_container(&y->b, &duplicate);
        if (r == E_EXISTS) {
            char what[128];
            snprintf(what, sizeof what, "the mapping that ends here has the key \"%.*s\" twice", (int)(duplicate.len < 60 ? duplicate.len : 60), duplicate.data);
            return yaml_complain(y, &e->start_mark, what);
        }
        return r ? yaml_no_memory(y) : 0;
    }
    default: return 0;
    }
}

/* libyaml looks ahead for "key:" and keeps every open flow collection in mind, at a cost that grows with their number: what is nested
 * deeper than any tree we take is refused before it reads on. Brackets inside of quotes or comments can only be counted too often, so
 * the count is of libyaml's own events; this guards the one thing that has no event yet, a run of opening brackets. */
static bool bracket_run_too_long(struct span text) {
    size_t run = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.data[i];
        if (c == '[' || c == '{') run++;
        else if (c != ' ' && c != '\n' && c != '\t' && c != '\r') run = 0;
        if (run > 4 * JSON_DEPTH_MAX) return true;
    }
    return false;
}

int yaml_parse(struct span text, struct json **root, struct error *err) {
    struct yaml_reader y = {.err = err};
    if (bracket_run_too_long(text)) return error_set(err, E_INVALID, "YAML: nested too deeply (more than 128 levels)");
    int r = builder_init(&y.b, text.len);
    if (r) return error_set(err, r, r == E_NOMEM ? "YAML: no memory" : "YAML: the text is too long");
    if (!yaml_parser_initialize(&y.parser)) {
        builder_fini(&y.b);
        return yaml_no_memory(&y);
    }
    yaml_parser_set_encoding(&y.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&y.parser, (const unsigned char *)(text.data ? text.data : ""), text.len);
    for (bool end = false; !r && !end;) {
        yaml_event_t e;
        if (!yaml_parser_parse(&y.parser, &e)) {
            r = y.parser.error == YAML_MEMORY_ERROR ? yaml_no_memory(&y) : yaml_complain(&y, &y.parser.problem_mark, y.parser.problem ? y.parser.problem : "not YAML");
            break;
        }
        r = yaml_event(&y, &e);
        end = e.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&e);
    }
    yaml_parser_delete(&y.parser);
    if (!r) {
        if (y.b.size) y.b.tree->root = y.b.stack[0]; /* an empty text is null */
        *root = &y.b.tree->root;
        y.b.tree = NULL;
    }
    builder_fini(&y.b);
    return r;
}

/* ---- Reading ----------------------------------------------------------------------------------------------------------- */

enum json_type json_type(const struct json *v) { return v ? (enum json_type)v->type : JSON_TYPE_NULL; }

const char *json_type_name(const struct json *v) {
    static const char *const names[] = {"null", "a boolean", "an integer", "a number", "a string", "an array", "an object"};
    return names[json_type(v)];
}

static bool is(const struct json *v, enum json_type type) { return v && v->type == type; }

const struct json *json_get_span(const struct json *object, struct span key) {
    if (!is(object, JSON_TYPE_OBJECT) || !object->len) return NULL;
    const struct object *o = object->object;
    if (o->index) {
        for (uint32_t at = key_hash(key) & o->mask; o->index[at]; at = (at + 1) & o->mask)
            if (span_eq(key_of(o->pairs, o->index[at] - 1), key)) return &o->pairs[2 * (size_t)(o->index[at] - 1) + 1];
        return NULL;
    }
    for (uint32_t i = 0; i < object->len; i++)
        if (span_eq(key_of(o->pairs, i), key)) return &o->pairs[2 * (size_t)i + 1];
    return NULL;
}

const struct json *json_get(const struct json *object, const char *key) { return json_get_span(object, span_str(key)); }

size_t json_size(const struct json *v) { return is(v, JSON_TYPE_ARRAY) || is(v, JSON_TYPE_OBJECT) ? v->len : 0; }

const struct json *json_at(const struct json *array, size_t index) { return is(array, JSON_TYPE_ARRAY) && index < array->len ? &array->items[index] : NULL; }

bool json_next(const struct json *object, void **iterator, struct span *key, const struct json **value) {
    uintptr_t i = (uintptr_t)*iterator; /* the number of the next member */
    if (!is(object, JSON_TYPE_OBJECT) || i >= object->len) return false;
    if (key) *key = key_of(object->object->pairs, (uint32_t)i);
    if (value) *value = &object->object->pairs[2 * i + 1];
    *iterator = (void *)(i + 1);
    return true;
}

struct span json_string(const struct json *v) { return is(v, JSON_TYPE_STRING) ? span_of(v->string, v->len) : span_of("", 0); }

int64_t json_int(const struct json *v, int64_t otherwise) {
    if (is(v, JSON_TYPE_INT)) return v->integer;
    if (is(v, JSON_TYPE_REAL) && v->real >= -0x1p63 && v->real < 0x1p63 && v->real == trunc(v->real)) return (int64_t)v->real;
    return otherwise;
}

double json_real(const struct json *v, double otherwise) { return is(v, JSON_TYPE_REAL) ? v->real : is(v, JSON_TYPE_INT) ? (double)v->integer : otherwise; }
bool json_bool(const struct json *v, bool otherwise) { return is(v, JSON_TYPE_BOOL) ? v->boolean : otherwise; }
bool json_is_null(const struct json *v) { return json_type(v) == JSON_TYPE_NULL; }

/* ---- Writing ----------------------------------------------------------------------------------------------------------- */

static void put_quoted(struct buf *out, struct span s) {
    buf_append_char(out, '"');
    size_t run = 0;
    for (size_t i = 0; i < s.len;) {
        unsigned char c = (unsigned char)s.data[i];
        size_t n = 1;
        uint32_t code_point;
        bool plain = c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
        if (c >= 0x80) {
            n = span_utf8_decode(span_skip(s, i), &code_point);
            plain = n > 0;
            if (!n) n = 1;
        }
        if (!plain) {
            buf_append(out, s.data + run, i - run);
            static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
            const char *found = c ? strchr(from, c) : NULL;
            if (c >= 0x80) buf_append_str(out, "\xef\xbf\xbd");
            else if (found) buf_append(out, (char[]){'\\', to[found - from]}, 2);
            else buf_printf(out, "\\u%04x", c);
            run = i + n;
        }
        i += n;
    }
    buf_append(out, s.data ? s.data + run : "", s.len - run);
    buf_append_char(out, '"');
}

static void put_real(struct buf *out, double v) {
    if (!isfinite(v)) {
        buf_append_str(out, "null");
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        double back;
        snprintf(text, sizeof text - 2, "%.*g", digits, v);
        for (char *p = text; *p; p++)
            if (*p == ',') *p = '.'; /* a locale's point */
        if (!span_to_f64(span_str(text), &back) && back == v) break;
    }
    buf_append_str(out, text);
    if (!strpbrk(text, ".e")) buf_append_str(out, ".0"); /* a real stays one */
}

static void put_scalar(struct buf *out, const struct json *v) {
    switch (json_type(v)) {
    case JSON_TYPE_BOOL: buf_append_str(out, v->boolean ? "true" : "false"); break;
    case JSON_TYPE_INT: buf_printf(out, "%lld", (long long)v->integer); break;
    case JSON_TYPE_REAL: put_real(out, v->real); break;
    case JSON_TYPE_STRING: put_quoted(out, span_of(v->string, v->len)); break;
    case JSON_TYPE_NULL:
    case JSON_TYPE_ARRAY:
    case JSON_TYPE_OBJECT: buf_append_str(out, "null"); break;
    }
}

int json_write(struct buf *out, const struct json *v) {
    struct {
        const struct json *container, *item;
        size_t left; /* values still to write, keys among them */
    } stack[JSON_DEPTH_MAX];
    int depth = 0, before = out->failed;
    out->failed = 0; /* to hear of this call's own failure */
    for (;;) {
        if (v && (v->type == JSON_TYPE_ARRAY || v->type == JSON_TYPE_OBJECT)) {
            bool object = v->type == JSON_TYPE_OBJECT;
            ASSERT(depth < JSON_DEPTH_MAX);
            buf_append_char(out, object ? '{' : '[');
            stack[depth].container = v;
            stack[depth].item = !v->len ? NULL : object ? v->object->pairs : v->items;
            stack[depth].left = object ? 2 * (size_t)v->len : v->len;
            depth++;
        } else {
            put_scalar(out, v);
        }
        while (depth && !stack[depth - 1].left) buf_append_char(out, stack[--depth].container->type == JSON_TYPE_OBJECT ? '}' : ']');
        if (!depth || out->failed) break;
        const struct json *c = stack[depth - 1].container;
        size_t total = c->type == JSON_TYPE_OBJECT ? 2 * (size_t)c->len : c->len, done = total - stack[depth - 1].left;
        if (done) buf_append_char(out, c->type == JSON_TYPE_OBJECT && done % 2 ? ':' : ',');
        v = stack[depth - 1].item++;
        stack[depth - 1].left--;
    }
    int r = out->failed;
    if (before) out->failed = before;
    return r;
}

void json_begin(struct json_out *w, struct buf *out) { *w = (struct json_out){.out = out}; }

enum { WRITER_DEPTH_MAX = 64 }; /* one bit of has_item each; what we write ourselves is nested by our own code, never by input */

/* The comma, where one is due. */
static void before_item(struct json_out *w) {
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    uint64_t bit = (uint64_t)1 << w->depth;
    if (w->depth && w->has_item & bit) buf_append_char(w->out, ',');
    w->has_item |= bit;
}

static void open_level(struct json_out *w, char c) {
    before_item(w);
    ASSERT(w->depth < WRITER_DEPTH_MAX - 1);
    w->depth++;
    w->has_item &= ~((uint64_t)1 << w->depth);
    buf_append_char(w->out, c);
}

static void close_level(struct json_out *w, char c) {
    ASSERT(w->depth > 0 && !w->after_key);
    w->depth--;
    buf_append_char(w->out, c);
}

void json_object(struct json_out *w) { open_level(w, '{'); }
void json_object_end(struct json_out *w) { close_level(w, '}'); }
void json_array(struct json_out *w) { open_level(w, '['); }
void json_array_end(struct json_out *w) { close_level(w, ']'); }

void json_key_span(struct json_out *w, struct span key) {
    before_item(w);
    put_quoted(w->out, key);
    buf_append_char(w->out, ':');
    w->after_key = true;
}

void json_key(struct json_out *w, const char *key) { json_key_span(w, span_str(key)); }

void json_put_span(struct json_out *w, struct span s) {
    before_item(w);
    put_quoted(w->out, s);
}

void json_put_str(struct json_out *w, const char *s) {
    if (s) json_put_span(w, span_str(s));
    else json_put_null(w);
}

void json_put_int(struct json_out *w, int64_t v) {
    before_item(w);
    buf_printf(w->out, "%lld", (long long)v);
}

void json_put_uint(struct json_out *w, uint64_t v) {
    before_item(w);
    buf_printf(w->out, "%llu", (unsigned long long)v);
}

void json_put_real(struct json_out *w, double v) {
    before_item(w);
    put_real(w->out, v);
}

void json_put_bool(struct json_out *w, bool v) {
    before_item(w);
    buf_append_str(w->out, v ? "true" : "false");
}

void json_put_null(struct json_out *w) {
    before_item(w);
    buf_append_str(w->out, "null");
}

void json_put_raw(struct json_out *w, struct span text) {
    before_item(w);
    buf_append_span(w->out, text);
}

void json_put_value(struct json_out *w, const struct json *v) {
    before_item(w);
    json_write(w->out, v);
}

void json_str(struct json_out *w, const char *key, const char *s) {
    json_key(w, key);
    json_put_str(w, s);
}

void json_span(struct json_out *w, const char *key, struct span s) {
    json_key(w, key);
    json_put_span(w, s);
}

void json_num(struct json_out *w, const char *key, int64_t v) {
    json_key(w, key);
    json_put_int(w, v);
}

void json_flt(struct json_out *w, const char *key, double v) {
    json_key(w, key);
    json_put_real(w, v);
}

void json_flag(struct json_out *w, const char *key, bool v) {
    json_key(w, key);
    json_put_bool(w, v);
}
