/*
 * A folder of packed copies (packed_copy.h): which file is whose, how much the folder may take, and what happens when. A copy's name is made of two digests,
 * IDENTITY-KEY.packed: of what the source is, and of that together with how its matrices were packed: the kinds, the shapes, the layout and the kernels that it is for.
 * A source that has changed, another --weights or another CPU make another name; what is old leaves the folder when the room is needed, least recently used
 * first. Several processes may share a folder.
 *
 * Nothing that goes wrong here fails the loading of a model: it is packed from its own files as if there were no folder, and the caller is told.
 */
#ifndef GENLOOP_ENGINE_PACKED_CACHE_H
#define GENLOOP_ENGINE_PACKED_CACHE_H

#include "engine/packed_copy.h"

#define PACKED_CACHE_SIZE_DEFAULT (16ull << 30)
enum { PACKED_CACHE_PATH_MAX = 4096 };

enum packed_cache_news {
    PACKED_CACHE_READ,        /* the model's weights came from the copy */
    PACKED_CACHE_REFUSED,     /* there is one, but it is damaged or cannot be read: why */
    PACKED_CACHE_WRITTEN,
    PACKED_CACHE_NOT_WRITTEN, /* why */
};

struct packed_cache {
    const char *dir;      /* made where it is missing; NULL: no copies are kept */
    const char *identity; /* what the source is, for good: a digest of its contents. NULL: its files' names, sizes and times (packed_cache_identity) */
    uint64_t size_max;    /* bytes of all copies in dir; 0: PACKED_CACHE_SIZE_DEFAULT */
    size_t size_min;      /* weights below it are packed as quickly as they are read */
    bool background;      /* written by a thread beside, which ends early where the model is freed; else before loading returns */
    void *arg;
    void (*on_news)(void *arg, enum packed_cache_news news, const char *path, const struct error *why); /* NULL: nobody wants to know; on any thread */
};

/* What a model directory or file is by the names, sizes, times and places of the files in it. hex: SHA256_HEX_MAX. E_NOT_FOUND, E_IO. */
int packed_cache_identity(const char *model, char *hex, struct error *err);

/* Fills memory from the copy; false: there is none that is right. */
bool packed_cache_read(const struct packed_cache *c, const struct packed_copy_key *key, uint8_t *memory, struct pool *pool);
struct packed_writer;
/* Writes a copy of memory, which stays as it is until packed_writer_free; NULL: that is over, or cannot be. */
struct packed_writer *packed_cache_write(const struct packed_cache *c, const struct packed_copy_key *key, const uint8_t *memory);
void packed_writer_free(struct packed_writer *w); /* gives up what is not done; NULL is accepted */
/* Takes the copies of a source from the folder: nobody will ask for them again. */
void packed_cache_forget(const char *dir, const char *identity);

#endif
