/*
 * Leases on Kafka, without another store: a topic of one partition, genloop.leases.v1, is the register. Whoever wants something of a lease appends a record;
 * the order of the log decides, and everybody who reads it comes to the same verdict. The epoch of a take is its offset + 1: the broker gives each offset
 * once and only ever higher ones, so that no two holders ever have the same epoch and epochs only rise.
 *
 * A record is keyed by the lease's name: "1 WHAT HOLDER SESSION TTL N" (a session is one life of a holder).
 *   take N   "I have read the log through N." Valid where the lease is free, where no valid record of it stands behind N, or, as `anew`, from a former life of the
 *            same holder. Valid: SESSION holds it, with the record's offset + 1 as its epoch.
 *   hold N   Renews the lease of epoch N. Valid from the session that holds it.
 *   free N   Lets go. Likewise.
 *
 *            take (free)                 hold
 *     free ───────────────► held by S ◄──────┐        take by S' with N ≥ the last valid record: held by S', a higher epoch
 *       ▲                     │   └──────────┘
 *       └────── free ─────────┘
 *
 * Time. No clock but one's own monotonic one, and only by its owner: a candidate may write its take when, by its own clock, no record of the lease has come for the
 * ttl that the holder stated. The holder counts the same ttl from before its last successful hold was sent. The candidate starts counting when it reads that hold,
 * which is later; so the holder has stopped before the candidate's take is written. A hold that was on its way makes the take invalid, since it stands behind N.
 * A record that a broken connection has delayed is judged when it lands, by the same rules: a late take names an old N, a late hold an old epoch.
 *
 * Start. A record is kept for two hours, long enough for any ttl, and a process reads what is kept. Where the log begins at 0 it knows everything; else what it
 * knows of a lease is not `sure` at first: a take at the beginning of what is kept may have been invalid. A hold makes it sure, for it is written only by a
 * session that knows itself the holder (the hold of one that does not know yet that it was superseded has a lower epoch than the next one, and is not repeated). One that is
 * not sure claims nothing but what is certain: its own take with no other record of the lease between N and itself.
 *
 * What it costs: a renewal is one append and the reading of it; a candidate asks for the end of the log. Who holds a lease and dies is followed after
 * its ttl, or at once by its own next life.
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "eventlog/kafka_internal.h"

enum {
    LEASES_MAX = 4096,            /* names in the two hours that are kept; beyond it the one heard of longest ago is forgotten */
    CALL_MIN_MS = 1000, CALL_MAX_MS = 5000, /* of a poll: half of the ttl, within these */
    CLOSE_MS = 1000,
    RECORD_MAX = 2 * EVENTLOG_GROUP_NAME_MAX + 128,
};

struct entry {
    char name[EVENTLOG_GROUP_NAME_MAX + 1], holder[EVENTLOG_GROUP_NAME_MAX + 1], session[ID_TEXT_MAX];
    bool held, sure;
    int64_t ttl_ms;
    int64_t epoch;   /* of the last valid take */
    int64_t offset;  /* of the last valid record */
    int64_t heard;   /* of the last record, valid or not */
    int64_t seen_ms; /* when we read that one, by our clock */
    int64_t before;  /* the record before that one, as `heard` */
};

/* All leases as far as the log has been read. One per log, under its book_lock. */
struct kafka_lease_book {
    rd_kafka_topic_t *topic;
    rd_kafka_queue_t *queue;
    int64_t next; /* everything before this offset has been read */
    bool whole;   /* the log began at 0 */
    struct entry *entries;
    size_t n, capacity;
};

struct kafka_lease {
    struct kafka_log *log;
    char name[EVENTLOG_GROUP_NAME_MAX + 1], holder[EVENTLOG_GROUP_NAME_MAX + 1], session[ID_TEXT_MAX];
    int64_t ttl_ms;
    bool asked, had_it; /* wrote a take; one of them was valid */
};

/* ---- the rules ---- */

struct record {
    enum { TAKE, ANEW, HOLD, FREE } what;
    struct span name, holder, session;
    int64_t ttl_ms, n;
};

static const char *const words[] = {[TAKE] = "take", [ANEW] = "anew", [HOLD] = "hold", [FREE] = "free"};

static bool parse(struct span name, struct span text, struct record *r) {
    struct span version, what, ttl;
    *r = (struct record){.name = name};
    if (name.len == 0 || name.len > EVENTLOG_GROUP_NAME_MAX) return false;
    if (!span_cut(&text, ' ', &version) || !span_eq_str(version, "1") || !span_cut(&text, ' ', &what) || !span_cut(&text, ' ', &r->holder) || !span_cut(&text, ' ', &r->session) ||
        !span_cut(&text, ' ', &ttl))
        return false;
    if (r->holder.len > EVENTLOG_GROUP_NAME_MAX || r->session.len >= ID_TEXT_MAX || span_to_i64(ttl, &r->ttl_ms) != 0 || span_to_i64(text, &r->n) != 0) return false;
    for (r->what = TAKE; r->what <= FREE; r->what++)
        if (span_eq_str(what, words[r->what])) return true;
    return false;
}

