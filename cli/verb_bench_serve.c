/* bench serve: the speed of prefill and decode on this machine, beside what its memory and arithmetic allow, and beside llama.cpp where its program is given. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/pool.h"
#include "engine/bench.h"
#include "engine/scheduler.h"
#include "local.h"
#include "tensor/peak.h"

enum {
    SEQUENCES_MAX = 64,        /* numbers in --sequences */
    SEQUENCE_COUNT_MAX = 1024, /* each of them */
    RESULT_MAX = 1 << 16,
    PEER_OUTPUT_MAX = 1 << 20,
};

struct row {
    const char *test;
    uint32_t sequences;
    struct engine_bench_result ours;
    double limit, peer; /* tokens per second; 0: not known */
};

struct machine {
    double bandwidth, multiply_adds; /* per second, of all threads */
};

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

/* --- limits --- */

static void measure(int threads, enum packed_kind kind, struct machine *m) {
    struct pool *pool = pool_new(threads);
    if (!pool) return;
    m->bandwidth = peak_read_bandwidth(pool);
    m->multiply_adds = peak_multiply_adds(pool, kind);
    pool_free(pool);
}

/* A step of n rows reads every matrix once and multiplies each of its weights with each row: whichever of the two takes longer. */
static void set_limit(struct row *row, const struct machine *m, const struct engine_weights *w) {
    if (m->bandwidth <= 0 || m->multiply_adds <= 0) return;
    if (strcmp(row->test, "prefill") == 0) {
        row->limit = m->multiply_adds / (double)w->multiply_adds;
        return;
    }
    double read_s = (double)w->size / m->bandwidth, multiply_s = row->sequences * (double)(w->multiply_adds + w->multiply_adds_logits) / m->multiply_adds;
    row->limit = row->sequences / (read_s > multiply_s ? read_s : multiply_s);
}

/* --- the peer --- */

/* Runs a program and takes what it prints; its messages are dropped. */
static int run_program(char *const *argv, struct buf *out, struct error *err) {
    int ends[2], status = 0;
    if (pipe2(ends, O_CLOEXEC) != 0) return error_set(err, E_IO, "no pipe for %s: %s", argv[0], strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0 || dup2(null, 0) < 0 || dup2(ends[1], 1) < 0 || dup2(null, 2) < 0) _exit(127);
        execv(argv[0], argv);
        _exit(127);
    }
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return error_set(err, E_IO, "%s cannot be started: %s", argv[0], strerror(errno));
    }
    char piece[4096];
    ssize_t got;
    while ((got = read(ends[0], piece, sizeof piece)) > 0 || (got < 0 && errno == EINTR))
        if (got > 0) (void)buf_append(out, piece, (size_t)got);
    close(ends[0]);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || out->failed) return error_set(err, E_IO, "%s on this model failed", argv[0]);
    return 0;
}

/* llama-batched-bench for all the rows of a test at once; each row keeps its best. */
static int run_peer(const char *program, const char *model, int threads, size_t prompt, size_t generate, struct row *rows, size_t n, struct error *err) {
    char thread_text[16], context[32], prompt_text[24], generate_text[24], list[SEQUENCES_MAX * 6] = "";
    size_t used = 0, most = 0;
    bool prefill = strcmp(rows[0].test, "prefill") == 0;
    for (size_t i = 0; i < n; i++) {
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%u", i ? "," : "", rows[i].sequences);
        if (rows[i].sequences > most) most = rows[i].sequences;
    }
    (void)snprintf(thread_text, sizeof thread_text, "%d", threads > 0 ? threads : cpu_count());
    (void)snprintf(context, sizeof context, "%zu", most * (prompt + generate + 8) + 64);
    (void)snprintf(prompt_text, sizeof prompt_text, "%zu", prompt);
    (void)snprintf(generate_text, sizeof generate_text, "%zu", generate);
    const char *const argv[] = {program, "-m", model, "-t", thread_text, "-tb", thread_text, "-c", context, "-b", "2048", "-ub", "512", "-fa", "on",
                                "-npp", prompt_text, "-ntg", generate_text, "-npl", list, "--output-format", "jsonl", NULL};
    struct buf out;
    buf_init(&out, PEER_OUTPUT_MAX);
    int r = run_program((char *const *)(uintptr_t)argv, &out, err);
    struct span rest = buf_span(&out), line;
    while (r == 0 && span_cut(&rest, '\n', &line)) {
        struct json *json = NULL;
        if (!span_starts(line, SPAN("{")) || json_parse(line, &json, NULL) != 0) continue;
        double rate = json_real(json_get(json, prefill ? "speed_pp" : "speed_tg"), 0);
        for (size_t i = 0; i < n; i++)
            if (json_int(json_get(json, "pl"), 0) == rows[i].sequences && rate > rows[i].peer) rows[i].peer = rate;
        json_free(json);
    }
    buf_fini(&out);
    return r;
}

