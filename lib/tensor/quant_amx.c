/*
 * quant.h's block kernels for AMX (Sapphire Rapids and later): a tile instruction multiplies 16 rows of x by 16 rows of W over a whole block, exactly, so
 * that the bits are those of every other kernel. What a block's product still needs, its scales, is done by AVX-512 and is most of the work, together with
 * the way there: sums leave the tiles through memory. They are begun LAG blocks before they are scaled, so that neither waits.
 * Few rows of x do not fill a tile: they take the AVX-512 kernels, and so do floats (AMX has bf16, but adds in another order than one chain).
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
    FEWEST = 8,       /* rows of x that are worth unpacking W for */
    FEWEST_LEFT = 3,  /* and that a last tile is worth beginning for, once W is unpacked */
    STRETCH = 24,     /* blocks unpacked at a time: 30 KiB, which stay in the first level of the cache (48) beside what is taken of x */
    LAG = 4,
    AHEAD = 4096,
};

static bool usable(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18, TILE_AND_INT8 = 3 << 24 };
    unsigned a, b, c, d = 0;
    if (!quant_usable_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & TILE_AND_INT8) != TILE_AND_INT8) return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0; /* the state of tiles is large: Linux wants to be asked, once a process */
}

#define INLINE static inline __attribute__((always_inline))
/* The intrinsics do not tell the compiler which memory they read. */
#define WRITTEN() __asm__ volatile("" : : : "memory")

/* --- what the tiles are; kept from panel to panel, since telling the CPU takes as long as a few products --- */

static _Thread_local size_t configured; /* rows of x; 0: the tiles are not in use */

struct config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

/* Tiles 0 and 1 are sums, 2 and 3 rows of x, 4 and 5 rows of W. Two of each, so that a product is begun while the one before it leaves. */
static void configure(size_t n) {
    if (configured == n) return;
    uint8_t rows = (uint8_t)n;
    _Alignas(64) struct config c = {.palette = 1, .bytes = {LINE, LINE, QUANT_BLOCK, QUANT_BLOCK, LINE, LINE}, .rows = {rows, rows, rows, rows, QUANT_BLOCK / 4, QUANT_BLOCK / 4}};
    __asm__ volatile("" : : "r"(&c) : "memory");
    _tile_loadconfig(&c);
    configured = n;
}

static void done(void) {
    if (configured == 0) return;
    _tile_release(); /* a thread that the system takes away has its tiles saved while they hold anything */
    configured = 0;
}

/* --- blocks --- */

/* Some blocks of a panel as tiles read them: signed bytes, and scales as floats. */
struct stretch {
    _Alignas(64) int8_t w[STRETCH][QUANT_BLOCK / 4][PACKED_BLOCK_PANEL][4];
    float scale[STRETCH][PACKED_BLOCK_PANEL], minimum[STRETCH][PACKED_BLOCK_PANEL];
};

INLINE __m512 load_halves(const uint8_t *at) { return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)at)); }

INLINE void unpack(const uint8_t *block, const enum packed_kind kind, size_t size, size_t count, struct stretch *s) {
    const __m512i low = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(kind == PACKED_Q4 ? 8 : 0), flip = _mm512_set1_epi8(-128);
    for (size_t b = 0; b < count; b++, block += size) {
        int8_t *to = &s->w[b][0][0][0];
        for (size_t line = 0; line < size; line += LINE) _mm_prefetch((const char *)block + AHEAD + line, _MM_HINT_T0);
        for (size_t line = 0; kind == PACKED_Q8 && line < 16; line++) _mm512_store_si512(to + LINE * line, _mm512_xor_si512(_mm512_load_si512(block + LINE * line), flip));
        for (size_t line = 0; kind != PACKED_Q8 && line < 8; line++) {
            __m512i both = _mm512_load_si512(block + LINE * line);
            _mm512_store_si512(to + LINE * line, _mm512_sub_epi8(_mm512_and_si512(both, low), eight));
            _mm512_store_si512(to + LINE * (line + 8), _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(both, 4), low), eight));
        }
        for (size_t v = 0; v < 2; v++) {
            _mm512_store_ps(s->scale[b] + SIDE * v, load_halves(block + (kind == PACKED_Q8 ? QUANT_Q8_SCALES : QUANT_Q4_SCALES) + 32 * v));
            if (kind == PACKED_Q4M) _mm512_store_ps(s->minimum[b] + SIDE * v, load_halves(block + QUANT_Q4_MINIMA + 32 * v));
        }
    }
    WRITTEN();
}

/* The instructions want their tiles as written numbers. */
#define PRODUCT(t, tx, tw, b)                                                        \
    do {                                                                             \
        _tile_zero(t);                                                               \
        _tile_loadd(tx, q + (b) * QUANT_BLOCK, q_stride);                            \
        _tile_loadd(tw, &s->w[b][0][SIDE * v][0], sizeof s->w[0][0]);                \
        _tile_dpbssd(t, tx, tw);                                                     \
        _tile_stored(t, sums[(b) % (2 * LAG)], LINE);                                \
    } while (0)
