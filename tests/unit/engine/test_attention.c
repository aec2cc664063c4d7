/* Attention over the paged cache: right against f64, every kernel equal to the reference, and no query changed by its neighbours. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "engine/attention.h"
#include "engine/kv_cache.h"
#include "tensor/quant.h"

static const struct {
    uint32_t head_dim, tokens, window;
    enum kv_type type;
} CASES[] = {{16, 1, 0, KV_F32},   {16, 40, 0, KV_F32},   {24, 33, 0, KV_F32},   {64, 100, 0, KV_F32}, {128, 17, 0, KV_F32},   {80, 50, 20, KV_F32},
             {8, 31, 5, KV_F32},   {64, 70, 0, KV_F16},   {24, 45, 16, KV_F16},  {100, 20, 0, KV_F16}, {5, 19, 0, KV_F32},     {7, 18, 3, KV_F16},
             {64, 100, 0, KV_INT8}, {80, 50, 20, KV_INT8}, {96, 33, 0, KV_INT8}, {112, 70, 5, KV_INT8}, {128, 40, 16, KV_INT8}, {1, 1, 0, KV_INT8},
             {5, 19, 0, KV_INT8},  {33, 45, 0, KV_INT8},  {100, 17, 3, KV_INT8}, {16, 31, 0, KV_INT8},
             /* several chunks; windows that end in a tile's first one, and in the next; and one that is as long as a chunk */
             {16, 600, 0, KV_F32}, {64, 530, 0, KV_F16},  {24, 580, 40, KV_F16}, {32, 540, 0, KV_INT8}, {8, 800, ATTENTION_CHUNK, KV_F32}, {20, 520, 300, KV_INT8}};
enum { TOKENS_MAX = 800, BLOCKS = 60 };

/* threads: how many share the tile's chunks. */
static void run(size_t c, uint32_t first, uint32_t n, uint32_t threads, const struct kv_cache *kv, const uint32_t *table, const float *q, float *out) {
    uint32_t D = CASES[c].head_dim;
    struct attention_tile t = {.n = n, .window = CASES[c].window, .head_dim = D, .scale = 0.3f, .type = CASES[c].type, .base = kv_cache_base(kv, 1, 1),
                               .block_stride = kv->block_size, .values_offset = 2 * kv->head_size, .blocks = table};
    for (uint32_t i = 0; i < n; i++) {
        t.q[i] = q + (first + i) * D;
        t.out[i] = out + (first + i) * D;
        t.position[i] = first + i;
    }
    float *scratch = mem_alloc_aligned(attention_scratch_size(D));
    if (threads == 1) attention_run(&t, scratch);
    else {
        uint32_t from, end;
        size_t size = attention_part_size(D);
        attention_chunks(&t, &from, &end);
        uint32_t chunks = end - from;
        float *parts = mem_calloc(chunks * size, sizeof *parts);
        for (uint32_t k = threads; k-- > 0;) /* the last one first: order is the join's */
            attention_parts(&t, from + chunks * k / threads, from + chunks * (k + 1) / threads, parts + chunks * k / threads * size, scratch);
        attention_join(&t, parts);
        mem_free(parts);
    }
    mem_free(scratch);
}

static void through_int8(float *x, uint32_t n) {
    int8_t q[KV_SCALED];
    for (uint32_t from = 0; from < n; from += KV_SCALED) {
        uint32_t count = n - from < KV_SCALED ? n - from : KV_SCALED;
        float scale = quant_f16_to_f32(kv_quantize(x + from, count, q));
        for (uint32_t i = 0; i < count; i++) x[from + i] = scale * (float)q[i];
    }
}

