/*
 * The event log on Redis Streams, for one machine. Two threads per process: the writer turns what many threads publish into one script and one
 * fsync at a time; the keeper gives signs of life for groups whose reader is busy with an effect, trims and measures.
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "base/metrics.h"
#include "eventlog/redis_internal.h"

enum {
    OPEN_TIMEOUT_MS = 10000,
    PRODUCER_LIFE_MS = 3600 * 1000, /* a batch is retried for its events' publish timeout at most: minutes */
    COMPACT_LAG_MS = 24 * 3600 * 1000, /* as Kafka keeps tombstones: whoever reads at least once a day sees every change */
};

struct redis_lease {
    struct redis *conn;
    char key[GROUP_KEY_MAX], holder[EVENTLOG_GROUP_NAME_MAX + 1], session[ID_TEXT_MAX], ttl[24];
    bool had_it;
};

/* ---- the writer ---- */

static struct publication *take_batch(struct redis_log *l, int *n) {
    struct publication *first = NULL, **tail = &first;
    size_t bytes = 0;
    *n = 0;
    pthread_mutex_lock(&l->lock);
    while (!l->head && !l->stopping) pthread_cond_wait(&l->queued, &l->lock);
    while (l->head && *n < BATCH_EVENTS_MAX && (*n == 0 || bytes + l->head->size <= BATCH_BYTES_MAX)) {
        struct publication *p = l->head;
        l->head = p->next;
        if (!l->head) l->tail = &l->head;
        p->next = NULL;
        *tail = p;
        tail = &p->next;
        bytes += p->size;
        ++*n;
    }
    pthread_mutex_unlock(&l->lock);
    return first;
}

static struct span batch_words(struct redis_log *l, const struct publication *p, struct span *words, const struct span *keep_texts) {
    const struct event *e = &p->event;
    const struct topic_info *t = topic_info(e->topic);
    words[0] = span_str(l->streams[e->topic][e->partition]);
    words[1] = t->cleanup == TOPIC_COMPACTED ? SPAN("c") : t->cleanup == TOPIC_EXPIRES ? SPAN("e") : SPAN("w");
    words[2] = keep_texts[e->topic];
    words[3] = e->key;
    words[4] = e->value;
    event_headers(e, ((struct publication *)(uintptr_t)p)->time_text, words + 5);
    return words[0];
}

/* One attempt. The script runs a numbered batch once, however often it is sent. */
static int send_batch(struct redis_log *l, struct redis *conn, const struct publication *first, struct span *words, const struct span *keep_texts, struct error *err) {
    char number[24], life[24];
    snprintf(number, sizeof number, "%" PRIu64, l->batch_number);
    snprintf(life, sizeof life, "%d", PRODUCER_LIFE_MS);
    int n = 0;
    words[n++] = SPAN("EVAL");
    words[n++] = span_str(script_publish);
    words[n++] = SPAN("1");
    words[n++] = span_str(l->producer);
    words[n++] = span_str(number);
    words[n++] = span_str(life);
    for (const struct publication *p = first; p; p = p->next, n += BATCH_WORDS) batch_words(l, p, words + n, keep_texts);
    return redis_command(conn, n, words, NULL, err);
}

static void end_all(struct redis_log *l, struct publication *p, int r, const char *message) {
    while (p) {
        struct publication *next = p->next;
        eventlog_published(l->log, p, r, message);
        p = next;
    }
}

/* Ends those whose time is over; returns the others in order. They keep the batch's number: if the server has run it, it has run them too. */
static struct publication *end_late(struct redis_log *l, struct publication *first, const char *message) {
    int64_t now = clock_mono_ms();
    struct publication **at = &first;
    while (*at) {
        struct publication *p = *at;
        if (p->deadline_ms > now) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        eventlog_published(l->log, p, E_DEADLINE, message);
    }
    return first;
}

static bool stopping(struct redis_log *l) {
    pthread_mutex_lock(&l->lock);
    bool yes = l->stopping;
    pthread_mutex_unlock(&l->lock);
    return yes;
}

