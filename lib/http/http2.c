/*
 * Design notes. nghttp2 is the state machine (frames, HPACK, flow control, what RFC 9113 calls an error); this file joins it to a transport on one side and to exchanges
 * on the other, and holds what a client may cost. As in http1.c nothing calls itself in circles: handlers and callbacks only submit and mark between enter
 * and leave, and the outermost leave settles: it takes frames from nghttp2 until the transport is full, and wakes handlers that wait for room.
 *
 *     open ──idle, GOAWAY of the client──► terminated (GOAWAY sent) ──flushed──► finish
 *       └──drain──► waiting ──a stream is open──► notice (GOAWAY 2^31-1, PING) ──ack or DRAIN_NOTICE_MS──► last (GOAWAY n) ──streams done──► finish
 *                      └──idle for drain_idle_ms──► terminated
 *     any ──flood, error, timeout──► GOAWAY with a code where it still can be said, closed
 *
 * A stream's body: what the handler wants now it gets from nghttp2's own buffer; what it does not want yet waits in `in`, and its window opens again only as it is handed out.
 * A stream's answer: waits in x->out; nghttp2 asks for it a frame at a time, each stream in its turn, so that none starves another.
 *
 * Costs. A frame that does no work (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, an empty DATA, a reset …) costs its connection a token; time and the frames that we
 * send give them back. Who has none left is told ENHANCE_YOUR_CALM. What a connection holds of unsent answers is bounded by refusing it further streams.
 */
#include <nghttp2/nghttp2.h>

#include "base/alloc.h"
#include "base/metrics.h"
#include "http/server_internal.h"

enum { STREAM_WINDOW = 256 << 10 };     /* of a body that its handler has not taken: 8 MiB bodies over 50 ms of way at 5 MiB/s */
enum { CONNECTION_WINDOW = 1 << 20 };   /* of all bodies of a connection: what a client can make us hold */
enum { TRANSPORT_CAP = 256 << 10, TRANSPORT_HIGH = 128 << 10 }; /* of frames; above HIGH nghttp2 is asked for no more: what waits there has no order any more */
enum { PIECE_MAX = 32 << 10 };          /* frames that are written together */
enum { STREAM_OUT_LEAST = 64 << 10 };   /* of unsent answer that each stream may hold, however many there are */
enum { HELD_HIGH = 4 << 20 };           /* unsent answers of a connection; beyond, further streams are refused */
enum { HELD_MAX = 16 << 20 };           /* beyond, whole answers to those that were open already are not kept: twice the largest */
enum { TOKENS_MAX = 2000, TOKENS_PER_S = 100 }; /* frames without work: a burst, and for ever. gRPC clients send a PING or two a second, Python's h2 two WINDOW_UPDATE for a DATA of ours */
enum { TOKENS_PER_FRAME_SENT = 3, TOKENS_OF_ERROR = 10 }; /* an error that the client made us answer with a reset costs more than a frame */
enum { RESETS_MAX = 500, RESETS_PER_S = 100 };  /* RST_STREAM of the client: it may give up all its streams four times in a second */
enum { CONTINUATIONS_MAX = 8 };         /* of a header block: 9 frames of 16 KiB are more than head_max */
enum { SETTINGS_ENTRIES_MAX = 32, ACKS_MAX = 1000 };
enum { DEFLATE_TABLE_MAX = 4096 };      /* of our encoder, whatever the client offers: memory of each connection */
enum { PING_AFTER_MS = 60000, PING_WITHIN_MS = 30000 }; /* with open streams and no byte of the client: is it still there? */
enum { DRAIN_NOTICE_MS = 1000 };        /* for streams that were on their way when GOAWAY was sent */

static const uint8_t PING_ALIVE[8] = "genloop", PING_DRAIN[8] = "goodbye";

enum { REMEMBERED = 512 }; /* the client's last streams: what still comes for one that is closed is its error, unless it was we who reset it */

struct mark {
    uint32_t name, name_len, value, value_len; /* in text */
};

struct stream2 {
    struct stream2 *next, *previous;
    struct http2 *connection;
    struct http_exchange *x; /* NULL before the head is complete */
    int32_t id;
    /* the head as it comes */
    struct buf text;
    struct mark *marks;
    size_t mark_count, mark_capacity, head_len;
    const char *too_large; /* why it is refused */
    bool head_done, remote_ended, delivering, submitted, refused;
    bool answered; /* wholly, and the client still may send more than we read away: it is told so at the next tick, which leaves it time to end by itself */
    /* the body */
    struct buf in; /* came, not wanted yet: not consumed */
    size_t discarded;
    int64_t body_since_ms, body_waited_ms; /* waited: before the handler paused */
    size_t body_progress;
    bool body_waiting;
    /* the answer */
    int64_t out_since_ms;
    size_t out_progress;
};

