/* Filters, tests and functions, each a row of its table. Parameters are named as jinja2 names them; one that ends with ? may be left out. */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "tokenizer/template_internal.h"

/* ---- calling ---- */

int builtin_call(struct eval *e, const struct builtin *b, const struct value *self, struct args *args, struct value *out) {
    struct span params = span_str(b->params), name;
    size_t n = 0, used = args->count;
    int r = eval_steps(e, 1);
    if (r) return r;
    if (!span_eq_str(params, "*")) {
        for (; span_cut(&params, ' ', &name); n++) {
            bool optional = span_ends(name, SPAN("?"));
            name.len -= optional;
            args->p[n] = n < args->count ? &args->given[n] : NULL;
            for (size_t k = 0; k < args->keyword_count; k++)
                if (span_eq(args->keywords[k].name, name)) {
                    if (args->p[n]) return eval_fail(e, "%s got two values for %.*s", b->name, SPAN_ARG(name));
                    args->p[n] = &args->keywords[k].value;
                    used++;
                }
            if (!args->p[n] && !optional) return eval_fail(e, "%s needs %.*s", b->name, SPAN_ARG(name));
        }
        if (args->count > n || used != args->count + args->keyword_count) return eval_fail(e, "%s takes other arguments: (%s)", b->name, b->params);
    }
    return b->run(e, self, args, out);
}

static bool flag(const struct value *v, bool otherwise) { return v ? value_true(v) : otherwise; }
static int no_undefined(struct eval *e, const struct value *v) { return v->kind == VALUE_UNDEFINED ? eval_fail(e, "a value is undefined") : 0; }

/* a.b.0 of each item, as make_attrgetter reads it. */
static int attribute_of(struct eval *e, const struct value *item, const struct value *path, struct value *out) {
    *out = *item;
    if (path->kind == VALUE_INT) return eval_item(e, item, path, out);
    if (path->kind != VALUE_STRING) return eval_fail(e, "an attribute is named by a string");
    struct span rest = path->string->text, part;
    int r = 0;
    while (!r && span_cut(&rest, '.', &part)) {
        int64_t index;
        struct value key, from = *out;
        if (span_to_i64(part, &index) == 0) key = value_int(index);
        else r = string_new(e, part, true, &key);
        if (!r) r = eval_item(e, &from, &key, out);
    }
    return r;
}

/* ---- filters of one value ---- */

#define FILTER(name) static int name(struct eval *e, const struct value *self, const struct args *a, struct value *out)

