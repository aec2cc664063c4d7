/*
 * The parts of the Redis backend: redis.c (connection, writer, keeper, lease), redis_reader.c (groups and views), redis_scripts.c (Lua).
 *
 * In the server (format 1, in genloop:log:format; one server, no cluster, since a script touches several keys):
 *   TOPIC:P                            a stream per partition; fields key, value and the CloudEvents headers; ids by the server's clock
 *   genloop:log:id                     the log's identity
 *   genloop:log:producer:ID            the number of the last batch that this producer has in the log
 *   genloop:log:latest:STREAM          compacted topics: key → id of its newest entry
 *   genloop:log:old:STREAM             and what may go once it is old enough: "ms id" (replaced) or "ms id key" (a tombstone), oldest first
 *   genloop:log:group:G:sessions       member → session; the newest of a name is the member
 *   genloop:log:group:G:members:TOPIC  member → until when it counts as alive, by the server's clock
 *   genloop:log:group:G:owners         stream → "member\nsession": the lease of a partition
 *   genloop:log:group:G:tries          stream → "id n": n members were given what stands behind the committed id
 *   genloop:log:lease:NAME             holder, session, epoch, until
 *   the consumer group G of each stream: its last-delivered-id is the committed position, so that XINFO GROUPS tells the lag
 *
 * Why no pending entries (XREADGROUP, XCLAIM): they are one write to the append-only file per delivery, and entries of a dead member that are
 * claimed one by one come behind newer ones of the same key. A partition's lease gives all of a dead member's entries to the next owner at
 * once, in order, and a read costs no write.
 *
 * Exactly once into the log per publication: one writer per process sends numbered batches, one at a time, and a batch whose reply was lost is sent
 * again under its number, which the script finds in genloop:log:producer:ID.
 */
#ifndef GENLOOP_EVENTLOG_REDIS_INTERNAL_H
#define GENLOOP_EVENTLOG_REDIS_INTERNAL_H

#include <stdatomic.h>

#include "cache/redis.h"
#include "eventlog/backend.h"

enum {
    PARTITIONS_MAX = 8,          /* of a topic, as the table has them */
    PARTS_MAX = EVENTLOG_PARTITIONS_MAX,
    STREAM_NAME_MAX = 48,
    GROUP_KEY_MAX = EVENTLOG_GROUP_NAME_MAX + 32,
    REPLY_TIMEOUT_MS = 5000,     /* a server that takes longer for a script of ours is taken for dead, and asked again */
    RETRY_PAUSE_MS = 50,         /* between attempts while nobody answers: a restarted server is found at once */
    BATCH_EVENTS_MAX = 256, BATCH_BYTES_MAX = 4 * 1024 * 1024, /* what one script writes: some milliseconds, during which the server answers nobody else */
    BEAT_MS = 2000, BEAT_FAST_MS = 500, /* a third of EVENTLOG_SESSION_MS; faster while a partition that is due to us is still another's */
    LAG_MS = 5000, TRIM_MS = 5 * 60 * 1000,
};

/* Publishes a batch, each event once. KEYS: the producer's. ARGV: batch number, that key's life in ms, then BATCH_WORDS per event. */
enum { BATCH_WORDS = 3 + 2 + EVENT_HEADERS }; /* stream, cleanup (w, c, e), retention or lag in ms; key, value, headers */
extern const char script_publish[];
/* Drops what the lag of a compacted stream has passed. KEYS: stream. ARGV: lag in ms. Returns how many. */
extern const char script_compact[];
/* The newest id of each stream of KEYS, "0-0" where there is none. */
extern const char script_ends[];
/* A member's sign of life. KEYS: the group's prefix. ARGV: member, session, ttl in ms, "1" where it has just come; then topic, partitions … Returns
 * {0, {streams owned}, {per topic: how many more than its share}, 1 where something due to it is still another's} or {-1}: superseded. */
extern const char script_beat[];
/* Begins with a partition. KEYS: prefix, stream. ARGV: owner, group. Returns {committed id, tries}, or {} where owner does not own it. */
extern const char script_assign[];
/* Lets partitions go. KEYS: prefix. ARGV: owner, then stream, "1" where something of it was delivered since assign … */
extern const char script_release[];
/* KEYS: prefix, stream. ARGV: owner, group, id, how many entries that is. Returns 1, or 0 where owner does not own it. */
extern const char script_commit[];
/* KEYS: prefix. ARGV: member, session, topics … Leaves the group. */
extern const char script_leave[];
/* KEYS: streams. ARGV: group. How many events are behind its committed positions. */
extern const char script_lag[];
/* KEYS: lease. ARGV: holder, session, ttl in ms, "1" where it may take over from its former life, "1" to let go. Returns the epoch, 0: another's. */
extern const char script_lease[];

int redis_script(struct redis *r, const char *script, const struct span *keys, int n_keys, const struct span *args, int n_args,
                 struct redis_reply **reply, struct error *err);

struct redis_group;
struct redis_log {
    struct eventlog *log;
    char *url;
    char identity[ID_TEXT_MAX];
    bool unchecked;
    int64_t compact_lag_ms;
    char streams[TOPIC_COUNT][PARTITIONS_MAX][STREAM_NAME_MAX];

    pthread_t writer;
    pthread_mutex_t lock;  /* of the queue */
    pthread_cond_t queued;
    struct publication *head, **tail;
    bool stopping, has_writer;
    char producer[ID_TEXT_MAX + 32];
    uint64_t batch_number;
    unsigned next_partition; /* of events without a key; under lock */

    pthread_t keeper;
    pthread_mutex_t keeper_lock; /* of the list; a group's own lock is taken inside it */
    pthread_cond_t keeper_wake;
    struct redis_group *groups;
    bool has_keeper, keeper_stopping;
    pthread_mutex_t control_lock; /* of the connection for questions from any thread */
    struct redis *control;
    atomic_bool healthy, writer_failing;
};

/* Called by the keeper, under keeper_lock. beat: 0, or why it could not be done. Returns when it is due again. */
int64_t redis_group_beat_due(const struct redis_group *g);
int redis_group_beat(struct redis_group *g, struct redis *r, bool opening, struct error *err);
void redis_group_measure(struct redis_group *g, struct redis *r);
struct redis_group *redis_group_next(struct redis_group *g);

int redis_group_open(void *state, const char *group, const char *member, const enum topic *topics, int n, const struct eventlog_group_events *events,
                     void *arg, void **g, struct error *err);
int redis_group_poll(void *g, int64_t timeout_ms, struct event *e, struct error *err);
int redis_group_commit(void *g, const struct event *e, struct error *err);
int redis_group_rewind(void *g, const struct event *e, struct error *err);
int64_t redis_group_lag(void *g);
void redis_group_close(void *g);
int redis_view_open(void *state, const enum topic *topics, int n, const struct eventlog_position *from, int n_from, void **v, struct error *err);
int redis_view_poll(void *v, int64_t timeout_ms, struct event *e, struct error *err);
bool redis_view_caught_up(void *v);
int redis_ends(void *state, const enum topic *topics, int n, struct eventlog_position *ends, int *n_ends, struct error *err);
void redis_view_close(void *v);

#endif
