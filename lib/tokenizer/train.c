/*
 * Byte-pair training in two phases. Feeding: documents are cut by GPT-2's pattern and each distinct word is counted (a corpus of any size becomes some
 * hundred thousand words). Merging: the count of every adjacent pair is kept exact, with the list of words it may be in; the most frequent pair comes off a heap
 * and only its words are touched. A heap entry is not updated in place: a pair whose count grew is pushed again, one whose count fell is pushed
 * back when it surfaces (`queued` tells the live entry from the superseded ones).
 * Total time is near linear in the sum of distinct words' lengths times the mean number of merges that a word sees.
 */
#include "tokenizer/train.h"

#include "base/alloc.h"
#include "tokenizer/internal.h"

struct word {
    uint64_t count;
    uint32_t start, len; /* first in `bytes`, while merging in `symbols` */
};
struct pair {
    uint64_t key;   /* left << 32 | right */
    uint64_t count; /* adjacent positions in all words, weighted */
    uint64_t queued; /* count of its live heap entry, 0: none */
    uint32_t *words; /* owned; may name a word twice or one that has the pair no more */
    size_t word_count, word_capacity;
    bool touched, merged, forbidden;
};
struct queued {
    uint64_t count, key;
    uint32_t pair;
};
struct tokenizer_trainer {
    struct tokenizer_train_options options;
    char *special_text[TOKENIZER_TRAIN_SPECIALS_MAX]; /* owned */
    size_t special_count;
    uint32_t words_max;
    /* words */
    char *bytes;
    size_t bytes_len, bytes_capacity;
    struct word *words;
    size_t word_count, word_capacity;
    uint32_t *slots; /* index + 1 */
    size_t mask;
    /* merging */
    uint32_t *symbols;
    struct pair *pairs;
    size_t pair_count, pair_capacity;
    uint32_t *pair_slots;
    size_t pair_mask;
    struct queued *heap;
    size_t heap_len, heap_capacity;
    uint32_t *touched; /* pairs that grew in this step */
    size_t touched_count, touched_capacity;
};

static const size_t bytes_max = UINT32_MAX; /* offsets of words are 32 bits; 4 M words of 256 bytes at most */

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 32);
}
static uint64_t hash_word(const char *s, size_t n) {
    uint64_t h = n;
    while (n >= 8) {
        uint64_t v;
        memcpy(&v, s, 8);
        h = mix(h ^ v) + v;
        s += 8;
        n -= 8;
    }
    if (n) {
        uint64_t v = 0;
        memcpy(&v, s, n);
        h = mix(h ^ v) + v;
    }
    return mix(h);
}

int tokenizer_trainer_new(struct tokenizer_trainer **out, const struct tokenizer_train_options *options, struct error *err) {
    static const char *const defaults[] = {TOKENIZER_END_OF_TEXT, TOKENIZER_IM_START, TOKENIZER_IM_END};
    const char *const *specials = options->specials ? options->specials : defaults;
    size_t special_count = options->specials ? options->special_count : sizeof defaults / sizeof defaults[0];
    if (special_count > TOKENIZER_TRAIN_SPECIALS_MAX) return error_set(err, E_INVALID, "more than %d special tokens", TOKENIZER_TRAIN_SPECIALS_MAX);
    if (options->vocab_size < special_count + 256 || options->vocab_size > TOKENIZER_VOCAB_MAX)
        return error_set_param(err, E_RANGE, "vocab_size", "vocab_size %u is not between %zu (the bytes and the special tokens) and %d", options->vocab_size,
                               special_count + 256, TOKENIZER_VOCAB_MAX);
    for (size_t i = 0; i < special_count; i++) {
        struct span s = span_str(specials[i]);
        if (!s.len || s.len > TOKENIZER_TOKEN_BYTES_MAX || !span_is_utf8(s)) return error_set(err, E_INVALID, "special token %zu is empty, too long or no UTF-8", i);
        if (s.len == 1) return error_set(err, E_INVALID, "special token %zu is a single byte, which is a token of its own", i);
        for (size_t k = 0; k < i; k++)
            if (span_eq_str(s, specials[k])) return error_set(err, E_INVALID, "special token %zu is there twice", i);
    }
    struct tokenizer_trainer *tr = mem_zalloc(sizeof *tr);
    if (!tr) return error_set(err, E_NOMEM, "no memory to train a tokenizer");
    tr->options = *options;
    tr->words_max = options->words_max ? options->words_max : TOKENIZER_TRAIN_WORDS_MAX;
    if (tr->words_max > TOKENIZER_TRAIN_WORDS_MAX) tr->words_max = TOKENIZER_TRAIN_WORDS_MAX;
    if (!tr->options.min_frequency) tr->options.min_frequency = 2;
    for (; tr->special_count < special_count; tr->special_count++) {
        tr->special_text[tr->special_count] = mem_strdup(specials[tr->special_count]);
        if (!tr->special_text[tr->special_count]) goto no_memory;
    }
    tr->mask = (1u << 14) - 1;
    tr->slots = mem_calloc(tr->mask + 1, sizeof tr->slots[0]);
    if (!tr->slots) goto no_memory;
    *out = tr;
    return 0;
no_memory:
    tokenizer_trainer_free(tr);
    return error_set(err, E_NOMEM, "no memory to train a tokenizer");
}

