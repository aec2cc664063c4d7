/* A GenerateRequest of a gRPC client is held to what the JSON doors hold theirs to. */
#include "tests/unit/support/check.h"

#include <math.h>

#include "services/gateway/generate_request.h"


static Genloop__V1__ChatMessage user = GENLOOP__V1__CHAT_MESSAGE__INIT, *turns[] = {&user};
static char *stops[] = {(char *)"a", (char *)""};
static uint32_t ids[] = {1, 2, 3};
static Genloop__V1__GenerateRequest__LogitBiasEntry bias = GENLOOP__V1__GENERATE_REQUEST__LOGIT_BIAS_ENTRY__INIT, *biases[] = {&bias};

#define CHANGE(NAME, BODY) \
    static void NAME(Genloop__V1__GenerateRequest *m) { BODY; }
#define SET(FIELD, CASE, VALUE) m->FIELD = VALUE, m->FIELD##_set_case = GENLOOP__V1__GENERATE_REQUEST__##CASE
CHANGE(nothing, (void)m)
CHANGE(cold, SET(temperature, TEMPERATURE_SET_TEMPERATURE, 0))
CHANGE(below_zero, SET(temperature, TEMPERATURE_SET_TEMPERATURE, -5))
CHANGE(nan_temperature, SET(temperature, TEMPERATURE_SET_TEMPERATURE, NAN))
CHANGE(huge, SET(max_tokens, MAX_TOKENS_SET_MAX_TOKENS, INT32_MAX))
CHANGE(no_tokens, SET(max_tokens, MAX_TOKENS_SET_MAX_TOKENS, 0))
CHANGE(top_p, SET(top_p, TOP_P_SET_TOP_P, 1.5))
CHANGE(penalty, SET(frequency_penalty, FREQUENCY_PENALTY_SET_FREQUENCY_PENALTY, 3))
CHANGE(no_repetition, SET(repetition_penalty, REPETITION_PENALTY_SET_REPETITION_PENALTY, 0))
CHANGE(no_model, m->model = (char *)"")
CHANGE(no_prompt, m->prompt = (char *)"")
CHANGE(both, m->messages = turns; m->n_messages = 1)
CHANGE(chat, m->prompt = (char *)""; m->messages = turns; m->n_messages = 1)
CHANGE(role, m->prompt = (char *)""; m->messages = turns; m->n_messages = 1; user.role = (char *)"boss")
CHANGE(tool, m->prompt = (char *)""; m->messages = turns; m->n_messages = 1; user.role = (char *)"tool")
CHANGE(tokens, m->prompt = (char *)""; m->prompt_tokens = ids; m->n_prompt_tokens = 3)
CHANGE(empty_stop, m->stop = stops; m->n_stop = 2)
CHANGE(one_stop, m->stop = stops; m->n_stop = 1)
CHANGE(top_logprobs, m->top_logprobs = 3)
CHANGE(many_logprobs, m->logprobs = true; m->top_logprobs = 21)
CHANGE(two, m->n = 2)
CHANGE(too_many, m->n = 129)
CHANGE(priority, m->priority = 101)
CHANGE(bad_bias, m->logit_bias = biases; m->n_logit_bias = 1; bias.value = 101)
CHANGE(good_bias, m->logit_bias = biases; m->n_logit_bias = 1; bias.value = -100)

static int read_it(void (*change)(Genloop__V1__GenerateRequest *m), bool stream, struct generate_request *r, struct arena *arena, struct error *err) {
    uint8_t packed[4096];
    Genloop__V1__GenerateRequest m = GENLOOP__V1__GENERATE_REQUEST__INIT;
    user.role = (char *)"user";
    user.content = (char *)"hello";
    m.model = (char *)"production";
    m.prompt = (char *)"once";
    change(&m);
    return message_request_read(r, arena, span_of(packed, genloop__v1__generate_request__pack(&m, packed)), stream, err);
}

