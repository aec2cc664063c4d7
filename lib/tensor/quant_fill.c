/*
 * Rows of a model file into panels. Where the kind has the stored type's own numbers they are moved and nothing else; all else goes through f32, a few
 * blocks at a time, so that no matrix is ever widened whole.
 */
#include <math.h>

#include "base/alloc.h"
#include "tensor/quant_internal.h"

enum { BLOCK_BYTES_MAX = 144 /* Q4_K */, F16_INFINITE = 0x7c00, BF16_INFINITE = 0x7f80 };

enum packed_kind packed_kind_for(enum tensor_type type) {
    switch (type) {
    case TENSOR_F16: return PACKED_F16;
    case TENSOR_BF16: return PACKED_BF16;
    case TENSOR_Q4_0: return PACKED_Q4;
    case TENSOR_Q4_1:
    case TENSOR_Q4_K: return PACKED_Q4M;
    case TENSOR_Q8_0:
    case TENSOR_Q5_0:
    case TENSOR_Q5_1:
    case TENSOR_Q5_K:
    case TENSOR_Q6_K: return PACKED_Q8;
    case TENSOR_F32:
    case TENSOR_TYPES: break;
    }
    return PACKED_F32;
}

/* --- plain types as they are --- */

static int fill_f32(const struct packed *w, float *panel, const void *const *rows) {
    float bad = 0; /* stays 0 unless something is not finite: 0 · inf is nan */
    for (size_t k0 = 0; k0 < w->cols; k0 += 16) { /* one cache line of each row at a time */
        size_t count = w->cols - k0 < 16 ? w->cols - k0 : 16;
        for (size_t r = 0; r < PACKED_FLOAT_PANEL; r++) {
            float line[16] = {0};
            if (rows[r]) memcpy(line, (const uint8_t *)rows[r] + k0 * sizeof(float), count * sizeof(float));
            for (size_t k = 0; k < count; k++) {
                bad += line[k] * 0;
                panel[(k0 + k) * PACKED_FLOAT_PANEL + r] = line[k];
            }
        }
    }
    return bad == 0 ? 0 : E_RANGE;
}

/* f16: two rows at a time, those that share 32 bits of a column: half as many stores, which are what this takes. */
static int fill_f16(const struct packed *w, uint32_t *panel, const void *const *rows) {
    unsigned bad = 0;
    for (size_t k0 = 0; k0 < w->cols; k0 += 32) {
        size_t count = w->cols - k0 < 32 ? w->cols - k0 : 32;
        for (size_t r = 0; r < PACKED_FLOAT_PANEL; r += 2) {
            uint16_t low[32] = {0}, high[32] = {0};
            uint32_t *to = panel + (k0 * PACKED_FLOAT_PANEL + r) / 2;
            if (rows[r]) memcpy(low, (const uint8_t *)rows[r] + k0 * sizeof *low, count * sizeof *low);
            if (rows[r + 1]) memcpy(high, (const uint8_t *)rows[r + 1] + k0 * sizeof *high, count * sizeof *high);
            for (size_t k = 0; k < 32; k++) bad |= (unsigned)((low[k] & F16_INFINITE) == F16_INFINITE) | (unsigned)((high[k] & F16_INFINITE) == F16_INFINITE);
            for (size_t k = 0; k < count; k++) to[k * (PACKED_FLOAT_PANEL / 2)] = (uint32_t)high[k] << 16 | low[k];
        }
    }
    return bad ? E_RANGE : 0;
}

/* bf16: pairs of a row, as they lie in the file; zeros behind the last column. */
static int fill_bf16(const struct packed *w, uint32_t *panel, const void *const *rows) {
    unsigned bad = 0;
    for (size_t k0 = 0; k0 < w->cols; k0 += 32) {
        size_t count = w->cols - k0 < 32 ? w->cols - k0 : 32;
        for (size_t r = 0; r < PACKED_FLOAT_PANEL; r++) {
            uint32_t pairs[16] = {0}, *to = panel + quant_half_place(PACKED_BF16, w->cols, r, k0) / sizeof *to;
            if (rows[r]) memcpy(pairs, (const uint8_t *)rows[r] + k0 * sizeof(uint16_t), count * sizeof(uint16_t));
            for (size_t k = 0; k < 16; k++) {
                bad |= (unsigned)((pairs[k] & BF16_INFINITE) == BF16_INFINITE) | (unsigned)((pairs[k] >> 16 & BF16_INFINITE) == BF16_INFINITE);
                to[k * QUANT_SIDE] = pairs[k];
            }
        }
    }
    return bad ? E_RANGE : 0;
}

