/*
 * The published regular expressions of pre-tokenizers by hand, a function each: two orders of magnitude faster than a regex engine, and without pathological input, as
 * each looks at a character a bounded number of times (a run is scanned once or twice more per step at most). An expression that is not in the table goes to regex.c.
 * To add one: a function that returns the length of the expression's match at s, 0 where none begins there, and a row in `patterns`.
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

/* \s*[\r\n]+|\s+(?!\S)|\s+ at s, which is white space. */
static size_t lines(const char *s, size_t n) {
    size_t at = 0, newline_end = 0, last = 0, len;
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
    return lines(s, n);
}
static size_t match_llama3(const char *s, size_t n) { return match_cl100k(s, n, 3); }
static size_t match_qwen2(const char *s, size_t n) { return match_cl100k(s, n, 1); }


/* [^\r\n\p{L}\p{N}]?U*W+C?|[^\r\n\p{L}\p{N}]?U+W*C?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * where U is [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], W is [\p{Ll}\p{Lm}\p{Lo}\p{M}] and C is (?i:'s|'t|'re|'ve|'m|'ll|'d) */
static bool is_u(uint8_t c) { return (c & CHAR_M) || ((c & CHAR_L) && !(c & CHAR_LOWER)); }
static bool is_w(uint8_t c) { return (c & CHAR_M) || ((c & CHAR_L) && !(c & CHAR_UPPER)); }

/* U*W+ at `at` (the first alternative without its prefix), the end in *end; *u is the end of the run of U, where U+W* ends if there is no W. */
static bool upper_lower(const char *s, size_t n, size_t at, size_t *end, size_t *u) {
    size_t last_w = 0, len = 0;
    uint8_t c = 0;
    while (at < n && is_u(c = char_class_at(s + at, n - at, &len))) {
        at += len;
        if (is_w(c)) last_w = at;
    }
    *u = at;
    if (at < n && is_w(c)) { /* a lower-case letter: the run of W goes on from here */
        while (at < n && is_w(char_class_at(s + at, n - at, &len))) at += len;
        *end = at;
        return true;
    }
    *end = last_w; /* U* gives back as far as the last that is a W too, and W+ is that one */
    return last_w > 0;
}

static size_t match_o200k(const char *s, size_t n) {
    size_t len, end, u, word = 0;
    uint8_t c = char_class_at(s, n, &len);
    bool prefix = !(c & (CHAR_NL | CHAR_L | CHAR_N));
    if (prefix && len < n && upper_lower(s, n, len, &end, &u)) word = end;
    else if (!prefix || (c & CHAR_M)) { /* without the prefix; a mark is a U and a W itself */
        size_t with = prefix && len < n ? u : 0;
        if (upper_lower(s, n, 0, &end, &u)) word = end;
        else if (with > len) word = with;
        else word = u;
    } else if (len < n && u > len) {
        word = u;
    }
    if (word) return word + contraction(s + word, n - word, true);
    if (c & CHAR_N) {
        size_t at = len;
        for (int i = 1; i < 3 && at < n && (char_class_at(s + at, n - at, &len) & CHAR_N); i++) at += len;
        return at;
    }
    size_t other = 0;
    if (!(c & CHAR_S)) other = len;
    else if (s[0] == ' ' && n > 1) {
        size_t len2;
        if (!(char_class_at(s + 1, n - 1, &len2) & LNS)) other = 1 + len2;
    }
    if (other) {
        other = run(s, n, other, LNS, 0);
        while (other < n && (s[other] == '\r' || s[other] == '\n' || s[other] == '/')) other++;
        return other;
    }
    return lines(s, n);
}

/* \p{N}{1,3} */
static size_t match_digits3(const char *s, size_t n) {
    size_t at = 0, len;
    for (int i = 0; i < 3 && at < n && (char_class_at(s + at, n - at, &len) & CHAR_N); i++) at += len;
    return at;
}

/* [一-龥぀-ゟ゠-ヿ]+ */
static size_t match_cjk(const char *s, size_t n) {
    size_t at = 0, len;
    while (at < n) {
        uint32_t c = char_at(s + at, n - at, &len);
        if (!((c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF))) break;
        at += len;
    }
    return at;
}

/* [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t match_deepseek(const char *s, size_t n) {
    size_t len, len2 = 0;
    uint8_t c = char_class_at(s, n, &len), c2 = 0;
    bool more = len < n;
    if (more) c2 = char_class_at(s + len, n - len, &len2);
    if ((uint8_t)s[0] < 0x80 && (c & CHAR_PS) && more && (uint8_t)s[1] < 0x80 && (c2 & CHAR_L)) {
        size_t at = 2;
        while (at < n && (uint8_t)s[at] < 0x80 && (char_ascii_class[(uint8_t)s[at]] & CHAR_L)) at++;
        return at;
    }
    const uint8_t lm = CHAR_L | CHAR_M;
    size_t word = 0;
    if (!(c & (CHAR_NL | CHAR_L | CHAR_PS)) && more && (c2 & lm)) word = len + len2;
    else if (c & lm) word = len;
    if (word) {
        while (word < n && (char_class_at(s + word, n - word, &len) & lm)) word += len;
        return word;
    }
    size_t other = 0;
    if (c & CHAR_PS) other = len;
    else if (s[0] == ' ' && more && (c2 & CHAR_PS)) other = len + len2;
    if (other) {
        other = run(s, n, other, CHAR_PS, CHAR_PS);
        return run(s, n, other, CHAR_NL, CHAR_NL);
    }
    return c & CHAR_S ? lines(s, n) : 0;
}

static const struct {
    const char *regex;
    pretokenizer_match match;
} patterns[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", pretokenizer_match_gpt2},
    {"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", pretokenizer_match_gpt2},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", match_llama3},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", match_qwen2},
    {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
     "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
     "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", match_o200k},
    {"\\p{N}{1,3}", match_digits3},
    {"[一-龥぀-ゟ゠-ヿ]+", match_cjk},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+", match_deepseek},
    {"[!\\\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", match_deepseek},
};

pretokenizer_match pretokenizer_pattern(struct span regex) {
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        if (span_eq_str(regex, patterns[i].regex)) return patterns[i].match;
    return NULL;
}
