/* Methods of strings, dictionaries and lists as Python has them (what a sandbox lets through: nothing that changes its object), and the work on strings that filters share. */
#include <utf8proc.h>

#include "base/alloc.h"
#include "tokenizer/internal.h"
#include "tokenizer/template_internal.h"

/* ---- work on strings ---- */

int string_replace(struct eval *e, const struct string *s, const struct string *old, const struct string *with, int64_t most, struct value *out) {
    struct text_builder b;
    size_t at = 0, shown = 0;
    int r = eval_steps(e, s->text.len / 16);
    if (r) return r;
    text_builder_init(&b);
    for (int64_t n = 0; !r && !b.failed && (most < 0 || n < most); n++) {
        ptrdiff_t next = at <= s->text.len ? span_find(span_skip(s->text, at), old->text) : -1;
        if (next < 0) break;
        r = eval_steps(e, 1 + with->text.len / 64);
        at += (size_t)next;
        builder_add_part(&b, s, shown, at - shown);
        builder_add_string(&b, with);
        shown = at;
        if (old->text.len) shown = at += old->text.len;
        else if (at == s->text.len) break; /* an empty one stands before each character and at the end */
        else at += utf8_offset(span_skip(s->text, at), 1);
    }
    builder_add_part(&b, s, shown, s->text.len - shown);
    if (!r) return text_builder_take(e, &b, out);
    text_builder_fini(&b);
    return r;
}

static bool in_set(struct span set, struct span character) {
    for (size_t i = 0, n; i < set.len; i += n) {
        n = utf8_offset(span_skip(set, i), 1);
        if (span_eq(span_sub(set, i, n), character)) return true;
    }
    return false;
}

int string_strip(struct eval *e, const struct string *s, const struct string *characters, bool left, bool right, struct value *out) {
    struct span t = s->text;
    size_t from = 0, end = t.len, len;
    while (left && from < end) {
        len = utf8_offset(span_sub(t, from, end - from), 1);
        if (characters ? !in_set(characters->text, span_sub(t, from, len)) : !space_at(t, from, &len)) break;
        from += len;
    }
    while (right && end > from) {
        size_t last = end - 1;
        while (last > from && ((uint8_t)t.data[last] & 0xC0) == 0x80) last--;
        if (characters ? !in_set(characters->text, span_sub(t, last, end - last)) : !space_at(t, last, &len)) break;
        end = last;
    }
    int r = eval_steps(e, (from + t.len - end) / 16 + 1);
    return r ? r : string_part(e, s, from, end - from, out);
}

int string_join(struct eval *e, const struct string *separator, const struct list *items, struct value *out) {
    struct text_builder b;
    int r = 0;
    text_builder_init(&b);
    for (size_t i = 0; !r && i < items->count; i++) {
        if (i) builder_add_string(&b, separator);
        r = builder_add_value(e, &b, &items->items[i]);
    }
    if (!r) return text_builder_take(e, &b, out);
    text_builder_fini(&b);
    return r;
}

/* Character by character: the few that become several (ß) stay as they are but for that one. */
int string_case(struct eval *e, const struct string *s, enum string_case to, struct value *out) {
    struct text_builder b;
    int r = eval_steps(e, s->text.len / 8);
    if (r) return r;
    text_builder_init(&b);
    bool begin = true;
    for (size_t i = 0, len; i < s->text.len && !b.failed; i += len) {
        uint32_t c = 0;
        char text[4];
        len = span_utf8_decode(span_skip(s->text, i), &c);
        if (!len) break;
        struct string one;
        struct value part;
        bool upper = to == CASE_UPPER || (to == CASE_CAPITALIZE && i == 0) || ((to == CASE_TITLE || to == CASE_TITLE_WORDS) && begin) ||
                     (to == CASE_SWAP && (uint32_t)utf8proc_toupper((utf8proc_int32_t)c) != c);
        uint32_t changed = (uint32_t)(upper ? to == CASE_CAPITALIZE || to == CASE_TITLE ? utf8proc_totitle((utf8proc_int32_t)c) : utf8proc_toupper((utf8proc_int32_t)c)
                                            : utf8proc_tolower((utf8proc_int32_t)c));
        size_t ignored;
        if (to == CASE_TITLE_WORDS) begin = c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || space_at(s->text, i, &ignored);
        else begin = !(char_class_at(s->text.data + i, s->text.len - i, &ignored) & CHAR_L);
        if (changed == c && c != 0xDF) {
            builder_add_part(&b, s, i, len);
            continue;
        }
        /* the trust of the character that it was */
        r = string_part(e, s, i, len, &part);
        if (r) break;
        one = *part.string;
        one.text = c == 0xDF && upper ? to == CASE_UPPER ? SPAN("SS") : SPAN("Ss") : span_of(text, utf8_encode(changed, text));
        text_builder_add(&b, one.text, one.trusted);
    }
    if (!r) return text_builder_take(e, &b, out);
    text_builder_fini(&b);
    return r;
}

