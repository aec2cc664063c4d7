/* Lines of uploaded files: what is taken as an example becomes one line of JSON that says the same of itself, and a whole file is what its lines are. */
#include "base/error.h"
#include "services/ingest/file_rows.h"

static void check_row(struct span line) {
    struct error err = {0};
    struct buf row;
    enum file_rows rows, again;
    struct json *json = NULL;
    buf_init(&row, 16 * line.len + 4096);
    int r = file_row_read(line, &rows, NULL, &err);
    ASSERT(r == 0 || (err.code == r && err.message[0]));
    if (r == 0 && file_row_read(line, &again, &row, NULL) == 0) {
        ASSERT(again == rows && span_find_char(buf_span(&row), '\n') < 0);
        ASSERT(json_parse(buf_span(&row), &json, NULL) == 0);
        if (rows == FILE_ROWS_PREFERENCE) ASSERT(json_size(json_get(json, "prompt")) && json_size(json_get(json, "chosen")) && json_size(json_get(json, "rejected")));
        else ASSERT(json_size(json_get(json, "messages")) || json_get(json, "completion"));
    }
    json_free(json);
    buf_fini(&row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct span text = span_of(data, size), line, rest = text;
    struct file_facts facts = {0}, objects = {0};
    uint64_t number = 0, lines = 0;
    while (file_line_next(&rest, &number, &line)) {
        lines++;
        check_row(line);
    }
    int train = file_check(text, true, &facts, NULL), batch = file_check(text, false, &objects, NULL);
    ASSERT(train != 0 || batch == 0); /* every example is an object */
    ASSERT(train != 0 || (facts.lines == lines && facts.rows != FILE_ROWS_NONE));
    ASSERT(batch != 0 || objects.lines == lines);
    return 0;
}
