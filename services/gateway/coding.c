#include "coding.h"

#include <zlib.h>

#include "base/error.h"

enum { GZIP_WINDOW = 15 + 16, GZIP_LEVEL = 1, MEMORY_LEVEL = 8 }; /* +16: gzip's frame; JSON shrinks nearly as far at 1 as at 6, in a third of the time */

/* "gzip;q=0.5": the weight in thousandths; −1 where it is malformed. */
static int weight_of(struct span parameters) {
    struct span one;
    while (span_cut(&parameters, ';', &one)) {
        one = span_trim(one);
        if (one.len < 2 || (one.data[0] | 0x20) != 'q' || one.data[1] != '=') continue;
        double q;
        if (span_to_f64(span_skip(one, 2), &q) < 0 || !(q >= 0 && q <= 1)) return -1;
        return (int)(q * 1000);
    }
    return 1000;
}

bool coding_accepts_gzip(struct span accept_encoding) {
    struct span one;
    int gzip = -1, any = -1;
    while (span_cut(&accept_encoding, ',', &one)) {
        struct span name;
        if (!span_cut(&one, ';', &name)) continue;
        name = span_trim(name);
        if (span_eq_nocase(name, SPAN("gzip")) || span_eq_nocase(name, SPAN("x-gzip"))) gzip = weight_of(one);
        else if (span_eq_str(name, "*")) any = weight_of(one);
    }
    return gzip >= 0 ? gzip > 0 : any > 0;
}

int coding_gzip(struct span in, struct buf *out) {
    z_stream z = {0};
    if (deflateInit2(&z, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) return E_NOMEM;
    size_t bound = deflateBound(&z, in.len);
    char *at = buf_reserve(out, bound);
    int r = at ? 0 : out->failed;
    if (at) {
        z.next_in = (Bytef *)(uintptr_t)in.data;
        z.avail_in = (uInt)in.len;
        z.next_out = (Bytef *)at;
        z.avail_out = (uInt)bound;
        if (deflate(&z, Z_FINISH) == Z_STREAM_END) buf_commit(out, z.total_out);
        else r = E_INTERNAL;
    }
    (void)deflateEnd(&z);
    return r;
}
