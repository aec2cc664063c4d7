/*
 * Design notes. Nothing here calls itself in circles: what handlers and the stream do (a write, an end, a wish for the body, bytes that
 * came) only changes buffers and flags between enter and leave, and the outermost leave settles: it writes what can be written,
 * parses what can be parsed, and decides whether to read on or to close. Memory goes when the last leave has found the connection dead.
 *
 *     reading ──no_more (refused, "Connection: close", a body too long to discard)──► answers in flight ──last one written──► finish: flush, linger, close
 *        └──────ended (client's end of file)─────────────────────────────────────────►┘
 *     any ──error, timeout of a write, server closed──► http1_close: exchanges are detached
 */
#include "base/alloc.h"
#include "http/server_internal.h"

/* One HTTP/1 connection. */
struct http1 {
    struct http_connection connection;
    struct http_server *server;
    struct transport *transport;   /* NULL once dead */
    struct http_parser parser;
    struct buf in;                 /* read, but not taken yet */
    struct http_exchange *first, **last; /* not written yet, in the order of their requests */
    size_t exchange_count;
    struct http_exchange *current; /* the one whose body is being read: the last of the list */
    const struct span *taking;     /* the input that is being parsed now, what is left of it */
    int busy;                      /* calls under way; the outermost one settles, see above */
    bool stalled;                  /* the parser was not asked on: the pipeline is full, or nobody wants the body now */
    bool discarding;               /* the body's exchange has ended without wanting it */
    bool final;                    /* the request being read is the last one: it said so */
    bool no_more;                  /* nothing further is read: the connection closes behind the last answer */
    bool ended;                    /* the client has said that it sends nothing more */
    bool broken;                   /* a write failed */
    bool resting, posted;          /* it has had its turn; posted: go_on is on its way, and holds the memory */
    int in_turn;                   /* requests taken in this turn */
    bool dead;
    int waiting_for;               /* enum waiting, since waiting_since_ms */
    int64_t waiting_since_ms, progress_ms;
    size_t body_progress;          /* bytes of the body since its time began to count */
    int64_t body_waited_ms;        /* what had been waited for it when its handler paused */
    uint64_t taken;                /* transport_taken at progress_ms */
};

enum { STREAM_CAP = 256 << 10 };  /* of the stream's own queue; what is beyond stays in the exchange's */
enum { PIECE_MAX = 64 << 10 };    /* one write into it */
enum { IN_HIGH = 64 << 10 };      /* input that waits; beyond, reading stops. Below it we read on, which is how we notice that a client goes */
enum { IN_CAP = IN_HIGH + TRANSPORT_READ_MAX };
enum { TURN_MAX = 16 };           /* requests that are taken before the loop's other connections have their turn: a pipeline must not be a queue that all others stand behind */
enum { OUT_SLACK = 64 << 10 };    /* head, chunk framing and end of a stream come on top of write_buffer_max and are never refused */

enum waiting { WAITING_IDLE = 1, WAITING_HEAD, WAITING_BODY, WAITING_HANDLER };

static void settle(struct http1 *c);

static void enter(struct http1 *c) { c->busy++; }

static void leave(struct http1 *c) {
    if (c->busy == 1 && !c->dead) settle(c);
    if (--c->busy || !c->dead || c->posted) return;
    struct http_server *s = c->server;
    http_parser_fini(&c->parser);
    buf_fini(&c->in);
    mem_free(c);
    http_server_unref(s);
}

/* ---- The end ------------------------------------------------------------------------------------------------------------ */

static void bury(struct http1 *c) {
    c->dead = true;
    c->transport = NULL;
    c->current = NULL;
    struct http_exchange *x = c->first;
    c->first = NULL;
    c->last = &c->first;
    c->exchange_count = 0;
    for (struct http_exchange *next; x; x = next) {
        next = x->next;
        http_exchange_detach(x);
    }
    http_server_forget(c->server, &c->connection);
}

static void http1_close(struct http1 *c) {
    if (c->dead) return;
    enter(c);
    transport_close(c->transport);
    bury(c);
    leave(c);
}

