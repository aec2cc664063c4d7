/* OpenAI's chats for templates of all kinds: what each is given until it takes it, and what an answer that is calls must look like. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "tokenizer/chat.h"
#include "tokenizer/train.h"

static struct tokenizer *trained(void) {
    struct tokenizer_trainer *tr = NULL;
    struct tokenizer *t = NULL;
    assert_int_equal(tokenizer_trainer_new(&tr, &(struct tokenizer_train_options){.vocab_size = 300}, NULL), 0);
    assert_int_equal(tokenizer_trainer_feed(tr, SPAN("user assistant system tool calls answer\n\n\n"), NULL), 0);
    assert_int_equal(tokenizer_trainer_finish(tr, &t, NULL, NULL, NULL), 0);
    tokenizer_trainer_free(tr);
    return t;
}

/* The prompt's text again, from its ids. */
static int prompt(const struct tokenizer *t, const char *template_text, const char *chat_text, struct buf *out, bool *in_reasoning, struct error *err) {
    struct chat_template *c = NULL;
    struct json *root = NULL;
    struct tokens ids = {0};
    buf_clear(out);
    *err = (struct error){0};
    assert_int_equal(json_parse(span_str(chat_text), &root, err), 0);
    int r = chat_template_new(template_text, t, &c, err);
    struct chat chat = {.messages = json_get(root, "messages"), .tools = json_get(root, "tools"), .kwargs = json_get(root, "chat_template_kwargs"), .add_generation_prompt = true};
    if (!r) r = chat_template_prompt(c, t, &chat, &ids, in_reasoning, err);
    if (!r) assert_int_equal(tokenizer_decode(t, ids.ids, ids.len, false, out), 0);
    tokens_fini(&ids);
    chat_template_free(c);
    json_free(root);
    return r;
}

#define CALL "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"add\",\"arguments\":\"{\\\"a\\\": 1}\"}}]}"
#define TURNS "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}," CALL ",{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"3\"}]}"

