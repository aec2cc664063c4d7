/* quant.h's kernels for AVX-512 with VNNI: 16 rows of W per vector. Few rows of x pass over a panel at once, some over stretches of it in turns, many floats over widened strips. */
#ifdef __x86_64__
#include <immintrin.h>

#include "tensor/quant_internal.h"
#include "tensor/vectors_avx512.h"

bool quant_usable_avx512(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

/* What is inlined takes its counts as constants, so that the sums live in registers. */
#define INLINE static inline __attribute__((always_inline))

/* W streams by once: a line is asked for twice, into the second level of the cache, which has room for many that are on their way, and then into the first; where the panel lies in lanes, not so
 * far ahead in each. Blocks: quant_ask. */
enum { FAR_OF_LANE = 4352, NEAR_OF_LANE = 1088 }; /* bytes */
INLINE void ask_twice(const char *at, size_t near, size_t far) {
    _mm_prefetch(at + far, _MM_HINT_T1);
    _mm_prefetch(at + near, _MM_HINT_T0);
}
INLINE void ask(const char *at) { ask_twice(at, QUANT_NEAR, QUANT_FAR); }
INLINE void ask_lane(const char *at) { ask_twice(at, NEAR_OF_LANE, FAR_OF_LANE); }

/* --- floats: f32, bf16, f16 --- */

enum format { F32, BF16, F16, SHORT };
enum { VECTORS = PACKED_FLOAT_PANEL / 16 };

/* One of two columns of bf16, of 16 rows. */
INLINE __m512 column(__m512i pairs, const bool odd) { return _mm512_castsi512_ps(odd ? _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u)) : _mm512_slli_epi32(pairs, 16)); }

/* 16 rows of a panel from row c on, at column k; bf16 comes in lanes of so many bytes, in pairs of k: `odd` says which. */
INLINE __m512 load_one(const void *panel, const enum format format, size_t lane, size_t k, const bool odd, size_t c) {
    if (format == F32) return _mm512_load_ps((const float *)panel + k * PACKED_FLOAT_PANEL + c);
    if (format == F16) return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)((const uint16_t *)panel + k * PACKED_FLOAT_PANEL + c)));
    return column(_mm512_load_si512((const uint8_t *)panel + c / QUANT_SIDE * lane + k / 2 * 64), odd);
}

/* n rows of x at the columns [from, to), sums going on from where the tile has them. With each column `lines` lines are asked for, in the place of those from `next` on; of lanes, if any, with
 * each pair of columns one of each. */
INLINE void floats_part(const void *panel, const enum format format, size_t lane, size_t from, size_t to, const float *x, size_t stride, const int n, bool more, float *tile, const char *next, size_t lines) {
    __m512 acc[QUANT_TILE_ROWS][VECTORS];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < VECTORS; v++) acc[i][v] = more ? _mm512_loadu_ps(tile + i * PACKED_FLOAT_PANEL + 16 * v) : _mm512_setzero_ps();
    for (size_t k2 = from; k2 < to; k2 += 2)
        for (size_t odd = 0; odd < 2 && k2 + odd < to; odd++) {
            size_t k = k2 + odd;
            __m512 w[VECTORS];
            for (size_t v = 0; v < VECTORS; v++) w[v] = load_one(panel, format, lane, k, odd, 16 * v);
            for (size_t line = 0; format != BF16 && line < lines; line++, next += 64) ask(next);
            for (size_t v = 0; format == BF16 && !odd && lines > 0 && v < VECTORS; v++) ask_lane((const char *)panel + v * lane + k / 2 * 64);
            for (int i = 0; i < n; i++) {
                __m512 xk = _mm512_set1_ps(x[(size_t)i * stride + k]);
                for (int v = 0; v < VECTORS; v++) acc[i][v] = _mm512_fmadd_ps(xk, w[v], acc[i][v]);
            }
        }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(tile + i * PACKED_FLOAT_PANEL + 16 * v, acc[i][v]);
}

