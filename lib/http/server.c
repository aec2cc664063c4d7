#include "http/server_internal.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/metrics.h"

enum { TICK_MIN_MS = 5, TICK_MAX_MS = 1000 };

static void size_default(size_t *field, size_t value) {
    if (!*field) *field = value;
}
static void time_default(int64_t *field, int64_t value) {
    if (*field <= 0) *field = value;
}

/* Every connection once, although each may take itself and others out of the list: http_server_forget keeps `walking` right. */
static void for_each(struct http_server *s, void (*fn)(struct http_connection *c)) {
    s->refs++;
    for (struct http_connection *c = s->connections; c; c = s->walking) {
        s->walking = c->next;
        fn(c);
    }
    http_server_unref(s);
}

static void check_time(struct http_connection *c) { c->kind->check_time(c); }
static void drain_one(struct http_connection *c) { c->kind->drain(c); }
static void close_one(struct http_connection *c) { c->kind->close(c); }

static void on_tick(void *arg) { for_each(arg, check_time); }

static void on_accept(void *arg, struct stream *stream) {
    struct http_server *s = arg;
    struct http_connection *c = opening_new(s, stream);
    if (!c) return;
    c->next = s->connections;
    if (s->connections) s->connections->previous = c;
    s->connections = c;
    if (s->connection_count++ == 0) loop_timer_start(s->timer, s->tick_ms, s->tick_ms);
    if (s->connection_count == s->limits.connections_max && s->listener) listener_pause(s->listener, true);
    opening_start(c);
}

void http_server_unref(struct http_server *s) {
    if (--s->refs) return;
    http2_setup_free(s->http2);
    mem_free(s);
}

void http_server_replace(struct http_server *s, struct http_connection *old, struct http_connection *c) {
    c->next = old->next;
    c->previous = old->previous;
    if (c->next) c->next->previous = c;
    if (c->previous) c->previous->next = c;
    else s->connections = c;
    if (s->walking == old) s->walking = c;
}

/* The server may be closed behind this. */
static void tell_if_drained(struct http_server *s) {
    void (*done)(void *) = s->on_drained;
    if (!done || s->aside || s->connection_count) return;
    s->on_drained = NULL;
    done(s->drained_arg);
}

void http_server_forget(struct http_server *s, struct http_connection *c) {
    if (s->walking == c) s->walking = c->next;
    if (c->previous) c->previous->next = c->next;
    else s->connections = c->next;
    if (c->next) c->next->previous = c->previous;
    s->connection_count--;
    if (s->connection_count == 0 && s->timer) loop_timer_stop(s->timer);
    if (s->listener && s->connection_count == s->limits.connections_max - 1) listener_pause(s->listener, false);
    tell_if_drained(s);
}

/* The slow path: by name, as it is rare. */
void http_server_count(const struct http_server *s, const char *reason) {
    char labels[96];
    (void)snprintf(labels, sizeof labels, "door=\"%s\",reason=\"%s\"", s->door, reason);
    metric_add(metric_counter("genloop_http_refused_total", labels, "Connections, requests and streams that met a limit, by the limit."), 1);
}

