#include "base/alloc.h"
#include "base/clock.h"
#include "genloop/v1/services.pb-c.h"
#include "exchange.h"
#include "feedback_request.h"
#include "routes.h"
#include "wire/protojson.h"

enum { REQUEST_MAX = 9 << 20, ANSWER_MAX = 64 * 1024 };

struct submission {
    struct exchange *x;
    struct bus_call *call;
    struct buf answer;
};

static void submission_free(struct submission *s) {
    if (s->call) bus_call_cancel(s->call);
    buf_fini(&s->answer);
    mem_free(s);
}

static void on_gone(void *state) {
    struct submission *s = state;
    struct exchange *x = s->x;
    submission_free(s);
    exchange_abort(x);
}

static void on_item(void *arg, struct span item) { (void)buf_append_span(&((struct submission *)arg)->answer, item); }

static void on_end(void *arg, int code, const struct error *why, bool begun) {
    struct submission *s = arg;
    struct exchange *x = s->x;
    struct error err = {0};
    struct buf body;
    struct json_out w;
    (void)begun;
    s->call = NULL;
    if (code < 0) err = *why;
    buf_init(&body, ANSWER_MAX);
    json_begin(&w, &body);
    if (code == 0 && protojson_write_packed(&w, &genloop__v1__submit_feedback_reply__descriptor, buf_span(&s->answer), true, &err) < 0)
        code = error_set(&err, E_UNKNOWN, "feedback answered with what is no SubmitFeedbackReply");
    submission_free(s);
    if (code < 0) exchange_error(x, &err);
    else exchange_json(x, 200, &body);
    buf_fini(&body);
}

static const struct bus_call_events call_events = {.on_item = on_item, .on_end = on_end};

void feedback_submit(struct exchange *x, const struct json *body) {
    struct error err = {0};
    struct buf packed;
    struct bus_peer *peer = service_peer(x->gateway->service, "feedback");
    struct submission *s = NULL;
    buf_init(&packed, REQUEST_MAX);
    int r = feedback_request_pack(body, clock_wall_ms(), &packed, &err);
    if (r == 0 && !peer && exchange_wait(x)) {
        buf_fini(&packed);
        return;
    }
    if (r == 0 && !peer) r = error_set(&err, E_UNAVAILABLE, "feedback is not there now: try again in a moment");
    if (r == 0 && !(s = mem_zalloc(sizeof *s))) r = error_set(&err, E_NOMEM, "no memory for the request");
    if (r == 0) {
        struct bus_context context = exchange_context(x, 0);
        s->x = x;
        buf_init(&s->answer, ANSWER_MAX);
        s->call = bus_call(peer, "Feedback/Submit", &context, buf_span(&packed), false, 1, s, &call_events, &err);
        if (!s->call) {
            r = err.code;
            submission_free(s);
        }
    }
    buf_fini(&packed);
    if (r < 0) exchange_error(x, &err);
    else exchange_watch(x, s, on_gone, NULL);
}
