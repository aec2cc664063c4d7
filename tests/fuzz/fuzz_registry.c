/*
 * The audit log and the registry's topics, from somebody who writes to them without the key (as it is) and as a key holder gone wrong (signed here): nothing is taken that does not
 * follow, a rejected version is never released, and a proof that was tampered with does not hold. The first byte says which.
 */
#include "base/alloc.h"
#include "registry/fold.h"
#include "registry/merkle.h"
#include "services/feedback/audit.h"
#include "services/feedback/ledger.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct registry_key key;

static void fold_pieces(struct span rest, bool sign) {
    struct fold *f = fold_new(key.public_key);
    ASSERT(f);
    bool rejected = false;
    while (rest.len > 2) { /* length, topic, message */
        size_t n = (unsigned char)rest.data[0];
        bool model = rest.data[1] & 1;
        struct span bytes = span_sub(rest, 2, n);
        rest = span_skip(rest, 2 + n);
        ProtobufCMessage *m = record_unpack(model ? &genloop__v1__model_version__descriptor : &genloop__v1__alias__descriptor, bytes);
        if (!m) continue;
        uint8_t signature[RECORD_SIGNATURE_SIZE];
        char full[MODEL_FULL_NAME_MAX] = "";
        struct buf packed;
        buf_init(&packed, 1 << 16);
        struct event e = {.topic = model ? TOPIC_MODELS : TOPIC_ALIASES};
        Genloop__V1__ModelVersion *v = (Genloop__V1__ModelVersion *)m;
        Genloop__V1__Alias *a = (Genloop__V1__Alias *)m;
        ProtobufCBinaryData *at = model ? &v->signature : &a->signature, own = *at;
        if (sign) ASSERT(record_sign(&key, m, signature, NULL) == 0);
        if (record_pack(m, &packed) == 0) {
            if (model && strlen(v->name) < MODEL_NAME_MAX) e.key = span_str(model_name_format(span_str(v->name), v->version, full));
            if (!model) e.key = span_str(a->alias);
            e.value = buf_span(&packed);
            enum fold_result result;
            struct error err = {0};
            int r = fold_event(f, &e, &result, &err);
            ASSERT(r == 0 || r == E_NOMEM || r == E_FULL);
            if (r == 0 && result == FOLD_DROPPED) ASSERT(err.message[0]);
            if (r == 0 && !sign) ASSERT(result != FOLD_CHANGED);
            const Genloop__V1__ModelVersion *m1 = fold_version(f, SPAN("m"), 1);
            if (rejected) ASSERT(m1 && m1->state == MODEL_STATE(REJECTED));
            rejected = m1 && m1->state == MODEL_STATE(REJECTED);
        }
        *at = own; /* what was unpacked is what is freed */
        record_free(m);
        buf_fini(&packed);
    }
    const Genloop__V1__ModelVersion *found;
    bool canary;
    if (fold_resolve(f, SPAN("production"), 7, &found, &canary, NULL) == 0) ASSERT(found);
    fold_free(f);
}

static int on_record(void *arg, enum topic topic, struct span packed) {
    ProtobufCMessage *m = record_unpack(fold_record_type(topic), packed);
    (void)arg;
    record_free(m);
    return 0;
}

