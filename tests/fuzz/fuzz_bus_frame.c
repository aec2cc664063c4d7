/* The bus' batches and their frames: any bytes; what is accepted is written and read back to the same. */
#include "base/buf.h"
#include "bus/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct bus_frame f, again;
    struct buf out;
    struct error err;
    struct span rest = span_of(data, size), frame, payload;
    size_t total = 0;
    while (bus_batch_next(&rest, 1000, &frame, &payload) == 1) total += BUS_BATCH_HEAD + frame.len + payload.len;
    ASSERT(total + rest.len == size);
    if (bus_frame_decode(span_of(data, size), &f) < 0) return 0;
    (void)bus_frame_error(&f, &err);
    buf_init(&out, BUS_FRAME_MAX * 2);
    if (bus_frame_encode(&f, &out) == 0) {
        ASSERT(bus_frame_decode(buf_span(&out), &again) == 0);
        ASSERT(again.call_id == f.call_id && again.kind == f.kind && span_eq(again.method, f.method) && span_eq(again.actor_claim, f.actor_claim));
    }
    buf_fini(&out);
    return 0;
}
