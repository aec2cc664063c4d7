/*
 * The local store. A writer hashes what it writes into tmp/ and only at commit learns the name under which the bytes belong; rename then makes
 * the object appear whole. Putting what is there replaces it with the same bytes, which also heals a copy that the disk has damaged.
 *
 * Reading checks the digest. For mappings (weights, token shards: large and read often) a process checks once per object and remembers it.
 */
#include "store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/random.h"

enum {
    STORE_PATH_MAX = 4096,
    CHECKED_MAX = 16384,             /* remembered digests, 32 bytes each; beyond it all are forgotten and checked again */
    TMP_AGE_MAX_S = 3600,            /* a writer touches its file with every piece: an hour without one means that it died */
    COPY_BYTES = 256 * 1024,
    DIR_FILES_MAX = 10000,           /* files in a directory object: a sharded model has hundreds */
    DIR_DEPTH_MAX = 16,
    DIR_PATH_MAX = 1024,
    MANIFEST_BYTES_MAX = 16 << 20,   /* DIR_FILES_MAX entries of the longest paths that occur */
};

struct store {
    char *dir;
    pthread_mutex_t mutex;
    struct digest {
        uint8_t bytes[SHA256_SIZE];
    } *checked; /* open addressing over CHECKED_MAX * 2 slots; all zero: free */
    size_t n_checked;
};

struct store_writer {
    struct store *store;
    struct sha256 hash;
    uint64_t size, size_max;
    int fd;
    char path[STORE_PATH_MAX];
};

/* ---- paths ---- */

static int digest_check(const char *sha256, struct error *err) {
    size_t n = 0;
    while (n < SHA256_HEX_MAX && ((sha256[n] >= '0' && sha256[n] <= '9') || (sha256[n] >= 'a' && sha256[n] <= 'f'))) n++;
    if (n != SHA256_HEX_MAX - 1 || sha256[n] != 0) return error_set(err, E_INVALID, "not the digest of an object: it has 64 lower-case hex digits");
    return 0;
}

static int object_folder(const struct store *s, const char *sha256, char path[STORE_PATH_MAX], struct error *err) {
    int n = snprintf(path, STORE_PATH_MAX, "%s/objects/%.2s", s->dir, sha256);
    return n < STORE_PATH_MAX ? 0 : error_set(err, E_INVALID, "the path of the store %s is too long", s->dir);
}

static int object_path(const struct store *s, const char *sha256, char path[STORE_PATH_MAX], struct error *err) {
    int r = digest_check(sha256, err);
    if (r < 0) return r;
    int n = snprintf(path, STORE_PATH_MAX, "%s/objects/%.2s/%s", s->dir, sha256, sha256 + 2);
    return n < STORE_PATH_MAX ? 0 : error_set(err, E_INVALID, "the path of the store %s is too long", s->dir);
}

/* ---- what this process has checked ---- */

static bool digest_bytes(const char *sha256, uint8_t bytes[SHA256_SIZE]) { return hex_decode(span_str(sha256), bytes) == 0; }

static struct digest *checked_slot(struct store *s, const uint8_t bytes[SHA256_SIZE]) {
    static const uint8_t zero[SHA256_SIZE];
    uint64_t at;
    memcpy(&at, bytes, sizeof at); /* a digest is its own hash */
    for (;; at++) {
        struct digest *d = &s->checked[at % (CHECKED_MAX * 2)];
        if (memcmp(d->bytes, bytes, SHA256_SIZE) == 0 || memcmp(d->bytes, zero, SHA256_SIZE) == 0) return d;
    }
}

static bool checked_has(struct store *s, const char *sha256) {
    uint8_t bytes[SHA256_SIZE];
    if (!digest_bytes(sha256, bytes)) return false;
    (void)pthread_mutex_lock(&s->mutex);
    bool has = memcmp(checked_slot(s, bytes)->bytes, bytes, SHA256_SIZE) == 0;
    (void)pthread_mutex_unlock(&s->mutex);
    return has;
}

static void checked_add(struct store *s, const char *sha256) {
    uint8_t bytes[SHA256_SIZE];
    if (!digest_bytes(sha256, bytes)) return;
    (void)pthread_mutex_lock(&s->mutex);
    if (s->n_checked == CHECKED_MAX) {
        memset(s->checked, 0, CHECKED_MAX * 2 * sizeof *s->checked);
        s->n_checked = 0;
    }
    struct digest *d = checked_slot(s, bytes);
    if (memcmp(d->bytes, bytes, SHA256_SIZE) != 0) {
        memcpy(d->bytes, bytes, SHA256_SIZE);
        s->n_checked++;
    }
    (void)pthread_mutex_unlock(&s->mutex);
}

