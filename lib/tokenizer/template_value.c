/*
 * Values with Python's semantics: truth, equality, order, str and repr; and strings that know of each byte whether the template wrote it.
 * Every new string is put together by a builder out of parts of older ones, so that taint goes along without a thought of the caller.
 */
#include <math.h>
#include <stdio.h>
#include <utf8proc.h>

#include "base/alloc.h"
#include "tokenizer/internal.h"
#include "tokenizer/template_internal.h"

/* ---- characters ---- */

bool space_at(struct span s, size_t at, size_t *len) {
    if (at >= s.len) return false;
    uint8_t b = (uint8_t)s.data[at];
    *len = 1;
    if (b < 0x80) return b == ' ' || (b >= 9 && b <= 13) || (b >= 28 && b <= 31);
    return char_class_at(s.data + at, s.len - at, len) & CHAR_S;
}
size_t utf8_length(struct span s) {
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) n += ((uint8_t)s.data[i] & 0xC0) != 0x80;
    return n;
}
size_t utf8_offset(struct span s, size_t characters) {
    size_t i = 0;
    while (i < s.len && characters--)
        do i++;
        while (i < s.len && ((uint8_t)s.data[i] & 0xC0) == 0x80);
    return i;
}

/* ---- builders ---- */

void text_builder_init(struct text_builder *b) {
    *b = (struct text_builder){.failed = 0};
    buf_init(&b->text, TEMPLATE_OUTPUT_MAX);
}
void text_builder_fini(struct text_builder *b) {
    buf_fini(&b->text);
    mem_free(b->pieces);
    *b = (struct text_builder){.failed = 0};
}

void text_builder_add(struct text_builder *b, struct span text, bool trusted) {
    if (b->failed || !text.len) return;
    if (buf_append_span(&b->text, text)) {
        b->failed = b->text.failed;
        return;
    }
    if (!b->piece_count || b->pieces[b->piece_count - 1].trusted != trusted) {
        if (array_reserve(&b->pieces, &b->piece_capacity, b->piece_count + 1, sizeof *b->pieces)) {
            b->failed = E_NOMEM;
            return;
        }
        b->pieces[b->piece_count++].trusted = trusted;
    }
    b->pieces[b->piece_count - 1].end = b->text.len;
}

void builder_add_part(struct text_builder *b, const struct string *s, size_t from, size_t len) {
    struct span part = span_sub(s->text, from, len);
    if (!s->run_count) {
        text_builder_add(b, part, s->trusted);
        return;
    }
    if (from > s->text.len) from = s->text.len;
    size_t lo = 0, hi = s->run_count; /* the first run that ends behind `from` */
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->runs[mid].end <= from) lo = mid + 1;
        else hi = mid;
    }
    for (size_t end = from + part.len; lo < s->run_count && from < end; lo++) {
        size_t to = s->runs[lo].end < end ? s->runs[lo].end : end;
        text_builder_add(b, span_sub(s->text, from, to - from), s->runs[lo].trusted);
        from = to;
    }
}

static int text_builder_error(struct eval *e, const struct text_builder *b) {
    if (b->failed == E_FULL) return error_set(e->err, E_TOO_LARGE, "the chat template made a text of more than %d bytes", TEMPLATE_OUTPUT_MAX);
    return b->failed ? eval_no_memory(e) : 0;
}

int text_builder_take(struct eval *e, struct text_builder *b, struct value *out) {
    int r = text_builder_error(e, b);
    if (!r) r = eval_steps(e, b->text.len / 64 + b->piece_count / 4);
    struct string *s = r ? NULL : arena_alloc(&e->arena, sizeof *s);
    struct span text = r ? (struct span){0} : arena_span(&e->arena, buf_span(&b->text));
    struct template_piece *runs = NULL;
    if (!r && b->piece_count > 1) {
        runs = arena_calloc(&e->arena, b->piece_count, sizeof *runs);
        if (runs) memcpy(runs, b->pieces, b->piece_count * sizeof *runs);
    }
    if (!r && (!s || !text.data || (b->piece_count > 1 && !runs))) r = eval_no_memory(e);
    if (!r) {
        *s = (struct string){.text = text, .trusted = !b->piece_count || b->pieces[0].trusted, .runs = runs, .run_count = runs ? b->piece_count : 0};
        *out = (struct value){.kind = VALUE_STRING, .string = s};
    }
    text_builder_fini(b);
    return r;
}

