/*
 * Whole files and folders, with errors that name the path. Durable writes are temporary file, fsync, rename, fsync of the folder: a
 * reader sees the old or the new, never half. A failed fsync stops the process: the kernel has dropped pages that we called durable.
 * Blocking: not on an event loop's thread, except at start.
 */
#ifndef GENLOOP_BASE_FILE_H
#define GENLOOP_BASE_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/span.h"

/* Appends the file to out; E_TOO_LARGE where its cap does not hold it. */
int file_read(const char *path, struct buf *out, struct error *err);
int file_write_durable(const char *path, struct span data, int mode, struct error *err);
int file_write(const char *path, struct span data, int mode, struct error *err); /* temporary file and rename, without fsync */
/* All of data to an open file; path names it in an error. */
int file_write_all(int fd, const char *path, struct span data, struct error *err);
bool file_exists(const char *path);
int dir_make(const char *path, struct error *err); /* with parents; fine where it exists */
int dir_sync(const char *path, struct error *err);
int dir_remove(const char *path, struct error *err); /* with all below it; does not follow links; fine where absent */
/* Calls on_entry(arg, name) for each entry but . and .., sorted by name; stops at a result other than 0 and returns it. */
int dir_list(const char *path, void *arg, int (*on_entry)(void *arg, const char *name), struct error *err);
/* A read-only mapping of a whole file. data NULL and len 0 for an empty file. */
struct file_map {
    const void *data;
    size_t len;
};
int file_map_open(struct file_map *m, const char *path, struct error *err);
void file_map_close(struct file_map *m);

#endif