/* Everything is answered: what is written goes out first, and what the client still sends is read away for a moment. */
static void finish(struct http1 *c) {
    const struct http_limits *m = &c->server->limits;
    size_t queued = transport_write_queued(c->transport);
    if (c->server->draining && queued) return; /* on_done may end the process: it waits for this, see http1_check_time */
    transport_close_after_flush(c->transport, queued ? m->write_timeout_ms : m->linger_ms);
    bury(c);
}

/* ---- Exchanges ---------------------------------------------------------------------------------------------------------- */

static void append_exchange(struct http1 *c, struct http_exchange *x) {
    *c->last = x;
    c->last = &x->next;
    c->exchange_count++;
}

static void remove_exchange(struct http1 *c, struct http_exchange *x) {
    struct http_exchange **link = &c->first;
    while (*link != x) link = &(*link)->next;
    *link = x->next;
    if (c->last == &x->next) c->last = link;
    c->exchange_count--;
}

/* No request follows this one, and its answer says so where it has not begun. */
static void close_behind(struct http1 *c, struct http_exchange *x) {
    x->closing = true;
    c->no_more = true;
}

static bool can_discard(const struct http1 *c, const struct http_exchange *x) {
    return !x->head.chunked && !x->head.expects_continue && x->head.length - x->body_seen <= c->server->limits.discard_max;
}

/* No byte of a further request has come. */
static bool nothing_behind(const struct http1 *c) { return !(c->taking ? c->taking->len : c->in.len) && http_parser_between(&c->parser); }

/* ---- struct http_wire --------------------------------------------------------------------------------------------------- */

static int wire_begin(struct http_exchange *x, int64_t length) {
    struct http1 *c = x->connection;
    bool last = x->next == NULL;
    if (x->status == 204 || x->status == 304) x->head_only = true;
    if (!x->head.keep_alive || (length < 0 && x->head.minor == 0)) x->closing = true;
    if (c->current == x && (length >= 0 || !x->body_wanted) && !can_discard(c, x)) x->closing = true;
    if (last && c->no_more) x->closing = true;
    if (last && c->server->draining && c->current != x && nothing_behind(c)) x->closing = true;
    if (x->closing) c->no_more |= c->current != x; /* with its body unread, wire_end decides */
    x->out.cap = length < 0 ? x->out.len + c->server->limits.write_buffer_max + OUT_SLACK : SIZE_MAX - 1;
    struct buf *out = &x->out;
    buf_printf(out, "HTTP/1.1 %d %s\r\n", x->status, http_status_text(x->status));
    buf_printf(out, "date: %s\r\n", http_server_date(c->server).data);
    buf_append_span(out, buf_span(&x->fields));
    if (x->status == 204 || x->status == 304) {
        /* neither has a body or says how long it would be */
    } else if (length >= 0) {
        buf_printf(out, "content-length: %lld\r\n", (long long)length);
    } else if (x->head.minor == 1) {
        buf_append_str(out, "transfer-encoding: chunked\r\n");
    }
    if (x->closing) buf_append_str(out, "connection: close\r\n");
    else if (x->head.minor == 0) buf_append_str(out, "connection: keep-alive\r\n");
    buf_append_str(out, "\r\n");
    buf_fini(&x->fields);
    if (out->failed) return out->failed;
    if (length < 0) { /* a whole answer goes out with its body */
        enter(c);
        leave(c);
    }
    return 0;
}

/* Once for each token of a stream: printf would cost more than all the rest here. */
static void put_chunk_size(struct buf *out, size_t size) {
    char text[2 * sizeof size + 2], *at = text + sizeof text;
    *--at = '\n';
    *--at = '\r';
    do *--at = "0123456789abcdef"[size & 15];
    while (size >>= 4);
    buf_append(out, at, (size_t)(text + sizeof text - at));
}

