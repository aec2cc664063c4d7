/* The model card, README.md of the output: Hugging Face's front matter, then what the model is and how it came to be. Private to lib/train. */
#ifndef GENLOOP_TRAIN_CARD_H
#define GENLOOP_TRAIN_CARD_H

#include "base/buf.h"
#include "model/arch.h"
#include "train/recipe.h"

struct card_facts {
    const char *name, *base, *data, *run_sha256, *extra; /* base, extra: NULL where there is none */
    const struct train_recipe *recipe;
    const struct model_config *config;
    uint64_t rows, steps, tokens;
    double loss, evaluate_loss; /* NAN: none */
};
/* 0 or out's failure. A pure function of the facts: no date, so that the same run gives the same bytes. */
int card_write(const struct card_facts *f, struct buf *out);

#endif
