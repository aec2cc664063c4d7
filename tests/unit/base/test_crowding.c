#include "base/crowding.h"
#include "test.h"

/* A machine of two CPUs: steps of 5 ms follow each other; those of two threads lose so much of the time, those of one nothing. */
struct machine {
    struct crowding crowding;
    int64_t now_us;
    double lost;
};

/* So much time passes; the share of it that steps of all threads took. */
static double pass(struct machine *m, int threads, int64_t us) {
    int64_t end = m->now_us + us, whole = 0, all = 0;
    while (m->now_us < end) {
        int used = crowding_threads(&m->crowding, threads, m->now_us);
        assert_in_range(used, 1, threads);
        m->now_us += 5000;
        crowding_tell(&m->crowding, used, m->now_us, 5000, used == threads ? (int64_t)(5000 * m->lost) : 0);
        whole += used == threads ? 5000 : 0;
        all += 5000;
    }
    return (double)whole / (double)all;
}

static void quiet(void **state) {
    (void)state;
    for (int threads = 1; threads <= 8; threads++) {
        struct machine m = {.lost = 0.09};
        CHECK(pass(&m, threads, 10000000) == 1, "%d threads", threads);
    }
}

static void crowded(void **state) {
    (void)state;
    for (int threads = 2; threads <= 8; threads++) {
        struct machine m = {.lost = 0.4};
        double first = pass(&m, threads, 1000000), then = pass(&m, threads, 10000000);
        CHECK(first > 0.04 && first < 0.25, "%d threads: all of them for %.3f of the first second", threads, first);
        CHECK(then > 0 && then < 0.03, "%d threads: all of them for %.3f of the time", threads, then); /* it goes on trying */
        m.lost = 0;
        pass(&m, threads, 2100000);
        CHECK(pass(&m, threads, 1000000) == 1, "%d threads: not all of them two seconds after", threads);
    }
}

/* What other processes do for a request that begins takes a CPU for a moment: no thread is given up for that. */
static void moments(void **state) {
    (void)state;
    struct machine m = {0};
    for (int i = 0; i < 20; i++) {
        m.lost = 0.5;
        CHECK(pass(&m, 2, 50000) == 1, "moment %d", i);
        m.lost = 0;
        CHECK(pass(&m, 2, 75000 + 5000 * i) == 1, "after moment %d", i);
    }
}

/* What is lost is weighed against what a thread is worth. */
static void worth_of_a_thread(void **state) {
    (void)state;
    static const struct {
        int threads;
        double lost;
        bool fewer;
    } cases[] = {{1, 0.9, false}, {2, 0.25, false}, {2, 0.35, true}, {4, 0.13, false}, {4, 0.2, true}, {64, 0.09, false}, {64, 0.12, true}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct machine m = {.lost = cases[i].lost};
        double whole = pass(&m, cases[i].threads, 3000000);
        CHECK((whole < 1) == cases[i].fewer, "%d threads that lose %.2f", cases[i].threads, cases[i].lost);
    }
}

/* Every number of threads loses: it ends at one, and comes back from there. */
static void all_lose(void **state) {
    (void)state;
    struct crowding c = {0};
    int64_t now = 0;
    int used = 8;
    for (int i = 0; i < 2000; i++) {
        used = crowding_threads(&c, 8, now);
        now += 5000;
        crowding_tell(&c, used, now, 5000, 4000);
    }
    assert_in_range(used, 1, 2);
    for (int i = 0; i < 10000; i++) {
        used = crowding_threads(&c, 8, now);
        now += 5000;
        crowding_tell(&c, used, now, 5000, 0);
    }
    assert_int_equal(used, 8);
}

/* The number that may work changes between two steps. */
static void fewer_allowed(void **state) {
    (void)state;
    struct machine m = {.lost = 0.4};
    pass(&m, 4, 300000);
    assert_in_range(m.crowding.given_up, 1, 3);
    assert_int_equal(crowding_threads(&m.crowding, 1, m.now_us), 1);
    crowding_tell(&m.crowding, 1, m.now_us, 60000, 50000); /* nothing to give up */
    assert_int_equal(crowding_threads(&m.crowding, 4, m.now_us), 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(quiet), cmocka_unit_test(crowded), cmocka_unit_test(moments), cmocka_unit_test(worth_of_a_thread), cmocka_unit_test(all_lose), cmocka_unit_test(fewer_allowed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
