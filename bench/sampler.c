/*
 * bench_sampler [--model DIR|FILE] [--threads N] [--vocab N,N,...]
 * Microseconds that a token's choice takes, of one thread, for the samplers that people use and for vocabularies of the published sizes; with --model also as a share of a
 * decode step of that model, which is measured in the same run (its own vocabulary's row is the one to look at). The limit beside them is one pass over the logits.
 */
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/random.h"
#include "decode_step.h"
#include "engine/sampler.h"
#include "tensor/kernels.h"

enum { ROUNDS = 41, COUNTED = 600 };

static const struct {
    const char *name;
    struct sampler_params p;
    bool counts, logprobs;
} rows[] = {
#define BASE .top_p = 1, .repetition_penalty = 1, .typical_p = 1
    {"greedy", {BASE, .temperature = 0}, false, false},
    {"temperature 0.8", {BASE, .temperature = 0.8}, false, false},
    {"top-k 40", {BASE, .temperature = 0.8, .top_k = 40}, false, false},
    {"top-p 0.95", {.temperature = 0.8, .top_p = 0.95, .repetition_penalty = 1, .typical_p = 1}, false, false},
    {"top-p 0.95, flat", {.temperature = 2, .top_p = 0.95, .repetition_penalty = 1, .typical_p = 1}, false, false},
    {"min-p 0.05", {BASE, .temperature = 0.8, .min_p = 0.05}, false, false},
    {"all of these", {.temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .repetition_penalty = 1, .typical_p = 1}, false, false},
    {"all, penalties", {.temperature = 0.8, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .repetition_penalty = 1.1, .frequency_penalty = 0.2, .presence_penalty = 0.2, .typical_p = 1}, true, false},
    {"typical-p 0.9", {.temperature = 0.8, .top_p = 1, .repetition_penalty = 1, .typical_p = 0.9}, false, false},
    {"top-n-sigma 1", {BASE, .temperature = 0.8, .top_n_sigma = 1}, false, false},
    {"XTC 0.5", {BASE, .temperature = 0.8, .xtc_probability = 0.5, .xtc_threshold = 0.1}, false, false},
    {"20 logprobs", {BASE, .temperature = 0}, false, true},
};

/* Of this thread, so that what else the machine does is not counted. */
static int64_t processor_us(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int compare(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}
static double median(int64_t *us) {
    qsort(us, ROUNDS, sizeof us[0], compare);
    return (double)us[ROUNDS / 2];
}

/* As a model's: most near the middle, some hundreds above, a few far above. */
static void logits_fill(float *logits, uint32_t vocab, struct random *r) {
    for (uint32_t i = 0; i < vocab; i++) {
        double sum = 0;
        for (int k = 0; k < 6; k++) sum += random_f64(r) - 0.5;
        logits[i] = (float)(3.5 * sum);
    }
    for (int i = 0; i < 12; i++) logits[random_below(r, vocab)] = (float)(12 + 6 * random_f64(r));
}

static int measure(uint32_t vocab, double step_us) {
    struct sampler_scratch scratch;
    struct sampler_counts counts = {.len = 0};
    struct random r;
    uint32_t prompt[COUNTED], token;
    float *given = mem_calloc(vocab, sizeof *given), *logits = mem_calloc(vocab, sizeof *logits);
    int64_t us[ROUNDS];
    int result = sampler_scratch_init(&scratch, vocab);
    random_seed(&r, 5);
    for (int i = 0; i < COUNTED; i++) prompt[i] = (uint32_t)random_below(&r, vocab);
    if (!given || !logits || sampler_counts_prompt(&counts, prompt, COUNTED)) result = E_NOMEM;
    for (int i = 0; !result && i < COUNTED / 2; i++) result = sampler_counts_add(&counts, prompt[i]);
    if (result) goto out;
    for (int k = 0; k < ROUNDS; k++) {
        logits_fill(logits, vocab, &r);
        int64_t from = processor_us();
        volatile float max = kernels()->max(logits, vocab);
        (void)max;
        us[k] = processor_us() - from;
    }
    printf("%u ids: one pass over the logits %.0f us\n", vocab, median(us));
    for (size_t i = 0; !result && i < sizeof rows / sizeof rows[0]; i++) {
        for (int k = 0; !result && k < ROUNDS; k++) {
            struct sampler_logprob top[SAMPLER_TOP_LOGPROBS_MAX];
            float chosen;
            logits_fill(given, vocab, &r);
            memcpy(logits, given, vocab * sizeof *logits);
            int64_t from = processor_us();
            if (rows[i].logprobs) memcpy(scratch.raw, logits, vocab * sizeof *logits);
            result = sampler_draw(&rows[i].p, rows[i].counts ? &counts : NULL, (uint64_t)k, logits, NULL, &scratch, &token);
            if (!result && rows[i].logprobs) sampler_logprobs(scratch.raw, token, SAMPLER_TOP_LOGPROBS_MAX, &scratch, &chosen, top);
            us[k] = processor_us() - from;
        }
        double typical = median(us);
        if (step_us > 0) printf("  %-18s %6.0f us, %5.2f %% of a step\n", rows[i].name, typical, 100 * typical / step_us);
        else printf("  %-18s %6.0f us\n", rows[i].name, typical);
    }
out:
    sampler_scratch_fini(&scratch);
    sampler_counts_fini(&counts);
    mem_free(given);
    mem_free(logits);
    return result;
}

int main(int argc, char **argv) {
    const char *model = NULL, *vocabs = "49152,151936,262144";
    uint64_t threads = 0, vocab;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--model") == 0) model = value;
        else if (strcmp(argv[i], "--vocab") == 0) vocabs = value;
        else if (strcmp(argv[i], "--threads") != 0 || span_to_u64(span_str(value), &threads) || threads > 1024) {
            fprintf(stderr, "usage: bench_sampler [--model DIR|FILE] [--threads N] [--vocab N,N,...]\n");
            return 2;
        }
    }
    double step_us = model ? decode_step_us(model, (int)threads) : 0;
    if (model && step_us <= 0) return 1;
    if (model) printf("a decode step of %s: %.0f us\n", model, step_us);
    struct span rest = span_str(vocabs), one;
    while (span_cut(&rest, ',', &one)) {
        if (span_to_u64(one, &vocab) || vocab < 64 || vocab > 1 << 24) {
            fprintf(stderr, "--vocab wants numbers of at least 64\n");
            return 2;
        }
        if (measure((uint32_t)vocab, step_us)) return 1;
    }
    return 0;
}