static void test_attention(void **state) {
    (void)state;
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        uint32_t D = CASES[c].head_dim, T = CASES[c].tokens;
        struct random r;
        random_seed(&r, c);
        struct kv_shape shape = {.layers = 2, .kv_heads = 2, .head_dim = D, .type = CASES[c].type};
        struct kv_cache kv;
        assert_int_equal(kv_cache_init(&kv, &shape, BLOCKS, NULL), 0);
        memset(kv.data, 0xff, kv.data_size); /* nan wherever nothing was written */
        uint32_t table[BLOCKS];
        for (uint32_t b = 0; b < BLOCKS; b++) table[b] = (b * 7 + 3) % BLOCKS; /* 7 and 60 have no factor in common */
        float *k = mem_calloc(T * 2 * D, 4), *v = mem_calloc(T * 2 * D, 4), *q = mem_calloc(T * D, 4);
        float *want = mem_calloc(T * D, 4), *got = mem_calloc(T * D, 4);
        for (size_t i = 0; i < T * 2 * D; i++) {
            k[i] = (float)random_normal(&r);
            v[i] = (float)random_normal(&r);
            if (CASES[c].type == KV_F16) {
                k[i] = quant_f16_to_f32(quant_f16_from_f32(k[i]));
                v[i] = quant_f16_to_f32(quant_f16_from_f32(v[i]));
            }
        }
        if (CASES[c].type == KV_INT8) { /* what the cache holds: that it is near what was given is the next test's */
            for (size_t i = 0; i < T * 2; i++) {
                through_int8(k + i * D, D);
                through_int8(v + i * D, D);
            }
        }
        for (size_t i = 0; i < T * D; i++) q[i] = (float)random_normal(&r);
        for (uint32_t t = 0; t < T; t++) kv_cache_put(&kv, table, 1, t, k + t * 2 * D, v + t * 2 * D);

        quant_kernels_use(QUANT_KERNELS[QUANT_KERNELS_COUNT - 1]);
        for (uint32_t i = 0; i < T; i++) run(c, i, 1, 1, &kv, table, q, want);
        for (uint32_t i = 0; i < T; i++) {
            double p[TOKENS_MAX], sum = 0;
            uint32_t from = CASES[c].window && i >= CASES[c].window ? i + 1 - CASES[c].window : 0;
            for (uint32_t t = from; t <= i; t++) {
                double dot = 0;
                for (uint32_t d = 0; d < D; d++) dot += (double)q[i * D + d] * (double)k[(t * 2 + 1) * D + d];
                sum += p[t] = exp(dot * (double)0.3f);
            }
            for (uint32_t d = 0; d < D; d++) {
                double x = 0;
                for (uint32_t t = from; t <= i; t++) x += p[t] / sum * (double)v[(t * 2 + 1) * D + d];
                double error_max = CASES[c].type == KV_INT8 ? 5e-4 : 1e-5; /* queries are rounded to 16 bits: 2^-16 of the largest of 32 in each term */
                if (fabs(x - (double)want[i * D + d]) > error_max) fail_msg("case %zu, token %u: %g, should be %g", c, i, (double)want[i * D + d], x);
            }
        }
        for (size_t kernel = 0; kernel < QUANT_KERNELS_COUNT; kernel++) {
            if (!QUANT_KERNELS[kernel]->usable()) continue;
            quant_kernels_use(QUANT_KERNELS[kernel]);
            for (uint32_t tile = 1; tile <= ATTENTION_TILE; tile++) {
                memset(got, 0, T * D * 4);
                for (uint32_t i = 0; i < T; i += tile) run(c, i, T - i < tile ? T - i : tile, 1 + i / tile % 3, &kv, table, q, got);
                if (memcmp(got, want, T * D * 4) != 0) fail_msg("case %zu: %s differs with tiles of %u", c, QUANT_KERNELS[kernel]->name, tile);
            }
        }
        quant_kernels_use(NULL);
        kv_cache_fini(&kv);
        mem_free(k);
        mem_free(v);
        mem_free(q);
        mem_free(want);
        mem_free(got);
    }
}

