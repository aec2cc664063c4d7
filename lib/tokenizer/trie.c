/* Tokens by their bytes: an open-addressing table from (node, byte) to node, which is small, quick to build and one probe a byte. */
#include "base/alloc.h"
#include "tokenizer/internal.h"

static int grow(struct trie *t) {
    size_t slots = t->slots ? (t->mask + 1) * 2 : 1024, capacity = t->slots ? t->mask + 1 : 0;
    uint64_t *bigger = mem_calloc(slots, sizeof bigger[0]);
    uint32_t *ids = mem_calloc(slots / 2 + 1, sizeof ids[0]);
    if (!bigger || !ids) {
        mem_free(bigger);
        mem_free(ids);
        return E_NOMEM;
    }
    for (size_t i = 0; i < capacity; i++) {
        if (!t->slots[i]) continue;
        uint64_t key = (uint32_t)t->slots[i];
        size_t k = (size_t)((key * 0x9E3779B97F4A7C15u) >> 32) & (slots - 1);
        while (bigger[k]) k = (k + 1) & (slots - 1);
        bigger[k] = t->slots[i];
    }
    if (t->ids) memcpy(ids, t->ids, ((size_t)t->count + 1) * sizeof ids[0]);
    mem_free(t->slots);
    mem_free(t->ids);
    t->slots = bigger;
    t->ids = ids;
    t->mask = slots - 1;
    return 0;
}

int token_trie_add(struct trie *t, struct span key, uint32_t id, struct error *err) {
    uint32_t node = 0;
    for (size_t i = 0; i < key.len; i++) {
        uint8_t byte = (uint8_t)key.data[i];
        uint32_t child = trie_step(t, node, byte);
        if (!child) {
            if (t->count + 1 >= TRIE_NODES_MAX) return error_set(err, E_TOO_LARGE, "the vocabulary's texts have more than %d bytes", TRIE_NODES_MAX);
            /* ids and slots grow together: half as many nodes as slots */
            if (!t->slots || (size_t)t->count + 1 > (t->mask + 1) / 2 - 1) {
                int r = grow(t);
                if (r) return error_set(err, r, "no memory for the tokenizer");
            }
            child = ++t->count;
            if (node == 0) {
                t->first[byte] = child;
            } else {
                uint64_t k = (uint64_t)node << 8 | byte;
                size_t at = (size_t)((k * 0x9E3779B97F4A7C15u) >> 32) & t->mask;
                while (t->slots[at]) at = (at + 1) & t->mask;
                t->slots[at] = (uint64_t)child << 32 | (uint32_t)k;
            }
        }
        node = child;
    }
    if (node) t->ids[node] = id + 1;
    return 0;
}

void token_trie_fini(struct trie *t) {
    mem_free(t->slots);
    mem_free(t->ids);
    t->slots = NULL;
    t->ids = NULL;
}
