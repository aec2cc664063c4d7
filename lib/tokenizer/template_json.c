/* JSON to values, all of them tainted, and values to JSON as transformers' tojson does it: json.dumps, not jinja2's HTML-safe form. */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "tokenizer/template_internal.h"

/* The roles that a chat has are the protocol's words, not the people's: a template may make special tokens of them (Phi's <|user|>). */
static bool known_role(struct span s) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function", "ipython", "model", "observation"};
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (span_eq_str(s, roles[i])) return true;
    return false;
}

/* Recursion is as deep as JSON_DEPTH_MAX lets the text nest. */
int value_from_json(struct eval *e, const struct json *v, struct value *out) {
    struct value *items = NULL;
    int r = eval_steps(e, 1);
    if (r) return r;
    switch (json_type(v)) {
    case JSON_TYPE_NULL: *out = value_none(); break;
    case JSON_TYPE_BOOL: *out = value_bool(json_bool(v, false)); break;
    case JSON_TYPE_INT: *out = value_int(json_int(v, 0)); break;
    case JSON_TYPE_REAL: *out = value_float(json_real(v, 0)); break;
    case JSON_TYPE_STRING: {
        struct string *s = arena_alloc(&e->arena, sizeof *s); /* borrows from the tree */
        if (!s) return eval_no_memory(e);
        s->text = json_string(v);
        *out = (struct value){.kind = VALUE_STRING, .string = s};
        return 0;
    }
    case JSON_TYPE_ARRAY:
        r = list_new(e, VALUE_LIST, json_size(v), &items, out);
        for (size_t i = 0; !r && i < json_size(v); i++) r = value_from_json(e, json_at(v, i), &items[i]);
        return r;
    case JSON_TYPE_OBJECT: {
        void *iterator = NULL;
        struct span key;
        const struct json *member;
        r = dict_new(e, json_size(v), VALUE_DICT, out);
        struct dict *d = r ? NULL : out->dict;
        while (!r && json_next(v, &iterator, &key, &member)) {
            struct string *s = arena_alloc(&e->arena, sizeof *s);
            if (!s) return eval_no_memory(e);
            s->text = key;
            struct entry *entry = &d->entries[d->count++]; /* JSON has no key twice */
            entry->key = (struct value){.kind = VALUE_STRING, .string = s};
            r = value_from_json(e, member, &entry->value);
            if (!r && json_type(member) == JSON_TYPE_STRING && span_eq(key, SPAN("role")) && known_role(json_string(member)))
                r = string_new(e, json_string(member), true, &entry->value);
        }
        return r;
    }
    }
    out->tainted = true;
    return 0;
}

static void put_string(struct text_builder *b, const struct string *s, bool ascii) {
    text_builder_add(b, SPAN("\""), false);
    size_t from = 0;
    for (size_t i = 0, len; i < s->text.len; i += len) {
        uint8_t c = (uint8_t)s->text.data[i];
        char text[16];
        len = 1;
        if (c >= 0x80) {
            uint32_t wide = 0;
            len = span_utf8_decode(span_skip(s->text, i), &wide);
            if (!len) break;
            if (!ascii) continue;
            if (wide < 0x10000) snprintf(text, sizeof text, "\\u%04x", wide);
            else snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + ((wide - 0x10000) >> 10), 0xDC00 + ((wide - 0x10000) & 0x3FF));
        } else if (c == '"' || c == '\\') snprintf(text, sizeof text, "\\%c", c);
        else if (c >= 0x20 && (c != 0x7F || !ascii)) continue;
        else if (c == '\n' || c == '\r' || c == '\t' || c == '\b' || c == '\f')
            snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : c == '\b' ? 'b' : 'f');
        else snprintf(text, sizeof text, "\\u%04x", c);
        builder_add_part(b, s, from, i - from);
        text_builder_add(b, span_str(text), false);
        from = i + len;
    }
    builder_add_part(b, s, from, s->text.len - from);
    text_builder_add(b, SPAN("\""), false);
}

static void new_line(struct text_builder *b, const struct json_style *style, unsigned level) {
    if (style->indent < 0) return;
    text_builder_add(b, SPAN("\n"), false);
    for (unsigned i = 0; i < level; i++)
        for (int k = 0; k < style->indent; k++) text_builder_add(b, SPAN(" "), false);
}

