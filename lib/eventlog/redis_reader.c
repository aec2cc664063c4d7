/*
 * Reading: one XREAD over all streams of a reader gives some entries of each, which are then handed out one by one. A view reads all
 * partitions; a group's member those whose lease it has.
 *
 * A partition in a member, as the reader's thread sees it ("wanted" is what the last beat said, by whichever thread):
 *
 *                wanted, script_assign            a beat that no longer names it, or names it as more than our share
 *     not ours ───────────────────────► active ─────────────────────────────────────────────────────────► not ours
 *                                                  (the latter is released first: nobody takes it before)
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "base/metrics.h"
#include "eventlog/redis_internal.h"

enum {
    SLICE_MS = 1000,           /* a waiting member looks this often whether its partitions have changed */
    READ_ENTRIES_MAX = 256, READ_BYTES = 4 * 1024 * 1024, /* of one XREAD over all its streams, the latter as far as the last one tells */
    COMMIT_TIMEOUT_MS = 30000, /* as a publication's: a restart of the server is waited out */
};

struct part {
    enum topic topic;
    int partition;
    struct span stream;
    char position[EVENT_OFFSET_MAX]; /* of the last entry handed out; XREAD goes on behind it */
    bool active;
    bool skip; /* what the current reply still has of it is old: it was rewound, or taken away */
    /* of groups: */
    bool wanted, over, delivered; /* delivered: something since it became active */
    int tries;                    /* deliveries of the next event, where it stands right behind the position; 1 afterwards */
    int64_t uncommitted;          /* entries handed out behind the committed one */
};

struct reader {
    struct redis_log *log;
    struct redis *conn;
    struct redis_reply *reply;
    size_t stream_at, entry_at;
    struct part *current; /* of the stream at stream_at */
    int count;            /* per stream in the next XREAD */
    int n;
    char id[EVENT_ID_MAX + 1];
    struct part parts[PARTS_MAX];
};

struct redis_group {
    struct reader reader;
    struct redis_log *log;
    struct redis_group *next; /* under keeper_lock */
    char name[EVENTLOG_GROUP_NAME_MAX + 1], member[EVENTLOG_GROUP_NAME_MAX + 1], session[ID_TEXT_MAX];
    char key[GROUP_KEY_MAX], owner[EVENTLOG_GROUP_NAME_MAX + ID_TEXT_MAX + 2];
    const struct eventlog_group_events *events;
    void *arg;
    struct metric *lag;
    enum topic topics[TOPIC_COUNT];
    int n_topics;
    pthread_mutex_t lock; /* of what a beat changes: parts[].wanted and .over, changed, superseded, the times */
    bool changed, superseded;
    int64_t beaten_ms; /* the last beat that the server answered */
    atomic_llong due_ms;
};

struct redis_view {
    struct reader reader;
    bool has_target;
    int64_t asked_ms; /* when target was last looked up */
    char target[PARTS_MAX][EVENT_OFFSET_MAX];
};

/* ---- what both share ---- */

static int reader_init(struct reader *r, struct redis_log *log, const enum topic *topics, int n, struct error *err) {
    r->log = log;
    r->count = 4; /* until the first reply has told how large events are */
    for (int i = 0; i < n; i++)
        for (int p = 0; p < topic_info(topics[i])->partitions; p++) {
            struct part *part = &r->parts[r->n++];
            part->topic = topics[i];
            part->partition = p;
            part->stream = span_str(log->streams[topics[i]][p]);
            part->delivered = true; /* no try to take back until assign has counted one */
            span_copy(part->position, sizeof part->position, SPAN("0-0"));
        }
    return redis_new(log->url, REPLY_TIMEOUT_MS, &r->conn, err);
}

static void reader_fini(struct reader *r) {
    redis_reply_free(r->reply);
    redis_free(r->conn);
}

static struct part *part_of_stream(struct reader *r, struct span stream) {
    for (int i = 0; i < r->n; i++)
        if (span_eq(r->parts[i].stream, stream)) return &r->parts[i];
    return NULL;
}