INLINE size_t column_lines(const enum format format) { return PACKED_FLOAT_PANEL * (format == F32 ? sizeof(float) : sizeof(uint16_t)) / 64; }

INLINE void floats_some(const void *panel, const enum format format, size_t lane, size_t from, size_t to, const float *x, size_t stride, size_t n, bool more, float *tile, const char *next, size_t lines) {
    switch (n) {
    case 1: floats_part(panel, format, lane, from, to, x, stride, 1, more, tile, next, lines); break;
    case 2: floats_part(panel, format, lane, from, to, x, stride, 2, more, tile, next, lines); break;
    case 3: floats_part(panel, format, lane, from, to, x, stride, 3, more, tile, next, lines); break;
    case 4: floats_part(panel, format, lane, from, to, x, stride, 4, more, tile, next, lines); break;
    case 5: floats_part(panel, format, lane, from, to, x, stride, 5, more, tile, next, lines); break;
    default: floats_part(panel, format, lane, from, to, x, stride, 6, more, tile, next, lines); break;
    }
}
INLINE void floats(const void *panel, const enum format format, size_t cols, const float *x, size_t stride, size_t n, bool more, float *tile) {
    floats_some(panel, format, quant_lane_size(PACKED_BF16, cols), 0, cols, x, stride, n, more, tile, panel, column_lines(format));
}
void quant_f32_avx512(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile) { floats(panel, F32, cols, x, x_stride, n, more, tile); }
void quant_bf16_avx512(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile) { floats(panel, BF16, cols, x, x_stride, n, more, tile); }
void quant_f16_avx512(const void *panel, size_t cols, const float *x, size_t x_stride, size_t n, bool more, float *tile) { floats(panel, F16, cols, x, x_stride, n, more, tile); }

/* --- short --- */

/* Of a panel: what its codes stand for, how its parts lie, and block b of the first tile. */
struct narrow {
    __m512i upper;
    struct quant_short_steps steps;
    const uint8_t *at;
};
INLINE struct narrow narrow_block(const uint8_t *panel, size_t cols, size_t b) {
    struct quant_short_steps steps = quant_short_steps(panel, cols);
    return (struct narrow){_mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)(const void *)panel)), steps, panel + quant_short_head(cols) + b * steps.block};
}
INLINE const uint8_t *part_at(const struct narrow *w, size_t lane, size_t l) { return w->at + lane * w->steps.tile + l / 2 * w->steps.part; }
INLINE void ask_part(const struct narrow *w, size_t lane, size_t l) {
    const char *at = (const char *)part_at(w, lane, l);
    if (l % 2 == 0) ask_lane(at);
    ask_lane(at + (1 + l % 2) * 64);
}
/* Two lines of a lane's tile, 2 l and 2 l + 1 of 16: four columns of its rows, in pairs. */
INLINE void two_lines(const struct narrow *w, size_t lane, size_t l, __m512i pairs[2]) {
    const uint8_t *at = part_at(w, lane, l);
    __m512i low = _mm512_load_si512(at + (1 + l % 2) * 64), codes = _mm512_load_si512(at);
    __m512i high = _mm512_shuffle_epi8(w->upper, _mm512_and_si512(l % 2 ? _mm512_srli_epi16(codes, 4) : codes, _mm512_set1_epi8(15)));
    pairs[0] = _mm512_unpacklo_epi8(low, high);
    pairs[1] = _mm512_unpackhi_epi8(low, high);
}

/* `lanes` lanes from the first on, to [32 columns][step]. */
INLINE void lengthen(const struct narrow *w, const size_t lanes, const bool asks, const size_t step, float *to) {
    for (size_t l = 0; l < QUANT_BLOCK / 4; l++)
        for (size_t lane = 0; lane < lanes; lane++) {
            __m512i pairs[2];
            two_lines(w, lane, l, pairs);
            if (asks) ask_part(w, lane, l);
            for (size_t k = 0; k < 4; k++) _mm512_store_ps(to + (4 * l + k) * step + lane * QUANT_SIDE, column(pairs[k / 2], k % 2));
        }
}
void quant_lengthen_avx512(const uint8_t *panel, size_t cols, size_t block, float *to) {
    struct narrow w = narrow_block(panel, cols, block);
    lengthen(&w, QUANT_LANES, true, PACKED_FLOAT_PANEL, to);
}

