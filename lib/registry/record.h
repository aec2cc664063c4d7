/*
 * Signed records of the registry: ModelVersion, Alias, ApiKey, Evaluation and Lease. Only services/feedback holds the secret half of the
 * registry's key; whoever reads the topics holds the public half and believes nothing else.
 *
 * A signature is Ed25519 over the message's full name ("genloop.v1.ModelVersion"), a NUL, and the message packed with its field
 * `signature` empty. None of these messages has a map, so packing is deterministic; the name in front keeps a signature of one kind
 * from being shown as one of another kind.
 *
 * The key lies in HOME/keys: registry.key (secret, raw 64 bytes, 0600) and registry.pub (raw 32 bytes). Plain data; thread-safe.
 */
#ifndef GENLOOP_REGISTRY_RECORD_H
#define GENLOOP_REGISTRY_RECORD_H

#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"

enum { RECORD_SIGNATURE_SIZE = 64, RECORD_PUBLIC_SIZE = 32, RECORD_SECRET_SIZE = 64 };

struct registry_key {
    uint8_t public_key[RECORD_PUBLIC_SIZE];
    uint8_t secret_key[RECORD_SECRET_SIZE]; /* zero where can_sign is false */
    bool can_sign;
};

/* Reads dir/registry.pub, and dir/registry.key where `secret`. E_NOT_FOUND where there is none; E_DATA_LOSS where the halves do not belong together. */
int registry_key_load(const char *dir, bool secret, struct registry_key *key, struct error *err);
/* Makes both files in dir (made where absent); fine where they exist. Two that make at once end with one pair: the first wins. */
int registry_key_make(const char *dir, struct error *err);
/* The pair that a seed gives: of tests, and of a platform whose secrets come from outside the home. */
void registry_key_from_seed(const uint8_t seed[32], struct registry_key *key);
/* Leaves the public half of a key in dir (made where absent), where the other services find it; fine where it lies there. E_STATE where another's does. */
int registry_key_publish(const char *dir, const struct registry_key *key, struct error *err);
void registry_key_wipe(struct registry_key *key);

/* Signs `message` (one of the five above): its field `signature` points to `signature` afterwards. E_DENIED without the secret half. */
int record_sign(const struct registry_key *key, ProtobufCMessage *message, uint8_t signature[RECORD_SIGNATURE_SIZE], struct error *err);
/* 0 where the signature holds; E_DENIED where it does not, E_INVALID for a message that has no such field. */
int record_verify(const uint8_t public_key[RECORD_PUBLIC_SIZE], const ProtobufCMessage *message, struct error *err);
/* Over plain bytes with a name in front, for what is no record (the signed heads of the audit tree). */
int record_sign_bytes(const struct registry_key *key, const char *name, struct span bytes, uint8_t signature[RECORD_SIGNATURE_SIZE], struct error *err);
int record_verify_bytes(const uint8_t public_key[RECORD_PUBLIC_SIZE], const char *name, struct span bytes, struct span signature, struct error *err);
/* Packs a message behind what is in out. */
int record_pack(const ProtobufCMessage *message, struct buf *out);
/* Unpacks; returns owned (record_free), NULL where the bytes are no such message. Memory comes through base/alloc.h. */
ProtobufCMessage *record_unpack(const ProtobufCMessageDescriptor *type, struct span bytes);
void record_free(ProtobufCMessage *message); /* NULL is accepted */

#endif
