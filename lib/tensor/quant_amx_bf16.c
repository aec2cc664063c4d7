/*
 * quant.h's products in tiles of bf16 (Sapphire Rapids and later): a tile instruction multiplies 16 rows of x by 16 rows of W over 32 columns, in f32, and its sums
 * stay in the tiles from block to block, so that scales cost nothing there: of W in blocks, each block is widened to bf16 once for all rows of x, scale and all.
 * Measured on Granite Rapids: 18 cycles a tile instruction, loads included, where one block's integers with their scales take 100.
 *
 * The order of an element's sum: 32 columns after 32; of each, even and odd ones apart, in order, then together, then to what was there (Intel's manual, TDPBF16PS). It is that
 * of the element alone, whatever rows and columns are beside it.
 */
#ifdef __x86_64__
#include "tensor/quant_bf16_avx512.h"

enum {
    SIDE = QUANT_SIDE,      /* rows of x, and of W, of a tile */
    DEPTH = 8,              /* blocks along the columns at a time: a strip's stay in the first-level cache while the rows of x go by */
    TILES_AHEAD = 2,        /* of rows of x */
    TILES_MAX = PACKED_ROWS_AT_ONCE / SIDE, /* of rows of x, and */
    STRIPS_MAX = 8,         /* at a time: their sums stay in the second-level cache */
    NEAR = 1024,            /* bytes: how W is asked for in advance where few rows of x wait for it, */
    FAR = 4 * 1024,         /* and, before that, into the second level of the cache */
    FEW_VALUES = 12 * 1024, /* of x: half of the first-level cache */
};

#define WRITTEN() __asm__ volatile("" : : : "memory")

INLINE void ask_twice(const uint8_t *at, size_t near, size_t far) {
    _mm_prefetch((const char *)at + far, _MM_HINT_T1);
    _mm_prefetch((const char *)at + near, _MM_HINT_T0);
}

/* What is kept beside block b, to its tiles. */
INLINE void patch(const uint8_t *panel, size_t cols, size_t b, uint8_t *tiles) {
    const uint8_t *from;
    for (size_t i = 0, n = quant_short_patches(panel, cols, b, &from); i < n; i++) {
        struct quant_patch p = quant_patch_at(from, i);
        memcpy(tiles + p.place * sizeof p.value, &p.value, sizeof p.value);
    }
}

/* Blocks [b, b + count) of a panel to a strip's tiles, patches and all. */
INLINE void lengthen_whole(const uint8_t *panel, size_t cols, size_t b, size_t count, uint8_t *to) {
    lengthen_panel(panel, cols, b, count, to);
    for (size_t i = 0; i < count; i++) patch(panel, cols, b + i, to + i * STRIP_TILES * TILE);
}

/* Tiles 0 to 3 are sums, 4 and 5 rows of x (what is high and what is low of them), 6 and 7 rows of W. Few rows of x take less time than SIDE of them. */
static void configure(size_t rows) {
    _Alignas(64) struct quant_tiles c = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        c.bytes[t] = LINE;
        c.rows[t] = t < 6 ? (uint8_t)rows : SIDE;
    }
    __asm__ volatile("" : : "r"(&c) : "memory");
    _tile_loadconfig(&c);
}

/* What comes later is asked for on the way, line by line: W of the next piece, to the second level, and x of a later tile, which another core may have had last. */
struct ahead {
    const uint8_t *at, *end;  /* what is left of a run of W, */
    size_t runs, run, step;   /* how many more there are, their bytes, and from one's begin to the next's */
    size_t lines;             /* so much with each block */
    const uint16_t *x;        /* a tile with each; NULL: none */
};

