#include "http/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/metrics.h"

enum { RECORD_MAX = 16384, RECORD_OVERHEAD = 64 /* 22 with TLS 1.3, 29 with 1.2; room for an alert */ };
enum { OUT_MAX = 1 << 20 };                     /* the transport's cap is smaller */
enum { FILES = 3 };

struct stamp {
    int64_t seconds, nanoseconds, size;
    uint64_t inode;
};

struct http_tls {
    int refs; /* its owner, a look under way */
    struct loop *loop;
    struct loop_timer *timer;
    char *paths[FILES]; /* certificate, key, client authorities or NULL; never changed: the worker reads them */
    struct stamp stamps[FILES];
    SSL_CTX *context;
    bool closed, looking;
    void *arg;
    void (*on_reload)(void *arg, int r, const struct error *err);
    /* a look, on a worker */
    struct stamp seen[FILES];
    SSL_CTX *found;
    int result; /* E_AGAIN: nothing has changed */
    struct error error;
};

struct tls {
    SSL *ssl;
    struct span in;
    struct buf out;
    bool ready;
};

static const char *const WHAT[FILES] = {"tls_certificate", "tls_key", "tls_client_ca"};

/* ---- Contexts --------------------------------------------------------------------------------------------------------------- */

/* The first word of OpenSSL on what went wrong. */
static const char *reason(void) {
    unsigned long e = ERR_get_error();
    if (ERR_GET_LIB(e) == ERR_LIB_SYS) return strerror(ERR_GET_REASON(e)); /* NOLINT: one thread reads it at once */
    const char *s = e ? ERR_reason_error_string(e) : NULL;
    return s ? s : "unknown reason";
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned in_len, void *arg) {
    static const unsigned char ours[] = "\x02h2\x08http/1.1";
    (void)ssl;
    (void)arg;
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, out_len, ours, sizeof ours - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static int no_passphrase(char *room, int size, int writing, void *arg) {
    (void)room;
    (void)size;
    (void)writing;
    (void)arg;
    return -1; /* nobody is there to be asked */
}

static int load(char *const paths[FILES], SSL_CTX **out, struct error *err) {
    int r = 0;
    ERR_clear_error();
    SSL_CTX *c = SSL_CTX_new(TLS_server_method());
    if (!c) return error_set(err, E_NOMEM, "TLS: no memory");
    SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION);
    SSL_CTX_set_options(c, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(c, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER); /* idle connections keep no buffers */
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);                                                              /* tickets alone: the memory is the clients' */
    SSL_CTX_set_session_id_context(c, (const unsigned char *)"genloop", 7);
    SSL_CTX_set_num_tickets(c, 1);
    SSL_CTX_set_alpn_select_cb(c, choose_protocol, NULL);
    SSL_CTX_set_default_passwd_cb(c, no_passphrase);
    if (!SSL_CTX_set_cipher_list(c, "ECDHE+AESGCM:ECDHE+CHACHA20")) r = error_set(err, E_INTERNAL, "TLS: %s", reason());
    else if (SSL_CTX_use_certificate_chain_file(c, paths[0]) != 1) r = error_set(err, E_INVALID, "%s: %s: no certificate can be read: %s", WHAT[0], paths[0], reason());
    else if (SSL_CTX_use_PrivateKey_file(c, paths[1], SSL_FILETYPE_PEM) != 1)
        r = error_set(err, E_INVALID, "%s: %s: no key without passphrase can be read that fits the certificate in %s: %s", WHAT[1], paths[1], paths[0], reason());
    else if (SSL_CTX_check_private_key(c) != 1) r = error_set(err, E_INVALID, "%s: %s is not the key of the certificate in %s", WHAT[1], paths[1], paths[0]);
    if (!r && paths[2]) {
        STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(paths[2]);
        if (!names || SSL_CTX_load_verify_locations(c, paths[2], NULL) != 1) {
            r = error_set(err, E_INVALID, "%s: %s: no certificates of authorities can be read: %s", WHAT[2], paths[2], reason());
            sk_X509_NAME_pop_free(names, X509_NAME_free);
        } else {
            SSL_CTX_set_client_CA_list(c, names); /* takes names */
            SSL_CTX_set_verify(c, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        }
    }
    if (r) SSL_CTX_free(c);
    else *out = c;
    ERR_clear_error();
    return r;
}

static void look_at(char *const paths[FILES], struct stamp stamps[FILES]) {
    for (int i = 0; i < FILES; i++) {
        struct stat st;
        stamps[i] = (struct stamp){0}; /* what is not there has none */
        if (paths[i] && stat(paths[i], &st) == 0) stamps[i] = (struct stamp){st.st_mtim.tv_sec, st.st_mtim.tv_nsec, st.st_size, st.st_ino};
    }
}

static void note_expiry(SSL_CTX *c) {
    struct tm tm = {0};
    if (ASN1_TIME_to_tm(X509_get0_notAfter(SSL_CTX_get0_certificate(c)), &tm) != 1) return;
    metric_set(metric_gauge("genloop_http_tls_not_after_seconds", "", "When the certificate that is shown expires, in Unix time."), (double)timegm(&tm));
}

/* ---- Reloading -------------------------------------------------------------------------------------------------------------- */

static void http_tls_unref(struct http_tls *t) {
    if (--t->refs) return;
    SSL_CTX_free(t->context);
    for (int i = 0; i < FILES; i++) mem_free(t->paths[i]);
    mem_free(t);
}

static void look(void *arg) {
    struct http_tls *t = arg;
    t->found = NULL;
    t->error = (struct error){0};
    look_at(t->paths, t->seen);
    t->result = memcmp(t->seen, t->stamps, sizeof t->seen) == 0 ? E_AGAIN : load(t->paths, &t->found, &t->error);
}

static void looked(void *arg) {
    struct http_tls *t = arg;
    t->looking = false;
    if (t->result != E_AGAIN && !t->closed) {
        memcpy(t->stamps, t->seen, sizeof t->stamps);
        metric_add(metric_counter("genloop_http_tls_reloads_total", t->result ? "result=\"failed\"" : "result=\"ok\"", "Certificates that were read again because their files had changed."), 1);
        if (!t->result) {
            SSL_CTX_free(t->context);
            t->context = t->found;
            t->found = NULL;
            note_expiry(t->context);
        }
        if (t->on_reload) t->on_reload(t->arg, t->result, t->result ? &t->error : NULL);
    }
    SSL_CTX_free(t->found);
    t->found = NULL;
    http_tls_unref(t);
}

static void on_timer(void *arg) {
    struct http_tls *t = arg;
    if (t->looking || loop_work(t->loop, look, looked, t)) return; /* no worker is free: the next time */
    t->looking = true;
    t->refs++;
}

struct http_tls *http_tls_open(struct loop *l, const struct http_tls_files *files, void *arg, void (*on_reload)(void *arg, int r, const struct error *err), struct error *err) {
    const char *paths[FILES] = {files->certificate, files->key, files->client_ca && files->client_ca[0] ? files->client_ca : NULL};
    struct http_tls *t = mem_zalloc(sizeof *t);
    bool whole = t != NULL;
    if (t) {
        t->refs = 1;
        t->loop = l;
        t->arg = arg;
        t->on_reload = on_reload;
        for (int i = 0; i < FILES; i++) whole &= !paths[i] || (t->paths[i] = mem_strdup(paths[i])) != NULL;
        whole = whole && (t->timer = loop_timer_new(l, t, on_timer)) != NULL;
    }
    if (!whole) error_set(err, E_NOMEM, "TLS: no memory");
    if (whole) {
        look_at(t->paths, t->stamps);
        if (load(t->paths, &t->context, err) == 0) {
            note_expiry(t->context);
            loop_timer_start(t->timer, HTTP_TLS_LOOK_MS, HTTP_TLS_LOOK_MS);
            return t;
        }
    }
    http_tls_close(t);
    return NULL;
}

void http_tls_close(struct http_tls *t) {
    if (!t) return;
    t->closed = true;
    loop_timer_close(t->timer);
    http_tls_unref(t);
}

/* ---- Bytes in, bytes out ---------------------------------------------------------------------------------------------------- */

static int in_read(BIO *bio, char *room, size_t size, size_t *got) {
    struct tls *s = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (!s->in.len) {
        BIO_set_retry_read(bio);
        return 0;
    }
    *got = s->in.len < size ? s->in.len : size;
    memcpy(room, s->in.data, *got);
    s->in = span_skip(s->in, *got);
    return 1;
}

static int out_write(BIO *bio, const char *data, size_t size, size_t *taken) {
    struct tls *s = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (buf_append(&s->out, data, size)) return 0;
    *taken = size;
    return 1;
}

static long control(BIO *bio, int command, long number, void *pointer) {
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH || command == BIO_CTRL_DUP;
}

static BIO_METHOD *method; /* made with the first connection, for ever; the loop's thread */

static BIO *bio_new(struct tls *s) {
    if (!method) {
        BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "genloop");
        if (!m || !BIO_meth_set_read_ex(m, in_read) || !BIO_meth_set_write_ex(m, out_write) || !BIO_meth_set_ctrl(m, control)) {
            BIO_meth_free(m);
            return NULL;
        }
        method = m;
    }
    BIO *bio = BIO_new(method);
    if (!bio) return NULL;
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    return bio;
}

