/*
 * Causal attention, in blocks of query rows: softmax(scale · Q Kᵀ) V with the columns beyond the block's last row never computed. Forward keeps one
 * number per row and head, the log of the softmax's sum; backward computes the probabilities again from it (Dao et al. 2022), so memory is
 * linear in the length.
 */
#include <string.h>

#include "base/error.h"
#include "nn/tape_internal.h"
#include "tensor/gemm.h"
#include "tensor/kernels.h"

enum { BLOCK = 64 }; /* rows of scores at once: a block of 64 × 1,024 is 256 KiB, in the second-level cache with K and V of its head */

struct attention {
    struct nn_columns q, k, v;
    struct nn_attention shape;
    float *log_sums; /* [H, R] */
};

static void rotate(struct nn_columns c, uint32_t heads, const struct nn_attention *a, float *data, float sign, const struct nn_segment *segments,
                   uint32_t segment_count) {
    for (uint32_t s = 0; s < segment_count; s++)
        for (uint32_t i = 0; i < segments[s].len; i++)
            kernels()->rope(data + (size_t)(segments[s].start + i) * c.value->cols + c.from, a->rope + (size_t)i * a->head_dim, sign, heads,
                            a->head_dim);
}

static uint32_t longest(const struct nn_segment *segments, uint32_t count) {
    uint32_t most = 0;
    for (uint32_t s = 0; s < count; s++)
        if (segments[s].len > most) most = segments[s].len;
    return most;
}

/* One head of one sequence: where its rows are in the values. */
struct head {
    const float *q, *k, *v;
    size_t q_stride, k_stride, v_stride;
    float *log_sums;
};
static struct head head_at(const struct attention *a, uint32_t h, struct nn_segment s, uint32_t rows) {
    uint32_t d = a->shape.head_dim, kv = h / (a->shape.heads / a->shape.kv_heads);
    size_t qs = a->q.value->cols, ks = a->k.value->cols, vs = a->v.value->cols;
    return (struct head){
        .q = a->q.value->data + s.start * qs + a->q.from + h * d,
        .k = a->k.value->data + s.start * ks + a->k.from + kv * d,
        .v = a->v.value->data + s.start * vs + a->v.from + kv * d,
        .q_stride = qs,
        .k_stride = ks,
        .v_stride = vs,
        .log_sums = a->log_sums + (size_t)h * rows + s.start,
    };
}

static void attention_backward(struct nn_tape *t, struct tape_record *r) {
    const struct attention *a = r->data;
    const struct kernels *kn = kernels();
    const uint32_t rows = r->out->rows, d = a->shape.head_dim, heads = a->shape.heads, group = heads / a->shape.kv_heads;
    const size_t stride = r->out->cols;
    bool fresh;
    float *dq_all = tape_grad(t, a->q.value, &fresh);
    ASSERT(fresh); /* every column of q, k and v belongs to this attention alone, and is written below */
    float *dk_all = a->k.value == a->q.value ? dq_all : tape_grad(t, a->k.value, &fresh);
    float *dv_all = a->v.value == a->q.value ? dq_all : a->v.value == a->k.value ? dk_all : tape_grad(t, a->v.value, &fresh);
    uint32_t most = longest(r->segments, r->segment_count);
    float *p = tape_floats(t, (size_t)BLOCK * most), *dp = tape_floats(t, (size_t)BLOCK * most);
    if (t->failed) return;
    for (uint32_t s = 0; s < r->segment_count; s++) {
        struct nn_segment seg = r->segments[s];
        if (seg.len == 0) continue;
        for (uint32_t h = 0; h < heads; h++) {
            struct head at = head_at(a, h, seg, rows);
            const float *out = r->out->data + seg.start * stride + h * d, *dout = r->out->grad + seg.start * stride + h * d;
            float *dq = dq_all + (at.q - a->q.value->data), *dk = dk_all + (at.k - a->k.value->data), *dv = dv_all + (at.v - a->v.value->data);
            /* From the last block on: it reaches every key, so that the first head of a group writes and the rest adds. */
            for (uint32_t block = (seg.len - 1) / BLOCK + 1; block-- > 0;) {
                uint32_t i0 = block * BLOCK, m = seg.len - i0 < BLOCK ? seg.len - i0 : BLOCK, n = i0 + m;
                float beta = i0 + m == seg.len && h % group == 0 ? 0 : 1;
                const float *q = at.q + i0 * at.q_stride, *dy = dout + i0 * stride;
                gemm_nt(m, n, d, 1, q, at.q_stride, at.k, at.k_stride, 0, p, n);
                gemm_nt(m, n, d, 1, dy, stride, at.v, at.v_stride, 0, dp, n);
                for (uint32_t i = 0; i < m; i++) {
                    uint32_t seen = i0 + i + 1;
                    kn->softmax_again(p + (size_t)i * n, a->shape.scale, at.log_sums[i0 + i], seen);
                    memset(p + (size_t)i * n + seen, 0, (n - seen) * sizeof *p);
                    memset(dp + (size_t)i * n + seen, 0, (n - seen) * sizeof *dp);
                }
                gemm_tn(n, d, m, 1, p, n, dy, stride, beta, dv, at.v_stride);
                for (uint32_t i = 0; i < m; i++) {
                    float delta = kn->dot(dy + i * stride, out + (i0 + i) * stride, d);
                    kn->softmax_backward(p + (size_t)i * n, dp + (size_t)i * n, delta, a->shape.scale, dp + (size_t)i * n, i0 + i + 1);
                }
                gemm_nn(m, d, n, 1, dp, n, at.k, at.k_stride, 0, dq + i0 * at.q_stride, at.q_stride);
                gemm_tn(n, d, m, 1, dp, n, q, at.q_stride, beta, dk, at.k_stride);
            }
        }
    }
    tape_release(t, p);
    tape_release(t, dp);
    if (a->shape.rope) {
        rotate(a->q, heads, &a->shape, dq_all, -1, r->segments, r->segment_count);
        rotate(a->k, a->shape.kv_heads, &a->shape, dk_all, -1, r->segments, r->segment_count);
    }
}

