/*
 * Whole runs of small models: they learn; the same bytes come out for any number of threads, any split, and any instant of death; what they leave is a model
 * directory; evaluation agrees with training.
 */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "model/model_dir.h"
#include "tokenizer/train.h"
#include "train/checkpoint.h"
#include "evaluate.h"
#include "train/local.h"
#include "train/metrics.h"
#include "train/train.h"

enum { VOCAB = 64, PATH_SIZE = 512 };
static char home[64], tokens_path[PATH_SIZE], pairs_path[PATH_SIZE], lines_path[PATH_SIZE], base_dir[PATH_SIZE];

static char *at(char out[PATH_SIZE], const char *name) {
    snprintf(out, PATH_SIZE, "%s/%s", home, name);
    return out;
}

static void write_text(const char *path, const struct buf *b) {
    struct error err = {0};
    if (file_write(path, buf_span(b), 0600, &err)) fail_msg("%s", err.message);
}

/* A language that can be learnt: the next token is a function of the last, with some noise. */
static uint32_t next_token(struct random *r, uint32_t t) { return random_below(r, 8) ? (t * 5 + 3) % VOCAB : (uint32_t)random_below(r, VOCAB); }

static int set_up(void **state) {
    (void)state;
    struct random r;
    struct buf b;
    random_seed(&r, 1);
    snprintf(home, sizeof home, "/tmp/genloop-train-XXXXXX");
    assert_non_null(mkdtemp(home));
    buf_init(&b, 1 << 22);
    uint32_t t = 1;
    for (int i = 0; i < 20000; i++) {
        t = next_token(&r, t);
        uint16_t id = (uint16_t)t;
        buf_append(&b, &id, 2);
    }
    write_text(at(tokens_path, "tokens.bin"), &b);
    buf_clear(&b);
    for (int i = 0; i < 40; i++) { /* chosen: small tokens */
        buf_append_str(&b, "{\"prompt\":[");
        for (int k = 0; k < 3 + i % 5; k++) buf_printf(&b, "%s%u", k ? "," : "", (unsigned)random_below(&r, VOCAB));
        buf_append_str(&b, "],\"chosen\":[");
        for (int k = 0; k < 4 + i % 7; k++) buf_printf(&b, "%s%u", k ? "," : "", (unsigned)random_below(&r, VOCAB / 2));
        buf_append_str(&b, "],\"rejected\":[");
        for (int k = 0; k < 4 + i % 3; k++) buf_printf(&b, "%s%u", k ? "," : "", (unsigned)(VOCAB / 2 + random_below(&r, VOCAB / 2)));
        buf_append_str(&b, "]}\n");
    }
    write_text(at(pairs_path, "pairs.jsonl"), &b);
    buf_clear(&b);
    for (int i = 0; i < 30; i++) {
        t = (uint32_t)random_below(&r, VOCAB);
        buf_append_str(&b, "{\"ids\":[");
        for (int k = 0; k < 6 + i; k++) {
            buf_printf(&b, "%s%u", k ? "," : "", t);
            t = next_token(&r, t);
        }
        buf_printf(&b, "],\"labels_from\":%d}\n", i % 9);
    }
    write_text(at(lines_path, "lines.jsonl"), &b);
    buf_fini(&b);
    at(base_dir, "base");
    return 0;
}
static int tear_down(void **state) {
    (void)state;
    return dir_remove(home, NULL);
}

