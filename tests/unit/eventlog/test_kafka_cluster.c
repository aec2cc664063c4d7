/* A cluster of three brokers that loses one after another, and then two at once, while events are published and read and a lease is held. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h wants the four above */
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/random.h"
#include "eventlog/eventlog.h"
#include "tests/unit/support/kafka_server.h"

enum { BROKERS = 3, PRODUCERS = 4, PATIENCE_MS = 120000, LEASE_MS = 20000 };

static struct kafka_server cluster;
static struct eventlog *logs;
static char tag[ID_TEXT_MAX];

static int setup(void **state) {
    (void)state;
    kafka_server_start(&cluster, BROKERS);
    struct eventlog_config c = {.url = cluster.url, .source = "/t", .publish_timeout_ms = PATIENCE_MS};
    struct error err = {0};
    int r = E_UNAVAILABLE;
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; r != 0 && clock_mono_ms() < deadline;) r = eventlog_open(&c, &logs, &err); /* the brokers find each other */
    if (r != 0) fail_msg("open: %s", err.message);
    id_make(tag);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    eventlog_close(logs);
    kafka_server_stop(&cluster);
    return 0;
}

struct producer {
    pthread_t thread;
    int number;
    atomic_int acknowledged;
    atomic_bool stop;
};

static void *produce(void *arg) {
    struct producer *p = arg;
    for (int i = 0; !atomic_load(&p->stop); i++) {
        char key[16], value[32];
        struct error err = {0};
        snprintf(key, sizeof key, "k%d", p->number);
        snprintf(value, sizeof value, "%d %d", p->number, i);
        struct event e = {.topic = TOPIC_DOCUMENTS, .key = span_str(key), .value = span_str(value), .subject = span_str(tag)};
        if (eventlog_publish(logs, &e, &err) != 0) {
            fprintf(stderr, "producer %d stopped at %d: %s\n", p->number, i, err.message);
            return NULL;
        }
        atomic_store(&p->acknowledged, i + 1);
        usleep(2000);
    }
    return NULL;
}

/* Each producer's events are acknowledged anew, n each. */
static void goes_on(struct producer *p, const char *when) {
    int before[PRODUCERS], on = 0;
    for (int i = 0; i < PRODUCERS; i++) before[i] = atomic_load(&p[i].acknowledged);
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; on < PRODUCERS && clock_mono_ms() < deadline; usleep(20000)) {
        on = 0;
        for (int i = 0; i < PRODUCERS; i++) on += atomic_load(&p[i].acknowledged) >= before[i] + 3;
    }
    if (on < PRODUCERS) fail_msg("%s: %d of %d producers go on", when, on, PRODUCERS);
}

struct reading {
    atomic_bool stop;
    int next[PRODUCERS], gaps, again;
};

static void note(struct reading *r, const struct event *e) {
    struct span rest = e->value, head;
    int64_t who = -1, i = -1;
    if (!span_eq_str(e->subject, tag) || !span_cut(&rest, ' ', &head) || span_to_i64(head, &who) != 0 || span_to_i64(rest, &i) != 0 || who < 0 || who >= PRODUCERS) return;
    if (i == r->next[who]) r->next[who]++;
    else if (i > r->next[who]) r->gaps++;
    else r->again++;
}

static void *read_group(void *arg) {
    struct reading *r = arg;
    static const enum topic topic = TOPIC_DOCUMENTS;
    struct eventlog_group *g = NULL;
    struct event e;
    if (eventlog_group_open(logs, "cluster", "m", &topic, 1, NULL, NULL, &g, NULL) != 0) return NULL;
    while (!atomic_load(&r->stop)) {
        if (eventlog_group_poll(g, 100, &e, NULL) != 0) continue;
        note(r, &e);
        (void)eventlog_group_commit(g, &e, NULL);
    }
    eventlog_group_close(g);
    return NULL;
}

struct holder {
    atomic_bool stop;
    uint64_t epoch;
    int renewals, others;
};

