/*
 * quant.h's block kernels for AMX (Sapphire Rapids and later): a tile instruction multiplies 16 rows of x by 16 rows of W over a whole block, exactly, so
 * that the bits are those of every other kernel. What a block's product still needs, its scales, is done by AVX-512 and is most of the work, together with
 * the way there: sums leave the tiles through memory. While tiles are at work one of the two units that add floats is not to be had (measured on Granite
 * Rapids: scaling takes twice the time), and a store waits for its product; so a few blocks are multiplied, each stored when the next has begun, and then all
 * of them scaled. W in 8 bits is read where it lies, by the instruction that takes it unsigned, and what that adds is taken out when scaling; 4 bits become
 * signed bytes first. Rows of x are shared out evenly among as few tiles as will do, which have no more rows than that: a product takes a cycle per row.
 * Few rows of x take the AVX-512 kernels, and so do floats but those of quant_amx_bf16.c.
 */
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tensor/quant_internal.h"

enum {
    SIDE = 16,          /* rows of a tile */
    LINE = 64,          /* bytes of its row */
    FEWEST = 6,         /* rows of x that are worth tiles, */
    FEWEST_NIBBLES = 7, /* and where W has 4 bits */
    GROUP = 4,          /* blocks that are multiplied, and then scaled */
    NEAR = 4352,        /* bytes: how far ahead W is asked for, */
    FAR = 9 * 1024,     /* and, before that, into the second level of the cache */
};

_Static_assert(FEWEST <= FEWEST_NIBBLES && FEWEST_NIBBLES <= QUANT_TILE_ROWS + 1, "fewer are for the AVX-512 kernels, at once");

static bool usable(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18, BF16_TILE_INT8 = 1 << 22 | 1 << 24 | 1 << 25, GFNI_VBMI = 1 << 8 | 1 << 1, AVX512_BF16 = 1 << 5 };
    unsigned a = 0, b, c = 0, d = 0;
    if (!quant_usable_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & BF16_TILE_INT8) != BF16_TILE_INT8 || (c & GFNI_VBMI) != GFNI_VBMI) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & AVX512_BF16)) return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0; /* the state of tiles is large: Linux wants to be asked, once a process */
}

#define INLINE static inline __attribute__((always_inline))
/* The intrinsics do not tell the compiler which memory they read. */
#define WRITTEN() __asm__ volatile("" : : : "memory")

/* --- what the tiles are; kept from panel to panel, since telling the CPU takes as long as a few products --- */

static _Thread_local size_t configured; /* rows of x in a tile; 0: none */

/* Tiles 0 to 3 are sums, 4 and 5 rows of x, 6 and 7 rows of W: products are begun while those before them leave. */
static void configure(size_t rows) {
    if (configured == rows) return;
    enum { FOURS = QUANT_BLOCK / 4 };
    uint8_t r = (uint8_t)rows;
    _Alignas(64) struct quant_tiles c = {.palette = 1, .bytes = {LINE, LINE, LINE, LINE, QUANT_BLOCK, QUANT_BLOCK, LINE, LINE}, .rows = {r, r, r, r, r, r, FOURS, FOURS}};
    __asm__ volatile("" : : "r"(&c) : "memory");
    _tile_loadconfig(&c);
    configured = rows;
}

static void done(void) {
    if (!configured) return;
    _tile_release(); /* a thread that the system takes away has its tiles saved while they hold anything */
    configured = 0;
}

/* --- blocks --- */

/* The bytes of GROUP blocks of a panel as tiles read them: [block][four columns][row of W][column]. */
struct group {
    _Alignas(64) int8_t w[GROUP][QUANT_BLOCK / 4][PACKED_BLOCK_PANEL][4];
};

/* What rows of x and a group's blocks come to, before scales. */
struct sums {
    _Alignas(64) int32_t of[GROUP][SIDE][PACKED_BLOCK_PANEL];
};

/* How W is asked for on the way: so many lines with each block's products, and with the scaling of each row. */
struct ahead {
    const uint8_t *at; /* what is asked for lies NEAR and FAR behind this */
    size_t product_lines, scale_lines;
};

INLINE void ask(struct ahead *ahead, size_t lines) {
    for (size_t line = 0; line < lines; line++, ahead->at += LINE) quant_ask(ahead->at, NEAR, FAR);
}

INLINE size_t block_size(const enum packed_kind kind) { return kind == PACKED_Q8 ? QUANT_Q8_BLOCK_SIZE : kind == PACKED_Q4 ? QUANT_Q4_BLOCK_SIZE : QUANT_Q4M_BLOCK_SIZE; }

INLINE __m512 load_halves(const uint8_t *at) { return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)at)); }

/*
 * 4 bits to a byte each, by products of bits (gf2p8affineqb): a matrix has a byte for each bit of the result, the uppermost first, whose ones say which bits
 * of the source add to it. Without minima what is meant is q - 8: q's upper bit, inverted, is the sign, and all bits above it.
 */
