/* The tokenizer itself: the vocabulary's index, and encoding through the stages. Files are tokenizer_file.c's. */
#include "tokenizer/tokenizer.h"

#include "base/alloc.h"
#include "tokenizer/internal.h"

static const size_t arena_max = (size_t)1 << 30; /* a vocabulary of TOKENIZER_VOCAB_MAX with its index takes 400 MB */

/* ---- ids that grow ---- */

void tokens_fini(struct tokens *ids) {
    mem_free(ids->ids);
    mem_free(ids->offsets);
    *ids = (struct tokens){.ids = NULL};
}
void tokens_clear(struct tokens *ids) { ids->len = 0; }

int tokens_push(struct tokens *out, bool offsets, uint32_t id, uint32_t start, uint32_t end) {
    int r = 0;
    if (out->len == out->capacity) r = array_reserve(&out->ids, &out->capacity, out->len + 1, sizeof out->ids[0]);
    if (!r && offsets && out->len >= out->offsets_capacity)
        r = array_reserve(&out->offsets, &out->offsets_capacity, out->capacity, sizeof out->offsets[0]);
    if (r) return r;
    out->ids[out->len] = id;
    if (offsets) out->offsets[out->len] = (struct token_offset){start, end};
    out->len++;
    return 0;
}

/* ---- the vocabulary ---- */

struct tokenizer *tokenizer_alloc(void) {
    struct tokenizer *t = mem_zalloc(sizeof *t);
    if (!t) return NULL;
    arena_init(&t->arena, arena_max);
    t->bos = t->eos = t->pad = t->unk = TOKEN_NONE;
    return t;
}

void tokenizer_free(struct tokenizer *t) {
    if (!t) return;
    token_trie_fini(&t->trie);
    token_regex_free_list(t->regexes);
    arena_fini(&t->arena);
    mem_free(t);
}

static int no_memory(struct error *err) { return error_set(err, E_NOMEM, "no memory for the tokenizer"); }

