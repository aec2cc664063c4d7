/* Which model guesses for which. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/inference/draft_setting.h"

static void test_find(void **state) {
    (void)state;
    static const char setting[] = "big=small, other@3 = tiny@2,other=small,";
    static const struct {
        const char *model, *draft; /* NULL: none */
    } rows[] = {{"big@1", "small"}, {"big@17", "small"}, {"other@3", "tiny@2"}, {"other@4", "small"}, {"small@1", NULL}, {"bi@1", NULL}, {"bigger@1", NULL}};
    assert_int_equal(draft_setting_check(span_str(setting), NULL), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct span draft = {0};
        bool found = draft_setting_find(span_str(setting), span_str(rows[i].model), &draft);
        if (found != (rows[i].draft != NULL) || (found && !span_eq_str(draft, rows[i].draft))) fail_msg("%s: %.*s", rows[i].model, SPAN_ARG(draft));
        assert_false(draft_setting_find(SPAN(""), span_str(rows[i].model), &draft));
    }
}

static void test_check(void **state) {
    (void)state;
    static const struct {
        const char *setting, *says;
    } bad[] = {{"big", "\"big\""}, {"big=", "\"big=\""}, {"=small", "\"=small\""}, {"a=b,c d=e", "\"c d=e\""}, {"a=b=c", "\"a=b=c\""}, {"a=b@x", "\"a=b@x\""}, {"a=a", "its own"}, {"a=b,c=d,a=d", "a stands twice"}};
    assert_int_equal(draft_setting_check(SPAN(""), NULL), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error err = {0};
        if (draft_setting_check(span_str(bad[i].setting), &err) != E_INVALID || !strstr(err.message, bad[i].says)) fail_msg("%s: %s", bad[i].setting, err.message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_find), cmocka_unit_test(test_check)};
    return cmocka_run_group_tests_name("draft_setting", tests, NULL, NULL);
}
