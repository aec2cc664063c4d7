/*
 * What a step needs, made once: matrices packed (tensor/quant.h) into one run of huge pages, norms and biases copied into another, activations in a third.
 */
#include <math.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "engine/attention.h"
#include "engine/forward_internal.h"

struct fill_job {
    struct packed *w;
    const float *part[MATRIX_PARTS_MAX];
    size_t part_rows[MATRIX_PARTS_MAX], cols;
    _Atomic int result;
};
static void fill_panel(void *arg, size_t panel, int thread) {
    struct fill_job *j = arg;
    (void)thread;
    const float *rows[PACKED_PANEL_MAX];
    size_t width = packed_panel_rows(j->w->kind);
    for (size_t i = 0; i < width; i++) {
        size_t r = panel * width + i, part = 0;
        while (part < MATRIX_PARTS_MAX && r >= j->part_rows[part]) r -= j->part_rows[part++];
        rows[i] = part < MATRIX_PARTS_MAX ? j->part[part] + r * j->cols : NULL;
    }
    int result = packed_fill(j->w, panel, rows);
    if (result != 0) atomic_store(&j->result, result);
}

/* Adds what is in the job to the matrix as a part. With f->memory NULL only its size is counted. */
static int load_part(struct forward *f, struct matrix *m, struct fill_job *job, enum packed_kind kind, const char *name, uint32_t layer, struct error *err) {
    size_t rows = 0, size;
    for (size_t i = 0; i < MATRIX_PARTS_MAX; i++) rows += job->part_rows[i];
    if (packed_size(kind, rows, job->cols, &size) != 0 || !size_add(f->memory_used, size, &size))
        return error_set(err, E_RANGE, "%s of %zu × %zu is too large", name, rows, job->cols);
    f->blocks |= packed_kind_is_blocks(kind);
    if (f->memory) {
        job->w = &m->part[m->parts++];
        int r = packed_init(job->w, kind, rows, job->cols, f->memory + f->memory_used);
        if (r != 0) return r;
        pool_run(f->pool, job->w->panels, job, fill_panel);
        if (job->result != 0) return error_set(err, E_INVALID, "%s of layer %u has values that are not finite or too large", name, layer);
    }
    f->memory_used = size;
    return 0;
}

/* The kind that a parameter is packed as. */
static enum packed_kind kind_of(const struct forward *f) { return f->kind == PACKED_STORED ? PACKED_F32 : f->kind; }

/* The parameters with these roles, one below the other; those of one kind as one part, unless each is wanted apart. */
static int load_matrix(struct forward *f, const struct model_weights *weights, const enum model_role *roles, size_t n, bool apart, uint32_t layer,
                       struct matrix *m, struct error *err) {
    int r = 0;
    m->parts = 0;
    for (size_t i = 0; i < n && r == 0;) {
        struct fill_job job = {0};
        size_t count = 0;
        do {
            ptrdiff_t at = model_weights_find(weights, roles[i], layer);
            if (at < 0) return error_set(err, E_INVALID, "the model has no %s in layer %u", model_role_name(roles[i]), layer);
            job.part[count] = weights->data[at];
            job.part_rows[count++] = weights->params[at].rows;
            job.cols = weights->params[at].cols;
            i++;
        } while (i < n && !apart);
        r = load_part(f, m, &job, kind_of(f), model_role_name(roles[i - count]), layer, err);
    }
    return r;
}

static int load_matrices(struct forward *f, const struct model_weights *weights, struct error *err) {
    static const enum model_role qkv[] = {MODEL_ATTN_Q_W, MODEL_ATTN_K_W, MODEL_ATTN_V_W}, o[] = {MODEL_ATTN_O_W},
                                 gate_up[] = {MODEL_MLP_GATE_W, MODEL_MLP_UP_W}, down[] = {MODEL_MLP_DOWN_W}, head[] = {MODEL_LM_HEAD};
    size_t plain = f->config.arch->mlp == MODEL_MLP_PLAIN;
    int r = 0;
    f->memory_used = 0;
    for (uint32_t i = 0; i < f->config.layers && r == 0; i++) {
        struct layer *l = &f->layers[i];
        r = load_matrix(f, weights, qkv, 3, false, i, &l->qkv, err);
        if (r == 0) r = load_matrix(f, weights, o, 1, false, i, &l->o, err);
        if (r == 0) r = load_matrix(f, weights, gate_up + plain, 2 - plain, true, i, &l->gate_up, err);
        if (r == 0) r = load_matrix(f, weights, down, 1, false, i, &l->down, err);
    }
    return r != 0 ? r : load_matrix(f, weights, head, 1, false, 0, &f->head, err);
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
    size_t widest = C > q ? C : q;
    widest = F > widest ? F : widest;
    size_t input_rows = R > LOGITS_INPUT_ROWS ? R : LOGITS_INPUT_ROWS;
    size_t input_size = packed_input_size(input_rows, widest), attention = attention_scratch_size(f->context);
    int threads = pool_threads(f->pool);
    bool parallel = c->arch->norm_place == MODEL_NORM_PARALLEL;
    f->scratch_size = (R * (C * 4 + wide + q + F + c->rotary_dim)) * sizeof(float) + 3 * input_size + (size_t)threads * (attention + 64) +
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
    f->act = take(&at, R * F * sizeof(float));
    f->rope = take(&at, R * c->rotary_dim * sizeof(float));
    f->input_memory = take(&at, input_size);
    f->input2_memory = take(&at, input_size);
    f->act_memory = take(&at, input_size);
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
