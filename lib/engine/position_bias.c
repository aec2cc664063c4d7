#include "engine/position_bias.h"

static size_t row_size(const struct model_config *c, bool both) { return (size_t)c->position_distance * (both ? 2 : 1) + 1; }

size_t position_bias_size(const struct model_config *c, bool both) { return c->arch->positions == MODEL_POS_RELATIVE ? c->heads * row_size(c, both) : 0; }

void position_bias_fill(const struct model_config *c, const struct model_view *weights, bool both, float *table) {
    float row[MODEL_HEADS_MAX];
    size_t size = row_size(c, both);
    ASSERT(weights->cols == c->heads && weights->rows == c->position_buckets);
    for (size_t i = 0; i < size; i++) {
        uint32_t bucket = model_position_bucket(c, (int64_t)i - (int64_t)c->position_distance, both);
        tensor_to_f32(weights->type, model_view_row(weights, bucket), weights->cols, row);
        for (size_t h = 0; h < c->heads; h++) table[h * size + i] = row[h];
    }
}

const float *position_bias_head(const struct model_config *c, const float *table, uint32_t head, bool both) {
    return table + head * row_size(c, both) + c->position_distance;
}

void position_bias_add(const float *head, uint32_t distance_max, float scale, size_t position, size_t from, size_t n, float *scores) {
    size_t near = position > distance_max ? position - distance_max : 0, ahead = position + distance_max + 1; /* tokens [near, ahead) have a number of their own */
    size_t far_behind = near > from ? near - from : 0, until_ahead = ahead > from ? ahead - from : 0;
    if (far_behind > n) far_behind = n;
    if (until_ahead > n) until_ahead = n;
    size_t i = 0;
    for (; i < far_behind; i++) scores[i] = scale * scores[i] + *(head - distance_max);
    for (; i < until_ahead; i++) scores[i] = scale * scores[i] + head[(ptrdiff_t)(from + i) - (ptrdiff_t)position];
    for (; i < n; i++) scores[i] = scale * scores[i] + head[distance_max];
}
