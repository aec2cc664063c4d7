/* The suite on a real Apache Kafka broker, and what only this backend has. */
#include "suite.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "eventlog/kafka_internal.h"
#include "tests/unit/support/kafka_server.h"

static struct kafka_server server;

static void kill_server(struct suite_fixture *f) {
    (void)f;
    kafka_server_kill(&server, 0);
}
static void start_server(struct suite_fixture *f) {
    (void)f;
    kafka_server_launch(&server, 0);
}

/* By librdkafka as it is: no header, a partitioner of its own. */
static void publish_foreign(struct suite_fixture *f, const char *topic, const char *key, const char *value) {
    char why[256];
    rd_kafka_conf_t *c = rd_kafka_conf_new();
    assert_int_equal(rd_kafka_conf_set(c, "bootstrap.servers", f->url + strlen("kafka://"), why, sizeof why), RD_KAFKA_CONF_OK);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, c, why, sizeof why);
    assert_non_null(rk);
    assert_int_equal(rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_KEY(key, strlen(key)), RD_KAFKA_V_VALUE((void *)(uintptr_t)value, strlen(value)),
                                       RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END),
                     RD_KAFKA_RESP_ERR_NO_ERROR);
    assert_int_equal(rd_kafka_flush(rk, 30000), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_destroy(rk);
}

struct suite_fixture suite_fixture = {
    .properties = "compact.lag.ms=0", /* read by whoever makes the topics */
    .compact_properties = "compact.lag.ms=0",
    .kill_server = kill_server,
    .start_server = start_server,
    .kills = 2,
    .away_ms = EVENTLOG_SESSION_MS + 2000, /* every member's session has run out */
    .publish_timeout_ms = 120000, /* a broker takes 5 to 30 s to come back */
    .lease_ms = 4000,
    .publish_foreign = publish_foreign,
};

static int setup(void **state) {
    (void)state;
    const char *there = getenv("GENLOOP_TEST_KAFKA"); /* a broker to try things on; it is not killed */
    if (!there) kafka_server_start(&server, 1);
    else span_copy(server.url, sizeof server.url, span_str(there));
    span_copy(suite_fixture.url, sizeof suite_fixture.url, span_str(server.url));
    return 0;
}
static int teardown(void **state) {
    (void)state;
    if (server.n > 0) kafka_server_stop(&server);
    return 0;
}

/* ---- what only this backend has ---- */

enum { PATIENCE_MS = 60000 };

static struct kafka_log *state_of(struct eventlog *log) { return eventlog_backend_state(log); }

static void publish(struct eventlog *log, const char *tag, const char *value) {
    struct error err = {0};
    struct event e = {.topic = TOPIC_DATASETS, .key = SPAN("k"), .value = span_str(value), .subject = span_str(tag)};
    if (eventlog_publish(log, &e, &err) != 0) fail_msg("publish: %s", err.message);
}

static bool next_of(struct eventlog_group *g, const char *tag, struct event *e) {
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; clock_mono_ms() < deadline;)
        if (eventlog_group_poll(g, 100, e, NULL) == 0 && span_eq_str(e->subject, tag)) return true;
    return false;
}

static double replaced(const char *kind) {
    char label[32];
    snprintf(label, sizeof label, "client=\"%s\"", kind);
    return metric_value(metric_counter("genloop_eventlog_clients_replaced_total", label, ""));
}

/* A client that the coordinator's absence has killed: nobody else has its name, so another takes its place. */
static void dead_member_is_replaced(void **state) {
    (void)state;
    static const enum topic topic = TOPIC_DATASETS;
    struct eventlog *log = suite_open("/t");
    struct eventlog_group *g = NULL;
    struct event e;
    char tag[ID_TEXT_MAX], name[64];
    snprintf(name, sizeof name, "g-%s", id_make(tag));
    publish(log, tag, "1");
    publish(log, tag, "2");
    assert_int_equal(eventlog_group_open(log, name, "m", &topic, 1, NULL, NULL, &g, NULL), 0);
    assert_true(next_of(g, tag, &e));
    double before = replaced("member");
    assert_int_equal(rd_kafka_test_fatal_error(kafka_group_client(state_of(log)->groups), RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID, "test"), RD_KAFKA_RESP_ERR_NO_ERROR);
    assert_true(next_of(g, tag, &e));
    if (span_eq_str(e.value, "2")) assert_true(next_of(g, tag, &e)); /* what had been fetched; it comes again */
    assert_true(span_eq_str(e.value, "1"));
    assert_true(replaced("member") == before + 1);
    assert_int_equal(eventlog_group_commit(g, &e, NULL), 0);
    assert_true(next_of(g, tag, &e));
    assert_true(span_eq_str(e.value, "2"));
    assert_int_equal(eventlog_group_commit(g, &e, NULL), 0);
    eventlog_group_close(g);
    eventlog_close(log);
}