struct http2 {
    struct http_connection connection;
    struct http_server *server;
    struct transport *transport; /* NULL once dead */
    nghttp2_session *session;
    struct stream2 *streams;
    size_t stream_count, held;   /* held: bytes of all x->out */
    struct buf frames;           /* on their way to the transport */
    int busy;
    bool dead, broken, terminated, waits_room, ended;
    enum { NOT_DRAINING, DRAIN_WAITING, DRAIN_NOTICED, DRAIN_LAST } drain;
    int64_t drain_since_ms;
    bool heard;                  /* the client's preface is complete */
    size_t payload_left;         /* of the frame (at first, of the preface) that is coming in */
    uint8_t header[9];
    size_t header_len;
    int32_t head_id, last_id;    /* last_id: the highest that the client has begun */
    uint64_t opened[REMEMBERED / 64], reset[REMEMBERED / 64]; /* by id / 2, modulo */
    int64_t head_since_ms;       /* of a header block (or the preface) that is not complete; 0: none */
    int64_t idle_since_ms, read_ms, pinged_ms;
    int64_t tokens, tokens_ms;
    uint64_t taken;              /* transport_taken at progress_ms */
    int64_t progress_ms;
};

struct http2_setup {
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *options;
};

static void settle(struct http2 *c);
static void http2_close(struct http2 *c);

static int64_t now(const struct http2 *c) { return loop_now_ms(c->server->loop); }

static void count_refusal(const struct http2 *c, const char *reason) { http_server_count(c->server, reason); }

/* ---- Life of streams -------------------------------------------------------------------------------------------------------- */

static struct stream2 *stream_new(struct http2 *c, int32_t id) {
    struct stream2 *s = mem_zalloc(sizeof *s);
    if (!s) return NULL;
    s->connection = c;
    s->id = id;
    buf_init(&s->text, c->server->limits.parser.head_max);
    buf_init(&s->in, STREAM_WINDOW + (1 << 20)); /* the window is the bound */
    s->next = c->streams;
    if (c->streams) c->streams->previous = s;
    c->streams = s;
    c->stream_count++;
    return s;
}

static void stream_forget_head(struct stream2 *s) {
    buf_fini(&s->text);
    mem_free(s->marks);
    s->marks = NULL;
    s->mark_count = s->mark_capacity = 0;
}

static void stream_unlink(struct stream2 *s) {
    struct http2 *c = s->connection;
    if (s->previous) s->previous->next = s->next;
    else c->streams = s->next;
    if (s->next) s->next->previous = s->previous;
    c->stream_count--;
}

static void stream_free(struct stream2 *s) {
    stream_forget_head(s);
    buf_fini(&s->in);
    mem_free(s);
}

/* The wire is done with its exchange. */
static void stream_detach(struct stream2 *s) {
    struct http_exchange *x = s->x;
    s->x = NULL;
    if (!x) return;
    s->connection->held -= x->out.len;
    http_exchange_detach(x);
}

static void enter(struct http2 *c) { c->busy++; }

static void leave(struct http2 *c) {
    if (c->busy == 1 && !c->dead) settle(c);
    if (--c->busy || !c->dead) return;
    struct http_server *s = c->server;
    for (struct stream2 *t = c->streams, *next; t; t = next) {
        next = t->next;
        stream_free(t);
    }
    nghttp2_session_del(c->session);
    buf_fini(&c->frames);
    mem_free(c);
    http_server_unref(s);
}

static void bury(struct http2 *c) {
    c->dead = true;
    c->transport = NULL;
    for (struct stream2 *s = c->streams; s; s = s->next) stream_detach(s); /* its memory goes in leave: somebody may be in the middle of it */
    http_server_forget(c->server, &c->connection);
}

static void http2_close(struct http2 *c) {
    if (c->dead) return;
    enter(c);
    transport_close(c->transport);
    bury(c);
    leave(c);
}

/* Everything is said: what is written goes out, and what the client still sends is read away for a moment. */
static void finish(struct http2 *c) {
    const struct http_limits *m = &c->server->limits;
    size_t queued = transport_write_queued(c->transport);
    if (c->server->draining && queued) return; /* as in http1.c */
    transport_close_after_flush(c->transport, queued ? m->write_timeout_ms : m->linger_ms);
    bury(c);
}

/* GOAWAY and the end; open streams break. */
static void terminate(struct http2 *c, uint32_t code) {
    if (c->terminated) return;
    c->terminated = true;
    if (nghttp2_session_terminate_session(c->session, code)) c->broken = true;
}

static void calm_down(struct http2 *c, const char *why) {
    if (c->terminated) return;
    count_refusal(c, why);
    terminate(c, NGHTTP2_ENHANCE_YOUR_CALM);
}

static void remember_reset(struct http2 *c, int32_t id);
static void reset(struct stream2 *s, uint32_t code) {
    remember_reset(s->connection, s->id);
    if (nghttp2_submit_rst_stream(s->connection->session, NGHTTP2_FLAG_NONE, s->id, code)) s->connection->broken = true;
}

/* ---- Tokens ----------------------------------------------------------------------------------------------------------------- */

static void earn(struct http2 *c, int64_t tokens) { c->tokens = c->tokens + tokens > TOKENS_MAX ? TOKENS_MAX : c->tokens + tokens; }

static void pay(struct http2 *c, int64_t tokens, const char *what) {
    int64_t now_ms = now(c), gain = (now_ms - c->tokens_ms) * TOKENS_PER_S / 1000;
    if (gain > 0) {
        earn(c, gain);
        c->tokens_ms = now_ms;
    }
    c->tokens -= tokens;
    if (c->tokens < 0) calm_down(c, what);
}

/* ---- Answers ---------------------------------------------------------------------------------------------------------------- */

static nghttp2_nv pair(struct span name, struct span value) {
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name.data, (uint8_t *)(uintptr_t)value.data, name.len, value.len, NGHTTP2_NV_FLAG_NONE};
}

