#include "quota.h"

#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/metrics.h"
#include "exchange.h"

struct quota {
    struct gateway *gateway;
    struct limits *local;
    struct quota_hold *streams;
    struct loop_timer *renew;
    uint64_t made; /* names of streams */
    struct metric *refused[LIMIT_STREAMS + 1], *alone;
};

static int64_t now_ms(const struct quota *q) { return loop_now_ms(service_loop(q->gateway->service)); }

/* ---- leases of streams ---- */

static void ask_give(struct quota *q, const struct quota_hold *h, double tokens, bool renew) {
    char text[LIMITS_TEXT_MAX];
    struct span argv[LIMITS_ARGS];
    int argc;
    limits_command_give(h->subjects, h->n, tokens, h->stream, renew, text, argv, &argc);
    (void)link_ask(q->gateway->cache, argc, argv, NULL, NULL, NULL); /* Redis is away: a lease ends by itself, and tokens come back within the minute */
}

static void on_renew(void *arg) {
    struct quota *q = arg;
    for (struct quota_hold *h = q->streams; h; h = h->next) ask_give(q, h, 0, true);
}

static void hold_stream(struct quota *q, struct quota_hold *h) {
    h->next = q->streams;
    if (h->next) h->next->previous = h;
    q->streams = h;
    limits_stream(q->local, h->subjects, h->n, 1, now_ms(q));
}

static void drop_stream(struct quota *q, struct quota_hold *h) {
    if (h->previous) h->previous->next = h->next;
    else q->streams = h->next;
    if (h->next) h->next->previous = h->previous;
    limits_stream(q->local, h->subjects, h->n, -1, now_ms(q));
}

/* ---- letting in ---- */

/* The one of two limits that is nearer to its end. */
static void tell(struct exchange *x, const char *kind, const struct limit_verdict *v, bool tokens) {
    const struct quota_hold *h = &x->quota;
    int64_t least = -1, of = 0;
    double level = 0;
    char name[40], text[32];
    for (int i = 0; i < h->n; i++) {
        int64_t limit = tokens ? h->subjects[i].figures.tokens_per_minute : h->subjects[i].figures.requests_per_minute;
        double have = tokens ? v->left[i].tokens : v->left[i].requests;
        int64_t left = have > 0 ? (int64_t)have : 0;
        if (!limit || (of && left >= least)) continue;
        least = left;
        of = limit;
        level = have;
    }
    if (!of) return;
    (void)snprintf(name, sizeof name, "x-ratelimit-limit-%s", kind);
    (void)snprintf(text, sizeof text, "%lld", (long long)of);
    (void)http_header_add(x->http, name, span_str(text));
    (void)snprintf(name, sizeof name, "x-ratelimit-remaining-%s", kind);
    (void)snprintf(text, sizeof text, "%lld", (long long)least);
    (void)http_header_add(x->http, name, span_str(text));
    (void)snprintf(name, sizeof name, "x-ratelimit-reset-%s", kind);
    (void)http_header_add(x->http, name, span_str(limit_time_text(limit_wait_ms(level, of, (double)of), text)));
}

static void decide(struct exchange *x, const struct limit_verdict *v) {
    static const char *const kinds[] = {"", "requests per minute", "tokens per minute", "streams at once"};
    struct quota *q = x->gateway->quota;
    struct quota_hold *h = &x->quota;
    tell(x, "requests", v, false);
    tell(x, "tokens", v, true);
    if (v->refused == LIMIT_NONE) {
        h->taken = true;
        if (h->stream[0]) hold_stream(q, h);
        h->on_done(x);
        return;
    }
    const struct limit_subject *s = &h->subjects[v->subject];
    int64_t limit = v->refused == LIMIT_REQUESTS ? s->figures.requests_per_minute : v->refused == LIMIT_TOKENS ? s->figures.tokens_per_minute : s->figures.streams_max;
    struct error err;
    char text[32];
    metric_add(q->refused[v->refused], 1);
    x->retry_after_s = v->wait_ms <= 0 ? 1 : (v->wait_ms + 999) / 1000;
    (void)error_set(&err, E_FULL, "rate limit reached for %s of %s: %lld; try again in %s", kinds[v->refused], s->name, (long long)limit, limit_time_text(v->wait_ms, text));
    h->stream[0] = '\0';
    exchange_error_code(x, &err, "rate_limit_exceeded");
}

