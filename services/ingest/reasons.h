/*
 * Why a document, or a record of one, is not taken: the words that Document.reject_reason, DatasetProgress and data cards use. One table;
 * reason_doc is what the data card says of each. Nothing is dropped without one of them.
 */
#ifndef GENLOOP_INGEST_REASONS_H
#define GENLOOP_INGEST_REASONS_H

enum reason {
    REASON_NONE,
    REASON_BINARY,         /* no text: a magic number, NUL bytes, control characters */
    REASON_NOT_UTF8,       /* neither UTF-8 nor a charset that can be told */
    REASON_BAD_ARCHIVE,    /* gzip that does not open */
    REASON_TOO_LARGE,      /* above the limits, as it came or once decompressed */
    REASON_UNSUPPORTED,    /* a media type that nothing here reads */
    REASON_REDIRECT,       /* a manual page that only names another, an HTML page that only forwards */
    REASON_BAD_ROWS,       /* JSONL or CSV without one usable row */
    REASON_EMPTY,
    REASON_TOO_SHORT,
    REASON_MOSTLY_SYMBOLS,
    REASON_REPEATED_LINES,
    REASON_LONG_WORDS,     /* base64, minified code, hex dumps */
    REASON_BROKEN_TEXT,    /* replacement characters in great number */
    REASON_DUPLICATE,      /* the same text, but for case and white space, is in the dataset */
    REASON_POISON,         /* the service died on it again and again */
    REASON_COUNT
};

const char *reason_word(enum reason r); /* "too_short"; "" for REASON_NONE */
const char *reason_doc(enum reason r);  /* one sentence for the data card */
enum reason reason_of(const char *word); /* REASON_NONE for what is no word of the table */

#endif
