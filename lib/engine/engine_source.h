/*
 * What an engine does for a model with an encoder beside its decoder: a request's prompt is the encoder's (the "source"), the decoder begins with the model's start
 * token. When a request is admitted its sequence is held (scheduler.h) until the encoder has read the source and each decoder layer has its keys and
 * values of it, in blocks that the admission reserved. That is done between steps, some layers at a time, so that streams beside it wait for no longer
 * than for a prompt's chunk. Sources that wait together are read together. A preempted sequence has its source read again: the same numbers come of it.
 *
 * The engine's thread only, but for source_take (the intake thread) and source_check (any).
 */
#ifndef GENLOOP_ENGINE_ENGINE_SOURCE_H
#define GENLOOP_ENGINE_ENGINE_SOURCE_H

#include "engine/engine_internal.h"

/* From e->dir's weights, which are still there, beside e->forward. Does nothing for a model without an encoder; nor do the others. */
int source_init(struct engine *e, struct error *err);
void source_fini(struct engine *e);
/* What of a request such a model cannot do. */
int source_check(const struct engine *e, const struct engine_request *r, struct error *err);
/* The prompt's ids, q->tokens or else these, become the source; q->tokens is the start token, and the target behind it. E_RANGE, E_INVALID, E_NOMEM. */
int source_take(struct engine *e, struct request *q, const struct tokens *ids, struct error *err);
/* Reads some of what waits. True: something is left to read, or has just become ready. */
bool source_work(struct engine *e);
/* Where a running sequence's source lies. */
void source_item(const struct engine *e, uint32_t slot, struct forward_item *item);
/* One token's source in block 1, for the first step. */
void source_warm_up(struct engine *e, struct forward_item *item);

#endif
