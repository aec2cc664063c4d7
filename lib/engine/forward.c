/*
 * The step, read top to bottom: embed → layers (norm → q, k, v → rotate → cache → attention → o; norm → MLP) → final norm.
 * Letters: R rows of the step, C width, H heads, K kv heads, D head size, F the MLP's inner width, V vocabulary.
 * Work is handed to the pool in phases; between two phases lies a barrier, so whatever is small is done by the caller instead.
 */
#include "engine/forward.h"

#include <math.h>

#include "engine/attention.h"
#include "engine/forward_internal.h"
#include "engine/position_bias.h"
#include "tensor/kernels.h"

enum {
    INLINE_ROWS = 4,             /* so few rows of element-wise work cost less than waking a thread (about 1 µs a row against 2–5) */
    INLINE_PRODUCT = 1 << 15,    /* multiply-adds: about 2 µs of one core */
    LONG_PART_ROWS = 64,         /* of x, that a strip of W is worth widening for, */
    LONG_WIDEN_ROWS = 48,        /* and those that take as long as widening it */
    ITEMS_PER_THREAD = 8,        /* pieces of a product per thread: a thread that the system takes away delays an eighth of its share */
};

/* --- phases --- */

typedef void (*row_fn)(struct forward *f, size_t row, int thread);
struct row_phase {
    struct forward *f;
    row_fn fn;
};
static void run_row(void *arg, size_t item, int thread) {
    struct row_phase *p = arg;
    p->fn(p->f, item, thread);
}
static void each_row(struct forward *f, size_t rows, row_fn fn) {
    struct row_phase phase = {f, fn};
    if (rows < INLINE_ROWS)
        for (size_t i = 0; i < rows; i++) fn(f, i, 0);
    else pool_run(f->pool, rows, &phase, run_row);
}

/*
 * A long product is divided by the rows of W, a few strips of them (PACKED_PANEL_MAX) for an item, so that a thread reads x once; where there are fewer strips than threads have
 * work for, by the rows of x too, for which W is widened once more. The division with the least work of the thread that has most.
 */
struct division {
    size_t strips, parts; /* of an item; of x's rows */
};
static struct division divide(size_t strips, size_t strips_max, size_t rows, size_t threads) {
    struct division best = {1, 1};
    size_t least = SIZE_MAX, parts_max = rows / LONG_PART_ROWS;
    for (size_t parts = 1; parts == 1 || parts <= parts_max; parts++)
        for (size_t of_item = strips_max; of_item > 0; of_item--) {
            size_t items = (strips + of_item - 1) / of_item * parts, work = (items + threads - 1) / threads * of_item * (rows / parts + LONG_WIDEN_ROWS);
            if (work >= least) continue;
            least = work;
            best = (struct division){of_item, parts};
        }
    return best;
}
static size_t part_begin(const struct forward *f, size_t rows, size_t part) {
    const size_t unit = QUANT_SIDE;
    size_t begin = part * ((rows + unit - 1) / unit) / f->w_parts * unit;
    return begin < rows ? begin : rows;
}

/* Panels [from, to) of the matrix, counted over its parts, for these rows of x. */
static void multiply_panels(const struct forward *f, size_t from, size_t to, size_t first_row, size_t rows) {
    size_t before = 0, row = 0;
    for (uint32_t i = 0; i < f->w->parts; i++) {
        const struct packed *w = &f->w->part[i];
        size_t first = from > before ? from - before : 0, end = to < before + w->panels ? to - before : w->panels, at = row + first * packed_panel_rows(w->kind);
        struct packed_output out = f->w_output;
        out.y += first_row * out.stride + at;
        if (out.bias) out.bias += at;
        if (to > before && first < end) packed_multiply_rows(w, f->w_input, first_row, rows, first, end, &out);
        before += w->panels;
        row += w->rows;
    }
}
static void run_panels(void *arg, size_t from, size_t to, int thread) {
    struct forward *f = arg;
    (void)thread;
    multiply_panels(f, from, to, 0, f->w_input->n);
}
static void run_part(void *arg, size_t item, int thread) {
    struct forward *f = arg;
    (void)thread;
    size_t from = item / f->w_parts * f->w_panels, first_row = part_begin(f, f->w_input->n, item % f->w_parts);
    multiply_panels(f, from, from + f->w_panels, first_row, part_begin(f, f->w_input->n, item % f->w_parts + 1) - first_row);
}
/* y = W x (+ bias) (+ y) for all rows of the input. */
static void multiply(struct forward *f, const struct matrix *w, const struct packed_input *in, float *y, size_t stride, const float *bias, bool add) {
    size_t panels = 0, rows = 0, threads = (size_t)pool_threads(f->pool);
    for (uint32_t i = 0; i < w->parts; i++) {
        panels += w->part[i].panels;
        rows += w->part[i].rows;
    }
    f->w = w;
    f->w_input = in;
    f->w_output = (struct packed_output){.y = y, .stride = stride, .bias = bias, .add = add};
    if (in->n * rows * in->cols < INLINE_PRODUCT) run_panels(f, 0, panels, 0);
    else if (packed_input_is_long(&w->part[0], in)) {
        size_t together = PACKED_PANEL_MAX / packed_panel_rows(w->part[0].kind), strips = (panels + together - 1) / together;
        struct division d = divide(strips, (strips + threads - 1) / threads, in->n, threads);
        f->w_panels = d.strips * together;
        f->w_parts = d.parts;
        pool_run(f->pool, (panels + f->w_panels - 1) / f->w_panels * f->w_parts, f, run_part);
    } else pool_run_pieces(f->pool, panels, f, run_panels);
}

