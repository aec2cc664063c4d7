/* Text that a stage rewrites, with the way back to where each byte came from. */
#include "base/alloc.h"
#include "tokenizer/internal.h"

/* NFKC of one character has 18 at most (U+FDFA, 33 bytes of 3); a file's own replacements may be longer and are stopped here. */
static const size_t growth_max = (size_t)TOKENIZER_TEXT_MAX * 4;

void normalized_init(struct normalized *n, bool track) {
    *n = (struct normalized){.track = track};
    buf_init(&n->text, growth_max < UINT32_MAX ? growth_max : UINT32_MAX);
}
void normalized_clear(struct normalized *n) {
    buf_clear(&n->text);
    n->count = 0;
    n->changed = false;
}
void normalized_fini(struct normalized *n) {
    buf_fini(&n->text);
    mem_free(n->parts);
    n->parts = NULL;
    n->count = n->capacity = 0;
}

static int part_push(struct normalized *n, struct span piece, size_t from_start, size_t from_end, bool same) {
    uint32_t start = (uint32_t)n->text.len;
    int r = buf_append_span(&n->text, piece);
    if (r || !n->track) return r;
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

int normalized_keep(struct normalized *n, struct span text, size_t from_start, size_t from_end) {
    if (from_end == from_start) return 0;
    return part_push(n, span_sub(text, from_start, from_end - from_start), from_start, from_end, true);
}

int normalized_put(struct normalized *n, struct span piece, size_t from_start, size_t from_end) {
    n->changed = true;
    if (!piece.len) return 0; /* what is left out comes from nowhere */
    return part_push(n, piece, from_start, from_end, false);
}

void normalized_origin(const struct normalized *n, size_t *start, size_t *end) {
    size_t from = *start, to = *end;
    if (!n->count) {
        *start = *end = 0;
        return;
    }
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
    if (*end < *start) *end = *start;
}
