/*
 * Keys of the API: their text, and what is kept of it. A key is
 *
 *     glk_0123456789abcdef_Zm9v…        "glk_", 16 hex digits that name it, "_", 32 random bytes in URL-safe base64 (43 characters)
 *
 * and its id is key_0123456789abcdef. Kept is BLAKE2b-256 of the whole text, keyed with a secret of the platform, so that who reads the topic can neither use a key nor try
 * keys; compared in constant time. The secret is derived from the bus' secret key, which every service of a platform has: there is no further file to share, and who changes
 * bus.key makes every key void. Plain functions; thread-safe after the first.
 */
#ifndef GENLOOP_REGISTRY_API_KEY_H
#define GENLOOP_REGISTRY_API_KEY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

enum {
    API_KEY_NAME_SIZE = 16,      /* hex digits */
    API_KEY_RANDOM_SIZE = 32,    /* bytes: nothing that can be tried out */
    API_KEY_ID_MAX = 4 + API_KEY_NAME_SIZE + 1,
    API_KEY_TEXT_MAX = 4 + API_KEY_NAME_SIZE + 1 + 43 + 1,
    API_KEY_HASH_SIZE = 32,
    API_KEY_SECRET_SIZE = 32,
};

/* The platform's secret for `purpose` ("api-keys", …) from the bus' secret key. */
void platform_secret(const uint8_t bus_secret[32], const char *purpose, uint8_t secret[API_KEY_SECRET_SIZE]);
/* A new key: its text and its id, both terminated. */
void api_key_make(char text[API_KEY_TEXT_MAX], char id[API_KEY_ID_MAX]);
/* The id that a key's text names; E_INVALID for what is no key. */
int api_key_id(struct span text, char id[API_KEY_ID_MAX]);
bool api_key_id_valid(struct span id);
void api_key_hash(const uint8_t secret[API_KEY_SECRET_SIZE], struct span text, uint8_t hash[API_KEY_HASH_SIZE]);
/* Whether this is the key of that hash, in a time that does not tell how much of it is right. */
bool api_key_holds(const uint8_t secret[API_KEY_SECRET_SIZE], struct span text, struct span hash);

#endif
