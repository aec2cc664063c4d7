/* Server reflection: by the first byte a client's request over the descriptors that are built in, or bytes as a set of descriptors. */
#include "descriptors.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "services/gateway/grpc_reflection.h"
#include "wire/unpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct reflection *own;
    if (!own) own = reflection_new(span_of(genloop_descriptors, genloop_descriptors_size));
    ASSERT(own);
    if (size == 0) return 0;
    struct span rest = span_of(data + 1, size - 1);
    struct reflection *r = data[0] & 1 ? reflection_new(rest) : own;
    struct reflection_method m;
    struct buf out;
    struct error err = {0};
    buf_init(&out, 8 << 20);
    if (r) {
        for (size_t i = 0; reflection_method_at(r, i, &m); i++) ASSERT(reflection_has_service(r, m.service));
        int code = reflection_answer(r, r == own ? rest : SPAN("\x3a\x00"), &out, &err);
        ASSERT(code == 0 ? out.len > 0 : err.code == code && err.message[0]);
        if (code == 0) {
            ProtobufCMessage *answer = message_unpack(&grpc__reflection__v1__server_reflection_response__descriptor, buf_span(&out));
            ASSERT(answer || out.len > 1 << 20);
            message_free(answer);
        }
    }
    buf_fini(&out);
    if (r != own) reflection_free(r);
    return 0;
}
