/*
 * Packed weights: a matrix W [rows, cols] repacked once, when a model is loaded, into the order in which the CPU reads it, and the
 * product y = W x for 1 to any number of rows of x. The kinds:
 *     f32, bf16, f16: as the checkpoint has them; widened to f32 in the registers, exactly
 *     q8:  blocks of 32 along cols, int8 with one f16 scale, as GGUF's Q8_0 has it
 *     q4:  blocks of 32, 4 bits less 8 with one f16 scale, as Q4_0 has it
 *     q4m: blocks of 32, 4 bits with one f16 scale and one f16 minimum, as Q4_1 has it
 *     split: f32 as two of bf16, what is high and what is low of it, 16 bits in all
 *     short: bf16 in 12 bits, without loss: of a panel's values few have another sign and exponent than the 16 most frequent, and those few are kept beside
 * With q8, q4 and q4m x is quantized to int8 in blocks of 32 too, once for all the matrices that take it. In two terms what that rounding lost is quantized the same way,
 * as a row of its own behind the first, and the product is the sum of both rows': about 16 bits of x (steps of absmax / 32,000) by the same kernels. Twice the
 * multiply-adds for the same bytes of W: little where few rows of x wait for W, twice the time where many do.
 *
 * The promise that the engine is built on: an element y[i][r] is the same, bit for bit, for any number of rows of x and any split
 * over threads. But for products of bf16 (below) it is the same for any of the kernels, too (C, AVX2, AVX-512, AMX). It holds because each element is one chain of operations in one order:
 *     f32, bf16, f16, short: fma(x[0], w[0], 0), then fma(x[k], w[k], acc) for k = 1, 2, …
 *     q8, q4: an exact integer dot product per block b, then fma(dot[b], scale_w[b] · scale_x[b], acc) for b = 0, 1, …
 *     q4m:    the same, each followed by fma(minimum_w[b], scale_x[b] · sum of q_x[b], acc)
 *     two terms: such a chain for each, then first + second
 * so that vectors run across rows of W and tiles across rows of x, never along k.
 *
 * Tiles of bf16, where the CPU has them (AMX), multiply five times as fast as blocks of int8 with their scales, which is what a text that is read is bound by; but W must be
 * widened first, which few rows that wait for W's bytes have no time for. Which of the two a row takes may not depend on how many there are: it is for what the row is. Rows of a text that
 * is read (packed_form.read) are rounded to bf16 and multiplied by W's blocks, their values rounded to bf16; rows of a text that is written go by int8. The former lose less: half a
 * step of 2^-8 of each value against absmax / 127 of each block. Matrices of bf16, short or not, take tiles for all rows whose form asks for halves: x is split into two of bf16, 16 bits of it.
 * Where blocks are asked for in two terms, what is read is two of bf16 as well, x and W: high by high, low by high, high by low. So it is with matrices of the kind split.
 * An element's sum is in f32, in the order of quant_amx_bf16.c.
 *
 * CPUs that multiply pairs of bf16 in vectors (AVX-512 BF16 without AMX: Zen 4) do so with matrices of bf16, short or not, whose form asks for halves, twice as fast as in f32: x is rounded to bf16,
 * or, where the form asks for what is low of it, is two of bf16, which takes as long as f32. An element's sum is in the order of quant_avx512bf16.c.
 *
 * Layout. W's rows are taken in panels, zero rows fill the last one up; a panel is one run of memory that is read front to back, but for lanes.
 *     f32,  panel of 64 rows: for k: float[64]
 *     bf16, panel of 64 rows, in four lanes of 16: for k in pairs: uint32[16]; low half k, high half k + 1, as a row has them: a shift or a mask widens; zeros fill k up to 32 · n.
 *           A lane is a run of memory: four that are read in turns, a kilobyte of each, come a sixth faster from memory than one (Granite Rapids)
 *     f16,  panel of 64 rows: for k: uint16[64]
 *     split, panel of 64 rows, in four lanes of 16: for 32 columns: as bf16 what is high, then what is low
 *     short, panel of 64 rows: a head, then for each 8 columns of 16 rows: codes of the upper bytes, 4 bits each, uint8[64], then the lower bytes uint8[2][64]; in four lanes as bf16 has them,
 *           or in a run, columns after columns, as the CPU likes it (quant_internal.h). Decoding reads three quarters of bf16's bytes, and waits for nothing else
 *     q8,   panel of 32 rows: for block: uint8[8][32][4] (k in groups of 4; q + 128, because VNNI multiplies unsigned by signed), f16[32] scales
 *     q4,   panel of 32 rows: for block: uint8[4][32][4] (low half k = 4 · group + i, high half 16 more), f16[32] scales
 *     q4m,  the same, then f16[32] minima
 *
 * Nothing here allocates but quant_map; the caller owns the memory. Packed matrices are immutable once filled: any thread may read.
 */
