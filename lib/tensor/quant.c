/* Packing, the C reference of the kernels, and the choice among them. See quant.h for layouts and the promise of equal bits. */
#include "tensor/quant.h"

#include <math.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "tensor/quant_internal.h"

enum { HUGE_PAGE_SIZE = 2 << 20 };
_Static_assert(QUANT_Q8_BLOCK_SIZE % 64 == 0, "a block is whole cache lines");

float quant_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff, bits;
    if (exponent == 31) bits = sign | 0x7f800000u | mantissa << 13;
    else if (exponent != 0) bits = sign | (exponent + 112) << 23 | mantissa << 13;
    else if (mantissa == 0) bits = sign;
    else { /* subnormal in f16, normal in f32 */
        int shift = __builtin_clz(mantissa) - 21;
        bits = sign | (uint32_t)(113 - shift) << 23 | ((mantissa << shift) & 0x3ff) << 13;
    }
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t quant_f16_from_f32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t sign = (bits >> 16) & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds to infinity, or is */
    if (rest < 0x38800000) { /* subnormal or zero: adding 0.5 leaves the rounded mantissa in the low bits */
        float magnitude;
        memcpy(&magnitude, &rest, sizeof magnitude);
        magnitude += 0.5f;
        memcpy(&rest, &magnitude, sizeof rest);
        return (uint16_t)(sign | (rest - 0x3f000000));
    }
    uint32_t rounded = rest + 0xfff + ((rest >> 13) & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000) >> 13));
}

/* --- the reference kernels --- */

static bool always(void) { return true; }

static void f32_c(const float *panel, size_t cols, const float *x, size_t x_stride, size_t n, float *tile) {
    for (size_t i = 0; i < n; i++) {
        float *acc = tile + i * PACKED_F32_PANEL;
        memset(acc, 0, PACKED_F32_PANEL * sizeof *acc);
        for (size_t k = 0; k < cols; k++) {
            float xk = x[i * x_stride + k];
            const float *w = panel + k * PACKED_F32_PANEL;
            for (size_t r = 0; r < PACKED_F32_PANEL; r++) acc[r] = fmaf(xk, w[r], acc[r]);
        }
    }
}

static void q8_c(const uint8_t *panel, size_t blocks, const int8_t *q, const float *scale, const int32_t *correction, size_t n, float *tile) {
    for (size_t i = 0; i < n; i++) {
        float *acc = tile + i * PACKED_Q8_PANEL;
        memset(acc, 0, PACKED_Q8_PANEL * sizeof *acc);
        for (size_t b = 0; b < blocks; b++) {
            const uint8_t *block = panel + b * QUANT_Q8_BLOCK_SIZE;
            const int8_t *qb = q + (i * blocks + b) * QUANT_BLOCK;
            for (size_t r = 0; r < PACKED_Q8_PANEL; r++) {
                int32_t dot = correction[i * blocks + b];
                for (size_t k = 0; k < QUANT_BLOCK; k++) dot += block[(k / 4 * PACKED_Q8_PANEL + r) * 4 + k % 4] * qb[k];
                uint16_t h;
                memcpy(&h, block + QUANT_BLOCK * PACKED_Q8_PANEL + 2 * r, sizeof h);
                acc[r] = fmaf((float)dot, quant_f16_to_f32(h) * scale[i * blocks + b], acc[r]);
            }
        }
    }
}

