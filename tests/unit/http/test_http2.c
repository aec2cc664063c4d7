/* HTTP/2 over sockets: the server on the test's thread, nghttp2's own client in another one. */
#include "test.h"

#include <arpa/inet.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/loop.h"
#include "http/server.h"

enum { PATIENCE_MS = 60000 };

static struct loop *loop;
static struct http_server *server;
static int port;
static atomic_int open_exchanges, closed_told, body_errors, last_body_error, drains_told, paused_bytes, begun;

/* ---- Handlers --------------------------------------------------------------------------------------------------------------- */

struct task {
    struct http_exchange *x;
    struct loop_timer *timer;
    size_t sent, total, got;
};

static struct task *task_new(struct http_exchange *x) {
    struct task *t = calloc(1, sizeof *t); /* not of the seam: the sweep is about the server's memory */
    t->x = x;
    open_exchanges++;
    return t;
}

static void task_free(struct task *t) {
    loop_timer_close(t->timer);
    free(t);
    open_exchanges--;
}

static void echo(void *arg, struct span body, int r) {
    struct task *t = arg;
    if (r) {
        body_errors++;
        last_body_error = r;
        struct error err;
        error_set(&err, r, "body: %d", r);
        http_respond_error(t->x, &err);
    } else {
        http_respond(t->x, 200, "text/plain", body);
    }
    task_free(t);
}

static void closed(void *arg) {
    struct task *t = arg;
    closed_told++;
    http_respond(t->x, 200, NULL, SPAN("never mind"));
    task_free(t);
}

static void closed_stream(void *arg) {
    struct task *t = arg;
    closed_told++;
    http_stream_end(t->x);
    task_free(t);
}

static void pump(void *arg) {
    struct task *t = arg;
    char piece[10000];
    while (t->sent < t->total) {
        for (size_t i = 0; i < sizeof piece; i++) piece[i] = (char)('a' + (t->sent + i) % 23);
        int r = http_stream_write(t->x, span_of(piece, sizeof piece));
        if (r == E_FULL) return;
        if (r) break;
        t->sent += sizeof piece;
    }
    if (t->sent < t->total) return;
    http_trailer_add(t->x, "x-sum", SPAN("whole"));
    http_stream_end(t->x);
    task_free(t);
}

static void drained(void *arg) {
    drains_told++;
    pump(arg);
}

/* A call of gRPC's shape: each piece goes back as it comes, the status in the trailers. */
static void call_chunk(void *arg, struct span piece, bool last, int r) {
    struct task *t = arg;
    if (piece.len) http_stream_write(t->x, piece);
    if (!last && !r) return;
    if (r) {
        body_errors++;
        last_body_error = r;
    }
    if (http_trailer_add(t->x, "Grpc-Status", r ? SPAN("1") : SPAN("0"))) http_abort(t->x); /* without memory: a call without its status must not look whole */
    else http_stream_end(t->x);
    task_free(t);
}

static void resume(void *arg) { http_body_resume(((struct task *)arg)->x); }

static void slowly(void *arg, struct span piece, bool last, int r) {
    struct task *t = arg;
    if (r || last) {
        char text[32];
        int n = snprintf(text, sizeof text, "%zu", t->got);
        http_respond(t->x, r ? 400 : 200, NULL, span_of(text, (size_t)n));
        task_free(t);
        return;
    }
    t->got += piece.len;
    http_body_pause(t->x);
    loop_timer_start(t->timer, 1, 0);
}

static void pausing(void *arg, struct span piece, bool last, int r) {
    struct task *t = arg;
    (void)last;
    if (r) return; /* on_close follows */
    paused_bytes += (int)piece.len;
    http_body_pause(t->x);
}

static void pausing_closed(void *arg) {
    struct task *t = arg;
    http_abort(t->x);
    task_free(t);
}

static void on_request(void *arg, struct http_exchange *x) {
    (void)arg;
    struct span path = http_path(x);
    begun++;
    assert_int_equal(http_protocol(x), HTTP_2);
    assert_true(http_peer_loopback(x) && http_peer(x)[0]);
    if (span_eq(path, SPAN("/now"))) {
        http_respond(x, 200, "text/plain", SPAN("now"));
    } else if (span_eq(path, SPAN("/fields"))) {
        http_header_add(x, "X-Query", http_query(x));
        http_header_add(x, "x-authority", http_authority(x));
        http_header_add(x, "x-got", http_header(x, "x-sent"));
        http_respond(x, 204, NULL, SPAN(""));
    } else if (span_eq(path, SPAN("/echo"))) {
        http_body_collect(x, 1 << 20, task_new(x), echo);
    } else if (span_eq(path, SPAN("/big"))) {
        struct task *t = task_new(x);
        t->total = 5 << 20;
        http_on_close(x, t, closed_stream);
        http_on_drain(x, t, drained);
        http_stream_begin(x, 200, "text/plain");
        pump(t);
    } else if (span_eq(path, SPAN("/call"))) {
        struct task *t = task_new(x);
        http_body_patient(x);
        http_stream_begin(x, 200, "application/grpc");
        http_body_read(x, t, call_chunk);
    } else if (span_eq(path, SPAN("/trailers-only"))) {
        http_header_add(x, "grpc-status", SPAN("12"));
        http_respond(x, 200, "application/grpc", SPAN(""));
    } else if (span_eq(path, SPAN("/slowly"))) {
        struct task *t = task_new(x);
        t->timer = loop_timer_new(loop, t, resume);
        if (!t->timer) {
            http_abort(x);
            task_free(t);
            return;
        }
        http_body_read(x, t, slowly);
    } else if (span_eq(path, SPAN("/paused"))) {
        struct task *t = task_new(x);
        http_on_close(x, t, pausing_closed);
        http_body_read(x, t, pausing);
    } else if (span_eq(path, SPAN("/hold"))) {
        http_on_close(x, task_new(x), closed);
    } else if (span_eq(path, SPAN("/broken"))) {
        http_stream_begin(x, 200, NULL);
        http_stream_write(x, SPAN("half"));
        http_abort(x);
    } else if (span_eq(path, SPAN("/reset"))) {
        http_reset(x, HTTP_RESET_CALM);
    } else if (span_eq(path, SPAN("/fail"))) {
        http_abort(x);
    } else {
        struct error err;
        error_set_param(&err, E_NOT_FOUND, "path", "No such path.");
        http_respond_error(x, &err);
    }
}

