#include "nn/loss.h"

#include <math.h>

static double log_sigmoid(double x) { return x < 0 ? x - log1p(exp(x)) : -log1p(exp(-x)); }
static double sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }

double nn_dpo_loss(const struct nn_dpo *o, double chosen, double rejected, uint64_t chosen_len, uint64_t rejected_len, double *d_chosen,
                   double *d_rejected) {
    double e = o->label_smoothing;
    if (o->kind == NN_DPO_IPO) {
        double nc = chosen_len ? (double)chosen_len : 1, nr = rejected_len ? (double)rejected_len : 1;
        double off = chosen / nc - rejected / nr - 1 / (2 * o->beta);
        *d_chosen = 2 * off / nc;
        *d_rejected = -2 * off / nr;
        return off * off;
    }
    double d = o->beta * (chosen - rejected);
    /* −log σ(d) has the slope −σ(−d), −log σ(−d) the slope σ(d) */
    double up = -log_sigmoid(d), up_slope = -sigmoid(-d), down = -log_sigmoid(-d), down_slope = sigmoid(d), loss, slope;
    if (o->kind == NN_DPO_ROBUST) {
        loss = ((1 - e) * up - e * down) / (1 - 2 * e);
        slope = ((1 - e) * up_slope - e * down_slope) / (1 - 2 * e);
    } else {
        loss = (1 - e) * up + e * down;
        slope = (1 - e) * up_slope + e * down_slope;
    }
    *d_chosen = o->beta * slope;
    *d_rejected = -o->beta * slope;
    return loss;
}
