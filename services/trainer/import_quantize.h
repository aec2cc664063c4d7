/*
 * An import whose weights are wanted in another type (ImportSpec.quantize): the directory again with weights.gguf (model/quantize.h) in place of the weights that came, what that costs, measured, and a
 * word of it in the model card. Pure but for the files; on the runner's thread.
 */
#ifndef GENLOOP_TRAINER_IMPORT_QUANTIZE_H
#define GENLOOP_TRAINER_IMPORT_QUANTIZE_H

#include <stdint.h>

#include "base/error.h"

/* Of a model that generates: what `genloop evaluate DIR --weights` tells. Of an encoder: cosine alone. */
struct quantize_cost {
    bool encoder;
    uint64_t bytes_before, bytes; /* of the files of weights */
    double perplexity_before, perplexity;
    double agreement;             /* share of equal first choices */
    double cosine;                /* mean, between the vectors of the same texts */
    uint64_t samples;             /* tokens, or texts */
};
/* type: as model_quantize_type names it. Makes `out`, which must not exist; what is not a file of weights is linked there, README.md written anew. Errors of model_quantize, and of loading either. */
int import_quantize(const char *dir, const char *out, const char *type, int threads, struct quantize_cost *cost, struct error *err);

#endif
