/* Packed products: every kernel gives the bits of the C reference, on random and extreme values, in any tiling; and they are right. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "tensor/quant.h"

enum values { NORMAL, TINY, LARGE, ZEROS, SPIKES, EQUAL };
static const char *const VALUES[] = {"normal", "tiny", "large", "zeros", "spikes", "equal"};

static void fill(float *x, size_t n, enum values kind, struct random *r) {
    for (size_t i = 0; i < n; i++) {
        float v = (float)random_normal(r);
        x[i] = kind == TINY    ? v * 1e-36f
               : kind == LARGE ? v * 1e6f
               : kind == ZEROS ? 0
               : kind == SPIKES ? (random_below(r, 50) == 0 ? v * 1e4f : v * 1e-4f)
               : kind == EQUAL ? -3.5f
                               : v;
    }
}

/* Of those that take any input. */
static enum packed_kind next_kind(enum packed_kind kind) { return kind + 1 == PACKED_SPLIT ? PACKED_SHORT : kind + 1; }

struct matrix {
    struct packed w;
    void *memory;
    size_t size;
};
static void free_matrix(struct matrix *m) { quant_unmap(m->memory, m->size); }
static int try_pack(struct matrix *m, enum packed_kind kind, size_t rows, size_t cols, const float *values) {
    assert_int_equal(packed_size(kind, rows, cols, &m->size), 0);
    m->memory = quant_map(m->size);
    assert_non_null(m->memory);
    assert_int_equal(packed_init(&m->w, kind, rows, cols, m->memory), 0);
    size_t width = packed_panel_rows(kind);
    for (size_t p = 0; p < m->w.panels; p++) {
        const void *at[PACKED_PANEL_MAX] = {0};
        for (size_t i = 0; i < width && p * width + i < rows; i++) at[i] = values + (p * width + i) * cols;
        int r = packed_fill(&m->w, p, TENSOR_F32, at);
        if (r != 0) {
            free_matrix(m);
            return r;
        }
    }
    return 0;
}
/* What does not fit `short` is bf16. */
static void pack(struct matrix *m, enum packed_kind kind, size_t rows, size_t cols, const float *values) {
    int r = try_pack(m, kind, rows, cols, values);
    if (kind == PACKED_SHORT && r == E_FULL) r = try_pack(m, PACKED_BF16, rows, cols, values);
    assert_int_equal(r, 0);
}

static uint32_t terms = 1; /* of x for products of blocks from here on */
static void product(const struct matrix *m, size_t n, const float *x, float *y) {
    struct packed_form of_x = {.terms = packed_kind_is_blocks(m->w.kind) ? terms : 0};
    size_t size = packed_input_size(of_x, n, m->w.cols);
    void *memory = mem_alloc_aligned(size + 64);
    struct packed_input in;
    packed_input_init(&in, of_x, n, m->w.cols, x, memory);
    for (size_t i = 0; i < n; i++) packed_input_row(&in, i);
    packed_multiply(&m->w, &in, 0, m->w.panels, &(struct packed_output){.y = y, .stride = m->w.rows});
    mem_free(memory);
}

static const struct {
    size_t rows, cols, n;
} SHAPES[] = {{1, 1, 1}, {64, 64, 1}, {65, 33, 2}, {31, 7, 5}, {96, 160, 6}, {130, 100, 7}, {200, 257, 13}, {33, 1024, 3}, {128, 32, 30}, {320, 64, 4}, {40, 900, 37}, {70, 96, 82},
             {70, 50, 97}, {81, 801, 25}, {128, 385, 29}};

static void kernels_equal_reference(enum packed_kind from) {
    const struct quant_kernels *c = QUANT_KERNELS[QUANT_KERNELS_COUNT - 1];
    assert_string_equal(c->name, "c");
    for (enum packed_kind kind = from; kind < PACKED_ALL; kind = next_kind(kind))
        for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++)
            for (enum values v = NORMAL; v <= EQUAL; v++) {
                size_t rows = SHAPES[s].rows, cols = SHAPES[s].cols, n = SHAPES[s].n;
                struct random r;
                random_seed2(&r, s, v);
                float *w = mem_calloc(rows * cols, sizeof *w), *x = mem_calloc(n * cols, sizeof *x);
                float *want = mem_calloc(n * rows, sizeof *want), *got = mem_calloc(n * rows, sizeof *got), *alone = mem_calloc(rows, sizeof *alone);
                fill(w, rows * cols, v == LARGE ? NORMAL : v, &r);
                fill(x, n * cols, v, &r);
                struct matrix m;
                pack(&m, kind, rows, cols, w);
                quant_kernels_use(c);
                product(&m, n, x, want);
                for (size_t k = 0; k < QUANT_KERNELS_COUNT; k++) {
                    if (!QUANT_KERNELS[k]->usable()) continue;
                    quant_kernels_use(QUANT_KERNELS[k]);
                    product(&m, n, x, got);
                    if (memcmp(got, want, n * rows * sizeof *got) != 0)
                        fail_msg("%s differs from the reference: kind %d, shape %zu, %s", QUANT_KERNELS[k]->name, kind, s, VALUES[v]);
                    for (size_t i = 0; i < n; i++) { /* a row alone gives the bits that it gives among others */
                        product(&m, 1, x + i * cols, alone);
                        if (memcmp(alone, got + i * rows, rows * sizeof *alone) != 0)
                            fail_msg("%s: row %zu alone differs: kind %d, shape %zu, %s", QUANT_KERNELS[k]->name, i, kind, s, VALUES[v]);
                    }
                }
                quant_kernels_use(NULL);
                free_matrix(&m);
                mem_free(w);
                mem_free(x);
                mem_free(want);
                mem_free(got);
                mem_free(alone);
            }
}

