/*
 * Likelihoods of a finished model on given data by the trainer's own forward pass, in f32: the reference that the measuring for the gates (services/trainer/measure.h), which the engine does with
 * packed weights, is held to in the tests. Sums per document and per pair; deterministic for any number of threads. Blocking; callbacks come in order of the rows, from the calling thread.
 */
#ifndef TEST_TRAIN_EVALUATE_H
#define TEST_TRAIN_EVALUATE_H

#include <stdint.h>

#include "base/error.h"

struct evaluate_options {
    uint32_t length;     /* tokens of context at most; 0: the model's. A longer document is taken in windows that stand alone */
    uint32_t threads;    /* 0: all */
    uint64_t rows_max;   /* 0: all */
    const char *tokenizer_dir; /* NULL: the model's own */
};

/* nll: sum of -log p over `tokens` labels; bytes: of the document's text, 0 where rows are ids (bits per byte compare models with different
 * tokenizers). A row is {"text"}, {"ids"}, {"messages"} or {"prompt", "completion"} (only answers are labels there); a .bin file is one row per window. */
typedef void (*evaluate_on_document)(void *arg, uint64_t row, double nll, uint64_t tokens, uint64_t bytes);
/* E_NOT_FOUND, E_INVALID (with the line), E_UNSUPPORTED, E_NOMEM. */
int train_evaluate_documents(const char *model_dir, const char *data, const struct evaluate_options *options, void *arg,
                             evaluate_on_document on_document, struct error *err);

struct evaluate_pair {
    double chosen, rejected; /* log-probability of the completion given the prompt */
    uint64_t chosen_tokens, rejected_tokens;
};
/* Rows as for dpo: {"prompt", "chosen", "rejected"}. */
typedef void (*evaluate_on_pair)(void *arg, uint64_t row, const struct evaluate_pair *pair);
int train_evaluate_pairs(const char *model_dir, const char *data, const struct evaluate_options *options, void *arg, evaluate_on_pair on_pair,
                         struct error *err);

#endif
