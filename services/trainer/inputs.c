#include "services/trainer/inputs.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

#include "base/alloc.h"

enum { MANIFEST_MAX = 64 << 20, PIECE = 1 << 20 };

/* ---- the manifest ---- */

int inputs_manifest(struct store *store, const Genloop__V1__Dataset *d, struct json **manifest, struct error *err) {
    struct buf text;
    struct json *m = NULL;
    if (d->state != GENLOOP__V1__DATASET_STATE__DATASET_STATE_READY || !d->manifest)
        return error_set(err, E_STATE, "dataset %s@%u is %s", d->name, d->version, d->state == GENLOOP__V1__DATASET_STATE__DATASET_STATE_BUILDING ? "still being built" : d->state == GENLOOP__V1__DATASET_STATE__DATASET_STATE_REMOVED ? "removed" : "not ready");
    buf_init(&text, MANIFEST_MAX);
    int r = store_get(store, d->manifest->sha256, &text, err);
    if (!r && (json_parse(buf_span(&text), &m, err) || json_type(json_get(m, "splits")) != JSON_TYPE_OBJECT)) r = error_set(err, E_DATA_LOSS, "the manifest of dataset %s@%u makes no sense", d->name, d->version);
    if (!r && json_int(json_get(m, "format"), 0) != 1) r = error_set(err, E_UNSUPPORTED, "the manifest of dataset %s@%u has a format that this release does not read", d->name, d->version);
    buf_fini(&text);
    if (r) json_free(m);
    else *manifest = m;
    return r;
}

static const struct json *part(const struct json *manifest, const char *split, enum input kind) {
    static const char *const names[] = {"tokens", "samples", "pairs"};
    return json_get(json_get(json_get(manifest, "splits"), split), names[kind]);
}

/* Its objects: an array of them, or one that stands alone. */
static size_t part_size(const struct json *p) { return json_type(p) == JSON_TYPE_ARRAY ? json_size(p) : json_type(p) == JSON_TYPE_OBJECT ? 1 : 0; }
static const struct json *part_at(const struct json *p, size_t i) { return json_type(p) == JSON_TYPE_ARRAY ? json_at(p, i) : p; }

uint64_t inputs_count(const struct json *manifest, const char *split, enum input kind) {
    const struct json *p = part(manifest, split, kind);
    uint64_t n = 0;
    for (size_t i = 0; i < part_size(p); i++) {
        int64_t count = json_int(json_get(part_at(p, i), kind == INPUT_TOKENS ? "count" : "rows"), 0);
        n += count > 0 ? (uint64_t)count : 0;
    }
    return n;
}

static int digest_of(const struct json *object, char sha256[SHA256_HEX_MAX], struct error *err) {
    struct span s = json_string(json_get(object, "sha256"));
    if (s.len != SHA256_HEX_MAX - 1) return error_set(err, E_DATA_LOSS, "the manifest of a dataset names an object without its digest");
    span_copy(sha256, SHA256_HEX_MAX, s);
    return 0;
}

/* ---- files ---- */

struct out {
    int fd;
    const char *path;
    uint64_t written;
};

