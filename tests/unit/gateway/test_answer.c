/* Answers in OpenAI's JSON, whole and as server-sent events: every event is one line of JSON that parses, and the pieces make the whole. */
#include "tests/unit/support/check.h"

#include "base/json.h"
#include "services/gateway/answer.h"

#define S(TEXT) ((char *)(uintptr_t)(TEXT))

static struct answer answer_of(bool chat) { return (struct answer){.chat = chat, .id = chat ? "chatcmpl-1" : "cmpl-1", .created_s = 1700000000, .model = "m@1"}; }

static void reply_of(Genloop__V1__GenerateReply *r, const char *text, const char *finish) {
    genloop__v1__generate_reply__init(r);
    r->text = S(text);
    r->finish_reason = S(finish);
}

static void check_json(struct span text, const char *what) {
    struct json *root = NULL;
    struct error err = {0};
    CHECK(json_parse(text, &root, &err) == 0, "%s: %s: %.*s", what, err.message, SPAN_ARG(text));
    json_free(root);
}

static void test_whole(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool chat;
        const char *text, *expected;
    } cases[] = {
        {"chat", true, "Hello \"you\"",
         "{'id':'chatcmpl-1','object':'chat.completion','created':1700000000,'model':'m@1','choices':[{'index':0,'message':{'role':'assistant','content':'Hello \\\"you\\\"','refusal':null},"
         "'logprobs':null,'finish_reason':'stop'}],'usage':{'prompt_tokens':3,'completion_tokens':2,'total_tokens':5,'prompt_tokens_details':{'cached_tokens':1}}}"},
        {"completion", false, "a\nb",
         "{'id':'cmpl-1','object':'text_completion','created':1700000000,'model':'m@1','choices':[{'index':0,'text':'a\\nb','logprobs':null,'finish_reason':'stop'}],"
         "'usage':{'prompt_tokens':3,'completion_tokens':2,'total_tokens':5,'prompt_tokens_details':{'cached_tokens':1}}}"},
        {"nothing", true, "",
         "{'id':'chatcmpl-1','object':'chat.completion','created':1700000000,'model':'m@1','choices':[{'index':0,'message':{'role':'assistant','content':'','refusal':null},"
         "'logprobs':null,'finish_reason':'stop'}],'usage':{'prompt_tokens':3,'completion_tokens':2,'total_tokens':5,'prompt_tokens_details':{'cached_tokens':1}}}"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct answer a = answer_of(cases[i].chat);
        struct answer_usage usage = {3, 2, 1, 0};
        struct choice c;
        struct buf out;
        Genloop__V1__GenerateReply r;
        choice_init(&c, 0);
        buf_init(&out, 1 << 20);
        reply_of(&r, cases[i].text, "");
        choice_add(&c, &a, &r);
        reply_of(&r, "", "stop");
        choice_add(&c, &a, &r);
        answer_write(&out, &a, &c, 1, &usage);
        check_json(buf_span(&out), cases[i].name);
        struct span expected = quoted(cases[i].expected);
        CHECK(!out.failed && span_eq(buf_span(&out), expected), "%s:\n%.*s\n%.*s", cases[i].name, SPAN_ARG(buf_span(&out)), SPAN_ARG(expected));
        choice_fini(&c);
        buf_fini(&out);
    }
}

/* Log-probabilities: a list of objects in a chat, parallel lists in a completion, with offsets in characters. */
static void test_logprobs(void **state) {
    (void)state;
    Genloop__V1__TokenLogprob one = GENLOOP__V1__TOKEN_LOGPROB__INIT, two = GENLOOP__V1__TOKEN_LOGPROB__INIT, *top[] = {&one, &two};
    Genloop__V1__PositionLogprobs first = GENLOOP__V1__POSITION_LOGPROBS__INIT, second = GENLOOP__V1__POSITION_LOGPROBS__INIT, none = GENLOOP__V1__POSITION_LOGPROBS__INIT,
                                  *positions[] = {&first, &second, &none};
    one.text = (ProtobufCBinaryData){3, (uint8_t *)S("\xc3\xa4x")};
    one.logprob = -0.5f;
    two.text = (ProtobufCBinaryData){1, (uint8_t *)S("\xff")}; /* half a character: a token may end inside one */
    two.logprob = -2;
    first.chosen = &one;
    first.top = top;
    first.n_top = 2;
    second.chosen = &two;
    none.ends = true; /* a completion lists the token that ended it, a chat does not */
    for (int chat = 0; chat < 2; chat++) {
        struct answer a = answer_of(chat);
        struct answer_usage usage = {1, 3, 0, 0};
        struct choice c;
        struct buf out;
        struct json *root = NULL;
        Genloop__V1__GenerateReply r;
        choice_init(&c, 0);
        buf_init(&out, 1 << 20);
        reply_of(&r, "\xc3\xa4x?", "length");
        r.logprobs = positions;
        r.n_logprobs = 3;
        choice_add(&c, &a, &r);
        assert_true(c.logprob_count == 3 && c.logprob_sum == -2.5);
        answer_write(&out, &a, &c, 1, &usage);
        assert_int_equal(json_parse(buf_span(&out), &root, NULL), 0);
        const struct json *lp = json_get(json_at(json_get(root, "choices"), 0), "logprobs");
        if (chat) {
            const struct json *list = json_get(lp, "content"), *at = json_at(list, 0);
            assert_int_equal(json_size(list), 2);
            assert_true(json_real(json_get(at, "logprob"), 0) == -0.5 && json_size(json_get(at, "bytes")) == 3 && json_size(json_get(at, "top_logprobs")) == 2);
            assert_int_equal(json_int(json_at(json_get(json_at(list, 1), "bytes"), 0), 0), 0xff);
            assert_true(json_get(lp, "refusal") && json_is_null(json_get(lp, "refusal")));
        } else {
            assert_true(json_size(json_get(lp, "tokens")) == 3 && json_size(json_get(lp, "token_logprobs")) == 3 && json_size(json_get(lp, "top_logprobs")) == 3);
            assert_int_equal(json_int(json_at(json_get(lp, "text_offset"), 1), -1), 2); /* two characters, three bytes */
        }
        json_free(root);
        choice_fini(&c);
        buf_fini(&out);
    }
}

