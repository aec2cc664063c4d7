/* Pages of lists: what the query says, what is refused by name, and the frame of what is listed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/gateway/pages.h"
#include "tests/unit/support/check.h"

static void test_read(void **state) {
    (void)state;
    static const struct {
        const char *query, *after, *param; /* param: "" where it is taken */
        uint32_t limit;
        bool ascending;
    } cases[] = {
        {"", "", "", 20, false},
        {"after=file-1&limit=100&order=asc", "file-1", "", 100, true},
        {"order=desc&limit=1&after=a%2fb", "a/b", "", 1, false},
        {"purpose=batch", "", "", 20, false}, /* names are the caller's to check */
        {"after=", "", "", 20, false},
        {"limit=0", "", "limit", 0, false}, {"limit=101", "", "limit", 0, false}, {"limit=x", "", "limit", 0, false}, {"limit=", "", "limit", 0, false}, {"limit=2&limit=3", "", "limit", 0, false},
        {"limit=18446744073709551617", "", "limit", 0, false}, {"order=up", "", "order", 0, false}, {"order=", "", "order", 0, false}, {"after=%zz", "", "after", 0, false}, {"after=%ff", "", "after", 0, false},
        {"after=1&after=2", "", "after", 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct page page;
        struct error err = {0};
        int r = page_read(span_str(cases[i].query), 20, 100, &page, &err);
        CHECK(r == (cases[i].param[0] ? E_INVALID : 0) && strcmp(err.param, cases[i].param) == 0, "%s: %d \"%s\"", cases[i].query, r, err.param);
        if (r == 0) CHECK(strcmp(page.after, cases[i].after) == 0 && page.limit == cases[i].limit && page.ascending == cases[i].ascending, "%s: \"%s\", %u, %d", cases[i].query, page.after, page.limit, page.ascending);
    }
}

static void test_frame(void **state) {
    (void)state;
    struct buf body;
    struct json_out w;
    buf_init(&body, 1024);
    page_begin(&w, &body);
    json_put_int(&w, 7);
    page_end(&w, SPAN("a"), SPAN("b"), true);
    assert_true(span_eq_str(buf_span(&body), "{\"object\":\"list\",\"data\":[7],\"first_id\":\"a\",\"last_id\":\"b\",\"has_more\":true}"));
    buf_clear(&body);
    page_begin(&w, &body);
    page_end(&w, SPAN(""), SPAN(""), false);
    assert_true(span_eq_str(buf_span(&body), "{\"object\":\"list\",\"data\":[],\"first_id\":null,\"last_id\":null,\"has_more\":false}"));
    buf_clear(&body);
    page_begin(&w, &body);
    page_end_plain(&w, false);
    assert_true(span_eq_str(buf_span(&body), "{\"object\":\"list\",\"data\":[],\"has_more\":false}"));
    buf_fini(&body);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_read), cmocka_unit_test(test_frame)};
    return cmocka_run_group_tests_name("pages of lists", tests, NULL, NULL);
}
