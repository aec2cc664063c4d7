/*
 * AdamW over the flat arrays of a model (values, gradients, both moments: one layout), and the norm that clipping needs. Work is cut into
 * pieces that do not depend on the number of threads; sums of squares are f64, a piece at a time, then the pieces in order.
 */
#ifndef GENLOOP_NN_OPTIMIZER_H
#define GENLOOP_NN_OPTIMIZER_H

#include "base/error.h"
#include "base/pool.h"
#include "model/arch.h"

struct nn_adamw_options {
    double beta1, beta2, eps, weight_decay; /* decay on matrices only */
};

struct nn_adamw;
/* params: borrowed. Moments are zero. E_NOMEM. */
int nn_adamw_new(struct nn_adamw **o, const struct nn_adamw_options *options, const struct model_param *params, size_t param_count,
                 size_t flat_len, struct error *err);
void nn_adamw_free(struct nn_adamw *o); /* NULL is accepted */
/* The first and second moments, flat_len floats each: for checkpoints. */
float *nn_adamw_m(struct nn_adamw *o);
float *nn_adamw_v(struct nn_adamw *o);
/* L2 norm of the gradients. */
double nn_grad_norm(struct nn_adamw *o, struct pool *pool, const float *gradients);
/* weights -= …; step from 1; gradients are taken times grad_scale. */
void nn_adamw_step(struct nn_adamw *o, struct pool *pool, float *weights, const float *gradients, double lr, double grad_scale, uint64_t step);
/* What clip_grad_norm_ multiplies by: min(1, max_norm / (norm + 1e-6)); 1 where max_norm is 0. */
double nn_clip_scale(double norm, double max_norm);

#endif