static void write_batch(struct redis_log *l, struct redis *conn, struct publication *first, struct span *words, const struct span *keep_texts) {
    l->batch_number++;
    while (first) {
        struct error why = {0};
        int r = send_batch(l, conn, first, words, keep_texts, &why);
        atomic_store(&l->writer_failing, r != 0);
        if (r == 0) {
            end_all(l, first, 0, NULL);
            return;
        }
        if (r != E_UNAVAILABLE && r != E_FULL) { /* a refusal: it would be the same the next time */
            end_all(l, first, r, why.message);
            return;
        }
        if (stopping(l)) {
            end_all(l, first, E_CANCELLED, "the log is being closed");
            return;
        }
        pthread_mutex_lock(&l->lock);
        if (!l->stopping) cond_wait_ms(&l->queued, &l->lock, RETRY_PAUSE_MS);
        pthread_mutex_unlock(&l->lock);
        first = end_late(l, first, why.message);
    }
}

static void *writer_main(void *arg) {
    struct redis_log *l = arg;
    struct redis *conn = NULL;
    struct span *words = mem_calloc(6 + (size_t)BATCH_EVENTS_MAX * BATCH_WORDS, sizeof *words);
    struct span keep_texts[TOPIC_COUNT];
    char keep[TOPIC_COUNT][24];
    for (int t = 0; t < TOPIC_COUNT; t++) {
        const struct topic_info *info = topic_info((enum topic)t);
        snprintf(keep[t], sizeof keep[t], "%" PRId64, info->cleanup == TOPIC_COMPACTED ? l->compact_lag_ms : info->retention_ms);
        keep_texts[t] = span_str(keep[t]);
    }
    bool ready = words && redis_new(l->url, REPLY_TIMEOUT_MS, &conn, NULL) == 0;
    for (;;) {
        int n;
        struct publication *first = take_batch(l, &n);
        if (n == 0) break; /* stopping, and nothing is left */
        if (ready) write_batch(l, conn, first, words, keep_texts);
        else end_all(l, first, E_NOMEM, "no memory");
    }
    redis_free(conn);
    mem_free(words);
    return NULL;
}

static void redis_submit(void *state, struct publication *p) {
    struct redis_log *l = state;
    int partitions = topic_info(p->event.topic)->partitions;
    pthread_mutex_lock(&l->lock);
    p->event.partition = (int)(span_empty(p->event.key) ? l->next_partition++ % (unsigned)partitions : span_hash(p->event.key) % (unsigned)partitions);
    p->next = NULL;
    *l->tail = p;
    l->tail = &p->next;
    pthread_cond_signal(&l->queued);
    pthread_mutex_unlock(&l->lock);
}

/* ---- the keeper ---- */

static void trim(struct redis_log *l, struct redis *conn) {
    for (int t = 0; t < TOPIC_COUNT; t++) {
        const struct topic_info *info = topic_info((enum topic)t);
        for (int p = 0; p < info->partitions; p++) {
            char text[24];
            struct span stream = span_str(l->streams[t][p]);
            if (info->cleanup == TOPIC_EXPIRES) { /* publishing trims whole nodes; this is for a topic that has fallen silent */
                snprintf(text, sizeof text, "%" PRId64, clock_wall_ms() - info->retention_ms);
                struct span words[] = {SPAN("XTRIM"), stream, SPAN("MINID"), SPAN("~"), span_str(text)};
                (void)redis_command(conn, 5, words, NULL, NULL);
            } else if (info->cleanup == TOPIC_COMPACTED) {
                snprintf(text, sizeof text, "%" PRId64, l->compact_lag_ms);
                struct span lag = span_str(text);
                (void)redis_script(conn, script_compact, &stream, 1, &lag, 1, NULL, NULL);
            }
        }
    }
}