static void free_merging(struct tokenizer_trainer *tr) {
    for (size_t i = 0; i < tr->pair_count; i++) mem_free(tr->pairs[i].words);
    mem_free(tr->pairs);
    mem_free(tr->pair_slots);
    mem_free(tr->symbols);
    mem_free(tr->heap);
    mem_free(tr->touched);
    tr->pairs = NULL;
    tr->pair_slots = NULL;
    tr->symbols = NULL;
    tr->heap = NULL;
    tr->touched = NULL;
    tr->pair_count = tr->pair_capacity = tr->heap_len = tr->heap_capacity = tr->touched_count = tr->touched_capacity = 0;
}

void tokenizer_trainer_free(struct tokenizer_trainer *tr) {
    if (!tr) return;
    free_merging(tr);
    for (size_t i = 0; i < tr->special_count; i++) mem_free(tr->special_text[i]);
    mem_free(tr->bytes);
    mem_free(tr->words);
    mem_free(tr->slots);
    mem_free(tr);
}

/* ---- feeding ---- */

static int grow_slots(struct tokenizer_trainer *tr) {
    size_t mask = tr->mask * 2 + 1;
    uint32_t *slots = mem_calloc(mask + 1, sizeof slots[0]);
    if (!slots) return E_NOMEM;
    for (size_t w = 0; w < tr->word_count; w++) {
        size_t i = hash_word(tr->bytes + tr->words[w].start, tr->words[w].len) & mask;
        while (slots[i]) i = (i + 1) & mask;
        slots[i] = (uint32_t)w + 1;
    }
    mem_free(tr->slots);
    tr->slots = slots;
    tr->mask = mask;
    return 0;
}

static int count_word(struct tokenizer_trainer *tr, const char *s, size_t n) {
    size_t i = hash_word(s, n) & tr->mask;
    for (; tr->slots[i]; i = (i + 1) & tr->mask) {
        struct word *w = &tr->words[tr->slots[i] - 1];
        if (w->len == n && memcmp(tr->bytes + w->start, s, n) == 0) {
            w->count++;
            return 0;
        }
    }
    if (tr->word_count >= tr->words_max || n > bytes_max - tr->bytes_len) return E_FULL;
    int r = array_reserve(&tr->words, &tr->word_capacity, tr->word_count + 1, sizeof tr->words[0]);
    if (!r) r = array_reserve(&tr->bytes, &tr->bytes_capacity, tr->bytes_len + n, 1);
    if (r) return r;
    memcpy(tr->bytes + tr->bytes_len, s, n);
    tr->words[tr->word_count] = (struct word){.count = 1, .start = (uint32_t)tr->bytes_len, .len = (uint32_t)n};
    tr->bytes_len += n;
    tr->slots[i] = (uint32_t)++tr->word_count;
    return tr->word_count * 2 > tr->mask ? grow_slots(tr) : 0;
}

int tokenizer_trainer_feed(struct tokenizer_trainer *tr, struct span document, struct error *err) {
    if (!span_is_utf8(document)) return error_set(err, E_INVALID, "the document is no UTF-8");
    size_t at = 0;
    while (at < document.len) {
        size_t n = pretokenizer_match_gpt2(document.data + at, document.len - at);
        while (n) {
            size_t piece = n;
            if (piece > TOKENIZER_TRAIN_WORD_BYTES_MAX) {
                piece = TOKENIZER_TRAIN_WORD_BYTES_MAX;
                while (((uint8_t)document.data[at + piece] & 0xC0) == 0x80) piece--;
            }
            int r = count_word(tr, document.data + at, piece);
            if (r == E_FULL) return error_set(err, r, "the documents have more than %u distinct words", tr->words_max);
            if (r) return error_set(err, r, "no memory to train a tokenizer");
            at += piece;
            n -= piece;
        }
    }
    return 0;
}

