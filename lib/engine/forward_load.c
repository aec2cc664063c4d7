/*
 * What a step needs, made once: matrices packed (tensor/quant.h) into one run of huge pages, norms and biases copied into another, activations in a third.
 */
#include <math.h>

#include "base/alloc.h"
#include "engine/attention.h"
#include "engine/forward_internal.h"
#include "engine/position_bias.h"

/* Adds them to the matrix as a part. While f->memory has none only its size is counted. */
static int load_part(struct forward *f, struct matrix *m, const struct matrix_source *from, enum packed_kind kind, struct error *err) {
    f->blocks |= packed_kind_is_blocks(kind);
    f->form.halves |= kind == PACKED_BF16;
    return matrix_pack(&f->memory, from, kind, &m->part[f->memory.data ? m->parts++ : 0], err);
}

/* The kind that a parameter is packed as. */
static enum packed_kind kind_of(const struct forward *f, enum tensor_type stored) { return f->kind == PACKED_STORED ? packed_kind_for(stored) : f->kind; }

/* The parameters with these roles (each its index-th), one below the other; those of one stored type as one part, unless each is wanted apart. plain: in f32 whatever
 * the others are. */
static int load_indexed(struct forward *f, const struct model_weights *weights, const enum model_role *roles, size_t n, bool apart, bool plain,
                        uint32_t layer, uint32_t index, struct matrix *m, struct error *err) {
    int r = 0;
    m->parts = 0;
    for (size_t i = 0; i < n && r == 0;) {
        struct matrix_source from = {.name = model_role_name(roles[i]), .layer = layer};
        size_t count = 0;
        do {
            const struct model_view *v = model_weights_view(weights, roles[i], layer);
            if (!v) return error_set(err, E_INVALID, "the model has no %s in layer %u", model_role_name(roles[i]), layer);
            v += index;
            if (count > 0 && v->type != from.part[0]->type) break;
            from.part[count] = v;
            from.part_rows[count++] = v->rows;
            from.cols = v->cols;
            i++;
        } while (i < n && !apart);
        r = load_part(f, m, &from, plain ? PACKED_F32 : kind_of(f, from.part[0]->type), err);
    }
    return r;
}

static int load_matrix(struct forward *f, const struct model_weights *weights, const enum model_role *roles, size_t n, bool apart, uint32_t layer,
                       struct matrix *m, struct error *err) {
    return load_indexed(f, weights, roles, n, apart, false, layer, 0, m, err);
}

/* The router stays in f32: it is small, and a row that goes to another expert is another row. */
static int load_experts(struct forward *f, const struct model_weights *weights, uint32_t layer, struct error *err) {
    static const enum model_role router[] = {MODEL_ROUTER_W}, gate_up[] = {MODEL_EXPERT_GATE_W, MODEL_EXPERT_UP_W}, down[] = {MODEL_EXPERT_DOWN_W};
    struct layer *l = &f->layers[layer];
    uint32_t E = f->config.experts;
    l->expert_gate_up = f->experts + (size_t)layer * 2 * E;
    l->expert_down = l->expert_gate_up + E;
    int r = load_indexed(f, weights, router, 1, false, true, layer, 0, &l->router, err);
    for (uint32_t e = 0; e < E && r == 0; e++) {
        r = load_indexed(f, weights, gate_up, 2, true, false, layer, e, &l->expert_gate_up[e], err);
        if (r == 0) r = load_indexed(f, weights, down, 1, false, false, layer, e, &l->expert_down[e], err);
    }
    return r;
}

/* Rows are looked up, never multiplied: as they are stored, whatever the matrices are turned into. */
static int load_embeddings(struct forward *f, const struct model_weights *weights, struct error *err) {
    const struct model_view *v = model_weights_view(weights, MODEL_EMBED_TOKENS, 0);
    if (!v) return error_set(err, E_INVALID, "the model has no token embeddings");
    const struct matrix_source from = {.part = {v}, .part_rows = {v->rows}, .cols = v->cols, .name = model_role_name(MODEL_EMBED_TOKENS)};
    bool blocks = f->blocks;
    f->embed.parts = 0;
    int r = load_part(f, &f->embed, &from, packed_kind_for(v->type), err);
    f->blocks = blocks;
    return r;
}