static void *keeper_main(void *arg) {
    struct redis_log *l = arg;
    struct redis *conn = NULL;
    if (redis_new(l->url, REPLY_TIMEOUT_MS, &conn, NULL) != 0) return NULL;
    int64_t ping_at = 0, lag_at = 0, trim_at = clock_mono_ms() + TRIM_MS;
    pthread_mutex_lock(&l->keeper_lock);
    while (!l->keeper_stopping) {
        int64_t now = clock_mono_ms(), due = now + BEAT_MS;
        for (struct redis_group *g = l->groups; g; g = redis_group_next(g)) {
            if (redis_group_beat_due(g) <= now) (void)redis_group_beat(g, conn, false, NULL); /* a failure is due again at once, after the pause below */
            if (lag_at <= now) redis_group_measure(g, conn);
            if (redis_group_beat_due(g) < due) due = redis_group_beat_due(g);
        }
        if (lag_at <= now) lag_at = now + LAG_MS;
        if (ping_at <= now) {
            atomic_store(&l->healthy, redis_commandl(conn, NULL, NULL, "PING", NULL) == 0);
            ping_at = now + BEAT_MS;
        }
        if (trim_at <= now) {
            trim(l, conn);
            trim_at = now + TRIM_MS;
        }
        int64_t pause = due - clock_mono_ms();
        cond_wait_ms(&l->keeper_wake, &l->keeper_lock, pause < 2 * RETRY_PAUSE_MS ? 2 * RETRY_PAUSE_MS : pause);
    }
    pthread_mutex_unlock(&l->keeper_lock);
    redis_free(conn);
    return NULL;
}

static bool redis_healthy(void *state) {
    struct redis_log *l = state;
    return atomic_load(&l->healthy) && !atomic_load(&l->writer_failing);
}

static const char *redis_identity(void *state) { return ((struct redis_log *)state)->identity; }

/* ---- open and close ---- */

static int on_property(void *arg, struct span key, struct span value, struct error *err) {
    struct redis_log *l = arg;
    if (span_eq_str(key, "durability") && (span_eq_str(value, "unchecked") || span_eq_str(value, "checked"))) {
        l->unchecked = span_eq_str(value, "unchecked");
        return 0;
    }
    int64_t ms;
    if (span_eq_str(key, "compact.lag.ms") && span_to_i64(value, &ms) == 0 && ms >= 0) {
        l->compact_lag_ms = ms;
        return 0;
    }
    return error_set(err, E_INVALID, "the log on Redis knows durability=checked|unchecked and compact.lag.ms=N, not \"%.*s=%.*s\"", SPAN_ARG(span_sub(key, 0, 80)),
                     SPAN_ARG(span_sub(value, 0, 80)));
}

static struct span setting(const struct redis_reply *pairs, const char *name) {
    for (size_t i = 0; i + 1 < redis_size(pairs); i += 2)
        if (span_eq_str(redis_str(redis_at(pairs, i)), name)) return redis_str(redis_at(pairs, i + 1));
    return SPAN("");
}

/* An acknowledgement is a promise that the server has to keep: refuse one that does not. */
static int check_server(struct redis_log *l, struct redis *conn, struct error *err) {
    struct redis_reply *reply = NULL;
    int r = redis_commandl(conn, &reply, err, "INFO", "server", NULL);
    if (r != 0) return r;
    ptrdiff_t at = span_find(redis_str(reply), SPAN("redis_version:"));
    struct span version = span_skip(redis_str(reply), at < 0 ? SIZE_MAX : (size_t)at + strlen("redis_version:")), major;
    int64_t number = 0;
    if (!span_cut(&version, '.', &major) || span_to_i64(major, &number) != 0 || number < 7) r = error_set(err, E_UNSUPPORTED, "the log needs Redis 7 or newer");
    redis_reply_free(reply);
    if (r != 0 || l->unchecked) return r;
    reply = NULL;
    r = redis_commandl(conn, &reply, err, "CONFIG", "GET", "appendonly", "appendfsync", "maxmemory", "maxmemory-policy", NULL);
    if (r == E_UNKNOWN) r = error_set(err, E_STATE, "this Redis does not tell whether it is durable; set durability=unchecked in log_properties if you know that it is");
    if (r != 0) return r;
    if (!span_eq_str(setting(reply, "appendonly"), "yes") || !span_eq_str(setting(reply, "appendfsync"), "always"))
        r = error_set(err, E_STATE, "the Redis of the log must run with appendonly yes and appendfsync always, or what was acknowledged could be lost");
    else if (!span_eq_str(setting(reply, "maxmemory"), "0") && !span_eq_str(setting(reply, "maxmemory-policy"), "noeviction"))
        r = error_set(err, E_STATE, "the Redis of the log must run with maxmemory-policy noeviction, or it would drop facts");
    redis_reply_free(reply);
    return r;
}