struct nn_value *nn_attention(struct nn_tape *t, struct nn_columns q, struct nn_columns k, struct nn_columns v, const struct nn_attention *shape,
                              const struct nn_segment *segments, uint32_t segment_count) {
    if (!q.value || !k.value || !v.value) return NULL;
    const struct kernels *kn = kernels();
    const uint32_t rows = q.value->rows, d = shape->head_dim;
    ASSERT(shape->kv_heads && shape->heads % shape->kv_heads == 0 && q.from + shape->heads * d <= q.value->cols &&
           k.from + shape->kv_heads * d <= k.value->cols && v.from + shape->kv_heads * d <= v.value->cols);
    struct nn_value *y = tape_value(t, rows, shape->heads * d);
    struct attention *a = tape_alloc(t, sizeof *a);
    float *log_sums = tape_alloc(t, (size_t)shape->heads * rows * sizeof *log_sums);
    uint32_t most = longest(segments, segment_count);
    float *p = tape_floats(t, (size_t)BLOCK * most);
    if (t->failed) return NULL;
    *a = (struct attention){q, k, v, *shape, log_sums};
    if (shape->rope) {
        rotate(q, shape->heads, shape, q.value->data, 1, segments, segment_count);
        rotate(k, shape->kv_heads, shape, k.value->data, 1, segments, segment_count);
    }
    for (uint32_t s = 0; s < segment_count; s++) {
        struct nn_segment seg = segments[s];
        for (uint32_t h = 0; h < shape->heads; h++) {
            struct head at = head_at(a, h, seg, rows);
            for (uint32_t i0 = 0; i0 < seg.len; i0 += BLOCK) {
                uint32_t m = seg.len - i0 < BLOCK ? seg.len - i0 : BLOCK, n = i0 + m;
                gemm_nt(m, n, d, 1, at.q + i0 * at.q_stride, at.q_stride, at.k, at.k_stride, 0, p, n);
                for (uint32_t i = 0; i < m; i++) {
                    uint32_t seen = i0 + i + 1;
                    at.log_sums[i0 + i] = kn->softmax(p + (size_t)i * n, shape->scale, seen);
                    memset(p + (size_t)i * n + seen, 0, (n - seen) * sizeof *p);
                }
                gemm_nn(m, d, n, 1, p, n, at.v, at.v_stride, 0, y->data + (size_t)(seg.start + i0) * y->cols + h * d, y->cols);
            }
        }
    }
    tape_release(t, p);
    if (t->gradients) {
        struct tape_record *r = tape_record(t, attention_backward, y);
        if (!r) return NULL;
        r->x = q.value;
        r->data = a;
        r->segments = segments;
        r->segment_count = segment_count;
    }
    return y;
}
