/* The operations but attention: each forward, its backward directly behind it. */
#include <string.h>

#include "base/error.h"
#include "nn/tape_internal.h"
#include "tensor/gemm.h"
#include "tensor/kernels.h"

/* ---- embedding: y[r] = T[ids[r]] (+ P[position]) ---- */

struct embed {
    const uint32_t *ids;
    struct nn_weight positions;
};

static void embed_backward(struct nn_tape *t, struct tape_record *r) {
    const struct embed *e = r->data;
    const struct kernels *k = kernels();
    size_t cols = r->out->cols;
    bool fresh;
    float *tokens = tape_weight_grad(t, r->w, &fresh);
    if (fresh) memset(tokens, 0, (size_t)r->w.rows * cols * sizeof *tokens);
    for (uint32_t i = 0; i < r->out->rows; i++) k->add(r->out->grad + i * cols, tokens + e->ids[i] * cols, cols);
    if (!nn_weight_is(e->positions)) return;
    float *positions = tape_weight_grad(t, e->positions, &fresh);
    if (fresh) memset(positions, 0, (size_t)e->positions.rows * cols * sizeof *positions);
    for (uint32_t s = 0; s < r->segment_count; s++)
        k->add(r->out->grad + r->segments[s].start * cols, positions, r->segments[s].len * cols);
}

struct nn_value *nn_embed(struct nn_tape *t, struct nn_weight tokens, struct nn_weight positions, const uint32_t *ids,
                          const struct nn_segment *segments, uint32_t segment_count) {
    uint32_t rows = 0;
    for (uint32_t s = 0; s < segment_count; s++) rows += segments[s].len;
    struct nn_value *y = tape_value(t, rows, tokens.cols);
    if (!y) return NULL;
    const float *table = tape_weight(t, tokens);
    size_t cols = tokens.cols;
    for (uint32_t i = 0; i < rows; i++) {
        ASSERT(ids[i] < tokens.rows);
        memcpy(y->data + i * cols, table + ids[i] * cols, cols * sizeof(float));
    }
    if (nn_weight_is(positions))
        for (uint32_t s = 0; s < segment_count; s++) {
            ASSERT(segments[s].len <= positions.rows);
            kernels()->add(tape_weight(t, positions), y->data + segments[s].start * cols, segments[s].len * cols);
        }
    if (t->gradients) {
        struct tape_record *r = tape_record(t, embed_backward, y);
        struct embed *e = tape_alloc(t, sizeof *e);
        if (!r || !e) return NULL;
        *e = (struct embed){ids, positions};
        r->w = tokens;
        r->data = e;
        r->segments = segments;
        r->segment_count = segment_count;
    }
    return y;
}

/* ---- linear: y = x Wᵀ + b + residual ---- */

static void linear_backward(struct nn_tape *t, struct tape_record *r) {
    const float *dy = r->out->grad;
    size_t rows = r->out->rows, out = r->w.rows, in = r->w.cols;
    bool fresh;
    float *dw = tape_weight_grad(t, r->w, &fresh);
    gemm_tn(out, in, rows, 1, dy, out, r->x->data, in, fresh ? 0 : 1, dw, in);
    if (nn_weight_is(r->b)) {
        float *db = tape_weight_grad(t, r->b, &fresh);
        if (fresh) memset(db, 0, out * sizeof *db);
        for (size_t i = 0; i < rows; i++) kernels()->add(dy + i * out, db, out);
    }
    if (r->y) { /* the residual's gradient is y's own */
        if (!r->y->grad) {
            r->y->grad = tape_share(r->out->grad);
        } else {
            float *d = tape_grad(t, r->y, &fresh);
            if (d) kernels()->add(dy, d, rows * out);
        }
    }
    float *dx = tape_grad(t, r->x, &fresh);
    if (dx) gemm_nn(rows, in, out, 1, dy, out, tape_weight(t, r->w), in, fresh ? 0 : 1, dx, in);
}

struct nn_value *nn_linear(struct nn_tape *t, struct nn_value *x, struct nn_weight w, struct nn_weight bias, struct nn_value *residual) {
    if (!x) return NULL;
    ASSERT(x->cols == w.cols && (!residual || (residual->rows == x->rows && residual->cols == w.rows)));
    struct nn_value *y = tape_value(t, x->rows, w.rows);
    if (!y) return NULL;
    size_t out = w.rows;
    bool begun = residual || nn_weight_is(bias);
    if (residual) memcpy(y->data, residual->data, x->rows * out * sizeof(float));
    if (nn_weight_is(bias)) {
        const float *b = tape_weight(t, bias);
        for (size_t i = 0; i < x->rows; i++) {
            if (residual) kernels()->add(b, y->data + i * out, out);
            else memcpy(y->data + i * out, b, out * sizeof(float));
        }
    }
    gemm_nt(x->rows, out, w.cols, 1, x->data, w.cols, tape_weight(t, w), w.cols, begun ? 1 : 0, y->data, out);
    if (t->gradients) {
        struct tape_record *r = tape_record(t, linear_backward, y);
        if (!r) return NULL;
        r->x = x;
        r->y = residual;
        r->w = w;
        r->b = bias;
    }
    return y;
}

