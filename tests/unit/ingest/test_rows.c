/* JSONL and CSV: what a row gives, which rows are bad, and rows that are too large. | stands for TEXT_RECORD, ~ for TEXT_TURN. */
#include "tests/unit/support/check.h"

#include "services/ingest/extract.h"

static void shown(struct buf *b) {
    for (size_t i = 0; i < b->len; i++) {
        char *c = &b->data[b->start + i];
        if (*c == TEXT_RECORD) *c = '|';
        if (*c == TEXT_TURN) *c = '~';
    }
}

static void test_jsonl(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
        uint64_t rows, bad;
    } cases[] = {
        {"{'text':'a'}\n{'text':'b'}", "a|b", 2, 0},
        {"{'text':'a'}\r\n\r\n  {'content':'b'}  \n", "a|b", 2, 0},
        {"'a string'\n", "a string", 1, 0},
        {"{'title':'T','text':'a'}", "# T\n\na", 1, 0},
        {"{'prompt':'q','completion':'a'}", "q~a", 1, 0},
        {"{'question':'q','answer':'a'}\n{'instruction':'do','input':'this','output':'done'}", "q~a|do\n\nthis~done", 2, 0},
        {"{'prompt':'q','chosen':'good','rejected':'bad'}", "q~good", 1, 0},
        {"{'prompt':[{'role':'user','content':'q'}],'completion':[{'role':'assistant','content':'a'}]}", "q~a", 1, 0},
        {"{'prompt':[],'completion':[]}", "", 0, 1},
        {"{'messages':[{'role':'user','content':'q'},{'role':'assistant','content':'a'}]}", "q~a", 1, 0},
        {"{'messages':[{'role':'system','content':'s'},{'role':'user','content':'q'},{'role':'assistant','content':'a'},{'role':'assistant','content':'b'},{'role':'user','content':'r'}]}", "s\nq~a\nb~r", 1, 0},
        {"{'messages':[{'role':'assistant','content':'a'},{'role':'user','content':'q'},{'role':'tool','content':'t'},{'role':'assistant','content':'b'}]}", "q~b", 1, 0},
        {"{'conversations':[{'from':'human','value':'q'},{'from':'gpt','value':'a'}]}", "q~a", 1, 0},
        {"{'messages':[{'role':'user','content':[{'type':'text','text':'q'},{'type':'image_url'},{'type':'text','text':'r'}]},{'role':'assistant','content':'a'}]}", "q\nr~a", 1, 0},
        {"{'messages':[{'role':'user','content':[{'type':'image_url'},{'type':'text','text':' '}]},{'role':'assistant','content':'a'}]}", "", 0, 1},
        {"{'messages':[{'role':'user','content':[{'type':'image_url'},{'type':'text','text':'q'}]},{'role':'assistant','content':'a'}]}", "q~a", 1, 0},
        {"{'messages':[]}", "", 0, 1},
        {"{'messages':7}", "", 0, 1},
        {"{'messages':[7]}", "", 0, 1},
        {"{'text':7}\n{'text':''}\n{'text':'  '}\n[]\n7\nnull\n{}\n{'x':'y'}", "", 0, 8},
        {"no json\n{'text':'a'}\n{'text':'b'", "a", 1, 2},
        {"{'text':'a','text':'b'}", "", 0, 1}, /* the same key twice */
        {"{'text':'a\\u001eb\\u001fc'}", "abc", 1, 0}, /* our separators cannot come from inside */
        {"{'messages':[{'role':'user','content':'q\\u001f'},{'role':'assistant','content':'a\\u001e'}]}", "q~a", 1, 0},
        {"", "", 0, 0},
        {"\n\n\n", "", 0, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf out;
        buf_init(&out, 1 << 20);
        struct extracted x = {.text = &out};
        enum reason r = extract_jsonl(quoted(cases[i].in), &x);
        shown(&out);
        CHECK(span_eq_str(buf_span(&out), cases[i].out), "%s: %.*s", cases[i].in, SPAN_ARG(buf_span(&out)));
        CHECK(x.rows == cases[i].rows && x.rows_bad == cases[i].bad && r == (x.rows ? REASON_NONE : REASON_BAD_ROWS), "%s: %llu rows, %llu bad", cases[i].in, (unsigned long long)x.rows,
              (unsigned long long)x.rows_bad);
        buf_fini(&out);
    }
}