FILTER(filter_abs) {
    (void)a;
    if (!value_is_number(self)) return eval_fail(e, "bad operand type for abs(): '%s'", value_type_name(self));
    if (self->kind == VALUE_FLOAT) *out = value_float(fabs(self->real));
    else if (value_integer(self) == INT64_MIN) return eval_fail(e, "a number is too large");
    else *out = value_int(value_integer(self) < 0 ? -value_integer(self) : value_integer(self));
    out->tainted = self->tainted;
    return 0;
}
FILTER(filter_default) {
    bool missing = self->kind == VALUE_UNDEFINED || (flag(a->p[1], false) && !value_true(self));
    if (missing && !a->p[0]) return string_new(e, SPAN(""), true, out);
    *out = missing ? *a->p[0] : *self;
    return 0;
}
FILTER(filter_length) {
    size_t n;
    (void)a;
    int r = value_length(e, self, &n);
    if (!r) *out = value_int((int64_t)n);
    return r;
}
FILTER(filter_string) {
    const struct string *s = NULL;
    (void)a;
    int r = value_to_string(e, self, &s);
    if (!r) *out = (struct value){.kind = VALUE_STRING, .string = s};
    return r;
}
FILTER(filter_escape) {
    static const char *const names[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    const struct string *s = NULL;
    struct text_builder b;
    (void)a;
    int r = value_to_string(e, self, &s);
    if (r) return r;
    text_builder_init(&b);
    for (size_t i = 0; i < s->text.len; i++) {
        const char *at = s->text.data[i] ? strchr("&<>\"'", s->text.data[i]) : NULL;
        if (at) text_builder_add(&b, span_str(names[strlen("&<>\"'") - strlen(at)]), false);
        else builder_add_part(&b, s, i, 1);
    }
    return text_builder_take(e, &b, out);
}
static int filter_case(struct eval *e, const struct value *self, enum string_case to, struct value *out) {
    const struct string *s = NULL;
    int r = value_to_string(e, self, &s);
    return r ? r : string_case(e, s, to, out);
}
FILTER(filter_upper) { return (void)a, filter_case(e, self, CASE_UPPER, out); }
FILTER(filter_lower) { return (void)a, filter_case(e, self, CASE_LOWER, out); }
FILTER(filter_title) { return (void)a, filter_case(e, self, CASE_TITLE_WORDS, out); }
FILTER(filter_capitalize) { return (void)a, filter_case(e, self, CASE_CAPITALIZE, out); }
FILTER(filter_trim) {
    const struct string *s = NULL, *characters = NULL;
    int r = value_to_string(e, self, &s);
    if (!r && a->p[0] && a->p[0]->kind != VALUE_NONE) r = value_to_string(e, a->p[0], &characters);
    return r ? r : string_strip(e, s, characters, true, true, out);
}
FILTER(filter_replace) {
    const struct string *s = NULL, *old = NULL, *with = NULL;
    int64_t most = a->p[2] && a->p[2]->kind == VALUE_INT ? a->p[2]->integer : -1;
    int r = value_to_string(e, self, &s);
    if (!r) r = value_to_string(e, a->p[0], &old);
    if (!r) r = value_to_string(e, a->p[1], &with);
    return r ? r : string_replace(e, s, old, with, most, out);
}
FILTER(filter_int) {
    int64_t i = 0;
    *out = a->p[0] ? *a->p[0] : value_int(0);
    if (value_is_number(self)) {
        if (self->kind != VALUE_FLOAT) *out = value_int(value_integer(self));
        else if (self->real >= -0x1p63 && self->real < 0x1p63) *out = value_int((int64_t)self->real);
        out->tainted = self->tainted;
    } else if (self->kind == VALUE_STRING) {
        double d;
        struct span s = span_trim(self->string->text);
        if (span_to_i64(s, &i) == 0) *out = value_int(i);
        else if (span_to_f64(s, &d) == 0 && d >= -0x1p63 && d < 0x1p63) *out = value_int((int64_t)d);
        out->tainted = true;
    }
    return no_undefined(e, self);
}
FILTER(filter_float) {
    double d;
    *out = a->p[0] ? *a->p[0] : value_float(0);
    if (value_is_number(self)) *out = value_float(value_real(self));
    else if (self->kind == VALUE_STRING && span_to_f64(span_trim(self->string->text), &d) == 0) *out = value_float(d);
    out->tainted = true;
    return no_undefined(e, self);
}
FILTER(filter_round) {
    int64_t places = a->p[0] && a->p[0]->kind == VALUE_INT ? a->p[0]->integer : 0;
    struct span method = a->p[1] && a->p[1]->kind == VALUE_STRING ? a->p[1]->string->text : SPAN("common");
    if (!value_is_number(self)) return eval_fail(e, "type %s doesn't define __round__ method", value_type_name(self));
    double x = value_real(self), d = x, scale = pow(10, (double)places);
    if (places < -300 || places > 300) return eval_fail(e, "round: a precision beyond 300");
    if (span_eq_str(method, "ceil")) d = ceil(x * scale) / scale;
    else if (span_eq_str(method, "floor")) d = floor(x * scale) / scale;
    else if (!span_eq_str(method, "common")) return eval_fail(e, "method must be common, ceil or floor");
    else if (places < 0) d = nearbyint(x * scale) / scale;
    else if (isfinite(x)) { /* as the decimal digits say it: half to even of the exact value */
        char text[720];
        int n = snprintf(text, sizeof text, "%.*f", (int)places, x);
        if (n < 0 || (size_t)n >= sizeof text || span_to_f64(span_of(text, (size_t)n), &d)) d = x;
    }
    *out = self->kind == VALUE_FLOAT || !span_eq_str(method, "common") ? value_float(d) : value_int(value_integer(self));
    out->tainted = self->tainted;
    return 0;
}
FILTER(filter_same) {
    (void)e, (void)a;
    *out = *self;
    return 0;
}
FILTER(filter_tojson) {
    struct json_style style = {.ascii = flag(a->p[0], false), .sort_keys = flag(a->p[3], false), .indent = -1};
    struct text_builder b;
    char separators[2][64];
    if (a->p[1] && a->p[1]->kind == VALUE_INT) {
        if (a->p[1]->integer > 64) return eval_fail(e, "tojson: an indent beyond 64");
        style.indent = a->p[1]->integer < 0 ? 0 : (int)a->p[1]->integer;
    }
    if (a->p[2] && value_is_list(a->p[2]) && a->p[2]->list->count == 2 && a->p[2]->list->items[0].kind == VALUE_STRING && a->p[2]->list->items[1].kind == VALUE_STRING) {
        style.item_separator = span_copy(separators[0], sizeof separators[0], a->p[2]->list->items[0].string->text);
        style.key_separator = span_copy(separators[1], sizeof separators[1], a->p[2]->list->items[1].string->text);
    }
    text_builder_init(&b);
    int r = value_to_json(e, &b, self, &style);
    if (!r) return text_builder_take(e, &b, out);
    text_builder_fini(&b);
    return r;
}
FILTER(filter_indent) {
    const struct string *s = NULL, *with;
    struct value lines, width = value_int(4), breaks = value_bool(false);
    struct args none = {.p = {&breaks}};
    struct text_builder b;
    if (a->p[0]) width = *a->p[0];
    bool first = flag(a->p[1], false), blank = flag(a->p[2], false);
    int r = value_to_string(e, self, &s);
    if (!r && width.kind != VALUE_STRING) {
        char spaces[256];
        int64_t n = value_is_number(&width) ? value_integer(&width) : -1;
        if (n < 0 || n > (int64_t)sizeof spaces) return eval_fail(e, "indent: a width from 0 to %zu", sizeof spaces);
        memset(spaces, ' ', sizeof spaces);
        r = string_new(e, span_of(spaces, (size_t)n), true, &width);
    }
    struct value text = value_undefined();
    if (!r) {
        text = (struct value){.kind = VALUE_STRING, .string = s};
        r = builtin_method(&text, SPAN("splitlines"))->run(e, &text, &none, &lines);
    }
    if (r) return r;
    with = width.string;
    text_builder_init(&b);
    if (first) builder_add_string(&b, with);
    for (size_t i = 0; i < lines.list->count; i++) {
        const struct string *line = lines.list->items[i].string;
        if (i) text_builder_add(&b, SPAN("\n"), true);
        if (i && (blank || line->text.len)) builder_add_string(&b, with);
        builder_add_string(&b, line);
    }
    if (span_ends(s->text, SPAN("\n"))) { /* jinja2 adds a line break before it splits: the last line may be empty */
        text_builder_add(&b, SPAN("\n"), true);
        if (blank) builder_add_string(&b, with);
    }
    return text_builder_take(e, &b, out);
}

/* ---- filters of sequences ---- */

static int items_of(struct eval *e, const struct value *self, struct list *out) { return value_items(e, self, out); }
/* Of map, select and their kin, to which whatever is false is empty. */
static int items_of_any(struct eval *e, const struct value *self, struct list *out) {
    *out = (struct list){NULL, 0};
    return value_true(self) ? value_items(e, self, out) : 0;
}

FILTER(filter_first) {
    struct list l;
    (void)a;
    int r = items_of(e, self, &l);
    if (!r) *out = l.count ? l.items[0] : value_undefined();
    return r;
}
FILTER(filter_last) {
    struct list l;
    (void)a;
    int r = items_of(e, self, &l);
    if (!r) *out = l.count ? l.items[l.count - 1] : value_undefined();
    return r;
}
static int list_of(struct eval *e, const struct value *items, size_t count, struct value *out) {
    struct value *copy;
    int r = list_new(e, VALUE_LIST, count, &copy, out);
    if (!r && count) memcpy(copy, items, count * sizeof *copy);
    return r;
}
FILTER(filter_list) {
    struct list l;
    (void)a;
    int r = items_of(e, self, &l);
    return r ? r : list_of(e, l.items, l.count, out);
}
FILTER(filter_join) {
    struct list l;
    struct value empty = {0}, *items = NULL, mapped = {0};
    const struct string *separator = NULL;
    int r = items_of(e, self, &l);
    if (!r) r = string_new(e, SPAN(""), true, &empty);
    if (!r) r = value_to_string(e, a->p[0] ? a->p[0] : &empty, &separator);
    if (!r && a->p[1] && a->p[1]->kind != VALUE_NONE) {
        r = list_new(e, VALUE_LIST, l.count, &items, &mapped);
        for (size_t i = 0; !r && i < l.count; i++) r = attribute_of(e, &l.items[i], a->p[1], &items[i]);
        if (!r) l = *mapped.list;
    }
    return r ? r : string_join(e, separator, &l, out);
}
FILTER(filter_reverse) {
    struct list l;
    struct value *items = NULL;
    (void)a;
    int r = items_of(e, self, &l);
    if (!r) r = list_new(e, VALUE_LIST, l.count, &items, out);
    for (size_t i = 0; !r && i < l.count; i++) items[i] = l.items[l.count - 1 - i];
    if (r || self->kind != VALUE_STRING) return r;
    struct value nothing;
    r = string_new(e, SPAN(""), true, &nothing);
    return r ? r : string_join(e, nothing.string, out->list, out);
}
FILTER(filter_items) {
    (void)a;
    if (self->kind == VALUE_UNDEFINED) return list_of(e, NULL, 0, out);
    if (self->kind != VALUE_DICT) return eval_fail(e, "Can only get item pairs from a mapping.");
    const struct args none = {.count = 0};
    return builtin_method(self, SPAN("items"))->run(e, self, &none, out);
}
FILTER(filter_sum) {
    struct list l;
    double total = a->p[1] && value_is_number(a->p[1]) ? value_real(a->p[1]) : 0;
    bool whole = !a->p[1] || a->p[1]->kind != VALUE_FLOAT;
    int r = items_of(e, self, &l);
    for (size_t i = 0; !r && i < l.count; i++) {
        struct value v = l.items[i];
        if (a->p[0] && a->p[0]->kind != VALUE_NONE) r = attribute_of(e, &l.items[i], a->p[0], &v);
        if (!r && !value_is_number(&v)) r = eval_fail(e, "sum: '%s' is no number", value_type_name(&v));
        if (r) break;
        total += value_real(&v);
        whole &= v.kind != VALUE_FLOAT;
    }
    if (!r) *out = whole && fabs(total) < 0x1p53 ? value_int((int64_t)total) : value_float(total);
    if (!r) out->tainted = true;
    return r;
}

/* A stable merge sort, bottom up, of items by keys. */
struct keyed {
    struct value key, item;
};
static int sort_keyed(struct eval *e, struct keyed *k, size_t n, bool ignore_case, bool reverse) {
    struct keyed *other = arena_calloc(&e->arena, n ? n : 1, sizeof *other), *from = k, *to = other;
    if (!other) return eval_no_memory(e);
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t low = 0; low < n; low += 2 * width) {
            size_t mid = low + width < n ? low + width : n, end = low + 2 * width < n ? low + 2 * width : n, i = low, j = mid;
            for (size_t at = low; at < end; at++) {
                int order = 0;
                if (i < mid && j < end) {
                    int r = value_order(e, &from[i].key, &from[j].key, ignore_case, &order);
                    if (r) return r;
                }
                bool left = i < mid && (j >= end || (reverse ? order >= 0 : order <= 0));
                to[at] = left ? from[i++] : from[j++];
            }
        }
        struct keyed *swap = from;
        from = to;
        to = swap;
    }
    if (from != k) memcpy(k, from, n * sizeof *k);
    return 0;
}
static int sorted(struct eval *e, const struct list *l, const struct value *attribute, bool ignore_case, bool reverse, struct value *out) {
    struct keyed *k = arena_calloc(&e->arena, l->count ? l->count : 1, sizeof *k);
    struct value *items = NULL;
    int r = k ? list_new(e, VALUE_LIST, l->count, &items, out) : eval_no_memory(e);
    for (size_t i = 0; !r && i < l->count; i++) {
        k[i] = (struct keyed){l->items[i], l->items[i]};
        if (attribute && attribute->kind != VALUE_NONE) r = attribute_of(e, &l->items[i], attribute, &k[i].key);
    }
    if (!r) r = sort_keyed(e, k, l->count, ignore_case, reverse);
    for (size_t i = 0; !r && i < l->count; i++) items[i] = k[i].item;
    return r;
}
FILTER(filter_sort) {
    struct list l;
    int r = items_of(e, self, &l);
    return r ? r : sorted(e, &l, a->p[2], !flag(a->p[1], false), flag(a->p[0], false), out);
}
FILTER(filter_dictsort) {
    struct value pairs, by = value_int(0);
    const struct args none = {.count = 0};
    if (self->kind != VALUE_DICT) return eval_fail(e, "dictsort takes a dictionary, not %s", value_type_name(self));
    if (a->p[1] && a->p[1]->kind == VALUE_STRING && span_eq_str(a->p[1]->string->text, "value")) by = value_int(1);
    else if (a->p[1] && !(a->p[1]->kind == VALUE_STRING && span_eq_str(a->p[1]->string->text, "key"))) return eval_fail(e, "You can only sort by either \"key\" or \"value\"");
    int r = builtin_method(self, SPAN("items"))->run(e, self, &none, &pairs);
    return r ? r : sorted(e, pairs.list, &by, !flag(a->p[0], false), flag(a->p[2], false), out);
}
static int extreme(struct eval *e, const struct value *self, const struct args *a, bool most, struct value *out) {
    struct list l;
    struct value all;
    int r = items_of(e, self, &l);
    if (!r) r = sorted(e, &l, a->p[1], !flag(a->p[0], false), most, &all);
    if (!r) *out = all.list->count ? all.list->items[0] : value_undefined();
    return r;
}
FILTER(filter_min) { return extreme(e, self, a, false, out); }
FILTER(filter_max) { return extreme(e, self, a, true, out); }
FILTER(filter_unique) {
    struct list l;
    bool ignore_case = !flag(a->p[0], false);
    int r = items_of(e, self, &l);
    struct value *keys = r ? NULL : arena_calloc(&e->arena, l.count ? l.count : 1, sizeof *keys), *kept = r ? NULL : arena_calloc(&e->arena, l.count ? l.count : 1, sizeof *kept);
    size_t n = 0;
    if (!r && (!keys || !kept)) r = eval_no_memory(e);
    for (size_t i = 0; !r && i < l.count; i++) {
        bool seen = false;
        struct value key = l.items[i];
        if (a->p[1] && a->p[1]->kind != VALUE_NONE) r = attribute_of(e, &l.items[i], a->p[1], &key);
        for (size_t k = 0; !r && !seen && k < n; k++) {
            int order = 1;
            if (key.kind == VALUE_STRING && keys[k].kind == VALUE_STRING && ignore_case) {
                r = value_order(e, &key, &keys[k], true, &order);
                seen = order == 0;
            } else r = value_equal(e, &key, &keys[k], &seen);
        }
        if (r || seen) continue;
        keys[n] = key;
        kept[n++] = l.items[i];
    }
    return r ? r : list_of(e, kept, n, out);
}

