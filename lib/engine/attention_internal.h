/* What the kernel files of attention.h share. */
#ifndef GENLOOP_ENGINE_ATTENTION_INTERNAL_H
#define GENLOOP_ENGINE_ATTENTION_INTERNAL_H

#include "engine/attention.h"

extern const struct attention_kernels ATTENTION_KERNELS_AVX2, ATTENTION_KERNELS_AVX512;
/* A line of what is read soon: into the second level, where many can be on their way. */
static inline void attention_ask(const void *block, size_t at) { __builtin_prefetch((const char *)block + at, 0, 2); }

#endif
