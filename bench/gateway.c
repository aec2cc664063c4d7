/*
 * bench_gateway [--seconds S] [--rounds N] [--connections N] [--chunks N] [--idle N] [--only unary|chunk]: what the gateway costs, in CPU time of its process: of a small unary chat request, of one chunk
 * of a stream (a bus message in, an SSE event out), and the memory of connections that do nothing. Beside it nginx and haproxy, where they are on PATH, as plain proxies before an HTTP
 * upstream that gives the same answers; in turn within each round, since these machines are noisy. The limit is what the bare system calls cost: a request and its answer
 * through one relaying socket pair, four calls, and a chunk, two.
 *
 * Everything is real but the model: the gateway with its two Redis servers, its registry, its bus; this program is also the replica (as a service of its own, with answers that
 * are fixed), the proxies' upstream, and the clients, each in a process of its own.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "genloop/v1/generation.pb-c.h"
#include "genloop/v1/models.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "registry/fold.h"
#include "registry/record.h"
#include "service/service.h"
#include "wire/unpack.h"

#define ANSWER_TEXT "Hello! How can I help you today?"
#define CHUNK_TEXT " tok"
enum { CONNECTIONS_MAX = 1024, READ_BYTES = 65536, CHILDREN_MAX = 64, PATIENCE_MS = 20000 };

static struct {
    int64_t seconds, rounds, connections, chunks, idle;
} set = {4, 3, 16, 200, 5000};

static const char *only = ""; /* unary, chunk: that alone, for a profiler */

