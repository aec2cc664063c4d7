/*
 * Regular expressions of tokenizer files. They are written for Oniguruma (Ruby's syntax); PCRE2 matches them, after what the two mean differently has been rewritten:
 * \s, \w, \d and \h get their Unicode meaning, ^ and $ are at lines. What PCRE2 has no word for (intersections, classes in classes) is refused. Each search has a
 * limit on its steps, so that no text can make one run for ever. A compiled expression is read-only: any thread may match with it.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/alloc.h"
#include "tokenizer/internal.h"

enum {
    PATTERN_MAX = 8192,      /* bytes; the longest published one has 350 */
    STEPS_MAX = 10000000,    /* of one search: a word has tens; a tenth of a second */
};

static void *pcre_alloc(size_t size, void *data) {
    (void)data;
    return mem_alloc(size);
}
static void pcre_free(void *memory, void *data) {
    (void)data;
    mem_free(memory);
}

/* The sets that Oniguruma's short forms mean, without brackets. */
static const char white[] = "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
static const char word[] = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
static const char hex[] = "0-9A-Fa-f";

static int refuse(struct span pattern, const char *what, struct error *err) {
    return error_set(err, E_UNSUPPORTED, "the regular expression %.*s has %s, which is not built", SPAN_ARG(span_sub(pattern, 0, 160)), what);
}

static int translate(struct span p, struct buf *out, struct error *err) {
    bool class = false, class_begins = false;
    for (size_t i = 0; i < p.len; i++) {
        char c = p.data[i], e = i + 1 < p.len ? p.data[i + 1] : 0;
        bool begins = class_begins;
        class_begins = false;
        if (c == '\\' && e) {
            const char *set = e == 's' || e == 'S' ? white : e == 'w' || e == 'W' ? word : e == 'd' || e == 'D' ? "\\p{Nd}" : e == 'h' || e == 'H' ? hex : NULL;
            i++;
            if (!set) {
                buf_append(out, p.data + i - 1, 2);
                continue;
            }
            bool negated = e >= 'A' && e <= 'Z';
            if (!class) buf_append_str(out, negated ? "[^" : "[");
            else if (negated) return refuse(p, "a negated set inside of a class", err);
            buf_append_str(out, set);
            if (!class) buf_append_char(out, ']');
            continue;
        }
        if (class) {
            if (c == ']' && !begins) class = false;
            else if (c == '[' && e != ':') return refuse(p, "a class in a class", err);
            else if (c == '&' && e == '&') return refuse(p, "an intersection of classes", err);
            else if (c == '[') { /* [:name:] */
                static const struct {
                    const char *name, *set;
                } names[] = {{"[:alpha:]", "\\p{Alphabetic}"}, {"[:alnum:]", "\\p{Alphabetic}\\p{Nd}"}, {"[:digit:]", "\\p{Nd}"}, {"[:upper:]", "\\p{Uppercase}"},
                             {"[:lower:]", "\\p{Lowercase}"}, {"[:space:]", white}, {"[:word:]", word}, {"[:xdigit:]", hex}, {"[:cntrl:]", "\\p{Cc}"}, {"[:blank:]", "\\t\\p{Zs}"}};
                const char *set = NULL;
                for (size_t k = 0; !set && k < sizeof names / sizeof names[0]; k++)
                    if (span_starts(span_skip(p, i), span_str(names[k].name))) {
                        set = names[k].set;
                        i += strlen(names[k].name) - 1;
                    }
                if (!set) return refuse(p, "a [: that is not known", err);
                buf_append_str(out, set);
                continue;
            }
        } else if (c == '[') {
            class = class_begins = true;
            if (e == '^') {
                buf_append_str(out, "[^");
                i++;
                continue;
            }
        } else if (c == '(' && e == '?' && i + 2 < p.len && p.data[i + 2] == 'm') {
            return refuse(p, "(?m", err); /* Ruby's m is PCRE2's s */
        }
        buf_append_char(out, c);
    }
    return out->failed ? error_set(err, E_NOMEM, "no memory for a regular expression") : 0;
}

