/* When fine-tuning is asked for, and when not. */
#include "tests/unit/support/check.h"

#include "services/feedback/policy.h"

static void test_table(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct policy_limits limits;
        struct policy_facts facts;
        int64_t now_ms;
        bool asks;
    } cases[] = {
        {"enough", {10, 1000}, {true, false, 10, 0, 0}, 5, true},
        {"one too few", {10, 1000}, {true, false, 9, 0, 0}, 5, false},
        {"since the last time", {10, 1000}, {true, false, 25, 16, 1}, 5000, false},
        {"enough since the last time", {10, 1000}, {true, false, 26, 16, 1}, 5000, true},
        {"too soon", {10, 1000}, {true, false, 100, 0, 4500}, 5499, false},
        {"just not too soon", {10, 1000}, {true, false, 100, 0, 4500}, 5500, true},
        {"nothing to start from", {10, 1000}, {false, false, 100, 0, 0}, 5, false},
        {"something is on its way", {10, 1000}, {true, true, 100, 0, 0}, 5, false},
        {"never by itself", {0, 1000}, {true, false, 1000000, 0, 0}, 5, false},
        {"never by itself either", {-1, 1000}, {true, false, 1000000, 0, 0}, 5, false},
        {"fewer than then, of a log that was cut", {10, 1000}, {true, false, 5, 100, 1}, 5000, false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char reason[POLICY_REASON_MAX] = "";
        CHECK(policy_improve(&cases[i].limits, &cases[i].facts, cases[i].now_ms, reason) == cases[i].asks, "%s", cases[i].name);
        CHECK(cases[i].asks == (reason[0] != 0), "%s: \"%s\"", cases[i].name, reason);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