/* HTTP/2 knows no upper case in names. */
static void lower(struct span name) {
    char *p = (char *)(uintptr_t)name.data; /* in a buffer of the exchange's own */
    for (size_t i = 0; i < name.len; i++)
        if (p[i] >= 'A' && p[i] <= 'Z') p[i] = (char)(p[i] | 32);
}

enum { OWN_FIELDS = 3 }; /* :status, date, content-length */

/* Room for the lines of fields and OWN_FIELDS more, the lines behind *count. Returns owned, NULL without memory. */
static nghttp2_nv *list_fields(struct span fields, size_t *count) {
    size_t lines = 0;
    for (size_t i = 0; i < fields.len; i++) lines += fields.data[i] == '\n';
    nghttp2_nv *list = mem_calloc(lines + OWN_FIELDS, sizeof *list);
    if (!list) return NULL;
    struct span name, value;
    while (http_fields_next(&fields, &name, &value)) {
        lower(name);
        list[(*count)++] = pair(name, value);
    }
    return list;
}

static int code_of(int r) { return r == NGHTTP2_ERR_NOMEM ? E_NOMEM : E_CANCELLED; }

static ssize_t read_answer(nghttp2_session *session, int32_t id, uint8_t *room, size_t size, uint32_t *flags, nghttp2_data_source *source, void *arg) {
    struct http2 *c = arg;
    struct stream2 *s = source->ptr;
    struct http_exchange *x = s->x;
    (void)session;
    if (!x) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    size_t n = x->out.len < size ? x->out.len : size;
    if (n) memcpy(room, buf_span(&x->out).data, n);
    buf_consume(&x->out, n);
    c->held -= n;
    if (!x->out.len || (s->out_progress += n) >= c->server->limits.progress_min) {
        s->out_since_ms = now(c);
        s->out_progress = 0;
    }
    if (x->wants_drain) c->waits_room = true;
    if (!x->out.len && x->ended) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (x->trailers.len) {
            size_t count = 0;
            nghttp2_nv *list = list_fields(buf_span(&x->trailers), &count);
            int r = list ? nghttp2_submit_trailer(c->session, id, list, count) : NGHTTP2_ERR_NOMEM;
            mem_free(list);
            if (r) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* reset: a call without its status must not look whole */
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        }
    }
    return n || x->ended ? (ssize_t)n : NGHTTP2_ERR_DEFERRED;
}

static int wire_begin(struct http_exchange *x, int64_t length) {
    struct stream2 *s = x->connection;
    struct http2 *c = s->connection;
    if (x->status == 204 || x->status == 304) x->head_only = true;
    x->out.cap = SIZE_MAX - 1; /* wire_write holds a stream to its share */
    size_t count = 1;
    nghttp2_nv *list = list_fields(buf_span(&x->fields), &count);
    if (!list) return E_NOMEM;
    char status[8], size[24];
    (void)snprintf(status, sizeof status, "%d", x->status);
    (void)snprintf(size, sizeof size, "%lld", (long long)length);
    list[0] = pair(SPAN(":status"), span_str(status));
    list[count++] = pair(SPAN("date"), http_server_date(c->server));
    if (x->status != 204 && x->status != 304 && (length > 0 || (length == 0 && !x->head_only && !x->trailers.len && http_head_field(&x->head, "te").data == NULL)))
        list[count++] = pair(SPAN("content-length"), span_str(size)); /* not in an answer of gRPC: one of trailers only has none */
    nghttp2_data_provider provider = {.source = {.ptr = s}, .read_callback = read_answer};
    bool whole = x->head_only || (length == 0 && !x->trailers.len);
    int r = nghttp2_submit_response(c->session, s->id, list, count, whole ? NULL : &provider);
    mem_free(list);
    buf_fini(&x->fields);
    if (r) return code_of(r);
    s->submitted = true;
    s->out_since_ms = now(c);
    if (length < 0) { /* a whole answer goes out with its body */
        enter(c);
        leave(c);
    }
    return 0;
}

/* What one stream's answer may hold. */
static size_t share(const struct http2 *c) {
    size_t most = c->server->limits.write_buffer_max, each = most / (c->stream_count ? c->stream_count : 1);
    return each > STREAM_OUT_LEAST ? each : most < STREAM_OUT_LEAST ? most : STREAM_OUT_LEAST;
}

static int wire_write(struct http_exchange *x, struct span data) {
    struct stream2 *s = x->connection;
    struct http2 *c = s->connection;
    if (x->streaming) {
        if (data.len > c->server->limits.write_buffer_max) return E_TOO_LARGE;
        if (x->out.len && x->out.len + data.len > share(c)) {
            c->waits_room = true;
            return E_FULL;
        }
    }
    if (!x->streaming && c->held && c->held + data.len > HELD_MAX) {
        count_refusal(c, "held");
        x->reset_code = HTTP_RESET_CALM;
        return E_FULL;
    }
    if (!x->out.len) s->out_since_ms = now(c);
    int r = buf_append_span(&x->out, data);
    if (r) return r;
    c->held += data.len;
    if (!x->streaming) return 0; /* the end follows at once */
    enter(c);
    (void)nghttp2_session_resume_data(c->session, s->id); /* fails where it was not deferred: then it is asked for anyway */
    leave(c);
    return 0;
}

