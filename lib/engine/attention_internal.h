/* What the kernel files of attention.h share. */
#ifndef GENLOOP_ENGINE_ATTENTION_INTERNAL_H
#define GENLOOP_ENGINE_ATTENTION_INTERNAL_H

#include "engine/attention.h"

extern const struct attention_kernels ATTENTION_KERNELS_AVX2, ATTENTION_KERNELS_AVX512;
/* A head's keys or values in a block are a kilobyte or two, and the next ones lie far behind: no CPU guesses where. Asked for while those before are
 * computed they come in time: attention over 2,048 tokens takes a quarter less (AMD Zen 3). */
enum { ATTENTION_AHEAD = 2 }; /* blocks */
static inline void attention_ask(const void *from, size_t size) {
    for (size_t i = 0; i < size; i += 64) __builtin_prefetch((const char *)from + i);
}

#endif
