/*
 * Reading: groups and views.
 *
 * A view is a consumer without a group that reads every partition from an offset of its own. Where a partition ends is told by librdkafka in the
 * stream of events (PARTITION_EOF), so that a view has caught up also where the last offsets of a partition hold no event.
 *
 * A group's member is a static member of a Kafka consumer group (group.instance.id, session of 6 s, cooperative-sticky assignor): what one of the same
 * name takes over moves no other's partitions. Two threads touch it. The reader's, which polls, commits and rewinds; and the minder's, which serves
 * librdkafka's group events, so that a member lives and rebalances go on however long the effect of an event takes. Events come by a queue of our own.
 *
 * A partition in a member ("in hand": handed out and not committed):
 *
 *              assigned (minder)                 to be given back: nothing in hand (minder), or at the next poll (reader); lost (minder)
 *     away ───────────────────────► ours ──────────────────────────────────────────────────────────────────────────────► away
 *
 * A partition with an event in hand is given back only when the reader polls again: no two members handle events of a key at once. Until then its
 * member answers no rebalance; others go on with what they have. The reader's thread hears of both by on_assigned and on_revoked, at its next poll.
 *
 * Commits carry the member's generation: of a member that was taken for dead, or whose name another process has, the broker refuses them. Before the first event of
 * an assignment is handed out, "tries N" is committed beside the offset: how often what stands there was given to a member.
 *
 * A coordinator that is away for longer than a session, as in the death of a broker, makes librdkafka 2.0.2 forget its member id; what it sends in that state, a
 * heartbeat or a commit that waited, is answered as from another of the same name, and the client is dead for good. So a fenced client asks the group who the
 * member of its name is: where that is itself or nobody, another client takes its place, and what it had is lost to it as in any session that ran out.
 *
 * About closing: a static member does not leave, so that a restart moves nothing; its partitions are others' when its session has run out. librdkafka
 * 2.0.2 may hang in rd_kafka_consumer_close with the cooperative protocol (fixed in 2.5), which a static member that commits by itself does not need.
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "base/metrics.h"
#include "eventlog/kafka_internal.h"

enum {
    SLICE_MS = 500,              /* a waiting reader looks this often whether it is to give a partition back, if nobody wakes it */
    MINDER_MS = 200,
    COMMIT_TIMEOUT_MS = 30000,   /* as a publication's: a restart of the broker is waited out */
    FIRST_ASSIGNMENT_MS = 1500,  /* for closing: see kafka_group_close */
    CATCH_UP_MS = 1000,          /* between questions whether a partition's beginning has moved */
    LONGEST_POLL_MS = 86400000,  /* librdkafka's most: the minder polls for us, and a member that is busy is not to be thrown out of a rebalance */
};

struct part {
    enum topic topic;
    int partition;
    /* of views */
    int64_t next;  /* behind what was polled; -1: at the beginning */
    int64_t last;  /* the last event that was polled, -1: none since `next` was the beginning */
    int64_t low, target;
    /* of groups, under lock */
    bool ours, wanted_back;
    bool tell_assigned, tell_revoked;
    bool counted;                 /* count_try has been since it was assigned */
    int64_t assignment;           /* how often it was assigned: what was begun in one does not count in the next */
    int64_t delivered, committed; /* offsets of the last event handed out and of the last committed since it was assigned; -1 */
    int tries;                    /* deliveries of the event at retried, where that is the next one */
    int64_t retried;
};

struct kafka_view {
    struct kafka_log *log;
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue;
    rd_kafka_topic_t *topics[TOPIC_COUNT];
    rd_kafka_message_t *message; /* the event that was polled last borrows it */
    int n;
    bool has_target;
    int64_t asked_ms;
    char id[EVENT_ID_MAX + 1];
    struct part parts[KAFKA_PARTS_MAX];
};

struct kafka_group {
    struct kafka_log *log;
    struct kafka_group *next; /* under the log's keeper_lock */
    rd_kafka_t *rk;           /* NULL where another could not be made yet; changed by the reader's thread, under keeper_lock */
    rd_kafka_queue_t *queue;  /* events of all partitions, forwarded there */
    rd_kafka_message_t *message;
    char name[EVENTLOG_GROUP_NAME_MAX + 1], member[EVENTLOG_GROUP_NAME_MAX + 1];
    char member_id[128];      /* the coordinator's name for us, under lock */
    const struct eventlog_group_events *events;
    void *arg;
    struct metric *lag;
    enum topic topics[TOPIC_COUNT];
    int n_topics;
    pthread_t minder;
    bool has_minder;
    atomic_bool stopping, seen_assignment;
    atomic_bool broken;   /* librdkafka's client is dead */
    bool superseded;      /* by one of the same name */
    pthread_mutex_t lock; /* of what parts say of groups; held while partitions are given back */
    bool giving_back;     /* librdkafka waits for partitions that are wanted back */
    int n;
    char id[EVENT_ID_MAX + 1];
    struct part parts[KAFKA_PARTS_MAX];
};