static struct part *part_of_event(struct reader *r, const struct event *e) {
    for (int i = 0; i < r->n; i++)
        if (r->parts[i].topic == e->topic && r->parts[i].partition == e->partition) return &r->parts[i];
    return NULL;
}

static void event_from_entry(struct reader *r, const struct part *part, const struct redis_reply *entry, struct event *e) {
    memset(e, 0, sizeof *e);
    e->topic = part->topic;
    e->partition = part->partition;
    span_copy(e->offset, sizeof e->offset, redis_str(redis_at(entry, 0)));
    struct span ms = span_str(e->offset), head;
    if (span_cut(&ms, '-', &head)) (void)span_to_i64(head, &e->time_ms); /* when it was written, where it does not say itself */
    const struct redis_reply *fields = redis_at(entry, 1);
    for (size_t i = 0; i + 1 < redis_size(fields); i += 2) {
        struct span name = redis_str(redis_at(fields, i)), value = redis_str(redis_at(fields, i + 1));
        if (span_eq_str(name, "key")) e->key = value;
        else if (span_eq_str(name, "value")) e->value = value;
        else event_take_header(e, name, value);
    }
    event_complete(e, r->id);
}

/* The next entry of the reply that is there; false when it is used up. */
static bool reader_next(struct reader *r, struct event *e) {
    for (; r->stream_at < redis_size(r->reply); r->stream_at++, r->entry_at = 0) {
        const struct redis_reply *stream = redis_at(r->reply, r->stream_at);
        if (r->entry_at == 0) r->current = part_of_stream(r, redis_str(redis_at(stream, 0)));
        struct part *part = r->current;
        const struct redis_reply *entries = redis_at(stream, 1);
        if (!part || part->skip || !part->active || r->entry_at >= redis_size(entries)) continue;
        event_from_entry(r, part, redis_at(entries, r->entry_at++), e);
        span_copy(part->position, sizeof part->position, span_str(e->offset));
        e->deliveries = part->tries > 0 ? part->tries : 1;
        part->tries = 1;
        part->delivered = true;
        part->uncommitted++;
        return true;
    }
    return false;
}

/* So many entries per stream next time that about READ_BYTES come: twice as many at most, at once fewer. */
static void adapt(struct reader *r, int streams) {
    size_t entries = 0, bytes = 0;
    for (size_t s = 0; s < redis_size(r->reply); s++) {
        const struct redis_reply *list = redis_at(redis_at(r->reply, s), 1);
        entries += redis_size(list);
        for (size_t i = 0; i < redis_size(list); i++) {
            const struct redis_reply *fields = redis_at(redis_at(list, i), 1);
            for (size_t f = 0; f < redis_size(fields); f++) bytes += redis_str(redis_at(fields, f)).len;
        }
    }
    if (entries == 0) return;
    size_t fit = READ_BYTES / (bytes / entries + 1) / (size_t)streams, most = READ_ENTRIES_MAX / (size_t)streams;
    if (fit > most) fit = most;
    if (fit > (size_t)r->count * 2) fit = (size_t)r->count * 2;
    r->count = fit < 1 ? 1 : (int)fit;
}

/* Waits up to block_ms for entries behind the positions; E_AGAIN where none came. */
static int reader_fetch(struct reader *r, int64_t block_ms, struct error *err) {
    struct span words[6 + 2 * PARTS_MAX];
    char count[16], block[24];
    int n = 0, active = 0;
    for (int i = 0; i < r->n; i++) {
        active += r->parts[i].active;
        r->parts[i].skip = false;
    }
    redis_reply_free(r->reply);
    r->reply = NULL;
    r->stream_at = r->entry_at = 0;
    if (active == 0) {
        struct timespec pause = {block_ms / 1000, block_ms % 1000 * 1000000};
        nanosleep(&pause, NULL);
        return E_AGAIN;
    }
    snprintf(count, sizeof count, "%d", r->count);
    snprintf(block, sizeof block, "%" PRId64, block_ms);
    words[n++] = SPAN("XREAD");
    words[n++] = SPAN("COUNT");
    words[n++] = span_str(count);
    if (block_ms > 0) { /* BLOCK 0 would be for ever */
        words[n++] = SPAN("BLOCK");
        words[n++] = span_str(block);
    }
    words[n++] = SPAN("STREAMS");
    for (int i = 0; i < r->n; i++)
        if (r->parts[i].active) {
            words[n + active] = span_str(r->parts[i].position);
            words[n++] = r->parts[i].stream;
        }
    redis_set_timeout(r->conn, REPLY_TIMEOUT_MS + block_ms);
    int e = redis_command(r->conn, n + active, words, &r->reply, err);
    redis_set_timeout(r->conn, REPLY_TIMEOUT_MS);
    if (e != 0) {
        r->count = 1; /* it may have been too much at once */
        return e;
    }
    if (redis_size(r->reply) == 0) return E_AGAIN;
    adapt(r, active);
    return 0;
}

