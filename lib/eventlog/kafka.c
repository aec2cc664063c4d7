/*
 * The event log on Kafka. Two threads per log: the pump takes librdkafka's delivery reports and ends publications; the keeper asks whether the
 * cluster is there and measures lag.
 *
 * Publishing. One idempotent producer, acks=all: librdkafka sends again until the publish timeout is over, under sequence numbers by which the
 * broker drops what it has already. One request at a time per broker (max.in.flight=1): with more, librdkafka 2.0.2 loses count when a connection
 * breaks and declares the producer dead (fixed in 2.3); what waits meanwhile goes with the next request, so that it costs little. A producer that is
 * dead none the less is put aside by the pump: what it had fails with E_UNAVAILABLE, and another takes its place.
 *
 * Topics are made where they are missing, by whoever is first; those that are there are checked: an acknowledgement is a promise that the
 * cluster's configuration has to keep.
 */
#include "eventlog/kafka_internal.h"

#include <inttypes.h>

#include "base/alloc.h"
#include "base/metrics.h"

#if defined(__SANITIZE_THREAD__)
extern int kafka_tsan_threads;
#endif
const char kafka_meta_topic[] = "genloop.log.v1", kafka_lease_topic[] = "genloop.leases.v1";

enum {
    OPEN_TIMEOUT_MS = 10000,
    POLL_MS = 100,               /* of the pump: how long closing may wait for it */
    CHECK_MS = 2000,             /* of the keeper: is the cluster there? */
    LAG_MS = 5000,
    STUCK_MS = 5000,             /* publications that wait and none of which ends for so long: the log is not well */
    OLD_PRODUCER_MS = 5000,      /* for a dead producer to give up what it has */
    ADMIN_MS = 10000,
    COMPACT_LAG_MS = 24 * 3600 * 1000, /* as on Redis: whoever reads at least once a day sees every change */
    COMPACT_LAG_MIN_MS = 1000,
    LEASE_RETENTION_MS = 2 * 3600 * 1000, LEASE_SEGMENT_MS = 30 * 60 * 1000, /* see kafka_lease.c */
    MESSAGE_MAX = 1024 * 1024,   /* EVENT_VALUE_MAX, the key and the headers */
    INTERNAL_TOPICS = 2, ALL_TOPICS = TOPIC_COUNT + INTERNAL_TOPICS,
};

int kafka_code(rd_kafka_resp_err_t e) {
    switch (e) {
    case RD_KAFKA_RESP_ERR_NO_ERROR: return 0;
    case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT: return E_DEADLINE;
    case RD_KAFKA_RESP_ERR__QUEUE_FULL: return E_FULL;
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
    case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED: return E_UNAUTHENTICATED;
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_SECURITY_DISABLED: return E_DENIED;
    case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
    case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE: return E_TOO_LARGE;
    case RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID:
    case RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION:
    case RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID:
    case RD_KAFKA_RESP_ERR__FENCED:
    case RD_KAFKA_RESP_ERR__ASSIGNMENT_LOST: return E_ABORTED;
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART: return E_NOT_FOUND;
    case RD_KAFKA_RESP_ERR_INVALID_RECORD:
    case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
    case RD_KAFKA_RESP_ERR_INVALID_CONFIG:
    case RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR: return E_STATE;
    case RD_KAFKA_RESP_ERR__BAD_MSG:
    case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
    case RD_KAFKA_RESP_ERR_INVALID_MSG: return E_DATA_LOSS;
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
    case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE: return E_UNSUPPORTED;
    default: return E_UNAVAILABLE; /* connections, leaders, coordinators, replicas: they come back */
    }
}

