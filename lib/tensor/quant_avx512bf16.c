/*
 * quant.h's products of bf16 on CPUs that multiply pairs of it in vectors (AVX-512 BF16: Zen 4 and later), twice as fast as f32, and have no tiles. x is rounded to bf16, once for all matrices, or,
 * where 16 bits of it are asked for, is two of bf16. Blocks go by AVX-512's way, asked for in advance as Zen 4 likes it; all else is AVX-512's.
 *
 * The order of an element's sum: a chain over pairs of columns, VDPBF16PS for each (of two of bf16, what is high of x before what is low of it). It is that of the element alone.
 */
#ifdef __x86_64__
#include "tensor/quant_bf16_avx512.h"

enum {
    GROUP = QUANT_TILE_ROWS, /* rows of x at once: with four vectors of W for each, their sums stay in registers */
    FEW = 4,          /* rows of x that a panel is read for once, short lengthened in registers and not in memory */
    DEPTH = 2,        /* blocks along the columns at a time, where more rows of x go by: a strip's stay in the first-level cache */
    NEAR = 1088,      /* bytes: how W is asked for in advance, in each lane, */
    FAR = 6144,       /* and, before that, into the second level of the cache, */
    FAR_ALONE = 3072, /* or only so far, where few rows of x wait for it, and where W is in blocks */
};