static void *hold(void *arg) {
    struct holder *h = arg;
    struct eventlog_lease *l = NULL;
    if (eventlog_lease_open(logs, tag, "a", LEASE_MS, &l, NULL) != 0) return NULL;
    while (!atomic_load(&h->stop)) {
        uint64_t epoch;
        int r = eventlog_lease_poll(l, &epoch, NULL);
        if (r == 0 && (h->epoch == 0 || h->epoch == epoch)) {
            h->epoch = epoch;
            h->renewals++;
        } else if (r == 0 || r == E_AGAIN) {
            h->others++; /* nobody else wants it */
        }
        usleep(200000);
    }
    eventlog_lease_close(l);
    return NULL;
}

static void loses_brokers(void **state) {
    (void)state;
    struct producer p[PRODUCERS] = {0};
    struct reading grouped = {0}, viewed = {0};
    struct holder h = {0};
    pthread_t group_thread, holder_thread;
    for (int i = 0; i < PRODUCERS; i++) {
        p[i].number = i;
        assert_int_equal(pthread_create(&p[i].thread, NULL, produce, &p[i]), 0);
    }
    assert_int_equal(pthread_create(&group_thread, NULL, read_group, &grouped), 0);
    assert_int_equal(pthread_create(&holder_thread, NULL, hold, &h), 0);
    goes_on(p, "at the beginning");
    for (int i = 0; i < BROKERS; i++) { /* each in turn: one of them leads, one coordinates, one is the controller */
        kafka_server_kill(&cluster, i);
        goes_on(p, "after a broker's death");
        kafka_server_launch(&cluster, i);
        goes_on(p, "after its return");
    }
    kafka_server_kill(&cluster, 0); /* below min.insync.replicas: nothing is acknowledged, nothing is lost */
    kafka_server_kill(&cluster, 1);
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; eventlog_healthy(logs) && clock_mono_ms() < deadline;) usleep(50000);
    assert_false(eventlog_healthy(logs));
    kafka_server_begin(&cluster, 0);
    kafka_server_begin(&cluster, 1);
    kafka_server_await(&cluster, 0);
    kafka_server_await(&cluster, 1);
    goes_on(p, "after the return of two");
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; !eventlog_healthy(logs) && clock_mono_ms() < deadline;) usleep(50000);
    assert_true(eventlog_healthy(logs));

    int all = 0;
    for (int i = 0; i < PRODUCERS; i++) atomic_store(&p[i].stop, true);
    for (int i = 0; i < PRODUCERS; i++) {
        pthread_join(p[i].thread, NULL);
        all += p[i].acknowledged;
    }
    static const enum topic topic = TOPIC_DOCUMENTS;
    struct eventlog_view *v = NULL;
    struct event e;
    assert_int_equal(eventlog_view_open(logs, &topic, 1, NULL, 0, &v, NULL), 0);
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; !eventlog_view_caught_up(v) && clock_mono_ms() < deadline;)
        if (eventlog_view_poll(v, 100, &e, NULL) == 0) note(&viewed, &e);
    eventlog_view_close(v);
    for (int i = 0; i < PRODUCERS; i++) assert_int_equal(viewed.next[i], p[i].acknowledged);
    assert_int_equal(viewed.gaps, 0);
    assert_int_equal(viewed.again, 0); /* each once in the log */
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; clock_mono_ms() < deadline; usleep(50000)) {
        int seen = 0;
        for (int i = 0; i < PRODUCERS; i++) seen += __atomic_load_n(&grouped.next[i], __ATOMIC_RELAXED);
        if (seen >= all) break;
    }
    atomic_store(&grouped.stop, true);
    atomic_store(&h.stop, true);
    pthread_join(group_thread, NULL);
    pthread_join(holder_thread, NULL);
    for (int i = 0; i < PRODUCERS; i++) assert_int_equal(grouped.next[i], p[i].acknowledged);
    assert_int_equal(grouped.gaps, 0);
    assert_true(h.renewals > 0);
    assert_int_equal(h.others, 0);
    print_message("%d events, %d of them again to the group; the lease renewed %d times\n", all, grouped.again, h.renewals);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(loses_brokers)};
    return cmocka_run_group_tests_name("eventlog on a cluster of three brokers", tests, setup, teardown);
}