/* ---- norms ---- */

static void rmsnorm_backward(struct nn_tape *t, struct tape_record *r) {
    size_t rows = r->out->rows, cols = r->out->cols;
    const float *rstd = r->data;
    bool fresh;
    float *dw = tape_weight_grad(t, r->w, &fresh);
    if (fresh) memset(dw, 0, cols * sizeof *dw);
    float *dx = tape_grad(t, r->x, &fresh);
    if (!dx) return;
    if (fresh) memset(dx, 0, rows * cols * sizeof *dx);
    for (size_t i = 0; i < rows; i++)
        kernels()->rmsnorm_backward(r->x->data + i * cols, tape_weight(t, r->w), r->out->grad + i * cols, rstd[i], dx + i * cols, dw, cols);
}

struct nn_value *nn_rmsnorm(struct nn_tape *t, struct nn_value *x, struct nn_weight w, float eps) {
    if (!x) return NULL;
    struct nn_value *y = tape_value(t, x->rows, x->cols);
    float *rstd = tape_alloc(t, x->rows * sizeof *rstd);
    if (!y || !rstd) return NULL;
    for (size_t i = 0; i < x->rows; i++)
        rstd[i] = kernels()->rmsnorm(x->data + i * x->cols, tape_weight(t, w), eps, y->data + i * x->cols, x->cols);
    if (t->gradients) {
        struct tape_record *r = tape_record(t, rmsnorm_backward, y);
        if (!r) return NULL;
        r->x = x;
        r->w = w;
        r->data = rstd;
    }
    return y;
}

static void layernorm_backward(struct nn_tape *t, struct tape_record *r) {
    size_t rows = r->out->rows, cols = r->out->cols;
    const float *mean = r->data, *rstd = mean + rows;
    bool fresh;
    float *dw = tape_weight_grad(t, r->w, &fresh);
    if (fresh) memset(dw, 0, cols * sizeof *dw);
    float *db = NULL;
    if (nn_weight_is(r->b)) {
        db = tape_weight_grad(t, r->b, &fresh);
        if (fresh) memset(db, 0, cols * sizeof *db);
    }
    float *dx = tape_grad(t, r->x, &fresh);
    if (!dx) return;
    if (fresh) memset(dx, 0, rows * cols * sizeof *dx);
    for (size_t i = 0; i < rows; i++)
        kernels()->layernorm_backward(r->x->data + i * cols, tape_weight(t, r->w), r->out->grad + i * cols, mean[i], rstd[i], dx + i * cols, dw,
                                      db, cols);
}

struct nn_value *nn_layernorm(struct nn_tape *t, struct nn_value *x, struct nn_weight w, struct nn_weight bias, float eps) {
    if (!x) return NULL;
    struct nn_value *y = tape_value(t, x->rows, x->cols);
    float *mean = tape_alloc(t, 2 * (size_t)x->rows * sizeof *mean);
    if (!y || !mean) return NULL;
    const float *b = nn_weight_is(bias) ? tape_weight(t, bias) : NULL;
    for (size_t i = 0; i < x->rows; i++)
        kernels()->layernorm(x->data + i * x->cols, tape_weight(t, w), b, eps, y->data + i * x->cols, mean + i, mean + x->rows + i, x->cols);
    if (t->gradients) {
        struct tape_record *r = tape_record(t, layernorm_backward, y);
        if (!r) return NULL;
        r->x = x;
        r->w = w;
        r->b = bias;
        r->data = mean;
    }
    return y;
}

/* ---- activations ---- */

static void silu_mul_backward(struct nn_tape *t, struct tape_record *r) {
    size_t rows = r->out->rows, cols = r->out->cols;
    struct nn_value *gate = r->x, *up = r->y ? r->y : r->x;
    size_t stride = gate->cols, from = r->y ? 0 : cols;
    bool fresh_gate, fresh_up = true;
    float *dgate = tape_grad(t, gate, &fresh_gate);
    float *dup = r->y ? tape_grad(t, up, &fresh_up) : dgate;
    if (!dgate || !dup) return;
    ASSERT(fresh_gate && fresh_up); /* nothing else reads the gate */
    for (size_t i = 0; i < rows; i++)
        kernels()->silu_mul_backward(gate->data + i * stride, up->data + i * stride + from, r->out->grad + i * cols, dgate + i * stride,
                                     dup + i * stride + from, cols);
}