static void fail(const char *what) {
    fprintf(stderr, "bench_gateway: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- the replica: a service whose answers are fixed --- */

struct stream {
    struct bus_reply *reply;
    int64_t left;
};
static uint8_t answer_packed[512], chunk_packed[256], last_packed[256];
static size_t answer_len, chunk_len, last_len;

static size_t pack_reply(uint8_t *out, size_t room, const char *text, uint32_t tokens, bool over) {
    uint32_t ids[16] = {0};
    Genloop__V1__GenerateReply r;
    Genloop__V1__Usage usage;
    genloop__v1__generate_reply__init(&r);
    genloop__v1__usage__init(&usage);
    r.text = (char *)(uintptr_t)text;
    r.tokens = ids;
    r.n_tokens = tokens;
    r.model = (char *)(uintptr_t) "stub@1";
    r.replica = (char *)(uintptr_t) "inference-1";
    if (over) {
        usage.prompt_tokens = usage.completion_tokens = 9;
        r.usage = &usage;
        r.finish_reason = (char *)(uintptr_t) "stop";
    }
    if (genloop__v1__generate_reply__get_packed_size(&r) > room) return 0;
    return genloop__v1__generate_reply__pack(&r, out);
}

static void send_chunks(struct stream *s) {
    while (s->left > 0 && bus_reply_item(s->reply, span_of(chunk_packed, chunk_len)) == 0) s->left--;
    if (s->left > 0) return;
    bus_reply_end(s->reply, 0, NULL, span_of(last_packed, last_len));
    mem_free(s);
}
static void stub_call(void *arg, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg) {
    (void)arg, (void)context;
    Genloop__V1__GenerateRequest *asked = MESSAGE_UNPACK(GenerateRequest, generate_request, request);
    bool pieces = span_eq_str(method, "Generation/GenerateStream") && asked && asked->piece_tokens <= 1;
    if (asked) genloop__v1__generate_request__free_unpacked(asked, NULL);
    struct stream *s = pieces ? mem_zalloc(sizeof *s) : NULL;
    if (!s) {
        bus_reply_end(reply, 0, NULL, span_of(answer_packed, answer_len));
        return;
    }
    *s = (struct stream){reply, set.chunks - 1}; /* the last one brings the end */
    *call_arg = s;
    if (bus_reply_credit_left(reply) > s->left) *call_arg = NULL;
    send_chunks(s);
}
static void stub_credit(void *call_arg, struct bus_reply *reply) {
    (void)reply;
    if (call_arg) send_chunks(call_arg);
}
static void stub_cancel(void *call_arg, struct bus_reply *reply, int code) {
    bus_reply_end(reply, code, NULL, SPAN(""));
    mem_free(call_arg);
}
static int stub_start(struct service *s, void **arg, struct error *err) {
    Genloop__V1__ReplicaLoad load;
    uint8_t packed[128];
    char *models[] = {(char *)(uintptr_t) "stub@1"};
    (void)arg, (void)err;
    genloop__v1__replica_load__init(&load);
    load.models = models;
    load.n_models = 1;
    load.kv_blocks_free = load.kv_blocks_total = 1000;
    service_load(s, span_of(packed, genloop__v1__replica_load__pack(&load, packed)), true);
    service_ready(s, true);
    return 0;
}
static int replica_main(char **argv) {
    static const struct bus_server_events bus = {.on_call = stub_call, .on_credit = stub_credit, .on_cancel = stub_cancel};
    static const struct service_spec spec = {.name = "inference", .settings_size = sizeof(struct service_settings), .wants_bus_server = true, .bus = &bus, .start = stub_start};
    answer_len = pack_reply(answer_packed, sizeof answer_packed, ANSWER_TEXT, 9, true);
    chunk_len = pack_reply(chunk_packed, sizeof chunk_packed, CHUNK_TEXT, 1, false);
    last_len = pack_reply(last_packed, sizeof last_packed, CHUNK_TEXT, 1, true);
    return service_main(1, argv, &spec);
}

/* --- the proxies' upstream: the same answers over HTTP/1.1, each chunk a write of its own --- */

static int listen_at(int *port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)*port)};
    socklen_t len = sizeof at;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 || bind(fd, (struct sockaddr *)&at, len) != 0 || listen(fd, 1024) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &len) != 0)
        fail("listen");
    *port = ntohs(at.sin_port);
    return fd;
}
static int free_port(void) {
    int port = 0;
    close(listen_at(&port));
    return port;
}
static int connect_to(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket");
    if (connect(fd, (struct sockaddr *)&at, sizeof at) != 0) {
        close(fd);
        return -1;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}
static void write_all(int fd, struct span bytes) {
    while (bytes.len > 0) {
        ssize_t n = send(fd, bytes.data, bytes.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return; /* the proxy closed it: its reader sees that */
        bytes = span_skip(bytes, (size_t)n);
    }
}
/* One connection's life, in a process of its own: blocking, since its cost is nobody's figure. */
static void serve_upstream(int fd) {
    static char in[READ_BYTES];
    char head[256], body[512], chunk[512];
    size_t have = 0;
    int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int body_len = snprintf(body, sizeof body,
                            "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"stub\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
                            "\"content\":\"" ANSWER_TEXT "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9,\"total_tokens\":18}}");
    int head_len = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n", body_len);
    static const char event[] = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"stub\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" CHUNK_TEXT
                                "\"},\"finish_reason\":null}]}\n\n";
    int chunk_size = snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", sizeof event - 1, event);
    for (;;) {
        ssize_t n = read(fd, in + have, sizeof in - 1 - have);
        if (n <= 0) return;
        have += (size_t)n;
        in[have] = 0;
        const char *end = strstr(in, "\r\n\r\n"), *length = strcasestr(in, "content-length:");
        if (!end || !length) continue;
        if (have < (size_t)(end + 4 - in) + strtoul(length + 15, NULL, 10)) continue;
        have = 0;
        if (!strstr(end, "\"stream\":true")) {
            write_all(fd, span_of(head, (size_t)head_len));
            write_all(fd, span_of(body, (size_t)body_len));
            continue;
        }
        write_all(fd, SPAN("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"));
        for (int64_t i = 0; i < set.chunks; i++) write_all(fd, span_of(chunk, (size_t)chunk_size));
        write_all(fd, SPAN("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"));
    }
}
static void upstream_main(int listening) {
    (void)signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(listening, NULL, NULL);
        if (fd < 0) continue;
        if (fork() == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            serve_upstream(fd);
            _exit(0);
        }
        close(fd);
    }
}

/* --- processes --- */

static pid_t children[CHILDREN_MAX];
static int child_count;
static char home[64];

static void end_children(void) {
    for (int i = 0; i < child_count; i++) (void)kill(children[i], SIGTERM);
    for (int i = 0; i < child_count; i++) {
        for (int k = 0; k < 200 && waitpid(children[i], NULL, WNOHANG) == 0; k++) usleep(10000);
        (void)kill(children[i], SIGKILL);
        (void)waitpid(children[i], NULL, 0);
    }
    child_count = 0;
    if (home[0]) (void)dir_remove(home, NULL);
}
static pid_t start(const char *const *argv) {
    pid_t parent = getpid(), pid = fork();
    if (pid < 0 || child_count == CHILDREN_MAX) fail("fork");
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        int log = open("child.log", O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (log >= 0 && dup2(log, 1) >= 0 && dup2(log, 2) >= 0) execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    children[child_count++] = pid;
    return pid;
}
static bool on_path(const char *name, char *out, size_t size) {
    const char *path = getenv("PATH");
    struct span rest = span_str(path ? path : "/usr/bin:/usr/sbin");
    while (rest.len > 0) {
        ptrdiff_t colon = span_find_char(rest, ':');
        struct span dir = colon < 0 ? rest : span_sub(rest, 0, (size_t)colon);
        rest = colon < 0 ? SPAN("") : span_skip(rest, (size_t)colon + 1);
        snprintf(out, size, "%.*s/%s", SPAN_ARG(dir), name);
        if (access(out, X_OK) == 0) return true;
    }
    snprintf(out, size, "/usr/sbin/%s", name);
    return access(out, X_OK) == 0;
}

/* CPU seconds of a process and of its children that live: all their threads. */
static double cpu_seconds(pid_t pid) {
    double ticks = 0;
    char path[64], command[256];
    (void)snprintf(command, sizeof command, "/proc/%d/task/%d/children", pid, pid);
    struct buf text;
    buf_init(&text, 1 << 16);
    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (file_read(path, &text, NULL) == 0 && buf_cstr(&text)) {
        const char *at = strrchr(buf_cstr(&text), ')');
        unsigned long user = 0, system_time = 0;
        if (at && sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system_time) == 2) ticks = (double)(user + system_time);
    }
    buf_clear(&text);
    double seconds = ticks / (double)sysconf(_SC_CLK_TCK);
    if (file_read(command, &text, NULL) == 0 && buf_cstr(&text))
        for (char *at = (char *)(uintptr_t)buf_cstr(&text), *end; *at; at = end) {
            long child = strtol(at, &end, 10);
            if (end == at) break;
            seconds += cpu_seconds((pid_t)child);
        }
    buf_fini(&text);
    return seconds;
}
static double resident_mib(pid_t pid) {
    char path[64];
    double pages = 0;
    struct buf text;
    buf_init(&text, 4096);
    (void)snprintf(path, sizeof path, "/proc/%d/statm", pid);
    if (file_read(path, &text, NULL) == 0 && buf_cstr(&text)) (void)sscanf(buf_cstr(&text), "%*d %lf", &pages);
    buf_fini(&text);
    return pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

/* --- the clients: each connection asks, reads the answer to its end, asks again --- */

struct client {
    int fd;
    size_t head_have, event_match;
    int64_t body_left; /* −1: chunked; −2: still in the head */
    char head[4096], tail[5];
};
struct load {
    int64_t requests, events, failed;
    double cpu_us, wall_s; /* cpu: of the process that is measured, per request or event */
};

static char request_text[2][512];
static size_t request_len[2];

static void make_requests(void) {
    for (int stream = 0; stream < 2; stream++) {
        char body[256];
        int len = snprintf(body, sizeof body, "{\"model\":\"stub\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":%lld%s}", (long long)set.chunks,
                           stream ? ",\"stream\":true" : "");
        request_len[stream] = (size_t)snprintf(request_text[stream], sizeof request_text[stream],
                                               "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nCache-Control: no-cache\r\nContent-Length: %d\r\n\r\n%s", len, body);
    }
}
static void ask(struct client *c, bool stream) {
    c->head_have = c->event_match = 0;
    c->body_left = -2;
    memset(c->tail, 0, sizeof c->tail);
    write_all(c->fd, span_of(request_text[stream], request_len[stream]));
}
static void count_events(struct client *c, struct span bytes, int64_t *events) {
    static const char mark[] = "data: {";
    for (size_t i = 0; i < bytes.len; i++) {
        if (bytes.data[i] == mark[c->event_match]) c->event_match++;
        else c->event_match = bytes.data[i] == mark[0];
        if (c->event_match == sizeof mark - 1) {
            (*events)++;
            c->event_match = 0;
        }
    }
}
/* True: the answer is over. */
static bool take(struct client *c, struct span bytes, struct load *l) {
    if (c->body_left == -2) {
        size_t room = sizeof c->head - 1 - c->head_have, n = bytes.len < room ? bytes.len : room;
        memcpy(c->head + c->head_have, bytes.data, n);
        c->head[c->head_have + n] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        size_t before = c->head_have;
        c->head_have += n;
        if (!end) return false;
        if (strncmp(c->head, "HTTP/1.1 200", 12) != 0) l->failed++;
        bytes = span_skip(bytes, (size_t)(end + 4 - c->head) - before);
        const char *length = strcasestr(c->head, "content-length:");
        c->body_left = length && length < end ? (int64_t)strtol(length + 15, NULL, 10) : -1;
    }
    if (c->body_left >= 0) {
        c->body_left -= (int64_t)bytes.len;
        return c->body_left <= 0;
    }
    count_events(c, bytes, &l->events);
    for (size_t i = bytes.len > 5 ? bytes.len - 5 : 0; i < bytes.len; i++) {
        memmove(c->tail, c->tail + 1, 4);
        c->tail[4] = bytes.data[i];
    }
    return memcmp(c->tail, "0\r\n\r\n", 5) == 0;
}

static struct load drive(int port, pid_t pid, bool stream, int64_t milliseconds) {
    static struct client clients[CONNECTIONS_MAX];
    static char in[READ_BYTES];
    struct load l = {0};
    int poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < set.connections; i++) {
        clients[i].fd = connect_to(port);
        if (clients[i].fd < 0) fail("connect");
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, clients[i].fd, &e) != 0) fail("epoll");
        ask(&clients[i], stream);
    }
    double cpu = cpu_seconds(pid);
    int64_t begun = clock_mono_us(), end = begun + milliseconds * 1000;
    while (clock_mono_us() < end) {
        struct epoll_event events[64];
        int n = epoll_wait(poller, events, 64, 100);
        for (int i = 0; i < n; i++) {
            struct client *c = &clients[events[i].data.u32];
            ssize_t got = read(c->fd, in, sizeof in);
            if (got <= 0) fail("a connection was closed");
            if (!take(c, span_of(in, (size_t)got), &l)) continue;
            l.requests++;
            ask(c, stream);
        }
    }
    l.wall_s = (double)(clock_mono_us() - begun) / 1e6;
    cpu = cpu_seconds(pid) - cpu;
    int64_t units = stream ? l.events : l.requests;
    l.cpu_us = units ? cpu * 1e6 / (double)units : 0;
    for (int i = 0; i < set.connections; i++) close(clients[i].fd);
    close(poller);
    return l;
}