static int call_named(struct eval *e, const struct value *name, bool filter, const struct value *item, const struct value *given, size_t count, struct value *out) {
    if (name->kind != VALUE_STRING) return eval_fail(e, "a %s is named by a string", filter ? "filter" : "test");
    struct span s = name->string->text;
    const struct builtin *b = filter ? builtin_filter(s) : builtin_test(s);
    if (!b) return eval_fail(e, "there is no %s named '%.*s'", filter ? "filter" : "test", (int)(s.len < 64 ? s.len : 64), s.data);
    if (e->depth >= TEMPLATE_EVAL_DEPTH_MAX) return eval_fail(e, "nested deeper than %d", TEMPLATE_EVAL_DEPTH_MAX); /* map(map(…)) comes back here */
    struct args args = {.given = given, .count = count};
    e->depth++;
    int r = builtin_call(e, b, item, &args, out);
    e->depth--;
    return r;
}
FILTER(filter_map) {
    struct list l;
    struct value *items = NULL;
    const struct value *attribute = NULL, *otherwise = NULL;
    for (size_t i = 0; i < a->keyword_count; i++) {
        if (span_eq_str(a->keywords[i].name, "attribute")) attribute = &a->keywords[i].value;
        else if (span_eq_str(a->keywords[i].name, "default")) otherwise = &a->keywords[i].value;
        else return eval_fail(e, "map takes attribute and default by name");
    }
    if (!attribute && !a->count) return eval_fail(e, "map requires a filter argument");
    int r = items_of_any(e, self, &l);
    if (!r) r = list_new(e, VALUE_LIST, l.count, &items, out);
    for (size_t i = 0; !r && i < l.count; i++) {
        r = attribute ? attribute_of(e, &l.items[i], attribute, &items[i]) : call_named(e, &a->given[0], true, &l.items[i], a->given + 1, a->count - 1, &items[i]);
        if (!r && otherwise && items[i].kind == VALUE_UNDEFINED) items[i] = *otherwise;
    }
    return r;
}
static int choose(struct eval *e, const struct value *self, const struct args *a, bool by_attribute, bool keep, struct value *out) {
    struct list l;
    size_t first = by_attribute, n = 0;
    if (by_attribute && !a->count) return eval_fail(e, "Missing parameter for attribute name");
    int r = items_of_any(e, self, &l);
    struct value *kept = r ? NULL : arena_calloc(&e->arena, l.count ? l.count : 1, sizeof *kept);
    if (!r && !kept) r = eval_no_memory(e);
    for (size_t i = 0; !r && i < l.count; i++) {
        struct value v = l.items[i], is;
        if (by_attribute) r = attribute_of(e, &l.items[i], &a->given[0], &v);
        if (!r && a->count > first) r = call_named(e, &a->given[first], false, &v, a->given + first + 1, a->count - first - 1, &is);
        else is = value_bool(value_true(&v));
        if (!r && value_true(&is) == keep) kept[n++] = l.items[i];
    }
    return r ? r : list_of(e, kept, n, out);
}
FILTER(filter_select) { return choose(e, self, a, false, true, out); }
FILTER(filter_reject) { return choose(e, self, a, false, false, out); }
FILTER(filter_selectattr) { return choose(e, self, a, true, true, out); }
FILTER(filter_rejectattr) { return choose(e, self, a, true, false, out); }
FILTER(filter_attr) {
    if (a->p[0]->kind != VALUE_STRING) return eval_fail(e, "an attribute is named by a string");
    struct value v;
    if (self->kind != VALUE_DICT) return eval_attribute(e, self, a->p[0]->string->text, out);
    const struct builtin *b = builtin_method(self, a->p[0]->string->text); /* of a dictionary the methods only, no keys */
    *out = value_undefined();
    v = *self;
    return b ? eval_attribute(e, &v, a->p[0]->string->text, out) : 0;
}
FILTER(filter_batch) {
    struct list l;
    struct value *rows = NULL, *row = NULL;
    int r = items_of(e, self, &l);
    if (!r && (a->p[0]->kind != VALUE_INT || a->p[0]->integer < 1)) r = eval_fail(e, "batch takes a positive number");
    if (r) return r;
    size_t n = a->p[0]->integer > (int64_t)l.count ? l.count + 1 : (size_t)a->p[0]->integer, count = (l.count + n - 1) / n;
    r = list_new(e, VALUE_LIST, count, &rows, out);
    for (size_t i = 0; !r && i < count; i++) {
        size_t have = l.count - i * n < n ? l.count - i * n : n, size = a->p[1] ? n : have;
        r = list_new(e, VALUE_LIST, size, &row, &rows[i]);
        for (size_t k = 0; !r && k < size; k++) row[k] = k < have ? l.items[i * n + k] : *a->p[1];
    }
    return r;
}

