/*
 * ZeroMQ for the two halves of the bus: a bound ROUTER that admits one public key, and connected DEALERs, each a message of one part: a batch of
 * frames with their payloads (bus/frame.h). Everything on the loop's thread. A socket may be closed from inside its own callbacks.
 */
#ifndef GENLOOP_BUS_SOCKET_H
#define GENLOOP_BUS_SOCKET_H

#include "base/error.h"
#include "base/loop.h"
#include "base/span.h"
#include "bus/bus.h"

struct bus_zmq;    /* a ZeroMQ context */
struct bus_socket;

enum { BUS_IDENTITY_MAX = 16 }; /* a ROUTER's names for its peers have 5 bytes */

struct bus_socket_events {
    void (*on_message)(void *arg, struct span identity, struct span header, struct span payload); /* identity: of a ROUTER */
    void (*on_unreachable)(void *arg, struct span identity); /* of a ROUTER: what was sent to it did not go; NULL: not wanted */
    void (*on_disconnected)(void *arg); /* of a DEALER: the connection broke; what it had delivered has been handed over before */
};

struct bus_zmq *bus_zmq_new(struct error *err);
void bus_zmq_free(struct bus_zmq *z); /* all its sockets are closed */
int bus_socket_bind(struct bus_zmq *z, struct loop *l, const char *endpoint, const struct bus_keys *keys, void *arg, const struct bus_socket_events *events,
                    struct bus_socket **s, struct error *err);
int bus_socket_connect(struct bus_zmq *z, struct loop *l, const char *endpoint, const struct bus_keys *keys, const uint8_t server_key[32], void *arg,
                       const struct bus_socket_events *events, struct bus_socket **s, struct error *err);
const char *bus_socket_endpoint(const struct bus_socket *s);
/* Copies; it goes out at the end of this turn of the loop, in order. E_NOMEM; E_TOO_LARGE beyond BUS_FRAME_MAX and BUS_MESSAGE_MAX. identity empty on a DEALER. */
int bus_socket_send(struct bus_socket *s, struct span identity, struct span header, struct span payload);
void bus_socket_poll(struct bus_socket *s); /* reads what is there now; s may be gone after it */
void bus_socket_close(struct bus_socket *s); /* NULL is accepted; no callback after it */
/* Counts a frame that was dropped, by reason. */
void bus_dropped(const char *reason);

#endif
