/*
 * Stage 4, the model: byte-pair encoding (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"). In a word, the adjacent
 * pair with the lowest rank is merged, the leftmost of equals, until no pair has a rank. Short words by scanning (they are in cache and few),
 * long ones by a heap, so that a megabyte without a space costs O(n log n). A cache of the call remembers short words: text repeats itself.
 */
#include "base/alloc.h"
#include "tokenizer/internal.h"

enum { WORD_SCAN_MAX = 48 }; /* symbols: up to here the scan is faster than the heap (measured) */

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 32);
}

static uint64_t merge_key(const struct bpe_merge *m) { return ((uint64_t)m->left << 32 | m->right) + 1; }

int bpe_index(struct bpe *m, struct arena *arena) {
    size_t slots = 16;
    while (slots < (size_t)m->merge_count * 2) slots *= 2;
    m->mask = slots - 1;
    m->slots = arena_calloc(arena, slots, sizeof m->slots[0]);
    if (!m->slots) return E_NOMEM;
    enum { AHEAD = 16 }; /* merges whose slots are on their way: the table is larger than the caches */
    for (uint32_t rank = 0; rank < m->merge_count; rank++) {
        uint64_t key = merge_key(&m->merges[rank]);
        size_t i = mix(key) & m->mask;
        if (rank + AHEAD < m->merge_count) __builtin_prefetch(&m->slots[mix(merge_key(&m->merges[rank + AHEAD])) & m->mask], 1);
        while (m->slots[i].key && m->slots[i].key != key) i = (i + 1) & m->mask;
        /* A pair that is listed twice has its last rank, as in the reference implementation's map. */
        m->slots[i] = (struct bpe_slot){key, rank};
    }
    return 0;
}

/* UINT32_MAX where the pair is never merged. */
static inline uint32_t rank_of(const struct bpe *m, uint32_t left, uint32_t right) {
    uint64_t key = ((uint64_t)left << 32 | right) + 1;
    for (size_t i = mix(key) & m->mask; m->slots[i].key; i = (i + 1) & m->mask)
        if (m->slots[i].key == key) return m->slots[i].rank;
    return UINT32_MAX;
}

struct symbol {
    uint32_t id, start, end; /* bytes of the word */
    uint32_t prev, next;
};
struct heap_item {
    uint32_t rank, at;       /* lowest rank first, then leftmost */
    uint32_t left, right;    /* stale where the symbols are others by now */
};
struct bpe_scratch {
    struct symbol *symbols;
    size_t symbol_capacity;
    struct heap_item *heap;
    size_t heap_len, heap_capacity;
};

struct bpe_scratch *bpe_scratch_new(void) { return mem_zalloc(sizeof(struct bpe_scratch)); }

void bpe_scratch_free(struct bpe_scratch *s) {
    if (!s) return;
    mem_free(s->symbols);
    mem_free(s->heap);
    mem_free(s);
}

/* Merges in symbols[0..n) by repeated scans; returns how many are left, packed. */
static size_t merge_scan(const struct bpe *m, struct symbol *symbols, size_t n) {
    uint32_t ranks[WORD_SCAN_MAX];
    for (size_t i = 0; i + 1 < n; i++) ranks[i] = rank_of(m, symbols[i].id, symbols[i + 1].id);
    while (n > 1) {
        size_t best = 0;
        uint32_t lowest = UINT32_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (ranks[i] < lowest) {
                lowest = ranks[i];
                best = i;
            }
        if (lowest == UINT32_MAX) break;
        symbols[best].id = m->merges[lowest].result;
        symbols[best].end = symbols[best + 1].end;
        memmove(symbols + best + 1, symbols + best + 2, (n - best - 2) * sizeof symbols[0]);
        if (n - best > 3) memmove(ranks + best + 1, ranks + best + 2, (n - best - 3) * sizeof ranks[0]); /* ranks has n - 1 */
        n--;
        if (best + 1 < n) ranks[best] = rank_of(m, symbols[best].id, symbols[best + 1].id);
        if (best > 0) ranks[best - 1] = rank_of(m, symbols[best - 1].id, symbols[best].id);
    }
    return n;
}