struct span http_server_date(struct http_server *s) {
    int64_t second = clock_wall_ms() / 1000;
    if (second != s->date_second || !s->date[0]) {
        time_t t = (time_t)second;
        struct tm tm;
        gmtime_r(&t, &tm);
        s->date_second = second;
        static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec"; /* not the locale's */
        snprintf(s->date, sizeof s->date, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", days + 3 * tm.tm_wday, tm.tm_mday, months + 3 * tm.tm_mon, tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
    }
    return span_str(s->date);
}

struct http_server *http_server_open(struct loop *l, const char *address, const struct http_options *options, void *arg,
                                     void (*on_request)(void *arg, struct http_exchange *x), struct error *err) {
    struct http_server *s = mem_zalloc(sizeof *s);
    if (!s) {
        error_set(err, E_NOMEM, "listening on %s: no memory", address);
        return NULL;
    }
    s->refs = 1;
    s->loop = l;
    s->arg = arg;
    s->on_request = on_request;
    if (options) s->limits = options->limits;
    s->tls = options ? options->tls : NULL;
    span_copy(s->door, sizeof s->door, span_str(options && options->door ? options->door : "admin"));
    struct http_limits *m = &s->limits;
    size_default(&m->connections_max, 4096);
    size_default(&m->pipeline_max, 16);
    size_default(&m->streams_max, 128);
    size_default(&m->write_buffer_max, 1 << 20);
    size_default(&m->progress_min, 4096);
    if (!m->parser.head_max) m->parser.head_max = 65536; /* http2.c counts by them too */
    if (!m->parser.fields_max) m->parser.fields_max = 128;
    size_default(&m->discard_max, 64 << 10);
    time_default(&m->head_timeout_ms, 10000);
    time_default(&m->body_timeout_ms, 30000);
    time_default(&m->idle_timeout_ms, 65000);
    time_default(&m->write_timeout_ms, 60000);
    time_default(&m->linger_ms, 2000);
    time_default(&m->drain_idle_ms, 1000);
    int64_t least = m->head_timeout_ms;
    if (m->body_timeout_ms < least) least = m->body_timeout_ms;
    if (m->idle_timeout_ms < least) least = m->idle_timeout_ms;
    if (m->write_timeout_ms < least) least = m->write_timeout_ms;
    s->tick_ms = least / 4 < TICK_MIN_MS ? TICK_MIN_MS : least / 4 > TICK_MAX_MS ? TICK_MAX_MS : least / 4;
    s->timer = http2_setup_new(&s->http2) ? NULL : loop_timer_new(l, s, on_tick);
    if (!s->timer) error_set(err, E_NOMEM, "listening on %s: no memory", address);
    s->listener = s->timer ? listener_open_shared(l, address, options && options->reuse_port, s, on_accept, err) : NULL;
    if (s->listener) return s;
    loop_timer_close(s->timer);
    http_server_unref(s);
    return NULL;
}

int http_server_port(const struct http_server *s) { return s && s->listener ? listener_port(s->listener) : 0; }
size_t http_server_connections(const struct http_server *s) { return s->connection_count; }

static void stop_listening(struct http_server *s) {
    listener_close(s->listener);
    s->listener = NULL;
}

static void stop_standing_aside(struct http_server *s) {
    loop_timer_close(s->aside);
    s->aside = NULL;
}

static void begin_drain(void *arg) {
    struct http_server *s = arg;
    void (*done)(void *) = s->on_drained;
    stop_standing_aside(s);
    s->draining = true;
    if (s->listener) listener_take_waiting(s->listener);
    stop_listening(s);
    s->on_drained = NULL; /* not in the middle of the walk */
    s->tick_ms = TICK_MIN_MS; /* what is flushed now is noticed by looking */
    if (s->connection_count) loop_timer_start(s->timer, s->tick_ms, s->tick_ms);
    for_each(s, drain_one);
    s->on_drained = done;
    tell_if_drained(s);
}

/* Beside other listeners clients are told to go only when this one is closed: their next connection would come here, and be turned away. */
void http_server_drain(struct http_server *s, void *arg, void (*on_done)(void *arg)) {
    s->drained_arg = arg;
    s->on_drained = on_done;
    if (!s->aside && s->listener && listener_step_aside(s->listener) && (s->aside = loop_timer_new(s->loop, s, begin_drain))) loop_timer_start(s->aside, LISTENER_ASIDE_MS, 0);
    else begin_drain(s);
}

void http_server_close(struct http_server *s) {
    if (!s) return;
    stop_standing_aside(s);
    stop_listening(s);
    s->on_drained = NULL;
    s->draining = true;
    for_each(s, close_one);
    loop_timer_close(s->timer);
    s->timer = NULL;
    http_server_unref(s);
}