/* ---- arguments ---- */

static int want_string(struct eval *e, const struct value *v, const struct string **out) {
    if (v->kind != VALUE_STRING) return eval_fail(e, "expected a string, got %s", value_type_name(v));
    *out = v->string;
    return 0;
}
static int want_count(struct eval *e, const struct value *v, int64_t *out) {
    if (!v) return 0;
    if (v->kind != VALUE_INT && v->kind != VALUE_BOOL) return eval_fail(e, "expected an integer, got %s", value_type_name(v));
    *out = value_integer(v);
    return 0;
}

/* ---- of strings ---- */

static int strip(struct eval *e, const struct value *self, const struct args *a, bool left, bool right, struct value *out) {
    const struct string *characters = NULL;
    int r = a->p[0] && a->p[0]->kind != VALUE_NONE ? want_string(e, a->p[0], &characters) : 0;
    return r ? r : string_strip(e, self->string, characters, left, right, out);
}
static int str_strip(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return strip(e, self, a, true, true, out); }
static int str_lstrip(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return strip(e, self, a, true, false, out); }
static int str_rstrip(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return strip(e, self, a, false, true, out); }

/* The parts of a split, as ranges; heap. */
struct ranges {
    struct template_range *items;
    size_t count, capacity;
};
static int add_range(struct eval *e, struct ranges *l, size_t start, size_t end) {
    int r = eval_steps(e, 1);
    if (r) return r;
    if (array_reserve(&l->items, &l->capacity, l->count + 1, sizeof *l->items)) return eval_no_memory(e);
    l->items[l->count++] = (struct template_range){start, end};
    return 0;
}
static int ranges_take(struct eval *e, const struct string *s, struct ranges *l, bool reversed, struct value *out) {
    struct value *items = NULL;
    int r = list_new(e, VALUE_LIST, l->count, &items, out);
    for (size_t i = 0; !r && i < l->count; i++) {
        const struct template_range *p = &l->items[reversed ? l->count - 1 - i : i];
        r = string_part(e, s, p->start, p->end - p->start, &items[i]);
    }
    return r;
}

static ptrdiff_t find_last(struct span s, struct span needle) {
    for (size_t at = s.len < needle.len ? 0 : s.len - needle.len + 1; at-- > 0;)
        if (span_starts(span_skip(s, at), needle)) return (ptrdiff_t)at;
    return -1;
}

static int split_at(struct eval *e, const struct string *s, struct span separator, int64_t most, bool from_right, struct ranges *l) {
    size_t start = 0, end = s->text.len;
    int r = 0;
    for (int64_t n = 0; !r && (most < 0 || n < most); n++) {
        struct span rest = span_sub(s->text, start, end - start);
        ptrdiff_t at = from_right ? find_last(rest, separator) : span_find(rest, separator);
        if (at < 0) break;
        size_t here = start + (size_t)at;
        if (from_right) {
            r = add_range(e, l, here + separator.len, end);
            end = here;
        } else {
            r = add_range(e, l, start, here);
            start = here + separator.len;
        }
    }
    return r ? r : add_range(e, l, start, end);
}