/* ---- what both share ---- */

static int parts_init(struct part *parts, const enum topic *topics, int n) {
    int count = 0;
    for (int i = 0; i < n; i++)
        for (int p = 0; p < topic_info(topics[i])->partitions; p++)
            parts[count++] = (struct part){.topic = topics[i], .partition = p, .next = -1, .last = -1, .delivered = -1, .committed = -1, .retried = -1};
    return count;
}

static struct part *part_at(struct part *parts, int n, int topic, int partition) {
    for (int i = 0; i < n; i++)
        if ((int)parts[i].topic == topic && parts[i].partition == partition) return &parts[i];
    return NULL;
}

static struct part *part_of(struct part *parts, int n, const rd_kafka_message_t *m) {
    return m->rkt ? part_at(parts, n, topic_from_name(span_str(rd_kafka_topic_name(m->rkt))), m->partition) : NULL;
}

static rd_kafka_topic_partition_t *list_add(rd_kafka_topic_partition_list_t *list, const struct part *part) {
    return rd_kafka_topic_partition_list_add(list, topic_info(part->topic)->name, part->partition);
}

static rd_kafka_topic_partition_list_t *list_of(const struct part *parts, int n) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(n);
    for (int i = 0; i < n; i++) list_add(list, &parts[i]);
    return list;
}

/* What came instead of an event: 0 where it passes by itself. */
static int failure(struct kafka_log *l, const rd_kafka_message_t *m, struct error *err) {
    int r = kafka_code(m->err);
    if (r == E_DENIED || r == E_DATA_LOSS || r == E_UNAUTHENTICATED)
        return error_set(err, r, "reading %s: %s", m->rkt ? rd_kafka_topic_name(m->rkt) : l->brokers, m->payload ? rd_kafka_message_errstr(m) : rd_kafka_err2str(m->err));
    return 0;
}

/* Nothing came: is there nothing, or nobody? */
static int nothing(struct kafka_log *l, struct error *err) {
    return atomic_load(&l->healthy) ? E_AGAIN : kafka_unavailable(l, RD_KAFKA_RESP_ERR__TRANSPORT, err);
}

/* ---- groups: the minder's thread ---- */

/* Messages of a partition go to our queue, from before it is read. */
static void divert(struct kafka_group *g, const rd_kafka_topic_partition_list_t *list) {
    for (int i = 0; i < list->cnt; i++) {
        rd_kafka_queue_t *q = rd_kafka_queue_get_partition(g->rk, list->elems[i].topic, list->elems[i].partition);
        if (!q) continue;
        rd_kafka_queue_forward(q, g->queue);
        rd_kafka_queue_destroy(q);
    }
}

static struct part *part_of_elem(struct kafka_group *g, const rd_kafka_topic_partition_t *elem) {
    return part_at(g->parts, g->n, topic_from_name(span_str(elem->topic)), elem->partition);
}

static void answered(rd_kafka_error_t *e) {
    if (e) rd_kafka_error_destroy(e); /* the member is not in a state to be asked any more: the next rebalance says what is */
}

static void assigned(struct kafka_group *g, rd_kafka_topic_partition_list_t *list) {
    divert(g, list);
    char *id = rd_kafka_memberid(g->rk);
    pthread_mutex_lock(&g->lock);
    if (id) span_copy(g->member_id, sizeof g->member_id, span_str(id));
    for (int i = 0; i < list->cnt; i++) {
        struct part *part = part_of_elem(g, &list->elems[i]);
        if (!part) continue;
        part->ours = part->tell_assigned = true;
        part->wanted_back = part->counted = false;
        part->assignment++;
        part->delivered = part->committed = part->retried = -1;
    }
    answered(rd_kafka_incremental_assign(g->rk, list));
    pthread_mutex_unlock(&g->lock);
    rd_kafka_mem_free(g->rk, id);
    atomic_store(&g->seen_assignment, true);
}

static void let_go(struct part *part) {
    part->ours = part->wanted_back = false;
    part->tell_revoked = true;
}