static bool heap_less(const struct heap_item *a, const struct heap_item *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static int heap_push(struct bpe_scratch *s, const struct bpe *m, uint32_t at, uint32_t left, uint32_t right) {
    uint32_t rank = rank_of(m, left, right);
    if (rank == UINT32_MAX) return 0;
    int r = array_reserve(&s->heap, &s->heap_capacity, s->heap_len + 1, sizeof s->heap[0]);
    if (r) return r;
    struct heap_item item = {rank, at, left, right};
    size_t i = s->heap_len++;
    while (i > 0 && heap_less(&item, &s->heap[(i - 1) / 2])) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = item;
    return 0;
}

static struct heap_item heap_pop(struct bpe_scratch *s) {
    struct heap_item top = s->heap[0], item = s->heap[--s->heap_len];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= s->heap_len) break;
        if (child + 1 < s->heap_len && heap_less(&s->heap[child + 1], &s->heap[child])) child++;
        if (!heap_less(&s->heap[child], &item)) break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    if (s->heap_len) s->heap[i] = item;
    return top;
}

/* The same by a linked list and a heap. A symbol that was merged into its left neighbour has start == end. */
static int merge_heap(const struct bpe *m, struct bpe_scratch *s, size_t *count) {
    struct symbol *y = s->symbols;
    uint32_t n = (uint32_t)*count;
    int r = 0;
    s->heap_len = 0;
    for (uint32_t i = 0; i < n; i++) {
        y[i].prev = i - 1; /* UINT32_MAX for the first */
        y[i].next = i + 1;
    }
    for (uint32_t i = 0; !r && i + 1 < n; i++) r = heap_push(s, m, i, y[i].id, y[i + 1].id);
    while (!r && s->heap_len) {
        struct heap_item it = heap_pop(s);
        uint32_t a = it.at, b = y[a].next;
        if (y[a].start == y[a].end || b >= n || y[a].id != it.left || y[b].id != it.right) continue;
        y[a].id = m->merges[it.rank].result;
        y[a].end = y[b].end;
        y[a].next = y[b].next;
        y[b].start = y[b].end; /* gone */
        if (y[a].next < n) {
            y[y[a].next].prev = a;
            r = heap_push(s, m, a, y[a].id, y[y[a].next].id);
        }
        if (!r && y[a].prev != UINT32_MAX) r = heap_push(s, m, y[a].prev, y[y[a].prev].id, y[a].id);
    }
    if (r) return r;
    size_t left = 0;
    for (uint32_t i = 0; i < n; i = y[i].next) y[left++] = y[i];
    *count = left;
    return 0;
}

/* The symbols that a word begins as: its bytes, or its characters as the vocabulary has them. Returns how many. */
static size_t symbols_of_bytes(const struct bpe *m, struct span word, struct symbol *symbols) {
    size_t n = 0;
    for (size_t i = 0; i < word.len; i++) {
        uint32_t id = m->bytes[(uint8_t)word.data[i]];
        if (id == TOKEN_NONE) continue; /* no such byte and no unknown token: left out, as the reference implementation does */
        symbols[n++] = (struct symbol){.id = id, .start = (uint32_t)i, .end = (uint32_t)i + 1};
    }
    return n;
}

/* A character's token, with what the model puts before and behind it. */
static uint32_t find_character(const struct tokenizer *t, struct span c, bool first, bool last) {
    const struct bpe *m = &t->bpe;
    struct span prefix = first ? (struct span){NULL, 0} : m->prefix, suffix = last ? m->suffix : (struct span){NULL, 0};
    if (!prefix.len && !suffix.len) return c.len == 1 && (uint8_t)c.data[0] < 0x80 ? m->bytes[(uint8_t)c.data[0]] : tokenizer_find_model(t, c);
    char text[2 * TOKENIZER_TOKEN_BYTES_MAX + 8];
    if (prefix.len) memcpy(text, prefix.data, prefix.len);
    memcpy(text + prefix.len, c.data, c.len);
    if (suffix.len) memcpy(text + prefix.len + c.len, suffix.data, suffix.len);
    return tokenizer_find_model(t, span_of(text, prefix.len + c.len + suffix.len));
}

