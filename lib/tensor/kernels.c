/* Which variant this machine runs. */
#include "tensor/kernels.h"

#include <stdatomic.h>

#include "tensor/kernels_list.h"
#include "tensor/quant.h"

struct variant {
    const struct kernels *table;
    int (*runs)(void);
};

static int runs_always(void) { return 1; }
#if defined(__x86_64__)
static int runs_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int runs_avx512(void) {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw");
}
#endif

/* Best first. */
static const struct variant variants[] = {
#if defined(__x86_64__)
    {&kernels_avx512, runs_avx512},
    {&kernels_avx2, runs_avx2},
#endif
    {&kernels_c, runs_always},
};
enum { VARIANTS = sizeof variants / sizeof variants[0] };

static _Atomic(const struct kernels *) chosen;

const struct kernels *kernels_named(const char *name) {
    for (size_t i = 0; i < VARIANTS; i++)
        if (strcmp(variants[i].table->name, name) == 0 && variants[i].runs()) return variants[i].table;
    return NULL;
}

/* The variant that goes with kernels of quant.h of this name: tiles, and products of bytes and of bf16, are those' alone. */
static const char *vectors_of(const char *name) {
    for (size_t i = 0; i < QUANT_KERNELS_COUNT; i++)
        if (strcmp(QUANT_KERNELS[i]->name, name) == 0 && QUANT_KERNELS[i]->vectors) return QUANT_KERNELS[i]->vectors;
    return name;
}

const struct kernels *kernels(void) {
    const struct kernels *k = atomic_load_explicit(&chosen, memory_order_acquire);
    if (k) return k;
    const char *forced = getenv("GENLOOP_KERNELS");
    if (forced && *forced) {
        k = kernels_named(vectors_of(forced));
        if (!k) {
            fprintf(stderr, "GENLOOP_KERNELS=%s: no such kernels, or this CPU cannot run them\n", forced);
            abort();
        }
    }
    for (size_t i = 0; !k; i++) /* the last one always runs */
        if (variants[i].runs()) k = variants[i].table;
    atomic_store_explicit(&chosen, k, memory_order_release);
    return k;
}

const char *const *kernels_available(void) {
    static _Thread_local const char *names[VARIANTS + 1];
    size_t n = 0;
    for (size_t i = 0; i < VARIANTS; i++)
        if (variants[i].runs()) names[n++] = variants[i].table->name;
    names[n] = NULL;
    return names;
}
