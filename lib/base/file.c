#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/random.h"

/* The kernel has dropped the pages that it could not write: what we called durable is not, and nothing we do later makes it so. */
static void must_sync(int fd, const char *path) {
    int r;
    do r = fsync(fd);
    while (r < 0 && errno == EINTR);
    if (r == 0 || errno == EINVAL || errno == EROFS) return; /* EINVAL: a file system that has no fsync for this kind of file */
    fprintf(stderr, "%s: fsync: %s: stopping, the data may not be on disk\n", path, strerror(errno));
    abort();
}

int file_read(const char *path, struct buf *out, struct error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_errno(err, errno, "%s", path);
    size_t before = out->len, room;
    struct stat st;
    int r = fstat(fd, &st) < 0 ? error_errno(err, errno, "%s", path) : 0;
    if (!r && S_ISDIR(st.st_mode)) r = error_errno(err, EISDIR, "%s", path);
    if (!r && S_ISREG(st.st_mode) && (uint64_t)st.st_size > buf_room(out))
        r = error_set(err, E_TOO_LARGE, "%s has %lld bytes: at most %zu are read", path, (long long)st.st_size, buf_room(out));
    /* One more than it has: then the read that finds the end needs no further room, for which a large buffer would double. */
    size_t want = !r && S_ISREG(st.st_mode) ? (size_t)st.st_size + 1 : 0;
    while (!r) {
        room = want > out->len - before ? want - (out->len - before) : 4096;
        if (room > buf_room(out)) room = buf_room(out);
        char probe, *to = room ? buf_reserve(out, room) : &probe; /* full: one more byte tells whether the file ends here */
        if (!to) {
            r = error_set(err, E_NOMEM, "%s: no memory for its contents", path);
            break;
        }
        if (out->len == before) mem_prefer_huge(to, room);
        ssize_t n = read(fd, to, room ? room : 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) r = error_errno(err, errno, "%s", path);
        if (n <= 0) break;
        if (!room) r = error_set(err, E_TOO_LARGE, "%s is larger than the %zu bytes that are read", path, out->cap);
        else buf_commit(out, (size_t)n);
    }
    close(fd);
    if (r) out->len = before;
    return r;
}

static int parent_of(const char *path, char parent[PATH_MAX]) {
    const char *slash = strrchr(path, '/');
    size_t n = !slash ? 1 : slash == path ? 1 : (size_t)(slash - path);
    if (n >= PATH_MAX) return E_INVALID;
    span_copy(parent, PATH_MAX, slash ? span_of(path, n) : SPAN("."));
    return 0;
}

int file_write_all(int fd, const char *path, struct span data, struct error *err) {
    while (data.len) {
        ssize_t written = write(fd, data.data, data.len);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return error_errno(err, errno, "%s", path);
        data = span_skip(data, (size_t)written);
    }
    return 0;
}

static int write_whole(const char *path, struct span data, int mode, bool durable, struct error *err) {
    char temporary[PATH_MAX], parent[PATH_MAX];
    uint64_t nonce;
    random_bytes(&nonce, sizeof nonce);
    int n = snprintf(temporary, sizeof temporary, "%s.%016llx.tmp", path, (unsigned long long)nonce);
    if (n < 0 || (size_t)n >= sizeof temporary || parent_of(path, parent)) return error_set(err, E_INVALID, "%s: the path is too long", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0) return error_errno(err, errno, "%s", temporary);
    int r = file_write_all(fd, temporary, data, err);
    if (!r && durable) must_sync(fd, temporary);
    if (close(fd) < 0 && !r) r = error_errno(err, errno, "%s", temporary);
    if (!r && rename(temporary, path) < 0) r = error_errno(err, errno, "%s", path);
    if (r) unlink(temporary);
    if (!r && durable) r = dir_sync(parent, err);
    return r;
}

int file_write_durable(const char *path, struct span data, int mode, struct error *err) { return write_whole(path, data, mode, true, err); }
int file_write(const char *path, struct span data, int mode, struct error *err) { return write_whole(path, data, mode, false, err); }

