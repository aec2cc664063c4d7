/*
 * gRPC over HTTP/2 as bytes and headers (grpc.io: "gRPC over HTTP2", "Compression", "Status codes"): messages with their prefix, the timeout, the status with its details. Pure: no
 * exchange, no clock.
 *
 * A message on the wire: one byte (1: compressed, as grpc-encoding says), its length in four bytes, its bytes.
 */
#ifndef GATEWAY_GRPC_WIRE_H
#define GATEWAY_GRPC_WIRE_H

#include "base/buf.h"
#include "base/error.h"

enum {
    GRPC_MESSAGE_MAX = 8 << 20,                /* contracts.md; compressed and plain */
    GRPC_PREFIX = 5,
    GRPC_TIMEOUT_MAX_MS = 24 * 3600 * 1000,    /* as x-genloop-timeout-ms; a longer one means no other thing */
};

/* Content-Type application/grpc or application/grpc+proto: 1; another of gRPC's (+json …): E_UNSUPPORTED; none of them: 0. */
int grpc_content_type(struct span content_type);

enum grpc_encoding { GRPC_IDENTITY, GRPC_GZIP, GRPC_OTHER };
enum grpc_encoding grpc_encoding_of(struct span name); /* "" and "identity", "gzip", another */

/* Messages out of a request's body. */
struct grpc_reader {
    struct buf in, plain;
    size_t taken; /* of `in`: the message that was given last */
    enum grpc_encoding encoding;
};
void grpc_reader_init(struct grpc_reader *r, enum grpc_encoding encoding);
void grpc_reader_fini(struct grpc_reader *r);
/* A piece of the body. E_NOMEM; E_FULL: the messages before it are to be taken first. */
int grpc_reader_feed(struct grpc_reader *r, struct span piece);
/* 1 and *message, borrowed until the next call; 0: more is needed. What gRPC's table of statuses says of the rest: E_TOO_LARGE, E_UNSUPPORTED an encoding that is not taken,
 * E_INTERNAL a broken prefix or broken gzip. E_NOMEM. */
int grpc_reader_next(struct grpc_reader *r, struct span *message, struct error *err);
/* The body is over: E_INTERNAL where it ends inside a message. */
int grpc_reader_end(const struct grpc_reader *r, struct error *err);

/* Appends the prefix of a plain message of so many bytes, to be followed by them. */
int grpc_prefix_write(struct buf *out, size_t size);

/* grpc-timeout: one to eight digits and H, M, S, m, u or n. Rounded up to a millisecond, at least 1. E_INVALID. */
int grpc_timeout_parse(struct span text, int64_t *timeout_ms);
/* grpc-message: percent-encoded but for what is visible. */
int grpc_message_write(struct buf *out, struct span text);
/* grpc-status-details-bin: base64 without padding of a google.rpc.Status with an ErrorInfo (reason: `reason` in capitals, "" : the code's name; domain genloop), a RequestInfo, and, where
 * they apply, a BadRequest that names the parameter, and a RetryInfo. */
int grpc_details_write(struct buf *out, const struct error *err, const char *reason, const char *request_id);

#endif
