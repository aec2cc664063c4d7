/*
 * bench_adapter [--model DIR|FILE | --shape layers,width,heads,kv_heads,ffn,vocab] [--weights KIND] [--threads N] [--ranks 8,16,64] [--sequences 1,4,16] [--steps N]
 * What LoRA adapters on all matrices cost a decode step: the time of a step of so many sequences without any, with one adapter for all of them and with one for each, through the whole
 * engine. The three take turns step by step, so that whatever else the machine does meets all of them; medians, of processor time with one thread (the default), of time with several.
 * The limit beside them: the adapters' multiply-adds over those of the model.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "engine/engine.h"

enum { PROMPT = 4, SEQUENCES_MAX = 32, WAYS = 3, STEPS_MAX = 512 };

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

static bool adapted(const struct model_tensor *t) {
    for (uint32_t i = 0; i < t->part_count; i++) {
        enum model_role role = t->parts[i].role;
        if (role != MODEL_ATTN_Q_W && role != MODEL_ATTN_K_W && role != MODEL_ATTN_V_W && role != MODEL_ATTN_O_W && role != MODEL_MLP_GATE_W && role != MODEL_MLP_UP_W && role != MODEL_MLP_DOWN_W) return false;
    }
    return !t->vector;
}

/* PEFT's two files, of random numbers. */
static int write_adapter(const char *folder, const struct model_config *c, uint32_t rank, uint64_t seed, struct error *err) {
    char path[256], text[160];
    struct model_tensor *tensors = NULL;
    struct safetensors_writer *w = NULL;
    size_t count, flat;
    struct random random;
    random_seed(&random, seed);
    (void)snprintf(text, sizeof text, "{\"peft_type\":\"LORA\",\"r\":%u,\"lora_alpha\":%u,\"target_modules\":\"all-linear\"}", rank, rank);
    (void)snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    int r = file_write(path, span_str(text), 0600, err);
    (void)snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    if (r == 0) r = model_tensors(c, &tensors, &count, &flat, err);
    if (r == 0) r = safetensors_writer_new(&w, path, err);
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; r == 0 && i < count; i++)
            for (int half = 0; r == 0 && half < 2 && adapted(&tensors[i]); half++) {
                uint64_t shape[2] = {half ? tensors[i].rows : rank, half ? rank : tensors[i].cols};
                size_t n = (size_t)shape[0] * (size_t)shape[1], len = strlen(tensors[i].name);
                char name[256];
                (void)snprintf(name, sizeof name, "base_model.model.%.*s.lora_%c.weight", (int)(len - strlen(".weight")), tensors[i].name, half ? 'B' : 'A');
                if (pass == 0) {
                    r = safetensors_writer_add(w, span_str(name), DTYPE_F32, shape, 2, err);
                    continue;
                }
                float *data = mem_calloc(n, sizeof *data);
                if (!data) r = error_set(err, E_NOMEM, "no memory");
                for (size_t k = 0; data && k < n; k++) data[k] = ((float)random_f64(&random) - 0.5f) * 0.02f;
                if (r == 0) r = safetensors_writer_write(w, data, n * sizeof *data, err);
                mem_free(data);
            }
    if (r == 0) r = safetensors_writer_commit(w, err);
    safetensors_writer_free(w);
    mem_free(tensors);
    return r;
}

