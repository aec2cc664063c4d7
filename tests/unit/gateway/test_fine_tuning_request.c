/* POST /v1/fine_tuning/jobs: what OpenAI's JSON becomes, and which parameter is named where it is wrong or not built. */
#include "tests/unit/support/check.h"

#include <math.h>

#include "services/gateway/fine_tuning_request.h"

#define BASE "'model':'m','training_file':'file-1'"

static void test_taken(void **state) {
    (void)state;
    static const struct {
        const char *in, *method;
        uint32_t epochs, batch;
        double multiplier, beta;
    } cases[] = {
        {"{" BASE "}", "supervised", 0, 0, 0, 0},
        {"{" BASE ",'validation_file':null,'suffix':null,'seed':null,'hyperparameters':null,'method':null,'integrations':null,'metadata':null}", "supervised", 0, 0, 0, 0},
        {"{" BASE ",'hyperparameters':{'n_epochs':3,'batch_size':'auto','learning_rate_multiplier':0.5}}", "supervised", 3, 0, 0.5, 0},
        {"{" BASE ",'method':{'type':'supervised','supervised':{'hyperparameters':{'n_epochs':'auto','batch_size':4}}}}", "supervised", 0, 4, 0, 0},
        {"{" BASE ",'method':{'type':'dpo'}}", "dpo", 0, 0, 0, 0},
        {"{" BASE ",'method':{'type':'dpo','supervised':null,'dpo':{'hyperparameters':{'beta':0.1,'learning_rate_multiplier':2}}},'integrations':[]}", "dpo", 0, 0, 2, 0.1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct json *body = NULL;
        struct arena arena;
        struct error err = {0};
        Genloop__V1__FineTuning f;
        arena_init(&arena, FINE_TUNING_ARENA);
        assert_int_equal(json_parse(quoted(cases[i].in), &body, &err), 0);
        if (fine_tuning_request_read(body, &arena, &f, &err)) fail_msg("%s: %s", cases[i].in, err.message);
        CHECK(strcmp(f.method, cases[i].method) == 0 && f.epochs == cases[i].epochs && f.batch_size == cases[i].batch, "%s", cases[i].in);
        CHECK(fabs(f.learning_rate_multiplier - cases[i].multiplier) < 1e-12 && fabs(f.beta - cases[i].beta) < 1e-12, "%s", cases[i].in);
        json_free(body);
        arena_fini(&arena);
    }
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *in, *param;
        int code;
    } cases[] = {
        {"{'training_file':'file-1'}", "model", E_INVALID},
        {"{'model':'m'}", "training_file", E_INVALID},
        {"{" BASE ",'colour':1}", "colour", E_INVALID},
        {"{'model':7,'training_file':'f'}", "model", E_INVALID},
        {"{'model':'a\\u0000b','training_file':'f'}", "model", E_INVALID},
        {"{" BASE ",'suffix':'12345678901234567890123456789012345678901234567890123456789012345'}", "suffix", E_INVALID},
        {"{" BASE ",'seed':-1}", "seed", E_INVALID},
        {"{" BASE ",'seed':1.5}", "seed", E_INVALID},
        {"{" BASE ",'hyperparameters':7}", "hyperparameters", E_INVALID},
        {"{" BASE ",'hyperparameters':{'n_epochs':0}}", "hyperparameters.n_epochs", E_INVALID},
        {"{" BASE ",'hyperparameters':{'n_epochs':51}}", "hyperparameters.n_epochs", E_INVALID},
        {"{" BASE ",'hyperparameters':{'batch_size':'many'}}", "hyperparameters.batch_size", E_INVALID},
        {"{" BASE ",'hyperparameters':{'learning_rate_multiplier':0}}", "hyperparameters.learning_rate_multiplier", E_INVALID},
        {"{" BASE ",'hyperparameters':{'beta':1}}", "hyperparameters.beta", E_INVALID},
        {"{" BASE ",'hyperparameters':{},'method':{'type':'dpo'}}", "hyperparameters", E_INVALID},
        {"{" BASE ",'method':{}}", "method.type", E_INVALID},
        {"{" BASE ",'method':{'type':'magic'}}", "method.type", E_INVALID},
        {"{" BASE ",'method':{'type':'dpo','supervised':{}}}", "method", E_INVALID},
        {"{" BASE ",'method':{'type':'dpo','dpo':{'hyperparameters':{'beta':-1}}}}", "method.dpo.beta", E_INVALID},
        {"{" BASE ",'method':{'type':'reinforcement','reinforcement':{'grader':{}}}}", "method.type", E_UNSUPPORTED},
        {"{" BASE ",'integrations':[{'type':'wandb'}]}", "integrations", E_UNSUPPORTED},
        {"{" BASE ",'integrations':[{'type':'wandb'}],'seed':'x'}", "seed", E_INVALID}, /* what is wrong goes first */
        {"{" BASE ",'metadata':{'a':1}}", "metadata", E_INVALID},
        {"{" BASE ",'metadata':[]}", "metadata", E_INVALID},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct json *body = NULL;
        struct arena arena;
        struct error err = {0};
        Genloop__V1__FineTuning f;
        arena_init(&arena, FINE_TUNING_ARENA);
        assert_int_equal(json_parse(quoted(cases[i].in), &body, &err), 0);
        int r = fine_tuning_request_read(body, &arena, &f, &err);
        if (r != cases[i].code || strcmp(err.param, cases[i].param) != 0) fail_msg("%s: %d, %s: %s", cases[i].in, r, err.param, err.message);
        json_free(body);
        arena_fini(&arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_taken), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests_name("fine_tuning_request", tests, NULL, NULL);
}
