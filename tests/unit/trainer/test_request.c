/* What a CreateJobRequest may say, and which parameter is named where it says something else. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "services/trainer/jobs.h"
#include "services/trainer/presets.h"
#include "services/trainer/request.h"

#define MODEL "model: {architecture: llama, layers: 2, width: 32, heads: 2, context: 64, vocab: 300}\n"
#define TEXT(x) (char *)(uintptr_t)(x)

static void test_training(void **state) {
    (void)state;
    static char long_reason[JOB_REASON_MAX + 2], long_recipe[REQUEST_RECIPE_MAX + 2];
    memset(long_reason, 'x', sizeof long_reason - 1);
    memset(long_recipe, '#', sizeof long_recipe - 1);
    const struct {
        const char *name, *id, *model, *recipe, *preset, *dataset, *base, *reason;
        int r;
        const char *param;
    } cases[] = {
        {"a preset", "", "m", "", "pretrain-small", "texts", "", "", 0, ""},
        {"fine-tuning by preset", "improve-1", "m", "", "dpo-small", "likes@3", "m@2", "why", 0, ""},
        {"a recipe that says all", "", "m", "objective: pretrain\nsteps: 3\ndata: {dataset: texts@1}\n" MODEL, "", "", "", "", 0, ""},
        {"a recipe, and data beside it", "", "m", "objective: pretrain\nsteps: 3\n" MODEL, "", "texts", "", "", 0, ""},
        {"an id that is none", "a/b", "m", "", "pretrain-small", "texts", "", "", E_INVALID, "id"},
        {"a reason that never ends", "", "m", "", "pretrain-small", "texts", "", long_reason, E_INVALID, "reason"},
        {"no model", "", "", "", "pretrain-small", "texts", "", "", E_INVALID, "model"},
        {"a version as model", "", "m@1", "", "pretrain-small", "texts", "", "", E_INVALID, "model"},
        {"neither recipe nor preset", "", "m", "", "", "texts", "", "", E_INVALID, "recipe"},
        {"both", "", "m", "objective: sft\n", "sft-small", "texts", "", "", E_INVALID, "preset"},
        {"a preset that nobody knows", "", "m", "", "huge", "texts", "", "", E_NOT_FOUND, "preset"},
        {"a recipe of a book's size", "", "m", long_recipe, "", "texts", "", "", E_TOO_LARGE, "recipe"},
        {"a preset without data", "", "m", "", "pretrain-small", "", "", "", E_INVALID, "dataset"},
        {"a preset without a base", "", "m", "", "dpo-small", "likes", "", "", E_INVALID, "base_model"},
        {"a preset from scratch with a base", "", "m", "", "pretrain-small", "texts", "m@1", "", E_INVALID, "model.architecture"},
        {"a dataset that is none", "", "m", "", "pretrain-small", "te xts", "", "", E_INVALID, "dataset"},
        {"a dataset of version 0", "", "m", "", "pretrain-small", "texts@0", "", "", E_INVALID, "dataset"},
        {"a dataset that is none in the recipe", "", "m", "objective: pretrain\nsteps: 3\ndata: {dataset: a/b}\n" MODEL, "", "", "", "", E_INVALID, "data.dataset"},
        {"a file", "", "m", "objective: sft\nsteps: 3\nmodel: {base: m}\ndata: {file: /etc/passwd}\n", "", "", "", "", E_INVALID, "data.file"},
        {"tokens of a file", "", "m", "objective: pretrain\nsteps: 3\ndata: {tokens: x.bin}\n" MODEL, "", "", "", "", E_INVALID, "data.tokens"},
        {"a folder's tokenizer", "", "m", "objective: pretrain\nsteps: 3\ndata: {dataset: t, tokenizer: /x}\n" MODEL, "", "", "", "", E_INVALID, "data.tokenizer"},
        {"an evaluation on a file", "", "m", "objective: pretrain\nsteps: 3\nevaluate: {every: 1, on: f.bin}\n" MODEL, "", "texts", "", "", E_INVALID, "evaluate.on"},
        {"sequences beyond the context", "", "m", "objective: pretrain\nsteps: 3\nbatch: {length: 65}\n" MODEL, "", "texts", "", "", E_RANGE, "batch.length"},
        {"an unknown key", "", "m", "objective: pretrain\nsteps: 3\nlearning_rate: 1\n" MODEL, "", "texts", "", "", E_INVALID, "learning_rate"},
        {"no steps", "", "m", "objective: pretrain\n" MODEL, "", "texts", "", "", E_INVALID, "steps"},
        {"what is not built", "", "m", "objective: grpo\nsteps: 3\n" MODEL, "", "texts", "", "", E_UNSUPPORTED, "objective"},
        {"no YAML", "", "m", "objective: [", "", "texts", "", "", E_INVALID, ""},
    };
    struct train_recipe *recipe = mem_zalloc(sizeof *recipe);
    assert_non_null(recipe);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Genloop__V1__CreateJobRequest q = GENLOOP__V1__CREATE_JOB_REQUEST__INIT;
        struct error err = {0};
        q.id = TEXT(cases[i].id);
        q.model = TEXT(cases[i].model);
        q.recipe = TEXT(cases[i].recipe);
        q.preset = TEXT(cases[i].preset);
        q.dataset = TEXT(cases[i].dataset);
        q.base_model = TEXT(cases[i].base);
        q.reason = TEXT(cases[i].reason);
        int r = request_check(&q, recipe, &err);
        if (r != cases[i].r || strcmp(err.param, cases[i].param) != 0) fail_msg("%s: %d, \"%s\" (%s)", cases[i].name, r, err.message, err.param);
        if (r && !err.message[0]) fail_msg("%s: without a word", cases[i].name);
    }
    mem_free(recipe);
}

static void test_evaluation(void **state) {
    (void)state;
    static const char digest[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const struct {
        const char *name, *model, *candidate, *baseline, *held_out, *preferences, *trait, *tokenizer, *recipe;
        uint32_t documents, prompts, tokens;
        double temperature;
        int r;
        const char *param;
    } cases[] = {
        {"all", "m@2", "m@2", "m@1", "texts@1", "m-preferences@3", "!short", digest, "", 200, 200, 48, 1, 0, ""},
        {"the least", "", "m@1", "", "texts@1", "", "", "", "", 1, 1, 1, 0, 0, ""},
        {"another model", "m@3", "m@2", "", "texts@1", "", "", "", "", 1, 1, 1, 1, E_INVALID, "model"},
        {"no version", "", "m", "", "texts@1", "", "", "", "", 1, 1, 1, 1, E_INVALID, "evaluate.candidate"},
        {"an alias", "", "m@1", "production", "texts@1", "", "", "", "", 1, 1, 1, 1, E_INVALID, "evaluate.baseline"},
        {"no data", "", "m@1", "", "", "", "", "", "", 1, 1, 1, 1, E_INVALID, "evaluate.held_out"},
        {"data without a version", "", "m@1", "", "texts", "", "", "", "", 1, 1, 1, 1, E_INVALID, "evaluate.held_out"},
        {"preferences without a version", "", "m@1", "", "texts@1", "p", "", "", "", 1, 1, 1, 1, E_INVALID, "evaluate.preferences"},
        {"no documents", "", "m@1", "", "texts@1", "", "", "", "", 0, 1, 1, 1, E_RANGE, "evaluate.documents_max"},
        {"too many prompts", "", "m@1", "", "texts@1", "", "", "", "", 1, 20001, 1, 1, E_RANGE, "evaluate.prompts"},
        {"no tokens", "", "m@1", "", "texts@1", "", "", "", "", 1, 1, 0, 1, E_RANGE, "evaluate.sample_tokens"},
        {"too hot", "", "m@1", "", "texts@1", "", "", "", "", 1, 1, 1, 2.1, E_RANGE, "evaluate.temperature"},
        {"no number", "", "m@1", "", "texts@1", "", "", "", "", 1, 1, 1, (double)NAN, E_RANGE, "evaluate.temperature"},
        {"a trait that is none", "", "m@1", "", "texts@1", "", "witty", "", "", 1, 1, 1, 1, E_INVALID, "evaluate.trait"},
        {"a digest that is none", "", "m@1", "", "texts@1", "", "", "abc", "", 1, 1, 1, 1, E_INVALID, "evaluate.tokenizer"},
        {"a recipe", "", "m@1", "", "texts@1", "", "", "", "objective: sft", 1, 1, 1, 1, E_INVALID, "recipe"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Genloop__V1__CreateJobRequest q = GENLOOP__V1__CREATE_JOB_REQUEST__INIT;
        Genloop__V1__EvaluateSpec s = GENLOOP__V1__EVALUATE_SPEC__INIT;
        struct error err = {0};
        q.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE;
        q.model = TEXT(cases[i].model);
        q.recipe = TEXT(cases[i].recipe);
        q.evaluate = &s;
        s.candidate = TEXT(cases[i].candidate);
        s.baseline = TEXT(cases[i].baseline);
        s.held_out = TEXT(cases[i].held_out);
        s.preferences = TEXT(cases[i].preferences);
        s.trait = TEXT(cases[i].trait);
        s.tokenizer = TEXT(cases[i].tokenizer);
        s.documents_max = cases[i].documents;
        s.prompts = cases[i].prompts;
        s.sample_tokens = cases[i].tokens;
        s.temperature = cases[i].temperature;
        int r = request_check(&q, NULL, &err);
        if (r != cases[i].r || strcmp(err.param, cases[i].param) != 0) fail_msg("%s: %d, \"%s\" (%s)", cases[i].name, r, err.message, err.param);
    }
    /* No more is measured at least than at most. */
    static const struct {
        uint32_t documents_min, prompts_min;
        const char *param; /* "": it is fine */
    } least[] = {{0, 0, ""}, {5, 6, ""}, {6, 0, "evaluate.documents_min"}, {0, 7, "evaluate.prompts_min"}};
    for (size_t i = 0; i < sizeof least / sizeof *least; i++) {
        Genloop__V1__CreateJobRequest q = GENLOOP__V1__CREATE_JOB_REQUEST__INIT;
        Genloop__V1__EvaluateSpec s = GENLOOP__V1__EVALUATE_SPEC__INIT;
        struct error err = {0};
        q.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE;
        q.evaluate = &s;
        s.candidate = TEXT("m@1");
        s.held_out = TEXT("texts@1");
        s.documents_max = 5;
        s.prompts = 6;
        s.sample_tokens = 1;
        s.documents_min = least[i].documents_min;
        s.prompts_min = least[i].prompts_min;
        assert_int_equal(request_check(&q, NULL, &err), least[i].param[0] ? E_RANGE : 0);
        assert_string_equal(err.param, least[i].param);
    }
    struct error err = {0};
    Genloop__V1__CreateJobRequest q = GENLOOP__V1__CREATE_JOB_REQUEST__INIT;
    q.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_EVALUATE;
    assert_int_equal(request_check(&q, NULL, &err), E_INVALID);
    assert_string_equal(err.param, "evaluate");
    q.kind = (Genloop__V1__JobKind)7;
    assert_int_equal(request_check(&q, NULL, &err), E_INVALID);
    assert_string_equal(err.param, "kind");
}

