/* The whole engine on tiny random models: equal to the trainer's forward pass, and to itself in whatever company a request runs. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "engine/engine.h"
#include "engine/run.h"
#include "engine/scheduler.h"
#include "nn/decoder.h"
#include "tiny.h"

/* One for each thing that a family may do to a row. */
static const char *const names[] = {"llama", "gpt2", "qwen3_moe", "mixtral", "gemma2", "gemma3_text", "opt", "stablelm", "olmo2", "granite", "phi3"};
enum { FAMILIES = sizeof names / sizeof *names };
static struct tiny families[FAMILIES], llama, gpt2;

static int set_up(void **state) {
    (void)state;
    for (size_t i = 0; i < FAMILIES; i++) tiny_make(&families[i], names[i], i + 1);
    llama = families[0];
    gpt2 = families[1];
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    for (size_t i = 0; i < FAMILIES; i++) tiny_remove(&families[i]);
    return 0;
}

static struct engine_result one(struct engine *e, const struct engine_request *r) {
    struct engine_result result;
    assert_int_equal(engine_generate_batch(e, r, 1, &result, NULL), 0);
    if (result.error.code != 0) fail_msg("%s", result.error.message);
    return result;
}

/* --- arithmetic --- */

static void test_equals_trainer(void **state) {
    (void)state;
    enum { N = 90 };
    struct tiny qwen2;
    tiny_make(&qwen2, "qwen2", 7);
    const struct tiny *models[] = {&llama, &gpt2, &qwen2};
    for (size_t m = 0; m < 3; m++) {
        const struct model_weights *w = &models[m]->weights;
        uint32_t ids[N], labels[N];
        float want[N];
        tiny_tokens(ids, N, 5);
        for (size_t i = 0; i < N; i++) labels[i] = i + 1 < N ? ids[i + 1] : NN_NO_LABEL;
        struct nn_decoder *d;
        assert_int_equal(nn_decoder_new(&d, &w->config, w->params, w->param_count, N, NULL), 0);
        struct nn_tape *t = nn_tape_new((size_t)64 << 20);
        nn_tape_begin(t, w->flat, NULL, (uint32_t)w->param_count);
        struct nn_segment segment = {0, N};
        struct nn_value *h = nn_decoder_forward(d, t, ids, &segment, 1);
        nn_cross_entropy(t, h, nn_decoder_head(d), labels, NULL, want);
        assert_int_equal(nn_tape_status(t), 0);
        struct engine *e = tiny_engine(models[m], (struct engine_options){.threads = 2});
        struct engine_request r = tiny_request(ids, N, 0);
        r.prompt_logprobs = true;
        struct engine_result got = one(e, &r);
        assert_int_equal(got.prompt_count, N - 1);
        for (size_t i = 0; i + 1 < N; i++)
            if (fabsf(got.prompt_logprobs[i] - want[i]) > 1e-4f)
                fail_msg("%s, position %zu: %g, the trainer has %g", w->config.arch->name, i, (double)got.prompt_logprobs[i], (double)want[i]);
        double nll = 0, sum = 0;
        const uint32_t *document = ids;
        const size_t count = N;
        assert_int_equal(engine_score(e, &document, &count, 1, &nll, NULL), 0);
        for (size_t i = 0; i + 1 < N; i++) sum -= (double)got.prompt_logprobs[i];
        assert_true(nll == sum);
        engine_result_fini(&got);
        engine_free(e);
        nn_tape_free(t);
        nn_decoder_free(d);
    }
    tiny_remove(&qwen2);
}

/* What the trainer does not compute it refuses by name, rather than train another model. */
static void test_trainer_refuses(void **state) {
    (void)state;
    static const struct {
        const char *arch, *says;
    } cases[] = {{"qwen3_moe", "q and k"}, {"mixtral", "experts"}, {"gemma2", "norm"}, {"gemma3_text", "norm"}, {"opt", "norms"},
                 {"stablelm", "norms"},    {"olmo2", "norms"},     {"granite", "scaled"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t m = 0;
        while (strcmp(names[m], cases[i].arch) != 0) m++;
        const struct model_weights *w = &families[m].weights;
        struct nn_decoder *d = NULL;
        struct error err = {0};
        int r = nn_decoder_new(&d, &w->config, w->params, w->param_count, 16, &err);
        if (r != E_UNSUPPORTED || !strstr(err.message, cases[i].arch) || !strstr(err.message, cases[i].says)) fail_msg("%s: %d %s", cases[i].arch, r, err.message);
    }
    struct tiny mistral; /* with a window, and without */
    struct error err = {0};
    struct nn_decoder *d = NULL;
    tiny_make(&mistral, "mistral", 9);
    struct model_config open = mistral.weights.config;
    assert_int_equal(nn_decoder_new(&d, &mistral.weights.config, mistral.weights.params, mistral.weights.param_count, 16, &err), E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "window"));
    open.window = 0;
    assert_int_equal(nn_decoder_new(&d, &open, mistral.weights.params, mistral.weights.param_count, 16, &err), 0);
    nn_decoder_free(d);
    tiny_remove(&mistral);
}

