/*
 * ZMQ_FD is edge-triggered, and any call on the socket may consume its edge. So: after the descriptor wakes us we read until EAGAIN; after a send outside of
 * that reading, messages may lie ready without an edge to come, and a timer of 0 ms reads them in the next turn of the loop. A socket that is never
 * silent yields after READS_MAX messages and goes on 1 ms later, so that the rest of the loop lives.
 *
 * Who may connect is decided by ZAP (RFC 27): libzmq asks a REP socket at inproc://zeromq.zap.01 of the same context about each handshake; we answer from
 * the loop, and say 200 to CURVE with the platform's public key and to nothing else. A DEALER checks the server by its key in the handshake itself.
 *
 * What is sent in one turn is gathered for each receiver and goes out at the turn's end. A payload of PIECE_BYTES or more goes at once, behind what waits.
 *
 * High-water marks are off: how much may be under way is bounded by the credit of each call and by BUS_CALLS_MAX, and a mark would drop an END.
 */
#include "bus/socket.h"

#include <errno.h>
#include <sodium.h>
#include <zmq.h>

#include "base/alloc.h"
#include "base/metrics.h"
#include "bus/frame.h"

enum {
    READS_MAX = 64,            /* messages, each of up to BATCH_BYTES or of one large payload */
    BATCH_BYTES = 64 * 1024,
    PIECE_BYTES = 16 * 1024,
    RECEIVERS_MAX = 16,        /* for which a ROUTER gathers at once; for more it sends what it has */
    ZMQ_SOCKETS = 4096,        /* two per peer (connection and monitor) of BUS_PEERS_MAX */
    LINGER_MS = 200,           /* at close, for what has just been sent to go out */
    RECONNECT_MS = 20, RECONNECT_MAX_MS = 500,
    HANDSHAKE_MS = 5000,
    ENDPOINT_MAX = 256,
};

struct bus_zmq {
    void *context;
    uint64_t monitors; /* names of inproc endpoints */
};

struct watched { /* a ZeroMQ socket and its descriptor on the loop */
    void *socket;
    struct loop_fd *fd;
};

struct batch { /* what waits for a receiver */
    char identity[BUS_IDENTITY_MAX];
    size_t identity_len;
    struct buf bytes;
};

struct bus_socket {
    struct bus_zmq *zmq;
    struct loop *loop;
    struct loop_turn turn; /* armed: something waits to be sent at its end */
    struct batch batches[RECEIVERS_MAX]; /* the first n_batches are in use; the others keep their memory */
    int n_batches;
    struct watched main, zap, monitor;
    struct loop_timer *again;
    void *arg;
    const struct bus_socket_events *events;
    uint8_t admitted[32];
    char endpoint[ENDPOINT_MAX];
    bool router, reading, closed, armed;
};

void bus_dropped(const char *reason) {
    char labels[64];
    (void)snprintf(labels, sizeof labels, "reason=\"%s\"", reason);
    metric_add(metric_counter("genloop_bus_dropped_total", labels, "Bus messages that were dropped: not of the format, beyond a limit, or of a peer that is not admitted."), 1);
}

struct bus_zmq *bus_zmq_new(struct error *err) {
    struct bus_zmq *z = mem_zalloc(sizeof *z);
    if (!z || !(z->context = zmq_ctx_new())) {
        mem_free(z);
        (void)error_set(err, E_NOMEM, "no memory for ZeroMQ");
        return NULL;
    }
    (void)zmq_ctx_set(z->context, ZMQ_MAX_SOCKETS, ZMQ_SOCKETS);
    (void)zmq_ctx_set(z->context, ZMQ_IO_THREADS, 1);
    return z;
}

void bus_zmq_free(struct bus_zmq *z) {
    if (!z) return;
    while (zmq_ctx_term(z->context) < 0 && errno == EINTR) continue;
    mem_free(z);
}

static int zmq_failed(struct error *err, const char *what, const char *endpoint) {
    int code = errno == EINVAL || errno == EPROTONOSUPPORT || errno == ENAMETOOLONG || errno == ENOCOMPATPROTO ? E_INVALID : E_UNAVAILABLE;
    return error_set(err, code, "bus: cannot %s %s: %s", what, endpoint, zmq_strerror(errno));
}

static int set_int(void *socket, int option, int value) { return zmq_setsockopt(socket, option, &value, sizeof value); }