INLINE __m512i bytes_of(__m512i both, __m512i bits, const bool is_signed) {
    return is_signed ? _mm512_gf2p8affine_epi64_epi8(both, bits, 0xf8) : _mm512_gf2p8affine_epi64_epi8(both, bits, 0);
}
INLINE void unpack(const uint8_t *block, const enum packed_kind kind, size_t count, struct group *g) {
    const bool is_signed = kind == PACKED_Q4;
    const __m512i low = _mm512_set1_epi64(is_signed ? 0x0102040808080808 : 0x0102040800000000), high = _mm512_set1_epi64(is_signed ? 0x1020408080808080 : 0x1020408000000000);
    for (size_t b = 0; b < count; b++, block += block_size(kind)) {
        int8_t *to = &g->w[b][0][0][0];
#pragma GCC unroll 8
        for (size_t line = 0; line < 8; line++) {
            __m512i both = _mm512_load_si512(block + LINE * line);
            _mm512_store_si512(to + LINE * line, bytes_of(both, low, is_signed));
            _mm512_store_si512(to + LINE * (line + 8), bytes_of(both, high, is_signed));
        }
    }
}

/* The instructions want their tiles as written numbers. */
#define MULTIPLY(t, u, tx, k)                                                              \
    do {                                                                                   \
        _tile_zero(t);                                                                     \
        _tile_zero(u);                                                                     \
        _tile_loadd(tx, q + (k) * QUANT_BLOCK, q_stride);                                  \
        _tile_loadd(6, w + (k) * w_step, sizeof(int8_t[PACKED_BLOCK_PANEL][4]));           \
        if (kind == PACKED_Q8) _tile_dpbsud(t, tx, 6);                                     \
        else _tile_dpbssd(t, tx, 6);                                                       \
        _tile_loadd(7, w + (k) * w_step + LINE, sizeof(int8_t[PACKED_BLOCK_PANEL][4]));    \
        if (kind == PACKED_Q8) _tile_dpbsud(u, tx, 7);                                     \
        else _tile_dpbssd(u, tx, 7);                                                       \
        ask(ahead, ahead->product_lines);                                                  \
    } while (0)
#define STORE(t, u, k)                                                     \
    do {                                                                   \
        _tile_stored(t, sums->of[k], sizeof sums->of[k][0]);               \
        _tile_stored(u, &sums->of[k][0][SIDE], sizeof sums->of[k][0]);     \
    } while (0)

/* Rows of x at q times `count` blocks of W, each w_step bytes behind the one before. */
INLINE void products(const int8_t *q, size_t q_stride, const uint8_t *w, const enum packed_kind kind, const size_t count, struct sums *sums, struct ahead *ahead) {
    const size_t w_step = kind == PACKED_Q8 ? QUANT_Q8_BLOCK_SIZE : QUANT_BLOCK * PACKED_BLOCK_PANEL;
    WRITTEN();
    MULTIPLY(0, 1, 4, 0);
    if (count > 1) MULTIPLY(2, 3, 5, 1);
    STORE(0, 1, 0);
    if (count > 2) MULTIPLY(0, 1, 4, 2);
    if (count > 1) STORE(2, 3, 1);
    if (count > 3) MULTIPLY(2, 3, 5, 3);
    if (count > 2) STORE(0, 1, 2);
    if (count > 3) STORE(2, 3, 3);
    WRITTEN();
}

/* Adds what the sums of n rows from row i on amount to. */
INLINE void scale(const uint8_t *block, const struct quant_rows *x, size_t i, size_t n, size_t b, size_t blocks, const enum packed_kind kind, const size_t count, const struct sums *sums,
                  float (*acc)[PACKED_BLOCK_PANEL], struct ahead *ahead) {
    __m512 scale_w[GROUP][2], minimum_w[GROUP][2];
#pragma GCC unroll 4
    for (size_t k = 0; k < count; k++)
        for (size_t v = 0; v < 2; v++) {
            const uint8_t *at = block + k * block_size(kind) + 2 * SIDE * v;
            scale_w[k][v] = load_halves(at + (kind == PACKED_Q8 ? QUANT_Q8_SCALES : QUANT_Q4_SCALES));
            if (kind == PACKED_Q4M) minimum_w[k][v] = load_halves(at + QUANT_Q4_MINIMA);
        }
    for (size_t r = 0; r < n; r++) {
        size_t first = (i + r) * blocks + b;
        __m512 a[2] = {_mm512_load_ps(acc[r]), _mm512_load_ps(acc[r] + SIDE)};
#pragma GCC unroll 4
        for (size_t k = 0; k < count; k++) {
            __m512 scale_x = _mm512_set1_ps(x->scale[first + k]);
#pragma GCC unroll 2
            for (size_t v = 0; v < 2; v++) {
                __m512i sum = _mm512_load_si512(&sums->of[k][r][SIDE * v]);
                if (kind == PACKED_Q8) sum = _mm512_add_epi32(sum, _mm512_set1_epi32(x->correction[first + k]));
                a[v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scale_w[k][v], scale_x), a[v]);
                if (kind == PACKED_Q4M) a[v] = _mm512_fmadd_ps(minimum_w[k][v], _mm512_set1_ps(x->total[first + k]), a[v]);
            }
        }
        _mm512_store_ps(acc[r], a[0]);
        _mm512_store_ps(acc[r] + SIDE, a[1]);
        ask(ahead, ahead->scale_lines);
    }
}

