/* OpenAI's JSON as a GenerateRequest: every parameter's type and range, what they say to each other, and that what is wrong is named before what is not built. */
#include "tests/unit/support/check.h"

#include "services/gateway/generate_request.h"

#define CASE(FIELD) GENLOOP__V1__GENERATE_REQUEST__##FIELD
#define CHAT "'model':'m','messages':[{'role':'user','content':'hi'}]"
#define COMPLETION "'model':'m','prompt':'hi'"

static struct arena arena;

static int read_request(bool chat, const char *text, struct generate_request *r, struct error *err) {
    struct json *body = NULL;
    *err = (struct error){0};
    arena_fini(&arena);
    arena_init(&arena, REQUEST_ARENA_MAX);
    CHECK(json_parse(quoted(text), &body, err) == 0, "%s: %s", text, err->message);
    int code = chat ? chat_request_read(r, &arena, body, err) : completion_request_read(r, &arena, body, err);
    json_free(body); /* nothing of it may be borrowed but the tools, which only reading needs */
    return code;
}

/* A parameter beside a request that is right: what it says, and of whom it complains. */
static void test_ranges(void **state) {
    (void)state;
    static const struct {
        const char *parameter;
        int code;
        const char *param;
    } cases[] = {
        {"'temperature':0", 0, ""}, {"'temperature':2", 0, ""}, {"'temperature':2.0001", E_INVALID, "temperature"}, {"'temperature':-0.1", E_INVALID, "temperature"},
        {"'temperature':'1'", E_INVALID, "temperature"}, {"'temperature':true", E_INVALID, "temperature"}, {"'temperature':[1]", E_INVALID, "temperature"}, {"'temperature':null", 0, ""},
        {"'top_p':0", 0, ""}, {"'top_p':1", 0, ""}, {"'top_p':1.1", E_INVALID, "top_p"}, {"'top_p':-1", E_INVALID, "top_p"}, {"'top_p':{}", E_INVALID, "top_p"},
        {"'top_k':-1", 0, ""}, {"'top_k':0", 0, ""}, {"'top_k':2147483647", 0, ""}, {"'top_k':2147483648", E_INVALID, "top_k"}, {"'top_k':-2", E_INVALID, "top_k"}, {"'top_k':1.5", E_INVALID, "top_k"},
        {"'typical_p':0.5", 0, ""}, {"'typical_p':0", E_INVALID, "typical_p"}, {"'top_n_sigma':-1", 0, ""}, {"'top_n_sigma':'x'", E_INVALID, "top_n_sigma"},
        {"'dry_multiplier':0.8", 0, ""}, {"'dry_multiplier':-1", E_INVALID, "dry_multiplier"}, {"'dry_base':1.75", 0, ""}, {"'dry_base':0.5", E_INVALID, "dry_base"},
        {"'dry_allowed_length':0", 0, ""}, {"'dry_allowed_length':-1", E_INVALID, "dry_allowed_length"}, {"'dry_sequence_breakers':[]", 0, ""}, {"'dry_sequence_breakers':['']", E_INVALID, "dry_sequence_breakers"},
        {"'dry_answer_only':true", 0, ""}, {"'dry_answer_only':1", E_INVALID, "dry_answer_only"},
        {"'xtc_probability':1.1", E_INVALID, "xtc_probability"}, {"'xtc_threshold':0.2", 0, ""}, {"'xtc_threshold':2", E_INVALID, "xtc_threshold"}, {"'mirostat':2", 0, ""}, {"'mirostat':3", E_INVALID, "mirostat"},
        {"'mirostat_tau':5", 0, ""}, {"'mirostat_tau':-5", E_INVALID, "mirostat_tau"}, {"'mirostat_eta':0.1", 0, ""}, {"'mirostat_eta':2", E_INVALID, "mirostat_eta"},
        {"'min_p':0", 0, ""}, {"'min_p':1", 0, ""}, {"'min_p':1.01", E_INVALID, "min_p"}, {"'min_p':'x'", E_INVALID, "min_p"},
        {"'frequency_penalty':-2", 0, ""}, {"'frequency_penalty':2", 0, ""}, {"'frequency_penalty':2.5", E_INVALID, "frequency_penalty"}, {"'frequency_penalty':'1'", E_INVALID, "frequency_penalty"},
        {"'presence_penalty':-2", 0, ""}, {"'presence_penalty':2", 0, ""}, {"'presence_penalty':-2.5", E_INVALID, "presence_penalty"}, {"'presence_penalty':[]", E_INVALID, "presence_penalty"},
        {"'repetition_penalty':0.01", 0, ""}, {"'repetition_penalty':2", 0, ""}, {"'repetition_penalty':0", E_INVALID, "repetition_penalty"}, {"'repetition_penalty':3", E_INVALID, "repetition_penalty"},
        {"'seed':0", 0, ""}, {"'seed':-9223372036854775808", 0, ""}, {"'seed':9223372036854775807", 0, ""}, {"'seed':1.0", 0, ""}, {"'seed':1.5", E_INVALID, "seed"}, {"'seed':'1'", E_INVALID, "seed"},
        {"'seed':1e30", E_INVALID, "seed"},
        {"'max_tokens':1", 0, ""}, {"'max_tokens':1048576", 0, ""}, {"'max_tokens':1048577", E_INVALID, "max_tokens"}, {"'max_tokens':0", E_INVALID, "max_tokens"}, {"'max_tokens':-1", E_INVALID, "max_tokens"},
        {"'max_tokens':'16'", E_INVALID, "max_tokens"}, {"'max_tokens':1e300", E_INVALID, "max_tokens"}, {"'max_tokens':16.0", 0, ""},
        {"'n':1", 0, ""}, {"'n':128", 0, ""}, {"'n':0", E_INVALID, "n"}, {"'n':129", E_INVALID, "n"}, {"'n':true", E_INVALID, "n"},
        {"'stop':'a'", 0, ""}, {"'stop':['a','b']", 0, ""}, {"'stop':[]", 0, ""}, {"'stop':''", E_INVALID, "stop"}, {"'stop':['a','']", E_INVALID, "stop"}, {"'stop':1", E_INVALID, "stop"},
        {"'stop':[1]", E_INVALID, "stop"}, {"'stop':[null]", E_INVALID, "stop"}, {"'stop':['1','2','3','4','5','6','7','8','9','10','11','12','13','14','15','16']", 0, ""},
        {"'stop':['1','2','3','4','5','6','7','8','9','10','11','12','13','14','15','16','17']", E_INVALID, "stop"},
        {"'stop_token_ids':[0,4294967295]", 0, ""}, {"'stop_token_ids':[-1]", E_INVALID, "stop_token_ids"}, {"'stop_token_ids':[4294967296]", E_INVALID, "stop_token_ids"}, {"'stop_token_ids':1", E_INVALID, "stop_token_ids"},
        {"'stop_token_ids':['1']", E_INVALID, "stop_token_ids"},
        {"'ignore_eos':true", 0, ""}, {"'ignore_eos':1", E_INVALID, "ignore_eos"},
        {"'logit_bias':{'5':-100,'6':100}", 0, ""}, {"'logit_bias':{'5':101}", E_INVALID, "logit_bias"}, {"'logit_bias':{'x':1}", E_INVALID, "logit_bias"}, {"'logit_bias':{'-1':1}", E_INVALID, "logit_bias"},
        {"'logit_bias':{'4294967296':1}", E_INVALID, "logit_bias"}, {"'logit_bias':{'5':'1'}", E_INVALID, "logit_bias"}, {"'logit_bias':[]", E_INVALID, "logit_bias"}, {"'logit_bias':{}", 0, ""},
        {"'priority':-100", 0, ""}, {"'priority':101", E_INVALID, "priority"},
        {"'stream':true", 0, ""}, {"'stream':'true'", E_INVALID, "stream"}, {"'stream_options':{'include_usage':true}", E_INVALID, "stream_options"},
        {"'stream':true,'stream_options':{'include_usage':true}", 0, ""}, {"'stream':true,'stream_options':{'include_usage':1}", E_INVALID, "stream_options.include_usage"},
        {"'stream':true,'stream_options':{'x':1}", E_INVALID, "stream_options"}, {"'stream':true,'stream_options':true", E_INVALID, "stream_options"}, {"'stream':true,'stream_options':{}", 0, ""},
        {"'stream':true,'stream_options':{'include_obfuscation':true}", E_UNSUPPORTED, "stream_options.include_obfuscation"}, {"'stream':true,'stream_options':{'include_obfuscation':false}", 0, ""},
        {"'user':'u'", 0, ""}, {"'user':7", E_INVALID, "user"}, {"'safety_identifier':'u'", 0, ""}, {"'prompt_cache_key':'k'", 0, ""}, {"'prompt_cache_key':[]", E_INVALID, "prompt_cache_key"},
        {"'service_tier':'auto'", 0, ""}, {"'service_tier':'default'", 0, ""}, {"'service_tier':'flex'", E_UNSUPPORTED, "service_tier"}, {"'service_tier':'gold'", E_INVALID, "service_tier"},
        {"'nothing_known':1", E_INVALID, "nothing_known"}, {"'nothing_known':null", E_INVALID, "nothing_known"}, {"'':1", E_INVALID, ""},
    };
    for (int chat = 0; chat < 2; chat++)
        for (size_t i = 0; i < COUNT(cases); i++) {
            char text[1024];
            struct generate_request r;
            struct error err;
            snprintf(text, sizeof text, "{%s,%s}", chat ? CHAT : COMPLETION, cases[i].parameter);
            int code = read_request(chat, text, &r, &err);
            CHECK(code == cases[i].code, "%s: %d %s", text, code, err.message);
            CHECK(code == 0 || (err.code == code && err.message[0]), "%s says nothing", text);
            CHECK(strcmp(err.param, cases[i].param) == 0, "%s blames \"%s\"", text, err.param);
        }
}

