/* The C reference of quant.h's kernels: what each of the others is held to, bit for bit. */
#include <math.h>

#include "base/alloc.h"
#include "tensor/quant_internal.h"

static bool always(void) { return true; }

static float load_half(const uint8_t *at) {
    uint16_t h;
    memcpy(&h, at, sizeof h);
    return quant_f16_to_f32(h);
}

/* Row r of a panel at k. */
static float f32_at(const void *panel, size_t cols, size_t k, size_t r) {
    (void)cols;
    return ((const float *)panel)[k * PACKED_FLOAT_PANEL + r];
}
static float f16_at(const void *panel, size_t cols, size_t k, size_t r) { return load_half((const uint8_t *)panel + quant_half_place(PACKED_F16, cols, r, k)); }
static float bf16_at(const void *panel, size_t cols, size_t k, size_t r) {
    uint16_t h;
    memcpy(&h, (const uint8_t *)panel + quant_half_place(PACKED_BF16, cols, r, k), sizeof h);
    return quant_bf16_to_f32(h);
}

static void floats(float (*at)(const void *, size_t, size_t, size_t), const void *panel, size_t cols, const float *x, size_t stride, size_t n, bool more, float *tile) {
    for (size_t i = 0; i < n; i++) {
        float *acc = tile + i * PACKED_FLOAT_PANEL;
        if (!more) memset(acc, 0, PACKED_FLOAT_PANEL * sizeof *acc);
        for (size_t k = 0; k < cols; k++)
            for (size_t r = 0; r < PACKED_FLOAT_PANEL; r++) acc[r] = fmaf(x[i * stride + k], at(panel, cols, k, r), acc[r]);
    }
}
static void f32_c(const void *panel, size_t cols, const float *x, size_t stride, size_t n, bool more, float *tile) { floats(f32_at, panel, cols, x, stride, n, more, tile); }
static void f16_c(const void *panel, size_t cols, const float *x, size_t stride, size_t n, bool more, float *tile) { floats(f16_at, panel, cols, x, stride, n, more, tile); }
static void bf16_c(const void *panel, size_t cols, const float *x, size_t stride, size_t n, bool more, float *tile) { floats(bf16_at, panel, cols, x, stride, n, more, tile); }

static void lengthen_c(const uint8_t *panel, size_t cols, size_t block, float *to) {
    const struct quant_short_steps s = quant_short_steps(panel, cols);
    const uint8_t *tile = panel + quant_short_head(cols) + block * s.block;
    for (size_t l = 0; l < QUANT_LANES; l++, tile += s.tile)
        for (size_t r = 0; r < QUANT_SIDE; r++)
            for (size_t k = 0; k < QUANT_BLOCK; k++) to[k * PACKED_FLOAT_PANEL + l * QUANT_SIDE + r] = quant_bf16_to_f32(quant_short_value(panel, s, tile, r, k));
}

static void q8_c(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) {
    for (size_t i = 0; i < n; i++) {
        float *acc = tile + i * PACKED_BLOCK_PANEL;
        memset(acc, 0, PACKED_BLOCK_PANEL * sizeof *acc);
        for (size_t b = 0; b < blocks; b++) {
            const uint8_t *block = panel + b * QUANT_Q8_BLOCK_SIZE;
            const int8_t *q = x->q + (i * blocks + b) * QUANT_BLOCK;
            for (size_t r = 0; r < PACKED_BLOCK_PANEL; r++) {
                int32_t dot = x->correction[i * blocks + b];
                for (size_t k = 0; k < QUANT_BLOCK; k++) dot += block[(k / 4 * PACKED_BLOCK_PANEL + r) * 4 + k % 4] * q[k];
                acc[r] = fmaf((float)dot, load_half(block + QUANT_Q8_SCALES + 2 * r) * x->scale[i * blocks + b], acc[r]);
            }
        }
    }
}

static void q4_any(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile, bool minimum) {
    size_t block_size = minimum ? QUANT_Q4M_BLOCK_SIZE : QUANT_Q4_BLOCK_SIZE;
    for (size_t i = 0; i < n; i++) {
        float *acc = tile + i * PACKED_BLOCK_PANEL;
        memset(acc, 0, PACKED_BLOCK_PANEL * sizeof *acc);
        for (size_t b = 0; b < blocks; b++) {
            const uint8_t *block = panel + b * block_size;
            const int8_t *q = x->q + (i * blocks + b) * QUANT_BLOCK;
            for (size_t r = 0; r < PACKED_BLOCK_PANEL; r++) {
                int32_t dot = minimum ? 0 : x->correction[i * blocks + b] / 16; /* −8 · sum */
                for (size_t k = 0; k < QUANT_BLOCK / 2; k++) {
                    int pair = block[(k / 4 * PACKED_BLOCK_PANEL + r) * 4 + k % 4];
                    dot += (pair & 15) * q[k] + (pair >> 4) * q[k + QUANT_BLOCK / 2];
                }
                acc[r] = fmaf((float)dot, load_half(block + QUANT_Q4_SCALES + 2 * r) * x->scale[i * blocks + b], acc[r]);
                if (minimum) acc[r] = fmaf(load_half(block + QUANT_Q4_MINIMA + 2 * r), x->total[i * blocks + b], acc[r]);
            }
        }
    }
}
static void q4_c(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { q4_any(panel, blocks, x, n, tile, false); }
static void q4m_c(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { q4_any(panel, blocks, x, n, tile, true); }

static void quantize_c(const float *x, size_t cols, int8_t *q, float *scale, int32_t *correction, float *total) {
    for (size_t b = 0; b * QUANT_BLOCK < cols; b++, q += QUANT_BLOCK) {
        size_t count = cols - b * QUANT_BLOCK < QUANT_BLOCK ? cols - b * QUANT_BLOCK : QUANT_BLOCK;
        const float *xb = x + b * QUANT_BLOCK;
        float max = 0;
        for (size_t k = 0; k < count; k++) max = fabsf(xb[k]) > max ? fabsf(xb[k]) : max;
        quant_block_scale(max, &scale[b]);
        float inverse = scale[b] > 0 ? 1.0f / scale[b] : 0;
        int32_t sum = 0;
        for (size_t k = 0; k < QUANT_BLOCK; k++) {
            float v = k < count ? rintf(xb[k] * inverse) : 0;
            q[k] = (int8_t)(v > 127 ? 127 : v >= -127 ? v : -127); /* NaN becomes −127, as the vector forms have it */
            sum += q[k];
        }
        correction[b] = -128 * sum;
        total[b] = scale[b] * (float)sum;
    }
}

const struct quant_kernels QUANT_KERNELS_C = {.name = "c", .usable = always, .f32 = f32_c, .bf16 = bf16_c, .f16 = f16_c, .lengthen = lengthen_c, .q8 = q8_c, .q4 = q4_c, .q4m = q4m_c, .block_rows = QUANT_TILE_ROWS, .block_unit = QUANT_TILE_ROWS, .quantize = quantize_c};
