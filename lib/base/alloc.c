#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"

enum { PAGE = 4096, HUGE_PAGE = 2 << 20, HUGE_WORTH = 2 * HUGE_PAGE }; /* below, the ends that stay on small pages are the larger part */

static _Thread_local uint64_t asked, fail_from;

static bool refused(void) {
    asked++;
    return fail_from && asked >= fail_from;
}

void alloc_fail_at(uint64_t n) {
    asked = 0;
    fail_from = n;
}

uint64_t alloc_count(void) { return asked; }

void *mem_alloc(size_t size) { return refused() ? NULL : malloc(size ? size : 1); }
void *mem_zalloc(size_t size) { return refused() ? NULL : calloc(1, size ? size : 1); }
void *mem_calloc(size_t count, size_t size) {
    size_t total;
    return size_mul(count, size, &total) ? mem_zalloc(total) : NULL;
}
void *mem_realloc(void *old, size_t size) { return refused() ? NULL : realloc(old, size ? size : 1); }

void *mem_realloc_array(void *old, size_t count, size_t size) {
    size_t total;
    return size_mul(count, size, &total) ? mem_realloc(old, total) : NULL;
}

void mem_free(void *memory) { free(memory); }

char *mem_strdup(const char *s) {
    size_t size = strlen(s) + 1;
    char *copy = mem_alloc(size);
    return copy ? memcpy(copy, s, size) : NULL;
}

void *mem_alloc_aligned(size_t size) {
    void *memory = NULL;
    return refused() || posix_memalign(&memory, size >= HUGE_WORTH ? HUGE_PAGE : 64, size ? size : 1) ? NULL : memory;
}

void mem_prefer_huge(void *memory, size_t size) {
    uintptr_t from = ((uintptr_t)memory + PAGE - 1) & ~(uintptr_t)(PAGE - 1), to = ((uintptr_t)memory + size) & ~(uintptr_t)(PAGE - 1);
    if (size >= HUGE_WORTH && to > from) (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
}

int array_reserve(void *array_pointer, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity) return 0;
    size_t want = *capacity > SIZE_MAX / 2 ? need : *capacity * 2;
    if (want < need) want = need;
    if (want < 8) want = 8;
    void *array;
    memcpy(&array, array_pointer, sizeof array);
    array = mem_realloc_array(array, want, size);
    if (!array) return E_NOMEM;
    memcpy(array_pointer, &array, sizeof array);
    *capacity = want;
    return 0;
}
