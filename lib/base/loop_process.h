/*
 * Child processes on the loop, for the supervisor and for tests. The child leads a process group of its own and dies with us
 * (PR_SET_PDEATHSIG). stdout and stderr go to a file descriptor given by the caller. On the loop's thread.
 */
#ifndef GENLOOP_BASE_LOOP_PROCESS_H
#define GENLOOP_BASE_LOOP_PROCESS_H

#include "base/loop.h"

struct process;
/* argv, env: NULL-terminated; env NULL inherits ours. fd_out: both outputs, -1 for /dev/null. on_exit: status ≥ 0 exit code, or −signal. Returns owned. */
struct process *process_spawn(struct loop *l, const char *const *argv, const char *const *env, int fd_out, void *arg,
                              void (*on_exit)(void *arg, int status), struct error *err);
int process_pid(const struct process *p);
int process_kill(struct process *p, int signum);
void process_close(struct process *p); /* frees; the child is not waited for any more */

#endif
