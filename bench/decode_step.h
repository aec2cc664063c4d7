/* What a decode step of a model takes on this machine, in this run: what a token's other costs are shares of. */
#ifndef GENLOOP_BENCH_DECODE_STEP_H
#define GENLOOP_BENCH_DECODE_STEP_H

#include <stdio.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/scheduler.h"

/* Microseconds a token of one sequence, the best of three runs of 48 tokens; 0 with a message where the model cannot be had. */
static inline double decode_step_us(const char *model, int threads) {
    enum { TOKENS = 48, PROMPT = 8 };
    struct engine_options o = {.threads = threads, .step_rows = 64};
    struct engine *e;
    struct error err = {0};
    double best = 0;
    if (engine_new(&e, model, &o, &err) != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 0;
    }
    for (int k = 0; k < 4; k++) { /* the first one warms up */
        int64_t took[2];
        for (int long_run = 0; long_run < 2; long_run++) {
            uint32_t prompt[PROMPT] = {1, 2, 3, 4, 5, 6, 7, 8};
            struct engine_request request;
            struct engine_result result = {.error = {0}};
            engine_request_init(&request);
            request.tokens = prompt;
            request.token_count = PROMPT;
            request.tokens_max = long_run ? TOKENS + 1 : 1;
            request.ignore_eos = true;
            request.sampling.temperature = 0;
            int64_t from = clock_mono_us();
            engine_generate_batch(e, &request, 1, &result, NULL);
            took[long_run] = clock_mono_us() - from;
            engine_result_fini(&result);
        }
        double us = (double)(took[1] - took[0]) / TOKENS;
        if (k == 1 || (k > 1 && us < best)) best = us;
    }
    engine_free(e);
    return best;
}

#endif
