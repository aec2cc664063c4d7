/*
 * The step, read top to bottom: embed → layers (norm → q, k, v → rotate → cache → attention → o; norm → MLP) → final norm.
 * Letters: R rows of the step, C width, H heads, K kv heads, D head size, F the MLP's inner width, V vocabulary.
 * Work is handed to the pool in phases; between two phases lies a barrier, so whatever is small is done by the caller instead.
 */
#include "engine/forward.h"

#include <math.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "engine/attention.h"
#include "tensor/kernels.h"

enum {
    INLINE_ROWS = 4,             /* so few rows of element-wise work cost less than waking a thread (about 1 µs a row against 2–5) */
    INLINE_PRODUCT = 1 << 15,    /* multiply-adds: about 2 µs of one core */
    ITEMS_PER_THREAD = 4,        /* pieces of a product per thread: a thread that the system takes away delays a quarter of its share */
    LOGITS_INPUT_ROWS = 64,
};

struct norm {
    const float *weight, *bias; /* NULL weight: no such norm */
};
struct layer {
    struct norm attn_norm, mlp_norm, attn_post_norm, mlp_post_norm;
    const float *q_norm, *k_norm;
    struct packed qkv, o, gate_up, down; /* gate_up: up alone where the MLP is plain */
    const float *qkv_bias, *o_bias, *gate_up_bias, *down_bias;
};
struct forward {
    struct model_config config;
    enum packed_kind kind;
    bool blocks; /* x is quantized for the matrices */
    uint32_t rows_max, context;
    struct pool *pool;
    struct layer *layers;
    struct norm final_norm;
    struct packed head;
    const float *embed, *embed_positions; /* embed NULL: rows of head */
    float embed_scale;
    float *inv_freq; /* [rotary_dim / 2] */
    uint8_t *memory; /* packed weights */
    size_t memory_size, memory_used;
    float *vectors; /* norms and biases */
    size_t vectors_used, vectors_size;
    /* activations */
    void *scratch;
    size_t scratch_size;
    float *x, *h, *h2, *qkv, *att, *gate_up, *act, *rope, *out;
    void *input_memory, *input2_memory;
    float **attention_scratch; /* per thread */
    uint32_t outputs;
    /* the step in hand */
    struct kv_cache *kv;
    const struct forward_item *items;
    size_t item_count, rows;
    size_t *work_before; /* [items + 1] tiles of attention before this item */
    uint32_t *row_item;  /* [rows] */
    uint32_t *item_row;  /* [items] its first row */
    struct packed_input input, input2;
    const struct layer *layer;
    uint32_t layer_index;
    const struct packed *w;
    const struct packed_input *w_input;
    struct packed_output w_output;
    size_t w_panels;
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

static void run_panels(void *arg, size_t item, int thread) {
    struct forward *f = arg;
    (void)thread;
    size_t from = item * f->w_panels, to = from + f->w_panels < f->w->panels ? from + f->w_panels : f->w->panels;
    packed_multiply(f->w, f->w_input, from, to, &f->w_output);
}
/* y = W x (+ bias) (+ y) for all rows of the input. */
static void multiply(struct forward *f, const struct packed *w, const struct packed_input *in, float *y, size_t stride, const float *bias, bool add) {
    f->w = w;
    f->w_input = in;
    f->w_output = (struct packed_output){.y = y, .stride = stride, .bias = bias, .add = add};
    if (in->n * w->rows * w->cols < INLINE_PRODUCT) {
        packed_multiply(w, in, 0, w->panels, &f->w_output);
        return;
    }
    size_t pieces = (size_t)pool_threads(f->pool) * ITEMS_PER_THREAD;
    f->w_panels = (w->panels + pieces - 1) / pieces;
    pool_run(f->pool, (w->panels + f->w_panels - 1) / f->w_panels, f, run_panels);
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
    else packed_get_row(&f->head, token, x);
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
    case MODEL_ACT_GELU:
        for (size_t i = 0; i < n; i++) y[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678f));
        return;
    case MODEL_ACT_GELU_QUICK:
        for (size_t i = 0; i < n; i++) y[i] = x[i] / (1 + expf(-1.702f * x[i]));
        return;
    case MODEL_ACT_RELU:
        for (size_t i = 0; i < n; i++) y[i] = x[i] > 0 ? x[i] : 0;
        return;
    }
}