INLINE void short_part(const struct narrow *w, const float *x, size_t stride, const int n, bool more, float *tile) {
    __m512 acc[QUANT_SHORT_FEW_AVX512][QUANT_LANES];
    for (int i = 0; i < n; i++)
        for (int lane = 0; lane < QUANT_LANES; lane++) acc[i][lane] = more ? _mm512_loadu_ps(tile + i * PACKED_FLOAT_PANEL + lane * QUANT_SIDE) : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (size_t l = 0; l < QUANT_BLOCK / 4; l++) {
        __m512i pairs[QUANT_LANES][2];
        for (size_t lane = 0; lane < QUANT_LANES; lane++) {
            two_lines(w, lane, l, pairs[lane]);
            ask_part(w, lane, l);
        }
        for (size_t k = 0; k < 4; k++)
            for (int i = 0; i < n; i++) {
                __m512 xk = _mm512_set1_ps(x[(size_t)i * stride + 4 * l + k]);
                for (int lane = 0; lane < QUANT_LANES; lane++) acc[i][lane] = _mm512_fmadd_ps(xk, column(pairs[lane][k / 2], k % 2), acc[i][lane]);
            }
    }
    for (int i = 0; i < n; i++)
        for (int lane = 0; lane < QUANT_LANES; lane++) _mm512_storeu_ps(tile + i * PACKED_FLOAT_PANEL + lane * QUANT_SIDE, acc[i][lane]);
}
void quant_short_block_avx512(const uint8_t *panel, size_t cols, size_t block, const float *x, size_t x_stride, size_t n, bool more, float *tile) {
    struct narrow w = narrow_block(panel, cols, block);
    switch (n) {
    case 1: short_part(&w, x, x_stride, 1, more, tile); break;
    case 2: short_part(&w, x, x_stride, 2, more, tile); break;
    case 3: short_part(&w, x, x_stride, 3, more, tile); break;
    default: short_part(&w, x, x_stride, QUANT_SHORT_FEW_AVX512, more, tile); break;
    }
}

/* --- many rows of x --- */

enum { DEPTH_MAX = 128 };
#define STRIP_ROWS 12
INLINE void load_two(const void *panel, const enum format format, size_t lane, size_t k, const bool odd, size_t c, vf *a, vf *b) {
    *a = load_one(panel, format, lane, k, odd, c);
    *b = load_one(panel, format, lane, k, odd, c + W);
}
INLINE void lengthen_strip(const void *panel, size_t cols, size_t c, size_t block, float *to) {
    struct narrow w = narrow_block(panel, cols, block);
    w.at += c / QUANT_SIDE * w.steps.tile;
    lengthen(&w, 2, false, 2 * W, to);
    quant_short_patch(panel, cols, block, c, 2 * W, 2 * W, to);
}
#include "tensor/quant_strips.h"

/* --- some rows of x: more than a tile, too few for strips --- */

enum {
    MANY = 24,    /* rows of x that are worth strips */
    STRETCH = 32, /* columns: 4 KiB of halves, 8 of floats */
};

/* All rows of x pass over a stretch of the panel as it is, and what follows is asked for on the way, evenly. */
INLINE void some_rows(const void *panel, const enum format format, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) {
    _Alignas(64) float sums[MANY][PACKED_FLOAT_PANEL];
    size_t tiles = (n + QUANT_TILE_ROWS - 1) / QUANT_TILE_ROWS, step = (n + tiles - 1) / tiles, lines = (column_lines(format) + tiles - 1) / tiles;
    for (size_t from = 0; from < cols; from += STRETCH) {
        size_t to = cols - from < STRETCH ? cols : from + STRETCH;
        const char *next = (const char *)panel + from * column_lines(format) * 64;
        for (size_t i = 0; i < n; i += step, next += STRETCH * lines * 64)
            floats_some(panel, format, quant_lane_size(PACKED_BF16, cols), from, to, x + i * cols, cols, n - i < step ? n - i : step, from > 0, sums[i], next, format == BF16 && i > 0 ? 0 : lines);
    }
    for (size_t i = 0; i < n; i++)
        for (size_t r = 0; r < count; r++) {
            float *y = out->y + i * out->stride + r, sum = sums[i][r];
            if (out->bias) sum += out->bias[r];
            *y = out->add ? *y + sum : sum;
        }
}

