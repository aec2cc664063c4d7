#include "test.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/loop_process.h"
#include "base/loop_stream.h"

static struct loop *loop;
static char trace[256];

static void note(const char *what) {
    size_t n = strlen(trace);
    snprintf(trace + n, sizeof trace - n, "%s ", what);
}
static void say(void *arg) { note(arg); }

static int begin(void **state) {
    (void)state;
    trace[0] = 0;
    loop = loop_new(NULL);
    return loop ? 0 : -1;
}
static int end(void **state) {
    (void)state;
    loop_free(loop);
    return 0;
}

/* ---- timers, posts, work, descriptors, signals --------------------------------------------------------------------------- */

static struct loop_timer *repeating;
static int repeats;
static void repeat(void *arg) {
    (void)arg;
    note("repeat");
    if (++repeats == 3) loop_timer_close(repeating);
}

static void timers(void **state) {
    (void)state;
    struct loop_timer *late = loop_timer_new(loop, "late", say), *early = loop_timer_new(loop, "early", say), *never = loop_timer_new(loop, "never", say), *closed = loop_timer_new(loop, "closed", say);
    repeats = 0;
    repeating = loop_timer_new(loop, NULL, repeat);
    loop_timer_start(late, 120, 0);
    loop_timer_start(early, 60, 0);
    loop_timer_start(never, 1, 0);
    loop_timer_stop(never);
    loop_timer_start(closed, 1, 0);
    loop_timer_close(closed);
    loop_timer_start(repeating, 1, 1);
    loop_run(loop);
    assert_string_equal(trace, "repeat repeat repeat early late ");
    loop_timer_close(late);
    loop_timer_close(NULL);
    /* early and never are left open: loop_free disposes of them */
}

enum { POSTS = 5000 };
static int next_of[2], done_posts;
struct numbered {
    int thread, number;
};
static struct numbered numbers[2][POSTS];
static void count_post(void *arg) {
    struct numbered *n = arg;
    if (next_of[n->thread]++ != n->number) abort(); /* in order per caller */
    if (++done_posts == 2 * POSTS) loop_stop(loop);
}
static void *post_many(void *arg) {
    struct numbered *mine = arg;
    for (int i = 0; i < POSTS; i++) loop_post(loop, count_post, &mine[i]);
    return NULL;
}

static void posts(void **state) {
    (void)state;
    pthread_t ids[2];
    done_posts = next_of[0] = next_of[1] = 0;
    struct loop_timer *hold = loop_timer_new(loop, NULL, say);
    loop_timer_start(hold, 60000, 0); /* something to wait for until the posts are all there */
    for (int t = 0; t < 2; t++) {
        for (int i = 0; i < POSTS; i++) numbers[t][i] = (struct numbered){t, i};
        pthread_create(&ids[t], NULL, post_many, numbers[t]);
    }
    loop_run(loop);
    for (int t = 0; t < 2; t++) pthread_join(ids[t], NULL);
    assert_int_equal(done_posts, 2 * POSTS);
    loop_timer_close(hold);
    /* what is posted before the loop runs is run although nothing else is there */
    assert_int_equal(loop_post(loop, say, "posted"), 0);
    loop_run(loop);
    assert_string_equal(trace, "posted ");
    loop_stop(loop);
    loop_run(loop); /* returns at once */
    alloc_fail_at(1);
    assert_int_equal(loop_post(loop, say, "x"), E_NOMEM);
    alloc_fail_at(0);
}

static _Atomic pthread_t worked_on;
static void work(void *arg) {
    *(int *)arg += 1;
    worked_on = pthread_self();
}
static int works_done;
static void worked(void *arg) {
    works_done++;
    *(int *)arg += 1;
}