/* Up to eight bytes as a number that with their count is no others'. Loads of fixed sizes: a copy of n bytes is a call. */
static inline uint64_t load_short(const char *p, size_t n) {
    uint32_t a, b;
    if (n < 4) return n ? (uint64_t)(uint8_t)p[0] << 16 | (uint64_t)(uint8_t)p[n / 2] << 8 | (uint8_t)p[n - 1] : 0;
    memcpy(&a, p, 4);
    memcpy(&b, p + n - 4, 4);
    return (uint64_t)b << 32 | a;
}
static inline uint64_t load_eight(const char *p) {
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

static inline uint64_t hash_bytes(const char *p, size_t n) {
    uint64_t h = n * 0x9E3779B97F4A7C15u;
    for (; n > 8; p += 8, n -= 8) {
        h = (h ^ load_eight(p)) * 0xFF51AFD7ED558CCDu;
        h ^= h >> 32;
    }
    h = (h ^ load_short(p, n)) * 0xFF51AFD7ED558CCDu;
    return h ^ h >> 32;
}

/* Of texts of a few bytes, where a call would be most of it. */
static inline bool same_bytes(const char *a, const char *b, size_t n) {
    if (n <= 8) return load_short(a, n) == load_short(b, n);
    if (n > 32) return memcmp(a, b, n) == 0;
    for (size_t i = 0; i + 8 < n; i += 8)
        if (load_eight(a + i) != load_eight(b + i)) return false;
    return load_eight(a + n - 8) == load_eight(b + n - 8);
}

static inline uint32_t slot_tag(uint64_t h, bool raw, size_t len) {
    return (uint32_t)(h >> 41) << 9 | (uint32_t)raw << 8 | (uint32_t)(len < 255 ? len : 255);
}
static inline bool slot_is(const struct tokenizer *t, const struct token_slot *s, struct span bytes, uint32_t tag) {
    if (s->tag != tag || (bytes.len >= 255 && t->entries[s->id - 1].bytes.len != bytes.len)) return false;
    return same_bytes(s->data, bytes.data, bytes.len);
}

static inline uint32_t find_hashed(const struct tokenizer *t, struct span bytes, bool raw, uint64_t h) {
    uint32_t tag = slot_tag(h, raw, bytes.len);
    for (size_t i = h & t->by_bytes_mask; t->by_bytes[i].id; i = (i + 1) & t->by_bytes_mask)
        if (slot_is(t, &t->by_bytes[i], bytes, tag)) return t->by_bytes[i].id - 1;
    return TOKEN_NONE;
}
uint32_t tokenizer_find_entry(const struct tokenizer *t, struct span bytes, bool raw) { return find_hashed(t, bytes, raw, hash_bytes(bytes.data, bytes.len)); }
void tokenizer_find_entries(const struct tokenizer *t, struct token_key *keys, size_t count) {
    for (size_t k = 0; k < count; k++) {
        keys[k].hash = hash_bytes(keys[k].bytes.data, keys[k].bytes.len);
        __builtin_prefetch(&t->by_bytes[keys[k].hash & t->by_bytes_mask]);
    }
    for (size_t k = 0; k < count; k++) {
        const struct token_slot *slot = &t->by_bytes[keys[k].hash & t->by_bytes_mask];
        if (slot->id) __builtin_prefetch(slot->data);
    }
    for (size_t k = 0; k < count; k++) keys[k].id = find_hashed(t, keys[k].bytes, keys[k].raw, keys[k].hash);
}
uint32_t tokenizer_find_model(const struct tokenizer *t, struct span bytes) { return tokenizer_find_entry(t, bytes, !t->byte_level); }

int tokenizer_index(struct tokenizer *t, bool unique, struct error *err) {
    size_t slots = 16;
    while (slots < (size_t)t->entry_count * 2) slots *= 2;
    t->by_bytes_mask = slots - 1;
    t->by_bytes = arena_calloc(&t->arena, slots, sizeof t->by_bytes[0]);
    if (!t->by_bytes) return no_memory(err);
    for (unsigned b = 0; b < 256; b++) t->bpe.bytes[b] = t->byte_ids[b] = TOKEN_NONE;
    for (uint32_t id = t->entry_count; id-- > 0;) { /* backwards: of equal texts (Unigram may have them) the last is found */
        const struct token_entry *e = &t->entries[id];
        if (!e->in_model) continue;
        bool usable = e->raw != t->byte_level;
        if (e->bytes.len == 1 && usable && t->bpe.bytes[(uint8_t)e->bytes.data[0]] == TOKEN_NONE) t->bpe.bytes[(uint8_t)e->bytes.data[0]] = id;
        int byte = usable ? byte_token(e->bytes) : -1;
        if (byte >= 0 && t->byte_ids[byte] == TOKEN_NONE) t->byte_ids[byte] = id;
        uint64_t h = hash_bytes(e->bytes.data, e->bytes.len);
        uint32_t tag = slot_tag(h, e->raw, e->bytes.len);
        size_t i = h & t->by_bytes_mask;
        for (; t->by_bytes[i].id; i = (i + 1) & t->by_bytes_mask)
            if (unique && slot_is(t, &t->by_bytes[i], e->bytes, tag))
                return error_set(err, E_INVALID, "model.vocab: a token comes twice, as %u and %u", id, t->by_bytes[i].id - 1);
        t->by_bytes[i] = (struct token_slot){e->bytes.data, tag, id + 1};
    }
    return 0;
}

/* What needs the added tokens' normal forms and the merges too. */
int tokenizer_finish(struct tokenizer *t, struct error *err) {
    for (size_t i = 0; i < t->added_count; i++) {
        struct added_token *a = &t->added[i];
        struct normalizing n;
        struct span made = a->content;
        a->normal = a->content;
        if (!a->normalized || !t->normalizer.count) continue;
        int r = normalizer_run(&t->normalizer, a->content, false, &n, &made, err);
        if (r) return r;
        if (n.count) a->normal = arena_span(&t->arena, made);
        normalizing_fini(&n);
        if (!a->normal.data) return no_memory(err);
        struct token_entry *e = &t->entries[a->id];
        if (span_eq(a->normal, a->content) || e->in_model) continue;
        char *bytes = arena_alloc(&t->arena, a->normal.len + 1); /* what was found is what it gives back, as in the reference implementation */
        if (!bytes) return no_memory(err);
        e->raw = true;
        e->bytes = (struct span){bytes, a->normal.len};
        if (t->byte_level) e->bytes.len = alphabet_read(a->normal, bytes, &e->raw);
        else memcpy(bytes, a->normal.data, a->normal.len);
    }
    if (added_set_init(&t->added_raw, t->added, t->added_count, false, &t->arena) ||
        added_set_init(&t->added_normalized, t->added, t->added_count, true, &t->arena) || bpe_index(&t->bpe, &t->arena))
        return no_memory(err);
    bpe_find_cut(t);
    return 0;
}

struct span tokenizer_entry_text(const struct tokenizer *t, uint32_t id, struct buf *scratch) {
    const struct token_entry *e = &t->entries[id];
    if (e->raw || alphabet_write(e->bytes, scratch)) return e->bytes;
    return buf_span(scratch);
}

uint32_t tokenizer_vocab_size(const struct tokenizer *t) { return t->entry_count; }
struct span tokenizer_token_bytes(const struct tokenizer *t, uint32_t id) {
    if (id >= t->entry_count) return (struct span){NULL, 0};
    return t->entries[id].shown.data ? t->entries[id].shown : t->entries[id].bytes;
}
uint32_t tokenizer_find(const struct tokenizer *t, struct span bytes) {
    for (size_t i = 0; i < t->added_count; i++)
        if (span_eq(t->added[i].content, bytes)) return t->added[i].id;
    return tokenizer_find_model(t, bytes);
}
bool tokenizer_is_special(const struct tokenizer *t, uint32_t id) { return id < t->entry_count && t->entries[id].special; }
uint32_t tokenizer_bos(const struct tokenizer *t) { return t->bos; }
uint32_t tokenizer_eos(const struct tokenizer *t) { return t->eos; }
uint32_t tokenizer_pad(const struct tokenizer *t) { return t->pad; }
void tokenizer_set_special(struct tokenizer *t, uint32_t bos, uint32_t eos, uint32_t pad) {
    t->bos = bos;
    t->eos = eos;
    t->pad = pad;
}

/* ---- encoding ---- */

struct encoding {
    const struct tokenizer *t;
    struct scratch *scratch;
    struct splitter splitter;
    struct tokens *out;
    bool offsets;
    struct error *err;
};

/* A stretch without added tokens; `at` is its place in the text whose offsets are meant. */
static int encode_stretch(struct encoding *e, struct span text, size_t at, bool begins) {
    if (!text.len) return 0;
    struct splitter *s = &e->splitter;
    struct span piece;
    int r;
    splitter_reset(s, text, begins);
    while ((r = splitter_next(s, &piece, e->err)) > 0) {
        size_t first = e->out->len;
        r = model_encode(e->t, e->scratch, piece, e->out, e->offsets, 0, e->err);
        if (r) return r;
        if (!e->offsets) continue;
        for (size_t i = first; i < e->out->len; i++) {
            size_t start = e->out->offsets[i].start, end = e->out->offsets[i].end;
            splitter_origin(s, &start, &end);
            e->out->offsets[i] = (struct token_offset){(uint32_t)(at + start), (uint32_t)(at + end)};
        }
    }
    return r;
}

/* A stretch between raw added tokens, which begins at `at` of the text: normalized, then cut at the added tokens that want that. */
static int encode_segment(struct encoding *e, struct span text, size_t at, struct trust *trust) {
    const struct tokenizer *t = e->t;
    struct normalizing n;
    struct span normal;
    size_t first = e->out->len;
    bool track = e->offsets || (trust->pieces && t->added_normalized.count) || t->pretokenizer.first;
    int r = normalizer_run(&t->normalizer, text, track, &n, &normal, e->err);
    if (r) return r;
    bool changed = n.count > 0;
    size_t base = changed ? 0 : at;
    trust->shift = at;
    trust->normalized = changed ? &n : NULL;
    for (size_t from = 0; !r && from < normal.len;) {
        struct added_match m = added_find(&t->added_normalized, normal, from, trust);
        bool begins = at == 0 && from == 0;
        if (begins && changed && t->pretokenizer.first) {
            size_t start = 0, end = 1;
            normalizing_origin(&n, &start, &end);
            begins = start == 0;
        }
        r = encode_stretch(e, span_sub(normal, from, m.start - from), base + from, begins);
        if (!r && m.token) {
            r = tokens_push(e->out, e->offsets, m.token->id, (uint32_t)(base + m.start), (uint32_t)(base + m.end));
            if (r) error_set(e->err, r, "no memory for tokens");
        }
        from = m.end;
    }
    if (changed && e->offsets)
        for (size_t i = first; i < e->out->len; i++) {
            size_t start = e->out->offsets[i].start, end = e->out->offsets[i].end;
            normalizing_origin(&n, &start, &end);
            e->out->offsets[i] = (struct token_offset){(uint32_t)(at + start), (uint32_t)(at + end)};
        }
    trust->normalized = NULL;
    trust->shift = 0;
    normalizing_fini(&n);
    return r;
}

/* The text's own ids; what a post-processor adds is not among them. */
static int encode_text(const struct tokenizer *t, struct span text, struct trust *trust, unsigned flags, struct tokens *out, struct error *err) {
    if (text.len > TOKENIZER_TEXT_MAX) return error_set(err, E_TOO_LARGE, "the text has more than %d bytes", TOKENIZER_TEXT_MAX);
    struct encoding e = {.t = t, .out = out, .offsets = flags & TOKENIZER_OFFSETS, .err = err};
    e.scratch = model_scratch_new(text.len);
    if (!e.scratch) return error_set(err, E_NOMEM, "no memory for tokens");
    splitter_init(&e.splitter, &t->pretokenizer, text, true, e.offsets);
    size_t len = out->len;
    int r = 0;
    for (size_t from = 0; !r && from < text.len;) {
        struct added_match m = added_find(&t->added_raw, text, from, trust);
        if (m.start > from) r = encode_segment(&e, span_sub(text, from, m.start - from), from, trust);
        if (!r && m.token) {
            r = tokens_push(out, e.offsets, m.token->id, (uint32_t)m.start, (uint32_t)m.end);
            if (r) error_set(err, r, "no memory for tokens");
        }
        from = m.end;
    }
    splitter_fini(&e.splitter);
    model_scratch_free(e.scratch);
    if (r) out->len = len;
    return r;
}

static int encode(const struct tokenizer *t, struct span text, struct trust *trust, unsigned flags, struct tokens *out, struct error *err) {
    const struct postprocessor_template *p = &t->postprocessor.single;
    if (!(flags & TOKENIZER_ADD_SPECIAL) || !p->count) return encode_text(t, text, trust, flags, out, err);
    size_t len = out->len;
    uint32_t at = 0;
    int r = 0;
    for (uint32_t i = 0; !r && i < p->count; i++) {
        if (p->items[i].id == TOKEN_NONE) {
            r = encode_text(t, text, trust, flags, out, err);
            at = (uint32_t)text.len;
        } else {
            r = tokens_push(out, flags & TOKENIZER_OFFSETS, p->items[i].id, at, at);
            if (r) error_set(err, r, "no memory for tokens");
        }
    }
    if (r) out->len = len;
    return r;
}

/* How many ids of two texts are kept where there is room for `room`: the longer one is cut first (tokenizers' LongestFirst). */
static void cut_longest(size_t room, size_t n[2]) {
    if (n[0] + n[1] <= room) return;
    size_t s = n[0] > n[1], small = n[s], large;
    large = small > room ? small : room - small > small ? room - small : small;
    if (small + large > room) {
        small = room / 2;
        large = small + room % 2;
    }
    n[s] = small;
    n[1 - s] = large;
}

int tokenizer_encode_pair(const struct tokenizer *t, struct span first, struct span second, unsigned flags, size_t ids_max, struct tokens *out, uint8_t **types,
                          struct error *err) {
    static const struct postprocessor_template alone = {.items = {{.id = TOKEN_NONE}}, .count = 1}, both = {.items = {{.id = TOKEN_NONE}, {.id = TOKEN_NONE, .text = 1, .type = 1}}, .count = 2};
    bool pair = second.data, offsets = flags & TOKENIZER_OFFSETS;
    const struct span texts[2] = {first, pair ? second : (struct span){NULL, 0}};
    const struct postprocessor_template *p = pair ? &t->postprocessor.pair : &t->postprocessor.single;
    if (!p->count) p = pair ? &both : &alone;
    struct tokens ids[2] = {{.ids = NULL}};
    uint8_t *kinds = NULL;
    size_t n[2] = {0, 0}, added = 0, len = out->len, count = 0;
    int r = 0;
    for (int i = 0; !r && i < 1 + pair; i++) {
        struct trust trust = {.no_specials = flags & TOKENIZER_NO_SPECIALS};
        if (!span_is_utf8(texts[i])) r = error_set(err, E_INVALID, "the text is no UTF-8");
        else r = encode_text(t, texts[i], &trust, flags, &ids[i], err);
        n[i] = ids[i].len;
    }
    for (uint32_t i = 0; i < p->count; i++) added += p->items[i].id != TOKEN_NONE && (flags & TOKENIZER_ADD_SPECIAL);
    if (!r && ids_max) {
        if (ids_max < added) r = error_set(err, E_INVALID, "%zu ids have no room for the %zu that the tokenizer adds", ids_max, added);
        else cut_longest(ids_max - added, n);
    }
    if (!r && types && !(kinds = mem_alloc(n[0] + n[1] + added + 1))) r = error_set(err, E_NOMEM, "no memory for tokens");
    for (uint32_t i = 0; !r && i < p->count; i++) {
        const struct postprocessor_item *it = &p->items[i];
        bool special = it->id != TOKEN_NONE;
        if (special && !(flags & TOKENIZER_ADD_SPECIAL)) continue;
        for (size_t k = 0; !r && k < (special ? 1 : n[it->text]); k++) {
            struct token_offset o = special || !offsets ? (struct token_offset){0, 0} : ids[it->text].offsets[k];
            r = tokens_push(out, offsets, special ? it->id : ids[it->text].ids[k], o.start, o.end);
            if (r) error_set(err, r, "no memory for tokens");
            else if (kinds) kinds[count++] = it->type;
        }
    }
    tokens_fini(&ids[0]);
    tokens_fini(&ids[1]);
    if (r) {
        out->len = len;
        mem_free(kinds);
    } else if (types) {
        *types = kinds;
    }
    return r;
}

int tokenizer_encode(const struct tokenizer *t, struct span text, unsigned flags, struct tokens *out, struct error *err) {
    if (!span_is_utf8(text)) return error_set(err, E_INVALID, "the text is no UTF-8");
    struct trust trust = {.no_specials = flags & TOKENIZER_NO_SPECIALS};
    return encode(t, text, &trust, flags, out, err);
}

int tokenizer_encode_pieces(const struct tokenizer *t, const struct tokenizer_piece *pieces, size_t count, unsigned flags, struct tokens *out,
                            struct error *err) {
    struct buf text;
    buf_init(&text, TOKENIZER_TEXT_MAX);
    int r = 0;
    for (size_t i = 0; !r && i < count; i++) {
        /* each for itself: two halves of a character from different hands are no character */
        if (!span_is_utf8(pieces[i].text)) r = error_set(err, E_INVALID, "the text is no UTF-8");
        else if (buf_append_span(&text, pieces[i].text))
            r = error_set(err, text.failed == E_FULL ? E_TOO_LARGE : E_NOMEM, "the text has more than %d bytes, or there is no memory for it", TOKENIZER_TEXT_MAX);
    }
    struct trust trust = {.pieces = count ? pieces : NULL, .count = count, .no_specials = flags & TOKENIZER_NO_SPECIALS};
    if (flags & TOKENIZER_NO_SPECIALS) trust.pieces = NULL;
    if (!r) r = encode(t, buf_span(&text), &trust, flags, out, err);
    buf_fini(&text);
    return r;
}
