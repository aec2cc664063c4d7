#include "services/ingest/rows.h"

#include <zstd.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/json.h"
#include "base/random.h"

int rows_wanted_read(const Genloop__V1__ListRowsRequest *q, struct rows_wanted *wanted, struct error *err) {
    struct span split = span_str(q->split), kind = span_str(q->kind);
    struct rows_wanted w = {.offset = q->offset, .limit = q->limit ? q->limit : ROWS_LIMIT_DEFAULT, .seed = q->seed,
                            .shuffled = q->shuffled_case == GENLOOP__V1__LIST_ROWS_REQUEST__SHUFFLED_SEED};
    w.held_out = span_eq_str(split, "held_out");
    w.pairs = span_eq_str(kind, "pairs");
    if (!w.held_out && split.len && !span_eq_str(split, "train")) return error_set_param(err, E_INVALID, "split", "split must be train or held_out");
    if (!w.pairs && kind.len && !span_eq_str(kind, "samples")) return error_set_param(err, E_INVALID, "kind", "kind must be samples or pairs");
    if (w.limit > ROWS_LIMIT_MAX) return error_set_param(err, E_INVALID, "limit", "a page has at most %d rows", ROWS_LIMIT_MAX);
    *wanted = w;
    return 0;
}

/* A row that is wanted: where it lies, and where it belongs in the page. */
struct pick {
    uint64_t row;
    size_t position;
};

struct reading {
    struct store *store;
    const struct rows_wanted *wanted;
    struct pick *picks; /* owned; by row */
    size_t n, next;
    struct span *found; /* in the arena, by position */
    struct arena arena;
    size_t bytes_max, bytes; /* of the rows so far */
    uint64_t row;       /* the next line's number */
    struct buf line;
};

struct drawn {
    uint64_t key, row;
};