static int check_bytes(const char *sha256, struct span bytes, struct error *err) {
    char found[SHA256_HEX_MAX];
    if (strcmp(sha256_hex(bytes, found), sha256) == 0) return 0;
    return error_set(err, E_DATA_LOSS, "the object %.12s… holds other bytes (%.12s…): restore it from a backup or delete it", sha256, found);
}

/* ---- open ---- */

static int remove_old(void *arg, const char *name) {
    struct store *s = arg;
    char path[STORE_PATH_MAX];
    struct stat st;
    if (snprintf(path, sizeof path, "%s/tmp/%s", s->dir, name) >= (int)sizeof path) return 0;
    if (lstat(path, &st) == 0 && S_ISREG(st.st_mode) && clock_wall_ms() / 1000 - st.st_mtime > TMP_AGE_MAX_S) (void)unlink(path);
    return 0;
}

int store_open(const char *url, struct store **out, struct error *err) {
    char path[STORE_PATH_MAX];
    struct buf format;
    int r = 0;
    buf_init(&format, 64);
    struct span rest = span_str(url), scheme;
    if (!span_starts(rest, SPAN("file:"))) {
        if (span_cut(&rest, ':', &scheme) && span_eq_str(scheme, "s3")) return error_set(err, E_UNSUPPORTED, "store: s3:// is not built yet; use file:DIR");
        return error_set(err, E_INVALID, "store: \"%s\" is not of the form file:DIR", url);
    }
    const char *dir = url + strlen("file:");
    if (strncmp(dir, "//", 2) == 0) dir += 2; /* file:///dir is the same place */
    if (!*dir) return error_set(err, E_INVALID, "store: \"%s\" names no directory", url);

    struct store *s = mem_zalloc(sizeof *s);
    if (!s) return error_set(err, E_NOMEM, "no memory for the store");
    (void)pthread_mutex_init(&s->mutex, NULL);
    s->dir = mem_strdup(dir);
    s->checked = mem_calloc(CHECKED_MAX * 2, sizeof *s->checked);
    if (!s->dir || !s->checked) {
        r = error_set(err, E_NOMEM, "no memory for the store");
        goto out;
    }
    if (strlen(dir) + sizeof "/objects/ab/" + SHA256_HEX_MAX + ID_TEXT_MAX > STORE_PATH_MAX) {
        r = error_set(err, E_INVALID, "the path of the store %s is too long", dir);
        goto out;
    }
    (void)snprintf(path, sizeof path, "%s/objects", dir);
    if ((r = dir_make(path, err)) < 0) goto out;
    (void)snprintf(path, sizeof path, "%s/tmp", dir);
    if ((r = dir_make(path, err)) < 0) goto out;
    (void)dir_list(path, s, remove_old, NULL);
    (void)snprintf(path, sizeof path, "%s/format", dir);
    if (file_exists(path)) {
        if ((r = file_read(path, &format, err)) < 0) goto out;
        if (!span_eq_str(span_trim(buf_span(&format)), "1")) {
            r = error_set(err, E_UNSUPPORTED, "the store %s is of format \"%.*s\", this program knows 1: use a newer genloop", dir, SPAN_ARG(span_trim(buf_span(&format))));
            goto out;
        }
    } else if ((r = file_write_durable(path, SPAN("1\n"), 0644, err)) < 0) {
        goto out;
    }
    *out = s;
    s = NULL;
out:
    buf_fini(&format);
    store_close(s);
    return r;
}

void store_close(struct store *s) {
    if (!s) return;
    (void)pthread_mutex_destroy(&s->mutex);
    mem_free(s->checked);
    mem_free(s->dir);
    mem_free(s);
}

/* ---- writing ---- */

