/* safetensors: a file that opens has only views inside it, findable by name, without overlap, and convertible or refused. */
#include "base/alloc.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct safetensors *f = NULL;
    struct error err;
    if (safetensors_open_bytes(&f, span_of(data, size), "fuzz", &err)) return 0;
    const uint8_t *at = NULL;
    for (size_t i = 0; i < safetensors_count(f); i++) {
        const struct safetensors_view *v = safetensors_at(f, i);
        const uint8_t *begin = v->data;
        ASSERT(begin >= data && v->size <= size && begin + v->size <= data + size);
        ASSERT(!at || begin == at);
        at = begin + v->size;
        ASSERT(safetensors_find(f, v->name) == v);
        float out[16];
        for (uint64_t from = 0; from < v->count && from < 64; from += 16) {
            uint64_t n = v->count - from < 16 ? v->count - from : 16;
            if (safetensors_to_f32(v, from, n, out, &err)) break;
        }
    }
    struct span value;
    safetensors_metadata(f, "format", &value);
    safetensors_close(f);
    return 0;
}
