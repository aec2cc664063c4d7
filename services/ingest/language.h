/*
 * The language of prose: by its script where that decides, else by the share of its most frequent small words. BCP 47: one of en de fr es it pt nl sv da nb pl
 * cs fi hu ro tr ru uk el zh ja ko ar he th hi, or "und". Looks at the first LANGUAGE_BYTES_MAX bytes. Pure, thread-safe.
 */
#ifndef GENLOOP_INGEST_LANGUAGE_H
#define GENLOOP_INGEST_LANGUAGE_H

#include "base/span.h"

enum { LANGUAGE_BYTES_MAX = 32 << 10 };
const char *language_of(struct span text); /* static */

#endif
