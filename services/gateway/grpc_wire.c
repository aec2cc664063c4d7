#include "grpc_wire.h"

#include <zlib.h>

#include "http/query.h"
#include "wire/fields.h"
#include "wire/protojson.h"

enum {
    PIECE_MAX = 4 << 20, /* of one piece of a body behind a message that is not whole */
    DETAILS_MAX = 8192,  /* a message of 512 bytes three times, and names */
    RETRY_S = 1,         /* as Retry-After of the HTTP door */
};

int grpc_content_type(struct span type) {
    struct span bare = type;
    struct span rest = type;
    if (!span_cut(&rest, ';', &bare)) return 0;
    bare = span_trim(bare);
    if (bare.len < 16 || !span_eq_nocase(span_sub(bare, 0, 16), SPAN("application/grpc"))) return 0;
    bare = span_skip(bare, 16);
    if (bare.len == 0 || span_eq_nocase(bare, SPAN("+proto"))) return 1;
    return bare.data[0] == '+' ? E_UNSUPPORTED : 0; /* application/grpc-web is another protocol */
}

enum grpc_encoding grpc_encoding_of(struct span name) {
    name = span_trim(name);
    return name.len == 0 || span_eq_str(name, "identity") ? GRPC_IDENTITY : span_eq_str(name, "gzip") ? GRPC_GZIP : GRPC_OTHER;
}

/* ---- messages ---- */

void grpc_reader_init(struct grpc_reader *r, enum grpc_encoding encoding) {
    *r = (struct grpc_reader){.encoding = encoding};
    buf_init(&r->in, GRPC_MESSAGE_MAX + GRPC_PREFIX + PIECE_MAX);
    buf_init(&r->plain, GRPC_MESSAGE_MAX + 1);
}

void grpc_reader_fini(struct grpc_reader *r) {
    buf_fini(&r->in);
    buf_fini(&r->plain);
}

static void drop_taken(struct grpc_reader *r) {
    buf_consume(&r->in, r->taken);
    r->taken = 0;
}

int grpc_reader_feed(struct grpc_reader *r, struct span piece) {
    drop_taken(r);
    return buf_append_span(&r->in, piece);
}

static int too_large(struct error *err) { return error_set(err, E_TOO_LARGE, "a message has at most %d bytes", GRPC_MESSAGE_MAX); }

/* One gzip member, no more. */
static int gunzip(struct span in, struct buf *out, struct error *err) {
    enum { STEP = 64 * 1024 };
    z_stream z = {.next_in = (unsigned char *)(uintptr_t)in.data, .avail_in = (unsigned)in.len};
    int r = 0, code = Z_OK;
    buf_clear(out);
    if (inflateInit2(&z, 15 + 16) != Z_OK) return error_set(err, E_NOMEM, "no memory for the message");
    while (r == 0 && code != Z_STREAM_END) {
        size_t room = buf_room(out) < STEP ? buf_room(out) : STEP;
        char *to = room ? buf_reserve(out, room) : NULL;
        if (room == 0) {
            r = too_large(err);
        } else if (!to) {
            r = error_set(err, E_NOMEM, "no memory for the message");
        } else {
            z.next_out = (unsigned char *)to;
            z.avail_out = (unsigned)room;
            code = inflate(&z, Z_NO_FLUSH);
            buf_commit(out, room - z.avail_out);
            if (code != Z_STREAM_END && (code != Z_OK || z.avail_out == room)) r = error_set(err, code == Z_MEM_ERROR ? E_NOMEM : E_INTERNAL, "the message is no gzip");
        }
    }
    if (r == 0 && z.avail_in) r = error_set(err, E_INTERNAL, "the message is no gzip: something follows it");
    if (r == 0 && out->len > GRPC_MESSAGE_MAX) r = too_large(err);
    inflateEnd(&z);
    return r;
}

int grpc_reader_next(struct grpc_reader *r, struct span *message, struct error *err) {
    drop_taken(r);
    struct span in = buf_span(&r->in);
    if (in.len < GRPC_PREFIX) return 0;
    const uint8_t *p = (const uint8_t *)in.data;
    size_t size = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    if (p[0] > 1) return error_set(err, E_INTERNAL, "a message begins with the byte %u, which gRPC does not know", p[0]);
    if (p[0] == 1 && r->encoding == GRPC_IDENTITY) return error_set(err, E_INTERNAL, "a message is marked as compressed, and grpc-encoding names no encoding");
    if (p[0] == 1 && r->encoding == GRPC_OTHER) return error_set_param(err, E_UNSUPPORTED, "grpc-encoding", "messages in this encoding are not taken: identity and gzip are");
    if (size > GRPC_MESSAGE_MAX) return too_large(err);
    if (in.len - GRPC_PREFIX < size) return 0;
    struct span body = span_sub(in, GRPC_PREFIX, size);
    if (p[0] == 1) {
        int code = gunzip(body, &r->plain, err);
        if (code < 0) return code;
        body = buf_span(&r->plain);
    }
    r->taken = GRPC_PREFIX + size;
    *message = body;
    return 1;
}