/* lost: they are others' already. Else those with nothing in hand go at once; where all have, the reader's next poll gives them back. */
static void revoked(struct kafka_group *g, rd_kafka_topic_partition_list_t *list, bool lost) {
    rd_kafka_topic_partition_list_t *now = rd_kafka_topic_partition_list_new(list->cnt);
    pthread_mutex_lock(&g->lock);
    for (int i = 0; i < list->cnt; i++) {
        struct part *part = part_of_elem(g, &list->elems[i]);
        bool in_hand = part && part->ours && part->delivered > part->committed;
        if (in_hand && !lost && !atomic_load(&g->stopping)) continue;
        if (part && part->ours) let_go(part);
        rd_kafka_topic_partition_list_add(now, list->elems[i].topic, list->elems[i].partition);
    }
    if (now->cnt > 0 || list->cnt == 0) { /* what is still in hand will be asked for again */
        for (int i = 0; i < g->n; i++) g->parts[i].wanted_back = false;
        g->giving_back = false;
        answered(rd_kafka_incremental_unassign(g->rk, now));
    } else {
        for (int i = 0; i < list->cnt; i++) part_of_elem(g, &list->elems[i])->wanted_back = true;
        g->giving_back = true;
    }
    pthread_mutex_unlock(&g->lock);
    rd_kafka_topic_partition_list_destroy(now);
}

static void on_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t e, rd_kafka_topic_partition_list_t *list, void *arg) {
    struct kafka_group *g = arg;
    if (e == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) assigned(g, list);
    else revoked(g, list, rd_kafka_assignment_lost(rk) != 0);
    rd_kafka_queue_yield(g->queue); /* a reader that waits tells its owner */
}

static void on_member_error(rd_kafka_t *rk, int e, const char *reason, void *arg) {
    (void)rk;
    kafka_note_trouble(((struct kafka_group *)arg)->log, (rd_kafka_resp_err_t)e, reason);
}

static void prepare_member(rd_kafka_conf_t *c, void *arg) {
    rd_kafka_conf_set_opaque(c, arg);
    rd_kafka_conf_set_error_cb(c, on_member_error);
    rd_kafka_conf_set_rebalance_cb(c, on_rebalance);
}

static void *minder_main(void *arg) {
    struct kafka_group *g = arg;
    char why[64];
    while (!atomic_load(&g->stopping)) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(g->rk, MINDER_MS);
        if (m) rd_kafka_message_destroy(m); /* an error of the client's: it shows in what the reader asks for */
        if (rd_kafka_fatal_error(g->rk, why, sizeof why) == RD_KAFKA_RESP_ERR_NO_ERROR) continue;
        atomic_store(&g->broken, true);
        rd_kafka_queue_yield(g->queue);
        break;
    }
    return NULL;
}

/* ---- groups: the client ---- */

static int client_start(struct kafka_group *g, struct error *err) {
    char session[16], longest[16];
    snprintf(session, sizeof session, "%d", EVENTLOG_SESSION_MS);
    snprintf(longest, sizeof longest, "%d", LONGEST_POLL_MS);
    const char *const pairs[] = {"group.id", g->name, "group.instance.id", g->member, "session.timeout.ms", session, "heartbeat.interval.ms", "1500", "max.poll.interval.ms", longest, NULL};
    atomic_store(&g->stopping, false);
    atomic_store(&g->broken, false);
    atomic_store(&g->seen_assignment, false);
    int r = kafka_client_new(g->log, KAFKA_MEMBER, pairs, prepare_member, g, &g->rk, err);
    if (r == 0 && !(g->queue = rd_kafka_queue_new(g->rk))) r = error_set(err, E_NOMEM, "no memory for a consumer group");
    if (r == 0) {
        rd_kafka_topic_partition_list_t *names = rd_kafka_topic_partition_list_new(g->n_topics);
        for (int i = 0; i < g->n_topics; i++) rd_kafka_topic_partition_list_add(names, topic_info(g->topics[i])->name, RD_KAFKA_PARTITION_UA);
        rd_kafka_resp_err_t e = rd_kafka_subscribe(g->rk, names);
        rd_kafka_topic_partition_list_destroy(names);
        if (e != RD_KAFKA_RESP_ERR_NO_ERROR) r = kafka_unavailable(g->log, e, err);
    }
    if (r == 0 && !(g->has_minder = pthread_create(&g->minder, NULL, minder_main, g) == 0)) r = error_set(err, E_NOMEM, "no thread for a consumer group");
    return r;
}

