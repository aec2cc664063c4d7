/*
 * The tape of a decoder, built from its description (model/arch.h) alone: embeddings, then per layer norm, attention, residual, norm, MLP, residual,
 * then the final norm. GPT-2 and Llama are the same code with other rows of the table. Immutable once made: all tapes share it.
 */
#ifndef GENLOOP_NN_DECODER_H
#define GENLOOP_NN_DECODER_H

#include "base/error.h"
#include "model/arch.h"
#include "nn/tape.h"

struct nn_decoder;

/* params: the list that the flat arrays follow (struct model_weights); both are borrowed. length_max: longest sequence to come. E_UNSUPPORTED names what this
 * tape does not compute; E_RANGE where length_max is beyond the model's context; E_NOMEM. */
int nn_decoder_new(struct nn_decoder **d, const struct model_config *config, const struct model_param *params, size_t param_count,
                   uint32_t length_max, struct error *err);
void nn_decoder_free(struct nn_decoder *d); /* NULL is accepted */

/* ids and segments are borrowed until backward has run. Returns [R, width] behind the final norm; NULL without memory. */
struct nn_value *nn_decoder_forward(const struct nn_decoder *d, struct nn_tape *t, const uint32_t *ids, const struct nn_segment *segments,
                                    uint32_t segment_count);
/* The output layer, for nn_cross_entropy. */
struct nn_weight nn_decoder_head(const struct nn_decoder *d);
/* After nn_backward: zeroes the gradients of parameters that took no part. */
void nn_decoder_finish_gradients(const struct nn_decoder *d, struct nn_tape *t);
/* Multiply-adds of one token's forward pass at this length, times two: for shares of the machine's peak. */
double nn_decoder_flops(const struct nn_decoder *d, uint32_t length);

/* Fresh weights into flat, as Transformers initialises the family: normal(0, initializer_range), norms 1, biases 0; GPT-2's projections into the
 * residual stream smaller by sqrt(2 · layers). A pure function of config and seed. */
void nn_decoder_init(const struct model_config *config, const struct model_param *params, size_t param_count, uint64_t seed, float *flat);

#endif