/* One round of a poll: an event, or E_AGAIN after at most slice_ms, or a failure, after a pause. */
static int reader_round(struct reader *r, int64_t slice_ms, struct event *e, struct error *err) {
    if (reader_next(r, e)) return 0;
    int got = reader_fetch(r, slice_ms < 0 ? 0 : slice_ms, err);
    if (got == 0) return reader_next(r, e) ? 0 : E_AGAIN;
    if (got == E_UNAVAILABLE && slice_ms > 0) {
        struct timespec pause = {0, (slice_ms < RETRY_PAUSE_MS ? slice_ms : RETRY_PAUSE_MS) * 1000000};
        nanosleep(&pause, NULL);
    }
    return got;
}

/* ---- groups: the beat ---- */

int64_t redis_group_beat_due(const struct redis_group *g) { return atomic_load(&((struct redis_group *)(uintptr_t)g)->due_ms); }
struct redis_group *redis_group_next(struct redis_group *g) { return g->next; }

/* The reply of script_beat → wanted and over. Over are the last of a topic, so that the first ones stay where they are. */
static void beat_apply(struct redis_group *g, const struct redis_reply *reply) {
    struct reader *r = &g->reader;
    const struct redis_reply *owned = redis_at(reply, 1), *over = redis_at(reply, 2);
    for (int i = 0; i < r->n; i++) {
        bool wanted = false;
        for (size_t k = 0; k < redis_size(owned) && !wanted; k++) wanted = span_eq(redis_str(redis_at(owned, k)), r->parts[i].stream);
        if (wanted != r->parts[i].wanted) g->changed = true;
        r->parts[i].wanted = wanted;
        r->parts[i].over = false;
    }
    for (int t = 0; t < g->n_topics; t++) {
        int64_t left = redis_int(redis_at(over, (size_t)t));
        for (int i = r->n - 1; i >= 0 && left > 0; i--)
            if (r->parts[i].topic == g->topics[t] && r->parts[i].wanted) {
                r->parts[i].over = g->changed = true;
                left--;
            }
    }
}

/* Under g->lock. */
static int beat_locked(struct redis_group *g, struct redis *conn, bool opening, struct error *err) {
    struct span key = span_str(g->key), args[4 + 2 * TOPIC_COUNT];
    char ttl[24], partitions[TOPIC_COUNT][8];
    int n = 0;
    snprintf(ttl, sizeof ttl, "%d", EVENTLOG_SESSION_MS);
    args[n++] = span_str(g->member);
    args[n++] = span_str(g->session);
    args[n++] = span_str(ttl);
    args[n++] = opening ? SPAN("1") : SPAN("0");
    for (int t = 0; t < g->n_topics; t++) {
        const struct topic_info *info = topic_info(g->topics[t]);
        snprintf(partitions[t], sizeof partitions[t], "%d", info->partitions);
        args[n++] = span_str(info->name);
        args[n++] = span_str(partitions[t]);
    }
    struct redis_reply *reply = NULL;
    int64_t now = clock_mono_ms();
    int r = redis_script(conn, script_beat, &key, 1, args, n, &reply, err);
    if (r != 0) {
        atomic_store(&g->due_ms, now);
        return r;
    }
    bool waits = false;
    if (redis_int(redis_at(reply, 0)) < 0) {
        g->superseded = g->changed = true;
        for (int i = 0; i < g->reader.n; i++) g->reader.parts[i].wanted = false;
    } else {
        beat_apply(g, reply);
        waits = redis_int(redis_at(reply, 3)) != 0;
        g->beaten_ms = now;
    }
    redis_reply_free(reply);
    atomic_store(&g->due_ms, g->superseded ? INT64_MAX : now + (waits ? BEAT_FAST_MS : BEAT_MS));
    return 0;
}

