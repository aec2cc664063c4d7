/*
 * Design notes. Writing has two buffers: what libuv holds (`sending`, untouched until its callback) and what has come since (`queue`);
 * on completion they change places, so that everything written meanwhile goes out in one system call. With both empty a large write is tried at
 * once; small ones wait in `queue` for the end of the loop's turn, since a system call for each costs more than all else about a token. stream_close_after_flush half-closes and then reads the peer's bytes away until it closes too: closing a socket with
 * unread bytes sends a reset, which can destroy the answer that the peer has not read yet.
 */
#include "base/loop_stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/loop_uv.h"

enum { BACKLOG = 511, PEER_MAX = INET6_ADDRSTRLEN + 10 };
/* A shell that never calls stream_init must not be able to grow without bound either. */
enum { WRITE_CAP_DEFAULT = 1 << 20 };
enum { GATHER_FIRST = 2 << 10, GATHER_MAX = 16 << 10 }; /* writes are gathered until there are so many bytes */

union any_stream {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
};

struct listener {
    struct loop_handle handle;
    union any_stream uv;
    bool is_unix, inherited, shared, paused, waiting; /* waiting: a connection was announced while paused */
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    ino_t inode; /* of the socket file that is ours to remove */
    void *arg;
    void (*on_accept)(void *arg, struct stream *s);
};

struct stream {
    struct loop_handle handle;
    union any_stream uv;
    uv_write_t write;
    uv_shutdown_t shutdown;
    uv_timer_t timer; /* of stream_close_after_flush */
    struct loop_handle timer_handle;
    struct loop_turn turn; /* armed: the queue goes out at its end */
    struct buf sending, queue;
    size_t cap;
    bool in_flight, wants_drain, said_error, want_shutdown, shut, broken, reading, closing, lingering;
    bool timer_open, stream_gone, timer_gone;
    bool loopback;
    void *arg;
    const struct stream_events *events; /* NULL: nobody listens any more */
    char peer[PEER_MAX];
};

static struct stream *stream_of_timer(struct loop_handle *h) { return (struct stream *)((char *)h - offsetof(struct stream, timer_handle)); }

/* ---- Streams ----------------------------------------------------------------------------------------------------------- */

static void free_when_gone(struct stream *s) {
    if (!s->stream_gone || (s->timer_open && !s->timer_gone)) return;
    buf_fini(&s->sending);
    buf_fini(&s->queue);
    mem_free(s);
}

static void stream_closed(struct loop_handle *h) {
    struct stream *s = (struct stream *)h;
    s->stream_gone = true;
    free_when_gone(s);
}

static void timer_closed(struct loop_handle *h) {
    struct stream *s = stream_of_timer(h);
    s->timer_gone = true;
    free_when_gone(s);
}

static void send_gathered(void *arg);

static struct stream *stream_new(struct loop *l, bool is_unix) {
    struct stream *s = mem_zalloc(sizeof *s);
    if (!s) return NULL;
    s->handle.closed = stream_closed;
    s->turn = (struct loop_turn){.fn = send_gathered, .arg = s};
    int r = is_unix ? uv_pipe_init(loop_uv(l), &s->uv.pipe, 0) : uv_tcp_init(loop_uv(l), &s->uv.tcp);
    if (r) {
        mem_free(s);
        return NULL;
    }
    s->uv.handle.data = s;
    stream_init(s, WRITE_CAP_DEFAULT, NULL, NULL);
    return s;
}

void stream_init(struct stream *s, size_t write_cap, void *arg, const struct stream_events *events) {
    s->cap = write_cap;
    if (!s->queue.data) buf_init(&s->queue, write_cap);
    if (!s->sending.data) buf_init(&s->sending, write_cap);
    s->queue.cap = write_cap > s->queue.len ? write_cap : s->queue.len;
    s->arg = arg;
    s->events = events;
}

/* An error is said once; it may follow an end of file, since a peer that has half-closed can still break. */
static void say_end(struct stream *s, int r) {
    if (s->said_error) return;
    s->said_error = r != 0;
    if (s->events && s->events->on_end) s->events->on_end(s->arg, r);
}

