#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop_process.h"
#include "base/loop_stream.h"
#include "control.h"
#include "log_file.h"
#include "service/notify.h"

enum {
    PING_MS = 10,              /* a private Redis is there after some 20 ms */
    START_PATIENCE_MS = 600000, /* a replica loads what the registry asks of it; beyond it somebody should look */
    CONNECTIONS_MAX = 64,
    ANSWER_FLUSH_MS = 1000,
    OUTPUT_TURN_MAX = 1 << 20, /* read of one child before others have their turn */
    HOME_CHECK_MS = 2000,
};

/* A child as a process; its decisions are in the struct supervise_child of the same place. */
struct run {
    struct supervisor *supervisor;
    struct process *process;
    struct loop_fd *output;
    int output_fd, ping_fd;
    struct log_file log;
    char admin[64];
};

enum wait_for { WAIT_NOTHING, WAIT_READY, WAIT_SCALE, WAIT_DRAIN, WAIT_DOWN };
struct connection {
    struct connection *next;
    struct supervisor *supervisor;
    struct stream *stream;
    struct buf in;
    enum wait_for wait;
    char replica[SUPERVISE_NAME_MAX];
};

struct supervisor {
    struct supervisor_config config;
    const struct platform *platform;
    struct loop *loop;
    struct supervise core;
    struct run *runs[SUPERVISE_CHILDREN_MAX];
    struct log_file log;
    struct loop_timer *wake, *ping, *patience, *home;
    struct loop_signal *signals[3];
    int notify_fd;
    struct loop_fd *notify;
    struct listener *door;
    struct connection *connections;
    int n_connections;
    enum supervise_phase told; /* the phase that has been reported */
    int64_t started_time_ms, started_mono_ms;
    int exit_code;
    char failure[ERROR_MESSAGE_MAX]; /* why it could not start */
    bool stepping;
};

static void step(struct supervisor *s);

/* ---- what a person hears ---- */

static void write_report(struct supervisor *s, struct span text) {
    while (text.len && s->config.report_fd >= 0) {
        ssize_t n = write(s->config.report_fd, text.data, text.len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) s->config.report_fd = -1; /* whoever listened has gone; the log has it */
        else text = span_skip(text, (size_t)n);
    }
}

static void send_line(struct connection *c, struct buf *line) {
    if (!line->failed) (void)stream_write(c->stream, buf_span(line));
}