/* --- blocks as they are: four bytes of a row at a time --- */

static uint16_t half_at(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }
static void put_half(uint8_t *at, uint16_t h) { memcpy(at, &h, sizeof h); }
static bool finite_half(uint16_t h) { return (h & F16_INFINITE) != F16_INFINITE; }
static void put_four(uint8_t *block, size_t group, size_t r, const uint8_t *four, uint32_t flip) {
    uint32_t bits;
    memcpy(&bits, four, sizeof bits);
    bits ^= flip;
    memcpy(block + (group * PACKED_BLOCK_PANEL + r) * 4, &bits, sizeof bits);
}

static int fill_same_blocks(const struct packed *w, uint8_t *panel, enum tensor_type type, const void *const *rows) {
    static const uint8_t nothing[BLOCK_BYTES_MAX];
    size_t unit = QUANT_KINDS[w->kind].unit, size = tensor_block_bytes(type), head = type == TENSOR_Q4_1 ? 4 : 2;
    size_t groups = type == TENSOR_Q8_0 ? 8 : 4, scales = type == TENSOR_Q8_0 ? QUANT_Q8_SCALES : QUANT_Q4_SCALES;
    uint32_t flip = type == TENSOR_Q8_0 ? 0x80808080u : 0; /* −128 … 127 to 0 … 255 */
    for (size_t b = 0; b < quant_block_count(w->cols); b++)
        for (size_t r = 0; r < PACKED_BLOCK_PANEL; r++) {
            const uint8_t *from = rows[r] ? (const uint8_t *)rows[r] + b * size : nothing;
            uint8_t *block = panel + b * unit;
            uint16_t d = half_at(from), m = half_at(from + 2);
            if (!finite_half(d) || (head == 4 && !finite_half(m))) return E_RANGE;
            for (size_t g = 0; g < groups; g++) put_four(block, g, r, from + head + 4 * g, flip);
            put_half(block + scales + 2 * r, d);
            if (head == 4) put_half(block + QUANT_Q4_MINIMA + 2 * r, m);
        }
    return 0;
}

/* Q4_K's eight blocks of 32 have 4 bits, a scale and a minimum each, as q4m has: their products with d and dmin are rounded to f16, the bits move. */
static int fill_q4_k(const struct packed *w, uint8_t *panel, const void *const *rows) {
    enum { PARTS = TENSOR_BLOCK_MAX / QUANT_BLOCK };
    static const uint8_t nothing[BLOCK_BYTES_MAX];
    for (size_t r = 0; r < PACKED_BLOCK_PANEL; r++)
        for (size_t b = 0; b < w->cols / TENSOR_BLOCK_MAX; b++) {
            const uint8_t *from = rows[r] ? (const uint8_t *)rows[r] + b * tensor_block_bytes(TENSOR_Q4_K) : nothing, *scales = from + 4;
            if (!finite_half(half_at(from)) || !finite_half(half_at(from + 2))) return E_RANGE;
            float d = quant_f16_to_f32(half_at(from)), dmin = quant_f16_to_f32(half_at(from + 2));
            for (size_t i = 0; i < PARTS; i++) {
                uint8_t *block = panel + (b * PARTS + i) * QUANT_Q4M_BLOCK_SIZE, bytes[QUANT_BLOCK / 2];
                const uint8_t *q = from + 16 + i / 2 * QUANT_BLOCK;
                int scale = i < 4 ? scales[i] & 63 : (scales[i + 4] & 15) | (scales[i - 4] >> 6) << 4;
                int minimum = i < 4 ? scales[i + 4] & 63 : scales[i + 4] >> 4 | (scales[i] >> 6) << 4;
                uint16_t h = quant_f16_from_f32(d * (float)scale), m = quant_f16_from_f32(-dmin * (float)minimum);
                if (!finite_half(h) || !finite_half(m)) return E_RANGE;
                for (size_t k = 0; k < QUANT_BLOCK / 2; k++) {
                    unsigned low = i % 2 ? q[k] >> 4 : q[k] & 15, high = i % 2 ? q[k + 16] >> 4 : q[k + 16] & 15;
                    bytes[k] = (uint8_t)(low | high << 4);
                }
                for (size_t g = 0; g < 4; g++) put_four(block, g, r, bytes + 4 * g, 0);
                put_half(block + QUANT_Q4_SCALES + 2 * r, h);
                put_half(block + QUANT_Q4_MINIMA + 2 * r, m);
            }
        }
    return 0;
}

