/* Packed messages of every kind that a peer or a topic may send, by the first byte: what unpacks is written as JSON, and that JSON is read to what is written the same. */
#include "genloop/v1/bus.pb-c.h"
#include "genloop/v1/datasets.pb-c.h"
#include "genloop/v1/documents.pb-c.h"
#include "genloop/v1/generation.pb-c.h"
#include "genloop/v1/governance.pb-c.h"
#include "genloop/v1/interactions.pb-c.h"
#include "genloop/v1/jobs.pb-c.h"
#include "genloop/v1/models.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "wire/protojson.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TYPE(NAME) &genloop__v1__##NAME##__descriptor
static const ProtobufCMessageDescriptor *const types[] = {
    TYPE(generate_request), TYPE(generate_reply), TYPE(model_version), TYPE(alias), TYPE(audit_record), TYPE(job), TYPE(job_progress), TYPE(document), TYPE(dataset), TYPE(interaction),
    TYPE(feedback_event), TYPE(evaluation), TYPE(submit_feedback_request), TYPE(model_detail), TYPE(create_job_request), TYPE(upload_request), TYPE(dead_letter), TYPE(erasure), TYPE(member), TYPE(replica_load),
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const ProtobufCMessageDescriptor *type = types[data[0] % (sizeof types / sizeof *types)];
    struct buf text, packed, again;
    struct json_out w;
    struct json *root = NULL;
    buf_init(&text, 8 << 20);
    buf_init(&packed, 8 << 20);
    buf_init(&again, 8 << 20);
    json_begin(&w, &text);
    if (protojson_write_packed(&w, type, span_of(data + 1, size - 1), false, NULL) < 0 || text.failed) goto out;
    ASSERT(json_parse(buf_span(&text), &root, NULL) == 0);
    if (protojson_pack(root, type, &packed, NULL) < 0) goto out; /* a number that names no value of an enum is written, not read */
    json_begin(&w, &again);
    int r = protojson_write_packed(&w, type, buf_span(&packed), false, NULL);
    if (r < 0 && packed.len < size - 1) goto out; /* what stood there twice is gone, and the budget of fewer bytes (wire/unpack.h) is smaller */
    ASSERT(r == 0);
    ASSERT(span_eq(buf_span(&text), buf_span(&again)));
out:
    json_free(root);
    buf_fini(&text);
    buf_fini(&packed);
    buf_fini(&again);
    return 0;
}
