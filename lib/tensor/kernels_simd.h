/*
 * The vector kernels, written once over a few primitives that kernels_ISA.c defines before it includes this file:
 *   W                          lanes of a vector `vf`; `vm` is a mask of lanes
 *   v_load_all, v_store_all    W lanes, any alignment;  v_load_some, v_store_some: the first k < W (others 0, untouched)
 *   v_set v_add v_sub v_mul v_div v_sqrt v_max v_min v_fma(a, b, c) = ab + c, v_fnma = c - ab
 *   v_gt(a, b), v_select(mask, yes, no), v_scale2(x, n) = x 2^n for whole n in -126..127, v_round, v_sum, v_most (fixed order)
 *   v_sum_f64 (lanes widened to f64 before they are added)
 *   MR                         rows of a matrix product's tile;  pack_square(from, stride, to, to_stride): to = from transposed, W by W
 *   ISA_NAME, ISA_TABLE
 * Each kernel is a step on k lanes, always inlined: with k = W known at compile time in the loop, with the rest behind it.
 * Private to lib/tensor.
 */
#include <math.h>

#include "tensor/kernels_list.h"

#define INLINE static inline __attribute__((always_inline))

INLINE vf load(const float *p, size_t k) { return k == W ? v_load_all(p) : v_load_some(p, k); }
INLINE void store(float *p, vf v, size_t k) {
    if (k == W) v_store_all(p, v);
    else v_store_some(p, v, k);
}
/* Runs `step` with i at each vector and k its lanes. */
#define EACH(n, step)                                 \
    do {                                              \
        size_t i = 0;                                 \
        for (; i + W <= (n); i += W) {                \
            enum { k = W };                           \
            step;                                     \
        }                                             \
        if (i < (n)) {                                \
            size_t k = (n) - i;                       \
            step;                                     \
        }                                             \
    } while (0)

/* e^x: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by Cephes' polynomial of degree 7 (Moshier), then times 2^n in two halves, which n = 128 needs. */
INLINE vf exp_of(vf x) {
    vf at = v_min(v_set(88.8f), v_max(v_set(-87.4f), x)); /* nan is the second operand: it stays */
    vf n = v_round(v_mul(at, v_set(1.44269504088896341f)));
    vf r = v_fnma(n, v_set(0.693359375f), at);
    r = v_fnma(n, v_set(-2.12194440e-4f), r);
    vf p = v_set(1.9875691500e-4f);
    p = v_fma(p, r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), v_add(r, v_set(1)));
    vf y = v_scale2(p, n);
    y = v_select(v_gt(v_set(-87.3f), x), v_set(0), y);
    return v_select(v_gt(x, v_set(88.7f)), v_set(INFINITY), y);
}
INLINE vf sigmoid_of(vf x) { return v_div(v_set(1), v_add(v_set(1), exp_of(v_sub(v_set(0), x)))); }

