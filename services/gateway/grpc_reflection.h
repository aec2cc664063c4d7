/*
 * Server reflection over a FileDescriptorSet (proto/descriptors.h): which services there are, and the descriptor file that holds a name, with all that it imports. Pure: bytes in, bytes
 * out. v1 and v1alpha are the same on the wire.
 */
#ifndef GATEWAY_GRPC_REFLECTION_H
#define GATEWAY_GRPC_REFLECTION_H

#include "base/buf.h"
#include "base/error.h"

struct reflection;

/* set: borrowed for as long. NULL where it is no FileDescriptorSet, or without memory. */
struct reflection *reflection_new(struct span set);
void reflection_free(struct reflection *r);
/* A packed ServerReflectionRequest; appends the packed ServerReflectionResponse. What is not found is an answer too. E_INVALID: it is no request. */
int reflection_answer(const struct reflection *r, struct span request, struct buf *out, struct error *err);

bool reflection_has_service(const struct reflection *r, struct span name); /* "genloop.v1.Generation" */
/* Every method, one by one; false behind the last. */
struct reflection_method {
    struct span service, name;
    struct span input, output; /* ".genloop.v1.GenerateRequest" */
    bool client_stream, server_stream;
};
bool reflection_method_at(const struct reflection *r, size_t i, struct reflection_method *m);

#endif