static void pretrain_recipe(struct train_recipe *r, const char *arch) {
    recipe_default(r, RECIPE_PRETRAIN);
    snprintf(r->model.architecture, sizeof r->model.architecture, "%s", arch);
    r->model.layers = 2;
    r->model.width = 32;
    r->model.heads = 4;
    r->model.kv_heads = strcmp(arch, "llama") == 0 ? 2 : 4;
    r->model.context = 64;
    r->model.vocab = VOCAB;
    r->data.shuffle = true;
    r->batch.sequences = 12;
    r->optimizer.lr = 3e-3;
    r->steps = 30;
    r->checkpoint.every = 5;
    r->threads = 1;
    r->schedule.kind = NN_SCHEDULE_COSINE;
    r->schedule.warmup_steps = 3;
    snprintf(r->data.tokens, sizeof r->data.tokens, "tokens.bin");
}
static void dpo_recipe(struct train_recipe *r) {
    recipe_default(r, RECIPE_DPO);
    snprintf(r->model.base, sizeof r->model.base, "base");
    snprintf(r->data.file, sizeof r->data.file, "pairs.jsonl");
    r->batch.sequences = 8;
    r->batch.length = 32;
    r->optimizer.lr = 1e-3;
    r->steps = 20;
    r->checkpoint.every = 4;
    r->threads = 2;
}

struct seen {
    uint64_t steps, first_step, checkpoints, stop_after;
    double first_loss, last_loss, last_accuracy, last_evaluate;
    enum train_order order;
};
static void on_step(void *arg, const struct train_step *s) {
    struct seen *x = arg;
    if (x->steps++ == 0) x->first_loss = s->loss, x->first_step = s->step;
    x->last_loss = s->loss;
    x->last_accuracy = s->dpo_accuracy;
    if (!isnan(s->evaluate_loss)) x->last_evaluate = s->evaluate_loss;
    assert_true(s->grad_norm > 0 && s->lr >= 0 && s->tokens > 0);
}
static void on_checkpoint(void *arg, uint64_t step) {
    struct seen *x = arg;
    (void)step;
    x->checkpoints++;
}
static enum train_order should_stop(void *arg) {
    struct seen *x = arg;
    return x->stop_after && x->steps >= x->stop_after ? x->order : TRAIN_GO_ON;
}

static int run(const struct train_recipe *r, const char *out, struct seen *seen, struct train_result *result, struct error *err) {
    char dir[PATH_SIZE];
    struct train_events ev = {.arg = seen, .on_step = on_step, .on_checkpoint = on_checkpoint, .should_stop = should_stop};
    struct train_paths p = {.recipe_dir = home, .out_dir = at(dir, out)};
    *err = (struct error){0};
    return train_run(r, &p, &ev, result, err);
}
static struct train_result whole(const struct train_recipe *r, const char *out, struct seen *seen) {
    struct error err;
    struct train_result result;
    *seen = (struct seen){0};
    if (run(r, out, seen, &result, &err)) fail_msg("%s: %s", out, err.message);
    return result;
}

static void test_learns(void **state) {
    (void)state;
    static const char *const archs[] = {"llama", "gpt2"};
    for (int i = 0; i < 2; i++) {
        struct train_recipe r;
        struct seen seen;
        char dir[PATH_SIZE], path[PATH_SIZE + 32];
        pretrain_recipe(&r, archs[i]);
        r.steps = 60;
        r.optimizer.lr = 1e-2;
        const char *out = i ? "gpt2" : "base";
        struct train_result first = whole(&r, out, &seen);
        assert_int_equal(seen.steps, 60);
        assert_int_equal(seen.checkpoints, 11); /* not at the last step: the model is written then */
        assert_true(fabs(seen.first_loss - log(VOCAB)) < 0.3);
        if (seen.last_loss > 2.2) fail_msg("%s: the last loss is %g", archs[i], seen.last_loss);
        assert_int_equal(first.tokens, 60 * 12 * 64);

        struct model_dir m;
        struct error err = {0};
        if (model_dir_load(&m, at(dir, out), MODEL_WEIGHTS_FLAT, 0, &err)) fail_msg("%s", err.message);
        assert_int_equal(m.config.layers, 2);
        model_dir_fini(&m);
        static const char *const files[] = {"README.md", "config.json", "runs/metrics.jsonl"};
        for (int f = 0; f < 3; f++) {
            snprintf(path, sizeof path, "%s/%s", dir, files[f]);
            assert_true(file_exists(path));
        }
        static const char *const gone[] = {"checkpoints", ".writing"};
        for (int f = 0; f < 2; f++) {
            snprintf(path, sizeof path, "%s/%s", dir, gone[f]);
            assert_false(file_exists(path));
        }
        struct train_result again = whole(&r, out, &seen);
        assert_true(again.was_finished);
        assert_int_equal(seen.steps, 0);
        assert_string_equal(again.weights_sha256, first.weights_sha256);
    }
}