static void wire_end(struct http_exchange *x) {
    struct stream2 *s = x->connection;
    struct http2 *c = s->connection;
    enter(c);
    if (x->aborted) reset(s, (uint32_t)x->reset_code);
    else (void)nghttp2_session_resume_data(c->session, s->id);
    if (s->in.len) { /* nobody wants it any more */
        s->discarded += s->in.len;
        if (nghttp2_session_consume(c->session, s->id, s->in.len)) c->broken = true;
        buf_fini(&s->in);
    }
    s->body_since_ms = now(c);
    leave(c);
}

/* ---- Bodies ----------------------------------------------------------------------------------------------------------------- */

/* Hands out what waits, as far as it is wanted, then the end. */
static void deliver(struct stream2 *s) {
    struct http2 *c = s->connection;
    if (s->delivering || !s->x) return;
    struct http_exchange *x = s->x;
    s->delivering = true;
    http_exchange_ref(x);
    while (!c->dead && s->x && s->in.len && http_exchange_wants_body(x)) {
        struct buf taken = s->in; /* the handler may pause, and more may come, while it is handed out: whole, as it was */
        buf_init(&s->in, taken.cap);
        if (nghttp2_session_consume(c->session, s->id, taken.len)) c->broken = true;
        http_exchange_body(x, buf_span(&taken));
        buf_fini(&taken);
    }
    if (!c->dead && s->x && s->remote_ended && !s->in.len) http_exchange_body_end(x, 0);
    http_exchange_unref(x);
    s->delivering = false;
}

/* Whether the client is waited for, and since when. */
static void watch_body(struct stream2 *s) {
    bool waiting = s->x && s->head_done && !s->remote_ended && (s->x->ended ? true : http_exchange_wants_body(s->x));
    if (waiting == s->body_waiting) return;
    s->body_waiting = waiting;
    int64_t now_ms = now(s->connection);
    if (waiting) s->body_since_ms = now_ms - s->body_waited_ms;
    else s->body_waited_ms = now_ms - s->body_since_ms;
}

static void wire_pull(struct http_exchange *x) {
    struct stream2 *s = x->connection;
    struct http2 *c = s->connection;
    enter(c);
    if (x->head.expects_continue && !x->begun && !s->remote_ended) {
        x->head.expects_continue = false;
        nghttp2_nv status = pair(SPAN(":status"), SPAN("100"));
        if (nghttp2_submit_headers(c->session, NGHTTP2_FLAG_NONE, s->id, NULL, &status, 1, NULL) < 0) c->broken = true;
    }
    deliver(s);
    watch_body(s);
    leave(c);
}

static const char *wire_peer(const struct http_exchange *x) { return transport_peer(((struct stream2 *)x->connection)->connection->transport); }
static bool wire_loopback(const struct http_exchange *x) { return transport_loopback(((struct stream2 *)x->connection)->connection->transport); }
static bool wire_secure(const struct http_exchange *x) { return transport_secure(((struct stream2 *)x->connection)->connection->transport); }

static const struct http_wire http2_wire = {wire_begin, wire_write, wire_end, wire_pull, wire_peer, wire_loopback, wire_secure, HTTP_2};

/* ---- Heads ------------------------------------------------------------------------------------------------------------------ */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg) {
    struct http2 *c = arg;
    if (c->dead) return NGHTTP2_ERR_CALLBACK_FAILURE;
    c->head_since_ms = now(c);
    c->head_id = frame->hd.stream_id;
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    struct stream2 *s = stream_new(c, frame->hd.stream_id);
    if (!s) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    return nghttp2_session_set_stream_user_data(session, s->id, s) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *arg) {
    struct http2 *c = arg;
    const struct http_parser_limits *m = &c->server->limits.parser;
    struct stream2 *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    (void)flags;
    if (c->dead) return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!s) return 0;
    s->head_len += name_len + value_len + 32; /* as RFC 9113, 6.5.2 counts */
    if (s->head_done) { /* trailers: counted and dropped */
        if (s->head_len <= m->head_max + m->trailer_max) return 0;
        count_refusal(c, "trailers");
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (s->head_len > m->head_max) s->too_large = "The header fields are too long.";
    else if (s->mark_count == m->fields_max + 4) s->too_large = "The request has too many header fields."; /* 4: the pseudo-fields */
    if (s->too_large) {
        if (s->head_len <= 16 * m->head_max) return 0; /* 431, once it is all there */
        calm_down(c, "header_bomb");
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    struct mark mark = {(uint32_t)s->text.len, (uint32_t)name_len, (uint32_t)(s->text.len + name_len), (uint32_t)value_len};
    if (array_reserve(&s->marks, &s->mark_capacity, s->mark_count + 1, sizeof *s->marks) || buf_append(&s->text, name, name_len) || buf_append(&s->text, value, value_len))
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    s->marks[s->mark_count++] = mark;
    return 0;
}

/* The head of a complete block. Without memory E_NOMEM. */
static int make_head(struct stream2 *s, struct http_head *h) {
    *h = (struct http_head){.has_body = !s->remote_ended};
    h->fields = mem_calloc(s->mark_count ? s->mark_count : 1, sizeof *h->fields);
    h->text = buf_detach(&s->text, NULL);
    if (!h->fields || !h->text) {
        http_head_fini(h);
        return E_NOMEM;
    }
    for (size_t i = 0; i < s->mark_count; i++) {
        struct mark m = s->marks[i];
        struct span name = span_of(h->text + m.name, m.name_len), value = span_of(h->text + m.value, m.value_len);
        if (span_eq(name, SPAN(":method"))) h->method = value;
        else if (span_eq(name, SPAN(":path"))) h->target = value;
        else if (span_eq(name, SPAN(":authority"))) h->authority = value;
        else if (name.data[0] != ':') h->fields[h->field_count++] = (struct http_field){name, value};
    }
    return 0;
}

/* Tells the client while a stream of its is open, as "Connection: close" does: between two requests many overlook it, and send the next one in vain. */
static void notice_drain(struct http2 *c) {
    c->drain = DRAIN_NOTICED;
    c->drain_since_ms = now(c);
    if (nghttp2_submit_shutdown_notice(c->session) || nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, PING_DRAIN)) c->broken = true;
}

