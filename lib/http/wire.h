/*
 * What lies between an exchange (exchange.c: what handlers see) and the protocol that carries it (http1.c, http2.c). A protocol makes exchanges
 * with http_exchange_new, feeds their bodies, and takes their answers through the functions of struct http_wire.
 * Only lib/http includes this.
 *
 * Life: two parties hold an exchange, the handler until it has ended it and the wire until it has written it or lost its client
 * (http_exchange_detach). Whoever comes last frees it. Functions that call the handler may find the exchange gone afterwards:
 * the caller holds a reference (http_exchange_ref) across them.
 */
#ifndef GENLOOP_HTTP_WIRE_H
#define GENLOOP_HTTP_WIRE_H

#include "base/buf.h"
#include "http/server.h"

struct http_wire {
    /* The answer begins: x->status and x->fields are set; length of the body, or −1 for a stream. */
    int (*begin)(struct http_exchange *x, int64_t length);
    /* A piece of the body. E_FULL: nothing was taken. */
    int (*write)(struct http_exchange *x, struct span data);
    void (*end)(struct http_exchange *x);   /* the handler has ended it; x->aborted says whether the answer is whole */
    void (*pull)(struct http_exchange *x);  /* the handler wants the body (again), or never will */
    const char *(*peer)(const struct http_exchange *x);
    bool (*loopback)(const struct http_exchange *x);
    bool (*secure)(const struct http_exchange *x);
    enum http_protocol protocol; /* of it; HTTP/1.0 is the head's to say */
};

struct http_exchange {
    const struct http_wire *wire;
    void *connection;            /* the wire's; NULL: the client is gone */
    struct http_exchange *next;  /* the wire's list */
    struct loop *loop;
    int refs;
    struct http_head head;
    /* the request's body */
    void *body_arg;
    void (*on_chunk)(void *arg, struct span piece, bool last, int r);
    void (*on_body)(void *arg, struct span body, int r);
    struct buf collected;
    struct http_budget *budget; /* of what is collected; may be NULL */
    size_t budgeted;
    uint64_t body_seen;
    bool body_patient;
    bool body_wanted, body_paused, body_over; /* over: its end or error was seen */
    bool body_told;                           /* the handler has heard of the end or error */
    int body_error;
    /* the answer */
    int status;
    struct buf fields, trailers; /* "name: value\r\n" … */
    struct buf out;              /* what the connection has not taken yet */
    bool head_only, begun, streaming, ended, aborted, wants_drain, closing;
    void *close_arg, *drain_arg;
    void (*on_close)(void *arg);
    void (*on_drain)(void *arg);
    bool gone, gone_told;        /* the client */
    enum http_reset reset_code;  /* where it is aborted */
};

/* Takes head. One reference for the handler, one for the wire. NULL without memory. */
struct http_exchange *http_exchange_new(struct loop *l, const struct http_wire *wire, void *connection, struct http_head *head);
void http_exchange_ref(struct http_exchange *x);
void http_exchange_unref(struct http_exchange *x);
bool http_exchange_wants_body(const struct http_exchange *x); /* a piece may be given now */
void http_exchange_body(struct http_exchange *x, struct span piece);
void http_exchange_body_end(struct http_exchange *x, int r);  /* 0, or what went wrong */
void http_exchange_gone(struct http_exchange *x);             /* tells on_close, once; the wire still may write */
void http_exchange_detach(struct http_exchange *x);           /* the wire is done with it: body error, on_close, and its reference is given up */
void http_exchange_drained(struct http_exchange *x);          /* calls on_drain where it was asked for */
/* Answers what no handler has seen, as an error object. */
void http_exchange_refuse(struct http_exchange *x, int status, const char *reason);
/* Takes the next "name: value" line off *fields. */
bool http_fields_next(struct span *fields, struct span *name, struct span *value);

#endif