/* Keys that are no strings become some, as json.dumps makes them. */
static int put_key(struct eval *e, struct text_builder *b, const struct value *key, const struct json_style *style) {
    if (key->kind == VALUE_STRING) {
        put_string(b, key->string, style->ascii);
        return 0;
    }
    if (!value_is_number(key) && key->kind != VALUE_NONE) return eval_fail(e, "keys must be str, int, float, bool or None, not %s", value_type_name(key));
    text_builder_add(b, SPAN("\""), false);
    int r = value_to_json(e, b, key, style);
    text_builder_add(b, SPAN("\""), false);
    return r;
}

static int put_nested(struct eval *e, struct text_builder *b, const struct value *v, const struct json_style *style, unsigned level);

static int put_dict(struct eval *e, struct text_builder *b, const struct dict *d, const struct json_style *style, unsigned level) {
    const struct entry *entries = d->entries;
    int r = 0;
    if (style->sort_keys && d->count > 1) { /* few keys: by insertion */
        struct entry *sorted = arena_calloc(&e->arena, d->count, sizeof *sorted);
        if (!sorted) return eval_no_memory(e);
        for (size_t i = 0; !r && i < d->count; i++) {
            size_t at = i;
            for (int order = 1; !r && at > 0; at--) {
                r = value_order(e, &sorted[at - 1].key, &d->entries[i].key, false, &order);
                if (r || order <= 0) break;
                sorted[at] = sorted[at - 1];
            }
            sorted[at] = d->entries[i];
        }
        entries = sorted;
    }
    text_builder_add(b, SPAN("{"), false);
    for (size_t i = 0; !r && i < d->count; i++) {
        if (i) text_builder_add(b, span_str(style->item_separator), false);
        new_line(b, style, level + 1);
        r = put_key(e, b, &entries[i].key, style);
        text_builder_add(b, span_str(style->key_separator), false);
        if (!r) r = put_nested(e, b, &entries[i].value, style, level + 1);
    }
    if (d->count) new_line(b, style, level);
    text_builder_add(b, SPAN("}"), false);
    return r;
}

static int put_nested(struct eval *e, struct text_builder *b, const struct value *v, const struct json_style *style, unsigned level) {
    char text[40];
    int r = eval_steps(e, 1);
    if (r) return r;
    if (b->failed) return b->failed == E_FULL ? error_set(e->err, E_TOO_LARGE, "the chat template made a text of more than %d bytes", TEMPLATE_OUTPUT_MAX) : eval_no_memory(e);
    if (e->depth >= TEMPLATE_EVAL_DEPTH_MAX) return error_set(e->err, E_TOO_LARGE, "template line %u: nested deeper than %d", e->line, TEMPLATE_EVAL_DEPTH_MAX);
    e->depth++;
    switch (v->kind) {
    case VALUE_NONE: text_builder_add(b, SPAN("null"), !v->tainted); break;
    case VALUE_BOOL: text_builder_add(b, v->boolean ? SPAN("true") : SPAN("false"), !v->tainted); break;
    case VALUE_INT:
        snprintf(text, sizeof text, "%lld", (long long)v->integer);
        text_builder_add(b, span_str(text), !v->tainted);
        break;
    case VALUE_FLOAT:
        if (isnan(v->real) || isinf(v->real)) snprintf(text, sizeof text, "%s", isnan(v->real) ? "NaN" : v->real < 0 ? "-Infinity" : "Infinity");
        else real_format(v->real, text);
        text_builder_add(b, span_str(text), !v->tainted);
        break;
    case VALUE_STRING:
        r = eval_steps(e, v->string->text.len / 16);
        if (!r) put_string(b, v->string, style->ascii);
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        text_builder_add(b, SPAN("["), false);
        for (size_t i = 0; !r && i < v->list->count; i++) {
            if (i) text_builder_add(b, span_str(style->item_separator), false);
            new_line(b, style, level + 1);
            r = put_nested(e, b, &v->list->items[i], style, level + 1);
        }
        if (v->list->count) new_line(b, style, level);
        text_builder_add(b, SPAN("]"), false);
        break;
    case VALUE_DICT: r = put_dict(e, b, v->dict, style, level); break;
    default: r = eval_fail(e, "Object of type %s is not JSON serializable", value_type_name(v));
    }
    e->depth--;
    return r;
}

int value_to_json(struct eval *e, struct text_builder *b, const struct value *v, const struct json_style *style) {
    struct json_style s = *style;
    if (!s.item_separator) s.item_separator = s.indent < 0 ? ", " : ",";
    if (!s.key_separator) s.key_separator = ": ";
    return put_nested(e, b, v, &s, 0);
}
