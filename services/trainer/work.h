/*
 * The folder of a job on this machine: who works in it, and how often the process died on it without getting further.
 *
 *   lock     held (flock) by the process that runs the job: where HOME is shared, an instance that was stopped and lost its partition cannot write beside its successor
 *   deaths   "DEATHS CRASHES STEP\n", written before each attempt and removed when one ends in order; so what is found there at the next begin is one more death. A signal of
 *            our own fault (SEGV, BUS, FPE, ILL, ABRT) appends a byte on its way out, which makes it a crash. Outlives the process, which is what it is for, not the machine
 *
 * Both counts begin anew when a checkpoint further than STEP is found. One job at a time per process.
 */
#ifndef GENLOOP_TRAINER_WORK_H
#define GENLOOP_TRAINER_WORK_H

#include <stdint.h>

#include "base/error.h"

enum { WORK_PATH_MAX = 4096 };
struct work {
    char dir[WORK_PATH_MAX];
    int lock_fd;
    uint32_t deaths, crashes; /* before this attempt */
    uint64_t step;            /* that the last attempts began at */
};
/* Makes the folder and takes its lock: E_AGAIN while another process has it. */
int work_open(struct work *w, const char *dir, struct error *err);
void work_close(struct work *w);                               /* the folder stays */
int work_remove(struct work *w, struct error *err);            /* the folder goes, and is closed */
/* An attempt begins: dying from here on is a death. */
int work_begin(struct work *w, struct error *err);
void work_reached(struct work *w, uint64_t step);              /* it goes on from this checkpoint */
void work_end(struct work *w);                                 /* in order */
/* "DIR/relative" */
int work_path(const struct work *w, const char *relative, char path[WORK_PATH_MAX], struct error *err);

#endif
