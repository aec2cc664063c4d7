/* A request's body over gRPC, in pieces of every size: messages, plain and gzip, are the same however they came, and what is broken says so; then the message as each of some types:
 * its strings come out as UTF-8 without U+0000, and what comes out once stays as it is. */
#include "genloop/v1/generation.pb-c.h"
#include "genloop/v1/services.pb-c.h"
#include "services/gateway/grpc_wire.h"
#include "wire/texts.h"
#include "wire/unpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const types[] = {
    &genloop__v1__generate_request__descriptor, &genloop__v1__upload_request__descriptor, &genloop__v1__submit_feedback_request__descriptor, &genloop__v1__create_job_request__descriptor,
};

static void texts(const ProtobufCMessageDescriptor *type, struct span message) {
    struct buf scratch, again;
    struct span once, twice;
    struct error err = {0};
    buf_init(&scratch, 32 << 20);
    buf_init(&again, 32 << 20);
    int r = message_texts(type, message, &scratch, &once, &err);
    if (r < 0) {
        ASSERT(err.code == r && err.message[0]);
    } else {
        ASSERT(message_texts(type, once, &again, &twice, &err) == 0 && twice.data == once.data && twice.len == once.len);
        message_free(message_unpack(type, once));
    }
    buf_fini(&scratch);
    buf_fini(&again);
}

/* Reads all; the hash says what. Returns how it ended. */
static int read_all(struct span body, size_t step, enum grpc_encoding encoding, const ProtobufCMessageDescriptor *type, uint64_t *hash) {
    struct grpc_reader r;
    struct error err = {0};
    int code = 0;
    *hash = 0;
    grpc_reader_init(&r, encoding);
    for (size_t at = 0; code == 0 && at < body.len; at += step) {
        struct span message;
        if ((code = grpc_reader_feed(&r, span_sub(body, at, step))) < 0) break;
        while ((code = grpc_reader_next(&r, &message, &err)) == 1) {
            ASSERT(message.len <= GRPC_MESSAGE_MAX);
            *hash = *hash * 31 + span_hash(message) + 1;
            if (type) texts(type, message);
        }
    }
    if (code == 0) code = grpc_reader_end(&r, &err);
    ASSERT(code <= 0 && (code == 0 || err.code == code));
    grpc_reader_fini(&r);
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 3) return 0;
    struct span body = span_of(data + 3, size - 3);
    enum grpc_encoding encoding = data[0] % 3 == 0 ? GRPC_IDENTITY : data[0] % 3 == 1 ? GRPC_GZIP : GRPC_OTHER;
    uint64_t whole, pieces;
    int64_t ms;
    int r = read_all(body, body.len ? body.len : 1, encoding, types[data[1] % 4], &whole);
    ASSERT(read_all(body, 1u + data[2], encoding, NULL, &pieces) == r && pieces == whole);
    if (grpc_timeout_parse(body, &ms) == 0) ASSERT(ms >= 1 && ms <= GRPC_TIMEOUT_MAX_MS && body.len <= 9);
    (void)grpc_content_type(body);
    struct buf text;
    buf_init(&text, 1 << 20);
    if (grpc_message_write(&text, body) == 0)
        for (size_t i = 0; i < text.len; i++) ASSERT(buf_span(&text).data[i] >= 0x20 && buf_span(&text).data[i] <= 0x7e);
    buf_fini(&text);
    return 0;
}
