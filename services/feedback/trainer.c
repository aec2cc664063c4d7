/* Asking the trainer: Training/Create on the bus. */
#include <string.h>

#include "base/alloc.h"
#include "feedback.h"

enum { CREATE_MS = 20000 };

struct creating {
    struct feedback_service *service;
    void *arg;
    void (*on_done)(void *arg, int r, const struct error *err, struct span job);
    struct buf job;
    int r;
    struct error err;
};

static void finish(struct creating *c, int r, const struct error *err) {
    struct error none = {0};
    if (r == 0 && c->job.len == 0) r = error_set(&none, E_UNKNOWN, "the trainer answered without a job");
    c->on_done(c->arg, r, r == 0 ? NULL : none.code ? &none : err, buf_span(&c->job));
    work_end(c->service);
    buf_fini(&c->job);
    mem_free(c);
}

static void on_item(void *arg, struct span item) {
    struct creating *c = arg;
    buf_clear(&c->job);
    buf_append_span(&c->job, item);
}

static void on_end(void *arg, int code, const struct error *err, bool begun) {
    (void)begun;
    struct creating *c = arg;
    struct error said = {0};
    if (code != 0 && err)
        said = *err;
    else if (code != 0)
        error_set(&said, code, "the trainer did not take the job");
    finish(c, code, &said);
}

/* Refused before it began: told from the loop, as every other end is. */
static void refused(void *arg) {
    struct creating *c = arg;
    finish(c, c->r, &c->err);
}

void trainer_create(struct feedback_service *s, struct span request, void *arg, void (*on_done)(void *arg, int r, const struct error *err, struct span job)) {
    static const struct bus_call_events events = {.on_item = on_item, .on_end = on_end};
    struct error err = {0};
    struct creating *c = mem_zalloc(sizeof *c);
    if (!c) {
        error_set(&err, E_NOMEM, "no memory to ask the trainer");
        on_done(arg, E_NOMEM, &err, SPAN(""));
        return;
    }
    *c = (struct creating){.service = s, .arg = arg, .on_done = on_done};
    buf_init(&c->job, BUS_MESSAGE_MAX);
    work_begin(s);
    struct bus_peer *peer = service_peer(s->service, "trainer");
    struct bus_context context = {.actor_id = SPAN("service:feedback"), .actor_scope = SPAN("service"), .tenant = span_str(s->settings->shared.tenant), .deadline_ms = CREATE_MS};
    if (!peer)
        c->r = error_set(&c->err, E_UNAVAILABLE, "no instance of the trainer answers");
    else if (!bus_call(peer, "Training/Create", &context, request, false, 1, c, &events, &c->err))
        c->r = c->err.code ? c->err.code : E_UNAVAILABLE;
    if (c->r != 0 && loop_post(service_loop(s->service), refused, c) != 0) refused(c);
}
