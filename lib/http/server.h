/*
 * An HTTP server on an event loop: HTTP/1.1 and HTTP/2 on one port. A client that begins with HTTP/2's preface (prior knowledge), or has agreed on h2 under
 * TLS (ALPN), speaks HTTP/2; every other one HTTP/1.1; there is no Upgrade. A request is an exchange: a handle that the handler gets once its head is
 * read, and ends exactly once, now or later, by http_respond, http_stream_end, http_abort or http_reset. Until then the handle is valid, whether or
 * not the client is still there; afterwards it is gone and none of its callbacks comes any more. Exchanges of one connection may be answered in any order;
 * HTTP/1.1 writes them in the order in which they came, HTTP/2 as their bytes come, each stream in its turn. The exchange knows nothing of the
 * wire below it (http/wire.h): http1.c and http2.c.
 *
 *     on_request ──► [http_body_read | http_body_collect] ──► [http_header_add …] ──► http_respond                              (ended)
 *                                                                             └──► http_stream_begin ─► http_stream_write … ─► [http_trailer_add …] ─► http_stream_end (ended)
 *
 * For gRPC on HTTP/2: an answer of trailers only is http_header_add of grpc-status and http_respond with an empty body (one HEADERS frame that ends the
 * stream); a call is http_stream_begin, writes, http_trailer_add of grpc-status and http_stream_end. A client's RST_STREAM is on_close, and E_CANCELLED to who
 * reads the body. Answering before the request's body has ended is allowed: what is left of it is read away where it is little,
 * and else the stream is reset with NO_ERROR behind the answer. PINGs are answered below; GOAWAY is sent by http_server_drain.
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
struct http_tls;

/* 0 in a field means the default. Each that can be met from outside is counted when it is: genloop_http_refused_total by reason. */
struct http_limits {
    struct http_parser_limits parser; /* head_max and fields_max hold for HTTP/2's header lists too */
    size_t connections_max;     /* 4096: each costs a descriptor and, while busy, up to 2 MiB; beyond, they wait in the kernel's backlog */
    size_t pipeline_max;        /* 16 requests of an HTTP/1.1 connection that are not answered yet; beyond, reading stops */
    size_t streams_max;         /* 128 of an HTTP/2 connection at once: RFC 9113 asks for 100 at least; beyond, REFUSED_STREAM, which clients may repeat */
    size_t write_buffer_max;    /* 1 MiB of a streamed answer that the client has not taken; beyond, http_stream_write says E_FULL. Streams of one connection share it, down to 64 KiB each */
    size_t discard_max;         /* 64 KiB of a body that nobody wants are read away to keep the connection; with more left it is closed (HTTP/2: the stream) */
    size_t progress_min;        /* 4 KiB that a body must bring within body_timeout, and a client must take within write_timeout, where it does not end: less is a client that drips */
    int64_t head_timeout_ms;    /* 10 s from a request's first byte to the end of its head, for TLS from the connection to the end of the handshake: 408 or closed (slowloris) */
    int64_t body_timeout_ms;    /* 30 s without progress of a body that is being read: E_DEADLINE to the reader */
    int64_t idle_timeout_ms;    /* 65 s without a request; longer than the 60 s of the usual proxies, so that they close first */
    int64_t write_timeout_ms;   /* 60 s without progress of an answer that waits for its client: it is cut off */
    int64_t linger_ms;          /* 2 s that a closing connection reads away what the client still sends, so that it gets its last answer */
    int64_t drain_idle_ms;      /* 1 s without a request after which a draining server closes a connection: a request that was on its way is served, and told to go */
};
enum { HTTP_BODY_COLLECT_MAX = 8 << 20 }; /* the usual cap of http_body_collect: what the gateway reads whole (contracts: 8 MiB, above it 413) */

struct http_options {
    struct http_limits limits;
    const char *door;     /* label of its metrics, borrowed; NULL: "admin" */
    bool reuse_port;      /* several processes may listen on the address, and the kernel spreads connections over them */
    struct http_tls *tls; /* NULL: plain; else every connection speaks TLS. Borrowed until the server is closed (http/tls.h) */
};
/* address as in listener_open; options NULL: all defaults. on_request borrows nothing: x is the handler's until it ends it. Returns owned, NULL and err. */
struct http_server *http_server_open(struct loop *l, const char *address, const struct http_options *options, void *arg,
                                     void (*on_request)(void *arg, struct http_exchange *x), struct error *err);