static void give_buffer(uv_handle_t *h, size_t size, uv_buf_t *out) {
    (void)size;
    *out = uv_buf_init(loop_read_buffer(h->loop->data), LOOP_READ_SIZE);
}

static void came(uv_stream_t *u, ssize_t n, const uv_buf_t *b) {
    struct stream *s = u->data;
    if (n == 0) return; /* EAGAIN */
    if (n > 0) {
        if (s->events && s->events->on_read) s->events->on_read(s->arg, span_of(b->base, (size_t)n));
        return;
    }
    uv_read_stop(u);
    s->reading = false;
    if (n != UV_EOF) s->broken = true;
    if (s->lingering) {
        stream_close(s);
        return;
    }
    say_end(s, s->broken ? E_IO : 0); /* a failed write takes the socket's error with it: the read then sees a plain end */
}

void stream_read_start(struct stream *s) {
    if (s->reading || s->closing || s->broken) return;
    s->reading = uv_read_start(&s->uv.stream, give_buffer, came) == 0;
}

void stream_read_stop(struct stream *s) {
    if (!s->reading || s->lingering) return;
    uv_read_stop(&s->uv.stream);
    s->reading = false;
}

static void shutdown_done(uv_shutdown_t *u, int status) {
    struct stream *s = u->handle->data;
    if (uv_is_closing(&s->uv.handle) || !s->lingering) return;
    if (status < 0) {
        stream_close(s);
        return;
    }
    stream_read_start(s); /* until the peer closes, or the timer does */
    if (!s->reading) stream_close(s);
}

static void send_queue(struct stream *s);

static void written(uv_write_t *u, int status) {
    struct stream *s = u->handle->data;
    if (uv_is_closing(&s->uv.handle)) return;
    s->in_flight = false;
    buf_clear(&s->sending);
    if (status < 0) {
        s->broken = true;
        buf_clear(&s->queue);
        if (s->lingering) {
            stream_close(s);
        } else {
            stream_read_stop(s);
            say_end(s, E_IO);
        }
        return;
    }
    send_queue(s);
    if (s->wants_drain && stream_write_queued(s) <= s->cap / 4) {
        s->wants_drain = false;
        if (s->events && s->events->on_drain) s->events->on_drain(s->arg);
    }
}

static void send_queue(struct stream *s) {
    if (s->in_flight || s->broken || s->closing) return;
    if (s->queue.len) {
        struct buf t = s->sending;
        s->sending = s->queue;
        s->queue = t;
        s->queue.cap = s->cap;
        struct span all = buf_span(&s->sending);
        uv_buf_t b = uv_buf_init((char *)(uintptr_t)all.data, (unsigned)all.len);
        s->in_flight = true;
        if (uv_write(&s->write, &s->uv.stream, &b, 1, written)) {
            s->in_flight = false;
            s->broken = true;
        }
        return;
    }
    if (s->want_shutdown && !s->shut) {
        s->shut = true;
        if (uv_shutdown(&s->shutdown, &s->uv.stream, shutdown_done)) s->broken = true;
    }
}

/* Tries to write at once. Returns how much the kernel took; negative where the connection is broken. */
static int try_write(struct stream *s, struct span data) {
    uv_buf_t b = uv_buf_init((char *)(uintptr_t)data.data, (unsigned)data.len);
    int n = uv_try_write(&s->uv.stream, &b, 1);
    if (n == UV_EAGAIN) return 0;
    if (n < 0) s->broken = true;
    return n;
}

/* What was gathered in a turn, at its end. */
static void send_gathered(void *arg) {
    struct stream *s = arg;
    if (s->in_flight || s->broken || s->closing || !s->queue.len) return;
    int n = try_write(s, buf_span(&s->queue));
    if (n < 0) {
        buf_clear(&s->queue);
        stream_read_stop(s);
        if (s->lingering) stream_close(s);
        else say_end(s, E_IO);
        return;
    }
    buf_consume(&s->queue, (size_t)n);
    if (s->queue.len) {
        send_queue(s);
        return;
    }
    buf_fini(&s->queue); /* most connections are idle most of the time */
    buf_init(&s->queue, s->cap);
    if (s->wants_drain) {
        s->wants_drain = false;
        if (s->events && s->events->on_drain) s->events->on_drain(s->arg);
    }
}

