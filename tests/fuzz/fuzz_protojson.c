/* JSON to messages: any text; what is accepted is written and read back to the same bytes. */
#include "genloop/v1/generation.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "wire/protojson.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const ProtobufCMessageDescriptor *const types[] = {&genloop__v1__generate_request__descriptor, &genloop__v1__submit_feedback_request__descriptor, &genloop__v1__model_detail__descriptor};
    struct json *root, *again;
    if (size == 0 || json_parse(span_of(data + 1, size - 1), &root, NULL) < 0) return 0;
    const ProtobufCMessageDescriptor *type = types[data[0] % 3];
    struct buf packed, text, repacked;
    struct json_out w;
    buf_init(&packed, 1 << 20);
    buf_init(&repacked, 1 << 20);
    buf_init(&text, 4 << 20);
    if (protojson_pack(root, type, &packed, NULL) == 0) {
        json_begin(&w, &text);
        ASSERT(protojson_write_packed(&w, type, buf_span(&packed), true, NULL) == 0);
        if (!text.failed) {
            ASSERT(json_parse(buf_span(&text), &again, NULL) == 0);
            (void)protojson_pack(again, type, &repacked, NULL);
            json_free(again);
        }
    }
    json_free(root);
    buf_fini(&packed);
    buf_fini(&repacked);
    buf_fini(&text);
    return 0;
}
