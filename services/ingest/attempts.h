/*
 * Which documents were in hand when the process died, so that one that kills it is found and not tried for ever. Before a batch its ids are noted in a small
 * file; at the next start those found there are suspects and are taken alone, each time with one attempt more; at POISON_ATTEMPTS the
 * document is rejected. The file outlives the process, which is what it is for, not the machine: it is not synced. One thread.
 *
 *   (none) ──in a batch──► 1 ──process died; alone──► 2 ──died; alone──► 3 ──► poison
 */
#ifndef GENLOOP_INGEST_ATTEMPTS_H
#define GENLOOP_INGEST_ATTEMPTS_H

#include "base/buf.h"
#include "base/error.h"

enum { ATTEMPTS_MAX = 4096 }; /* suspects: the largest batch times the deaths between two clean batches */
struct attempt {
    char id[65];
    int count;
};
struct attempts {
    char path[4096];
    struct attempt *suspects; /* owned; found at start and not cleared yet */
    size_t n;
};
/* Reads what the last life left. A file that makes no sense counts as none. */
int attempts_open(struct attempts *a, const char *path, struct error *err);
void attempts_close(struct attempts *a);
int attempts_of(const struct attempts *a, struct span id); /* 0: no suspect */
/* These are in hand from now on; of suspects among them the count rises. */
int attempts_begin(struct attempts *a, const char (*ids)[65], size_t n, struct error *err);
/* They are done: no suspects any more. */
void attempts_end(struct attempts *a, const char (*ids)[65], size_t n);

#endif
