/*
 * Drops what is broken, with a reason: not what is merely dull. The thresholds are one table (quality.c) of shares that no readable text of its
 * kind reaches. Linear. Pure, thread-safe.
 */
#ifndef GENLOOP_INGEST_QUALITY_H
#define GENLOOP_INGEST_QUALITY_H

#include "services/ingest/detect.h"

enum reason quality_check(struct span text, enum media media, char *detail, size_t detail_size);

#endif