/* Every preset is a recipe once data and base are named, and says nothing that a recipe does not know. */
static void test_presets(void **state) {
    (void)state;
    struct train_recipe *recipe = mem_zalloc(sizeof *recipe);
    assert_non_null(recipe);
    for (int i = 0; i < PRESETS_COUNT; i++) {
        struct error err = {0};
        bool scratch = span_starts(span_str(PRESETS[i].name), SPAN("pretrain"));
        if (recipe_parse_given(span_str(PRESETS[i].recipe), &(struct recipe_given){"d@1", scratch ? "" : "m@1"}, recipe, &err) != 0) fail_msg("%s: %s", PRESETS[i].name, err.message);
        if (!strstr(PRESET_NAMES, PRESETS[i].name)) fail_msg("%s is not told of", PRESETS[i].name);
        assert_ptr_equal(preset_find(span_str(PRESETS[i].name)), &PRESETS[i]);
    }
    assert_null(preset_find(SPAN("")));
    mem_free(recipe);
}

static void test_import(void **state) {
    (void)state;
    char digest[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const struct {
        const char *name, *model, *file, *second, *sha256, *recipe, *source;
        int r;
        const char *param, *base;
    } cases[] = {
        {"a directory", "m", "config.json", "model.safetensors", digest, "", "hf:a/b", 0, "", NULL},
        {"an adapter", "m", "adapter_config.json", "adapter_model.safetensors", digest, "", "", 0, "", "base@1"},
        {"an adapter without a base", "m", "adapter_config.json", "adapter_model.safetensors", digest, "", "", E_INVALID, "base_model", NULL},
        {"a base of a model", "m", "config.json", "model.safetensors", digest, "", "", E_INVALID, "base_model", "base@1"},
        {"a base of a model with an adapter's configuration", "m", "model.gguf", "adapter_config.json", digest, "", "", E_INVALID, "base_model", "base@1"},
        {"no model", "", "config.json", "model.gguf", digest, "", "", E_INVALID, "model", NULL},
        {"a folder", "m", "1_Pooling/config.json", "model.gguf", digest, "", "", 0, "", NULL},
        {"a path", "m", "a/b/config.json", "model.gguf", digest, "", "", E_INVALID, "import_spec.files.name", NULL},
        {"an empty folder", "m", "/config.json", "model.gguf", digest, "", "", E_INVALID, "import_spec.files.name", NULL},
        {"a folder alone", "m", "a/", "model.gguf", digest, "", "", E_INVALID, "import_spec.files.name", NULL},
        {"a folder and the one above", "m", "a/..", "model.gguf", digest, "", "", E_INVALID, "import_spec.files.name", NULL},
        {"a hidden file", "m", ".config", "model.gguf", digest, "", "", E_INVALID, "import_spec.files.name", NULL},
        {"the folder above", "m", "..", "model.gguf", digest, "", "", E_INVALID, "import_spec.files.name", NULL},
        {"a name twice", "m", "model.gguf", "model.gguf", digest, "", "", E_INVALID, "import_spec.files.name", NULL},
        {"no digest", "m", "config.json", "model.gguf", "00", "", "", E_INVALID, "import_spec.files.content", NULL},
        {"a recipe", "m", "config.json", "model.gguf", digest, "objective: sft", "", E_INVALID, "recipe", NULL},
        {"a source that is no text", "m", "config.json", "model.gguf", digest, "", "\xff", E_INVALID, "import_spec.source", NULL},
    };
    struct train_recipe *recipe = mem_zalloc(sizeof *recipe);
    assert_non_null(recipe);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Genloop__V1__CreateJobRequest q = GENLOOP__V1__CREATE_JOB_REQUEST__INIT;
        Genloop__V1__ImportSpec spec = GENLOOP__V1__IMPORT_SPEC__INIT;
        Genloop__V1__ImportFile files[2] = {GENLOOP__V1__IMPORT_FILE__INIT, GENLOOP__V1__IMPORT_FILE__INIT}, *list[] = {&files[0], &files[1]};
        Genloop__V1__ObjectRef content = GENLOOP__V1__OBJECT_REF__INIT;
        struct error err = {0};
        content.sha256 = TEXT(cases[i].sha256);
        files[0].name = TEXT(cases[i].file);
        files[1].name = TEXT(cases[i].second);
        files[0].content = files[1].content = &content;
        spec.files = list;
        spec.n_files = 2;
        spec.source = TEXT(cases[i].source);
        q.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_IMPORT;
        q.model = TEXT(cases[i].model);
        q.recipe = TEXT(cases[i].recipe);
        q.import_spec = &spec;
        if (cases[i].base) q.base_model = TEXT(cases[i].base);
        int r = request_check(&q, recipe, &err);
        if (r != cases[i].r || strcmp(err.param, cases[i].param)) fail_msg("%s: %d %s: %s", cases[i].name, r, err.param, err.message);
        q.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_TRAIN; /* files belong to an import alone */
        assert_int_equal(request_check(&q, recipe, NULL), E_INVALID);
        q.kind = GENLOOP__V1__JOB_KIND__JOB_KIND_IMPORT;
        spec.n_files = 0;
        assert_int_equal(request_check(&q, recipe, NULL), E_INVALID);
    }
    mem_free(recipe);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_import), cmocka_unit_test(test_training), cmocka_unit_test(test_evaluation), cmocka_unit_test(test_presets)};
    return cmocka_run_group_tests_name("request", tests, NULL, NULL);
}
