/* `genloop train --local --recipe FILE --out DIR`: the trainer in this process, as contracts.md has it. */
#ifndef GENLOOP_TRAIN_LOCAL_H
#define GENLOOP_TRAIN_LOCAL_H

#include <stdio.h>

#include "base/error.h"

/* One JSON line a step on `out`, flushed when the step is done; goes on from the last checkpoint in out_dir; on a finished out_dir prints and changes nothing
 * and returns 0. SIGTERM and SIGINT are the caller's: `stop`, where not NULL, is looked at before each step, and a value other than 0 writes a
 * checkpoint and returns E_ABORTED. */
int train_local_main(const char *recipe_path, const char *out_dir, FILE *out, const volatile int *stop, struct error *err);

#endif