static void take_alone(struct exchange *x) {
    struct quota *q = x->gateway->quota;
    struct quota_hold *h = &x->quota;
    struct limit_verdict v;
    metric_add(q->alone, 1);
    limits_take(q->local, h->subjects, h->n, h->reserved, h->stream[0] != '\0', now_ms(q), &v);
    decide(x, &v);
}

static void on_verdict(void *arg, int r, const struct redis_reply *reply) {
    struct exchange *x = arg;
    struct quota *q = x->gateway->quota;
    struct quota_hold *h = &x->quota;
    struct limit_verdict v;
    struct error err = {0};
    h->call = NULL;
    if (r == 0 && (r = limits_reply(reply, h->n, &v)) < 0)
        log_warn("gateway.limits", "Redis does not keep the limits, so each gateway does for itself: %s", redis_reply_failed(reply, &err) < 0 ? err.message : "it answers with something else");
    if (r < 0) {
        take_alone(x);
        return;
    }
    limits_follow(q->local, h->subjects, h->n, &v, now_ms(q));
    decide(x, &v);
}

static void gone(void *state) { exchange_abort(state); }

static void add_subject(struct quota_hold *h, const char *kind, const char *name, const struct limit_figures *f) {
    if (!f->requests_per_minute && !f->tokens_per_minute && !f->streams_max) return;
    struct limit_subject *s = &h->subjects[h->n++];
    s->figures = *f;
    (void)snprintf(s->name, sizeof s->name, "%s:%s", kind, name);
}

void quota_take(struct exchange *x, int64_t tokens, bool stream, void (*on_done)(struct exchange *x)) {
    struct gateway *g = x->gateway;
    struct quota *q = g->quota;
    struct quota_hold *h = &x->quota;
    char text[LIMITS_TEXT_MAX];
    struct span argv[LIMITS_ARGS];
    int argc;
    if (!x->owner && !x->batch && x->caller.id[0]) {
        add_subject(h, "key", x->caller.id, &g->settings->key_limits);
        add_subject(h, "tenant", x->caller.tenant, &g->settings->tenant_limits);
    }
    if (!h->n) {
        on_done(x);
        return;
    }
    h->on_done = on_done;
    h->reserved = tokens;
    if (stream) (void)snprintf(h->stream, sizeof h->stream, "%.60s/%d/%llu", service_instance(g->service), (int)getpid(), (unsigned long long)++q->made);
    exchange_watch(x, x, gone, NULL); /* before the reply may come */
    limits_command_take(h->subjects, h->n, tokens, h->stream, text, argv, &argc);
    if (link_ask(g->cache, argc, argv, x, on_verdict, &h->call) < 0) take_alone(x);
}

void quota_release(struct exchange *x, int64_t used) {
    struct quota *q = x->gateway->quota;
    struct quota_hold *h = &x->quota;
    link_cancel(h->call); /* what it took, where it was let in, is back within the minute, and its stream's lease ends */
    h->call = NULL;
    if (!h->taken) return;
    double back = h->reserved < 0 || used < 0 ? 0 : (double)(h->reserved - used);
    if (h->stream[0]) drop_stream(q, h);
    if (back != 0) limits_give(q->local, h->subjects, h->n, back, now_ms(q));
    if (back != 0 || h->stream[0]) ask_give(q, h, back, false);
    h->taken = false;
}

/* ---- the surface ---- */

int quota_open(struct gateway *g, struct quota **out, struct error *err) {
    static const char *const labels[] = {"", "limit=\"requests\"", "limit=\"tokens\"", "limit=\"streams\""};
    struct quota *q = mem_zalloc(sizeof *q);
    if (!q || !(q->local = limits_new()) || !(q->renew = loop_timer_new(service_loop(g->service), q, on_renew))) {
        quota_close(q);
        return error_set(err, E_NOMEM, "no memory for limits");
    }
    q->gateway = g;
    for (int i = LIMIT_REQUESTS; i <= LIMIT_STREAMS; i++) q->refused[i] = metric_counter("genloop_gateway_limited_total", labels[i], "Requests that were refused by a limit of their key or tenant, by the limit.");
    q->alone = metric_counter("genloop_gateway_limits_alone_total", "", "Requests that this gateway measured by itself because Redis was away.");
    loop_timer_start(q->renew, LIMITS_STREAM_RENEW_MS, LIMITS_STREAM_RENEW_MS);
    *out = q;
    return 0;
}

void quota_close(struct quota *q) {
    if (!q) return;
    loop_timer_close(q->renew);
    limits_free(q->local);
    mem_free(q);
}