static int watch(struct loop *l, struct watched *w, void *arg, void (*on_ready)(void *arg, int events), struct error *err) {
    int fd;
    size_t size = sizeof fd;
    if (zmq_getsockopt(w->socket, ZMQ_FD, &fd, &size) < 0) return zmq_failed(err, "watch", "a socket");
    w->fd = loop_fd_open(l, fd, LOOP_READ, arg, on_ready, err);
    return w->fd ? 0 : E_NOMEM;
}

static void unwatch(struct watched *w) {
    if (w->fd) loop_fd_close(w->fd);
    if (w->socket) (void)zmq_close(w->socket);
    *w = (struct watched){0};
}

/* ---- the main socket ---- */

static void arm(struct bus_socket *s, int64_t delay_ms) {
    if (s->armed) return;
    s->armed = true;
    loop_timer_start(s->again, delay_ms, 0);
}

/* The frames of a batch, one after another. */
static void hand_over(struct bus_socket *s, struct span identity, struct span batch) {
    struct span frame, payload;
    int r;
    while (!s->closed && (r = bus_batch_next(&batch, BUS_MESSAGE_MAX, &frame, &payload)) != 0) {
        if (r < 0) {
            bus_dropped("size");
            return;
        }
        s->events->on_message(s->arg, identity, frame, payload);
    }
}

/* One message of at most 2 parts; what has more is dropped whole. 0: there was one, E_AGAIN: nothing there. */
static int read_message(struct bus_socket *s) {
    enum { PARTS = 2 };
    zmq_msg_t parts[PARTS];
    int n = 0, want = s->router ? 2 : 1, result = 0;
    bool more = true;
    while (more) {
        zmq_msg_t part;
        (void)zmq_msg_init(&part);
        if (zmq_msg_recv(&part, s->main.socket, ZMQ_DONTWAIT) < 0) {
            (void)zmq_msg_close(&part);
            if (errno == EINTR && n > 0) continue;
            result = E_AGAIN; /* parts come together: EAGAIN is only ever seen before the first */
            break;
        }
        more = zmq_msg_more(&part);
        if (n < PARTS) parts[n] = part;
        else (void)zmq_msg_close(&part);
        n++;
    }
    if (result == 0 && n == want) {
        struct span identity = s->router ? span_of(zmq_msg_data(&parts[0]), zmq_msg_size(&parts[0])) : SPAN("");
        if (identity.len > BUS_IDENTITY_MAX) bus_dropped("size");
        else hand_over(s, identity, span_of(zmq_msg_data(&parts[want - 1]), zmq_msg_size(&parts[want - 1])));
    } else if (result == 0) {
        bus_dropped("parts");
    }
    for (int i = 0; i < n && i < PARTS; i++) (void)zmq_msg_close(&parts[i]);
    return result;
}

/* ---- sending ---- */

static bool send_part(struct bus_socket *s, struct span bytes, int flags) {
    while (zmq_send(s->main.socket, bytes.data ? bytes.data : "", bytes.len, ZMQ_DONTWAIT | flags) < 0)
        if (errno != EINTR) return false;
    return true;
}

/* A receiver that is gone, or no memory: then it is taken for gone. */
static void unreachable(struct bus_socket *s, struct span identity) {
    bus_dropped("unreachable");
    if (s->router && !s->closed && s->events->on_unreachable) s->events->on_unreachable(s->arg, identity);
}

static void send_batches(struct bus_socket *s) {
    int n = s->n_batches;
    s->n_batches = 0; /* on_unreachable sends nothing */
    for (int i = 0; i < n; i++) {
        struct batch *b = &s->batches[i];
        struct span identity = span_of(b->identity, b->identity_len);
        if ((s->router && !send_part(s, identity, ZMQ_SNDMORE)) || !send_part(s, buf_span(&b->bytes), 0)) unreachable(s, identity);
        buf_clear(&b->bytes);
    }
    if (n > 0 && !s->reading && !s->closed) arm(s, 0);
}

static void on_turn(void *arg) { send_batches(arg); }

static struct batch *batch_of(struct bus_socket *s, struct span identity) {
    for (int i = 0; i < s->n_batches; i++)
        if (span_eq(span_of(s->batches[i].identity, s->batches[i].identity_len), identity)) return &s->batches[i];
    if (s->n_batches == RECEIVERS_MAX) send_batches(s);
    struct batch *b = &s->batches[s->n_batches++];
    b->identity_len = identity.len;
    if (identity.len) memcpy(b->identity, identity.data, identity.len);
    return b;
}

