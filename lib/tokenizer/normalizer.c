/*
 * Stage 2: what is done to a text before it is cut. A step takes the text whole and leaves what it does not change as it is, so that offsets lead back;
 * a new kind is a function and a row in `kinds`.
 */
#include <utf8proc.h>

#include "base/alloc.h"
#include "tokenizer/internal.h"

enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
enum { BERT_CLEAN = 1, BERT_CHINESE = 2, BERT_ACCENTS = 4, BERT_LOWER = 8 };

static int utf8_piece(uint32_t c, struct normalized *n, size_t from, size_t to) {
    char text[4];
    size_t len = utf8_encode(c, text);
    return normalized_put(n, span_of(text, len), from, to);
}

/* Lower case as Rust's char::to_lowercase: only U+0130 becomes two characters. Writes to out[2], returns how many. */
static size_t lowercase(uint32_t c, uint32_t out[2]) {
    out[0] = c;
    if (c < 0x80) {
        if (c >= 'A' && c <= 'Z') out[0] = c | 0x20;
        return 1;
    }
    if (c == 0x130) {
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    /* Capitals of Unicode 16 and 17, which the reference implementation knows already. */
    static const struct {
        uint32_t first, last, low;
    } since[] = {{0x1C89, 0x1C89, 0x1C8A}, {0xA7CB, 0xA7CB, 0x264},   {0xA7CC, 0xA7CC, 0xA7CD},    {0xA7CE, 0xA7CE, 0xA7CF},   {0xA7D2, 0xA7D2, 0xA7D3},
                 {0xA7D4, 0xA7D4, 0xA7D5}, {0xA7DA, 0xA7DA, 0xA7DB}, {0xA7DC, 0xA7DC, 0x19B}, {0x10D50, 0x10D65, 0x10D70}, {0x16EA0, 0x16EB8, 0x16EBB}};
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    for (size_t i = 0; c >= since[0].first && i < sizeof since / sizeof since[0]; i++)
        if (c >= since[i].first && c <= since[i].last) out[0] = c - since[i].first + since[i].low;
    return 1;
}

/* ---- NFC, NFD, NFKC, NFKD (Unicode Annex 15) ---- */

enum { DECOMPOSED_MAX = 32 }; /* characters of one; U+FDFA has 18 */

/* Characters of one stretch; marks are sorted here, by a stable merge: utf8proc does it by exchange, which is quadratic in a run of them. */
struct runes {
    utf8proc_int32_t *c, *other;
    size_t len, capacity, other_capacity;
};

static unsigned ccc(utf8proc_int32_t c) { return (unsigned)utf8proc_get_property(c)->combining_class; }

static int sort_marks(struct runes *u, size_t from, size_t to) {
    size_t n = to - from;
    bool sorted = true;
    for (size_t i = from + 1; sorted && i < to; i++) sorted = ccc(u->c[i - 1]) <= ccc(u->c[i]);
    if (sorted) return 0;
    int r = array_reserve(&u->other, &u->other_capacity, n, sizeof u->other[0]);
    if (r) return r;
    utf8proc_int32_t *a = u->c + from, *b = u->other;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n;
            for (size_t i = lo, j = mid, k = lo; k < hi; k++) b[k] = i < mid && (j >= hi || ccc(a[i]) <= ccc(a[j])) ? a[i++] : a[j++];
        }
        memcpy(a, b, n * sizeof a[0]);
    }
    return 0;
}

static int unicode_stretch(struct span s, utf8proc_option_t options, struct runes *u, struct buf *out) {
    u->len = 0;
    for (size_t i = 0, len; i < s.len; i += len) {
        uint32_t c = char_at(s.data + i, s.len - i, &len);
        int r = array_reserve(&u->c, &u->capacity, u->len + DECOMPOSED_MAX, sizeof u->c[0]);
        if (r) return r;
        int boundary = 0;
        utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, u->c + u->len, DECOMPOSED_MAX, options, &boundary);
        if (n < 0 || n > DECOMPOSED_MAX) return E_INVALID;
        u->len += (size_t)n;
    }
    for (size_t i = 0; i < u->len;) {
        size_t end = i;
        while (end < u->len && ccc(u->c[end])) end++;
        int r = end - i > 1 ? sort_marks(u, i, end) : 0;
        if (r) return r;
        i = end + 1;
    }
    utf8proc_ssize_t n = (utf8proc_ssize_t)u->len;
    if (options & UTF8PROC_COMPOSE) n = utf8proc_normalize_utf32(u->c, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (n < 0) return E_INVALID;
    buf_clear(out);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        char text[4];
        int r = buf_append(out, text, utf8_encode((uint32_t)u->c[i], text));
        if (r) return r;
    }
    return 0;
}

