#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

static int connect_door(const char *home, int *out, struct error *err) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int n = snprintf(to.sun_path, sizeof to.sun_path, "%s/run/supervisor.sock", home);
    if (n < 0 || (size_t)n >= sizeof to.sun_path) return error_set(err, E_NOT_FOUND, "no platform runs in %s: its path is too long for one", home);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return error_errno(err, errno, "a socket");
    if (connect(fd, (const struct sockaddr *)&to, sizeof to) != 0) {
        int why = errno;
        (void)close(fd);
        if (why == ENOENT || why == ECONNREFUSED || why == ENOTDIR) return error_set(err, E_NOT_FOUND, "no platform runs in %s: genloop up starts one", home);
        return error_errno(err, why, "%s", to.sun_path);
    }
    *out = fd;
    return 0;
}

static int send_all(int fd, struct span s, struct error *err) {
    while (s.len) {
        ssize_t n = send(fd, s.data, s.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return error_set(err, E_UNAVAILABLE, "the supervisor went away");
        s = span_skip(s, (size_t)n);
    }
    return 0;
}

/* One line of the answer; 1: it was the last, and is in *answer. */
static int take_line(struct span line, void *arg, void (*on_event)(void *arg, struct span text), struct json **answer, struct error *err) {
    struct json *root = NULL;
    int r = json_parse(line, &root, err);
    if (r != 0) return r;
    const struct json *error = json_get(root, "error"), *event = json_get(root, "event");
    if (error) {
        struct span message = json_string(json_get(error, "message"));
        r = error_set(err, (int)json_int(json_get(error, "code"), E_INTERNAL), "%.*s", SPAN_ARG(message));
        if (r >= 0) r = E_INTERNAL;
        json_free(root);
        return r;
    }
    if (event) {
        if (on_event) on_event(arg, json_string(event));
        json_free(root);
        return 0;
    }
    *answer = root;
    return 1;
}

int control_call(const char *home, struct span request, void *arg, void (*on_event)(void *arg, struct span text), struct json **answer, struct error *err) {
    struct buf in;
    int fd = -1, r = connect_door(home, &fd, err);
    if (r != 0) return r;
    buf_init(&in, CONTROL_LINE_MAX);
    r = send_all(fd, request, err);
    if (r == 0) r = send_all(fd, SPAN("\n"), err);
    while (r == 0) {
        ptrdiff_t end = span_find_char(buf_span(&in), '\n');
        if (end >= 0) {
            r = take_line(span_sub(buf_span(&in), 0, (size_t)end), arg, on_event, answer, err);
            buf_consume(&in, (size_t)end + 1);
            continue;
        }
        char *at = buf_reserve(&in, 4096);
        ssize_t n = at ? read(fd, at, 4096) : -1;
        if (n > 0) buf_commit(&in, (size_t)n);
        else if (!at) r = error_set(err, E_TOO_LARGE, "the supervisor's answer is too long");
        else if (n == 0 || errno != EINTR) r = error_set(err, E_UNAVAILABLE, "the supervisor went away before it answered: genloop logs supervisor");
    }
    (void)close(fd);
    buf_fini(&in);
    return r < 0 ? r : 0;
}

int control_await_end(const char *home, int64_t patience_ms, struct error *err) {
    char path[PATH_MAX];
    int64_t until = clock_mono_ms() + patience_ms;
    int n = snprintf(path, sizeof path, "%s/run/supervisor.lock", home);
    if (n < 0 || (size_t)n >= sizeof path) return error_set(err, E_INVALID, "the home %s is too long a path", home);
    for (;;) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) return errno == ENOENT ? 0 : error_errno(err, errno, "%s", path);
        bool free_now = flock(fd, LOCK_EX | LOCK_NB) == 0;
        (void)close(fd);
        if (free_now) return 0;
        if (clock_mono_ms() > until) return error_set(err, E_DEADLINE, "the supervisor of %s has not ended", home);
        (void)usleep(10000);
    }
}