static void dead_producer_is_replaced(void **state) {
    (void)state;
    static const enum topic topic = TOPIC_DATASETS;
    struct eventlog *log = suite_open("/t");
    struct eventlog_lease *lease = NULL;
    struct eventlog_view *v = NULL;
    char tag[ID_TEXT_MAX];
    uint64_t epoch, again;
    id_make(tag);
    publish(log, tag, "before");
    assert_int_equal(eventlog_lease_open(log, tag, "a", 30000, &lease, NULL), 0);
    assert_int_equal(eventlog_lease_poll(lease, &epoch, NULL), 0);
    double before = replaced("producer");
    assert_int_equal(rd_kafka_test_fatal_error(state_of(log)->producer, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "test"), RD_KAFKA_RESP_ERR_NO_ERROR);
    struct event e = {.topic = TOPIC_DATASETS, .key = SPAN("k"), .value = SPAN("after"), .subject = span_str(tag)};
    int r = E_UNAVAILABLE;
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; r == E_UNAVAILABLE && clock_mono_ms() < deadline;) r = eventlog_publish(log, &e, NULL); /* as callers do */
    assert_int_equal(r, 0);
    assert_true(replaced("producer") == before + 1);
    assert_int_equal(eventlog_lease_poll(lease, &again, NULL), 0);
    assert_true(again == epoch);
    assert_int_equal(eventlog_view_open(log, &topic, 1, NULL, 0, &v, NULL), 0);
    int seen = 0;
    while (seen < 2) {
        assert_true(eventlog_view_poll(v, PATIENCE_MS, &e, NULL) == 0);
        if (!span_eq_str(e.subject, tag)) continue;
        assert_true(span_eq_str(e.value, seen == 0 ? "before" : "after"));
        seen++;
    }
    eventlog_view_close(v);
    eventlog_lease_close(lease);
    eventlog_close(log);
}