INLINE void ask(struct ahead *a, size_t b) {
    for (size_t line = 0; a->x && line < SIDE; line++) _mm_prefetch((const char *)(a->x + b * (TILE / 2)) + line * LINE, _MM_HINT_T1);
    for (size_t i = 0; i < a->lines; i++) {
        if (a->at >= a->end) {
            if (a->runs == 0) {
                a->lines = 0;
                return;
            }
            a->runs--;
            a->at += a->step - a->run;
            a->end += a->step;
        }
        _mm_prefetch((const char *)a->at, _MM_HINT_T1);
        a->at += LINE;
    }
}

/* --- blocks widened --- */

/* Scale and what takes the offset out again, of 16 rows of W, each twice: for two columns. */
struct scales {
    __m512 scale[2], offset[2], minimum[2];
};

INLINE void load_scales(const uint8_t *scales, const uint8_t *minima, float offset, struct scales *s) {
    const __m512i twice[2] = {_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7), _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15)};
    __m512 scale = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)scales)), minimum = scale;
    if (minima) minimum = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)minima));
    for (int i = 0; i < 2; i++) {
        s->scale[i] = _mm512_permutexvar_ps(twice[i], scale);
        s->offset[i] = _mm512_mul_ps(s->scale[i], _mm512_set1_ps(-offset));
        s->minimum[i] = minima ? _mm512_permutexvar_ps(twice[i], minimum) : _mm512_setzero_ps();
    }
}

/* Four columns of 16 rows of W, a byte each, to two rows of a tile. A byte behind the leading ones of 32,768 is a float without a conversion: 32,768 more than it is. */
INLINE void widen_four(__m512i bytes, const struct scales *s, bool minima, const bool exact, uint8_t *to) {
    const __m512i begin = _mm512_set1_epi32(0x47000000), first = _mm512_slli_epi32(_mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29), 8);
    const __mmask64 second = UINT64_C(0x2222222222222222);
    for (int pair = 0; pair < 2; pair++) {
        __m512 value[2];
        for (int half = 0; half < 2; half++) {
            const __m512i from = _mm512_add_epi8(first, _mm512_set1_epi8((char)(pair * 2 + half * 32)));
            __m512 x = _mm512_castsi512_ps(_mm512_mask_permutexvar_epi8(begin, second, from, bytes));
            value[half] = _mm512_fmadd_ps(x, s->scale[half], s->offset[half]);
            if (minima) value[half] = _mm512_add_ps(value[half], s->minimum[half]);
        }
        __m512i high = (__m512i)_mm512_cvtne2ps_pbh(value[1], value[0]);
        _mm512_store_si512(to + pair * LINE, high);
        if (exact) _mm512_store_si512(to + STRIP_TILES * TILE + pair * LINE, what_is_lost(value[0], value[1], high));
    }
}

/* Blocks of one panel to two tiles each, of a strip's; exact: what bf16 loses of them follows the strip's tiles. */
INLINE void widen_panel(const uint8_t *block, const enum packed_kind kind, const bool exact, const size_t size, size_t count, bool alone, uint8_t *to) {
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t b = 0; b < count; b++, block += size, to += (exact ? 2 : 1) * STRIP_TILES * TILE)
        for (size_t v = 0; v < 2; v++) {
            const uint8_t *scales = block + (kind == PACKED_Q8 ? QUANT_Q8_SCALES : QUANT_Q4_SCALES) + 32 * v, *minima = kind == PACKED_Q4M ? block + QUANT_Q4_MINIMA + 32 * v : NULL;
            uint8_t *tile = to + v * TILE;
            struct scales s;
            load_scales(scales, minima, kind == PACKED_Q8 ? 32768 + 128 : kind == PACKED_Q4 ? 32768 + 8 : 32768, &s);
            if (alone)
                for (size_t line = v * (size / LINE / 2); line < (v ? size / LINE : size / LINE / 2); line++) ask_twice(block + LINE * line, NEAR, FAR);
            if (kind == PACKED_Q8) {
#pragma GCC unroll 8
                for (size_t group = 0; group < 8; group++) widen_four(_mm512_load_si512(block + (group * 2 + v) * LINE), &s, false, exact, tile + group * 2 * LINE);
                continue;
            }
#pragma GCC unroll 4
            for (size_t group = 0; group < 4; group++) {
                __m512i both = _mm512_load_si512(block + (group * 2 + v) * LINE);
                widen_four(_mm512_and_si512(both, low), &s, kind == PACKED_Q4M, exact, tile + group * 2 * LINE);
                widen_four(_mm512_and_si512(_mm512_srli_epi16(both, 4), low), &s, kind == PACKED_Q4M, exact, tile + (8 + group * 2) * LINE);
            }
        }
}

