/* A job's folder: one process at a time, and how often the process died in it. The deaths are real ones, of children. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "services/trainer/work.h"

static char home[64], folder[96];

static int set_up(void **state) {
    (void)state;
    snprintf(home, sizeof home, "/tmp/genloop-work-XXXXXX");
    if (!mkdtemp(home)) return -1;
    snprintf(folder, sizeof folder, "%s/job", home);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    return dir_remove(home, NULL);
}

/* An attempt in a process of its own, which goes on from a checkpoint and ends by a signal (0: in order). */
static void attempt(uint64_t checkpoint, int signum) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct work w;
        struct rlimit none = {0, 0};
        (void)setrlimit(RLIMIT_CORE, &none);
        for (int s = 1; s < 16; s++) (void)signal(s, SIG_DFL); /* cmocka's */
        if (work_open(&w, folder, NULL) || work_begin(&w, NULL)) _exit(3);
        if (checkpoint) work_reached(&w, checkpoint);
        if (signum) (void)raise(signum);
        work_end(&w);
        work_close(&w);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (signum && !(WIFSIGNALED(status) && WTERMSIG(status) == signum)) fail_msg("the child ended with status %d, not by signal %d", status, signum);
    if (!signum && status) fail_msg("the child ended with status %d", status);
}

static void expect(const char *name, uint32_t deaths, uint32_t crashes, uint64_t step) {
    struct work w;
    struct error err = {0};
    if (work_open(&w, folder, &err)) fail_msg("%s: %s", name, err.message);
    if (w.deaths != deaths || w.crashes != crashes || w.step != step)
        fail_msg("%s: %u deaths, %u crashes, step %llu", name, w.deaths, w.crashes, (unsigned long long)w.step);
    work_close(&w);
}

static void test_deaths(void **state) {
    (void)state;
    expect("a new folder", 0, 0, 0);
    attempt(0, SIGKILL);
    expect("killed", 1, 0, 0);
    attempt(0, SIGSEGV);
    expect("crashed", 2, 1, 0);
    attempt(0, SIGABRT);
    expect("aborted", 3, 2, 0);
    attempt(40, SIGKILL);
    expect("killed, with a checkpoint", 1, 0, 40);
    attempt(40, SIGBUS);
    expect("crashed at the same checkpoint", 2, 1, 40);
    attempt(39, SIGKILL);
    expect("an older checkpoint is no way forward", 3, 1, 40);
    attempt(40, 0);
    expect("ended in order", 0, 0, 0);
}

static void test_lock(void **state) {
    (void)state;
    struct work one, two;
    struct error err = {0};
    assert_int_equal(work_open(&one, folder, &err), 0);
    assert_int_equal(work_open(&two, folder, &err), E_AGAIN);
    work_close(&one);
    assert_int_equal(work_open(&two, folder, &err), 0);
    assert_int_equal(work_remove(&two, &err), 0);
    assert_false(file_exists(folder));
    /* a file that makes no sense counts as none */
    char path[128];
    assert_int_equal(dir_make(folder, &err), 0);
    snprintf(path, sizeof path, "%s/deaths", folder);
    assert_int_equal(file_write(path, SPAN("what is this"), 0644, &err), 0);
    expect("nonsense", 0, 0, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_deaths), cmocka_unit_test(test_lock)};
    return cmocka_run_group_tests_name("work", tests, set_up, tear_down);
}