/* --- the limit: a process that only passes on --- */

static double bare_us(size_t in_bytes, size_t out_bytes, int calls) {
    static char bytes[4096];
    enum { TIMES = 20000 };
    int a[2], b[2], port = 0;
    for (int i = 0; i < 2; i++) { /* two loopback TCP connections, as a proxy has */
        int *pair = i ? b : a;
        port = 0;
        int listening = listen_at(&port);
        pair[0] = connect_to(port);
        pair[1] = accept(listening, NULL, NULL);
        close(listening);
    }
    int64_t spent = 0;
    for (int i = 0; i < TIMES; i++) {
        struct timespec from, to;
        write_all(a[0], span_of(bytes, in_bytes));
        if (calls == 4) write_all(b[1], span_of(bytes, out_bytes));
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        if (read(a[1], bytes, sizeof bytes) <= 0) fail("read");
        write_all(b[0], span_of(bytes, in_bytes));
        if (calls == 4) {
            if (read(b[0], bytes, sizeof bytes) <= 0) fail("read");
            write_all(a[1], span_of(bytes, out_bytes));
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        spent += (to.tv_sec - from.tv_sec) * 1000000000 + (to.tv_nsec - from.tv_nsec);
        if (read(b[1], bytes, sizeof bytes) <= 0 || (calls == 4 && read(a[0], bytes, sizeof bytes) <= 0)) fail("read");
    }
    for (int i = 0; i < 2; i++) close(a[i]), close(b[i]);
    return (double)spent / TIMES / 1e3;
}

/* --- the platform --- */

static void require(int r, const struct error *err) {
    if (r == 0) return;
    fprintf(stderr, "bench_gateway: %s\n", err->message);
    exit(1);
}
static void wait_port(int port, const char *who) {
    for (int64_t end = clock_mono_ms() + PATIENCE_MS; clock_mono_ms() < end; usleep(10000)) {
        int fd = connect_to(port);
        if (fd < 0) continue;
        close(fd);
        return;
    }
    fail(who);
}
static void start_redis(const char *name) {
    char socket[128], dir[128];
    (void)snprintf(dir, sizeof dir, "%s/%s", home, name);
    (void)snprintf(socket, sizeof socket, "%s/run/%s.sock", home, name);
    struct error err;
    require(dir_make(dir, &err), &err);
    const char *argv[] = {"redis-server", "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "", "--appendonly", strcmp(name, "log") == 0 ? "yes" : "no",
                          "--appendfsync", "always", "--maxmemory-policy", "noeviction", NULL};
    (void)start(argv);
    for (int i = 0; access(socket, F_OK) != 0; i++) {
        if (i > 500) fail("redis-server (Debian package redis-server)");
        usleep(10000);
    }
}
/* stub@1 is in production, as far as the topics say. */
static void release_stub(void) {
    struct error err;
    struct registry_key key;
    struct eventlog *log;
    char url[128], keys[128];
    (void)snprintf(url, sizeof url, "redis+unix:%s/run/log.sock", home);
    (void)snprintf(keys, sizeof keys, "%s/keys", home);
    struct eventlog_config config = {.url = url, .source = "/bench"};
    require(registry_key_make(keys, &err), &err);
    require(registry_key_load(keys, true, &key, &err), &err);
    require(bus_keys_make(keys, &err), &err);
    require(eventlog_open(&config, &log, &err), &err);
    static const model_state way[] = {MODEL_STATE(CANDIDATE), MODEL_STATE(EVALUATED), MODEL_STATE(APPROVED), MODEL_STATE(CANARY), MODEL_STATE(PRODUCTION)};
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        Genloop__V1__ModelVersion v;
        Genloop__V1__ObjectRef directory;
        Genloop__V1__Actor actor;
        uint8_t signature[RECORD_SIGNATURE_SIZE];
        char name[MODEL_FULL_NAME_MAX];
        struct buf packed;
        buf_init(&packed, 1 << 16);
        genloop__v1__model_version__init(&v);
        genloop__v1__object_ref__init(&directory);
        genloop__v1__actor__init(&actor);
        directory.sha256 = (char *)(uintptr_t) "0000000000000000000000000000000000000000000000000000000000000000";
        v.name = (char *)(uintptr_t) "stub";
        v.version = 1;
        v.state = way[i];
        v.directory = &directory;
        v.actor = &actor;
        v.epoch = 1;
        v.revision = i + 1;
        v.event_time_ms = clock_wall_ms();
        require(record_sign(&key, &v.base, signature, &err), &err);
        require(record_pack(&v.base, &packed), &err);
        struct event e = {.topic = TOPIC_MODELS, .key = span_str(model_name_format(SPAN("stub"), 1, name)), .value = buf_span(&packed)};
        require(eventlog_publish(log, &e, &err), &err);
        buf_fini(&packed);
    }
    eventlog_close(log);
}

