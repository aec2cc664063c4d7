/* Stop strings: a table, and every way to cut a text against the whole-text answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "engine/stop.h"

static const struct {
    const char *name, *text, *stops[4], *out;
    int matched;
} CASES[] = {
    {"none given", "hello", {0}, "hello", -1},
    {"absent", "hello world", {"xyz"}, "hello world", -1},
    {"in the middle", "hello world", {" wo"}, "hello", 0},
    {"at once", "stop", {"stop"}, "", 0},
    {"held back at the end is text", "hello st", {"stop"}, "hello st", -1},
    {"restarts inside itself", "ababac!", {"abac"}, "ab", 0},
    {"overlap of prefix", "aaab", {"aab"}, "a", 0},
    {"the one that ends first", "xx END yy", {"yy", " END"}, "xx", 1},
    {"longer of two at one end", "say \n\nUser:", {"User:", "\n\nUser:"}, "say ", 1},
    {"utf-8", "naïve café", {"é"}, "naïve caf", 0},
    {"newline pair", "one\ntwo\n\nthree", {"\n\n"}, "one\ntwo", 0},
};

static void run(size_t c, size_t cut_seed) {
    struct span stops[4];
    size_t count = 0;
    while (count < 4 && CASES[c].stops[count]) {
        stops[count] = span_str(CASES[c].stops[count]);
        count++;
    }
    struct stop_matcher m;
    struct error err;
    assert_int_equal(stop_init(&m, stops, count, &err), 0);
    struct buf out;
    buf_init(&out, 1000);
    struct span rest = span_str(CASES[c].text);
    struct random r;
    random_seed(&r, cut_seed);
    bool stopped = false;
    while (rest.len > 0 && !stopped) {
        size_t n = cut_seed == 0 ? rest.len : 1 + (size_t)random_below(&r, 3);
        assert_int_equal(stop_push(&m, span_sub(rest, 0, n), &out, &stopped), 0);
        rest = span_skip(rest, n);
        /* what is out already never has to be taken back */
        assert_true(span_starts(span_str(CASES[c].out), buf_span(&out)));
    }
    assert_int_equal(stop_finish(&m, &out), 0);
    if (!span_eq_str(buf_span(&out), CASES[c].out) || m.matched != CASES[c].matched)
        fail_msg("%s (cut %zu): \"%.*s\", matched %d", CASES[c].name, cut_seed, (int)out.len, out.data + out.start, m.matched);
    stop_fini(&m);
    buf_fini(&out);
}

static void test_cases(void **state) {
    (void)state;
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++)
        for (size_t cut = 0; cut < 20; cut++) run(c, cut);
}

static void test_random_against_search(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 3000; seed++) {
        struct random r;
        random_seed(&r, seed);
        char text[40], stop[2][6];
        size_t n = (size_t)random_below(&r, sizeof text);
        for (size_t i = 0; i < n; i++) text[i] = (char)('a' + random_below(&r, 2));
        struct span stops[2];
        for (size_t s = 0; s < 2; s++) {
            size_t len = 1 + (size_t)random_below(&r, sizeof stop[s]);
            for (size_t i = 0; i < len; i++) stop[s][i] = (char)('a' + random_below(&r, 2));
            stops[s] = span_of(stop[s], len);
        }
        size_t want = n; /* the earliest end, the longest at it */
        bool found = false;
        for (size_t end = 1; end <= n && !found; end++)
            for (size_t s = 0; s < 2; s++)
                if (span_ends(span_of(text, end), stops[s]) && (!found || end - stops[s].len < want)) {
                    want = end - stops[s].len;
                    found = true;
                }
        struct stop_matcher m;
        assert_int_equal(stop_init(&m, stops, 2, NULL), 0);
        struct buf out;
        buf_init(&out, 1000);
        bool stopped = false;
        for (size_t at = 0; at < n && !stopped;) {
            size_t len = 1 + (size_t)random_below(&r, 4);
            if (len > n - at) len = n - at;
            assert_int_equal(stop_push(&m, span_of(text + at, len), &out, &stopped), 0);
            at += len;
        }
        assert_int_equal(stop_finish(&m, &out), 0);
        if (stopped != found || !span_eq(buf_span(&out), span_of(text, want))) fail_msg("seed %llu", (unsigned long long)seed);
        stop_fini(&m);
        buf_fini(&out);
    }
}

static void test_refused(void **state) {
    (void)state;
    struct stop_matcher m;
    struct error err;
    struct span empty = SPAN(""), many[STOP_STRINGS_MAX + 1];
    for (size_t i = 0; i <= STOP_STRINGS_MAX; i++) many[i] = SPAN("x");
    static char big[STOP_LENGTH_MAX + 1];
    struct span large = span_of(big, sizeof big);
    assert_int_equal(stop_init(&m, &empty, 1, &err), E_INVALID);
    assert_string_equal(err.param, "stop");
    assert_int_equal(stop_init(&m, many, STOP_STRINGS_MAX + 1, &err), E_INVALID);
    assert_int_equal(stop_init(&m, &large, 1, &err), E_INVALID);
    stop_fini(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases), cmocka_unit_test(test_random_against_search), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests_name("stop", tests, NULL, NULL);
}
