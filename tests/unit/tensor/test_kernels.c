/* Every variant that this machine can run against the C reference: random and extreme inputs, every length around a vector. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "tensor/kernels.h"

enum { N_MAX = 1100, GUARD = 8 };
static const size_t lengths[] = {0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 384, 1000, 1024, 1100};
enum { LENGTHS = sizeof lengths / sizeof lengths[0] };

enum filling { SMALL, LARGE, TINY, MIXED, FILLINGS };
static const char *const filling_names[] = {"small", "large", "tiny", "mixed"};

static void fill(struct random *r, enum filling f, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double v = random_normal(r);
        switch (f) {
        case SMALL: break;
        case LARGE: v *= 60; break; /* both ends of e^x */
        case TINY: v *= 1e-20; break;
        case MIXED: v *= pow(10, 6 * random_f64(r) - 3); break;
        case FILLINGS: break;
        }
        x[i] = (float)v;
    }
}

/* Equal but for rounding: relative to the value and to the size of what was added up. */
static void close_to(const char *what, const char *variant, enum filling f, size_t n, size_t i, double got, double want, double scale, double tolerance) {
    if (isnan(got) && isnan(want)) return;
    if (isinf(got) && isinf(want) && (got > 0) == (want > 0)) return;
    double off = fabs(got - want), allowed = tolerance * (fabs(want) + scale) + 1e-37;
    if (off <= allowed) return;
    print_error("%s of %s, %s inputs, n = %zu, at %zu: %.9g, reference %.9g\n", what, variant, filling_names[f], n, i, got, want);
    fail();
}

struct pad {
    float *x; /* N_MAX and a guard behind it, starting where no vector is aligned */
    float *owned;
};
static struct pad pad_new(void) {
    struct pad p = {.owned = mem_alloc_aligned((N_MAX + GUARD + 1) * sizeof(float))};
    assert_non_null(p.owned);
    p.x = p.owned + 1;
    return p;
}
enum { PADS = 12 };
static struct pad pads[PADS];
static float *in(int i) { return pads[i].x; }

static void guard_set(size_t n) {
    for (int p = 0; p < PADS; p++)
        for (size_t i = 0; i < GUARD; i++) pads[p].x[n + i] = 12345.0f;
}
static void guard_check(const char *what, const char *variant, size_t n) {
    for (int p = 0; p < PADS; p++)
        for (size_t i = 0; i < GUARD; i++)
            if (pads[p].x[n + i] != 12345.0f) {
                print_error("%s of %s wrote behind its end, n = %zu\n", what, variant, n);
                fail();
            }
}
static double size_of(const float *x, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += fabs((double)x[i]);
    return s;
}

typedef void (*check_fn)(const struct kernels *c, const struct kernels *v, enum filling f, size_t n, struct random *r);

static void check_reductions(const struct kernels *c, const struct kernels *v, enum filling f, size_t n, struct random *r) {
    fill(r, f, in(0), n);
    fill(r, f, in(1), n);
    double scale = 0;
    for (size_t i = 0; i < n; i++) scale += fabs((double)in(0)[i] * (double)in(1)[i]);
    close_to("dot", v->name, f, n, 0, (double)v->dot(in(0), in(1), n), (double)c->dot(in(0), in(1), n), scale, 1e-6);
    close_to("sum_squares", v->name, f, n, 0, v->sum_squares(in(0), n), c->sum_squares(in(0), n), 0, 1e-12);
    assert_true(v->max(in(0), n) == c->max(in(0), n));
    v->maxima(in(0), in(2), n);
    for (size_t b = 0; b < kernels_maxima_count(n); b++) assert_true(in(2)[b] == c->max(in(0) + b * KERNELS_MAXIMA_BLOCK, n - b * KERNELS_MAXIMA_BLOCK < KERNELS_MAXIMA_BLOCK ? n - b * KERNELS_MAXIMA_BLOCK : KERNELS_MAXIMA_BLOCK));
}