static bool usable(void) { return quant_usable_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi"); }

/* A strip of W over some blocks: bytes from lane to lane, and from a block to the next. */
struct strip {
    const uint8_t *at;
    size_t lane, block;
};

INLINE __m512bh pair_at(const uint16_t *x, size_t pair) {
    int32_t bits;
    memcpy(&bits, x + 2 * pair, sizeof bits);
    return (__m512bh)_mm512_set1_epi32(bits);
}

typedef __m512 sums_of_group[GROUP][STRIP_TILES];

INLINE void open_sums(sums_of_group acc, const float *sums, const int n) {
    for (int i = 0; i < n; i++)
        for (int t = 0; t < STRIP_TILES; t++) acc[i][t] = sums ? _mm512_loadu_ps(sums + i * STRIP + t * QUANT_SIDE) : _mm512_setzero_ps();
}
INLINE void close_sums(sums_of_group acc, float *sums, const int n) {
    for (int i = 0; i < n; i++)
        for (int t = 0; t < STRIP_TILES; t++) _mm512_storeu_ps(sums + i * STRIP + t * QUANT_SIDE, acc[i][t]);
}

/* A pair of columns of a strip, w, times n rows of x, whose lines of the block follow each other. */
INLINE void add_pair(sums_of_group acc, const __m512i w[STRIP_TILES], const uint16_t *high, const uint16_t *low, size_t pair, const int n) {
    for (int i = 0; i < n; i++) {
        __m512bh x = pair_at(high + i * QUANT_BLOCK, pair);
        for (int t = 0; t < STRIP_TILES; t++) acc[i][t] = _mm512_dpbf16_ps(acc[i][t], (__m512bh)w[t], x);
        if (!low) continue;
        x = pair_at(low + i * QUANT_BLOCK, pair);
        for (int t = 0; t < STRIP_TILES; t++) acc[i][t] = _mm512_dpbf16_ps(acc[i][t], (__m512bh)w[t], x);
    }
}

/*
 * What is made ready beside the products of a block: lines of W, as it is packed, are asked for, those from `from` to `to` of a block in each lane; and, `wide` given, the same block of short is
 * lengthened to there, but for patches.
 */
struct ahead {
    const uint8_t *first; /* the panel's first lane; */
    size_t lane, block;   /* bytes of one, and of a block of it */
    size_t over;          /* bytes from a lane's end to where it goes on in the next panel */
    size_t at;            /* the first block, in bytes of a lane */
    size_t from, to;
    __m512i upper;
    uint8_t *wide;
};

INLINE void add_block(sums_of_group acc, const struct strip *s, size_t b, const uint16_t *high, const uint16_t *low, const int n, const struct ahead *ahead, const bool lengthens) {
    const uint8_t *at = s->at + b * s->block;
#pragma GCC unroll 2
    for (size_t pair = 0; pair < QUANT_BLOCK / 2; pair++) {
        __m512i w[STRIP_TILES];
        for (size_t t = 0; t < STRIP_TILES; t++) w[t] = _mm512_load_si512(at + t * s->lane + pair * LINE);
        add_pair(acc, w, high, low, pair, n);
        if (lengthens) lengthen_part(ahead->first + ahead->at + b * ahead->block, ahead->lane, ahead->upper, pair, ahead->wide + b * STRIP_TILES * TILE);
    }
}

/* `count` blocks of a strip times n rows of x, added to what `sums` has, or to nothing. x: values from one block to the next of it are TILE / 2. */
INLINE void group_n(const struct strip *s, size_t count, const uint16_t *high, const uint16_t *low, const int n, const struct ahead *ahead, const bool lengthens, const bool more, float *sums) {
    sums_of_group acc;
    open_sums(acc, more ? sums : NULL, n);
    for (size_t b = 0; b < count; b++) {
        size_t in_lane = ahead->at + b * ahead->block, near = ahead_in_lane(NEAR, in_lane, ahead->lane, ahead->over), far = ahead_in_lane(FAR, in_lane, ahead->lane, ahead->over);
        for (size_t line = ahead->from; line < ahead->to; line++)
            for (size_t t = 0; t < STRIP_TILES; t++) ask_twice(ahead->first + t * ahead->lane + in_lane + line * LINE, near, far);
        add_block(acc, s, b, high + b * (TILE / 2), low ? low + b * (TILE / 2) : NULL, n, ahead, lengthens);
    }
    close_sums(acc, sums, n);
}

INLINE void group_any(const struct strip *s, size_t count, const uint16_t *high, const uint16_t *low, size_t n, const struct ahead *ahead, const bool lengthens, const bool more, float *sums) {
    switch (n) {
    case 1: group_n(s, count, high, low, 1, ahead, lengthens, more, sums); break;
    case 2: group_n(s, count, high, low, 2, ahead, lengthens, more, sums); break;
    case 3: group_n(s, count, high, low, 3, ahead, lengthens, more, sums); break;
    case 4: group_n(s, count, high, low, 4, ahead, lengthens, more, sums); break;
    case 5: group_n(s, count, high, low, 5, ahead, lengthens, more, sums); break;
    default: group_n(s, count, high, low, 6, ahead, lengthens, more, sums);
    }
}

/* Of short a line of each lane, four pairs of columns each, with what is kept beside them: a way through memory, since a patch has its place there. */
INLINE void patch_lines(const uint8_t *panel, size_t cols, size_t b, size_t j, __m512i lines[STRIP_TILES][4]) {
    _Alignas(64) uint8_t tiles[STRIP_TILES * TILE];
    for (size_t t = 0; t < STRIP_TILES; t++)
        for (size_t i = 0; i < 4; i++) _mm512_store_si512(tiles + t * TILE + (4 * j + i) * LINE, lines[t][i]);
    patch(panel, cols, b, tiles); /* those of other lines come to nothing */
    for (size_t t = 0; t < STRIP_TILES; t++)
        for (size_t i = 0; i < 4; i++) lines[t][i] = _mm512_load_si512(tiles + t * TILE + (4 * j + i) * LINE);
}

/* Four pairs of columns of a block of a panel, the j-th four, times few rows of x; what lies `far` behind is asked for on the way, one line of three (short) or four, see `blocks`. */
INLINE void few_lines(sums_of_group acc, const uint8_t *panel, const uint8_t *at, const struct packed *w, size_t b, size_t j, const bool is_short, __m512i upper, bool patched, size_t far,
                      const uint16_t *high, const uint16_t *low, const int n) {
    const size_t lane = quant_lane_size(w->kind, w->cols);
    __m512i lines[STRIP_TILES][4];
    for (size_t t = 0; t < STRIP_TILES; t++) {
        const uint8_t *line = at + t * lane + j * (is_short ? QUANT_SHORT_LANE_BLOCK / 4 : QUANT_LANE_BLOCK / 4);
        _mm_prefetch((const char *)line + far, _MM_HINT_T1);
        if (is_short) lengthen_lines(at + t * lane, upper, j, lines[t]);
        else
            for (size_t i = 0; i < 4; i++) lines[t][i] = _mm512_load_si512(line + i * LINE);
    }
    if (__builtin_expect(patched, 0)) patch_lines(panel, w->cols, b, j, lines);
    for (size_t i = 0; i < 4; i++) add_pair(acc, (const __m512i[]){lines[0][i], lines[1][i], lines[2][i], lines[3][i]}, high, low, 4 * j + i, n);
}

/* A panel times few rows of x: of short, lines are lengthened into registers. What is asked for most, short by one of bf16, has its loop over a block unrolled; all of them would be much code. */
INLINE void few_n(const struct packed *w, size_t p, const bool is_short, const uint16_t *high, const uint16_t *low, const int n, float *sums) {
    const size_t cols = w->cols, lane = quant_lane_size(w->kind, cols), blocks = quant_block_count(cols), over = w->panel_size - lane, block = is_short ? QUANT_SHORT_LANE_BLOCK : QUANT_LANE_BLOCK;
    const uint8_t *panel = w->data + p * w->panel_size, *at = panel + (is_short ? quant_short_head(cols) : 0), *from;
    const __m512i upper = upper_bytes(panel); /* of short */
    sums_of_group acc;
    open_sums(acc, NULL, n);
    for (size_t b = 0; b < blocks; b++, at += block, high += TILE / 2, low = low ? low + TILE / 2 : NULL) {
        size_t far = ahead_in_lane(FAR_ALONE, b * block, lane, over);
        unsigned patched = 0; /* which of the four, a bit each */
        for (size_t i = 0, count = is_short ? quant_short_patches(panel, cols, b, &from) : 0; i < count; i++) patched |= 1u << quant_patch_column(quant_patch_at(from, i)) / 8;
        if (is_short && !low) {
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) few_lines(acc, panel, at, w, b, j, is_short, upper, patched >> j & 1, far, high, low, n);
        } else {
#pragma GCC unroll 1
            for (size_t j = 0; j < 4; j++) few_lines(acc, panel, at, w, b, j, is_short, upper, patched >> j & 1, far, high, low, n);
        }
    }
    close_sums(acc, sums, n);
}

