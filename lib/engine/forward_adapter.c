/*
 * The terms of adapters (model/adapter.h): y += B (A x) for the rows whose item has one. Rows of one adapter that lie behind each other are a group (the engine brings them together), and
 * of a group A and B are products of packed matrices over tiles of rows, as the base's are: a tile reads them once, A in int8 where the base is in blocks and x is there in int8 too. A row's term is a function of that row and its
 * adapter alone, since quant.h's products are, so that the batch invariance of forward.h holds with any adapters beside each other; the base's packed weights stay as they are, for all of
 * them together. In a step without adapters nothing here is called.
 *
 *     lower    A x of all that take this x, one product                                   raw [rows, ranks]
 *     settle   of each place its own columns, one row behind the other                     mid[place] [rows, rank]
 *     raise    y += B mid, of panels of y; of gate and up piece by piece in forward.c
 *
 * Cost of a row: rank · (in + out) multiply-adds beside the base's in · out, and what panels and blocks are not full.
 */
#include "base/alloc.h"
#include "engine/forward_internal.h"

enum {
    CHUNK_ROWS = 48,                  /* of A's product at once, whole tiles of 6 and of 16: a long prompt is shared by the threads */
    PIECE_PANELS = 8,                 /* of B's: some microseconds for a tile of rows */
    INLINE_WORK = 1 << 16,            /* multiply-adds that cost less than waking a thread */
    SETTLE_ROWS = 64,                 /* 50 ns each */
};

static const uint32_t SLOT[ADAPTER_PLACES] = {[ADAPTER_Q] = 0, [ADAPTER_K] = 1, [ADAPTER_V] = 2, [ADAPTER_O] = 0, [ADAPTER_GATE] = 0, [ADAPTER_UP] = 1, [ADAPTER_DOWN] = 0};

size_t adapter_memory_size(size_t rows) { return rows * ADAPTER_INPUT_PLACES * 2 * ADAPTER_RANK_MAX * sizeof(float); }

/* Two halves, each by group: what a group has lies together, from its first row's place on. */
static float *raw_of(const struct forward *f, const struct adapter_group *g) { return f->adapter_memory + (size_t)g->first * ADAPTER_INPUT_PLACES * ADAPTER_RANK_MAX; }
static float *values_of(const struct forward *f, const struct adapter_group *g, uint32_t slot) {
    return f->adapter_memory + ((size_t)ADAPTER_INPUT_PLACES * f->rows_max + slot * (size_t)f->rows_max + g->first) * ADAPTER_RANK_MAX;
}

void adapter_groups(struct forward *f, const struct forward_item *items, size_t n) {
    f->adapter_group_count = 0;
    for (size_t i = 0; i < n; i++) {
        const struct model_adapter *a = items[i].adapter;
        struct adapter_group *last = f->adapter_group_count ? &f->adapter_groups[f->adapter_group_count - 1] : NULL;
        f->item_group[i] = UINT32_MAX;
        if (!a) continue;
        ASSERT(a->layers == f->config.layers && (f->blocks || !packed_kind_is_blocks(a->kind)));
        if (last && last->adapter == a && last->first + last->rows == f->item_row[i]) last->rows += items[i].count;
        else f->adapter_groups[f->adapter_group_count++] = (struct adapter_group){.adapter = a, .first = f->item_row[i], .rows = items[i].count};
        f->item_group[i] = (uint32_t)f->adapter_group_count - 1;
    }
}

static const struct packed *lower_of(const struct forward *f, const struct adapter_group *g, enum adapter_input input) { return model_adapter_lower(g->adapter, f->layer_index, input); }

struct lower_phase {
    struct forward *f;
    enum adapter_input input;
    const struct packed_input *in;
};
static size_t pieces_of(const struct packed *a, const struct adapter_group *g) { return a->rows ? a->panels * ((g->rows + CHUNK_ROWS - 1) / CHUNK_ROWS) : 0; }
static void lower_piece(void *arg, size_t piece, int thread) {
    const struct lower_phase *p = arg;
    const struct adapter_group *g = p->f->adapter_groups;
    const struct packed *a = lower_of(p->f, g, p->input);
    (void)thread;
    for (size_t n; piece >= (n = pieces_of(a, g)); piece -= n) a = lower_of(p->f, ++g, p->input);
    size_t panel = piece % a->panels, from = piece / a->panels * CHUNK_ROWS, rows = g->rows - from < CHUNK_ROWS ? g->rows - from : CHUNK_ROWS;
    packed_multiply_rows(a, p->in, g->first + from, rows, panel, panel + 1,
                         &(struct packed_output){.y = raw_of(p->f, g) + from * a->rows + panel * packed_panel_rows(a->kind), .stride = a->rows});
}

static void settle_row(void *arg, size_t row, int thread) {
    const struct lower_phase *p = arg;
    struct forward *f = p->f;
    (void)thread;
    if (f->item_group[f->row_item[row]] == UINT32_MAX) return;
    struct adapter_group *g = &f->adapter_groups[f->item_group[f->row_item[row]]];
    size_t total = lower_of(f, g, p->input)->rows, i = row - g->first;
    for (enum adapter_place place = 0; place < ADAPTER_PLACES; place++) {
        const struct adapter_term *t = model_adapter_term(g->adapter, f->layer_index, place);
        if (ADAPTER_INPUT_OF[place] == p->input && t->rank && t->rank != total)
            memcpy(values_of(f, g, SLOT[place]) + i * t->rank, raw_of(f, g) + i * total + t->first, t->rank * sizeof(float));
    }
}

