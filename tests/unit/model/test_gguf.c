/* GGUF files: one that is read whole, made here byte by byte, and what is refused of files that lie. */
#include "tests/unit/support/check.h"

#include "base/buf.h"
#include "model/gguf.h"

/* ---- a file in the making ---- */

static void put(struct buf *b, const void *data, size_t n) { assert_int_equal(buf_append(b, data, n), 0); }
static void put_u32(struct buf *b, uint32_t v) { put(b, &v, sizeof v); }
static void put_u64(struct buf *b, uint64_t v) { put(b, &v, sizeof v); }
static void put_str(struct buf *b, const char *s) {
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}
static void put_key(struct buf *b, const char *key, enum gguf_type type) {
    put_str(b, key);
    put_u32(b, type);
}
static void put_tensor(struct buf *b, const char *name, uint32_t type, uint64_t cols, uint64_t rows, uint64_t offset) {
    put_str(b, name);
    put_u32(b, 2);
    put_u64(b, cols);
    put_u64(b, rows);
    put_u32(b, type);
    put_u64(b, offset);
}
static void begin(struct buf *b, uint32_t version, uint64_t tensors, uint64_t keys) {
    buf_init(b, 1 << 20);
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, tensors);
    put_u64(b, keys);
}
static void pad(struct buf *b, size_t to) {
    while (b->len % to) assert_int_equal(buf_append_char(b, 0), 0);
}
static int open_it(const struct buf *b, struct gguf **g, struct error *err) {
    *g = NULL;
    *err = (struct error){0};
    return gguf_open_bytes(g, buf_span(b), "test.gguf", err);
}

static void test_whole(void **state) {
    struct buf b;
    struct gguf *g;
    struct error err;
    float data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        begin(&b, version, 2, 7);
        put_key(&b, "general.architecture", GGUF_STRING);
        put_str(&b, "llama");
        put_key(&b, "llama.block_count", GGUF_U32);
        put_u32(&b, 30);
        put_key(&b, "eps", GGUF_F32);
        put(&b, &(float){0.25f}, 4);
        put_key(&b, "flag", GGUF_BOOL);
        put(&b, "\1", 1);
        put_key(&b, "tokens", GGUF_ARRAY);
        put_u32(&b, GGUF_STRING);
        put_u64(&b, 3);
        put_str(&b, "a");
        put_str(&b, "");
        put_str(&b, "b\xff");
        put_key(&b, "types", GGUF_ARRAY);
        put_u32(&b, GGUF_I32);
        put_u64(&b, 2);
        put_u32(&b, (uint32_t)-3);
        put_u32(&b, 7);
        put_key(&b, "general.alignment", GGUF_U32);
        put_u32(&b, 16);
        put_tensor(&b, "w", 0, 2, 3, 0);
        put_tensor(&b, "v", 0, 1, 1, 32);
        pad(&b, 16);
        put(&b, data, 6 * sizeof *data);
        pad(&b, 16);
        put(&b, data + 6, sizeof *data);
        if (open_it(&b, &g, &err) != 0) fail_msg("%s", err.message);
        assert_true(span_eq_str(gguf_string(g, "general.architecture"), "llama"));
        assert_int_equal(gguf_integer(g, "llama.block_count", -1), 30);
        assert_int_equal(gguf_integer(g, "eps", -1), -1); /* it is no whole number */
        assert_true(gguf_real(g, "eps", 0) == 0.25 && gguf_real(g, "llama.block_count", 0) == 30 && gguf_bool(g, "flag", false));
        assert_null(gguf_string(g, "absent").data);
        const struct gguf_value *tokens = gguf_find(g, "tokens"), *types = gguf_find(g, "types");
        struct span rest = tokens->elements;
        assert_int_equal(tokens->count, 3);
        assert_true(span_eq_str(gguf_next_string(&rest), "a") && gguf_next_string(&rest).len == 0 && span_eq_str(gguf_next_string(&rest), "b\xff") && rest.len == 0);
        assert_true(gguf_number(types, 0) == -3 && gguf_number(types, 1) == 7);
        const struct gguf_tensor *w = gguf_tensor_find(g, SPAN("w")), *v = gguf_tensor_find(g, SPAN("v"));
        assert_true(w && v && !gguf_tensor_find(g, SPAN("x")));
        assert_true(w->dims == 2 && w->shape[0] == 3 && w->shape[1] == 2 && w->rows == 3 && w->cols == 2 && w->size == 24 && w->type == TENSOR_F32);
        assert_memory_equal(w->data, data, 24);
        assert_memory_equal(v->data, data + 6, 4);
        gguf_close(g);
        for (size_t cut = 0; cut < b.len; cut++) { /* a file that ends anywhere is refused, and nothing is read behind its end */
            char *copy = test_malloc(cut + 1);
            memcpy(copy, b.data, cut);
            g = NULL;
            if (gguf_open_bytes(&g, span_of(copy, cut), "cut.gguf", &err) == 0) fail_msg("a file of %zu bytes of %zu is taken", cut, b.len);
            assert_null(g);
            test_free(copy);
        }
        buf_fini(&b);
    }
}