static void test_csv(void **state) {
    (void)state;
    static const struct {
        const char *in;
        char delimiter;
        const char *out;
        uint64_t rows, bad;
    } cases[] = {
        {"text\nhello\nworld\n", ',', "hello|world", 2, 0},
        {"id,text\n1,\"hello, \"\"you\"\"\nthere\"\r\n2,x", ',', "hello, \"you\"\nthere|x", 2, 0},
        {"prompt,completion\nq,a\n,a\nq,\n", ',', "q~a", 1, 2},
        {"Question;Answer\nq;a\n", ';', "q~a", 1, 0},
        {"name,age\nAnn,7\n,\nBob,", ',', "name: Ann\nage: 7|name: Bob", 2, 1},
        {"1,2\n3,4\n", ',', "1\n2|3\n4", 2, 0},                  /* no header: a number is no name */
        {"a\tb\n1\t2\n", '\t', "a: 1\nb: 2", 1, 0},
        {"text\n\"never ends, a\nb", ',', "never ends, a\nb", 1, 0},
        {"text\na\n\n\nb\n", ',', "a|b", 2, 0},
        {"text,x\na\n,y\n", ',', "a", 1, 1},                       /* rows of other lengths */
        {"text\n\x1e\x1f" "a\n", ',', "a", 1, 0},
        {"", ',', "", 0, 0},
        {"text\n", ',', "", 0, 0},
        {"\"\"\"\n", ',', "", 0, 0}, /* names without rows */
        {",,,\n,,,", ',', "", 0, 1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf out;
        buf_init(&out, 1 << 20);
        struct extracted x = {.text = &out};
        enum reason r = extract_csv(span_str(cases[i].in), cases[i].delimiter, &x);
        shown(&out);
        CHECK(span_eq_str(buf_span(&out), cases[i].out), "%s: %.*s", cases[i].in, SPAN_ARG(buf_span(&out)));
        CHECK(x.rows == cases[i].rows && x.rows_bad == cases[i].bad && r == (x.rows ? REASON_NONE : REASON_BAD_ROWS), "%s: %llu rows, %llu bad", cases[i].in, (unsigned long long)x.rows,
              (unsigned long long)x.rows_bad);
        buf_fini(&out);
    }
}

/* What is too large is a bad row, counted, and the rows around it are there. */
static void test_limits(void **state) {
    (void)state;
    struct buf in, out;
    buf_init(&in, 64 << 20);
    buf_init(&out, 64 << 20);
    char *a;
    struct extracted x = {.text = &out};
    buf_append_str(&in, "\"first\"\n\"");
    assert_non_null(a = buf_reserve(&in, ROW_BYTES_MAX));
    memset(a, 'a', ROW_BYTES_MAX);
    buf_commit(&in, ROW_BYTES_MAX);
    buf_append_str(&in, "\"\n\"last\"\n");
    assert_int_equal(extract_jsonl(buf_span(&in), &x), REASON_NONE);
    shown(&out);
    assert_string_equal(buf_cstr(&out), "first|last");
    assert_true(x.rows == 2 && x.rows_bad == 1);
    buf_clear(&out);
    x = (struct extracted){.text = &out};
    buf_clear(&in);
    buf_append_str(&in, "text,x\nfirst,1\n");
    assert_non_null(a = buf_reserve(&in, ROW_BYTES_MAX + 1));
    memset(a, 'a', ROW_BYTES_MAX + 1);
    buf_commit(&in, ROW_BYTES_MAX + 1);
    buf_append_str(&in, ",2\n");
    for (int i = 0; i <= CSV_COLUMNS_MAX; i++) buf_append_str(&in, "c,");
    buf_append_str(&in, "\nlast,3\n");
    assert_int_equal(extract_csv(buf_span(&in), ',', &x), REASON_NONE);
    shown(&out);
    assert_string_equal(buf_cstr(&out), "first|last");
    assert_true(x.rows == 2 && x.rows_bad == 2);
    /* A conversation that does not end. */
    buf_clear(&out);
    buf_clear(&in);
    x = (struct extracted){.text = &out};
    buf_append_str(&in, "{\"messages\":[");
    for (int i = 0; i <= ROW_MESSAGES_MAX; i++) buf_printf(&in, "%s{\"role\":\"%s\",\"content\":\"a\"}", i ? "," : "", i % 2 ? "assistant" : "user");
    buf_append_str(&in, "]}\n");
    assert_int_equal(extract_jsonl(buf_span(&in), &x), REASON_BAD_ROWS);
    buf_fini(&in);
    /* A text that is full ends there, and says so. */
    buf_fini(&out);
    buf_init(&out, 10);
    x = (struct extracted){.text = &out};
    (void)extract_csv(SPAN("text\nhello\nworld wide\n"), ',', &x);
    assert_int_equal(out.failed, E_FULL);
    buf_fini(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_jsonl), cmocka_unit_test(test_csv), cmocka_unit_test(test_limits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
