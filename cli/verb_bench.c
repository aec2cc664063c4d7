/* bench: the speed of serving and of training on this machine, as JSON. */
#include <pthread.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/pool.h"
#include "base/random.h"
#include "engine/engine.h"
#include "local.h"
#include "train/bench.h"

enum { SEQUENCES_MAX = 64, SEQUENCE_COUNT_MAX = 1024, REPEATS = 3, DECODE_PROMPT = 16, RESULT_MAX = 1 << 16 };

/* ---- serve ---- */

/* Seconds for n random requests of so many prompt and answer tokens, run together. */
static int timed(struct engine *e, size_t n, size_t prompt, int64_t generate, double *seconds, struct error *err) {
    struct engine_request *requests = mem_calloc(n, sizeof *requests);
    struct engine_result *results = mem_calloc(n, sizeof *results);
    uint32_t *ids = mem_calloc(n * prompt, sizeof *ids);
    struct random random;
    int r = requests && results && ids ? 0 : error_set(err, E_NOMEM, "no memory for %zu sequences", n);
    random_seed(&random, 7);
    for (size_t i = 0; r == 0 && i < n * prompt; i++) ids[i] = (uint32_t)random_below(&random, engine_model(e)->vocab);
    for (size_t i = 0; r == 0 && i < n; i++) {
        engine_request_init(&requests[i]);
        requests[i].tokens = ids + i * prompt;
        requests[i].token_count = prompt;
        requests[i].tokens_max = generate;
        requests[i].ignore_eos = true;
        requests[i].sampling.temperature = 0;
    }
    int64_t from = clock_mono_us();
    if (r == 0) r = engine_generate_batch(e, requests, n, results, err);
    double took = (double)(clock_mono_us() - from) / 1e6;
    for (size_t i = 0; results && i < n; i++) {
        if (r == 0 && results[i].error.code != 0) {
            r = results[i].error.code;
            if (err) *err = results[i].error;
        }
        engine_result_fini(&results[i]);
    }
    mem_free(requests);
    mem_free(results);
    mem_free(ids);
    if (r == 0) *seconds = took;
    return r;
}

/* The best of some runs: what the machine can do, not what else ran on it. */
static int prefill_rate(struct engine *e, size_t sequences, size_t prompt, double *rate, struct error *err) {
    *rate = 0;
    for (int i = 0; i < REPEATS; i++) {
        double s;
        int r = timed(e, sequences, prompt, 1, &s, err);
        if (r != 0) return r;
        if ((double)(prompt * sequences) / s > *rate) *rate = (double)(prompt * sequences) / s;
    }
    return 0;
}

/* A decode is timed inside its run, by the tokens as they come: from when every sequence has its first to when the first has its last. */
struct decode {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    size_t n, begun, done;
    int64_t from_us, to_us;
    uint64_t tokens;
    struct error error;
};
struct decode_sequence {
    struct decode *decode;
    bool begun;
};

static void on_event(void *arg, const struct engine_event *event) {
    struct decode_sequence *s = arg;
    struct decode *d = s->decode;
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&d->lock);
    if (d->from_us && !d->to_us) d->tokens += event->token_count;
    if (!s->begun && event->token_count) {
        s->begun = true;
        if (++d->begun == d->n) d->from_us = now;
    }
    if (event->finish != ENGINE_RUNNING) {
        if (!d->to_us) d->to_us = now;
        if (event->error && !d->error.code) d->error = *event->error;
        if (++d->done == d->n) pthread_cond_signal(&d->ended);
    }
    pthread_mutex_unlock(&d->lock);
}

static int decode_once(struct engine *e, size_t n, int64_t generate, double *rate, struct error *err) {
    uint32_t ids[DECODE_PROMPT];
    struct decode d = {.lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER, .n = n};
    struct decode_sequence *sequences = mem_calloc(n, sizeof *sequences);
    struct random random;
    size_t submitted = 0;
    int r = sequences ? 0 : error_set(err, E_NOMEM, "no memory for %zu sequences", n);
    random_seed(&random, 7);
    for (; r == 0 && submitted < n; submitted += r == 0) {
        struct engine_request request;
        for (size_t i = 0; i < DECODE_PROMPT; i++) ids[i] = (uint32_t)random_below(&random, engine_model(e)->vocab);
        engine_request_init(&request);
        request.tokens = ids;
        request.token_count = DECODE_PROMPT;
        request.tokens_max = generate;
        request.ignore_eos = true;
        request.sampling.temperature = 0;
        sequences[submitted].decode = &d;
        r = engine_submit(e, &request, &sequences[submitted], on_event, &(uint64_t){0}, err);
    }
    pthread_mutex_lock(&d.lock);
    while (d.done < submitted) {
        if (r != 0) d.n = submitted;
        pthread_cond_wait(&d.ended, &d.lock);
    }
    pthread_mutex_unlock(&d.lock);
    if (r == 0 && d.error.code) {
        r = d.error.code;
        if (err) *err = d.error;
    }
    if (r == 0 && !(d.from_us && d.to_us > d.from_us)) r = error_set(err, E_STATE, "a sequence ended before the last had begun: more --gen-tokens are needed");
    if (r == 0) *rate = (double)d.tokens * 1e6 / (double)(d.to_us - d.from_us);
    mem_free(sequences);
    return r;
}