/* ---- A client --------------------------------------------------------------------------------------------------------------- */

enum { ANSWERS_MAX = 256 };
struct answer {
    int32_t id;
    int status;
    struct buf fields, body, trailers; /* name=value; … */
    bool in_trailers, closed;
    uint32_t error;
    struct span upload;
    bool upload_held; /* not ended: more may come */
};

struct client {
    int fd;
    nghttp2_session *session;
    struct answer answers[ANSWERS_MAX];
    size_t count;
    bool ended;            /* the server has closed */
    int goaways;
    uint32_t goaway_error;
    int32_t goaway_last;
    int pings;
};

static struct answer *answer_of(struct client *k, int32_t id) {
    for (size_t i = 0; i < k->count; i++)
        if (k->answers[i].id == id) return &k->answers[i];
    return NULL;
}

static int got_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *arg) {
    (void)session;
    (void)flags;
    struct answer *a = answer_of(arg, frame->hd.stream_id);
    if (!a) return 0;
    struct span n = span_of(name, name_len), v = span_of(value, value_len);
    if (span_eq(n, SPAN(":status"))) {
        uint64_t status = 0;
        span_to_u64(v, &status);
        a->status = (int)status;
    } else if (!span_eq(n, SPAN("date"))) {
        buf_printf(frame->headers.cat == NGHTTP2_HCAT_HEADERS && a->status >= 200 && a->in_trailers ? &a->trailers : &a->fields, "%.*s=%.*s;", SPAN_ARG(n), SPAN_ARG(v));
    }
    return 0;
}

static int got_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg) {
    struct client *k = arg;
    (void)session;
    struct answer *a = answer_of(k, frame->hd.stream_id);
    if (frame->hd.type == NGHTTP2_HEADERS && a && a->status >= 200) a->in_trailers = true;
    if (frame->hd.type == NGHTTP2_PING) k->pings++;
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        k->goaways++;
        k->goaway_error = frame->goaway.error_code;
        k->goaway_last = frame->goaway.last_stream_id;
    }
    return 0;
}

static int got_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *arg) {
    (void)session;
    (void)flags;
    struct answer *a = answer_of(arg, id);
    if (a) buf_append(&a->body, data, len);
    return 0;
}

static int stream_closed(nghttp2_session *session, int32_t id, uint32_t error, void *arg) {
    (void)session;
    struct answer *a = answer_of(arg, id);
    if (a) {
        a->closed = true;
        a->error = error;
    }
    return 0;
}

static int connect_to(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 64 << 10;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) abort();
    return fd;
}

