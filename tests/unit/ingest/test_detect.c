/* What a document is: by its bytes, its name and the client's word; and gzip, whole, in members, damaged and as a bomb. */
#include "tests/unit/support/check.h"

#include <zlib.h>

#include "services/ingest/clean.h"

static void test_media(void **state) {
    (void)state;
    static const struct {
        const char *name, *content, *hint;
        size_t len; /* 0: strlen */
        enum media media;
        const char *what;
    } cases[] = {
        {"a.txt", "hello", "", 0, MEDIA_TEXT, ""},
        {"README", "hello", "", 0, MEDIA_TEXT, ""},
        {"", "hello", "", 0, MEDIA_TEXT, ""},
        {"a.md", "hello", "", 0, MEDIA_MARKDOWN, ""},
        {"A.MD", "hello", "", 0, MEDIA_MARKDOWN, ""},
        {"a.html", "hello", "", 0, MEDIA_HTML, ""},
        {"x", "<!DOCTYPE html><p>", "", 0, MEDIA_HTML, ""},
        {"x", " <?xml version='1.0'?><!-- c --> <HTML>", "", 0, MEDIA_HTML, ""},
        {"x", "<!-- never ends", "", 0, MEDIA_TEXT, ""},
        {"http://host/page.html?x=a.c#d.md", "hello", "", 0, MEDIA_HTML, ""},
        {"ls.1", ".TH LS 1\n.SH NAME\nls\n", "", 0, MEDIA_TROFF, ""},
        {"x", ".TH LS 1\n", "", 0, MEDIA_TROFF, ""},
        {"x", ".\\\" comment\n.Dd today\n", "", 0, MEDIA_TEXT, ""}, /* a comment first says not enough without a name */
        {"page.3", ".\\\" comment\n.Dd today\n.Dt X 3\n", "", 0, MEDIA_TROFF, ""},
        {"release-1.2", "hello", "", 0, MEDIA_TEXT, ""},
        {"a.jsonl", "{}", "", 0, MEDIA_JSONL, ""},
        {"x", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n", "", 0, MEDIA_JSONL, ""},
        {"x", "{\\rtf1 is another}", "", 0, MEDIA_BINARY, "RTF"},
        {"a.csv", "a;b\n1;2\n", "", 0, MEDIA_CSV, ""},
        {"a.tsv", "a\tb\n", "", 0, MEDIA_CSV, ""},
        {"a.c", "int x;", "", 0, MEDIA_SOURCE, "c"},
        {"a.py.gz", "x = 1", "", 0, MEDIA_SOURCE, "python"},
        {"CMakeLists.txt", "x", "", 0, MEDIA_SOURCE, "cmake"},
        {"x", "#!/usr/bin/env python3\n", "", 0, MEDIA_SOURCE, "python"},
        {"x", "#!/bin/sh\n", "", 0, MEDIA_SOURCE, "shell"},
        {"a.c", "\x7f" "ELF\2\1", "", 0, MEDIA_BINARY, "ELF"},
        {"a.txt", "a\0b", "", 3, MEDIA_BINARY, "NUL bytes"},
        {"a.txt", "\1\2\3\4 x", "", 0, MEDIA_BINARY, "control characters"},
        {"a.txt", "x\bx _\ba \033[1mbold\033[0m and so on, for a while", "", 0, MEDIA_TEXT, ""},
        {"a.txt", "\xff\xfe" "a\0b\0", "", 6, MEDIA_TEXT, ""},
        {"a.pdf", "%PDF-1.7", "text/plain", 0, MEDIA_BINARY, "PDF"}, /* the content is believed, not the client */
        {"x", "hello", "text/markdown; charset=utf-8", 0, MEDIA_MARKDOWN, ""},
        {"x", "hello", "TEXT/HTML", 0, MEDIA_HTML, ""},
        {"a.md", "hello", "text/plain", 0, MEDIA_MARKDOWN, ""}, /* which clients say of all that they do not know */
        {"x", "hello", "application/pdf", 0, MEDIA_UNKNOWN, ""},
        {"x", "hello", "text/x-new", 0, MEDIA_TEXT, ""},
        {"a.csv", "a,b\n", "application/octet-stream", 0, MEDIA_CSV, ""},
        {".md", "hello", "", 0, MEDIA_TEXT, ""}, /* a hidden file, no extension */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct detected d;
        detect_media(span_str(cases[i].name), span_of(cases[i].content, cases[i].len ? cases[i].len : strlen(cases[i].content)), span_str(cases[i].hint), &d);
        CHECK(d.media == cases[i].media && strcmp(d.what, cases[i].what) == 0, "%s \"%s\" (%s): %d %s", cases[i].name, cases[i].content, cases[i].hint, d.media, d.what);
    }
    static const struct {
        const char *name, *content;
        char delimiter;
    } delimiters[] = {{"a.csv", "a,b;c,d\n", ','}, {"a.csv", "a;b;c\n", ';'}, {"a.csv", "\"a;b;c\",d\n", ','}, {"a.csv", "a|b\n", '|'}, {"a.tsv", "a,b,c\n", '\t'}, {"a.csv", "", ','}};
    for (size_t i = 0; i < COUNT(delimiters); i++) {
        struct detected d;
        detect_media(span_str(delimiters[i].name), span_str(delimiters[i].content), SPAN(""), &d);
        CHECK(d.delimiter == delimiters[i].delimiter, "%s: %c", delimiters[i].content, d.delimiter);
    }
    static const char *const names[][2] = {{"/usr/share/man/man1/ls.1.gz", "ls.1"}, {"http://h/a/b?c/d", "b"}, {"a", "a"}, {"a/", ""}, {"c:\\x\\y.txt", "y.txt"}, {".gz", ".gz"}, {"", ""}};
    for (size_t i = 0; i < COUNT(names); i++) CHECK(span_eq_str(detect_base_name(span_str(names[i][0])), names[i][1]), "%s", names[i][0]);
}

static void gzip(struct span in, int level, struct buf *out) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    size_t room = in.len / 100 + in.len + 4096;
    char *to = buf_reserve(out, room);
    assert_non_null(to);
    z.next_in = (unsigned char *)(uintptr_t)in.data;
    z.avail_in = (unsigned)in.len;
    z.next_out = (unsigned char *)to;
    z.avail_out = (unsigned)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    buf_commit(out, room - z.avail_out);
    deflateEnd(&z);
}

