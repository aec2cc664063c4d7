/*
 * Feedback from a producer that is not ours: application/json on the feedback topic, as contracts.md has it. Strict: a key that is not known, a
 * wrong type, a value out of range or a judgement that lacks what its kind needs is an error that names the key. Pure.
 */
#ifndef GENLOOP_FEEDBACK_FEEDBACK_JSON_H
#define GENLOOP_FEEDBACK_FEEDBACK_JSON_H

#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/span.h"
#include "genloop/v1/interactions.pb-c.h"

enum { FEEDBACK_ID_MAX = 128, FEEDBACK_SUBJECT_MAX = 256, FEEDBACK_TEXT_MAX = 256 * 1024 };

/* A judgement with what people wrote beside it; strings in the arena or borrowed. */
struct feedback {
    struct span id, request_id, subject, model, chosen_request_id, rejected_request_id;
    Genloop__V1__FeedbackKind kind;
    double value;
    int64_t time_ms; /* 0 where it is not said */
    struct span prompt, chosen, rejected, text;
};

int feedback_json_parse(struct span json, struct arena *arena, struct feedback *feedback, struct error *err);
/* What every judgement must hold to, wherever it comes from: lengths, UTF-8, value, and what its kind needs. */
int feedback_check(const struct feedback *feedback, struct error *err);

#endif