int redis_group_beat(struct redis_group *g, struct redis *conn, bool opening, struct error *err) {
    pthread_mutex_lock(&g->lock);
    int r = beat_locked(g, conn, opening, err);
    pthread_mutex_unlock(&g->lock);
    return r;
}

static int64_t lag_of(struct redis_group *g, struct redis *conn) {
    struct span keys[PARTS_MAX], group = span_str(g->name);
    struct redis_reply *reply = NULL;
    for (int i = 0; i < g->reader.n; i++) keys[i] = g->reader.parts[i].stream;
    int64_t lag = redis_script(conn, script_lag, keys, g->reader.n, &group, 1, &reply, NULL) == 0 ? redis_int(reply) : -1;
    redis_reply_free(reply);
    return lag;
}

void redis_group_measure(struct redis_group *g, struct redis *conn) {
    int64_t lag = lag_of(g, conn);
    if (lag >= 0) metric_set(g->lag, (double)lag);
}

/* ---- groups: the reader's thread ---- */

static int assign(struct redis_group *g, struct part *part, struct error *err) {
    struct span keys[] = {span_str(g->key), part->stream}, args[] = {span_str(g->owner), span_str(g->name)};
    struct redis_reply *reply = NULL;
    int r = redis_script(g->reader.conn, script_assign, keys, 2, args, 2, &reply, err);
    if (r == 0 && redis_size(reply) == 2) {
        span_copy(part->position, sizeof part->position, redis_str(redis_at(reply, 0)));
        part->tries = (int)redis_int(redis_at(reply, 1));
        part->uncommitted = 0;
        part->delivered = false;
        part->skip = part->active = true;
    } else if (r == 0) {
        part->wanted = false; /* another took it meanwhile; the next beat says more */
    }
    redis_reply_free(reply);
    return r;
}

static int release(struct redis_group *g, struct part *const *parts, int n, struct error *err) {
    struct span key = span_str(g->key), args[1 + 2 * PARTS_MAX];
    args[0] = span_str(g->owner);
    for (int i = 0; i < n; i++) {
        args[1 + 2 * i] = parts[i]->stream;
        args[2 + 2 * i] = parts[i]->delivered ? SPAN("1") : SPAN("0");
    }
    return n == 0 ? 0 : redis_script(g->reader.conn, script_release, &key, 1, args, 1 + 2 * n, NULL, err);
}

/* What beats said since the last poll becomes what this thread reads. Callbacks are called without the lock. */
static int settle(struct redis_group *g, struct error *err) {
    struct reader *r = &g->reader;
    struct part *gone[PARTS_MAX], *over[PARTS_MAX], *come[PARTS_MAX];
    int n_gone = 0, n_over = 0, n_come = 0, result = 0;
    pthread_mutex_lock(&g->lock);
    /* Stopped for longer than a session lasts: what is ours may be another's by now. */
    if (!g->superseded && clock_mono_ms() - g->beaten_ms > EVENTLOG_SESSION_MS) result = beat_locked(g, r->conn, false, err);
    for (int i = 0; i < r->n && g->changed; i++) {
        struct part *part = &r->parts[i];
        if (part->active && (!part->wanted || part->over)) {
            part->active = false;
            part->skip = true;
            gone[n_gone++] = part;
        }
        if (part->wanted && part->over) over[n_over++] = part;
    }
    pthread_mutex_unlock(&g->lock);
    if (g->events && g->events->on_revoked)
        for (int i = 0; i < n_gone; i++) g->events->on_revoked(g->arg, gone[i]->topic, gone[i]->partition);
    pthread_mutex_lock(&g->lock);
    if (result == 0) result = release(g, over, n_over, err);
    for (int i = 0; i < n_over && result == 0; i++) {
        over[i]->wanted = over[i]->over = false;
        over[i]->delivered = true;
    }
    for (int i = 0; i < r->n && g->changed && result == 0; i++) {
        struct part *part = &r->parts[i];
        if (!part->wanted || part->active || part->over) continue;
        result = assign(g, part, err);
        if (part->active) come[n_come++] = part;
    }
    if (result == 0) g->changed = false;
    pthread_mutex_unlock(&g->lock);
    if (g->events && g->events->on_assigned)
        for (int i = 0; i < n_come; i++) g->events->on_assigned(g->arg, come[i]->topic, come[i]->partition);
    return result;
}

