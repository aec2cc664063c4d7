/*
 * The files under what `ingest` was given: folders are walked in the order of their names, symbolic links inside of them are not followed (they lead to what is found anyway, or out of the
 * folder), nor is what begins with a dot. Blocking; one thread.
 */
#ifndef GENLOOP_CLI_WALK_H
#define GENLOOP_CLI_WALK_H

#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"

enum {
    WALK_FILES_MAX = 10000000,   /* above it: folder by folder */
    WALK_MEMORY_MAX = 2040 << 20, /* of their paths */
    WALK_DEPTH_MAX = 256,        /* folders in folders: deeper is no corpus but a loop */
};

struct walk_file {
    const char *path;   /* to open it */
    const char *source; /* its name in the dataset: the absolute path, or the URL; always UTF-8 (other bytes as %XX) */
    uint64_t size;
    bool url;           /* not here: to be fetched; size 0 */
};
struct walk {
    struct arena arena;
    struct walk_file *files; /* owned */
    size_t n, capacity;
    uint64_t bytes, skipped; /* skipped: empty files, links, devices, hidden ones */
};
void walk_init(struct walk *w);
void walk_fini(struct walk *w);
/* Adds a file, a folder with all below it, or a URL. E_NOT_FOUND and E_IO name the path. What cannot be read within a folder is told by on_unreadable and left out. */
int walk_add(struct walk *w, const char *path, void *arg, void (*on_unreadable)(void *arg, const struct error *why), struct error *err);
bool walk_is_url(const char *path);

#endif
