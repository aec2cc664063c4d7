/*
 * One struct redis is a socket, an out-buffer and hiredis' reader. The socket never blocks; every wait is a poll() with what is left
 * of the call's time. While a long pipeline is being written the replies of its beginning are read already: a server that waits for
 * us to read would otherwise never read the rest.
 */
#include "cache/redis.h"

#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h> /* first through base/banned.h: see GENLOOP_USES_OPENSSL there */
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/metrics.h"

struct redis_reply {
    redisReply hi; /* hiredis' object itself: a cast, no copy */
};

enum { URL_PART_MAX = 512, COMMANDL_WORDS_MAX = 64 };

struct redis {
    bool tls, unix_socket;
    char host[URL_PART_MAX]; /* or the socket's path */
    char port[16];
    char user[URL_PART_MAX], password[URL_PART_MAX];
    int64_t db, timeout_ms;
    int fd;
    SSL_CTX *ssl_context;
    SSL *ssl;
    redisReader *reader;
    struct buf out;
    size_t reply_bytes; /* read since the last whole reply */
    int pending;        /* appended, not answered */
    int lost;           /* of them, those whose connection broke: redis_next answers E_UNAVAILABLE for each */
};

/* ---- the address ---- */

static int percent_decode(struct span in, char *out, size_t out_size) {
    size_t n = 0;
    for (size_t i = 0; i < in.len; i++) {
        unsigned char c = (unsigned char)in.data[i];
        if (c == '%') {
            if (i + 2 >= in.len || hex_decode(span_sub(in, i + 1, 2), &c) != 0) return E_INVALID;
            i += 2;
        }
        if (n + 1 >= out_size || c == '\0') return E_INVALID;
        out[n++] = (char)c;
    }
    out[n] = '\0';
    return 0;
}

static int url_parse(struct redis *r, struct span url) {
    if (span_starts(url, SPAN("redis+unix:"))) url = span_skip(url, strlen("redis+"));
    if (span_starts(url, SPAN("unix:"))) {
        url = span_skip(url, strlen("unix:"));
        if (span_starts(url, SPAN("//"))) url = span_skip(url, 2); /* unix:///path is the same path */
        if (span_empty(url) || url.len >= sizeof(((struct sockaddr_un *)0)->sun_path)) return E_INVALID;
        span_copy(r->host, sizeof r->host, url);
        r->unix_socket = true;
        return 0;
    }
    if (span_starts(url, SPAN("rediss://"))) {
        r->tls = true;
        url = span_skip(url, strlen("rediss://"));
    } else if (span_starts(url, SPAN("redis://"))) {
        url = span_skip(url, strlen("redis://"));
    } else {
        return E_INVALID;
    }
    ptrdiff_t slash = span_find_char(url, '/');
    if (slash >= 0) {
        struct span db = span_skip(url, (size_t)slash + 1);
        if (!span_empty(db) && (span_to_i64(db, &r->db) != 0 || r->db < 0)) return E_INVALID;
        url = span_sub(url, 0, (size_t)slash);
    }
    ptrdiff_t at = -1;
    for (size_t i = 0; i < url.len; i++)
        if (url.data[i] == '@') at = (ptrdiff_t)i;
    if (at >= 0) {
        struct span user = span_sub(url, 0, (size_t)at), password = {0};
        ptrdiff_t colon = span_find_char(user, ':');
        if (colon >= 0) {
            password = span_skip(user, (size_t)colon + 1);
            user = span_sub(user, 0, (size_t)colon);
        }
        if (percent_decode(user, r->user, sizeof r->user) != 0 || percent_decode(password, r->password, sizeof r->password) != 0) return E_INVALID;
        url = span_skip(url, (size_t)at + 1);
    }
    struct span host = url, port = SPAN("6379");
    if (span_starts(url, SPAN("["))) {
        ptrdiff_t end = span_find_char(url, ']');
        if (end < 0) return E_INVALID;
        host = span_sub(url, 1, (size_t)end - 1);
        url = span_skip(url, (size_t)end + 1);
        if (!span_empty(url)) {
            if (url.data[0] != ':') return E_INVALID;
            port = span_skip(url, 1);
        }
    } else {
        ptrdiff_t colon = span_find_char(url, ':');
        if (colon >= 0) {
            host = span_sub(url, 0, (size_t)colon);
            port = span_skip(url, (size_t)colon + 1);
        }
    }
    int64_t number;
    if (span_empty(host) || host.len >= sizeof r->host || span_to_i64(port, &number) != 0 || number < 1 || number > 65535) return E_INVALID;
    span_copy(r->host, sizeof r->host, host);
    span_copy(r->port, sizeof r->port, port);
    return 0;
}

