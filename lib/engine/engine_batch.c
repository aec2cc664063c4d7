/* The engine for callers that can wait. */
#include "base/alloc.h"
#include "base/clock.h"
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
    uint64_t id; /* 0: not submitted */
    size_t tokens_capacity, logprobs_capacity, prompt_capacity, argmax_capacity;
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
    /* not by usage.prompt_tokens: a target may be longer than the prompt that an encoder reads */
    result = array_reserve(&r->prompt_logprobs, &b->prompt_capacity, r->prompt_count + event->prompt_count, sizeof *r->prompt_logprobs);
    if (result == 0) result = array_reserve(&r->prompt_argmax, &b->argmax_capacity, r->prompt_count + event->prompt_count, sizeof *r->prompt_argmax);
    if (result != 0) return result;
    for (size_t i = 0; i < event->prompt_count; i++) {
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

static void batch_init(struct batch *b) {
    pthread_condattr_t monotonic;
    *b = (struct batch){0};
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static void batch_fini(struct batch *b) {
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
}

/* Until more than `seen` have finished; watched ones return by themselves, too. What has finished. */
static size_t batch_wait(struct batch *b, size_t seen, bool watched) {
    int64_t until_ms = clock_mono_ms() + ENGINE_WATCH_MS;
    struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    pthread_mutex_lock(&b->lock);
    while (b->finished == seen)
        if (!watched) pthread_cond_wait(&b->wake, &b->lock);
        else if (pthread_cond_timedwait(&b->wake, &b->lock, &until) != 0) break;
    size_t finished = b->finished;
    pthread_mutex_unlock(&b->lock);
    return finished;
}

/* Tells, and asks. */
static int batch_look(const struct engine_watch *w, size_t finished, struct error *err) {
    if (w && w->on_finished) w->on_finished(w->arg, finished);
    return w && w->should_stop && w->should_stop(w->arg) ? error_set(err, E_CANCELLED, "what was asked of the engine was stopped") : 0;
}

int engine_generate_watched(struct engine *e, const struct engine_request *requests, size_t n, struct engine_result *results, const struct engine_watch *watch, struct error *err) {
    struct batch batch;
    struct batch_item *items = mem_calloc(n ? n : 1, sizeof *items);
    for (size_t i = 0; i < n; i++) results[i] = (struct engine_result){0};
    if (!items) return error_set(err, E_NOMEM, "no memory for %zu requests", n);
    batch_init(&batch);
    size_t submitted = 0, refused = 0, finished = 0, begun = 0;
    int r = 0;
    for (; begun < n && r == 0; begun++) {
        struct batch_item *item = &items[begun];
        struct engine_result *result = &results[begun];
        *item = (struct batch_item){.batch = &batch, .request = &requests[begun], .result = result};
        buf_init(&item->text, 1 << 30);
        int code = 0;
        while ((r = batch_look(watch, finished + refused, err)) == 0) {
            code = engine_submit(e, &requests[begun], item, on_event, &item->id, &result->error);
            if (code != E_FULL || finished == submitted) break;
            finished = batch_wait(&batch, finished, watch != NULL); /* one of ours will end and make room */
            result->error = (struct error){0};
        }
        if (r != 0) {
            result->finish = ENGINE_CANCELLED;
        } else if (code == 0) {
            submitted++;
        } else {
            result->finish = ENGINE_ERROR;
            refused++;
            if (code == E_STATE || code == E_NOMEM) { /* else this one alone is at fault */
                r = code;
                if (err) *err = result->error;
            }
        }
    }
    while (r == 0 && finished < submitted) {
        finished = batch_wait(&batch, finished, watch != NULL);
        r = batch_look(watch, finished + refused, err);
    }
    if (r == E_CANCELLED)
        for (size_t i = 0; i < begun; i++)
            if (items[i].id != 0) engine_cancel(e, items[i].id);
    while (finished < submitted) finished = batch_wait(&batch, finished, false);
    for (size_t i = begun; i < n; i++) results[i].finish = ENGINE_CANCELLED;
    for (size_t i = 0; i < begun; i++) {
        if (engine_tokenizer(e) && results[i].error.code == 0) {
            results[i].text = buf_detach(&items[i].text, &results[i].text_len);
            if (!results[i].text) error_set(&results[i].error, E_NOMEM, "no memory for a result");
        }
        buf_fini(&items[i].text);
    }
    batch_fini(&batch);
    mem_free(items);
    return r;
}

int engine_generate_batch(struct engine *e, const struct engine_request *requests, size_t n, struct engine_result *results, struct error *err) {
    return engine_generate_watched(e, requests, n, results, NULL, err);
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
