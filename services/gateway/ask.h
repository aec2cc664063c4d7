/*
 * One question to a service on behalf of an exchange, for handlers that make their own JSON of the answer. While it is open the exchange is its: a client that goes away ends both.
 */
#ifndef GATEWAY_ASK_H
#define GATEWAY_ASK_H

#include <protobuf-c/protobuf-c.h>

#include "exchange.h"

struct ask {
    const char *service, *method;
    const ProtobufCMessage *request; /* borrowed for the call */
    bool again;                      /* not the handler's first question: a service that is not there is an error at once */
    void *arg;
    /* Once; the exchange is the handler's again. packed: the reply; r and err: why there is none. */
    void (*on_answer)(struct exchange *x, void *arg, struct span packed, int r, const struct error *err);
    void (*on_gone)(void *arg); /* the client went, the exchange with it: frees arg. NULL: arg is nothing */
};
/* False: the service is not there yet, and the exchange's handler will be called again (exchange_wait): leave nothing behind. Else on_answer follows, perhaps before this returns. */
bool ask_service(struct exchange *x, const struct ask *ask);

#endif