bool file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

int dir_make(const char *path, struct error *err) {
    char part[PATH_MAX];
    size_t len = strlen(path);
    if (!len || len >= sizeof part) return error_set(err, E_INVALID, "%s: no usable folder name", path);
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        if (path[i - 1] == '/') continue;
        span_copy(part, sizeof part, span_of(path, i));
        if (mkdir(part, 0777) < 0 && errno != EEXIST) {
            int why = errno;
            struct stat st; /* a parent on a read-only or foreign file system answers so although it is there */
            if (stat(part, &st) < 0 || !S_ISDIR(st.st_mode)) return error_errno(err, why, "%s", part);
        }
    }
    struct stat st;
    if (stat(path, &st) < 0) return error_errno(err, errno, "%s", path);
    return S_ISDIR(st.st_mode) ? 0 : error_set(err, E_EXISTS, "%s is there and is no folder", path);
}

int dir_sync(const char *path, struct error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return error_errno(err, errno, "%s", path);
    must_sync(fd, path);
    close(fd);
    return 0;
}

int dir_remove(const char *path, struct error *err) {
    struct stat st;
    if (lstat(path, &st) < 0) return errno == ENOENT ? 0 : error_errno(err, errno, "%s", path);
    char copy[PATH_MAX];
    if (strlen(path) >= sizeof copy) return error_set(err, E_INVALID, "%s: the path is too long", path);
    char *roots[] = {span_copy(copy, sizeof copy, span_str(path)), NULL};
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    if (!walk) return error_errno(err, errno, "%s", path);
    int r = 0;
    for (FTSENT *e; !r && (errno = 0, e = fts_read(walk));) {
        if (e->fts_info == FTS_D) continue;
        if (e->fts_info == FTS_ERR || e->fts_info == FTS_DNR || e->fts_info == FTS_NS) {
            if (e->fts_errno != ENOENT) r = error_errno(err, e->fts_errno, "%s", e->fts_path);
        } else if ((e->fts_info == FTS_DP ? rmdir(e->fts_path) : unlink(e->fts_path)) < 0 && errno != ENOENT) {
            r = error_errno(err, errno, "%s", e->fts_path);
        }
    }
    if (!r && errno) r = error_errno(err, errno, "%s", path);
    fts_close(walk);
    return r;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int dir_list(const char *path, void *arg, int (*on_entry)(void *arg, const char *name), struct error *err) {
    DIR *d = opendir(path);
    if (!d) return error_errno(err, errno, "%s", path);
    char **names = NULL;
    size_t n = 0, capacity = 0;
    int r = 0;
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) {
            if (errno) r = error_errno(err, errno, "%s", path);
            break;
        }
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        char *name = array_reserve(&names, &capacity, n + 1, sizeof *names) ? NULL : mem_strdup(e->d_name);
        if (!name) {
            r = error_set(err, E_NOMEM, "%s: no memory for its entries", path);
            break;
        }
        names[n++] = name;
    }
    closedir(d);
    if (!r && n) qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        if (!r) r = on_entry(arg, names[i]);
        mem_free(names[i]);
    }
    mem_free(names);
    return r;
}

int file_map_open(struct file_map *m, const char *path, struct error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_errno(err, errno, "%s", path);
    struct stat st;
    int r = 0;
    if (fstat(fd, &st) < 0) r = error_errno(err, errno, "%s", path);
    else if (!S_ISREG(st.st_mode)) r = error_set(err, E_INVALID, "%s is no regular file", path);
    void *data = NULL;
    if (!r && st.st_size > 0) {
        data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) r = error_errno(err, errno, "%s: mapping", path);
    }
    close(fd);
    if (!r) *m = (struct file_map){data, (size_t)st.st_size};
    return r;
}

void file_map_close(struct file_map *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->len);
    *m = (struct file_map){NULL, 0};
}
