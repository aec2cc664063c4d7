/*
 * A decoder's look at what an encoder made of the prompt (Vaswani et al. 2017, 3.2.3): behind its own attention, each layer attends over all of the source's
 * tokens. Their keys and values depend on the source alone: they are made once for a sequence, when its encoder has run, and lie in the KV cache in
 * blocks of the sequence's own, laid out as any others.
 */
#include "engine/forward_internal.h"
#include "tensor/kernels.h"

static void norm_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    size_t C = f->config.width;
    kernels()->rmsnorm(f->x + row * C, f->layer->cross_norm.weight, f->config.norm_eps, f->h + row * C, C);
    packed_input_row(&f->input, row);
}

static void attended_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    packed_input_row(&f->input, row);
}

/* [R, C] → [R, H D] → [R, H D] → added to x */
void forward_cross_attention(struct forward *f) {
    const struct model_config *c = &f->config;
    const struct layer *l = f->layer;
    size_t C = c->width, R = f->rows, Q = (size_t)c->heads * c->head_dim;
    packed_input_init(&f->input, f->form, R, C, f->h, f->input_memory);
    forward_each_row(f, R, norm_row);
    forward_multiply(f, &l->cross_q, &f->input, f->qkv, Q, NULL, false);
    packed_input_init(&f->input, f->form, R, Q, f->att, f->input_memory);
    f->cross = true;
    forward_attend(f);
    f->cross = false;
    if (f->prepared && c->head_dim % QUANT_BLOCK != 0) forward_each_row(f, R, attended_row);
    forward_multiply(f, &l->cross_o, &f->input, f->x, C, NULL, true);
}

static void source_row(struct forward *f, size_t row, int thread) {
    (void)thread;
    size_t K = (size_t)f->config.kv_heads * f->config.head_dim;
    const float *k = f->qkv + row * 2 * K;
    kv_cache_put(f->kv, f->source_blocks, f->layer_index, f->source_start + (uint32_t)row, k, k + K);
}

void forward_source(struct forward *f, struct kv_cache *kv, uint32_t layer, const float *rows, uint32_t count, const uint32_t *blocks) {
    size_t C = f->config.width, K = (size_t)f->config.kv_heads * f->config.head_dim;
    f->kv = kv;
    f->layer_index = layer;
    f->source_blocks = blocks;
    for (uint32_t i = 0; i < count; i += f->rows_max) {
        uint32_t n = count - i < f->rows_max ? count - i : f->rows_max;
        struct packed_form form = f->form;
        form.read = n;
        packed_input_init(&f->input, form, n, C, rows + (size_t)i * C, f->input_memory);
        if (f->prepared) forward_each_row(f, n, attended_row);
        forward_multiply(f, &f->layers[layer].cross_kv, &f->input, f->qkv, 2 * K, NULL, false);
        f->source_start = i;
        forward_each_row(f, n, source_row);
    }
}
