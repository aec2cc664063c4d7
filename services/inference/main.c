/* genloop-inference: a replica. Its parts are named in inference.h; here they are wired. */
#include "inference.h"

#include "base/log.h"
#include "base/metrics.h"
#include "base/pool.h"
#include "draft_setting.h"
#include "engine/scheduler.h"

enum { TICK_MS = 250, FOLLOW_RETRY_MS = 20, ARENA_MAX = 64 << 20 };

#define ROW(key, type, default_text, min, max, doc) {"inference", #key, type, offsetof(struct inference_settings, key), default_text, min, max, doc}
static const struct config_row ROWS[] = {
    ROW(threads, CONFIG_INT, "0", 0, POOL_THREADS_MAX, "Compute threads per model; 0: the CPUs that the process may use, divided by the replicas of this machine."),
    ROW(sequences, CONFIG_INT, "32", 1, 1024, "Sequences that run at once, per model."),
    ROW(queue, CONFIG_INT, "512", 128, 32768, "Requests that wait per model before a further one is refused."),
    ROW(kv_cache, CONFIG_BYTES, "0", 0, 1e15, "Bytes of KV cache per model; 0: what the sequences' whole contexts take, at most 1 GiB."),
    ROW(context, CONFIG_INT, "0", 0, 1 << 24, "Tokens of the longest sequence; 0: the model's own."),
    ROW(step_tokens, CONFIG_INT, "256", 1, 4096, "Prompt tokens of a step while nothing streams."),
    ROW(step_tokens_mixed, CONFIG_INT, "64", 1, 4096, "Prompt tokens of a step beside running streams: what they wait for at most."),
    ROW(weights, CONFIG_STRING, "stored", 0, 0, "stored: as the model has them; f32, bf16, f16, q8, q4 or q4m: turned into that when loaded."),
    ROW(activations, CONFIG_STRING, "int8", 0, 0, "What the inputs of products with weights in 8 or 4 bits are rounded to: int8, or int16 (the answers of unrounded inputs; prompts take up to twice the CPU, with AMX more, a few streams hardly more). With int8 and AMX prompts are read in bf16, which loses less. With AVX-512 BF16 alone inputs of weights in bf16 are rounded to bf16 with int8, to two of it with int16. Encoders have int8."),
    ROW(memory_budget, CONFIG_BYTES, "0", 0, 1e15, "Memory that all models of the replica may take with their caches: what is asked for is loaded in the place of what was not used for longest, and calls wait for it. 0: eight tenths of the machine's memory, or of the container's limit, divided by the replicas of this machine."),
    ROW(packed_cache, CONFIG_BYTES, "16GiB", 0, 1e15, "Disk that copies of packed weights may take in work/packed: a model that has one is loaded by reading it; least recently used go first. 0: none are kept."),
    ROW(kv_type, CONFIG_STRING, "f16", 0, 0, "What keys and values are kept as: f16, f32 (the trainer's numbers to the last digit, at twice the memory), or int8 with a scale for 32 values (half of f16, and nearly its answers)."),
    ROW(speculation, CONFIG_STRING, "lookup", 0, 0, "off, or lookup: tokens are guessed from what stood in the same place before, while it pays; answers are the same."),
    ROW(draft, CONFIG_STRING, "", 0, 0, "MODEL=DRAFT, separated by commas: the released model DRAFT, a smaller one with the same tokenizer, guesses tokens of MODEL while it pays (speculation off: it does not). Both are NAME (all its versions; of DRAFT the one that answers to it when MODEL is loaded) or NAME@VERSION. inference.kv_cache is for both."),
    ROW(draft_tokens, CONFIG_INT, "8", 1, SCHEDULER_DRAFT_MAX, "Guesses of a draft model in a step, at most."),
};

static struct inference self; /* one per process: what was posted to the loop may come late */

static void on_registry_event(void *arg, const struct event *e) {
    struct inference *inf = arg;
    struct error err = {0};
    enum fold_result result = FOLD_SAME;
    if (inf->stopped) return;
    if (fold_event(inf->fold, e, &result, &err) != 0 || result == FOLD_DROPPED) {
        metric_add(metric_counter("genloop_registry_dropped_total", "", "Records of the registry that were not believed."), 1);
        log_warn("registry.dropped", "%.*s: %s", SPAN_ARG(e->key), err.message);
    }
    if (result == FOLD_CHANGED && inf->caught_up) models_reconcile(inf);
}

