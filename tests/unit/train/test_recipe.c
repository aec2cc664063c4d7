/* Recipes: what is read, what is refused and in which words, and that writing reads back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "train/recipe.h"

#define MODEL "model: {architecture: llama, layers: 2, width: 32, heads: 4, context: 64, vocab: 256}\n"
#define DATA "data: {tokens: t.bin}\n"
#define FILE_DATA "data: {file: d.jsonl}\n"
#define STEPS "steps: 5\n"

static int parse(const char *text, struct train_recipe *r, struct error *err) {
    *err = (struct error){0};
    return recipe_parse(span_str(text), r, err);
}

static void test_errors(void **state) {
    (void)state;
    static const struct {
        const char *name, *text;
        int code;
        const char *says; /* must be in the message */
    } cases[] = {
        {"empty", "", E_INVALID, "map"},
        {"a list", "- 1\n", E_INVALID, "map"},
        {"no YAML", "objective: [\n", E_INVALID, "recipe"},
        {"no objective", MODEL DATA STEPS, E_INVALID, "objective is missing"},
        {"unknown objective", "objective: train\n" MODEL DATA STEPS, E_INVALID, "\"train\", not one of pretrain, sft, dpo"},
        {"unknown key", "objective: pretrain\n" MODEL DATA STEPS "learning_rat: 1\n", E_INVALID, "learning_rat"},
        {"unknown key in a section", "objective: pretrain\n" MODEL DATA STEPS "optimizer: {lr: 1, momentun: 2}\n", E_INVALID, "\"momentun\" in optimizer; there are: name, lr"},
        {"unknown key and section out of place", "objective: pretrain\n" MODEL DATA STEPS "lr: 1\n", E_INVALID, "\"lr\""},
        {"a section that is no map", "objective: pretrain\n" MODEL DATA STEPS "optimizer: 3\n", E_INVALID, "optimizer must be a map"},
        {"a section in a section", "objective: pretrain\n" MODEL DATA STEPS "optimizer: {batch: {length: 3}}\n", E_INVALID, "\"batch\" in optimizer"},
        {"no number", "objective: pretrain\n" MODEL DATA STEPS "optimizer: {lr: fast}\n", E_INVALID, "optimizer.lr must be a number, not a string"},
        {"half a step", "objective: pretrain\n" MODEL DATA "steps: 1.5\n", E_INVALID, "steps must be a whole number"},
        {"no steps", "objective: pretrain\n" MODEL DATA, E_INVALID, "steps is missing"},
        {"negative", "objective: pretrain\n" MODEL DATA STEPS "max_grad_norm: -1\n", E_RANGE, "max_grad_norm is -1"},
        {"zero sequences", "objective: pretrain\n" MODEL DATA STEPS "batch: {sequences: 0}\n", E_RANGE, "batch.sequences"},
        {"too many layers", "objective: pretrain\nmodel: {architecture: llama, layers: 99999, width: 32, heads: 4, context: 64}\n" DATA STEPS, E_RANGE, "model.layers"},
        {"betas of three", "objective: pretrain\n" MODEL DATA STEPS "optimizer: {betas: [0.9, 0.9, 0.9]}\n", E_INVALID, "betas must be two numbers"},
        {"beta of one", "objective: pretrain\n" MODEL DATA STEPS "optimizer: {betas: [0.9, 1]}\n", E_RANGE, "betas must be below 1"},
        {"null", "objective: pretrain\n" MODEL DATA STEPS "seed:\n", E_INVALID, "seed must be set"},
        {"unknown schedule", "objective: pretrain\n" MODEL DATA STEPS "schedule: {name: step}\n", E_INVALID, "constant, linear, cosine, wsd"},
        {"wsd without decay", "objective: pretrain\n" MODEL DATA STEPS "schedule: {name: wsd}\n", E_RANGE, "decay_steps"},
        {"warm-up beyond the end", "objective: pretrain\n" MODEL DATA STEPS "schedule: {warmup_steps: 6}\n", E_RANGE, "warmup_steps"},
        {"two kinds of data", "objective: pretrain\n" MODEL "data: {tokens: a, file: b}\n" STEPS, E_INVALID, "one of dataset, tokens and file"},
        {"no data", "objective: pretrain\n" MODEL STEPS, E_INVALID, "one of dataset, tokens and file"},
        {"tokens for sft", "objective: sft\n" MODEL DATA STEPS, E_INVALID, "data.tokens is for pretrain"},
        {"no model", "objective: pretrain\n" DATA STEPS, E_INVALID, "base or architecture"},
        {"base and sizes", "objective: pretrain\nmodel: {base: m, layers: 3}\n" DATA STEPS, E_INVALID, "base has its own"},
        {"unknown architecture", "objective: pretrain\nmodel: {architecture: lama, layers: 1, width: 8, heads: 1, context: 8}\n" DATA STEPS, E_INVALID, "not one of"},
        {"dpo from nothing", "objective: dpo\n" MODEL FILE_DATA STEPS, E_INVALID, "model.base"},
        {"accumulate above sequences", "objective: pretrain\n" MODEL DATA STEPS "batch: {sequences: 2, accumulate: 3}\n", E_INVALID, "accumulate"},
        {"smoothing of a half", "objective: dpo\nmodel: {base: m}\n" FILE_DATA STEPS "dpo: {label_smoothing: 0.5}\n", E_RANGE, "label_smoothing"},
        {"ipo with smoothing", "objective: dpo\nmodel: {base: m}\n" FILE_DATA STEPS "dpo: {loss_type: ipo, label_smoothing: 0.1}\n", E_INVALID, "ipo has no label smoothing"},
        {"evaluate without data", "objective: pretrain\n" MODEL DATA STEPS "evaluate: {every: 2}\n", E_INVALID, "evaluate.on"},
        {"a path with NUL", "objective: pretrain\n" MODEL "data: {tokens: \"a\\0b\"}\n" STEPS, E_INVALID, "data.tokens"},
        {"not built: objective", "objective: kto\nmodel: {base: m}\n" FILE_DATA STEPS, E_UNSUPPORTED, "kto"},
        {"not built: adapter", "objective: sft\nmodel: {base: m}\n" FILE_DATA STEPS "adapter: {kind: lora, rank: 8}\n", E_UNSUPPORTED, "adapter"},
        {"not built: precision", "objective: sft\nmodel: {base: m}\n" FILE_DATA STEPS "precision: bf16\n", E_UNSUPPORTED, "bf16"},
        {"not built: optimizer", "objective: sft\nmodel: {base: m}\n" FILE_DATA STEPS "optimizer: {name: lion}\n", E_UNSUPPORTED, "lion"},
        {"not built: loss", "objective: dpo\nmodel: {base: m}\n" FILE_DATA STEPS "dpo: {loss_type: hinge}\n", E_UNSUPPORTED, "hinge"},
        {"what is wrong is said before what is not built", "objective: sft\nmodel: {base: m}\n" FILE_DATA STEPS "precision: bf16\nadapter: {kind: lora, rnak: 8}\n", E_INVALID, "rnak"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct train_recipe r;
        struct error err;
        memset(&r, 0x5a, sizeof r);
        int e = parse(cases[i].text, &r, &err);
        if (e != cases[i].code || !strstr(err.message, cases[i].says))
            fail_msg("%s: %d \"%s\", not %d \"…%s…\"", cases[i].name, e, err.message, cases[i].code, cases[i].says);
        if (((unsigned char *)&r)[0] != 0x5a) fail_msg("%s: the recipe was touched", cases[i].name);
    }
}

