/*
 * What a client sent in protobuf, before it goes to anybody: its strings are UTF-8, as proto3 says, and hold no U+0000, at which a C string would end: that becomes U+FFFD, as in prompts
 * that come as JSON. On the way every nested message is seen to be one. Plain functions: any thread.
 */
#ifndef GENLOOP_WIRE_TEXTS_H
#define GENLOOP_WIRE_TEXTS_H

#include <protobuf-c/protobuf-c.h>

#include "base/buf.h"
#include "base/error.h"

/* *out: the same bytes, or where something had to change scratch's. E_INVALID names the field; E_NOMEM; E_TOO_LARGE: it does not fit scratch. */
int message_texts(const ProtobufCMessageDescriptor *type, struct span packed, struct buf *scratch, struct span *out, struct error *err);

#endif
