/* TLS: the server on the test's thread, OpenSSL's own client in another one; certificates of an authority that the test makes. */
#include "test.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/loop.h"
#include "certificates.h"
#include "http/server.h"
#include "http/tls.h"

static struct loop *loop;
static struct http_server *server;
static struct http_tls *tls;
static int port;
static char folder[] = "/tmp/test-tls-XXXXXX", certificate[64], key[64], client_ca[64], client_certificate[64], client_key[64], stranger_certificate[64], stranger_key[64];
static struct authority *ours, *theirs;
static atomic_int reloads, reloads_failed;

static void on_request(void *arg, struct http_exchange *x) {
    (void)arg;
    assert_true(http_secure(x));
    if (span_eq(http_path(x), SPAN("/much"))) {
        static char much[3 << 20];
        memset(much, 'm', sizeof much);
        http_respond(x, 200, NULL, span_of(much, sizeof much));
    } else {
        http_respond(x, 200, NULL, http_protocol(x) == HTTP_2 ? SPAN("over 2") : SPAN("over 1.1"));
    }
}

static void on_reload(void *arg, int r, const struct error *err) {
    (void)arg;
    if (r) {
        assert_true(err->message[0] != 0);
        reloads_failed++;
    } else {
        reloads++;
    }
}

static void place(char out[64], const char *name) { snprintf(out, 64, "%s/%s", folder, name); }

static int make_files(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    place(certificate, "server.pem");
    place(key, "server.key");
    place(client_ca, "ca.pem");
    place(client_certificate, "client.pem");
    place(client_key, "client.key");
    place(stranger_certificate, "stranger.pem");
    place(stranger_key, "stranger.key");
    ours = authority_new("ours");
    theirs = authority_new("theirs");
    authority_write(ours, client_ca);
    authority_issue(ours, "localhost", 2, certificate, key);
    authority_issue(ours, "client", 3, client_certificate, client_key);
    authority_issue(theirs, "stranger", 4, stranger_certificate, stranger_key);
    return 0;
}

static int remove_files(void **state) {
    (void)state;
    authority_free(ours);
    authority_free(theirs);
    const char *const all[] = {certificate, key, client_ca, client_certificate, client_key, stranger_certificate, stranger_key};
    for (size_t i = 0; i < COUNT(all); i++) unlink(all[i]);
    return rmdir(folder);
}

static void start(bool mutual, const struct http_limits *limits) {
    struct error err = {0};
    struct http_tls_files files = {certificate, key, mutual ? client_ca : NULL};
    reloads = reloads_failed = 0;
    loop = loop_new(&err);
    tls = http_tls_open(loop, &files, NULL, on_reload, &err);
    CHECK(tls != NULL, "%s", err.message);
    struct http_options options = {.limits = limits ? *limits : (struct http_limits){.pipeline_max = 0}, .tls = tls};
    server = http_server_open(loop, "127.0.0.1:0", &options, NULL, on_request, &err);
    CHECK(server != NULL, "%s", err.message);
    port = http_server_port(server);
}

static void finish(void) {
    http_server_close(server);
    http_tls_close(tls);
    loop_free(loop);
}

static void *(*script)(void *);
static void *run_script(void *arg) {
    void *r = script(arg);
    loop_stop(loop);
    return r;
}
static void run(void *(*fn)(void *), void *arg) {
    pthread_t id;
    script = fn;
    pthread_create(&id, NULL, run_script, arg);
    loop_run(loop);
    pthread_join(id, NULL);
}

/* ---- A client ---------------------------------------------------------------------------------------------------------------- */

struct client {
    SSL_CTX *context;
    SSL *ssl;
    int fd;
    SSL_SESSION *session; /* the last ticket */
};

static int keep_session(SSL *ssl, SSL_SESSION *session) {
    struct client *k = SSL_get_app_data(ssl);
    SSL_SESSION_free(k->session);
    k->session = session;
    return 1;
}

static int connect_to(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {60, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) abort();
    return fd;
}

