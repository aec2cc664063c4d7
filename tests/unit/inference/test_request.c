/* A GenerateRequest of the bus as the engine's request: every field arrives, absence means the API's default, what contradicts itself is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/inference/request.h"

#define CASE(FIELD) GENLOOP__V1__GENERATE_REQUEST__##FIELD

static void message_init(Genloop__V1__GenerateRequest *m) { genloop__v1__generate_request__init(m); }

static void test_defaults(void **state) {
    (void)state;
    struct arena a;
    arena_init(&a, 1 << 20);
    Genloop__V1__GenerateRequest m;
    struct engine_request r;
    message_init(&m);
    m.prompt = (char *)(uintptr_t)"hello";
    assert_int_equal(request_from_message(&m, &a, &r, NULL), 0);
    assert_true(span_eq_str(r.prompt, "hello"));
    assert_null(r.tokens);
    assert_int_equal(r.message_count, 0);
    assert_int_equal(r.tokens_max, -1);
    assert_true(r.sampling.temperature == 1 && r.sampling.top_p == 1 && r.sampling.min_p == 0 && r.sampling.repetition_penalty == 1);
    assert_false(r.seed_set || r.logprobs || r.ignore_eos || r.echo);
    assert_int_equal(r.stop_count, 0);
    arena_fini(&a);
}

static void test_fields(void **state) {
    (void)state;
    struct arena a;
    arena_init(&a, 1 << 20);
    Genloop__V1__GenerateRequest m;
    Genloop__V1__ChatMessage one, two, *messages[] = {&one, &two};
    Genloop__V1__GenerateRequest__LogitBiasEntry bias = GENLOOP__V1__GENERATE_REQUEST__LOGIT_BIAS_ENTRY__INIT, *biases[] = {&bias};
    char *stops[] = {(char *)(uintptr_t)"END", (char *)(uintptr_t)"", (char *)(uintptr_t)"\n\n"};
    uint32_t stop_tokens[] = {7};
    struct engine_request r;
    message_init(&m);
    genloop__v1__chat_message__init(&one);
    genloop__v1__chat_message__init(&two);
    one.role = (char *)(uintptr_t)"system";
    two.role = (char *)(uintptr_t)"user";
    two.content = (char *)(uintptr_t)"why?";
    bias.key = 3;
    bias.value = -5;
    m.messages = messages;
    m.n_messages = 2;
    m.logit_bias = biases;
    m.n_logit_bias = 1;
    m.stop = stops;
    m.n_stop = 3;
    m.stop_tokens = stop_tokens;
    m.n_stop_tokens = 1;
    m.max_tokens_set_case = CASE(MAX_TOKENS_SET_MAX_TOKENS);
    m.max_tokens = 0;
    m.temperature_set_case = CASE(TEMPERATURE_SET_TEMPERATURE);
    m.temperature = 0;
    m.top_p_set_case = CASE(TOP_P_SET_TOP_P);
    m.top_p = 0.5;
    m.min_p_set_case = CASE(MIN_P_SET_MIN_P);
    m.min_p = 0.1;
    m.frequency_penalty_set_case = CASE(FREQUENCY_PENALTY_SET_FREQUENCY_PENALTY);
    m.frequency_penalty = 1;
    m.presence_penalty_set_case = CASE(PRESENCE_PENALTY_SET_PRESENCE_PENALTY);
    m.presence_penalty = -1;
    m.repetition_penalty_set_case = CASE(REPETITION_PENALTY_SET_REPETITION_PENALTY);
    m.repetition_penalty = 1.5;
    m.seed_set_case = CASE(SEED_SET_SEED);
    m.seed = 0;
    m.top_k = 40;
    m.logprobs = true;
    m.top_logprobs = 4;
    m.ignore_eos = true;
    m.priority = -3;
    assert_int_equal(request_from_message(&m, &a, &r, NULL), 0);
    assert_int_equal(r.message_count, 2);
    assert_true(span_eq_str(r.messages[1].role, "user") && span_eq_str(r.messages[1].content, "why?") && r.messages[0].content.len == 0);
    assert_int_equal(r.tokens_max, 0);
    assert_true(r.sampling.temperature == 0 && r.sampling.top_p == 0.5 && r.sampling.min_p == 0.1 && r.sampling.frequency_penalty == 1 &&
                r.sampling.presence_penalty == -1 && r.sampling.repetition_penalty == 1.5 && r.sampling.top_k == 40);
    assert_true(r.seed_set && r.sampling.seed == 0);
    assert_int_equal(r.sampling.bias_count, 1);
    assert_true(r.sampling.bias[0].token == 3 && r.sampling.bias[0].value == -5);
    assert_int_equal(r.stop_count, 2); /* the empty one ends nothing */
    assert_true(span_eq_str(r.stop[1], "\n\n"));
    assert_int_equal(r.stop_token_count, 1);
    assert_true(r.logprobs && r.ignore_eos);
    assert_int_equal(r.top_logprobs, 4);
    assert_int_equal(r.priority, -3);
    arena_fini(&a);
}