static void test_chat_only(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *param;
    } cases[] = {
        {"{" CHAT "}", 0, ""},
        {"{'messages':[{'role':'user','content':'hi'}]}", E_INVALID, "model"},
        {"{'model':'','messages':[{'role':'user','content':'hi'}]}", E_INVALID, "model"},
        {"{'model':null,'messages':[{'role':'user','content':'hi'}]}", E_INVALID, "model"},
        {"{'model':7,'messages':[{'role':'user','content':'hi'}]}", E_INVALID, "model"},
        {"{'model':'m'}", E_INVALID, "messages"},
        {"{'model':'m','messages':null}", E_INVALID, "messages"},
        {"{'model':'m','messages':[]}", E_INVALID, "messages"},
        {"{'model':'m','messages':'hi'}", E_INVALID, "messages"},
        {"{'model':'m','messages':['hi']}", E_INVALID, "messages.0"},
        {"{'model':'m','messages':[{}]}", E_INVALID, "messages.0.role"},
        {"{'model':'m','messages':[{'role':'robot','content':'x'}]}", E_INVALID, "messages.0.role"},
        {"{'model':'m','messages':[{'role':'user'}]}", E_INVALID, "messages.0.content"},
        {"{'model':'m','messages':[{'role':'user','content':7}]}", E_INVALID, "messages.0.content"},
        {"{'model':'m','messages':[{'role':'user','content':[]}]}", E_INVALID, "messages.0.content"},
        {"{'model':'m','messages':[{'role':'user','content':[{'type':'text','text':'a'},{'type':'text','text':'b'}]}]}", 0, ""},
        {"{'model':'m','messages':[{'role':'user','content':[{'type':'text'}]}]}", E_INVALID, "messages.0.content"},
        {"{'model':'m','messages':[{'role':'user','content':[{'type':'smell','smell':'a'}]}]}", E_INVALID, "messages.0.content"},
        {"{'model':'m','messages':[{'role':'user','content':[{'type':'image_url','image_url':{'url':'x'}}]}]}", E_UNSUPPORTED, "messages.0.content"},
        {"{'model':'m','messages':[{'role':'user','content':'a'},{'role':'assistant','content':'b'},{'role':'user','content':'c','mood':'bad'}]}", E_INVALID, "messages.2"},
        {"{'model':'m','messages':[{'role':'user','content':'a','tool_calls':[{}]}]}", E_INVALID, "messages.0.tool_calls"},
        {"{'model':'m','messages':[{'role':'assistant','tool_calls':[{'id':'1'}]}]}", E_INVALID, "messages.0.tool_calls"},
        {"{'model':'m','messages':[{'role':'assistant','tool_calls':[{'id':'1','function':{'name':'f','arguments':'{}'}}]}]}", 0, ""},
        {"{'model':'m','messages':[{'role':'tool','content':'x'}]}", E_INVALID, "messages.0.tool_call_id"},
        {"{'model':'m','messages':[{'role':'tool','tool_call_id':'1','content':'x'}]}", 0, ""},
        {"{'model':'m','messages':[{'role':'user','content':'x','name':7}]}", E_INVALID, "messages.0.name"},
        {"{" CHAT ",'max_tokens':1,'max_completion_tokens':1}", E_INVALID, "max_tokens"},
        {"{" CHAT ",'max_completion_tokens':0}", E_INVALID, "max_completion_tokens"},
        {"{" CHAT ",'logprobs':1}", E_INVALID, "logprobs"},
        {"{" CHAT ",'logprobs':true,'top_logprobs':20}", 0, ""},
        {"{" CHAT ",'logprobs':true,'top_logprobs':21}", E_INVALID, "top_logprobs"},
        {"{" CHAT ",'top_logprobs':0}", E_INVALID, "top_logprobs"},
        {"{" CHAT ",'tools':[]}", 0, ""},
        {"{" CHAT ",'tools':[{'type':'function','function':{'name':'f'}}]}", 0, ""},
        {"{" CHAT ",'tools':[{'type':'function','function':{'name':'f'}}],'tool_choice':'none'}", 0, ""},
        {"{" CHAT ",'chat_template_kwargs':{'enable_thinking':false}}", 0, ""},
        {"{" CHAT ",'tools':[{'type':'function','function':{'name':'f'}}],'tool_choice':'required'}", 0, ""},
        {"{" CHAT ",'tools':[{'type':'function','function':{'name':'f'}}],'tool_choice':{'type':'function','function':{'name':'f'}}}", 0, ""},
        {"{" CHAT ",'chat_template_kwargs':[]}", E_INVALID, "chat_template_kwargs"},
        {"{" CHAT ",'tools':[{'type':'function'}]}", E_INVALID, "tools"},
        {"{" CHAT ",'tools':[{'type':'function','function':{'name':'f','parameters':7}}]}", E_INVALID, "tools"},
        {"{" CHAT ",'tools':{}}", E_INVALID, "tools"},
        {"{" CHAT ",'tool_choice':'auto'}", 0, ""},
        {"{" CHAT ",'tool_choice':'required'}", E_INVALID, "tool_choice"},
        {"{" CHAT ",'tool_choice':'perhaps'}", E_INVALID, "tool_choice"},
        {"{" CHAT ",'tools':[{'type':'function','function':{'name':'f'}}],'tool_choice':{'type':'function','function':{'name':'g'}}}", E_INVALID, "tool_choice"},
        {"{" CHAT ",'response_format':{'type':'text'}}", 0, ""},
        {"{" CHAT ",'response_format':{'type':'json_object'}}", 0, ""},
        {"{" CHAT ",'response_format':{'type':'json_schema','json_schema':{'name':'s','strict':true,'schema':{}}}}", 0, ""},
        {"{" CHAT ",'response_format':{'type':'json_object'},'guided_regex':'a'}", E_INVALID, "guided_regex"},
        {"{" CHAT ",'guided_json':{'type':'null'}}", 0, ""},
        {"{" CHAT ",'guided_json':7}", E_INVALID, "guided_json"},
        {"{" CHAT ",'guided_regex':['a']}", E_INVALID, "guided_regex"},
        {"{" CHAT ",'guided_grammar':'root ::= [a-z]'}", 0, ""},
        {"{" CHAT ",'guided_choice':['a','b']}", 0, ""},
        {"{" CHAT ",'guided_choice':[]}", E_INVALID, "guided_choice"},
        {"{" CHAT ",'guided_choice':['']}", E_INVALID, "guided_choice"},
        {"{" CHAT ",'structured_outputs':{'regex':'a'}}", 0, ""},
        {"{" CHAT ",'structured_outputs':{'regex':'a','choice':['b']}}", E_INVALID, "structured_outputs"},
        {"{" CHAT ",'structured_outputs':{'poem':'a'}}", E_INVALID, "structured_outputs"},
        {"{" CHAT ",'response_format':{'type':'json_schema'}}", E_INVALID, "response_format.json_schema"},
        {"{" CHAT ",'response_format':{'type':'xml'}}", E_INVALID, "response_format.type"},
        {"{" CHAT ",'response_format':'text'}", E_INVALID, "response_format"},
        {"{" CHAT ",'modalities':['text']}", 0, ""},
        {"{" CHAT ",'modalities':['text','audio']}", E_UNSUPPORTED, "modalities"},
        {"{" CHAT ",'modalities':['smell']}", E_INVALID, "modalities"},
        {"{" CHAT ",'store':false}", 0, ""},
        {"{" CHAT ",'store':true}", E_UNSUPPORTED, "store"},
        {"{" CHAT ",'metadata':{}}", 0, ""},
        {"{" CHAT ",'metadata':{'a':'b'}}", E_UNSUPPORTED, "metadata"},
        {"{" CHAT ",'parallel_tool_calls':true}", 0, ""},
        {"{" CHAT ",'parallel_tool_calls':7}", E_INVALID, "parallel_tool_calls"},
        {"{" CHAT ",'reasoning_effort':'low'}", E_UNSUPPORTED, "reasoning_effort"},
        {"{" CHAT ",'reasoning_effort':1}", E_INVALID, "reasoning_effort"},
        {"{" CHAT ",'functions':[]}", E_UNSUPPORTED, "functions"},
        {"{" CHAT ",'prompt':'x'}", E_INVALID, "prompt"}, /* the other door's */
        {"{" CHAT ",'best_of':2}", E_INVALID, "best_of"},
        /* The whole is checked before what is not built is refused, wherever it stands. */
        {"{'functions':[]," CHAT ",'temperature':9}", E_INVALID, "temperature"},
        {"{" CHAT ",'store':true,'nothing_known':1}", E_INVALID, "nothing_known"},
        {"{'store':true,'messages':[{'role':'user','content':'hi'}]}", E_INVALID, "model"},
        {"{" CHAT ",'store':true,'stream_options':{}}", E_INVALID, "stream_options"},
        {"{" CHAT ",'store':true,'max_tokens':1,'max_completion_tokens':1}", E_INVALID, "max_tokens"},
        {"{" CHAT ",'reasoning_effort':'low','store':true}", E_UNSUPPORTED, "reasoning_effort"}, /* the first of several */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct generate_request r;
        struct error err;
        int code = read_request(true, cases[i].text, &r, &err);
        CHECK(code == cases[i].code && strcmp(err.param, cases[i].param) == 0, "%s: %d \"%s\" %s", cases[i].text, code, err.param, err.message);
        if (code == E_UNSUPPORTED) CHECK(strstr(err.message, cases[i].param) && strstr(err.message, "not supported yet"), "%s: %s", cases[i].text, err.message);
    }
}

