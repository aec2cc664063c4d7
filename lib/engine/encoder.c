/*
 * The pass, read top to bottom: embed → layers (q, k, v → attention → o; MLP; norms before or behind) → pool → classifier.
 * Letters: R rows of the pass, C width, H heads, D head size, Q = H D, F the MLP's inner width, T tokens of a text.
 *
 * Between two attentions every row goes its own way: o, norm, MLP, norm, and q, k, v of the next layer are a list of steps (struct encoder_step). With many rows a
 * thread takes a few of them through the whole list, so that what it wrote is still in its cache and threads meet twice per layer only; with few rows the matrices
 * are split between the threads instead, step by step.
 */
#include "engine/encoder.h"

#include <math.h>

#include "base/alloc.h"
#include "engine/attention.h"
#include "engine/encoder_internal.h"
#include "engine/kv_cache.h"
#include "engine/position_bias.h"
#include "tensor/kernels.h"

enum {
    QUERIES_PER_ITEM = 64,   /* of attention */
    ROWS_PER_STEP_MAX = 96,  /* 16 tiles: a thread's rows of the MLP stay in its cache */
    ROWS_PER_TILED_STEP_MAX = 192, /* where W is widened once for them */
    ROWS_PER_THREAD_MIN = 2 * QUANT_TILE_ROWS, /* fewer: the matrices are split */
    PIECES_PER_THREAD = 2,   /* a thread that the system takes away delays half of its share */
    HEADS_PER_THREAD_MIN = 8, /* of attention; fewer: a head is split, or threads would wait for the last one */
    STEPS_MAX = 10,
};

/* A product, or something done to each row. */
struct encoder_step {
    const struct packed *w;
    const struct packed_input *in;
    float *y;
    size_t stride;
    const float *bias;
    bool add;
    void (*row)(struct encoder *e, const struct encoder_step *s, size_t row);
    const struct encoder_norm *norm; /* of `row` */
    struct packed_input *ready;      /* of `row`: what it made is made ready for a product */
};

/* --- running a list of steps --- */

static void product(const struct encoder_step *s, size_t row, size_t rows, size_t panel, size_t panels) {
    size_t first = panel * packed_panel_rows(s->w->kind);
    struct packed_output out = {.y = s->y + row * s->stride + first, .stride = s->stride, .bias = s->bias ? s->bias + first : NULL, .add = s->add};
    packed_multiply_rows(s->w, s->in, row, rows, panel, panels, &out);
}

static void run_rows(void *arg, size_t item, int thread) {
    struct encoder *e = arg;
    (void)thread;
    size_t unit = e->step_unit, tiles = (e->rows + unit - 1) / unit, from = item * tiles / e->step_pieces * unit, to = (item + 1) * tiles / e->step_pieces * unit;
    size_t rows = (to < e->rows ? to : e->rows) - from;
    for (const struct encoder_step *s = e->steps; s < e->steps + e->step_count; s++) {
        if (s->w) product(s, from, rows, 0, s->w->panels);
        else
            for (size_t row = from; row < from + rows; row++) s->row(e, s, row);
    }
}

static void run_panels(void *arg, size_t from, size_t to, int thread) {
    struct encoder *e = arg;
    (void)thread;
    product(e->steps, 0, e->rows, from, to);
}

static void run_steps(struct encoder *e, const struct encoder_step *steps, size_t n) {
    size_t threads = (size_t)pool_active(e->pool), pieces = threads * PIECES_PER_THREAD;
    e->steps = steps;
    e->step_count = n;
    if (threads == 1 || e->rows >= threads * ROWS_PER_THREAD_MIN) {
        /* whole tiles, and as many pieces for one thread as for the others: all are done at the same time */
        size_t unit = e->step_unit, tiles = (e->rows + unit - 1) / unit, most = (unit > QUANT_TILE_ROWS ? ROWS_PER_TILED_STEP_MAX : ROWS_PER_STEP_MAX) / unit;
        while (tiles > pieces * most) pieces += threads;
        e->step_pieces = tiles < pieces ? tiles : pieces;
        pool_run(e->pool, e->step_pieces, e, run_rows);
        return;
    }
    for (; e->step_count > 0; e->steps++, e->step_count--) {
        if (e->steps->w) pool_run_pieces(e->pool, e->steps->w->panels, e, run_panels);
        else
            for (size_t row = 0; row < e->rows; row++) e->steps->row(e, e->steps, row);
    }
}