static int wire_write(struct http_exchange *x, struct span data) {
    struct http1 *c = x->connection;
    if (!x->streaming) return buf_append_span(&x->out, data); /* the end follows at once */
    size_t most = c->server->limits.write_buffer_max;
    if (data.len > most) return E_TOO_LARGE;
    if (x->out.len + data.len > most && x->out.len) return E_FULL;
    bool chunked = x->head.minor == 1;
    if (!buf_reserve(&x->out, data.len + 32)) return E_NOMEM; /* all of it or nothing */
    if (chunked) put_chunk_size(&x->out, data.len);
    buf_append_span(&x->out, data);
    if (chunked) buf_append_str(&x->out, "\r\n");
    enter(c);
    leave(c);
    return 0;
}

static void wire_end(struct http_exchange *x) {
    struct http1 *c = x->connection;
    enter(c);
    if (!x->aborted && x->streaming && !x->head_only && x->head.minor == 1) {
        buf_append_str(&x->out, "0\r\n");
        if (http_list_has(http_head_field(&x->head, "te"), SPAN("trailers"))) buf_append_span(&x->out, buf_span(&x->trailers));
        if (buf_append_str(&x->out, "\r\n") || x->out.failed) x->aborted = true;
    }
    if (c->current == x) { /* its body is not complete and nobody wants the rest */
        c->current = NULL;
        if (x->closing || !can_discard(c, x)) close_behind(c, x);
        else c->discarding = true;
    }
    leave(c);
}

static void wire_pull(struct http_exchange *x) {
    struct http1 *c = x->connection;
    if (!c) return;
    enter(c);
    if (x->head.expects_continue && c->current == x && !x->begun) {
        x->head.expects_continue = false;
        if (x->head.minor == 1) buf_append_str(&x->out, "HTTP/1.1 100 Continue\r\n\r\n");
    }
    leave(c);
}

static const char *wire_peer(const struct http_exchange *x) { return transport_peer(((struct http1 *)x->connection)->transport); }
static bool wire_loopback(const struct http_exchange *x) { return transport_loopback(((struct http1 *)x->connection)->transport); }

static bool wire_secure(const struct http_exchange *x) { return transport_secure(((struct http1 *)x->connection)->transport); }

static const struct http_wire http1_wire = {wire_begin, wire_write, wire_end, wire_pull, wire_peer, wire_loopback, wire_secure, HTTP_1_1};

/* ---- Input -------------------------------------------------------------------------------------------------------------- */

/* An answer of our own to what no handler has seen. */
static void answer_refusal(struct http1 *c, int status, const char *reason) {
    struct http_head none = {.minor = 1};
    struct http_exchange *x = http_exchange_new(c->server->loop, &http1_wire, c, &none);
    c->no_more = true;
    if (!x) {
        http1_close(c);
        return;
    }
    append_exchange(c, x);
    x->closing = true;
    http_exchange_refuse(x, status, reason);
}

/* The body that is being read has failed: its handler answers, nothing behind it is read. */
static void fail_current(struct http1 *c, int r) {
    struct http_exchange *x = c->current;
    c->current = NULL;
    close_behind(c, x);
    http_exchange_ref(x);
    http_exchange_body_end(x, r);
    http_exchange_unref(x);
}

/* The next turn. */
static void go_on(void *arg) {
    struct http1 *c = arg;
    enter(c);
    c->posted = c->resting = false;
    c->in_turn = 0;
    leave(c);
}

static void request_came(struct http1 *c) {
    struct http_head head;
    if (++c->in_turn >= TURN_MAX && !c->posted) c->posted = c->resting = loop_post(c->server->loop, go_on, c) == 0; /* without memory for it: on at once */
    http_parser_take_head(&c->parser, &head);
    c->waiting_for = 0; /* the next head has its own time */
    c->final = !head.keep_alive;
    bool has_body = head.has_body;
    struct http_exchange *x = http_exchange_new(c->server->loop, &http1_wire, c, &head);
    if (!x) {
        http_head_fini(&head);
        answer_refusal(c, 503, "The server is out of memory.");
        return;
    }
    append_exchange(c, x);
    c->body_progress = 0;
    c->body_waited_ms = 0;
    if (has_body) c->current = x;
    else http_exchange_body_end(x, 0);
    c->server->on_request(c->server->arg, x);
}

/* Whether the parser must not be asked on. */
static bool blocked(const struct http1 *c) {
    if (!c->current && !c->discarding && c->resting) return true;
    return c->current ? !http_exchange_wants_body(c->current) : !c->discarding && c->exchange_count >= c->server->limits.pipeline_max;
}

