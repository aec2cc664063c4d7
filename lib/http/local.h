/*
 * Requests of this process to itself: an exchange like any other for its handler, with no connection and no bytes of HTTP in between. For work that is asked for in files what clients
 * ask for in requests: it takes the same way and gets the same answers.
 *
 *     http_local_send ─► on_request(x) … http_respond(x) ─► on_answer
 *
 * The handler is called at the next turn of the loop, and on_answer at the one after its answer, once, with the whole of it; none of them from inside of a call of these functions. It is plain
 * (not secure), of loopback, and speaks of itself as HTTP/1.1. An answer that is streamed is gathered up to HTTP_LOCAL_ANSWER_MAX.
 */
#ifndef GENLOOP_HTTP_LOCAL_H
#define GENLOOP_HTTP_LOCAL_H

#include "http/server.h"

enum { HTTP_LOCAL_ANSWER_MAX = 64 << 20 }; /* twice what the gateway writes whole */

struct http_local;
struct http_local_request {
    struct span method, path;        /* copied, as the rest: the path as it would be sent */
    const struct http_field *fields;
    size_t n_fields;
    struct span body;
};
struct http_local_answer {
    int status;                      /* 0: the handler ended it without one */
    struct span body;                /* borrowed for the call */
};
/* Returns a handle that is good until on_answer; NULL without memory, or where the request is malformed. */
struct http_local *http_local_send(struct loop *l, const struct http_local_request *r, void *server_arg, void (*on_request)(void *arg, struct http_exchange *x), void *arg,
                                   void (*on_answer)(void *arg, const struct http_local_answer *answer));
/* Nobody waits any more: the handler hears that its client is gone, and on_answer does not come. NULL is accepted. */
void http_local_cancel(struct http_local *q);

#endif
