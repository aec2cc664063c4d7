#include "base/crowding.h"

enum {
    WINDOW_US = 50000, TRIAL_US = 25000,               /* several of the system's time slices, of 3 to 4 ms */
    ENOUGH = 2, /* such spans in a row that tell: a request that begins or ends keeps other processes busy for one */
    PATIENCE_MIN_US = 250000, PATIENCE_MAX_US = 2000000, /* from one trial to the next: what a trial costs stays about a hundredth, and a CPU that is free again is soon used */
};

/* One thread of n less costs 1/n of the speed at most; and a tenth passes for noise. */
static bool crowded(const struct crowding *c, int threads) {
    double lost = (double)c->lost_us / (double)c->passed_us;
    return lost > 0.1 && lost > 0.6 / threads;
}

int crowding_threads(struct crowding *c, int threads, int64_t now_us) {
    if (c->given_up >= threads) c->given_up = threads - 1;
    if (c->given_up == 0) c->trial = false;
    else if (!c->trial && now_us >= c->trial_at_us) {
        c->trial = true;
        c->passed_us = c->lost_us = 0;
    }
    return threads - c->given_up + c->trial;
}

void crowding_tell(struct crowding *c, int threads, int64_t now_us, int64_t passed_us, int64_t lost_us) {
    c->passed_us += passed_us;
    c->lost_us += lost_us;
    if (c->passed_us < (c->trial ? TRIAL_US : WINDOW_US)) return;
    bool lose = threads > 1 && crowded(c, threads);
    c->crowded_spans = lose ? c->crowded_spans + 1 : 0;
    if (lose && c->crowded_spans < ENOUGH) {
        c->passed_us = c->lost_us = 0;
        return;
    }
    c->crowded_spans = 0;
    if (c->patience_us < PATIENCE_MIN_US) c->patience_us = PATIENCE_MIN_US;
    if (c->trial && lose) c->patience_us = c->patience_us * 2 < PATIENCE_MAX_US ? c->patience_us * 2 : PATIENCE_MAX_US;
    else if (c->trial) {
        c->given_up--;
        c->patience_us = c->patience_us / 2 > PATIENCE_MIN_US ? c->patience_us / 2 : PATIENCE_MIN_US;
    } else if (lose) c->given_up++;
    if (c->trial || lose) c->trial_at_us = now_us + c->patience_us;
    c->trial = false;
    c->passed_us = c->lost_us = 0;
}
