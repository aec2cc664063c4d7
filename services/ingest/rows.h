/*
 * Reading rows out of a version's files, a page at a time, in the order that they have or in one drawn by a seed: the same seed and version give the same order, so pages of it fit together. Each
 * page decompresses the files that its rows lie in once. Blocking; on a pool thread.
 */
#ifndef GENLOOP_INGEST_ROWS_H
#define GENLOOP_INGEST_ROWS_H

#include "genloop/v1/services.pb-c.h"
#include "store/store.h"

enum {
    ROWS_LIMIT_DEFAULT = 100, ROWS_LIMIT_MAX = 1000,
    ROWS_SHUFFLED_MAX = 4 << 20, /* 16 bytes each while the order is made; above it pages in their own order serve */
};

struct rows_wanted {
    bool held_out, pairs, shuffled;
    uint64_t offset, seed;
    uint32_t limit;
};
struct rows_given {
    uint64_t total, next_offset; /* next_offset 0: there are no more */
};

/* E_INVALID names the parameter. */
int rows_wanted_read(const Genloop__V1__ListRowsRequest *request, struct rows_wanted *wanted, struct error *err);
/* manifest: the version's, JSON. on_row in order; its result other than 0 stops and is returned. bytes_max: of the rows together; a page of rows in their own order ends before, a drawn one is
 * E_TOO_LARGE. E_NOT_FOUND: the version has no such rows; E_DATA_LOSS: the files do not hold what the manifest says. */
int rows_read(struct store *store, struct span manifest, const struct rows_wanted *wanted, size_t bytes_max, void *arg, int (*on_row)(void *arg, struct span row), struct rows_given *given,
              struct error *err);

#endif