INLINE void few_any(const struct packed *w, size_t p, const bool is_short, const uint16_t *high, const uint16_t *low, size_t n, float *sums) {
    switch (n) {
    case 1: few_n(w, p, is_short, high, low, 1, sums); break;
    case 2: few_n(w, p, is_short, high, low, 2, sums); break;
    case 3: few_n(w, p, is_short, high, low, 3, sums); break;
    default: few_n(w, p, is_short, high, low, FEW, sums);
    }
}

/* Rows of x, those from `row` on, that are multiplied at once: they end where a tile of x does. */
INLINE size_t group_rows(size_t row, size_t end) {
    size_t left = QUANT_SIDE - row % QUANT_SIDE < end - row ? QUANT_SIDE - row % QUANT_SIDE : end - row;
    return left / ((left + GROUP - 1) / GROUP);
}

/* A panel times the rows [first, first + rows) of x, to sums of their own. split: x is two of bf16. Of short, some blocks are lengthened while the first rows are multiplied by
 * those before; where x is two of bf16, behind them. */
INLINE void panel_by_rows(const struct packed *w, size_t p, const struct quant_halves *x, size_t first, size_t rows, const bool split, float (*sums)[STRIP]) {
    _Alignas(64) uint8_t wide[2][DEPTH * STRIP_TILES * TILE];
    const uint8_t *panel = w->data + p * w->panel_size;
    const bool is_short = w->kind == PACKED_SHORT;
    size_t begin = (first / QUANT_SIDE * x->blocks * QUANT_SIDE + first % QUANT_SIDE) * QUANT_BLOCK;
    if (rows <= FEW && group_rows(first, first + rows) == rows) {
        const uint16_t *high = x->high + begin, *low = split ? x->low + begin : NULL;
        if (is_short) few_any(w, p, true, high, low, rows, sums[0]);
        else few_any(w, p, false, high, low, rows, sums[0]);
        return;
    }
    const size_t lane = quant_lane_size(w->kind, w->cols), block = is_short ? QUANT_SHORT_LANE_BLOCK : QUANT_LANE_BLOCK, groups = (rows + GROUP - 1) / GROUP;
    if (is_short) lengthen_panel(panel, w->cols, 0, x->blocks < DEPTH ? x->blocks : DEPTH, wide[0]);
    const uint8_t *at = panel + (is_short ? quant_short_head(w->cols) : 0);
    for (size_t b = 0, turn = 0, count, next; b < x->blocks; b += count, turn ^= 1) {
        count = x->blocks - b < DEPTH ? x->blocks - b : DEPTH;
        next = x->blocks - b - count < DEPTH ? x->blocks - b - count : DEPTH;
        struct strip s = {at + b * block, lane, block};
        struct ahead ahead = {.first = at, .lane = lane, .block = block, .over = w->panel_size - lane, .at = (b + count) * block};
        if (is_short) {
            s = (struct strip){wide[turn], TILE, STRIP_TILES * TILE};
            ahead.upper = upper_bytes(panel);
            ahead.wide = wide[turn ^ 1];
        }
        for (size_t row = first, group = 0, n; row < first + rows; row += n, group++) {
            size_t from = ((row / QUANT_SIDE * x->blocks + b) * QUANT_SIDE + row % QUANT_SIDE) * QUANT_BLOCK;
            const uint16_t *high = x->high + from, *low = split ? x->low + from : NULL;
            n = group_rows(row, first + rows);
            ahead.from = group < groups ? block / LINE * group / groups : 0;
            ahead.to = group < groups ? block / LINE * (group + 1) / groups : 0;
            if (is_short && !split && group == 0 && next == count) group_any(&s, count, high, low, n, &ahead, true, b > 0, sums[row - first]);
            else group_any(&s, count, high, low, n, &ahead, false, b > 0, sums[row - first]);
        }
        if (!is_short || next == 0) continue;
        if (split || next < count) lengthen_panel(panel, w->cols, b + count, next, ahead.wide);
        else
            for (size_t i = 0; i < next; i++) patch(panel, w->cols, b + count + i, ahead.wide + i * STRIP_TILES * TILE);
    }
}

