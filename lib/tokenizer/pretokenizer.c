/*
 * Stage 3: where merges must not cross. The published regular expressions are matched by hand-written functions, one per expression, which
 * is two orders of magnitude faster than a regex engine and has no pathological input: each looks at a character a bounded number of times
 * (a white-space run is scanned once more per step at most). An expression that is not in the table is refused.
 * To add one: a match function that returns the length of the expression's first match at s, which must never be 0, and a row in `patterns`.
 */
#include "tokenizer/internal.h"

/* Length of the run of characters with (class & mask) == want, from `at`. */
static size_t run(const char *s, size_t n, size_t at, uint8_t mask, uint8_t want) {
    while (at < n) {
        size_t len;
        uint8_t c = char_class_at(s + at, n - at, &len);
        if ((c & mask) != want) break;
        at += len;
    }
    return at;
}

enum { LNS = CHAR_L | CHAR_N | CHAR_S };

/* 's 't 're 've 'm 'll 'd behind an apostrophe at s[0]; 0 where there is none. */
static size_t contraction(const char *s, size_t n, bool ignore_case) {
    if (n < 2 || s[0] != '\'') return 0;
    char a = s[1], b = n > 2 ? s[2] : 0;
    if (ignore_case) {
        if (a >= 'A' && a <= 'Z') a = (char)(a | 0x20);
        if (b >= 'A' && b <= 'Z') b = (char)(b | 0x20);
        if ((uint8_t)s[1] == 0xC5 && (uint8_t)b == 0xBF) return 3; /* U+017F, the long s, folds to s */
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return 0;
}

/* \s+(?!\S)|\s+ at s[0], which is white space: the run without its last character where something follows it, never empty. */
static size_t white(const char *s, size_t n, size_t first_len) {
    size_t at = first_len, last = 0;
    while (at < n) {
        size_t len;
        if (!(char_class_at(s + at, n - at, &len) & CHAR_S)) return last ? last : at;
        last = at;
        at += len;
    }
    return at;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
size_t pretokenizer_match_gpt2(const char *s, size_t n) {
    size_t len, r = contraction(s, n, false);
    if (r) return r;
    uint8_t c = char_class_at(s, n, &len);
    if (c & CHAR_S) {
        if (s[0] != ' ' || n == 1) return white(s, n, len);
        size_t len2;
        uint8_t c2 = char_class_at(s + 1, n - 1, &len2);
        if (c2 & CHAR_S) return white(s, n, 1);
        return run(s, n, 1 + len2, LNS, c2 & LNS);
    }
    return run(s, n, len, LNS, c & LNS);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,D}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t match_cl100k(const char *s, size_t n, int digits) {
    size_t len, r = contraction(s, n, true);
    if (r) return r;
    uint8_t c = char_class_at(s, n, &len);
    if (c & CHAR_L) return run(s, n, len, CHAR_L, CHAR_L);
    if (c & CHAR_N) {
        size_t at = len;
        for (int i = 1; i < digits && at < n && (char_class_at(s + at, n - at, &len) & CHAR_N); i++) at += len;
        return at;
    }
    uint8_t c2 = 0;
    size_t len2 = 0;
    bool more = len < n;
    if (more) c2 = char_class_at(s + len, n - len, &len2);
    if (more && !(c & CHAR_NL) && (c2 & CHAR_L)) return run(s, n, len + len2, CHAR_L, CHAR_L);
    size_t other = 0; /* where [^\s\p{L}\p{N}]+ has begun */
    if (!(c & CHAR_S)) other = len;
    else if (s[0] == ' ' && more && !(c2 & LNS)) other = len + len2;
    if (other) {
        other = run(s, n, other, LNS, 0);
        return run(s, n, other, CHAR_NL, CHAR_NL);
    }
    /* White space: as far as its last line end, or as \s+(?!\S)|\s+. */
    size_t at = 0, newline_end = 0, last = 0;
    while (at < n) {
        uint8_t k = char_class_at(s + at, n - at, &len);
        if (!(k & CHAR_S)) break;
        last = at;
        at += len;
        if (k & CHAR_NL) newline_end = at;
    }
    if (newline_end) return newline_end;
    return at == n || last == 0 ? at : last;
}
static size_t match_llama3(const char *s, size_t n) { return match_cl100k(s, n, 3); }
static size_t match_qwen2(const char *s, size_t n) { return match_cl100k(s, n, 1); }

/* Digits: each digit alone, or runs of digits; what stands between in one piece. */
static size_t match_digits(const char *s, size_t n) {
    size_t len;
    uint8_t c = char_class_at(s, n, &len);
    return run(s, n, len, CHAR_N, c & CHAR_N);
}
static size_t match_digit(const char *s, size_t n) {
    size_t len;
    uint8_t c = char_class_at(s, n, &len);
    return (c & CHAR_N) ? len : run(s, n, len, CHAR_N, 0);
}

static const struct {
    const char *regex;
    pretokenizer_match match;
} patterns[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", pretokenizer_match_gpt2},
    {"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", pretokenizer_match_gpt2},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", match_llama3},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", match_qwen2},
};

static int parse_byte_level(const struct json *v, struct pretokenizer *p, struct error *err) {
    p->byte_level = true;
    if (json_bool(json_get(v, "add_prefix_space"), true)) {
        if (p->count) return error_set(err, E_UNSUPPORTED, "pre_tokenizer: ByteLevel with add_prefix_space behind another step is not built");
        p->prefix_space = true;
    }
    if (json_bool(json_get(v, "use_regex"), true)) p->steps[p->count++] = pretokenizer_match_gpt2;
    return 0;
}

static int parse_split(const struct json *v, struct pretokenizer *p, struct error *err) {
    const struct json *pattern = json_get(v, "pattern");
    struct span regex = json_string(json_get(pattern, "Regex"));
    if (!json_get(pattern, "Regex")) return error_set(err, E_UNSUPPORTED, "pre_tokenizer: Split by a plain string is not built");
    struct span behavior = json_string(json_get(v, "behavior"));
    bool invert = json_bool(json_get(v, "invert"), false);
    /* The patterns cover every character, so removing what is between matches is the same as isolating the matches. */
    if (!(span_eq_str(behavior, "Isolated") && !invert) && !(span_eq_str(behavior, "Removed") && invert))
        return error_set(err, E_UNSUPPORTED, "pre_tokenizer: Split with behavior %.*s%s is not built", SPAN_ARG(span_sub(behavior, 0, 40)),
                         invert ? ", inverted," : "");
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        if (span_eq_str(regex, patterns[i].regex)) {
            p->steps[p->count++] = patterns[i].match;
            return 0;
        }
    return error_set(err, E_UNSUPPORTED, "pre_tokenizer: no matcher for the regular expression %.*s", SPAN_ARG(span_sub(regex, 0, 160)));
}

static int parse_digits(const struct json *v, struct pretokenizer *p, struct error *err) {
    (void)err;
    p->steps[p->count++] = json_bool(json_get(v, "individual_digits"), false) ? match_digit : match_digits;
    return 0;
}

static const struct {
    const char *type;
    int (*parse)(const struct json *v, struct pretokenizer *p, struct error *err);
} kinds[] = {{"ByteLevel", parse_byte_level}, {"Split", parse_split}, {"Digits", parse_digits}};

static int parse_one(const struct json *v, struct pretokenizer *p, struct error *err) {
    struct span type = json_string(json_get(v, "type"));
    if (p->byte_level) return error_set(err, E_UNSUPPORTED, "pre_tokenizer: %.*s behind ByteLevel is not built", SPAN_ARG(span_sub(type, 0, 40)));
    if (p->count == PRETOKENIZER_STEPS_MAX) return error_set(err, E_UNSUPPORTED, "pre_tokenizer: more than %d steps", PRETOKENIZER_STEPS_MAX);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (span_eq_str(type, kinds[i].type)) return kinds[i].parse(v, p, err);
    return error_set(err, E_UNSUPPORTED, "pre_tokenizer: type %.*s is not built", SPAN_ARG(span_sub(type, 0, 60)));
}

int pretokenizer_parse(const struct json *v, struct pretokenizer *p, struct error *err) {
    *p = (struct pretokenizer){.count = 0};
    if (json_is_null(v)) return error_set(err, E_UNSUPPORTED, "pre_tokenizer: none; only byte-level tokenizers are built");
    int r = 0;
    if (span_eq_str(json_string(json_get(v, "type")), "Sequence")) {
        const struct json *list = json_get(v, "pretokenizers");
        for (size_t i = 0; !r && i < json_size(list); i++) r = parse_one(json_at(list, i), p, err);
    } else {
        r = parse_one(v, p, err);
    }
    if (!r && !p->byte_level) r = error_set(err, E_UNSUPPORTED, "pre_tokenizer: has no ByteLevel step; only byte-level tokenizers are built");
    return r;
}

void splitter_init(struct splitter *s, const struct pretokenizer *p, struct span text) {
    s->p = p;
    s->text = text.data;
    s->depth = 0;
    s->level[0].at = 0;
    s->level[0].end = text.len;
}

/* Depth first: a piece of step i is cut by step i + 1, each step seeing its piece as the whole text. */
bool splitter_next(struct splitter *s, size_t *start, size_t *end) {
    for (;;) {
        while (s->level[s->depth].at >= s->level[s->depth].end) {
            if (s->depth == 0) return false;
            s->depth--;
        }
        size_t at = s->level[s->depth].at, stop = s->level[s->depth].end;
        size_t step = s->depth < s->p->count ? s->p->steps[s->depth](s->text + at, stop - at) : stop - at;
        s->level[s->depth].at = at + step;
        if (s->depth + 1 >= s->p->count) {
            *start = at;
            *end = at + step;
            return true;
        }
        s->depth++;
        s->level[s->depth].at = at;
        s->level[s->depth].end = at + step;
    }
}