static void test_kernels_equal_reference(void **state) {
    (void)state;
    kernels_equal_reference(PACKED_F32);
    terms = 2;
    kernels_equal_reference(PACKED_Q8);
    terms = 1;
}

/* Tiles take as many rows as x has, and a few blocks at a time: each number of either, whose rows are those of the reference, and nothing is written behind them. */
static void test_any_number_of_rows_and_blocks(void **state) {
    (void)state;
    enum { ROWS = 40, BLOCKS = 9, N = QUANT_TILE_ROWS_MAX + 3, BEHIND = 16 };
    struct random r;
    random_seed(&r, 11);
    float *w = mem_calloc(ROWS * BLOCKS * QUANT_BLOCK, sizeof *w), *x = mem_calloc(N * BLOCKS * QUANT_BLOCK, sizeof *x), *want = mem_calloc(N * ROWS, sizeof *want), *got = mem_calloc((N + BEHIND) * ROWS, sizeof *got),
          untouched[BEHIND * ROWS];
    memset(untouched, 0x55, sizeof untouched);
    for (enum packed_kind kind = PACKED_Q8; kind <= PACKED_Q4M; kind++)
        for (size_t blocks = 1; blocks <= BLOCKS; blocks++) {
            size_t cols = blocks * QUANT_BLOCK;
            fill(w, ROWS * cols, NORMAL, &r);
            fill(x, N * cols, blocks % 3 ? NORMAL : SPIKES, &r);
            struct matrix m;
            pack(&m, kind, ROWS, cols, w);
            quant_kernels_use(QUANT_KERNELS[QUANT_KERNELS_COUNT - 1]);
            product(&m, N, x, want);
            for (size_t k = 0; k < QUANT_KERNELS_COUNT; k++) {
                if (!QUANT_KERNELS[k]->usable()) continue;
                quant_kernels_use(QUANT_KERNELS[k]);
                for (size_t n = 1; n <= N; n++) {
                    memset(got, 0x55, (N + BEHIND) * ROWS * sizeof *got);
                    product(&m, n, x, got);
                    if (memcmp(got, want, n * ROWS * sizeof *got) != 0) fail_msg("%s differs from the reference: kind %d, %zu rows, %zu blocks", QUANT_KERNELS[k]->name, kind, n, blocks);
                    if (memcmp(got + n * ROWS, untouched, BEHIND * ROWS * sizeof *got) != 0) fail_msg("%s wrote behind %zu rows: kind %d, %zu blocks", QUANT_KERNELS[k]->name, n, kind, blocks);
                }
            }
            quant_kernels_use(NULL);
            free_matrix(&m);
        }
    mem_free(w);
    mem_free(x);
    mem_free(want);
    mem_free(got);
}

/* What is lost of x alone, W taken as its blocks have it: half a step of absmax / 127 a value, and with the rest half a step of the 254th part of that. Piece by piece gives the same. */
static void test_what_is_lost_of_x(void **state) {
    (void)state;
    enum { ROWS = 40, COLS = 208, N = 17 };
    float w[ROWS * COLS], x[N * COLS], y[N * ROWS], pieces[N * ROWS], row[COLS];
    struct random r;
    random_seed(&r, 6);
    fill(w, ROWS * COLS, NORMAL, &r);
    fill(x, N * COLS, NORMAL, &r);
    for (enum packed_kind kind = PACKED_Q8; kind <= PACKED_Q4M; kind++) {
        struct matrix m;
        double worst[2] = {0};
        pack(&m, kind, ROWS, COLS, w);
        for (uint32_t with = 0; with < 2; with++) {
            terms = with + 1;
            product(&m, N, x, y);
            for (size_t o = 0; o < ROWS; o++) {
                packed_get_row(&m.w, o, row);
                for (size_t i = 0; i < N; i++) {
                    double want = 0, bound = 1e-5;
                    for (size_t b = 0; b < COLS; b += QUANT_BLOCK) {
                        float most = 0;
                        for (size_t k = b; k < COLS && k < b + QUANT_BLOCK; k++) most = fmaxf(most, fabsf(x[i * COLS + k]));
                        for (size_t k = b; k < COLS && k < b + QUANT_BLOCK; k++) {
                            want += (double)row[k] * (double)x[i * COLS + k];
                            bound += fabs((double)row[k]) * (double)most / 127 * 0.51 / (with ? 254 : 1);
                        }
                    }
                    double off = fabs((double)y[i * ROWS + o] - want);
                    worst[with] = fmax(worst[with], off);
                    if (off > bound) fail_msg("kind %d, rest %u: row %zu of x, %zu of W: off by %g, %g at most", kind, with, i, o, off, bound);
                }
            }
        }
        assert_true(worst[0] > 100 * worst[1]);
        struct packed_input in;
        void *memory = mem_alloc_aligned(packed_input_size((struct packed_form){.terms = 2}, N, COLS));
        packed_input_init(&in, (struct packed_form){.terms = 2}, N, COLS, x, memory);
        for (size_t b = 0; b < (COLS + QUANT_BLOCK - 1) / QUANT_BLOCK; b++)
            for (size_t i = 0; i < N; i++) packed_input_blocks(&in, i, b, b + 1);
        packed_multiply(&m.w, &in, 0, m.w.panels, &(struct packed_output){.y = pieces, .stride = ROWS});
        assert_memory_equal(pieces, y, sizeof y);
        mem_free(memory);
        free_matrix(&m);
    }
    terms = 1;
    enum packed_activations a;
    struct error err;
    assert_int_equal(packed_activations_find("int16", &a, &err), 0);
    assert_int_equal(a, PACKED_INT16);
    assert_int_equal(packed_activations_find("f32", &a, &err), E_INVALID);
    assert_non_null(strstr(err.message, "int8 or int16"));
}

