/* /v1/responses: items as the turns of a chat, parameters with their ranges, what is wrong before what is not built; and answers as items and events, which are the same whole or in pieces. */
#include "tests/unit/support/check.h"

#include "services/gateway/response_answer.h"
#include "services/gateway/response_request.h"

enum { ITEMS_MAX = 1 << 20, EVENTS_MAX = 1 << 20 };

#define S(TEXT) ((char *)(uintptr_t)(TEXT))

static struct arena arena;
static struct response_request more;

static struct json *parsed(const char *text) {
    struct json *v = NULL;
    struct error err = {0};
    CHECK(json_parse(quoted(text), &v, &err) == 0, "%s: %s", text, err.message);
    return v;
}

static int read_request(const char *text, const char *context, struct generate_request *r, struct error *err) {
    struct json *body = parsed(text), *before = context ? parsed(context) : NULL;
    *err = (struct error){0};
    arena_fini(&arena);
    arena_init(&arena, REQUEST_ARENA_MAX);
    buf_fini(&more.items);
    buf_init(&more.items, ITEMS_MAX);
    int code = response_request_read(r, &arena, body, before, "7", &more, err);
    json_free(body);
    json_free(before);
    return code;
}

/* "role:content" of every message, with (reasoning) before and [call name arguments] and <tool_call_id> behind. */
static void tell_messages(const struct generate_request *r, struct buf *out) {
    buf_clear(out);
    for (size_t i = 0; i < r->message.n_messages; i++) {
        const Genloop__V1__ChatMessage *m = r->message.messages[i];
        (void)buf_printf(out, "%s%s:%s", i ? " | " : "", m->role, m->content);
        if (m->reasoning[0]) (void)buf_printf(out, "(%s)", m->reasoning);
        for (size_t k = 0; k < m->n_tool_calls; k++) (void)buf_printf(out, "[%s %s %s]", m->tool_calls[k]->id, m->tool_calls[k]->name, m->tool_calls[k]->arguments);
        if (m->tool_call_id[0]) (void)buf_printf(out, "<%s>", m->tool_call_id);
    }
}

