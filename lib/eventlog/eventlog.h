/*
 * The event log: topics of facts. One header, two backends behind it that pass one test suite event for event:
 *   kafka.c   librdkafka: idempotent producer, acks=all, consumer groups, commit after the effect, compacted topics
 *   redis.c   Redis Streams for one machine: XADD on an append-only file with fsync always, consumer groups, claims of a dead
 *             consumer's entries, latest-value records for compacted topics
 * What it promises: an event whose publication was acknowledged is durable; delivery is at least once; events of one key are in
 * order. The effect of an event is made idempotent by its id (ce_id) or by offsets kept in the effect's own transaction (lib/view).
 *
 * Topics have a fixed table (topics.c): name, partitions, cleanup (whole, compacted, or expires after). A compacted topic keeps at least
 * the newest value of each key; an empty value (len 0) is a tombstone.
 *
 * Work is shared by consumer groups (eventlog_group_*): each event goes to one member; it is committed when its effect is done, and
 * given to another when the member dies. A view reads every partition by assignment from offsets of its own (eventlog_view_*).
 *
 * Threads: an eventlog is shared by all threads of a process; each reader belongs to one thread. Calls block up to the time given:
 * not for a loop's thread, except eventlog_publish_async, whose callback runs on a thread of the log: loop_post from there.
 */
#ifndef GENLOOP_EVENTLOG_EVENTLOG_H
#define GENLOOP_EVENTLOG_EVENTLOG_H

#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

enum topic {
    TOPIC_DOCUMENTS, TOPIC_DATASETS, TOPIC_JOBS, TOPIC_JOB_PROGRESS, TOPIC_MODELS, TOPIC_ALIASES, TOPIC_INTERACTIONS, TOPIC_FEEDBACK,
    TOPIC_EVALUATIONS, TOPIC_ALERTS, TOPIC_AUDIT, TOPIC_ERASURES, TOPIC_BATCHES, TOPIC_DEAD_LETTERS, TOPIC_KEYS, TOPIC_FILES, TOPIC_COUNT
};
enum topic_cleanup { TOPIC_WHOLE, TOPIC_COMPACTED, TOPIC_EXPIRES };
struct topic_info {
    const char *name;          /* "genloop.documents.v1" */
    const char *type;          /* ce_type: "genloop.v1.Document" */
    int partitions;            /* 1 where the order of the whole topic matters (models, aliases, audit) */
    enum topic_cleanup cleanup;
    int64_t retention_ms;      /* of TOPIC_EXPIRES */
};
const struct topic_info *topic_info(enum topic t);
int topic_from_name(struct span name); /* enum topic, or -1 */

enum { EVENT_VALUE_MAX = 900 * 1024 }; /* Kafka's default message limit is 1 MiB; bytes belong in the store */
enum { EVENT_KEY_MAX = 512, EVENT_ID_MAX = 128, EVENT_HEADER_MAX = 256, EVENT_OFFSET_MAX = 48 };

struct event {
    enum topic topic;
    struct span key, value;
    struct span id;            /* ce_id; empty on publish: a UUIDv7 is made */
    struct span source;        /* ce_source: "/services/ingest"; empty on publish: the eventlog's */
    struct span type;          /* ce_type; empty on publish: the topic's */
    struct span subject;       /* ce_subject; may be empty */
    struct span content_type;  /* empty on publish: application/protobuf */
    struct span traceparent;   /* may be empty */
    int64_t time_ms;           /* ce_time; 0 on publish: now */
    /* on reading: */
    int partition;
    char offset[EVENT_OFFSET_MAX]; /* of this event: Kafka's number, or the stream's id; compare only by eventlog_offset_compare */
    int deliveries;            /* 1 the first time, as far as the backend knows */
};
int eventlog_offset_compare(const char *a, const char *b);

struct eventlog;
struct eventlog_config {
    const char *url;           /* "kafka://b1:9092,b2:9092" or "redis+unix:/path/log.sock" or "redis://host:port" */
    const char *source;        /* ce_source of what this process publishes: "/services/ingest" */
    /* "key=value" lines, NULL for none. Both: durability=unchecked (else a server that may lose what it acknowledged is refused: a Redis without appendonly yes,
     * appendfsync always and noeviction; topics of Kafka whose configuration drops events or takes them from too few replicas), compact.lag.ms (86,400,000: how
     * long what a newer event of its key has replaced stays, and a tombstone after it; on Kafka of topics that are yet to be made). Kafka: replication.factor
     * (of topics that are yet to be made; three, or as many as there are brokers), and any of librdkafka's (TLS, SASL), for every client. */
    const char *properties;
    int64_t publish_timeout_ms; /* 0: 30,000 */
};
/* Connects, makes the topics that are missing. Returns owned in *log. E_UNAVAILABLE where nobody answers within 10 s; E_STATE where the server
 * does not keep what the log promises. */
int eventlog_open(const struct eventlog_config *c, struct eventlog **log, struct error *err);
void eventlog_close(struct eventlog *log); /* waits for what is being published, up to the publish timeout */
bool eventlog_healthy(struct eventlog *log);
/* Of this log and no other: offsets mean something only in the log whose identity was kept beside them. Borrowed. */
const char *eventlog_identity(struct eventlog *log);

