#include "gates/stats.h"

#include <math.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/random.h"

struct interval stats_wilson(double successes, uint64_t n) {
    if (n == 0) return (struct interval){0, 0, 1};
    double N = (double)n, p = successes / N, z2 = STATS_Z95 * STATS_Z95;
    double center = (p + z2 / (2 * N)) / (1 + z2 / N);
    double half = STATS_Z95 / (1 + z2 / N) * sqrt(p * (1 - p) / N + z2 / (4 * N * N));
    return (struct interval){p, fmax(0, center - half), fmin(1, center + half)};
}

struct interval stats_paired_difference(uint64_t only_a, uint64_t only_b, uint64_t n) {
    if (n == 0) return (struct interval){0, -1, 1};
    double a = ((double)only_a + 1) / ((double)n + 2), b = ((double)only_b + 1) / ((double)n + 2), d = a - b;
    double half = STATS_Z95 * sqrt(fmax(0, a + b - d * d) / ((double)n + 2));
    return (struct interval){((double)only_a - (double)only_b) / (double)n, fmax(-1, d - half), fmin(1, d + half)};
}

static int order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int stats_ratio(const double *numerator, const double *denominator, uint64_t n, uint64_t seed, struct interval *out) {
    double top = 0, bottom = 0;
    for (uint64_t i = 0; i < n; i++) top += numerator[i], bottom += denominator[i];
    if (n == 0 || bottom == 0) {
        *out = (struct interval){NAN, NAN, NAN};
        return 0;
    }
    double *rounds = mem_calloc(STATS_BOOTSTRAP_ROUNDS, sizeof *rounds);
    if (!rounds) return E_NOMEM;
    struct random random;
    random_seed(&random, seed);
    for (int k = 0; k < STATS_BOOTSTRAP_ROUNDS; k++) {
        double t = 0, b = 0;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t j = random_below(&random, n);
            t += numerator[j];
            b += denominator[j];
        }
        rounds[k] = b != 0 ? t / b : top / bottom; /* a draw of empty items only says nothing */
    }
    qsort(rounds, STATS_BOOTSTRAP_ROUNDS, sizeof *rounds, order);
    *out = (struct interval){top / bottom, rounds[STATS_BOOTSTRAP_ROUNDS * 25 / 1000], rounds[STATS_BOOTSTRAP_ROUNDS * 975 / 1000 - 1]};
    mem_free(rounds);
    return 0;
}