INLINE void rows_any(const void *panel, const enum format format, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) {
    if (n < MANY) some_rows(panel, format, cols, x, n, out, count);
    else float_rows(panel, format, cols, x, n, out, count);
}
void quant_f32_rows_avx512(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) { rows_any(panel, F32, cols, x, n, out, count); }
void quant_bf16_rows_avx512(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) { rows_any(panel, BF16, cols, x, n, out, count); }
void quant_f16_rows_avx512(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) { rows_any(panel, F16, cols, x, n, out, count); }
void quant_short_rows_avx512(const void *panel, size_t cols, const float *x, size_t n, const struct packed_output *out, size_t count) { float_rows(panel, SHORT, cols, x, n, out, count); }

/* --- blocks --- */

INLINE __m512i four_of(const int8_t *at) { /* the same 32 bits in each lane: an operand of vpdpbusd */
    int32_t bits;
    memcpy(&bits, at, sizeof bits);
    return _mm512_set1_epi32(bits);
}
INLINE __m512 load_halves(const uint8_t *at) { return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)at)); }

/* 32 rows of W at four columns, k = 4 group …; of 4 bits the upper half of a block lies in the upper halves of the lower half's bytes. */
INLINE void load_group(const uint8_t *block, const bool nibbles, size_t group, __m512i w[2]) {
    for (int v = 0; v < 2; v++) {
        if (nibbles) {
            __m512i both = _mm512_load_si512(block + group % 4 * 128 + 64 * v);
            w[v] = _mm512_and_si512(group < 4 ? both : _mm512_srli_epi16(both, 4), _mm512_set1_epi8(15));
        } else w[v] = _mm512_load_si512(block + group * 128 + 64 * v);
    }
}

/*
 * The blocks [from, to) of a panel, whose sums go on from the tile. How W is asked for in advance: each line nearby and one of three afar, as quant_ask has it; one of three alone; or the lines
 * [ask, ask_end) of the block `far` bytes ahead, the others being asked for while other rows of x go by.
 */
enum asking { ASKS_EACH, ASKS_FAR, ASKS_LINES };
struct stretch {
    size_t from, to, far, ask, ask_end;
};

