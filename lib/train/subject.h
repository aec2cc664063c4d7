/* What is trained or evaluated: weights in one flat array, their description, and the tokenizer that goes with them. Private to lib/train. */
#ifndef GENLOOP_TRAIN_SUBJECT_H
#define GENLOOP_TRAIN_SUBJECT_H

#include "model/model_dir.h"
#include "train/recipe.h"

enum { SUBJECT_PATH_MAX = 4096 };

struct subject {
    struct model_config config;
    struct model_weights weights; /* flat */
    struct tokenizer *tokenizer;  /* owned, NULL: none */
    char *chat_template;          /* owned, NULL: none */
    char base_dir[SUBJECT_PATH_MAX], tokenizer_dir[SUBJECT_PATH_MAX]; /* "": none; where the tokenizer's files are */
};

/* An existing model directory; tokenizer_dir NULL: the model's own. */
int subject_load(struct subject *s, const char *base_dir, const char *tokenizer_dir, struct error *err);
/* A new model as the recipe describes it, with seeded weights. */
int subject_new(struct subject *s, const struct train_recipe *recipe, const char *tokenizer_dir, struct error *err);
void subject_fini(struct subject *s); /* safe on a zeroed struct and twice */

/* Writes the model directory out_dir, whole or not at all: everything is prepared in out_dir/.writing, then renamed, model.safetensors last. What out_dir holds
 * besides stays. sha256: of model.safetensors. */
int subject_write(const struct subject *s, const char *out_dir, struct span readme, char sha256[65], struct error *err);
/* Whether out_dir is the directory of a finished run. */
bool subject_is_written(const char *out_dir);

#endif
