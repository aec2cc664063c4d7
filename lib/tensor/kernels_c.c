/*
 * The reference: each kernel as its formula reads, sums in f64. What runs where there is no faster variant, and what the faster
 * ones are held to.
 */
#include <math.h>

#include "tensor/gemm_isa.h"
#include "tensor/kernels_list.h"

static float c_dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return (float)sum;
}
static void c_axpy(float alpha, const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] += alpha * x[i];
}
static void c_add(const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] += x[i];
}
static void c_scale(float alpha, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] *= alpha;
}
static double c_sum_squares(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}
static float c_max(const float *x, size_t n) {
    float most = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (x[i] > most) most = x[i];
    return most;
}

static void c_maxima(const float *x, float *y, size_t n) {
    for (size_t from = 0; from < n; from += KERNELS_MAXIMA_BLOCK, y++) {
        size_t count = n - from < KERNELS_MAXIMA_BLOCK ? n - from : KERNELS_MAXIMA_BLOCK;
        *y = c_max(x + from, count);
        for (size_t i = from; i < from + count; i++)
            if (!isfinite(x[i])) *y = NAN;
    }
}

static float exp_of(float x) {
    if (x < -87.3f) return 0;
    if (x > 88.7f) return INFINITY;
    return expf(x);
}
static void c_exp(const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = exp_of(x[i]);
}

static double exp_all(float *x, float scale, float *most, size_t n) {
    *most = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (scale * x[i] > *most) *most = scale * x[i];
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)(x[i] = exp_of(scale * x[i] - *most));
    return sum;
}
static float c_softmax_part(float *x, float scale, float *most, size_t n) { return (float)exp_all(x, scale, most, n); }
static float c_softmax(float *x, float scale, size_t n) {
    float most;
    double sum = exp_all(x, scale, &most, n);
    for (size_t i = 0; i < n; i++) x[i] = (float)(x[i] / sum);
    return most + (float)log(sum);
}
static void c_softmax_again(float *x, float scale, float log_sum, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = exp_of(scale * x[i] - log_sum);
}
static void c_softmax_backward(const float *p, const float *dp, float delta, float scale, float *ds, size_t n) {
    for (size_t i = 0; i < n; i++) ds[i] = scale * p[i] * (dp[i] - delta);
}

/* y = x · rstd · w, rstd = (mean(x²) + eps)^−½ (Zhang and Sennrich 2019). */
static float c_rmsnorm(const float *x, const float *weight, float eps, float *y, size_t n) {
    float rstd = (float)(1 / sqrt(c_sum_squares(x, n) / (double)n + (double)eps));
    for (size_t i = 0; i < n; i++) y[i] = x[i] * rstd * weight[i];
    return rstd;
}
/* With g = dy · w: dx = rstd · (g − x · rstd² · mean(g · x)). */
static void c_rmsnorm_backward(const float *x, const float *weight, const float *dy, float rstd, float *dx, float *dweight, size_t n) {
    double gx = 0;
    for (size_t i = 0; i < n; i++) gx += (double)dy[i] * weight[i] * x[i];
    float c = (float)(gx / (double)n * rstd * rstd);
    for (size_t i = 0; i < n; i++) dx[i] += rstd * (dy[i] * weight[i] - x[i] * c);
    if (dweight)
        for (size_t i = 0; i < n; i++) dweight[i] += dy[i] * x[i] * rstd;
}

/* y = (x − mean) · rstd · w + b (Ba et al. 2016). */
static void c_layernorm(const float *x, const float *weight, const float *bias, float eps, float *y, float *mean, float *rstd, size_t n) {
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) sum += x[i];
    double mu = sum / (double)n;
    for (size_t i = 0; i < n; i++) square += (x[i] - mu) * (x[i] - mu);
    float m = (float)mu, r = (float)(1 / sqrt(square / (double)n + (double)eps));
    for (size_t i = 0; i < n; i++) y[i] = (x[i] - m) * r * weight[i] + (bias ? bias[i] : 0);
    *mean = m;
    *rstd = r;
}
/* With g = dy · w and x̂ = (x − mean) · rstd: dx = rstd · (g − mean(g) − x̂ · mean(g · x̂)). */
static void c_layernorm_backward(const float *x, const float *weight, const float *dy, float mean, float rstd, float *dx, float *dweight,
                                 float *dbias, size_t n) {
    double g = 0, gx = 0;
    for (size_t i = 0; i < n; i++) {
        g += (double)dy[i] * weight[i];
        gx += (double)dy[i] * weight[i] * (double)((x[i] - mean) * rstd);
    }
    float a = (float)(g / (double)n), b = (float)(gx / (double)n);
    for (size_t i = 0; i < n; i++) {
        float hat = (x[i] - mean) * rstd;
        dx[i] += rstd * (dy[i] * weight[i] - a - hat * b);
        if (dweight) dweight[i] += dy[i] * hat;
        if (dbias) dbias[i] += dy[i];
    }
}

static void c_silu_mul(const float *gate, const float *up, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = gate[i] / (1 + exp_of(-gate[i])) * up[i];
}
/* silu'(g) = σ + g · σ · (1 − σ). */
static void c_silu_mul_backward(const float *gate, const float *up, const float *dy, float *dgate, float *dup, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float s = 1 / (1 + exp_of(-gate[i])), d = dy[i];
        dgate[i] = d * up[i] * (s + gate[i] * s * (1 - s));
        dup[i] = d * gate[i] * s;
    }
}