/* Of rows whose order is not that of the step, and of those of the head: as what is written, whatever they are. */
static struct packed_form written(const struct forward *f) { return (struct packed_form){.terms = f->form.terms, .halves = f->form.halves, .low = f->form.low}; }

static void norm_row(const struct forward *f, const struct norm *n, const float *x, float *y) {
    size_t C = f->config.width;
    float mean, rstd;
    if (f->config.arch->norm == MODEL_NORM_LAYER) kernels()->layernorm(x, n->weight, n->bias, f->config.norm_eps, y, &mean, &rstd, C);
    else kernels()->rmsnorm(x, n->weight, f->config.norm_eps, y, C);
}

/* --- embedding --- */

static uint32_t row_position(const struct forward *f, size_t row, uint32_t *token) {
    const struct forward_item *it = &f->items[f->row_item[row]];
    uint32_t in_item = (uint32_t)row - f->item_row[f->row_item[row]];
    *token = it->tokens[in_item];
    return it->start + in_item;
}

static void embed_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    size_t E = f->config.embed_width;
    uint32_t token;
    row_position(f, row, &token);
    float *x = (f->embed_in.parts ? f->h : f->x) + row * E;
    packed_get_row(forward_embeddings(f), token, x);
    if (f->embed_scale != 1)
        for (size_t c = 0; c < E; c++) x[c] *= f->embed_scale;
    if (f->embed_in.parts) packed_input_row(&f->input, row);
}

static void position_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    size_t C = f->config.width, half = f->config.rotary_dim / 2;
    uint32_t token, position = row_position(f, row, &token);
    if (f->embed_positions) kernels()->add(f->embed_positions + (position + f->config.arch->positions_before) * C, f->x + row * C, C);
    for (uint32_t table = 0; table < f->rope_tables; table++) {
        bool longer = f->items[f->row_item[row]].long_context && f->inv_freq[MODEL_ROPE_KIND_LONG];
        const float *inv_freq = f->inv_freq[table ? MODEL_ROPE_KIND_LOCAL : longer ? MODEL_ROPE_KIND_LONG : MODEL_ROPE_KIND_GLOBAL];
        float *cos_sin = f->rope + (row * f->rope_tables + table) * 2 * half, factor = table ? 1 : (float)f->config.rope_attention_factor;
        for (size_t i = 0; i < half; i++) {
            float angle = (float)position * inv_freq[i]; /* in f32, as the reference implementation has it */
            cos_sin[i] = cosf(angle) * factor;
            cos_sin[half + i] = sinf(angle) * factor;
        }
    }
}

static void embed_whole_row(struct forward *f, size_t row, int thread) {
    embed_row(f, row, thread);
    position_row(f, row, thread);
}

static void embed(struct forward *f) {
    if (!f->embed_in.parts) {
        each_row(f, f->rows, embed_whole_row);
        return;
    }
    packed_input_init(&f->input, f->form, f->rows, f->config.embed_width, f->h, f->input_memory);
    each_row(f, f->rows, embed_row);
    multiply(f, &f->embed_in, &f->input, f->x, f->config.width, NULL, false);
    each_row(f, f->rows, position_row);
}

/* --- attention --- */

static void input_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    packed_input_row(&f->input, row);
}

static void attn_norm_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    size_t C = f->config.width;
    norm_row(f, &f->layer->attn_norm, f->x + row * C, f->h + row * C);
    packed_input_row(&f->input, row);
    if (f->h2 && f->layer->mlp_norm.weight) { /* parallel: the MLP's input is taken from x before attention is added */
        norm_row(f, &f->layer->mlp_norm, f->x + row * C, f->h2 + row * C);
        packed_input_row(&f->input2, row);
    }
}

static void norm_heads(const struct forward *f, float *x, uint32_t heads, const float *weight) {
    size_t D = f->config.head_dim;
    float eps = f->config.norm_eps, mean, rstd, copy[MODEL_HEAD_DIM_MAX];
    switch (f->config.qk_norm) {
    case MODEL_QK_NORM_NONE: return;
    case MODEL_QK_NORM_HEAD:
        for (uint32_t h = 0; h < heads; h++) kernels()->rmsnorm(x + h * D, weight, eps, x + h * D, D);
        return;
    case MODEL_QK_NORM_WIDE: kernels()->rmsnorm(x, weight, eps, x, heads * D); return;
    case MODEL_QK_NORM_LAYERS:
        for (uint32_t h = 0; h < heads; h++) {
            memcpy(copy, x + h * D, D * sizeof *x);
            kernels()->layernorm(copy, weight + h * D, NULL, eps, x + h * D, &mean, &rstd, D);
        }
        return;
    }
}

static void rotate(const struct forward *f, float *x, size_t row, uint32_t heads, const float *norm) {
    size_t D = f->config.head_dim, rotary = f->config.rotary_dim;
    const float *cos_sin = f->rope + (row * f->rope_tables + f->layer->rope_local) * rotary;
    norm_heads(f, x, heads, norm);
    if (f->config.arch->positions != MODEL_POS_ROPE) return;
    if (rotary == D) kernels()->rope(x, cos_sin, 1, heads, D);
    else
        for (uint32_t h = 0; h < heads; h++) kernels()->rope(x + h * D, cos_sin, 1, 1, rotary);
}

