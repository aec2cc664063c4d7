#include "engine/compare.h"

#include <math.h>

#include "base/alloc.h"

const char COMPARE_TEXT[] =
    "The lighthouse stood at the end of a long spit of stones, and in winter the path to it was under water twice a day. Whoever kept the light had to know the tides as well as the lamp. In the old "
    "books of the harbour one can still read how much oil was burned each night, how many ships went by, and what the weather was. Most of the entries are short. Some of them tell of a storm, of a boat that was "
    "seen and then not seen again, of a letter that came too late.\n\n"
    "The last keeper was a woman who had grown up in the village behind the dunes. She had learned from her father how to trim the wick, how to clean the glass without leaving a streak on it, and how to sleep in "
    "pieces of two hours. When the lamp was replaced by an electric one, she went on writing in the book, although nobody asked for it any more. She counted the birds that passed in spring and in autumn, and after "
    "twenty years there was no better record of them on the whole coast.\n\n"
    "Today the tower is a small museum. Visitors climb one hundred and twelve steps, look at the sea, and ask whether it was lonely. The answer of the guide is always the same: it depends on what you count as "
    "company. There were the ships, the birds, the wind in the iron stairs, and every Saturday a boy with bread, milk and the newspapers of the week. The boy became a teacher of mathematics. He says that he learned to "
    "calculate on those stairs, because the keeper gave him a problem on the way up, and he was not allowed to come down before he had solved it.\n";

struct reading {
    float *logprobs;
    uint32_t *argmax;
    size_t n;
};

static void reading_fini(struct reading *r) {
    mem_free(r->logprobs);
    mem_free(r->argmax);
    *r = (struct reading){0};
}

/* The windows of the text, one behind the other; a window's first token, or what an encoder reads of it, is foretold by nothing and not counted. */
static int read_windows(struct engine *e, const struct tokens *ids, struct reading *out, struct error *err) {
    size_t window = engine_context(e) < COMPARE_WINDOW ? engine_context(e) : COMPARE_WINDOW, n = (ids->len + window - 1) / window;
    struct engine_request *requests = mem_calloc(n, sizeof *requests);
    struct engine_result *results = mem_calloc(n, sizeof *results);
    out->logprobs = mem_calloc(ids->len, sizeof *out->logprobs);
    out->argmax = mem_calloc(ids->len, sizeof *out->argmax);
    int r = requests && results && out->logprobs && out->argmax ? 0 : error_set(err, E_NOMEM, "no memory to compare on %zu tokens", ids->len);
    for (size_t i = 0; r == 0 && i < n; i++) {
        engine_request_init(&requests[i]);
        requests[i].tokens = ids->ids + i * window;
        requests[i].token_count = ids->len - i * window < window ? ids->len - i * window : window;
        requests[i].tokens_max = 0;
        requests[i].prompt_logprobs = true;
        if (engine_model(e)->encoder_layers > 0) { /* the window's second half, given its first */
            size_t half = requests[i].token_count / 2;
            requests[i].target = requests[i].tokens + half;
            requests[i].target_count = requests[i].token_count - half;
            requests[i].token_count = half;
        }
    }
    if (r == 0) r = engine_generate_batch(e, requests, n, results, err);
    for (size_t i = 0; r == 0 && i < n; i++) {
        if (results[i].finish == ENGINE_ERROR) {
            *err = results[i].error;
            r = results[i].error.code;
        }
        for (size_t k = 0; r == 0 && k < results[i].prompt_count; k++) {
            out->logprobs[out->n] = results[i].prompt_logprobs[k];
            out->argmax[out->n++] = results[i].prompt_argmax[k];
        }
    }
    for (size_t i = 0; results && i < n; i++) engine_result_fini(&results[i]);
    mem_free(requests);
    mem_free(results);
    return r;
}

static void judge(const struct reading *first, const struct reading *one, struct compare_result *result) {
    double nll = 0, apart = 0;
    uint64_t same = 0;
    for (size_t i = 0; i < one->n; i++) {
        nll -= (double)one->logprobs[i];
        apart += fabs((double)one->logprobs[i] - (double)first->logprobs[i]);
        same += one->argmax[i] == first->argmax[i];
    }
    result->tokens = one->n;
    result->perplexity = exp(nll / (double)one->n);
    result->agreement = (double)same / (double)one->n;
    result->difference = apart / (double)one->n;
}

int engine_compare_sides(const struct compare_side *sides, size_t n, struct span text, int threads, struct compare_result *results, struct error *err) {
    struct reading first = {0}, other = {0};
    struct tokens ids = {0};
    int r = n >= 1 && n <= COMPARE_KINDS_MAX ? 0 : error_set(err, E_INVALID, "1 to %d kinds are compared", COMPARE_KINDS_MAX);
    for (size_t i = 0; r == 0 && i < n; i++) {
        struct engine_options o = {.threads = threads, .sequences_max = 4, .weights = sides[i].kind};
        struct engine_weights weights;
        struct engine *e = NULL;
        struct reading *reading = i ? &other : &first;
        if ((r = engine_new(&e, sides[i].model, &o, err)) != 0) break;
        if (!engine_tokenizer(e)) r = error_set(err, E_UNSUPPORTED, "%s has no tokenizer to read the text with", sides[i].model);
        if (r == 0 && i == 0) r = tokenizer_encode(engine_tokenizer(e), text, TOKENIZER_ADD_SPECIAL | TOKENIZER_NO_SPECIALS, &ids, err);
        if (r == 0 && ids.len < 2) r = error_set(err, E_INVALID, "the text is less than two tokens");
        if (r == 0) r = read_windows(e, &ids, reading, err);
        if (r == 0 && reading->n != first.n) r = error_set(err, E_INVALID, "%s reads the text in other pieces than %s", sides[i].model, sides[0].model);
        if (r == 0 && reading->n == 0) r = error_set(err, E_INVALID, "the text is less than two tokens");
        if (r == 0) {
            engine_get_weights(e, &weights);
            results[i] = (struct compare_result){.kind = weights.kind, .weights_size = weights.size};
            judge(&first, reading, &results[i]);
        }
        engine_free(e);
        reading_fini(&other);
    }
    reading_fini(&first);
    tokens_fini(&ids);
    return r;
}

int engine_compare(const char *model, const enum packed_kind *kinds, size_t n, struct span text, int threads, struct compare_result *results, struct error *err) {
    struct compare_side sides[COMPARE_KINDS_MAX];
    for (size_t i = 0; i < n && i < COMPARE_KINDS_MAX; i++) sides[i] = (struct compare_side){model, kinds[i]};
    return engine_compare_sides(sides, n, text, threads, results, err);
}
