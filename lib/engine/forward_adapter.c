/*
 * The terms of adapters (model/adapter.h): y += B (A x) for the rows whose item has one, row by row. A row's term is a function of that row and its adapter alone, so
 * that the batch invariance of forward.h holds with any adapters beside each other; the base's packed weights stay as they are, for all of them together. In a step
 * without adapters nothing here is called.
 *
 * Cost of a row: rank · (in + out) multiply-adds beside the base's in · out.
 */
#include "engine/forward_internal.h"
#include "tensor/kernels.h"

enum { COLUMNS = 1024 }; /* of y at once: they stay in the first cache while all of B's rows are added */

static const struct adapter_term *term_of(const struct forward *f, size_t row, enum adapter_place place) {
    const struct model_adapter *a = f->items[f->row_item[row]].adapter;
    const struct adapter_term *t = a ? model_adapter_term(a, f->layer_index, place) : NULL;
    return t && t->rank ? t : NULL;
}

/* y[0, width) += columns [first, first + width) of B times what A made of x. */
static void add_columns(const struct adapter_term *t, const float *mid, size_t first, size_t width, float *y) {
    for (uint32_t k = 0; k < t->rank; k++) kernels()->axpy(mid[k], t->b + (size_t)k * t->out + first, y, width);
}

struct add_phase {
    struct forward *f;
    const struct adapter_target *targets;
    size_t n;
    const float *x;
    size_t x_stride;
};
static void add_row(void *arg, size_t row, int thread) {
    const struct add_phase *p = arg;
    float mid[ADAPTER_RANK_MAX];
    const float *made = NULL; /* by which A: parameters of one tensor share it */
    (void)thread;
    for (size_t i = 0; i < p->n; i++) {
        const struct adapter_term *t = term_of(p->f, row, p->targets[i].place);
        if (!t) continue;
        if (made != t->a) kernels()->gemv(t->a, t->in, p->x + row * p->x_stride, NULL, mid, t->rank, t->in);
        made = t->a;
        for (size_t first = 0; first < t->out; first += COLUMNS)
            add_columns(t, mid, first, t->out - first < COLUMNS ? t->out - first : COLUMNS, p->targets[i].y + row * p->targets[i].stride + first);
    }
}

void adapter_add(struct forward *f, const struct adapter_target *targets, size_t n, const float *x, size_t x_stride) {
    struct add_phase phase = {f, targets, n, x, x_stride};
    if (f->rows == 1) add_row(&phase, 0, 0);
    else pool_run(f->pool, f->rows, &phase, add_row);
}

struct inner_phase {
    struct forward *f;
    const float *x;
    size_t x_stride;
};
static float *mid_of(const struct forward *f, size_t row, enum adapter_place place) { return f->adapter_mid + (2 * row + (place == ADAPTER_UP)) * ADAPTER_RANK_MAX; }
static void inner_row(void *arg, size_t row, int thread) {
    const struct inner_phase *p = arg;
    (void)thread;
    for (enum adapter_place place = ADAPTER_GATE; place <= ADAPTER_UP; place++) {
        const struct adapter_term *t = term_of(p->f, row, place);
        if (t) kernels()->gemv(t->a, t->in, p->x + row * p->x_stride, NULL, mid_of(p->f, row, place), t->rank, t->in);
    }
}

void adapter_inner(struct forward *f, const float *x, size_t x_stride) {
    struct inner_phase phase = {f, x, x_stride};
    if (f->rows == 1) inner_row(&phase, 0, 0);
    else pool_run(f->pool, f->rows, &phase, inner_row);
}

void adapter_add_inner(const struct forward *f, size_t row, enum adapter_place place, size_t first, size_t width, float *y) {
    const struct adapter_term *t = term_of(f, row, place);
    if (t) add_columns(t, mid_of(f, row, place), first, width, y);
}