int stream_write(struct stream *s, struct span data) {
    if (s->broken || s->closing || s->want_shutdown) return E_IO;
    if (!data.len) return 0;
    if (data.len > s->cap) return E_TOO_LARGE;
    if (data.len > s->cap - stream_write_queued(s)) {
        s->wants_drain = true;
        return E_FULL;
    }
    if (!s->in_flight && !s->queue.len && data.len >= GATHER_MAX) {
        int n = try_write(s, data);
        if (n < 0) return E_IO; /* on_end follows from the read side; the caller hears it here */
        data = span_skip(data, (size_t)n);
        if (!data.len) return 0;
    }
    int r = s->queue.len == 0 && !buf_reserve(&s->queue, s->cap < GATHER_FIRST ? s->cap : GATHER_FIRST) ? E_NOMEM : buf_append_span(&s->queue, data);
    if (r) { /* part of it may be out already: the stream cannot go on */
        s->broken = true;
        return r;
    }
    if (stream_write_queued(s) > s->cap / 4) s->wants_drain = true;
    if (s->queue.len >= GATHER_MAX) send_queue(s);
    else if (!s->in_flight) loop_turn_arm(s->uv.handle.loop->data, &s->turn);
    return 0;
}

size_t stream_write_queued(const struct stream *s) { return s->queue.len + (s->in_flight ? s->sending.len : 0); }

void stream_shutdown(struct stream *s) {
    s->want_shutdown = true;
    send_queue(s);
}

void stream_close(struct stream *s) {
    if (!s->in_flight && !s->broken && !s->closing && s->queue.len) (void)try_write(s, buf_span(&s->queue)); /* what was written a moment ago is on its way */
    loop_turn_disarm(&s->turn);
    s->events = NULL;
    s->closing = true;
    s->reading = false;
    loop_handle_close(&s->uv.handle);
    if (s->timer_open) loop_handle_close((uv_handle_t *)&s->timer);
}

static void linger_over(uv_timer_t *t) { stream_close(stream_of_timer(t->data)); }

void stream_close_after_flush(struct stream *s, int64_t within_ms) {
    s->events = NULL;
    if (s->closing || s->lingering) return;
    if (s->broken || within_ms <= 0) {
        stream_close(s);
        return;
    }
    stream_read_stop(s);
    s->lingering = true;
    uv_timer_init(s->uv.handle.loop, &s->timer);
    s->timer.data = &s->timer_handle;
    s->timer_handle.closed = timer_closed;
    s->timer_open = true;
    uv_update_time(s->uv.handle.loop);
    uv_timer_start(&s->timer, linger_over, (uint64_t)within_ms, 0);
    s->want_shutdown = true;
    send_queue(s);
    if (s->broken) stream_close(s);
}

const char *stream_peer(const struct stream *s) { return s->peer; }
bool stream_peer_loopback(const struct stream *s) { return s->loopback; }

int stream_fd(const struct stream *s) {
    uv_os_fd_t fd;
    return uv_fileno(&s->uv.handle, &fd) ? -1 : fd;
}

/* ---- Listeners --------------------------------------------------------------------------------------------------------- */

static void describe_peer(struct stream *s, bool is_unix) {
    struct sockaddr_storage a;
    int len = sizeof a;
    char host[INET6_ADDRSTRLEN];
    span_copy(s->peer, sizeof s->peer, is_unix ? SPAN("unix") : SPAN("unknown"));
    s->loopback = is_unix;
    if (is_unix || uv_tcp_getpeername(&s->uv.tcp, (struct sockaddr *)&a, &len)) return;
    if (a.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&a;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(s->peer, sizeof s->peer, "%s:%d", host, ntohs(in->sin_port));
        s->loopback = ntohl(in->sin_addr.s_addr) >> 24 == 127;
    } else if (a.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&a;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(s->peer, sizeof s->peer, "[%s]:%d", host, ntohs(in6->sin6_port));
        s->loopback = IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr) || (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) && in6->sin6_addr.s6_addr[12] == 127);
    }
}

