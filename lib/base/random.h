/*
 * Chance: the operating system's for keys and ids, and a small seeded generator (xoshiro256++) for everything that must be
 * repeatable. struct random is plain data, one thread at a time; random_bytes is thread-safe.
 */
#ifndef GENLOOP_BASE_RANDOM_H
#define GENLOOP_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

void random_bytes(void *out, size_t len); /* from the kernel; aborts where there is none */

struct random {
    uint64_t s[4];
};
void random_seed(struct random *r, uint64_t seed);         /* splitmix64 of the seed */
void random_seed2(struct random *r, uint64_t a, uint64_t b); /* of a pair, e.g. seed and step: independent streams */
uint64_t random_u64(struct random *r);
uint64_t random_below(struct random *r, uint64_t n); /* 0..n-1, without bias; n > 0 */
double random_f64(struct random *r);                  /* [0, 1) */
double random_normal(struct random *r);               /* mean 0, deviation 1 (Box–Muller, one of the pair) */

/* Ids: time-ordered UUIDv7 as 36 characters + NUL, from the wall clock and the kernel's randomness. */
enum { ID_TEXT_MAX = 37 };
char *id_make(char text[ID_TEXT_MAX]);

#endif
