/*
 * Byte streams on the loop: listeners and connections over TCP and Unix sockets. Reading is pulled (stream_read_start and _stop are
 * the backpressure towards the peer); writing queues at most the cap given, and E_FULL is the backpressure towards us; on_drain
 * says when the queue has fallen below a quarter of it. All on the loop's thread.
 */
#ifndef GENLOOP_BASE_LOOP_STREAM_H
#define GENLOOP_BASE_LOOP_STREAM_H

#include "base/loop.h"
#include "base/span.h"

struct listener;
struct stream;

struct stream_events {
    void (*on_read)(void *arg, struct span data); /* borrowed; may close the stream */
    void (*on_end)(void *arg, int r);             /* peer's end of file (0) or an error; reading has stopped, the stream still is to be closed; an error may follow a 0 */
    void (*on_drain)(void *arg);                  /* NULL: not wanted */
};

/* address: "127.0.0.1:8080", "[::1]:0", "unix:/path" (an old socket file is replaced), "systemd:NAME" (a listening socket that systemd passed, by its FileDescriptorName,
 * sd_listen_fds(3); without NAME the first). on_accept gets an owned stream, not reading yet. */
struct listener *listener_open(struct loop *l, const char *address, void *arg, void (*on_accept)(void *arg, struct stream *s), struct error *err);
/* With reuse_port several processes may listen on one TCP address, and the kernel spreads connections over them (SO_REUSEPORT); a Unix socket and systemd's are refused. */
struct listener *listener_open_shared(struct loop *l, const char *address, bool reuse_port, void *arg, void (*on_accept)(void *arg, struct stream *s), struct error *err);
/*
 * The first step of closing one of several listeners of an address so that nobody is lost. The kernel ties a connection to a listener by its SYN, and a listener that closes resets those that wait for
 * accept and those whose handshake is on its way. True: new ones come no more from now on, since their SYN is dropped, which the client's kernel sends again after a second: to another listener, when this one
 * is closed; the caller goes on accepting for LISTENER_ASIDE_MS, in which the handshakes that had begun end, then takes what waits, and closes. False: there is nothing to wait for. The listener is no shared
 * one, or the kernel gives what it has to the others by itself (net.ipv4.tcp_migrate_req), or it knows no filter.
 */
enum { LISTENER_ASIDE_MS = 300 }; /* a round trip around the earth, which a handshake takes after its SYN; of the second that a client waits anyway */
bool listener_step_aside(struct listener *li);
/* Accepts what waits in the backlog, paused or not: before a close that must lose nobody (a socket of systemd's keeps them). */
void listener_take_waiting(struct listener *li);
int listener_port(const struct listener *li); /* what port 0 became; 0 for Unix */
void listener_pause(struct listener *li, bool paused); /* connections wait in the backlog meanwhile */
void listener_close(struct listener *li);
/* Whether only this machine reaches what listens at `address`: 127.0.0.0/8, ::1, localhost, a Unix socket; a socket of systemd's is asked. */
bool listener_is_local(const char *address);

void stream_init(struct stream *s, size_t write_cap, void *arg, const struct stream_events *events); /* events: borrowed for ever */
void stream_read_start(struct stream *s);
void stream_read_stop(struct stream *s);
/* Copies. E_FULL where the queue would pass its cap (nothing taken), E_TOO_LARGE where even an empty one would, E_IO on a broken stream. */
int stream_write(struct stream *s, struct span data);
size_t stream_write_queued(const struct stream *s);
void stream_shutdown(struct stream *s); /* flush, then half-close */
void stream_close(struct stream *s);    /* at once; no callback after this returns; frees */
void stream_close_after_flush(struct stream *s, int64_t within_ms); /* no callback after this; unsent data goes first, then it closes */
const char *stream_peer(const struct stream *s); /* "127.0.0.1:51234", "unix" */
bool stream_peer_loopback(const struct stream *s);
int stream_fd(const struct stream *s);

#endif
