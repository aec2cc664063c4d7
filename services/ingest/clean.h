/*
 * From the bytes of a document to what a dataset takes: detect → gunzip → UTF-8 → extract → personal data → normalise → quality → language. Pure: bytes in,
 * text or a reason out; thread-safe. Out of memory is the only failure.
 */
#ifndef GENLOOP_INGEST_CLEAN_H
#define GENLOOP_INGEST_CLEAN_H

#include "base/error.h"
#include "services/ingest/extract.h"
#include "services/ingest/personal.h"

enum {
    CLEAN_TEXT_MAX = 64 << 20, /* of a document once decompressed, and of its text: a zip bomb ends here; larger collections are uploaded in parts */
    CLEAN_DETAIL_MAX = 160,
};

struct clean_result {
    enum reason reason;      /* REASON_NONE: accepted */
    char detail[CLEAN_DETAIL_MAX];
    enum media media;
    char language[32];       /* BCP 47, or of source code its name */
    char title[TEXT_TITLE_MAX];
    struct buf text;         /* caller's buf_fini */
    uint64_t redactions[PERSONAL_COUNT];
    uint64_t repaired, rows, rows_bad;
};
void clean_init(struct clean_result *r);
void clean_fini(struct clean_result *r);
/* source: name or URL; media_type: the client's word, may be empty. E_NOMEM. */
int clean_document(struct span bytes, struct span source, struct span media_type, struct clean_result *r);
static inline uint64_t clean_redactions(const struct clean_result *r) {
    uint64_t n = 0;
    for (int i = 0; i < PERSONAL_COUNT; i++) n += r->redactions[i];
    return n;
}

#endif
