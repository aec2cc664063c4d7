/*
 * What relative positions add to q·k (Raffel et al. 2020): for each head a number for each distance between query and key. Buckets of distances
 * (model_position_bucket) are laid out once as a row of numbers in order of distance, so that a query's scores get theirs by one addition
 * each. From the model's position_distance on all distances have the same one: a row ends there.
 */
#ifndef GENLOOP_ENGINE_POSITION_BIAS_H
#define GENLOOP_ENGINE_POSITION_BIAS_H

#include "model/model_dir.h"

/* Floats of a table; 0 where the model has no relative positions. both: keys ahead of the query are seen too. */
size_t position_bias_size(const struct model_config *c, bool both);
/* From ATTN_POSITION_W [buckets, heads]. */
void position_bias_fill(const struct model_config *c, const struct model_view *weights, bool both, float *table);
/* A head's number for distance 0; those of keys d behind lie d before it, up to position_distance. */
const float *position_bias_head(const struct model_config *c, const float *table, uint32_t head, bool both);
/* scores[i] = scale · scores[i] + the number for token from + i, as the query at `position` sees it; n of them. */
void position_bias_add(const float *head, uint32_t distance_max, float scale, size_t position, size_t from, size_t n, float *scores);

#endif
