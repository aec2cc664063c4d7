#include "tensor/dtype.h"

#include <math.h>
#include <string.h>

#include "tensor/quant.h"

static const struct {
    const char *name;
    uint32_t block, bytes;
} TYPES[TENSOR_TYPES] = {
    [TENSOR_F32] = {"F32", 1, 4},         [TENSOR_F16] = {"F16", 1, 2},         [TENSOR_BF16] = {"BF16", 1, 2},       [TENSOR_Q8_0] = {"Q8_0", 32, 34},
    [TENSOR_Q4_0] = {"Q4_0", 32, 18},     [TENSOR_Q4_1] = {"Q4_1", 32, 20},     [TENSOR_Q5_0] = {"Q5_0", 32, 22},     [TENSOR_Q5_1] = {"Q5_1", 32, 24},
    [TENSOR_Q4_K] = {"Q4_K", 256, 144},   [TENSOR_Q5_K] = {"Q5_K", 256, 176},   [TENSOR_Q6_K] = {"Q6_K", 256, 210},
};

const char *tensor_type_name(enum tensor_type t) { return TYPES[t].name; }
uint32_t tensor_block(enum tensor_type t) { return TYPES[t].block; }
uint32_t tensor_block_bytes(enum tensor_type t) { return TYPES[t].bytes; }

bool tensor_type_from_name(struct span name, enum tensor_type *t) {
    for (int i = 0; i < TENSOR_TYPES; i++)
        if (span_eq_nocase(name, span_str(TYPES[i].name))) {
            *t = (enum tensor_type)i;
            return true;
        }
    return false;
}

int tensor_size(enum tensor_type t, uint64_t rows, uint64_t cols, size_t *size) {
    uint64_t bytes;
    if (cols % TYPES[t].block) return E_INVALID;
    if (__builtin_mul_overflow(cols / TYPES[t].block, (uint64_t)TYPES[t].bytes, &bytes) || __builtin_mul_overflow(bytes, rows, &bytes) || bytes > SIZE_MAX / 2) return E_RANGE;
    *size = (size_t)bytes;
    return 0;
}

/* ---- reading ---- */

static float f16_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return quant_f16_to_f32(h);
}

static void q8_0(const uint8_t *b, float *y) {
    float d = f16_at(b);
    for (int i = 0; i < 32; i++) y[i] = (float)(int8_t)b[2 + i] * d;
}
static void q4_0(const uint8_t *b, float *y) {
    float d = f16_at(b);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)((b[2 + i] & 15) - 8) * d;
        y[i + 16] = (float)((b[2 + i] >> 4) - 8) * d;
    }
}
static void q4_1(const uint8_t *b, float *y) {
    float d = f16_at(b), m = f16_at(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)(b[4 + i] & 15) * d + m;
        y[i + 16] = (float)(b[4 + i] >> 4) * d + m;
    }
}
static uint32_t bits_at(const uint8_t *p) {
    uint32_t h;
    memcpy(&h, p, sizeof h);
    return h;
}
static void q5_0(const uint8_t *b, float *y) {
    float d = f16_at(b);
    uint32_t high = bits_at(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)((int)((b[6 + i] & 15u) | (high >> i & 1u) << 4) - 16) * d;
        y[i + 16] = (float)((int)((uint32_t)b[6 + i] >> 4 | (high >> (i + 16) & 1u) << 4) - 16) * d;
    }
}
static void q5_1(const uint8_t *b, float *y) {
    float d = f16_at(b), m = f16_at(b + 2);
    uint32_t high = bits_at(b + 4);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)((b[8 + i] & 15u) | (high >> i & 1u) << 4) * d + m;
        y[i + 16] = (float)((uint32_t)b[8 + i] >> 4 | (high >> (i + 16) & 1u) << 4) * d + m;
    }
}

/* The j-th of eight scales and minima of 6 bits, in 12 bytes. */
static void scale_k4(const uint8_t *s, int j, float *scale, float *min) {
    *scale = (float)(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
    *min = (float)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4);
}

static void k45(const uint8_t *b, const uint8_t *high, const uint8_t *q, float *y) {
    float d = f16_at(b), dmin = f16_at(b + 2), scale, min;
    for (int j = 0; j < 8; j++, y += 32) { /* two sub-blocks share 32 bytes: low halves, high halves */
        scale_k4(b + 4, j, &scale, &min);
        float ds = d * scale, m = dmin * min;
        for (int l = 0; l < 32; l++) {
            int v = j % 2 ? q[j / 2 * 32 + l] >> 4 : q[j / 2 * 32 + l] & 15;
            if (high) v += (high[l] >> j & 1) << 4;
            y[l] = ds * (float)v - m;
        }
    }
}
static void q4_k(const uint8_t *b, float *y) { k45(b, NULL, b + 16, y); }
static void q5_k(const uint8_t *b, float *y) { k45(b, b + 16, b + 48, y); }
static void q6_k(const uint8_t *b, float *y) {
    const uint8_t *low = b, *high = b + 128, *scales = b + 192;
    float d = f16_at(b + 208);
    for (int n = 0; n < 2; n++, y += 128, low += 64, high += 32, scales += 8)
        for (int l = 0; l < 32; l++)
            for (int part = 0; part < 4; part++) {
                int q = (part < 2 ? low[l + part * 32] & 15 : low[l + (part - 2) * 32] >> 4) | (high[l] >> 2 * part & 3) << 4;
                y[l + part * 32] = d * (float)(int8_t)scales[l / 16 + 2 * part] * (float)(q - 32);
            }
}