/* Keys and values in int8: near what they are in f32, in every family (windows, caps, experts, heads of any size), and in a quarter of the memory. Tiny
 * models' random weights are harder than a trained model's: nothing stands out. */
static void test_int8(void **state) {
    (void)state;
    enum { N = 120 };
    for (size_t m = 0; m < FAMILIES; m++) {
        uint32_t ids[N];
        tiny_tokens(ids, N, 50 + m);
        struct engine_request r = tiny_request(ids, N, 0);
        struct engine_result got[KV_TYPES];
        struct engine_stats stats[KV_TYPES];
        r.prompt_logprobs = true;
        for (enum kv_type type = 0; type < KV_TYPES; type++) {
            struct engine *e = tiny_engine(&families[m], (struct engine_options){.threads = 2, .kv_type = type, .kv_bytes = 1 << 20});
            got[type] = one(e, &r);
            engine_get_stats(e, &stats[type]);
            engine_free(e);
        }
        const float *want = got[KV_F32].prompt_logprobs, *is = got[KV_INT8].prompt_logprobs;
        double sum = 0;
        for (size_t i = 0; i + 1 < N; i++) {
            assert_true(isfinite(is[i]));
            sum += fabs((double)is[i] - (double)want[i]);
        }
        double most = families[m].weights.config.experts ? 0.3 : 0.08; /* a row that goes to another expert is another row */
        if (!(sum > 0 && sum / (N - 1) < most)) fail_msg("%s: %g from f32 on average", names[m], sum / (N - 1));
        assert_true(stats[KV_INT8].kv_blocks_total * 4 > stats[KV_F16].kv_blocks_total * 6 && stats[KV_INT8].kv_blocks_total <= stats[KV_F16].kv_blocks_total * 2);
        for (enum kv_type type = 0; type < KV_TYPES; type++) engine_result_fini(&got[type]);
    }
}

/* Another cut of the prompt, another number of threads, other company: the same bits. */
static void test_invariance(void **state) {
    (void)state;
    enum { REQUESTS = 14, LONGEST = 120 };
    static const struct {
        const char *name;
        struct engine_options options;
        bool together;
    } ways[] = {
        {"together", {.threads = 1}, true},
        {"together, 3 threads", {.threads = 3}, true},
        {"small chunks", {.threads = 2, .step_rows = 7, .step_rows_mixed = 3, .sequences_max = 5}, true},
        {"one token at a time", {.threads = 2, .step_rows = 1, .step_rows_mixed = 1, .sequences_max = 1}, false},
        {"a small cache", {.threads = 2, .kv_bytes = 600000}, true},
    };
    static uint32_t prompts[REQUESTS][LONGEST];
    for (size_t m = 0; m < FAMILIES; m++)
        for (int kind = 0; kind < (m < 2 ? 5 : 2); kind++) { /* cache and activations are the same for all families: two of them meet them in each way */
            size_t count = m < 2 ? REQUESTS : REQUESTS / 2;
            struct engine_request requests[REQUESTS];
            for (size_t i = 0; i < count; i++) {
                size_t n = 1 + i * 37 % LONGEST;
                tiny_tokens(prompts[i], n, 100 + i);
                requests[i] = tiny_request(prompts[i], n, 5 + (int64_t)(i * 7 % 40));
                requests[i].sampling.temperature = i % 3 == 0 ? 0 : 1;
                requests[i].sampling.seed = i;
                requests[i].sampling.top_p = i % 4 == 1 ? 0.9 : 1;
                requests[i].sampling.repetition_penalty = i % 5 == 2 ? 1.3 : 1;
                requests[i].logprobs = true;
                requests[i].prompt_logprobs = i % 2 == 0;
            }
            enum packed_kind weights = kind == 1 ? PACKED_Q8 : kind == 4 ? PACKED_Q4M : PACKED_F32;
            enum packed_activations activations = kind == 4 ? PACKED_INT16 : PACKED_INT8;
            enum kv_type kv_type = kind == 2 ? KV_F16 : kind == 3 ? KV_INT8 : KV_F32;
            struct engine_result alone[REQUESTS], got[REQUESTS];
            struct engine *e = tiny_engine(&families[m], (struct engine_options){.threads = 1, .weights = weights, .activations = activations, .kv_type = kv_type});
            for (size_t i = 0; i < count; i++) alone[i] = one(e, &requests[i]);
            engine_free(e);
            for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
                if (m >= 2 && w % 3 == 0) continue;
                struct engine_options o = ways[w].options;
                o.weights = weights;
                o.activations = activations;
                o.kv_type = kv_type;
                e = tiny_engine(&families[m], o);
                if (ways[w].together) assert_int_equal(engine_generate_batch(e, requests, count, got, NULL), 0);
                else
                    for (size_t i = 0; i < count; i++) got[i] = one(e, &requests[i]);
                for (size_t i = 0; i < count; i++) {
                    assert_int_equal(got[i].error.code, 0);
                    char name[96];
                    snprintf(name, sizeof name, "%s, kind %d, request %zu, %s", names[m], kind, i, ways[w].name);
                    tiny_same(name, &alone[i], &got[i]);
                    engine_result_fini(&got[i]);
                }
                struct engine_stats s;
                engine_get_stats(e, &s);
                assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
                assert_int_equal(s.running + s.queued, 0);
                engine_free(e);
            }
            for (size_t i = 0; i < count; i++) engine_result_fini(&alone[i]);
        }
}

