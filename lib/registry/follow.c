/* The registry's topics, read by a thread of their own because the log's calls block. What it reads is handed over in batches: one wake of the loop each. */
#include "registry/follow.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"

enum {
    POLL_MS = 100, AWAY_PAUSE_MS = 10,
    RETRY_MS = 500,
    WAITING_MAX = 4096, /* events that the loop has not taken yet: the reader waits then */
};

struct entry {
    struct entry *next;
    struct event event; /* spans into what follows this struct */
};
struct follow {
    struct eventlog *log;
    struct loop *loop;
    enum topic topics[FOLLOW_TOPICS_MAX];
    int n_topics;
    void *arg;
    void (*on_event)(void *arg, const struct event *e);
    void (*on_caught_up)(void *arg);
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t taken;
    struct entry *first, **last;
    uint32_t waiting;
    bool posted, caught_up, told;
    atomic_bool stop, closed; /* closed: a post under way finds nobody */
};

static void hand_over(void *arg) {
    struct follow *f = arg;
    pthread_mutex_lock(&f->lock);
    struct entry *e = f->first;
    bool caught_up = f->caught_up && !f->told;
    f->first = NULL;
    f->last = &f->first;
    f->waiting = 0;
    f->posted = false;
    f->told |= caught_up;
    pthread_cond_signal(&f->taken);
    pthread_mutex_unlock(&f->lock);
    bool closed = atomic_load(&f->closed);
    while (e) {
        struct entry *next = e->next;
        if (!closed) f->on_event(f->arg, &e->event);
        mem_free(e);
        e = next;
    }
    if (closed) {
        pthread_mutex_destroy(&f->lock);
        pthread_cond_destroy(&f->taken);
        mem_free(f);
    } else if (caught_up) f->on_caught_up(f->arg);
}

static void post(struct follow *f) { /* under the lock */
    if (!f->posted) f->posted = loop_post(f->loop, hand_over, f) == 0;
}

static struct entry *copy(const struct event *e) {
    struct entry *n = mem_alloc(sizeof *n + e->key.len + e->value.len + e->id.len);
    if (!n) return NULL;
    char *at = (char *)(n + 1);
    *n = (struct entry){.event = *e};
    struct span *spans[] = {&n->event.key, &n->event.value, &n->event.id};
    n->event.source = n->event.type = n->event.subject = n->event.content_type = n->event.traceparent = SPAN("");
    for (size_t i = 0; i < 3; i++) {
        if (spans[i]->len) memcpy(at, spans[i]->data, spans[i]->len);
        spans[i]->data = at;
        at += spans[i]->len;
    }
    return n;
}

/* Until something goes wrong. */
static void read_topics(struct follow *f, struct error *err) {
    struct eventlog_view *view;
    bool away = false;
    if (eventlog_view_open(f->log, f->topics, f->n_topics, NULL, 0, &view, err) != 0) return;
    while (!atomic_load(&f->stop)) {
        struct event e;
        bool caught_up = !f->caught_up && eventlog_view_caught_up(view); /* asked before the poll: an empty log is read at once */
        if (caught_up) {
            pthread_mutex_lock(&f->lock);
            f->caught_up = true;
            post(f);
            pthread_mutex_unlock(&f->lock);
        }
        int r = eventlog_view_poll(view, POLL_MS, &e, err);
        if (r == E_UNAVAILABLE) { /* the log is away: the view goes on where it was once it is back */
            if (!away) log_warn("registry.follow", "%s; going on when it is back", err->message);
            away = true;
            usleep(AWAY_PAUSE_MS * 1000);
            continue;
        }
        if (r != 0 && r != E_AGAIN) break;
        away = false;
        struct entry *n = r == 0 ? copy(&e) : NULL;
        if (r == 0 && !n) {
            error_set(err, E_NOMEM, "no memory for an event");
            break;
        }
        if (!n) continue;
        pthread_mutex_lock(&f->lock);
        while (f->waiting >= WAITING_MAX && !atomic_load(&f->stop)) pthread_cond_wait(&f->taken, &f->lock);
        *f->last = n;
        f->last = &n->next;
        f->waiting++;
        post(f);
        pthread_mutex_unlock(&f->lock);
    }
    eventlog_view_close(view);
}

static void *follow_main(void *arg) {
    struct follow *f = arg;
    while (!atomic_load(&f->stop)) {
        struct error err = {0};
        read_topics(f, &err);
        if (err.code == 0 || atomic_load(&f->stop)) continue;
        log_warn("registry.follow", "%s; reading again", err.message);
        for (int i = 0; i < RETRY_MS / 10 && !atomic_load(&f->stop); i++) usleep(10000);
    }
    return NULL;
}

int follow_open(struct eventlog *log, struct loop *l, const enum topic *topics, int n, void *arg, void (*on_event)(void *arg, const struct event *e), void (*on_caught_up)(void *arg),
                struct follow **out, struct error *err) {
    struct follow *f = mem_zalloc(sizeof *f);
    ASSERT(n > 0 && n <= FOLLOW_TOPICS_MAX);
    if (!f) return error_set(err, E_NOMEM, "no memory to follow the registry");
    *f = (struct follow){.log = log, .loop = l, .arg = arg, .on_event = on_event, .on_caught_up = on_caught_up};
    f->n_topics = n;
    memcpy(f->topics, topics, (size_t)n * sizeof *topics);
    f->last = &f->first;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->taken, NULL);
    if (pthread_create(&f->thread, NULL, follow_main, f) != 0) {
        mem_free(f);
        return error_set(err, E_NOMEM, "no thread to follow the registry");
    }
    *out = f;
    return 0;
}

void follow_close(struct follow *f) {
    if (!f) return;
    atomic_store(&f->stop, true);
    pthread_mutex_lock(&f->lock);
    pthread_cond_signal(&f->taken);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    atomic_store(&f->closed, true);
    if (!f->posted) hand_over(f); /* else the post that is under way frees it */
}
