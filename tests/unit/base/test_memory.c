#include "test.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/random.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
static bool closed(const void *at) { return __asan_address_is_poisoned(at); }
#endif

static void buf_cap(void **state) {
    (void)state;
    struct buf b;
    buf_init(&b, 5);
    assert_int_equal(buf_append_str(&b, "abc"), 0);
    assert_int_equal(buf_append_str(&b, "def"), E_FULL);
    assert_true(span_eq(buf_span(&b), SPAN("abc")) && b.failed == E_FULL);
    assert_int_equal(buf_append_str(&b, "de"), 0); /* what fits is still taken */
    assert_int_equal(buf_append_char(&b, 'x'), E_FULL);
    assert_int_equal(buf_printf(&b, "%d", 1), E_FULL);
    assert_string_equal(buf_cstr(&b), "abcde");
    buf_consume(&b, 2);
    assert_int_equal(buf_printf(&b, "%02d", 7), 0);
    assert_string_equal(buf_cstr(&b), "cde07");
    assert_null(buf_reserve(&b, 1));
    buf_clear(&b);
    assert_int_equal(b.failed, 0);
    char *room = buf_reserve(&b, 5);
    assert_non_null(room);
    memcpy(room, "12345", 5);
    buf_commit(&b, 4);
    buf_consume(&b, 1);
    size_t len;
    char *text = buf_detach(&b, &len);
    assert_string_equal(text, "234");
    assert_int_equal(len, 3);
    mem_free(text);
    buf_fini(&b);
    buf_fini(&b);
}

/* A queue against a plain array: any order of appends, reserves and consumes. */
static void buf_model(void **state) {
    (void)state;
    struct random r;
    uint64_t seed;
    random_bytes(&seed, sizeof seed);
    random_seed(&r, seed);
    static char model[1000];
    size_t model_len = 0;
    struct buf b;
    buf_init(&b, sizeof model);
    for (int step = 0; step < 100000; step++) {
        char piece[300];
        size_t n = random_below(&r, random_below(&r, 8) ? 20 : sizeof piece);
        for (size_t i = 0; i < n; i++) piece[i] = (char)('a' + random_below(&r, 26));
        bool fits = n <= sizeof model - model_len;
        switch (random_below(&r, 4)) {
        case 0: CHECK((buf_append(&b, piece, n) == 0) == fits, "seed %llu step %d", (unsigned long long)seed, step); break;
        case 1: CHECK((buf_printf(&b, "%.*s", (int)n, piece) == 0) == fits, "seed %llu step %d", (unsigned long long)seed, step); break;
        case 2: {
            char *room = buf_reserve(&b, n);
            CHECK((room != NULL) == fits, "seed %llu step %d", (unsigned long long)seed, step);
            if (room) memcpy(room, piece, n), buf_commit(&b, n);
            break;
        }
        default:
            buf_consume(&b, n);
            n = n < model_len ? n : model_len;
            memmove(model, model + n, model_len - n);
            model_len -= n;
            fits = false;
        }
        if (fits) memcpy(model + model_len, piece, n), model_len += n;
        CHECK(span_eq(buf_span(&b), span_of(model, model_len)), "seed %llu step %d", (unsigned long long)seed, step);
        CHECK(b.capacity <= b.cap + 1, "seed %llu step %d: capacity %zu", (unsigned long long)seed, step, b.capacity);
    }
    buf_fini(&b);
}

static void buf_without_memory(void **state) {
    (void)state;
    for (uint64_t at = 1; at < 20; at++) {
        struct buf b;
        buf_init(&b, 10000);
        alloc_fail_at(at);
        size_t expected = 0;
        for (int i = 0; i < 200; i++) {
            int r = i % 2 ? buf_append_str(&b, "0123456789") : buf_printf(&b, "%s", "0123456789");
            if (!r) expected += 10;
            CHECK(r == 0 || r == E_NOMEM, "%d", r);
        }
        alloc_fail_at(0);
        CHECK(b.len == expected, "at %d", (int)at);
        CHECK((b.failed == E_NOMEM) == (expected < 2000), "at %d", (int)at);
        buf_fini(&b);
    }
}

