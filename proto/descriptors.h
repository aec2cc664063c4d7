/* A google.protobuf.FileDescriptorSet of every .proto here and of what they import, as protoc wrote it at build time. */
#ifndef GENLOOP_PROTO_DESCRIPTORS_H
#define GENLOOP_PROTO_DESCRIPTORS_H

#include <stddef.h>

extern const unsigned char genloop_descriptors[];
extern const size_t genloop_descriptors_size;

#endif