/* --- the product --- */

/* A strip of W over some blocks, as tiles read it. */
struct strip {
    const uint8_t *at;
    size_t tile, block; /* bytes from tile to tile, from block to block, */
    size_t low;         /* and from what is high of W to what is low of it, where it is there */
};

/* What is multiplied by what: how the matrix is packed, whether x is two of bf16, and whether W is (each pair but low by low), and whether W's tiles are read where it is packed. */
struct way {
    enum packed_kind kind;
    bool split, exact, direct;
};

/* The instructions want their tiles as written numbers. With each that a single tile of rows waits for, as much of W is asked for that comes later. */
#define LOAD(t, tw, behind)                                                                                 \
    do {                                                                                                    \
        _tile_loadd(tw, at + (behind) + (t) * s->tile, LINE);                                               \
        for (size_t line = 0; alone && way.direct && line < SIDE; line++) ask_twice(at + (behind) + (t) * s->tile + LINE * line, near, far); \
    } while (0)
/* Two of the sums in turns: an instruction that adds to what the one before it makes waits for it. */
#define COLUMNS(t, u)                                                                                       \
    do {                                                                                                    \
        LOAD(t, 6, 0);                                                                                      \
        _tile_dpbf16ps(t, 4, 6);                                                                            \
        LOAD(u, 7, 0);                                                                                      \
        _tile_dpbf16ps(u, 4, 7);                                                                            \
        if (way.split) _tile_dpbf16ps(t, 5, 6);                                                             \
        if (way.split) _tile_dpbf16ps(u, 5, 7);                                                             \
        if (!way.exact) break;                                                                              \
        LOAD(t, 6, s->low);                                                                                 \
        _tile_dpbf16ps(t, 4, 6);                                                                            \
        LOAD(u, 7, s->low);                                                                                 \
        _tile_dpbf16ps(u, 4, 7);                                                                            \
    } while (0)

/* x_block: values from one block of x to the next. */
INLINE void blocks_of(const struct strip *s, const uint16_t *high, const uint16_t *low, size_t x_block, size_t count, const struct way way, const bool wide, const bool alone, struct ahead *ahead) {
    const uint8_t *at = s->at;
    for (size_t b = 0; b < count; b++, at += s->block) {
        const size_t lane = count * s->block, over = (STRIP_TILES - 1) * lane, near = ahead_in_lane(NEAR, b * s->block, lane, over), far = ahead_in_lane(FAR, b * s->block, lane, over);
        _tile_loadd(4, high + b * x_block, LINE);
        if (way.split) _tile_loadd(5, low + b * x_block, LINE);
        COLUMNS(0, 1);
        if (wide) COLUMNS(2, 3);
        if (!alone) ask(ahead, b);
    }
}

INLINE void open_sums(const float *sums, bool zero, const bool wide) {
    if (zero) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    WRITTEN();
    _tile_loadd(0, sums, STRIP * sizeof(float));
    _tile_loadd(1, sums + SIDE, STRIP * sizeof(float));
    if (!wide) return;
    _tile_loadd(2, sums + 2 * SIDE, STRIP * sizeof(float));
    _tile_loadd(3, sums + 3 * SIDE, STRIP * sizeof(float));
}