/* Against f64: each kind within what its rounding loses, of W and, where x is quantized too, of x. */
static void test_products_are_right(void **state) {
    (void)state;
    for (enum packed_kind kind = PACKED_F32; kind < PACKED_ALL; kind = next_kind(kind))
        for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++) {
            size_t rows = SHAPES[s].rows, cols = SHAPES[s].cols, n = SHAPES[s].n;
            struct random r;
            random_seed(&r, s + 7);
            float *w = mem_calloc(rows * cols, sizeof *w), *x = mem_calloc(n * cols, sizeof *x), *y = mem_calloc(n * rows, sizeof *y);
            fill(w, rows * cols, NORMAL, &r);
            fill(x, n * cols, NORMAL, &r);
            struct matrix m;
            pack(&m, kind, rows, cols, w);
            product(&m, n, x, y);
            for (size_t i = 0; i < n; i++)
                for (size_t o = 0; o < rows; o++) {
                    double want = 0, size = 0;
                    for (size_t k = 0; k < cols; k++) {
                        want += (double)w[o * cols + k] * (double)x[i * cols + k];
                        size += fabs((double)w[o * cols + k] * (double)x[i * cols + k]);
                    }
                    double root = size / sqrt((double)cols); /* what is lost at random grows with the root of the length */
                    double tolerance = kind == PACKED_F32    ? 1e-6 * size + 1e-7
                                       : kind == PACKED_F16  ? 6e-4 * size + 1e-6
                                       : kind == PACKED_BF16 || kind == PACKED_SHORT ? 4e-3 * size + 1e-5
                                       : kind == PACKED_Q8   ? 0.06 * root + 0.05
                                                             : 0.9 * root + 0.7;
                    if (fabs((double)y[i * rows + o] - want) > tolerance)
                        fail_msg("kind %d shape %zu [%zu,%zu]: %g, should be %g within %g", kind, s, i, o, (double)y[i * rows + o], want, tolerance);
                }
            free_matrix(&m);
            mem_free(w);
            mem_free(x);
            mem_free(y);
        }
}

static void test_rows_come_back(void **state) {
    (void)state;
    enum { ROWS = 70, COLS = 50 };
    float w[ROWS * COLS], row[COLS];
    struct random r;
    random_seed(&r, 3);
    fill(w, ROWS * COLS, NORMAL, &r);
    for (enum packed_kind kind = PACKED_F32; kind < PACKED_ALL; kind = next_kind(kind)) {
        struct matrix m;
        pack(&m, kind, ROWS, COLS, w);
        for (size_t i = 0; i < ROWS; i++) {
            packed_get_row(&m.w, i, row);
            for (size_t k = 0; k < COLS; k++) {
                float max = 0; /* of the block: half a step of it is what q8 may lose, and a little of the scale's own rounding */
                for (size_t b = k / 32 * 32; b < COLS && b < k / 32 * 32 + 32; b++) max = fmaxf(max, fabsf(w[i * COLS + b]));
                const float lost[PACKED_ALL] = {[PACKED_SHORT] = 1.0f / 256, [PACKED_F16] = 1.0f / 2048, [PACKED_BF16] = 1.0f / 256, [PACKED_Q8] = 0.57f / 127, [PACKED_Q4] = 1.02f / 8, [PACKED_Q4M] = 1.1f / 15};
                assert_true(fabsf(row[k] - w[i * COLS + k]) <= max * lost[kind]);
            }
        }
        free_matrix(&m);
    }
}

