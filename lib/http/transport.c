#include "http/transport.h"

#include "base/alloc.h"

enum { ROOM = 16384 };            /* a record */
enum { BARREN_MAX = 64 << 10 };   /* bytes of records that carry no data (key updates, empty ones), in a row: nobody needs them, each costs a cipher's set-up */
enum { ALERT_MS = 1000 };         /* for the alert that says why it ends */

struct transport {
    struct stream *stream;
    struct tls *tls; /* NULL: plain, and the stream's events go to their owner directly */
    void *arg;
    const struct stream_events *events;
    size_t cap, barren;
    uint64_t written;
    int busy;
    bool closed, failed, said_end;
};

static void free_when_idle(struct transport *t) {
    if (t->busy || !t->closed) return;
    tls_free(t->tls);
    mem_free(t);
}

/* Sends what TLS has to say. */
static int flush(struct transport *t) {
    struct buf *out = tls_out(t->tls);
    if (!out->len) return 0;
    size_t len = out->len;
    int r = stream_write(t->stream, buf_span(out));
    if (!r) t->written += len;
    buf_fini(out); /* an idle connection keeps nothing */
    return r;
}

static void say_end(struct transport *t, int r) {
    if (t->closed || (t->said_end && !r)) return;
    t->said_end = true;
    t->events->on_end(t->arg, r);
}

static void came(void *arg, struct span data) {
    struct transport *t = arg;
    char room[ROOM];
    bool any = false;
    t->busy++;
    tls_feed(t->tls, data);
    while (!t->closed) {
        size_t got = 0;
        int r = tls_read(t->tls, room, sizeof room, &got), sent = flush(t);
        if (r == 0 && sent == 0) {
            any = true;
            t->events->on_read(t->arg, span_of(room, got));
            continue;
        }
        if (r == E_AGAIN && sent == 0) {
            t->barren = any || !tls_ready(t->tls) ? 0 : t->barren + data.len;
            if (t->barren <= BARREN_MAX) break;
        }
        t->failed = r != E_CANCELLED || sent;
        say_end(t, t->failed ? E_IO : 0);
        break;
    }
    t->busy--;
    free_when_idle(t);
}

static void ended(void *arg, int r) { say_end(arg, r); }

static void drained(void *arg) {
    struct transport *t = arg;
    if (t->events->on_drain) t->events->on_drain(t->arg);
}

static const struct stream_events tls_events = {came, ended, drained};

struct transport *transport_new(struct stream *stream, struct http_tls *tls) {
    struct transport *t = mem_zalloc(sizeof *t);
    if (!t || (tls && !(t->tls = tls_new(tls)))) {
        stream_close(stream);
        mem_free(t);
        return NULL;
    }
    t->stream = stream;
    return t;
}

void transport_init(struct transport *t, size_t write_cap, void *arg, const struct stream_events *events) {
    t->arg = arg;
    t->events = events;
    t->cap = write_cap;
    if (t->tls) stream_init(t->stream, write_cap, t, &tls_events);
    else stream_init(t->stream, write_cap, arg, events);
}

void transport_read_start(struct transport *t) { stream_read_start(t->stream); }
void transport_read_stop(struct transport *t) { stream_read_stop(t->stream); }

int transport_write(struct transport *t, struct span data) {
    int r;
    if (!t->tls) {
        if (!(r = stream_write(t->stream, data))) t->written += data.len;
        return r;
    }
    size_t most = tls_expansion(data.len);
    if (most > t->cap) return E_TOO_LARGE;
    if (most > t->cap - stream_write_queued(t->stream)) return E_FULL; /* that much waits, so that on_drain follows */
    r = tls_write(t->tls, data);
    return r ? r : flush(t);
}

size_t transport_write_queued(const struct transport *t) { return stream_write_queued(t->stream); }
uint64_t transport_taken(const struct transport *t) { return t->written - stream_write_queued(t->stream); }

void transport_close(struct transport *t) {
    if (t->failed) stream_close_after_flush(t->stream, ALERT_MS);
    else stream_close(t->stream);
    t->closed = true;
    free_when_idle(t);
}

void transport_close_after_flush(struct transport *t, int64_t within_ms) {
    if (t->tls) {
        tls_end(t->tls);
        (void)flush(t); /* a full queue: then the end of the stream is the end */
    }
    stream_close_after_flush(t->stream, within_ms);
    t->closed = true;
    free_when_idle(t);
}

const char *transport_peer(const struct transport *t) { return stream_peer(t->stream); }
bool transport_loopback(const struct transport *t) { return stream_peer_loopback(t->stream); }
bool transport_secure(const struct transport *t) { return t->tls != NULL; }
bool transport_ready(const struct transport *t) { return !t->tls || tls_ready(t->tls); }
struct span transport_protocol(const struct transport *t) { return t->tls ? tls_protocol(t->tls) : SPAN(""); }
