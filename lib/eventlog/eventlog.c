#include "eventlog/eventlog.h"

#include "base/alloc.h"
#include "base/metrics.h"
#include "base/sha256.h"
#include "eventlog/backend.h"
#include "genloop/v1/governance.pb-c.h"

enum { PUBLISH_TIMEOUT_MS = 30000, DEAD_LETTER_VALUE_MAX = 64 * 1024 };
static const int64_t TIME_MAX_MS = INT64_C(253402300799999); /* the last instant of the year 9999, where RFC 3339 ends */

struct eventlog {
    const struct eventlog_backend *backend;
    void *state;
    char *source;
    int64_t publish_timeout_ms;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* something was published, and so there is room, or an end */
    int waiting;            /* publications not done */
    size_t waiting_bytes;
    struct metric *published[TOPIC_COUNT], *failed[TOPIC_COUNT], *consumed[TOPIC_COUNT], *seconds, *queue;
};
struct eventlog_group {
    struct eventlog *log;
    void *state;
    char name[EVENTLOG_GROUP_NAME_MAX + 1];
};
struct eventlog_view {
    struct eventlog *log;
    void *state;
};
struct eventlog_lease {
    struct eventlog *log;
    void *state;
};

void cond_init_monotonic(pthread_cond_t *c) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    ASSERT(pthread_cond_init(c, &attr) == 0);
    pthread_condattr_destroy(&attr);
}

void cond_wait_ms(pthread_cond_t *c, pthread_mutex_t *m, int64_t ms) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    if (ms < 0) ms = 0;
    at.tv_sec += ms / 1000;
    at.tv_nsec += ms % 1000 * 1000000;
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    (void)pthread_cond_timedwait(c, m, &at);
}

/* ---- open and close ---- */

static const struct eventlog_backend *backend_of(const char *url) {
    static const struct eventlog_backend *const backends[] = {&eventlog_redis, &eventlog_kafka};
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++)
        for (const char *const *scheme = backends[i]->schemes; *scheme; scheme++)
            if (span_starts(span_str(url), span_str(*scheme))) return backends[i];
    return NULL;
}

int eventlog_properties(const char *text, void *arg, int (*on_property)(void *arg, struct span key, struct span value, struct error *err), struct error *err) {
    struct span rest = span_str(text), line;
    while (span_cut(&rest, '\n', &line)) {
        line = span_trim(line);
        if (span_empty(line) || line.data[0] == '#') continue;
        ptrdiff_t equals = span_find_char(line, '=');
        if (equals <= 0) return error_set(err, E_INVALID, "the log's properties are lines of key=value");
        int r = on_property(arg, span_trim(span_sub(line, 0, (size_t)equals)), span_trim(span_skip(line, (size_t)equals + 1)), err);
        if (r != 0) return r;
    }
    return 0;
}

static void register_metrics(struct eventlog *log) {
    for (int t = 0; t < TOPIC_COUNT; t++) {
        char label[80];
        snprintf(label, sizeof label, "topic=\"%s\"", topic_info((enum topic)t)->name);
        log->published[t] = metric_counter("genloop_eventlog_published_total", label, "Events whose publication was acknowledged.");
        log->failed[t] = metric_counter("genloop_eventlog_publish_failed_total", label, "Events whose publication was not acknowledged.");
        log->consumed[t] = metric_counter("genloop_eventlog_consumed_total", label, "Events that groups and views of this process were given.");
    }
    log->seconds = metric_histogram("genloop_eventlog_publish_seconds", "", "From the call to the acknowledgement.", METRIC_SECONDS_BOUNDS,
                                    METRIC_SECONDS_BOUNDS_COUNT);
    log->queue = metric_gauge("genloop_eventlog_publish_queue", "", "Events that wait for their acknowledgement.");
}

struct metric *eventlog_lag_metric(const char *group) {
    char label[EVENTLOG_GROUP_NAME_MAX + 16];
    snprintf(label, sizeof label, "group=\"%s\"", group);
    return metric_gauge("genloop_eventlog_lag", label, "Events behind the committed position of a consumer group.");
}

