/* Which form of the console's files a request gets; and that what is embedded is whole, and the same in both codings. */
#include "tests/unit/support/check.h"

#include <zlib.h>

#include "base/sha256.h"
#include "services/gateway/console.h"

#define NONE ((struct span){0})

static void test_table(void **state) {
    (void)state;
    static const char *const needed[] = {"index.html", "console.css", "console.js", "theme.js", "icon.svg"};
    for (size_t i = 0; i < COUNT(needed); i++) CHECK(console_find(span_str(needed[i])), "%s is not embedded", needed[i]);
    assert_null(console_find(SPAN("")));
    assert_null(console_find(SPAN("index.htm")));
    assert_null(console_find(SPAN("../index.html")));
    for (size_t i = 0; i < CONSOLE_ASSETS_COUNT; i++) {
        const struct console_asset *a = &CONSOLE_ASSETS[i];
        char digest[SHA256_HEX_MAX], etag[80];
        CHECK(a->plain_size > 0 && strchr(a->type, '/'), "%s", a->name);
        sha256_hex(span_of(a->plain, a->plain_size), digest);
        (void)snprintf(etag, sizeof etag, "\"%.32s\"", digest);
        CHECK(strcmp(etag, a->etag) == 0 && strcmp(a->etag, a->gzip_etag) != 0, "%s: %s and %s", a->name, a->etag, a->gzip_etag);
        for (size_t k = 0; k < i; k++) CHECK(strcmp(a->name, CONSOLE_ASSETS[k].name) != 0, "%s twice", a->name);
        if (!a->gzip) continue;
        unsigned char *plain = malloc(a->plain_size + 1);
        z_stream z = {.next_in = (Bytef *)(uintptr_t)a->gzip, .avail_in = (uInt)a->gzip_size, .next_out = plain, .avail_out = (uInt)a->plain_size + 1};
        assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
        CHECK(a->gzip_size < a->plain_size && inflate(&z, Z_FINISH) == Z_STREAM_END && z.total_out == a->plain_size && memcmp(plain, a->plain, a->plain_size) == 0, "%s: the archive is not the file", a->name);
        (void)inflateEnd(&z);
        free(plain);
    }
}

static void test_encoding(void **state) {
    (void)state;
    static const struct {
        const char *accept;
        bool gzip;
    } cases[] = {
        {NULL, false}, {"", false}, {"gzip", true}, {"GZIP", true}, {"x-gzip", true}, {"identity", false}, {"br, gzip, deflate", true}, {"gzip;q=0", false}, {"gzip;q=0.0", false}, {"gzip ; q=0.001", true},
        {"gzip;q=1.0", true}, {"*", true}, {"*;q=0", false}, {"*;q=0, gzip", true}, {"gzip;q=0, *", false}, {"gzip;q=x", false}, {"gzip;q=2", false}, {"gzip;q=-1", false}, {"gzipped", false}, {",,gzip,,", true},
        {"br;q=1.0, *;q=0.5", true}, {";", false}, {"gzip;", true},
    };
    const struct console_asset *a = console_find(SPAN("console.css"));
    assert_true(a && a->gzip);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct console_form f = console_choose(a, span_str(cases[i].accept), NONE);
        CHECK(f.gzip == cases[i].gzip && !f.unchanged, "Accept-Encoding: %s gives %s", cases[i].accept ? cases[i].accept : "(none)", f.gzip ? "gzip" : "identity");
        CHECK(strcmp(f.etag, f.gzip ? a->gzip_etag : a->etag) == 0 && f.body.len == (f.gzip ? a->gzip_size : a->plain_size), "%s", cases[i].accept);
    }
    struct console_asset small = {.name = "s", .type = "text/css", .etag = "\"s\"", .gzip_etag = "\"s-gzip\"", .plain = (const unsigned char *)"s", .plain_size = 1};
    assert_false(console_choose(&small, SPAN("gzip"), NONE).gzip);
}

static void test_etag(void **state) {
    (void)state;
    struct console_asset a = {.name = "a", .type = "text/css", .etag = "\"a\"", .gzip_etag = "\"a-gzip\"", .plain = (const unsigned char *)"aaaa", .gzip = (const unsigned char *)"aa", .plain_size = 4, .gzip_size = 2};
    static const struct {
        const char *accept, *match;
        bool unchanged;
    } cases[] = {
        {"", NULL, false}, {"", "", false}, {"", "\"a\"", true}, {"gzip", "\"a\"", false}, {"gzip", "\"a-gzip\"", true}, {"", "W/\"a\"", true}, {"", "*", true}, {"", "\"b\", \"a\"", true}, {"", "\"b\",W/\"a\"", true},
        {"", "a", false}, {"", "\"aa\"", false}, {"", "w/\"a\"", false}, {"", ",,", false},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        CHECK(console_choose(&a, span_str(cases[i].accept), span_str(cases[i].match)).unchanged == cases[i].unchanged, "%s with %s", cases[i].match ? cases[i].match : "(none)", cases[i].accept);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_encoding), cmocka_unit_test(test_etag)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
