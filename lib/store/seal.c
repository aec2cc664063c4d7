/*
 * A sealed object is  "GLS1" | nonce (24) | XChaCha20-Poly1305 ciphertext and tag, with the format's name and the key's id as associated
 * data, so that a sealed object cannot be passed off as another subject's. Keys are read from their file at each use and kept nowhere: an
 * erasure by another process holds at once, and the file is in the page cache anyway.
 *
 * Erasure and first use may race between processes. The eraser writes the tombstone (durably) before it unlinks the key; the maker links the
 * key into place and then looks for a tombstone again. In every order either the maker sees the tombstone or the eraser sees the key.
 */
#include "store/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"

enum { KEY_BYTES = crypto_aead_xchacha20poly1305_ietf_KEYBYTES, NONCE_BYTES = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
       TAG_BYTES = crypto_aead_xchacha20poly1305_ietf_ABYTES, MAGIC_BYTES = 4, KEYRING_PATH_MAX = 4096 };
static const char MAGIC[MAGIC_BYTES + 1] = "GLS1";

struct keyring {
    char *dir;
    uint8_t secret[KEY_BYTES]; /* of the keyed hash that makes ids of subjects */
};

static int path_of(const struct keyring *k, const char *id, const char *suffix, char path[KEYRING_PATH_MAX], struct error *err) {
    int n = snprintf(path, KEYRING_PATH_MAX, "%s/%s%s", k->dir, id, suffix);
    return n < KEYRING_PATH_MAX ? 0 : error_set(err, E_INVALID, "the path of the keyring %s is too long", k->dir);
}

static int check_id(const char *id, struct error *err) {
    size_t n = 0;
    while (n < SEAL_KEY_ID_MAX && ((id[n] >= '0' && id[n] <= '9') || (id[n] >= 'a' && id[n] <= 'f'))) n++;
    if (n != SEAL_KEY_ID_MAX - 1 || id[n] != 0) return error_set(err, E_INVALID, "not the id of a sealing key: it has 64 lower-case hex digits");
    return 0;
}

/* A key is exactly KEY_BYTES long: a file of another length is damage. */
static int read_key(const char *path, uint8_t key[KEY_BYTES], struct error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;
    if (fd < 0) return error_errno(err, errno, "cannot open the key %s", path);
    uint8_t bytes[KEY_BYTES + 1];
    size_t got = 0;
    while (got < sizeof bytes) {
        ssize_t n = read(fd, bytes + got, sizeof bytes - got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            r = error_errno(err, errno, "cannot read the key %s", path);
            goto out;
        }
        if (n == 0) break;
        got += (size_t)n;
    }
    if (got != KEY_BYTES) r = error_set(err, E_DATA_LOSS, "the key %s has %s %d bytes", path, got < KEY_BYTES ? "fewer than" : "more than", KEY_BYTES);
    else memcpy(key, bytes, KEY_BYTES);
out:
    sodium_memzero(bytes, sizeof bytes);
    (void)close(fd);
    return r;
}

/* Makes a random key at path unless one is there: link() lets exactly one maker win, and everybody reads the winner's. */
static int make_key(const struct keyring *k, const char *path, uint8_t key[KEY_BYTES], struct error *err) {
    char temporary[KEYRING_PATH_MAX], name[ID_TEXT_MAX];
    uint8_t fresh[KEY_BYTES];
    int r = path_of(k, id_make(name), ".tmp", temporary, err);
    if (r < 0) return r;
    random_bytes(fresh, sizeof fresh);
    r = file_write_durable(temporary, span_of(fresh, sizeof fresh), 0600, err);
    sodium_memzero(fresh, sizeof fresh);
    if (r < 0) return r;
    if (link(temporary, path) < 0 && errno != EEXIST) r = error_errno(err, errno, "cannot make the key %s", path);
    (void)unlink(temporary);
    if (r == 0) r = dir_sync(k->dir, err);
    if (r == 0) r = read_key(path, key, err);
    return r;
}

int keyring_open(const char *dir, struct keyring **out, struct error *err) {
    char path[KEYRING_PATH_MAX];
    int r;
    if (sodium_init() < 0) return error_set(err, E_INTERNAL, "libsodium does not initialise");
    struct keyring *k = mem_zalloc(sizeof *k);
    if (!k || !(k->dir = mem_strdup(dir))) {
        r = error_set(err, E_NOMEM, "no memory for the keyring %s", dir);
        goto out;
    }
    if ((r = dir_make(dir, err)) < 0) goto out;
    if (chmod(dir, 0700) < 0) {
        r = error_errno(err, errno, "cannot protect the keyring %s", dir);
        goto out;
    }
    if ((r = path_of(k, "subjects", ".secret", path, err)) < 0) goto out;
    r = file_exists(path) ? read_key(path, k->secret, err) : make_key(k, path, k->secret, err);
    if (r < 0) goto out;
    *out = k;
    k = NULL;
out:
    keyring_close(k);
    return r;
}

void keyring_close(struct keyring *k) {
    if (!k) return;
    sodium_memzero(k->secret, sizeof k->secret);
    mem_free(k->dir);
    mem_free(k);
}

void keyring_subject_id(struct keyring *k, struct span tenant, struct span subject, char id[SEAL_KEY_ID_MAX]) {
    /* The tenant's length goes first, so that no two pairs run together into the same bytes. */
    crypto_generichash_state state;
    uint8_t hash[32], length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)tenant.len >> (8 * i));
    ASSERT(crypto_generichash_init(&state, k->secret, sizeof k->secret, sizeof hash) == 0);
    (void)crypto_generichash_update(&state, length, sizeof length);
    if (tenant.len) (void)crypto_generichash_update(&state, (const uint8_t *)tenant.data, tenant.len);
    if (subject.len) (void)crypto_generichash_update(&state, (const uint8_t *)subject.data, subject.len);
    (void)crypto_generichash_final(&state, hash, sizeof hash);
    hex_encode(hash, sizeof hash, id);
}

