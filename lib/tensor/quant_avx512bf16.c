/*
 * quant.h's products of bf16 on CPUs that multiply pairs of it in vectors (AVX-512 BF16: Zen 4 and later), twice as fast as f32, and have no tiles. x is rounded to bf16, once for all matrices, or,
 * where 16 bits of it are asked for, is two of bf16. Blocks go by AVX-512's way, asked for in advance as Zen 4 likes it; all else is AVX-512's.
 *
 * The order of an element's sum: a chain over pairs of columns, VDPBF16PS for each (of two of bf16, what is high of x before what is low of it); then, of short, what its patches are more than
 * what stands for them. It is that of the element alone.
 */
#ifdef __x86_64__
#include <math.h>

#include "tensor/quant_bf16_avx512.h"

enum {
    FEW = 4,            /* rows of x that wait for W: their sums of all four tiles stay in registers; */
    SIDE = QUANT_SIDE,  /* of more than those, a tile of x at most, of one tile alone, */
    DEPTH = 6,          /* over so many blocks: W's, and the sums, stay in the first-level cache while the four tiles, and the rows of x, take their turns */
    FAR = 24 * 1024,    /* bytes: how far ahead W is asked for (more than the bytes of those blocks, which are not read in order), */
    FAR_ALONE = 3072,   /* or only so far, where few rows of x wait for it */
    FEW_OF_NIBBLES = 2, /* of blocks of 4 bits only so many do */
    BLOCKS_AHEAD = 16,  /* blocks are asked for so far ahead where more rows */
    BLOCK_ROWS = 48,    /* go by, so many at once */
};