/* --- what is printed --- */

static void write_json(struct buf *out, const struct row *rows, size_t n) {
    struct json_out w;
    json_begin(&w, out);
    json_array(&w);
    for (size_t i = 0; i < n; i++) {
        const struct engine_bench_result *o = &rows[i].ours;
        json_object(&w);
        json_str(&w, "test", rows[i].test);
        json_num(&w, "sequences", rows[i].sequences);
        json_flt(&w, "tokens_per_s", o->tokens_per_s);
        json_flt(&w, "cpu_s_per_token", o->cpu_s_per_token);
        json_flt(&w, "ttft_p50_ms", o->ttft_p50_ms);
        json_flt(&w, "ttft_p99_ms", o->ttft_p99_ms);
        if (o->inter_token_p50_ms > 0) {
            json_flt(&w, "inter_token_p50_ms", o->inter_token_p50_ms);
            json_flt(&w, "inter_token_p99_ms", o->inter_token_p99_ms);
        }
        if (rows[i].limit > 0) json_flt(&w, "limit_tokens_per_s", rows[i].limit);
        if (rows[i].peer > 0) json_flt(&w, "llama_cpp_tokens_per_s", rows[i].peer);
        json_object_end(&w);
    }
    json_array_end(&w);
    (void)buf_append_char(out, '\n');
}

static void write_table(struct buf *out, const struct row *rows, size_t n) {
    (void)buf_printf(out, "test     sequences  tokens/s  of limit  CPU ms/token  TTFT p50, p99 ms   between tokens p50, p99 ms  llama.cpp  ratio\n");
    for (size_t i = 0; i < n; i++) {
        const struct engine_bench_result *o = &rows[i].ours;
        (void)buf_printf(out, "%-8s %9u  %8.1f  ", rows[i].test, rows[i].sequences, o->tokens_per_s);
        if (rows[i].limit > 0) (void)buf_printf(out, "%8.2f", o->tokens_per_s / rows[i].limit);
        else (void)buf_printf(out, "%8s", "-");
        (void)buf_printf(out, "  %12.2f  %8.1f %8.1f  ", o->cpu_s_per_token * 1e3, o->ttft_p50_ms, o->ttft_p99_ms);
        if (o->inter_token_p50_ms > 0) (void)buf_printf(out, "%13.2f %12.2f", o->inter_token_p50_ms, o->inter_token_p99_ms);
        else (void)buf_printf(out, "%13s %12s", "-", "-");
        if (rows[i].peer > 0) (void)buf_printf(out, "  %9.1f  %5.2f", rows[i].peer, o->tokens_per_s / rows[i].peer);
        (void)buf_append_char(out, '\n');
    }
}