/* At runs of white space; none at the ends, but for what is left when `most` splits are done. */
static int split_spaces(struct eval *e, const struct string *s, int64_t most, bool from_right, struct ranges *l) {
    struct span t = s->text;
    struct ranges words = {0};
    size_t at = 0, len;
    int r = 0;
    while (!r) {
        while (space_at(t, at, &len)) at += len;
        if (at >= t.len) break;
        size_t start = at;
        while (at < t.len && !space_at(t, at, &len)) at += utf8_offset(span_skip(t, at), 1);
        r = add_range(e, &words, start, at);
    }
    for (size_t i = 0; !r && i < words.count; i++) {
        const struct template_range *w = &words.items[from_right ? words.count - 1 - i : i];
        bool rest = most >= 0 && i >= (size_t)most;
        r = add_range(e, l, rest && from_right ? 0 : w->start, rest && !from_right ? t.len : w->end);
        if (rest) break;
    }
    mem_free(words.items);
    return r;
}

static int split(struct eval *e, const struct value *self, const struct args *a, bool from_right, struct value *out) {
    struct ranges list = {0};
    const struct string *separator = NULL;
    int64_t most = -1;
    int r = want_count(e, a->p[1], &most);
    if (!r && a->p[0] && a->p[0]->kind != VALUE_NONE) r = want_string(e, a->p[0], &separator);
    if (!r && separator && !separator->text.len) r = eval_fail(e, "empty separator");
    if (!r) r = eval_steps(e, self->string->text.len / 16);
    if (!r) r = separator ? split_at(e, self->string, separator->text, most, from_right, &list) : split_spaces(e, self->string, most, from_right, &list);
    if (!r) r = ranges_take(e, self->string, &list, from_right, out);
    mem_free(list.items);
    return r;
}
static int str_split(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return split(e, self, a, false, out); }
static int str_rsplit(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return split(e, self, a, true, out); }

static size_t line_break(struct span s, size_t at) {
    uint32_t c = 0;
    size_t len = span_utf8_decode(span_skip(s, at), &c);
    if (c == '\r' && at + 1 < s.len && s.data[at + 1] == '\n') return 2;
    return c == '\n' || c == '\r' || c == 0x0B || c == 0x0C || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029 ? len : 0;
}
static int str_splitlines(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    struct ranges list = {0};
    struct span t = self->string->text;
    size_t start = 0;
    bool keep = a->p[0] && value_true(a->p[0]);
    int r = eval_steps(e, t.len / 16);
    for (size_t at = 0; !r && at < t.len;) {
        size_t len = line_break(t, at);
        if (!len) {
            at++;
            continue;
        }
        r = add_range(e, &list, start, keep ? at + len : at);
        start = at += len;
    }
    if (!r && start < t.len) r = add_range(e, &list, start, t.len);
    if (!r) r = ranges_take(e, self->string, &list, false, out);
    mem_free(list.items);
    return r;
}

static int affix(struct eval *e, const struct value *self, const struct args *a, bool (*is)(struct span, struct span), struct value *out) {
    struct list options = {a->p[0], 1};
    bool any = false;
    if (a->p[0]->kind == VALUE_TUPLE) options = *a->p[0]->list;
    for (size_t i = 0; i < options.count; i++) {
        const struct string *s = NULL;
        int r = want_string(e, &options.items[i], &s);
        if (r) return r;
        any |= is(self->string->text, s->text);
    }
    *out = value_bool(any);
    return 0;
}
static int str_startswith(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return affix(e, self, a, span_starts, out); }
static int str_endswith(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return affix(e, self, a, span_ends, out); }

static int str_replace(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    const struct string *old = NULL, *with = NULL;
    int64_t most = -1;
    int r = want_string(e, a->p[0], &old);
    if (!r) r = want_string(e, a->p[1], &with);
    if (!r) r = want_count(e, a->p[2], &most);
    return r ? r : string_replace(e, self->string, old, with, most, out);
}

#define CASE_METHOD(name, to) \
    static int name(struct eval *e, const struct value *self, const struct args *a, struct value *out) { \
        (void)a; \
        return string_case(e, self->string, to, out); \
    }
