/* Learning rates by step. Pure; any thread. */
#ifndef GENLOOP_NN_SCHEDULE_H
#define GENLOOP_NN_SCHEDULE_H

#include <stdint.h>

enum nn_schedule_kind { NN_SCHEDULE_CONSTANT, NN_SCHEDULE_LINEAR, NN_SCHEDULE_COSINE, NN_SCHEDULE_WSD };
enum nn_decay_kind { NN_DECAY_LINEAR, NN_DECAY_COSINE, NN_DECAY_1_SQRT };

struct nn_schedule {
    enum nn_schedule_kind kind;
    double lr;
    uint64_t steps, warmup_steps, decay_steps; /* decay_steps and decay: wsd (warm-up, stable, decay) */
    enum nn_decay_kind decay;
    double min_lr_ratio;
};

/* The rate of step 1..steps; with k = step - 1: lr k / warmup_steps while k < warmup_steps, so that the first step's is 0, as in Transformers. */
double nn_schedule_lr(const struct nn_schedule *s, uint64_t step);

#endif