static const struct builtin filters[] = {
    {"abs", filter_abs, ""}, {"attr", filter_attr, "name"}, {"batch", filter_batch, "linecount fill_with?"}, {"capitalize", filter_capitalize, ""}, {"count", filter_length, ""},
    {"d", filter_default, "default_value? boolean?"}, {"default", filter_default, "default_value? boolean?"}, {"dictsort", filter_dictsort, "case_sensitive? by? reverse?"},
    {"e", filter_escape, ""}, {"escape", filter_escape, ""}, {"first", filter_first, ""}, {"float", filter_float, "default?"},
    {"indent", filter_indent, "width? first? blank?"}, {"int", filter_int, "default? base?"}, {"items", filter_items, ""}, {"join", filter_join, "d? attribute?"}, {"last", filter_last, ""},
    {"length", filter_length, ""}, {"list", filter_list, ""}, {"lower", filter_lower, ""}, {"map", filter_map, "*"}, {"max", filter_max, "case_sensitive? attribute?"},
    {"min", filter_min, "case_sensitive? attribute?"}, {"reject", filter_reject, "*"}, {"rejectattr", filter_rejectattr, "*"}, {"replace", filter_replace, "old new count?"},
    {"reverse", filter_reverse, ""}, {"round", filter_round, "precision? method?"}, {"safe", filter_same, ""}, {"select", filter_select, "*"}, {"selectattr", filter_selectattr, "*"},
    {"sort", filter_sort, "reverse? case_sensitive? attribute?"}, {"string", filter_string, ""}, {"sum", filter_sum, "attribute? start?"}, {"title", filter_title, ""},
    {"tojson", filter_tojson, "ensure_ascii? indent? separators? sort_keys?"}, {"trim", filter_trim, "chars?"}, {"unique", filter_unique, "case_sensitive? attribute?"},
    {"upper", filter_upper, ""},
};

