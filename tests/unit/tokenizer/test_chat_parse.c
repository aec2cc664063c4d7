/* Answers taken apart: each family's calls, what only looks like one, reasoning; whole and byte by byte the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "tokenizer/chat_parse.h"

struct heard {
    struct buf text, reasoning, calls;
};
static int on_text(void *arg, struct span s) { return buf_append_span(&((struct heard *)arg)->text, s); }
static int on_reasoning(void *arg, struct span s) { return buf_append_span(&((struct heard *)arg)->reasoning, s); }
static int on_call(void *arg, uint32_t index, struct span name, struct span arguments) {
    return buf_printf(&((struct heard *)arg)->calls, "%u %.*s %.*s;", index, SPAN_ARG(name), SPAN_ARG(arguments));
}

static int parse(enum chat_style style, bool reasoning, bool begun, struct span answer, size_t step, struct heard *h) {
    static const struct span tools[] = {{"add", 3}, {"get_weather", 11}};
    const struct chat_parser_options o = {.style = style, .reasoning = reasoning, .tools = tools, .tool_count = 2};
    const struct chat_sink sink = {h, on_text, on_reasoning, on_call};
    struct chat_parser *p = NULL;
    *h = (struct heard){.text = {0}};
    buf_init(&h->text, 1 << 24);
    buf_init(&h->reasoning, 1 << 24);
    buf_init(&h->calls, 1 << 24);
    int r = chat_parser_new(&o, &sink, &p);
    if (!r && begun) chat_parser_begin_reasoning(p);
    for (size_t i = 0; !r && i < answer.len; i += step) r = chat_parser_push(p, span_sub(answer, i, step));
    if (!r) r = chat_parser_finish(p);
    chat_parser_free(p);
    return r;
}
static void heard_fini(struct heard *h) {
    buf_fini(&h->text);
    buf_fini(&h->reasoning);
    buf_fini(&h->calls);
}

static const struct {
    const char *name;
    enum chat_style style;
    const char *answer, *text, *calls, *reasoning;
    bool reasons, begun;
} cases[] = {
    {"no tools", CHAT_STYLE_NONE, "<tool_call>{\"name\":\"add\"}</tool_call>", "<tool_call>{\"name\":\"add\"}</tool_call>", "", "", false, false},
    {"words alone", CHAT_STYLE_HERMES, "  Hello {\"name\": 1} <tool", "  Hello {\"name\": 1} <tool", "", "", false, false},
    {"white space alone", CHAT_STYLE_HERMES, " \n", " \n", "", "", false, false},
    {"Hermes", CHAT_STYLE_HERMES, "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2]}}\n</tool_call>", "", "0 add {\"a\":1,\"b\":[2]};", "", false, false},
    {"Hermes, words before and two", CHAT_STYLE_HERMES,
     "I call.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Os</lo\"}}\n</tool_call>\n", "I call.\n",
     "0 add {};1 get_weather {\"city\":\"Os</lo\"};", "", false, false},
    {"Hermes, its end cut off", CHAT_STYLE_HERMES, "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}", "", "0 add {\"a\":1};", "", false, false},
    {"Hermes, cut off within", CHAT_STYLE_HERMES, "<tool_call>{\"name\": \"add\", \"argu", "<tool_call>{\"name\": \"add\", \"argu", "", "", false, false},
    {"Hermes, no JSON, then one", CHAT_STYLE_HERMES, "<tool_call>what?</tool_call><tool_call>{\"name\":\"add\"}</tool_call>", "<tool_call>what?</tool_call>", "0 add {};", "", false, false},
    {"Hermes, a tool that was not given", CHAT_STYLE_HERMES, "<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>", "<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>", "", "", false, false},
    {"Hermes, bare", CHAT_STYLE_HERMES, "{\"name\": \"add\", \"parameters\": {\"a\": 2}}", "", "0 add {\"a\":2};", "", false, false},
    {"Hermes, bare, but only text", CHAT_STYLE_HERMES, "{\"name\": \"Anna\"} is JSON", "{\"name\": \"Anna\"} is JSON", "", "", false, false},
    {"arguments as a string", CHAT_STYLE_HERMES, "<tool_call>{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>", "", "0 add {\"a\": 1};", "", false, false},
    {"Qwen-Coder", CHAT_STYLE_HERMES,
     "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo \"x\"\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>", "",
     "0 get_weather {\"city\":\"Oslo \\\"x\\\"\",\"days\":3};", "", false, false},
    {"Mistral, a list", CHAT_STYLE_MISTRAL, "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": \"add\", \"arguments\": {}}]", "", "0 add {\"a\":1};1 add {};", "", false, false},
    {"Mistral, names", CHAT_STYLE_MISTRAL, "Fine.[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]get_weather{\"c\": 2}", "Fine.", "0 add {\"a\": 1};1 get_weather {\"c\": 2};", "", false, false},
    {"Mistral, none", CHAT_STYLE_MISTRAL, "[TOOL_CALLS] nothing", "[TOOL_CALLS] nothing", "", "", false, false},
    {"Llama", CHAT_STYLE_LLAMA, "{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "", "0 add {\"a\":1};", "", false, false},
    {"Llama, two, marked", CHAT_STYLE_LLAMA, "<|python_tag|>{\"name\": \"add\", \"parameters\": {}}; {\"name\": \"get_weather\", \"parameters\": {\"x\": \"}\"}}", "",
     "0 add {};1 get_weather {\"x\":\"}\"};", "", false, false},
    {"Llama, JSON that is no call", CHAT_STYLE_LLAMA, "{\"answer\": 42}", "{\"answer\": 42}", "", "", false, false},
    {"Llama, a type", CHAT_STYLE_LLAMA, "{\"type\": \"function\", \"name\": \"add\", \"parameters\": {\"a\": null}}", "", "0 add {\"a\":null};", "", false, false},
    {"DeepSeek", CHAT_STYLE_DEEPSEEK,
     "Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{}\n```<｜tool▁call▁end｜>"
     "<｜tool▁calls▁end｜>",
     "Let me see.", "0 add {\"a\": 1};1 get_weather {};", "", false, false},
    {"DeepSeek 3.1", CHAT_STYLE_DEEPSEEK, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "", "0 add {\"a\": 1};", "", false, false},
    {"Python's", CHAT_STYLE_PYTHONIC, "[add(a=1, b=-2.5), get_weather(city='Os\\'lo', l=[True, None, {\"k\": \"v\"}])]", "",
     "0 add {\"a\":1,\"b\":-2.5};1 get_weather {\"city\":\"Os'lo\",\"l\":[true,null,{\"k\":\"v\"}]};", "", false, false},
    {"Gemma", CHAT_STYLE_PYTHONIC, "Sure:\n```tool_code\nadd(a=1)\n```", "Sure:\n", "0 add {\"a\":1};", "", false, false},
    {"Python's, and the other mark behind it", CHAT_STYLE_PYTHONIC, "<|python_start|>[add(a=1)]\n```tool_code\n", "", "0 add {\"a\":1};", "", false, false},
    {"a list that is none", CHAT_STYLE_PYTHONIC, "[1] is a footnote", "[1] is a footnote", "", "", false, false},
    {"Python's, wrong", CHAT_STYLE_PYTHONIC, "[add(a=1, a=2)]", "[add(a=1, a=2)]", "", "", false, false},
    {"held by a grammar", CHAT_STYLE_JSON, "[{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}]", "", "0 add {\"a\":1,\"b\":2};", "", false, false},
    {"reasoning", CHAT_STYLE_NONE, "<think>\nhm, hm\n\n</think>\n\nHello.", "Hello.", "", "hm, hm", true, false},
    {"reasoning, none", CHAT_STYLE_NONE, "<thin air>", "<thin air>", "", "", true, false},
    {"reasoning, empty", CHAT_STYLE_NONE, "<think>\n\n</think>\n\nHello.", "Hello.", "", "", true, false},
    {"reasoning that the prompt began", CHAT_STYLE_NONE, "Well…\n</think>\nHello.", "Hello.", "", "Well…", true, true},
    {"reasoning without end", CHAT_STYLE_NONE, "<think>so</thi", "", "", "so</thi", true, false},
    {"reasoning and a call", CHAT_STYLE_HERMES, "<think>\nI call <tool_call>\n</think>\n\n<tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>", "", "0 add {};", "I call <tool_call>", true, false},
    {"think within an answer", CHAT_STYLE_NONE, "I <think> so </think>.", "I <think> so </think>.", "", "", true, false},
    {"no reasoning known", CHAT_STYLE_NONE, "<think>x</think>y", "<think>x</think>y", "", "", false, false},
};

static void test_cases(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t step = 1; step < 400; step = step < 8 ? step + 1 : step * 7) {
            struct heard h;
            assert_int_equal(parse(cases[i].style, cases[i].reasons, cases[i].begun, span_str(cases[i].answer), step, &h), 0);
            if (strcmp(buf_cstr(&h.text), cases[i].text) != 0) fail_msg("%s (%zu bytes): text \"%s\"", cases[i].name, step, buf_cstr(&h.text));
            if (strcmp(buf_cstr(&h.calls), cases[i].calls) != 0) fail_msg("%s (%zu bytes): calls \"%s\"", cases[i].name, step, buf_cstr(&h.calls));
            if (strcmp(buf_cstr(&h.reasoning), cases[i].reasoning) != 0) fail_msg("%s (%zu bytes): reasoning \"%s\"", cases[i].name, step, buf_cstr(&h.reasoning));
            heard_fini(&h);
        }
}

/* What is longer than a call may be is text, and nothing of it is lost. */
static void test_too_long(void **state) {
    (void)state;
    struct buf answer;
    struct heard h;
    buf_init(&answer, 1 << 24);
    (void)buf_append_str(&answer, "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": \"");
    for (int i = 0; i < 3 << 20; i++) (void)buf_append_char(&answer, 'x');
    (void)buf_append_str(&answer, "\"}}</tool_call>");
    assert_int_equal(parse(CHAT_STYLE_HERMES, false, false, buf_span(&answer), 4099, &h), 0);
    assert_true(span_eq(buf_span(&h.text), buf_span(&answer)));
    assert_int_equal(h.calls.len, 0);
    heard_fini(&h);
    buf_fini(&answer);
}

static void test_no_memory(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        struct heard h;
        alloc_fail_at(n);
        int r = parse(CHAT_STYLE_HERMES, true, false, SPAN("<think>a</think>b<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>"), 3, &h);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        heard_fini(&h);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases), cmocka_unit_test(test_too_long), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
