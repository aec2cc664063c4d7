/*
 * Stage 1: tokens that are found in the text as they stand, longest first, before anything else sees it. Special ones are what a model's
 * control flow hangs on, so a caller can say which parts of a text may hold them.
 */
#include "base/alloc.h"
#include "tokenizer/internal.h"

static int compare(const void *a, const void *b) {
    return span_compare((*(const struct added_token *const *)a)->normal, (*(const struct added_token *const *)b)->normal);
}

int added_set_init(struct added_set *set, const struct added_token *tokens, size_t count, bool normalized, struct arena *arena) {
    *set = (struct added_set){.count = 0};
    set->sorted = arena_calloc(arena, count + 1, sizeof set->sorted[0]);
    if (!set->sorted) return E_NOMEM;
    for (size_t i = 0; i < count; i++)
        if (tokens[i].normalized == normalized && tokens[i].normal.len) set->sorted[set->count++] = &tokens[i];
    qsort(set->sorted, set->count, sizeof set->sorted[0], compare);
    size_t at = 0;
    for (unsigned b = 0; b < 256; b++) {
        set->first[b] = (uint32_t)at;
        while (at < set->count && (uint8_t)set->sorted[at]->normal.data[0] == b) at++;
    }
    set->first[256] = (uint32_t)at;
    return 0;
}

/* First index in [lo, hi) whose byte at `depth` is >= b; all of them have that prefix and are longer than depth. */
static size_t lower(const struct added_set *set, size_t lo, size_t hi, size_t depth, unsigned b) {
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if ((uint8_t)set->sorted[mid]->normal.data[depth] < b) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* The longest token that `s` begins with. */
static const struct added_token *longest(const struct added_set *set, struct span s) {
    size_t lo = set->first[(uint8_t)s.data[0]], hi = set->first[(uint8_t)s.data[0] + 1];
    const struct added_token *best = NULL;
    for (size_t depth = 1; lo < hi; depth++) {
        if (set->sorted[lo]->normal.len == depth) { /* sorted: the one that ends here comes first */
            best = set->sorted[lo];
            while (lo < hi && set->sorted[lo]->normal.len == depth) lo++;
        }
        if (depth == s.len) break;
        unsigned b = (uint8_t)s.data[depth];
        lo = lower(set, lo, hi, depth, b);
        hi = lower(set, lo, hi, depth, b + 1);
    }
    return best;
}

static bool is_word(uint32_t c) {
    char text[4];
    size_t len, n = utf8_encode(c, text);
    return c == '_' || (n && (char_class_at(text, n, &len) & (CHAR_L | CHAR_N | CHAR_M)));
}
static size_t before(struct span text, size_t at, uint32_t *c) { /* the character that ends at `at` */
    size_t from = at;
    do from--;
    while (from > 0 && ((uint8_t)text.data[from] & 0xC0) == 0x80);
    span_utf8_decode(span_sub(text, from, at - from), c);
    return at - from;
}
static bool is_white(struct span text, size_t at, size_t len) {
    size_t n;
    return char_class_at(text.data + at, len, &n) & CHAR_S;
}

/* Whether [start, end) lies whole in one trusted piece. */
static bool trusted(struct trust *t, size_t start, size_t end) {
    if (!t->pieces) return !t->no_specials;
    if (t->normalized) normalizing_origin(t->normalized, &start, &end);
    start += t->shift;
    end += t->shift;
    if (start < t->cursor_at) t->cursor = t->cursor_at = 0;
    while (t->cursor < t->count && start >= t->cursor_at + t->pieces[t->cursor].text.len) t->cursor_at += t->pieces[t->cursor++].text.len;
    return t->cursor < t->count && t->pieces[t->cursor].trusted && end <= t->cursor_at + t->pieces[t->cursor].text.len;
}

struct added_match added_find(const struct added_set *set, struct span text, size_t from, struct trust *trust) {
    if (!set->count) return (struct added_match){NULL, text.len, text.len};
    size_t at = from;
    while (at < text.len) {
        uint8_t b = (uint8_t)text.data[at];
        const struct added_token *token = set->first[b] < set->first[b + 1] ? longest(set, span_skip(text, at)) : NULL;
        if (!token) {
            at++;
            continue;
        }
        size_t start = at, end = at + token->normal.len;
        if (token->special && !trusted(trust, start, end)) {
            at++; /* not past it: a trusted one may begin inside */
            continue;
        }
        if (token->single_word) {
            uint32_t c = 0;
            bool joined = start > 0 && before(text, start, &c) && is_word(c);
            if (!joined && end < text.len && span_utf8_decode(span_skip(text, end), &c)) joined = is_word(c);
            if (joined) {
                at = end;
                continue;
            }
        }
        if (token->lstrip)
            while (start > from) {
                uint32_t c;
                size_t n = before(text, start, &c);
                if (!is_white(text, start - n, n) || start - n < from) break;
                start -= n;
            }
        if (token->rstrip)
            while (end < text.len && is_white(text, end, text.len - end)) {
                size_t n;
                char_class_at(text.data + end, text.len - end, &n);
                end += n;
            }
        return (struct added_match){token, start, end};
    }
    return (struct added_match){NULL, text.len, text.len};
}
