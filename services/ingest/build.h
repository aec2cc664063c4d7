/*
 * The long part of a build: from the accepted documents, as the view has them at this moment, to the objects of a version. The result is a pure function of the
 * documents and the options, whatever the number of threads, so a build that died is simply done again and gives the same objects. Blocking; on the builder's thread.
 */
#ifndef GENLOOP_INGEST_BUILD_H
#define GENLOOP_INGEST_BUILD_H

#include "services/ingest/ingest.h"

enum {
    BUILD_MEMORY_MAX_MIB = 4096,       /* what is kept of each document (about 500 bytes): eight million of them */
    BUILD_BATCH = 64,                  /* documents encoded side by side */
    BUILD_VOCAB_MIN = 512, BUILD_VOCAB_MAX = 262144,
};

/* Fills in what the version holds: manifest, card, tokenizer and the counts; the strings are the builder's arena's. on_progress: a result other than 0 stops the build with it. */
struct build_result {
    struct object_ref manifest, card, tokenizer;
    uint64_t documents, held_out, rejected, text_bytes, tokens, tokens_held_out, pairs, pairs_held_out;
    uint64_t reasons[REASON_COUNT];
};
int build_version(struct ingest *in, const struct build_request *request, uint32_t version, int64_t created_time_ms, void *arg,
                  int (*on_progress)(void *arg, const char *phase, double fraction), struct build_result *result, struct error *err);

#endif