static pid_t start_gateway(const char *self, int port) {
    static char gateway[4200];
    char listen_text[64];
    (void)snprintf(gateway, sizeof gateway, "%s/../bin/genloop-gateway", self);
    (void)snprintf(listen_text, sizeof listen_text, "127.0.0.1:%d", port);
    (void)setenv("GENLOOP_GATEWAY_LISTEN", listen_text, 1);
    const char *argv[] = {gateway, NULL};
    return start(argv);
}
static void wait_answers(int port) {
    struct load l;
    int64_t connections = set.connections;
    set.connections = 1;
    int64_t end = clock_mono_ms() + PATIENCE_MS;
    do {
        l = drive(port, getpid(), false, 200);
    } while ((l.failed > 0 || l.requests == 0) && clock_mono_ms() < end);
    if (l.failed > 0) fail("the gateway does not answer with 200: see child.log");
    set.connections = connections;
}

static void write_config(const char *name, const char *text) {
    struct error err;
    require(file_write(name, span_str(text), 0600, &err), &err);
}

struct target {
    const char *name;
    pid_t pid;
    int port;
    double unary_us, chunk_us; /* the least of the rounds: the machine's other work only adds */
    double requests_s, chunks_s;
};

static void measure(struct target *t) {
    struct load unary = {0}, chunks = {0};
    if (strcmp(only, "chunk") != 0) unary = drive(t->port, t->pid, false, set.seconds * 1000);
    if (strcmp(only, "unary") != 0) chunks = drive(t->port, t->pid, true, set.seconds * 1000);
    if (unary.failed || chunks.failed) {
        fprintf(stderr, "bench_gateway: %s: %lld answers were not 200\n", t->name, (long long)(unary.failed + chunks.failed));
        exit(1);
    }
    if (t->unary_us == 0 || unary.cpu_us < t->unary_us) t->unary_us = unary.cpu_us;
    if (t->chunk_us == 0 || chunks.cpu_us < t->chunk_us) t->chunk_us = chunks.cpu_us;
    double rate = unary.requests ? (double)unary.requests / unary.wall_s : 0, chunk_rate = chunks.requests ? (double)chunks.events / chunks.wall_s : 0;
    if (rate > t->requests_s) t->requests_s = rate;
    if (chunk_rate > t->chunks_s) t->chunks_s = chunk_rate;
    printf("%-8s %9.1f µs/request %9.2f µs/chunk   (%.0f requests/s, %.0f chunks/s, %.0f chunks a stream)\n", t->name, unary.cpu_us, chunks.cpu_us, rate, chunk_rate,
           chunks.requests ? (double)chunks.events / (double)chunks.requests : 0);
    fflush(stdout);
}

