/*
 * What turning a model's weights into another kind costs, seen on a text: each kind reads it with the model's own tokenizer, in windows that are computed alike, and is held to the first. Perplexity
 * says how well the text is foretold; agreement how often the most likely token is the first's; difference how far log-probabilities of the text's tokens are apart on average.
 * Blocking; one kind is in memory at a time.
 */
#ifndef GENLOOP_ENGINE_COMPARE_H
#define GENLOOP_ENGINE_COMPARE_H

#include "engine/engine.h"

enum { COMPARE_KINDS_MAX = 8, COMPARE_WINDOW = 512, COMPARE_TEXT_MAX = 16 << 20 };

struct compare_result {
    enum packed_kind kind;
    size_t weights_size;  /* bytes of the packed matrices */
    uint64_t tokens;      /* that were foretold */
    double perplexity;
    double agreement;     /* share, 0 to 1, with results[0]; 1 for that itself */
    double difference;    /* mean |Δ log p| */
};
extern const char COMPARE_TEXT[]; /* English prose of some hundred tokens, where the caller has none */
/* Models of one vocabulary, each with its weights in a kind; sides[0] is what the others are held to. Errors as below. */
struct compare_side {
    const char *model;
    enum packed_kind kind;
};
int engine_compare_sides(const struct compare_side *sides, size_t n, struct span text, int threads, struct compare_result *results, struct error *err);
/* kinds[0] is what the others are held to. E_INVALID: a text of less than two tokens; E_UNSUPPORTED: a model without a tokenizer; errors of engine_new. */
int engine_compare(const char *model, const enum packed_kind *kinds, size_t n, struct span text, int threads, struct compare_result *results, struct error *err);

#endif