/* ---- tests ---- */

#define TEST(name, condition) \
    static int name(struct eval *e, const struct value *self, const struct args *a, struct value *out) { \
        (void)e, (void)a; \
        *out = value_bool(condition); \
        return 0; \
    }
TEST(test_boolean, self->kind == VALUE_BOOL)
TEST(test_callable, self->kind == VALUE_UNDEFINED || self->kind == VALUE_FUNCTION || self->kind == VALUE_METHOD || self->kind == VALUE_MACRO)
TEST(test_defined, self->kind != VALUE_UNDEFINED)
TEST(test_undefined, self->kind == VALUE_UNDEFINED)
TEST(test_false, self->kind == VALUE_BOOL && !self->boolean)
TEST(test_true, self->kind == VALUE_BOOL && self->boolean)
TEST(test_float, self->kind == VALUE_FLOAT)
TEST(test_integer, self->kind == VALUE_INT)
TEST(test_iterable, self->kind == VALUE_UNDEFINED || self->kind == VALUE_STRING || value_is_list(self) || self->kind == VALUE_DICT || self->kind == VALUE_LOOP)
TEST(test_mapping, self->kind == VALUE_DICT)
TEST(test_none, self->kind == VALUE_NONE)
TEST(test_number, value_is_number(self))
TEST(test_sequence, self->kind == VALUE_UNDEFINED || self->kind == VALUE_STRING || value_is_list(self) || self->kind == VALUE_DICT)
TEST(test_string, self->kind == VALUE_STRING)
TEST(test_filter, self->kind == VALUE_STRING && builtin_filter(self->string->text))
TEST(test_test, self->kind == VALUE_STRING && builtin_test(self->string->text))