static size_t symbols_of_text(const struct tokenizer *t, struct span word, struct symbol *symbols) {
    size_t n = 0, unk_start = 0, unk_end = 0; /* an unknown one that has not been put yet */
    for (size_t i = 0, len; i < word.len; i += len) {
        (void)char_at(word.data + i, word.len - i, &len);
        struct span c = span_sub(word, i, len);
        uint32_t id = find_character(t, c, i == 0, i + len == word.len);
        if (id != TOKEN_NONE) {
            if (unk_end > unk_start) symbols[n++] = (struct symbol){.id = t->unk, .start = (uint32_t)unk_start, .end = (uint32_t)unk_end};
            unk_start = unk_end = 0;
            symbols[n++] = (struct symbol){.id = id, .start = (uint32_t)i, .end = (uint32_t)(i + len)};
            continue;
        }
        if (t->byte_fallback && !t->bpe.prefix.len && !t->bpe.suffix.len) {
            bool all = true;
            for (size_t k = 0; k < len; k++) all &= t->byte_ids[(uint8_t)c.data[k]] != TOKEN_NONE;
            if (all) {
                for (size_t k = 0; k < len; k++)
                    symbols[n++] = (struct symbol){.id = t->byte_ids[(uint8_t)c.data[k]], .start = (uint32_t)(i + k), .end = (uint32_t)(i + k + 1)};
                continue; /* an unknown one before it is put behind it: as the reference implementation does */
            }
        }
        if (t->unk == TOKEN_NONE) continue;
        if (unk_end > unk_start && !t->bpe.fuse_unk) symbols[n++] = (struct symbol){.id = t->unk, .start = (uint32_t)unk_start, .end = (uint32_t)unk_end};
        if (unk_end == unk_start || !t->bpe.fuse_unk) unk_start = i;
        unk_end = i + len;
    }
    if (unk_end > unk_start) symbols[n++] = (struct symbol){.id = t->unk, .start = (uint32_t)unk_start, .end = (uint32_t)unk_end};
    return n;
}

int bpe_encode_word(const struct tokenizer *t, struct bpe_scratch *s, struct span word, struct tokens *out, bool offsets, uint32_t base,
                    struct error *err) {
    const struct bpe *m = &t->bpe;
    if (m->ignore_merges) {
        uint32_t id = tokenizer_find_model(t, word);
        if (id != TOKEN_NONE) {
            int r = tokens_push(out, offsets, id, base, base + (uint32_t)word.len);
            return r ? error_set(err, r, "no memory for tokens") : 0;
        }
    }
    int r = array_reserve(&s->symbols, &s->symbol_capacity, word.len < WORD_SCAN_MAX ? WORD_SCAN_MAX : word.len, sizeof s->symbols[0]);
    if (r) return error_set(err, r, "no memory for tokens");
    size_t n = t->byte_level ? symbols_of_bytes(m, word, s->symbols) : symbols_of_text(t, word, s->symbols);
    if (n <= WORD_SCAN_MAX) n = merge_scan(m, s->symbols, n);
    else r = merge_heap(m, s, &n);
    for (size_t i = 0; !r && i < n; i++) r = tokens_push(out, offsets, s->symbols[i].id, base + s->symbols[i].start, base + s->symbols[i].end);
    return r ? error_set(err, r, "no memory for tokens") : 0;
}

/* ---- SentencePiece's texts come uncut: a whole document is one word, unless its words can be told apart ---- */

static const char lower_bar[] = "\xE2\x96\x81"; /* U+2581, SentencePiece's space */

void bpe_find_cut(struct tokenizer *t) {
    struct bpe *m = &t->bpe;
    m->cut = false;
    const struct span bar = SPAN("\xE2\x96\x81");
    if (t->byte_level || m->ignore_merges || m->prefix.len || m->suffix.len || tokenizer_find_model(t, bar) == TOKEN_NONE) return;
    bool bytes = t->byte_fallback;
    for (unsigned b = 0; b < 256; b++) bytes &= t->byte_ids[b] != TOKEN_NONE;
    if (t->unk == TOKEN_NONE && !bytes) return; /* characters may be left out, and what stands around them meets */
    for (uint32_t i = 0; i < m->merge_count; i++)
        if (span_starts(t->entries[m->merges[i].right].bytes, bar)) {
            struct span left = t->entries[m->merges[i].left].bytes;
            if (left.len && !span_ends(left, bar)) m->crossed[(uint8_t)left.data[left.len - 1]] = true;
        }
    m->cut = true;
}

size_t bpe_cut_word(const struct bpe *m, struct span text, size_t at) {
    size_t i = at;
    while (i + 3 <= text.len && memcmp(text.data + i, lower_bar, 3) == 0) i += 3;
    while (i < text.len) {
        const char *p = memchr(text.data + i, lower_bar[0], text.len - i);
        if (!p) break;
        i = (size_t)(p - text.data);
        if (i + 3 <= text.len && memcmp(p, lower_bar, 3) == 0) {
            if (!m->crossed[(uint8_t)text.data[i - 1]]) return i;
            while (i + 3 <= text.len && memcmp(text.data + i, lower_bar, 3) == 0) i += 3;
            continue;
        }
        i++;
    }
    return text.len;
}
