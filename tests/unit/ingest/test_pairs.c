/* Questions and answers drawn from texts: which are asked, which are not, and how many at most. */
#include "tests/unit/support/check.h"

#include "services/ingest/pairs.h"
#include "services/ingest/text.h"

struct heard {
    struct buf text; /* "question => answer\n" */
    int n, stop_at;
};

static int on_pair(void *arg, const struct span *turns, int n) {
    struct heard *h = arg;
    for (int i = 0; i < n; i++) buf_printf(&h->text, "%s%.*s", i % 2 ? " => " : i ? " ; " : "", SPAN_ARG(turns[i]));
    buf_append_char(&h->text, '\n');
    return ++h->n == h->stop_at ? 77 : 0;
}

static void test_table(void **state) {
    (void)state;
    static const struct {
        const char *name, *title, *text;
        enum media media;
        const char *pairs;
    } cases[] = {
        {"a manual", "ls(1)",
         "# ls(1)\n\n## NAME\n\nls - list directory contents\n\n## DESCRIPTION\n\nList information about files.\n\n## OPTIONS\n\n- -a: do not ignore hidden entries\n- x: short\n\n## FILES\n\n- /etc/ls.conf: the settings of colours\n\n## AUTHOR\n\nSomebody who wrote it.\n",
         MEDIA_TROFF,
         "What is ls? => ls(1): list directory contents.\nWhat does ls do? => List information about files.\nWhich options does ls have? => - -a: do not ignore hidden entries\n- x: short\n"
         "What does the option -a of ls do? => do not ignore hidden entries\nWhich files does ls use? => - /etc/ls.conf: the settings of colours\nWhat is the file /etc/ls.conf of ls? => the settings of colours\n"},
        {"errors", "open(2)", "# open(2)\n\n## ERRORS\n\n- EACCES: The access is not allowed.\n", MEDIA_TROFF,
         "Which errors can open give? => - EACCES: The access is not allowed.\nWhen does open give EACCES? => The access is not allowed.\n"},
        {"an unknown heading", "x(1)", "# x(1)\n\n## COLOUR MODES\n\nThere are two modes of colours.\n", MEDIA_TROFF, "What does the manual of x say about colour modes? => There are two modes of colours.\n"},
        {"announced and not there", "x(1)", "# x(1)\n\n## DESCRIPTION\n\nThese are they:\n\n## BUGS\n\nNone that we know of.\n", MEDIA_TROFF, "What are the known bugs of x? => None that we know of.\n"},
        {"headings", "Guide", "# Guide\n\nThis guide tells how the thing is built and used.\n\n## 1.2 Building\n\nRun the build script, and wait for some minutes.\n\n## Why?\n\nBecause it is the only way that we found to work.\n\n## Contents\n\nOne, two and three and all the other chapters.\n",
         MEDIA_MARKDOWN,
         "What is “Guide” about? => This guide tells how the thing is built and used.\nWhat does “Guide” say about Building? => Run the build script, and wait for some minutes.\nWhy? => Because it is the only way that we found to work.\n"},
        {"plain text", "a", "# a\n\nNo pairs are drawn from plain text, whatever it looks like.\n", MEDIA_TEXT, ""},
        {"a conversation", "a", "q1\x1f" "a1\x1fq2\x1f" "a2\x1fq3", MEDIA_JSONL, "q1 => a1 ; q2 => a2\n"},
        {"an empty turn ends it", "a", "q1\x1f" "a1\x1f \x1f" "a2", MEDIA_JSONL, "q1 => a1\n"},
        {"one side", "a", "q1\x1f", MEDIA_JSONL, ""},
        {"nothing", "", "", MEDIA_TROFF, ""},
        {"only headings", "x(1)", "# x(1)\n\n## DESCRIPTION\n\n## BUGS\n", MEDIA_TROFF, ""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct heard h = {0};
        buf_init(&h.text, 1 << 20);
        assert_int_equal(pairs_draw(span_str(cases[i].title), span_str(cases[i].text), cases[i].media, &h, on_pair), 0);
        CHECK(span_eq_str(buf_span(&h.text), cases[i].pairs), "%s:\n%.*s", cases[i].name, SPAN_ARG(buf_span(&h.text)));
        buf_fini(&h.text);
    }
}

static void test_limits(void **state) {
    (void)state;
    struct buf text;
    buf_init(&text, 8 << 20);
    buf_append_str(&text, "# x(1)\n\n## OPTIONS\n\n");
    for (int i = 0; i < 1000; i++) buf_printf(&text, "- -o%d: an option with a number of its own\n", i);
    struct heard h = {0};
    buf_init(&h.text, 1 << 20);
    assert_int_equal(pairs_draw(SPAN("x(1)"), buf_span(&text), MEDIA_TROFF, &h, on_pair), 0);
    assert_int_equal(h.n, PAIRS_PER_TEXT_MAX);
    h.n = 0;
    h.stop_at = 3;
    assert_int_equal(pairs_draw(SPAN("x(1)"), buf_span(&text), MEDIA_TROFF, &h, on_pair), 77);
    assert_int_equal(h.n, 3);
    buf_clear(&text);
    for (int i = 0; i < 1000; i++) buf_printf(&text, "%squestion%cand an answer", i ? "\x1f" : "", TEXT_TURN);
    h.n = 0;
    h.stop_at = 0;
    assert_int_equal(pairs_draw(SPAN("x"), buf_span(&text), MEDIA_JSONL, &h, on_pair), 0);
    assert_int_equal(h.n, 1);
    /* An answer that is too long is none; a code block without end is read once. */
    buf_clear(&text);
    buf_append_str(&text, "# x(1)\n\n## DESCRIPTION\n\n");
    for (int i = 0; i <= PAIR_ANSWER_MAX; i++) buf_append_char(&text, 'a');
    for (int i = 0; i < 50000; i++) buf_append_str(&text, "\n\n    code\n\n## H");
    h.n = 0;
    assert_int_equal(pairs_draw(SPAN("x(1)"), buf_span(&text), MEDIA_TROFF, &h, on_pair), 0);
    assert_int_equal(h.n, 0);
    buf_fini(&text);
    buf_fini(&h.text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