static int test_same(struct eval *e, const struct value *self, const struct args *a, struct value *out) { /* Python's is: of small values that is equality of kind and value */
    bool same = false;
    int r = self->kind == a->p[0]->kind && (value_is_number(self) || self->kind == VALUE_NONE || self->kind == VALUE_STRING) ? value_equal(e, self, a->p[0], &same) : 0;
    if (!r && self->kind == a->p[0]->kind && self->kind >= VALUE_LIST) same = self->dict == a->p[0]->dict;
    *out = value_bool(same);
    return r;
}
static int whole(struct eval *e, const struct value *v, int64_t *out) {
    if (v->kind != VALUE_INT && v->kind != VALUE_BOOL) return eval_fail(e, "expected an integer, got %s", value_type_name(v));
    *out = value_integer(v);
    return 0;
}
static int test_divisible(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    int64_t i = 0, by = 1;
    int r = whole(e, self, &i);
    if (!r) r = whole(e, a->p[0], &by);
    if (!r && by == 0) r = eval_fail(e, "integer division or modulo by zero");
    if (!r) *out = value_bool(by == -1 || i % by == 0);
    return r;
}
static int test_even(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    int64_t i = 0;
    (void)a;
    int r = whole(e, self, &i);
    *out = value_bool(i % 2 == 0);
    return r;
}
static int test_odd(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    int64_t i = 0;
    (void)a;
    int r = whole(e, self, &i);
    *out = value_bool(i % 2 != 0);
    return r;
}
static int test_equal(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    bool equal = false;
    int r = value_equal(e, self, a->p[0], &equal);
    *out = value_bool(equal);
    return r;
}
static int test_not_equal(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    int r = test_equal(e, self, a, out);
    out->boolean = !out->boolean;
    return r;
}
static int test_in(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    bool found = false;
    int r = value_contains(e, a->p[0], self, &found);
    *out = value_bool(found);
    return r;
}
static int ordered(struct eval *e, const struct value *self, const struct args *a, int *order) {
    int r = no_undefined(e, self);
    if (!r) r = no_undefined(e, a->p[0]);
    return r ? r : value_order(e, self, a->p[0], false, order);
}
#define ORDER_TEST(name, condition) \
    static int name(struct eval *e, const struct value *self, const struct args *a, struct value *out) { \
        int order = 0; \
        int r = ordered(e, self, a, &order); \
        *out = value_bool(condition); \
        return r; \
    }