static void quantize_c(const float *x, size_t cols, int8_t *q, float *scale, int32_t *correction) {
    for (size_t b = 0; b * QUANT_BLOCK < cols; b++, q += QUANT_BLOCK) {
        size_t count = cols - b * QUANT_BLOCK < QUANT_BLOCK ? cols - b * QUANT_BLOCK : QUANT_BLOCK;
        const float *xb = x + b * QUANT_BLOCK;
        float max = 0;
        for (size_t k = 0; k < count; k++) max = fabsf(xb[k]) > max ? fabsf(xb[k]) : max;
        quant_block_scale(max, &scale[b]);
        float inverse = scale[b] > 0 ? 1.0f / scale[b] : 0;
        int32_t sum = 0;
        for (size_t k = 0; k < QUANT_BLOCK; k++) {
            float v = k < count ? rintf(xb[k] * inverse) : 0;
            q[k] = (int8_t)(v > 127 ? 127 : v >= -127 ? v : -127); /* NaN becomes −127, as the vector forms have it */
            sum += q[k];
        }
        correction[b] = -128 * sum;
    }
}

static const struct quant_kernels KERNELS_C = {"c", always, f32_c, q8_c, quantize_c};

const struct quant_kernels *const QUANT_KERNELS[] = {
#ifdef __x86_64__
    &QUANT_KERNELS_AVX512,
    &QUANT_KERNELS_AVX2,
#endif
    &KERNELS_C,
};
const size_t QUANT_KERNELS_COUNT = sizeof QUANT_KERNELS / sizeof *QUANT_KERNELS;

static _Atomic(const struct quant_kernels *) chosen;

const struct quant_kernels *quant_kernels(void) {
    const struct quant_kernels *k = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (k) return k;
    const char *forced = getenv("GENLOOP_KERNELS");
    for (size_t i = 0; i < QUANT_KERNELS_COUNT && !k; i++)
        if (QUANT_KERNELS[i]->usable() && (!forced || strcmp(forced, QUANT_KERNELS[i]->name) == 0)) k = QUANT_KERNELS[i];
    if (!k) /* a name that this CPU or this table does not have: the best there is */
        for (size_t i = 0; i < QUANT_KERNELS_COUNT && !k; i++)
            if (QUANT_KERNELS[i]->usable()) k = QUANT_KERNELS[i];
    atomic_store_explicit(&chosen, k, memory_order_relaxed);
    return k;
}

void quant_kernels_use(const struct quant_kernels *k) { atomic_store_explicit(&chosen, k, memory_order_relaxed); }

/* --- packing --- */

size_t packed_panel_rows(enum packed_kind kind) { return kind == PACKED_F32 ? PACKED_F32_PANEL : PACKED_Q8_PANEL; }

static size_t block_count(size_t cols) { return (cols + QUANT_BLOCK - 1) / QUANT_BLOCK; }

static int panel_bytes(enum packed_kind kind, size_t rows, size_t cols, size_t *panels, size_t *size) {
    if (rows == 0 || cols == 0 || rows > SIZE_MAX / 2 || cols > SIZE_MAX / 2) return E_RANGE;
    *panels = (rows + packed_panel_rows(kind) - 1) / packed_panel_rows(kind);
    bool fits = kind == PACKED_F32 ? size_mul(cols, PACKED_F32_PANEL * sizeof(float), size) : size_mul(block_count(cols), QUANT_Q8_BLOCK_SIZE, size);
    return fits ? 0 : E_RANGE;
}

int packed_size(enum packed_kind kind, size_t rows, size_t cols, size_t *size) {
    size_t panels, one, all;
    if (panel_bytes(kind, rows, cols, &panels, &one) != 0 || !size_mul(panels, one, &all)) return E_RANGE;
    *size = all;
    return 0;
}

int packed_init(struct packed *w, enum packed_kind kind, size_t rows, size_t cols, void *memory) {
    size_t size;
    int r = packed_size(kind, rows, cols, &size);
    if (r != 0) return r;
    ASSERT((uintptr_t)memory % 64 == 0);
    *w = (struct packed){.kind = kind, .rows = rows, .cols = cols, .data = memory};
    return panel_bytes(kind, rows, cols, &w->panels, &w->panel_size);
}