INLINE void close_sums(float *sums, const bool wide) {
    _tile_stored(0, sums, STRIP * sizeof(float));
    _tile_stored(1, sums + SIDE, STRIP * sizeof(float));
    if (!wide) return;
    _tile_stored(2, sums + 2 * SIDE, STRIP * sizeof(float));
    _tile_stored(3, sums + 3 * SIDE, STRIP * sizeof(float));
}

/* Some strips times some tiles of rows. Sums are this thread's own until they are whole: lines of y that lie beside another thread's would go to and fro with every piece. */
struct product {
    const struct packed *w;
    const struct quant_halves *x;
    size_t blocks, block_size, panels_of_strip; /* block_size: bytes of a block of a panel, or of a lane of it */
    size_t head;                  /* bytes of a panel before its first lane */
    size_t from, to;              /* panels */
    size_t first_tile, tiles;
    size_t row;                   /* of a single tile: the first one that is wanted, */
    const uint16_t *high, *low;   /* x from there on, */
    size_t x_block;               /* and values from block to block of it */
    _Alignas(64) uint8_t wide[DEPTH * STRIP_TILES * TILE]; /* a strip widened */
    float (*own)[STRIP];          /* where the one strip's sums are made, if that is not here */
    float sums[STRIPS_MAX][TILES_MAX * SIDE][STRIP];
    _Alignas(64) uint16_t few[FEW_VALUES];
};

/* x where there is a single tile of so many rows: few of them lie apart from those beside them, so that they stay in the first-level cache. */
static void take_rows(struct product *p, size_t rows, bool split) {
    size_t at = p->first_tile * p->blocks * (TILE / 2) + p->row * QUANT_BLOCK, values = p->blocks * rows * QUANT_BLOCK;
    p->high = p->x->high + at;
    p->low = split ? p->x->low + at : NULL;
    p->x_block = TILE / 2;
    if (rows == SIDE || values * (split ? 2 : 1) > FEW_VALUES) return;
    for (size_t b = 0; b < p->blocks; b++) {
        memcpy(p->few + b * rows * QUANT_BLOCK, p->high + b * p->x_block, rows * LINE);
        if (split) memcpy(p->few + values + b * rows * QUANT_BLOCK, p->low + b * p->x_block, rows * LINE);
    }
    p->high = p->few;
    p->low = split ? p->few + values : NULL;
    p->x_block = rows * QUANT_BLOCK;
}

static float (*sums_of(struct product *p, size_t panel))[STRIP] { return p->own ? p->own : p->sums[(panel - p->from) / p->panels_of_strip]; }

/* The strip at `panel` over the blocks [b, b + count), made ready. */
INLINE struct strip ready(struct product *p, size_t panel, size_t panels, size_t b, size_t count, const struct way way) {
    const uint8_t *at = p->w->data + panel * p->w->panel_size + b * p->block_size;
    if (way.direct) return (struct strip){at, p->w->panel_size / STRIP_TILES, p->block_size, TILE};
    uint8_t *wide = p->wide + (p->tiles == 1 ? b % 2 * 2 * STRIP_TILES * TILE : 0);
    if (way.kind == PACKED_SHORT) lengthen_whole(p->w->data + panel * p->w->panel_size, p->w->cols, b, count, wide);
    for (size_t i = 0; way.kind != PACKED_SHORT && i < panels; i++) widen_panel(at + i * p->w->panel_size, way.kind, way.exact, p->block_size, count, p->tiles == 1, wide + i * 2 * TILE);
    WRITTEN();
    return (struct strip){wide, TILE, (way.exact ? 2 : 1) * STRIP_TILES * TILE, STRIP_TILES * TILE};
}

