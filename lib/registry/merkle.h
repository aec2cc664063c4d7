/*
 * The audit tree: an append-only Merkle tree as RFC 6962 (section 2.1) has it, over SHA-256.
 *
 *   leaf  SHA-256(0x00 || record)      node  SHA-256(0x01 || left || right)      root of no leaves  SHA-256("")
 *
 * The leaf of an AuditRecord is the record packed with leaf_hash, root_hash and signature empty and its details sorted by key (audit_leaf).
 * A signed head is Ed25519 (record_sign_bytes, name AUDIT_HEAD_NAME) over the tree size, the root and the time, big-endian.
 * The tree is built from leaf hashes in memory (32 bytes a leaf, up to MERKLE_LEAVES_MAX); appending is amortised O(1), a root or a proof O(log n).
 * `genloop audit verify` uses exactly this. Plain data, one thread at a time.
 */
#ifndef GENLOOP_REGISTRY_MERKLE_H
#define GENLOOP_REGISTRY_MERKLE_H

#include <stdint.h>

#include "base/error.h"
#include "base/sha256.h"
#include "base/span.h"
#include "genloop/v1/governance.pb-c.h"
#include "registry/record.h"

enum { MERKLE_LEVELS_MAX = 33, MERKLE_PROOF_MAX = 64 }; /* a proof has at most ceil(log2 n) + 1 hashes */
#define MERKLE_LEAVES_MAX (UINT64_C(1) << 32)
#define AUDIT_HEAD_NAME "genloop.v1.AuditHead"

struct merkle {
    /* levels[k]: hashes of the complete subtrees of 2^k leaves, in order */
    struct merkle_level {
        uint8_t (*hashes)[SHA256_SIZE];
        size_t count, capacity;
    } levels[MERKLE_LEVELS_MAX];
};

void merkle_init(struct merkle *t);
void merkle_fini(struct merkle *t);
uint64_t merkle_size(const struct merkle *t);
int merkle_append(struct merkle *t, const uint8_t leaf_hash[SHA256_SIZE]); /* E_NOMEM leaves it as it was; E_FULL */
void merkle_leaf_hash(struct span record, uint8_t hash[SHA256_SIZE]);
void merkle_node_hash(const uint8_t left[SHA256_SIZE], const uint8_t right[SHA256_SIZE], uint8_t hash[SHA256_SIZE]);
/* Root of the first `size` leaves; E_RANGE beyond the tree. */
int merkle_root(const struct merkle *t, uint64_t size, uint8_t root[SHA256_SIZE]);
/* Root of the tree that it would be with one more leaf. */
void merkle_root_with(const struct merkle *t, const uint8_t leaf_hash[SHA256_SIZE], uint8_t root[SHA256_SIZE]);
/* The hash of a leaf that is in it. E_RANGE. */
int merkle_leaf(const struct merkle *t, uint64_t index, uint8_t hash[SHA256_SIZE]);
/* Proof that leaf `index` is in the tree of `size` leaves. E_RANGE. */
int merkle_inclusion(const struct merkle *t, uint64_t index, uint64_t size, uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE], size_t *n);
/* Proof that the tree of `to` leaves goes on from that of `from` (0 < from ≤ to). E_RANGE. */
int merkle_consistency(const struct merkle *t, uint64_t from, uint64_t to, uint8_t path[MERKLE_PROOF_MAX][SHA256_SIZE], size_t *n);
/* The verifiers need no tree (RFC 9162, 2.1.3.2 and 2.1.4.2). */
bool merkle_verify_inclusion(const uint8_t leaf_hash[SHA256_SIZE], uint64_t index, uint64_t size, const uint8_t (*path)[SHA256_SIZE], size_t n,
                             const uint8_t root[SHA256_SIZE]);
bool merkle_verify_consistency(uint64_t from, const uint8_t from_root[SHA256_SIZE], uint64_t to, const uint8_t to_root[SHA256_SIZE],
                               const uint8_t (*path)[SHA256_SIZE], size_t n);

/* The leaf hash of a record, as it is (leaf_hash, root_hash and signature in it are ignored). E_INVALID where its details are not sorted by key. */
int audit_leaf(const Genloop__V1__AuditRecord *record, uint8_t hash[SHA256_SIZE], struct error *err);
/* Signs the head (size, root, time); and checks one. E_DENIED where it does not hold. */
int audit_head_sign(const struct registry_key *key, uint64_t size, const uint8_t root[SHA256_SIZE], int64_t time_ms,
                    uint8_t signature[RECORD_SIGNATURE_SIZE], struct error *err);
int audit_head_verify(const uint8_t public_key[RECORD_PUBLIC_SIZE], uint64_t size, const uint8_t root[SHA256_SIZE], int64_t time_ms,
                      struct span signature, struct error *err);
/* Takes the next record of the log into the tree after checking all that it claims: index, leaf hash, root with it in the tree, the signed
 * head over index + 1, and an epoch not below `*epoch` (raised to it). E_DATA_LOSS or E_DENIED name what does not hold; the tree is untouched then. */
int audit_follow(struct merkle *t, uint64_t *epoch, const uint8_t public_key[RECORD_PUBLIC_SIZE], const Genloop__V1__AuditRecord *record, struct error *err);

#endif
