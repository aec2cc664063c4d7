#include "test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/loop.h"
#include "http/server.h"

/* The server runs on the test's thread; the client is a script in a thread of its own that stops the loop when it is through. */
static struct loop *loop;
static struct http_server *server;
static int port;

/* ---- Handlers ------------------------------------------------------------------------------------------------------------ */

static atomic_int open_exchanges, closed_told, drains_told, body_errors, last_body_error;

struct task {
    struct http_exchange *x;
    struct loop_timer *timer;
    size_t sent, total, got, pieces;
    bool gone;
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

static void answer_late(void *arg) {
    struct task *t = arg;
    http_respond(t->x, 200, NULL, http_query(t->x));
    task_free(t);
}

static void hold_closed(void *arg) {
    struct task *t = arg;
    closed_told++;
    http_respond(t->x, 200, NULL, SPAN("never mind"));
    task_free(t);
}

static void pump(void *arg) {
    struct task *t = arg;
    char piece[10000];
    while (t->sent < t->total) {
        for (size_t i = 0; i < sizeof piece; i++) piece[i] = (char)('a' + (t->sent + i) % 23);
        int r = http_stream_write(t->x, span_of(piece, sizeof piece));
        if (r == E_FULL) return;
        if (r) break; /* on_close says the rest */
        t->sent += sizeof piece;
    }
    if (t->sent < t->total) return;
    http_stream_end(t->x);
    task_free(t);
}

static void drained(void *arg) {
    drains_told++;
    pump(arg);
}

static void big_closed(void *arg) {
    struct task *t = arg;
    closed_told++;
    http_stream_end(t->x);
    task_free(t);
}

static void tick(void *arg) {
    struct task *t = arg;
    char text[32];
    int n = snprintf(text, sizeof text, "data: %zu\n\n", ++t->sent);
    http_stream_write(t->x, span_of(text, (size_t)n));
    if (t->sent < t->total) return;
    http_stream_end(t->x);
    task_free(t);
}

/* A task with a timer; without memory for one the exchange is given up. */
static struct task *timed_task(struct http_exchange *x, void (*on_timer)(void *arg)) {
    struct task *t = task_new(x);
    t->timer = loop_timer_new(loop, t, on_timer);
    if (t->timer) return t;
    http_abort(x);
    task_free(t);
    return NULL;
}

static void resume(void *arg) { http_body_resume(((struct task *)arg)->x); }

/* Takes one piece, pauses, goes on a little later. */
static void slowly(void *arg, struct span piece, bool last, int r) {
    struct task *t = arg;
    if (r || last) {
        char text[32];
        int n = snprintf(text, sizeof text, "%zu", t->got);
        if (r) {
            body_errors++;
            last_body_error = r;
        }
        http_respond(t->x, r ? 400 : 200, NULL, span_of(text, (size_t)n));
        task_free(t);
        return;
    }
    t->got += piece.len;
    t->pieces++;
    http_body_pause(t->x);
    loop_timer_start(t->timer, 1, 0);
}

static void on_request(void *arg, struct http_exchange *x) {
    (void)arg;
    struct span path = http_path(x);
    assert_true(http_peer_loopback(x) && http_peer(x)[0]);
    if (span_eq(path, SPAN("/echo"))) {
        http_body_collect(x, 1000, task_new(x), echo);
    } else if (span_eq(path, SPAN("/now"))) {
        http_respond(x, 200, "text/plain", SPAN("now"));
    } else if (span_eq(path, SPAN("/fields"))) {
        assert_int_equal(http_header_add(x, "x-a", SPAN("b\r\nx-injected: 1")), E_INVALID);
        assert_int_equal(http_header_add(x, "x a", SPAN("b")), E_INVALID);
        assert_int_equal(http_header_add(x, "Content-Length", SPAN("0")), E_INVALID);
        assert_int_equal(http_header_add(x, "x-got", http_header(x, "X-SENT")), 0);
        http_respond(x, 204, NULL, SPAN(""));
    } else if (span_eq(path, SPAN("/late"))) {
        struct task *t = timed_task(x, answer_late);
        if (t) loop_timer_start(t->timer, 30, 0);
    } else if (span_eq(path, SPAN("/hold"))) {
        http_on_close(x, task_new(x), hold_closed);
    } else if (span_eq(path, SPAN("/big"))) {
        struct task *t = task_new(x);
        t->total = 20 << 20;
        http_on_close(x, t, big_closed);
        http_on_drain(x, t, drained);
        http_stream_begin(x, 200, "text/plain");
        pump(t);
    } else if (span_eq(path, SPAN("/events"))) {
        struct task *t = timed_task(x, tick);
        if (!t) return;
        t->total = 3;
        http_stream_begin(x, 200, "text/event-stream");
        loop_timer_start(t->timer, 1, 1);
    } else if (span_eq(path, SPAN("/slowly"))) {
        struct task *t = timed_task(x, resume);
        if (t) http_body_read(x, t, slowly);
    } else if (span_eq(path, SPAN("/whole"))) {
        static char much[3 << 20];
        memset(much, 'w', sizeof much);
        http_respond(x, 200, NULL, span_of(much, sizeof much));
    } else if (span_eq(path, SPAN("/broken"))) {
        http_stream_begin(x, 200, NULL);
        http_stream_write(x, SPAN("half"));
        http_abort(x);
    } else if (span_eq(path, SPAN("/fail"))) {
        http_abort(x);
    } else {
        struct error err;
        error_set_param(&err, E_NOT_FOUND, "path", "No such path.");
        http_respond_error(x, &err);
    }
}

/* ---- Clients --------------------------------------------------------------------------------------------------------------- */

static int dial(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 64 << 10;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) abort();
    return fd;
}

