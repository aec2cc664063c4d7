/* One form for all text: by table, and by properties that hold of any input. Bytes to UTF-8 too, and languages. */
#include "tests/unit/support/check.h"

#include "base/random.h"
#include "services/ingest/language.h"
#include "services/ingest/normalise.h"
#include "services/ingest/text.h"

static void test_forms(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
        bool records;
    } cases[] = {
        {"", "", false},
        {" \n\t \n", "", false},
        {"a", "a\n", false},
        {"a \t\nb  ", "a\nb\n", false},
        {"\n\n  a", "  a\n", false},
        {"a\r\nb\rc", "a\nb\nc\n", false},
        {"a\n\n\n\n\nb", "a\n\nb\n", false},
        {"a\n \n\t\n \nb", "a\n\nb\n", false},
        {"a\1b\x7f" "c", "abc\n", false},
        {"a\xc2\xa0" "b\xe2\x80\xaf" "c", "a b c\n", false},                          /* no-break spaces */
        {"a\xc2\xad" "b\xe2\x80\x8b" "c\xef\xbb\xbf" "d\xe2\x80\xae" "e", "abcde\n", false}, /* soft hyphen, zero width, mark, direction */
        {"a\xe2\x80\xa8" "b", "a\nb\n", false},                                       /* LINE SEPARATOR */
        {"a\xe2\x80\xa9" "b", "a\n\nb\n", false},                                     /* PARAGRAPH SEPARATOR */
        {"a\xe2\x80\xa8\xe2\x80\xa8\xe2\x80\xa8\xe2\x80\xa8" "b", "a\n\nb\n", false},
        {"\xe2\x80\xa9" "a \xe2\x80\xa8" "b\xe2\x80\xa9\n\nc", "a\nb\n\nc\n", false},
        {"e\xcc\x81", "\xc3\xa9\n", false},                                           /* composed */
        {"e\xe2\x80\x8b\xcc\x81", "\xc3\xa9\n", false},                               /* also where something that goes stood between */
        {"\xe2\x84\xab", "\xc3\x85\n", false},                                        /* ANGSTROM SIGN */
        {"\xed\x95\x9c\xea\xb5\xad", "\xed\x95\x9c\xea\xb5\xad\n", false},
        {"a \x1e\n b\x1f\nc", "a\x1e b\x1f" "c\n", true},
        {"a \x1e\n b\x1f\nc", "a\n b\nc\n", false},                                    /* not in a document that has no records */
        {"\x1e\x1e", "\x1e\x1e\n", true},
        {"a\n\n\x1e", "a\x1e\n", true},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf out;
        buf_init(&out, 4096);
        buf_append_str(&out, "  kept \n\n"); /* what stands there already is not touched */
        size_t before = out.len;
        normalise_text(span_str(cases[i].in), cases[i].records, &out);
        CHECK(!out.failed && span_eq_str(span_skip(buf_span(&out), before), cases[i].out), "case %zu: %.*s", i, SPAN_ARG(span_skip(buf_span(&out), before)));
        buf_fini(&out);
    }
}

static void test_properties(void **state) {
    (void)state;
    static const char *const pieces[] = {"a", "B", " ", "\t", "\n", "\r", "\r\n", "\x1e", "\x1f", "\1", "\x7f", "\xc2\xa0", "\xc2\x85", "\xc2\xad", "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\x8b", "\xcc\x81", "e", "\xe1\x84\x92", "\xe1\x85\xa1", "\xe1\x86\xab",
                                         "\xef\xbf\xbf", "\xf0\x9d\x85\xa0", "\xe2\x84\xab", "\xcc\xa7\xcc\x81", "\xe0\xa5\x98", "\xef\xbb\xbf", "long word"};
    uint64_t seed;
    struct random r;
    random_bytes(&seed, sizeof seed);
    random_seed(&r, seed);
    for (int round = 0; round < 20000; round++) {
        struct buf in, out, again;
        buf_init(&in, 4096);
        buf_init(&out, 65536);
        buf_init(&again, 65536);
        bool records = random_below(&r, 2);
        for (uint64_t n = random_below(&r, 24); n > 0; n--) buf_append_str(&in, pieces[random_below(&r, COUNT(pieces))]);
        normalise_text(buf_span(&in), records, &out);
        normalise_text(buf_span(&out), records, &again);
        struct span s = buf_span(&out);
        CHECK(!out.failed && span_is_utf8(s), "seed %llu round %d", (unsigned long long)seed, round);
        CHECK(span_eq(s, buf_span(&again)), "seed %llu round %d: not itself again", (unsigned long long)seed, round);
        CHECK(!s.len || (s.data[s.len - 1] == '\n' && s.data[0] != '\n'), "seed %llu round %d", (unsigned long long)seed, round);
        CHECK(span_find(s, SPAN("\n\n\n")) < 0 && span_find(s, SPAN(" \n")) < 0 && span_find(s, SPAN("\t\n")) < 0, "seed %llu round %d", (unsigned long long)seed, round);
        CHECK(records || (span_find_char(s, TEXT_RECORD) < 0 && span_find_char(s, TEXT_TURN) < 0), "seed %llu round %d", (unsigned long long)seed, round);
        buf_fini(&in);
        buf_fini(&out);
        buf_fini(&again);
    }
}

