/* A draft model changes no token: whatever it guesses, for whatever sampler, constraint, company, prefix and preemption, the answer is the one without it, draw for draw, and with that of any
 * distribution. What guesses well saves steps, what guesses badly is hardly asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "engine/draft_model.h"
#include "engine/engine.h"
#include "tiny.h"
#include "tokenizer/chat.h"
#include "tokenizer/train.h"

static struct tiny llama, other, longer; /* other: another family and other weights; longer: turns long sequences otherwise */

static int set_up(void **state) {
    (void)state;
    tiny_make(&llama, "llama", 1);
    tiny_make(&other, "gpt2", 2);
    tiny_make(&longer, "phi3", 3);
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    tiny_remove(&llama);
    tiny_remove(&other);
    tiny_remove(&longer);
    return 0;
}

static enum kv_type kv_type; /* of all engines */
static struct engine *start(const struct tiny *model, struct engine_options o) {
    struct engine *e = NULL;
    struct error err;
    o.kv_type = kv_type;
    if (engine_new(&e, model->path, &o, &err) != 0) fail_msg("%s", err.message);
    return e;
}

enum { REQUESTS = 24, LONGEST = 120 };
static uint32_t prompts[REQUESTS][LONGEST];

/* Beginnings in common, and behind them nothing that comes again. */
static void make_requests(struct engine_request *requests) {
    static const struct span stop[] = {{"a", 1}, {"the", 3}};
    for (size_t i = 0; i < REQUESTS; i++) {
        struct random r;
        random_seed(&r, 100 + i % 3);
        for (size_t t = 0; t < LONGEST; t++) {
            if (t == 20 * (i % 4)) random_seed(&r, i);
            prompts[i][t] = (uint32_t)random_below(&r, TINY_VOCAB - 3);
        }
        struct engine_request *q = &requests[i];
        engine_request_init(q);
        q->tokens = prompts[i];
        q->token_count = 1 + i * 13 % 110;
        q->tokens_max = 1 + (int64_t)(i * 17 % 80);
        q->ignore_eos = i % 4 != 0;
        q->seed_set = q->logprobs = true;
        q->top_logprobs = (uint32_t)(i % 3);
        q->priority = (int32_t)(i % 3);
        q->scope = i % 2 ? SPAN("one") : SPAN("two");
        q->sampling.seed = i * 31;
        q->sampling.temperature = i % 3 == 0 ? 0 : i % 3 == 1 ? 0.3 : 1;
        q->sampling.top_p = i % 5 == 1 ? 0.8 : 1;
        q->sampling.repetition_penalty = i % 6 == 2 ? 1.3 : 1;
        q->sampling.mirostat = i % 7 == 4 ? 2 : 0;
        q->sampling.mirostat_tau = 5;
        q->sampling.mirostat_eta = 0.1;
        q->sampling.dry_multiplier = i % 7 == 5 ? 0.8 : 0;
        q->sampling.dry_base = 1.75;
        q->sampling.dry_allowed_length = 2;
        q->prompt_logprobs = i % 9 == 4;
        if (i % 8 == 6) {
            q->stop = stop;
            q->stop_count = 2;
        }
        if (i % 8 == 3) {
            q->constraint = GRAMMAR_REGEX;
            q->constraint_text = SPAN("[a-z]{5,30}( [0-9]{2}){3,9}");
        }
    }
}

static void same(const char *way, size_t i, const struct engine_result *want, const struct engine_result *got) {
    if (got->error.code != 0) fail_msg("%s: request %zu: %s", way, i, got->error.message);
    if (got->token_count != want->token_count || memcmp(got->tokens, want->tokens, got->token_count * sizeof *got->tokens) != 0) fail_msg("%s: other tokens of request %zu", way, i);
    assert_int_equal(got->finish, want->finish);
    assert_true(span_eq(span_of(got->text, got->text_len), span_of(want->text, want->text_len)));
    for (size_t t = 0; t < got->token_count; t++) assert_true(got->logprobs[t].logprob == want->logprobs[t].logprob);
    assert_int_equal(got->prompt_count, want->prompt_count);
}