static void check_elementwise(const struct kernels *c, const struct kernels *v, enum filling f, size_t n, struct random *r) {
    static const char *const names[] = {"axpy", "add", "scale", "exp", "gelu", "gelu_backward", "silu_mul", "silu_mul_backward gate", "silu_mul_backward up", "softmax_backward"};
    for (int k = 0; k < 10; k++) {
        float *a = in(0), *b = in(1), *g = in(2), *x = in(3), *y = in(4), *x2 = in(5), *y2 = in(6);
        fill(r, f, a, n);
        fill(r, f, b, n);
        fill(r, f, g, n);
        memcpy(x, g, n * sizeof *x);
        memcpy(y, g, n * sizeof *y);
        for (int side = 0; side < 2; side++) {
            const struct kernels *t = side ? v : c;
            float *o = side ? y : x, *o2 = side ? y2 : x2;
            switch (k) {
            case 0: t->axpy(0.37f, a, o, n); break;
            case 1: t->add(a, o, n); break;
            case 2: t->scale(-1.5f, o, n); break;
            case 3: t->exp(a, o, n); break;
            case 4: t->gelu(a, o, n); break;
            case 5: t->gelu_backward(a, b, o, n); break;
            case 6: t->silu_mul(a, b, o, n); break;
            case 7: t->silu_mul_backward(a, b, g, o, o2, n); break;
            case 8: t->silu_mul_backward(a, b, g, o2, o, n); break;
            case 9: t->softmax_backward(a, b, 0.25f, 0.125f, o, n); break;
            }
        }
        for (size_t i = 0; i < n; i++) {
            double scale = k <= 1 ? fabs((double)a[i]) + fabs((double)g[i]) : k == 9 ? fabs((double)a[i]) * (fabs((double)b[i]) + 0.25) : 0;
            /* derivatives near their zero are differences of larger numbers */
            if (k == 5) scale = fabs((double)b[i]);
            if (k == 7) scale = fabs((double)g[i] * (double)b[i]);
            /* the argument of e^x is rounded: up to 88 units of it are that many of the result */
            close_to(names[k], v->name, f, n, i, (double)y[i], (double)x[i], scale, k >= 4 && k <= 8 ? 3e-5 : 3e-6);
        }
    }
}

static void check_rows(const struct kernels *c, const struct kernels *v, enum filling f, size_t n, struct random *r) {
    float *x = in(0), *w = in(1), *b = in(2), *dy = in(3), *y0 = in(4), *y1 = in(5), *dx0 = in(6), *dx1 = in(7), *dw0 = in(8), *dw1 = in(9),
          *db0 = in(10), *db1 = in(11);
    if (n == 0) return;
    fill(r, f, x, n);
    fill(r, SMALL, w, n);
    fill(r, SMALL, b, n);
    fill(r, SMALL, dy, n);
    float s0 = c->rmsnorm(x, w, 1e-5f, y0, n), s1 = v->rmsnorm(x, w, 1e-5f, y1, n);
    close_to("rmsnorm", v->name, f, n, 0, (double)s1, (double)s0, 0, 1e-6);
    for (size_t i = 0; i < n; i++) close_to("rmsnorm", v->name, f, n, i, (double)y1[i], (double)y0[i], 0, 3e-6);
    for (size_t i = 0; i < n; i++) dx0[i] = dx1[i] = dw0[i] = dw1[i] = db0[i] = db1[i] = 0.5f;
    c->rmsnorm_backward(x, w, dy, s0, dx0, dw0, n);
    v->rmsnorm_backward(x, w, dy, s0, dx1, dw1, n);
    double size = size_of(dy, n) * (double)s0;
    for (size_t i = 0; i < n; i++) {
        close_to("rmsnorm_backward dx", v->name, f, n, i, (double)dx1[i], (double)dx0[i], size + 1, 3e-6);
        close_to("rmsnorm_backward dw", v->name, f, n, i, (double)dw1[i], (double)dw0[i], 1 + fabs((double)dy[i] * (double)x[i] * (double)s0), 3e-6);
    }

    float m0, m1;
    c->layernorm(x, w, b, 1e-5f, y0, &m0, &s0, n);
    v->layernorm(x, w, b, 1e-5f, y1, &m1, &s1, n);
    double spread = size_of(x, n) / (double)n;
    close_to("layernorm mean", v->name, f, n, 0, (double)m1, (double)m0, spread, 1e-6);
    if (n > 3) { /* of two or three nearly equal numbers the deviation is rounding */
        close_to("layernorm rstd", v->name, f, n, 0, (double)s1, (double)s0, 0, 1e-4);
        for (size_t i = 0; i < n; i++)
            close_to("layernorm", v->name, f, n, i, (double)y1[i], (double)y0[i], 4 + spread * (double)s0, 1e-5);
    }
    c->layernorm(x, w, NULL, 1e-5f, y0, &m0, &s0, n);
    for (size_t i = 0; i < n; i++) dx0[i] = dx1[i] = dw0[i] = dw1[i] = db0[i] = db1[i] = 0.5f;
    c->layernorm_backward(x, w, dy, m0, s0, dx0, dw0, db0, n);
    v->layernorm_backward(x, w, dy, m0, s0, dx1, dw1, db1, n);
    size = size_of(dy, n) * (double)s0 * 4;
    for (size_t i = 0; i < n; i++) {
        close_to("layernorm_backward dx", v->name, f, n, i, (double)dx1[i], (double)dx0[i], size + 1, 5e-6);
        close_to("layernorm_backward dw", v->name, f, n, i, (double)dw1[i], (double)dw0[i], 1 + fabs((double)dy[i]) * 10, 5e-6);
        close_to("layernorm_backward db", v->name, f, n, i, (double)db1[i], (double)db0[i], 1, 1e-6);
    }
}

