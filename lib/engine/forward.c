/*
 * The step, read top to bottom: embed → layers (norm → q, k, v → rotate → cache → attention → o; norm → MLP) → final norm.
 * Letters: R rows of the step, C width, H heads, K kv heads, D head size, F the MLP's inner width, V vocabulary.
 * Work is handed to the pool in phases; between two phases lies a barrier, so whatever is small is done by the caller instead.
 */
#include "engine/forward.h"

#include <math.h>

#include "engine/attention.h"
#include "engine/forward_internal.h"
#include "tensor/kernels.h"

enum {
    INLINE_ROWS = 4,             /* so few rows of element-wise work cost less than waking a thread (about 1 µs a row against 2–5) */
    INLINE_PRODUCT = 1 << 15,    /* multiply-adds: about 2 µs of one core */
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

/* Panels [from, to) of the matrix, counted over its parts. */
static void run_panels(void *arg, size_t item, int thread) {
    struct forward *f = arg;
    (void)thread;
    size_t from = item * f->w_panels, to = from + f->w_panels, before = 0, row = 0;
    for (uint32_t i = 0; i < f->w->parts; i++) {
        const struct packed *w = &f->w->part[i];
        size_t first = from > before ? from - before : 0, end = to < before + w->panels ? to - before : w->panels;
        struct packed_output out = f->w_output;
        out.y += row;
        if (out.bias) out.bias += row;
        if (to > before && first < end) packed_multiply(w, f->w_input, first, end, &out);
        before += w->panels;
        row += w->rows;
    }
}
/* y = W x (+ bias) (+ y) for all rows of the input. */
static void multiply(struct forward *f, const struct matrix *w, const struct packed_input *in, float *y, size_t stride, const float *bias, bool add) {
    size_t panels = 0, rows = 0, pieces = (size_t)pool_threads(f->pool) * ITEMS_PER_THREAD;
    for (uint32_t i = 0; i < w->parts; i++) {
        panels += w->part[i].panels;
        rows += w->part[i].rows;
    }
    f->w = w;
    f->w_input = in;
    f->w_output = (struct packed_output){.y = y, .stride = stride, .bias = bias, .add = add};
    if (in->n * rows * in->cols < INLINE_PRODUCT) {
        f->w_panels = panels;
        run_panels(f, 0, 0);
        return;
    }
    f->w_panels = (panels + pieces - 1) / pieces;
    pool_run(f->pool, (panels + f->w_panels - 1) / f->w_panels, f, run_panels);
}

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
    size_t C = f->config.width, half = f->config.rotary_dim / 2;
    uint32_t token, position = row_position(f, row, &token);
    float *x = f->x + row * C;
    if (f->embed) memcpy(x, f->embed + token * C, C * sizeof *x);
    else packed_get_row(&f->head.part[0], token, x);
    if (f->embed_scale != 1)
        for (size_t c = 0; c < C; c++) x[c] *= f->embed_scale;
    if (f->embed_positions) kernels()->add(f->embed_positions + position * C, x, C);
    if (f->config.arch->positions == MODEL_POS_ROPE) {
        float *cos_sin = f->rope + row * 2 * half;
        for (size_t i = 0; i < half; i++) {
            float angle = (float)position * f->inv_freq[i]; /* in f32, as the reference implementation has it */
            cos_sin[i] = cosf(angle);
            cos_sin[half + i] = sinf(angle);
        }
    }
}

/* --- attention --- */

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

static void rotate(const struct forward *f, float *x, size_t row, uint32_t heads, const float *norm) {
    size_t D = f->config.head_dim, rotary = f->config.rotary_dim;
    const float *cos_sin = f->rope + row * rotary;
    if (norm)
        for (uint32_t h = 0; h < heads; h++) kernels()->rmsnorm(x + h * D, norm, f->config.norm_eps, x + h * D, D);
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

static void attention_item(void *arg, size_t work, int thread) {
    struct forward *f = arg;
    const struct model_config *c = &f->config;
    size_t low = 0, high = f->item_count; /* work_before[low] <= work < work_before[high] */
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (f->work_before[mid] <= work) low = mid;
        else high = mid;
    }
    const struct forward_item *it = &f->items[low];
    struct tiling t = tiling_of(f, it);
    size_t in_item = work - f->work_before[low];
    /* the latest rows first: they are the longest */
    uint32_t row_part = t.row_parts - 1 - (uint32_t)(in_item / (c->kv_heads * t.head_parts));
    uint32_t kv_head = (uint32_t)(in_item / t.head_parts % c->kv_heads), head_part = (uint32_t)(in_item % t.head_parts);
    size_t D = c->head_dim, row0 = f->item_row[low];

    struct attention_tile tile = {.head_dim = c->head_dim, .scale = c->attn_scale, .half = f->kv->shape.half, .blocks = it->blocks,
                                  .base = kv_cache_base(f->kv, f->layer_index, kv_head), .block_stride = f->kv->block_size,
                                  .values_offset = c->kv_heads * f->kv->head_size};
    for (uint32_t r = row_part * t.rows; r < it->count && r < (row_part + 1) * t.rows; r++)
        for (uint32_t g = head_part * t.heads; g < t.group && g < (head_part + 1) * t.heads; g++) {
            size_t head = kv_head * t.group + g;
            tile.q[tile.n] = f->qkv + (row0 + r) * (c->heads + 2 * (size_t)c->kv_heads) * D + head * D;
            tile.out[tile.n] = f->att + ((row0 + r) * c->heads + head) * D;
            tile.position[tile.n++] = it->start + r;
        }
    attention_run(&tile, f->attention_scratch[thread]);
    if (f->blocks && D % QUANT_BLOCK == 0) /* the heads' blocks of the next product's input */
        for (uint32_t i = 0; i < tile.n; i++) {
            size_t at = (size_t)(tile.out[i] - f->att), row = at / (c->heads * D), block = at % (c->heads * D) / QUANT_BLOCK;
            packed_input_blocks(&f->input, row, block, block + D / QUANT_BLOCK);
        }
}