static void test_completion_only(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *param;
        size_t prompts;
    } cases[] = {
        {"{" COMPLETION "}", 0, "", 1},
        {"{'model':'m'}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':null}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':''}", 0, "", 1},
        {"{'model':'m','prompt':[]}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':7}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':{}}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':['a','b']}", 0, "", 2},
        {"{'model':'m','prompt':[1,2,3]}", 0, "", 1},
        {"{'model':'m','prompt':[1,-2]}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':[1,'a']}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':['a',1]}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':[[1,2],[3]]}", 0, "", 2},
        {"{'model':'m','prompt':[[1],'a']}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':[[]]}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':[null]}", E_INVALID, "prompt", 0},
        {"{'model':'m','prompt':[[[1]]]}", E_INVALID, "prompt", 0},
        {"{" COMPLETION ",'logprobs':20}", 0, "", 1},
        {"{" COMPLETION ",'logprobs':21}", E_INVALID, "logprobs", 0},
        {"{" COMPLETION ",'logprobs':true}", E_INVALID, "logprobs", 0},
        {"{" COMPLETION ",'echo':true}", 0, "", 1},
        {"{" COMPLETION ",'echo':true,'logprobs':1}", 0, "", 1},
        {"{" COMPLETION ",'echo':true,'logprobs':1,'best_of':2}", 0, "", 1},
        {"{" COMPLETION ",'echo':true,'max_tokens':0}", 0, "", 1},
        {"{" COMPLETION ",'echo':false,'max_tokens':0}", E_INVALID, "max_tokens", 0},
        {"{" COMPLETION ",'echo':true,'max_tokens':-1}", E_INVALID, "max_tokens", 0},
        {"{" COMPLETION ",'best_of':3,'n':2}", 0, "", 1},
        {"{" COMPLETION ",'best_of':1,'n':2}", E_INVALID, "best_of", 0},
        {"{" COMPLETION ",'best_of':2,'stream':true}", E_INVALID, "best_of", 0},
        {"{" COMPLETION ",'suffix':''}", 0, "", 1},
        {"{" COMPLETION ",'suffix':'x'}", E_UNSUPPORTED, "suffix", 0},
        {"{'model':'m','prompt':['a','b'],'n':65}", E_INVALID, "n", 0},
        {"{'model':'m','prompt':['a','b'],'n':64}", 0, "", 2},
        {"{" COMPLETION ",'max_completion_tokens':1}", E_INVALID, "max_completion_tokens", 0},
        {"{" COMPLETION ",'messages':[]}", E_INVALID, "messages", 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct generate_request r;
        struct error err;
        int code = read_request(false, cases[i].text, &r, &err);
        CHECK(code == cases[i].code && strcmp(err.param, cases[i].param) == 0, "%s: %d \"%s\" %s", cases[i].text, code, err.param, err.message);
        if (code == 0) CHECK(r.n_prompts == cases[i].prompts, "%s: %zu prompts", cases[i].text, r.n_prompts);
    }
}

