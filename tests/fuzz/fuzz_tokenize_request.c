/* POST /v1/tokenize and /v1/detokenize: what is taken packs and keeps to the limits; what is refused says why. */
#include "services/gateway/tokenize_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct json *body = NULL;
    struct error err = {0};
    struct arena arena;
    if (size == 0 || json_parse(span_of(data + 1, size - 1), &body, NULL) < 0) return 0;
    arena_init(&arena, REQUEST_ARENA_MAX);
    int r;
    if (data[0] & 1) {
        struct tokenize_request t;
        r = tokenize_request_read(&t, &arena, body, &err);
        if (r == 0) ASSERT(t.message.model[0] && (t.message.n_messages > 0) != t.has_prompt && genloop__v1__tokenize_request__get_packed_size(&t.message) > 0);
    } else {
        struct detokenize_request d;
        r = detokenize_request_read(&d, &arena, body, &err);
        if (r == 0) ASSERT(d.message.model[0] && d.has_tokens && d.message.n_tokens <= DETOKENIZE_TOKENS_MAX);
    }
    if (r < 0) ASSERT(err.code == r && err.message[0] && span_is_utf8(span_str(err.message)) && span_is_utf8(span_str(err.param)));
    arena_fini(&arena);
    json_free(body);
    return 0;
}
