#include "door.h"

#include <sys/resource.h>

#include "base/log.h"
#include "exchange.h"
#include "http/tls.h"

static void on_reload(void *arg, int r, const struct error *err) {
    (void)arg;
    if (r) log_warn("gateway.tls", "the certificate's files have changed and cannot be used: what was read before stays in force: %s", err->message);
    else log_info("gateway.tls", "the certificate was read again");
}

enum { OTHER_DESCRIPTORS = 256 }; /* the bus, the log, Redis, the store's files */

/* Descriptors for that many connections: as many as this process may have. Returns how many connections that makes. */
static int64_t room_for(int64_t connections) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0) return connections;
    rlim_t wanted = (rlim_t)connections + OTHER_DESCRIPTORS;
    if (r.rlim_cur < wanted) {
        r.rlim_cur = r.rlim_max < wanted ? r.rlim_max : wanted;
        if (setrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur < wanted) {
            int64_t possible = r.rlim_cur > 2 * OTHER_DESCRIPTORS ? (int64_t)r.rlim_cur - OTHER_DESCRIPTORS : OTHER_DESCRIPTORS;
            log_warn("gateway.listen", "gateway.connections_max is %lld, but the system gives %llu descriptors (ulimit -n): %lld connections at once", (long long)connections, (unsigned long long)r.rlim_cur, (long long)possible);
            return possible;
        }
    }
    return connections;
}

int door_check(struct gateway *g, struct error *err) {
    const struct gateway_settings *m = g->settings;
    if (!m->tls_certificate[0] != !m->tls_key[0]) return error_set(err, E_INVALID, "gateway.tls_certificate and gateway.tls_key: one without the other is no TLS: set both, or neither");
    if (m->tls_client_ca[0] && !m->tls_certificate[0]) return error_set(err, E_INVALID, "gateway.tls_client_ca: clients can show a certificate only under TLS: set gateway.tls_certificate and gateway.tls_key too");
    if (m->tls_certificate[0]) {
        struct http_tls_files files = {m->tls_certificate, m->tls_key, m->tls_client_ca};
        if (!(g->tls = http_tls_open(service_loop(g->service), &files, NULL, on_reload, err))) return error_prefix(err, "gateway");
    }
    return 0;
}

int door_open(struct gateway *g, struct error *err) {
    const struct gateway_settings *m = g->settings;
    int r = g->tls ? 0 : door_check(g, err);
    if (r) return r;
    struct http_options options = {
        .limits = {
            .parser = {.head_max = (size_t)m->head_max_bytes},
            .connections_max = (size_t)room_for(m->connections_max),
            .streams_max = (size_t)m->streams_max,
            .write_buffer_max = (size_t)m->write_buffer_bytes,
            .head_timeout_ms = m->head_timeout_ms,
            .body_timeout_ms = m->body_timeout_ms,
            .idle_timeout_ms = m->idle_timeout_ms,
            .write_timeout_ms = m->write_timeout_ms,
        },
        .door = "gateway",
        .reuse_port = m->reuse_port,
        .tls = g->tls,
    };
    g->http = http_server_open(service_loop(g->service), m->listen, &options, g, exchange_request, err);
    return g->http ? 0 : error_prefix(err, "gateway.listen");
}

void door_close(struct gateway *g) {
    http_server_close(g->http);
    http_tls_close(g->tls);
}
