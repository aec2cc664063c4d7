#include "engine/grammar_vocab.h"

#include <stdlib.h>

#include "base/sha256.h"

/* --- the trie --- */

enum byte_class { CONTROL, NEWLINE, TAB, SPACE, QUOTE, BACKSLASH, DIGIT, LOWER_HEX, LOWER, UPPER_HEX, UPPER, UNDERSCORE, MINUS, DOT, COMMA, SLASH, APOSTROPHE, COLON, OPENING, CLOSING, SIGN, OTHER, FOLLOWING, LEADING };
_Static_assert(LEADING + 1 == BYTE_CLASSES, "each has its number");
const uint8_t BYTE_CLASS[256] = {
    [0 ... 8] = CONTROL, ['\t'] = TAB, ['\n'] = NEWLINE, [11 ... 12] = CONTROL, ['\r'] = TAB, [14 ... 31] = CONTROL, [' '] = SPACE, ['!'] = OTHER, ['"'] = QUOTE, ['#' ... '&'] = OTHER, ['\''] = APOSTROPHE, ['('] = OPENING, [')'] = CLOSING,
    ['*'] = SIGN, ['+'] = SIGN, [','] = COMMA, ['-'] = MINUS, ['.'] = DOT, ['/'] = SLASH, ['0' ... '9'] = DIGIT, [':'] = COLON, [';' ... '@'] = OTHER, ['A' ... 'F'] = UPPER_HEX, ['G' ... 'Z'] = UPPER,
    ['['] = OPENING, ['\\'] = BACKSLASH, [']'] = CLOSING, ['^'] = OTHER, ['_'] = UNDERSCORE, ['`'] = OTHER, ['a' ... 'f'] = LOWER_HEX, ['g' ... 'z'] = LOWER, ['{'] = OPENING, ['|'] = OTHER, ['}'] = CLOSING,
    ['~'] = OTHER, [127] = CONTROL, [128 ... 191] = FOLLOWING, [192 ... 255] = LEADING,
};

struct entry {
    struct span bytes;
    uint32_t id;
};

static int compare_entries(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    int c = span_compare(x->bytes, y->bytes);
    return c ? c : (x->id > y->id) - (x->id < y->id);
}

static int build_trie(struct grammar_vocab *v, const struct entry *entries, size_t n) {
    size_t total = 1, len = 1, capacity = 0;
    uint32_t path[1 << 8] = {0}; /* nodes from the root to the last token's end; longer tokens are left out */
    size_t depth = 0;
    for (size_t i = 0; i < n; i++) total += entries[i].bytes.len;
    if (array_reserve(&v->nodes, &capacity, total + 1, sizeof *v->nodes) != 0) return E_NOMEM;
    v->nodes[0] = (struct trie_node){0};
    for (size_t i = 0; i < n; i++) {
        struct span s = entries[i].bytes, before = i > 0 ? entries[i - 1].bytes : (struct span){0};
        size_t same = 0;
        while (same < s.len && same < before.len && s.data[same] == before.data[same]) same++;
        for (; depth > same; depth--) v->nodes[path[depth]].end = (uint32_t)len;
        for (; depth < s.len; depth++) {
            v->nodes[len] = (struct trie_node){.token_first = (uint32_t)v->order_count, .depth = (uint16_t)(depth + 1), .byte = (uint8_t)s.data[depth]};
            path[depth + 1] = (uint32_t)len++;
        }
        v->order[v->order_count++] = entries[i].id;
        if (s.len == 1) v->usable[(uint8_t)s.data[0]] = true;
        if (s.len > v->depth_max) v->depth_max = (uint16_t)s.len;
    }
    for (; depth > 0; depth--) v->nodes[path[depth]].end = (uint32_t)len;
    v->nodes[0].end = (uint32_t)len;
    v->nodes[len] = (struct trie_node){.token_first = (uint32_t)v->order_count}; /* so that each node's tokens have an end */
    v->node_count = len;
    uint32_t below[(1 << 8) + 2] = {0}; /* by depth: of the nodes gone over behind the one in hand */
    for (size_t i = len; i-- > 1;) {
        struct trie_node *node = &v->nodes[i];
        node->classes = 1u << BYTE_CLASS[node->byte] | below[node->depth + 1];
        below[node->depth + 1] = 0;
        below[node->depth] |= node->classes;
    }
    return 0;
}

