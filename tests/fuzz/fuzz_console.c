/* What a browser says of codings and of what it has: Accept-Encoding, a newline, If-None-Match. */
#include "base/error.h"
#include "services/gateway/console.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct console_asset a = {.name = "a", .type = "text/css", .etag = "\"a\"", .gzip_etag = "\"a-gzip\"", .plain = (const unsigned char *)"aaaa", .gzip = (const unsigned char *)"aa", .plain_size = 4, .gzip_size = 2};
    struct span rest = span_of(data, size), accept;
    if (!span_cut(&rest, '\n', &accept)) return 0;
    struct console_form f = console_choose(&a, accept, rest);
    ASSERT(f.body.len == (f.gzip ? 2u : 4u) && f.etag == (f.gzip ? a.gzip_etag : a.etag));
    if (f.gzip) ASSERT(accept.len > 0);
    if (f.unchanged) ASSERT(rest.len > 0);
    return 0;
}
