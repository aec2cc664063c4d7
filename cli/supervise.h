/*
 * What the supervisor decides: who runs, in which order they start and stop, when what ended starts again. Pure: events and a time in, actions out; supervisor.c carries them out.
 *
 *     ┌──────── exited, by itself ───────────┐
 *     ▼                                      │
 *   WAITING ──START──► RUNNING (ready or not) ──TERM──► STOPPING ──exited──► GONE ──FORGET──►
 *     │   ▲                                               │   │
 *     │   └──────── exited, and wanted again ─────────────┘   └─KILL where it takes too long
 *     └── no longer wanted ──► GONE
 *
 * Start: the servers of the log and the cache first, the services together when both answer. Stop: the gateway, so that nothing new comes in; then the services; the servers last,
 * so that whoever drains can still write. A replica that is no longer wanted drains while everything else goes on.
 *
 * Back-off. What was ready and then ended starts again at once, and may do so RESTART_BURST times in a row and once a second for ever: a person or a test that kills does not wait.
 * Beyond that it waits RESTART_LOOP_MS. What ends before it was ever ready waits twice as long each time, from RESTART_FIRST_MS to RESTART_MAX_MS; the first time it does not wait.
 * Exit code 2 is a configuration that will be wrong the next time too: RESTART_MAX_MS at once.
 */
#ifndef GENLOOP_CLI_SUPERVISE_H
#define GENLOOP_CLI_SUPERVISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum supervise_kind { SUPERVISE_LOG, SUPERVISE_CACHE, SUPERVISE_FEEDBACK, SUPERVISE_INGEST, SUPERVISE_TRAINER, SUPERVISE_INFERENCE, SUPERVISE_GATEWAY, SUPERVISE_KINDS };
enum supervise_state { SUPERVISE_WAITING, SUPERVISE_RUNNING, SUPERVISE_STOPPING, SUPERVISE_GONE };
enum supervise_phase { SUPERVISE_STARTS, SUPERVISE_RUNS, SUPERVISE_STOPS, SUPERVISE_STOPPED };

enum {
    SUPERVISE_REPLICAS_MAX = 64, /* of one machine: more than it has cores to share */
    SUPERVISE_CHILDREN_MAX = SUPERVISE_REPLICAS_MAX + SUPERVISE_KINDS,
    SUPERVISE_NAME_MAX = 24,
    RESTART_BURST = 20,
    RESTART_REFILL_MS = 1000,
    RESTART_LOOP_MS = 1000,
    RESTART_FIRST_MS = 100,
    RESTART_MAX_MS = 30000,
    START_FAILURES_MAX = 5, /* of one child in a row: the start of the platform is given up */
    STOP_GRACE_MS = 5000,   /* beyond what a service allows itself to drain */
    STOP_SERVER_MS = 20000, /* Redis writes out what it holds */
    STOP_HURRY_MS = 2000,   /* somebody asked twice */
};

struct supervise_child {
    enum supervise_kind kind;
    int index; /* of a replica, from 1; 0 of what there is one of */
    char name[SUPERVISE_NAME_MAX]; /* "gateway", "inference-2", "log" */
    enum supervise_state state;
    bool wanted, ready;
    bool was_ready;      /* in this life */
    int restarts;        /* times it was started again after it had ended by itself */
    int failures;        /* ends in a row before it was ready */
    int last_status;     /* as process_spawn tells it; of the last end by itself */
    bool ended;          /* last_status is one */
    bool killed;         /* KILL has been asked for */
    int tokens;          /* restarts that need not wait */
    int64_t tokens_ms;   /* since when they fill up */
    int64_t due_ms;      /* WAITING: not before */
    int64_t stop_ms;     /* STOPPING: KILL then */
    int64_t started_ms, ready_ms;
};

struct supervise {
    enum supervise_phase phase;
    struct supervise_child children[SUPERVISE_CHILDREN_MAX];
    size_t n;
    int64_t drain_ms;
    bool hurry;
};

/* kinds: a bit per kind that is ours to run. Replicas 0 to SUPERVISE_REPLICAS_MAX. */
void supervise_init(struct supervise *s, unsigned kinds, int replicas, int64_t drain_ms, int64_t now_ms);

enum supervise_verb { SUPERVISE_START, SUPERVISE_TERM, SUPERVISE_KILL, SUPERVISE_FORGET };
struct supervise_action {
    enum supervise_verb verb;
    size_t child; /* index in children; FORGET: the last moves into its place */
};
/* What is to be done now; false: nothing. To be called until then after each event and at supervise_wake_ms. */
bool supervise_next(struct supervise *s, int64_t now_ms, struct supervise_action *a);
int64_t supervise_wake_ms(const struct supervise *s); /* INT64_MAX: only an event changes something */

void supervise_ready(struct supervise *s, size_t child, bool ready, int64_t now_ms);
/* status: exit code, or −signal; what could not even be started: 127. */
void supervise_exited(struct supervise *s, size_t child, int status, int64_t now_ms);
/* The replicas that are wanted; what is too many drains, highest first. E_INVALID beyond the limit, E_STATE while the platform stops. */
int supervise_scale(struct supervise *s, int replicas, int64_t now_ms, struct error *err);
/* One replica drains and is not wanted any more. E_NOT_FOUND. */
int supervise_drain(struct supervise *s, const char *name, struct error *err);
void supervise_down(struct supervise *s, bool hurry, int64_t now_ms);

int supervise_replicas(const struct supervise *s); /* wanted */
/* Of a start that cannot succeed: the child that keeps failing; NULL while there is hope. */
const struct supervise_child *supervise_hopeless(const struct supervise *s);
const char *supervise_kind_name(enum supervise_kind kind); /* the service's name */
/* "waiting", "starting", "ready", "stopping", "stopped" */
const char *supervise_state_name(const struct supervise *s, const struct supervise_child *c);

#endif
