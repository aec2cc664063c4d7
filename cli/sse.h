/*
 * Server-sent events, read as they come (the WHATWG's "event stream interpretation"): of each event its data, of several `data:` lines joined by a newline. Names, ids and
 * retry times are not looked at: the gateway sends none. Pure; plain data, one thread at a time.
 */
#ifndef GENLOOP_CLI_SSE_H
#define GENLOOP_CLI_SSE_H

#include "base/buf.h"
#include "base/span.h"

enum { SSE_EVENT_MAX = 64 << 20 }; /* the largest answer of the gateway */

struct sse {
    struct buf line, data;
    bool has_data, after_cr; /* after_cr: a line feed that comes next belongs to the carriage return before it */
};

void sse_init(struct sse *s);
void sse_fini(struct sse *s); /* safe on a zeroed struct and twice */
/* Takes the next bytes. on_event(arg, data) for each event that is whole, data borrowed for the call; a result other than 0 stops and is returned. E_FULL, E_NOMEM: an event that
 * cannot be held. */
int sse_feed(struct sse *s, struct span bytes, void *arg, int (*on_event)(void *arg, struct span data));

#endif
