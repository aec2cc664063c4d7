/* Doors of encoders: what the requests may say, what a replica is asked, what the client is told. */
#include "services/gateway/encode_request.h"
#include "tests/unit/support/check.h"

static int read_door(enum encode_door door, const char *text, struct encode_request *r, struct arena *arena, struct error *err) {
    struct json *body = NULL;
    arena_init(arena, 1 << 20);
    assert_int_equal(json_parse(quoted(text), &body, err), 0);
    int code = encode_request_read(r, door, arena, body, SPAN(""), err);
    json_free(body); /* nothing that was read borrows from it */
    return code;
}

static void test_requests(void **state) {
    (void)state;
    static const struct {
        enum encode_door door;
        const char *body, *param;
        int code;
        size_t inputs;
    } cases[] = {
        {ENCODE_EMBEDDINGS, "{'model':'m','input':'a'}", "", 0, 1},
        {ENCODE_EMBEDDINGS, "{'model':'m','input':['a','b'],'dimensions':4,'encoding_format':'base64'}", "", 0, 2},
        {ENCODE_EMBEDDINGS, "{'model':'m','input':[1,2,3]}", "", 0, 1},
        {ENCODE_EMBEDDINGS, "{'model':'m','input':[[1,2],[3]]}", "", 0, 2},
        {ENCODE_EMBEDDINGS, "{'model':'m','input':''}", "input", E_INVALID, 0},
        {ENCODE_EMBEDDINGS, "{'model':'m','input':'a','truncate':'yes'}", "truncate", E_INVALID, 0},
        {ENCODE_RERANK, "{'model':'m','query':'q','documents':['a',{'text':'b'}],'top_n':1}", "", 0, 2},
        {ENCODE_RERANK, "{'model':'m','query':'','documents':['a']}", "query", E_INVALID, 0},
        {ENCODE_SCORE, "{'model':'m','text_1':'q','text_2':['a','b','c']}", "", 0, 3},
        {ENCODE_SCORE, "{'model':'m','text_1':['p','q'],'text_2':['a','b']}", "", 0, 2},
        {ENCODE_SCORE, "{'model':'m','text_1':['p','q'],'text_2':['a','b','c']}", "text_1", E_INVALID, 0},
        {ENCODE_CLASSIFY, "{'model':'m','input':['a']}", "", 0, 1},
        {ENCODE_MODERATIONS, "{'model':'m','input':'a'}", "", 0, 1},
        {ENCODE_MODERATIONS, "{'input':'a'}", "model", E_INVALID, 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct encode_request r;
        struct arena arena;
        struct error err = {0};
        int code = read_door(cases[i].door, cases[i].body, &r, &arena, &err);
        CHECK(code == cases[i].code && strcmp(err.param, cases[i].param) == 0, "%s: %d \"%s\" %s", cases[i].body, code, err.param, err.message);
        if (code == 0) CHECK(r.message.n_input == cases[i].inputs, "%s: %zu inputs", cases[i].body, r.message.n_input);
        arena_fini(&arena);
    }
    struct encode_request r;
    struct arena arena;
    struct error err = {0};
    assert_int_equal(read_door(ENCODE_RERANK, "{'model':'m','query':'q','documents':['a',{'text':'b'}]}", &r, &arena, &err), 0);
    assert_true(r.message.truncate && r.message.input[1]->paired && r.return_documents);
    assert_string_equal(r.message.input[1]->text, "q");
    assert_string_equal(r.message.input[1]->pair, "b");
    arena_fini(&arena);
    assert_int_equal(read_door(ENCODE_EMBEDDINGS, "{'model':'m','input':[[7,8]]}", &r, &arena, &err), 0);
    assert_true(!r.message.truncate && r.message.input[0]->n_tokens == 2 && r.message.input[0]->tokens[1] == 8);
    arena_fini(&arena);
}

/* A reply of so many outputs of so many values each, counting up; labels x, ok, z. */
static Genloop__V1__EncodeReply *reply_of(size_t rows, size_t cols) {
    static Genloop__V1__EncodeReply reply;
    static Genloop__V1__Embedding one[4], *all[4];
    static Genloop__V1__Usage usage;
    static float values[4][3] = {{0.25f, 0.5f, 0.25f}, {0.75f, 0.125f, 0.125f}, {0.5f, 0, 0.5f}, {0, 1, 0}};
    static char x[] = "x", ok[] = "OK", z[] = "z", *labels[] = {x, ok, z};
    genloop__v1__encode_reply__init(&reply);
    genloop__v1__usage__init(&usage);
    usage.prompt_tokens = 9;
    for (size_t i = 0; i < rows; i++) {
        genloop__v1__embedding__init(&one[i]);
        one[i].values = values[i];
        one[i].n_values = cols;
        all[i] = &one[i];
    }
    reply.output = all;
    reply.n_output = rows;
    reply.labels = labels;
    reply.n_labels = 3;
    reply.usage = &usage;
    return &reply;
}

static void test_answers(void **state) {
    (void)state;
    static const struct {
        enum encode_door door;
        const char *body, *answer;
        size_t rows, cols;
    } cases[] = {
        {ENCODE_EMBEDDINGS, "{'model':'m','input':'a'}",
         "{'object':'list','data':[{'object':'embedding','index':0,'embedding':[0.25,0.5]}],'model':'m@1','usage':{'prompt_tokens':9,'total_tokens':9}}", 1, 2},
        {ENCODE_EMBEDDINGS, "{'model':'m','input':'a','encoding_format':'base64'}",
         "{'object':'list','data':[{'object':'embedding','index':0,'embedding':'AACAPgAAAD8='}],'model':'m@1','usage':{'prompt_tokens':9,'total_tokens':9}}", 1, 2},
        {ENCODE_RERANK, "{'model':'m','query':'q','documents':['a','b','c'],'top_n':2}",
         "{'id':'rerank-r','model':'m@1','usage':{'prompt_tokens':9,'total_tokens':9},'results':[{'index':1,'document':{'text':'b'},'relevance_score':0.75},"
         "{'index':2,'document':{'text':'c'},'relevance_score':0.5}]}", 3, 1},
        {ENCODE_RERANK, "{'model':'m','query':'q','documents':['a'],'return_documents':false}",
         "{'id':'rerank-r','model':'m@1','usage':{'prompt_tokens':9,'total_tokens':9},'results':[{'index':0,'relevance_score':0.25}]}", 1, 1},
        {ENCODE_SCORE, "{'model':'m','text_1':'q','text_2':['a']}",
         "{'id':'score-r','object':'list','created':5,'model':'m@1','data':[{'index':0,'object':'score','score':0.25}],'usage':{'prompt_tokens':9,'total_tokens':9}}", 1, 1},
        {ENCODE_CLASSIFY, "{'model':'m','input':'a'}",
         "{'id':'classify-r','object':'list','created':5,'model':'m@1','data':[{'index':0,'label':'OK','probs':[0.25,0.5,0.25],'num_classes':3}],'usage':{'prompt_tokens':9,'total_tokens':9}}", 1, 3},
        {ENCODE_MODERATIONS, "{'model':'m','input':['a','b']}",
         "{'id':'modr-r','model':'m@1','results':[{'categories':{'x':false,'z':false},'category_scores':{'x':0.25,'z':0.25},'flagged':false},"
         "{'categories':{'x':true,'z':false},'category_scores':{'x':0.75,'z':0.125},'flagged':true}]}", 2, 3},
    };
    struct encode_answer a = {"m@1", "r", 5};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct encode_request r;
        struct arena arena;
        struct error err = {0};
        struct buf out;
        buf_init(&out, 1 << 16);
        assert_int_equal(read_door(cases[i].door, cases[i].body, &r, &arena, &err), 0);
        assert_int_equal(encode_answer_write(&out, &r, reply_of(cases[i].rows, cases[i].cols), &a, &err), 0);
        CHECK(span_eq(buf_span(&out), quoted(cases[i].answer)), "%s: %.*s", cases[i].body, SPAN_ARG(buf_span(&out)));
        assert_int_equal(encode_answer_write(&out, &r, reply_of(cases[i].rows + 1, cases[i].cols), &a, &err), E_UNKNOWN); /* not what was asked for */
        buf_fini(&out);
        arena_fini(&arena);
    }
}

