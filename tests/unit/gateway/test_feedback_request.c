/* Judgements over HTTP: form is checked by parameter, an answer's own id is taken for its request's, times are RFC 3339. */
#include "tests/unit/support/check.h"

#include "genloop/v1/services.pb-c.h"
#include "services/gateway/feedback_request.h"

static int pack(const char *text, struct buf *out, struct error *err) {
    struct json *body = NULL;
    CHECK(json_parse(quoted(text), &body, err) == 0, "%s", text);
    *err = (struct error){0};
    buf_clear(out);
    int r = feedback_request_pack(body, 1700000000000, out, err);
    json_free(body);
    return r;
}

static void test_forms(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *param;
    } cases[] = {
        {"{'kind':'thumb','value':1,'request_id':'r'}", 0, ""},
        {"{'kind':'thumb','request_id':'r'}", E_INVALID, "value"},
        {"{'kind':'thumb','value':null,'request_id':'r'}", E_INVALID, "value"},
        {"{'kind':'thumb','value':1.1}", E_INVALID, "value"},
        {"{'kind':'thumb','value':-1}", 0, ""},
        {"{'kind':'thumb','value':'1'}", E_INVALID, "value"},
        {"{'kind':'thumb','value':true}", E_INVALID, "value"},
        {"{'kind':'rating','value':0.5}", 0, ""},
        {"{'kind':'rating'}", E_INVALID, "value"},
        {"{'kind':'preference','chosen':'a','rejected':'b','prompt':'p'}", 0, ""},
        {"{'kind':'correction','text':'t'}", 0, ""},
        {"{'kind':'applause'}", E_INVALID, "kind"},
        {"{'kind':7}", E_INVALID, "kind"},
        {"{}", E_INVALID, "kind"},
        {"{'kind':'thumb','value':1,'request_id':7}", E_INVALID, "request_id"},
        {"{'kind':'thumb','value':1,'chosen':[]}", E_INVALID, "chosen"},
        {"{'kind':'thumb','value':1,'mood':'x'}", E_INVALID, "mood"},
        {"{'kind':'thumb','value':1,'id':'a\\u0000b'}", E_INVALID, "event.id"},
        {"{'kind':'thumb','value':1,'time':'2026-11-24T04:01:21Z'}", 0, ""},
        {"{'kind':'thumb','value':1,'time':'yesterday'}", E_INVALID, "time"},
        {"{'kind':'thumb','value':1,'time':1700000000}", E_INVALID, "time"},
    };
    struct buf out;
    buf_init(&out, 1 << 20);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct error err;
        int r = pack(cases[i].text, &out, &err);
        CHECK(r == cases[i].code && strcmp(err.param, cases[i].param) == 0, "%s: %d \"%s\" %s", cases[i].text, r, err.param, err.message);
    }
    buf_fini(&out);
}

static void test_values(void **state) {
    (void)state;
    static const struct {
        const char *time;
        int64_t ms; /* -1: none */
    } cases[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"2026-11-24T04:01:21Z", 1795492881000},
        {"2026-11-24t04:01:21.5z", 1795492881500},
        {"2026-11-24 04:01:21.123456789Z", 1795492881123},
        {"2026-11-24T06:01:21+02:00", 1795492881000},
        {"2026-11-23T22:31:21-05:30", 1795492881000},
        {"2024-02-29T00:00:00Z", 1709164800000},
        {"2023-02-29T00:00:00Z", -1},
        {"2026-02-30T00:00:00Z", -1},
        {"2026-04-31T00:00:00Z", -1},
        {"2026-13-01T00:00:00Z", -1},
        {"2026-00-01T00:00:00Z", -1},
        {"2026-01-01T24:00:00Z", -1},
        {"2026-01-01T00:00:00", -1},
        {"2026-01-01T00:00:00.Z", -1},
        {"2026-01-01T00:00:00+24:00", -1},
        {"2026-01-01T00:00:00+02:60", -1},
        {"2026-01-01T00:00:00+0200", -1},
        {"2026-01-01T00:00:00Zx", -1},
        {"+026-01-01T00:00:00Z", -1},
        {"2026-1-1T00:00:00Z", -1},
        {"2026-01-01", -1},
    };
    struct buf out;
    buf_init(&out, 1 << 20);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[200];
        struct error err;
        snprintf(text, sizeof text, "{'id':'f','kind':'rating','value':-0.25,'request_id':'chatcmpl-req-1','time':'%s','subject':'s','text':'t'}", cases[i].time);
        int r = pack(text, &out, &err);
        CHECK(r == (cases[i].ms < 0 ? E_INVALID : 0), "%s: %d", cases[i].time, r);
        if (r != 0) continue;
        Genloop__V1__SubmitFeedbackRequest *m = genloop__v1__submit_feedback_request__unpack(NULL, out.len, (const uint8_t *)buf_span(&out).data);
        assert_non_null(m);
        CHECK(m->event->event_time_ms == cases[i].ms, "%s: %lld", cases[i].time, (long long)m->event->event_time_ms);
        assert_string_equal(m->event->request_id, "req-1"); /* the answer's id is the request's behind a word of OpenAI's */
        assert_string_equal(m->event->id, "f");
        assert_string_equal(m->event->subject, "s");
        assert_string_equal(m->text, "t");
        assert_true(m->event->kind == GENLOOP__V1__FEEDBACK_KIND__FEEDBACK_KIND_RATING && m->event->value == -0.25);
        genloop__v1__submit_feedback_request__free_unpacked(m, NULL);
    }
    struct error err;
    assert_int_equal(pack("{'kind':'preference','chosen_request_id':'cmpl-a','rejected_request_id':'b'}", &out, &err), 0);
    Genloop__V1__SubmitFeedbackRequest *m = genloop__v1__submit_feedback_request__unpack(NULL, out.len, (const uint8_t *)buf_span(&out).data);
    assert_string_equal(m->event->chosen_request_id, "a");
    assert_string_equal(m->event->rejected_request_id, "b");
    assert_int_equal(m->event->event_time_ms, 1700000000000); /* now, where nobody says otherwise */
    genloop__v1__submit_feedback_request__free_unpacked(m, NULL);
    buf_fini(&out);
}

static int attempt(void *arg) {
    struct buf out;
    struct error err = {0};
    buf_init(&out, 4096);
    int r = feedback_request_pack(arg, 1, &out, &err);
    buf_fini(&out);
    return r;
}
static void test_without_memory(void **state) {
    (void)state;
    struct json *body = NULL;
    assert_int_equal(json_parse(quoted("{'id':'f','kind':'rating','value':1,'request_id':'r','text':'t'}"), &body, NULL), 0);
    sweep("feedback", attempt, body, E_TOO_LARGE);
    json_free(body);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms), cmocka_unit_test(test_values), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
