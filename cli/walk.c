#include "walk.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/file.h"

/* A folder that is still to be looked at. */
struct folder {
    char *path; /* in the arena */
    int depth;
};

struct walking {
    struct walk *walk;
    struct folder *stack; /* owned; the next one is the last */
    size_t n, capacity, first; /* first: of the present folder's own subfolders, which come in reverse */
    const char *dir;
    int depth;
    void *arg;
    void (*on_unreadable)(void *arg, const struct error *why);
    struct error err;
};

void walk_init(struct walk *w) {
    *w = (struct walk){0};
    arena_init(&w->arena, WALK_MEMORY_MAX);
}

void walk_fini(struct walk *w) {
    mem_free(w->files);
    w->files = NULL;
    arena_fini(&w->arena);
}

bool walk_is_url(const char *path) { return span_starts(span_str(path), SPAN("http://")) || span_starts(span_str(path), SPAN("https://")); }

/* A path as UTF-8: bytes that are none as %XX, so that two names stay two. */
static char *as_source(struct arena *a, const char *path) {
    if (span_is_utf8(span_str(path))) return arena_strdup(a, path);
    size_t len = strlen(path);
    char *out = arena_calloc(a, len + 1, 3), *at = out;
    for (size_t i = 0; out && i < len;) {
        uint32_t code_point;
        size_t n = span_utf8_decode(span_of(path + i, len - i), &code_point);
        if (n) memcpy(at, path + i, n);
        else (void)snprintf(at, 4, "%%%02X", (unsigned char)path[i]);
        at += n ? n : 3;
        i += n ? n : 1;
    }
    return out;
}

static int add_file(struct walk *w, const char *path, uint64_t size, bool url, struct error *err) {
    if (w->n == WALK_FILES_MAX) return error_set(err, E_TOO_LARGE, "there are more than %d files: give folder by folder", WALK_FILES_MAX);
    char *own = arena_strdup(&w->arena, path), *source = as_source(&w->arena, path);
    if (!own || !source || array_reserve(&w->files, &w->capacity, w->n + 1, sizeof *w->files) < 0) return error_set(err, E_NOMEM, "no memory for the names of %zu files", w->n);
    w->files[w->n++] = (struct walk_file){own, source, size, url};
    w->bytes += size;
    return 0;
}

static int push(struct walking *g, const char *path, int depth) {
    char *own = arena_strdup(&g->walk->arena, path);
    if (!own || array_reserve(&g->stack, &g->capacity, g->n + 1, sizeof *g->stack) < 0) return error_set(&g->err, E_NOMEM, "no memory for the folders of %s", path);
    g->stack[g->n++] = (struct folder){own, depth};
    return 0;
}

static int on_entry(void *arg, const char *name) {
    struct walking *g = arg;
    char path[PATH_MAX];
    struct stat st;
    struct error why = {0};
    int n = snprintf(path, sizeof path, "%s%s%s", g->dir, span_ends(span_str(g->dir), SPAN("/")) ? "" : "/", name);
    if (name[0] == '.') {
        g->walk->skipped++;
        return 0;
    }
    if (n < 0 || (size_t)n >= sizeof path) (void)error_set(&why, E_INVALID, "%s/%s: the path is too long", g->dir, name);
    else if (lstat(path, &st) < 0) (void)error_errno(&why, errno, "%s", path);
    if (why.code) {
        g->on_unreadable(g->arg, &why);
        return 0;
    }
    if (S_ISDIR(st.st_mode)) {
        if (g->depth < WALK_DEPTH_MAX) return push(g, path, g->depth + 1);
        (void)error_set(&why, E_INVALID, "%s: more than %d folders deep", path, WALK_DEPTH_MAX);
        g->on_unreadable(g->arg, &why);
        return 0;
    }
    if (!S_ISREG(st.st_mode) || st.st_size == 0) {
        g->walk->skipped++;
        return 0;
    }
    return add_file(g->walk, path, (uint64_t)st.st_size, false, &g->err);
}

static int walk_folder(struct walk *w, const char *root, void *arg, void (*on_unreadable)(void *arg, const struct error *why), struct error *err) {
    struct walking g = {.walk = w, .arg = arg, .on_unreadable = on_unreadable};
    int r = push(&g, root, 0);
    while (r == 0 && g.n > 0) {
        struct error why = {0};
        struct folder f = g.stack[--g.n];
        g.dir = f.path;
        g.depth = f.depth;
        g.first = g.n;
        r = dir_list(f.path, &g, on_entry, &why);
        for (size_t i = g.first, k = g.n; k > 0 && i < k - 1; i++, k--) { /* the first by name is to be the next */
            struct folder swap = g.stack[i];
            g.stack[i] = g.stack[k - 1];
            g.stack[k - 1] = swap;
        }
        if (r < 0 && !g.err.code && f.depth > 0) { /* one of many that may not be read */
            on_unreadable(arg, &why);
            r = 0;
        } else if (r < 0 && !g.err.code) {
            g.err = why;
        }
    }
    mem_free(g.stack);
    if (r < 0 && err) *err = g.err;
    return r;
}

int walk_add(struct walk *w, const char *path, void *arg, void (*on_unreadable)(void *arg, const struct error *why), struct error *err) {
    char whole[PATH_MAX];
    struct stat st;
    if (walk_is_url(path)) return add_file(w, path, 0, true, err);
    if (!realpath(path, whole)) return error_errno(err, errno, "%s", path);
    if (stat(whole, &st) < 0) return error_errno(err, errno, "%s", path);
    if (S_ISDIR(st.st_mode)) return walk_folder(w, whole, arg, on_unreadable, err);
    if (!S_ISREG(st.st_mode)) return error_set(err, E_INVALID, "%s is neither a file nor a folder", path);
    if (st.st_size == 0) {
        w->skipped++;
        return 0;
    }
    return add_file(w, whole, (uint64_t)st.st_size, false, err);
}
