/*
 * Training speed of a GPT-2 shape, beside the machine's limit: `bench_train --shape layers,width,heads,context,vocab --batch N [--threads N] [--steps N]`. The limit is our
 * own matrix product on the shape's MLP, measured in the same run; the peer (torch, 1,017 tokens per CPU-second at 6,384,6,256,4096 batch 16) is measured elsewhere.
 */
#include <stdio.h>

#include "train/bench.h"

int main(int argc, char **argv) {
    struct train_bench_options o = {.layers = 6, .width = 384, .heads = 6, .context = 256, .vocab = 4096, .batch = 16, .steps = 5};
    struct error err = {0};
    for (int i = 1; i < argc; i += 2) {
        struct span value = span_str(i + 1 < argc ? argv[i + 1] : "");
        uint64_t number = 0;
        int r = span_to_u64(value, &number);
        if (strcmp(argv[i], "--shape") == 0) r = train_bench_shape(value, &o, &err);
        else if (strcmp(argv[i], "--batch") == 0 && !r && number <= UINT32_MAX) o.batch = (uint32_t)number;
        else if (strcmp(argv[i], "--threads") == 0 && !r && number <= UINT32_MAX) o.threads = (uint32_t)number;
        else if (strcmp(argv[i], "--steps") == 0 && !r && number <= UINT32_MAX) o.steps = (uint32_t)number;
        else r = E_INVALID;
        if (r) {
            fprintf(stderr, "usage: bench_train [--shape layers,width,heads,context,vocab] [--batch N] [--threads N] [--steps N]\n%s\n", err.message);
            return 2;
        }
    }
    struct train_bench_result result;
    if (train_bench(&o, &result, &err)) {
        fprintf(stderr, "bench_train: %s\n", err.message);
        return 1;
    }
    printf("{\"tokens_per_s\":%.1f,\"peak_rss_bytes\":%llu,\"tokens_per_cpu_s\":%.1f,\"gflops_per_core\":%.1f,\"gflops_peak\":%.1f,\"share\":%.3f,\"parameters\":%llu,\"loss\":[%.4f,%.4f]}\n",
           result.tokens_per_s, (unsigned long long)result.peak_rss_bytes, result.tokens_per_cpu_s, result.flops_per_cpu_s / 1e9, result.peak_flops / 1e9,
           result.flops_per_cpu_s / result.peak_flops, (unsigned long long)result.parameters, result.loss_first, result.loss_last);
    return 0;
}
