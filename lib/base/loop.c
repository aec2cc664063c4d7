#include "base/loop.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/loop_uv.h"

struct post {
    struct post *next;
    void (*fn)(void *arg);
    void *arg;
};

struct loop {
    uv_loop_t uv;
    uv_async_t wake; /* does not keep the loop alive */
    uv_prepare_t before_wait;
    uv_check_t after_wait; /* both are the end of a turn: what timers did goes out before the loop waits, what events did behind them */
    struct loop_handle wake_handle;
    struct loop_turn *turns;
    pthread_mutex_t lock; /* of the posts */
    struct post *first, **last;
    atomic_bool stop;
    int works;
    char read_buffer[LOOP_READ_SIZE];
};

uv_loop_t *loop_uv(struct loop *l) { return &l->uv; }
char *loop_read_buffer(struct loop *l) { return l->read_buffer; }

static void on_closed(uv_handle_t *h) {
    struct loop_handle *own = h->data;
    own->closed(own);
}

void loop_handle_close(uv_handle_t *h) {
    if (!uv_is_closing(h)) uv_close(h, on_closed);
}

int loop_error(struct error *err, int uv_code, const char *format, ...) {
    int code = uv_code == UV_ENOENT ? E_NOT_FOUND : uv_code == UV_ENOMEM ? E_NOMEM : uv_code == UV_EADDRINUSE ? E_EXISTS : E_IO;
    va_list args;
    va_start(args, format);
    error_vset(err, code, format, args);
    va_end(args);
    if (err) {
        struct error whole;
        error_set(&whole, code, "%s: %s", err->message, uv_strerror(uv_code));
        *err = whole;
    }
    return code;
}

/* Runs what has been posted so far; true where there was something. */
static bool run_posts(struct loop *l) {
    pthread_mutex_lock(&l->lock);
    struct post *p = l->first;
    l->first = NULL;
    l->last = &l->first;
    pthread_mutex_unlock(&l->lock);
    bool any = p != NULL;
    while (p) {
        struct post *next = p->next;
        p->fn(p->arg);
        mem_free(p);
        p = next;
    }
    return any;
}

static void on_wake(uv_async_t *a) {
    struct loop *l = a->loop->data;
    run_posts(l);
    if (atomic_load(&l->stop)) uv_stop(&l->uv);
}

static void nothing_to_free(struct loop_handle *h) { (void)h; }

/* ---- the end of a turn ---- */

void loop_turn_disarm(struct loop_turn *t) {
    if (!t->back) return;
    *t->back = t->next;
    if (t->next) t->next->back = t->back;
    t->back = NULL;
}

void loop_turn_arm(struct loop *l, struct loop_turn *t) {
    if (t->back) return;
    t->next = l->turns;
    t->back = &l->turns;
    if (t->next) t->next->back = &t->next;
    l->turns = t;
}

static void end_turn(struct loop *l) {
    struct loop_turn *t;
    while ((t = l->turns)) {
        loop_turn_disarm(t);
        t->fn(t->arg);
    }
}
static void on_before_wait(uv_prepare_t *h) { end_turn(h->loop->data); }
static void on_after_wait(uv_check_t *h) { end_turn(h->loop->data); }

/* A peer that went away is an error of that write, not the end of the process. */
static void ignore_sigpipe(void) { signal(SIGPIPE, SIG_IGN); }

struct loop *loop_new(struct error *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, ignore_sigpipe);
    struct loop *l = mem_zalloc(sizeof *l);
    if (!l) {
        error_set(err, E_NOMEM, "event loop: no memory");
        return NULL;
    }
    int r = uv_loop_init(&l->uv);
    if (r) {
        loop_error(err, r, "event loop");
        mem_free(l);
        return NULL;
    }
    l->uv.data = l;
    l->last = &l->first;
    pthread_mutex_init(&l->lock, NULL);
    l->wake_handle.closed = nothing_to_free;
    r = uv_async_init(&l->uv, &l->wake, on_wake);
    if (r) {
        loop_error(err, r, "event loop");
        uv_loop_close(&l->uv);
        pthread_mutex_destroy(&l->lock);
        mem_free(l);
        return NULL;
    }
    l->wake.data = &l->wake_handle;
    l->before_wait.data = l->after_wait.data = &l->wake_handle;
    (void)uv_prepare_init(&l->uv, &l->before_wait); /* these cannot fail */
    (void)uv_check_init(&l->uv, &l->after_wait);
    (void)uv_prepare_start(&l->before_wait, on_before_wait);
    (void)uv_check_start(&l->after_wait, on_after_wait);
    uv_unref((uv_handle_t *)&l->wake);
    uv_unref((uv_handle_t *)&l->before_wait);
    uv_unref((uv_handle_t *)&l->after_wait);
    return l;
}

