/* config.json: what is read is in range, has a list of tensors, and is written to what reads as the same. */
#include "base/alloc.h"
#include "model/arch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct model_config c, again;
    struct error err;
    if (model_config_parse(span_of(data, size), &c, &err)) return 0;
    ASSERT(model_config_check(&c, &err) == 0);
    struct buf one, two;
    buf_init(&one, 1 << 16);
    buf_init(&two, 1 << 16);
    ASSERT(model_config_write(&c, &one) == 0);
    ASSERT(model_config_parse(buf_span(&one), &again, &err) == 0);
    ASSERT(model_config_write(&again, &two) == 0);
    ASSERT(span_eq(buf_span(&one), buf_span(&two)));
    if (c.layers <= 16) {
        struct model_tensor *tensors = NULL;
        size_t count, flat;
        if (model_tensors(&c, &tensors, &count, &flat, &err) == 0) ASSERT(flat == model_config_param_count(&c));
        mem_free(tensors);
    }
    float inv_freq[MODEL_HEAD_DIM_MAX / 2];
    model_rope_frequencies(&c, inv_freq);
    buf_fini(&one);
    buf_fini(&two);
    return 0;
}
