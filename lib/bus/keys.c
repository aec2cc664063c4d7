/* Keys are files of hex digits. bus.key alone decides; bus.pub is derived from it, for those who only need to know whom to admit. */
#include <errno.h>
#include <sodium.h>
#include <unistd.h>

#include "base/file.h"
#include "base/random.h"
#include "bus/bus.h"

enum { KEY_PATH_MAX = 4096, KEY_FILE_MAX = 128 };

static int key_path(const char *dir, const char *name, char path[KEY_PATH_MAX], struct error *err) {
    return snprintf(path, KEY_PATH_MAX, "%s/%s", dir, name) < KEY_PATH_MAX ? 0 : error_set(err, E_INVALID, "the path %s is too long", dir);
}

int bus_keys_from_hex(struct span hex, struct bus_keys *keys) {
    struct bus_keys k;
    bool good = hex.len == 64 && hex_decode(hex, k.secret_key) >= 0 && crypto_scalarmult_base(k.public_key, k.secret_key) >= 0;
    if (good) *keys = k;
    sodium_memzero(&k, sizeof k);
    return good ? 0 : E_INVALID;
}

int bus_keys_load(const char *dir, struct bus_keys *keys, struct error *err) {
    char path[KEY_PATH_MAX];
    struct buf text;
    int r = key_path(dir, "bus.key", path, err);
    if (r < 0) return r;
    buf_init(&text, KEY_FILE_MAX);
    if ((r = file_read(path, &text, err)) == 0) {
        if (bus_keys_from_hex(span_trim(buf_span(&text)), keys) < 0) r = error_set(err, E_DATA_LOSS, "%s is not a key of 64 hex digits", path);
    }
    if (text.data) sodium_memzero(text.data, text.capacity);
    buf_fini(&text);
    return r;
}

static int write_hex(const char *path, const uint8_t key[32], int mode, struct error *err) {
    char hex[66];
    hex_encode(key, 32, hex);
    hex[64] = '\n';
    int r = file_write_durable(path, span_of(hex, 65), mode, err);
    sodium_memzero(hex, sizeof hex);
    return r;
}

int bus_keys_make(const char *dir, struct error *err) {
    char path[KEY_PATH_MAX], temporary[KEY_PATH_MAX], name[ID_TEXT_MAX + 8], id[ID_TEXT_MAX];
    struct bus_keys keys;
    int r;
    if (sodium_init() < 0) return error_set(err, E_INTERNAL, "libsodium does not initialise");
    if ((r = dir_make(dir, err)) < 0 || (r = key_path(dir, "bus.key", path, err)) < 0) return r;
    if (!file_exists(path)) {
        /* Several processes may set up at once: link() lets one win. */
        (void)snprintf(name, sizeof name, "bus.%s", id_make(id));
        if ((r = key_path(dir, name, temporary, err)) < 0) return r;
        (void)crypto_box_keypair(keys.public_key, keys.secret_key);
        r = write_hex(temporary, keys.secret_key, 0600, err);
        sodium_memzero(&keys, sizeof keys);
        if (r < 0) return r;
        if (link(temporary, path) < 0 && errno != EEXIST) r = error_errno(err, errno, "cannot make the key %s", path);
        (void)unlink(temporary);
        if (r < 0 || (r = dir_sync(dir, err)) < 0) return r;
    }
    if ((r = bus_keys_load(dir, &keys, err)) < 0) return r;
    sodium_memzero(keys.secret_key, sizeof keys.secret_key);
    if ((r = key_path(dir, "bus.pub", path, err)) < 0) return r;
    return file_exists(path) ? 0 : write_hex(path, keys.public_key, 0644, err);
}