int grpc_reader_end(const struct grpc_reader *r, struct error *err) {
    return r->in.len > r->taken ? error_set(err, E_INTERNAL, "the request ends inside a message") : 0;
}

int grpc_prefix_write(struct buf *out, size_t size) {
    char prefix[GRPC_PREFIX] = {0, (char)(size >> 24), (char)(size >> 16), (char)(size >> 8), (char)size};
    if (size > UINT32_MAX) return E_TOO_LARGE;
    return buf_append(out, prefix, sizeof prefix);
}

/* ---- headers and trailers ---- */

int grpc_timeout_parse(struct span text, int64_t *timeout_ms) {
    static const struct {
        char unit;
        int64_t ns;
    } units[] = {{'H', 3600000000000}, {'M', 60000000000}, {'S', 1000000000}, {'m', 1000000}, {'u', 1000}, {'n', 1}};
    int64_t n = 0;
    if (text.len < 2 || text.len > 9) return E_INVALID;
    for (size_t i = 0; i + 1 < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') return E_INVALID;
        n = n * 10 + (text.data[i] - '0');
    }
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        if (units[u].unit != text.data[text.len - 1]) continue;
        if (n > (int64_t)GRPC_TIMEOUT_MAX_MS * 1000000 / units[u].ns) n = (int64_t)GRPC_TIMEOUT_MAX_MS * 1000000 / units[u].ns;
        int64_t ms = (n * units[u].ns + 999999) / 1000000;
        *timeout_ms = ms > 0 ? ms : 1;
        return 0;
    }
    return E_INVALID;
}

int grpc_message_write(struct buf *out, struct span text) {
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = (uint8_t)text.data[i];
        if (c >= 0x20 && c <= 0x7e && c != '%') (void)buf_append_char(out, (char)c);
        else (void)buf_printf(out, "%%%02X", c);
    }
    return out->failed;
}

/* repeated google.protobuf.Any details = 3 */
static void put_detail(struct buf *status, const char *type, const struct buf *detail) {
    char url[96];
    struct buf any;
    buf_init(&any, DETAILS_MAX);
    (void)snprintf(url, sizeof url, "type.googleapis.com/google.rpc.%s", type);
    wire_put_bytes(&any, 1, span_str(url));
    wire_put_bytes(&any, 2, buf_span(detail));
    wire_put_bytes(status, 3, buf_span(&any));
    if (any.failed || detail->failed) status->failed = any.failed ? any.failed : detail->failed;
    buf_fini(&any);
}

static void put_error_info(struct buf *status, struct buf *detail, const char *reason) {
    char word[64];
    size_t n = 0;
    for (; reason[n] && n < sizeof word - 1; n++) word[n] = (char)(reason[n] >= 'a' && reason[n] <= 'z' ? reason[n] - 'a' + 'A' : reason[n]);
    wire_put_bytes(detail, 1, span_of(word, n));
    wire_put_bytes(detail, 2, SPAN("genloop"));
    put_detail(status, "ErrorInfo", detail);
}

static void put_bad_request(struct buf *status, struct buf *detail, const struct error *err) {
    struct buf violation;
    buf_init(&violation, DETAILS_MAX);
    wire_put_bytes(&violation, 1, span_str(err->param));
    wire_put_bytes(&violation, 2, span_str(err->message));
    wire_put_bytes(detail, 1, buf_span(&violation));
    if (violation.failed) detail->failed = violation.failed;
    put_detail(status, "BadRequest", detail);
    buf_fini(&violation);
}

static void put_retry_info(struct buf *status, struct buf *detail) {
    struct buf delay; /* google.protobuf.Duration */
    buf_init(&delay, 16);
    wire_put_uint(&delay, 1, RETRY_S);
    wire_put_bytes(detail, 1, buf_span(&delay));
    if (delay.failed) detail->failed = delay.failed;
    put_detail(status, "RetryInfo", detail);
    buf_fini(&delay);
}

int grpc_details_write(struct buf *out, const struct error *err, const char *reason, const char *request_id) {
    const struct error_kind *kind = error_kind(err->code);
    struct buf status, detail, text;
    buf_init(&status, DETAILS_MAX);
    buf_init(&detail, DETAILS_MAX);
    buf_init(&text, DETAILS_MAX * 2);
    wire_put_uint(&status, 1, (uint64_t)kind->grpc_status);
    wire_put_bytes(&status, 2, span_str(err->message));
    put_error_info(&status, &detail, reason && *reason ? reason : kind->name);
    buf_clear(&detail);
    if (err->param[0]) put_bad_request(&status, &detail, err);
    buf_clear(&detail);
    if (err->retriable && (kind->http_status == 429 || kind->http_status == 503)) put_retry_info(&status, &detail);
    buf_clear(&detail);
    wire_put_bytes(&detail, 1, span_str(request_id));
    put_detail(&status, "RequestInfo", &detail);
    int r = status.failed ? status.failed : base64_encode(&text, buf_span(&status));
    if (r == 0) {
        struct span digits = buf_span(&text);
        while (digits.len && digits.data[digits.len - 1] == '=') digits.len--;
        r = buf_append_span(out, digits);
    }
    buf_fini(&status);
    buf_fini(&detail);
    buf_fini(&text);
    return r;
}
