/* Protobuf and JSON: round trips, what is refused and where, base64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "genloop/v1/bus.pb-c.h"
#include "genloop/v1/documents.pb-c.h"
#include "genloop/v1/generation.pb-c.h"
#include "genloop/v1/models.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "wire/protojson.h"

static char *again(const char *text, const ProtobufCMessageDescriptor *type, bool defaults, struct error *err) {
    struct json *root;
    ProtobufCMessage *m;
    struct buf out;
    struct json_out w;
    if (json_parse(span_str(text), &root, err) < 0) return NULL;
    int r = protojson_read(root, type, &m, err);
    json_free(root);
    if (r < 0) return NULL;
    buf_init(&out, 100000);
    json_begin(&w, &out);
    protojson_write(&w, m, defaults);
    protojson_free(m);
    char *result = buf_detach(&out, NULL);
    return result;
}

static void round_trips(void **state) {
    (void)state;
    static const struct {
        const ProtobufCMessageDescriptor *type;
        const char *in, *out; /* out NULL: the same */
    } cases[] = {
        {&genloop__v1__get_model_request__descriptor, "{}", NULL},
        {&genloop__v1__get_model_request__descriptor, "{\"model\":null}", "{}"},
        {&genloop__v1__get_model_request__descriptor, "{\"model\":\"m\\u00e9\\\"\"}", "{\"model\":\"m\xc3\xa9\\\"\"}"},
        {&genloop__v1__generate_request__descriptor,
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\"}],\"prompt_tokens\":[1,2,4294967295],\"max_tokens\":0,\"temperature\":0.5,\"seed\":\"18446744073709551615\","
         "\"stop\":[\"a\",\"b\"],\"logit_bias\":{\"5\":-100,\"7\":0.25},\"logprobs\":true,\"priority\":-3}",
         "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\"}],\"prompt_tokens\":[1,2,4294967295],\"max_tokens\":0,\"temperature\":0.5,\"seed\":18446744073709551615,"
         "\"stop\":[\"a\",\"b\"],\"logit_bias\":{\"5\":-100,\"7\":0.25},\"logprobs\":true,\"priority\":-3}"},
        {&genloop__v1__document__descriptor, "{\"id\":\"x\",\"state\":\"DOCUMENT_STATE_ACCEPTED\",\"event_time_ms\":\"-5\",\"metadata\":{\"k\":\"v\",\"\":\"empty\"},\"raw\":{\"sha256\":\"ab\"}}",
         "{\"id\":\"x\",\"state\":\"DOCUMENT_STATE_ACCEPTED\",\"event_time_ms\":-5,\"raw\":{\"sha256\":\"ab\"},\"metadata\":{\"k\":\"v\",\"\":\"empty\"}}"},
        {&genloop__v1__document__descriptor, "{\"state\":2}", "{\"state\":\"DOCUMENT_STATE_ACCEPTED\"}"},
        {&genloop__v1__audit_head__descriptor, "{\"root_hash\":\"AAECAw==\",\"tree_size\":3.0}", "{\"tree_size\":3,\"root_hash\":\"AAECAw==\"}"},
        {&genloop__v1__replica_load__descriptor, "{\"tokens_per_second\":\"NaN\",\"prefix_digests\":[\"\",\"/w==\"]}", NULL},
        {&genloop__v1__status__descriptor, "{\"code\":3,\"error\":-20}", NULL},
        {&genloop__v1__embedding__descriptor, "{\"values\":[0.100000001,-1,\"Infinity\"]}", NULL},
        {&genloop__v1__upload_request__descriptor, "{\"header\":{\"dataset\":\"d\"}}", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        char *got = again(cases[i].in, cases[i].type, false, &err);
        if (!got) fail_msg("%s: %s", cases[i].in, err.message);
        assert_string_equal(got, cases[i].out ? cases[i].out : cases[i].in);
        mem_free(got);
    }
}

static void with_defaults(void **state) {
    (void)state;
    char *got = again("{}", &genloop__v1__upload_reply__descriptor, true, NULL);
    assert_string_equal(got, "{\"document_id\":\"\",\"sha256\":\"\",\"size_bytes\":0,\"existed\":false}");
    mem_free(got);
    got = again("{}", &genloop__v1__page_request__descriptor, true, NULL);
    assert_string_equal(got, "{\"limit\":0,\"page_token\":\"\"}");
    mem_free(got);
    got = again("{}", &genloop__v1__model_detail__descriptor, true, NULL);
    assert_string_equal(got, "{\"evaluations\":[],\"history\":[],\"aliases\":[]}");
    mem_free(got);
}