static void test_bias_add_and_panels(void **state) {
    (void)state;
    enum { ROWS = 150, COLS = 40, N = 9 };
    float w[ROWS * COLS], x[N * COLS], bias[ROWS], plain[N * ROWS], y[N * ROWS];
    struct random r;
    random_seed(&r, 4);
    fill(w, ROWS * COLS, NORMAL, &r);
    fill(x, N * COLS, NORMAL, &r);
    fill(bias, ROWS, NORMAL, &r);
    struct matrix m;
    pack(&m, PACKED_F32, ROWS, COLS, w);
    product(&m, N, x, plain);
    for (size_t i = 0; i < N * ROWS; i++) y[i] = 10;
    struct packed_input in;
    packed_input_init(&in, (struct packed_form){0}, N, COLS, x, NULL);
    for (size_t p = 0; p < m.w.panels; p++) /* one panel after the other, as threads take them */
        packed_multiply(&m.w, &in, p, p + 1, &(struct packed_output){.y = y, .stride = ROWS, .bias = bias, .add = true});
    for (size_t i = 0; i < N * ROWS; i++) assert_true(y[i] == 10 + (plain[i] + bias[i % ROWS]));
    free_matrix(&m);
}

/* Many rows take another way than few: bias, addition and a stride of their own come out the same, and nothing beyond is written. */
static void test_many_rows_are_each_alone(void **state) {
    (void)state;
    enum { ROWS = 147, COLS = 400, N = 101, FIRST = 2, STRIDE = ROWS + 5 };
    struct random r;
    random_seed(&r, 5);
    float *w = mem_calloc(ROWS * COLS, sizeof *w), *x = mem_calloc(N * COLS, sizeof *x), *y = mem_calloc(N * STRIDE, sizeof *y), *one = mem_calloc(STRIDE, sizeof *one), bias[ROWS];
    fill(w, ROWS * COLS, NORMAL, &r);
    fill(x, N * COLS, NORMAL, &r);
    fill(bias, ROWS, NORMAL, &r);
    for (enum packed_kind kind = PACKED_F32; kind <= PACKED_F16; kind++)
        for (int form = 0; form < 4; form++) {
            struct matrix m;
            struct packed_input in;
            pack(&m, kind, ROWS, COLS, w);
            packed_input_init(&in, (struct packed_form){0}, N, COLS, x, NULL);
            struct packed_output out = {.y = y, .stride = STRIDE, .bias = form & 1 ? bias : NULL, .add = form & 2};
            for (size_t i = 0; i < N * STRIDE; i++) y[i] = (float)(i % 7);
            packed_multiply_rows(&m.w, &in, FIRST, N - FIRST, 0, m.w.panels, &out);
            for (size_t i = 0; i < N - FIRST; i++) {
                for (size_t k = 0; k < STRIDE; k++) one[k] = (float)((i * STRIDE + k) % 7);
                out.y = one;
                packed_multiply_rows(&m.w, &in, FIRST + i, 1, 0, m.w.panels, &out);
                if (memcmp(one, y + i * STRIDE, STRIDE * sizeof *y) != 0) fail_msg("kind %d, form %d: row %zu differs from what it is alone", kind, form, i);
            }
            for (size_t k = (N - FIRST) * STRIDE; k < N * STRIDE; k++) assert_true(y[k] == (float)(k % 7));
            free_matrix(&m);
        }
    mem_free(w);
    mem_free(x);
    mem_free(y);
    mem_free(one);
}

/* --- tiles of bf16 --- */

