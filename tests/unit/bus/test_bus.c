/* The bus end to end: server and client on one loop, or the server in a child process where it has to die. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/metrics.h"
#include "bus/bus.h"

/* ---- a server that does what the method says ---- */

struct stream {
    uint32_t sent, want, received;
    uint64_t bytes;
    struct bus_reply *reply;
};

static int cancelled_code, cancels, open_streams;
static char seen[200];

static void stream_go_on(struct stream *s) {
    char text[16];
    while (s->sent < s->want) {
        (void)snprintf(text, sizeof text, "%u", s->sent);
        if (bus_reply_item(s->reply, span_str(text)) < 0) return;
        s->sent++;
    }
    open_streams--;
    bus_reply_end(s->reply, 0, NULL, SPAN(""));
    mem_free(s);
}

static void on_call(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg) {
    (void)arg;
    struct error err = {0};
    (void)snprintf(seen, sizeof seen, "%.*s|%.*s|%.*s|%.*s|%.*s|%.*s", SPAN_ARG(context->request_id), SPAN_ARG(context->tenant), SPAN_ARG(context->session), SPAN_ARG(context->actor_id),
                   SPAN_ARG(context->actor_scope), SPAN_ARG(context->actor_claim));
    if (span_eq_str(method, "echo")) {
        bus_reply_end(reply, 0, NULL, request);
    } else if (span_eq_str(method, "refuse")) {
        (void)error_set_param(&err, E_TOO_LARGE, "size", "much too large");
        bus_reply_end(reply, E_TOO_LARGE, &err, SPAN(""));
    } else if (span_eq_str(method, "huge")) {
        char *huge = mem_zalloc(BUS_MESSAGE_MAX + 1);
        bus_reply_end(reply, 0, NULL, span_of(huge, BUS_MESSAGE_MAX + 1));
        mem_free(huge);
    } else if (span_eq_str(method, "crash")) {
        _exit(7);
    } else {
        struct stream *s = mem_zalloc(sizeof *s);
        uint64_t n = 0;
        (void)span_to_u64(request, &n);
        *s = (struct stream){.want = (uint32_t)n, .reply = reply};
        *call_arg = s;
        open_streams++;
        if (span_eq_str(method, "count")) stream_go_on(s);
        if (span_eq_str(method, "item")) (void)bus_reply_item(reply, SPAN("begun")); /* and then nothing more */
    }
}
static void on_credit(void *call_arg, struct bus_reply *reply) {
    (void)reply;
    struct stream *s = call_arg;
    if (s->want) stream_go_on(s);
}
static void on_item(void *call_arg, struct bus_reply *reply, struct span item) {
    struct stream *s = call_arg;
    s->received++;
    s->bytes += item.len;
    bus_reply_credit(reply, 1);
}
static void on_item_end(void *call_arg, struct bus_reply *reply) {
    struct stream *s = call_arg;
    char text[64];
    (void)snprintf(text, sizeof text, "%u items, %llu bytes", s->received, (unsigned long long)s->bytes);
    open_streams--;
    bus_reply_end(reply, 0, NULL, span_str(text));
    mem_free(s);
}
static bool holds_on; /* a handler whose work goes on: it ends the reply when that comes back */
static void on_cancel(void *call_arg, struct bus_reply *reply, int code) {
    if (holds_on) return;
    cancelled_code = code;
    cancels++;
    open_streams--;
    assert_int_equal(bus_reply_item(reply, SPAN("nobody")), E_CANCELLED);
    bus_reply_end(reply, code, NULL, SPAN(""));
    mem_free(call_arg);
}
static const struct bus_server_events server_events = {on_call, on_item, on_item_end, on_credit, on_cancel};

/* ---- a client that notes what happens ---- */

struct seen_call {
    int items, ends, code, writable, total_ends_wanted;
    bool begun, grant;
    char last[64];
    struct error err;
    struct bus_call *call;
    struct fixture *f;
};
struct fixture {
    struct loop *loop;
    struct loop_timer *tick;
    char dir[64];
    struct bus_keys keys;
    struct bus_server *server;
    struct bus_client *client;
    struct bus_peer *peer;
    int heartbeats, lost, ended;
    char load[64];
    bool (*until)(struct fixture *f);
    int64_t give_up_ms;
    struct seen_call calls[2000];
    pid_t child;
};

