#include "train/batch.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "tensor/kernels.h"

enum { LEVELS_MAX = 34 }; /* of the tree: 2^32 units */

struct unit {
    uint32_t first_row, row_count;
    size_t first_sequence, sequence_count;
    size_t at; /* of its first token in ids, labels, … */
    uint32_t tokens;
};

struct gradient { /* an array of flat_len floats behind it */
    struct gradient *next;
    uint32_t level, index; /* where it waits in the tree */
    float *values;
};

struct batch {
    const struct nn_decoder *decoder;
    const float *weights;
    size_t flat_len;
    uint32_t param_count;
    struct pool *pool;
    struct nn_tape **tapes; /* one a thread */

    /* of the step: tokens of all sequences one behind the other, and what is known of each */
    uint32_t *ids, *labels;
    float *token_weights, *log_probs;
    size_t token_capacity[4];
    struct nn_segment *segments; /* start: in its unit */
    size_t segment_capacity;
    struct unit *units;
    size_t unit_capacity, unit_count;
    double *sums; /* Σ log p of each sequence's labels */
    uint64_t *label_counts;
    double *row_losses;
    size_t sums_capacity, counts_capacity, losses_capacity;

    /* of the call in progress */
    const struct batch_row *rows;
    const struct nn_dpo *dpo;
    bool backward;
    size_t first_unit;
    float token_weight;
    double row_weight;
    atomic_bool failed;

    pthread_mutex_t lock; /* of what is below */
    struct gradient *spare, *waiting, *root;
    size_t gradient_count;
};

int batch_new(struct batch **out, const struct nn_decoder *decoder, const float *weights, size_t flat_len, uint32_t param_count, struct pool *pool,
              size_t bytes_max, struct error *err) {
    struct batch *b = mem_zalloc(sizeof *b);
    if (!b) return error_set(err, E_NOMEM, "no memory");
    int threads = pool_threads(pool);
    b->decoder = decoder;
    b->weights = weights;
    b->flat_len = flat_len;
    b->param_count = param_count;
    b->pool = pool;
    pthread_mutex_init(&b->lock, NULL);
    b->tapes = mem_calloc((size_t)threads, sizeof *b->tapes);
    for (int i = 0; b->tapes && i < threads; i++)
        if (!(b->tapes[i] = nn_tape_new(bytes_max / (size_t)threads))) goto fail;
    if (!b->tapes) goto fail;
    *out = b;
    return 0;
fail:
    batch_free(b);
    return error_set(err, E_NOMEM, "no memory");
}

static void gradients_free(struct gradient *g) {
    while (g) {
        struct gradient *next = g->next;
        mem_free(g->values);
        mem_free(g);
        g = next;
    }
}

void batch_free(struct batch *b) {
    if (!b) return;
    for (int i = 0; b->tapes && i < pool_threads(b->pool); i++) nn_tape_free(b->tapes[i]);
    mem_free(b->tapes);
    mem_free(b->ids);
    mem_free(b->labels);
    mem_free(b->token_weights);
    mem_free(b->log_probs);
    mem_free(b->segments);
    mem_free(b->units);
    mem_free(b->sums);
    mem_free(b->label_counts);
    mem_free(b->row_losses);
    gradients_free(b->spare);
    gradients_free(b->waiting);
    gradients_free(b->root);
    pthread_mutex_destroy(&b->lock);
    mem_free(b);
}

size_t batch_bytes(const struct batch *b) {
    size_t sum = b->gradient_count * b->flat_len * sizeof(float);
    for (int i = 0; i < pool_threads(b->pool); i++) sum += nn_tape_bytes(b->tapes[i]);
    return sum;
}

/* ---- the tree ---- */

