#include "train/bench.h"

#include <sys/resource.h>
#include <time.h>

#include "base/alloc.h"
#include "base/random.h"
#include "model/model_dir.h"
#include "nn/optimizer.h"
#include "tensor/gemm.h"
#include "train/batch.h"

int train_bench_shape(struct span text, struct train_bench_options *o, struct error *err) {
    uint32_t *const to[] = {&o->layers, &o->width, &o->heads, &o->context, &o->vocab};
    struct span rest = text, part;
    for (size_t i = 0; i < 5; i++) {
        uint64_t v;
        if (!span_cut(&rest, ',', &part) || span_to_u64(span_trim(part), &v) || v == 0 || v > UINT32_MAX)
            return error_set_param(err, E_INVALID, "shape", "--shape must be layers,width,heads,context,vocab: five numbers above 0");
        *to[i] = (uint32_t)v;
    }
    return rest.len ? error_set_param(err, E_INVALID, "shape", "--shape has more than five numbers") : 0;
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static double wall_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The best of several tries at the MLP's product: what a step could reach if it were nothing else. */
static double measure_peak(const struct train_bench_options *o) {
    size_t m = 512, n = 4 * (size_t)o->width, k = o->width;
    float *a = mem_alloc_aligned(m * k * sizeof *a), *b = mem_alloc_aligned(n * k * sizeof *b), *c = mem_alloc_aligned(m * n * sizeof *c);
    double best = 0;
    if (a && b && c) {
        for (size_t i = 0; i < m * k; i++) a[i] = (float)(i % 7) - 3;
        for (size_t i = 0; i < n * k; i++) b[i] = (float)(i % 5) - 2;
        double flops = 2.0 * (double)m * (double)n * (double)k;
        int rounds = (int)(2e9 / flops) + 1;
        for (int try = 0; try < 5; try++) {
            double began = cpu_seconds();
            for (int i = 0; i < rounds; i++) gemm_nt(m, n, k, 1, a, k, b, k, 0, c, n);
            double rate = flops * rounds / (cpu_seconds() - began);
            if (rate > best) best = rate;
        }
    }
    mem_free(a);
    mem_free(b);
    mem_free(c);
    return best;
}

int train_bench(const struct train_bench_options *o, struct train_bench_result *result, struct error *err) {
    struct model_config config;
    struct model_weights w = {0};
    struct nn_decoder *decoder = NULL;
    struct nn_adamw *optimizer = NULL;
    struct batch *batch = NULL;
    struct pool *pool = NULL;
    uint32_t *ids = NULL;
    struct batch_row *rows = NULL;
    if (o->batch == 0 || o->batch > RECIPE_SEQUENCES_MAX || o->steps == 0) return error_set(err, E_INVALID, "--batch and --steps must be above 0");
    model_config_default(&config, model_arch_find(SPAN("gpt2")), o->layers, o->width, o->heads, 0, o->context, o->vocab);
    config.tie_embeddings = true;
    int r = model_config_check(&config, err);
    if (!r) r = model_weights_new(&w, &config, err);
    if (r) return r;
    nn_decoder_init(&config, w.params, w.param_count, 1, w.flat);
    const struct nn_adamw_options adamw = {0.9, 0.95, 1e-8, 0.1};
    r = nn_decoder_new(&decoder, &config, w.params, w.param_count, o->context, err);
    if (!r) r = nn_adamw_new(&optimizer, &adamw, w.params, w.param_count, w.flat_len, err);
    if (!r && !(pool = pool_new((int)o->threads))) r = error_set(err, E_NOMEM, "no threads");
    if (!r) r = batch_new(&batch, decoder, w.flat, w.flat_len, (uint32_t)w.param_count, pool, (size_t)64 << 30, err);
    size_t each = (size_t)o->context + 1;
    rows = mem_calloc(o->batch, sizeof *rows);
    ids = mem_calloc(each * o->batch, sizeof *ids);
    if (!r && (!rows || !ids)) r = error_set(err, E_NOMEM, "no memory for the batch");
    if (r) goto out;
    struct random random;
    random_seed(&random, 1);
    for (size_t i = 0; i < each * o->batch; i++) ids[i] = (uint32_t)random_below(&random, o->vocab);
    for (uint32_t i = 0; i < o->batch; i++)
        rows[i] = (struct batch_row){.sequence_count = 1, .sequences = {{.ids = ids + i * each, .count = o->context}}};

    *result = (struct train_bench_result){.parameters = model_config_param_count(&config)};
    double wall = 0, cpu = 0;
    for (uint32_t step = 1; step <= o->steps + 1; step++) {
        struct batch_result got;
        const float *gradients;
        if (step == 2) wall = wall_seconds(), cpu = cpu_seconds();
        if ((r = batch_gradients(batch, rows, o->batch, NULL, 1, &got, &gradients, err))) goto out;
        double norm = nn_grad_norm(optimizer, pool, gradients);
        nn_adamw_step(optimizer, pool, w.flat, gradients, 3e-4, nn_clip_scale(norm, 1), step);
        if (step == 1) result->loss_first = got.loss;
        result->loss_last = got.loss;
    }
    wall = wall_seconds() - wall;
    cpu = cpu_seconds() - cpu;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double tokens = (double)o->steps * o->batch * o->context;
    result->tokens_per_s = tokens / wall;
    result->tokens_per_cpu_s = tokens / cpu;
    result->flops_per_cpu_s = tokens * 3 * nn_decoder_flops(decoder, o->context) / cpu; /* backward is twice the forward pass */
    result->peak_rss_bytes = (uint64_t)usage.ru_maxrss * 1024;
    result->peak_flops = measure_peak(o);
out:
    mem_free(rows);
    mem_free(ids);
    batch_free(batch);
    if (pool) pool_free(pool);
    nn_adamw_free(optimizer);
    nn_decoder_free(decoder);
    model_weights_fini(&w);
    return r;
}