static void on_reply(void *arg, struct span item) {
    struct seen_call *c = arg;
    span_copy(c->last, sizeof c->last, item);
    c->items++;
    if (c->grant) bus_call_credit(c->call, 1);
}
static void on_writable(void *arg) { ((struct seen_call *)arg)->writable++; }
static void on_ignored_end(void *arg, int code, const struct error *err, bool begun) {
    (void)arg;
    (void)code;
    (void)err;
    (void)begun;
}
static void on_end(void *arg, int code, const struct error *err, bool begun) {
    struct seen_call *c = arg;
    c->ends++;
    c->code = code;
    c->begun = begun;
    if (err) c->err = *err;
    c->f->ended++;
}
static const struct bus_call_events client_events = {on_reply, on_writable, on_end};

static void on_heartbeat(void *arg, struct bus_peer *peer, struct span member) {
    struct fixture *f = arg;
    (void)peer;
    f->heartbeats++;
    span_copy(f->load, sizeof f->load, member);
}
static void on_lost(void *arg, struct bus_peer *peer) {
    (void)peer;
    ((struct fixture *)arg)->lost++;
}

static void on_tick(void *arg) {
    struct fixture *f = arg;
    if (f->until(f) || loop_now_ms(f->loop) > f->give_up_ms) loop_stop(f->loop);
}
/* Runs the loop until the condition holds; a test that waits 20 s in vain fails. */
static void run_until(struct fixture *f, bool (*until)(struct fixture *f), const char *what) {
    f->until = until;
    f->give_up_ms = loop_now_ms(f->loop) + 20000;
    loop_timer_start(f->tick, 0, 2);
    (void)loop_run(f->loop);
    loop_timer_stop(f->tick);
    if (!until(f)) fail_msg("in vain: %s", what);
}
static bool alive(struct fixture *f) { return bus_peer_alive(f->peer); }
static bool one_end(struct fixture *f) { return f->calls[0].ends > 0; }
static bool no_streams(struct fixture *f) {
    (void)f;
    return open_streams == 0;
}

static struct fixture *fixture_new(const char *endpoint_of_child) {
    static struct fixture f;
    struct error err = {0};
    char endpoint[100];
    memset(&f, 0, sizeof f);
    cancels = cancelled_code = open_streams = 0;
    (void)snprintf(f.dir, sizeof f.dir, "/tmp/genloop-bus-XXXXXX");
    assert_non_null(mkdtemp(f.dir));
    assert_int_equal(bus_keys_load(f.dir, &f.keys, NULL), E_NOT_FOUND);
    assert_int_equal(bus_keys_make(f.dir, &err), 0);
    assert_int_equal(bus_keys_make(f.dir, &err), 0);
    assert_int_equal(bus_keys_load(f.dir, &f.keys, &err), 0);
    (void)snprintf(endpoint, sizeof endpoint, "ipc://%s/s.bus", f.dir);
    if (endpoint_of_child) {
        f.child = fork();
        if (f.child == 0) {
            struct loop *l = loop_new(NULL);
            struct bus_server *s;
            (void)alarm(30);
            if (bus_server_open(l, endpoint, &f.keys, NULL, &server_events, &s, &err) < 0) _exit(1);
            bus_server_load(s, SPAN("child"), false);
            (void)loop_run(l);
            _exit(0);
        }
    }
    f.loop = loop_new(&err);
    assert_non_null(f.loop);
    f.tick = loop_timer_new(f.loop, &f, on_tick);
    if (!endpoint_of_child && bus_server_open(f.loop, endpoint, &f.keys, &f, &server_events, &f.server, &err) < 0) fail_msg("%s", err.message);
    assert_int_equal(bus_client_open(f.loop, &f.keys, &f, on_heartbeat, on_lost, &f.client, &err), 0);
    f.peer = bus_peer_connect(f.client, endpoint, f.keys.public_key, &f, &err);
    if (!f.peer) fail_msg("%s", err.message);
    assert_ptr_equal(f.peer, bus_peer_connect(f.client, endpoint, f.keys.public_key, NULL, &err));
    assert_ptr_equal(bus_peer_arg(f.peer), &f);
    for (size_t i = 0; i < sizeof f.calls / sizeof *f.calls; i++) f.calls[i].f = &f;
    return &f;
}