static void same_bytes(struct train_recipe *r, const char *name) {
    static const uint32_t settings[][2] = {{1, 1}, {2, 1}, {3, 1}, {1, 2}, {3, 4}, {2, 5}};
    char first[65] = "", out[32];
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        struct seen seen;
        r->threads = settings[i][0];
        r->batch.accumulate = settings[i][1];
        snprintf(out, sizeof out, "%s-%zu", name, i);
        struct train_result result = whole(r, out, &seen);
        if (!first[0]) memcpy(first, result.weights_sha256, sizeof first);
        if (strcmp(first, result.weights_sha256) != 0) fail_msg("%s: %u threads, %u micro-batches give other weights", name, settings[i][0], settings[i][1]);
    }
}
static void test_threads_and_splits(void **state) {
    (void)state;
    struct train_recipe r;
    pretrain_recipe(&r, "llama");
    r.steps = 8;
    r.batch.sequences = 13;
    same_bytes(&r, "replay");
    dpo_recipe(&r);
    r.steps = 6;
    same_bytes(&r, "replay-dpo");
    recipe_default(&r, RECIPE_SFT);
    snprintf(r.model.base, sizeof r.model.base, "base");
    snprintf(r.data.file, sizeof r.data.file, "lines.jsonl");
    r.batch.length = 20; /* cuts the longer lines */
    r.batch.sequences = 11;
    r.optimizer.lr = 1e-3;
    r.steps = 8;
    same_bytes(&r, "replay-sft");
}

/* Runs in a child that is killed at an instant of chance, again and again until it has come through. */
static int crash_until_done(const struct train_recipe *r, const char *out, struct random *random, int most_ms) {
    for (int kills = 0;; kills++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct seen seen = {0};
            struct error err;
            _exit(run(r, out, &seen, NULL, &err) ? 1 : 0);
        }
        if (kills < 12) {
            usleep((useconds_t)(1000 * random_below(random, (uint64_t)most_ms)));
            kill(child, SIGKILL);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status)) {
            assert_int_equal(WEXITSTATUS(status), 0);
            return kills;
        }
    }
}
static void test_kills(void **state) {
    (void)state;
    uint64_t seed = (uint64_t)clock_mono_us();
    struct random random;
    random_seed(&random, seed);
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int kind = 0; kind < 2; kind++) {
        struct train_recipe r;
        struct seen seen;
        if (kind) dpo_recipe(&r);
        else pretrain_recipe(&r, "gpt2");
        int64_t began = clock_mono_ms();
        struct train_result want = whole(&r, kind ? "still-dpo" : "still", &seen);
        int took = (int)(clock_mono_ms() - began) + 2;
        for (int i = 0; i < 3; i++) {
            char out[32], dir[PATH_SIZE];
            struct error err;
            struct train_result got;
            snprintf(out, sizeof out, "killed-%d-%d", kind, i);
            r.threads = 1 + (uint32_t)i;
            crash_until_done(&r, out, &random, took);
            assert_int_equal(run(&r, out, &seen, &got, &err), 0);
            assert_true(got.was_finished);
            if (strcmp(got.weights_sha256, want.weights_sha256) != 0) fail_msg("seed %llu: %s has other weights", (unsigned long long)seed, at(dir, out));
        }
    }
}

