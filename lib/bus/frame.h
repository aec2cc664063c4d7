/*
 * The frame of a bus message as plain data, and its bytes: protobuf's wire format of BusFrame, read and written without an allocation because every
 * token of every stream passes here. Pure: no socket, no clock. Spans of a decoded frame borrow from the bytes.
 */
#ifndef GENLOOP_BUS_FRAME_H
#define GENLOOP_BUS_FRAME_H

#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"

enum { BUS_FRAME_MAX = 8 * 1024 };      /* a frame is ids and a status; error messages are at most 512 bytes */
enum { BUS_FRAME_TEXT_MAX = 1024 };     /* each text in it: traceparent has 55 bytes, a request id 128, a session what a client gives */
enum { BUS_FRAME_VERSION = 1 };

/* BusKind of bus.proto. */
enum bus_kind { BUS_CALL = 1, BUS_ITEM, BUS_END, BUS_CREDIT, BUS_CANCEL, BUS_HEARTBEAT, BUS_HELLO };

struct bus_frame {
    enum bus_kind kind;
    uint64_t call_id;
    int64_t deadline_ms;
    uint32_t credit, version;
    struct span method, request_id, traceparent, tenant, session;
    struct span actor_id, actor_scope, actor_claim;
    int32_t status_code, status_error; /* google.rpc.Code, and ours where the peer says it */
    struct span status_message, status_param;
    bool status_retriable;
    int64_t retry_after_ms;
};

/* A bus message is frames one after another, each with its payload: two little-endian numbers of 32 bits, the lengths of both, then both. What is sent in one turn of the loop goes as one
 * message, since a message costs its encryption and a wake-up, and a token is small. */
enum { BUS_BATCH_HEAD = 8 };
/* Takes the next off `rest`: 1; 0 at the end; E_INVALID where the lengths do not fit, or are above BUS_FRAME_MAX and payload_max. */
int bus_batch_next(struct span *rest, size_t payload_max, struct span *frame, struct span *payload);
void bus_batch_head(uint8_t head[BUS_BATCH_HEAD], size_t frame_len, size_t payload_len);

/* E_INVALID: not this format, a text too long or no UTF-8, a kind that does not exist, another version. Unknown fields are skipped. */
int bus_frame_decode(struct span bytes, struct bus_frame *f);
/* Appends. E_FULL where out's cap does not hold it. */
int bus_frame_encode(const struct bus_frame *f, struct buf *out);
/* The status of a frame as our error, and back; texts borrow. */
int bus_frame_error(const struct bus_frame *f, struct error *err);
void bus_frame_set_status(struct bus_frame *f, int code, const struct error *err);

#endif
