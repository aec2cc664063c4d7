/* Path, query and body as one message: what the path says no body changes, and every complaint names its parameter. */
#include "tests/unit/support/check.h"

#include "genloop/v1/services.pb-c.h"
#include "services/gateway/relay.h"

#define REQUEST(NAME) &genloop__v1__##NAME##__descriptor

static int pack(const struct relay *relay, const char *path, const char *query, const char *body_text, const char *by, struct buf *out, struct error *err) {
    struct json *body = NULL;
    if (body_text) CHECK(json_parse(quoted(body_text), &body, err) == 0, "%s", body_text);
    *err = (struct error){0};
    buf_clear(out);
    int r = relay_pack(relay, path, span_str(query), body, by, out, err);
    json_free(body);
    return r;
}

static void test_sources(void **state) {
    (void)state;
    static const char *const list_query[] = {"dataset", "state", NULL}, *const transition_query[] = {"end_canary", NULL};
    static const struct relay list = {.service = "ingest", .method = "m", .request = REQUEST(list_documents_request), .reply = REQUEST(list_documents_reply), .query = list_query, .page = true};
    static const struct relay promote = {.service = "feedback", .method = "m", .request = REQUEST(transition_request), .reply = REQUEST(model_version), .path_field = "model", .fixed_field = "transition",
                                         .fixed_value = GENLOOP__V1__TRANSITION__TRANSITION_PROMOTE, .by_field = "by", .query = transition_query};
    static const struct {
        const char *name;
        const struct relay *relay;
        const char *path, *query, *body, *by;
        int code;
        const char *param;
    } cases[] = {
        {"a page", &list, NULL, "dataset=d&state=DOCUMENT_STATE_ACCEPTED&limit=7&page_token=x", NULL, "", 0, ""},
        {"nothing", &list, NULL, "", NULL, "", 0, ""},
        {"a number that is none", &list, NULL, "limit=many", NULL, "", E_INVALID, "page.limit"},
        {"a state that is none", &list, NULL, "state=lost", NULL, "", E_INVALID, "state"},
        {"an unknown name", &list, NULL, "datasets=d", NULL, "", E_INVALID, "datasets"},
        {"twice", &list, NULL, "dataset=a&dataset=b", NULL, "", E_INVALID, "dataset"},
        {"whole", &promote, "m@1", "", "{'reason':'better'}", "ann", 0, ""},
        {"its own by", &promote, "m@1", "", "{'reason':'better','by':'bob'}", "ann", 0, ""},
        {"the path in the body", &promote, "m@1", "", "{'model':'m@2','reason':'x'}", "", E_INVALID, "model"},
        {"the verb in the body", &promote, "m@1", "", "{'transition':'TRANSITION_APPROVE','reason':'x'}", "", E_INVALID, "transition"},
        {"unknown in the body", &promote, "m@1", "", "{'reasons':'x'}", "", E_INVALID, "reasons"},
        {"a wrong type", &promote, "m@1", "", "{'reason':7}", "", E_INVALID, "reason"},
        {"a share beyond 32 bits", &promote, "m@1", "", "{'reason':'x','canary_percent':4294967296}", "", E_INVALID, "canary_percent"},
        {"a flag of the query", &promote, "m@1", "end_canary=true", "{'reason':'x'}", "", 0, ""},
        {"no flag of the query", &promote, "m@1", "end_canary=yes", "{'reason':'x'}", "", E_INVALID, "end_canary"},
        {"the body before the query", &promote, "m@1", "end_canary=true", "{'reason':'x','end_canary':false}", "", 0, ""},
        {"NUL", &promote, "m@1", "", "{'reason':'a\\u0000b'}", "", E_INVALID, "reason"},
        {"no body", &promote, "m@1", "", NULL, "ann", 0, ""},
    };
    struct buf out;
    buf_init(&out, 1 << 20);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct error err;
        int r = pack(cases[i].relay, cases[i].path, cases[i].query, cases[i].body, cases[i].by, &out, &err);
        CHECK(r == cases[i].code && strcmp(err.param, cases[i].param) == 0, "%s: %d \"%s\" %s", cases[i].name, r, err.param, err.message);
    }
    struct error err;
    assert_int_equal(pack(&list, NULL, "dataset=d&state=DOCUMENT_STATE_ACCEPTED&limit=7&page_token=x", NULL, "", &out, &err), 0);
    Genloop__V1__ListDocumentsRequest *l = genloop__v1__list_documents_request__unpack(NULL, out.len, (const uint8_t *)buf_span(&out).data);
    assert_non_null(l);
    assert_string_equal(l->dataset, "d");
    assert_true(l->page && l->page->limit == 7 && l->state == GENLOOP__V1__DOCUMENT_STATE__DOCUMENT_STATE_ACCEPTED);
    assert_string_equal(l->page->page_token, "x");
    genloop__v1__list_documents_request__free_unpacked(l, NULL);
    static const struct {
        const char *body, *by, *expected;
        const char *query;
        bool end;
    } bys[] = {{"{'reason':'r'}", "ann", "ann", "", false}, {"{'reason':'r','by':'bob'}", "ann", "bob", "end_canary=true", true}, {"{'reason':'r','end_canary':false}", "", "", "end_canary=true", false}};
    for (size_t i = 0; i < COUNT(bys); i++) {
        assert_int_equal(pack(&promote, "m@1", bys[i].query, bys[i].body, bys[i].by, &out, &err), 0);
        Genloop__V1__TransitionRequest *t = genloop__v1__transition_request__unpack(NULL, out.len, (const uint8_t *)buf_span(&out).data);
        assert_non_null(t);
        assert_string_equal(t->model, "m@1");
        assert_string_equal(t->reason, "r");
        CHECK(strcmp(t->by, bys[i].expected) == 0 && t->transition == GENLOOP__V1__TRANSITION__TRANSITION_PROMOTE && t->end_canary == bys[i].end, "%s: by %s", bys[i].body, t->by);
        genloop__v1__transition_request__free_unpacked(t, NULL);
    }
    buf_fini(&out);
}

static int attempt(void *arg) {
    static const struct relay get = {.service = "feedback", .method = "m", .request = REQUEST(get_model_request), .reply = REQUEST(model_detail), .path_field = "model"};
    struct buf out;
    struct error err = {0};
    (void)arg;
    buf_init(&out, 4096);
    int r = relay_pack(&get, "m", SPAN(""), NULL, "", &out, &err);
    buf_fini(&out);
    return r;
}
static void test_without_memory(void **state) {
    (void)state;
    sweep("relay", attempt, NULL, E_TOO_LARGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sources), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
