#include "client.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "sse.h"

enum { URL_MAX = 8192, CONNECT_TIMEOUT_MS = 5000, TICK_MS = 100, GRACE_MS = 1000, PAUSE_FIRST_MS = 100, PAUSE_MAX_MS = 3000, RETRY_AFTER_MAX_MS = 30000, REDIRECTS_MAX = 10, DOOR_MAX = 108, DOOR_MS = 2000 };

struct client {
    char url[URL_MAX / 2]; /* without a slash at its end */
    char *bearer;          /* the header; owned; NULL: no key */
    CURL *curl;            /* of single calls: its connection is kept */
    bool reached;          /* it has answered once */
    char door[DOOR_MAX];   /* the socket that is used instead of the URL's address; "": none */
    bool door_sought;
};

/* One request under way. */
struct transfer {
    struct client *client;
    struct client_request request;
    CURL *curl;
    struct curl_slist *headers;
    struct buf answer;
    curl_mime *form;
    int fd, to_fd; /* to_fd: of request.to */
    uint64_t sent;
    int64_t retry_after_ms;
    char message[CURL_ERROR_SIZE];
    /* of streams */
    struct sse sse;
    void *arg;
    int (*on_event)(void *arg, const struct json *event);
    bool through_door;     /* its last attempt went there */
    bool stream, ended;    /* ended: [DONE] has come */
    int result;            /* why it was stopped: what on_event said, or a failure of ours */
    struct error err;
    int64_t alive_ms;      /* of the last sign of life */
};

/* ---- pure parts ---- */

int client_status_code(long status) {
    static const struct {
        long status;
        int code;
    } rows[] = {{400, E_INVALID}, {401, E_UNAUTHENTICATED}, {403, E_DENIED}, {404, E_NOT_FOUND}, {405, E_UNSUPPORTED}, {408, E_DEADLINE}, {409, E_STATE}, {413, E_TOO_LARGE},
                {429, E_FULL}, {499, E_CANCELLED}, {500, E_INTERNAL}, {501, E_UNSUPPORTED}, {502, E_UNAVAILABLE}, {503, E_UNAVAILABLE}, {504, E_DEADLINE}, {507, E_NO_SPACE}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].status == status) return rows[i].code;
    return status >= 400 && status < 500 ? E_INVALID : E_UNKNOWN;
}

/* Within a stream there is no status: the error's type says as much as it can. */
static int type_code(struct span type) {
    static const struct {
        const char *type;
        int code;
    } rows[] = {{"server_error", E_UNAVAILABLE}, {"rate_limit_error", E_FULL}, {"timeout_error", E_DEADLINE}, {"conflict_error", E_ABORTED}, {"permission_error", E_DENIED},
                {"authentication_error", E_UNAUTHENTICATED}, {"cancelled_error", E_CANCELLED}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (span_eq_str(type, rows[i].type)) return rows[i].code;
    return E_STATE;
}

static int take_error(const struct json *error, int code, struct error *err) {
    struct span message = json_string(json_get(error, "message")), param = json_string(json_get(error, "param"));
    char name[ERROR_PARAM_MAX];
    span_copy(name, sizeof name, param);
    (void)error_set_param(err, code, name, "%.*s%s", SPAN_ARG(message), code == E_UNAUTHENTICATED ? ": put a key of this gateway into GENLOOP_API_KEY" : "");
    return code;
}

int client_read_error(long status, struct span body, struct error *err) {
    struct json *root = NULL;
    int code = client_status_code(status);
    if (json_parse(body, &root, NULL) == 0 && json_string(json_get(json_get(root, "error"), "message")).len) {
        (void)take_error(json_get(root, "error"), code, err);
    } else {
        struct span line = span_trim(body), first = SPAN("");
        (void)span_cut(&line, '\n', &first);
        (void)error_set(err, code, "HTTP %ld, and no error of the gateway's%s%.*s: is GENLOOP_URL the gateway?", status, first.len ? ": " : "", (int)(first.len < 120 ? first.len : 120), first.data);
    }
    json_free(root);
    return code;
}

bool client_worth_again(int code) { return code == E_UNAVAILABLE || code == E_FULL || code == E_AGAIN || code == E_IO; }

int64_t client_pause_ms(int attempt, int64_t retry_after_ms) {
    int64_t pause = PAUSE_FIRST_MS;
    for (int i = 0; i < attempt && pause < PAUSE_MAX_MS; i++) pause *= 2;
    if (pause > PAUSE_MAX_MS) pause = PAUSE_MAX_MS;
    if (retry_after_ms > RETRY_AFTER_MAX_MS) retry_after_ms = RETRY_AFTER_MAX_MS;
    return retry_after_ms > pause ? retry_after_ms : pause;
}

void client_encode(struct buf *path, struct span text) {
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.data[i];
        bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.' || c == '~' || c == '@';
        if (plain) (void)buf_append_char(path, (char)c);
        else (void)buf_printf(path, "%%%02X", c);
    }
}