/* [R, (H + 2K) D] → q rotated in place, k and v into the cache */
static void cache_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    const struct model_config *c = &f->config;
    size_t D = c->head_dim;
    uint32_t token, position = row_position(f, row, &token);
    float *q = f->qkv + row * (c->heads + 2 * (size_t)c->kv_heads) * D, *k = q + c->heads * D, *v = k + c->kv_heads * D;
    kv_cache_ask(f->kv, f->items[f->row_item[row]].blocks, f->layer_index, position);
    rotate(f, q, row, c->heads, f->layer->q_norm);
    rotate(f, k, row, c->kv_heads, f->layer->k_norm);
    kv_cache_put(f->kv, f->items[f->row_item[row]].blocks, f->layer_index, position, k, v);
}

/* How an item's queries fall into tiles: for each kv head, `rows` rows by `heads` heads of its group. */
struct tiling {
    uint32_t group, heads, rows, head_parts, row_parts;
};
static struct tiling tiling_of(const struct forward *f, const struct forward_item *it) {
    struct tiling t = {.group = f->config.heads / f->config.kv_heads};
    t.heads = t.group < ATTENTION_TILE ? t.group : ATTENTION_TILE;
    t.rows = ATTENTION_TILE / t.heads;
    t.head_parts = (t.group + t.heads - 1) / t.heads;
    t.row_parts = (it->count + t.rows - 1) / t.rows;
    return t;
}

/* Chunks of tokens that rows up to the item's last see; of a source, all that it has. */
static uint32_t chunks_of(const struct forward_item *it) {
    uint32_t own = (it->start + it->count - 1) / ATTENTION_CHUNK, source = it->source_count ? (it->source_count - 1) / ATTENTION_CHUNK : 0;
    return (own > source ? own : source) + 1;
}

/* Where there are few tiles for the threads that there are, those over many tokens are cut along these, too. */
static void plan_attention(struct forward *f, const struct forward_item *items, size_t n) {
    size_t tiles = 0, chunks = 0, pieces = 0, parts = 0, wanted = pool_active(f->pool) == 1 ? 0 : ATTENTION_PIECES * (size_t)pool_active(f->pool);
    uint32_t shared = 0;
    for (size_t i = 0; i < n; i++) {
        struct tiling t = tiling_of(f, &items[i]);
        size_t of_item = (size_t)t.row_parts * t.head_parts * f->config.kv_heads;
        tiles += of_item;
        chunks += of_item * chunks_of(&items[i]);
    }
    size_t length = wanted > 0 && chunks > wanted ? (chunks + wanted - 1) / wanted : 1; /* chunks of a piece */
    for (size_t i = 0; i < n; i++) {
        struct tiling t = tiling_of(f, &items[i]);
        size_t of_item = (size_t)t.row_parts * t.head_parts * f->config.kv_heads, in_tile = chunks_of(&items[i]);
        bool cut = tiles < wanted && in_tile > length && parts + of_item * in_tile <= f->parts_max;
        f->work_before[i] = pieces;
        f->item_pieces[i] = cut ? (uint32_t)((in_tile + length - 1) / length) : 1;
        f->parts_before[i] = parts;
        f->shared_before[i] = shared;
        pieces += of_item * f->item_pieces[i];
        if (!cut) continue;
        parts += of_item * in_tile;
        for (size_t k = 0; k < of_item; k++) atomic_store_explicit(&f->unfinished[shared++], f->item_pieces[i], memory_order_relaxed);
    }
    f->work_before[n] = pieces;
}

/* One of a tile's pieces; true: it was the last, and the tile is whole. */
static bool attend_piece(struct forward *f, const struct attention_tile *tile, size_t item, size_t in_item, uint32_t piece, float *scratch) {
    uint32_t first, end, pieces = f->item_pieces[item];
    size_t size = attention_part_size(tile->head_dim);
    float *parts = f->parts + (f->parts_before[item] + in_item * chunks_of(&f->items[item])) * size;
    attention_chunks(tile, &first, &end);
    uint32_t count = end - first, from = (uint32_t)((uint64_t)count * piece / pieces), to = (uint32_t)((uint64_t)count * (piece + 1) / pieces);
    attention_parts(tile, first + from, first + to, parts + from * size, scratch);
    atomic_uint *unfinished = &f->unfinished[f->shared_before[item] + in_item];
    if (atomic_fetch_sub_explicit(unfinished, 1, memory_order_acq_rel) != 1) return false;
    atomic_store_explicit(unfinished, pieces, memory_order_relaxed); /* for the next layer */
    attention_join(tile, parts);
    return true;
}

/* Which tile a piece of attention is of. The latest rows go first: they are the longest. */
struct tile_place {
    const struct forward_item *it;
    struct tiling t;
    size_t item, in_item;
    uint32_t row_part, kv_head, head_part, pieces, piece;
};
static struct tile_place place_of(const struct forward *f, size_t work) {
    size_t low = 0, high = f->item_count; /* work_before[low] <= work < work_before[high] */
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (f->work_before[mid] <= work) low = mid;
        else high = mid;
    }
    struct tile_place p = {.it = &f->items[low], .t = tiling_of(f, &f->items[low]), .item = low, .pieces = f->item_pieces[low]};
    p.piece = (uint32_t)((work - f->work_before[low]) % p.pieces);
    p.in_item = (work - f->work_before[low]) / p.pieces;
    p.row_part = p.t.row_parts - 1 - (uint32_t)(p.in_item / (f->config.kv_heads * p.t.head_parts));
    p.kv_head = (uint32_t)(p.in_item / p.t.head_parts % f->config.kv_heads);
    p.head_part = (uint32_t)(p.in_item % p.t.head_parts);
    return p;
}