/* A large payload: a message of its own, copied once. */
static int send_large(struct bus_socket *s, struct span identity, const uint8_t *head, struct span frame, struct span payload) {
    zmq_msg_t message;
    send_batches(s);
    if (zmq_msg_init_size(&message, BUS_BATCH_HEAD + frame.len + payload.len) < 0) return E_NOMEM;
    uint8_t *at = zmq_msg_data(&message);
    memcpy(at, head, BUS_BATCH_HEAD);
    memcpy(at + BUS_BATCH_HEAD, frame.data, frame.len);
    memcpy(at + BUS_BATCH_HEAD + frame.len, payload.data, payload.len);
    bool sent = !s->router || send_part(s, identity, ZMQ_SNDMORE);
    while (sent && zmq_msg_send(&message, s->main.socket, ZMQ_DONTWAIT) < 0) sent = errno == EINTR;
    if (!sent) {
        (void)zmq_msg_close(&message);
        unreachable(s, identity);
    }
    if (!s->reading) arm(s, 0);
    return 0;
}

int bus_socket_send(struct bus_socket *s, struct span identity, struct span header, struct span payload) {
    uint8_t head[BUS_BATCH_HEAD];
    if (header.len > BUS_FRAME_MAX || payload.len > BUS_MESSAGE_MAX || identity.len > BUS_IDENTITY_MAX) return E_TOO_LARGE;
    bus_batch_head(head, header.len, payload.len);
    if (payload.len >= PIECE_BYTES) return send_large(s, identity, head, header, payload);
    struct batch *b = batch_of(s, identity);
    size_t before = b->bytes.len;
    int r = buf_append_span(&b->bytes, span_of(head, sizeof head));
    if (r == 0) r = buf_append_span(&b->bytes, header);
    if (r == 0) r = buf_append_span(&b->bytes, payload);
    if (r != 0) {
        b->bytes.len = before;
        b->bytes.failed = 0;
        return r;
    }
    if (b->bytes.len >= BATCH_BYTES) send_batches(s);
    else loop_turn_arm(s->loop, &s->turn);
    return 0;
}

static void socket_free(struct bus_socket *s) {
    /* The monitor first: ZeroMQ's I/O thread, which all sockets share, writes events to it and waits for ever where its reader has gone. */
    if (s->monitor.socket && s->main.socket) (void)zmq_socket_monitor(s->main.socket, NULL, 0);
    unwatch(&s->main);
    unwatch(&s->zap);
    unwatch(&s->monitor);
    loop_timer_close(s->again);
    loop_turn_disarm(&s->turn);
    for (int i = 0; i < RECEIVERS_MAX; i++) buf_fini(&s->batches[i].bytes);
    mem_free(s);
}

void bus_socket_poll(struct bus_socket *s) {
    if (s->reading || s->closed) return;
    s->reading = true;
    int n = 0;
    while (!s->closed && n < READS_MAX && read_message(s) != E_AGAIN) n++;
    s->reading = false;
    if (s->closed) socket_free(s);
    else if (n == READS_MAX) arm(s, 1);
}

static void on_ready(void *arg, int events) {
    (void)events;
    bus_socket_poll(arg);
}

static void on_again(void *arg) {
    struct bus_socket *s = arg;
    s->armed = false;
    bus_socket_poll(s);
}

/* ---- who may connect ---- */

static void on_zap(void *arg, int events) {
    struct bus_socket *s = arg;
    (void)events;
    enum { FRAMES_MAX = 7, FRAME_BYTES_MAX = 256 };
    for (;;) {
        /* version, request id, domain, address, identity, mechanism, key */
        char frames[FRAMES_MAX][FRAME_BYTES_MAX];
        struct span f[FRAMES_MAX] = {{0}};
        int n = 0, more = 1;
        while (more) {
            char beyond[FRAME_BYTES_MAX];
            char *into = n < FRAMES_MAX ? frames[n] : beyond;
            int got = zmq_recv(s->zap.socket, into, FRAME_BYTES_MAX, ZMQ_DONTWAIT);
            if (got < 0) return;
            if (n < FRAMES_MAX) f[n] = span_of(into, (size_t)(got < FRAME_BYTES_MAX ? got : 0)); /* cut: count as empty */
            n++;
            size_t size = sizeof more;
            if (zmq_getsockopt(s->zap.socket, ZMQ_RCVMORE, &more, &size) < 0) return;
        }
        bool admit = n == FRAMES_MAX && span_eq_str(f[0], "1.0") && span_eq_str(f[5], "CURVE") && f[6].len == sizeof s->admitted &&
                     sodium_memcmp(f[6].data, s->admitted, sizeof s->admitted) == 0;
        if (!admit) bus_dropped("key");
        const struct span reply[] = {SPAN("1.0"), f[1], admit ? SPAN("200") : SPAN("400"), admit ? SPAN("OK") : SPAN("not the platform's key"), SPAN(""), SPAN("")};
        for (int i = 0; i < 6; i++)
            if (zmq_send(s->zap.socket, reply[i].data ? reply[i].data : "", reply[i].len, ZMQ_DONTWAIT | (i < 5 ? ZMQ_SNDMORE : 0)) < 0) return;
    }
}

