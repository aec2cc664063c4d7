#include "bus/frame.h"

enum wire { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

/* ---- reading ---- */

static bool read_varint(struct span *in, uint64_t *value) {
    uint64_t v = 0;
    for (unsigned i = 0; i < 10 && i < in->len; i++) {
        uint8_t byte = (uint8_t)in->data[i];
        if (i == 9 && byte > 1) return false; /* more than 64 bits */
        v |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (!(byte & 0x80)) {
            *in = span_skip(*in, i + 1);
            *value = v;
            return true;
        }
    }
    return false;
}

struct field {
    uint32_t number;
    enum wire wire;
    uint64_t value;    /* of varints */
    struct span bytes; /* of length-delimited ones */
};

/* The next field; false at the end with *bad untouched, or at damage with *bad set. */
static bool read_field(struct span *in, struct field *f, bool *bad) {
    uint64_t tag, len;
    if (in->len == 0) return false;
    *bad = true;
    if (!read_varint(in, &tag) || tag > UINT32_MAX || tag >> 3 == 0) return false;
    *f = (struct field){.number = (uint32_t)(tag >> 3), .wire = (enum wire)(tag & 7)};
    switch (f->wire) {
    case WIRE_VARINT:
        if (!read_varint(in, &f->value)) return false;
        break;
    case WIRE_BYTES:
        if (!read_varint(in, &len) || len > in->len) return false;
        f->bytes = span_sub(*in, 0, (size_t)len);
        *in = span_skip(*in, (size_t)len);
        break;
    case WIRE_FIXED64:
        if (in->len < 8) return false;
        *in = span_skip(*in, 8);
        break;
    case WIRE_FIXED32:
        if (in->len < 4) return false;
        *in = span_skip(*in, 4);
        break;
    default: return false; /* groups are not proto3 */
    }
    *bad = false;
    return true;
}

static bool take_text(const struct field *f, struct span *text) {
    if (f->wire != WIRE_BYTES || f->bytes.len > BUS_FRAME_TEXT_MAX || !span_is_utf8(f->bytes)) return false;
    *text = f->bytes;
    return true;
}

static bool decode_status(struct span in, struct bus_frame *out) {
    struct field f;
    bool bad = false, ok = true;
    while (ok && read_field(&in, &f, &bad)) {
        if (f.number == 2) {
            ok = take_text(&f, &out->status_message);
        } else if (f.number == 3) {
            ok = take_text(&f, &out->status_param);
        } else if (f.number == 1 || (f.number >= 4 && f.number <= 6)) {
            ok = f.wire == WIRE_VARINT;
            if (f.number == 1) out->status_code = (int32_t)f.value;
            else if (f.number == 4) out->status_retriable = f.value != 0;
            else if (f.number == 5) out->retry_after_ms = (int64_t)f.value;
            else out->status_error = (int32_t)(((uint32_t)f.value >> 1) ^ (0u - ((uint32_t)f.value & 1))); /* zigzag */
        }
    }
    return ok && !bad;
}

static bool decode_actor(struct span in, struct bus_frame *out) {
    struct field f;
    bool bad = false, ok = true;
    while (ok && read_field(&in, &f, &bad)) {
        if (f.number == 1) ok = take_text(&f, &out->actor_id);
        else if (f.number == 2) ok = take_text(&f, &out->actor_scope);
        else if (f.number == 3) ok = take_text(&f, &out->actor_claim);
    }
    return ok && !bad;
}

int bus_frame_decode(struct span bytes, struct bus_frame *out) {
    struct bus_frame frame = {0};
    struct field f;
    bool bad = false, ok = true;
    uint64_t kind = 0;
    if (bytes.len > BUS_FRAME_MAX) return E_INVALID;
    while (ok && read_field(&bytes, &f, &bad)) {
        switch (f.number) {
        case 1: case 2: case 4: case 5: case 12:
            ok = f.wire == WIRE_VARINT;
            if (f.number == 1) kind = f.value;
            else if (f.number == 2) frame.call_id = f.value;
            else if (f.number == 4) frame.deadline_ms = (int64_t)f.value;
            else if (f.number == 5) frame.credit = (uint32_t)f.value;
            else frame.version = (uint32_t)f.value;
            break;
        case 3: ok = take_text(&f, &frame.method); break;
        case 6: ok = f.wire == WIRE_BYTES && decode_status(f.bytes, &frame); break;
        case 7: ok = take_text(&f, &frame.request_id); break;
        case 8: ok = take_text(&f, &frame.traceparent); break;
        case 9: ok = take_text(&f, &frame.tenant); break;
        case 10: ok = f.wire == WIRE_BYTES && decode_actor(f.bytes, &frame); break;
        case 11: ok = take_text(&f, &frame.session); break;
        default: break;
        }
    }
    if (!ok || bad || kind < BUS_CALL || kind > BUS_HELLO || frame.version != BUS_FRAME_VERSION || frame.deadline_ms < 0 || frame.retry_after_ms < 0) return E_INVALID;
    frame.kind = (enum bus_kind)kind;
    *out = frame;
    return 0;
}

/* ---- writing: fields in order of their number, defaults left out, as every protobuf writer does ---- */

static void put_varint(struct buf *out, uint64_t v) {
    char bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
    (void)buf_append(out, bytes, n);
}

static void put_number(struct buf *out, uint32_t number, uint64_t v) {
    if (v == 0) return;
    put_varint(out, (uint64_t)number << 3 | WIRE_VARINT);
    put_varint(out, v);
}

static void put_text(struct buf *out, uint32_t number, struct span text) {
    if (text.len == 0) return;
    put_varint(out, (uint64_t)number << 3 | WIRE_BYTES);
    put_varint(out, text.len);
    (void)buf_append_span(out, text);
}

static size_t varint_size(uint64_t v) {
    size_t n = 1;
    while (v >>= 7) n++;
    return n;
}
static size_t number_size(uint64_t v) { return v ? 1 + varint_size(v) : 0; }
static size_t text_size(struct span text) { return text.len ? 1 + varint_size(text.len) + text.len : 0; }
static uint32_t zigzag(int32_t v) { return ((uint32_t)v << 1) ^ (uint32_t)(v >> 31); }

int bus_frame_encode(const struct bus_frame *f, struct buf *out) {
    size_t before = out->len;
    put_number(out, 1, (uint64_t)f->kind);
    put_number(out, 2, f->call_id);
    put_text(out, 3, f->method);
    put_number(out, 4, (uint64_t)f->deadline_ms);
    put_number(out, 5, f->credit);
    if (f->kind == BUS_END) {
        size_t size = number_size((uint64_t)(int64_t)f->status_code) + text_size(f->status_message) + text_size(f->status_param) + number_size(f->status_retriable) +
                      number_size((uint64_t)f->retry_after_ms) + number_size(zigzag(f->status_error));
        put_varint(out, 6 << 3 | WIRE_BYTES);
        put_varint(out, size);
        put_number(out, 1, (uint64_t)(int64_t)f->status_code);
        put_text(out, 2, f->status_message);
        put_text(out, 3, f->status_param);
        put_number(out, 4, f->status_retriable);
        put_number(out, 5, (uint64_t)f->retry_after_ms);
        put_number(out, 6, zigzag(f->status_error));
    }
    put_text(out, 7, f->request_id);
    put_text(out, 8, f->traceparent);
    put_text(out, 9, f->tenant);
    size_t actor = text_size(f->actor_id) + text_size(f->actor_scope) + text_size(f->actor_claim);
    if (actor) {
        put_varint(out, 10 << 3 | WIRE_BYTES);
        put_varint(out, actor);
        put_text(out, 1, f->actor_id);
        put_text(out, 2, f->actor_scope);
        put_text(out, 3, f->actor_claim);
    }
    put_text(out, 11, f->session);
    put_number(out, 12, BUS_FRAME_VERSION);
    if (out->failed) return out->failed;
    return out->len - before <= BUS_FRAME_MAX ? 0 : E_FULL;
}

/* ---- statuses ---- */

int bus_frame_error(const struct bus_frame *f, struct error *err) {
    if (f->status_code == 0) return 0;
    int code = error_from_grpc(f->status_code);
    if (code == 0) code = E_UNKNOWN;
    /* Ours is taken only where it is a refinement of the code that everybody understands. */
    if (f->status_error < 0 && f->status_error >= E_CODE_MIN && error_kind(f->status_error)->grpc_status == f->status_code) code = f->status_error;
    (void)error_set_param(err, code, "", "%.*s", SPAN_ARG(f->status_message));
    if (err) {
        span_copy(err->param, sizeof err->param, f->status_param);
        err->retriable = f->status_retriable;
    }
    return code;
}

void bus_frame_set_status(struct bus_frame *f, int code, const struct error *err) {
    const struct error_kind *kind = error_kind(code);
    if (code == 0) return;
    f->status_code = kind->grpc_status;
    f->status_error = kind->code;
    f->status_message = span_str(err && err->code ? err->message : kind->name);
    f->status_param = err && err->code ? span_str(err->param) : SPAN("");
    /* An END that the other side refuses would leave a call open for ever. */
    if (!span_is_utf8(f->status_message)) f->status_message = span_str(kind->name);
    if (!span_is_utf8(f->status_param)) f->status_param = SPAN("");
    f->status_retriable = err && err->code ? err->retriable : kind->retriable;
}

/* ---- batches ---- */

static uint32_t read_u32(const char *at) {
    uint32_t v = 0;
    for (int i = 3; i >= 0; i--) v = v << 8 | (uint8_t)at[i];
    return v;
}

int bus_batch_next(struct span *rest, size_t payload_max, struct span *frame, struct span *payload) {
    if (rest->len == 0) return 0;
    if (rest->len < BUS_BATCH_HEAD) return E_INVALID;
    size_t frame_len = read_u32(rest->data), payload_len = read_u32(rest->data + 4), left = rest->len - BUS_BATCH_HEAD;
    if (frame_len > BUS_FRAME_MAX || payload_len > payload_max || frame_len > left || payload_len > left - frame_len) return E_INVALID;
    *frame = span_sub(*rest, BUS_BATCH_HEAD, frame_len);
    *payload = span_sub(*rest, BUS_BATCH_HEAD + frame_len, payload_len);
    *rest = span_skip(*rest, BUS_BATCH_HEAD + frame_len + payload_len);
    return 1;
}

void bus_batch_head(uint8_t head[BUS_BATCH_HEAD], size_t frame_len, size_t payload_len) {
    for (int i = 0; i < 4; i++) {
        head[i] = (uint8_t)(frame_len >> 8 * i);
        head[4 + i] = (uint8_t)(payload_len >> 8 * i);
    }
}