static void client_open(struct client *k, bool auto_window, uint32_t window) {
    memset(k, 0, sizeof *k);
    k->fd = connect_to();
    nghttp2_session_callbacks *b;
    nghttp2_option *o;
    nghttp2_session_callbacks_new(&b);
    nghttp2_option_new(&o);
    nghttp2_session_callbacks_set_on_header_callback(b, got_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(b, got_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(b, got_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(b, stream_closed);
    nghttp2_option_set_no_auto_window_update(o, !auto_window);
    nghttp2_option_set_no_http_messaging(o, 1); /* it may send what no client may */
    nghttp2_session_client_new2(&k->session, b, k, o);
    nghttp2_session_callbacks_del(b);
    nghttp2_option_del(o);
    nghttp2_settings_entry settings = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window};
    nghttp2_submit_settings(k->session, 0, &settings, window ? 1 : 0);
}

static void client_close(struct client *k) {
    if (k->fd >= 0) close(k->fd);
    nghttp2_session_del(k->session);
    for (size_t i = 0; i < k->count; i++) {
        buf_fini(&k->answers[i].fields);
        buf_fini(&k->answers[i].body);
        buf_fini(&k->answers[i].trailers);
    }
}

static ssize_t read_upload(nghttp2_session *session, int32_t id, uint8_t *room, size_t size, uint32_t *flags, nghttp2_data_source *source, void *arg) {
    (void)session;
    (void)id;
    (void)arg;
    struct answer *a = source->ptr;
    size_t n = a->upload.len < size ? a->upload.len : size;
    memcpy(room, a->upload.data, n);
    a->upload = span_skip(a->upload, n);
    if (!a->upload.len && !a->upload_held) *flags |= NGHTTP2_DATA_FLAG_EOF;
    else if (!n) return NGHTTP2_ERR_DEFERRED;
    return (ssize_t)n;
}

/* fields: "name: value\n…" beside the pseudo-fields; body NULL: none. */
static struct answer *ask(struct client *k, const char *method, const char *path, const char *fields, const struct span *body, bool held) {
    nghttp2_nv list[400];
    size_t n = 0;
    struct span rest = span_str(fields ? fields : ""), line;
#define NV(name_, value_) list[n++] = (nghttp2_nv){(uint8_t *)(uintptr_t)(name_).data, (uint8_t *)(uintptr_t)(value_).data, (name_).len, (value_).len, 0}
    NV(SPAN(":method"), span_str(method));
    NV(SPAN(":scheme"), SPAN("http"));
    NV(SPAN(":path"), span_str(path));
    if (!fields || !strstr(fields, "host: ")) NV(SPAN(":authority"), SPAN("a.example"));
    while (span_cut(&rest, '\n', &line)) {
        ptrdiff_t colon = span_find(line, SPAN(": "));
        NV(span_sub(line, 0, (size_t)colon), span_skip(line, (size_t)colon + 2));
    }
    struct answer *a = &k->answers[k->count++];
    *a = (struct answer){.upload = body ? *body : SPAN(""), .upload_held = held};
    buf_init(&a->fields, 1 << 20);
    buf_init(&a->body, 64 << 20);
    buf_init(&a->trailers, 1 << 20);
    nghttp2_data_provider provider = {.source = {.ptr = a}, .read_callback = read_upload};
    a->id = nghttp2_submit_request(k->session, NULL, list, n, body || held ? &provider : NULL, NULL);
    if (a->id < 0) abort();
    return a;
}

/* Sends what is to be sent and reads once, within wait_ms. false: nothing came. */
static bool step(struct client *k, int wait_ms) {
    const uint8_t *data;
    for (ssize_t n; !k->ended && (n = nghttp2_session_mem_send(k->session, &data)) > 0;) {
        struct span rest = span_of(data, (size_t)n);
        while (rest.len) {
            ssize_t sent = send(k->fd, rest.data, rest.len, MSG_NOSIGNAL);
            if (sent < 0) {
                k->ended = true;
                return false;
            }
            rest = span_skip(rest, (size_t)sent);
        }
    }
    struct pollfd p = {k->fd, POLLIN, 0};
    if (k->ended || poll(&p, 1, wait_ms) <= 0) return false;
    uint8_t room[65536];
    ssize_t n = recv(k->fd, room, sizeof room, 0);
    if (n <= 0) {
        k->ended = true;
        return false;
    }
    if (nghttp2_session_mem_recv(k->session, room, (size_t)n) < 0) k->ended = true;
    return true;
}

static int64_t wall_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Until a condition, or patience is at its end. */
#define UNTIL(k, condition)                                                                    \
    do {                                                                                       \
        int64_t until_ = wall_ms() + PATIENCE_MS;                                              \
        while (!(condition) && !(k)->ended && wall_ms() < until_) step(k, 20);                 \
    } while (0)
static void wait_answer(struct client *k, struct answer *a) { UNTIL(k, a->closed); }

/* ---- Running ---------------------------------------------------------------------------------------------------------------- */

static void start(const struct http_limits *limits) {
    struct error err = {0};
    struct http_options options = {.limits = limits ? *limits : (struct http_limits){.pipeline_max = 0}};
    loop = loop_new(&err);
    server = http_server_open(loop, "127.0.0.1:0", &options, NULL, on_request, &err);
    CHECK(server != NULL, "%s", err.message);
    port = http_server_port(server);
    open_exchanges = closed_told = body_errors = last_body_error = drains_told = paused_bytes = begun = 0;
}

static void finish(void) {
    http_server_close(server);
    loop_free(loop);
    assert_int_equal(open_exchanges, 0);
}

static void *(*script)(void *);
static void *run_script(void *arg) {
    void *r = script(arg);
    loop_stop(loop);
    return r;
}
static void run(void *(*fn)(void *), void *arg) {
    pthread_t id;
    script = fn;
    pthread_create(&id, NULL, run_script, arg);
    loop_run(loop);
    pthread_join(id, NULL);
}

/* ---- One request ------------------------------------------------------------------------------------------------------------ */

#define ERROR(message, param) "{\"error\":{\"message\":\"" message "\",\"type\":\"invalid_request_error\",\"param\":" param ",\"code\":null}}"
static const struct one {
    const char *name, *method, *path, *fields, *upload;
    int status;
    const char *got, *body, *trailers;
    uint32_t error; /* of the stream's end */
} ones[] = {
    {"get", "GET", "/now", NULL, NULL, 200, "content-type=text/plain;content-length=3;", "now", "", 0},
    {"head", "HEAD", "/now", NULL, NULL, 200, "content-type=text/plain;content-length=3;", "", "", 0},
    {"fields", "GET", "/fields?a=b", "x-sent: yes\n", NULL, 204, "x-query=a=b;x-authority=a.example;x-got=yes;", "", "", 0},
    {"host alone", "GET", "/fields?", "host: b.example\n", NULL, 204, "x-query=;x-authority=b.example;x-got=;", "", "", 0},
    {"echo", "POST", "/echo", "content-length: 5\n", "hello", 200, "content-type=text/plain;content-length=5;", "hello", "", 0},
    {"echo of unknown length", "POST", "/echo", NULL, "hello", 200, "content-type=text/plain;content-length=5;", "hello", "", 0},
    {"continue", "POST", "/echo", "expect: 100-continue\n", "hello", 200, "content-type=text/plain;content-length=5;", "hello", "", 0},
    {"call", "POST", "/call", "te: trailers\n", "message", 200, "content-type=application/grpc;", "message", "grpc-status=0;", 0},
    {"trailers only", "POST", "/trailers-only", "te: trailers\n", "message", 200, "grpc-status=12;content-type=application/grpc;", "", "", 0},
    {"slowly", "POST", "/slowly", NULL, "message", 200, "content-length=1;", "7", "", 0},
    {"not found", "GET", "/none", NULL, NULL, 404, "content-type=application/json;content-length=95;", ERROR("No such path.", "\"path\""), "", 0},
    {"not found with a body", "POST", "/none", "content-length: 5\n", "hello", 404, "content-type=application/json;content-length=95;", ERROR("No such path.", "\"path\""), "", 0},
    {"half an answer", "GET", "/broken", NULL, NULL, 0, "", NULL, "", NGHTTP2_INTERNAL_ERROR},
    {"reset", "GET", "/reset", NULL, NULL, 0, "", "", "", NGHTTP2_ENHANCE_YOUR_CALM},
    {"given up", "GET", "/fail", NULL, NULL, 500, "content-type=application/json;content-length=112;", NULL, "", 0},
    {"method", "BREW", "/now", NULL, NULL, 501, NULL, NULL, "", 0},
    {"dots", "GET", "/a/../now", NULL, NULL, 400, NULL, ERROR("The request target contains dot segments.", "null"), "", 0},
    {"broken escape", "GET", "/%zz", NULL, NULL, 400, NULL, ERROR("The request target has a broken percent-encoding.", "null"), "", 0},
    {"authority", "GET", "/now", "host: u@a\n", NULL, 400, NULL, ERROR("The request's authority is not valid.", "null"), "", 0},
    {"expectation", "POST", "/echo", "expect: 200-maybe\n", "x", 417, NULL, NULL, "", 0},
    {"connection", "GET", "/now", "connection: close\n", NULL, 0, "", "", "", NGHTTP2_PROTOCOL_ERROR},
    {"length that lies", "POST", "/echo", "content-length: 4\n", "hello", 0, "", "", "", NGHTTP2_PROTOCOL_ERROR},
};

static void *ask_each(void *arg) {
    struct client *k = arg;
    client_open(k, true, 0);
    for (size_t i = 0; i < COUNT(ones); i++) {
        struct span upload = span_str(ones[i].upload);
        wait_answer(k, ask(k, ones[i].method, ones[i].path, ones[i].fields, ones[i].upload ? &upload : NULL, false));
    }
    return NULL;
}

static void each_request(void **state) {
    (void)state;
    static struct client k;
    start(NULL);
    run(ask_each, &k);
    finish();
    for (size_t i = 0; i < COUNT(ones); i++) {
        const struct one *o = &ones[i];
        struct answer *a = &k.answers[i];
        CHECK(a->closed && a->status == o->status && a->error == o->error, "%s: status %d, error %u, closed %d", o->name, a->status, a->error, a->closed);
        if (o->got) CHECK(span_eq_str(buf_span(&a->fields), o->got), "%s: fields %s", o->name, buf_cstr(&a->fields));
        if (o->body) CHECK(span_eq_str(buf_span(&a->body), o->body), "%s: body %s", o->name, buf_cstr(&a->body));
        CHECK(span_eq_str(buf_span(&a->trailers), o->trailers), "%s: trailers %s", o->name, buf_cstr(&a->trailers));
    }
    client_close(&k);
}

/* ---- Bodies and answers that are held back ----------------------------------------------------------------------------------- */

struct facts {
    bool ok[12];
    size_t sizes[8];
    struct client *k;
};
static char *much; /* 4 MiB */

static void *window_holds(void *arg) {
    struct facts *f = arg;
    struct client *k = f->k;
    struct span all = span_of(much, 4 << 20);
    client_open(k, true, 0);
    struct answer *paused = ask(k, "POST", "/paused", NULL, &all, false);
    UNTIL(k, paused_bytes > 0 && nghttp2_session_get_stream_remote_window_size(k->session, paused->id) == 0);
    f->sizes[0] = (4 << 20) - paused->upload.len; /* what the client could send */
    struct answer *other = ask(k, "POST", "/echo", NULL, &(struct span){"beside it", 9}, false);
    wait_answer(k, other);
    f->ok[0] = other->status == 200;
    nghttp2_submit_rst_stream(k->session, 0, paused->id, NGHTTP2_CANCEL);
    UNTIL(k, open_exchanges == 0);
    /* What the reset stream held of the connection's window is given back: three more of the same kind find room. */
    for (int i = 0; i < 6; i++) {
        struct answer *a = ask(k, "POST", "/paused", NULL, &all, false);
        int told = paused_bytes;
        UNTIL(k, paused_bytes > told && nghttp2_session_get_stream_remote_window_size(k->session, a->id) == 0);
        f->ok[1] = nghttp2_session_get_stream_remote_window_size(k->session, a->id) == 0;
        nghttp2_submit_rst_stream(k->session, 0, a->id, NGHTTP2_CANCEL);
        UNTIL(k, open_exchanges == 0);
    }
    struct answer *slow = ask(k, "POST", "/slowly", NULL, &all, false);
    wait_answer(k, slow);
    f->ok[2] = slow->status == 200 && span_eq(buf_span(&slow->body), SPAN("4194304"));
    return NULL;
}

static void paused_bodies(void **state) {
    (void)state;
    static struct client k;
    struct facts f = {.k = &k};
    start(NULL);
    run(window_holds, &f);
    finish();
    CHECK(f.sizes[0] <= (256 << 10) + 16384 && f.sizes[0] >= 256 << 10, "the client could send %zu bytes", f.sizes[0]);
    assert_true(f.ok[0]);
    assert_true(f.ok[1]);
    CHECK(f.ok[2], "%s", buf_cstr(&k.answers[k.count - 1].body));
    client_close(&k);
}

static void *several_at_once(void *arg) {
    struct facts *f = arg;
    struct client *k = f->k;
    client_open(k, true, 0);
    struct answer *big[3];
    for (int i = 0; i < 3; i++) big[i] = ask(k, "GET", "/big", NULL, NULL, false);
    UNTIL(k, big[0]->closed || big[1]->closed || big[2]->closed);
    for (int i = 0; i < 3; i++) f->sizes[i] = big[i]->body.len;
    struct answer *small = ask(k, "GET", "/now", NULL, NULL, false);
    wait_answer(k, small);
    for (int i = 0; i < 3; i++) wait_answer(k, big[i]);
    return NULL;
}

static void streams_share(void **state) {
    (void)state;
    static struct client k;
    struct facts f = {.k = &k};
    start(NULL);
    run(several_at_once, &f);
    finish();
    for (int i = 0; i < 3; i++) {
        struct answer *a = &k.answers[i];
        size_t size = 5 << 20;
        size = (size + 9999) / 10000 * 10000;
        CHECK(f.sizes[i] > size / 2, "stream %d had %zu bytes when the first was complete", i, f.sizes[i]);
        CHECK(a->body.len == size && a->error == 0 && span_eq(buf_span(&a->trailers), SPAN("x-sum=whole;")), "stream %d: %zu bytes", i, a->body.len);
        struct span body = buf_span(&a->body);
        for (size_t at = 0; at < body.len; at++)
            if (body.data[at] != (char)('a' + at % 23)) fail_msg("stream %d differs at %zu", i, at);
    }
    assert_true(drains_told > 0);
    client_close(&k);
}

/* ---- Clients that go --------------------------------------------------------------------------------------------------------- */

static void *go(void *arg) {
    struct facts *f = arg;
    struct client *k = f->k;
    client_open(k, true, 0);
    struct answer *hold = ask(k, "GET", "/hold", NULL, NULL, false), *big = ask(k, "GET", "/big", NULL, NULL, false), *call = ask(k, "POST", "/call", NULL, NULL, true);
    UNTIL(k, begun == 3 && big->body.len > 0);
    nghttp2_submit_rst_stream(k->session, 0, hold->id, NGHTTP2_CANCEL);
    nghttp2_submit_rst_stream(k->session, 0, call->id, NGHTTP2_CANCEL);
    UNTIL(k, closed_told == 1 && body_errors == 1);
    f->ok[0] = closed_told == 1 && body_errors == 1 && last_body_error == E_CANCELLED && open_exchanges == 1;
    close(k->fd); /* and now all of it */
    k->fd = -1;
    for (int i = 0; i < PATIENCE_MS && open_exchanges; i++) usleep(1000);
    f->ok[1] = closed_told == 2;
    return NULL;
}

static void clients_go(void **state) {
    (void)state;
    static struct client k;
    struct facts f = {.k = &k};
    start(NULL);
    run(go, &f);
    finish();
    assert_true(f.ok[0]);
    assert_true(f.ok[1]);
    client_close(&k);
}

/* ---- Raw frames -------------------------------------------------------------------------------------------------------------- */

static void frame(struct buf *out, size_t len, int type, int flags, int32_t id) {
    const unsigned char h[9] = {(unsigned char)(len >> 16), (unsigned char)(len >> 8), (unsigned char)len, (unsigned char)type, (unsigned char)flags, (unsigned char)(id >> 24), (unsigned char)(id >> 16), (unsigned char)(id >> 8), (unsigned char)id};
    buf_append(out, h, 9);
}
static void preface(struct buf *out) {
    buf_append_str(out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    frame(out, 0, NGHTTP2_SETTINGS, 0, 0);
}
#define NOW "\x82\x86\x44\x04/now\x41\x01" "a"   /* GET http /now a */
#define HOLD "\x82\x86\x44\x05/hold\x41\x01" "a"
static void headers(struct buf *out, int32_t id, const char *block, int flags) {
    frame(out, strlen(block), NGHTTP2_HEADERS, flags, id);
    buf_append_str(out, block);
}

/* What the server said on a raw connection until its end or a silence: the frames of each type, the last GOAWAY's code. */
struct said {
    int frames[16], resets_refused, waits_ms;
    uint32_t goaway;
    bool ended;
};

static void listen_to(int fd, struct said *said, int silence_ms) {
    struct buf in;
    buf_init(&in, 256 << 20);
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, silence_ms) <= 0) break;
        char *room = buf_reserve(&in, 65536);
        ssize_t n = recv(fd, room, 65536, 0);
        if (n <= 0) {
            said->ended = true;
            break;
        }
        buf_commit(&in, (size_t)n);
    }
    struct span rest = buf_span(&in);
    while (rest.len >= 9) {
        const unsigned char *h = (const unsigned char *)rest.data;
        size_t len = (size_t)h[0] << 16 | (size_t)h[1] << 8 | h[2];
        if (h[3] < 16) said->frames[h[3]]++;
        if (h[3] == NGHTTP2_GOAWAY && rest.len >= 17) said->goaway = (uint32_t)h[13] << 24 | (uint32_t)h[14] << 16 | (uint32_t)h[15] << 8 | h[16];
        if (h[3] == NGHTTP2_RST_STREAM && rest.len >= 13 && h[12] == NGHTTP2_REFUSED_STREAM) said->resets_refused++;
        rest = span_skip(rest, 9 + len);
    }
    buf_fini(&in);
}

