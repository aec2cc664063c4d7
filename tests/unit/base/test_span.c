#include "test.h"

static void integers(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int r;
        int64_t value;
    } cases[] = {
        {"0", 0, 0}, {"-0", 0, 0}, {"42", 0, 42}, {"-42", 0, -42}, {"007", 0, 7},
        {"9223372036854775807", 0, INT64_MAX}, {"-9223372036854775808", 0, INT64_MIN},
        {"9223372036854775808", E_RANGE, 0}, {"-9223372036854775809", E_RANGE, 0}, {"99999999999999999999999999", E_RANGE, 0},
        {"", E_INVALID, 0}, {"-", E_INVALID, 0}, {"+1", E_INVALID, 0}, {" 1", E_INVALID, 0}, {"1 ", E_INVALID, 0}, {"1.0", E_INVALID, 0},
        {"0x10", E_INVALID, 0}, {"--1", E_INVALID, 0}, {"99999999999999999999x", E_INVALID, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t v = 77;
        int r = span_to_i64(span_str(cases[i].text), &v);
        CHECK(r == cases[i].r && v == (r ? 77 : cases[i].value), "\"%s\" gave %d, %lld", cases[i].text, r, (long long)v);
    }
    uint64_t u = 7;
    assert_int_equal(span_to_u64(SPAN("18446744073709551615"), &u), 0);
    assert_true(u == UINT64_MAX);
    assert_int_equal(span_to_u64(SPAN("18446744073709551616"), &u), E_RANGE);
    assert_int_equal(span_to_u64(SPAN("-1"), &u), E_INVALID);
    assert_int_equal(span_to_u64(SPAN("1\0"), &u), E_INVALID);
    assert_true(u == UINT64_MAX);
}

static void floats(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int r;
        double value;
    } cases[] = {
        {"0", 0, 0}, {"1.5", 0, 1.5}, {"-2.5e3", 0, -2500}, {"1e-8", 0, 1e-8}, {".5", 0, 0.5}, {"5.", 0, 5}, {"1E+2", 0, 100},
        {"1.7976931348623157e308", 0, 1.7976931348623157e308}, {"4.9e-324", 0, 4.9e-324}, {"1e-999", 0, 0}, {"1e309", E_RANGE, 0},
        {"", E_INVALID, 0}, {".", E_INVALID, 0}, {"-", E_INVALID, 0}, {"e5", E_INVALID, 0}, {"1e", E_INVALID, 0}, {"1e+", E_INVALID, 0},
        {"nan", E_INVALID, 0}, {"inf", E_INVALID, 0}, {"0x1p3", E_INVALID, 0}, {" 1", E_INVALID, 0}, {"1,5", E_INVALID, 0}, {"1.5.2", E_INVALID, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        double v = 77;
        int r = span_to_f64(span_str(cases[i].text), &v);
        CHECK(r == cases[i].r && v == (r ? 77 : cases[i].value), "\"%s\" gave %d, %g", cases[i].text, r, v);
    }
    char digits[2000];
    double v = 77;
    memset(digits, '1', sizeof digits);
    assert_int_equal(span_to_f64(span_of(digits, sizeof digits), &v), E_RANGE);
}

static void utf8(void **state) {
    (void)state;
    static const struct {
        const char *name, *bytes;
        bool valid;
        size_t complete;
    } cases[] = {
        {"ascii", "abcdefghijk", true, 11}, {"two", "\xc3\xa9", true, 2}, {"three", "\xe2\x82\xac", true, 3}, {"four", "\xf0\x9f\x98\x80", true, 4},
        {"half of two", "a\xc3", false, 1}, {"half of three", "a\xe2\x82", false, 1}, {"three of four", "\xf0\x9f\x98", false, 0},
        {"overlong slash", "\xc0\xaf", false, 2}, {"overlong three", "\xe0\x80\xaf", false, 3}, {"surrogate", "\xed\xa0\x80", false, 3},
        {"above the end", "\xf4\x90\x80\x80", false, 4}, {"lone continuation", "a\x80", false, 2}, {"surrogate begun", "a\xed\xa0", false, 3},
        {"overlong four begun", "\xf0\x80", false, 2}, {"ff", "\xff", false, 1}, {"lead behind ascii", "abcdefgh\xf0", false, 8},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct span s = span_str(cases[i].bytes);
        CHECK(span_is_utf8(s) == cases[i].valid, "%s", cases[i].name);
        CHECK(span_utf8_complete(s) == cases[i].complete, "%s: %zu", cases[i].name, span_utf8_complete(s));
    }
    for (uint32_t c = 0; c <= 0x110100; c++) { /* what is encoded is decoded, and what is no character is refused */
        char bytes[4];
        uint32_t back = 0;
        size_t n = utf8_encode(c, bytes);
        bool scalar = c < 0xd800 || (c > 0xdfff && c <= 0x10ffff);
        CHECK((n > 0) == scalar, "U+%04x", c);
        if (n) CHECK(span_utf8_decode(span_of(bytes, n), &back) == n && back == c, "U+%04x", c);
    }
}