static void test_gunzip(void **state) {
    (void)state;
    struct buf packed, two, out;
    buf_init(&packed, 64 << 20);
    buf_init(&two, 64 << 20);
    buf_init(&out, 64 << 20);
    gzip(SPAN("hello "), 6, &packed);
    gzip(SPAN("world"), 9, &two);
    assert_int_equal(gunzip(buf_span(&packed), 100, &out), REASON_NONE);
    assert_string_equal(buf_cstr(&out), "hello ");
    size_t one = packed.len;
    buf_append_span(&packed, buf_span(&two));
    buf_clear(&out);
    assert_int_equal(gunzip(buf_span(&packed), 100, &out), REASON_NONE); /* members make one file */
    assert_string_equal(buf_cstr(&out), "hello world");
    buf_clear(&out);
    assert_int_equal(gunzip(buf_span(&packed), 11, &out), REASON_NONE);
    buf_clear(&out);
    assert_int_equal(gunzip(buf_span(&packed), 10, &out), REASON_TOO_LARGE);
    for (size_t n = 0; n < packed.len; n++) { /* cut anywhere: damaged, but for what ends with the first member (the rest is taken for padding) */
        buf_clear(&out);
        enum reason r = gunzip(span_sub(buf_span(&packed), 0, n), 100, &out);
        CHECK(n < one ? r == REASON_BAD_ARCHIVE : n < one + 18 ? r == REASON_NONE : r == REASON_BAD_ARCHIVE, "cut at %zu of %zu (%zu): %s", n, packed.len, one, reason_word(r));
    }
    for (size_t i = 0; i < one; i++) { /* any byte wrong: an error or other text, no harm */
        buf_clear(&out);
        packed.data[packed.start + i] ^= 0x55;
        (void)gunzip(span_sub(buf_span(&packed), 0, one), 100, &out);
        CHECK(out.len <= 101, "byte %zu: %zu bytes", i, out.len);
        packed.data[packed.start + i] ^= 0x55;
    }
    /* A bomb: 64 MiB of zeros in 64 KiB. Its memory ends at the limit. */
    static char zeros[16 << 20];
    buf_clear(&packed);
    gzip(span_of(zeros, sizeof zeros), 9, &packed);
    buf_clear(&two);
    for (int i = 0; i < 4; i++) buf_append_span(&two, buf_span(&packed));
    buf_fini(&out);
    buf_init(&out, 1 << 20);
    assert_int_equal(gunzip(buf_span(&two), 20 << 20, &out), REASON_TOO_LARGE); /* out's own cap counts too */
    assert_true(out.len <= 1 << 20);
    buf_fini(&out);
    buf_init(&out, 64 << 20);
    assert_int_equal(gunzip(buf_span(&two), 20 << 20, &out), REASON_TOO_LARGE);
    assert_true(out.len <= (20 << 20) + 1);
    buf_fini(&packed);
    buf_fini(&two);
    buf_fini(&out);
}