/* --- what is done to a row --- */

static void norm_row(const struct encoder *e, const struct encoder_norm *n, const float *x, float *y) {
    const struct model_config *c = &e->dir.config;
    float mean, rstd;
    if (n->weight && c->arch->norm == MODEL_NORM_RMS) kernels()->rmsnorm(x, n->weight, c->norm_eps, y, c->width);
    else if (n->weight) kernels()->layernorm(x, n->weight, n->bias, c->norm_eps, y, &mean, &rstd, c->width);
    else if (y != x) memcpy(y, x, c->width * sizeof *y);
}

static void embed_row(struct encoder *e, const struct encoder_step *s, size_t row) {
    const struct model_config *c = &e->dir.config;
    const struct encoder_text *t = &e->texts[e->row_text[row]];
    size_t C = c->width, position = row - e->text_row[e->row_text[row]];
    float *x = e->x + row * C;
    if (e->embeddings) packed_get_row(e->embeddings, t->ids[position], x);
    else memcpy(x, e->embed + t->ids[position] * C, C * sizeof *x);
    if (e->embed_types) kernels()->add(e->embed_types + (t->types ? t->types[position] : 0) * C, x, C);
    if (e->embed_positions) kernels()->add(e->embed_positions + e->row_position[row] * C, x, C);
    norm_row(e, s->norm, x, x);
}

/* x → what the matrices take. */
static void ready_row(struct encoder *e, const struct encoder_step *s, size_t row) {
    size_t C = e->dir.config.width;
    norm_row(e, s->norm, e->x + row * C, e->h + row * C);
    packed_input_row(s->ready, row);
}

static void attended_row(struct encoder *e, const struct encoder_step *s, size_t row) {
    (void)e;
    packed_input_row(s->ready, row);
}

static void activate(enum model_activation a, const float *x, float *y, size_t n) {
    switch (a) {
    case MODEL_ACT_GELU_TANH: kernels()->gelu(x, y, n); return;
    case MODEL_ACT_GELU: kernels()->gelu_erf(x, y, n); return;
    case MODEL_ACT_SILU:
        for (size_t i = 0; i < n; i++) y[i] = x[i] / (1 + expf(-x[i]));
        return;
    case MODEL_ACT_GELU_QUICK:
        for (size_t i = 0; i < n; i++) y[i] = x[i] / (1 + expf(-1.702f * x[i]));
        return;
    case MODEL_ACT_RELU:
        for (size_t i = 0; i < n; i++) y[i] = x[i] > 0 ? x[i] : 0;
        return;
    }
}

static void act_row(struct encoder *e, const struct encoder_step *s, size_t row) {
    const struct model_config *c = &e->dir.config;
    size_t F = c->ffn;
    float *y = e->act + row * F;
    if (c->mlp == MODEL_MLP_PLAIN) activate(c->activation, y, y, F);
    else {
        const float *gate = e->up + row * 2 * F;
        activate(c->activation, gate, y, F);
        for (size_t i = 0; i < F; i++) y[i] *= gate[F + i];
    }
    packed_input_row(s->ready, row);
}

/* --- attention --- */

static bool is_local(const struct encoder *e) { return e->dir.config.local_window && e->layer_index % e->dir.config.global_every; }

/* Of one head, from a text's first block on: keys of block b at [2 b], values at [2 b + 1], each [16 D]. */
static float *head_tiles(const struct encoder *e, size_t text, size_t head) {
    size_t D = e->dir.config.head_dim;
    return e->tiles + (head * e->blocks_used + e->text_block[text]) * 2 * KV_BLOCK_TOKENS * D;
}

