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

static bool has_zero(const ProtobufCMessage *m);

static bool field_has_zero(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f) {
    const char *base = (const char *)m, *at = base + f->offset, *quantifier = base + f->quantifier_offset;
    if (f->label != PROTOBUF_C_LABEL_REPEATED) {
        if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) && *(const uint32_t *)(const void *)quantifier != f->id) return false; /* the place is another one's */
        const ProtobufCMessage *one = *(const ProtobufCMessage *const *)(const void *)at;
        return one && has_zero(one);
    }
    const ProtobufCMessage *const *list = *(const ProtobufCMessage *const *const *)(const void *)at;
    for (size_t i = 0; i < *(const size_t *)(const void *)quantifier; i++)
        if (has_zero(list[i])) return true;
    return false;
}

/*
 * Whether there is a field of the number 0 in it, at any depth: that is no protobuf. protobuf-c refuses the tag "00" alone: written longer than it need be ("80 00") it is kept as a field that is not known, and
 * written again as "00". What we had taken and passed on, in an answer or a record, nobody could read. As deep as the type, like protobuf-c itself; no type of ours holds itself.
 */
static bool has_zero(const ProtobufCMessage *m) {
    for (unsigned i = 0; i < m->n_unknown_fields; i++)
        if (m->unknown_fields[i].tag == 0) return true;
    for (unsigned i = 0; i < m->descriptor->n_fields; i++)
        if (m->descriptor->fields[i].type == PROTOBUF_C_TYPE_MESSAGE && field_has_zero(m, &m->descriptor->fields[i])) return true;
    return false;
}

ProtobufCMessage *message_unpack(const ProtobufCMessageDescriptor *type, struct span bytes) {
    size_t left;
    if (!size_mul(bytes.len, UNPACK_FACTOR, &left) || !size_add(left, UNPACK_BASE, &left) || left > UNPACK_MAX) left = UNPACK_MAX;
    ProtobufCAllocator budget = {take, give, &left};
    ProtobufCMessage *m = protobuf_c_message_unpack(type, &budget, bytes.len, (const uint8_t *)(bytes.data ? bytes.data : ""));
    if (!m || !has_zero(m)) return m;
    message_free(m);
    return NULL;
}

void message_free(ProtobufCMessage *message) {
    size_t left = 0;
    ProtobufCAllocator budget = {take, give, &left};
    if (message) protobuf_c_message_free_unpacked(message, &budget);
}