/* ---- merging ---- */

/* Most frequent first; of equals the lower left id, then the lower right one. */
static bool before(const struct queued *a, const struct queued *b) { return a->count != b->count ? a->count > b->count : a->key < b->key; }

static int heap_push(struct tokenizer_trainer *tr, uint32_t pair) {
    int r = array_reserve(&tr->heap, &tr->heap_capacity, tr->heap_len + 1, sizeof tr->heap[0]);
    if (r) return r;
    struct pair *p = &tr->pairs[pair];
    p->queued = p->count;
    struct queued item = {p->count, p->key, pair};
    size_t i = tr->heap_len++;
    while (i > 0 && before(&item, &tr->heap[(i - 1) / 2])) {
        tr->heap[i] = tr->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    tr->heap[i] = item;
    return 0;
}

static struct queued heap_pop(struct tokenizer_trainer *tr) {
    struct queued top = tr->heap[0], item = tr->heap[--tr->heap_len];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= tr->heap_len) break;
        if (child + 1 < tr->heap_len && before(&tr->heap[child + 1], &tr->heap[child])) child++;
        if (!before(&tr->heap[child], &item)) break;
        tr->heap[i] = tr->heap[child];
        i = child;
    }
    if (tr->heap_len) tr->heap[i] = item;
    return top;
}

static int grow_pair_slots(struct tokenizer_trainer *tr) {
    size_t mask = tr->pair_mask * 2 + 1;
    uint32_t *slots = mem_calloc(mask + 1, sizeof slots[0]);
    if (!slots) return E_NOMEM;
    for (size_t p = 0; p < tr->pair_count; p++) {
        size_t i = mix(tr->pairs[p].key) & mask;
        while (slots[i]) i = (i + 1) & mask;
        slots[i] = (uint32_t)p + 1;
    }
    mem_free(tr->pair_slots);
    tr->pair_slots = slots;
    tr->pair_mask = mask;
    return 0;
}

static int pair_get(struct tokenizer_trainer *tr, uint32_t left, uint32_t right, uint32_t *pair) {
    uint64_t key = (uint64_t)left << 32 | right;
    size_t i = mix(key) & tr->pair_mask;
    for (; tr->pair_slots[i]; i = (i + 1) & tr->pair_mask)
        if (tr->pairs[tr->pair_slots[i] - 1].key == key) {
            *pair = tr->pair_slots[i] - 1;
            return 0;
        }
    int r = array_reserve(&tr->pairs, &tr->pair_capacity, tr->pair_count + 1, sizeof tr->pairs[0]);
    if (r) return r;
    tr->pairs[tr->pair_count] = (struct pair){.key = key};
    *pair = (uint32_t)tr->pair_count;
    tr->pair_slots[i] = (uint32_t)++tr->pair_count;
    return tr->pair_count * 2 > tr->pair_mask ? grow_pair_slots(tr) : 0;
}

/* One more place of a pair, in word w. */
static int pair_add(struct tokenizer_trainer *tr, uint32_t left, uint32_t right, uint32_t w) {
    uint32_t index;
    int r = pair_get(tr, left, right, &index);
    if (r) return r;
    struct pair *p = &tr->pairs[index];
    if (!p->word_count || p->words[p->word_count - 1] != w) {
        r = array_reserve(&p->words, &p->word_capacity, p->word_count + 1, sizeof p->words[0]);
        if (r) return r;
        p->words[p->word_count++] = w;
    }
    if (!p->touched) {
        r = array_reserve(&tr->touched, &tr->touched_capacity, tr->touched_count + 1, sizeof tr->touched[0]);
        if (r) return r;
        tr->touched[tr->touched_count++] = index;
        p->touched = true;
    }
    p->count += tr->words[w].count;
    return 0;
}

static int pair_drop(struct tokenizer_trainer *tr, uint32_t left, uint32_t right, uint32_t w) {
    uint32_t index;
    int r = pair_get(tr, left, right, &index);
    if (r) return r;
    ASSERT(tr->pairs[index].count >= tr->words[w].count);
    tr->pairs[index].count -= tr->words[w].count;
    return 0;
}