static void close_left_open(uv_handle_t *h, void *arg) {
    (void)arg;
    loop_handle_close(h);
}

void loop_free(struct loop *l) {
    if (!l) return;
    run_posts(l);
    /* Closing runs callbacks of work that was under way, which may open or post again. */
    do {
        uv_walk(&l->uv, close_left_open, NULL);
        uv_run(&l->uv, UV_RUN_DEFAULT);
        run_posts(l);
    } while (uv_loop_close(&l->uv) == UV_EBUSY);
    pthread_mutex_destroy(&l->lock);
    mem_free(l);
}

int loop_run(struct loop *l) {
    bool again = true;
    while (again && !atomic_load(&l->stop)) {
        /* What was posted before, or at the very end, is still to be run although nothing else keeps the loop going. */
        again = run_posts(l);
        again |= uv_run(&l->uv, UV_RUN_DEFAULT) != 0;
        again |= run_posts(l);
    }
    atomic_store(&l->stop, false);
    return 0;
}

void loop_stop(struct loop *l) {
    atomic_store(&l->stop, true);
    uv_async_send(&l->wake);
}

int64_t loop_now_ms(struct loop *l) { return (int64_t)uv_now(&l->uv); }

int loop_post(struct loop *l, void (*fn)(void *arg), void *arg) {
    struct post *p = mem_alloc(sizeof *p);
    if (!p) return E_NOMEM;
    *p = (struct post){NULL, fn, arg};
    pthread_mutex_lock(&l->lock);
    *l->last = p;
    l->last = &p->next;
    uv_async_send(&l->wake); /* under the lock: whoever runs the posts may free the loop after the last one */
    pthread_mutex_unlock(&l->lock);
    return 0;
}

/* ---- Work on libuv's threads ------------------------------------------------------------------------------------------- */

struct work {
    uv_work_t uv;
    void (*work)(void *arg), (*done)(void *arg);
    void *arg;
};

static void on_work(uv_work_t *w) { ((struct work *)w->data)->work(((struct work *)w->data)->arg); }

static void on_done(uv_work_t *u, int status) {
    struct work *w = u->data;
    struct loop *l = u->loop->data;
    ASSERT(status == 0); /* nothing cancels work */
    l->works--;
    if (w->done) w->done(w->arg);
    mem_free(w);
}

int loop_work(struct loop *l, void (*work)(void *arg), void (*done)(void *arg), void *arg) {
    if (l->works >= LOOP_WORK_MAX) return E_FULL;
    struct work *w = mem_zalloc(sizeof *w);
    if (!w) return E_NOMEM;
    *w = (struct work){.work = work, .done = done, .arg = arg};
    w->uv.data = w;
    if (uv_queue_work(&l->uv, &w->uv, on_work, on_done)) {
        mem_free(w);
        return E_INTERNAL;
    }
    l->works++;
    return 0;
}

/* ---- Timers, descriptors, signals, turns ------------------------------------------------------------------------------- */

struct loop_timer {
    struct loop_handle handle;
    uv_timer_t uv;
    void *arg;
    void (*on_timer)(void *arg);
};

static void free_handle(struct loop_handle *h) { mem_free(h); /* it is the first member of all of them */ }

static void timer_fired(uv_timer_t *u) {
    struct loop_timer *t = u->data;
    t->on_timer(t->arg);
}

