/* What the kernel files of attention.h share. */
#ifndef GENLOOP_ENGINE_ATTENTION_INTERNAL_H
#define GENLOOP_ENGINE_ATTENTION_INTERNAL_H

#include "engine/attention.h"

extern const struct attention_kernels ATTENTION_KERNELS_AVX2, ATTENTION_KERNELS_AVX512;

#endif