static void att_input_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    packed_input_row(&f->input, row);
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
 * down's input is quantized where it is made.
 */
enum { INNER = 64 };
_Static_assert(INNER % PACKED_FLOAT_PANEL == 0 && INNER % PACKED_BLOCK_PANEL == 0 && INNER % QUANT_BLOCK == 0, "whole panels and whole blocks");

static void inner_product(const struct packed *w, const struct packed_input *in, size_t row, size_t rows, size_t first, const float *bias, float *tile) {
    size_t width = packed_panel_rows(w->kind), to = (first + INNER) / width < w->panels ? (first + INNER) / width : w->panels;
    packed_multiply_rows(w, in, row, rows, first / width, to, &(struct packed_output){.y = tile, .stride = INNER, .bias = bias ? bias + first : NULL});
}

static void inner_item(void *arg, size_t item, int thread) {
    struct forward *f = arg;
    (void)thread;
    const struct matrix *w = f->w;
    const float *bias = f->layer->gate_up_bias;
    size_t F = f->config.ffn, first = item * INNER, count = F - first < INNER ? F - first : INNER;
    _Alignas(64) float gate[QUANT_TILE_ROWS * INNER], up[QUANT_TILE_ROWS * INNER];
    for (size_t row = 0; row < f->rows; row += QUANT_TILE_ROWS) {
        size_t rows = f->rows - row < QUANT_TILE_ROWS ? f->rows - row : QUANT_TILE_ROWS;
        inner_product(&w->part[0], f->w_input, row, rows, first, bias, gate);
        if (w->parts > 1) inner_product(&w->part[1], f->w_input, row, rows, first, bias ? bias + F : NULL, up);
        for (size_t i = 0; i < rows; i++) {
            float *y = f->act + (row + i) * F + first, *g = gate + i * INNER, *u = up + i * INNER;
            if (w->parts > 1 && f->config.activation == MODEL_ACT_SILU) kernels()->silu_mul(g, u, y, count);
            else activate(f->config.activation, g, y, count);
            for (size_t k = 0; w->parts > 1 && f->config.activation != MODEL_ACT_SILU && k < count; k++) y[k] *= u[k];
            packed_input_blocks(&f->act_input, row + i, first / QUANT_BLOCK, (first + count + QUANT_BLOCK - 1) / QUANT_BLOCK);
        }
    }
}

/* [R, C] → down's input, [R, F] */
static void mlp_inner(struct forward *f, const struct packed_input *in) {
    size_t F = f->config.ffn, items = (F + INNER - 1) / INNER;
    f->w = &f->layer->gate_up;
    f->w_input = in;
    packed_input_init(&f->act_input, f->blocks, f->rows, F, f->act, f->act_memory);
    if (in->n * F * in->cols * 2 >= INLINE_PRODUCT) pool_run(f->pool, items, f, inner_item);
    else
        for (size_t i = 0; i < items; i++) inner_item(f, i, 0);
}

/* --- sandwich: x += norm(branch), the branch being in h --- */

static void attn_post_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    size_t C = f->config.width;
    norm_row(f, &f->layer->attn_post_norm, f->h + row * C, f->h + row * C);
    kernels()->add(f->h + row * C, f->x + row * C, C);
}
static void mlp_post_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    size_t C = f->config.width;
    norm_row(f, &f->layer->mlp_post_norm, f->h + row * C, f->h + row * C);
    kernels()->add(f->h + row * C, f->x + row * C, C);
}

/* --- the step --- */

