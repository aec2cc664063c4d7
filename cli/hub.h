/*
 * Models of the Hugging Face hub, by its own paths and words: HF_ENDPOINT names another hub (default https://huggingface.co), HF_TOKEN is shown to it, and to nobody that it redirects to.
 *
 *     GET  ENDPOINT/api/models/ORG/NAME/revision/REVISION?blobs=true    the commit, and its files with sizes and digests
 *     GET  ENDPOINT/ORG/NAME/resolve/COMMIT/FILE                        a file; large ones are redirected to where they lie
 *
 * Files go into CACHE/ORG--NAME/COMMIT/. A download that was cut off, also by our own end, goes on where it was (Range); what the hub names a SHA-256 for is checked by it, the rest by its size, before it has its
 * name: what is there is whole. So the same model again costs one question.
 * Blocking; one thread.
 */
#ifndef GENLOOP_CLI_HUB_H
#define GENLOOP_CLI_HUB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "base/span.h"

enum {
    HUB_REPO_MAX = 193,     /* an organisation and a name of 96 bytes each: the hub's own limit */
    HUB_REVISION_MAX = 128,
    HUB_FILE_MAX = 512,
    HUB_FILES_MAX = 1000,   /* of a model: the largest published have some 200 shards */
    HUB_LIST_MAX = 64 << 20, /* bytes of the hub's answer about a repository */
};

struct hub_ref {
    char repo[HUB_REPO_MAX + 1];         /* "ORG/NAME", or "NAME" of the hub's first days */
    char revision[HUB_REVISION_MAX + 1]; /* a branch, a tag or a commit; "main" where none was named */
    char file[HUB_FILE_MAX + 1];         /* "": what a model directory needs */
};
/* "ORG/NAME[@REVISION][:FILE]", behind "hf:". E_INVALID says which part. */
int hub_ref_parse(struct span text, struct hub_ref *ref, struct error *err);

struct hub_file {
    char name[HUB_FILE_MAX + 1];
    char sha256[65]; /* ""; the hub names none of small files */
    uint64_t size;
};
struct hub_files {
    struct hub_file *list; /* owned */
    size_t n, capacity;
    char commit[65];
};
void hub_files_fini(struct hub_files *files); /* safe on a zeroed struct and twice */
/* Of the hub's answer about a repository what is to be fetched: pure. E_NOT_FOUND, E_UNSUPPORTED (weights in a form that is not read, with what there is instead), E_INVALID for an answer that is none. */
int hub_choose(const struct json *answer, const struct hub_ref *ref, struct hub_files *files, struct error *err);

/* done and total: bytes of all files. path: the directory, or the file where ref names one. */
struct hub_progress {
    void *arg;
    void (*on_progress)(void *arg, const char *file, uint64_t done, uint64_t total); /* NULL: not wanted */
};
enum { HUB_PATH_MAX = 4096 };
int hub_get(const struct hub_ref *ref, const char *cache, const struct hub_progress *progress, char path[HUB_PATH_MAX], struct error *err);
/* $GENLOOP_HUB_CACHE, else $XDG_CACHE_HOME/genloop/hub, else ~/.cache/genloop/hub. E_INVALID where there is no home. */
int hub_cache(char path[HUB_PATH_MAX], struct error *err);

#endif