/* The whole way, by its reasons. */
static void test_reasons(void **state) {
    (void)state;
#define WORDS "This is a sentence of plain English words that somebody wrote by hand for a test. "
    static const struct {
        const char *name, *source, *content;
        size_t len;
        enum reason reason;
        const char *title, *language;
    } cases[] = {
        {"prose", "a.txt", "A short title\n\n" WORDS WORDS, 0, REASON_NONE, "A short title", "en"},
        {"German", "a.txt", "Das ist ein Satz, der von einem Menschen für einen Test geschrieben wurde, und er ist nicht sehr lang.", 0, REASON_NONE, "a.txt", "de"},
        {"no letters", "a.txt", "1 2 3 4 5 6 7 8 9", 0, REASON_TOO_SHORT, "1 2 3 4 5 6 7 8 9", ""},
        {"nothing", "a.txt", "", 0, REASON_EMPTY, "a.txt", ""},
        {"blanks", "a.txt", " \n\t\n ", 0, REASON_EMPTY, "a.txt", ""},
        {"binary", "a.txt", "\x89PNG\r\n", 0, REASON_BINARY, "", ""},
        {"bad gzip", "a.gz", "\x1f\x8b\x08\0\0\0\0\0\0\3", 10, REASON_BAD_ARCHIVE, "", ""},
        {"not UTF-8", "a.txt", "\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xff\xff\xff\xc3\xa4\xfe\xfe\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4", 0, REASON_NOT_UTF8, "", ""},
        {"Latin-1", "a.txt", "Stra\xdf" "e, K\xf6ln, \x80 and so on: this is a text with some letters of Latin-1 in it.", 0, REASON_NONE, "a.txt", "en"},
        {"rows without text", "a.jsonl", "{\"a\":1}\nno json\n", 0, REASON_BAD_ROWS, "", ""},
        {"rows", "a.jsonl", "{\"text\":\"" WORDS "\"}\n{\"x\":1}\n", 0, REASON_NONE, "a.jsonl", "en"},
        {"a redirect", "x.1", ".so man1/ls.1\n", 0, REASON_REDIRECT, "", ""},
        {"source", "a.c", "int main(void) {\n    return strlen(\"hello there\") + something_longer(argument);\n}\n", 0, REASON_NONE, "a.c", "c"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct clean_result r;
        clean_init(&r);
        assert_int_equal(clean_document(span_of(cases[i].content, cases[i].len ? cases[i].len : strlen(cases[i].content)), span_str(cases[i].source), SPAN(""), &r), 0);
        CHECK(r.reason == cases[i].reason, "%s: %s %s", cases[i].name, reason_word(r.reason), r.detail);
        CHECK(strcmp(r.title, cases[i].title) == 0 && strcmp(r.language, cases[i].language) == 0, "%s: \"%s\" %s", cases[i].name, r.title, r.language);
        CHECK((r.reason == REASON_NONE) == (r.text.len > 0), "%s: %zu bytes", cases[i].name, r.text.len);
        clean_fini(&r);
    }
    struct buf b;
    struct clean_result r;
    buf_init(&b, 1 << 20);
    for (int i = 0; i < 40; i++) buf_append_str(&b, "the very same line of the text again\n");
    clean_init(&r);
    assert_int_equal(clean_document(buf_span(&b), SPAN("a.txt"), SPAN(""), &r), 0);
    assert_int_equal(r.reason, REASON_REPEATED_LINES);
    clean_fini(&r);
    buf_clear(&b);
    buf_append_str(&b, "key: ");
    for (int i = 0; i < 4000; i++) buf_append_char(&b, (char)('a' + i % 26));
    clean_init(&r);
    assert_int_equal(clean_document(buf_span(&b), SPAN("a.txt"), SPAN(""), &r), 0);
    assert_int_equal(r.reason, REASON_LONG_WORDS);
    clean_fini(&r);
    buf_clear(&b);
    for (int i = 0; i < 40; i++) buf_append_str(&b, "lost \xef\xbf\xbd\xef\xbf\xbd letters in this line here ");
    clean_init(&r);
    assert_int_equal(clean_document(buf_span(&b), SPAN("a.txt"), SPAN(""), &r), 0);
    assert_int_equal(r.reason, REASON_BROKEN_TEXT);
    clean_fini(&r);
    buf_fini(&b);
    for (int i = 1; i < REASON_COUNT; i++) {
        assert_int_equal(reason_of(reason_word((enum reason)i)), i);
        CHECK(reason_word((enum reason)i)[0] && reason_doc((enum reason)i)[0], "reason %d", i);
    }
    assert_int_equal(reason_of("nonsense"), REASON_NONE);
    assert_int_equal(reason_of(""), REASON_NONE);
}

static int attempt(void *arg) {
    const char *const *source_and_text = arg;
    struct clean_result r;
    clean_init(&r);
    int code = clean_document(span_str(source_and_text[1]), span_str(source_and_text[0]), SPAN(""), &r);
    if (code == 0) CHECK(r.reason == REASON_NONE && r.text.len > 30, "%s: %s", source_and_text[0], reason_word(r.reason)); /* never a document that lost something without a word */
    clean_fini(&r);
    return code;
}
static void test_without_memory(void **state) {
    (void)state;
    static const char *const documents[][2] = {
        {"a.txt", WORDS}, {"a.md", "# Title\n\n" WORDS}, {"a.html", "<html><h1>Title</h1><p>" WORDS "</p>"}, {"a.1", ".TH A 1\n.SH NAME\n" WORDS "\n"}, {"a.csv", "title,text\nx," WORDS "\n"},
        {"a.jsonl", "{\"text\":\"" WORDS "\"}\n"}, {"a.txt", "a\xcc\x88 " WORDS},
    };
    for (size_t i = 0; i < COUNT(documents); i++) sweep(documents[i][0], attempt, (void *)(uintptr_t)documents[i], E_NOMEM);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_media), cmocka_unit_test(test_gunzip), cmocka_unit_test(test_reasons), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
