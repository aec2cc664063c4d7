/* What goes beside a request: traces that go on or begin, pages of other origins, content codings. */
#include <zlib.h>

#include "services/gateway/coding.h"
#include "services/gateway/cors.h"
#include "services/gateway/trace.h"
#include "tests/unit/support/check.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"

static void test_trace(void **state) {
    (void)state;
    static const struct {
        const char *given;
        bool goes_on;
        const char *flags;
    } cases[] = {
        {"00-" TRACE "-00f067aa0ba902b7-01", true, "01"},
        {"00-" TRACE "-00f067aa0ba902b7-00", true, "00"},
        {"00-" TRACE "-00f067aa0ba902b7-03", true, "01"},       /* of the flags only the first is known */
        {"cc-" TRACE "-00f067aa0ba902b7-01-more", true, "01"},  /* a later version may say more */
        {"cc-" TRACE "-00f067aa0ba902b7-01", true, "01"},
        {"cc-" TRACE "-00f067aa0ba902b7-01more", false, "00"},
        {"00-" TRACE "-00f067aa0ba902b7-01-more", false, "00"}, /* version 00 does not */
        {"ff-" TRACE "-00f067aa0ba902b7-01", false, "00"},
        {"00-00000000000000000000000000000000-00f067aa0ba902b7-01", false, "00"},
        {"00-" TRACE "-0000000000000000-01", false, "00"},
        {"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false, "00"},
        {"00-" TRACE "-00f067aa0ba902bg-01", false, "00"},
        {"00_" TRACE "-00f067aa0ba902b7-01", false, "00"},
        {"00-" TRACE "-00f067aa0ba902b7-0", false, "00"},
        {"0x-" TRACE "-00f067aa0ba902b7-01", false, "00"},
        {"nonsense", false, "00"},
        {"", false, "00"},
        {NULL, false, "00"},
    };
    uint8_t chance[TRACE_CHANCE];
    for (size_t i = 0; i < sizeof chance; i++) chance[i] = (uint8_t)(0x10 + i);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char out[TRACEPARENT_MAX], wanted[TRACEPARENT_MAX];
        snprintf(wanted, sizeof wanted, "00-%s-2021222324252627-%s", cases[i].goes_on ? TRACE : "101112131415161718191a1b1c1d1e1f", cases[i].flags);
        trace_next(span_str(cases[i].given), chance, out);
        CHECK(strcmp(out, wanted) == 0, "%s: %s, not %s", cases[i].given ? cases[i].given : "nothing", out, wanted);
    }
    memset(chance, 0, sizeof chance); /* ids of zeros would mean none */
    char out[TRACEPARENT_MAX];
    CHECK(strcmp(trace_next(SPAN(""), chance, out), "00-00000000000000000000000000000001-0000000000000001-00") == 0, "%s", out);
}