int token_regex_new(struct span pattern, struct regex **list, struct regex **regex, struct error *err) {
    if (pattern.len > PATTERN_MAX) return error_set(err, E_TOO_LARGE, "a regular expression has more than %d bytes", PATTERN_MAX);
    struct buf text;
    buf_init(&text, (size_t)PATTERN_MAX * 128);
    struct regex *re = mem_zalloc(sizeof *re);
    int r = re ? translate(pattern, &text, err) : error_set(err, E_NOMEM, "no memory for a regular expression");
    if (r) goto out;
    pcre2_general_context *general = pcre2_general_context_create(pcre_alloc, pcre_free, NULL);
    pcre2_compile_context *compile = general ? pcre2_compile_context_create(general) : NULL;
    re->general = general;
    re->context = general ? pcre2_match_context_create(general) : NULL;
    if (!compile || !re->context) {
        pcre2_compile_context_free(compile);
        r = error_set(err, E_NOMEM, "no memory for a regular expression");
        goto out;
    }
    int code;
    PCRE2_SIZE at;
    pcre2_set_newline(compile, PCRE2_NEWLINE_LF);
    re->code = pcre2_compile((PCRE2_SPTR)buf_span(&text).data, text.len, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, compile);
    pcre2_compile_context_free(compile);
    if (!re->code) {
        char why[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        r = code == PCRE2_ERROR_HEAP_FAILED ? error_set(err, E_NOMEM, "no memory for a regular expression")
                                            : error_set(err, E_UNSUPPORTED, "the regular expression %.*s: %s", SPAN_ARG(span_sub(pattern, 0, 160)), why);
        goto out;
    }
    (void)pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE); /* where it cannot, the interpreter matches */
    pcre2_set_match_limit(re->context, STEPS_MAX);
    pcre2_set_heap_limit(re->context, 16384); /* KiB */
    re->next = *list;
    *list = *regex = re;
    re = NULL;
out:
    if (re) token_regex_free_list(re);
    buf_fini(&text);
    return r;
}

void token_regex_free_list(struct regex *list) {
    while (list) {
        struct regex *next = list->next;
        pcre2_code_free(list->code);
        pcre2_match_context_free(list->context);
        pcre2_general_context_free(list->general);
        mem_free(list);
        list = next;
    }
}

int token_regex_find(const struct regex *re, struct span text, size_t from, size_t *start, size_t *end, struct error *err) {
    pcre2_match_data *data = pcre2_match_data_create(1, re->general);
    if (!data) return error_set(err, E_NOMEM, "no memory to match a regular expression");
    int r = 0;
    while (from < text.len) {
        int n = pcre2_match(re->code, (PCRE2_SPTR)text.data, text.len, from, PCRE2_NO_UTF_CHECK, data, re->context);
        if (n == PCRE2_ERROR_NOMATCH) break;
        if (n < 0) {
            r = n == PCRE2_ERROR_NOMEMORY ? error_set(err, E_NOMEM, "no memory to match a regular expression")
                                          : error_set(err, E_INVALID, "the tokenizer's regular expression takes too many steps on this text");
            break;
        }
        const PCRE2_SIZE *o = pcre2_get_ovector_pointer(data);
        if (o[1] > o[0]) {
            *start = o[0];
            *end = o[1];
            r = 1;
            break;
        }
        size_t len; /* an empty one: look behind the next character */
        if (o[0] >= text.len) break;
        (void)char_at(text.data + o[0], text.len - o[0], &len);
        from = o[0] + len;
    }
    pcre2_match_data_free(data);
    return r;
}

int pattern_parse(const struct json *v, const char *stage, bool compile, const struct keep *keep, struct pattern *p, struct error *err) {
    const struct json *string = json_get(v, "String"), *regex = json_get(v, "Regex");
    struct span text = json_string(json_type(v) == JSON_TYPE_STRING ? v : string ? string : regex);
    *p = (struct pattern){.regex = NULL};
    if (!text.len) return error_set(err, E_INVALID, "%s: a pattern without a String or a Regex that is not empty", stage);
    p->string = arena_span(keep->arena, text);
    if (!p->string.data) return error_set(err, E_NOMEM, "no memory for the tokenizer");
    if (!regex || string || !compile) return 0;
    int r = token_regex_new(text, keep->regexes, &p->regex, err);
    return r ? error_prefix(err, "%s", stage) : 0;
}

int pattern_find(const struct pattern *p, struct span text, size_t from, size_t *start, size_t *end, struct error *err) {
    if (p->regex) return token_regex_find(p->regex, text, from, start, end, err);
    ptrdiff_t at = span_find(span_skip(text, from), p->string);
    if (at < 0) return 0;
    *start = from + (size_t)at;
    *end = *start + p->string.len;
    return 1;
}