/* What is asked for while the strip at `panel` is multiplied: the next one over the same blocks, or the first one over the next blocks. */
static struct ahead ahead_of(const struct product *p, size_t panel, size_t b, size_t depth) {
    size_t next = panel + p->panels_of_strip < p->to ? panel + p->panels_of_strip : p->from, then = next > panel ? b : b + depth;
    if (then >= p->blocks || p->tiles == 1) return (struct ahead){.lines = 0};
    size_t left = p->blocks - then, run = (left < depth ? left : depth) * p->block_size, panels = p->to - next < p->panels_of_strip ? p->to - next : p->panels_of_strip;
    const uint8_t *at = p->w->data + next * p->w->panel_size + p->head + then * p->block_size;
    const bool lanes = !QUANT_KINDS[p->w->kind].blocks;
    size_t runs = lanes ? STRIP_TILES : panels;
    return (struct ahead){.at = at, .end = at + run, .runs = runs - 1, .run = run, .step = lanes ? quant_lane_size(p->w->kind, p->w->cols) : p->w->panel_size, .lines = run * runs / LINE / (p->tiles * depth) + 1};
}

/* Blocks along the columns at a time. */
INLINE size_t depth_of(const struct way way) { return way.exact ? DEPTH / 2 : DEPTH; }

INLINE void strip_piece(struct product *p, size_t panel, size_t panels, size_t b, size_t count, const struct way way, const bool wide) {
    float(*sums)[STRIP] = sums_of(p, panel);
    struct strip strip = ready(p, panel, panels, b, count, way);
    struct ahead ahead = ahead_of(p, panel, b, depth_of(way));
    for (size_t t = 0; t < p->tiles; t++) {
        size_t at = ((p->first_tile + t) * p->blocks + b) * (TILE / 2), later = TILES_AHEAD * p->blocks * (TILE / 2);
        const uint16_t *high = p->x->high + at, *low = way.split ? p->x->low + at : NULL;
        ahead.x = panel == p->from && t + TILES_AHEAD < p->tiles ? high + later : NULL;
        open_sums(sums[t * SIDE], b == 0, wide);
        blocks_of(&strip, high, low, TILE / 2, count, way, wide, false, &ahead);
        close_sums(sums[t * SIDE], wide);
    }
}

/* One tile of rows: its sums stay where they are while W goes by. A block is widened while the one before it is multiplied. */
INLINE void strip_alone(struct product *p, size_t panel, size_t panels, const struct way way, const bool wide) {
    const size_t depth = way.direct ? p->blocks : 1;
    float(*sums)[STRIP] = sums_of(p, panel);
    open_sums(NULL, true, wide);
    for (size_t b = 0; b < p->blocks; b += depth) {
        size_t count = p->blocks - b < depth ? p->blocks - b : depth;
        struct strip strip = ready(p, panel, panels, b, count, way);
        blocks_of(&strip, p->high + b * p->x_block, way.split ? p->low + b * p->x_block : NULL, p->x_block, count, way, wide, true, NULL);
    }
    close_sums(sums[p->row], wide);
}

/* A line of the next panel's head with each block of this one; patches are fewer than there is room for. */
INLINE void ask_head(const uint8_t *panel, const struct product *p, size_t b) {
    if (b * LINE < quant_short_patches_at(p->w->cols) + p->blocks * sizeof(uint32_t)) _mm_prefetch((const char *)panel + p->w->panel_size + b * LINE, _MM_HINT_T1);
}

/* Of short. What comes later is asked for while tiles are multiplied, not while they are lengthened, line by line of the four lanes in turns. */
enum { NEAR_OF_SHORT = 768, FAR_OF_SHORT = 3 * 1024 };

INLINE void ask_lanes(const uint8_t *at, size_t lane, size_t line, size_t near, size_t far) {
    for (size_t l = 0; l < STRIP_TILES; l++) ask_twice(at + l * lane + line * LINE, near, far);
}