/* What the thread attends to behind the tile, where that is a whole one. */
static void set_next(const struct forward *f, size_t work, struct attention_tile *tile) {
    if (f->cross || work >= f->work_before[f->item_count]) return;
    struct tile_place p = place_of(f, work);
    if (p.pieces > 1) return;
    uint32_t from = p.row_part * p.t.rows, to = from + p.t.rows < p.it->count ? from + p.t.rows : p.it->count, position = p.it->start + from;
    tile->next.base = kv_cache_base(f->kv, f->layer_index, p.kv_head);
    tile->next.blocks = p.it->blocks;
    tile->next.first = tile->window && position >= tile->window ? (position + 1 - tile->window) / KV_BLOCK_TOKENS : 0;
    tile->next.count = (p.it->start + to - 1) / KV_BLOCK_TOKENS + 1 - tile->next.first;
}

static void attention_item(void *arg, size_t work, int thread) {
    struct forward *f = arg;
    const struct model_config *c = &f->config;
    const struct tile_place p = place_of(f, work);
    const struct forward_item *it = p.it;
    size_t D = c->head_dim, row0 = f->item_row[p.item], stride = f->cross ? c->heads * D : (c->heads + 2 * (size_t)c->kv_heads) * D;

    struct attention_tile tile = {.head_dim = c->head_dim, .scale = c->attn_scale, .softcap = c->attn_softcap, .window = f->layer->window, .type = f->kv->shape.type, .blocks = it->blocks,
                                  .base = kv_cache_base(f->kv, f->layer_index, p.kv_head), .block_stride = f->kv->block_size,
                                  .values_offset = c->kv_heads * f->kv->head_size};
    if (f->cross) tile.blocks = it->source_blocks;
    if (!f->cross) tile.bias_distance = c->position_distance;
    for (uint32_t r = p.row_part * p.t.rows; r < it->count && r < (p.row_part + 1) * p.t.rows; r++)
        for (uint32_t g = p.head_part * p.t.heads; g < p.t.group && g < (p.head_part + 1) * p.t.heads; g++) {
            size_t head = p.kv_head * p.t.group + g;
            tile.q[tile.n] = f->qkv + (row0 + r) * stride + head * D;
            tile.out[tile.n] = f->att + ((row0 + r) * c->heads + head) * D;
            if (f->layer->positions && !f->cross) tile.bias[tile.n] = position_bias_head(c, f->layer->positions, (uint32_t)head, false);
            tile.position[tile.n++] = f->cross ? it->source_count - 1 : it->start + r; /* of a source everything is seen */
        }
    set_next(f, work + 1, &tile);
    if (p.pieces == 1) attention_run(&tile, f->attention_scratch[thread]);
    else if (!attend_piece(f, &tile, p.item, p.in_item, p.piece, f->attention_scratch[thread])) return;
    if (f->prepared && D % QUANT_BLOCK == 0) /* the heads' blocks of the next product's input */
        for (uint32_t i = 0; i < tile.n; i++) {
            size_t at = (size_t)(tile.out[i] - f->att), row = at / (c->heads * D), block = at % (c->heads * D) / QUANT_BLOCK;
            packed_input_blocks(&f->input, row, block, block + D / QUANT_BLOCK);
        }
}

/* --- MLP --- */

static void mlp_norm_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    norm_row(f, &f->layer->mlp_norm, f->x + row * f->config.width, f->h + row * f->config.width);
    packed_input_row(&f->input, row);
}

static void activate(enum model_activation a, const float *x, float *y, size_t n) {
    switch (a) {
    case MODEL_ACT_GELU_TANH: kernels()->gelu(x, y, n); return;
    case MODEL_ACT_SILU:
        for (size_t i = 0; i < n; i++) y[i] = x[i] / (1 + expf(-x[i]));
        return;
    case MODEL_ACT_GELU: kernels()->gelu_erf(x, y, n); return;
    case MODEL_ACT_GELU_QUICK:
        for (size_t i = 0; i < n; i++) y[i] = x[i] / (1 + expf(-1.702f * x[i]));
        return;
    case MODEL_ACT_RELU:
        for (size_t i = 0; i < n; i++) y[i] = x[i] > 0 ? x[i] : 0;
        return;
    }
}

/*
 * Gate, up and what is between them and down, for INNER rows of the matrices at a time and a tile of rows of x: the products never leave the cache, and
 * down's input is quantized where it is made. Few rows of x wait for the matrices' bytes, which come fastest in long runs: INNER_FEW rows of the one, then as many of the other.
 */
enum { INNER = 64, INNER_FEW = 4 * INNER, FEW_ROWS = 16 };
_Static_assert(FEW_ROWS * INNER_FEW <= PACKED_ROWS_AT_ONCE * INNER, "both find room in the same memory");
_Static_assert(INNER % PACKED_FLOAT_PANEL == 0 && INNER % PACKED_BLOCK_PANEL == 0 && INNER % QUANT_BLOCK == 0, "whole panels and whole blocks");

static void inner_product(const struct packed *w, const struct packed_input *in, size_t row, size_t rows, size_t first, size_t stride, const float *bias, float *tile) {
    size_t width = packed_panel_rows(w->kind), to = (first + stride) / width < w->panels ? (first + stride) / width : w->panels;
    packed_multiply_rows(w, in, row, rows, first / width, to, &(struct packed_output){.y = tile, .stride = stride, .bias = bias ? bias + first : NULL, .whole = !bias && stride == INNER});
}