static void test_cases(void **state) {
    (void)state;
    static const struct {
        const char *name;
        void (*change)(Genloop__V1__GenerateRequest *m);
        bool stream;
        int code;
        const char *param;
    } cases[] = {
        {"plain", nothing, false, 0, ""}, {"temperature 0", cold, false, 0, ""}, {"temperature below 0", below_zero, false, E_INVALID, "temperature"},
        {"temperature that is none", nan_temperature, false, E_INVALID, "temperature"}, {"max_tokens beyond", huge, false, E_INVALID, "max_tokens"}, {"max_tokens 0", no_tokens, false, E_INVALID, "max_tokens"},
        {"top_p", top_p, false, E_INVALID, "top_p"}, {"a penalty", penalty, false, E_INVALID, "frequency_penalty"}, {"repetition 0", no_repetition, false, E_INVALID, "repetition_penalty"},
        {"no model", no_model, false, E_INVALID, "model"}, {"nothing asked", no_prompt, false, E_INVALID, "prompt"}, {"prompt and messages", both, false, E_INVALID, "messages"},
        {"a chat", chat, false, 0, ""}, {"a role that is none", role, false, E_INVALID, "messages.0.role"}, {"a tool's turn", tool, false, 0, ""},
        {"tokens", tokens, false, 0, ""}, {"a stop string of nothing", empty_stop, false, E_INVALID, "stop"}, {"a stop string", one_stop, false, 0, ""},
        {"top_logprobs alone", top_logprobs, false, E_INVALID, "top_logprobs"}, {"21 of them", many_logprobs, false, E_INVALID, "top_logprobs"}, {"two choices in one reply", two, false, E_INVALID, "n"},
        {"two choices in a stream", two, true, 0, ""}, {"129 choices", too_many, true, E_INVALID, "n"}, {"priority", priority, false, E_INVALID, "priority"},
        {"a bias beyond", bad_bias, false, E_INVALID, "logit_bias"}, {"a bias", good_bias, false, 0, ""},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct arena arena;
        struct generate_request r;
        struct error err = {0};
        arena_init(&arena, REQUEST_ARENA_MAX);
        int code = read_it(cases[i].change, cases[i].stream, &r, &arena, &err);
        CHECK(code == cases[i].code && strcmp(err.param, cases[i].param) == 0, "%s: %d \"%s\" %s", cases[i].name, code, err.param, err.message);
        arena_fini(&arena);
    }
}

static void test_shapes(void **state) {
    (void)state;
    struct arena arena;
    struct generate_request r;
    struct error err = {0};
    arena_init(&arena, REQUEST_ARENA_MAX);
    assert_int_equal(read_it(tokens, false, &r, &arena, &err), 0);
    assert_true(!r.chat && r.n_prompts == 1 && !r.prompts[0].text && r.prompts[0].n_tokens == 3 && r.prompts[0].tokens[2] == 3 && r.n == 1 && r.best_of == 1);
    assert_int_equal(read_it(chat, true, &r, &arena, &err), 0);
    assert_true(r.chat && r.stream && r.n_prompts == 0 && r.message.n_messages == 1);
    assert_string_equal(r.message.messages[0]->content, "hello");
    assert_int_equal(read_it(two, true, &r, &arena, &err), 0);
    assert_true(r.n == 2 && r.best_of == 2);
    assert_string_equal(r.prompts[0].text, "once");
    assert_int_equal(message_request_read(&r, &arena, SPAN("\xff\xff"), false, &err), E_INTERNAL);
    arena_fini(&arena);
}

static int attempt(void *arg) {
    struct arena arena;
    struct generate_request r;
    struct error err = {0};
    (void)arg;
    arena_init(&arena, REQUEST_ARENA_MAX);
    int code = read_it(chat, false, &r, &arena, &err);
    arena_fini(&arena);
    return code;
}
static void test_without_memory(void **state) {
    (void)state;
    sweep("a request", attempt, NULL, E_INTERNAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases), cmocka_unit_test(test_shapes), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
