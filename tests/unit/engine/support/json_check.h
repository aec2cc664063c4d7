/* A small validator of JSON Schema, for the keywords that need no pattern: what the grammar's answers are held to, written without it. */
#ifndef TEST_JSON_CHECK_H
#define TEST_JSON_CHECK_H

#include <stdbool.h>

#include "base/json.h"

bool json_check(const struct json *root, const struct json *schema, const struct json *value);

#endif