/* Half a step at most, of values of any size; the largest is kept; nothing that is no number is forgotten, and nothing is beyond the type. */
static void test_quantize(void **state) {
    (void)state;
    struct random r;
    random_seed(&r, 5);
    for (int round = 0; round < 4000; round++) {
        float x[KV_SCALED], most = 0, size = powf(10, (float)(round % 10) - 5);
        int8_t q[KV_SCALED];
        size_t n = 1 + (size_t)round % KV_SCALED;
        for (size_t i = 0; i < n; i++) {
            x[i] = (float)random_normal(&r) * size * (i == 3 ? 40 : 1);
            most = fmaxf(most, fabsf(x[i]));
        }
        float scale = quant_f16_to_f32(kv_quantize(x, n, q));
        if (most / 127 < 6.2e-5f) continue; /* a subnormal f16 */
        assert_true(fabsf(scale - most / 127) <= scale * 0x1p-11f);
        for (size_t i = 0; i < n; i++) {
            float error = fabsf(scale * (float)q[i] - x[i]), bound = scale * (0.5f + 127 * 0x1p-11f);
            if (!(error <= bound) || q[i] == INT8_MIN) fail_msg("round %d: %g became %g, at most %g from it", round, (double)x[i], (double)(scale * (float)q[i]), (double)bound);
        }
    }
    static const struct {
        const char *name;
        float x[3];
        int q[3];
        float scale;
    } rows[] = {
        {"nothing", {0, -0.0f, 0}, {0, 0, 0}, 0},
        {"ties go to even", {127, 2.5f, -3.5f}, {127, 2, -4}, 1},
        {"too small for a scale", {1e-7f, -1e-8f, 0}, {0, 0, 0}, 0},
        {"the smallest scale", {1.1e-5f, -1.1e-5f, 6e-8f}, {127, -127, 1}, 0x1p-24f},
        {"beyond the largest scale", {3e38f, -3e38f, 65504}, {127, -127, 1}, 65504},
        {"infinite", {INFINITY, 1, 2}, {0, 0, 0}, NAN},
        {"not a number", {1, NAN, 2}, {0, 0, 0}, NAN},
        {"its negative", {1, -NAN, 2}, {0, 0, 0}, NAN},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int8_t q[3];
        float scale = quant_f16_to_f32(kv_quantize(rows[i].x, 3, q));
        if (isnan(rows[i].scale) ? !isnan(scale) : scale != rows[i].scale) fail_msg("%s: the scale is %g", rows[i].name, (double)scale);
        for (int d = 0; d < 3; d++)
            if (q[d] != rows[i].q[d]) fail_msg("%s: value %d is %d", rows[i].name, d, q[d]);
    }
    struct attention_query query;
    attention_quantize((float[]){1, INFINITY}, 2, &query);
    assert_true(isnan(query.scale[0]) && query.q[0] == 0 && query.q[1] == 0);
    attention_quantize((float[]){1e-40f, 0, 0}, 3, &query);
    assert_true(query.scale[0] == 0 && query.q[0] == 0 && query.q[3] == 0);
    attention_quantize((float[]){-3, 1.5f, 3e-5f}, 3, &query);
    assert_true(query.q[0] == -32767 && query.q[1] == 16384 && query.q[2] == 0 && query.q[3] == 0);
}

/* Every kernel rounds as the reference does, whatever the bits and however many. */
static void test_halves(void **state) {
    (void)state;
    struct random r;
    random_seed(&r, 6);
    for (size_t k = 0; k < QUANT_KERNELS_COUNT; k++) {
        if (!QUANT_KERNELS[k]->usable()) continue;
        quant_kernels_use(QUANT_KERNELS[k]);
        for (int round = 0; round < 20000; round++) {
            float x[40];
            uint16_t got[41];
            size_t n = (size_t)round % 41;
            for (size_t i = 0; i < n; i++) {
                uint32_t bits = (uint32_t)random_u64(&r);
                if (round % 2) bits = (bits & 0x80001fff) | (uint32_t)(100 + random_below(&r, 45)) << 23 | (bits >> 8 & 0x7fe000); /* about f16's range, ties among them */
                if (round % 4 == 1) bits &= ~0xfffu;
                memcpy(&x[i], &bits, sizeof bits);
            }
            got[n] = 12345;
            attention_kernels()->halves(x, n, got);
            assert_int_equal(got[n], 12345);
            for (size_t i = 0; i < n; i++)
                if (isnan(x[i]) ? !isnan(quant_f16_to_f32(got[i])) : got[i] != quant_f16_from_f32(x[i])) fail_msg("%s: %a became 0x%04x", attention_kernels()->name, (double)x[i], got[i]);
        }
    }
    quant_kernels_use(NULL);
}

