/* A document as anybody may upload it: the first byte names it, the rest are its bytes. What is accepted is clean, stays itself when cleaned again, and gives only clean pairs. */
#include "base/error.h"
#include "services/ingest/clean.h"
#include "services/ingest/normalise.h"
#include "services/ingest/pairs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int on_pair(void *arg, const struct span *turns, int n) {
    (void)arg;
    ASSERT(n > 0 && n % 2 == 0 && n <= PAIR_TURNS_MAX);
    for (int i = 0; i < n; i++) ASSERT(turns[i].len > 0 && span_is_utf8(turns[i]));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[] = {"page.1", "page.3", "a.md", "a.html", "a.jsonl", "a.csv", "a.tsv", "a.txt", "a.c", "README", "a.mdoc", "http://x/y.html?q=1"};
    if (size == 0) return 0;
    struct span name = span_str(names[data[0] % 12]), bytes = span_of(data + 1, size - 1);
    struct clean_result r;
    clean_init(&r);
    ASSERT(clean_document(bytes, name, SPAN(""), &r) == 0);
    struct span text = buf_span(&r.text);
    ASSERT(span_is_utf8(span_str(r.title)) && (r.reason == REASON_NONE || text.len == 0));
    if (r.reason == REASON_NONE) {
        ASSERT(text.len && span_is_utf8(text) && text.data[text.len - 1] == '\n');
        bool records = r.media == MEDIA_JSONL || r.media == MEDIA_CSV;
        for (size_t i = 0; i < text.len; i++) {
            unsigned char c = (unsigned char)text.data[i];
            ASSERT(c >= 32 || c == '\n' || c == '\t' || ((c == TEXT_RECORD || c == TEXT_TURN) && records));
        }
        struct buf again;
        buf_init(&again, CLEAN_TEXT_MAX);
        normalise_text(text, records, &again);
        ASSERT(span_eq(buf_span(&again), text));
        buf_fini(&again);
        struct span rest = text, record;
        while (span_cut(&rest, TEXT_RECORD, &record)) ASSERT(pairs_draw(span_str(r.title), record, r.media, NULL, on_pair) == 0);
    }
    clean_fini(&r);
    return 0;
}