static float simd_dot(const float *a, const float *b, size_t n) {
    vf s0 = v_set(0), s1 = v_set(0), s2 = v_set(0), s3 = v_set(0);
    size_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
        s0 = v_fma(v_load_all(a + i), v_load_all(b + i), s0);
        s1 = v_fma(v_load_all(a + i + W), v_load_all(b + i + W), s1);
        s2 = v_fma(v_load_all(a + i + 2 * W), v_load_all(b + i + 2 * W), s2);
        s3 = v_fma(v_load_all(a + i + 3 * W), v_load_all(b + i + 3 * W), s3);
    }
    for (; i + W <= n; i += W) s0 = v_fma(v_load_all(a + i), v_load_all(b + i), s0);
    if (i < n) s1 = v_fma(v_load_some(a + i, n - i), v_load_some(b + i, n - i), s1);
    return v_sum(v_add(v_add(s0, s1), v_add(s2, s3)));
}
static void simd_axpy(float alpha, const float *x, float *y, size_t n) {
    vf a = v_set(alpha);
    EACH(n, store(y + i, v_fma(a, load(x + i, k), load(y + i, k)), k));
}
static void simd_add(const float *x, float *y, size_t n) { EACH(n, store(y + i, v_add(load(x + i, k), load(y + i, k)), k)); }
static void simd_scale(float alpha, float *x, size_t n) {
    vf a = v_set(alpha);
    EACH(n, store(x + i, v_mul(a, load(x + i, k)), k));
}
static double simd_sum_squares(const float *x, size_t n) {
    vd s0 = v_zero_f64(), s1 = v_zero_f64();
    EACH(n, v_square_f64(load(x + i, k), &s0, &s1));
    return v_sum_f64(s0, s1);
}
static float simd_max(const float *x, size_t n) {
    vf most = v_set(-INFINITY);
    size_t i = 0;
    for (; i + W <= n; i += W) most = v_max(v_load_all(x + i), most);
    float m = v_most(most);
    for (; i < n; i++)
        if (x[i] > m) m = x[i];
    return m;
}
static void simd_maxima(const float *x, float *y, size_t n) {
    for (; n >= KERNELS_MAXIMA_BLOCK; n -= KERNELS_MAXIMA_BLOCK, x += KERNELS_MAXIMA_BLOCK, y++) {
        vf most = v_set(-INFINITY), none = v_set(0); /* 0 times what is finite is 0 */
        for (size_t i = 0; i < KERNELS_MAXIMA_BLOCK; i += W) {
            vf v = v_load_all(x + i);
            most = v_max(v, most);
            none = v_fma(v, v_set(0), none);
        }
        *y = v_most(most) + v_sum(none);
    }
    if (n > 0) *y = simd_max(x, n);
    for (size_t i = 0; i < n; i++) *y += 0 * x[i];
}
static void simd_exp(const float *x, float *y, size_t n) { EACH(n, store(y + i, exp_of(load(x + i, k)), k)); }

/* x = e^(scale x - most); returns their sum. */
INLINE float exp_row(float *x, float scale, float most, size_t n) {
    vf s = v_set(scale), m = v_set(most), sum = v_set(0);
    size_t i = 0;
    for (; i + W <= n; i += W) {
        vf e = exp_of(v_sub(v_mul(s, v_load_all(x + i)), m));
        v_store_all(x + i, e);
        sum = v_add(sum, e);
    }
    float rest = 0;
    if (i < n) {
        v_store_some(x + i, exp_of(v_sub(v_mul(s, v_load_some(x + i, n - i)), m)), n - i);
        for (; i < n; i++) rest += x[i];
    }
    return v_sum(sum) + rest;
}
static float simd_softmax_part(float *x, float scale, float *most, size_t n) {
    vf s = v_set(scale), best = v_set(-INFINITY);
    size_t i = 0;
    for (; i + W <= n; i += W) best = v_max(v_mul(s, v_load_all(x + i)), best);
    *most = v_most(best);
    for (; i < n; i++)
        if (scale * x[i] > *most) *most = scale * x[i];
    return exp_row(x, scale, *most, n);
}
static float simd_softmax(float *x, float scale, size_t n) {
    float most, sum = simd_softmax_part(x, scale, &most, n);
    simd_scale(1 / sum, x, n);
    return most + logf(sum);
}
static void simd_softmax_again(float *x, float scale, float log_sum, size_t n) {
    vf s = v_set(scale), m = v_set(log_sum);
    EACH(n, store(x + i, exp_of(v_sub(v_mul(s, load(x + i, k)), m)), k));
}
static void simd_softmax_backward(const float *p, const float *dp, float delta, float scale, float *ds, size_t n) {
    vf d = v_set(delta), s = v_set(scale);
    EACH(n, store(ds + i, v_mul(v_mul(s, load(p + i, k)), v_sub(load(dp + i, k), d)), k));
}

