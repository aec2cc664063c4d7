/* JSON: whatever is read is written again, and reads back as the same text. */
#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct json *root = NULL, *again = NULL;
    struct error err;
    if (json_parse(span_of(data, size), &root, &err)) return 0;
    struct buf one, two;
    buf_init(&one, 6 * size + 64);
    buf_init(&two, 6 * size + 64);
    if (!json_write(&one, root)) {
        ASSERT(json_parse(buf_span(&one), &again, &err) == 0);
        ASSERT(json_write(&two, again) == 0);
        ASSERT(span_eq(buf_span(&one), buf_span(&two)));
    }
    buf_fini(&one);
    buf_fini(&two);
    json_free(root);
    json_free(again);
    return 0;
}
