/* Our frames are the wire format of BusFrame: what protobuf-c packs we read, what we write it unpacks; damage is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "bus/frame.h"
#include "genloop/v1/bus.pb-c.h"

static const struct bus_frame full = {
    .kind = BUS_END, .call_id = 0x1234567890abcdefull, .deadline_ms = 30000, .credit = 64, .version = 1,
    .method = {"Generation/GenerateStream", 25}, .request_id = {"r1", 2}, .traceparent = {"00-ab", 5}, .tenant = {"default", 7}, .session = {"s\xc3\xa9", 3},
    .actor_id = {"local:op", 8}, .actor_scope = {"approver", 8}, .actor_claim = {"Ann", 3},
    .status_code = 8, .status_error = E_TOO_LARGE, .status_message = {"too large", 9}, .status_param = {"messages", 8}, .status_retriable = true, .retry_after_ms = 1500,
};

static void written_by_us(void **state) {
    (void)state;
    struct buf out;
    buf_init(&out, 4096);
    assert_int_equal(bus_frame_encode(&full, &out), 0);
    Genloop__V1__BusFrame *f = genloop__v1__bus_frame__unpack(NULL, out.len, (const uint8_t *)buf_span(&out).data);
    assert_non_null(f);
    assert_int_equal(f->kind, GENLOOP__V1__BUS_KIND__BUS_KIND_END);
    assert_true(f->call_id == full.call_id);
    assert_int_equal(f->deadline_ms, 30000);
    assert_int_equal(f->credit, 64);
    assert_int_equal(f->version, 1);
    assert_string_equal(f->method, "Generation/GenerateStream");
    assert_string_equal(f->request_id, "r1");
    assert_string_equal(f->traceparent, "00-ab");
    assert_string_equal(f->tenant, "default");
    assert_string_equal(f->session, "s\xc3\xa9");
    assert_string_equal(f->actor->id, "local:op");
    assert_string_equal(f->actor->scope, "approver");
    assert_string_equal(f->actor->claim, "Ann");
    assert_int_equal(f->status->code, 8);
    assert_int_equal(f->status->error, E_TOO_LARGE);
    assert_string_equal(f->status->message, "too large");
    assert_string_equal(f->status->param, "messages");
    assert_true(f->status->retriable);
    assert_int_equal(f->status->retry_after_ms, 1500);
    assert_int_equal(genloop__v1__bus_frame__get_packed_size(f), out.len);
    genloop__v1__bus_frame__free_unpacked(f, NULL);
    buf_fini(&out);
}

static void read_by_us(void **state) {
    (void)state;
    Genloop__V1__BusFrame f;
    Genloop__V1__Status status;
    Genloop__V1__Actor actor;
    uint8_t bytes[512];
    struct bus_frame got;
    struct error err = {0};
    genloop__v1__bus_frame__init(&f);
    genloop__v1__status__init(&status);
    genloop__v1__actor__init(&actor);
    f.kind = GENLOOP__V1__BUS_KIND__BUS_KIND_END;
    f.call_id = UINT64_MAX;
    f.version = 1;
    f.method = (char *)"m";
    f.status = &status;
    f.actor = &actor;
    status.code = 3;
    status.error = E_INVALID;
    status.message = (char *)"wrong";
    status.param = (char *)"n";
    actor.id = (char *)"a";
    size_t n = genloop__v1__bus_frame__pack(&f, bytes);
    assert_int_equal(bus_frame_decode(span_of(bytes, n), &got), 0);
    assert_int_equal(got.kind, BUS_END);
    assert_true(got.call_id == UINT64_MAX);
    assert_true(span_eq_str(got.method, "m"));
    assert_true(span_eq_str(got.actor_id, "a"));
    assert_int_equal(bus_frame_error(&got, &err), E_INVALID);
    assert_string_equal(err.message, "wrong");
    assert_string_equal(err.param, "n");
}

static void statuses(void **state) {
    (void)state;
    for (int code = E_CODE_MIN; code <= 0; code++) {
        struct bus_frame f = {.kind = BUS_END}, got;
        struct buf out;
        struct error err = {0};
        buf_init(&out, 1000);
        bus_frame_set_status(&f, code, NULL);
        assert_int_equal(bus_frame_encode(&f, &out), 0);
        assert_int_equal(bus_frame_decode(buf_span(&out), &got), 0);
        assert_int_equal(bus_frame_error(&got, &err), code);
        buf_fini(&out);
    }
    struct bus_frame lie = {.kind = BUS_END, .status_code = 3, .status_error = E_TOO_LARGE}; /* no refinement of INVALID_ARGUMENT */
    assert_int_equal(bus_frame_error(&lie, NULL), E_INVALID);
    lie.status_code = 77;
    assert_int_equal(bus_frame_error(&lie, NULL), E_UNKNOWN);
    struct error bad = {.code = E_INVALID, .message = "\xff"};
    bus_frame_set_status(&lie, E_INVALID, &bad);
    assert_true(span_is_utf8(lie.status_message));
}