/* Queues the pairs that grew since the last call. */
static int queue_touched(struct tokenizer_trainer *tr) {
    int r = 0;
    for (size_t i = 0; !r && i < tr->touched_count; i++) {
        struct pair *p = &tr->pairs[tr->touched[i]];
        p->touched = false;
        if (p->count && p->count != p->queued && !p->forbidden) r = heap_push(tr, tr->touched[i]);
    }
    tr->touched_count = 0;
    return r;
}

/* Replaces left right by result in word w, left to right, and keeps all counts. */
static int merge_in_word(struct tokenizer_trainer *tr, uint32_t w, uint32_t left, uint32_t right, uint32_t result) {
    struct word *word = &tr->words[w];
    uint32_t *s = tr->symbols + word->start, n = word->len, to = 0;
    int r = 0;
    for (uint32_t i = 0; i < n && !r;) {
        if (i + 1 < n && s[i] == left && s[i + 1] == right) {
            r = pair_drop(tr, left, right, w);
            if (!r && to > 0) r = pair_drop(tr, s[to - 1], left, w);
            if (!r && to > 0) r = pair_add(tr, s[to - 1], result, w);
            if (!r && i + 2 < n) r = pair_drop(tr, right, s[i + 2], w);
            if (!r && i + 2 < n) r = pair_add(tr, result, s[i + 2], w);
            s[to++] = result;
            i += 2;
        } else {
            s[to++] = s[i++];
        }
    }
    word->len = to;
    return r;
}

static int begin_merging(struct tokenizer_trainer *tr, const uint32_t byte_ids[256]) {
    tr->pair_mask = (1u << 16) - 1;
    tr->pair_slots = mem_calloc(tr->pair_mask + 1, sizeof tr->pair_slots[0]);
    tr->symbols = mem_calloc(tr->bytes_len + 1, sizeof tr->symbols[0]);
    if (!tr->pair_slots || !tr->symbols) return E_NOMEM;
    for (size_t i = 0; i < tr->bytes_len; i++) tr->symbols[i] = byte_ids[(uint8_t)tr->bytes[i]];
    int r = 0;
    for (size_t w = 0; !r && w < tr->word_count; w++)
        for (uint32_t i = 0; !r && i + 1 < tr->words[w].len; i++)
            r = pair_add(tr, tr->symbols[tr->words[w].start + i], tr->symbols[tr->words[w].start + i + 1], (uint32_t)w);
    return r ? r : queue_touched(tr);
}

/* The id of exactly these bytes among entries[0..count), by `slots`. */
static uint32_t *text_slot(const struct token_entry *entries, uint32_t *slots, size_t mask, struct span bytes) {
    size_t i = hash_word(bytes.data, bytes.len) & mask;
    while (slots[i] && !span_eq(entries[slots[i] - 1].bytes, bytes)) i = (i + 1) & mask;
    return &slots[i];
}