static void test_forms(void **state) {
    (void)state;
    struct tokenizer *t = trained();
    struct buf out;
    struct error err;
    bool in_reasoning = true;
    buf_init(&out, 1 << 20);
    static const struct {
        const char *name, *template, *chat, *text;
    } cases[] = {
        {"arguments are an object where that will do", "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}", TURNS, "{\"a\": 1}"},
        {"and a string where it will not", "{% for m in messages %}{% for c in m.tool_calls %}{{ 'A' + c.function.arguments }}{% endfor %}{% endfor %}", TURNS, "A{\"a\": 1}"},
        {"no content is null", "{% for m in messages %}{% if m.content is none %}none{% endif %}{{ m.tool_calls is defined }}{% endfor %}", TURNS, "FalsenoneTrueFalse"},
        {"or a text", "{% for m in messages %}{{ m.content + '|' }}{% if m.tool_calls %}!{% endif %}{% endfor %}", TURNS, "q||!3|"},
        {"a result knows its function", "{% for m in messages %}{{ m.name }}{% endfor %}{# tool_calls #}", TURNS, "add"},
        {"developer is system", "{% for m in messages %}{{ m.role }}{% endfor %}", "{\"messages\":[{\"role\":\"developer\",\"content\":\"x\"}]}", "system"},
        {"or itself", "{% for m in messages %}{% if m.role == 'developer' %}D{% endif %}{% endfor %}", "{\"messages\":[{\"role\":\"developer\",\"content\":\"x\"}]}", "D"},
        {"a system that a template has not", "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m in messages %}{{ m.role ~ ':' ~ m.content }}{% endfor %}",
         "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"user\",\"content\":\"v\"}]}", "user:s\n\nuuser:v"},
        {"calls in words", "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ ';' }}{% endfor %}", TURNS,
         "user:q;assistant:<tool_call>\n{\"name\":\"add\",\"arguments\":{\"a\":1}}\n</tool_call>;user:<tool_response>\n3\n</tool_response>;"},
        {"further variables", "{{ enable_thinking is false }}", "{\"messages\":[],\"chat_template_kwargs\":{\"enable_thinking\":false}}", "True"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int r = prompt(t, cases[i].template, cases[i].chat, &out, &in_reasoning, &err);
        if (r || strcmp(buf_cstr(&out), cases[i].text) != 0) fail_msg("%s: %d %s \"%s\"", cases[i].name, r, err.message, buf_cstr(&out));
        assert_false(in_reasoning);
    }
    /* what no form helps is told of the first */
    assert_int_equal(prompt(t, "{# tool_calls #}{{ raise_exception('never ' ~ (messages[1].content is none)) }}", TURNS, &out, NULL, &err), E_INVALID);
    assert_string_equal(err.message, "never True");
    assert_int_equal(prompt(t, "a<think>\n", "{\"messages\":[]}", &out, &in_reasoning, &err), 0);
    assert_true(in_reasoning);
    buf_fini(&out);
    tokenizer_free(t);
}

/* A template that knows no tools: they are in the system's words, before its own turn or in it. */
static void test_tools_in_words(void **state) {
    (void)state;
    static const char tools[] = ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"add\"}}]}";
    static const char plain[] = "{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ ';' }}{% endfor %}";
    struct tokenizer *t = trained();
    struct buf out, chat;
    struct error err;
    buf_init(&out, 1 << 20);
    buf_init(&chat, 1 << 16);
    static const struct {
        const char *template, *messages, *begin, *end;
    } cases[] = {
        {plain, "[{\"role\":\"user\",\"content\":\"u\"}]", "system:# Tools\n", "</tool_call>;user:u;"},
        {plain, "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"}]", "system:s\n\n# Tools\n", "</tool_call>;user:u;"},
        {"{% for m in messages %}{{ raise_exception('no') if m.role == 'system' }}{{ m.content }};{% endfor %}", "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"u\"}]",
         "s\n\n# Tools\n", "</tool_call>\n\nu;"},
        {"{{ tools | length }}", "[{\"role\":\"user\",\"content\":\"u\"}]", "1", "1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        buf_clear(&chat);
        (void)buf_printf(&chat, "{\"messages\":%s%s", cases[i].messages, tools);
        assert_int_equal(prompt(t, cases[i].template, buf_cstr(&chat), &out, NULL, &err), 0);
        if (!span_starts(buf_span(&out), span_str(cases[i].begin)) || !span_ends(buf_span(&out), span_str(cases[i].end))) fail_msg("case %zu: %s", i, buf_cstr(&out));
    }
    buf_fini(&out);
    buf_fini(&chat);
    tokenizer_free(t);
}

static void test_style(void **state) {
    (void)state;
    static const struct {
        const char *template;
        enum chat_style style;
        bool reasons;
    } cases[] = {
        {CHAT_TEMPLATE_CHATML, CHAT_STYLE_HERMES, false}, {"<tool_call> </think>", CHAT_STYLE_HERMES, true}, {"[TOOL_CALLS]", CHAT_STYLE_MISTRAL, false},
        {"<|python_tag|>", CHAT_STYLE_LLAMA, false}, {"<｜tool▁calls▁begin｜>", CHAT_STYLE_DEEPSEEK, false}, {"```tool_code", CHAT_STYLE_PYTHONIC, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct chat_template *c = NULL;
        assert_int_equal(chat_template_new(cases[i].template, NULL, &c, NULL), 0);
        if (chat_template_style(c) != cases[i].style || chat_template_reasons(c) != cases[i].reasons) fail_msg("%s", cases[i].template);
        chat_template_free(c);
    }
}

static void test_schema(void **state) {
    (void)state;
    struct json *tools = NULL;
    struct buf out;
    struct error err = {0};
    buf_init(&out, 1 << 16);
    assert_int_equal(json_parse(SPAN("[{\"type\":\"function\",\"function\":{\"name\":\"a\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}},{\"type\":\"function\",\"function\":{\"name\":\"b\"}}]"), &tools, NULL), 0);
    assert_int_equal(chat_tools_schema(tools, SPAN("b"), true, &out, &err), 0);
    assert_string_equal(buf_cstr(&out), "{\"type\":\"array\",\"minItems\":1,\"maxItems\":1,\"items\":{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"b\"},\"arguments\":{\"type\":\"object\"}},"
                                        "\"required\":[\"name\",\"arguments\"],\"additionalProperties\":false}]}}");
    buf_clear(&out);
    assert_int_equal(chat_tools_schema(tools, SPAN(""), false, &out, &err), 0);
    assert_non_null(strstr(buf_cstr(&out), "\"const\":\"a\""));
    assert_non_null(strstr(buf_cstr(&out), "\"const\":\"b\""));
    buf_clear(&out);
    assert_int_equal(chat_tools_schema(tools, SPAN("c"), false, &out, &err), E_INVALID);
    assert_string_equal(err.param, "tool_choice");
    json_free(tools);
    buf_fini(&out);
}

static void test_no_memory(void **state) {
    (void)state;
    struct tokenizer *t = trained();
    struct json *root = NULL;
    assert_int_equal(json_parse(SPAN(TURNS), &root, NULL), 0);
    for (uint64_t n = 1;; n++) {
        struct chat_template *c = NULL;
        struct tokens ids = {0};
        struct chat chat = {.messages = json_get(root, "messages"), .add_generation_prompt = true};
        alloc_fail_at(n);
        int r = chat_template_new("{% for m in messages %}{{ m.content + '|' }}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}", t, &c, NULL);
        if (!r) r = chat_template_prompt(c, t, &chat, &ids, NULL, NULL);
        uint64_t asked = alloc_count();
        alloc_fail_at(0);
        chat_template_free(c);
        tokens_fini(&ids);
        if (asked < n) {
            assert_int_equal(r, 0);
            break;
        }
        assert_int_not_equal(r, 0);
    }
    json_free(root);
    tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms), cmocka_unit_test(test_tools_in_words), cmocka_unit_test(test_style), cmocka_unit_test(test_schema), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
