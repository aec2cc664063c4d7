/* Stored types into packed kinds: without loss where a kind has the same numbers, else within the kind's step. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "tensor/quant.h"

/* Where the f16 numbers of a block lie; random bytes there would be infinite now and then. */
static void make_finite(enum tensor_type t, uint8_t *block, struct random *r) {
    size_t first = t == TENSOR_Q6_K ? 208 : 0, count = t == TENSOR_Q4_1 || t == TENSOR_Q5_1 || t == TENSOR_Q4_K || t == TENSOR_Q5_K ? 2 : t >= TENSOR_Q8_0 ? 1 : 0;
    if (t == TENSOR_F16) count = 1;
    for (size_t i = 0; i < count; i++) {
        uint16_t h = quant_f16_from_f32((float)random_normal(r) * 0.01f);
        memcpy(block + first + 2 * i, &h, sizeof h);
    }
    if (t == TENSOR_BF16) block[1] &= 0xbf;
    if (t == TENSOR_F32) block[3] &= 0xbf;
}

/* Rows of each type into each kind: exact where packed_kind_for promises it, else within the kind's step. */
static void test_packing(void **state) {
    (void)state;
    enum { ROWS = 70, COLS = 512 };
    static const bool exact[TENSOR_TYPES] = {[TENSOR_F32] = true, [TENSOR_F16] = true, [TENSOR_BF16] = true, [TENSOR_Q8_0] = true, [TENSOR_Q4_0] = true, [TENSOR_Q4_1] = true};
    static const float lost[PACKED_KINDS] = {[PACKED_F16] = 1.0f / 2048, [PACKED_BF16] = 1.0f / 256, [PACKED_Q8] = 0.6f / 127, [PACKED_Q4] = 1.05f / 8, [PACKED_Q4M] = 1.2f / 15};
    for (enum tensor_type t = 0; t < TENSOR_TYPES; t++)
        for (enum packed_kind kind = PACKED_F32; kind < PACKED_KINDS; kind++) {
            struct random r;
            random_seed2(&r, t, kind);
            size_t row_size, size, block = tensor_block_bytes(t);
            assert_int_equal(tensor_size(t, 1, COLS, &row_size), 0);
            uint8_t *data = mem_alloc(ROWS * row_size + 1), *rows = data + 1;
            for (size_t i = 0; i < ROWS * row_size; i++) rows[i] = (uint8_t)random_below(&r, 256);
            for (size_t i = 0; i < ROWS * row_size; i += block) make_finite(t, rows + i, &r);
            if (t <= TENSOR_BF16 && kind >= PACKED_F16) { /* numbers that fit */
                for (size_t i = 0; i < ROWS * COLS; i++) {
                    float v = (float)random_normal(&r);
                    uint32_t bits;
                    memcpy(&bits, &v, sizeof bits);
                    uint16_t h = t == TENSOR_F16 ? quant_f16_from_f32(v) : (uint16_t)(bits >> 16);
                    if (t == TENSOR_F32) memcpy(rows + 4 * i, &v, 4);
                    else memcpy(rows + 2 * i, &h, 2);
                }
            }
            assert_int_equal(packed_size(kind, ROWS, COLS, &size), 0);
            void *memory = quant_map(size);
            struct packed w;
            assert_int_equal(packed_init(&w, kind, ROWS, COLS, memory), 0);
            size_t width = packed_panel_rows(kind);
            for (size_t p = 0; p < w.panels; p++) {
                const void *at[PACKED_PANEL_MAX] = {0};
                for (size_t i = 0; i < width && p * width + i < ROWS; i++) at[i] = rows + (p * width + i) * row_size;
                assert_int_equal(packed_fill(&w, p, t, at), 0);
            }
            for (size_t i = 0; i < ROWS; i++) {
                float want[COLS], got[COLS];
                tensor_to_f32(t, rows + i * row_size, COLS, want);
                packed_get_row(&w, i, got);
                for (size_t k = 0; k < COLS; k++) {
                    float max = 0;
                    for (size_t b = k / 32 * 32; b < k / 32 * 32 + 32; b++) max = fmaxf(max, fabsf(want[b]));
                    float tolerance = exact[t] && packed_kind_for(t) == kind ? 0 : max * lost[kind] + (kind == PACKED_F32 ? 0 : 1e-6f);
                    if (!(fabsf(got[k] - want[k]) <= tolerance))
                        fail_msg("%s as %s [%zu,%zu]: %.9g, should be %.9g within %.3g", tensor_type_name(t), packed_kind_name(kind), i, k, (double)got[k], (double)want[k], (double)tolerance);
                }
            }
            quant_unmap(memory, size);
            mem_free(data);
        }
}

static void test_infinite_scales(void **state) {
    (void)state;
    for (enum tensor_type t = TENSOR_F16; t < TENSOR_TYPES; t++)
        for (enum packed_kind kind = PACKED_F32; kind < PACKED_KINDS; kind++) {
            uint8_t block[4 * TENSOR_BLOCK_MAX] = {0};
            size_t size, at = t == TENSOR_Q6_K ? 208 : 0, cols = tensor_block(t) < 32 ? 32 : tensor_block(t);
            memset(block, 0x11, sizeof block);
            block[at] = 0x80;
            block[at + 1] = t == TENSOR_BF16 ? 0x7f : 0x7c; /* infinite, or a NaN */
            assert_int_equal(packed_size(kind, 1, cols, &size), 0);
            void *memory = quant_map(size);
            struct packed w;
            assert_int_equal(packed_init(&w, kind, 1, cols, memory), 0);
            if (packed_fill(&w, 0, t, (const void *[PACKED_PANEL_MAX]){block}) != E_RANGE) fail_msg("%s as %s takes an infinite number", tensor_type_name(t), packed_kind_name(kind));
            quant_unmap(memory, size);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_packing), cmocka_unit_test(test_infinite_scales)};
    return cmocka_run_group_tests_name("quant_fill", tests, NULL, NULL);
}
