/*
 * Protobuf and JSON, both ways, for any message type, from protobuf-c's descriptors: proto3's JSON mapping with the field names as they stand in
 * the .proto (snake_case). Whole numbers are written as numbers and read as numbers or decimal strings; bytes are base64; an enum is its name (its number is
 * read too); maps are objects; NaN and infinities are the strings "NaN", "Infinity", "-Infinity". Message types do not recurse (our contracts
 * have none that do), so depth is bounded by the types and not by the input. Plain functions: any thread.
 */
#ifndef GENLOOP_WIRE_PROTOJSON_H
#define GENLOOP_WIRE_PROTOJSON_H

#include <protobuf-c/protobuf-c.h>

#include "base/json.h"

enum { PROTOJSON_DEPTH_MAX = 16 };                 /* nesting of message types; ours stop at five */
enum { PROTOJSON_BYTES_MAX = 16 * 1024 * 1024 };   /* of one message, as on the bus */

/* JSON object → packed bytes of the type, appended to out. E_INVALID with the path of the value at fault in err->param ("messages.0.content"): unknown names, wrong types,
 * numbers out of range, U+0000 in a string (a C string would end there). null is absence. E_TOO_LARGE. */
int protojson_pack(const struct json *value, const ProtobufCMessageDescriptor *type, struct buf *out, struct error *err);
/* The same, unpacked. Returns owned in *message: protojson_free. */
int protojson_read(const struct json *value, const ProtobufCMessageDescriptor *type, ProtobufCMessage **message, struct error *err);
void protojson_free(ProtobufCMessage *message); /* NULL is accepted */

/* A message as a JSON object. defaults: also fields that have their default (scalars, empty lists and maps); an absent message or oneof is left out always. */
void protojson_write(struct json_out *out, const ProtobufCMessage *message, bool defaults);
/* From packed bytes. E_INVALID where they are no such message. */
int protojson_write_packed(struct json_out *out, const ProtobufCMessageDescriptor *type, struct span bytes, bool defaults, struct error *err);

/* RFC 4648 with padding; reading takes the URL-safe alphabet and missing padding too. */
int base64_encode(struct buf *out, struct span bytes);
int base64_decode(struct buf *out, struct span text); /* E_INVALID */

#endif