/*
 * ASCII characters compose only with marks behind them, so the text is cut where an ASCII character is followed by another one: each stretch is normalized
 * alone, and offsets stay exact outside of stretches that change.
 */
static int unicode(struct span text, utf8proc_option_t options, struct normalized *n, struct error *err) {
    const uint8_t *s = (const uint8_t *)text.data;
    size_t at = 0;
    int r = 0;
    struct runes u = {.len = 0};
    struct buf made;
    buf_init(&made, UINT32_MAX);
    while (!r && at < text.len) {
        size_t end = at;
        while (end < text.len && s[end] < 0x80) end++;
        /* the last ASCII character before what is not may compose with it */
        size_t plain = end < text.len && end > at ? end - 1 : end;
        r = normalized_keep(n, text, at, plain);
        at = plain;
        if (r || at == text.len) break;
        size_t stop = end;
        while (stop < text.len && !(s[stop] < 0x80 && (stop + 1 == text.len || s[stop + 1] < 0x80))) stop++;
        r = unicode_stretch(span_sub(text, at, stop - at), options | UTF8PROC_STABLE, &u, &made);
        if (r == E_INVALID) error_set(err, r, "the text has a character that cannot be normalized");
        else if (!r && span_eq(buf_span(&made), span_sub(text, at, stop - at))) r = normalized_keep(n, text, at, stop);
        else if (!r) r = normalized_put(n, buf_span(&made), at, stop);
        at = stop;
    }
    mem_free(u.c);
    mem_free(u.other);
    buf_fini(&made);
    return r;
}
static int run_nfc(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)s;
    return unicode(text, UTF8PROC_COMPOSE, n, err);
}
static int run_nfd(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)s;
    return unicode(text, UTF8PROC_DECOMPOSE, n, err);
}
static int run_nfkc(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)s;
    return unicode(text, UTF8PROC_COMPOSE | UTF8PROC_COMPAT, n, err);
}
static int run_nfkd(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)s;
    return unicode(text, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, n, err);
}

/* ---- the smaller ones ---- */

static int run_lowercase(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)s, (void)err;
    int r = 0;
    size_t kept = 0;
    for (size_t i = 0, len; !r && i < text.len; i += len) {
        uint32_t c = char_at(text.data + i, text.len - i, &len), low[2];
        size_t count = lowercase(c, low);
        if (count == 1 && low[0] == c) continue;
        r = normalized_keep(n, text, kept, i);
        for (size_t k = 0; !r && k < count; k++) r = utf8_piece(low[k], n, i, i + len);
        kept = i + len;
    }
    return r ? r : normalized_keep(n, text, kept, text.len);
}

static int run_strip(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)err;
    size_t from = 0, to = text.len, len;
    while ((s->flags & STRIP_LEFT) && from < to && (char_class_at(text.data + from, to - from, &len) & CHAR_S)) from += len;
    while ((s->flags & STRIP_RIGHT) && to > from) {
        size_t at = to - 1;
        while (at > from && ((uint8_t)text.data[at] & 0xC0) == 0x80) at--;
        if (!(char_class_at(text.data + at, to - at, &len) & CHAR_S)) break;
        to = at;
    }
    if (from == 0 && to == text.len) return 0;
    n->changed = true;
    return normalized_keep(n, text, from, to);
}

static int run_strip_accents(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)s, (void)err;
    int r = 0;
    size_t kept = 0;
    for (size_t i = 0, len; !r && i < text.len; i += len) {
        if (!char_is_accent(char_at(text.data + i, text.len - i, &len))) continue;
        r = normalized_keep(n, text, kept, i);
        if (!r) r = normalized_put(n, SPAN(""), i, i + len);
        kept = i + len;
    }
    return r ? r : normalized_keep(n, text, kept, text.len);
}

static int run_replace(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    size_t at = 0, start, end;
    int found;
    while ((found = pattern_find(&s->pattern, text, at, &start, &end, err)) > 0) {
        int r = normalized_keep(n, text, at, start);
        if (!r) r = normalized_put(n, s->content, start, end);
        if (r) return r;
        at = end;
    }
    return found < 0 ? found : normalized_keep(n, text, at, text.len);
}

static int run_prepend(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)err;
    if (!text.len) return 0;
    size_t len; /* comes from the first character, as in the reference implementation */
    (void)char_at(text.data, text.len, &len);
    int r = normalized_put(n, s->content, 0, len);
    return r ? r : normalized_keep(n, text, 0, text.len);
}

