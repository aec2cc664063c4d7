/* The suite on Redis Streams, and what only this backend has. */
#include "suite.h"

#include "base/alloc.h"
#include "tests/unit/support/redis_server.h"

static struct redis_server server;

static void kill_server(struct suite_fixture *f) {
    (void)f;
    redis_server_kill(&server);
}
static void start_server(struct suite_fixture *f) {
    (void)f;
    redis_server_launch(&server);
}
static void publish_foreign(struct suite_fixture *f, const char *topic, const char *key, const char *value) {
    struct redis *r = NULL;
    char stream[64];
    snprintf(stream, sizeof stream, "%s:0", topic);
    assert_int_equal(redis_new(f->url, 1000, &r, NULL), 0);
    assert_int_equal(redis_commandl(r, NULL, NULL, "XADD", stream, "*", "key", key, "value", value, "content-type", "application/json", NULL), 0);
    redis_free(r);
}

struct suite_fixture suite_fixture = {
    .compact_properties = "compact.lag.ms=0",
    .kill_server = kill_server,
    .start_server = start_server,
    .kills = 6,
    .away_ms = 300,
    .lease_ms = 1500,
    .publish_foreign = publish_foreign,
};

static int setup(void **state) {
    (void)state;
    redis_server_start(&server);
    span_copy(suite_fixture.url, sizeof suite_fixture.url, span_str(server.url));
    return 0;
}
static int teardown(void **state) {
    (void)state;
    redis_server_stop(&server);
    return 0;
}

int main(int argc, char **argv) {
    suite_consumer(argc, argv);
    return _cmocka_run_group_tests("eventlog on redis", suite_tests, suite_count, setup, teardown);
}