static void (*const BLOCKS[TENSOR_TYPES])(const uint8_t *block, float *y) = {
    [TENSOR_Q8_0] = q8_0, [TENSOR_Q4_0] = q4_0, [TENSOR_Q4_1] = q4_1, [TENSOR_Q5_0] = q5_0, [TENSOR_Q5_1] = q5_1, [TENSOR_Q4_K] = q4_k, [TENSOR_Q5_K] = q5_k, [TENSOR_Q6_K] = q6_k,
};

void tensor_to_f32(enum tensor_type t, const void *data, size_t n, float *out) {
    const uint8_t *at = data;
    ASSERT(n % TYPES[t].block == 0);
    switch (t) {
    case TENSOR_F32: memcpy(out, at, n * sizeof *out); return;
    case TENSOR_F16:
        for (size_t i = 0; i < n; i++) out[i] = f16_at(at + 2 * i);
        return;
    case TENSOR_BF16:
        for (size_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)(at[2 * i] | at[2 * i + 1] << 8) << 16;
            memcpy(&out[i], &bits, sizeof bits);
        }
        return;
    default:
        for (size_t i = 0; i < n; i += TYPES[t].block, at += TYPES[t].bytes) BLOCKS[t](at, out + i);
    }
}

/* ---- writing ---- */

static void put_f16(uint8_t *p, float f) {
    uint16_t h = quant_f16_from_f32(f);
    memcpy(p, &h, sizeof h);
}

static void to_q8_0(const float *x, uint8_t *b) {
    float most = 0;
    for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
    float d = most / 127, inverse = d != 0 ? 1 / d : 0;
    put_f16(b, d);
    for (int i = 0; i < 32; i++) b[2 + i] = (uint8_t)(int8_t)roundf(x[i] * inverse);
}

static int four(float v) { return v >= 15 ? 15 : v > 0 ? (int)v : 0; }

static void to_q4_0(const float *x, uint8_t *b) {
    float most = 0, value = 0; /* the value of the largest magnitude becomes −8 */
    for (int i = 0; i < 32; i++)
        if (fabsf(x[i]) > most) {
            most = fabsf(x[i]);
            value = x[i];
        }
    float d = value / -8, inverse = d != 0 ? 1 / d : 0;
    put_f16(b, d);
    for (int i = 0; i < 16; i++) b[2 + i] = (uint8_t)(four(x[i] * inverse + 8.5f) | four(x[i + 16] * inverse + 8.5f) << 4);
}

static void to_q4_1(const float *x, uint8_t *b) {
    float low = x[0], high = x[0];
    for (int i = 1; i < 32; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    float d = (high - low) / 15, inverse = d != 0 ? 1 / d : 0;
    put_f16(b, d);
    put_f16(b + 2, low);
    for (int i = 0; i < 16; i++) b[4 + i] = (uint8_t)(four((x[i] - low) * inverse + 0.5f) | four((x[i + 16] - low) * inverse + 0.5f) << 4);
}

int tensor_from_f32(enum tensor_type t, const float *x, size_t n, void *out) {
    uint8_t *at = out;
    ASSERT(n % TYPES[t].block == 0);
    switch (t) {
    case TENSOR_F32: memcpy(at, x, n * sizeof *x); return 0;
    case TENSOR_F16:
        for (size_t i = 0; i < n; i++) put_f16(at + 2 * i, x[i]);
        return 0;
    case TENSOR_BF16:
        for (size_t i = 0; i < n; i++) { /* to nearest, ties to even; a nan stays one */
            uint32_t bits;
            memcpy(&bits, &x[i], sizeof bits);
            bool nan = (bits & 0x7fffffff) > 0x7f800000;
            uint16_t h = nan ? (uint16_t)(bits >> 16 | 0x40) : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
            memcpy(at + 2 * i, &h, sizeof h);
        }
        return 0;
    case TENSOR_Q8_0:
        for (size_t i = 0; i < n; i += 32, at += 34) to_q8_0(x + i, at);
        return 0;
    case TENSOR_Q4_0:
        for (size_t i = 0; i < n; i += 32, at += 18) to_q4_0(x + i, at);
        return 0;
    case TENSOR_Q4_1:
        for (size_t i = 0; i < n; i += 32, at += 20) to_q4_1(x + i, at);
        return 0;
    default: return E_UNSUPPORTED;
    }
}