static void test_decode(void **state) {
    (void)state;
    static const struct {
        const char *in;
        size_t len;
        enum reason reason;
        const char *out;
        uint64_t repaired;
    } cases[] = {
        {"plain", 5, REASON_NONE, "plain", 0},
        {"\xef\xbb\xbf" "mark", 7, REASON_NONE, "mark", 0},
        {"\xff\xfe" "a\0\xe4\0", 6, REASON_NONE, "a\xc3\xa4", 0},
        {"\xfe\xff\0a\0\xe4", 6, REASON_NONE, "a\xc3\xa4", 0},
        {"\xff\xfe\x3d\xd8\x00\xde", 6, REASON_NONE, "\xf0\x9f\x98\x80", 0}, /* a pair of surrogates */
        {"\xff\xfe\x3d\xd8" "a\0", 6, REASON_NOT_UTF8, NULL, 1},            /* half of one */
        {"\xff\xfe" "a", 3, REASON_NONE, "", 0},
        {"\xff\xfe", 2, REASON_NONE, "", 0},
        {"caf\xe9 au lait", 12, REASON_NONE, "caf\xc3\xa9 au lait", 0},
        {"5 \x80 and \x93words\x94", 15, REASON_NONE, "5 \xe2\x82\xac and \xe2\x80\x9cwords\xe2\x80\x9d", 0},
        {"\xe4\xf6\xfc", 3, REASON_NOT_UTF8, NULL, 0}, /* too much of it is beyond ASCII */
        {"", 0, REASON_NONE, "", 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf scratch;
        struct span text = {0};
        uint64_t repaired = 99;
        buf_init(&scratch, 1 << 20);
        enum reason reason = normalise_decode(span_of(cases[i].in, cases[i].len), &scratch, &text, &repaired);
        CHECK(reason == cases[i].reason, "case %zu: %s", i, reason_word(reason));
        CHECK(!cases[i].out || (span_eq_str(text, cases[i].out) && repaired == cases[i].repaired), "case %zu: %.*s", i, SPAN_ARG(text));
        CHECK(reason != REASON_NONE || span_is_utf8(text), "case %zu", i);
        buf_fini(&scratch);
    }
    /* A few stray bytes in much good text are repaired and counted. */
    struct buf in, scratch;
    struct span text;
    uint64_t repaired;
    buf_init(&in, 1 << 20);
    buf_init(&scratch, 1 << 20);
    for (int i = 0; i < 4000; i++) buf_append_str(&in, "gut\xc3\xa4 ");
    in.data[in.start + 500 * 6 + 5] = (char)0xff;
    assert_int_equal(normalise_decode(buf_span(&in), &scratch, &text, &repaired), REASON_NONE);
    assert_true(repaired == 1 && span_is_utf8(text) && span_find(text, SPAN("\xef\xbf\xbd")) > 0);
    buf_fini(&in);
    buf_fini(&scratch);
}

static void test_languages(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"en", "It is the oldest of all the programs that can be found on this system, and it was not written by one person."},
        {"de", "Das ist nicht die einzige Datei, die von dem Programm gelesen wird, und sie kann auch leer sein."},
        {"fr", "Il est possible que le fichier ne soit pas dans le répertoire, et dans ce cas une erreur est affichée par la commande."},
        {"es", "El archivo que se encuentra en el directorio no es el más importante de los que hay en este sistema."},
        {"ru", "Этот файл содержит описание программы и её параметров."},
        {"uk", "Цей файл містить опис програми та її параметрів, які є в системі."},
        {"ja", "これはプログラムの説明です。ファイルを読みます。"},
        {"zh", "这是一个程序的说明文件，它读取配置并写入结果，供所有用户使用。"},
        {"ko", "이 파일은 프로그램의 설명을 담고 있으며 모든 사용자가 읽을 수 있습니다."},
        {"el", "Αυτό το αρχείο περιέχει την περιγραφή του προγράμματος."},
        {"ar", "هذا الملف يحتوي على وصف البرنامج وجميع خياراته"},
        {"und", "foo bar baz qux quux corge grault garply waldo fred plugh xyzzy thud"},
        {"und", "a b"},
        {"und", ""},
        {"und", "\xff\xfe\xfd"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) CHECK(strcmp(language_of(span_str(cases[i][1])), cases[i][0]) == 0, "%s: %s", cases[i][1], language_of(span_str(cases[i][1])));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms), cmocka_unit_test(test_properties), cmocka_unit_test(test_decode), cmocka_unit_test(test_languages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
