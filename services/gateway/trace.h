/*
 * W3C Trace Context at a door: which traceparent goes on from here. Pure: chance is given in. A caller's traceparent is gone on with under a parent id of our own; one that is malformed counts as none
 * and a new trace begins (https://www.w3.org/TR/trace-context/#a-traceparent-is-received).
 */
#ifndef GATEWAY_TRACE_H
#define GATEWAY_TRACE_H

#include <stdint.h>

#include "base/span.h"

enum { TRACEPARENT_MAX = 56, TRACE_CHANCE = 24 }; /* "00-" 32 "-" 16 "-" 2 and the end; bytes of a trace id and of a parent id */

/* "00-TRACE-PARENT-FLAGS" for what follows `given` (data NULL: nothing was given). Returns out. */
char *trace_next(struct span given, const uint8_t chance[TRACE_CHANCE], char out[TRACEPARENT_MAX]);

#endif