CASE_METHOD(str_upper, CASE_UPPER)
CASE_METHOD(str_lower, CASE_LOWER)
CASE_METHOD(str_title, CASE_TITLE)
CASE_METHOD(str_capitalize, CASE_CAPITALIZE)
CASE_METHOD(str_swapcase, CASE_SWAP)

static int str_join(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    struct list items;
    int r = value_items(e, a->p[0], &items);
    for (size_t i = 0; !r && i < items.count; i++)
        if (items.items[i].kind != VALUE_STRING) r = eval_fail(e, "sequence item %zu: expected str instance, %s found", i, value_type_name(&items.items[i]));
    return r ? r : string_join(e, self->string, &items, out);
}

static int find(struct eval *e, const struct value *self, const struct args *a, bool last, bool must, struct value *out) {
    const struct string *what = NULL;
    int r = want_string(e, a->p[0], &what);
    if (!r) r = eval_steps(e, self->string->text.len / 16);
    if (r) return r;
    ptrdiff_t at = last ? find_last(self->string->text, what->text) : span_find(self->string->text, what->text);
    if (at < 0 && must) return eval_fail(e, "substring not found");
    *out = value_int(at < 0 ? -1 : (int64_t)utf8_length(span_sub(self->string->text, 0, (size_t)at)));
    return 0;
}
static int str_find(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return find(e, self, a, false, false, out); }
static int str_rfind(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return find(e, self, a, true, false, out); }
static int str_index(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return find(e, self, a, false, true, out); }

static int str_count(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    const struct string *what = NULL;
    struct span rest = self->string->text;
    int r = want_string(e, a->p[0], &what);
    if (!r) r = eval_steps(e, rest.len / 16);
    if (r) return r;
    int64_t n = what->text.len ? 0 : (int64_t)utf8_length(rest) + 1;
    for (ptrdiff_t at; what->text.len && (at = span_find(rest, what->text)) >= 0; n++) rest = span_skip(rest, (size_t)at + what->text.len);
    *out = value_int(n);
    return 0;
}

static int partition(struct eval *e, const struct value *self, const struct args *a, bool last, struct value *out) {
    const struct string *separator = NULL;
    struct value *items = NULL;
    const struct string *s = self->string;
    int r = want_string(e, a->p[0], &separator);
    if (!r && !separator->text.len) r = eval_fail(e, "empty separator");
    if (!r) r = list_new(e, VALUE_TUPLE, 3, &items, out);
    if (r) return r;
    ptrdiff_t at = last ? find_last(s->text, separator->text) : span_find(s->text, separator->text);
    size_t start = at < 0 ? last ? 0 : s->text.len : (size_t)at, end = at < 0 ? start : start + separator->text.len;
    r = string_part(e, s, 0, start, &items[0]);
    if (!r) r = string_part(e, s, start, end - start, &items[1]);
    return r ? r : string_part(e, s, end, s->text.len - end, &items[2]);
}
static int str_partition(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return partition(e, self, a, false, out); }
static int str_rpartition(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return partition(e, self, a, true, out); }

static int str_removeprefix(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    const struct string *s = self->string, *what = NULL;
    int r = want_string(e, a->p[0], &what);
    if (r) return r;
    size_t from = span_starts(s->text, what->text) ? what->text.len : 0;
    return string_part(e, s, from, s->text.len - from, out);
}
static int str_removesuffix(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    const struct string *s = self->string, *what = NULL;
    int r = want_string(e, a->p[0], &what);
    return r ? r : string_part(e, s, 0, s->text.len - (span_ends(s->text, what->text) ? what->text.len : 0), out);
}