/* Columns [first, first + stride) of the inner width for `count` rows from `row` on, into act [·, F] and act_input. stride: INNER, or some of them, at most INNER_FEW for at most FEW_ROWS. */
static void inner_rows(const struct forward *f, const struct matrix *w, const struct packed *down, const struct packed_input *in, size_t row, size_t count, size_t F, size_t first,
                       size_t stride, const float *bias, float *act, struct packed_input *act_input) {
    size_t width = F - first < stride ? F - first : stride;
    _Alignas(64) float gate[(PACKED_ROWS_AT_ONCE + QUANT_ROWS_BEHIND) * INNER], up[(PACKED_ROWS_AT_ONCE + QUANT_ROWS_BEHIND) * INNER];
    for (size_t end = row + count, rows; row < end; row += rows) {
        rows = packed_rows_at_once(&w->part[0], in, row);
        if (rows > end - row) rows = end - row;
        bool values = f->adapter_group_count > 0 || packed_needs_values(down, act_input, row + rows - 1); /* else they need not leave the cache */
        inner_product(&w->part[0], in, row, rows, first, stride, bias, gate);
        if (w->parts > 1) inner_product(&w->part[1], in, row, rows, first, stride, bias ? bias + F : NULL, up);
        if (f->adapter_group_count && !f->layer->expert_down) {
            adapter_add_inner(f, row, rows, w->parts > 1 ? ADAPTER_GATE : ADAPTER_UP, first, width, gate, stride);
            if (w->parts > 1) adapter_add_inner(f, row, rows, ADAPTER_UP, first, width, up, stride);
        }
        for (size_t i = 0; i < rows; i++) {
            float *g = gate + i * stride, *u = up + i * stride, *y = values ? act + (row + i) * F + first : g;
            if (w->parts > 1 && f->config.activation == MODEL_ACT_SILU) kernels()->silu_mul(g, u, y, width);
            else activate(f->config.activation, g, y, width);
            for (size_t k = 0; w->parts > 1 && f->config.activation != MODEL_ACT_SILU && k < width; k++) y[k] *= u[k];
            packed_input_values(act_input, row + i, first / QUANT_BLOCK, (first + width + QUANT_BLOCK - 1) / QUANT_BLOCK, y);
        }
    }
}

static void inner_part(struct forward *f, size_t first_row, size_t rows, size_t first, size_t stride) {
    inner_rows(f, f->w, &f->layer->down.part[0], f->w_input, first_row, rows, f->config.ffn, first, stride, f->layer->gate_up_bias, f->act, &f->act_input);
}
static void inner_item(void *arg, size_t item, int thread) {
    struct forward *f = arg;
    (void)thread;
    size_t first = part_begin(f, f->rows, item % f->w_parts);
    inner_part(f, first, part_begin(f, f->rows, item % f->w_parts + 1) - first, item / f->w_parts * INNER, INNER);
}
static void inner_piece(void *arg, size_t from, size_t to, int thread) {
    struct forward *f = arg;
    (void)thread;
    size_t most = f->rows <= FEW_ROWS ? INNER_FEW / INNER : 1;
    for (size_t some; from < to; from += some) {
        some = to - from < most ? to - from : most;
        inner_part(f, 0, f->rows, from * INNER, some * INNER);
    }
}

/* [R, C] → down's input, [R, F] */
static void mlp_inner(struct forward *f, const struct packed_input *in) {
    size_t F = f->config.ffn, items = (F + INNER - 1) / INNER;
    f->w = &f->layer->gate_up;
    f->w_input = in;
    packed_input_init(&f->act_input, f->form, f->rows, F, f->act, f->act_memory);
    if (f->adapter_group_count) adapter_inner(f, in);
    if (in->n * F * in->cols * 2 < INLINE_PRODUCT) inner_piece(f, 0, items, 0);
    else if (packed_input_is_long(&f->w->part[0], in)) {
        f->w_parts = divide(items, 1, in->n, (size_t)pool_threads(f->pool)).parts;
        pool_run(f->pool, items * f->w_parts, f, inner_item);
    } else pool_run_pieces(f->pool, items, f, inner_piece);
}

/* --- experts (Shazeer et al. 2017; Jiang et al. 2024) ---
 * Rows are grouped by the experts that they go to, so that an expert is one product over its rows; what comes back is summed per row in the order in which
 * the row prefers its experts. A row's numbers are those of its own products, whoever shares its experts. */

static void route_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    size_t E = f->config.experts, used = f->config.experts_used;
    float *p = f->router_logits + row * E, sum = 0;
    kernels()->softmax(p, 1, E);
    for (size_t k = 0; k < used; k++) {
        uint32_t best = 0;
        for (uint32_t e = 1; e < E; e++)
            if (p[e] > p[best]) best = e;
        f->expert_picked[row * used + k] = best;
        f->expert_weight[row * used + k] = p[best];
        sum += p[best];
        p[best] = -1; /* below every probability */
    }
    for (size_t k = 0; f->config.experts_normed && k < used; k++) f->expert_weight[row * used + k] /= sum;
}

/* Slots in order of expert, then row. */
static void group_rows(struct forward *f) {
    uint32_t E = f->config.experts, *first = f->expert_first;
    f->slots = f->rows * f->config.experts_used;
    memset(first, 0, (E + 1) * sizeof *first);
    for (size_t i = 0; i < f->slots; i++) first[f->expert_picked[i] + 1]++;
    f->active_count = 0;
    for (uint32_t e = 0; e < E; e++) {
        if (first[e + 1]) f->active[f->active_count++] = e;
        first[e + 1] += first[e];
    }
    for (size_t i = 0; i < f->slots; i++) { /* first[e] runs to where expert e + 1 begins */
        uint32_t slot = first[f->expert_picked[i]]++;
        f->row_slot[i] = slot;
        f->slot_row[slot] = (uint32_t)(i / f->config.experts_used);
    }
    for (uint32_t e = E; e > 0; e--) first[e] = first[e - 1];
    first[0] = 0;
}

