/* Guesses: where they are found, and when they are worth their rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "base/span.h"
#include "engine/draft.h"

static void test_lookup(void **state) {
    (void)state;
    static const struct {
        const char *name, *tokens, *want; /* a letter is a token */
        uint32_t max;
    } rows[] = {
        {"nothing before", "abc", "", 4},
        {"two are too few", "abxyab", "", 4},
        {"what followed", "abcdefxabc", "defx", 4},
        {"no more than asked for", "abcdefxabc", "d", 1},
        {"the latest place", "abcdxabceyabc", "eyab", 4},
        {"the longest match", "zabcdxabceyzabc", "dxab", 4},
        {"a repetition goes on", "xabcabc", "abcabca", 7},
        {"one token again and again", "aaaa", "aaa", 3},
        {"none wanted", "abcdabc", "", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t tokens[32], out[8];
        uint32_t n = (uint32_t)strlen(rows[i].tokens);
        for (uint32_t t = 0; t < n; t++) tokens[t] = (uint32_t)rows[i].tokens[t];
        uint32_t got = draft_lookup(tokens, n, rows[i].max, out);
        if (got != strlen(rows[i].want)) fail_msg("%s: %u guesses", rows[i].name, got);
        for (uint32_t t = 0; t < got; t++)
            if (out[t] != (uint32_t)rows[i].want[t]) fail_msg("%s: guess %u is %c", rows[i].name, t, (int)out[t]);
    }
}

/* Against every place looked at naively. */
static void test_lookup_naive(void **state) {
    (void)state;
    struct random r;
    random_seed(&r, 11);
    for (int round = 0; round < 2000; round++) {
        uint32_t tokens[64], out[4], n = 1 + (uint32_t)random_below(&r, 60), best = 0, length = 0;
        for (uint32_t i = 0; i < n; i++) tokens[i] = (uint32_t)random_below(&r, 3);
        for (uint32_t end = 0; end + 1 < n; end++) {
            uint32_t m = 0;
            while (m < 2 * DRAFT_MATCH_MIN && m <= end && tokens[end - m] == tokens[n - 1 - m]) m++;
            if (m >= length) {
                length = m;
                best = end;
            }
        }
        uint32_t got = draft_lookup(tokens, n, 1, out);
        assert_int_equal(got, length >= DRAFT_MATCH_MIN);
        if (got) assert_int_equal(out[0], tokens[best + 1]);
    }
}

static void test_worth(void **state) {
    (void)state;
    struct draft_costs c = {0};
    struct draft_record d;
    draft_record_init(&d);
    assert_int_equal(draft_worth(&d, &c, 1, 4, 0), 0); /* nothing is known */
    draft_costs_add(&c, 1, 1000);
    assert_int_equal(draft_worth(&d, &c, 1, 4, 0), 4); /* drawn on: a row costs little */
    for (uint32_t rows = 2; rows <= 8; rows++) draft_costs_add(&c, rows, 1000 * rows);
    assert_int_equal(draft_worth(&d, &c, 1, 4, 0), 0); /* a row costs a whole step */
    assert_true(draft_cost(&c, 12) > draft_cost(&c, 8));

    /* guesses that are never true: bets become rare, and their share goes to nothing */
    for (uint32_t rows = 1; rows <= 8; rows++) c.us[rows] = 1000 + 100 * (rows - 1);
    uint32_t bets = 0, rows = 0;
    for (int token = 0; token < 4000; token++) {
        uint32_t k = draft_worth(&d, &c, 1, 4, 0);
        bets += k > 0;
        rows += k;
        draft_learn(&d, k > 0, 0);
    }
    if (bets > 60 || rows > 80) fail_msg("%u bets, %u rows", bets, rows);
    /* then they are true: it comes back */
    uint32_t taken = 0;
    for (int token = 0; token < 4000; token++) {
        uint32_t k = draft_worth(&d, &c, 1, 4, 0);
        draft_learn(&d, k, k);
        taken += k;
    }
    assert_true(taken > 8000);
    /* a full batch has no row to give away */
    for (uint32_t n = 9; n <= DRAFT_COST_ROWS_MAX; n++) c.us[n] = 1700 + 300 * (n - 8);
    assert_int_equal(draft_worth(&d, &c, 1, 4, 0), 4);
    d.rate = 0.3;
    d.skipped = 0;
    assert_int_equal(draft_worth(&d, &c, 16, 4, 0), 0);
}

/* A guess that takes as long to make as a token takes is never worth it. */
static void test_worth_of_made(void **state) {
    (void)state;
    struct draft_costs c = {0};
    struct draft_record d;
    draft_record_init(&d);
    d.rate = 0.9;
    for (uint32_t rows = 1; rows <= 9; rows++) draft_costs_add(&c, rows, 1000 + 20 * (rows - 1));
    assert_int_equal(draft_worth(&d, &c, 1, 8, 0), 8);
    uint32_t quick = draft_worth(&d, &c, 1, 8, 50), slow = draft_worth(&d, &c, 1, 8, 400);
    if (quick < slow || slow == 0 || slow == 8) fail_msg("%u guesses of 50 us, %u of 400", quick, slow);
    assert_int_equal(draft_worth(&d, &c, 1, 8, 1000), 0);
}

/* Whatever is spent without a gain is at most what it began with and its share of the time. */
static void test_budget(void **state) {
    (void)state;
    struct draft_costs c = {0};
    struct draft_budget b;
    double spent = 0, time = 0;
    for (uint32_t rows = 1; rows <= 9; rows++) draft_costs_add(&c, rows, 10000 + 500 * (rows - 1));
    draft_budget_init(&b);
    double first = b.us;
    for (int step = 0; step < 20000; step++) {
        draft_budget_step(&b, 10000);
        time += 10000;
        if (b.us < 3000) continue;
        draft_budget_spend(&b, 3000);
        draft_budget_settle(&b, &c, 1, 2, 0);
        spent += 3000 + 1000;
    }
    if (spent > first + DRAFT_SHARE * time + 4000 || spent < DRAFT_SHARE * time * 0.9) fail_msg("%.0f us of %.0f were spent", spent, time);
    assert_true(b.rate < 0.05);
    /* what pays fills it, up to its most */
    for (int step = 0; step < 2000; step++) {
        draft_budget_spend(&b, 3000);
        draft_budget_settle(&b, &c, 1, 2, 2);
    }
    assert_true(b.us > 0.9 * DRAFT_BUDGET_MAX_US && b.us <= DRAFT_BUDGET_MAX_US && b.rate > 0.9);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lookup), cmocka_unit_test(test_lookup_naive), cmocka_unit_test(test_worth), cmocka_unit_test(test_worth_of_made), cmocka_unit_test(test_budget)};
    return cmocka_run_group_tests_name("draft", tests, NULL, NULL);
}
