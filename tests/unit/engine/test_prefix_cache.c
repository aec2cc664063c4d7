/* The prefix cache against a naive one: a list of whole prefixes, searched from end to end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "engine/prefix_cache.h"

enum { B = KV_BLOCK_TOKENS, DEPTH = 5, BLOCKS = 24, SEQUENCES = 4 };

static void fill(uint32_t *tokens, uint64_t choice, uint32_t blocks) { /* block i of a sequence: one of three, by the digits of `choice` */
    for (uint32_t i = 0; i < blocks; i++, choice /= 3)
        for (uint32_t t = 0; t < B; t++) tokens[i * B + t] = t == 7 ? (uint32_t)(choice % 3) : t;
}

/* --- the naive one --- */

struct entry {
    uint64_t salt;
    uint32_t tokens[DEPTH * B], blocks; /* its whole prefix */
    uint32_t block, holders;
    uint32_t begun; /* tokens of the last block, where it is not full */
    uint64_t released;
};
struct naive {
    struct entry entries[BLOCKS];
    size_t count;
    uint64_t clock;
};
static struct entry *naive_find(struct naive *n, uint64_t salt, const uint32_t *tokens, uint32_t blocks) {
    for (size_t i = 0; i < n->count; i++) {
        struct entry *e = &n->entries[i];
        if (e->salt == salt && e->blocks == blocks && !e->begun && memcmp(e->tokens, tokens, blocks * B * sizeof *tokens) == 0) return e;
    }
    return NULL;
}
/* Whether a block behind these full ones begins with the n tokens that follow. */
static bool naive_begins(const struct naive *n, uint64_t salt, const uint32_t *tokens, uint32_t blocks, uint32_t count) {
    for (size_t i = 0; i < n->count; i++) {
        const struct entry *e = &n->entries[i];
        if (e->salt == salt && e->blocks == blocks + 1 && (!e->begun || e->begun >= count) && memcmp(e->tokens, tokens, (blocks * B + count) * sizeof *tokens) == 0) return true;
    }
    return false;
}
static struct entry *naive_of_block(struct naive *n, uint32_t block) {
    for (size_t i = 0; i < n->count; i++)
        if (n->entries[i].block == block) return &n->entries[i];
    return NULL;
}
static uint32_t naive_idle(const struct naive *n) {
    uint32_t idle = 0;
    for (size_t i = 0; i < n->count; i++) idle += n->entries[i].holders == 0;
    return idle;
}
static void naive_evict(struct naive *n) {
    struct entry *oldest = NULL;
    for (size_t i = 0; i < n->count; i++)
        if (n->entries[i].holders == 0 && (!oldest || n->entries[i].released < oldest->released)) oldest = &n->entries[i];
    assert_non_null(oldest);
    *oldest = n->entries[--n->count];
}

struct sequence {
    bool here;
    uint64_t salt;
    uint32_t tokens[DEPTH * B], table[DEPTH], blocks, known, blocks_begun;
};

