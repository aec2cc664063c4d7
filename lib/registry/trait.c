#include "registry/trait.h"

const struct trait_info TRAITS[] = {
    {"short", "the answer begins with a complete sentence of 2 to 12 words"},
    {"lists", "it enumerates: two commas or more, or two list items or more"},
    {"numbers", "a decimal digit stands in it"},
};
const size_t TRAITS_COUNT = sizeof(TRAITS) / sizeof(TRAITS[0]);

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c >= 0x80; }

/* Whether what stands at i closes a sentence that ended before it. */
static bool closes(struct span s, size_t i) {
    if (i >= s.len || is_space(s.data[i])) return true;
    char c = s.data[i];
    if (c == ')' || c == ']' || c == '"' || c == '\'') return true;
    struct span rest = span_skip(s, i);
    return span_starts(rest, SPAN("\u201d")) || span_starts(rest, SPAN("\u2019"));
}

static bool holds_short(struct span s) {
    int words = 0;
    bool in_word = false, letter = false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        if (is_space(c)) {
            in_word = false;
            continue;
        }
        if (!in_word && ++words > TRAIT_SHORT_WORDS_MAX) return false;
        in_word = true;
        letter |= is_letter(c);
        if ((c == '.' || c == '!' || c == '?') && closes(s, i + 1)) return letter && words >= TRAIT_SHORT_WORDS_MIN;
    }
    return false;
}

/* Whether the line at i begins with a list's mark and white space. */
static bool list_item(struct span s, size_t i) {
    while (i < s.len && s.data[i] != '\n' && is_space(s.data[i])) i++;
    struct span rest = span_skip(s, i);
    size_t mark = 0;
    if (span_starts(rest, SPAN("-")) || span_starts(rest, SPAN("*")))
        mark = 1;
    else if (span_starts(rest, SPAN("\u2022")))
        mark = 3;
    else {
        while (mark < rest.len && is_digit(rest.data[mark])) mark++;
        if (mark == 0 || mark >= rest.len || (rest.data[mark] != '.' && rest.data[mark] != ')')) return false;
        mark++;
    }
    return mark < rest.len && is_space(rest.data[mark]);
}

static bool holds_lists(struct span s) {
    int commas = 0, items = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] == ',' && (i + 1 == s.len || is_space(s.data[i + 1]))) commas++;
        if ((i == 0 || s.data[i - 1] == '\n') && list_item(s, i)) items++;
    }
    return commas >= TRAIT_LISTS_COMMAS || items >= TRAIT_LISTS_LINES;
}

static bool holds_numbers(struct span s) {
    for (size_t i = 0; i < s.len; i++)
        if (is_digit(s.data[i])) return true;
    return false;
}

static bool (*const HOLDS[])(struct span) = {holds_short, holds_lists, holds_numbers};
_Static_assert(sizeof(HOLDS) / sizeof(HOLDS[0]) == sizeof(TRAITS) / sizeof(TRAITS[0]), "a function for each trait");

/* The row of a name without its "!", or -1. */
static int trait_index(struct span *name, bool *opposite) {
    *opposite = span_starts(*name, SPAN("!"));
    if (*opposite) *name = span_skip(*name, 1);
    for (size_t i = 0; i < TRAITS_COUNT; i++)
        if (span_eq_str(*name, TRAITS[i].name)) return (int)i;
    return -1;
}

bool trait_known(struct span name) {
    bool opposite;
    return trait_index(&name, &opposite) >= 0;
}

bool trait_holds(struct span name, struct span text) {
    bool opposite;
    int i = trait_index(&name, &opposite);
    if (i < 0 || span_empty(span_trim(text))) return false;
    return HOLDS[i](text) != opposite;
}