/* Returns when the event is durable. Publications of many threads share one write. E_UNAVAILABLE, E_DEADLINE: it may or may not be in the log. */
int eventlog_publish(struct eventlog *log, const struct event *e, struct error *err);
/* Copies the event; on_done(arg, r) from a thread of the log once it is durable or has failed. E_FULL where too many wait. */
enum { EVENTLOG_QUEUE_MAX = 10000 };                   /* events: some seconds of the busiest platform */
enum { EVENTLOG_QUEUE_BYTES_MAX = 64 * 1024 * 1024 };  /* and of large ones no more than this */
int eventlog_publish_async(struct eventlog *log, const struct event *e, void *arg, void (*on_done)(void *arg, int r));

/*
 * A member of a consumer group over topics[n]. Each partition is read by one member at a time, in order; partitions are dealt out evenly
 * among the living members. A member that dies is missed after EVENTLOG_SESSION_MS, at once where one of the same name comes back (then the
 * former gets E_ABORTED). So of each key no two members ever handle events at once, but for one that was stopped longer than that and does not know it yet:
 * its commit is refused with E_ABORTED. How long the effect of an event takes does not matter.
 */
enum { EVENTLOG_SESSION_MS = 6000 };
enum { EVENTLOG_GROUP_NAME_MAX = 128 };
struct eventlog_group;
struct eventlog_group_events { /* on the reader's thread, from within poll; both may be NULL */
    void (*on_assigned)(void *arg, enum topic t, int partition);
    void (*on_revoked)(void *arg, enum topic t, int partition); /* what is uncommitted there will be given to another */
};
int eventlog_group_open(struct eventlog *log, const char *group, const char *member, const enum topic *topics, int n,
                        const struct eventlog_group_events *events, void *arg, struct eventlog_group **g, struct error *err);
/* The next event, borrowed until the next poll or close; E_AGAIN after timeout_ms without one. */
int eventlog_group_poll(struct eventlog_group *g, int64_t timeout_ms, struct event *e, struct error *err);
/* The effect of the event last polled is done: never deliver it, nor what stands before it in its partition, to this group again. Durable before it
 * returns. E_ABORTED: its partition belongs to another member now, which will see it too. */
int eventlog_group_commit(struct eventlog_group *g, const struct event *e, struct error *err);
/* It could not be handled: to the dead letters with the reason, then committed. */
int eventlog_group_dead_letter(struct eventlog_group *g, const struct event *e, const char *reason, struct error *err);
/* Not now: this event and what follows it in its partition come again from the next poll on, with `deliveries` one higher. */
int eventlog_group_rewind(struct eventlog_group *g, const struct event *e, struct error *err);
/* Events behind the committed position, over all partitions; for metrics. */
int64_t eventlog_group_lag(struct eventlog_group *g);
void eventlog_group_close(struct eventlog_group *g); /* leaves the group; on Kafka its partitions are others' when the session has run out, so that a restart moves none */

/* Every partition of topics[n], each from behind the given offset. */
struct eventlog_view;
struct eventlog_position {
    enum topic topic;
    int partition;
    char offset[EVENT_OFFSET_MAX]; /* the last one that was folded; "" : from the beginning */
};
/* E_INVALID where an offset cannot be one of this log. */
int eventlog_view_open(struct eventlog *log, const enum topic *topics, int n, const struct eventlog_position *from, int n_from,
                       struct eventlog_view **v, struct error *err);
int eventlog_view_poll(struct eventlog_view *v, int64_t timeout_ms, struct event *e, struct error *err);
/* Whether everything that was in the log when this was called first, or last true, has been polled: the view has caught up. */
bool eventlog_view_caught_up(struct eventlog_view *v);
void eventlog_view_close(struct eventlog_view *v);
/* Where the partitions of topics[n] end now: the offset of the last event of each, "" where there is none. Any thread. */
enum { EVENTLOG_PARTITIONS_MAX = TOPIC_COUNT * 8 };
int eventlog_ends(struct eventlog *log, const enum topic *topics, int n, struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX], int *n_ends, struct error *err);

/* To the dead letters, in the name of a group or a view; a second time is the same event id. */
int eventlog_dead_letter(struct eventlog *log, const struct event *e, const char *group, const char *reason, struct error *err);

/*
 * The lease of a sole writer over a topic, with a fencing epoch that only ever rises. Acquired by whoever is first after the former
 * holder let go or its time ran out. Records that a former holder still writes carry a lower epoch, and readers drop them.
 */
struct eventlog_lease;
int eventlog_lease_open(struct eventlog *log, const char *name, const char *holder, int64_t ttl_ms, struct eventlog_lease **l, struct error *err);
/* Takes or renews; 0 and the epoch while we hold it, E_AGAIN while another does. Call at least every ttl / 3. After E_UNAVAILABLE it is still ours
 * until ttl_ms after the call that last gave 0 began. A holder that comes back under its name takes it from its former life at once, with a new epoch. */
int eventlog_lease_poll(struct eventlog_lease *l, uint64_t *epoch, struct error *err);
void eventlog_lease_close(struct eventlog_lease *l); /* lets go */

#endif
