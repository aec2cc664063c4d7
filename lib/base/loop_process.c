#include "base/loop_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/loop_uv.h"

extern char **environ;

/* Each child has its own watch for SIGCHLD and asks for its own status only, so that nobody's children are reaped for them. */
struct process {
    struct loop_handle handle;
    uv_signal_t uv;
    int pid;
    bool gone;
    void *arg;
    void (*on_exit)(void *arg, int status);
};

static void closed(struct loop_handle *h) { mem_free(h); }

static void child_changed(uv_signal_t *u, int signum) {
    (void)signum;
    struct process *p = u->data;
    int status;
    pid_t r;
    if (p->gone) return;
    do r = waitpid(p->pid, &status, WNOHANG);
    while (r < 0 && errno == EINTR);
    if (r == 0) return;
    p->gone = true;
    uv_signal_stop(&p->uv);
    if (!p->on_exit) { /* closed before its child ended */
        loop_handle_close((uv_handle_t *)&p->uv);
        return;
    }
    p->on_exit(p->arg, r < 0 ? -SIGKILL : WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
}

/* In the child, between fork and exec: only what is safe there. Returns errno where it fails. */
static int become(const char *const *argv, const char *const *env, int fd_out, int fd_null, pid_t parent) {
    sigset_t none;
    sigemptyset(&none);
    for (int s = 1; s < 32; s++) signal(s, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (setpgid(0, 0) < 0) return errno;
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) return errno;
    if (getppid() != parent) return ESRCH; /* it died before we could ask to die with it */
    if (dup2(fd_null, 0) < 0 || dup2(fd_out < 0 ? fd_null : fd_out, 1) < 0 || dup2(1, 2) < 0) return errno;
    /* Nothing of ours is inherited but these three; each of ours has close-on-exec, libraries' may not. */
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    execvpe(argv[0], (char *const *)(uintptr_t)argv, env ? (char *const *)(uintptr_t)env : environ);
    return errno;
}

struct process *process_spawn(struct loop *l, const char *const *argv, const char *const *env, int fd_out, void *arg,
                              void (*on_exit)(void *arg, int status), struct error *err) {
    struct process *p = mem_zalloc(sizeof *p);
    if (!p) {
        error_set(err, E_NOMEM, "starting %s: no memory", argv[0]);
        return NULL;
    }
    p->handle.closed = closed;
    p->arg = arg;
    p->on_exit = on_exit;
    int r = uv_signal_init(loop_uv(l), &p->uv);
    if (r) {
        loop_error(err, r, "starting %s", argv[0]);
        mem_free(p);
        return NULL;
    }
    p->uv.data = p;
    int said[2] = {-1, -1}, fd_null = -1, failure = 0; /* the child says its errno through a pipe that a good exec closes */
    pid_t parent = getpid();
    r = uv_signal_start(&p->uv, child_changed, SIGCHLD); /* before the child is there: none of its ends is missed */
    if (r) {
        loop_error(err, r, "starting %s", argv[0]);
        goto fail;
    }
    if (pipe2(said, O_CLOEXEC) < 0 || (fd_null = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0) {
        error_errno(err, errno, "starting %s", argv[0]);
        goto fail;
    }
    p->gone = true; /* a SIGCHLD of another child in between is not ours */
    p->pid = fork();
    if (p->pid < 0) {
        error_errno(err, errno, "starting %s", argv[0]);
        goto fail;
    }
    if (p->pid == 0) {
        failure = become(argv, env, fd_out, fd_null, parent);
        ssize_t n = write(said[1], &failure, sizeof failure);
        _exit(n == sizeof failure ? 127 : 126);
    }
    setpgid(p->pid, p->pid); /* also here: whoever kills the group next must find it */
    close(said[1]);
    said[1] = -1;
    ssize_t n;
    do n = read(said[0], &failure, sizeof failure);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)sizeof failure) {
        while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR) {}
        error_errno(err, failure, "starting %s", argv[0]);
        goto fail;
    }
    p->gone = false;
    close(said[0]);
    close(fd_null);
    return p;
fail:
    if (said[0] >= 0) close(said[0]);
    if (said[1] >= 0) close(said[1]);
    if (fd_null >= 0) close(fd_null);
    loop_handle_close((uv_handle_t *)&p->uv);
    return NULL;
}

int process_pid(const struct process *p) { return p->pid; }

int process_kill(struct process *p, int signum) {
    if (p->gone) return E_NOT_FOUND;
    return kill(-p->pid, signum) == 0 ? 0 : errno == ESRCH ? E_NOT_FOUND : E_IO;
}

void process_close(struct process *p) {
    if (!p) return;
    p->on_exit = NULL;
    if (p->gone) loop_handle_close((uv_handle_t *)&p->uv);
    else uv_unref((uv_handle_t *)&p->uv); /* it is reaped should it end while the loop still runs */
}