struct loop_timer *loop_timer_new(struct loop *l, void *arg, void (*on_timer)(void *arg)) {
    struct loop_timer *t = mem_zalloc(sizeof *t);
    if (!t) return NULL;
    t->handle.closed = free_handle;
    t->arg = arg;
    t->on_timer = on_timer;
    uv_timer_init(&l->uv, &t->uv);
    t->uv.data = t;
    return t;
}

void loop_timer_start(struct loop_timer *t, int64_t delay_ms, int64_t repeat_ms) {
    uv_update_time(t->uv.loop); /* the turn may have begun long ago: at start-up, or behind a slow callback */
    uv_timer_start(&t->uv, timer_fired, delay_ms > 0 ? (uint64_t)delay_ms : 0, repeat_ms > 0 ? (uint64_t)repeat_ms : 0);
}

void loop_timer_stop(struct loop_timer *t) { uv_timer_stop(&t->uv); }

void loop_timer_close(struct loop_timer *t) {
    if (t) loop_handle_close((uv_handle_t *)&t->uv);
}

struct loop_fd {
    struct loop_handle handle;
    uv_poll_t uv;
    void *arg;
    void (*on_ready)(void *arg, int events);
};

static void fd_ready(uv_poll_t *u, int status, int events) {
    struct loop_fd *f = u->data;
    /* An error is readiness: the read or write that follows says which. */
    int ready = status < 0 ? LOOP_READ | LOOP_WRITE : (events & (UV_READABLE | UV_DISCONNECT) ? LOOP_READ : 0) | (events & UV_WRITABLE ? LOOP_WRITE : 0);
    f->on_ready(f->arg, ready);
}

struct loop_fd *loop_fd_open(struct loop *l, int fd, int events, void *arg, void (*on_ready)(void *arg, int events), struct error *err) {
    struct loop_fd *f = mem_zalloc(sizeof *f);
    if (!f) {
        error_set(err, E_NOMEM, "watching a descriptor: no memory");
        return NULL;
    }
    f->handle.closed = free_handle;
    f->arg = arg;
    f->on_ready = on_ready;
    int r = uv_poll_init(&l->uv, &f->uv, fd);
    if (r) {
        loop_error(err, r, "watching descriptor %d", fd);
        mem_free(f);
        return NULL;
    }
    f->uv.data = f;
    if (loop_fd_change(f, events)) {
        error_set(err, E_IO, "watching descriptor %d failed", fd);
        loop_fd_close(f);
        return NULL;
    }
    return f;
}

int loop_fd_change(struct loop_fd *f, int events) {
    if (!events) return uv_poll_stop(&f->uv) ? E_IO : 0;
    return uv_poll_start(&f->uv, (events & LOOP_READ ? UV_READABLE : 0) | (events & LOOP_WRITE ? UV_WRITABLE : 0), fd_ready) ? E_IO : 0;
}

void loop_fd_close(struct loop_fd *f) {
    if (f) loop_handle_close((uv_handle_t *)&f->uv);
}

struct loop_signal {
    struct loop_handle handle;
    uv_signal_t uv;
    void *arg;
    void (*on_signal)(void *arg, int signum);
};

static void signal_came(uv_signal_t *u, int signum) {
    struct loop_signal *s = u->data;
    s->on_signal(s->arg, signum);
}

struct loop_signal *loop_signal_open(struct loop *l, int signum, void *arg, void (*on_signal)(void *arg, int signum)) {
    struct loop_signal *s = mem_zalloc(sizeof *s);
    if (!s) return NULL;
    s->handle.closed = free_handle;
    s->arg = arg;
    s->on_signal = on_signal;
    if (uv_signal_init(&l->uv, &s->uv)) {
        mem_free(s);
        return NULL;
    }
    s->uv.data = s;
    if (uv_signal_start(&s->uv, signal_came, signum)) {
        loop_signal_close(s);
        return NULL;
    }
    uv_unref((uv_handle_t *)&s->uv); /* waiting for a signal alone is no reason to go on */
    return s;
}

void loop_signal_close(struct loop_signal *s) {
    if (s) loop_handle_close((uv_handle_t *)&s->uv);
}
