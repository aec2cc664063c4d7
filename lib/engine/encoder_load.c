/* What a pass needs, made once: matrices packed (tensor/quant.h) into one run of huge pages, embeddings, norms and biases copied into another, activations in a third. */
#include <math.h>

#include "base/alloc.h"
#include "engine/attention.h"
#include "engine/encoder_internal.h"
#include "engine/kv_cache.h"
#include "engine/matrix_pack.h"
#include "engine/position_bias.h"

/* A pass should last about as long as others may wait: a tenth of a second of one core that makes 40 billion multiply-adds a second. */
#define PASS_PRODUCTS 4e9
enum { PASS_ROWS_MIN = 128 };

/* What is stored in blocks stays in blocks; f32 and f16 are multiplied in f32, bf16 too, which makes it wider: many rows make reading cheap. A CPU with tiles of bf16 has ways of its own.
 * Blocks of several types (files of 4 bits have some values in 6) become the one that loses least of all of them. An encoder that a decoder stands beside has what that has: f32 is f32. */
static enum packed_kind kind_of(const struct encoder *e, const struct matrix_source *from) {
    enum packed_kind kind = e->kind;
    bool tiles = quant_kernels()->tiles_of_blocks && !e->pool_borrowed;
    for (size_t i = 0; e->kind == PACKED_STORED && i < MATRIX_PARTS_MAX && from->part[i]; i++) {
        enum packed_kind own = packed_kind_for(from->part[i]->type);
        if (!packed_kind_is_blocks(own)) {
            bool narrow = own == PACKED_BF16 && (i == 0 || kind == PACKED_BF16);
            if (!narrow) return tiles ? PACKED_SPLIT : PACKED_F32;
            if (!tiles) return PACKED_F32;
        }
        kind = i == 0 || own == kind ? own : packed_kind_is_blocks(own) && packed_kind_is_blocks(kind) ? PACKED_Q8 : PACKED_SPLIT;
    }
    return kind;
}

/* One matrix of the parameters with these roles, one below the other. While e->memory has none only its size is counted. */
static int load_matrix(struct encoder *e, const enum model_role *roles, size_t n, uint32_t layer, struct packed *w, struct error *err) {
    const struct model_weights *weights = e->weights;
    layer += e->first_layer;
    struct matrix_source from = {.name = model_role_name(roles[0]), .layer = layer};
    for (size_t i = 0; i < n; i++) {
        ptrdiff_t at = model_weights_find(weights, roles[i], layer);
        if (at < 0) return error_set(err, E_INVALID, "the model has no %s in layer %u", model_role_name(roles[i]), layer);
        from.part[i] = &weights->views[at];
        from.part_rows[i] = weights->params[at].rows;
        from.cols = weights->params[at].cols;
    }
    enum packed_kind kind = kind_of(e, &from);
    if (packed_kind_is_blocks(kind)) e->form.terms = 1;
    e->form.halves |= kind == PACKED_BF16 || kind == PACKED_SPLIT;
    e->prepared = packed_form_any(e->form);
    return matrix_pack(&e->memory, &from, kind, w, err);
}

/* Rows are looked up: f32 is copied with the vectors, anything else stays as it is stored. */
static int load_embeddings(struct encoder *e, struct error *err) {
    const struct model_view *v = model_weights_view(e->weights, MODEL_EMBED_TOKENS, 0);
    if (!v) return error_set(err, E_INVALID, "the model has no token embeddings");
    if (v->type == TENSOR_F32) return 0;
    const struct matrix_source from = {.part = {v}, .part_rows = {v->rows}, .cols = v->cols, .name = model_role_name(MODEL_EMBED_TOKENS)};
    e->embeddings = &e->embed_rows;
    return matrix_pack(&e->memory, &from, packed_kind_for(v->type), &e->embed_rows, err);
}

static int load_matrices(struct encoder *e, struct error *err) {
    static const enum model_role qkv[] = {MODEL_ATTN_Q_W, MODEL_ATTN_K_W, MODEL_ATTN_V_W}, o[] = {MODEL_ATTN_O_W},
                                 up[] = {MODEL_MLP_GATE_W, MODEL_MLP_UP_W}, down[] = {MODEL_MLP_DOWN_W}, dense[] = {MODEL_HEAD_DENSE_W}, out[] = {MODEL_HEAD_OUT_W};
    const struct model_config *c = &e->dir.config;
    size_t plain = c->mlp == MODEL_MLP_PLAIN;
    int r = !e->embeddings || e->embeddings == &e->embed_rows ? load_embeddings(e, err) : 0;
    for (uint32_t i = 0; i < c->layers && r == 0; i++) {
        struct encoder_layer *l = &e->layers[i];
        r = load_matrix(e, qkv, 3, i, &l->qkv, err);
        if (r == 0) r = load_matrix(e, o, 1, i, &l->o, err);
        if (r == 0) r = load_matrix(e, up + plain, 2 - plain, i, &l->up, err);
        if (r == 0) r = load_matrix(e, down, 1, i, &l->down, err);
    }
    if (r == 0 && c->labels) r = load_matrix(e, dense, 1, 0, &e->head_dense, err);
    if (r == 0 && c->labels) r = load_matrix(e, out, 1, 0, &e->head_out, err);
    return r;
}