void kafka_pause(int64_t ms) {
    if (ms <= 0) return;
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

int kafka_offset_parse(const char *text, int64_t *offset) {
    if (text[0] == '\0') {
        *offset = -1;
        return 0;
    }
    int64_t v;
    if (span_to_i64(span_str(text), &v) != 0 || v < 0 || v == INT64_MAX) return E_INVALID;
    *offset = v;
    return 0;
}

/* ---- clients ---- */

void kafka_note_trouble(struct kafka_log *l, rd_kafka_resp_err_t e, const char *reason) {
    if (e == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) return; /* what came before it says why */
    pthread_mutex_lock(&l->trouble_lock);
    span_copy(l->trouble, sizeof l->trouble, span_str(reason ? reason : rd_kafka_err2str(e)));
    l->trouble_auth = e == RD_KAFKA_RESP_ERR__AUTHENTICATION;
    pthread_mutex_unlock(&l->trouble_lock);
}

static void on_error(rd_kafka_t *rk, int e, const char *reason, void *arg) {
    (void)rk;
    kafka_note_trouble(arg, (rd_kafka_resp_err_t)e, reason);
}

/* A library does not log; on_error and results say what matters. */
static void on_log(const rd_kafka_t *rk, int level, const char *facility, const char *text) {
    (void)rk;
    (void)level;
    (void)facility;
    (void)text;
}

int kafka_unavailable(struct kafka_log *l, rd_kafka_resp_err_t e, struct error *err) {
    char trouble[KAFKA_TROUBLE_MAX];
    pthread_mutex_lock(&l->trouble_lock);
    memcpy(trouble, l->trouble, sizeof trouble);
    bool auth = l->trouble_auth;
    pthread_mutex_unlock(&l->trouble_lock);
    int code = auth ? E_UNAUTHENTICATED : kafka_code(e);
    if (code == E_DEADLINE || code == 0) code = E_UNAVAILABLE;
    return error_set(err, code, "Kafka at %.120s: %s%s%s", l->brokers, rd_kafka_err2str(e), trouble[0] ? "; last: " : "", trouble);
}

/* What the operator may set otherwise. Restarts of a broker are found soon, and one that hangs is left after 10 s. */
static const char *const defaults[] = {
    "client.id", "genloop", "socket.keepalive.enable", "true", "socket.timeout.ms", "10000", "socket.connection.setup.timeout.ms", "5000",
    "reconnect.backoff.ms", "50", "reconnect.backoff.max.ms", "1000", NULL};
static const char *const producer_defaults[] = {"linger.ms", "1", "queue.buffering.max.messages", "100000", NULL};
static const char *const consumer_defaults[] = {"fetch.wait.max.ms", "500", "fetch.error.backoff.ms", "100", "queued.min.messages", "1000", "queued.max.messages.kbytes", "8192", NULL};
/* What must be so: the log's promises rest on it. */
static const char *const producer_fixed[] = {"enable.idempotence", "true", "acks", "all", "max.in.flight", "1", "partitioner", "murmur2_random", NULL};
static const char *const reader_fixed[] = {"enable.auto.commit", "false", "enable.auto.offset.store", "false", "auto.offset.reset", "earliest", "isolation.level", "read_committed",
                                           "allow.auto.create.topics", "false", "enable.partition.eof", "true", NULL};
static const char *const member_fixed[] = {"enable.auto.commit", "false", "enable.auto.offset.store", "false", "auto.offset.reset", "earliest", "isolation.level", "read_committed",
                                           "allow.auto.create.topics", "false", "partition.assignment.strategy", "cooperative-sticky", NULL};
static const char *const reserved[] = {
    "acks", "request.required.acks", "enable.idempotence", "enable.gapless.guarantee", "transactional.id", "max.in.flight", "max.in.flight.requests.per.connection", "partitioner",
    "message.timeout.ms", "delivery.timeout.ms", "message.max.bytes", "retries", "message.send.max.retries", "bootstrap.servers", "metadata.broker.list", "enable.auto.commit", "enable.auto.offset.store",
    "auto.offset.reset", "isolation.level", "allow.auto.create.topics", "enable.partition.eof", "partition.assignment.strategy", "group.id", "group.instance.id", "group.protocol.type",
    "session.timeout.ms", "heartbeat.interval.ms", "max.poll.interval.ms", "enabled_events", NULL};

struct client {
    rd_kafka_conf_t *conf;
};

static int set(rd_kafka_conf_t *conf, const char *key, const char *value, struct error *err) {
    char why[256] = "";
    if (rd_kafka_conf_set(conf, key, value, why, sizeof why) == RD_KAFKA_CONF_OK) return 0;
    return error_set(err, E_INVALID, "the log's property %.80s: %s", key, why);
}

static int set_all(rd_kafka_conf_t *conf, const char *const *pairs, struct error *err) {
    int r = 0;
    for (; r == 0 && pairs && pairs[0]; pairs += 2) r = set(conf, pairs[0], pairs[1], err);
    return r;
}

static bool is_ours(struct span key) { return span_eq_str(key, "durability") || span_eq_str(key, "replication.factor") || span_eq_str(key, "compact.lag.ms"); }

/* The properties that are for the log itself, not for librdkafka. */
static int on_log_property(void *arg, struct span key, struct span value, struct error *err) {
    struct kafka_log *l = arg;
    int64_t n;
    if (span_eq_str(key, "durability") && (span_eq_str(value, "unchecked") || span_eq_str(value, "checked"))) l->unchecked = span_eq_str(value, "unchecked");
    else if (span_eq_str(key, "replication.factor") && span_to_i64(value, &n) == 0 && n >= 1 && n <= 64) l->replication = (int)n;
    else if (span_eq_str(key, "compact.lag.ms") && span_to_i64(value, &n) == 0 && n >= 0) l->compact_lag_ms = n;
    else if (is_ours(key))
        return error_set(err, E_INVALID, "the log on Kafka knows durability=checked|unchecked, replication.factor=1..64 and compact.lag.ms=N, not \"%.*s=%.*s\"", SPAN_ARG(span_sub(key, 0, 80)),
                         SPAN_ARG(span_sub(value, 0, 80)));
    return 0;
}

static int on_client_property(void *arg, struct span key, struct span value, struct error *err) {
    struct client *c = arg;
    if (is_ours(key)) return 0;
    for (int i = 0; reserved[i]; i++)
        if (span_eq_str(key, reserved[i])) return error_set(err, E_INVALID, "the log sets %s itself: take it out of log_properties", reserved[i]);
    char *k = span_dup(key), *v = span_dup(value);
    int r = k && v ? set(c->conf, k, v, err) : error_set(err, E_NOMEM, "no memory for the log");
    mem_free(k);
    mem_free(v);
    return r;
}

int kafka_client_new(struct kafka_log *l, enum kafka_kind kind, const char *const *pairs, void (*prepare)(rd_kafka_conf_t *c, void *arg), void *arg, rd_kafka_t **rk,
                     struct error *err) {
    struct client c = {.conf = rd_kafka_conf_new()};
    bool producer = kind == KAFKA_PRODUCER;
    rd_kafka_conf_set_opaque(c.conf, l);
    rd_kafka_conf_set_log_cb(c.conf, on_log);
    rd_kafka_conf_set_error_cb(c.conf, on_error);
    int r = set_all(c.conf, defaults, err);
    if (r == 0) r = set_all(c.conf, producer ? producer_defaults : consumer_defaults, err);
    if (r == 0 && l->properties) r = eventlog_properties(l->properties, &c, on_client_property, err);
    if (r == 0) r = set(c.conf, "bootstrap.servers", l->brokers, err);
    if (r == 0) r = set_all(c.conf, producer ? producer_fixed : kind == KAFKA_MEMBER ? member_fixed : reader_fixed, err);
    if (r == 0) r = set_all(c.conf, pairs, err);
    if (prepare) prepare(c.conf, arg);
    char why[256] = "";
    rd_kafka_t *made = r == 0 ? rd_kafka_new(producer ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER, c.conf, why, sizeof why) : NULL;
    if (!made) {
        rd_kafka_conf_destroy(c.conf);
        return r != 0 ? r : error_set(err, E_INVALID, "no client for Kafka can be made: %s", why);
    }
    *rk = made;
    return 0;
}

/* ---- publishing ---- */

static void ticket_unref(struct kafka_ticket *t, int n) {
    pthread_mutex_lock(&t->lock);
    bool last = (t->references -= n) == 0;
    pthread_mutex_unlock(&t->lock);
    if (!last) return;
    pthread_cond_destroy(&t->done);
    pthread_mutex_destroy(&t->lock);
    mem_free(t);
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *arg) {
    (void)rk;
    struct kafka_log *l = arg;
    if (rd_kafka_topic_opaque(m->rkt)) { /* one of the log's own topics */
        struct kafka_ticket *t = m->_private;
        pthread_mutex_lock(&t->lock);
        t->is_done = true;
        t->error = m->err;
        t->offset = m->offset;
        pthread_cond_signal(&t->done);
        pthread_mutex_unlock(&t->lock);
        ticket_unref(t, 1);
        return;
    }
    struct publication *p = m->_private;
    int r = kafka_code(m->err);
    if (m->err == RD_KAFKA_RESP_ERR__PURGE_QUEUE || m->err == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT) r = atomic_load(&l->stopping) ? E_CANCELLED : E_UNAVAILABLE;
    atomic_store(&l->progress_ms, clock_mono_ms());
    atomic_fetch_sub(&l->in_flight, 1);
    char message[KAFKA_TROUBLE_MAX + 128] = "";
    if (r == E_DEADLINE || r == E_UNAVAILABLE) {
        pthread_mutex_lock(&l->trouble_lock);
        snprintf(message, sizeof message, "%s%s%s", rd_kafka_err2str(m->err), l->trouble[0] ? "; last: " : "", l->trouble);
        pthread_mutex_unlock(&l->trouble_lock);
    } else if (r != 0) {
        snprintf(message, sizeof message, "%s", rd_kafka_err2str(m->err));
    }
    eventlog_published(l->log, p, r, r == 0 ? NULL : message);
}

static void prepare_producer(rd_kafka_conf_t *c, void *arg) {
    (void)arg;
    rd_kafka_conf_set_dr_msg_cb(c, on_delivery);
}

static void producer_free(rd_kafka_t *rk, rd_kafka_topic_t *topics[TOPIC_COUNT], rd_kafka_topic_t *meta, rd_kafka_topic_t *leases) {
    if (!rk) return;
    for (int t = 0; t < TOPIC_COUNT; t++)
        if (topics[t]) rd_kafka_topic_destroy(topics[t]);
    if (meta) rd_kafka_topic_destroy(meta);
    if (leases) rd_kafka_topic_destroy(leases);
    rd_kafka_destroy(rk);
}

/* Its records have no end to their time: one that is given up makes librdkafka begin a new epoch of sequence numbers, and what other partitions have on its way
 * could come twice. Their writers see to it that few wait. */
static rd_kafka_topic_t *own_topic(rd_kafka_t *rk, const char *name) {
    rd_kafka_topic_conf_t *c = rd_kafka_default_topic_conf_dup(rk);
    char why[128];
    rd_kafka_topic_conf_set_opaque(c, (void *)(uintptr_t)name); /* by which on_delivery knows it */
    ASSERT(rd_kafka_topic_conf_set(c, "message.timeout.ms", "0", why, sizeof why) == RD_KAFKA_CONF_OK);
    return rd_kafka_topic_new(rk, name, c);
}

static int producer_new(struct kafka_log *l, struct error *err) {
    rd_kafka_t *rk = NULL;
    rd_kafka_topic_t *topics[TOPIC_COUNT] = {NULL};
    char timeout[24], bytes[24];
    snprintf(timeout, sizeof timeout, "%" PRId64, l->publish_timeout_ms);
    snprintf(bytes, sizeof bytes, "%d", MESSAGE_MAX);
    const char *const pairs[] = {"message.timeout.ms", timeout, "message.max.bytes", bytes, NULL};
    int r = kafka_client_new(l, KAFKA_PRODUCER, pairs, prepare_producer, NULL, &rk, err);
    if (r != 0) return r;
    for (int t = 0; t < TOPIC_COUNT; t++) topics[t] = rd_kafka_topic_new(rk, topic_info((enum topic)t)->name, NULL);
    rd_kafka_topic_t *meta = own_topic(rk, kafka_meta_topic), *leases = own_topic(rk, kafka_lease_topic);
    bool whole = meta && leases;
    for (int t = 0; t < TOPIC_COUNT; t++) whole = whole && topics[t];
    if (!whole) {
        producer_free(rk, topics, meta, leases);
        return error_set(err, E_NOMEM, "no memory for the log");
    }
    pthread_rwlock_wrlock(&l->producer_lock);
    l->producer = rk;
    l->meta = meta;
    l->leases = leases;
    memcpy(l->topics, topics, sizeof topics);
    pthread_rwlock_unlock(&l->producer_lock);
    return 0;
}

static void give_up(rd_kafka_t *rk, int64_t ms) {
    (void)rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    (void)rd_kafka_flush(rk, (int)ms);
}

void kafka_count_replaced(const char *kind) {
    char label[32];
    snprintf(label, sizeof label, "client=\"%s\"", kind);
    metric_add(metric_counter("genloop_eventlog_clients_replaced_total", label, "Clients of Kafka that had died and were replaced by others."), 1);
}

/* The pump's: another producer in place of one that is dead. Order per key holds: what the dead one had has failed. */
static void replace_producer(struct kafka_log *l) {
    rd_kafka_t *old = l->producer;
    rd_kafka_topic_t *topics[TOPIC_COUNT], *meta = l->meta, *leases = l->leases;
    char why[KAFKA_TROUBLE_MAX];
    rd_kafka_resp_err_t e = rd_kafka_fatal_error(old, why, sizeof why);
    kafka_note_trouble(l, e, why);
    memcpy(topics, l->topics, sizeof topics);
    give_up(old, OLD_PRODUCER_MS);
    if (producer_new(l, NULL) != 0) {
        kafka_pause(KAFKA_PAUSE_MS); /* the next round tries again; until then publications fail */
        return;
    }
    give_up(old, OLD_PRODUCER_MS);
    producer_free(old, topics, meta, leases);
    kafka_count_replaced("producer");
}

static void *pump_main(void *arg) {
    struct kafka_log *l = arg;
    char why[16];
    while (!atomic_load(&l->stopping)) {
        (void)rd_kafka_poll(l->producer, POLL_MS); /* only this thread changes it */
        if (rd_kafka_fatal_error(l->producer, why, sizeof why) != RD_KAFKA_RESP_ERR_NO_ERROR) replace_producer(l);
    }
    return NULL;
}

static rd_kafka_headers_t *headers_of(struct publication *p) {
    struct span values[EVENT_HEADERS];
    event_headers(&p->event, p->time_text, values);
    rd_kafka_headers_t *h = rd_kafka_headers_new(EVENT_HEADERS + 1);
    rd_kafka_resp_err_t e = rd_kafka_header_add(h, "ce_specversion", -1, "1.0", -1);
    for (int i = 0; i < EVENT_HEADERS && e == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
        if (!span_empty(values[i])) e = rd_kafka_header_add(h, event_header_names[i], -1, values[i].data, (ssize_t)values[i].len);
    if (e == RD_KAFKA_RESP_ERR_NO_ERROR) return h;
    rd_kafka_headers_destroy(h);
    return NULL;
}

/* The bytes stay where they are, in p, until the report. No key: any partition; no value: a tombstone where the topic is compacted. */
static void kafka_submit(void *state, struct publication *p) {
    struct kafka_log *l = state;
    const struct event *e = &p->event;
    rd_kafka_headers_t *headers = headers_of(p);
    if (!headers) {
        eventlog_published(l->log, p, E_NOMEM, "no memory");
        return;
    }
    if (atomic_fetch_add(&l->in_flight, 1) == 0) atomic_store(&l->progress_ms, clock_mono_ms());
    pthread_rwlock_rdlock(&l->producer_lock);
    rd_kafka_resp_err_t r = rd_kafka_producev(l->producer, RD_KAFKA_V_RKT(l->topics[e->topic]), RD_KAFKA_V_KEY(e->key.len ? e->key.data : NULL, e->key.len),
                                              RD_KAFKA_V_VALUE((void *)(uintptr_t)(e->value.len ? e->value.data : NULL), e->value.len), RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_OPAQUE(p),
                                              RD_KAFKA_V_END);
    pthread_rwlock_unlock(&l->producer_lock);
    if (r == RD_KAFKA_RESP_ERR_NO_ERROR) return; /* p is the pump's now */
    rd_kafka_headers_destroy(headers);
    atomic_fetch_sub(&l->in_flight, 1);
    eventlog_published(l->log, p, kafka_code(r), rd_kafka_err2str(r));
}

int kafka_send(struct kafka_log *l, bool lease, struct span key, struct span value, struct kafka_ticket **out, struct error *err) {
    struct kafka_ticket *t = mem_zalloc(sizeof *t);
    if (!t) return error_set(err, E_NOMEM, "no memory for the log");
    t->references = 2;
    pthread_mutex_init(&t->lock, NULL);
    cond_init_monotonic(&t->done);
    pthread_rwlock_rdlock(&l->producer_lock);
    rd_kafka_resp_err_t e = rd_kafka_producev(l->producer, RD_KAFKA_V_RKT(lease ? l->leases : l->meta), RD_KAFKA_V_PARTITION(0), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                              RD_KAFKA_V_KEY(key.data, key.len), RD_KAFKA_V_VALUE((void *)(uintptr_t)value.data, value.len), RD_KAFKA_V_OPAQUE(t), RD_KAFKA_V_END);
    pthread_rwlock_unlock(&l->producer_lock);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) {
        ticket_unref(t, 2);
        return kafka_unavailable(l, e, err);
    }
    *out = t;
    return 0;
}

int kafka_await(struct kafka_log *l, struct kafka_ticket **ticket, int64_t timeout_ms, int64_t *offset, struct error *err) {
    struct kafka_ticket *t = *ticket;
    int64_t deadline = clock_mono_ms() + timeout_ms;
    pthread_mutex_lock(&t->lock);
    while (!t->is_done && clock_mono_ms() < deadline) cond_wait_ms(&t->done, &t->lock, deadline - clock_mono_ms());
    bool done = t->is_done;
    rd_kafka_resp_err_t e = done ? t->error : RD_KAFKA_RESP_ERR__TIMED_OUT;
    int64_t at = t->offset;
    pthread_mutex_unlock(&t->lock);
    if (done) kafka_forget(ticket);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) return kafka_unavailable(l, e, err);
    *offset = at;
    return 0;
}

