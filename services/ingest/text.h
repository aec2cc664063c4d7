/*
 * The text that every extractor writes: UTF-8 prose in a small Markdown, so that what reads it later (pairs.c, a person) has one form to know:
 *   # Title, ## Heading          at the begin of a line
 *   paragraphs                   one line each, an empty line between two
 *   - item, 1. item, - tag: body one line each
 *   ␣␣␣␣code                     verbatim lines, four spaces before each
 *   a | b | c                    a table's row
 *   > quotation                  where the source marks it
 * A document that is a list of records (JSONL, CSV) has TEXT_RECORD between them, and TEXT_TURN between the turns of a conversation
 * (user first, then assistant, alternating); neither character can come from a document: normalise.c drops control characters.
 *
 * struct text is the writer: white space collapses and breaks are remembered until something follows them, so that extractors just say what they meet.
 * Appends to a capped buffer; a failure stays in out->failed. One thread at a time.
 */
#ifndef GENLOOP_INGEST_TEXT_H
#define GENLOOP_INGEST_TEXT_H

#include "base/buf.h"

#define TEXT_RECORD '\x1e'
#define TEXT_TURN '\x1f'
enum { TEXT_TITLE_MAX = 256 };

enum text_break { TEXT_NONE, TEXT_SPACE, TEXT_LINE, TEXT_BLOCK };

struct text {
    struct buf *out;
    enum text_break pending; /* what must stand before the next character */
    bool pre;                /* verbatim: newlines and spaces are kept */
    bool started;            /* something has been written */
    bool line_start;         /* of a verbatim line */
    int blank_lines;         /* verbatim: empty lines that wait */
};

void text_init(struct text *t, struct buf *out);
void text_break(struct text *t, enum text_break b); /* the strongest of several counts */
static inline void text_space(struct text *t) { if (t->pending < TEXT_SPACE) t->pending = TEXT_SPACE; }
static inline void text_line(struct text *t) { text_break(t, TEXT_LINE); }
static inline void text_block(struct text *t) { text_break(t, TEXT_BLOCK); }
/* The next character follows without a space. */
static inline void text_join(struct text *t) { if (t->pending == TEXT_SPACE) t->pending = TEXT_NONE; }
/* A piece of text: runs of white space become one space (kept as they are inside pre). */
void text_put(struct text *t, struct span s);
void text_put_str(struct text *t, const char *s);
/* A new block that begins with a marker ("# ", "- ", "> "). The marker's last space is a pending one. */
void text_mark(struct text *t, enum text_break before, const char *marker);
void text_heading(struct text *t, int level);
void text_pre_begin(struct text *t);
void text_pre_end(struct text *t);

#endif