static int fill_f32(const struct packed *w, float *panel, const float *const *rows) {
    float bad = 0; /* stays 0 unless something is not finite: 0 · inf is nan */
    for (size_t k0 = 0; k0 < w->cols; k0 += 16) { /* one cache line of each row at a time */
        size_t k1 = k0 + 16 < w->cols ? k0 + 16 : w->cols;
        for (size_t r = 0; r < PACKED_F32_PANEL; r++)
            for (size_t k = k0; k < k1; k++) {
                float v = rows[r] ? rows[r][k] : 0;
                bad += v * 0;
                panel[k * PACKED_F32_PANEL + r] = v;
            }
    }
    return bad == 0 ? 0 : E_RANGE;
}

static int fill_q8(const struct packed *w, uint8_t *panel, const float *const *rows) {
    for (size_t r = 0; r < PACKED_Q8_PANEL; r++)
        for (size_t b = 0; b < block_count(w->cols); b++) {
            uint8_t *block = panel + b * QUANT_Q8_BLOCK_SIZE;
            size_t from = b * QUANT_BLOCK, count = w->cols - from < QUANT_BLOCK ? w->cols - from : QUANT_BLOCK;
            float max = 0, bad = 0;
            for (size_t k = 0; rows[r] && k < count; k++) {
                bad += rows[r][from + k] * 0;
                max = fabsf(rows[r][from + k]) > max ? fabsf(rows[r][from + k]) : max;
            }
            if (bad != 0 || max > 127.0f * 65504.0f) return E_RANGE; /* bad is nan where a value is not finite: nan != 0 */
            uint16_t h = quant_f16_from_f32(max / 127.0f);
            float scale = quant_f16_to_f32(h), inverse = scale > 0 ? 1.0f / scale : 0;
            for (size_t k = 0; k < QUANT_BLOCK; k++) {
                float v = rows[r] && k < count ? rintf(rows[r][from + k] * inverse) : 0;
                v = v > 127 ? 127 : v < -127 ? -127 : v;
                block[(k / 4 * PACKED_Q8_PANEL + r) * 4 + k % 4] = (uint8_t)((int)v + 128);
            }
            memcpy(block + QUANT_BLOCK * PACKED_Q8_PANEL + 2 * r, &h, sizeof h);
        }
    return 0;
}

int packed_fill(struct packed *w, size_t panel, const float *const rows[PACKED_PANEL_MAX]) {
    ASSERT(panel < w->panels);
    uint8_t *at = w->data + panel * w->panel_size;
    return w->kind == PACKED_F32 ? fill_f32(w, (float *)(void *)at, rows) : fill_q8(w, at, rows);
}

void packed_get_row(const struct packed *w, size_t r, float *out) {
    ASSERT(r < w->rows);
    size_t width = packed_panel_rows(w->kind), in_panel = r % width;
    const uint8_t *panel = w->data + r / width * w->panel_size;
    if (w->kind == PACKED_F32) {
        const float *at = (const float *)(const void *)panel + in_panel;
        for (size_t k = 0; k < w->cols; k++) out[k] = at[k * PACKED_F32_PANEL];
        return;
    }
    for (size_t k = 0; k < w->cols; k++) {
        const uint8_t *block = panel + k / QUANT_BLOCK * QUANT_Q8_BLOCK_SIZE;
        uint16_t h;
        memcpy(&h, block + QUANT_BLOCK * PACKED_Q8_PANEL + 2 * in_panel, sizeof h);
        int q = block[(k % QUANT_BLOCK / 4 * PACKED_Q8_PANEL + in_panel) * 4 + k % 4] - 128;
        out[k] = (float)q * quant_f16_to_f32(h);
    }
}

/* --- the product --- */

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

size_t packed_input_size(enum packed_kind kind, size_t n, size_t cols) {
    if (kind == PACKED_F32) return 0;
    size_t blocks = block_count(cols);
    return align64(n * blocks * QUANT_BLOCK) + align64(n * blocks * sizeof(float)) + align64(n * blocks * sizeof(int32_t));
}

