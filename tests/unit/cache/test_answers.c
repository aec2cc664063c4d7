/* Answers that are kept: their names, their seals, and what is read of a request's Cache-Control. */
#include "tests/unit/support/check.h"

#include "cache/answers.h"

static const uint8_t SECRET[32] = {9};

static struct answer_key key_of(const uint8_t secret[32], const char *tenant, const char *model, const char *digest, const char *a, const char *b) {
    struct answer_hash h;
    struct answer_key k;
    answer_hash_begin(&h, secret, span_str(tenant), span_str(model), span_str(digest));
    answer_hash_add(&h, span_str(a));
    answer_hash_add(&h, span_str(b));
    answer_hash_end(&h, &k);
    return k;
}

static void test_names(void **state) {
    (void)state;
    static const uint8_t other[32] = {8};
    struct answer_key k = key_of(SECRET, "shop", "m@1", "abc", "hello", "world"), same = key_of(SECRET, "shop", "m@1", "abc", "hello", "world");
    assert_memory_equal(&k, &same, sizeof k);
    assert_int_equal(strlen(k.name), ANSWER_NAME_MAX - 1);
    const struct {
        const char *name;
        struct answer_key k;
    } rows[] = {
        {"another tenant", key_of(SECRET, "library", "m@1", "abc", "hello", "world")},
        {"another version", key_of(SECRET, "shop", "m@2", "abc", "hello", "world")},
        {"other files", key_of(SECRET, "shop", "m@1", "abd", "hello", "world")},
        {"another request", key_of(SECRET, "shop", "m@1", "abc", "hello", "World")},
        {"cut elsewhere", key_of(SECRET, "shop", "m@1", "abc", "hellow", "orld")},
        {"tenant and model run together", key_of(SECRET, "shopm", "@1", "abc", "hello", "world")},
        {"another platform", key_of(other, "shop", "m@1", "abc", "hello", "world")},
    };
    for (size_t i = 0; i < COUNT(rows); i++) CHECK(strcmp(k.name, rows[i].k.name) != 0 && memcmp(k.seal, rows[i].k.seal, sizeof k.seal) != 0, "%s: the same name or seal", rows[i].name);
}

static void test_entries(void **state) {
    (void)state;
    struct answer_key k = key_of(SECRET, "shop", "m@1", "abc", "a", "b"), other = key_of(SECRET, "library", "m@1", "abc", "a", "b");
    struct buf made, sealed, items;
    int64_t made_ms = 0;
    uint16_t source;
    struct span item;
    bool whole;
    buf_init(&made, 4096);
    buf_init(&sealed, 8192);
    buf_init(&items, 8192);
    assert_int_equal(answer_begin(&made, 1700000000123), 0);
    assert_int_equal(answer_item(&made, 0, SPAN("first")), 0);
    assert_int_equal(answer_item(&made, 300, SPAN("")), 0);
    assert_int_equal(answer_item(&made, 1, SPAN("third")), 0);
    assert_int_equal(answer_seal(&k, buf_span(&made), &sealed), 0);
    assert_true(span_find(buf_span(&sealed), SPAN("first")) < 0);
    assert_int_equal(answer_open(&k, buf_span(&sealed), &items, &made_ms), 0);
    assert_int_equal(made_ms, 1700000000123);
    struct span rest = buf_span(&items);
    assert_true(answer_next(&rest, &source, &item, &whole) && source == 0 && span_eq_str(item, "first"));
    assert_true(answer_next(&rest, &source, &item, &whole) && source == 300 && item.len == 0);
    assert_true(answer_next(&rest, &source, &item, &whole) && source == 1 && span_eq_str(item, "third"));
    assert_false(answer_next(&rest, &source, &item, &whole));
    assert_true(whole);
    for (size_t cut = 1; cut < items.len; cut++) { /* whatever is cut off, what is there ends by itself, and not whole but between two items */
        struct span part = span_sub(buf_span(&items), 0, cut);
        size_t n = 0;
        while (answer_next(&part, &source, &item, &whole)) n++;
        CHECK(n < 3 && whole == (part.len == 0), "cut at %zu", cut);
    }
    /* Under another key, with any bit turned, or cut, it is none. */
    buf_clear(&items);
    assert_int_equal(answer_open(&other, buf_span(&sealed), &items, &made_ms), E_DATA_LOSS);
    for (size_t i = 0; i < sealed.len; i++) {
        sealed.data[sealed.start + i] ^= 1;
        CHECK(answer_open(&k, buf_span(&sealed), &items, &made_ms) == E_DATA_LOSS && items.len == 0, "byte %zu does not count", i);
        sealed.data[sealed.start + i] ^= 1;
        CHECK(answer_open(&k, span_sub(buf_span(&sealed), 0, i), &items, &made_ms) == E_DATA_LOSS, "cut at %zu", i);
    }
    /* One that does not fit any more leaves nothing of itself. */
    struct buf small;
    buf_init(&small, 32);
    assert_int_equal(answer_begin(&small, 1), 0);
    size_t before = small.len;
    assert_int_equal(answer_item(&small, 0, SPAN("more than there is room for")), E_FULL);
    assert_int_equal(small.len, before);
    buf_fini(&small);
    buf_fini(&made);
    buf_fini(&sealed);
    buf_fini(&items);
}

static void test_cache_control(void **state) {
    (void)state;
    static const struct {
        const char *header;
        bool past, no_store;
        int64_t age_max_ms;
    } rows[] = {
        {"", false, false, -1},
        {"no-cache", true, false, -1},
        {"No-Cache", true, false, -1},
        {"no-store", true, true, -1},
        {"max-age=60", false, false, 60000},
        {"max-age=0", false, false, 0},
        {"max-age=\"5\"", false, false, 5000},
        {"max-age=60, no-cache", true, false, 60000},
        {" , ,no-transform,  max-age = 1 ", false, false, 1000},
        {"max-age=99999999999999999999", false, false, -1},
        {"max-age=soon", true, false, -1},
        {"max-age", true, false, -1},
        {"private=\"no-cache\"", false, false, -1},
        {"no-cached", false, false, -1},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct cache_control c;
        cache_control_read(span_str(rows[i].header), &c);
        CHECK(c.past == rows[i].past && c.no_store == rows[i].no_store && c.age_max_ms == rows[i].age_max_ms, "\"%s\": past %d, no_store %d, age %lld", rows[i].header, c.past, c.no_store, (long long)c.age_max_ms);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_entries), cmocka_unit_test(test_cache_control)};
    return cmocka_run_group_tests_name("cache/answers", tests, NULL, NULL);
}
