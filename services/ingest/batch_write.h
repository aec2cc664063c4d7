/* The files that come of a batch: what was answered, and what was not as it should be, each in the order of the input. The same answers give the same files. Blocking. */
#ifndef GENLOOP_INGEST_BATCH_WRITE_H
#define GENLOOP_INGEST_BATCH_WRITE_H

#include "services/ingest/files.h"

struct batch_files {
    char output_id[FILE_ID_MAX + 1], error_id[FILE_ID_MAX + 1]; /* "": there is nothing in it, so there is none */
    uint64_t completed, failed;                                 /* lines */
};
/* b->state is the one that it is about to reach: EXPIRED and CANCELLED say of the lines that were not answered that they were not. The files are on their topic when it returns. */
int batch_write_files(struct ingest *in, const Genloop__V1__Batch *b, struct batch_files *files, struct error *err);

#endif