/* ---- files that lie ---- */

static void magic(struct buf *b) {
    begin(b, 3, 0, 0);
    b->data[0] = 'X';
}
static void version_1(struct buf *b) { begin(b, 1, 0, 0); }
static void big_endian(struct buf *b) { begin(b, 3u << 24, 0, 0); }
static void many_keys(struct buf *b) { begin(b, 3, 0, 60000); }
static void many_tensors(struct buf *b) { begin(b, 3, UINT64_MAX, 0); }
static void long_key(struct buf *b) {
    begin(b, 3, 0, 1);
    put_u64(b, UINT64_MAX - 3);
    put_u64(b, 0);
}
static void key_type(struct buf *b) {
    begin(b, 3, 0, 1);
    put_key(b, "k", (enum gguf_type)13);
    put_u64(b, 0);
}
static void key_twice(struct buf *b) {
    begin(b, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_key(b, "k", GGUF_U32);
        put_u32(b, 1);
    }
}
static void bool_two(struct buf *b) {
    begin(b, 3, 0, 1);
    put_key(b, "k", GGUF_BOOL);
    put(b, "\2       ", 8);
}
static void large_u64(struct buf *b) {
    begin(b, 3, 0, 1);
    put_key(b, "k", GGUF_U64);
    put_u64(b, UINT64_MAX);
}
static void nested(struct buf *b) {
    begin(b, 3, 0, 1);
    put_key(b, "k", GGUF_ARRAY);
    put_u32(b, GGUF_ARRAY);
    put_u64(b, 1);
}
static void long_array(struct buf *b) {
    begin(b, 3, 0, 1);
    put_key(b, "k", GGUF_ARRAY);
    put_u32(b, GGUF_U64);
    put_u64(b, UINT64_MAX / 8 + 2);
}
static void array_beyond(struct buf *b) {
    begin(b, 3, 0, 1);
    put_key(b, "k", GGUF_ARRAY);
    put_u32(b, GGUF_U64);
    put_u64(b, 1000);
}
static void alignment(struct buf *b, uint32_t v) {
    begin(b, 3, 0, 1);
    put_key(b, "general.alignment", GGUF_U32);
    put_u32(b, v);
}
static void alignment_0(struct buf *b) { alignment(b, 0); }
static void alignment_24(struct buf *b) { alignment(b, 24); }
static void alignment_huge(struct buf *b) { alignment(b, 1u << 31); }
static void one(struct buf *b, uint32_t type, uint64_t cols, uint64_t rows, uint64_t offset) {
    begin(b, 3, 1, 0);
    put_tensor(b, "w", type, cols, rows, offset);
    pad(b, 32);
    for (int i = 0; i < 8; i++) put_u64(b, 0);
}
static void larger_than_file(struct buf *b) { one(b, 0, 1000, 1000, 0); }
static void shape_overflow(struct buf *b) { one(b, 0, 1ull << 40, 1ull << 40, 0); }
static void size_overflow(struct buf *b) { one(b, 0, 1ull << 32, (1ull << 30) + 1, 0); }
static void empty_dimension(struct buf *b) { one(b, 0, 0, 4, 0); }
static void half_block(struct buf *b) { one(b, 8, 33, 1, 0); }
static void unknown_type(struct buf *b) { one(b, 99, 4, 1, 0); }
static void unaligned(struct buf *b) { one(b, 0, 4, 1, 4); }
static void offset_beyond(struct buf *b) { one(b, 0, 4, 1, UINT64_MAX - 31); }
static void two(struct buf *b, const char *second, uint64_t offset) {
    begin(b, 3, 2, 0);
    put_tensor(b, "w", 0, 4, 3, 0);
    put_tensor(b, second, 0, 4, 1, offset);
    pad(b, 32);
    for (int i = 0; i < 32; i++) put_u64(b, 0);
}
static void overlap(struct buf *b) { two(b, "v", 32); }
static void tensor_twice(struct buf *b) { two(b, "w", 64); }
static void dims_5(struct buf *b) {
    begin(b, 3, 1, 0);
    put_str(b, "w");
    put_u32(b, 5);
    for (int i = 0; i < 7; i++) put_u64(b, 1);
}

