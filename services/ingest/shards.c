#include "services/ingest/shards.h"

#include <zstd.h>

#include "base/alloc.h"
#include "base/json.h"

enum { WRITE_BYTES = 1 << 20, ZSTD_LEVEL = 3 };

/* ---- compressed rows ---- */

struct rows {
    struct store_writer *writer;
    ZSTD_CCtx *zstd;
    struct buf in, out;
    uint64_t count;
};

void rows_close(struct rows *r) {
    if (!r) return;
    store_writer_abort(r->writer);
    ZSTD_freeCCtx(r->zstd);
    buf_fini(&r->in);
    buf_fini(&r->out);
    mem_free(r);
}

int rows_open(struct store *store, struct rows **out, struct error *err) {
    struct rows *r = mem_zalloc(sizeof *r);
    if (!r) return error_set(err, E_NOMEM, "no memory");
    buf_init(&r->in, ROW_OUT_MAX + WRITE_BYTES);
    buf_init(&r->out, ZSTD_CStreamOutSize() * 2);
    r->zstd = ZSTD_createCCtx();
    int result = r->zstd ? 0 : error_set(err, E_NOMEM, "no memory for zstd");
    if (!result) {
        ZSTD_CCtx_setParameter(r->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL);
        ZSTD_CCtx_setParameter(r->zstd, ZSTD_c_checksumFlag, 1);
        result = store_writer_open(store, UINT64_MAX, &r->writer, err);
    }
    if (result) {
        rows_close(r);
        return result;
    }
    *out = r;
    return 0;
}

static int rows_flush(struct rows *r, bool end, struct error *err) {
    struct span in = buf_span(&r->in);
    ZSTD_inBuffer from = {in.data, in.len, 0};
    size_t left;
    do {
        buf_clear(&r->out);
        size_t room = ZSTD_CStreamOutSize();
        char *to = buf_reserve(&r->out, room);
        if (!to) return error_set(err, E_NOMEM, "no memory");
        ZSTD_outBuffer result = {to, room, 0};
        left = ZSTD_compressStream2(r->zstd, &result, &from, end ? ZSTD_e_end : ZSTD_e_continue);
        if (ZSTD_isError(left)) return error_set(err, E_INTERNAL, "zstd: %s", ZSTD_getErrorName(left));
        buf_commit(&r->out, result.pos);
        int w = store_write(r->writer, buf_span(&r->out), err);
        if (w) return w;
    } while (end ? left != 0 : from.pos < from.size);
    buf_clear(&r->in);
    return 0;
}

int rows_add(struct rows *r, struct span row, struct error *err) {
    buf_append_span(&r->in, row);
    buf_append_char(&r->in, '\n');
    if (r->in.failed) return error_set(err, r->in.failed, "a row is too large");
    r->count++;
    return r->in.len >= WRITE_BYTES ? rows_flush(r, false, err) : 0;
}

int rows_finish(struct rows **rows, struct shard_ref *ref, struct error *err) {
    struct rows *r = *rows;
    *rows = NULL;
    int result = rows_flush(r, true, err);
    if (!result) {
        struct store_writer *writer = r->writer;
        r->writer = NULL;
        result = store_writer_commit(writer, &ref->object, err);
        ref->count = r->count;
    }
    rows_close(r);
    return result;
}

/* ---- the split ---- */

static int list_add(struct shard_list *l, const struct shard_ref *ref, struct error *err) {
    if (l->n == SHARDS_MAX) return error_set(err, E_TOO_LARGE, "a split has more than %d shards", SHARDS_MAX);
    if (array_reserve(&l->items, &l->capacity, l->n + 1, sizeof *l->items)) return error_set(err, E_NOMEM, "no memory");
    l->items[l->n++] = *ref;
    return 0;
}

int split_open(struct split *s, struct store *store, bool wide, struct error *err) {
    *s = (struct split){.store = store, .wide = wide};
    buf_init(&s->tokens, SHARD_BYTES_MAX);
    buf_init(&s->index, WRITE_BYTES * 2);
    buf_init(&s->row, ROW_OUT_MAX);
    int r = store_writer_open(store, UINT64_MAX, &s->index_writer, err);
    if (!r) r = rows_open(store, &s->samples_rows, err);
    if (!r) r = rows_open(store, &s->pairs_rows, err);
    return r;
}

static int flush_tokens(struct split *s, struct error *err) {
    int r = 0;
    if (!s->tokens_writer) r = store_writer_open(s->store, SHARD_BYTES_MAX, &s->tokens_writer, err);
    if (!r) r = store_write(s->tokens_writer, buf_span(&s->tokens), err);
    buf_clear(&s->tokens);
    return r;
}

static int end_shard(struct split *s, struct error *err) {
    struct shard_ref ref = {.count = s->shard_tokens};
    int r = flush_tokens(s, err);
    if (!r) {
        struct store_writer *writer = s->tokens_writer;
        s->tokens_writer = NULL;
        r = store_writer_commit(writer, &ref.object, err);
    }
    if (!r) r = list_add(&s->tokens_shards, &ref, err);
    s->shard_tokens = 0;
    return r;
}

