/* gzip: any bytes, and the same bytes rightly compressed; never more than was allowed comes out. */
#include <zlib.h>

#include "base/error.h"
#include "services/ingest/detect.h"

enum { OUT_MAX = 1 << 18 };
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct buf out, packed;
    buf_init(&out, OUT_MAX + 1);
    enum reason r = gunzip(span_of(data, size), OUT_MAX, &out);
    ASSERT(r == REASON_NONE || r == REASON_BAD_ARCHIVE || r == REASON_TOO_LARGE);
    ASSERT(r != REASON_NONE || out.len <= OUT_MAX);
    buf_clear(&out);
    buf_init(&packed, size + 4096);
    z_stream z = {0};
    ASSERT(deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    size_t room = size + 1024;
    char *to = buf_reserve(&packed, room);
    ASSERT(to);
    z.next_in = (unsigned char *)(uintptr_t)data;
    z.avail_in = (unsigned)size;
    z.next_out = (unsigned char *)to;
    z.avail_out = (unsigned)room;
    ASSERT(deflate(&z, Z_FINISH) == Z_STREAM_END);
    buf_commit(&packed, room - z.avail_out);
    deflateEnd(&z);
    r = gunzip(buf_span(&packed), OUT_MAX, &out);
    ASSERT(size > OUT_MAX ? r == REASON_TOO_LARGE : r == REASON_NONE && span_eq(buf_span(&out), span_of(data, size)));
    if (r == REASON_NONE && packed.len > 8) { /* cut anywhere it is damaged, and says so */
        buf_clear(&out);
        r = gunzip(span_sub(buf_span(&packed), 0, packed.len - 1 - size % (packed.len - 3)), OUT_MAX, &out);
        ASSERT(r == REASON_BAD_ARCHIVE);
    }
    buf_fini(&packed);
    buf_fini(&out);
    return 0;
}