static void measure_idle(const struct target *gateway) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    int *fds = mem_calloc((size_t)set.idle, sizeof *fds);
    int64_t open_count = 0;
    double before = resident_mib(gateway->pid);
    for (; fds && open_count < set.idle; open_count++)
        if ((fds[open_count] = connect_to(gateway->port)) < 0) break;
    sleep(2);
    double after = resident_mib(gateway->pid);
    printf("idle     %lld connections: %.1f MiB more resident memory (%.1f KiB each); bar for 5,000: 40 MiB\n", (long long)open_count, after - before,
           open_count ? (after - before) * 1024 / (double)open_count : 0);
    for (int64_t i = 0; i < open_count; i++) close(fds[i]);
    mem_free(fds);
}

int main(int argc, char **argv) {
    static char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) fail("/proc/self/exe");
    const char *chunks = getenv("BENCH_GATEWAY_CHUNKS");
    if (chunks) {
        (void)span_to_i64(span_str(chunks), &set.chunks);
        return replica_main(argv);
    }
    static const struct {
        const char *name;
        int64_t *value, max;
    } options[] = {{"--seconds", &set.seconds, 600}, {"--rounds", &set.rounds, 100}, {"--connections", &set.connections, CONNECTIONS_MAX}, {"--chunks", &set.chunks, 100000}, {"--idle", &set.idle, 100000}};
    for (int i = 1; i < argc; i += 2) {
        size_t k = 0;
        if (strcmp(argv[i], "--only") == 0 && i + 1 < argc && (strcmp(argv[i + 1], "unary") == 0 || strcmp(argv[i + 1], "chunk") == 0)) {
            only = argv[i + 1];
            continue;
        }
        while (k < sizeof options / sizeof *options && strcmp(options[k].name, argv[i]) != 0) k++;
        if (k == sizeof options / sizeof *options || i + 1 == argc || span_to_i64(span_str(argv[i + 1]), options[k].value) != 0 || *options[k].value < (k == 4 ? 0 : 1) ||
            *options[k].value > options[k].max) {
            fprintf(stderr, "usage: bench_gateway [--seconds S] [--rounds N] [--connections N] [--chunks N] [--idle N] [--only unary|chunk]\n");
            return 2;
        }
    }
    (void)span_copy(home, sizeof home, SPAN("/tmp/genloop-bench-XXXXXX"));
    if (!mkdtemp(home) || chdir(home) != 0) fail(home);
    (void)atexit(end_children);
    char number[32];
    (void)snprintf(number, sizeof number, "%lld", (long long)set.chunks);
    (void)setenv("GENLOOP_HOME", home, 1);
    make_requests();

    struct error err;
    require(dir_make("run", &err), &err);
    start_redis("log");
    start_redis("cache");
    release_stub();
    static char folder[4096];
    (void)span_copy(folder, sizeof folder, span_str(self));
    struct target targets[3] = {0};
    int count = 0, port = free_port();
    targets[count++] = (struct target){.name = "gateway", .pid = start_gateway(dirname(folder), port), .port = port};
    (void)setenv("BENCH_GATEWAY_CHUNKS", number, 1);
    const char *replica[] = {self, NULL};
    (void)start(replica);
    (void)unsetenv("BENCH_GATEWAY_CHUNKS");
    wait_port(port, "genloop-gateway");
    wait_answers(port);

    int upstream = 0, listening = listen_at(&upstream);
    pid_t up = fork();
    if (up == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        upstream_main(listening);
    }
    children[child_count++] = up;
    close(listening);
    char program[512], config[2048];
    if (on_path("nginx", program, sizeof program)) {
        port = free_port();
        (void)snprintf(config, sizeof config,
                       "worker_processes 1; daemon off; pid %s/nginx.pid; error_log %s/nginx.log;\nevents { worker_connections 4096; }\nhttp { access_log off; client_body_temp_path %s/b; proxy_temp_path %s/p;"
                       " fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s;\n upstream u { server 127.0.0.1:%d; keepalive 256; }\n server { listen 127.0.0.1:%d; keepalive_requests 100000000;\n"
                       "  location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; } } }\n",
                       home, home, home, home, home, home, home, upstream, port);
        write_config("nginx.conf", config);
        char path[128];
        (void)snprintf(path, sizeof path, "%s/nginx.conf", home);
        const char *nginx[] = {program, "-c", path, "-p", home, NULL};
        targets[count++] = (struct target){.name = "nginx", .pid = start(nginx), .port = port};
        wait_port(port, "nginx");
    }
    if (on_path("haproxy", program, sizeof program)) {
        port = free_port();
        (void)snprintf(config, sizeof config,
                       "global\n nbthread 1\n maxconn 4096\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n option http-keep-alive\nfrontend f\n bind 127.0.0.1:%d\n"
                       " default_backend b\nbackend b\n http-reuse always\n server s 127.0.0.1:%d\n",
                       port, upstream);
        write_config("haproxy.cfg", config);
        const char *haproxy[] = {program, "-f", "haproxy.cfg", "-db", NULL};
        targets[count++] = (struct target){.name = "haproxy", .pid = start(haproxy), .port = port};
        wait_port(port, "haproxy");
    }
    for (int64_t round = 0; round < set.rounds; round++)
        for (int i = 0; i < count; i++) measure(&targets[i]);
    printf("limit    %9.1f µs/request %9.2f µs/chunk   (read and written again over loopback, nothing else)\n", bare_us(200, 600, 4), bare_us(200, 200, 2));
    for (int i = 1; i < count && !only[0]; i++)
        printf("ratio    %.2f × %s per request, %.2f × per chunk (least of %lld rounds)\n", targets[0].unary_us / targets[i].unary_us, targets[i].name, targets[0].chunk_us / targets[i].chunk_us,
               (long long)set.rounds);
    if (count == 1) printf("peers    neither nginx nor haproxy is on PATH (Debian packages of these names)\n");
    if (set.idle > 0) measure_idle(&targets[0]);
    return 0;
}