void kafka_forget(struct kafka_ticket **ticket) {
    if (*ticket) ticket_unref(*ticket, 1);
    *ticket = NULL;
}

/* ---- reading: what groups, views and leases share ---- */

void kafka_event(struct event *e, const rd_kafka_message_t *m, enum topic t, char id[EVENT_ID_MAX + 1]) {
    memset(e, 0, sizeof *e);
    e->topic = t;
    e->partition = m->partition;
    e->key = span_of(m->key, m->key_len);
    e->value = span_of(m->payload, m->len);
    e->deliveries = 1;
    snprintf(e->offset, sizeof e->offset, "%" PRId64, m->offset);
    rd_kafka_timestamp_type_t kind;
    int64_t at = rd_kafka_message_timestamp(m, &kind); /* when it was written, where it does not say itself */
    if (kind != RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && at > 0) e->time_ms = at;
    rd_kafka_headers_t *headers;
    if (rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        const char *name;
        const void *value;
        size_t len;
        for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value, &len) == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
            if (value) event_take_header(e, span_str(name), span_of(value, len));
    }
    event_complete(e, id);
}

int kafka_offsets(struct kafka_log *l, rd_kafka_t *rk, rd_kafka_topic_partition_list_t *list, int64_t which, int64_t timeout_ms, struct error *err) {
    int64_t deadline = clock_mono_ms() + timeout_ms;
    for (;;) {
        /* A time of -1 or -2 in a ListOffsets request is the end or the beginning: one request per leader, where rd_kafka_query_watermark_offsets takes two per partition. */
        for (int i = 0; i < list->cnt; i++) {
            list->elems[i].offset = which;
            list->elems[i].err = RD_KAFKA_RESP_ERR_NO_ERROR;
        }
        int64_t left = deadline - clock_mono_ms();
        rd_kafka_resp_err_t e = rd_kafka_offsets_for_times(rk, list, (int)(left < 1 ? 1 : left));
        for (int i = 0; i < list->cnt && e == RD_KAFKA_RESP_ERR_NO_ERROR; i++) e = list->elems[i].err;
        for (int i = 0; i < list->cnt && e == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
            if (list->elems[i].offset < 0) e = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE; /* no answer for this one */
        if (e == RD_KAFKA_RESP_ERR_NO_ERROR) return 0;
        if (kafka_code(e) == E_DENIED || clock_mono_ms() >= deadline) return kafka_unavailable(l, e, err);
        /* A leader that is no more is not asked anew by itself. */
        const struct rd_kafka_metadata *md = NULL;
        if (rd_kafka_metadata(rk, 1, NULL, &md, 1000) == RD_KAFKA_RESP_ERR_NO_ERROR) rd_kafka_metadata_destroy(md);
        kafka_pause(KAFKA_PAUSE_MS);
    }
}

void kafka_note_end(struct kafka_log *l, enum topic t, int partition, int64_t end, int64_t last) {
    pthread_mutex_lock(&l->ends_lock);
    struct kafka_end *known = &l->known[t][partition];
    if (end >= known->end) *known = (struct kafka_end){end, last};
    pthread_mutex_unlock(&l->ends_lock);
}

/* The last event is right before the end, unless records stood there that are no events to a reader (a transaction's) or are gone: a reader that came
 * by has told. Where none has, a wait for that event is ended by the view that comes by. */
static int kafka_ends(void *state, const enum topic *topics, int n, struct eventlog_position *ends, int *n_ends, struct error *err) {
    struct kafka_log *l = state;
    rd_kafka_topic_partition_list_t *low = rd_kafka_topic_partition_list_new(KAFKA_PARTS_MAX);
    for (int i = 0; i < n; i++)
        for (int p = 0; p < topic_info(topics[i])->partitions; p++) rd_kafka_topic_partition_list_add(low, topic_info(topics[i])->name, p);
    rd_kafka_topic_partition_list_t *high = rd_kafka_topic_partition_list_copy(low);
    int r = kafka_offsets(l, l->control, low, RD_KAFKA_OFFSET_BEGINNING, KAFKA_CALL_MS, err);
    if (r == 0) r = kafka_offsets(l, l->control, high, RD_KAFKA_OFFSET_END, KAFKA_CALL_MS, err);
    int count = 0;
    for (int i = 0; i < n && r == 0; i++)
        for (int p = 0; p < topic_info(topics[i])->partitions; p++, count++) {
            int64_t last = high->elems[count].offset - 1;
            pthread_mutex_lock(&l->ends_lock);
            if (l->known[topics[i]][p].end == last + 1 && last >= 0) last = l->known[topics[i]][p].last;
            pthread_mutex_unlock(&l->ends_lock);
            ends[count] = (struct eventlog_position){.topic = topics[i], .partition = p};
            if (last >= low->elems[count].offset) snprintf(ends[count].offset, EVENT_OFFSET_MAX, "%" PRId64, last);
        }
    rd_kafka_topic_partition_list_destroy(low);
    rd_kafka_topic_partition_list_destroy(high);
    if (r == 0) *n_ends = count;
    return r;
}

/* ---- the keeper ---- */

/* Whether the cluster answers and each partition of ours has a leader. */
static bool is_there(struct kafka_log *l) {
    const struct rd_kafka_metadata *md = NULL;
    pthread_rwlock_rdlock(&l->producer_lock);
    rd_kafka_resp_err_t e = rd_kafka_metadata(l->producer, 0, NULL, &md, CHECK_MS);
    pthread_rwlock_unlock(&l->producer_lock);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) return false;
    bool all = true;
    for (int t = 0; t < md->topic_cnt; t++) {
        all = all && md->topics[t].err == RD_KAFKA_RESP_ERR_NO_ERROR;
        for (int p = 0; p < md->topics[t].partition_cnt; p++) all = all && md->topics[t].partitions[p].leader >= 0;
    }
    rd_kafka_metadata_destroy(md);
    return all;
}

