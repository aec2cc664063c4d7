/* What the kernel files of quant.h share; nobody else includes this. */
#ifndef GENLOOP_TENSOR_QUANT_INTERNAL_H
#define GENLOOP_TENSOR_QUANT_INTERNAL_H

#include "tensor/quant.h"

enum { QUANT_Q8_BLOCK_SIZE = QUANT_BLOCK * PACKED_Q8_PANEL + 2 * PACKED_Q8_PANEL };

/* The scale of a block of x from its largest magnitude. So small that its inverse would be infinite: the block counts as 0. */
static inline void quant_block_scale(float max, float *scale) { *scale = max < 1e-30f ? 0 : max / 127.0f; }

extern const struct quant_kernels QUANT_KERNELS_AVX2, QUANT_KERNELS_AVX512;

#endif
