/* The doors that are not built yet: what is wrong in a request is named all the same. */
#include "services/gateway/request_shape.h"
#include "tests/unit/support/check.h"

static void test_requests(void **state) {
    (void)state;
    static const struct {
        const struct request_shape *door;
        const char *body, *param;
        int code;
    } cases[] = {
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':'a'}", "", 0},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':['a','b'],'encoding_format':'base64','dimensions':16,'user':'u'}", "", 0},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':[1,2,3]}", "", 0},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':[[1],[2]]}", "", 0},
        {&SHAPE_EMBEDDINGS, "{'input':'a'}", "model", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'','input':'a'}", "model", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':7,'input':'a'}", "model", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m'}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':null}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':[]}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':''}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':['a','']}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':5}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':['a',1]}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':[1,'a']}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':[[-1]]}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':[[1099511627776]]}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':[[]]}", "input", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':'a','encoding_format':'hex'}", "encoding_format", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':'a','dimensions':0}", "dimensions", E_INVALID},
        {&SHAPE_EMBEDDINGS, "{'model':'m','input':'a','colour':1}", "colour", E_INVALID},
        {&SHAPE_EMBEDDINGS, "['a']", "", E_INVALID},
        {&SHAPE_RERANK, "{'model':'m','query':'q','documents':['a',{'text':'b'}],'top_n':1}", "", 0},
        {&SHAPE_RERANK, "{'model':'m','query':'q','documents':[]}", "documents", E_INVALID},
        {&SHAPE_RERANK, "{'model':'m','query':'q','documents':[{'title':'b'}]}", "documents", E_INVALID},
        {&SHAPE_RERANK, "{'model':'m','documents':['a']}", "query", E_INVALID},
        {&SHAPE_SCORE, "{'model':'m','text_1':'a','text_2':['b','c']}", "", 0},
        {&SHAPE_SCORE, "{'model':'m','text_1':'a','text_2':[1]}", "text_2", E_INVALID},
        {&SHAPE_CLASSIFY, "{'model':'m','input':'a'}", "", 0},
        {&SHAPE_CLASSIFY, "{'model':'m','input':{}}", "input", E_INVALID},
        {&SHAPE_CLASSIFY, "{'model':'m','input':'a','truncate':1}", "truncate", E_INVALID},
        {&SHAPE_MESSAGES, "{'model':'m','max_tokens':9,'messages':[{'role':'user','content':'a'}],'system':'be brief'}", "", 0},
        {&SHAPE_MESSAGES, "{'model':'m','messages':[{'role':'user','content':'a'}]}", "max_tokens", E_INVALID},
        {&SHAPE_MESSAGES, "{'model':'m','max_tokens':9,'messages':[]}", "messages", E_INVALID},
        {&SHAPE_MESSAGES, "{'model':'m','max_tokens':9,'messages':[{'role':'user','content':'a'}],'temperature':1.5}", "temperature", E_INVALID},
        {&SHAPE_MODERATIONS, "{'model':'m','input':['a','b']}", "", 0},
        {&SHAPE_IMAGES, "{'model':'m','prompt':'p','size':'64x64','n':2,'response_format':'b64_json'}", "", 0},
        {&SHAPE_IMAGES, "{'model':'m','prompt':'p','size':'64'}", "size", E_INVALID},
        {&SHAPE_IMAGES, "{'model':'m','prompt':'p','size':'0x64'}", "size", E_INVALID},
        {&SHAPE_IMAGES, "{'model':'m','prompt':'p','size':'99999x64'}", "size", E_INVALID},
        {&SHAPE_IMAGES, "{'model':'m','prompt':'p','n':11}", "n", E_INVALID},
        {&SHAPE_IMAGE_EDITS, "{'model':'m','prompt':'p','size':'auto'}", "", 0},
        {&SHAPE_SPEECH, "{'model':'m','input':'a','voice':'v','speed':0.25}", "", 0},
        {&SHAPE_SPEECH, "{'model':'m','input':'a','voice':'v','speed':5}", "speed", E_INVALID},
        {&SHAPE_SPEECH, "{'model':'m','input':'a'}", "voice", E_INVALID},
        {&SHAPE_TABLES, "{'model':'m','rows':10,'where':{'a':'b'},'format':'csv'}", "", 0},
        {&SHAPE_TABLES, "{'model':'m','rows':0}", "rows", E_INVALID},
        {&SHAPE_TABLES, "{'model':'m'}", "rows", E_INVALID},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct json *body = NULL;
        struct error err = {0};
        assert_int_equal(json_parse(quoted(cases[i].body), &body, &err), 0);
        int r = request_shape_check(cases[i].door, body, &err);
        CHECK(r == cases[i].code && strcmp(err.param, cases[i].param) == 0, "%s: %d \"%s\" %s", cases[i].body, r, err.param, err.message);
        CHECK(r == 0 || err.message[0], "%s says nothing", cases[i].body);
        json_free(body);
    }
}

static void test_too_many(void **state) {
    (void)state;
    for (int n = SHAPE_INPUTS_MAX; n <= SHAPE_INPUTS_MAX + 1; n++) {
        struct buf text;
        struct json_out w;
        struct json *body = NULL;
        struct error err = {0};
        buf_init(&text, 1 << 20);
        json_begin(&w, &text);
        json_object(&w);
        json_str(&w, "model", "m");
        json_key(&w, "input");
        json_array(&w);
        for (int i = 0; i < n; i++) json_put_str(&w, "a");
        json_array_end(&w);
        json_object_end(&w);
        assert_int_equal(json_parse(buf_span(&text), &body, &err), 0);
        assert_int_equal(request_shape_check(&SHAPE_EMBEDDINGS, body, &err), n > SHAPE_INPUTS_MAX ? E_INVALID : 0);
        json_free(body);
        buf_fini(&text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_requests), cmocka_unit_test(test_too_many)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
