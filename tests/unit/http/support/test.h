/* What every test of this folder includes: cmocka in the order that it wants, and checks that name the table row that failed. */
#ifndef TESTS_UNIT_HTTP_TEST_H
#define TESTS_UNIT_HTTP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/span.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define CHECK(condition, ...)                                             \
    do {                                                                  \
        if (!(condition)) {                                               \
            print_error("%s: ", #condition);                              \
            print_error(__VA_ARGS__);                                     \
            print_error("\n");                                            \
            fail();                                                       \
        }                                                                 \
    } while (0)

#endif