static struct entry *find(struct kafka_lease_book *b, struct span name) {
    for (size_t i = 0; i < b->n; i++)
        if (span_eq_str(name, b->entries[i].name)) return &b->entries[i];
    return NULL;
}

/* NULL without memory. */
static struct entry *find_or_add(struct kafka_lease_book *b, struct span name) {
    struct entry *e = find(b, name);
    if (e) return e;
    if (b->n < LEASES_MAX) {
        if (array_reserve(&b->entries, &b->capacity, b->n + 1, sizeof *b->entries) != 0) return NULL;
        e = &b->entries[b->n++];
    } else {
        e = &b->entries[0];
        for (size_t i = 1; i < b->n; i++)
            if (b->entries[i].heard < e->heard) e = &b->entries[i];
    }
    *e = (struct entry){.sure = b->whole, .epoch = -1, .offset = -1, .heard = -1, .before = -1};
    span_copy(e->name, sizeof e->name, name);
    return e;
}

static void hold_by(struct entry *e, const struct record *r, int64_t epoch, bool sure) {
    span_copy(e->holder, sizeof e->holder, r->holder);
    span_copy(e->session, sizeof e->session, r->session);
    e->held = true;
    e->sure = sure;
    e->epoch = epoch;
}

static void apply(struct entry *e, const struct record *r, int64_t offset, int64_t now_ms) {
    bool same = e->held && span_eq_str(r->session, e->session), valid = false;
    switch (r->what) {
    case TAKE:
    case ANEW:
        valid = !e->held || e->offset <= r->n || (r->what == ANEW && !same && span_eq_str(r->holder, e->holder));
        if (valid) hold_by(e, r, offset + 1, e->sure);
        break;
    case HOLD:
        valid = same || r->n > e->epoch || !e->sure;
        if (valid && !same) hold_by(e, r, r->n, true);
        if (valid) e->sure = true;
        break;
    case FREE:
        valid = same;
        if (valid) e->held = false;
        break;
    }
    if (valid) {
        e->offset = offset;
        e->ttl_ms = r->ttl_ms;
    }
    e->before = e->heard;
    e->heard = offset;
    e->seen_ms = now_ms;
}

/* ---- the book ---- */

void kafka_book_free(struct kafka_lease_book *b) {
    if (!b) return;
    if (b->topic) {
        (void)rd_kafka_consume_stop(b->topic, 0);
        rd_kafka_topic_destroy(b->topic);
    }
    if (b->queue) rd_kafka_queue_destroy(b->queue);
    mem_free(b->entries);
    mem_free(b);
}

static int find_end(struct kafka_log *l, int64_t which, int64_t timeout_ms, int64_t *offset, struct error *err) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, kafka_lease_topic, 0);
    int r = kafka_offsets(l, l->control, list, which, timeout_ms, err);
    if (r == 0) *offset = list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    return r;
}

static int book_open(struct kafka_log *l, struct error *err) {
    if (l->book) return 0;
    struct kafka_lease_book *b = mem_zalloc(sizeof *b);
    if (!b) return error_set(err, E_NOMEM, "no memory for leases");
    int64_t low;
    int r = find_end(l, RD_KAFKA_OFFSET_BEGINNING, KAFKA_CALL_MS, &low, err);
    if (r == 0) {
        b->whole = low == 0;
        b->next = low;
        b->queue = rd_kafka_queue_new(l->control);
        b->topic = rd_kafka_topic_new(l->control, kafka_lease_topic, NULL);
        if (!b->topic || rd_kafka_consume_start_queue(b->topic, 0, low, b->queue) != 0) r = error_set(err, E_INTERNAL, "reading %s: %s", kafka_lease_topic, rd_kafka_err2str(rd_kafka_last_error()));
    }
    if (r != 0) {
        kafka_book_free(b);
        return r;
    }
    l->book = b;
    return 0;
}

