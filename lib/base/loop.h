/*
 * The event loop (libuv inside): one per thread. Timers, file descriptors, wake-ups from other threads, signals, a small worker
 * pool for what blocks (disk, DNS), TCP and Unix stream sockets with write backpressure, and child processes are in their own headers
 * beside this one (loop_stream.h, loop_process.h). Everything is called on the loop's thread except loop_post and loop_stop.
 * Handles are closed by their *_close function; memory goes when the loop says so, never before. Callbacks come last in every call.
 */
#ifndef GENLOOP_BASE_LOOP_H
#define GENLOOP_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct loop;
struct loop_timer;
struct loop_fd;
struct loop_signal;

struct loop *loop_new(struct error *err); /* returns owned, NULL and err */
void loop_free(struct loop *l);           /* closes what is still open, runs until it is */
int loop_run(struct loop *l);             /* until loop_stop, or nothing is left to wait for */
void loop_stop(struct loop *l);           /* from any thread */
int64_t loop_now_ms(struct loop *l);      /* monotonic, of this turn */
/* Runs fn(arg) on the loop's thread soon; from any thread; in order per caller. E_NOMEM. */
int loop_post(struct loop *l, void (*fn)(void *arg), void *arg);
/* Runs work(arg) on a pool thread, then done(arg) on the loop's thread. At most LOOP_WORK_MAX wait: E_FULL. With 0 what arg points to is the worker's until done: it may have written
 * there before this returns, so that no result of the call belongs there. */
enum { LOOP_WORK_MAX = 1024 };
int loop_work(struct loop *l, void (*work)(void *arg), void (*done)(void *arg), void *arg);

/* Timers: one-shot with repeat_ms 0. Returns owned, NULL without memory. */
struct loop_timer *loop_timer_new(struct loop *l, void *arg, void (*on_timer)(void *arg));
void loop_timer_start(struct loop_timer *t, int64_t delay_ms, int64_t repeat_ms); /* again: replaces */
void loop_timer_stop(struct loop_timer *t);
void loop_timer_close(struct loop_timer *t); /* NULL is accepted; on_timer is not called any more */

enum { LOOP_READ = 1, LOOP_WRITE = 2 };
/* Level-triggered readiness of a descriptor, which stays the caller's. */
struct loop_fd *loop_fd_open(struct loop *l, int fd, int events, void *arg, void (*on_ready)(void *arg, int events), struct error *err);
int loop_fd_change(struct loop_fd *f, int events);
void loop_fd_close(struct loop_fd *f);
struct loop_signal *loop_signal_open(struct loop *l, int signum, void *arg, void (*on_signal)(void *arg, int signum));
void loop_signal_close(struct loop_signal *s);
/* Something to do once at the end of this turn, before the loop waits again: to put together what a turn writes. Part of the caller's own struct, which sets fn and arg; arming what is armed
 * does nothing. What is armed is disarmed before its memory goes. */
struct loop_turn {
    void (*fn)(void *arg);
    void *arg;
    struct loop_turn *next, **back; /* the loop's; back NULL: not armed */
};
void loop_turn_arm(struct loop *l, struct loop_turn *t);
void loop_turn_disarm(struct loop_turn *t);

#endif