/* An echo's prompt comes first and is not counted for best_of; its first token has no log-probability. Of two tokens with one text the likelier stands, half a character is named by its bytes, what has no
 * text moves no offset, and the chosen token is always among the candidates. */
static void test_echo(void **state) {
    (void)state;
    Genloop__V1__TokenLogprob bos = GENLOOP__V1__TOKEN_LOGPROB__INIT, half = GENLOOP__V1__TOKEN_LOGPROB__INIT, a1 = GENLOOP__V1__TOKEN_LOGPROB__INIT, a2 = GENLOOP__V1__TOKEN_LOGPROB__INIT, *top[] = {&a1, &a2};
    Genloop__V1__PositionLogprobs first = GENLOOP__V1__POSITION_LOGPROBS__INIT, second = GENLOOP__V1__POSITION_LOGPROBS__INIT, third = GENLOOP__V1__POSITION_LOGPROBS__INIT, *prompt[] = {&first, &second}, *answer[] = {&third};
    struct answer a = answer_of(false);
    struct answer_usage usage = {2, 1, 0, 0};
    struct choice c;
    struct buf out;
    Genloop__V1__GenerateReply r;
    bos.text = (ProtobufCBinaryData){3, (uint8_t *)S("<s>")};
    bos.special = true;
    half.text = (ProtobufCBinaryData){2, (uint8_t *)S("\xe2\x82")};
    half.logprob = -4;
    a1.text = a2.text = (ProtobufCBinaryData){1, (uint8_t *)S("a")};
    a1.logprob = -1;
    a2.logprob = -2;
    first.chosen = &bos;
    first.unscored = true;
    second.chosen = &half;
    second.top = top;
    second.n_top = 2;
    third.chosen = &a1;
    third.top = top;
    third.n_top = 2;
    choice_init(&c, 0);
    buf_init(&out, 1 << 20);
    reply_of(&r, "\xe2\x82\xac", "length");
    r.prompt_logprobs = prompt;
    r.n_prompt_logprobs = 2;
    r.logprobs = answer;
    r.n_logprobs = 1;
    choice_add(&c, &a, &r);
    assert_true(c.logprob_count == 1 && c.logprob_sum == -1);
    answer_write(&out, &a, &c, 1, &usage);
    struct span wanted = quoted("{'id':'cmpl-1','object':'text_completion','created':1700000000,'model':'m@1','choices':[{'index':0,'text':'\xe2\x82\xac','logprobs':{'tokens':['<s>','bytes:\\\\xe2\\\\x82','a'],"
                                "'token_logprobs':[null,-4.0,-1.0],'top_logprobs':[null,{'a':-1.0,'bytes:\\\\xe2\\\\x82':-4.0},{'a':-1.0}],'text_offset':[0,0,1]},'finish_reason':'length'}],"
                                "'usage':{'prompt_tokens':2,'completion_tokens':1,'total_tokens':3,'prompt_tokens_details':{'cached_tokens':0}}}");
    CHECK(span_eq(buf_span(&out), wanted), "\n%.*s\n%.*s", SPAN_ARG(buf_span(&out)), SPAN_ARG(wanted));
    choice_fini(&c);
    buf_fini(&out);
}

/* The data of each event, until none is left. */
static bool next_event(struct span *rest, struct span *data) {
    if (!rest->len) return false;
    CHECK(span_starts(*rest, SPAN("data: ")), "%.*s", SPAN_ARG(*rest));
    ptrdiff_t end = span_find(*rest, SPAN("\n\n"));
    CHECK(end > 0, "%.*s has no end", SPAN_ARG(*rest));
    *data = span_sub(*rest, 6, (size_t)end - 6);
    CHECK(span_find_char(*data, '\n') < 0, "%.*s is more than a line", SPAN_ARG(*data));
    *rest = span_skip(*rest, (size_t)end + 2);
    return true;
}

