/*
 * HTTP/1.1 requests, read strictly (RFC 9110, 9112): bytes in, events out; no I/O, no clock. What two readers could understand
 * differently is refused, never repaired: bare CR or LF, folded lines, space before a colon, two lengths, a length beside chunked,
 * any coding but chunked. After a refusal nothing more is read: what follows on the connection must not be answered.
 *
 *      ┌──────────────────────────────────────────────┐
 *      ▼                                              │
 *    head ──HEAD──► body (length | chunks | none) ──END┘        anything wrong ──REFUSED──► refused (for ever)
 *
 * The caller pulls: http_parser_next takes from the front of its input until there is an event, so that not calling it is the
 * backpressure. How the bytes are cut into inputs changes no event but where BODY is split. One thread at a time.
 */
#ifndef GENLOOP_HTTP_PARSER_H
#define GENLOOP_HTTP_PARSER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/span.h"

/* 0 in a field means the default. */
struct http_parser_limits {
    size_t request_line_max; /* bytes; 16384: RFC 9112 asks for 8000 at least; our own are below 200. Beyond: 414 */
    size_t head_max;         /* bytes of request line and fields; 65536: cookies and tokens of the largest identity providers are below 32 KiB. Beyond: 431 */
    size_t fields_max;       /* 128: browsers send about 20. Beyond: 431 */
    size_t extension_max;    /* bytes of one chunk's extensions, which nobody uses; 1024. Beyond: 400 */
    size_t trailer_max;      /* bytes of all trailers, which are checked and dropped; 8192. Beyond: 431 */
};

struct http_field {
    struct span name, value; /* the value without white space at its ends */
};

/* A request's head; all spans point into text. */
struct http_head {
    char *text; /* owned */
    struct http_field *fields; /* owned */
    size_t field_count;
    struct span method, target, path, query; /* path as sent (percent-encoded, without dot segments); query without '?', data NULL where there is none */
    struct span authority;                   /* of an absolute target, else the Host field */
    int minor;                               /* 1 or 0 of HTTP/1.x */
    bool keep_alive, expects_continue, has_body, chunked;
    uint64_t length; /* of a body that is not chunked */
};
void http_head_fini(struct http_head *h); /* safe on a zeroed struct and twice */
/* The first field of this name, any case; data NULL where there is none. */
struct span http_head_field(const struct http_head *h, const char *name);

enum http_event {
    HTTP_NEED,    /* all input was taken */
    HTTP_HEAD,    /* a head is complete: http_parser_take_head */
    HTTP_BODY,    /* *data is a piece of the body, borrowed from the input */
    HTTP_END,     /* the request is complete; the next call begins the next one */
    HTTP_REFUSED, /* http_parser_status and _reason say why; every later call says so again */
};

struct http_parser {
    struct http_parser_limits limits;
    int state;
    struct buf text;              /* head or line so far */
    struct http_mark *marks;      /* where the fields are in it */
    size_t mark_count, mark_capacity;
    size_t line_start, line_len, trailer_len, method_len, target_start, target_len;
    int empty_lines, minor;
    bool cr, in_line, chunked;
    uint64_t left;                /* of the body or the chunk */
    struct http_head head;
    int status;
    const char *reason;
};

void http_parser_init(struct http_parser *p, const struct http_parser_limits *limits); /* limits NULL: all defaults */
void http_parser_fini(struct http_parser *p);
/* Takes bytes from the front of *input. Without memory: REFUSED with status 503. */
enum http_event http_parser_next(struct http_parser *p, struct span *input, struct span *data);
/* After HTTP_HEAD, once: moves the head out; the caller's to http_head_fini. */
void http_parser_take_head(struct http_parser *p, struct http_head *head);
/* Nothing of a next request has been seen: the place where a connection may end without a loss. */
bool http_parser_between(const struct http_parser *p);
int http_parser_status(const struct http_parser *p);         /* 400, 413, 414, 417, 431, 501, 503 or 505 */
const char *http_parser_reason(const struct http_parser *p); /* a sentence for the client */
/* tchar of RFC 9110: what methods and field names are made of. */
bool http_is_token(struct span s);
/* Whether a comma-separated list holds this token, any case. */
bool http_list_has(struct span list, struct span token);
/* For a head that came in another form (HTTP/2's): method, target, fields and, where it was said, authority are set; has_body too. Checks them as those of an HTTP/1.1
 * request are checked and sets the rest. 0, or E_INVALID with the status and a sentence for the client. */
int http_head_check(struct http_head *h, int *status, const char **reason);

#endif
