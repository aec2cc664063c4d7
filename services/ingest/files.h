/*
 * Files of clients: OpenAI's /v1/files. A file is a fact on topic files (compacted; a tombstone where it was deleted) and bytes in the store; its questions are answered from the view
 * as of now, so that who has just uploaded finds it. Ids come from the client's Idempotency-Key where there is one: the same upload again is the same file.
 *
 * For fine-tuning one or two files become a version of a dataset that is named like the training file; the trainer knows nothing of files.
 */
#ifndef GENLOOP_INGEST_FILES_H
#define GENLOOP_INGEST_FILES_H

#include "services/ingest/ingest.h"

#define FILE_PURPOSE_MODEL "model" /* a file of a model that is imported */
enum {
    FILE_ID_MAX = 64,
    FILE_NAME_MAX = 1024,
    FILES_LIST_MAX = 10000,     /* OpenAI's own */
    FILE_PIECE_BYTES = 1 << 20, /* of ReadFile */
    FILE_EXPIRES_MIN_S = 3600,
    FILE_EXPIRES_MAX_S = 30 * 24 * 3600, /* OpenAI's own */
};

/* Of an upload, behind its last byte: the File as it goes onto the topic, packed. */
struct file_upload {
    struct buf packed;
};
void file_upload_fini(struct file_upload *u); /* safe on a zeroed struct */

/* What a header of UploadFile says. E_INVALID, E_UNSUPPORTED with the parameter in OpenAI's words. whole: nothing more will come. */
int file_header_check(const Genloop__V1__UploadHeader *h, bool whole, struct error *err);
/* Checks the content by its purpose and fills in *u and the id; *existed: the same file is there already. E_EXISTS: the id is another file's. Blocks. */
int file_upload_read(struct ingest *in, struct span tenant, const Genloop__V1__UploadHeader *h, const struct object_ref *ref, struct file_upload *u, char id[FILE_ID_MAX + 1], bool *existed,
                     struct error *err);
/* Whether *u is the same file as another's packed record, which takes its place then; else E_EXISTS. */
int file_upload_same(struct file_upload *u, struct span packed, struct error *err);

/* Questions: a packed request in, a packed reply onto out. Each blocks. */
int files_list(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err);
int files_get(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err);
int files_read(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err);
int files_delete(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err);
int files_dataset(struct ingest *in, struct span tenant, struct span request, struct buf *out, struct error *err); /* file_dataset.c */

/* The record of a file that is there and has not expired; owned (message_free). E_NOT_FOUND names `param`. */
int files_find(struct ingest *in, struct span tenant, const char *id, const char *param, Genloop__V1__File **file, struct error *err);

/* Takes away what has expired: a tombstone each, at most so many at once. Blocks. */
void files_sweep(struct ingest *in);

#endif