/* ---- opening ---- */

int client_open(struct client **out, struct error *err) {
    const char *url = getenv("GENLOOP_URL"), *key = getenv("GENLOOP_API_KEY");
    if (!url || !*url) url = "http://127.0.0.1:8080";
    struct span text = span_str(url);
    while (span_ends(text, SPAN("/"))) text.len--;
    bool known = span_starts(text, SPAN("http://")) || span_starts(text, SPAN("https://"));
    if (!known || text.len >= sizeof((struct client *)0)->url) return error_set(err, E_INVALID, "GENLOOP_URL must be as http://127.0.0.1:8080, not \"%.200s\"", url);
    for (const char *p = key ? key : ""; *p; p++)
        if (*p <= ' ' || *p == 0x7f) return error_set(err, E_INVALID, "GENLOOP_API_KEY holds a space or a control character: that is no key");
    struct client *c = mem_zalloc(sizeof *c);
    if (!c) return error_set(err, E_NOMEM, "no memory for a client");
    span_copy(c->url, sizeof c->url, text);
    if (key && *key) {
        struct buf bearer;
        buf_init(&bearer, 64 * 1024);
        (void)buf_printf(&bearer, "Authorization: Bearer %s", key);
        c->bearer = buf_detach(&bearer, NULL);
        buf_fini(&bearer);
    }
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || !(c->curl = curl_easy_init()) || (key && *key && !c->bearer)) {
        client_close(c);
        return error_set(err, E_NOMEM, "no memory for a client");
    }
    *out = c;
    return 0;
}

void client_close(struct client *c) {
    if (!c) return;
    if (c->curl) curl_easy_cleanup(c->curl);
    curl_global_cleanup();
    mem_free(c->bearer);
    mem_free(c);
}

const char *client_url(const struct client *c) { return c->url; }

/* ---- the home's own door ---- */

struct door_search {
    const char *run;
    int port;      /* of the gateway that is looked for; 0: any */
    char *found;
    CURL *curl;
};

static size_t on_door_header(char *data, size_t one, size_t n, void *arg) {
    struct span line = span_of(data, n), name;
    int64_t port;
    (void)one;
    if (span_cut(&line, ':', &name) && span_eq_nocase(name, SPAN("x-genloop-port")) && span_to_i64(span_trim(line), &port) == 0) *(int64_t *)arg = port;
    return n;
}

static size_t drop_body(char *data, size_t one, size_t n, void *arg) {
    (void)data;
    (void)one;
    (void)arg;
    return n;
}

/* 1: this is the door; 0: look on. */
static int try_door(void *arg, const char *name) {
    struct door_search *s = arg;
    char path[DOOR_MAX];
    int64_t port = -1;
    int n = snprintf(path, sizeof path, "%s/%s", s->run, name);
    if (!span_ends(span_str(name), SPAN(".door")) || n < 0 || (size_t)n >= sizeof path) return 0;
    curl_easy_reset(s->curl);
    (void)curl_easy_setopt(s->curl, CURLOPT_URL, "http://home/livez");
    (void)curl_easy_setopt(s->curl, CURLOPT_UNIX_SOCKET_PATH, path);
    (void)curl_easy_setopt(s->curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(s->curl, CURLOPT_TIMEOUT_MS, (long)DOOR_MS);
    (void)curl_easy_setopt(s->curl, CURLOPT_HEADERFUNCTION, on_door_header);
    (void)curl_easy_setopt(s->curl, CURLOPT_HEADERDATA, &port);
    (void)curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, drop_body);
    if (curl_easy_perform(s->curl) != CURLE_OK || port < 0 || (s->port && port != s->port)) return 0;
    span_copy(s->found, DOOR_MAX, span_str(path));
    return 1;
}