enum { WAYS = 8 };
static void check_same(const struct tiny *model, size_t first, size_t count) {
    struct engine_request requests[REQUESTS];
    static struct engine_result want[REQUESTS], got[REQUESTS];
    make_requests(requests);
    struct engine *e = start(model, (struct engine_options){.threads = 2});
    for (size_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(engine_generate_batch(e, &requests[i], 1, &want[i], NULL), 0);
        if (want[i].error.code != 0) fail_msg("request %zu: %s", i, want[i].error.message);
    }
    engine_free(e);
    const struct {
        const char *name;
        struct engine_options options;
        size_t group; /* so many at a time */
    } ways[WAYS] = {
        {"itself, alone", {.threads = 2, .guessing = ENGINE_GUESS_ALWAYS, .draft = model->path}, 1},
        {"another, alone", {.threads = 1, .guessing = ENGINE_GUESS_ALWAYS, .draft = other.path}, 1},
        {"itself, few together", {.threads = 2, .guessing = ENGINE_GUESS_ALWAYS, .draft = model->path}, 5},
        {"another, few together", {.threads = 2, .guessing = ENGINE_GUESS_ALWAYS, .draft = other.path, .draft_tokens = 3}, 8},
        {"a small cache", {.threads = 2, .guessing = ENGINE_GUESS_ALWAYS, .draft = model->path, .kv_bytes = 900000, .sequences_max = 4}, REQUESTS},
        {"small steps", {.threads = 2, .guessing = ENGINE_GUESS_ALWAYS, .draft = model->path, .kv_bytes = 900000, .sequences_max = 7, .step_rows = 30, .step_rows_mixed = 7}, 10},
        {"while it pays", {.threads = 2, .guessing = ENGINE_GUESS_LOOKUP, .draft = model->path}, 4},
        {"no lookup", {.threads = 2, .draft = other.path}, 4},
    };
    for (size_t w = first; w < first + count; w++) {
        struct engine_stats s;
        e = start(model, ways[w].options);
        for (size_t i = 0; i < REQUESTS; i += ways[w].group)
            assert_int_equal(engine_generate_batch(e, &requests[i], ways[w].group < REQUESTS - i ? ways[w].group : REQUESTS - i, &got[i], NULL), 0);
        for (size_t i = 0; i < REQUESTS; i++) {
            same(ways[w].name, i, &want[i], &got[i]);
            engine_result_fini(&got[i]);
        }
        engine_get_stats(e, &s);
        if (ways[w].options.guessing == ENGINE_GUESS_ALWAYS && s.drafted == 0) fail_msg("%s: nothing was guessed", ways[w].name);
        assert_true(s.drafted_right <= s.drafted && s.drafted <= s.guessed);
        assert_int_equal(s.kv_blocks_free, s.kv_blocks_total);
        engine_free(e);
    }
    for (size_t i = 0; i < REQUESTS; i++) engine_result_fini(&want[i]);
}

static void test_same_tokens(void **state) {
    (void)state;
    check_same(&llama, 0, WAYS);
}
static void test_same_tokens_int8(void **state) {
    (void)state;
    kv_type = KV_INT8;
    check_same(&llama, 0, 3);
    kv_type = KV_F32;
}
static void test_same_tokens_long(void **state) {
    (void)state;
    check_same(&longer, 2, 2);
}

/* What it has computed itself it guesses rightly, at any temperature: both draw by the same number. Then a step is made of several tokens. */
static void test_right(void **state) {
    (void)state;
    struct engine *e = start(&llama, (struct engine_options){.threads = 2, .guessing = ENGINE_GUESS_ALWAYS, .draft = llama.path});
    struct engine_stats before = {0}, s;
    static const double temperatures[] = {0, 0.7, 1, 2};
    for (size_t i = 0; i < 4; i++) {
        struct engine_request r;
        struct engine_result got;
        uint32_t ids[] = {1, 2, 3, 4, 5, (uint32_t)i};
        engine_request_init(&r);
        r.tokens = ids;
        r.token_count = 6;
        r.tokens_max = 150;
        r.ignore_eos = r.seed_set = true;
        r.sampling.seed = i;
        r.sampling.temperature = temperatures[i];
        assert_int_equal(engine_generate_batch(e, &r, 1, &got, NULL), 0);
        assert_int_equal(got.token_count, 150);
        engine_result_fini(&got);
        engine_get_stats(e, &s);
        uint64_t drafted = s.drafted - before.drafted, right = s.drafted_right - before.drafted_right;
        if (right != drafted || drafted < 100) fail_msg("temperature %g: %d of %d guesses were right", temperatures[i], (int)right, (int)drafted);
        if (s.steps - before.steps > 25) fail_msg("%d steps", (int)(s.steps - before.steps));
        before = s;
    }
    engine_free(e);
}