static void gather_row(struct forward *f, size_t slot, int thread) {
    (void)thread;
    size_t C = f->config.width;
    memcpy(f->expert_in + slot * C, f->h + f->slot_row[slot] * C, C * sizeof(float));
    packed_input_row(&f->expert_input, slot);
}

static void expert_inner_item(void *arg, size_t item, int thread) {
    struct forward *f = arg;
    (void)thread;
    size_t F = f->config.expert_ffn, pieces = (F + INNER - 1) / INNER;
    uint32_t e = f->active[item / pieces], first = f->expert_first[e];
    inner_rows(f, &f->layer->expert_gate_up[e], &f->layer->expert_down[e].part[0], &f->expert_input, first, f->expert_first[e + 1] - first, F, item % pieces * INNER, INNER, NULL, f->expert_act,
               &f->expert_act_input);
}

static void expert_down_item(void *arg, size_t item, int thread) {
    struct forward *f = arg;
    (void)thread;
    size_t C = f->config.width;
    uint32_t e = f->active[item % f->active_count], first = f->expert_first[e];
    const struct packed *w = &f->layer->expert_down[e].part[0];
    size_t from = item / f->active_count * f->w_panels, to = from + f->w_panels < w->panels ? from + f->w_panels : w->panels;
    if (from < to)
        packed_multiply_rows(w, &f->expert_act_input, first, f->expert_first[e + 1] - first, from, to,
                             &(struct packed_output){.y = f->expert_out + first * C + from * packed_panel_rows(w->kind), .stride = C});
}

static void combine_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    size_t C = f->config.width, used = f->config.experts_used;
    float *y = f->branch_apart ? f->h + row * C : f->x + row * C;
    if (f->branch_apart) memset(y, 0, C * sizeof *y);
    for (size_t k = 0; k < used; k++) kernels()->axpy(f->expert_weight[row * used + k], f->expert_out + f->row_slot[row * used + k] * C, y, C);
}

/* h, normed, [R, C] → x += (or h =, where the branch is apart) */
static void run_experts(struct forward *f) {
    const struct model_config *c = &f->config;
    const struct packed *down = &f->layer->expert_down[0].part[0];
    struct packed_input plain;
    packed_input_init(&plain, (struct packed_form){0}, f->rows, c->width, f->h, NULL);
    multiply(f, &f->layer->router, &plain, f->router_logits, c->experts, NULL, false);
    each_row(f, f->rows, route_row);
    group_rows(f);
    packed_input_init(&f->expert_input, written(f), f->slots, c->width, f->expert_in, f->expert_in_memory);
    packed_input_init(&f->expert_act_input, written(f), f->slots, c->expert_ffn, f->expert_act, f->expert_act_memory);
    each_row(f, f->slots, gather_row);
    pool_run(f->pool, f->active_count * ((c->expert_ffn + INNER - 1) / INNER), f, expert_inner_item);
    size_t wanted = ((size_t)pool_threads(f->pool) * ITEMS_PER_THREAD + f->active_count - 1) / f->active_count;
    f->w_panels = (down->panels + wanted - 1) / wanted;
    pool_run(f->pool, f->active_count * ((down->panels + f->w_panels - 1) / f->w_panels), f, expert_down_item);
    each_row(f, f->rows, combine_row);
}

/* --- what a branch in h adds to x --- */

static void add_branch(struct forward *f, size_t row, const struct norm *norm) {
    size_t C = f->config.width;
    float *h = f->h + row * C;
    if (norm->weight) norm_row(f, norm, h, h);
    if (f->config.residual_scale != 1) kernels()->axpy(f->config.residual_scale, h, f->x + row * C, C);
    else kernels()->add(h, f->x + row * C, C);
}
static void attn_post_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    add_branch(f, row, &f->layer->attn_post_norm);
}
static void mlp_post_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    add_branch(f, row, &f->layer->mlp_post_norm);
}

/* x = norm(x), behind the addition */
static void norm_in_place(struct forward *f, size_t row, const struct norm *norm) {
    size_t C = f->config.width;
    norm_row(f, norm, f->x + row * C, f->h + row * C);
    memcpy(f->x + row * C, f->h + row * C, C * sizeof(float));
}
static void attn_behind_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    norm_in_place(f, row, &f->layer->attn_norm);
}
static void mlp_behind_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    norm_in_place(f, row, &f->layer->mlp_norm);
}

/* --- what forward_cross.c needs --- */

void forward_each_row(struct forward *f, size_t rows, row_fn fn) { each_row(f, rows, fn); }
void forward_multiply(struct forward *f, const struct matrix *w, const struct packed_input *in, float *y, size_t stride, const float *bias, bool add) {
    multiply(f, w, in, y, stride, bias, add);
}
void forward_attend(struct forward *f) { pool_run(f->pool, f->work_before[f->item_count], f, attention_item); }

/* --- the step --- */