int tokenizer_trainer_finish(struct tokenizer_trainer *tr, struct tokenizer **out, void *arg, tokenizer_trainer_progress on_progress,
                             struct error *err) {
    const uint32_t wanted = tr->options.vocab_size;
    uint32_t *slots = NULL, byte_ids[256];
    char *joined = NULL;
    int r = E_NOMEM;
    struct tokenizer *t = tokenizer_alloc();
    if (!t) goto out;
    t->entries = arena_calloc(&t->arena, wanted, sizeof t->entries[0]);
    t->added = arena_calloc(&t->arena, tr->special_count + 1, sizeof t->added[0]);
    size_t merge_capacity = 0;
    struct bpe_merge *merges = NULL;
    size_t mask = 1023;
    while (mask < (size_t)wanted * 2) mask = mask * 2 + 1;
    slots = mem_calloc(mask + 1, sizeof slots[0]);
    joined = mem_alloc(2 * TOKENIZER_TOKEN_BYTES_MAX);
    if (!t->entries || !t->added || !slots || !joined) goto out;
    for (size_t i = 0; i < tr->special_count; i++) {
        struct span text = arena_span(&t->arena, span_str(tr->special_text[i]));
        if (!text.data) goto out;
        bool raw;
        char *bytes = arena_alloc(&t->arena, text.len + 1);
        if (!bytes) goto out;
        t->entries[i].bytes = span_of(bytes, alphabet_read(text, bytes, &raw));
        t->entries[i].raw = raw;
        t->entries[i].present = t->entries[i].special = t->entries[i].in_model = true;
        t->added[t->added_count++] = (struct added_token){.content = text, .id = (uint32_t)i, .special = true};
        *text_slot(t->entries, slots, mask, t->entries[i].bytes) = (uint32_t)i + 1;
    }
    uint32_t count = (uint32_t)tr->special_count;
    for (unsigned i = 0; i < 256; i++) {
        struct span byte = arena_span(&t->arena, span_of(&alphabet_order[i], 1));
        if (!byte.data) goto out;
        t->entries[count] = (struct token_entry){.bytes = byte, .present = true, .in_model = true};
        byte_ids[alphabet_order[i]] = count;
        *text_slot(t->entries, slots, mask, byte) = ++count;
    }
    r = begin_merging(tr, byte_ids);
    while (!r && count < wanted && tr->heap_len) {
        struct queued top = heap_pop(tr);
        struct pair *p = &tr->pairs[top.pair];
        if (top.count != p->queued) continue; /* superseded */
        if (p->count != top.count) {          /* fell since it was queued */
            p->queued = 0;
            if (p->count) r = heap_push(tr, top.pair);
            continue;
        }
        if (p->count < tr->options.min_frequency) break;
        p->queued = 0;
        uint32_t left = (uint32_t)(p->key >> 32), right = (uint32_t)p->key, result;
        struct span a = t->entries[left].bytes, b = t->entries[right].bytes;
        struct span text = {joined, a.len + b.len}; /* words have at most TOKENIZER_TRAIN_WORD_BYTES_MAX */
        memcpy(joined, a.data, a.len);
        memcpy(joined + a.len, b.data, b.len);
        uint32_t *slot = text_slot(t->entries, slots, mask, text);
        if (*slot && t->entries[*slot - 1].special) { /* plain text must never become a special token */
            p->forbidden = true;
            continue;
        }
        if (!*slot) {
            struct span kept = arena_span(&t->arena, text);
            if (!kept.data) {
                r = E_NOMEM;
                break;
            }
            t->entries[count] = (struct token_entry){.bytes = kept, .present = true, .in_model = true};
            *slot = ++count;
        }
        result = *slot - 1;
        if (!p->merged) { /* one whose parts came to be again in another way has its rank already */
            r = array_reserve(&merges, &merge_capacity, (size_t)t->bpe.merge_count + 1, sizeof merges[0]);
            if (r) break;
            merges[t->bpe.merge_count++] = (struct bpe_merge){left, right, result};
            p->merged = true;
        }
        uint32_t *words = p->words;
        size_t word_count = p->word_count;
        p->words = NULL;
        p->word_count = p->word_capacity = 0;
        for (size_t i = 0; !r && i < word_count; i++) r = merge_in_word(tr, words[i], left, right, result);
        mem_free(words);
        if (!r) r = queue_touched(tr);
        if (!r && on_progress && count % 64 == 0) r = on_progress(arg, count, wanted);
    }
    if (!r) {
        t->bpe.merges = arena_calloc(&t->arena, (size_t)t->bpe.merge_count + 1, sizeof merges[0]);
        if (!t->bpe.merges) r = E_NOMEM;
        else if (t->bpe.merge_count) memcpy(t->bpe.merges, merges, t->bpe.merge_count * sizeof merges[0]);
    }
    mem_free(merges);
    if (r) goto out;
    t->entry_count = count;
    t->pretokenizer = (struct pretokenizer){.steps = {{.match = pretokenizer_match_gpt2, .behavior = SPLIT_ISOLATED}}, .count = 1, .byte_level = true};
    t->normalizer_json = SPAN("null");
    t->pretokenizer_json = SPAN("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}");
    t->postprocessor_json = SPAN("{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,\"use_regex\":true}");
    t->decoder_json = SPAN("{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}");
    if (tr->special_count) t->bos = t->eos = t->pad = 0;
    t->byte_level = true;
    t->decoder = (struct decoder){.steps = {{.kind = DECODER_BYTE_LEVEL}}, .count = 1, .plain = true};
    r = tokenizer_index(t, true, err);
    if (!r) r = tokenizer_finish(t, err);
out:
    if (r == E_NOMEM) error_set(err, r, "no memory to train a tokenizer");
    mem_free(slots);
    mem_free(joined);
    if (tr->symbols) { /* the words are merged: nothing can be fed any more */
        tr->word_count = 0;
        tr->bytes_len = 0;
        memset(tr->slots, 0, (tr->mask + 1) * sizeof tr->slots[0]);
    }
    free_merging(tr);
    if (r) tokenizer_free(t);
    else *out = t;
    return r;
}