static void act_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    size_t F = f->config.ffn;
    float *y = f->act + row * F;
    if (f->config.arch->mlp == MODEL_MLP_PLAIN) activate(f->config.activation, f->gate_up + row * F, y, F);
    else {
        const float *gate = f->gate_up + row * 2 * F, *up = gate + F;
        if (f->config.activation == MODEL_ACT_SILU) kernels()->silu_mul(gate, up, y, F);
        else {
            activate(f->config.activation, gate, y, F);
            for (size_t i = 0; i < F; i++) y[i] *= up[i];
        }
    }
    packed_input_row(&f->input, row);
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
    size_t C = c->width, R = f->rows, D = c->head_dim, F = c->ffn, wide = (c->heads + 2 * (size_t)c->kv_heads) * D;
    size_t inner = c->arch->mlp == MODEL_MLP_GATED ? 2 * F : F;
    bool sandwich = c->arch->norm_place == MODEL_NORM_SANDWICH, parallel = c->arch->norm_place == MODEL_NORM_PARALLEL;
    f->layer_index = index;

    /* attention: [R, C] → [R, (H + 2K) D] → [R, H D] → [R, C] */
    packed_input_init(&f->input, f->blocks, R, C, f->h, f->input_memory);
    if (f->h2) packed_input_init(&f->input2, f->blocks, R, C, f->h2, f->input2_memory);
    each_row(f, R, attn_norm_row);
    multiply(f, &l->qkv, &f->input, f->qkv, wide, l->qkv_bias, false);
    if (parallel && !l->mlp_norm.weight) { /* one norm feeds both: the MLP takes attention's input, before its memory is used again */
        multiply(f, &l->gate_up, &f->input, f->gate_up, inner, l->gate_up_bias, false);
    } else if (parallel) multiply(f, &l->gate_up, &f->input2, f->gate_up, inner, l->gate_up_bias, false);
    each_row(f, R, cache_row);
    pool_run(f->pool, f->work_before[f->item_count], f, attention_item);
    packed_input_init(&f->input, f->blocks, R, c->heads * D, f->att, f->input_memory);
    if (f->blocks) each_row(f, R, att_input_row);
    multiply(f, &l->o, &f->input, sandwich ? f->h : f->x, C, l->o_bias, !sandwich);
    if (sandwich) each_row(f, R, attn_post_row);

    /* MLP: [R, C] → [R, F] → [R, C] */
    if (!parallel) {
        packed_input_init(&f->input, f->blocks, R, C, f->h, f->input_memory);
        each_row(f, R, mlp_norm_row);
        multiply(f, &l->gate_up, &f->input, f->gate_up, inner, l->gate_up_bias, false);
    }
    packed_input_init(&f->input, f->blocks, R, F, f->act, f->input_memory);
    each_row(f, R, act_row);
    multiply(f, &l->down, &f->input, sandwich ? f->h : f->x, C, l->down_bias, !sandwich);
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

void forward_kv_shape(const struct model_config *c, bool half, struct kv_shape *shape) {
    *shape = (struct kv_shape){.layers = c->layers, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .half = half};
}

/* --- loading --- */

enum { PARTS_MAX = 3 };
struct fill_job {
    struct packed *w;
    const float *part[PARTS_MAX];
    size_t part_rows[PARTS_MAX], cols;
    _Atomic int result;
};
static void fill_panel(void *arg, size_t panel, int thread) {
    struct fill_job *j = arg;
    (void)thread;
    const float *rows[PACKED_PANEL_MAX];
    size_t width = packed_panel_rows(j->w->kind);
    for (size_t i = 0; i < width; i++) {
        size_t r = panel * width + i, part = 0;
        while (part < PARTS_MAX && r >= j->part_rows[part]) r -= j->part_rows[part++];
        rows[i] = part < PARTS_MAX ? j->part[part] + r * j->cols : NULL;
    }
    int result = packed_fill(j->w, panel, rows);
    if (result != 0) atomic_store(&j->result, result);
}

