/* Uploaded files: what a line becomes, and what is refused with which words. */
#include "tests/unit/support/check.h"

#include "services/ingest/file_rows.h"

#define U "{\"role\":\"user\",\"content\":\"q\"}"
#define A "{\"role\":\"assistant\",\"content\":\"a\"}"

static void test_rows(void **state) {
    (void)state;
    static const struct {
        const char *name, *in, *out; /* out NULL: refused, and the words hold `refused` */
        enum file_rows rows;
        int code;
        const char *refused;
    } cases[] = {
        {"chat", "{\"messages\":[" U "," A "]}", "{\"messages\":[" U "," A "]}", FILE_ROWS_SUPERVISED, 0, NULL},
        {"system and developer", "{\"messages\":[{\"role\":\"developer\",\"content\":\"s\"}," U "," A "]}", "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"}," U "," A "]}", FILE_ROWS_SUPERVISED, 0, NULL},
        {"content parts", "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"q\"},{\"type\":\"text\",\"text\":\"r\"}]}," A "]}",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"qr\"}," A "]}", FILE_ROWS_SUPERVISED, 0, NULL},
        {"weights", "{\"messages\":[" U ",{\"role\":\"assistant\",\"content\":\"no\",\"weight\":0}," U ",{\"role\":\"assistant\",\"content\":\"yes\",\"weight\":1}]}",
         "{\"prompt\":[" U ",{\"role\":\"assistant\",\"content\":\"no\"}],\"completion\":[" U ",{\"role\":\"assistant\",\"content\":\"yes\"}]}", FILE_ROWS_SUPERVISED, 0, NULL},
        {"null is absent", "{\"messages\":[" U ",{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":null}],\"tools\":[]}", "{\"messages\":[" U "," A "]}", FILE_ROWS_SUPERVISED, 0, NULL},
        {"completion", " {\"prompt\":\"p\",\"completion\":\"\\u00e9\\ud83d\\ude42\"}\r", "{\"prompt\":\"p\",\"completion\":\"\xc3\xa9\xf0\x9f\x99\x82\"}", FILE_ROWS_SUPERVISED, 0, NULL},
        {"preference", "{\"input\":{\"messages\":[" U "],\"tools\":[],\"parallel_tool_calls\":true},\"preferred_output\":[" A "],\"non_preferred_output\":[{\"role\":\"assistant\",\"content\":\"b\"}]}",
         "{\"prompt\":[" U "],\"chosen\":[" A "],\"rejected\":[{\"role\":\"assistant\",\"content\":\"b\"}]}", FILE_ROWS_PREFERENCE, 0, NULL},
        {"no JSON", "{nope", NULL, FILE_ROWS_NONE, E_INVALID, "not valid JSON"},
        {"no object", "[1]", NULL, FILE_ROWS_NONE, E_INVALID, "must be a JSON object"},
        {"no example", "{\"x\":1}", NULL, FILE_ROWS_NONE, E_INVALID, "it is no example"},
        {"no answer", "{\"messages\":[" U "]}", NULL, FILE_ROWS_NONE, E_INVALID, "no assistant's message"},
        {"no answer to learn", "{\"messages\":[" U ",{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0}]}", NULL, FILE_ROWS_NONE, E_INVALID, "no assistant's message"},
        {"no messages", "{\"messages\":[]}", NULL, FILE_ROWS_NONE, E_INVALID, "array of messages"},
        {"a role", "{\"messages\":[{\"role\":\"pirate\",\"content\":\"q\"}," A "]}", NULL, FILE_ROWS_NONE, E_INVALID, "messages[0]"},
        {"a content", "{\"messages\":[{\"role\":\"user\",\"content\":7}," A "]}", NULL, FILE_ROWS_NONE, E_INVALID, "content must be"},
        {"an image", "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}," A "]}", NULL, FILE_ROWS_NONE, E_UNSUPPORTED, "image_url"},
        {"tools", "{\"messages\":[" U "," A "],\"tools\":[{}]}", NULL, FILE_ROWS_NONE, E_UNSUPPORTED, "\"tools\""},
        {"a tool's message", "{\"messages\":[" U ",{\"role\":\"tool\",\"content\":\"t\"}," A "]}", NULL, FILE_ROWS_NONE, E_UNSUPPORTED, "role tool"},
        {"a name", "{\"messages\":[{\"role\":\"user\",\"content\":\"q\",\"name\":\"n\"}," A "]}", NULL, FILE_ROWS_NONE, E_UNSUPPORTED, "\"name\""},
        {"an unknown key", "{\"messages\":[" U "," A "],\"colour\":1}", NULL, FILE_ROWS_NONE, E_INVALID, "\"colour\""},
        {"a weight of a user", "{\"messages\":[{\"role\":\"user\",\"content\":\"q\",\"weight\":1}," A "]}", NULL, FILE_ROWS_NONE, E_INVALID, "weight"},
        {"weight 0 behind 1", "{\"messages\":[" U "," A ",{\"role\":\"assistant\",\"content\":\"b\",\"weight\":0}]}", NULL, FILE_ROWS_NONE, E_UNSUPPORTED, "weight 0"},
        {"an empty completion", "{\"prompt\":\"p\",\"completion\":\"\"}", NULL, FILE_ROWS_NONE, E_INVALID, "completion is empty"},
        {"a pair without input", "{\"preferred_output\":[" A "],\"non_preferred_output\":[" A "]}", NULL, FILE_ROWS_NONE, E_INVALID, "input"},
        {"a pair of the user", "{\"input\":{\"messages\":[" U "]},\"preferred_output\":[" U "],\"non_preferred_output\":[" A "]}", NULL, FILE_ROWS_NONE, E_INVALID, "preferred_output[0]"},
        {"half a pair", "{\"input\":{\"messages\":[" U "]},\"preferred_output\":[" A "]}", NULL, FILE_ROWS_NONE, E_INVALID, "non_preferred_output"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct error err = {0};
        struct buf out;
        enum file_rows rows = FILE_ROWS_NONE;
        buf_init(&out, 1 << 20);
        int r = file_row_read(span_str(cases[i].in), &rows, &out, &err);
        if (r != cases[i].code || rows != cases[i].rows) fail_msg("%s: %d, %d: %s", cases[i].name, r, (int)rows, err.message);
        if (cases[i].out && !span_eq_str(buf_span(&out), cases[i].out)) fail_msg("%s: %.*s", cases[i].name, SPAN_ARG(buf_span(&out)));
        if (cases[i].refused && !strstr(err.message, cases[i].refused)) fail_msg("%s: %s", cases[i].name, err.message);
        buf_fini(&out);
    }
}