static float bf16(float x) { /* to nearest even; what is below the smallest normal number counts as nothing */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (fabsf(x) < 1.17549435e-38f) return 0;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* What an element should be: in f64, of W and x as tiles have them, one of bf16 or two; *size: of the sum of magnitudes. */
static double tiled_element(const float *w, bool two_w, const float *x, bool two_x, size_t cols, double *size) {
    double sum = 0;
    *size = 0;
    for (size_t k = 0; k < cols; k++) {
        float x_high = bf16(x[k]), x_low = two_x ? bf16(x[k] - x_high) : 0, w_high = bf16(w[k]), w_low = two_w ? bf16(w[k] - w_high) : 0;
        double product = (double)w_high * ((double)x_high + (double)x_low) + (double)w_low * (double)x_high;
        sum += product;
        *size += fabs((double)w_high * (double)x_high);
    }
    return sum;
}

/* Rows that are read, and all rows of bf16: within f32's rounding of what they should be, whatever rows, panels, bias and addition are around; rows that are not read are what they always were. */
static void tiles_of(const struct quant_kernels *kernels, enum packed_kind kind, uint32_t of_x, size_t s, enum values v) {
    const size_t rows = SHAPES[s].rows, cols = SHAPES[s].cols, n = SHAPES[s].n, stride = rows + 3, read = (n + 1) / 2 + n / 3;
    struct random r;
    random_seed2(&r, s, v + 100);
    float *w = mem_calloc(rows * cols, sizeof *w), *x = mem_calloc(n * cols, sizeof *x), *plain = mem_calloc(n * rows, sizeof *plain), *y = mem_calloc(n * stride, sizeof *y), *one = mem_calloc(stride, sizeof *one),
          *row = mem_calloc(cols, sizeof *row), *bias = mem_calloc(rows, sizeof *bias);
    fill(w, rows * cols, v == LARGE || (v == TINY && s % 2) ? NORMAL : v, &r); /* tiny by normal: sums about the smallest normal number */
    fill(x, n * cols, v, &r);
    fill(bias, rows, NORMAL, &r);
    struct matrix m;
    struct packed_input in;
    bool blocks = packed_kind_is_blocks(kind), two_x = blocks ? of_x > 1 : of_x > 1 || kernels->tiles_of_blocks;
    struct packed_form form = {.terms = blocks ? of_x : 0, .halves = !blocks, .low = !blocks && of_x > 1};
    pack(&m, kind, rows, cols, w);
    quant_kernels_use(kernels);
    terms = of_x;
    if (blocks) product(&m, n, x, plain);
    terms = 1;
    void *memory = mem_alloc_aligned(packed_input_size(form, n, cols) + 64);
    form.read = read;
    packed_input_init(&in, form, n, cols, x, memory);
    for (size_t i = 0; i < n; i++)
        for (size_t b = 0; b < (cols + QUANT_BLOCK - 1) / QUANT_BLOCK; b += 2) packed_input_blocks(&in, i, b, b + 2 < (cols + QUANT_BLOCK - 1) / QUANT_BLOCK ? b + 2 : (cols + QUANT_BLOCK - 1) / QUANT_BLOCK);
    size_t first = n > 4 ? 3 : 0, tiled = blocks ? read : n;
    for (int how = 0; how < 4; how++) {
        struct packed_output out = {.y = y, .stride = stride, .bias = how & 1 ? bias : NULL, .add = how & 2};
        for (size_t i = 0; i < n * stride; i++) y[i] = (float)(i % 7);
        packed_multiply_rows(&m.w, &in, first, n - first, 0, m.w.panels, &out);
        for (size_t i = 0; i < n - first; i++) {
            size_t row_of_x = first + i;
            for (size_t k = 0; k < stride; k++) one[k] = (float)((i * stride + k) % 7);
            for (size_t p = 0; p < m.w.panels; p++) { /* alone, and panel by panel */
                struct packed_output alone = {.y = one + p * packed_panel_rows(kind), .stride = stride, .bias = how & 1 ? bias + p * packed_panel_rows(kind) : NULL, .add = how & 2};
                packed_multiply_rows(&m.w, &in, row_of_x, 1, p, p + 1, &alone);
            }
            if (memcmp(one, y + i * stride, stride * sizeof *y) != 0) fail_msg("%s: kind %d, shape %zu, %s: row %zu differs from what it is alone", kernels->name, kind, s, VALUES[v], row_of_x);
            for (size_t o = 0; o < rows; o++) {
                double before = how & 2 ? (double)((i * stride + o) % 7) : 0, b = how & 1 ? (double)bias[o] : 0, size;
                packed_get_row(&m.w, o, row);
                double want = tiled_element(kind == PACKED_SPLIT ? w + o * cols : row, kind == PACKED_SPLIT || (blocks && of_x > 1), x + row_of_x * cols, two_x, cols, &size), got = (double)y[i * stride + o];
                if (row_of_x >= tiled) want = (double)plain[row_of_x * rows + o], size = fabs(want);
                if (fabs(got - (want + before + b)) > 2e-6 * (size + before + fabs(b)) + 1e-30)
                    fail_msg("%s: kind %d, shape %zu, %s: [%zu, %zu] is %g, should be %g", kernels->name, kind, s, VALUES[v], row_of_x, o, got, want + before + b);
            }
        }
        for (size_t k = (n - first) * stride; k < n * stride; k++) assert_true(y[k] == (float)(k % 7));
    }
    quant_kernels_use(NULL);
    free_matrix(&m);
    void *all[] = {w, x, plain, y, one, row, bias, memory};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mem_free(all[i]);
}

static bool takes_tiles(const struct quant_kernels *kernels, enum packed_kind kind) { return kernels->tiles_of_blocks || kind == PACKED_BF16 || kind == PACKED_SHORT; }

static void test_tiles(void **state) {
    (void)state;
    bool any = false;
    for (size_t k = 0; k < QUANT_KERNELS_COUNT; k++) {
        if (!QUANT_KERNELS[k]->tiles || !QUANT_KERNELS[k]->usable()) continue;
        any = true;
        for (enum packed_kind kind = PACKED_BF16; kind < PACKED_ALL; kind++)
            for (size_t s = 0; kind != PACKED_F16 && s < sizeof SHAPES / sizeof *SHAPES; s++)
                for (enum values v = NORMAL; v <= EQUAL; v++)
                    for (uint32_t of_x = 1; of_x <= 2; of_x++)
                        if (takes_tiles(QUANT_KERNELS[k], kind)) tiles_of(QUANT_KERNELS[k], kind, of_x, s, v);
    }
    if (!any) skip();
}

/* Sums made in place go no further than is said, where rows begin inside a tile and end inside another too. */
static void test_whole(void **state) {
    (void)state;
    enum { COLS = 64, FIRST = 5, ROWS = PACKED_ROWS_AT_ONCE, N = FIRST + ROWS, WIDE = PACKED_PANEL_MAX, BEHIND = QUANT_ROWS_BEHIND, GUARD = 4 * WIDE };
    bool any = false;
    struct random r;
    random_seed(&r, 8);
    float *w = mem_calloc(WIDE * COLS, sizeof *w), *x = mem_calloc(N * COLS, sizeof *x), *want = mem_calloc(ROWS * WIDE, sizeof *want);
    float *got = mem_alloc_aligned(((ROWS + BEHIND) * WIDE + GUARD) * sizeof *got);
    fill(w, WIDE * COLS, NORMAL, &r);
    fill(x, N * COLS, NORMAL, &r);
    for (size_t k = 0; k < QUANT_KERNELS_COUNT; k++) {
        if (!QUANT_KERNELS[k]->tiles || !QUANT_KERNELS[k]->usable()) continue;
        any = true;
        quant_kernels_use(QUANT_KERNELS[k]);
        for (enum packed_kind kind = PACKED_BF16; kind < PACKED_ALL; kind++) {
            if (kind == PACKED_F16 || !takes_tiles(QUANT_KERNELS[k], kind)) continue;
            struct matrix m;
            struct packed_input in;
            struct packed_form form = {.terms = packed_kind_is_blocks(kind), .halves = !packed_kind_is_blocks(kind), .read = N};
            pack(&m, kind, WIDE, COLS, w);
            void *memory = mem_alloc_aligned(packed_input_size(form, N, COLS) + 64);
            packed_input_init(&in, form, N, COLS, x, memory);
            for (size_t i = 0; i < N; i++) packed_input_row(&in, i);
            for (size_t i = 0; i < (ROWS + BEHIND) * WIDE + GUARD; i++) got[i] = 77;
            packed_multiply_rows(&m.w, &in, FIRST, ROWS, 0, m.w.panels, &(struct packed_output){.y = want, .stride = WIDE});
            packed_multiply_rows(&m.w, &in, FIRST, ROWS, 0, m.w.panels, &(struct packed_output){.y = got, .stride = WIDE, .whole = true});
            assert_memory_equal(got, want, ROWS * WIDE * sizeof *got);
            for (size_t i = (ROWS + BEHIND) * WIDE; i < (ROWS + BEHIND) * WIDE + GUARD; i++) assert_true(got[i] == 77);
            mem_free(memory);
            free_matrix(&m);
        }
    }
    quant_kernels_use(NULL);
    mem_free(w);
    mem_free(x);
    mem_free(want);
    mem_free(got);
    if (!any) skip();
}

static void product_by(const struct matrix *m, bool halves, size_t n, const float *x, float *y) {
    struct packed_form form = {.halves = halves};
    void *memory = mem_alloc_aligned(packed_input_size(form, n, m->w.cols) + 64);
    struct packed_input in;
    packed_input_init(&in, form, n, m->w.cols, x, memory);
    for (size_t i = 0; i < n; i++) packed_input_row(&in, i);
    packed_multiply(&m->w, &in, 0, m->w.panels, &(struct packed_output){.y = y, .stride = m->w.rows});
    mem_free(memory);
}

/* What products of short may differ from bf16's: nothing, but where patches are added behind all else, in another order; the values that stand for them are among the least. */
static void assert_products_are_bf16s(const char *what, const float *want, const float *got, size_t n, size_t cols, bool patched) {
    if (!patched) {
        if (memcmp(want, got, n * sizeof *want) != 0) fail_msg("%s: are not bf16's", what);
        return;
    }
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(want[i] - got[i]) <= 1e-6f * fmaxf(fabsf(want[i]), sqrtf((float)cols)))) fail_msg("%s: element %zu is %g, not %g", what, i, (double)got[i], (double)want[i]);
}