static void take_input(struct http1 *c, struct span *rest) {
    c->stalled = false;
    c->taking = rest;
    while (!c->dead && !c->no_more) {
        if (blocked(c)) {
            c->stalled = true;
            break;
        }
        struct span piece;
        struct http_exchange *x = c->current;
        switch (http_parser_next(&c->parser, rest, &piece)) {
        case HTTP_NEED: goto out;
        case HTTP_HEAD: request_came(c); break;
        case HTTP_BODY:
            if (!x) break;
            http_exchange_ref(x);
            http_exchange_body(x, piece);
            http_exchange_unref(x);
            break;
        case HTTP_END:
            c->current = NULL;
            c->discarding = false;
            if (c->final) c->no_more = true;
            if (!x) break;
            http_exchange_ref(x);
            http_exchange_body_end(x, 0);
            http_exchange_unref(x);
            break;
        case HTTP_REFUSED:
            if (x) fail_current(c, http_parser_status(&c->parser) == 503 ? E_NOMEM : E_INVALID);
            else if (c->discarding) c->no_more = true; /* answered already */
            else answer_refusal(c, http_parser_status(&c->parser), http_parser_reason(&c->parser));
            break;
        }
    }
out:
    c->taking = NULL;
    if (c->dead || c->no_more) *rest = span_skip(*rest, rest->len); /* what follows the last request is nobody's */
}

static void on_read(void *arg, struct span data) {
    struct http1 *c = arg;
    enter(c);
    if (c->waiting_for == WAITING_BODY && (c->body_progress += data.len) >= c->server->limits.progress_min) {
        c->waiting_since_ms = loop_now_ms(c->server->loop);
        c->body_progress = 0;
    }
    if (!c->in.len) take_input(c, &data);
    if (!c->dead && buf_append_span(&c->in, data)) http1_close(c);
    leave(c);
}

static void on_end(void *arg, int r) {
    struct http1 *c = arg;
    if (r) {
        http1_close(c);
        return;
    }
    enter(c);
    c->ended = true;
    /* Whether it has gone or only said all that it had to say cannot be told apart: handlers may stop, answers still are written. */
    for (struct http_exchange *x = c->first, *next; x; x = next) {
        http_exchange_ref(x);
        http_exchange_gone(x);
        next = c->dead ? NULL : x->next;
        http_exchange_unref(x);
    }
    leave(c);
}

static void on_drain(void *arg) {
    enter(arg);
    leave(arg);
}

/* ---- Settling ----------------------------------------------------------------------------------------------------------- */

/* Moves the first exchange's bytes to the stream; true while there may be more to do. */
static bool write_first(struct http1 *c) {
    struct http_exchange *x = c->first;
    if (c->broken) return false;
    while (x->out.len) {
        struct span piece = span_sub(buf_span(&x->out), 0, PIECE_MAX);
        int r = transport_write(c->transport, piece);
        if (r == E_FULL) break;
        if (r) { /* the stream's on_end follows and closes; not from here, where a handler may be in the middle of its own call */
            c->broken = true;
            return false;
        }
        buf_consume(&x->out, piece.len);
    }
    if (x->wants_drain && !x->ended && x->out.len <= c->server->limits.write_buffer_max / 4) {
        http_exchange_ref(x);
        http_exchange_drained(x);
        http_exchange_unref(x);
        return true;
    }
    if (x->out.len || !x->ended) return false;
    if (x->aborted) { /* the client must not take what it has for the whole */
        http1_close(c);
        return false;
    }
    bool closing = x->closing;
    remove_exchange(c, x);
    http_exchange_unref(x);
    if (closing) c->no_more = true;
    return true;
}

static enum waiting what_is_awaited(const struct http1 *c) {
    if (c->current ? !c->stalled : c->discarding) return WAITING_BODY;
    if (c->current || c->stalled) return WAITING_HANDLER;
    if (!http_parser_between(&c->parser) && !c->no_more) return WAITING_HEAD;
    return c->first ? WAITING_HANDLER : WAITING_IDLE;
}