static double now_ms(bool processor) {
    struct timespec t;
    (void)clock_gettime(processor ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Requests of all ways, of which those of one way have a token's credit at a time. Touched by the engine's thread alone, until `done`. */
struct turns {
    struct engine *engine;
    bool processor;
    uint32_t n, ways, steps;
    uint64_t ids[WAYS][SEQUENCES_MAX];
    double times[WAYS][STEPS_MAX], began;
    uint32_t way, step, arrived, started, finished;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};
static void grant(struct turns *t) {
    t->began = now_ms(t->processor);
    for (uint32_t i = 0; i < t->n; i++) engine_grant(t->engine, t->ids[t->way][i], 1);
}
static void on_event(void *arg, const struct engine_event *event) {
    struct turns *t = arg;
    pthread_mutex_lock(&t->lock);
    if (event->error && event->error->code != 0 && event->error->code != E_CANCELLED) fprintf(stderr, "%s\n", event->error->message);
    if (event->finish != ENGINE_RUNNING) {
        t->finished++;
    } else if (t->started < t->n * t->ways) { /* the prompts' own first tokens */
        if (++t->started == t->n * t->ways) grant(t);
    } else if (++t->arrived == t->n && t->step < t->steps) {
        t->times[t->way][t->step] = now_ms(t->processor) - t->began;
        t->arrived = 0;
        t->way = (t->way + 1) % t->ways;
        t->step += t->way == 0;
        if (t->step < t->steps) grant(t);
    }
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *x, size_t n) {
    qsort(x, n, sizeof *x, compare);
    return x[n / 2];
}

static int measure(struct engine *e, bool processor, uint32_t rank, uint32_t n, uint32_t steps, struct model_adapter *const *adapters, struct error *err) {
    static struct turns t;
    uint32_t ids[PROMPT];
    struct random r;
    int result = 0;
    uint32_t submitted = 0;
    t = (struct turns){.engine = e, .processor = processor, .n = n, .ways = n > 1 ? 3 : 2, .steps = steps};
    pthread_mutex_init(&t.lock, NULL);
    pthread_cond_init(&t.wake, NULL);
    random_seed(&r, 7);
    pthread_mutex_lock(&t.lock); /* so that nobody is granted before all have their ids */
    for (uint32_t way = 0; result == 0 && way < t.ways; way++)
        for (uint32_t i = 0; result == 0 && i < n; i++) {
            struct engine_request q;
            for (size_t k = 0; k < PROMPT; k++) ids[k] = (uint32_t)random_below(&r, engine_model(e)->vocab);
            engine_request_init(&q);
            q.tokens = ids;
            q.token_count = PROMPT;
            q.tokens_max = steps + 2;
            q.ignore_eos = true;
            q.sampling.temperature = 0;
            q.credit = 1;
            q.adapter = way == 0 ? NULL : way == 1 ? adapters[0] : adapters[i];
            result = engine_submit(e, &q, &t, on_event, &t.ids[way][i], err);
            submitted += result == 0;
        }
    while (result == 0 && t.step < steps && t.finished == 0) pthread_cond_wait(&t.wake, &t.lock);
    pthread_mutex_unlock(&t.lock);
    for (uint32_t i = 0; i < submitted; i++) engine_cancel(e, t.ids[i / n][i % n]);
    pthread_mutex_lock(&t.lock);
    while (t.finished < submitted) pthread_cond_wait(&t.wake, &t.lock);
    pthread_mutex_unlock(&t.lock);
    if (result == 0 && t.step < steps) result = error_set(err, E_INTERNAL, "a request ended early");
    if (result == 0) {
        double shares[WAYS][STEPS_MAX], base;
        for (uint32_t way = 1; way < t.ways; way++)
            for (uint32_t i = 0; i < steps; i++) shares[way][i] = 100 * (t.times[way][i] / t.times[0][i] - 1);
        base = median(t.times[0], steps);
        printf("rank %u, %u sequences: %.2f ms without; one adapter %+.1f %%", rank, n, base, median(shares[1], steps));
        if (n > 1) printf("; %u adapters %+.1f %%", n, median(shares[2], steps));
        printf("\n");
        (void)fflush(stdout);
    }
    pthread_mutex_destroy(&t.lock);
    pthread_cond_destroy(&t.wake);
    return result;
}

static size_t numbers(const char *text, uint32_t *out, size_t max) {
    struct span rest = span_str(text), one;
    size_t n = 0;
    uint64_t v;
    while (n < max && span_cut(&rest, ',', &one))
        if (span_to_u64(one, &v) == 0 && v > 0 && v <= UINT32_MAX) out[n++] = (uint32_t)v;
    return n;
}

int main(int argc, char **argv) {
    const char *model = NULL;
    uint32_t shape[6] = {30, 576, 9, 3, 1536, 49152}, sequences[8] = {1, 4, 16}, ranks[8] = {8, 16, 64}, number;
    size_t sequence_count = 3, rank_count = 3, steps = 60, most = 0;
    struct engine_options o = {.threads = 1, .step_rows = 256, .sequences_max = WAYS * SEQUENCES_MAX};
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--model") == 0) model = value;
        else if (strcmp(argv[i], "--shape") == 0 && numbers(value, shape, 6) == 6) continue;
        else if (strcmp(argv[i], "--weights") == 0 && packed_kind_find(value, &o.weights, NULL) == 0) continue;
        else if (strcmp(argv[i], "--sequences") == 0 && (sequence_count = numbers(value, sequences, 8)) > 0) continue;
        else if (strcmp(argv[i], "--ranks") == 0 && (rank_count = numbers(value, ranks, 8)) > 0) continue;
        else if (strcmp(argv[i], "--threads") == 0 && numbers(value, &number, 1) == 1) o.threads = (int)number;
        else if (strcmp(argv[i], "--steps") == 0 && numbers(value, &number, 1) == 1 && number <= STEPS_MAX) steps = number;
        else {
            fprintf(stderr, "what is %s %s?\n", argv[i], value);
            return 2;
        }
    }
    for (size_t i = 0; i < sequence_count; i++) most = sequences[i] > most ? sequences[i] : most;
    if (most > SEQUENCES_MAX) {
        fprintf(stderr, "at most %d sequences\n", SEQUENCES_MAX);
        return 2;
    }
    struct error err = {0};
    struct model_dir dir;
    struct engine *e = NULL;
    char folder[] = "/tmp/genloop-bench-adapter-XXXXXX";
    int r = model ? engine_new(&e, model, &o, &err) : random_model(&dir, shape, &err);
    if (r == 0 && !model) r = engine_new_from(&e, &dir, &o, &err);
    if (r == 0 && !mkdtemp(folder)) r = error_set(&err, E_IO, "no folder %s", folder);
    for (size_t k = 0; r == 0 && k < rank_count; k++) {
        struct model_adapter *adapters[SEQUENCES_MAX] = {NULL};
        r = write_adapter(folder, engine_model(e), ranks[k], k, &err);
        for (size_t i = 0; r == 0 && i < most; i++) r = model_adapter_load(&adapters[i], folder, engine_model(e), engine_adapter_kind(e), &err); /* one as good as the next: each has its own memory */
        if (r == 0) {
            struct engine_weights weights;
            engine_get_weights(e, &weights);
            printf("rank %u: %.1f %% of the model's multiply-adds, %.1f MB beside %.1f MB of weights, kernels %s\n", ranks[k], 100 * (double)adapters[0]->parameters / (double)weights.multiply_adds,
                   (double)adapters[0]->size / 1e6, (double)weights.size / 1e6, quant_kernels()->name);
        }
        for (size_t i = 0; r == 0 && i < sequence_count; i++) r = measure(e, o.threads == 1, ranks[k], sequences[i], (uint32_t)steps, adapters, &err);
        for (size_t i = 0; i < most; i++) model_adapter_free(adapters[i]);
    }
    (void)dir_remove(folder, NULL);
    if (r != 0) fprintf(stderr, "%s\n", err.message);
    engine_free(e);
    return r != 0;
}