static void *keeper_main(void *arg) {
    struct kafka_log *l = arg;
    int64_t lag_at = 0;
    while (!atomic_load(&l->stopping)) {
        atomic_store(&l->healthy, is_there(l));
        (void)rd_kafka_poll(l->control, 0); /* its errors */
        pthread_mutex_lock(&l->keeper_lock);
        int64_t now = clock_mono_ms();
        if (lag_at <= now && atomic_load(&l->healthy)) {
            for (struct kafka_group *g = l->groups; g; g = kafka_group_next(g)) kafka_group_measure(g);
            lag_at = now + LAG_MS;
        }
        if (!atomic_load(&l->stopping)) cond_wait_ms(&l->keeper_wake, &l->keeper_lock, CHECK_MS);
        pthread_mutex_unlock(&l->keeper_lock);
    }
    return NULL;
}

static bool kafka_healthy(void *state) {
    struct kafka_log *l = state;
    bool stuck = atomic_load(&l->in_flight) > 0 && clock_mono_ms() - atomic_load(&l->progress_ms) > STUCK_MS;
    return atomic_load(&l->healthy) && !stuck;
}

static const char *kafka_identity(void *state) { return ((struct kafka_log *)state)->identity; }

/* ---- topics ---- */

struct topic_plan {
    const char *name;
    int partitions;
    enum topic_cleanup cleanup;
    int64_t retention_ms;
    bool lease;
};

