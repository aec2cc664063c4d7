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
    assert_int_equal(http_trailer_add(t->x, "Grpc-Status", r ? SPAN("1") : SPAN("0")), 0);
    http_stream_end(t->x);
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
    if (r) {
        task_free(t);
        return;
    }
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_request)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
