/* Stage 4: a piece's ids from whichever model the tokenizer has. A cache of the call remembers short words: text repeats itself. */
#include "base/alloc.h"
#include "tokenizer/internal.h"

enum {
    CACHE_SLOTS = 8192,    /* × 48 bytes = 384 KB: stays in the second-level cache */
    CACHE_SLOTS_LONG = 32768, /* of a text that has words enough for them */
    CACHE_TEXT_LONG = 256 << 10,
    CACHE_TEXT_MIN = 2048, /* a shorter text repeats too little to pay for clearing the cache */
    CACHE_WORD_MAX = 16,
    CACHE_IDS_MAX = 6,
};

struct cached_word {
    uint64_t head, tail; /* the word's bytes, as word_key gives them */
    uint8_t len, id_count, size[CACHE_IDS_MAX]; /* bytes of each id's part: their offsets */
    uint32_t ids[CACHE_IDS_MAX];
};
struct scratch {
    struct cached_word *cache; /* NULL for short texts */
    size_t cache_mask;
    struct bpe_scratch *bpe;
    struct unigram_scratch *unigram;
    struct tokens own; /* with offsets, of a word on its way into the cache */
};

struct scratch *model_scratch_new(size_t text_len) {
    struct scratch *s = mem_zalloc(sizeof *s);
    if (!s) return NULL;
    bool cached = text_len >= CACHE_TEXT_MIN;
    s->cache_mask = (text_len >= CACHE_TEXT_LONG ? CACHE_SLOTS_LONG : CACHE_SLOTS) - 1;
    if (cached) s->cache = mem_calloc(s->cache_mask + 1, sizeof s->cache[0]);
    s->bpe = bpe_scratch_new();
    s->unigram = unigram_scratch_new();
    if ((cached && !s->cache) || !s->bpe || !s->unigram) {
        model_scratch_free(s);
        return NULL;
    }
    return s;
}

void model_scratch_free(struct scratch *s) {
    if (!s) return;
    bpe_scratch_free(s->bpe);
    unigram_scratch_free(s->unigram);
    tokens_fini(&s->own);
    mem_free(s->cache);
    mem_free(s);
}

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 32);
}

static int encode_uncached(const struct tokenizer *t, struct scratch *s, struct span word, struct tokens *out, bool offsets, uint32_t base, struct error *err) {
    uint32_t id;
    int r;
    switch (t->model) {
    case MODEL_BPE: return bpe_encode_word(t, s->bpe, word, out, offsets, base, err);
    case MODEL_WORDPIECE: return wordpiece_encode_word(t, word, out, offsets, base, err);
    case MODEL_UNIGRAM: return unigram_encode_word(t, s->unigram, word, out, offsets, base, err);
    case MODEL_WORDLEVEL:
        id = tokenizer_find_model(t, word);
        if (id == TOKEN_NONE) id = t->unk;
        if (id == TOKEN_NONE) return error_set(err, E_INVALID, "the word \"%.*s\" is not in the vocabulary, which has no unknown token", SPAN_ARG(span_sub(word, 0, 60)));
        r = tokens_push(out, offsets, id, base, base + (uint32_t)word.len);
        return r ? error_set(err, r, "no memory for tokens") : 0;
    }
    return error_set(err, E_INTERNAL, "a model of no kind");
}

/* The bytes of a word of 1 to 16, in two numbers that with its length are no other word's. Fixed sizes: each load is one instruction. */
static inline void word_key(struct span w, uint64_t *head, uint64_t *tail) {
    uint32_t a, b;
    if (w.len >= 8) {
        memcpy(head, w.data, 8);
        memcpy(tail, w.data + w.len - 8, 8);
    } else if (w.len >= 4) {
        memcpy(&a, w.data, 4);
        memcpy(&b, w.data + w.len - 4, 4);
        *head = a;
        *tail = b;
    } else {
        *head = (uint8_t)w.data[0];
        *tail = (uint64_t)(uint8_t)w.data[w.len / 2] << 8 | (uint8_t)w.data[w.len - 1];
    }
}

static int encode_word(const struct tokenizer *t, struct scratch *s, struct span word, struct tokens *out, bool offsets, uint32_t base, struct error *err) {
    if (!s->cache || word.len > CACHE_WORD_MAX || !word.len) return encode_uncached(t, s, word, out, offsets, base, err);
    uint64_t head, tail;
    word_key(word, &head, &tail);
    struct cached_word *c = &s->cache[mix(head ^ mix(tail + ((uint64_t)word.len << 56))) & s->cache_mask];
    int r = 0;
    if (c->len == word.len && c->head == head && c->tail == tail) {
        if (!offsets && out->capacity - out->len >= CACHE_IDS_MAX) { /* all of them: what is beyond id_count is written over by the next */
            memcpy(out->ids + out->len, c->ids, sizeof c->ids);
            out->len += c->id_count;
            return 0;
        }
        for (unsigned i = 0; !r && i < c->id_count; i++) {
            r = tokens_push(out, offsets, c->ids[i], base, base + c->size[i]);
            base += c->size[i];
        }
        return r ? error_set(err, r, "no memory for tokens") : 0;
    }
    size_t first = out->len;
    /* Offsets are kept as sizes, and only a word whose tokens leave nothing out can be kept: so they are asked for here. */
    struct token_offset where[CACHE_IDS_MAX];
    struct tokens *own = &s->own;
    if (!offsets) {
        tokens_clear(own);
        r = encode_uncached(t, s, word, own, true, base, err);
        for (size_t i = 0; !r && i < own->len; i++) r = tokens_push(out, false, own->ids[i], 0, 0);
        if (r == E_NOMEM) error_set(err, r, "no memory for tokens");
    } else {
        r = encode_uncached(t, s, word, out, true, base, err);
    }
    size_t n = r ? 0 : out->len - first;
    bool dense = n > 0 && n <= CACHE_IDS_MAX;
    if (dense) memcpy(where, offsets ? out->offsets + first : own->offsets, n * sizeof where[0]);
    for (size_t i = 0; dense && i < n; i++) dense = where[i].start == (i ? where[i - 1].end : base);
    if (dense && where[n - 1].end == base + word.len) {
        c->head = head;
        c->tail = tail;
        c->len = (uint8_t)word.len;
        c->id_count = (uint8_t)n;
        for (size_t i = 0; i < n; i++) {
            c->ids[i] = out->ids[first + i];
            c->size[i] = (uint8_t)(where[i].end - where[i].start);
        }
    }
    return r;
}

int model_encode(const struct tokenizer *t, struct scratch *s, struct span word, struct tokens *out, bool offsets, uint32_t base, struct error *err) {
    if (t->model != MODEL_BPE || !t->bpe.cut) return encode_word(t, s, word, out, offsets, base, err);
    int r = 0;
    for (size_t at = 0; !r && at < word.len;) {
        size_t end = bpe_cut_word(&t->bpe, word, at);
        r = encode_word(t, s, span_sub(word, at, end - at), out, offsets, base + (uint32_t)at, err);
        at = end;
    }
    return r;
}