static void test_every_field_arrives(void **state) {
    (void)state;
    struct generate_request r;
    struct error err;
    assert_int_equal(read_request(true,
                                  "{'model':'m@3','messages':[{'role':'developer','content':'be brief'},{'role':'user','content':[{'type':'text','text':'a'},{'type':'text','text':'b\\u0000c'}],'name':'ann'}],"
                                  "'temperature':0.25,'top_p':0,'top_k':40,'min_p':0.125,'frequency_penalty':0.5,'presence_penalty':-0.5,'repetition_penalty':1.5,'seed':-1,'n':3,'stop':['x','y\\u0000'],"
                                  "'stop_token_ids':[7,8],'ignore_eos':true,'logit_bias':{'5':-1.5},'priority':-3,'stream':true,'stream_options':{'include_usage':true},'user':'u','prompt_cache_key':'s',"
                                  "'logprobs':true,'top_logprobs':2,'max_completion_tokens':9}",
                                  &r, &err),
                     0);
    Genloop__V1__GenerateRequest *m = &r.message;
    assert_string_equal(m->model, "m@3");
    assert_int_equal(m->n_messages, 2);
    assert_string_equal(m->messages[0]->role, "developer");
    assert_string_equal(m->messages[1]->content, "ab\xef\xbf\xbd"
                                                 "c");
    assert_string_equal(m->messages[1]->name, "ann");
    assert_true(m->temperature_set_case == CASE(TEMPERATURE_SET_TEMPERATURE) && m->temperature == 0.25);
    assert_true(m->top_p_set_case == CASE(TOP_P_SET_TOP_P) && m->top_p > 0 && m->top_p < 1e-6);
    assert_true(m->min_p == 0.125 && m->frequency_penalty == 0.5 && m->presence_penalty == -0.5 && m->repetition_penalty == 1.5);
    assert_true(m->seed_set_case == CASE(SEED_SET_SEED) && m->seed == UINT64_MAX);
    assert_int_equal(m->top_k, 40);
    assert_int_equal(m->n_stop, 1); /* an answer has no U+0000: that one never matches */
    assert_string_equal(m->stop[0], "x");
    assert_true(m->n_stop_tokens == 2 && m->stop_tokens[1] == 8);
    assert_true(m->ignore_eos && m->priority == -3 && m->logprobs && m->top_logprobs == 2);
    assert_true(m->n_logit_bias == 1 && m->logit_bias[0]->key == 5 && m->logit_bias[0]->value == -1.5f);
    assert_true(m->max_tokens_set_case == CASE(MAX_TOKENS_SET_MAX_TOKENS) && m->max_tokens == 9);
    assert_string_equal(m->user, "u");
    assert_string_equal(m->session, "s");
    assert_true(r.n == 3 && r.best_of == 3 && r.stream && r.include_usage && r.chat);

    /* What was not said is absent, but for the completions' sixteen tokens. */
    assert_int_equal(read_request(true, "{" CHAT "}", &r, &err), 0);
    assert_true(r.message.temperature_set_case == 0 && r.message.top_p_set_case == 0 && r.message.seed_set_case == 0 && r.message.max_tokens_set_case == 0 && r.n == 1);
    assert_int_equal(read_request(false, "{'model':'m','prompt':[[1,2],[3]],'echo':true,'best_of':4}", &r, &err), 0);
    assert_true(r.message.max_tokens == 16 && r.echo && r.message.echo && r.n == 1 && r.best_of == 4 && r.message.n == 4);
    assert_true(!r.prompts[0].text && r.prompts[0].n_tokens == 2 && r.prompts[0].tokens[1] == 2 && r.prompts[1].tokens[0] == 3);
}

