/*
 * The prose that the platform ships, for measuring models where there is no data set of texts, and encoders always: passages of English on forty everyday subjects, four sentences each, written for
 * this purpose, so that none of them is in a published model's training data from elsewhere. They are part of what a verdict means: a changed passage is a new version of it (EVALUATION_PROSE).
 */
#ifndef GENLOOP_TRAINER_PROSE_H
#define GENLOOP_TRAINER_PROSE_H

#include "base/error.h"
#include "base/span.h"

enum { PROSE_PASSAGES = 40, PROSE_SENTENCES = 4 };
extern const char *const PROSE[PROSE_PASSAGES];

/* The passage in two: its first two sentences, and its last two. */
void prose_halves(int passage, struct span *first, struct span *second);
/* As a data set's held-out split lies before an evaluation: {"id","text"} for each passage, {"prompt"} with the first words of each sentence. */
int prose_write(const char *documents, const char *prompts, struct error *err);

#endif