/* Vectors (and embeddings) of these roles, one behind the other; NULL where the model has none of them. With e->vectors NULL only their size is counted. */
static const float *load_vectors(struct encoder *e, const enum model_role *roles, size_t n, uint32_t layer) {
    const struct model_weights *weights = e->weights;
    float *out = e->vectors ? e->vectors + e->vectors_used : NULL;
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        ptrdiff_t at = model_weights_find(weights, roles[i], layer + e->first_layer);
        if (at < 0) continue;
        size_t size = model_param_size(&weights->params[at]);
        if (e->vectors) model_view_to_f32(&weights->views[at], e->vectors + e->vectors_used);
        e->vectors_used += size;
        found++;
    }
    ASSERT(found == 0 || found == n); /* a family's rules have all of them or none */
    return found ? out : NULL;
}
static const float *load_vector(struct encoder *e, enum model_role role, uint32_t layer) { return load_vectors(e, &role, 1, layer); }
static struct encoder_norm load_norm(struct encoder *e, enum model_role weight, uint32_t layer) {
    struct encoder_norm n = {load_vector(e, weight, layer), NULL};
    if (e->dir.config.arch->norm_bias) n.bias = load_vector(e, weight + 1, layer); /* ..._B follows ..._W */
    return n;
}

/* Relative positions: a layer's own, or the first one's. */
static const float *load_positions(struct encoder *e, uint32_t layer) {
    const struct model_view *v = model_weights_view(e->weights, MODEL_ATTN_POSITION_W, e->first_layer + layer);
    if (!v) return e->layers[0].positions;
    float *out = e->vectors ? e->vectors + e->vectors_used : NULL;
    if (out) position_bias_fill(&e->dir.config, v, true, out);
    e->vectors_used += position_bias_size(&e->dir.config, true);
    return out;
}

/* Cosines and sines of all positions: D/2 of each. In f32, as the reference implementation has it. */
static float *make_rope(struct encoder *e, double theta) {
    struct model_config c = e->dir.config;
    size_t D = c.head_dim;
    float *out = e->vectors ? e->vectors + e->vectors_used : NULL, inv_freq[MODEL_HEAD_DIM_MAX / 2];
    e->vectors_used += e->tokens_max * D;
    c.rope_theta = theta;
    if (out) model_rope_frequencies(&c, inv_freq);
    for (size_t t = 0; out && t < e->tokens_max; t++)
        for (size_t i = 0; i < D / 2; i++) {
            float angle = (float)t * inv_freq[i];
            out[t * D + i] = cosf(angle);
            out[t * D + D / 2 + i] = sinf(angle);
        }
    return out;
}

static void load_small(struct encoder *e) {
    const struct model_config *c = &e->dir.config;
    e->vectors_used = 0;
    if (!e->embeddings) e->embed = load_vector(e, MODEL_EMBED_TOKENS, 0);
    e->embed_positions = load_vector(e, MODEL_EMBED_POSITIONS, 0);
    e->embed_types = load_vector(e, MODEL_EMBED_TYPES, 0);
    e->embed_norm = load_norm(e, MODEL_EMBED_NORM_W, 0);
    e->final_norm = load_norm(e, c->arch->kind == MODEL_ENCODER ? MODEL_FINAL_NORM_W : MODEL_ENCODER_NORM_W, 0);
    e->head_norm = (struct encoder_norm){load_vector(e, MODEL_HEAD_NORM_W, 0), NULL};
    e->head_dense_bias = load_vector(e, MODEL_HEAD_DENSE_B, 0);
    e->head_out_bias = load_vector(e, MODEL_HEAD_OUT_B, 0);
    for (uint32_t i = 0; i < c->layers; i++) {
        struct encoder_layer *l = &e->layers[i];
        l->positions = load_positions(e, i);
        l->attn_norm = load_norm(e, MODEL_ATTN_NORM_W, i);
        l->mlp_norm = load_norm(e, MODEL_MLP_NORM_W, i);
        l->qkv_bias = load_vectors(e, (enum model_role[]){MODEL_ATTN_Q_B, MODEL_ATTN_K_B, MODEL_ATTN_V_B}, 3, i);
        l->o_bias = load_vector(e, MODEL_ATTN_O_B, i);
        l->up_bias = c->mlp == MODEL_MLP_PLAIN ? load_vector(e, MODEL_MLP_UP_B, i) : load_vectors(e, (enum model_role[]){MODEL_MLP_GATE_B, MODEL_MLP_UP_B}, 2, i);
        l->down_bias = load_vector(e, MODEL_MLP_DOWN_B, i);
    }
    if (c->arch->positions == MODEL_POS_ROPE) {
        e->rope[0] = make_rope(e, c->rope_theta);
        e->rope[1] = make_rope(e, c->rope_theta_local);
    }
}

static void *take(uint8_t **at, size_t size) {
    void *p = *at;
    *at += (size + 63) & ~(size_t)63;
    return p;
}