static void pieces(void **state) {
    (void)state;
    struct span rest = SPAN("a,,b"), head;
    assert_true(span_cut(&rest, ',', &head) && span_eq(head, SPAN("a")));
    assert_true(span_cut(&rest, ',', &head) && head.len == 0);
    assert_true(span_cut(&rest, ',', &head) && span_eq(head, SPAN("b")));
    assert_false(span_cut(&rest, ',', &head));
    assert_true(span_eq(span_trim(SPAN(" \t x y\r\n")), SPAN("x y")));
    assert_int_equal(span_trim(SPAN(" \n")).len, 0);
    assert_int_equal(span_find(SPAN("abcabd"), SPAN("abd")), 3);
    assert_int_equal(span_find(SPAN("ab"), SPAN("abc")), -1);
    char hay[200];
    memset(hay, 'a', sizeof hay);
    for (size_t len = 2; len <= sizeof hay; len += 3) { /* short ones and long ones are found in two ways */
        hay[len - 1] = 'b';
        CHECK(span_find(span_of(hay, len), SPAN("ab")) == (ptrdiff_t)len - 2, "%zu", len);
        CHECK(span_find(span_of(hay, len - 1), SPAN("ab")) == -1, "%zu", len);
        hay[len - 1] = 'a';
    }
    assert_int_equal(span_find(SPAN("ab"), SPAN("")), 0);
    assert_int_equal(span_find_char((struct span){NULL, 0}, 'x'), -1);
    assert_true(span_starts(SPAN("abc"), SPAN("ab")) && span_ends(SPAN("abc"), SPAN("bc")) && !span_starts(SPAN("a"), SPAN("ab")));
    assert_true(span_eq_nocase(SPAN("Content-LENGTH"), SPAN("content-length")) && !span_eq_nocase(SPAN("a["), SPAN("a{")));
    char small[4];
    assert_string_equal(span_copy(small, sizeof small, SPAN("abcdef")), "abc");
    assert_string_equal(span_copy(small, sizeof small, SPAN("ab\xc3\xa9")), "ab"); /* cut, but not inside a character */
    assert_string_equal(span_copy(small, sizeof small, SPAN("a\xc3\xa9")), "a\xc3\xa9");
    assert_string_equal(span_copy(small, sizeof small, SPAN("a\xc3")), "a\xc3"); /* nothing was cut: the bytes as they are */
    char *copy = span_dup(SPAN("xy"));
    assert_string_equal(copy, "xy");
    mem_free(copy);
    assert_true(span_hash(SPAN("a")) != span_hash(SPAN("b")) && span_hash(SPAN("")) == span_hash((struct span){NULL, 0}));
    unsigned char bytes[3];
    char hex[7];
    assert_int_equal(hex_decode(SPAN("00fFa1"), bytes), 0);
    hex_encode(bytes, 3, hex);
    assert_string_equal(hex, "00ffa1");
    assert_int_equal(hex_decode(SPAN("0"), bytes), E_INVALID);
    assert_int_equal(hex_decode(SPAN("0g"), bytes), E_INVALID);
}

static void errors(void **state) {
    (void)state;
    struct error e;
    assert_int_equal(error_set(NULL, E_FULL, "x"), E_FULL);
    assert_int_equal(error_set_param(&e, E_INVALID, "messages.0", "line\nbreak %d", 5), E_INVALID);
    assert_string_equal(e.message, "line break 5");
    assert_string_equal(e.param, "messages.0");
    assert_int_equal(error_prefix(&e, "file %s", "a"), E_INVALID);
    assert_string_equal(e.message, "file a: line break 5");
    assert_int_equal(error_errno(&e, 2, "/x"), E_NOT_FOUND);
    assert_string_equal(e.message, "/x: No such file or directory");
    char lengthy[2 * ERROR_MESSAGE_MAX];
    memset(lengthy, 0, sizeof lengthy);
    for (size_t i = 0; i + 2 < sizeof lengthy; i += 2) memcpy(lengthy + i, "\xc3\xa9", 2);
    error_set(&e, E_UNAVAILABLE, ".%s", lengthy);
    assert_true(e.retriable && span_is_utf8(span_str(e.message)) && strlen(e.message) >= ERROR_MESSAGE_MAX - 3);
    error_set(&e, E_UNAVAILABLE, "%s", lengthy);
    assert_true(span_is_utf8(span_str(e.message)));
    /* What an input quotes of itself: a message is UTF-8 all the same. */
    error_set_param(&e, E_INVALID, "a\xff\xc3(\xe2\x82", "no '%.*s'", 2, "a\xc3\xa9");
    assert_string_equal(e.message, "no 'a?'");
    assert_string_equal(e.param, "a?" "?(" "??");
    for (int code = 0; code >= E_CODE_MIN; code--) assert_int_equal(error_kind(code)->code, code);
    assert_int_equal(error_kind(5)->code, E_INTERNAL);
    assert_int_equal(error_kind(-999)->code, E_INTERNAL);
    for (int status = 0; status <= 16; status++) assert_int_equal(error_kind(error_from_grpc(status))->grpc_status, status);
    assert_int_equal(error_from_grpc(99), E_UNKNOWN);
}

static void order(void **state) {
    (void)state;
    static const char *const rising[] = {"", "A", "AB", "B", "a", "\xc3\xa9", "\xff"};
    int n = sizeof rising / sizeof *rising;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < n; k++) {
            int c = span_compare(span_str(rising[i]), span_str(rising[k]));
            assert_int_equal((c > 0) - (c < 0), (i > k) - (i < k));
        }
    }
    assert_int_equal(span_compare((struct span){0}, (struct span){0}), 0);
    assert_true(span_compare((struct span){0}, SPAN("a")) < 0 && span_compare(SPAN("a"), (struct span){0}) > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(integers), cmocka_unit_test(floats), cmocka_unit_test(utf8), cmocka_unit_test(pieces), cmocka_unit_test(order), cmocka_unit_test(errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
