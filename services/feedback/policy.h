/*
 * When the platform asks for fine-tuning by itself. Pure: what is known and a time in, a decision and its reason out.
 * It asks when `improve_after` judgements have come since the last time, the model has a production version to start from, nothing that came of
 * the last time is still on its way, and `improve_pause_ms` have passed. improve_after 0: never by itself.
 */
#ifndef GENLOOP_FEEDBACK_POLICY_H
#define GENLOOP_FEEDBACK_POLICY_H

#include <stdbool.h>
#include <stdint.h>

enum { POLICY_REASON_MAX = 160 };
struct policy_limits {
    int64_t improve_after;
    int64_t improve_pause_ms;
};
struct policy_facts {
    bool has_production;
    bool busy;               /* a training job of this model is open, or a version of it is CANDIDATE */
    int64_t judgements;      /* so far */
    int64_t judgements_then; /* when it was last asked for; 0: never */
    int64_t asked_time_ms;   /* 0: never */
};
bool policy_improve(const struct policy_limits *limits, const struct policy_facts *facts, int64_t now_ms, char reason[POLICY_REASON_MAX]);

#endif
