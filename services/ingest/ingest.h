/*
 * services/ingest: documents to datasets. What its files share.
 *
 *   main.c       settings, start, drain, stop          rpc.c        the methods of service Ingest: what is asked
 *   documents.c  Upload: bytes → store → RECEIVED → ack worker.c     RECEIVED → ACCEPTED | REJECTED, in a thread of its own
 *   files.c      what clients upload to /v1/files, and what comes of it: lists, pieces, datasets to fine-tune on; file_rows.c: their lines (pure)
 *   batches.c    batches of requests that gateways answer: batch_lines.c (pure), batch_fold.c, batch_write.c
 *   dataset.c    Build: accepted documents → a version, in a thread of its own
 *   view.c       documents and datasets as tables      shards.c, manifest.c, card.c   the files of a version
 *   clean.c and what it calls: the pure part
 *
 * Everything here runs on the loop's thread but worker.c's and dataset.c's own threads and what is said to run on a pool thread.
 */
#ifndef GENLOOP_INGEST_INGEST_H
#define GENLOOP_INGEST_INGEST_H

#include <stdatomic.h>

#include "genloop/v1/datasets.pb-c.h"
#include "genloop/v1/documents.pb-c.h"
#include "genloop/v1/files.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "services/ingest/reasons.h"
#include "service/service.h"
#include "view/view.h"

struct ingest_settings {
    struct service_settings shared;
    int64_t threads;          /* of extraction and encoding; 0: as many as CPUs */
    int64_t document_max;     /* bytes of one document */
    int64_t file_max;         /* bytes of one file */
    int64_t model_file_max;   /* bytes of one file of purpose model */
    int64_t vocab;            /* of tokenizers that are trained */
    double held_out;          /* share of documents */
};

enum {
    UPLOADS_MAX = 256,                     /* open at once; above it the client is asked to come again */
    UPLOAD_MEMORY_MAX = 256 << 20,         /* what all open uploads may hold before it is on disk */
    UPLOAD_PIECE_BYTES = 1 << 20,          /* written at once: small documents never wait for a disk before their end */
    DATASET_NAME_MAX = 128,
    SOURCE_MAX = 4096,                     /* a path's longest */
    METADATA_MAX = 64, METADATA_VALUE_MAX = 4096,
    SUBJECT_MAX = 256,
    CALLS_MAX = 1024,                      /* questions that are being answered and streams that are watched */
    LIST_BYTES_MAX = 8 << 20,              /* of a list's page: half of what a bus message may have */
    BUILDS_MAX = 64,                       /* that wait */
    POISON_ATTEMPTS = 3,                   /* the service died on a document so often: it is the document */
};

/* An open call: what the bus says of it goes to its kind. The first member of every kind's struct. */
struct call;
struct call_ops {
    void (*on_item)(struct call *c, struct span item);
    void (*on_item_end)(struct call *c);
    void (*on_credit)(struct call *c);
    void (*on_cancel)(struct call *c);
};
struct call {
    const struct call_ops *ops; /* members may be NULL */
};

struct uploads;
struct worker;
struct builder;
struct calls;
struct batches;

struct ingest {
    struct service *service;
    const struct ingest_settings *settings;
    struct loop *loop;
    struct eventlog *log;
    struct store *store;
    struct view *view;
    struct uploads *uploads;
    struct worker *worker;
    struct builder *builder;
    struct batches *batches;
    struct calls *calls;
    bool draining;
    bool closed;         /* stop has been called: the bus is gone, replies with it */
    atomic_int abroad;   /* calls that another thread works for: stop waits for them, their ends on the loop come after it */
};
/* Ends a call's reply, where there still is a bus. */
void ingest_reply_end(struct ingest *in, struct bus_reply *reply, int code, const struct error *err, struct span last);
/* Frees `in` once it is closed and the last call is gone. */
void ingest_unref(struct ingest *in);

/* ---- view.c ---- */
extern const char INGEST_SCHEMA[];
enum { INGEST_SCHEMA_VERSION = 3 };
int ingest_fold(void *arg, struct view_db *db, const struct event *e, struct error *err);
/* Questions, each inside a view_read. */
bool view_document_state(struct view_db *db, struct span id, int *state);
struct dataset_counts {
    uint64_t received, accepted, rejected, pending; /* received: all that ever came and was not erased */
    uint64_t reasons[REASON_COUNT];
};
void view_dataset_counts(struct view_db *db, struct span tenant, struct span dataset, struct dataset_counts *counts);
/* The packed Dataset of a build, or of a version (0: the newest that is READY, else the newest); false where there is none. Borrowed until *s is done: the caller calls view_done(*s). */
bool view_dataset_by_build(struct view_db *db, struct span tenant, struct span build_id, struct view_stmt **s, struct span *packed);
bool view_dataset(struct view_db *db, struct span tenant, struct span name, uint32_t version, struct view_stmt **s, struct span *packed);
uint32_t view_dataset_highest(struct view_db *db, struct span tenant, struct span name);

/* ---- documents.c ---- */
int uploads_open(struct ingest *in, struct error *err);
void uploads_close(struct ingest *in);
int uploads_count(const struct ingest *in);
/* Begins an upload; the stream's events follow through *call. `request` may be empty or its first item. */
void upload_call(struct ingest *in, struct bus_reply *reply, struct span tenant, struct span request, bool file, struct call **call);
/* hex sha256(tenant NUL dataset NUL source NUL sha256) */
void document_id(struct span tenant, struct span dataset, struct span source, struct span sha256, char id[65]);
/* Letters, digits, '.', '_' and '-', not beginning with '.'. */
int dataset_name_check(struct span name, struct error *err);

/* ---- worker.c ---- */
int worker_open(struct ingest *in, struct error *err);
void worker_close(struct ingest *in); /* finishes the batch it has; NULL worker is fine */
int64_t worker_lag(const struct ingest *in);

/* ---- dataset.c ---- */
struct build_request {
    char tenant[128], dataset[DATASET_NAME_MAX + 1], build_id[128], tokenizer[200];
    uint32_t vocab;
    double held_out;
    uint64_t seed;
};
struct build_progress {
    const char *phase; /* static */
    double fraction;
};
int builder_open(struct ingest *in, struct error *err);
void builder_close(struct ingest *in); /* what is being built goes on at the next start */
/* Any thread. The same build_id again is the same build. E_FULL. */
int builder_add(struct ingest *in, const struct build_request *request, struct error *err);
/* Whether this build waits or runs here, and how far it is; build_id empty: any of the dataset. Any thread. */
bool builder_progress(struct ingest *in, const char *tenant, const char *dataset, const char *build_id, struct build_progress *p);
/* Why a build that was asked for never became a version (the dataset has no documents, …): true once, with the error. Any thread. */
bool builder_refused(struct ingest *in, const char *build_id, struct error *err);

/* ---- rpc.c ---- */
int calls_open(struct ingest *in, struct error *err);
void calls_close(struct ingest *in);
int calls_count(const struct ingest *in);
extern const struct bus_server_events ingest_bus_events;
/* Something in the view has changed. From any thread. */
void calls_changed(struct ingest *in);

/* Packs any message onto out; E_NOMEM. */
int pack_message(const ProtobufCMessage *message, struct buf *out);

#endif