/* Of all groups: mid is A x. */
static void lower(struct forward *f, enum adapter_input input, const struct packed_input *in) {
    struct lower_phase phase = {f, input, in};
    size_t pieces = 0, work = 0;
    for (size_t i = 0; i < f->adapter_group_count; i++) {
        struct adapter_group *g = &f->adapter_groups[i];
        const struct packed *a = lower_of(f, g, input);
        pieces += pieces_of(a, g);
        work += g->rows * a->rows * a->cols;
        for (enum adapter_place place = 0; place < ADAPTER_PLACES; place++) {
            const struct adapter_term *t = model_adapter_term(g->adapter, f->layer_index, place);
            if (ADAPTER_INPUT_OF[place] != input || !t->rank) continue;
            packed_input_init(&g->mid[SLOT[place]], (struct packed_form){0}, g->rows, t->rank, t->rank == a->rows ? raw_of(f, g) : values_of(f, g, SLOT[place]), NULL);
        }
    }
    if (work >= INLINE_WORK) pool_run(f->pool, pieces, &phase, lower_piece);
    else
        for (size_t i = 0; i < pieces; i++) lower_piece(&phase, i, 0);
    if (pieces && f->rows >= SETTLE_ROWS) pool_run(f->pool, f->rows, &phase, settle_row);
    else
        for (size_t i = 0; pieces && i < f->rows; i++) settle_row(&phase, i, 0);
}

struct raise_phase {
    struct forward *f;
    const struct adapter_target *targets;
    size_t n;
};
static size_t raise_pieces(const struct adapter_term *t) { return t->rank ? (t->b.panels + PIECE_PANELS - 1) / PIECE_PANELS : 0; }
static void raise_piece(void *arg, size_t piece, int thread) {
    const struct raise_phase *p = arg;
    const struct forward *f = p->f;
    (void)thread;
    for (size_t k = 0; k < f->adapter_group_count; k++)
        for (size_t i = 0; i < p->n; i++) {
            const struct adapter_group *g = &f->adapter_groups[k];
            const struct adapter_target *to = &p->targets[i];
            const struct adapter_term *t = model_adapter_term(g->adapter, f->layer_index, to->place);
            size_t pieces = raise_pieces(t), from = piece * PIECE_PANELS;
            if (piece >= pieces) {
                piece -= pieces;
                continue;
            }
            packed_multiply_rows(&t->b, &g->mid[SLOT[to->place]], 0, g->rows, from, from + PIECE_PANELS < t->b.panels ? from + PIECE_PANELS : t->b.panels,
                                 &(struct packed_output){.y = to->y + g->first * to->stride + from * packed_panel_rows(t->b.kind), .stride = to->stride, .add = true});
            return;
        }
}

void adapter_add(struct forward *f, const struct adapter_target *targets, size_t n, const struct packed_input *in) {
    struct raise_phase phase = {.f = f, .targets = targets, .n = n};
    size_t pieces = 0, work = 0;
    lower(f, ADAPTER_INPUT_OF[targets[0].place], in);
    for (size_t k = 0; k < f->adapter_group_count; k++)
        for (size_t i = 0; i < n; i++) {
            const struct adapter_term *t = model_adapter_term(f->adapter_groups[k].adapter, f->layer_index, targets[i].place);
            pieces += raise_pieces(t);
            work += f->adapter_groups[k].rows * t->rank * t->b.rows;
        }
    if (work >= INLINE_WORK) pool_run(f->pool, pieces, &phase, raise_piece);
    else
        for (size_t i = 0; i < pieces; i++) raise_piece(&phase, i, 0);
}

void adapter_inner(struct forward *f, const struct packed_input *in) { lower(f, ADAPTER_OF_MLP, in); }

void adapter_add_inner(const struct forward *f, size_t row, size_t rows, enum adapter_place place, size_t first, size_t width, float *y, size_t stride) {
    for (size_t end = row + rows, n; row < end; row += n, y += n * stride) {
        uint32_t item = f->row_item[row], group = f->item_group[item];
        if (group == UINT32_MAX) {
            size_t behind = f->item_row[item] + f->items[item].count;
            n = (behind < end ? behind : end) - row;
            continue;
        }
        const struct adapter_group *g = &f->adapter_groups[group];
        const struct adapter_term *t = model_adapter_term(g->adapter, f->layer_index, place);
        size_t behind = g->first + g->rows, panel = PACKED_FLOAT_PANEL, to = (first + width + panel - 1) / panel; /* B is never in blocks */
        n = (behind < end ? behind : end) - row;
        if (t->rank) packed_multiply_rows(&t->b, &g->mid[SLOT[place]], row - g->first, n, first / panel, to, &(struct packed_output){.y = y, .stride = stride, .add = true});
    }
}