int store_writer_open(struct store *s, uint64_t size_max, struct store_writer **out, struct error *err) {
    char name[ID_TEXT_MAX];
    struct store_writer *w = mem_zalloc(sizeof *w);
    if (!w) return error_set(err, E_NOMEM, "no memory for a writer of the store");
    w->store = s;
    w->size_max = size_max;
    sha256_init(&w->hash);
    (void)snprintf(w->path, sizeof w->path, "%s/tmp/%s", s->dir, id_make(name));
    w->fd = open(w->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (w->fd < 0) {
        int r = error_errno(err, errno, "cannot create %s", w->path);
        mem_free(w);
        return r;
    }
    *out = w;
    return 0;
}

int store_write(struct store_writer *w, struct span bytes, struct error *err) {
    if (bytes.len > w->size_max - w->size) return error_set(err, E_TOO_LARGE, "the object is larger than %llu bytes", (unsigned long long)w->size_max);
    int r = file_write_all(w->fd, w->path, bytes, err);
    if (r != 0) return r;
    sha256_update(&w->hash, bytes.data, bytes.len);
    w->size += bytes.len;
    return 0;
}

static void writer_free(struct store_writer *w) {
    if (w->fd >= 0) (void)close(w->fd);
    mem_free(w);
}

void store_writer_abort(struct store_writer *w) {
    if (!w) return;
    (void)unlink(w->path);
    writer_free(w);
}

int store_writer_commit(struct store_writer *w, struct object_ref *ref, struct error *err) {
    struct object_ref done = {.size = w->size};
    char path[STORE_PATH_MAX], folder[STORE_PATH_MAX];
    uint8_t digest[SHA256_SIZE];
    int r;
    sha256_final(&w->hash, digest);
    hex_encode(digest, sizeof digest, done.sha256);
    if ((r = object_folder(w->store, done.sha256, folder, err)) < 0 || (r = object_path(w->store, done.sha256, path, err)) < 0) goto out;
    (void)fchmod(w->fd, 0444); /* nobody writes an object again, not even through a link to it */
    ASSERT(fsync(w->fd) == 0); /* the kernel may have dropped what was written: what is called durable must be, so the process stops here */
    if (mkdir(folder, 0755) == 0) {
        char objects[STORE_PATH_MAX];
        (void)snprintf(objects, sizeof objects, "%s/objects", w->store->dir);
        if ((r = dir_sync(objects, err)) < 0) goto out;
    } else if (errno != EEXIST) {
        r = error_errno(err, errno, "cannot make %s", folder);
        goto out;
    }
    if (rename(w->path, path) < 0) {
        r = error_errno(err, errno, "cannot put %s into place", path);
        goto out;
    }
    if ((r = dir_sync(folder, err)) < 0) goto out;
    *ref = done;
out:
    if (r < 0) (void)unlink(w->path);
    writer_free(w);
    return r;
}

int store_put(struct store *s, struct span bytes, struct object_ref *ref, struct error *err) {
    struct store_writer *w;
    int r = store_writer_open(s, bytes.len, &w, err);
    if (r < 0) return r;
    if ((r = store_write(w, bytes, err)) < 0) {
        store_writer_abort(w);
        return r;
    }
    return store_writer_commit(w, ref, err);
}

int store_put_file(struct store *s, const char *path, struct object_ref *ref, struct error *err) {
    struct store_writer *w = NULL;
    char *piece = NULL;
    int r = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_errno(err, errno, "cannot open %s", path);
    if (!(piece = mem_alloc(COPY_BYTES))) {
        r = error_set(err, E_NOMEM, "no memory to copy %s", path);
        goto out;
    }
    if ((r = store_writer_open(s, UINT64_MAX, &w, err)) < 0) goto out;
    for (;;) {
        ssize_t n = read(fd, piece, COPY_BYTES);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            r = error_errno(err, errno, "cannot read %s", path);
            goto out;
        }
        if (n == 0) break;
        if ((r = store_write(w, span_of(piece, (size_t)n), err)) < 0) goto out;
    }
    r = store_writer_commit(w, ref, err);
    w = NULL;
out:
    store_writer_abort(w);
    mem_free(piece);
    (void)close(fd);
    return r;
}

/* ---- reading ---- */

static int not_found(int r, const char *sha256, struct error *err) {
    return r == E_NOT_FOUND ? error_set(err, E_NOT_FOUND, "the store has no object %.12s…", sha256) : r;
}

int store_get(struct store *s, const char *sha256, struct buf *out, struct error *err) {
    char path[STORE_PATH_MAX];
    int r = object_path(s, sha256, path, err);
    if (r < 0) return r;
    size_t before = out->len;
    if ((r = file_read(path, out, err)) < 0) return not_found(r, sha256, err);
    if ((r = check_bytes(sha256, span_skip(buf_span(out), before), err)) < 0) out->len = before;
    return r;
}

int store_map(struct store *s, const char *sha256, struct file_map *m, struct error *err) {
    char path[STORE_PATH_MAX];
    struct file_map map = {0};
    int r = object_path(s, sha256, path, err);
    if (r < 0) return r;
    if ((r = file_map_open(&map, path, err)) < 0) return not_found(r, sha256, err);
    if (!checked_has(s, sha256)) {
        if ((r = check_bytes(sha256, span_of(map.data, map.len), err)) < 0) {
            file_map_close(&map);
            return r;
        }
        checked_add(s, sha256);
    }
    *m = map;
    return 0;
}

