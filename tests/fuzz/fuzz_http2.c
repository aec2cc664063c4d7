/*
 * HTTP/2 as a client may send it: bytes as they stand, or a script of frames whose header blocks HPACK has packed, cut into reads anywhere. Whatever comes, each exchange
 * that a handler got is ended once, nothing is left behind, and what goes out is frames.
 *
 * The transport is ours: this file defines its functions, so that the library's own are not linked; there is no socket and the loop never runs.
 */
#include <nghttp2/nghttp2.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/loop.h"
#include "http/server_internal.h"

/* ---- The transport ---------------------------------------------------------------------------------------------------------- */

struct transport {
    void *arg;
    const struct stream_events *events;
    size_t written, shown;
    uint8_t header[9];
    size_t header_len, payload_left;
    bool full; /* takes nothing: the client does not read */
};
static struct transport *transport; /* NULL once closed */

struct transport *transport_new(struct stream *stream, struct http_tls *tls) {
    (void)stream;
    (void)tls;
    return NULL;
}
void transport_init(struct transport *t, size_t write_cap, void *arg, const struct stream_events *events) {
    (void)write_cap;
    t->arg = arg;
    t->events = events;
}
void transport_read_start(struct transport *t) { (void)t; }
void transport_read_stop(struct transport *t) { (void)t; }
int transport_write(struct transport *t, struct span data) {
    ASSERT(data.len <= 256 << 10);
    t->written += data.len;
    for (size_t i = 0; i < data.len;) { /* frames, one behind the other */
        if (t->payload_left) {
            size_t n = data.len - i < t->payload_left ? data.len - i : t->payload_left;
            t->payload_left -= n;
            i += n;
        } else {
            t->header[t->header_len++] = (uint8_t)data.data[i++];
            if (t->header_len < sizeof t->header) continue;
            t->header_len = 0;
            t->payload_left = (size_t)t->header[0] << 16 | (size_t)t->header[1] << 8 | t->header[2];
            ASSERT(t->payload_left <= 16384 && t->header[3] <= NGHTTP2_CONTINUATION && !(t->header[5] & 0x80));
        }
    }
    return 0;
}
size_t transport_write_queued(const struct transport *t) { return t->full ? 200 << 10 : 0; }
uint64_t transport_taken(const struct transport *t) { return t->full ? 0 : t->written; }
void transport_close(struct transport *t) {
    mem_free(t);
    transport = NULL;
}
void transport_close_after_flush(struct transport *t, int64_t within_ms) {
    (void)within_ms;
    transport_close(t);
}
const char *transport_peer(const struct transport *t) {
    (void)t;
    return "fuzz";
}
bool transport_loopback(const struct transport *t) {
    (void)t;
    return true;
}
bool transport_secure(const struct transport *t) {
    (void)t;
    return false;
}
bool transport_ready(const struct transport *t) {
    (void)t;
    return true;
}
struct span transport_protocol(const struct transport *t) {
    (void)t;
    return SPAN("h2");
}

/* ---- Handlers --------------------------------------------------------------------------------------------------------------- */

enum { TASKS_MAX = 4096 };
static struct task {
    struct http_exchange *x;
    bool paused, ended;
    int body_ends;
} tasks[TASKS_MAX];
static size_t task_count, open_count;

static void end_task(struct task *t) {
    ASSERT(!t->ended);
    t->ended = true;
    open_count--;
}

static void on_body(void *arg, struct span body, int r) {
    struct task *t = arg;
    ASSERT(++t->body_ends == 1);
    struct error err;
    if (r) (void)error_set(&err, r, "body"), (void)http_respond_error(t->x, &err);
    else (void)http_respond(t->x, 200, "text/plain", body);
    end_task(t);
}

static void on_chunk(void *arg, struct span piece, bool last, int r) {
    struct task *t = arg;
    ASSERT(t->body_ends == 0 && (!t->paused || r)); /* a failure is told while paused too */
    if (piece.len && http_stream_write(t->x, piece) == 0 && piece.data[0] % 2) {
        t->paused = true;
        http_body_pause(t->x);
    }
    if (!last && !r) return;
    t->body_ends++;
    (void)http_trailer_add(t->x, "grpc-status", SPAN("0"));
    http_stream_end(t->x);
    end_task(t);
}

static void on_close(void *arg) {
    struct task *t = arg;
    ASSERT(!t->ended);
    http_abort(t->x);
    end_task(t);
}

