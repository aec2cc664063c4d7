/*
 * One training run in this process: recipe and data in, a Hugging Face model directory out. What `genloop train --local` and the trainer
 * service call. The result is a function of recipe, data, base model and machine alone: gradients are taken per unit of consecutive sequences and
 * summed in one fixed tree, so that threads, batch.accumulate and crash points change no bit of it.
 *
 *   out_dir    the model directory, whole or not at all: model.safetensors is renamed into it last and is the mark of a finished run
 *   work_dir   checkpoints, cached reference log-probabilities, metrics.jsonl and the TensorBoard file; may lie in out_dir. A run that finds a
 *              checkpoint of the same recipe and data there goes on from it; one of another recipe is E_STATE
 *
 * Blocking, and busy on recipe.threads threads: not on an event loop's thread. All callbacks come from the calling thread, between two steps.
 */
#ifndef GENLOOP_TRAIN_TRAIN_H
#define GENLOOP_TRAIN_TRAIN_H

#include "base/buf.h"
#include "train/recipe.h"

/* Each overrides what the recipe says, NULL where it stands; a relative path in the recipe starts at recipe_dir (NULL: the working directory). */
struct train_paths {
    const char *recipe_dir;
    const char *base_dir;      /* model directory to start from */
    const char *data;          /* .bin or .u16: tokens (little-endian uint16); else JSONL */
    const char *held_out;      /* the same, for evaluate.on: held-out */
    const char *tokenizer_dir; /* tokenizer.json and its configuration: encodes text rows, and is copied into the output */
    const char *out_dir;       /* needed */
    const char *work_dir;      /* NULL: out_dir/checkpoints, removed when the run has finished */
    const char *readme_extra;  /* Markdown appended to the model card: data set, licence, …; NULL: none */
    const char *model_name;    /* title of the model card; NULL: out_dir's last part */
};

struct train_step {
    uint64_t step, steps;    /* from 1 */
    double loss;             /* of the step's batch before its update */
    double grad_norm;        /* before clipping */
    double lr;
    uint64_t tokens;         /* that this step took */
    uint64_t tokens_total;   /* since step 1, resumed ones included */
    double seconds;          /* wall time of this step */
    double dpo_accuracy;     /* share of pairs with chosen above rejected; NAN but for dpo */
    double evaluate_loss;    /* held-out loss after this step where one was due, else NAN */
};

enum train_order { TRAIN_GO_ON, TRAIN_SAVE, TRAIN_PAUSE, TRAIN_CANCEL };

/* Each may be NULL. */
struct train_events {
    void *arg;
    /* Once, before the first step: where the run begins (0, or the checkpoint's step). */
    void (*on_start)(void *arg, uint64_t step, uint64_t steps, uint64_t parameters);
    void (*on_step)(void *arg, const struct train_step *step);
    /* A checkpoint of this step is durable. */
    void (*on_checkpoint)(void *arg, uint64_t step);
    /* Asked before each step. SAVE writes a checkpoint and goes on; PAUSE writes one, then train_run returns E_ABORTED; CANCEL returns E_CANCELLED and
     * leaves what is there. No order changes a bit of the result. */
    enum train_order (*should_stop)(void *arg);
};

struct train_result {
    uint64_t steps;
    uint64_t tokens;
    uint64_t parameters;
    double loss, evaluate_loss; /* of the last step; NAN where none was */
    double seconds;             /* of this call */
    bool was_finished;          /* out_dir was whole already: nothing was done */
    char weights_sha256[65];    /* of model.safetensors */
};

/* E_INVALID and E_NOT_FOUND for what the recipe names; E_UNSUPPORTED; E_STATE; E_NOMEM; E_IO; E_ABORTED (paused); E_CANCELLED; E_RANGE where the loss is
 * no number any more (the learning rate is too high). result may be NULL. */
int train_run(const struct train_recipe *recipe, const struct train_paths *paths, const struct train_events *events, struct train_result *result,
              struct error *err);

/* Reads recipe and data as far as train_run would before its first step, and says what it found as one JSON object: parameters, rows, tokens, bytes of
 * memory, steps of one pass. For --dry-run. */
int train_check(const struct train_recipe *recipe, const struct train_paths *paths, struct buf *json, struct error *err);

#endif
