/* run, and train --local: the engine and the trainer in this process, without a platform. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/pool.h"
#include "engine/run.h"
#include "engine/scheduler.h"
#include "local.h"
#include "loop_option.h"
#include "train/local.h"

int local_refuse(struct cli *c, const char *const *options) {
    for (; *options; options++)
        if (cli_given(c, *options)) return cli_failf(c, "%s is not built yet", *options);
    return CLI_DONE;
}

int local_model(const char *option, const char *model, struct error *err) {
    struct stat st;
    if (stat(model, &st) != 0) return error_errno(err, errno, "%s: %s", option, model);
    if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) return error_set(err, E_INVALID, "%s: %s is neither a model directory nor a GGUF file", option, model);
    return 0;
}

static void on_news(void *arg, enum packed_cache_news news, const char *path, const struct error *why) {
    (void)arg;
    if (news == PACKED_CACHE_READ) fprintf(stderr, "packed weights read from %s\n", path);
    else if (news == PACKED_CACHE_WRITTEN) fprintf(stderr, "packed weights written to %s\n", path);
    else if (news == PACKED_CACHE_REFUSED) fprintf(stderr, "%s: the weights are packed anew\n", why->message);
    else fprintf(stderr, "no packed weights are kept: %s\n", why->message);
}
void local_packed(struct cli *c, struct packed_cache *cache) {
    *cache = (struct packed_cache){.dir = cli_text(c, "--packed-cache"), .on_news = on_news};
}

static int run_run(struct cli *c) {
    static const char *const later[] = {"--in", "--out", "--scheduler", "--steps", NULL};
    struct engine_run_options o;
    struct error err = {0};
    uint32_t *tokens = NULL, *token_types = NULL;
    const char *ids = cli_text(c, "--tokens"), *prompt = cli_text(c, "--prompt");
    engine_run_options_init(&o);
    o.model = cli_text(c, "--model");
    o.adapter = cli_text(c, "--adapter");
    o.task = cli_text(c, "--task");
    bool logprobs = o.task && strcmp(o.task, "logprobs") == 0;
    if (!o.model) return cli_usage(c, "--model is needed: a model directory or a GGUF file");
    int code = local_refuse(c, later);
    if (code != CLI_DONE) return code;
    bool score = o.task && strcmp(o.task, "score") == 0, embed = o.task && strcmp(o.task, "embed") == 0;
    if (o.task && !logprobs && !score && !embed && strcmp(o.task, "generate") != 0) return cli_failf(c, "--task %s is not built yet", o.task);
    if (!ids == !prompt) return cli_usage(c, "one of --prompt and --tokens is needed");
    if (ids && cli_flag(c, "--chat")) return cli_usage(c, "--chat goes with --prompt: --tokens are taken as they stand");
    static const char *const of_generate[] = {"--max-tokens", "--temperature", "--dry-multiplier", "--seed", "--ignore-eos", "--top-logits", "--draft", "--draft-tokens", NULL}, *const of_embed[] = {"--pooling", "--no-normalize", NULL};
    for (const char *const *option = of_generate; (logprobs || score || embed) && *option; option++)
        if (cli_given(c, *option)) return cli_usage(c, "%s goes with --task generate", *option);
    for (const char *const *option = of_embed; !embed && *option; option++)
        if (cli_given(c, *option)) return cli_usage(c, "%s goes with --task embed", *option);
    if (cli_given(c, "--target") && !logprobs) return cli_usage(c, "--target goes with --task logprobs");
    if (o.adapter && (score || embed)) return cli_usage(c, "--adapter goes with --task generate or logprobs: adapters are of decoders");
    const char *types = cli_text(c, "--token-types");
    if (cli_given(c, "--kv") && (score || embed)) return cli_usage(c, "--kv goes with --task generate or logprobs: encoders keep no keys and values");
    if (cli_given(c, "--activations") && (score || embed)) return cli_usage(c, "--activations goes with --task generate or logprobs: encoders have int8");
    if (types && !((embed || score) && ids)) return cli_usage(c, "--token-types goes with --tokens and --task embed or score");
    if ((embed || score) && cli_flag(c, "--chat")) return cli_usage(c, "--chat goes with --task generate or logprobs");
    if (cli_given(c, "--top-logits") && !cli_json(c)) return cli_usage(c, "--top-logits goes with --json");
    o.prompt = span_str(prompt);
    if (cli_given(c, "--target")) o.target = span_str(cli_text(c, "--target"));
    o.chat = cli_flag(c, "--chat");
    o.max_tokens = cli_int(c, "--max-tokens", o.max_tokens);
    o.temperature = cli_real(c, "--temperature", o.temperature);
    o.dry_multiplier = cli_real(c, "--dry-multiplier", o.chat && !cli_json(c) && !logprobs ? LOOP_MULTIPLIER : 0); /* for who reads it; JSON is for checking */
    o.dry_allowed_length = LOOP_LENGTH;
    o.seed_set = cli_given(c, "--seed");
    o.seed = (uint64_t)cli_int(c, "--seed", 0);
    o.ignore_eos = cli_flag(c, "--ignore-eos");
    o.top_logits = (uint32_t)cli_int(c, "--top-logits", 0);
    o.threads = (int)cli_int(c, "--threads", 0);
    if (cli_text(c, "--weights") && packed_kind_find(cli_text(c, "--weights"), &o.weights, &err) != 0) return cli_usage(c, "--weights: %s", err.message);
    if (cli_text(c, "--kv") && kv_type_find(cli_text(c, "--kv"), &o.kv_type, &err) != 0) return cli_usage(c, "--kv: %s", err.message);
    if (cli_text(c, "--activations") && packed_activations_find(cli_text(c, "--activations"), &o.activations, &err) != 0) return cli_usage(c, "--activations: %s", err.message);
    local_packed(c, &o.packed);
    o.draft = cli_text(c, "--draft");
    o.draft_tokens = (uint32_t)cli_int(c, "--draft-tokens", 0);
    if (o.draft_tokens && !o.draft) return cli_usage(c, "--draft-tokens goes with --draft");
    o.json = cli_json(c);
    int r = local_model("--model", o.model, &err);
    if (r == 0 && o.draft) r = local_model("--draft", o.draft, &err);
    if (r == 0 && ids) r = engine_parse_tokens(span_str(ids), &tokens, &o.token_count, &err);
    o.tokens = tokens;
    if (r == 0 && types && (r = engine_parse_tokens(span_str(types), &token_types, &o.token_type_count, &err)) != 0) error_prefix(&err, "--token-types");
    o.token_types = token_types;
    o.pooling = cli_text(c, "--pooling");
    o.no_normalize = cli_flag(c, "--no-normalize");
    if (r == 0) r = engine_run(&o, stdout, &err);
    mem_free(tokens);
    mem_free(token_types);
    return r == 0 ? CLI_DONE : cli_fail(c, &err);
}

