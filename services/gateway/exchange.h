/*
 * One request at the gateway: what every handler needs of it, and the ways to answer. A handler owns the exchange from its call until it answers by one of the functions
 * below that say "ends"; then it is gone.
 */
#ifndef GATEWAY_EXCHANGE_H
#define GATEWAY_EXCHANGE_H

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "bus/bus.h"
#include "http/server.h"
#include "auth.h"
#include "gateway.h"
#include "quota.h"
#include "router.h"
#include "trace.h"

enum { REQUEST_ID_MAX = 129, SESSION_MAX = 257, CLAIM_MAX = 257 };

struct grpc;
struct exchange {
    struct gateway *gateway;
    struct http_exchange *http;
    struct grpc *grpc;            /* the client speaks gRPC (grpc.h); NULL: HTTP and JSON */
    struct route_match match;
    struct caller caller;         /* known before the handler is called */
    bool owner;                   /* it came through the home's own door */
    bool batch;                   /* it is a line of a batch: asked by this process in its client's name */
    bool admitted;                /* the caller is known and may */
    char request_id[REQUEST_ID_MAX], session[SESSION_MAX], claim[CLAIM_MAX], traceparent[TRACEPARENT_MAX];
    int64_t began_ms, timeout_ms; /* timeout_ms: as the client asked, or the configured one */
    int64_t waits_since_ms;       /* exchange_wait: since when; 0: not yet */
    struct quota_hold quota;
    int64_t retry_after_s;        /* of a refusal; 0: 1 */
    int64_t prompt_estimate;      /* tokens of the prompt, by the size of the body */
    int64_t tokens_used;          /* made for this request, as far as known: what is charged, and logged */
    size_t bytes_out;             /* of the answer's body */
    size_t held;                  /* of the gateway's budget for bodies, by exchange_hold */
    char model[MODEL_FULL_NAME_MAX], replica[65]; /* who answered; "" : no model */
    bool from_cache;
    struct span body;             /* where it is read whole */
    struct json *json;            /* the same, where it is JSON */
    struct idempotent *idempotent; /* it has an Idempotency-Key (idempotency.h); NULL: none */
    struct bus_call *call;        /* of relays: one at a time */
    struct loop_timer *wait;      /* of exchange_wait */
    struct buf pending;           /* of streams: what the client has not taken yet */
    bool streaming, ending;       /* ending: only what is pending is still to go out */
    void *state;                  /* of the handler */
    void (*on_gone)(void *state), (*on_clear)(void *state);
};

/* The server's on_request; arg is the gateway. */
void exchange_request(void *arg, struct http_exchange *http);
/* The same at the home's own door: who can open it is the owner. */
void exchange_request_owner(void *arg, struct http_exchange *http);
/* A request that this process asks itself, of a batch, in the name of `caller` (copied): who he is, is known, and no limit of his counts it. */
void exchange_request_of(struct gateway *g, struct http_exchange *http, const struct caller *caller);

/* Tells the handler of a client that is gone (it still ends the exchange), and of one that has taken all that waited. on_clear may be NULL. */
void exchange_watch(struct exchange *x, void *state, void (*on_gone)(void *state), void (*on_clear)(void *state));

/*
 * What the request needs is not there just now: the handler is called again in a moment, with nothing of this call left behind. False: it has waited long enough, and is to be
 * answered with what is missing. So a service that was started anew, or that has not been heard of yet, costs a client a moment and no retry.
 */
bool exchange_wait(struct exchange *x);

/* The exchange holds so many bytes of its body now, instead of what it said before: of what is collected by others than http_body_collect. E_UNAVAILABLE: all bodies together are too large. */
int exchange_hold(struct exchange *x, size_t bytes, struct error *err);

/* What goes with a call on the bus; borrows from the exchange. timeout 0: what is left of the exchange's. */
struct bus_context exchange_context(const struct exchange *x, int64_t timeout_ms);
const char *exchange_param(const struct exchange *x, int i);

/* Each ends the exchange. */
void exchange_json(struct exchange *x, int status, const struct buf *body);
void exchange_respond(struct exchange *x, int status, const char *content_type, struct span body); /* content_type NULL: none; body is copied */
void exchange_error(struct exchange *x, const struct error *err);
void exchange_error_code(struct exchange *x, const struct error *err, const char *code); /* with OpenAI's `code`; NULL: none */
void exchange_error_status(struct exchange *x, int status, const struct error *err, const char *code); /* where HTTP has a status that no code of ours has: 405, 415 … */
void exchange_end(struct exchange *x);   /* of a stream that has begun, or of a client that is gone */
void exchange_abort(struct exchange *x);
/* The JSON of an error: for the events of a stream. */
int exchange_error_body(struct buf *out, const struct error *err, const char *code);

/* Streams of events. Begin answers the status; event writes `data: …`, and what the client does not take waits in x->pending, up to its cap: E_FULL. */
int exchange_events_begin(struct exchange *x);
int exchange_event(struct exchange *x, struct span data);
int exchange_write(struct exchange *x, struct span bytes); /* events that are formatted already */
bool exchange_clear(const struct exchange *x);             /* the client has taken everything */
/* Ends the stream with `data: [DONE]`, behind what waits. */
void exchange_events_end(struct exchange *x);

/*
 * Answers that are messages, from a service on the bus to whoever asked, in the face that the client speaks: a handler that relays says what, not how. Packed bytes that are no
 * message of the type are the service's fault: the client hears UNKNOWN.
 */
void exchange_reply(struct exchange *x, const ProtobufCMessageDescriptor *type, struct span packed); /* ends */
void exchange_message(struct exchange *x, const ProtobufCMessage *m); /* the same, of what is not packed yet; ends */
void exchange_refuse(struct exchange *x, int code, const char *param, const char *message); /* exchange_error, said in one line; ends */
/* One of a stream, which the first begins. Below 0: the client takes nothing any more, the exchange is to be aborted. */
int exchange_item(struct exchange *x, const ProtobufCMessageDescriptor *type, struct span packed);
void exchange_finish(struct exchange *x, const struct error *err); /* ends the stream, also one of no items; NULL: it is whole */

#endif