static void hand_over(struct listener *li, struct stream *s) {
    if (!li->is_unix) uv_tcp_nodelay(&s->uv.tcp, 1); /* we write whole answers; tokens must not wait for acknowledgements */
    describe_peer(s, li->is_unix);
    li->on_accept(li->arg, s);
}

static void accept_one(struct listener *li) {
    struct stream *s = stream_new(li->uv.handle.loop->data, li->is_unix);
    if (!s) return; /* libuv holds the connection and announces it no more until it is taken: the next one takes it */
    if (uv_accept(&li->uv.stream, &s->uv.stream)) stream_close(s);
    else hand_over(li, s);
}

void listener_take_waiting(struct listener *li) {
    uv_os_fd_t fd;
    if (li->waiting) {
        li->waiting = false;
        accept_one(li);
    }
    if (li->inherited || uv_fileno(&li->uv.handle, &fd)) return; /* what waits at systemd's socket is the next process' */
    for (int taken = 0; taken <= BACKLOG; taken++) {
        int came = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (came < 0 && (errno == ECONNABORTED || errno == EINTR)) continue;
        if (came < 0) return;
        struct stream *s = stream_new(li->uv.handle.loop->data, li->is_unix);
        if (!s) {
            close(came);
            return;
        }
        if (li->is_unix ? uv_pipe_open(&s->uv.pipe, came) : uv_tcp_open(&s->uv.tcp, came)) {
            close(came);
            stream_close(s);
        } else {
            hand_over(li, s);
        }
    }
}

static bool kernel_migrates(void) {
    char value = '0';
    int fd = open("/proc/sys/net/ipv4/tcp_migrate_req", O_RDONLY | O_CLOEXEC); /* Linux 5.14 */
    if (fd < 0) return false;
    bool read_it = read(fd, &value, 1) == 1;
    close(fd);
    return read_it && value != '0';
}

/* A socket's filter sees TCP's header first. What is accepted from here on inherits it, and never gets a SYN. */
bool listener_step_aside(struct listener *li) {
    enum { FLAGS_AT = 13, SYN = 2, ACK = 16 };
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FLAGS_AT),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),          /* a new one: dropped */
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX), /* all of it is taken */
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    uv_os_fd_t fd;
    return li->shared && !kernel_migrates() && uv_fileno(&li->uv.handle, &fd) == 0 && setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0;
}

static void connection_came(uv_stream_t *u, int status) {
    struct listener *li = u->data;
    if (status < 0) return; /* out of descriptors, or gone again: libuv has closed it */
    if (li->paused) li->waiting = true;
    else accept_one(li);
}

static void listener_closed(struct loop_handle *h) { mem_free(h); }

/* Splits "host:port" and "[v6]:port"; resolves names, which blocks: listeners are opened at start. */
static int resolve(const char *address, struct sockaddr_storage *out, struct error *err) {
    struct span all = span_str(address), host, port;
    ptrdiff_t colon = -1;
    for (size_t i = 0; i < all.len; i++)
        if (all.data[i] == ':') colon = (ptrdiff_t)i;
    uint64_t number = 0;
    if (colon < 0) return error_set(err, E_INVALID, "%s: an address is host:port, [v6]:port, unix:/path or systemd:NAME", address);
    host = span_sub(all, 0, (size_t)colon);
    port = span_skip(all, (size_t)colon + 1);
    if (span_to_u64(port, &number) || number > 65535) return error_set(err, E_INVALID, "%s: the port must be 0 to 65535", address);
    if (host.len >= 2 && host.data[0] == '[' && host.data[host.len - 1] == ']') host = span_sub(host, 1, host.len - 2);
    else if (span_find_char(host, ':') >= 0) return error_set(err, E_INVALID, "%s: an IPv6 address stands in brackets", address);
    char name[256], service[8];
    if (!host.len || host.len >= sizeof name) return error_set(err, E_INVALID, "%s: no host", address);
    span_copy(name, sizeof name, host);
    snprintf(service, sizeof service, "%d", (int)number);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    int r = getaddrinfo(strcmp(name, "*") == 0 ? NULL : name, service, &hints, &found);
    if (r) return error_set(err, E_INVALID, "%s: %s", address, gai_strerror(r));
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return 0;
}