static void send_all(int fd, struct span s) {
    while (s.len) {
        ssize_t n = send(fd, s.data, s.len, MSG_NOSIGNAL);
        if (n <= 0) return;
        s = span_skip(s, (size_t)n);
    }
}

/* Reads until the end or a silence. Returns whether the server closed, −1 after a reset. */
static int receive(int fd, struct buf *out, int silence_ms) {
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, silence_ms) == 0) return 0;
        char *room = buf_reserve(out, 65536);
        if (!room) abort();
        ssize_t n = recv(fd, room, 65536, 0);
        if (n == 0) return 1;
        if (n < 0) return -1;
        buf_commit(out, (size_t)n);
    }
}

/* Without the lines that change: the date. */
static void without_date(struct buf *b) {
    struct buf out;
    buf_init(&out, b->cap);
    struct span rest = buf_span(b), line;
    while (span_cut(&rest, '\n', &line))
        if (!span_starts(line, SPAN("date: "))) buf_append_span(&out, line), buf_append_char(&out, '\n');
    if (out.len && !span_ends(buf_span(b), SPAN("\n"))) out.len--;
    buf_fini(b);
    *b = out;
}

static void start_with(const struct http_options *options) {
    struct error err = {0};
    loop = loop_new(&err);
    server = http_server_open(loop, "127.0.0.1:0", options, NULL, on_request, &err);
    CHECK(server != NULL, "%s", err.message);
    port = http_server_port(server);
    open_exchanges = closed_told = drains_told = body_errors = last_body_error = 0;
}

