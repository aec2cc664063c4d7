/* What table tests of the services' cores share: cmocka in the order that it wants, checks that name the row that failed, and sweeps of failing allocations. */
#ifndef TESTS_UNIT_SUPPORT_CHECK_H
#define TESTS_UNIT_SUPPORT_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define CHECK(condition, ...)                \
    do {                                     \
        if (!(condition)) {                  \
            print_error("%s: ", #condition); \
            print_error(__VA_ARGS__);        \
            print_error("\n");               \
            fail();                          \
        }                                    \
    } while (0)

/* What this thread has cost so far: for tests of how cost grows, which a busy machine must not disturb. */
static inline int64_t thread_cpu_us(void) {
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), 0);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* JSON in C without a backslash at every quotation mark: ' stands for ". Returns borrowed until the fourth call from now. */
static inline struct span quoted(const char *text) {
    static char ring[4][16384];
    static unsigned turn;
    char *out = ring[turn++ % 4];
    size_t n = strlen(text);
    assert_true(n < sizeof ring[0]);
    for (size_t i = 0; i <= n; i++) out[i] = text[i] == '\'' ? '"' : text[i];
    return span_of(out, n);
}

/* Runs `attempt` with each of its allocations failing in turn, until one run gets through: every other one must say E_NOMEM (or what `also` is). */
static inline void sweep(const char *name, int (*attempt)(void *arg), void *arg, int also) {
    for (uint64_t at = 1;; at++) {
        CHECK(at < 100000, "%s never succeeds", name);
        alloc_fail_at(at);
        int r = attempt(arg);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        if (asked < at) {
            CHECK(r == 0, "%s: %d without a failing allocation", name, r);
            return;
        }
        CHECK(r == E_NOMEM || r == also || r == 0, "%s: %d where allocation %llu fails", name, r, (unsigned long long)at);
    }
}

#endif
