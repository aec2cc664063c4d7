/* What operations are made of. Private to lib/nn. */
#ifndef GENLOOP_NN_TAPE_INTERNAL_H
#define GENLOOP_NN_TAPE_INTERNAL_H

#include "nn/tape.h"

enum { TAPE_FREE_KINDS = 32 }; /* sizes of buffers that a unit may have: a decoder has eight or so */

struct tape_record {
    void (*backward)(struct nn_tape *t, struct tape_record *r);
    struct tape_record *before;
    struct nn_value *out, *x, *y; /* y: a second input */
    struct nn_weight w, b;
    const void *data; /* of the operation: ids, statistics, a shape */
    const struct nn_segment *segments;
    uint32_t segment_count;
};

struct nn_tape {
    const float *parameters;
    float *gradients; /* NULL: forward only */
    struct tape_record *last;
    struct tape_block *blocks; /* the newest first */
    size_t bytes, bytes_max;
    struct tape_buffer *free_buffers[TAPE_FREE_KINDS];
    uint32_t free_kinds;
    uint8_t *reached; /* of each parameter: its gradient has been written in this unit */
    uint32_t parameter_count, reached_capacity;
    bool failed;
};

void *tape_alloc(struct nn_tape *t, size_t size); /* until the next unit; not zeroed */
float *tape_floats(struct nn_tape *t, size_t count); /* a buffer that can be released; not zeroed */
void tape_release(struct nn_tape *t, float *data);
float *tape_share(float *data); /* one more owner */
struct nn_value *tape_value(struct nn_tape *t, uint32_t rows, uint32_t cols);
struct tape_record *tape_record(struct nn_tape *t, void (*backward)(struct nn_tape *, struct tape_record *), struct nn_value *out);
/* v's gradient, to be written (fresh) or added to. NULL without memory. */
float *tape_grad(struct nn_tape *t, struct nn_value *v, bool *fresh);
float *tape_weight_grad(struct nn_tape *t, struct nn_weight w, bool *fresh);
static inline const float *tape_weight(const struct nn_tape *t, struct nn_weight w) { return t->parameters + w.offset; }

#endif
