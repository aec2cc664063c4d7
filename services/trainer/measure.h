/*
 * The measuring side of the gates: two model directories and held-out data in, the record of an evaluation out (JSON, as lib/gates/gates.h
 * describes it). It measures and judges nothing. No store, no bus, no clock: what stands in the record is a function of the files and the spec alone,
 * whatever the number of threads and of sequences that are sampled side by side; an answer depends on its prompt, its seed and its model only.
 *
 *   tokenizer   sha256 of either tokenizer.json; whether held-out texts come back from the candidate's ids
 *   documents   spec.documents_max of the rows, picked by spec.seed; of a long one a stretch of MEASURE_DOCUMENT_BYTES_MAX bytes; −log p, summed
 *   pairs       log p of both answers of each row under both models; only numbers and the request's id go into the record, never what people wrote
 *   samples     spec.prompts prompts, picked by spec.seed from the rows whose prompt and answer fit both contexts; where there are too few (a corpus without questions) the
 *               rest are first words of lines in the documents, to be gone on with. Candidate and baseline get the same prompt and the same seed
 * Of an encoder-decoder a document is its second half, given the first (and, of the candidate, given the first half of the next document); "round_trip" is then what came back coming back again; no pairs.
 *
 * Both models compute as a replica does: packed as they are stored, in lib/engine. What it may take (spec.multiply_adds_max) is counted as parameters × tokens, not by a clock, so that the same inputs
 * are the same record on any machine: where all of it would take more, documents are stretches of MEASURE_DOCUMENT_BYTES_SHORT, and of documents, pairs and prompts the same share is measured, but
 * never fewer than spec.documents_min and spec.prompts_min. The record has what was measured, and the intervals that come of it are as wide as that makes them.
 *
 * A candidate that computes nan, or whose tokenizer has ids that its weights do not know, gives a record that says so (null, empty answers), which no gate passes; a
 * directory that cannot be read is an error. Blocking, and busy on options.threads threads: not on an event loop's thread. Callbacks come from the calling thread.
 */
#ifndef GENLOOP_TRAINER_MEASURE_H
#define GENLOOP_TRAINER_MEASURE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "genloop/v1/jobs.pb-c.h"

enum {
    MEASURE_DOCUMENT_BYTES_MAX = 2 * 1024, /* some 600 tokens: 200 documents are then some seconds of two cores and a small model, and long ones do not outweigh the rest */
    MEASURE_DOCUMENT_BYTES_SHORT = 1024,   /* where the budget does not do for all: more documents say more than longer ones, as long as there is something to go on from */
    MEASURE_PAIRS_MAX = 1000,              /* the interval of a share of 1,000 is ±3 %; picked by spec.seed where there are more */
    MEASURE_PROMPT_BYTES_MAX = 4 * 1024,
    MEASURE_FILE_MAX = 1 << 30,            /* bytes of each of the files */
    MEASURE_ROWS_MAX = 1 << 22,
};

/* All on this machine; borrowed for the call. */
struct measure_paths {
    const char *candidate;   /* model directory, with a tokenizer */
    const char *baseline;    /* model directory; NULL: none */
    const char *candidate_adapter, *baseline_adapter; /* an adapter's directory, over the model of that side; NULL: none */
    const char *documents;   /* JSONL, {"id","text"}: "samples" of the held-out split, unpacked and one after another */
    const char *prompts;     /* JSONL, {"messages":[…, {"role":"assistant",…}]} (asked is what stands before the last answer), or {"prompt": text or messages}: "pairs" of the
                                held-out split; NULL or an empty file: none */
    const char *preferences; /* JSONL, {"prompt": text or messages, "chosen", "rejected" [, "request_id"]}: "samples" of a preference set's held-out split; NULL or an empty file: none */
    const char *work;        /* an existing folder; measure-*.jsonl are written into it and removed */
};

struct measure_options {
    uint32_t threads;   /* 0: all */
    uint32_t sequences; /* sampled side by side; 0: the engine's habit */
    void *arg;
    /* Either may be NULL. done of total units of work, both models together; phase "load", "documents", "pairs" or "samples". */
    void (*on_progress)(void *arg, const char *phase, uint64_t done, uint64_t total);
    bool (*should_stop)(void *arg); /* asked several times a second but while a model loads; true: E_CANCELLED */
};

/* Appends the record. E_INVALID and E_NOT_FOUND name the file and its line; E_UNSUPPORTED; E_CANCELLED; E_TOO_LARGE; E_NOMEM; E_IO. options may be NULL. */
int measure_evaluation(const struct measure_paths *paths, const Genloop__V1__EvaluateSpec *spec, const struct measure_options *options, struct buf *record, struct error *err);

#endif
