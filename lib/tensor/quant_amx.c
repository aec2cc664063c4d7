/*
 * quant.h's block kernels for AMX (Sapphire Rapids and later): a tile instruction multiplies 16 rows of x by 16 rows of W over a whole block, exactly, so
 * that the bits are those of every other kernel. What a block's product still needs, its scales, is done by AVX-512 and is most of the work, together with
 * the way there: sums leave the tiles through memory. While tiles are at work one of the two units that add floats is not to be had (measured on Granite
 * Rapids), so that a few products are made first and then scaled. All is done a few blocks at a time, for all rows of x: W is asked for in advance, evenly.
 * Few rows of x do not fill a tile: they take the AVX-512 kernels, and so do floats but those of quant_amx_bf16.c.
 */
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tensor/quant_internal.h"

enum {
    SIDE = 16,        /* rows of a tile */
    LINE = 64,        /* bytes of its row */
    FEWEST = 8,       /* rows of x that are worth unpacking W for, */
    FEWEST_NIBBLES = 12, /* and of 4 bits */
    FEWEST_LEFT = 3,  /* and that a last tile is worth beginning for, once W is unpacked */
    GROUP = 4,        /* blocks that are multiplied, and then scaled: the two share what adds floats, and get in each other's way when mixed */
    NEAR = 6 * 1024, /* bytes: what is asked for before it is unpacked, */
    FAR = 16 * 1024, /* and, before that, into the second level of the cache, which has room for many lines that are on their way */
};

static bool usable(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18, BF16_TILE_INT8 = 1 << 22 | 1 << 24 | 1 << 25, VBMI = 1 << 1, AVX512_BF16 = 1 << 5 };
    unsigned a = 0, b, c = 0, d = 0;
    if (!quant_usable_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & BF16_TILE_INT8) != BF16_TILE_INT8 || !(c & VBMI)) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & AVX512_BF16)) return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0; /* the state of tiles is large: Linux wants to be asked, once a process */
}

#define INLINE static inline __attribute__((always_inline))
/* The intrinsics do not tell the compiler which memory they read. */
#define WRITTEN() __asm__ volatile("" : : : "memory")

/* --- what the tiles are; kept from panel to panel, since telling the CPU takes as long as a few products --- */

static _Thread_local bool configured;

/* Tiles 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 rows of W: products are begun while those before them leave. */
static void configure(void) {
    if (configured) return;
    enum { GROUPS = QUANT_BLOCK / 4 };
    _Alignas(64) struct quant_tiles c = {.palette = 1, .bytes = {LINE, LINE, LINE, LINE, QUANT_BLOCK, QUANT_BLOCK, LINE, LINE}, .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, GROUPS, GROUPS}};
    __asm__ volatile("" : : "r"(&c) : "memory");
    _tile_loadconfig(&c);
    configured = true;
}

static void done(void) {
    if (!configured) return;
    _tile_release(); /* a thread that the system takes away has its tiles saved while they hold anything */
    configured = false;
}

/* --- blocks --- */

/* GROUP blocks of a panel as tiles read them: signed bytes, and scales as floats. */
struct group {
    _Alignas(64) int8_t w[GROUP][QUANT_BLOCK / 4][PACKED_BLOCK_PANEL][4];
    float scale[GROUP][PACKED_BLOCK_PANEL], minimum[GROUP][PACKED_BLOCK_PANEL];
};

/* SIDE rows of x over these blocks. Where x has fewer, a tile reads what lies behind them, and its scales, copied here, are 0. */
struct some_rows {
    const int8_t *q;
    const float *scale, *total;
    size_t q_stride, stride;
    _Alignas(64) float own[2][SIDE][GROUP];
};

/* How W is asked for on the way: so many lines with each product, and with its scaling. */
struct ahead {
    const uint8_t *at; /* what is asked for lies NEAR and FAR behind this */
    size_t product_lines, scale_lines;
};

INLINE void ask(struct ahead *ahead) {
    _mm_prefetch((const char *)ahead->at + FAR, _MM_HINT_T1);
    _mm_prefetch((const char *)ahead->at + NEAR, _MM_HINT_T0);
    ahead->at += LINE;
}

INLINE __m512 load_halves(const uint8_t *at) { return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)at)); }