/* The sizes are products of a checked config's numbers and of rows_max: below 2^46. */
static int make_scratch(struct encoder *e, struct error *err) {
    const struct model_config *c = &e->dir.config;
    size_t R = e->rows_max, N = e->texts_max, C = c->width, Q = c->heads * (size_t)c->head_dim, F = c->ffn, gated = c->mlp == MODEL_MLP_GATED, L = c->labels;
    size_t tiles = (R / KV_BLOCK_TOKENS + N + 1) * 2 * KV_BLOCK_TOKENS * Q; /* a text's last block may be all but empty */
    size_t inputs[3] = {0}, attention = ATTENTION_TILE * (size_t)kv_blocks_for(e->tokens_max + KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS * sizeof(float);
    int threads = pool_threads(e->pool);
    size_t size = (R * (C * 2 + Q * 4 + F * (1 + 2 * gated)) + tiles + N * (2 * C + L)) * sizeof(float) + 2 * (R + N) * sizeof(uint32_t) + (size_t)threads * (attention + 64 + sizeof(float *)) + 64 * 32;
    for (size_t i = 0; e->prepared && i < 3; i++) size += inputs[i] = packed_input_size(e->form, R, i == 2 ? F : C > Q ? C : Q);
    e->scratch_size = size;
    e->scratch = quant_map(size);
    if (!e->scratch) return error_set(err, E_NOMEM, "no memory for activations (%zu MiB)", size >> 20);
    uint8_t *at = e->scratch;
    e->x = take(&at, R * C * sizeof(float));
    e->h = e->post ? e->x : take(&at, R * C * sizeof(float));
    e->qkv = take(&at, R * 3 * Q * sizeof(float));
    e->tiles = take(&at, tiles * sizeof(float));
    e->att = take(&at, R * Q * sizeof(float));
    e->up = take(&at, R * F * (1 + gated) * sizeof(float));
    e->act = gated ? take(&at, R * F * sizeof(float)) : e->up;
    e->pooled = take(&at, N * C * sizeof(float));
    e->dense = take(&at, N * C * sizeof(float));
    e->scores = take(&at, N * L * sizeof(float));
    for (size_t i = 0; e->prepared && i < 3; i++) e->input_memory[i] = take(&at, inputs[i]);
    e->row_text = take(&at, R * sizeof(uint32_t));
    e->row_position = take(&at, R * sizeof(uint32_t));
    e->text_row = take(&at, N * sizeof(uint32_t));
    e->text_block = take(&at, N * sizeof(uint32_t));
    e->attention_scratch = take(&at, (size_t)threads * sizeof(float *));
    for (int i = 0; i < threads; i++) e->attention_scratch[i] = take(&at, attention);
    ASSERT(at <= (uint8_t *)e->scratch + size);
    return 0;
}

int encoder_load(struct encoder *e, const struct packed_cache *cache, struct error *err) {
    const struct model_config *c = &e->dir.config;
    e->post = c->arch->norm_place == MODEL_NORM_POST;
    e->tokens_max = c->context - c->position_offset;
    if (e->tokens_max > ENCODER_TOKENS_MAX) e->tokens_max = ENCODER_TOKENS_MAX;
    if (e->settings.tokens_max && e->settings.tokens_max < e->tokens_max) e->tokens_max = e->settings.tokens_max;
    e->rows_max = e->tokens_max > ENCODER_ROWS_DEFAULT || e->pool_borrowed ? e->tokens_max : ENCODER_ROWS_DEFAULT;
    e->texts_max = e->rows_max < ENCODER_ROWS_PER_TEXT ? 1 : e->rows_max / ENCODER_ROWS_PER_TEXT;
    double products = (double)c->layers * c->width * (4.0 * c->heads * c->head_dim + (c->mlp == MODEL_MLP_GATED ? 3.0 : 2.0) * c->ffn); /* of one token */
    double rows = PASS_PRODUCTS / products;
    e->pass_rows = rows > ENCODER_ROWS_DEFAULT ? ENCODER_ROWS_DEFAULT : rows < PASS_ROWS_MIN ? PASS_ROWS_MIN
                                                                                             : (uint32_t)rows;
    e->layers = mem_calloc(c->layers, sizeof *e->layers);
    if (!e->layers) return error_set(err, E_NOMEM, "no memory for a model");
    matrix_memory_init(&e->memory, e->pool);
    int r = load_matrices(e, err); /* sizes only */
    if (r == 0) r = matrix_memory_take(&e->memory, cache, err);
    if (r != 0) return r;
    load_small(e); /* sizes only */
    e->vectors_size = e->vectors_used;
    e->vectors = quant_map(e->vectors_size * sizeof(float));
    if (!e->vectors) return error_set(err, E_NOMEM, "no memory for %zu MiB of embeddings", e->vectors_size * sizeof(float) >> 20);
    load_small(e);
    r = load_matrices(e, err);
    if (r == 0) r = make_scratch(e, err);
    if (r == 0) matrix_memory_keep(&e->memory, cache);
    return r;
}