static void fixture_free(struct fixture *f) {
    bus_client_close(f->client);
    bus_server_close(f->server);
    loop_timer_close(f->tick);
    loop_free(f->loop);
    if (f->child > 0) {
        (void)kill(f->child, SIGKILL);
        (void)waitpid(f->child, NULL, 0);
    }
    (void)dir_remove(f->dir, NULL);
}

static void start(struct fixture *f, int i, const char *method, const char *request, bool more, uint32_t credit, int64_t deadline_ms) {
    struct error err = {0};
    struct bus_context context = {.deadline_ms = deadline_ms, .request_id = SPAN("r1"), .tenant = SPAN("t"), .session = SPAN("s"), .actor_id = SPAN("local:op"), .actor_scope = SPAN("approver"), .actor_claim = SPAN("Ann")};
    f->calls[i].call = bus_call(f->peer, method, &context, span_str(request), more, credit, &f->calls[i], &client_events, &err);
    if (!f->calls[i].call) fail_msg("%s", err.message);
    assert_int_equal(f->calls[i].ends, 0);
}

/* ---- tests ---- */

static void unary(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    start(f, 0, "echo", "hello", false, 0, 0); /* before the connection stands */
    run_until(f, one_end, "echo");
    assert_int_equal(f->calls[0].code, 0);
    assert_string_equal(f->calls[0].last, "hello");
    assert_string_equal(seen, "r1|t|s|local:op|approver|Ann");
    assert_true(f->calls[0].begun);
    assert_int_equal(bus_peer_open_calls(f->peer), 0);
    assert_int_equal(bus_server_open_calls(f->server), 0);
    struct seen_call *c = &f->calls[0];
    c->ends = 0;
    c->begun = false;
    start(f, 0, "refuse", "", false, 0, 0);
    run_until(f, one_end, "refuse");
    assert_int_equal(c->code, E_TOO_LARGE);
    assert_string_equal(c->err.message, "much too large");
    assert_string_equal(c->err.param, "size");
    assert_false(c->begun);
    fixture_free(f);
}

static void heartbeats_carry_the_load(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    bus_server_load(f->server, SPAN("load 1"), false);
    run_until(f, alive, "alive");
    assert_string_equal(f->load, "load 1");
    int before = f->heartbeats;
    bus_server_load(f->server, SPAN("load 2"), true);
    while (f->heartbeats == before) run_until(f, alive, "alive");
    assert_string_equal(f->load, "load 2");
    fixture_free(f);
}

static bool stalled(struct fixture *f) { return f->calls[0].items == 5; }
static void stream_with_credit(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    start(f, 0, "count", "1000", false, 5, 0);
    run_until(f, stalled, "five items");
    for (int i = 0; i < 20; i++) run_until(f, alive, "alive");
    assert_int_equal(f->calls[0].items, 5); /* and not one more without credit */
    assert_int_equal(open_streams, 1);
    f->calls[0].grant = true;
    bus_call_credit(f->calls[0].call, 3);
    run_until(f, one_end, "the end of the stream");
    assert_int_equal(f->calls[0].code, 0);
    assert_int_equal(f->calls[0].items, 1000);
    assert_string_equal(f->calls[0].last, "999");
    assert_int_equal(f->calls[0].ends, 1);
    fixture_free(f);
}