INLINE void unpack(const uint8_t *block, const enum packed_kind kind, size_t size, size_t count, struct group *g) {
    const __m512i low = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(kind == PACKED_Q4 ? 8 : 0), flip = _mm512_set1_epi8(-128);
    for (size_t b = 0; b < count; b++, block += size) {
        int8_t *to = &g->w[b][0][0][0];
#pragma GCC unroll 16
        for (size_t line = 0; kind == PACKED_Q8 && line < 16; line++) _mm512_store_si512(to + LINE * line, _mm512_xor_si512(_mm512_load_si512(block + LINE * line), flip));
#pragma GCC unroll 8
        for (size_t line = 0; kind != PACKED_Q8 && line < 8; line++) {
            __m512i both = _mm512_load_si512(block + LINE * line);
            _mm512_store_si512(to + LINE * line, _mm512_sub_epi8(_mm512_and_si512(both, low), eight));
            _mm512_store_si512(to + LINE * (line + 8), _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(both, 4), low), eight));
        }
        for (size_t v = 0; v < 2; v++) {
            _mm512_store_ps(g->scale[b] + SIDE * v, load_halves(block + (kind == PACKED_Q8 ? QUANT_Q8_SCALES : QUANT_Q4_SCALES) + 32 * v));
            if (kind == PACKED_Q4M) _mm512_store_ps(g->minimum[b] + SIDE * v, load_halves(block + QUANT_Q4_MINIMA + 32 * v));
        }
    }
}

/* n rows of x from row i on, at the blocks [b, b + count). */
INLINE void take_rows(const struct quant_rows *x, size_t i, size_t n, size_t b, size_t count, size_t blocks, const enum packed_kind kind, struct some_rows *rows) {
    size_t at = i * blocks + b;
    rows->q = x->q + at * QUANT_BLOCK;
    rows->q_stride = blocks * QUANT_BLOCK;
    rows->scale = x->scale + at;
    rows->total = x->total + at;
    rows->stride = blocks;
    if (n == SIDE) return;
    memset(rows->own, 0, sizeof rows->own);
    for (size_t r = 0; r < n; r++) {
        memcpy(rows->own[0][r], rows->scale + r * blocks, count * sizeof(float));
        if (kind == PACKED_Q4M) memcpy(rows->own[1][r], rows->total + r * blocks, count * sizeof(float));
    }
    rows->scale = rows->own[0][0];
    rows->total = rows->own[1][0];
    rows->stride = GROUP;
}

/* The instructions want their tiles as written numbers. */
#define PRODUCT(t, tx, tw)                                                     \
    do {                                                                       \
        _tile_zero(t);                                                         \
        _tile_loadd(tx, rows->q + (t) * QUANT_BLOCK, rows->q_stride);          \
        _tile_loadd(tw, &g->w[t][0][SIDE * v][0], sizeof g->w[0][0]);          \
        _tile_dpbssd(t, tx, tw);                                               \
        _tile_stored(t, sums[t], LINE);                                        \
        for (size_t line = 0; line < ahead->product_lines; line++) ask(ahead); \
    } while (0)

INLINE void products(const struct group *g, const struct some_rows *rows, const size_t count, size_t v, int32_t sums[GROUP][SIDE * SIDE], struct ahead *ahead) {
    WRITTEN();
    PRODUCT(0, 4, 6);
    if (count > 1) PRODUCT(1, 5, 7);
    if (count > 2) PRODUCT(2, 4, 6);
    if (count > 3) PRODUCT(3, 5, 7);
}

/* What the products of n rows with half v of the panel amount to; sums go on from where `acc` has them. */
INLINE void scale(const struct group *g, const struct some_rows *rows, const enum packed_kind kind, const size_t n, const size_t count, size_t v,
                  int32_t sums[GROUP][SIDE * SIDE], float (*acc)[PACKED_BLOCK_PANEL], struct ahead *ahead) {
    __m512 a[SIDE];
    const size_t stride = rows->stride;
    const float *const scales[2] = {rows->scale, rows->scale + 8 * stride}, *const totals[2] = {rows->total, rows->total + 8 * stride};
#pragma GCC unroll 16
    for (size_t r = 0; r < n; r++) a[r] = _mm512_load_ps(&acc[r][SIDE * v]);
#pragma GCC unroll 4
    for (size_t b = 0; b < count; b++) {
        __m512 scale_w = _mm512_load_ps(g->scale[b] + SIDE * v), minimum_w = kind == PACKED_Q4M ? _mm512_load_ps(g->minimum[b] + SIDE * v) : _mm512_setzero_ps();
#pragma GCC unroll 16
        for (size_t r = 0; r < n; r++) {
            __m512 scaled = _mm512_mul_ps(scale_w, _mm512_set1_ps(scales[r / 8][r % 8 * stride + b]));
            a[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums[b] + SIDE * r)), scaled, a[r]);
            if (r % 2 && r / 2 < ahead->scale_lines) ask(ahead);
            if (kind == PACKED_Q4M) a[r] = _mm512_fmadd_ps(minimum_w, _mm512_set1_ps(totals[r / 8][r % 8 * stride + b]), a[r]);
        }
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < n; r++) _mm512_store_ps(&acc[r][SIDE * v], a[r]);
}

