/*
 * Design notes. What a thread has not begun of its stretch is one word, its number of the call and two ends; the thread takes from the front of it, others from the back, by compare-and-swap on
 * the whole word. What a call is lies in fields that are written while all stretches are empty: whoever takes something has read them after a word that was still the same when he took it, so
 * that a thread that wakes late can only take work of the call whose fields it has read. A number comes again after 2^28 calls. The caller never waits for a thread that has taken nothing.
 */
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/crowding.h"
#include "base/error.h"
#include "base/machine.h"

enum { SPIN_TURNS = 2000 };      /* about 20–50 µs: shorter than a park and wake, longer than the gap between two kernels */
enum { PIECES = 8 };             /* a thread takes so much of what is left of a stretch, at least a unit: one that the system takes away delays an eighth of its share */
enum { END_BITS = 18, UNITS_MAX = (1 << END_BITS) - 1 };

/* On a cache line of its own: [from, to) in units, and the number of the call that they are of. */
struct stretch {
    _Alignas(64) _Atomic uint64_t left;
};

/* On cache lines of their own: what threads wait for, what they only read, what they report, and what is the caller's alone. */
struct pool {
    _Alignas(64) _Atomic uint64_t call; /* the number of the newest; a thread that spins looks at it */
    atomic_int active;                  /* threads [0, active) work in it */
    atomic_bool stop;
    int threads, started;
    atomic_int allowed;                 /* how many may work in the next */
    _Alignas(64) _Atomic(void *) arg;
    void (*_Atomic fn)(void *arg, size_t from, size_t to, int thread);
    _Atomic size_t count, unit; /* items, and how many of them are cut together */
    atomic_int stretches;
    struct stretch *stretch; /* [threads] */
    _Alignas(64) _Atomic size_t done; /* items */
    atomic_int parked;
    atomic_bool waiting; /* the caller sleeps */
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    pthread_t *ids;
    _Alignas(64) int wanted; /* in a step: of the allowed threads, those that are worth it; otherwise 0 */
    struct crowding crowding;
    int64_t began_us, began_cpu_us; /* the step */
};

struct start {
    struct pool *pool;
    int thread;
};

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint64_t left_of(uint64_t call, size_t from, size_t to) { return call << 2 * END_BITS | (uint64_t)from << END_BITS | to; }

/* Takes a piece of a stretch, from its front or from its back, and runs it; the items in it. 0: there was nothing. */
static size_t take(struct pool *p, struct stretch *s, bool front, int thread) {
    uint64_t left = atomic_load(&s->left);
    for (;;) {
        size_t from = left >> END_BITS & UNITS_MAX, to = left & UNITS_MAX, n = (to - from) / PIECES;
        if (from == to || thread >= atomic_load(&p->active)) return 0; /* looked at after the word: a call is published behind its number of threads */
        if (n == 0) n = 1;
        void *arg = atomic_load_explicit(&p->arg, memory_order_relaxed);
        void (*fn)(void *, size_t, size_t, int) = atomic_load_explicit(&p->fn, memory_order_relaxed);
        size_t count = atomic_load_explicit(&p->count, memory_order_relaxed), unit = atomic_load_explicit(&p->unit, memory_order_relaxed);
        uint64_t call = left >> 2 * END_BITS, then = front ? left_of(call, from + n, to) : left_of(call, from, to - n);
        if (!atomic_compare_exchange_strong(&s->left, &left, then)) continue;
        size_t first = (front ? from : to - n) * unit, end = first + n * unit < count ? first + n * unit : count;
        fn(arg, first, end, thread);
        return end - first;
    }
}

/* So many items of the call are done, which is not over before that. */
static void report(struct pool *p, size_t items) {
    size_t count = atomic_load(&p->count);
    if (atomic_fetch_add(&p->done, items) + items != count || !atomic_load(&p->waiting)) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->finished);
    pthread_mutex_unlock(&p->lock);
}

/* Works until nothing is left to be taken: its own stretch, then the others'. What was done of one is reported before the next is looked at: the caller may wait for no more than that. */
static void help(struct pool *p, int thread) {
    int stretches = atomic_load(&p->stretches);
    for (int i = 0; i < stretches; i++) {
        size_t taken = 0, some;
        while ((some = take(p, &p->stretch[(thread + i) % stretches], i == 0, thread)) > 0) taken += some;
        if (taken > 0) report(p, taken);
    }
}

static bool work_waits(struct pool *p, uint64_t seen_call, int thread) {
    return (atomic_load(&p->call) != seen_call && thread < atomic_load(&p->active)) || atomic_load(&p->stop);
}

static void *worker(void *start) {
    struct pool *p = ((struct start *)start)->pool;
    int thread = ((struct start *)start)->thread;
    mem_free(start);
    uint64_t call = 0;
    while (!atomic_load(&p->stop)) {
        for (int i = 0; i < SPIN_TURNS && thread < atomic_load(&p->active) && !work_waits(p, call, thread); i++) pause_cpu();
        if (!work_waits(p, call, thread)) {
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->parked, 1);
            while (!work_waits(p, call, thread)) pthread_cond_wait(&p->work, &p->lock);
            atomic_fetch_sub(&p->parked, 1);
            pthread_mutex_unlock(&p->lock);
        }
        call = atomic_load(&p->call);
        help(p, thread);
    }
    return NULL;
}