#ifndef GENLOOP_TENSOR_QUANT_H
#define GENLOOP_TENSOR_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/dtype.h"

/* PACKED_STORED is a wish, not a kind: each matrix as the kind that its stored type is nearest to. The last two are nobody's wish. PACKED_SPLIT: for CPUs with
 * tiles of bf16 alone, and for inputs whose form asks for halves. PACKED_SHORT: for bf16 where its values allow it, see packed_fill. */
enum packed_kind { PACKED_STORED, PACKED_F32, PACKED_BF16, PACKED_F16, PACKED_Q8, PACKED_Q4, PACKED_Q4M, PACKED_KINDS, PACKED_SPLIT = PACKED_KINDS, PACKED_SHORT, PACKED_ALL };
enum {
    PACKED_LAYOUT_VERSION = 6, /* to be raised with every change of what packed bytes mean: copies of them outlive a program (engine/packed_cache.h) */
    QUANT_BLOCK = 32,       /* values per scale, as in GGUF */
    PACKED_FLOAT_PANEL = 64, /* 4 vectors of 512 bits: enough chains to hide the latency of fma for a single row of x */
    PACKED_BLOCK_PANEL = 32, /* 2 vectors of int32 sums; a block with its scales is whole cache lines */
    PACKED_PANEL_MAX = 64,
    QUANT_TILE_ROWS = 6,    /* rows of x that a kernel takes at once: 6 × 4 sums + 4 weights stay in 32 registers, 6 × 2 + 4 in 16 */
    QUANT_TILE_ROWS_MAX = 64, /* the same with AMX: four tiles of 16, for which 4 bits are unpacked once */
    QUANT_SIDE = 16,        /* rows of x of an AMX tile, */
    QUANT_ROWS_BEHIND = QUANT_SIDE - 1, /* which is read, and made, whole */
    PACKED_ROWS_AT_ONCE = 256, /* of x, in tiles of bf16: sums of them stay in the second-level cache */
};

struct packed {
    enum packed_kind kind;
    size_t rows, cols;
    size_t panels, panel_size; /* bytes of one panel */
    uint8_t *data;             /* borrowed, 64-byte aligned */
};

const char *packed_kind_name(enum packed_kind kind);
/* By name: "stored", "f32", "bf16", "f16", "q8", "q4", "q4m". E_INVALID names those that there are. */
int packed_kind_find(const char *name, enum packed_kind *kind, struct error *err);
bool packed_kind_is_blocks(enum packed_kind kind); /* int8 activations */
size_t packed_panel_rows(enum packed_kind kind);
/* Rows of x that are best given to the kernel in use at once, at most QUANT_TILE_ROWS_MAX: work is best cut at its multiples. */
size_t packed_tile_rows(enum packed_kind kind);
/* Rows of x that the kernel in use multiplies together, so that what does not fill a multiple costs nearly what a whole one does. */
size_t packed_unit_rows(enum packed_kind kind);
/* Bytes that W [rows, cols] takes, a multiple of 64. E_RANGE on overflow or an empty matrix. */
int packed_size(enum packed_kind kind, size_t rows, size_t cols, size_t *size);
/* memory: packed_size bytes, 64-byte aligned, borrowed. Then every panel is to be filled. */
int packed_init(struct packed *w, enum packed_kind kind, size_t rows, size_t cols, void *memory);
/* The kind that loses nothing of a stored type, or least: F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are repacked exactly; Q4_K goes to q4m, what has 5 or 6 bits to q8. */
enum packed_kind packed_kind_for(enum tensor_type type);
/* The kind of what its values are: bf16 where that is short. */
static inline enum packed_kind packed_values(const struct packed *w) { return w->kind == PACKED_SHORT ? PACKED_BF16 : w->kind; }
/* Fills panel p from rows p · packed_panel_rows … of W; rows[i] is that row as it is stored, cols values, of any alignment; NULL beyond the last row.
 * cols is a multiple of the type's block. Panels may be filled by several threads. E_RANGE where a value is not finite or beyond what the kind holds
 * (f16: 65504; q8: 127 · 65504; q4: 8 · 65504; q4m: 65504). E_FULL: PACKED_SHORT, and too many values are beside the 16 most frequent upper bytes: the matrix is to be packed as bf16. */
