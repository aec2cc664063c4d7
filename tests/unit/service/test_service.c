/*
 * The shell of a service, whole: two services in processes of their own and a Redis between them. They find each other, call, report readiness over HTTP, survive the
 * loss of Redis and of each other, and drain.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "genloop/v1/bus.pb-c.h"
#include "service/service.h"

static char home[64];

/* ---- "ingest": echoes; "slow" is answered half a second later ---- */

struct echo {
    struct service *service;
    struct loop_timer *timer;
    struct bus_reply *slow;
};

static void echo_slow(void *arg) {
    struct echo *e = arg;
    bus_reply_end(e->slow, 0, NULL, SPAN("slow"));
    e->slow = NULL;
}
static void echo_call(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg) {
    struct echo *e = arg;
    (void)context;
    if (span_eq_str(method, "slow") && !e->slow) {
        e->slow = reply;
        *call_arg = e;
        loop_timer_start(e->timer, 500, 0);
    } else {
        bus_reply_end(reply, 0, NULL, request);
    }
}
static void echo_cancel(void *call_arg, struct bus_reply *reply, int code) {
    struct echo *e = call_arg;
    loop_timer_stop(e->timer);
    e->slow = NULL;
    bus_reply_end(reply, code, NULL, SPAN(""));
}
static int echo_start(struct service *s, void **arg, struct error *err) {
    static struct echo e;
    (void)err;
    e.service = s;
    e.timer = loop_timer_new(service_loop(s), &e, echo_slow);
    *arg = &e;
    Genloop__V1__ReplicaLoad load;
    uint8_t bytes[64];
    genloop__v1__replica_load__init(&load);
    load.queued = 42;
    service_load(s, span_of(bytes, genloop__v1__replica_load__pack(&load, bytes)), false);
    service_lag(s, 7);
    service_ready(s, true);
    return 0;
}
static void echo_stop(struct service *s, void *arg) {
    (void)s;
    loop_timer_close(((struct echo *)arg)->timer);
}
static const struct bus_server_events echo_events = {.on_call = echo_call, .on_cancel = echo_cancel};
static const struct service_spec echo_spec = {.name = "ingest", .settings_size = sizeof(struct service_settings), .wants_store = true, .wants_keyring = true, .wants_bus_server = true,
                                              .bus = &echo_events, .start = echo_start, .stop = echo_stop};

/* ---- "gateway": writes down what it sees of its peer ---- */

static void note(const char *name, const char *text) {
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", home, name);
    (void)file_write(path, span_str(text), 0644, NULL);
}

static bool called;
static void caller_item(void *arg, struct span item) {
    (void)arg;
    note("answer", item.len == 5 ? "hello" : "slow");
}
static void caller_end(void *arg, int code, const struct error *err, bool begun) {
    (void)arg;
    (void)begun;
    note(code == 0 ? "ended" : "failed", err ? err->message : "ok");
}
static void caller_peer(struct service *s, void *arg, struct bus_peer *peer, struct span member, bool alive) {
    static const struct bus_call_events events = {.on_item = caller_item, .on_end = caller_end};
    static int seen;
    char text[32];
    (void)s;
    (void)arg;
    Genloop__V1__Member *m = genloop__v1__member__unpack(NULL, member.len, (const uint8_t *)member.data);
    if (m && m->load && m->load->queued == 42 && m->lag_events == 7 && m->ready) note("load", "42");
    if (m) genloop__v1__member__free_unpacked(m, NULL);
    (void)snprintf(text, sizeof text, "%d", ++seen);
    note(alive ? "alive" : "lost", text);
    if (alive && !called) called = bus_call(peer, "echo", NULL, SPAN("hello"), false, 0, NULL, &events, NULL) != NULL;
    if (!alive) called = false;
}
static int caller_start(struct service *s, void **arg, struct error *err) {
    (void)arg;
    (void)err;
    service_ready(s, true);
    return 0;
}
static const char *const caller_peers[] = {"ingest", NULL};
static const struct service_spec caller_spec = {.name = "gateway", .settings_size = sizeof(struct service_settings), .peers = caller_peers, .start = caller_start, .on_peer = caller_peer};

/* ---- processes ---- */

static pid_t spawn(const struct service_spec *spec, const char *admin) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setenv("GENLOOP_HOME", home, 1);
    (void)setenv("GENLOOP_ADMIN", admin, 1);
    (void)setenv("GENLOOP_LOG_LEVEL", "error", 1);
    char *argv[] = {(char *)"service", NULL};
    exit(service_main(1, argv, spec)); /* exit: so that a leak is seen */
}

static pid_t spawn_redis(void) {
    char socket_path[128];
    (void)snprintf(socket_path, sizeof socket_path, "%s/run/cache.sock", home);
    pid_t pid = fork();
    if (pid != 0) return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    int null = open("/dev/null", O_RDWR);
    (void)dup2(null, 1);
    (void)dup2(null, 2);
    (void)execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", socket_path, "--save", "", "--appendonly", "no", "--dir", home, (char *)NULL);
    _exit(1);
}

