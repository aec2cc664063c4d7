/*
 * Where a node lies: the subtree of the 2^k leaves from index i * 2^k is levels[k].hashes[i], as soon as it is complete. The tree of any n leaves
 * is made of complete subtrees (one for each bit of n), so that a root of any size and any proof come from those tables alone.
 */
#include "registry/merkle.h"

#include <string.h>

#include "base/alloc.h"

void merkle_init(struct merkle *t) { memset(t, 0, sizeof *t); }

void merkle_fini(struct merkle *t) {
    if (!t) return;
    for (int k = 0; k < MERKLE_LEVELS_MAX; k++) mem_free(t->levels[k].hashes);
    memset(t, 0, sizeof *t);
}

uint64_t merkle_size(const struct merkle *t) { return t->levels[0].count; }

void merkle_leaf_hash(struct span record, uint8_t hash[SHA256_SIZE]) {
    struct sha256 h;
    sha256_init(&h);
    sha256_update(&h, "\0", 1);
    sha256_update(&h, record.data, record.len);
    sha256_final(&h, hash);
}

void merkle_node_hash(const uint8_t left[SHA256_SIZE], const uint8_t right[SHA256_SIZE], uint8_t hash[SHA256_SIZE]) {
    struct sha256 h;
    sha256_init(&h);
    sha256_update(&h, "\1", 1);
    sha256_update(&h, left, SHA256_SIZE);
    sha256_update(&h, right, SHA256_SIZE);
    sha256_final(&h, hash);
}

int merkle_append(struct merkle *t, const uint8_t leaf_hash[SHA256_SIZE]) {
    uint64_t size = merkle_size(t);
    if (size >= MERKLE_LEAVES_MAX) return E_FULL;
    /* Room on every level that grows, before anything does. */
    for (int k = 0; ((size + 1) & ((UINT64_C(1) << k) - 1)) == 0; k++) {
        struct merkle_level *l = &t->levels[k];
        int r = array_reserve(&l->hashes, &l->capacity, l->count + 1, SHA256_SIZE);
        if (r != 0) return r;
    }
    memcpy(t->levels[0].hashes[t->levels[0].count++], leaf_hash, SHA256_SIZE);
    for (int k = 1; ((size + 1) & ((UINT64_C(1) << k) - 1)) == 0; k++) {
        struct merkle_level *below = &t->levels[k - 1], *l = &t->levels[k];
        merkle_node_hash(below->hashes[below->count - 2], below->hashes[below->count - 1], l->hashes[l->count]);
        l->count++;
    }
    return 0;
}

int merkle_leaf(const struct merkle *t, uint64_t index, uint8_t hash[SHA256_SIZE]) {
    if (index >= merkle_size(t)) return E_RANGE;
    memcpy(hash, t->levels[0].hashes[index], SHA256_SIZE);
    return 0;
}

/* Hash of the leaves [from, from + n), from a multiple of the smallest power of two that is at least n; n > 0. The complete subtrees of n,
 * joined from the right. */
static void range_hash(const struct merkle *t, uint64_t from, uint64_t n, uint8_t hash[SHA256_SIZE]) {
    bool first = true;
    uint64_t end = from + n;
    for (int k = 0; k < MERKLE_LEVELS_MAX; k++) {
        if (!((n >> k) & 1)) continue;
        end -= UINT64_C(1) << k;
        const uint8_t *part = t->levels[k].hashes[end >> k];
        if (first)
            memcpy(hash, part, SHA256_SIZE);
        else
            merkle_node_hash(part, hash, hash);
        first = false;
    }
}

int merkle_root(const struct merkle *t, uint64_t size, uint8_t root[SHA256_SIZE]) {
    if (size > merkle_size(t)) return E_RANGE;
    if (size == 0)
        sha256_of(span_of("", 0), root);
    else
        range_hash(t, 0, size, root);
    return 0;
}

void merkle_root_with(const struct merkle *t, const uint8_t leaf_hash[SHA256_SIZE], uint8_t root[SHA256_SIZE]) {
    uint64_t end = merkle_size(t), size = end;
    uint8_t hash[SHA256_SIZE];
    memcpy(hash, leaf_hash, SHA256_SIZE);
    for (int k = 0; k < MERKLE_LEVELS_MAX; k++)
        if ((size >> k) & 1) {
            end -= UINT64_C(1) << k;
            merkle_node_hash(t->levels[k].hashes[end >> k], hash, hash);
        }
    memcpy(root, hash, SHA256_SIZE);
}

