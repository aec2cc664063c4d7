/* Judgements from a producer that is not ours: what is taken, what is refused and by which key it is named, whatever is sent. */
#include "tests/unit/support/check.h"

#include "services/feedback/feedback_json.h"

#define KIND(NAME) GENLOOP__V1__FEEDBACK_KIND__FEEDBACK_KIND_##NAME

static void test_table(void **state) {
    (void)state;
    static const struct {
        const char *json;
        int code;
        const char *param;
    } cases[] = {
        {"{'id':'f','request_id':'r','kind':'thumb','value':1}", 0, ""},
        {"{'id':'f','request_id':'r','kind':'thumb','value':-0.5}", 0, ""},
        {"{'id':'f','request_id':'r','kind':'thumb','value':0}", E_INVALID, "value"},
        {"{'id':'f','request_id':'r','kind':'thumb'}", E_INVALID, "value"},
        {"{'id':'f','kind':'thumb','value':1}", E_INVALID, "request_id"},
        {"{'id':'f','request_id':'r','kind':'rating','value':0}", 0, ""},
        {"{'id':'f','request_id':'r','kind':'rating','value':1.01}", E_INVALID, "value"},
        {"{'id':'f','request_id':'r','kind':'rating','value':-2}", E_INVALID, "value"},
        {"{'id':'f','request_id':'r','kind':'rating','value':'1'}", E_INVALID, "value"},
        {"{'id':'f','request_id':'r','kind':'rating','value':null}", E_INVALID, "value"},
        {"{'id':'f','kind':'preference','prompt':'p','chosen':'a','rejected':'b'}", 0, ""},
        {"{'id':'f','kind':'preference','request_id':'r','chosen':'a','rejected':'b'}", 0, ""},
        {"{'id':'f','kind':'preference','chosen':'a','rejected':'b'}", E_INVALID, "prompt"},
        {"{'id':'f','kind':'preference','prompt':'p','rejected':'b'}", E_INVALID, "chosen"},
        {"{'id':'f','kind':'preference','prompt':'p','chosen':'a','rejected':''}", E_INVALID, "rejected"},
        {"{'id':'f','kind':'preference','chosen_request_id':'a','rejected_request_id':'b'}", 0, ""},
        {"{'id':'f','kind':'preference','chosen_request_id':'a'}", E_INVALID, "rejected_request_id"},
        {"{'id':'f','kind':'preference','chosen_request_id':'a','rejected_request_id':'a'}", E_INVALID, "rejected_request_id"},
        {"{'id':'f','kind':'correction','request_id':'r','text':'t'}", 0, ""},
        {"{'id':'f','kind':'correction','prompt':'p','text':'t'}", 0, ""},
        {"{'id':'f','kind':'correction','text':'t'}", E_INVALID, "request_id"},
        {"{'id':'f','kind':'correction','request_id':'r'}", E_INVALID, "text"},
        {"{'request_id':'r','kind':'thumb','value':1}", E_INVALID, "id"},
        {"{'id':'','request_id':'r','kind':'thumb','value':1}", E_INVALID, "id"},
        {"{'id':'a b','request_id':'r','kind':'thumb','value':1}", E_INVALID, "id"},
        {"{'id':'a\\u0000b','request_id':'r','kind':'thumb','value':1}", E_INVALID, "id"},
        {"{'id':'\xc3\xa4','request_id':'r','kind':'thumb','value':1}", E_INVALID, "id"},
        {"{'id':'f','request_id':'r\\n','kind':'thumb','value':1}", E_INVALID, "request_id"},
        {"{'id':7,'request_id':'r','kind':'thumb','value':1}", E_INVALID, "id"},
        {"{'id':'f','request_id':null,'kind':'correction','prompt':'p','text':'t'}", E_INVALID, "request_id"},
        {"{'id':'f','request_id':'r','kind':'applause','value':1}", E_INVALID, "kind"},
        {"{'id':'f','request_id':'r','kind':1,'value':1}", E_INVALID, "kind"},
        {"{'id':'f','request_id':'r','value':1}", E_INVALID, "kind"},
        {"{'id':'f','request_id':'r','kind':'thumb','value':1,'mood':'good'}", E_INVALID, "mood"},
        {"{'id':'f','request_id':'r','kind':'thumb','value':1,'time':'2026-11-24T04:01:21Z'}", 0, ""},
        {"{'id':'f','request_id':'r','kind':'thumb','value':1,'time':'2026-11-24'}", E_INVALID, "time"},
        {"{'id':'f','request_id':'r','kind':'thumb','value':1,'time':7}", E_INVALID, "time"},
        {"{'id':'f','id':'g','request_id':'r','kind':'thumb','value':1}", E_INVALID, ""},
        {"[]", E_INVALID, ""}, {"null", E_INVALID, ""}, {"7", E_INVALID, ""}, {"", E_INVALID, ""}, {"{", E_INVALID, ""}, {"{'id':'f'", E_INVALID, ""}, {"\xff", E_INVALID, ""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct arena arena;
        struct feedback f = {.time_ms = 77};
        struct error err = {0};
        arena_init(&arena, 1 << 20);
        int r = feedback_json_parse(quoted(cases[i].json), &arena, &f, &err);
        CHECK(r == cases[i].code && strcmp(err.param, cases[i].param) == 0, "%s: %d \"%s\" %s", cases[i].json, r, err.param, err.message);
        CHECK(r == 0 ? feedback_check(&f, &err) == 0 : f.time_ms == 77 && err.message[0], "%s", cases[i].json); /* untouched on failure */
        arena_fini(&arena);
    }
}

static void test_fields_and_limits(void **state) {
    (void)state;
    struct arena arena;
    struct feedback f;
    struct error err = {0};
    arena_init(&arena, 64 << 20);
    assert_int_equal(feedback_json_parse(quoted("{'id':'f','request_id':'r','kind':'rating','value':0.25,'subject':'s\xc3\xa4','model':'m@1','text':'t\\u0000u','time':'2026-11-24T06:01:21.5+02:00'}"), &arena, &f, &err), 0);
    assert_true(f.kind == KIND(RATING) && f.value == 0.25 && f.time_ms == 1795492881500 && f.text.len == 3 && span_eq_str(f.subject, "s\xc3\xa4") && span_eq_str(f.model, "m@1"));
    static const struct {
        const char *key;
        size_t max;
    } limits[] = {{"id", FEEDBACK_ID_MAX}, {"request_id", FEEDBACK_ID_MAX}, {"subject", FEEDBACK_SUBJECT_MAX}, {"prompt", FEEDBACK_TEXT_MAX}, {"chosen", FEEDBACK_TEXT_MAX}, {"text", FEEDBACK_TEXT_MAX}};
    for (size_t i = 0; i < COUNT(limits); i++)
        for (size_t over = 0; over < 2; over++) {
            struct buf b;
            buf_init(&b, 4 << 20);
            buf_printf(&b, "{\"kind\":\"correction\"%s%s%s,\"%s\":\"", strcmp(limits[i].key, "id") ? ",\"id\":\"f\"" : "", strcmp(limits[i].key, "text") ? ",\"text\":\"t\"" : "", strcmp(limits[i].key, "request_id") ? ",\"request_id\":\"r\"" : "", limits[i].key);
            for (size_t n = 0; n < limits[i].max + over; n++) buf_append_char(&b, 'a');
            buf_append_str(&b, "\"}");
            int r = feedback_json_parse(buf_span(&b), &arena, &f, &err);
            CHECK(r == (over ? E_TOO_LARGE : 0), "%s + %zu: %d %s", limits[i].key, over, r, err.message);
            if (over) CHECK(strcmp(err.param, limits[i].key) == 0, "%s: %s", limits[i].key, err.param);
            buf_fini(&b);
        }
    arena_fini(&arena);
}

static int attempt(void *arg) {
    struct arena arena;
    struct feedback f;
    struct error err = {0};
    arena_init(&arena, 1 << 20);
    int r = feedback_json_parse(quoted(arg), &arena, &f, &err);
    arena_fini(&arena);
    return r;
}
static void test_without_memory(void **state) {
    (void)state;
    sweep("feedback", attempt, (void *)(uintptr_t)"{'id':'f','request_id':'r','kind':'rating','value':0.25,'subject':'s'}", E_NOMEM);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_fields_and_limits), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
