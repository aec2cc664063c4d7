#include "services/trainer/jobs.h"

enum { PACE_MS = 250, PACE_SLOW_MS = 5000, PACE_PER_RUN = 1000 };

bool job_id_valid(struct span id) {
    if (id.len == 0 || id.len > JOB_ID_MAX || id.data[0] == '.') return false;
    for (size_t i = 0; i < id.len; i++) {
        char c = id.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == ':')) return false;
    }
    return true;
}

const char *job_state_name(Genloop__V1__JobState state) {
    switch (state) {
    case JOB_STATE(QUEUED): return "queued";
    case JOB_STATE(RUNNING): return "running";
    case JOB_STATE(PAUSED): return "paused";
    case JOB_STATE(SUCCEEDED): return "succeeded";
    case JOB_STATE(FAILED): return "failed";
    case JOB_STATE(CANCELLED): return "cancelled";
    default: return "unknown";
    }
}

bool job_ended(Genloop__V1__JobState state) { return state == JOB_STATE(SUCCEEDED) || state == JOB_STATE(FAILED) || state == JOB_STATE(CANCELLED); }

int job_check(const Genloop__V1__Job *e, struct span key, struct error *err) {
    if (!job_id_valid(span_str(e->id)) || !span_eq(key, span_str(e->id))) return error_set(err, E_INVALID, "a Job needs its key as id");
    if (e->state < JOB_STATE(QUEUED) || e->state > JOB_STATE(CANCELLED)) return error_set(err, E_INVALID, "a Job needs a state that is known");
    if (e->kind < GENLOOP__V1__JOB_KIND__JOB_KIND_TRAIN || e->kind > GENLOOP__V1__JOB_KIND__JOB_KIND_IMPORT) return error_set(err, E_INVALID, "a Job needs a kind that is known");
    if (e->created_time_ms <= 0) return error_set(err, E_INVALID, "a Job needs the time of its creation");
    return 0;
}

static bool is_creation(const Genloop__V1__Job *e) { return e->event_time_ms == e->created_time_ms; }

bool job_follows(const Genloop__V1__Job *known, const Genloop__V1__Job *e) {
    if (!known) return e->state == JOB_STATE(QUEUED);
    if (job_ended(known->state) || e->created_time_ms != known->created_time_ms) return false;
    switch (e->state) {
    case JOB_STATE(QUEUED): return known->state == JOB_STATE(PAUSED) && !is_creation(e);
    case JOB_STATE(RUNNING): return known->state != JOB_STATE(PAUSED) && e->attempts > known->attempts;
    case JOB_STATE(PAUSED): return known->state != JOB_STATE(PAUSED);
    default: return true; /* the ends; their writer had the job, or a person's word */
    }
}

enum job_deal job_deal(Genloop__V1__JobState state) {
    return job_ended(state) ? JOB_DEAL_CLEAR : state == JOB_STATE(QUEUED) || state == JOB_STATE(RUNNING) ? JOB_DEAL_RUN : JOB_DEAL_PASS;
}

enum job_order job_order(const Genloop__V1__Job *now, uint32_t attempts) {
    if (job_ended(now->state)) return JOB_DROP;
    return now->state == JOB_STATE(RUNNING) && now->attempts == attempts ? JOB_GO_ON : JOB_STOP;
}

int job_wish(const Genloop__V1__Job *now, Genloop__V1__JobWish wish, Genloop__V1__JobState *to, struct error *err) {
    bool ended = job_ended(now->state);
    *to = JOB_STATE(UNSPECIFIED);
    switch (wish) {
    case GENLOOP__V1__JOB_WISH__JOB_WISH_CANCEL:
        if (now->state == JOB_STATE(CANCELLED)) return 0;
        if (ended) break;
        *to = JOB_STATE(CANCELLED);
        return 0;
    case GENLOOP__V1__JOB_WISH__JOB_WISH_PAUSE:
        if (ended) break;
        if (now->state != JOB_STATE(PAUSED)) *to = JOB_STATE(PAUSED);
        return 0;
    case GENLOOP__V1__JOB_WISH__JOB_WISH_RUN:
        if (ended) break;
        if (now->state == JOB_STATE(PAUSED)) *to = JOB_STATE(QUEUED);
        return 0;
    default: return error_set_param(err, E_INVALID, "wish", "wish must be run, pause or cancel");
    }
    return error_set_param(err, E_STATE, "id", "job %s has ended (%s): what has ended stays as it is; create another", now->id, job_state_name(now->state));
}

int job_poison(uint32_t crashes, uint32_t deaths, uint64_t step, struct error *err) {
    if (crashes >= JOB_CRASHES_MAX)
        return error_set(err, E_INTERNAL, "the trainer crashed %u times on this job, last time behind step %llu: it is given up", crashes, (unsigned long long)step);
    if (deaths >= JOB_DEATHS_MAX)
        return error_set(err, E_INTERNAL, "the trainer died %u times on this job without getting beyond step %llu (too little memory?): it is given up", deaths, (unsigned long long)step);
    return 0;
}

bool job_pace_due(struct job_pace *p, uint64_t step, uint64_t steps, bool evaluated, int64_t now_ms) {
    int64_t since_ms = now_ms - p->time_ms;
    bool due = !p->time_ms || step >= steps || evaluated || (since_ms >= PACE_MS && (step - p->step >= steps / PACE_PER_RUN || since_ms >= PACE_SLOW_MS));
    if (due) *p = (struct job_pace){step, now_ms};
    return due;
}
