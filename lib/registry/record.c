#include "registry/record.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"
#include "wire/unpack.h"

_Static_assert(RECORD_SIGNATURE_SIZE == crypto_sign_BYTES, "Ed25519");
_Static_assert(RECORD_PUBLIC_SIZE == crypto_sign_PUBLICKEYBYTES, "Ed25519");
_Static_assert(RECORD_SECRET_SIZE == crypto_sign_SECRETKEYBYTES, "Ed25519");

enum { RECORD_BYTES_MAX = 1024 * 1024 }; /* above EVENT_VALUE_MAX: what fits a topic fits here */

static int read_exactly(const char *dir, const char *name, uint8_t *out, size_t size, struct error *err) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) return error_set(err, E_INVALID, "the path of %s is too long", name);
    struct buf b;
    buf_init(&b, 4096);
    int r = file_read(path, &b, err);
    if (r == 0 && b.len != size) r = error_set(err, E_DATA_LOSS, "%s holds %zu bytes where a key has %zu", path, b.len, size);
    if (r == 0) memcpy(out, b.data + b.start, size);
    if (b.data) sodium_memzero(b.data, b.capacity);
    buf_fini(&b);
    return r;
}

int registry_key_load(const char *dir, bool secret, struct registry_key *key, struct error *err) {
    if (sodium_init() < 0) return error_set(err, E_INTERNAL, "libsodium does not start");
    struct registry_key k = {0};
    int r = read_exactly(dir, "registry.pub", k.public_key, sizeof k.public_key, err);
    if (r == 0 && secret) {
        r = read_exactly(dir, "registry.key", k.secret_key, sizeof k.secret_key, err);
        uint8_t public_key[RECORD_PUBLIC_SIZE];
        if (r == 0 && (crypto_sign_ed25519_sk_to_pk(public_key, k.secret_key) != 0 || sodium_memcmp(public_key, k.public_key, sizeof public_key) != 0))
            r = error_set(err, E_DATA_LOSS, "registry.key and registry.pub in %s do not belong together", dir);
        k.can_sign = r == 0;
    }
    if (r == 0) *key = k;
    sodium_memzero(&k, sizeof k);
    return r;
}

int registry_key_make(const char *dir, struct error *err) {
    if (sodium_init() < 0) return error_set(err, E_INTERNAL, "libsodium does not start");
    char key_path[4096], pub_path[4096], mine[4096 + 64], id[ID_TEXT_MAX];
    if (snprintf(key_path, sizeof key_path, "%s/registry.key", dir) >= (int)sizeof key_path ||
        snprintf(pub_path, sizeof pub_path, "%s/registry.pub", dir) >= (int)sizeof pub_path)
        return error_set(err, E_INVALID, "the path of the keys is too long");
    int r = dir_make(dir, err);
    if (r != 0) return r;
    struct registry_key k = {0};
    if (!file_exists(key_path)) {
        if (file_exists(pub_path)) return error_set(err, E_STATE, "%s is there without registry.key: restore the key, or remove both to start a new registry", pub_path);
        crypto_sign_ed25519_keypair(k.public_key, k.secret_key);
        /* Whole under a name of our own, then linked: the first of two makers wins, and nobody ever sees half a key. */
        snprintf(mine, sizeof mine, "%s.%s", key_path, id_make(id));
        r = file_write_durable(mine, span_of(k.secret_key, sizeof k.secret_key), 0600, err);
        if (r == 0 && link(mine, key_path) != 0 && errno != EEXIST) r = error_errno(err, errno, "cannot make %s", key_path);
        unlink(mine);
        if (r == 0) r = dir_sync(dir, err);
    }
    /* The public half is a function of the secret one: written by whoever finds it missing, always the same. */
    if (r == 0 && !file_exists(pub_path)) {
        r = read_exactly(dir, "registry.key", k.secret_key, sizeof k.secret_key, err);
        if (r == 0 && crypto_sign_ed25519_sk_to_pk(k.public_key, k.secret_key) != 0) r = error_set(err, E_DATA_LOSS, "%s is no Ed25519 key", key_path);
        if (r == 0) r = file_write_durable(pub_path, span_of(k.public_key, sizeof k.public_key), 0644, err);
    }
    sodium_memzero(&k, sizeof k);
    return r;
}

void registry_key_from_seed(const uint8_t seed[32], struct registry_key *key) {
    ASSERT(sodium_init() >= 0);
    crypto_sign_ed25519_seed_keypair(key->public_key, key->secret_key, seed);
    key->can_sign = true;
}

int registry_key_publish(const char *dir, const struct registry_key *key, struct error *err) {
    char path[4096];
    uint8_t there[RECORD_PUBLIC_SIZE];
    if (snprintf(path, sizeof path, "%s/registry.pub", dir) >= (int)sizeof path) return error_set(err, E_INVALID, "the path of the keys is too long");
    int r = dir_make(dir, err);
    if (r != 0) return r;
    if (!file_exists(path)) return file_write_durable(path, span_of(key->public_key, sizeof key->public_key), 0644, err); /* two at once write the same */
    r = read_exactly(dir, "registry.pub", there, sizeof there, err);
    if (r == 0 && memcmp(there, key->public_key, sizeof there) != 0)
        r = error_set(err, E_STATE, "%s is the public half of another key than the one that is configured: nobody would believe what is signed with it", path);
    return r;
}

