/*
 * The held-out rows that an evaluation measures, read and picked: same files and spec, same rows. Files are JSONL; all that is returned lies in the arena. Errors name file
 * and line. Pure but for reading the files.
 */
#ifndef GENLOOP_TRAINER_MEASURE_ROWS_H
#define GENLOOP_TRAINER_MEASURE_ROWS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/span.h"
#include "genloop/v1/jobs.pb-c.h"
#include "tokenizer/chat.h"

struct measure_document {
    struct span id;
    struct span text; /* a stretch of at most bytes_max bytes */
};
/* At most spec->documents_max of the rows with a text, in the picked order; each row counts once. */
int measure_read_documents(const char *path, const Genloop__V1__EvaluateSpec *spec, size_t bytes_max, struct arena *arena, struct measure_document **documents, size_t *n, struct error *err);

/* The two halves of a text, cut at the white space behind its middle; the second is never empty. */
void measure_halve(struct span text, struct span *first, struct span *second);

enum { MEASURE_ID_MAX = 17 };
struct measure_prompt {
    char id[MEASURE_ID_MAX]; /* of the digest of json */
    struct span json;        /* a string, or an array of messages: written the same for the same prompt */
    struct chat_message *messages; /* of a chat, else NULL */
    size_t message_count;
    struct span text;        /* where it is none */
    uint64_t seed;           /* of its answer: a function of spec->seed and id */
    size_t tokens;           /* set by `fits` */
};
/* spec->prompts of them, no two alike, that `fits` (1: yes, 0: no, or an error) takes; fewer where there are no more. path NULL or "": only beginnings from documents. */
int measure_read_prompts(const char *path, const Genloop__V1__EvaluateSpec *spec, const struct measure_document *documents, size_t n_documents, struct arena *arena, void *arg,
                         int (*fits)(void *arg, struct measure_prompt *prompt, struct error *err), struct measure_prompt **prompts, size_t *n, struct error *err);

struct measure_pair {
    struct span request_id; /* may be empty */
    struct span prompt_id;  /* of its prompt: the same for the same prompt */
    struct span line;       /* the row as it stands */
};
/* At most MEASURE_PAIRS_MAX rows. path NULL or "": none. */
int measure_read_pairs(const char *path, const Genloop__V1__EvaluateSpec *spec, struct arena *arena, struct measure_pair **pairs, size_t *n, struct error *err);

#endif
