/*
 * bench_encoder [MODEL-DIR [THREADS [TOKENS [TEXTS [WEIGHTS]]]]]
 * Texts per second of an encoder on random ids, MiniLM's shape where no model is named (6 layers, 384 wide, 12 heads), 128 tokens and 64 texts a call, weights as they are stored (f32, bf16, f16, q8: packed as that); beside it the multiply-adds per second
 * that this comes to, by the wall clock and by CPU time: on a busy machine only the second means something.
 */
#include <stdio.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/random.h"
#include "engine/encoder.h"

enum { LAYERS = 6, WIDTH = 384, HEADS = 12, FFN = 1536, CONTEXT = 512, VOCAB = 30522, ROUNDS = 5 };

static int random_model(struct encoder **e, const struct encoder_options *o, struct error *err) {
    struct model_dir dir = {.tokenizer = NULL};
    struct random r;
    model_config_default(&dir.config, model_arch_find(SPAN("bert")), LAYERS, WIDTH, HEADS, 0, CONTEXT, VOCAB);
    dir.config.ffn = FFN;
    int result = model_weights_new(&dir.weights, &dir.config, err);
    random_seed(&r, 1);
    for (size_t i = 0; result == 0 && i < dir.weights.flat_len; i++) dir.weights.flat[i] = (float)random_f64(&r) * 0.1f - 0.05f;
    return result == 0 ? encoder_new_from(e, &dir, NULL, o, err) : result;
}

static uint64_t argument(int argc, char **argv, int at, uint64_t otherwise) {
    uint64_t n;
    return argc > at && span_to_u64(span_str(argv[at]), &n) == 0 && n > 0 && n <= 1 << 16 ? n : otherwise;
}

static double cpu_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    struct encoder *e = NULL;
    struct error err;
    struct random r;
    struct encoder_options o = {.threads = argc > 2 ? (int)argument(argc, argv, 2, 1) : 0};
    size_t tokens = argument(argc, argv, 3, 128), texts = argument(argc, argv, 4, 64);
    int result = argc > 5 ? packed_kind_find(argv[5], &o.weights, &err) : 0;
    if (result == 0) result = argc > 1 && argv[1][0] ? encoder_new(&e, argv[1], &o, &err) : random_model(&e, &o, &err);
    if (result != 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    const struct model_config *c = encoder_model(e);
    struct encoder_text *t = mem_calloc(texts, sizeof *t);
    uint32_t *ids = mem_calloc(texts * tokens, sizeof *ids);
    float *out = mem_calloc(texts * c->width, sizeof *out);
    if (!t || !ids || !out) return 1;
    random_seed(&r, 7);
    for (size_t i = 0; i < texts * tokens; i++) ids[i] = (uint32_t)random_below(&r, c->vocab);
    for (size_t i = 0; i < texts; i++) {
        t[i] = (struct encoder_text){.ids = ids + i * tokens, .count = tokens, .normalize = true, .out = out + i * c->width};
        if (encoder_check(e, &t[i], &err) != 0) {
            fprintf(stderr, "%s\n", err.message);
            return 1;
        }
    }
    double products = (double)c->layers * c->width * (4.0 * c->width + (c->arch->mlp == MODEL_MLP_GATED ? 3.0 : 2.0) * c->ffn + 2.0 * (double)tokens) * (double)tokens * (double)texts;
    double wall = 1e9, cpu = 1e9;
    encoder_run(e, t, texts);
    for (int i = 0; i < ROUNDS; i++) {
        int64_t from = clock_mono_us();
        double cpu_from = cpu_seconds(), took;
        encoder_run(e, t, texts);
        took = cpu_seconds() - cpu_from;
        cpu = took < cpu ? took : cpu;
        took = (double)(clock_mono_us() - from) / 1e6;
        wall = took < wall ? took : wall;
    }
    printf("{\"tokens\":%zu,\"texts\":%zu,\"texts_per_s\":%.1f,\"texts_per_cpu_s\":%.1f,\"gmac_per_s\":%.1f,\"gmac_per_cpu_s\":%.1f}\n", tokens, texts, (double)texts / wall, (double)texts / cpu, products / wall / 1e9,
           products / cpu / 1e9);
    mem_free(t);
    mem_free(ids);
    mem_free(out);
    encoder_free(e);
    return 0;
}
