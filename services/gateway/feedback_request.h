/* POST /v1/feedback: the judgement as people send it (the JSON of contracts.md, as on the topic) into a SubmitFeedbackRequest. Pure. */
#ifndef GATEWAY_FEEDBACK_REQUEST_H
#define GATEWAY_FEEDBACK_REQUEST_H

#include "base/buf.h"
#include "base/error.h"
#include "base/json.h"

/* Appends the packed request. A request id may be given as the answer's own id ("chatcmpl-…"). E_INVALID names the parameter. */
int feedback_request_pack(const struct json *body, int64_t now_ms, struct buf *out, struct error *err);

#endif