static void start(const struct http_limits *limits) {
    struct http_options options = {.limits = limits ? *limits : (struct http_limits){.pipeline_max = 0}};
    start_with(&options);
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

struct talk {
    const char *name;
    const char *send;
    const char *expected; /* all that comes, without dates */
    int closed;           /* 0 left open, 1 closed */
    bool half_close;
    struct buf got;
    int was;
};

static void *talk(void *arg) {
    struct talk *t = arg;
    int fd = dial();
    send_all(fd, span_str(t->send));
    if (t->half_close) shutdown(fd, SHUT_WR);
    t->was = receive(fd, &t->got, t->closed ? 5000 : 150);
    close(fd);
    return NULL;
}

#define H "Host: a\r\n"
#define REQ(line, fields) line " HTTP/1.1\r\n" H fields "\r\n"
#define OK(body, length, more) "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: " #length "\r\n" more "\r\n" body
#define BARE(body, length, more) "HTTP/1.1 200 OK\r\ncontent-length: " #length "\r\n" more "\r\n" body
#define CLOSE "connection: close\r\n"
#define LAST REQ("GET /now", "Connection: close\r\n")
#define LAST_OK OK("now", 3, CLOSE)
#define NOT_FOUND_BODY "{\"error\":{\"message\":\"No such path.\",\"type\":\"invalid_request_error\",\"param\":\"path\",\"code\":null}}"

static struct talk talks[] = {
    {.name = "get", .send = REQ("GET /now", ""), .expected = OK("now", 3, "")},
    {.name = "close", .send = LAST LAST, .expected = LAST_OK, .closed = 1},
    {.name = "kept alive", .send = REQ("GET /now", "") REQ("GET /now", "") LAST, .expected = OK("now", 3, "") OK("now", 3, "") LAST_OK, .closed = 1},
    {.name = "1.0", .send = "GET /now HTTP/1.0\r\n\r\n", .expected = LAST_OK, .closed = 1},
    {.name = "1.0 kept alive", .send = "GET /now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" LAST, .expected = OK("now", 3, "connection: keep-alive\r\n") LAST_OK, .closed = 1},
    {.name = "head", .send = REQ("HEAD /now", "") LAST, .expected = OK("", 3, "") LAST_OK, .closed = 1},
    {.name = "head of a stream", .send = REQ("HEAD /events", "") LAST, .expected = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" LAST_OK, .closed = 1},
    {.name = "fields", .send = REQ("GET /fields", "X-Sent: yes\r\n") LAST, .expected = "HTTP/1.1 204 No Content\r\nx-got: yes\r\n\r\n" LAST_OK, .closed = 1},
    {.name = "echo", .send = REQ("POST /echo", "Content-Length: 5\r\n") "hello" LAST, .expected = OK("hello", 5, "") LAST_OK, .closed = 1},
    {.name = "echo chunked", .send = REQ("POST /echo", "Transfer-Encoding: chunked\r\n") "3;x\r\nhel\r\n2\r\nlo\r\n0\r\nT: u\r\n\r\n" LAST, .expected = OK("hello", 5, "") LAST_OK, .closed = 1},
    {.name = "echo of nothing", .send = REQ("GET /echo", "") LAST, .expected = OK("", 0, "") LAST_OK, .closed = 1},
    {.name = "not found with a body", .send = REQ("POST /none", "Content-Length: 5\r\n") "hello" LAST, .expected = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 95\r\n\r\n" NOT_FOUND_BODY LAST_OK, .closed = 1},
    {.name = "not found with a chunked body", .send = REQ("POST /none", "Transfer-Encoding: chunked\r\n") "5\r\nhello\r\n0\r\n\r\n" LAST, .expected = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 95\r\n" CLOSE "\r\n" NOT_FOUND_BODY, .closed = 1},
    {.name = "too large by length", .send = REQ("POST /echo", "Content-Length: 100000\r\n") "xx", .expected = "HTTP/1.1 413 Content Too Large\r\ncontent-type: application/json\r\ncontent-length: 89\r\n" CLOSE "\r\n{\"error\":{\"message\":\"body: -20\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}", .closed = 1},
    {.name = "order", .send = REQ("GET /late?1", "") REQ("GET /now", "") REQ("GET /late?2", "") LAST, .expected = BARE("1", 1, "") OK("now", 3, "") BARE("2", 1, "") LAST_OK, .closed = 1},
    {.name = "events", .send = REQ("GET /events", "") LAST, .expected = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n9\r\ndata: 3\n\n\r\n0\r\n\r\n" LAST_OK, .closed = 1},
    {.name = "events to 1.0", .send = "GET /events HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" LAST, .expected = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" CLOSE "\r\ndata: 1\n\ndata: 2\n\ndata: 3\n\n", .closed = 1},
    {.name = "continue", .send = REQ("POST /echo", "Content-Length: 2\r\nExpect: 100-continue\r\n") "hi" LAST, .expected = "HTTP/1.1 100 Continue\r\n\r\n" OK("hi", 2, "") LAST_OK, .closed = 1},
    {.name = "continue in order", .send = REQ("GET /late?1", "") REQ("POST /echo", "Content-Length: 2\r\nExpect: 100-continue\r\n") "hi" LAST, .expected = BARE("1", 1, "") "HTTP/1.1 100 Continue\r\n\r\n" OK("hi", 2, "") LAST_OK, .closed = 1},
    {.name = "no continue where nobody reads", .send = REQ("POST /now", "Content-Length: 2\r\nExpect: 100-continue\r\n") "hi" LAST, .expected = OK("now", 3, CLOSE), .closed = 1},
    {.name = "refused", .send = "GET /now HTTP/1.1\r\n\r\n" LAST, .expected = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 106\r\n" CLOSE "\r\n{\"error\":{\"message\":\"The Host field is missing.\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}", .closed = 1},
    {.name = "refused behind others", .send = REQ("GET /late?1", "") "\x16\x03" LAST, .expected = BARE("1", 1, "") "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 104\r\n" CLOSE "\r\n{\"error\":{\"message\":\"This is no HTTP request.\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}", .closed = 1},
    {.name = "refused in its body", .send = REQ("POST /echo", "Transfer-Encoding: chunked\r\n") "2\r\nhix\r\n0\r\n\r\n" LAST, .expected = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 88\r\n" CLOSE "\r\n{\"error\":{\"message\":\"body: -3\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}", .closed = 1},
    {.name = "half a head", .send = "GET /now HTTP/1.1\r\nHost: a\r\n", .half_close = true, .expected = "", .closed = 1},
    {.name = "half a body", .send = REQ("GET /now", "") REQ("POST /echo", "Content-Length: 5\r\n") "he", .half_close = true, .expected = OK("now", 3, ""), .closed = 1},
    {.name = "half a chunk", .send = REQ("POST /slowly", "Transfer-Encoding: chunked\r\n") "ff\r\nabc", .half_close = true, .expected = "", .closed = 1},
    {.name = "half-closed behind a whole request", .send = REQ("GET /late?1", "") REQ("POST /echo", "Content-Length: 2\r\n") "hi", .half_close = true, .expected = BARE("1", 1, "") OK("hi", 2, ""), .closed = 1},
    {.name = "aborted stream", .send = REQ("GET /broken", "") LAST, .expected = NULL, .closed = 1},
    {.name = "aborted before its answer", .send = REQ("GET /fail", "") LAST, .expected = "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: 112\r\n\r\n{\"error\":{\"message\":\"The server could not answer this request.\",\"type\":\"server_error\",\"param\":null,\"code\":null}}" LAST_OK, .closed = 1},
    {.name = "paused body", .send = REQ("POST /slowly", "Transfer-Encoding: chunked\r\n") "1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n" LAST, .expected = BARE("6", 1, "") LAST_OK, .closed = 1},
};

static void conversations(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(talks); i++) {
        struct talk *t = &talks[i];
        start(NULL);
        buf_init(&t->got, 1 << 20);
        run(talk, t);
        finish();
        without_date(&t->got);
        if (t->expected) {
            const char *got = buf_cstr(&t->got), *want = t->expected;
            CHECK(strcmp(got, want) == 0, "%s:\n--- got\n%s\n--- wanted\n%s", t->name, got, want);
        } else {
            CHECK(!strstr(buf_cstr(&t->got), "0\r\n\r\n") && !strstr(buf_cstr(&t->got), "now"), "%s: %s", t->name, buf_cstr(&t->got));
        }
        CHECK(t->closed ? t->was != 0 : t->was == 0, "%s: closed %d", t->name, t->was);
        buf_fini(&t->got);
    }
}

/* ---- Clients that go, are slow, or want much --------------------------------------------------------------------------------- */

static void *leave_while_held(void *arg) {
    const char *request = arg;
    int fd = dial();
    send_all(fd, span_str(request));
    while (!open_exchanges) usleep(1000);
    close(fd);
    while (open_exchanges) usleep(1000);
    return NULL;
}

static void client_goes(void **state) {
    (void)state;
    static const struct {
        const char *request;
        int closed, errors;
    } cases[] = {{REQ("GET /hold", ""), 1, 0}, {REQ("GET /hold", "") REQ("GET /hold", "") REQ("GET /hold", ""), 3, 0}, {REQ("GET /big", ""), 1, 0}, {REQ("POST /echo", "Content-Length: 9\r\n") "half", 0, 1}, {REQ("GET /hold", "") REQ("POST /slowly", "Content-Length: 9\r\n") "half", 1, 1}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        start(NULL);
        run(leave_while_held, (void *)(uintptr_t)cases[i].request);
        CHECK(closed_told == cases[i].closed && body_errors == cases[i].errors, "case %zu: closed %d, errors %d", i, closed_told, body_errors);
        CHECK(!body_errors || last_body_error == E_CANCELLED, "case %zu: %d", i, last_body_error);
        finish();
    }
}

static void *server_closes(void *arg) {
    int fd = dial();
    send_all(fd, span_str(arg));
    while (!open_exchanges) usleep(1000);
    loop_stop(loop);
    struct buf got;
    buf_init(&got, 1 << 20);
    receive(fd, &got, 5000);
    buf_fini(&got);
    close(fd);
    return NULL;
}

static void closing_the_server(void **state) {
    (void)state;
    static const char *const requests[] = {REQ("GET /hold", ""), REQ("POST /echo", "Content-Length: 9\r\n") "half"};
    for (size_t i = 0; i < COUNT(requests); i++) {
        start(NULL);
        pthread_t id;
        pthread_create(&id, NULL, server_closes, (void *)(uintptr_t)requests[i]);
        loop_run(loop);
        http_server_close(server);
        pthread_join(id, NULL);
        loop_free(loop);
        CHECK(open_exchanges == 0, "request %zu", i);
    }
}

struct big {
    const char *path;
    size_t total;
    char first, modulo;
    int pause_ms;
    bool chunked, right;
};

static void *take_much(void *arg) {
    struct big *b = arg;
    struct buf got, plain;
    buf_init(&got, 64 << 20);
    buf_init(&plain, 64 << 20);
    char request[200];
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b->path);
    int fd = dial();
    send_all(fd, span_str(request));
    usleep((unsigned)b->pause_ms * 1000);
    int was = receive(fd, &got, 10000);
    close(fd);
    ptrdiff_t body = span_find(buf_span(&got), SPAN("\r\n\r\n"));
    struct span rest = span_skip(buf_span(&got), (size_t)body + 4);
    while (b->chunked && rest.len) {
        size_t size = strtoul(rest.data, NULL, 16);
        rest = span_skip(rest, (size_t)span_find(rest, SPAN("\r\n")) + 2);
        buf_append_span(&plain, span_sub(rest, 0, size));
        rest = span_skip(rest, size + 2);
        if (!size) break;
    }
    if (b->chunked) rest = buf_span(&plain);
    b->right = was == 1 && body > 0 && rest.len == b->total;
    for (size_t i = 0; i < rest.len; i++) b->right &= rest.data[i] == b->first + (char)(i % (size_t)b->modulo);
    buf_fini(&got);
    buf_fini(&plain);
    return NULL;
}

static void large_answers(void **state) {
    (void)state;
    static struct big cases[] = {{"/whole", 3 << 20, 'w', 1, 0, false, false}, {"/whole", 3 << 20, 'w', 1, 100, false, false}, {"/big", (20 << 20) / 10000 * 10000 + 10000, 'a', 23, 100, true, false}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        start(NULL);
        run(take_much, &cases[i]);
        CHECK(cases[i].right, "%s", cases[i].path);
        if (cases[i].chunked) assert_true(drains_told > 0);
        finish();
    }
}

/* A body far larger than all buffers, to a reader that pauses at each piece: the client must be slowed down, nothing lost. */
static void *upload(void *arg) {
    struct talk *t = arg;
    static char piece[1 << 20];
    int fd = dial();
    send_all(fd, SPAN(REQ("POST /slowly", "Connection: close\r\nContent-Length: 8388608\r\n")));
    for (int i = 0; i < 8; i++) send_all(fd, span_of(piece, sizeof piece));
    t->was = receive(fd, &t->got, 20000);
    close(fd);
    return NULL;
}

static void large_upload(void **state) {
    (void)state;
    struct talk t = {0};
    buf_init(&t.got, 1 << 20);
    start(NULL);
    run(upload, &t);
    finish();
    without_date(&t.got);
    assert_string_equal(buf_cstr(&t.got), BARE("8388608", 7, CLOSE));
    buf_fini(&t.got);
}

static void *byte_by_byte(void *arg) {
    struct talk *t = arg;
    int fd = dial();
    static const char text[] = REQ("POST /echo", "Transfer-Encoding: chunked\r\n") "3;x\r\nhel\r\n2\r\nlo\r\n0\r\nT: u\r\n\r\n" LAST;
    for (const char *p = text; *p; p++) {
        send_all(fd, span_of(p, 1));
        usleep(100);
    }
    t->was = receive(fd, &t->got, 5000);
    close(fd);
    return NULL;
}

static void in_bytes(void **state) {
    (void)state;
    struct talk t = {0};
    buf_init(&t.got, 1 << 20);
    start(NULL);
    run(byte_by_byte, &t);
    finish();
    without_date(&t.got);
    assert_string_equal(buf_cstr(&t.got), OK("hello", 5, "") LAST_OK);
    buf_fini(&t.got);
}

/* ---- Time ---------------------------------------------------------------------------------------------------------------- */

static void *wait_for_end(void *arg) {
    struct talk *t = arg;
    int fd = dial();
    send_all(fd, span_str(t->send));
    t->was = receive(fd, &t->got, 20000);
    close(fd);
    return NULL;
}

static void timeouts(void **state) {
    (void)state;
    static struct {
        struct talk talk;
        const char *begins;
        int error;
    } cases[] = {
        {{.name = "idle", .send = ""}, "", 0},
        {{.name = "idle behind a request", .send = REQ("GET /now", "")}, "HTTP/1.1 200 ", 0},
        {{.name = "slow head", .send = "GET /now HTTP/1.1\r\nHost:"}, "HTTP/1.1 408 ", 0},
        {{.name = "slow body", .send = REQ("POST /echo", "Content-Length: 5\r\n") "he"}, "HTTP/1.1 504 ", E_DEADLINE},
        {{.name = "slow chunk", .send = REQ("POST /slowly", "Transfer-Encoding: chunked\r\n") "5\r\nhe"}, "HTTP/1.1 400 ", E_DEADLINE},
        {{.name = "slow unwanted body", .send = REQ("POST /now", "Content-Length: 5\r\n") "he"}, "HTTP/1.1 200 ", 0},
    };
    struct http_limits limits = {.head_timeout_ms = 60, .body_timeout_ms = 60, .idle_timeout_ms = 60, .write_timeout_ms = 60};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct talk *t = &cases[i].talk;
        buf_init(&t->got, 1 << 20);
        start(&limits);
        run(wait_for_end, t);
        finish();
        CHECK(t->was == 1, "%s: closed %d", t->name, t->was);
        CHECK(span_starts(buf_span(&t->got), span_str(cases[i].begins)) && (cases[i].begins[0] || !t->got.len), "%s: %s", t->name, buf_cstr(&t->got));
        CHECK(last_body_error == cases[i].error, "%s: %d", t->name, last_body_error);
        buf_fini(&t->got);
    }
}

static void *never_read(void *arg) {
    (void)arg;
    int fd = dial();
    send_all(fd, SPAN(REQ("GET /big", "")));
    while (!open_exchanges) usleep(1000);
    while (open_exchanges) usleep(1000); /* until the server loses patience */
    close(fd);
    return NULL;
}

static void client_that_never_reads(void **state) {
    (void)state;
    struct http_limits limits = {.write_timeout_ms = 100};
    start(&limits);
    run(never_read, NULL);
    assert_int_equal(closed_told, 1);
    finish();
}

static void *read_late(void *arg) {
    struct talk *t = arg;
    int fd = dial();
    send_all(fd, SPAN(REQ("GET /big", "")));
    while (!open_exchanges) usleep(1000);
    usleep(200000); /* several looks at the connection, each of which finds something unsent */
    t->was = receive(fd, &t->got, 20000);
    close(fd);
    return NULL;
}

static void first_look_finds_something_unsent(void **state) {
    (void)state;
    struct http_limits limits = {.idle_timeout_ms = 40, .write_timeout_ms = 20000, .progress_min = 64 << 20};
    struct talk t = {0};
    buf_init(&t.got, 64 << 20);
    start(&limits);
    run(read_late, &t);
    finish();
    struct span got = buf_span(&t.got);
    CHECK(got.len > 5 && span_eq(span_skip(got, got.len - 5), SPAN("0\r\n\r\n")), "%zu bytes, and they are not whole", got.len);
    buf_fini(&t.got);
}

/* ---- Limits and draining --------------------------------------------------------------------------------------------------- */

static void *many_requests(void *arg) {
    struct talk *t = arg;
    int fd = dial();
    for (int i = 0; i < 50; i++) send_all(fd, span_str(i % 2 ? REQ("GET /now", "") : REQ("GET /late?1", "")));
    send_all(fd, SPAN(LAST));
    t->was = receive(fd, &t->got, 10000);
    close(fd);
    return NULL;
}

static void pipeline_limit(void **state) {
    (void)state;
    struct http_limits limits = {.pipeline_max = 3};
    struct talk t = {0};
    buf_init(&t.got, 1 << 20);
    start(&limits);
    run(many_requests, &t);
    finish();
    int answers = 0;
    for (struct span rest = buf_span(&t.got); span_find(rest, SPAN("HTTP/1.1 200 OK")) >= 0; answers++) rest = span_skip(rest, (size_t)span_find(rest, SPAN("HTTP/1.1 200 OK")) + 1);
    assert_int_equal(answers, 51);
    assert_int_equal(t.was, 1);
    buf_fini(&t.got);
}

static void *three_at_two_places(void *arg) {
    struct talk *t = arg;
    int a = dial(), b = dial(), c = dial();
    send_all(c, SPAN(LAST));
    struct pollfd p = {c, POLLIN, 0};
    t->was = poll(&p, 1, 100); /* the third waits */
    close(a);
    receive(c, &t->got, 5000);
    close(b);
    close(c);
    return NULL;
}

static void connection_limit(void **state) {
    (void)state;
    struct http_limits limits = {.connections_max = 2};
    struct talk t = {0};
    buf_init(&t.got, 1 << 20);
    start(&limits);
    run(three_at_two_places, &t);
    finish();
    without_date(&t.got);
    assert_string_equal(buf_cstr(&t.got), LAST_OK);
    buf_fini(&t.got);
}

static atomic_int drain_done;
static void drained_all(void *arg) {
    (void)arg;
    drain_done++;
}
static void begin_drain(void *arg) {
    (void)arg;
    http_server_drain(server, NULL, drained_all);
}

static void *drain_script(void *arg) {
    struct talk *t = arg;
    int idle = dial(), busy = dial(), half = dial();
    send_all(idle, SPAN(REQ("GET /now", "")));
    struct buf first;
    buf_init(&first, 1 << 20);
    receive(idle, &first, 100);
    send_all(busy, SPAN(REQ("GET /late?1", "")));
    send_all(half, SPAN("GET /now HTTP/1.1\r\nHo"));
    while (open_exchanges != 1) usleep(1000);
    usleep(5000);
    loop_post(loop, begin_drain, NULL);
    t->closed = receive(idle, &first, 5000); /* closed at once */
    receive(busy, &t->got, 5000);
    send_all(half, SPAN("st: a\r\n\r\n")); /* begun before, so it is served */
    t->was = receive(half, &t->got, 5000);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    t->half_close = connect(late, (struct sockaddr *)&a, sizeof a) != 0; /* nobody listens any more */
    close(late);
    close(idle);
    close(busy);
    close(half);
    while (!drain_done) usleep(1000);
    buf_fini(&first);
    return NULL;
}

static void draining(void **state) {
    (void)state;
    struct talk t = {0};
    buf_init(&t.got, 1 << 20);
    drain_done = 0;
    start(NULL);
    run(drain_script, &t);
    assert_int_equal(http_server_connections(server), 0);
    finish();
    without_date(&t.got);
    assert_string_equal(buf_cstr(&t.got), BARE("1", 1, CLOSE) OK("now", 3, CLOSE));
    assert_true(t.closed == 1 && t.was == 1 && t.half_close && drain_done == 1);
    buf_fini(&t.got);
    start(NULL);
    http_server_drain(server, NULL, drained_all); /* nothing is open: done at once */
    assert_int_equal(drain_done, 2);
    finish();
}

/* One listener of two goes: a connection of before is served, and what comes while it goes reaches the other one, a second later where its SYN was turned away. */
enum { NEWCOMERS = 40 };

static int listen_beside(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, NEWCOMERS) == 0) return fd;
    close(fd);
    return -1;
}

/* Asked where the server's loop runs. */
static atomic_int connections_seen;
static void see_connections(void *arg) {
    (void)arg;
    atomic_store(&connections_seen, (int)http_server_connections(server));
}
static int connections_now(void) {
    atomic_store(&connections_seen, -1);
    loop_post(loop, see_connections, NULL);
    while (atomic_load(&connections_seen) < 0) usleep(1000);
    return atomic_load(&connections_seen);
}

static void *beside_script(void *arg) {
    struct talk *t = arg;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int before = dial(), other = listen_beside(), newcomers[NEWCOMERS], came = 0;
    loop_post(loop, begin_drain, NULL);
    usleep(20000);
    for (int i = 0; i < NEWCOMERS; i++) {
        newcomers[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void)connect(newcomers[i], (struct sockaddr *)&a, sizeof a);
    }
    t->half_close = drain_done == 0 && connections_now() == 1; /* no newcomer came here */
    send_all(before, SPAN(LAST));
    receive(before, &t->got, 5000);
    for (struct pollfd p = {other, POLLIN, 0}; came < NEWCOMERS && poll(&p, 1, 5000) == 1; came++) close(accept4(other, NULL, NULL, SOCK_CLOEXEC));
    t->was = came;
    while (!drain_done) usleep(1000);
    for (int i = 0; i < NEWCOMERS; i++) close(newcomers[i]);
    close(before);
    close(other);
    return NULL;
}

static void draining_beside_another(void **state) {
    (void)state;
    struct talk t = {0};
    struct http_options options = {.reuse_port = true};
    buf_init(&t.got, 1 << 20);
    drain_done = 0;
    start_with(&options);
    run(beside_script, &t);
    finish();
    without_date(&t.got);
    assert_string_equal(buf_cstr(&t.got), LAST_OK);
    assert_int_equal(t.was, NEWCOMERS);
    assert_true(t.half_close && drain_done == 1);
    buf_clear(&t.got);
    start_with(&options); /* in a hurry: a second call does not wait, nor does a close */
    http_server_drain(server, NULL, drained_all);
    http_server_drain(server, NULL, drained_all);
    assert_int_equal(drain_done, 2);
    finish();
    start_with(&options);
    http_server_drain(server, NULL, drained_all);
    finish();
    buf_fini(&t.got);
}

/* ---- Memory ---------------------------------------------------------------------------------------------------------------- */

static void *three_tries(void *arg) {
    (void)arg;
    for (int i = 0; i < 3; i++) {
        struct buf got;
        buf_init(&got, 1 << 20);
        int fd = dial();
        send_all(fd, SPAN(REQ("POST /slowly", "Content-Length: 5\r\n") "hello" REQ("GET /events", "") LAST));
        receive(fd, &got, 60);
        close(fd);
        buf_fini(&got);
    }
    return NULL;
}

static void fail_from(void *arg) { alloc_fail_at(*(uint64_t *)arg); }

/* Whatever allocation fails on the server's side, nothing breaks and nothing leaks. */
static void without_memory(void **state) {
    (void)state;
    for (uint64_t at = 1; at < 30; at++) {
        start(NULL);
        loop_post(loop, fail_from, &at);
        script = three_tries;
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(conversations), cmocka_unit_test(client_goes),   cmocka_unit_test(closing_the_server),      cmocka_unit_test(large_answers),
                                       cmocka_unit_test(large_upload),  cmocka_unit_test(in_bytes),      cmocka_unit_test(timeouts),                cmocka_unit_test(client_that_never_reads), cmocka_unit_test(first_look_finds_something_unsent),
                                       cmocka_unit_test(pipeline_limit), cmocka_unit_test(connection_limit), cmocka_unit_test(draining), cmocka_unit_test(draining_beside_another), cmocka_unit_test(without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