static void tell(struct supervisor *s, const char *level, const char *event, const char *format, ...) __attribute__((format(printf, 4, 5)));
static void tell(struct supervisor *s, const char *level, const char *event, const char *format, ...) {
    char text[ERROR_MESSAGE_MAX + 256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct span message = span_of(text, n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    message.len = span_utf8_complete(message);
    log_file_say(&s->log, level, event, message);
    write_report(s, message);
    write_report(s, SPAN("\n"));
    for (struct connection *c = s->connections; c; c = c->next) {
        struct buf line;
        struct json_out w;
        if (c->wait == WAIT_NOTHING) continue;
        buf_init(&line, 4096);
        json_begin(&w, &line);
        json_object(&w);
        json_span(&w, "event", message);
        json_object_end(&w);
        (void)buf_append_char(&line, '\n');
        send_line(c, &line);
        buf_fini(&line);
    }
}

static void end_report(struct supervisor *s, int code) {
    char text[16];
    if (!s->config.detached || s->config.report_fd < 0) return;
    int n = snprintf(text, sizeof text, "%c%d\n", SUPERVISOR_REPORT_END, code);
    write_report(s, span_of(text, (size_t)n));
    if (s->config.report_fd >= 0) (void)close(s->config.report_fd);
    s->config.report_fd = -1;
}

/* ---- children ---- */

static size_t index_of(const struct supervisor *s, const struct run *run) {
    size_t i = 0;
    while (i < s->core.n && s->runs[i] != run) i++;
    ASSERT(i < s->core.n);
    return i;
}

static void close_output(struct run *run) {
    if (run->output) loop_fd_close(run->output);
    if (run->output_fd >= 0) (void)close(run->output_fd);
    run->output = NULL;
    run->output_fd = -1;
}

static void read_output(struct run *run) {
    char bytes[16384];
    for (int total = 0; total < OUTPUT_TURN_MAX && run->output_fd >= 0;) {
        ssize_t n = read(run->output_fd, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            close_output(run);
            return;
        }
        log_file_feed(&run->log, span_of(bytes, (size_t)n));
        total += (int)n;
    }
}

static void on_output(void *arg, int events) {
    (void)events;
    read_output(arg);
}

static void close_ping(struct run *run) {
    if (run->ping_fd >= 0) (void)close(run->ping_fd);
    run->ping_fd = -1;
}

static const char *status_text(int status, char *out, size_t out_size) {
    if (status < 0) (void)snprintf(out, out_size, "ended by signal %d (%s)", -status, strsignal(-status));
    else (void)snprintf(out, out_size, "ended with exit code %d", status);
    return out;
}

static void child_ended(struct run *run, int status) {
    struct supervisor *s = run->supervisor;
    size_t i = index_of(s, run);
    struct supervise_child *c = &s->core.children[i];
    char how[96];
    int64_t now = loop_now_ms(s->loop);
    bool asked = c->state == SUPERVISE_STOPPING;
    close_ping(run);
    read_output(run);
    log_file_flush(&run->log);
    close_output(run);
    run->admin[0] = '\0';
    supervise_exited(&s->core, i, status, now);
    if (asked) {
        tell(s, "info", "child.stopped", "%s has stopped%s%s%s", c->name, status ? " (" : "", status ? status_text(status, how, sizeof how) : "", status ? ")" : "");
    } else if (s->core.phase < SUPERVISE_STOPS) {
        char when[32] = "at once";
        if (c->due_ms > now) (void)snprintf(when, sizeof when, "in %lld ms", (long long)(c->due_ms - now));
        tell(s, "warn", "child.ended", "%s %s, starts again %s%s%s", c->name, status_text(status, how, sizeof how), when, !c->was_ready && run->log.last_error[0] ? ": " : "",
             !c->was_ready ? run->log.last_error : "");
    } else {
        tell(s, "warn", "child.ended", "%s %s", c->name, status_text(status, how, sizeof how));
    }
}

static void on_exit_of(void *arg, int status) {
    struct run *run = arg;
    struct supervisor *s = run->supervisor;
    int pid = process_pid(run->process);
    process_close(run->process);
    run->process = NULL;
    (void)kill(-pid, SIGKILL); /* what it started itself and left: Redis' writer of a new append-only file */
    child_ended(run, status);
    step(s);
}

static int spawn(struct supervisor *s, struct run *run, const struct supervise_child *child, struct error *err) {
    struct platform_command command;
    int ends[2] = {-1, -1};
    int r = platform_command(s->platform, child, &command, err);
    if (r != 0) return r;
    close_output(run);
    run->log.last_error[0] = '\0';
    if (pipe2(ends, O_CLOEXEC) != 0) r = error_errno(err, errno, "a pipe for %s", child->name);
    /* Only our end must not block: a child's logging would lose lines. */
    if (r == 0 && fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0) r = error_errno(err, errno, "a pipe for %s", child->name);
    if (r == 0) {
        run->output_fd = ends[0];
        ends[0] = -1;
        run->output = loop_fd_open(s->loop, run->output_fd, LOOP_READ, run, on_output, err);
        if (!run->output) r = E_IO;
    }
    if (r == 0 && !(run->process = process_spawn(s->loop, command.argv, command.env, ends[1], run, on_exit_of, err))) {
        r = E_IO;
        if (child->kind <= SUPERVISE_CACHE && err->code == E_NOT_FOUND)
            (void)error_set(err, E_NOT_FOUND, "%s is not installed: apt-get install redis-server, or name it as supervisor.redis_server in genloop.yaml", command.argv[0]);
    }
    for (int i = 0; i < 2; i++)
        if (ends[i] >= 0) (void)close(ends[i]);
    if (r != 0) close_output(run);
    platform_command_free(&command);
    return r;
}

static int run_new(struct supervisor *s, size_t i) {
    struct error err = {0};
    const struct platform_settings *set = &s->platform->settings;
    struct run *run = mem_zalloc(sizeof *run);
    if (!run) return E_NOMEM;
    run->supervisor = s;
    run->output_fd = run->ping_fd = -1;
    int r = log_file_open(&run->log, s->platform->home, s->core.children[i].name, set->log_file_max, (int)set->log_files, strcmp(set->shared.log_format, "text") == 0, &err);
    if (r != 0) {
        tell(s, "error", "child.log", "%s", err.message);
        mem_free(run);
        return r;
    }
    s->runs[i] = run;
    return 0;
}

static void run_free(struct run *run) {
    if (!run) return;
    process_close(run->process);
    close_ping(run);
    close_output(run);
    log_file_close(&run->log);
    mem_free(run);
}

static void start_child(struct supervisor *s, size_t i) {
    struct error err = {0};
    struct supervise_child *c = &s->core.children[i];
    int r = s->runs[i] ? 0 : run_new(s, i);
    if (r == 0) r = spawn(s, s->runs[i], c, &err);
    if (r == 0) {
        char text[64];
        (void)snprintf(text, sizeof text, "%s, pid %d", c->name, process_pid(s->runs[i]->process));
        log_file_say(&s->log, "info", "child.start", span_str(text));
        if (c->kind <= SUPERVISE_CACHE) loop_timer_start(s->ping, 1, PING_MS);
        return;
    }
    if (s->runs[i]) span_copy(s->runs[i]->log.last_error, sizeof s->runs[i]->log.last_error, span_str(err.message));
    supervise_exited(&s->core, i, 127, loop_now_ms(s->loop));
    tell(s, "error", "child.start", "%s cannot be started: %s", c->name, err.message);
}

static void forget_child(struct supervisor *s, size_t i) { /* the core has moved its last into this place */
    run_free(s->runs[i]);
    s->runs[i] = s->runs[s->core.n];
    s->runs[s->core.n] = NULL;
}

static void child_ready(struct supervisor *s, size_t i, bool ready) {
    struct supervise_child *c = &s->core.children[i];
    bool first = ready && !c->was_ready && c->state == SUPERVISE_RUNNING;
    if (c->ready == ready) return;
    supervise_ready(&s->core, i, ready, loop_now_ms(s->loop));
    if (first) tell(s, "info", "child.ready", "%s is ready after %lld ms", c->name, (long long)(c->ready_ms - c->started_ms));
    step(s);
}

/* ---- readiness: services say it, a Redis is asked ---- */

static void notified(struct supervisor *s, int pid, struct span message) {
    struct span line;
    for (size_t i = 0; i < s->core.n; i++) {
        struct run *run = s->runs[i];
        if (!run || !run->process || process_pid(run->process) != pid) continue;
        int ready = -1;
        while (span_cut(&message, '\n', &line)) {
            if (span_starts(line, SPAN("X_GENLOOP_ADMIN="))) span_copy(run->admin, sizeof run->admin, span_skip(line, strlen("X_GENLOOP_ADMIN=")));
            else if (span_eq_str(line, "X_GENLOOP_READY=1")) ready = 1;
            else if (span_eq_str(line, "X_GENLOOP_READY=0")) ready = 0;
        }
        if (ready >= 0) child_ready(s, i, ready == 1);
        return;
    }
}

static void on_notify(void *arg, int events) {
    struct supervisor *s = arg;
    (void)events;
    for (;;) {
        char text[NOTIFY_MESSAGE_MAX];
        union {
            struct cmsghdr header;
            char space[CMSG_SPACE(sizeof(struct ucred))];
        } control;
        struct iovec iov = {text, sizeof text};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t n = recvmsg(s->notify_fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS) continue;
        struct ucred who;
        memcpy(&who, CMSG_DATA(c), sizeof who); /* the kernel's word for who it was, not the sender's */
        notified(s, who.pid, span_of(text, (size_t)n));
    }
}

/* Shorter than supervisor.sock's path or as long, which platform_open has checked. */
static struct sockaddr_un socket_address(const struct supervisor *s, const char *name) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int n = snprintf(a.sun_path, sizeof a.sun_path, "%s/run/%s.sock", s->platform->home, name);
    ASSERT(n > 0 && (size_t)n < sizeof a.sun_path);
    return a;
}

/* A connection with one PING on it; asked again every PING_MS until the answer is PONG. */
static bool ping(struct supervisor *s, struct run *run, const char *name) {
    char answer[64];
    if (run->ping_fd < 0) {
        struct sockaddr_un to = socket_address(s, name);
        run->ping_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (run->ping_fd < 0) return false;
        if (connect(run->ping_fd, (const struct sockaddr *)&to, sizeof to) != 0 || send(run->ping_fd, "PING\r\n", 6, MSG_NOSIGNAL) != 6) close_ping(run);
        return false;
    }
    ssize_t n = recv(run->ping_fd, answer, sizeof answer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    bool ready = n >= 5 && memcmp(answer, "+PONG", 5) == 0;
    close_ping(run); /* "-LOADING": it reads its file; another question later */
    return ready;
}

static void on_ping(void *arg) {
    struct supervisor *s = arg;
    bool more = false;
    for (size_t i = 0; i < s->core.n; i++) {
        struct supervise_child *c = &s->core.children[i];
        if (c->kind > SUPERVISE_CACHE || c->state != SUPERVISE_RUNNING || c->ready || !s->runs[i]) continue;
        if (ping(s, s->runs[i], c->name)) child_ready(s, i, true);
        else more = true;
    }
    if (!more) loop_timer_stop(s->ping);
}

/* ---- the door ---- */

static uint64_t resident_bytes(int pid) {
    char path[64];
    unsigned long long total = 0, resident = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    if (fscanf(f, "%llu %llu", &total, &resident) != 2) resident = 0;
    (void)fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void write_child(struct supervisor *s, size_t i, struct json_out *w) {
    const struct supervise_child *c = &s->core.children[i];
    const struct run *run = s->runs[i];
    int pid = run && run->process ? process_pid(run->process) : 0;
    char how[96];
    json_object(w);
    json_str(w, "name", c->name);
    json_str(w, "service", supervise_kind_name(c->kind));
    json_str(w, "state", supervise_state_name(&s->core, c));
    json_key(w, "pid");
    if (pid) json_put_int(w, pid);
    else json_put_null(w);
    json_str(w, "admin", run && run->admin[0] ? run->admin : NULL);
    json_num(w, "restarts", c->restarts);
    json_num(w, "resident_bytes", pid ? (int64_t)resident_bytes(pid) : 0);
    json_key(w, "started_time_ms");
    if (pid) json_put_int(w, s->started_time_ms + (c->started_ms - s->started_mono_ms));
    else json_put_null(w);
    json_key(w, "ready_after_ms");
    if (pid && c->was_ready) json_put_int(w, c->ready_ms - c->started_ms);
    else json_put_null(w);
    json_str(w, "last_end", c->ended || c->restarts ? status_text(c->last_status, how, sizeof how) : NULL);
    json_str(w, "last_error", c->state == SUPERVISE_WAITING && run && run->log.last_error[0] ? run->log.last_error : NULL);
    json_str(w, "log", run ? run->log.path : NULL);
    json_object_end(w);
}

static void write_platform(struct supervisor *s, struct buf *line) {
    static const char *const phases[] = {"starting", "running", "stopping", "stopped"};
    struct json_out w;
    char url[192];
    platform_url(s->platform, url, sizeof url);
    json_begin(&w, line);
    json_object(&w);
    json_str(&w, "object", "platform");
    json_str(&w, "state", phases[s->core.phase]);
    json_str(&w, "home", s->platform->home);
    json_str(&w, "url", url);
    json_num(&w, "pid", getpid());
    json_str(&w, "version", GENLOOP_VERSION);
    json_num(&w, "resident_bytes", (int64_t)resident_bytes(getpid()));
    json_num(&w, "started_time_ms", s->started_time_ms);
    json_num(&w, "replicas", supervise_replicas(&s->core));
    json_key(&w, "processes");
    json_array(&w);
    for (size_t i = 0; i < s->core.n; i++) write_child(s, i, &w);
    json_array_end(&w);
    json_object_end(&w);
    (void)buf_append_char(line, '\n');
}

static void connection_close(struct connection *c, bool flush) {
    struct supervisor *s = c->supervisor;
    struct connection **at = &s->connections;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    s->n_connections--;
    if (flush) stream_close_after_flush(c->stream, ANSWER_FLUSH_MS);
    else stream_close(c->stream);
    buf_fini(&c->in);
    mem_free(c);
}

static void answer(struct connection *c) {
    struct buf line;
    buf_init(&line, CONTROL_LINE_MAX);
    write_platform(c->supervisor, &line);
    send_line(c, &line);
    buf_fini(&line);
    connection_close(c, true);
}

static void refuse(struct connection *c, const struct error *err) {
    struct buf line;
    struct json_out w;
    buf_init(&line, 8192);
    json_begin(&w, &line);
    json_object(&w);
    json_key(&w, "error");
    json_object(&w);
    json_num(&w, "code", err->code);
    json_str(&w, "message", err->message);
    json_object_end(&w);
    json_object_end(&w);
    (void)buf_append_char(&line, '\n');
    send_line(c, &line);
    buf_fini(&line);
    connection_close(c, true);
}

/* Whether what this connection waits for has come; answers it then. */
static void settle(struct connection *c) {
    struct supervisor *s = c->supervisor;
    struct error err = {0};
    bool all = true, replicas = true, there = false;
    const struct supervise_child *failing = NULL;
    for (size_t i = 0; i < s->core.n; i++) {
        const struct supervise_child *k = &s->core.children[i];
        bool fine = k->wanted && k->state == SUPERVISE_RUNNING && k->ready;
        all &= fine || !k->wanted;
        if (k->kind == SUPERVISE_INFERENCE) replicas &= fine;
        there |= strcmp(k->name, c->replica) == 0 && !k->wanted;
        if (k->wanted && k->failures >= START_FAILURES_MAX && (c->wait == WAIT_READY || k->kind == SUPERVISE_INFERENCE)) failing = k;
    }
    bool stops = s->core.phase >= SUPERVISE_STOPS;
    if (c->wait == WAIT_NOTHING || c->wait == WAIT_DOWN) return; /* the end comes from on_stopped */
    if (stops) (void)error_set(&err, E_STATE, "the platform is stopping");
    else if (failing && c->wait != WAIT_DRAIN) (void)error_set(&err, E_STATE, "%s fails again and again, and goes on being tried: genloop logs %s", failing->name, failing->name);
    if (err.code) refuse(c, &err);
    else if (c->wait == WAIT_READY ? all : c->wait == WAIT_SCALE ? replicas : !there) answer(c);
}

static void settle_all(struct supervisor *s) {
    for (struct connection *c = s->connections, *next; c; c = next) {
        next = c->next;
        settle(c);
    }
}

static int keep_replicas(struct supervisor *s, struct error *err) { return platform_keep_replicas(s->platform, supervise_replicas(&s->core), err); }

static int do_request(struct connection *c, const struct json *root, struct error *err) {
    struct supervisor *s = c->supervisor;
    struct span verb = json_string(json_get(root, "do"));
    int64_t now = loop_now_ms(s->loop);
    int r = 0;
    if (span_eq_str(verb, "status")) {
        answer(c);
        return 0;
    }
    if (span_eq_str(verb, "wait")) {
        c->wait = WAIT_READY;
    } else if (span_eq_str(verb, "scale")) {
        int64_t n = json_int(json_get(root, "inference"), -1);
        r = supervise_scale(&s->core, n < 0 || n > SUPERVISE_REPLICAS_MAX ? -1 : (int)n, now, err);
        if (r == 0) r = keep_replicas(s, err);
        c->wait = WAIT_SCALE;
    } else if (span_eq_str(verb, "drain")) {
        span_copy(c->replica, sizeof c->replica, json_string(json_get(root, "replica")));
        r = supervise_drain(&s->core, c->replica, err);
        if (r == 0) r = keep_replicas(s, err);
        c->wait = WAIT_DRAIN;
    } else if (span_eq_str(verb, "down")) {
        c->wait = WAIT_DOWN;
        supervise_down(&s->core, false, now);
    } else {
        r = error_set(err, E_UNSUPPORTED, "the supervisor knows no \"%.*s\": is it of another version?", SPAN_ARG(span_sub(verb, 0, 40)));
    }
    if (r == 0) step(s);
    return r;
}

static void on_read(void *arg, struct span data) {
    struct connection *c = arg;
    struct error err = {0};
    struct json *root = NULL;
    if (c->wait != WAIT_NOTHING) return; /* one request a connection */
    int r = buf_append_span(&c->in, data);
    ptrdiff_t end = span_find_char(buf_span(&c->in), '\n');
    if (r == 0 && end < 0) return;
    if (r != 0) r = error_set(&err, E_TOO_LARGE, "a request has at most %d bytes", CONTROL_REQUEST_MAX);
    else r = json_parse(span_sub(buf_span(&c->in), 0, (size_t)end), &root, &err);
    if (r == 0) r = do_request(c, root, &err);
    json_free(root);
    if (r != 0) refuse(c, &err);
}

static void on_end(void *arg, int r) { /* whoever waited has gone; what was asked goes on */
    struct connection *c = arg;
    (void)r;
    connection_close(c, false);
}

static void on_accept(void *arg, struct stream *stream) {
    static const struct stream_events events = {.on_read = on_read, .on_end = on_end};
    struct supervisor *s = arg;
    struct connection *c = s->n_connections < CONNECTIONS_MAX ? mem_zalloc(sizeof *c) : NULL;
    if (!c) {
        stream_close(stream);
        return;
    }
    c->supervisor = s;
    c->stream = stream;
    buf_init(&c->in, CONTROL_REQUEST_MAX);
    c->next = s->connections;
    s->connections = c;
    s->n_connections++;
    stream_init(stream, CONTROL_LINE_MAX, c, &events);
    stream_read_start(stream);
}

/* ---- the loop ---- */

static void cannot_start(struct supervisor *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void cannot_start(struct supervisor *s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)vsnprintf(s->failure, sizeof s->failure, format, args);
    va_end(args);
    s->exit_code = 1;
    tell(s, "error", "platform.failed", "%s", s->failure);
    supervise_down(&s->core, false, loop_now_ms(s->loop));
}

static void on_phase(struct supervisor *s) {
    char url[192], name[SUPERVISE_NAME_MAX];
    const struct supervise_child *hopeless = supervise_hopeless(&s->core);
    if (hopeless) {
        const struct run *run = s->runs[hopeless - s->core.children];
        span_copy(name, sizeof name, span_str(hopeless->name));
        cannot_start(s, "%s does not start%s%s (genloop logs %s shows more)", name, run && run->log.last_error[0] ? ": " : "", run ? run->log.last_error : "", name);
    }
    if (s->core.phase == s->told) return;
    s->told = s->core.phase;
    platform_url(s->platform, url, sizeof url);
    if (s->told == SUPERVISE_RUNS) {
        loop_timer_stop(s->patience);
        tell(s, "info", "platform.ready", "genloop is up after %lld ms: %s (home %s)", (long long)(loop_now_ms(s->loop) - s->started_mono_ms), url, s->platform->home);
        if (strcmp(s->platform->listen, "127.0.0.1:8080") != 0) tell(s, "info", "platform.url", "other verbs find it by: export GENLOOP_URL=%s", url);
        (void)notify("READY=1\n"); /* where systemd runs the supervisor */
        end_report(s, 0);
    } else if (s->told == SUPERVISE_STOPS) {
        (void)notify("STOPPING=1\n");
        tell(s, "info", "platform.stopping", "genloop is stopping: open requests are finished first");
    } else if (s->told == SUPERVISE_STOPPED) {
        tell(s, "info", "platform.stopped", "genloop is down");
        end_report(s, s->exit_code);
        loop_stop(s->loop);
    }
}

static void step(struct supervisor *s) {
    struct supervise_action a;
    if (s->stepping) return; /* whoever is stepping sees it */
    enum supervise_phase seen;
    s->stepping = true;
    do {
        while (supervise_next(&s->core, loop_now_ms(s->loop), &a)) {
            struct run *run = s->runs[a.child];
            switch (a.verb) {
            case SUPERVISE_START: start_child(s, a.child); break;
            case SUPERVISE_TERM: (void)process_kill(run->process, SIGTERM); break;
            case SUPERVISE_KILL:
                tell(s, "warn", "child.kill", "%s takes too long to stop, and is killed", s->core.children[a.child].name);
                (void)process_kill(run->process, SIGKILL);
                break;
            case SUPERVISE_FORGET: forget_child(s, a.child); break;
            }
        }
        seen = s->core.phase;
        on_phase(s);
    } while (s->core.phase != seen); /* a start that was given up: what runs has to go */
    settle_all(s);
    s->stepping = false;
    int64_t wake = supervise_wake_ms(&s->core);
    if (wake == INT64_MAX) loop_timer_stop(s->wake);
    else loop_timer_start(s->wake, wake - loop_now_ms(s->loop) + 1, 0);
}

static void on_wake(void *arg) { step(arg); }

static void on_patience(void *arg) {
    struct supervisor *s = arg;
    if (s->core.phase == SUPERVISE_STARTS) cannot_start(s, "not everything is ready after %d s: genloop logs shows why", START_PATIENCE_MS / 1000);
    step(s);
}

/* Whose home was removed can be reached by nobody any more, and nothing that it starts would find what it needs. */
static void on_home(void *arg) {
    struct supervisor *s = arg;
    struct sockaddr_un door = socket_address(s, "supervisor");
    if (s->core.phase >= SUPERVISE_STOPS || access(door.sun_path, F_OK) == 0) return;
    tell(s, "error", "platform.home", "%s is gone: the home was removed, or belongs to another supervisor", door.sun_path);
    s->exit_code = 1;
    supervise_down(&s->core, true, loop_now_ms(s->loop));
    step(s);
}

static void on_signal(void *arg, int signum) {
    struct supervisor *s = arg;
    bool again = s->core.phase >= SUPERVISE_STOPS;
    tell(s, "info", "platform.signal", "%s%s", strsignal(signum), again ? " again: at once" : "");
    supervise_down(&s->core, again, loop_now_ms(s->loop));
    for (size_t i = 0; again && i < s->core.n; i++)
        if (s->core.children[i].state == SUPERVISE_STOPPING) (void)process_kill(s->runs[i]->process, SIGTERM);
    step(s);
}

static int open_notify(struct supervisor *s, struct error *err) {
    struct sockaddr_un at = socket_address(s, "notify");
    int one = 1;
    (void)unlink(at.sun_path);
    s->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->notify_fd < 0 || bind(s->notify_fd, (const struct sockaddr *)&at, sizeof at) != 0 || setsockopt(s->notify_fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) != 0)
        return error_errno(err, errno, "%s", at.sun_path);
    s->notify = loop_fd_open(s->loop, s->notify_fd, LOOP_READ, s, on_notify, err);
    return s->notify ? 0 : E_IO;
}

static int open_all(struct supervisor *s, struct error *err) {
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    const struct platform_settings *set = &s->platform->settings;
    struct sockaddr_un door = socket_address(s, "supervisor");
    char address[sizeof door.sun_path + 8];
    int r = log_file_open(&s->log, s->platform->home, "supervisor", set->log_file_max, (int)set->log_files, strcmp(set->shared.log_format, "text") == 0, err);
    if (r != 0) return r;
    if (!(s->loop = loop_new(err))) return E_NOMEM;
    s->wake = loop_timer_new(s->loop, s, on_wake);
    s->ping = loop_timer_new(s->loop, s, on_ping);
    s->patience = loop_timer_new(s->loop, s, on_patience);
    s->home = loop_timer_new(s->loop, s, on_home);
    if (!s->wake || !s->ping || !s->patience || !s->home) return error_set(err, E_NOMEM, "no memory to start");
    for (int i = 0; i < 3; i++) {
        if (s->config.detached && signals[i] == SIGHUP) (void)signal(SIGHUP, SIG_IGN); /* the terminal that started it may close */
        else if (!(s->signals[i] = loop_signal_open(s->loop, signals[i], s, on_signal))) return error_set(err, E_NOMEM, "no memory to start");
    }
    if ((r = open_notify(s, err)) != 0) return r;
    (void)snprintf(address, sizeof address, "unix:%s", door.sun_path);
    s->door = listener_open(s->loop, address, s, on_accept, err);
    if (!s->door) return err->code;
    if (chmod(door.sun_path, 0600) != 0) return error_errno(err, errno, "%s", address);
    return 0;
}

static void close_all(struct supervisor *s) {
    for (struct connection *c = s->connections, *next; c; c = next) {
        next = c->next;
        if (c->wait == WAIT_DOWN) answer(c);
        else connection_close(c, false);
    }
    if (s->door) listener_close(s->door);
    if (s->notify) loop_fd_close(s->notify);
    loop_timer_close(s->wake);
    loop_timer_close(s->ping);
    loop_timer_close(s->patience);
    loop_timer_close(s->home);
    for (int i = 0; i < 3; i++)
        if (s->signals[i]) loop_signal_close(s->signals[i]);
    for (size_t i = 0; i < SUPERVISE_CHILDREN_MAX; i++) run_free(s->runs[i]);
    loop_free(s->loop);
    if (s->notify_fd >= 0) (void)close(s->notify_fd);
    log_file_close(&s->log);
}

int supervisor_run(const struct supervisor_config *config) {
    struct error err = {0};
    struct supervisor *s = mem_zalloc(sizeof *s);
    if (!s) return 1;
    s->config = *config;
    s->platform = config->platform;
    s->notify_fd = -1;
    s->log.fd = -1;
    int r = open_all(s, &err);
    if (r != 0) {
        s->exit_code = 1;
        write_report(s, span_str(err.message));
        write_report(s, SPAN("\n"));
        end_report(s, 1);
    } else {
        s->started_time_ms = clock_wall_ms();
        s->started_mono_ms = loop_now_ms(s->loop);
        log_file_say(&s->log, "info", "platform.start", span_str(s->platform->home));
        supervise_init(&s->core, s->platform->kinds, s->platform->replicas, s->platform->settings.shared.drain_ms, s->started_mono_ms);
        loop_timer_start(s->patience, START_PATIENCE_MS, 0);
        loop_timer_start(s->home, HOME_CHECK_MS, HOME_CHECK_MS);
        step(s);
        (void)loop_run(s->loop);
    }
    int code = s->exit_code;
    close_all(s);
    mem_free(s);
    return code;
}
