/*
 * The loops around the tile. For each panel of columns (NC) and piece of the inner dimension (KC): B's part is packed once into strips of NR columns, then each
 * strip of MR rows of A meets them all: A's strip stays in the first-level cache, B's in the second. A is read where it lies; only a
 * transposed A is packed, in groups of strips, so that its rows are read in whole cache lines.
 */
#include "tensor/gemm.h"

#include <pthread.h>
#include <sys/mman.h>

#include "base/error.h"
#include "tensor/gemm_isa.h"
#include "tensor/kernels.h"

enum {
    KC = 384,  /* MR · KC floats of A: 18 KiB, in a first-level cache of 32 */
    NC = 512,  /* KC · NC floats of B: 768 KiB, in a second-level cache of 1 MiB */
    A_STRIPS = 8,
    A_FLOATS = A_STRIPS * GEMM_MR_MAX * KC,
    SCRATCH = (NC * KC + A_FLOATS) * (int)sizeof(float),
};

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static void scratch_free(void *p) { munmap(p, SCRATCH); }
static void scratch_init(void) { ASSERT(pthread_key_create(&scratch_key, scratch_free) == 0); }

/* This thread's panels. Not from the allocation seam: a product cannot fail, and a megabyte of address space is there or nothing is. */
static float *scratch(void) {
    pthread_once(&scratch_once, scratch_init);
    float *p = pthread_getspecific(scratch_key);
    if (p) return p;
    p = mmap(NULL, SCRATCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT(p != MAP_FAILED);
    ASSERT(pthread_setspecific(scratch_key, p) == 0);
    return p;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
/* `whole` in pieces of at most `most`, as even as multiples of `unit` allow. */
static size_t even(size_t whole, size_t most, size_t unit) {
    size_t pieces = (whole + most - 1) / most, each = (whole + pieces - 1) / pieces;
    return least((each + unit - 1) / unit * unit, most);
}

static void scale_rows(float *c, size_t ldc, size_t m, size_t n, float beta) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
}

void gemm_with(const struct kernels *variant, int a_transposed, int b_transposed, size_t m, size_t n, size_t k, float alpha, const float *a,
               size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc) {
    if (m == 0 || n == 0) return;
    if (k == 0) {
        scale_rows(c, ldc, m, n, beta);
        return;
    }
    const struct gemm_isa *isa = variant->gemm;
    const size_t mr = isa->mr, nr = isa->nr, kc = even(k, KC, 8), nc = even(n, NC, nr);
    float *packed_b = scratch(), *packed_a = packed_b + NC * KC;
    for (size_t j0 = 0; j0 < n; j0 += nc) {
        const size_t columns = least(nc, n - j0);
        for (size_t k0 = 0; k0 < k; k0 += kc) {
            const size_t depth = least(kc, k - k0);
            const float *from = b_transposed ? b + j0 * ldb + k0 : b + k0 * ldb + j0;
            for (size_t j = 0; j < columns; j += nr) {
                if (b_transposed) isa->pack_columns(from + j * ldb, ldb, least(nr, columns - j), depth, packed_b + j * depth);
                else isa->pack_rows(from + j, ldb, least(nr, columns - j), nr, depth, packed_b + j * depth);
            }
            const float rest = k0 ? 1 : beta;
            for (size_t i0 = 0; i0 < m; i0 += mr * A_STRIPS) {
                const size_t rows = least(mr * A_STRIPS, m - i0);
                if (a_transposed)
                    for (size_t i = 0; i < rows; i += mr)
                        isa->pack_rows(a + k0 * lda + i0 + i, lda, least(mr, rows - i), mr, depth, packed_a + i * depth);
                for (size_t i = 0; i < rows; i += mr) {
                    const float *strip = a_transposed ? packed_a + i * depth : a + (i0 + i) * lda + k0;
                    for (size_t j = 0; j < columns; j += nr)
                        isa->tile(least(mr, rows - i), least(nr, columns - j), depth, alpha, strip, a_transposed ? 0 : lda, packed_b + j * depth, rest,
                                  c + (i0 + i) * ldc + j0 + j, ldc);
                }
            }
        }
    }
}

void gemm_nn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc) {
    gemm_with(kernels(), 0, 0, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void gemm_nt(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc) {
    gemm_with(kernels(), 0, 1, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void gemm_tn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc) {
    gemm_with(kernels(), 1, 0, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
