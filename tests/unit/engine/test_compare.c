/* Kinds of weights against what is stored: the same kind is the same, a coarser one is further off, and a text of nothing is refused. */
#include "tests/unit/support/check.h"

#include <math.h>

#include "engine/compare.h"
#include "tests/unit/engine/support/tiny.h"

static void test_kinds(void **state) {
    static const enum packed_kind kinds[] = {PACKED_STORED, PACKED_F32, PACKED_Q8, PACKED_Q4};
    struct tiny t;
    struct compare_result r[COUNT(kinds)];
    struct error err = {0};
    (void)state;
    tiny_make(&t, "llama", 5);
    if (engine_compare(t.path, kinds, COUNT(kinds), span_str(COMPARE_TEXT), 1, r, &err) != 0) fail_msg("%s", err.message);
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (!(r[i].perplexity > 1 && isfinite(r[i].perplexity)) || r[i].tokens != r[0].tokens || r[i].tokens < 500) fail_msg("kind %zu: perplexity %g on %llu tokens", i, r[i].perplexity, (unsigned long long)r[i].tokens);
    for (size_t i = 0; i < 2; i++) assert_true(r[i].agreement == 1 && r[i].difference == 0 && r[i].perplexity == r[0].perplexity); /* f32 is what is stored */
    assert_true(r[2].difference > 0 && r[3].difference > 3 * r[2].difference);
    assert_true(r[2].agreement > 0.9 && r[3].agreement <= r[2].agreement);
    assert_true(r[3].weights_size < r[2].weights_size && r[2].weights_size < r[1].weights_size);
    assert_int_equal(engine_compare(t.path, kinds, 1, SPAN("a"), 1, r, &err), E_INVALID);
    assert_int_equal(engine_compare(t.path, kinds, 1, SPAN(""), 1, r, &err), E_INVALID);
    assert_int_equal(engine_compare(t.path, kinds, 0, SPAN("some text"), 1, r, &err), E_INVALID);
    assert_int_equal(engine_compare("/nonexistent", kinds, 1, SPAN("some text"), 1, r, &err) < 0, 1);
    tiny_remove(&t);
}

/* Of a model with an encoder the second half of each window is foretold from the first. */
static void test_halves(void **state) {
    static const enum packed_kind kinds[] = {PACKED_STORED, PACKED_F32, PACKED_Q8};
    struct tiny t;
    struct compare_result r[COUNT(kinds)];
    struct error err = {0};
    (void)state;
    tiny_make(&t, "umt5", 5);
    if (engine_compare(t.path, kinds, COUNT(kinds), span_str(COMPARE_TEXT), 1, r, &err) != 0) fail_msg("%s", err.message);
    assert_true(r[0].tokens > 250 && r[0].tokens == r[2].tokens && r[0].perplexity > 1 && isfinite(r[0].perplexity));
    assert_true(r[1].agreement == 1 && r[1].difference == 0);
    if (!(r[2].difference > 0 && r[2].difference < 0.5 && r[2].agreement > 0.1)) /* its random weights say of many tokens that they are about as likely */
        fail_msg("8 bits are %g off, the same in %g", r[2].difference, r[2].agreement);
    tiny_remove(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kinds), cmocka_unit_test(test_halves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
