/*
 * The store: content-addressed objects, named by the SHA-256 of their bytes. The local backend is a directory:
 *   DIR/format                "1": of this layout
 *   DIR/objects/ab/cdef…      one file per object: temporary file, fsync, rename, fsync of the folder
 *   DIR/tmp/                  what is being written; emptied of old files at start
 * An object is immutable; putting it again is harmless. Reading checks the digest: E_DATA_LOSS where the bytes are not what their name says.
 * Blocking: on a worker or a compute thread. Thread-safe.
 */
#ifndef GENLOOP_STORE_STORE_H
#define GENLOOP_STORE_STORE_H

#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/span.h"

struct store;
struct object_ref {
    char sha256[SHA256_HEX_MAX];
    uint64_t size;
};
/* url: "file:DIR". Makes the directory. Returns owned. E_UNSUPPORTED for a scheme that is not built. */
int store_open(const char *url, struct store **s, struct error *err);
void store_close(struct store *s);
/* Durable when it returns. */
int store_put(struct store *s, struct span bytes, struct object_ref *ref, struct error *err);
/* In pieces, for what does not fit memory. The writer is freed by commit and by abort. */
struct store_writer;
int store_writer_open(struct store *s, uint64_t size_max, struct store_writer **w, struct error *err);
int store_write(struct store_writer *w, struct span bytes, struct error *err); /* E_TOO_LARGE beyond size_max */
int store_writer_commit(struct store_writer *w, struct object_ref *ref, struct error *err);
void store_writer_abort(struct store_writer *w); /* NULL is accepted */
/* A file that is there already, copied in. */
int store_put_file(struct store *s, const char *path, struct object_ref *ref, struct error *err);
/* Appends the whole object to out, checked. */
int store_get(struct store *s, const char *sha256, struct buf *out, struct error *err);
/* A read-only mapping, checked unless it has been in this process. */
int store_map(struct store *s, const char *sha256, struct file_map *m, struct error *err);
/* A path that can be opened for reading while the object exists (a link or copy at `path` is made for directories of objects). */
int store_link(struct store *s, const char *sha256, const char *path, struct error *err);
bool store_has(struct store *s, const char *sha256);
int store_delete(struct store *s, const char *sha256, struct error *err); /* fine where absent */

/* A directory of files as one object: a manifest in JSON {"format":1,"files":{"path":{"sha256":…,"size":…}}}, sorted by path. */
int store_put_dir(struct store *s, const char *dir, struct object_ref *manifest, struct error *err);
/* Lays it out under dir (made; whole or not at all), by links where the file system allows. Paths are checked: none leaves dir. */
int store_get_dir(struct store *s, const char *manifest_sha256, const char *dir, struct error *err);

#endif