static void settle(struct http1 *c) {
    for (;;) {
        while (!c->dead && c->first && write_first(c)) {}
        if (c->dead) return;
        if (!c->stalled || blocked(c) || c->no_more) break;
        struct span rest = buf_span(&c->in);
        size_t before = rest.len;
        take_input(c, &rest);
        if (c->dead) return;
        buf_consume(&c->in, before - rest.len);
    }
    if (c->ended && c->current && !c->stalled) { /* half a body, and no more of it comes */
        struct http_exchange *x = c->current;
        c->current = NULL;
        c->no_more = true;
        remove_exchange(c, x);
        http_exchange_detach(x);
        if (c->dead) return;
    }
    if (c->no_more) buf_clear(&c->in);
    if (!c->first && (c->no_more || c->ended)) {
        finish(c);
        return;
    }
    /* A last request's client is watched too: reading on is how its going is noticed. */
    bool read = c->in.len < IN_HIGH && !c->ended;
    if (read) transport_read_start(c->transport);
    else transport_read_stop(c->transport);
    enum waiting w = what_is_awaited(c);
    if ((int)w != c->waiting_for) {
        int64_t now_ms = loop_now_ms(c->server->loop);
        if (c->waiting_for == WAITING_BODY) c->body_waited_ms = now_ms - c->waiting_since_ms;
        c->waiting_for = (int)w;
        c->waiting_since_ms = w == WAITING_BODY ? now_ms - c->body_waited_ms : now_ms; /* a handler that pauses at every piece gives a client that drips no more time */
    }
}

/* ---- Life --------------------------------------------------------------------------------------------------------------- */

static const struct stream_events events = {on_read, on_end, on_drain};

static void check_time(struct http1 *c);
static void kind_drain(struct http_connection *c) {
    enter((struct http1 *)c);
    leave((struct http1 *)c);
}
static void kind_close(struct http_connection *c) { http1_close((struct http1 *)c); }
static void kind_check_time(struct http_connection *c) { check_time((struct http1 *)c); }
static const struct http_connection_kind kind = {kind_drain, kind_close, kind_check_time};

struct http_connection *http1_new(struct http_server *s, struct transport *transport) {
    struct http1 *c = mem_zalloc(sizeof *c);
    if (!c) return NULL;
    c->connection.kind = &kind;
    c->connection.server = c->server = s;
    s->refs++;
    c->transport = transport;
    c->last = &c->first;
    c->progress_ms = loop_now_ms(s->loop); /* a first look that finds something unsent must not take it for standing since ever */
    buf_init(&c->in, IN_CAP);
    http_parser_init(&c->parser, &s->limits.parser);
    transport_init(transport, STREAM_CAP, c, &events);
    return &c->connection;
}

void http1_start(struct http_connection *c, struct span first) { on_read(c, first); }

static void check_time(struct http1 *c) {
    const struct http_limits *m = &c->server->limits;
    int64_t now_ms = loop_now_ms(c->server->loop), waited_ms = now_ms - c->waiting_since_ms;
    enter(c);
    uint64_t taken = transport_taken(c->transport);
    bool unsent = transport_write_queued(c->transport) || (c->first && c->first->out.len);
    if (!unsent || taken - c->taken >= m->progress_min) {
        c->taken = taken;
        c->progress_ms = now_ms;
    }
    if (c->broken || (unsent && now_ms - c->progress_ms >= m->write_timeout_ms)) {
        http1_close(c);
    } else if (c->waiting_for == WAITING_HEAD && waited_ms >= m->head_timeout_ms) {
        answer_refusal(c, 408, "The request's head did not arrive in time.");
    } else if (c->waiting_for == WAITING_BODY && waited_ms >= m->body_timeout_ms && !(c->current && c->current->body_patient)) {
        if (c->current) fail_current(c, E_DEADLINE);
        c->no_more = true;
        c->discarding = false;
    } else if (c->waiting_for == WAITING_IDLE && waited_ms >= (c->server->draining ? m->drain_idle_ms : m->idle_timeout_ms)) {
        c->no_more = true;
    }
    leave(c);
}
