/*
 * A Kafka cluster of a test's own (tests/support/kafka), in a folder of its own. Its brokers die with the test. kafka_server_kill is a crash;
 * kafka_server_launch starts a broker again on what the crash left. A test runs in the root of the source tree.
 */
#ifndef GENLOOP_TESTS_KAFKA_SERVER_H
#define GENLOOP_TESTS_KAFKA_SERVER_H

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

enum { KAFKA_BROKERS_MAX = 3, KAFKA_SKIP = 77 };
struct kafka_server {
    int n;
    pid_t pid[KAFKA_BROKERS_MAX];
    char dir[64], url[160];
};

/* The exit status of tests/support/kafka WORD DIR [NUMBER]. */
static inline int kafka_server_tool(const struct kafka_server *s, const char *word, const char *number) {
    int status;
    pid_t pid = fork();
    ASSERT(pid >= 0);
    if (pid == 0) {
        execl("tests/support/kafka", "kafka", word, s->dir, number, (char *)NULL);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* Starts broker i; it does not serve yet. */
static inline void kafka_server_begin(struct kafka_server *s, int i) {
    char number[8], log[96];
    snprintf(number, sizeof number, "%d", i);
    snprintf(log, sizeof log, "%s/%d/server.log", s->dir, i);
    (void)unlink(log); /* by which await knows */
    s->pid[i] = fork();
    ASSERT(s->pid[i] >= 0);
    if (s->pid[i] == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl("tests/support/kafka", "kafka", "run", s->dir, number, (char *)NULL);
        _exit(127);
    }
}

static inline void kafka_server_await(const struct kafka_server *s, int i) {
    char number[8];
    snprintf(number, sizeof number, "%d", i);
    ASSERT(kafka_server_tool(s, "await", number) == 0);
}

static inline void kafka_server_launch(struct kafka_server *s, int i) {
    kafka_server_begin(s, i);
    kafka_server_await(s, i);
}

static inline void kafka_server_kill(struct kafka_server *s, int i) {
    if (s->pid[i] <= 0) return;
    kill(s->pid[i], SIGKILL);
    while (waitpid(s->pid[i], NULL, 0) < 0 && errno == EINTR) continue;
    s->pid[i] = 0;
}

static inline void kafka_server_stop(struct kafka_server *s) {
    for (int i = 0; i < s->n; i++) kafka_server_kill(s, i);
    (void)dir_remove(s->dir, NULL);
}

/* n brokers. Ends the process with KAFKA_SKIP where no broker can be had here. */
static inline void kafka_server_start(struct kafka_server *s, int n) {
    char count[8];
    snprintf(count, sizeof count, "%d", n);
    snprintf(s->dir, sizeof s->dir, "/tmp/genloop-kafka-XXXXXX");
    ASSERT(mkdtemp(s->dir) != NULL);
    s->n = n;
    int r = kafka_server_tool(s, "make", count);
    if (r == KAFKA_SKIP) {
        (void)dir_remove(s->dir, NULL);
        printf("SKIPPED: there is no Kafka to be had on this machine; the lines above say why\n");
        fflush(stdout);
        _exit(KAFKA_SKIP);
    }
    ASSERT(r == 0);
    char path[96];
    snprintf(path, sizeof path, "%s/url", s->dir);
    FILE *f = fopen(path, "r");
    ASSERT(f != NULL && fgets(s->url, sizeof s->url, f) != NULL);
    fclose(f);
    s->url[strcspn(s->url, "\n")] = '\0';
    for (int i = 0; i < n; i++) kafka_server_begin(s, i);
    for (int i = 0; i < n; i++) kafka_server_await(s, i);
}

#endif
