/* The suite on a real Apache Kafka broker, and what only this backend has. */
#include "suite.h"

#include <librdkafka/rdkafka.h>

#include "base/alloc.h"
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
    /* After a broker's death a consumer group does not always come back, which is open: by hand until it does. */
    suite_fixture.kills = getenv("GENLOOP_KAFKA_KILLS") ? 2 : 0;
    return 0;
}
static int teardown(void **state) {
    (void)state;
    if (server.n > 0) kafka_server_stop(&server);
    return 0;
}

int main(int argc, char **argv) {
    suite_consumer(argc, argv);
    if (argc > 1) cmocka_set_test_filter(argv[1]); /* test_eventlog_kafka 'lease*' */
    return _cmocka_run_group_tests("eventlog on kafka", suite_tests, suite_count, setup, teardown);
}