int string_new(struct eval *e, struct span text, bool trusted, struct value *out) {
    int r = eval_steps(e, text.len / 64);
    if (r) return r;
    struct string *s = arena_alloc(&e->arena, sizeof *s);
    struct span copy = arena_span(&e->arena, text);
    if (!s || !copy.data) return eval_no_memory(e);
    *s = (struct string){.text = copy, .trusted = trusted};
    *out = (struct value){.kind = VALUE_STRING, .string = s};
    return 0;
}

int string_part(struct eval *e, const struct string *s, size_t from, size_t len, struct value *out) {
    if (s->run_count) {
        struct text_builder b;
        text_builder_init(&b);
        builder_add_part(&b, s, from, len);
        return text_builder_take(e, &b, out);
    }
    struct string *part = arena_alloc(&e->arena, sizeof *part);
    if (!part) return eval_no_memory(e);
    *part = (struct string){.text = span_sub(s->text, from, len), .trusted = s->trusted};
    *out = (struct value){.kind = VALUE_STRING, .string = part};
    return 0;
}

/* ---- what values are ---- */

const char *value_type_name(const struct value *v) {
    static const char *const names[] = {"Undefined", "NoneType", "bool", "int", "float", "str", "list", "tuple", "dict", "Namespace", "LoopContext", "Macro", "function", "method"};
    return names[v->kind];
}

bool value_true(const struct value *v) {
    switch (v->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE: return false;
    case VALUE_BOOL: return v->boolean;
    case VALUE_INT: return v->integer != 0;
    case VALUE_FLOAT: return v->real != 0;
    case VALUE_STRING: return v->string->text.len > 0;
    case VALUE_LIST:
    case VALUE_TUPLE: return v->list->count > 0;
    case VALUE_DICT: return v->dict->count > 0;
    default: return true;
    }
}
double value_real(const struct value *v) { return v->kind == VALUE_FLOAT ? v->real : v->kind == VALUE_INT ? (double)v->integer : (double)v->boolean; }
int64_t value_integer(const struct value *v) { return v->kind == VALUE_INT ? v->integer : v->boolean; }

static int nested(struct eval *e) {
    if (e->depth >= TEMPLATE_EVAL_DEPTH_MAX) return error_set(e->err, E_TOO_LARGE, "template line %u: nested deeper than %d", e->line, TEMPLATE_EVAL_DEPTH_MAX);
    return eval_steps(e, 1);
}

int value_equal(struct eval *e, const struct value *a, const struct value *b, bool *equal) {
    *equal = false;
    if (value_is_number(a) && value_is_number(b)) {
        *equal = a->kind != VALUE_FLOAT && b->kind != VALUE_FLOAT ? value_integer(a) == value_integer(b) : value_real(a) == value_real(b);
        return 0;
    }
    if (a->kind != b->kind) return 0;
    int r = nested(e);
    if (r) return r;
    e->depth++;
    switch (a->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE: *equal = true; break;
    case VALUE_STRING:
        r = eval_steps(e, a->string->text.len / 64);
        *equal = span_eq(a->string->text, b->string->text);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        *equal = a->list->count == b->list->count;
        for (size_t i = 0; !r && *equal && i < a->list->count; i++) r = value_equal(e, &a->list->items[i], &b->list->items[i], equal);
        break;
    case VALUE_DICT:
        *equal = a->dict->count == b->dict->count;
        for (size_t i = 0; !r && *equal && i < a->dict->count; i++) {
            const struct value *other;
            r = dict_find(e, b->dict, &a->dict->entries[i].key, &other);
            *equal = other != NULL;
            if (!r && other) r = value_equal(e, &a->dict->entries[i].value, other, equal);
        }
        break;
    default: *equal = a->dict == b->dict; /* the same object */
    }
    e->depth--;
    return r;
}