int eventlog_open(const struct eventlog_config *c, struct eventlog **out, struct error *err) {
    const struct eventlog_backend *backend = backend_of(c->url ? c->url : "");
    if (!backend) return error_set(err, E_INVALID, "a log is kafka://HOST:PORT,…, redis+unix:PATH or redis://HOST:PORT, not \"%.100s\"", c->url ? c->url : "");
    if (c->publish_timeout_ms < 0 || (c->source && strlen(c->source) > EVENT_HEADER_MAX)) return error_set(err, E_INVALID, "the log's settings are out of range");
    struct eventlog *log = mem_zalloc(sizeof *log);
    char *source = mem_strdup(c->source ? c->source : "/genloop");
    if (!log || !source) {
        mem_free(log);
        mem_free(source);
        return error_set(err, E_NOMEM, "no memory for the log");
    }
    log->backend = backend;
    log->source = source;
    log->publish_timeout_ms = c->publish_timeout_ms ? c->publish_timeout_ms : PUBLISH_TIMEOUT_MS;
    pthread_mutex_init(&log->lock, NULL);
    cond_init_monotonic(&log->changed);
    register_metrics(log);
    struct eventlog_config complete = *c;
    complete.publish_timeout_ms = log->publish_timeout_ms;
    int r = backend->open(log, &complete, &log->state, err);
    if (r != 0) {
        eventlog_close(log);
        return r;
    }
    *out = log;
    return 0;
}

void eventlog_close(struct eventlog *log) {
    if (!log) return;
    if (log->state) {
        int64_t deadline = clock_mono_ms() + log->publish_timeout_ms;
        pthread_mutex_lock(&log->lock);
        while (log->waiting > 0 && clock_mono_ms() < deadline) cond_wait_ms(&log->changed, &log->lock, deadline - clock_mono_ms());
        pthread_mutex_unlock(&log->lock);
        log->backend->close(log->state);
    }
    pthread_cond_destroy(&log->changed);
    pthread_mutex_destroy(&log->lock);
    mem_free(log->source);
    mem_free(log);
}

void *eventlog_backend_state(struct eventlog *log) { return log->state; }
const char *eventlog_identity(struct eventlog *log) { return log->backend->identity(log->state); }
bool eventlog_healthy(struct eventlog *log) { return log->backend->healthy(log->state); }

/* ---- publishing ---- */

static int check(const struct event *e, struct error *err) {
    if ((unsigned)e->topic >= TOPIC_COUNT) return error_set(err, E_INVALID, "there is no topic %d", (int)e->topic);
    const struct topic_info *t = topic_info(e->topic);
    if (e->value.len > EVENT_VALUE_MAX)
        return error_set(err, E_TOO_LARGE, "an event of %zu bytes for %s: the most is %d; bytes belong in the store", e->value.len, t->name, EVENT_VALUE_MAX);
    if (e->key.len > EVENT_KEY_MAX) return error_set(err, E_TOO_LARGE, "a key of %zu bytes for %s: the most is %d", e->key.len, t->name, EVENT_KEY_MAX);
    if (t->cleanup == TOPIC_COMPACTED && span_empty(e->key)) return error_set(err, E_INVALID, "an event without a key for %s, which keeps the newest of each key", t->name);
    if (e->id.len > EVENT_ID_MAX) return error_set(err, E_TOO_LARGE, "an event id of %zu bytes: the most is %d", e->id.len, EVENT_ID_MAX);
    const struct span headers[] = {e->source, e->type, e->subject, e->content_type, e->traceparent};
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++)
        if (headers[i].len > EVENT_HEADER_MAX) return error_set(err, E_TOO_LARGE, "an event header of %zu bytes: the most is %d", headers[i].len, EVENT_HEADER_MAX);
    if (e->time_ms < 0 || e->time_ms > TIME_MAX_MS) return error_set(err, E_INVALID, "an event's time is between 1970 and 9999");
    return 0;
}

static struct span take(char **at, struct span s) {
    struct span copy = {*at, s.len};
    if (s.len > 0) memcpy(*at, s.data, s.len);
    *at += s.len;
    return copy;
}

/* A copy with every default filled in; NULL without memory. */
static struct publication *publication_new(struct eventlog *log, const struct event *e) {
    struct span source = span_empty(e->source) ? span_str(log->source) : e->source;
    struct span type = span_empty(e->type) ? span_str(topic_info(e->topic)->type) : e->type;
    struct span content_type = span_empty(e->content_type) ? SPAN("application/protobuf") : e->content_type;
    size_t size = e->key.len + e->value.len + e->id.len + source.len + type.len + e->subject.len + content_type.len + e->traceparent.len;
    struct publication *p = mem_alloc(sizeof *p + size); /* each length was checked: no overflow */
    if (!p) return NULL;
    memset(p, 0, sizeof *p);
    char *at = p->bytes;
    p->size = sizeof *p + size;
    p->event.topic = e->topic;
    p->event.time_ms = e->time_ms ? e->time_ms : clock_wall_ms();
    p->event.key = take(&at, e->key);
    p->event.value = take(&at, e->value);
    p->event.id = span_empty(e->id) ? span_str(id_make(p->id)) : take(&at, e->id);
    p->event.source = take(&at, source);
    p->event.type = take(&at, type);
    p->event.subject = take(&at, e->subject);
    p->event.content_type = take(&at, content_type);
    p->event.traceparent = take(&at, e->traceparent);
    p->begun_us = clock_mono_us();
    p->deadline_ms = clock_mono_ms() + log->publish_timeout_ms;
    return p;
}