/* LongRoPE: what comes after the border is what a prompt of the whole text would get, and what came before it is not. */
static void test_grows_long(void **state) {
    (void)state;
    enum { PROMPT = TINY_BORDER - 9, NEW = 24, OTHERS = 3 };
    const struct tiny *phi3 = NULL;
    for (size_t m = 0; m < FAMILIES; m++)
        if (strcmp(names[m], "phi3") == 0) phi3 = &families[m];
    uint32_t ids[OTHERS][PROMPT + NEW];
    struct engine_request r[OTHERS];
    for (size_t i = 0; i < OTHERS; i++) {
        tiny_tokens(ids[i], PROMPT, i < 2 ? 77 : 78); /* two share all of their prompt */
        r[i] = tiny_request(ids[i], PROMPT, i == 1 ? 5 : NEW); /* and one of them stays short */
        r[i].logprobs = true;
        r[i].prompt_logprobs = i == 2;
        r[i].sampling.temperature = 0;
    }
    struct engine *e = tiny_engine(phi3, (struct engine_options){.threads = 2, .step_rows = 23, .step_rows_mixed = 11});
    struct engine_result got[OTHERS];
    assert_int_equal(engine_generate_batch(e, r, OTHERS, got, NULL), 0);
    for (size_t i = 0; i < OTHERS; i++) {
        assert_int_equal(got[i].token_count, i == 1 ? 5 : NEW);
        if (i == 2) assert_int_equal(got[i].prompt_count, PROMPT - 1);
        memcpy(ids[i] + PROMPT, got[i].tokens, got[i].token_count * sizeof *ids[i]);
        for (size_t k = 0; k < got[i].token_count; k++) {
            struct engine_request whole = tiny_request(ids[i], PROMPT + k, 1);
            whole.logprobs = true;
            whole.sampling.temperature = 0;
            struct engine *fresh = tiny_engine(phi3, (struct engine_options){.threads = 1});
            struct engine_result one_more = one(fresh, &whole);
            if (one_more.tokens[0] != got[i].tokens[k] || one_more.logprobs[0].logprob != got[i].logprobs[k].logprob)
                fail_msg("request %zu, token %zu: %u, %g; from the whole text %u, %g", i, k, got[i].tokens[k], (double)got[i].logprobs[k].logprob, one_more.tokens[0],
                         (double)one_more.logprobs[0].logprob);
            engine_result_fini(&one_more);
            engine_free(fresh);
        }
        engine_result_fini(&got[i]);
    }
    engine_free(e);
}

/* An answer in the prompt of the next turn: what comes then is what would have come had nobody written that answer here, whatever the CPU makes of what is read and what is written. */
static void test_next_turn(void **state) {
    (void)state;
    enum { PROMPT = 40, NEW = 40, MORE = 6, TURNS = 3, ALL = PROMPT + TURNS * (NEW + MORE) };
    const enum packed_kind kinds[] = {PACKED_F32, PACKED_BF16, PACKED_Q8, PACKED_Q4M};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct engine_options o = {.threads = 2, .weights = kinds[k], .step_rows = 50};
        struct engine *e = tiny_engine(&llama, o);
        uint32_t ids[ALL];
        size_t n = PROMPT;
        tiny_tokens(ids, PROMPT, 5);
        for (int turn = 0; turn < TURNS; turn++) {
            struct engine *fresh = tiny_engine(&llama, o);
            struct engine_request r = tiny_request(ids, n, NEW);
            r.logprobs = true;
            r.sampling.temperature = 0;
            struct engine_result got = one(e, &r), want = one(fresh, &r);
            char name[64];
            snprintf(name, sizeof name, "kind %d, turn %d", (int)kinds[k], turn);
            tiny_same(name, &want, &got);
            if (turn > 0 && got.usage.cached_tokens < PROMPT / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS) fail_msg("%s: %u tokens are cached", name, got.usage.cached_tokens);
            if (turn > 1 && got.usage.cached_tokens < PROMPT + NEW) fail_msg("%s: of the turn before %u tokens are cached", name, got.usage.cached_tokens);
            memcpy(ids + n, got.tokens, NEW * sizeof *ids);
            tiny_tokens(ids + n + NEW, MORE, (uint64_t)turn + 50);
            n += NEW + MORE;
            engine_result_fini(&got);
            engine_result_fini(&want);
            engine_free(fresh);
        }
        engine_free(e);
    }
}

static void test_q8_is_close(void **state) {
    (void)state;
    uint32_t ids[64];
    tiny_tokens(ids, 64, 9);
    struct engine_request r = tiny_request(ids, 64, 0);
    r.prompt_logprobs = true;
    for (size_t m = 0; m < FAMILIES; m++) {
        struct engine *f32 = tiny_engine(&families[m], (struct engine_options){.threads = 2, .weights = PACKED_F32});
        struct engine *q8 = tiny_engine(&families[m], (struct engine_options){.threads = 2, .weights = PACKED_Q8});
        struct engine_result a = one(f32, &r), b = one(q8, &r);
        double difference = 0;
        for (size_t i = 0; i < a.prompt_count; i++) difference += fabs((double)(a.prompt_logprobs[i] - b.prompt_logprobs[i]));
        difference /= (double)a.prompt_count;
        double most = families[m].weights.config.experts ? 0.6 : 0.15; /* a row that goes to another expert is another row */
        if (!(difference > 0 && difference < most)) fail_msg("%s: %g", names[m], difference);
        engine_result_fini(&a);
        engine_result_fini(&b);
        engine_free(f32);
        engine_free(q8);
    }
}

