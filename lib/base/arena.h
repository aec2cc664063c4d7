/*
 * An arena: many small allocations with one life, freed at once; for a request, a job step, a parse. It has a byte cap, so that nobody's input can grow it without bound. Memory is zeroed (but arena_alloc_raw's),
 * aligned to 16 (arena_alloc) or 64 (arena_alloc_aligned). One thread at a time. Under AddressSanitizer what lies beside the pieces is closed: who leaves one is told so, as on the heap.
 */
#ifndef GENLOOP_BASE_ARENA_H
#define GENLOOP_BASE_ARENA_H

#include "base/span.h"

struct arena {
    struct arena_block *blocks;
    size_t used, cap; /* bytes handed out, and the most that may be */
};

void arena_init(struct arena *a, size_t cap);
void arena_fini(struct arena *a);  /* frees all; safe on a zeroed struct and twice */
void arena_clear(struct arena *a); /* forgets all, keeps the largest block */
void *arena_alloc(struct arena *a, size_t size); /* zeroed; NULL beyond the cap or without memory */
void *arena_alloc_raw(struct arena *a, size_t size); /* as arena_alloc, not zeroed: for what may be far larger than what is written to it */
void *arena_calloc(struct arena *a, size_t count, size_t size);
void *arena_alloc_aligned(struct arena *a, size_t size);
char *arena_strdup(struct arena *a, const char *s);
/* A copy of s, terminated behind its end; data NULL where it failed. */
struct span arena_span(struct arena *a, struct span s);
char *arena_printf(struct arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