static struct topic_plan plan_of(int i) {
    if (i < TOPIC_COUNT) {
        const struct topic_info *t = topic_info((enum topic)i);
        return (struct topic_plan){t->name, t->partitions, t->cleanup, t->retention_ms, false};
    }
    if (i == TOPIC_COUNT) return (struct topic_plan){kafka_meta_topic, 1, TOPIC_WHOLE, 0, false};
    return (struct topic_plan){kafka_lease_topic, 1, TOPIC_EXPIRES, LEASE_RETENTION_MS, true};
}

static const struct rd_kafka_metadata_topic *find_topic(const struct rd_kafka_metadata *md, const char *name) {
    for (int t = 0; t < md->topic_cnt; t++)
        if (strcmp(md->topics[t].topic, name) == 0 && md->topics[t].err != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) return &md->topics[t];
    return NULL;
}

static void number(rd_kafka_NewTopic_t *t, const char *key, int64_t v) {
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, v);
    (void)rd_kafka_NewTopic_set_config(t, key, text);
}

static rd_kafka_NewTopic_t *new_topic(struct kafka_log *l, const struct topic_plan *plan) {
    char why[128];
    int replication = l->replication ? l->replication : l->brokers_seen < 3 ? l->brokers_seen : 3;
    rd_kafka_NewTopic_t *t = rd_kafka_NewTopic_new(plan->name, plan->partitions, replication, why, sizeof why);
    ASSERT(t != NULL); /* every number is within its bounds */
    (void)rd_kafka_NewTopic_set_config(t, "cleanup.policy", plan->cleanup == TOPIC_COMPACTED ? "compact" : "delete");
    (void)rd_kafka_NewTopic_set_config(t, "unclean.leader.election.enable", "false");
    number(t, "min.insync.replicas", replication >= 3 ? 2 : 1);
    number(t, "max.message.bytes", MESSAGE_MAX);
    if (plan->cleanup == TOPIC_COMPACTED) {
        number(t, "min.compaction.lag.ms", l->compact_lag_ms);
        number(t, "delete.retention.ms", l->compact_lag_ms);
        /* Within a week of the lag, what was replaced is gone, also where little is written. A segment that is written to is not compacted. */
        int64_t most = 7 * (l->compact_lag_ms < COMPACT_LAG_MIN_MS ? COMPACT_LAG_MIN_MS : l->compact_lag_ms);
        number(t, "max.compaction.lag.ms", most);
        number(t, "segment.ms", most);
    } else {
        number(t, "retention.ms", plan->cleanup == TOPIC_WHOLE ? -1 : plan->retention_ms);
        number(t, "retention.bytes", -1);
    }
    if (plan->lease) number(t, "segment.ms", LEASE_SEGMENT_MS);
    return t;
}