/* Guesses of an engine whose draft model is always wrong, for 40 answers of 180 tokens. */
static uint64_t wrong_guesses(uint64_t *tokens) {
    struct engine *e = start(&llama, (struct engine_options){.threads = 1, .draft = other.path});
    for (uint32_t i = 0; i < 40; i++) {
        struct engine_request r;
        struct engine_result got;
        uint32_t ids[] = {7, i, 9};
        engine_request_init(&r);
        r.tokens = ids;
        r.token_count = 3;
        r.tokens_max = 180;
        r.ignore_eos = r.seed_set = true;
        r.sampling.seed = i;
        assert_int_equal(engine_generate_batch(e, &r, 1, &got, NULL), 0);
        engine_result_fini(&got);
    }
    struct engine_stats s;
    engine_get_stats(e, &s);
    engine_free(e);
    *tokens = s.completion_tokens;
    return s.drafted;
}

/* It is asked now and then, whatever it costs, where one that is believed is asked for every token. How often exactly hangs on the time that steps take, which a machine that stands still falsifies: not three times. */
static void test_wrong(void **state) {
    (void)state;
    uint64_t tokens = 0, drafted = 0;
    for (int tries = 0; tries < 3; tries++) {
        drafted = wrong_guesses(&tokens);
        assert_true(drafted > 0);
        if (drafted <= tokens / 2) return;
    }
    fail_msg("%d guesses beside %d tokens", (int)drafted, (int)tokens);
}

/* --- vocabularies --- */

/* What an engine says that it takes is what a memory budget counts: the draft's weights are a part of it, and its keys and values lie in what was given for both. */
static void test_memory(void **state) {
    (void)state;
    enum { KV_BYTES = 1 << 20 };
    struct engine *without = start(&llama, (struct engine_options){.threads = 1, .kv_bytes = KV_BYTES}), *with = start(&llama, (struct engine_options){.threads = 1, .kv_bytes = KV_BYTES, .draft = llama.path});
    struct engine_weights w;
    struct engine_stats alone, both;
    engine_get_weights(without, &w);
    engine_get_stats(without, &alone);
    engine_get_stats(with, &both);
    size_t slack = KV_BYTES / both.kv_blocks_total; /* a block, for the rest that makes none */
    assert_true(both.kv_blocks_total == alone.kv_blocks_total / 2);
    assert_true(engine_memory(with) + slack > engine_memory(without) + w.size);
    assert_true(engine_memory(with) < 2 * engine_memory(without));
    engine_free(without);
    engine_free(with);
}

static void test_refused(void **state) {
    (void)state;
    static const char text[] = "Quite another text, from which other tokens are made: zebras quiz jovial foxes, again and again zebras quiz jovial foxes.";
    struct error err = {0};
    struct tokenizer_trainer *trainer;
    struct tokenizer *tokenizer;
    struct engine *e = NULL;
    char path[128];
    struct tokenizer_train_options options = {.vocab_size = TINY_VOCAB};
    assert_int_equal(tokenizer_trainer_new(&trainer, &options, &err), 0);
    assert_int_equal(tokenizer_trainer_feed(trainer, span_str(text), &err), 0);
    assert_int_equal(tokenizer_trainer_finish(trainer, &tokenizer, NULL, NULL, &err), 0);
    tokenizer_trainer_free(trainer);
    snprintf(path, sizeof path, "%s-quite-another", other.path); /* in the same temporary directory */
    struct model_dir_parts parts = {.weights = &other.weights, .dtype = DTYPE_F32, .tokenizer = tokenizer};
    if (model_dir_write(path, &parts, &err) != 0) fail_msg("%s", err.message);
    assert_int_equal(engine_new(&e, llama.path, &(struct engine_options){.draft = path}, &err), E_INVALID);
    if (!strstr(err.message, "vocabulary") || !strstr(err.message, "its token ")) fail_msg("%s", err.message);
    snprintf(path, sizeof path, "%s-without", other.path);
    parts.tokenizer = NULL;
    if (model_dir_write(path, &parts, &err) != 0) fail_msg("%s", err.message);
    assert_int_equal(engine_new(&e, llama.path, &(struct engine_options){.draft = path}, &err), E_INVALID);
    if (!strstr(err.message, "tokenizer")) fail_msg("%s", err.message);
    assert_true(engine_new(&e, llama.path, &(struct engine_options){.draft = "/nowhere/at/all"}, &err) < 0);
    if (!strstr(err.message, "draft model /nowhere/at/all")) fail_msg("%s", err.message);
    assert_null(e);
    tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_tokens), cmocka_unit_test(test_same_tokens_int8), cmocka_unit_test(test_same_tokens_long), cmocka_unit_test(test_right), cmocka_unit_test(test_wrong),
                                       cmocka_unit_test(test_memory), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests_name("draft_model", tests, set_up, tear_down);
}
