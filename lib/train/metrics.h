/*
 * What a run measured, for people and their tools: metrics.jsonl, one object a step, and a TensorBoard event file (TFRecords of Event protobufs). Both grow by
 * appending; a run that goes on from step S first drops the lines after S. Not durable: the checkpoint is.
 */
#ifndef GENLOOP_TRAIN_METRICS_H
#define GENLOOP_TRAIN_METRICS_H

#include "base/error.h"
#include "train/train.h"

struct metrics;
/* after_step: the step that the run goes on from, 0 at its start. */
int metrics_open(struct metrics **m, const char *dir, uint64_t after_step, struct error *err);
int metrics_step(struct metrics *m, const struct train_step *step, struct error *err);
void metrics_close(struct metrics *m); /* NULL is accepted */

#endif