static void works(void **state) {
    (void)state;
    static int values[LOOP_WORK_MAX];
    works_done = 0;
    for (int i = 0; i < LOOP_WORK_MAX; i++) assert_int_equal(loop_work(loop, work, worked, &values[i]), 0);
    assert_int_equal(loop_work(loop, work, worked, &values[0]), E_FULL);
    loop_run(loop);
    assert_int_equal(works_done, LOOP_WORK_MAX);
    for (int i = 0; i < LOOP_WORK_MAX; i++) assert_int_equal(values[i], 2);
    assert_false(pthread_equal(worked_on, pthread_self()));
    assert_int_equal(loop_work(loop, work, worked, &values[0]), 0); /* left to loop_free */
}

static struct loop_fd *watch;
static int pipe_fd[2];
static struct loop_turn turn;
static void readable(void *arg, int events) {
    (void)arg;
    char c;
    if (!(events & LOOP_READ) || read(pipe_fd[0], &c, 1) != 1) abort();
    note("fd");
    loop_fd_close(watch);
}
static void on_signal(void *arg, int signum) {
    (void)arg;
    note(signum == SIGUSR1 ? "usr1" : "?");
    if (write(pipe_fd[1], "x", 1) != 1) abort();
    loop_turn_arm(loop, &turn);
    loop_turn_arm(loop, &turn); /* once */
}
static void on_turn(void *arg) {
    (void)arg;
    note("turn");
}

static void descriptors_and_signals(void **state) {
    (void)state;
    assert_int_equal(pipe2(pipe_fd, O_CLOEXEC | O_NONBLOCK), 0);
    watch = loop_fd_open(loop, pipe_fd[0], LOOP_READ, NULL, readable, NULL);
    struct loop_signal *s = loop_signal_open(loop, SIGUSR1, NULL, on_signal);
    turn = (struct loop_turn){.fn = on_turn};
    struct loop_turn never = turn;
    assert_true(watch && s);
    loop_turn_arm(loop, &never);
    loop_turn_disarm(&never);
    kill(getpid(), SIGUSR1);
    loop_run(loop);
    assert_string_equal(trace, "usr1 turn fd ");
    loop_signal_close(s);
    struct error err = {0};
    assert_null(loop_fd_open(loop, -1, LOOP_READ, NULL, readable, &err));
    assert_true(err.code != 0);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
}

/* ---- streams ------------------------------------------------------------------------------------------------------------ */

enum { TOTAL = 24 << 20, CAP = 64 << 10 }; /* far more than the kernel buffers of a connection hold */
static struct listener *listener;
static struct stream *served;
static size_t sent, full_count, drain_count;

static void pump(void *arg) {
    (void)arg;
    char piece[5000];
    while (sent < TOTAL) {
        for (size_t i = 0; i < sizeof piece; i++) piece[i] = (char)((sent + i) % 251);
        int r = stream_write(served, span_of(piece, sizeof piece));
        if (r == E_FULL) {
            full_count++;
            return;
        }
        if (r) abort();
        if (stream_write_queued(served) > CAP) abort();
        sent += sizeof piece;
    }
    stream_shutdown(served);
}
static void drained(void *arg) {
    drain_count++;
    pump(arg);
}
static void asked(void *arg, struct span data) {
    (void)arg;
    if (span_eq(data, SPAN("go"))) pump(NULL);
}
static void peer_ended(void *arg, int r) {
    (void)arg;
    note(r ? "broken" : "end");
    stream_close(served);
    served = NULL;
    listener_close(listener);
    listener = NULL;
}
static const struct stream_events events = {asked, peer_ended, drained};

static void accepted(void *arg, struct stream *s) {
    (void)arg;
    served = s;
    note(stream_peer_loopback(s) ? "loopback" : "remote");
    stream_init(s, CAP, NULL, &events);
    stream_read_start(s);
}

