/*
 * Packed protobuf, field by field, without knowing its type: a reader that walks over what a peer sent, and the few writers that small messages need which have no generated code.
 * Plain functions: any thread. Groups (wire types 3 and 4), which proto3 does not have, are refused.
 */
#ifndef GENLOOP_WIRE_FIELDS_H
#define GENLOOP_WIRE_FIELDS_H

#include "base/buf.h"

enum wire_type { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };
struct wire_field {
    uint32_t number;
    enum wire_type type;
    uint64_t value;     /* of WIRE_VARINT */
    struct span bytes;  /* of WIRE_BYTES; of WIRE_64 and WIRE_32 the eight or four */
    struct span whole;  /* with its tag */
};
/* Takes the next field off *rest: 1; 0 at the end; E_INVALID, *rest untouched. */
int wire_next(struct span *rest, struct wire_field *f);

/* Appending, as buf.h says: failures stay in out->failed. */
void wire_put_varint(struct buf *out, uint64_t value);
void wire_put_uint(struct buf *out, uint32_t number, uint64_t value);
void wire_put_bytes(struct buf *out, uint32_t number, struct span bytes);

#endif
