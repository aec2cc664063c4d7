/*
 * What a connection's bytes travel on: a stream of lib/base, plain or with TLS in between (tls.c). The same contract as loop_stream.h, which see; the plain
 * form adds one branch and no copy. Under TLS on_read may come a few times more after transport_read_stop: what one read
 * of the loop had brought is decrypted and handed out whole (TRANSPORT_READ_MAX bytes at most).
 * Only lib/http includes this.
 */
#ifndef GENLOOP_HTTP_TRANSPORT_H
#define GENLOOP_HTTP_TRANSPORT_H

#include "base/loop_stream.h"
#include "http/tls.h"

enum { TRANSPORT_READ_MAX = 96 << 10 }; /* a read of the loop (64 KiB) and the TLS record that was begun before it */

struct transport;

/* Takes stream (and closes it where it fails). tls NULL: plain. NULL without memory. */
struct transport *transport_new(struct stream *stream, struct http_tls *tls);
void transport_init(struct transport *t, size_t write_cap, void *arg, const struct stream_events *events);
void transport_read_start(struct transport *t);
void transport_read_stop(struct transport *t);
int transport_write(struct transport *t, struct span data);
size_t transport_write_queued(const struct transport *t); /* under TLS as they go out, encrypted */
uint64_t transport_taken(const struct transport *t);      /* bytes that the system took from us since the beginning: what grows while the client reads */
void transport_close(struct transport *t);
void transport_close_after_flush(struct transport *t, int64_t within_ms);
const char *transport_peer(const struct transport *t);
bool transport_loopback(const struct transport *t);
bool transport_secure(const struct transport *t);
bool transport_ready(const struct transport *t);           /* no handshake is under way */
struct span transport_protocol(const struct transport *t); /* agreed on by ALPN; empty: none */

#endif