static int to_send;
static bool sent_all(struct fixture *f) {
    struct seen_call *c = &f->calls[0];
    static char piece[1000];
    while (to_send > 0) {
        int r = bus_call_item(c->call, span_of(piece, sizeof piece));
        if (r == E_FULL) return false;
        assert_int_equal(r, 0);
        to_send--;
    }
    return true;
}
static void client_stream(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    start(f, 0, "sink", "0", true, 0, 0);
    to_send = 500;
    assert_false(sent_all(f)); /* 64 go at once */
    assert_int_equal(to_send, 500 - BUS_CREDIT_DEFAULT);
    run_until(f, sent_all, "all items sent");
    assert_true(f->calls[0].writable > 0);
    assert_int_equal(bus_call_item_end(f->calls[0].call), 0);
    assert_int_equal(bus_call_item(f->calls[0].call, SPAN("x")), E_STATE);
    run_until(f, one_end, "the reply");
    assert_string_equal(f->calls[0].last, "500 items, 500000 bytes");
    fixture_free(f);
}

static void cancel(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    start(f, 0, "count", "1000", false, 5, 0);
    run_until(f, stalled, "five items");
    bus_call_cancel(f->calls[0].call);
    run_until(f, no_streams, "the server heard of it");
    assert_int_equal(cancelled_code, E_CANCELLED);
    assert_int_equal(f->calls[0].ends, 0);
    assert_int_equal(bus_server_open_calls(f->server), 0);
    fixture_free(f);
}

static void deadline(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    run_until(f, alive, "alive");
    start(f, 1, "sleep", "0", false, 0, 10000);
    start(f, 0, "sleep", "0", false, 0, 30);
    run_until(f, one_end, "the deadline");
    assert_int_equal(f->calls[0].code, E_DEADLINE);
    while (cancels == 0) run_until(f, alive, "alive");
    assert_int_equal(cancels, 1);
    assert_int_equal(bus_server_open_calls(f->server), 1);
    bus_call_cancel(f->calls[1].call);
    run_until(f, no_streams, "cancel");
    fixture_free(f);
}

static void server_closes(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    start(f, 0, "item", "0", false, 5, 0);
    while (f->calls[0].items == 0) run_until(f, alive, "alive");
    bus_server_close(f->server);
    f->server = NULL;
    run_until(f, one_end, "the end");
    assert_int_equal(f->calls[0].code, E_UNAVAILABLE);
    assert_true(f->calls[0].begun);
    fixture_free(f);
}

/* What a handler is at work on outlives the server: the reply is its own to end, whenever. */
static struct bus_reply *held[2];
static void on_held_call(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg) {
    (void)arg;
    (void)context;
    (void)request;
    held[span_eq_str(method, "second")] = reply;
    *call_arg = held;
}
static bool both_are_held(struct fixture *f) {
    (void)f;
    return held[0] && held[1];
}
static void replies_outlive_the_server(void **state) {
    static const struct bus_server_events events = {.on_call = on_held_call, .on_cancel = on_cancel};
    (void)state;
    struct fixture *f = fixture_new(NULL);
    struct bus_server *server = NULL;
    struct error err;
    assert_int_equal(bus_server_open(f->loop, "tcp://127.0.0.1:*", &f->keys, NULL, &events, &server, &err), 0);
    struct bus_peer *peer = bus_peer_connect(f->client, bus_server_endpoint(server), f->keys.public_key, NULL, &err);
    assert_non_null(peer);
    static const struct bus_call_events nothing = {.on_end = on_ignored_end};
    assert_non_null(bus_call(peer, "first", NULL, SPAN(""), false, 1, NULL, &nothing, &err));
    assert_non_null(bus_call(peer, "second", NULL, SPAN(""), true, 1, NULL, &nothing, &err));
    run_until(f, both_are_held, "two calls");
    holds_on = true;
    bus_server_close(server);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(bus_reply_item(held[i], SPAN("nobody")), E_CANCELLED);
        assert_int_equal(bus_reply_credit_left(held[i]), 0);
        bus_reply_credit(held[i], 1);
        bus_reply_end(held[i], 0, NULL, SPAN("done"));
    }
    holds_on = false;
    bus_peer_disconnect(peer);
    fixture_free(f);
}

