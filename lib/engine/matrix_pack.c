#include "engine/matrix_pack.h"

#include <stdatomic.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/machine.h"

/* --- memory --- */

void matrix_memory_init(struct matrix_memory *m, struct pool *pool) {
    *m = (struct matrix_memory){.pool = pool};
    sha256_init(&m->plan);
}

static void make_key(struct matrix_memory *m, const char *identity) {
    struct sha256 hash = m->plan;
    (void)snprintf(m->key.words, sizeof m->key.words, "layout %d for %s", PACKED_LAYOUT_VERSION, quant_kernels()->name);
    sha256_update(&hash, identity, strlen(identity) + 1);
    sha256_update(&hash, m->key.words, strlen(m->key.words));
    sha256_final(&hash, m->key.digest);
    m->key.size = m->size;
}

int matrix_memory_take(struct matrix_memory *m, const struct packed_cache *cache, struct error *err) {
    m->size = m->used;
    m->used = 0;
    m->data = quant_map(m->size);
    if (!m->data) return error_set(err, E_NOMEM, "no memory for weights (%zu MiB)", m->size >> 20);
    machine_interleave(m->data, m->size);
    if (!cache || !cache->dir || !cache->identity) return 0;
    make_key(m, cache->identity);
    m->filled = packed_cache_read(cache, &m->key, m->data, m->pool);
    return 0;
}

void matrix_memory_keep(struct matrix_memory *m, const struct packed_cache *cache) {
    ASSERT(m->used <= m->size);
    m->key.size = m->used;
    if (cache && cache->dir && cache->identity && !m->filled) m->writer = packed_cache_write(cache, &m->key, m->data);
}

void matrix_memory_fini(struct matrix_memory *m) {
    packed_writer_free(m->writer);
    quant_unmap(m->data, m->size);
    *m = (struct matrix_memory){.data = NULL};
}

/* --- matrices --- */

struct fill_job {
    const struct matrix_source *from;
    struct packed *w;
    bool mixed; /* parts of several types */
    _Atomic int result;
};
static void fill_panel(void *arg, size_t panel, int thread) {
    struct fill_job *j = arg;
    const struct matrix_source *from = j->from;
    (void)thread;
    const void *rows[PACKED_PANEL_MAX];
    size_t width = packed_panel_rows(j->w->kind);
    float *plain = j->mixed ? mem_calloc(width * from->cols, sizeof *plain) : NULL;
    for (size_t i = 0; i < width; i++) {
        size_t r = panel * width + i, part = 0;
        while (part < MATRIX_PARTS_MAX && r >= from->part_rows[part]) r -= from->part_rows[part++];
        rows[i] = part < MATRIX_PARTS_MAX ? model_view_row(from->part[part], (uint32_t)r) : NULL;
        if (!plain || !rows[i]) continue;
        tensor_to_f32(from->part[part]->type, rows[i], from->cols, plain + i * from->cols);
        rows[i] = plain + i * from->cols;
    }
    int result = j->mixed && !plain ? E_NOMEM : packed_fill(j->w, panel, j->mixed ? TENSOR_F32 : from->part[0]->type, rows);
    mem_free(plain);
    if (result != 0) atomic_store(&j->result, result);
}

static void note(struct matrix_memory *m, const struct matrix_source *from, enum packed_kind kind) {
    char line[256];
    int n = snprintf(line, sizeof line, "%s %u: %d from %d, %zu + %zu + %zu × %zu\n", from->name, from->layer, (int)kind, (int)from->part[0]->type, from->part_rows[0], from->part_rows[1],
                     from->part_rows[2], from->cols);
    sha256_update(&m->plan, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

/*
 * bf16 is kept in 12 bits where its values allow it (PACKED_SHORT), which is known only once they are read: there is room for both, and a line before the matrix says which it became.
 */
enum { LINE = 64, IS_SHORT = 1 };

/* Bytes at most, the line with it. */
static int room(enum packed_kind kind, size_t rows, size_t cols, bool choice, size_t *size) {
    size_t narrow = 0;
    if (packed_size(kind, rows, cols, size) != 0 || (choice && packed_size(PACKED_SHORT, rows, cols, &narrow) != 0)) return E_RANGE;
    if (narrow > *size) *size = narrow;
    return !choice || size_add(*size, LINE, size) ? 0 : E_RANGE;
}

/* All panels; E_FULL: the kind does not do. */
static int fill(struct matrix_memory *m, const struct matrix_source *from, struct packed *w) {
    struct fill_job job = {.from = from, .w = w};
    for (size_t i = 1; i < MATRIX_PARTS_MAX && from->part[i]; i++) job.mixed |= from->part[i]->type != from->part[0]->type;
    pool_run(m->pool, w->panels, &job, fill_panel);
    return job.result;
}

int matrix_pack(struct matrix_memory *m, const struct matrix_source *from, enum packed_kind kind, struct packed *w, struct error *err) {
    size_t rows = 0, size;
    for (size_t i = 0; i < MATRIX_PARTS_MAX; i++) rows += from->part_rows[i];
    const bool choice = kind == PACKED_BF16 && packed_size(PACKED_SHORT, rows, from->cols, &size) == 0;
    if (room(kind, rows, from->cols, choice, &size) != 0 || !size_add(m->used, size, &size))
        return error_set(err, E_RANGE, "%s of %zu × %zu is too large", from->name, rows, from->cols);
    if (!m->data) {
        note(m, from, kind);
        m->used = size;
        return 0;
    }
    ASSERT(size <= m->size);
    uint8_t *line = m->data + m->used, *at = line + (choice ? LINE : 0);
    if (choice && !m->filled) *line = IS_SHORT;
    int r = packed_init(w, choice && *line == IS_SHORT ? PACKED_SHORT : kind, rows, from->cols, at);
    if (r == 0 && !m->filled) r = fill(m, from, w);
    if (r == E_FULL && choice) {
        *line = 0;
        r = packed_init(w, kind, rows, from->cols, at);
        if (r == 0) r = fill(m, from, w);
    }
    if (r == E_NOMEM) return error_set(err, E_NOMEM, "no memory to pack weights");
    if (r != 0) return error_set(err, E_INVALID, "%s of layer %u has values that are not finite or too large", from->name, from->layer);
    for (size_t i = 0; !m->filled && i < MATRIX_PARTS_MAX && from->part[i]; i++) model_view_release(from->part[i]);
    m->used = (size_t)(at - m->data) + w->panels * w->panel_size;
    return 0;
}