static void on_caught_up(void *arg) {
    struct inference *inf = arg;
    if (inf->stopped) return;
    inf->caught_up = true;
    models_reconcile(inf);
    models_report(inf, true);
}

/* The registry's public key is made when the platform is set up; until then there is nothing to follow. */
static void on_open_follow(void *arg) {
    struct inference *inf = arg;
    struct registry_key key;
    struct error err;
    char path[4096];
    if (!inf->fold) {
        int r = registry_key_load(service_path(inf->service, "keys", path, sizeof path), false, &key, &err);
        if (r == E_NOT_FOUND) {
            loop_timer_start(inf->open_follow, FOLLOW_RETRY_MS, 0);
            return;
        }
        if (r == 0 && !(inf->fold = fold_new(key.public_key))) r = error_set(&err, E_NOMEM, "no memory for the registry");
        if (r != 0) {
            service_fail(inf->service, &err);
            return;
        }
    }
    if (follow_open(service_log(inf->service), service_loop(inf->service), (const enum topic[]){TOPIC_MODELS, TOPIC_ALIASES}, 2, inf, on_registry_event, on_caught_up, &inf->follow, &err) != 0)
        service_fail(inf->service, &err);
}

static void on_tick(void *arg) {
    struct inference *inf = arg;
    models_share(inf);
    if (inf->fold) models_reconcile(inf);
    calls_flush(inf);
    encode_flush(inf);
    models_report(inf, false);
}

static int check(const void *settings, struct error *err) {
    const struct inference_settings *set = settings;
    struct error why;
    if (packed_kind_find(set->weights, &(enum packed_kind){0}, &why) != 0) return error_set(err, E_INVALID, "inference.weights: %s", why.message);
    if (packed_activations_find(set->activations, &(enum packed_activations){0}, &why) != 0) return error_set(err, E_INVALID, "inference.activations: %s", why.message);
    if (kv_type_find(set->kv_type, &(enum kv_type){0}, &why) != 0) return error_set(err, E_INVALID, "inference.kv_type: %s", why.message);
    if (strcmp(set->speculation, "off") != 0 && strcmp(set->speculation, "lookup") != 0)
        return error_set(err, E_INVALID, "inference.speculation: \"%s\" is neither off nor lookup", set->speculation);
    if (draft_setting_check(span_str(set->draft), &why) != 0) return error_set(err, E_INVALID, "inference.draft: %s", why.message);
    return 0;
}

static int start(struct service *s, void **arg, struct error *err) {
    struct inference *inf = &self;
    *arg = inf;
    inf->service = s;
    inf->settings = service_settings(s);
    pthread_mutex_init(&inf->dirty_lock, NULL);
    arena_init(&inf->arena, ARENA_MAX);
    calls_init_metrics();
    inf->tick = loop_timer_new(service_loop(s), inf, on_tick);
    inf->open_follow = loop_timer_new(service_loop(s), inf, on_open_follow);
    if (!inf->tick || !inf->open_follow) return error_set(err, E_NOMEM, "no memory to start");
    loop_timer_start(inf->tick, TICK_MS, TICK_MS);
    loop_timer_start(inf->open_follow, 0, 0);
    models_share(inf);
    models_report(inf, true);
    return 0;
}

static void drain(struct service *s, void *arg) {
    struct inference *inf = arg;
    waiting_wake(inf);
    if (inf->call_count == 0) service_drained(s);
}

/* The bus is closed: every reply has ended. */
static void stop(struct service *s, void *arg) {
    struct inference *inf = arg;
    (void)s;
    follow_close(inf->follow);
    models_free(inf);
    loop_timer_close(inf->tick);
    loop_timer_close(inf->open_follow);
    fold_free(inf->fold);
    inf->fold = NULL;
    arena_fini(&inf->arena);
}

int main(int argc, char **argv) {
    static const struct bus_server_events bus = {.on_call = calls_on_call, .on_credit = calls_on_credit, .on_cancel = calls_on_cancel};
    static const char *const neighbours[] = {"inference", NULL}; /* who shares the cores */
    static const struct service_spec spec = {
        .peers = neighbours, .name = "inference", .rows = ROWS, .n_rows = sizeof ROWS / sizeof *ROWS, .settings_size = sizeof(struct inference_settings),
        .wants_log = true, .wants_store = true, .wants_bus_server = true, .bus = &bus, .check = check, .start = start, .drain = drain, .stop = stop,
    };
    return service_main(argc, argv, &spec);
}