static void send_raw(int fd, struct span s) {
    while (s.len) {
        ssize_t n = send(fd, s.data, s.len, MSG_NOSIGNAL);
        if (n <= 0) return;
        s = span_skip(s, (size_t)n);
    }
}

enum flood { FLOOD_PING, FLOOD_SETTINGS, FLOOD_PRIORITY, FLOOD_WINDOW, FLOOD_UNKNOWN, FLOOD_EMPTY_DATA, FLOOD_RESETS, FLOOD_CONTINUATION, FLOOD_BOMB, FLOOD_ERRORS, FLOOD_DATA_NOBODY_WANTS, FLOODS };
static const char *const flood_names[FLOODS] = {"ping", "settings", "priority", "window update", "unknown", "empty data", "resets", "continuation", "header bomb", "errors", "data on a closed stream"};

static void flood(struct buf *out, enum flood what) {
    if (what == FLOOD_EMPTY_DATA || what == FLOOD_DATA_NOBODY_WANTS) headers(out, 1, HOLD, NGHTTP2_FLAG_END_HEADERS | (what == FLOOD_DATA_NOBODY_WANTS ? NGHTTP2_FLAG_END_STREAM : 0));
    if (what == FLOOD_DATA_NOBODY_WANTS) {
        frame(out, 4, NGHTTP2_RST_STREAM, 0, 1);
        buf_append(out, "\0\0\0\x08", 4);
    }
    if (what == FLOOD_CONTINUATION) headers(out, 1, NOW, NGHTTP2_FLAG_END_STREAM);
    if (what == FLOOD_BOMB) { /* an entry of 4,000 bytes in the table, and then its index, 16,000 times */
        static char block[17000];
        struct buf b;
        buf_init(&b, sizeof block);
        buf_append_str(&b, NOW);
        buf_append(&b, "\x40\x03x-a\x7f\xa1\x1e", 8); /* 4000 */
        for (int i = 0; i < 4000; i++) buf_append_char(&b, 'b');
        while (b.len < 16000) buf_append_char(&b, '\xbe');
        memcpy(block, buf_span(&b).data, b.len);
        frame(out, b.len, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1);
        buf_append(out, block, b.len);
        buf_fini(&b);
        return;
    }
    for (int32_t i = 0; i < 20000; i++) {
        switch (what) {
        case FLOOD_PING: frame(out, 8, NGHTTP2_PING, 0, 0), buf_append_str(out, "12345678"); break;
        case FLOOD_SETTINGS: frame(out, 0, NGHTTP2_SETTINGS, 0, 0); break;
        case FLOOD_PRIORITY: frame(out, 5, NGHTTP2_PRIORITY, 0, 2 * i + 1), buf_append(out, "\0\0\0\0\1", 5); break;
        case FLOOD_WINDOW: frame(out, 4, NGHTTP2_WINDOW_UPDATE, 0, 0), buf_append(out, "\0\0\0\1", 4); break;
        case FLOOD_UNKNOWN: frame(out, 2, 0xee, 0, 0), buf_append_str(out, "hi"); break;
        case FLOOD_EMPTY_DATA: frame(out, 0, NGHTTP2_DATA, 0, 1); break;
        case FLOOD_RESETS: headers(out, 2 * i + 1, HOLD, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM), frame(out, 4, NGHTTP2_RST_STREAM, 0, 2 * i + 1), buf_append(out, "\0\0\0\x08", 4); break;
        case FLOOD_CONTINUATION: frame(out, 0, NGHTTP2_CONTINUATION, 0, 1); break;
        case FLOOD_ERRORS: headers(out, 2 * i + 1, "\x82\x86", NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM); break; /* no path: we have to reset it */
        default: frame(out, 1, NGHTTP2_DATA, 0, 1), buf_append_char(out, 'x'); break;
        }
    }
}