/* Counts p among those that wait. wait: until there is room, to its deadline. */
static int admit(struct eventlog *log, struct publication *p, bool wait) {
    int r = 0;
    pthread_mutex_lock(&log->lock);
    while (log->waiting >= EVENTLOG_QUEUE_MAX || log->waiting_bytes + p->size > EVENTLOG_QUEUE_BYTES_MAX) {
        int64_t left = p->deadline_ms - clock_mono_ms();
        if (!wait || left <= 0) {
            r = E_FULL;
            break;
        }
        cond_wait_ms(&log->changed, &log->lock, left);
    }
    if (r == 0) {
        log->waiting++;
        log->waiting_bytes += p->size;
    }
    pthread_mutex_unlock(&log->lock);
    if (r == 0) metric_add(log->queue, 1);
    return r;
}

void eventlog_published(struct eventlog *log, struct publication *p, int r, const char *message) {
    metric_add(r == 0 ? log->published[p->event.topic] : log->failed[p->event.topic], 1);
    metric_add(log->queue, -1);
    if (r == 0) metric_observe(log->seconds, (double)(clock_mono_us() - p->begun_us) / 1e6);
    if (r != 0 && p->err) error_set(p->err, r, "%s was not published: %s", topic_info(p->event.topic)->name, message ? message : "no reason known");
    if (p->on_done) p->on_done(p->arg, r);
    pthread_mutex_lock(&log->lock);
    log->waiting--;
    log->waiting_bytes -= p->size;
    pthread_cond_broadcast(&log->changed);
    pthread_mutex_unlock(&log->lock);
    mem_free(p);
}

int eventlog_publish_async(struct eventlog *log, const struct event *e, void *arg, void (*on_done)(void *arg, int r)) {
    int r = check(e, NULL);
    if (r != 0) return r;
    struct publication *p = publication_new(log, e);
    if (!p) return E_NOMEM;
    p->arg = arg;
    p->on_done = on_done;
    r = admit(log, p, false);
    if (r != 0) {
        mem_free(p);
        return r;
    }
    log->backend->submit(log->state, p);
    return 0;
}

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool is_done;
    int r;
};

static void wake(void *arg, int r) {
    struct waiter *w = arg;
    pthread_mutex_lock(&w->lock);
    w->r = r;
    w->is_done = true;
    pthread_cond_signal(&w->done); /* under the lock: the waiter's stack is gone right after */
    pthread_mutex_unlock(&w->lock);
}

int eventlog_publish(struct eventlog *log, const struct event *e, struct error *err) {
    int r = check(e, err);
    if (r != 0) return r;
    struct publication *p = publication_new(log, e);
    if (!p) return error_set(err, E_NOMEM, "no memory for an event");
    struct waiter w = {.is_done = false};
    p->arg = &w;
    p->on_done = wake;
    p->err = err;
    r = admit(log, p, true);
    if (r != 0) {
        mem_free(p);
        return error_set(err, r, "%d events wait for the log", EVENTLOG_QUEUE_MAX);
    }
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.done, NULL);
    log->backend->submit(log->state, p);
    pthread_mutex_lock(&w.lock);
    while (!w.is_done) pthread_cond_wait(&w.done, &w.lock); /* a backend ends each publication at its deadline */
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.done);
    pthread_mutex_destroy(&w.lock);
    return w.r;
}

/* ---- dead letters ---- */

static ProtobufCBinaryData bytes_of(struct span s) { return (ProtobufCBinaryData){s.len, (uint8_t *)(uintptr_t)s.data}; }

