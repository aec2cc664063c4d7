#include "prefixes.h"

#include "base/alloc.h"

enum { WORDS = PREFIX_REPLICAS / 64 };

struct entry {
    uint64_t block;
    uint64_t noted; /* when; 0: free */
    uint64_t replicas[WORDS];
};
struct prefixes {
    uint64_t turn;
    struct entry entries[PREFIX_PLACES][PREFIX_WAYS];
};

struct prefixes *prefixes_new(void) { return mem_zalloc(sizeof(struct prefixes)); }
void prefixes_free(struct prefixes *p) { mem_free(p); }

void prefix_begin(struct prefix_chain *c, uint64_t secret, struct span tenant, struct span model) {
    c->state = hash_mix(hash_mix(secret ^ span_hash(tenant)) ^ span_hash(model));
    c->filled = c->count = 0;
}

void prefix_add(struct prefix_chain *c, struct span bytes) {
    uint64_t h = c->state;
    for (size_t at = 0; at < bytes.len && c->count < PREFIX_BLOCKS_MAX;) {
        size_t n = PREFIX_BLOCK - c->filled < bytes.len - at ? PREFIX_BLOCK - c->filled : bytes.len - at;
        for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)bytes.data[at + i]) * 0x100000001b3u; /* FNV-1a's step */
        at += n;
        c->filled += (uint32_t)n;
        if (c->filled < PREFIX_BLOCK) continue;
        h = hash_mix(h);
        c->blocks[c->count++] = h;
        c->filled = 0;
    }
    c->state = h;
}

void prefixes_note(struct prefixes *p, const struct prefix_chain *c, int replica) {
    p->turn++;
    for (uint32_t i = 0; i < c->count; i++) {
        struct entry *ways = p->entries[c->blocks[i] % PREFIX_PLACES], *e = &ways[0];
        for (int w = 0; w < PREFIX_WAYS; w++) {
            if (ways[w].noted && ways[w].block == c->blocks[i]) {
                e = &ways[w];
                break;
            }
            if (ways[w].noted < e->noted) e = &ways[w];
        }
        if (!e->noted || e->block != c->blocks[i]) *e = (struct entry){.block = c->blocks[i]};
        e->noted = p->turn;
        e->replicas[replica / 64] |= 1ull << (replica % 64);
    }
}

static const struct entry *find(const struct prefixes *p, uint64_t block) {
    const struct entry *ways = p->entries[block % PREFIX_PLACES];
    for (int w = 0; w < PREFIX_WAYS; w++)
        if (ways[w].noted && ways[w].block == block) return &ways[w];
    return NULL;
}

void prefixes_seen(const struct prefixes *p, const struct prefix_chain *c, uint16_t seen[PREFIX_REPLICAS]) {
    uint64_t still[WORDS]; /* those that have seen every block so far */
    uint32_t depth = 0;
    bool any = true;
    memset(still, 0xff, sizeof still);
    memset(seen, 0, PREFIX_REPLICAS * sizeof *seen);
    for (; any; depth++) {
        const struct entry *e = depth < c->count ? find(p, c->blocks[depth]) : NULL;
        any = false;
        for (int w = 0; w < WORDS; w++) {
            uint64_t stay = e ? still[w] & e->replicas[w] : 0;
            for (uint64_t gone = still[w] & ~stay; gone; gone &= gone - 1) seen[w * 64 + __builtin_ctzll(gone)] = (uint16_t)depth;
            still[w] = stay;
            any |= stay != 0;
        }
    }
}

void prefixes_forget(struct prefixes *p, int replica) {
    for (size_t i = 0; i < PREFIX_PLACES; i++)
        for (int w = 0; w < PREFIX_WAYS; w++) p->entries[i][w].replicas[replica / 64] &= ~(1ull << (replica % 64));
}