static int run_alphabet(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)s, (void)err;
    int r = 0;
    for (size_t i = 0; !r && i < text.len; i++) r = utf8_piece(byte_to_alphabet((uint8_t)text.data[i]), n, i, i + 1);
    return r;
}

/* SentencePiece's nmt_nfkc without the NFKC: some control characters go, some become a space. */
static int run_nmt(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)s, (void)err;
    int r = 0;
    size_t kept = 0;
    for (size_t i = 0, len; !r && i < text.len; i += len) {
        uint32_t c = char_at(text.data + i, text.len - i, &len);
        bool gone = (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
        bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF ||
                     c == 0xFFFD;
        if (!gone && !space) continue;
        r = normalized_keep(n, text, kept, i);
        if (!r) r = normalized_put(n, gone ? SPAN("") : SPAN(" "), i, i + len);
        kept = i + len;
    }
    return r ? r : normalized_keep(n, text, kept, text.len);
}

/* ---- BertNormalizer: clean, part Chinese characters, decompose without marks, lower case, character by character ---- */

static bool is_chinese(uint32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) ||
           (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

static int bert_lower(uint32_t c, unsigned flags, struct normalized *n, size_t from, size_t to) {
    uint32_t low[2] = {c, 0};
    size_t count = flags & BERT_LOWER ? lowercase(c, low) : 1;
    int r = 0;
    for (size_t k = 0; !r && k < count; k++) r = utf8_piece(low[k], n, from, to);
    return r;
}

static int run_bert(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err) {
    (void)err;
    int r = 0;
    size_t kept = 0;
    for (size_t i = 0, len; !r && i < text.len; i += len) {
        uint8_t b = (uint8_t)text.data[i];
        len = 1;
        if (b >= 0x20 && b < 0x7F && !((s->flags & BERT_LOWER) && b >= 'A' && b <= 'Z')) continue;
        uint32_t c = char_at(text.data + i, text.len - i, &len), d = c;
        if (s->flags & BERT_CLEAN) {
            if (char_is_bert_control(c)) d = 0;
            else if (char_class_at(text.data + i, text.len - i, &len) & CHAR_S) d = ' ';
        }
        utf8proc_int32_t parts[DECOMPOSED_MAX] = {(utf8proc_int32_t)d};
        utf8proc_ssize_t count = 1;
        bool chinese = (s->flags & BERT_CHINESE) && is_chinese(d);
        if ((s->flags & BERT_ACCENTS) && d >= 0x80 && d != 0x11938) { /* that one is of Unicode 13, the reference implementation's decompositions are older */
            int boundary = 0;
            count = utf8proc_decompose_char((utf8proc_int32_t)d, parts, DECOMPOSED_MAX, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
            if (count < 0 || count > DECOMPOSED_MAX) count = 0;
        }
        r = normalized_keep(n, text, kept, i);
        kept = i + len;
        if (!d && (s->flags & BERT_CLEAN)) {
            if (!r) r = normalized_put(n, SPAN(""), i, i + len);
            continue;
        }
        if (!r && chinese) r = normalized_put(n, SPAN(" "), i, i + len);
        for (utf8proc_ssize_t k = 0; !r && k < count; k++) {
            if ((s->flags & BERT_ACCENTS) && parts[k] >= 0x80 && char_is_bert_mark((uint32_t)parts[k])) n->changed = true;
            else r = bert_lower((uint32_t)parts[k], s->flags, n, i, i + len);
        }
        if (!r && chinese) r = normalized_put(n, SPAN(" "), i, i + len);
    }
    return r ? r : normalized_keep(n, text, kept, text.len);
}

/* ---- reading ---- */

static int parse_none(const struct json *v, const struct keep *keep, struct normalizer_step *s, struct error *err) {
    (void)v, (void)keep, (void)s, (void)err;
    return 0;
}
static int parse_strip(const struct json *v, const struct keep *keep, struct normalizer_step *s, struct error *err) {
    (void)keep, (void)err;
    s->flags = (json_bool(json_get(v, "strip_left"), true) ? STRIP_LEFT : 0u) | (json_bool(json_get(v, "strip_right"), true) ? STRIP_RIGHT : 0u);
    return 0;
}
static int keep_text(const struct json *v, const char *key, const struct keep *keep, struct span *text, struct error *err) {
    if (json_type(json_get(v, key)) != JSON_TYPE_STRING) return error_set(err, E_INVALID, "normalizer: \"%s\" must be a string", key);
    struct span s = json_string(json_get(v, key));
    if (s.len > TOKENIZER_TOKEN_BYTES_MAX) return error_set(err, E_TOO_LARGE, "normalizer: \"%s\" has more than %d bytes", key, TOKENIZER_TOKEN_BYTES_MAX);
    *text = arena_span(keep->arena, s);
    return text->data ? 0 : error_set(err, E_NOMEM, "no memory for the tokenizer");
}
static int parse_replace(const struct json *v, const struct keep *keep, struct normalizer_step *s, struct error *err) {
    int r = pattern_parse(json_get(v, "pattern"), "normalizer: Replace", true, keep, &s->pattern, err);
    return r ? r : keep_text(v, "content", keep, &s->content, err);
}
static int parse_prepend(const struct json *v, const struct keep *keep, struct normalizer_step *s, struct error *err) {
    return keep_text(v, "prepend", keep, &s->content, err);
}
static int parse_bert(const struct json *v, const struct keep *keep, struct normalizer_step *s, struct error *err) {
    (void)keep, (void)err;
    bool lower = json_bool(json_get(v, "lowercase"), true);
    s->flags = (json_bool(json_get(v, "clean_text"), true) ? BERT_CLEAN : 0u) | (json_bool(json_get(v, "handle_chinese_chars"), true) ? BERT_CHINESE : 0u) |
               (json_bool(json_get(v, "strip_accents"), lower) ? BERT_ACCENTS : 0u) | (lower ? BERT_LOWER : 0u);
    return 0;
}

static const struct {
    const char *type;
    int (*parse)(const struct json *v, const struct keep *keep, struct normalizer_step *s, struct error *err);
    int (*run)(const struct normalizer_step *s, struct span text, struct normalized *n, struct error *err);
} kinds[] = {
    {"NFC", parse_none, run_nfc},
    {"NFD", parse_none, run_nfd},
    {"NFKC", parse_none, run_nfkc},
    {"NFKD", parse_none, run_nfkd},
    {"Lowercase", parse_none, run_lowercase},
    {"Strip", parse_strip, run_strip},
    {"StripAccents", parse_none, run_strip_accents},
    {"Replace", parse_replace, run_replace},
    {"Prepend", parse_prepend, run_prepend},
    {"BertNormalizer", parse_bert, run_bert},
    {"Precompiled", charsmap_parse, charsmap_run},
    {"ByteLevel", parse_none, run_alphabet},
    {"Nmt", parse_none, run_nmt},
};

static int parse_one(const struct json *v, const struct keep *keep, struct normalizer *n, struct error *err) {
    struct span type = json_string(json_get(v, "type"));
    if (n->count == NORMALIZER_STEPS_MAX) return error_set(err, E_UNSUPPORTED, "normalizer: more than %d steps", NORMALIZER_STEPS_MAX);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (span_eq_str(type, kinds[i].type)) {
            struct normalizer_step *s = &n->steps[n->count++];
            *s = (struct normalizer_step){.run = kinds[i].run};
            return kinds[i].parse(v, keep, s, err);
        }
    return error_set(err, E_UNSUPPORTED, "normalizer: type %.*s is not built", SPAN_ARG(span_sub(type, 0, 60)));
}

int normalizer_parse(const struct json *v, const struct keep *keep, struct normalizer *n, struct error *err) {
    n->count = 0;
    if (json_is_null(v)) return 0;
    if (!span_eq_str(json_string(json_get(v, "type")), "Sequence")) return parse_one(v, keep, n, err);
    const struct json *list = json_get(v, "normalizers");
    int r = 0;
    for (size_t i = 0; !r && i < json_size(list); i++) r = parse_one(json_at(list, i), keep, n, err);
    return r;
}

void normalizing_fini(struct normalizing *n) {
    for (size_t i = 0; i < n->count; i++) normalized_fini(&n->layers[i]);
    n->count = 0;
}

int normalizer_run(const struct normalizer *r, struct span text, bool track, struct normalizing *n, struct span *result, struct error *err) {
    n->count = 0;
    for (size_t i = 0; i < r->count; i++) {
        struct normalized *layer = &n->layers[n->count];
        normalized_init(layer, track);
        int e = r->steps[i].run(&r->steps[i], text, layer, err);
        if (e == E_NOMEM) error_set(err, e, "no memory to normalize a text");
        else if (e == E_FULL) e = error_set(err, E_TOO_LARGE, "the text is too large when it is normalized");
        if (e || !layer->changed) {
            normalized_fini(layer);
            if (!e) continue;
            normalizing_fini(n);
            return e;
        }
        if (n->count) buf_fini(&n->layers[n->count - 1].text); /* its parts stay */
        n->count++;
        text = buf_span(&layer->text);
    }
    *result = text;
    return 0;
}

void normalizing_origin(const struct normalizing *n, size_t *start, size_t *end) {
    for (size_t i = n->count; i-- > 0;) normalized_origin(&n->layers[i], start, end);
}
