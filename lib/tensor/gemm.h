/*
 * f32 matrix products, ours: B in packed panels, a register tile of C per pass (Goto and van de Geijn 2008), behind the dispatch of kernels.h.
 * Why not OpenBLAS: Debian 12's serial build shares its packing buffers between threads without a lock, so that two threads of ours at once give wrong
 * numbers, and its list of CPUs ends before Sapphire Rapids' successors, which then run SSE3 at a sixth of their speed. bench/train.c prints both.
 * Row-major throughout; ld* is the distance of rows in elements. Any thread may call (each keeps 1 MiB for panels); a result depends on the shapes, the values and
 * the variant only, and each element of C on its own row of A and column of B only. C does not overlap A or B.
 */
#ifndef GENLOOP_TENSOR_GEMM_H
#define GENLOOP_TENSOR_GEMM_H

#include <stddef.h>

struct kernels;

/* C[m,n] = alpha * A[m,k] * B[k,n] + beta * C. With beta 0, C may be uninitialised. */
void gemm_nn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);
/* C[m,n] = alpha * A[m,k] * B[n,k]^T + beta * C: x W^T, as torch's Linear. */
void gemm_nt(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);
/* C[m,n] = alpha * A[k,m]^T * B[k,n] + beta * C: the gradient of weights. */
void gemm_tn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);

/* The general form, of one variant: tests and benchmarks. A is [k,m] where a_transposed, B [n,k] where b_transposed. */
void gemm_with(const struct kernels *variant, int a_transposed, int b_transposed, size_t m, size_t n, size_t k, float alpha, const float *a,
               size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);

#endif