/* By code point, which for UTF-8 is by byte; letters folded one by one where the case does not count. */
static int order_text(struct span a, struct span b, bool ignore_case) {
    if (!ignore_case) return span_compare(a, b);
    while (a.len && b.len) {
        uint32_t x = 0, y = 0;
        size_t n = span_utf8_decode(a, &x), m = span_utf8_decode(b, &y);
        if (!n || !m) break;
        x = (uint32_t)utf8proc_tolower((utf8proc_int32_t)x);
        y = (uint32_t)utf8proc_tolower((utf8proc_int32_t)y);
        if (x != y) return x < y ? -1 : 1;
        a = span_skip(a, n);
        b = span_skip(b, m);
    }
    return a.len ? 1 : b.len ? -1 : 0;
}

int value_order(struct eval *e, const struct value *a, const struct value *b, bool ignore_case, int *order) {
    int r = nested(e);
    if (r) return r;
    if (value_is_number(a) && value_is_number(b)) {
        if (a->kind != VALUE_FLOAT && b->kind != VALUE_FLOAT) *order = value_integer(a) < value_integer(b) ? -1 : value_integer(a) > value_integer(b);
        else *order = value_real(a) < value_real(b) ? -1 : value_real(a) > value_real(b);
        return 0;
    }
    if (a->kind == VALUE_STRING && b->kind == VALUE_STRING) {
        *order = order_text(a->string->text, b->string->text, ignore_case);
        return eval_steps(e, a->string->text.len / 64);
    }
    if (!value_is_list(a) || a->kind != b->kind) return eval_fail(e, "'<' not supported between instances of '%s' and '%s'", value_type_name(a), value_type_name(b));
    e->depth++;
    *order = 0;
    size_t i = 0;
    for (; !r && !*order && i < a->list->count && i < b->list->count; i++) {
        bool equal;
        r = value_equal(e, &a->list->items[i], &b->list->items[i], &equal);
        if (!r && !equal) r = value_order(e, &a->list->items[i], &b->list->items[i], ignore_case, order);
    }
    if (!r && !*order) *order = a->list->count < b->list->count ? -1 : a->list->count > b->list->count;
    e->depth--;
    return r;
}

int value_contains(struct eval *e, const struct value *in, const struct value *what, bool *found) {
    const struct value *value;
    *found = false;
    int r = 0;
    switch (in->kind) {
    case VALUE_UNDEFINED: return 0;
    case VALUE_STRING:
        if (what->kind != VALUE_STRING) return eval_fail(e, "'in <string>' requires string as left operand, not %s", value_type_name(what));
        *found = span_find(in->string->text, what->string->text) >= 0;
        return eval_steps(e, in->string->text.len / 64);
    case VALUE_LIST:
    case VALUE_TUPLE:
        for (size_t i = 0; !r && !*found && i < in->list->count; i++) {
            r = eval_steps(e, 1);
            if (!r) r = value_equal(e, &in->list->items[i], what, found);
        }
        return r;
    case VALUE_DICT:
        r = dict_find(e, in->dict, what, &value);
        *found = !r && value;
        return r;
    default: return eval_fail(e, "argument of type '%s' is not iterable", value_type_name(in));
    }
}

int value_length(struct eval *e, const struct value *v, size_t *length) {
    switch (v->kind) {
    case VALUE_UNDEFINED: *length = 0; return 0;
    case VALUE_STRING: *length = utf8_length(v->string->text); return eval_steps(e, v->string->text.len / 64);
    case VALUE_LIST:
    case VALUE_TUPLE: *length = v->list->count; return 0;
    case VALUE_DICT: *length = v->dict->count; return 0;
    default: return eval_fail(e, "object of type '%s' has no len()", value_type_name(v));
    }
}

int value_items(struct eval *e, const struct value *v, struct list *out) {
    struct value list = {0}, *items = NULL;
    size_t n = 0, at = 0;
    int r = 0;
    switch (v->kind) {
    case VALUE_UNDEFINED: *out = (struct list){NULL, 0}; return 0;
    case VALUE_LIST:
    case VALUE_TUPLE: *out = *v->list; return 0;
    case VALUE_STRING:
        n = utf8_length(v->string->text);
        r = list_new(e, VALUE_LIST, n, &items, &list);
        for (size_t i = 0; !r && i < n; i++) {
            size_t len = utf8_offset(span_skip(v->string->text, at), 1);
            r = string_part(e, v->string, at, len, &items[i]);
            at += len;
        }
        break;
    case VALUE_DICT:
        n = v->dict->count;
        r = list_new(e, VALUE_LIST, n, &items, &list);
        for (size_t i = 0; !r && i < n; i++) items[i] = v->dict->entries[i].key;
        break;
    default: return eval_fail(e, "'%s' object is not iterable", value_type_name(v));
    }
    if (!r) *out = *list.list;
    return r;
}

