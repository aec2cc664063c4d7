/*
 * Unpacking what a peer, a topic or Redis gave, within a budget: two bytes of a message can say "here is another one" and cost a hundred bytes of memory, so that 16 MiB could
 * become a gigabyte. A message that needs more than the budget is taken for no message.
 *
 * The budget: a message of many small parts needs up to 50 times its size (40 to 80 bytes for each field while it is read, a pointer and a struct for each part), so 64 times and
 * 64 KiB are room for every honest one; above 256 MiB nothing is honest: the largest that the bus carries has 16 MiB, of which texts and numbers take as much again.
 * Plain functions: any thread.
 */
#ifndef GENLOOP_WIRE_UNPACK_H
#define GENLOOP_WIRE_UNPACK_H

#include <protobuf-c/protobuf-c.h>

#include "base/span.h"

enum { UNPACK_FACTOR = 64, UNPACK_BASE = 64 * 1024, UNPACK_MAX = 256 * 1024 * 1024 };

/* Returns owned, NULL where the bytes are no such message (a field of the number 0 is none's), where it passes the budget, or without memory. Freed by message_free, or by the type's own free_unpacked(m, NULL). */
ProtobufCMessage *message_unpack(const ProtobufCMessageDescriptor *type, struct span bytes);
void message_free(ProtobufCMessage *message); /* NULL is accepted */
/* The same, typed: MESSAGE_UNPACK(Job, job, bytes). */
#define MESSAGE_UNPACK(Type, name, bytes) ((Genloop__V1__##Type *)message_unpack(&genloop__v1__##name##__descriptor, bytes))

#endif
