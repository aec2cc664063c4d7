/* The variants that exist. Private to lib/tensor. */
#ifndef GENLOOP_TENSOR_KERNELS_LIST_H
#define GENLOOP_TENSOR_KERNELS_LIST_H

#include "tensor/kernels.h"

extern const struct kernels kernels_c;
#if defined(__x86_64__)
extern const struct kernels kernels_avx2;
extern const struct kernels kernels_avx512;
#endif

#endif