static int check_format(struct redis_log *l, struct redis *conn, struct error *err) {
    char id[ID_TEXT_MAX];
    struct redis_reply *reply = NULL;
    int r = redis_commandl(conn, NULL, err, "SET", "genloop:log:format", "1", "NX", NULL);
    if (r == 0) r = redis_commandl(conn, NULL, err, "SET", "genloop:log:id", id_make(id), "NX", NULL);
    if (r == 0) r = redis_commandl(conn, &reply, err, "MGET", "genloop:log:format", "genloop:log:id", NULL);
    if (r != 0) return r;
    struct span format = redis_str(redis_at(reply, 0));
    if (!span_eq_str(format, "1")) r = error_set(err, E_UNSUPPORTED, "the log has format %.*s; this version knows 1", SPAN_ARG(span_sub(format, 0, 20)));
    span_copy(l->identity, sizeof l->identity, redis_str(redis_at(reply, 1)));
    redis_reply_free(reply);
    return r;
}

static int first_contact(struct redis_log *l, struct error *err) {
    int64_t deadline = clock_mono_ms() + OPEN_TIMEOUT_MS;
    for (;;) {
        int r = check_server(l, l->control, err);
        if (r == 0) r = check_format(l, l->control, err);
        if (r != E_UNAVAILABLE || clock_mono_ms() >= deadline) return r;
        struct timespec pause = {0, RETRY_PAUSE_MS * 1000000L};
        nanosleep(&pause, NULL);
    }
}

static void redis_close(void *state) {
    struct redis_log *l = state;
    ASSERT(l->groups == NULL); /* readers are closed before their log */
    if (l->has_writer) {
        pthread_mutex_lock(&l->lock);
        l->stopping = true;
        pthread_cond_broadcast(&l->queued);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->writer, NULL);
    }
    if (l->has_keeper) {
        pthread_mutex_lock(&l->keeper_lock);
        l->keeper_stopping = true;
        pthread_cond_broadcast(&l->keeper_wake);
        pthread_mutex_unlock(&l->keeper_lock);
        pthread_join(l->keeper, NULL);
    }
    pthread_cond_destroy(&l->queued);
    pthread_cond_destroy(&l->keeper_wake);
    pthread_mutex_destroy(&l->lock);
    pthread_mutex_destroy(&l->keeper_lock);
    pthread_mutex_destroy(&l->control_lock);
    redis_free(l->control);
    mem_free(l->url);
    mem_free(l);
}

static int redis_open(struct eventlog *log, const struct eventlog_config *c, void **state, struct error *err) {
    struct redis_log *l = mem_zalloc(sizeof *l);
    if (!l) return error_set(err, E_NOMEM, "no memory for the log");
    l->log = log;
    l->tail = &l->head;
    l->compact_lag_ms = COMPACT_LAG_MS;
    char id[ID_TEXT_MAX];
    snprintf(l->producer, sizeof l->producer, "genloop:log:producer:%s", id_make(id));
    for (int t = 0; t < TOPIC_COUNT; t++) {
        const struct topic_info *info = topic_info((enum topic)t);
        ASSERT(info->partitions <= PARTITIONS_MAX);
        for (int p = 0; p < info->partitions; p++) snprintf(l->streams[t][p], STREAM_NAME_MAX, "%s:%d", info->name, p);
    }
    pthread_mutex_init(&l->lock, NULL);
    pthread_mutex_init(&l->keeper_lock, NULL);
    cond_init_monotonic(&l->queued);
    cond_init_monotonic(&l->keeper_wake);
    atomic_init(&l->healthy, true);
    l->url = mem_strdup(c->url);
    pthread_mutex_init(&l->control_lock, NULL);
    int r = l->url ? eventlog_properties(c->properties, l, on_property, err) : error_set(err, E_NOMEM, "no memory for the log");
    if (r == 0) r = redis_new(l->url, REPLY_TIMEOUT_MS, &l->control, err);
    if (r == 0) r = first_contact(l, err);
    if (r == 0 && !(l->has_writer = pthread_create(&l->writer, NULL, writer_main, l) == 0)) r = error_set(err, E_NOMEM, "no thread for the log");
    if (r == 0 && !(l->has_keeper = pthread_create(&l->keeper, NULL, keeper_main, l) == 0)) r = error_set(err, E_NOMEM, "no thread for the log");
    if (r != 0) {
        redis_close(l);
        return r;
    }
    *state = l;
    return 0;
}