int redis_new(const char *url, int64_t timeout_ms, struct redis **out, struct error *err) {
    struct redis *r = mem_zalloc(sizeof *r);
    if (!r) return error_set(err, E_NOMEM, "no memory for a connection to Redis");
    r->fd = -1;
    r->timeout_ms = timeout_ms;
    buf_init(&r->out, REDIS_WRITE_MAX);
    if (url_parse(r, span_str(url)) != 0) {
        redis_free(r);
        return error_set(err, E_INVALID, "this is no Redis address: use unix:/path, redis://[:password@]host:port[/db] or rediss://…");
    }
    *out = r;
    return 0;
}

void redis_free(struct redis *r) {
    if (!r) return;
    redis_disconnect(r);
    if (r->ssl_context) SSL_CTX_free(r->ssl_context);
    buf_fini(&r->out);
    explicit_bzero(r->password, sizeof r->password);
    mem_free(r);
}

void redis_set_timeout(struct redis *r, int64_t timeout_ms) { r->timeout_ms = timeout_ms; }
int redis_fd(const struct redis *r) { return r->fd; }

/* What waits for a reply on the connection is lost with it. */
static void drop(struct redis *r) {
    if (r->ssl) SSL_free(r->ssl);
    r->ssl = NULL;
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
    if (r->reader) redisReaderFree(r->reader);
    r->reader = NULL;
    buf_clear(&r->out);
    r->reply_bytes = 0;
    r->lost = r->pending;
}

/* The connection broke, or cannot be trusted any more. */
static void broke(struct redis *r) {
    if (r->fd >= 0) metric_add(metric_counter("genloop_redis_connections_lost_total", "", "Connections to a Redis server that broke or were given up."), 1);
    drop(r);
}

void redis_disconnect(struct redis *r) {
    drop(r);
    r->lost = r->pending = 0;
}

/* ---- bytes in and out ---- */

static int wait_for(struct redis *r, short events, int64_t deadline, struct error *err) {
    for (;;) {
        int64_t left = deadline - clock_mono_ms();
        if (left <= 0) return error_set(err, E_UNAVAILABLE, "Redis at %s did not answer within %lld ms", r->host, (long long)r->timeout_ms);
        struct pollfd p = {r->fd, events, 0};
        int n = poll(&p, 1, left > INT32_MAX ? INT32_MAX : (int)left);
        if (n > 0) return 0;
        if (n < 0 && errno != EINTR) return error_set(err, E_UNAVAILABLE, "waiting for Redis at %s: %s", r->host, strerror(errno));
    }
}

static int peer_gone(struct redis *r, struct error *err, const char *what) {
    return error_set(err, E_UNAVAILABLE, "Redis at %s: %s", r->host, what);
}

/* What one read or write came to. On a failure that is neither "wait" the message is in err. */
enum io { IO_DONE, IO_WANT_READ, IO_WANT_WRITE, IO_FAILED };

static enum io tls_outcome(struct redis *r, int n, struct error *err) {
    int why = SSL_get_error(r->ssl, n);
    if (why == SSL_ERROR_WANT_READ) return IO_WANT_READ;
    if (why == SSL_ERROR_WANT_WRITE) return IO_WANT_WRITE;
    char text[160] = "the connection was closed";
    unsigned long e = ERR_get_error();
    if (e) ERR_error_string_n(e, text, sizeof text);
    ERR_clear_error();
    peer_gone(r, err, text);
    return IO_FAILED;
}

