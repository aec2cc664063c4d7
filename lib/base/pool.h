/*
 * A pool of compute threads for data-parallel work: pool_run splits [0, count) over the threads, the caller being one of them, and
 * returns when all is done. Each thread begins with a stretch of its own, in pieces that grow smaller towards its end, and then helps the others with theirs. Which thread runs
 * which item is not fixed; results must not depend on it. Threads spin briefly between calls, then park. One caller at a time per pool.
 */
#ifndef GENLOOP_BASE_POOL_H
#define GENLOOP_BASE_POOL_H

#include <stddef.h>

struct pool;
enum { POOL_THREADS_MAX = 256 };
/* threads 0: as many as the CPUs this process may use (affinity and cgroup limit). Returns owned; NULL without memory or threads. */
struct pool *pool_new(int threads);
void pool_free(struct pool *p);
int pool_threads(const struct pool *p);
/* How many of them may work from the next call on, 1 to pool_threads; the others park. What a call computes does not depend on it. From any thread. */
void pool_set_active(struct pool *p, int threads);
int pool_active(const struct pool *p);
/* Around many short calls between which the caller does nothing but compute: while other processes keep the CPUs busy, fewer threads than may work do (base/crowding.h). */
void pool_step_begin(struct pool *p);
void pool_step_end(struct pool *p);
/* fn(arg, item, thread) for each item; thread in [0, pool_threads). */
void pool_run(struct pool *p, size_t count, void *arg, void (*fn)(void *arg, size_t item, int thread));
/* The same for pieces: fn(arg, from, to, thread) for disjoint [from, to), 0 < to - from, which make up [0, count). What is read front to back is best cut as little as the evening out allows. */
void pool_run_pieces(struct pool *p, size_t count, void *arg, void (*fn)(void *arg, size_t from, size_t to, int thread));
/* CPUs that this process may use: affinity and cgroup quota, at least 1. */
int cpu_count(void);

#endif