int eventlog_dead_letter(struct eventlog *log, const struct event *e, const char *group, const char *reason, struct error *err) {
    if (e->topic == TOPIC_DEAD_LETTERS) return 0; /* it lies there already */
    const struct topic_info *t = topic_info(e->topic);
    char place[160], id[EVENT_ID_MAX + 1], full[160 + EVENTLOG_GROUP_NAME_MAX + 2], time_text[TIME_TEXT_MAX], hex[SHA256_HEX_MAX];
    snprintf(place, sizeof place, "%s/%d/%s", t->name, e->partition, e->offset);
    snprintf(full, sizeof full, "%s/%.*s", place, EVENTLOG_GROUP_NAME_MAX, group);
    span_copy(id, sizeof id, span_str(strlen(full) <= EVENT_ID_MAX ? full : sha256_hex(span_str(full), hex)));

    struct span values[EVENT_HEADERS];
    event_headers(e, time_text, values);
    char texts[EVENT_HEADERS][EVENT_HEADER_MAX + 1], names[EVENT_HEADERS][16];
    Genloop__V1__DeadLetter__HeadersEntry entries[EVENT_HEADERS], *list[EVENT_HEADERS];
    size_t n = 0;
    for (int i = 0; i < EVENT_HEADERS; i++) {
        if (span_empty(values[i]) || !span_is_utf8(values[i])) continue; /* a protobuf string is UTF-8; the rest of the event still tells */
        genloop__v1__dead_letter__headers_entry__init(&entries[n]);
        entries[n].key = span_copy(names[n], sizeof names[n], span_str(event_header_names[i]));
        entries[n].value = span_copy(texts[n], sizeof texts[n], values[i]);
        list[n] = &entries[n];
        n++;
    }
    char topic[64], offset[EVENT_OFFSET_MAX], content_type[EVENT_HEADER_MAX + 1], group_text[EVENTLOG_GROUP_NAME_MAX + 1], why[1024];
    span_copy(why, sizeof why, span_sub(span_str(reason), 0, sizeof why - 1));
    why[span_utf8_complete(span_str(why))] = '\0';
    Genloop__V1__DeadLetter letter;
    genloop__v1__dead_letter__init(&letter);
    letter.id = place;
    letter.topic = span_copy(topic, sizeof topic, span_str(t->name));
    letter.partition = (uint32_t)e->partition;
    letter.offset = span_copy(offset, sizeof offset, span_str(e->offset));
    letter.group = span_copy(group_text, sizeof group_text, span_str(group));
    letter.reason = why;
    letter.event_time_ms = clock_wall_ms();
    letter.key = bytes_of(e->key);
    letter.value = bytes_of(span_sub(e->value, 0, DEAD_LETTER_VALUE_MAX));
    letter.content_type = span_copy(content_type, sizeof content_type, span_is_utf8(e->content_type) ? e->content_type : SPAN(""));
    letter.headers = list;
    letter.n_headers = n;
    letter.attempts = e->deliveries > 0 ? (uint32_t)e->deliveries : 1;

    size_t size = genloop__v1__dead_letter__get_packed_size(&letter);
    uint8_t *packed = mem_alloc(size);
    if (!packed) return error_set(err, E_NOMEM, "no memory for a dead letter");
    genloop__v1__dead_letter__pack(&letter, packed);
    struct event dead = {.topic = TOPIC_DEAD_LETTERS, .key = span_sub(e->key, 0, EVENT_KEY_MAX), .value = span_of(packed, size), .id = span_str(id), .subject = span_str(topic)};
    int r = eventlog_publish(log, &dead, err);
    mem_free(packed);
    return r;
}

/* ---- groups ---- */

static int check_topics(const enum topic *topics, int n, struct error *err) {
    bool seen[TOPIC_COUNT] = {false};
    if (n < 1 || n > TOPIC_COUNT) return error_set(err, E_INVALID, "a reader has 1 to %d topics", TOPIC_COUNT);
    for (int i = 0; i < n; i++) {
        if ((unsigned)topics[i] >= TOPIC_COUNT || seen[topics[i]]) return error_set(err, E_INVALID, "a reader's topics are some of the table's, each once");
        seen[topics[i]] = true;
    }
    return 0;
}

/* Names end up in keys, labels and other people's tools. */
static bool name_ok(const char *s) {
    size_t len = s ? strlen(s) : 0;
    return len > 0 && len <= EVENTLOG_GROUP_NAME_MAX && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len;
}

