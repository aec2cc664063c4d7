/* Packing, the product over panels, and the choice of kernels. See quant.h for layouts and the promise of equal bits. */
#include "tensor/quant.h"

#include <math.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "tensor/quant_internal.h"

enum { HUGE_PAGE_SIZE = 2 << 20 };
_Static_assert(QUANT_Q8_BLOCK_SIZE % 64 == 0 && QUANT_Q4_BLOCK_SIZE % 64 == 0 && QUANT_Q4M_BLOCK_SIZE % 64 == 0, "a block is whole cache lines");

const struct quant_kind QUANT_KINDS[PACKED_ALL] = {
    [PACKED_STORED] = {"stored", 0, 0, false},
    [PACKED_F32] = {"f32", PACKED_FLOAT_PANEL, PACKED_FLOAT_PANEL * sizeof(float), false},
    [PACKED_Q8] = {"q8", PACKED_BLOCK_PANEL, QUANT_Q8_BLOCK_SIZE, true},
    [PACKED_BF16] = {"bf16", PACKED_FLOAT_PANEL, PACKED_FLOAT_PANEL * sizeof(uint16_t), false},
    [PACKED_F16] = {"f16", PACKED_FLOAT_PANEL, PACKED_FLOAT_PANEL * sizeof(uint16_t), false},
    [PACKED_Q4] = {"q4", PACKED_BLOCK_PANEL, QUANT_Q4_BLOCK_SIZE, true},
    [PACKED_Q4M] = {"q4m", PACKED_BLOCK_PANEL, QUANT_Q4M_BLOCK_SIZE, true},
    [PACKED_SPLIT] = {"split", PACKED_FLOAT_PANEL, PACKED_FLOAT_PANEL * sizeof(uint32_t), false},
    [PACKED_SHORT] = {"short", PACKED_FLOAT_PANEL, 0, false},
};

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

/* --- the choice --- */