int http_server_port(const struct http_server *s); /* 0 for NULL, a Unix socket, or one that drains */
size_t http_server_connections(const struct http_server *s);
/* Stops accepting (what waits in the backlog is taken first) and closes what is idle for drain_idle_ms; what is open is answered and then closed: HTTP/1.1
 * clients are told by "Connection: close", those of HTTP/2 by GOAWAY. on_done when the last connection is gone; at once where there is none. With reuse_port
 * all of that begins LISTENER_ASIDE_MS later, in which new connections are left to the others (base/loop_stream.h); a second call begins it at once. */
void http_server_drain(struct http_server *s, void *arg, void (*on_done)(void *arg));
/* At once: open exchanges hear on_close, and stay valid until their handlers end them. NULL is accepted. */
void http_server_close(struct http_server *s);

/* ---- The request: borrowed, valid as long as the exchange ----------------------------------------------------------------- */

enum http_protocol { HTTP_1_0 = 10, HTTP_1_1 = 11, HTTP_2 = 20 };
enum http_protocol http_protocol(const struct http_exchange *x);
bool http_secure(const struct http_exchange *x); /* it came over TLS */
struct span http_method(const struct http_exchange *x);
struct span http_path(const struct http_exchange *x);  /* percent-encoded, begins with '/' (or is "*"); http/query.h decodes */
struct span http_query(const struct http_exchange *x); /* behind '?', data NULL where there is none */
struct span http_header(const struct http_exchange *x, const char *name); /* the first of this name, data NULL where absent */
size_t http_header_count(const struct http_exchange *x);
const struct http_field *http_header_at(const struct http_exchange *x, size_t i);
struct span http_authority(const struct http_exchange *x); /* Host, :authority, or the target's own */
const char *http_peer(const struct http_exchange *x);      /* "127.0.0.1:51234"; "" once the client is gone */
bool http_peer_loopback(const struct http_exchange *x);
bool http_client_gone(const struct http_exchange *x);

/* Reads the body as it comes. on_chunk(arg, piece, last, r): pieces with r 0, the last one (it may be empty) with last true; or once with r
 * negative and nothing more: E_CANCELLED the client is gone, E_DEADLINE it was too slow, E_INVALID the body is malformed. Once per exchange. */
void http_body_read(struct http_exchange *x, void *arg, void (*on_chunk)(void *arg, struct span piece, bool last, int r));
/* No on_chunk until resumed: the client is slowed down. HTTP/1.1 stops reading the connection; HTTP/2 gives no WINDOW_UPDATE for what has not been handed
 * out, so that the client may send at most the stream's window (256 KiB) more, and other streams go on. The end or a failure is told while paused only where it is a failure. */
void http_body_pause(struct http_exchange *x);
void http_body_resume(struct http_exchange *x);
/* The client may take its time with this body: no body_timeout (a stream of messages whose pace is the client's, as gRPC's). That the client still is there, HTTP/2 asks by PING. */
void http_body_patient(struct http_exchange *x);
/* Reads the whole body. on_body(arg, body, 0) with at most cap bytes, borrowed until the exchange ends; or r as above, E_TOO_LARGE (answer 413), E_NOMEM. */
/* What bodies that are collected may hold together, over all exchanges that are given the same one; the caller's, and it outlives them. Above `max` a body that grows gets E_FULL (answer 503). */
struct http_budget {
    size_t used, max;
};
void http_body_budget(struct http_exchange *x, struct http_budget *budget); /* before http_body_collect */
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
/* A field behind the body, copied; until the exchange is ended. Limits and errors as http_header_add, but E_STATE only for an answer without a body (HEAD, 204, 304).
 * HTTP/2 sends it in a HEADERS frame that ends the stream, HTTP/1.1 behind the last chunk where the client said "TE: trailers", and else not at all. */
int http_trailer_add(struct http_exchange *x, const char *name, struct span value);
void http_stream_end(struct http_exchange *x); /* ends the exchange */
/* Ends the exchange without an end of its answer: the client sees that it was cut off (500 where nothing was sent yet). */
void http_abort(struct http_exchange *x);
/* Ends the exchange at once, whatever was sent: HTTP/2 resets the stream with this code, HTTP/1.1 closes the connection behind the answers before it. */
enum http_reset { HTTP_RESET_NO_ERROR = 0, HTTP_RESET_INTERNAL = 2, HTTP_RESET_REFUSED = 7, HTTP_RESET_CANCEL = 8, HTTP_RESET_CALM = 11 };
void http_reset(struct http_exchange *x, enum http_reset code);
bool http_begun(const struct http_exchange *x); /* whether an answer has begun: it is too late for another status */
/* The client is gone (its connection, or this stream, by RST_STREAM), or has said that it sends nothing more while we owe it an answer: stop working for it. At most once; comes at the next turn
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