/* --- answers --- */

struct watcher {
    pthread_mutex_t lock;
    struct engine *e;
    struct buf text;
    size_t tokens, events;
    enum engine_finish finish;
    bool over, utf8;
    struct error error;
    struct engine_usage usage;
};
static void watch(void *arg, const struct engine_event *event) {
    struct watcher *w = arg;
    pthread_mutex_lock(&w->lock);
    w->events++;
    w->tokens += event->token_count;
    w->utf8 &= span_is_utf8(event->text);
    assert_int_equal(buf_append_span(&w->text, event->text), 0);
    w->usage = event->usage;
    if (event->finish != ENGINE_RUNNING) {
        w->finish = event->finish;
        w->over = true;
        if (event->error) w->error = *event->error;
    }
    pthread_mutex_unlock(&w->lock);
}
static void watcher_init(struct watcher *w) {
    *w = (struct watcher){.lock = PTHREAD_MUTEX_INITIALIZER, .utf8 = true};
    buf_init(&w->text, 1 << 20);
}
/* Until it is over, or has so many tokens; 20 s at most. */
static void wait_for(struct watcher *w, size_t tokens) {
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&w->lock);
        bool enough = w->over || (tokens > 0 && w->tokens >= tokens);
        pthread_mutex_unlock(&w->lock);
        if (enough) return;
        usleep(1000);
    }
    fail_msg("nothing came");
}

static void test_text(void **state) {
    (void)state;
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 2});
    struct engine_request r;
    engine_request_init(&r);
    r.prompt = SPAN("The engine and the café");
    r.tokens_max = 60;
    r.seed_set = true;
    r.ignore_eos = true;
    for (uint64_t seed = 0; seed < 5; seed++) {
        struct watcher w;
        watcher_init(&w);
        r.sampling.seed = seed;
        r.echo = seed % 2;
        assert_int_equal(engine_submit(e, &r, &w, watch, NULL, NULL), 0);
        wait_for(&w, 0);
        r.echo = false;
        struct engine_result result = one(e, &r);
        struct buf whole;
        buf_init(&whole, 1 << 20);
        if (seed % 2) assert_int_equal(buf_append_span(&whole, r.prompt), 0);
        assert_int_equal(tokenizer_decode(llama.tokenizer, result.tokens, result.token_count, true, &whole), 0);
        assert_true(span_eq(buf_span(&whole), buf_span(&w.text)));
        assert_true(w.utf8);
        assert_int_equal(w.tokens, 60);
        assert_int_equal(w.usage.completion_tokens, 60);
        assert_int_equal(w.finish, ENGINE_LENGTH);
        buf_fini(&whole);
        buf_fini(&w.text);
        engine_result_fini(&result);
    }
    engine_free(e);
}

static void test_seeds(void **state) {
    (void)state;
    struct engine *e = tiny_engine(&gpt2, (struct engine_options){.threads = 1});
    uint32_t ids[] = {5, 6, 7};
    struct engine_request r = tiny_request(ids, 3, 20);
    struct engine_result a, b, c, d, f;
    r.sampling.seed = 1;
    a = one(e, &r);
    b = one(e, &r);
    tiny_same("the same seed", &a, &b);
    r.sampling.seed = 2;
    c = one(e, &r);
    assert_true(memcmp(a.tokens, c.tokens, 20 * sizeof *a.tokens) != 0);
    r.seed_set = false;
    d = one(e, &r);
    f = one(e, &r);
    assert_true(memcmp(d.tokens, f.tokens, 20 * sizeof *a.tokens) != 0);
    engine_result_fini(&a);
    engine_result_fini(&b);
    engine_result_fini(&c);
    engine_result_fini(&d);
    engine_result_fini(&f);
    engine_free(e);
}