static bool usable(void) { return quant_usable_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi"); }

/* How W lies in memory: a panel's lanes, each a run, or all of it. */
struct runs {
    size_t size, over;   /* bytes of a run, and from its end to where it goes on in the next panel */
    size_t lines, apart; /* what is asked for at once: in lanes a line of each, in a run three that follow each other */
};

/* A panel times some rows of x. */
struct product {
    const uint8_t *panel, *first;  /* the panel, and its first tile behind the head */
    size_t blocks, panel_size, head; /* head: bytes of the next panel's that are worth asking for; 0: it has none */
    struct quant_short_steps steps; /* of bf16, too */
    struct runs runs;
    __m512i upper; /* of short */
};

static struct product product_of(const struct packed *w, size_t p) {
    const size_t lane = quant_lane_size(w->kind, w->cols), blocks = quant_block_count(w->cols);
    const uint8_t *panel = w->data + p * w->panel_size;
    struct product m = {.panel = panel, .first = panel, .blocks = blocks, .panel_size = w->panel_size, .steps = {lane, QUANT_LANE_BLOCK, QUANT_LANE_BLOCK / (QUANT_BLOCK / 8)}};
    if (w->kind == PACKED_SHORT) {
        m.first = panel + quant_short_head(w->cols);
        m.head = quant_short_patches_at(w->cols) + blocks * sizeof(uint32_t); /* patches are fewer than there is room for */
        m.steps = quant_short_steps(panel, w->cols);
        m.upper = upper_bytes(panel);
    }
    if (m.steps.tile == lane) m.runs = (struct runs){lane, w->panel_size - lane, STRIP_TILES, lane};
    else m.runs = (struct runs){STRIP_TILES * lane, w->panel_size - STRIP_TILES * lane, QUANT_SHORT_PART / LINE, LINE};
    return m;
}

/* Eight columns of a tile, to lines as tiles have them. */
INLINE void part_lines(const struct product *m, const bool is_short, size_t b, size_t t, size_t j, __m512i lines[4]) {
    const uint8_t *part = m->first + b * m->steps.block + t * m->steps.tile + j * m->steps.part;
    if (is_short) lengthen_lines(part, m->upper, lines);
    else
        for (size_t i = 0; i < 4; i++) lines[i] = _mm512_load_si512(part + i * LINE);
}

INLINE __m512bh pair_at(const uint16_t *x, size_t pair) {
    int32_t bits;
    memcpy(&bits, x + 2 * pair, sizeof bits);
    return (__m512bh)_mm512_set1_epi32(bits);
}

/* A pair of columns of 16 rows of W times a row of x, whose line of the block is at `high` and `low`. */
INLINE __m512 add_pair(__m512 sum, __m512i w, const uint16_t *high, const uint16_t *low, size_t pair) {
    sum = _mm512_dpbf16_ps(sum, (__m512bh)w, pair_at(high, pair));
    return low ? _mm512_dpbf16_ps(sum, (__m512bh)w, pair_at(low, pair)) : sum;
}

/*
 * The blocks [from, to) of a panel times few rows of x, part by part of the four tiles: short is lengthened into registers, and its products follow at once, so that lines of W are read evenly. All four tiles' parts first, and then all
 * their products, come from memory at 23 GB/s where this does at 29, nearly all that a core of Zen 4 reads; in lanes, four runs, it is 22 to 25. One line of three is asked for, see `blocks`.
 */
INLINE void few_n(const struct product *m, const bool is_short, size_t from, size_t to, const uint16_t *high, const uint16_t *low, const int n, float (*sums)[STRIP]) {
    __m512 acc[FEW][STRIP_TILES];
    for (int i = 0; i < n; i++)
        for (size_t t = 0; t < STRIP_TILES; t++) acc[i][t] = from > 0 ? _mm512_loadu_ps(sums[i] + t * QUANT_SIDE) : _mm512_setzero_ps();
    for (size_t b = from; b < to; b++) {
        const uint16_t *h = high + b * (TILE / 2), *l = low ? low + b * (TILE / 2) : NULL;
        const uint8_t *far = m->first + b * m->steps.block + ahead_in_lane(FAR_ALONE, b * m->steps.block, m->runs.size, m->runs.over);
        if (b * LINE < m->head) _mm_prefetch((const char *)m->panel + m->panel_size + b * LINE, _MM_HINT_T1);
#pragma GCC unroll 1
        for (size_t j = 0; j < QUANT_BLOCK / 8; j++) {
#pragma GCC unroll 4
            for (size_t t = 0; t < STRIP_TILES; t++) {
                __m512i lines[4];
                _mm_prefetch((const char *)far + t * m->steps.tile + j * m->steps.part, _MM_HINT_T1);
                part_lines(m, is_short, b, t, j, lines);
                for (size_t i = 0; i < 4; i++)
                    for (int r = 0; r < n; r++) acc[r][t] = add_pair(acc[r][t], lines[i], h + r * QUANT_BLOCK, l ? l + r * QUANT_BLOCK : NULL, 4 * j + i);
            }
        }
    }
    for (int i = 0; i < n; i++)
        for (size_t t = 0; t < STRIP_TILES; t++) _mm512_storeu_ps(sums[i] + t * QUANT_SIDE, acc[i][t]);
}

/* The same with up to a tile of x, a tile of W after the other: a line of W, lengthened in registers, is multiplied by all of them. Of what comes `FAR` later the lines [ask, ask_end) of
 * those that are asked for at once are. */
INLINE void side_n(const struct product *m, const bool is_short, size_t from, size_t to, const uint16_t *high, const uint16_t *low, const int n, size_t ask, size_t ask_end, float (*sums)[STRIP]) {
#pragma GCC unroll 1
    for (size_t t = 0; t < STRIP_TILES; t++) {
        __m512 acc[SIDE];
        for (int i = 0; i < n; i++) acc[i] = from > 0 ? _mm512_loadu_ps(sums[i] + t * QUANT_SIDE) : _mm512_setzero_ps();
        for (size_t b = from; b < to; b++) {
            const uint16_t *h = high + b * (TILE / 2), *l = low ? low + b * (TILE / 2) : NULL;
            size_t done = (from * STRIP_TILES + t * (to - from) + b - from) * m->steps.block / STRIP_TILES; /* of a run */
            const uint8_t *far = m->first + done + ahead_in_lane(FAR, done, m->runs.size, m->runs.over);
#pragma GCC unroll 1
            for (size_t j = 0; j < QUANT_BLOCK / 8; j++, far += m->steps.block / (STRIP_TILES * QUANT_BLOCK / 8)) {
                __m512i lines[4];
                for (size_t i = ask; i < ask_end; i++) _mm_prefetch((const char *)far + i * m->runs.apart, _MM_HINT_T1);
                part_lines(m, is_short, b, t, j, lines);
                for (size_t i = 0; i < 4; i++)
                    for (int r = 0; r < n; r++) acc[r] = add_pair(acc[r], lines[i], h + r * QUANT_BLOCK, l ? l + r * QUANT_BLOCK : NULL, 4 * j + i);
            }
        }
        for (int i = 0; i < n; i++) _mm512_storeu_ps(sums[i] + t * QUANT_SIDE, acc[i]);
    }
}

INLINE void rows_any(const struct product *m, const bool is_short, size_t from, size_t to, const uint16_t *high, const uint16_t *low, size_t n, size_t ask, size_t ask_end, float (*sums)[STRIP]) {
    switch (n) {
    case 1: few_n(m, is_short, from, to, high, low, 1, sums); break;
    case 2: few_n(m, is_short, from, to, high, low, 2, sums); break;
    case 3: few_n(m, is_short, from, to, high, low, 3, sums); break;
    case FEW: few_n(m, is_short, from, to, high, low, FEW, sums); break;
    case 5: side_n(m, is_short, from, to, high, low, 5, ask, ask_end, sums); break;
    case 6: side_n(m, is_short, from, to, high, low, 6, ask, ask_end, sums); break;
    case 7: side_n(m, is_short, from, to, high, low, 7, ask, ask_end, sums); break;
    case 8: side_n(m, is_short, from, to, high, low, 8, ask, ask_end, sums); break;
    case 9: side_n(m, is_short, from, to, high, low, 9, ask, ask_end, sums); break;
    case 10: side_n(m, is_short, from, to, high, low, 10, ask, ask_end, sums); break;
    case 11: side_n(m, is_short, from, to, high, low, 11, ask, ask_end, sums); break;
    case 12: side_n(m, is_short, from, to, high, low, 12, ask, ask_end, sums); break;
    case 13: side_n(m, is_short, from, to, high, low, 13, ask, ask_end, sums); break;
    case 14: side_n(m, is_short, from, to, high, low, 14, ask, ask_end, sums); break;
    case 15: side_n(m, is_short, from, to, high, low, 15, ask, ask_end, sums); break;
    default: side_n(m, is_short, from, to, high, low, SIDE, ask, ask_end, sums);
    }
}

/*
 * What the patches of a panel are more than what stands for them, times rows of x, behind the sums of all else. A patch has its place in memory, which W's values, in registers, have not; to go
 * by way of it costs few rows a seventh of their speed, since whether a block has any can't be foreseen.
 */
static __attribute__((noinline)) void add_patches(const struct packed *w, size_t p, const struct quant_halves *x, size_t first, size_t rows, float (*sums)[STRIP]) {
    const uint8_t *panel = w->data + p * w->panel_size, *from;
    const float stand_in = quant_bf16_to_f32(quant_short_stand_in(panel));
    for (size_t b = 0; b < x->blocks; b++)
        for (size_t i = 0, n = quant_short_patches(panel, w->cols, b, &from); i < n; i++) {
            struct quant_patch patch = quant_patch_at(from, i);
            const float more = quant_bf16_to_f32(patch.value) - stand_in;
            const size_t r = quant_patch_row(patch), k = quant_patch_column(patch);
            for (size_t row = 0; row < rows; row++) {
                size_t at = (((first + row) / QUANT_SIDE * x->blocks + b) * QUANT_SIDE + (first + row) % QUANT_SIDE) * QUANT_BLOCK + k;
                sums[row][r] = fmaf(more, quant_bf16_to_f32(x->high[at]), sums[row][r]);
                if (x->low) sums[row][r] = fmaf(more, quant_bf16_to_f32(x->low[at]), sums[row][r]);
            }
        }
}

/* A panel times the rows [first, first + rows) of x, to sums of their own. split: x is two of bf16. */
INLINE void panel_by_rows(const struct packed *w, size_t p, const struct quant_halves *x, size_t first, size_t rows, const bool is_short, const bool split, float (*sums)[STRIP]) {
    const struct product m = product_of(w, p);
    const size_t depth = rows <= FEW ? m.blocks : DEPTH, lines = m.runs.lines, asking = rows < SIDE ? 1 : rows / SIDE; /* groups of rows that ask for a share of the lines */
    for (size_t from = 0, to; from < m.blocks; from = to) {
        to = m.blocks - from < depth ? m.blocks : from + depth;
        for (size_t row = first, group = 0, n; row < first + rows; row += n, group++) {
            size_t at = (row / SIDE * x->blocks * SIDE + row % SIDE) * QUANT_BLOCK, left = first + rows - row, ask = lines * group / asking, ask_end = lines * (group + 1) / asking;
            n = SIDE - row % SIDE < left ? SIDE - row % SIDE : left;
            rows_any(&m, is_short, from, to, x->high + at, split ? x->low + at : NULL, n, ask < lines ? ask : lines, ask_end < lines ? ask_end : lines, sums + (row - first));
        }
    }
    if (is_short) add_patches(w, p, x, first, rows, sums);
}

void quant_products_avx512bf16(const struct packed *w, const struct quant_halves *x, size_t first, size_t rows, size_t from, size_t to, const struct packed_output *out) {
    _Alignas(64) float own[PACKED_ROWS_AT_ONCE][STRIP];
    for (size_t row = first, n; row < first + rows; row += n) {
        n = first + rows - row < PACKED_ROWS_AT_ONCE ? first + rows - row : PACKED_ROWS_AT_ONCE;
        for (size_t p = from; p < to; p++) {
            size_t at = (p - from) * STRIP, count = w->rows - p * STRIP < STRIP ? w->rows - p * STRIP : STRIP;
            float *y = out->y + (row - first) * out->stride + at, (*sums)[STRIP] = out->whole ? (float(*)[STRIP])y : own;
            if (w->kind == PACKED_SHORT && !x->low) panel_by_rows(w, p, x, row, n, true, false, sums);
            else if (w->kind == PACKED_SHORT) panel_by_rows(w, p, x, row, n, true, true, sums);
            else if (!x->low) panel_by_rows(w, p, x, row, n, false, false, sums);
            else panel_by_rows(w, p, x, row, n, false, true, sums);
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
 * Few rows of x wait for memory: one line of three is asked for, into the second level of the cache; it leads the CPU's own prefetcher on to the rest. What is asked for into the first level as well
 * has 24 places to wait in and holds the rest up: a core of Zen 4 reads 30 GB/s of Q8_0 so, which is all it can, 23 as quant_ask has it; 12 of short where all is asked for into the first level. But
 * that prefetcher sleeps where W goes by slowly. More rows ask for all of it, evenly while all of them go by: of eight or sixteen, six are multiplied as W comes, and the others find it there.
 */
static void blocks(const uint8_t *panel, enum packed_kind kind, size_t count, const struct quant_rows *x, size_t n, float *tile) {
    if (n <= (kind == PACKED_Q8 ? FEW : FEW_OF_NIBBLES)) quant_few_blocks_avx512(panel, kind, count, x, n, FAR_ALONE, tile);
    else if (n > FEW) quant_many_blocks_avx512(panel, kind, count, x, n, BLOCKS_AHEAD * QUANT_KINDS[kind].unit, tile);
    else if (kind == PACKED_Q4) quant_q4_avx512(panel, count, x, n, tile);
    else quant_q4m_avx512(panel, count, x, n, tile);
}
static void q8_avx512bf16(const uint8_t *panel, size_t count, const struct quant_rows *x, size_t n, float *tile) { blocks(panel, PACKED_Q8, count, x, n, tile); }
static void q4_avx512bf16(const uint8_t *panel, size_t count, const struct quant_rows *x, size_t n, float *tile) { blocks(panel, PACKED_Q4, count, x, n, tile); }
static void q4m_avx512bf16(const uint8_t *panel, size_t count, const struct quant_rows *x, size_t n, float *tile) { blocks(panel, PACKED_Q4M, count, x, n, tile); }

const struct quant_kernels QUANT_KERNELS_AVX512BF16 = {
    .name = "avx512bf16", .vectors = "avx512", .usable = usable, .f32 = quant_f32_avx512, .bf16 = quant_bf16_avx512, .f16 = quant_f16_avx512, .f32_rows = quant_f32_rows_avx512,
    .bf16_rows = quant_bf16_rows_avx512, .f16_rows = quant_f16_rows_avx512, .lengthen = quant_lengthen_avx512, .short_block = quant_short_block_avx512, .short_few = QUANT_SHORT_FEW_AVX512,
    .short_rows = quant_short_rows_avx512, .short_in_a_run = true, .many_rows = QUANT_TILE_ROWS + 1, .q8 = q8_avx512bf16, .q4 = q4_avx512bf16, .q4m = q4m_avx512bf16, .block_rows = BLOCK_ROWS,
    .block_unit = QUANT_TILE_ROWS, .quantize = quant_quantize_avx512, .tiles = quant_products_avx512bf16, .halve = quant_halves_avx512bf16};
#endif
