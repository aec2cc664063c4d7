/* SHA-256 (FIPS 180-4), incremental; uses the CPU's SHA instructions where it has them. Plain data, one thread at a time. */
#ifndef GENLOOP_BASE_SHA256_H
#define GENLOOP_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

enum { SHA256_SIZE = 32, SHA256_HEX_MAX = 65 };
struct sha256 {
    uint32_t state[8];
    uint64_t len;
    uint8_t block[64];
};
void sha256_init(struct sha256 *h);
void sha256_update(struct sha256 *h, const void *data, size_t len);
void sha256_final(struct sha256 *h, uint8_t digest[SHA256_SIZE]);
void sha256_of(struct span data, uint8_t digest[SHA256_SIZE]);
char *sha256_hex(struct span data, char hex[SHA256_HEX_MAX]); /* returns hex */

#endif
