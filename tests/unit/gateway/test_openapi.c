/* The description of the API: every row of a table is in it, each path once, with what its kind of row says; and every schema that is named is there. */
#include "tests/unit/support/check.h"

#include "genloop/v1/services.pb-c.h"
#include "services/gateway/openapi.h"

static const char *const query_fields[] = {"split", "limit", NULL};
static const struct relay LIST = {"ingest", "Ingest/ListRows", &genloop__v1__list_rows_request__descriptor, &genloop__v1__list_rows_reply__descriptor, .path_field = "name", .query = query_fields};
static const struct relay WATCH = {"ingest", "Ingest/Watch", &genloop__v1__watch_dataset_request__descriptor, &genloop__v1__dataset_progress__descriptor, .path_field = "dataset", .stream = RELAY_EVENTS};
static const struct relay APPROVE = {"feedback", "Models/Transition", &genloop__v1__transition_request__descriptor, &genloop__v1__model_version__descriptor, .path_field = "model",
                                     .fixed_field = "transition"};

static const struct relay *relay_of(const struct route *r) { return strcmp(r->pattern, "/v1/messages") == 0 ? NULL : r->relay; }
static const struct request_shape *unbuilt_of(const struct route *r) { return strcmp(r->pattern, "/v1/messages") == 0 ? r->relay : NULL; }

enum { OWN = 4, ROUTES_MAX = 64 };

/* Rows of every kind, and one for each door that is described. */
static size_t make_routes(struct route routes[ROUTES_MAX]) {
    const struct route own[OWN] = {
        {"GET", "/v1/rows/{name}", SCOPE_OPERATOR, BODY_NONE, NULL, "Rows.", &LIST},
        {"GET", "/v1/rows/{name}/watch", SCOPE_OPERATOR, BODY_NONE, NULL, "Watch.", &WATCH},
        {"POST", "/v1/rows/{name}", SCOPE_APPROVER, BODY_JSON, NULL, "Approve.", &APPROVE},
        {"POST", "/v1/messages", SCOPE_CLIENT, BODY_JSON, NULL, "Not built yet.", &SHAPE_MESSAGES},
    };
    size_t n = 0;
    for (; n < OWN; n++) routes[n] = own[n];
    for (size_t i = 0; i < OPENAPI_DOORS_COUNT; i++)
        routes[n++] = (struct route){OPENAPI_DOORS[i].method, OPENAPI_DOORS[i].pattern, SCOPE_CLIENT, OPENAPI_DOORS[i].request ? BODY_JSON : BODY_NONE, NULL, "A door.", NULL};
    assert_true(n <= ROUTES_MAX);
    return n;
}

/* Every $ref leads somewhere. */
static void check_refs(const struct json *v, const struct json *root, int depth) {
    void *iterator = NULL;
    struct span key;
    const struct json *value;
    assert_true(depth < 64);
    while (json_next(v, &iterator, &key, &value)) {
        if (span_eq(key, SPAN("$ref"))) {
            struct span path = json_string(value), segment;
            const struct json *at = root;
            assert_true(span_starts(path, SPAN("#/")));
            path = span_skip(path, 2);
            while (span_cut(&path, '/', &segment)) at = json_get_span(at, segment);
            CHECK(at, "%.*s leads nowhere", SPAN_ARG(json_string(value)));
        }
        check_refs(value, root, depth + 1);
    }
    for (size_t i = 0; json_type(v) == JSON_TYPE_ARRAY && i < json_size(v); i++) check_refs(json_at(v, i), root, depth + 1);
}

static const struct json *get(const struct json *v, const char *a, const char *b, const char *c) { return json_get(json_get(json_get(v, a), b), c); }

static void test_document(void **state) {
    (void)state;
    struct route routes[ROUTES_MAX];
    struct openapi_source source = {routes, make_routes(routes), relay_of, unbuilt_of};
    struct error err = {0};
    struct json *root = NULL;
    struct buf out;
    buf_init(&out, OPENAPI_MAX);
    if (openapi_write(&source, "1.2.3", &out, &err) < 0) fail_msg("%s", err.message);
    if (json_parse(buf_span(&out), &root, &err) < 0) fail_msg("%s", err.message); /* it refuses a key that stands twice */
    check_refs(root, root, 0);
    for (size_t i = 0; i < source.n_routes; i++) {
        char method[16] = "";
        for (size_t k = 0; routes[i].method[k]; k++) method[k] = (char)(routes[i].method[k] | 32);
        CHECK(json_get(get(root, "paths", routes[i].pattern, method), "responses"), "%s %s is not described", routes[i].method, routes[i].pattern);
    }
    const struct json *rows = json_get(json_get(root, "paths"), "/v1/rows/{name}");
    assert_int_equal(json_size(rows), 2);
    const struct json *fields = json_get(json_get(json_get(get(json_get(rows, "post"), "requestBody", "content", "application/json"), "schema"), "properties"), "reason");
    assert_true(span_eq(json_string(json_get(fields, "type")), SPAN("string")));
    assert_null(json_get(json_get(json_get(get(json_get(rows, "post"), "requestBody", "content", "application/json"), "schema"), "properties"), "transition")); /* the path says it */
    assert_non_null(json_get(get(json_get(get(root, "paths", "/v1/rows/{name}/watch", "get"), "responses"), "200", "content", "text/event-stream"), "schema"));
    json_free(root);
    buf_fini(&out);
}

static void test_stale_door(void **state) {
    (void)state;
    struct route routes[ROUTES_MAX];
    struct openapi_source source = {routes, make_routes(routes) - 1, relay_of, unbuilt_of};
    struct error err = {0};
    struct buf out;
    buf_init(&out, OPENAPI_MAX);
    assert_int_equal(openapi_write(&source, "1.2.3", &out, &err), E_INVALID);
    buf_fini(&out);
    buf_init(&out, 512);
    source.n_routes++;
    assert_int_equal(openapi_write(&source, "1.2.3", &out, &err), E_FULL);
    buf_fini(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_document), cmocka_unit_test(test_stale_door)};
    return cmocka_run_group_tests_name("openapi", tests, NULL, NULL);
}