INLINE void blocks_n(const uint8_t *block, const enum packed_kind kind, size_t blocks, const struct quant_rows *x, const int n, const enum asking asking, const struct stretch *s, float *tile) {
    const size_t size = kind == PACKED_Q8 ? QUANT_Q8_BLOCK_SIZE : kind == PACKED_Q4 ? QUANT_Q4_BLOCK_SIZE : QUANT_Q4M_BLOCK_SIZE;
    const size_t scales = kind == PACKED_Q8 ? QUANT_Q8_SCALES : QUANT_Q4_SCALES, lines = size / 64;
    enum { GROUPS = QUANT_BLOCK / 4 };
    __m512 acc[QUANT_TILE_ROWS][2];
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) acc[i][v] = s->from > 0 ? _mm512_loadu_ps(tile + i * PACKED_BLOCK_PANEL + 16 * v) : _mm512_setzero_ps();
    block += s->from * size;
    for (size_t b = s->from; b < s->to; b++, block += size) {
        __m512i dot[QUANT_TILE_ROWS][2];
        for (size_t line = s->ask; asking == ASKS_LINES && line < s->ask_end; line++) _mm_prefetch((const char *)block + s->far + 64 * line, _MM_HINT_T1);
        for (int i = 0; i < n; i++) {
            __m512i correction = _mm512_set1_epi32(x->correction[(size_t)i * blocks + b]); /* 128 times a sum; of 4 bits 8 times that is taken out */
            dot[i][0] = dot[i][1] = kind == PACKED_Q8 ? correction : kind == PACKED_Q4 ? _mm512_srai_epi32(correction, 4) : _mm512_setzero_si512();
        }
#pragma GCC unroll 8
        for (size_t g = 0; g < GROUPS; g++) {
            __m512i w[2];
            load_group(block, kind != PACKED_Q8, g, w);
            for (size_t line = lines * g / GROUPS; line < lines * (g + 1) / GROUPS; line++) {
                if (asking == ASKS_EACH) quant_ask(block + 64 * line, QUANT_NEAR, QUANT_FAR);
                if (asking == ASKS_FAR) quant_ask(block + 64 * line, 0, s->far);
            }
            for (int i = 0; i < n; i++) {
                __m512i four = four_of(x->q + ((size_t)i * blocks + b) * QUANT_BLOCK + g * 4);
                dot[i][0] = _mm512_dpbusd_epi32(dot[i][0], w[0], four);
                dot[i][1] = _mm512_dpbusd_epi32(dot[i][1], w[1], four);
            }
            if (kind == PACKED_Q8 || asking == ASKS_LINES) QUANT_IN_ORDER();
        }
        for (size_t v = 0; v < 2; v++) {
            __m512 scale_w = load_halves(block + scales + 32 * v);
            for (int i = 0; i < n; i++) {
                __m512 scale = _mm512_mul_ps(scale_w, _mm512_set1_ps(x->scale[(size_t)i * blocks + b]));
                acc[i][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][v]), scale, acc[i][v]);
                if (kind == PACKED_Q4M) acc[i][v] = _mm512_fmadd_ps(load_halves(block + QUANT_Q4_MINIMA + 32 * v), _mm512_set1_ps(x->total[(size_t)i * blocks + b]), acc[i][v]);
            }
        }
    }
    for (int i = 0; i < n; i++)
        for (int v = 0; v < 2; v++) _mm512_storeu_ps(tile + i * PACKED_BLOCK_PANEL + 16 * v, acc[i][v]);
}

INLINE void blocks_some(const uint8_t *panel, const enum packed_kind kind, size_t blocks, const struct quant_rows *x, size_t n, const enum asking asking, const struct stretch *s, float *tile) {
    switch (n) {
    case 1: blocks_n(panel, kind, blocks, x, 1, asking, s, tile); break;
    case 2: blocks_n(panel, kind, blocks, x, 2, asking, s, tile); break;
    case 3: blocks_n(panel, kind, blocks, x, 3, asking, s, tile); break;
    case 4: blocks_n(panel, kind, blocks, x, 4, asking, s, tile); break;
    case 5: blocks_n(panel, kind, blocks, x, 5, asking, s, tile); break;
    default: blocks_n(panel, kind, blocks, x, 6, asking, s, tile); break;
    }
}
INLINE void blocks_any(const uint8_t *panel, enum packed_kind kind, size_t blocks, const struct quant_rows *x, size_t n, const enum asking asking, const struct stretch *s, float *tile) {
    if (kind == PACKED_Q8) blocks_some(panel, PACKED_Q8, blocks, x, n, asking, s, tile);
    else if (kind == PACKED_Q4) blocks_some(panel, PACKED_Q4, blocks, x, n, asking, s, tile);
    else blocks_some(panel, PACKED_Q4M, blocks, x, n, asking, s, tile);
}
void quant_q8_avx512(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q8, blocks, x, n, ASKS_EACH, &(struct stretch){.to = blocks}, tile); }
void quant_q4_avx512(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q4, blocks, x, n, ASKS_EACH, &(struct stretch){.to = blocks}, tile); }
void quant_q4m_avx512(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q4M, blocks, x, n, ASKS_EACH, &(struct stretch){.to = blocks}, tile); }

