/*
 * The supervisor of a one-machine platform: the shell around supervise.h. It starts the children, reads what they print into their logs, hears when they are ready, answers at its door
 * (HOME/run/supervisor.sock, for the same user only) and takes all of it down in order. One loop, one thread.
 *
 * Children die with it (PR_SET_PDEATHSIG), so that a supervisor that was killed leaves nothing that the next one would have to take over.
 */
#ifndef GENLOOP_CLI_SUPERVISOR_H
#define GENLOOP_CLI_SUPERVISOR_H

#include "platform.h"

/* The last line on the report descriptor of a detached supervisor: this byte, the exit code of `up`, and nothing more comes. */
#define SUPERVISOR_REPORT_END '\001'

struct supervisor_config {
    const struct platform *platform; /* its lock is held by the caller */
    int report_fd;                   /* lines for a person: what is ready, what ended; ours to close where `detached` */
    bool detached;                   /* the report ends when the platform is ready, or cannot be */
};
/* Runs until the platform is down. The exit code: 0, or 1 where it could not start. */
int supervisor_run(const struct supervisor_config *config);

#endif
