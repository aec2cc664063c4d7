/*
 * `genloop bench serve`: how fast an engine prefills and decodes so many sequences together, on random prompts, greedily. A run is timed by the
 * tokens as they come; the best of some runs counts for rates, all of them for percentiles. Blocks; one at a time per engine.
 */
#ifndef GENLOOP_ENGINE_BENCH_H
#define GENLOOP_ENGINE_BENCH_H

#include "engine/engine.h"

enum { ENGINE_BENCH_REPEATS = 3, ENGINE_BENCH_PROMPT = 16 /* tokens before a decode */ };

struct engine_bench_result {
    double tokens_per_s;     /* of prompt, or produced */
    double cpu_s_per_token;  /* of the whole process, the best run: what a busy machine moves little */
    double ttft_p50_ms, ttft_p99_ms;               /* time to first token, from when the request was handed over */
    double inter_token_p50_ms, inter_token_p99_ms; /* 0 where one token is made */
};
/* sequences prompts of so many tokens, and one token of each. E_NOMEM; errors of the requests. */
int engine_bench_prefill(struct engine *e, size_t sequences, size_t prompt, struct engine_bench_result *result, struct error *err);
/* sequences short prompts and `generate` tokens of each: timed from when every sequence has its first token to when the first has its last. E_STATE:
 * that was no time at all. */
int engine_bench_decode(struct engine *e, size_t sequences, size_t generate, struct engine_bench_result *result, struct error *err);

#endif