/* Item: a head of a text. Rotates q and k and lays keys ([D][16]) and values ([16][D]) out. */
static void arrange_item(void *arg, size_t item, int thread) {
    struct encoder *e = arg;
    const struct model_config *c = &e->dir.config;
    (void)thread;
    size_t text = item / c->heads, head = item % c->heads, D = c->head_dim, Q = c->heads * D, T = e->texts[text].count;
    float *block = head_tiles(e, text, head);
    const float *rope = e->rope[is_local(e)];
    for (size_t t = 0; t < T; t += KV_BLOCK_TOKENS, block += 2 * KV_BLOCK_TOKENS * D) {
        size_t n = T - t < KV_BLOCK_TOKENS ? T - t : KV_BLOCK_TOKENS;
        float *q = e->qkv + (e->text_row[text] + t) * 3 * Q + head * D, *k = q + Q, *v = k + Q;
        for (size_t i = 0; i < n && rope; i++) {
            kernels()->rope(q + i * 3 * Q, rope + (t + i) * D, 1, 1, D);
            kernels()->rope(k + i * 3 * Q, rope + (t + i) * D, 1, 1, D);
        }
        kernels()->transpose(k, 3 * Q, n, D, block, KV_BLOCK_TOKENS);
        for (size_t i = 0; i < n; i++) memcpy(block + (KV_BLOCK_TOKENS + i) * D, v + i * 3 * Q, D * sizeof *v);
    }
}

/* Blocks [b, b + count) of a head's keys or values, floats, and what is read next, before `end`. */
static void place(const void **places, const float *tile, size_t block_size, size_t b, size_t count, size_t end) {
    for (size_t i = 0; i < count + ATTENTION_AHEAD; i++) places[i] = tile + (b + i < end ? b + i : end - 1) * block_size;
}

/* softmax(q Kᵀ / √D) V of up to ATTENTION_TILE queries from `first` on. A query's result depends on its own position and the text alone: which tokens it sees is
 * counted in whole blocks from the text's begin, and what others of the tile see beyond adds nothing. */