static void test_stops(void **state) {
    (void)state;
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 1});
    uint32_t ids[] = {40, 41, 42};
    struct engine_request r = tiny_request(ids, 3, 40);
    r.sampling.temperature = 1;
    r.sampling.seed = 11;
    struct engine_result free_run = one(e, &r);
    /* Every pair of neighbours: a string of the last byte of one token's text and the first of the next. */
    int over_borders = 0;
    for (size_t i = 0; i + 2 < free_run.token_count; i++) {
        struct span a = tokenizer_token_bytes(llama.tokenizer, free_run.tokens[i]), b = tokenizer_token_bytes(llama.tokenizer, free_run.tokens[i + 1]);
        if (a.len == 0 || b.len == 0 || tokenizer_is_special(llama.tokenizer, free_run.tokens[i]) || tokenizer_is_special(llama.tokenizer, free_run.tokens[i + 1])) continue;
        char stop[2] = {a.data[a.len - 1], b.data[0]};
        if ((stop[0] & 0x80) || (stop[1] & 0x80)) continue; /* half a character never is in the text */
        struct span stops[] = {SPAN("never in the text"), span_of(stop, 2)};
        r.stop = stops;
        r.stop_count = 2;
        struct engine_result got = one(e, &r);
        ptrdiff_t at = span_find(span_of(free_run.text, free_run.text_len), stops[1]);
        assert_true(at >= 0);
        assert_int_equal(got.finish, ENGINE_STOP);
        assert_int_equal(got.text_len, at);
        assert_memory_equal(got.text, free_run.text, got.text_len);
        assert_true(got.token_count < free_run.token_count);
        over_borders++;
        engine_result_fini(&got);
    }
    assert_true(over_borders > 2);
    r.stop_count = 0;
    r.stop_tokens = &free_run.tokens[7];
    r.stop_token_count = 1;
    size_t first = 0;
    while (free_run.tokens[first] != free_run.tokens[7]) first++;
    struct engine_result got = one(e, &r);
    assert_int_equal(got.finish, ENGINE_STOP);
    assert_int_equal(got.token_count, first + 1); /* counted, but without text */
    engine_result_fini(&got);
    /* the end of sequence, forced */
    struct sampler_bias bias = {(uint32_t)llama.weights.config.eos_ids[0], 100};
    r = tiny_request(ids, 3, 10);
    r.ignore_eos = false;
    r.sampling.bias = &bias;
    r.sampling.bias_count = 1;
    got = one(e, &r);
    assert_int_equal(got.finish, ENGINE_STOP);
    assert_int_equal(got.token_count, 1);
    assert_int_equal(got.text_len, 0);
    engine_result_fini(&got);
    r.ignore_eos = true;
    got = one(e, &r);
    assert_int_equal(got.finish, ENGINE_LENGTH);
    assert_int_equal(got.token_count, 10);
    engine_result_fini(&got);
    engine_result_fini(&free_run);
    engine_free(e);
}

static size_t distinct(const struct engine_result *r) {
    size_t n = 0;
    for (size_t i = 0; i < r->token_count; i++) {
        bool seen = false;
        for (size_t j = 0; j < i; j++) seen |= r->tokens[j] == r->tokens[i];
        n += !seen;
    }
    return n;
}

static void test_penalties_and_logprobs(void **state) {
    (void)state;
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 1});
    uint32_t ids[] = {9, 9, 9};
    struct engine_request r = tiny_request(ids, 3, 60);
    r.sampling.temperature = 0;
    struct engine_result plain = one(e, &r);
    r.sampling.frequency_penalty = 2;
    r.sampling.presence_penalty = 2;
    r.logprobs = true;
    r.top_logprobs = 5;
    struct engine_result penalised = one(e, &r);
    assert_true(distinct(&penalised) > distinct(&plain));
    for (size_t i = 0; i < penalised.token_count; i++) {
        const struct engine_logprobs *l = &penalised.logprobs[i];
        assert_int_equal(l->top_count, 5);
        for (uint32_t k = 0; k < 5; k++) {
            assert_true(l->top[k].logprob <= 0 && (k == 0 || l->top[k].logprob <= l->top[k - 1].logprob));
            if (l->top[k].token == penalised.tokens[i]) assert_true(l->top[k].logprob == l->logprob); /* before penalties */
        }
        assert_true(l->logprob <= l->top[0].logprob);
    }
    /* top_logits of the first new position: their first is what greedy takes */
    r = tiny_request(ids, 3, 1);
    r.sampling.temperature = 0;
    r.top_logits = 10000;
    struct engine_result top = one(e, &r);
    assert_int_equal(top.top_logit_count, TINY_VOCAB);
    assert_int_equal(top.top_logits[0].token, top.tokens[0]);
    for (size_t i = 1; i < TINY_VOCAB; i++) assert_true(top.top_logits[i].logit <= top.top_logits[i - 1].logit);
    engine_result_fini(&top);
    engine_result_fini(&plain);
    engine_result_fini(&penalised);
    engine_free(e);
}

static void test_chat(void **state) {
    (void)state;
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 1});
    assert_true(engine_has_chat(e));
    struct chat_message messages[] = {{SPAN("system"), SPAN("short")}, {SPAN("user"), SPAN("<|im_end|> is text")}};
    struct engine_request r;
    engine_request_init(&r);
    r.messages = messages;
    r.message_count = 2;
    r.tokens_max = 10;
    r.seed_set = true;
    struct tokens ids = {0};
    assert_int_equal(tokenizer_encode_chat(llama.tokenizer, CHAT_TEMPLATE_CHATML, messages, 2, true, &ids, NULL, NULL), 0);
    struct engine_result a = one(e, &r);
    struct engine_request by_ids = tiny_request(ids.ids, ids.len, 10);
    by_ids.ignore_eos = false;
    struct engine_result b = one(e, &by_ids);
    assert_int_equal(a.usage.prompt_tokens, ids.len);
    tiny_same("a chat and its ids", &a, &b);
    /* the end of the turn ends a chat */
    struct sampler_bias bias = {tokenizer_find(llama.tokenizer, SPAN(TOKENIZER_IM_END)), 100};
    r.sampling.bias = &bias;
    r.sampling.bias_count = 1;
    struct engine_result c = one(e, &r);
    assert_int_equal(c.finish, ENGINE_STOP);
    assert_int_equal(c.token_count, 1);
    engine_result_fini(&a);
    engine_result_fini(&b);
    engine_result_fini(&c);
    tokens_fini(&ids);
    engine_free(e);
}