int eventlog_group_open(struct eventlog *log, const char *group, const char *member, const enum topic *topics, int n,
                        const struct eventlog_group_events *events, void *arg, struct eventlog_group **out, struct error *err) {
    int r = check_topics(topics, n, err);
    if (r != 0) return r;
    if (!name_ok(group) || !name_ok(member)) return error_set(err, E_INVALID, "groups and members are named by up to %d of A-Z a-z 0-9 . _ -", EVENTLOG_GROUP_NAME_MAX);
    struct eventlog_group *g = mem_zalloc(sizeof *g);
    if (!g) return error_set(err, E_NOMEM, "no memory for a consumer group");
    g->log = log;
    span_copy(g->name, sizeof g->name, span_str(group));
    r = log->backend->group_open(log->state, group, member, topics, n, events, arg, &g->state, err);
    if (r != 0) {
        mem_free(g);
        return r;
    }
    *out = g;
    return 0;
}

int eventlog_group_poll(struct eventlog_group *g, int64_t timeout_ms, struct event *e, struct error *err) {
    int r = g->log->backend->group_poll(g->state, timeout_ms, e, err);
    if (r == 0) metric_add(g->log->consumed[e->topic], 1);
    return r;
}

int eventlog_group_commit(struct eventlog_group *g, const struct event *e, struct error *err) { return g->log->backend->group_commit(g->state, e, err); }
int eventlog_group_rewind(struct eventlog_group *g, const struct event *e, struct error *err) { return g->log->backend->group_rewind(g->state, e, err); }

int eventlog_group_dead_letter(struct eventlog_group *g, const struct event *e, const char *reason, struct error *err) {
    int r = eventlog_dead_letter(g->log, e, g->name, reason, err);
    return r == 0 ? eventlog_group_commit(g, e, err) : r;
}

int64_t eventlog_group_lag(struct eventlog_group *g) { return g->log->backend->group_lag(g->state); }

void eventlog_group_close(struct eventlog_group *g) {
    if (!g) return;
    g->log->backend->group_close(g->state);
    mem_free(g);
}

/* ---- views ---- */

int eventlog_view_open(struct eventlog *log, const enum topic *topics, int n, const struct eventlog_position *from, int n_from,
                       struct eventlog_view **out, struct error *err) {
    int r = check_topics(topics, n, err);
    if (r != 0) return r;
    struct eventlog_view *v = mem_zalloc(sizeof *v);
    if (!v) return error_set(err, E_NOMEM, "no memory for a view of the log");
    v->log = log;
    r = log->backend->view_open(log->state, topics, n, from, n_from, &v->state, err);
    if (r != 0) {
        mem_free(v);
        return r;
    }
    *out = v;
    return 0;
}

int eventlog_view_poll(struct eventlog_view *v, int64_t timeout_ms, struct event *e, struct error *err) {
    int r = v->log->backend->view_poll(v->state, timeout_ms, e, err);
    if (r == 0) metric_add(v->log->consumed[e->topic], 1);
    return r;
}

bool eventlog_view_caught_up(struct eventlog_view *v) { return v->log->backend->view_caught_up(v->state); }

void eventlog_view_close(struct eventlog_view *v) {
    if (!v) return;
    v->log->backend->view_close(v->state);
    mem_free(v);
}

int eventlog_ends(struct eventlog *log, const enum topic *topics, int n, struct eventlog_position ends[EVENTLOG_PARTITIONS_MAX], int *n_ends, struct error *err) {
    int r = check_topics(topics, n, err);
    return r == 0 ? log->backend->ends(log->state, topics, n, ends, n_ends, err) : r;
}

/* ---- leases ---- */

int eventlog_lease_open(struct eventlog *log, const char *name, const char *holder, int64_t ttl_ms, struct eventlog_lease **out, struct error *err) {
    if (!name_ok(name) || !name_ok(holder)) return error_set(err, E_INVALID, "leases and holders are named by up to %d of A-Z a-z 0-9 . _ -", EVENTLOG_GROUP_NAME_MAX);
    if (ttl_ms < 100 || ttl_ms > 10 * 60 * 1000) return error_set(err, E_INVALID, "a lease lasts 100 ms to 10 minutes");
    struct eventlog_lease *l = mem_zalloc(sizeof *l);
    if (!l) return error_set(err, E_NOMEM, "no memory for a lease");
    l->log = log;
    int r = log->backend->lease_open(log->state, name, holder, ttl_ms, &l->state, err);
    if (r != 0) {
        mem_free(l);
        return r;
    }
    *out = l;
    return 0;
}

int eventlog_lease_poll(struct eventlog_lease *l, uint64_t *epoch, struct error *err) { return l->log->backend->lease_poll(l->state, epoch, err); }

void eventlog_lease_close(struct eventlog_lease *l) {
    if (!l) return;
    l->log->backend->lease_close(l->state);
    mem_free(l);
}
