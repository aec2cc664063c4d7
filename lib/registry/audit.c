/* Records and heads of the audit tree: see merkle.h. */
#include <string.h>

#include "base/buf.h"
#include "registry/merkle.h"

enum { AUDIT_RECORD_MAX = 1024 * 1024 };

int audit_leaf(const Genloop__V1__AuditRecord *record, uint8_t hash[SHA256_SIZE], struct error *err) {
    for (size_t i = 1; i < record->n_details; i++)
        if (strcmp(record->details[i - 1]->key, record->details[i]->key) >= 0)
            return error_set(err, E_INVALID, "the details of audit record %s are not sorted by key", record->id);
    Genloop__V1__AuditRecord flat = *record;
    flat.leaf_hash = flat.root_hash = flat.signature = (ProtobufCBinaryData){0, NULL};
    struct buf b;
    buf_init(&b, AUDIT_RECORD_MAX);
    int r = record_pack(&flat.base, &b);
    if (r != 0)
        error_set(err, r, "cannot pack audit record %s", record->id);
    else
        merkle_leaf_hash(buf_span(&b), hash);
    buf_fini(&b);
    return r;
}

static void put_u64(uint8_t *out, uint64_t v) {
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)(v >> (56 - 8 * i));
}

enum { HEAD_SIZE = 8 + SHA256_SIZE + 8 };
static void head_bytes(uint64_t size, const uint8_t root[SHA256_SIZE], int64_t time_ms, uint8_t out[HEAD_SIZE]) {
    put_u64(out, size);
    memcpy(out + 8, root, SHA256_SIZE);
    put_u64(out + 8 + SHA256_SIZE, (uint64_t)time_ms);
}

int audit_head_sign(const struct registry_key *key, uint64_t size, const uint8_t root[SHA256_SIZE], int64_t time_ms,
                    uint8_t signature[RECORD_SIGNATURE_SIZE], struct error *err) {
    uint8_t head[HEAD_SIZE];
    head_bytes(size, root, time_ms, head);
    return record_sign_bytes(key, AUDIT_HEAD_NAME, span_of(head, sizeof head), signature, err);
}

int audit_head_verify(const uint8_t public_key[RECORD_PUBLIC_SIZE], uint64_t size, const uint8_t root[SHA256_SIZE], int64_t time_ms,
                      struct span signature, struct error *err) {
    uint8_t head[HEAD_SIZE];
    head_bytes(size, root, time_ms, head);
    return record_verify_bytes(public_key, AUDIT_HEAD_NAME, span_of(head, sizeof head), signature, err);
}

static bool is_hash(const ProtobufCBinaryData *b, const uint8_t hash[SHA256_SIZE]) { return b->len == SHA256_SIZE && memcmp(b->data, hash, SHA256_SIZE) == 0; }

int audit_follow(struct merkle *t, uint64_t *epoch, const uint8_t public_key[RECORD_PUBLIC_SIZE], const Genloop__V1__AuditRecord *record, struct error *err) {
    uint64_t size = merkle_size(t);
    unsigned long long index = record->index;
    if (record->epoch < *epoch)
        return error_set(err, E_ABORTED, "audit record %llu was written under epoch %llu, below %llu: by a former holder of the lease", index,
                         (unsigned long long)record->epoch, (unsigned long long)*epoch);
    if (record->index != size) return error_set(err, E_DATA_LOSS, "audit record %llu stands where record %llu belongs", index, (unsigned long long)size);
    uint8_t leaf[SHA256_SIZE], root[SHA256_SIZE];
    int r = audit_leaf(record, leaf, err);
    if (r != 0) return r;
    if (!is_hash(&record->leaf_hash, leaf)) return error_set(err, E_DATA_LOSS, "audit record %llu is not what its leaf hash says", index);
    merkle_root_with(t, leaf, root);
    if (!is_hash(&record->root_hash, root)) return error_set(err, E_DATA_LOSS, "the root of audit record %llu does not follow from the records before it", index);
    r = audit_head_verify(public_key, size + 1, root, record->event_time_ms, span_of(record->signature.data, record->signature.len), err);
    if (r != 0) return r;
    r = merkle_append(t, leaf);
    if (r != 0) return error_set(err, r, "the audit tree cannot take record %llu", index);
    *epoch = record->epoch;
    return 0;
}
