/*
 * bench_engine [--model DIR | --shape layers,width,heads,kv_heads,ffn,vocab] [--weights KIND] [--threads N] [--prompt N] [--generate N] [--sequences 1,4,16]
 * Prefill and decode in tokens/s through the whole engine, random prompts, greedy; beside each decode figure the share of the read bandwidth that the
 * weights' bytes amount to, the bandwidth being measured in the same run on huge pages.
 */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/pool.h"
#include "base/random.h"
#include "engine/engine.h"
#include "engine/scheduler.h"

struct stream {
    const uint64_t *data;
    size_t part;
    uint64_t sums[POOL_THREADS_MAX];
};
static void read_part(void *arg, size_t item, int thread) {
    struct stream *s = arg;
    const uint64_t *p = s->data + item * s->part;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    (void)thread;
    for (size_t i = 0; i + 8 <= s->part; i += 8) {
        __builtin_prefetch(p + i + 512); /* 4 KiB ahead: the hardware's own stops at page borders */
        a += p[i] ^ p[i + 4];
        b += p[i + 1] ^ p[i + 5];
        c += p[i + 2] ^ p[i + 6];
        d += p[i + 3] ^ p[i + 7];
    }
    s->sums[item] = a + b + c + d;
}
/* Bytes per second that all threads read together from memory that no cache holds; the best of some runs. */
static double bandwidth(int threads) {
    size_t size = (size_t)512 << 20;
    struct pool *pool = pool_new(threads);
    int n = pool_threads(pool);
    struct stream s = {.data = quant_map(size), .part = size / 8 / (size_t)n};
    memset((void *)(uintptr_t)s.data, 1, size);
    double best = 0;
    for (int i = 0; i < 10; i++) {
        int64_t from = clock_mono_us();
        pool_run(pool, (size_t)n, &s, read_part);
        double rate = (double)size * 1e6 / (double)(clock_mono_us() - from);
        if (rate > best) best = rate;
    }
    quant_unmap((void *)(uintptr_t)s.data, size);
    pool_free(pool);
    return best;
}

static int random_model(struct model_dir *dir, const uint32_t *n, struct error *err) {
    struct model_config c;
    struct random r;
    *dir = (struct model_dir){0};
    model_config_default(&c, model_arch_find(SPAN("llama")), n[0], n[1], n[2], n[3], 4096, n[5]);
    c.ffn = n[4];
    int result = model_config_check(&c, err);
    if (result == 0) result = model_weights_new(&dir->weights, &c, err);
    random_seed(&r, 1);
    for (size_t i = 0; result == 0 && i < dir->weights.flat_len; i++) dir->weights.flat[i] = (float)random_f64(&r) * 0.1f - 0.05f;
    dir->config = c;
    return result;
}

/* Microseconds for n requests of so many prompt and answer tokens, run together. */
static int64_t run(struct engine *e, size_t n, size_t prompt, int64_t generate) {
    struct engine_request *requests = mem_calloc(n, sizeof *requests);
    struct engine_result *results = mem_calloc(n, sizeof *results);
    uint32_t *ids = mem_calloc(n * prompt, sizeof *ids);
    struct random r;
    random_seed(&r, 7);
    for (size_t i = 0; i < n * prompt; i++) ids[i] = (uint32_t)random_below(&r, engine_model(e)->vocab);
    for (size_t i = 0; i < n; i++) {
        engine_request_init(&requests[i]);
        requests[i].tokens = ids + i * prompt;
        requests[i].token_count = prompt;
        requests[i].tokens_max = generate;
        requests[i].ignore_eos = true;
        requests[i].sampling.temperature = 0;
    }
    int64_t from = clock_mono_us();
    engine_generate_batch(e, requests, n, results, NULL);
    int64_t took = clock_mono_us() - from;
    for (size_t i = 0; i < n; i++) {
        if (results[i].error.code != 0) fprintf(stderr, "%s\n", results[i].error.message);
        engine_result_fini(&results[i]);
    }
    mem_free(requests);
    mem_free(results);
    mem_free(ids);
    return took;
}