static int listen_unix(struct listener *li, const char *address, const char *path, struct error *err) {
    struct stat st;
    if (!path[0] || strlen(path) >= sizeof li->path) return error_set(err, E_INVALID, "%s: a socket's path has 1 to %zu bytes", address, sizeof li->path - 1);
    span_copy(li->path, sizeof li->path, span_str(path));
    if (lstat(path, &st) == 0) {
        if (!S_ISSOCK(st.st_mode)) return error_set(err, E_EXISTS, "%s is there and is no socket", path);
        unlink(path);
    }
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    span_copy(a.sun_path, sizeof a.sun_path, span_str(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); /* bound by us: libuv would unlink by name on close, whosever the file is then */
    if (fd < 0 || bind(fd, (const struct sockaddr *)&a, sizeof a) < 0) {
        int why = errno;
        if (fd >= 0) close(fd);
        return error_errno(err, why, "listening on %s", address);
    }
    int r = uv_pipe_open(&li->uv.pipe, fd);
    if (r) close(fd);
    if (!r) r = uv_listen(&li->uv.stream, BACKLOG, connection_came);
    if (r) return loop_error(err, r, "listening on %s", address);
    if (lstat(path, &st) == 0) li->inode = st.st_ino;
    return 0;
}

/* ---- sockets that systemd passed: sd_listen_fds(3) ---- */

enum { INHERITED_FIRST = 3, INHERITED_MAX = 64 };

/* The descriptor by its name. It stays open for whoever asks again, and is nobody's child's. */
static int inherited(const char *address, int *out, struct error *err) {
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES"), *wanted = address + strlen("systemd:");
    uint64_t for_pid, n;
    if (!pid || !count || span_to_u64(span_str(pid), &for_pid) || span_to_u64(span_str(count), &n) || for_pid != (uint64_t)getpid() || n == 0 || n > INHERITED_MAX)
        return error_set(err, E_INVALID, "%s: systemd has passed no socket to this process: start it by its socket unit, or name an address", address);
    struct span rest = span_str(names ? names : "");
    for (int i = 0; i < (int)n; i++) {
        struct span name = SPAN("");
        (void)span_cut(&rest, ':', &name);
        if (*wanted && !span_eq_str(name, wanted)) continue;
        int fd = INHERITED_FIRST + i, type = 0, listening = 0;
        socklen_t size = sizeof type;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 || !listening)
            return error_set(err, E_INVALID, "%s: descriptor %d is no listening stream socket", address, fd);
        *out = fd;
        return 0;
    }
    return error_set(err, E_INVALID, "%s: none of the %d sockets that systemd has passed has this name (FileDescriptorName=): %s", address, (int)n, names ? names : "they have none");
}

static int listen_inherited(struct listener *li, const char *address, int given, struct error *err) {
    int fd = fcntl(given, F_DUPFD_CLOEXEC, INHERITED_FIRST + INHERITED_MAX); /* closing ours leaves the one that was given, for a second door or a later look at it */
    if (fd < 0) return error_errno(err, errno, "listening on %s", address);
    int r = li->is_unix ? uv_pipe_open(&li->uv.pipe, fd) : uv_tcp_open(&li->uv.tcp, fd);
    if (r) close(fd);
    if (!r) r = uv_listen(&li->uv.stream, BACKLOG, connection_came);
    return r ? loop_error(err, r, "listening on %s", address) : 0;
}

static int family_of(int fd, struct sockaddr_storage *a) {
    socklen_t size = sizeof *a;
    memset(a, 0, sizeof *a);
    return getsockname(fd, (struct sockaddr *)a, &size) < 0 ? AF_UNSPEC : a->ss_family;
}