static void test_pause_and_damage(void **state) {
    (void)state;
    struct train_recipe r, other;
    struct seen seen;
    struct error err;
    struct train_result result;
    pretrain_recipe(&r, "llama");
    struct train_result want = whole(&r, "straight", &seen);
    seen = (struct seen){.stop_after = 7, .order = TRAIN_PAUSE};
    assert_int_equal(run(&r, "paused", &seen, NULL, &err), E_ABORTED);
    assert_int_equal(seen.checkpoints, 2); /* at 5, and when asked */
    seen = (struct seen){.stop_after = 6, .order = TRAIN_CANCEL};
    assert_int_equal(run(&r, "paused", &seen, NULL, &err), E_CANCELLED);
    assert_int_equal(seen.first_step, 8);
    /* asked before each step to save, it goes on: a checkpoint behind every step but the last */
    seen = (struct seen){.stop_after = 1, .order = TRAIN_SAVE};
    struct train_result saved;
    assert_int_equal(run(&r, "saved", &seen, &saved, &err), 0);
    assert_true(seen.checkpoints >= r.steps - 1);
    assert_string_equal(saved.weights_sha256, want.weights_sha256);

    /* another recipe must not go on from here */
    other = r;
    other.optimizer.lr *= 2;
    assert_int_equal(run(&other, "paused", &seen, NULL, &err), E_STATE);
    /* one that differs in what changes no bit may */
    r.threads = 2;
    r.batch.accumulate = 3;

    /* the newest checkpoint (step 10) loses a bit: the one before it serves */
    char path[PATH_SIZE];
    struct buf b;
    buf_init(&b, 1 << 24);
    assert_int_equal(file_read(at(path, "paused/checkpoints/checkpoint-000000000010.safetensors"), &b, &err), 0);
    b.data[b.start + b.len - 1000] ^= 1;
    write_text(path, &b);
    buf_fini(&b);
    seen = (struct seen){0};
    if (run(&r, "paused", &seen, &result, &err)) fail_msg("%s", err.message);
    assert_int_equal(seen.first_step, 8);
    assert_string_equal(result.weights_sha256, want.weights_sha256);

    /* the lines of steps that were done twice are there once */
    uint64_t step = 0;
    buf_init(&b, 1 << 20);
    assert_int_equal(file_read(at(path, "paused/runs/metrics.jsonl"), &b, &err), 0);
    struct span rest = buf_span(&b), line;
    while (span_cut(&rest, '\n', &line)) {
        struct json *row = NULL;
        assert_int_equal(json_parse(line, &row, &err), 0);
        assert_int_equal(json_int(json_get(row, "step"), 0), ++step);
        json_free(row);
    }
    assert_int_equal(step, r.steps);
    buf_fini(&b);
}

static void test_dpo_prefers(void **state) {
    (void)state;
    struct train_recipe r;
    struct seen seen;
    dpo_recipe(&r);
    snprintf(r.evaluate.on, sizeof r.evaluate.on, "pairs.jsonl");
    r.evaluate.every = 10;
    whole(&r, "dpo", &seen);
    assert_true(fabs(seen.first_loss - log(2)) < 1e-6);
    if (seen.last_loss > 0.5) fail_msg("the last loss is %g", seen.last_loss);
    assert_true(seen.last_accuracy > 0.95);
    assert_true(seen.last_evaluate > 0);
}

struct sums {
    double nll, margin;
    uint64_t tokens, rows;
};
static void on_document(void *arg, uint64_t row, double nll, uint64_t tokens, uint64_t bytes) {
    struct sums *s = arg;
    assert_int_equal(row, s->rows);
    assert_int_equal(bytes, 0);
    s->nll += nll;
    s->tokens += tokens;
    s->rows++;
}
static void on_pair(void *arg, uint64_t row, const struct evaluate_pair *p) {
    struct sums *s = arg;
    assert_int_equal(row, s->rows);
    assert_true(p->chosen < 0 && p->rejected < 0 && p->chosen_tokens >= 4 && p->rejected_tokens >= 4);
    s->margin += p->chosen - p->rejected;
    s->rows++;
}

