/* CSV with any delimiter and JSONL: rows are good or bad, none is lost, and no separator of ours comes from inside one. */
#include "base/error.h"
#include "services/ingest/extract.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0 || !span_is_utf8(span_of(data + 1, size - 1))) return 0;
    static const char delimiters[] = {',', ';', '\t', '|'};
    struct buf text;
    buf_init(&text, 64 * size + 4096);
    struct extracted x = {.text = &text};
    enum reason r = data[0] % 5 == 4 ? extract_jsonl(span_of(data + 1, size - 1), &x) : extract_csv(span_of(data + 1, size - 1), delimiters[data[0] % 5], &x);
    ASSERT(text.failed || (r == REASON_NONE) == (x.rows > 0));
    size_t records = text.len > 0;
    for (size_t i = 0; i < text.len; i++) records += buf_span(&text).data[i] == TEXT_RECORD;
    ASSERT(text.failed || records == x.rows || (text.len == 0 && x.rows == 0));
    ASSERT(text.failed || span_is_utf8(buf_span(&text)));
    buf_fini(&text);
    return 0;
}
