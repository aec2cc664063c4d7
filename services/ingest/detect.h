/*
 * What a document is, from its name and its content; the content decides where the two disagree about text or binary. Pure, thread-safe.
 */
#ifndef GENLOOP_INGEST_DETECT_H
#define GENLOOP_INGEST_DETECT_H

#include "base/buf.h"
#include "services/ingest/reasons.h"

enum media { MEDIA_UNKNOWN, MEDIA_TEXT, MEDIA_MARKDOWN, MEDIA_HTML, MEDIA_TROFF, MEDIA_SOURCE, MEDIA_JSONL, MEDIA_CSV, MEDIA_BINARY, MEDIA_COUNT };
const char *media_type(enum media m); /* "text/plain", … as in documents.proto */

enum { DETECT_SNIFF_BYTES = 8192 };   /* a page's first screens: enough for every sign looked for */

struct detected {
    enum media media;
    char what[32];      /* MEDIA_SOURCE: the language, "c"; MEDIA_BINARY: what it is, "PDF"; else empty */
    char delimiter;     /* MEDIA_CSV */
};
bool detect_gzip(struct span content);
/* name: file name or URL. content: decompressed, at least its begin. hint: the client's media type, may be empty; known ones are believed
 * unless the content is binary, others give MEDIA_UNKNOWN. */
void detect_media(struct span name, struct span content, struct span hint, struct detected *d);
/* The language of a source file by its name, NULL where it is none. (extract_source.c) */
const char *source_language(struct span name);
/* The last part of a path or URL, without query and without .gz. */
struct span detect_base_name(struct span name);

/* Decompresses all members of a gzip file, at most size_max bytes in all: a small file cannot fill the memory. Appends to out, whose cap counts too. (gunzip.c) */
enum reason gunzip(struct span in, size_t size_max, struct buf *out);

#endif