void quant_few_blocks_avx512(const uint8_t *panel, enum packed_kind kind, size_t blocks, const struct quant_rows *x, size_t n, size_t far, float *tile) {
    blocks_any(panel, kind, blocks, x, n, ASKS_FAR, &(struct stretch){.to = blocks, .far = far}, tile);
}

void quant_many_blocks_avx512(const uint8_t *panel, enum packed_kind kind, size_t blocks, const struct quant_rows *x, size_t n, size_t far, float *tile) {
    enum { DEPTH = 8 };
    const size_t lines = QUANT_KINDS[kind].unit / 64, groups = (n + QUANT_TILE_ROWS - 1) / QUANT_TILE_ROWS;
    struct stretch s = {.far = far};
    for (; s.from < blocks; s.from = s.to) {
        s.to = blocks - s.from < DEPTH ? blocks : s.from + DEPTH;
        for (size_t g = 0, first = 0, some; g < groups; g++, first += some) {
            const struct quant_rows rows = {x->q + first * blocks * QUANT_BLOCK, NULL, x->scale + first * blocks, x->correction + first * blocks, x->total + first * blocks};
            some = (n - first + groups - g - 1) / (groups - g);
            s.ask = lines * g / groups;
            s.ask_end = lines * (g + 1) / groups;
            blocks_any(panel, kind, blocks, &rows, some, ASKS_LINES, &s, tile + first * PACKED_BLOCK_PANEL);
        }
    }
}

/* --- x --- */

/* The higher of two magnitudes in each lane, whose bits are in the order of their values, or their sums. */
INLINE __m512i meet(__m512i a, __m512i b, const bool sums) { return sums ? _mm512_add_epi32(a, b) : _mm512_max_epu32(a, b); }

/* Of n vectors (1, 2, 4, 8 or 16) the highest lane of each, or the sum of its lanes, in the first n lanes: pairs of vectors are folded into one that has half of the lanes of each, and what is left alone into itself. */
INLINE __m512i fold(__m512i v[16], const int n, const bool sums) {
    for (int i = 0; i < (n > 1 ? n / 2 : 1); i++) {
        __m512i a = v[n > 1 ? 2 * i : i], b = v[n > 1 ? 2 * i + 1 : i];
        v[i] = meet(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b), sums);
    }
    for (int i = 0; i < (n > 2 ? n / 4 : 1); i++) {
        __m512i a = v[n > 2 ? 2 * i : i], b = v[n > 2 ? 2 * i + 1 : i];
        v[i] = meet(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b), sums);
    }
    for (int i = 0; i < (n > 4 ? n / 8 : 1); i++) {
        __m512i a = v[n > 4 ? 2 * i : i], b = v[n > 4 ? 2 * i + 1 : i];
        v[i] = meet(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd), sums);
    }
    __m512i a = v[0], b = v[n > 8 ? 1 : 0];
    return meet(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd), sums);
}

