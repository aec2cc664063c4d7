/* Forms: cut at any place the parts and their bytes are the same. */
#include "base/error.h"
#include "http/query.h"

static void events(struct span text, size_t cut, struct buf *out) {
    struct multipart m;
    ASSERT(multipart_init(&m, SPAN("multipart/form-data; boundary=b")) == 0);
    for (int part = 0; part < 2; part++) {
        struct span rest = part ? span_skip(text, cut) : span_sub(text, 0, cut), data;
        for (enum multipart_event e; (e = multipart_next(&m, &rest, &data)) != MULTIPART_NEED;) {
            if (e == MULTIPART_PART) buf_printf(out, "<%.*s|%.*s>", SPAN_ARG(buf_span(&m.name)), SPAN_ARG(buf_span(&m.file_name)));
            else if (e == MULTIPART_DATA) buf_append_span(out, data);
            else buf_append_char(out, e == MULTIPART_REFUSED ? '!' : ';');
            if (e == MULTIPART_REFUSED) goto out;
        }
        ASSERT(rest.len == 0);
    }
out:
    multipart_fini(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    struct span text = span_of(data + 2, size - 2);
    struct buf whole, parts;
    buf_init(&whole, 4 * size + 4096);
    buf_init(&parts, 4 * size + 4096);
    events(text, text.len, &whole);
    events(text, ((size_t)data[0] << 8 | data[1]) % (text.len + 1), &parts);
    ASSERT(span_eq(buf_span(&whole), buf_span(&parts)));
    buf_fini(&whole);
    buf_fini(&parts);
    return 0;
}
