#include "nn/optimizer.h"

#include <math.h>

#include "base/alloc.h"
#include "tensor/kernels.h"

enum { PIECE = 64 << 10 }; /* floats: four arrays of it are 1 MiB, a second-level cache holds them */

struct piece {
    size_t from, count;
    bool decay;
};

struct nn_adamw {
    struct nn_adamw_options options;
    float *m, *v;
    struct piece *pieces;
    size_t piece_count;
    double *sums; /* of each piece */
    /* of the call in progress */
    float *weights;
    const float *gradients;
    struct kernels_adamw step;
};

int nn_adamw_new(struct nn_adamw **out, const struct nn_adamw_options *options, const struct model_param *params, size_t param_count,
                 size_t flat_len, struct error *err) {
    struct nn_adamw *o = mem_zalloc(sizeof *o);
    if (!o) return error_set(err, E_NOMEM, "no memory for the optimizer");
    o->options = *options;
    size_t bytes, pieces = 0;
    for (size_t i = 0; i < param_count; i++) pieces += (model_param_size(&params[i]) + PIECE - 1) / PIECE;
    if (!size_mul(flat_len, sizeof(float), &bytes)) goto fail;
    o->m = mem_alloc_aligned(bytes ? bytes : 1);
    o->v = mem_alloc_aligned(bytes ? bytes : 1);
    o->pieces = mem_calloc(pieces ? pieces : 1, sizeof *o->pieces);
    o->sums = mem_calloc(pieces ? pieces : 1, sizeof *o->sums);
    if (!o->m || !o->v || !o->pieces || !o->sums) goto fail;
    memset(o->m, 0, bytes);
    memset(o->v, 0, bytes);
    for (size_t i = 0; i < param_count; i++) {
        size_t n = model_param_size(&params[i]);
        for (size_t at = 0; at < n; at += PIECE)
            o->pieces[o->piece_count++] = (struct piece){params[i].offset + at, n - at < PIECE ? n - at : PIECE, model_param_is_matrix(&params[i])};
    }
    *out = o;
    return 0;
fail:
    nn_adamw_free(o);
    return error_set(err, E_NOMEM, "no memory for the optimizer");
}

void nn_adamw_free(struct nn_adamw *o) {
    if (!o) return;
    mem_free(o->m);
    mem_free(o->v);
    mem_free(o->pieces);
    mem_free(o->sums);
    mem_free(o);
}

float *nn_adamw_m(struct nn_adamw *o) { return o->m; }
float *nn_adamw_v(struct nn_adamw *o) { return o->v; }

static void square_piece(void *arg, size_t item, int thread) {
    struct nn_adamw *o = arg;
    (void)thread;
    o->sums[item] = kernels()->sum_squares(o->gradients + o->pieces[item].from, o->pieces[item].count);
}

double nn_grad_norm(struct nn_adamw *o, struct pool *pool, const float *gradients) {
    o->gradients = gradients;
    pool_run(pool, o->piece_count, o, square_piece);
    double sum = 0;
    for (size_t i = 0; i < o->piece_count; i++) sum += o->sums[i];
    return sqrt(sum);
}

static void step_piece(void *arg, size_t item, int thread) {
    struct nn_adamw *o = arg;
    const struct piece *p = &o->pieces[item];
    (void)thread;
    struct kernels_adamw step = o->step;
    if (!p->decay) step.weight_decay = 0;
    kernels()->adamw(o->weights + p->from, o->gradients + p->from, o->m + p->from, o->v + p->from, &step, p->count);
}

void nn_adamw_step(struct nn_adamw *o, struct pool *pool, float *weights, const float *gradients, double lr, double grad_scale, uint64_t step) {
    o->weights = weights;
    o->gradients = gradients;
    o->step = (struct kernels_adamw){
        .lr = (float)lr,
        .beta1 = (float)o->options.beta1,
        .beta2 = (float)o->options.beta2,
        .eps = (float)o->options.eps,
        .weight_decay = (float)o->options.weight_decay,
        .grad_scale = (float)grad_scale,
        .correction1 = (float)(1 - pow(o->options.beta1, (double)step)),
        .correction2_sqrt = (float)sqrt(1 - pow(o->options.beta2, (double)step)),
    };
    pool_run(pool, o->piece_count, o, step_piece);
}

double nn_clip_scale(double norm, double max_norm) {
    if (max_norm <= 0) return 1;
    double scale = max_norm / (norm + 1e-6);
    return scale < 1 ? scale : 1;
}