static int copy_object(const char *from, const char *to, struct error *err) {
    struct file_map map;
    int r = file_map_open(&map, from, err);
    if (r < 0) return r;
    r = file_write(to, span_of(map.data, map.len), 0644, err);
    file_map_close(&map);
    return r;
}

int store_link(struct store *s, const char *sha256, const char *path, struct error *err) {
    char object[STORE_PATH_MAX];
    struct file_map map;
    int r = store_map(s, sha256, &map, err); /* checks it */
    if (r < 0 || (r = object_path(s, sha256, object, err)) < 0) return r;
    file_map_close(&map);
    if (link(object, path) == 0) return 0;
    switch (errno) {
    case EXDEV: case EPERM: case EMLINK: case EOPNOTSUPP: return copy_object(object, path, err); /* another file system, or one without links */
    case EEXIST: return error_set(err, E_EXISTS, "%s is there already", path);
    default: return error_errno(err, errno, "cannot link %s", path);
    }
}

bool store_has(struct store *s, const char *sha256) {
    char path[STORE_PATH_MAX];
    return object_path(s, sha256, path, NULL) == 0 && file_exists(path);
}

int store_delete(struct store *s, const char *sha256, struct error *err) {
    char path[STORE_PATH_MAX], folder[STORE_PATH_MAX];
    int r = object_path(s, sha256, path, err);
    if (r < 0 || (r = object_folder(s, sha256, folder, err)) < 0) return r;
    if (unlink(path) < 0) return errno == ENOENT ? 0 : error_errno(err, errno, "cannot delete %s", path);
    return dir_sync(folder, err);
}

/* ---- directories ---- */

struct dir_scan {
    char **paths;  /* relative files, owned */
    size_t n, capacity;
    char **folders; /* relative folders that wait to be read, owned; "" is the root */
    size_t n_folders, folders_capacity;
    const char *root, *folder; /* where the listing is */
    struct error *err;
};

static int push(char ***list, size_t *n, size_t *capacity, const char *path, struct error *err) {
    char *copy = mem_strdup(path);
    if (!copy || array_reserve(list, capacity, *n + 1, sizeof **list) < 0) {
        mem_free(copy);
        return error_set(err, E_NOMEM, "no memory for the list of files");
    }
    (*list)[(*n)++] = copy;
    return 0;
}

static int scan_entry(void *arg, const char *name) {
    struct dir_scan *d = arg;
    char relative[DIR_PATH_MAX], path[STORE_PATH_MAX];
    struct stat st, link_st;
    if (snprintf(relative, sizeof relative, "%s%s%s", d->folder, *d->folder ? "/" : "", name) >= (int)sizeof relative ||
        snprintf(path, sizeof path, "%s/%s", d->root, relative) >= (int)sizeof path)
        return error_set(d->err, E_INVALID, "%s: a path in it is longer than %d bytes", d->root, DIR_PATH_MAX - 1);
    if (lstat(path, &link_st) < 0 || stat(path, &st) < 0) return error_errno(d->err, errno, "cannot look at %s", path);
    if (S_ISREG(st.st_mode)) { /* a link to a file is that file: Hugging Face's cache is made of them */
        if (d->n >= DIR_FILES_MAX) return error_set(d->err, E_TOO_LARGE, "%s has more than %d files", d->root, DIR_FILES_MAX);
        return push(&d->paths, &d->n, &d->capacity, relative, d->err);
    }
    if (S_ISDIR(link_st.st_mode)) {
        int depth = 1;
        for (const char *c = relative; *c; c++) depth += *c == '/';
        if (depth > DIR_DEPTH_MAX || d->n_folders >= DIR_FILES_MAX) return error_set(d->err, E_TOO_LARGE, "%s is nested deeper than %d", d->root, DIR_DEPTH_MAX);
        return push(&d->folders, &d->n_folders, &d->folders_capacity, relative, d->err);
    }
    return error_set(d->err, E_INVALID, "%s is neither a file nor a directory", path);
}