/* `count` blocks from b on for n rows of x from row i on; w: their bytes. */
INLINE void blocks_some(const uint8_t *block, const uint8_t *w, const struct quant_rows *x, size_t i, size_t n, size_t b, size_t blocks, const enum packed_kind kind, const size_t count,
                        float (*acc)[PACKED_BLOCK_PANEL], struct ahead *ahead) {
    struct sums sums;
    products(x->q + (i * blocks + b) * QUANT_BLOCK, blocks * QUANT_BLOCK, w, kind, count, &sums, ahead);
    scale(block, x, i, n, b, blocks, kind, count, &sums, acc, ahead);
}

INLINE void blocks_any(const uint8_t *panel, const enum packed_kind kind, quant_block_kernel few, size_t blocks, const struct quant_rows *x, size_t n, float *tile) {
    const size_t size = block_size(kind);
    if (n < (kind == PACKED_Q8 ? FEWEST : FEWEST_NIBBLES)) {
        few(panel, blocks, x, n, tile);
        return;
    }
    struct group groups[2];
    float(*acc)[PACKED_BLOCK_PANEL] = (float(*)[PACKED_BLOCK_PANEL])(void *)tile;
    size_t tiles = (n + SIDE - 1) / SIDE, step = (n + tiles - 1) / tiles, lines = size / LINE * GROUP /* of a group */, with_scales = lines / 2 / n;
    struct ahead ahead = {.product_lines = (lines - with_scales * n + GROUP * tiles - 1) / (GROUP * tiles), .scale_lines = with_scales};
    memset(acc, 0, n * sizeof acc[0]);
    configure(step);
    if (kind != PACKED_Q8) unpack(panel, kind, blocks < GROUP ? blocks : GROUP, &groups[0]);
    for (size_t b = 0, turn = 0; b < blocks; b += GROUP, turn ^= 1) {
        size_t behind = blocks - b;
        const uint8_t *block = panel + b * size, *w = kind == PACKED_Q8 ? block : (const uint8_t *)groups[turn].w;
        ahead.at = block;
        for (size_t i = 0; i < n; i += step) {
            size_t some = n - i < step ? n - i : step;
            switch (behind) {
            case 1: blocks_some(block, w, x, i, some, b, blocks, kind, 1, acc + i, &ahead); break;
            case 2: blocks_some(block, w, x, i, some, b, blocks, kind, 2, acc + i, &ahead); break;
            case 3: blocks_some(block, w, x, i, some, b, blocks, kind, 3, acc + i, &ahead); break;
            default: blocks_some(block, w, x, i, some, b, blocks, kind, GROUP, acc + i, &ahead); break;
            }
            /* the next group early, so that it has left for the cache when the tiles want it */
            if (kind != PACKED_Q8 && i == 0 && behind > GROUP) unpack(block + GROUP * size, kind, behind < 2 * GROUP ? behind - GROUP : GROUP, &groups[turn ^ 1]);
        }
    }
}

static void q8_amx(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q8, quant_q8_avx512, blocks, x, n, tile); }
static void q4_amx(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q4, quant_q4_avx512, blocks, x, n, tile); }
static void q4m_amx(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q4M, quant_q4m_avx512, blocks, x, n, tile); }

const struct quant_kernels QUANT_KERNELS_AMX = {.name = "amx", .vectors = "avx512", .usable = usable, .f32 = quant_f32_avx512, .bf16 = quant_bf16_avx512,
                                                .f16 = quant_f16_avx512, .f32_rows = quant_f32_rows_avx512, .bf16_rows = quant_bf16_rows_avx512,
                                                .f16_rows = quant_f16_rows_avx512, .lengthen = quant_lengthen_avx512, .short_block = quant_short_block_avx512, .short_few = QUANT_SHORT_FEW_AVX512, .short_rows = quant_short_rows_avx512, .many_rows = QUANT_TILE_ROWS + 1, .q8 = q8_amx, .q4 = q4_amx, .q4m = q4m_amx,
                                                .block_rows = QUANT_TILE_ROWS_MAX, .block_unit = SIDE, .quantize = quant_quantize_avx512, .done = done,
                                                .tiles = quant_tiles_amx, .tiles_of_blocks = true, .halve = quant_halves_avx512bf16};
#endif
