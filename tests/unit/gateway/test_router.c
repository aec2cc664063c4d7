/* Paths against the table of routes, and what a query may hold. */
#include "tests/unit/support/check.h"

#include "services/gateway/router.h"

static void one(struct exchange *x, const struct json *body) {
    (void)x;
    (void)body;
}
static const struct route routes[] = {
    {"GET", "/", SCOPE_ANY, BODY_NONE, one, "", NULL},
    {"GET", "/v1/models", SCOPE_CLIENT, BODY_NONE, one, "", NULL},
    {"POST", "/v1/models/import", SCOPE_CLIENT, BODY_NONE, one, "", NULL},
    {"GET", "/v1/models/{model}", SCOPE_CLIENT, BODY_NONE, one, "", NULL},
    {"DELETE", "/v1/models/{model}", SCOPE_CLIENT, BODY_NONE, one, "", NULL},
    {"POST", "/v1/models/{model}/{action}", SCOPE_CLIENT, BODY_NONE, one, "", NULL},
};

static void test_paths(void **state) {
    (void)state;
    static const struct {
        const char *method, *path;
        int result, route, n;
        const char *first, *allow;
    } cases[] = {
        {"GET", "/", 0, 0, 0, "", ""},
        {"GET", "", E_NOT_FOUND, -1, 0, "", ""},
        {"GET", "/v1/models", 0, 1, 0, "", ""},
        {"HEAD", "/v1/models", 0, 1, 0, "", ""},
        {"get", "/v1/models", E_STATE, -1, 0, "", "GET, HEAD"},
        {"POST", "/v1/models", E_STATE, -1, 0, "", "GET, HEAD"},
        {"GET", "/v1/models/", E_NOT_FOUND, -1, 0, "", ""},
        {"GET", "/v1//models", E_NOT_FOUND, -1, 0, "", ""},
        {"GET", "v1/models", E_NOT_FOUND, -1, 0, "", ""},
        {"GET", "/v1/model", E_NOT_FOUND, -1, 0, "", ""},
        {"GET", "/v1/models/a", 0, 3, 1, "a", ""},
        {"DELETE", "/v1/models/a", 0, 4, 1, "a", ""},
        {"PUT", "/v1/models/a", E_STATE, -1, 0, "", "GET, HEAD, DELETE"},
        {"GET", "/v1/models/a%40b%20c", 0, 3, 1, "a@b c", ""},
        {"GET", "/v1/models/a+b", 0, 3, 1, "a+b", ""}, /* a plus is a space in queries only */
        {"GET", "/v1/models/%C3%A4", 0, 3, 1, "\xc3\xa4", ""},
        {"GET", "/v1/models/a%2Fb", E_INVALID, -1, 0, "", ""},
        {"GET", "/v1/models/a%5Cb", E_INVALID, -1, 0, "", ""},
        {"GET", "/v1/models/%00", E_INVALID, -1, 0, "", ""},
        {"GET", "/v1/models/a%0Ab", E_INVALID, -1, 0, "", ""},
        {"GET", "/v1/models/%FF", E_INVALID, -1, 0, "", ""},
        {"GET", "/v1/models/%zz", E_INVALID, -1, 0, "", ""},
        {"GET", "/v1/models/%4", E_INVALID, -1, 0, "", ""},
        {"GET", "/v1/models/..", E_INVALID, -1, 0, "", ""},
        {"GET", "/v1/models/%2e%2E", E_INVALID, -1, 0, "", ""},
        {"GET", "/v1/models/.", E_INVALID, -1, 0, "", ""},
        {"GET", "/v1/models/import", E_STATE, -1, 0, "", "POST"}, /* the literal one stands for it */
        {"POST", "/v1/models/import", 0, 2, 0, "", ""},
        {"POST", "/v1/models/a/b", 0, 5, 2, "a", ""},
        {"POST", "/v1/models/a/b/c", E_NOT_FOUND, -1, 0, "", ""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct route_match m;
        int r = router_match(routes, COUNT(routes), span_str(cases[i].method), span_str(cases[i].path), &m);
        CHECK(r == cases[i].result, "%s %s: %d", cases[i].method, cases[i].path, r);
        CHECK(r != 0 || (m.route == &routes[cases[i].route] && m.n_params == cases[i].n && (m.n_params == 0 || strcmp(m.params[0], cases[i].first) == 0)), "%s %s", cases[i].method, cases[i].path);
        if (r == E_STATE) CHECK(strcmp(m.allow, cases[i].allow) == 0, "%s %s allows %s", cases[i].method, cases[i].path, m.allow);
    }
    /* A parameter of the largest size, and one more. */
    char path[600] = "/v1/models/";
    struct route_match m;
    memset(path + 11, 'a', ROUTE_PARAM_SIZE - 1);
    assert_int_equal(router_match(routes, COUNT(routes), SPAN("GET"), span_str(path), &m), 0);
    assert_int_equal(strlen(m.params[0]), ROUTE_PARAM_SIZE - 1);
    path[11 + ROUTE_PARAM_SIZE - 1] = 'a';
    assert_int_equal(router_match(routes, COUNT(routes), SPAN("GET"), span_str(path), &m), E_INVALID);
}

static void test_queries(void **state) {
    (void)state;
    static const char *const names[] = {"limit", "page_token", NULL};
    static const struct {
        const char *query;
        int get, check;
        const char *value;
    } cases[] = {
        {"", E_NOT_FOUND, 0, ""},         {"limit=5", 0, 0, "5"},          {"limit=", 0, 0, ""},          {"limit", 0, 0, ""},
        {"limit=a+b%26c", 0, 0, "a b&c"}, {"page_token=x&limit=5", 0, 0, "5"}, {"limit=5&limit=6", E_INVALID, 0, ""}, {"limit=%zz", E_INVALID, 0, ""},
        {"limit=%FF", E_INVALID, 0, ""},  {"Limit=5", E_NOT_FOUND, E_INVALID, ""}, {"x=1", E_NOT_FOUND, E_INVALID, ""}, {"&&limit=1&", 0, 0, "1"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[QUERY_VALUE_MAX];
        struct span value = {0};
        struct error err = {0};
        int r = query_get(span_str(cases[i].query), "limit", text, &value, &err);
        CHECK(r == cases[i].get, "%s: %d", cases[i].query, r);
        CHECK(r != 0 || span_eq_str(value, cases[i].value), "%s: %.*s", cases[i].query, SPAN_ARG(value));
        if (r == E_INVALID) CHECK(strcmp(err.param, "limit") == 0, "%s blames %s", cases[i].query, err.param);
        r = query_check(span_str(cases[i].query), names, &err);
        CHECK(r == cases[i].check, "%s: check %d %s", cases[i].query, r, err.message);
    }
    static char large[QUERY_VALUE_MAX + 64];
    char text[QUERY_VALUE_MAX];
    struct span value;
    struct error err = {0};
    memcpy(large, "limit=", 6);
    memset(large + 6, 'a', QUERY_VALUE_MAX);
    assert_int_equal(query_get(span_str(large), "limit", text, &value, &err), E_INVALID);
    large[6 + QUERY_VALUE_MAX - 1] = 0;
    assert_int_equal(query_get(span_str(large), "limit", text, &value, &err), 0);
    assert_int_equal(value.len, QUERY_VALUE_MAX - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_paths), cmocka_unit_test(test_queries)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