ORDER_TEST(test_less, order < 0)
ORDER_TEST(test_less_equal, order <= 0)
ORDER_TEST(test_greater, order > 0)
ORDER_TEST(test_greater_equal, order >= 0)
static int case_test(struct eval *e, const struct value *self, const char *method, struct value *out) {
    const struct string *s = NULL;
    const struct args none = {.count = 0};
    int r = value_to_string(e, self, &s);
    if (r) return r;
    struct value text = {.kind = VALUE_STRING, .string = s};
    return builtin_method(&text, span_str(method))->run(e, &text, &none, out);
}
static int test_lower(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return (void)a, case_test(e, self, "islower", out); }
static int test_upper(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return (void)a, case_test(e, self, "isupper", out); }

static const struct builtin tests[] = {
    {"boolean", test_boolean, ""}, {"callable", test_callable, ""}, {"defined", test_defined, ""}, {"undefined", test_undefined, ""}, {"divisibleby", test_divisible, "num"},
    {"eq", test_equal, "other"}, {"equalto", test_equal, "other"}, {"ne", test_not_equal, "other"}, {"even", test_even, ""}, {"odd", test_odd, ""}, {"false", test_false, ""},
    {"true", test_true, ""}, {"float", test_float, ""}, {"integer", test_integer, ""}, {"iterable", test_iterable, ""}, {"mapping", test_mapping, ""}, {"none", test_none, ""},
    {"number", test_number, ""}, {"sequence", test_sequence, ""}, {"string", test_string, ""}, {"filter", test_filter, ""}, {"test", test_test, ""}, {"sameas", test_same, "other"},
    {"in", test_in, "seq"}, {"lt", test_less, "other"}, {"lessthan", test_less, "other"}, {"le", test_less_equal, "other"}, {"gt", test_greater, "other"},
    {"greaterthan", test_greater, "other"}, {"ge", test_greater_equal, "other"}, {"lower", test_lower, ""}, {"upper", test_upper, ""},
};

