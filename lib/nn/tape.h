/*
 * A tape of operations for reverse-mode differentiation (Wengert 1964). Each nn_... call computes its result at once and writes a record; nn_backward
 * runs the records from the last to the first. One tape serves one unit of work at a time (some sequences, concatenated without padding); all its
 * memory is its own and is kept from unit to unit, so that training allocates nothing once the largest unit has been seen.
 *
 * Parameters are one flat array that the tape only reads; their gradients go into a second array of the same layout. A parameter's gradient is
 * overwritten by the first record that reaches it and added to by the others; what none has reached is zeroed by nn_zero_unreached.
 * Backward frees as it goes: an operation's result and its gradient are gone once its own backward has run, so the peak is the forward pass and little more.
 *
 * Failure is sticky: without memory (or beyond the cap) an operation returns NULL, an operation on NULL returns NULL, and nn_backward says E_NOMEM.
 * One thread at a time; several tapes may read the same parameters. Letters: R rows (tokens of the unit), C columns, H heads, D head size.
 */
#ifndef GENLOOP_NN_TAPE_H
#define GENLOOP_NN_TAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nn_tape;

struct nn_value { /* [R, C] row-major */
    float *data;
    float *grad; /* NULL until backward has reached it */
    uint32_t rows, cols;
};

/* A parameter in the flat arrays, or several that lie one behind the other and have the same cols: then one product serves them all. */
struct nn_weight {
    size_t offset; /* in floats */
    uint32_t rows, cols; /* [out, in]; a vector is [1, n] */
    uint32_t first, count; /* which parameters these are: indices in the model's list, for `reached` */
};
#define NN_NONE ((struct nn_weight){0})
static inline bool nn_weight_is(struct nn_weight w) { return w.count != 0; }

/* bytes_max: cap of all its memory. Returns owned, NULL without memory. */
struct nn_tape *nn_tape_new(size_t bytes_max);
void nn_tape_free(struct nn_tape *t); /* NULL is accepted */
/* Forgets the last unit. gradients NULL: forward only (nothing is recorded). parameter_count: of the model's list. Both arrays are borrowed. */
void nn_tape_begin(struct nn_tape *t, const float *parameters, float *gradients, uint32_t parameter_count);
size_t nn_tape_bytes(const struct nn_tape *t); /* memory held */

/* Tokens of one sequence: rows [start, start + len) of every value, at positions 0.. */
struct nn_segment {
    uint32_t start, len;
};

/* tokens[ids[r]] (+ positions[position of r] where it is one). ids below tokens.rows, lengths within positions.rows: the caller's word. */
struct nn_value *nn_embed(struct nn_tape *t, struct nn_weight tokens, struct nn_weight positions, const uint32_t *ids,
                          const struct nn_segment *segments, uint32_t segment_count);
/* y = x Wᵀ + b (+ residual). b and residual may be absent. */
struct nn_value *nn_linear(struct nn_tape *t, struct nn_value *x, struct nn_weight w, struct nn_weight bias, struct nn_value *residual);
struct nn_value *nn_rmsnorm(struct nn_tape *t, struct nn_value *x, struct nn_weight w, float eps);
struct nn_value *nn_layernorm(struct nn_tape *t, struct nn_value *x, struct nn_weight w, struct nn_weight bias, float eps);
/* silu(gate) · up, of the columns [0, C) and [C, 2C) of one value, or of two values where up is not NULL. */
struct nn_value *nn_silu_mul(struct nn_tape *t, struct nn_value *gate, struct nn_value *up);
struct nn_value *nn_gelu(struct nn_tape *t, struct nn_value *x); /* tanh form */

/* Causal attention of each segment for itself. q, k, v are columns of values (often of the same one); q and k are rotated in place where rope is not NULL:
 * rope[position · D ..]: D/2 cosines, D/2 sines. kv_heads divides heads; head h attends to kv head h / (heads / kv_heads). Returns [R, heads · D]. */
struct nn_columns {
    struct nn_value *value;
    uint32_t from; /* first column */
};
struct nn_attention {
    uint32_t heads, kv_heads, head_dim;
    float scale;
    const float *rope; /* borrowed until backward has run */
};
struct nn_value *nn_attention(struct nn_tape *t, struct nn_columns q, struct nn_columns k, struct nn_columns v, const struct nn_attention *shape,
                              const struct nn_segment *segments, uint32_t segment_count);

/* The output layer and cross-entropy in one, in chunks of rows, so that the logits [R, V] never exist whole. labels[r] is the token to predict at row r,
 * NN_NO_LABEL where there is none. Leaves log p(label) in log_probs[r] (0 without label).
 * weights NULL: that alone; backward of such a unit needs another call with weights. Otherwise the gradient of −Σ weights[r] · log p is taken on the spot, into x's and w's
 * gradients: call nn_backward next. */
#define NN_NO_LABEL UINT32_MAX
void nn_cross_entropy(struct nn_tape *t, struct nn_value *x, struct nn_weight w, const uint32_t *labels, const float *weights, float *log_probs);

/* Runs the records backward. 0, or E_NOMEM where any call of the unit failed. */
int nn_backward(struct nn_tape *t);
/* Zeroes [offset, offset + count) of the gradients where no record has reached parameter `index`. After nn_backward, for each parameter. */
void nn_zero_unreached(struct nn_tape *t, uint32_t index, size_t offset, size_t count);
/* 0, or E_NOMEM: for units without backward. */
int nn_tape_status(const struct nn_tape *t);

/* Seeds a gradient by hand: tests, and losses that are no cross-entropy. The array [R, C] is copied. */
void nn_seed_gradient(struct nn_tape *t, struct nn_value *v, const float *grad);

#endif
