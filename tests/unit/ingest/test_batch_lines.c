/* Files of batches: which are ones, what is said of the others, and the lines of answers. */
#include "tests/unit/support/check.h"

#include "services/ingest/batch_lines.h"

#define LINE(ID) "{\"custom_id\":\"" ID "\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"model\":\"m\",\"prompt\":\"p\"}}"

static void test_files(void **state) {
    static const struct {
        const char *name, *text, *code; /* code NULL: it is a batch */
        uint64_t line;
        size_t lines;
    } cases[] = {
        {"one", LINE("a"), NULL, 0, 1},
        {"blank lines", "\n" LINE("a") "\r\n \n" LINE("b") "\n\n", NULL, 0, 2},
        {"nothing", " \n\n", "empty_file", 0, 0},
        {"no JSON", LINE("a") "\n{nope\n", "invalid_json_line", 2, 0},
        {"no object", "[1]\n", "invalid_json_line", 1, 0},
        {"no id", "{\"method\":\"POST\"}", "missing_required_parameter", 1, 0},
        {"an empty id", LINE(""), "missing_required_parameter", 1, 0},
        {"a number as id", "{\"custom_id\":7}", "missing_required_parameter", 1, 0},
        {"the same id", LINE("a") "\n" LINE("b") "\n\n" LINE("a"), "duplicate_custom_id", 4, 0},
        {"a method", "{\"custom_id\":\"a\",\"method\":\"GET\",\"url\":\"/v1/completions\",\"body\":{}}", "invalid_method", 1, 0},
        {"another endpoint", "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":{}}", "mismatched_url", 1, 0},
        {"no body", "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/completions\"}", "invalid_body", 1, 0},
        {"a stream", "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"stream\":true}}", "invalid_body", 1, 0},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct batch_index x = {0};
        int r = batch_index_check(&x, span_str(cases[i].text), "/v1/completions");
        if (r != 0) fail_msg("%s: %d", cases[i].name, r);
        if (!cases[i].code && (x.n_errors || x.n != cases[i].lines || strcmp(x.model, "m") != 0)) fail_msg("%s: %zu errors, %zu lines, model %s", cases[i].name, x.n_errors, x.n, x.model);
        if (cases[i].code && (x.n_errors != 1 || strcmp(x.errors[0].code, cases[i].code) != 0 || x.errors[0].line != cases[i].line || !x.errors[0].message[0]))
            fail_msg("%s: %zu errors, %s at %llu", cases[i].name, x.n_errors, x.n_errors ? x.errors[0].code : "-", x.n_errors ? (unsigned long long)x.errors[0].line : 0);
        batch_index_fini(&x);
        batch_index_fini(&x);
    }
}

static void test_places(void **state) {
    static const char text[] = "\n" LINE("a") "\n\n" LINE("b") "\n";
    struct batch_index x = {0};
    (void)state;
    assert_int_equal(batch_index_lines(&x, span_str(text)), 0);
    assert_int_equal(x.n, 2);
    assert_int_equal(x.lines[0].number, 2);
    assert_int_equal(x.lines[1].number, 4);
    for (size_t i = 0; i < x.n; i++) assert_true(span_eq_str(span_sub(span_str(text), (size_t)x.lines[i].start, x.lines[i].len), i ? LINE("b") : LINE("a")));
    batch_index_fini(&x);
}

static void test_errors_end(void **state) {
    struct batch_index x = {0};
    struct buf text;
    (void)state;
    buf_init(&text, 1 << 20);
    for (int i = 0; i < 2 * BATCH_ERRORS_MAX; i++) (void)buf_append_str(&text, "no\n");
    assert_int_equal(batch_index_check(&x, buf_span(&text), "/v1/completions"), 0);
    assert_int_equal(x.n_errors, BATCH_ERRORS_MAX);
    batch_index_fini(&x);
    buf_fini(&text);
}

static void test_answers(void **state) {
    struct buf out;
    struct error err = {0};
    (void)state;
    buf_init(&out, 4096);
    struct batch_answer a = {.id = "batch_req_x_1", .request_id = "r", .status = 400, .body = SPAN("{\"error\":{}}")};
    assert_int_equal(batch_answer_write(span_str(LINE("a\\\"b")), &a, &out, &err), 0);
    assert_true(span_eq_str(buf_span(&out), "{\"id\":\"batch_req_x_1\",\"custom_id\":\"a\\\"b\",\"response\":{\"status_code\":400,\"request_id\":\"r\",\"body\":{\"error\":{}}},\"error\":null}\n"));
    buf_clear(&out);
    a = (struct batch_answer){.id = "i", .code = "batch_expired", .message = "late"};
    assert_int_equal(batch_answer_write(span_str(LINE("a")), &a, &out, &err), 0);
    assert_true(span_eq_str(buf_span(&out), "{\"id\":\"i\",\"custom_id\":\"a\",\"response\":null,\"error\":{\"code\":\"batch_expired\",\"message\":\"late\"}}\n"));
    a = (struct batch_answer){.id = "i", .request_id = "r", .status = 200, .body = SPAN("{\n}")};
    assert_int_equal(batch_answer_write(span_str(LINE("a")), &a, &out, &err), E_INVALID);
    a.body = SPAN("");
    assert_int_equal(batch_answer_write(span_str(LINE("a")), &a, &out, &err), E_INVALID);
    buf_clear(&out);
    assert_int_equal(batch_line_body(span_str(LINE("a")), &out, &err), 0);
    assert_true(span_eq_str(buf_span(&out), "{\"model\":\"m\",\"prompt\":\"p\"}"));
    buf_fini(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_files), cmocka_unit_test(test_places), cmocka_unit_test(test_errors_end), cmocka_unit_test(test_answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
