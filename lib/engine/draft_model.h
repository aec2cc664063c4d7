/*
 * A small model that guesses what a larger one of the same vocabulary will say (speculative decoding by a draft model: Leviathan et al. 2023, Chen et al. 2023): draft.h says why
 * guesses change no token. They are drawn from its logits with the request's own parameters, seed and draw numbers: where both models see the same distribution, both draw the same token,
 * also at a temperature.
 *
 * Its keys and values lie in a paged cache of its own that has a block for each block of the large model's: a sequence has one table for both, and what shares a prefix there shares it
 * here. How many tokens of a block this model has computed is kept with the block, since it falls behind: it computes what it has missed of a sequence when it is to guess for it, a
 * bounded number of rows at a time, and nothing while its guesses do not pay.
 *
 * The engine's thread alone. Owns its weights and its cache; borrows the pool.
 */
#ifndef GENLOOP_ENGINE_DRAFT_MODEL_H
#define GENLOOP_ENGINE_DRAFT_MODEL_H

#include "base/pool.h"
#include "engine/draft.h"
#include "engine/kv_cache.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "model/model_dir.h"
#include "tensor/quant.h"

enum {
    DRAFT_SEQUENCES_MAX = 8, /* that are guessed for in one step: of more a row costs what it costs */
    DRAFT_ROWS_MAX = 64,     /* rows of one of its steps: what the streams wait for beside their own */
    DRAFT_ROWS_MIN = 16,     /* of a step that may catch up, however slow: one of fewer would get nowhere */
};

struct draft_model;
/* Reads a model directory or file. target: the model that is guessed for. E_INVALID where the vocabularies differ: says at which token; E_UNSUPPORTED: an encoder. */
int draft_model_load(struct draft_model **d, const char *path, const struct model_dir *target, struct error *err);
void draft_model_free(struct draft_model *d); /* NULL is accepted */
/* Bytes that a block of KV_BLOCK_TOKENS tokens takes of this model. */
size_t draft_model_block_size(const struct draft_model *d, enum kv_type kv_type);
/* Packs the weights and makes the cache. context: the longest sequence that is asked about. Errors of forward_new and kv_cache_init. */
int draft_model_start(struct draft_model *d, enum packed_kind kind, enum packed_activations activations, enum kv_type kv_type, uint32_t blocks, uint32_t context, struct pool *pool, struct error *err);
size_t draft_model_memory(const struct draft_model *d);

/* What a sequence's last guesses left in the cache. */
struct draft_fed {
    uint32_t from, count, tokens[SCHEDULER_DRAFT_MAX]; /* tokens guessed for positions from `from` on, whose keys are there */
    uint32_t blocks[2];                                /* of those positions, then */
};
struct draft_wish {
    uint32_t *tokens; /* the sequence's, `len` known and room for `want` more, which are written behind them */
    uint32_t len, want;
    const uint32_t *blocks; /* its table */
    struct draft_fed *fed;
    const struct sampler_params *sampling;
    const struct sampler_counts *counts;
    uint64_t draw;  /* the number of the next draw */
    uint32_t *guesses, got; /* got may be less than want: 0 while it has still to catch up */
};
/* The blocks have another owner, or none: what was computed for them holds no longer. */
void draft_model_forget(struct draft_model *d, const uint32_t *blocks, uint32_t n);
/* Tokens of the sequence that are to be computed before it can be guessed for, 1 at least; 0: it cannot be. */
uint32_t draft_model_behind(struct draft_model *d, const uint32_t *tokens, uint32_t len, uint32_t want, const uint32_t *blocks, struct draft_fed *fed);
/* Guesses for at most DRAFT_SEQUENCES_MAX sequences together, for each of which draft_model_behind was not 0; rows: of one of its steps, DRAFT_ROWS_MIN to
 * DRAFT_ROWS_MAX. Returns how long it took, in µs. */
double draft_model_guess(struct draft_model *d, struct draft_wish *wishes, size_t n, uint32_t rows);
/* How long a step of so many rows takes, as far as is known. */
double draft_model_cost(const struct draft_model *d, uint32_t rows);

#endif