int packed_fill(struct packed *w, size_t panel, enum tensor_type type, const void *const rows[PACKED_PANEL_MAX]);
/* Row r as floats, for embeddings tied to the output matrix: out[cols]. */
void packed_get_row(const struct packed *w, size_t r, float *out);

/* What x is rounded to for matrices in blocks: one term or two. */
enum packed_activations { PACKED_INT8, PACKED_INT16, PACKED_ACTIVATIONS };
/* By name: "int8", "int16". E_INVALID names those that there are. */
int packed_activations_find(const char *name, enum packed_activations *activations, struct error *err);
enum { PACKED_TERMS_MAX = 2 };
static inline uint32_t packed_terms(enum packed_activations a) { return a == PACKED_INT16 ? 2 : 1; }

/* What rows of x are made into. */
struct packed_form {
    uint32_t terms; /* of int8: 1 or 2 where a matrix of q8, q4 or q4m takes them, else 0 */
    bool halves;    /* a matrix of bf16 takes them */
    bool low;       /* 16 bits of x for it, on any CPU: two of bf16, not one */
    size_t read;    /* the first so many rows are a text's that is read, not written: what they are says how their products with blocks are made, see above */
};
/* Whether rows are made into anything: else packed_input_row has nothing to do, and packed_input_init takes no memory. */
bool packed_form_any(struct packed_form form);
/* Whether products of what is read are other ones than of what is written, on this CPU. */
bool packed_form_reads_apart(struct packed_form form);

/* Rows of x [n, cols] made ready once for all the matrices that take them. */
struct packed_input {
    uint32_t terms; /* quantized, for q8, q4 and q4m; 0: x is taken as it is */
    bool halves;    /* all rows are one of bf16, or two */
    size_t read;    /* these are multiplied by blocks in tiles of bf16 */
    size_t n, cols;
    const float *x;      /* [n, cols], borrowed */
    /* blocks: in the caller's memory */
    int8_t *q;           /* [n, blocks · 32]; these five, in two terms, [n, 2, …]: a row, then what it lost */
    int16_t *wide;       /* the same as the q8 kernel of this CPU wants it; NULL where that reads q */
    float *scale;        /* [n, blocks] */
    int32_t *correction; /* [n, blocks], −128 · sum of q: takes the offset of the weights out again */
    float *total;        /* [n, blocks], scale · sum of q: what a minimum is multiplied by */
    /* tiles of bf16: [n / 16, blocks, 16, 32], of x and of what rounding lost of it; NULL where nobody takes them */
    uint16_t *high, *low;
};
/* Bytes of the caller's memory for up to n rows of x, any of them read, 64-byte aligned. */
size_t packed_input_size(struct packed_form form, size_t n, size_t cols);
/* memory: NULL where the form is none. */
void packed_input_init(struct packed_input *in, struct packed_form form, size_t n, size_t cols, const float *x, void *memory);
/* Quantizes row i (nothing to do where the form is none); rows may be done by several threads. */
void packed_input_row(struct packed_input *in, size_t i);
/* The same for the blocks [from, to) of row i: a phase that makes x piece by piece quantizes what it made. */
void packed_input_blocks(struct packed_input *in, size_t i, size_t from, size_t to);
/* The same of values that lie elsewhere, x [cols from block `from` on], where the row's own are not wanted: packed_needs_values. */
void packed_input_values(struct packed_input *in, size_t i, size_t from, size_t to, const float *x);
/* Whether a product of row i takes x as it is, not what it was made into. */
bool packed_needs_values(const struct packed *w, const struct packed_input *in, size_t i);

/* Where a product goes: y[i · stride + r] = product + bias[r] (+ what was there, where add). */
struct packed_output {
    float *y;
    size_t stride;
    const float *bias; /* [rows] or NULL */
    bool add;
    bool whole; /* a hint: no bias, no addition, the stride is PACKED_PANEL_MAX, y aligned and nobody else's; up to QUANT_ROWS_BEHIND rows more, and whole panels, may be written */
};

/* Panels [from, to) of W times all rows of the input. */
void packed_multiply(const struct packed *w, const struct packed_input *in, size_t from, size_t to, const struct packed_output *out);
/* The same for the input's rows [first, first + n) only, where y and bias begin with row `first` and with panel `from`. */
void packed_multiply_rows(const struct packed *w, const struct packed_input *in, size_t first, size_t n, size_t from, size_t to, const struct packed_output *out);

