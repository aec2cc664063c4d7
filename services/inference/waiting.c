/*
 * Calls for a model that is released but not in memory: they wait here, as they came, until it is loaded, and are taken in again from the beginning. The bus ends those whose deadline passes or
 * whose client leaves.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "inference.h"

enum { WAITING_BYTES_MAX = 64 << 20, WAITING_MAX = 4096 };

struct waiting_call {
    struct call_kind kind; /* first */
    struct waiting_call *next;
    struct inference *inference;
    struct bus_reply *reply;
    char model[MODEL_FULL_NAME_MAX]; /* name@version, as it was meant when the call came */
    char *method, *request_id, *traceparent, *tenant, *session, *actor_id, *actor_scope, *actor_claim, *request; /* owned */
    size_t request_len, size;
    int64_t since_ms, deadline_at_ms; /* 0: none */
};

static void waiting_free(struct waiting_call *w) {
    char *const texts[] = {w->method, w->request_id, w->traceparent, w->tenant, w->session, w->actor_id, w->actor_scope, w->actor_claim, w->request};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) mem_free(texts[i]);
    mem_free(w);
}

/* Takes it out of the list, from which it may only leave so. */
static void leave(struct waiting_call *w) {
    struct inference *inf = w->inference;
    struct waiting_call **at = &inf->waiting;
    while (*at != w) at = &(*at)->next;
    *at = w->next;
    inf->waiting_count--;
    inf->waiting_bytes -= w->size;
    inf->call_count--;
}

int waiting_add(struct inference *inf, const struct model *m, struct bus_reply *reply, struct span method, const struct bus_context *context, struct span request, void **call_arg, struct error *err) {
    if (inf->waiting_count >= WAITING_MAX || request.len > WAITING_BYTES_MAX - inf->waiting_bytes)
        return error_set(err, E_FULL, "model %s is being loaded, and %u calls wait for models already: try again in a moment", m->name, inf->waiting_count);
    struct waiting_call *w = mem_zalloc(sizeof *w);
    if (!w) return error_set(err, E_NOMEM, "no memory for a call");
    const struct {
        struct span from;
        char **to;
    } texts[] = {{method, &w->method}, {context->request_id, &w->request_id}, {context->traceparent, &w->traceparent}, {context->tenant, &w->tenant}, {context->session, &w->session},
                 {context->actor_id, &w->actor_id}, {context->actor_scope, &w->actor_scope}, {context->actor_claim, &w->actor_claim}, {request, &w->request}};
    bool whole = true;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) whole &= (*texts[i].to = span_dup(texts[i].from)) != NULL;
    if (!whole) {
        waiting_free(w);
        return error_set(err, E_NOMEM, "no memory for a call");
    }
    w->kind.waiting = true;
    w->inference = inf;
    w->reply = reply;
    span_copy(w->model, sizeof w->model, span_str(m->name));
    w->request_len = w->size = request.len;
    w->since_ms = clock_mono_ms();
    w->deadline_at_ms = context->deadline_ms > 0 ? w->since_ms + context->deadline_ms : 0;
    struct waiting_call **at = &inf->waiting;
    while (*at) at = &(*at)->next; /* in the order in which they came */
    *at = w;
    inf->waiting_count++;
    inf->waiting_bytes += w->size;
    inf->call_count++;
    *call_arg = w;
    return 0;
}

int64_t waiting_since(const struct inference *inf, const struct model *m) {
    for (const struct waiting_call *w = inf->waiting; w; w = w->next)
        if (strcmp(w->model, m->name) == 0) return w->since_ms;
    return 0;
}

void waiting_on_cancel(struct waiting_call *w) {
    struct inference *inf = w->inference;
    leave(w);
    waiting_free(w);
    if (service_draining(inf->service) && inf->call_count == 0) service_drained(inf->service);
}

/* The first whose model is no longer on its way: it answers, or it says why not. */
static struct waiting_call *next_awake(const struct inference *inf) {
    for (struct waiting_call *w = inf->waiting; w; w = w->next)
        if (inf->stopped || service_draining(inf->service) || !models_on_the_way(inf, span_str(w->model))) return w;
    return NULL;
}

void waiting_wake(struct inference *inf) {
    struct waiting_call *w;
    while ((w = next_awake(inf)) != NULL) {
        struct bus_context context = {.request_id = span_str(w->request_id), .traceparent = span_str(w->traceparent), .tenant = span_str(w->tenant), .session = span_str(w->session),
                                      .actor_id = span_str(w->actor_id), .actor_scope = span_str(w->actor_scope), .actor_claim = span_str(w->actor_claim)};
        void *call_arg = NULL;
        if (w->deadline_at_ms) {
            context.deadline_ms = w->deadline_at_ms - clock_mono_ms();
            if (context.deadline_ms < 1) context.deadline_ms = 1;
        }
        inf->call_count++; /* beyond its leaving: a drain is not over between the two */
        leave(w);
        struct error err;
        if (inf->stopped) calls_refuse(w->reply, error_set(&err, E_UNAVAILABLE, "%s ends", service_instance(inf->service)), &err);
        else calls_on_call(inf, w->reply, span_str(w->method), &context, span_of(w->request, w->request_len), &call_arg);
        if (call_arg) bus_reply_set_arg(w->reply, call_arg); /* else it has been answered */
        inf->call_count--;
        waiting_free(w);
    }
    if (!inf->stopped && service_draining(inf->service) && inf->call_count == 0) service_drained(inf->service);
}
