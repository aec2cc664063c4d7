#include "registry/api_key.h"

#include <sodium.h>

#include "base/random.h"

_Static_assert(API_KEY_HASH_SIZE == crypto_generichash_BYTES, "BLAKE2b-256");
_Static_assert(API_KEY_SECRET_SIZE == crypto_generichash_KEYBYTES, "BLAKE2b's key");

#define PREFIX "glk_"
#define ID_PREFIX "key_"
enum { RANDOM_TEXT = 43 };

void platform_secret(const uint8_t bus_secret[32], const char *purpose, uint8_t secret[API_KEY_SECRET_SIZE]) {
    static const char context[] = "genloop platform secret v1: ";
    crypto_generichash_state state;
    ASSERT(sodium_init() >= 0);
    crypto_generichash_init(&state, bus_secret, 32, API_KEY_SECRET_SIZE);
    crypto_generichash_update(&state, (const uint8_t *)context, sizeof context - 1);
    crypto_generichash_update(&state, (const uint8_t *)purpose, strlen(purpose));
    crypto_generichash_final(&state, secret, API_KEY_SECRET_SIZE);
    sodium_memzero(&state, sizeof state);
}

void api_key_make(char text[API_KEY_TEXT_MAX], char id[API_KEY_ID_MAX]) {
    uint8_t name[API_KEY_NAME_SIZE / 2], bytes[API_KEY_RANDOM_SIZE];
    char hex[API_KEY_NAME_SIZE + 1], random[RANDOM_TEXT + 1];
    random_bytes(name, sizeof name);
    random_bytes(bytes, sizeof bytes);
    hex_encode(name, sizeof name, hex);
    sodium_bin2base64(random, sizeof random, bytes, sizeof bytes, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    (void)snprintf(text, API_KEY_TEXT_MAX, PREFIX "%s_%s", hex, random);
    (void)snprintf(id, API_KEY_ID_MAX, ID_PREFIX "%s", hex);
    sodium_memzero(bytes, sizeof bytes);
    sodium_memzero(random, sizeof random);
}

static bool is_name(struct span s) {
    if (s.len != API_KEY_NAME_SIZE) return false;
    for (size_t i = 0; i < s.len; i++)
        if (!((s.data[i] >= '0' && s.data[i] <= '9') || (s.data[i] >= 'a' && s.data[i] <= 'f'))) return false;
    return true;
}

int api_key_id(struct span text, char id[API_KEY_ID_MAX]) {
    if (text.len != API_KEY_TEXT_MAX - 1 || !span_starts(text, SPAN(PREFIX)) || text.data[4 + API_KEY_NAME_SIZE] != '_') return E_INVALID;
    struct span name = span_sub(text, 4, API_KEY_NAME_SIZE), random = span_skip(text, 4 + API_KEY_NAME_SIZE + 1);
    for (size_t i = 0; i < random.len; i++) {
        char c = random.data[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_')) return E_INVALID;
    }
    if (!is_name(name)) return E_INVALID;
    (void)snprintf(id, API_KEY_ID_MAX, ID_PREFIX "%.*s", SPAN_ARG(name));
    return 0;
}

bool api_key_id_valid(struct span id) { return span_starts(id, SPAN(ID_PREFIX)) && is_name(span_skip(id, 4)); }

void api_key_hash(const uint8_t secret[API_KEY_SECRET_SIZE], struct span text, uint8_t hash[API_KEY_HASH_SIZE]) {
    ASSERT(sodium_init() >= 0);
    crypto_generichash(hash, API_KEY_HASH_SIZE, (const uint8_t *)text.data, text.len, secret, API_KEY_SECRET_SIZE);
}

bool api_key_holds(const uint8_t secret[API_KEY_SECRET_SIZE], struct span text, struct span hash) {
    uint8_t mine[API_KEY_HASH_SIZE];
    api_key_hash(secret, text, mine);
    bool same = hash.len == API_KEY_HASH_SIZE && sodium_memcmp(mine, hash.data, API_KEY_HASH_SIZE) == 0;
    sodium_memzero(mine, sizeof mine);
    return same;
}
