/* What a CreateJobRequest asks for, as far as the request itself says: pure. What it names is looked up by create.c. Errors name the parameter: the request's own field, or the recipe's key. */
#ifndef GENLOOP_TRAINER_REQUEST_H
#define GENLOOP_TRAINER_REQUEST_H

#include "genloop/v1/services.pb-c.h"
#include "train/recipe.h"

enum {
    REQUEST_RECIPE_MAX = 64 * 1024,      /* a recipe is a page; it travels in every record of its job */
    REQUEST_DATASET_NAME_MAX = 128,
    REQUEST_IMPORT_FILES_MAX = 1100, REQUEST_IMPORT_NAME_MAX = 200, REQUEST_IMPORT_SOURCE_MAX = 512, /* MODEL_SHARDS_MAX, and what stands beside them */
    REQUEST_DOCUMENTS_MAX = 20000, REQUEST_PROMPTS_MAX = 20000, REQUEST_SAMPLE_TOKENS_MAX = 4096, /* what a record of an evaluation may hold */
};

/* Fills *recipe where a model is to be trained; of fine-tuning only its objective, base and dataset (fine_tuning.h says the rest). E_INVALID, E_RANGE, E_TOO_LARGE, E_NOT_FOUND (a preset), E_UNSUPPORTED. */
int request_check(const Genloop__V1__CreateJobRequest *q, struct train_recipe *recipe, struct error *err);
/* Whether the files of an import are those of an adapter: its base is the request's base_model then. */
bool request_imports_adapter(const Genloop__V1__ImportSpec *s);
/* "name" or "name@version"; version 0: none was named. */
int request_dataset(struct span text, const char *param, struct span *name, uint32_t *version, struct error *err);

#endif
