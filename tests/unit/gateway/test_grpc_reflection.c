/* Reflection over the descriptors that are built in, and the table of methods held to them: every method of proto/ has its row, with its messages and its kind of streams. */
#include "tests/unit/support/check.h"

#include "descriptors.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "services/gateway/grpc.h"
#include "services/gateway/grpc_reflection.h"
#include "services/gateway/routes.h"
#include "wire/fields.h"

/* The table names its handlers; here nobody calls them. */
#define HANDLER(name) \
    void name(struct exchange *x, const struct json *body) { (void)x, (void)body; }
HANDLER(grpc_relay)
HANDLER(grpc_uplink)
HANDLER(grpc_not_built)
HANDLER(generation_call)
HANDLER(embed_call)
HANDLER(rerank_call)
HANDLER(health_check)
HANDLER(health_watch)
HANDLER(reflection_info)
HANDLER(operations_replicas)
HANDLER(operations_scale)
HANDLER(operations_drain)
HANDLER(grpc_handle)

static struct span set(void) { return span_of(genloop_descriptors, genloop_descriptors_size); }

static const struct grpc_method *row_of(struct span service, struct span name) {
    char path[256];
    (void)snprintf(path, sizeof path, "/%.*s/%.*s", SPAN_ARG(service), SPAN_ARG(name));
    for (size_t i = 0; i < GRPC_METHODS_COUNT; i++)
        if (strcmp(GRPC_METHODS[i].route.pattern, path) == 0) return &GRPC_METHODS[i];
    return NULL;
}

/* v1alpha's messages are v1's. */
static bool same_type(struct span name, const ProtobufCMessageDescriptor *type) {
    char text[256];
    span_copy(text, sizeof text, name);
    char *alpha = strstr(text, ".v1alpha.");
    if (alpha) memmove(alpha + 3, alpha + 8, strlen(alpha + 8) + 1);
    return strcmp(text + 1, type->name) == 0;
}

static void test_methods(void **state) {
    (void)state;
    struct reflection *r = reflection_new(set());
    struct reflection_method m;
    size_t n = 0;
    assert_non_null(r);
    for (; reflection_method_at(r, n, &m); n++) {
        const struct grpc_method *row = row_of(m.service, m.name);
        CHECK(row, "%.*s/%.*s has no row in grpc_methods.c", SPAN_ARG(m.service), SPAN_ARG(m.name));
        CHECK(row->client_stream == m.client_stream && row->server_stream == m.server_stream, "%s: its streams", row->route.pattern);
        CHECK(same_type(m.input, row->relay.request) && same_type(m.output, row->relay.reply), "%s: its messages", row->route.pattern);
        CHECK(!row->relay.method || strcmp(row->relay.method, row->route.pattern + strlen("/genloop.v1.")) == 0, "%s: whom it asks", row->route.pattern);
    }
    assert_int_equal(n, GRPC_METHODS_COUNT);
    assert_true(reflection_has_service(r, SPAN("genloop.v1.Generation")) && reflection_has_service(r, SPAN("grpc.health.v1.Health")));
    assert_false(reflection_has_service(r, SPAN("genloop.v1.Generatio")) || reflection_has_service(r, SPAN("genloop.v1.GenerateRequest")) || reflection_has_service(r, SPAN("")));
    reflection_free(r);
}

static Grpc__Reflection__V1__ServerReflectionResponse *ask(const struct reflection *r, Grpc__Reflection__V1__ServerReflectionRequest *q) {
    uint8_t packed[1024];
    struct buf out;
    struct error err = {0};
    buf_init(&out, 1 << 20);
    CHECK(reflection_answer(r, span_of(packed, grpc__reflection__v1__server_reflection_request__pack(q, packed)), &out, &err) == 0, "%s", err.message);
    Grpc__Reflection__V1__ServerReflectionResponse *m = grpc__reflection__v1__server_reflection_response__unpack(NULL, out.len, (const uint8_t *)buf_span(&out).data);
    assert_non_null(m);
    buf_fini(&out);
    return m;
}

static struct span name_of(ProtobufCBinaryData file) {
    struct wire_field f;
    struct span rest = span_of(file.data, file.len);
    return wire_next(&rest, &f) == 1 && f.number == 1 ? f.bytes : SPAN("");
}