static void test_evaluation(void **state) {
    (void)state;
    struct error err = {0};
    struct sums one = {0}, two = {0}, pairs = {0}, after = {0};
    struct evaluate_options o = {.threads = 1}, o2 = {.threads = 3};
    char dir[PATH_SIZE];
    if (train_evaluate_documents(base_dir, tokens_path, &o, &one, on_document, &err)) fail_msg("%s", err.message);
    if (train_evaluate_documents(base_dir, tokens_path, &o2, &two, on_document, &err)) fail_msg("%s", err.message);
    assert_int_equal(one.rows, 20000 / 65);
    assert_int_equal(one.tokens, one.rows * 64);
    assert_true(one.nll == two.nll);
    assert_true(one.nll / (double)one.tokens < 2.2);
    one = two = (struct sums){0};
    /* documents longer than the context go in windows, each label once */
    o.length = 16;
    if (train_evaluate_documents(base_dir, lines_path, &o, &one, on_document, &err)) fail_msg("%s", err.message);
    uint64_t labels = 0;
    for (int i = 0; i < 30; i++) labels += (uint64_t)(6 + i - (i % 9 > 1 ? i % 9 : 1));
    assert_int_equal(one.tokens, labels);
    assert_int_equal(one.rows, 30);
    o.length = 0;
    o.rows_max = 7;
    if (train_evaluate_documents(base_dir, lines_path, &o, &two, on_document, &err)) fail_msg("%s", err.message);
    assert_int_equal(two.rows, 7);
    o.rows_max = 0;
    if (train_evaluate_pairs(base_dir, pairs_path, &o, &pairs, on_pair, &err)) fail_msg("%s", err.message);
    if (train_evaluate_pairs(at(dir, "dpo"), pairs_path, &o, &after, on_pair, &err)) fail_msg("%s", err.message);
    assert_int_equal(pairs.rows, 40);
    assert_true(after.margin > pairs.margin + 40);
    assert_int_equal(train_evaluate_pairs(base_dir, lines_path, &o, &pairs, on_pair, &err), E_INVALID);
    assert_int_equal(train_evaluate_documents(home, lines_path, &o, &one, on_document, &err), E_NOT_FOUND);
}

/* What a recipe names and the data says must be right before a step is taken. */
static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *name, *line, *says;
    } cases[] = {
        {"an id beyond the vocabulary", "{\"ids\":[1,2,64]}", "line 1: id 2"},
        {"a negative id", "{\"ids\":[1,-2]}", "line 1: id 1"},
        {"no JSON", "{\"ids\":[1,", "line 1"},
        {"no row", "[1,2]", "must be an object"},
        {"nothing known", "{\"txt\":\"a\"}", "needs ids, messages"},
        {"text without a tokenizer", "{\"text\":\"a\"}", "no tokenizer"},
        {"messages without a role", "{\"messages\":[{\"content\":\"a\"}]}", "role and content"},
        {"mixed", "{\"prompt\":[1],\"completion\":\"a\"}", "both be texts"},
        {"half", "{\"prompt\":[1]}", "needs prompt and completion"},
        {"empty", "", "no rows"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct train_recipe r;
        struct seen seen = {0};
        struct error err;
        struct buf b;
        char path[PATH_SIZE];
        recipe_default(&r, RECIPE_SFT);
        snprintf(r.model.base, sizeof r.model.base, "base");
        snprintf(r.data.file, sizeof r.data.file, "bad.jsonl");
        r.steps = 1;
        buf_init(&b, 1000);
        buf_printf(&b, "%s\n", cases[i].line);
        write_text(at(path, "bad.jsonl"), &b);
        buf_fini(&b);
        int e = run(&r, "refused", &seen, NULL, &err);
        if (e != E_INVALID || !strstr(err.message, cases[i].says)) fail_msg("%s: %d \"%s\"", cases[i].name, e, err.message);
        assert_int_equal(seen.steps, 0);
        assert_false(file_exists(at(path, "refused")));
    }
    struct train_recipe r;
    struct seen seen = {0};
    struct error err;
    pretrain_recipe(&r, "llama");
    r.batch.length = 65;
    assert_int_equal(run(&r, "refused", &seen, NULL, &err), E_RANGE);
    r.batch.length = 0;
    r.model.vocab = 60;
    assert_int_equal(run(&r, "refused", &seen, NULL, &err), E_INVALID);
    assert_non_null(strstr(err.message, "vocabulary"));
    r.model.vocab = VOCAB;
    r.optimizer.lr = 1e6;
    r.steps = 200;
    r.max_grad_norm = 0;
    r.schedule.kind = NN_SCHEDULE_CONSTANT;
    int e = run(&r, "diverged", &seen, NULL, &err);
    assert_true(e == 0 || e == E_RANGE);
}