/* Sizes that somebody may send in 8 MiB: refused, or held within the arena. */
static void test_large(void **state) {
    (void)state;
    struct buf text;
    struct json *body = NULL;
    struct generate_request r;
    struct error err = {0};
    buf_init(&text, 16 << 20);
    buf_append_str(&text, "{\"model\":\"m\",\"messages\":[");
    for (int i = 0; i <= MESSAGES_MAX; i++) buf_printf(&text, "%s{\"role\":\"user\",\"content\":\"\"}", i ? "," : "");
    buf_append_str(&text, "]}");
    assert_int_equal(json_parse(buf_span(&text), &body, &err), 0);
    arena_fini(&arena);
    arena_init(&arena, REQUEST_ARENA_MAX);
    assert_int_equal(chat_request_read(&r, &arena, body, &err), E_INVALID);
    assert_string_equal(err.param, "messages");
    json_free(body);
    buf_clear(&text);
    buf_append_str(&text, "{\"model\":\"m\",\"prompt\":[");
    for (int i = 0; i < 2000000; i++) buf_printf(&text, "%s1", i ? "," : "");
    buf_append_str(&text, "]}");
    assert_int_equal(json_parse(buf_span(&text), &body, &err), 0);
    arena_clear(&arena);
    assert_int_equal(completion_request_read(&r, &arena, body, &err), 0);
    assert_int_equal(r.prompts[0].n_tokens, 2000000);
    arena_fini(&arena);
    arena_init(&arena, 1 << 20);
    assert_int_equal(completion_request_read(&r, &arena, body, &err), E_TOO_LARGE);
    assert_string_equal(err.param, "prompt");
    json_free(body);
    buf_fini(&text);
}

