/* bench train: the speed of training on this machine, as JSON. */
#include <stdio.h>

#include "base/json.h"
#include "base/pool.h"
#include "local.h"
#include "train/bench.h"

enum { RESULT_MAX = 1 << 16 };

/* ---- train ---- */

static int run_train(struct cli *c) {
    static const char *const later[] = {"--lora", "--kind", NULL};
    struct train_bench_options o = {.batch = (uint32_t)cli_int(c, "--batch", 16), .threads = (uint32_t)cli_int(c, "--threads", 0), .steps = (uint32_t)cli_int(c, "--steps", 5)};
    struct train_bench_result result;
    struct error err = {0};
    struct buf out;
    struct json_out w;
    const char *shape = cli_text(c, "--shape"), *precision = cli_text(c, "--precision");
    int code = local_refuse(c, later);
    if (code != CLI_DONE) return code;
    if (precision && strcmp(precision, "f32") != 0) return cli_failf(c, "--precision %s is not built yet", precision);
    if (!shape) return cli_usage(c, "--shape is needed: layers,width,heads,context,vocab");
    if (train_bench_shape(span_str(shape), &o, &err) != 0) return cli_usage(c, "%s", err.message);
    if (train_bench(&o, &result, &err) != 0) return cli_fail(c, &err);
    buf_init(&out, RESULT_MAX);
    json_begin(&w, &out);
    json_object(&w);
    json_flt(&w, "tokens_per_s", result.tokens_per_s);
    json_num(&w, "peak_rss_bytes", (int64_t)result.peak_rss_bytes);
    json_flt(&w, "tokens_per_cpu_s", result.tokens_per_cpu_s);
    json_flt(&w, "share_of_peak", result.peak_flops > 0 ? result.flops_per_cpu_s / result.peak_flops : 0);
    json_num(&w, "parameters", (int64_t)result.parameters);
    json_object_end(&w);
    (void)buf_append_char(&out, '\n');
    code = cli_print(c, buf_span(&out));
    buf_fini(&out);
    return code;
}

#define THREADS_OPTION {.name = "--threads", .kind = CLI_INT, .value = "N", .min = 0, .max = POOL_THREADS_MAX, .doc = "0: all CPUs"}
static const struct cli_option TRAIN_OPTIONS[] = {
    {.name = "--shape", .kind = CLI_TEXT, .value = "LAYERS,WIDTH,HEADS,CONTEXT,VOCAB", .doc = "Of a GPT-2: learned positions, biases, tanh-GELU, tied head"},
    {.name = "--batch", .kind = CLI_INT, .value = "N", .min = 1, .max = 65536, .doc = "Sequences of CONTEXT tokens a step; 16"},
    {.name = "--precision", .kind = CLI_TEXT, .value = "f32|bf16", .doc = "f32; bf16 is not built yet"},
    {.name = "--lora", .kind = CLI_INT, .value = "R", .min = 1, .max = 65536, .doc = "Not built yet"},
    {.name = "--kind", .kind = CLI_TEXT, .value = "unet|vae|dcgan|tvae|ctgan", .doc = "Not built yet"},
    THREADS_OPTION,
    {.name = "--steps", .kind = CLI_INT, .value = "N", .min = 1, .max = 1e6, .doc = "That are timed; 5"},
    {0},
};
const struct verb VERBS_BENCH[] = {
    {.name = "bench train", .operands = "", .summary = "Tokens per second of training", .options = TRAIN_OPTIONS, .json = true, .run = run_train,
     .help = "Forward, backward, clipping at 1 and AdamW on random tokens; nothing is written. Prints JSON in any case."},
    {0},
};
