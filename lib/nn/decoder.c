#include "nn/decoder.h"

#include <math.h>

#include "base/alloc.h"
#include "base/random.h"

/* A layer's weights; q, k and v (gate and up) are one weight where they lie one behind the other. */
struct layer {
    struct nn_weight norm1, norm1_bias, q, q_bias, k, k_bias, v, v_bias, o, o_bias;
    struct nn_weight norm2, norm2_bias, gate, gate_bias, up, up_bias, down, down_bias;
    bool qkv_fused, gate_fused;
};

struct nn_decoder {
    struct model_config config;
    const struct model_param *params; /* borrowed */
    size_t param_count;
    struct nn_weight tokens, positions, final_norm, final_norm_bias, head;
    struct layer *layers;
    float *rope; /* [length_max, D]: cosines, sines */
};

static struct nn_weight find(const struct nn_decoder *d, enum model_role role, uint32_t layer) {
    for (size_t i = 0; i < d->param_count; i++) {
        const struct model_param *p = &d->params[i];
        if (p->role == role && p->layer == layer) return (struct nn_weight){p->offset, p->rows, p->cols, (uint32_t)i, 1};
    }
    return NN_NONE;
}

/* b directly behind a in list and memory: one weight of both. Vectors [1, n] join along their columns. */
static bool join(struct nn_weight *a, struct nn_weight b) {
    if (!nn_weight_is(*a) || !nn_weight_is(b)) return false;
    if (b.first != a->first + a->count || b.offset != a->offset + (size_t)a->rows * a->cols) return false;
    if (a->rows == 1 && b.rows == 1) a->cols += b.cols;
    else if (a->cols == b.cols) a->rows += b.rows;
    else return false;
    a->count += b.count;
    return true;
}

/* Weights and biases both or neither. */
static bool join_both(struct nn_weight *w, struct nn_weight *bias, const struct nn_weight *weights, const struct nn_weight *biases, size_t n) {
    struct nn_weight joined = *w, joined_bias = *bias;
    for (size_t i = 0; i < n; i++) {
        if (!join(&joined, weights[i])) return false;
        if (nn_weight_is(*bias) != nn_weight_is(biases[i])) return false;
        if (nn_weight_is(*bias) && !join(&joined_bias, biases[i])) return false;
    }
    *w = joined;
    *bias = joined_bias;
    return true;
}

static int supported(const struct model_config *c, struct error *err) {
    const struct model_arch *a = c->arch;
    const char *what = NULL;
    if (a->kind != MODEL_DECODER) what = "a model that is no decoder";
    else if (a->norm != MODEL_NORM_RMS && a->norm != MODEL_NORM_LAYER) what = "its norm";
    else if (c->norm_place != MODEL_NORM_PRE) what = "its place of norms";
    else if (c->qk_norm != MODEL_QK_NORM_NONE) what = "norms of q and k";
    else if (c->embed_scale != 1 || c->residual_scale != 1 || c->logits_scale != 1) what = "scaled embeddings, residuals or logits";
    else if (c->attn_softcap > 0 || c->logits_softcap > 0) what = "soft caps";
    else if (c->embed_width != c->width || a->positions_before || c->no_final_norm) what = "OPT's embeddings";
    else if (c->experts) what = "experts";
    else if (c->window && c->window < c->context) what = "a window of attention";
    else if (c->rope_theta_local > 0 || c->rope_scaling == MODEL_ROPE_LONGROPE) what = "rotation of several kinds";
    else if (a->positions == MODEL_POS_ROPE && c->rotary_dim != c->head_dim) what = "partial rotation";
    else if (a->mlp == MODEL_MLP_GATED ? c->activation != MODEL_ACT_SILU : c->activation != MODEL_ACT_GELU_TANH) what = model_activation_name(c->activation);
    if (!what) return 0;
    return error_set(err, E_UNSUPPORTED, "training of %s: %s is not built yet", a->name, what);
}

