#include "services/trainer/work.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"

/* ---- the mark of a crash ---- */

static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
enum { FATAL = sizeof fatal / sizeof fatal[0] };
static struct sigaction before[FATAL];
static atomic_int mark_fd = -1;

/* Whoever had the signal before (a sanitizer, the system) gets it next: what faulted faults again. */
static void on_fatal(int signum) {
    int fd = atomic_load(&mark_fd), saved = errno;
    if (fd >= 0) {
        ssize_t n = write(fd, "!", 1);
        (void)n;
    }
    for (int i = 0; i < FATAL; i++)
        if (fatal[i] == signum) (void)sigaction(signum, &before[i], NULL);
    errno = saved;
    (void)raise(signum);
}

static void watch_signals(bool on) {
    struct sigaction action = {.sa_handler = on_fatal, .sa_flags = SA_NODEFER | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < FATAL; i++) (void)sigaction(fatal[i], on ? &action : &before[i], on ? &before[i] : NULL);
}

/* ---- the folder ---- */

int work_path(const struct work *w, const char *relative, char path[WORK_PATH_MAX], struct error *err) {
    int n = snprintf(path, WORK_PATH_MAX, "%s/%s", w->dir, relative);
    return n > 0 && n < WORK_PATH_MAX ? 0 : error_set(err, E_INVALID, "the path %s is too long", w->dir);
}

/* Of what the last attempt left: its own counts, and how it ended. */
static void read_deaths(struct work *w, const char *path) {
    struct buf b;
    unsigned deaths, crashes;
    unsigned long long step;
    char mark[2] = "";
    buf_init(&b, 4096);
    w->deaths = w->crashes = 0;
    w->step = 0;
    if (file_exists(path) && file_read(path, &b, NULL) == 0 && buf_cstr(&b) && sscanf(buf_cstr(&b), "%9u %9u %19llu\n%1s", &deaths, &crashes, &step, mark) >= 3) {
        w->deaths = deaths + 1;
        w->crashes = crashes + (mark[0] == '!');
        w->step = step;
    }
    buf_fini(&b);
}

int work_open(struct work *w, const char *dir, struct error *err) {
    char path[WORK_PATH_MAX];
    *w = (struct work){.lock_fd = -1};
    span_copy(w->dir, sizeof w->dir, span_str(dir));
    int r = dir_make(dir, err);
    if (!r) r = work_path(w, "lock", path, err);
    if (r) return r;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return error_errno(err, errno, "cannot open %s", path);
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        r = errno == EWOULDBLOCK ? error_set(err, E_AGAIN, "another process works in %s", dir) : error_errno(err, errno, "cannot lock %s", path);
        close(fd);
        return r;
    }
    w->lock_fd = fd;
    r = work_path(w, "deaths", path, err);
    if (!r) read_deaths(w, path);
    else work_close(w);
    return r;
}

void work_close(struct work *w) {
    if (w->lock_fd >= 0) close(w->lock_fd);
    w->lock_fd = -1;
}

int work_remove(struct work *w, struct error *err) {
    int r = dir_remove(w->dir, err);
    work_close(w);
    return r;
}

static int write_deaths(struct work *w, struct error *err) {
    char path[WORK_PATH_MAX], text[80];
    int r = work_path(w, "deaths", path, err);
    snprintf(text, sizeof text, "%u %u %llu\n", w->deaths, w->crashes, (unsigned long long)w->step);
    if (!r) r = file_write(path, span_str(text), 0644, err);
    int fd = r ? -1 : open(path, O_WRONLY | O_APPEND | O_CLOEXEC), old = atomic_exchange(&mark_fd, fd);
    if (old >= 0) close(old);
    return r;
}

int work_begin(struct work *w, struct error *err) {
    int r = write_deaths(w, err);
    if (!r) watch_signals(true);
    return r;
}

void work_reached(struct work *w, uint64_t step) {
    if (step <= w->step) return;
    w->deaths = w->crashes = 0;
    w->step = step;
    (void)write_deaths(w, NULL);
}

void work_end(struct work *w) {
    char path[WORK_PATH_MAX];
    int old = atomic_exchange(&mark_fd, -1);
    if (old >= 0) {
        close(old);
        watch_signals(false);
    }
    if (work_path(w, "deaths", path, NULL) == 0) (void)unlink(path);
}