static void attend(const struct encoder *e, size_t text, size_t head, size_t first, size_t n, float *scratch) {
    enum { BLOCKS = 32 };
    const struct model_config *c = &e->dir.config;
    const struct attention_kernels *k = attention_kernels();
    size_t D = c->head_dim, Q = c->heads * D, T = e->texts[text].count, block_size = 2 * KV_BLOCK_TOKENS * D, window = is_local(e) ? c->local_window : T;
    const float *tile = head_tiles(e, text, head);
    const float *q[ATTENTION_TILE];
    float *out[ATTENTION_TILE];
    const float *positions = e->layers[e->layer_index].positions, *bias = positions ? position_bias_head(c, positions, (uint32_t)head, true) : NULL;
    size_t low = first > window ? first - window : 0, high = first + n - 1 + window < T ? first + n + window : T;
    size_t from = low / KV_BLOCK_TOKENS, to = (high + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS, origin = from * KV_BLOCK_TOKENS, stride = (to - from) * KV_BLOCK_TOKENS;
    for (size_t i = 0; i < n; i++) {
        size_t row = e->text_row[text] + first + i;
        q[i] = e->qkv + row * 3 * Q + head * D;
        out[i] = e->att + row * Q + head * D;
    }
    const void *places[BLOCKS + ATTENTION_AHEAD];
    for (size_t b = from; b < to; b += BLOCKS) {
        size_t count = to - b < BLOCKS ? to - b : BLOCKS;
        place(places, tile, block_size, b, count, to);
        k->scores(q, n, places, count, false, D, scratch + (b - from) * KV_BLOCK_TOKENS, stride);
    }
    for (size_t i = 0; i < n; i++) {
        float *row = scratch + i * stride;
        size_t at = first + i, begin = (at > window ? at - window : 0) - origin, end = (at + window < T ? at + window + 1 : T) - origin;
        if (bias) position_bias_add(bias, c->position_distance, c->attn_scale, at, origin + begin, end - begin, row + begin);
        kernels()->softmax(row + begin, bias ? 1 : c->attn_scale, end - begin);
        memset(row, 0, begin * sizeof *row);
        memset(row + end, 0, (stride - end) * sizeof *row);
        memset(out[i], 0, D * sizeof(float));
    }
    for (size_t b = from; b < to; b += BLOCKS) {
        size_t count = to - b < BLOCKS ? to - b : BLOCKS, left = T - b * KV_BLOCK_TOKENS; /* never beyond what was written: 0 · nan is nan */
        place(places, tile + KV_BLOCK_TOKENS * D, block_size, b, count, to);
        k->values(scratch + (b - from) * KV_BLOCK_TOKENS, n, stride, places, left < count * KV_BLOCK_TOKENS ? left : count * KV_BLOCK_TOKENS, false, D, out);
    }
}

/* Item: some queries of a head of a text. */
static void attention_item(void *arg, size_t item, int thread) {
    struct encoder *e = arg;
    size_t H = e->dir.config.heads, part = item % e->parts, head = item / e->parts % H, text = item / e->parts / H, T = e->texts[text].count;
    size_t from = part * QUERIES_PER_ITEM, to = from + QUERIES_PER_ITEM < T ? from + QUERIES_PER_ITEM : T;
    for (size_t first = from; first < to; first += ATTENTION_TILE)
        attend(e, text, head, first, to - first < ATTENTION_TILE ? to - first : ATTENTION_TILE, e->attention_scratch[thread]);
}

/* Item: a head of a text, whose keys and values then are in the cache of the thread that laid them out. */
static void head_item(void *arg, size_t item, int thread) {
    struct encoder *e = arg;
    arrange_item(e, item, thread);
    for (size_t part = 0; part < e->parts; part++) attention_item(e, item * e->parts + part, thread);
}

static void attention(struct encoder *e) {
    size_t heads = e->text_count * e->dir.config.heads;
    if (heads >= (size_t)pool_active(e->pool) * HEADS_PER_THREAD_MIN) {
        pool_run(e->pool, heads, e, head_item);
        return;
    }
    pool_run(e->pool, heads, e, arrange_item);
    pool_run(e->pool, heads * e->parts, e, attention_item);
}

/* --- the layers --- */

static struct encoder_step times(const struct packed *w, const struct packed_input *in, float *y, const float *bias, bool add) {
    return (struct encoder_step){.w = w, .in = in, .y = y, .stride = w->rows, .bias = bias, .add = add};
}

static void enter_layers(struct encoder *e) {
    static const struct encoder_norm none = {NULL, NULL};
    const struct encoder_layer *l = e->layers;
    struct encoder_step s[STEPS_MAX];
    size_t n = 0;
    s[n++] = (struct encoder_step){.row = embed_row, .norm = &e->embed_norm};
    s[n++] = (struct encoder_step){.row = ready_row, .norm = e->post ? &none : &l->attn_norm, .ready = &e->in_h};
    s[n++] = times(&l->qkv, &e->in_h, e->qkv, l->qkv_bias, false);
    run_steps(e, s, n);
    e->layers_done = 0;
}

static void run_layers(struct encoder *e, uint32_t count) {
    const struct model_config *c = &e->dir.config;
    const struct encoder_layer *l = e->layers + e->layers_done;
    struct encoder_step s[STEPS_MAX];
    for (uint32_t end = e->layers_done + count; e->layers_done < end; e->layers_done++, l++) {
        bool last = e->layers_done + 1 == c->layers;
        size_t n = 0;
        e->layer_index = e->layers_done;
        attention(e);
        if (e->prepared) s[n++] = (struct encoder_step){.row = attended_row, .ready = &e->in_att};
        s[n++] = times(&l->o, &e->in_att, e->x, l->o_bias, true);
        s[n++] = (struct encoder_step){.row = ready_row, .norm = e->post ? &l->attn_norm : &l->mlp_norm, .ready = &e->in_h};
        s[n++] = times(&l->up, &e->in_h, e->up, l->up_bias, false);
        s[n++] = (struct encoder_step){.row = act_row, .ready = &e->in_act};
        s[n++] = times(&l->down, &e->in_act, e->x, l->down_bias, true);
        s[n++] = (struct encoder_step){.row = ready_row, .norm = e->post ? &l->mlp_norm : last ? &e->final_norm : &l[1].attn_norm, .ready = &e->in_h};
        if (!last) s[n++] = times(&l[1].qkv, &e->in_h, e->qkv, l[1].qkv_bias, false);
        run_steps(e, s, n);
    }
}

/* --- from tokens to a text --- */

static void pool_text(const struct encoder *e, size_t text, enum encoder_pooling pooling, float *out) {
    size_t C = e->dir.config.width, T = e->texts[text].count;
    const float *rows = e->h + e->text_row[text] * C;
    if (pooling != ENCODER_MEAN) {
        memcpy(out, pooling == ENCODER_CLS ? rows : rows + (T - 1) * C, C * sizeof *out);
        return;
    }
    memset(out, 0, C * sizeof *out);
    for (size_t t = 0; t < T; t++) kernels()->add(rows + t * C, out, C);
    kernels()->scale(1.0f / (float)T, out, C);
}

static void to_length_1(float *x, size_t n) {
    double length = sqrt(kernels()->sum_squares(x, n));
    kernels()->scale((float)(1 / (length > 1e-12 ? length : 1e-12)), x, n); /* torch's F.normalize */
}

/* y = W x of all texts; few rows, small matrices. */
static void head_product(struct encoder *e, const struct packed *w, const float *x, const float *bias, float *y) {
    struct packed_input in;
    packed_input_init(&in, e->form, e->text_count, w->cols, x, e->input_memory[0]);
    for (size_t i = 0; i < e->text_count; i++) packed_input_row(&in, i);
    packed_multiply(w, &in, 0, w->panels, &(struct packed_output){.y = y, .stride = w->rows, .bias = bias});
}

static void run_classifier(struct encoder *e) {
    const struct model_config *c = &e->dir.config;
    size_t C = c->width;
    for (size_t i = 0; i < e->text_count; i++) pool_text(e, i, c->head_mean ? ENCODER_MEAN : ENCODER_CLS, e->pooled + i * C);
    head_product(e, &e->head_dense, e->pooled, e->head_dense_bias, e->dense);
    for (size_t i = 0; i < e->text_count; i++) {
        float *x = e->dense + i * C;
        if (c->arch->head == MODEL_HEAD_TANH)
            for (size_t k = 0; k < C; k++) x[k] = tanhf(x[k]);
        else activate(c->arch->head == MODEL_HEAD_RELU ? MODEL_ACT_RELU : c->head_activation, x, x, C);
        if (e->head_norm.weight) norm_row(e, &e->head_norm, x, x);
    }
    head_product(e, &e->head_out, e->dense, e->head_out_bias, e->scores);
}

/* The rows of EMBED_POSITIONS. RoBERTa does not count padding, and gives it the row of the padding token, wherever it stands. */
static void find_positions(struct encoder *e, const struct encoder_text *t, uint32_t *rows) {
    const struct model_config *c = &e->dir.config;
    uint32_t next = c->position_offset;
    for (size_t i = 0; i < t->count; i++) rows[i] = c->arch->positions_after_pad && t->ids[i] == c->position_offset - 1 ? c->position_offset - 1 : next++;
}

void encoder_begin(struct encoder *e, const struct encoder_text *texts, size_t n) {
    const struct model_config *c = &e->dir.config;
    size_t rows = 0, blocks = 0, longest = 0;
    for (size_t i = 0; i < n; i++) {
        e->text_row[i] = (uint32_t)rows;
        e->text_block[i] = (uint32_t)blocks;
        find_positions(e, &texts[i], e->row_position + rows);
        for (size_t t = 0; t < texts[i].count; t++) e->row_text[rows++] = (uint32_t)i;
        blocks += (texts[i].count + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
        longest = texts[i].count > longest ? texts[i].count : longest;
    }
    ASSERT(rows <= e->rows_max && n <= e->texts_max);
    e->texts = texts;
    e->text_count = n;
    e->rows = rows;
    e->step_unit = e->prepared && quant_kernels()->tiles_of_blocks ? QUANT_SIDE : QUANT_TILE_ROWS;
    e->blocks_used = blocks;
    e->parts = (longest + QUERIES_PER_ITEM - 1) / QUERIES_PER_ITEM;
    struct packed_form form = e->form;
    form.read = rows;
    packed_input_init(&e->in_h, form, rows, c->width, e->h, e->input_memory[0]);
    packed_input_init(&e->in_att, form, rows, c->heads * (size_t)c->head_dim, e->att, e->input_memory[1]);
    packed_input_init(&e->in_act, form, rows, c->ffn, e->act, e->input_memory[2]);
    enter_layers(e);
}

bool encoder_advance(struct encoder *e, uint32_t layers) {
    uint32_t left = e->dir.config.layers - e->layers_done;
    run_layers(e, layers < left ? layers : left);
    return e->layers_done == e->dir.config.layers;
}

const float *encoder_rows(const struct encoder *e, size_t text) { return e->h + (size_t)e->text_row[text] * e->dir.config.width; }

static void run_pass(struct encoder *e, const struct encoder_text *texts, size_t n) {
    const struct model_config *c = &e->dir.config;
    bool score = false;
    for (size_t i = 0; i < n; i++) score |= texts[i].score;
    encoder_begin(e, texts, n);
    encoder_advance(e, c->layers);
    if (score) run_classifier(e);
    for (size_t i = 0; i < n; i++) {
        if (texts[i].score) {
            memcpy(texts[i].out, e->scores + i * c->labels, c->labels * sizeof(float));
            continue;
        }
        pool_text(e, i, texts[i].pooling, texts[i].out);
        if (texts[i].normalize) to_length_1(texts[i].out, c->width);
    }
}

int encoder_check(const struct encoder *e, const struct encoder_text *t, struct error *err) {
    const struct model_config *c = &e->dir.config;
    if (t->score && c->labels == 0) return error_set_param(err, E_UNSUPPORTED, "model", "the model has no classifier (its config.json names no class ...ForSequenceClassification): it embeds");
    if (t->count == 0) return error_set_param(err, E_INVALID, "input", "a text has no tokens");
    if (t->count > e->tokens_max) return error_set_param(err, E_RANGE, "input", "a text has %zu tokens; this model takes at most %u", t->count, e->tokens_max);
    for (size_t i = 0; i < t->count; i++) {
        if (t->ids[i] >= c->vocab) return error_set_param(err, E_INVALID, "input", "token id %u is beyond the vocabulary of %u", t->ids[i], c->vocab);
        if (t->types && t->types[i] >= (c->types ? c->types : 1))
            return error_set_param(err, E_INVALID, "token_types", "token type %u is beyond the %u of this model", t->types[i], c->types ? c->types : 1);
    }
    return 0;
}

void encoder_run(struct encoder *e, const struct encoder_text *texts, size_t n) {
    for (size_t done = 0; done < n;) {
        size_t count = 0, rows = 0;
        while (done + count < n && count < e->texts_max && rows + texts[done + count].count <= e->rows_max) rows += texts[done + count++].count;
        ASSERT(count > 0);
        run_pass(e, texts + done, count);
        done += count;
    }
}

void encoder_probabilities(const struct encoder *e, float *logits) {
    size_t n = e->dir.config.labels;
    if (n > 1 && !e->settings.multi_label) kernels()->softmax(logits, 1, n);
    else
        for (size_t i = 0; i < n; i++) logits[i] = 1 / (1 + expf(-logits[i]));
}

/* --- what is asked of it --- */

const struct model_config *encoder_model(const struct encoder *e) { return &e->dir.config; }
const struct tokenizer *encoder_tokenizer(const struct encoder *e) { return e->dir.tokenizer; }
const struct encoder_settings *encoder_settings(const struct encoder *e) { return &e->settings; }
uint32_t encoder_tokens_max(const struct encoder *e) { return e->tokens_max; }
uint32_t encoder_pass_rows(const struct encoder *e) { return e->pass_rows; }
uint32_t encoder_texts_max(const struct encoder *e) { return e->texts_max; }
size_t encoder_memory(const struct encoder *e) { return e->memory.used + e->vectors_size * sizeof(float) + e->scratch_size; }
void encoder_set_threads(struct encoder *e, int threads) {
    int most = pool_threads(e->pool);
    pool_set_active(e->pool, threads < 1 ? 1 : threads > most ? most : threads);
}

int encoder_new_beside(struct encoder **out, const struct model_weights *weights, enum packed_kind kind, uint32_t tokens_max, const struct packed *embeddings, struct pool *pool,
                       const struct packed_cache *cache, struct error *err) {
    struct encoder *e = mem_zalloc(sizeof *e);
    if (!e) return error_set(err, E_NOMEM, "no memory for a model");
    e->dir.config = weights->config;
    e->dir.config.layers = weights->config.encoder_layers;
    e->dir.config.encoder_layers = 0;
    e->dir.config.context = tokens_max;
    e->first_layer = weights->config.layers;
    e->weights = weights;
    e->embeddings = embeddings;
    e->kind = kind;
    e->pool = pool;
    e->pool_borrowed = true;
    int r = encoder_load(e, cache, err);
    e->weights = NULL;
    if (r != 0) encoder_free(e);
    else *out = e;
    return r;
}

int encoder_new_from(struct encoder **out, struct model_dir *dir, struct encoder_settings *settings, const struct encoder_options *options, struct error *err) {
    int r = 0;
    struct encoder *e = mem_zalloc(sizeof *e);
    if (!e) {
        model_dir_fini(dir);
        if (settings) encoder_settings_fini(settings);
        return error_set(err, E_NOMEM, "no memory for a model");
    }
    e->dir = *dir;
    *dir = (struct model_dir){.tokenizer = NULL};
    if (settings) {
        e->settings = *settings;
        *settings = (struct encoder_settings){.labels = NULL};
    }
    e->kind = options->weights;
    e->weights = &e->dir.weights;
    if (e->dir.config.arch->kind != MODEL_ENCODER) r = error_set(err, E_UNSUPPORTED, "%s is no encoder", e->dir.config.arch->name);
    else if (!(e->pool = pool_new(options->threads))) r = error_set(err, E_NOMEM, "no memory for threads");
    else r = encoder_load(e, &options->packed, err);
    model_weights_fini(&e->dir.weights);
    e->weights = NULL;
    if (r != 0) encoder_free(e);
    else *out = e;
    return r;
}

int encoder_new(struct encoder **out, const char *path, const struct encoder_options *options, struct error *err) {
    struct model_dir dir = {.tokenizer = NULL};
    struct encoder_settings settings = {.labels = NULL};
    struct encoder_options o = *options;
    char identity[SHA256_HEX_MAX];
    /* before it is read: a model that is replaced meanwhile has no copy under the new one's name */
    if (o.packed.dir && !o.packed.identity && packed_cache_identity(path, identity, NULL) == 0) o.packed.identity = identity;
    int r = model_dir_load(&dir, path, MODEL_WEIGHTS_MAP, 0, err);
    if (r == 0) r = encoder_settings_load(&settings, path, &dir, err);
    if (r == 0) return encoder_new_from(out, &dir, &settings, &o, err);
    model_dir_fini(&dir);
    encoder_settings_fini(&settings);
    return r;
}

void encoder_free(struct encoder *e) {
    if (!e) return;
    matrix_memory_fini(&e->memory);
    quant_unmap(e->vectors, e->vectors_size * sizeof(float));
    quant_unmap(e->scratch, e->scratch_size);
    if (!e->pool_borrowed) pool_free(e->pool);
    mem_free(e->layers);
    model_dir_fini(&e->dir);
    encoder_settings_fini(&e->settings);
    mem_free(e);
}