static void test_values(void **state) {
    (void)state;
    static const char text[] =
        "objective: dpo\nmodel: {base: some/dir}\ndata: {file: pairs.jsonl, shuffle: false}\nbatch: {sequences: 4, length: 32, accumulate: 2}\n"
        "optimizer: {name: adamw, lr: 1.0e-3, betas: [0.8, 0.95], eps: 1.0e-6, weight_decay: 0.1}\n"
        "schedule: {name: wsd, warmup_steps: 2, min_lr_ratio: 0.1, decay_steps: 3, decay_type: 1-sqrt}\n"
        "dpo: {beta: 0.3, loss_type: robust, label_smoothing: 0.1}\nsteps: 16\nmax_grad_norm: 0.5\nprecision: f32\nseed: 7\nthreads: 3\n"
        "checkpoint: {every: 10, keep: 4}\nevaluate: {every: 5, on: held-out}\n";
    struct train_recipe r, again;
    struct error err;
    assert_int_equal(parse(text, &r, &err), 0);
    assert_int_equal(r.objective, RECIPE_DPO);
    assert_string_equal(r.model.base, "some/dir");
    assert_string_equal(r.data.file, "pairs.jsonl");
    assert_false(r.data.shuffle);
    assert_int_equal(r.batch.accumulate, 2);
    assert_true(r.optimizer.lr == 1e-3 && r.optimizer.beta1 == 0.8 && r.optimizer.beta2 == 0.95 && r.optimizer.eps == 1e-6);
    assert_int_equal(r.schedule.kind, NN_SCHEDULE_WSD);
    assert_int_equal(r.schedule.decay, NN_DECAY_1_SQRT);
    assert_int_equal(r.dpo.loss_type, RECIPE_DPO_ROBUST);
    assert_int_equal(r.seed, 7);
    assert_int_equal(r.threads, 3);
    assert_int_equal(r.checkpoint.keep, 4);
    assert_int_equal(r.evaluate.every, 5);
    assert_int_equal(recipe_schedule(&r).steps, 16);

    struct buf out;
    buf_init(&out, RECIPE_SIZE_MAX);
    assert_int_equal(recipe_write(&r, &out), 0);
    if (recipe_parse(buf_span(&out), &again, &err)) fail_msg("%s in\n%s", err.message, buf_cstr(&out));
    assert_memory_equal(&r, &again, sizeof r);
    buf_fini(&out);
}