bool listener_is_local(const char *address) {
    struct sockaddr_storage a;
    int fd;
    if (strncmp(address, "systemd:", 8) != 0) return strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]:", 6) == 0 || strncmp(address, "localhost:", 10) == 0 || strncmp(address, "unix:", 5) == 0;
    if (inherited(address, &fd, NULL) != 0) return false;
    switch (family_of(fd, &a)) {
    case AF_UNIX: return true;
    case AF_INET: return ntohl(((const struct sockaddr_in *)(const void *)&a)->sin_addr.s_addr) >> 24 == 127;
    case AF_INET6: return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)&a)->sin6_addr);
    default: return false;
    }
}

/* A socket that others may bind beside us; libuv 1.44 has no flag for it. A code of libuv, which is errno's, negative. */
static int open_shared(struct listener *li, int family) {
    int on = 1, fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    int r = setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0 ? -errno : uv_tcp_open(&li->uv.tcp, fd);
    if (r) close(fd);
    return r;
}

static int listen_tcp(struct listener *li, const char *address, bool reuse_port, struct error *err) {
    struct sockaddr_storage a = {0};
    int r = resolve(address, &a, err);
    if (r) return r;
    li->shared = reuse_port;
    r = reuse_port ? open_shared(li, a.ss_family) : 0;
    if (!r) r = uv_tcp_bind(&li->uv.tcp, (const struct sockaddr *)&a, 0);
    if (!r) r = uv_listen(&li->uv.stream, BACKLOG, connection_came);
    return r ? loop_error(err, r, "listening on %s", address) : 0;
}

struct listener *listener_open(struct loop *l, const char *address, void *arg, void (*on_accept)(void *arg, struct stream *s), struct error *err) {
    return listener_open_shared(l, address, false, arg, on_accept, err);
}

struct listener *listener_open_shared(struct loop *l, const char *address, bool reuse_port, void *arg, void (*on_accept)(void *arg, struct stream *s), struct error *err) {
    struct listener *li = mem_zalloc(sizeof *li);
    if (!li) {
        error_set(err, E_NOMEM, "listening on %s: no memory", address);
        return NULL;
    }
    li->handle.closed = listener_closed;
    li->arg = arg;
    li->on_accept = on_accept;
    struct sockaddr_storage bound;
    int given = -1, r = strncmp(address, "systemd:", 8) == 0 ? inherited(address, &given, err) : 0;
    if (r) {
        mem_free(li);
        return NULL;
    }
    li->is_unix = given >= 0 ? family_of(given, &bound) == AF_UNIX : strncmp(address, "unix:", 5) == 0;
    r = li->is_unix ? uv_pipe_init(loop_uv(l), &li->uv.pipe, 0) : uv_tcp_init(loop_uv(l), &li->uv.tcp);
    if (r) {
        loop_error(err, r, "listening on %s", address);
        mem_free(li);
        return NULL;
    }
    li->uv.handle.data = li;
    li->inherited = given >= 0;
    if (reuse_port && (li->inherited || li->is_unix)) r = error_set(err, E_INVALID, "%s: only a TCP address of its own can be shared by several listeners", address);
    else r = li->inherited ? listen_inherited(li, address, given, err) : li->is_unix ? listen_unix(li, address, address + 5, err) : listen_tcp(li, address, reuse_port, err);
    if (!r) return li;
    listener_close(li);
    return NULL;
}

int listener_port(const struct listener *li) {
    struct sockaddr_storage a;
    int len = sizeof a;
    if (li->is_unix || uv_tcp_getsockname(&li->uv.tcp, (struct sockaddr *)&a, &len)) return 0;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&a)->sin6_port : ((struct sockaddr_in *)(void *)&a)->sin_port);
}

/* libuv stops watching the socket while an announced connection is not accepted: at most one leaves the backlog. */
void listener_pause(struct listener *li, bool paused) {
    li->paused = paused;
    if (!paused && li->waiting) {
        li->waiting = false;
        accept_one(li);
    }
}

void listener_close(struct listener *li) {
    if (!li) return;
    struct stat st;
    /* Only our own socket file: another process may have replaced it. */
    if (li->is_unix && li->inode && lstat(li->path, &st) == 0 && st.st_ino == li->inode) unlink(li->path);
    loop_handle_close(&li->uv.handle);
}