/* ---- functions ---- */

static int function_range(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    int64_t part[3] = {0, 0, 1}, span;
    struct value *items = NULL;
    (void)self;
    for (size_t i = 0; i < a->count && i < 3; i++) {
        int r = whole(e, &a->given[i], &part[a->count == 1 ? 1 : i]);
        if (r) return r;
    }
    if (!a->count || a->count > 3 || a->keyword_count) return eval_fail(e, "range takes one to three integers");
    if (part[2] == 0) return eval_fail(e, "range() arg 3 must not be zero");
    if (part[2] == INT64_MIN || __builtin_sub_overflow(part[1], part[0], &span)) return eval_fail(e, "range() is too long");
    uint64_t count = part[2] > 0 ? span > 0 ? (uint64_t)(span - 1) / (uint64_t)part[2] + 1 : 0 : span < 0 ? ((uint64_t)0 - (uint64_t)span - 1) / (uint64_t)-part[2] + 1 : 0;
    if (count > 100000) return eval_fail(e, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000)."); /* jinja2's sandbox says so */
    int r = list_new(e, VALUE_LIST, (size_t)count, &items, out);
    for (size_t i = 0; !r && i < count; i++) items[i] = value_int(part[0] + (int64_t)i * part[2]);
    return r;
}
static int dict_from(struct eval *e, const struct args *a, uint8_t kind, struct value *out) {
    int r = a->count > 1 ? eval_fail(e, "expected at most one argument") : dict_new(e, a->keyword_count, kind, out);
    if (!r && a->count) {
        if (a->given[0].kind != VALUE_DICT) return eval_fail(e, "expected a dictionary, not %s", value_type_name(&a->given[0]));
        const struct dict *from = a->given[0].dict;
        for (size_t i = 0; !r && i < from->count; i++) r = dict_set(e, out->dict, &from->entries[i].key, &from->entries[i].value);
    }
    for (size_t i = 0; !r && i < a->keyword_count; i++) {
        struct value key;
        r = string_new(e, a->keywords[i].name, true, &key);
        if (!r) r = dict_set(e, out->dict, &key, &a->keywords[i].value);
    }
    return r;
}
static int function_dict(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return (void)self, dict_from(e, a, VALUE_DICT, out); }
static int function_namespace(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return (void)self, dict_from(e, a, VALUE_NAMESPACE, out); }
static int function_raise(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    const struct string *s = NULL;
    (void)self, (void)out;
    int r = value_to_string(e, a->p[0], &s);
    if (r) return r;
    size_t len = s->text.len < ERROR_MESSAGE_MAX ? s->text.len : ERROR_MESSAGE_MAX;
    return error_set(e->err, E_INVALID, "%.*s", (int)len, len ? s->text.data : "");
}
static int function_strftime(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    char format[128], text[512];
    struct tm tm;
    time_t seconds = (time_t)(e->now_ms / 1000);
    (void)self;
    if (a->p[0]->kind != VALUE_STRING || a->p[0]->string->text.len >= sizeof format - 1) return eval_fail(e, "strftime_now takes a format of less than %zu bytes", sizeof format - 1);
    span_copy(format, sizeof format, a->p[0]->string->text);
    if (!gmtime_r(&seconds, &tm)) return eval_fail(e, "the clock is out of range");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(text, sizeof text, format, &tm); /* bounded by its size; it reads nothing but tm */
#pragma GCC diagnostic pop
    return string_new(e, span_of(text, n), a->p[0]->string->trusted && !a->p[0]->string->run_count, out);
}

static const struct builtin functions[] = {
    {"range", function_range, "*"}, {"dict", function_dict, "*"}, {"namespace", function_namespace, "*"}, {"raise_exception", function_raise, "message"},
    {"strftime_now", function_strftime, "format"},
};

static const struct builtin *find(const struct builtin *table, size_t n, struct span name) {
    for (size_t i = 0; i < n; i++)
        if (span_eq_str(name, table[i].name)) return &table[i];
    return NULL;
}
const struct builtin *builtin_filter(struct span name) { return find(filters, sizeof filters / sizeof filters[0], name); }
const struct builtin *builtin_test(struct span name) { return find(tests, sizeof tests / sizeof tests[0], name); }
const struct builtin *builtin_function(struct span name) { return find(functions, sizeof functions / sizeof functions[0], name); }
