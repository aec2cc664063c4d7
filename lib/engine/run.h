/*
 * `genloop run`: one model, one prompt, in this process, without a platform: for trying, checking and racing. The command line is the CLI's; what it
 * means and prints is here. Blocking.
 */
#ifndef GENLOOP_ENGINE_RUN_H
#define GENLOOP_ENGINE_RUN_H

#include <stdio.h>

#include "engine/engine.h"

struct engine_run_options {
    const char *model;      /* a model directory */
    const char *adapter;    /* generate, logprobs: a PEFT adapter's directory; NULL: the model as it is */
    const char *task;       /* "generate", "logprobs", "embed", "score"; NULL: generate */
    struct span prompt;     /* text, or */
    const uint32_t *tokens; /* ids, taken as they stand */
    size_t token_count;
    struct span target;     /* logprobs, of a model with an encoder: what its decoder is made to say; data NULL: none */
    bool chat;              /* prompt is the user's turn of a chat */
    int64_t max_tokens;     /* −1: what the context leaves */
    double temperature;     /* below 0: as generation_config.json says, greedy where it does not */
    double dry_multiplier;  /* 0: none. Above: a run of at least dry_allowed_length tokens of the answer is kept from coming again (sampler.h), whatever characters it has */
    uint32_t dry_allowed_length;
    uint64_t seed;
    bool seed_set, ignore_eos;
    uint32_t top_logits;
    const uint32_t *token_types; /* embed, score: of tokens; NULL: all 0 */
    size_t token_type_count;
    const char *pooling;    /* embed: "mean", "cls", "last"; NULL: as the model's files say */
    bool no_normalize;      /* embed: the vector as it is, not of length 1 */
    int threads;            /* 0: all */
    enum packed_kind weights;
    enum packed_activations activations; /* generate, logprobs: packed_form.terms and .low; int16 unless said: one prompt waits for the weights, not for the arithmetic */
    enum kv_type kv_type;   /* generate, logprobs: of keys and values; 0: f32 */
    struct packed_cache packed; /* as of engine_options */
    const char *draft;      /* a model that guesses, while it pays (draft_model.h); NULL: none */
    uint32_t draft_tokens;  /* guesses of it per step, at most; 0: SCHEDULER_DRAFT_MAX */
    bool json;              /* else the text alone */
};
void engine_run_options_init(struct engine_run_options *o); /* generate, 256 tokens */
/* embed: {"embedding":[…]}; score: {"scores":[…]}, the classifier's raw outputs.
 * generate: {"tokens":[…],"text":"…"|null[,"top_logits":[{"id","logit"}…]],"finish_reason","usage"}, with a draft also "drafted" and "drafted_right"; logprobs: {"logprobs":[…],"argmax":[…]}, of a
 * target with the token that ends it. Errors of
 * engine_new and of the request; E_INVALID, E_UNSUPPORTED: the task; E_IO: out. */
int engine_run(const struct engine_run_options *o, FILE *out, struct error *err);
/* The two tasks of encoders (run_encoder.c). */
int engine_run_encoder(const struct engine_run_options *o, bool score, FILE *out, struct error *err);
/* "1,2,3" → ids; *count of them, owned in *tokens (mem_free). E_INVALID names what is no id. */
int engine_parse_tokens(struct span text, uint32_t **tokens, size_t *count, struct error *err);

#endif