static bool there(const char *name) {
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", home, name);
    return file_exists(path);
}
static void forget(const char *name) {
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", home, name);
    (void)unlink(path);
}
static void wait_for(const char *name) {
    for (int64_t until = clock_mono_ms() + 20000; !there(name);) {
        if (clock_mono_ms() > until) fail_msg("in vain: %s", name);
        (void)usleep(5000);
    }
}
static int leave(pid_t pid, int signum) {
    int status = -1;
    (void)kill(pid, signum);
    (void)waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int ask(const char *unix_path, const char *path, char *answer, size_t size) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char request[200];
    size_t got = 0;
    ssize_t n;
    span_copy(address.sun_path, sizeof address.sun_path, span_str(unix_path));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        (void)close(fd);
        return -1;
    }
    int len = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    assert_int_equal(write(fd, request, (size_t)len), len);
    while (got < size - 1 && (n = read(fd, answer + got, size - 1 - got)) > 0) got += (size_t)n;
    answer[got] = 0;
    (void)close(fd);
    return got > 12 ? (int)strtol(answer + 9, NULL, 10) : 0;
}
static void wait_status(const char *unix_path, const char *path, int status) {
    char answer[100000];
    for (int64_t until = clock_mono_ms() + 20000; ask(unix_path, path, answer, sizeof answer) != status;) {
        if (clock_mono_ms() > until) fail_msg("in vain: %s %d", path, status);
        (void)usleep(5000);
    }
}

static void whole_life(void **state) {
    (void)state;
    char admin[128], unix_admin[140], path[100], answer[200000];
    (void)snprintf(home, sizeof home, "/tmp/genloop-service-XXXXXX");
    assert_non_null(mkdtemp(home));
    (void)snprintf(path, sizeof path, "%s/run", home);
    assert_int_equal(dir_make(path, NULL), 0);
    (void)snprintf(admin, sizeof admin, "%s/run/a.admin", home);
    (void)snprintf(unix_admin, sizeof unix_admin, "unix:%s", admin);
    pid_t caller = spawn(&caller_spec, "127.0.0.1:0"), redis = spawn_redis(), echo = spawn(&echo_spec, unix_admin); /* all at once */
    wait_for("answer");
    wait_for("ended");
    wait_for("load");
    wait_status(admin, "/livez", 200);
    wait_status(admin, "/readyz", 200);
    assert_int_equal(ask(admin, "/metrics", answer, sizeof answer), 200);
    assert_non_null(strstr(answer, "genloop_ready 1"));
    assert_non_null(strstr(answer, "genloop_lag_events 7"));
    assert_non_null(strstr(answer, "process_resident_memory_bytes"));
    assert_int_equal(ask(admin, "/else", answer, sizeof answer), 404);
    /* Redis goes: both go on, and a killed instance that comes back is found at its place. */
    assert_int_equal(leave(redis, SIGKILL), -SIGKILL);
    assert_int_equal(leave(echo, SIGKILL), -SIGKILL);
    wait_for("lost");
    forget("alive");
    forget("answer");
    echo = spawn(&echo_spec, unix_admin);
    wait_for("alive");
    wait_for("answer");
    redis = spawn_redis();
    /* A drain. */
    assert_int_equal(leave(echo, SIGTERM), 0);
    assert_int_equal(leave(caller, SIGTERM), 0);
    (void)leave(redis, SIGKILL);
    assert_int_equal(dir_remove(home, NULL), 0);
}

static int run_main(const char *const *arguments, const char *home_value) {
    pid_t pid = fork();
    int status, argc = 0;
    if (pid == 0) {
        char *argv[5] = {NULL};
        int null = open("/dev/null", O_RDWR);
        (void)dup2(null, 1);
        (void)dup2(null, 2);
        (void)setenv("GENLOOP_HOME", home_value, 1);
        while (arguments[argc]) argv[argc] = (char *)arguments[argc], argc++;
        exit(service_main(argc, argv, &echo_spec));
    }
    (void)waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What the rows do not say of a setting, the service's own check does: before --check says what is in force, and before a home is made. */
static int refuse_tenant(const void *settings, struct error *err) {
    const struct service_settings *s = settings;
    return strcmp(s->tenant, "nobody") == 0 ? error_set(err, E_INVALID, "tenant: \"%s\" is none", s->tenant) : 0;
}

static int run_checked(const char *tenant, bool check) {
    pid_t pid = fork();
    int status;
    if (pid == 0) {
        struct service_spec spec = echo_spec;
        char *argv[] = {"x", check ? "--check" : NULL, NULL};
        int null = open("/dev/null", O_RDWR);
        spec.check = refuse_tenant;
        (void)dup2(null, 1);
        (void)dup2(null, 2);
        (void)setenv("GENLOOP_HOME", "/proc/none", 1); /* cannot be made: who comes so far ends with 1 */
        (void)setenv("GENLOOP_TENANT", tenant, 1);
        exit(service_main(check ? 2 : 1, argv, &spec));
    }
    (void)waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void own_check(void **state) {
    (void)state;
    assert_int_equal(run_checked("somebody", true), 0);
    assert_int_equal(run_checked("nobody", true), 2);
    assert_int_equal(run_checked("somebody", false), 1);
    assert_int_equal(run_checked("nobody", false), 2);
}

static void command_line(void **state) {
    (void)state;
    static const struct {
        const char *arguments[4];
        int code;
    } cases[] = {
        {{"x", "--version"}, 0}, {{"x", "--help"}, 0}, {{"x", "--describe"}, 0}, {{"x", "--check"}, 0}, {{"x", "--nonsense"}, 2}, {{"x", "--config", "/does/not/exist"}, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int code = run_main(cases[i].arguments, "/tmp/genloop-none");
        if (code != cases[i].code) fail_msg("%s: exit code %d", cases[i].arguments[1], code);
    }
    static const char *const plain[] = {"x", NULL};
    assert_int_equal(run_main(plain, "/proc/none"), 1); /* a home that cannot be made */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(command_line), cmocka_unit_test(own_check), cmocka_unit_test(whole_life)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
