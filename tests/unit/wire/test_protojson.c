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
#include "wire/unpack.h"

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
    assert_string_equal(got, "{\"evaluations\":[],\"history\":[],\"aliases\":[],\"card\":\"\",\"moves\":[]}");
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

/* A key of a map that a peer sends again: the last one counts, and the object has each name once, also where keys are no UTF-8. */
static void keys_twice(void **state) {
    (void)state;
    static const struct {
        const ProtobufCMessageDescriptor *type;
        const char *bytes, *out;
    } cases[] = {
        {&genloop__v1__upload_header__descriptor, "\x22\x06\x0a\x01" "a\x12\x01" "1\x22\x06\x0a\x01" "b\x12\x01" "2\x22\x06\x0a\x01" "a\x12\x01" "3", "{\"metadata\":{\"b\":\"2\",\"a\":\"3\"}}"},
        {&genloop__v1__upload_header__descriptor, "\x22\x06\x0a\x01\xff\x12\x01" "1\x22\x06\x0a\x01\xfe\x12\x01" "2", "{\"metadata\":{\"\xef\xbf\xbd\":\"2\"}}"},
        {&genloop__v1__upload_header__descriptor, "\x22\x02\x0a\x00\x22\x05\x0a\x00\x12\x01" "1", "{\"metadata\":{\"\":\"1\"}}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out;
        struct json_out w;
        size_t len = strlen(cases[i].bytes);
        if (i == 2) len = 11; /* it holds zeros */
        buf_init(&out, 1000);
        json_begin(&w, &out);
        assert_int_equal(protojson_write_packed(&w, cases[i].type, span_of(cases[i].bytes, len), false, NULL), 0);
        assert_string_equal(buf_cstr(&out), cases[i].out);
        buf_fini(&out);
    }
}

/* Two bytes can ask for a hundred: a message that is nothing but such bytes is refused, one of the same size that says something is not. */
static void bombs(void **state) {
    (void)state;
    enum { BYTES = 8 << 20 };
    static const struct {
        const ProtobufCMessageDescriptor *type;
        const char *unit;
        size_t unit_len;
    } cases[] = {
        {&genloop__v1__generate_request__descriptor, "\x12\x00", 2},         /* messages */
        {&genloop__v1__model_detail__descriptor, "\x1a\x00", 2},            /* versions */
        {&genloop__v1__upload_header__descriptor, "\x22\x00", 2},           /* entries of a map */
    };
    char *bytes = mem_alloc(BYTES);
    assert_non_null(bytes);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {0};
        struct buf out;
        struct json_out w;
        size_t n = 0;
        for (; n + cases[i].unit_len <= BYTES; n += cases[i].unit_len) memcpy(bytes + n, cases[i].unit, cases[i].unit_len);
        buf_init(&out, 1000);
        json_begin(&w, &out);
        alloc_fail_at(0);
        if (message_unpack(cases[i].type, span_of(bytes, n))) fail_msg("bomb %zu was unpacked", i);
        assert_int_equal(protojson_write_packed(&w, cases[i].type, span_of(bytes, n), false, &err), E_INVALID);
        assert_non_null(strstr(err.message, cases[i].type->short_name));
        /* As many as a small message may have are no bomb. */
        ProtobufCMessage *m = message_unpack(cases[i].type, span_of(bytes, 200 * cases[i].unit_len));
        assert_non_null(m);
        message_free(m);
        buf_fini(&out);
    }
    /* A text, and token ids, of the same size: with tag and length before them. */
    memset(bytes, 'a', BYTES);
    memcpy(bytes, "\x0a\xfb\xff\xff\x03", 5);
    ProtobufCMessage *m = message_unpack(&genloop__v1__get_model_request__descriptor, span_of(bytes, BYTES));
    assert_non_null(m);
    assert_int_equal(strlen(((Genloop__V1__GetModelRequest *)m)->model), BYTES - 5);
    message_free(m);
    mem_free(bytes);
    message_free(NULL);
}

/* Protobuf has no field 0, however long its number is written: protobuf-c would read the longer ones, and write what it does not read. */
static void number_zero(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        bool good;
    } cases[] = {
        {"\x00\x01", 2, false}, {"\x80\x00\x01", 3, false}, {"\x80\x80\x80\x80\x00\x01", 6, false}, {"\x82\x00\x00", 3, false}, /* a number, a text */
        {"\xf8\xff\x00\x01", 4, true},                      /* 2047 so written */
        {"\x12\x03\x80\x00\x01", 5, false},                /* in a message of a list */
        {"\x12\x00\x12\x03\x80\x00\x01", 7, false},         /* in its second */
        {"\x12\x05\x22\x03\x80\x00\x01", 7, false},         /* in a call of such a message */
        {"\x12\x05\x22\x03\xf8\x00\x01", 7, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        alloc_fail_at(0);
        ProtobufCMessage *m = message_unpack(&genloop__v1__generate_request__descriptor, span_of(cases[i].bytes, cases[i].len));
        if (!m == cases[i].good) fail_msg("case %zu was %s", i, m ? "unpacked" : "refused");
        message_free(m);
    }
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trips), cmocka_unit_test(with_defaults), cmocka_unit_test(refused), cmocka_unit_test(packed_bytes), cmocka_unit_test(keys_twice), cmocka_unit_test(bombs), cmocka_unit_test(number_zero), cmocka_unit_test(base64), cmocka_unit_test(allocation_failures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