static rd_kafka_event_t *admin_answer(rd_kafka_queue_t *q, rd_kafka_event_type_t type) {
    int64_t deadline = clock_mono_ms() + ADMIN_MS + 5000; /* librdkafka's own comes first */
    while (clock_mono_ms() < deadline) {
        rd_kafka_event_t *ev = rd_kafka_queue_poll(q, 1000);
        if (ev && rd_kafka_event_type(ev) == type) return ev;
        rd_kafka_event_destroy(ev);
    }
    return NULL;
}

static rd_kafka_AdminOptions_t *admin_options(rd_kafka_t *rk, rd_kafka_admin_op_t op) {
    char why[128];
    rd_kafka_AdminOptions_t *o = rd_kafka_AdminOptions_new(rk, op);
    (void)rd_kafka_AdminOptions_set_request_timeout(o, ADMIN_MS, why, sizeof why);
    if (op == RD_KAFKA_ADMIN_OP_CREATETOPICS) (void)rd_kafka_AdminOptions_set_operation_timeout(o, ADMIN_MS, why, sizeof why);
    return o;
}

static int create_missing(struct kafka_log *l, const struct rd_kafka_metadata *md, int *made, struct error *err) {
    rd_kafka_NewTopic_t *missing[ALL_TOPICS];
    size_t n = 0;
    l->brokers_seen = md->broker_cnt;
    for (int i = 0; i < ALL_TOPICS; i++) {
        struct topic_plan plan = plan_of(i);
        if (!find_topic(md, plan.name)) missing[n++] = new_topic(l, &plan);
    }
    *made = (int)n;
    if (n == 0) return 0;
    int r = 0;
    rd_kafka_queue_t *q = rd_kafka_queue_new(l->producer);
    rd_kafka_AdminOptions_t *options = admin_options(l->producer, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    rd_kafka_CreateTopics(l->producer, missing, n, options, q);
    rd_kafka_event_t *ev = admin_answer(q, RD_KAFKA_EVENT_CREATETOPICS_RESULT);
    if (!ev || rd_kafka_event_error(ev)) {
        r = kafka_unavailable(l, ev ? rd_kafka_event_error(ev) : RD_KAFKA_RESP_ERR__TIMED_OUT, err);
    } else {
        size_t count;
        const rd_kafka_topic_result_t **results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(ev), &count);
        for (size_t i = 0; i < count && r == 0; i++) {
            rd_kafka_resp_err_t e = rd_kafka_topic_result_error(results[i]);
            if (e == RD_KAFKA_RESP_ERR_NO_ERROR || e == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) continue; /* another service was first */
            const char *why = rd_kafka_topic_result_error_string(results[i]);
            r = error_set(err, kafka_code(e), "the topic %s cannot be made: %s", rd_kafka_topic_result_name(results[i]), why ? why : rd_kafka_err2str(e));
        }
    }
    rd_kafka_event_destroy(ev);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_queue_destroy(q);
    rd_kafka_NewTopic_destroy_array(missing, n);
    return r;
}

static int check_partitions(struct kafka_log *l, const struct rd_kafka_metadata *md, bool *ready, struct error *err) {
    *ready = true;
    for (int i = 0; i < ALL_TOPICS; i++) {
        struct topic_plan plan = plan_of(i);
        const struct rd_kafka_metadata_topic *t = find_topic(md, plan.name);
        if (!t || t->err == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) {
            *ready = false;
            continue;
        }
        if (t->err) return error_set(err, kafka_code(t->err), "the topic %s: %s", plan.name, rd_kafka_err2str(t->err));
        if (t->partition_cnt != plan.partitions)
            return error_set(err, E_STATE, "the topic %s has %d partitions; it must have %d, by which keys are spread", plan.name, t->partition_cnt, plan.partitions);
        for (int p = 0; p < t->partition_cnt; p++) {
            if (t->partitions[p].leader < 0) *ready = false;
            if (!l->unchecked && !l->replication && t->partitions[p].replica_cnt < 3 && t->partitions[p].replica_cnt < md->broker_cnt)
                return error_set(err, E_STATE, "the topic %s has %d replicas on %d brokers: give it three, or say replication.factor=%d in log_properties if that is meant", plan.name,
                                 t->partitions[p].replica_cnt, md->broker_cnt, t->partitions[p].replica_cnt);
        }
    }
    return 0;
}

/* Until all are there and have leaders. */
static int make_topics(struct kafka_log *l, struct error *err) {
    int64_t deadline = clock_mono_ms() + OPEN_TIMEOUT_MS;
    for (bool asked = false;;) {
        const struct rd_kafka_metadata *md = NULL;
        int64_t left = deadline - clock_mono_ms();
        rd_kafka_resp_err_t e = rd_kafka_metadata(l->producer, 1, NULL, &md, (int)(left < 1 ? 1 : left));
        if (e != RD_KAFKA_RESP_ERR_NO_ERROR) {
            (void)rd_kafka_poll(l->producer, 0);
            return kafka_unavailable(l, e, err);
        }
        int made = 0, r = asked ? 0 : create_missing(l, md, &made, err);
        bool ready = false;
        if (r == 0) r = check_partitions(l, md, &ready, err);
        rd_kafka_metadata_destroy(md);
        if (r != 0 || ready) return r;
        if (made > 0) deadline = clock_mono_ms() + OPEN_TIMEOUT_MS;
        asked = true;
        if (clock_mono_ms() >= deadline) return error_set(err, E_UNAVAILABLE, "Kafka at %.120s: not every partition of the log has a leader", l->brokers);
        kafka_pause(KAFKA_PAUSE_MS / 2);
    }
}

/* ---- what must be so in a topic's configuration ---- */

