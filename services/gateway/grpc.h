/*
 * gRPC at the gateway: the services of proto/genloop/v1, gRPC's health and reflection, on the port of everything else: a POST with Content-Type application/grpc over HTTP/2 is a call.
 *   grpc_wire.c        messages, timeout, status as bytes (pure)
 *   grpc_reflection.c  descriptors (pure)
 *   grpc_methods.c     the table of methods: what each is, who may, who answers
 *   grpc.c             a call: its messages in, its status out
 *   grpc_own.c         what only gRPC has: health, reflection
 *
 * A call is an exchange (exchange.h) whose face is gRPC's: `grpc` of struct exchange is set, its route is its method's row, and exchange_reply, exchange_item, exchange_finish and
 * exchange_error write frames and trailers instead of JSON. So relays, generations, keys and limits are the HTTP doors' own.
 *
 * Status: as base/error.h maps our codes, with google.rpc.Status details. Deadline: grpc-timeout travels to the service with the call; where it passes, the call ends here with
 * DEADLINE_EXCEEDED and its work is cancelled. A client that cancels or goes cancels in the same turn. Flow control: answers wait for HTTP/2's window, and no credit goes back to the
 * service meanwhile; a client's stream is paused while the service grants none.
 */
#ifndef GATEWAY_GRPC_H
#define GATEWAY_GRPC_H

#include "exchange.h"
#include "grpc_wire.h"
#include "relay.h"

struct grpc_method {
    struct route route; /* its pattern is the path, its handler grpc_handle */
    void (*handle)(struct exchange *x, const struct json *body); /* with the request's message there, or of a client stream before its first; body: NULL */
    struct relay relay; /* whom it is passed on to, and its messages' types; service NULL: nobody */
    bool client_stream, server_stream;
};
extern const struct grpc_method GRPC_METHODS[];
extern const size_t GRPC_METHODS_COUNT;
const struct grpc_method *grpc_method_of(const struct exchange *x);

/* ---- for exchange.c ---- */

struct grpc; /* what an exchange has more */
/* Whether the request is a call; E_UNSUPPORTED: it would be one, but not so (HTTP/1.1, +json): err says why. */
int grpc_asked(const struct http_exchange *http, struct error *err);
struct grpc *grpc_new(struct exchange *x); /* NULL without memory */
void grpc_free(struct grpc *g);
/* grpc-timeout, into x->timeout_ms, which is kept by a timer from here on. */
int grpc_read_headers(struct exchange *x, struct error *err);
/* The row, into x->match. E_UNSUPPORTED: there is none. */
int grpc_match(struct exchange *x, struct error *err);
void grpc_status(struct exchange *x, const struct error *err, const char *reason); /* what the trailers will say; err NULL: OK */
int grpc_http_status(const struct exchange *x);   /* its HTTP twin, for metrics and logs */
bool grpc_late(struct exchange *x);               /* the deadline has passed, and that is to be said: true once */
int grpc_begin(struct exchange *x);               /* the answer's head, where it is not out yet */
int grpc_frame(struct exchange *x, struct span message);
void grpc_trailers(struct exchange *x);

/* ---- for handlers ---- */

struct span grpc_message(const struct exchange *x); /* the request, packed; its strings are UTF-8 */
bool grpc_timeout_given(const struct exchange *x);
void grpc_handle(struct exchange *x, const struct json *body);
void grpc_relay(struct exchange *x, const struct json *body);
void grpc_uplink(struct exchange *x, const struct json *body);
void grpc_not_built(struct exchange *x, const struct json *body);
void generation_call(struct exchange *x, const struct json *body); /* generate.c */
void embed_call(struct exchange *x, const struct json *body);      /* encode.c */
void rerank_call(struct exchange *x, const struct json *body);
/* The messages of a client's stream. None of the three is called again once the exchange has ended. */
enum grpc_taken { GRPC_TAKEN, GRPC_HELD, GRPC_ENDED };
struct grpc_stream {
    /* Borrowed. GRPC_HELD: not now: the client is slowed down, and grpc_stream_more gives the message again. GRPC_ENDED: the exchange has ended. */
    enum grpc_taken (*on_message)(void *arg, struct span message);
    void (*on_end)(void *arg);                             /* there are no more */
    void (*on_failed)(void *arg, const struct error *err); /* the exchange still is to be ended; E_CANCELLED: the client is gone */
};
void grpc_stream_read(struct exchange *x, void *arg, const struct grpc_stream *stream); /* stream: borrowed for as long */
void grpc_stream_more(struct exchange *x);

void health_check(struct exchange *x, const struct json *body); /* grpc_own.c */
void health_watch(struct exchange *x, const struct json *body);
void reflection_info(struct exchange *x, const struct json *body);

#endif
