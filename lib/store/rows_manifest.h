/*
 * The manifest of a dataset version that has rows and nothing else (pairs of answers, examples from a file): JSON with Croissant's keys, https://docs.mlcommons.org/croissant/, as lib/train reads it
 * (docs/formats.md). The same facts give the same bytes.
 */
#ifndef GENLOOP_STORE_ROWS_MANIFEST_H
#define GENLOOP_STORE_ROWS_MANIFEST_H

#include "store/store.h"

struct rows_split {
    const char *name; /* "train", "held_out" */
    struct object_ref samples; /* JSONL, zstd */
    uint64_t rows;
};
/* kind: "supervised" or "preference". Puts it into the store. Blocking. */
int rows_manifest_put(struct store *s, const char *name, uint32_t version, const char *kind, const struct rows_split *splits, size_t n, struct object_ref *ref, struct error *err);

#endif