/* Whether every character is of these classes, and there is one. */
static int all_of(struct eval *e, const struct value *self, unsigned classes, struct value *out) {
    struct span t = self->string->text;
    bool all = t.len > 0;
    for (size_t i = 0, len; all && i < t.len; i += len) all = char_class_at(t.data + i, t.len - i, &len) & classes;
    *out = value_bool(all);
    return eval_steps(e, t.len / 16);
}
static int str_isalpha(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return (void)a, all_of(e, self, CHAR_L, out); }
static int str_isdigit(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return (void)a, all_of(e, self, CHAR_N, out); }
static int str_isalnum(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return (void)a, all_of(e, self, CHAR_L | CHAR_N, out); }
static int str_isspace(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    (void)a;
    struct span t = self->string->text;
    size_t at = 0, len;
    while (space_at(t, at, &len)) at += len;
    *out = value_bool(t.len > 0 && at == t.len);
    return eval_steps(e, t.len / 16);
}
static int is_case(struct eval *e, const struct value *self, bool upper, struct value *out) {
    struct span t = self->string->text;
    bool any = false, all = true;
    for (size_t i = 0, len; i < t.len; i += len) {
        uint32_t c = 0;
        len = span_utf8_decode(span_skip(t, i), &c);
        if (!len) break;
        bool is_upper = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c) != c, is_lower = (uint32_t)utf8proc_toupper((utf8proc_int32_t)c) != c;
        any |= upper ? is_upper : is_lower;
        all &= !(upper ? is_lower : is_upper);
    }
    *out = value_bool(any && all);
    return eval_steps(e, t.len / 16);
}
static int str_isupper(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return (void)a, is_case(e, self, true, out); }
static int str_islower(struct eval *e, const struct value *self, const struct args *a, struct value *out) { return (void)a, is_case(e, self, false, out); }

/* "{} {0} {name}" without format specifications. */
static int str_format(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    struct span t = self->string->text;
    struct text_builder b;
    size_t next = 0, shown = 0;
    int r = eval_steps(e, t.len / 16);
    text_builder_init(&b);
    for (size_t i = 0; !r && i < t.len; i++) {
        if (t.data[i] != '{' && t.data[i] != '}') continue;
        builder_add_part(&b, self->string, shown, i - shown);
        if (i + 1 < t.len && t.data[i + 1] == t.data[i]) { /* doubled: itself */
            shown = ++i;
            continue;
        }
        ptrdiff_t end = t.data[i] == '{' ? span_find_char(span_skip(t, i), '}') : -1;
        struct span field = span_sub(t, i + 1, end < 1 ? 0 : (size_t)end - 1);
        const struct value *v = NULL;
        int64_t index;
        if (end > 0 && !field.len) index = (int64_t)next++;
        else if (span_to_i64(field, &index)) index = -1;
        if (index >= 0 && (uint64_t)index < a->count) v = &a->given[index];
        for (size_t k = 0; field.len && !v && k < a->keyword_count; k++)
            if (span_eq(a->keywords[k].name, field)) v = &a->keywords[k].value;
        if (end < 1 || !v) r = eval_fail(e, "format: a field that has no argument, or asks for more than {}, {0} and {name}");
        else r = builder_add_value(e, &b, v);
        i += end > 0 ? (size_t)end : 0;
        shown = i + 1;
    }
    builder_add_part(&b, self->string, shown, t.len);
    if (!r) return text_builder_take(e, &b, out);
    text_builder_fini(&b);
    return r;
}

static const struct builtin of_strings[] = {
    {"strip", str_strip, "chars?"}, {"lstrip", str_lstrip, "chars?"}, {"rstrip", str_rstrip, "chars?"}, {"split", str_split, "sep? maxsplit?"}, {"rsplit", str_rsplit, "sep? maxsplit?"},
    {"splitlines", str_splitlines, "keepends?"}, {"startswith", str_startswith, "prefix"}, {"endswith", str_endswith, "suffix"}, {"replace", str_replace, "old new count?"},
    {"upper", str_upper, ""}, {"lower", str_lower, ""}, {"title", str_title, ""}, {"capitalize", str_capitalize, ""}, {"swapcase", str_swapcase, ""}, {"casefold", str_lower, ""},
    {"join", str_join, "iterable"}, {"find", str_find, "sub"}, {"rfind", str_rfind, "sub"}, {"index", str_index, "sub"}, {"count", str_count, "sub"},
    {"partition", str_partition, "sep"}, {"rpartition", str_rpartition, "sep"}, {"removeprefix", str_removeprefix, "prefix"}, {"removesuffix", str_removesuffix, "suffix"},
    {"isalpha", str_isalpha, ""}, {"isdigit", str_isdigit, ""}, {"isnumeric", str_isdigit, ""}, {"isdecimal", str_isdigit, ""}, {"isalnum", str_isalnum, ""},
    {"format", str_format, "*"}, {"isspace", str_isspace, ""}, {"isupper", str_isupper, ""}, {"islower", str_islower, ""},
};

