/* What server.c (listening, time, draining) and http1.c (one connection) share. */
#ifndef GENLOOP_HTTP_SERVER_INTERNAL_H
#define GENLOOP_HTTP_SERVER_INTERNAL_H

#include "base/loop_stream.h"
#include "http/wire.h"

struct http_server {
    int refs; /* its owner, its connections, walks over them */
    struct loop *loop;
    struct listener *listener; /* NULL: not accepting any more */
    struct loop_timer *timer;  /* runs while there are connections */
    int64_t tick_ms;
    struct http_limits limits;
    void *arg;
    void (*on_request)(void *arg, struct http_exchange *x);
    struct http1 *connections, *walking; /* walking: the next one of the walk that is under way */
    size_t connection_count;
    bool draining;
    void *drained_arg;
    void (*on_drained)(void *arg);
    char date[64];
    int64_t date_second;
};

/* One HTTP/1 connection. */
struct http1 {
    struct http1 *next, *previous;
    struct http_server *server;    /* holds a reference */
    struct stream *stream;         /* NULL once dead */
    struct http_parser parser;
    struct buf in;                 /* read, but not taken yet */
    struct http_exchange *first, **last; /* not written yet, in the order of their requests */
    size_t exchange_count;
    struct http_exchange *current; /* the one whose body is being read: the last of the list */
    const struct span *taking;     /* the input that is being parsed now, what is left of it */
    int busy;                      /* calls under way; the outermost one settles, see http1.c */
    bool stalled;                  /* the parser was not asked on: the pipeline is full, or nobody wants the body now */
    bool discarding;               /* the body's exchange has ended without wanting it */
    bool final;                    /* the request being read is the last one: it said so */
    bool no_more;                  /* nothing further is read: the connection closes behind the last answer */
    bool ended;                    /* the client has said that it sends nothing more */
    bool broken;                   /* a write failed */
    bool dead;
    int waiting_for;               /* enum waiting, since waiting_since_ms */
    int64_t waiting_since_ms, progress_ms;
    uint64_t written, flushed;     /* bytes given to the stream; of them, taken by the client at progress_ms */
};

struct http1 *http1_new(struct http_server *s, struct stream *stream);
void http1_start(struct http1 *c);
void http1_drain(struct http1 *c);
void http1_close(struct http1 *c); /* at once */
void http1_check_time(struct http1 *c); /* closes what has waited too long */
void http_server_forget(struct http_server *s, struct http1 *c); /* takes c out of the list */
void http_server_unref(struct http_server *s);
struct span http_server_date(struct http_server *s);

#endif
