/* Files of batches: what is taken as one has a body and an answer for each line, each of them a line of JSON with the line's own id; what is not says which line and why. */
#include "base/json.h"
#include "services/ingest/batch_lines.h"

static void check_line(struct span line) {
    struct json *root = NULL, *answer = NULL;
    struct buf body, out;
    buf_init(&body, 64 << 20);
    buf_init(&out, 64 << 20);
    ASSERT(json_parse(line, &root, NULL) == 0);
    if (batch_line_body(line, &body, NULL) == 0) {
        struct batch_answer a = {.id = "batch_req_1", .request_id = "r", .status = 200, .body = buf_span(&body)};
        ASSERT(batch_answer_write(line, &a, &out, NULL) == 0);
        ASSERT(span_find_char(buf_span(&out), '\n') == (ptrdiff_t)out.len - 1);
        ASSERT(json_parse(buf_span(&out), &answer, NULL) == 0);
        ASSERT(span_eq(json_string(json_get(answer, "custom_id")), json_string(json_get(root, "custom_id"))));
    }
    json_free(root);
    json_free(answer);
    buf_fini(&body);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct span text = span_of(data, size);
    struct batch_index found = {0}, lines = {0};
    if (batch_index_check(&found, text, "/v1/completions") == 0) {
        ASSERT(found.n_errors <= BATCH_ERRORS_MAX && (found.n || found.n_errors));
        for (size_t i = 0; i < found.n_errors; i++) ASSERT(found.errors[i].code && found.errors[i].message[0] && span_is_utf8(span_str(found.errors[i].message)));
        if (!found.n_errors) {
            ASSERT(batch_index_lines(&lines, text) == 0 && lines.n == found.n);
            for (size_t i = 0; i < found.n; i++) {
                ASSERT(found.lines[i].start == lines.lines[i].start && found.lines[i].len == lines.lines[i].len && found.lines[i].number == lines.lines[i].number);
                check_line(span_sub(text, (size_t)found.lines[i].start, found.lines[i].len));
            }
        }
    }
    batch_index_fini(&found);
    batch_index_fini(&lines);
    return 0;
}
