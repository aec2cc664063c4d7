/*
 * A connection before its protocol is known. HTTP/2 by prior knowledge begins with a preface that no HTTP/1.1 request can begin with: as long as what
 * has come is a beginning of it we wait for more, and one other byte makes it HTTP/1.1.
 *
 *     [TLS handshake ──ALPN h2──► HTTP/2] ──► first bytes ──the preface──► HTTP/2
 *                                                    └──────anything else──► HTTP/1.1
 */
#include "base/alloc.h"
#include "http/server_internal.h"

#define PREFACE SPAN("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
enum { PREFACE_LEN = 24, WRITE_CAP = 64 << 10 };

struct opening {
    struct http_connection connection;
    struct transport *transport;
    int64_t since_ms;
    char first[PREFACE_LEN];
    size_t first_len;
};

static void opening_free(struct opening *o) {
    struct http_server *s = o->connection.server;
    mem_free(o);
    http_server_unref(s);
}

static void opening_close(struct http_connection *c) {
    struct opening *o = (struct opening *)c;
    transport_close(o->transport);
    http_server_forget(c->server, c);
    opening_free(o);
}

static void become(struct opening *o, bool is_http2, struct span more) {
    struct http_server *s = o->connection.server;
    struct http_connection *c = is_http2 ? http2_new(s, o->transport) : http1_new(s, o->transport);
    if (!c) {
        opening_close(&o->connection);
        return;
    }
    http_server_replace(s, &o->connection, c);
    struct buf whole;
    buf_init(&whole, sizeof o->first + TRANSPORT_READ_MAX);
    if (o->first_len && (buf_append(&whole, o->first, o->first_len) || buf_append_span(&whole, more))) {
        c->kind->close(c);
    } else {
        if (o->first_len) more = buf_span(&whole);
        if (is_http2) http2_start(c, more);
        else http1_start(c, more);
    }
    buf_fini(&whole);
    opening_free(o);
}

/* A line of capitals and spaces alone is another protocol's, or a preface that is none (RFC 9113, 3.4): no HTTP/1.1 request has a line without a slash, and an answer in HTTP/1.1 would
 * be taken for frames. */
static bool is_other_preface(struct span data) {
    size_t n = 0;
    while (n < data.len && ((data.data[n] >= 'A' && data.data[n] <= 'Z') || data.data[n] == ' ')) n++;
    return n > 0 && n < data.len && data.data[n] == '\r';
}

static void on_read(void *arg, struct span data) {
    struct opening *o = arg;
    struct span agreed = transport_protocol(o->transport);
    if (agreed.len) {
        become(o, span_eq(agreed, SPAN("h2")), data);
        return;
    }
    size_t n = data.len < PREFACE_LEN - o->first_len ? data.len : PREFACE_LEN - o->first_len;
    bool fits = memcmp(data.data, PREFACE.data + o->first_len, n) == 0;
    if (!fits && !o->first_len && is_other_preface(data)) {
        http_server_count(o->connection.server, "no_http");
        opening_close(&o->connection);
        return;
    }
    if (!fits || o->first_len + n == PREFACE_LEN) {
        become(o, fits, data);
        return;
    }
    if (!o->first_len) o->since_ms = loop_now_ms(o->connection.server->loop);
    memcpy(o->first + o->first_len, data.data, n);
    o->first_len += n;
}

static void on_end(void *arg, int r) {
    struct opening *o = arg;
    if (r && !transport_ready(o->transport)) http_server_count(o->connection.server, "tls_handshake");
    opening_close(&o->connection);
}

/* A client that is slow with the preface is one that is slow with its head; one that says nothing is idle. */
static void opening_check_time(struct http_connection *c) {
    struct opening *o = (struct opening *)c;
    const struct http_limits *m = &c->server->limits;
    int64_t waited_ms = loop_now_ms(c->server->loop) - o->since_ms;
    bool begun = o->first_len || !transport_ready(o->transport);
    int64_t most_ms = begun ? m->head_timeout_ms : c->server->draining ? m->drain_idle_ms : m->idle_timeout_ms;
    if (waited_ms < most_ms) return;
    if (begun) http_server_count(c->server, transport_ready(o->transport) ? "head_timeout" : "tls_handshake");
    opening_close(c);
}

static void opening_drain(struct http_connection *c) { (void)c; }

static const struct stream_events events = {on_read, on_end, NULL};
static const struct http_connection_kind opening = {opening_drain, opening_close, opening_check_time};

struct http_connection *opening_new(struct http_server *s, struct stream *stream) {
    struct opening *o = mem_zalloc(sizeof *o);
    if (!o || !(o->transport = transport_new(stream, s->tls))) {
        if (!o) stream_close(stream);
        mem_free(o);
        return NULL;
    }
    o->connection.kind = &opening;
    o->connection.server = s;
    s->refs++;
    o->since_ms = loop_now_ms(s->loop);
    transport_init(o->transport, WRITE_CAP, o, &events);
    return &o->connection;
}

void opening_start(struct http_connection *c) { transport_read_start(((struct opening *)c)->transport); }