/* ---- train --local ---- */

static volatile int stop_training;
static void on_signal(int signum) {
    (void)signum;
    stop_training = 1;
}

int local_train(struct cli *c) {
    struct error err = {0};
    const char *recipe = cli_text(c, "--recipe"), *out = cli_text(c, "--out");
    if (!recipe || !out) return cli_usage(c, "--local needs --recipe FILE and --out DIR");
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}; /* asked twice it ends at once: the last checkpoint is whole all the same */
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    int r = train_local_main(recipe, out, stdout, &stop_training, &err);
    if (r == E_ABORTED && stop_training) return cli_failf(c, "stopped after a checkpoint: the same command goes on from it");
    return r == 0 ? CLI_DONE : cli_fail(c, &err);
}

static const struct cli_option OPTIONS[] = {
    {.name = "--model", .kind = CLI_DIR, .value = "DIR|FILE", .doc = "The model"},
    {.name = "--adapter", .kind = CLI_DIR, .value = "DIR", .doc = "A LoRA adapter in PEFT's layout, made for the model"},
    {.name = "--task", .kind = CLI_TEXT, .value = "generate|embed|score|logprobs|forward|sample|mel", .doc = "What to compute; generate"},
    {.name = "--prompt", .kind = CLI_TEXT, .value = "TEXT", .doc = "The text to go on from, or that the encoder reads"},
    {.name = "--chat", .kind = CLI_FLAG, .doc = "PROMPT as the user's turn, through the model's chat template"},
    {.name = "--tokens", .kind = CLI_TEXT, .value = "1,2,3", .doc = "Ids instead of a text, taken as they stand"},
    {.name = "--target", .kind = CLI_TEXT, .value = "TEXT", .doc = "With logprobs and an encoder-decoder: the answer whose log-probabilities are asked for, given the prompt"},
    {.name = "--token-types", .kind = CLI_TEXT, .value = "0,0,1", .doc = "With --tokens and embed or score: the type of each token (0: the first text, 1: its pair)"},
    {.name = "--max-tokens", .kind = CLI_INT, .value = "N", .min = 0, .max = ENGINE_TOKENS_MAX, .doc = "At most so many new tokens; 256"},
    {.name = "--temperature", .kind = CLI_REAL, .value = "T", .min = 0, .max = 100, .doc = "0: the likeliest token; otherwise as generation_config.json says"},
    {.name = "--dry-multiplier", .kind = CLI_REAL, .value = "M", .min = 0, .max = 100, .doc = "How hard an answer is kept from saying the same six tokens again and again; 0: not at all. 0.8 with --chat, without --json; otherwise 0"},
    {.name = "--seed", .kind = CLI_INT, .value = "N", .min = 0, .max = 9e15, .doc = "Of what is drawn; otherwise a new one each time"},
    {.name = "--ignore-eos", .kind = CLI_FLAG, .doc = "Go on behind the end-of-sequence token"},
    {.name = "--top-logits", .kind = CLI_INT, .value = "K", .min = 1, .max = ENGINE_TOP_LOGITS_MAX, .doc = "With --json: the K highest logits of the first new position"},
    {.name = "--pooling", .kind = CLI_TEXT, .value = "mean|cls|last", .doc = "With embed: how the tokens' vectors become one; as the model's own files say, else mean"},
    {.name = "--no-normalize", .kind = CLI_FLAG, .doc = "With embed: the vector as it is, not brought to length 1"},
    {.name = "--weights", .kind = CLI_TEXT, .value = "stored|f32|bf16|f16|q8|q4|q4m", .doc = "As the model has them, or turned into that kind when loaded; stored"},
    {.name = "--activations", .kind = CLI_TEXT, .value = "int8|int16", .doc = "What the inputs of products with weights in 8 or 4 bits are rounded to; int16"},
    {.name = "--kv", .kind = CLI_TEXT, .value = "f32|f16|int8", .doc = "What keys and values are kept as; f32"},
    LOCAL_PACKED_OPTION,
    {.name = "--draft", .kind = CLI_DIR, .value = "DIR|FILE", .doc = "A smaller model with the same tokenizer, which guesses tokens while it pays; the answer is the same"},
    {.name = "--draft-tokens", .kind = CLI_INT, .value = "K", .min = 1, .max = SCHEDULER_DRAFT_MAX, .doc = "With --draft: guesses per step, at most; 8"},
    {.name = "--threads", .kind = CLI_INT, .value = "N", .min = 0, .max = POOL_THREADS_MAX, .doc = "0: all CPUs"},
    {.name = "--in", .kind = CLI_FILE, .value = "FILE", .doc = "Not built yet"},
    {.name = "--out", .kind = CLI_FILE, .value = "FILE", .doc = "Not built yet"},
    {.name = "--scheduler", .kind = CLI_TEXT, .value = "NAME", .doc = "Not built yet"},
    {.name = "--steps", .kind = CLI_INT, .value = "N", .min = 1, .max = 1e6, .doc = "Not built yet"},
    {0},
};
const struct verb VERBS_RUN[] = {
    {.name = "run", .operands = "", .summary = "One model and one prompt in this process, without a platform", .options = OPTIONS, .json = true, .run = run_run,
     .help = "generate goes on from the prompt: the text, with --json also tokens and top logits, with --draft how many it guessed, and rightly. logprobs gives, always as JSON, the log-probability of each token after the first, given those\n"
             "before it, and the likeliest token instead. embed gives the vector of the text, {\"embedding\":[…]}, score the raw outputs of a classifier or cross-encoder, {\"scores\":[…]};\n"
             "both are for encoders (BERT, RoBERTa, XLM-RoBERTa, DistilBERT, ModernBERT, T5's encoder alone).\n"
             "Of an encoder-decoder (T5, Flan-T5, mT5, umT5) the encoder reads the prompt and generate gives the decoder's answer; logprobs are those of --target TEXT and of the token that\n"
             "ends it, given the prompt. F32 weights are computed in f32.\n"
             "--adapter DIR (adapter_config.json, adapter_model.safetensors) computes the model with what the adapter adds; tokenizer and chat template are the model's own."},
    {0},
};
