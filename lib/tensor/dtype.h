/*
 * The types that weights are stored in, by rows: floats, and the block formats of ggml, as GGUF files hold them. A row is a run of whole blocks; what a block is worth is defined by its
 * dequantization here (ggml's reference, value for value). Kernels compute on packed forms (quant.h); this is how files are read and written.
 *
 *     block of  32   Q8_0  f16 d, int8[32]                       d · q
 *                    Q4_0  f16 d, 4 bits[32]                     d · (q − 8)
 *                    Q4_1  f16 d, f16 m, 4 bits[32]              d · q + m
 *                    Q5_0  f16 d, 1 bit[32], 4 bits[32]          d · (q − 16)
 *                    Q5_1  f16 d, f16 m, 1 bit[32], 4 bits[32]   d · q + m
 *     block of 256   Q4_K  f16 d, f16 dmin, 6 bits[8 + 8], 4 bits[256]                 d · scale · q − dmin · min
 *                    Q5_K  the same with 1 bit[256] more
 *                    Q6_K  4 bits[256], 2 bits[256], int8[16], f16 d                   d · scale · (q − 32)
 *
 * Little-endian. Data may lie at any address. Pure functions, any thread.
 */
#ifndef GENLOOP_TENSOR_DTYPE_H
#define GENLOOP_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

enum tensor_type { TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1, TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K, TENSOR_TYPES };
enum { TENSOR_BLOCK_MAX = 256 }; /* values */

const char *tensor_type_name(enum tensor_type t); /* "Q4_K" */
bool tensor_type_from_name(struct span name, enum tensor_type *t); /* any case */
uint32_t tensor_block(enum tensor_type t);        /* values; 1 for floats */
uint32_t tensor_block_bytes(enum tensor_type t);
/* Bytes of rows × cols. E_INVALID where cols is no multiple of the block; E_RANGE on overflow. */
int tensor_size(enum tensor_type t, uint64_t rows, uint64_t cols, size_t *size);
/* n values (whole blocks) as floats. */
void tensor_to_f32(enum tensor_type t, const void *data, size_t n, float *out);
/* The other way; E_UNSUPPORTED for a type that is only read (Q5_0, Q5_1 and the K kinds). The same floats give the same bytes. */
int tensor_from_f32(enum tensor_type t, const float *x, size_t n, void *out);

#endif