static void client_new(struct client *k, int version, const char *cert, const char *cert_key) {
    *k = (struct client){.fd = -1};
    k->context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_load_verify_locations(k->context, client_ca, NULL);
    SSL_CTX_set_verify(k->context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(k->context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(k->context, keep_session);
    SSL_CTX_set_min_proto_version(k->context, version);
    SSL_CTX_set_max_proto_version(k->context, version);
    SSL_CTX_set_security_level(k->context, 0); /* it may offer what nobody should */
    SSL_CTX_set_cipher_list(k->context, "ALL");
    if (cert && (SSL_CTX_use_certificate_file(k->context, cert, SSL_FILETYPE_PEM) != 1 || SSL_CTX_use_PrivateKey_file(k->context, cert_key, SSL_FILETYPE_PEM) != 1)) abort();
}

/* alpn in wire form; NULL: none is offered. */
static bool client_connect(struct client *k, const char *alpn) {
    k->fd = connect_to();
    k->ssl = SSL_new(k->context);
    SSL_set_app_data(k->ssl, k);
    SSL_set_fd(k->ssl, k->fd);
    SSL_set1_host(k->ssl, "localhost");
    if (alpn) SSL_set_alpn_protos(k->ssl, (const unsigned char *)alpn, (unsigned)strlen(alpn));
    if (k->session) SSL_set_session(k->ssl, k->session);
    return SSL_connect(k->ssl) == 1;
}

static void client_disconnect(struct client *k) {
    ERR_clear_error();
    if (SSL_is_init_finished(k->ssl)) SSL_shutdown(k->ssl); /* else a session of TLS 1.2 counts as one that went wrong */
    SSL_free(k->ssl);
    k->ssl = NULL;
    close(k->fd);
    ERR_clear_error();
}

static void client_free(struct client *k) {
    SSL_SESSION_free(k->session);
    SSL_CTX_free(k->context);
}

/* The answer to a GET that closes; its end, "" where there is none. */
static void get(struct client *k, const char *path, struct buf *out) {
    char request[128];
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    if (SSL_write(k->ssl, request, n) != n) return;
    for (;;) {
        char room[65536];
        int got = SSL_read(k->ssl, room, sizeof room);
        if (got <= 0) return;
        buf_append(out, room, (size_t)got);
    }
}

/* ---- Handshakes -------------------------------------------------------------------------------------------------------------- */

static struct handshake {
    const char *name;
    int version;
    const char *alpn;
    bool mutual;
    int who; /* 0 nobody, 1 a client of ours, 2 a stranger */
    bool accepted;
    const char *agreed;
} handshakes[] = {
    {"1.3", TLS1_3_VERSION, NULL, false, 0, true, ""},
    {"1.2", TLS1_2_VERSION, NULL, false, 0, true, ""},
    {"1.1", TLS1_1_VERSION, NULL, false, 0, false, ""},
    {"h2", TLS1_3_VERSION, "\x02h2\x08http/1.1", false, 0, true, "h2"},
    {"h2 with 1.2", TLS1_2_VERSION, "\x02h2", false, 0, true, "h2"},
    {"http/1.1", TLS1_3_VERSION, "\x08http/1.1", false, 0, true, "http/1.1"},
    {"unknown protocol", TLS1_3_VERSION, "\x06spdy/1", false, 0, false, ""},
    {"nobody where all are known", TLS1_3_VERSION, NULL, true, 0, false, ""},
    {"client", TLS1_3_VERSION, NULL, true, 1, true, ""},
    {"client with 1.2", TLS1_2_VERSION, NULL, true, 1, true, ""},
    {"stranger", TLS1_3_VERSION, NULL, true, 2, false, ""},
    {"stranger with 1.2", TLS1_2_VERSION, NULL, true, 2, false, ""},
};

struct shaken {
    struct handshake *h;
    struct buf got;
    bool connected;
    char agreed[16], cipher[64];
};

static void *shake(void *arg) {
    struct shaken *s = arg;
    struct client k;
    client_new(&k, s->h->version, s->h->who == 1 ? client_certificate : s->h->who == 2 ? stranger_certificate : NULL, s->h->who == 1 ? client_key : stranger_key);
    s->connected = client_connect(&k, s->h->alpn);
    if (s->connected) {
        const unsigned char *name;
        unsigned len;
        SSL_get0_alpn_selected(k.ssl, &name, &len);
        span_copy(s->agreed, sizeof s->agreed, span_of(name, len));
        span_copy(s->cipher, sizeof s->cipher, span_str(SSL_get_cipher_name(k.ssl)));
        if (strcmp(s->agreed, "h2") != 0) get(&k, "/", &s->got); /* with TLS 1.3 the server's no to a client comes only now */
    }
    client_disconnect(&k);
    client_free(&k);
    return NULL;
}

static void who_is_let_in(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(handshakes); i++) {
        struct handshake *h = &handshakes[i];
        struct shaken s = {.h = h};
        buf_init(&s.got, 1 << 20);
        start(h->mutual, NULL);
        run(shake, &s);
        finish();
        bool h2 = h->agreed[0] == 'h' && h->agreed[1] == '2';
        CHECK((h2 ? s.connected : span_ends(buf_span(&s.got), SPAN("over 1.1"))) == h->accepted, "%s: connected %d, got %s", h->name, s.connected, buf_cstr(&s.got));
        CHECK(strcmp(s.agreed, h->agreed) == 0, "%s: agreed on %s", h->name, s.agreed);
        CHECK(!s.connected || strstr(s.cipher, "GCM") || strstr(s.cipher, "CHACHA20"), "%s: %s", h->name, s.cipher);
        buf_fini(&s.got);
    }
}

/* ---- Resumption, large answers ------------------------------------------------------------------------------------------------ */

struct twice {
    int version;
    bool resumed;
    struct buf got;
};

static void *come_back(void *arg) {
    struct twice *t = arg;
    struct client k;
    struct buf first;
    buf_init(&first, 8 << 20);
    client_new(&k, t->version, NULL, NULL);
    if (!client_connect(&k, NULL)) abort();
    get(&k, "/much", &first);
    client_disconnect(&k);
    if (!client_connect(&k, NULL)) abort();
    t->resumed = SSL_session_reused(k.ssl);
    get(&k, "/much", &t->got);
    client_disconnect(&k);
    client_free(&k);
    buf_fini(&first);
    return NULL;
}

static void resumption(void **state) {
    (void)state;
    const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (size_t i = 0; i < COUNT(versions); i++) {
        struct twice t = {.version = versions[i]};
        buf_init(&t.got, 8 << 20);
        start(false, NULL);
        run(come_back, &t);
        finish();
        CHECK(t.resumed, "version %x", (unsigned)t.version);
        ptrdiff_t head = span_find(buf_span(&t.got), SPAN("\r\n\r\n"));
        CHECK(head > 0 && t.got.len == (size_t)head + 4 + (3 << 20), "%zu bytes", t.got.len);
        buf_fini(&t.got);
    }
}

/* ---- Reloading ---------------------------------------------------------------------------------------------------------------- */

static long serial_now(void) {
    struct client k;
    client_new(&k, TLS1_3_VERSION, NULL, NULL);
    long serial = -1;
    if (client_connect(&k, NULL)) {
        X509 *c = SSL_get1_peer_certificate(k.ssl);
        serial = ASN1_INTEGER_get(X509_get0_serialNumber(c));
        X509_free(c);
    }
    client_disconnect(&k);
    client_free(&k);
    return serial;
}

static void await(atomic_int *count, int least) {
    for (int i = 0; i < 6000 && *count < least; i++) usleep(10000);
}

struct serials {
    long before, broken, after;
    bool old_goes_on;
};

static void *renew(void *arg) {
    struct serials *s = arg;
    struct client k;
    struct buf got;
    buf_init(&got, 1 << 20);
    s->before = serial_now();
    client_new(&k, TLS1_3_VERSION, NULL, NULL);
    if (!client_connect(&k, NULL)) abort();
    char aside[80];
    snprintf(aside, sizeof aside, "%s.aside", key);
    authority_issue(ours, "localhost", 77, certificate, aside); /* half of a renewal: the key is still the old one */
    await(&reloads_failed, 1);
    s->broken = serial_now();
    if (rename(aside, key) != 0) abort();
    await(&reloads, 1);
    s->after = serial_now();
    get(&k, "/", &got); /* what was open before goes on */
    s->old_goes_on = span_ends(buf_span(&got), SPAN("over 1.1"));
    client_disconnect(&k);
    client_free(&k);
    buf_fini(&got);
    return NULL;
}

static void renewal(void **state) {
    (void)state;
    struct serials s = {0};
    start(false, NULL);
    run(renew, &s);
    finish();
    CHECK(s.before == 2 && s.broken == 2 && s.after == 77 && s.old_goes_on, "serials %ld, %ld, %ld; %d", s.before, s.broken, s.after, s.old_goes_on);
    assert_int_equal(reloads_failed, 1);
    assert_int_equal(reloads, 1);
    authority_issue(ours, "localhost", 2, certificate, key);
}

static void wrong_files(void **state) {
    (void)state;
    const struct {
        struct http_tls_files files;
        const char *named;
    } cases[] = {
        {{"/nowhere.pem", key, NULL}, "tls_certificate: /nowhere.pem"}, {{key, key, NULL}, "tls_certificate: "}, {{certificate, "/nowhere.key", NULL}, "tls_key: /nowhere.key"},
        {{certificate, client_key, NULL}, "tls_key: "}, {{certificate, key, "/nowhere.ca"}, "tls_client_ca: /nowhere.ca"}, {{certificate, key, key}, "tls_client_ca: "},
    };
    struct error err;
    loop = loop_new(&err);
    for (size_t i = 0; i < COUNT(cases); i++) {
        err = (struct error){0};
        assert_null(http_tls_open(loop, &cases[i].files, NULL, NULL, &err));
        CHECK(span_starts(span_str(err.message), span_str(cases[i].named)) && err.code == E_INVALID, "case %zu: %s", i, err.message);
    }
    loop_free(loop);
}

/* ---- Abuse -------------------------------------------------------------------------------------------------------------------- */

static atomic_int ended;

/* Whether the server ends a connection on which these bytes came; a sentence in the clear, garbage, nothing, a hello that stops. */
static void *say(void *arg) {
    struct span s = *(struct span *)arg;
    int fd = connect_to();
    char room[1000];
    ssize_t n = send(fd, s.data, s.len, MSG_NOSIGNAL);
    while ((n = recv(fd, room, sizeof room, 0)) > 0) {}
    ended += n == 0 || errno == ECONNRESET;
    close(fd);
    return NULL;
}

static void no_handshake(void **state) {
    (void)state;
    struct span cases[] = {SPAN("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), SPAN("\x16\x03\x01\x40\x00\x01\x00\x01\xfc\x03\x03"), SPAN(""), SPAN("\x80\x80\x80\x80\x80\x80\x80\x80"), SPAN("\x16\x03\x01\x00\x05\x01\x00\x00\x00")};
    struct http_limits limits = {.head_timeout_ms = 200};
    ended = 0;
    for (size_t i = 0; i < COUNT(cases); i++) {
        start(false, &limits);
        run(say, &cases[i]);
        finish();
        CHECK(ended == (int)i + 1, "case %zu is still open", i);
    }
}

/* Records without data for ever: nobody needs so many new keys. */
static void *update_keys(void *arg) {
    struct client k;
    (void)arg;
    client_new(&k, TLS1_3_VERSION, NULL, NULL);
    if (!client_connect(&k, NULL)) abort();
    int64_t until_ms = clock_mono_ms() + 20000; /* by time: a server that has given up still reads away what comes for a second, however much a quick client sends in it */
    while (clock_mono_ms() < until_ms) {
        if (SSL_key_update(k.ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1 || SSL_do_handshake(k.ssl) != 1) {
            ended = 1;
            break;
        }
    }
    client_disconnect(&k);
    client_free(&k);
    return NULL;
}

static void key_updates(void **state) {
    (void)state;
    ended = 0;
    start(false, NULL);
    run(update_keys, NULL);
    finish();
    assert_int_equal(ended, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(who_is_let_in), cmocka_unit_test(resumption), cmocka_unit_test(renewal), cmocka_unit_test(wrong_files), cmocka_unit_test(no_handshake), cmocka_unit_test(key_updates)};
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
