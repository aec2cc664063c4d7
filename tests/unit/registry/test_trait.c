#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "registry/trait.h"

static void table(void **state) {
    (void)state;
    static const struct {
        const char *trait, *text;
        bool holds;
    } cases[] = {
        {"short", "It prints the file.", true},
        {"short", "  It prints the file. And then a sentence that goes on for ever and ever", true},
        {"short", "Does it? Yes", true},
        {"short", "Stop.", false}, /* one word */
        {"short", "It prints the file", false},
        {"short", "one two three four five six seven eight nine ten eleven twelve.", true},
        {"short", "one two three four five six seven eight nine ten eleven twelve thirteen.", false},
        {"short", "see file.conf for the options that the program reads when it starts up in here", false},
        {"short", "He said \"go on.\" Then", true},
        {"short", "It is so (see there.) And", true},
        {"short", "12 34.", false}, /* no letter */
        {"short", "Das ist für dich!", true},
        {"short", "", false},
        {"lists", "one, two, three", true},
        {"lists", "one, two", false},
        {"lists", "1,000,000 of them", false},
        {"lists", "a,\nb,", true},
        {"lists", "- one\n- two", true},
        {"lists", "  * one\nand\n 2) two", true},
        {"lists", "-one\n-two", false},
        {"lists", "\u2022 one\n\u2022 two", true},
        {"lists", "1. one", false},
        {"numbers", "since 1999", true},
        {"numbers", "never", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char opposite[32] = "!";
        snprintf(opposite + 1, sizeof opposite - 1, "%s", cases[i].trait);
        if (trait_holds(span_str(cases[i].trait), span_str(cases[i].text)) != cases[i].holds) fail_msg("%s of \"%s\"", cases[i].trait, cases[i].text);
        bool silent = cases[i].text[0] == 0;
        if (trait_holds(span_str(opposite), span_str(cases[i].text)) != (!cases[i].holds && !silent)) fail_msg("%s of \"%s\"", opposite, cases[i].text);
    }
}

static void silence_and_names(void **state) {
    (void)state;
    for (size_t i = 0; i < TRAITS_COUNT; i++) {
        assert_true(trait_known(span_str(TRAITS[i].name)));
        assert_false(trait_holds(span_str(TRAITS[i].name), SPAN(" \n\t")));
    }
    assert_false(trait_holds(SPAN("!short"), SPAN(" \n")));
    assert_true(trait_known(SPAN("!numbers")));
    assert_false(trait_known(SPAN("!!short")));
    assert_false(trait_known(SPAN("")));
    assert_false(trait_known(SPAN("!")));
    assert_false(trait_holds(SPAN("nothing"), SPAN("text")));
    assert_false(trait_holds(SPAN("!nothing"), SPAN("text")));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(table), cmocka_unit_test(silence_and_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
