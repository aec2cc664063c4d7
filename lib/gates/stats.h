/*
 * The statistics of the gates: exact formulas where there are, a bootstrap with a fixed seed where there is none, so that the same record gives
 * the same figures on every machine. All intervals are two-sided 95 %. Pure.
 */
#ifndef GENLOOP_GATES_STATS_H
#define GENLOOP_GATES_STATS_H

#include <stdint.h>

#include "base/error.h"

enum { STATS_BOOTSTRAP_ROUNDS = 2000 }; /* the percentile ends then move by well under a tenth of the interval between seeds */
#define STATS_Z95 1.959963984540054

struct interval {
    double value, low, high;
};

/* Wilson's score interval of a share (Wilson 1927); successes may be fractional (ties counted half). n 0: value 0, [0, 1]. */
struct interval stats_wilson(double successes, uint64_t n);
/* The difference of two shares of the same n items: `only_a` of them are successes of a alone, `only_b` of b alone. Bonett and Price's adjusted
 * Wald interval (2012): one is added to each count and two to n, which holds its level at small counts and never has width 0. value is (only_a - only_b) / n. */
struct interval stats_paired_difference(uint64_t only_a, uint64_t only_b, uint64_t n);
/* Σ numerator / Σ denominator over n items with the percentile interval of a paired bootstrap over the items. E_NOMEM; n 0 or a sum of 0 gives value NAN. */
int stats_ratio(const double *numerator, const double *denominator, uint64_t n, uint64_t seed, struct interval *out);

#endif
