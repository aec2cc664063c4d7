/* Matrix products against the formula in f64, over shapes around the tile and the blocks; and from several threads at once. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/pool.h"
#include "base/random.h"
#include "tensor/gemm.h"
#include "tensor/kernels.h"

static float *matrix(struct random *r, size_t rows, size_t stride) {
    float *m = mem_alloc_aligned((rows * stride + 1) * sizeof *m);
    assert_non_null(m);
    for (size_t i = 0; i < rows * stride; i++) m[i] = (float)random_normal(r);
    return m;
}

static void check(const struct kernels *v, struct random *r, int ta, int tb, size_t m, size_t n, size_t k, float alpha, float beta, size_t extra) {
    size_t lda = (ta ? m : k) + extra, ldb = (tb ? k : n) + extra, ldc = n + extra;
    float *a = matrix(r, ta ? k : m, lda), *b = matrix(r, tb ? n : k, ldb), *c = matrix(r, m, ldc), *before = matrix(r, m, ldc);
    memcpy(before, c, m * ldc * sizeof *c);
    if (beta == 0)
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) c[i * ldc + j] = NAN; /* what was there must not count */
    gemm_with(v, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < ldc; j++) {
            double want = (double)before[i * ldc + j], size = 0, got = (double)c[i * ldc + j];
            if (j < n) {
                double sum = 0;
                for (size_t p = 0; p < k; p++) {
                    double x = (double)(ta ? a[p * lda + i] : a[i * lda + p]), y = (double)(tb ? b[j * ldb + p] : b[p * ldb + j]);
                    sum += x * y;
                    size += fabs(x * y);
                }
                want = (double)alpha * sum + (beta == 0 ? 0 : (double)beta * want);
            }
            if (!(fabs(got - want) <= 1e-6 * (size + fabs(want) + 1))) {
                print_error("%s %d%d %zux%zux%zu alpha %g beta %g at %zu,%zu: %g, not %g\n", v->name, ta, tb, m, n, k, (double)alpha, (double)beta, i, j, got, want);
                fail();
            }
        }
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(before);
}

static void test_shapes(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 2, 5, 6, 7, 8, 11, 12, 13, 16, 17, 31, 32, 33, 64, 97};
    static const size_t large[][3] = {{13, 520, 400}, {100, 1030, 390}, {97, 33, 1200}, {1, 513, 385}, {200, 16, 769}};
    static const float factors[][2] = {{1, 0}, {1, 1}, {-0.5f, 0.25f}};
    struct random r;
    random_seed(&r, 11);
    for (const char *const *name = kernels_available(); *name; name++) {
        const struct kernels *v = kernels_named(*name);
        for (int kind = 0; kind < 4; kind++) {
            for (int i = 0; i < 150; i++) {
                const float *f = factors[random_below(&r, 3)];
                check(v, &r, kind & 1, kind >> 1, sizes[random_below(&r, 16)], sizes[random_below(&r, 16)], sizes[random_below(&r, 16)], f[0], f[1],
                      random_below(&r, 3));
            }
            for (size_t i = 0; i < 5; i++) check(v, &r, kind & 1, kind >> 1, large[i][0], large[i][1], large[i][2], 1, (float)(i % 2), i % 3);
        }
        check(v, &r, 0, 0, 3, 4, 0, 1, 0.5f, 0);
        check(v, &r, 0, 0, 0, 4, 3, 1, 0, 0);
    }
}

struct shared {
    float *a, *b, *want;
    int wrong[16];
};
static void one(void *arg, size_t item, int thread) {
    struct shared *s = arg;
    (void)thread;
    float c[33 * 65];
    for (int i = 0; i < 40; i++) {
        gemm_nt(33, 65, 70, 1, s->a, 70, s->b, 70, 0, c, 65);
        s->wrong[item] |= memcmp(c, s->want, sizeof c) != 0;
    }
}
/* Debian's serial OpenBLAS fails here. */
static void test_threads(void **state) {
    (void)state;
    struct random r;
    random_seed(&r, 3);
    struct shared s = {matrix(&r, 33, 70), matrix(&r, 65, 70), matrix(&r, 33, 65), {0}};
    gemm_nt(33, 65, 70, 1, s.a, 70, s.b, 70, 0, s.want, 65);
    struct pool *p = pool_new(4);
    assert_non_null(p);
    pool_run(p, 16, &s, one);
    pool_free(p);
    for (int i = 0; i < 16; i++) assert_int_equal(s.wrong[i], 0);
    mem_free(s.a);
    mem_free(s.b);
    mem_free(s.want);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