static void test_items(void **state) {
    (void)state;
    static const struct {
        const char *name, *request, *before, *expected;
    } cases[] = {
        {"a text", "'input':'hi'", NULL, "user:hi"},
        {"instructions", "'input':'hi','instructions':'be brief'", NULL, "system:be brief | user:hi"},
        {"messages", "'input':[{'role':'developer','content':'d'},{'type':'message','role':'user','content':[{'type':'input_text','text':'a'},{'type':'input_text','text':'b'}]},"
                     "{'role':'assistant','content':[{'type':'output_text','text':'c','annotations':[]}]},{'role':'user','content':'e'}]", NULL, "developer:d | user:ab | assistant:c | user:e"},
        {"a turn of reasoning, words and calls", "'input':[{'role':'user','content':'q'},{'type':'reasoning','id':'rs_1','summary':[],'content':[{'type':'reasoning_text','text':'hm'}]},"
                                                 "{'role':'assistant','content':'I look'},{'type':'function_call','call_id':'c1','name':'f','arguments':'{}'},"
                                                 "{'type':'function_call','call_id':'c2','name':'g','arguments':'{1}'},{'type':'function_call_output','call_id':'c1','output':'one'},"
                                                 "{'type':'function_call_output','call_id':'c2','output':[{'type':'input_text','text':'two'}]}]", NULL,
         "user:q | assistant:I look(hm)[c1 f {}][c2 g {1}] | tool:one<c1> | tool:two<c2>"},
        {"calls without words", "'input':[{'type':'function_call','call_id':'c1','name':'f','arguments':''},{'role':'assistant','content':'so'}]", NULL, "assistant:[c1 f ] | assistant:so"},
        {"a summary stands for reasoning", "'input':[{'type':'reasoning','summary':[{'type':'summary_text','text':'s'}]},{'role':'assistant','content':'a'}]", NULL, "assistant:a(s)"},
        {"what came before", "'input':[{'type':'function_call_output','call_id':'c1','output':'ok'}],'previous_response_id':'resp_1','instructions':'new'",
         "{'input':[{'id':'msg_1','type':'message','status':'completed','role':'user','content':[{'type':'input_text','text':'q'}]}],"
         "'response':{'output':[{'id':'fc_1','type':'function_call','status':'completed','call_id':'c1','name':'f','arguments':'{}'}]}}",
         "system:new | user:q | assistant:[c1 f {}] | tool:ok<c1>"},
        {"nulls say nothing", "'input':[{'type':'message','id':null,'role':'user','content':'x','phase':null}],'tools':null,'text':null", NULL, "user:x"},
    };
    struct buf told;
    buf_init(&told, 65536);
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[4096];
        struct generate_request r;
        struct error err;
        (void)snprintf(text, sizeof text, "{'model':'m',%s}", cases[i].request);
        CHECK(read_request(text, cases[i].before, &r, &err) == 0, "%s: %s", cases[i].name, err.message);
        tell_messages(&r, &told);
        CHECK(span_eq_str(buf_span(&told), cases[i].expected), "%s: %s", cases[i].name, buf_cstr(&told));
        /* What is kept says the same when it is what came before: but for the instructions, which are of one request. */
        struct json *kept = NULL;
        struct buf record;
        buf_init(&record, ITEMS_MAX);
        (void)buf_printf(&record, "{\"input\":%s}", buf_cstr(&more.items));
        CHECK(json_parse(buf_span(&record), &kept, &err) == 0, "%s: what is kept: %s", cases[i].name, err.message);
        for (size_t k = 0; k < json_size(json_get(kept, "input")); k++)
            CHECK(json_string(json_get(json_at(json_get(kept, "input"), k), "id")).len > 0, "%s: item %zu has no id", cases[i].name, k);
        const char *rest = strstr(cases[i].expected, "system:") == cases[i].expected ? strstr(cases[i].expected, " | ") + 3 : cases[i].expected;
        struct json *next = parsed("{'model':'m','input':'and'}");
        struct generate_request again;
        buf_clear(&more.items);
        CHECK(response_request_read(&again, &arena, next, kept, "8", &more, &err) == 0, "%s: again: %s", cases[i].name, err.message);
        tell_messages(&again, &told);
        CHECK(span_starts(buf_span(&told), span_str(rest)) && strstr(buf_cstr(&told), " | user:and"), "%s: again: %s", cases[i].name, buf_cstr(&told));
        json_free(next);
        json_free(kept);
        buf_fini(&record);
    }
    buf_fini(&told);
}