static void run_layer(struct forward *f, uint32_t index) {
    const struct model_config *c = &f->config;
    const struct layer *l = f->layer = &f->layers[index];
    size_t C = c->width, R = f->rows, D = c->head_dim, wide = (c->heads + 2 * (size_t)c->kv_heads) * D;
    bool parallel = c->norm_place == MODEL_NORM_PARALLEL, behind = c->norm_place == MODEL_NORM_POST, normed = l->attn_norm.weight && !behind;
    float *branch = f->branch_apart ? f->h : f->x;
    f->layer_index = index;

    /* attention: [R, C] → [R, (H + 2K) D] → [R, H D] → [R, C] */
    packed_input_init(&f->input, f->form, R, C, normed ? f->h : f->x, f->input_memory);
    if (f->h2) packed_input_init(&f->input2, f->form, R, C, f->h2, f->input2_memory);
    if (normed) each_row(f, R, attn_norm_row);
    else if (f->prepared) each_row(f, R, input_row);
    multiply(f, &l->qkv, &f->input, f->qkv, wide, l->qkv_bias, false);
    if (f->adapter_group_count)
        adapter_add(f, (struct adapter_target[]){{ADAPTER_Q, f->qkv, wide}, {ADAPTER_K, f->qkv + c->heads * D, wide}, {ADAPTER_V, f->qkv + (c->heads + (size_t)c->kv_heads) * D, wide}}, 3, &f->input);
    if (parallel) mlp_inner(f, l->mlp_norm.weight ? &f->input2 : &f->input); /* one norm may feed both: before its memory is used again */
    each_row(f, R, cache_row);
    packed_input_init(&f->input, f->form, R, c->heads * D, f->att, f->input_memory);
    pool_run(f->pool, f->work_before[f->item_count], f, attention_item);
    if (f->prepared && D % QUANT_BLOCK != 0) each_row(f, R, input_row);
    multiply(f, &l->o, &f->input, branch, C, l->o_bias, !f->branch_apart);
    if (f->adapter_group_count) adapter_add(f, &(struct adapter_target){ADAPTER_O, branch, C}, 1, &f->input);
    if (f->branch_apart) each_row(f, R, attn_post_row);
    else if (behind) each_row(f, R, attn_behind_row);
    if (l->cross_q.parts) forward_cross_attention(f);

    /* MLP: [R, C] → [R, F] → [R, C] */
    normed = l->mlp_norm.weight && !behind;
    if (!parallel) {
        packed_input_init(&f->input, f->form, R, C, normed ? f->h : f->x, f->input_memory);
        if (normed) each_row(f, R, mlp_norm_row);
        else if (f->prepared) each_row(f, R, input_row);
        if (l->expert_down) run_experts(f);
        else mlp_inner(f, &f->input);
    }
    if (!l->expert_down) multiply(f, &l->down, &f->act_input, branch, C, l->down_bias, !f->branch_apart);
    if (f->adapter_group_count && !l->expert_down) adapter_add(f, &(struct adapter_target){ADAPTER_DOWN, branch, C}, 1, &f->act_input);
    if (f->branch_apart) each_row(f, R, mlp_post_row);
    else if (behind) each_row(f, R, mlp_behind_row);
}

void forward_on_layer(struct forward *f, void *arg, bool (*fn)(void *arg)) {
    f->on_layer_arg = arg;
    f->on_layer = fn;
}

bool forward_step(struct forward *f, struct kv_cache *kv, const struct forward_item *items, size_t n) {
    size_t C = f->config.width, rows = 0;
    f->form.read = 0;
    for (size_t i = 0; i < n; i++) {
        ASSERT(!items[i].read || f->form.read == rows);
        if (items[i].read) f->form.read += items[i].count;
        ASSERT(items[i].count > 0 && items[i].outputs <= items[i].count && (items[i].source_count > 0) == (f->config.encoder_layers > 0) && items[i].start + items[i].count <= f->context &&
               rows + items[i].count <= f->rows_max);
        f->item_row[i] = (uint32_t)rows;
        for (uint32_t r = 0; r < items[i].count; r++) {
            ASSERT(items[i].tokens[r] < f->config.vocab);
            f->row_item[rows++] = (uint32_t)i;
        }
    }
    plan_attention(f, items, n);
    adapter_groups(f, items, n);
    f->kv = kv;
    f->items = items;
    f->item_count = n;
    f->rows = rows;
    f->outputs = 0;
    if (rows == 0) return true;
    embed(f);
    for (uint32_t i = 0; i < f->config.layers; i++) {
        if (f->on_layer && f->on_layer(f->on_layer_arg)) return false;
        run_layer(f, i);
    }
    size_t row = 0;
    for (size_t i = 0; i < n; i++) {
        row += items[i].count;
        for (size_t r = row - items[i].outputs; r < row; r++) {
            float *out = f->out + f->outputs++ * C;
            if (f->final_norm.weight) norm_row(f, &f->final_norm, f->x + r * C, out);
            else memcpy(out, f->x + r * C, C * sizeof *out);
        }
    }
    return true;
}

/* --- logits --- */

enum { LOGITS_FEW = 8 * KERNELS_MAXIMA_BLOCK }; /* of a row, that are made at once: they are looked at before they leave the cache */

/* Logits [from, to) of some rows, as the product left them: the model's scaling, and their maxima. */
static void finish_logits(const struct forward *f, size_t first_row, size_t rows, size_t from, size_t to) {
    float scale = f->config.logits_scale, cap = f->config.logits_softcap;
    for (size_t r = first_row; r < first_row + rows; r++) {
        float *x = f->w_output.y + r * f->w_output.stride + from;
        if (scale != 1) kernels()->scale(scale, x, to - from);
        for (size_t i = 0; cap > 0 && i < to - from; i++) x[i] = cap * tanhf(x[i] / cap);
        if (f->maxima) kernels()->maxima(x, f->maxima + r * kernels_maxima_count(f->config.vocab) + from / KERNELS_MAXIMA_BLOCK, to - from);
    }
}

