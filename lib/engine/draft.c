#include "engine/draft.h"

#define ROW_GUESSED 0.12 /* a row's part of a step's time while nothing was measured: between memory-bound (0) and compute-bound (1) */
#define GAIN_MIN 1.05    /* what is less is noise */
#define RATE_FIRST 0.7   /* of a match of DRAFT_MATCH_MIN tokens */
#define RATE_WEIGHT 0.2
#define RATE_WEIGHT_ALL 0.02

uint32_t draft_lookup(const uint32_t *tokens, uint32_t len, uint32_t max, uint32_t *out) {
    if (len <= DRAFT_MATCH_MIN || max == 0) return 0;
    uint32_t last = tokens[len - 1], from = len > DRAFT_REACH_MAX ? len - DRAFT_REACH_MAX : 0, best = 0, best_length = 0;
    for (uint32_t end = len - 1; end-- > from + DRAFT_MATCH_MIN - 1;) { /* tokens[end] as the last one: latest places first */
        if (tokens[end] != last) continue;
        uint32_t n = 1;
        while (n < 2 * DRAFT_MATCH_MIN && n <= end && tokens[end - n] == tokens[len - 1 - n]) n++;
        if (n <= best_length) continue;
        best_length = n;
        best = end;
        if (n == 2 * DRAFT_MATCH_MIN) break;
    }
    if (best_length < DRAFT_MATCH_MIN) return 0;
    uint32_t count = 0;
    for (uint32_t at = best + 1; count < max; at++, count++) out[count] = at < len ? tokens[at] : out[at - len]; /* a repetition goes on in its own guesses */
    return count;
}

void draft_costs_add(struct draft_costs *c, uint32_t rows, double us) {
    if (rows == 0 || rows > DRAFT_COST_ROWS_MAX) return;
    double *mean = &c->us[rows];
    *mean = *mean == 0 ? us : *mean + (us - *mean) / 8;
}

double draft_cost(const struct draft_costs *c, uint32_t rows) {
    uint32_t below = rows < DRAFT_COST_ROWS_MAX ? rows : DRAFT_COST_ROWS_MAX, above = rows;
    while (below > 0 && c->us[below] == 0) below--;
    if (below > 0) return c->us[below] * (1 + ROW_GUESSED * (rows - below));
    while (above <= DRAFT_COST_ROWS_MAX && c->us[above] == 0) above++;
    return above <= DRAFT_COST_ROWS_MAX ? c->us[above] / (1 + ROW_GUESSED * (above - rows)) : 0;
}

void draft_record_init(struct draft_record *d) { *d = (struct draft_record){.rate = RATE_FIRST, .pause = DRAFT_PAUSE_MIN}; }

uint32_t draft_worth(struct draft_record *d, const struct draft_costs *c, uint32_t rows, uint32_t have, double each_us) {
    double before = draft_cost(c, rows), expected = 0, p = 1;
    uint32_t best = 0;
    double best_gain = GAIN_MIN;
    if (have == 0 || before == 0 || rows == 0) return 0; /* the first steps show what a step costs */
    for (uint32_t k = 1; k <= have; k++) {
        p *= d->rate;
        expected += p;
        double gain = (1 + expected / rows) * before / (draft_cost(c, rows + k) + k * each_us); /* tokens per second, against those of a step without */
        if (gain <= best_gain) continue;
        best_gain = gain;
        best = k;
    }
    if (best > 0) {
        d->skipped = 0;
        return best;
    }
    if (++d->skipped < d->pause) return 0;
    d->skipped = 0;
    return 1; /* things change: one row in a while costs nearly nothing */
}

void draft_learn(struct draft_record *d, uint32_t tested, uint32_t right) {
    for (uint32_t i = 0; i < tested; i++) d->rate += ((i < right) - d->rate) * RATE_WEIGHT;
    if (right > 0) d->pause = DRAFT_PAUSE_MIN;
    else if (tested > 0 && d->pause < DRAFT_PAUSE_MAX) d->pause *= 2;
}

void draft_budget_init(struct draft_budget *b) { *b = (struct draft_budget){DRAFT_BUDGET_MAX_US / 2, RATE_FIRST}; }

static void add(struct draft_budget *b, double us) {
    b->us += us;
    if (b->us > DRAFT_BUDGET_MAX_US) b->us = DRAFT_BUDGET_MAX_US;
}
void draft_budget_step(struct draft_budget *b, double us) { add(b, us * DRAFT_SHARE); }
void draft_budget_spend(struct draft_budget *b, double us) { add(b, -us); }

void draft_budget_settle(struct draft_budget *b, const struct draft_costs *c, uint32_t rows, uint32_t guesses, uint32_t right) {
    if (guesses == 0 || rows == 0) return;
    double before = draft_cost(c, rows), with = draft_cost(c, rows + guesses);
    add(b, before * right / rows - (with > before ? with - before : 0));
    for (uint32_t i = 0; i < guesses; i++) b->rate += ((i < right) - b->rate) * RATE_WEIGHT_ALL;
}
