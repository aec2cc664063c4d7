/*
 * Stage 3: where merges must not cross. Steps one after the other, each cutting the pieces of the one before, depth first: a piece is on its way to the model before
 * the next is looked for. A step cuts by a hand-written matcher (patterns.c, and the character classes below), a string or a regular expression; what is done with
 * matches is the same for all (five behaviors). Some steps rewrite a piece first (a space before, U+2581 for spaces). A new kind is a row in `kinds`.
 */
#include "base/alloc.h"
#include "tokenizer/internal.h"

/* ---- characters as delimiters: the length of the one at s, or 0 ---- */
static size_t match_digit(const char *s, size_t n) {
    size_t len;
    return char_class_at(s, n, &len) & CHAR_N ? len : 0;
}
static size_t match_white(const char *s, size_t n) {
    size_t len;
    return char_class_at(s, n, &len) & CHAR_S ? len : 0;
}
static size_t match_punctuation(const char *s, size_t n) {
    size_t len;
    return char_is_punctuation(char_at(s, n, &len)) ? len : 0;
}

/* ---- reading ---- */

static int step_add(struct pretokenizer *p, struct pretokenizer_step step, struct error *err) {
    if (p->count == PRETOKENIZER_STEPS_MAX) return error_set(err, E_UNSUPPORTED, "pre_tokenizer: more than %d steps", PRETOKENIZER_STEPS_MAX);
    p->steps[p->count++] = step;
    return 0;
}

static int parse_byte_level(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    (void)keep;
    struct pretokenizer_step s = {.behavior = SPLIT_ISOLATED};
    if (json_bool(json_get(v, "add_prefix_space"), true)) s.rewrite = REWRITE_SPACE;
    if (json_bool(json_get(v, "use_regex"), true)) s.match = pretokenizer_match_gpt2;
    int r = s.rewrite || s.match ? step_add(p, s, err) : 0;
    p->byte_level = true;
    return r;
}

static int parse_behavior(const struct json *v, struct pretokenizer_step *s, struct error *err) {
    static const struct {
        const char *name;
        enum split_behavior behavior;
    } names[] = {{"Removed", SPLIT_REMOVED}, {"Isolated", SPLIT_ISOLATED}, {"MergedWithPrevious", SPLIT_MERGED_PREVIOUS}, {"MergedWithNext", SPLIT_MERGED_NEXT}, {"Contiguous", SPLIT_CONTIGUOUS}};
    struct span name = json_string(v);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (span_eq_str(name, names[i].name)) {
            s->behavior = names[i].behavior;
            return 0;
        }
    return error_set(err, E_UNSUPPORTED, "pre_tokenizer: behavior \"%.*s\" is not built", SPAN_ARG(span_sub(name, 0, 40)));
}

static int parse_split(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    struct pretokenizer_step s = {.invert = json_bool(json_get(v, "invert"), false)};
    const struct json *pattern = json_get(v, "pattern"), *regex = json_get(pattern, "Regex");
    int r = parse_behavior(json_get(v, "behavior"), &s, err);
    if (!r && regex) s.match = pretokenizer_pattern(json_string(regex));
    if (!r) r = pattern_parse(pattern, "pre_tokenizer: Split", !s.match, keep, &s.pattern, err);
    return r ? r : step_add(p, s, err);
}

static int parse_digits(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    (void)keep;
    return step_add(p, (struct pretokenizer_step){.match = match_digit, .behavior = json_bool(json_get(v, "individual_digits"), false) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS}, err);
}

static int parse_white(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    (void)v, (void)keep;
    return step_add(p, (struct pretokenizer_step){.match = match_white, .behavior = SPLIT_REMOVED}, err);
}

static int parse_bert(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    int r = parse_white(v, keep, p, err);
    return r ? r : step_add(p, (struct pretokenizer_step){.match = match_punctuation, .behavior = SPLIT_ISOLATED}, err);
}

