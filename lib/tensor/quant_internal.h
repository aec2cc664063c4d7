/* What the files of quant.h share; nobody else includes this. */
#ifndef GENLOOP_TENSOR_QUANT_INTERNAL_H
#define GENLOOP_TENSOR_QUANT_INTERNAL_H

#include <string.h>

#include "tensor/quant.h"

/* Bytes of a panel's block, and where its scales and minima lie. */
enum {
    QUANT_SCALES_SIZE = 2 * PACKED_BLOCK_PANEL,
    QUANT_Q8_SCALES = QUANT_BLOCK * PACKED_BLOCK_PANEL,
    QUANT_Q8_BLOCK_SIZE = QUANT_Q8_SCALES + QUANT_SCALES_SIZE,
    QUANT_Q4_SCALES = QUANT_BLOCK * PACKED_BLOCK_PANEL / 2,
    QUANT_Q4_BLOCK_SIZE = QUANT_Q4_SCALES + QUANT_SCALES_SIZE,
    QUANT_Q4_MINIMA = QUANT_Q4_BLOCK_SIZE,
    QUANT_Q4M_BLOCK_SIZE = QUANT_Q4_MINIMA + QUANT_SCALES_SIZE,
};

/* What the kinds are. unit: bytes of a panel for one column, or for one block of them. */
struct quant_kind {
    const char *name;
    size_t panel_rows, unit;
    bool blocks;
};
extern const struct quant_kind QUANT_KINDS[PACKED_ALL];

static inline size_t quant_block_count(size_t cols) { return (cols + QUANT_BLOCK - 1) / QUANT_BLOCK; }
/* Lanes, bf16, split and short: QUANT_SIDE rows of a panel, as tiles read them, block after block; what is low of a block, split, lies behind what is high. */
enum { QUANT_LANES = PACKED_FLOAT_PANEL / QUANT_SIDE, QUANT_LANE_BLOCK = QUANT_SIDE * QUANT_BLOCK * sizeof(uint16_t) /* bytes */, QUANT_SPLIT_LOW = QUANT_LANE_BLOCK };
enum { QUANT_SHORT_LANE_BLOCK = QUANT_LANE_BLOCK / 4 * 3 /* bytes */, QUANT_SHORT_LINES = QUANT_SHORT_LANE_BLOCK / 64 };
static inline bool quant_in_lanes(enum packed_kind kind) { return kind == PACKED_BF16 || kind == PACKED_SPLIT || kind == PACKED_SHORT; }
static inline size_t quant_lane_size(enum packed_kind kind, size_t cols) { /* bytes */
    return quant_block_count(cols) * (kind == PACKED_SPLIT ? 2 * QUANT_LANE_BLOCK : kind == PACKED_SHORT ? QUANT_SHORT_LANE_BLOCK : QUANT_LANE_BLOCK);
}
/* Where W[r][k] lies in a panel, in bytes: f16; bf16; what is high of it, split. */
static inline size_t quant_half_place(enum packed_kind kind, size_t cols, size_t r, size_t k) {
    if (kind == PACKED_F16) return (k * PACKED_FLOAT_PANEL + r) * sizeof(uint16_t);
    size_t block = k / QUANT_BLOCK * QUANT_LANE_BLOCK * (kind == PACKED_SPLIT ? 2 : 1);
    return r / QUANT_SIDE * quant_lane_size(kind, cols) + block + ((k % QUANT_BLOCK / 2 * QUANT_SIDE + r % QUANT_SIDE) * 2 + k % 2) * sizeof(uint16_t);
}

