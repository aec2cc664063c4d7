/* The head of a packed copy: whatever it says, what is taken from it lies in it, and only the copy that was asked for is taken. */
#include "base/alloc.h"
#include "engine/packed_copy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct packed_copy_key key = {.words = "layout 1 for c", .size = 3 * PACKED_COPY_CHUNK - 5};
    const uint8_t *sums = NULL;
    size_t of_weights = 0;
    struct error err;
    int r = packed_copy_check(span_of(data, size), PACKED_COPY_OFFSET + key.size, &key, &of_weights, &sums, &err);
    ASSERT(r == 0 || r == E_NOT_FOUND || r == E_DATA_LOSS);
    if (r == 0) ASSERT(of_weights == key.size);
    if (r == 0) ASSERT(sums == data + PACKED_COPY_FIXED && size >= PACKED_COPY_FIXED + 12);
    if (r == 0) ASSERT(packed_copy_check(span_of(data, size), PACKED_COPY_OFFSET + key.size - 1, &key, &of_weights, &sums, &err) == E_DATA_LOSS);
    key.size = (size_t)PACKED_COPY_CHUNKS_MAX * PACKED_COPY_CHUNK; /* the longest head */
    r = packed_copy_check(span_of(data, size), PACKED_COPY_OFFSET + key.size, &key, &of_weights, &sums, &err);
    ASSERT(r == E_NOT_FOUND || r == E_DATA_LOSS || size >= PACKED_COPY_OFFSET);
    return 0;
}
