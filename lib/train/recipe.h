/*
 * A recipe: what to train, on what, how. YAML as contracts.md has it, names and defaults as in TRL and PyTorch. Every key is checked: one
 * that is unknown is an error that names it, its section and the ones there are; one that belongs to something not built yet is E_UNSUPPORTED and
 * names it, after the whole recipe was read. Open plain data: a service fills one in memory (recipe_default, then fields, then recipe_check).
 * Paths stay as written; train.h says where they start.
 */
#ifndef GENLOOP_TRAIN_RECIPE_H
#define GENLOOP_TRAIN_RECIPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"
#include "nn/schedule.h"

enum {
    RECIPE_SIZE_MAX = 1 << 20,   /* bytes of YAML; a recipe is a page */
    RECIPE_PATH_MAX = 1024,      /* with its NUL */
    RECIPE_NAME_MAX = 64,
    RECIPE_SEQUENCES_MAX = 1 << 16,
    RECIPE_LENGTH_MAX = 1 << 20,
};

enum recipe_objective { RECIPE_PRETRAIN, RECIPE_SFT, RECIPE_DPO, RECIPE_OBJECTIVES };
enum recipe_dpo_loss { RECIPE_DPO_SIGMOID, RECIPE_DPO_IPO, RECIPE_DPO_ROBUST };

struct train_recipe {
    enum recipe_objective objective;
    struct {
        char base[RECIPE_PATH_MAX]; /* "" where the model is described below */
        char architecture[RECIPE_NAME_MAX];
        uint32_t layers, width, heads, kv_heads, ffn, context, vocab; /* kv_heads and ffn 0: the architecture's habit; vocab 0: the tokenizer's */
        int tie_embeddings; /* -1: the architecture's habit */
    } model;
    struct {
        char dataset[RECIPE_PATH_MAX]; /* NAME@VERSION, resolved by who has a store: train_paths.data takes its place */
        char tokens[RECIPE_PATH_MAX];
        char file[RECIPE_PATH_MAX];
        bool shuffle; /* rows in a seeded order of each pass; pretrain: windows likewise */
        char tokenizer[RECIPE_PATH_MAX]; /* directory; "": the base model's */
    } data;
    struct {
        uint32_t sequences, length, accumulate; /* length 0: the model's context */
    } batch;
    struct {
        double lr, beta1, beta2, eps, weight_decay; /* adamw */
    } optimizer;
    struct nn_schedule schedule; /* lr and steps are filled by recipe_schedule */
    struct {
        double beta, label_smoothing;
        enum recipe_dpo_loss loss_type;
    } dpo;
    uint64_t steps;
    double max_grad_norm; /* 0: no clipping */
    uint64_t seed;
    uint32_t threads; /* 0: all CPUs of the process */
    struct {
        uint64_t every; /* 0: only on pause */
        uint32_t keep;
    } checkpoint;
    struct {
        uint64_t every; /* 0: never */
        char on[RECIPE_PATH_MAX]; /* a file of the objective's rows; "held-out": train_paths.held_out takes its place */
    } evaluate;
};

void recipe_default(struct train_recipe *r, enum recipe_objective objective);
/* E_INVALID, E_RANGE, E_UNSUPPORTED; *r untouched on failure. err->param is the key's path ("optimizer.lr"). */
int recipe_parse(struct span yaml, struct train_recipe *r, struct error *err);
/* What is named beside the recipe and goes before what it says: "" or NULL leaves it. Put in before the whole is checked, so that a recipe may leave both out. */
struct recipe_given {
    const char *dataset, *base;
};
int recipe_parse_given(struct span yaml, const struct recipe_given *given, struct train_recipe *r, struct error *err);
int recipe_load(const char *path, struct train_recipe *r, struct error *err);
/* Ranges and relations. recipe_parse has called it. */
int recipe_check(const struct train_recipe *r, struct error *err);
/* Appends it as YAML that recipe_parse reads back to the same values: for model cards, checkpoints and audit. */
int recipe_write(const struct train_recipe *r, struct buf *out);
const char *recipe_objective_name(enum recipe_objective o);
/* The schedule with its lr and steps. */
struct nn_schedule recipe_schedule(const struct train_recipe *r);

#endif