void registry_key_wipe(struct registry_key *key) {
    if (key) sodium_memzero(key, sizeof *key);
}

/* "NAME\0BYTES" */
static int signed_bytes(struct buf *b, const char *name, struct span bytes) {
    int r = buf_append(b, name, strlen(name) + 1);
    return r ? r : buf_append_span(b, bytes);
}

int record_sign_bytes(const struct registry_key *key, const char *name, struct span bytes, uint8_t signature[RECORD_SIGNATURE_SIZE], struct error *err) {
    if (!key->can_sign) return error_set(err, E_DENIED, "this process has no secret key of the registry");
    struct buf b;
    buf_init(&b, RECORD_BYTES_MAX);
    int r = signed_bytes(&b, name, bytes);
    if (r != 0)
        error_set(err, r, "cannot sign %s of %zu bytes", name, bytes.len);
    else
        crypto_sign_ed25519_detached(signature, NULL, (const uint8_t *)buf_span(&b).data, b.len, key->secret_key);
    buf_fini(&b);
    return r;
}

int record_verify_bytes(const uint8_t public_key[RECORD_PUBLIC_SIZE], const char *name, struct span bytes, struct span signature, struct error *err) {
    if (signature.len != RECORD_SIGNATURE_SIZE) return error_set(err, E_DENIED, "%s is not signed", name);
    struct buf b;
    buf_init(&b, RECORD_BYTES_MAX);
    int r = signed_bytes(&b, name, bytes);
    if (r != 0)
        error_set(err, r, "cannot check %s of %zu bytes", name, bytes.len);
    else if (crypto_sign_ed25519_verify_detached((const uint8_t *)signature.data, (const uint8_t *)buf_span(&b).data, b.len, public_key) != 0)
        r = error_set(err, E_DENIED, "the signature of this %s is not the registry's", name);
    buf_fini(&b);
    return r;
}

static ProtobufCBinaryData *signature_field(ProtobufCMessage *message) {
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(message->descriptor, "signature");
    if (!field || field->type != PROTOBUF_C_TYPE_BYTES || field->label == PROTOBUF_C_LABEL_REPEATED) return NULL;
    return (ProtobufCBinaryData *)(void *)((char *)message + field->offset);
}

/* The message packed with its signature empty. */
static int pack_unsigned(const ProtobufCMessage *message, struct buf *out, struct error *err) {
    /* A flat copy shares everything with the message but its signature. */
    ProtobufCMessage *flat = mem_alloc(message->descriptor->sizeof_message);
    if (!flat) return error_set(err, E_NOMEM, "no memory to pack %s", message->descriptor->name);
    memcpy(flat, message, message->descriptor->sizeof_message);
    ProtobufCBinaryData *field = signature_field(flat);
    int r = field ? 0 : error_set(err, E_INVALID, "%s is no signed record", message->descriptor->name);
    if (r == 0) {
        *field = (ProtobufCBinaryData){0, NULL};
        r = record_pack(flat, out);
        if (r != 0) error_set(err, r, "cannot pack %s", message->descriptor->name);
    }
    mem_free(flat);
    return r;
}

int record_sign(const struct registry_key *key, ProtobufCMessage *message, uint8_t signature[RECORD_SIGNATURE_SIZE], struct error *err) {
    struct buf b;
    buf_init(&b, RECORD_BYTES_MAX);
    int r = pack_unsigned(message, &b, err);
    if (r == 0) r = record_sign_bytes(key, message->descriptor->name, buf_span(&b), signature, err);
    if (r == 0) *signature_field(message) = (ProtobufCBinaryData){RECORD_SIGNATURE_SIZE, signature};
    buf_fini(&b);
    return r;
}

int record_verify(const uint8_t public_key[RECORD_PUBLIC_SIZE], const ProtobufCMessage *message, struct error *err) {
    ProtobufCMessage *m = (ProtobufCMessage *)(uintptr_t)message; /* only read */
    const ProtobufCBinaryData *field = signature_field(m);
    if (!field) return error_set(err, E_INVALID, "%s is no signed record", message->descriptor->name);
    struct buf b;
    buf_init(&b, RECORD_BYTES_MAX);
    struct span signature = span_of(field->data, field->len);
    int r = pack_unsigned(message, &b, err);
    if (r == 0) r = record_verify_bytes(public_key, message->descriptor->name, buf_span(&b), signature, err);
    buf_fini(&b);
    return r;
}

int record_pack(const ProtobufCMessage *message, struct buf *out) {
    size_t size = protobuf_c_message_get_packed_size(message);
    char *room = buf_reserve(out, size ? size : 1);
    if (!room) return out->failed ? out->failed : E_NOMEM;
    protobuf_c_message_pack(message, (uint8_t *)room);
    buf_commit(out, size);
    return 0;
}

ProtobufCMessage *record_unpack(const ProtobufCMessageDescriptor *type, struct span bytes) {
    if (bytes.len > RECORD_BYTES_MAX) return NULL;
    return message_unpack(type, bytes);
}

void record_free(ProtobufCMessage *message) {
    message_free(message);
}
