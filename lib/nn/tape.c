/* Memory, records, and the walk backward. The operations are in ops.c and attention.c. */
#include "nn/tape.h"

#include <sys/mman.h>

#include "base/alloc.h"
#include "base/error.h"
#include "nn/tape_internal.h"

enum { BLOCK_MIN = 4 << 20 }; /* bytes: two huge pages */

/* A block's header keeps its data aligned for the widest vector. */
struct tape_block {
    struct tape_block *next;
    size_t size, used; /* of data */
    char padding[64 - sizeof(void *) - 2 * sizeof(size_t)];
    char data[];
};
_Static_assert(sizeof(struct tape_block) == 64, "data is aligned to a cache line");

/* Before each float buffer: its size, for the list of free ones, and how many values call it theirs. */
struct tape_buffer {
    struct tape_buffer *next; /* in its free list */
    size_t count;             /* floats */
    uint32_t owners;
    char padding[64 - sizeof(void *) - sizeof(size_t) - sizeof(uint32_t)];
};
_Static_assert(sizeof(struct tape_buffer) == 64, "floats are aligned to a cache line");

static struct tape_buffer *buffer_of(float *data) { return (struct tape_buffer *)(void *)((char *)data - sizeof(struct tape_buffer)); }

struct nn_tape *nn_tape_new(size_t bytes_max) {
    struct nn_tape *t = mem_zalloc(sizeof *t);
    if (t) t->bytes_max = bytes_max;
    return t;
}

static void blocks_free(struct nn_tape *t) {
    while (t->blocks) {
        struct tape_block *b = t->blocks;
        t->blocks = b->next;
        mem_free(b);
    }
    t->bytes = 0;
}

void nn_tape_free(struct nn_tape *t) {
    if (!t) return;
    blocks_free(t);
    mem_free(t->reached);
    mem_free(t);
}

size_t nn_tape_bytes(const struct nn_tape *t) { return t->bytes; }
int nn_tape_status(const struct nn_tape *t) { return t->failed ? E_NOMEM : 0; }

