/* A GenerateRequest of a gRPC client: what is taken keeps to the limits that JSON is held to, and packs; what is refused says why. */
#include "services/gateway/generate_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool between(double v, double low, double high) { return v >= low && v <= high; }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct arena arena;
    struct generate_request r;
    struct error err = {0};
    if (size == 0) return 0;
    bool stream = data[0] & 1;
    arena_init(&arena, REQUEST_ARENA_MAX);
    int code = message_request_read(&r, &arena, span_of(data + 1, size - 1), stream, &err);
    if (code < 0) {
        ASSERT(err.code == code && err.message[0]);
    } else {
        Genloop__V1__GenerateRequest *m = &r.message;
        ASSERT(r.n >= 1 && r.n <= N_MAX && r.best_of == r.n && (stream || r.n == 1) && m->n_stop <= STOP_MAX && m->n_logit_bias <= LOGIT_BIAS_MAX && m->n_messages <= MESSAGES_MAX);
        ASSERT(m->model[0] && (r.chat ? m->n_messages >= 1 && r.n_prompts == 0 : r.n_prompts == 1));
        ASSERT(!m->max_tokens_set_case || (m->max_tokens >= 1 && m->max_tokens <= MAX_TOKENS_MAX));
        ASSERT((!m->temperature_set_case || between(m->temperature, 0, 2)) && (!m->top_p_set_case || between(m->top_p, TOP_P_LEAST, 1)));
        char *at = arena_alloc(&arena, genloop__v1__generate_request__get_packed_size(m) + 1);
        if (at) (void)genloop__v1__generate_request__pack(m, (uint8_t *)at);
    }
    arena_fini(&arena);
    return 0;
}