/* A group times rows of x; n: the rows of acc that are needed, or more. */
INLINE void tile_rows(const struct group *g, const struct some_rows *rows, const enum packed_kind kind, const size_t n, const size_t count, float (*acc)[PACKED_BLOCK_PANEL],
                      struct ahead *ahead) {
    _Alignas(64) int32_t sums[GROUP][SIDE * SIDE];
    for (size_t v = 0; v < 2; v++) {
        products(g, rows, count, v, sums, ahead);
        scale(g, rows, kind, n, count, v, sums, acc, ahead);
    }
}

INLINE struct quant_rows rows_from(const struct quant_rows *x, size_t i, size_t blocks) {
    size_t at = i * blocks;
    return (struct quant_rows){.q = x->q + at * QUANT_BLOCK, .scale = x->scale + at, .correction = x->correction + at, .total = x->total + at};
}

INLINE void blocks_any(const uint8_t *panel, const enum packed_kind kind, quant_block_kernel few, size_t blocks, const struct quant_rows *x, size_t n, float *tile) {
    const size_t size = kind == PACKED_Q8 ? QUANT_Q8_BLOCK_SIZE : kind == PACKED_Q4 ? QUANT_Q4_BLOCK_SIZE : QUANT_Q4M_BLOCK_SIZE;
    size_t left = n < (kind == PACKED_Q8 ? FEWEST : FEWEST_NIBBLES) ? n : n % SIDE < FEWEST_LEFT ? n % SIDE : 0, tiled = n - left;
    for (size_t i = tiled; i < n; i += QUANT_TILE_ROWS) {
        struct quant_rows rows = rows_from(x, i, blocks);
        few(panel, blocks, &rows, n - i < QUANT_TILE_ROWS ? n - i : QUANT_TILE_ROWS, tile + i * PACKED_BLOCK_PANEL);
    }
    if (!tiled) return;
    struct group groups[2];
    struct some_rows rows;
    _Alignas(64) float acc[QUANT_TILE_ROWS_MAX][PACKED_BLOCK_PANEL];
    size_t tiles = (tiled + SIDE - 1) / SIDE;
    size_t lines = (size / LINE + 2 * tiles - 1) / (2 * tiles);
    struct ahead ahead = {panel, lines / 2, lines - lines / 2};
    memset(acc, 0, tiles * SIDE * sizeof acc[0]);
    configure();
    unpack(panel, kind, size, blocks < GROUP ? blocks : GROUP, &groups[0]);
    for (size_t b = 0, turn = 0; b < blocks; b += GROUP, turn ^= 1) {
        size_t behind = blocks - b, count = behind < GROUP ? behind : GROUP;
        ahead.at = panel + b * size;
        for (size_t i = 0; i < tiled; i += SIDE) {
            size_t some = tiled - i < SIDE ? tiled - i : SIDE;
            take_rows(x, i, some, b, count, blocks, kind, &rows);
            if (count < GROUP) tile_rows(&groups[turn], &rows, kind, SIDE, count, acc + i, &ahead);
            else if (some <= SIDE / 2) tile_rows(&groups[turn], &rows, kind, SIDE / 2, GROUP, acc + i, &ahead);
            else tile_rows(&groups[turn], &rows, kind, SIDE, GROUP, acc + i, &ahead);
            /* the next group early, so that it has left for the cache when the tiles want it */
            if (i == 0 && behind > GROUP) unpack(panel + (b + GROUP) * size, kind, size, behind < 2 * GROUP ? behind - GROUP : GROUP, &groups[turn ^ 1]);
        }
    }
    memcpy(tile, acc, tiled * sizeof acc[0]);
}

static void q8_amx(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q8, quant_q8_avx512, blocks, x, n, tile); }
static void q4_amx(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q4, quant_q4_avx512, blocks, x, n, tile); }
static void q4m_amx(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q4M, quant_q4m_avx512, blocks, x, n, tile); }

const struct quant_kernels QUANT_KERNELS_AMX = {.name = "amx", .vectors = "avx512", .usable = usable, .f32 = quant_f32_avx512, .bf16 = quant_bf16_avx512,
                                                .f16 = quant_f16_avx512, .f32_rows = quant_f32_rows_avx512, .bf16_rows = quant_bf16_rows_avx512,
                                                .f16_rows = quant_f16_rows_avx512, .many_rows = QUANT_TILE_ROWS + 1, .q8 = q8_amx, .q4 = q4_amx, .q4m = q4m_amx,
                                                .block_rows = QUANT_TILE_ROWS_MAX, .block_unit = SIDE, .quantize = quant_quantize_avx512, .done = done,
                                                .tiles = quant_tiles_amx, .halve = quant_halves_amx};
#endif