static int attempt(void *arg) {
    struct generate_request r;
    struct error err = {0};
    struct arena a;
    arena_init(&a, REQUEST_ARENA_MAX);
    int code = chat_request_read(&r, &a, arg, &err);
    arena_fini(&a);
    return code;
}

static void test_without_memory(void **state) {
    (void)state;
    struct json *body = NULL;
    assert_int_equal(json_parse(quoted("{" CHAT ",'stop':['a'],'logit_bias':{'1':1},'stop_token_ids':[1],'user':'u'}"), &body, NULL), 0);
    sweep("chat", attempt, body, E_TOO_LARGE);
    json_free(body);
}

static int tear_down(void **state) {
    (void)state;
    arena_fini(&arena);
    return 0;
}

/* Tools, calls and their results go into the message whole. */
static void test_tools_arrive(void **state) {
    (void)state;
    struct generate_request r;
    struct error err;
    assert_int_equal(read_request(true,
                                  "{'model':'m','messages':[{'role':'user','content':'1+2?'},{'role':'assistant','content':null,'tool_calls':[{'id':'c1','type':'function','function':{'name':'add',"
                                  "'arguments':'{\\\"a\\\":1}'}}]},{'role':'tool','tool_call_id':'c1','content':'3'},{'role':'assistant','content':'3','reasoning_content':'easy'}],"
                                  "'tools':[{'type':'function','function':{'name':'add','description':'adds','parameters':{'type':'object'},'strict':true}},{'type':'function','function':{'name':'f'}}],"
                                  "'tool_choice':'auto','parallel_tool_calls':false,'chat_template_kwargs':{'enable_thinking':false}}",
                                  &r, &err),
                     0);
    const Genloop__V1__GenerateRequest *m = &r.message;
    assert_int_equal(m->messages[1]->n_tool_calls, 1);
    assert_string_equal(m->messages[1]->tool_calls[0]->id, "c1");
    assert_string_equal(m->messages[1]->tool_calls[0]->name, "add");
    assert_string_equal(m->messages[1]->tool_calls[0]->arguments, "{\"a\":1}");
    assert_string_equal(m->messages[2]->tool_call_id, "c1");
    assert_string_equal(m->messages[3]->reasoning, "easy");
    assert_int_equal(m->n_tools, 2);
    assert_string_equal(m->tools[0]->name, "add");
    assert_string_equal(m->tools[0]->description, "adds");
    assert_string_equal(m->tools[0]->parameters, "{\"type\":\"object\"}");
    assert_true(m->tools[0]->strict && !m->tools[1]->strict && m->tools[1]->parameters[0] == 0);
    assert_string_equal(m->tool_choice, "auto");
    assert_true(m->one_tool_call);
    assert_string_equal(m->template_arguments, "{\"enable_thinking\":false}");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranges), cmocka_unit_test(test_chat_only), cmocka_unit_test(test_completion_only), cmocka_unit_test(test_every_field_arrives), cmocka_unit_test(test_tools_arrive), cmocka_unit_test(test_large), cmocka_unit_test(test_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, tear_down);
}
