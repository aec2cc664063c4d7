#include "wire/fields.h"

#include "base/error.h"

/* At most ten bytes, of which the last holds one bit. */
static int take_varint(struct span *rest, uint64_t *value) {
    uint64_t v = 0;
    for (size_t i = 0; i < rest->len && i < 10; i++) {
        uint8_t b = (uint8_t)rest->data[i];
        if (i == 9 && b > 1) return E_INVALID;
        v |= (uint64_t)(b & 0x7f) << (7 * i);
        if (b & 0x80) continue;
        *rest = span_skip(*rest, i + 1);
        *value = v;
        return 0;
    }
    return E_INVALID;
}

int wire_next(struct span *rest, struct wire_field *f) {
    struct span at = *rest;
    struct wire_field found = {0};
    uint64_t tag, len;
    if (at.len == 0) return 0;
    if (take_varint(&at, &tag) < 0 || tag > UINT32_MAX || tag >> 3 == 0) return E_INVALID;
    found.number = (uint32_t)(tag >> 3);
    switch (tag & 7) {
    case WIRE_VARINT:
        if (take_varint(&at, &found.value) < 0) return E_INVALID;
        found.type = WIRE_VARINT;
        break;
    case WIRE_BYTES:
        if (take_varint(&at, &len) < 0 || len > at.len) return E_INVALID;
        found.type = WIRE_BYTES;
        found.bytes = span_sub(at, 0, (size_t)len);
        break;
    case WIRE_64: case WIRE_32:
        found.type = (tag & 7) == WIRE_64 ? WIRE_64 : WIRE_32;
        len = found.type == WIRE_64 ? 8 : 4;
        if (len > at.len) return E_INVALID;
        found.bytes = span_sub(at, 0, (size_t)len);
        break;
    default: return E_INVALID;
    }
    at = span_skip(at, found.bytes.len);
    found.whole = span_sub(*rest, 0, rest->len - at.len);
    *f = found;
    *rest = at;
    return 1;
}

void wire_put_varint(struct buf *out, uint64_t value) {
    char bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        value >>= 7;
    } while (value);
    (void)buf_append(out, bytes, n);
}

void wire_put_uint(struct buf *out, uint32_t number, uint64_t value) {
    wire_put_varint(out, (uint64_t)number << 3 | WIRE_VARINT);
    wire_put_varint(out, value);
}

void wire_put_bytes(struct buf *out, uint32_t number, struct span bytes) {
    wire_put_varint(out, (uint64_t)number << 3 | WIRE_BYTES);
    wire_put_varint(out, bytes.len);
    (void)buf_append_span(out, bytes);
}
