/* Guesses change no token: whatever the sampler, the seed, the company and the end, it is the answer without them. Since each token is drawn with its own number and never taken
 * from a guess, this holds of every single draw, and with it of any distribution. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/random.h"
#include "engine/engine.h"
#include "tiny.h"

static struct tiny llama;

static int set_up(void **state) {
    (void)state;
    tiny_make(&llama, "llama", 1);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    tiny_remove(&llama);
    return 0;
}

static enum kv_type kv_type; /* of all engines */
static struct engine *start(struct engine_options o) {
    struct engine *e = NULL;
    struct error err;
    o.kv_type = kv_type;
    if (engine_new(&e, llama.path, &o, &err) != 0) fail_msg("%s", err.message);
    return e;
}

enum { REQUESTS = 60, LONGEST = 100 };
static uint32_t prompts[REQUESTS][LONGEST];

/* Prompts of few tokens that come again and again: guesses are found everywhere, and few are true where the temperature is high. */
static void make_requests(struct engine_request *requests) {
    static const struct span stop[] = {{"a", 1}, {"the", 3}};
    for (size_t i = 0; i < REQUESTS; i++) {
        struct random r;
        random_seed(&r, i);
        for (size_t t = 0; t < LONGEST; t++) prompts[i][t] = t < 12 ? (uint32_t)random_below(&r, TINY_VOCAB) : prompts[i][t - 12];
        struct engine_request *q = &requests[i];
        engine_request_init(q);
        q->tokens = prompts[i];
        q->token_count = 20 + i * 13 % 80;
        q->tokens_max = 1 + (int64_t)(i * 7 % 70);
        q->ignore_eos = i % 4 != 0;
        q->seed_set = q->logprobs = true;
        q->top_logprobs = (uint32_t)(i % 3);
        q->sampling.seed = i * 31;
        q->sampling.temperature = i % 3 == 0 ? 0 : i % 3 == 1 ? 0.3 : 1;
        q->sampling.top_p = i % 5 == 1 ? 0.8 : 1;
        q->sampling.repetition_penalty = i % 6 == 2 ? 1.3 : 1;
        q->sampling.frequency_penalty = i % 7 == 3 ? 0.5 : 0;
        q->prompt_logprobs = i % 9 == 4;
        q->echo = i % 11 == 5;
        if (i % 8 == 6) {
            q->stop = stop;
            q->stop_count = 2;
        }
    }
}

static void test_same_tokens(void **state) {
    (void)state;
    struct engine_request requests[REQUESTS];
    static struct engine_result want[REQUESTS], got[REQUESTS];
    make_requests(requests);
    struct engine *e = start((struct engine_options){.threads = 2});
    for (size_t i = 0; i < REQUESTS; i++) assert_int_equal(engine_generate_batch(e, &requests[i], 1, &want[i], NULL), 0);
    struct engine_stats s;
    engine_get_stats(e, &s);
    assert_int_equal(s.guessed, 0);
    uint64_t completion = s.completion_tokens, steps = s.steps;
    engine_free(e);
    static const struct {
        const char *name;
        struct engine_options options;
        size_t group; /* so many at a time */
        bool guesses;
    } ways[] = {
        {"alone", {.threads = 2, .guessing = ENGINE_GUESS_ALWAYS}, 1, true},
        {"together", {.threads = 2, .guessing = ENGINE_GUESS_ALWAYS}, REQUESTS, false},
        {"few together", {.threads = 2, .guessing = ENGINE_GUESS_ALWAYS}, 4, true},
        {"small steps", {.threads = 1, .guessing = ENGINE_GUESS_ALWAYS, .sequences_max = 3, .step_rows = 9, .step_rows_mixed = 4}, 3, true},
        {"while it pays", {.threads = 2, .guessing = ENGINE_GUESS_LOOKUP}, 1, false},
    };
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        e = start(ways[w].options);
        for (size_t i = 0; i < REQUESTS; i += ways[w].group) assert_int_equal(engine_generate_batch(e, &requests[i], ways[w].group, &got[i], NULL), 0);
        for (size_t i = 0; i < REQUESTS; i++) {
            if (got[i].token_count != want[i].token_count || memcmp(got[i].tokens, want[i].tokens, got[i].token_count * sizeof *got[i].tokens) != 0)
                fail_msg("%s: other tokens of request %zu", ways[w].name, i);
            assert_int_equal(got[i].finish, want[i].finish);
            assert_true(span_eq(span_of(got[i].text, got[i].text_len), span_of(want[i].text, want[i].text_len)));
            for (size_t t = 0; t < got[i].token_count; t++) {
                assert_true(got[i].logprobs[t].logprob == want[i].logprobs[t].logprob);
                for (uint32_t k = 0; k < requests[i].top_logprobs; k++) assert_int_equal(got[i].logprobs[t].top[k].token, want[i].logprobs[t].top[k].token);
            }
            assert_int_equal(got[i].prompt_count, want[i].prompt_count);
            engine_result_fini(&got[i]);
        }
        engine_get_stats(e, &s);
        if (ways[w].guesses && (s.guessed == 0 || s.guessed_right == 0)) fail_msg("%s: %d guesses right", ways[w].name, (int)s.guessed_right);
        assert_int_equal(s.completion_tokens, completion);
        if (w == 0 && s.steps >= steps) fail_msg("%d steps, without guesses %d", (int)s.steps, (int)steps);
        assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
        engine_free(e);
    }
    for (size_t i = 0; i < REQUESTS; i++) engine_result_fini(&want[i]);
}

