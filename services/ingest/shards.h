/*
 * The files of one split of a dataset, written to the store as the documents come:
 *   tokens   little-endian uint16, or uint32 where the vocabulary has more than 65,536 ids; each document's ids and then <|endoftext|>; SHARD_BYTES_MAX each
 *   index    little-endian uint64 per document: where it begins, in tokens, counted over all shards of the split
 *   samples  JSONL, zstd: {"id","text","title","source","language"} per document; SAMPLES_BYTES_MAX each before compression
 *   pairs    JSONL, zstd: {"messages":[{"role","content"},…]} drawn from the documents
 * A document may begin in one shard and end in the next. Blocking (store); one thread.
 */
#ifndef GENLOOP_INGEST_SHARDS_H
#define GENLOOP_INGEST_SHARDS_H

#include "services/ingest/detect.h"
#include "store/store.h"

enum {
    SHARD_BYTES_MAX = 64 << 20,
    SAMPLES_BYTES_MAX = 256 << 20,
    SHARDS_MAX = 4096,               /* 256 GiB of tokens */
    ROW_OUT_MAX = 256 << 20,         /* one row of JSONL: the largest text, escaped */
};

struct shard_ref {
    struct object_ref object;
    uint64_t count; /* tokens or rows */
};
struct shard_list {
    struct shard_ref *items; /* owned */
    size_t n, capacity;
};
/* A JSONL file that is being compressed into the store. */
struct rows;
int rows_open(struct store *store, struct rows **out, struct error *err);
int rows_add(struct rows *r, struct span row, struct error *err); /* without its newline */
int rows_finish(struct rows **rows, struct shard_ref *ref, struct error *err); /* takes *rows: it is gone afterwards */
void rows_close(struct rows *r); /* NULL is accepted */

struct split {
    struct store *store;
    bool wide; /* uint32 */
    struct store_writer *tokens_writer, *index_writer;
    struct buf tokens, index;  /* not written yet */
    uint64_t shard_tokens;
    struct rows *samples_rows, *pairs_rows;
    uint64_t samples_bytes;    /* of the present file, before compression */
    struct buf row;
    /* what came of it */
    struct shard_list tokens_shards, samples_shards;
    struct shard_ref index_ref, pairs_ref;
    uint64_t documents, tokens_count, pairs_count, text_bytes;
};

int split_open(struct split *s, struct store *store, bool wide, struct error *err);
/* A document: its ids (without <|endoftext|>) and what its row says. */
int split_add(struct split *s, const uint32_t *ids, size_t n, uint32_t end_of_text, struct span id, struct span text, struct span title, struct span source,
              struct span language, struct error *err);
int split_add_pair(struct split *s, const struct span *turns, int n, struct error *err);
/* Ends all files; the lists and counts are complete after it. */
int split_finish(struct split *s, struct error *err);
void split_close(struct split *s); /* aborts what is not finished; safe on a zeroed struct */

#endif
