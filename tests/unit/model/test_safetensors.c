/* safetensors: hostile headers as a table, number types against their definition, writing and reading back, failing allocations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/random.h"
#include "model/safetensors.h"

/* A file of this header and `data` zero bytes. */
static struct span file_of(struct buf *out, const char *header, uint64_t header_len, size_t data) {
    buf_clear(out);
    for (int i = 0; i < 8; i++) buf_append_char(out, (char)(header_len >> (8 * i)));
    buf_append_str(out, header);
    for (size_t i = 0; i < data; i++) buf_append_char(out, 0);
    return buf_span(out);
}

static void test_hostile(void **state) {
    (void)state;
    static const struct {
        const char *name, *header;
        int64_t len; /* -1: as it is */
        size_t data;
        int code;
        const char *says;
    } cases[] = {
        {"sound", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}", -1, 8, 0, ""},
        {"sound, no tensor", "{}", -1, 0, 0, ""},
        {"sound, spaces behind", "{}      ", -1, 0, 0, ""},
        {"sound, scalar", "{\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}", -1, 8, 0, ""},
        {"sound, empty tensor", "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[0,0]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 1, 0, ""},
        {"header longer than the file", "{}", 3, 0, E_INVALID, "more than the file"},
        {"header of 2^63", "{}", INT64_MIN, 0, E_TOO_LARGE, "header"},
        {"header above the limit", "{}", 200000000, 0, E_TOO_LARGE, "header"},
        {"no brace", "[]", -1, 0, E_INVALID, "{"},
        {"no header", "", -1, 0, E_INVALID, "{"},
        {"broken JSON", "{\"a\":", -1, 0, E_INVALID, "header"},
        {"name twice", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", -1, 2, E_INVALID, ""},
        {"tensor is a number", "{\"a\":1}", -1, 0, E_INVALID, "tensor a"},
        {"no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 1, E_UNSUPPORTED, "dtype"},
        {"unknown dtype", "{\"a\":{\"dtype\":\"Q4\",\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 1, E_UNSUPPORTED, "Q4"},
        {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", -1, 1, E_INVALID, "shape"},
        {"nine dimensions", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", -1, 1, E_INVALID, "shape"},
        {"negative dimension", "{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", -1, 1, E_INVALID, "dimension"},
        {"real dimension", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1.5],\"data_offsets\":[0,1]}}", -1, 1, E_INVALID, "dimension"},
        {"shape overflows", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,2],\"data_offsets\":[0,1]}}", -1, 1, E_INVALID, "overflows"},
        {"size overflows", "{\"a\":{\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,1]}}", -1, 1, E_INVALID, "overflows"},
        {"shape overflows to what fits", "{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807,2,1],\"data_offsets\":[0,0]}}", -1, 0, E_INVALID, ""},
        {"no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", -1, 1, E_INVALID, "data_offsets"},
        {"three offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", -1, 1, E_INVALID, "data_offsets"},
        {"offsets backwards", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", -1, 1, E_INVALID, "inside"},
        {"beyond the end", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", -1, 1, E_INVALID, "inside"},
        {"far beyond the end", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9223372036854775806,9223372036854775807]}}", -1, 1, E_INVALID, "inside"},
        {"size and shape differ", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", -1, 4, E_INVALID, "needs 8"},
        {"overlap", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", -1, 3, E_INVALID, "overlaps"},
        {"hole", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}", -1, 3, E_INVALID, "hole"},
        {"hole at the begin", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", -1, 2, E_INVALID, "hole"},
        {"bytes left", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 2, E_INVALID, "belong to no tensor"},
        {"metadata is a list", "{\"__metadata__\":[]}", -1, 0, E_INVALID, "__metadata__"},
        {"metadata of numbers", "{\"__metadata__\":{\"a\":1}}", -1, 0, E_INVALID, "__metadata__"},
        {"empty name", "{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", -1, 1, E_INVALID, "name"},
    };
    struct buf bytes;
    buf_init(&bytes, 1 << 16);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct span file = file_of(&bytes, cases[i].header, cases[i].len == -1 ? strlen(cases[i].header) : (uint64_t)cases[i].len, cases[i].data);
        struct safetensors *f = NULL;
        struct error err = {0};
        int r = safetensors_open_bytes(&f, file, "x.safetensors", &err);
        if (r != cases[i].code || !strstr(err.message, cases[i].says) || (r && !strstr(err.message, "x.safetensors")) || (r && f)) fail_msg("%s: %d %s", cases[i].name, r, err.message);
        safetensors_close(f);
    }
    for (size_t n = 0; n < 8; n++) {
        struct safetensors *f = NULL;
        assert_int_equal(safetensors_open_bytes(&f, span_of("\2\0\0\0\0\0\0\0", n), "short", NULL), E_INVALID);
    }
    buf_fini(&bytes);
}

static void test_numbers(void **state) {
    (void)state;
    static const struct {
        uint16_t half;
        float f;
    } halves[] = {{0, 0.0f}, {0x3C00, 1.0f}, {0xC000, -2.0f}, {0x7BFF, 65504.0f}, {1, 0x1p-24f}, {0x03FF, 1023 * 0x1p-24f}, {0x0400, 0x1p-14f}, {0x3555, 0.333251953125f}, {0x7C00, INFINITY}};
    for (size_t i = 0; i < sizeof halves / sizeof halves[0]; i++) {
        assert_true(f16_to_f32(halves[i].half) == halves[i].f);
        assert_int_equal(f32_to_f16(halves[i].f), halves[i].half);
    }
    for (uint32_t h = 0; h < 65536; h++) { /* every value comes back, and NaN stays one */
        float f = f16_to_f32((uint16_t)h), b = bf16_to_f32((uint16_t)h);
        if (isnan(f)) assert_true(isnan(f16_to_f32(f32_to_f16(f))));
        else assert_int_equal(f32_to_f16(f), h);
        if (isnan(b)) assert_true(isnan(bf16_to_f32(f32_to_bf16(b))));
        else assert_int_equal(f32_to_bf16(b), h);
    }
    struct random r;
    random_seed(&r, 5);
    for (int i = 0; i < 200000; i++) { /* to nearest, ties to even: no neighbour is nearer */
        float f = (float)((random_f64(&r) - 0.5) * pow(2, (double)random_below(&r, 44) - 26));
        uint16_t h = f32_to_f16(f);
        double d = fabs((double)f16_to_f32(h) - (double)f);
        if ((h & 0x7FFF) < 0x7BFF) assert_true(d <= fabs((double)f16_to_f32((uint16_t)(h + 1)) - (double)f));
        if ((h & 0x7FFF) && (h & 0x7FFF) < 0x7C00) assert_true(d <= fabs((double)f16_to_f32((uint16_t)(h - 1)) - (double)f));
    }
    assert_int_equal(f32_to_f16(65519.9f), 0x7BFF);
    assert_int_equal(f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(f32_to_f16(1.0f + 0x1p-11f), 0x3C00); /* a tie, to even */
    assert_int_equal(f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3C02);
    assert_int_equal(f32_to_bf16(1.0f + 0x1p-8f), 0x3F80);
    assert_int_equal(f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3F82);
    static const struct {
        enum safetensors_dtype dtype;
        unsigned char bytes[16];
        float f[2];
    } cases[] = {
        {DTYPE_F32, {0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0}, {1, -2}},       {DTYPE_BF16, {0x80, 0x3F, 0, 0xC0}, {1, -2}},
        {DTYPE_F16, {0, 0x3C, 0, 0xC0}, {1, -2}},                      {DTYPE_I8, {7, 0x80}, {7, -128}},
        {DTYPE_U8, {7, 0x80}, {7, 128}},                               {DTYPE_F8_E4M3, {0x38, 0xFE}, {1, -448}},
        {DTYPE_F8_E5M2, {0x3C, 0xC0}, {1, -2}},                        {DTYPE_F64, {0, 0, 0, 0, 0, 0, 0xF0, 0x3F, 0, 0, 0, 0, 0, 0, 0, 0xC0}, {1, -2}},
        {DTYPE_F8_E4M3, {0x01, 0x08}, {0x1p-9f, 0x1p-6f}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char odd[17]; /* any alignment */
        memcpy(odd + 1, cases[i].bytes, 16);
        struct safetensors_view v = {.name = SPAN("t"), .dtype = cases[i].dtype, .dims = 1, .shape = {2}, .count = 2, .data = odd + 1, .size = 2 * dtype_size(cases[i].dtype)};
        float out[2];
        assert_int_equal(safetensors_to_f32(&v, 0, 2, out, NULL), 0);
        if (out[0] != cases[i].f[0] || out[1] != cases[i].f[1]) fail_msg("%s: %g %g", dtype_name(v.dtype), (double)out[0], (double)out[1]);
        assert_int_equal(safetensors_to_f32(&v, 1, 1, out, NULL), 0);
        assert_true(out[0] == cases[i].f[1]);
        assert_int_equal(safetensors_to_f32(&v, 1, 2, out, NULL), E_RANGE);
        assert_int_equal(safetensors_to_f32(&v, UINT64_MAX, 2, out, NULL), E_RANGE);
    }
    struct safetensors_view v = {.name = SPAN("t"), .dtype = DTYPE_I64, .count = 1, .data = "12345678", .size = 8};
    float out;
    assert_int_equal(safetensors_to_f32(&v, 0, 1, &out, NULL), E_UNSUPPORTED);
}

static int write_two(const char *path, struct error *err) {
    struct safetensors_writer *w = NULL;
    static const float a[6] = {1, 2, 3, 4, 5, 6};
    static const int64_t b[1] = {-7};
    int r = safetensors_writer_new(&w, path, err);
    if (!r) r = safetensors_writer_metadata(w, "format", "pt", err);
    if (!r) r = safetensors_writer_add(w, SPAN("layer.\"0\""), DTYPE_F32, (const uint64_t[]){2, 3}, 2, err);
    if (!r) r = safetensors_writer_add(w, SPAN("n"), DTYPE_I64, NULL, 0, err);
    if (!r) r = safetensors_writer_write(w, a, 10, err); /* pieces of any size */
    if (!r) r = safetensors_writer_write(w, (const char *)a + 10, 14, err);
    if (!r) r = safetensors_writer_write(w, b, 8, err);
    if (!r) r = safetensors_writer_commit(w, err);
    safetensors_writer_free(w);
    return r;
}

static int count_entry(void *arg, const char *name) {
    (void)name;
    ++*(int *)arg;
    return 0;
}
static char folder[] = "/tmp/genloop-safetensors-XXXXXX", path[64];
static int set_up(void **state) {
    (void)state;
    memcpy(folder + sizeof folder - 7, "XXXXXX", 6);
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/x.safetensors", folder);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    return dir_remove(folder, NULL);
}

static void test_write(void **state) {
    (void)state;
    struct error err = {0};
    struct safetensors *f = NULL;
    struct buf first, second;
    if (write_two(path, &err)) fail_msg("%s", err.message);
    if (safetensors_open(&f, path, &err)) fail_msg("%s", err.message);
    assert_int_equal(safetensors_count(f), 2);
    const struct safetensors_view *a = safetensors_find(f, SPAN("layer.\"0\"")), *n = safetensors_find(f, SPAN("n"));
    assert_non_null(a);
    assert_non_null(n);
    assert_ptr_equal(safetensors_at(f, 0), a);
    assert_null(safetensors_at(f, 2));
    assert_null(safetensors_find(f, SPAN("m")));
    assert_int_equal((uintptr_t)a->data % SAFETENSORS_ALIGNMENT, 0);
    assert_true(((const float *)a->data)[5] == 6.0f);
    assert_int_equal(*(const int64_t *)n->data, -7);
    assert_int_equal(n->dims, 0);
    struct span value;
    assert_true(safetensors_metadata(f, "format", &value));
    assert_true(span_eq_str(value, "pt"));
    assert_false(safetensors_metadata(f, "other", &value));
    safetensors_close(f);
    buf_init(&first, 4096);
    buf_init(&second, 4096);
    assert_int_equal(file_read(path, &first, NULL), 0);
    assert_int_equal(write_two(path, NULL), 0);
    assert_int_equal(file_read(path, &second, NULL), 0);
    assert_true(span_eq(buf_span(&first), buf_span(&second)));
    buf_fini(&first);
    buf_fini(&second);
    /* too many bytes, too few, and a tensor after the first byte */
    struct safetensors_writer *w = NULL;
    assert_int_equal(safetensors_writer_new(&w, path, NULL), 0);
    assert_int_equal(safetensors_writer_add(w, SPAN("a"), DTYPE_U8, (const uint64_t[]){2}, 1, NULL), 0);
    assert_int_equal(safetensors_writer_add(w, SPAN("b"), DTYPE_F64, (const uint64_t[]){1ull << 62, 4}, 2, NULL), E_TOO_LARGE);
    assert_int_equal(safetensors_writer_write(w, "xyz", 3, NULL), E_STATE);
    assert_int_equal(safetensors_writer_write(w, "x", 1, NULL), 0);
    assert_int_equal(safetensors_writer_commit(w, NULL), E_STATE);
    assert_int_equal(safetensors_writer_add(w, SPAN("c"), DTYPE_U8, NULL, 0, NULL), E_STATE);
    safetensors_writer_free(w);
    int entries = 0; /* nothing is left behind, and the file before is whole */
    assert_int_equal(dir_list(folder, &entries, count_entry, NULL), 0);
    assert_int_equal(entries, 1);
    assert_int_equal(safetensors_open(&f, path, NULL), 0);
    safetensors_close(f);
    assert_int_equal(safetensors_open(&f, "/nonexistent/x", &err), E_NOT_FOUND);
}

static void test_no_memory(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct safetensors *f = NULL;
        alloc_fail_at(n);
        int r = write_two(path, NULL);
        if (!r) r = safetensors_open(&f, path, NULL);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        safetensors_close(f);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_not_equal(r, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hostile), cmocka_unit_test(test_numbers), cmocka_unit_test(test_write), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