/* ---- the lease ---- */

static int redis_lease_open(void *state, const char *name, const char *holder, int64_t ttl_ms, void **out, struct error *err) {
    struct redis_log *log = state;
    struct redis_lease *l = mem_zalloc(sizeof *l);
    if (!l) return error_set(err, E_NOMEM, "no memory for a lease");
    snprintf(l->key, sizeof l->key, "genloop:log:lease:%s", name);
    span_copy(l->holder, sizeof l->holder, span_str(holder));
    snprintf(l->ttl, sizeof l->ttl, "%" PRId64, ttl_ms);
    id_make(l->session);
    /* An answer that takes a third of the lease is as good as none: the caller must be told in time. */
    int64_t timeout = ttl_ms / 3 < 100 ? 100 : ttl_ms / 3 > REPLY_TIMEOUT_MS ? REPLY_TIMEOUT_MS : ttl_ms / 3;
    int r = redis_new(log->url, timeout, &l->conn, err);
    if (r != 0) {
        mem_free(l);
        return r;
    }
    *out = l;
    return 0;
}

static int lease_call(struct redis_lease *l, bool let_go, int64_t *epoch, struct error *err) {
    struct span key = span_str(l->key);
    /* Only before it was ever ours may it be taken from our name: of two that live under one name the newer wins, once. */
    struct span args[] = {span_str(l->holder), span_str(l->session), span_str(l->ttl), l->had_it ? SPAN("0") : SPAN("1"), let_go ? SPAN("1") : SPAN("0")};
    struct redis_reply *reply = NULL;
    int r = redis_script(l->conn, script_lease, &key, 1, args, 5, &reply, err);
    if (r == 0) *epoch = redis_int(reply);
    redis_reply_free(reply);
    return r;
}

static int redis_lease_poll(void *lease, uint64_t *epoch, struct error *err) {
    struct redis_lease *l = lease;
    int64_t got = 0;
    int r = lease_call(l, false, &got, err);
    if (r == E_UNAVAILABLE) r = lease_call(l, false, &got, err); /* a connection that broke long ago is found out only now */
    if (r != 0) return r;
    if (got <= 0) return error_set(err, E_AGAIN, "another holds the lease");
    l->had_it = true;
    *epoch = (uint64_t)got;
    return 0;
}

static void redis_lease_close(void *lease) {
    struct redis_lease *l = lease;
    int64_t ignored;
    if (l->had_it) (void)lease_call(l, true, &ignored, NULL); /* where this fails its time runs out */
    redis_free(l->conn);
    mem_free(l);
}

static const char *const schemes[] = {"redis:", "rediss:", "redis+unix:", "unix:", NULL};
const struct eventlog_backend eventlog_redis = {
    .schemes = schemes,
    .open = redis_open,
    .close = redis_close,
    .healthy = redis_healthy,
    .identity = redis_identity,
    .submit = redis_submit,
    .group_open = redis_group_open,
    .group_poll = redis_group_poll,
    .group_commit = redis_group_commit,
    .group_rewind = redis_group_rewind,
    .group_lag = redis_group_lag,
    .group_close = redis_group_close,
    .view_open = redis_view_open,
    .view_poll = redis_view_poll,
    .view_caught_up = redis_view_caught_up,
    .view_close = redis_view_close,
    .ends = redis_ends,
    .lease_open = redis_lease_open,
    .lease_poll = redis_lease_poll,
    .lease_close = redis_lease_close,
};
