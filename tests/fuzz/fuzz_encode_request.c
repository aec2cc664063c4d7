/* The doors that encoders answer: what is taken packs and keeps to the limits, and its answer is JSON; what is refused says why. */
#include "base/alloc.h"
#include "services/gateway/encode_request.h"

enum { INPUTS_MAX = 2048 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct json *body = NULL, *answered = NULL;
    struct error err = {0};
    struct arena arena;
    struct encode_request q;
    if (size == 0) return 0;
    enum encode_door door = (enum encode_door)(data[0] % (ENCODE_CALL_RERANK + 1));
    bool call = door >= ENCODE_CALL_EMBED;
    if (!call && json_parse(span_of(data + 1, size - 1), &body, NULL) < 0) return 0;
    arena_init(&arena, 64 << 20);
    int r = encode_request_read(&q, door, &arena, body, call ? span_of(data + 1, size - 1) : SPAN(""), &err);
    if (r < 0) ASSERT(err.code == r && err.message[0] && span_is_utf8(span_str(err.message)) && span_is_utf8(span_str(err.param)));
    else {
        Genloop__V1__EncodeReply reply;
        Genloop__V1__Embedding one, *outputs[INPUTS_MAX];
        float value = 0.5f;
        char label[] = "x", *labels[] = {label};
        struct encode_answer a = {"m@1", "id", 1};
        struct buf out;
        ASSERT(q.message.n_input > 0 && q.message.n_input <= INPUTS_MAX && genloop__v1__encode_request__get_packed_size(&q.message) > 0);
        genloop__v1__encode_reply__init(&reply);
        genloop__v1__embedding__init(&one);
        one.values = &value;
        one.n_values = 1;
        for (size_t i = 0; i < q.message.n_input; i++) outputs[i] = &one;
        reply.output = outputs;
        reply.n_output = q.message.n_input;
        reply.labels = labels;
        reply.n_labels = 1;
        buf_init(&out, 64 << 20);
        if (call) ASSERT(encode_answer_message(&arena, &q, &reply, &a));
        else {
            ASSERT(encode_answer_write(&out, &q, &reply, &a, &err) == 0);
            ASSERT(json_parse(buf_span(&out), &answered, &err) == 0);
        }
        json_free(answered);
        buf_fini(&out);
    }
    arena_fini(&arena);
    json_free(body);
    return 0;
}