static struct gradient *gradient_take(struct batch *b) {
    pthread_mutex_lock(&b->lock);
    struct gradient *g = b->spare;
    if (g) b->spare = g->next;
    else b->gradient_count++;
    pthread_mutex_unlock(&b->lock);
    if (g) return g;
    g = mem_zalloc(sizeof *g);
    size_t bytes = b->flat_len * sizeof(float);
    if (g) g->values = mem_alloc_aligned(bytes);
    if (!g || !g->values) {
        mem_free(g);
        pthread_mutex_lock(&b->lock);
        b->gradient_count--;
        pthread_mutex_unlock(&b->lock);
        return NULL;
    }
    uintptr_t from = ((uintptr_t)g->values + 4095) & ~(uintptr_t)4095, to = ((uintptr_t)g->values + bytes) & ~(uintptr_t)4095;
    if (to > from) (void)madvise((void *)from, to - from, MADV_HUGEPAGE); /* a refusal costs speed only */
    return g;
}

static void gradient_give(struct batch *b, struct gradient *g) { /* lock held */
    g->next = b->spare;
    b->spare = g;
}

/* Unit `index` is done: sums upwards as far as its siblings are done. Who finishes second does the addition, left += right. */
static void tree_add(struct batch *b, struct gradient *g, uint32_t index) {
    size_t count = b->unit_count;
    uint32_t level = 0;
    while (count > 1) {
        uint32_t sibling = index ^ 1;
        if (sibling < count) {
            pthread_mutex_lock(&b->lock);
            struct gradient **at = &b->waiting;
            while (*at && !((*at)->level == level && (*at)->index == sibling)) at = &(*at)->next;
            struct gradient *other = *at;
            if (!other) {
                g->level = level;
                g->index = index;
                g->next = b->waiting;
                b->waiting = g;
                pthread_mutex_unlock(&b->lock);
                return;
            }
            *at = other->next;
            pthread_mutex_unlock(&b->lock);
            struct gradient *left = index & 1 ? other : g, *right = index & 1 ? g : other;
            kernels()->add(right->values, left->values, b->flat_len);
            pthread_mutex_lock(&b->lock);
            gradient_give(b, right);
            pthread_mutex_unlock(&b->lock);
            g = left;
        }
        level++;
        index /= 2;
        count = (count + 1) / 2;
    }
    pthread_mutex_lock(&b->lock);
    g->next = NULL; /* it stood in a list before */
    b->root = g;
    pthread_mutex_unlock(&b->lock);
}

/* ---- a unit ---- */

static double sum_of(const struct batch *b, size_t at, uint32_t count) {
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += (double)b->log_probs[at + i];
    return sum;
}

static void unit_log_probs(struct batch *b, const struct unit *u) {
    for (size_t s = 0; s < u->sequence_count; s++) {
        struct nn_segment seg = b->segments[u->first_sequence + s];
        b->sums[u->first_sequence + s] = sum_of(b, u->at + seg.start, seg.len);
    }
}

