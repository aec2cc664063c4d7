/*
 * The bus: requests, client and server streams over ZeroMQ ROUTER/DEALER with CURVE (frames: proto/genloop/v1/bus.proto). One bus_server per
 * service instance, one bus_client per process that calls; both live on a struct loop and are called on its thread. Payloads are
 * opaque bytes here (packed protobuf); sizes are capped before anything is unpacked.
 *
 *   client                                server
 *   bus_call ──CALL──────────────────────► on_call
 *            ◄─ITEM── (while credit) ────  bus_reply_item
 *   bus_call_credit ──CREDIT─────────────► on_credit
 *            ◄─END (status)──────────────  bus_reply_end
 *   bus_call_cancel ──CANCEL─────────────► on_cancel
 *
 * A call ends exactly once: END, deadline (both sides keep it), cancel, or the loss of the peer (E_UNAVAILABLE after BUS_PEER_TIMEOUT_MS without
 * a heartbeat). Whether the server had begun (any ITEM seen) is told, so that what has not begun may be retried elsewhere.
 * An empty reply (a message whose fields all have their defaults packs to nothing) ends with code 0 and no on_item.
 * Credit: the server may send as many ITEMs as it has credit for; bus_reply_item beyond it is E_FULL and on_credit says when to go on.
 */
#ifndef GENLOOP_BUS_BUS_H
#define GENLOOP_BUS_BUS_H

#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"
#include "base/span.h"

enum { BUS_MESSAGE_MAX = 16 * 1024 * 1024 }; /* twice the largest body that the gateway reads: nothing of ours is larger */
enum { BUS_HEARTBEAT_MS = 500, BUS_PEER_TIMEOUT_MS = 3000 };
enum { BUS_CALLS_MAX = 8192 };               /* open per server and per client; above it E_FULL */
enum { BUS_CREDIT_DEFAULT = 64 };

/* CURVE keys of an instance or of the platform, raw. Made once at set-up: bus_keys_make writes DIR/bus.key (0600) and DIR/bus.pub;
 * all services of one platform share this pair as servers and as clients, and refuse anybody else's key. */
struct bus_keys {
    uint8_t public_key[32], secret_key[32];
};
int bus_keys_load(const char *dir, struct bus_keys *keys, struct error *err); /* E_NOT_FOUND */
int bus_keys_make(const char *dir, struct error *err);                        /* fine where they exist */
int bus_keys_from_hex(struct span hex, struct bus_keys *keys);                /* of a secret key of 64 digits; E_INVALID */

/* What travels with a call. All borrowed. */
struct bus_context {
    struct span request_id, traceparent, tenant, session;
    struct span actor_id, actor_scope, actor_claim;
    int64_t deadline_ms; /* left; 0: none */
};

/* ---- server ---- */
struct bus_server;
struct bus_reply; /* an open call; valid until bus_reply_end, also after on_cancel: the handler always ends it */

struct bus_server_events {
    /* A call has come in. `request` is borrowed for the time of the callback. To refuse: bus_reply_end at once. *call_arg is the handler's own for the later callbacks. */
    void (*on_call)(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg);
    void (*on_item)(void *call_arg, struct bus_reply *reply, struct span item); /* of a client stream; each costs one credit, given back by bus_reply_credit */
    void (*on_item_end)(void *call_arg, struct bus_reply *reply);               /* the client has sent its last */
    void (*on_credit)(void *call_arg, struct bus_reply *reply);                 /* there is credit again */
    void (*on_cancel)(void *call_arg, struct bus_reply *reply, int code);       /* E_CANCELLED, E_DEADLINE, E_UNAVAILABLE: nobody waits any more; end it soon */
};
/* endpoint: "tcp://127.0.0.1:*", "ipc:///path". Returns owned. */
int bus_server_open(struct loop *l, const char *endpoint, const struct bus_keys *keys, void *arg, const struct bus_server_events *events,
                    struct bus_server **s, struct error *err);
const char *bus_server_endpoint(const struct bus_server *s); /* what the wildcard became */
/* The load that heartbeats carry (packed Member); copied; sent every BUS_HEARTBEAT_MS and at once when `now`. */
void bus_server_load(struct bus_server *s, struct span member, bool now);
int bus_server_open_calls(const struct bus_server *s);
void bus_server_close(struct bus_server *s); /* ends what is open with UNAVAILABLE; replies that handlers hold on to are still theirs to end */

/* Another call_arg for the later callbacks: a handler that only took the call in gives it to the one that answers. */
void bus_reply_set_arg(struct bus_reply *r, void *call_arg);
int bus_reply_item(struct bus_reply *r, struct span item); /* copies; E_FULL without credit */
int bus_reply_credit_left(const struct bus_reply *r);
void bus_reply_credit(struct bus_reply *r, uint32_t items); /* of a client stream: so many more may come */
/* Ends the call; r is gone. status from err where code is not 0 (err may be NULL). `last` is one more item before the end, not bound to credit; empty: none. */
void bus_reply_end(struct bus_reply *r, int code, const struct error *err, struct span last);

/* ---- client ---- */
struct bus_client;
struct bus_call;
struct bus_peer; /* a server that this client is connected to */

struct bus_call_events {
    void (*on_item)(void *arg, struct span item); /* borrowed; costs one credit, given back by bus_call_credit */
    void (*on_writable)(void *arg);               /* of a client stream: credit again; NULL: not wanted */
    void (*on_end)(void *arg, int code, const struct error *err, bool begun); /* exactly once; the call is gone after it */
};
int bus_client_open(struct loop *l, const struct bus_keys *keys, void *arg, void (*on_heartbeat)(void *arg, struct bus_peer *peer, struct span member),
                    void (*on_peer_lost)(void *arg, struct bus_peer *peer), struct bus_client **c, struct error *err);
void bus_client_close(struct bus_client *c); /* ends what is open with CANCELLED */
/* Connects to a server, or gives the connection that there is. peer_arg is the caller's. NULL and err where the endpoint is malformed. */
struct bus_peer *bus_peer_connect(struct bus_client *c, const char *endpoint, const uint8_t public_key[32], void *peer_arg, struct error *err);
void *bus_peer_arg(struct bus_peer *p);
bool bus_peer_alive(const struct bus_peer *p); /* a heartbeat came within BUS_PEER_TIMEOUT_MS */
int bus_peer_open_calls(const struct bus_peer *p);
void bus_peer_disconnect(struct bus_peer *p); /* open calls end with E_UNAVAILABLE */

/* Starts a call. credit: how many items the server may send before bus_call_credit. more: this is a client stream, items follow. NULL and err: E_FULL, E_TOO_LARGE.
 * on_end is never called from inside bus_call. */
struct bus_call *bus_call(struct bus_peer *p, const char *method, const struct bus_context *context, struct span request, bool more, uint32_t credit,
                          void *arg, const struct bus_call_events *events, struct error *err);
int bus_call_item(struct bus_call *call, struct span item); /* E_FULL without credit: on_writable follows */
int bus_call_item_end(struct bus_call *call);
void bus_call_credit(struct bus_call *call, uint32_t items);
void bus_call_cancel(struct bus_call *call); /* on_end will not be called; the call is gone */

#endif
