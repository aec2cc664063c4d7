/* The doors that are not built yet, any JSON: what is refused says why in UTF-8; the first byte picks the door. */
#include "services/gateway/request_shape.h"

#include "base/span.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct request_shape *const doors[] = {&SHAPE_EMBEDDINGS, &SHAPE_RERANK, &SHAPE_SCORE, &SHAPE_CLASSIFY, &SHAPE_MESSAGES, &SHAPE_MODERATIONS, &SHAPE_IMAGES,
                                                  &SHAPE_IMAGE_EDITS, &SHAPE_SPEECH, &SHAPE_TABLES};
    struct json *body = NULL;
    struct error err = {0};
    if (size == 0 || json_parse(span_of(data + 1, size - 1), &body, NULL) < 0) return 0;
    const struct request_shape *door = doors[data[0] % (sizeof doors / sizeof *doors)];
    int r = request_shape_check(door, body, &err);
    if (r < 0) ASSERT(err.code == r && err.message[0] && span_is_utf8(span_str(err.message)) && span_is_utf8(span_str(err.param)));
    else ASSERT(!door->has_model || json_string(json_get(body, "model")).len > 0);
    json_free(body);
    return 0;
}