static void on_request(void *arg, struct http_exchange *x) {
    (void)arg;
    struct span path = http_path(x);
    ASSERT(path.len > 0 && http_method(x).len > 0 && http_authority(x).len > 0);
    for (size_t i = 0; i < http_header_count(x); i++) ASSERT(http_header_at(x, i)->name.len > 0 && http_header_at(x, i)->name.data[0] != ':');
    if (task_count == TASKS_MAX) {
        http_reset(x, HTTP_RESET_REFUSED);
        return;
    }
    struct task *t = &tasks[task_count++];
    *t = (struct task){.x = x};
    open_count++;
    switch (path.data[path.len - 1] % 6) {
    case 0: http_body_collect(x, 1000, t, on_body); break;
    case 1:
        (void)http_stream_begin(x, 200, "application/grpc");
        http_body_read(x, t, on_chunk);
        break;
    case 2: http_on_close(x, t, on_close); break;
    case 3:
        http_reset(x, HTTP_RESET_CANCEL);
        end_task(t);
        break;
    case 4: {
        static char large[200000];
        (void)http_respond(x, 200, NULL, span_of(large, sizeof large));
        end_task(t);
        break;
    }
    default:
        (void)http_header_add(x, "X-Path", path);
        (void)http_respond(x, 404, "text/plain", SPAN("no"));
        end_task(t);
    }
}

/* ---- Scripts ---------------------------------------------------------------------------------------------------------------- */

static uint8_t byte(struct span *s) {
    if (!s->len) return 0;
    uint8_t b = (uint8_t)s->data[0];
    *s = span_skip(*s, 1);
    return b;
}
static struct span piece(struct span *s, size_t len) {
    struct span p = span_sub(*s, 0, len);
    *s = span_skip(*s, p.len);
    return p;
}