/* Reads what is before offset, and what is there already. */
static int read_to(struct kafka_log *l, int64_t offset, int64_t deadline_ms, struct error *err) {
    struct kafka_lease_book *b = l->book;
    for (;;) {
        int64_t left = b->next >= offset ? 0 : deadline_ms - clock_mono_ms();
        rd_kafka_message_t *m = rd_kafka_consume_queue(b->queue, (int)(left < 0 ? 0 : left));
        if (!m) {
            if (b->next >= offset) return 0;
            if (clock_mono_ms() >= deadline_ms) return kafka_unavailable(l, RD_KAFKA_RESP_ERR__TIMED_OUT, err);
            continue;
        }
        int r = 0;
        if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            if (m->offset > b->next) b->next = m->offset;
        } else if (!m->err && m->offset >= b->next) {
            struct record record;
            struct entry *e = NULL;
            b->next = m->offset + 1;
            if (parse(span_of(m->key, m->key_len), span_of(m->payload, m->len), &record)) { /* what is none was not written by us */
                e = find_or_add(b, record.name);
                if (e) apply(e, &record, m->offset, clock_mono_ms());
                else r = error_set(err, E_NOMEM, "no memory for leases");
            }
        } else if (m->err && kafka_code(m->err) == E_DENIED) {
            r = error_set(err, E_DENIED, "reading %s: %s", kafka_lease_topic, rd_kafka_err2str(m->err));
        }
        rd_kafka_message_destroy(m);
        if (r != 0) return r;
    }
}

/* ---- leases ---- */

int kafka_lease_open(void *state, const char *name, const char *holder, int64_t ttl_ms, void **out, struct error *err) {
    struct kafka_lease *l = mem_zalloc(sizeof *l);
    if (!l) return error_set(err, E_NOMEM, "no memory for a lease");
    l->log = state;
    l->ttl_ms = ttl_ms;
    span_copy(l->name, sizeof l->name, span_str(name));
    span_copy(l->holder, sizeof l->holder, span_str(holder));
    id_make(l->session);
    *out = l;
    return 0;
}

static int write_record(struct kafka_lease *l, int what, int64_t n, int64_t timeout_ms, int64_t *offset, struct error *err) {
    char text[RECORD_MAX];
    snprintf(text, sizeof text, "1 %s %s %s %" PRId64 " %" PRId64, words[what], l->holder, l->session, l->ttl_ms, n);
    return kafka_write(l->log, true, span_str(l->name), span_str(text), timeout_ms < 1 ? 1 : timeout_ms, offset, err);
}

static bool is_ours(const struct kafka_lease *l, const struct entry *e) { return e && e->held && strcmp(e->session, l->session) == 0; }

/* Under the book's lock. */
static int take_or_renew(struct kafka_lease *l, uint64_t *epoch, struct error *err) {
    int64_t half = l->ttl_ms / 2, deadline = clock_mono_ms() + (half < CALL_MIN_MS ? CALL_MIN_MS : half > CALL_MAX_MS ? CALL_MAX_MS : half), at = 0, end;
    int r = book_open(l->log, err);
    if (r == 0) r = read_to(l->log, 0, deadline, err);
    if (r != 0) return r;
    struct kafka_lease_book *b = l->log->book;
    struct entry *e = find(b, span_str(l->name));
    int what = HOLD;
    if (!is_ours(l, e)) {
        r = find_end(l->log, RD_KAFKA_OFFSET_END, deadline - clock_mono_ms(), &end, err);
        if (r == 0) r = read_to(l->log, end, deadline, err);
        if (r != 0) return r;
        e = find(b, span_str(l->name));
        /* Only before it was ever ours may it be taken from our name: of two that live under one name the newer wins, once. */
        bool former_life = e && e->held && e->sure && !l->had_it && strcmp(e->holder, l->holder) == 0;
        bool expired = e && e->held && clock_mono_ms() - e->seen_ms >= e->ttl_ms;
        what = is_ours(l, e) ? HOLD : former_life ? ANEW : TAKE;
        if (what == TAKE && e && e->held && !expired) return error_set(err, E_AGAIN, "another holds the lease");
    }
    int64_t through = b->next - 1;
    if (what != HOLD) l->asked = true;
    r = write_record(l, what, what == HOLD ? e->epoch : through, deadline - clock_mono_ms(), &at, err);
    if (r == 0) r = read_to(l->log, at + 1, deadline, err);
    if (r != 0) return r;
    e = find(b, span_str(l->name));
    if (!is_ours(l, e)) return error_set(err, E_AGAIN, "another holds the lease");
    bool alone = e->heard == at && e->before <= through; /* no record of another between what we had read and our own */
    if (what != HOLD && !e->sure && !alone) return error_set(err, E_AGAIN, "another wants the lease too");
    if (what != HOLD && alone) e->sure = true;
    l->had_it = true;
    *epoch = (uint64_t)e->epoch;
    return 0;
}

int kafka_lease_poll(void *lease, uint64_t *epoch, struct error *err) {
    struct kafka_lease *l = lease;
    pthread_mutex_lock(&l->log->book_lock);
    int r = take_or_renew(l, epoch, err);
    pthread_mutex_unlock(&l->log->book_lock);
    return r;
}

void kafka_lease_close(void *lease) {
    struct kafka_lease *l = lease;
    int64_t at;
    if (l->asked) (void)write_record(l, FREE, 0, CLOSE_MS, &at, NULL); /* where this fails its time runs out */
    mem_free(l);
}