int list_new(struct eval *e, uint8_t kind, size_t count, struct value **items, struct value *out) {
    int r = eval_steps(e, count);
    if (r) return r;
    struct list *list = arena_alloc(&e->arena, sizeof *list);
    struct value *v = arena_calloc(&e->arena, count ? count : 1, sizeof *v);
    if (!list || !v) return eval_no_memory(e);
    *list = (struct list){v, count};
    *items = v;
    *out = (struct value){.kind = kind, .list = list};
    return 0;
}

/* ---- dictionaries: small, in the order of insertion ---- */

int dict_new(struct eval *e, size_t capacity, uint8_t kind, struct value *out) {
    struct dict *d = arena_alloc(&e->arena, sizeof *d);
    if (d) d->entries = arena_calloc(&e->arena, capacity ? capacity : 1, sizeof *d->entries);
    if (!d || !d->entries) return eval_no_memory(e);
    d->capacity = capacity ? capacity : 1;
    *out = (struct value){.kind = kind, .dict = d};
    return 0;
}

const struct value *dict_find_name(const struct dict *d, struct span name) {
    for (size_t i = 0; i < d->count; i++)
        if (d->entries[i].key.kind == VALUE_STRING && span_eq(d->entries[i].key.string->text, name)) return &d->entries[i].value;
    return NULL;
}

/* *at: where the key is, count where it is not. */
static int dict_index(struct eval *e, const struct dict *d, const struct value *key, size_t *at) {
    int r = eval_steps(e, d->count / 8);
    if (!r && (key->kind == VALUE_LIST || key->kind == VALUE_DICT)) r = eval_fail(e, "unhashable type: '%s'", value_type_name(key));
    for (*at = 0; !r && *at < d->count; ++*at) {
        const struct value *k = &d->entries[*at].key;
        bool equal = false;
        if (key->kind == VALUE_STRING) equal = k->kind == VALUE_STRING && span_eq(k->string->text, key->string->text);
        else r = value_equal(e, k, key, &equal);
        if (equal) break;
    }
    return r;
}

int dict_find(struct eval *e, const struct dict *d, const struct value *key, const struct value **found) {
    size_t at;
    int r = dict_index(e, d, key, &at);
    *found = !r && at < d->count ? &d->entries[at].value : NULL;
    return r;
}

int dict_set(struct eval *e, struct dict *d, const struct value *key, const struct value *value) {
    size_t at;
    int r = dict_index(e, d, key, &at);
    if (r) return r;
    if (at < d->count) {
        d->entries[at].value = *value;
        return 0;
    }
    if (d->count == d->capacity) {
        struct entry *more = arena_calloc(&e->arena, d->capacity * 2, sizeof *more);
        if (!more) return eval_no_memory(e);
        memcpy(more, d->entries, d->count * sizeof *more);
        d->entries = more;
        d->capacity *= 2;
    }
    d->entries[d->count++] = (struct entry){*key, *value};
    return 0;
}

/* ---- str and repr ---- */