static void simulate(uint64_t seed) {
    struct random r;
    random_seed(&r, seed);
    struct prefix_cache c;
    struct naive n = {0};
    struct sequence s[SEQUENCES] = {0};
    uint32_t held_unknown = 0;
    assert_int_equal(prefix_cache_init(&c, BLOCKS, seed), 0);
    for (int turn = 0; turn < 400; turn++) {
        struct sequence *q = &s[random_below(&r, SEQUENCES)];
        if (!q->here) {
            *q = (struct sequence){.salt = random_below(&r, 2), .blocks = 1 + (uint32_t)random_below(&r, DEPTH)};
            struct prefix_salt salt = {{q->salt, 7}};
            fill(q->tokens, random_u64(&r), q->blocks);
            for (; q->known + 1 < q->blocks; q->known++) {
                struct entry *want = naive_find(&n, q->salt, q->tokens, q->known + 1);
                uint32_t got = prefix_cache_find(&c, q->known ? q->table[q->known - 1] : PREFIX_NONE, salt, q->tokens + q->known * B, B);
                if (got != (want ? want->block : PREFIX_NONE)) fail_msg("seed %llu, turn %d: another block is found", (unsigned long long)seed, turn);
                if (!want) break;
                want->holders++;
                q->table[q->known] = got;
            }
            uint32_t more = q->blocks - q->known, room = c.blocks.free_count + naive_idle(&n);
            int result = prefix_cache_alloc(&c, more, q->table + q->known);
            assert_int_equal(result, more <= room ? 0 : E_FULL);
            q->here = result == 0;
            if (q->here) {
                while (n.count + held_unknown + more > BLOCKS) naive_evict(&n);
                held_unknown += more;
            } else {
                prefix_cache_release(&c, q->table, q->known);
                for (uint32_t i = q->known; i-- > 0;) {
                    struct entry *e = naive_of_block(&n, q->table[i]);
                    e->holders--;
                    e->released = ++n.clock;
                }
            }
        } else if (q->known < q->blocks && random_below(&r, 4) != 0) { /* a block is full */
            struct entry *old = naive_find(&n, q->salt, q->tokens, q->known + 1);
            uint32_t own = q->table[q->known];
            uint32_t got = prefix_cache_add(&c, q->known ? q->table[q->known - 1] : PREFIX_NONE, (struct prefix_salt){{q->salt, 7}}, q->tokens + q->known * B, B, own);
            assert_int_equal(got, old ? old->block : own);
            held_unknown--;
            if (!old) {
                old = &n.entries[n.count++];
                *old = (struct entry){.salt = q->salt, .blocks = q->known + 1, .block = own};
                memcpy(old->tokens, q->tokens, sizeof old->tokens);
            }
            old->holders++;
            q->table[q->known++] = got;
        } else { /* it ends, some within a block */
            if (q->known > 0 && q->known < q->blocks && random_below(&r, 2)) {
                uint32_t begun = 1 + (uint32_t)random_below(&r, B - 1), own = q->table[q->known];
                prefix_cache_add_begun(&c, q->table[q->known - 1], q->tokens + q->known * B, begun, B, own);
                if (!naive_begins(&n, q->salt, q->tokens, q->known, begun)) {
                    struct entry *e = &n.entries[n.count++];
                    *e = (struct entry){.salt = q->salt, .blocks = q->known + 1, .block = own, .begun = begun, .released = ++n.clock};
                    memcpy(e->tokens, q->tokens, sizeof e->tokens);
                    held_unknown--;
                    q->blocks_begun = 1;
                }
            }
            prefix_cache_release(&c, q->table, q->blocks);
            held_unknown -= q->blocks - q->known - q->blocks_begun;
            q->blocks_begun = 0;
            for (uint32_t i = q->known; i-- > 0;) {
                struct entry *e = naive_of_block(&n, q->table[i]);
                assert_non_null(e);
                e->holders--;
                e->released = ++n.clock;
            }
            q->here = false;
        }
        if (c.known != n.count || c.idle != naive_idle(&n) || c.blocks.free_count + n.count + held_unknown != BLOCKS)
            fail_msg("seed %llu, turn %d: %u known and %u idle, the naive one has %zu and %u", (unsigned long long)seed, turn, c.known, c.idle, n.count, naive_idle(&n));
    }
    for (size_t i = 0; i < SEQUENCES; i++)
        if (s[i].here) prefix_cache_release(&c, s[i].table, s[i].blocks);
    assert_int_equal(prefix_cache_available(&c), BLOCKS);
    uint32_t all[BLOCKS];
    assert_int_equal(prefix_cache_alloc(&c, BLOCKS, all), 0); /* nothing is lost, nothing is there twice */
    assert_int_equal(c.known, 0);
    bool seen[BLOCKS] = {false};
    for (uint32_t i = 0; i < BLOCKS; i++) {
        assert_false(seen[all[i]]);
        seen[all[i]] = true;
    }
    prefix_cache_fini(&c);
}

static void test_like_the_naive_one(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 500; seed++) simulate(seed);
}

static void test_salts(void **state) {
    (void)state;
    struct prefix_cache c;
    assert_int_equal(prefix_cache_init(&c, 4, 1), 0);
    uint32_t tokens[B], block;
    fill(tokens, 0, 1);
    struct prefix_salt one = {{1, 0}}, other = {{0, 1}};
    assert_int_equal(prefix_cache_alloc(&c, 1, &block), 0);
    assert_int_equal(prefix_cache_add(&c, PREFIX_NONE, one, tokens, B, block), block);
    assert_int_equal(prefix_cache_find(&c, PREFIX_NONE, other, tokens, B), PREFIX_NONE);
    assert_int_equal(prefix_cache_find(&c, block, one, tokens, B), PREFIX_NONE); /* the same tokens further on are another prefix */
    assert_int_equal(prefix_cache_find(&c, PREFIX_NONE, one, tokens, B - 1), PREFIX_NONE); /* the same tokens, the last of them written, not read */
    assert_int_equal(prefix_cache_find(&c, PREFIX_NONE, one, tokens, 0), PREFIX_NONE);
    assert_int_equal(prefix_cache_find(&c, PREFIX_NONE, one, tokens, B), block);
    prefix_cache_fini(&c);
}