static int parse_punctuation(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    (void)keep;
    struct pretokenizer_step s = {.match = match_punctuation, .behavior = SPLIT_ISOLATED};
    int r = json_is_null(json_get(v, "behavior")) ? 0 : parse_behavior(json_get(v, "behavior"), &s, err);
    return r ? r : step_add(p, s, err);
}

static int parse_whitespace(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    (void)v;
    /* Here \w is Rust's, which has the two joiners. */
    const struct span expression = SPAN("[\\w\\x{200C}\\x{200D}]+|[^\\w\\s\\x{200C}\\x{200D}]+");
    struct pretokenizer_step s = {.behavior = SPLIT_REMOVED, .invert = true};
    int r = token_regex_new(expression, keep->regexes, &s.pattern.regex, err);
    s.pattern.string = expression;
    return r ? r : step_add(p, s, err);
}

/* One character, kept. */
static int parse_character(const struct json *v, const struct keep *keep, struct span *text, struct error *err) {
    struct span s = json_string(v);
    uint32_t c;
    if (!s.len || span_utf8_decode(s, &c) != s.len) return error_set(err, E_INVALID, "pre_tokenizer: a delimiter or replacement must be one character");
    *text = arena_span(keep->arena, s);
    return text->data ? 0 : error_set(err, E_NOMEM, "no memory for the tokenizer");
}

static int parse_delimiter(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    struct pretokenizer_step s = {.behavior = SPLIT_REMOVED};
    int r = parse_character(json_get(v, "delimiter"), keep, &s.pattern.string, err);
    return r ? r : step_add(p, s, err);
}

static int parse_metaspace(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    struct pretokenizer_step s = {.rewrite = REWRITE_METASPACE, .behavior = SPLIT_MERGED_NEXT};
    struct span scheme = json_string(json_get(v, "prepend_scheme"));
    const struct json *old = json_get(v, "add_prefix_space"); /* before prepend_scheme there was this */
    if (span_eq_str(scheme, "always") || !scheme.len) s.prepend = PREPEND_ALWAYS;
    else if (span_eq_str(scheme, "first")) s.prepend = PREPEND_FIRST;
    else if (span_eq_str(scheme, "never")) s.prepend = PREPEND_NEVER;
    else return error_set(err, E_UNSUPPORTED, "pre_tokenizer: Metaspace with prepend_scheme %.*s is not built", SPAN_ARG(span_sub(scheme, 0, 40)));
    if (!json_is_null(old) && !json_bool(old, true)) s.prepend = PREPEND_NEVER;
    p->first |= s.prepend == PREPEND_FIRST;
    int r = parse_character(json_get(v, "replacement"), keep, &s.replacement, err);
    if (!r && json_bool(json_get(v, "split"), true)) s.pattern.string = s.replacement;
    return r ? r : step_add(p, s, err);
}

static const struct {
    const char *type;
    int (*parse)(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err);
} kinds[] = {
    {"ByteLevel", parse_byte_level},   {"Split", parse_split},           {"Digits", parse_digits},         {"WhitespaceSplit", parse_white},
    {"BertPreTokenizer", parse_bert},  {"Punctuation", parse_punctuation}, {"Whitespace", parse_whitespace}, {"CharDelimiterSplit", parse_delimiter},
    {"Metaspace", parse_metaspace},
};

static int parse_one(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    struct span type = json_string(json_get(v, "type"));
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (span_eq_str(type, kinds[i].type)) {
            if (p->byte_level) { /* something follows ByteLevel: it must see the characters, not the bytes */
                int r = step_add(p, (struct pretokenizer_step){.rewrite = REWRITE_ALPHABET, .behavior = SPLIT_ISOLATED}, err);
                if (r) return r;
                p->byte_level = false;
            }
            return kinds[i].parse(v, keep, p, err);
        }
    return error_set(err, E_UNSUPPORTED, "pre_tokenizer: type %.*s is not built", SPAN_ARG(span_sub(type, 0, 60)));
}

