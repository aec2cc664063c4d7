/*
 * What a job needs of the store, as files of its folder. Datasets are read by their manifest (format 1: services/ingest/manifest.c, services/feedback/sets.c): tokens as they are,
 * rows unpacked from zstd. What is one object is a link; a folder that was laid out before is laid out again, so a half one never counts. Blocking.
 */
#ifndef GENLOOP_TRAINER_INPUTS_H
#define GENLOOP_TRAINER_INPUTS_H

#include "base/json.h"
#include "genloop/v1/datasets.pb-c.h"
#include "genloop/v1/models.pb-c.h"
#include "store/store.h"

enum { INPUTS_ROWS_MAX = 1 << 30 }; /* bytes of unpacked rows: what lib/train reads */

enum input { INPUT_TOKENS, INPUT_SAMPLES, INPUT_PAIRS };

/* The manifest of a version that is READY, checked. Returns owned (json_free). E_STATE, E_DATA_LOSS, E_UNSUPPORTED. */
int inputs_manifest(struct store *store, const Genloop__V1__Dataset *d, struct json **manifest, struct error *err);
/* How many rows (of tokens: tokens) a split ("train", "held_out") has of a kind; 0 where there is none. */
uint64_t inputs_count(const struct json *manifest, const char *split, enum input kind);
/* Lays them out at `path`, which exists then, empty or not. E_TOO_LARGE, E_DATA_LOSS, E_IO. */
int inputs_file(struct store *store, const struct json *manifest, const char *split, enum input kind, const char *path, struct error *err);
/* tokenizer.json and tokenizer_config.json of a dataset of texts, in `dir`. E_NOT_FOUND where it has none. */
int inputs_tokenizer(struct store *store, const struct json *manifest, const char *dir, struct error *err);
/* sha256 of tokenizer.json, "" where there is none. */
void inputs_tokenizer_sha256(const struct json *manifest, char sha256[SHA256_HEX_MAX]);
int inputs_model(struct store *store, const Genloop__V1__ModelVersion *v, const char *dir, struct error *err);
/* A small file of a model's directory, appended; E_NOT_FOUND. sha256 may be NULL. */
int inputs_model_file(struct store *store, const Genloop__V1__ModelVersion *v, const char *name, struct buf *out, char sha256[SHA256_HEX_MAX], struct error *err);

#endif