static void frame(struct buf *out, size_t len, uint8_t type, uint8_t flags, int32_t id) {
    const uint8_t h[9] = {(uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len, type, flags, (uint8_t)(id >> 24), (uint8_t)(id >> 16), (uint8_t)(id >> 8), (uint8_t)id};
    buf_append(out, h, sizeof h);
}

static void headers(struct buf *out, nghttp2_hd_deflater *deflater, struct span *s, int32_t id, uint8_t flags) {
    static const char *const methods[] = {"GET", "POST", "HEAD", "PUT"};
    nghttp2_nv list[16];
    size_t n = 0;
#define NV(name_, value_) list[n++] = (nghttp2_nv){(uint8_t *)(uintptr_t)(name_).data, (uint8_t *)(uintptr_t)(value_).data, (name_).len, (value_).len, 0}
    NV(SPAN(":method"), span_str(methods[byte(s) % 4]));
    NV(SPAN(":scheme"), SPAN("http"));
    struct buf path;
    buf_init(&path, 300);
    buf_append_char(&path, '/');
    buf_append_span(&path, piece(s, byte(s) % 8));
    NV(SPAN(":path"), buf_span(&path));
    NV(SPAN(":authority"), SPAN("a"));
    for (uint8_t more = byte(s) % 8; more && s->len; more--) {
        struct span name = piece(s, byte(s) % 16), value = piece(s, byte(s));
        NV(name, value);
    }
    uint8_t block[8192];
    ssize_t len = nghttp2_hd_deflate_hd(deflater, block, sizeof block, list, n);
    if (len > 0) {
        size_t first = flags & 0x40 ? (size_t)len / 2 : (size_t)len; /* the rest in a CONTINUATION */
        frame(out, first, NGHTTP2_HEADERS, (uint8_t)((flags & NGHTTP2_FLAG_END_STREAM) | (first == (size_t)len ? NGHTTP2_FLAG_END_HEADERS : 0)), id);
        buf_append(out, block, first);
        if (first < (size_t)len) {
            frame(out, (size_t)len - first, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, id);
            buf_append(out, block + first, (size_t)len - first);
        }
    }
    buf_fini(&path);
}

/* Frames as the script says; most are such as a client sends. */
static void script(struct buf *out, struct span s) {
    nghttp2_hd_deflater *deflater;
    if (nghttp2_hd_deflate_new(&deflater, 4096)) abort();
    frame(out, 0, NGHTTP2_SETTINGS, 0, 0);
    int32_t last = -1;
    while (s.len && out->len < 200000) {
        uint8_t what = byte(&s), flags = byte(&s);
        int32_t id = last - 2 * (flags >> 4 & 3);
        if (id < 1) id = 1;
        switch (what % 10) {
        case 0:
        case 1:
        case 2: headers(out, deflater, &s, last += 2, flags); break;
        case 3:
        case 4: {
            struct span data = piece(&s, byte(&s));
            frame(out, data.len, NGHTTP2_DATA, flags & NGHTTP2_FLAG_END_STREAM, id);
            buf_append_span(out, data);
            break;
        }
        case 5:
            frame(out, 4, NGHTTP2_RST_STREAM, 0, id);
            buf_append(out, "\0\0\0\x08", 4);
            break;
        case 6:
            frame(out, 4, NGHTTP2_WINDOW_UPDATE, 0, flags & 1 ? id : 0);
            buf_append(out, "\0\0\x40\0", 4);
            break;
        case 7:
            frame(out, 6, NGHTTP2_SETTINGS, 0, 0);
            buf_append(out, flags & 1 ? "\0\4\0\0\0\0" : "\0\4\0\1\0\0", 6);
            break;
        case 8:
            frame(out, 8, NGHTTP2_PING, flags & 1, 0);
            buf_append(out, "12345678", 8);
            break;
        default: { /* anything */
            struct span data = piece(&s, byte(&s));
            frame(out, data.len, byte(&s), flags, flags & 1 ? id : 0);
            buf_append_span(out, data);
        }
        }
    }
    nghttp2_hd_deflate_del(deflater);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct loop *loop;
    struct error err;
    if (!loop && !(loop = loop_new(&err))) abort();
    if (size < 4) return 0;
    struct span s = span_of(data, size);
    uint8_t mode = byte(&s), cut = byte(&s), acts = byte(&s);
    struct buf in;
    buf_init(&in, 1 << 20);
    buf_append_str(&in, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    if (mode & 1) script(&in, s);
    else buf_append_span(&in, s);

    struct http_server *server = mem_zalloc(sizeof *server);
    transport = mem_zalloc(sizeof *transport);
    if (!server || !transport || http2_setup_new(&server->http2)) abort();
    server->refs = 1;
    server->loop = loop;
    server->on_request = on_request;
    server->connection_count = 1;
    server->limits = (struct http_limits){.parser = {.head_max = 4096, .fields_max = 32, .trailer_max = 1024}, .connections_max = 10, .streams_max = 16, .write_buffer_max = 65536, .discard_max = 1000, .progress_min = 100,
                                          .head_timeout_ms = 1000, .body_timeout_ms = acts & 1 ? -1 : 1000, .idle_timeout_ms = 1000, .write_timeout_ms = 1000, .linger_ms = 1000, .drain_idle_ms = 1000};
    transport->full = mode & 2;
    task_count = open_count = 0;
    struct http_connection *c = http2_new(server, transport);
    if (!c) abort();
    server->connections = c;
    struct span rest = buf_span(&in), first = piece(&rest, 1 + cut);
    http2_start(c, first);
    for (int turn = 0; rest.len && transport; turn++) {
        struct span part = piece(&rest, 1 + (size_t)cut * (size_t)(1 + turn % 7));
        transport->events->on_read(transport->arg, part);
        if (!transport) break;
        for (size_t i = 0; i < task_count && (acts & 2); i++) { /* who has paused goes on */
            if (!tasks[i].paused || tasks[i].ended) continue;
            tasks[i].paused = false;
            http_body_resume(tasks[i].x);
        }
        if (transport && (acts & 4)) transport->full = !transport->full;
        if (transport && transport->events->on_drain) transport->events->on_drain(transport->arg);
        if (transport && turn == acts >> 4 && (acts & 8)) {
            server->draining = true;
            c->kind->drain(c);
        }
        if (transport) c->kind->check_time(c);
    }
    if (transport && (mode & 4)) transport->events->on_end(transport->arg, 0);
    if (transport) c->kind->close(c);
    for (size_t i = 0; i < task_count; i++) { /* who reads no body and watches nothing ends by itself */
        if (tasks[i].ended) continue;
        ASSERT(tasks[i].paused); /* its body's end was seen before the client went: it is told on resuming */
        tasks[i].paused = false;
        http_body_resume(tasks[i].x);
    }
    ASSERT(open_count == 0 && server->refs == 1 && server->connection_count == 0);
    http_server_unref(server);
    buf_fini(&in);
    return 0;
}
