/*
 * The parts of the Kafka backend: kafka.c (connection, topics, publishing, ends), kafka_reader.c (groups and views), kafka_lease.c (leases).
 * Each says at its top how it works. librdkafka is seen here and in these three only.
 *
 * In the cluster (format 1):
 *   TOPIC                  as the table has them: key, value, the CloudEvents headers and ce_specversion
 *   genloop.log.v1         its first record says "FORMAT ID": the format of the log and, with the cluster's id, its identity
 *   genloop.leases.v1      the leases (kafka_lease.c)
 *   the consumer group G   committed offsets; their metadata says "tries N": N members were given what stands behind it
 *
 * librdkafka 2.0.2 is what Debian 12 has. What is done here because of it says so.
 */
#ifndef GENLOOP_EVENTLOG_KAFKA_INTERNAL_H
#define GENLOOP_EVENTLOG_KAFKA_INTERNAL_H

#include <librdkafka/rdkafka.h>
#include <stdatomic.h>

#include "eventlog/backend.h"

enum {
    KAFKA_PARTITIONS_MAX = 8,      /* of a topic, as the table has them */
    KAFKA_PARTS_MAX = EVENTLOG_PARTITIONS_MAX,
    KAFKA_CALL_MS = 10000,         /* the most that one question to the cluster may take: a broker's restart or a new leader is waited out */
    KAFKA_PAUSE_MS = 100,          /* between attempts */
    KAFKA_TROUBLE_MAX = 256,
};
extern const char kafka_meta_topic[], kafka_lease_topic[];

/* What a reader that read a partition to its end found there: behind `last` (-1: nothing at all) there is no event before `end`. */
struct kafka_end {
    int64_t end, last;
};

/* Something of ours on its way that is no event of a topic: the answer is waited for. */
struct kafka_ticket {
    pthread_mutex_t lock;
    pthread_cond_t done;
    int references; /* the waiter, and librdkafka until the report */
    bool is_done;
    rd_kafka_resp_err_t error;
    int64_t offset;
};

struct kafka_lease_book;
struct kafka_group;
struct kafka_log {
    struct eventlog *log;
    char *brokers, *properties;
    int64_t publish_timeout_ms;
    /* from the properties */
    bool unchecked;
    int64_t compact_lag_ms;
    int replication; /* 0: three, or as many as there are brokers */
    int brokers_seen;

    char identity[160];

    pthread_rwlock_t producer_lock; /* read: to use the producer; write: the pump, to put another in its place */
    rd_kafka_t *producer;
    rd_kafka_topic_t *topics[TOPIC_COUNT], *meta, *leases;
    rd_kafka_t *control; /* a consumer without a group: questions, the log's own topics */

    pthread_t pump, keeper;
    bool has_pump, has_keeper;
    atomic_bool stopping;
    atomic_bool healthy;
    atomic_llong in_flight, progress_ms; /* publications, and when one of them last ended */

    pthread_mutex_t keeper_lock; /* of the list of groups and of the keeper's sleep */
    pthread_cond_t keeper_wake;
    struct kafka_group *groups;

    pthread_mutex_t ends_lock;
    struct kafka_end known[TOPIC_COUNT][KAFKA_PARTITIONS_MAX];

    pthread_mutex_t trouble_lock;
    char trouble[KAFKA_TROUBLE_MAX]; /* librdkafka's last word */
    bool trouble_auth;

    pthread_mutex_t book_lock;
    struct kafka_lease_book *book; /* made with the first lease */
};

/* ---- kafka.c, for the others ---- */

enum kafka_kind { KAFKA_PRODUCER, KAFKA_READER, KAFKA_MEMBER };
/* A client with the log's properties, the defaults and what must be so. pairs: more of the latter, "key", "value", …, NULL. */
int kafka_client_new(struct kafka_log *l, enum kafka_kind kind, const char *const *pairs, void (*prepare)(rd_kafka_conf_t *c, void *arg), void *arg, rd_kafka_t **rk, struct error *err);
/* Counts a client that had died (librdkafka's fatal errors) and was replaced: "producer", "member". */
void kafka_count_replaced(const char *kind);
/* Our code for librdkafka's. */
int kafka_code(rd_kafka_resp_err_t e);
/* What a client of the log's said went wrong, for messages. */
void kafka_note_trouble(struct kafka_log *l, rd_kafka_resp_err_t e, const char *reason);
/* "no broker answers …: what librdkafka said last" */
int kafka_unavailable(struct kafka_log *l, rd_kafka_resp_err_t e, struct error *err);
/* Looks up offsets: which is RD_KAFKA_OFFSET_BEGINNING or _END; list: topics and partitions, offsets out. Waits up to timeout_ms for leaders to be there. */
int kafka_offsets(struct kafka_log *l, rd_kafka_t *rk, rd_kafka_topic_partition_list_t *list, int64_t which, int64_t timeout_ms, struct error *err);
/* A record of our own on its way into partition 0 of the log's topic of leases, or else its own. Returns owned in *t. */
int kafka_send(struct kafka_log *l, bool lease, struct span key, struct span value, struct kafka_ticket **t, struct error *err);
/* Its offset when it is durable, and *t is NULL then, as where it failed. E_UNAVAILABLE with *t left: no answer within timeout_ms; it may come to be there. */
int kafka_await(struct kafka_log *l, struct kafka_ticket **t, int64_t timeout_ms, int64_t *offset, struct error *err);
void kafka_forget(struct kafka_ticket **t);
void kafka_note_end(struct kafka_log *l, enum topic t, int partition, int64_t end, int64_t last);
/* The event that a message is; id: where one is made for it. */
void kafka_event(struct event *e, const rd_kafka_message_t *m, enum topic t, char id[EVENT_ID_MAX + 1]);
/* An offset as text, to a number: -1 for "", E_INVALID for what is none. */
int kafka_offset_parse(const char *text, int64_t *offset);
void kafka_pause(int64_t ms);

/* ---- kafka_reader.c ---- */

/* Called by the keeper, under keeper_lock. */
void kafka_group_measure(struct kafka_group *g);
struct kafka_group *kafka_group_next(struct kafka_group *g);
rd_kafka_t *kafka_group_client(struct kafka_group *g); /* for tests */

int kafka_group_open(void *state, const char *group, const char *member, const enum topic *topics, int n, const struct eventlog_group_events *events,
                     void *arg, void **g, struct error *err);
int kafka_group_poll(void *g, int64_t timeout_ms, struct event *e, struct error *err);
int kafka_group_commit(void *g, const struct event *e, struct error *err);
int kafka_group_rewind(void *g, const struct event *e, struct error *err);
int64_t kafka_group_lag(void *g);
void kafka_group_close(void *g);
int kafka_view_open(void *state, const enum topic *topics, int n, const struct eventlog_position *from, int n_from, void **v, struct error *err);
int kafka_view_poll(void *v, int64_t timeout_ms, struct event *e, struct error *err);
bool kafka_view_caught_up(void *v);
void kafka_view_close(void *v);

/* ---- kafka_lease.c ---- */

int kafka_lease_open(void *state, const char *name, const char *holder, int64_t ttl_ms, void **l, struct error *err);
int kafka_lease_poll(void *l, uint64_t *epoch, struct error *err);
void kafka_lease_close(void *l);
void kafka_book_free(struct kafka_lease_book *book);

#endif
