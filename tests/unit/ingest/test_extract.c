/* Markup to text, format by format: what is kept, what goes, and that no depth, expansion or length of markup costs more than its bytes. */
#include "tests/unit/support/check.h"

#include "services/ingest/extract.h"

struct sample {
    const char *in, *out;
};

static void check(const char *format, extract_function *extract, const struct sample *cases, size_t n) {
    bool all = true;
    for (size_t i = 0; i < n; i++) {
        struct buf out;
        buf_init(&out, 1 << 20);
        struct extracted x = {.text = &out};
        (void)extract(span_str(cases[i].in), &x);
        struct span text = buf_span(&out);
        while (text.len && strchr(" \n", text.data[text.len - 1])) text.len--;
        bool same = !out.failed && span_eq_str(text, cases[i].out);
        if (!same) print_error("%s %zu: %s\n→ %.*s\n", format, i, cases[i].in, SPAN_ARG(text));
        all &= same;
        buf_fini(&out);
    }
    assert_true(all);
}

static void test_text(void **state) {
    (void)state;
    static const struct sample cases[] = {
        {"a\nb\tc", "a\nb\tc"},         {"N\bNA\bAM\bME\bE", "NAME"}, {"_\bx_\by", "xy"},          {"\xc3\xa4\b\xc3\xa4", "\xc3\xa4"}, {"\b\b\ba", "a"},
        {"\033[1mbold\033[0m x", "bold x"}, {"\033", ""},              {"\033[31", ""},             {"a\fb", "a\n\nb"},                {"a\rb\r\nc", "a\nb\nc"},
        {"a\x1e\x1f\1" "b", "ab"},
    };
    check("text", extract_text, cases, COUNT(cases));
}

static void test_markdown(void **state) {
    (void)state;
    static const struct sample cases[] = {
        {"# Title\n\nA *word* and **two** and `code`.\nIt goes on.", "# Title\n\nA word and two and code. It goes on."},
        {"Title\n=====\n\nSub\n---\ntext", "# Title\n\n## Sub\n\ntext"},
        {"- a\n- b\n  goes on\n\n1. one\n2. two", "- a\n- b goes on\n1. one\n2. two"},
        {"[a link](http://x/y) and ![a picture](p.png) and <http://z>", "a link and and http://z"},
        {"```c\nint x;\n\n  y;\n```\nafter", "    int x;\n\n      y;\n\nafter"},
        {"    indented\n    code\n\ntext", "    indented\n    code\n\ntext"},
        {"> quoted\n> text", "> quoted text"},
        {"| a | b |\n|--|--|\n| 1 | 2 |", "a | b\n1 | 2"},
        {"text <b>bold</b> &amp; &lt;", "text bold & <"},
        {"\\*not emphasis\\*", "*not emphasis*"},
        {"snake_case_name and 2*3*4", "snake_case_name and 234"}, /* as CommonMark has it */
        {"```\nnever ends", "    never ends"},
        {"", ""},
    };
    check("markdown", extract_markdown, cases, COUNT(cases));
}