/* One matrix of the parameters with these roles, one behind the other. With f->memory NULL only its size is counted. */
static int load_matrix(struct forward *f, const struct model_weights *weights, const enum model_role *roles, size_t n, uint32_t layer, struct packed *w,
                       struct error *err) {
    struct fill_job job = {.w = w};
    size_t rows = 0, size;
    for (size_t i = 0; i < n; i++) {
        ptrdiff_t at = model_weights_find(weights, roles[i], layer);
        if (at < 0) return error_set(err, E_INVALID, "the model has no %s in layer %u", model_role_name(roles[i]), layer);
        job.part[i] = weights->data[at];
        job.part_rows[i] = weights->params[at].rows;
        job.cols = weights->params[at].cols;
        rows += job.part_rows[i];
    }
    if (packed_size(f->kind, rows, job.cols, &size) != 0 || !size_add(f->memory_used, size, &size))
        return error_set(err, E_RANGE, "%s of %zu × %zu is too large", model_role_name(roles[0]), rows, job.cols);
    if (f->memory) {
        int r = packed_init(w, f->kind, rows, job.cols, f->memory + f->memory_used);
        if (r != 0) return r;
        pool_run(f->pool, w->panels, &job, fill_panel);
        if (job.result != 0) return error_set(err, E_INVALID, "%s of layer %u has values that are not finite or too large", model_role_name(roles[0]), layer);
    }
    f->memory_used = size;
    return 0;
}

static int load_matrices(struct forward *f, const struct model_weights *weights, struct error *err) {
    static const enum model_role qkv[] = {MODEL_ATTN_Q_W, MODEL_ATTN_K_W, MODEL_ATTN_V_W}, o[] = {MODEL_ATTN_O_W},
                                 gate_up[] = {MODEL_MLP_GATE_W, MODEL_MLP_UP_W}, down[] = {MODEL_MLP_DOWN_W}, head[] = {MODEL_LM_HEAD};
    size_t plain = f->config.arch->mlp == MODEL_MLP_PLAIN;
    int r = 0;
    f->memory_used = 0;
    for (uint32_t i = 0; i < f->config.layers && r == 0; i++) {
        struct layer *l = &f->layers[i];
        r = load_matrix(f, weights, qkv, 3, i, &l->qkv, err);
        if (r == 0) r = load_matrix(f, weights, o, 1, i, &l->o, err);
        if (r == 0) r = load_matrix(f, weights, gate_up + plain, 2 - plain, i, &l->gate_up, err);
        if (r == 0) r = load_matrix(f, weights, down, 1, i, &l->down, err);
    }
    return r != 0 ? r : load_matrix(f, weights, head, 1, 0, &f->head, err);
}

/* Copies vectors of these roles, one behind the other; NULL where the model has none of them. Absent ones between present ones are zeros of `sizes`. */
static const float *load_vectors(struct forward *f, const struct model_weights *weights, const enum model_role *roles, const size_t *sizes, size_t n,
                                 uint32_t layer) {
    bool any = false;
    for (size_t i = 0; i < n; i++) any |= model_weights_get(weights, roles[i], layer) != NULL;
    if (!any) return NULL;
    float *out = f->vectors + f->vectors_used;
    for (size_t i = 0; i < n; i++) {
        const float *v = model_weights_get(weights, roles[i], layer);
        ASSERT(f->vectors_used + sizes[i] <= f->vectors_size);
        if (v) memcpy(f->vectors + f->vectors_used, v, sizes[i] * sizeof *v);
        f->vectors_used += sizes[i];
    }
    return out;
}
static const float *load_vector(struct forward *f, const struct model_weights *weights, enum model_role role, size_t size, uint32_t layer) {
    return load_vectors(f, weights, &role, &size, 1, layer);
}
static struct norm load_norm(struct forward *f, const struct model_weights *weights, enum model_role weight, uint32_t layer) {
    struct norm n = {load_vector(f, weights, weight, f->config.width, layer), NULL};
    if (f->config.arch->norm_bias) n.bias = load_vector(f, weights, weight + 1, f->config.width, layer); /* ..._B follows ..._W */
    return n;
}
static struct norm load_post_norm(struct forward *f, const struct model_weights *weights, enum model_role weight, uint32_t layer) {
    return (struct norm){load_vector(f, weights, weight, f->config.width, layer), NULL};
}

static void plus_one(const struct forward *f, const float *v, size_t n) {
    if (!v || f->config.arch->norm != MODEL_NORM_RMS_PLUS_ONE) return;
    float *own = f->vectors + (v - f->vectors);
    for (size_t i = 0; i < n; i++) own[i] += 1;
}

