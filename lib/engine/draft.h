/*
 * Guesses of the next tokens, to be computed in the same step as the last known one (speculative decoding): a CPU that reads all weights for one row has time for a few more.
 * Prompt lookup (Saxena 2023): what followed the last time these tokens stood here. Names, numbers, code and quotations come again like this. Where it finds nothing a draft model may
 * guess (draft_model.h).
 *
 * The output is that without guesses, token for token, for any sampler and seed: of each row the token is drawn as ever, with the draw's own number (sampler.h), and a guess is no
 * more than a bet that it comes out. Where it does the next row is already computed, and where it does not the row is thrown away.
 *
 * When to bet is decided per sequence by what came of earlier bets and by what a row costs in this batch as measured; a sequence whose guesses are wrong stops guessing,
 * and tries again after a pause that doubles. A draft model computes for its guesses, also to catch up: what that may cost is bounded over all sequences by a budget, to which every step adds
 * DRAFT_SHARE of its time, and guesses that come out what they saved. Pure; one thread.
 */
#ifndef GENLOOP_ENGINE_DRAFT_H
#define GENLOOP_ENGINE_DRAFT_H

#include <stdbool.h>
#include <stdint.h>

enum {
    DRAFT_MATCH_MIN = 3,      /* tokens that must have stood there before: two are chance too often */
    DRAFT_REACH_MAX = 16384,  /* how far back is looked: a few µs */
    DRAFT_COST_ROWS_MAX = 24, /* rows of a step whose time is known */
    DRAFT_PAUSE_MIN = 16, DRAFT_PAUSE_MAX = 512,
};

/* Writes at most `max` guesses of what follows tokens[0 … len); the latest place where the most tokens before it are the same. Returns how many. */
uint32_t draft_lookup(const uint32_t *tokens, uint32_t len, uint32_t max, uint32_t *out);

/* How long decoding steps of so many rows take: running means. */
struct draft_costs {
    double us[DRAFT_COST_ROWS_MAX + 1]; /* 0: not seen yet */
};
void draft_costs_add(struct draft_costs *c, uint32_t rows, double us);
double draft_cost(const struct draft_costs *c, uint32_t rows); /* measured, or drawn on from what was; 0: nothing is known */

struct draft_record {
    double rate;             /* of guesses that were true; 0 before draft_record_init */
    uint32_t pause, skipped; /* tokens without a bet; until the next try, and since */
};
void draft_record_init(struct draft_record *d);
/* How many of `have` guesses, each of which takes each_us to be made, are worth their rows in a step of so many rows otherwise. */
uint32_t draft_worth(struct draft_record *d, const struct draft_costs *c, uint32_t rows, uint32_t have, double each_us);
/* What came of it: `tested` guesses were compared, the first `right` of them were true. */
void draft_learn(struct draft_record *d, uint32_t tested, uint32_t right);

#define DRAFT_SHARE 0.03        /* of the time of steps, that guesses which do not pay may take */
#define DRAFT_BUDGET_MAX_US 2e6 /* saved up at most: what a stretch of bad guesses behind a good one may lose */
struct draft_budget {
    double us;   /* may be spent; below 0: must be earned first */
    double rate; /* of all guesses of late that were true: what a new sequence begins with */
};
void draft_budget_init(struct draft_budget *b); /* with something to begin with */
void draft_budget_step(struct draft_budget *b, double us); /* a step of the large model */
void draft_budget_spend(struct draft_budget *b, double us);
/* A step of `rows` rows had `guesses` more, of which so many were true: what they took, and what they saved. */
void draft_budget_settle(struct draft_budget *b, const struct draft_costs *c, uint32_t rows, uint32_t guesses, uint32_t right);

#endif
