/* Two walks: most messages have no U+0000, and those are only looked at. */
#include "wire/texts.h"

#include "wire/fields.h"

enum { DEPTH_MAX = 16 }; /* of message types; ours stop at five, and none of them recurses */

static const ProtobufCFieldDescriptor *field_of(const ProtobufCMessageDescriptor *type, const struct wire_field *f) {
    const ProtobufCFieldDescriptor *d = f->type == WIRE_BYTES ? protobuf_c_message_descriptor_get_field(type, f->number) : NULL;
    return d && (d->type == PROTOBUF_C_TYPE_STRING || d->type == PROTOBUF_C_TYPE_MESSAGE) ? d : NULL;
}

static int look(const ProtobufCMessageDescriptor *type, struct span packed, int depth, bool *nul, struct error *err) {
    struct wire_field f;
    int r;
    if (depth > DEPTH_MAX) return error_set(err, E_INVALID, "messages of %s are nested too deep", type->name);
    while ((r = wire_next(&packed, &f)) == 1) {
        const ProtobufCFieldDescriptor *d = field_of(type, &f);
        if (!d) continue;
        if (d->type == PROTOBUF_C_TYPE_MESSAGE) {
            if ((r = look(d->descriptor, f.bytes, depth + 1, nul, err)) < 0) return r;
        } else if (!span_is_utf8(f.bytes)) {
            return error_set_param(err, E_INVALID, d->name, "'%s' is not UTF-8", d->name);
        } else if (span_find_char(f.bytes, 0) >= 0) {
            *nul = true;
        }
    }
    return r < 0 ? error_set(err, E_INVALID, "the message is no %s", type->name) : 0;
}

static void put_text(struct buf *out, uint32_t number, struct span text) {
    size_t nuls = 0;
    ptrdiff_t at;
    for (size_t i = 0; i < text.len; i++) nuls += text.data[i] == 0;
    wire_put_varint(out, (uint64_t)number << 3 | WIRE_BYTES);
    wire_put_varint(out, text.len + 2 * nuls);
    for (; (at = span_find_char(text, 0)) >= 0; text = span_skip(text, (size_t)at + 1)) {
        (void)buf_append_span(out, span_sub(text, 0, (size_t)at));
        (void)buf_append_str(out, "\xef\xbf\xbd");
    }
    (void)buf_append_span(out, text);
}

static void change(const ProtobufCMessageDescriptor *type, struct span packed, struct buf *out) {
    struct wire_field f;
    while (wire_next(&packed, &f) == 1) {
        const ProtobufCFieldDescriptor *d = field_of(type, &f);
        if (!d) {
            (void)buf_append_span(out, f.whole);
        } else if (d->type == PROTOBUF_C_TYPE_STRING) {
            put_text(out, f.number, f.bytes);
        } else {
            struct buf inner;
            buf_init(&inner, out->cap);
            change(d->descriptor, f.bytes, &inner);
            wire_put_bytes(out, f.number, buf_span(&inner));
            if (inner.failed) out->failed = inner.failed;
            buf_fini(&inner);
        }
    }
}

int message_texts(const ProtobufCMessageDescriptor *type, struct span packed, struct buf *scratch, struct span *out, struct error *err) {
    bool nul = false;
    int r = look(type, packed, 0, &nul, err);
    if (r < 0) return r;
    if (!nul) {
        *out = packed;
        return 0;
    }
    buf_clear(scratch);
    change(type, packed, scratch);
    if (scratch->failed) return error_set(err, scratch->failed == E_FULL ? E_TOO_LARGE : scratch->failed, "the message is too large");
    *out = buf_span(scratch);
    return 0;
}