struct flooding {
    enum flood what;
    struct said said;
};

static void *flood_it(void *arg) {
    struct flooding *f = arg;
    struct buf out;
    buf_init(&out, 64 << 20);
    preface(&out);
    flood(&out, f->what);
    int fd = connect_to();
    send_raw(fd, buf_span(&out));
    listen_to(fd, &f->said, PATIENCE_MS);
    close(fd);
    buf_fini(&out);
    return NULL;
}

static void floods(void **state) {
    (void)state;
    for (int i = 0; i < FLOODS; i++) {
        struct flooding f = {.what = (enum flood)i};
        start(NULL);
        run(flood_it, &f);
        CHECK(f.said.ended, "%s: carried on", flood_names[i]);
        CHECK(begun <= 2000, "%s: %d requests were begun", flood_names[i], begun);
        finish();
    }
}

/* The highest id that a stream can have, then one that was skipped. */
static void *highest_stream(void *arg) {
    struct said *said = arg;
    struct buf out;
    buf_init(&out, 1 << 16);
    preface(&out);
    headers(&out, 1, NOW, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
    headers(&out, INT32_MAX, NOW, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
    headers(&out, INT32_MAX - 2, NOW, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
    int fd = connect_to();
    send_raw(fd, buf_span(&out));
    listen_to(fd, said, PATIENCE_MS);
    close(fd);
    buf_fini(&out);
    return NULL;
}

static void stream_ids(void **state) {
    (void)state;
    struct said said = {0};
    start(NULL);
    run(highest_stream, &said);
    finish();
    assert_int_equal(begun, 2);
    assert_true(said.ended);
    assert_int_equal(said.goaway, NGHTTP2_PROTOCOL_ERROR);
}

/* ---- Limits ------------------------------------------------------------------------------------------------------------------ */

static void *eight_streams(void *arg) {
    struct said *said = arg;
    struct buf out;
    buf_init(&out, 1 << 20);
    preface(&out);
    for (int32_t i = 0; i < 8; i++) headers(&out, 2 * i + 1, HOLD, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM);
    int fd = connect_to();
    send_raw(fd, buf_span(&out));
    for (int i = 0; i < PATIENCE_MS && begun < 5; i++) usleep(1000);
    listen_to(fd, said, 300);
    close(fd);
    buf_fini(&out);
    for (int i = 0; i < PATIENCE_MS && open_exchanges; i++) usleep(1000);
    return NULL;
}

static void stream_limit(void **state) {
    (void)state;
    struct http_limits limits = {.streams_max = 5};
    struct said said = {0};
    start(&limits);
    run(eight_streams, &said);
    finish();
    assert_int_equal(begun, 5);
    assert_int_equal(said.resets_refused, 3);
    assert_false(said.ended);
}

static void *large_heads(void *arg) {
    struct facts *f = arg;
    struct client *k = f->k;
    struct buf long_one, many;
    buf_init(&long_one, 1 << 20);
    buf_init(&many, 1 << 20);
    buf_append_str(&long_one, "x-long: ");
    for (int i = 0; i < 3000; i++) buf_append_char(&long_one, 'v');
    for (int i = 0; i < 30; i++) buf_printf(&many, "x-%d: v\n", i);
    client_open(k, true, 0);
    wait_answer(k, ask(k, "GET", "/now", buf_cstr(&long_one), NULL, false));
    wait_answer(k, ask(k, "GET", "/now", buf_cstr(&many), NULL, false));
    wait_answer(k, ask(k, "GET", "/now", NULL, NULL, false));
    buf_fini(&long_one);
    buf_fini(&many);
    return NULL;
}

static void head_limits(void **state) {
    (void)state;
    static struct client k;
    struct facts f = {.k = &k};
    struct http_limits limits = {.parser = {.head_max = 2048, .fields_max = 20}};
    start(&limits);
    run(large_heads, &f);
    finish();
    const int expected[] = {431, 431, 200};
    for (int i = 0; i < 3; i++) CHECK(k.answers[i].status == expected[i], "request %d: %d", i, k.answers[i].status);
    client_close(&k);
}

/* Answers that may not be sent: what we hold for them is bounded. */
static void *take_nothing(void *arg) {
    struct facts *f = arg;
    struct client *k = f->k;
    client_open(k, false, 1);
    for (int i = 0; i < 40; i++) ask(k, "POST", "/echo", NULL, &(struct span){much, 1 << 20}, false);
    int refused = 0;
    UNTIL(k, (refused = 0, ({ for (size_t i = 0; i < k->count; i++) refused += k->answers[i].closed && k->answers[i].error == NGHTTP2_ENHANCE_YOUR_CALM; }), refused > 0) || k->goaways);
    f->sizes[0] = (size_t)refused;
    close(k->fd);
    k->fd = -1;
    for (int i = 0; i < PATIENCE_MS && open_exchanges; i++) usleep(1000);
    return NULL;
}

/* ---- Time -------------------------------------------------------------------------------------------------------------------- */

struct waiting {
    const char *name;
    struct http_limits limits;
    int what;
    int status;            /* of the answer */
    uint32_t error;        /* of the stream or of GOAWAY */
    bool goaway, told;     /* whether the connection ends; whether the handler heard of it */
};
enum { SLOW_PREFACE, SLOW_BLOCK, SLOW_BODY, DRIPPING_BODY, PATIENT_BODY, SHUT_WINDOW, IDLE };
static const struct waiting waitings[] = {
    {"slow preface", {.head_timeout_ms = 150}, SLOW_PREFACE, 0, 0, true, false},
    {"slow header block", {.head_timeout_ms = 150}, SLOW_BLOCK, 0, NGHTTP2_ENHANCE_YOUR_CALM, true, false},
    {"slow body", {.body_timeout_ms = 150}, SLOW_BODY, 504, 0, false, false},
    {"dripping body", {.body_timeout_ms = 150}, DRIPPING_BODY, 504, 0, false, false},
    {"patient body", {.body_timeout_ms = 50}, PATIENT_BODY, 200, 0, false, false},
    {"shut window", {.write_timeout_ms = 150}, SHUT_WINDOW, 200, NGHTTP2_CANCEL, false, true},
    {"idle", {.idle_timeout_ms = 150}, IDLE, 200, NGHTTP2_NO_ERROR, true, false},
};

struct waited {
    const struct waiting *w;
    struct client k;
    bool as_expected;
};

static void *wait_for_it(void *arg) {
    struct waited *d = arg;
    struct client *k = &d->k;
    const struct waiting *w = d->w;
    if (w->what == SLOW_PREFACE || w->what == SLOW_BLOCK) {
        struct buf out;
        struct said said = {0};
        buf_init(&out, 4096);
        preface(&out);
        if (w->what == SLOW_PREFACE) out.len -= 12;
        else headers(&out, 1, NOW, NGHTTP2_FLAG_END_STREAM);
        int fd = connect_to();
        send_raw(fd, buf_span(&out));
        listen_to(fd, &said, PATIENCE_MS);
        close(fd);
        buf_fini(&out);
        d->as_expected = said.ended && (w->what == SLOW_PREFACE || said.goaway == w->error);
        return NULL;
    }
    client_open(k, w->what != SHUT_WINDOW, w->what == SHUT_WINDOW ? 100 : 0);
    struct answer *a;
    switch (w->what) {
    case SLOW_BODY: wait_answer(k, a = ask(k, "POST", "/echo", NULL, NULL, true)); break;
    case DRIPPING_BODY:
        a = ask(k, "POST", "/echo", NULL, NULL, true);
        UNTIL(k, a->closed || (a->upload = SPAN("x"), nghttp2_session_resume_data(k->session, a->id), false));
        break;
    case PATIENT_BODY:
        a = ask(k, "POST", "/call", NULL, NULL, true);
        for (int i = 0; i < 30; i++) step(k, 10); /* several times body_timeout */
        a->upload_held = false;
        nghttp2_session_resume_data(k->session, a->id);
        wait_answer(k, a);
        break;
    case SHUT_WINDOW: wait_answer(k, a = ask(k, "GET", "/big", NULL, NULL, false)); break;
    default:
        wait_answer(k, a = ask(k, "GET", "/now", NULL, NULL, false));
        UNTIL(k, false);
        break;
    }
    d->as_expected = a->status == w->status && a->error == w->error && k->ended == w->goaway && (!w->goaway || (k->goaways && k->goaway_error == w->error)) && (closed_told > 0) == w->told;
    return NULL;
}

static void timeouts(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(waitings); i++) {
        static struct waited d;
        d = (struct waited){.w = &waitings[i]};
        start(&waitings[i].limits);
        run(wait_for_it, &d);
        finish();
        struct answer *a = &d.k.answers[0];
        CHECK(d.as_expected, "%s: status %d, error %u, ended %d, goaways %d (%u), told %d", waitings[i].name, a->status, a->error, d.k.ended, d.k.goaways, d.k.goaway_error, closed_told);
        if (d.k.session) client_close(&d.k);
    }
}

/* ---- Draining ---------------------------------------------------------------------------------------------------------------- */

static atomic_int drain_done;
static void all_drained(void *arg) {
    (void)arg;
    drain_done++;
}
static void begin_drain(void *arg) {
    (void)arg;
    http_server_drain(server, NULL, all_drained);
}

static void *drain_it(void *arg) {
    struct facts *f = arg;
    struct client *k = f->k;
    client_open(k, true, 0);
    struct answer *call = ask(k, "POST", "/call", NULL, NULL, true), *now = ask(k, "GET", "/now", NULL, NULL, false);
    wait_answer(k, now);
    loop_post(loop, begin_drain, NULL);
    UNTIL(k, k->goaways == 1);
    f->ok[0] = k->goaway_last == INT32_MAX && k->goaway_error == 0;
    UNTIL(k, k->goaways == 2); /* the client has answered the PING: nothing was on its way */
    f->ok[1] = k->goaway_last == now->id && !k->ended && !drain_done;
    call->upload = SPAN("still");
    call->upload_held = false;
    nghttp2_session_resume_data(k->session, call->id);
    wait_answer(k, call); /* what was begun is served to its end */
    f->ok[2] = call->status == 200 && span_eq(buf_span(&call->body), SPAN("still")) && span_eq(buf_span(&call->trailers), SPAN("grpc-status=0;"));
    UNTIL(k, false);
    f->ok[3] = k->ended;
    close(k->fd);
    k->fd = -1;
    for (int i = 0; i < PATIENCE_MS && !drain_done; i++) usleep(1000);
    f->ok[4] = drain_done == 1;
    return NULL;
}

static void draining(void **state) {
    (void)state;
    static struct client k;
    struct facts f = {.k = &k};
    drain_done = 0;
    start(NULL);
    run(drain_it, &f);
    finish();
    for (int i = 0; i < 5; i++) CHECK(f.ok[i], "step %d: goaways %d, last %d", i, k.goaways, k.goaway_last);
    client_close(&k);
}

/* ---- Memory ------------------------------------------------------------------------------------------------------------------ */

static void held_answers(void **state) {
    (void)state;
    static struct client k;
    struct facts f = {.k = &k};
    start(NULL);
    run(take_nothing, &f);
    finish();
    CHECK(f.sizes[0] > 0, "all of them were taken: %d begun", begun);
    client_close(&k);
}

static void *a_few(void *arg) {
    static struct client k;
    (void)arg;
    client_open(&k, true, 0);
    struct span body = SPAN("hello");
    ask(&k, "POST", "/slowly", NULL, &body, false);
    ask(&k, "POST", "/call", "te: trailers\n", &body, false);
    ask(&k, "GET", "/fields?a", "x-sent: yes\n", NULL, false);
    for (int64_t until = wall_ms() + 400; wall_ms() < until && !k.ended && !(k.answers[0].closed && k.answers[1].closed && k.answers[2].closed);) step(&k, 5);
    client_close(&k);
    for (int i = 0; i < PATIENCE_MS && open_exchanges; i++) usleep(1000);
    return NULL;
}

static void fail_from(void *arg) { alloc_fail_at(*(uint64_t *)arg); }

/* Whatever allocation fails on the server's side, nghttp2's too, nothing breaks and nothing leaks. */
static void without_memory(void **state) {
    (void)state;
    for (uint64_t at = 1; at < 80; at++) {
        start(NULL);
        loop_post(loop, fail_from, &at);
        script = a_few;
        pthread_t id;
        pthread_create(&id, NULL, run_script, NULL);
        loop_run(loop);
        pthread_join(id, NULL);
        alloc_fail_at(0);
        http_server_close(server);
        loop_free(loop);
        CHECK(open_exchanges == 0, "allocation %d", (int)at);
    }
}

int main(void) {
    much = malloc(4 << 20);
    memset(much, 'm', 4 << 20);
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_request), cmocka_unit_test(paused_bodies), cmocka_unit_test(streams_share), cmocka_unit_test(clients_go),    cmocka_unit_test(floods), cmocka_unit_test(stream_ids), cmocka_unit_test(stream_limit),
                                       cmocka_unit_test(head_limits),  cmocka_unit_test(held_answers),  cmocka_unit_test(timeouts),      cmocka_unit_test(draining), cmocka_unit_test(without_memory)};
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    free(much);
    return r;
}
