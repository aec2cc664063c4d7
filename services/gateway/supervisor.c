#include "supervisor.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"

enum { LINE_MAX_BYTES = 1 << 20, STEP = 4096 };

struct supervisor_call {
    int fd;
    struct loop_fd *watch;
    struct buf in;
    void *arg;
    void (*on_answer)(void *arg, const struct error *err);
};

void supervisor_close(struct supervisor_call *c) {
    if (!c) return;
    if (c->watch) loop_fd_close(c->watch);
    if (c->fd >= 0) (void)close(c->fd);
    buf_fini(&c->in);
    mem_free(c);
}

/* 0: an event, more follows; 1: it is done; below 0: the supervisor's error. */
static int take_line(struct span line, struct error *err) {
    struct json *root = NULL;
    int r = json_parse(line, &root, err);
    if (r < 0) return error_set(err, E_UNKNOWN, "the supervisor's answer makes no sense: is it of another version?");
    const struct json *error = json_get(root, "error");
    if (error) {
        struct span message = json_string(json_get(error, "message"));
        int64_t code = json_int(json_get(error, "code"), E_INTERNAL);
        r = error_set(err, code < 0 && code >= E_CODE_MIN ? (int)code : E_INTERNAL, "%.*s", (int)(message.len < 400 ? message.len : 400), message.len ? message.data : "");
    } else {
        r = json_get(root, "event") ? 0 : 1;
    }
    json_free(root);
    return r;
}

static void on_ready(void *arg, int events) {
    struct supervisor_call *c = arg;
    struct error err = {0};
    int r = 0;
    (void)events;
    char *at = buf_reserve(&c->in, STEP);
    ssize_t n = at ? recv(c->fd, at, STEP, MSG_DONTWAIT) : -1;
    if (at && n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) buf_commit(&c->in, (size_t)n);
    else r = error_set(&err, E_UNAVAILABLE, "the supervisor went away before it answered");
    ptrdiff_t end;
    while (r == 0 && (end = span_find_char(buf_span(&c->in), '\n')) >= 0) {
        r = take_line(span_sub(buf_span(&c->in), 0, (size_t)end), &err);
        buf_consume(&c->in, (size_t)end + 1);
    }
    if (r == 0) return;
    loop_fd_close(c->watch);
    c->watch = NULL;
    c->on_answer(c->arg, r < 0 ? &err : NULL);
}

struct supervisor_call *supervisor_ask(struct loop *l, const char *home, struct span request, void *arg, void (*on_answer)(void *arg, const struct error *err), struct error *err) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int n = snprintf(to.sun_path, sizeof to.sun_path, "%s/run/supervisor.sock", home);
    struct buf line;
    struct supervisor_call *c = mem_zalloc(sizeof *c);
    buf_init(&line, STEP);
    if (!c) {
        (void)error_set(err, E_NOMEM, "no memory for the call");
        return NULL;
    }
    c->arg = arg;
    c->on_answer = on_answer;
    buf_init(&c->in, LINE_MAX_BYTES);
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int r = c->fd < 0 ? error_errno(err, errno, "a socket") : 0;
    /* A local connect is there at once, or not at all. */
    if (r == 0 && (n < 0 || (size_t)n >= sizeof to.sun_path || connect(c->fd, (const struct sockaddr *)&to, sizeof to) != 0))
        r = error_set(err, E_STATE, "no supervisor runs beside this gateway: who runs its services says how many there are (on Kubernetes the scale subresource, with systemd its units)");
    (void)buf_append_span(&line, request);
    (void)buf_append_char(&line, '\n');
    if (r == 0 && (line.failed || send(c->fd, buf_span(&line).data, line.len, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)line.len))
        r = error_set(err, E_UNAVAILABLE, "the supervisor does not take the request: try again");
    if (r == 0 && !(c->watch = loop_fd_open(l, c->fd, LOOP_READ, c, on_ready, err))) r = E_NOMEM;
    buf_fini(&line);
    if (r == 0) return c;
    supervisor_close(c);
    return NULL;
}
