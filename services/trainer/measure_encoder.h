/*
 * measure.h for encoders, which generate nothing that could be counted: what they are for is tried on the platform's own prose (prose.h), whose passages are known to be about different things.
 *
 *   embed     the vector of a passage's first half against those of all second halves: rank of its own, cosine to it, mean cosine to the others
 *   score     the same with a cross-encoder's score of (first half, second half), its own against OTHERS_SCORED others
 *   classify  the outputs for each whole passage
 *
 * The record is that of gates.h with "encoder" in place of documents and samples. The same files and spec give the same bytes. Blocking, as measure_evaluation; E_CANCELLED.
 */
#ifndef GENLOOP_TRAINER_MEASURE_ENCODER_H
#define GENLOOP_TRAINER_MEASURE_ENCODER_H

#include "services/trainer/measure.h"

/* Whether the model directory is an encoder's. */
bool measure_is_encoder(const char *dir);
/* Of paths candidate and baseline alone are read. E_INVALID: the baseline does something else. */
int measure_encoder(const struct measure_paths *paths, const Genloop__V1__EvaluateSpec *spec, const struct measure_options *options, struct buf *record, struct error *err);

#endif
