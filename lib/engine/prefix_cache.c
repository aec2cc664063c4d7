#include "engine/prefix_cache.h"

#include "base/alloc.h"

struct prefix_node {
    uint32_t parent, next; /* next: in the bucket */
    uint32_t older, newer; /* in the list of idle ones */
    uint32_t child, before, behind; /* its child that became known last; among its parent's */
    bool known, idle;
    struct prefix_salt salt; /* of a first block; zero of the others, whose parent says it */
    uint32_t read, count; /* of the tokens: those that are read; those that there are, fewer than all of a begun one */
    uint32_t tokens[KV_BLOCK_TOKENS];
};

int prefix_cache_init(struct prefix_cache *c, uint32_t blocks, uint64_t seed) {
    struct prefix_cache n = {.seed = seed, .oldest = PREFIX_NONE, .newest = PREFIX_NONE};
    int r = kv_blocks_init(&n.blocks, blocks);
    if (r != 0) return r;
    uint32_t buckets = 16;
    while (buckets < blocks) buckets *= 2; /* blocks ≤ KV_BLOCKS_MAX */
    n.bucket_mask = buckets - 1;
    n.nodes = mem_calloc(blocks, sizeof *n.nodes);
    n.buckets = mem_calloc(buckets, sizeof *n.buckets);
    if (!n.nodes || !n.buckets) {
        prefix_cache_fini(&n);
        return E_NOMEM;
    }
    for (uint32_t i = 0; i < buckets; i++) n.buckets[i] = PREFIX_NONE;
    *c = n;
    return 0;
}

void prefix_cache_fini(struct prefix_cache *c) {
    kv_blocks_fini(&c->blocks);
    mem_free(c->nodes);
    mem_free(c->buckets);
    *c = (struct prefix_cache){0};
}

static uint64_t mix(uint64_t h, uint64_t v) { /* splitmix64's, over the running value */
    h = (h ^ v) + UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ (h >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ (h >> 27)) * UINT64_C(0x94d049bb133111eb);
    return h ^ (h >> 31);
}

static uint32_t *bucket_of(const struct prefix_cache *c, uint32_t parent, struct prefix_salt salt, const uint32_t *tokens, uint32_t read) {
    uint64_t h = mix(mix(c->seed, parent), read);
    h = mix(mix(h, salt.words[0]), salt.words[1]);
    for (uint32_t i = 0; i < KV_BLOCK_TOKENS; i += 2) h = mix(h, (uint64_t)tokens[i] << 32 | tokens[i + 1]);
    return &c->buckets[h & c->bucket_mask];
}

static struct prefix_salt own_salt(uint32_t parent, struct prefix_salt salt) { return parent == PREFIX_NONE ? salt : (struct prefix_salt){{0, 0}}; }

/* The place that holds its number, or the end of the bucket. */
static uint32_t *lookup(const struct prefix_cache *c, uint32_t parent, struct prefix_salt salt, const uint32_t *tokens, uint32_t read) {
    salt = own_salt(parent, salt);
    uint32_t *at = bucket_of(c, parent, salt, tokens, read);
    for (; *at != PREFIX_NONE; at = &c->nodes[*at].next) {
        const struct prefix_node *n = &c->nodes[*at];
        if (n->parent == parent && n->read == read && n->salt.words[0] == salt.words[0] && n->salt.words[1] == salt.words[1] && memcmp(n->tokens, tokens, sizeof n->tokens) == 0)
            break;
    }
    return at;
}

static void leave_idle(struct prefix_cache *c, uint32_t block) {
    struct prefix_node *n = &c->nodes[block];
    if (n->older != PREFIX_NONE) c->nodes[n->older].newer = n->newer;
    else c->oldest = n->newer;
    if (n->newer != PREFIX_NONE) c->nodes[n->newer].older = n->older;
    else c->newest = n->older;
    n->idle = false;
    c->idle--;
}

static void become_idle(struct prefix_cache *c, uint32_t block) {
    struct prefix_node *n = &c->nodes[block];
    n->older = c->newest;
    n->newer = PREFIX_NONE;
    if (c->newest != PREFIX_NONE) c->nodes[c->newest].newer = block;
    else c->oldest = block;
    c->newest = block;
    n->idle = true;
    c->idle++;
}

static void join_parent(struct prefix_cache *c, uint32_t block) {
    struct prefix_node *n = &c->nodes[block], *parent;
    if (n->parent == PREFIX_NONE) return;
    parent = &c->nodes[n->parent];
    n->behind = parent->child;
    if (n->behind != PREFIX_NONE) c->nodes[n->behind].before = block;
    parent->child = block;
}

static void leave_parent(struct prefix_cache *c, const struct prefix_node *n) {
    if (n->parent == PREFIX_NONE) return;
    if (n->before != PREFIX_NONE) c->nodes[n->before].behind = n->behind;
    else c->nodes[n->parent].child = n->behind;
    if (n->behind != PREFIX_NONE) c->nodes[n->behind].before = n->before;
}

