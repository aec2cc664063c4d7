/*
 * What every backend of the event log must do: one table of tests, run by test_redis and by test_kafka. A backend's test gives a
 * fixture; the suite does not rely on empty topics (a broker keeps them), so each test marks its events with a tag of its own.
 */
#ifndef GENLOOP_TESTS_SUITE_H
#define GENLOOP_TESTS_SUITE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h wants the four above */
#include <cmocka.h>

#include "eventlog/eventlog.h"

struct suite_fixture {
    char url[128];
    const char *properties;                                 /* for all clients */
    const char *compact_properties;                         /* for those of the compaction test */
    void (*kill_server)(struct suite_fixture *);            /* as a crash */
    void (*start_server)(struct suite_fixture *);           /* again; returns when it serves */
    int kills;                                              /* in the test of restarts */
    int64_t away_ms;                                        /* how long the server stays away after each second one */
    int64_t publish_timeout_ms;                             /* 0: the log's own; longer where a restart takes long */
    int64_t lease_ms;                                       /* so long that a busy machine can renew it */
    void (*publish_foreign)(struct suite_fixture *, const char *topic, const char *key, const char *value); /* as a producer that is not ours would, without headers */
};
extern struct suite_fixture suite_fixture; /* the backend's test defines it */

extern const struct CMUnitTest suite_tests[];
extern const size_t suite_count;
/* First thing in main: where argv says that this is a consumer to be killed, runs it and does not return. */
void suite_consumer(int argc, char **argv);
/* For tests of a backend's own. */
struct eventlog *suite_open(const char *source);

#endif