static void check_softmax(const struct kernels *c, const struct kernels *v, enum filling f, size_t n, struct random *r) {
    float *x = in(0), *y0 = in(1), *y1 = in(2);
    if (n == 0) return;
    fill(r, f, x, n);
    for (int masked = 0; masked < 2; masked++) {
        if (masked)
            for (size_t i = 1; i < n; i += 3) x[i] = -INFINITY; /* as a sampler masks tokens */
        memcpy(y0, x, n * sizeof *x);
        memcpy(y1, x, n * sizeof *x);
        float l0 = c->softmax(y0, 0.125f, n), l1 = v->softmax(y1, 0.125f, n);
        close_to("softmax's logarithm", v->name, f, n, 0, (double)l1, (double)l0, 1, 1e-6);
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            close_to("softmax", v->name, f, n, i, (double)y1[i], (double)y0[i], 1e-30, 1e-4); /* the exponent's rounding grows with the logits */
            sum += (double)y1[i];
        }
        assert_true(fabs(sum - 1) < 1e-5);
        memcpy(y1, x, n * sizeof *x);
        v->softmax_again(y1, 0.125f, l0, n);
        for (size_t i = 0; i < n; i++) close_to("softmax_again", v->name, f, n, i, (double)y1[i], (double)y0[i], 1e-30, 1e-3);

        size_t label = 3 * (size_t)random_below(r, (n + 2) / 3);
        if (label >= n) label = 0;
        memcpy(y0, x, n * sizeof *x);
        memcpy(y1, x, n * sizeof *x);
        float p0 = c->cross_entropy(y0, label, 0, n), p1 = v->cross_entropy(y1, label, 0, n);
        close_to("cross_entropy, forward", v->name, f, n, label, (double)p1, (double)p0, 1 + fabs((double)x[label]), 1e-6);
        assert_memory_equal(y1, x, n * sizeof *x);
        p0 = c->cross_entropy(y0, label, 0.01f, n), p1 = v->cross_entropy(y1, label, 0.01f, n);
        close_to("cross_entropy", v->name, f, n, label, (double)p1, (double)p0, 1 + fabs((double)x[label]), 1e-6);
        for (size_t i = 0; i < n; i++) close_to("cross_entropy's gradient", v->name, f, n, i, (double)y1[i], (double)y0[i], 1e-4, 1e-4);
    }
}

static void check_rope(const struct kernels *c, const struct kernels *v, enum filling f, size_t n, struct random *r) {
    static const size_t dims[] = {2, 8, 10, 32, 64, 96, 128};
    float *x = in(0), *y0 = in(1), *y1 = in(2), turn[128];
    for (size_t d = 0; d < 7; d++) {
        size_t dim = dims[d], heads = n / dim;
        fill(r, f, x, n);
        for (size_t i = 0; i < dim / 2; i++) {
            double angle = 100 * random_f64(r);
            turn[i] = (float)cos(angle);
            turn[dim / 2 + i] = (float)sin(angle);
        }
        for (int kind = 0; kind < 2; kind++) {
            memcpy(y0, x, n * sizeof *x);
            memcpy(y1, x, n * sizeof *x);
            (kind ? c->rope_pairs : c->rope)(y0, turn, 1, heads, dim);
            (kind ? v->rope_pairs : v->rope)(y1, turn, 1, heads, dim);
            double scale = 0;
            for (size_t i = 0; i < n; i++) scale = fmax(scale, fabs((double)x[i]));
            for (size_t i = 0; i < n; i++) close_to(kind ? "rope_pairs" : "rope", v->name, f, n, i, (double)y1[i], (double)y0[i], scale, 1e-6);
            (kind ? v->rope_pairs : v->rope)(y1, turn, -1, heads, dim);
            for (size_t i = 0; i < n; i++) close_to("rope and back", v->name, f, n, i, (double)y1[i], (double)x[i], scale, 1e-6);
        }
    }
}

