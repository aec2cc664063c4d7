/*
 * Topics of the registry (models, aliases, keys) as events on a loop: read by a thread of their own because the log's calls block, handed over in batches, one wake of the loop
 * each. Where the log fails it reads again, from the beginning: the fold takes repeats.
 */
#ifndef GENLOOP_REGISTRY_FOLLOW_H
#define GENLOOP_REGISTRY_FOLLOW_H

#include "base/error.h"
#include "base/loop.h"
#include "eventlog/eventlog.h"

struct follow;
enum { FOLLOW_TOPICS_MAX = 4 };
/* Starts to read from the beginning. on_event is called on the loop's thread for each event, in order; on_caught_up once, behind all that was there at the start. */
int follow_open(struct eventlog *log, struct loop *l, const enum topic *topics, int n, void *arg, void (*on_event)(void *arg, const struct event *e), void (*on_caught_up)(void *arg), struct follow **f,
                struct error *err);
void follow_close(struct follow *f); /* NULL is accepted; waits for the thread; nothing is called after it */

#endif
