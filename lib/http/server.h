/*
 * An HTTP server on an event loop. A request is an exchange: a handle that the handler gets once its head is read, and ends exactly once,
 * now or later, by http_respond, http_stream_end or http_abort. Until then the handle is valid, whether or not the client is
 * still there; afterwards it is gone and none of its callbacks comes any more. Exchanges of one connection may be answered in any order; they are
 * written in the order in which they came. The exchange knows nothing of the wire below it (http/wire.h): HTTP/1.1 is in http1.c.
 *
 *     on_request ──► [http_body_read | http_body_collect] ──► [http_header_add …] ──► http_respond                              (ended)
 *                                                                             └──► http_stream_begin ─► http_stream_write … ─► http_stream_end (ended)
 *
 * Everything is called on the loop's thread. A callback may come from inside of the function that asked for it.
 */
#ifndef GENLOOP_HTTP_SERVER_H
#define GENLOOP_HTTP_SERVER_H

#include "base/error.h"
#include "base/loop.h"
#include "base/span.h"
#include "http/parser.h"

struct http_server;
struct http_exchange;

/* 0 in a field means the default. */
struct http_limits {
    struct http_parser_limits parser;
    size_t connections_max;     /* 4096: each costs a descriptor and, while busy, up to 2 MiB; beyond, they wait in the kernel's backlog */
    size_t pipeline_max;        /* 16 requests of a connection that are not answered yet; beyond, reading stops */
    size_t write_buffer_max;    /* 1 MiB of a streamed answer that the client has not taken; beyond, http_stream_write says E_FULL */
    size_t discard_max;         /* 64 KiB of a body that nobody wants are read away to keep the connection; with more left it is closed */
    int64_t head_timeout_ms;    /* 10 s from a request's first byte to the end of its head: 408 (slowloris) */
    int64_t body_timeout_ms;    /* 30 s without a byte of a body that is being read: E_DEADLINE to the reader */
    int64_t idle_timeout_ms;    /* 75 s without a request; longer than the 60 s of the usual proxies, so that they close first */
    int64_t write_timeout_ms;   /* 60 s in which a client takes nothing of an answer that waits for it: it is cut off */
    int64_t linger_ms;          /* 2 s that a closing connection reads away what the client still sends, so that it gets its last answer */
};
enum { HTTP_BODY_COLLECT_MAX = 8 << 20 }; /* the usual cap of http_body_collect: what the gateway reads whole (contracts: 8 MiB, above it 413) */

/* address as in listener_open. on_request borrows nothing: x is the handler's until it ends it. Returns owned, NULL and err. */
struct http_server *http_server_open(struct loop *l, const char *address, const struct http_limits *limits, void *arg,
                                     void (*on_request)(void *arg, struct http_exchange *x), struct error *err);
int http_server_port(const struct http_server *s);
size_t http_server_connections(const struct http_server *s);
/* Stops accepting and closes what is idle; what is open is answered and then closed. on_done when the last connection is gone; at once where
 * there is none. */
void http_server_drain(struct http_server *s, void *arg, void (*on_done)(void *arg));
/* At once: open exchanges hear on_close, and stay valid until their handlers end them. NULL is accepted. */
void http_server_close(struct http_server *s);

/* ---- The request: borrowed, valid as long as the exchange ----------------------------------------------------------------- */

struct span http_method(const struct http_exchange *x);
struct span http_path(const struct http_exchange *x);  /* percent-encoded, begins with '/' (or is "*"); http/query.h decodes */
struct span http_query(const struct http_exchange *x); /* behind '?', data NULL where there is none */
struct span http_header(const struct http_exchange *x, const char *name); /* the first of this name, data NULL where absent */
size_t http_header_count(const struct http_exchange *x);
const struct http_field *http_header_at(const struct http_exchange *x, size_t i);
struct span http_authority(const struct http_exchange *x); /* Host, or the target's own */
const char *http_peer(const struct http_exchange *x);      /* "127.0.0.1:51234"; "" once the client is gone */
bool http_peer_loopback(const struct http_exchange *x);
bool http_client_gone(const struct http_exchange *x);

/* Reads the body as it comes. on_chunk(arg, piece, last, r): pieces with r 0, the last one (it may be empty) with last true; or once with r
 * negative and nothing more: E_CANCELLED the client is gone, E_DEADLINE it was too slow, E_INVALID the body is malformed. Once per exchange. */
void http_body_read(struct http_exchange *x, void *arg, void (*on_chunk)(void *arg, struct span piece, bool last, int r));
void http_body_pause(struct http_exchange *x);  /* no on_chunk until resumed: the client is slowed down */
void http_body_resume(struct http_exchange *x);
/* Reads the whole body. on_body(arg, body, 0) with at most cap bytes, borrowed until the exchange ends; or r as above, E_TOO_LARGE (answer 413), E_NOMEM. */
void http_body_collect(struct http_exchange *x, size_t cap, void *arg, void (*on_body)(void *arg, struct span body, int r));

/* ---- The answer ----------------------------------------------------------------------------------------------------------- */

/* A field of the answer, copied; before it begins. E_INVALID for a name or value that HTTP does not allow, E_STATE afterwards, E_FULL above 16 KiB. */
int http_header_add(struct http_exchange *x, const char *name, struct span value);
/* The whole answer; ends the exchange. body is copied. content_type NULL: none. A HEAD request gets the length and no body.
 * 0, or E_CANCELLED where the client is gone, E_NOMEM. The exchange is gone in each case. */
int http_respond(struct http_exchange *x, int status, const char *content_type, struct span body);
/* Begins an answer of unknown length: chunked, to HTTP/1.0 until the connection closes. 0, E_CANCELLED or E_NOMEM; it still is to be ended. */
int http_stream_begin(struct http_exchange *x, int status, const char *content_type);
/* 0, E_FULL (nothing taken; on_drain follows), E_TOO_LARGE (more than the buffer ever holds), E_CANCELLED, E_NOMEM. */
int http_stream_write(struct http_exchange *x, struct span data);
void http_stream_end(struct http_exchange *x); /* ends the exchange */
/* Ends the exchange without an end of its answer: the client sees that it was cut off (500 where nothing was sent yet). */
void http_abort(struct http_exchange *x);
bool http_begun(const struct http_exchange *x); /* whether an answer has begun: it is too late for another status */
/* The client is gone, or has said that it sends nothing more while we owe it an answer: stop working for it. At most once; comes at the next turn
 * where that is so already. The exchange still is to be ended. */
void http_on_close(struct http_exchange *x, void *arg, void (*on_close)(void *arg));
/* After an E_FULL: there is room again. */
void http_on_drain(struct http_exchange *x, void *arg, void (*on_drain)(void *arg));

const char *http_status_text(int status); /* "Not Found"; "" where we have no word for it */
/* The OpenAI error object as JSON into out: {"error":{"message":…,"type":…,"param":…,"code":…}}. code NULL: null. */
int http_error_body(struct buf *out, const char *message, const char *type, const char *param, const char *code);
/* http_respond with status, type and message of err, as OpenAI's error object; 429 and 503 get a Retry-After. */
int http_respond_error(struct http_exchange *x, const struct error *err);

#endif