static void audit(struct span bytes) {
    ProtobufCMessage *m = record_unpack(&genloop__v1__audit_record__descriptor, bytes);
    if (!m) return;
    Genloop__V1__AuditRecord *record = (Genloop__V1__AuditRecord *)m;
    struct arena arena;
    struct merkle tree;
    struct error err = {0};
    uint64_t epoch = 0;
    arena_init(&arena, 1 << 20);
    merkle_init(&tree);
    ASSERT(audit_follow(&tree, &epoch, key.public_key, record, &err) < 0 && err.message[0] && merkle_size(&tree) == 0);
    (void)audit_each_record(record, &arena, NULL, on_record, &err);
    struct ledger *l = ledger_new(key.public_key);
    ASSERT(l);
    /* Signed as it would be by the holder: it follows, or says why not. */
    uint8_t leaf[SHA256_SIZE], root[SHA256_SIZE], signature[RECORD_SIGNATURE_SIZE];
    ProtobufCBinaryData own[3] = {record->leaf_hash, record->root_hash, record->signature};
    if (audit_leaf(record, leaf, NULL) == 0) {
        merkle_root_with(&tree, leaf, root);
        ASSERT(audit_head_sign(&key, 1, root, record->event_time_ms, signature, NULL) == 0);
        record->leaf_hash = (ProtobufCBinaryData){sizeof leaf, leaf};
        record->root_hash = (ProtobufCBinaryData){sizeof root, root};
        record->signature = (ProtobufCBinaryData){sizeof signature, signature};
        enum ledger_result result = LEDGER_DROPPED;
        int r = ledger_take(l, record, &result, &err);
        if (r == 0) ASSERT((result == LEDGER_TAKEN) == (record->index == 0));
        record->leaf_hash = own[0];
        record->root_hash = own[1];
        record->signature = own[2];
    }
    ledger_free(l);
    merkle_fini(&tree);
    arena_fini(&arena);
    record_free(m);
}

static void proofs(struct span s) {
    struct merkle t;
    uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE], root[SHA256_SIZE], leaf[SHA256_SIZE], old[SHA256_SIZE];
    size_t n;
    merkle_init(&t);
    uint64_t leaves = (unsigned char)s.data[0] % 40 + 1, index = (unsigned char)s.data[1] % leaves, from = (unsigned char)s.data[2] % leaves + 1;
    for (uint64_t i = 0; i < leaves; i++) {
        merkle_leaf_hash(span_of(&i, sizeof i), leaf);
        ASSERT(merkle_append(&t, leaf) == 0);
    }
    ASSERT(merkle_root(&t, leaves, root) == 0 && merkle_leaf(&t, index, leaf) == 0 && merkle_root(&t, from, old) == 0);
    ASSERT(merkle_inclusion(&t, index, leaves, path, &n) == 0 && merkle_verify_inclusion(leaf, index, leaves, (const uint8_t (*)[SHA256_SIZE])path, n, root));
    struct span flips = span_skip(s, 3);
    for (size_t i = 0; i < flips.len && i < n; i++) {
        path[i][0] ^= (uint8_t)flips.data[i];
        if (flips.data[i]) {
            ASSERT(!merkle_verify_inclusion(leaf, index, leaves, (const uint8_t (*)[SHA256_SIZE])path, n, root));
            break;
        }
    }
    ASSERT(!n || !merkle_verify_inclusion(leaf, index, leaves, (const uint8_t (*)[SHA256_SIZE])path, n - 1, root));
    ASSERT(merkle_consistency(&t, from, leaves, path, &n) == 0 && merkle_verify_consistency(from, old, leaves, root, (const uint8_t (*)[SHA256_SIZE])path, n));
    if (flips.len && n && flips.data[0]) {
        path[n - 1][31] ^= (uint8_t)flips.data[0];
        ASSERT(!merkle_verify_consistency(from, old, leaves, root, (const uint8_t (*)[SHA256_SIZE])path, n));
    }
    /* proofs made of the input alone */
    size_t given = flips.len / SHA256_SIZE < MERKLE_PROOF_MAX ? flips.len / SHA256_SIZE : MERKLE_PROOF_MAX;
    if (given) memcpy(path, flips.data, given * SHA256_SIZE);
    (void)merkle_verify_inclusion(leaf, index, leaves, (const uint8_t (*)[SHA256_SIZE])path, given, root);
    (void)merkle_verify_consistency(from, old, leaves, root, (const uint8_t (*)[SHA256_SIZE])path, given);
    merkle_fini(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t seed[32] = {1};
    if (!key.can_sign) registry_key_from_seed(seed, &key);
    if (size < 4) return 0;
    struct span rest = span_of(data + 1, size - 1);
    switch (data[0] % 4) {
    case 0: fold_pieces(rest, false); break;
    case 1: fold_pieces(rest, true); break;
    case 2: audit(rest); break;
    default: proofs(rest);
    }
    return 0;
}
