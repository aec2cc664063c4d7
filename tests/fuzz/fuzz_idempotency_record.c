/* What lies in Redis under an Idempotency-Key, whoever put it there: what is read is written the same again. */
#include "base/error.h"
#include "services/gateway/idempotency_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct idempotency_record record, back;
    struct buf text;
    if (idempotency_read(span_of(data, size), &record) < 0) return 0;
    buf_init(&text, size + 64);
    ASSERT(idempotency_write(&record, &text) == 0);
    ASSERT(idempotency_read(buf_span(&text), &back) == 0);
    ASSERT(back.answered == record.answered && back.status == record.status && span_eq(back.body, record.body) && span_eq(back.owner, record.owner) && span_eq(back.fingerprint, record.fingerprint));
    buf_fini(&text);
    return 0;
}
