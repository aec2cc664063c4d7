/*
 * How many threads are worth using on CPUs that other processes use too. Where many short calls follow each other, each of which all threads must have ended before the next begins, a thread that
 * the system takes away delays all: of two threads, one of which shares its CPU with a busy process, 0.43 of their speed is left, of one thread alone, which gets the other CPU to itself, 0.52
 * (decode of SmolLM2-135M; bench_engine beside a busy loop). What tells is the time that the caller of the calls did not run, whether its own CPU was taken or it waited for a thread whose was: a
 * hundredth on a quiet machine, 0.3 to 0.5 there.
 *
 * A pure core: the pool tells it what passed and asks. Zero is its first state.
 */
#ifndef GENLOOP_BASE_CROWDING_H
#define GENLOOP_BASE_CROWDING_H

#include <stdbool.h>
#include <stdint.h>

struct crowding {
    int given_up; /* threads */
    bool trial;   /* one of them is back, for a short while */
    int crowded_spans; /* in a row, in which too much was lost */
    int64_t patience_us, trial_at_us;
    int64_t passed_us, lost_us; /* since what was last decided */
};

/* Of so many, 1 to threads. */
int crowding_threads(struct crowding *c, int threads, int64_t now_us);
/* Calls by so many threads took passed_us, lost_us of which the caller did not run; below 0 where a coarse clock makes up for what it said before. */
void crowding_tell(struct crowding *c, int threads, int64_t now_us, int64_t passed_us, int64_t lost_us);

#endif