/* short as kernels pack it: every value comes back, and every product is bf16's, bit for bit or nearly; values without a code among them, as many as there is room for. One more, and it does not fit. */
static void short_is_bf16(const struct quant_kernels *packs) {
    enum { N = QUANT_TILE_ROWS_MAX * 2 + 3 };
    static const size_t counts[] = {1, 2, 4, 6, 7, 16, 17, 40, N};
    static const float odd[] = {0, 1e-20f, -1e-20f, 3e20f, 1e-40f, -0.0f, 7e-12f};
    struct random r;
    random_seed(&r, 19);
    for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++)
        for (int patches = 0; patches < 3; patches++) {
            size_t rows = SHAPES[s].rows, cols = SHAPES[s].cols, room = (cols + QUANT_BLOCK - 1) / QUANT_BLOCK * 4;
            float *w = mem_calloc(rows * cols, sizeof *w), *x = mem_calloc(N * cols, sizeof *x), *want = mem_calloc(N * rows, sizeof *want), *got = mem_calloc(N * rows, sizeof *got), *fewer = mem_calloc(N * rows, sizeof *fewer), *row[2];
            struct matrix plain, narrow;
            for (size_t i = 0; i < 2; i++) row[i] = mem_calloc(cols, sizeof *row[i]);
            fill(x, N * cols, NORMAL, &r);
            for (size_t i = 0; i < rows * cols; i++) /* 16 upper bytes, each often enough */
                w[i] = ldexpf((random_below(&r, 2) ? 1.0f : -1.0f) * (1 + (float)random_below(&r, 128) / 128), (int)(i % 16) - 13);
            size_t taken = 0; /* in the first panel */
            for (size_t i = 0; patches > 0 && rows * cols > 2048 && taken < room + (patches == 2); i++) {
                size_t at = i < 2 ? i : random_below(&r, (rows < 64 ? rows : 64) * cols); /* the first value, and its neighbour, too */
                bool is = false;
                for (size_t j = 0; j < sizeof odd / sizeof *odd; j++) is |= memcmp(&w[at], &odd[j], sizeof w[at]) == 0;
                if (!is) w[at] = odd[taken++ % (sizeof odd / sizeof *odd)];
            }
            int result = try_pack(&narrow, PACKED_SHORT, rows, cols, w);
            if (taken > room) assert_int_equal(result, E_FULL);
            else {
                if (result != 0) fail_msg("shape %zu with %zu patches does not fit", s, taken);
                pack(&plain, PACKED_BF16, rows, cols, w);
                assert_true(rows * cols < 5000 || (cols + 31) / 32 * 32 * 64 * 2 * narrow.w.panels * 10 > narrow.size * 13);
                for (size_t i = 0; i < rows; i++) {
                    packed_get_row(&plain.w, i, row[0]);
                    packed_get_row(&narrow.w, i, row[1]);
                    if (memcmp(row[0], row[1], cols * sizeof *row[0]) != 0) fail_msg("row %zu of shape %zu with %zu patches comes back otherwise", i, s, taken);
                }
                for (size_t k = 0; k < QUANT_KERNELS_COUNT; k++)
                    for (int halves = 0; QUANT_KERNELS[k]->usable() && halves < (QUANT_KERNELS[k]->tiles ? 2 : 1); halves++) /* who has none takes x as it is */
                        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
                            char what[120];
                            (void)snprintf(what, sizeof what, "packed by %s, %s: %zu rows by shape %zu with %zu patches (halves %d)", packs->name, QUANT_KERNELS[k]->name, counts[c], s, taken, halves);
                            quant_kernels_use(QUANT_KERNELS[k]);
                            product_by(&plain, halves, counts[c], x, want);
                            product_by(&narrow, halves, counts[c], x, got);
                            assert_products_are_bf16s(what, want, got, counts[c] * rows, cols, taken > 0 && halves && QUANT_KERNELS[k]->tiles && (!QUANT_KERNELS[k]->tiles_of_blocks || packs->short_in_a_run));
                            if (c > 0 && memcmp(fewer, got, counts[c - 1] * rows * sizeof *got) != 0) fail_msg("%s: fewer rows are others", what);
                            memcpy(fewer, got, counts[c] * rows * sizeof *got);
                        }
                quant_kernels_use(packs);
                free_matrix(&plain);
                free_matrix(&narrow);
            }
            void *all[] = {w, x, want, got, fewer, row[0], row[1]};
            for (size_t i = 0; i < sizeof all / sizeof *all; i++) mem_free(all[i]);
        }
}
static void test_short_is_bf16(void **state) {
    (void)state;
    for (size_t k = 0; k < QUANT_KERNELS_COUNT; k++) {
        if (!QUANT_KERNELS[k]->usable() || (!QUANT_KERNELS[k]->short_in_a_run && k + 1 < QUANT_KERNELS_COUNT)) continue;
        quant_kernels_use(QUANT_KERNELS[k]);
        short_is_bf16(QUANT_KERNELS[k]);
    }
    quant_kernels_use(NULL);
}