int pretokenizer_parse(const struct json *v, const struct keep *keep, struct pretokenizer *p, struct error *err) {
    *p = (struct pretokenizer){.count = 0};
    if (json_is_null(v)) return 0;
    if (!span_eq_str(json_string(json_get(v, "type")), "Sequence")) return parse_one(v, keep, p, err);
    int r = 0;
    const struct json *list = json_get(v, "pretokenizers");
    for (size_t i = 0; !r && i < json_size(list); i++) r = parse_one(json_at(list, i), keep, p, err);
    return r;
}

/* ---- cutting ---- */

/* The segment of l's text that begins at `at`: a match, or what stands before the next one. */
static int segment(const struct pretokenizer_step *s, struct span text, size_t at, size_t *end, bool *match, struct error *err) {
    if (s->match) {
        size_t n = s->match(text.data + at, text.len - at);
        *match = n > 0;
        *end = at + n;
        while (!*match && *end < text.len) {
            size_t len;
            (void)char_at(text.data + *end, text.len - *end, &len);
            *end += len;
            if (*end < text.len && s->match(text.data + *end, text.len - *end)) break;
        }
    } else if (s->pattern.string.len) {
        size_t start, stop;
        int r = pattern_find(&s->pattern, text, at, &start, &stop, err);
        if (r < 0) return r;
        *match = r && start == at;
        *end = !r ? text.len : *match ? stop : start;
    } else {
        *match = true;
        *end = text.len;
    }
    return 0;
}

/* The next piece of a level as its step's behavior cuts it: 1, 0 at the end. */
static int level_next(const struct pretokenizer_step *s, struct splitter_level *l, size_t *start, size_t *end, struct error *err) {
    while (l->at < l->text.len) {
        size_t stop = l->next_end, next_stop;
        bool match = l->next_match, next_match;
        int r = 0;
        *start = l->at;
        if (!stop) r = segment(s, l->text, l->at, &stop, &match, err);
        if (r) return r;
        match ^= s->invert && !l->next_end;
        l->next_end = 0;
        l->at = stop;
        switch (s->behavior) {
        case SPLIT_REMOVED:
            if (match) continue;
            break;
        case SPLIT_ISOLATED: break;
        case SPLIT_CONTIGUOUS:
        case SPLIT_MERGED_PREVIOUS: /* a match goes to what stands before it, but for one behind a match, which is a piece */
        case SPLIT_MERGED_NEXT:     /* a match goes to what stands behind it, but for one before a match */
            while (l->at < l->text.len) {
                r = segment(s, l->text, l->at, &next_stop, &next_match, err);
                if (r) return r;
                next_match ^= s->invert;
                bool joins = s->behavior == SPLIT_CONTIGUOUS ? next_match == match : s->behavior == SPLIT_MERGED_PREVIOUS ? !match && next_match : match && !next_match;
                if (!joins) {
                    l->next_end = next_stop;
                    l->next_match = next_match;
                    break;
                }
                stop = l->at = next_stop;
                if (s->behavior != SPLIT_CONTIGUOUS) break;
            }
            break;
        }
        *end = stop;
        return 1;
    }
    return 0;
}

