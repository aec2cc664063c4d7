/*
 * Fine-tuning as OpenAI's API asks for it, as a job of ours: pure. What the API leaves open ("auto") is chosen here, and from then on stands in the job's record, as the recipe does.
 *
 *   n_epochs                   as OpenAI's own guide chooses: 3; more where there are under 100 examples, fewer where there are very many
 *   batch_size                 an eighth of the examples, 1 to 8: many small steps teach a small model more than few large ones
 *   learning_rate_multiplier   1, of 1.0e-4 for supervised and 8.0e-5 for dpo; decays linearly behind a short warm-up
 *   beta                       0.3 (presets.c says why)
 *
 * The model that comes of it is named as OpenAI names it: ft:BASE:TENANT:SUFFIX:ID, cut where a name of ours would be too long. It is a candidate like any other.
 */
#ifndef GENLOOP_TRAINER_FINE_TUNING_H
#define GENLOOP_TRAINER_FINE_TUNING_H

#include "base/arena.h"
#include "genloop/v1/services.pb-c.h"
#include "registry/state.h"
#include "train/recipe.h"

enum {
    FINE_TUNING_EPOCHS_MAX = 50,
    FINE_TUNING_BATCH_MAX = 256, /* OpenAI's own */
    FINE_TUNING_SUFFIX_MAX = 64,
    FINE_TUNING_METADATA_MAX = 16,
    FINE_TUNING_KEY_MAX = 64,
    FINE_TUNING_VALUE_MAX = 512,
    FINE_TUNING_EVENTS_ARENA = 32 << 20,
};
#define FINE_TUNING_MULTIPLIER_MAX 100.0
#define FINE_TUNING_BETA_MAX 10.0

/* What makes no sense whatever the data: E_INVALID names OpenAI's parameter. */
int fine_tuning_check(const Genloop__V1__FineTuning *f, struct error *err);
/* Chooses what was left open, and fills the recipe but for its dataset and base. rows: of the training file; context: of the base, 0 where it is not known. E_INVALID where there is nothing to learn. */
int fine_tuning_recipe(Genloop__V1__FineTuning *f, uint64_t rows, bool held_out, uint32_t context, struct train_recipe *recipe, struct error *err);
/* base: a model's name without version. Returns out. */
char *fine_tuning_name(struct span base, struct span tenant, struct span suffix, struct span job_id, char out[MODEL_NAME_MAX]);

/* Metrics as OpenAI gives them, CSV (step, train_loss, train_accuracy, valid_loss; empty where there is none), from the lines of metrics.jsonl; lines that make no sense are passed over. E_NOMEM, E_FULL. */
int fine_tuning_results(struct span metrics, struct buf *out);

/* What there is to tell of a job: from its record, and its steps in the order that they were made; in the arena, oldest first. E_NOMEM. */
struct fine_tuning_events {
    struct arena *arena;
    Genloop__V1__JobEvent **items;
    size_t n, capacity;
};
int fine_tuning_events_begin(struct fine_tuning_events *l, const Genloop__V1__Job *job);
/* progress: kept by the caller as long as the list; what is no step says nothing. */
int fine_tuning_events_step(struct fine_tuning_events *l, const Genloop__V1__Job *job, Genloop__V1__JobProgress *progress);
int fine_tuning_events_end(struct fine_tuning_events *l, const Genloop__V1__Job *job);

#endif
