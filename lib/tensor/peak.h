/*
 * What this machine can do at most, measured now: bytes read from memory, and multiply-adds. Figures of speed are printed beside these, because a
 * number of tokens says nothing about what was left unused. Takes about a tenth of a second each; uses the pool's threads.
 */
#ifndef GENLOOP_TENSOR_PEAK_H
#define GENLOOP_TENSOR_PEAK_H

#include "base/pool.h"
#include "tensor/quant.h"

enum { PEAK_READ_BYTES = 256 << 20 }; /* far beyond any cache */

/* Bytes per second that all threads read together from huge pages, the best of some runs; 0 without memory. */
double peak_read_bandwidth(struct pool *pool);
/* Multiply-adds per second of all threads together, by this CPU's own kernel for weights of this kind, on operands that lie in the first-level cache. */
double peak_multiply_adds(struct pool *pool, enum packed_kind kind);

#endif