static void check_gemv(const struct kernels *c, const struct kernels *v, enum filling f, size_t n, struct random *r) {
    float *x = in(0), *bias = in(1), *y0 = in(2), *y1 = in(3);
    size_t cols = n > 40 ? 40 : n, rows = cols ? n / cols : 0;
    float *w = mem_alloc_aligned((rows * 47 + 1) * sizeof *w); /* stride 47 */
    assert_non_null(w);
    fill(r, f, w, rows * 47);
    fill(r, f, x, cols);
    fill(r, f, bias, rows);
    for (int with = 0; with < 2; with++) {
        c->gemv(w, 47, x, with ? bias : NULL, y0, rows, cols);
        v->gemv(w, 47, x, with ? bias : NULL, y1, rows, cols);
        for (size_t i = 0; i < rows; i++) {
            double scale = 0;
            for (size_t j = 0; j < cols; j++) scale += fabs((double)w[i * 47 + j] * (double)x[j]);
            close_to("gemv", v->name, f, n, i, (double)y1[i], (double)y0[i], scale, 1e-6);
        }
    }
    mem_free(w);
}

static void check_adamw(const struct kernels *c, const struct kernels *v, enum filling f, size_t n, struct random *r) {
    const struct kernels_adamw s = {.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .grad_scale = 0.5f, .correction1 = 0.1f, .correction2_sqrt = 0.2236f};
    float *g = in(0), *a[3] = {in(1), in(2), in(3)}, *b[3] = {in(4), in(5), in(6)};
    fill(r, f, g, n);
    for (int k = 0; k < 3; k++) {
        fill(r, SMALL, a[k], n);
        if (k == 2)
            for (size_t i = 0; i < n; i++) a[k][i] = fabsf(a[k][i]);
        memcpy(b[k], a[k], n * sizeof(float));
    }
    c->adamw(a[0], g, a[1], a[2], &s, n);
    v->adamw(b[0], g, b[1], b[2], &s, n);
    for (int k = 0; k < 3; k++)
        for (size_t i = 0; i < n; i++)
            close_to(k == 0 ? "adamw weights" : k == 1 ? "adamw m" : "adamw v", v->name, f, n, i, (double)b[k][i], (double)a[k][i], 1, 2e-6);
}

static const struct {
    const char *name;
    check_fn check;
} checks[] = {{"reductions", check_reductions}, {"elementwise", check_elementwise}, {"rows", check_rows}, {"softmax", check_softmax}, {"rope", check_rope}, {"gemv", check_gemv}, {"adamw", check_adamw}};

static void test_variants(void **state) {
    (void)state;
    const struct kernels *c = kernels_named("c");
    assert_non_null(c);
    struct random r;
    random_seed(&r, 7);
    for (const char *const *name = kernels_available(); *name; name++) {
        const struct kernels *v = kernels_named(*name);
        assert_non_null(v);
        for (size_t k = 0; k < sizeof checks / sizeof checks[0]; k++)
            for (int f = 0; f < FILLINGS; f++)
                for (size_t l = 0; l < LENGTHS; l++) {
                    guard_set(lengths[l]);
                    checks[k].check(c, v, (enum filling)f, lengths[l], &r);
                    guard_check(checks[k].name, *name, lengths[l]);
                }
    }
}

