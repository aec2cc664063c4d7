/*
 * Design notes. One 64-bit word, `ticket`, holds the number of the call and the next chunk to take; taking one is a compare-and-swap on
 * both, so that a thread that wakes late can only take work of the call whose fields it has read. A call closes the word before it
 * overwrites the fields (as in a seqlock), then publishes it. The caller never waits for a thread that has taken nothing.
 */
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/machine.h"

enum { SPIN_TURNS = 2000 };          /* about 20–50 µs: shorter than a park and wake, longer than the gap between two kernels */
enum { CHUNKS_PER_THREAD = 8 };      /* enough to even out, few enough that taking one costs nothing */
#define CLOSED UINT32_MAX

/* Three cache lines: what threads compete for, what they only read, what they report. A thread that spins reads the first two. */
struct pool {
    _Alignas(64) _Atomic uint64_t ticket; /* number of the call << 32 | next chunk, or CLOSED */
    _Alignas(64) _Atomic(void *) arg;
    void (*_Atomic fn)(void *arg, size_t item, int thread);
    _Atomic size_t count, chunk, stretches;
    atomic_int active; /* threads [0, active) take chunks */
    atomic_bool stop;
    int threads, started;
    _Alignas(64) _Atomic size_t done; /* items */
    atomic_int parked;
    atomic_bool waiting; /* the caller sleeps */
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    pthread_t *ids;
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

/* Which chunk is whose turn: threads that take turns go each through a stretch of their own, so that what a thread works on next mostly lies behind what it
 * has just read, where its processor has already looked ahead. */
static size_t chunk_of(size_t turn, size_t chunks, size_t stretches) {
    size_t stretch = turn % stretches, longer = chunks % stretches;
    return stretch * (chunks / stretches) + (stretch < longer ? stretch : longer) + turn / stretches;
}

/* Takes chunks of the current call until there are none. */
static void take_chunks(struct pool *p, int thread) {
    for (;;) {
        uint64_t seen = atomic_load(&p->ticket);
        uint32_t next = (uint32_t)seen;
        if (next == CLOSED || thread >= atomic_load(&p->active)) return; /* looked at after the ticket: a call is published behind its number of threads */
        void *arg = atomic_load(&p->arg);
        void (*fn)(void *, size_t, int) = atomic_load(&p->fn);
        size_t count = atomic_load(&p->count), chunk = atomic_load(&p->chunk), chunks = (count + chunk - 1) / chunk;
        if (next >= chunks) return;
        size_t first = chunk_of(next, chunks, atomic_load(&p->stretches)) * chunk;
        if (!atomic_compare_exchange_strong(&p->ticket, &seen, seen + 1)) continue;
        size_t end = count - first < chunk ? count : first + chunk;
        for (size_t i = first; i < end; i++) fn(arg, i, thread);
        if (atomic_fetch_add(&p->done, end - first) + (end - first) == count && atomic_load(&p->waiting)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->finished);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static bool work_waits(struct pool *p, uint32_t seen_call, int thread) {
    uint64_t t = atomic_load(&p->ticket);
    return ((uint32_t)(t >> 32) != seen_call && (uint32_t)t != CLOSED && thread < atomic_load(&p->active)) || atomic_load(&p->stop);
}

static void *worker(void *start) {
    struct pool *p = ((struct start *)start)->pool;
    int thread = ((struct start *)start)->thread;
    mem_free(start);
    uint32_t call = 0;
    while (!atomic_load(&p->stop)) {
        for (int i = 0; i < SPIN_TURNS && thread < atomic_load(&p->active) && !work_waits(p, call, thread); i++) pause_cpu();
        if (!work_waits(p, call, thread)) {
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->parked, 1);
            while (!work_waits(p, call, thread)) pthread_cond_wait(&p->work, &p->lock);
            atomic_fetch_sub(&p->parked, 1);
            pthread_mutex_unlock(&p->lock);
        }
        call = (uint32_t)(atomic_load(&p->ticket) >> 32);
        take_chunks(p, thread);
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
    atomic_store(&p->ticket, (uint64_t)CLOSED);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, NULL);
    p->ids = mem_calloc((size_t)threads, sizeof *p->ids);
    bool good = p->ids != NULL;
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
    mem_free(p);
}

int pool_threads(const struct pool *p) { return p->threads; }
int pool_active(const struct pool *p) { return atomic_load(&p->active); }

void pool_set_active(struct pool *p, int threads) {
    if (threads < 1) threads = 1;
    if (threads > p->threads) threads = p->threads;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->active, threads);
    pthread_cond_broadcast(&p->work); /* one that parked as superfluous may be needed in the call that runs */
    pthread_mutex_unlock(&p->lock);
}

void pool_run(struct pool *p, size_t count, void *arg, void (*fn)(void *arg, size_t item, int thread)) {
    int active = atomic_load(&p->active);
    if (active == 1 || count <= 1) {
        for (size_t i = 0; i < count; i++) fn(arg, i, 0);
        return;
    }
    size_t chunks = (size_t)active * CHUNKS_PER_THREAD, chunk = count < chunks ? 1 : count / chunks; /* rounded down: 17 items in pieces of 2 would be 9 for two threads */
    uint32_t call = (uint32_t)(atomic_load(&p->ticket) >> 32) + 1;
    atomic_store(&p->ticket, (uint64_t)call << 32 | CLOSED);
    atomic_store(&p->fn, fn);
    atomic_store(&p->arg, arg);
    atomic_store(&p->count, count);
    atomic_store(&p->chunk, chunk);
    atomic_store(&p->stretches, (size_t)active);
    atomic_store(&p->done, 0);
    call++;
    atomic_store(&p->ticket, (uint64_t)call << 32);
    if (atomic_load(&p->parked)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    take_chunks(p, 0);
    for (int i = 0; i < SPIN_TURNS && atomic_load(&p->done) != count; i++) pause_cpu();
    if (atomic_load(&p->done) == count) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->waiting, true);
    while (atomic_load(&p->done) != count) pthread_cond_wait(&p->finished, &p->lock);
    atomic_store(&p->waiting, false);
    pthread_mutex_unlock(&p->lock);
}

int cpu_count(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = machine_quota("");
    if (quota && quota < n) n = quota;
    return n < 1 ? 1 : n;
}
