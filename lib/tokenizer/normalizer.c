/* Stage 2: Unicode normalization before the text is cut. A new kind is a row in `kinds` and a case in normalizer_run. */
#include <utf8proc.h>

#include "base/alloc.h"
#include "tokenizer/internal.h"

static const struct {
    const char *type;
    enum normalizer_kind kind;
} kinds[] = {{"NFC", NORMALIZER_NFC}};

int normalizer_parse(const struct json *v, enum normalizer_kind *kind, struct error *err) {
    if (json_is_null(v)) {
        *kind = NORMALIZER_NONE;
        return 0;
    }
    struct span type = json_string(json_get(v, "type"));
    const struct json *list = json_get(v, "normalizers");
    if (span_eq_str(type, "Sequence") && json_type(list) == JSON_TYPE_ARRAY) {
        if (json_size(list) == 0) {
            *kind = NORMALIZER_NONE;
            return 0;
        }
        if (json_size(list) == 1) type = json_string(json_get(json_at(list, 0), "type"));
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (span_eq_str(type, kinds[i].type)) {
            *kind = kinds[i].kind;
            return 0;
        }
    return error_set(err, E_UNSUPPORTED, "normalizer: type %.*s is not built", SPAN_ARG(span_sub(type, 0, 60)));
}

void normalized_fini(struct normalized *n) {
    buf_fini(&n->text);
    mem_free(n->parts);
    n->parts = NULL;
    n->count = n->capacity = 0;
}

void normalized_origin(const struct normalized *n, size_t *start, size_t *end) {
    size_t from = *start, to = *end;
    for (int side = 0; side < 2; side++) {
        size_t at = side ? (to > from ? to - 1 : to) : from; /* the last byte, and the first */
        size_t lo = 0, hi = n->count;
        while (hi - lo > 1) {
            size_t mid = lo + (hi - lo) / 2;
            if (n->parts[mid].start <= at) lo = mid;
            else hi = mid;
        }
        const struct normalized_part *p = &n->parts[lo];
        if (side) *end = p->same ? p->from_start + (to - p->start) : p->from_end;
        else *start = p->same ? p->from_start + (from - p->start) : p->from_start;
    }
}

static int part_push(struct normalized *n, struct span piece, size_t from_start, size_t from_end, bool same) {
    uint32_t start = (uint32_t)n->text.len;
    int r = buf_append_span(&n->text, piece);
    if (r) return r;
    if (same && n->count && n->parts[n->count - 1].same && n->parts[n->count - 1].from_end == from_start) {
        n->parts[n->count - 1].end = (uint32_t)n->text.len;
        n->parts[n->count - 1].from_end = (uint32_t)from_end;
        return 0;
    }
    r = array_reserve(&n->parts, &n->capacity, n->count + 1, sizeof n->parts[0]);
    if (r) return r;
    n->parts[n->count++] = (struct normalized_part){start, (uint32_t)n->text.len, (uint32_t)from_start, (uint32_t)from_end, same};
    return 0;
}

/* utf8proc orders marks by exchange, which is quadratic in the length of a run of them: a run has a limit. Annex 15's Stream-Safe Text has 30. */
enum { NORMALIZER_MARKS_MAX = 128 };
static int check_marks(struct span s, struct error *err) {
    unsigned marks = 0;
    while (s.len) {
        uint32_t c;
        size_t n = span_utf8_decode(s, &c);
        if (!n) return error_set(err, E_INVALID, "the text is no UTF-8");
        marks = utf8proc_get_property((utf8proc_int32_t)c)->combining_class ? marks + 1 : 0;
        if (marks > NORMALIZER_MARKS_MAX)
            return error_set(err, E_INVALID, "the text has more than %d combining marks on one character", NORMALIZER_MARKS_MAX);
        s = span_skip(s, n);
    }
    return 0;
}

/*
 * NFC (Unicode Annex 15). ASCII characters compose only with marks behind them, so the text is cut where an ASCII character is followed by another one:
 * each stretch is normalized alone, and offsets stay exact outside of stretches that change.
 */
int normalizer_run(enum normalizer_kind kind, struct span text, struct normalized *n, bool *changed, struct error *err) {
    *changed = false;
    if (kind == NORMALIZER_NONE) return 0;
    const uint8_t *s = (const uint8_t *)text.data;
    size_t at = 0;
    while (at < text.len && s[at] < 0x80) at++;
    if (at == text.len) return 0;
    buf_init(&n->text, (size_t)TOKENIZER_TEXT_MAX * 3); /* NFC grows UTF-8 threefold at most (Annex 15, maximum expansion) */
    n->parts = NULL;
    n->count = n->capacity = 0;
    int r = 0;
    at = 0;
    while (at < text.len) {
        size_t end = at;
        while (end < text.len && s[end] < 0x80) end++;
        /* the last ASCII character before what is not may compose with it */
        size_t plain = end < text.len && end > at ? end - 1 : end;
        if (plain > at) r = part_push(n, span_sub(text, at, plain - at), at, plain, true);
        if (r) goto out;
        at = plain;
        if (at == text.len) break;
        size_t stop = end;
        while (stop < text.len && !(s[stop] < 0x80 && (stop + 1 == text.len || s[stop + 1] < 0x80))) stop++;
        r = check_marks(span_sub(text, at, stop - at), err);
        if (r) goto out;
        utf8proc_uint8_t *nfc = NULL;
        utf8proc_ssize_t len = utf8proc_map(s + at, (utf8proc_ssize_t)(stop - at), &nfc, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (len < 0) {
            r = len == UTF8PROC_ERROR_NOMEM ? error_set(err, E_NOMEM, "no memory to normalize a text")
                                            : error_set(err, E_INVALID, "the text is no UTF-8");
            goto out;
        }
        bool same = (size_t)len == stop - at && memcmp(nfc, s + at, (size_t)len) == 0;
        r = part_push(n, span_of(nfc, (size_t)len), at, stop, same);
        free(nfc);
        if (r) goto out;
        *changed |= !same;
        at = stop;
    }
out:
    if (r || !*changed) {
        normalized_fini(n);
        *changed = false;
    }
    if (r == E_NOMEM || r == E_FULL) error_set(err, r, "no memory to normalize a text");
    return r;
}
