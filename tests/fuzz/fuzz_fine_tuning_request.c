/* Bodies for /v1/fine_tuning/jobs: what is taken can be packed, and everything in it is within its bounds. */
#include "base/error.h"
#include "services/gateway/fine_tuning_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct json *body = NULL;
    struct arena arena;
    struct error err = {0};
    Genloop__V1__FineTuning f;
    arena_init(&arena, FINE_TUNING_ARENA);
    if (json_parse(span_of(data, size), &body, NULL) == 0 && json_type(body) == JSON_TYPE_OBJECT) {
        int r = fine_tuning_request_read(body, &arena, &f, &err);
        ASSERT(r == 0 || (err.code == r && err.message[0]));
        if (r == 0) {
            ASSERT(f.model[0] && f.training_file[0] && f.epochs <= 50 && f.batch_size <= 256 && f.beta >= 0 && f.learning_rate_multiplier >= 0);
            ASSERT(genloop__v1__fine_tuning__get_packed_size(&f) < FINE_TUNING_ARENA);
        }
    }
    json_free(body);
    arena_fini(&arena);
    return 0;
}
