/*
 * The forward pass of one step of the engine: rows of several sequences together, prompt chunks and single decode rows alike, through
 * the layers that lib/model/arch.h describes, keys and values into the paged cache. Weights are packed when loaded (tensor/quant.h).
 * A row's result does not depend on the rows beside it, on how its prompt was cut, or on the number of threads, but on whether it is read or written: every operation is
 * either on one row alone or one of quant.h's and attention.h's products. That is the engine's batch invariance. It holds for rows of different adapters
 * beside each other too: each has its own terms added to the products of the weights that all share (forward_adapter.c).
 *
 * One step at a time per struct forward (the engine's thread); it spreads the work over the pool. No allocation after forward_new.
 */
#ifndef GENLOOP_ENGINE_FORWARD_H
#define GENLOOP_ENGINE_FORWARD_H

#include "base/pool.h"
#include "engine/kv_cache.h"
#include "engine/packed_cache.h"
#include "model/adapter.h"
#include "model/model_dir.h"
#include "tensor/quant.h"

enum { FORWARD_ROWS_MAX = 4096 }; /* rows of one step: bounds the activations */

/* A run of tokens of one sequence. */
struct forward_item {
    const uint32_t *tokens; /* the sequence's tokens from position `start` on */
    uint32_t start, count;
    bool read;              /* part of a text that is read, not written (tensor/quant.h): says how it is computed, and is the same whenever these tokens are. Such items come first */
    uint32_t outputs;       /* of the last so many rows the output is wanted: 0, 1, or up to count */
    bool long_context;      /* rotates as longrope does beyond the original context: the same in all steps of a sequence */
    const uint32_t *blocks; /* the sequence's block table, for start + count tokens at least */
    const struct model_adapter *adapter; /* of the model's shape; NULL: the model as it is */
    const uint32_t *source_blocks; /* of a decoder beside an encoder: what forward_source filled, */
    uint32_t source_count;         /* for so many tokens of the source */
};

struct forward;
/* Packs the weights, which may be freed afterwards. context: the longest sequence, at most the model's.
 * cache: of packed copies, borrowed for the call; NULL: none. E_UNSUPPORTED: an architecture that this pass does
 * not compute; E_INVALID: weights that are not finite; E_NOMEM. */
int forward_new(struct forward **f, const struct model_weights *weights, enum packed_kind kind, enum packed_activations activations, uint32_t rows_max, uint32_t context,
                struct pool *pool, const struct packed_cache *cache, struct error *err);
void forward_free(struct forward *f);
/* All rows of the items, at most rows_max; ids are below the vocabulary. The cache has the model's shape. False: given up between two layers, as
 * forward_on_layer asked; the rows' keys and values are to be computed again. */
bool forward_step(struct forward *f, struct kv_cache *kv, const struct forward_item *items, size_t n);
/* Keys and values that a layer of the decoder has of a source: `count` rows [·, width] of the encoder's output into these blocks. */
void forward_source(struct forward *f, struct kv_cache *kv, uint32_t layer, const float *rows, uint32_t count, const uint32_t *blocks);
/* The rows of token embeddings, for the encoder beside. */
const struct packed *forward_embeddings(const struct forward *f);
/* Asked before each layer of a step, on the caller's thread: true gives the step up. fn NULL: nobody is asked. */
void forward_on_layer(struct forward *f, void *arg, bool (*fn)(void *arg));
/* Logits [count, vocab] of the last step's wanted rows from `first` on (counted over all items in order), after the model's own scaling, and what kernels()->maxima makes of each row,
 * [count, kernels_maxima_count(vocab)], where they are in the cache anyway; NULL: not wanted. */
void forward_logits(struct forward *f, size_t first, size_t count, float *logits, float *maxima);
/* The wanted rows themselves after the final norm, [outputs, width]. Borrowed until the next step. */
const float *forward_hidden(const struct forward *f);
void forward_kv_shape(const struct model_config *c, enum kv_type type, struct kv_shape *shape);
size_t forward_weights_size(const struct forward *f); /* bytes of packed weights */
size_t forward_read_size(const struct forward *f);    /* of those, what a step reads for any number of rows: all but token embeddings of their own */
/* Multiply-adds that a row takes: through the layers, and for its logits. */
void forward_multiply_adds(const struct forward *f, size_t *layers, size_t *logits);
/* Whether it makes a difference if an item is read. */
bool forward_reads_apart(const struct forward *f);
/* What the widest matrices are packed as. */
enum packed_kind forward_weights_kind(const struct forward *f);
bool forward_weights_short(const struct forward *f); /* of bf16: kept in 12 bits */
enum packed_kind forward_adapter_kind(const struct forward *f); /* what adapters are to be packed as: floats go with any, blocks not */

#endif