static void products(const struct packed *w, const struct quant_halves *x, size_t first, size_t rows, size_t from, size_t to, const struct packed_output *out) {
    _Alignas(64) float own[PACKED_ROWS_AT_ONCE][STRIP];
    for (size_t row = first, n; row < first + rows; row += n) {
        n = first + rows - row < PACKED_ROWS_AT_ONCE ? first + rows - row : PACKED_ROWS_AT_ONCE;
        for (size_t p = from; p < to; p++) {
            size_t at = (p - from) * STRIP, count = w->rows - p * STRIP < STRIP ? w->rows - p * STRIP : STRIP;
            float *y = out->y + (row - first) * out->stride + at, (*sums)[STRIP] = out->whole ? (float(*)[STRIP])y : own;
            if (x->low) panel_by_rows(w, p, x, row, n, true, sums);
            else panel_by_rows(w, p, x, row, n, false, sums);
            for (size_t i = 0; !out->whole && i < n; i++, y += out->stride) {
                const float *restrict sum = own[i], *restrict bias = out->bias ? out->bias + at : NULL;
                if (out->add)
                    for (size_t r = 0; r < count; r++) y[r] += bias ? sum[r] + bias[r] : sum[r];
                else if (bias)
                    for (size_t r = 0; r < count; r++) y[r] = sum[r] + bias[r];
                else memcpy(y, sum, count * sizeof *y);
            }
        }
    }
}

void quant_halves_avx512bf16(const float *x, size_t n, uint16_t *high, uint16_t *low) {
    const uint32_t mask = n < QUANT_BLOCK ? (1u << n) - 1 : 0xffffffffu;
    __m512 a = _mm512_maskz_loadu_ps((__mmask16)mask, x), b = _mm512_maskz_loadu_ps((__mmask16)(mask >> QUANT_SIDE), x + QUANT_SIDE);
    __m512i h = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    _mm512_store_si512(high, h);
    if (low) _mm512_store_si512(low, what_is_lost(a, b, h));
}

/*
 * Few rows of x wait for memory: one line of three is asked for, into the second level of the cache; it leads the CPU's own prefetcher on to the rest (near: 0 asks for what is just being read). What
 * is asked for into the first level as well has 24 places to wait in and holds the rest up: a core of Zen 4 reads 26 GB/s of Q8_0 so, 23 as QUANT_NEAR has it (30 is all of it); 12 of short where
 * all is asked for into the first level. The CPU's own prefetcher sleeps where more rows make W slow.
 */
static void blocks(const uint8_t *panel, enum packed_kind kind, size_t count, const struct quant_rows *x, size_t n, float *tile) {
    bool few = n <= (kind == PACKED_Q8 ? 4 : 2);
    quant_blocks_avx512(panel, kind, count, x, n, few ? 0 : QUANT_NEAR, few ? FAR_ALONE : QUANT_FAR, tile);
}
static void q8_avx512bf16(const uint8_t *panel, size_t count, const struct quant_rows *x, size_t n, float *tile) { blocks(panel, PACKED_Q8, count, x, n, tile); }
static void q4_avx512bf16(const uint8_t *panel, size_t count, const struct quant_rows *x, size_t n, float *tile) { blocks(panel, PACKED_Q4, count, x, n, tile); }
static void q4m_avx512bf16(const uint8_t *panel, size_t count, const struct quant_rows *x, size_t n, float *tile) { blocks(panel, PACKED_Q4M, count, x, n, tile); }

const struct quant_kernels QUANT_KERNELS_AVX512BF16 = {
    .name = "avx512bf16", .vectors = "avx512", .usable = usable, .f32 = quant_f32_avx512, .bf16 = quant_bf16_avx512, .f16 = quant_f16_avx512, .f32_rows = quant_f32_rows_avx512,
    .bf16_rows = quant_bf16_rows_avx512, .f16_rows = quant_f16_rows_avx512, .lengthen = quant_lengthen_avx512, .short_block = quant_short_block_avx512, .short_few = QUANT_SHORT_FEW_AVX512,
    .short_rows = quant_short_rows_avx512, .many_rows = QUANT_TILE_ROWS + 1, .q8 = q8_avx512bf16, .q4 = q4_avx512bf16, .q4m = q4m_avx512bf16, .block_rows = QUANT_TILE_ROWS,
    .block_unit = QUANT_TILE_ROWS, .quantize = quant_quantize_avx512, .tiles = products, .halve = quant_halves_avx512bf16};
#endif
