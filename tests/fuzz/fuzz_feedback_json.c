/* Judgements as anybody may send them: straight from the topic, and over HTTP. What is taken holds to what every judgement must. */
#include "base/clock.h"
#include "base/json.h"
#include "genloop/v1/services.pb-c.h"
#include "services/feedback/feedback_json.h"
#include "services/feedback/pairs.h"
#include "services/gateway/feedback_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct span text = span_of(data, size), prompt, answer;
    struct arena arena;
    struct feedback f;
    struct error err = {0};
    struct json *root = NULL;
    struct buf packed;
    arena_init(&arena, 16 * size + 65536);
    buf_init(&packed, 16 * size + 65536);
    int r = feedback_json_parse(text, &arena, &f, &err);
    ASSERT(r == 0 ? feedback_check(&f, &err) == 0 : err.code == r && err.message[0] && span_is_utf8(span_str(err.message)));
    if (json_parse(text, &root, NULL) == 0) {
        struct error why = {0};
        r = feedback_request_pack(root, 1, &packed, &why);
        ASSERT(r == 0 || (why.code == r && why.message[0]));
        if (r == 0) {
            Genloop__V1__SubmitFeedbackRequest *m = genloop__v1__submit_feedback_request__unpack(NULL, packed.len, (const uint8_t *)buf_span(&packed).data);
            ASSERT(m);
            genloop__v1__submit_feedback_request__free_unpacked(m, NULL);
        }
    }
    json_free(root);
    if (pairs_read_content(text, &arena, &prompt, &answer, NULL) == 0) {
        struct pair_row row = {.prompt = prompt, .chosen = answer};
        for (int supervised = 0; supervised < 2; supervised++) {
            buf_clear(&packed);
            root = NULL;
            if (pairs_write_row(&row, supervised, &packed) == 0) ASSERT(json_parse(buf_span(&packed), &root, NULL) == 0);
            json_free(root);
        }
    }
    int64_t ms;
    if (time_parse(text, &ms) == 0) ASSERT(ms > -100000000000000 && ms < 300000000000000);
    buf_fini(&packed);
    arena_fini(&arena);
    return 0;
}