static float simd_rmsnorm(const float *x, const float *weight, float eps, float *y, size_t n) {
    float rstd = (float)(1 / sqrt(simd_sum_squares(x, n) / (double)n + (double)eps));
    vf r = v_set(rstd);
    EACH(n, store(y + i, v_mul(v_mul(load(x + i, k), r), load(weight + i, k)), k));
    return rstd;
}
static void simd_rmsnorm_backward(const float *x, const float *weight, const float *dy, float rstd, float *dx, float *dweight, size_t n) {
    vf gx = v_set(0);
    EACH(n, gx = v_fma(v_mul(load(dy + i, k), load(weight + i, k)), load(x + i, k), gx));
    vf c = v_set(v_sum(gx) / (float)n * rstd * rstd), r = v_set(rstd);
    EACH(n, store(dx + i, v_fma(r, v_fnma(load(x + i, k), c, v_mul(load(dy + i, k), load(weight + i, k))), load(dx + i, k)), k));
    if (dweight) EACH(n, store(dweight + i, v_fma(v_mul(load(dy + i, k), load(x + i, k)), r, load(dweight + i, k)), k));
}

static void simd_layernorm(const float *x, const float *weight, const float *bias, float eps, float *y, float *mean, float *rstd, size_t n) {
    vf sum = v_set(0);
    EACH(n, sum = v_add(sum, load(x + i, k)));
    float m = v_sum(sum) / (float)n;
    vd s0 = v_zero_f64(), s1 = v_zero_f64();
    vf mu = v_set(m);
    size_t whole = n / W * W;
    for (size_t i = 0; i < whole; i += W) v_square_f64(v_sub(v_load_all(x + i), mu), &s0, &s1);
    double square = v_sum_f64(s0, s1);
    for (size_t i = whole; i < n; i++) square += (double)(x[i] - m) * (double)(x[i] - m);
    float s = (float)(1 / sqrt(square / (double)n + (double)eps));
    vf r = v_set(s);
    if (bias) EACH(n, store(y + i, v_fma(v_mul(v_sub(load(x + i, k), mu), r), load(weight + i, k), load(bias + i, k)), k));
    else EACH(n, store(y + i, v_mul(v_mul(v_sub(load(x + i, k), mu), r), load(weight + i, k)), k));
    *mean = m;
    *rstd = s;
}
static void simd_layernorm_backward(const float *x, const float *weight, const float *dy, float mean, float rstd, float *dx, float *dweight,
                                    float *dbias, size_t n) {
    vf g = v_set(0), gx = v_set(0), mu = v_set(mean), r = v_set(rstd);
    EACH(n, { /* lanes beyond n have weight 0 */
        vf d = v_mul(load(dy + i, k), load(weight + i, k));
        g = v_add(g, d);
        gx = v_fma(d, v_mul(v_sub(load(x + i, k), mu), r), gx);
    });
    vf a = v_set(v_sum(g) / (float)n), b = v_set(v_sum(gx) / (float)n);
    EACH(n, {
        vf d = load(dy + i, k);
        vf hat = v_mul(v_sub(load(x + i, k), mu), r);
        vf inner = v_fnma(hat, b, v_sub(v_mul(d, load(weight + i, k)), a));
        store(dx + i, v_fma(r, inner, load(dx + i, k)), k);
        if (dweight) store(dweight + i, v_fma(d, hat, load(dweight + i, k)), k);
        if (dbias) store(dbias + i, v_add(d, load(dbias + i, k)), k);
    });
}

static void simd_silu_mul(const float *gate, const float *up, float *y, size_t n) {
    EACH(n, {
        vf g = load(gate + i, k);
        store(y + i, v_mul(v_div(g, v_add(v_set(1), exp_of(v_sub(v_set(0), g)))), load(up + i, k)), k);
    });
}
static void simd_silu_mul_backward(const float *gate, const float *up, const float *dy, float *dgate, float *dup, size_t n) {
    EACH(n, {
        vf g = load(gate + i, k);
        vf s = sigmoid_of(g);
        vf d = load(dy + i, k);
        vf u = load(up + i, k);
        vf slope = v_fma(v_mul(g, s), v_sub(v_set(1), s), s);
        store(dgate + i, v_mul(v_mul(d, u), slope), k);
        store(dup + i, v_mul(v_mul(d, g), s), k);
    });
}

