/*
 * A client's stream on its way to a service: messages that come one by one are its items on the bus, and the service's reply is the answer. Backpressure goes all the way: without
 * credit from the service the request's body is paused, and the connection slows the client. What turns the body into messages is the door's (documents.c, grpc_call.c).
 *
 *   uplink_open ──► uplink_send … ──► uplink_end ──► (the reply) ──► the exchange ends
 */
#ifndef GATEWAY_UPLINK_H
#define GATEWAY_UPLINK_H

#include "relay.h"

struct exchange;
struct uplink;
struct uplink_events {
    void (*on_writable)(void *arg); /* after an E_FULL: the service takes more */
    void (*on_over)(void *arg);     /* the exchange has ended: free what arg is. Not called from inside uplink_send and uplink_end, nor after uplink_fail */
};

/* Asks the service. NULL: the exchange has ended, or is called again (exchange_wait); arg stays the caller's. */
struct uplink *uplink_open(struct exchange *x, const struct relay *relay, void *arg, const struct uplink_events *events);
/* One packed message. 0; E_FULL: not taken, on_writable follows; another code: uplink_fail with it. */
int uplink_send(struct uplink *u, struct span message);
int uplink_end(struct uplink *u); /* no more follow */
/* Gives the call up and ends the exchange with the error; E_CANCELLED: the client is gone. */
void uplink_fail(struct uplink *u, const struct error *err);

#endif
