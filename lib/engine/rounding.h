/*
 * Arithmetic that both sides of the int8 KV cache quantize with (kv_cache.c what it holds, attention.c the queries), in a form that a compiler turns into
 * vectors of any CPU and that gives the same bits on all of them.
 */
#ifndef GENLOOP_ENGINE_ROUNDING_H
#define GENLOOP_ENGINE_ROUNDING_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ROUNDING_INFINITE UINT32_C(0x7f800000) /* the bits of +inf; above them are those of nan */

static inline float rounding_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
/* The bits of max |x[i]|: without their sign floats are in the order of their bits, and unlike fmaxf that forgets no nan. */
static inline uint32_t rounding_absmax(const float *x, size_t n) {
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return (uint32_t)most;
}
static inline float rounding_clamp(float x, float most) { return x > most ? most : x < -most ? -most : x; }
/* To nearest even; |x| < 2^22. 1.5 · 2^23 leaves no bit for a fraction. */
static inline int32_t rounding_nearest(float x) { return (int32_t)((x + 12582912.0f) - 12582912.0f); }

#endif