static int out_write(struct out *o, const void *data, size_t len, struct error *err) {
    const char *at = data;
    o->written += len;
    while (len) {
        ssize_t n = write(o->fd, at, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return error_errno(err, errno, "cannot write %s", o->path);
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

static int append_plain(struct out *o, const struct file_map *map, struct error *err) {
    int r = 0;
    for (size_t at = 0; !r && at < map->len; at += PIECE) r = out_write(o, (const char *)map->data + at, map->len - at < PIECE ? map->len - at : PIECE, err);
    return r;
}

static int append_rows(struct out *o, const struct file_map *map, struct error *err) {
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    void *piece = mem_alloc(PIECE);
    ZSTD_inBuffer in = {map->data, map->len, 0};
    size_t left = 0;
    int r = zstd && piece ? 0 : error_set(err, E_NOMEM, "no memory to unpack rows");
    while (!r && in.pos < in.size) {
        ZSTD_outBuffer out = {piece, PIECE, 0};
        left = ZSTD_decompressStream(zstd, &out, &in);
        if (ZSTD_isError(left)) r = error_set(err, E_DATA_LOSS, "rows of a dataset cannot be unpacked: zstd: %s", ZSTD_getErrorName(left));
        else if (o->written + out.pos > INPUTS_ROWS_MAX) r = error_set(err, E_TOO_LARGE, "the rows of this dataset have more than the %d MiB that a job reads", INPUTS_ROWS_MAX >> 20);
        else r = out_write(o, piece, out.pos, err);
    }
    /* What is still inside the decompressor comes out without input. */
    while (!r && left) {
        ZSTD_outBuffer out = {piece, PIECE, 0};
        left = ZSTD_decompressStream(zstd, &out, &in);
        if (ZSTD_isError(left) || (left && !out.pos)) r = error_set(err, E_DATA_LOSS, "rows of a dataset end too early");
        else r = out_write(o, piece, out.pos, err);
    }
    mem_free(piece);
    ZSTD_freeDCtx(zstd);
    return r;
}

int inputs_file(struct store *store, const struct json *manifest, const char *split, enum input kind, const char *path, struct error *err) {
    const struct json *p = part(manifest, split, kind);
    char sha256[SHA256_HEX_MAX];
    if (unlink(path) && errno != ENOENT) return error_errno(err, errno, "cannot replace %s", path);
    if (kind == INPUT_TOKENS && part_size(p) == 1) {
        int r = digest_of(part_at(p, 0), sha256, err);
        return r ? r : store_link(store, sha256, path, err);
    }
    struct out o = {.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), .path = path};
    int r = o.fd < 0 ? error_errno(err, errno, "cannot make %s", path) : 0;
    for (size_t i = 0; !r && i < part_size(p); i++) {
        struct file_map map = {0};
        r = digest_of(part_at(p, i), sha256, err);
        if (!r) r = store_map(store, sha256, &map, err);
        if (!r && map.len) r = kind == INPUT_TOKENS ? append_plain(&o, &map, err) : append_rows(&o, &map, err);
        file_map_close(&map);
    }
    if (o.fd >= 0) close(o.fd);
    return r;
}

void inputs_tokenizer_sha256(const struct json *manifest, char sha256[SHA256_HEX_MAX]) { span_copy(sha256, SHA256_HEX_MAX, json_string(json_get(json_get(manifest, "tokenizer"), "sha256"))); }

int inputs_tokenizer(struct store *store, const struct json *manifest, const char *dir, struct error *err) {
    static const char *const names[][2] = {{"tokenizer", "tokenizer.json"}, {"tokenizer_config", "tokenizer_config.json"}};
    char sha256[SHA256_HEX_MAX], path[4096];
    if (!json_get(manifest, "tokenizer")) return error_set(err, E_NOT_FOUND, "the dataset has no tokenizer");
    int r = dir_remove(dir, err);
    if (!r) r = dir_make(dir, err);
    for (size_t i = 0; !r && i < 2; i++) {
        if (!json_get(manifest, names[i][0])) continue;
        if (snprintf(path, sizeof path, "%s/%s", dir, names[i][1]) >= (int)sizeof path) return error_set(err, E_INVALID, "the path %s is too long", dir);
        r = digest_of(json_get(manifest, names[i][0]), sha256, err);
        if (!r) r = store_link(store, sha256, path, err);
    }
    return r;
}

int inputs_model(struct store *store, const Genloop__V1__ModelVersion *v, const char *dir, struct error *err) {
    int r = dir_remove(dir, err);
    return r ? r : store_get_dir(store, v->directory->sha256, dir, err);
}

int inputs_model_file(struct store *store, const Genloop__V1__ModelVersion *v, const char *name, struct buf *out, char sha256[SHA256_HEX_MAX], struct error *err) {
    struct buf text;
    struct json *manifest = NULL;
    char digest[SHA256_HEX_MAX] = "";
    buf_init(&text, MANIFEST_MAX);
    int r = store_get(store, v->directory->sha256, &text, err);
    if (!r) r = json_parse(buf_span(&text), &manifest, err);
    if (!r) span_copy(digest, sizeof digest, json_string(json_get(json_get(json_get(manifest, "files"), name), "sha256")));
    if (!r && !digest[0]) r = error_set(err, E_NOT_FOUND, "model %s@%u has no %s", v->name, v->version, name);
    if (!r && out) r = store_get(store, digest, out, err);
    if (!r && sha256) memcpy(sha256, digest, sizeof digest);
    json_free(manifest);
    buf_fini(&text);
    return r;
}
