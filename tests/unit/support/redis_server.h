/*
 * A redis-server of a test's own, on a Unix socket in a folder of its own, as the platform runs the one of the log. It dies with the
 * test. redis_server_kill is a crash; redis_server_launch starts it again on what the crash left.
 */
#ifndef GENLOOP_TESTS_REDIS_SERVER_H
#define GENLOOP_TESTS_REDIS_SERVER_H

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "cache/redis.h"

struct redis_server {
    pid_t pid;
    char dir[64], url[96];
};

static inline void redis_server_await(const struct redis_server *s) {
    struct redis *r = NULL;
    ASSERT(redis_new(s->url, 1000, &r, NULL) == 0);
    for (int i = 0; redis_commandl(r, NULL, NULL, "PING", NULL) != 0; i++) {
        ASSERT(i < 1500); /* 30 s: a machine that is busy, or no redis-server in PATH */
        usleep(20000);
    }
    redis_free(r);
}

static inline void redis_server_launch(struct redis_server *s) {
    char socket[96], log[96];
    snprintf(socket, sizeof socket, "%s/log.sock", s->dir);
    snprintf(log, sizeof log, "%s/redis.log", s->dir);
    s->pid = fork();
    ASSERT(s->pid >= 0);
    if (s->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", socket, "--dir", s->dir, "--logfile", log, "--appendonly", "yes",
               "--appendfsync", "always", "--save", "", (char *)NULL);
        _exit(127);
    }
    redis_server_await(s);
}

static inline void redis_server_start(struct redis_server *s) {
    snprintf(s->dir, sizeof s->dir, "/tmp/genloop-test-XXXXXX");
    ASSERT(mkdtemp(s->dir) != NULL);
    snprintf(s->url, sizeof s->url, "redis+unix:%s/log.sock", s->dir);
    redis_server_launch(s);
}

static inline void redis_server_kill(struct redis_server *s) {
    if (s->pid <= 0) return;
    kill(s->pid, SIGKILL);
    while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR) continue;
    s->pid = 0;
}

static inline void redis_server_stop(struct redis_server *s) {
    redis_server_kill(s);
    (void)dir_remove(s->dir, NULL);
}

#endif