static int decode_rate(struct engine *e, size_t sequences, int64_t generate, double *rate, struct error *err) {
    *rate = 0;
    for (int i = 0; i < REPEATS; i++) {
        double now;
        int r = decode_once(e, sequences, generate, &now, err);
        if (r != 0) return r;
        if (now > *rate) *rate = now;
    }
    return 0;
}

static void write_rate(struct json_out *w, const char *test, uint32_t sequences, double rate) {
    json_object(w);
    json_str(w, "test", test);
    json_num(w, "sequences", sequences);
    json_flt(w, "tokens_per_s", rate);
    json_object_end(w);
}

static int parse_sequences(const char *text, uint32_t *list, size_t *n, struct error *err) {
    struct span rest = span_str(text), one;
    *n = 0;
    while (span_cut(&rest, ',', &one)) {
        uint64_t v = 0;
        if (span_to_u64(span_trim(one), &v) != 0 || v < 1 || v > SEQUENCE_COUNT_MAX) return error_set(err, E_INVALID, "--sequences: \"%.*s\" is no number from 1 to %d", SPAN_ARG(span_sub(one, 0, 40)), SEQUENCE_COUNT_MAX);
        if (*n == SEQUENCES_MAX) return error_set(err, E_INVALID, "--sequences: more than %d numbers", SEQUENCES_MAX);
        list[(*n)++] = (uint32_t)v;
    }
    return *n ? 0 : error_set(err, E_INVALID, "--sequences: a number is needed");
}

static int run_serve(struct cli *c) {
    struct engine_options o = {.threads = (int)cli_int(c, "--threads", 0)};
    struct error err = {0};
    struct engine *e = NULL;
    struct buf out;
    struct json_out w;
    uint32_t list[SEQUENCES_MAX];
    size_t n = 0, prompt = (size_t)cli_int(c, "--prompt-tokens", 512);
    int64_t generate = cli_int(c, "--gen-tokens", 128);
    const char *model = cli_text(c, "--model"), *sequences = cli_text(c, "--sequences");
    if (!model) return cli_usage(c, "--model is needed: a model directory");
    if (cli_text(c, "--weights") && packed_kind_find(cli_text(c, "--weights"), &o.weights, &err) != 0) return cli_usage(c, "--weights: %s", err.message);
    if (parse_sequences(sequences ? sequences : "1,4,8,16", list, &n, &err) != 0) return cli_usage(c, "%s", err.message);
    for (size_t i = 0; i < n; i++)
        if (list[i] > o.sequences_max) o.sequences_max = list[i];
    o.queue_max = ENGINE_QUEUE_MIN + o.sequences_max;
    buf_init(&out, RESULT_MAX);
    json_begin(&w, &out);
    json_array(&w);
    int r = local_model(model, &err);
    if (r == 0) r = engine_new(&e, model, &o, &err);
    if (r == 0 && (prompt + 1 > engine_context(e) || DECODE_PROMPT + (size_t)generate + 1 > engine_context(e)))
        r = error_set(&err, E_INVALID, "the context of %s has %u tokens: --prompt-tokens and --gen-tokens + %d must fit it", model, engine_context(e), DECODE_PROMPT + 1);
    double rate = 0;
    if (r == 0) r = timed(e, 1, DECODE_PROMPT, 8, &rate, &err); /* pages come in, clocks go up */
    for (size_t i = 0; r == 0 && i < n; i++)
        if ((r = prefill_rate(e, list[i], prompt, &rate, &err)) == 0) write_rate(&w, "prefill", list[i], rate);
    for (size_t i = 0; r == 0 && i < n; i++)
        if ((r = decode_rate(e, list[i], generate, &rate, &err)) == 0) write_rate(&w, "decode", list[i], rate);
    json_array_end(&w);
    (void)buf_append_char(&out, '\n');
    engine_free(e);
    int code = r != 0 ? cli_fail(c, &err) : cli_print(c, buf_span(&out));
    buf_fini(&out);
    return code;
}

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
static const struct cli_option SERVE_OPTIONS[] = {
    {.name = "--model", .kind = CLI_DIR, .value = "DIR|FILE", .doc = "The model"},
    THREADS_OPTION,
    {.name = "--prompt-tokens", .kind = CLI_INT, .value = "N", .min = 1, .max = ENGINE_TOKENS_MAX, .doc = "Of a prefill; 512"},
    {.name = "--gen-tokens", .kind = CLI_INT, .value = "N", .min = 1, .max = ENGINE_TOKENS_MAX, .doc = "Of a decode; 128"},
    {.name = "--sequences", .kind = CLI_TEXT, .value = "N,N,...", .doc = "Run together; 1,4,8,16"},
    {.name = "--weights", .kind = CLI_TEXT, .value = "stored|f32|bf16|f16|q8|q4|q4m", .doc = "As the model has them, or turned into that kind when loaded; stored"},
    {0},
};
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
    {.name = "bench serve", .operands = "", .summary = "Tokens per second of prefill and decode", .options = SERVE_OPTIONS, .json = true, .run = run_serve,
     .help = "Random prompts, greedy, the best of three runs. A decode is timed behind short prompts, without their prefill. Prints JSON in any case."},
    {.name = "bench train", .operands = "", .summary = "Tokens per second of training", .options = TRAIN_OPTIONS, .json = true, .run = run_train,
     .help = "Forward, backward, clipping at 1 and AdamW on random tokens; nothing is written. Prints JSON in any case."},
    {0},
};