static void client_closes(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    start(f, 0, "sleep", "0", false, 5, 0);
    start(f, 1, "sleep", "0", false, 5, 0);
    while (open_streams < 2) run_until(f, alive, "alive");
    bus_peer_disconnect(f->peer);
    assert_int_equal(f->calls[0].code, E_UNAVAILABLE);
    assert_int_equal(f->calls[1].code, E_UNAVAILABLE);
    struct loop_timer *tick = f->tick;
    (void)tick;
    run_until(f, no_streams, "the server noticed");
    fixture_free(f);
}

static bool lost(struct fixture *f) { return f->lost > 0; }
static bool two_ends(struct fixture *f) { return f->calls[0].ends && f->calls[1].ends; }
static void peer_killed(void **state) {
    (void)state;
    struct fixture *f = fixture_new("child");
    start(f, 0, "item", "0", false, 5, 0);
    start(f, 1, "sleep", "0", false, 5, 0);
    while (f->calls[0].items == 0) run_until(f, alive, "alive");
    assert_string_equal(f->load, "child");
    (void)kill(f->child, SIGKILL);
    run_until(f, two_ends, "both calls ended");
    assert_int_equal(f->calls[0].code, E_UNAVAILABLE);
    assert_int_equal(f->calls[1].code, E_UNAVAILABLE);
    assert_true(f->calls[0].begun);
    assert_false(f->calls[1].begun); /* may be tried elsewhere */
    assert_non_null(strstr(f->calls[1].err.message, "connection broke")); /* at once, and not by a silence that a quick successor would fill */
    assert_int_equal(f->lost, 1);
    assert_false(bus_peer_alive(f->peer));
    /* A successor at the same place: the peer comes back by itself, and nothing meant for the former reaches it. */
    char endpoint[100];
    (void)snprintf(endpoint, sizeof endpoint, "ipc://%s/s.bus", f->dir);
    struct error err = {0};
    if (bus_server_open(f->loop, endpoint, &f->keys, f, &server_events, &f->server, &err) < 0) fail_msg("%s", err.message);
    run_until(f, alive, "alive again");
    f->calls[0].ends = 0;
    start(f, 0, "echo", "again", false, 0, 0);
    run_until(f, one_end, "echo");
    assert_string_equal(f->calls[0].last, "again");
    assert_int_equal(open_streams, 0);
    fixture_free(f);
}

static void peer_stopped(void **state) {
    (void)state;
    struct fixture *f = fixture_new("child");
    run_until(f, alive, "alive");
    (void)kill(f->child, SIGSTOP); /* the connection stands, nobody answers */
    start(f, 0, "echo", "x", false, 0, 0);
    run_until(f, lost, "lost by silence");
    assert_int_equal(f->calls[0].code, E_UNAVAILABLE);
    assert_false(f->calls[0].begun);
    (void)kill(f->child, SIGCONT);
    run_until(f, alive, "alive again");
    fixture_free(f);
}

static bool beats(struct fixture *f) { return f->heartbeats >= 2; }
/* Connections that break just when they are given up: their monitors must not hold up the thread that all sockets of the client share. */
static void breaks_while_closing(void **state) {
    (void)state;
    enum { ROUNDS = 400 };
    struct fixture *f = fixture_new(NULL);
    struct error err = {0};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char endpoint[128];
    run_until(f, alive, "alive");
    (void)snprintf(address.sun_path, sizeof address.sun_path, "%s/c.bus", f->dir);
    (void)snprintf(endpoint, sizeof endpoint, "ipc://%s", address.sun_path);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(listener, 16), 0);
    for (int i = 0; i < ROUNDS; i++) {
        struct bus_peer *p = bus_peer_connect(f->client, endpoint, f->keys.public_key, NULL, &err);
        if (!p) fail_msg("%s", err.message);
        struct pollfd ready = {.fd = listener, .events = POLLIN};
        if (poll(&ready, 1, 5000) != 1) fail_msg("round %d: the client does not connect any more", i);
        int fd = accept(listener, NULL, NULL);
        assert_true(fd >= 0);
        (void)usleep((useconds_t)(i % 40) * 5);
        (void)close(fd);
        (void)usleep((useconds_t)(i % 7) * 7);
        bus_peer_disconnect(p);
    }
    (void)close(listener);
    f->heartbeats = 0;
    run_until(f, beats, "heartbeats of the other peer");
    fixture_free(f);
}

