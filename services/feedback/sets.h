/*
 * Data sets of judgements: NAME-preferences and NAME-supervised, built from all that is known of a model, written to the store and announced on the
 * datasets topic. Format 1 of the manifest, kind "preference" or "supervised": {"format":1,"name","version","kind","splits":{"train":{"samples":[{"sha256",
 * "size","rows"}]},"held_out":{…}}} with the Croissant keys; rows are JSONL, zstd. Blocking: on a worker.
 */
#ifndef GENLOOP_FEEDBACK_SETS_H
#define GENLOOP_FEEDBACK_SETS_H

#include "facts.h"
#include "registry/state.h"

enum { SETS_ROWS_BYTES_MAX = 512 * 1024 * 1024, SETS_NAME_MAX = MODEL_NAME_MAX + 16 };
/* Bytes of judgements and contents that a build holds. */
#define SETS_MEMORY_MAX ((size_t)2048 * 1024 * 1024)

struct set_built {
    char name[SETS_NAME_MAX];
    uint32_t version;
    uint64_t rows, rows_held_out;
    int64_t judgements; /* that there were */
    bool existed;       /* this build_id had been built before */
};
/* supervised: NAME-supervised, else NAME-preferences. The same build_id gives the same version. E_STATE where nothing can be learnt from what is there, and why. */
int sets_build(struct facts *facts, struct eventlog *log, struct span model, bool supervised, struct span build_id, const char *tenant, int64_t now_ms,
               struct set_built *built, struct error *err);

#endif