/* Bytes that nobody wrote, as a damaged copy may have them: any numbers come out, and nothing else is touched (a sanitizer sees it). */
static void test_short_of_any_bytes(void **state) {
    (void)state;
    enum { ROWS = 70, COLS = 200, N = 20 };
    struct random r;
    size_t size;
    random_seed(&r, 20);
    assert_int_equal(packed_size(PACKED_SHORT, ROWS, COLS, &size), 0);
    struct matrix m = {.memory = mem_alloc_aligned(size), .size = size};
    float *x = mem_calloc(N * COLS, sizeof *x), *y = mem_calloc(N * ROWS, sizeof *y), row[COLS];
    fill(x, N * COLS, NORMAL, &r);
    assert_int_equal(packed_init(&m.w, PACKED_SHORT, ROWS, COLS, m.memory), 0);
    for (size_t turn = 0; turn < 20; turn++) {
        for (size_t i = 0; i < size; i++) m.w.data[i] = (uint8_t)random_below(&r, 256);
        packed_get_row(&m.w, turn, row);
        for (size_t k = 0; k < QUANT_KERNELS_COUNT; k++) {
            if (!QUANT_KERNELS[k]->usable()) continue;
            quant_kernels_use(QUANT_KERNELS[k]);
            for (size_t n = 1; n <= N; n += 3) {
                product_by(&m, false, n, x, y);
                product_by(&m, true, n, x, y);
            }
        }
    }
    quant_kernels_use(NULL);
    mem_free(m.memory);
    mem_free(x);
    mem_free(y);
}

