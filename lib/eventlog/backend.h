/*
 * Between the front (eventlog.c: checks, defaults, the cap on what waits, dead letters, metrics) and a backend. Not for users of lib/eventlog.
 *
 * A new backend fills in struct eventlog_backend, is named in the table of eventlog.c, and passes tests/unit/eventlog/support/suite.c.
 */
#ifndef GENLOOP_EVENTLOG_BACKEND_H
#define GENLOOP_EVENTLOG_BACKEND_H

#include <pthread.h>

#include "base/clock.h"
#include "base/random.h"
#include "eventlog/eventlog.h"

/* An event on its way into the log: one block of memory, the event's spans point into it. */
struct publication {
    struct publication *next;
    struct event event; /* complete: no span is left for a default */
    char id[ID_TEXT_MAX], time_text[TIME_TEXT_MAX];
    int64_t begun_us, deadline_ms; /* monotonic */
    size_t size;
    void *arg;
    void (*on_done)(void *arg, int r);
    struct error *err; /* of the synchronous form; NULL otherwise */
    char bytes[];
};

/* The CloudEvents headers of an event, in the order in which both backends write them. */
enum { EVENT_HEADERS = 7 };
enum event_header { HEADER_ID, HEADER_SOURCE, HEADER_TYPE, HEADER_TIME, HEADER_SUBJECT, HEADER_CONTENT_TYPE, HEADER_TRACEPARENT };
extern const char *const event_header_names[EVENT_HEADERS]; /* "ce_id" … */
/* The values in that order; time_text is where ce_time is written. */
void event_headers(const struct event *e, char time_text[TIME_TEXT_MAX], struct span values[EVENT_HEADERS]);
/* Takes one header that was read into the event; unknown names are no matter. */
void event_take_header(struct event *e, struct span name, struct span value);
/* What a foreign producer left out: the type, the content type; an id made of where the event stands (written into id). */
void event_complete(struct event *e, char id[EVENT_ID_MAX + 1]);

struct eventlog_backend {
    const char *const *schemes; /* "redis:" …, ended by NULL */
    int (*open)(struct eventlog *log, const struct eventlog_config *c, void **state, struct error *err); /* c with the defaults filled in */
    void (*close)(void *state); /* ends what is still waiting with E_CANCELLED */
    bool (*healthy)(void *state);
    const char *(*identity)(void *state);
    void (*submit)(void *state, struct publication *p); /* takes it; eventlog_published gives it back */

    int (*group_open)(void *state, const char *group, const char *member, const enum topic *topics, int n, const struct eventlog_group_events *events,
                      void *arg, void **g, struct error *err);
    int (*group_poll)(void *g, int64_t timeout_ms, struct event *e, struct error *err);
    int (*group_commit)(void *g, const struct event *e, struct error *err);
    int (*group_rewind)(void *g, const struct event *e, struct error *err);
    int64_t (*group_lag)(void *g);
    void (*group_close)(void *g);

    int (*view_open)(void *state, const enum topic *topics, int n, const struct eventlog_position *from, int n_from, void **v, struct error *err);
    int (*view_poll)(void *v, int64_t timeout_ms, struct event *e, struct error *err);
    bool (*view_caught_up)(void *v);
    void (*view_close)(void *v);
    int (*ends)(void *state, const enum topic *topics, int n, struct eventlog_position *ends, int *n_ends, struct error *err);

    int (*lease_open)(void *state, const char *name, const char *holder, int64_t ttl_ms, void **l, struct error *err);
    int (*lease_poll)(void *l, uint64_t *epoch, struct error *err);
    void (*lease_close)(void *l);
};

extern const struct eventlog_backend eventlog_redis, eventlog_kafka;

/* For tests of a backend's own. */
void *eventlog_backend_state(struct eventlog *log);
/* Ends a publication: counts it, tells its owner, frees it. message: why it failed, NULL where r is 0. From any thread. */
void eventlog_published(struct eventlog *log, struct publication *p, int r, const char *message);
/* The gauge genloop_eventlog_lag of a group. */
struct metric *eventlog_lag_metric(const char *group);
/* Calls on_property for each line of properties; E_INVALID names a line without '='. */
int eventlog_properties(const char *text, void *arg, int (*on_property)(void *arg, struct span key, struct span value, struct error *err), struct error *err);

/* A condition on the monotonic clock, and waiting on it for so many milliseconds at most. */
void cond_init_monotonic(pthread_cond_t *c);
void cond_wait_ms(pthread_cond_t *c, pthread_mutex_t *m, int64_t ms);

#endif