static int load_small(struct forward *f, const struct model_weights *weights, struct error *err) {
    const struct model_config *c = &f->config;
    size_t C = c->width, D = c->head_dim, q = c->heads * D, k = c->kv_heads * D;
    size_t per_layer = 7 * C + 2 * D + q + 2 * k + 2 * (size_t)c->ffn + 2 * C;
    size_t embed_size = c->tie_embeddings ? 0 : (size_t)c->vocab * C, positions_size = c->arch->positions == MODEL_POS_LEARNED ? (size_t)c->context * C : 0;
    f->vectors_size = c->layers * per_layer + 2 * C + embed_size + positions_size + c->rotary_dim;
    f->vectors = quant_map(f->vectors_size * sizeof(float));
    if (!f->vectors) return error_set(err, E_NOMEM, "no memory for %zu MiB of embeddings", f->vectors_size * sizeof(float) >> 20);
    for (uint32_t i = 0; i < c->layers; i++) {
        struct layer *l = &f->layers[i];
        l->attn_norm = load_norm(f, weights, MODEL_ATTN_NORM_W, i);
        l->mlp_norm = load_norm(f, weights, MODEL_MLP_NORM_W, i);
        l->attn_post_norm = load_post_norm(f, weights, MODEL_ATTN_POST_NORM_W, i);
        l->mlp_post_norm = load_post_norm(f, weights, MODEL_MLP_POST_NORM_W, i);
        l->q_norm = load_vector(f, weights, MODEL_ATTN_Q_NORM_W, D, i);
        l->k_norm = load_vector(f, weights, MODEL_ATTN_K_NORM_W, D, i);
        l->qkv_bias = load_vectors(f, weights, (enum model_role[]){MODEL_ATTN_Q_B, MODEL_ATTN_K_B, MODEL_ATTN_V_B}, (size_t[]){q, k, k}, 3, i);
        l->o_bias = load_vector(f, weights, MODEL_ATTN_O_B, C, i);
        l->gate_up_bias = c->arch->mlp == MODEL_MLP_PLAIN
                              ? load_vector(f, weights, MODEL_MLP_UP_B, c->ffn, i)
                              : load_vectors(f, weights, (enum model_role[]){MODEL_MLP_GATE_B, MODEL_MLP_UP_B}, (size_t[]){c->ffn, c->ffn}, 2, i);
        l->down_bias = load_vector(f, weights, MODEL_MLP_DOWN_B, C, i);
        plus_one(f, l->attn_norm.weight, C);
        plus_one(f, l->mlp_norm.weight, C);
        plus_one(f, l->attn_post_norm.weight, C);
        plus_one(f, l->mlp_post_norm.weight, C);
        plus_one(f, l->q_norm, D);
        plus_one(f, l->k_norm, D);
        if (!l->attn_norm.weight || (c->arch->norm_place != MODEL_NORM_PARALLEL && !l->mlp_norm.weight) ||
            (c->arch->norm_place == MODEL_NORM_SANDWICH && (!l->attn_post_norm.weight || !l->mlp_post_norm.weight)))
            return error_set(err, E_INVALID, "the model lacks a norm in layer %u", i);
    }
    f->final_norm = load_norm(f, weights, MODEL_FINAL_NORM_W, 0);
    if (!f->final_norm.weight) return error_set(err, E_INVALID, "the model has no final norm");
    plus_one(f, f->final_norm.weight, C);
    if (!c->tie_embeddings && !(f->embed = load_vector(f, weights, MODEL_EMBED_TOKENS, (size_t)c->vocab * C, 0)))
        return error_set(err, E_INVALID, "the model has no token embeddings");
    if (positions_size && !(f->embed_positions = load_vector(f, weights, MODEL_EMBED_POSITIONS, positions_size, 0)))
        return error_set(err, E_INVALID, "the model has no position embeddings");
    f->embed_scale = c->arch->embed_scaled ? sqrtf((float)C) : 1;
    if (c->arch->positions == MODEL_POS_ROPE) {
        f->inv_freq = f->vectors + f->vectors_used;
        model_rope_frequencies(c, f->inv_freq);
    }
    return 0;
}

static void *take(uint8_t **at, size_t size) {
    void *p = *at;
    *at += (size + 63) & ~(size_t)63;
    return p;
}

