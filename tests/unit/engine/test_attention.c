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
    bool half;
} CASES[] = {{16, 1, 0, false}, {16, 40, 0, false}, {24, 33, 0, false}, {64, 100, 0, false}, {128, 17, 0, false}, {80, 50, 20, false},
             {8, 31, 5, false}, {64, 70, 0, true},  {24, 45, 16, true}, {100, 20, 0, true},  {5, 19, 0, false},   {7, 18, 3, true}};

static void run(size_t c, uint32_t first, uint32_t n, const struct kv_cache *kv, const uint32_t *table, const float *q, float *out) {
    uint32_t D = CASES[c].head_dim;
    struct attention_tile t = {.n = n, .window = CASES[c].window, .head_dim = D, .scale = 0.3f, .half = CASES[c].half, .base = kv_cache_base(kv, 1, 1),
                               .block_stride = kv->block_size, .values_offset = 2 * kv->head_size, .blocks = table};
    for (uint32_t i = 0; i < n; i++) {
        t.q[i] = q + (first + i) * D;
        t.out[i] = out + (first + i) * D;
        t.position[i] = first + i;
    }
    float *scratch = mem_alloc_aligned(attention_scratch_size(CASES[c].tokens));
    attention_run(&t, scratch);
    mem_free(scratch);
}

static void test_attention(void **state) {
    (void)state;
    for (size_t c = 0; c < sizeof CASES / sizeof *CASES; c++) {
        uint32_t D = CASES[c].head_dim, T = CASES[c].tokens;
        struct random r;
        random_seed(&r, c);
        struct kv_shape shape = {.layers = 2, .kv_heads = 2, .head_dim = D, .half = CASES[c].half};
        struct kv_cache kv;
        assert_int_equal(kv_cache_init(&kv, &shape, 12, NULL), 0);
        memset(kv.data, 0xff, kv.data_size); /* nan wherever nothing was written */
        uint32_t table[] = {7, 2, 9, 0, 11, 4, 1, 10};
        float *k = mem_calloc(T * 2 * D, 4), *v = mem_calloc(T * 2 * D, 4), *q = mem_calloc(T * D, 4);
        float *want = mem_calloc(T * D, 4), *got = mem_calloc(T * D, 4);
        for (size_t i = 0; i < T * 2 * D; i++) {
            k[i] = (float)random_normal(&r);
            v[i] = (float)random_normal(&r);
            if (CASES[c].half) {
                k[i] = quant_f16_to_f32(quant_f16_from_f32(k[i]));
                v[i] = quant_f16_to_f32(quant_f16_from_f32(v[i]));
            }
        }
        for (size_t i = 0; i < T * D; i++) q[i] = (float)random_normal(&r);
        for (uint32_t t = 0; t < T; t++) kv_cache_put(&kv, table, 1, t, k + t * 2 * D, v + t * 2 * D);

        quant_kernels_use(QUANT_KERNELS[QUANT_KERNELS_COUNT - 1]);
        for (uint32_t i = 0; i < T; i++) run(c, i, 1, &kv, table, q, want);
        for (uint32_t i = 0; i < T; i++) {
            double p[128], sum = 0;
            uint32_t from = CASES[c].window && i >= CASES[c].window ? i + 1 - CASES[c].window : 0;
            for (uint32_t t = from; t <= i; t++) {
                double dot = 0;
                for (uint32_t d = 0; d < D; d++) dot += (double)q[i * D + d] * (double)k[(t * 2 + 1) * D + d];
                sum += p[t] = exp(dot * (double)0.3f);
            }
            for (uint32_t d = 0; d < D; d++) {
                double x = 0;
                for (uint32_t t = from; t <= i; t++) x += p[t] / sum * (double)v[(t * 2 + 1) * D + d];
                if (fabs(x - (double)want[i * D + d]) > 1e-5) fail_msg("case %zu, token %u: %g, should be %g", c, i, (double)want[i * D + d], x);
            }
        }
        for (size_t kernel = 0; kernel < QUANT_KERNELS_COUNT; kernel++) {
            if (!QUANT_KERNELS[kernel]->usable()) continue;
            quant_kernels_use(QUANT_KERNELS[kernel]);
            for (uint32_t tile = 1; tile <= ATTENTION_TILE; tile++) {
                memset(got, 0, T * D * 4);
                for (uint32_t i = 0; i < T; i += tile) run(c, i, T - i < tile ? T - i : tile, &kv, table, q, got);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention), cmocka_unit_test(test_blocks)};
    return cmocka_run_group_tests_name("attention", tests, NULL, NULL);
}