static struct tape_block *block_add(struct nn_tape *t, size_t size) {
    size_t whole;
    if (!size_add(size, sizeof(struct tape_block), &whole) || whole > t->bytes_max - t->bytes) return NULL;
    struct tape_block *b = mem_alloc_aligned(whole);
    if (!b) return NULL;
    /* The forward pass walks tens of megabytes: with 4 KiB pages it pays for page walks. A refusal costs speed only. */
    uintptr_t from = ((uintptr_t)b + 4095) & ~(uintptr_t)4095, to = ((uintptr_t)b + whole) & ~(uintptr_t)4095;
    if (to > from) (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
    b->next = t->blocks;
    b->size = size;
    b->used = 0;
    t->blocks = b;
    t->bytes += whole;
    return b;
}

void nn_tape_begin(struct nn_tape *t, const float *parameters, float *gradients, uint32_t parameter_count) {
    t->parameters = parameters;
    t->gradients = gradients;
    t->last = NULL;
    t->failed = false;
    memset(t->free_buffers, 0, sizeof t->free_buffers);
    t->free_kinds = 0;
    if (t->blocks && t->blocks->next) { /* the last unit grew: one block of the size it needed, so that the next one does not */
        size_t size = t->bytes;
        blocks_free(t);
        block_add(t, size < t->bytes_max - sizeof(struct tape_block) ? size : t->bytes_max - sizeof(struct tape_block));
    } else if (t->blocks) {
        t->blocks->used = 0;
    }
    if (parameter_count > t->reached_capacity) {
        uint8_t *reached = mem_realloc(t->reached, parameter_count);
        if (!reached) {
            t->failed = true;
            return;
        }
        t->reached = reached;
        t->reached_capacity = parameter_count;
    }
    t->parameter_count = parameter_count;
    if (parameter_count) memset(t->reached, 0, parameter_count);
}

void *tape_alloc(struct nn_tape *t, size_t size) {
    if (t->failed) return NULL;
    size = (size + 63) & ~(size_t)63;
    struct tape_block *b = t->blocks;
    if (!b || size > b->size - b->used) {
        size_t want = size > BLOCK_MIN ? size : BLOCK_MIN;
        if (b && want < b->size / 2) want = b->size / 2;
        b = block_add(t, want);
        if (!b) b = block_add(t, size); /* what is left under the cap may do */
        if (!b) {
            t->failed = true;
            return NULL;
        }
    }
    void *p = b->data + b->used;
    b->used += size;
    return p;
}

float *tape_floats(struct nn_tape *t, size_t count) {
    for (uint32_t i = 0; i < t->free_kinds; i++) {
        struct tape_buffer *b = t->free_buffers[i];
        if (b && b->count == count) {
            t->free_buffers[i] = b->next;
            b->owners = 1;
            return (float *)(void *)(b + 1);
        }
    }
    size_t bytes;
    if (!size_mul(count, sizeof(float), &bytes) || !size_add(bytes, sizeof(struct tape_buffer), &bytes)) {
        t->failed = true;
        return NULL;
    }
    struct tape_buffer *b = tape_alloc(t, bytes);
    if (!b) return NULL;
    b->count = count;
    b->owners = 1;
    return (float *)(void *)(b + 1);
}

void tape_release(struct nn_tape *t, float *data) {
    if (!data) return;
    struct tape_buffer *b = buffer_of(data);
    if (--b->owners) return;
    uint32_t i = 0, empty = TAPE_FREE_KINDS;
    for (; i < t->free_kinds; i++) {
        if (!t->free_buffers[i]) empty = i;
        else if (t->free_buffers[i]->count == b->count) break;
    }
    if (i == t->free_kinds) {
        if (empty < TAPE_FREE_KINDS) i = empty;
        else if (t->free_kinds < TAPE_FREE_KINDS) t->free_kinds++;
        else return; /* more sizes than any unit has: it stays unused until the next unit */
        t->free_buffers[i] = NULL;
    }
    b->next = t->free_buffers[i];
    t->free_buffers[i] = b;
}

float *tape_share(float *data) {
    buffer_of(data)->owners++;
    return data;
}

struct nn_value *tape_value(struct nn_tape *t, uint32_t rows, uint32_t cols) {
    struct nn_value *v = tape_alloc(t, sizeof *v);
    if (!v) return NULL;
    *v = (struct nn_value){.rows = rows, .cols = cols};
    v->data = tape_floats(t, (size_t)rows * cols);
    return v->data ? v : NULL;
}

struct tape_record *tape_record(struct nn_tape *t, void (*backward)(struct nn_tape *, struct tape_record *), struct nn_value *out) {
    struct tape_record *r = tape_alloc(t, sizeof *r);
    if (!r) return NULL;
    memset(r, 0, sizeof *r);
    r->backward = backward;
    r->out = out;
    r->before = t->last;
    t->last = r;
    return r;
}

float *tape_grad(struct nn_tape *t, struct nn_value *v, bool *fresh) {
    size_t count = (size_t)v->rows * v->cols;
    *fresh = !v->grad;
    if (!v->grad) {
        v->grad = tape_floats(t, count);
    } else if (buffer_of(v->grad)->owners > 1) {
        float *own = tape_floats(t, count);
        if (own) memcpy(own, v->grad, count * sizeof *own);
        tape_release(t, v->grad);
        v->grad = own;
    }
    return v->grad;
}

float *tape_weight_grad(struct nn_tape *t, struct nn_weight w, bool *fresh) {
    bool any = false, all = true;
    for (uint32_t i = w.first; i < w.first + w.count; i++) {
        any |= t->reached[i];
        all &= t->reached[i];
        t->reached[i] = 1;
    }
    ASSERT(any == all); /* parameters are fused always or never */
    *fresh = !any;
    return t->gradients + w.offset;
}

void nn_seed_gradient(struct nn_tape *t, struct nn_value *v, const float *grad) {
    if (!v || t->failed) return;
    bool fresh;
    float *g = tape_grad(t, v, &fresh);
    if (g) memcpy(g, grad, (size_t)v->rows * v->cols * sizeof *g);
}

int nn_backward(struct nn_tape *t) {
    for (struct tape_record *r = t->last; r && !t->failed; r = r->before) {
        if (r->out->grad) r->backward(t, r);
        /* All that read it came later on the tape: it has been read. */
        tape_release(t, r->out->grad);
        tape_release(t, r->out->data);
        r->out->grad = r->out->data = NULL;
    }
    t->last = NULL;
    return nn_tape_status(t);
}

void nn_zero_unreached(struct nn_tape *t, uint32_t index, size_t offset, size_t count) {
    if (!t->reached[index]) memset(t->gradients + offset, 0, count * sizeof(float));
}