/* A client in a process of its own, with a call open at the server, whose connection is `endpoint`. What is forked off a process with threads may find a lock of theirs held for ever (the
 * sanitizers' allocators have some): such a child is none, and another is made. */
static pid_t fork_client(struct fixture *f, const char *endpoint) {
    for (int tries = 0; tries < 10; tries++) {
        pid_t child = fork();
        if (child == 0) { /* leaves its parent's sockets alone */
            struct loop *l = loop_new(NULL);
            struct bus_client *c;
            (void)alarm(30);
            if (bus_client_open(l, &f->keys, f, NULL, NULL, &c, NULL) < 0) _exit(1);
            struct bus_peer *p = bus_peer_connect(c, endpoint, f->keys.public_key, NULL, NULL);
            if (!bus_call(p, "sleep", NULL, SPAN("0"), false, 5, &f->calls[0], &client_events, NULL)) _exit(2);
            (void)loop_run(l);
            _exit(0);
        }
        for (int64_t deadline = loop_now_ms(f->loop) + 5000; open_streams == 0 && loop_now_ms(f->loop) < deadline;) run_until(f, alive, "alive");
        if (open_streams > 0) return child;
        (void)kill(child, SIGKILL);
        (void)waitpid(child, NULL, 0);
    }
    fail_msg("no child's call came");
    return -1;
}

static bool two_lost(struct fixture *f) { return f->server && bus_server_open_calls(f->server) == 0; }
static void client_killed(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    char endpoint[100];
    (void)snprintf(endpoint, sizeof endpoint, "ipc://%s/s.bus", f->dir);
    run_until(f, alive, "alive");
    pid_t child = fork_client(f, endpoint);
    (void)kill(child, SIGKILL);
    (void)waitpid(child, NULL, 0);
    run_until(f, two_lost, "the server ends the call of a client that is gone");
    assert_int_equal(cancelled_code, E_UNAVAILABLE);
    fixture_free(f);
}

static double dropped(const char *reason) {
    char labels[64];
    (void)snprintf(labels, sizeof labels, "reason=\"%s\"", reason);
    return metric_value(metric_counter("genloop_bus_dropped_total", labels, ""));
}

static bool key_refused(struct fixture *f) {
    (void)f;
    return dropped("key") > 0;
}
static void wrong_keys(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    struct bus_keys other;
    struct bus_client *stranger;
    struct error err = {0};
    char dir[80];
    (void)snprintf(dir, sizeof dir, "%s/other", f->dir);
    assert_int_equal(bus_keys_make(dir, NULL), 0);
    assert_int_equal(bus_keys_load(dir, &other, NULL), 0);
    run_until(f, alive, "alive");
    /* A client with another key, who knows the server's. */
    assert_int_equal(bus_client_open(f->loop, &other, f, on_heartbeat, NULL, &stranger, &err), 0);
    struct bus_peer *p = bus_peer_connect(stranger, bus_server_endpoint(f->server), f->keys.public_key, NULL, &err);
    assert_non_null(p);
    assert_non_null(bus_call(p, "echo", NULL, SPAN("x"), false, 1, &f->calls[0], &client_events, &err));
    run_until(f, key_refused, "the key is refused");
    run_until(f, one_end, "the stranger's call ends");
    assert_int_equal(f->calls[0].code, E_UNAVAILABLE);
    assert_false(bus_peer_alive(p));
    bus_client_close(stranger);
    /* A client that takes somebody else for the server. */
    assert_int_equal(bus_client_open(f->loop, &f->keys, f, on_heartbeat, NULL, &stranger, &err), 0);
    p = bus_peer_connect(stranger, bus_server_endpoint(f->server), other.public_key, NULL, &err);
    f->calls[0].ends = 0;
    assert_non_null(bus_call(p, "echo", NULL, SPAN("x"), false, 1, &f->calls[0], &client_events, &err));
    run_until(f, one_end, "the call ends");
    assert_int_equal(f->calls[0].code, E_UNAVAILABLE);
    bus_client_close(stranger);
    /* Without CURVE at all. */
    void *context = zmq_ctx_new(), *plain = zmq_socket(context, ZMQ_DEALER);
    int zero = 0;
    (void)zmq_setsockopt(plain, ZMQ_LINGER, &zero, sizeof zero);
    assert_int_equal(zmq_connect(plain, bus_server_endpoint(f->server)), 0);
    for (int i = 0; i < 3; i++) (void)zmq_send(plain, "x", 1, i < 2 ? ZMQ_SNDMORE : 0);
    for (int i = 0; i < 50; i++) run_until(f, alive, "alive");
    assert_int_equal(open_streams, 0);
    (void)zmq_close(plain);
    (void)zmq_ctx_term(context);
    assert_true(alive(f));
    fixture_free(f);
}

