/* Which replicas have seen a prompt's beginning: chains in any pieces, the table against one that keeps all, and what a full one forgets. */
#include "tests/unit/support/check.h"

#include "base/random.h"
#include "services/gateway/prefixes.h"

static void test_chain(void **state) {
    (void)state;
    enum { SIZE = PREFIX_BLOCK * (PREFIX_BLOCKS_MAX + 3) };
    static char text[SIZE];
    static struct prefix_chain whole, pieces, other;
    struct random random;
    random_seed(&random, 5);
    for (size_t i = 0; i < SIZE; i++) text[i] = (char)random_below(&random, 256);
    prefix_begin(&whole, 7, SPAN("tenant"), SPAN("m@1"));
    prefix_add(&whole, span_of(text, SIZE));
    assert_int_equal(whole.count, PREFIX_BLOCKS_MAX);
    prefix_begin(&pieces, 7, SPAN("tenant"), SPAN("m@1"));
    for (size_t at = 0, n; at < SIZE; at += n) {
        n = (size_t)random_below(&random, 3 * PREFIX_BLOCK);
        if (n > SIZE - at) n = SIZE - at;
        prefix_add(&pieces, span_of(text + at, n));
    }
    assert_int_equal(pieces.count, whole.count);
    assert_memory_equal(pieces.blocks, whole.blocks, sizeof whole.blocks);
    /* A byte changes its block and all behind it; a block that is not full is none. */
    text[PREFIX_BLOCK * 2]++;
    prefix_begin(&other, 7, SPAN("tenant"), SPAN("m@1"));
    prefix_add(&other, span_of(text, PREFIX_BLOCK * 5 - 1));
    assert_int_equal(other.count, 4);
    assert_memory_equal(other.blocks, whole.blocks, 2 * sizeof *whole.blocks);
    for (size_t i = 2; i < 4; i++) assert_true(other.blocks[i] != whole.blocks[i]);
    text[PREFIX_BLOCK * 2]--;
    static const struct {
        uint64_t secret;
        const char *tenant, *model;
    } others[] = {{8, "tenant", "m@1"}, {7, "tenant2", "m@1"}, {7, "tenant", "m@2"}, {7, "m@1", "tenant"}};
    for (size_t i = 0; i < COUNT(others); i++) {
        prefix_begin(&other, others[i].secret, span_str(others[i].tenant), span_str(others[i].model));
        prefix_add(&other, span_of(text, PREFIX_BLOCK));
        CHECK(other.blocks[0] != whole.blocks[0], "case %zu", i);
    }
}

enum { LETTERS = 3, DEPTH = 4, PATHS = 1 + 3 + 9 + 27 + 81 };
/* Number of the path of the first `depth` letters in a tree where each has LETTERS branches. */
static int path_of(const int *letters, int depth) {
    int at = 0;
    for (int i = 0; i < depth; i++) at = at * LETTERS + 1 + letters[i];
    return at;
}

static void test_table(void **state) {
    (void)state;
    static bool seen[PREFIX_REPLICAS][PATHS];
    uint64_t seed;
    struct random random;
    struct prefixes *p = prefixes_new();
    random_bytes(&seed, sizeof seed);
    random_seed(&random, seed);
    assert_non_null(p);
    for (int step = 0; step < 3000; step++) {
        static struct prefix_chain c;
        int letters[DEPTH], depth = (int)random_below(&random, DEPTH + 1), replica = (int)random_below(&random, PREFIX_REPLICAS);
        char block[PREFIX_BLOCK];
        uint16_t got[PREFIX_REPLICAS];
        prefix_begin(&c, 1, SPAN("t"), SPAN("m@1"));
        for (int i = 0; i < depth; i++) {
            letters[i] = (int)random_below(&random, LETTERS);
            memset(block, 'a' + letters[i], sizeof block);
            prefix_add(&c, span_of(block, sizeof block));
        }
        prefixes_seen(p, &c, got);
        for (int i = 0; i < PREFIX_REPLICAS; i++) {
            int want = 0;
            while (want < depth && seen[i][path_of(letters, want + 1)]) want++;
            CHECK(got[i] == want, "seed %llu, step %d: replica %d has seen %u of %d, not %d", (unsigned long long)seed, step, i, got[i], depth, want);
        }
        if (random_below(&random, 10) == 0) {
            prefixes_forget(p, replica);
            memset(seen[replica], 0, sizeof seen[replica]);
            continue;
        }
        prefixes_note(p, &c, replica);
        for (int i = 1; i <= depth; i++) seen[replica][path_of(letters, i)] = true;
    }
    prefixes_free(p);
    prefixes_free(NULL);
}

/* What is used all the time stays, whatever else goes through. */
static void test_full(void **state) {
    (void)state;
    struct prefixes *p = prefixes_new();
    static struct prefix_chain kept, other;
    uint16_t got[PREFIX_REPLICAS];
    char block[PREFIX_BLOCK] = {0};
    assert_non_null(p);
    prefix_begin(&kept, 1, SPAN("kept"), SPAN("m@1"));
    for (int i = 0; i < 8; i++) prefix_add(&kept, span_of(block, sizeof block));
    for (int i = 0; i < 400; i++) { /* about six times what fits */
        char tenant[16];
        snprintf(tenant, sizeof tenant, "t%d", i);
        prefix_begin(&other, 1, span_str(tenant), SPAN("m@1"));
        for (int k = 0; k < PREFIX_BLOCKS_MAX; k++) prefix_add(&other, span_of(block, sizeof block));
        prefixes_note(p, &kept, 255);
        prefixes_note(p, &other, 3);
    }
    prefixes_seen(p, &kept, got);
    assert_int_equal(got[255], 8);
    assert_int_equal(got[3], 0);
    prefixes_seen(p, &other, got);
    assert_int_equal(got[3], PREFIX_BLOCKS_MAX);
    prefix_begin(&other, 1, SPAN("t0"), SPAN("m@1"));
    for (int k = 0; k < PREFIX_BLOCKS_MAX; k++) prefix_add(&other, span_of(block, sizeof block));
    prefixes_seen(p, &other, got);
    assert_true(got[3] < PREFIX_BLOCKS_MAX / 2);
    prefixes_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chain), cmocka_unit_test(test_table), cmocka_unit_test(test_full)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