int nn_decoder_new(struct nn_decoder **out, const struct model_config *config, const struct model_param *params, size_t param_count,
                   uint32_t length_max, struct error *err) {
    int r = supported(config, err);
    if (r) return r;
    if (length_max == 0 || length_max > config->context)
        return error_set(err, E_RANGE, "sequences of %u tokens, but the model's context is %u", length_max, config->context);
    struct nn_decoder *d = mem_zalloc(sizeof *d);
    if (!d) return error_set(err, E_NOMEM, "no memory for the model");
    d->config = *config;
    d->params = params;
    d->param_count = param_count;
    d->layers = mem_calloc(config->layers, sizeof *d->layers);
    if (!d->layers) goto fail;

    d->tokens = find(d, MODEL_EMBED_TOKENS, 0);
    d->positions = find(d, MODEL_EMBED_POSITIONS, 0);
    d->final_norm = find(d, MODEL_FINAL_NORM_W, 0);
    d->final_norm_bias = find(d, MODEL_FINAL_NORM_B, 0);
    d->head = config->tie_embeddings ? d->tokens : find(d, MODEL_LM_HEAD, 0);
    for (uint32_t i = 0; i < config->layers; i++) {
        struct layer *l = &d->layers[i];
        l->norm1 = find(d, MODEL_ATTN_NORM_W, i), l->norm1_bias = find(d, MODEL_ATTN_NORM_B, i);
        l->q = find(d, MODEL_ATTN_Q_W, i), l->q_bias = find(d, MODEL_ATTN_Q_B, i);
        l->k = find(d, MODEL_ATTN_K_W, i), l->k_bias = find(d, MODEL_ATTN_K_B, i);
        l->v = find(d, MODEL_ATTN_V_W, i), l->v_bias = find(d, MODEL_ATTN_V_B, i);
        l->o = find(d, MODEL_ATTN_O_W, i), l->o_bias = find(d, MODEL_ATTN_O_B, i);
        l->norm2 = find(d, MODEL_MLP_NORM_W, i), l->norm2_bias = find(d, MODEL_MLP_NORM_B, i);
        l->gate = find(d, MODEL_MLP_GATE_W, i), l->gate_bias = find(d, MODEL_MLP_GATE_B, i);
        l->up = find(d, MODEL_MLP_UP_W, i), l->up_bias = find(d, MODEL_MLP_UP_B, i);
        l->down = find(d, MODEL_MLP_DOWN_W, i), l->down_bias = find(d, MODEL_MLP_DOWN_B, i);
        l->qkv_fused = join_both(&l->q, &l->q_bias, (struct nn_weight[]){l->k, l->v}, (struct nn_weight[]){l->k_bias, l->v_bias}, 2);
        if (config->arch->mlp == MODEL_MLP_GATED) l->gate_fused = join_both(&l->gate, &l->gate_bias, &l->up, &l->up_bias, 1);
    }
    if (config->arch->positions == MODEL_POS_ROPE) {
        size_t half = config->head_dim / 2, count;
        if (!size_mul(length_max, config->head_dim * sizeof(float), &count)) goto fail;
        d->rope = mem_alloc_aligned(count);
        float *frequencies = mem_calloc(half ? half : 1, sizeof *frequencies);
        if (!d->rope || !frequencies) {
            mem_free(frequencies);
            goto fail;
        }
        model_rope_frequencies(config, frequencies);
        for (size_t p = 0; p < length_max; p++)
            for (size_t i = 0; i < half; i++) {
                float angle = (float)p * frequencies[i];
                d->rope[p * 2 * half + i] = cosf(angle) * (float)config->rope_attention_factor;
                d->rope[p * 2 * half + half + i] = sinf(angle) * (float)config->rope_attention_factor;
            }
        mem_free(frequencies);
    }
    *out = d;
    return 0;
fail:
    nn_decoder_free(d);
    return error_set(err, E_NOMEM, "no memory for the model");
}

