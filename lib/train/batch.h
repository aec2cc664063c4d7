/*
 * The gradient of one optimizer step. The step's sequences are cut, in order, into units: consecutive rows until a unit has enough tokens to keep the
 * matrix products busy (a function of the step's rows alone). Each unit runs on one thread with a tape of its own into a gradient array of its own, and the arrays are summed in
 * one fixed binary tree over the units: unit 0 with 1, 2 with 3, then those sums, and so on. So the result has the same bits whatever the number of threads, the split
 * into micro-batches, and the order in which units happen to finish.
 *
 *      unit:   0   1   2   3   4
 *               \ /     \ /    |
 *                +       +     |
 *                 \     /      |
 *                    +         |
 *                     \       /
 *                      gradient
 *
 * Memory: a tape per thread, and as many gradient arrays as are alive at once, threads + log2(units) at most. All is kept from step to step.
 */
#ifndef GENLOOP_TRAIN_BATCH_H
#define GENLOOP_TRAIN_BATCH_H

#include "base/error.h"
#include "base/pool.h"
#include "nn/decoder.h"
#include "nn/loss.h"
#include "train/data.h"

enum {
    BATCH_ROW_SEQUENCES_MAX = 2,
    BATCH_UNIT_TOKENS = 512, /* rows of a product: at 512 packing the weights costs OpenBLAS a few percent of it */
    BATCH_UNITS_LEAST = 4,   /* a small step is cut into at least so many, for threads */
};

struct batch_row {
    uint32_t sequence_count;
    struct data_sequence sequences[BATCH_ROW_SEQUENCES_MAX];
    double reference[BATCH_ROW_SEQUENCES_MAX]; /* log π_ref, for dpo */
};

struct batch_result {
    double loss;
    uint64_t tokens, labels;
    double accuracy; /* dpo: share of pairs with chosen − rejected above 0; NAN else */
};

struct batch;
/* All borrowed. weights and the decoder's params: flat_len floats. bytes_max: of all tapes together. */
int batch_new(struct batch **b, const struct nn_decoder *decoder, const float *weights, size_t flat_len, uint32_t param_count, struct pool *pool,
              size_t bytes_max, struct error *err);
void batch_free(struct batch *b); /* NULL is accepted */
size_t batch_bytes(const struct batch *b);

/* dpo NULL: cross-entropy over the labels of all rows. accumulate: in so many micro-batches, one after another; each starts when the one before is
 * done, so that no more of the step is in flight. *gradients: borrowed until the next call. */
int batch_gradients(struct batch *b, const struct batch_row *rows, uint32_t row_count, const struct nn_dpo *dpo, uint32_t accumulate,
                    struct batch_result *result, const float **gradients, struct error *err);
/* Log-probability of the labels of each sequence, forward only; sums[row · BATCH_ROW_SEQUENCES_MAX + sequence]; labels likewise, may be NULL. */
int batch_log_probs(struct batch *b, const struct batch_row *rows, uint32_t row_count, double *sums, uint64_t *labels, struct error *err);

#endif
