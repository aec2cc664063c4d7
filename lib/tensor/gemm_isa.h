/* What a variant of the matrix product is made of. Private to lib/tensor. */
#ifndef GENLOOP_TENSOR_GEMM_ISA_H
#define GENLOOP_TENSOR_GEMM_ISA_H

#include <stddef.h>

enum { GEMM_MR_MAX = 12, GEMM_NR_MAX = 32 };

struct gemm_isa {
    size_t mr, nr; /* the tile of C that registers hold */
    /* to[depth][nr] from rows that lie `stride` apart: `count` of each, the rest zero. */
    void (*pack_rows)(const float *from, size_t stride, size_t count, size_t width, size_t depth, float *to);
    /* to[depth][nr] from `count` columns that lie `stride` apart, each contiguous along depth; the rest zero. */
    void (*pack_columns)(const float *from, size_t stride, size_t count, size_t depth, float *to);
    /* C[rows, columns] = alpha · A · B + beta · C; rows <= mr, columns <= nr. A: row i at a + i · lda, or packed [depth][mr] where lda is 0. B: packed [depth][nr]. */
    void (*tile)(size_t rows, size_t columns, size_t depth, float alpha, const float *a, size_t lda, const float *b, float beta, float *c, size_t ldc);
};

#endif