/* What a step does to a piece before it cuts it. */
static int rewrite(const struct pretokenizer_step *s, struct splitter_level *l, struct span text) {
    struct normalized *n = &l->rewritten;
    struct span prefix = s->rewrite == REWRITE_SPACE ? SPAN(" ") : s->replacement;
    size_t at = 0, len = 0;
    int r = 0;
    normalized_clear(n);
    if (s->rewrite == REWRITE_ALPHABET) {
        for (; !r && at < text.len; at++) {
            char c[4];
            r = normalized_put(n, span_of(c, utf8_encode(byte_to_alphabet((uint8_t)text.data[at]), c)), at, at + 1);
        }
        return r;
    }
    bool begins = s->rewrite == REWRITE_SPACE ? text.data[0] == ' ' : text.data[0] == ' ' || span_starts(text, prefix);
    bool wanted = s->rewrite == REWRITE_SPACE || s->prepend == PREPEND_ALWAYS || (s->prepend == PREPEND_FIRST && l->begins);
    if (wanted && !begins) {
        (void)char_at(text.data, text.len, &len);
        r = normalized_put(n, prefix, 0, len);
    }
    if (s->rewrite == REWRITE_METASPACE)
        while (!r) {
            ptrdiff_t space = span_find_char(span_skip(text, at), ' ');
            if (space < 0) break;
            r = normalized_keep(n, text, at, at + (size_t)space);
            at += (size_t)space + 1;
            if (!r) r = normalized_put(n, s->replacement, at - 1, at);
        }
    return r ? r : normalized_keep(n, text, at, text.len);
}

static int enter(struct splitter *s, size_t depth, struct span text, size_t parent_at, bool begins, struct error *err) {
    struct splitter_level *l = &s->level[depth];
    const struct pretokenizer_step *step = &s->p->steps[depth];
    l->at = l->next_end = 0;
    l->next_match = false;
    l->parent_at = parent_at;
    l->begins = begins;
    l->text = text;
    if (step->rewrite && text.len) {
        int r = rewrite(step, l, text);
        if (r) return error_set(err, r == E_FULL ? E_TOO_LARGE : r, "no memory to cut a text");
        l->text = buf_span(&l->rewritten.text);
    }
    return 0;
}

void splitter_init(struct splitter *s, const struct pretokenizer *p, struct span text, bool begins, bool track) {
    s->p = p;
    s->track = track;
    for (size_t i = 0; i < p->count; i++) normalized_init(&s->level[i].rewritten, track);
    splitter_reset(s, text, begins);
}

void splitter_reset(struct splitter *s, struct span text, bool begins) {
    s->depth = 0;
    s->done = false;
    s->begins = begins;
    s->level[0].text = text;
    s->level[0].at = SIZE_MAX; /* not entered */
}

int splitter_next(struct splitter *s, struct span *piece, struct error *err) {
    if (s->done) return 0;
    struct span whole = s->level[0].text;
    if (!s->p->count) {
        s->done = true;
        *piece = whole;
        return whole.len > 0;
    }
    if (s->level[0].at == SIZE_MAX) {
        int r = enter(s, 0, whole, 0, s->begins, err);
        if (r) return r;
    }
    for (;;) {
        struct splitter_level *l = &s->level[s->depth];
        size_t start = 0, end = 0;
        int r = level_next(&s->p->steps[s->depth], l, &start, &end, err);
        if (r < 0) return r;
        if (!r) {
            if (s->depth == 0) {
                s->done = true;
                return 0;
            }
            s->depth--;
            continue;
        }
        struct span found = span_sub(l->text, start, end - start);
        if (s->depth + 1 == s->p->count) {
            s->piece_at = start;
            *piece = found;
            return 1;
        }
        r = enter(s, s->depth + 1, found, start, l->begins && start == 0, err);
        if (r) return r;
        s->depth++;
    }
}

void splitter_origin(const struct splitter *s, size_t *start, size_t *end) {
    if (!s->p->count) return;
    *start += s->piece_at;
    *end += s->piece_at;
    for (size_t depth = s->depth + 1; depth-- > 0;) {
        const struct splitter_level *l = &s->level[depth];
        if (s->p->steps[depth].rewrite) normalized_origin(&l->rewritten, start, end);
        *start += l->parent_at;
        *end += l->parent_at;
    }
}

void splitter_fini(struct splitter *s) {
    for (size_t i = 0; i < s->p->count; i++) normalized_fini(&s->level[i].rewritten);
}