/* strip_alone of short: a block is lengthened, tile by tile, while the one before it is multiplied. */
static void strip_alone_short(struct product *p, size_t panel) {
    const uint8_t *const begin = p->w->data + panel * p->w->panel_size;
    const size_t lane = quant_lane_size(PACKED_SHORT, p->w->cols), over = p->w->panel_size - lane;
    const __m512i upper = upper_bytes(begin);
    lengthen_whole(begin, p->w->cols, 0, 1, p->wide);
    open_sums(NULL, true, true);
    for (size_t b = 0; b < p->blocks; b++) {
        const uint8_t *wide = p->wide + b % 2 * STRIP_TILES * TILE, *at = begin + p->head + (b + 1) * p->block_size;
        uint8_t *next = p->wide + (b + 1) % 2 * STRIP_TILES * TILE;
        const bool more = b + 1 < p->blocks;
        const size_t near = ahead_in_lane(NEAR_OF_SHORT, (b + 1) * p->block_size, lane, over), far = ahead_in_lane(FAR_OF_SHORT, (b + 1) * p->block_size, lane, over);
        _tile_loadd(4, p->high + b * p->x_block, LINE);
        _tile_loadd(5, p->low + b * p->x_block, LINE);
        ask_head(begin, p, b);
#define LENGTHEN_AND_LOAD(t, tw)                                                                                              \
    do {                                                                                                                      \
        if (more) lengthen_tile(at + (t) * lane, QUANT_SHORT_PART, upper, next + (t) * TILE);                                 \
        _tile_loadd(tw, wide + (t) * TILE, LINE);                                                                             \
        for (size_t line = QUANT_SHORT_LINES / 4 * (t); more && line < QUANT_SHORT_LINES / 4 * ((t) + 1); line++) ask_lanes(at, lane, line, near, far); \
        _tile_dpbf16ps(t, 4, tw);                                                                                             \
    } while (0)
        LENGTHEN_AND_LOAD(0, 6);
        LENGTHEN_AND_LOAD(1, 7);
        _tile_dpbf16ps(0, 5, 6);
        _tile_dpbf16ps(1, 5, 7);
        LENGTHEN_AND_LOAD(2, 6);
        LENGTHEN_AND_LOAD(3, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
#undef LENGTHEN_AND_LOAD
        if (more) patch(begin, p->w->cols, b + 1, next);
        WRITTEN();
    }
    close_sums(sums_of(p, panel)[p->row], true);
}

/*
 * A single row of x does without tiles: vectors wait for W's bytes alone, where tiles wait for one another, too. The sums are those of the tiles, bit for bit: what TDPBF16PS adds is two
 * chains of fma, of the even and of the odd columns, and numbers below the smallest normal one count as nothing.
 */
enum { NOTHING_BELOW_NORMAL = 0x8040 /* bits of the control register: of what is made, and of what is read */ };

INLINE __m512 even_of(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
INLINE __m512 odd_of(__m512i pairs) { return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u))); }
INLINE __m512i pair_at(const uint16_t *x, size_t pair) {
    int32_t bits;
    memcpy(&bits, x + 2 * pair, sizeof bits);
    return _mm512_set1_epi32(bits);
}