/* --- through f32: up to 32 values of one row into their place in a panel's block --- */

/* The least and the largest of a block; false where a value is not finite. */
static bool block_range(const float *x, size_t count, float *low, float *high) {
    float least = x[0], most = x[0], bad = 0;
    for (size_t k = 0; k < count; k++) {
        bad += x[k] * 0;
        least = x[k] < least ? x[k] : least;
        most = x[k] > most ? x[k] : most;
    }
    *low = least;
    *high = most;
    return bad == 0; /* nan where a value is not finite */
}

/* To nearest even: what is added leaves no bits for a fraction. */
static int whole_within(float v, int low, int high) {
    v = v > (float)high ? (float)high : v < (float)low ? (float)low : v;
    return (int)(v + 12582912.0f - 12582912.0f);
}

static int block_q8(uint8_t *block, size_t r, const float *x, size_t count) {
    float low, high;
    if (!block_range(x, count, &low, &high)) return E_RANGE;
    float max = -low > high ? -low : high;
    if (max > 127.0f * 65504.0f) return E_RANGE;
    uint16_t h = quant_f16_from_f32(max / 127.0f);
    float scale = quant_f16_to_f32(h), inverse = scale > 0 ? 1.0f / scale : 0;
    uint8_t bytes[QUANT_BLOCK];
    memset(bytes, 128, sizeof bytes);
    for (size_t k = 0; k < count; k++) bytes[k] = (uint8_t)(128 + whole_within(x[k] * inverse, -127, 127));
    for (size_t g = 0; g < QUANT_BLOCK / 4; g++) put_four(block, g, r, bytes + 4 * g, 0);
    put_half(block + QUANT_Q8_SCALES + 2 * r, h);
    return 0;
}

static void put_nibbles(uint8_t *block, size_t r, const uint8_t q[QUANT_BLOCK]) {
    uint8_t bytes[QUANT_BLOCK / 2];
    for (size_t k = 0; k < QUANT_BLOCK / 2; k++) bytes[k] = (uint8_t)(q[k] | q[k + QUANT_BLOCK / 2] << 4);
    for (size_t g = 0; g < 4; g++) put_four(block, g, r, bytes + 4 * g, 0);
}

/* Q4_0's way: the value of the largest magnitude becomes −8, so that all 16 steps are used. */
static int block_q4(uint8_t *block, size_t r, const float *x, size_t count) {
    float low, high;
    if (!block_range(x, count, &low, &high)) return E_RANGE;
    float scale = (-low > high ? low : high) / -8.0f;
    if (fabsf(scale) > 65504.0f) return E_RANGE;
    uint16_t h = quant_f16_from_f32(scale);
    scale = quant_f16_to_f32(h);
    float inverse = scale != 0 ? 1.0f / scale : 0;
    uint8_t q[QUANT_BLOCK];
    memset(q, 8, sizeof q);
    for (size_t k = 0; k < count; k++) q[k] = (uint8_t)(8 + whole_within(x[k] * inverse, -8, 7));
    put_nibbles(block, r, q);
    put_half(block + QUANT_Q4_SCALES + 2 * r, h);
    return 0;
}

/* Q4_1's way: 15 steps from the least to the largest. */
static int block_q4m(uint8_t *block, size_t r, const float *x, size_t count) {
    float low, high;
    if (!block_range(x, count, &low, &high)) return E_RANGE;
    if (fabsf(low) > 65504.0f || (high - low) / 15.0f > 65504.0f) return E_RANGE;
    uint16_t h = quant_f16_from_f32((high - low) / 15.0f), m = quant_f16_from_f32(low);
    float scale = quant_f16_to_f32(h), minimum = quant_f16_to_f32(m), inverse = scale > 0 ? 1.0f / scale : 0;
    uint8_t q[QUANT_BLOCK] = {0};
    for (size_t k = 0; k < count; k++) q[k] = (uint8_t)whole_within((x[k] - minimum) * inverse, 0, 15);
    put_nibbles(block, r, q);
    put_half(block + QUANT_Q4_SCALES + 2 * r, h);
    put_half(block + QUANT_Q4_MINIMA + 2 * r, m);
    return 0;
}