static void run_layer(struct forward *f, uint32_t index) {
    const struct model_config *c = &f->config;
    const struct layer *l = f->layer = &f->layers[index];
    size_t C = c->width, R = f->rows, D = c->head_dim, wide = (c->heads + 2 * (size_t)c->kv_heads) * D;
    bool sandwich = c->arch->norm_place == MODEL_NORM_SANDWICH, parallel = c->arch->norm_place == MODEL_NORM_PARALLEL;
    f->layer_index = index;

    /* attention: [R, C] → [R, (H + 2K) D] → [R, H D] → [R, C] */
    packed_input_init(&f->input, f->blocks, R, C, f->h, f->input_memory);
    if (f->h2) packed_input_init(&f->input2, f->blocks, R, C, f->h2, f->input2_memory);
    each_row(f, R, attn_norm_row);
    multiply(f, &l->qkv, &f->input, f->qkv, wide, l->qkv_bias, false);
    if (parallel) mlp_inner(f, l->mlp_norm.weight ? &f->input2 : &f->input); /* one norm may feed both: before its memory is used again */
    each_row(f, R, cache_row);
    packed_input_init(&f->input, f->blocks, R, c->heads * D, f->att, f->input_memory);
    pool_run(f->pool, f->work_before[f->item_count], f, attention_item);
    if (f->blocks && D % QUANT_BLOCK != 0) each_row(f, R, att_input_row);
    multiply(f, &l->o, &f->input, sandwich ? f->h : f->x, C, l->o_bias, !sandwich);
    if (sandwich) each_row(f, R, attn_post_row);

    /* MLP: [R, C] → [R, F] → [R, C] */
    if (!parallel) {
        packed_input_init(&f->input, f->blocks, R, C, f->h, f->input_memory);
        each_row(f, R, mlp_norm_row);
        mlp_inner(f, &f->input);
    }
    multiply(f, &l->down, &f->act_input, sandwich ? f->h : f->x, C, l->down_bias, !sandwich);
    if (sandwich) each_row(f, R, mlp_post_row);
}

void forward_step(struct forward *f, struct kv_cache *kv, const struct forward_item *items, size_t n) {
    size_t C = f->config.width, rows = 0, tiles = 0;
    for (size_t i = 0; i < n; i++) {
        ASSERT(items[i].count > 0 && items[i].outputs <= items[i].count && items[i].start + items[i].count <= f->context &&
               rows + items[i].count <= f->rows_max);
        struct tiling t = tiling_of(f, &items[i]);
        f->work_before[i] = tiles;
        f->item_row[i] = (uint32_t)rows;
        tiles += (size_t)t.row_parts * t.head_parts * f->config.kv_heads;
        for (uint32_t r = 0; r < items[i].count; r++) {
            ASSERT(items[i].tokens[r] < f->config.vocab);
            f->row_item[rows++] = (uint32_t)i;
        }
    }
    f->work_before[n] = tiles;
    f->kv = kv;
    f->items = items;
    f->item_count = n;
    f->rows = rows;
    f->outputs = 0;
    if (rows == 0) return;
    each_row(f, rows, embed_row);
    for (uint32_t i = 0; i < f->config.layers; i++) run_layer(f, i);
    size_t row = 0;
    for (size_t i = 0; i < n; i++) {
        row += items[i].count;
        for (size_t r = row - items[i].outputs; r < row; r++) norm_row(f, &f->final_norm, f->x + r * C, f->out + f->outputs++ * C);
    }
}

void forward_logits(struct forward *f, size_t first, size_t count, float *logits) {
    size_t C = f->config.width, V = f->config.vocab;
    ASSERT(first + count <= f->outputs);
    for (size_t i = 0; i < count; i += LOGITS_INPUT_ROWS) {
        size_t n = count - i < LOGITS_INPUT_ROWS ? count - i : LOGITS_INPUT_ROWS;
        packed_input_init(&f->input, f->blocks, n, C, f->out + (first + i) * C, f->input_memory);
        if (f->blocks)
            for (size_t r = 0; r < n; r++) packed_input_row(&f->input, r);
        multiply(f, &f->head, &f->input, logits + i * V, V, NULL, false);
    }
}

const float *forward_hidden(const struct forward *f) { return f->out; }
size_t forward_weights_size(const struct forward *f) { return f->memory_size; }

static size_t elements(const struct matrix *m) {
    size_t n = 0;
    for (uint32_t i = 0; i < m->parts; i++) n += m->part[i].rows * m->part[i].cols;
    return n;
}
void forward_multiply_adds(const struct forward *f, size_t *layers, size_t *logits) {
    *layers = 0;
    for (uint32_t i = 0; i < f->config.layers; i++) {
        const struct layer *l = &f->layers[i];
        *layers += elements(&l->qkv) + elements(&l->o) + elements(&l->gate_up) + elements(&l->down);
    }
    *logits = elements(&f->head);
}
enum packed_kind forward_weights_kind(const struct forward *f) { return f->layers[0].down.part[0].kind; }

void forward_kv_shape(const struct model_config *c, bool half, struct kv_shape *shape) {
    *shape = (struct kv_shape){.layers = c->layers, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .half = half};
}