/* n blocks at x, a single one of `count` columns; scales, corrections and totals are made and written for all of them together. */
INLINE void quantize_some(const float *x, const int n, size_t count, int8_t *q, float *scale, int32_t *correction, float *total) {
    const __m512 low = _mm512_set1_ps(-127), sign = _mm512_set1_ps(-0.0f), zero = _mm512_setzero_ps();
    const uint32_t mask = n == 1 && count < QUANT_BLOCK ? (1u << count) - 1 : 0xffffffffu;
    const __mmask16 all = (__mmask16)((1u << n) - 1);
    _Alignas(64) float inverses[16];
    __m512i most[16], sums[16];
    for (int b = 0; b < n; b++) {
        __m512 m = _mm512_andnot_ps(sign, _mm512_maskz_loadu_ps((__mmask16)mask, x + b * QUANT_BLOCK));
        /* max(v, so far): the second where v is NaN, so that NaN never is the maximum, as in the reference */
        most[b] = _mm512_castps_si512(_mm512_max_ps(_mm512_andnot_ps(sign, _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + b * QUANT_BLOCK + 16)), _mm512_max_ps(m, zero)));
    }
    __m512 highest = _mm512_castsi512_ps(fold(most, n, false)), scales = _mm512_maskz_div_ps(_mm512_cmp_ps_mask(highest, _mm512_set1_ps(QUANT_LEAST), _CMP_GE_OQ), highest, _mm512_set1_ps(127));
    _mm512_store_ps(inverses, _mm512_maskz_div_ps(_mm512_cmp_ps_mask(scales, zero, _CMP_GT_OQ), _mm512_set1_ps(1), scales));
    for (int b = 0; b < n; b += 2) {
        __m512i words[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        for (int k = 0; k < 2 && b + k < n; k++, x += QUANT_BLOCK) {
            __m512 inverse = _mm512_set1_ps(inverses[b + k]);
            __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps((__mmask16)mask, x), inverse), w = _mm512_mul_ps(_mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + 16), inverse);
            /* at most 127 and a little, which is rounded to 127; NaN becomes -127 */
            __m512i a = _mm512_cvtps_epi32(_mm512_max_ps(v, low)), c = _mm512_cvtps_epi32(_mm512_max_ps(w, low));
            sums[b + k] = _mm512_add_epi32(a, c);
            words[k] = _mm512_packs_epi32(a, c);
        }
        /* packs goes by quarters: four values of each vector lie together, and are put into order at the end */
        __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(words[0], words[1]));
        if (n > 1) _mm512_storeu_si512(q + b * QUANT_BLOCK, bytes);
        else _mm256_storeu_si256((__m256i *)(void *)q, _mm512_castsi512_si256(bytes));
    }
    __m512i whole = fold(sums, n, true);
    _mm512_mask_storeu_ps(scale, all, scales);
    _mm512_mask_storeu_epi32(correction, all, _mm512_mullo_epi32(whole, _mm512_set1_epi32(-128)));
    _mm512_mask_storeu_ps(total, all, _mm512_mul_ps(scales, _mm512_cvtepi32_ps(whole)));
}
void quant_quantize_avx512(const float *x, size_t cols, int8_t *q, float *scale, int32_t *correction, float *total) {
    for (size_t n; cols > 0; cols -= n * QUANT_BLOCK < cols ? n * QUANT_BLOCK : cols, x += n * QUANT_BLOCK, q += n * QUANT_BLOCK, scale += n, correction += n, total += n) {
        size_t whole = cols / QUANT_BLOCK;
        n = whole >= 16 ? 16 : whole >= 8 ? 8 : whole >= 4 ? 4 : whole >= 2 ? 2 : 1;
        switch (n) {
        case 16: quantize_some(x, 16, QUANT_BLOCK, q, scale, correction, total); break;
        case 8: quantize_some(x, 8, QUANT_BLOCK, q, scale, correction, total); break;
        case 4: quantize_some(x, 4, QUANT_BLOCK, q, scale, correction, total); break;
        case 2: quantize_some(x, 2, QUANT_BLOCK, q, scale, correction, total); break;
        default: quantize_some(x, 1, whole ? QUANT_BLOCK : cols, q, scale, correction, total); break;
        }
    }
}

const struct quant_kernels QUANT_KERNELS_AVX512 = {.name = "avx512", .usable = quant_usable_avx512, .f32 = quant_f32_avx512, .bf16 = quant_bf16_avx512, .f16 = quant_f16_avx512,
                                                   .f32_rows = quant_f32_rows_avx512, .bf16_rows = quant_bf16_rows_avx512, .f16_rows = quant_f16_rows_avx512, .lengthen = quant_lengthen_avx512, .short_block = quant_short_block_avx512, .short_few = QUANT_SHORT_FEW_AVX512, .short_rows = quant_short_rows_avx512, .many_rows = QUANT_TILE_ROWS + 1,
                                                   .q8 = quant_q8_avx512, .q4 = quant_q4_avx512, .q4m = quant_q4m_avx512, .block_rows = QUANT_TILE_ROWS, .block_unit = QUANT_TILE_ROWS, .quantize = quant_quantize_avx512};
#endif
