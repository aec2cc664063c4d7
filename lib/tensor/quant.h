/*
 * Packed weights: a matrix W [rows, cols] repacked once, when a model is loaded, into the order in which the CPU reads it, and the
 * product y = W x for 1 to any number of rows of x. Two kinds: f32, and q8 (blocks of 32 along cols, int8 with one f16 scale, as
 * GGUF's Q8_0 has it; x is quantized to int8 in blocks of 32 too).
 *
 * The promise that the engine is built on: an element y[i][r] is the same, bit for bit, for any number of rows of x, any split
 * over threads, and any of the kernels (C, AVX2, AVX-512). It holds because each element is one chain of operations in one order:
 *     f32: fma(x[0], w[0], 0), then fma(x[k], w[k], acc) for k = 1, 2, …
 *     q8:  an exact integer dot product per block b, then fma(dot[b], scale_w[b] · scale_x[b], acc) for b = 0, 1, …
 * so that vectors run across rows of W and tiles across rows of x, never along k.
 *
 * Layout. W's rows are taken in panels, zero rows fill the last one up; a panel is one run of memory that is read front to back.
 *     f32, panel of 64 rows: for k: float[64]
 *     q8,  panel of 32 rows: for block: uint8[8][32][4] (k in groups of 4; q + 128, because VNNI multiplies unsigned by signed), f16[32] scales
 *
 * Nothing here allocates but quant_map; the caller owns the memory. Packed matrices are immutable once filled: any thread may read.
 */
#ifndef GENLOOP_TENSOR_QUANT_H
#define GENLOOP_TENSOR_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum packed_kind { PACKED_F32, PACKED_Q8 };
enum {
    QUANT_BLOCK = 32,       /* values per scale, GGUF's Q8_0 */
    PACKED_F32_PANEL = 64,  /* 4 vectors of 512 bits: enough chains to hide the latency of fma for a single row of x */
    PACKED_Q8_PANEL = 32,   /* 2 vectors of int32 sums; with its scales a block is 17 cache lines */
    PACKED_PANEL_MAX = 64,
    QUANT_TILE_ROWS = 6,    /* rows of x per tile: 6 × 4 sums + 4 weights stay in 32 registers */
};

struct packed {
    enum packed_kind kind;
    size_t rows, cols;
    size_t panels, panel_size; /* bytes of one panel */
    uint8_t *data;             /* borrowed, 64-byte aligned */
};

size_t packed_panel_rows(enum packed_kind kind);
/* Bytes that W [rows, cols] takes, a multiple of 64. E_RANGE on overflow or an empty matrix. */
int packed_size(enum packed_kind kind, size_t rows, size_t cols, size_t *size);
/* memory: packed_size bytes, 64-byte aligned, borrowed. Then every panel is to be filled. */
int packed_init(struct packed *w, enum packed_kind kind, size_t rows, size_t cols, void *memory);
/* Fills panel p from rows p · packed_panel_rows … of W; rows[i] is that row, [cols]; NULL beyond the last row. Panels may be
 * filled by several threads. E_RANGE where a value is not finite or (q8) beyond 127 · 65504. */
int packed_fill(struct packed *w, size_t panel, const float *const rows[PACKED_PANEL_MAX]);
/* Row r as floats, for embeddings tied to the output matrix: out[cols]. */
void packed_get_row(const struct packed *w, size_t r, float *out);

/* Rows of x [n, cols] made ready once for all the matrices that take them. */
struct packed_input {
    enum packed_kind kind;
    size_t n, cols;
    const float *x;      /* f32: [n, cols], borrowed */
    int8_t *q;           /* q8: [n, blocks · 32], in the caller's memory */
    float *scale;        /* q8: [n, blocks] */
    int32_t *correction; /* q8: [n, blocks], −128 · sum of q: takes the offset of the weights out again */
};
/* Bytes of the caller's memory for up to n rows (0 for f32), 64-byte aligned. */
size_t packed_input_size(enum packed_kind kind, size_t n, size_t cols);
void packed_input_init(struct packed_input *in, enum packed_kind kind, size_t n, size_t cols, const float *x, void *memory);
/* Quantizes row i (nothing to do for f32); rows may be done by several threads. */
void packed_input_row(struct packed_input *in, size_t i);

/* Where a product goes: y[i · stride + r] = product + bias[r] (+ what was there, where add). */
struct packed_output {
    float *y;
    size_t stride;
    const float *bias; /* [rows] or NULL */
    bool add;
};
/* Panels [from, to) of W times all rows of the input. */
void packed_multiply(const struct packed *w, const struct packed_input *in, size_t from, size_t to, const struct packed_output *out);

/* The kernels behind it; tests hold each to the first. n is 1 … QUANT_TILE_ROWS; tile is [n][panel rows]. */
struct quant_kernels {
    const char *name;
    bool (*usable)(void); /* on this CPU */
    void (*f32)(const float *panel, size_t cols, const float *x, size_t x_stride, size_t n, float *tile);
    void (*q8)(const uint8_t *panel, size_t blocks, const int8_t *q, const float *scale, const int32_t *correction, size_t n, float *tile);
    /* One row of x into blocks: scale = absmax / 127, q = round to nearest even of x / scale. */
    void (*quantize)(const float *x, size_t cols, int8_t *q, float *scale, int32_t *correction);
};
/* Best first, the C reference last. */
extern const struct quant_kernels *const QUANT_KERNELS[];
extern const size_t QUANT_KERNELS_COUNT;
/* The one in use: the best that the CPU has, or the one that the environment variable GENLOOP_KERNELS names ("c", "avx2", "avx512"). */
const struct quant_kernels *quant_kernels(void);
/* Tests: another one from here on; NULL for the default again. */
void quant_kernels_use(const struct quant_kernels *k);

/* IEEE half precision, rounding to nearest even; quiet about range: beyond 65504 is infinite. */
uint16_t quant_f16_from_f32(float x);
float quant_f16_to_f32(uint16_t h);

/* Anonymous memory on huge pages where the system has them: weights and the KV cache stream through it, and 4 KiB pages halve the
 * bandwidth. Zeroed; untouched pages cost nothing. NULL without memory. quant_unmap takes the same size. */
void *quant_map(size_t size);
void quant_unmap(void *memory, size_t size);

#endif