/* --- life of requests --- */

static void expect_free(struct engine *e) {
    struct engine_stats s;
    engine_get_stats(e, &s);
    assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
    assert_int_equal(s.running, 0);
    assert_int_equal(s.queued, 0);
}

static void test_credit(void **state) {
    (void)state;
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 2});
    uint32_t ids[30];
    tiny_tokens(ids, 30, 21);
    struct engine_request r = tiny_request(ids, 30, 50), other = tiny_request(ids, 7, 50);
    struct engine_result whole = one(e, &r);
    struct watcher w;
    watcher_init(&w);
    r.credit = 3;
    uint64_t id;
    assert_int_equal(engine_submit(e, &r, &w, watch, &id, NULL), 0);
    wait_for(&w, 3);
    struct engine_result beside = one(e, &other); /* others go on meanwhile */
    assert_int_equal(w.tokens, 3);
    assert_false(w.over);
    engine_grant(e, id, 10);
    wait_for(&w, 13);
    engine_grant(e, 999999, 10);
    engine_grant(e, id, 1000);
    wait_for(&w, 0);
    assert_int_equal(w.finish, ENGINE_LENGTH);
    assert_int_equal(w.tokens, 50);
    assert_true(span_eq(buf_span(&w.text), span_of(whole.text, whole.text_len)));
    expect_free(e);
    buf_fini(&w.text);
    engine_result_fini(&whole);
    engine_result_fini(&beside);
    engine_free(e);
}

static void test_cancel_and_deadline(void **state) {
    (void)state;
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 2, .sequences_max = 2});
    uint32_t ids[30];
    tiny_tokens(ids, 30, 22);
    struct engine_request r = tiny_request(ids, 30, 100);
    struct watcher w[6];
    uint64_t id[6];
    r.credit = 2; /* all of them wait for their reader, two in slots */
    for (int i = 0; i < 6; i++) {
        watcher_init(&w[i]);
        r.deadline_ms = i == 5 ? clock_mono_ms() + 30 : 0;
        assert_int_equal(engine_submit(e, &r, &w[i], watch, &id[i], NULL), 0);
    }
    wait_for(&w[0], 2);
    wait_for(&w[1], 2);
    struct engine_stats s;
    engine_get_stats(e, &s);
    assert_true(s.kv_blocks_free < s.kv_blocks_total);
    wait_for(&w[5], 0); /* in the queue, by its deadline, though no step runs */
    assert_int_equal(w[5].finish, ENGINE_DEADLINE);
    assert_int_equal(w[5].error.code, E_DEADLINE);
    for (int i = 4; i >= 0; i--) engine_cancel(e, id[i]);
    for (int i = 0; i < 5; i++) {
        wait_for(&w[i], 0);
        assert_int_equal(w[i].finish, ENGINE_CANCELLED);
        assert_int_equal(w[i].error.code, E_CANCELLED);
    }
    expect_free(e);
    engine_cancel(e, id[0]); /* gone: fine */
    r.deadline_ms = clock_mono_ms() - 1;
    r.credit = SCHEDULER_CREDIT_UNLIMITED;
    buf_fini(&w[0].text);
    watcher_init(&w[0]);
    assert_int_equal(engine_submit(e, &r, &w[0], watch, NULL, NULL), 0);
    wait_for(&w[0], 0);
    assert_int_equal(w[0].finish, ENGINE_DEADLINE);
    for (int i = 0; i < 6; i++) buf_fini(&w[i].text);
    engine_free(e);
}

/* The wish not to go on comes while the prompt's tokens are still being made. */
static void test_cancel_at_once(void **state) {
    (void)state;
    enum { ROUNDS = 200, TEXT = 60 };
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 1});
    static char text[TEXT];
    for (size_t i = 0; i < TEXT; i++) text[i] = i % 3 == 0 ? ' ' : (char)('a' + i % 26);
    for (int i = 0; i < ROUNDS; i++) {
        struct watcher w;
        struct engine_request r;
        uint64_t id;
        engine_request_init(&r);
        r.prompt = span_of(text, TEXT);
        r.tokens_max = 10;
        r.credit = 1;
        r.ignore_eos = true;
        watcher_init(&w);
        assert_int_equal(engine_submit(e, &r, &w, watch, &id, NULL), 0);
        engine_cancel(e, id);
        wait_for(&w, 0);
        if (w.finish != ENGINE_CANCELLED) fail_msg("round %d: %s, %s", i, engine_finish_name(w.finish), w.error.message);
        buf_fini(&w.text);
    }
    expect_free(e);
    engine_free(e);
}

