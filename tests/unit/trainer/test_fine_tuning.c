/* OpenAI's fine-tuning as a job of ours: what is chosen where the client left it open, names that are names, events in their order. */
#include "tests/unit/support/check.h"

#include "services/trainer/fine_tuning.h"
#include "services/trainer/jobs.h"

#define TEXT(x) (char *)(uintptr_t)(x)

static void asked(Genloop__V1__FineTuning *f, const char *method) {
    genloop__v1__fine_tuning__init(f);
    f->training_file = TEXT("file-1");
    f->model = TEXT("m");
    f->method = TEXT(method);
    f->seed = 5;
}

static void test_choices(void **state) {
    (void)state;
    static const struct {
        const char *name, *method;
        uint64_t rows;
        uint32_t epochs, batch; /* asked for; 0: left open */
        uint32_t epochs_then, batch_then;
        uint64_t steps;
    } cases[] = {
        {"one example", "supervised", 1, 0, 0, 25, 1, 25},
        {"ten", "supervised", 10, 0, 0, 10, 1, 100},
        {"forty", "supervised", 40, 0, 0, 3, 5, 24},
        {"hundreds", "supervised", 300, 0, 0, 3, 8, 113},
        {"many", "supervised", 10000, 0, 0, 2, 8, 2500},
        {"very many", "supervised", 1000000, 0, 0, 1, 8, 125000},
        {"as asked", "supervised", 40, 2, 40, 2, 40, 2},
        {"more than a batch", "supervised", 41, 1, 40, 1, 40, 2},
        {"a batch above the file", "supervised", 3, 1, 256, 1, 256, 1},
        {"pairs", "dpo", 64, 1, 0, 1, 8, 8},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Genloop__V1__FineTuning f;
        struct train_recipe recipe, back;
        struct error err = {0};
        struct buf yaml;
        asked(&f, cases[i].method);
        f.epochs = cases[i].epochs;
        f.batch_size = cases[i].batch;
        bool dpo = strcmp(cases[i].method, "dpo") == 0;
        recipe_default(&recipe, dpo ? RECIPE_DPO : RECIPE_SFT);
        span_copy(recipe.model.base, sizeof recipe.model.base, SPAN("m@1"));
        span_copy(recipe.data.dataset, sizeof recipe.data.dataset, SPAN("d@1"));
        if (fine_tuning_check(&f, &err) || fine_tuning_recipe(&f, cases[i].rows, true, 512, &recipe, &err)) fail_msg("%s: %s (%s)", cases[i].name, err.message, err.param);
        if (f.epochs != cases[i].epochs_then || f.batch_size != cases[i].batch_then || recipe.steps != cases[i].steps)
            fail_msg("%s: %u epochs, batch %u, %llu steps", cases[i].name, f.epochs, f.batch_size, (unsigned long long)recipe.steps);
        assert_true(f.learning_rate_multiplier > 0 && (f.beta > 0) == dpo && f.examples == cases[i].rows);
        assert_true(recipe.batch.length == 512 && recipe.seed == 5 && recipe.evaluate.every > 0 && recipe.schedule.warmup_steps <= recipe.steps);
        /* The record's recipe is read back by the trainer that runs it. */
        buf_init(&yaml, 1 << 16);
        assert_int_equal(recipe_write(&recipe, &yaml), 0);
        if (recipe_parse(buf_span(&yaml), &back, &err)) fail_msg("%s: %s", cases[i].name, err.message);
        assert_true(back.steps == recipe.steps && back.optimizer.lr > 0 && back.optimizer.lr == recipe.optimizer.lr);
        buf_fini(&yaml);
    }
    Genloop__V1__FineTuning f;
    struct train_recipe recipe;
    struct error err = {0};
    asked(&f, "supervised");
    recipe_default(&recipe, RECIPE_SFT);
    assert_int_equal(fine_tuning_recipe(&f, 0, false, 512, &recipe, &err), E_INVALID);
}

static void test_refused(void **state) {
    (void)state;
    Genloop__V1__FineTuning f;
    struct error err = {0};
    static char long_text[FINE_TUNING_SUFFIX_MAX + 2];
    memset(long_text, 'x', sizeof long_text - 1);
#define REFUSED(CHANGE, CODE, PARAM)                         \
    do {                                                     \
        asked(&f, "supervised");                             \
        CHANGE;                                              \
        assert_int_equal(fine_tuning_check(&f, &err), CODE); \
        assert_string_equal(err.param, PARAM);               \
    } while (0)
    REFUSED(f.method = TEXT("magic"), E_INVALID, "method.type");
    REFUSED(f.method = TEXT("reinforcement"), E_UNSUPPORTED, "method.type");
    REFUSED(f.training_file = TEXT(""), E_INVALID, "training_file");
    REFUSED(f.epochs = FINE_TUNING_EPOCHS_MAX + 1, E_INVALID, "n_epochs");
    REFUSED(f.batch_size = FINE_TUNING_BATCH_MAX + 1, E_INVALID, "batch_size");
    REFUSED(f.learning_rate_multiplier = -1, E_INVALID, "learning_rate_multiplier");
    REFUSED(f.beta = 1, E_INVALID, "beta");
    REFUSED(f.suffix = long_text, E_INVALID, "suffix");
}

