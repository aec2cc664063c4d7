#include "services/ingest/attempts.h"

#include <stdio.h>

#include "base/alloc.h"
#include "base/file.h"

enum { FILE_BYTES_MAX = ATTEMPTS_MAX * 80 };

int attempts_open(struct attempts *a, const char *path, struct error *err) {
    *a = (struct attempts){0};
    span_copy(a->path, sizeof a->path, span_str(path));
    if (!(a->suspects = mem_calloc(ATTEMPTS_MAX, sizeof *a->suspects))) return error_set(err, E_NOMEM, "no memory");
    struct buf b;
    buf_init(&b, FILE_BYTES_MAX);
    if (file_exists(path) && file_read(path, &b, NULL) == 0) {
        struct span rest = buf_span(&b), line, count;
        while (a->n < ATTEMPTS_MAX && span_cut(&rest, '\n', &line)) {
            int64_t n;
            if (span_cut(&line, ' ', &count) && line.len == 64 && !span_to_i64(count, &n) && n > 0 && n < 1000) {
                span_copy(a->suspects[a->n].id, sizeof a->suspects[a->n].id, line);
                a->suspects[a->n++].count = (int)n;
            }
        }
    }
    buf_fini(&b);
    return 0;
}

void attempts_close(struct attempts *a) {
    mem_free(a->suspects);
    *a = (struct attempts){0};
}

static struct attempt *find(const struct attempts *a, struct span id) {
    for (size_t i = 0; i < a->n; i++)
        if (span_eq_str(id, a->suspects[i].id)) return &a->suspects[i];
    return NULL;
}

int attempts_of(const struct attempts *a, struct span id) {
    const struct attempt *s = find(a, id);
    return s ? s->count : 0;
}

/* ids in hand and the suspects that are not among them */
static int save(const struct attempts *a, const char (*ids)[65], size_t n, struct error *err) {
    struct buf b;
    buf_init(&b, FILE_BYTES_MAX * 2);
    for (size_t i = 0; i < n; i++) {
        const struct attempt *s = find(a, span_str(ids[i]));
        buf_printf(&b, "%d %s\n", s ? s->count : 1, ids[i]);
    }
    for (size_t i = 0; i < a->n; i++) {
        bool in_hand = false;
        for (size_t k = 0; k < n && !in_hand; k++) in_hand = !strcmp(ids[k], a->suspects[i].id);
        if (!in_hand) buf_printf(&b, "%d %s\n", a->suspects[i].count, a->suspects[i].id);
    }
    int r = b.failed ? error_set(err, b.failed, "the list of attempts is too long") : file_write(a->path, buf_span(&b), 0600, err);
    buf_fini(&b);
    return r;
}

int attempts_begin(struct attempts *a, const char (*ids)[65], size_t n, struct error *err) {
    for (size_t i = 0; i < n; i++) {
        struct attempt *s = find(a, span_str(ids[i]));
        if (s) s->count++;
    }
    return save(a, ids, n, err);
}

void attempts_end(struct attempts *a, const char (*ids)[65], size_t n) {
    for (size_t i = 0; i < n; i++) {
        struct attempt *s = find(a, span_str(ids[i]));
        if (!s) continue;
        *s = a->suspects[--a->n];
    }
    (void)save(a, NULL, 0, NULL);
}