static void test_answers(void **state) {
    (void)state;
#define CASE(NAME) GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##NAME
#define ANSWER(NAME) GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##NAME
    static const struct {
        int what;
        const char *text, *file; /* file: of the answer; NULL: NOT_FOUND */
        size_t files;            /* with what it imports */
    } cases[] = {
        {CASE(FILE_CONTAINING_SYMBOL), "genloop.v1.Generation", "genloop/v1/generation.proto", 1},
        {CASE(FILE_CONTAINING_SYMBOL), "genloop.v1.Generation.Generate", "genloop/v1/generation.proto", 1},
        {CASE(FILE_CONTAINING_SYMBOL), "genloop.v1.GenerateRequest.temperature", "genloop/v1/generation.proto", 1},
        {CASE(FILE_CONTAINING_SYMBOL), "genloop.v1.GenerateRequest.temperature_set", "genloop/v1/generation.proto", 1},
        {CASE(FILE_CONTAINING_SYMBOL), "genloop.v1.GenerateRequest.LogitBiasEntry", "genloop/v1/generation.proto", 1},
        {CASE(FILE_CONTAINING_SYMBOL), "genloop.v1.MODEL_STATE_CANARY", "genloop/v1/models.proto", 2},
        {CASE(FILE_CONTAINING_SYMBOL), "grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto", 1},
        {CASE(FILE_CONTAINING_SYMBOL), "grpc.health.v1.HealthCheckResponse.SERVING", "grpc/health/v1/health.proto", 1},
        {CASE(FILE_CONTAINING_SYMBOL), "grpc.reflection.v1alpha.ServerReflection", "grpc/reflection/v1alpha/reflection.proto", 1},
        {CASE(FILE_CONTAINING_SYMBOL), "google.rpc.BadRequest.FieldViolation", "google/rpc/error_details.proto", 1},
        {CASE(FILE_BY_FILENAME), "genloop/v1/models.proto", "genloop/v1/models.proto", 2},
        {CASE(FILE_CONTAINING_SYMBOL), "genloop.v1", NULL, 0},
        {CASE(FILE_CONTAINING_SYMBOL), "no.Such", NULL, 0},
        {CASE(FILE_CONTAINING_SYMBOL), "", NULL, 0},
        {CASE(FILE_BY_FILENAME), "none.proto", NULL, 0},
    };
    struct reflection *r = reflection_new(set());
    assert_non_null(r);
    for (size_t i = 0; i < COUNT(cases); i++) {
        Grpc__Reflection__V1__ServerReflectionRequest q = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
        q.host = (char *)"h";
        q.message_request_case = cases[i].what;
        q.file_by_filename = (char *)(uintptr_t)cases[i].text; /* of the union */
        Grpc__Reflection__V1__ServerReflectionResponse *m = ask(r, &q);
        CHECK(strcmp(m->valid_host, "h") == 0 && m->original_request && (int)m->original_request->message_request_case == cases[i].what, "%s: what was asked", cases[i].text);
        if (cases[i].file) {
            CHECK(m->message_response_case == ANSWER(FILE_DESCRIPTOR_RESPONSE), "%s: %d", cases[i].text, m->message_response_case);
            CHECK(m->file_descriptor_response->n_file_descriptor_proto == cases[i].files, "%s: %zu files", cases[i].text, m->file_descriptor_response->n_file_descriptor_proto);
            CHECK(span_eq_str(name_of(m->file_descriptor_response->file_descriptor_proto[0]), cases[i].file), "%s: its file", cases[i].text);
        } else {
            CHECK(m->message_response_case == ANSWER(ERROR_RESPONSE) && m->error_response->error_code == 5, "%s: %d", cases[i].text, m->message_response_case);
        }
        grpc__reflection__v1__server_reflection_response__free_unpacked(m, NULL);
    }
    Grpc__Reflection__V1__ServerReflectionRequest q = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    q.message_request_case = CASE(LIST_SERVICES);
    q.list_services = (char *)"";
    Grpc__Reflection__V1__ServerReflectionResponse *m = ask(r, &q);
    assert_int_equal(m->message_response_case, ANSWER(LIST_SERVICES_RESPONSE));
    bool generation = false;
    for (size_t i = 0; i < m->list_services_response->n_service; i++) generation |= strcmp(m->list_services_response->service[i]->name, "genloop.v1.Generation") == 0;
    assert_true(generation);
    grpc__reflection__v1__server_reflection_response__free_unpacked(m, NULL);
    q.message_request_case = CASE(ALL_EXTENSION_NUMBERS_OF_TYPE);
    q.all_extension_numbers_of_type = (char *)"genloop.v1.GenerateRequest";
    m = ask(r, &q);
    assert_int_equal(m->message_response_case, ANSWER(ALL_EXTENSION_NUMBERS_RESPONSE));
    assert_int_equal(m->all_extension_numbers_response->n_extension_number, 0);
    grpc__reflection__v1__server_reflection_response__free_unpacked(m, NULL);
    struct buf out;
    struct error err = {0};
    buf_init(&out, 4096);
    assert_int_equal(reflection_answer(r, SPAN(""), &out, &err), E_INVALID);
    assert_int_equal(reflection_answer(r, SPAN("\xff\xff"), &out, &err), E_INVALID);
    assert_int_equal(reflection_answer(r, SPAN("\x80\x00\xb2\x02\x2a\x00"), &out, &err), E_INVALID); /* field 0: its answer, which repeats it, could not be read */
    buf_fini(&out);
    reflection_free(r);
}

static void test_broken_set(void **state) {
    (void)state;
    struct span whole = set();
    for (size_t n = 1; n < whole.len && n < 4000; n++) reflection_free(reflection_new(span_sub(whole, 0, n))); /* NULL or not: read within its bounds */
    assert_null(reflection_new(SPAN("\x0a\x05" "abc")));
}

static int attempt(void *arg) {
    struct reflection *r = reflection_new(set());
    (void)arg;
    if (!r) return E_NOMEM;
    reflection_free(r);
    return 0;
}
static void test_without_memory(void **state) {
    (void)state;
    sweep("reflection", attempt, NULL, E_NOMEM);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_methods), cmocka_unit_test(test_answers), cmocka_unit_test(test_broken_set), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