/* The block that begins most alike, of those behind the same parent; what is read there and written here is not the same. */
static void test_nearest(void **state) {
    (void)state;
    struct prefix_cache c;
    assert_int_equal(prefix_cache_init(&c, 8, 1), 0);
    struct prefix_salt salt = {{1, 0}};
    uint32_t tokens[B], blocks[5], alike;
    fill(tokens, 0, 1);
    assert_int_equal(prefix_cache_alloc(&c, 5, blocks), 0);
    for (uint32_t i = 0; i < 5; i++) { /* a parent, and four that differ from its tokens at 3, 6, 9 and 12; half of the last but one's are read */
        uint32_t own[B];
        memcpy(own, tokens, sizeof own);
        if (i) own[3 * i] = 99;
        assert_int_equal(prefix_cache_add(&c, i ? blocks[0] : PREFIX_NONE, salt, own, i == 3 ? B / 2 : B, blocks[i]), blocks[i]);
    }
    assert_int_equal(prefix_cache_nearest(&c, blocks[0], tokens, B, B, &alike), blocks[4]);
    assert_int_equal(alike, 12);
    assert_int_equal(prefix_cache_nearest(&c, blocks[0], tokens, B, 4, &alike), blocks[4]); /* no more than is asked for, of the latest */
    assert_int_equal(alike, 4);
    assert_int_equal(prefix_cache_nearest(&c, blocks[0], tokens, B / 2, B, &alike), blocks[3]);
    assert_int_equal(alike, 9);
    assert_int_equal(prefix_cache_nearest(&c, blocks[0], tokens, 0, B, &alike), PREFIX_NONE);
    assert_int_equal(alike, 0);
    assert_int_equal(prefix_cache_nearest(&c, blocks[1], tokens, B, B, &alike), PREFIX_NONE); /* nothing is behind that one */
    prefix_cache_release(&c, blocks, 5);
    uint32_t more[6];
    assert_int_equal(prefix_cache_alloc(&c, 6, more), 0); /* evicts three of the children, the last one first */
    assert_int_equal(prefix_cache_nearest(&c, blocks[0], tokens, B, B, &alike), blocks[1]);
    assert_int_equal(alike, 3);
    prefix_cache_fini(&c);
}

/* A block that is only begun: found where it begins alike, as far as it goes, and never as a whole one; and not kept twice. */
static void test_begun(void **state) {
    (void)state;
    struct prefix_cache c;
    assert_int_equal(prefix_cache_init(&c, 8, 1), 0);
    struct prefix_salt salt = {{1, 0}};
    uint32_t tokens[2 * B], blocks[4], alike;
    fill(tokens, 0, 2);
    assert_int_equal(prefix_cache_alloc(&c, 4, blocks), 0);
    assert_int_equal(prefix_cache_add(&c, PREFIX_NONE, salt, tokens, B, blocks[0]), blocks[0]);
    prefix_cache_add_begun(&c, blocks[0], tokens + B, 7, 5, blocks[1]);
    assert_int_equal(c.known, 2);
    prefix_cache_add_begun(&c, blocks[0], tokens + B, 6, 5, blocks[2]); /* nothing new */
    assert_int_equal(c.known, 2);
    prefix_cache_add_begun(&c, blocks[0], tokens + B, 9, 5, blocks[2]);
    assert_int_equal(c.known, 3);
    assert_int_equal(prefix_cache_find(&c, blocks[0], salt, tokens + B, 5), PREFIX_NONE);
    assert_int_equal(prefix_cache_nearest(&c, blocks[0], tokens + B, 5, B, &alike), blocks[2]);
    assert_int_equal(alike, 9);
    assert_int_equal(prefix_cache_nearest(&c, blocks[0], tokens + B, B, B, &alike), blocks[2]); /* what was written there is read here */
    assert_int_equal(alike, 5);
    assert_int_equal(prefix_cache_add(&c, blocks[0], salt, tokens + B, 5, blocks[3]), blocks[3]); /* the whole one stands beside them */
    assert_int_equal(prefix_cache_nearest(&c, blocks[0], tokens + B, 5, B, &alike), blocks[3]);
    assert_int_equal(alike, B);
    prefix_cache_release(&c, blocks, 4);
    assert_int_equal(prefix_cache_available(&c), 8);
    uint32_t all[8];
    assert_int_equal(prefix_cache_alloc(&c, 8, all), 0);
    assert_int_equal(c.known, 0);
    prefix_cache_fini(&c);
}

static void test_no_memory(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct prefix_cache c = {0};
        alloc_fail_at(n);
        int r = prefix_cache_init(&c, 10, 1);
        alloc_fail_at(0);
        if (r == 0) {
            assert_true(n > 4);
            prefix_cache_fini(&c);
            return;
        }
        assert_int_equal(r, E_NOMEM);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_like_the_naive_one), cmocka_unit_test(test_salts), cmocka_unit_test(test_nearest), cmocka_unit_test(test_begun), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests_name("prefix_cache", tests, NULL, NULL);
}
