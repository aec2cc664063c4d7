/* What server.c (listening, time, draining), opening.c (which protocol is it), http1.c and http2.c (one connection each) share. */
#ifndef GENLOOP_HTTP_SERVER_INTERNAL_H
#define GENLOOP_HTTP_SERVER_INTERNAL_H

#include "http/transport.h"
#include "http/wire.h"

struct http_connection;
struct http_connection_kind {
    void (*drain)(struct http_connection *c);      /* the server drains now */
    void (*close)(struct http_connection *c);      /* at once */
    void (*check_time)(struct http_connection *c); /* closes what has waited too long */
};

/* The beginning of every kind of connection. */
struct http_connection {
    struct http_connection *next, *previous;
    const struct http_connection_kind *kind;
    struct http_server *server; /* holds a reference */
};

struct http_server {
    int refs; /* its owner, its connections, walks over them */
    struct loop *loop;
    struct listener *listener; /* NULL: not accepting any more */
    struct loop_timer *timer;  /* runs while there are connections */
    int64_t tick_ms;
    struct http_limits limits;
    void *arg;
    void (*on_request)(void *arg, struct http_exchange *x);
    struct http_connection *connections, *walking; /* walking: the next one of the walk that is under way */
    size_t connection_count;
    char door[32];             /* label of the metrics */
    struct http_tls *tls;      /* NULL: plain */
    struct http2_setup *http2; /* what all HTTP/2 connections share */
    struct loop_timer *aside;  /* the listener has stepped aside, and draining begins when it fires */
    bool draining;
    void *drained_arg;
    void (*on_drained)(void *arg);
    char date[64];
    int64_t date_second;
};

/* A connection that has said nothing yet; puts http1 or http2 in its own place. Takes stream. NULL without memory. */
struct http_connection *opening_new(struct http_server *s, struct stream *stream);
void opening_start(struct http_connection *c);
/* Take the transport and what the client has sent so far. NULL without memory (the transport stays the caller's). They are in the server's list when *_start is called. */
struct http_connection *http1_new(struct http_server *s, struct transport *transport);
void http1_start(struct http_connection *c, struct span first);
struct http_connection *http2_new(struct http_server *s, struct transport *transport);
void http2_start(struct http_connection *c, struct span first);
int http2_setup_new(struct http2_setup **out);
void http2_setup_free(struct http2_setup *setup);

void http_server_replace(struct http_server *s, struct http_connection *old, struct http_connection *c); /* in the list; old is the caller's to free */
void http_server_forget(struct http_server *s, struct http_connection *c); /* takes c out of the list */
void http_server_unref(struct http_server *s);
void http_server_count(const struct http_server *s, const char *reason); /* something met a limit */
struct span http_server_date(struct http_server *s);

#endif