static void unit_run(void *arg, size_t item, int thread) {
    struct batch *b = arg;
    const struct unit *u = &b->units[b->first_unit + item];
    struct nn_tape *t = b->tapes[thread];
    if (atomic_load_explicit(&b->failed, memory_order_relaxed)) return;
    struct gradient *g = NULL;
    if (b->backward && !(g = gradient_take(b))) goto fail;
    const struct nn_segment *segments = b->segments + u->first_sequence;
    nn_tape_begin(t, b->weights, g ? g->values : NULL, b->param_count);
    struct nn_value *x = u->tokens ? nn_decoder_forward(b->decoder, t, b->ids + u->at, segments, (uint32_t)u->sequence_count) : NULL;
    struct nn_weight head = nn_decoder_head(b->decoder);
    if (b->backward && !b->dpo) {
        nn_cross_entropy(t, x, head, b->labels + u->at, b->token_weights + u->at, b->log_probs + u->at);
        unit_log_probs(b, u);
    } else {
        nn_cross_entropy(t, x, head, b->labels + u->at, NULL, b->log_probs + u->at);
        unit_log_probs(b, u);
    }
    if (b->backward && b->dpo) { /* both completions' likelihoods are known now, and with them the slope of the loss by each */
        size_t s = u->first_sequence;
        for (uint32_t row = u->first_row; row < u->first_row + u->row_count; row++, s += 2) {
            const struct batch_row *r = &b->rows[row];
            double slope[2];
            b->row_losses[row] = nn_dpo_loss(b->dpo, b->sums[s] - r->reference[0], b->sums[s + 1] - r->reference[1], b->label_counts[s],
                                             b->label_counts[s + 1], &slope[0], &slope[1]);
            for (int i = 0; i < 2; i++) {
                struct nn_segment seg = b->segments[s + (size_t)i];
                for (uint32_t k = 0; k < seg.len; k++) b->token_weights[u->at + seg.start + k] = (float)(-slope[i] * b->row_weight);
            }
        }
        nn_cross_entropy(t, x, head, b->labels + u->at, b->token_weights + u->at, b->log_probs + u->at);
    }
    if (b->backward ? nn_backward(t) : nn_tape_status(t)) goto fail;
    if (g) {
        nn_decoder_finish_gradients(b->decoder, t);
        tree_add(b, g, (uint32_t)(b->first_unit + item));
    }
    return;
fail:
    if (g) {
        pthread_mutex_lock(&b->lock);
        gradient_give(b, g);
        pthread_mutex_unlock(&b->lock);
    }
    atomic_store(&b->failed, true);
}

/* ---- the step ---- */

/* Lays the sequences out and cuts them into units. Returns tokens, or a negative code. */
static int lay_out(struct batch *b, const struct batch_row *rows, uint32_t row_count, uint64_t *tokens, uint64_t *labels) {
    size_t total = 0, sequences = 0;
    for (uint32_t r = 0; r < row_count; r++)
        for (uint32_t s = 0; s < rows[r].sequence_count; s++, sequences++) total += rows[r].sequences[s].count;
    size_t want = total ? total : 1;
    if (total > UINT32_MAX || array_reserve(&b->ids, &b->token_capacity[0], want, sizeof *b->ids) ||
        array_reserve(&b->labels, &b->token_capacity[1], want, sizeof *b->labels) ||
        array_reserve(&b->token_weights, &b->token_capacity[2], want, sizeof *b->token_weights) ||
        array_reserve(&b->log_probs, &b->token_capacity[3], want, sizeof *b->log_probs) ||
        array_reserve(&b->segments, &b->segment_capacity, sequences, sizeof *b->segments) ||
        array_reserve(&b->units, &b->unit_capacity, row_count, sizeof *b->units) ||
        array_reserve(&b->sums, &b->sums_capacity, sequences, sizeof *b->sums) ||
        array_reserve(&b->label_counts, &b->counts_capacity, sequences, sizeof *b->label_counts) ||
        array_reserve(&b->row_losses, &b->losses_capacity, row_count, sizeof *b->row_losses))
        return E_NOMEM;

    size_t target = total / BATCH_UNITS_LEAST < BATCH_UNIT_TOKENS ? total / BATCH_UNITS_LEAST : BATCH_UNIT_TOKENS, at = 0, sequence = 0;
    b->unit_count = 0;
    *labels = 0;
    for (uint32_t r = 0; r < row_count; r++) {
        if (b->unit_count == 0 || b->units[b->unit_count - 1].tokens >= target)
            b->units[b->unit_count++] = (struct unit){.first_row = r, .first_sequence = sequence, .at = at};
        struct unit *u = &b->units[b->unit_count - 1];
        u->row_count++;
        for (uint32_t s = 0; s < rows[r].sequence_count; s++, sequence++, u->sequence_count++) {
            const struct data_sequence *q = &rows[r].sequences[s];
            b->segments[sequence] = (struct nn_segment){u->tokens, q->count};
            uint64_t counted = 0;
            for (uint32_t i = 0; i < q->count; i++) {
                bool label = !q->is_label || q->is_label[i + 1];
                b->ids[at + i] = data_id(q, i);
                b->labels[at + i] = label ? data_id(q, i + 1) : NN_NO_LABEL;
                counted += label;
            }
            b->label_counts[sequence] = counted;
            *labels += counted;
            at += q->count;
            u->tokens += q->count;
        }
    }
    *tokens = total;
    return 0;
}

