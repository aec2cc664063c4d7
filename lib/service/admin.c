#include "service/admin.h"

#include "base/alloc.h"
#include "base/metrics.h"
#include "http/server.h"

enum { ADDRESS_MAX = 128, METRICS_BYTES_MAX = 8 << 20 /* METRIC_SERIES_MAX of the longest labels */ };

struct admin {
    struct service *service;
    struct http_server *http;
    char address[ADDRESS_MAX];
};

/* The gateway answers these on its own port too: the answers are made here once. */
bool admin_answer(struct service *s, struct http_exchange *x) {
    struct span path = http_path(x);
    bool get = span_eq_str(http_method(x), "GET") || span_eq_str(http_method(x), "HEAD");
    bool live = span_eq_str(path, "/livez"), ready = span_eq_str(path, "/readyz"), metrics = span_eq_str(path, "/metrics");
    if (!live && !ready && !metrics) return false;
    if (!get) {
        (void)http_header_add(x, "Allow", SPAN("GET, HEAD"));
        (void)http_respond(x, 405, "text/plain", SPAN("method not allowed\n"));
        return true;
    }
    if (live) {
        (void)http_respond(x, 200, "text/plain", SPAN("ok\n"));
    } else if (ready) {
        bool is = service_is_ready(s);
        (void)http_respond(x, is ? 200 : 503, "text/plain", is ? SPAN("ok\n") : service_draining(s) ? SPAN("draining\n") : SPAN("starting\n"));
    } else {
        struct buf out;
        buf_init(&out, METRICS_BYTES_MAX);
        if (metrics_render(&out) == 0) (void)http_respond(x, 200, "text/plain; version=0.0.4", buf_span(&out));
        else (void)http_respond(x, 503, "text/plain", SPAN("no memory\n"));
        buf_fini(&out);
    }
    return true;
}

static void on_request(void *arg, struct http_exchange *x) {
    struct admin *a = arg;
    if (!admin_answer(a->service, x)) (void)http_respond(x, 404, "text/plain", SPAN("there are /livez, /readyz and /metrics\n"));
}

int admin_open(struct service *s, const char *address, struct admin **out, struct error *err) {
    const char *colon = strrchr(address, ':');
    struct admin *a = mem_zalloc(sizeof *a);
    if (!a) return error_set(err, E_NOMEM, "no memory for the admin door");
    a->service = s;
    a->http = http_server_open(service_loop(s), address, NULL, a, on_request, err);
    if (!a->http) {
        mem_free(a);
        return error_prefix(err, "admin: %s", address);
    }
    int host = colon && strncmp(address, "unix:", 5) != 0 ? (int)(colon - address) : -1;
    if (host >= 0) (void)snprintf(a->address, sizeof a->address, "%.*s:%d", host, address, http_server_port(a->http));
    else span_copy(a->address, sizeof a->address, span_str(address));
    *out = a;
    return 0;
}

const char *admin_address(const struct admin *a) { return a->address; }

void admin_close(struct admin *a) {
    if (!a) return;
    http_server_close(a->http);
    mem_free(a);
}