static void request_came(struct stream2 *s) {
    struct http2 *c = s->connection;
    if (c->drain == DRAIN_WAITING) notice_drain(c);
    struct http_head head = {0};
    int status = 0;
    const char *reason = NULL;
    s->head_done = true;
    c->head_since_ms = 0;
    if (c->held > HELD_HIGH) {
        count_refusal(c, "held");
        reset(s, NGHTTP2_REFUSED_STREAM);
        return;
    }
    if (s->too_large) {
        count_refusal(c, "head");
        status = 431;
        reason = s->too_large;
        head = (struct http_head){.minor = 1, .has_body = !s->remote_ended, .chunked = !s->remote_ended};
    } else if (make_head(s, &head)) {
        reset(s, NGHTTP2_REFUSED_STREAM);
        return;
    } else {
        (void)http_head_check(&head, &status, &reason);
    }
    stream_forget_head(s);
    struct http_exchange *x = http_exchange_new(c->server->loop, &http2_wire, s, &head);
    if (!x) {
        http_head_fini(&head);
        reset(s, NGHTTP2_REFUSED_STREAM);
        return;
    }
    s->x = x;
    if (s->remote_ended) http_exchange_body_end(x, 0);
    if (status) http_exchange_refuse(x, status, reason);
    else c->server->on_request(c->server->arg, x);
    watch_body(s);
}

/* ---- Closed streams ---------------------------------------------------------------------------------------------------------- */

static uint64_t bit_of(int32_t id) { return (uint64_t)1 << (id / 2 % 64); }
static uint64_t *word_of(uint64_t *set, int32_t id) { return &set[id / 2 / 64 % (REMEMBERED / 64)]; }
static bool remembered(const struct http2 *c, int32_t id) { return id > 0 && id <= c->last_id && c->last_id - id < 2 * REMEMBERED; }

static void remember_opened(struct http2 *c, int32_t id) {
    int64_t from = (int64_t)c->last_id + 2; /* wider than an id: the highest there is has a next one */
    if (id - from >= 2 * REMEMBERED) from = (int64_t)id - 2 * REMEMBERED + 2;
    for (int64_t skipped = from; skipped <= id; skipped += 2) {
        *word_of(c->opened, (int32_t)skipped) &= ~bit_of((int32_t)skipped);
        *word_of(c->reset, (int32_t)skipped) &= ~bit_of((int32_t)skipped);
    }
    *word_of(c->opened, id) |= bit_of(id);
    c->last_id = id;
}

static void remember_reset(struct http2 *c, int32_t id) {
    if (remembered(c, id)) *word_of(c->reset, id) |= bit_of(id);
}

/* HEADERS or DATA. nghttp2 overlooks frames for streams that it has forgotten; RFC 9113, 5.1 and 5.1.1 want them told apart. */
static void check_stream_state(struct http2 *c, uint8_t type, int32_t id) {
    if (id % 2 == 0 || c->terminated) return; /* nghttp2's to refuse */
    if (id > c->last_id) {
        if (type == NGHTTP2_HEADERS) remember_opened(c, id);
        return;
    }
    if (!remembered(c, id) || nghttp2_session_find_stream(c->session, id) || (*word_of(c->reset, id) & bit_of(id))) return;
    bool was = *word_of(c->opened, id) & bit_of(id);
    count_refusal(c, "stream_state");
    terminate(c, was ? NGHTTP2_STREAM_CLOSED : NGHTTP2_PROTOCOL_ERROR);
}

/* ---- Frames ----------------------------------------------------------------------------------------------------------------- */

static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *arg) {
    struct http2 *c = arg;
    (void)session;
    if (c->dead) return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (c->heard && hd->type != NGHTTP2_CONTINUATION) c->head_since_ms = 0;
    if (hd->type == NGHTTP2_HEADERS) check_stream_state(c, hd->type, hd->stream_id);
    return 0;
}

/* The header of every frame, before nghttp2 has it: it tells of none that it overlooks. */
static void frame_begins(struct http2 *c, uint8_t type, size_t len, int32_t id) {
    if (type == NGHTTP2_DATA) check_stream_state(c, type, id);
    if (type == NGHTTP2_HEADERS || (type == NGHTTP2_DATA && len)) return;
    pay(c, 1, type == NGHTTP2_PING ? "ping_flood" : type == NGHTTP2_SETTINGS ? "settings_flood" : type == NGHTTP2_PRIORITY ? "priority_flood" : type == NGHTTP2_RST_STREAM ? "reset_flood" : type == NGHTTP2_DATA ? "empty_data" : "frame_flood");
}