static void test_html(void **state) {
    (void)state;
    static const struct sample cases[] = {
        {"<h1>A  title</h1><p>One\n two<br>three</p><p>four", "# A title\n\nOne two\nthree\n\nfour"},
        {"<ul><li>a<li>b</ul><ol><li>c</ol>", "- a\n- b\n\n1. c"},
        {"<script>var x = '<p>no</p>';</script><style>p{}</style><p>yes, and so much more that the page is no stub of a few words only</p><nav>menu</nav>", "yes, and so much more that the page is no stub of a few words only"},
        {"<nav>menu</nav><p>yes</p>", "menu\n\nyes"} /* a page of a few words is read whole */,
        {"<pre>a\n  b</pre>c", "    a\n      b\n\nc"},
        {"<table><tr><th>a<th>b<tr><td>1<td>2</table>", "a | b\n1 | 2"},
        {"a &amp; b &lt;c&gt; &#228; &#xe4; &nope; &copy;", "a & b <c> \xc3\xa4 \xc3\xa4 &nope; \xc2\xa9"},
        {"<!-- comment <p>no</p> -->yes<!doctype html>", "yes"},
        {"<p title='a > b'>text</p>", "text"},
        {"a < b and c > d", "a < b and c > d"},
        {"<p>never <b>closed", "never closed"},
        {"<script>never closed", ""},
        {"<!-- never closed", ""},
        {"<", "<"},
        {"</", "</"},
        {"&#0;&#xd800;&#x110000;x", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdx"},
        {"", ""},
    };
    check("html", extract_html, cases, COUNT(cases));
}

static void test_man(void **state) {
    (void)state;
    static const struct sample cases[] = {
        {".TH LS 1\n.SH NAME\nls \\- list files\n.SH DESCRIPTION\n.B ls\nlists\n.I files\nand more.\n.PP\nA second paragraph.",
         "# ls(1)\n\n## NAME\n\nls - list files\n\n## DESCRIPTION\n\nls lists files and more.\n\nA second paragraph."},
        {".TH X 1\n.SH OPTIONS\n.TP\n.B \\-a\nshow all\n.TP\n.B \\-b\nshow none", "# x(1)\n\n## OPTIONS\n\n- -a: show all\n- -b: show none"},
        {".TH X 1\n.nf\nint main\n  (void)\n.fi\ntext", "# x(1)\n\n    int main\n      (void)\n\ntext"},
        {".TH X 1\n\\fBbold\\fP \\fIit\\fR \\(bu \\(em \\e \\&x \\s-2small\\s0", "# x(1)\n\nbold it \xe2\x80\xa2 \xe2\x80\x94 \\ x small"},
        {".TH X 1\n.\\\" a comment\ntext \\\" another", "# x(1)\n\ntext"},
        {".TH X 1\n.de XX\nin \\\\$1 macro\n..\n.XX the\nafter", "# x(1)\n\nin the macro after"},
        {".TH X 1\n.ds NM value\na \\*(NM b", "# x(1)\n\na value b"},
        {".TH X 1\n.if n yes\n.if t no\n.ie n one\n.el two", "# x(1)\n\nyes one"},
    };
    check("man", extract_troff, cases, COUNT(cases));
}

static void test_mdoc(void **state) {
    (void)state;
    static const struct sample cases[] = {
        {".Dd May 1\n.Dt CAT 1\n.Os\n.Sh NAME\n.Nm cat\n.Nd print files\n.Sh DESCRIPTION\nThe\n.Nm\nutility reads\n.Ar file .", "# cat(1)\n\n## NAME\n\ncat - print files\n\n## DESCRIPTION\n\nThe cat utility reads file."},
        {".Dd x\n.Dt X 1\n.Sh OPTIONS\n.Bl -tag\n.It Fl a\nall\n.It Fl b Ar n\nmany\n.El", "# x(1)\n\n## OPTIONS\n\n- -a: all\n- -b n: many"},
        {".Dd x\n.Dt X 1\n.Bl -bullet\n.It\none\n.It\ntwo\n.El\nafter", "# x(1)\n\n- one\n- two\n\nafter"},
        {".Dd x\n.Dt X 1\n.Bd -literal\na\n  b\n.Ed\nafter", "# x(1)\n\n    a\n      b\n\nafter"},
        {".Dd x\n.Dt X 1\nSee\n.Xr ls 1 ,\n.Op Fl x .", "# x(1)\n\nSee ls(1), [-x]."},
    };
    check("mdoc", extract_troff, cases, COUNT(cases));
}

/* Each as unlucky as can be for its reader: eight times as much must not take much more than eight times as long. */
static void test_hostile(void **state) {
    (void)state;
    static const struct {
        const char *name;
        extract_function *extract;
        const char *head, *unit;
    } cases[] = {
        {"html tags", extract_html, "", "<div>"}, {"html lists", extract_html, "", "<ul><li>"}, {"html open tags", extract_html, "", "<"}, {"html comments", extract_html, "", "<!--"}, {"html entities", extract_html, "", "&"},
        {"html quotes", extract_html, "", "<a b='"}, {"html scripts", extract_html, "", "<script>"}, {"html ends", extract_html, "", "</p>"}, {"html tables", extract_html, "", "<table><tr><td>"}, {"html pre", extract_html, "", "<pre>\n"},
        {"html cdata", extract_html, "", "<![CDATA["}, {"html styles", extract_html, "<style>", "</styl"}, {"html titles", extract_html, "", "<title>"}, {"html textarea", extract_html, "", "<textarea></"},
        {"markdown emphasis", extract_markdown, "", "*"}, {"markdown links", extract_markdown, "", "["}, {"markdown pictures", extract_markdown, "", "!["}, {"markdown link ends", extract_markdown, "", "[]("},
        {"markdown quotes", extract_markdown, "", "> "}, {"markdown lists", extract_markdown, "", "- "}, {"markdown ticks", extract_markdown, "", "` `` "}, {"markdown tags", extract_markdown, "", "<a "}, {"markdown fences", extract_markdown, "", "```\n"},
        {"markdown underscores", extract_markdown, "", "_a"}, {"markdown tables", extract_markdown, "", "|"}, {"markdown lines", extract_markdown, "", "=\n"}, {"markdown entities", extract_markdown, "", "&a"}, {"markdown pairs", extract_markdown, "", "**a"},
        {"man macros", extract_troff, ".TH X 1\n.de A\n.A\n..\n", ".A\n"}, {"man doubling", extract_troff, ".TH X 1\n.de A\n.B\n.B\n.B\n.B\n..\n.de B\n.C\n.C\n.C\n.C\n..\n.de C\ntext\n..\n", ".A\n"},
        {"man strings", extract_troff, ".TH X 1\n.ds A aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n.ds B \\*A\\*A\\*A\\*A\\*A\\*A\\*A\\*A\n.ds C \\*B\\*B\\*B\\*B\\*B\\*B\\*B\\*B\n", "\\*C"},
        {"man self", extract_troff, ".TH X 1\n.ds A x\\*A\n", "\\*A\n"}, {"man conditions", extract_troff, ".TH X 1\n", ".if n "}, {"man blocks", extract_troff, ".TH X 1\n", ".if n \\{\n"}, {"man defines", extract_troff, ".TH X 1\n", ".de A\n..\n"},
        {"man escapes", extract_troff, ".TH X 1\n", "\\[\\("}, {"man fonts", extract_troff, ".TH X 1\n", "\\f[B"}, {"man paragraphs", extract_troff, ".TH X 1\n", ".TP\n"}, {"man tables", extract_troff, ".TH X 1\n.TS\n", "l l.\n"}, {"man registers", extract_troff, ".TH X 1\n", ".nr A 1\n"},
        {"man names", extract_troff, ".TH X 1\n", ".ds AA x\n.rn AA BB\n"}, {"man nested", extract_troff, ".TH X 1\n", ".RS\n"}, {"man ends", extract_troff, ".TH X 1\n", ".ig\n"}, {"man while", extract_troff, ".TH X 1\n", ".while 1 .br\n"},
        {"mdoc lists", extract_troff, ".Dd x\n.Dt X 1\n", ".Bl -tag\n.It a\n"}, {"mdoc calls", extract_troff, ".Dd x\n.Dt X 1\n", ".Op Op Op Op Op Op Op Op Op Op Op x\n"}, {"mdoc long line", extract_troff, ".Dd x\n.Dt X 1\n.Op", " Fl x"}, {"mdoc blocks", extract_troff, ".Dd x\n.Dt X 1\n", ".Oo\n"},
        {"text backspaces", extract_text, "", "a\b"}, {"text escapes", extract_text, "", "\033[1"},
    };
    enum { SMALL = 1 << 14, TIMES = 8, CAP = 16 << 20 };
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t took[2] = {INT64_MAX, INT64_MAX};
        for (int large = 0; large < 2; large++) {
            struct buf in, out;
            buf_init(&in, SMALL * TIMES + 1024);
            buf_append_str(&in, cases[i].head);
            while (in.len < (size_t)(large ? SMALL * TIMES : SMALL)) buf_append_str(&in, cases[i].unit);
            for (int round = 0; round < 2; round++) {
                buf_init(&out, CAP);
                struct extracted x = {.text = &out};
                int64_t before = thread_cpu_us();
                (void)cases[i].extract(buf_span(&in), &x);
                int64_t us = thread_cpu_us() - before;
                if (us < took[large]) took[large] = us;
                CHECK(out.len <= CAP && span_is_utf8(buf_span(&out)), "%s", cases[i].name);
                buf_fini(&out);
            }
            buf_fini(&in);
        }
        CHECK(took[1] < took[0] * TIMES * 4 + 50000, "%s: %lld us, and %lld us for %d times as much", cases[i].name, (long long)took[0], (long long)took[1], TIMES);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_markdown), cmocka_unit_test(test_html), cmocka_unit_test(test_man), cmocka_unit_test(test_mdoc), cmocka_unit_test(test_hostile)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