/* x in blocks, of any number of columns and with any values, is the same bits by every kernel; nothing is written behind it. */
static void test_blocks_of_x(void **state) {
    (void)state;
    enum { COLS = 20 * QUANT_BLOCK + 5, BLOCKS = COLS / QUANT_BLOCK + 1 };
    static const float odd[] = {INFINITY, -INFINITY, NAN, 1e-31f, -1e-30f, 3e38f, -3e38f, 1e-45f, 0, -0.0f};
    struct random r;
    random_seed(&r, 31);
    for (size_t k = 0; k < QUANT_KERNELS_COUNT; k++) {
        if (!QUANT_KERNELS[k]->usable()) continue;
        for (size_t cols = 1; cols <= COLS; cols++)
            for (int values = 0; values < 4; values++) {
                float x[COLS], scale[2][BLOCKS + 1], total[2][BLOCKS + 1];
                int8_t q[2][(BLOCKS + 1) * QUANT_BLOCK];
                int32_t correction[2][BLOCKS + 1];
                size_t blocks = (cols + QUANT_BLOCK - 1) / QUANT_BLOCK;
                fill(x, cols, NORMAL, &r);
                for (size_t i = 0; values == 1 && i < cols; i++) x[i] = ldexpf(x[i], (int)random_below(&r, 240) - 120);
                for (size_t i = 0; values == 2 && i < cols; i += 1 + random_below(&r, 40)) x[i] = odd[random_below(&r, sizeof odd / sizeof *odd)];
                for (size_t i = 0; values == 3 && i < cols; i++) x[i] = i / QUANT_BLOCK % 2 ? 0 : (float)((int)random_below(&r, 255) - 127) / 2;
                memset(q, 77, sizeof q);
                memset(scale, 77, sizeof scale);
                memset(correction, 77, sizeof correction);
                memset(total, 77, sizeof total);
                QUANT_KERNELS[QUANT_KERNELS_COUNT - 1]->quantize(x, cols, q[0], scale[0], correction[0], total[0]);
                QUANT_KERNELS[k]->quantize(x, cols, q[1], scale[1], correction[1], total[1]);
                for (size_t b = 0; b < blocks; b++)
                    if (isnan(total[0][b]) && isnan(total[1][b])) total[0][b] = total[1][b] = 0; /* whatever NaN it is */
                if (memcmp(q[0], q[1], sizeof q[0]) || memcmp(scale[0], scale[1], sizeof scale[0]) || memcmp(correction[0], correction[1], sizeof correction[0]) || memcmp(total[0], total[1], sizeof total[0]))
                    fail_msg("%s, %zu columns, values %d", QUANT_KERNELS[k]->name, cols, values);
            }
    }
}

static void test_bad_values_and_sizes(void **state) {
    (void)state;
    const float bad[] = {INFINITY, NAN, -INFINITY, 1e30f};
    for (enum packed_kind kind = PACKED_F32; kind < PACKED_ALL; kind = next_kind(kind))
        for (size_t i = 0; i < 4; i++) {
            if ((kind == PACKED_F32 || kind == PACKED_BF16 || kind == PACKED_SHORT) && i == 3) continue; /* a large number is a number */
            float row[8] = {1, 2, 3, bad[i], 5, 6, 7, 8};
            size_t size;
            assert_int_equal(packed_size(kind, 1, 8, &size), 0);
            void *memory = quant_map(size);
            struct packed w;
            assert_int_equal(packed_init(&w, kind, 1, 8, memory), 0);
            const void *rows[PACKED_PANEL_MAX] = {row};
            assert_int_equal(packed_fill(&w, 0, TENSOR_F32, rows), E_RANGE);
            quant_unmap(memory, size);
        }
    size_t size = 5;
    assert_int_equal(packed_size(PACKED_F32, 0, 8, &size), E_RANGE);
    assert_int_equal(packed_size(PACKED_Q8, SIZE_MAX / 4, SIZE_MAX / 4, &size), E_RANGE);
    assert_int_equal(packed_size(PACKED_F32, (size_t)1 << 40, (size_t)1 << 40, &size), E_RANGE);
    assert_int_equal(size, 5);
}

static void test_f16(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = quant_f16_to_f32((uint16_t)h);
        if (isnan(f)) continue;
        if (quant_f16_from_f32(f) != h) fail_msg("f16 %04x comes back as %04x", h, quant_f16_from_f32(f));
    }
    static const struct {
        float f;
        uint16_t h;
    } cases[] = {{1, 0x3c00}, {-2, 0xc000}, {65504, 0x7bff}, {65519.996f, 0x7bff}, {65520, 0x7c00}, {1e-8f, 0}, {5.9604645e-8f, 1},
                 {1.0009766f, 0x3c01}, {1.00048828125f, 0x3c00}, {1.00146484375f, 0x3c02}, {-INFINITY, 0xfc00}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_int_equal(quant_f16_from_f32(cases[i].f), cases[i].h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels_equal_reference), cmocka_unit_test(test_any_number_of_rows_and_blocks), cmocka_unit_test(test_what_is_lost_of_x), cmocka_unit_test(test_products_are_right), cmocka_unit_test(test_rows_come_back),
        cmocka_unit_test(test_bias_add_and_panels), cmocka_unit_test(test_many_rows_are_each_alone),
        cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_whole), cmocka_unit_test(test_short_is_bf16), cmocka_unit_test(test_short_of_any_bytes), cmocka_unit_test(test_blocks_of_x), cmocka_unit_test(test_bad_values_and_sizes), cmocka_unit_test(test_f16),
    };
    return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
