#include "wire/unpack.h"

#include "base/alloc.h"

static void *take(void *data, size_t size) {
    size_t *left = data;
    if (size > *left) return NULL;
    void *memory = mem_alloc(size);
    if (memory) *left -= size;
    return memory;
}

static void give(void *data, void *pointer) {
    (void)data;
    mem_free(pointer);
}

ProtobufCMessage *message_unpack(const ProtobufCMessageDescriptor *type, struct span bytes) {
    size_t left;
    if (!size_mul(bytes.len, UNPACK_FACTOR, &left) || !size_add(left, UNPACK_BASE, &left) || left > UNPACK_MAX) left = UNPACK_MAX;
    ProtobufCAllocator budget = {take, give, &left};
    return protobuf_c_message_unpack(type, &budget, bytes.len, (const uint8_t *)(bytes.data ? bytes.data : ""));
}

void message_free(ProtobufCMessage *message) {
    size_t left = 0;
    ProtobufCAllocator budget = {take, give, &left};
    if (message) protobuf_c_message_free_unpacked(message, &budget);
}