static void client_stop(struct kafka_group *g) {
    atomic_store(&g->stopping, true);
    if (g->has_minder) {
        rd_kafka_queue_t *q = rd_kafka_queue_get_consumer(g->rk);
        rd_kafka_queue_yield(q);
        rd_kafka_queue_destroy(q);
        pthread_join(g->minder, NULL);
        g->has_minder = false;
    }
    if (g->queue) rd_kafka_queue_destroy(g->queue);
    if (g->rk) rd_kafka_destroy_flags(g->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    g->queue = NULL;
    g->rk = NULL;
}

/* Who the member of our name is: the coordinator's name for it, "" for nobody. */
static int find_namesake(struct kafka_group *g, char id[128], struct error *err) {
    const char *groups[] = {g->name};
    rd_kafka_queue_t *q = rd_kafka_queue_new(g->log->control);
    rd_kafka_event_t *ev = NULL;
    rd_kafka_DescribeConsumerGroups(g->log->control, groups, 1, NULL, q);
    for (int64_t deadline = clock_mono_ms() + KAFKA_CALL_MS; !ev && clock_mono_ms() < deadline;) {
        ev = rd_kafka_queue_poll(q, 200);
        if (ev && rd_kafka_event_type(ev) != RD_KAFKA_EVENT_DESCRIBECONSUMERGROUPS_RESULT) {
            rd_kafka_event_destroy(ev);
            ev = NULL;
        }
    }
    rd_kafka_resp_err_t e = ev ? rd_kafka_event_error(ev) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    size_t n = 0;
    const rd_kafka_ConsumerGroupDescription_t **found = e ? NULL : rd_kafka_DescribeConsumerGroups_result_groups(rd_kafka_event_DescribeConsumerGroups_result(ev), &n);
    if (!e && n == 1 && rd_kafka_ConsumerGroupDescription_error(found[0])) e = rd_kafka_error_code(rd_kafka_ConsumerGroupDescription_error(found[0]));
    id[0] = '\0';
    for (size_t i = 0; !e && n == 1 && i < rd_kafka_ConsumerGroupDescription_member_count(found[0]); i++) {
        const rd_kafka_MemberDescription_t *m = rd_kafka_ConsumerGroupDescription_member(found[0], i);
        const char *instance = rd_kafka_MemberDescription_group_instance_id(m), *name = rd_kafka_MemberDescription_consumer_id(m);
        if (instance && name && strcmp(instance, g->member) == 0) span_copy(id, 128, span_str(name));
    }
    rd_kafka_event_destroy(ev);
    rd_kafka_queue_destroy(q);
    return e ? kafka_unavailable(g->log, e, err) : 0;
}

static int fenced(struct kafka_group *g, struct error *err) {
    g->superseded = true;
    return error_set(err, E_ABORTED, "another process is %s in the group %s now", g->member, g->name);
}

/* The client is dead: are we superseded, or is it to be replaced? */
static int renew(struct kafka_group *g, struct error *err) {
    char id[128];
    int r = find_namesake(g, id, err);
    if (r != 0) return r;
    if (id[0] && strcmp(id, g->member_id) != 0) return fenced(g, err); /* member_id: the minder has ended */
    pthread_mutex_lock(&g->log->keeper_lock);
    client_stop(g);
    pthread_mutex_lock(&g->lock);
    g->giving_back = false;
    for (int i = 0; i < g->n; i++)
        if (g->parts[i].ours) let_go(&g->parts[i]);
    pthread_mutex_unlock(&g->lock);
    r = client_start(g, err);
    if (r != 0) {
        client_stop(g);
        atomic_store(&g->broken, true);
    } else {
        kafka_count_replaced("member");
    }
    pthread_mutex_unlock(&g->log->keeper_lock);
    return r;
}

/* ---- groups: the reader's thread ---- */

/* Gives back what is wanted back, and tells what has changed since the last poll. Callbacks are called without the lock. */
static void settle(struct kafka_group *g) {
    struct part *gone[KAFKA_PARTS_MAX], *come[KAFKA_PARTS_MAX];
    int n_gone = 0, n_come = 0;
    pthread_mutex_lock(&g->lock);
    bool give = g->giving_back;
    for (int i = 0; i < g->n; i++) {
        struct part *part = &g->parts[i];
        if (give && part->wanted_back) part->tell_revoked = true;
        if (part->tell_revoked) gone[n_gone++] = part;
        if (part->tell_assigned && part->ours) come[n_come++] = part;
        part->tell_revoked = part->tell_assigned = false;
    }
    pthread_mutex_unlock(&g->lock);
    if (g->events && g->events->on_revoked)
        for (int i = 0; i < n_gone; i++) g->events->on_revoked(g->arg, gone[i]->topic, gone[i]->partition);
    if (give) {
        pthread_mutex_lock(&g->lock);
        if (g->giving_back) {
            rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(g->n);
            for (int i = 0; i < g->n; i++)
                if (g->parts[i].wanted_back) {
                    g->parts[i].ours = g->parts[i].wanted_back = false;
                    list_add(list, &g->parts[i]);
                }
            g->giving_back = false;
            answered(rd_kafka_incremental_unassign(g->rk, list));
            rd_kafka_topic_partition_list_destroy(list);
        }
        pthread_mutex_unlock(&g->lock);
    }
    if (g->events && g->events->on_assigned)
        for (int i = 0; i < n_come; i++) g->events->on_assigned(g->arg, come[i]->topic, come[i]->partition);
}

/* One commit. tries: 0, or what is to be kept beside the offset. */
static rd_kafka_resp_err_t send_commit(struct kafka_group *g, const struct part *part, int64_t offset, int tries) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *elem = list_add(list, part);
    elem->offset = offset;
    if (tries > 0) {
        char text[32];
        int len = snprintf(text, sizeof text, "tries %d", tries);
        elem->metadata = rd_kafka_mem_malloc(g->rk, sizeof text); /* the list's */
        memcpy(elem->metadata, text, sizeof text);
        elem->metadata_size = (size_t)len;
    }
    rd_kafka_resp_err_t e = rd_kafka_commit(g->rk, list, 0);
    if (e == RD_KAFKA_RESP_ERR_NO_ERROR) e = list->elems[0].err;
    rd_kafka_topic_partition_list_destroy(list);
    return e;
}