static void test_parameters(void **state) {
    (void)state;
    static const struct {
        const char *parameter;
        int code;
        const char *param;
    } cases[] = {
        {"'max_output_tokens':1", 0, ""}, {"'max_output_tokens':0", E_INVALID, "max_output_tokens"}, {"'max_output_tokens':1048577", E_INVALID, "max_output_tokens"}, {"'max_output_tokens':'9'", E_INVALID, "max_output_tokens"},
        {"'max_tool_calls':3", 0, ""}, {"'max_tool_calls':0", E_INVALID, "max_tool_calls"}, {"'temperature':2.5", E_INVALID, "temperature"}, {"'top_p':0.5", 0, ""}, {"'stream':1", E_INVALID, "stream"},
        {"'instructions':7", E_INVALID, "instructions"}, {"'instructions':null", 0, ""}, {"'previous_response_id':''", E_INVALID, "previous_response_id"}, {"'previous_response_id':5", E_INVALID, "previous_response_id"},
        {"'top_logprobs':5", 0, ""}, {"'top_logprobs':21", E_INVALID, "top_logprobs"}, {"'include':['message.output_text.logprobs']", 0, ""}, {"'include':['x']", E_INVALID, "include"}, {"'include':'x'", E_INVALID, "include"},
        {"'include':['reasoning.encrypted_content']", E_UNSUPPORTED, "include: reasoning.encrypted_content"},
        {"'tools':[{'type':'function','name':'f','parameters':{},'strict':true}]", 0, ""}, {"'tools':[{'type':'function','name':'f'}],'tool_choice':{'type':'function','name':'f'}", 0, ""},
        {"'tools':[{'type':'function','function':{'name':'f'}}]", E_INVALID, "tools.0"}, {"'tools':[{'type':'function','name':'f','function':{}}]", E_INVALID, "tools.0"}, {"'tools':[{'type':'web_search'}]", E_UNSUPPORTED, "tools.0.type"},
        {"'tools':[{'type':'function','name':'f','parameters':5}]", E_INVALID, "tools.0"}, {"'tools':[{'type':'function','name':'f','strict':5}]", E_INVALID, "tools.0"}, {"'tools':{}", E_INVALID, "tools"},
        {"'tool_choice':'required'", E_INVALID, "tool_choice"}, {"'tools':[{'type':'function','name':'f'}],'tool_choice':{'type':'function','name':'g'}", E_INVALID, "tool_choice"},
        {"'tools':[{'type':'function','name':'f'}],'tool_choice':'some'", E_INVALID, "tool_choice"}, {"'tools':[{'type':'function','name':'f'}],'tool_choice':{'type':'mcp'}", E_UNSUPPORTED, "tool_choice.type"},
        {"'parallel_tool_calls':false", 0, ""}, {"'text':{'format':{'type':'text'}}", 0, ""}, {"'text':{'format':{'type':'json_object'}}", 0, ""}, {"'text':{'verbosity':'medium'}", 0, ""},
        {"'text':{'verbosity':'low'}", E_UNSUPPORTED, "text.verbosity"}, {"'text':{'form':1}", E_INVALID, "text"}, {"'text':{'format':{'type':'poem'}}", E_INVALID, "text.format.type"},
        {"'text':{'format':{'type':'json_schema','name':'s','schema':{}}}", 0, ""}, {"'text':{'format':{'type':'json_schema','name':'s'}}", E_INVALID, "text.format.schema"},
        {"'text':{'format':{'type':'json_object'}},'guided_regex':'a'", E_INVALID, "guided_regex"},
        {"'reasoning':{'effort':null}", 0, ""}, {"'reasoning':{'effort':'low'}", E_UNSUPPORTED, "reasoning.effort"}, {"'reasoning':{'x':1}", E_INVALID, "reasoning"}, {"'reasoning':5", E_INVALID, "reasoning"},
        {"'metadata':{'a':'b'}", 0, ""}, {"'metadata':{'a':1}", E_INVALID, "metadata"}, {"'metadata':[]", E_INVALID, "metadata"}, {"'store':false", 0, ""}, {"'store':'no'", E_INVALID, "store"},
        {"'background':false", 0, ""}, {"'background':true", E_UNSUPPORTED, "background"}, {"'truncation':'disabled'", 0, ""}, {"'truncation':'auto'", E_UNSUPPORTED, "truncation"}, {"'truncation':'all'", E_INVALID, "truncation"},
        {"'conversation':'conv_1'", E_UNSUPPORTED, "conversation"}, {"'prompt':{'id':'p'}", E_UNSUPPORTED, "prompt"}, {"'user':'u','safety_identifier':'s','prompt_cache_key':'k'", 0, ""}, {"'service_tier':'default'", 0, ""},
        {"'max_tokens':5", E_INVALID, "max_tokens"}, {"'n':2", E_INVALID, "n"}, {"'response_format':{'type':'text'}", E_INVALID, "response_format"}, {"'messages':[]", E_INVALID, "messages"}, {"'nothing_known':1", E_INVALID, "nothing_known"},
        {"'truncation':'auto','temperature':9", E_INVALID, "temperature"}, /* what is wrong, before what is not built */
        {"'seed':5,'stop':['a'],'top_k':3", 0, ""}, {"'stream':true,'stream_options':{'include_obfuscation':false}", 0, ""},
    };
    static const struct {
        const char *input;
        int code;
        const char *param;
    } inputs[] = {
        {"''", E_INVALID, "input"}, {"[]", E_INVALID, "input"}, {"5", E_INVALID, "input"}, {"null", E_INVALID, "input"}, {"[5]", E_INVALID, "input.0"}, {"[{'content':'a'}]", E_INVALID, "input.0.role"},
        {"[{'role':'king','content':'a'}]", E_INVALID, "input.0.role"}, {"[{'role':'user'}]", E_INVALID, "input.0.content"}, {"[{'role':'user','content':5}]", E_INVALID, "input.0.content"},
        {"[{'role':'user','content':'a'},{'role':'user','content':[{'type':'x'}]}]", E_INVALID, "input.1.content"}, {"[{'role':'user','content':[{'type':'input_text'}]}]", E_INVALID, "input.0.content"},
        {"[{'role':'user','content':[{'type':'input_image','image_url':'u'}]}]", E_UNSUPPORTED, "input.0.content"}, {"[{'role':'user','content':'a','colour':1}]", E_INVALID, "input.0"},
        {"[{'type':'function_call','name':'f','arguments':''}]", E_INVALID, "input.0.call_id"}, {"[{'type':'function_call','call_id':'c','name':'f'}]", E_INVALID, "input.0.arguments"},
        {"[{'type':'function_call_output','call_id':'c'}]", E_INVALID, "input.0.output"}, {"[{'type':'item_reference','id':'x'}]", E_UNSUPPORTED, "input.0.type"}, {"[{'type':'poem'}]", E_INVALID, "input.0.type"},
        {"[{'type':'reasoning','summary':5}]", E_INVALID, "input.0.summary"}, {"[{'type':'reasoning','summary':[],'encrypted_content':'x'}]", E_UNSUPPORTED, "input.0.encrypted_content"},
        {"[{'type':'web_search_call'},{'role':'user','content':5}]", E_INVALID, "input.1.content"},
    };
    char text[2048];
    struct generate_request r;
    struct error err;
    for (size_t i = 0; i < COUNT(cases); i++) {
        (void)snprintf(text, sizeof text, "{'model':'m','input':'a',%s}", cases[i].parameter);
        int code = read_request(text, NULL, &r, &err);
        CHECK(code == cases[i].code && strcmp(err.param, cases[i].param) == 0, "%s: %d, blames \"%s\": %s", text, code, err.param, err.message);
    }
    for (size_t i = 0; i < COUNT(inputs); i++) {
        (void)snprintf(text, sizeof text, "{'model':'m','input':%s}", inputs[i].input);
        int code = read_request(text, NULL, &r, &err);
        CHECK(code == inputs[i].code && strcmp(err.param, inputs[i].param) == 0, "%s: %d, blames \"%s\": %s", text, code, err.param, err.message);
    }
    /* a turn has the calls that stand one behind the other: behind what is not built another turn begins */
    static const char call[] = "{'type':'function_call','call_id':'c','name':'f','arguments':'{}'}";
    (void)snprintf(text, sizeof text, "{'model':'m','input':[%s,{'type':'custom_tool_call'},%s,%s,%s]}", call, call, call, call);
    assert_int_equal(read_request(text, NULL, &r, &err), E_UNSUPPORTED);
    assert_int_equal(r.message.n_messages, 2);
    assert_int_equal(r.message.messages[0]->n_tool_calls, 1);
    assert_int_equal(r.message.messages[1]->n_tool_calls, 3);
    assert_int_equal(read_request("{'input':'a'}", NULL, &r, &err), E_INVALID);
    assert_string_equal(err.param, "model");
    assert_int_equal(read_request("{'model':'m','input':'a','store':false,'tools':[{'type':'function','name':'f','description':'d','parameters':{'type':'object'}}],'tool_choice':'required',"
                                  "'text':{'format':{'type':'json_schema','name':'s','schema':{'type':'object'}}},'max_output_tokens':7}", NULL, &r, &err), 0);
    assert_false(more.store);
    assert_string_equal(r.message.tools[0]->name, "f");
    assert_string_equal(r.message.tools[0]->parameters, "{\"type\":\"object\"}");
    assert_string_equal(r.message.tool_choice, "required");
    assert_string_equal(r.message.constraint_param, "text.format");
    assert_string_equal(r.message.json_schema, "{\"type\":\"object\"}");
    assert_int_equal(r.message.max_tokens, 7);
}

