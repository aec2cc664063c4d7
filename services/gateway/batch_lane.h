/*
 * Batches' lines, answered when there is nothing more urgent: taken from ingest (services/ingest/batches.h), each sent through this gateway's own doors as the client's whose batch it is, and given
 * back with its status and answer. So a line is read, refused, routed, retried and kept like the same request of a client.
 *
 *   taken ─► waiting ─► asked ─► answered ─► given back
 *               ▲         │ 429, 503, no answer: again after a pause that doubles
 *               └─────────┘
 *
 * How many are asked at once follows from what else there is: BATCH_LINES_PER_REPLICA for each replica while nobody waits for an answer here, else one for each. Their priority lies below every client's, so
 * the engine takes them last. What this process holds is lost with it, and dealt again by ingest. Everything is on the loop's thread.
 */
#ifndef GATEWAY_BATCH_LANE_H
#define GATEWAY_BATCH_LANE_H

#include "gateway.h"

enum {
    BATCH_LINES_PER_REPLICA = 8, /* as many sequences share a step of the engine well */
    BATCH_LINES_HELD_MAX = 512,  /* taken and not given back: two deliveries */
    BATCH_PRIORITY = -1000,      /* clients choose from -100 to 100 */
};

struct batch_lane;
int batch_lane_open(struct gateway *g, struct batch_lane **out, struct error *err);
/* Takes nothing more and lets go of what it has: ingest deals it to somebody else. */
void batch_lane_stop(struct batch_lane *l); /* NULL is accepted */
void batch_lane_close(struct batch_lane *l); /* NULL is accepted */

#endif