/* What stands at offset is handed out for the first time since the partition is ours: counts it in the group. As far as that can be known: a
 * broker that is away just now leaves it uncounted. */
static int count_try(struct kafka_group *g, const struct part *part, int64_t offset) {
    rd_kafka_topic_partition_list_t *list = list_of(part, 1);
    int64_t before = 0;
    if (rd_kafka_committed(g->rk, list, KAFKA_CALL_MS) == RD_KAFKA_RESP_ERR_NO_ERROR && list->elems[0].err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        struct span text = span_of(list->elems[0].metadata, list->elems[0].metadata_size), word;
        if (list->elems[0].offset != RD_KAFKA_OFFSET_INVALID && span_cut(&text, ' ', &word) && span_eq_str(word, "tries") && (span_to_i64(text, &before) != 0 || before < 0 || before > 1000000))
            before = 0;
        (void)send_commit(g, part, offset, (int)before + 1);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return (int)before + 1;
}

/* Whether m is to be handed out; the deliveries of it. */
static bool hand_out(struct kafka_group *g, const rd_kafka_message_t *m, struct part **out, int *deliveries) {
    struct part *part = part_of(g->parts, g->n, m);
    if (!part) return false;
    pthread_mutex_lock(&g->lock);
    bool ours = part->ours && m->offset > part->delivered, first = !part->counted;
    *deliveries = part->retried == m->offset ? part->tries : 1;
    if (ours) {
        part->delivered = m->offset; /* in hand from here: it is not given back under the reader */
        part->retried = -1;
        part->counted = true;
    }
    pthread_mutex_unlock(&g->lock);
    if (!ours) return false;
    if (first) {
        int n = count_try(g, part, m->offset);
        if (n > *deliveries) *deliveries = n;
    }
    *out = part;
    return true;
}

int kafka_group_poll(void *group, int64_t timeout_ms, struct event *e, struct error *err) {
    struct kafka_group *g = group;
    int64_t deadline = clock_mono_ms() + timeout_ms;
    if (g->message) rd_kafka_message_destroy(g->message);
    g->message = NULL;
    for (;;) {
        int r = atomic_load(&g->broken) ? g->superseded ? fenced(g, err) : renew(g, err) : 0;
        settle(g);
        if (r == E_ABORTED) return r;
        int64_t left = deadline - clock_mono_ms();
        if (r != 0) {
            if (left <= 0) return r;
            kafka_pause(left < KAFKA_PAUSE_MS ? left : KAFKA_PAUSE_MS);
            continue;
        }
        rd_kafka_message_t *m = rd_kafka_consume_queue(g->queue, (int)(left < 0 ? 0 : left > SLICE_MS ? SLICE_MS : left));
        r = m && m->err ? failure(g->log, m, err) : 0;
        struct part *part;
        int deliveries;
        if (m && !m->err && hand_out(g, m, &part, &deliveries)) {
            g->message = m;
            kafka_event(e, m, part->topic, g->id);
            e->deliveries = deliveries;
            return 0;
        }
        if (m) rd_kafka_message_destroy(m);
        if (r != 0) return r;
        if (!m && clock_mono_ms() >= deadline && !atomic_load(&g->broken)) return nothing(g->log, err);
    }
}

static int moved(struct kafka_group *g, const struct event *e, struct error *err) {
    return error_set(err, E_ABORTED, "%s:%d belongs to another member of %s now", topic_info(e->topic)->name, e->partition, g->name);
}

/* Of an event that was handed out since its partition is ours: its part. */
static int part_in_hand(struct kafka_group *g, const struct event *e, int64_t *offset, struct part **out, struct error *err) {
    struct part *part = part_at(g->parts, g->n, (int)e->topic, e->partition);
    if (!part) return error_set(err, E_INVALID, "the event is of no topic of the group %s", g->name);
    if (kafka_offset_parse(e->offset, offset) != 0 || *offset < 0) return error_set(err, E_INVALID, "\"%.40s\" is no offset of a log on Kafka", e->offset);
    if (!part->ours || *offset > part->delivered) return moved(g, e, err);
    *out = part;
    return 0;
}

int kafka_group_commit(void *group, const struct event *e, struct error *err) {
    struct kafka_group *g = group;
    int64_t deadline = clock_mono_ms() + COMMIT_TIMEOUT_MS, offset;
    for (;;) { /* sent twice it is the same */
        struct part *part = NULL;
        pthread_mutex_lock(&g->lock);
        int r = part_in_hand(g, e, &offset, &part, err);
        int64_t assignment = r == 0 ? part->assignment : 0;
        bool done = r == 0 && offset <= part->committed;
        pthread_mutex_unlock(&g->lock);
        if (r != 0 || done) return r;
        /* Without the lock: a session that runs out meanwhile must be answered by the minder at once. */
        rd_kafka_resp_err_t why = send_commit(g, part, offset + 1, 0);
        pthread_mutex_lock(&g->lock);
        bool ours = part->ours && part->assignment == assignment;
        if (ours && why == RD_KAFKA_RESP_ERR_NO_ERROR) part->committed = offset;
        pthread_mutex_unlock(&g->lock);
        r = kafka_code(why);
        if (!ours || r == E_ABORTED || why == RD_KAFKA_RESP_ERR__FATAL) return moved(g, e, err);
        if (r == 0) return 0;
        if (r != E_UNAVAILABLE || clock_mono_ms() >= deadline) return kafka_unavailable(g->log, why, err);
        kafka_pause(KAFKA_PAUSE_MS); /* a rebalance that is under way, or a coordinator that is not */
    }
}

int kafka_group_rewind(void *group, const struct event *e, struct error *err) {
    struct kafka_group *g = group;
    struct part *part = NULL;
    int64_t offset;
    pthread_mutex_lock(&g->lock);
    int r = part_in_hand(g, e, &offset, &part, err);
    int64_t assignment = r == 0 ? part->assignment : 0;
    pthread_mutex_unlock(&g->lock);
    if (r != 0) return r;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(g->rk, topic_info(part->topic)->name, NULL);
    rd_kafka_resp_err_t why = topic ? rd_kafka_seek(topic, part->partition, offset, KAFKA_CALL_MS) : RD_KAFKA_RESP_ERR__FAIL;
    if (topic) rd_kafka_topic_destroy(topic);
    pthread_mutex_lock(&g->lock);
    if (!part->ours || part->assignment != assignment) {
        r = moved(g, e, err);
    } else if (why != RD_KAFKA_RESP_ERR_NO_ERROR) {
        r = kafka_unavailable(g->log, why, err);
    } else {
        part->delivered = offset - 1; /* nothing of it is in hand but what stands before it */
        part->retried = offset;
        part->tries = e->deliveries + 1;
    }
    pthread_mutex_unlock(&g->lock);
    return r;
}

static int64_t lag_of(struct kafka_group *g) {
    if (!g->rk) return -1;
    rd_kafka_topic_partition_list_t *low = list_of(g->parts, g->n), *high = list_of(g->parts, g->n), *done = list_of(g->parts, g->n);
    int64_t lag = -1;
    if (rd_kafka_committed(g->rk, done, KAFKA_CALL_MS) == RD_KAFKA_RESP_ERR_NO_ERROR &&
        kafka_offsets(g->log, g->log->control, low, RD_KAFKA_OFFSET_BEGINNING, KAFKA_CALL_MS, NULL) == 0 &&
        kafka_offsets(g->log, g->log->control, high, RD_KAFKA_OFFSET_END, KAFKA_CALL_MS, NULL) == 0) {
        lag = 0;
        for (int i = 0; i < g->n; i++) {
            int64_t from = low->elems[i].offset > done->elems[i].offset ? low->elems[i].offset : done->elems[i].offset; /* none committed: below 0 */
            if (high->elems[i].offset > from) lag += high->elems[i].offset - from;
        }
    }
    rd_kafka_topic_partition_list_destroy(low);
    rd_kafka_topic_partition_list_destroy(high);
    rd_kafka_topic_partition_list_destroy(done);
    return lag;
}

int64_t kafka_group_lag(void *group) {
    int64_t lag = lag_of(group);
    return lag < 0 ? 0 : lag;
}

void kafka_group_measure(struct kafka_group *g) {
    int64_t lag = lag_of(g);
    if (lag >= 0) metric_set(g->lag, (double)lag);
}

struct kafka_group *kafka_group_next(struct kafka_group *g) { return g->next; }
rd_kafka_t *kafka_group_client(struct kafka_group *g) { return g->rk; }

/* ---- groups: open and close ---- */

static void group_free(struct kafka_group *g) {
    if (g->message) rd_kafka_message_destroy(g->message);
    client_stop(g);
    pthread_mutex_destroy(&g->lock);
    mem_free(g);
}

int kafka_group_open(void *state, const char *group, const char *member, const enum topic *topics, int n, const struct eventlog_group_events *events,
                     void *arg, void **out, struct error *err) {
    struct kafka_log *log = state;
    struct kafka_group *g = mem_zalloc(sizeof *g);
    if (!g) return error_set(err, E_NOMEM, "no memory for a consumer group");
    g->log = log;
    g->events = events;
    g->arg = arg;
    g->n = parts_init(g->parts, topics, n);
    g->n_topics = n;
    memcpy(g->topics, topics, (size_t)n * sizeof *topics);
    g->lag = eventlog_lag_metric(group);
    span_copy(g->name, sizeof g->name, span_str(group));
    span_copy(g->member, sizeof g->member, span_str(member));
    pthread_mutex_init(&g->lock, NULL);
    int r = client_start(g, err);
    if (r != 0) {
        group_free(g);
        return r;
    }
    pthread_mutex_lock(&log->keeper_lock);
    g->next = log->groups;
    log->groups = g;
    pthread_mutex_unlock(&log->keeper_lock);
    *out = g;
    return 0;
}

void kafka_group_close(void *group) {
    struct kafka_group *g = group;
    pthread_mutex_lock(&g->log->keeper_lock);
    for (struct kafka_group **at = &g->log->groups; *at; at = &(*at)->next)
        if (*at == g) {
            *at = g->next;
            break;
        }
    pthread_mutex_unlock(&g->log->keeper_lock);
    /* librdkafka 2.0.2 does not survive the end of a member that is between joining and its first assignment (fixed in 2.3): that takes milliseconds, or
     * others are busy and it has not joined. */
    int64_t deadline = clock_mono_ms() + FIRST_ASSIGNMENT_MS;
    while (!atomic_load(&g->seen_assignment) && !atomic_load(&g->broken) && atomic_load(&g->log->healthy) && clock_mono_ms() < deadline) kafka_pause(10);
    group_free(g);
}

/* ---- views ---- */

static int place(struct kafka_view *v, const struct eventlog_position *from, int n_from, struct error *err) {
    bool any = false;
    for (int k = 0; k < n_from; k++) {
        struct part *part = part_at(v->parts, v->n, (int)from[k].topic, from[k].partition);
        int64_t offset;
        if (kafka_offset_parse(from[k].offset, &offset) != 0) return error_set(err, E_INVALID, "\"%.40s\" is no offset of a log on Kafka", from[k].offset);
        if (!part || offset < 0) continue;
        part->next = offset + 1;
        part->last = offset;
        any = true;
    }
    if (!any) return 0;
    /* An offset behind the end is another log's. Right after a change of leaders the end may seem nearer than it is for a moment. */
    rd_kafka_topic_partition_list_t *ends = list_of(v->parts, v->n);
    int r = 0;
    for (int64_t deadline = clock_mono_ms() + CATCH_UP_MS;; kafka_pause(KAFKA_PAUSE_MS)) {
        const struct part *beyond = NULL;
        r = kafka_offsets(v->log, v->rk, ends, RD_KAFKA_OFFSET_END, KAFKA_CALL_MS, err);
        for (int i = 0; i < v->n && r == 0; i++)
            if (v->parts[i].next > ends->elems[i].offset) beyond = &v->parts[i];
        if (r != 0 || !beyond) break;
        if (clock_mono_ms() < deadline) continue;
        r = error_set(err, E_INVALID, "%s:%d ends before the offset %" PRId64 ": this is not the log that it came from", topic_info(beyond->topic)->name, beyond->partition, beyond->last);
        break;
    }
    rd_kafka_topic_partition_list_destroy(ends);
    return r;
}

int kafka_view_open(void *state, const enum topic *topics, int n, const struct eventlog_position *from, int n_from, void **out, struct error *err) {
    struct kafka_view *v = mem_zalloc(sizeof *v);
    if (!v) return error_set(err, E_NOMEM, "no memory for a view of the log");
    v->log = state;
    v->n = parts_init(v->parts, topics, n);
    int r = kafka_client_new(v->log, KAFKA_READER, NULL, NULL, NULL, &v->rk, err);
    if (r == 0) r = place(v, from, n_from, err);
    if (r == 0 && !(v->queue = rd_kafka_queue_new(v->rk))) r = error_set(err, E_NOMEM, "no memory for a view of the log");
    for (int i = 0; i < v->n && r == 0; i++) {
        const struct part *part = &v->parts[i];
        rd_kafka_topic_t **topic = &v->topics[part->topic];
        if (!*topic) *topic = rd_kafka_topic_new(v->rk, topic_info(part->topic)->name, NULL);
        if (!*topic || rd_kafka_consume_start_queue(*topic, part->partition, part->next < 0 ? RD_KAFKA_OFFSET_BEGINNING : part->next, v->queue) != 0)
            r = error_set(err, E_INTERNAL, "reading %s: %s", topic_info(part->topic)->name, rd_kafka_err2str(rd_kafka_last_error()));
    }
    if (r != 0) {
        kafka_view_close(v);
        return r;
    }
    *out = v;
    return 0;
}

int kafka_view_poll(void *view, int64_t timeout_ms, struct event *e, struct error *err) {
    struct kafka_view *v = view;
    int64_t deadline = clock_mono_ms() + timeout_ms;
    if (v->message) rd_kafka_message_destroy(v->message);
    v->message = NULL;
    for (;;) {
        int64_t left = deadline - clock_mono_ms();
        rd_kafka_message_t *m = rd_kafka_consume_queue(v->queue, (int)(left < 0 ? 0 : left > SLICE_MS ? SLICE_MS : left));
        struct part *part = m ? part_of(v->parts, v->n, m) : NULL;
        int r = 0;
        if (part && !m->err && m->offset >= part->next) {
            v->message = m;
            part->next = m->offset + 1;
            part->last = m->offset;
            kafka_event(e, m, part->topic, v->id);
            return 0;
        }
        if (part && m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            if (m->offset > part->next) part->next = m->offset;
            kafka_note_end(v->log, part->topic, part->partition, m->offset, part->last);
        } else if (m && m->err) {
            r = failure(v->log, m, err);
        }
        if (m) rd_kafka_message_destroy(m);
        if (r != 0) return r;
        if (m) continue;
        (void)rd_kafka_poll(v->rk, 0); /* the client's errors */
        if (clock_mono_ms() >= deadline) return nothing(v->log, err);
    }
}

static bool reached(const struct part *part) {
    int64_t next = part->next > part->low ? part->next : part->low; /* what was trimmed is not waited for */
    return next >= part->target;
}

/* Where the partitions begin and, unless the target is known, end. */
static bool look_up(struct kafka_view *v) {
    rd_kafka_topic_partition_list_t *list = list_of(v->parts, v->n);
    bool done = kafka_offsets(v->log, v->rk, list, RD_KAFKA_OFFSET_BEGINNING, KAFKA_CALL_MS, NULL) == 0;
    for (int i = 0; i < v->n && done; i++) v->parts[i].low = list->elems[i].offset;
    if (done && !v->has_target) {
        done = v->has_target = kafka_offsets(v->log, v->rk, list, RD_KAFKA_OFFSET_END, KAFKA_CALL_MS, NULL) == 0;
        for (int i = 0; i < v->n && done; i++) v->parts[i].target = list->elems[i].offset;
    }
    rd_kafka_topic_partition_list_destroy(list);
    v->asked_ms = clock_mono_ms();
    return done;
}

bool kafka_view_caught_up(void *view) {
    struct kafka_view *v = view;
    if (!v->has_target && !look_up(v)) return false;
    bool all = true;
    for (int i = 0; i < v->n; i++) all = all && reached(&v->parts[i]);
    if (!all) {
        if (clock_mono_ms() - v->asked_ms > CATCH_UP_MS) (void)look_up(v);
        return false;
    }
    v->has_target = false;
    return true;
}

void kafka_view_close(void *view) {
    struct kafka_view *v = view;
    if (v->message) rd_kafka_message_destroy(v->message);
    for (int i = 0; i < v->n; i++)
        if (v->topics[v->parts[i].topic]) (void)rd_kafka_consume_stop(v->topics[v->parts[i].topic], v->parts[i].partition);
    if (v->queue) rd_kafka_queue_destroy(v->queue);
    for (int t = 0; t < TOPIC_COUNT; t++)
        if (v->topics[t]) rd_kafka_topic_destroy(v->topics[t]);
    if (v->rk) rd_kafka_destroy(v->rk);
    mem_free(v);
}