/* bf16, rounding to nearest even; what is beyond the largest becomes infinite. */
static inline uint16_t quant_bf16_from_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static inline float quant_bf16_to_f32(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/*
 * short. A panel's head: the 16 upper bytes that codes stand for; uint16: the order of what follows; uint16 for each block and one more: where its patches begin; the patches, uint32, in the order of blocks: the place of a value
 * among a block's (lane, line, and value of that, as tiles have them) above, the value's bits below. Whatever they say, nothing outside the panel is read: copies of it are not believed.
 * Where a patched value belongs, the last code and a lower byte of 0 stand for it: quant_short_stand_in.
 */
enum {
    QUANT_SHORT_CODES = 16,   /* upper bytes that have one */
    QUANT_SHORT_SPANS = QUANT_SHORT_CODES + sizeof(uint16_t), /* where blocks' patches are told */
    QUANT_SHORT_PART = QUANT_SHORT_LANE_BLOCK / 4, /* bytes: 16 rows at 8 columns, see below */
    QUANT_SHORT_PATCHES = 4,  /* for each block, on the average */
    QUANT_SHORT_VALUES = QUANT_LANES * QUANT_SIDE * QUANT_BLOCK, /* of a block */
};
static inline size_t quant_short_patches_at(size_t cols) { return (QUANT_SHORT_SPANS + (quant_block_count(cols) + 1) * sizeof(uint16_t) + 3) & ~(size_t)3; }
static inline size_t quant_short_head(size_t cols) { return (quant_short_patches_at(cols) + quant_block_count(cols) * QUANT_SHORT_PATCHES * sizeof(uint32_t) + 63) & ~(size_t)63; }
/* The patches of a block: how many, the first of them at `from`. */
static inline size_t quant_short_patches(const uint8_t *panel, size_t cols, size_t block, const uint8_t **from) {
    uint16_t span[2];
    memcpy(span, panel + QUANT_SHORT_SPANS + block * sizeof span[0], sizeof span);
    size_t room = quant_block_count(cols) * QUANT_SHORT_PATCHES, end = span[1] < room ? span[1] : room;
    *from = panel + quant_short_patches_at(cols) + span[0] * sizeof(uint32_t);
    return span[0] < end ? end - span[0] : 0;
}
/*
 * Eight columns of a tile, 16 rows of the panel, are a part: a line of codes, of the first four columns in the lower halves, of the others in the upper; then two lines of lower bytes, four columns
 * each, eight bytes of one pair of columns and eight of the other in turns, so that each half of 16 bytes and its upper bytes make 16 bytes of a line of the tile. All is read as it lies.
 * The order of parts: tile after tile, each over all columns (in lanes, as bf16 has them), or columns after columns, the parts of the four tiles beside each other (in a run): packed by
 * kernels whose CPU likes that better, quant_kernels.short_in_a_run. All kernels read both.
 */
enum { QUANT_SHORT_IN_LANES, QUANT_SHORT_IN_A_RUN };
struct quant_short_steps {
    size_t tile, block, part; /* bytes from one to the next */
};
static inline struct quant_short_steps quant_short_steps(const uint8_t *panel, size_t cols) {
    if (panel[QUANT_SHORT_CODES] == QUANT_SHORT_IN_A_RUN) return (struct quant_short_steps){QUANT_SHORT_PART, QUANT_LANES * QUANT_SHORT_LANE_BLOCK, QUANT_LANES * QUANT_SHORT_PART};
    return (struct quant_short_steps){quant_lane_size(PACKED_SHORT, cols), QUANT_SHORT_LANE_BLOCK, QUANT_SHORT_PART};
}
/* Value k of row r of a tile's block, but for patches: */
static inline size_t quant_short_place(struct quant_short_steps s, size_t r, size_t k) { return k / 8 * s.part + (1 + k / 4 % 2) * 64 + r / 4 * 16 + k / 2 % 2 * 8 + r % 4 * 2 + k % 2; } /* of its lower byte */
static inline size_t quant_short_code(struct quant_short_steps s, size_t r, size_t k) { return k / 8 * s.part + quant_short_place(s, r, k) % 64; } /* of its code's byte; in columns 4 to 7 of eight the upper half of it is its */
static inline uint16_t quant_short_value(const uint8_t *panel, struct quant_short_steps s, const uint8_t *tile, size_t r, size_t k) {
    uint8_t codes = tile[quant_short_code(s, r, k)];
    return (uint16_t)(panel[k / 4 % 2 ? codes >> 4 : codes & 15] << 8 | tile[quant_short_place(s, r, k)]);
}
static inline uint16_t quant_short_stand_in(const uint8_t *panel) { return (uint16_t)(panel[QUANT_SHORT_CODES - 1] << 8); }
struct quant_patch {
    size_t place;
    uint16_t value;
};
static inline struct quant_patch quant_patch_at(const uint8_t *from, size_t i) {
    uint32_t bits;
    memcpy(&bits, from + i * sizeof bits, sizeof bits);
    return (struct quant_patch){(bits >> 16) % QUANT_SHORT_VALUES, (uint16_t)bits};
}
static inline size_t quant_patch_row(struct quant_patch p) { return p.place / (QUANT_SIDE * QUANT_BLOCK) * QUANT_SIDE + p.place / 2 % QUANT_SIDE; }
static inline size_t quant_patch_column(struct quant_patch p) { return p.place / (2 * QUANT_SIDE) % (QUANT_BLOCK / 2) * 2 + p.place % 2; }
/* quant_short.c: packed_size, packed_fill, packed_get_row and packed_multiply_rows of it. */
int quant_short_panel(size_t cols, size_t *size);
int quant_short_fill(const struct packed *w, uint8_t *panel, enum tensor_type type, const void *const *rows);
void quant_short_row(const uint8_t *panel, size_t cols, size_t r, float *out);
/* Puts the patches of a block of W where they belong, among rows [first, first + rows) of [32 columns][step]. */
void quant_short_patch(const uint8_t *panel, size_t cols, size_t block, size_t first, size_t rows, size_t step, float *to);
/* rows ≤ QUANT_TILE_ROWS_MAX; tile: [rows][64] */
void quant_short_multiply(const uint8_t *panel, size_t cols, const float *x, size_t rows, float *tile);

/* The scale of a block of x from its largest magnitude. So small that its inverse would be infinite: the block counts as 0. */
#define QUANT_LEAST 1e-30f
static inline void quant_block_scale(float max, float *scale) { *scale = max < QUANT_LEAST ? 0 : max / 127.0f; }

/*
 * Asks for a line of W that is read `near` bytes behind `at`, and some that are read `far` behind it. A line that is asked for holds one of sixteen places (of Golden Cove's first level of the
 * cache; into the second level, too) until it is there, a long while if it comes from memory. So only every third is asked for far ahead: it leads the CPU's own
 * prefetcher, which needs no such place, on to those between.
 */
enum { QUANT_NEAR = 2944, QUANT_FAR = 6400 }; /* bytes; few rows of x and one run of W */
static inline __attribute__((always_inline)) void quant_ask(const uint8_t *at, size_t near, size_t far) {
    enum { LINE = 64, RUN = 3 };
    if ((uintptr_t)at / LINE % RUN == 0) __builtin_prefetch(at + far, 0, 2);
    __builtin_prefetch(at + near, 0, 3);
}

/* What is read before this is, and what is behind it not yet: a compiler that moves a block's last line before its first one takes a CPU's own prefetcher a quarter of its speed. */
#define QUANT_IN_ORDER() __asm__ volatile("" : : : "memory")

extern const struct quant_kernels QUANT_KERNELS_C, QUANT_KERNELS_AVX2, QUANT_KERNELS_AVXVNNI, QUANT_KERNELS_AVX512, QUANT_KERNELS_AVX512BF16, QUANT_KERNELS_AMX;

/* A CPU with AVX-VNNI has AVX2: its table takes all but the products of blocks from there. */
bool quant_usable_avx2(void);
void quant_f32_avx2(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile);
void quant_bf16_avx2(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile);
void quant_f16_avx2(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile);
void quant_f32_rows_avx2(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count);
void quant_bf16_rows_avx2(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count);
void quant_f16_rows_avx2(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count);
void quant_short_rows_avx2(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count);
void quant_lengthen_avx2(const uint8_t *panel, size_t cols, size_t block, float *to);
void quant_quantize_avx2(const float *x, size_t cols, int8_t *q, float *scale, int32_t *correction, float *total);
enum { QUANT_MANY_ROWS_AVX2 = 24 };

/* A CPU with AMX has AVX-512: its table takes these where tiles do not help. */
bool quant_usable_avx512(void);
void quant_f32_avx512(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile);
void quant_bf16_avx512(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile);
void quant_f16_avx512(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile);
void quant_f32_rows_avx512(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count);
void quant_bf16_rows_avx512(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count);
void quant_f16_rows_avx512(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count);
/* The same, n ≤ QUANT_TILE_ROWS rows of x that wait for W: one line of three is asked for, `far` bytes ahead, into the second level of the cache. */
void quant_few_blocks_avx512(const uint8_t *panel, enum packed_kind kind, size_t blocks, const struct quant_rows *x, size_t n, size_t far, float *tile);
/* And any number of them: all pass over some of W's blocks before the next, and all lines are asked for, evenly, the while. */
void quant_many_blocks_avx512(const uint8_t *panel, enum packed_kind kind, size_t blocks, const struct quant_rows *x, size_t n, size_t far, float *tile);
void quant_q8_avx512(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile);
void quant_q4_avx512(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile);
void quant_q4m_avx512(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile);
void quant_short_rows_avx512(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count);
void quant_short_block_avx512(const uint8_t *panel, size_t cols, size_t block, const float *x, size_t x_stride, size_t n, bool more, float *tile);
void quant_lengthen_avx512(const uint8_t *panel, size_t cols, size_t block, float *to);
enum { QUANT_SHORT_FEW_AVX512 = 4 };
void quant_quantize_avx512(const float *x, size_t cols, int8_t *q, float *scale, int32_t *correction, float *total);

/* What tiles are, as the CPU is told. */
struct quant_tiles {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};
/* quant_amx_bf16.c */
void quant_tiles_amx(const struct packed *w, const struct quant_halves *x, size_t first, size_t rows, size_t from, size_t to, const struct packed_output *out);
/* quant_avx512bf16.c: what has tiles of bf16 has vectors of it */
void quant_products_avx512bf16(const struct packed *w, const struct quant_halves *x, size_t first, size_t rows, size_t from, size_t to, const struct packed_output *out);
void quant_halves_avx512bf16(const float *x, size_t n, uint16_t *high, uint16_t *low);

#endif