static int connect_tcp(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 32 << 10;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    return connect(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

struct client {
    int fd;
    size_t got;
    bool right;
};
static void *slow_reader(void *arg) {
    struct client *c = arg;
    static char piece[1 << 16];
    if (write(c->fd, "go", 2) != 2) return NULL;
    usleep(50000); /* lets the writer run into its cap */
    for (ssize_t n; (n = read(c->fd, piece, sizeof piece)) > 0;)
        for (ssize_t i = 0; i < n; i++) c->right &= piece[i] == (char)(c->got++ % 251);
    close(c->fd);
    return NULL;
}

static void backpressure(void **state) {
    (void)state;
    sent = full_count = drain_count = 0;
    struct error err = {0};
    listener = listener_open(loop, "127.0.0.1:0", NULL, accepted, &err);
    assert_non_null(listener);
    struct client c = {connect_tcp(listener_port(listener)), 0, true};
    assert_true(c.fd >= 0);
    pthread_t id;
    pthread_create(&id, NULL, slow_reader, &c);
    loop_run(loop);
    pthread_join(id, NULL);
    assert_string_equal(trace, "loopback end ");
    CHECK(c.got == sent && c.right, "%zu of %zu bytes", c.got, sent);
    assert_true(full_count > 0 && drain_count == full_count);
}

static void fill(void *arg, struct span data) {
    (void)arg;
    (void)data;
    char piece[1000] = {0};
    while (!stream_write(served, span_of(piece, sizeof piece))) {}
    note("full");
}
static void peer_broke(void *arg, int r) {
    if (r) peer_ended(arg, r); /* some kernels say the end of file first: the error comes all the same, from the write */
}
static const struct stream_events fill_events = {fill, peer_broke, NULL};
static void accepted_to_fill(void *arg, struct stream *s) {
    (void)arg;
    served = s;
    stream_init(s, CAP, NULL, &fill_events);
    assert_int_equal(stream_write(s, span_of(trace, CAP + 1)), E_TOO_LARGE);
    stream_read_start(s);
}
static void *leave_early(void *arg) {
    struct client *c = arg;
    char byte;
    if (write(c->fd, "go", 2) == 2 && read(c->fd, &byte, 1) == 1) c->got = 1;
    close(c->fd); /* with unread bytes: the writer gets a reset */
    return NULL;
}

static void peer_goes_away(void **state) {
    (void)state;
    listener = listener_open(loop, "localhost:0", NULL, accepted_to_fill, NULL);
    assert_non_null(listener);
    struct client c = {connect_tcp(listener_port(listener)), 0, true};
    pthread_t id;
    pthread_create(&id, NULL, leave_early, &c);
    loop_run(loop);
    pthread_join(id, NULL);
    assert_string_equal(trace, "full broken ");
}

static void answer_and_close(void *arg, struct span data) {
    (void)arg;
    (void)data;
    assert_int_equal(stream_write(served, SPAN("sorry")), 0);
    stream_close_after_flush(served, 5000);
    listener_close(listener);
}
static const struct stream_events closing_events = {answer_and_close, NULL, NULL};
static void accepted_to_close(void *arg, struct stream *s) {
    (void)arg;
    served = s;
    stream_init(s, CAP, NULL, &closing_events);
    stream_read_start(s);
}
static void *talkative(void *arg) {
    struct client *c = arg;
    static char much[1 << 20];
    if (write(c->fd, "x", 1) != 1) return NULL;
    usleep(20000);
    if (write(c->fd, much, sizeof much) < 0) c->right = false;
    char text[16];
    ssize_t n = recv(c->fd, text, sizeof text, MSG_WAITALL); /* 5 bytes and the end, not a reset */
    c->got = n > 0 ? (size_t)n : 0;
    close(c->fd);
    return NULL;
}

static void lingering_close(void **state) {
    (void)state;
    char path[80], address[100];
    snprintf(path, sizeof path, "/tmp/genloop-test-loop-%d.sock", (int)getpid());
    for (int unix_too = 0; unix_too < 2; unix_too++) {
        snprintf(address, sizeof address, "unix:%s", path);
        listener = listener_open(loop, unix_too ? address : "127.0.0.1:0", NULL, accepted_to_close, NULL);
        assert_non_null(listener);
        struct client c = {-1, 0, true};
        if (unix_too) {
            struct sockaddr_un a = {.sun_family = AF_UNIX};
            snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
            c.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
            assert_int_equal(connect(c.fd, (struct sockaddr *)&a, sizeof a), 0);
        } else {
            c.fd = connect_tcp(listener_port(listener));
        }
        pthread_t id;
        pthread_create(&id, NULL, talkative, &c);
        loop_run(loop);
        pthread_join(id, NULL);
        CHECK(c.got == 5 && c.right, "%s: got %zu", unix_too ? "unix" : "tcp", c.got);
    }
    assert_int_equal(access(path, F_OK), -1);
}

static void addresses(void **state) {
    (void)state;
    static const char *const bad[] = {"", "8080", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "::1:80", ":80", "unix:", "unix:/nonexistent/x", "256.1.1.1:80"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct error err = {0};
        struct listener *li = listener_open(loop, bad[i], NULL, accepted, &err);
        CHECK(li == NULL && err.message[0], "%s", bad[i]);
    }
    struct error err = {0};
    struct listener *a = listener_open(loop, "127.0.0.1:0", NULL, accepted, &err);
    char same[40];
    snprintf(same, sizeof same, "127.0.0.1:%d", listener_port(a));
    assert_null(listener_open(loop, same, NULL, accepted, &err));
    assert_int_equal(err.code, E_EXISTS);
    listener_close(a);
    listener_close(NULL);
}

/* ---- processes ---------------------------------------------------------------------------------------------------------- */

static int exit_status;
static void exited(void *arg, int status) {
    exit_status = status;
    note(arg);
}

static void processes(void **state) {
    (void)state;
    static const struct {
        const char *script;
        int status;
    } cases[] = {{"exit 0", 0}, {"exit 7", 7}, {"kill -9 $$", -9}};
    struct error err = {0};
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *argv[] = {"sh", "-c", cases[i].script, NULL};
        struct process *p = process_spawn(loop, argv, NULL, -1, "exited", exited, &err);
        CHECK(p != NULL, "%s", err.message);
        assert_true(process_pid(p) > 0);
        loop_run(loop);
        CHECK(exit_status == cases[i].status, "%s: %d", cases[i].script, exit_status);
        assert_int_equal(process_kill(p, SIGTERM), E_NOT_FOUND);
        process_close(p);
    }
    const char *missing[] = {"/nonexistent/program", NULL};
    assert_null(process_spawn(loop, missing, NULL, -1, "exited", exited, &err));
    assert_int_equal(err.code, E_NOT_FOUND);

    int out[2];
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    const char *echo[] = {"sh", "-c", "echo $WHAT; echo error >&2", NULL}, *env[] = {"WHAT=hello", "PATH=/usr/bin:/bin", NULL};
    struct process *p = process_spawn(loop, echo, env, out[1], "exited", exited, &err);
    close(out[1]);
    loop_run(loop);
    char text[32] = "";
    assert_int_equal(read(out[0], text, sizeof text - 1), 12);
    assert_string_equal(text, "hello\nerror\n");
    close(out[0]);
    process_close(p);

    /* a signal reaches the whole group; two children at once are told apart */
    const char *sleeper[] = {"sh", "-c", "sleep 100 & wait", NULL}, *quick[] = {"true", NULL};
    struct process *slow = process_spawn(loop, sleeper, NULL, -1, "slow", exited, &err), *fast = process_spawn(loop, quick, NULL, -1, "fast", exited, &err);
    trace[0] = 0;
    assert_int_equal(process_kill(slow, SIGKILL), 0);
    loop_run(loop);
    assert_true(strstr(trace, "slow") && strstr(trace, "fast"));
    process_close(slow);
    process_close(fast);

    struct process *left = process_spawn(loop, sleeper, NULL, -1, "left", exited, &err);
    int pid = process_pid(left);
    trace[0] = 0;
    process_close(left);
    loop_run(loop); /* nothing to wait for */
    assert_string_equal(trace, "");
    kill(-pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* ---- sockets that systemd passed ---- */

static void came(void *arg, struct stream *s) {
    (void)arg;
    note("came");
    stream_close(s);
    loop_stop(loop);
}

/* In a child: descriptors 3 and 4 are the TCP and the Unix socket of `names`. 0: every connection arrived and what is wrong was refused. */
static int activated(int tcp, int unix_socket, int plain) {
    char pid[16];
    struct error err;
    if (dup2(tcp, 3) < 0 || dup2(unix_socket, 4) < 0 || dup2(plain, 5) < 0) return 1;
    snprintf(pid, sizeof pid, "%d", getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "3", 1);
    setenv("LISTEN_FDNAMES", "door:side:plain", 1);
    loop = loop_new(NULL);
    struct listener *first = listener_open(loop, "systemd:", NULL, came, &err), *door = listener_open(loop, "systemd:door", NULL, came, &err);
    struct listener *side = listener_open(loop, "systemd:side", NULL, came, &err);
    if (!first || !door || !side || listener_port(door) == 0 || listener_port(first) != listener_port(door) || listener_port(side) != 0) return 2;
    listener_close(first); /* the socket stays for the other */
    if (!listener_is_local("systemd:door") || !listener_is_local("systemd:side") || listener_is_local("systemd:other")) return 3;
    if (listener_open(loop, "systemd:other", NULL, came, &err) || !strstr(err.message, "FileDescriptorName") || err.code != E_INVALID) return 4;
    if (listener_open(loop, "systemd:plain", NULL, came, &err) || !strstr(err.message, "no listening")) return 5;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)listener_port(door)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client < 0 || connect(client, (const struct sockaddr *)&a, sizeof a) < 0) return 6;
    loop_run(loop);
    if (strcmp(trace, "came ") != 0) return 7;
    listener_close(door);
    if (connect(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), (const struct sockaddr *)&a, sizeof a) < 0) return 8; /* who restarts us keeps the socket: nobody is refused meanwhile */
    listener_close(side);
    setenv("LISTEN_PID", "1", 1); /* meant for another process */
    if (listener_open(loop, "systemd:door", NULL, came, &err) || !strstr(err.message, "passed no socket")) return 9;
    loop_free(loop);
    return 0;
}