static int by_key(const void *a, const void *b) {
    const struct drawn *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static int by_row(const void *a, const void *b) {
    const struct pick *x = a, *y = b;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* The page's rows. */
static int pick(struct reading *g, uint64_t total, struct error *err) {
    const struct rows_wanted *w = g->wanted;
    uint64_t left = w->offset < total ? total - w->offset : 0;
    g->n = left < w->limit ? (size_t)left : w->limit;
    g->picks = mem_calloc(g->n + 1, sizeof *g->picks);
    g->found = arena_calloc(&g->arena, g->n + 1, sizeof *g->found);
    if (!g->picks || !g->found) return error_set(err, E_NOMEM, "no memory for a page of rows");
    if (!w->shuffled) {
        for (size_t i = 0; i < g->n; i++) g->picks[i] = (struct pick){w->offset + i, i};
        return 0;
    }
    if (total > ROWS_SHUFFLED_MAX) return error_set_param(err, E_TOO_LARGE, "seed", "an order is drawn of at most %d rows, and these are %llu", ROWS_SHUFFLED_MAX, (unsigned long long)total);
    struct drawn *order = mem_calloc((size_t)total + 1, sizeof *order);
    if (!order) return error_set(err, E_NOMEM, "no memory for an order of rows");
    for (uint64_t i = 0; i < total; i++) {
        struct random random;
        random_seed2(&random, w->seed, i);
        order[i] = (struct drawn){random_u64(&random), i};
    }
    qsort(order, (size_t)total, sizeof *order, by_key);
    for (size_t i = 0; i < g->n; i++) g->picks[i] = (struct pick){order[w->offset + i].row, i};
    mem_free(order);
    qsort(g->picks, g->n, sizeof *g->picks, by_row);
    return 0;
}

/* A whole line. */
static int take_line(struct reading *g, struct error *err) {
    struct span line = buf_span(&g->line);
    g->row++;
    size_t position = g->picks[g->next++].position;
    if (line.len > g->bytes_max - g->bytes || (g->found[position] = arena_span(&g->arena, line)).data == NULL) {
        if (g->wanted->shuffled || position == 0) return error_set_param(err, E_TOO_LARGE, "limit", "these rows have more than %zu MiB together: ask for fewer", g->bytes_max >> 20);
        g->n = g->next = position; /* the page ends before it */
        return 0;
    }
    g->bytes += line.len;
    return 0;
}

static int take_text(struct reading *g, struct span text, struct error *err) {
    while (text.len && g->next < g->n) {
        const char *end = memchr(text.data, '\n', text.len);
        size_t len = end ? (size_t)(end - text.data) : text.len;
        bool keep = g->picks[g->next].row == g->row;
        if (keep && buf_append(&g->line, text.data, len) < 0) return error_set(err, E_TOO_LARGE, "a row has more than %zu MiB", g->line.cap >> 20);
        text = span_skip(text, len + (end ? 1 : 0));
        if (!end) return 0;
        int r = 0;
        if (keep) r = take_line(g, err);
        else g->row++;
        buf_clear(&g->line);
        if (r < 0) return r;
    }
    return 0;
}

/* One file of rows, from its first to the last that is wanted. */
static int read_file(struct reading *g, const char *sha256, struct error *err) {
    struct file_map map;
    ZSTD_DCtx *zstd = NULL;
    size_t room = ZSTD_DStreamOutSize(), left = 0;
    char *out = NULL;
    int r = store_map(g->store, sha256, &map, err);
    if (r < 0) return r;
    ZSTD_inBuffer in = {map.data, map.len, 0};
    if (!(zstd = ZSTD_createDCtx()) || !(out = mem_alloc(room))) r = error_set(err, E_NOMEM, "no memory to read rows");
    while (r == 0 && g->next < g->n) {
        ZSTD_outBuffer to = {out, room, 0};
        left = ZSTD_decompressStream(zstd, &to, &in);
        if (ZSTD_isError(left)) r = error_set(err, E_DATA_LOSS, "rows of object %s: zstd: %s", sha256, ZSTD_getErrorName(left));
        else r = take_text(g, span_of(out, to.pos), err);
        if (to.pos == 0 && in.pos == in.size) break;
    }
    mem_free(out);
    ZSTD_freeDCtx(zstd);
    file_map_close(&map);
    return r;
}

static int read_files(struct reading *g, const struct json *files, struct error *err) {
    uint64_t base = 0;
    for (size_t i = 0; i < json_size(files) && g->next < g->n; i++) {
        const struct json *file = json_at(files, i);
        uint64_t rows = (uint64_t)json_int(json_get(file, "rows"), 0);
        char sha256[SHA256_HEX_MAX];
        span_copy(sha256, sizeof sha256, json_string(json_get(file, "sha256")));
        if (g->picks[g->next].row < base + rows) {
            g->row = base;
            int r = read_file(g, sha256, err);
            if (r < 0) return r;
        }
        base += rows;
        if (g->next < g->n && g->picks[g->next].row < base) return error_set(err, E_DATA_LOSS, "object %s has fewer rows than its manifest says", sha256);
    }
    return g->next < g->n ? error_set(err, E_DATA_LOSS, "the manifest's files have fewer rows than it says") : 0;
}

int rows_read(struct store *store, struct span manifest, const struct rows_wanted *wanted, size_t bytes_max, void *arg, int (*on_row)(void *arg, struct span row), struct rows_given *given,
              struct error *err) {
    struct reading g = {.store = store, .wanted = wanted, .bytes_max = bytes_max};
    struct json *root = NULL, *single = NULL;
    uint64_t total = 0;
    struct buf list;
    arena_init(&g.arena, bytes_max + ROWS_LIMIT_MAX * 64); /* and where each lies, and what aligning costs */
    buf_init(&g.line, bytes_max);
    buf_init(&list, 64 * 1024);
    int r = json_parse(manifest, &root, err);
    const struct json *split = json_get(json_get(root, "splits"), wanted->held_out ? "held_out" : "train"), *files = json_get(split, wanted->pairs ? "pairs" : "samples");
    if (r == 0 && json_type(files) == JSON_TYPE_OBJECT) { /* pairs are one file */
        (void)buf_append_char(&list, '[');
        (void)json_write(&list, files);
        (void)buf_append_char(&list, ']');
        r = list.failed ? error_set(err, list.failed, "no memory for a manifest") : json_parse(buf_span(&list), &single, err);
        files = single;
    }
    if (r == 0 && json_type(files) != JSON_TYPE_ARRAY) r = error_set_param(err, E_NOT_FOUND, "kind", "this version has no %s in its split %s", wanted->pairs ? "pairs" : "samples", wanted->held_out ? "held_out" : "train");
    for (size_t i = 0; i < json_size(files); i++) total += (uint64_t)json_int(json_get(json_at(files, i), "rows"), 0);
    if (r == 0) r = pick(&g, total, err);
    if (r == 0 && g.n) r = read_files(&g, files, err);
    for (size_t i = 0; r == 0 && i < g.n; i++) r = on_row(arg, g.found[i]);
    if (r == 0) *given = (struct rows_given){total, wanted->offset < total && wanted->offset + g.n < total ? wanted->offset + g.n : 0};
    json_free(root);
    json_free(single);
    buf_fini(&list);
    buf_fini(&g.line);
    mem_free(g.picks);
    arena_fini(&g.arena);
    return r;
}