/* A tokenizer that the recipe or the caller names is the model's: its texts are read with it, its vocabulary is the model's, and it goes with the model. */
static void test_tokenizer(void **state) {
    (void)state;
    static const char text[] = "a tokenizer that the recipe names, and a tokenizer that the caller names";
    char dir[PATH_SIZE], path[PATH_SIZE], line[PATH_SIZE];
    struct error err = {0};
    struct tokenizer_trainer *trainer;
    struct tokenizer_train_options options = {.vocab_size = 280};
    struct tokenizer *t;
    struct buf b;
    buf_init(&b, 1 << 20);
    if (tokenizer_trainer_new(&trainer, &options, &err) || tokenizer_trainer_feed(trainer, span_str(text), &err) || tokenizer_trainer_finish(trainer, &t, NULL, NULL, &err))
        fail_msg("%s", err.message);
    tokenizer_trainer_free(trainer);
    assert_int_equal(tokenizer_write(t, &b), 0);
    assert_int_equal(dir_make(at(dir, "tokenizer"), &err), 0);
    write_text(at(path, "tokenizer/tokenizer.json"), &b);
    for (int by_caller = 0; by_caller < 2; by_caller++) {
        struct train_recipe r;
        struct model_dir m;
        struct buf copied;
        char out[PATH_SIZE];
        buf_init(&copied, 1 << 20);
        pretrain_recipe(&r, "llama");
        r.model.vocab = 0;
        r.data.tokens[0] = '\0';
        r.steps = 1;
        r.batch.length = 4;
        r.schedule.warmup_steps = 0;
        snprintf(r.data.file, sizeof r.data.file, "texts.jsonl");
        if (!by_caller) snprintf(r.data.tokenizer, sizeof r.data.tokenizer, "tokenizer");
        snprintf(line, sizeof line, "{\"text\":\"%s\"}\n", text);
        assert_int_equal(file_write(at(path, "texts.jsonl"), span_str(line), 0600, &err), 0);
        struct train_paths p = {.recipe_dir = home, .out_dir = at(out, by_caller ? "by-caller" : "by-recipe"), .tokenizer_dir = by_caller ? dir : NULL};
        if (train_run(&r, &p, NULL, NULL, &err)) fail_msg("%s", err.message);
        snprintf(path, sizeof path, "%.200s/tokenizer.json", out);
        assert_int_equal(file_read(path, &copied, &err), 0);
        assert_true(span_eq(buf_span(&copied), buf_span(&b)));
        assert_int_equal(model_dir_load(&m, out, MODEL_WEIGHTS_MAP, 0, &err), 0);
        assert_int_equal(m.config.vocab, tokenizer_vocab_size(t));
        model_dir_fini(&m);
        buf_fini(&copied);
    }
    tokenizer_free(t);
    buf_fini(&b);
}