/* Activations of rows_max rows. The sizes are products of a checked config's numbers and FORWARD_ROWS_MAX: below 2^46. */
static int make_scratch(struct forward *f, struct error *err) {
    const struct model_config *c = &f->config;
    size_t R = f->rows_max, C = c->width, D = c->head_dim, F = c->ffn, wide = (c->heads + 2 * (size_t)c->kv_heads) * D, q = c->heads * D;
    size_t inner = c->arch->mlp == MODEL_MLP_GATED ? 2 * F : F;
    size_t widest = C > q ? C : q;
    widest = F > widest ? F : widest;
    size_t input_rows = R > LOGITS_INPUT_ROWS ? R : LOGITS_INPUT_ROWS;
    size_t input_size = packed_input_size(input_rows, widest), attention = attention_scratch_size(f->context);
    int threads = pool_threads(f->pool);
    bool parallel = c->arch->norm_place == MODEL_NORM_PARALLEL;
    f->scratch_size = (R * (C * 4 + wide + q + inner + F + c->rotary_dim)) * sizeof(float) + 2 * input_size + (size_t)threads * (attention + 64) +
                      (size_t)threads * sizeof(float *) + (R + 1) * sizeof(size_t) + 2 * R * sizeof(uint32_t) + 64 * 32;
    f->scratch = quant_map(f->scratch_size);
    if (!f->scratch) return error_set(err, E_NOMEM, "no memory for activations (%zu MiB)", f->scratch_size >> 20);
    uint8_t *at = f->scratch;
    f->x = take(&at, R * C * sizeof(float));
    f->h = take(&at, R * C * sizeof(float));
    if (parallel) f->h2 = take(&at, R * C * sizeof(float));
    f->out = take(&at, R * C * sizeof(float));
    f->qkv = take(&at, R * wide * sizeof(float));
    f->att = take(&at, R * q * sizeof(float));
    f->gate_up = take(&at, R * inner * sizeof(float));
    f->act = take(&at, R * F * sizeof(float));
    f->rope = take(&at, R * c->rotary_dim * sizeof(float));
    f->input_memory = take(&at, input_size);
    f->input2_memory = take(&at, input_size);
    f->work_before = take(&at, (R + 1) * sizeof(size_t));
    f->row_item = take(&at, R * sizeof(uint32_t));
    f->item_row = take(&at, R * sizeof(uint32_t));
    f->attention_scratch = take(&at, (size_t)threads * sizeof(float *));
    for (int i = 0; i < threads; i++) f->attention_scratch[i] = take(&at, attention);
    ASSERT(at <= (uint8_t *)f->scratch + f->scratch_size);
    return 0;
}

int forward_new(struct forward **out, const struct model_weights *weights, enum packed_kind kind, uint32_t rows_max, uint32_t context, struct pool *pool,
                struct error *err) {
    const struct model_config *c = &weights->config;
    ASSERT(rows_max > 0 && rows_max <= FORWARD_ROWS_MAX && context > 0 && context <= c->context);
    if (c->arch->kind != MODEL_DECODER || c->arch->norm_place == MODEL_NORM_POST)
        return error_set(err, E_UNSUPPORTED, "generation with %s models is not built yet", c->arch->name);
    struct forward *f = mem_zalloc(sizeof *f);
    if (!f) return error_set(err, E_NOMEM, "no memory for a model");
    f->config = *c;
    f->kind = kind;
    f->blocks = packed_kind_is_blocks(kind);
    f->rows_max = rows_max;
    f->context = context;
    f->pool = pool;
    int r = E_NOMEM;
    f->layers = mem_calloc(c->layers, sizeof *f->layers);
    if (!f->layers) {
        error_set(err, r, "no memory for a model");
        goto out;
    }
    if ((r = load_matrices(f, weights, err)) != 0) goto out; /* sizes only */
    f->memory_size = f->memory_used;
    f->memory = quant_map(f->memory_size);
    if (!f->memory) {
        r = error_set(err, E_NOMEM, "no memory for weights (%zu MiB)", f->memory_size >> 20);
        goto out;
    }
    if ((r = load_matrices(f, weights, err)) != 0 || (r = load_small(f, weights, err)) != 0 || (r = make_scratch(f, err)) != 0) goto out;
    *out = f;
    f = NULL;
out:
    forward_free(f);
    return r;
}

void forward_free(struct forward *f) {
    if (!f) return;
    quant_unmap(f->memory, f->memory_size);
    quant_unmap(f->vectors, f->vectors_size * sizeof(float));
    quant_unmap(f->scratch, f->scratch_size);
    mem_free(f->layers);
    mem_free(f);
}
