/*
 * What a dataset version says of itself: the manifest (JSON, with Croissant's keys, https://docs.mlcommons.org/croissant/) for machines and the data card (Markdown)
 * for people. Both are pure functions of struct dataset_facts: the same facts give the same bytes, so a build that is done again gives the same objects.
 */
#ifndef GENLOOP_INGEST_MANIFEST_H
#define GENLOOP_INGEST_MANIFEST_H

#include "services/ingest/personal.h"
#include "services/ingest/reasons.h"
#include "services/ingest/shards.h"

enum { FACTS_TAGS_MAX = 64 };
struct tag_count { /* a language, a media type, a licence: how often */
    char tag[64];
    uint64_t documents, bytes;
};
struct tag_table {
    struct tag_count items[FACTS_TAGS_MAX]; /* what does not fit is counted in "other", the last */
    size_t n;
};
void tag_table_add(struct tag_table *t, const char *tag, uint64_t bytes);
void tag_table_sort(struct tag_table *t); /* by bytes, then name */

struct dataset_facts {
    const char *name, *tenant, *build_id;
    uint32_t version, vocab;
    int64_t created_time_ms;    /* of the build's begin: the same when it is done again */
    const struct split *train, *held_out;
    struct object_ref tokenizer, tokenizer_config;
    bool tokenizer_trained;     /* else it was given */
    double held_out_share;
    uint64_t seed;
    uint64_t received, accepted, rejected, duplicates, records;
    uint64_t reasons[REASON_COUNT];
    uint64_t redactions;
    struct tag_table languages, media, licences;
};
int manifest_write(const struct dataset_facts *f, struct buf *out);
int dataset_card_write(const struct dataset_facts *f, struct buf *out);

#endif
