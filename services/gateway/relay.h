/*
 * Doors that only pass on: the request's JSON, path and query become a protobuf message by its descriptor, the service that owns the matter answers on the bus, its reply
 * becomes JSON by its descriptor. A row of RELAYS says all that differs between them.
 */
#ifndef GATEWAY_RELAY_H
#define GATEWAY_RELAY_H

#include <protobuf-c/protobuf-c.h>

#include "base/error.h"
#include "base/json.h"
#include "base/span.h"

enum relay_stream {
    RELAY_UNARY,
    RELAY_EVENTS,      /* a stream of replies as server-sent events */
    RELAY_EVENTS_ASKED, /* events where the client accepts text/event-stream; else the last reply, when it is there */
};

struct relay {
    const char *service, *method;
    const ProtobufCMessageDescriptor *request, *reply;
    const char *path_field;      /* the field that the path's (first) parameter fills; NULL: none */
    const char *const *query;    /* fields that the query may fill, NULL-terminated; NULL: none */
    const char *fixed_field;     /* a field with a fixed value; NULL: none */
    int64_t fixed_value;
    const char *by_field;        /* takes x-genloop-by where the body leaves it empty; NULL: none */
    enum relay_stream stream;
    int64_t timeout_ms;          /* 0: the exchange's */
    bool page;                   /* limit and page_token of the query fill the submessage `page` */
};

struct exchange;
/*
 * Asks the service and answers with its reply, or with each of its replies (stream), in the face that the client speaks. request: packed, borrowed. patient: without a deadline.
 * Ends the exchange, now or later; where exchange_wait takes over, the handler is called again.
 */
void relay_send(struct exchange *x, const struct relay *relay, struct span request, bool stream, bool patient);

/* Pure: the packed request. body may be NULL. */
int relay_pack(const struct relay *relay, const char *path_value, struct span query, const struct json *body, const char *by, struct buf *out, struct error *err);

#endif