void real_format(double d, char text[40]) {
    if (isnan(d) || isinf(d)) {
        snprintf(text, 40, "%s", isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    char scientific[40];
    for (int digits = 0; digits < 17; digits++) { /* the fewest that read back the same */
        double back = 0;
        int n = snprintf(scientific, sizeof scientific, "%.*e", digits, d);
        if (span_to_f64(span_of(scientific, (size_t)n), &back) == 0 && back == d) break;
    }
    const char *mark = strchr(scientific, 'e'), *point = strchr(scientific, '.');
    int64_t exponent = 0;
    (void)span_to_i64(span_str(mark[1] == '+' ? mark + 2 : mark + 1), &exponent);
    if (exponent < -4 || exponent >= 16) {
        snprintf(text, 40, "%.*se%c%02lld", (int)(mark - scientific), scientific, exponent < 0 ? '-' : '+', (long long)(exponent < 0 ? -exponent : exponent));
        return;
    }
    int fraction = (point ? (int)(mark - point) - 1 : 0) - (int)exponent;
    snprintf(text, 40, "%.*f", fraction < 1 ? 1 : fraction, d);
}

static void add_number(struct text_builder *b, const struct value *v) {
    char text[40];
    if (v->kind == VALUE_INT) snprintf(text, sizeof text, "%lld", (long long)v->integer);
    else real_format(v->real, text);
    text_builder_add(b, span_str(text), !v->tainted);
}

static bool printable(uint32_t c) {
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return c == ' ';
    default: return true;
    }
}

static void repr_string(struct text_builder *b, const struct string *s) {
    char quote = span_find_char(s->text, '\'') >= 0 && span_find_char(s->text, '"') < 0 ? '"' : '\'';
    text_builder_add(b, span_of(&quote, 1), false);
    for (size_t i = 0, len; i < s->text.len; i += len) {
        uint32_t c = 0;
        char text[12];
        len = span_utf8_decode(span_skip(s->text, i), &c);
        if (!len) break;
        if (c == (uint8_t)quote || c == '\\') snprintf(text, sizeof text, "\\%c", (char)c);
        else if (c == '\n' || c == '\r' || c == '\t') snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (printable(c)) {
            builder_add_part(b, s, i, len);
            continue;
        } else if (c < 0x100) snprintf(text, sizeof text, "\\x%02x", c);
        else if (c < 0x10000) snprintf(text, sizeof text, "\\u%04x", c);
        else snprintf(text, sizeof text, "\\U%08x", c);
        text_builder_add(b, span_str(text), false);
    }
    text_builder_add(b, span_of(&quote, 1), false);
}

int value_repr(struct eval *e, struct text_builder *b, const struct value *v) {
    int r = nested(e);
    if (r) return r;
    if (b->failed) return text_builder_error(e, b);
    e->depth++;
    switch (v->kind) {
    case VALUE_UNDEFINED: text_builder_add(b, SPAN("Undefined"), false); break;
    case VALUE_NONE: text_builder_add(b, SPAN("None"), !v->tainted); break;
    case VALUE_BOOL: text_builder_add(b, v->boolean ? SPAN("True") : SPAN("False"), !v->tainted); break;
    case VALUE_INT:
    case VALUE_FLOAT: add_number(b, v); break;
    case VALUE_STRING:
        r = eval_steps(e, v->string->text.len / 16);
        if (!r) repr_string(b, v->string);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        text_builder_add(b, v->kind == VALUE_LIST ? SPAN("[") : SPAN("("), false);
        for (size_t i = 0; !r && i < v->list->count; i++) {
            if (i) text_builder_add(b, SPAN(", "), false);
            r = value_repr(e, b, &v->list->items[i]);
        }
        if (v->kind == VALUE_TUPLE && v->list->count == 1) text_builder_add(b, SPAN(","), false);
        text_builder_add(b, v->kind == VALUE_LIST ? SPAN("]") : SPAN(")"), false);
        break;
    case VALUE_DICT:
    case VALUE_NAMESPACE:
        text_builder_add(b, SPAN("{"), false);
        for (size_t i = 0; !r && i < v->dict->count; i++) {
            if (i) text_builder_add(b, SPAN(", "), false);
            r = value_repr(e, b, &v->dict->entries[i].key);
            text_builder_add(b, SPAN(": "), false);
            if (!r) r = value_repr(e, b, &v->dict->entries[i].value);
        }
        text_builder_add(b, SPAN("}"), false);
        break;
    default: r = eval_fail(e, "a %s cannot be printed", value_type_name(v));
    }
    e->depth--;
    return r;
}

int builder_add_value(struct eval *e, struct text_builder *b, const struct value *v) {
    if (v->kind == VALUE_UNDEFINED) return 0;
    if (v->kind != VALUE_STRING) return value_repr(e, b, v);
    builder_add_string(b, v->string);
    int r = eval_steps(e, v->string->text.len / 64);
    return r ? r : text_builder_error(e, b);
}

int value_to_string(struct eval *e, const struct value *v, const struct string **out) {
    struct value s = *v;
    int r = 0;
    if (v->kind != VALUE_STRING) {
        struct text_builder b;
        text_builder_init(&b);
        r = builder_add_value(e, &b, v);
        if (r) text_builder_fini(&b);
        else r = text_builder_take(e, &b, &s);
    }
    if (!r) *out = s.string;
    return r;
}
