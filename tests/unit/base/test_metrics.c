#include "test.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/metrics.h"

static void rendering(void **state) {
    (void)state;
    struct metric *c = metric_counter("t_requests_total", "code=\"200\"", "Requests\nanswered.");
    assert_ptr_equal(c, metric_counter("t_requests_total", "code=\"200\"", "again"));
    struct metric *other = metric_counter("t_requests_total", "code=\"404\"", "");
    assert_ptr_not_equal(c, other);
    metric_add(c, 2);
    metric_add(c, -5); /* a counter does not fall */
    metric_add(c, 0.5);
    struct metric *g = metric_gauge("t_queue", "", "Waiting.");
    metric_set(g, 7);
    metric_add(g, -3);
    static const double bounds[] = {0.1, 1};
    struct metric *h = metric_histogram("t_seconds", "route=\"/x\"", "Time.", bounds, 2);
    metric_observe(h, 0.1);
    metric_observe(h, 0.5);
    metric_observe(h, 5);
    metric_observe(h, __builtin_nan(""));
    assert_true(metric_value(c) == 2.5 && metric_value(g) == 4 && metric_value(h) == 3);
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(metrics_render(&out), 0);
    static const char expected[] = "# HELP t_requests_total Requests\\nanswered.\n# TYPE t_requests_total counter\n"
                                   "t_requests_total{code=\"200\"} 2.5\nt_requests_total{code=\"404\"} 0\n"
                                   "# HELP t_queue Waiting.\n# TYPE t_queue gauge\nt_queue 4\n"
                                   "# HELP t_seconds Time.\n# TYPE t_seconds histogram\n"
                                   "t_seconds_bucket{route=\"/x\",le=\"0.1\"} 1\nt_seconds_bucket{route=\"/x\",le=\"1\"} 2\nt_seconds_bucket{route=\"/x\",le=\"+Inf\"} 3\n"
                                   "t_seconds_sum{route=\"/x\"} 5.5999999999999996\nt_seconds_count{route=\"/x\"} 3\n";
    CHECK(span_starts(buf_span(&out), span_str(expected)), "%s", buf_cstr(&out));
    static const char *const process[] = {"\nprocess_resident_memory_bytes ", "\nprocess_cpu_seconds_total ", "\nprocess_start_time_seconds "};
    for (size_t i = 0; i < COUNT(process); i++) assert_non_null(strstr(buf_cstr(&out), process[i]));
    buf_fini(&out);
    buf_init(&out, 10);
    assert_int_equal(metrics_render(&out), E_FULL);
    buf_fini(&out);
}

static void too_many_series(void **state) {
    (void)state;
    char labels[40];
    for (int i = 0; i < METRIC_SERIES_MAX + 10; i++) {
        snprintf(labels, sizeof labels, "user=\"%d\"", i);
        metric_add(metric_counter("t_users_total", labels, ""), 1);
    }
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_int_equal(metrics_render(&out), 0);
    const char *other = strstr(buf_cstr(&out), "t_users_total{other=\"true\"} ");
    assert_non_null(other);
    double counted = 0;
    assert_int_equal(sscanf(other, "t_users_total{other=\"true\"} %lf", &counted), 1);
    assert_true(counted >= 10 && counted < 20);
    assert_non_null(strstr(buf_cstr(&out), "t_users_total{user=\"0\"} 1\n"));
    buf_fini(&out);
}

static void without_memory(void **state) {
    (void)state;
    alloc_fail_at(1);
    struct metric *m = metric_histogram("t_unlucky_seconds", "", "", METRIC_SECONDS_BOUNDS, METRIC_SECONDS_BOUNDS_COUNT);
    alloc_fail_at(0);
    assert_non_null(m);
    metric_observe(m, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rendering), cmocka_unit_test(without_memory), cmocka_unit_test(too_many_series)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