/* ---- of dictionaries ---- */

static int dict_get(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    const struct value *v;
    int r = dict_find(e, self->dict, a->p[0], &v);
    if (!r) *out = v ? *v : a->p[1] ? *a->p[1] : value_none();
    return r;
}
static int dict_keys(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    struct value *items = NULL;
    (void)a;
    int r = list_new(e, VALUE_LIST, self->dict->count, &items, out);
    for (size_t i = 0; !r && i < self->dict->count; i++) items[i] = self->dict->entries[i].key;
    return r;
}
static int dict_values(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    struct value *items = NULL;
    (void)a;
    int r = list_new(e, VALUE_LIST, self->dict->count, &items, out);
    for (size_t i = 0; !r && i < self->dict->count; i++) items[i] = self->dict->entries[i].value;
    return r;
}
static int dict_items(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    struct value *items = NULL, *pair = NULL;
    (void)a;
    int r = list_new(e, VALUE_LIST, self->dict->count, &items, out);
    for (size_t i = 0; !r && i < self->dict->count; i++) {
        r = list_new(e, VALUE_TUPLE, 2, &pair, &items[i]);
        if (r) break;
        pair[0] = self->dict->entries[i].key;
        pair[1] = self->dict->entries[i].value;
    }
    return r;
}
static int copy(struct eval *e, const struct value *self, const struct args *a, struct value *out) { /* nothing changes: the same will do */
    (void)e, (void)a;
    *out = *self;
    return 0;
}
static const struct builtin of_dicts[] = {
    {"get", dict_get, "key default?"}, {"keys", dict_keys, ""}, {"values", dict_values, ""}, {"items", dict_items, ""}, {"copy", copy, ""},
};

/* ---- of lists ---- */

static int list_index(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    for (size_t i = 0; i < self->list->count; i++) {
        bool equal;
        int r = value_equal(e, &self->list->items[i], a->p[0], &equal);
        if (r) return r;
        if (equal) {
            *out = value_int((int64_t)i);
            return 0;
        }
    }
    return eval_fail(e, "the value is not in the list");
}
static int list_count(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    int64_t n = 0;
    for (size_t i = 0; i < self->list->count; i++) {
        bool equal;
        int r = value_equal(e, &self->list->items[i], a->p[0], &equal);
        if (r) return r;
        n += equal;
    }
    *out = value_int(n);
    return 0;
}
static const struct builtin of_lists[] = {{"index", list_index, "value"}, {"count", list_count, "value"}, {"copy", copy, ""}};

/* ---- of loops ---- */

static int loop_cycle(struct eval *e, const struct value *self, const struct args *a, struct value *out) {
    if (!a->count) return eval_fail(e, "no items for cycling given");
    *out = a->given[self->loop->at % a->count];
    return 0;
}
static const struct builtin of_loops[] = {{"cycle", loop_cycle, "*"}};

const struct builtin *builtin_method(const struct value *object, struct span name) {
    const struct builtin *table = NULL;
    size_t n = 0;
    switch (object->kind) {
    case VALUE_STRING: table = of_strings, n = sizeof of_strings / sizeof of_strings[0]; break;
    case VALUE_DICT: table = of_dicts, n = sizeof of_dicts / sizeof of_dicts[0]; break;
    case VALUE_LIST:
    case VALUE_TUPLE: table = of_lists, n = sizeof of_lists / sizeof of_lists[0]; break;
    case VALUE_LOOP: table = of_loops, n = sizeof of_loops / sizeof of_loops[0]; break;
    default: break;
    }
    for (size_t i = 0; i < n; i++)
        if (span_eq_str(name, table[i].name)) return &table[i];
    return NULL;
}
