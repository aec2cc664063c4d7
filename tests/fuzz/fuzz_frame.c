/* What goes beside a request: traceparent, Origin and the setting that it is held to, Accept-Encoding; and a body into gzip and back. The first byte picks. */
#include <zlib.h>

#include "services/gateway/coding.h"
#include "services/gateway/cors.h"
#include "services/gateway/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void trace(struct span given) {
    static const uint8_t chance[TRACE_CHANCE] = {1, [16] = 2};
    char out[TRACEPARENT_MAX], again[TRACEPARENT_MAX];
    trace_next(given, chance, out);
    ASSERT(strlen(out) == TRACEPARENT_MAX - 1);
    trace_next(span_str(out), chance, again); /* what we make is what we would go on with */
    ASSERT(strcmp(out, again) == 0);
    ASSERT(given.len < 36 || memcmp(out + 3, given.data + 3, 32) == 0 || strncmp(out + 3, "01000000000000000000000000000000", 32) == 0);
}

static void cors(struct span text) {
    struct span origin;
    struct error err = {0};
    char trusted[4096];
    if (!span_cut(&text, '\n', &origin) || span_find_char(text, 0) >= 0) return;
    span_copy(trusted, sizeof trusted, text);
    bool trusts = cors_trusts(trusted, origin);
    if (cors_check(trusted, &err) < 0) ASSERT(err.code == E_INVALID && err.message[0]);
    else if (trusts) ASSERT(span_find(origin, SPAN("://")) > 0 && span_find_char(origin, '\r') < 0 && span_find_char(origin, ' ') < 0);
    (void)cors_own(text, origin);
    if (cors_headers_ok(text)) ASSERT(text.len <= CORS_HEADERS_MAX && span_find_char(text, '\n') < 0);
}

static void gzip(struct span body) {
    struct buf out;
    buf_init(&out, body.len + 4096);
    ASSERT(coding_gzip(body, &out) == 0);
    char *back = malloc(body.len + 1);
    z_stream z = {.next_in = (Bytef *)(uintptr_t)buf_span(&out).data, .avail_in = (uInt)out.len, .next_out = (Bytef *)back, .avail_out = (uInt)(body.len + 1)};
    ASSERT(inflateInit2(&z, 15 + 16) == Z_OK && inflate(&z, Z_FINISH) == Z_STREAM_END && z.total_out == body.len && memcmp(back, body.data, body.len) == 0);
    (void)inflateEnd(&z);
    free(back);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    struct span rest = span_of(data + 1, size - 1);
    switch (data[0] % 4) {
    case 0: trace(rest); break;
    case 1: cors(rest); break;
    case 2: (void)coding_accepts_gzip(rest); break;
    case 3: gzip(rest); break;
    }
    return 0;
}