/* Rows of the input from `row` on, at most PACKED_ROWS_AT_ONCE, that are best given to packed_multiply_rows at once. */
size_t packed_rows_at_once(const struct packed *w, const struct packed_input *in, size_t row);
/* Whether so many of the input's rows are multiplied in tiles of bf16 that panels are best given many at once, PACKED_PANEL_MAX rows of W together. */
bool packed_input_is_long(const struct packed *w, const struct packed_input *in);

/* What a kernel sees of quantized rows: block b of row i is at [i · blocks + b] of each. Behind the last row QUANT_ROWS_BEHIND more of q may be read, and count as nothing. */
struct quant_rows {
    const int8_t *q;
    const int16_t *wide;
    const float *scale;
    const int32_t *correction;
    const float *total;
};

/* And of rows in tiles of bf16: row i's block b is line i % 16 of tile i / 16 · blocks + b. */
struct quant_halves {
    const uint16_t *high, *low; /* low: for matrices of bf16, and where exact */
    size_t blocks;
    bool exact; /* by blocks: two of bf16, x and W */
};

/* The kernels behind it; tests hold each to the first. n is 1 … QUANT_TILE_ROWS, of blocks 1 … block_rows; tile is [n][panel rows]. more: of floats, the chains go on from what the tile has. */
typedef void (*quant_float_kernel)(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile);
/* Any number of rows of x [n, cols], with the same bits: y and bias of `out` begin with the first row and the panel, of whose rows the first `count` are written. */
typedef void (*quant_rows_kernel)(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count);
typedef void (*quant_block_kernel)(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile);
struct quant_kernels {
    const char *name;
    const char *vectors;  /* name of the variant of kernels.h and attention.h that goes with it, where that is not `name` (else NULL) */
    bool (*usable)(void); /* on this CPU, under this system */
    quant_float_kernel f32, bf16, f16;
    quant_rows_kernel f32_rows, bf16_rows, f16_rows; /* NULL: tile by tile */
    quant_rows_kernel short_rows; /* NULL: by way of lengthen */
    size_t many_rows; /* so many rows of x are worth those */
    /* A block of a panel of `short`, without what is kept beside: to [32 columns][64 rows], as f32 has a panel; 64-byte aligned. */
    void (*lengthen)(const uint8_t *panel, size_t cols, size_t block, float *to);
    /* The product of such a block with n ≤ short_few rows of x at its 32 columns, without what is kept beside; short_few 0: by way of lengthen. */
    void (*short_block)(const uint8_t *panel, size_t cols, size_t block, const float *x, size_t x_stride, size_t n, bool more, float *tile);
    size_t short_few;
    bool short_in_a_run; /* what these pack as short lies in a run, not in lanes */
    quant_block_kernel q8, q4, q4m;
    size_t block_rows; /* rows of x that these take at once: QUANT_TILE_ROWS … QUANT_TILE_ROWS_MAX */
    size_t block_unit; /* and those that they multiply together */
    /* One row of x into blocks: scale = absmax / 127, q = round to nearest even of x / scale; correction = -128 times the sum of q, total = scale times that sum. */
    void (*quantize)(const float *x, size_t cols, int8_t *q, float *scale, int32_t *correction, float *total);
    void (*done)(void); /* after the last product of a call of packed_multiply: what a kernel keeps of the CPU's state between its panels is given back; NULL */
    /* Blocks of q as q8 reads them, where that is not q itself (else NULL). */
    void (*widen)(const int8_t *q, size_t blocks, int16_t *wide);
    /* Products of tiles of bf16, of bf16 and, where tiles_of_blocks, of split and blocks; rows [first, first + rows), with which y begins. NULL: this CPU has none, and x is taken as it is. */
    void (*tiles)(const struct packed *w, const struct quant_halves *x, size_t first, size_t rows, size_t from, size_t to, const struct packed_output *out);
    bool tiles_of_blocks; /* tiles are so much faster than all else that blocks are widened for rows that are read, and x is always two of bf16 */
    /* n ≤ 32 columns of a row as a line of a tile; low NULL: is not wanted */
    void (*halve)(const float *x, size_t n, uint16_t *high, uint16_t *low);
};
/* Best first, the C reference last. */
extern const struct quant_kernels *const QUANT_KERNELS[];
extern const size_t QUANT_KERNELS_COUNT;
/* The one in use: the best that the CPU has, or the one that the environment variable GENLOOP_KERNELS names ("c", "avx2", "avxvnni", "avx512", "avx512bf16", "amx"). */
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
