#include "access.h"

#include <errno.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "exchange.h"

enum { FLUSH_MS = 50, GATHER_BYTES = 64 * 1024, ROW_MAX = 2048, PIPE_BYTES = 4096 };

struct access_log {
    struct loop_timer *timer;
    struct buf lines;
    bool armed;
};

/* Whole lines, as many as a pipe takes at once without mixing writers. */
static void flush(struct access_log *a) {
    struct span rest = buf_span(&a->lines);
    while (rest.len) {
        size_t n = rest.len;
        if (n > PIPE_BYTES) {
            for (n = PIPE_BYTES; n > 0 && rest.data[n - 1] != '\n';) n--;
            if (n == 0) n = rest.len;
        }
        ssize_t done = write(STDERR_FILENO, rest.data, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) break; /* there is nobody to tell */
        rest = span_skip(rest, (size_t)done);
    }
    buf_clear(&a->lines);
}

static void on_flush(void *arg) {
    struct access_log *a = arg;
    a->armed = false;
    flush(a);
}

int access_open(struct gateway *g, struct access_log **out, struct error *err) {
    struct access_log *a = mem_zalloc(sizeof *a);
    if (!a || !(a->timer = loop_timer_new(service_loop(g->service), a, on_flush))) {
        mem_free(a);
        return error_set(err, E_NOMEM, "no memory for the access log");
    }
    buf_init(&a->lines, GATHER_BYTES + ROW_MAX);
    *out = a;
    return 0;
}

void access_close(struct access_log *a) {
    if (!a) return;
    flush(a);
    loop_timer_close(a->timer);
    buf_fini(&a->lines);
    mem_free(a);
}

void access_add(struct access_log *a, const struct exchange *x, int status) {
    char time[TIME_TEXT_MAX];
    struct json_out w;
    struct span method = http_method(x->http);
    if (a->lines.len >= GATHER_BYTES) flush(a);
    json_begin(&w, &a->lines);
    json_object(&w);
    json_str(&w, "time", time_format(clock_wall_ms(), time));
    json_str(&w, "service", "gateway");
    json_str(&w, "event", "gateway.access");
    json_str(&w, "request_id", x->request_id);
    json_span(&w, "method", span_sub(method, 0, 16));
    json_str(&w, "route", x->match.route ? x->match.route->pattern : "none"); /* the pattern: a path may hold names of people's making */
    json_num(&w, "status", status);
    json_num(&w, "ms", loop_now_ms(service_loop(x->gateway->service)) - x->began_ms);
    json_num(&w, "bytes", (int64_t)x->bytes_out);
    json_str(&w, "key", x->caller.id);
    json_str(&w, "tenant", x->caller.tenant);
    if (x->model[0]) {
        json_str(&w, "model", x->model);
        json_str(&w, "replica", x->replica);
        json_str(&w, "cache", x->from_cache ? "hit" : "miss");
        json_num(&w, "tokens", x->tokens_used);
    }
    json_object_end(&w);
    (void)buf_append_char(&a->lines, '\n');
    if (a->lines.failed) buf_clear(&a->lines); /* without memory there is no log */
    if (a->armed) return;
    a->armed = true;
    loop_timer_start(a->timer, FLUSH_MS, 0);
}
