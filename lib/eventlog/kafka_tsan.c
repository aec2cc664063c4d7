/*
 * For the thread sanitizer only, and empty otherwise. librdkafka uses C11 threads, which glibc does not build on the pthread functions that the sanitizer's
 * runtime watches: it knows nothing of such a thread (and dies in its first allocation) and of such a lock (and reports what the lock prevents). So
 * they are given here on top of pthreads; mtx_t, cnd_t and once_flag are as large as their twins. What it counts by atomic operations: tests/tsan.supp.
 */
#if defined(__SANITIZE_THREAD__)
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

#define SEEN __attribute__((visibility("default")))
_Static_assert(sizeof(mtx_t) >= sizeof(pthread_mutex_t) && sizeof(cnd_t) >= sizeof(pthread_cond_t) && sizeof(once_flag) >= sizeof(pthread_once_t), "C11 threads of this C library are others");

struct start {
    thrd_start_t run;
    void *arg;
};

static void *run(void *arg) {
    struct start s = *(struct start *)arg;
    free(arg);
    return (void *)(intptr_t)s.run(s.arg);
}

static int code(int e) { return e == 0 ? thrd_success : thrd_error; }

SEEN int thrd_create(thrd_t *t, thrd_start_t f, void *arg) {
    struct start *s = malloc(sizeof *s);
    if (!s) return thrd_nomem;
    *s = (struct start){f, arg};
    int e = pthread_create((pthread_t *)t, NULL, run, s);
    if (e != 0) free(s);
    return code(e);
}
SEEN int thrd_join(thrd_t t, int *result) {
    void *value = NULL;
    int e = pthread_join((pthread_t)t, &value);
    if (result) *result = (int)(intptr_t)value;
    return code(e);
}
SEEN int mtx_init(mtx_t *m, int type) {
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    if (type & mtx_recursive) pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
    int e = pthread_mutex_init((pthread_mutex_t *)(void *)m, &a);
    pthread_mutexattr_destroy(&a);
    return code(e);
}
SEEN int mtx_lock(mtx_t *m) { return code(pthread_mutex_lock((pthread_mutex_t *)(void *)m)); }
SEEN int mtx_unlock(mtx_t *m) { return code(pthread_mutex_unlock((pthread_mutex_t *)(void *)m)); }
SEEN void mtx_destroy(mtx_t *m) { pthread_mutex_destroy((pthread_mutex_t *)(void *)m); }
SEEN int cnd_init(cnd_t *c) { return code(pthread_cond_init((pthread_cond_t *)(void *)c, NULL)); }
SEEN int cnd_signal(cnd_t *c) { return code(pthread_cond_signal((pthread_cond_t *)(void *)c)); }
SEEN int cnd_broadcast(cnd_t *c) { return code(pthread_cond_broadcast((pthread_cond_t *)(void *)c)); }
SEEN int cnd_wait(cnd_t *c, mtx_t *m) { return code(pthread_cond_wait((pthread_cond_t *)(void *)c, (pthread_mutex_t *)(void *)m)); }
SEEN int cnd_timedwait(cnd_t *c, mtx_t *m, const struct timespec *at) {
    int e = pthread_cond_timedwait((pthread_cond_t *)(void *)c, (pthread_mutex_t *)(void *)m, at);
    return e == ETIMEDOUT ? thrd_timedout : code(e);
}
SEEN void cnd_destroy(cnd_t *c) { pthread_cond_destroy((pthread_cond_t *)(void *)c); }
SEEN void call_once(once_flag *flag, void (*f)(void)) { (void)pthread_once((pthread_once_t *)(void *)flag, f); }

int kafka_tsan_threads = 1; /* by which kafka.c has this file linked */
#else
extern int kafka_tsan_threads; /* a file is not empty in C */
#endif
