/*
 * The packed weights of a model as a file, so that the next start reads what this one has made. A file, all numbers little-endian:
 *
 *     0    "genlpack", u32 version, u32 bytes of the head, u64 bytes of the weights, u32 bytes of a chunk, u32 CRC-32C of the head (this field taken as 0)
 *     32   32 bytes: the key, a digest of everything that decides what the weights are (packed_cache.h)
 *     64   64 bytes: the same in words, for people, filled up with zeros
 *     128  u32 for each chunk: crc32c_quarters of it
 *     2 MiB: the weights, as they lie in memory (tensor/quant.h); the last chunk may be shorter
 *
 * It appears whole or not at all, and is not believed: a head that is not exactly what is expected, a size that is off by a byte or a chunk that has another
 * checksum make it a file to be written anew. Whoever may write to the folder may of course make a model say anything, as with the model's own files; but
 * numbers are all that they can change: no place is taken from the file, and no size beyond what there is room for.
 */
#ifndef GENLOOP_ENGINE_PACKED_COPY_H
#define GENLOOP_ENGINE_PACKED_COPY_H

#include <stdatomic.h>

#include "base/error.h"
#include "base/pool.h"
#include "base/sha256.h"
#include "base/span.h"

enum {
    PACKED_COPY_VERSION = 1,
    PACKED_COPY_OFFSET = 2 << 20, /* of the weights: a huge page, should a file system ever map such */
    PACKED_COPY_CHUNK = 4 << 20,
    PACKED_COPY_FIXED = 128,      /* of the head, before the checksums */
    PACKED_COPY_WORDS_MAX = 64,
    PACKED_COPY_CHUNKS_MAX = (PACKED_COPY_OFFSET - PACKED_COPY_FIXED) / 4, /* 2 TB of weights */
};

struct packed_copy_key {
    uint8_t digest[SHA256_SIZE];
    char words[PACKED_COPY_WORDS_MAX];
    size_t size; /* of the weights: when they are written; when they are read, at most */
};

/* The head of a file of file_size bytes: head are its first PACKED_COPY_OFFSET bytes, or what there is of them. size: bytes of the weights; sums: borrowed from it, where the checksums of
 * the chunks begin. E_NOT_FOUND: sound, but of another key; E_DATA_LOSS: not a whole copy. Pure. */
int packed_copy_check(struct span head, uint64_t file_size, const struct packed_copy_key *key, size_t *size, const uint8_t **sums, struct error *err);
/* Fills memory [key->size], or less of it. Besides these two: E_NOT_FOUND where there is no file, E_IO, E_NOMEM. memory may have anything in it after a failure. */
int packed_copy_read(const char *path, const struct packed_copy_key *key, uint8_t *memory, struct pool *pool, struct error *err);
/* E_CANCELLED: stop became true (NULL: nobody stops it); E_TOO_LARGE; E_NO_SPACE, E_IO. */
int packed_copy_write(const char *path, const struct packed_copy_key *key, const uint8_t *memory, const atomic_bool *stop, struct error *err);

#endif