static void test_full_and_free(void **state) {
    (void)state;
    enum { SLOTS = 2, MANY = ENGINE_QUEUE_MIN + SLOTS + 5 };
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 1, .sequences_max = SLOTS, .queue_max = 1});
    uint32_t ids[] = {1, 2, 3};
    struct engine_request r = tiny_request(ids, 3, 20);
    r.credit = 0;
    static struct watcher w[MANY];
    int accepted = 0, refused = 0;
    struct error err;
    for (int i = 0; i < MANY; i++) {
        watcher_init(&w[i]);
        int result = engine_submit(e, &r, &w[i], watch, NULL, &err);
        if (result == 0) accepted++;
        else {
            assert_int_equal(result, E_FULL);
            assert_true(err.retriable);
            refused++;
        }
        if (refused == 1 && result != 0) assert_true(accepted >= ENGINE_QUEUE_MIN);
    }
    assert_true(refused > 0 && accepted >= ENGINE_QUEUE_MIN);
    engine_free(e); /* every one that was accepted is told */
    int told = 0;
    for (int i = 0; i < MANY; i++) {
        told += w[i].over;
        assert_true(!w[i].over || w[i].finish == ENGINE_CANCELLED);
        buf_fini(&w[i].text);
    }
    assert_int_equal(told, accepted);
}

/* Who waits can end it in the middle, and sees it go on; the engine is as before. */
struct onlooker {
    size_t finished, looks, stop_at;
    bool fewer;
};
static bool watcher_stops(void *arg) {
    struct onlooker *w = arg;
    return ++w->looks >= w->stop_at;
}
static void watcher_finished(void *arg, size_t finished) {
    struct onlooker *w = arg;
    w->fewer |= finished < w->finished;
    w->finished = finished;
}

static void test_watched(void **state) {
    (void)state;
    enum { MANY = 40 };
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 1, .sequences_max = 1});
    uint32_t ids[] = {7, 8};
    struct engine_request requests[MANY];
    struct engine_result alone[MANY], results[MANY];
    for (int i = 0; i < MANY; i++) {
        requests[i] = tiny_request(ids, 2, i == 3 ? ENGINE_TOKENS_MAX + 1 : 60);
        requests[i].sampling.seed = (uint64_t)i;
    }
    assert_int_equal(engine_generate_batch(e, requests, MANY, alone, NULL), 0);
    static const struct {
        const char *name;
        size_t stop_at;
        bool stopped;
    } cases[] = {{"before the first", 1, true}, {"as they are handed over", 5, true}, {"behind one that ended", MANY + 2, true}, {"never", SIZE_MAX, false}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct onlooker w = {.stop_at = cases[c].stop_at};
        struct engine_watch watch = {&w, watcher_stops, watcher_finished};
        struct error err = {0};
        requests[MANY - 1].credit = cases[c].stopped ? 1 : SCHEDULER_CREDIT_UNLIMITED; /* nobody grants more: it ends by the stop alone */
        int r = engine_generate_watched(e, requests, MANY, results, &watch, &err);
        if (r != (cases[c].stopped ? E_CANCELLED : 0)) fail_msg("%s: %d", cases[c].name, r);
        if (r) assert_true(w.looks == cases[c].stop_at && err.code == E_CANCELLED);
        else assert_int_equal(w.finished, MANY);
        assert_false(w.fewer);
        int cancelled = 0;
        for (int i = 0; i < MANY; i++) {
            assert_int_not_equal(results[i].finish, ENGINE_RUNNING);
            cancelled += results[i].finish == ENGINE_CANCELLED;
            if (results[i].finish == ENGINE_LENGTH) tiny_same(cases[c].name, &alone[i], &results[i]);
            engine_result_fini(&results[i]);
        }
        assert_int_equal(cancelled > 0, cases[c].stopped);
        struct engine_stats s;
        engine_get_stats(e, &s);
        assert_int_equal(s.running + s.queued, 0);
        assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
    }
    for (int i = 0; i < MANY; i++) engine_result_fini(&alone[i]);
    engine_free(e);
}

/* More than the engine queues at once, through the synchronous door. */
static void test_large_batch(void **state) {
    (void)state;
    enum { MANY = 300 };
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 2, .sequences_max = 8, .queue_max = 1});
    uint32_t ids[] = {7, 8};
    static struct engine_request requests[MANY];
    static struct engine_result results[MANY];
    for (int i = 0; i < MANY; i++) {
        requests[i] = tiny_request(ids, 2, i == 50 ? ENGINE_TOKENS_MAX + 1 : 3);
        requests[i].sampling.seed = (uint64_t)i;
    }
    assert_int_equal(engine_generate_batch(e, requests, MANY, results, NULL), 0);
    for (int i = 0; i < MANY; i++) {
        if (i == 50) assert_int_equal(results[i].error.code, E_INVALID);
        else assert_int_equal(results[i].token_count, 3);
        engine_result_fini(&results[i]);
    }
    expect_free(e);
    engine_free(e);
}

