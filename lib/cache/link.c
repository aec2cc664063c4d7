#include "cache/link.h"

#include <pthread.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/metrics.h"

enum { BATCH_MAX = 256 };

struct link_call {
    struct link_call *next;
    void *arg;
    void (*on_reply)(void *arg, int r, const struct redis_reply *reply); /* the loop's */
    int argc, result;
    size_t bytes;
    struct span argv[LINK_ARGS_MAX]; /* into what follows the struct */
    struct redis_reply *reply;
};

struct link {
    struct loop *loop;
    struct redis *redis; /* the thread's */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct link_call *first, **last, *done, **done_last;
    bool stop, posted;
    /* the loop's: */
    bool closed;
    size_t waiting, waiting_bytes;
    int64_t away_until_ms;
    struct metric *failures;
};

static void call_free(struct link_call *c) {
    redis_reply_free(c->reply);
    mem_free(c);
}

static void link_free(struct link *l) {
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->wake);
    redis_free(l->redis);
    mem_free(l);
}

static void hand_over(void *arg) {
    struct link *l = arg;
    pthread_mutex_lock(&l->lock);
    struct link_call *c = l->done;
    l->done = NULL;
    l->done_last = &l->done;
    l->posted = false;
    pthread_mutex_unlock(&l->lock);
    while (c) {
        struct link_call *next = c->next;
        l->waiting--;
        l->waiting_bytes -= c->bytes;
        if (c->result != 0 && !l->closed) {
            if (clock_mono_ms() >= l->away_until_ms) metric_add(l->failures, 1);
            l->away_until_ms = clock_mono_ms() + LINK_PAUSE_MS;
        }
        if (c->on_reply && !l->closed) c->on_reply(c->arg, c->result, c->reply);
        call_free(c);
        c = next;
    }
    if (l->closed) link_free(l);
}

/* One pipeline. After the first failure the rest is not worth waiting for. */
static void run_batch(struct link *l, struct link_call *batch) {
    int r = 0;
    for (struct link_call *c = batch; c; c = c->next)
        if (r == 0) r = redis_append(l->redis, c->argc, c->argv, NULL);
    for (struct link_call *c = batch; c; c = c->next) {
        if (r == 0) r = redis_next(l->redis, &c->reply, NULL);
        c->result = r == 0 ? 0 : E_UNAVAILABLE;
    }
    if (r != 0) redis_disconnect(l->redis);
}

static void *link_main(void *arg) {
    struct link *l = arg;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        if (!l->first) {
            pthread_cond_wait(&l->wake, &l->lock);
            continue;
        }
        struct link_call *batch = l->first, *end = batch;
        for (int n = 1; n < BATCH_MAX && end->next; n++) end = end->next;
        l->first = end->next;
        if (!l->first) l->last = &l->first;
        end->next = NULL;
        pthread_mutex_unlock(&l->lock);
        run_batch(l, batch);
        pthread_mutex_lock(&l->lock);
        *l->done_last = batch;
        l->done_last = &end->next;
        if (!l->posted) l->posted = loop_post(l->loop, hand_over, l) == 0;
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

int link_open(const char *url, struct loop *loop, struct link **out, struct error *err) {
    struct link *l = mem_zalloc(sizeof *l);
    if (!l) return error_set(err, E_NOMEM, "no memory for a connection to Redis");
    l->loop = loop;
    l->last = &l->first;
    l->done_last = &l->done;
    l->failures = metric_counter("genloop_redis_link_failures_total", "", "Times that the cache's Redis was given up for a moment, by those who ask it from a loop.");
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->wake, NULL);
    int r = redis_new(url, LINK_TIMEOUT_MS, &l->redis, err);
    if (r == 0 && pthread_create(&l->thread, NULL, link_main, l) != 0) r = error_set(err, E_NOMEM, "no thread for a connection to Redis");
    if (r < 0) {
        link_free(l);
        return r;
    }
    *out = l;
    return 0;
}

void link_close(struct link *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->closed = true;
    /* What was not begun, and what nobody has been told of. */
    *l->done_last = l->first;
    l->first = NULL;
    if (!l->posted) hand_over(l); /* else the post that is under way frees it */
}

bool link_away(const struct link *l) { return clock_mono_ms() < l->away_until_ms; }

int link_ask(struct link *l, int argc, const struct span *argv, void *arg, void (*on_reply)(void *arg, int r, const struct redis_reply *reply), struct link_call **call) {
    size_t bytes = 0;
    ASSERT(argc > 0 && argc <= LINK_ARGS_MAX);
    for (int i = 0; i < argc; i++) bytes += argv[i].len;
    if (link_away(l)) return E_UNAVAILABLE;
    if (l->waiting >= LINK_WAITING_MAX || bytes > LINK_WAITING_BYTES_MAX - l->waiting_bytes) return E_FULL;
    struct link_call *c = mem_alloc(sizeof *c + bytes);
    if (!c) return E_NOMEM;
    *c = (struct link_call){.arg = arg, .on_reply = on_reply, .argc = argc, .bytes = bytes};
    char *at = (char *)(c + 1);
    for (int i = 0; i < argc; i++) {
        if (argv[i].len) memcpy(at, argv[i].data, argv[i].len);
        c->argv[i] = span_of(at, argv[i].len);
        at += argv[i].len;
    }
    l->waiting++;
    l->waiting_bytes += bytes;
    if (call) *call = c; /* before the thread can have it: its end comes by the loop, behind this turn */
    pthread_mutex_lock(&l->lock);
    *l->last = c;
    l->last = &c->next;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    return 0;
}

void link_cancel(struct link_call *c) {
    if (c) c->on_reply = NULL;
}