INLINE void strip_by_vectors(struct product *p, size_t panel, const bool is_short) {
    const size_t lane = quant_lane_size(p->w->kind, p->w->cols), over = p->w->panel_size - lane;
    const uint8_t *const begin = p->w->data + panel * p->w->panel_size, *at = begin + p->head;
    const __m512i upper = is_short ? upper_bytes(begin) : _mm512_setzero_si512();
    __m512 sums[STRIP_TILES];
    for (int l = 0; l < STRIP_TILES; l++) sums[l] = _mm512_setzero_ps();
    for (size_t b = 0; b < p->blocks; b++, at += p->block_size) {
        const uint16_t *const x[] = {p->high + b * p->x_block, p->low + b * p->x_block};
        const size_t near = ahead_in_lane(is_short ? NEAR_OF_SHORT : NEAR, b * p->block_size, lane, over), far = ahead_in_lane(is_short ? FAR_OF_SHORT : FAR, b * p->block_size, lane, over);
        const uint8_t *tiles = at;
        if (is_short) {
            uint8_t *wide = p->wide + b % 2 * STRIP_TILES * TILE;
            for (size_t l = 0; l < STRIP_TILES; l++) lengthen_tile(at + l * lane, QUANT_SHORT_PART, upper, wide + l * TILE);
            ask_head(begin, p, b);
            patch(begin, p->w->cols, b, wide);
            tiles = wide;
        }
        __m512 even[2][STRIP_TILES], odd[2][STRIP_TILES];
        for (int part = 0; part < 2; part++)
            for (int l = 0; l < STRIP_TILES; l++) even[part][l] = odd[part][l] = _mm512_setzero_ps();
#pragma GCC unroll 4
        for (size_t pair = 0; pair < QUANT_BLOCK / 2; pair++) {
            __m512 first[STRIP_TILES], second[STRIP_TILES];
            for (size_t l = 0; l < STRIP_TILES; l++) {
                const uint8_t *line = tiles + l * (is_short ? TILE : lane) + pair * LINE;
                __m512i pairs = _mm512_load_si512(line);
                if (!is_short) ask_twice(line, near, far);
                first[l] = even_of(pairs);
                second[l] = odd_of(pairs);
            }
            if (is_short && pair < QUANT_SHORT_LINES) ask_lanes(at, lane, pair, near, far);
            for (int part = 0; part < 2; part++) {
                __m512i both = pair_at(x[part], pair);
                for (int l = 0; l < STRIP_TILES; l++) {
                    even[part][l] = _mm512_fmadd_ps(even_of(both), first[l], even[part][l]);
                    odd[part][l] = _mm512_fmadd_ps(odd_of(both), second[l], odd[part][l]);
                }
            }
        }
        for (int part = 0; part < 2; part++)
            for (int l = 0; l < STRIP_TILES; l++) sums[l] = _mm512_add_ps(sums[l], _mm512_add_ps(even[part][l], odd[part][l]));
    }
    for (int l = 0; l < STRIP_TILES; l++) _mm512_storeu_ps(sums_of(p, panel)[p->row] + l * SIDE, sums[l]);
}

static void strips_by_vectors(struct product *p) {
    unsigned control = _mm_getcsr();
    _mm_setcsr(control | NOTHING_BELOW_NORMAL);
    for (size_t panel = p->from; panel < p->to; panel++) {
        if (p->w->kind == PACKED_SHORT) strip_by_vectors(p, panel, true);
        else strip_by_vectors(p, panel, false);
    }
    _mm_setcsr(control);
}

INLINE void strips(struct product *p, const struct way way) {
    for (size_t panel = p->from; p->tiles == 1 && panel < p->to; panel += p->panels_of_strip) {
        if (way.kind == PACKED_SHORT) strip_alone_short(p, panel);
        else if (p->to - panel >= p->panels_of_strip) strip_alone(p, panel, p->panels_of_strip, way, true);
        else strip_alone(p, panel, 1, way, false);
    }
    for (size_t b = 0; p->tiles > 1 && b < p->blocks; b += depth_of(way)) {
        size_t count = p->blocks - b < depth_of(way) ? p->blocks - b : depth_of(way);
        for (size_t panel = p->from; panel < p->to; panel += p->panels_of_strip) {
            if (p->to - panel >= p->panels_of_strip) strip_piece(p, panel, p->panels_of_strip, b, count, way, true);
            else strip_piece(p, panel, 1, b, count, way, false);
        }
    }
}

/* To y what the sums of rows [from, to) are, counted from the first tile. out begins with row `from`, and with the first strip. */
static void put(const struct product *p, size_t from, size_t to, const struct packed_output *out) {
    size_t width = packed_panel_rows(p->w->kind), first = p->from * width, end = p->to * width < p->w->rows ? p->to * width : p->w->rows;
    for (size_t r = from; r < to; r++)
        for (size_t row = first; row < end; row += STRIP) {
            size_t count = end - row < STRIP ? end - row : STRIP;
            const float *restrict sums = p->sums[(row - first) / STRIP][r], *restrict bias = out->bias ? out->bias + (row - first) : NULL;
            float *restrict y = out->y + (r - from) * out->stride + (row - first);
            if (out->add)
                for (size_t c = 0; c < count; c++) y[c] += bias ? sums[c] + bias[c] : sums[c];
            else if (bias)
                for (size_t c = 0; c < count; c++) y[c] = sums[c] + bias[c];
            else memcpy(y, sums, count * sizeof *y);
        }
}

