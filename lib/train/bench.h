/* `genloop bench train`: optimizer steps of a GPT-2 shape on random tokens: forward, backward, clipping at 1, AdamW. Nothing is written. */
#ifndef GENLOOP_TRAIN_BENCH_H
#define GENLOOP_TRAIN_BENCH_H

#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

struct train_bench_options {
    uint32_t layers, width, heads, context, vocab; /* learned positions, biases, tanh-GELU, tied head */
    uint32_t batch;   /* sequences of `context` tokens a step */
    uint32_t threads; /* 0: all */
    uint32_t steps;   /* timed; one more goes before them */
};
struct train_bench_result {
    double tokens_per_s;      /* by the clock */
    double tokens_per_cpu_s;  /* by the CPU time of the process */
    double flops_per_cpu_s;   /* of the matrix products that the step needs */
    double peak_flops;        /* of one core: the best of the shape's own products, measured in the same run */
    uint64_t peak_rss_bytes;
    uint64_t parameters;
    double loss_first, loss_last;
};
/* "layers,width,heads,context,vocab" */
int train_bench_shape(struct span text, struct train_bench_options *o, struct error *err);
int train_bench(const struct train_bench_options *o, struct train_bench_result *result, struct error *err);

#endif