/* Somebody with the right key who does not speak our format. */
static bool much_dropped(struct fixture *f) {
    (void)f;
    return dropped("format") >= 2 && dropped("parts") >= 2 && dropped("size") >= 5 && dropped("kind") >= 1;
}
static void hostile_frames(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    void *context = zmq_ctx_new(), *z = zmq_socket(context, ZMQ_DEALER);
    int zero = 0;
    (void)zmq_setsockopt(z, ZMQ_LINGER, &zero, sizeof zero);
    (void)zmq_setsockopt(z, ZMQ_CURVE_SERVERKEY, f->keys.public_key, 32);
    (void)zmq_setsockopt(z, ZMQ_CURVE_PUBLICKEY, f->keys.public_key, 32);
    (void)zmq_setsockopt(z, ZMQ_CURVE_SECRETKEY, f->keys.secret_key, 32);
    assert_int_equal(zmq_connect(z, bus_server_endpoint(f->server)), 0);
    static const struct {
        struct span parts[3];
        int n;
    } messages[] = {
        {{{"garbage", 7}}, 1},                                               /* no room for two lengths */
        {{{"\x28\x23\0\0\0\0\0\0", 8}}, 1},                                 /* a frame of 9,000 bytes */
        {{{"\x04\0\0\0\0\0\0\x7f", 8}}, 1},                                 /* a payload of 2 GiB */
        {{{"\x04\0\0\0\x01\0\0\0\x08\x01\x60\x01", 12}}, 1},              /* a payload that is not there */
        {{{"\x07\0\0\0\x01\0\0\0garbagex", 16}}, 1},                      /* a frame that is none */
        {{{"\x04\0\0\0\0\0\0\0\x08\x01\x60\x09", 12}}, 1},                /* of another version */
        {{{"\x04\0\0\0\0\0\0\0\x08\x06\x60\x01\x01", 13}}, 1},           /* a heartbeat, which only servers send, and a byte more */
        {{{"a", 1}, {"b", 1}}, 2}, {{{"a", 1}, {"b", 1}, {"c", 1}}, 3},
        {{{"\x06\0\0\0\0\0\0\0\x08\x02\x10\x05\x60\x01", 14}}, 1},        /* an item and a cancel of no call: late ones look like this */
        {{{"\x06\0\0\0\0\0\0\0\x08\x05\x10\x05\x60\x01", 14}}, 1},
    };
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++)
        for (int k = 0; k < messages[i].n; k++) assert_true(zmq_send(z, messages[i].parts[k].data, messages[i].parts[k].len, k < messages[i].n - 1 ? ZMQ_SNDMORE : 0) >= 0);
    run_until(f, much_dropped, "hostile frames are dropped and counted");
    /* Items beyond the credit end the call, and only it. */
    assert_true(zmq_send(z, "\x0c\0\0\0\x01\0\0\0\x08\x01\x10\x09\x1a\x04sink\x60\x01" "0", 21, 0) >= 0);
    while (open_streams == 0) run_until(f, alive, "alive");
    /* The handler gives each credit back, so only a call that gets its end twice is beyond it. */
    static const char end_twice[] = "\x06\0\0\0\0\0\0\0\x08\x03\x10\x09\x60\x01" "\x06\0\0\0\0\0\0\0\x08\x03\x10\x09\x60\x01";
    assert_true(zmq_send(z, end_twice, sizeof end_twice - 1, 0) >= 0);
    run_until(f, no_streams, "ended");
    start(f, 0, "echo", "still there", false, 0, 0);
    run_until(f, one_end, "echo");
    assert_string_equal(f->calls[0].last, "still there");
    (void)zmq_close(z);
    (void)zmq_ctx_term(context);
    fixture_free(f);
}