void nn_decoder_free(struct nn_decoder *d) {
    if (!d) return;
    mem_free(d->rope);
    mem_free(d->layers);
    mem_free(d);
}

static struct nn_value *norm(const struct nn_decoder *d, struct nn_tape *t, struct nn_value *x, struct nn_weight w, struct nn_weight bias) {
    return d->config.arch->norm == MODEL_NORM_RMS ? nn_rmsnorm(t, x, w, d->config.norm_eps) : nn_layernorm(t, x, w, bias, d->config.norm_eps);
}

static struct nn_value *attend(const struct nn_decoder *d, struct nn_tape *t, const struct layer *l, struct nn_value *x,
                               const struct nn_segment *segments, uint32_t segment_count) {
    const struct model_config *c = &d->config;
    struct nn_attention shape = {c->heads, c->kv_heads, c->head_dim, c->attn_scale, d->rope};
    struct nn_columns q = {nn_linear(t, x, l->q, l->q_bias, NULL), 0}, k, v;
    if (l->qkv_fused) {
        k = (struct nn_columns){q.value, c->heads * c->head_dim};
        v = (struct nn_columns){q.value, (c->heads + c->kv_heads) * c->head_dim};
    } else {
        k = (struct nn_columns){nn_linear(t, x, l->k, l->k_bias, NULL), 0};
        v = (struct nn_columns){nn_linear(t, x, l->v, l->v_bias, NULL), 0};
    }
    return nn_attention(t, q, k, v, &shape, segments, segment_count);
}

static struct nn_value *inner(const struct nn_decoder *d, struct nn_tape *t, const struct layer *l, struct nn_value *x) {
    if (d->config.arch->mlp == MODEL_MLP_PLAIN) return nn_gelu(t, nn_linear(t, x, l->up, l->up_bias, NULL));
    struct nn_value *gate = nn_linear(t, x, l->gate, l->gate_bias, NULL);
    return nn_silu_mul(t, gate, l->gate_fused ? NULL : nn_linear(t, x, l->up, l->up_bias, NULL));
}

struct nn_value *nn_decoder_forward(const struct nn_decoder *d, struct nn_tape *t, const uint32_t *ids, const struct nn_segment *segments,
                                    uint32_t segment_count) {
    struct nn_value *x = nn_embed(t, d->tokens, d->positions, ids, segments, segment_count);
    for (uint32_t i = 0; i < d->config.layers; i++) {
        const struct layer *l = &d->layers[i];
        struct nn_value *a = attend(d, t, l, norm(d, t, x, l->norm1, l->norm1_bias), segments, segment_count);
        x = nn_linear(t, a, l->o, l->o_bias, x);
        struct nn_value *m = inner(d, t, l, norm(d, t, x, l->norm2, l->norm2_bias));
        x = nn_linear(t, m, l->down, l->down_bias, x);
    }
    return norm(d, t, x, d->final_norm, d->final_norm_bias);
}

struct nn_weight nn_decoder_head(const struct nn_decoder *d) { return d->head; }

void nn_decoder_finish_gradients(const struct nn_decoder *d, struct nn_tape *t) {
    for (size_t i = 0; i < d->param_count; i++) nn_zero_unreached(t, (uint32_t)i, d->params[i].offset, model_param_size(&d->params[i]));
}

double nn_decoder_flops(const struct nn_decoder *d, uint32_t length) {
    const struct model_config *c = &d->config;
    double attention = (double)c->width * c->head_dim * (2.0 * c->heads + 2.0 * c->kv_heads);
    double mlp = (double)c->width * c->ffn * (c->arch->mlp == MODEL_MLP_GATED ? 3 : 2);
    double scores = (double)length / 2 * c->heads * c->head_dim * 2; /* a causal mask halves them */
    return 2 * (c->layers * (attention + mlp + scores) + (double)c->width * c->vocab);
}