void packed_input_init(struct packed_input *in, enum packed_kind kind, size_t n, size_t cols, const float *x, void *memory) {
    *in = (struct packed_input){.kind = kind, .n = n, .cols = cols, .x = x};
    if (kind == PACKED_F32) return;
    size_t blocks = block_count(cols);
    uint8_t *at = memory;
    in->q = (int8_t *)at;
    in->scale = (float *)(void *)(at + align64(n * blocks * QUANT_BLOCK));
    in->correction = (int32_t *)(void *)((uint8_t *)in->scale + align64(n * blocks * sizeof(float)));
}

void packed_input_row(struct packed_input *in, size_t i) {
    ASSERT(i < in->n);
    if (in->kind == PACKED_F32) return;
    size_t blocks = block_count(in->cols);
    quant_kernels()->quantize(in->x + i * in->cols, in->cols, in->q + i * blocks * QUANT_BLOCK, in->scale + i * blocks,
                              in->correction + i * blocks);
}

void packed_multiply(const struct packed *w, const struct packed_input *in, size_t from, size_t to, const struct packed_output *out) {
    ASSERT(w->kind == in->kind && w->cols == in->cols && to <= w->panels);
    const struct quant_kernels *kernels = quant_kernels();
    size_t width = packed_panel_rows(w->kind), blocks = block_count(w->cols);
    _Alignas(64) float tile[QUANT_TILE_ROWS * PACKED_PANEL_MAX];
    for (size_t p = from; p < to; p++) {
        const uint8_t *panel = w->data + p * w->panel_size;
        size_t first = p * width, count = w->rows - first < width ? w->rows - first : width;
        for (size_t i = 0; i < in->n; i += QUANT_TILE_ROWS) {
            size_t n = in->n - i < QUANT_TILE_ROWS ? in->n - i : QUANT_TILE_ROWS;
            if (w->kind == PACKED_F32) kernels->f32((const float *)(const void *)panel, w->cols, in->x + i * w->cols, w->cols, n, tile);
            else kernels->q8(panel, blocks, in->q + i * blocks * QUANT_BLOCK, in->scale + i * blocks, in->correction + i * blocks, n, tile);
            for (size_t j = 0; j < n; j++) {
                float *y = out->y + (i + j) * out->stride + first;
                float *t = tile + j * width;
                if (out->bias)
                    for (size_t r = 0; r < count; r++) t[r] += out->bias[first + r];
                if (out->add)
                    for (size_t r = 0; r < count; r++) y[r] += t[r];
                else memcpy(y, t, count * sizeof *y);
            }
        }
    }
}

/* --- memory --- */

void *quant_map(size_t size) {
    if (size == 0 || size > SIZE_MAX - 2 * (size_t)HUGE_PAGE_SIZE) return NULL;
    /* Small models stay on small pages: a huge page for 100 KB would be the larger part of what is resident. */
    if (size < HUGE_PAGE_SIZE) {
        void *small = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return small == MAP_FAILED ? NULL : small;
    }
    size_t whole = (size + HUGE_PAGE_SIZE - 1) & ~((size_t)HUGE_PAGE_SIZE - 1);
    uint8_t *base = mmap(NULL, whole + HUGE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return NULL;
    size_t head = (HUGE_PAGE_SIZE - (uintptr_t)base % HUGE_PAGE_SIZE) % HUGE_PAGE_SIZE;
    if (head) munmap(base, head);
    if (head < HUGE_PAGE_SIZE) munmap(base + head + whole, HUGE_PAGE_SIZE - head);
    madvise(base + head, whole, MADV_HUGEPAGE); /* where the system has none, small pages serve */
    return base + head;
}

void quant_unmap(void *memory, size_t size) {
    if (!memory) return;
    size_t whole = size < HUGE_PAGE_SIZE ? size : (size + HUGE_PAGE_SIZE - 1) & ~((size_t)HUGE_PAGE_SIZE - 1);
    munmap(memory, whole);
}