static int load_matrices(struct forward *f, const struct model_weights *weights, struct error *err) {
    static const enum model_role qkv[] = {MODEL_ATTN_Q_W, MODEL_ATTN_K_W, MODEL_ATTN_V_W}, o[] = {MODEL_ATTN_O_W},
                                 gate_up[] = {MODEL_MLP_GATE_W, MODEL_MLP_UP_W}, down[] = {MODEL_MLP_DOWN_W}, head[] = {MODEL_LM_HEAD},
                                 embed_in[] = {MODEL_EMBED_IN_W}, embed_out[] = {MODEL_EMBED_OUT_W};
    static const enum model_role cross_q[] = {MODEL_CROSS_Q_W}, cross_kv[] = {MODEL_CROSS_K_W, MODEL_CROSS_V_W}, cross_o[] = {MODEL_CROSS_O_W};
    size_t plain = f->config.mlp == MODEL_MLP_PLAIN;
    int r = 0;
    for (uint32_t i = 0; i < f->config.layers && r == 0; i++) {
        struct layer *l = &f->layers[i];
        r = load_matrix(f, weights, qkv, 3, false, i, &l->qkv, err);
        if (r == 0) r = load_matrix(f, weights, o, 1, false, i, &l->o, err);
        if (f->config.encoder_layers) {
            if (r == 0) r = load_matrix(f, weights, cross_q, 1, false, i, &l->cross_q, err);
            if (r == 0) r = load_matrix(f, weights, cross_kv, 2, false, i, &l->cross_kv, err);
            if (r == 0) r = load_matrix(f, weights, cross_o, 1, false, i, &l->cross_o, err);
        }
        if (f->config.layer_flags[i] & MODEL_LAYER_EXPERTS) {
            if (r == 0) r = load_experts(f, weights, i, err);
            continue;
        }
        if (r == 0) r = load_matrix(f, weights, gate_up + plain, 2 - plain, true, i, &l->gate_up, err);
        if (r == 0) r = load_matrix(f, weights, down, 1, false, i, &l->down, err);
    }
    if (f->config.embed_width != f->config.width) {
        if (r == 0) r = load_matrix(f, weights, embed_in, 1, false, 0, &f->embed_in, err);
        if (r == 0) r = load_matrix(f, weights, embed_out, 1, false, 0, &f->embed_out, err);
    }
    if (r == 0 && !f->config.tie_embeddings) r = load_embeddings(f, weights, err);
    return r != 0 ? r : load_matrix(f, weights, head, 1, false, 0, &f->head, err);
}