int batch_gradients(struct batch *b, const struct batch_row *rows, uint32_t row_count, const struct nn_dpo *dpo, uint32_t accumulate,
                    struct batch_result *result, const float **gradients, struct error *err) {
    uint64_t tokens = 0, labels = 0;
    ASSERT(row_count > 0 && accumulate > 0);
    if (lay_out(b, rows, row_count, &tokens, &labels)) return error_set(err, E_NOMEM, "no memory for a step of %u rows", row_count);
    b->rows = rows;
    b->dpo = dpo;
    b->backward = true;
    b->row_weight = 1.0 / row_count;
    atomic_store(&b->failed, false);
    float each = labels ? (float)(1.0 / (double)labels) : 0;
    for (uint64_t i = 0; i < tokens; i++) b->token_weights[i] = each;
    if (b->root) { /* the last step's */
        gradient_give(b, b->root);
        b->root = NULL;
    }
    size_t unit = 0;
    for (uint32_t part = 0; part < accumulate; part++) { /* units that begin in this part of the rows */
        uint64_t row_end = (uint64_t)row_count * (part + 1) / accumulate;
        size_t end = unit;
        while (end < b->unit_count && b->units[end].first_row < row_end) end++;
        b->first_unit = unit;
        pool_run(b->pool, end - unit, b, unit_run);
        unit = end;
    }
    if (atomic_load(&b->failed)) {
        while (b->waiting) {
            struct gradient *g = b->waiting;
            b->waiting = g->next;
            gradient_give(b, g);
        }
        return error_set(err, E_NOMEM, "no memory for a step of %u rows, %llu tokens", row_count, (unsigned long long)tokens);
    }
    double loss = 0, right = 0;
    size_t sequence = 0;
    for (uint32_t r = 0; r < row_count; r++) {
        if (dpo) {
            loss += b->row_losses[r];
            double chosen = b->sums[sequence] - rows[r].reference[0], rejected = b->sums[sequence + 1] - rows[r].reference[1];
            right += chosen > rejected;
        } else {
            for (uint32_t s = 0; s < rows[r].sequence_count; s++) loss -= b->sums[sequence + s];
        }
        sequence += rows[r].sequence_count;
    }
    *result = (struct batch_result){
        .loss = dpo ? loss / row_count : labels ? loss / (double)labels : 0,
        .tokens = tokens,
        .labels = labels,
        .accuracy = dpo ? right / row_count : (double)NAN,
    };
    *gradients = b->root->values;
    return 0;
}

int batch_log_probs(struct batch *b, const struct batch_row *rows, uint32_t row_count, double *sums, uint64_t *labels, struct error *err) {
    uint64_t tokens = 0, all = 0;
    if (lay_out(b, rows, row_count, &tokens, &all)) return error_set(err, E_NOMEM, "no memory for %u rows", row_count);
    b->rows = rows;
    b->dpo = NULL;
    b->backward = false;
    b->first_unit = 0;
    atomic_store(&b->failed, false);
    pool_run(b->pool, b->unit_count, b, unit_run);
    if (atomic_load(&b->failed)) return error_set(err, E_NOMEM, "no memory for %u rows, %llu tokens", row_count, (unsigned long long)tokens);
    size_t sequence = 0;
    for (uint32_t r = 0; r < row_count; r++)
        for (uint32_t s = 0; s < rows[r].sequence_count; s++, sequence++) {
            sums[(size_t)r * BATCH_ROW_SEQUENCES_MAX + s] = b->sums[sequence];
            if (labels) labels[(size_t)r * BATCH_ROW_SEQUENCES_MAX + s] = b->label_counts[sequence];
        }
    return 0;
}
