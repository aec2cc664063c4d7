/*
 * f32 matrix products: the one door to OpenBLAS (serial; our threads are outside it). Row-major throughout; ld* is the distance of
 * rows in elements. Any thread may call; a result depends on the shapes and values only, not on the thread.
 * Sizes are what a caller has allocated: they are ours, checked before they come here, each below 2^31.
 */
#ifndef GENLOOP_TENSOR_GEMM_H
#define GENLOOP_TENSOR_GEMM_H

#include <stddef.h>

/* C[m,n] = alpha * A[m,k] * B[k,n] + beta * C. With beta 0, C may be uninitialised. */
void gemm_nn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);
/* C[m,n] = alpha * A[m,k] * B[n,k]^T + beta * C: x W^T, as torch's Linear. */
void gemm_nt(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);
/* C[m,n] = alpha * A[k,m]^T * B[k,n] + beta * C: the gradient of weights. */
void gemm_tn(size_t m, size_t n, size_t k, float alpha, const float *a, size_t lda, const float *b, size_t ldb, float beta, float *c, size_t ldc);

/* What OpenBLAS took this CPU for, e.g. "SkylakeX": for benchmarks and the log. */
const char *gemm_core_name(void);

#endif
