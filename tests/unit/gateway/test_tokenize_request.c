/* Texts as ids and back: what the requests may say, what a replica is asked, what the client is told. */
#include "services/gateway/tokenize_request.h"
#include "tests/unit/support/check.h"

static void test_requests(void **state) {
    (void)state;
    static const struct {
        bool back;
        const char *body, *param;
        int code;
    } cases[] = {
        {false, "{'model':'m','prompt':'a'}", "", 0},
        {false, "{'model':'m','prompt':''}", "", 0},
        {false, "{'model':'m','prompt':'a','add_special_tokens':false,'return_token_strs':true}", "", 0},
        {false, "{'model':'m','messages':[{'role':'user','content':'a'}],'add_generation_prompt':false,'add_special_tokens':false}", "", 0},
        {false, "{'prompt':'a'}", "model", E_INVALID},
        {false, "{'model':'m'}", "prompt", E_INVALID},
        {false, "{'model':'m','prompt':['a']}", "prompt", E_INVALID},
        {false, "{'model':'m','prompt':'a','messages':[{'role':'user','content':'a'}]}", "messages", E_INVALID},
        {false, "{'model':'m','messages':[]}", "messages", E_INVALID},
        {false, "{'model':'m','messages':[{'role':'robot','content':'a'}]}", "messages.0.role", E_INVALID},
        {false, "{'model':'m','prompt':'a','add_generation_prompt':true}", "add_generation_prompt", E_INVALID},
        {false, "{'model':'m','prompt':'a','add_special_tokens':1}", "add_special_tokens", E_INVALID},
        {false, "{'model':'m','messages':[{'role':'user','content':'a'}],'add_special_tokens':true}", "add_special_tokens", E_UNSUPPORTED},
        {false, "{'model':'m','messages':[{'role':'user','content':'a'}],'tools':[{}]}", "tools", E_INVALID},
        {false, "{'model':'m','messages':[{'role':'user','content':'a'}],'tools':[{'type':'function','function':{'name':'f'}}],'chat_template_kwargs':{'x':1}}", "", 0},
        {false, "{'model':'m','prompt':'a','tools':[{'type':'function','function':{'name':'f'}}]}", "tools", E_INVALID},
        {false, "{'model':'m','prompt':'a','chat_template_kwargs':{'x':1}}", "chat_template_kwargs", E_INVALID},
        {false, "{'model':'m','prompt':'a','chat_template':'x','return_token_strs':'yes'}", "return_token_strs", E_INVALID}, /* what is wrong goes first */
        {false, "{'model':'m','prompt':'a','temperature':1}", "temperature", E_INVALID},
        {true, "{'model':'m','tokens':[1,2]}", "", 0},
        {true, "{'model':'m','tokens':[]}", "", 0},
        {true, "{'model':'m'}", "tokens", E_INVALID},
        {true, "{'tokens':[1]}", "model", E_INVALID},
        {true, "{'model':'m','tokens':'1'}", "tokens", E_INVALID},
        {true, "{'model':'m','tokens':[1.5]}", "tokens", E_INVALID},
        {true, "{'model':'m','tokens':[-1]}", "tokens", E_INVALID},
        {true, "{'model':'m','tokens':[4294967296]}", "tokens", E_INVALID},
        {true, "{'model':'m','tokens':[1],'prompt':'a'}", "prompt", E_INVALID},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct json *body = NULL;
        struct error err = {0};
        struct arena arena;
        struct tokenize_request t;
        struct detokenize_request d;
        arena_init(&arena, REQUEST_ARENA_MAX);
        assert_int_equal(json_parse(quoted(cases[i].body), &body, &err), 0);
        int r = cases[i].back ? detokenize_request_read(&d, &arena, body, &err) : tokenize_request_read(&t, &arena, body, &err);
        CHECK(r == cases[i].code && strcmp(err.param, cases[i].param) == 0, "%s: %d \"%s\" %s", cases[i].body, r, err.param, err.message);
        if (i == 2) assert_true(t.message.no_special && t.message.strings && t.strings && strcmp(t.message.prompt, "a") == 0);
        if (i == 3) assert_true(t.message.no_generation_prompt && t.message.n_messages == 1 && !t.message.prompt[0]);
        if (i == 19) assert_true(d.message.n_tokens == 2 && d.message.tokens[1] == 2 && strcmp(d.message.model, "m") == 0);
        json_free(body);
        arena_fini(&arena);
    }
}

static void test_answers(void **state) {
    (void)state;
    uint32_t ids[] = {7, 4000000000u};
    ProtobufCBinaryData strings[] = {{1, (uint8_t *)(uintptr_t) "a"}, {1, (uint8_t *)(uintptr_t) "\xff"}};
    Genloop__V1__TokenizeReply t = GENLOOP__V1__TOKENIZE_REPLY__INIT;
    Genloop__V1__DetokenizeReply d = GENLOOP__V1__DETOKENIZE_REPLY__INIT;
    struct buf out;
    t.tokens = ids;
    t.strings = strings;
    t.n_tokens = t.n_strings = 2;
    t.context = 64;
    d.text = (char *)(uintptr_t) "say \"a\"";
    buf_init(&out, 1 << 16);
    tokenize_answer(&out, &t, true);
    assert_true(span_eq(buf_span(&out), quoted("{'count':2,'max_model_len':64,'tokens':[7,4000000000],'token_strs':['a','\xef\xbf\xbd']}")));
    buf_clear(&out);
    tokenize_answer(&out, &t, false);
    assert_true(span_eq(buf_span(&out), quoted("{'count':2,'max_model_len':64,'tokens':[7,4000000000],'token_strs':null}")));
    buf_clear(&out);
    detokenize_answer(&out, &d);
    assert_true(span_eq(buf_span(&out), quoted("{'prompt':'say \\\"a\\\"'}")));
    buf_fini(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_requests), cmocka_unit_test(test_answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