static void refused_settings(void **state) {
    (void)state;
    static const struct {
        const char *name, *properties, *says;
    } cases[] = {
        {"what the log sets itself", "acks=1", "the log sets acks itself"},
        {"a key that nobody knows", "acls=1", "No such configuration property"},
        {"a value that is none", "linger.ms=long", "linger.ms"},
        {"a replication factor that is none", "replication.factor=0", "replication.factor=1..64"},
        {"a certificate that is not there", "security.protocol=ssl\nssl.ca.location=/nowhere/ca.pem", "ssl.ca.location"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct eventlog_config c = {.url = suite_fixture.url, .source = "/t", .properties = cases[i].properties};
        struct eventlog *log = NULL;
        struct error err = {0};
        if (eventlog_open(&c, &log, &err) != E_INVALID || !strstr(err.message, cases[i].says)) fail_msg("%s: %s", cases[i].name, err.message);
    }
    static const char *const urls[] = {"kafka://", "kafka:///", "kafka://user:secret@host:9092", "kafka://host:9092/path"};
    for (size_t i = 0; i < sizeof urls / sizeof urls[0]; i++) {
        struct eventlog_config c = {.url = urls[i], .source = "/t"};
        struct eventlog *log = NULL;
        struct error err = {0};
        if (eventlog_open(&c, &log, &err) != E_INVALID) fail_msg("%s: %s", urls[i], err.message);
        assert_null(strstr(err.message, "secret"));
    }
}

/* The whole configuration of a topic, as a careless operator sets it. */
static void set_config(struct eventlog *log, const char *topic, const char *const *pairs) {
    rd_kafka_t *rk = state_of(log)->producer;
    rd_kafka_ConfigResource_t *c = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topic);
    for (; pairs[0]; pairs += 2) assert_int_equal(rd_kafka_ConfigResource_set_config(c, pairs[0], pairs[1]), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_queue_t *q = rd_kafka_queue_new(rk);
    rd_kafka_AlterConfigs(rk, &c, 1, NULL, q);
    rd_kafka_event_t *ev = rd_kafka_queue_poll(q, PATIENCE_MS);
    assert_non_null(ev);
    assert_int_equal(rd_kafka_event_error(ev), RD_KAFKA_RESP_ERR_NO_ERROR);
    rd_kafka_event_destroy(ev);
    rd_kafka_queue_destroy(q);
    rd_kafka_ConfigResource_destroy(c);
}

static void careless_cluster(void **state) {
    (void)state;
    static const char *const good[] = {"cleanup.policy", "delete", "retention.ms", "-1", "retention.bytes", "-1", NULL};
    static const char *const expires[] = {"cleanup.policy", "delete", "retention.ms", "604800000", "retention.bytes", "-1", NULL};
    static const char *const unclean[] = {"cleanup.policy", "delete", "retention.ms", "-1", "retention.bytes", "-1", "unclean.leader.election.enable", "true", NULL};
    static const char *const compact[] = {"cleanup.policy", "compact", "retention.ms", "-1", "retention.bytes", "-1", NULL};
    static const struct {
        const char *const *pairs;
        const char *says;
    } cases[] = {{expires, "genloop.erasures.v1 has retention.ms=604800000, which must be -1"}, {unclean, "unclean.leader.election.enable=true"}, {compact, "cleanup.policy=compact"}};
    struct eventlog *log = suite_open("/t"), *other = NULL;
    struct eventlog_config c = {.url = suite_fixture.url, .source = "/t"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        set_config(log, "genloop.erasures.v1", cases[i].pairs);
        int r = 0;
        for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; r == 0 && clock_mono_ms() < deadline;) { /* the cluster takes a moment to know it */
            r = eventlog_open(&c, &other, &err);
            if (r == 0) eventlog_close(other);
        }
        if (r != E_STATE || !strstr(err.message, cases[i].says)) fail_msg("%s: %s", cases[i].says, err.message);
    }
    c.properties = "durability=unchecked";
    assert_int_equal(eventlog_open(&c, &other, NULL), 0); /* who knows better says so */
    eventlog_close(other);
    set_config(log, "genloop.erasures.v1", good);
    c.properties = NULL;
    int r = E_STATE;
    for (int64_t deadline = clock_mono_ms() + PATIENCE_MS; r == E_STATE && clock_mono_ms() < deadline;) r = eventlog_open(&c, &other, NULL);
    assert_int_equal(r, 0);
    assert_string_equal(eventlog_identity(log), eventlog_identity(other));
    eventlog_close(other);
    eventlog_close(log);
}

static void offsets_of_another_log(void **state) {
    (void)state;
    static const enum topic topic = TOPIC_DATASETS;
    struct eventlog *log = suite_open("/t");
    static const char *const offsets[] = {"1700000000000-0", "-1", "x", "999999999999"};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        struct eventlog_position from = {.topic = topic};
        struct eventlog_view *v = NULL;
        struct error err = {0};
        span_copy(from.offset, sizeof from.offset, span_str(offsets[i]));
        if (eventlog_view_open(log, &topic, 1, &from, 1, &v, &err) != E_INVALID) fail_msg("%s: %s", offsets[i], err.message);
    }
    eventlog_close(log);
}

int main(int argc, char **argv) {
    suite_consumer(argc, argv);
    if (argc > 1) cmocka_set_test_filter(argv[1]); /* test_eventlog_kafka 'lease*' */
    static const struct CMUnitTest own[] = {cmocka_unit_test(refused_settings), cmocka_unit_test(careless_cluster), cmocka_unit_test(offsets_of_another_log),
                                            cmocka_unit_test(dead_member_is_replaced), cmocka_unit_test(dead_producer_is_replaced)};
    struct CMUnitTest all[64];
    size_t n = sizeof own / sizeof own[0];
    ASSERT(n + suite_count <= 64);
    memcpy(all, own, sizeof own);
    memcpy(all + n, suite_tests, suite_count * sizeof *suite_tests);
    return _cmocka_run_group_tests("eventlog on kafka", all, n + suite_count, setup, teardown);
}
