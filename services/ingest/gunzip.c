#include <zlib.h>

#include "base/error.h"
#include "services/ingest/detect.h"

enum reason gunzip(struct span in, size_t size_max, struct buf *out) {
    z_stream z = {0};
    if (inflateInit2(&z, 15 + 16) != Z_OK) return REASON_BAD_ARCHIVE;
    enum reason reason = REASON_NONE;
    size_t total = 0, at = 0;
    enum { STEP = 256 * 1024, INPUT_STEP = 1 << 30 };
    for (;;) {
        if (!z.avail_in) {
            size_t n = in.len - at < INPUT_STEP ? in.len - at : INPUT_STEP;
            z.next_in = (unsigned char *)(uintptr_t)(in.data + at);
            z.avail_in = (unsigned)n;
            at += n;
        }
        size_t room = size_max - total < STEP ? size_max - total + 1 : STEP; /* one byte over says that there is more */
        /* The first guess is small: a manual page is 20 KiB. */
        if (total == 0 && in.len < STEP / 8 && room > in.len * 5 + 64) room = in.len * 5 + 64;
        char *to = buf_reserve(out, room);
        if (!to) {
            reason = REASON_TOO_LARGE;
            break;
        }
        z.next_out = (unsigned char *)to;
        z.avail_out = (unsigned)room;
        int r = inflate(&z, Z_NO_FLUSH);
        size_t got = room - z.avail_out;
        buf_commit(out, got);
        total += got;
        if (total > size_max) {
            reason = REASON_TOO_LARGE;
            break;
        }
        if (r == Z_STREAM_END) {
            /* Another member may follow; what is no member is padding, as gzip itself has it. */
            size_t left = in.len - at + z.avail_in;
            if (left < 18 || !detect_gzip(span_of(z.next_in, z.avail_in))) break;
            if (inflateReset(&z) != Z_OK) {
                reason = REASON_BAD_ARCHIVE;
                break;
            }
        } else if (r != Z_OK || (got == 0 && !z.avail_in && at == in.len)) {
            reason = REASON_BAD_ARCHIVE;
            break;
        }
    }
    inflateEnd(&z);
    return reason;
}