static void test_check(void **state) {
    (void)state;
    struct train_recipe r;
    struct error err = {0};
    struct buf b;
    struct json *report = NULL;
    struct train_paths p = {.recipe_dir = home};
    pretrain_recipe(&r, "gpt2");
    buf_init(&b, 4096);
    if (train_check(&r, &p, &b, &err)) fail_msg("%s", err.message);
    assert_int_equal(json_parse(buf_span(&b), &report, &err), 0);
    assert_int_equal(json_int(json_get(report, "rows"), 0), 20000 / 65);
    assert_int_equal(json_int(json_get(report, "parameters"), 0), 64 * 32 + 64 * 32 + 2 * (12 * 32 * 32 + 13 * 32) + 64);
    json_free(report);
    buf_fini(&b);
}

/* Allocations fail, each in turn: an error, and the next attempt is as if nothing had been. */
static void test_no_memory(void **state) {
    (void)state;
    struct train_recipe r;
    struct seen seen;
    struct error err;
    char dir[PATH_SIZE];
    dpo_recipe(&r);
    r.steps = 2;
    r.checkpoint.every = 1;
    r.threads = 1; /* the seam counts in one thread */
    struct train_result want = whole(&r, "memory", &seen), got;
    uint64_t step = 1, failures = 0;
    for (uint64_t n = 1;; n += step) {
        assert_int_equal(dir_remove(at(dir, "memory-swept"), NULL), 0);
        seen = (struct seen){0};
        alloc_fail_at(n);
        int e = run(&r, "memory-swept", &seen, &got, &err);
        alloc_fail_at(0);
        if (e == 0) break;
        if (!err.message[0]) fail_msg("allocation %llu: no message (%d)", (unsigned long long)n, e);
        failures++;
        if (failures % 40 == 0) step++; /* the later ones are many of a kind */
        if (failures % 25 == 0) { /* what lies there is no hindrance */
            if (run(&r, "memory-swept", &seen, &got, &err)) fail_msg("after allocation %llu: %s", (unsigned long long)n, err.message);
            assert_string_equal(got.weights_sha256, want.weights_sha256);
        }
    }
    assert_true(failures > 50);
}

/* The command's lines. */
static void test_local(void **state) {
    (void)state;
    char path[PATH_SIZE], out[PATH_SIZE], *text = NULL;
    size_t len = 0;
    struct buf b;
    struct error err = {0};
    buf_init(&b, 4096);
    buf_printf(&b, "objective: sft\nmodel: {base: base}\ndata: {file: lines.jsonl}\nbatch: {sequences: 4, length: 32}\nsteps: 3\nevaluate: {every: 2, on: lines.jsonl}\n");
    write_text(at(path, "local.yaml"), &b);
    buf_fini(&b);
    for (int round = 0; round < 2; round++) {
        FILE *f = open_memstream(&text, &len);
        if (train_local_main(path, at(out, "local"), f, NULL, &err)) fail_msg("%s", err.message);
        fclose(f);
        struct span rest = span_of(text, len), line;
        int n = 0;
        while (span_cut(&rest, '\n', &line)) {
            struct json *row = NULL;
            assert_int_equal(json_parse(line, &row, &err), 0);
            assert_int_equal(json_int(json_get(row, "step"), 0), ++n);
            assert_true(json_real(json_get(row, "loss"), 0) > 0 && json_real(json_get(row, "grad_norm"), 0) > 0 && json_get(row, "lr"));
            assert_int_equal(json_get(row, "evaluate_loss") != NULL, n >= 2);
            json_free(row);
        }
        assert_int_equal(n, round ? 0 : 3);
        free(text);
    }
}