#define GELU_C 1.5957691216057308f /* 2 sqrt(2/pi) */
static void simd_gelu(const float *x, float *y, size_t n) {
    EACH(n, {
        vf v = load(x + i, k);
        vf u2 = v_mul(v_mul(v_set(GELU_C), v), v_fma(v_mul(v_set(0.044715f), v), v, v_set(1)));
        store(y + i, v_div(v, v_add(v_set(1), exp_of(v_sub(v_set(0), u2)))), k);
    });
}
/* 1 - Phi(|x|) = e^(-z^2) (a1 t + ... + a5 t^5) / 2, z = |x| / sqrt 2, t = 1 / (1 + 0.3275911 z) (Abramowitz and Stegun 1964, 7.1.26). */
static void simd_gelu_erf(const float *x, float *y, size_t n) {
    EACH(n, {
        vf v = load(x + i, k);
        vf z = v_mul(v_max(v_sub(v_set(0), v), v), v_set(0.70710678118654752f));
        vf t = v_div(v_set(1), v_fma(v_set(0.3275911f), z, v_set(1)));
        vf p = v_fma(v_set(1.061405429f), t, v_set(-1.453152027f));
        p = v_fma(p, t, v_set(1.421413741f));
        p = v_fma(p, t, v_set(-0.284496736f));
        p = v_mul(v_fma(p, t, v_set(0.254829592f)), t);
        vf q = v_mul(v_mul(v_set(0.5f), p), exp_of(v_mul(z, v_sub(v_set(0), z))));
        store(y + i, v_mul(v, v_select(v_gt(v, v_set(0)), v_sub(v_set(1), q), q)), k);
    });
}
static void simd_gelu_backward(const float *x, const float *dy, float *dx, size_t n) {
    EACH(n, {
        vf v = load(x + i, k);
        vf square = v_mul(v, v);
        vf u2 = v_mul(v_mul(v_set(GELU_C), v), v_fma(v_set(0.044715f), square, v_set(1)));
        vf s = sigmoid_of(u2);
        vf slope = v_mul(v_set(GELU_C), v_fma(v_set(3 * 0.044715f), square, v_set(1)));
        vf bend = v_mul(s, v_sub(v_set(1), s));
        vf curved = v_select(v_gt(bend, v_set(0)), v_mul(v_mul(v, bend), slope), v_set(0));
        store(dx + i, v_mul(load(dy + i, k), v_add(s, curved)), k);
    });
}

static void simd_rope(float *x, const float *cos_sin, float sign, size_t heads, size_t head_dim) {
    size_t half = head_dim / 2;
    vf turn = v_set(sign);
    for (size_t h = 0; h < heads; h++, x += head_dim)
        EACH(half, {
            vf c = load(cos_sin + i, k);
            vf s = v_mul(turn, load(cos_sin + half + i, k));
            vf a = load(x + i, k);
            vf b = load(x + half + i, k);
            store(x + i, v_fnma(b, s, v_mul(a, c)), k);
            store(x + half + i, v_fma(a, s, v_mul(b, c)), k);
        });
}
static void simd_rope_pairs(float *x, const float *cos_sin, float sign, size_t heads, size_t head_dim) {
    size_t half = head_dim / 2;
    for (size_t h = 0; h < heads; h++, x += head_dim)
        for (size_t i = 0; i < half; i++) {
            float c = cos_sin[i], s = sign * cos_sin[half + i], a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = a * c - b * s;
            x[2 * i + 1] = b * c + a * s;
        }
}

static float simd_cross_entropy(float *logits, size_t label, float dlogits_scale, size_t n) {
    float most = simd_max(logits, n), at = logits[label], sum;
    if (dlogits_scale != 0) {
        sum = exp_row(logits, 1, most, n);
        simd_scale(dlogits_scale / sum, logits, n);
        logits[label] -= dlogits_scale;
    } else {
        vf m = v_set(most), total = v_set(0);
        size_t i = 0;
        for (; i + W <= n; i += W) total = v_add(total, exp_of(v_sub(v_load_all(logits + i), m)));
        float rest[W], behind = 0;
        if (i < n) {
            v_store_all(rest, exp_of(v_sub(v_load_some(logits + i, n - i), m)));
            for (size_t j = 0; i < n; i++, j++) behind += rest[j];
        }
        sum = v_sum(total) + behind;
    }
    return at - most - logf(sum);
}

