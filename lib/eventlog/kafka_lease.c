/*
 * Leases on Kafka, without another store: a topic of one partition, genloop.leases.v1, is the register. Whoever wants something of a lease appends a record, reads the
 * log through it, and knows what came of it; kafka_register.h has the rules and why they hold. Records are kept for two hours, which is long enough for any ttl.
 *
 * What it costs: a renewal is one append and the reading of it; a candidate asks for the end of the log. Who holds a lease and dies is followed after its
 * ttl, or at once by its own next life.
 */
#include "base/alloc.h"
#include "eventlog/kafka_internal.h"
#include "eventlog/kafka_register.h"

enum {
    CALL_MIN_MS = 1000, CALL_MAX_MS = 5000, /* of a poll: half of the ttl, within these */
    CLOSE_MS = 1000,
};

/* All leases as far as the log has been read. One per log, under its book_lock. */
struct kafka_lease_book {
    rd_kafka_topic_t *topic;
    rd_kafka_queue_t *queue;
    struct lease_register leases;
};

struct kafka_lease {
    struct kafka_log *log;
    struct lease_candidate me;
    bool asked; /* wrote a take, which may be valid */
    struct kafka_ticket *pending; /* one record at a time is on its way, so that a log that was away finds few */
};

/* ---- the book ---- */

void kafka_book_free(struct kafka_lease_book *b) {
    if (!b) return;
    if (b->topic) {
        (void)rd_kafka_consume_stop(b->topic, 0);
        rd_kafka_topic_destroy(b->topic);
    }
    if (b->queue) rd_kafka_queue_destroy(b->queue);
    lease_register_fini(&b->leases);
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
        b->leases.whole = low == 0;
        b->leases.next = low;
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

static int take_in(struct kafka_lease_book *b, const rd_kafka_message_t *m, struct error *err) {
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        if (m->offset > b->leases.next) b->leases.next = m->offset;
        return 0;
    }
    if (m->err) return kafka_code(m->err) == E_DENIED ? error_set(err, E_DENIED, "reading %s: %s", kafka_lease_topic, rd_kafka_err2str(m->err)) : 0;
    int r = lease_register_read(&b->leases, span_of(m->key, m->key_len), span_of(m->payload, m->len), m->offset, clock_mono_ms());
    return r == 0 ? 0 : error_set(err, r, "no memory for leases");
}

/* Reads what is before offset, and what is there already. */
static int read_to(struct kafka_log *l, int64_t offset, int64_t deadline_ms, struct error *err) {
    struct kafka_lease_book *b = l->book;
    for (int r = 0; r == 0;) {
        int64_t left = b->leases.next >= offset ? 0 : deadline_ms - clock_mono_ms();
        rd_kafka_message_t *m = rd_kafka_consume_queue(b->queue, (int)(left < 0 ? 0 : left));
        if (m) {
            r = take_in(b, m, err);
            rd_kafka_message_destroy(m);
            if (r != 0) return r;
        } else if (b->leases.next >= offset) {
            return 0;
        } else if (clock_mono_ms() >= deadline_ms) {
            return kafka_unavailable(l, RD_KAFKA_RESP_ERR__TIMED_OUT, err);
        }
    }
    return 0;
}

/* ---- leases ---- */

int kafka_lease_open(void *state, const char *name, const char *holder, int64_t ttl_ms, void **out, struct error *err) {
    struct kafka_lease *l = mem_zalloc(sizeof *l);
    if (!l) return error_set(err, E_NOMEM, "no memory for a lease");
    l->log = state;
    l->me.ttl_ms = ttl_ms;
    span_copy(l->me.name, sizeof l->me.name, span_str(name));
    span_copy(l->me.holder, sizeof l->me.holder, span_str(holder));
    id_make(l->me.session);
    *out = l;
    return 0;
}

/* Under the book's lock. */
static int take_or_renew(struct kafka_lease *l, uint64_t *epoch, struct error *err) {
    int64_t half = l->me.ttl_ms / 2, deadline = clock_mono_ms() + (half < CALL_MIN_MS ? CALL_MIN_MS : half > CALL_MAX_MS ? CALL_MAX_MS : half), at = 0, end, n, p;
    char text[LEASE_TEXT_MAX];
    int r = book_open(l->log, err);
    if (r == 0 && l->pending) { /* what came of it is read below; it renews nothing, having landed who knows when */
        r = kafka_await(l->log, &l->pending, deadline - clock_mono_ms(), &at, err);
        if (!l->pending) r = 0;
    }
    if (r == 0) r = read_to(l->log, 0, deadline, err);
    if (r != 0) return r;
    struct lease_register *leases = &l->log->book->leases;
    if (!lease_register_is_held_by(leases, &l->me)) { /* else the record says whether it still is */
        r = find_end(l->log, RD_KAFKA_OFFSET_END, deadline - clock_mono_ms(), &end, err);
        if (r == 0) r = read_to(l->log, end, deadline, err);
        if (r != 0) return r;
    }
    enum lease_what what = lease_register_decide(leases, &l->me, clock_mono_ms(), &n, &p);
    if (what == LEASE_WAIT) return error_set(err, E_AGAIN, "another holds the lease");
    if (what != LEASE_HOLD) l->asked = true;
    lease_record_write(&l->me, what, n, p, text);
    r = kafka_send(l->log, true, span_str(l->me.name), span_str(text), &l->pending, err);
    if (r == 0) r = kafka_await(l->log, &l->pending, deadline - clock_mono_ms(), &at, err);
    if (r == 0) r = read_to(l->log, at + 1, deadline, err);
    if (r != 0) return r;
    r = lease_register_verdict(leases, &l->me, what, n, at, epoch);
    return r == 0 ? 0 : error_set(err, r, "another holds the lease");
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
    if (l->asked) {
        char text[LEASE_TEXT_MAX];
        int64_t at;
        struct kafka_ticket *last = NULL;
        pthread_mutex_lock(&l->log->book_lock);
        lease_register_let_go(&l->log->book->leases, &l->me, text);
        pthread_mutex_unlock(&l->log->book_lock);
        if (kafka_send(l->log, true, span_str(l->me.name), span_str(text), &last, NULL) == 0) (void)kafka_await(l->log, &last, CLOSE_MS, &at, NULL); /* where this fails its time runs out */
        kafka_forget(&last);
    }
    kafka_forget(&l->pending);
    mem_free(l);
}
