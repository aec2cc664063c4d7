/*
 * Stage 4, the model: byte-pair encoding (Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"). In a word, the adjacent
 * pair with the lowest rank is merged, the leftmost of equals, until no pair has a rank. Short words by scanning (they are in cache and few),
 * long ones by a heap, so that a megabyte without a space costs O(n log n). A cache of the call remembers short words: text repeats itself.
 */
#include "base/alloc.h"
#include "tokenizer/internal.h"

enum {
    WORD_SCAN_MAX = 48,       /* bytes: up to here the scan is faster than the heap (measured) */
    CACHE_SLOTS = 8192,       /* × 48 bytes = 384 KB: stays in the second-level cache */
    CACHE_TEXT_MIN = 2048,    /* a shorter text repeats too little to pay for clearing the cache */
    CACHE_WORD_MAX = 16,
    CACHE_IDS_MAX = 6,
};

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 32);
}

int bpe_index(struct bpe *m, struct arena *arena) {
    size_t slots = 16;
    while (slots < (size_t)m->merge_count * 2) slots *= 2;
    m->mask = slots - 1;
    m->keys = arena_calloc(arena, slots, sizeof m->keys[0]);
    m->ranks = arena_calloc(arena, slots, sizeof m->ranks[0]);
    if (!m->keys || !m->ranks) return E_NOMEM;
    for (uint32_t rank = 0; rank < m->merge_count; rank++) {
        uint64_t key = ((uint64_t)m->merges[rank].left << 32 | m->merges[rank].right) + 1;
        size_t i = mix(key) & m->mask;
        while (m->keys[i] && m->keys[i] != key) i = (i + 1) & m->mask;
        /* A pair that is listed twice has its last rank, as in the reference implementation's map. */
        m->keys[i] = key;
        m->ranks[i] = rank;
    }
    return 0;
}

/* UINT32_MAX where the pair is never merged. */
static inline uint32_t rank_of(const struct bpe *m, uint32_t left, uint32_t right) {
    uint64_t key = ((uint64_t)left << 32 | right) + 1;
    for (size_t i = mix(key) & m->mask; m->keys[i]; i = (i + 1) & m->mask)
        if (m->keys[i] == key) return m->ranks[i];
    return UINT32_MAX;
}

struct cached_word {
    char bytes[CACHE_WORD_MAX];
    uint8_t len, id_count, size[CACHE_IDS_MAX]; /* bytes of each id's part: their offsets */
    uint32_t ids[CACHE_IDS_MAX];
};
struct symbol {
    uint32_t id, start, end; /* bytes of the word */
    uint32_t prev, next;
};
struct heap_item {
    uint32_t rank, at;       /* lowest rank first, then leftmost */
    uint32_t left, right;    /* stale where the symbols are others by now */
};
struct bpe_scratch {
    struct cached_word *cache; /* NULL for short texts */
    struct symbol *symbols;
    size_t symbol_capacity;
    struct heap_item *heap;
    size_t heap_len, heap_capacity;
};

struct bpe_scratch *bpe_scratch_new(size_t text_len) {
    struct bpe_scratch *s = mem_zalloc(sizeof *s);
    if (s && text_len >= CACHE_TEXT_MIN) {
        s->cache = mem_calloc(CACHE_SLOTS, sizeof s->cache[0]);
        if (!s->cache) {
            mem_free(s);
            return NULL;
        }
    }
    return s;
}

void bpe_scratch_free(struct bpe_scratch *s) {
    if (!s) return;
    mem_free(s->cache);
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

int bpe_encode_word(const struct tokenizer *t, struct bpe_scratch *s, struct span word, struct tokens *out, bool offsets, uint32_t base,
                    struct error *err) {
    const struct bpe *m = &t->bpe;
    int r = 0;
    struct cached_word *cached = NULL;
    if (s->cache && word.len <= CACHE_WORD_MAX) {
        uint64_t h = 0, h2 = word.len;
        memcpy(&h, word.data, word.len < 8 ? word.len : 8);
        if (word.len > 8) memcpy(&h2, word.data + 8, word.len - 8);
        cached = &s->cache[mix(h ^ mix(h2 + (word.len << 56))) & (CACHE_SLOTS - 1)];
        if (cached->len == word.len && memcmp(cached->bytes, word.data, word.len) == 0) {
            for (unsigned i = 0; i < cached->id_count; i++) {
                r = tokens_push(out, offsets, cached->ids[i], base, base + cached->size[i]);
                if (r) return error_set(err, r, "no memory for tokens");
                base += cached->size[i];
            }
            return 0;
        }
    }
    if (m->ignore_merges) {
        uint32_t id = tokenizer_find_model(t, word);
        if (id != TOKEN_NONE) return tokens_push(out, offsets, id, base, base + (uint32_t)word.len);
    }
    r = array_reserve(&s->symbols, &s->symbol_capacity, word.len < WORD_SCAN_MAX ? WORD_SCAN_MAX : word.len, sizeof s->symbols[0]);
    if (r) return error_set(err, r, "no memory for tokens");
    size_t n = 0;
    for (size_t i = 0; i < word.len; i++) {
        uint32_t id = m->bytes[(uint8_t)word.data[i]];
        if (id == TOKEN_NONE) continue; /* no such byte and no unknown token: left out, as the reference implementation does */
        s->symbols[n++] = (struct symbol){.id = id, .start = (uint32_t)i, .end = (uint32_t)i + 1};
    }
    if (n <= WORD_SCAN_MAX) n = merge_scan(m, s->symbols, n);
    else r = merge_heap(m, s, &n);
    for (size_t i = 0; !r && i < n; i++) r = tokens_push(out, offsets, s->symbols[i].id, base + s->symbols[i].start, base + s->symbols[i].end);
    if (r) return error_set(err, r, "no memory for tokens");
    if (cached && n <= CACHE_IDS_MAX && (n == 0 || s->symbols[n - 1].end == word.len) && (n == 0 || s->symbols[0].start == 0)) {
        bool dense = n > 0; /* offsets are kept as sizes: only where no byte was left out */
        for (size_t i = 1; i < n; i++) dense &= s->symbols[i].start == s->symbols[i - 1].end;
        if (dense) {
            memcpy(cached->bytes, word.data, word.len);
            cached->len = (uint8_t)word.len;
            cached->id_count = (uint8_t)n;
            for (size_t i = 0; i < n; i++) {
                cached->ids[i] = s->symbols[i].id;
                cached->size[i] = (uint8_t)(s->symbols[i].end - s->symbols[i].start);
            }
        }
    }
    return 0;
}
