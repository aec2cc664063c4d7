/*
 * Questions and answers drawn from documents, for supervised fine-tuning: from a manual page what it is, does, returns and takes as options;
 * from any text with headings what it says under each. Records that are conversations are taken as they are. Pure: the same text gives the same pairs.
 */
#ifndef GENLOOP_INGEST_PAIRS_H
#define GENLOOP_INGEST_PAIRS_H

#include "services/ingest/detect.h"

enum {
    PAIRS_PER_TEXT_MAX = 256,  /* a page of a thousand options must not outweigh all others */
    PAIR_ANSWER_MIN = 12,      /* bytes: shorter ones teach nothing */
    PAIR_ANSWER_MAX = 1500,    /* bytes, about 400 tokens: what a small model's context holds beside its question */
    PAIR_TURNS_MAX = 64,
};

/* on_pair(arg, turns, n): n turns, user first, alternating; borrowed for the call; a result other than 0 stops and is returned. text: one record. */
int pairs_draw(struct span title, struct span text, enum media media, void *arg, int (*on_pair)(void *arg, const struct span *turns, int n));

#endif
