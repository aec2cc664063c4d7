/* Packed protobuf walked over without its type, and its strings held to what proto3 says. */
#include "tests/unit/support/check.h"

#include "genloop/v1/generation.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "wire/fields.h"
#include "wire/texts.h"

static void test_fields(void **state) {
    (void)state;
    struct buf out;
    struct wire_field f;
    buf_init(&out, 1024);
    wire_put_uint(&out, 1, 300);
    wire_put_bytes(&out, 2, SPAN("abc"));
    wire_put_uint(&out, 536870911, UINT64_MAX); /* the largest number that there is */
    (void)buf_append(&out, "\x19" "12345678" "\x25" "abcd", 14);
    struct span rest = buf_span(&out);
    assert_int_equal(wire_next(&rest, &f), 1);
    assert_true(f.number == 1 && f.type == WIRE_VARINT && f.value == 300 && f.whole.len == 3);
    assert_int_equal(wire_next(&rest, &f), 1);
    assert_true(f.number == 2 && f.type == WIRE_BYTES && span_eq_str(f.bytes, "abc") && f.whole.len == 5);
    assert_int_equal(wire_next(&rest, &f), 1);
    assert_true(f.number == 536870911 && f.value == UINT64_MAX);
    assert_int_equal(wire_next(&rest, &f), 1);
    assert_true(f.number == 3 && f.type == WIRE_64 && span_eq_str(f.bytes, "12345678"));
    assert_int_equal(wire_next(&rest, &f), 1);
    assert_true(f.number == 4 && f.type == WIRE_32 && span_eq_str(f.bytes, "abcd"));
    assert_int_equal(wire_next(&rest, &f), 0);
    buf_fini(&out);
}

static void test_broken_fields(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct span bytes;
    } cases[] = {
        {"a tag that does not end", SPAN("\x80")},
        {"number 0", SPAN("\x00\x01")},
        {"a value that is missing", SPAN("\x08")},
        {"a value of eleven bytes", SPAN("\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")},
        {"a value beyond 64 bits", SPAN("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02")},
        {"a length beyond the end", SPAN("\x12\x02" "a")},
        {"a huge length", SPAN("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")},
        {"seven bytes of eight", SPAN("\x19" "1234567")},
        {"three of four", SPAN("\x1d" "123")},
        {"a group", SPAN("\x0b\x0c")},
        {"wire type 6", SPAN("\x0e")},
        {"a number beyond 29 bits", SPAN("\x88\x80\x80\x80\x10\x01")},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct wire_field f;
        struct span rest = cases[i].bytes;
        CHECK(wire_next(&rest, &f) == E_INVALID && rest.len == cases[i].bytes.len, "%s", cases[i].name);
    }
}

#define PACK(name, m, out) buf_commit(out, genloop__v1__##name##__pack(m, (uint8_t *)buf_reserve(out, 4096)))

static void test_texts(void **state) {
    (void)state;
    Genloop__V1__GenerateRequest m = GENLOOP__V1__GENERATE_REQUEST__INIT;
    Genloop__V1__ChatMessage turn = GENLOOP__V1__CHAT_MESSAGE__INIT, *turns[] = {&turn};
    struct buf packed, scratch, inner;
    struct span out;
    struct error err = {0};
    buf_init(&packed, 65536);
    buf_init(&scratch, 65536);
    buf_init(&inner, 4096);
    m.model = (char *)"m";
    m.messages = turns;
    m.n_messages = 1;
    turn.role = (char *)"user";
    turn.content = (char *)"\xe6\x97\xa5";
    PACK(generate_request, &m, &packed);
    assert_int_equal(message_texts(m.base.descriptor, buf_span(&packed), &scratch, &out, &err), 0);
    assert_ptr_equal(out.data, buf_span(&packed).data); /* nothing to change: nothing is copied */

    /* U+0000 in a string, a nested one and an entry of a map that is none; other fields stay to the byte. */
    buf_clear(&packed);
    wire_put_bytes(&packed, 1, SPAN("m\0x"));
    wire_put_uint(&packed, 8, 40);
    wire_put_bytes(&inner, 1, SPAN("user"));
    wire_put_bytes(&inner, 2, SPAN("\0a\0"));
    wire_put_bytes(&packed, 2, buf_span(&inner));
    wire_put_bytes(&packed, 999, SPAN("\xff\0"));
    assert_int_equal(message_texts(m.base.descriptor, buf_span(&packed), &scratch, &out, &err), 0);
    Genloop__V1__GenerateRequest *read = genloop__v1__generate_request__unpack(NULL, out.len, (const uint8_t *)out.data);
    assert_non_null(read);
    assert_string_equal(read->model, "m\xef\xbf\xbdx");
    assert_string_equal(read->messages[0]->content, "\xef\xbf\xbd" "a\xef\xbf\xbd");
    assert_true(read->top_k == 40 && read->base.n_unknown_fields == 1 && read->base.unknown_fields[0].len == 3);
    genloop__v1__generate_request__free_unpacked(read, NULL);

    /* bytes may be anything */
    buf_clear(&packed);
    wire_put_bytes(&packed, 2, SPAN("\xff\0\xfe"));
    assert_int_equal(message_texts(&genloop__v1__upload_request__descriptor, buf_span(&packed), &scratch, &out, &err), 0);

    buf_clear(&packed);
    buf_clear(&inner);
    wire_put_bytes(&inner, 2, SPAN("\xc3"));
    wire_put_bytes(&packed, 2, buf_span(&inner));
    assert_int_equal(message_texts(m.base.descriptor, buf_span(&packed), &scratch, &out, &err), E_INVALID);
    assert_string_equal(err.param, "content");

    buf_clear(&packed);
    err = (struct error){0};
    wire_put_bytes(&packed, 2, SPAN("\xff\xff")); /* a message that is none */
    assert_int_equal(message_texts(m.base.descriptor, buf_span(&packed), &scratch, &out, &err), E_INVALID);
    assert_string_equal(err.param, "");

    struct buf small;
    buf_init(&small, 8);
    buf_clear(&packed);
    wire_put_bytes(&packed, 1, SPAN("\0\0\0"));
    assert_int_equal(message_texts(m.base.descriptor, buf_span(&packed), &small, &out, &err), E_TOO_LARGE);
    buf_fini(&small);
    buf_fini(&packed);
    buf_fini(&scratch);
    buf_fini(&inner);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fields), cmocka_unit_test(test_broken_fields), cmocka_unit_test(test_texts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