/* The ends of the number line, where formulas overflow. */
static void test_extremes(void **state) {
    (void)state;
    static const float xs[] = {0, -0.0f, 1e-38f, -1e-38f, 88.69f, 88.71f, 1000, -87.29f, -87.31f, -1000, 3e38f, -3e38f, INFINITY, -INFINITY, NAN, 1};
    enum { N = sizeof xs / sizeof xs[0] };
    for (const char *const *name = kernels_available(); *name; name++) {
        const struct kernels *v = kernels_named(*name);
        float y[N], d[N], one[N];
        v->exp(xs, y, N);
        for (int i = 0; i < N; i++) {
            float want = isnan(xs[i]) ? NAN : xs[i] > 88.7f ? INFINITY : xs[i] < -87.3f ? 0 : expf(xs[i]);
            one[i] = 1;
            close_to("exp", *name, SMALL, N, (size_t)i, (double)y[i], (double)want, 0, 3e-7);
        }
        v->gelu(xs, y, N);
        v->gelu_backward(xs, one, d, N);
        for (int i = 0; i < N; i++) {
            if (!isfinite(xs[i])) continue;
            if (xs[i] > 10) close_to("gelu", *name, SMALL, N, (size_t)i, (double)y[i], (double)xs[i], 0, 1e-6);
            if (xs[i] < -10) assert_true(y[i] == 0);
            close_to("gelu_backward", *name, SMALL, N, (size_t)i, (double)d[i], xs[i] > 10 ? 1 : xs[i] < -10 ? 0 : (double)d[i], 0, 1e-6);
            assert_true(isfinite(d[i]));
        }
        for (int i = -4000; i <= 4000; i++) {
            float at[1] = {(float)i / 400}, got[1];
            v->gelu_erf(at, got, 1);
            close_to("gelu_erf", *name, SMALL, N, (size_t)(i + 4000), (double)got[0], 0.5 * (double)at[0] * erfc((double)at[0] * -0.70710678118654752), fabs((double)at[0]) + 1e-9, 3e-7);
        }
        v->gelu_erf(xs, y, N);
        for (int i = 0; i < N; i++) {
            if (xs[i] > 10 && isfinite(xs[i])) assert_true(y[i] == xs[i]);
            if (xs[i] < -20 && isfinite(xs[i])) assert_true(y[i] == 0);
        }
        for (size_t at = 0; at < 2 * KERNELS_MAXIMA_BLOCK + 3; at++) /* one value that is none, anywhere, of whole blocks and of what is behind */
            for (int i = 12; i < 15; i++) {
                float many[2 * KERNELS_MAXIMA_BLOCK + 3], most[3];
                for (size_t k = 0; k < sizeof many / sizeof *many; k++) many[k] = -3e38f + (float)k;
                many[at] = xs[i];
                v->maxima(many, most, sizeof many / sizeof *many);
                for (size_t b = 0; b < 3; b++) assert_int_equal(isnan(most[b]) != 0, at / KERNELS_MAXIMA_BLOCK == b);
            }
        v->silu_mul(xs, one, y, N);
        for (int i = 0; i < N; i++)
            if (xs[i] < -100 && isfinite(xs[i])) assert_true(y[i] == 0);
    }
}

/* e^x within 2 units in the last place over its whole range. */
static void test_exp_accuracy(void **state) {
    (void)state;
    for (const char *const *name = kernels_available(); *name; name++) {
        const struct kernels *v = kernels_named(*name);
        double worst = 0;
        for (double x = -87.2; x < 88.6; x += 0.00171) {
            float at = (float)x, y;
            v->exp(&at, &y, 1);
            double want = exp((double)at), off = fabs((double)y - want) / (want * 0x1p-23);
            if (off > worst) worst = off;
        }
        if (worst > 2) {
            print_error("exp of %s is %g ulp off\n", *name, worst);
            fail();
        }
    }
}

static void test_transpose(void **state) {
    (void)state;
    enum { SIDE = 37, STRIDE = SIDE + 2 };
    static float from[SIDE * STRIDE], to[SIDE * STRIDE];
    for (size_t i = 0; i < SIDE * STRIDE; i++) from[i] = (float)i;
    for (const char *const *name = kernels_available(); *name; name++)
        for (size_t rows = 0; rows <= SIDE; rows++)
            for (size_t cols = 0; cols <= SIDE; cols += 1 + cols / 5) {
                for (size_t i = 0; i < SIDE * STRIDE; i++) to[i] = -1;
                kernels_named(*name)->transpose(from, STRIDE, rows, cols, to, STRIDE);
                for (size_t c = 0; c < SIDE; c++)
                    for (size_t r = 0; r < STRIDE; r++)
                        if (to[c * STRIDE + r] != (r < rows && c < cols ? from[r * STRIDE + c] : -1)) fail_msg("%s: %zu × %zu, at %zu, %zu", *name, rows, cols, r, c);
            }
}

static void test_names(void **state) {
    (void)state;
    assert_null(kernels_named("nothing"));
    assert_string_equal(kernels_named("c")->name, "c");
    assert_ptr_equal(kernels(), kernels());
}

static int set_up(void **state) {
    (void)state;
    for (int i = 0; i < PADS; i++) pads[i] = pad_new();
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    for (int i = 0; i < PADS; i++) mem_free(pads[i].owned);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_variants), cmocka_unit_test(test_extremes),
                                       cmocka_unit_test(test_exp_accuracy), cmocka_unit_test(test_transpose)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
