/* The engine for callers that can wait. */
#include "base/alloc.h"
#include "engine/engine_internal.h"

struct batch {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    size_t finished;
};
struct batch_item {
    struct batch *batch;
    const struct engine_request *request;
    struct engine_result *result;
    struct buf text;
    size_t tokens_capacity, logprobs_capacity;
};

void engine_result_fini(struct engine_result *r) {
    mem_free(r->tokens);
    mem_free(r->text);
    mem_free(r->logprobs);
    mem_free(r->prompt_logprobs);
    mem_free(r->prompt_argmax);
    mem_free(r->top_logits);
    *r = (struct engine_result){0};
}

static int gather(struct batch_item *b, const struct engine_event *event) {
    struct engine_result *r = b->result;
    int result = buf_append_span(&b->text, event->text);
    if (result == 0) result = array_reserve(&r->tokens, &b->tokens_capacity, r->token_count + event->token_count, sizeof *r->tokens);
    if (result == 0 && event->logprobs)
        result = array_reserve(&r->logprobs, &b->logprobs_capacity, r->token_count + event->token_count, sizeof *r->logprobs);
    if (result != 0) return result;
    for (size_t i = 0; i < event->token_count; i++) {
        if (event->logprobs) r->logprobs[r->token_count] = event->logprobs[i];
        r->tokens[r->token_count++] = event->tokens[i];
    }
    if (event->prompt_count > 0 && !r->prompt_logprobs) {
        r->prompt_logprobs = mem_calloc(event->usage.prompt_tokens, sizeof *r->prompt_logprobs);
        r->prompt_argmax = mem_calloc(event->usage.prompt_tokens, sizeof *r->prompt_argmax);
        if (!r->prompt_logprobs || !r->prompt_argmax) return E_NOMEM;
    }
    for (size_t i = 0; i < event->prompt_count; i++) {
        ASSERT(r->prompt_count < event->usage.prompt_tokens);
        r->prompt_logprobs[r->prompt_count] = event->prompt_logprobs[i];
        r->prompt_argmax[r->prompt_count++] = event->prompt_argmax[i];
    }
    if (event->top_logit_count > 0 && !r->top_logits) {
        if (!(r->top_logits = mem_calloc(event->top_logit_count, sizeof *r->top_logits))) return E_NOMEM;
        memcpy(r->top_logits, event->top_logits, event->top_logit_count * sizeof *r->top_logits);
        r->top_logit_count = event->top_logit_count;
    }
    return 0;
}

static void on_event(void *arg, const struct engine_event *event) {
    struct batch_item *b = arg;
    struct engine_result *r = b->result;
    int result = r->error.code == 0 ? gather(b, event) : 0;
    if (result != 0) error_set(&r->error, result, "no memory for a result");
    if (event->finish == ENGINE_RUNNING) return;
    r->finish = event->finish;
    r->usage = event->usage;
    if (event->error && r->error.code == 0) r->error = *event->error;
    pthread_mutex_lock(&b->batch->lock);
    b->batch->finished++;
    pthread_cond_signal(&b->batch->wake);
    pthread_mutex_unlock(&b->batch->lock);
}

int engine_generate_batch(struct engine *e, const struct engine_request *requests, size_t n, struct engine_result *results, struct error *err) {
    struct batch batch = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
    struct batch_item *items = mem_calloc(n ? n : 1, sizeof *items);
    for (size_t i = 0; i < n; i++) results[i] = (struct engine_result){0};
    if (!items) return error_set(err, E_NOMEM, "no memory for %zu requests", n);
    size_t submitted = 0;
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        items[i] = (struct batch_item){.batch = &batch, .request = &requests[i], .result = &results[i]};
        buf_init(&items[i].text, 1 << 30);
        for (;;) {
            pthread_mutex_lock(&batch.lock);
            size_t before = batch.finished;
            pthread_mutex_unlock(&batch.lock);
            r = engine_submit(e, &requests[i], &items[i], on_event, NULL, &results[i].error);
            if (r != E_FULL || before == submitted) break;
            pthread_mutex_lock(&batch.lock); /* one of ours will end and make room */
            while (batch.finished == before) pthread_cond_wait(&batch.wake, &batch.lock);
            pthread_mutex_unlock(&batch.lock);
            results[i].error = (struct error){0};
        }
        if (r == 0) submitted++;
        else {
            results[i].finish = ENGINE_ERROR;
            if (r != E_STATE && r != E_NOMEM) r = 0; /* this one alone is at fault */
            else if (err) *err = results[i].error;
        }
    }
    pthread_mutex_lock(&batch.lock);
    while (batch.finished < submitted) pthread_cond_wait(&batch.wake, &batch.lock);
    pthread_mutex_unlock(&batch.lock);
    for (size_t i = 0; i < n; i++) {
        if (engine_tokenizer(e) && items[i].batch && results[i].error.code == 0) {
            results[i].text = buf_detach(&items[i].text, &results[i].text_len);
            if (!results[i].text) error_set(&results[i].error, E_NOMEM, "no memory for a result");
        }
        buf_fini(&items[i].text);
    }
    mem_free(items);
    return r;
}

int engine_score(struct engine *e, const uint32_t *const *documents, const size_t *counts, size_t n, double *nll, struct error *err) {
    struct engine_request *requests = mem_calloc(n ? n : 1, sizeof *requests);
    struct engine_result *results = mem_calloc(n ? n : 1, sizeof *results);
    int r = requests && results ? 0 : error_set(err, E_NOMEM, "no memory for %zu documents", n);
    for (size_t i = 0; i < n && r == 0; i++) {
        engine_request_init(&requests[i]);
        requests[i].tokens = documents[i];
        requests[i].token_count = counts[i] < engine_context(e) ? counts[i] : engine_context(e);
        requests[i].tokens_max = 0;
        requests[i].prompt_logprobs = true;
        if (counts[i] == 0) r = error_set(err, E_INVALID, "document %zu has no tokens", i);
    }
    if (r == 0) r = engine_generate_batch(e, requests, n, results, err);
    for (size_t i = 0; i < n && r == 0; i++) {
        if (results[i].error.code != 0) {
            r = results[i].error.code;
            if (err) *err = results[i].error;
            error_prefix(err, "document %zu", i);
            break;
        }
        double sum = 0;
        for (size_t t = 0; t < results[i].prompt_count; t++) sum -= (double)results[i].prompt_logprobs[t];
        nll[i] = sum;
    }
    for (size_t i = 0; results && i < n; i++) engine_result_fini(&results[i]);
    mem_free(requests);
    mem_free(results);
    return r;
}