int grammar_vocab_new(struct grammar_vocab **out, uint32_t size, void *arg, struct span (*bytes)(void *arg, uint32_t id), struct error *err) {
    struct grammar_vocab *v = mem_zalloc(sizeof *v);
    struct entry *entries = mem_calloc(size ? size : 1, sizeof *entries);
    struct buf all;
    size_t n = 0;
    int r = E_NOMEM;
    buf_init(&all, UINT32_MAX);
    if (v) pthread_mutex_init(&v->lock, NULL);
    if (!v || !entries) goto out;
    v->size = size;
    v->words = (size + 63) / 64;
    v->offsets = mem_calloc((size_t)size + 1, sizeof *v->offsets);
    v->order = mem_calloc(size ? size : 1, sizeof *v->order);
    if (!v->offsets || !v->order) goto out;
    for (uint32_t id = 0; id < size; id++) {
        struct span s = bytes(arg, id);
        if (s.len < 256 && buf_append_span(&all, s) != 0) goto out;
        v->offsets[id + 1] = (uint32_t)all.len;
    }
    v->bytes = buf_detach(&all, NULL);
    if (!v->bytes) goto out;
    for (uint32_t id = 0; id < size; id++)
        if (vocab_bytes(v, id).len > 0) entries[n++] = (struct entry){vocab_bytes(v, id), id};
    qsort(entries, n, sizeof *entries, compare_entries);
    r = build_trie(v, entries, n);
out:
    buf_fini(&all);
    mem_free(entries);
    if (r == 0) *out = v;
    else grammar_vocab_free(v);
    return r == 0 ? 0 : error_set(err, r, "no memory for a vocabulary's trie");
}

static void drop_grammar(struct grammar *g) {
    fsm_fini(g);
    mem_free(g);
}

void grammar_vocab_free(struct grammar_vocab *v) {
    if (!v) return;
    for (size_t i = 0; i < GRAMMAR_KEPT_MAX; i++)
        if (v->grammars[i]) drop_grammar(v->grammars[i]);
    for (struct kept_mask *m = v->newest, *older; m; m = older) {
        older = m->older;
        mem_free(m);
    }
    pthread_mutex_destroy(&v->lock);
    mem_free(v->nodes);
    mem_free(v->order);
    mem_free(v->offsets);
    mem_free(v->bytes);
    mem_free(v);
}

/* --- kept masks --- */

static void unlink_mask(struct grammar_vocab *v, struct kept_mask *m) {
    *(m->newer ? &m->newer->older : &v->newest) = m->older;
    *(m->older ? &m->older->newer : &v->oldest) = m->newer;
}
static void link_newest(struct grammar_vocab *v, struct kept_mask *m) {
    m->newer = NULL;
    m->older = v->newest;
    *(v->newest ? &v->newest->newer : &v->oldest) = m;
    v->newest = m;
}

static size_t bucket_of(uint64_t grammar, uint64_t key) { return (size_t)((key ^ grammar * 0x9E3779B97F4A7C15ull) * 0xD6E8FEB86659FD93ull >> 52) % MASK_BUCKETS; }

bool vocab_find_mask(struct grammar_vocab *v, uint64_t grammar, uint64_t key, uint64_t check, uint64_t *bits, uint32_t *deferred, uint32_t *deferred_count, uint32_t *allowed) {
    pthread_mutex_lock(&v->lock);
    struct kept_mask *m = v->buckets[bucket_of(grammar, key)];
    while (m && !(m->grammar == grammar && m->key == key && m->check == check)) m = m->next;
    if (m) {
        unlink_mask(v, m);
        link_newest(v, m);
        for (uint32_t i = 0; i < v->words; i++) bits[i] |= m->bits[i];
        if (deferred && m->deferred_count > 0) memcpy(deferred, m->deferred, m->deferred_count * sizeof *deferred);
        if (deferred_count) *deferred_count = m->deferred_count;
        if (allowed) *allowed = m->allowed;
    }
    pthread_mutex_unlock(&v->lock);
    return m != NULL;
}

void vocab_keep_mask(struct grammar_vocab *v, uint64_t grammar, uint64_t key, uint64_t check, const uint64_t *bits, const uint32_t *deferred, uint32_t deferred_count, uint32_t allowed) {
    size_t bytes = sizeof(struct kept_mask) + v->words * sizeof *bits + deferred_count * sizeof *deferred;
    struct kept_mask *m = bytes > GRAMMAR_CACHE_BYTES / 4 ? NULL : mem_alloc(bytes), *known;
    if (!m) return;
    *m = (struct kept_mask){.grammar = grammar, .key = key, .check = check, .allowed = allowed, .deferred_count = deferred_count, .bytes = bytes};
    memcpy(m->bits, bits, v->words * sizeof *bits);
    m->deferred = (uint32_t *)(void *)(m->bits + v->words);
    if (deferred_count > 0) memcpy(m->deferred, deferred, deferred_count * sizeof *deferred);
    pthread_mutex_lock(&v->lock);
    struct kept_mask **bucket = &v->buckets[bucket_of(grammar, key)];
    for (known = *bucket; known && !(known->grammar == grammar && known->key == key && known->check == check);) known = known->next;
    if (known) { /* another thread was quicker */
        pthread_mutex_unlock(&v->lock);
        mem_free(m);
        return;
    }
    m->next = *bucket;
    *bucket = m;
    link_newest(v, m);
    v->mask_bytes += bytes;
    while (v->mask_bytes > GRAMMAR_CACHE_BYTES) {
        struct kept_mask *old = v->oldest, **at = &v->buckets[bucket_of(old->grammar, old->key)];
        while (*at != old) at = &(*at)->next;
        *at = old->next;
        unlink_mask(v, old);
        v->mask_bytes -= old->bytes;
        mem_free(old);
    }
    pthread_mutex_unlock(&v->lock);
}

