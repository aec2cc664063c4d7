#include "engine/matrix_pack.h"

#include <stdatomic.h>

#include "base/alloc.h"

struct fill_job {
    const struct matrix_source *from;
    struct packed *w;
    _Atomic int result;
};
static void fill_panel(void *arg, size_t panel, int thread) {
    struct fill_job *j = arg;
    const struct matrix_source *from = j->from;
    (void)thread;
    const void *rows[PACKED_PANEL_MAX];
    size_t width = packed_panel_rows(j->w->kind);
    for (size_t i = 0; i < width; i++) {
        size_t r = panel * width + i, part = 0;
        while (part < MATRIX_PARTS_MAX && r >= from->part_rows[part]) r -= from->part_rows[part++];
        rows[i] = part < MATRIX_PARTS_MAX ? model_view_row(from->part[part], (uint32_t)r) : NULL;
    }
    int result = packed_fill(j->w, panel, from->part[0]->type, rows);
    if (result != 0) atomic_store(&j->result, result);
}

int matrix_pack(const struct matrix_source *from, enum packed_kind kind, struct pool *pool, uint8_t *memory, size_t *used, struct packed *w, struct error *err) {
    size_t rows = 0, size;
    for (size_t i = 0; i < MATRIX_PARTS_MAX; i++) rows += from->part_rows[i];
    if (packed_size(kind, rows, from->cols, &size) != 0 || !size_add(*used, size, &size))
        return error_set(err, E_RANGE, "%s of %zu × %zu is too large", from->name, rows, from->cols);
    if (memory) {
        struct fill_job job = {.from = from, .w = w};
        int r = packed_init(w, kind, rows, from->cols, memory + *used);
        if (r != 0) return r;
        pool_run(pool, w->panels, &job, fill_panel);
        if (job.result != 0) return error_set(err, E_INVALID, "%s of layer %u has values that are not finite or too large", from->name, from->layer);
        for (size_t i = 0; i < MATRIX_PARTS_MAX && from->part[i]; i++) model_view_release(from->part[i]);
    }
    *used = size;
    return 0;
}
