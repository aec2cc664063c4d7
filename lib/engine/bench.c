#include "engine/bench.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/random.h"
#include "engine/engine.h"

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* One run. The engine's thread writes times, under the lock; the caller reads them when all have ended. */
struct run {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    size_t n, begun, done;
    int64_t from_us, to_us; /* every sequence has its first token; the first has its last */
    double from_cpu, to_cpu;
    uint64_t tokens;        /* between */
    double *gaps;           /* [gaps_max] ms between two tokens of a sequence, of all runs */
    size_t gap_count, gaps_max;
    struct error error;
};
struct sequence {
    struct run *run;
    int64_t submitted_us, first_us, last_us;
};

static void on_event(void *arg, const struct engine_event *event) {
    struct sequence *s = arg;
    struct run *r = s->run;
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&r->lock);
    if (r->from_us && !r->to_us) r->tokens += event->token_count;
    if (event->token_count) {
        if (s->last_us && r->gap_count < r->gaps_max) r->gaps[r->gap_count++] = (double)(now - s->last_us) / 1e3;
        s->last_us = now;
        if (!s->first_us) {
            s->first_us = now;
            if (++r->begun == r->n) {
                r->from_us = now;
                r->from_cpu = cpu_seconds();
            }
        }
    }
    if (event->finish != ENGINE_RUNNING) {
        if (!r->to_us) {
            r->to_us = now;
            r->to_cpu = cpu_seconds();
        }
        if (event->error && !r->error.code) r->error = *event->error;
        if (++r->done == r->n) pthread_cond_signal(&r->ended);
    }
    pthread_mutex_unlock(&r->lock);
}

/* n random requests together; waits for all. Prompts that no earlier run had: what the prefix cache holds would be no work. */
static int run_once(struct engine *e, struct run *r, uint64_t seed, struct sequence *sequences, size_t prompt, size_t generate, struct error *err) {
    uint32_t *ids = mem_calloc(prompt, sizeof *ids);
    struct random random;
    size_t submitted = 0;
    int code = ids ? 0 : error_set(err, E_NOMEM, "no memory for a prompt of %zu tokens", prompt);
    random_seed(&random, seed);
    for (; code == 0 && submitted < r->n; submitted += code == 0) {
        struct engine_request request;
        for (size_t i = 0; i < prompt; i++) ids[i] = (uint32_t)random_below(&random, engine_model(e)->vocab);
        engine_request_init(&request);
        request.tokens = ids;
        request.token_count = prompt;
        request.tokens_max = (int64_t)generate;
        request.ignore_eos = true;
        request.sampling.temperature = 0;
        sequences[submitted] = (struct sequence){.run = r, .submitted_us = clock_mono_us()};
        code = engine_submit(e, &request, &sequences[submitted], on_event, &(uint64_t){0}, err);
    }
    pthread_mutex_lock(&r->lock);
    if (code != 0) r->n = submitted;
    while (r->done < submitted) pthread_cond_wait(&r->ended, &r->lock);
    pthread_mutex_unlock(&r->lock);
    if (code == 0 && r->error.code) {
        code = r->error.code;
        if (err) *err = r->error;
    }
    mem_free(ids);
    return code;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double percentile(const double *sorted, size_t n, double share) { return n ? sorted[(size_t)((double)(n - 1) * share + 0.5)] : 0; }

static _Atomic uint64_t runs; /* of the process: each is the seed of its prompts */

static int bench(struct engine *e, size_t n, size_t prompt, size_t generate, bool decode, struct engine_bench_result *result, struct error *err) {
    struct run r = {.lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};
    struct sequence *sequences = mem_calloc(n, sizeof *sequences);
    double *ttft = mem_calloc(n * ENGINE_BENCH_REPEATS, sizeof *ttft);
    struct engine_bench_result best = {0};
    int code = 0;
    r.gaps_max = n * generate * ENGINE_BENCH_REPEATS;
    r.gaps = mem_calloc(r.gaps_max, sizeof *r.gaps);
    if (!sequences || !ttft || !r.gaps) code = error_set(err, E_NOMEM, "no memory for %zu sequences", n);
    for (size_t k = 0; code == 0 && k < ENGINE_BENCH_REPEATS; k++) {
        r.n = n;
        r.begun = r.done = 0;
        r.from_us = r.to_us = 0;
        r.tokens = 0;
        r.error = (struct error){0};
        int64_t from = clock_mono_us();
        double cpu = cpu_seconds(), rate, cost;
        if ((code = run_once(e, &r, atomic_fetch_add(&runs, 1), sequences, prompt, generate, err)) != 0) break;
        if (decode) {
            if (!r.from_us || r.to_us <= r.from_us || !r.tokens) {
                code = error_set(err, E_STATE, "a sequence ended before the last had begun: more tokens are to be generated");
                break;
            }
            rate = (double)r.tokens * 1e6 / (double)(r.to_us - r.from_us);
            cost = (r.to_cpu - r.from_cpu) / (double)r.tokens;
        } else {
            rate = (double)(n * prompt) * 1e6 / (double)(r.from_us - from);
            cost = (r.from_cpu - cpu) / (double)(n * prompt);
        }
        if (rate > best.tokens_per_s) best.tokens_per_s = rate;
        if (k == 0 || cost < best.cpu_s_per_token) best.cpu_s_per_token = cost;
        for (size_t i = 0; i < n; i++) ttft[k * n + i] = (double)(sequences[i].first_us - sequences[i].submitted_us) / 1e3;
    }
    if (code == 0) {
        qsort(ttft, n * ENGINE_BENCH_REPEATS, sizeof *ttft, ascending);
        qsort(r.gaps, r.gap_count, sizeof *r.gaps, ascending);
        best.ttft_p50_ms = percentile(ttft, n * ENGINE_BENCH_REPEATS, 0.5);
        best.ttft_p99_ms = percentile(ttft, n * ENGINE_BENCH_REPEATS, 0.99);
        best.inter_token_p50_ms = percentile(r.gaps, r.gap_count, 0.5);
        best.inter_token_p99_ms = percentile(r.gaps, r.gap_count, 0.99);
        *result = best;
    }
    mem_free(sequences);
    mem_free(ttft);
    mem_free(r.gaps);
    return code;
}

int engine_bench_prefill(struct engine *e, size_t sequences, size_t prompt, struct engine_bench_result *result, struct error *err) {
    return bench(e, sequences, prompt, 1, false, result, err);
}

int engine_bench_decode(struct engine *e, size_t sequences, size_t generate, struct engine_bench_result *result, struct error *err) {
    return bench(e, sequences, ENGINE_BENCH_PROMPT, generate + 1, true, result, err);
}