/* Blocks of KERNELS_MAXIMA_BLOCK logits, all rows. */
static void logits_piece(void *arg, size_t from, size_t to, int thread) {
    struct forward *f = arg;
    (void)thread;
    size_t V = f->config.vocab, panels = KERNELS_MAXIMA_BLOCK / packed_panel_rows(f->w->part[0].kind), all = f->w->part[0].panels;
    for (from *= KERNELS_MAXIMA_BLOCK, to = to * KERNELS_MAXIMA_BLOCK < V ? to * KERNELS_MAXIMA_BLOCK : V; from < to; from += LOGITS_FEW) {
        size_t end = to - from < LOGITS_FEW ? to : from + LOGITS_FEW, last = kernels_maxima_count(end) * panels;
        multiply_panels(f, from / KERNELS_MAXIMA_BLOCK * panels, last < all ? last : all, 0, f->w_input->n);
        finish_logits(f, 0, f->w_input->n, from, end);
    }
}
static void finish_piece(void *arg, size_t from, size_t to, int thread) {
    struct forward *f = arg;
    size_t V = f->config.vocab;
    (void)thread;
    finish_logits(f, 0, f->w_input->n, from * KERNELS_MAXIMA_BLOCK, to * KERNELS_MAXIMA_BLOCK < V ? to * KERNELS_MAXIMA_BLOCK : V);
}

static void input_of_output(struct forward *f, size_t n, size_t cols, const float *rows) {
    packed_input_init(&f->input, written(f), n, cols, rows, f->input_memory);
    for (size_t r = 0; f->prepared && r < n; r++) packed_input_row(&f->input, r);
}

/* n rows [·, C] of the output → logits, by way of the narrower width where the model has one */
static void head(struct forward *f, const float *rows, size_t n, float *logits, float *maxima) {
    size_t V = f->config.vocab;
    input_of_output(f, n, f->config.width, rows);
    if (f->embed_out.parts) {
        multiply(f, &f->embed_out, &f->input, f->h, f->config.embed_width, NULL, false);
        input_of_output(f, n, f->config.embed_width, f->h);
    }
    f->maxima = maxima;
    if (packed_input_is_long(&f->head.part[0], &f->input)) {
        multiply(f, &f->head, &f->input, logits, V, f->head_bias, false);
        pool_run_pieces(f->pool, kernels_maxima_count(V), f, finish_piece);
        return;
    }
    f->w = &f->head;
    f->w_input = &f->input;
    f->w_output = (struct packed_output){.y = logits, .stride = V, .bias = f->head_bias};
    if (n * V * f->input.cols < INLINE_PRODUCT) logits_piece(f, 0, kernels_maxima_count(V), 0);
    else pool_run_pieces(f->pool, kernels_maxima_count(V), f, logits_piece);
}

void forward_logits(struct forward *f, size_t first, size_t count, float *logits, float *maxima) {
    size_t C = f->config.width, V = f->config.vocab;
    ASSERT(first + count <= f->outputs && f->head.parts == 1);
    for (size_t i = 0; i < count; i += LOGITS_INPUT_ROWS) {
        size_t n = count - i < LOGITS_INPUT_ROWS ? count - i : LOGITS_INPUT_ROWS;
        head(f, f->out + (first + i) * C, n, logits + i * V, maxima ? maxima + i * kernels_maxima_count(V) : NULL);
    }
}

const struct packed *forward_embeddings(const struct forward *f) { return f->embed.parts ? &f->embed.part[0] : &f->head.part[0]; }
const float *forward_hidden(const struct forward *f) { return f->out; }
size_t forward_weights_size(const struct forward *f) { return f->memory.used; }
size_t forward_read_size(const struct forward *f) { return f->memory.used - (f->embed.parts ? f->embed.part[0].panels * f->embed.part[0].panel_size : 0); }

static size_t multiply_adds(const struct forward *f, const struct matrix *m) {
    size_t n = 0;
    for (uint32_t i = 0; i < m->parts; i++) n += m->part[i].rows * m->part[i].cols * (packed_kind_is_blocks(m->part[i].kind) ? f->form.terms : 1);
    return n;
}
void forward_multiply_adds(const struct forward *f, size_t *layers, size_t *logits) {
    *layers = 0;
    for (uint32_t i = 0; i < f->config.layers; i++) {
        const struct layer *l = &f->layers[i];
        *layers += multiply_adds(f, &l->qkv) + multiply_adds(f, &l->o) + multiply_adds(f, &l->cross_q) + multiply_adds(f, &l->cross_o) + multiply_adds(f, &l->gate_up) + multiply_adds(f, &l->down);
    }
    *logits = multiply_adds(f, &f->head);
}
bool forward_reads_apart(const struct forward *f) { return f->blocks && packed_form_reads_apart(f->form); }
enum packed_kind forward_adapter_kind(const struct forward *f) { return f->blocks ? PACKED_Q8 : model_adapter_kind(packed_values(&f->layers[0].qkv.part[0])); }
bool forward_weights_short(const struct forward *f) { return f->layers[0].down.part[0].kind == PACKED_SHORT; }
enum packed_kind forward_weights_kind(const struct forward *f) { return packed_values(&f->layers[0].down.part[0]); }

void forward_kv_shape(const struct model_config *c, enum kv_type type, struct kv_shape *shape) {
    *shape = (struct kv_shape){.layers = c->layers, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .type = type};
}