static void test_lies(void **state) {
    static const struct {
        const char *name;
        void (*make)(struct buf *b);
        int code;
        const char *says;
    } cases[] = {
        {"magic", magic, E_INVALID, "no GGUF"}, {"version 1", version_1, E_UNSUPPORTED, "version 1"}, {"big-endian", big_endian, E_UNSUPPORTED, "big-endian"}, {"more keys than bytes", many_keys, E_INVALID, "more keys"},
        {"too many tensors", many_tensors, E_TOO_LARGE, "tensors"}, {"a key longer than the file", long_key, E_INVALID, "key"}, {"a type of key", key_type, E_UNSUPPORTED, "type 13"}, {"a key twice", key_twice, E_INVALID, "twice"},
        {"a bool of 2", bool_two, E_INVALID, "range"}, {"a u64 beyond int64", large_u64, E_INVALID, "range"}, {"an array of arrays", nested, E_UNSUPPORTED, "array"}, {"a count that overflows", long_array, E_TOO_LARGE, "array"},
        {"an array beyond the file", array_beyond, E_INVALID, "array"}, {"alignment 0", alignment_0, E_INVALID, "power of two"}, {"alignment 24", alignment_24, E_INVALID, "power of two"},
        {"alignment 2^31", alignment_huge, E_INVALID, "power of two"}, {"a tensor larger than its file", larger_than_file, E_INVALID, "tensor w"}, {"a shape that overflows", shape_overflow, E_INVALID, "overflows"},
        {"a size that overflows", size_overflow, E_INVALID, "tensor w"}, {"an empty dimension", empty_dimension, E_INVALID, "dimension"}, {"half a block", half_block, E_INVALID, "whole blocks"},
        {"an unknown type", unknown_type, E_UNSUPPORTED, "type 99"}, {"unaligned data", unaligned, E_INVALID, "multiple"}, {"an offset beyond the file", offset_beyond, E_INVALID, "inside"}, {"overlap", overlap, E_INVALID, "overlap"},
        {"a tensor twice", tensor_twice, E_INVALID, "twice"}, {"five dimensions", dims_5, E_INVALID, "dimensions"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf b;
        struct gguf *g;
        struct error err;
        cases[i].make(&b);
        int r = open_it(&b, &g, &err);
        if (r != cases[i].code || g) fail_msg("%s: %d, %s", cases[i].name, r, err.message);
        if (!strstr(err.message, cases[i].says) || strncmp(err.message, "test.gguf", 9) != 0) fail_msg("%s: %s", cases[i].name, err.message);
        buf_fini(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_lies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