/* A frame that nghttp2 answers with a reset: what follows it for this stream was on its way. */
static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int code, void *arg) {
    (void)session;
    (void)code;
    remember_reset(arg, frame->hd.stream_id);
    return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *arg) {
    struct http2 *c = arg;
    if (c->dead) return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (frame->hd.type == NGHTTP2_SETTINGS && !c->heard) {
        c->heard = true;
        c->head_since_ms = 0;
    }
    if (frame->hd.type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK) && c->drain == DRAIN_NOTICED && !memcmp(frame->ping.opaque_data, PING_DRAIN, sizeof PING_DRAIN))
        c->drain_since_ms = now(c) - DRAIN_NOTICE_MS; /* what was sent before it knew has come */
    if (frame->hd.type == NGHTTP2_HEADERS) c->head_since_ms = 0;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    struct stream2 *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!s) return 0;
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) s->remote_ended = true;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) request_came(s);
    else if (s->remote_ended) deliver(s);
    watch_body(s);
    return c->dead ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *arg) {
    struct http2 *c = arg;
    struct stream2 *s = nghttp2_session_get_stream_user_data(session, id);
    (void)flags;
    if (c->dead) return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!s || !s->x) return nghttp2_session_consume(session, id, len) ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
    if ((s->body_progress += len) >= c->server->limits.progress_min) {
        s->body_progress = 0;
        s->body_waited_ms = 0;
        s->body_since_ms = now(c);
    }
    struct http_exchange *x = s->x;
    if (x->ended) { /* read away, within reason */
        if (nghttp2_session_consume(session, id, len)) return NGHTTP2_ERR_CALLBACK_FAILURE;
        if ((s->discarded += len) > c->server->limits.discard_max && !s->refused) {
            s->refused = true;
            reset(s, NGHTTP2_NO_ERROR);
        }
        return 0;
    }
    if (s->in.len || s->delivering || !http_exchange_wants_body(x)) {
        if (buf_append(&s->in, data, len)) reset(s, NGHTTP2_INTERNAL_ERROR);
        return 0;
    }
    if (nghttp2_session_consume(session, id, len)) return NGHTTP2_ERR_CALLBACK_FAILURE;
    s->delivering = true;
    http_exchange_ref(x);
    http_exchange_body(x, span_of(data, len));
    http_exchange_unref(x);
    s->delivering = false;
    watch_body(s);
    return c->dead ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* Little of the body is left, and how much is known. */
static bool can_discard(const struct stream2 *s) {
    const struct http_exchange *x = s->x;
    return !x->head.chunked && !x->head.expects_continue && x->head.length - x->body_seen - s->in.len <= s->connection->server->limits.discard_max;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *arg) {
    struct http2 *c = arg;
    if (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) {
        earn(c, TOKENS_PER_FRAME_SENT);
        struct stream2 *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
        /* The answer is complete and the request is not: nobody reads the rest (RFC 9113, 8.1). */
        if (s && s->x && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) && !s->remote_ended && !can_discard(s)) s->answered = true;
    } else if (frame->hd.type == NGHTTP2_RST_STREAM) {
        uint32_t code = frame->rst_stream.error_code;
        remember_reset(c, frame->hd.stream_id);
        if (code != NGHTTP2_NO_ERROR && code != NGHTTP2_CANCEL && code != NGHTTP2_INTERNAL_ERROR) pay(c, TOKENS_OF_ERROR, "error_flood");
    }
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg) {
    struct http2 *c = arg;
    struct stream2 *s = nghttp2_session_get_stream_user_data(session, id);
    (void)code;
    if (c->heard && id == c->head_id) c->head_since_ms = 0; /* its block was refused, and is not told of as a frame */
    if (!s || c->dead) return 0;
    nghttp2_session_set_stream_user_data(session, id, NULL);
    if (s->in.len && nghttp2_session_consume_connection(session, s->in.len)) c->broken = true;
    stream_unlink(s);
    stream_detach(s);
    stream_free(s);
    if (!c->stream_count) c->idle_since_ms = now(c);
    return 0;
}

/* ---- Settling --------------------------------------------------------------------------------------------------------------- */

static void flush(struct http2 *c) {
    if (!c->frames.len || c->broken) return;
    if (transport_write(c->transport, buf_span(&c->frames))) c->broken = true;
    buf_clear(&c->frames);
}

static void send_frames(struct http2 *c) {
    while (!c->dead && !c->broken && transport_write_queued(c->transport) < TRANSPORT_HIGH) {
        const uint8_t *data;
        ssize_t n = nghttp2_session_mem_send(c->session, &data);
        if (n < 0 || (n > 0 && buf_append(&c->frames, data, (size_t)n))) c->broken = true;
        if (n <= 0) break;
        if (c->frames.len >= PIECE_MAX) flush(c);
    }
    if (!c->dead) flush(c);
    if (!c->frames.len) buf_fini(&c->frames); /* an idle connection keeps nothing */
}