static void arena_limits(void **state) {
    (void)state;
    struct arena a;
    arena_init(&a, 100000);
    for (size_t size = 0; size < 3000; size += 7) {
        char *p = arena_alloc(&a, size), *q = arena_strdup(&a, "x");
        if (!p || !q) break;
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < size; i++) assert_int_equal(p[i], 0);
        memset(p, 0xaa, size);
        assert_string_equal(q, "x");
    }
    assert_true(a.used <= a.cap);
    assert_null(arena_alloc(&a, 100000));
    assert_null(arena_calloc(&a, SIZE_MAX / 2, 3));
    arena_clear(&a);
    assert_int_equal(a.used, 0);
    char *p = arena_alloc_aligned(&a, 90000);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    assert_null(arena_alloc(&a, 20000));
    arena_clear(&a);
    assert_string_equal(arena_printf(&a, "%d-%s", 5, "five"), "5-five");
    struct span s = arena_span(&a, SPAN("a\0b"));
    assert_true(span_eq(s, SPAN("a\0b")) && s.data[3] == 0);
    arena_fini(&a);
    arena_fini(&a);
}

/* AddressSanitizer sees who leaves a piece, at either end, also where its block is another's still or was cleared. */
static void arena_watched(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    struct arena a;
    arena_init(&a, 1 << 20);
    for (int turn = 0; turn < 3; turn++) {
        char *first = NULL, *last = NULL;
        for (size_t size = 1; size < 9000; size += size < 40 ? 1 : 977) {
            char *pieces[] = {arena_alloc(&a, size), arena_alloc_raw(&a, size), arena_alloc_aligned(&a, size), arena_printf(&a, "%.*s", (int)size - 1, "of any length")};
            for (size_t i = 0; i < COUNT(pieces); i++) {
                size_t n = i == 3 ? strlen(pieces[i]) + 1 : size;
                CHECK(pieces[i] && !closed(pieces[i]) && !closed(pieces[i] + n - 1), "piece %zu of %zu bytes", i, size);
                CHECK(closed(pieces[i] - 1) && closed(pieces[i] + n), "beside piece %zu of %zu bytes", i, size);
                if (!first) first = pieces[i];
                last = pieces[i];
            }
        }
        assert_false(closed(first));
        arena_clear(&a);
        assert_true(closed(last));
    }
    arena_fini(&a);
#else
    skip();
#endif
}

static void arena_without_memory(void **state) {
    (void)state;
    for (uint64_t at = 1; at < 8; at++) {
        struct arena a;
        arena_init(&a, 1 << 20);
        alloc_fail_at(at);
        int got = 0;
        for (int i = 0; i < 100; i++) got += arena_alloc(&a, 1000) != NULL;
        alloc_fail_at(0);
        CHECK(at == 1 ? got == 0 : got > 0, "at %d: %d", (int)at, got);
        arena_fini(&a);
    }
}

static void alloc_seam(void **state) {
    (void)state;
    assert_null(mem_calloc(SIZE_MAX / 2, 3));
    assert_null(mem_realloc_array(NULL, SIZE_MAX / 2, 3));
    void *p = mem_alloc_aligned(100);
    assert_int_equal((uintptr_t)p % 64, 0);
    mem_free(p);
    alloc_fail_at(2);
    void *first = mem_alloc(1);
    assert_non_null(first);
    assert_null(mem_alloc(1));
    assert_null(mem_strdup("x"));
    assert_null(mem_alloc_aligned(64));
    assert_int_equal(alloc_count(), 4);
    alloc_fail_at(0);
    mem_free(first);
    int *array = NULL;
    size_t capacity = 0;
    assert_int_equal(array_reserve(&array, &capacity, SIZE_MAX / 2, sizeof *array), E_NOMEM);
    assert_null(array);
    assert_int_equal(array_reserve(&array, &capacity, 3, sizeof *array), 0);
    assert_true(capacity >= 3);
    mem_free(array);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(buf_cap),      cmocka_unit_test(buf_model),            cmocka_unit_test(buf_without_memory),
                                       cmocka_unit_test(arena_limits), cmocka_unit_test(arena_watched), cmocka_unit_test(arena_without_memory), cmocka_unit_test(alloc_seam)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