int redis_group_poll(void *group, int64_t timeout_ms, struct event *e, struct error *err) {
    struct redis_group *g = group;
    int64_t deadline = clock_mono_ms() + timeout_ms;
    for (;;) {
        int r = settle(g, err);
        pthread_mutex_lock(&g->lock);
        bool superseded = g->superseded;
        pthread_mutex_unlock(&g->lock);
        if (superseded) return error_set(err, E_ABORTED, "another process is %s in the group %s now", g->member, g->name);
        int64_t left = deadline - clock_mono_ms();
        if (r == 0) r = reader_round(&g->reader, left < SLICE_MS ? left : SLICE_MS, e, err);
        else if (r == E_UNAVAILABLE && left > 0) {
            struct timespec pause = {0, RETRY_PAUSE_MS * 1000000L};
            nanosleep(&pause, NULL);
        }
        if (r == 0 || (r != E_AGAIN && r != E_UNAVAILABLE)) return r;
        if (clock_mono_ms() >= deadline) return r;
    }
}

int redis_group_commit(void *group, const struct event *e, struct error *err) {
    struct redis_group *g = group;
    struct part *part = part_of_event(&g->reader, e);
    if (!part) return error_set(err, E_INVALID, "the event is of no topic of the group %s", g->name);
    if (!part->active) return error_set(err, E_ABORTED, "%.*s belongs to another member of %s now", SPAN_ARG(part->stream), g->name);
    char passed[24];
    bool last = strcmp(e->offset, part->position) == 0;
    snprintf(passed, sizeof passed, "%" PRId64, last ? part->uncommitted : 1); /* exact for what was polled last; else the lag is a little high for a while */
    struct span keys[] = {span_str(g->key), part->stream}, args[] = {span_str(g->owner), span_str(g->name), span_str(e->offset), span_str(passed)};
    int64_t deadline = clock_mono_ms() + COMMIT_TIMEOUT_MS;
    for (;;) { /* sent twice it is the same: a position only moves forward */
        struct redis_reply *reply = NULL;
        int r = redis_script(g->reader.conn, script_commit, keys, 2, args, 4, &reply, err);
        bool ours = redis_int(reply) == 1;
        redis_reply_free(reply);
        if (r == 0 && ours) {
            part->uncommitted -= last ? part->uncommitted : 1;
            if (part->uncommitted < 0) part->uncommitted = 0;
            return 0;
        }
        if (r == 0) return error_set(err, E_ABORTED, "%.*s belongs to another member of %s now", SPAN_ARG(part->stream), g->name);
        if (r != E_UNAVAILABLE || clock_mono_ms() >= deadline) return r;
        struct timespec pause = {0, RETRY_PAUSE_MS * 1000000L};
        nanosleep(&pause, NULL);
    }
}

int redis_group_rewind(void *group, const struct event *e, struct error *err) {
    struct redis_group *g = group;
    struct part *part = part_of_event(&g->reader, e);
    if (!part) return error_set(err, E_INVALID, "the event is of no topic of the group %s", g->name);
    if (!part->active) return error_set(err, E_ABORTED, "%.*s belongs to another member of %s now", SPAN_ARG(part->stream), g->name);
    struct span rest = span_str(e->offset), head = {0};
    uint64_t ms = 0, seq = 0;
    if (!span_cut(&rest, '-', &head) || span_to_u64(head, &ms) != 0 || span_to_u64(rest, &seq) != 0 || (ms == 0 && seq == 0))
        return error_set(err, E_INVALID, "\"%s\" is no offset of this log", e->offset);
    /* The largest id before it: XREAD goes on behind that one. */
    snprintf(part->position, sizeof part->position, "%" PRIu64 "-%" PRIu64, seq > 0 ? ms : ms - 1, seq > 0 ? seq - 1 : UINT64_MAX);
    part->tries = e->deliveries + 1;
    part->skip = true;
    part->uncommitted = part->uncommitted > 0 ? part->uncommitted - 1 : 0;
    return 0;
}

