/*
 * The topics. What the platform answers for is kept whole (or compacted where only the newest counts); what merely reports expires: 7 days of
 * progress, alerts and batches outlive every dashboard's window, 30 days of interactions outlive the slowest judgement of an answer.
 * Partitions: 1 where the order of the whole topic matters or where there is little of it; else 4, which is how many members of a group
 * can share the work. Adding partitions to a topic moves its keys: never change a number here.
 */
#include "eventlog/eventlog.h"

#define DAYS(n) ((int64_t)(n) * 24 * 3600 * 1000)

static const struct topic_info topics[TOPIC_COUNT] = {
    [TOPIC_DOCUMENTS] = {"genloop.documents.v1", "genloop.v1.Document", 4, TOPIC_WHOLE, 0},
    [TOPIC_DATASETS] = {"genloop.datasets.v1", "genloop.v1.Dataset", 1, TOPIC_WHOLE, 0},
    [TOPIC_JOBS] = {"genloop.jobs.v1", "genloop.v1.Job", 4, TOPIC_WHOLE, 0},
    [TOPIC_JOB_PROGRESS] = {"genloop.job-progress.v1", "genloop.v1.JobProgress", 4, TOPIC_EXPIRES, DAYS(7)},
    [TOPIC_MODELS] = {"genloop.models.v1", "genloop.v1.ModelVersion", 1, TOPIC_COMPACTED, 0},
    [TOPIC_ALIASES] = {"genloop.aliases.v1", "genloop.v1.Alias", 1, TOPIC_COMPACTED, 0},
    [TOPIC_INTERACTIONS] = {"genloop.interactions.v1", "genloop.v1.Interaction", 4, TOPIC_EXPIRES, DAYS(30)},
    [TOPIC_FEEDBACK] = {"genloop.feedback.v1", "genloop.v1.FeedbackEvent", 4, TOPIC_WHOLE, 0},
    [TOPIC_EVALUATIONS] = {"genloop.evaluations.v1", "genloop.v1.Evaluation", 1, TOPIC_WHOLE, 0},
    [TOPIC_ALERTS] = {"genloop.alerts.v1", "genloop.v1.Alert", 1, TOPIC_EXPIRES, DAYS(7)},
    [TOPIC_AUDIT] = {"genloop.audit.v1", "genloop.v1.AuditRecord", 1, TOPIC_WHOLE, 0},
    [TOPIC_ERASURES] = {"genloop.erasures.v1", "genloop.v1.Erasure", 1, TOPIC_WHOLE, 0},
    [TOPIC_BATCHES] = {"genloop.batches.v1", "genloop.v1.Batch", 4, TOPIC_EXPIRES, DAYS(7)},
    [TOPIC_DEAD_LETTERS] = {"genloop.dead-letters.v1", "genloop.v1.DeadLetter", 1, TOPIC_WHOLE, 0},
    [TOPIC_KEYS] = {"genloop.keys.v1", "genloop.v1.ApiKey", 1, TOPIC_COMPACTED, 0},
    [TOPIC_FILES] = {"genloop.files.v1", "genloop.v1.File", 1, TOPIC_COMPACTED, 0},
};

const struct topic_info *topic_info(enum topic t) {
    ASSERT((unsigned)t < TOPIC_COUNT);
    return &topics[t];
}

int topic_from_name(struct span name) {
    for (int t = 0; t < TOPIC_COUNT; t++)
        if (span_eq_str(name, topics[t].name)) return t;
    return -1;
}
