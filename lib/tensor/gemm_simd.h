/*
 * The tile of a matrix product, over the primitives of kernels_simd.h: MR rows of two vectors. Private to lib/tensor; included behind it.
 * Needs MR, and transpose_block(from, stride, count, depth W columns …) of the ISA: pack_block packs W columns of `count` <= W rows.
 */
#include "tensor/gemm_isa.h"

enum { NR = 2 * W };

static void simd_pack_rows(const float *from, size_t stride, size_t count, size_t width, size_t depth, float *to) {
    if (count == NR && width == NR) {
        for (size_t k = 0; k < depth; k++, from += stride, to += NR) {
            v_store_all(to, v_load_all(from));
            v_store_all(to + W, v_load_all(from + W));
        }
        return;
    }
    if (count == width) {
        for (size_t k = 0; k < depth; k++, from += stride, to += width) {
            size_t i = 0;
            for (; i + W <= width; i += W) v_store_all(to + i, v_load_all(from + i));
            if (i < width) v_store_some(to + i, v_load_some(from + i, width - i), width - i);
        }
        return;
    }
    for (size_t k = 0; k < depth; k++, from += stride, to += width)
        for (size_t i = 0; i < width; i++) to[i] = i < count ? from[i] : 0;
}

static void simd_pack_columns(const float *from, size_t stride, size_t count, size_t depth, float *to) {
    size_t k = 0;
    if (count == NR)
        for (; k + W <= depth; k += W) {
            pack_square(from + k, stride, to + k * NR, NR);
            pack_square(from + W * stride + k, stride, to + k * NR + W, NR);
        }
    for (; k < depth; k++)
        for (size_t j = 0; j < NR; j++) to[k * NR + j] = j < count ? from[j * stride + k] : 0;
}

/* rows is a constant where this is inlined. A packed strip: row i of step k at a[k · MR + i]; else at a[i · lda + k], three rows to a base register. */
INLINE void tile_of(const size_t rows, const int packed, size_t columns, size_t depth, float alpha, const float *a, size_t lda, const float *b, float beta,
                    float *c, size_t ldc) {
    vf acc[MR][2];
    const float *base[(MR + 2) / 3];
#pragma GCC unroll 12
    for (size_t i = 0; i < rows; i++) acc[i][0] = acc[i][1] = v_set(0);
#pragma GCC unroll 4
    for (size_t g = 0; g < (rows + 2) / 3; g++) base[g] = a + 3 * g * lda;
#pragma GCC unroll 12
    for (size_t i = 0; i < rows; i++) __builtin_prefetch(c + i * ldc, 1);
    for (size_t k = 0; k < depth; k++, b += NR) {
        vf b0 = v_load_all(b), b1 = v_load_all(b + W);
        __builtin_prefetch(b + 8 * NR);
        __builtin_prefetch(b + 8 * NR + W);
#pragma GCC unroll 12
        for (size_t i = 0; i < rows; i++) {
            vf x = v_set(packed ? a[i] : base[i / 3][i % 3 * lda]);
            acc[i][0] = v_fma(x, b0, acc[i][0]);
            acc[i][1] = v_fma(x, b1, acc[i][1]);
        }
        if (packed) {
            a += MR;
        } else {
#pragma GCC unroll 4
            for (size_t g = 0; g < (rows + 2) / 3; g++) base[g]++;
        }
    }
    vf by = v_set(alpha), keep = v_set(beta);
    if (columns == NR) {
#pragma GCC unroll 12
        for (size_t i = 0; i < rows; i++, c += ldc) {
            vf c0 = v_mul(by, acc[i][0]), c1 = v_mul(by, acc[i][1]);
            if (beta != 0) {
                c0 = v_fma(keep, v_load_all(c), c0);
                c1 = v_fma(keep, v_load_all(c + W), c1);
            }
            v_store_all(c, c0);
            v_store_all(c + W, c1);
        }
        return;
    }
    size_t first = columns < W ? columns : W, second = columns - first;
#pragma GCC unroll 12
    for (size_t i = 0; i < rows; i++, c += ldc) {
        vf c0 = v_mul(by, acc[i][0]), c1 = v_mul(by, acc[i][1]);
        if (beta != 0) {
            c0 = v_fma(keep, load(c, first), c0);
            if (second) c1 = v_fma(keep, load(c + W, second), c1);
        }
        store(c, c0, first);
        if (second) store(c + W, c1, second);
    }
}

#define TILE(n)                                                                        \
    case n:                                                                            \
        if (lda) tile_of(n, 0, columns, depth, alpha, a, lda, b, beta, c, ldc);        \
        else tile_of(n, 1, columns, depth, alpha, a, lda, b, beta, c, ldc);            \
        return;

static void simd_tile(size_t rows, size_t columns, size_t depth, float alpha, const float *a, size_t lda, const float *b, float beta, float *c, size_t ldc) {
    switch (rows) {
        TILE(1)
        TILE(2)
        TILE(3)
        TILE(4)
        TILE(5)
        TILE(6)
#if MR > 6
        TILE(7)
        TILE(8)
        TILE(9)
        TILE(10)
        TILE(11)
        TILE(12)
#endif
    }
}

static const struct gemm_isa simd_gemm = {MR, NR, simd_pack_rows, simd_pack_columns, simd_tile};