/* Of this process: what it holds now. 0 where the system does not say. */
static size_t resident_bytes(void) {
    struct buf text;
    unsigned long all = 0, resident = 0;
    buf_init(&text, 4096);
    if (file_read("/proc/self/statm", &text, NULL) != 0 || !buf_cstr(&text) || sscanf(buf_cstr(&text), "%lu %lu", &all, &resident) != 2) resident = 0;
    buf_fini(&text);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

static void write_draft(struct buf *out, struct engine *e) {
    struct engine_stats s;
    engine_get_stats(e, &s);
    (void)buf_printf(out, "draft model: %llu of %llu guesses were right, beside %llu tokens\n", (unsigned long long)s.drafted_right, (unsigned long long)s.drafted,
                     (unsigned long long)s.completion_tokens);
}

static int run(struct cli *c) {
    struct engine_options o = {.threads = (int)cli_int(c, "--threads", 0)};
    struct error err = {0};
    struct engine *e = NULL;
    struct buf out;
    uint32_t list[SEQUENCES_MAX];
    struct row rows[2 * SEQUENCES_MAX] = {0};
    struct machine machine = {0};
    struct engine_weights weights = {0};
    size_t n = 0, prompt = (size_t)cli_int(c, "--prompt-tokens", 512), generate = (size_t)cli_int(c, "--gen-tokens", 128);
    const char *model = cli_text(c, "--model"), *sequences = cli_text(c, "--sequences"), *peer = cli_text(c, "--llama-bench"), *kv = cli_text(c, "--kv"), *activations = cli_text(c, "--activations");
    if (!model) return cli_usage(c, "--model is needed: a model directory or a GGUF file");
    if (cli_text(c, "--weights") && packed_kind_find(cli_text(c, "--weights"), &o.weights, &err) != 0) return cli_usage(c, "--weights: %s", err.message);
    if (parse_sequences(sequences ? sequences : "1,4,8,16", list, &n, &err) != 0) return cli_usage(c, "%s", err.message);
    o.draft = cli_text(c, "--draft");
    o.draft_tokens = (uint32_t)cli_int(c, "--draft-tokens", 0);
    if (o.draft_tokens && !o.draft) return cli_usage(c, "--draft-tokens goes with --draft");
    if (kv_type_find(kv ? kv : "f16", &o.kv_type, &err) != 0) return cli_usage(c, "--kv: %s", err.message);
    if (activations && packed_activations_find(activations, &o.activations, &err) != 0) return cli_usage(c, "--activations: %s", err.message);
    for (size_t i = 0; i < n; i++) {
        rows[i] = (struct row){.test = "prefill", .sequences = list[i]};
        rows[n + i] = (struct row){.test = "decode", .sequences = list[i]};
        if (list[i] > o.sequences_max) o.sequences_max = list[i];
    }
    local_packed(c, &o.packed);
    o.queue_max = ENGINE_QUEUE_MIN + o.sequences_max;
    buf_init(&out, RESULT_MAX);
    int64_t from = clock_mono_us();
    int r = local_model("--model", model, &err);
    if (r == 0 && o.draft) r = local_model("--draft", o.draft, &err);
    if (r == 0) r = engine_new(&e, model, &o, &err);
    double load_s = (double)(clock_mono_us() - from) / 1e6;
    if (r == 0 && (prompt + 1 > engine_context(e) || ENGINE_BENCH_PROMPT + generate + 1 > engine_context(e)))
        r = error_set(&err, E_INVALID, "the context of %s has %u tokens: --prompt-tokens and --gen-tokens + %d must fit it", model, engine_context(e), ENGINE_BENCH_PROMPT + 1);
    if (r == 0) {
        struct engine_bench_result warm; /* pages come in, clocks go up */
        r = engine_bench_decode(e, 1, 8, &warm, &err);
    }
    if (r == 0) {
        engine_get_weights(e, &weights);
        measure(o.threads, weights.kind, &machine);
    }
    for (int decode = 0; decode < 2; decode++) {
        struct row *of = rows + (decode ? n : 0);
        for (size_t i = 0; r == 0 && i <= n; i++) {
            /* The peer before, amid and behind ours, so that both meet the same moments of the machine. */
            if (peer && (i == 0 || i == n || (n > 1 && i == n / 2)))
                r = run_peer(peer, model, o.threads, decode ? ENGINE_BENCH_PROMPT : prompt, decode ? generate : 1, of, n, &err);
            if (r != 0 || i == n) break;
            r = decode ? engine_bench_decode(e, of[i].sequences, generate, &of[i].ours, &err) : engine_bench_prefill(e, of[i].sequences, prompt, &of[i].ours, &err);
            set_limit(&of[i], &machine, &weights);
        }
    }
    if (r == 0 && cli_json(c)) write_json(&out, rows, 2 * n);
    else if (r == 0) {
        (void)buf_printf(&out, "%s: loaded in %.2f s, matrices of %.0f MB (%s%s), %.0f MB resident; kernels %s, %d threads; read bandwidth %.1f GB/s, %.1f G multiply-adds/s\n", model, load_s,
                         (double)weights.size / 1e6, packed_kind_name(weights.kind), weights.in_12_bits ? " in 12 bits" : "", (double)resident_bytes() / 1e6, quant_kernels()->name, o.threads > 0 ? o.threads : cpu_count(),
                         machine.bandwidth / 1e9, machine.multiply_adds / 1e9);
        write_table(&out, rows, 2 * n);
        if (o.draft) write_draft(&out, e);
    }
    engine_free(e);
    int code = r != 0 ? cli_fail(c, &err) : cli_print(c, buf_span(&out));
    buf_fini(&out);
    return code;
}

static const struct cli_option OPTIONS[] = {
    {.name = "--model", .kind = CLI_DIR, .value = "DIR|FILE", .doc = "The model"},
    {.name = "--threads", .kind = CLI_INT, .value = "N", .min = 0, .max = POOL_THREADS_MAX, .doc = "0: all CPUs"},
    {.name = "--prompt-tokens", .kind = CLI_INT, .value = "N", .min = 1, .max = ENGINE_TOKENS_MAX, .doc = "Of a prefill; 512"},
    {.name = "--gen-tokens", .kind = CLI_INT, .value = "N", .min = 1, .max = ENGINE_TOKENS_MAX, .doc = "Of a decode; 128"},
    {.name = "--sequences", .kind = CLI_TEXT, .value = "N,N,...", .doc = "Run together; 1,4,8,16"},
    {.name = "--weights", .kind = CLI_TEXT, .value = "stored|f32|bf16|f16|q8|q4|q4m", .doc = "As the model has them, or turned into that kind when loaded; stored"},
    LOCAL_PACKED_OPTION,
    {.name = "--activations", .kind = CLI_TEXT, .value = "int8|int16", .doc = "What the inputs of products with weights in 8 or 4 bits are rounded to; int8"},
    {.name = "--kv", .kind = CLI_TEXT, .value = "f32|f16|int8", .doc = "What keys and values are kept as; f16"},
    {.name = "--draft", .kind = CLI_DIR, .value = "DIR|FILE", .doc = "A smaller model with the same tokenizer, which guesses tokens while it pays"},
    {.name = "--draft-tokens", .kind = CLI_INT, .value = "K", .min = 1, .max = SCHEDULER_DRAFT_MAX, .doc = "With --draft: guesses per step, at most; 8"},
    {.name = "--llama-bench", .kind = CLI_FILE, .value = "PATH", .doc = "llama.cpp's llama-batched-bench, which is run on the same GGUF file in between"},
    {0},
};
const struct verb VERBS_BENCH_SERVE[] = {
    {.name = "bench serve", .operands = "", .summary = "Tokens per second of prefill and decode", .options = OPTIONS, .json = true, .run = run,
     .help = "Random prompts, greedy, the best of three runs; percentiles are of all three. A decode is timed behind short prompts, without their prefill. The limit is what the "
             "memory's read bandwidth and the kernels' multiply-adds, both measured in the same run, allow for the model's weights."},
    {0},
};