static bool find_door(const char *home, int port, char found[DOOR_MAX]) {
    char run[4096];
    struct door_search s = {.run = run, .port = port, .found = found, .curl = curl_easy_init()};
    (void)snprintf(run, sizeof run, "%s/run", home);
    bool is = s.curl && dir_list(run, &s, try_door, NULL) == 1;
    if (s.curl) curl_easy_cleanup(s.curl);
    return is;
}

/* The port of a URL on this machine; 0 for any other. */
static int loopback_port(struct span url) {
    static const char *const hosts[] = {"127.0.0.1", "localhost", "[::1]"};
    bool tls = span_starts(url, SPAN("https://"));
    int64_t port = tls ? 443 : 80;
    url = span_skip(url, tls ? 8 : 7);
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        if (!span_starts(url, span_str(hosts[i]))) continue;
        struct span rest = span_skip(url, strlen(hosts[i])), number;
        if (rest.len == 0) return (int)port;
        if (rest.data[0] != ':') return 0;
        rest = span_skip(rest, 1);
        return span_cut(&rest, '/', &number) && span_to_i64(number, &port) == 0 && port > 0 && port < 65536 ? (int)port : 0;
    }
    return 0;
}

/* The gateway asks for a key and we have none. On its own machine, the owner of its home needs none: whether there is such a door, from now on used. */
static bool enter_door(struct client *c) {
    const char *set = getenv("GENLOOP_HOME"), *user = getenv("HOME");
    char home[4000];
    int port = loopback_port(span_str(c->url));
    if (c->bearer || c->door_sought || !port) return false;
    c->door_sought = true;
    if (set && *set) (void)snprintf(home, sizeof home, "%s", set);
    else (void)snprintf(home, sizeof home, "%s/.genloop", user ? user : "");
    return find_door(home, port, c->door);
}

int client_open_home(const char *home, struct client **out, struct error *err) {
    struct client *c = mem_zalloc(sizeof *c);
    if (!c) return error_set(err, E_NOMEM, "no memory for a client");
    c->door_sought = true;
    span_copy(c->url, sizeof c->url, SPAN("http://home"));
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || !(c->curl = curl_easy_init())) {
        client_close(c);
        return error_set(err, E_NOMEM, "no memory for a client");
    }
    if (!find_door(home, 0, c->door)) {
        client_close(c);
        return error_set(err, E_UNAVAILABLE, "no gateway of the home %s answers at its door %s/run/INSTANCE.door: is the platform up, and is the home yours?", home, home);
    }
    *out = c;
    return 0;
}

/* ---- one transfer ---- */

/* An event of the stream: JSON, or OpenAI's end. */
static int on_data(void *arg, struct span data) {
    struct transfer *t = arg;
    struct json *event = NULL;
    if (span_eq(data, SPAN("[DONE]"))) {
        t->ended = true;
        return 0;
    }
    int r = json_parse(data, &event, &t->err);
    if (r < 0) {
        (void)error_prefix(&t->err, "the gateway sent an event that is no JSON");
        return E_UNKNOWN;
    }
    const struct json *error = json_get(event, "error");
    r = !json_is_null(error) ? take_error(error, type_code(json_string(json_get(error, "type"))), &t->err) : t->on_event(t->arg, event);
    json_free(event);
    return r;
}

static bool write_all(struct transfer *t, const char *data, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t w = write(t->to_fd, data + done, n - done);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) {
            t->result = error_errno(&t->err, errno, "%s", t->request.to);
            return false;
        }
        done += (size_t)w;
    }
    return true;
}