static void simd_gemv(const float *w, size_t stride, const float *x, const float *bias, float *y, size_t rows, size_t n) {
    size_t r = 0;
    for (; r + 4 <= rows; r += 4) { /* four rows share the loads of x */
        const float *w0 = w + r * stride, *w1 = w0 + stride, *w2 = w1 + stride, *w3 = w2 + stride;
        vf s0 = v_set(0), s1 = v_set(0), s2 = v_set(0), s3 = v_set(0);
        EACH(n, {
            vf v = load(x + i, k);
            s0 = v_fma(load(w0 + i, k), v, s0);
            s1 = v_fma(load(w1 + i, k), v, s1);
            s2 = v_fma(load(w2 + i, k), v, s2);
            s3 = v_fma(load(w3 + i, k), v, s3);
        });
        y[r] = v_sum(s0) + (bias ? bias[r] : 0);
        y[r + 1] = v_sum(s1) + (bias ? bias[r + 1] : 0);
        y[r + 2] = v_sum(s2) + (bias ? bias[r + 2] : 0);
        y[r + 3] = v_sum(s3) + (bias ? bias[r + 3] : 0);
    }
    for (; r < rows; r++) y[r] = simd_dot(w + r * stride, x, n) + (bias ? bias[r] : 0);
}

static void simd_adamw(float *w, const float *g, float *m, float *v, const struct kernels_adamw *s, size_t n) {
    vf scale = v_set(s->grad_scale), keep = v_set(1 - s->lr * s->weight_decay), step = v_set(s->lr / s->correction1);
    vf beta2 = v_set(s->beta2), rest1 = v_set(1 - s->beta1), rest2 = v_set(1 - s->beta2), eps = v_set(s->eps);
    vf unbias = v_set(1 / s->correction2_sqrt);
    EACH(n, {
        vf d = v_mul(load(g + i, k), scale);
        vf first = load(m + i, k);
        first = v_fma(v_sub(d, first), rest1, first);
        vf second = v_fma(v_mul(d, d), rest2, v_mul(load(v + i, k), beta2));
        store(m + i, first, k);
        store(v + i, second, k);
        vf ratio = v_div(first, v_fma(v_sqrt(second), unbias, eps));
        store(w + i, v_fnma(step, ratio, v_mul(load(w + i, k), keep)), k);
    });
}

static void simd_transpose(const float *from, size_t stride, size_t rows, size_t cols, float *to, size_t to_stride) {
    size_t square_rows = rows / W * W, square_cols = cols / W * W;
    for (size_t r = 0; r < square_rows; r += W)
        for (size_t c = 0; c < square_cols; c += W) pack_square(from + r * stride + c, stride, to + c * to_stride + r, to_stride);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = r < square_rows ? square_cols : 0; c < cols; c++) to[c * to_stride + r] = from[r * stride + c];
}

#include "tensor/gemm_simd.h"

const struct kernels ISA_TABLE = {
    .name = ISA_NAME,
    .dot = simd_dot,
    .axpy = simd_axpy,
    .add = simd_add,
    .scale = simd_scale,
    .sum_squares = simd_sum_squares,
    .max = simd_max,
    .maxima = simd_maxima,
    .exp = simd_exp,
    .softmax = simd_softmax,
    .softmax_part = simd_softmax_part,
    .softmax_again = simd_softmax_again,
    .softmax_backward = simd_softmax_backward,
    .rmsnorm = simd_rmsnorm,
    .rmsnorm_backward = simd_rmsnorm_backward,
    .layernorm = simd_layernorm,
    .layernorm_backward = simd_layernorm_backward,
    .silu_mul = simd_silu_mul,
    .silu_mul_backward = simd_silu_mul_backward,
    .gelu = simd_gelu,
    .gelu_erf = simd_gelu_erf,
    .gelu_backward = simd_gelu_backward,
    .rope = simd_rope,
    .rope_pairs = simd_rope_pairs,
    .cross_entropy = simd_cross_entropy,
    .gemv = simd_gemv,
    .adamw = simd_adamw,
    .transpose = simd_transpose,
    .gemm = &simd_gemm,
};
