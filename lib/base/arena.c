#include "base/arena.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/alloc.h"

/* AddressSanitizer knows a block, and not the pieces in it: it is told that nothing but these may be touched, and between two of them lies a zone that is nobody's. It counts in eights, so that a piece begins
 * at one; a piece may end anywhere. In other builds there is nothing of this. */
#if defined(__SANITIZE_ADDRESS__)
#define ARENA_WATCHED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_WATCHED 1
#endif
#endif
#ifdef ARENA_WATCHED
#include <sanitizer/asan_interface.h>
enum { RED_ZONE = 32, ALIGN_MIN = 8 };
static size_t apart(size_t room) { return room < RED_ZONE ? room : RED_ZONE; } /* behind the end of a block the heap watches */
static void close_all(void *memory, size_t size) { __asan_poison_memory_region(memory, size); }
static void open_up(void *memory, size_t size) { __asan_unpoison_memory_region(memory, size); }
#else
enum { ALIGN_MIN = 1 };
static inline size_t apart(size_t room) { return (void)room, 0; }
static inline void close_all(void *memory, size_t size) { (void)memory, (void)size; }
static inline void open_up(void *memory, size_t size) { (void)memory, (void)size; }
#endif

/* Blocks double up to a mebibyte, so that a small request costs one small block and a large one few. */
enum { BLOCK_MIN = 4096, BLOCK_MAX = 1 << 20 };

struct arena_block {
    struct arena_block *next;
    size_t used, size; /* of the bytes behind this header */
} __attribute__((aligned(64)));
enum { HEAD_REST = 32 }; /* bytes at the end of the header that hold nothing: before the first piece */
_Static_assert(offsetof(struct arena_block, size) + sizeof(size_t) <= sizeof(struct arena_block) - HEAD_REST, "the header's fields lie before what is closed");

static void free_block(struct arena_block *b) {
    open_up((char *)(b + 1) - HEAD_REST, HEAD_REST + b->size);
    mem_free(b);
}

void arena_init(struct arena *a, size_t cap) { *a = (struct arena){.cap = cap}; }

void arena_fini(struct arena *a) {
    while (a->blocks) {
        struct arena_block *b = a->blocks;
        a->blocks = b->next;
        free_block(b);
    }
    a->used = 0;
}

void arena_clear(struct arena *a) {
    struct arena_block *largest = a->blocks;
    for (struct arena_block *b = a->blocks; b; b = b->next)
        if (b->size > largest->size) largest = b;
    while (a->blocks) {
        struct arena_block *b = a->blocks;
        a->blocks = b->next;
        if (b != largest) free_block(b);
    }
    if (largest) {
        largest->next = NULL;
        largest->used = 0;
        close_all(largest + 1, largest->size);
    }
    a->blocks = largest;
    a->used = 0;
}

static void *take(struct arena *a, size_t size, size_t align) {
    if (size > a->cap || a->cap - size < a->used) return NULL;
    if (align < ALIGN_MIN) align = ALIGN_MIN;
    struct arena_block *b = a->blocks;
    size_t at = b ? (b->used + align - 1) & ~(align - 1) : 0;
    if (!b || at > b->size || b->size - at < size) {
        size_t want = b ? b->size * 2 : BLOCK_MIN, total;
        if (want > BLOCK_MAX) want = BLOCK_MAX;
        if (want < size) want = size;
        if (!size_add(want, sizeof(struct arena_block), &total) || !(b = mem_alloc_aligned(total))) return NULL;
        mem_prefer_huge(b, total);
        b->size = want;
        b->used = 0;
        close_all((char *)(b + 1) - HEAD_REST, HEAD_REST + b->size);
        /* What is nearly full goes behind what has room: a large piece must not hide a half-empty block. */
        if (a->blocks && want == size && a->blocks->size - a->blocks->used > BLOCK_MIN / 4) {
            b->next = a->blocks->next;
            a->blocks->next = b;
        } else {
            b->next = a->blocks;
            a->blocks = b;
        }
        at = 0;
    }
    char *memory = (char *)(b + 1) + at;
    open_up(memory, size);
    b->used = at + size + apart(b->size - at - size);
    a->used += size;
    return memory;
}

static void *take_zeroed(struct arena *a, size_t size, size_t align) {
    void *memory = take(a, size ? size : 1, align);
    return memory ? memset(memory, 0, size) : NULL;
}

void *arena_alloc(struct arena *a, size_t size) { return take_zeroed(a, size, 16); }
void *arena_alloc_aligned(struct arena *a, size_t size) { return take_zeroed(a, size, 64); }

void *arena_alloc_raw(struct arena *a, size_t size) { return take(a, size ? size : 1, 16); }

void *arena_calloc(struct arena *a, size_t count, size_t size) {
    size_t total;
    return size_mul(count, size, &total) ? arena_alloc(a, total) : NULL;
}

struct span arena_span(struct arena *a, struct span s) {
    char *copy = s.len < SIZE_MAX ? take(a, s.len + 1, 1) : NULL;
    if (!copy) return (struct span){NULL, 0};
    return (struct span){span_copy(copy, s.len + 1, s), s.len};
}

char *arena_strdup(struct arena *a, const char *s) {
    size_t size = strlen(s) + 1;
    char *copy = take(a, size, 1);
    return copy ? memcpy(copy, s, size) : NULL;
}

char *arena_printf(struct arena *a, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : take(a, (size_t)n + 1, 1);
    if (!text) return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}
