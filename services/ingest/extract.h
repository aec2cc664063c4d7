/*
 * From markup to readable text (text.h): one extractor per format, each a tolerant reader of its own that takes any bytes. Input is valid UTF-8
 * (normalise_decode comes first). Linear in the input, nesting and expansion are capped, nothing recurses; what does not fit out's cap sets out->failed.
 * title: filled where the document names itself, else left. Pure, thread-safe.
 */
#ifndef GENLOOP_INGEST_EXTRACT_H
#define GENLOOP_INGEST_EXTRACT_H

#include "services/ingest/detect.h"
#include "services/ingest/text.h"

struct extracted {
    struct buf *text;           /* appended to */
    char title[TEXT_TITLE_MAX];
    uint64_t rows, rows_bad;    /* JSONL, CSV */
};
typedef enum reason extract_function(struct span in, struct extracted *x);

extract_function extract_text;     /* plain text: overstrikes and terminal colours go */
extract_function extract_markdown; /* markers, links and HTML go; paragraphs are joined */
extract_function extract_html;     /* headings, paragraphs, lists, tables and pre stay; scripts, styles and navigation go */
extract_function extract_troff;    /* man(7) and mdoc(7) */
extract_function extract_jsonl;    /* text | content | messages | prompt+completion and their like */
enum reason extract_csv(struct span in, char delimiter, struct extracted *x);

/* Decodes one HTML entity or reference at s ("&amp;…"); returns its length and appends its characters to out[8], *n bytes; 0 where there is none. (entities.c) */
size_t entity_decode(struct span s, char out[8], size_t *n);
/* The character of a name without & and ; , 0 where there is none. */
uint32_t entity_lookup(struct span name);

enum {
    ROW_BYTES_MAX = 8 << 20,   /* of one row of JSONL or CSV: as large as a request that the gateway reads */
    ROW_MESSAGES_MAX = 1024,
    CSV_COLUMNS_MAX = 1024,
    NESTING_MAX = 64,          /* lists and quotations: deeper ones are shown flat */
};

#endif