/* Whether somebody was woken. */
static bool wake_writers(struct http2 *c) {
    bool woken = false;
    c->waits_room = false;
    struct stream2 *next;
    for (struct stream2 *s = c->streams; s && !c->dead; s = next) {
        next = s->next; /* handlers only submit: no stream goes from the list before we send again */
        struct http_exchange *x = s->x;
        if (!x || !x->wants_drain || x->ended) continue;
        if (x->out.len > share(c) / 4) {
            c->waits_room = true;
            continue;
        }
        http_exchange_ref(x);
        http_exchange_drained(x);
        http_exchange_unref(x);
        woken = true;
    }
    return woken;
}

static void settle(struct http2 *c) {
    for (;;) {
        send_frames(c);
        if (c->dead) return;
        if (c->broken) {
            http2_close(c);
            return;
        }
        if (!c->waits_room || !wake_writers(c)) break;
        if (c->dead) return;
    }
    bool over = !nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session);
    if (over || c->ended) {
        finish(c);
        return;
    }
    transport_read_start(c->transport);
}

static void take(struct http2 *c, struct span data) {
    if (!data.len || c->dead || c->broken || !nghttp2_session_want_read(c->session)) return;
    ssize_t n = nghttp2_session_mem_recv(c->session, (const uint8_t *)data.data, data.len);
    if (n >= 0 || c->dead) return;
    if (n == NGHTTP2_ERR_FLOODED) count_refusal(c, "flooded");
    http2_close(c);
}

/* Follows the frames' headers, and gives nghttp2 the bytes; of a DATA frame's header the last one only when its stream's state has been looked at. */
static void on_read(void *arg, struct span data) {
    struct http2 *c = arg;
    enter(c);
    c->read_ms = now(c);
    c->pinged_ms = 0;
    size_t taken = 0, at = 0;
    while (at < data.len && !c->dead) {
        if (c->payload_left) {
            size_t n = data.len - at < c->payload_left ? data.len - at : c->payload_left;
            c->payload_left -= n;
            at += n;
            continue;
        }
        const uint8_t *h = c->header;
        c->header[c->header_len++] = (uint8_t)data.data[at];
        if (c->header_len == sizeof c->header) {
            c->header_len = 0;
            c->payload_left = (size_t)h[0] << 16 | (size_t)h[1] << 8 | h[2];
            if (h[3] == NGHTTP2_DATA) {
                take(c, span_sub(data, taken, at - taken));
                taken = at;
            }
            if (!c->dead) frame_begins(c, h[3], c->payload_left, (int32_t)((uint32_t)(h[5] & 0x7f) << 24 | (uint32_t)h[6] << 16 | (uint32_t)h[7] << 8 | h[8]));
        }
        at++;
    }
    take(c, span_skip(data, taken));
    leave(c);
}

static void on_end(void *arg, int r) {
    struct http2 *c = arg;
    (void)r; /* a client that says nothing more can open no window: its streams are over */
    http2_close(c);
}

static void on_drain(void *arg) {
    enter(arg);
    leave(arg);
}

/* ---- Time ------------------------------------------------------------------------------------------------------------------- */

static void check_stream(struct stream2 *s) {
    struct http2 *c = s->connection;
    const struct http_limits *m = &c->server->limits;
    int64_t now_ms = now(c);
    struct http_exchange *x = s->x;
    if (!x) return;
    watch_body(s);
    if (s->answered && !s->remote_ended && !s->refused) {
        s->refused = true;
        reset(s, NGHTTP2_NO_ERROR);
    } else if (x->out.len && now_ms - s->out_since_ms >= m->write_timeout_ms) { /* its window stays shut */
        count_refusal(c, "write_timeout");
        reset(s, NGHTTP2_CANCEL);
    } else if (s->body_waiting && now_ms - s->body_since_ms >= m->body_timeout_ms) {
        if (x->ended && !s->refused) {
            s->refused = true;
            reset(s, NGHTTP2_NO_ERROR);
        } else if (!x->ended && !x->body_patient) {
            count_refusal(c, "body_timeout");
            http_exchange_ref(x);
            http_exchange_body_end(x, E_DEADLINE);
            http_exchange_unref(x);
        }
    }
}

static void go_on_draining(struct http2 *c) {
    if (c->drain == DRAIN_WAITING && c->stream_count) notice_drain(c);
    else if (c->drain == DRAIN_WAITING && now(c) - c->idle_since_ms >= c->server->limits.drain_idle_ms) terminate(c, NGHTTP2_NO_ERROR);
    if (c->drain == DRAIN_NOTICED && now(c) - c->drain_since_ms >= DRAIN_NOTICE_MS) {
        c->drain = DRAIN_LAST;
        if (nghttp2_submit_goaway(c->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(c->session), NGHTTP2_NO_ERROR, NULL, 0)) c->broken = true;
    }
    if (c->drain == DRAIN_LAST && !c->stream_count) terminate(c, NGHTTP2_NO_ERROR);
}

