/*
 * The f32 arithmetic of models, behind one table of function pointers that is filled once by what the CPU can do: the plain C
 * reference, AVX2 with FMA, AVX-512 (NEON and others have their place in the list in kernels.c). A new kernel is a member here, a
 * function in kernels_c.c, and where it is hot one in each kernels_ISA.c; tests/unit/tensor holds every variant to the reference.
 *
 * All are pure functions over memory the caller owns: no state, no allocation, no threads; any thread may call. Results depend on
 * the variant and the sizes only, never on alignment or thread, and every reduction has a fixed order: the same machine gives the
 * same bits. Buffers do not overlap unless a comment says that they may be equal. Lengths may be 0.
 * Letters: n elements of a row; D the size of an attention head; H heads.
 */
#ifndef GENLOOP_TENSOR_KERNELS_H
#define GENLOOP_TENSOR_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* One AdamW step t (Loshchilov and Hutter 2019, as torch.optim.AdamW): g' = grad_scale g; w *= 1 - lr weight_decay; m += (g' - m)(1 - beta1);
 * v = beta2 v + (1 - beta2) g'^2; w -= lr / correction1 * m / (sqrt(v) / correction2_sqrt + eps). */
struct kernels_adamw {
    float lr, beta1, beta2, eps;
    float weight_decay;   /* 0 for vectors */
    float grad_scale;     /* of clipping, applied to g on the way in */
    float correction1;    /* 1 - beta1^t */
    float correction2_sqrt; /* sqrt(1 - beta2^t) */
};

enum { KERNELS_MAXIMA_BLOCK = 64 };
static inline size_t kernels_maxima_count(size_t n) { return (n + KERNELS_MAXIMA_BLOCK - 1) / KERNELS_MAXIMA_BLOCK; }

struct kernels {
    const char *name; /* "c", "avx2", "avx512" */

    float (*dot)(const float *a, const float *b, size_t n);
    void (*axpy)(float alpha, const float *x, float *y, size_t n);    /* y += alpha * x */
    void (*add)(const float *x, float *y, size_t n);                  /* y += x */
    void (*scale)(float alpha, float *x, size_t n);                   /* x *= alpha */
    double (*sum_squares)(const float *x, size_t n);                  /* in f64 */
    float (*max)(const float *x, size_t n);                           /* -inf for n = 0 */
    void (*maxima)(const float *x, float *y, size_t n);               /* y[b]: the highest of the b-th block of KERNELS_MAXIMA_BLOCK of x, the last may be shorter; nan where one of them is not finite */
    /* y = e^x, within 2 ulp; 0 below -87.3, inf above 88.7 (so that every variant agrees), nan stays. x and y may be equal. */
    void (*exp)(const float *x, float *y, size_t n);

    /* x = softmax(scale * x), in place; returns the log of the sum of e^(scale * x): log of a probability is scale * x - that. n > 0. */
    float (*softmax)(float *x, float scale, size_t n);
    /* A softmax before its division: x = e^(scale * x - most) with most = max(scale * x); returns the sum. n > 0. */
    float (*softmax_part)(float *x, float scale, float *most, size_t n);
    /* x = e^(scale * x - log_sum): the probabilities again from what softmax returned. */
    void (*softmax_again)(float *x, float scale, float log_sum, size_t n);
    /* ds = scale * p * (dp - delta), the backward of softmax(scale * s); ds may be dp. */
    void (*softmax_backward)(const float *p, const float *dp, float delta, float scale, float *ds, size_t n);

    /* y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps), which is returned. x and y may be equal. */
    float (*rmsnorm)(const float *x, const float *weight, float eps, float *y, size_t n);
    /* dx += its gradient; dweight += dy * x * rstd (not where NULL). */
    void (*rmsnorm_backward)(const float *x, const float *weight, const float *dy, float rstd, float *dx, float *dweight, size_t n);
    /* y = (x - mean) * rstd * weight + bias (NULL: none); rstd = 1 / sqrt(var + eps). */
    void (*layernorm)(const float *x, const float *weight, const float *bias, float eps, float *y, float *mean, float *rstd, size_t n);
    void (*layernorm_backward)(const float *x, const float *weight, const float *dy, float mean, float rstd, float *dx, float *dweight,
                               float *dbias, size_t n);

    /* y = silu(gate) * up, silu(g) = g / (1 + e^-g). y may be gate or up. */
    void (*silu_mul)(const float *gate, const float *up, float *y, size_t n);
    void (*silu_mul_backward)(const float *gate, const float *up, const float *dy, float *dgate, float *dup, size_t n); /* = */
    /* y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), "gelu_new". x and y may be equal. */
    void (*gelu)(const float *x, float *y, size_t n);
    /* y = x Phi(x) with the normal distribution's Phi: "gelu" of BERT, within 2e-7 |x|. x and y may be equal. */
    void (*gelu_erf)(const float *x, float *y, size_t n);
    void (*gelu_backward)(const float *x, const float *dy, float *dx, size_t n); /* dx =; may be dy */

    /* Rotary positions (Su et al. 2021) on one row of H heads of D, in place. cos_sin: D/2 cosines then D/2 sines of this position.
     * rope: pairs (i, i + D/2), as Hugging Face's rotate_half; rope_pairs: pairs (2i, 2i+1), as GPT-J and GGUF's llama.
     * sign +1 forward, -1 backward (the inverse rotation). D even; heads lie D apart. */
    void (*rope)(float *x, const float *cos_sin, float sign, size_t heads, size_t head_dim);
    void (*rope_pairs)(float *x, const float *cos_sin, float sign, size_t heads, size_t head_dim);

    /* One row of cross-entropy: returns log p(label), and where dlogits_scale is not 0 leaves dlogits_scale * (p - onehot(label)) in
     * logits. label < n. */
    float (*cross_entropy)(float *logits, size_t label, float dlogits_scale, size_t n);

    /* y[r] = dot(w + r * stride, x) (+ bias[r] where not NULL): y = W x, W [rows, n] row-major. */
    void (*gemv)(const float *w, size_t stride, const float *x, const float *bias, float *y, size_t rows, size_t n);

    /* to[c * to_stride + r] = from[r * stride + c] for r < rows, c < cols. */
    void (*transpose)(const float *from, size_t stride, size_t rows, size_t cols, float *to, size_t to_stride);

    void (*adamw)(float *w, const float *g, float *m, float *v, const struct kernels_adamw *step, size_t n);

    const struct gemm_isa *gemm; /* what gemm.h's products are made of */
};

/* The table of this machine; chosen at the first call (thread-safe), after that a load. GENLOOP_KERNELS=c|avx2|avxvnni|avx512|avx512bf16|amx in the environment
 * forces one; a name that is unknown or that this CPU cannot run aborts with a message: a benchmark must not lie. */
const struct kernels *kernels(void);
/* By name; NULL where it is unknown, not compiled in, or this CPU cannot run it. */
const struct kernels *kernels_named(const char *name);
/* The names of all that this machine can run, best first, NULL at the end. */
const char *const *kernels_available(void);

#endif
