/*
 * bench_engine [--model DIR | --shape layers,width,heads,kv_heads,ffn,vocab] [--weights KIND] [--activations int8|int16] [--kv f32|f16|int8] [--threads N] [--prompt N] [--generate N] [--before N] [--sequences 1,4,16]
 * Prefill and decode (behind so many tokens; 16) in tokens/s through the whole engine, random prompts, greedy; beside each decode figure the share of the read bandwidth that the
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
#include "tensor/peak.h"

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

/* Microseconds for n requests of so many prompt and answer tokens, run together. The engine keeps keys and values: prompts of the same number come from there, when they come again. */
static int64_t run(struct engine *e, uint64_t number, size_t n, size_t prompt, int64_t generate) {
    struct engine_request *requests = mem_calloc(n, sizeof *requests);
    struct engine_result *results = mem_calloc(n, sizeof *results);
    uint32_t *ids = mem_calloc(n * prompt, sizeof *ids);
    struct random r;
    random_seed2(&r, 7, number);
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
    size_t sequence_count = 4, prompt = 512, generate = 128, before = 16;
    struct engine_options o = {0};
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--model") == 0) model = value;
        else if (strcmp(argv[i], "--shape") == 0 && numbers(value, shape, 6) == 6) continue;
        else if (strcmp(argv[i], "--weights") == 0) {
            if (packed_kind_find(value, &o.weights, NULL) != 0) return 2;
        }
        else if (strcmp(argv[i], "--sequences") == 0) sequence_count = numbers(value, sequences, 16);
        else if (strcmp(argv[i], "--activations") == 0) {
            if (packed_activations_find(value, &o.activations, NULL) != 0) return 2;
        }
        else if (strcmp(argv[i], "--kv") == 0) {
            if (kv_type_find(value, &o.kv_type, NULL) != 0) return 2;
        }
        else if (numbers(value, &number, 1) == 1 && strcmp(argv[i], "--threads") == 0) o.threads = (int)number;
        else if (numbers(value, &number, 1) == 1 && strcmp(argv[i], "--prompt") == 0) prompt = number;
        else if (numbers(value, &number, 1) == 1 && strcmp(argv[i], "--generate") == 0) generate = number;
        else if (numbers(value, &number, 1) == 1 && number > 0 && strcmp(argv[i], "--before") == 0) before = number;
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
    struct engine_weights weights;
    engine_get_weights(e, &weights);
    struct pool *pool = pool_new(o.threads);
    double bytes = (double)weights.size, limit = peak_read_bandwidth(pool), peak = peak_multiply_adds(pool, weights.kind);
    pool_free(pool);
    printf("load and repack %.2f s, %.0f MB a step, read bandwidth %.1f GB/s, peak %.1f G multiply-adds/s, kernels %s\n", load_s, bytes / 1e6, limit / 1e9,
           peak / 1e9, quant_kernels()->name);
    if ((prompt > before ? prompt : before) + generate + 1 > engine_context(e)) {
        fprintf(stderr, "the context has %u tokens\n", engine_context(e));
        return 2;
    }
    uint64_t runs = 0;
    run(e, runs++, 1, 32, 8);
    double multiply_adds = 0, seconds = 0;
    for (int i = 0; i < 3; i++) {
        double s = (double)run(e, runs++, 1, prompt, 1) / 1e6;
        if (i == 0 || s < seconds) seconds = s;
    }
    multiply_adds = (double)weights.multiply_adds * (double)prompt;
    printf("prefill of %zu: %.1f tokens/s, %.1f G multiply-adds/s\n", prompt, (double)prompt / seconds, multiply_adds / seconds / 1e9);
    for (size_t i = 0; i < sequence_count; i++) {
        double best = 0;
        for (int k = 0; k < 2; k++) {
            run(e, ++runs, sequences[i], before, 1); /* so that all of them begin to decode at once */
            double first = (double)run(e, runs, sequences[i], before, 1) / 1e6, all = (double)run(e, runs, sequences[i], before, (int64_t)generate + 1) / 1e6;
            double rate = (double)generate * sequences[i] / (all - first);
            if (rate > best) best = rate;
        }
        printf("decode, %u sequences: %.1f tokens/s, %.2f of bandwidth\n", sequences[i], best, best / sequences[i] * bytes / limit);
    }
    engine_free(e);
    return 0;
}