static void test_same_tokens_int8(void **state) {
    kv_type = KV_INT8;
    test_same_tokens(state);
    kv_type = KV_F32;
}

/* Never a token more than the reader has granted. */
struct reader {
    pthread_mutex_t lock;
    uint32_t tokens[256];
    size_t count;
    bool over;
};
static void read_event(void *arg, const struct engine_event *event) {
    struct reader *w = arg;
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < event->token_count; i++) w->tokens[w->count++] = event->tokens[i];
    w->over = event->finish != ENGINE_RUNNING;
    pthread_mutex_unlock(&w->lock);
}

static void test_credit(void **state) {
    (void)state;
    struct engine *e = start((struct engine_options){.threads = 2, .guessing = ENGINE_GUESS_ALWAYS});
    uint32_t ids[40];
    for (uint32_t i = 0; i < 40; i++) ids[i] = i % 5 + 10;
    struct engine_request r;
    engine_request_init(&r);
    r.tokens = ids;
    r.token_count = 40;
    r.tokens_max = 90;
    r.ignore_eos = true;
    r.sampling.temperature = 0;
    r.no_guesses = true;
    struct engine_result whole;
    assert_int_equal(engine_generate_batch(e, &r, 1, &whole, NULL), 0);
    struct engine_stats s;
    engine_get_stats(e, &s);
    assert_int_equal(s.guessed, 0);
    struct reader w = {.lock = PTHREAD_MUTEX_INITIALIZER};
    uint64_t id;
    r.no_guesses = false;
    r.credit = 4;
    assert_int_equal(engine_submit(e, &r, &w, read_event, &id, NULL), 0);
    size_t granted = 4;
    for (int64_t until = clock_mono_ms() + 60000;;) {
        pthread_mutex_lock(&w.lock);
        size_t count = w.count;
        bool over = w.over;
        pthread_mutex_unlock(&w.lock);
        assert_true(count <= granted);
        if (over) break;
        if (count == granted) {
            granted += 3;
            engine_grant(e, id, 3);
        }
        if (clock_mono_ms() > until) fail_msg("%zu tokens within a minute", count);
        (void)nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    assert_int_equal(w.count, whole.token_count);
    assert_memory_equal(w.tokens, whole.tokens, w.count * sizeof *w.tokens);
    engine_result_fini(&whole);
    engine_free(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_tokens), cmocka_unit_test(test_same_tokens_int8), cmocka_unit_test(test_credit)};
    return cmocka_run_group_tests_name("speculation", tests, set_up, tear_down);
}