static void test_names(void **state) {
    (void)state;
    static const struct {
        const char *base, *tenant, *suffix, *job, *name;
    } cases[] = {
        {"tiny", "default", "count", "ftjob-0123456789abcdef", "ft:tiny:default:count:89abcdef"},
        {"tiny", "default", "", "ftjob-0123456789abcdef", "ft:tiny:default::89abcdef"},
        {"ft:tiny:default:a:11111111", "default", "b", "ftjob-22222222", "ft:tiny:default:b:22222222"},
        {"tiny", "default", "L\xc3\xa4rm: a/b", "ftjob-22222222", "ft:tiny:default:L-rm--a-b:22222222"},
        {"a-model-with-a-name-that-is-as-long-as-names-of-ours-may-ever-be", "a-tenant-with-a-long-name", "and-a-suffix-that-is-long-as-well-because-somebody-had-much-to-say", "ftjob-22222222",
         "ft:a-model-with:a-tenant-wit:and-a-suffix-that-is-long-:22222222"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char name[MODEL_NAME_MAX];
        fine_tuning_name(span_str(cases[i].base), span_str(cases[i].tenant), span_str(cases[i].suffix), span_str(cases[i].job), name);
        CHECK(model_name_valid(span_str(name)), "%s: %s", cases[i].base, name);
        if (strcmp(name, cases[i].name) != 0) fail_msg("%s instead of %s", name, cases[i].name);
    }
    assert_false(model_name_valid(SPAN("a:b")));
    assert_false(model_name_valid(SPAN("hf:a")));
    assert_true(job_id_valid(SPAN("evaluate-ft:tiny:default:count:89abcdef-1")));
}

static void test_events(void **state) {
    (void)state;
    static const struct {
        Genloop__V1__JobState state;
        size_t n;
        const char *last;
    } cases[] = {
        {JOB_STATE(QUEUED), 5, "Step 2/4: training loss=1.5000"},
        {JOB_STATE(RUNNING), 5, "Step 2/4: training loss=1.5000"},
        {JOB_STATE(PAUSED), 6, "The job is paused at step 2"},
        {JOB_STATE(SUCCEEDED), 8, "The job has successfully completed"},
        {JOB_STATE(FAILED), 6, "The job failed: why"},
        {JOB_STATE(CANCELLED), 6, "The job was cancelled"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Genloop__V1__Job job = GENLOOP__V1__JOB__INIT;
        Genloop__V1__FineTuning f;
        struct arena arena;
        struct fine_tuning_events l = {.arena = &arena};
        asked(&f, "supervised");
        arena_init(&arena, 1 << 20);
        job.id = TEXT("ftjob-1");
        job.fine_tuning = &f;
        job.state = cases[i].state;
        job.model = TEXT("ft:m:t::1");
        job.failure = TEXT("why");
        job.created_time_ms = 1;
        job.started_time_ms = 2;
        job.event_time_ms = 9;
        job.step = 2;
        assert_int_equal(fine_tuning_events_begin(&l, &job), 0);
        Genloop__V1__JobProgress steps[3];
        for (int k = 0; k < 3; k++) {
            genloop__v1__job_progress__init(&steps[k]);
            steps[k].id = TEXT(k == 0 ? "ftjob-1/1/0" : k == 1 ? "ftjob-1/1/1"
                                                               : "ftjob-1/1/2");
            steps[k].phase = TEXT(k == 0 ? "load" : "train");
            steps[k].step = (uint64_t)k;
            steps[k].steps = 4;
            steps[k].loss = 1.5;
            assert_int_equal(fine_tuning_events_step(&l, &job, &steps[k]), 0);
        }
        assert_int_equal(fine_tuning_events_end(&l, &job), 0);
        if (l.n != cases[i].n || strcmp(l.items[l.n - 1]->message, cases[i].last) != 0) fail_msg("case %zu: %zu events, the last %s", i, l.n, l.items[l.n - 1]->message);
        for (size_t a = 0; a < l.n; a++)
            for (size_t b = a + 1; b < l.n; b++) assert_string_not_equal(l.items[a]->id, l.items[b]->id);
        if (cases[i].state == JOB_STATE(SUCCEEDED)) assert_non_null(strstr(l.items[l.n - 2]->message, "is not served yet"));
        arena_fini(&arena);
    }
}

static void test_results(void **state) {
    (void)state;
    struct buf out;
    buf_init(&out, 4096);
    assert_int_equal(fine_tuning_results(SPAN("{\"step\":1,\"loss\":2.5}\nnonsense\n{\"step\":2,\"loss\":2.25,\"evaluate_loss\":3,\"accuracy\":0.5}\n"), &out), 0);
    if (!span_eq_str(buf_span(&out), "step,train_loss,train_accuracy,valid_loss\n1,2.5,,\n2,2.25,0.5,3.0\n")) fail_msg("%.*s", SPAN_ARG(buf_span(&out)));
    buf_fini(&out);
    buf_init(&out, 16);
    assert_int_equal(fine_tuning_results(SPAN(""), &out), E_FULL);
    buf_fini(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_results), cmocka_unit_test(test_choices), cmocka_unit_test(test_refused), cmocka_unit_test(test_names), cmocka_unit_test(test_events)};
    return cmocka_run_group_tests_name("fine_tuning", tests, NULL, NULL);
}