static int start_zap(struct bus_socket *s, struct loop *l, const struct bus_keys *keys, struct error *err) {
    memcpy(s->admitted, keys->public_key, sizeof s->admitted);
    s->zap.socket = zmq_socket(s->zmq->context, ZMQ_REP);
    if (!s->zap.socket || set_int(s->zap.socket, ZMQ_LINGER, 0) < 0 || zmq_bind(s->zap.socket, "inproc://zeromq.zap.01") < 0) return zmq_failed(err, "bind", "the ZAP handler");
    return watch(l, &s->zap, s, on_zap, err);
}

/* ---- a broken connection ---- */

/* Reads what there is: whether the connection broke. */
static bool read_monitor(struct bus_socket *s) {
    bool broken = false;
    for (;;) { /* each event: [number and value][address] */
        uint8_t event[16];
        char address[ENDPOINT_MAX];
        int got = zmq_recv(s->monitor.socket, event, sizeof event, ZMQ_DONTWAIT);
        if (got < 0) break;
        if (zmq_recv(s->monitor.socket, address, sizeof address, ZMQ_DONTWAIT) < 0) break;
        uint16_t number;
        if (got < (int)sizeof number) continue;
        memcpy(&number, event, sizeof number);
        if (number == ZMQ_EVENT_DISCONNECTED) broken = true;
    }
    return broken;
}

static void on_monitor(void *arg, int events) {
    struct bus_socket *s = arg;
    (void)events;
    bool broken = read_monitor(s);
    if (!broken || s->closed || s->reading) return;
    s->reading = true; /* what came before the break is handed over first; closing from there is put off to the end of this function */
    while (!s->closed && read_message(s) != E_AGAIN) continue;
    if (!s->closed) s->events->on_disconnected(s->arg);
    s->reading = false;
    if (s->closed) socket_free(s);
}

static int start_monitor(struct bus_socket *s, struct loop *l, struct error *err) {
    char name[64];
    (void)snprintf(name, sizeof name, "inproc://monitor-%llu", (unsigned long long)++s->zmq->monitors);
    if (zmq_socket_monitor(s->main.socket, name, ZMQ_EVENT_DISCONNECTED) < 0) return zmq_failed(err, "monitor", s->endpoint);
    s->monitor.socket = zmq_socket(s->zmq->context, ZMQ_PAIR);
    if (!s->monitor.socket || set_int(s->monitor.socket, ZMQ_LINGER, 0) < 0 || zmq_connect(s->monitor.socket, name) < 0) return zmq_failed(err, "monitor", s->endpoint);
    int r = watch(l, &s->monitor, s, on_monitor, err);
    /* A pipe wakes its reader only once that has found it empty: without this the first event, which is the one that counts, would lie there unseen. */
    if (r == 0) (void)read_monitor(s);
    return r;
}

/* ---- opening ---- */

