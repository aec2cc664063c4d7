/*
 * From logits to a token: a pure core. The order is the one of vLLM and of Hugging Face's processors:
 *     logit_bias → repetition, frequency and presence penalty → DRY → temperature → top-nσ → top-k → typical-p → top-p → min-p → XTC → draw
 * or, with mirostat, behind the temperature mirostat alone, as llama.cpp has it.
 * Penalties: repetition (Keskar et al. 2019) divides positive and multiplies negative logits of tokens in prompt or answer; frequency and
 * presence (OpenAI) count the answer's tokens only. top-p is taken of the distribution that top-k leaves, min-p of what top-p leaves
 * relative to its most likely token. Equal logits are ordered by id, lowest first, everywhere; temperature 0 is the first of that order.
 * DRY (p-e-w 2024) takes multiplier · base^(n − allowed_length) from the logit of a token that would make a run of n tokens, at least allowed_length, come again; a run does not reach over a
 * token whose text has a breaker. top-nσ (Tang et al. 2024) keeps logits within n standard deviations of the highest. typical-p (Meister et al. 2023) keeps the tokens whose surprise is nearest to
 * the entropy. XTC (p-e-w 2024): with its probability, of the tokens at or above the threshold all but the least likely go. Mirostat (Basu et al. 2021) holds the surprise near tau.
 * Logits at or below SAMPLER_MASKED belong to tokens that may not come (grammar.h), and count nowhere.
 *
 * Chance is counter-based: the draw for the n-th token of a request is a function of (seed, n) alone, so that the same request gives the
 * same tokens whatever ran beside it and however often it was interrupted.
 *
 * Log-probabilities are those of the model itself, log softmax of the logits before bias, penalties and temperature, as vLLM's default.
 * A choice costs a few passes over the logits by whole vectors, and little behind them: the highest logit of each block of 64 says where the k highest can be, so that only those
 * blocks are looked into; and filters that leave many (typical-p, XTC, top-p of a flat distribution) find their edge by a histogram of the weights. Nothing is sorted but what a filter leaves, or
 * its edge. bench_sampler has the figures.
 *
 * One thread per sampler_scratch.
 */
#ifndef GENLOOP_ENGINE_SAMPLER_H
#define GENLOOP_ENGINE_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum {
    SAMPLER_BIAS_MAX = 1024,       /* entries of logit_bias; OpenAI stops at 300 */
    SAMPLER_TOP_LOGPROBS_MAX = 20, /* OpenAI's own limit */
};

struct sampler_bias {
    uint32_t token;
    float value;
};

struct sampler_params {
    double temperature;        /* 0: greedy */
    uint32_t top_k;            /* 0: all */
    double top_p;              /* 1: all */
    double min_p;              /* 0: all */
    double frequency_penalty, presence_penalty; /* 0: none */
    double repetition_penalty; /* 1: none */
    uint64_t seed;
    const struct sampler_bias *bias; /* borrowed */
    size_t bias_count;
    double typical_p;          /* 1: all */
    double top_n_sigma;        /* 0 and below: all */
    double dry_multiplier, dry_base; /* multiplier 0: none */
    uint32_t dry_allowed_length;
    bool dry_answer_only;      /* what the prompt says may come again: quoting it, or an answer before, is no loop */
    double xtc_probability, xtc_threshold; /* probability 0: none */
    uint32_t mirostat;         /* 0: none, 1, 2 */
    double mirostat_tau, mirostat_eta;
    struct sampler_memory *memory; /* borrowed; what DRY and mirostat need, NULL without them */
};
#define SAMPLER_MASKED (-1e29f)

/* What a request's draws remember. */
struct sampler_memory {
    double mu;                /* mirostat: the surprise that is allowed, in bits; 2 tau at first */
    const uint32_t *tokens;   /* DRY: prompt and answer; the n-th draw sees prompt + n of them */
    uint32_t prompt;
    const uint64_t *breakers; /* a bit for each token of the vocabulary */
    uint32_t *runs;           /* room for a number each */
};
/* Temperature 1 and nothing else: the model's own distribution. */
void sampler_params_default(struct sampler_params *p);
/* Ranges as OpenAI and vLLM have them; E_INVALID names the parameter. */
int sampler_params_check(const struct sampler_params *p, uint32_t vocab, struct error *err);

/* How often each token came: what penalties need. Sorted by id, grows with the distinct tokens. */
struct sampler_counts {
    struct sampler_count {
        uint32_t token, answer; /* answer: in the answer; 0: in the prompt only */
    } *items;
    size_t len, capacity;
};
void sampler_counts_fini(struct sampler_counts *c);
int sampler_counts_prompt(struct sampler_counts *c, const uint32_t *tokens, size_t n); /* once, first; E_NOMEM */
int sampler_counts_add(struct sampler_counts *c, uint32_t token);                      /* E_NOMEM */

struct sampler_candidate {
    float logit;
    uint32_t token;
};
struct sampler_scratch {
    struct sampler_candidate *candidates; /* [vocab + 1] */
    float *values;                        /* [vocab] */
    float *maxima;                        /* [blocks] of the vocabulary */
    double *sums;                         /* [blocks] */
    float *raw;                           /* [vocab], the caller's: logits as they were before sampler_draw */
    uint32_t vocab;
};
int sampler_scratch_init(struct sampler_scratch *s, uint32_t vocab); /* E_NOMEM */
void sampler_scratch_fini(struct sampler_scratch *s);

/* logits [vocab] are changed. maxima: what kernels()->maxima makes of them, or NULL: they are looked through. n: which token of the request this is, from 0. E_RANGE where some logits are not finite. */
int sampler_draw(const struct sampler_params *p, const struct sampler_counts *counts, uint64_t n, float *logits, const float *maxima, struct sampler_scratch *scratch,
                 uint32_t *token);

struct sampler_logprob {
    uint32_t token;
    float logprob;
};
/* The `top` most likely tokens, most likely first, and *chosen of `token`; before sampler_draw has changed the logits. */
void sampler_logprobs(const float *logits, uint32_t token, uint32_t top, struct sampler_scratch *scratch, float *chosen, struct sampler_logprob *out);
/* The k highest logits, highest first. */
void sampler_top(const float *logits, uint32_t k, struct sampler_scratch *scratch, struct sampler_candidate *out);
/* log Σ e^logits */
double sampler_log_sum(const float *logits, struct sampler_scratch *scratch);
uint32_t sampler_argmax(const float *logits, uint32_t vocab); /* lowest id on ties */

#endif