static void refused(void **state) {
    (void)state;
    static const struct {
        const ProtobufCMessageDescriptor *type;
        const char *in, *param;
    } cases[] = {
        {&genloop__v1__get_model_request__descriptor, "[]", ""},
        {&genloop__v1__get_model_request__descriptor, "{\"modle\":\"x\"}", "modle"},
        {&genloop__v1__get_model_request__descriptor, "{\"model\":5}", "model"},
        {&genloop__v1__get_model_request__descriptor, "{\"model\":\"a\\u0000b\"}", "model"},
        {&genloop__v1__generate_request__descriptor, "{\"messages\":{}}", "messages"},
        {&genloop__v1__generate_request__descriptor, "{\"messages\":[{},{\"content\":7}]}", "messages.1.content"},
        {&genloop__v1__generate_request__descriptor, "{\"messages\":[null]}", "messages.0"},
        {&genloop__v1__generate_request__descriptor, "{\"max_tokens\":-1}", "max_tokens"},
        {&genloop__v1__generate_request__descriptor, "{\"max_tokens\":4294967296}", "max_tokens"},
        {&genloop__v1__generate_request__descriptor, "{\"max_tokens\":1.5}", "max_tokens"},
        {&genloop__v1__generate_request__descriptor, "{\"max_tokens\":\"many\"}", "max_tokens"},
        {&genloop__v1__generate_request__descriptor, "{\"seed\":-1}", "seed"},
        {&genloop__v1__generate_request__descriptor, "{\"seed\":1e300}", "seed"},
        {&genloop__v1__generate_request__descriptor, "{\"logit_bias\":{\"x\":1}}", "logit_bias.x"},
        {&genloop__v1__generate_request__descriptor, "{\"logit_bias\":{\"1\":1e39}}", "logit_bias.1.value"},
        {&genloop__v1__generate_request__descriptor, "{\"logit_bias\":[1]}", "logit_bias"},
        {&genloop__v1__generate_request__descriptor, "{\"logprobs\":1}", "logprobs"},
        {&genloop__v1__generate_request__descriptor, "{\"temperature\":true}", "temperature"},
        {&genloop__v1__document__descriptor, "{\"state\":\"NO\"}", "state"},
        {&genloop__v1__document__descriptor, "{\"state\":77}", "state"},
        {&genloop__v1__document__descriptor, "{\"metadata\":{\"k\":null}}", "metadata.k"},
        {&genloop__v1__audit_head__descriptor, "{\"root_hash\":\"A\"}", "root_hash"},
        {&genloop__v1__audit_head__descriptor, "{\"root_hash\":\"A?==\"}", "root_hash"},
        {&genloop__v1__upload_request__descriptor, "{\"header\":{},\"data\":\"\"}", "data"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        char *got = again(cases[i].in, cases[i].type, false, &err);
        if (got) fail_msg("%s was accepted as %s", cases[i].in, got);
        if (strcmp(err.param, cases[i].param) != 0 && strncmp(err.param, cases[i].param, strlen(err.param)) != 0) fail_msg("%s: param is \"%s\": %s", cases[i].in, err.param, err.message);
        assert_int_equal(err.code, E_INVALID);
    }
}

static void packed_bytes(void **state) {
    (void)state;
    struct buf out;
    struct json_out w;
    struct error err = {0};
    buf_init(&out, 1000);
    json_begin(&w, &out);
    assert_int_equal(protojson_write_packed(&w, &genloop__v1__get_model_request__descriptor, SPAN("\x0a\x01m"), false, &err), 0);
    assert_true(span_eq_str(buf_span(&out), "{\"model\":\"m\"}"));
    assert_int_equal(protojson_write_packed(&w, &genloop__v1__get_model_request__descriptor, SPAN("\x0a\x05m"), false, &err), E_INVALID);
    buf_fini(&out);
}

static void base64(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foobar", "Zm9vYmFy"}, {"\xfb\xff", "+/8="}}; /* RFC 4648, 10 */
    static const char *const bad[] = {"Z", "Zg=", "Zg===", "Z g=", "=", "====", "Zm9v="};
    struct buf out;
    buf_init(&out, 100);
    for (size_t i = 0; i < 6; i++) {
        buf_clear(&out);
        assert_int_equal(base64_encode(&out, span_str(pairs[i][0])), 0);
        assert_true(span_eq_str(buf_span(&out), pairs[i][1]));
        buf_clear(&out);
        assert_int_equal(base64_decode(&out, span_str(pairs[i][1])), 0);
        assert_true(span_eq_str(buf_span(&out), pairs[i][0]));
    }
    buf_clear(&out);
    assert_int_equal(base64_decode(&out, SPAN("-_8")), 0);
    assert_true(span_eq_str(buf_span(&out), "\xfb\xff"));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        buf_clear(&out);
        if (base64_decode(&out, span_str(bad[i])) != E_INVALID) fail_msg("\"%s\" was accepted", bad[i]);
    }
    buf_fini(&out);
}

static void allocation_failures(void **state) {
    (void)state;
    struct json *root;
    assert_int_equal(json_parse(SPAN("{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"stop\":[\"a\"],\"logit_bias\":{\"1\":2}}"), &root, NULL), 0);
    for (uint64_t n = 1; n < 100; n++) {
        ProtobufCMessage *m;
        alloc_fail_at(n);
        int r = protojson_read(root, &genloop__v1__generate_request__descriptor, &m, NULL);
        alloc_fail_at(0);
        if (r == 0) {
            protojson_free(m);
            json_free(root);
            return;
        }
    }
    fail_msg("never enough memory");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trips), cmocka_unit_test(with_defaults), cmocka_unit_test(refused), cmocka_unit_test(packed_bytes), cmocka_unit_test(base64), cmocka_unit_test(allocation_failures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
