/*
 * The allocation seam. All heap memory of ours comes from here, so that a test can make the n-th allocation fail
 * (alloc_fail_at) and see every path survive it. Sizes from outside go through the checked forms. Thread-safe.
 */
#ifndef GENLOOP_BASE_ALLOC_H
#define GENLOOP_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Return owned memory, NULL when there is none (or the test said so). size 0 gives a unique pointer. */
void *mem_alloc(size_t size) __attribute__((malloc));
void *mem_zalloc(size_t size) __attribute__((malloc));
void *mem_calloc(size_t count, size_t size) __attribute__((malloc)); /* zeroed; NULL on overflow */
void *mem_realloc(void *old, size_t size);
void *mem_realloc_array(void *old, size_t count, size_t size);
void mem_free(void *memory); /* NULL is accepted */
char *mem_strdup(const char *s);
/* Aligned to 64 bytes (cache line and widest vector), freed by mem_free. */
void *mem_alloc_aligned(size_t size) __attribute__((malloc));
/* Asks for huge pages for what lies inside the memory, where it is large and new: a first touch costs a five-hundredth of the faults. A refusal costs speed only. */
void mem_prefer_huge(void *memory, size_t size);

/* true and *out on success; false on overflow. */
static inline bool size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* Tests: the n-th allocation from now (1 = the next) and every later one fails, in this thread; 0 switches it off. */
void alloc_fail_at(uint64_t n);
/* How many allocations this thread has asked for since the last alloc_fail_at. */
uint64_t alloc_count(void);

/* Grows *array (of *capacity elements of `size`) so that `need` fit, doubling; returns 0 or E_NOMEM, *array untouched then. */
int array_reserve(void *array_pointer, size_t *capacity, size_t need, size_t size);

#define CLEANUP(function) __attribute__((cleanup(function)))

#endif