#define PRODUCT_OF(b)                         \
    do {                                      \
        if ((b) % 2) PRODUCT(1, 3, 5, b);     \
        else PRODUCT(0, 2, 4, b);             \
    } while (0)

/* Rows [i, i + n) of x, n at most SIDE, times half v of a stretch that begins at block `from`. */
INLINE void tile_rows(const struct stretch *s, size_t count, const enum packed_kind kind, size_t from, size_t blocks, const struct quant_rows *x, size_t i, const size_t n,
                      size_t v, float *tile) {
    _Alignas(64) int32_t sums[2 * LAG][SIDE * SIDE];
    const int8_t *q = x->q + (i * blocks + from) * QUANT_BLOCK;
    const float *scale = x->scale + i * blocks + from, *total = x->total + i * blocks + from;
    const size_t q_stride = blocks * QUANT_BLOCK;
    float *out = tile + i * PACKED_BLOCK_PANEL + SIDE * v;
    __m512 acc[SIDE];
    for (size_t r = 0; r < n; r++) acc[r] = from ? _mm512_loadu_ps(out + r * PACKED_BLOCK_PANEL) : _mm512_setzero_ps();
    for (size_t b = 0; b < LAG && b < count; b++) PRODUCT_OF(b);
    for (size_t b = 0; b < count; b++) {
        if (b + LAG < count) PRODUCT_OF(b + LAG);
        __m512 scale_w = _mm512_load_ps(s->scale[b] + SIDE * v), minimum_w = kind == PACKED_Q4M ? _mm512_load_ps(s->minimum[b] + SIDE * v) : _mm512_setzero_ps();
        const int32_t *sum = sums[b % (2 * LAG)];
        for (size_t r = 0; r < n; r++) {
            __m512 scaled = _mm512_mul_ps(scale_w, _mm512_set1_ps(scale[r * blocks + b]));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum + SIDE * r)), scaled, acc[r]);
            if (kind == PACKED_Q4M) acc[r] = _mm512_fmadd_ps(minimum_w, _mm512_set1_ps(total[r * blocks + b]), acc[r]);
        }
    }
    for (size_t r = 0; r < n; r++) _mm512_storeu_ps(out + r * PACKED_BLOCK_PANEL, acc[r]);
}

INLINE struct quant_rows rows_from(const struct quant_rows *x, size_t i, size_t blocks) {
    size_t at = i * blocks;
    return (struct quant_rows){.q = x->q + at * QUANT_BLOCK, .scale = x->scale + at, .correction = x->correction + at, .total = x->total + at};
}

INLINE void blocks_any(const uint8_t *panel, const enum packed_kind kind, quant_block_kernel few, size_t blocks, const struct quant_rows *x, size_t n, float *tile) {
    const size_t size = kind == PACKED_Q8 ? QUANT_Q8_BLOCK_SIZE : kind == PACKED_Q4 ? QUANT_Q4_BLOCK_SIZE : QUANT_Q4M_BLOCK_SIZE;
    size_t left = n < FEWEST ? n : n % SIDE < FEWEST_LEFT ? n % SIDE : 0, tiled = n - left;
    for (size_t i = tiled; i < n; i += QUANT_TILE_ROWS) {
        struct quant_rows rows = rows_from(x, i, blocks);
        few(panel, blocks, &rows, n - i < QUANT_TILE_ROWS ? n - i : QUANT_TILE_ROWS, tile + i * PACKED_BLOCK_PANEL);
    }
    if (!tiled) return;
    struct stretch s;
    for (size_t from = 0; from < blocks; from += STRETCH) {
        size_t count = blocks - from < STRETCH ? blocks - from : STRETCH, i = 0;
        unpack(panel + from * size, kind, size, count, &s);
        if (tiled >= SIDE) configure(SIDE);
        for (; i + SIDE <= tiled; i += SIDE)
            for (size_t v = 0; v < 2; v++) tile_rows(&s, count, kind, from, blocks, x, i, SIDE, v, tile);
        if (i == tiled) continue;
        configure(tiled - i);
        for (size_t v = 0; v < 2; v++) tile_rows(&s, count, kind, from, blocks, x, i, tiled - i, v, tile);
    }
}

static void q8_amx(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q8, quant_q8_avx512, blocks, x, n, tile); }
static void q4_amx(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q4, quant_q4_avx512, blocks, x, n, tile); }
static void q4m_amx(const uint8_t *panel, size_t blocks, const struct quant_rows *x, size_t n, float *tile) { blocks_any(panel, PACKED_Q4M, quant_q4m_avx512, blocks, x, n, tile); }

const struct quant_kernels QUANT_KERNELS_AMX = {.name = "amx", .vectors = "avx512", .usable = usable, .f32 = quant_f32_avx512, .bf16 = quant_bf16_avx512,
                                                .f16 = quant_f16_avx512, .q8 = q8_amx, .q4 = q4_amx, .q4m = q4m_amx,
                                                .block_rows = QUANT_TILE_ROWS_MAX, .quantize = quant_quantize_avx512, .done = done};
#endif
