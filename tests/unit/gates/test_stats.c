/* The statistics of the gates against figures worked out by hand from their formulas, and by what must hold of any interval. */
#include "tests/unit/support/check.h"

#include <math.h>

#include "base/random.h"
#include "gates/stats.h"

static bool near(double a, double b) { return fabs(a - b) < 1e-6; }

static void test_wilson(void **state) {
    (void)state;
    static const struct {
        double successes;
        uint64_t n;
        double value, low, high;
    } cases[] = {
        {8, 10, 0.8, 0.490162, 0.943318}, {0, 10, 0, 0, 0.277533}, {10, 10, 1, 0.722467, 1}, {50, 100, 0.5, 0.403832, 0.596168}, {0.5, 1, 0.5, 0.054621, 0.945379}, {0, 0, 0, 0, 1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct interval w = stats_wilson(cases[i].successes, cases[i].n);
        CHECK(near(w.value, cases[i].value) && near(w.low, cases[i].low) && near(w.high, cases[i].high), "%g of %llu: %.6f [%.6f, %.6f]", cases[i].successes, (unsigned long long)cases[i].n, w.value, w.low, w.high);
    }
}

static void test_paired(void **state) {
    (void)state;
    static const struct {
        uint64_t a, b, n;
        double value, low, high;
    } cases[] = {
        {10, 5, 100, 0.05, -0.029634, 0.127673}, {0, 0, 10, 0, -0.230984, 0.230984}, {5, 0, 5, 1, 0.195836, 1}, {0, 5, 5, -1, -1, -0.195836}, {0, 0, 0, 0, -1, 1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct interval d = stats_paired_difference(cases[i].a, cases[i].b, cases[i].n);
        CHECK(near(d.value, cases[i].value) && near(d.low, cases[i].low) && near(d.high, cases[i].high), "%llu, %llu of %llu: %.6f [%.6f, %.6f]", (unsigned long long)cases[i].a, (unsigned long long)cases[i].b,
              (unsigned long long)cases[i].n, d.value, d.low, d.high);
    }
}

static void test_ratio(void **state) {
    (void)state;
    enum { N = 200 };
    double top[N], bottom[N];
    struct interval one, two;
    struct random r;
    random_seed(&r, 3);
    for (int i = 0; i < N; i++) {
        bottom[i] = 1 + random_f64(&r);
        top[i] = bottom[i] * (2 + 0.1 * random_normal(&r));
    }
    assert_int_equal(stats_ratio(top, bottom, N, 7, &one), 0);
    assert_int_equal(stats_ratio(top, bottom, N, 7, &two), 0);
    assert_memory_equal(&one, &two, sizeof one); /* the same record, the same figures */
    assert_true(one.low < one.value && one.value < one.high && fabs(one.value - 2) < 0.03 && one.low > 1.97 && one.high < 2.03);
    /* The normal approximation for this ratio: a standard deviation of 0.1 over 200 items. */
    double half = (one.high - one.low) / 2, expected = STATS_Z95 * 0.1 / sqrt(N);
    CHECK(half > expected * 0.8 && half < expected * 1.35, "half width %.5f, about %.5f was expected", half, expected);
    assert_int_equal(stats_ratio(bottom, bottom, N, 7, &one), 0);
    assert_true(one.value == 1 && one.low == 1 && one.high == 1);
    assert_int_equal(stats_ratio(top, bottom, 1, 7, &one), 0); /* one item has no spread */
    assert_true(one.low == one.value && one.high == one.value);
    assert_int_equal(stats_ratio(top, bottom, 0, 7, &one), 0);
    assert_true(isnan(one.value));
    memset(bottom, 0, sizeof bottom);
    assert_int_equal(stats_ratio(top, bottom, N, 7, &one), 0);
    assert_true(isnan(one.value));
    bottom[0] = 1; /* draws without the only item that counts say nothing, and are no division by zero */
    assert_int_equal(stats_ratio(top, bottom, N, 7, &one), 0);
    assert_true(isfinite(one.low) && isfinite(one.high));
    alloc_fail_at(1);
    int code = stats_ratio(top, bottom, N, 7, &one);
    alloc_fail_at(0);
    assert_int_equal(code, E_NOMEM);
}

/* How often the interval holds the truth: about 95 of 100 times, by simulation with a fixed seed. */
static void test_coverage(void **state) {
    (void)state;
    struct random r;
    random_seed(&r, 11);
    static const double truths[] = {0.02, 0.1, 0.5, 0.9};
    for (size_t t = 0; t < COUNT(truths); t++) {
        int covered = 0, rounds = 4000;
        for (int k = 0; k < rounds; k++) {
            int s = 0;
            for (int i = 0; i < 100; i++) s += random_f64(&r) < truths[t];
            struct interval w = stats_wilson(s, 100);
            covered += w.low <= truths[t] && truths[t] <= w.high;
        }
        CHECK(covered > rounds * 92 / 100 && covered < rounds * 99 / 100, "of %g: %d of %d", truths[t], covered, rounds);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wilson), cmocka_unit_test(test_paired), cmocka_unit_test(test_ratio), cmocka_unit_test(test_coverage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
