#include "evaluate.h"

#include "base/alloc.h"
#include "train/batch.h"
#include "train/subject.h"

enum { SEQUENCES = 64 }; /* at once */
#define TAPE_BYTES_MAX ((size_t)64 << 30)

struct evaluation {
    struct subject subject;
    struct nn_decoder *decoder;
    struct pool *pool;
    struct batch *batch;
    struct data *data;
    struct batch_row rows[SEQUENCES];
    double sums[SEQUENCES * BATCH_ROW_SEQUENCES_MAX];
    uint64_t labels[SEQUENCES * BATCH_ROW_SEQUENCES_MAX];
};

static void close_evaluation(struct evaluation *e) {
    if (!e) return;
    batch_free(e->batch);
    if (e->pool) pool_free(e->pool);
    data_close(e->data);
    nn_decoder_free(e->decoder);
    subject_fini(&e->subject);
    mem_free(e);
}

static int open_evaluation(struct evaluation **out, const char *model_dir, const char *data, const struct evaluate_options *options, enum data_kind kind,
                           struct error *err) {
    struct evaluation *e = mem_zalloc(sizeof *e);
    if (!e) return error_set(err, E_NOMEM, "no memory");
    int r = subject_load(&e->subject, model_dir, options->tokenizer_dir, err);
    const struct model_weights *w = &e->subject.weights;
    uint32_t length = options->length && options->length < e->subject.config.context ? options->length : e->subject.config.context;
    if (!r) r = nn_decoder_new(&e->decoder, &e->subject.config, w->params, w->param_count, length, err);
    struct data_options o = {kind, length, e->subject.config.vocab, e->subject.tokenizer, e->subject.chat_template, options->rows_max};
    if (!r) r = data_open(&e->data, data, &o, err);
    if (!r && !(e->pool = pool_new((int)options->threads))) r = error_set(err, E_NOMEM, "no threads");
    if (!r) r = batch_new(&e->batch, e->decoder, w->flat, w->flat_len, (uint32_t)w->param_count, e->pool, TAPE_BYTES_MAX, err);
    if (r) {
        close_evaluation(e);
        return r;
    }
    *out = e;
    return 0;
}

int train_evaluate_documents(const char *model_dir, const char *data, const struct evaluate_options *options, void *arg,
                             evaluate_on_document on_document, struct error *err) {
    struct evaluation *e = NULL;
    int r = open_evaluation(&e, model_dir, data, options, DATA_DOCUMENTS, err);
    if (r) return r;
    /* Windows of documents go through in fixed groups; a document is told when its last window is done. */
    uint64_t row = 0, tokens = 0;
    uint32_t window = 0;
    double nll = 0;
    while (!r && row < data_rows(e->data)) {
        uint64_t at_row = row;
        uint32_t at_window = window, n = 0;
        for (; n < SEQUENCES && at_row < data_rows(e->data); n++) {
            e->rows[n] = (struct batch_row){.sequence_count = 1, .sequences = {data_sequence(e->data, at_row, at_window)}};
            if (++at_window == data_sequences(e->data, at_row)) at_row++, at_window = 0;
        }
        r = batch_log_probs(e->batch, e->rows, n, e->sums, e->labels, err);
        for (uint32_t i = 0; !r && i < n; i++) {
            nll -= e->sums[i * BATCH_ROW_SEQUENCES_MAX];
            tokens += e->labels[i * BATCH_ROW_SEQUENCES_MAX];
            if (++window < data_sequences(e->data, row)) continue;
            on_document(arg, row, nll, tokens, data_text_bytes(e->data, row));
            row++;
            window = 0;
            nll = 0;
            tokens = 0;
        }
    }
    close_evaluation(e);
    return r;
}

int train_evaluate_pairs(const char *model_dir, const char *data, const struct evaluate_options *options, void *arg, evaluate_on_pair on_pair,
                         struct error *err) {
    struct evaluation *e = NULL;
    int r = open_evaluation(&e, model_dir, data, options, DATA_PAIRS, err);
    if (r) return r;
    for (uint64_t row = 0; !r && row < data_rows(e->data); row += SEQUENCES) {
        uint32_t n = (uint32_t)(data_rows(e->data) - row < SEQUENCES ? data_rows(e->data) - row : SEQUENCES);
        for (uint32_t i = 0; i < n; i++)
            e->rows[i] = (struct batch_row){.sequence_count = 2, .sequences = {data_sequence(e->data, row + i, 0), data_sequence(e->data, row + i, 1)}};
        r = batch_log_probs(e->batch, e->rows, n, e->sums, e->labels, err);
        for (uint32_t i = 0; !r && i < n; i++) {
            size_t k = (size_t)i * BATCH_ROW_SEQUENCES_MAX;
            struct evaluate_pair p = {e->sums[k], e->sums[k + 1], e->labels[k], e->labels[k + 1]};
            on_pair(arg, row + i, &p);
        }
    }
    close_evaluation(e);
    return r;
}
