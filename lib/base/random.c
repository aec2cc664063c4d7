#include "base/random.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/error.h"

void random_bytes(void *out, size_t len) {
    unsigned char *p = out;
    while (len) {
        ssize_t n = getrandom(p, len, 0);
        if (n < 0 && errno == EINTR) continue;
        ASSERT(n > 0);
        p += n;
        len -= (size_t)n;
    }
}

static uint64_t splitmix64(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void random_seed(struct random *r, uint64_t seed) {
    for (int i = 0; i < 4; i++) r->s[i] = splitmix64(&seed);
}

void random_seed2(struct random *r, uint64_t a, uint64_t b) {
    uint64_t first = splitmix64(&a), state = first ^ b;
    for (int i = 0; i < 4; i++) r->s[i] = splitmix64(&state) ^ (i == 0 ? first : 0);
}

static uint64_t rotl(uint64_t x, int k) { return x << k | x >> (64 - k); }

/* xoshiro256++ 1.0 by Blackman and Vigna, https://prng.di.unimi.it */
uint64_t random_u64(struct random *r) {
    uint64_t *s = r->s, result = rotl(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

/* Lemire, "Fast random integer generation in an interval" (2019). */
uint64_t random_below(struct random *r, uint64_t n) {
    ASSERT(n > 0);
    unsigned __int128 m = (unsigned __int128)random_u64(r) * n;
    if ((uint64_t)m < n) {
        uint64_t threshold = -n % n;
        while ((uint64_t)m < threshold) m = (unsigned __int128)random_u64(r) * n;
    }
    return (uint64_t)(m >> 64);
}

double random_f64(struct random *r) { return (double)(random_u64(r) >> 11) * 0x1p-53; }

double random_normal(struct random *r) {
    double u = 1.0 - random_f64(r); /* (0, 1] */
    double v = random_f64(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

/* RFC 9562, UUIDv7 with its method 1: the 12 bits behind the milliseconds are a counter, so that the ids of one process
 * are in the order in which they were made, also within a millisecond and when the clock steps back. */
char *id_make(char text[ID_TEXT_MAX]) {
    static _Atomic uint64_t last;
    uint8_t b[16];
    random_bytes(b, sizeof b);
    uint64_t now = (uint64_t)clock_wall_ms() << 12 | ((uint64_t)(b[0] & 3) << 8 | b[1]);
    uint64_t seen = atomic_load(&last), next;
    do next = now > seen ? now : seen + 1;
    while (!atomic_compare_exchange_weak(&last, &seen, next));
    uint64_t ms = next >> 12;
    for (int i = 0; i < 6; i++) b[i] = (uint8_t)(ms >> (40 - 8 * i));
    b[6] = (uint8_t)(0x70 | (next >> 8 & 15));
    b[7] = (uint8_t)next;
    b[8] = (uint8_t)(0x80 | (b[8] & 0x3f));
    int n = 0;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) text[n++] = '-';
        text[n++] = "0123456789abcdef"[b[i] >> 4];
        text[n++] = "0123456789abcdef"[b[i] & 15];
    }
    text[n] = 0;
    return text;
}