static void check_time(struct http_connection *base) {
    struct http2 *c = (struct http2 *)base;
    const struct http_limits *m = &c->server->limits;
    int64_t now_ms = now(c);
    enter(c);
    size_t queued = transport_write_queued(c->transport);
    uint64_t taken = transport_taken(c->transport);
    if (!queued || taken - c->taken >= m->progress_min) {
        c->taken = taken;
        c->progress_ms = now_ms;
    }
    if (c->broken) {
        http2_close(c);
    } else if (queued && now_ms - c->progress_ms >= m->write_timeout_ms) {
        count_refusal(c, "write_timeout");
        http2_close(c);
    } else if (c->head_since_ms && now_ms - c->head_since_ms >= m->head_timeout_ms) {
        count_refusal(c, "head_timeout");
        terminate(c, NGHTTP2_ENHANCE_YOUR_CALM);
    } else if (!c->stream_count && now_ms - c->idle_since_ms >= m->idle_timeout_ms) {
        terminate(c, NGHTTP2_NO_ERROR);
    } else if (c->stream_count && c->pinged_ms && now_ms - c->pinged_ms >= PING_WITHIN_MS) {
        count_refusal(c, "vanished");
        http2_close(c);
    } else if (c->stream_count && !c->pinged_ms && now_ms - c->read_ms >= PING_AFTER_MS) {
        c->pinged_ms = now_ms;
        if (nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, PING_ALIVE)) c->broken = true;
    }
    struct stream2 *next;
    for (struct stream2 *s = c->streams; s && !c->dead; s = next) {
        next = s->next;
        check_stream(s);
    }
    if (!c->dead) go_on_draining(c);
    leave(c);
}

/* ---- Life ------------------------------------------------------------------------------------------------------------------- */

static const struct stream_events events = {on_read, on_end, on_drain};

static void kind_drain(struct http_connection *base) {
    struct http2 *c = (struct http2 *)base;
    enter(c);
    c->drain = DRAIN_WAITING;
    go_on_draining(c);
    leave(c);
}

static void kind_close(struct http_connection *base) { http2_close((struct http2 *)base); }
static const struct http_connection_kind kind = {kind_drain, kind_close, check_time};

static void *give_memory(size_t size, void *arg) {
    (void)arg;
    return mem_alloc(size);
}
static void take_memory(void *memory, void *arg) {
    (void)arg;
    mem_free(memory);
}
static void *give_zeroes(size_t count, size_t size, void *arg) {
    (void)arg;
    return mem_calloc(count, size);
}
static void *change_memory(void *old, size_t size, void *arg) {
    (void)arg;
    return mem_realloc(old, size);
}
static nghttp2_mem memory = {NULL, give_memory, take_memory, give_zeroes, change_memory};

struct http_connection *http2_new(struct http_server *s, struct transport *transport) {
    struct http2 *c = mem_zalloc(sizeof *c);
    if (!c) return NULL;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, (uint32_t)s->limits.streams_max},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)s->limits.parser.head_max},
    };
    if (nghttp2_session_server_new3(&c->session, s->http2->callbacks, c, s->http2->options, &memory)) {
        mem_free(c);
        return NULL;
    }
    if (nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings) || nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW)) {
        nghttp2_session_del(c->session);
        mem_free(c);
        return NULL;
    }
    c->connection.kind = &kind;
    c->connection.server = c->server = s;
    s->refs++;
    c->transport = transport;
    buf_init(&c->frames, TRANSPORT_CAP);
    c->tokens = TOKENS_MAX;
    c->payload_left = NGHTTP2_CLIENT_MAGIC_LEN;
    c->tokens_ms = c->head_since_ms = c->idle_since_ms = c->read_ms = c->progress_ms = now(c);
    transport_init(transport, TRANSPORT_CAP, c, &events);
    return &c->connection;
}

void http2_start(struct http_connection *base, struct span first) {
    if (base->server->draining) kind_drain(base);
    on_read(base, first);
}

int http2_setup_new(struct http2_setup **out) {
    struct http2_setup *setup = mem_zalloc(sizeof *setup);
    if (!setup) return E_NOMEM;
    if (nghttp2_session_callbacks_new(&setup->callbacks) || nghttp2_option_new(&setup->options)) {
        http2_setup_free(setup);
        return E_NOMEM;
    }
    nghttp2_session_callbacks *b = setup->callbacks;
    nghttp2_session_callbacks_set_on_begin_headers_callback(b, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(b, on_header);
    nghttp2_session_callbacks_set_on_begin_frame_callback(b, on_begin_frame);
    nghttp2_session_callbacks_set_on_frame_recv_callback(b, on_frame_recv);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(b, on_invalid_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(b, on_data);
    nghttp2_session_callbacks_set_on_frame_send_callback(b, on_frame_send);
    nghttp2_session_callbacks_set_on_stream_close_callback(b, on_stream_close);
    nghttp2_option *o = setup->options;
    nghttp2_option_set_no_auto_window_update(o, 1); /* bodies are held to what their handlers take */
    nghttp2_option_set_no_closed_streams(o, 1);     /* nobody's priorities need them; we remember what matters */
    nghttp2_option_set_max_outbound_ack(o, ACKS_MAX);
    nghttp2_option_set_max_settings(o, SETTINGS_ENTRIES_MAX);
    nghttp2_option_set_max_continuations(o, CONTINUATIONS_MAX);
    nghttp2_option_set_max_deflate_dynamic_table_size(o, DEFLATE_TABLE_MAX);
    nghttp2_option_set_stream_reset_rate_limit(o, RESETS_MAX, RESETS_PER_S);
    *out = setup;
    return 0;
}

void http2_setup_free(struct http2_setup *setup) {
    if (!setup) return;
    nghttp2_session_callbacks_del(setup->callbacks);
    nghttp2_option_del(setup->options);
    mem_free(setup);
}
