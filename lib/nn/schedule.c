#include "nn/schedule.h"

#include <math.h>

double nn_schedule_lr(const struct nn_schedule *s, uint64_t step) {
    double k = (double)(step - 1), w = (double)s->warmup_steps, n = (double)s->steps, f = 1;
    if (step - 1 < s->warmup_steps) return s->lr * k / w;
    double p = n > w ? (k - w) / (n - w) : 0;
    switch (s->kind) {
    case NN_SCHEDULE_CONSTANT: break;
    case NN_SCHEDULE_LINEAR: f = 1 - p; break;
    case NN_SCHEDULE_COSINE: f = (1 + cos(M_PI * p)) / 2; break;
    case NN_SCHEDULE_WSD: {
        double decay = (double)s->decay_steps;
        if (decay <= 0 || k < n - decay) break;
        p = (k - n + decay) / decay;
        f = s->decay == NN_DECAY_LINEAR ? 1 - p : s->decay == NN_DECAY_COSINE ? (1 + cos(M_PI * p)) / 2 : 1 - sqrt(p);
        break;
    }
    }
    return s->lr * (s->min_lr_ratio + (1 - s->min_lr_ratio) * f);
}