static int socket_new(struct bus_zmq *z, struct loop *l, int type, const char *endpoint, const struct bus_keys *keys, void *arg, const struct bus_socket_events *events,
                      struct bus_socket **out, struct error *err) {
    if (strlen(endpoint) >= ENDPOINT_MAX) return error_set(err, E_INVALID, "bus: an endpoint has at most %d bytes", ENDPOINT_MAX - 1);
    if (strncmp(endpoint, "tcp://", 6) != 0 && strncmp(endpoint, "ipc://", 6) != 0)
        return error_set(err, E_INVALID, "bus: \"%s\" is not of the form tcp://HOST:PORT or ipc://PATH", endpoint);
    struct bus_socket *s = mem_zalloc(sizeof *s);
    if (!s) return error_set(err, E_NOMEM, "no memory for a bus socket");
    *s = (struct bus_socket){.zmq = z, .loop = l, .arg = arg, .events = events, .router = type == ZMQ_ROUTER};
    s->turn = (struct loop_turn){.fn = on_turn, .arg = s};
    span_copy(s->endpoint, sizeof s->endpoint, span_str(endpoint));
    for (int i = 0; i < RECEIVERS_MAX; i++) buf_init(&s->batches[i].bytes, BATCH_BYTES + BUS_BATCH_HEAD + BUS_FRAME_MAX + PIECE_BYTES);
    s->again = loop_timer_new(l, s, on_again);
    s->main.socket = zmq_socket(z->context, type);
    int ok = s->again && s->main.socket ? 0 : -1;
    void *m = s->main.socket;
    if (ok == 0) {
        ok |= set_int(m, ZMQ_SNDHWM, 0) | set_int(m, ZMQ_RCVHWM, 0) | set_int(m, ZMQ_HEARTBEAT_IVL, BUS_PEER_TIMEOUT_MS / 2) | set_int(m, ZMQ_HEARTBEAT_TIMEOUT, BUS_PEER_TIMEOUT_MS);
        ok |= set_int(m, ZMQ_RECONNECT_IVL, RECONNECT_MS) | set_int(m, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS) | set_int(m, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
        int64_t message_max = BUS_MESSAGE_MAX + BUS_FRAME_MAX + 1024; /* with its frame, and what CURVE puts around it */
        ok |= zmq_setsockopt(m, ZMQ_MAXMSGSIZE, &message_max, sizeof message_max);
        ok |= zmq_setsockopt(m, ZMQ_CURVE_SECRETKEY, keys->secret_key, 32);
        if (strchr(endpoint, '[')) ok |= set_int(m, ZMQ_IPV6, 1); /* where it is asked for: with it names are looked up as IPv6 first */
    }
    if (ok != 0) {
        int r = zmq_failed(err, "open a socket for", endpoint);
        socket_free(s);
        return r;
    }
    *out = s;
    return 0;
}

int bus_socket_bind(struct bus_zmq *z, struct loop *l, const char *endpoint, const struct bus_keys *keys, void *arg, const struct bus_socket_events *events,
                    struct bus_socket **out, struct error *err) {
    struct bus_socket *s;
    int r = socket_new(z, l, ZMQ_ROUTER, endpoint, keys, arg, events, &s, err);
    if (r < 0) return r;
    if ((r = start_zap(s, l, keys, err)) < 0) goto fail;
    void *m = s->main.socket;
    if (set_int(m, ZMQ_CURVE_SERVER, 1) < 0 || set_int(m, ZMQ_ROUTER_MANDATORY, 1) < 0 || set_int(m, ZMQ_LINGER, LINGER_MS) < 0 ||
        zmq_setsockopt(m, ZMQ_ZAP_DOMAIN, "genloop", strlen("genloop")) < 0 || zmq_bind(m, endpoint) < 0) {
        r = zmq_failed(err, "listen at", endpoint);
        goto fail;
    }
    size_t size = sizeof s->endpoint;
    if (zmq_getsockopt(m, ZMQ_LAST_ENDPOINT, s->endpoint, &size) < 0) {
        r = zmq_failed(err, "listen at", endpoint);
        goto fail;
    }
    if ((r = watch(l, &s->main, s, on_ready, err)) < 0) goto fail;
    arm(s, 0);
    *out = s;
    return 0;
fail:
    socket_free(s);
    return r;
}

int bus_socket_connect(struct bus_zmq *z, struct loop *l, const char *endpoint, const struct bus_keys *keys, const uint8_t server_key[32], void *arg,
                       const struct bus_socket_events *events, struct bus_socket **out, struct error *err) {
    struct bus_socket *s;
    int r = socket_new(z, l, ZMQ_DEALER, endpoint, keys, arg, events, &s, err);
    if (r < 0) return r;
    void *m = s->main.socket;
    if ((r = start_monitor(s, l, err)) < 0) goto fail;
    if (set_int(m, ZMQ_LINGER, 0) < 0 || zmq_setsockopt(m, ZMQ_CURVE_PUBLICKEY, keys->public_key, 32) < 0 || zmq_setsockopt(m, ZMQ_CURVE_SERVERKEY, server_key, 32) < 0 ||
        zmq_connect(m, endpoint) < 0) {
        r = zmq_failed(err, "connect to", endpoint);
        goto fail;
    }
    if ((r = watch(l, &s->main, s, on_ready, err)) < 0) goto fail;
    arm(s, 0);
    *out = s;
    return 0;
fail:
    socket_free(s);
    return r;
}

const char *bus_socket_endpoint(const struct bus_socket *s) { return s->endpoint; }

void bus_socket_close(struct bus_socket *s) {
    if (!s || s->closed) return;
    s->closed = true;
    if (s->main.socket) send_batches(s); /* a last word; ZMQ_LINGER says how long it may take */
    if (!s->reading) socket_free(s);
}