/* The stream of chance that a parameter's first values are drawn from: a number of its own for ever, whatever the order of the roles, so that a seed gives the same model in every release. */
static const uint8_t STREAMS[MODEL_ROLES] = {
    [MODEL_EMBED_TOKENS] = 0, [MODEL_EMBED_POSITIONS] = 1, [MODEL_FINAL_NORM_W] = 2, [MODEL_FINAL_NORM_B] = 3, [MODEL_LM_HEAD] = 4, [MODEL_ATTN_NORM_W] = 5, [MODEL_ATTN_NORM_B] = 6,
    [MODEL_ATTN_Q_W] = 7, [MODEL_ATTN_Q_B] = 8, [MODEL_ATTN_K_W] = 9, [MODEL_ATTN_K_B] = 10, [MODEL_ATTN_V_W] = 11, [MODEL_ATTN_V_B] = 12, [MODEL_ATTN_Q_NORM_W] = 13,
    [MODEL_ATTN_K_NORM_W] = 14, [MODEL_ATTN_O_W] = 15, [MODEL_ATTN_O_B] = 16, [MODEL_ATTN_POST_NORM_W] = 17, [MODEL_MLP_NORM_W] = 18, [MODEL_MLP_NORM_B] = 19, [MODEL_MLP_GATE_W] = 20,
    [MODEL_MLP_GATE_B] = 21, [MODEL_MLP_UP_W] = 22, [MODEL_MLP_UP_B] = 23, [MODEL_MLP_DOWN_W] = 24, [MODEL_MLP_DOWN_B] = 25, [MODEL_MLP_POST_NORM_W] = 26, [MODEL_LM_HEAD_B] = 27,
    [MODEL_EMBED_IN_W] = 28, [MODEL_EMBED_OUT_W] = 29, [MODEL_EMBED_TYPES] = 30, [MODEL_EMBED_NORM_W] = 31, [MODEL_EMBED_NORM_B] = 32, [MODEL_HEAD_DENSE_W] = 33, [MODEL_HEAD_DENSE_B] = 34,
    [MODEL_HEAD_NORM_W] = 35, [MODEL_HEAD_OUT_W] = 36, [MODEL_HEAD_OUT_B] = 37, [MODEL_ROUTER_W] = 38, [MODEL_EXPERT_GATE_W] = 39, [MODEL_EXPERT_UP_W] = 40, [MODEL_EXPERT_DOWN_W] = 41,
};

void nn_decoder_init(const struct model_config *config, const struct model_param *params, size_t param_count, uint64_t seed, float *flat) {
    double deviation = config->initializer_range > 0 ? (double)config->initializer_range : 0.02;
    for (size_t i = 0; i < param_count; i++) {
        const struct model_param *p = &params[i];
        float *w = flat + p->offset;
        size_t n = model_param_size(p);
        bool matrix = p->rows > 1;
        bool norm_weight = p->role == MODEL_FINAL_NORM_W || p->role == MODEL_ATTN_NORM_W || p->role == MODEL_MLP_NORM_W ||
                           p->role == MODEL_ATTN_Q_NORM_W || p->role == MODEL_ATTN_K_NORM_W;
        double scale = deviation;
        if (config->arch->positions == MODEL_POS_LEARNED && (p->role == MODEL_ATTN_O_W || p->role == MODEL_MLP_DOWN_W))
            scale /= sqrt(2.0 * config->layers); /* Radford et al. 2019, 2.3 */
        struct random random; /* one stream a parameter: the order of the list changes nothing */
        random_seed2(&random, seed, ((uint64_t)STREAMS[p->role] << 32) | ((uint64_t)p->index << 16) | p->layer);
        for (size_t j = 0; j < n; j++) w[j] = matrix ? (float)(scale * random_normal(&random)) : norm_weight ? 1 : 0;
    }
}