static enum io read_some(struct redis *r, struct error *err) {
    char chunk[64 * 1024];
    size_t n;
    if (r->ssl) {
        ERR_clear_error();
        int got = SSL_read(r->ssl, chunk, sizeof chunk);
        if (got <= 0) return tls_outcome(r, got, err);
        n = (size_t)got;
    } else {
        ssize_t got = read(r->fd, chunk, sizeof chunk);
        if (got < 0) {
            if (errno == EAGAIN || errno == EINTR) return IO_WANT_READ;
            peer_gone(r, err, strerror(errno));
            return IO_FAILED;
        }
        if (got == 0) {
            peer_gone(r, err, "the connection was closed");
            return IO_FAILED;
        }
        n = (size_t)got;
    }
    r->reply_bytes += n;
    if (r->reply_bytes > REDIS_READ_MAX || redisReaderFeed(r->reader, chunk, n) != REDIS_OK) {
        peer_gone(r, err, r->reply_bytes > REDIS_READ_MAX ? "a reply above REDIS_READ_MAX" : "its reply could not be read");
        return IO_FAILED;
    }
    return IO_DONE;
}

static enum io write_some(struct redis *r, struct error *err) {
    struct span data = buf_span(&r->out);
    if (r->ssl) {
        ERR_clear_error();
        int n = SSL_write(r->ssl, data.data, data.len > INT32_MAX ? INT32_MAX : (int)data.len);
        if (n <= 0) return tls_outcome(r, n, err);
        buf_consume(&r->out, (size_t)n);
        return IO_DONE;
    }
    ssize_t n = send(r->fd, data.data, data.len, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR) return IO_WANT_WRITE;
        peer_gone(r, err, strerror(errno));
        return IO_FAILED;
    }
    buf_consume(&r->out, (size_t)n);
    return IO_DONE;
}

static int flush(struct redis *r, int64_t deadline, struct error *err) {
    while (!span_empty(buf_span(&r->out))) {
        enum io io = write_some(r, err);
        if (io == IO_FAILED) return E_UNAVAILABLE;
        if (io == IO_DONE) continue;
        /* The server may be waiting for us to read: take what it has, so that it goes on reading. */
        int e = wait_for(r, POLLIN | POLLOUT, deadline, err);
        if (e != 0) return e;
        if (read_some(r, err) == IO_FAILED) return E_UNAVAILABLE;
    }
    return 0;
}

/* ---- connecting ---- */

/* A few bytes can announce an array of billions, and hiredis takes the memory for it at once: not beyond REDIS_ELEMENTS_MAX. Its own functions are copied from the first reader. */
static redisReplyObjectFunctions capped;
static void *(*create_array)(const redisReadTask *task, int elements);
static pthread_mutex_t capped_lock = PTHREAD_MUTEX_INITIALIZER;

static void *create_capped_array(const redisReadTask *task, int elements) { return elements < 0 || elements > REDIS_ELEMENTS_MAX ? NULL : create_array(task, elements); }

static void cap_arrays(redisReader *reader) {
    pthread_mutex_lock(&capped_lock);
    if (!create_array) {
        capped = *reader->fn;
        create_array = capped.createArray;
        capped.createArray = create_capped_array;
    }
    pthread_mutex_unlock(&capped_lock);
    reader->fn = &capped;
}