int64_t redis_group_lag(void *group) {
    struct redis_group *g = group;
    int64_t lag = lag_of(g, g->reader.conn);
    return lag < 0 ? 0 : lag;
}

int redis_group_open(void *state, const char *group, const char *member, const enum topic *topics, int n, const struct eventlog_group_events *events,
                     void *arg, void **out, struct error *err) {
    struct redis_log *log = state;
    struct redis_group *g = mem_zalloc(sizeof *g);
    if (!g) return error_set(err, E_NOMEM, "no memory for a consumer group");
    g->log = log;
    g->events = events;
    g->arg = arg;
    g->n_topics = n;
    memcpy(g->topics, topics, (size_t)n * sizeof *topics);
    id_make(g->session);
    span_copy(g->name, sizeof g->name, span_str(group));
    span_copy(g->member, sizeof g->member, span_str(member));
    snprintf(g->key, sizeof g->key, "genloop:log:group:%s", group);
    snprintf(g->owner, sizeof g->owner, "%s\n%s", member, g->session);
    g->lag = eventlog_lag_metric(group);
    pthread_mutex_init(&g->lock, NULL);
    int r = reader_init(&g->reader, log, topics, n, err);
    if (r == 0) r = redis_group_beat(g, g->reader.conn, true, err);
    if (r != 0) {
        reader_fini(&g->reader);
        pthread_mutex_destroy(&g->lock);
        mem_free(g);
        return r;
    }
    pthread_mutex_lock(&log->keeper_lock);
    g->next = log->groups;
    log->groups = g;
    pthread_cond_signal(&log->keeper_wake);
    pthread_mutex_unlock(&log->keeper_lock);
    *out = g;
    return 0;
}

void redis_group_close(void *group) {
    struct redis_group *g = group;
    pthread_mutex_lock(&g->log->keeper_lock);
    for (struct redis_group **at = &g->log->groups; *at; at = &(*at)->next)
        if (*at == g) {
            *at = g->next;
            break;
        }
    pthread_mutex_unlock(&g->log->keeper_lock);
    struct part *ours[PARTS_MAX];
    struct span key = span_str(g->key), args[2 + TOPIC_COUNT];
    int n = 0;
    for (int i = 0; i < g->reader.n; i++)
        if (g->reader.parts[i].wanted || g->reader.parts[i].active) ours[n++] = &g->reader.parts[i];
    args[0] = span_str(g->member);
    args[1] = span_str(g->session);
    for (int t = 0; t < g->n_topics; t++) args[2 + t] = span_str(topic_info(g->topics[t])->name);
    /* Where these fail the session runs out. */
    if (release(g, ours, n, NULL) == 0) (void)redis_script(g->reader.conn, script_leave, &key, 1, args, 2 + g->n_topics, NULL, NULL);
    reader_fini(&g->reader);
    pthread_mutex_destroy(&g->lock);
    mem_free(g);
}

/* ---- views ---- */