/* A chat with tools goes as JSON, and says how its answer is read. */
static void test_tools(void **state) {
    (void)state;
    struct arena a;
    arena_init(&a, 1 << 20);
    Genloop__V1__GenerateRequest m;
    Genloop__V1__ChatMessage asked, called, answered, *messages[] = {&asked, &called, &answered};
    Genloop__V1__ToolCall call, *calls[] = {&call};
    Genloop__V1__Tool tool, *tools[] = {&tool};
    struct engine_request r;
    struct error err = {0};
    message_init(&m);
    genloop__v1__chat_message__init(&asked);
    genloop__v1__chat_message__init(&called);
    genloop__v1__chat_message__init(&answered);
    genloop__v1__tool_call__init(&call);
    genloop__v1__tool__init(&tool);
    asked.role = (char *)(uintptr_t)"user";
    asked.content = (char *)(uintptr_t)"1+2?";
    called.role = (char *)(uintptr_t)"assistant";
    called.tool_calls = calls;
    called.n_tool_calls = 1;
    call.id = (char *)(uintptr_t)"c1";
    call.name = (char *)(uintptr_t)"add";
    call.arguments = (char *)(uintptr_t)"{}";
    answered.role = (char *)(uintptr_t)"tool";
    answered.tool_call_id = (char *)(uintptr_t)"c1";
    answered.content = (char *)(uintptr_t)"3";
    m.messages = messages;
    m.n_messages = 3;
    tool.name = (char *)(uintptr_t)"add";
    tool.parameters = (char *)(uintptr_t)"{\"type\":\"object\"}";
    m.tools = tools;
    m.n_tools = 1;
    m.template_arguments = (char *)(uintptr_t)"{\"enable_thinking\":false}";
    assert_int_equal(request_from_message(&m, &a, &r, &err), 0);
    assert_int_equal(r.message_count, 0);
    assert_true(r.keep_special);
    assert_true(span_eq_str(r.chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"1+2?\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":"
                                    "{\"name\":\"add\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"content\":\"3\",\"tool_call_id\":\"c1\"}],\"tools\":[{\"type\":\"function\",\"function\":"
                                    "{\"name\":\"add\",\"parameters\":{\"type\":\"object\"}}}],\"chat_template_kwargs\":{\"enable_thinking\":false}}"));
    struct chat_template *c = NULL;
    struct chat_parser_options o;
    assert_int_equal(chat_template_new("[TOOL_CALLS]", NULL, &c, NULL), 0);
    assert_true(request_parsing(&m, c, &a, &o));
    assert_int_equal(o.style, CHAT_STYLE_MISTRAL);
    assert_true(o.tool_count == 1 && span_eq_str(o.tools[0], "add"));
    assert_int_equal(r.constraint, GRAMMAR_NONE);
    m.tool_choice = (char *)(uintptr_t)"required"; /* held to calls, and read as such */
    m.one_tool_call = true;
    assert_true(request_parsing(&m, c, &a, &o));
    assert_int_equal(o.style, CHAT_STYLE_JSON);
    assert_int_equal(request_from_message(&m, &a, &r, &err), 0);
    assert_int_equal(r.constraint, GRAMMAR_JSON_SCHEMA);
    assert_true(span_find(r.constraint_text, SPAN("\"const\":\"add\"")) > 0 && span_find(r.constraint_text, SPAN("\"maxItems\":1,")) > 0);
    m.tool_choice = (char *)(uintptr_t)"none"; /* neither told nor read */
    assert_false(request_parsing(&m, c, &a, &o));
    assert_int_equal(request_from_message(&m, &a, &r, &err), 0);
    assert_true(!r.keep_special && span_find(r.chat, SPAN("\"tools\"")) < 0);
    assert_false(request_parsing(&m, NULL, &a, &o));
    chat_template_free(c);
    static const struct {
        const char *parameters, *choice, *name, *arguments, *param;
    } bad[] = {{"[]", "", "", "", "tools"}, {"{", "", "", "", "tools"}, {"{}", "perhaps", "", "", "tool_choice"}, {"{}", "", "nope", "", "tool_choice"}, {"{}", "", "", "7", "chat_template_kwargs"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tool.parameters = (char *)(uintptr_t)bad[i].parameters;
        m.tool_choice = (char *)(uintptr_t)bad[i].choice;
        m.tool_name = (char *)(uintptr_t)bad[i].name;
        m.template_arguments = (char *)(uintptr_t)bad[i].arguments;
        assert_int_equal(request_from_message(&m, &a, &r, &err), E_INVALID);
        assert_string_equal(err.param, bad[i].param);
    }
    arena_fini(&a);
}

/* The prompt is scored where it is echoed and log-probabilities are wanted: not for one of the two. */
static void test_echo(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct arena a;
        arena_init(&a, 1 << 20);
        Genloop__V1__GenerateRequest m;
        struct engine_request r;
        message_init(&m);
        m.prompt = (char *)(uintptr_t)"x";
        m.echo = i % 2;
        m.logprobs = i >= 2;
        m.top_logprobs = 3;
        assert_int_equal(request_from_message(&m, &a, &r, NULL), 0);
        assert_true(r.echo == m.echo && r.logprobs == m.logprobs && r.prompt_logprobs == (i == 3) && r.top_logprobs == 3);
        arena_fini(&a);
    }
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *param;
        size_t messages, tokens;
        const char *prompt;
        uint32_t n;
        size_t stops;
        int code;
    } cases[] = {
        {"prompt", 1, 0, "x", 0, 0, E_INVALID},  {"prompt", 1, 1, "", 0, 0, E_INVALID},
        {"n", 0, 0, "x", 2, 0, E_UNSUPPORTED},   {"stop", 0, 0, "x", 1, STOP_STRINGS_MAX + 1, E_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena a;
        arena_init(&a, 1 << 20);
        Genloop__V1__GenerateRequest m;
        struct engine_request r;
        struct error err;
        message_init(&m);
        m.n_messages = cases[i].messages;
        m.n_prompt_tokens = cases[i].tokens;
        m.prompt = (char *)(uintptr_t)cases[i].prompt;
        m.n = cases[i].n;
        m.n_stop = cases[i].stops;
        assert_int_equal(request_from_message(&m, &a, &r, &err), cases[i].code);
        assert_string_equal(err.param, cases[i].param);
        arena_fini(&a);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    struct arena a;
    arena_init(&a, 16);
    Genloop__V1__GenerateRequest m;
    struct engine_request r;
    message_init(&m);
    m.n_stop = 3;
    char *stops[] = {(char *)(uintptr_t)"a", (char *)(uintptr_t)"b", (char *)(uintptr_t)"c"};
    m.stop = stops;
    assert_int_equal(request_from_message(&m, &a, &r, NULL), E_NOMEM);
    arena_fini(&a);
}

/* What is not said is the model's; what is said stays, zeros too. */
static void test_of_the_model(void **state) {
    (void)state;
    const struct model_generation g = {true, 0.6, 0.9, 1.1, 0.05, 20, 0};
    struct arena a;
    arena_init(&a, 1 << 20);
    Genloop__V1__GenerateRequest m;
    struct engine_request r;
    message_init(&m);
    assert_int_equal(request_from_message(&m, &a, &r, NULL), 0);
    request_take_defaults(&m, &g, &r.sampling);
    assert_true(r.sampling.temperature == 0.6 && r.sampling.top_p == 0.9 && r.sampling.min_p == 0.05 && r.sampling.top_k == 20 && r.sampling.repetition_penalty == 1.1);
    m.temperature_set_case = CASE(TEMPERATURE_SET_TEMPERATURE);
    m.top_p_set_case = CASE(TOP_P_SET_TOP_P);
    m.top_p = 1;
    m.min_p_set_case = CASE(MIN_P_SET_MIN_P);
    m.repetition_penalty_set_case = CASE(REPETITION_PENALTY_SET_REPETITION_PENALTY);
    m.repetition_penalty = 1;
    m.top_k = UINT32_MAX;
    assert_int_equal(request_from_message(&m, &a, &r, NULL), 0);
    request_take_defaults(&m, &g, &r.sampling);
    assert_true(r.sampling.temperature == 0 && r.sampling.top_p == 1 && r.sampling.min_p == 0 && r.sampling.top_k == 0 && r.sampling.repetition_penalty == 1);
    arena_fini(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults), cmocka_unit_test(test_of_the_model), cmocka_unit_test(test_fields), cmocka_unit_test(test_tools), cmocka_unit_test(test_echo), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests_name("inference request", tests, NULL, NULL);
}