/* Copies vectors of these roles, one behind the other; NULL where the model has none of them. Absent ones between present ones are zeros of `sizes`. */
static const float *load_vectors(struct forward *f, const struct model_weights *weights, const enum model_role *roles, const size_t *sizes, size_t n,
                                 uint32_t layer) {
    bool any = false;
    for (size_t i = 0; i < n; i++) any |= model_weights_view(weights, roles[i], layer) != NULL;
    if (!any) return NULL;
    float *out = f->vectors + f->vectors_used;
    for (size_t i = 0; i < n; i++) {
        const struct model_view *v = model_weights_view(weights, roles[i], layer);
        ASSERT(f->vectors_used + sizes[i] <= f->vectors_size && (!v || (size_t)v->rows * v->cols == sizes[i]));
        if (v) model_view_to_f32(v, f->vectors + f->vectors_used);
        f->vectors_used += sizes[i];
    }
    return out;
}
static const float *load_vector(struct forward *f, const struct model_weights *weights, enum model_role role, size_t size, uint32_t layer) {
    return load_vectors(f, weights, &role, &size, 1, layer);
}
/* Vectors of one role that follow each other, one for each head. */
static const float *load_heads(struct forward *f, const struct model_weights *weights, enum model_role role, uint32_t heads, uint32_t layer) {
    ptrdiff_t at = model_weights_find(weights, role, layer);
    size_t D = f->config.head_dim;
    if (at < 0) return NULL;
    if (f->config.qk_norm == MODEL_QK_NORM_HEAD) return load_vector(f, weights, role, D, layer);
    if (f->config.qk_norm == MODEL_QK_NORM_WIDE) return load_vector(f, weights, role, heads * D, layer);
    float *out = f->vectors + f->vectors_used;
    ASSERT(f->vectors_used + heads * D <= f->vectors_size);
    for (uint32_t h = 0; h < heads; h++) model_view_to_f32(&weights->views[at + h], out + h * D);
    f->vectors_used += heads * D;
    return out;
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

/* A layer's own, or the first one's. */
static int load_positions(struct forward *f, const struct model_weights *weights, uint32_t layer, struct error *err) {
    const struct model_view *v = model_weights_view(weights, MODEL_ATTN_POSITION_W, layer);
    size_t size = position_bias_size(&f->config, false);
    if (size == 0) return 0;
    if (!v && layer == 0) return error_set(err, E_INVALID, "the model has no %s", model_role_name(MODEL_ATTN_POSITION_W));
    f->layers[layer].positions = v ? f->vectors + f->vectors_used : f->layers[0].positions;
    if (!v) return 0;
    ASSERT(f->vectors_used + size <= f->vectors_size);
    position_bias_fill(&f->config, v, false, f->vectors + f->vectors_used);
    f->vectors_used += size;
    return 0;
}

static int load_small(struct forward *f, const struct model_weights *weights, struct error *err) {
    const struct model_config *c = &f->config;
    size_t C = c->width, D = c->head_dim, q = c->heads * D, k = c->kv_heads * D;
    size_t per_layer = 9 * C + 2 * q + 3 * k + 2 * (size_t)c->ffn; /* seven norm vectors, two biases; norms and biases of q and k, bias of v; of gate and up */
    size_t positions_size = c->arch->positions == MODEL_POS_LEARNED ? ((size_t)c->context + c->arch->positions_before) * C : 0;
    for (uint32_t i = 0; i < c->layers; i++) positions_size += model_weights_view(weights, MODEL_ATTN_POSITION_W, i) ? position_bias_size(c, false) : 0;
    f->vectors_size = c->layers * per_layer + 2 * C + positions_size + c->vocab + MODEL_ROPE_KINDS * (size_t)c->rotary_dim;
    f->vectors = quant_map(f->vectors_size * sizeof(float));
    if (!f->vectors) return error_set(err, E_NOMEM, "no memory for %zu MiB of norms and biases", f->vectors_size * sizeof(float) >> 20);
    for (uint32_t i = 0; i < c->layers; i++) {
        struct layer *l = &f->layers[i];
        l->attn_norm = load_norm(f, weights, MODEL_ATTN_NORM_W, i);
        l->mlp_norm = load_norm(f, weights, MODEL_MLP_NORM_W, i);
        l->attn_post_norm = load_post_norm(f, weights, MODEL_ATTN_POST_NORM_W, i);
        l->mlp_post_norm = load_post_norm(f, weights, MODEL_MLP_POST_NORM_W, i);
        l->cross_norm = load_post_norm(f, weights, MODEL_CROSS_NORM_W, i);
        int r = load_positions(f, weights, i, err);
        if (r != 0) return r;
        l->q_norm = load_heads(f, weights, MODEL_ATTN_Q_NORM_W, c->heads, i);
        l->k_norm = load_heads(f, weights, MODEL_ATTN_K_NORM_W, c->kv_heads, i);
        l->window = c->layer_flags[i] & MODEL_LAYER_WINDOW ? c->window : 0;
        l->rope_local = c->layer_flags[i] & MODEL_LAYER_ROPE_LOCAL;
        l->qkv_bias = load_vectors(f, weights, (enum model_role[]){MODEL_ATTN_Q_B, MODEL_ATTN_K_B, MODEL_ATTN_V_B}, (size_t[]){q, k, k}, 3, i);
        l->o_bias = load_vector(f, weights, MODEL_ATTN_O_B, C, i);
        l->gate_up_bias = c->mlp == MODEL_MLP_PLAIN
                              ? load_vector(f, weights, MODEL_MLP_UP_B, c->ffn, i)
                              : load_vectors(f, weights, (enum model_role[]){MODEL_MLP_GATE_B, MODEL_MLP_UP_B}, (size_t[]){c->ffn, c->ffn}, 2, i);
        l->down_bias = load_vector(f, weights, MODEL_MLP_DOWN_B, C, i);
        plus_one(f, l->attn_norm.weight, C);
        plus_one(f, l->mlp_norm.weight, C);
        plus_one(f, l->attn_post_norm.weight, C);
        plus_one(f, l->mlp_post_norm.weight, C);
        plus_one(f, l->q_norm, D);
        plus_one(f, l->k_norm, D);
        if (c->encoder_layers && !l->cross_norm.weight) return error_set(err, E_INVALID, "the model lacks a norm in layer %u", i);
        bool before = c->norm_place != MODEL_NORM_OUTPUT, behind = c->norm_place == MODEL_NORM_SANDWICH || c->norm_place == MODEL_NORM_OUTPUT;
        if ((before && (!l->attn_norm.weight || (c->norm_place != MODEL_NORM_PARALLEL && !l->mlp_norm.weight))) ||
            (behind && (!l->attn_post_norm.weight || !l->mlp_post_norm.weight)) || (c->qk_norm != MODEL_QK_NORM_NONE && (!l->q_norm || !l->k_norm)))
            return error_set(err, E_INVALID, "the model lacks a norm in layer %u", i);
    }
    f->final_norm = load_norm(f, weights, MODEL_FINAL_NORM_W, 0);
    if (!f->final_norm.weight && !c->no_final_norm) return error_set(err, E_INVALID, "the model has no final norm");
    plus_one(f, f->final_norm.weight, C);
    if (c->arch->positions == MODEL_POS_LEARNED && !(f->embed_positions = load_vector(f, weights, MODEL_EMBED_POSITIONS, positions_size, 0)))
        return error_set(err, E_INVALID, "the model has no position embeddings");
    f->head_bias = load_vector(f, weights, MODEL_LM_HEAD_B, c->vocab, 0);
    f->embed_scale = c->embed_scale;
    for (enum model_rope_kind kind = 0; kind < MODEL_ROPE_KINDS; kind++) {
        if (!model_rope_has(c, kind)) continue;
        f->inv_freq[kind] = f->vectors + f->vectors_used;
        f->vectors_used += c->rotary_dim;
        model_rope_frequencies_of(c, kind, f->inv_freq[kind]);
    }
    f->rope_tables = f->inv_freq[MODEL_ROPE_KIND_GLOBAL] ? f->inv_freq[MODEL_ROPE_KIND_LOCAL] ? 2 : 1 : 0;
    f->branch_apart = c->norm_place == MODEL_NORM_SANDWICH || c->norm_place == MODEL_NORM_OUTPUT || c->residual_scale != 1;
    return 0;
}

enum { PARTS_MAX = 8192 }; /* of attention: a sequence of 131,072 tokens with 16 heads of keys; up to 33 MiB, of which what is never used is never touched */

static void *take(uintptr_t *at, size_t size) {
    void *p = (void *)*at; /* NOLINT(performance-no-int-to-ptr): measured from 0, where nothing is there yet */
    *at += (size + 63) & ~(size_t)63;
    return p;
}

/* The activations one behind the other from `at` on; with at 0 their size alone is told. */
static size_t place_scratch(struct forward *f, uintptr_t at) {
    const struct model_config *c = &f->config;
    uintptr_t start = at;
    size_t R = f->rows_max, C = c->width, D = c->head_dim, F = c->ffn, wide = (c->heads + 2 * (size_t)c->kv_heads) * D, q = c->heads * D;
    size_t E = c->experts, S = R * c->experts_used, rows = R > LOGITS_INPUT_ROWS ? R : LOGITS_INPUT_ROWS; /* of the head's input */
    size_t broad = C > c->embed_width ? C : c->embed_width, widest = broad > q ? broad : q, input, attention = attention_scratch_size(c->head_dim);
    int threads = pool_threads(f->pool);
    widest = F > widest ? F : widest;
    input = packed_input_size(f->form, rows, widest);
    f->x = take(&at, R * C * sizeof(float));
    f->h = take(&at, (broad == C ? R * C : rows * broad) * sizeof(float));
    if (c->norm_place == MODEL_NORM_PARALLEL) f->h2 = take(&at, R * C * sizeof(float));
    f->out = take(&at, R * C * sizeof(float));
    f->qkv = take(&at, R * wide * sizeof(float));
    f->att = take(&at, R * q * sizeof(float));
    f->act = take(&at, R * F * sizeof(float));
    f->rope = take(&at, R * f->rope_tables * c->rotary_dim * sizeof(float));
    f->input_memory = take(&at, input);
    f->input2_memory = take(&at, input);
    f->act_memory = take(&at, input);
    if (E) {
        f->router_logits = take(&at, R * E * sizeof(float));
        f->expert_weight = take(&at, S * sizeof(float));
        f->expert_in = take(&at, S * C * sizeof(float));
        f->expert_act = take(&at, S * c->expert_ffn * sizeof(float));
        f->expert_out = take(&at, S * C * sizeof(float));
        f->expert_in_memory = take(&at, packed_input_size(f->form, S, C));
        f->expert_act_memory = take(&at, packed_input_size(f->form, S, c->expert_ffn));
        f->expert_picked = take(&at, S * sizeof(uint32_t));
        f->slot_row = take(&at, S * sizeof(uint32_t));
        f->row_slot = take(&at, S * sizeof(uint32_t));
        f->expert_first = take(&at, (E + 1) * sizeof(uint32_t));
        f->active = take(&at, E * sizeof(uint32_t));
    }
    f->adapter_memory = take(&at, adapter_memory_size(R));
    f->adapter_groups = take(&at, R * sizeof *f->adapter_groups);
    f->item_group = take(&at, R * sizeof(uint32_t));
    f->work_before = take(&at, (R + 1) * sizeof(size_t));
    f->item_pieces = take(&at, R * sizeof(uint32_t));
    f->parts_before = take(&at, R * sizeof(size_t));
    f->shared_before = take(&at, R * sizeof(uint32_t));
    f->unfinished = take(&at, ATTENTION_PIECES * (size_t)threads * sizeof *f->unfinished);
    f->parts_max = ATTENTION_PIECES * (size_t)threads * (f->context / ATTENTION_CHUNK + 1);
    if (f->parts_max > PARTS_MAX) f->parts_max = PARTS_MAX;
    f->parts = take(&at, f->parts_max * attention_part_size(c->head_dim) * sizeof(float));
    f->row_item = take(&at, R * sizeof(uint32_t));
    f->item_row = take(&at, R * sizeof(uint32_t));
    f->attention_scratch = take(&at, (size_t)threads * sizeof(float *));
    for (int i = 0; i < threads; i++) {
        float *scratch = take(&at, attention);
        if (start) f->attention_scratch[i] = scratch;
    }
    return at - start;
}

/* Activations of rows_max rows. The sizes are products of a checked config's numbers and FORWARD_ROWS_MAX: below 2^50. */
static int make_scratch(struct forward *f, struct error *err) {
    f->scratch_size = place_scratch(f, 0);
    f->scratch = quant_map(f->scratch_size);
    if (!f->scratch) return error_set(err, E_NOMEM, "no memory for activations (%zu MiB)", f->scratch_size >> 20);
    place_scratch(f, (uintptr_t)f->scratch);
    return 0;
}

int forward_new(struct forward **out, const struct model_weights *weights, enum packed_kind kind, enum packed_activations activations, uint32_t rows_max, uint32_t context,
                struct pool *pool, const struct packed_cache *cache, struct error *err) {
    const struct model_config *c = &weights->config;
    ASSERT(rows_max > 0 && rows_max <= FORWARD_ROWS_MAX && context > 0 && context <= c->context);
    if (c->arch->kind == MODEL_ENCODER)
        return error_set(err, E_UNSUPPORTED, "%s is an encoder: it generates nothing; ask it for embeddings", c->arch->name);
    struct forward *f = mem_zalloc(sizeof *f);
    if (!f) return error_set(err, E_NOMEM, "no memory for a model");
    f->config = *c;
    f->kind = kind;
    f->rows_max = rows_max;
    f->context = context;
    f->pool = pool;
    matrix_memory_init(&f->memory, pool);
    int r = E_NOMEM;
    f->layers = mem_calloc(c->layers, sizeof *f->layers);
    if (c->experts) f->experts = mem_calloc((size_t)c->layers * 2 * c->experts, sizeof *f->experts);
    if (!f->layers || (c->experts && !f->experts)) {
        error_set(err, r, "no memory for a model");
        goto out;
    }
    if ((r = load_matrices(f, weights, err)) != 0) goto out; /* sizes only */
    if ((r = matrix_memory_take(&f->memory, cache, err)) != 0 || (r = load_matrices(f, weights, err)) != 0 || (r = load_small(f, weights, err)) != 0) goto out;
    f->form.terms = f->blocks ? packed_terms(activations) : 0;
    f->form.low = activations == PACKED_INT16;
    f->prepared = packed_form_any(f->form);
    if ((r = make_scratch(f, err)) != 0) goto out;
    matrix_memory_keep(&f->memory, cache);
    *out = f;
    f = NULL;
out:
    forward_free(f);
    return r;
}

void forward_free(struct forward *f) {
    if (!f) return;
    matrix_memory_fini(&f->memory);
    quant_unmap(f->vectors, f->vectors_size * sizeof(float));
    quant_unmap(f->scratch, f->scratch_size);
    mem_free(f->experts);
    mem_free(f->layers);
    mem_free(f);
}