static void test_files(void **state) {
    (void)state;
    static const struct {
        const char *name, *in;
        bool train;
        uint64_t lines;
        const char *refused;
    } cases[] = {
        {"a batch", "{\"custom_id\":\"1\"}\n\n{\"x\":2}", false, 2, NULL},
        {"examples", "\n{\"prompt\":\"p\",\"completion\":\"c\"}\r\n{\"messages\":[" U "," A "]}\n", true, 2, NULL},
        {"empty", "", false, 0, "empty"},
        {"blank", "\n \n", true, 0, "empty"},
        {"the line is named", "{\"x\":1}\n\n{\"x\":2}\n{nope\n", false, 0, "line 4: it is not valid JSON"},
        {"a batch is no examples", "{\"custom_id\":\"1\"}\n", true, 0, "line 1: it is no example"},
        {"two kinds", "{\"prompt\":\"p\",\"completion\":\"c\"}\n{\"input\":{\"messages\":[" U "]},\"preferred_output\":[" A "],\"non_preferred_output\":[" A "]}\n", true, 0, "line 2: the lines before it are chat"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct error err = {0};
        struct file_facts facts = {0};
        int r = file_check(span_str(cases[i].in), cases[i].train, &facts, &err);
        if ((r == 0) != !cases[i].refused || facts.lines != cases[i].lines) fail_msg("%s: %d, %llu lines: %s", cases[i].name, r, (unsigned long long)facts.lines, err.message);
        if (cases[i].refused && (!strstr(err.message, cases[i].refused) || strcmp(err.param, "file") != 0)) fail_msg("%s: %s (%s)", cases[i].name, err.message, err.param);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
