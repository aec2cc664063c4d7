#include "http/transport.h"

#include "base/alloc.h"

struct transport {
    struct stream *stream;
};

struct transport *transport_new(struct stream *stream) {
    struct transport *t = mem_zalloc(sizeof *t);
    if (t) t->stream = stream;
    else stream_close(stream);
    return t;
}

void transport_init(struct transport *t, size_t write_cap, void *arg, const struct stream_events *events) { stream_init(t->stream, write_cap, arg, events); }
void transport_read_start(struct transport *t) { stream_read_start(t->stream); }
void transport_read_stop(struct transport *t) { stream_read_stop(t->stream); }
int transport_write(struct transport *t, struct span data) { return stream_write(t->stream, data); }
size_t transport_write_queued(const struct transport *t) { return stream_write_queued(t->stream); }

void transport_close(struct transport *t) {
    stream_close(t->stream);
    mem_free(t);
}

void transport_close_after_flush(struct transport *t, int64_t within_ms) {
    stream_close_after_flush(t->stream, within_ms);
    mem_free(t);
}

const char *transport_peer(const struct transport *t) { return stream_peer(t->stream); }
bool transport_loopback(const struct transport *t) { return stream_peer_loopback(t->stream); }
bool transport_secure(const struct transport *t) {
    (void)t;
    return false;
}
