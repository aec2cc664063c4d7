/*
 * The lines of uploaded files: pure. What OpenAI's formats for fine-tuning are, is here, and how a line of them becomes a row of a dataset (TRL's forms, which lib/train reads):
 *
 *   {"messages": […]}                                                           supervised   {"messages": […]}, or where some answers are not to be learnt {"prompt": […], "completion": […]}
 *   {"prompt": "…", "completion": "…"}                                          supervised   the same
 *   {"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}   preference   {"prompt": […], "chosen": […], "rejected": […]}
 *
 * A line of a batch is any JSON object: what it asks for is checked by who runs it. Blank lines count for nothing. Errors name the line, from 1, as an editor counts.
 */
#ifndef GENLOOP_INGEST_FILE_ROWS_H
#define GENLOOP_INGEST_FILE_ROWS_H

#include "base/buf.h"
#include "base/error.h"
#include "base/json.h"
#include "base/span.h"

enum { FILE_LINE_MAX = 16 << 20 }; /* bytes: some 4 million tokens, more than any context */

enum file_rows { FILE_ROWS_NONE,
                 FILE_ROWS_SUPERVISED,
                 FILE_ROWS_PREFERENCE };
const char *file_rows_name(enum file_rows rows); /* "chat or completion examples" */

struct file_facts {
    uint64_t lines; /* without blank ones */
    enum file_rows rows;
};

/* Takes the next line that is not blank from *text: false at the end. *number: of the line taken last, 0 before the first. */
bool file_line_next(struct span *text, uint64_t *number, struct span *line);
/* A line of a file for fine-tuning as what it is, and where out is not NULL as a row of a dataset. E_INVALID, E_UNSUPPORTED, E_TOO_LARGE; without the line's number. */
int file_row_read(struct span line, enum file_rows *rows, struct buf *out, struct error *err);
/* Every line of a file. train: the lines are rows to learn from, all of one kind; else objects. Nothing but blank lines is E_INVALID too. */
int file_check(struct span text, bool train, struct file_facts *facts, struct error *err);

#endif