static void oversize(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    struct error err = {0};
    char *huge = mem_zalloc(BUS_MESSAGE_MAX + 1);
    assert_null(bus_call(f->peer, "echo", NULL, span_of(huge, BUS_MESSAGE_MAX + 1), false, 0, &f->calls[0], &client_events, &err));
    assert_int_equal(err.code, E_TOO_LARGE);
    f->calls[0].call = bus_call(f->peer, "echo", NULL, span_of(huge, BUS_MESSAGE_MAX), false, 0, &f->calls[0], &client_events, &err); /* the largest goes round */
    run_until(f, one_end, "the largest");
    assert_int_equal(f->calls[0].code, 0);
    mem_free(huge);
    f->calls[0].ends = 0;
    start(f, 0, "huge", "", false, 0, 0);
    run_until(f, one_end, "a reply too large");
    assert_int_equal(f->calls[0].code, E_TOO_LARGE);
    struct bus_context bad = {.tenant = SPAN("\xff")};
    assert_null(bus_call(f->peer, "echo", &bad, SPAN(""), false, 0, &f->calls[0], &client_events, &err));
    assert_int_equal(err.code, E_INVALID);
    static const char *const endpoints[] = {"", "http://x", "tcp://nowhere", "ipc://"};
    for (size_t i = 0; i < 3; i++) {
        if (bus_peer_connect(f->client, endpoints[i], f->keys.public_key, NULL, &err)) fail_msg("\"%s\" was taken", endpoints[i]);
        assert_int_equal(err.code, E_INVALID);
    }
    fixture_free(f);
}

static bool all_ended(struct fixture *f) { return f->ended == 2000; }
static void many_at_once(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    run_until(f, alive, "alive");
    for (int i = 0; i < 2000; i++) {
        f->calls[i].grant = true;
        start(f, i, i % 2 ? "count" : "echo", i % 2 ? "20" : "e", false, 4, 60000);
    }
    run_until(f, all_ended, "2,000 calls");
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(f->calls[i].code, 0);
        assert_int_equal(f->calls[i].ends, 1);
        assert_int_equal(f->calls[i].items, i % 2 ? 20 : 1);
    }
    assert_int_equal(bus_server_open_calls(f->server), 0);
    fixture_free(f);
}

static void too_many(void **state) {
    (void)state;
    struct fixture *f = fixture_new(NULL);
    struct error err = {0};
    for (int i = 0; i < BUS_CALLS_MAX; i++)
        if (!bus_call(f->peer, "sleep", NULL, SPAN("0"), false, 0, &f->calls[0], &client_events, &err)) fail_msg("call %d: %s", i, err.message);
    assert_null(bus_call(f->peer, "sleep", NULL, SPAN("0"), false, 0, &f->calls[0], &client_events, &err));
    assert_int_equal(err.code, E_FULL);
    while (open_streams < BUS_CALLS_MAX) run_until(f, alive, "alive");
    bus_peer_disconnect(f->peer);
    run_until(f, no_streams, "all given up");
    fixture_free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unary), cmocka_unit_test(heartbeats_carry_the_load), cmocka_unit_test(stream_with_credit), cmocka_unit_test(client_stream), cmocka_unit_test(cancel),
        cmocka_unit_test(deadline), cmocka_unit_test(server_closes), cmocka_unit_test(replies_outlive_the_server), cmocka_unit_test(client_closes), cmocka_unit_test(peer_killed), cmocka_unit_test(peer_stopped), cmocka_unit_test(breaks_while_closing), cmocka_unit_test(client_killed),
        cmocka_unit_test(wrong_keys), cmocka_unit_test(hostile_frames), cmocka_unit_test(oversize), cmocka_unit_test(many_at_once), cmocka_unit_test(too_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