static int64_t setting(const rd_kafka_ConfigEntry_t **entries, size_t n, const char *name, const char **text) {
    *text = "";
    for (size_t i = 0; i < n; i++)
        if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), name) == 0 && rd_kafka_ConfigEntry_value(entries[i])) *text = rd_kafka_ConfigEntry_value(entries[i]);
    int64_t v = 0;
    return span_to_i64(span_str(*text), &v) == 0 ? v : INT64_MIN;
}

static int refuse(struct error *err, const char *topic, const char *key, const char *has, const char *must) {
    return error_set(err, E_STATE, "the topic %s has %s=%s, which must be %s, or what was acknowledged could be lost (log_properties durability=unchecked takes it as it is)", topic, key,
                     has, must);
}

static int check_config(const struct topic_plan *plan, int replicas, const rd_kafka_ConfigEntry_t **entries, size_t n, struct error *err) {
    const char *text;
    setting(entries, n, "unclean.leader.election.enable", &text);
    if (strcmp(text, "false") != 0) return refuse(err, plan->name, "unclean.leader.election.enable", text, "false");
    if (replicas >= 3 && setting(entries, n, "min.insync.replicas", &text) < 2) return refuse(err, plan->name, "min.insync.replicas", text, "2 or more");
    if (setting(entries, n, "max.message.bytes", &text) < MESSAGE_MAX) return refuse(err, plan->name, "max.message.bytes", text, "1048576 or more");
    const char *policy = plan->cleanup == TOPIC_COMPACTED ? "compact" : "delete";
    setting(entries, n, "cleanup.policy", &text);
    if (plan->cleanup != TOPIC_EXPIRES && strcmp(text, policy) != 0) return refuse(err, plan->name, "cleanup.policy", text, policy);
    if (plan->cleanup == TOPIC_WHOLE) {
        if (setting(entries, n, "retention.ms", &text) != -1) return refuse(err, plan->name, "retention.ms", text, "-1");
        if (setting(entries, n, "retention.bytes", &text) != -1) return refuse(err, plan->name, "retention.bytes", text, "-1");
    }
    if (plan->lease) {
        int64_t keeps = setting(entries, n, "retention.ms", &text);
        if (keeps >= 0 && keeps < LEASE_RETENTION_MS) return refuse(err, plan->name, "retention.ms", text, "7200000 or more");
    }
    return 0;
}

static int check_configs(struct kafka_log *l, struct error *err) {
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_resp_err_t e = rd_kafka_metadata(l->producer, 1, NULL, &md, OPEN_TIMEOUT_MS);
    if (e != RD_KAFKA_RESP_ERR_NO_ERROR) return kafka_unavailable(l, e, err);
    rd_kafka_ConfigResource_t *asked[ALL_TOPICS];
    for (int i = 0; i < ALL_TOPICS; i++) asked[i] = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, plan_of(i).name);
    rd_kafka_queue_t *q = rd_kafka_queue_new(l->producer);
    rd_kafka_AdminOptions_t *options = admin_options(l->producer, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    rd_kafka_DescribeConfigs(l->producer, asked, ALL_TOPICS, options, q);
    rd_kafka_event_t *ev = admin_answer(q, RD_KAFKA_EVENT_DESCRIBECONFIGS_RESULT);
    int r = 0;
    size_t count = 0;
    const rd_kafka_ConfigResource_t **got = NULL;
    if (!ev || rd_kafka_event_error(ev)) r = kafka_unavailable(l, ev ? rd_kafka_event_error(ev) : RD_KAFKA_RESP_ERR__TIMED_OUT, err);
    else got = rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(ev), &count);
    for (int i = 0; i < ALL_TOPICS && r == 0; i++) {
        struct topic_plan plan = plan_of(i);
        const struct rd_kafka_metadata_topic *t = find_topic(md, plan.name);
        for (size_t k = 0; k < count && r == 0; k++) {
            if (strcmp(rd_kafka_ConfigResource_name(got[k]), plan.name) != 0) continue;
            e = rd_kafka_ConfigResource_error(got[k]);
            if (kafka_code(e) == E_DENIED)
                r = error_set(err, E_STATE, "this user may not see whether the topic %s is kept: grant DESCRIBE_CONFIGS, or set durability=unchecked in log_properties if you know that it is", plan.name);
            else if (e) r = error_set(err, kafka_code(e), "the configuration of %s: %s", plan.name, rd_kafka_err2str(e));
            size_t n;
            const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(got[k], &n);
            if (r == 0) r = check_config(&plan, t && t->partition_cnt > 0 ? t->partitions[0].replica_cnt : 1, entries, n, err);
        }
    }
    rd_kafka_event_destroy(ev);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_queue_destroy(q);
    rd_kafka_ConfigResource_destroy_array(asked, ALL_TOPICS);
    rd_kafka_metadata_destroy(md);
    return r;
}

/* ---- the log's format and identity: the first record of its own topic, whoever wrote it ---- */

static int read_first(struct kafka_log *l, char text[64], struct error *err) {
    rd_kafka_topic_t *topic = rd_kafka_topic_new(l->control, kafka_meta_topic, NULL);
    if (!topic || rd_kafka_consume_start(topic, 0, RD_KAFKA_OFFSET_BEGINNING) != 0) {
        if (topic) rd_kafka_topic_destroy(topic);
        return error_set(err, E_NOMEM, "no memory for the log");
    }
    int64_t deadline = clock_mono_ms() + KAFKA_CALL_MS;
    int r = E_AGAIN;
    while (r == E_AGAIN && clock_mono_ms() < deadline) {
        rd_kafka_message_t *m = rd_kafka_consume(topic, 0, 200);
        if (m && !m->err) {
            span_copy(text, 64, span_of(m->payload, m->len));
            r = 0;
        } else if (m && kafka_code(m->err) == E_DENIED) {
            r = error_set(err, E_DENIED, "the topic %s: %s", kafka_meta_topic, rd_kafka_err2str(m->err));
        }
        if (m) rd_kafka_message_destroy(m);
    }
    (void)rd_kafka_consume_stop(topic, 0);
    rd_kafka_topic_destroy(topic);
    return r == E_AGAIN ? kafka_unavailable(l, RD_KAFKA_RESP_ERR__TIMED_OUT, err) : r;
}