struct nn_value *nn_silu_mul(struct nn_tape *t, struct nn_value *gate, struct nn_value *up) {
    if (!gate) return NULL;
    ASSERT(up ? up->rows == gate->rows && up->cols == gate->cols : gate->cols % 2 == 0);
    uint32_t cols = up ? gate->cols : gate->cols / 2;
    struct nn_value *y = tape_value(t, gate->rows, cols);
    if (!y) return NULL;
    for (size_t i = 0; i < gate->rows; i++) {
        const float *g = gate->data + i * gate->cols;
        kernels()->silu_mul(g, up ? up->data + i * cols : g + cols, y->data + i * cols, cols);
    }
    if (t->gradients) {
        struct tape_record *r = tape_record(t, silu_mul_backward, y);
        if (!r) return NULL;
        r->x = gate;
        r->y = up;
    }
    return y;
}

static void gelu_backward(struct nn_tape *t, struct tape_record *r) {
    size_t count = (size_t)r->out->rows * r->out->cols;
    bool fresh;
    float *dx = tape_grad(t, r->x, &fresh);
    if (!dx) return;
    ASSERT(fresh);
    kernels()->gelu_backward(r->x->data, r->out->grad, dx, count);
}

struct nn_value *nn_gelu(struct nn_tape *t, struct nn_value *x) {
    if (!x) return NULL;
    struct nn_value *y = tape_value(t, x->rows, x->cols);
    if (!y) return NULL;
    kernels()->gelu(x->data, y->data, (size_t)x->rows * x->cols);
    if (t->gradients) {
        struct tape_record *r = tape_record(t, gelu_backward, y);
        if (!r) return NULL;
        r->x = x;
    }
    return y;
}

/* ---- output layer and cross-entropy ---- */

/* Floats of logits at once, 4 MiB: rows enough to pay for packing the weights, few enough for a cache. */
enum { LOGITS_MAX = 1 << 20, LOGITS_ROWS_MIN = 16 };

void nn_cross_entropy(struct nn_tape *t, struct nn_value *x, struct nn_weight w, const uint32_t *labels, const float *weights, float *log_probs) {
    if (!x || t->failed) return;
    const struct kernels *k = kernels();
    size_t width = x->cols, vocab = w.rows, rows = x->rows, count = 0;
    for (size_t i = 0; i < rows; i++) {
        log_probs[i] = 0;
        if (labels[i] != NN_NO_LABEL) {
            ASSERT(labels[i] < vocab);
            count++;
        }
    }
    bool backward = weights != NULL, fresh;
    float *dx = NULL, *dw = NULL;
    bool dw_fresh = false;
    if (backward) {
        ASSERT(t->gradients);
        dx = tape_grad(t, x, &fresh);
        if (!dx) return;
        ASSERT(fresh);
        if (count < rows) memset(dx, 0, rows * width * sizeof *dx);
        if (count == 0) return;
        dw = tape_weight_grad(t, w, &dw_fresh);
    }
    size_t chunk = LOGITS_MAX / vocab;
    if (chunk < LOGITS_ROWS_MIN) chunk = LOGITS_ROWS_MIN;
    if (chunk > count) chunk = count;
    bool gather = count < rows; /* rows with a label, one behind the other */
    float *logits = tape_floats(t, chunk * vocab);
    float *packed = gather ? tape_floats(t, chunk * width) : NULL;
    float *dpacked = gather && backward ? tape_floats(t, chunk * width) : NULL;
    uint32_t *at = tape_alloc(t, chunk * sizeof *at);
    if (t->failed) return;
    for (size_t row = 0; row < rows;) {
        size_t n = 0, first = row;
        for (; row < rows && n < chunk; row++)
            if (labels[row] != NN_NO_LABEL) at[n++] = (uint32_t)row;
        if (n == 0) break;
        const float *in = x->data + first * width;
        if (gather) {
            for (size_t i = 0; i < n; i++) memcpy(packed + i * width, x->data + at[i] * width, width * sizeof *packed);
            in = packed;
        }
        gemm_nt(n, vocab, width, 1, in, width, tape_weight(t, w), width, 0, logits, vocab);
        for (size_t i = 0; i < n; i++)
            log_probs[at[i]] = k->cross_entropy(logits + i * vocab, labels[at[i]], backward ? weights[at[i]] : 0, vocab);
        if (!backward) continue;
        for (size_t i = 0; i < n; i++) /* the kernel leaves logits where the weight is 0 */
            if (weights[at[i]] == 0) memset(logits + i * vocab, 0, vocab * sizeof *logits);
        gemm_tn(vocab, width, n, 1, logits, vocab, in, width, dw_fresh ? 0 : 1, dw, width);
        dw_fresh = false;
        gemm_nn(n, width, vocab, 1, logits, vocab, tape_weight(t, w), width, 0, gather ? dpacked : dx + first * width, width);
        if (gather)
            for (size_t i = 0; i < n; i++) memcpy(dx + at[i] * width, dpacked + i * width, width * sizeof *dx);
    }
    tape_release(t, logits);
    tape_release(t, packed);
    tape_release(t, dpacked);
}
