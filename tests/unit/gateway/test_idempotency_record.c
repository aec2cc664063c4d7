/* What Redis keeps under an Idempotency-Key: written, read back the same, and refused where it is nobody's. */
#include "tests/unit/support/check.h"

#include "services/gateway/idempotency_record.h"

#define OWNER "0123456789abcdef0123456789abcdef"
#define PRINT "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_records(void **state) {
    (void)state;
    const struct idempotency_record cases[] = {
        {false, SPAN(OWNER), SPAN(PRINT), 0, SPAN("")},
        {true, SPAN(OWNER), SPAN(PRINT), 200, SPAN("{\"id\":\"x\"}\n\nmore")},
        {true, SPAN(OWNER), SPAN(PRINT), 201, SPAN("")},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf text;
        struct idempotency_record back = {0};
        buf_init(&text, 4096);
        assert_int_equal(idempotency_write(&cases[i], &text), 0);
        assert_int_equal(idempotency_read(buf_span(&text), &back), 0);
        assert_true(back.answered == cases[i].answered && back.status == cases[i].status && span_eq(back.body, cases[i].body) && span_eq(back.owner, cases[i].owner) &&
                    span_eq(back.fingerprint, cases[i].fingerprint));
        buf_fini(&text);
    }
    static const char *const broken[] = {
        "", "r", "r\n", "r " OWNER "\n", "x " OWNER " " PRINT "\n", "r " OWNER " " PRINT, "r " OWNER " " PRINT "\nbody", "r " OWNER " " PRINT " 200\n", "a " OWNER " " PRINT "\n", "a " OWNER " " PRINT " 99\n",
        "a " OWNER " " PRINT " 20x\n", "r " OWNER "0 " PRINT "\n", "r " OWNER " " PRINT "0\n", "r OWNER " PRINT "\n",
    };
    for (size_t i = 0; i < COUNT(broken); i++) {
        struct idempotency_record back;
        CHECK(idempotency_read(span_str(broken[i]), &back) == E_INVALID, "%s", broken[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_records)};
    return cmocka_run_group_tests_name("idempotency_record", tests, NULL, NULL);
}