static void evict(struct prefix_cache *c, uint32_t block) {
    struct prefix_node *n = &c->nodes[block];
    ASSERT(n->idle && n->child == PREFIX_NONE);
    leave_idle(c, block);
    if (n->count == KV_BLOCK_TOKENS) {
        uint32_t *at = lookup(c, n->parent, n->salt, n->tokens, n->read);
        ASSERT(*at == block);
        *at = n->next;
    }
    leave_parent(c, n);
    n->known = false;
    c->known--;
    c->evicted++;
    kv_blocks_unref(&c->blocks, &block, 1);
}

int prefix_cache_alloc(struct prefix_cache *c, uint32_t n, uint32_t *out) {
    if (n > prefix_cache_available(c)) return E_FULL;
    while (c->blocks.free_count < n) evict(c, c->oldest);
    return kv_blocks_alloc(&c->blocks, n, out);
}

static uint32_t hold(struct prefix_cache *c, uint32_t block) {
    if (c->nodes[block].idle) leave_idle(c, block);
    kv_blocks_ref(&c->blocks, &block, 1);
    return block;
}

uint32_t prefix_cache_find(struct prefix_cache *c, uint32_t parent, struct prefix_salt salt, const uint32_t *tokens, uint32_t read) {
    uint32_t block = *lookup(c, parent, salt, tokens, read);
    return block == PREFIX_NONE ? PREFIX_NONE : hold(c, block);
}

uint32_t prefix_alike(const uint32_t *a, uint32_t a_read, const uint32_t *b, uint32_t b_read, uint32_t n) {
    uint32_t alike = 0, read = a_read < b_read ? a_read : b_read;
    if (a_read != b_read && read < n) n = read;
    while (alike < n && a[alike] == b[alike]) alike++;
    return alike;
}

uint32_t prefix_cache_nearest(const struct prefix_cache *c, uint32_t parent, const uint32_t *tokens, uint32_t read, uint32_t n, uint32_t *alike) {
    uint32_t best = PREFIX_NONE, child = c->nodes[parent].child;
    *alike = 0;
    for (uint32_t i = 0; i < PREFIX_NEAREST_OF && child != PREFIX_NONE; i++, child = c->nodes[child].behind) {
        const struct prefix_node *other = &c->nodes[child];
        uint32_t same = prefix_alike(other->tokens, other->read, tokens, read, n < other->count ? n : other->count);
        if (same <= *alike) continue;
        *alike = same;
        best = child;
    }
    return best;
}

void prefix_cache_hold(struct prefix_cache *c, uint32_t block) { hold(c, block); }

static void become_known(struct prefix_cache *c, uint32_t parent, struct prefix_salt salt, const uint32_t *tokens, uint32_t count, uint32_t read, uint32_t block) {
    struct prefix_node *n = &c->nodes[block];
    *n = (struct prefix_node){.parent = parent, .next = PREFIX_NONE, .older = PREFIX_NONE, .newer = PREFIX_NONE, .child = PREFIX_NONE, .before = PREFIX_NONE, .behind = PREFIX_NONE, .known = true, .read = read, .count = count, .salt = salt};
    memcpy(n->tokens, tokens, count * sizeof *tokens);
    join_parent(c, block);
    c->known++;
    kv_blocks_ref(&c->blocks, &block, 1);
}

uint32_t prefix_cache_add(struct prefix_cache *c, uint32_t parent, struct prefix_salt salt, const uint32_t *tokens, uint32_t read, uint32_t block) {
    uint32_t *at = lookup(c, parent, salt, tokens, read);
    ASSERT(parent == PREFIX_NONE || (c->nodes[parent].known && !c->nodes[parent].idle));
    ASSERT(!c->nodes[block].known);
    if (*at != PREFIX_NONE) {
        uint32_t held = hold(c, *at);
        kv_blocks_unref(&c->blocks, &block, 1);
        return held;
    }
    become_known(c, parent, own_salt(parent, salt), tokens, KV_BLOCK_TOKENS, read, block);
    *at = block;
    return block;
}

void prefix_cache_add_begun(struct prefix_cache *c, uint32_t parent, const uint32_t *tokens, uint32_t n, uint32_t read, uint32_t block) {
    uint32_t alike;
    ASSERT(c->nodes[parent].known && !c->nodes[parent].idle && !c->nodes[block].known && n > 0 && n < KV_BLOCK_TOKENS);
    prefix_cache_nearest(c, parent, tokens, read, n, &alike);
    if (alike < n) become_known(c, parent, (struct prefix_salt){{0, 0}}, tokens, n, read, block);
}

void prefix_cache_release(struct prefix_cache *c, const uint32_t *blocks, uint32_t n) {
    for (uint32_t i = n; i-- > 0;) {
        kv_blocks_unref(&c->blocks, &blocks[i], 1);
        if (c->nodes[blocks[i]].known && c->blocks.refs[blocks[i]] == 1) become_idle(c, blocks[i]);
    }
}