#define BLOCKS(kind)                                                             \
    do {                                                                         \
        if (x->exact) strips(&p, (struct way){kind, true, true, false});         \
        else strips(&p, (struct way){kind, false, false, false});                \
    } while (0)

void quant_tiles_amx(const struct packed *w, const struct quant_halves *x, size_t first, size_t rows, size_t from, size_t to, const struct packed_output *out) {
    if (w->kind == PACKED_SHORT && quant_short_steps(w->data, w->cols).part != QUANT_SHORT_PART) { /* packed by other kernels: it is theirs */
        quant_products_avx512bf16(w, x, first, rows, from, to, out);
        return;
    }
    struct product p;
    size_t width = packed_panel_rows(w->kind), strips_in_all = ((to - from) * width + STRIP - 1) / STRIP, turns = (strips_in_all + STRIPS_MAX - 1) / STRIPS_MAX;
    size_t step = (strips_in_all + turns - 1) / turns * (STRIP / width);
    p.w = w;
    p.x = x;
    p.blocks = quant_block_count(w->cols);
    p.block_size = QUANT_KINDS[w->kind].blocks ? QUANT_KINDS[w->kind].unit : quant_lane_size(w->kind, 1);
    p.panels_of_strip = STRIP / width;
    p.head = w->kind == PACKED_SHORT ? quant_short_head(w->cols) : 0;
    for (size_t row = first, end; row < first + rows; row = end) {
        p.first_tile = row / SIDE;
        end = (p.first_tile + TILES_MAX) * SIDE < first + rows ? (p.first_tile + TILES_MAX) * SIDE : first + rows;
        p.tiles = (end + SIDE - 1) / SIDE - p.first_tile;
        p.row = row % SIDE;
        const bool vectors = (w->kind == PACKED_BF16 || w->kind == PACKED_SHORT) && end - row == 1;
        if (!vectors) configure(p.tiles == 1 ? end - row : SIDE);
        if (p.tiles == 1) take_rows(&p, end - row, QUANT_KINDS[w->kind].blocks ? x->exact : true);
        for (p.from = from; p.from < to; p.from = p.to) {
            struct packed_output part = {.y = out->y + (row - first) * out->stride + (p.from - from) * width, .stride = out->stride, .bias = out->bias ? out->bias + (p.from - from) * width : NULL, .add = out->add};
            p.to = to - p.from < step ? to : p.from + step;
            p.own = out->whole && p.to - p.from <= p.panels_of_strip && row % SIDE == 0 ? (float(*)[STRIP])part.y : NULL;
            switch (w->kind) {
            case PACKED_BF16:
                if (vectors) strips_by_vectors(&p);
                else strips(&p, (struct way){PACKED_BF16, true, false, true});
                break;
            case PACKED_SHORT:
                if (vectors) strips_by_vectors(&p);
                else strips(&p, (struct way){PACKED_SHORT, true, false, false});
                break;
            case PACKED_SPLIT: strips(&p, (struct way){PACKED_SPLIT, true, true, true}); break;
            case PACKED_Q8: BLOCKS(PACKED_Q8); break;
            case PACKED_Q4: BLOCKS(PACKED_Q4); break;
            default: BLOCKS(PACKED_Q4M); break;
            }
            WRITTEN();
            if (!p.own) put(&p, row - p.first_tile * SIDE, end - p.first_tile * SIDE, &part);
        }
    }
    _tile_release(); /* a thread that the system takes away has its tiles saved while they hold anything */
}
#endif