static int put_ids(struct split *s, const uint32_t *ids, size_t n, struct error *err) {
    size_t width = s->wide ? 4 : 2;
    while (n) {
        size_t room = SHARD_BYTES_MAX / width - s->shard_tokens;
        size_t take = n < room ? n : room;
        if (take > WRITE_BYTES / 4) take = WRITE_BYTES / 4;
        unsigned char *to = (unsigned char *)buf_reserve(&s->tokens, take * width);
        if (!to) return error_set(err, E_NOMEM, "no memory");
        for (size_t i = 0; i < take; i++, to += width) {
            uint32_t id = ids[i];
            to[0] = (unsigned char)id;
            to[1] = (unsigned char)(id >> 8);
            if (s->wide) {
                to[2] = (unsigned char)(id >> 16);
                to[3] = (unsigned char)(id >> 24);
            }
        }
        buf_commit(&s->tokens, take * width);
        s->shard_tokens += take;
        s->tokens_count += take;
        ids += take;
        n -= take;
        int r = 0;
        if (s->shard_tokens * width == SHARD_BYTES_MAX) r = end_shard(s, err);
        else if (s->tokens.len >= WRITE_BYTES) r = flush_tokens(s, err);
        if (r) return r;
    }
    return 0;
}

int split_add(struct split *s, const uint32_t *ids, size_t n, uint32_t end_of_text, struct span id, struct span text, struct span title, struct span source, struct span language,
              struct error *err) {
    unsigned char start[8];
    for (int i = 0; i < 8; i++) start[i] = (unsigned char)(s->tokens_count >> (8 * i));
    buf_append(&s->index, start, sizeof start);
    int r = s->index.failed;
    if (!r && s->index.len >= WRITE_BYTES) {
        r = store_write(s->index_writer, buf_span(&s->index), err);
        buf_clear(&s->index);
    }
    if (!r) r = put_ids(s, ids, n, err);
    if (!r) r = put_ids(s, &end_of_text, 1, err);
    if (r) return r;
    struct json_out w;
    buf_clear(&s->row);
    json_begin(&w, &s->row);
    json_object(&w);
    json_span(&w, "id", id);
    json_span(&w, "text", text);
    json_span(&w, "title", title);
    json_span(&w, "source", source);
    json_span(&w, "language", language);
    json_object_end(&w);
    if (s->row.failed) return error_set(err, s->row.failed, "a sample is too large");
    if (!s->samples_rows) r = rows_open(s->store, &s->samples_rows, err);
    if (!r) r = rows_add(s->samples_rows, buf_span(&s->row), err);
    s->samples_bytes += s->row.len;
    s->documents++;
    s->text_bytes += text.len;
    if (!r && s->samples_bytes >= SAMPLES_BYTES_MAX) {
        struct shard_ref ref;
        r = rows_finish(&s->samples_rows, &ref, err);
        if (!r) r = list_add(&s->samples_shards, &ref, err);
        s->samples_bytes = 0;
    }
    return r;
}

int split_add_pair(struct split *s, const struct span *turns, int n, struct error *err) {
    struct json_out w;
    buf_clear(&s->row);
    json_begin(&w, &s->row);
    json_object(&w);
    json_key(&w, "messages");
    json_array(&w);
    for (int i = 0; i < n; i++) {
        json_object(&w);
        json_str(&w, "role", i % 2 ? "assistant" : "user");
        json_span(&w, "content", turns[i]);
        json_object_end(&w);
    }
    json_array_end(&w);
    json_object_end(&w);
    if (s->row.failed) return error_set(err, s->row.failed, "a pair is too large");
    s->pairs_count++;
    return rows_add(s->pairs_rows, buf_span(&s->row), err);
}

int split_finish(struct split *s, struct error *err) {
    int r = 0;
    if (s->shard_tokens || s->tokens.len || !s->tokens_shards.n) r = end_shard(s, err);
    if (!r && s->index.len) r = store_write(s->index_writer, buf_span(&s->index), err);
    if (!r) {
        struct store_writer *writer = s->index_writer;
        s->index_writer = NULL;
        s->index_ref.count = s->documents;
        r = store_writer_commit(writer, &s->index_ref.object, err);
    }
    if (!r && s->samples_rows) {
        struct shard_ref ref;
        r = rows_finish(&s->samples_rows, &ref, err);
        if (!r) r = list_add(&s->samples_shards, &ref, err);
    }
    if (!r) r = rows_finish(&s->pairs_rows, &s->pairs_ref, err);
    return r;
}

void split_close(struct split *s) {
    store_writer_abort(s->tokens_writer);
    store_writer_abort(s->index_writer);
    rows_close(s->samples_rows);
    rows_close(s->pairs_rows);
    buf_fini(&s->tokens);
    buf_fini(&s->index);
    buf_fini(&s->row);
    mem_free(s->tokens_shards.items);
    mem_free(s->samples_shards.items);
    *s = (struct split){0};
}
