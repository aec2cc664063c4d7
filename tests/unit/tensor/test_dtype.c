/* Stored types, held to ggml's own Python package (gguf 0.17): data/blocks.bin has random blocks of each kind and what they are worth, data/quantized.bin floats and what its quantizers make of them. */
#include "tests/unit/support/check.h"

#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "tensor/dtype.h"


static uint32_t u32_at(const char *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void test_reading(void **state) {
    struct file_map map;
    int kinds = 0;
    (void)state;
    assert_int_equal(file_map_open(&map, GENLOOP_TEST_DATA "/blocks.bin", NULL), 0);
    struct span rest = span_of(map.data, map.len);
    while (rest.len) {
        enum tensor_type type;
        assert_true(tensor_type_from_name(span_str(rest.data), &type));
        uint32_t len = u32_at(rest.data + 8), n = u32_at(rest.data + 12);
        size_t size;
        assert_int_equal(tensor_size(type, 1, n, &size), 0);
        assert_int_equal(size, len);
        float *got = malloc(n * sizeof *got), *want = malloc(n * sizeof *want);
        memcpy(want, rest.data + 16 + len, n * sizeof *want);
        tensor_to_f32(type, rest.data + 16, n, got);
        for (uint32_t i = 0; i < n; i++)
            if (memcmp(&got[i], &want[i], sizeof *got) != 0 && fabsf(got[i] - want[i]) > 1e-6f * fabsf(want[i])) fail_msg("%s: value %u is %.9g, wanted %.9g", tensor_type_name(type), i, (double)got[i], (double)want[i]);
        free(got);
        free(want);
        rest = span_skip(rest, 16 + len + n * sizeof(float));
        kinds++;
    }
    assert_int_equal(kinds, 8);
    file_map_close(&map);
}

static void test_writing(void **state) {
    struct file_map map;
    int kinds = 0;
    (void)state;
    assert_int_equal(file_map_open(&map, GENLOOP_TEST_DATA "/quantized.bin", NULL), 0);
    struct span rest = span_of(map.data, map.len);
    uint32_t n = u32_at(rest.data);
    float *x = malloc(n * sizeof *x);
    memcpy(x, rest.data + 4, n * sizeof *x);
    rest = span_skip(rest, 4 + n * sizeof *x);
    while (rest.len) {
        enum tensor_type type;
        assert_true(tensor_type_from_name(span_str(rest.data), &type));
        uint32_t len = u32_at(rest.data + 8);
        size_t size;
        assert_int_equal(tensor_size(type, 1, n, &size), 0);
        assert_int_equal(size, len);
        uint8_t *got = malloc(size);
        assert_int_equal(tensor_from_f32(type, x, n, got), 0);
        for (size_t i = 0; i < size; i++)
            if (got[i] != (uint8_t)rest.data[12 + i]) fail_msg("%s: byte %zu is %02x, wanted %02x", tensor_type_name(type), i, got[i], (uint8_t)rest.data[12 + i]);
        free(got);
        rest = span_skip(rest, 12 + len);
        kinds++;
    }
    assert_int_equal(kinds, 5);
    free(x);
    file_map_close(&map);
}

static void test_sizes(void **state) {
    size_t size;
    enum tensor_type type;
    uint8_t out[256];
    float x[256] = {0};
    (void)state;
    assert_int_equal(tensor_size(TENSOR_Q4_K, 2, 512, &size), 0);
    assert_int_equal(size, 2 * 2 * 144);
    assert_int_equal(tensor_size(TENSOR_Q8_0, 1, 33, &size), E_INVALID);
    assert_int_equal(tensor_size(TENSOR_F32, UINT64_MAX / 2, 64, &size), E_RANGE);
    assert_int_equal(tensor_size(TENSOR_F32, 1, UINT64_MAX, &size), E_RANGE);
    assert_false(tensor_type_from_name(SPAN("Q9_9"), &type));
    assert_true(tensor_type_from_name(SPAN("q4_k"), &type));
    assert_int_equal(type, TENSOR_Q4_K);
    for (int t = 0; t < TENSOR_TYPES; t++) {
        int r = tensor_from_f32((enum tensor_type)t, x, 0, out);
        assert_true(r == 0 || r == E_UNSUPPORTED);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reading), cmocka_unit_test(test_writing), cmocka_unit_test(test_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