/* The largest power of two below n; n > 1. */
static uint64_t split(uint64_t n) {
    uint64_t k = 1;
    while (k < n - k) k <<= 1;
    return k;
}

/* The proofs go down from the root, but are told from the leaf up. */
static void reverse(uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE], size_t n) {
    uint8_t swap[SHA256_SIZE];
    for (size_t i = 0; i + 1 < n - i; i++) {
        memcpy(swap, path[i], SHA256_SIZE);
        memcpy(path[i], path[n - 1 - i], SHA256_SIZE);
        memcpy(path[n - 1 - i], swap, SHA256_SIZE);
    }
}

int merkle_inclusion(const struct merkle *t, uint64_t index, uint64_t size, uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE], size_t *n) {
    if (size > merkle_size(t) || index >= size) return E_RANGE;
    uint64_t from = 0, left = size;
    size_t count = 0;
    while (left > 1) {
        uint64_t k = split(left);
        if (index - from < k) {
            range_hash(t, from + k, left - k, path[count++]);
            left = k;
        } else {
            range_hash(t, from, k, path[count++]);
            from += k;
            left -= k;
        }
    }
    if (count) reverse(path, count);
    *n = count;
    return 0;
}

int merkle_consistency(const struct merkle *t, uint64_t from, uint64_t to, uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE], size_t *n) {
    if (to > merkle_size(t) || from == 0 || from > to) return E_RANGE;
    uint64_t start = 0, left = to, m = from;
    bool whole = true; /* the subtree that we stand in is the old tree itself: its hash is known to the verifier */
    size_t count = 0;
    while (m != left) {
        uint64_t k = split(left);
        if (m <= k) {
            range_hash(t, start + k, left - k, path[count++]);
            left = k;
        } else {
            range_hash(t, start, k, path[count++]);
            start += k;
            left -= k;
            m -= k;
            whole = false;
        }
    }
    if (!whole) range_hash(t, start, left, path[count++]);
    if (count) reverse(path, count);
    *n = count;
    return 0;
}

bool merkle_verify_inclusion(const uint8_t leaf_hash[SHA256_SIZE], uint64_t index, uint64_t size, const uint8_t (*path)[SHA256_SIZE], size_t n,
                             const uint8_t root[SHA256_SIZE]) {
    if (index >= size) return false;
    uint64_t fn = index, sn = size - 1;
    uint8_t r[SHA256_SIZE];
    memcpy(r, leaf_hash, SHA256_SIZE);
    for (size_t i = 0; i < n; i++) {
        if (sn == 0) return false;
        if ((fn & 1) || fn == sn) {
            merkle_node_hash(path[i], r, r);
            while (!(fn & 1) && fn != 0) {
                fn >>= 1;
                sn >>= 1;
            }
        } else
            merkle_node_hash(r, path[i], r);
        fn >>= 1;
        sn >>= 1;
    }
    return sn == 0 && memcmp(r, root, SHA256_SIZE) == 0;
}

bool merkle_verify_consistency(uint64_t from, const uint8_t from_root[SHA256_SIZE], uint64_t to, const uint8_t to_root[SHA256_SIZE],
                               const uint8_t (*path)[SHA256_SIZE], size_t n) {
    if (from == 0 || from > to) return false;
    if (from == to) return n == 0 && memcmp(from_root, to_root, SHA256_SIZE) == 0;
    size_t i = 0;
    const uint8_t *seed = from_root;
    if ((from & (from - 1)) != 0) { /* no power of two: the proof begins with a subtree of the old tree */
        if (n == 0) return false;
        seed = path[i++];
    } else if (n == 0)
        return false;
    uint64_t fn = from - 1, sn = to - 1;
    while (fn & 1) {
        fn >>= 1;
        sn >>= 1;
    }
    uint8_t fr[SHA256_SIZE], sr[SHA256_SIZE];
    memcpy(fr, seed, SHA256_SIZE);
    memcpy(sr, seed, SHA256_SIZE);
    for (; i < n; i++) {
        if (sn == 0) return false;
        if ((fn & 1) || fn == sn) {
            merkle_node_hash(path[i], fr, fr);
            merkle_node_hash(path[i], sr, sr);
            while (!(fn & 1) && fn != 0) {
                fn >>= 1;
                sn >>= 1;
            }
        } else
            merkle_node_hash(sr, path[i], sr);
        fn >>= 1;
        sn >>= 1;
    }
    return sn == 0 && memcmp(fr, from_root, SHA256_SIZE) == 0 && memcmp(sr, to_root, SHA256_SIZE) == 0;
}