/* `count` values of row r from column k on, to a kind of floats. */
static int put_floats(const struct packed *w, uint8_t *panel, size_t r, size_t k, const float *x, size_t count) {
    bool bad = false;
    for (size_t i = 0; i < count; i++) {
        if (w->kind == PACKED_F32) memcpy(panel + ((k + i) * PACKED_FLOAT_PANEL + r) * sizeof(float), &x[i], sizeof x[i]);
        else {
            uint16_t h = w->kind == PACKED_F16 ? quant_f16_from_f32(x[i]) : quant_bf16_from_f32(x[i]), infinite = w->kind == PACKED_F16 ? F16_INFINITE : BF16_INFINITE;
            bad |= (h & infinite) == infinite;
            put_half(panel + quant_half_place(w->kind, w->cols, r, k + i), h);
            if (w->kind == PACKED_SPLIT) put_half(panel + quant_half_place(w->kind, w->cols, r, k + i) + QUANT_SPLIT_LOW, quant_bf16_from_f32(x[i] - quant_bf16_to_f32(h)));
        }
        bad |= !isfinite(x[i]);
    }
    return bad ? E_RANGE : 0;
}

static int fill_widened(const struct packed *w, uint8_t *panel, enum tensor_type type, const void *const *rows) {
    float x[TENSOR_BLOCK_MAX];
    size_t values = tensor_block(type), size = tensor_block_bytes(type), unit = QUANT_KINDS[w->kind].unit;
    for (size_t r = 0; r < QUANT_KINDS[w->kind].panel_rows; r++)
        for (size_t k = 0; k < w->cols; k += TENSOR_BLOCK_MAX) {
            size_t count = w->cols - k < TENSOR_BLOCK_MAX ? w->cols - k : TENSOR_BLOCK_MAX;
            int result = 0;
            if (rows[r]) tensor_to_f32(type, (const uint8_t *)rows[r] + k / values * size, count, x);
            else memset(x, 0, sizeof x);
            if (!QUANT_KINDS[w->kind].blocks) result = put_floats(w, panel, r, k, x, count);
            for (size_t i = 0; QUANT_KINDS[w->kind].blocks && i < count && result == 0; i += QUANT_BLOCK) {
                uint8_t *block = panel + (k + i) / QUANT_BLOCK * unit;
                size_t n = count - i < QUANT_BLOCK ? count - i : QUANT_BLOCK;
                result = w->kind == PACKED_Q8 ? block_q8(block, r, x + i, n) : w->kind == PACKED_Q4 ? block_q4(block, r, x + i, n) : block_q4m(block, r, x + i, n);
            }
            if (result != 0) return result;
        }
    return 0;
}

int packed_fill(struct packed *w, size_t panel, enum tensor_type type, const void *const rows[PACKED_PANEL_MAX]) {
    ASSERT(panel < w->panels && type < TENSOR_TYPES && w->cols % tensor_block(type) == 0);
    uint8_t *at = w->data + panel * w->panel_size;
    size_t whole = w->cols / QUANT_BLOCK * QUANT_BLOCK;
    if (w->kind == PACKED_SHORT) return quant_short_fill(w, at, type, rows);
    if (quant_in_lanes(w->kind) && whole < w->cols)
        for (size_t lane = 0, last = quant_half_place(w->kind, w->cols, 0, whole); lane < QUANT_LANES; lane++) /* what follows the last column */
            memset(at + lane * quant_lane_size(w->kind, w->cols) + last, 0, quant_lane_size(w->kind, 1));
    if (type == TENSOR_F32 && w->kind == PACKED_F32) return fill_f32(w, (float *)(void *)at, rows);
    if (type == TENSOR_F16 && w->kind == PACKED_F16) return fill_f16(w, (uint32_t *)(void *)at, rows);
    if (type == TENSOR_BF16 && w->kind == PACKED_BF16) return fill_bf16(w, (uint32_t *)(void *)at, rows);
    if ((type == TENSOR_Q8_0 && w->kind == PACKED_Q8) || (type == TENSOR_Q4_0 && w->kind == PACKED_Q4) || (type == TENSOR_Q4_1 && w->kind == PACKED_Q4M))
        return fill_same_blocks(w, at, type, rows);
    if (type == TENSOR_Q4_K && w->kind == PACKED_Q4M) return fill_q4_k(w, at, rows);
    return fill_widened(w, at, type, rows);
}
