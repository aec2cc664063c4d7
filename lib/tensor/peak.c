#include "tensor/peak.h"

#include "base/alloc.h"
#include "base/clock.h"

enum {
    RUNS = 8,          /* the best counts: what else ran on the machine is no limit of it */
    AHEAD_WORDS = 512, /* 4 KiB: the hardware's own prefetcher stops at page borders */
    COLUMNS = 256,     /* of W, which stays in the first-level cache: 16 to 64 KiB */
    READ_ROWS = 256,   /* of x, where they are multiplied in tiles of bf16: W is widened once for them */
    PRODUCTS = 200,    /* per thread and run: about a millisecond */
};

struct stream {
    const uint64_t *data;
    size_t part;
    uint64_t sums[POOL_THREADS_MAX];
};

static void read_part(void *arg, size_t item, int thread) {
    struct stream *s = arg;
    const uint64_t *p = s->data + item * s->part;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    (void)thread;
    for (size_t i = 0; i + 8 <= s->part; i += 8) {
        __builtin_prefetch(p + i + AHEAD_WORDS);
        a += p[i] ^ p[i + 4];
        b += p[i + 1] ^ p[i + 5];
        c += p[i + 2] ^ p[i + 6];
        d += p[i + 3] ^ p[i + 7];
    }
    s->sums[item] = a + b + c + d;
}

double peak_read_bandwidth(struct pool *pool) {
    size_t n = (size_t)pool_threads(pool);
    void *memory = quant_map(PEAK_READ_BYTES);
    if (!memory) return 0;
    memset(memory, 1, PEAK_READ_BYTES);
    struct stream s = {.data = memory, .part = PEAK_READ_BYTES / sizeof(uint64_t) / n};
    double best = 0;
    for (int i = 0; i < RUNS; i++) {
        int64_t from = clock_mono_us();
        pool_run(pool, n, &s, read_part);
        double rate = (double)(n * s.part * sizeof(uint64_t)) * 1e6 / (double)(clock_mono_us() - from + 1);
        if (rate > best) best = rate;
    }
    quant_unmap(memory, PEAK_READ_BYTES);
    return best;
}

struct arithmetic {
    struct packed w;
    struct packed_input x;
    float *y;
    size_t y_size; /* floats of one thread */
};

static void multiply_part(void *arg, size_t item, int thread) {
    struct arithmetic *a = arg;
    (void)thread;
    for (int i = 0; i < PRODUCTS; i++) packed_multiply(&a->w, &a->x, 0, a->w.panels, &(struct packed_output){.y = a->y + item * a->y_size, .stride = a->w.rows});
}

double peak_multiply_adds(struct pool *pool, enum packed_kind kind) {
    size_t n = (size_t)pool_threads(pool), width = PACKED_PANEL_MAX, rows_of_x = packed_tile_rows(kind), size;
    struct packed_form form = {.terms = packed_kind_is_blocks(kind), .halves = kind == PACKED_BF16};
    if (form.halves ? quant_kernels()->tiles != NULL : form.terms && quant_kernels()->tiles_of_blocks) form.read = rows_of_x = READ_ROWS;
    struct arithmetic a = {.y_size = rows_of_x * width};
    float *x = mem_calloc(rows_of_x * COLUMNS, sizeof *x);
    uint8_t *input = mem_alloc_aligned(packed_input_size(form, rows_of_x, COLUMNS) + 64);
    double best = 0;
    uint8_t *memory = NULL;
    a.y = mem_calloc(n * a.y_size, sizeof *a.y);
    if (packed_size(kind, width, COLUMNS, &size) == 0) memory = mem_alloc_aligned(size);
    if (!x || !input || !a.y || !memory || packed_init(&a.w, kind, width, COLUMNS, memory) != 0) goto out;
    const void *rows[PACKED_PANEL_MAX] = {0};
    for (size_t i = 0; i < rows_of_x * COLUMNS; i++) x[i] = (float)(i % 17) - 8;
    for (size_t i = 0; i < packed_panel_rows(kind); i++) rows[i] = x;
    for (size_t p = 0; p < a.w.panels; p++)
        if (packed_fill(&a.w, p, TENSOR_F32, rows) != 0) goto out;
    packed_input_init(&a.x, form, rows_of_x, COLUMNS, x, input);
    for (size_t i = 0; i < rows_of_x; i++) packed_input_row(&a.x, i);
    for (int i = 0; i < 4 * RUNS; i++) {
        int64_t from = clock_mono_us();
        pool_run(pool, n, &a, multiply_part);
        double rate = (double)(n * PRODUCTS * width * COLUMNS * rows_of_x) * 1e6 / (double)(clock_mono_us() - from + 1);
        if (rate > best) best = rate;
    }
out:
    mem_free(x);
    mem_free(input);
    mem_free(a.y);
    mem_free(memory);
    return best;
}