/* Half of f16's bytes and the scales; what a token's key was quantized to is told by itself alone. */
static void test_int8(void **state) {
    (void)state;
    static const uint32_t dims[] = {1, 5, 32, 64, 80, 96, 112, 128, 256, MODEL_HEAD_DIM_MAX};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        uint32_t D = dims[i], table[] = {3, 1}, other[] = {0};
        struct kv_shape shape = {.layers = 2, .kv_heads = 3, .head_dim = D, .type = KV_INT8};
        struct kv_cache kv;
        struct random r;
        random_seed(&r, i);
        assert_int_equal(kv_cache_init(&kv, &shape, 4, NULL), 0);
        assert_int_equal(kv.block_size, (size_t)2 * 2 * 3 * 16 * (D % 2 + D + 2 * ((D + 31) / 32)));
        memset(kv.data, 0xff, kv.data_size);
        float *x = mem_calloc(6 * D, sizeof *x);
        for (size_t k = 0; k < 6 * D; k++) x[k] = (float)random_normal(&r);
        kv_cache_put(&kv, table, 1, 21, x, x + 3 * D);
        kv_cache_put(&kv, other, 1, 5, x, x + 3 * D); /* the same token of a block, of another sequence */
        assert_memory_equal(kv.data, kv.data + kv.block_size, kv.block_size);
        size_t written = 0;
        for (size_t k = 0; k < kv.data_size; k++) written += kv.data[k] != 0xff;
        assert_true(written <= 2 * 6 * (D + D % 2 + 2 * kv_scales(D)));
        mem_free(x);
        kv_cache_fini(&kv);
    }
    enum kv_type type = KV_F32;
    struct error err;
    for (enum kv_type t = 0; t < KV_TYPES; t++) assert_true(kv_type_find(kv_type_name(t), &type, &err) == 0 && type == t);
    assert_int_equal(kv_type_find("q8_0", &type, &err), E_INVALID);
    assert_string_equal(err.message, "\"q8_0\" is no type of keys and values: f32, f16 or int8");
    assert_int_equal(type, KV_INT8);
}

static void test_blocks(void **state) {
    (void)state;
    struct kv_blocks b;
    uint32_t one[3], two[3], rest[9];
    assert_int_equal(kv_blocks_init(&b, 8), 0);
    assert_int_equal(kv_blocks_alloc(&b, 3, one), 0);
    assert_int_equal(kv_blocks_alloc(&b, 3, two), 0);
    assert_int_equal(kv_blocks_alloc(&b, 3, rest), E_FULL);
    assert_int_equal(b.free_count, 2);
    kv_blocks_ref(&b, one, 2); /* a shared prefix */
    kv_blocks_unref(&b, one, 3);
    assert_int_equal(b.free_count, 3);
    kv_blocks_unref(&b, one, 2);
    kv_blocks_unref(&b, two, 3);
    assert_int_equal(b.free_count, 8);
    assert_int_equal(kv_blocks_alloc(&b, 8, rest), 0);
    bool seen[8] = {false};
    for (int i = 0; i < 8; i++) seen[rest[i]] = true;
    for (int i = 0; i < 8; i++) assert_true(seen[i]);
    kv_blocks_fini(&b);
    assert_int_equal(kv_blocks_init(&b, 0), E_RANGE);
    assert_int_equal(kv_blocks_init(&b, UINT32_MAX), E_RANGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention), cmocka_unit_test(test_quantize), cmocka_unit_test(test_halves), cmocka_unit_test(test_int8), cmocka_unit_test(test_blocks)};
    return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}
