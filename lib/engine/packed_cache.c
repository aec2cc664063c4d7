#include "engine/packed_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"

enum {
    NAME_DIGITS = 16,           /* of each digest: 64 bits tell any number of models apart; the whole key is in the file */
    FREE_SHARE = 20,            /* a twentieth of the disk stays free */
    ABANDONED_MS = 3600 * 1000, /* a temporary file that nobody has written to for so long has lost its writer */
};
#define SUFFIX ".packed"
static const size_t NAME_LEN = 2 * NAME_DIGITS + 1 + sizeof SUFFIX - 1;

static void name_of(const char *identity, const struct packed_copy_key *key, char name[NAME_MAX]) {
    char source[SHA256_HEX_MAX], whole[SHA256_HEX_MAX];
    sha256_hex(span_str(identity), source);
    for (size_t i = 0; i < SHA256_SIZE; i++) (void)snprintf(whole + 2 * i, 3, "%02x", key->digest[i]);
    (void)snprintf(name, NAME_MAX, "%.*s-%.*s" SUFFIX, NAME_DIGITS, source, NAME_DIGITS, whole);
}

static bool join(const char *dir, const char *name, char path[PACKED_CACHE_PATH_MAX]) {
    int n = snprintf(path, PACKED_CACHE_PATH_MAX, "%s/%s", dir, name);
    return n > 0 && n < PACKED_CACHE_PATH_MAX;
}

static bool is_digits(const char *at) {
    for (size_t i = 0; i < NAME_DIGITS; i++)
        if (!strchr("0123456789abcdef", at[i]) || !at[i]) return false;
    return true;
}
/* A copy, or what a writer has of one. */
static bool is_ours(const char *name, bool *temporary) {
    size_t len = strlen(name);
    if (len < NAME_LEN || !is_digits(name) || name[NAME_DIGITS] != '-' || !is_digits(name + NAME_DIGITS + 1) || strncmp(name + 2 * NAME_DIGITS + 1, SUFFIX, sizeof SUFFIX - 1) != 0) return false;
    *temporary = len > NAME_LEN;
    return len == NAME_LEN || (name[NAME_LEN] == '.' && strcmp(name + len - 4, ".tmp") == 0);
}

static void tell(const struct packed_cache *c, enum packed_cache_news news, const char *path, const struct error *why) {
    if (c->on_news) c->on_news(c->arg, news, path, why);
}

/* --- what a source is --- */