/* ½(1 + tanh u) = σ(2u), u = √(2/π) (x + 0.044715 x³) (Hendrycks and Gimpel 2016). */
#define GELU_C 1.5957691216057308f /* 2 √(2/π) */
static void c_gelu(const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float v = x[i], u2 = GELU_C * v * (1 + 0.044715f * v * v);
        y[i] = v / (1 + exp_of(-u2));
    }
}
static void c_gelu_erf(const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = 0.5f * x[i] * erfcf(x[i] * -0.70710678f);
}
static void c_gelu_backward(const float *x, const float *dy, float *dx, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float v = x[i], u2 = GELU_C * v * (1 + 0.044715f * v * v);
        float s = 1 / (1 + exp_of(-u2)), slope = GELU_C * (1 + 3 * 0.044715f * v * v);
        /* far out σ(1 − σ) is 0 while the slope may be inf: their product is 0 */
        float bend = s * (1 - s);
        dx[i] = dy[i] * (s + (bend > 0 ? v * bend * slope : 0));
    }
}

static void c_rope(float *x, const float *cos_sin, float sign, size_t heads, size_t head_dim) {
    size_t half = head_dim / 2;
    for (size_t h = 0; h < heads; h++, x += head_dim)
        for (size_t i = 0; i < half; i++) {
            float c = cos_sin[i], s = sign * cos_sin[half + i], a = x[i], b = x[half + i];
            x[i] = a * c - b * s;
            x[half + i] = b * c + a * s;
        }
}
static void c_rope_pairs(float *x, const float *cos_sin, float sign, size_t heads, size_t head_dim) {
    size_t half = head_dim / 2;
    for (size_t h = 0; h < heads; h++, x += head_dim)
        for (size_t i = 0; i < half; i++) {
            float c = cos_sin[i], s = sign * cos_sin[half + i], a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = a * c - b * s;
            x[2 * i + 1] = b * c + a * s;
        }
}

static float c_cross_entropy(float *logits, size_t label, float dlogits_scale, size_t n) {
    float most = c_max(logits, n), at = logits[label];
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        float e = exp_of(logits[i] - most);
        sum += (double)e;
        if (dlogits_scale != 0) logits[i] = e;
    }
    if (dlogits_scale != 0) {
        float share = (float)((double)dlogits_scale / sum);
        for (size_t i = 0; i < n; i++) logits[i] *= share;
        logits[label] -= dlogits_scale;
    }
    return at - most - (float)log(sum);
}

static void c_gemv(const float *w, size_t stride, const float *x, const float *bias, float *y, size_t rows, size_t n) {
    for (size_t r = 0; r < rows; r++) y[r] = c_dot(w + r * stride, x, n) + (bias ? bias[r] : 0);
}

static void c_adamw(float *w, const float *g, float *m, float *v, const struct kernels_adamw *s, size_t n) {
    float keep = 1 - s->lr * s->weight_decay, step = s->lr / s->correction1;
    for (size_t i = 0; i < n; i++) {
        float d = g[i] * s->grad_scale;
        m[i] += (d - m[i]) * (1 - s->beta1);
        v[i] = v[i] * s->beta2 + d * d * (1 - s->beta2);
        w[i] = w[i] * keep - step * (m[i] / (sqrtf(v[i]) / s->correction2_sqrt + s->eps));
    }
}

/* ---- matrix product: a tile of 4 by 8 ---- */

enum { MR = 4, NR = 8 };
static void c_pack_rows(const float *from, size_t stride, size_t count, size_t width, size_t depth, float *to) {
    for (size_t k = 0; k < depth; k++)
        for (size_t i = 0; i < width; i++) to[k * width + i] = i < count ? from[k * stride + i] : 0;
}
static void c_pack_columns(const float *from, size_t stride, size_t count, size_t depth, float *to) {
    for (size_t k = 0; k < depth; k++)
        for (size_t j = 0; j < NR; j++) to[k * NR + j] = j < count ? from[j * stride + k] : 0;
}
static void c_tile(size_t rows, size_t columns, size_t depth, float alpha, const float *a, size_t lda, const float *b, float beta, float *c, size_t ldc) {
    for (size_t i = 0; i < rows; i++) {
        float sum[NR] = {0};
        for (size_t k = 0; k < depth; k++) {
            float x = lda ? a[i * lda + k] : a[k * MR + i];
            for (size_t j = 0; j < NR; j++) sum[j] += x * b[k * NR + j];
        }
        for (size_t j = 0; j < columns; j++) c[i * ldc + j] = alpha * sum[j] + (beta == 0 ? 0 : beta * c[i * ldc + j]);
    }
}
static void c_transpose(const float *from, size_t stride, size_t rows, size_t cols, float *to, size_t to_stride) {
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) to[c * to_stride + r] = from[r * stride + c];
}
static const struct gemm_isa c_gemm = {MR, NR, c_pack_rows, c_pack_columns, c_tile};

const struct kernels kernels_c = {
    .name = "c",
    .dot = c_dot,
    .axpy = c_axpy,
    .add = c_add,
    .scale = c_scale,
    .sum_squares = c_sum_squares,
    .max = c_max,
    .maxima = c_maxima,
    .exp = c_exp,
    .softmax = c_softmax,
    .softmax_part = c_softmax_part,
    .softmax_again = c_softmax_again,
    .softmax_backward = c_softmax_backward,
    .rmsnorm = c_rmsnorm,
    .rmsnorm_backward = c_rmsnorm_backward,
    .layernorm = c_layernorm,
    .layernorm_backward = c_layernorm_backward,
    .silu_mul = c_silu_mul,
    .silu_mul_backward = c_silu_mul_backward,
    .gelu = c_gelu,
    .gelu_erf = c_gelu_erf,
    .gelu_backward = c_gelu_backward,
    .rope = c_rope,
    .rope_pairs = c_rope_pairs,
    .cross_entropy = c_cross_entropy,
    .gemv = c_gemv,
    .adamw = c_adamw,
    .transpose = c_transpose,
    .gemm = &c_gemm,
};