static void test_refusals(void **state) {
    (void)state;
    struct engine *e = tiny_engine(&llama, (struct engine_options){.threads = 1});
    uint32_t ids[TINY_CONTEXT + 1];
    tiny_tokens(ids, TINY_CONTEXT + 1, 3);
    struct engine_request r = tiny_request(ids, TINY_CONTEXT - 4, 100);
    struct engine_result result = one(e, &r); /* cut to what the context leaves */
    assert_int_equal(result.token_count, 4);
    assert_int_equal(result.finish, ENGINE_LENGTH);
    engine_result_fini(&result);
    static const struct {
        const char *name, *param;
        size_t count;
        int64_t max;
        uint32_t top_logprobs, token;
        double temperature;
        int code;
    } cases[] = {
        {"a prompt as long as the context", "prompt", TINY_CONTEXT, 5, 0, 1, 1, E_RANGE},
        {"a longer one", "prompt_tokens", TINY_CONTEXT + 1, 5, 0, 1, 1, E_RANGE},
        {"max_tokens", "max_tokens", 3, ENGINE_TOKENS_MAX + 1, 0, 1, 1, E_INVALID},
        {"top_logprobs", "top_logprobs", 3, 5, 21, 1, 1, E_INVALID},
        {"an id beyond the vocabulary", "prompt_tokens", 3, 5, 0, TINY_VOCAB, 1, E_INVALID},
        {"temperature", "temperature", 3, 5, 0, 1, 3, E_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        r = tiny_request(ids, cases[i].count, cases[i].max);
        ids[0] = cases[i].token;
        r.top_logprobs = cases[i].top_logprobs;
        r.sampling.temperature = cases[i].temperature;
        assert_int_equal(engine_generate_batch(e, &r, 1, &result, NULL), 0);
        if (result.error.code != cases[i].code || strcmp(result.error.param, cases[i].param) != 0)
            fail_msg("%s: %d %s (%s)", cases[i].name, result.error.code, result.error.param, result.error.message);
        engine_result_fini(&result);
    }
    ids[0] = 1;
    /* an empty text begins with the end of the text before it */
    engine_request_init(&r);
    r.tokens_max = 2;
    result = one(e, &r);
    assert_int_equal(result.usage.prompt_tokens, 1);
    engine_result_fini(&result);
    struct error err;
    struct engine *none = NULL;
    assert_int_equal(engine_new(&none, "/nonexistent", &(struct engine_options){0}, &err), E_NOT_FOUND);
    expect_free(e);
    engine_free(e);
}

static void test_run(void **state) {
    (void)state;
    struct engine_run_options o;
    struct error err;
    char *text = NULL;
    size_t len = 0;
    engine_run_options_init(&o);
    o.model = llama.path;
    o.threads = 1;
    o.json = true;
    o.top_logits = 3;
    o.max_tokens = 5;
    o.ignore_eos = true;
    uint32_t *ids;
    size_t n;
    assert_int_equal(engine_parse_tokens(SPAN("5, 6,7"), &ids, &n, &err), 0);
    assert_int_equal(n, 3);
    o.tokens = ids;
    o.token_count = n;
    for (int task = 0; task < 2; task++) {
        o.task = task ? "logprobs" : "generate";
        FILE *f = open_memstream(&text, &len);
        assert_int_equal(engine_run(&o, f, &err), 0);
        fclose(f);
        struct json *root;
        assert_int_equal(json_parse(span_of(text, len), &root, &err), 0);
        if (task == 0) {
            assert_int_equal(json_size(json_get(root, "tokens")), 5);
            assert_int_equal(json_size(json_get(root, "top_logits")), 3);
            assert_int_equal(json_int(json_get(json_at(json_get(root, "top_logits"), 0), "id"), -1), json_int(json_at(json_get(root, "tokens"), 0), -2));
            assert_int_equal(json_type(json_get(root, "text")), JSON_TYPE_STRING);
        } else {
            assert_int_equal(json_size(json_get(root, "logprobs")), 2);
            assert_int_equal(json_size(json_get(root, "argmax")), 2);
        }
        json_free(root);
        free(text);
    }
    mem_free(ids);
    o.task = "logprobs";
    o.target = SPAN("a target");
    assert_int_equal(engine_run(&o, stdout, &err), E_UNSUPPORTED);
    assert_string_equal(err.param, "target");
    o.task = "embed";
    assert_int_equal(engine_run(&o, stdout, &err), E_UNSUPPORTED);
    o.task = "dance";
    assert_int_equal(engine_run(&o, stdout, &err), E_INVALID);
    assert_int_equal(engine_parse_tokens(SPAN("1,x"), &ids, &n, &err), E_INVALID);
    assert_int_equal(engine_parse_tokens(SPAN(""), &ids, &n, &err), E_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_trainer), cmocka_unit_test(test_trainer_refuses), cmocka_unit_test(test_int8), cmocka_unit_test(test_invariance), cmocka_unit_test(test_next_turn), cmocka_unit_test(test_q8_is_close), cmocka_unit_test(test_grows_long),
        cmocka_unit_test(test_text),           cmocka_unit_test(test_seeds),      cmocka_unit_test(test_stops),
        cmocka_unit_test(test_penalties_and_logprobs), cmocka_unit_test(test_chat), cmocka_unit_test(test_credit),
        cmocka_unit_test(test_cancel_and_deadline), cmocka_unit_test(test_cancel_at_once), cmocka_unit_test(test_full_and_free), cmocka_unit_test(test_large_batch), cmocka_unit_test(test_watched),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_run),
    };
    return cmocka_run_group_tests_name("engine", tests, set_up, tear_down);
}