struct sources {
    const char *dir;
    struct sha256 *hash;
    struct error *err;
};
static int add_file(const char *path, const char *name, struct sha256 *hash, struct error *err) {
    struct stat st;
    char line[NAME_MAX + 160];
    if (stat(path, &st) != 0) return error_errno(err, errno, "%s", path);
    int n = snprintf(line, sizeof line, "%s %lld %lld.%09ld %llu %llu\n", name, (long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, (unsigned long long)st.st_dev,
                     (unsigned long long)st.st_ino);
    sha256_update(hash, line, n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
    return 0;
}
/* What may hold weights, or say how they are to be read. */
static int add_entry(void *arg, const char *name) {
    struct sources *s = arg;
    char path[PACKED_CACHE_PATH_MAX];
    const char *dot = strrchr(name, '.');
    if (!dot || (strcmp(dot, ".safetensors") != 0 && strcmp(dot, ".gguf") != 0 && strcmp(dot, ".json") != 0)) return 0;
    return join(s->dir, name, path) ? add_file(path, name, s->hash, s->err) : error_set(s->err, E_INVALID, "%s: the path is too long", s->dir);
}

static void to_hex(struct sha256 *hash, char *hex) {
    uint8_t digest[SHA256_SIZE];
    sha256_final(hash, digest);
    for (size_t i = 0; i < SHA256_SIZE; i++) (void)snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

int packed_cache_identity(const char *model, char *hex, struct error *err) {
    struct sha256 hash;
    struct stat st;
    sha256_init(&hash);
    int r = stat(model, &st) != 0 ? error_errno(err, errno, "%s", model) : 0;
    if (r == 0 && S_ISDIR(st.st_mode)) r = dir_list(model, &(struct sources){model, &hash, err}, add_entry, err);
    else if (r == 0) r = add_file(model, "", &hash, err);
    if (r == 0) to_hex(&hash, hex);
    return r;
}

/* --- reading --- */

bool packed_cache_read(const struct packed_cache *c, const struct packed_copy_key *key, uint8_t *memory, struct pool *pool) {
    char name[NAME_MAX], path[PACKED_CACHE_PATH_MAX];
    struct error err = {0};
    if (!c->dir || !c->identity || key->size < c->size_min) return false;
    name_of(c->identity, key, name);
    if (!join(c->dir, name, path)) return false;
    int r = packed_copy_read(path, key, memory, pool, &err);
    if (r == 0) (void)utimensat(AT_FDCWD, path, NULL, 0); /* it was used: the others leave first. Not ours to write to: then by when it was made */
    if (r == 0) tell(c, PACKED_CACHE_READ, path, NULL);
    else if (r != E_NOT_FOUND) tell(c, PACKED_CACHE_REFUSED, path, &err);
    return r == 0;
}

/* --- room --- */

struct old_copy {
    char name[NAME_MAX];
    uint64_t size;
    int64_t used_ms;
};
struct folder {
    const char *dir;
    struct old_copy *copies;
    size_t count, capacity;
    uint64_t size;
};
static int look_at(void *arg, const char *name) {
    struct folder *f = arg;
    char path[PACKED_CACHE_PATH_MAX];
    struct stat st;
    bool temporary;
    if (!is_ours(name, &temporary) || !join(f->dir, name, path) || lstat(path, &st) != 0 || !S_ISREG(st.st_mode)) return 0;
    int64_t used_ms = (int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000;
    if (temporary) {
        if (clock_wall_ms() - used_ms > ABANDONED_MS) (void)unlink(path);
        return 0;
    }
    if (array_reserve(&f->copies, &f->capacity, f->count + 1, sizeof *f->copies) != 0) return E_NOMEM;
    struct old_copy *o = &f->copies[f->count++];
    span_copy(o->name, sizeof o->name, span_str(name));
    o->size = (uint64_t)st.st_size;
    o->used_ms = used_ms;
    f->size += o->size;
    return 0;
}
static int by_use(const void *a, const void *b) {
    const struct old_copy *x = a, *y = b;
    return x->used_ms != y->used_ms ? x->used_ms < y->used_ms ? -1 : 1 : strcmp(x->name, y->name);
}

/* Takes out what was used longest ago until `size` more fit. */
static int make_room(const struct packed_cache *c, uint64_t size, const char *keep, struct error *err) {
    struct folder f = {.dir = c->dir};
    struct statvfs disk;
    uint64_t most = c->size_max ? c->size_max : PACKED_CACHE_SIZE_DEFAULT;
    if (size > most) return error_set(err, E_TOO_LARGE, "the copy has %llu MiB, all of them may have %llu", (unsigned long long)(size >> 20), (unsigned long long)(most >> 20));
    int r = dir_list(c->dir, &f, look_at, err);
    if (r == 0 && f.count) qsort(f.copies, f.count, sizeof *f.copies, by_use);
    for (size_t i = 0; i < f.count && r == 0; i++)
        if (strcmp(f.copies[i].name, keep) == 0) f.size -= f.copies[i].size; /* the one that is written anew is as good as gone */
    for (size_t i = 0; i < f.count && r == 0 && f.size + size > most; i++) {
        char path[PACKED_CACHE_PATH_MAX];
        if (strcmp(f.copies[i].name, keep) == 0) continue;
        if (join(c->dir, f.copies[i].name, path)) (void)unlink(path);
        f.size -= f.copies[i].size;
    }
    mem_free(f.copies);
    if (r == 0 && statvfs(c->dir, &disk) == 0 && disk.f_blocks > 0 && (uint64_t)disk.f_bavail * disk.f_frsize < size + (uint64_t)disk.f_blocks / FREE_SHARE * disk.f_frsize)
        r = error_set(err, E_NO_SPACE, "the disk of %s would be nearly full", c->dir);
    return r;
}

void packed_cache_forget(const char *dir, const char *identity) {
    struct folder f = {.dir = dir};
    char source[SHA256_HEX_MAX], path[PACKED_CACHE_PATH_MAX];
    sha256_hex(span_str(identity), source);
    if (dir_list(dir, &f, look_at, NULL) == 0)
        for (size_t i = 0; i < f.count; i++)
            if (strncmp(f.copies[i].name, source, NAME_DIGITS) == 0 && join(dir, f.copies[i].name, path)) (void)unlink(path);
    mem_free(f.copies);
}

/* --- writing --- */

struct packed_writer {
    struct packed_cache cache;
    char *dir, *identity; /* owned */
    struct packed_copy_key key;
    const uint8_t *memory;
    atomic_bool stop;
    bool started;
    pthread_t thread;
};

static void *write_copy(void *arg) {
    struct packed_writer *w = arg;
    char name[NAME_MAX], path[PACKED_CACHE_PATH_MAX] = "";
    struct error err = {0};
    name_of(w->identity, &w->key, name);
    int r = join(w->dir, name, path) ? dir_make(w->dir, &err) : error_set(&err, E_INVALID, "%s: the path is too long", w->dir);
    if (r == 0) r = make_room(&w->cache, (uint64_t)w->key.size + PACKED_COPY_OFFSET, name, &err);
    if (r == 0) r = packed_copy_write(path, &w->key, w->memory, &w->stop, &err);
    if (r == 0) tell(&w->cache, PACKED_CACHE_WRITTEN, path, NULL);
    else if (r != E_CANCELLED) tell(&w->cache, PACKED_CACHE_NOT_WRITTEN, path, &err);
    return NULL;
}

struct packed_writer *packed_cache_write(const struct packed_cache *c, const struct packed_copy_key *key, const uint8_t *memory) {
    if (!c->dir || !c->identity || key->size < c->size_min) return NULL;
    struct packed_writer *w = mem_zalloc(sizeof *w);
    if (!w) return NULL; /* a start that is short of memory has other cares */
    w->cache = *c;
    w->key = *key;
    w->memory = memory;
    w->cache.dir = w->dir = mem_strdup(c->dir);
    w->cache.identity = w->identity = mem_strdup(c->identity);
    if (w->dir && w->identity && c->background) w->started = pthread_create(&w->thread, NULL, write_copy, w) == 0;
    if (w->started) return w;
    if (w->dir && w->identity) write_copy(w);
    packed_writer_free(w);
    return NULL;
}

void packed_writer_free(struct packed_writer *w) {
    if (!w) return;
    atomic_store(&w->stop, true);
    if (w->started) pthread_join(w->thread, NULL);
    mem_free(w->dir);
    mem_free(w->identity);
    mem_free(w);
}