/* --- compiled grammars --- */

uint32_t grammar_states(const struct grammar *g) { return (uint32_t)g->state_count; }
uint32_t grammar_shortest(const struct grammar *g) { return g->states[g->starts[0]].far; }

/* Under the lock. */
static struct grammar *find_grammar(struct grammar_vocab *v, const uint8_t digest[32]) {
    for (size_t i = 0; i < GRAMMAR_KEPT_MAX; i++)
        if (v->grammars[i] && memcmp(v->grammars[i]->digest, digest, 32) == 0) {
            v->grammars[i]->refs++;
            v->grammars[i]->used = ++v->clock;
            return v->grammars[i];
        }
    return NULL;
}

static void build(struct builder *b, enum grammar_kind kind, struct span text) {
    uint32_t rule;
    switch (kind) {
    case GRAMMAR_JSON_SCHEMA: schema_build(b, text); return;
    case GRAMMAR_JSON_OBJECT: schema_build_object(b); return;
    case GRAMMAR_GBNF: gbnf_build(b, text); return;
    case GRAMMAR_CHOICE: choice_build(b, text); return;
    case GRAMMAR_REGEX:
        rule = nfa_rule(b, SPAN("root"), NULL);
        if (b->failed) return;
        b->rules[rule].defined = true;
        b->rules[rule].origin = nfa_node(b);
        b->rules[rule].last = b->rules[rule].end;
        nfa_free(b, b->rules[rule].start, b->rules[rule].origin);
        nfa_free(b, regex_build(b, b->rules[rule].start, text, WRITE_PLAIN, true), b->rules[rule].end);
        if (!b->failed) b->rules[rule].origin = b->rules[rule].start;
        return;
    default: builder_fail(b, E_INVALID, "no kind of grammar");
    }
}

int grammar_compile(struct grammar_vocab *v, enum grammar_kind kind, struct span text, struct grammar **out, struct error *err) {
    struct sha256 hash;
    uint8_t digest[32], tag = (uint8_t)kind;
    struct builder b;
    if (text.len > GRAMMAR_TEXT_MAX) return error_set(err, E_TOO_LARGE, "%zu bytes are above the %d that are taken", text.len, GRAMMAR_TEXT_MAX);
    sha256_init(&hash);
    sha256_update(&hash, &tag, 1);
    if (kind != GRAMMAR_JSON_OBJECT) sha256_update(&hash, text.data, text.len);
    sha256_final(&hash, digest);
    pthread_mutex_lock(&v->lock);
    struct grammar *g = find_grammar(v, digest), *known = NULL, *dropped = NULL;
    pthread_mutex_unlock(&v->lock);
    if (g) {
        *out = g;
        return 0;
    }
    if (!(g = mem_zalloc(sizeof *g))) return error_set(err, E_NOMEM, "no memory for a grammar");
    builder_init(&b, err);
    build(&b, kind, text);
    int r = fsm_build(g, &b, v->usable);
    builder_fini(&b);
    if (r != 0) {
        drop_grammar(g);
        return r;
    }
    g->vocab = v;
    g->refs = 1;
    memcpy(g->digest, digest, sizeof digest);
    pthread_mutex_lock(&v->lock);
    if (!(known = find_grammar(v, digest))) {
        size_t slot = GRAMMAR_KEPT_MAX;
        for (size_t i = 0; i < GRAMMAR_KEPT_MAX; i++) { /* an empty place, or the one that was used longest ago and is not in use */
            if (!v->grammars[i]) {
                slot = i;
                break;
            }
            if (v->grammars[i]->refs == 1 && (slot == GRAMMAR_KEPT_MAX || v->grammars[i]->used < v->grammars[slot]->used)) slot = i;
        }
        g->id = ++v->next_id;
        g->used = ++v->clock;
        if (slot < GRAMMAR_KEPT_MAX) { /* where all are in use this one is not kept: it goes with its last reference */
            dropped = v->grammars[slot];
            v->grammars[slot] = g;
            g->refs++;
        }
    }
    pthread_mutex_unlock(&v->lock);
    if (known) drop_grammar(g);
    if (dropped) drop_grammar(dropped);
    *out = known ? known : g;
    return 0;
}

void grammar_unref(struct grammar *g) {
    if (!g) return;
    pthread_mutex_lock(&g->vocab->lock);
    bool last = --g->refs == 0;
    pthread_mutex_unlock(&g->vocab->lock);
    if (last) drop_grammar(g);
}