static int socket_connect(struct redis *r, int family, const struct sockaddr *address, socklen_t len, int64_t deadline, struct error *err) {
    r->fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (r->fd < 0) return error_set(err, E_UNAVAILABLE, "no socket for Redis at %s: %s", r->host, strerror(errno));
    int failed = connect(r->fd, address, len) < 0 ? errno : 0;
    if (failed == EINPROGRESS) {
        int e = wait_for(r, POLLOUT, deadline, err);
        socklen_t size = sizeof failed;
        if (e == 0 && getsockopt(r->fd, SOL_SOCKET, SO_ERROR, &failed, &size) == 0 && failed == 0) return 0;
        if (e != 0) failed = ETIMEDOUT;
    }
    if (failed == 0) return 0;
    close(r->fd);
    r->fd = -1;
    return error_set(err, E_UNAVAILABLE, "no Redis at %s%s%s: %s", r->host, r->unix_socket ? "" : " port ", r->port, strerror(failed));
}

static int tcp_connect(struct redis *r, int64_t deadline, struct error *err) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int e = getaddrinfo(r->host, r->port, &hints, &list);
    if (e != 0) return error_set(err, E_UNAVAILABLE, "no address for Redis at %s: %s", r->host, gai_strerror(e));
    int result = E_UNAVAILABLE;
    for (struct addrinfo *a = list; a && r->fd < 0; a = a->ai_next) result = socket_connect(r, a->ai_family, a->ai_addr, a->ai_addrlen, deadline, err);
    freeaddrinfo(list);
    if (result != 0) return result;
    int one = 1;
    (void)setsockopt(r->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(r->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    return 0;
}

static int tls_connect(struct redis *r, int64_t deadline, struct error *err) {
    if (!r->ssl_context) {
        r->ssl_context = SSL_CTX_new(TLS_client_method());
        if (!r->ssl_context || SSL_CTX_set_default_verify_paths(r->ssl_context) != 1 ||
            SSL_CTX_set_min_proto_version(r->ssl_context, TLS1_2_VERSION) != 1)
            return error_set(err, E_INTERNAL, "OpenSSL could not be set up for Redis at %s", r->host);
        SSL_CTX_set_verify(r->ssl_context, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_mode(r->ssl_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    r->ssl = SSL_new(r->ssl_context);
    if (!r->ssl || SSL_set_fd(r->ssl, r->fd) != 1) return error_set(err, E_NOMEM, "no memory for TLS to Redis at %s", r->host);
    struct in6_addr number;
    bool is_address = inet_pton(AF_INET, r->host, &number) == 1 || inet_pton(AF_INET6, r->host, &number) == 1;
    if (is_address ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(r->ssl), r->host) != 1
                   : SSL_set1_host(r->ssl, r->host) != 1 || SSL_set_tlsext_host_name(r->ssl, r->host) != 1)
        return error_set(err, E_INVALID, "%s cannot be the name in a certificate", r->host);
    for (;;) {
        ERR_clear_error();
        int n = SSL_connect(r->ssl);
        if (n == 1) return 0;
        long verdict = SSL_get_verify_result(r->ssl);
        enum io io = tls_outcome(r, n, err);
        if (io == IO_FAILED)
            return verdict == X509_V_OK ? E_UNAVAILABLE
                                        : error_set(err, E_UNAUTHENTICATED, "the certificate of Redis at %s: %s", r->host, X509_verify_cert_error_string(verdict));
        int e = wait_for(r, io == IO_WANT_READ ? POLLIN : POLLOUT, deadline, err);
        if (e != 0) return e;
    }
}

static int append_words(struct redis *r, int argc, const char **argv, const size_t *lens, struct error *err) {
    char *text = NULL;
    int n = redisFormatCommandArgv(&text, argc, argv, lens);
    if (n < 0) return error_set(err, E_NOMEM, "no memory for a command to Redis");
    int e = buf_append(&r->out, text, (size_t)n);
    redisFreeCommand(text);
    if (e != 0) return error_set(err, e, "the commands to Redis pass %d bytes", REDIS_WRITE_MAX);
    return 0;
}

/* Reads until a whole reply is there. The connection is closed on every failure: what would come later belongs to nobody. */
static int read_reply(struct redis *r, int64_t deadline, struct redis_reply **reply, struct error *err) {
    int e = flush(r, deadline, err);
    while (e == 0) {
        void *got = NULL;
        if (redisReaderGetReply(r->reader, &got) != REDIS_OK) {
            e = error_set(err, E_UNAVAILABLE, "Redis at %s speaks no RESP: %.100s", r->host, r->reader->errstr);
            break;
        }
        if (got) {
            r->reply_bytes = 0;
            *reply = got;
            return 0;
        }
        enum io io = read_some(r, err);
        if (io == IO_FAILED) e = E_UNAVAILABLE;
        if (io == IO_WANT_READ || io == IO_WANT_WRITE) e = wait_for(r, io == IO_WANT_READ ? POLLIN : POLLOUT, deadline, err);
    }
    broke(r);
    return e;
}

static int greet(struct redis *r, int64_t deadline, int argc, const char **argv, struct error *err) {
    size_t lens[3];
    for (int i = 0; i < argc; i++) lens[i] = strlen(argv[i]);
    int e = append_words(r, argc, argv, lens, err);
    struct redis_reply *reply = NULL;
    if (e == 0) e = read_reply(r, deadline, &reply, err);
    if (e == 0) e = redis_reply_failed(reply, err);
    redis_reply_free(reply);
    return e;
}

int redis_connect(struct redis *r, struct error *err) {
    if (r->fd >= 0) return 0;
    int64_t deadline = clock_mono_ms() + r->timeout_ms;
    int e;
    if (r->unix_socket) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        span_copy(address.sun_path, sizeof address.sun_path, span_str(r->host));
        e = socket_connect(r, AF_UNIX, (const struct sockaddr *)&address, sizeof address, deadline, err);
    } else {
        e = tcp_connect(r, deadline, err);
        if (e == 0 && r->tls) e = tls_connect(r, deadline, err);
    }
    if (e != 0) goto out;
    r->reader = redisReaderCreate();
    if (r->reader) cap_arrays(r->reader);
    if (!r->reader) {
        e = error_set(err, E_NOMEM, "no memory for a connection to Redis");
        goto out;
    }
    if (r->password[0]) {
        const char *words[] = {"AUTH", r->user, r->password};
        const char *short_words[] = {"AUTH", r->password};
        e = r->user[0] ? greet(r, deadline, 3, words, err) : greet(r, deadline, 2, short_words, err);
        if (e == E_UNKNOWN) e = error_set(err, E_UNAUTHENTICATED, "Redis at %s refuses the password", r->host);
    }
    if (e == 0 && r->db > 0) {
        char number[24];
        snprintf(number, sizeof number, "%lld", (long long)r->db);
        const char *words[] = {"SELECT", number};
        e = greet(r, deadline, 2, words, err);
    }
out:
    if (e != 0) broke(r);
    return e;
}

/* ---- commands ---- */

int redis_append(struct redis *r, int argc, const struct span *argv, struct error *err) {
    if (r->lost > 0) return error_set(err, E_UNAVAILABLE, "the connection to Redis at %s was lost; its replies have not been read", r->host);
    if (r->pending >= REDIS_PENDING_MAX) return error_set(err, E_FULL, "%d commands wait for Redis", r->pending);
    int e = redis_connect(r, err);
    if (e != 0) return e;
    const char *few[32];
    size_t few_lens[32];
    const char **words = few;
    size_t *lens = few_lens;
    size_t n = argc > 0 ? (size_t)argc : 0;
    if (n > 32) {
        words = mem_calloc(n, sizeof *words);
        lens = mem_calloc(n, sizeof *lens);
    }
    if (words && lens) {
        for (size_t i = 0; i < n; i++) {
            words[i] = argv[i].data ? argv[i].data : "";
            lens[i] = argv[i].len;
        }
        e = append_words(r, argc, words, lens, err);
    } else {
        e = error_set(err, E_NOMEM, "no memory for a command to Redis");
    }
    if (words != few) mem_free(words);
    if (lens != few_lens) mem_free(lens);
    if (e == 0) r->pending++;
    return e;
}

int redis_next(struct redis *r, struct redis_reply **reply, struct error *err) {
    if (r->pending == 0) return error_set(err, E_STATE, "no reply of Redis is awaited");
    int e = r->lost > 0 ? error_set(err, E_UNAVAILABLE, "the connection to Redis at %s was lost before it answered", r->host)
                        : read_reply(r, clock_mono_ms() + r->timeout_ms, reply, err);
    r->pending--;
    if (r->lost > 0) r->lost--;
    return e;
}

int redis_command(struct redis *r, int argc, const struct span *argv, struct redis_reply **reply, struct error *err) {
    if (r->pending > 0) return error_set(err, E_STATE, "%d replies of Redis have not been read", r->pending);
    struct redis_reply *got = NULL;
    int e = redis_append(r, argc, argv, err);
    if (e == 0) e = redis_next(r, &got, err);
    if (e == 0) e = redis_reply_failed(got, err);
    if (e != 0 || !reply) {
        redis_reply_free(got);
        return e;
    }
    *reply = got;
    return 0;
}

int redis_commandl(struct redis *r, struct redis_reply **reply, struct error *err, const char *word, ...) {
    struct span words[COMMANDL_WORDS_MAX];
    int n = 0;
    va_list args;
    va_start(args, word);
    for (const char *w = word; w && n < COMMANDL_WORDS_MAX; w = va_arg(args, const char *)) words[n++] = span_str(w);
    va_end(args);
    ASSERT(n < COMMANDL_WORDS_MAX);
    return redis_command(r, n, words, reply, err);
}

/* ---- replies ---- */

int redis_reply_failed(const struct redis_reply *reply, struct error *err) {
    if (redis_type(reply) != REDIS_ERROR) return 0;
    static const struct {
        const char *word;
        int code;
    } words[] = {{"LOADING", E_UNAVAILABLE}, {"BUSY ", E_UNAVAILABLE}, {"MASTERDOWN", E_UNAVAILABLE}, {"READONLY", E_UNAVAILABLE},
                 {"MISCONF", E_UNAVAILABLE}, /* the disk is full, or broken */
                 {"OOM", E_FULL}, {"NOAUTH", E_UNAUTHENTICATED}, {"WRONGPASS", E_UNAUTHENTICATED}};
    struct span text = redis_str(reply);
    int code = E_UNKNOWN;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (span_starts(text, span_str(words[i].word))) code = words[i].code;
    return error_set(err, code, "Redis: %.*s", (int)(text.len > 300 ? 300 : text.len), text.data);
}

enum redis_type redis_type(const struct redis_reply *reply) {
    switch (reply ? reply->hi.type : REDIS_REPLY_NIL) {
        case REDIS_REPLY_STRING: return REDIS_STRING;
        case REDIS_REPLY_STATUS: return REDIS_STATUS;
        case REDIS_REPLY_ERROR: return REDIS_ERROR;
        case REDIS_REPLY_INTEGER: return REDIS_INTEGER;
        case REDIS_REPLY_ARRAY: return REDIS_ARRAY;
        default: return REDIS_NIL;
    }
}

struct span redis_str(const struct redis_reply *reply) {
    enum redis_type type = redis_type(reply);
    if (type != REDIS_STRING && type != REDIS_STATUS && type != REDIS_ERROR) return SPAN("");
    return span_of(reply->hi.str, reply->hi.len);
}

int64_t redis_int(const struct redis_reply *reply) {
    if (redis_type(reply) == REDIS_INTEGER) return reply->hi.integer;
    int64_t value = 0;
    (void)span_to_i64(redis_str(reply), &value);
    return value;
}

size_t redis_size(const struct redis_reply *reply) { return redis_type(reply) == REDIS_ARRAY ? reply->hi.elements : 0; }

const struct redis_reply *redis_at(const struct redis_reply *reply, size_t i) {
    return i < redis_size(reply) ? (const struct redis_reply *)reply->hi.element[i] : NULL;
}

void redis_reply_free(struct redis_reply *reply) {
    if (reply) freeReplyObject(reply);
}
