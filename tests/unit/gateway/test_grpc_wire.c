/* gRPC's bytes: messages in pieces and compressed, timeouts, statuses with their details. */
#include "tests/unit/support/check.h"

#include <zlib.h>

#include "services/gateway/grpc_wire.h"
#include "wire/fields.h"
#include "wire/protojson.h"

static void gzip(struct span in, struct buf *out) {
    z_stream z = {.next_in = (unsigned char *)(uintptr_t)in.data, .avail_in = (unsigned)in.len};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    size_t room = deflateBound(&z, in.len);
    z.next_out = (unsigned char *)buf_reserve(out, room);
    z.avail_out = (unsigned)room;
    assert_non_null(z.next_out);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    buf_commit(out, z.total_out);
    deflateEnd(&z);
}

static void put(struct buf *out, int flag, struct span body) {
    char prefix[] = {(char)flag, (char)(body.len >> 24), (char)(body.len >> 16), (char)(body.len >> 8), (char)body.len};
    (void)buf_append(out, prefix, sizeof prefix);
    (void)buf_append_span(out, body);
}

static void test_content_types(void **state) {
    (void)state;
    static const struct {
        const char *type;
        int want;
    } cases[] = {
        {"application/grpc", 1}, {"application/grpc+proto", 1}, {"Application/GRPC", 1}, {"application/grpc; charset=utf-8", 1}, {"application/grpc+json", E_UNSUPPORTED},
        {"application/grpc+thrift", E_UNSUPPORTED}, {"application/grpc-web", 0}, {"application/grpc-web+proto", 0}, {"application/json", 0}, {"application/grp", 0}, {"", 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) CHECK(grpc_content_type(span_str(cases[i].type)) == cases[i].want, "%s", cases[i].type);
    assert_int_equal(grpc_content_type((struct span){0}), 0);
    assert_int_equal(grpc_encoding_of((struct span){0}), GRPC_IDENTITY);
    assert_int_equal(grpc_encoding_of(SPAN("identity")), GRPC_IDENTITY);
    assert_int_equal(grpc_encoding_of(SPAN("gzip")), GRPC_GZIP);
    assert_int_equal(grpc_encoding_of(SPAN("br")), GRPC_OTHER);
}

/* Whatever the pieces, the messages are the same. */
static void test_messages(void **state) {
    (void)state;
    struct buf body, packed;
    buf_init(&body, 1 << 20);
    buf_init(&packed, 1 << 20);
    gzip(SPAN("compressed"), &packed);
    put(&body, 0, SPAN("one"));
    put(&body, 0, SPAN(""));
    put(&body, 1, buf_span(&packed));
    put(&body, 0, SPAN("last"));
    static const char *const wanted[] = {"one", "", "compressed", "last"};
    for (size_t step = 1; step <= body.len; step++) {
        struct grpc_reader r;
        struct error err = {0};
        struct span message;
        size_t n = 0;
        grpc_reader_init(&r, GRPC_GZIP);
        for (size_t at = 0; at < body.len; at += step) {
            assert_int_equal(grpc_reader_feed(&r, span_sub(buf_span(&body), at, step)), 0);
            int code;
            while ((code = grpc_reader_next(&r, &message, &err)) == 1) {
                CHECK(n < 4 && span_eq_str(message, wanted[n]), "message %zu in steps of %zu", n, step);
                n++;
            }
            CHECK(code == 0, "%s", err.message);
        }
        CHECK(n == 4 && grpc_reader_end(&r, &err) == 0, "%zu messages in steps of %zu", n, step);
        grpc_reader_fini(&r);
    }
    buf_fini(&body);
    buf_fini(&packed);
}

static int read_one(enum grpc_encoding encoding, struct span body, struct error *err) {
    struct grpc_reader r;
    struct span message;
    grpc_reader_init(&r, encoding);
    int code = grpc_reader_feed(&r, body);
    if (code == 0) code = grpc_reader_next(&r, &message, err);
    if (code == 0) code = grpc_reader_end(&r, err);
    grpc_reader_fini(&r);
    return code;
}

static void test_broken_messages(void **state) {
    (void)state;
    struct buf zeros, bomb, framed, cut, behind;
    struct error err;
    buf_init(&zeros, 16 << 20);
    buf_init(&bomb, 16 << 20);
    buf_init(&framed, 1 << 20);
    buf_init(&cut, 1 << 20);
    buf_init(&behind, 1 << 20);
    memset(buf_reserve(&zeros, GRPC_MESSAGE_MAX + 1), 0, GRPC_MESSAGE_MAX + 1);
    buf_commit(&zeros, GRPC_MESSAGE_MAX + 1);
    gzip(buf_span(&zeros), &bomb); /* 8 MiB and one byte out of 8 KiB */
    put(&framed, 1, buf_span(&bomb));
    put(&cut, 1, span_sub(buf_span(&bomb), 0, bomb.len / 2));
    (void)buf_append_str(&bomb, "more");
    struct buf small;
    buf_init(&small, 4096);
    gzip(SPAN("x"), &small);
    (void)buf_append_str(&small, "more");
    put(&behind, 1, buf_span(&small));
    const struct {
        const char *name;
        enum grpc_encoding encoding;
        struct span body;
        int code;
    } cases[] = {
        {"a flag that there is not", GRPC_IDENTITY, SPAN("\x02\0\0\0\0"), E_INTERNAL},
        {"compressed without an encoding", GRPC_IDENTITY, SPAN("\x01\0\0\0\0"), E_INTERNAL},
        {"an encoding that is not taken", GRPC_OTHER, SPAN("\x01\0\0\0\0"), E_UNSUPPORTED},
        {"an encoding that is not taken and not used", GRPC_OTHER, SPAN("\0\0\0\0\0"), 1},
        {"too large by its prefix alone", GRPC_IDENTITY, SPAN("\0\0\x80\0\x01"), E_TOO_LARGE},
        {"4 GiB", GRPC_IDENTITY, SPAN("\0\xff\xff\xff\xff"), E_TOO_LARGE},
        {"the end inside of a prefix", GRPC_IDENTITY, SPAN("\0\0"), E_INTERNAL},
        {"the end inside of a message", GRPC_IDENTITY, SPAN("\0\0\0\0\x05" "abc"), E_INTERNAL},
        {"no gzip", GRPC_GZIP, SPAN("\x01\0\0\0\x03" "abc"), E_INTERNAL},
        {"gzip of nothing", GRPC_GZIP, SPAN("\x01\0\0\0\0"), E_INTERNAL},
        {"a bomb", GRPC_GZIP, buf_span(&framed), E_TOO_LARGE},
        {"half a gzip", GRPC_GZIP, buf_span(&cut), E_INTERNAL},
        {"something behind the gzip", GRPC_GZIP, buf_span(&behind), E_INTERNAL},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        err = (struct error){0};
        int code = read_one(cases[i].encoding, cases[i].body, &err);
        CHECK(code == cases[i].code && (code >= 0 || err.code == code), "%s: %d %s", cases[i].name, code, err.message);
    }
    buf_fini(&zeros);
    buf_fini(&bomb);
    buf_fini(&framed);
    buf_fini(&cut);
    buf_fini(&behind);
    buf_fini(&small);
}

static void test_timeouts(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {
        {"1S", 1000}, {"300m", 300}, {"5M", 300000}, {"2H", 7200000}, {"1u", 1}, {"999n", 1}, {"1500u", 2}, {"0S", 1}, {"99999999H", GRPC_TIMEOUT_MAX_MS}, {"99999999n", 100},
        {"123456789S", -1}, {"S", -1}, {"", -1}, {"1", -1}, {"1s", -1}, {"-1S", -1}, {"1.5S", -1}, {" 1S", -1}, {"1 S", -1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t ms = -1;
        int r = grpc_timeout_parse(span_str(cases[i].text), &ms);
        CHECK(r == (cases[i].ms < 0 ? E_INVALID : 0) && ms == cases[i].ms, "\"%s\": %lld", cases[i].text, (long long)ms);
    }
}

static void test_message_text(void **state) {
    (void)state;
    struct buf out;
    buf_init(&out, 256);
    assert_int_equal(grpc_message_write(&out, SPAN("50% of \xc3\xa4\n\x7f")), 0);
    assert_string_equal(buf_cstr(&out), "50%25 of %C3%A4%0A%7F");
    buf_fini(&out);
}

static struct span bytes_of(struct span message, uint32_t number, int nth) {
    struct wire_field f;
    while (wire_next(&message, &f) == 1)
        if (f.number == number && f.type == WIRE_BYTES && nth-- == 0) return f.bytes;
    return SPAN("");
}

static void test_details(void **state) {
    (void)state;
    struct error err = {0};
    struct buf text, status;
    buf_init(&text, 16384);
    buf_init(&status, 16384);
    (void)error_set_param(&err, E_INVALID, "temperature", "'temperature' must lie between 0 and 2");
    assert_int_equal(grpc_details_write(&text, &err, "", "req-1"), 0);
    CHECK(span_find_char(buf_span(&text), '=') < 0, "padding in %s", buf_cstr(&text));
    assert_int_equal(base64_decode(&status, buf_span(&text)), 0);
    struct span s = buf_span(&status);
    struct wire_field f;
    assert_int_equal(wire_next(&s, &f), 1);
    assert_true(f.number == 1 && f.value == 3);
    s = buf_span(&status);
    assert_true(span_eq_str(bytes_of(s, 2, 0), err.message));
    struct span info = bytes_of(s, 3, 0), bad = bytes_of(s, 3, 1), request = bytes_of(s, 3, 2);
    assert_true(span_eq_str(bytes_of(info, 1, 0), "type.googleapis.com/google.rpc.ErrorInfo"));
    assert_true(span_eq_str(bytes_of(bytes_of(info, 2, 0), 1, 0), "INVALID_ARGUMENT"));
    assert_true(span_eq_str(bytes_of(bytes_of(info, 2, 0), 2, 0), "genloop"));
    assert_true(span_eq_str(bytes_of(bad, 1, 0), "type.googleapis.com/google.rpc.BadRequest"));
    struct span violation = bytes_of(bytes_of(bad, 2, 0), 1, 0);
    assert_true(span_eq_str(bytes_of(violation, 1, 0), "temperature") && span_eq_str(bytes_of(violation, 2, 0), err.message));
    assert_true(span_eq_str(bytes_of(request, 1, 0), "type.googleapis.com/google.rpc.RequestInfo"));
    assert_true(span_eq_str(bytes_of(bytes_of(request, 2, 0), 1, 0), "req-1"));

    buf_clear(&text);
    buf_clear(&status);
    (void)error_set(&err, E_FULL, "the queue is full");
    assert_int_equal(grpc_details_write(&text, &err, "queue_full", "r"), 0);
    assert_int_equal(base64_decode(&status, buf_span(&text)), 0);
    s = buf_span(&status);
    assert_true(span_eq_str(bytes_of(bytes_of(bytes_of(s, 3, 0), 2, 0), 1, 0), "QUEUE_FULL"));
    assert_true(span_eq_str(bytes_of(bytes_of(s, 3, 1), 1, 0), "type.googleapis.com/google.rpc.RetryInfo"));
    buf_fini(&text);
    buf_fini(&status);
}

static int attempt_read(void *arg) {
    struct error err = {0};
    return read_one(GRPC_GZIP, *(struct span *)arg, &err) < 0 ? err.code ? err.code : E_NOMEM : 0;
}
static int attempt_details(void *arg) {
    struct error err = {0};
    struct buf text;
    (void)arg;
    (void)error_set_param(&err, E_FULL, "p", "m");
    buf_init(&text, 16384);
    int r = grpc_details_write(&text, &err, "", "r");
    buf_fini(&text);
    return r;
}

static void test_without_memory(void **state) {
    (void)state;
    struct buf packed, framed;
    buf_init(&packed, 4096);
    buf_init(&framed, 4096);
    gzip(SPAN("compressed"), &packed);
    put(&framed, 1, buf_span(&packed));
    struct span body = buf_span(&framed);
    sweep("a message", attempt_read, &body, E_NOMEM);
    sweep("details", attempt_details, NULL, E_NOMEM);
    buf_fini(&packed);
    buf_fini(&framed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_content_types), cmocka_unit_test(test_messages), cmocka_unit_test(test_broken_messages), cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_message_text),  cmocka_unit_test(test_details),  cmocka_unit_test(test_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