const struct quant_kernels *const QUANT_KERNELS[] = {
#ifdef __x86_64__
    &QUANT_KERNELS_AMX,
    &QUANT_KERNELS_AVX512BF16,
    &QUANT_KERNELS_AVX512,
    &QUANT_KERNELS_AVXVNNI,
    &QUANT_KERNELS_AVX2,
#endif
    &QUANT_KERNELS_C,
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

const char *packed_kind_name(enum packed_kind kind) { return QUANT_KINDS[kind].name; }
int packed_kind_find(const char *name, enum packed_kind *kind, struct error *err) {
    for (enum packed_kind k = PACKED_STORED; k < PACKED_KINDS; k++)
        if (strcmp(QUANT_KINDS[k].name, name) == 0) {
            *kind = k;
            return 0;
        }
    return error_set(err, E_INVALID, "\"%.20s\" is no kind of weights: stored (as the model has them), f32, bf16, f16, q8, q4 or q4m", name);
}
bool packed_kind_is_blocks(enum packed_kind kind) { return QUANT_KINDS[kind].blocks; }
size_t packed_panel_rows(enum packed_kind kind) { return QUANT_KINDS[kind].panel_rows; }

static quant_rows_kernel rows_kernel(enum packed_kind kind) {
    const struct quant_kernels *kernels = quant_kernels();
    return kind == PACKED_F32 ? kernels->f32_rows : kind == PACKED_BF16 ? kernels->bf16_rows : kind == PACKED_F16 ? kernels->f16_rows : kind == PACKED_SHORT ? kernels->short_rows : NULL;
}
size_t packed_tile_rows(enum packed_kind kind) {
    if (QUANT_KINDS[kind].blocks) return quant_kernels()->block_rows;
    return kind == PACKED_SHORT || rows_kernel(kind) ? QUANT_TILE_ROWS_MAX / QUANT_TILE_ROWS * QUANT_TILE_ROWS : QUANT_TILE_ROWS;
}

size_t packed_unit_rows(enum packed_kind kind) {
    if (quant_in_lanes(kind) && quant_kernels()->tiles) return QUANT_SIDE;
    return QUANT_KINDS[kind].blocks ? quant_kernels()->block_unit : QUANT_TILE_ROWS;
}

static int panel_bytes(enum packed_kind kind, size_t rows, size_t cols, size_t *panels, size_t *size) {
    ASSERT(kind > PACKED_STORED && kind < PACKED_ALL);
    if (rows == 0 || cols == 0 || rows > SIZE_MAX / 2 || cols > SIZE_MAX / 2) return E_RANGE;
    *panels = (rows + packed_panel_rows(kind) - 1) / packed_panel_rows(kind);
    if (kind == PACKED_SHORT) return quant_short_panel(cols, size);
    return size_mul(QUANT_KINDS[kind].blocks ? quant_block_count(cols) : quant_in_lanes(kind) ? quant_block_count(cols) * QUANT_BLOCK : cols, QUANT_KINDS[kind].unit, size) ? 0 : E_RANGE;
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

static float half_at(const uint8_t *at) {
    uint16_t h;
    memcpy(&h, at, sizeof h);
    return quant_f16_to_f32(h);
}

static float bf16_at(const uint8_t *at) {
    uint16_t h;
    memcpy(&h, at, sizeof h);
    return quant_bf16_to_f32(h);
}

/* Row r of a block, before its scale: four columns lie together. */
static void block_row(const uint8_t *block, enum packed_kind kind, size_t r, int q[QUANT_BLOCK]) {
    for (size_t group = 0; group < QUANT_BLOCK / (kind == PACKED_Q8 ? 4 : 8); group++) {
        const uint8_t *four = block + (group * PACKED_BLOCK_PANEL + r) * 4;
        for (size_t k = 0; k < 4; k++) {
            if (kind == PACKED_Q8) q[group * 4 + k] = four[k] - 128;
            else {
                q[group * 4 + k] = (four[k] & 15) - (kind == PACKED_Q4 ? 8 : 0);
                q[QUANT_BLOCK / 2 + group * 4 + k] = (four[k] >> 4) - (kind == PACKED_Q4 ? 8 : 0);
            }
        }
    }
}

void packed_get_row(const struct packed *w, size_t row, float *out) {
    ASSERT(row < w->rows);
    size_t width = packed_panel_rows(w->kind), r = row % width, unit = QUANT_KINDS[w->kind].unit;
    const uint8_t *panel = w->data + row / width * w->panel_size;
    if (w->kind == PACKED_SHORT) {
        quant_short_row(panel, w->cols, r, out);
        return;
    }
    if (!QUANT_KINDS[w->kind].blocks) {
        for (size_t k = 0; k < w->cols; k++) {
            if (w->kind == PACKED_F32) memcpy(&out[k], panel + k * unit + r * sizeof(float), sizeof(float));
            else if (w->kind == PACKED_F16) out[k] = half_at(panel + quant_half_place(PACKED_F16, w->cols, r, k));
            else out[k] = bf16_at(panel + quant_half_place(w->kind, w->cols, r, k));
            if (w->kind == PACKED_SPLIT) out[k] += bf16_at(panel + quant_half_place(w->kind, w->cols, r, k) + QUANT_SPLIT_LOW);
        }
        return;
    }
    for (size_t b = 0; b < quant_block_count(w->cols); b++) {
        const uint8_t *block = panel + b * unit;
        float scale = half_at(block + (w->kind == PACKED_Q8 ? QUANT_Q8_SCALES : QUANT_Q4_SCALES) + 2 * r);
        float minimum = w->kind == PACKED_Q4M ? half_at(block + QUANT_Q4_MINIMA + 2 * r) : 0;
        size_t count = w->cols - b * QUANT_BLOCK < QUANT_BLOCK ? w->cols - b * QUANT_BLOCK : QUANT_BLOCK;
        int q[QUANT_BLOCK];
        block_row(block, w->kind, r, q);
        for (size_t k = 0; k < count; k++) out[b * QUANT_BLOCK + k] = (float)q[k] * scale + minimum;
    }
}

int packed_activations_find(const char *name, enum packed_activations *activations, struct error *err) {
    static const char *const names[PACKED_ACTIVATIONS] = {[PACKED_INT8] = "int8", [PACKED_INT16] = "int16"};
    for (enum packed_activations a = 0; a < PACKED_ACTIVATIONS; a++)
        if (strcmp(names[a], name) == 0) {
            *activations = a;
            return 0;
        }
    return error_set(err, E_INVALID, "\"%.20s\" is no kind of activations: int8 or int16", name);
}

/* --- the product --- */

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

/* What this CPU makes of it. */
static struct packed_form form_here(struct packed_form form) {
    if (!quant_kernels()->tiles) return (struct packed_form){.terms = form.terms};
    if (quant_kernels()->tiles_of_blocks) form.low = form.halves || form.terms > 1;
    else form.low &= form.halves;
    if (!form.terms || !quant_kernels()->tiles_of_blocks) form.read = 0;
    return form;
}

bool packed_form_any(struct packed_form form) { return form.terms || form_here(form).halves; }

bool packed_form_reads_apart(struct packed_form form) { return form.terms && quant_kernels()->tiles_of_blocks; }

/* Of one part of x in tiles of bf16. */
static size_t halves_size(size_t n, size_t cols) { return (n + QUANT_ROWS_BEHIND) / QUANT_SIDE * QUANT_SIDE * quant_block_count(cols) * QUANT_BLOCK * sizeof(uint16_t); }

size_t packed_input_size(struct packed_form form, size_t n, size_t cols) {
    size_t blocks = n * form.terms * quant_block_count(cols), behind = QUANT_ROWS_BEHIND * quant_block_count(cols), size = 0;
    form.read = n;
    form = form_here(form);
    if (form.terms) size = align64((blocks + behind) * QUANT_BLOCK) + align64(blocks * QUANT_BLOCK * sizeof(int16_t)) + 3 * align64(blocks * sizeof(float));
    return size + (form.halves || form.read > 0 ? 1 + form.low : 0) * halves_size(n, cols);
}

void packed_input_init(struct packed_input *in, struct packed_form form, size_t n, size_t cols, const float *x, void *memory) {
    ASSERT(form.terms <= PACKED_TERMS_MAX && form.read <= n);
    form = form_here(form);
    *in = (struct packed_input){.terms = form.terms, .halves = form.halves, .read = form.read, .n = n, .cols = cols, .x = x};
    uint8_t *at = memory;
    if (form.terms) {
        size_t count = n * form.terms * quant_block_count(cols);
        in->q = (int8_t *)at;
        at += align64((count + QUANT_ROWS_BEHIND * quant_block_count(cols)) * QUANT_BLOCK);
        if (quant_kernels()->widen) in->wide = (int16_t *)(void *)at;
        at += align64(count * QUANT_BLOCK * sizeof(int16_t));
        in->scale = (float *)(void *)at;
        at += align64(count * sizeof(float));
        in->correction = (int32_t *)(void *)at;
        at += align64(count * sizeof(int32_t));
        in->total = (float *)(void *)at;
        at += align64(count * sizeof(float));
    }
    if (form.halves || form.read > 0) in->high = (uint16_t *)(void *)at;
    if (form.low && in->high) in->low = (uint16_t *)(void *)(at + halves_size(n, cols));
}

/* x [cols] into the blocks from `first` on. */
static void quantize(struct packed_input *in, const float *x, size_t cols, size_t first) {
    const struct quant_kernels *kernels = quant_kernels();
    kernels->quantize(x, cols, in->q + first * QUANT_BLOCK, in->scale + first, in->correction + first, in->total + first);
    if (in->wide) kernels->widen(in->q + first * QUANT_BLOCK, quant_block_count(cols), in->wide + first * QUANT_BLOCK);
}

/* n columns from block `from` on of row i into its lines of tiles. */
static void halve(struct packed_input *in, const float *x, size_t i, size_t from, size_t n) {
    const size_t side = QUANT_SIDE;
    size_t line = (i / side * quant_block_count(in->cols) + from) * side + i % side;
    for (size_t k = 0; k < n; k += QUANT_BLOCK, line += side)
        quant_kernels()->halve(x + k, n - k < QUANT_BLOCK ? n - k : QUANT_BLOCK, in->high + line * QUANT_BLOCK, in->low ? in->low + line * QUANT_BLOCK : NULL);
}

void packed_input_values(struct packed_input *in, size_t i, size_t from, size_t to, const float *x) {
    ASSERT(i < in->n && to <= quant_block_count(in->cols));
    if (from >= to) return;
    size_t blocks = quant_block_count(in->cols), first = i * in->terms * blocks + from, end = to * QUANT_BLOCK < in->cols ? to * QUANT_BLOCK : in->cols, count = end - from * QUANT_BLOCK;
    if (in->halves || i < in->read) halve(in, x, i, from, count);
    if (!in->terms || i < in->read) return;
    quantize(in, x, count, first);
    for (size_t k = 0; in->terms > 1 && k < count; k += QUANT_BLOCK, first++) {
        float rest[QUANT_BLOCK];
        size_t n = count - k < QUANT_BLOCK ? count - k : QUANT_BLOCK;
        for (size_t j = 0; j < n; j++) rest[j] = x[k + j] - (float)in->q[first * QUANT_BLOCK + j] * in->scale[first];
        quantize(in, rest, n, first + blocks);
    }
}

void packed_input_blocks(struct packed_input *in, size_t i, size_t from, size_t to) { packed_input_values(in, i, from, to, in->x + i * in->cols + from * QUANT_BLOCK); }

void packed_input_row(struct packed_input *in, size_t i) { packed_input_blocks(in, i, 0, quant_block_count(in->cols)); }

static void multiply_tile(const struct packed *w, const struct packed_input *in, const uint8_t *panel, size_t i, size_t n, float *tile) {
    const struct quant_kernels *kernels = quant_kernels();
    if (w->kind == PACKED_SHORT) {
        quant_short_multiply(panel, w->cols, in->x + i * w->cols, n, tile);
        return;
    }
    if (!QUANT_KINDS[w->kind].blocks) {
        quant_float_kernel fn = w->kind == PACKED_F32 ? kernels->f32 : w->kind == PACKED_BF16 ? kernels->bf16 : kernels->f16;
        fn(panel, w->cols, in->x + i * w->cols, w->cols, n, false, tile);
        return;
    }
    size_t blocks = quant_block_count(w->cols), first = i * blocks;
    struct quant_rows x = {in->q + first * QUANT_BLOCK, in->wide ? in->wide + first * QUANT_BLOCK : NULL, in->scale + first, in->correction + first, in->total + first};
    quant_block_kernel fn = w->kind == PACKED_Q8 ? kernels->q8 : w->kind == PACKED_Q4 ? kernels->q4 : kernels->q4m;
    fn(panel, blocks, &x, n, tile);
}

/* packed_multiply_rows where a row of x is two: apart, since the loop of the one is what decoding waits for. */
static __attribute__((noinline)) void multiply_terms(const struct packed *w, const struct packed_input *in, size_t first_row, size_t rows, size_t from, size_t to,
                                                     const struct packed_output *out) {
    size_t width = packed_panel_rows(w->kind), terms = in->terms, step = packed_tile_rows(w->kind) / terms;
    _Alignas(64) float tile[QUANT_TILE_ROWS_MAX * PACKED_PANEL_MAX];
    for (size_t p = from; p < to; p++) {
        size_t first = p * width, count = w->rows - first < width ? w->rows - first : width, at = first - from * width;
        for (size_t i = 0; i < rows; i += step) {
            size_t n = rows - i < step ? rows - i : step;
            multiply_tile(w, in, w->data + p * w->panel_size, (first_row + i) * terms, n * terms, tile);
            for (size_t j = 0; j < n; j++) {
                float *y = out->y + (i + j) * out->stride + at, *t = tile + j * terms * width;
                for (size_t r = 0; r < count; r++) {
                    float v = t[r] + t[width + r];
                    if (out->bias) v += out->bias[at + r];
                    y[r] = out->add ? y[r] + v : v;
                }
            }
        }
    }
    if (quant_kernels()->done) quant_kernels()->done();
}

/* How many of these rows, the first ones, are multiplied in tiles of bf16. */
static size_t rows_in_tiles(const struct packed *w, const struct packed_input *in, size_t first, size_t rows) {
    if (quant_in_lanes(w->kind)) return in->halves ? rows : 0;
    if (!QUANT_KINDS[w->kind].blocks || first >= in->read) return 0;
    return rows < in->read - first ? rows : in->read - first;
}

bool packed_needs_values(const struct packed *w, const struct packed_input *in, size_t i) { return !QUANT_KINDS[w->kind].blocks && rows_in_tiles(w, in, i, 1) == 0; }

size_t packed_rows_at_once(const struct packed *w, const struct packed_input *in, size_t row) {
    size_t tiled = rows_in_tiles(w, in, row, in->n - row);
    return tiled == 0 ? packed_tile_rows(w->kind) : tiled < PACKED_ROWS_AT_ONCE ? tiled : PACKED_ROWS_AT_ONCE;
}

bool packed_input_is_long(const struct packed *w, const struct packed_input *in) { return rows_in_tiles(w, in, 0, in->n) >= QUANT_TILE_ROWS_MAX; }

void packed_multiply_rows(const struct packed *w, const struct packed_input *in, size_t first_row, size_t rows, size_t from, size_t to,
                          const struct packed_output *out) {
    ASSERT(w->cols == in->cols && to <= w->panels && first_row + rows <= in->n && (in->terms || !QUANT_KINDS[w->kind].blocks) && (in->halves || w->kind != PACKED_SPLIT));
    struct packed_output behind;
    size_t tiled = rows_in_tiles(w, in, first_row, rows);
    if (tiled > 0) {
        quant_kernels()->tiles(w, &(struct quant_halves){in->high, in->low, quant_block_count(in->cols), in->terms > 1}, first_row, tiled, from, to, out);
        if (tiled == rows) return;
        first_row += tiled;
        rows -= tiled;
        behind = (struct packed_output){.y = out->y + tiled * out->stride, .stride = out->stride, .bias = out->bias, .add = out->add};
        out = &behind;
    }
    if (QUANT_KINDS[w->kind].blocks && in->terms > 1) {
        multiply_terms(w, in, first_row, rows, from, to, out);
        return;
    }
    size_t width = packed_panel_rows(w->kind), tile_rows = QUANT_KINDS[w->kind].blocks ? packed_tile_rows(w->kind) : w->kind == PACKED_SHORT ? QUANT_TILE_ROWS_MAX : QUANT_TILE_ROWS;
    quant_rows_kernel many = rows >= quant_kernels()->many_rows ? rows_kernel(w->kind) : NULL;
    _Alignas(64) float tile[QUANT_TILE_ROWS_MAX * PACKED_PANEL_MAX];
    for (size_t p = from; p < to; p++) {
        const uint8_t *panel = w->data + p * w->panel_size;
        size_t first = p * width, count = w->rows - first < width ? w->rows - first : width, at = first - from * width;
        if (many) {
            many(panel, w->cols, in->x + first_row * w->cols, rows, &(struct packed_output){.y = out->y + at, .stride = out->stride, .bias = out->bias ? out->bias + at : NULL, .add = out->add}, count);
            continue;
        }
        for (size_t i = 0; i < rows; i += tile_rows) {
            size_t n = rows - i < tile_rows ? rows - i : tile_rows;
            multiply_tile(w, in, panel, first_row + i, n, tile);
            for (size_t j = 0; j < n; j++) {
                float *restrict y = out->y + (i + j) * out->stride + at;
                float *restrict t = tile + j * width;
                if (out->bias)
                    for (size_t r = 0; r < count; r++) t[r] += out->bias[at + r];
                if (out->add)
                    for (size_t r = 0; r < count; r++) y[r] += t[r];
                else memcpy(y, t, count * sizeof *y);
            }
        }
    }
    if (quant_kernels()->done) quant_kernels()->done();
}

void packed_multiply(const struct packed *w, const struct packed_input *in, size_t from, size_t to, const struct packed_output *out) {
    size_t first = from * packed_panel_rows(w->kind);
    packed_multiply_rows(w, in, 0, in->n, from, to, &(struct packed_output){.y = out->y + first, .stride = out->stride, .bias = out->bias ? out->bias + first : NULL, .add = out->add});
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