static bool start_thread(struct pool *p, int thread) {
    struct start *s = mem_alloc(sizeof *s);
    if (!s) return false;
    *s = (struct start){p, thread};
    if (pthread_create(&p->ids[p->started], NULL, worker, s) != 0) {
        mem_free(s);
        return false;
    }
    p->started++;
    return true;
}

struct pool *pool_new(int threads) {
    if (threads <= 0) threads = cpu_count();
    if (threads > POOL_THREADS_MAX) threads = POOL_THREADS_MAX;
    struct pool *p = mem_alloc_aligned(sizeof *p);
    if (!p) return NULL;
    memset(p, 0, sizeof *p);
    p->threads = threads;
    atomic_store(&p->active, threads);
    atomic_store(&p->allowed, threads);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, NULL);
    p->ids = mem_calloc((size_t)threads, sizeof *p->ids);
    p->stretch = mem_alloc_aligned((size_t)threads * sizeof *p->stretch);
    bool good = p->ids && p->stretch;
    for (int i = 0; good && i < threads; i++) atomic_init(&p->stretch[i].left, 0);
    for (int i = 1; good && i < threads; i++) good = start_thread(p, i);
    if (good) return p;
    pool_free(p);
    return NULL;
}

void pool_free(struct pool *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->started; i++) pthread_join(p->ids[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->finished);
    pthread_mutex_destroy(&p->lock);
    mem_free(p->ids);
    mem_free(p->stretch);
    mem_free(p);
}

int pool_threads(const struct pool *p) { return p->threads; }
int pool_active(const struct pool *p) { return atomic_load(&p->allowed); }

void pool_set_active(struct pool *p, int threads) { atomic_store(&p->allowed, threads < 1 ? 1 : threads > p->threads ? p->threads : threads); }

void pool_step_begin(struct pool *p) {
    p->began_us = clock_mono_us();
    p->began_cpu_us = clock_thread_us();
    p->wanted = crowding_threads(&p->crowding, atomic_load(&p->allowed), p->began_us);
}

void pool_step_end(struct pool *p) {
    int64_t now_us = clock_mono_us(), passed_us = now_us - p->began_us, ran_us = clock_thread_us() - p->began_cpu_us;
    crowding_tell(&p->crowding, p->wanted, now_us, passed_us, passed_us - ran_us);
    p->wanted = 0;
}

/* Threads of the next call. */
static int threads_of_call(struct pool *p) {
    int allowed = atomic_load(&p->allowed);
    return p->wanted > 0 && p->wanted < allowed ? p->wanted : allowed;
}

void pool_run_pieces(struct pool *p, size_t count, void *arg, void (*fn)(void *arg, size_t from, size_t to, int thread)) {
    int active = threads_of_call(p);
    if (count == 0) return;
    if (active != atomic_load(&p->active)) atomic_store(&p->active, active);
    if (active == 1 || count == 1) {
        fn(arg, 0, count, 0);
        return;
    }
    size_t unit = count / UNITS_MAX + 1, units = (count + unit - 1) / unit, stretches = (size_t)active;
    uint64_t call = atomic_load_explicit(&p->call, memory_order_relaxed) + 1;
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->arg, arg, memory_order_relaxed);
    atomic_store_explicit(&p->count, count, memory_order_relaxed);
    atomic_store_explicit(&p->unit, unit, memory_order_relaxed);
    atomic_store_explicit(&p->stretches, active, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    for (size_t i = 0; i < stretches; i++) atomic_store_explicit(&p->stretch[i].left, left_of(call, units * i / stretches, units * (i + 1) / stretches), memory_order_release);
    atomic_store(&p->call, call);
    if (atomic_load(&p->parked)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    help(p, 0);
    for (int i = 0; i < SPIN_TURNS && atomic_load(&p->done) != count; i++) pause_cpu();
    if (atomic_load(&p->done) == count) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->waiting, true);
    while (atomic_load(&p->done) != count) pthread_cond_wait(&p->finished, &p->lock);
    atomic_store(&p->waiting, false);
    pthread_mutex_unlock(&p->lock);
}

struct items {
    void *arg;
    void (*fn)(void *arg, size_t item, int thread);
};
static void run_items(void *arg, size_t from, size_t to, int thread) {
    struct items *items = arg;
    for (size_t i = from; i < to; i++) items->fn(items->arg, i, thread);
}
void pool_run(struct pool *p, size_t count, void *arg, void (*fn)(void *arg, size_t item, int thread)) {
    struct items items = {arg, fn};
    pool_run_pieces(p, count, &items, run_items);
}

int cpu_count(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = machine_quota("");
    if (quota && quota < n) n = quota;
    return n < 1 ? 1 : n;
}