struct tls *tls_new(struct http_tls *t) {
    struct tls *s = mem_zalloc(sizeof *s);
    if (!s) return NULL;
    buf_init(&s->out, OUT_MAX);
    s->ssl = SSL_new(t->context);
    BIO *bio = s->ssl ? bio_new(s) : NULL;
    if (!bio) {
        tls_free(s);
        return NULL;
    }
    SSL_set_bio(s->ssl, bio, bio); /* takes bio */
    SSL_set_accept_state(s->ssl);
    return s;
}

void tls_free(struct tls *s) {
    if (!s) return;
    SSL_free(s->ssl);
    buf_fini(&s->out);
    mem_free(s);
}

void tls_feed(struct tls *s, struct span data) { s->in = data; }

int tls_read(struct tls *s, char *room, size_t size, size_t *got) {
    ERR_clear_error();
    int ok = s->ready ? SSL_read_ex(s->ssl, room, size, got) : SSL_do_handshake(s->ssl);
    if (ok == 1 && !s->ready) {
        s->ready = true;
        ok = SSL_read_ex(s->ssl, room, size, got);
    }
    if (ok == 1) return 0;
    switch (SSL_get_error(s->ssl, ok)) {
    case SSL_ERROR_WANT_READ: return s->out.failed ? E_NOMEM : E_AGAIN;
    case SSL_ERROR_ZERO_RETURN: return E_CANCELLED;
    default: ERR_clear_error(); return E_IO;
    }
}

int tls_write(struct tls *s, struct span data) {
    if (!s->ready) return E_STATE;
    while (data.len) {
        size_t taken = 0;
        ERR_clear_error();
        if (SSL_write_ex(s->ssl, data.data, data.len, &taken) != 1) return s->out.failed == E_NOMEM ? E_NOMEM : E_IO;
        data = span_skip(data, taken);
    }
    return 0;
}

size_t tls_expansion(size_t len) { return len + (len / RECORD_MAX + 2) * RECORD_OVERHEAD; }

void tls_end(struct tls *s) {
    ERR_clear_error();
    if (s->ready) (void)SSL_shutdown(s->ssl); /* one way: we do not wait for the client's */
    ERR_clear_error();
}

struct buf *tls_out(struct tls *s) { return &s->out; }
bool tls_ready(const struct tls *s) { return s->ready; }
bool tls_resumed(const struct tls *s) { return SSL_session_reused(s->ssl) == 1; }

struct span tls_protocol(const struct tls *s) {
    const unsigned char *name = NULL;
    unsigned len = 0;
    SSL_get0_alpn_selected(s->ssl, &name, &len);
    return span_of(name, len);
}