static size_t on_body(char *data, size_t one, size_t n, void *arg) {
    struct transfer *t = arg;
    long status = 0;
    (void)one;
    t->alive_ms = clock_mono_ms();
    t->client->reached = true;
    (void)curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (t->stream && status == 200) {
        t->result = sse_feed(&t->sse, span_of(data, n), t, on_data);
        if (t->result < 0 && !t->err.code) (void)error_set(&t->err, t->result, "%s", t->result == E_IO ? "what the gateway sent cannot be written" : "an event of the gateway cannot be held");
        return t->result == 0 ? n : 0;
    }
    if (t->to_fd >= 0 && status >= 200 && status < 300) return write_all(t, data, n) ? n : 0;
    if (buf_append(&t->answer, data, n) == 0) return n;
    t->result = error_set(&t->err, E_TOO_LARGE, "the gateway's answer has more than %d MiB", CLIENT_ANSWER_MAX >> 20);
    return 0;
}

static size_t on_header(char *data, size_t one, size_t n, void *arg) {
    struct transfer *t = arg;
    struct span line = span_of(data, n), name;
    int64_t seconds;
    (void)one;
    t->alive_ms = clock_mono_ms();
    if (span_cut(&line, ':', &name) && span_eq_nocase(name, SPAN("retry-after")) && span_to_i64(span_trim(line), &seconds) == 0 && seconds >= 0 && seconds < 3600) t->retry_after_ms = seconds * 1000;
    return n;
}

static size_t on_read(char *to, size_t one, size_t n, void *arg) {
    struct transfer *t = arg;
    ssize_t got;
    (void)one;
    do got = read(t->fd, to, n);
    while (got < 0 && errno == EINTR);
    if (got < 0) {
        t->result = error_errno(&t->err, errno, "%s", t->request.file);
        return CURL_READFUNC_ABORT;
    }
    t->sent += (uint64_t)got;
    return (size_t)got;
}

