/* POST /v1/feedback: the judgement as people send it becomes the request of Feedback/Submit; what is left is a relay. */
#include "base/clock.h"
#include "genloop/v1/services.pb-c.h"
#include "exchange.h"
#include "feedback_request.h"
#include "relay.h"
#include "routes.h"

enum { REQUEST_MAX = 9 << 20 };

static const struct relay SUBMIT = {"feedback", "Feedback/Submit", &genloop__v1__submit_feedback_request__descriptor, &genloop__v1__submit_feedback_reply__descriptor, .stream = RELAY_UNARY};

void feedback_submit(struct exchange *x, const struct json *body) {
    struct error err = {0};
    struct buf packed;
    buf_init(&packed, REQUEST_MAX);
    if (feedback_request_pack(body, clock_wall_ms(), &packed, &err) < 0) exchange_error(x, &err);
    else relay_send(x, &SUBMIT, buf_span(&packed), false, false);
    buf_fini(&packed);
}