/* ---- answers ---- */

static void begin_answer(struct response_answer *a) {
    response_answer_init(a);
    a->id = "resp_7";
    a->model = "m@1";
    a->stem = "7";
    a->stored = true;
}

struct piece {
    const char *reasoning, *text, *call, *finish;
};

static void add_piece(struct response_answer *a, const struct piece *p, struct buf *events) {
    Genloop__V1__GenerateReply r = GENLOOP__V1__GENERATE_REPLY__INIT;
    Genloop__V1__ToolCall call = GENLOOP__V1__TOOL_CALL__INIT, *calls[] = {&call};
    if (p->reasoning) r.reasoning = S(p->reasoning);
    if (p->text) r.text = S(p->text);
    if (p->finish) r.finish_reason = S(p->finish);
    if (p->call) {
        call.id = S("c1");
        call.name = S(p->call);
        call.arguments = S("{\"a\":1}");
        r.tool_calls = calls;
        r.n_tool_calls = 1;
    }
    response_answer_add(a, &r, events);
}

static void test_answers(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct piece pieces[5];
        const char *types, *status, *kinds;
    } cases[] = {
        {"text", {{.text = "a"}, {.text = "b\n\"c\""}, {.finish = "stop"}}, "+m +p td td Td -p -m completed", "completed", "message:ab\n\"c\""},
        {"cut", {{.text = "a"}, {.text = "b", .finish = "length"}}, "+m +p td td Td -p -m incomplete", "incomplete", "message:ab"},
        {"nothing", {{.finish = "stop"}}, "+m +p Td -p -m completed", "completed", "message:"},
        {"reasoning, words, a call", {{.reasoning = "h"}, {.reasoning = "m", .text = "so"}, {.call = "f"}, {.finish = "tool_calls"}},
         "+m +p rd rd Rd -p -m +m +p td Td -p -m +m ad Ad -m completed", "completed", "reasoning:hm message:so function_call:f"},
        {"words after a call", {{.text = "a", .call = "f"}, {.text = "b"}, {.finish = "stop"}}, "+m +p td Td -p -m +m ad Ad -m +m +p td Td -p -m completed", "completed", "message:a function_call:f message:b"},
    };
    static const struct {
        const char *type, *word;
    } words[] = {{"output_item.added", "+m"}, {"output_item.done", "-m"}, {"content_part.added", "+p"}, {"content_part.done", "-p"}, {"output_text.delta", "td"}, {"output_text.done", "Td"}, {"reasoning_text.delta", "rd"},
                 {"reasoning_text.done", "Rd"}, {"function_call_arguments.delta", "ad"}, {"function_call_arguments.done", "Ad"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct response_answer whole, streamed;
        struct buf events, one, last, types, kinds;
        struct buf *all[] = {&events, &one, &last, &types, &kinds};
        for (size_t k = 0; k < COUNT(all); k++) buf_init(all[k], EVENTS_MAX);
        begin_answer(&whole);
        begin_answer(&streamed);
        for (size_t k = 0; k < COUNT(cases[i].pieces); k++) {
            const struct piece *p = &cases[i].pieces[k];
            if (!p->text && !p->reasoning && !p->call && !p->finish) break;
            add_piece(&whole, p, NULL);
            add_piece(&streamed, p, &events);
        }
        response_answer_close(&whole, NULL);
        response_answer_close(&streamed, &events);
        response_answer_end(&streamed, NULL, &events);
        response_answer_write(&one, &whole, NULL);
        assert_int_equal(events.failed | one.failed, 0);
        /* Events: the name is the type, the numbers have no gap, the last has the response that is given whole. */
        struct span rest = buf_span(&events), block;
        int64_t number = 0;
        while (rest.len) {
            ptrdiff_t end = span_find(rest, SPAN("\n\n"));
            assert_true(end > 0);
            block = span_sub(rest, 0, (size_t)end);
            rest = span_skip(rest, (size_t)end + 2);
            struct span name;
            struct json *event = NULL;
            struct error err;
            assert_true(span_cut(&block, '\n', &name) && span_starts(name, SPAN("event: response.")) && span_starts(block, SPAN("data: ")));
            CHECK(json_parse(span_skip(block, 6), &event, &err) == 0, "%s: %.*s", cases[i].name, SPAN_ARG(block));
            struct span type = json_string(json_get(event, "type"));
            assert_true(span_eq(type, span_skip(name, 7)));
            assert_int_equal(json_int(json_get(event, "sequence_number"), -1), number);
            type = span_skip(type, 9);
            if (number < 2) assert_true(span_eq_str(type, number ? "in_progress" : "created"));
            else {
                size_t k = 0;
                while (k < COUNT(words) && !span_eq_str(type, words[k].type)) k++;
                (void)buf_printf(&types, "%s%.*s", types.len ? " " : "", SPAN_ARG(k < COUNT(words) ? span_str(words[k].word) : type));
            }
            if (rest.len == 0) (void)json_write(&last, json_get(event, "response"));
            json_free(event);
            number++;
        }
        CHECK(span_eq_str(buf_span(&types), cases[i].types), "%s: %s", cases[i].name, buf_cstr(&types));
        struct json *response = NULL, *again = NULL;
        struct error err;
        assert_int_equal(json_parse(buf_span(&one), &response, &err), 0);
        assert_int_equal(json_parse(buf_span(&last), &again, &err), 0);
        buf_clear(&one);
        (void)json_write(&one, response);
        CHECK(span_eq(buf_span(&one), buf_span(&last)), "%s: %s, streamed %s", cases[i].name, buf_cstr(&one), buf_cstr(&last));
        CHECK(span_eq_str(json_string(json_get(response, "status")), cases[i].status), "%s: %s", cases[i].name, buf_cstr(&one));
        for (size_t k = 0; k < json_size(json_get(response, "output")); k++) {
            const struct json *item = json_at(json_get(response, "output"), k), *name = json_get(item, "name");
            (void)buf_printf(&kinds, "%s%.*s:%.*s", k ? " " : "", SPAN_ARG(json_string(json_get(item, "type"))), SPAN_ARG(json_string(name ? name : json_get(json_at(json_get(item, "content"), 0), "text"))));
        }
        CHECK(span_eq_str(buf_span(&kinds), cases[i].kinds), "%s: %s", cases[i].name, buf_cstr(&kinds));
        json_free(response);
        json_free(again);
        response_answer_fini(&whole);
        response_answer_fini(&streamed);
        for (size_t k = 0; k < COUNT(all); k++) buf_fini(all[k]);
    }
}

static void test_failed(void **state) {
    (void)state;
    struct response_answer a;
    struct buf events;
    struct error err = {0};
    begin_answer(&a);
    buf_init(&events, EVENTS_MAX);
    add_piece(&a, &(struct piece){.text = "half"}, &events);
    (void)error_set(&err, E_UNAVAILABLE, "the replica is gone");
    response_answer_end(&a, &err, &events);
    assert_true(strstr(buf_cstr(&events), "event: response.failed\n") && strstr(buf_cstr(&events), "\"status\":\"failed\"") && strstr(buf_cstr(&events), "{\"code\":\"server_error\",\"message\":\"the replica is gone\"}"));
    response_answer_fini(&a);
    buf_fini(&events);
}

static int leave(void **state) {
    (void)state;
    arena_fini(&arena);
    buf_fini(&more.items);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_items), cmocka_unit_test(test_parameters), cmocka_unit_test(test_answers), cmocka_unit_test(test_failed)};
    return cmocka_run_group_tests_name("responses", tests, NULL, leave);
}
