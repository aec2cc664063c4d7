/*
 * The lines of a batch's file, and of what comes of it: pure. A line asks for one answer, in OpenAI's format:
 *
 *   {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": …, …}}
 *
 * and its answer is a line of the output file, or where the status is not 200 of the error file:
 *
 *   {"id": "batch_req_…", "custom_id": "a", "response": {"status_code": 200, "request_id": "…", "body": {…}}, "error": null}
 *
 * A file with a line that is no such request, or with a custom_id twice, is no batch: its errors name the lines, from 1, as an editor counts.
 */
#ifndef GENLOOP_INGEST_BATCH_LINES_H
#define GENLOOP_INGEST_BATCH_LINES_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"

enum {
    BATCH_LINES_MAX = 50000,  /* OpenAI's own */
    BATCH_CUSTOM_ID_MAX = 512,
    BATCH_ERRORS_MAX = 100,   /* that are told: more help nobody */
    BATCH_MODEL_MAX = 256,
};

struct batch_line {
    uint64_t number; /* of the file's lines, from 1 */
    uint64_t start;  /* bytes */
    uint32_t len;
};
struct batch_error {
    const char *code; /* static; OpenAI's words */
    char message[200], param[32];
    uint64_t line;    /* 0: of the file */
};
/* What a file is. Owned memory. */
struct batch_index {
    struct batch_line *lines;
    size_t n, capacity;
    char model[BATCH_MODEL_MAX + 1]; /* of the first line */
    struct batch_error *errors;      /* [BATCH_ERRORS_MAX] where there are any */
    size_t n_errors;
};
void batch_index_fini(struct batch_index *x); /* safe on a zeroed struct and twice */
/* Where the lines are, without looking into them. E_NOMEM; E_TOO_LARGE beyond BATCH_LINES_MAX. */
int batch_index_lines(struct batch_index *x, struct span text);
/* The same, and each line is looked into; what is wrong is in x->errors. E_NOMEM. */
int batch_index_check(struct batch_index *x, struct span text, const char *endpoint);
/* The body of a line that was checked, as JSON onto out. E_INVALID where it was not. */
int batch_line_body(struct span line, struct buf *out, struct error *err);
/* The line of an answer, with its newline. body: JSON on one line; E_INVALID where it is none. status 0: there is no answer, and code and message say why. id: of the line in all the world. */
struct batch_answer {
    const char *id, *request_id, *code, *message;
    uint32_t status;
    struct span body;
};
int batch_answer_write(struct span line, const struct batch_answer *a, struct buf *out, struct error *err);

#endif
