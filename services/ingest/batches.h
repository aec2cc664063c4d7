/*
 * Batches: OpenAI's /v1/batches. A file's lines are requests, which gateways answer when nothing else is to be done; here is what is to be answered, what is, and what comes of it.
 *
 *   VALIDATING ─► IN_PROGRESS ─(every line answered)─► FINALIZING ─► COMPLETED
 *       │              ├─(24 hours are over)──────────────────────► EXPIRED
 *       │              └─ cancel ─► CANCELLING ────────────────────► CANCELLED     (what is answered by then is in the files, and of the other lines that they are not)
 *       └─► FAILED (its errors name the lines)
 *
 * Everything is on topic batches: states, and deliveries of answers (their lines are an object each). The first answer to a line counts, so that a line that is answered twice (a gateway
 * died, an instance of ingest did) is in the output once. The output is a function of what is on the topic: whoever writes it, writes the same files.
 *
 * Which lines are being worked on is known in memory alone: gateways take lines from one instance (the first by name), tell of those that they keep, and a line that is neither answered
 * nor kept for BATCH_DEALT_MS is dealt again.
 */
#ifndef GENLOOP_INGEST_BATCHES_H
#define GENLOOP_INGEST_BATCHES_H

#include "services/ingest/ingest.h"

enum {
    BATCH_ID_MAX = 64,
    BATCH_WINDOW_MS = 24 * 3600 * 1000, /* OpenAI's only one */
    BATCH_DEALT_MS = 60 * 1000,  /* a gateway tells of what it keeps every few seconds */
    BATCH_TAKE_MAX = 256,        /* lines of a delivery */
    BATCH_TAKE_BYTES = 8 << 20,  /* of them, and of the answers of one: half of what a bus message may have */
    BATCH_ACTIVE_MAX = 16,       /* batches that are dealt from at once; the others wait for their turn */
    BATCH_LIST_MAX = 100,
    BATCH_METADATA_MAX = 16, BATCH_METADATA_KEY_MAX = 64, BATCH_METADATA_VALUE_MAX = 512, /* OpenAI's own */
};

int batches_open(struct ingest *in, struct error *err);
void batches_stop(struct ingest *in);  /* ends its thread, before what that uses is closed; what was being written is written at the next start */
void batches_close(struct ingest *in); /* behind the last question; NULL is fine */

/* Questions: a packed request in, a packed reply onto out. Each blocks. */
struct batch_caller {
    const char *id, *scope;
};
int batches_create(struct ingest *in, struct span tenant, const struct batch_caller *caller, struct span request, struct buf *out, struct error *err);
int batches_get(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err);
int batches_list(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err);
int batches_cancel(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err);
/* Of gateways, about every tenant's. */
int batches_take(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err);
int batches_put(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err);

/* ---- batch_fold.c: their tables ---- */
#define BATCH_SCHEMA                                                                                                                                                                        \
    "CREATE TABLE batches(id TEXT PRIMARY KEY, tenant TEXT NOT NULL, state INTEGER NOT NULL, created_ms INTEGER NOT NULL, packed BLOB NOT NULL) WITHOUT ROWID;"                             \
    "CREATE INDEX batches_by_time ON batches(tenant, created_ms, id);"                                                                                                                      \
    "CREATE INDEX batches_by_state ON batches(state, created_ms);"                                                                                                                          \
    "CREATE TABLE batch_answers(batch_id TEXT NOT NULL, number INTEGER NOT NULL, object TEXT NOT NULL, place INTEGER NOT NULL, failed INTEGER NOT NULL, PRIMARY KEY(batch_id, number)) WITHOUT ROWID;"
int batch_fold(struct view_db *db, const struct event *e, struct error *err);
bool batch_ended(int state);

#endif