/* curl begins anew where a kept connection turned out to be dead. */
static int on_seek(void *arg, curl_off_t offset, int origin) {
    struct transfer *t = arg;
    if (origin != SEEK_SET || lseek(t->fd, offset, SEEK_SET) < 0) return CURL_SEEKFUNC_FAIL;
    t->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

static void transfer_init(struct transfer *t, struct client *c, CURL *curl, const struct client_request *request) {
    *t = (struct transfer){.client = c, .request = *request, .curl = curl, .fd = -1, .to_fd = -1, .alive_ms = clock_mono_ms()};
    buf_init(&t->answer, CLIENT_ANSWER_MAX);
}

static void transfer_reset(struct transfer *t) {
    curl_slist_free_all(t->headers);
    t->headers = NULL;
    curl_mime_free(t->form);
    t->form = NULL;
    if (t->fd >= 0) (void)close(t->fd);
    if (t->to_fd >= 0) (void)close(t->to_fd);
    t->fd = t->to_fd = -1;
    if (t->stream) sse_fini(&t->sse);
    buf_clear(&t->answer);
    t->sent = 0;
    t->retry_after_ms = 0;
    t->result = 0;
    t->ended = false;
    t->err = (struct error){0};
    t->message[0] = '\0';
}

static void transfer_fini(struct transfer *t) {
    transfer_reset(t);
    buf_fini(&t->answer);
}

static bool add_header(struct transfer *t, const char *text) {
    struct curl_slist *more = curl_slist_append(t->headers, text);
    if (more) t->headers = more;
    return more != NULL;
}

static int open_file(struct transfer *t, struct error *err) {
    struct stat st;
    t->fd = open(t->request.file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (t->fd < 0 || fstat(t->fd, &st) < 0) return error_errno(err, errno, "%s", t->request.file);
    if (!S_ISREG(st.st_mode)) return error_set(err, E_INVALID, "%s is no file", t->request.file);
    (void)curl_easy_setopt(t->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)st.st_size);
    (void)curl_easy_setopt(t->curl, CURLOPT_READFUNCTION, on_read);
    (void)curl_easy_setopt(t->curl, CURLOPT_READDATA, t);
    (void)curl_easy_setopt(t->curl, CURLOPT_SEEKFUNCTION, on_seek);
    (void)curl_easy_setopt(t->curl, CURLOPT_SEEKDATA, t);
    return 0;
}

/* Makes curl ready for the request; again after transfer_reset. */
static int transfer_prepare(struct transfer *t, struct error *err) {
    const struct client_request *q = &t->request;
    char url[URL_MAX], type[CLIENT_MEDIA_TYPE_MAX + 32];
    int n = snprintf(url, sizeof url, "%s%s", t->client->door[0] ? "http://home" : t->client->url, q->path), r = 0; /* behind the door there is no TLS, also where the gateway has it */
    if (n < 0 || (size_t)n >= sizeof url) return error_set(err, E_INVALID, "the request's address is longer than %d bytes", URL_MAX);
    curl_easy_reset(t->curl);
    (void)curl_easy_setopt(t->curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(t->curl, CURLOPT_CUSTOMREQUEST, q->method);
    (void)curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(t->curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    (void)curl_easy_setopt(t->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    (void)curl_easy_setopt(t->curl, CURLOPT_TCP_KEEPALIVE, 1L);
    (void)curl_easy_setopt(t->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(t->curl, CURLOPT_USERAGENT, "genloop/" GENLOOP_VERSION);
    (void)curl_easy_setopt(t->curl, CURLOPT_ERRORBUFFER, t->message);
    (void)curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
    (void)curl_easy_setopt(t->curl, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(t->curl, CURLOPT_HEADERDATA, t);
    bool ok = add_header(t, t->stream ? "Accept: text/event-stream" : "Accept: application/json") && add_header(t, "Expect:");
    t->through_door = t->client->door[0] != '\0';
    if (t->through_door) (void)curl_easy_setopt(t->curl, CURLOPT_UNIX_SOCKET_PATH, t->client->door);
    if (t->client->bearer) ok = ok && add_header(t, t->client->bearer);
    if (q->to && (t->to_fd = open(q->to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) < 0) r = error_errno(err, errno, "%s", q->to);
    if (q->file && q->purpose) {
        t->form = curl_mime_init(t->curl);
        curl_mimepart *purpose = t->form ? curl_mime_addpart(t->form) : NULL, *file = purpose ? curl_mime_addpart(t->form) : NULL;
        ok = ok && file && curl_mime_name(purpose, "purpose") == CURLE_OK && curl_mime_data(purpose, q->purpose, CURL_ZERO_TERMINATED) == CURLE_OK && curl_mime_name(file, "file") == CURLE_OK;
        if (ok && curl_mime_filedata(file, q->file) != CURLE_OK) r = error_set(err, E_IO, "%s cannot be read", q->file);
        (void)curl_easy_setopt(t->curl, CURLOPT_MIMEPOST, t->form);
    } else if (q->file) {
        (void)curl_easy_setopt(t->curl, CURLOPT_POST, 1L);
        (void)snprintf(type, sizeof type, "Content-Type: %.*s", CLIENT_MEDIA_TYPE_MAX, q->media_type && *q->media_type ? q->media_type : "application/octet-stream");
        ok = ok && add_header(t, type);
        r = open_file(t, err);
    } else if (q->body.len || strcmp(q->method, "POST") == 0) {
        (void)curl_easy_setopt(t->curl, CURLOPT_POST, 1L);
        (void)curl_easy_setopt(t->curl, CURLOPT_POSTFIELDS, q->body.len ? q->body.data : "");
        (void)curl_easy_setopt(t->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body.len);
        ok = ok && add_header(t, "Content-Type: application/json");
    }
    (void)curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
    if (t->stream) sse_init(&t->sse);
    return ok ? r : error_set(err, E_NOMEM, "no memory for a request");
}

/* What became of it. *answer: of a success. */
static int transfer_end(struct transfer *t, CURLcode code, struct json **answer, struct error *err) {
    long status = 0;
    (void)curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status > 0) t->client->reached = true;
    if (t->result < 0) {
        if (err) *err = t->err;
        return t->result;
    }
    if (t->result == CLIENT_STREAM_DONE) return CLIENT_STREAM_DONE;
    /* A gateway that refuses an upload answers before it has read all of it: its answer counts, not the broken pipe. */
    bool answered = status >= 400 && (t->answer.len || code == CURLE_OK);
    if (code != CURLE_OK && !answered) {
        const char *why = t->message[0] ? t->message : curl_easy_strerror(code);
        switch (code) {
        case CURLE_COULDNT_CONNECT:
        case CURLE_COULDNT_RESOLVE_HOST:
        case CURLE_OPERATION_TIMEDOUT:
            return error_set(err, E_UNAVAILABLE, "the gateway at %s does not answer (%s): genloop up starts the platform, GENLOOP_URL names another", t->client->url, why);
        case CURLE_RECV_ERROR:
        case CURLE_SEND_ERROR:
        case CURLE_GOT_NOTHING:
        case CURLE_PARTIAL_FILE:
            t->client->reached = true; /* somebody had taken the connection: a gateway that is killed at the first request comes back too */
            return error_set(err, E_UNAVAILABLE, "the connection to the gateway at %s broke: %s", t->client->url, why);
        case CURLE_READ_ERROR:
        case CURLE_ABORTED_BY_CALLBACK:
            return error_set(err, E_IO, "%s became shorter while it was sent", t->request.file ? t->request.file : "the body");
        default: return error_set(err, E_UNKNOWN, "%s: %s", t->client->url, why);
        }
    }
    if (status < 200 || status >= 300) return client_read_error(status, buf_span(&t->answer), err);
    if (t->stream) return t->ended ? 0 : error_set(err, E_UNAVAILABLE, "the gateway at %s ended the stream before its end", t->client->url);
    if (t->request.to) {
        int closed = close(t->to_fd);
        t->to_fd = -1;
        return closed < 0 ? error_errno(err, errno, "%s", t->request.to) : 0;
    }
    if (!answer) return 0;
    if (json_parse(buf_span(&t->answer), answer, err) == 0) return 0;
    return error_set(err, E_UNKNOWN, "%s answers with what is no JSON: is GENLOOP_URL the gateway?", t->client->url);
}

/* For how long the gateway may be silent. One that never answered may be starting just now, and is back within a second; where there is none, nobody wants to wait for it. */
static int64_t patience_ms(const struct client *c) { return c->reached ? CLIENT_PATIENCE_MS : GRACE_MS; }

static void pause_ms(int64_t ms) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) < 0 && errno == EINTR) {}
}

/* Until it has worked, or is not worth another attempt. */
static int perform(struct transfer *t, struct json **answer, struct error *err) {
    int r;
    for (int attempt = 0;; attempt++) {
        struct error why = {0};
        transfer_reset(t);
        r = transfer_prepare(t, &why);
        int64_t alive_ms = t->alive_ms;
        if (r == 0) r = transfer_end(t, curl_easy_perform(t->curl), answer, &why);
        if (t->alive_ms > alive_ms) attempt = 0;
        if (r >= 0) return r;
        if (r == E_UNAUTHENTICATED && enter_door(t->client)) continue;
        if (!t->request.again || !client_worth_again(r) || clock_mono_ms() - t->alive_ms > patience_ms(t->client)) {
            if (err) *err = why;
            return r;
        }
        pause_ms(client_pause_ms(attempt, t->retry_after_ms));
    }
}

int client_call(struct client *c, const struct client_request *request, struct json **answer, struct error *err) {
    struct transfer t;
    transfer_init(&t, c, c->curl, request);
    int r = perform(&t, answer, err);
    transfer_fini(&t);
    return r;
}

int client_stream(struct client *c, const struct client_request *request, void *arg, int (*on_event)(void *arg, const struct json *event), struct error *err) {
    struct transfer t;
    transfer_init(&t, c, c->curl, request);
    sse_init(&t.sse);
    t.stream = true;
    t.arg = arg;
    t.on_event = on_event;
    int r = perform(&t, NULL, err);
    transfer_fini(&t);
    return r == CLIENT_STREAM_DONE ? 0 : r;
}

/* ---- many at once ---- */

struct slot {
    struct transfer transfer;
    CURL *curl;
    bool taken, running;
    int attempt;
    int64_t wait_until_ms;
};

struct run {
    struct client *client;
    const struct client_batch *batch;
    CURLM *multi;
    struct slot *slots;
    int n;
    uint64_t sent; /* of those that have ended */
    bool exhausted;
};

/* Bytes of the file that have gone out; of a form curl reads it, and counts the form with it. */
static uint64_t transfer_sent(const struct transfer *t) {
    curl_off_t sent = 0;
    if (!t->form) return t->sent;
    return curl_easy_getinfo(t->curl, CURLINFO_SIZE_UPLOAD_T, &sent) == CURLE_OK && sent > 0 ? (uint64_t)sent : 0;
}

static int slot_done(struct run *run, struct slot *s, int r, const struct json *answer, const struct error *err) {
    run->sent += transfer_sent(&s->transfer);
    s->taken = false;
    return run->batch->done(run->batch->arg, &s->transfer.request, r, answer, err);
}

/* Starts a request, or says at once that it cannot be. */
static int slot_start(struct run *run, struct slot *s) {
    struct error err = {0};
    transfer_reset(&s->transfer);
    int r = transfer_prepare(&s->transfer, &err);
    if (r == 0 && curl_multi_add_handle(run->multi, s->curl) != CURLM_OK) r = error_set(&err, E_NOMEM, "no memory for a request");
    if (r < 0) return slot_done(run, s, r, NULL, &err);
    s->running = true;
    return 0;
}

static int slot_ended(struct run *run, struct slot *s, CURLcode code, struct error *fatal) {
    struct json *answer = NULL;
    struct error err = {0};
    (void)curl_multi_remove_handle(run->multi, s->curl);
    s->running = false;
    int r = transfer_end(&s->transfer, code, &answer, &err);
    if (r == E_UNAUTHENTICATED && (run->client->door[0] || enter_door(run->client)) && !s->transfer.through_door) return slot_start(run, s);
    if (r < 0 && s->transfer.request.again && client_worth_again(r) && clock_mono_ms() - s->transfer.alive_ms <= patience_ms(run->client)) {
        s->wait_until_ms = clock_mono_ms() + client_pause_ms(s->attempt++, s->transfer.retry_after_ms);
        return 0;
    }
    if (r < 0 && !run->client->reached) { /* nobody is there: the others need not find out one by one */
        if (fatal) *fatal = err;
        return r;
    }
    r = slot_done(run, s, r, answer, &err);
    json_free(answer);
    return r;
}

static int fill(struct run *run) {
    int64_t now = clock_mono_ms();
    int r = 0;
    for (int i = 0; i < run->n && r == 0; i++) {
        struct slot *s = &run->slots[i];
        if (!s->taken && !run->exhausted) {
            struct client_request q = {0};
            if (run->batch->next(run->batch->arg, &q)) {
                transfer_fini(&s->transfer);
                transfer_init(&s->transfer, run->client, s->curl, &q);
                s->taken = true;
                s->attempt = 0;
                r = slot_start(run, s);
                if (!s->taken) i--; /* it could not even begin: the slot is free for the next */
            } else {
                run->exhausted = true;
            }
        } else if (s->taken && !s->running && now >= s->wait_until_ms) {
            r = slot_start(run, s);
        }
    }
    return r;
}

static bool busy(const struct run *run, uint64_t *sent) {
    bool any = false;
    *sent = run->sent;
    for (int i = 0; i < run->n; i++) {
        any |= run->slots[i].taken;
        if (run->slots[i].taken) *sent += transfer_sent(&run->slots[i].transfer);
    }
    return any;
}

static int turn(struct run *run, struct error *err) {
    int running, left, r = 0;
    CURLMsg *m;
    if (curl_multi_perform(run->multi, &running) != CURLM_OK) return error_set(err, E_INTERNAL, "libcurl cannot go on");
    while (r == 0 && (m = curl_multi_info_read(run->multi, &left)) != NULL) {
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode code = m->data.result;
        for (int i = 0; i < run->n; i++)
            if (run->slots[i].curl == m->easy_handle) {
                r = slot_ended(run, &run->slots[i], code, err);
                break;
            }
    }
    return r;
}

int client_batch(struct client *c, int parallel, const struct client_batch *batch, struct error *err) {
    struct run run = {.client = c, .batch = batch, .n = parallel < 1 ? 1 : parallel > CLIENT_PARALLEL_MAX ? CLIENT_PARALLEL_MAX : parallel};
    uint64_t sent;
    int r = 0;
    run.multi = curl_multi_init();
    run.slots = mem_calloc((size_t)run.n, sizeof *run.slots);
    for (int i = 0; run.slots && i < run.n; i++) {
        transfer_init(&run.slots[i].transfer, c, NULL, &(struct client_request){0});
        if (!(run.slots[i].curl = curl_easy_init())) r = E_NOMEM;
    }
    if (!run.multi || !run.slots || r < 0) {
        r = error_set(err, E_NOMEM, "no memory for requests");
        goto out;
    }
    (void)curl_multi_setopt(run.multi, CURLMOPT_MAXCONNECTS, (long)run.n);
    while (r == 0) {
        r = fill(&run);
        if (batch->tick && (busy(&run, &sent) || sent)) batch->tick(batch->arg, sent);
        if (r != 0 || !busy(&run, &sent)) break;
        r = turn(&run, err);
        if (r == 0 && !run.exhausted) r = fill(&run);
        if (r == 0) (void)curl_multi_poll(run.multi, NULL, 0, TICK_MS, NULL);
    }
out:
    for (int i = 0; run.slots && i < run.n; i++) {
        struct slot *s = &run.slots[i];
        if (s->running) (void)curl_multi_remove_handle(run.multi, s->curl);
        transfer_fini(&s->transfer);
        if (s->curl) curl_easy_cleanup(s->curl);
    }
    mem_free(run.slots);
    if (run.multi) (void)curl_multi_cleanup(run.multi);
    return r;
}

/* ---- anybody's URLs ---- */

struct fetch {
    int fd;
    uint64_t taken, size_max;
    int result;
};

static size_t on_fetched(char *data, size_t one, size_t n, void *arg) {
    struct fetch *f = arg;
    (void)one;
    if (n > f->size_max - f->taken) {
        f->result = E_TOO_LARGE;
        return 0;
    }
    for (size_t done = 0; done < n;) {
        ssize_t w = write(f->fd, data + done, n - done);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) {
            f->result = E_IO;
            return 0;
        }
        done += (size_t)w;
    }
    f->taken += n;
    return n;
}

int client_fetch(struct client *c, const char *url, const char *to_path, uint64_t size_max, char media_type[CLIENT_MEDIA_TYPE_MAX], struct error *err) {
    char message[CURL_ERROR_SIZE] = "", *type = NULL;
    struct fetch f = {.size_max = size_max};
    int r = 0;
    f.fd = open(to_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (f.fd < 0) return error_errno(err, errno, "%s", to_path);
    curl_easy_reset(c->curl);
    (void)curl_easy_setopt(c->curl, CURLOPT_URL, url);
    (void)curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(c->curl, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(c->curl, CURLOPT_FOLLOWLOCATION, 1L);
    (void)curl_easy_setopt(c->curl, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
    (void)curl_easy_setopt(c->curl, CURLOPT_FAILONERROR, 1L);
    (void)curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT_MS, 30000L);
    (void)curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    (void)curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_TIME, 60L);
    (void)curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "genloop/" GENLOOP_VERSION);
    (void)curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, message);
    (void)curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_fetched);
    (void)curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &f);
    CURLcode code = curl_easy_perform(c->curl);
    (void)curl_easy_getinfo(c->curl, CURLINFO_CONTENT_TYPE, &type);
    struct span bare = span_str(type ? type : ""), head = bare;
    (void)span_cut(&bare, ';', &head);
    span_copy(media_type, CLIENT_MEDIA_TYPE_MAX, span_trim(head));
    if (f.result == E_TOO_LARGE) r = error_set(err, E_TOO_LARGE, "%s has more than %llu bytes", url, (unsigned long long)size_max);
    else if (f.result < 0) r = error_set(err, E_IO, "%s cannot be written", to_path);
    else if (code != CURLE_OK) r = error_set(err, E_UNAVAILABLE, "%s: %s", url, message[0] ? message : curl_easy_strerror(code));
    if (close(f.fd) < 0 && r == 0) r = error_errno(err, errno, "%s", to_path);
    return r;
}
