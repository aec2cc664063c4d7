#include "test.h"

#include <stdatomic.h>

#include "base/pool.h"

enum { ITEMS = 100000 };
struct job {
    atomic_uchar seen[ITEMS];
    uint64_t results[ITEMS];
    int threads;
};

static void item(void *arg, size_t i, int thread) {
    struct job *j = arg;
    if (thread < 0 || thread >= j->threads) abort();
    atomic_fetch_add(&j->seen[i], 1);
    uint64_t v = i;
    for (int k = 0; k < 10; k++) v = v * 6364136223846793005u + 1442695040888963407u;
    j->results[i] = v;
}

/* Each item exactly once, the same result for any number of threads, for many sizes of call and with calls in close succession. */
static void every_item_once(void **state) {
    (void)state;
    static struct job one, many;
    static const size_t counts[] = {0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1000, ITEMS};
    one.threads = 1;
    for (size_t i = 0; i < ITEMS; i++) item(&one, i, 0);
    for (int threads = 1; threads <= 5; threads++) {
        struct pool *p = pool_new(threads);
        assert_non_null(p);
        assert_int_equal(pool_threads(p), threads);
        many.threads = threads;
        for (size_t c = 0; c < COUNT(counts); c++) {
            memset(&many.seen, 0, sizeof many.seen);
            memset(many.results, 0, sizeof many.results);
            pool_run(p, counts[c], &many, item);
            for (size_t i = 0; i < ITEMS; i++) CHECK(many.seen[i] == (i < counts[c]), "%d threads, %zu items: item %zu ran %d times", threads, counts[c], i, many.seen[i]);
            assert_memory_equal(many.results, one.results, counts[c] * sizeof many.results[0]);
        }
        memset(&many.seen, 0, sizeof many.seen);
        for (int i = 0; i < 200; i++) pool_run(p, 1 + (size_t)i % 17, &many, item);
        int total = 0, expected = 0;
        for (int i = 0; i < 17; i++) total += many.seen[i];
        for (int i = 0; i < 200; i++) expected += 1 + i % 17;
        assert_int_equal(total, expected);
        pool_free(p);
    }
    pool_free(NULL);
}

static void no_more_than_active(void *arg, size_t i, int thread) {
    struct job *j = arg;
    if (thread >= j->threads) abort();
    item(arg, i, thread);
}

/* Fewer threads at work, then more: still each item once, by nobody who should rest. */
static void active_threads(void **state) {
    (void)state;
    static struct job job;
    enum { N = 5000 };
    struct pool *p = pool_new(4);
    assert_int_equal(pool_active(p), 4);
    for (int turn = 0; turn < 200; turn++) {
        int active = turn * 7 % 6; /* 0 and 5 are beyond the limits */
        pool_set_active(p, active);
        job.threads = active < 1 ? 1 : active > 4 ? 4 : active;
        assert_int_equal(pool_active(p), job.threads);
        assert_int_equal(pool_threads(p), 4);
        memset(&job.seen, 0, sizeof job.seen);
        pool_run(p, N, &job, no_more_than_active);
        for (size_t i = 0; i < N; i++) CHECK(job.seen[i] == 1, "turn %d: item %zu ran %d times", turn, i, job.seen[i]);
    }
    pool_free(p);
}

/* Steps among other calls: whatever the machine does meanwhile, each item once and by nobody who may not work. */
static void steps(void **state) {
    (void)state;
    static struct job job;
    enum { N = 300 };
    struct pool *p = pool_new(4);
    for (int turn = 0; turn < 300; turn++) {
        job.threads = 1 + turn / 50 % 4;
        pool_set_active(p, job.threads);
        memset(&job.seen, 0, sizeof job.seen);
        bool step = turn % 3 != 0;
        if (step) pool_step_begin(p);
        for (int i = 0; i < 20; i++) pool_run(p, N, &job, no_more_than_active);
        if (step) pool_step_end(p);
        for (size_t i = 0; i < N; i++) CHECK(job.seen[i] == 20, "turn %d: item %zu ran %d times", turn, i, job.seen[i]);
    }
    pool_free(p);
}

static void limits(void **state) {
    (void)state;
    assert_true(cpu_count() >= 1);
    struct pool *p = pool_new(0);
    assert_int_equal(pool_threads(p), cpu_count() < POOL_THREADS_MAX ? cpu_count() : POOL_THREADS_MAX);
    pool_free(p);
    for (uint64_t n = 1; n <= 4; n++) {
        alloc_fail_at(n);
        p = pool_new(3);
        alloc_fail_at(0);
        CHECK(p == NULL, "allocation %d", (int)n);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_item_once), cmocka_unit_test(active_threads), cmocka_unit_test(steps), cmocka_unit_test(limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