static void test_cors(void **state) {
    (void)state;
    static const struct {
        const char *trusted, *origin;
        bool trusts;
    } cases[] = {
        {"", "https://a.example", false}, {"https://a.example", "https://a.example", true}, {"https://a.example", "HTTPS://A.example", true}, {"https://a.example", "http://a.example", false},
        {"https://a.example", "https://a.example.evil", false}, {"https://a.example", "https://a.example:8443", false}, {" https://a.example , http://b:1 ", "http://b:1", true},
        {"*", "https://anything", true}, {"*", "null", false}, {"https://a.example", "null", false}, {"*", "", false}, {"*", "https://a b", false}, {"*", "https://a/", false},
    };
    static const struct {
        const char *trusted;
        int code;
    } settings[] = {{"", 0}, {"*", 0}, {"https://a", 0}, {"https://a, http://b:80", 0}, {"a.example", E_INVALID}, {"https://", E_INVALID}, {"https://a/path", E_INVALID}, {"https://*.a", E_INVALID}, {"https://a,,", E_INVALID}};
    static const struct {
        const char *authority, *origin;
        bool own;
    } ours[] = {{"127.0.0.1:8080", "http://127.0.0.1:8080", true}, {"chat.example", "https://chat.example", true}, {"Chat.Example", "https://chat.example", true}, {"127.0.0.1:8080", "http://127.0.0.1:80", false},
                {"a", "http://b", false}, {"", "http://", false}, {"a", "null", false}};
    static const struct {
        const char *authority;
        bool ours;
    } names[] = {{"127.0.0.1:8080", true}, {"localhost", true}, {"LOCALHOST:1", true}, {"[::1]:8080", true}, {"10.0.0.7", true}, {"evil.example:8080", false}, {"localhost.evil.example", false},
                 {"127.0.0.1.evil.example", false}, {"x", false}, {"", false}, {":8080", false}};
    for (size_t i = 0; i < COUNT(names); i++) CHECK(cors_name_is_ours(span_str(names[i].authority)) == names[i].ours, "%s", names[i].authority);
    static const struct {
        const char *names;
        bool ok;
    } headers[] = {{"authorization", true}, {"authorization, content-type,x-stainless-os", true}, {"a b", false}, {"a,,b", false}, {"a\r\nb", false}, {"a,\nb", false}};
    for (size_t i = 0; i < COUNT(cases); i++) CHECK(cors_trusts(cases[i].trusted, span_str(cases[i].origin)) == cases[i].trusts, "\"%s\" and %s", cases[i].trusted, cases[i].origin);
    for (size_t i = 0; i < COUNT(settings); i++) {
        struct error err = {0};
        int r = cors_check(settings[i].trusted, &err);
        CHECK(r == settings[i].code && (r == 0 || strstr(err.message, "gateway.cors_origins")), "\"%s\": %d %s", settings[i].trusted, r, err.message);
    }
    for (size_t i = 0; i < COUNT(ours); i++) CHECK(cors_own(span_str(ours[i].authority), span_str(ours[i].origin)) == ours[i].own, "%s is %s", ours[i].origin, ours[i].authority);
    for (size_t i = 0; i < COUNT(headers); i++) CHECK(cors_headers_ok(span_str(headers[i].names)) == headers[i].ok, "%s", headers[i].names);
}

static void test_accepts_gzip(void **state) {
    (void)state;
    static const struct {
        const char *accept;
        bool gzip;
    } cases[] = {
        {"", false}, {"gzip", true}, {"GZIP", true}, {"x-gzip", true}, {"deflate, gzip;q=1.0, *;q=0.5", true}, {"gzip;q=0", false}, {"gzip; q=0.001", true}, {"*", true}, {"*;q=0", false}, {"identity", false},
        {"*, gzip;q=0", false}, {"br", false}, {"gzip;q=2", false}, {"gzip;q=x", false}, {"gzipped", false}, {",,gzip", true}, {";q=1", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) CHECK(coding_accepts_gzip(span_str(cases[i].accept)) == cases[i].gzip, "\"%s\"", cases[i].accept);
    assert_false(coding_accepts_gzip((struct span){0}));
}

static void test_gzip(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 1024, CODING_MAX};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        char *text = test_malloc(sizes[i]), *back = test_malloc(sizes[i]);
        struct buf out;
        for (size_t k = 0; k < sizes[i]; k++) text[k] = (char)('a' + k * k % 23);
        buf_init(&out, CODING_MAX + 1024);
        assert_int_equal(coding_gzip(span_of(text, sizes[i]), &out), 0);
        z_stream z = {.next_in = (Bytef *)(uintptr_t)buf_span(&out).data, .avail_in = (uInt)out.len, .next_out = (Bytef *)back, .avail_out = (uInt)sizes[i]};
        assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
        assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
        CHECK(z.total_out == sizes[i] && memcmp(back, text, sizes[i]) == 0, "%zu bytes come back as %lu", sizes[i], z.total_out);
        (void)inflateEnd(&z);
        buf_fini(&out);
        test_free(text);
        test_free(back);
    }
    struct buf full;
    buf_init(&full, 8);
    assert_int_equal(coding_gzip(SPAN("more than fits"), &full), E_FULL);
    buf_fini(&full);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_trace), cmocka_unit_test(test_cors), cmocka_unit_test(test_accepts_gzip), cmocka_unit_test(test_gzip)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