static void sockets_of_systemd(void **state) {
    (void)state;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    snprintf(path.sun_path, sizeof path.sun_path, "/tmp/genloop-activated-%d.sock", getpid());
    int tcp = socket(AF_INET, SOCK_STREAM, 0), side = socket(AF_UNIX, SOCK_STREAM, 0), plain = socket(AF_INET, SOCK_DGRAM, 0), status = -1;
    assert_int_equal(bind(tcp, (const struct sockaddr *)&a, sizeof a) | listen(tcp, 8) | bind(side, (const struct sockaddr *)&path, sizeof path) | listen(side, 8), 0);
    tcp = fcntl(tcp, F_DUPFD, 20); /* out of the way of 3 to 5 */
    side = fcntl(side, F_DUPFD, 20);
    plain = fcntl(plain, F_DUPFD, 20);
    pid_t pid = fork();
    if (pid == 0) _exit(activated(tcp, side, plain));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WIFEXITED(status) ? WEXITSTATUS(status) : 100, 0);
    assert_int_equal(access(path.sun_path, F_OK), 0); /* not ours to remove */
    unlink(path.sun_path);
    assert_null(listener_open(loop, "systemd:door", NULL, came, NULL)); /* nothing was passed here */
}

#define LOOP_TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
    const struct CMUnitTest tests[] = {LOOP_TEST(timers),         LOOP_TEST(posts),           LOOP_TEST(works),     LOOP_TEST(descriptors_and_signals), LOOP_TEST(backpressure),
                                       LOOP_TEST(peer_goes_away), LOOP_TEST(lingering_close), LOOP_TEST(addresses), LOOP_TEST(processes), LOOP_TEST(sockets_of_systemd)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