static void test_defaults(void **state) {
    (void)state;
    struct train_recipe r, again;
    struct error err;
    assert_int_equal(parse("objective: pretrain\n" MODEL DATA STEPS, &r, &err), 0);
    assert_false(r.data.shuffle); /* a token file is taken as it lies */
    assert_int_equal(r.model.tie_embeddings, -1);
    assert_true(r.optimizer.beta2 == 0.999 && r.max_grad_norm == 1 && r.checkpoint.every == 500);
    assert_int_equal(parse("{\"objective\": \"sft\", \"model\": {\"base\": \"m\"}, \"data\": {\"file\": \"d.jsonl\"}, \"steps\": 3}", &r, &err), 0);
    assert_true(r.data.shuffle);
    struct buf out;
    buf_init(&out, RECIPE_SIZE_MAX);
    assert_int_equal(recipe_write(&r, &out), 0);
    if (recipe_parse(buf_span(&out), &again, &err)) fail_msg("%s in\n%s", err.message, buf_cstr(&out));
    assert_memory_equal(&r, &again, sizeof r);
    buf_fini(&out);
    assert_int_equal(recipe_load("/nowhere/recipe.yaml", &r, &err), E_NOT_FOUND);
}

/* What a request names beside the recipe goes before it, and may be all there is. */
static void test_given(void **state) {
    (void)state;
    struct train_recipe r;
    struct error err;
    char long_name[RECIPE_PATH_MAX + 1];
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    assert_int_equal(recipe_parse_given(SPAN("objective: dpo\nsteps: 3\n"), &(struct recipe_given){"prefs@1", "m@2"}, &r, &err), 0);
    assert_string_equal(r.data.dataset, "prefs@1");
    assert_string_equal(r.model.base, "m@2");
    assert_int_equal(recipe_parse_given(span_str("objective: pretrain\n" MODEL DATA STEPS), &(struct recipe_given){.dataset = "texts@4"}, &r, &err), 0);
    assert_string_equal(r.data.dataset, "texts@4");
    assert_string_equal(r.data.tokens, "");
    assert_true(r.data.shuffle);
    assert_int_equal(recipe_parse_given(SPAN("objective: dpo\nsteps: 3\n"), &(struct recipe_given){"prefs@1", ""}, &r, &err), E_INVALID);
    assert_string_equal(err.param, "model");
    assert_int_equal(recipe_parse_given(span_str("objective: pretrain\n" MODEL DATA STEPS), &(struct recipe_given){.base = "m@2"}, &r, &err), E_INVALID);
    assert_string_equal(err.param, "model.architecture");
    assert_int_equal(recipe_parse_given(SPAN("objective: dpo\nsteps: 3\n"), &(struct recipe_given){long_name, "m@2"}, &r, &err), E_TOO_LARGE);
    assert_string_equal(err.param, "data.dataset");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_errors), cmocka_unit_test(test_values), cmocka_unit_test(test_defaults), cmocka_unit_test(test_given)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
