/*
 * The life of a job: pure. Events of topic jobs in, the job as it stands out; and what an instance that has been dealt a job does with it.
 *
 *              create               begin                     end
 *   (none) ───────────► QUEUED ──────────────► RUNNING ─────────────► SUCCEEDED | FAILED
 *                        │ ▲                    │ │ ▲
 *                  pause │ │ resume       pause │ └─┘ begin again (its instance died or drained: attempts + 1)
 *                        ▼ │                    │
 *                       PAUSED ◄────────────────┘         cancel: from QUEUED, RUNNING and PAUSED to CANCELLED
 *
 * Who writes what. Anybody who is asked (rpc): create, pause, resume, cancel, each one event. The instance that the consumer group dealt the job to: begin and end.
 * They need not agree beforehand: the order of the topic decides, and every reader folds it by the same rules.
 *   - SUCCEEDED, FAILED and CANCELLED are the end: the first of them stands, whatever comes after.
 *   - the first creation of an id stands; an event that belongs to another creation of it (another created_time_ms) counts for nothing.
 *   - a begin counts from QUEUED and RUNNING only, with more attempts than known: a pause that came before it wins, and its writer, who looks
 *     again after writing, stops.
 *   - a resume counts from PAUSED only.
 * So an event that is delivered twice, or written again after a crash between two writes, changes nothing.
 */
#ifndef GENLOOP_TRAINER_JOBS_H
#define GENLOOP_TRAINER_JOBS_H

#include <stdbool.h>

#include "base/error.h"
#include "base/span.h"
#include "genloop/v1/jobs.pb-c.h"

#define JOB_STATE(NAME) GENLOOP__V1__JOB_STATE__JOB_STATE_##NAME

enum {
    JOB_ID_MAX = 108,          /* it names a folder, and begins ids of events and of commands, which have 128 */
    JOB_REASON_MAX = 1024,
    JOB_CRASHES_MAX = 3,       /* by its own fault, without a checkpoint between them: it is the job */
    JOB_DEATHS_MAX = 20,       /* of whatever cause (out of memory looks like a kill from outside), the same */
};

bool job_id_valid(struct span id); /* letters, digits, '-', '_', '.' and ':' (of a model's name), not beginning with '.' */
const char *job_state_name(Genloop__V1__JobState state); /* "queued" */
bool job_ended(Genloop__V1__JobState state);

/* Whether the event is the job's new record, `known` being the record so far (NULL: none). */
bool job_follows(const Genloop__V1__Job *known, const Genloop__V1__Job *event);
/* What makes no sense in any state: E_INVALID. */
int job_check(const Genloop__V1__Job *event, struct span key, struct error *err);

/* An instance has been dealt an event of a job that now stands at `state`. */
enum job_deal {
    JOB_DEAL_RUN,   /* nobody else runs it: begin, or go on from its checkpoint */
    JOB_DEAL_PASS,  /* nothing to do */
    JOB_DEAL_CLEAR, /* it has ended: its folder goes */
};
enum job_deal job_deal(Genloop__V1__JobState state);

/* What the instance that runs attempt `attempts` does when the job stands at `now`. */
enum job_order { JOB_GO_ON, JOB_STOP /* with a checkpoint; then look again */, JOB_DROP };
enum job_order job_order(const Genloop__V1__Job *now, uint32_t attempts);

/* What a person asks of a job. 0 and *to: write that state; 0 and *to UNSPECIFIED: it is so already; E_STATE says why not. */
int job_wish(const Genloop__V1__Job *now, Genloop__V1__JobWish wish, Genloop__V1__JobState *to, struct error *err);

/* Whether a job that the process has died on so often is given up; err says why. */
int job_poison(uint32_t crashes, uint32_t deaths, uint64_t step, struct error *err);

/* Whether a step's progress goes to the topic: the first and the last, each that was evaluated, and of the others some a second and some thousand a run. */
struct job_pace {
    uint64_t step;
    int64_t time_ms; /* of the last that went; 0: none */
};
bool job_pace_due(struct job_pace *pace, uint64_t step, uint64_t steps, bool evaluated, int64_t now_ms);

#endif