static void test_calls(void **state) {
    (void)state;
    uint8_t packed[256];
    char model[] = "m", query[] = "q", first[] = "a", second[] = "b", empty[] = "", *texts[] = {first, second};
    struct encode_answer a = {"m@1", "r", 5};
    struct encode_request r;
    struct error err = {0};
    struct arena arena;
    arena_init(&arena, 1 << 20);
    Genloop__V1__RerankRequest rerank;
    genloop__v1__rerank_request__init(&rerank);
    rerank.model = model;
    rerank.query = query;
    rerank.documents = texts;
    rerank.n_documents = 2;
    rerank.top_n = 1;
    assert_int_equal(encode_request_read(&r, ENCODE_CALL_RERANK, &arena, NULL, span_of(packed, genloop__v1__rerank_request__pack(&rerank, packed)), &err), 0);
    Genloop__V1__RerankReply *ranked = (Genloop__V1__RerankReply *)encode_answer_message(&arena, &r, reply_of(2, 1), &a);
    assert_true(ranked && ranked->n_results == 1 && ranked->results[0]->index == 1 && ranked->results[0]->score == 0.75 && strcmp(ranked->model, "m@1") == 0);
    rerank.query = empty;
    assert_int_equal(encode_request_read(&r, ENCODE_CALL_RERANK, &arena, NULL, span_of(packed, genloop__v1__rerank_request__pack(&rerank, packed)), &err), E_INVALID);
    Genloop__V1__EmbedRequest embed;
    genloop__v1__embed_request__init(&embed);
    embed.model = model;
    embed.input = texts;
    embed.n_input = 2;
    embed.dimensions = 3;
    assert_int_equal(encode_request_read(&r, ENCODE_CALL_EMBED, &arena, NULL, span_of(packed, genloop__v1__embed_request__pack(&embed, packed)), &err), 0);
    assert_int_equal(r.message.dimensions, 3);
    Genloop__V1__EmbedReply *vectors = (Genloop__V1__EmbedReply *)encode_answer_message(&arena, &r, reply_of(2, 3), &a);
    assert_true(vectors && vectors->n_embeddings == 2 && vectors->embeddings[1]->values[0] == 0.75f && vectors->usage->prompt_tokens == 9);
    embed.n_input = 0;
    assert_int_equal(encode_request_read(&r, ENCODE_CALL_EMBED, &arena, NULL, span_of(packed, genloop__v1__embed_request__pack(&embed, packed)), &err), E_INVALID);
    assert_string_equal(err.param, "input");
    embed.n_input = 1;
    embed.model = empty;
    assert_int_equal(encode_request_read(&r, ENCODE_CALL_EMBED, &arena, NULL, span_of(packed, genloop__v1__embed_request__pack(&embed, packed)), &err), E_INVALID);
    assert_string_equal(err.param, "model");
    arena_fini(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_requests), cmocka_unit_test(test_answers), cmocka_unit_test(test_calls)};
    return cmocka_run_group_tests_name("encode_request", tests, NULL, NULL);
}
