/* POST /v1/chat/completions and /v1/completions: what is taken packs, unpacks to the same, and keeps to the limits; what is refused says why. */
#include <math.h>

#include "services/gateway/generate_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct json *body = NULL;
    if (size == 0 || json_parse(span_of(data + 1, size - 1), &body, NULL) < 0) return 0;
    struct arena arena;
    struct generate_request r;
    struct error err = {0};
    bool chat = data[0] & 1;
    arena_init(&arena, REQUEST_ARENA_MAX);
    int code = chat ? chat_request_read(&r, &arena, body, &err) : completion_request_read(&r, &arena, body, &err);
    if (code < 0) {
        ASSERT(err.code == code && err.message[0] && span_is_utf8(span_str(err.message)) && span_is_utf8(span_str(err.param)));
    } else {
        Genloop__V1__GenerateRequest *m = &r.message;
        ASSERT(r.n >= 1 && r.n <= N_MAX && r.best_of >= r.n && r.best_of <= N_MAX && m->max_tokens <= MAX_TOKENS_MAX && m->n_stop <= STOP_MAX && m->n_logit_bias <= LOGIT_BIAS_MAX);
        ASSERT(m->model[0] && (chat ? m->n_messages >= 1 : r.n_prompts >= 1) && isfinite(m->temperature) && isfinite(m->top_p));
        struct buf packed;
        buf_init(&packed, 64 << 20);
        size_t len = genloop__v1__generate_request__get_packed_size(m);
        char *at = buf_reserve(&packed, len ? len : 1);
        ASSERT(at && genloop__v1__generate_request__pack(m, (uint8_t *)at) == len);
        Genloop__V1__GenerateRequest *again = genloop__v1__generate_request__unpack(NULL, len, (const uint8_t *)at);
        ASSERT(again && genloop__v1__generate_request__get_packed_size(again) == len);
        genloop__v1__generate_request__free_unpacked(again, NULL);
        buf_fini(&packed);
    }
    arena_fini(&arena);
    json_free(body);
    return 0;
}
