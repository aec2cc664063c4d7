#include "policy.h"

#include <stdio.h>

bool policy_improve(const struct policy_limits *limits, const struct policy_facts *facts, int64_t now_ms, char reason[POLICY_REASON_MAX]) {
    int64_t fresh = facts->judgements - facts->judgements_then;
    if (limits->improve_after <= 0 || fresh < limits->improve_after) return false;
    if (!facts->has_production || facts->busy) return false;
    if (facts->asked_time_ms && now_ms - facts->asked_time_ms < limits->improve_pause_ms) return false;
    snprintf(reason, POLICY_REASON_MAX, "policy: %lld new judgements (feedback.improve_after %lld)", (long long)fresh, (long long)limits->improve_after);
    return true;
}