static void refused(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct span bytes;
    } cases[] = {
        {"empty", {"", 0}},
        {"no version", {"\x08\x01", 2}},
        {"another version", {"\x08\x01\x60\x02", 4}},
        {"kind 0", {"\x60\x01", 2}},
        {"kind 8", {"\x08\x08\x60\x01", 4}},
        {"kind huge", {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x60\x01", 13}},
        {"varint of 11 bytes", {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x60\x01", 14}},
        {"cut varint", {"\x60\x01\x08\x80", 4}},
        {"field 0", {"\x08\x01\x60\x01\x00\x00", 6}},
        {"group", {"\x08\x01\x60\x01\x0b\x0c", 6}},
        {"length beyond", {"\x08\x01\x60\x01\x1a\x05m", 7}},
        {"length of 64 bits", {"\x08\x01\x60\x01\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01m", 16}},
        {"method as number", {"\x08\x01\x60\x01\x18\x01", 6}},
        {"kind as bytes", {"\x0a\x01\x01\x60\x01", 5}},
        {"no UTF-8", {"\x08\x01\x60\x01\x1a\x01\xff", 7}},
        {"status as number", {"\x08\x03\x60\x01\x30\x01", 6}},
        {"damage in status", {"\x08\x03\x60\x01\x32\x02\x12\x05", 8}},
        {"negative deadline", {"\x08\x01\x60\x01\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 15}},
        {"cut fixed64", {"\x08\x01\x60\x01\x69\x01", 6}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bus_frame f;
        if (bus_frame_decode(cases[i].bytes, &f) != E_INVALID) fail_msg("%s was accepted", cases[i].name);
    }
    struct bus_frame f;
    assert_int_equal(bus_frame_decode(SPAN("\x08\x01\x60\x01\x69\x01\x02\x03\x04\x05\x06\x07\x08\x6d\x01\x02\x03\x04\x78\x05\x7a\x02hi"), &f), 0); /* unknown fields */
    char large[BUS_FRAME_MAX + 1];
    memset(large, 0, sizeof large);
    assert_int_equal(bus_frame_decode(span_of(large, sizeof large), &f), E_INVALID);
}

/* Whatever protobuf-c makes of damaged bytes, we never read past them, and what we accept it accepts too. */
static void like_protobuf_c(void **state) {
    (void)state;
    struct buf out;
    struct random random;
    uint64_t seed = 20261124;
    random_seed(&random, seed);
    buf_init(&out, 4096);
    assert_int_equal(bus_frame_encode(&full, &out), 0);
    for (int round = 0; round < 20000; round++) {
        char bytes[512];
        size_t n = out.len;
        memcpy(bytes, buf_span(&out).data, n);
        for (uint64_t flips = 1 + random_below(&random, 3); flips > 0; flips--) bytes[random_below(&random, n)] = (char)random_u64(&random);
        if (random_below(&random, 4) == 0) n = random_below(&random, n + 1);
        struct bus_frame f;
        if (bus_frame_decode(span_of(bytes, n), &f) < 0) continue;
        Genloop__V1__BusFrame *theirs = genloop__v1__bus_frame__unpack(NULL, n, (const uint8_t *)bytes);
        if (!theirs) fail_msg("seed %llu, round %d: we accept what protobuf-c refuses", (unsigned long long)seed, round);
        assert_true(theirs->call_id == f.call_id);
        assert_int_equal(theirs->credit, f.credit);
        assert_true(span_eq_str(f.session, theirs->session) || strlen(theirs->session) < f.session.len /* NUL inside */);
        genloop__v1__bus_frame__free_unpacked(theirs, NULL);
    }
    buf_fini(&out);
}

static void batches(void **state) {
    (void)state;
    struct buf out;
    buf_init(&out, 1 << 16);
    static const struct span frames[] = {{"abc", 3}, {"", 0}, {"d", 1}}, payloads[] = {{"", 0}, {"xyz", 3}, {"\0", 1}};
    for (size_t i = 0; i < 3; i++) {
        uint8_t head[BUS_BATCH_HEAD];
        bus_batch_head(head, frames[i].len, payloads[i].len);
        assert_int_equal(buf_append_span(&out, span_of(head, sizeof head)), 0);
        assert_int_equal(buf_append_span(&out, frames[i]), 0);
        assert_int_equal(buf_append_span(&out, payloads[i]), 0);
    }
    struct span whole = buf_span(&out), rest = whole, frame, payload;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(bus_batch_next(&rest, 3, &frame, &payload), 1);
        assert_true(span_eq(frame, frames[i]) && span_eq(payload, payloads[i]));
    }
    assert_int_equal(bus_batch_next(&rest, 3, &frame, &payload), 0);
    rest = whole; /* the second payload is above the limit */
    assert_int_equal(bus_batch_next(&rest, 2, &frame, &payload), 1);
    assert_int_equal(bus_batch_next(&rest, 2, &frame, &payload), E_INVALID);
    for (size_t cut = 1; cut < 11; cut++) { /* of the first of 11 bytes */
        rest = span_sub(whole, 0, cut);
        assert_int_equal(bus_batch_next(&rest, 3, &frame, &payload), E_INVALID);
    }
    uint8_t head[BUS_BATCH_HEAD];
    bus_batch_head(head, BUS_FRAME_MAX + 1, 0);
    rest = span_of(head, sizeof head);
    assert_int_equal(bus_batch_next(&rest, 3, &frame, &payload), E_INVALID);
    buf_fini(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(written_by_us), cmocka_unit_test(read_by_us), cmocka_unit_test(statuses), cmocka_unit_test(refused), cmocka_unit_test(like_protobuf_c), cmocka_unit_test(batches)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