static size_t numbers(const char *text, uint32_t *out, size_t max) {
    struct span rest = span_str(text), one;
    size_t n = 0;
    uint64_t v;
    while (n < max && span_cut(&rest, ',', &one))
        if (span_to_u64(one, &v) == 0 && v <= UINT32_MAX) out[n++] = (uint32_t)v;
    return n;
}

int main(int argc, char **argv) {
    const char *model = NULL;
    uint32_t shape[6] = {30, 576, 9, 3, 1536, 49152}, sequences[16] = {1, 4, 8, 16}, number;
    size_t sequence_count = 4, prompt = 512, generate = 128;
    struct engine_options o = {0};
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--model") == 0) model = value;
        else if (strcmp(argv[i], "--shape") == 0 && numbers(value, shape, 6) == 6) continue;
        else if (strcmp(argv[i], "--weights") == 0) {
            if (packed_kind_find(value, &o.weights, NULL) != 0) return 2;
        }
        else if (strcmp(argv[i], "--sequences") == 0) sequence_count = numbers(value, sequences, 16);
        else if (numbers(value, &number, 1) == 1 && strcmp(argv[i], "--threads") == 0) o.threads = (int)number;
        else if (numbers(value, &number, 1) == 1 && strcmp(argv[i], "--prompt") == 0) prompt = number;
        else if (numbers(value, &number, 1) == 1 && strcmp(argv[i], "--generate") == 0) generate = number;
        else {
            fprintf(stderr, "what is %s %s?\n", argv[i], value);
            return 2;
        }
    }
    struct error err;
    struct model_dir dir;
    struct engine *e;
    o.step_rows = 256;
    int64_t from = clock_mono_us();
    int r = model ? engine_new(&e, model, &o, &err) : random_model(&dir, shape, &err);
    if (r == 0 && !model) {
        from = clock_mono_us();
        r = engine_new_from(&e, &dir, &o, &err);
    }
    if (r != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    double load_s = (double)(clock_mono_us() - from) / 1e6;
    const struct model_config *c = engine_model(e);
    /* Bytes of weights read for a step: every matrix once. */
    double params = (double)c->layers * (double)c->width * (2.0 * c->heads * c->head_dim + 2.0 * c->kv_heads * c->head_dim + 3.0 * c->ffn) +
                    (double)c->vocab * c->width;
    double bytes = (double)engine_weights_size(e), limit = bandwidth(o.threads);
    printf("load and repack %.2f s, %.0f MB a step, read bandwidth %.1f GB/s, kernels %s\n", load_s, bytes / 1e6, limit / 1e9,
           quant_kernels()->name);
    if (prompt + generate + 1 > engine_context(e)) {
        fprintf(stderr, "the context has %u tokens\n", engine_context(e));
        return 2;
    }
    run(e, 1, 32, 8);
    double multiply_adds = 0, seconds = 0;
    for (int i = 0; i < 3; i++) {
        double s = (double)run(e, 1, prompt, 1) / 1e6;
        if (i == 0 || s < seconds) seconds = s;
    }
    multiply_adds = (params - (double)c->vocab * c->width) * (double)prompt;
    printf("prefill of %zu: %.1f tokens/s, %.1f G multiply-adds/s\n", prompt, (double)prompt / seconds, multiply_adds / seconds / 1e9);
    for (size_t i = 0; i < sequence_count; i++) {
        double best = 0;
        for (int k = 0; k < 2; k++) {
            double prefill = (double)run(e, sequences[i], 16, 1) / 1e6;
            double all = (double)run(e, sequences[i], 16, (int64_t)generate + 1) / 1e6;
            double rate = (double)generate * sequences[i] / (all - prefill);
            if (rate > best) best = rate;
        }
        printf("decode, %u sequences: %.1f tokens/s, %.2f of bandwidth\n", sequences[i], best, best / sequences[i] * bytes / limit);
    }
    engine_free(e);
    return 0;
}