/* A tokenizer that is given beside the data goes into the model, and says how many ids it has. */
static void test_tokenizer_given(void **state) {
    (void)state;
    struct tokenizer_trainer *trainer;
    struct tokenizer *tokenizer;
    struct tokenizer_train_options options = {.vocab_size = 300};
    struct train_recipe r;
    struct error err = {0};
    struct buf b, again;
    char dir[PATH_SIZE], out[PATH_SIZE], path[PATH_SIZE];
    if (tokenizer_trainer_new(&trainer, &options, &err) || tokenizer_trainer_feed(trainer, SPAN("one two three and four and five and two"), &err) ||
        tokenizer_trainer_finish(trainer, &tokenizer, NULL, NULL, &err))
        fail_msg("%s", err.message);
    tokenizer_trainer_free(trainer);
    buf_init(&b, 1 << 20);
    buf_init(&again, 1 << 20);
    assert_int_equal(tokenizer_write(tokenizer, &b), 0);
    assert_int_equal(dir_make(at(dir, "tokenizer"), &err), 0);
    write_text(at(path, "tokenizer/tokenizer.json"), &b);
    pretrain_recipe(&r, "llama");
    r.model.vocab = 0;
    r.steps = 3;
    struct train_paths p = {.recipe_dir = home, .out_dir = at(out, "spoken"), .tokenizer_dir = dir};
    if (train_run(&r, &p, NULL, NULL, &err)) fail_msg("%s", err.message);
    assert_int_equal(file_read(at(path, "spoken/tokenizer.json"), &again, &err), 0);
    assert_true(span_eq(buf_span(&b), buf_span(&again)));
    struct model_dir m;
    assert_int_equal(model_dir_load(&m, out, MODEL_WEIGHTS_FLAT, 0, &err), 0);
    assert_int_equal(m.config.vocab, tokenizer_vocab_size(tokenizer));
    model_dir_fini(&m);
    tokenizer_free(tokenizer);
    buf_fini(&b);
    buf_fini(&again);
}

static uint32_t u32_at(const char *p) { return (uint32_t)(uint8_t)p[0] | (uint32_t)(uint8_t)p[1] << 8 | (uint32_t)(uint8_t)p[2] << 16 | (uint32_t)(uint8_t)p[3] << 24; }
static uint32_t unmask(uint32_t m) {
    m -= 0xa282ead8u;
    return m >> 17 | m << 15;
}
static int on_file(void *arg, const char *name) {
    if (strncmp(name, "events.out.tfevents.", 20) == 0) snprintf(arg, PATH_SIZE, "base/runs/%s", name);
    return 0;
}
static void test_tensorboard(void **state) {
    (void)state;
    char dir[PATH_SIZE], name[PATH_SIZE] = "", path[PATH_SIZE];
    struct buf b;
    struct error err = {0};
    assert_int_equal(crc32c("123456789", 9), 0xe3069283u); /* RFC 3720's check value */
    assert_int_equal(dir_list(at(dir, "base/runs"), name, on_file, &err), 0);
    buf_init(&b, 1 << 20);
    assert_int_equal(file_read(at(path, name), &b, &err), 0);
    int records = 0;
    for (struct span s = buf_span(&b); s.len; records++) {
        assert_true(s.len >= 16);
        size_t len = u32_at(s.data);
        assert_int_equal(unmask(u32_at(s.data + 8)), crc32c(s.data, 8));
        assert_true(s.len >= 16 + len);
        assert_int_equal(unmask(u32_at(s.data + 12 + len)), crc32c(s.data + 12, len));
        if (records == 0) assert_true(span_find(span_of(s.data, 12 + len), SPAN("brain.Event:2")) > 0);
        else assert_true(span_find(span_of(s.data, 12 + len), SPAN("train/loss")) > 0);
        s = span_skip(s, 16 + len);
    }
    assert_int_equal(records, 61);
    buf_fini(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learns),  cmocka_unit_test(test_threads_and_splits), cmocka_unit_test(test_kills),
        cmocka_unit_test(test_pause_and_damage), cmocka_unit_test(test_dpo_prefers), cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_check),             cmocka_unit_test(test_local),
        cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_tokenizer_given), cmocka_unit_test(test_tensorboard), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