static int compare_paths(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int store_put_dir(struct store *s, const char *dir, struct object_ref *manifest, struct error *err) {
    struct dir_scan scan = {.root = dir, .err = err};
    struct buf text;
    struct json_out json;
    char path[STORE_PATH_MAX];
    int r;
    buf_init(&text, MANIFEST_BYTES_MAX);
    if ((r = push(&scan.folders, &scan.n_folders, &scan.folders_capacity, "", err)) < 0) goto out;
    while (scan.n_folders > 0) {
        char *folder = scan.folders[--scan.n_folders];
        scan.folder = folder;
        r = snprintf(path, sizeof path, "%s/%s", dir, folder) < (int)sizeof path ? dir_list(path, &scan, scan_entry, err)
                                                                                : error_set(err, E_INVALID, "the path %s is too long", dir);
        mem_free(folder);
        if (r < 0) goto out;
    }
    qsort(scan.paths, scan.n, sizeof *scan.paths, compare_paths);
    json_begin(&json, &text);
    json_object(&json);
    json_num(&json, "format", 1);
    json_key(&json, "files");
    json_object(&json);
    for (size_t i = 0; i < scan.n; i++) {
        struct object_ref ref;
        if (!span_is_utf8(span_str(scan.paths[i]))) {
            r = error_set(err, E_INVALID, "%s: the name of a file in it is not UTF-8", dir);
            goto out;
        }
        (void)snprintf(path, sizeof path, "%s/%s", dir, scan.paths[i]);
        if ((r = store_put_file(s, path, &ref, err)) < 0) goto out;
        json_key(&json, scan.paths[i]);
        json_object(&json);
        json_str(&json, "sha256", ref.sha256);
        json_key(&json, "size");
        json_put_uint(&json, ref.size);
        json_object_end(&json);
    }
    json_object_end(&json);
    json_object_end(&json);
    r = text.failed ? error_set(err, text.failed, "the manifest of %s is too large", dir) : store_put(s, buf_span(&text), manifest, err);
out:
    for (size_t i = 0; i < scan.n; i++) mem_free(scan.paths[i]);
    for (size_t i = 0; i < scan.n_folders; i++) mem_free(scan.folders[i]);
    mem_free(scan.paths);
    mem_free(scan.folders);
    buf_fini(&text);
    return r;
}

/* Relative, without empty, "." or ".." parts, without NUL and backslash: it stays below the directory wherever it is laid out. */
static bool path_is_safe(struct span path) {
    struct span rest = path, part;
    int depth = 0;
    if (path.len == 0 || path.len >= DIR_PATH_MAX || path.data[path.len - 1] == '/' || memchr(path.data, 0, path.len) || memchr(path.data, '\\', path.len)) return false;
    while (span_cut(&rest, '/', &part))
        if (part.len == 0 || part.len > 255 || span_eq_str(part, ".") || span_eq_str(part, "..") || ++depth > DIR_DEPTH_MAX) return false;
    return true;
}

int store_get_dir(struct store *s, const char *manifest_sha256, const char *dir, struct error *err) {
    struct buf text;
    struct json *root = NULL;
    char work[STORE_PATH_MAX], path[STORE_PATH_MAX], name[ID_TEXT_MAX];
    struct span key;
    const struct json *value;
    void *iterator = NULL;
    bool made = false;
    int r;
    buf_init(&text, MANIFEST_BYTES_MAX);
    if ((r = store_get(s, manifest_sha256, &text, err)) < 0 || (r = json_parse(buf_span(&text), &root, err)) < 0) goto out;
    const struct json *files = json_get(root, "files");
    if (json_int(json_get(root, "format"), 0) != 1 || json_type(files) != JSON_TYPE_OBJECT || json_size(files) > DIR_FILES_MAX) {
        r = error_set(err, E_DATA_LOSS, "the object %.12s… is not the manifest of a directory", manifest_sha256);
        goto out;
    }
    if (snprintf(work, sizeof work, "%s.part-%s", dir, id_make(name)) >= (int)sizeof work) {
        r = error_set(err, E_INVALID, "the path %s is too long", dir);
        goto out;
    }
    if ((r = dir_make(work, err)) < 0) goto out;
    made = true;
    while (json_next(files, &iterator, &key, &value)) {
        char sha256[SHA256_HEX_MAX];
        struct span digest = json_string(json_get(value, "sha256"));
        if (!path_is_safe(key) || digest.len != SHA256_HEX_MAX - 1 || snprintf(path, sizeof path, "%s/%.*s", work, SPAN_ARG(key)) >= (int)sizeof path) {
            r = error_set(err, E_DATA_LOSS, "the manifest %.12s… has a path or a digest that cannot be laid out", manifest_sha256);
            goto out;
        }
        span_copy(sha256, sizeof sha256, digest);
        char *slash = strrchr(path, '/');
        *slash = 0;
        r = dir_make(path, err);
        *slash = '/';
        if (r < 0 || (r = store_link(s, sha256, path, err)) < 0) goto out;
    }
    if (rename(work, dir) < 0) {
        r = errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR ? error_set(err, E_EXISTS, "%s is there already", dir) : error_errno(err, errno, "cannot put %s into place", dir);
        goto out;
    }
    made = false;
out:
    if (made) (void)dir_remove(work, NULL);
    json_free(root);
    buf_fini(&text);
    return r;
}