static int tombstone_check(struct keyring *k, const char *id, struct error *err) {
    char path[KEYRING_PATH_MAX];
    int r = path_of(k, id, ".erased", path, err);
    if (r < 0) return r;
    return file_exists(path) ? error_set(err, E_NOT_FOUND, "the sealing key %.12s… has been erased", id) : 0;
}

/* The key of id, made where it has never been. */
static int key_for_seal(struct keyring *k, const char *id, uint8_t key[KEY_BYTES], struct error *err) {
    char path[KEYRING_PATH_MAX];
    int r = tombstone_check(k, id, err);
    if (r < 0 || (r = path_of(k, id, ".key", path, err)) < 0) return r;
    if (file_exists(path)) return read_key(path, key, err);
    if ((r = make_key(k, path, key, err)) < 0) return r;
    if ((r = tombstone_check(k, id, err)) < 0) {
        sodium_memzero(key, KEY_BYTES);
        (void)unlink(path);
        (void)dir_sync(k->dir, NULL);
    }
    return r;
}

static size_t associated(const char *id, uint8_t data[MAGIC_BYTES + SEAL_KEY_ID_MAX]) {
    memcpy(data, MAGIC, MAGIC_BYTES);
    memcpy(data + MAGIC_BYTES, id, SEAL_KEY_ID_MAX - 1);
    return MAGIC_BYTES + SEAL_KEY_ID_MAX - 1;
}

int keyring_seal(struct keyring *k, const char *id, struct span plain, struct buf *sealed, struct error *err) {
    uint8_t key[KEY_BYTES], extra[MAGIC_BYTES + SEAL_KEY_ID_MAX];
    unsigned long long written = 0;
    size_t total;
    int r = check_id(id, err);
    if (r < 0) return r;
    if (!size_add(plain.len, MAGIC_BYTES + NONCE_BYTES + TAG_BYTES, &total)) return error_set(err, E_TOO_LARGE, "too large to seal");
    if ((r = key_for_seal(k, id, key, err)) < 0) return r;
    uint8_t *at = (uint8_t *)buf_reserve(sealed, total);
    if (!at) {
        r = error_set(err, buf_room(sealed) < total ? E_FULL : E_NOMEM, "no room for %zu sealed bytes", total);
        goto out;
    }
    memcpy(at, MAGIC, MAGIC_BYTES);
    random_bytes(at + MAGIC_BYTES, NONCE_BYTES);
    (void)crypto_aead_xchacha20poly1305_ietf_encrypt(at + MAGIC_BYTES + NONCE_BYTES, &written, (const uint8_t *)plain.data, plain.len, extra,
                                                     associated(id, extra), NULL, at + MAGIC_BYTES, key);
    ASSERT(written == plain.len + TAG_BYTES);
    buf_commit(sealed, total);
out:
    sodium_memzero(key, sizeof key);
    return r;
}

int keyring_open_sealed(struct keyring *k, const char *id, struct span sealed, struct buf *plain, struct error *err) {
    char path[KEYRING_PATH_MAX];
    uint8_t key[KEY_BYTES], extra[MAGIC_BYTES + SEAL_KEY_ID_MAX];
    unsigned long long written = 0;
    int r = check_id(id, err);
    if (r < 0 || (r = tombstone_check(k, id, err)) < 0 || (r = path_of(k, id, ".key", path, err)) < 0) return r;
    if ((r = read_key(path, key, err)) < 0) return r;
    const uint8_t *at = (const uint8_t *)sealed.data;
    if (sealed.len < MAGIC_BYTES + NONCE_BYTES + TAG_BYTES || memcmp(at, MAGIC, MAGIC_BYTES) != 0) {
        r = error_set(err, E_DATA_LOSS, "not a sealed object");
        goto out;
    }
    size_t len = sealed.len - MAGIC_BYTES - NONCE_BYTES - TAG_BYTES;
    uint8_t *to = (uint8_t *)buf_reserve(plain, len ? len : 1);
    if (!to) {
        r = error_set(err, buf_room(plain) < len ? E_FULL : E_NOMEM, "no room for %zu opened bytes", len);
        goto out;
    }
    if (crypto_aead_xchacha20poly1305_ietf_decrypt(to, &written, NULL, at + MAGIC_BYTES + NONCE_BYTES, len + TAG_BYTES, extra, associated(id, extra),
                                                   at + MAGIC_BYTES, key) != 0) {
        r = error_set(err, E_DATA_LOSS, "a sealed object does not open with the key %.12s…: its bytes are not what was sealed", id);
        goto out;
    }
    buf_commit(plain, (size_t)written);
out:
    sodium_memzero(key, sizeof key);
    return r;
}

bool keyring_has(struct keyring *k, const char *id) {
    char path[KEYRING_PATH_MAX];
    return check_id(id, NULL) == 0 && path_of(k, id, ".key", path, NULL) == 0 && file_exists(path) && tombstone_check(k, id, NULL) == 0;
}

int keyring_erase(struct keyring *k, const char *id, struct error *err) {
    char path[KEYRING_PATH_MAX];
    int r = check_id(id, err);
    if (r < 0 || (r = path_of(k, id, ".erased", path, err)) < 0) return r;
    if (!file_exists(path) && (r = file_write_durable(path, SPAN("erased\n"), 0600, err)) < 0) return r;
    if ((r = path_of(k, id, ".key", path, err)) < 0) return r;
    if (unlink(path) < 0 && errno != ENOENT) return error_errno(err, errno, "cannot erase the key %s", path);
    return dir_sync(k->dir, err);
}