int redis_view_open(void *state, const enum topic *topics, int n, const struct eventlog_position *from, int n_from, void **out, struct error *err) {
    struct redis_view *v = mem_zalloc(sizeof *v);
    if (!v) return error_set(err, E_NOMEM, "no memory for a view of the log");
    int r = reader_init(&v->reader, state, topics, n, err);
    for (int i = 0; i < v->reader.n; i++) v->reader.parts[i].active = true;
    for (int k = 0; k < n_from && r == 0; k++) {
        if (from[k].offset[0] == '\0') continue;
        struct span rest = span_str(from[k].offset), head;
        uint64_t ms, seq;
        if (!span_cut(&rest, '-', &head) || span_to_u64(head, &ms) != 0 || span_to_u64(rest, &seq) != 0)
            r = error_set(err, E_INVALID, "\"%s\" is no offset of a log on Redis", from[k].offset);
        for (int i = 0; i < v->reader.n && r == 0; i++)
            if (v->reader.parts[i].topic == from[k].topic && v->reader.parts[i].partition == from[k].partition)
                span_copy(v->reader.parts[i].position, EVENT_OFFSET_MAX, span_str(from[k].offset));
    }
    if (r != 0) {
        redis_view_close(v);
        return r;
    }
    *out = v;
    return 0;
}

int redis_view_poll(void *view, int64_t timeout_ms, struct event *e, struct error *err) {
    struct redis_view *v = view;
    int64_t deadline = clock_mono_ms() + timeout_ms;
    for (;;) {
        int r = reader_round(&v->reader, deadline - clock_mono_ms(), e, err);
        if (r == 0 || (r != E_AGAIN && r != E_UNAVAILABLE)) return r;
        if (clock_mono_ms() >= deadline) return r;
    }
}

/* Looks up where the streams end. lower: only where that is before the target, since what a target named may have been trimmed meanwhile. */
static bool look_up(struct redis_view *v, bool lower) {
    struct span keys[PARTS_MAX];
    struct redis_reply *ends = NULL;
    for (int i = 0; i < v->reader.n; i++) keys[i] = v->reader.parts[i].stream;
    if (redis_script(v->reader.conn, script_ends, keys, v->reader.n, NULL, 0, &ends, NULL) != 0) return false;
    for (int i = 0; i < v->reader.n; i++) {
        char end[EVENT_OFFSET_MAX];
        span_copy(end, sizeof end, redis_str(redis_at(ends, (size_t)i)));
        if (!lower || eventlog_offset_compare(end, v->target[i]) < 0) span_copy(v->target[i], EVENT_OFFSET_MAX, span_str(end));
    }
    redis_reply_free(ends);
    v->asked_ms = clock_mono_ms();
    v->has_target = true;
    return true;
}

static bool reached(const struct redis_view *v) {
    for (int i = 0; i < v->reader.n; i++)
        if (eventlog_offset_compare(v->reader.parts[i].position, v->target[i]) < 0) return false;
    return true;
}

int redis_ends(void *state, const enum topic *topics, int n, struct eventlog_position *ends, int *n_ends, struct error *err) {
    struct redis_log *l = state;
    struct span keys[PARTS_MAX];
    struct redis_reply *reply = NULL;
    int count = 0;
    for (int i = 0; i < n; i++)
        for (int p = 0; p < topic_info(topics[i])->partitions; p++) {
            ends[count].topic = topics[i];
            ends[count].partition = p;
            keys[count++] = span_str(l->streams[topics[i]][p]);
        }
    pthread_mutex_lock(&l->control_lock);
    int r = redis_script(l->control, script_ends, keys, count, NULL, 0, &reply, err);
    if (r == E_UNAVAILABLE) r = redis_script(l->control, script_ends, keys, count, NULL, 0, &reply, err); /* a connection that broke long ago */
    pthread_mutex_unlock(&l->control_lock);
    if (r != 0) return r;
    for (int i = 0; i < count; i++) {
        struct span end = redis_str(redis_at(reply, (size_t)i));
        span_copy(ends[i].offset, EVENT_OFFSET_MAX, span_eq_str(end, "0-0") ? SPAN("") : end);
    }
    redis_reply_free(reply);
    *n_ends = count;
    return 0;
}

bool redis_view_caught_up(void *view) {
    struct redis_view *v = view;
    if (!v->has_target && !look_up(v, false)) return false;
    if (!reached(v) && clock_mono_ms() - v->asked_ms > SLICE_MS) (void)look_up(v, true);
    if (!reached(v)) return false;
    v->has_target = false;
    return true;
}

void redis_view_close(void *view) {
    struct redis_view *v = view;
    reader_fini(&v->reader);
    mem_free(v);
}