static int find_identity(struct kafka_log *l, struct error *err) {
    rd_kafka_topic_partition_list_t *end = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(end, kafka_meta_topic, 0);
    int r = kafka_offsets(l, l->control, end, RD_KAFKA_OFFSET_END, KAFKA_CALL_MS, err);
    bool empty = r == 0 && end->elems[0].offset == 0;
    rd_kafka_topic_partition_list_destroy(end);
    if (empty) {
        char id[ID_TEXT_MAX], text[64];
        int64_t ignored;
        struct kafka_ticket *ticket = NULL;
        snprintf(text, sizeof text, "1 %s", id_make(id));
        r = kafka_send(l, false, SPAN("log"), span_str(text), &ticket, err);
        if (r == 0) r = kafka_await(l, &ticket, KAFKA_CALL_MS, &ignored, err);
        kafka_forget(&ticket);
    }
    char text[64] = "";
    if (r == 0) r = read_first(l, text, err);
    if (r != 0) return r;
    struct span id = span_str(text), format;
    if (!span_cut(&id, ' ', &format) || !span_eq_str(format, "1") || id.len != ID_TEXT_MAX - 1)
        return error_set(err, E_UNSUPPORTED, "the log has format \"%.20s\"; this version knows 1", text);
    char *cluster = rd_kafka_clusterid(l->producer, KAFKA_CALL_MS);
    if (!cluster) return kafka_unavailable(l, RD_KAFKA_RESP_ERR__TIMED_OUT, err);
    snprintf(l->identity, sizeof l->identity, "%.100s/%.*s", cluster, SPAN_ARG(id));
    rd_kafka_mem_free(l->producer, cluster);
    return 0;
}

/* ---- open and close ---- */

static void kafka_close(void *state) {
    struct kafka_log *l = state;
    ASSERT(l->groups == NULL); /* readers are closed before their log */
    atomic_store(&l->stopping, true);
    if (l->has_keeper) {
        pthread_mutex_lock(&l->keeper_lock);
        pthread_cond_broadcast(&l->keeper_wake);
        pthread_mutex_unlock(&l->keeper_lock);
        pthread_join(l->keeper, NULL);
    }
    if (l->has_pump) pthread_join(l->pump, NULL);
    kafka_book_free(l->book);
    if (l->control) rd_kafka_destroy(l->control);
    if (l->producer) give_up(l->producer, OLD_PRODUCER_MS);
    producer_free(l->producer, l->topics, l->meta, l->leases);
    pthread_cond_destroy(&l->keeper_wake);
    pthread_mutex_destroy(&l->keeper_lock);
    pthread_mutex_destroy(&l->ends_lock);
    pthread_mutex_destroy(&l->trouble_lock);
    pthread_mutex_destroy(&l->book_lock);
    pthread_rwlock_destroy(&l->producer_lock);
    mem_free(l->brokers);
    mem_free(l->properties);
    mem_free(l);
}

static int parse_url(struct kafka_log *l, const char *url, struct error *err) {
    struct span rest = span_skip(span_str(url), strlen("kafka://"));
    if (span_ends(rest, SPAN("/"))) rest.len--;
    if (span_empty(rest) || strcspn(rest.data, "@/? ") < rest.len)
        return error_set(err, E_INVALID, "a log on Kafka is kafka://HOST:PORT,HOST:PORT… and nothing else; users and passwords are sasl.* in log_properties");
    l->brokers = span_dup(rest);
    return l->brokers ? 0 : error_set(err, E_NOMEM, "no memory for the log");
}

static int kafka_open(struct eventlog *log, const struct eventlog_config *c, void **state, struct error *err) {
    struct kafka_log *l = mem_zalloc(sizeof *l);
    if (!l) return error_set(err, E_NOMEM, "no memory for the log");
    l->log = log;
    l->publish_timeout_ms = c->publish_timeout_ms;
    l->compact_lag_ms = COMPACT_LAG_MS;
    atomic_init(&l->healthy, true);
    pthread_rwlock_init(&l->producer_lock, NULL);
    pthread_mutex_init(&l->keeper_lock, NULL);
    pthread_mutex_init(&l->ends_lock, NULL);
    pthread_mutex_init(&l->trouble_lock, NULL);
    pthread_mutex_init(&l->book_lock, NULL);
    cond_init_monotonic(&l->keeper_wake);
    for (int t = 0; t < TOPIC_COUNT; t++) ASSERT(topic_info((enum topic)t)->partitions <= KAFKA_PARTITIONS_MAX);
#if defined(__SANITIZE_THREAD__)
    ASSERT(kafka_tsan_threads);
#endif
    int r = parse_url(l, c->url, err);
    if (r == 0 && c->properties && !(l->properties = mem_strdup(c->properties))) r = error_set(err, E_NOMEM, "no memory for the log");
    if (r == 0 && l->properties) r = eventlog_properties(l->properties, l, on_log_property, err);
    if (r == 0) r = producer_new(l, err);
    if (r == 0) r = kafka_client_new(l, KAFKA_READER, NULL, NULL, NULL, &l->control, err);
    if (r == 0) r = make_topics(l, err);
    if (r == 0 && !l->unchecked) r = check_configs(l, err);
    if (r == 0 && !(l->has_pump = pthread_create(&l->pump, NULL, pump_main, l) == 0)) r = error_set(err, E_NOMEM, "no thread for the log");
    if (r == 0) r = find_identity(l, err);
    if (r == 0 && !(l->has_keeper = pthread_create(&l->keeper, NULL, keeper_main, l) == 0)) r = error_set(err, E_NOMEM, "no thread for the log");
    if (r != 0) {
        kafka_close(l);
        return r;
    }
    *state = l;
    return 0;
}

static const char *const schemes[] = {"kafka://", NULL};
const struct eventlog_backend eventlog_kafka = {
    .schemes = schemes,
    .open = kafka_open,
    .close = kafka_close,
    .healthy = kafka_healthy,
    .identity = kafka_identity,
    .submit = kafka_submit,
    .group_open = kafka_group_open,
    .group_poll = kafka_group_poll,
    .group_commit = kafka_group_commit,
    .group_rewind = kafka_group_rewind,
    .group_lag = kafka_group_lag,
    .group_close = kafka_group_close,
    .view_open = kafka_view_open,
    .view_poll = kafka_view_poll,
    .view_caught_up = kafka_view_caught_up,
    .view_close = kafka_view_close,
    .ends = kafka_ends,
    .lease_open = kafka_lease_open,
    .lease_poll = kafka_lease_poll,
    .lease_close = kafka_lease_close,
};