static void test_chunks(void **state) {
    (void)state;
    static const char *const pieces[] = {"Hel", "lo\n\ndata: [DONE]\n\n", "", "\xc3\xa4"};
    for (int chat = 0; chat < 2; chat++)
        for (int usage_field = 0; usage_field < 2; usage_field++) {
            struct answer a = answer_of(chat);
            struct choice c;
            struct buf out, text;
            Genloop__V1__GenerateReply r;
            choice_init(&c, 1);
            buf_init(&out, 1 << 20);
            buf_init(&text, 1 << 20);
            for (size_t i = 0; i < COUNT(pieces); i++) {
                reply_of(&r, pieces[i], "");
                answer_chunk(&out, &a, &c, &r, usage_field);
            }
            reply_of(&r, "!", "stop");
            answer_chunk(&out, &a, &c, &r, usage_field);
            answer_usage_chunk(&out, &a, &(struct answer_usage){1, 2, 0, 0});
            struct span rest = buf_span(&out), data;
            int n = 0, ends = 0, usages = 0;
            while (next_event(&rest, &data)) {
                struct json *root = NULL;
                struct error err = {0};
                CHECK(json_parse(data, &root, &err) == 0, "%.*s: %s", SPAN_ARG(data), err.message);
                assert_true(span_eq_str(json_string(json_get(root, "object")), chat ? "chat.completion.chunk" : "text_completion"));
                const struct json *choices = json_get(root, "choices"), *choice = json_at(choices, 0), *delta = json_get(choice, "delta");
                if (json_size(choices) == 0) {
                    usages++;
                    assert_int_equal(json_int(json_get(json_get(root, "usage"), "total_tokens"), 0), 3);
                    assert_int_equal(rest.len, 0); /* the last */
                } else {
                    assert_int_equal(json_int(json_get(choice, "index"), -1), 1);
                    assert_true(usage_field ? json_get(root, "usage") && json_is_null(json_get(root, "usage")) : !json_get(root, "usage"));
                    if (chat) assert_true((n == 0) == span_eq_str(json_string(json_get(delta, "role")), "assistant")); /* the role once, at first */
                    buf_append_span(&text, json_string(chat ? json_get(delta, "content") : json_get(choice, "text")));
                    if (!json_is_null(json_get(choice, "finish_reason"))) ends++;
                }
                n++;
                json_free(root);
            }
            assert_true(ends == 1 && usages == 1 && !out.failed);
            assert_string_equal(buf_cstr(&text), "Hello\n\ndata: [DONE]\n\n\xc3\xa4!");
            choice_fini(&c);
            buf_fini(&out);
            buf_fini(&text);
        }
}

/* A cap or a missing allocation is told, never half an answer for a whole one. */
static int attempt(void *arg) {
    bool chat = *(bool *)arg;
    struct answer a = answer_of(chat);
    struct choice c;
    struct buf out;
    Genloop__V1__TokenLogprob token = GENLOOP__V1__TOKEN_LOGPROB__INIT;
    Genloop__V1__PositionLogprobs position = GENLOOP__V1__POSITION_LOGPROBS__INIT, *positions[] = {&position};
    Genloop__V1__GenerateReply r;
    position.chosen = &token;
    token.text = (ProtobufCBinaryData){1, (uint8_t *)S("a")};
    choice_init(&c, 0);
    buf_init(&out, 1 << 20);
    reply_of(&r, "a", "stop");
    r.logprobs = positions;
    r.n_logprobs = 1;
    choice_add(&c, &a, &r);
    answer_write(&out, &a, &c, 1, &(struct answer_usage){0});
    int code = out.failed;
    if (!code) {
        uint64_t left = alloc_count();
        (void)left;
        struct json *root = NULL;
        alloc_fail_at(0);
        CHECK(json_parse(buf_span(&out), &root, NULL) == 0, "%.*s", SPAN_ARG(buf_span(&out)));
        const struct json *lp = json_get(json_at(json_get(root, "choices"), 0), "logprobs");
        CHECK(json_size(json_get(lp, chat ? "content" : "tokens")) == 1 && (chat || (json_size(json_get(lp, "text_offset")) == 1 && json_size(json_get(lp, "top_logprobs")) == 1)), "%.*s",
              SPAN_ARG(buf_span(&out)));
        json_free(root);
    }
    choice_fini(&c);
    buf_fini(&out);
    return code;
}

static void test_without_memory(void **state) {
    (void)state;
    for (int chat = 0; chat < 2; chat++) {
        bool of_chat = chat;
        for (uint64_t at = 1; at < 40; at++) { /* attempt says itself whether what it made is whole */
            alloc_fail_at(at);
            int r = attempt(&of_chat);
            alloc_fail_at(0);
            CHECK(r == 0 || r == E_NOMEM, "%d where allocation %d fails", r, (int)at);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_logprobs), cmocka_unit_test(test_echo), cmocka_unit_test(test_chunks), cmocka_unit_test(test_without_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
